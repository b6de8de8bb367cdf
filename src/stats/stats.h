/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stats/stats.h - how a module keeps its numbers.
 *
 * A module has patinox/stats/<module>.def with rows
 *     PNX_STAT(name, KIND, UNIT, LEVEL, "help")          KIND: COUNTER or GAUGE
 *     PNX_STAT_HISTOGRAM(name, UNIT, LEVEL, "help")
 * UNIT is NONE, SECONDS or BYTES, LEVEL is INFO, DIAG or DEBUG.  Values are added with pnx_owner_add() by one
 * writer at a time (the holder of the object's lock, or the owning thread), or with pnx_fetch_add(relaxed)
 * where writers race.  Durations are kept in nanoseconds; the exporter converts.  Gauges are signed.
 *
 * The shortest way, once per module (here "pool"), in its private header or its one .c file:
 *
 *     #define PNX_GROUP pool
 *     #define PNX_GROUP_DEF <patinox/stats/pool.def>
 *     #include "stats/declare_group.inc"
 *
 * This defines
 *     struct pnx_pool_values      a struct pnx_a64 per PNX_STAT row, by name: also an array of them
 *     struct pnx_pool_histograms  a struct pnx_histogram per PNX_STAT_HISTOGRAM row, by name
 *     pnx__pool_stat_group()      the struct pnx_stat_group for both; the label's key is "pool"
 *     pnx__pool_stats_init(block, name, values, histograms)   fills a zeroed block; histograms may be NULL
 *                                 only when the table has none
 * so that the object reads
 *     struct pnx_pool { ... struct pnx_stats_block stats; struct pnx_pool_values values; ... };
 *     pnx__pool_stats_init(&pool->stats, pool->name, &pool->values, NULL);
 *     pnx__stats_add(opts.stats, &pool->stats);
 *     pnx_owner_add(&pool->values.acquires, 1);
 * and pnx_pool_read_stats() is  pnx__stats_read(&pool->stats, (uint64_t *)words)  into a public struct of uint64_t
 * that is made from the same rows.  A group's name is used by one table in the whole program.
 */
#ifndef PNX_SRC_STATS_STATS_H
#define PNX_SRC_STATS_STATS_H

#include "base/atomic.h"
#include "base/list.h"

#include <patinox/stats.h>

enum pnx_stat_kind { PNX_STAT_COUNTER, PNX_STAT_GAUGE };
enum pnx_stat_unit { PNX_UNIT_NONE, PNX_UNIT_SECONDS, PNX_UNIT_BYTES };
enum pnx_stat_level { PNX_LEVEL_INFO, PNX_LEVEL_DIAG, PNX_LEVEL_DEBUG };

struct pnx_stat_field {
    const char *name; /* "acquires": exported as patinox_<group>_acquires_total */
    enum pnx_stat_kind kind;
    enum pnx_stat_unit unit;
    enum pnx_stat_level level;
    const char *help;
};

/*
 * A log-linear histogram: 2^PNX_HISTOGRAM_P buckets an octave (6.25 % wide), 0 to 2^40 (18 minutes in ns); the
 * last bucket also takes what is larger.  Two plain adds a record: one bucket, and the sum.
 */
#define PNX_HISTOGRAM_P        4
#define PNX_HISTOGRAM_MAX_LOG2 40
#define PNX_HISTOGRAM_BUCKETS  ((PNX_HISTOGRAM_MAX_LOG2 - PNX_HISTOGRAM_P + 1) << PNX_HISTOGRAM_P)
struct pnx_histogram {
    struct pnx_a64 sum;
    struct pnx_a64 bucket[PNX_HISTOGRAM_BUCKETS];
};

/* Records one value (negative counts as 0); one writer at a time. */
void pnx__histogram_record(struct pnx_histogram *histogram, int64_t value);
/* The index of a value's bucket, and a bucket's exclusive upper bound. */
uint32_t pnx__histogram_index(uint64_t value);
uint64_t pnx__histogram_bound(uint32_t index);

struct pnx_stat_group {
    const char *name;  /* "pool" */
    const char *label; /* key of the label that carries the object's name: "pool" */
    const struct pnx_stat_field *fields;
    size_t n_fields;
    const struct pnx_stat_field *histograms; /* kind unused */
    size_t n_histograms;
};

/*
 * One object's numbers.  The owner fills group, name, values and histograms (arrays in its own memory)
 * before pnx__stats_add() and may not change them after.  Guarded by the set's lock: link.
 */
struct pnx_stats_block {
    struct pnx_link link;
    struct pnx_stats *set; /* holds a reference; pnx_stats_off() when off */
    const struct pnx_stat_group *group;
    const char *name; /* the label's value, owned by the object */
    struct pnx_a64 *values;
    struct pnx_histogram *histograms;
    void (*refresh)(const struct pnx_stats_block
                    *block);       /* brings values up to date; NULL: they are.  Under
                                                       the set's lock: it may take only one
                                                       that ranks after it */
    struct pnx_a32 health;         /* enum pnx_health_status */
    struct pnx_aptr health_reason; /* static text; meaningful while health is not OK */
    uint32_t number;    /* tells live blocks of one group and name apart; the set's lock */
    uint32_t name_hash; /* the set's lock */
};

/* Joins a set (NULL: the default one; pnx_stats_off(): none).  Cannot fail. */
void pnx__stats_add(struct pnx_stats *set, struct pnx_stats_block *block);
/* Leaves it.  A block that never joined, or is zeroed, is fine. */
void pnx__stats_remove(struct pnx_stats_block *block);

/* Copies the values as they are now: group->n_fields words, in the order of the table. */
void pnx__stats_read(const struct pnx_stats_block *block, uint64_t *ret_values);

/* Publishes the component's state; reason is static, "" when OK. */
void pnx__health_set(
        struct pnx_stats_block *block, enum pnx_health_status status, const char *reason);

/*
 * Tells the monitors of the block's set.  No lock may be held.  The size and, when zero, the time are filled
 * in here; costs one load when nobody listens.
 */
void pnx__event(const struct pnx_stats_block *block, enum pnx_event_type type, const char *object,
        int code, const char *cause, int64_t value, pnx_ns now);

/* One row of a .def file as a struct pnx_stat_field; used by stats/declare_group.inc. */
#define PNX_STAT_FIELD(stat_name, stat_kind, stat_unit, stat_level, text) \
    {.name = #stat_name, \
            .kind = PNX_STAT_##stat_kind, \
            .unit = PNX_UNIT_##stat_unit, \
            .level = PNX_LEVEL_##stat_level, \
            .help = (text)},

#endif
