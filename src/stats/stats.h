/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stats/stats.h - how a module keeps its numbers.
 *
 * A module has patinox/stats/<module>.def with rows
 *     PNX_STAT(name, KIND, UNIT, LEVEL, "help")          KIND: COUNTER or GAUGE
 *     PNX_STAT_HISTOGRAM(name, UNIT, LEVEL, "help")
 * and embeds in its object one struct pnx_stats_block with one struct pnx_a64 per PNX_STAT row.  Values
 * are added with pnx_owner_add() by one writer at a time (the holder of the object's lock, or the owning
 * thread), or with pnx_fetch_add(relaxed) where writers race.  Durations are kept in nanoseconds; the
 * exporter converts.
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
 * A log-linear histogram: 2^PNX_HISTOGRAM_P buckets an octave (6.25 % wide), 1 ns to 2^40 ns.  Two plain
 * adds a record: one bucket, and the sum.
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
    struct pnx_a32 health;         /* enum pnx_health_status */
    struct pnx_aptr health_reason; /* static text */
};

/* Joins a set (NULL: the default one; pnx_stats_off(): none).  Cannot fail. */
void pnx__stats_add(struct pnx_stats *set, struct pnx_stats_block *block);
/* Leaves it.  A block that never joined, or is zeroed, is fine. */
void pnx__stats_remove(struct pnx_stats_block *block);

/* Publishes the component's state; reason is static, "" when OK. */
void pnx__health_set(
        struct pnx_stats_block *block, enum pnx_health_status status, const char *reason);

/*
 * Tells the monitors of the block's set.  No lock may be held.  The size and, when zero, the time are filled
 * in here; costs one load when nobody listens.
 */
void pnx__event(const struct pnx_stats_block *block, enum pnx_event_type type, const char *object,
        int code, const char *cause, int64_t value, pnx_ns now);

/* Rows of a .def file as an array of struct pnx_stat_field; see src/pool/pool_stats.c for the pattern. */
#define PNX_STAT_FIELD(stat_name, stat_kind, stat_unit, stat_level, text) \
    {.name = #stat_name, \
            .kind = PNX_STAT_##stat_kind, \
            .unit = PNX_UNIT_##stat_unit, \
            .level = PNX_LEVEL_##stat_level, \
            .help = (text)},

#endif
