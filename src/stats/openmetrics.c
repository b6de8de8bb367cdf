/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stats/openmetrics.c - a set as OpenMetrics 1.0 text.
 *
 * Two steps.  First the set is copied as it is at one moment: count under the lock, allocate without it,
 * copy under the lock, and again if blocks were added between.  Then the copy is written, with no lock held.
 * The set's list is in the order of the output (stats/set.c), so families are never interleaved.
 *
 *   P1  Nothing is allocated and nothing is written while a lock is held.
 *   P2  In one text, a histogram's buckets are cumulative and the +Inf bucket equals its _count.
 *   P3  Numbers are exact: integers, or nanoseconds as decimal fractions of a second.
 */
#include "base/env_system.h"
#include "stats/set.h"
#include "stats/utf8.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/*
 * Bounds of exported buckets: 2^k - 1 for N_BOUNDS successive k.  Values are whole, so "at most 2^k - 1" is
 * exactly "below 2^k", where our own buckets have an edge.
 */
#define N_BOUNDS        25
#define HISTOGRAM_WORDS (N_BOUNDS + 2) /* cumulative counts, the total, the sum */
#define CHUNK           ((size_t)16384)
#define ROOM            64 /* more than any single number or suffix needs */

static const uint32_t first_bound[] = {
        [PNX_UNIT_NONE] = 0,     /* 0, 1, 3 ... 16,777,215 */
        [PNX_UNIT_SECONDS] = 10, /* 1 us ... 17 s */
        [PNX_UNIT_BYTES] = 6,    /* 63 ... 1 GiB */
};
_Static_assert(10 + N_BOUNDS <= PNX_HISTOGRAM_MAX_LOG2, "each bound is an edge of a bucket");

/* One block, copied. */
struct row {
    const struct pnx_stat_group *group;
    const char *name;
    const uint64_t *words; /* the fields, then HISTOGRAM_WORDS for each histogram */
    uint32_t number;
    uint32_t health;
};

struct sizes {
    size_t rows;
    size_t words;
    size_t bytes; /* of names */
};

/* Owner: the call of pnx_stats_openmetrics(). */
struct copy {
    struct sizes room;
    struct sizes used;
    struct row *rows;
    uint64_t *words;
    char *names;
};

static struct pnx_stats_block *block_of(struct pnx_link *link) {
    return PNX_CONTAINER(link, struct pnx_stats_block, link);
}

static struct sizes size_of(const struct pnx_stats_block *block) {
    return (struct sizes){
            .rows = 1,
            .words = block->group->n_fields + block->group->n_histograms * HISTOGRAM_WORDS,
            .bytes = (block->name ? strlen(block->name) : 0) + 1,
    };
}

static struct sizes measure(struct pnx_stats *set) {
    struct sizes need = {0};
    pnx__mutex_lock(&set->lock);
    PNX_LIST_EACH (link, after, &set->blocks) {
        struct sizes one = size_of(block_of(link));
        need.rows += one.rows;
        need.words += one.words;
        need.bytes += one.bytes;
    }
    pnx__mutex_unlock(&set->lock);
    return need;
}

static void copy_histogram(
        const struct pnx_histogram *histogram, enum pnx_stat_unit unit, uint64_t *words) {
    uint64_t total = 0;
    uint32_t bucket = 0;
    for (uint32_t i = 0; i <= N_BOUNDS; i++) {
        uint32_t end = i < N_BOUNDS ? pnx__histogram_index(UINT64_C(1) << (first_bound[unit] + i))
                                    : PNX_HISTOGRAM_BUCKETS;
        for (; bucket < end; bucket++)
            total += pnx_load(&histogram->bucket[bucket], PNX_RELAXED,
                    "openmetrics.bucket"); /* each by itself */
        words[i] = total;
    }
    words[N_BOUNDS + 1] = pnx_load(&histogram->sum, PNX_RELAXED, "openmetrics.sum"); /* by itself */
}

static void copy_block_locked(struct copy *copy, const struct pnx_stats_block *block) {
    const struct pnx_stat_group *group = block->group;
    uint64_t *words = copy->words + copy->used.words;
    char *name = copy->names + copy->used.bytes;
    struct sizes size = size_of(block);
    memcpy(name, block->name ? block->name : "", size.bytes);
    if (block->refresh)
        block->refresh(block);
    pnx__stats_read(block, words);
    for (size_t i = 0; i < group->n_histograms; i++)
        copy_histogram(&block->histograms[i], group->histograms[i].unit,
                words + group->n_fields + i * HISTOGRAM_WORDS);
    copy->rows[copy->used.rows] = (struct row){
            .group = group,
            .name = name,
            .words = words,
            .number = block->number,
            .health = pnx_load(&block->health, PNX_RELAXED,
                    "openmetrics.health"), /* the reason is not shown */
    };
    copy->used.rows += size.rows;
    copy->used.words += size.words;
    copy->used.bytes += size.bytes;
}

/* Returns false when the set has outgrown the room. */
static bool copy_set(struct pnx_stats *set, struct copy *copy) {
    bool fits = true;
    copy->used = (struct sizes){0};
    pnx__mutex_lock(&set->lock);
    PNX_LIST_EACH (link, after, &set->blocks) {
        struct sizes one = size_of(block_of(link));
        fits = copy->room.rows - copy->used.rows >= one.rows &&
               copy->room.words - copy->used.words >= one.words &&
               copy->room.bytes - copy->used.bytes >= one.bytes;
        if (!fits)
            break;
        copy_block_locked(copy, block_of(link));
    }
    pnx__mutex_unlock(&set->lock);
    return fits;
}

static void copy_free(const struct pnx_env *env, struct copy *copy) {
    pnx__free(env, copy->rows, copy->room.rows, sizeof(*copy->rows));
    pnx__free(env, copy->words, copy->room.words, sizeof(*copy->words));
    pnx__free(env, copy->names, copy->room.bytes, 1);
    *copy = (struct copy){0};
}

static int take(struct pnx_stats *set, const struct pnx_env *env, struct copy *ret_copy) {
    /* More room each time, so that a storm of new objects is outrun. */
    for (size_t more = 8;; more *= 2) {
        struct copy copy = {.room = measure(set)};
        copy.room.rows += copy.room.rows / 8 + more;
        copy.room.words += copy.room.words / 8 + more * 64;
        copy.room.bytes += copy.room.bytes / 8 + more * 64;
        copy.rows = pnx__alloc(env, copy.room.rows, sizeof(*copy.rows));
        copy.words = pnx__alloc(env, copy.room.words, sizeof(*copy.words));
        copy.names = pnx__alloc(env, copy.room.bytes, 1);
        if (!copy.rows || !copy.words || !copy.names) {
            copy_free(env, &copy);
            return -ENOMEM;
        }
        if (copy_set(set, &copy)) {
            *ret_copy = copy;
            return 0;
        }
        copy_free(env, &copy);
    }
}

/* ---- writing ---- */

struct out {
    pnx_write_fn *write;
    void *ctx;
    char *buf; /* CHUNK bytes */
    size_t n;
    int rc; /* the first error; nothing is written after it */
};

static void flush(struct out *out) {
    if (out->rc == 0 && out->n > 0) {
        int rc = out->write(out->ctx, out->buf, out->n);
        out->rc = rc < 0 ? rc : 0;
    }
    out->n = 0;
}

static void put(struct out *out, const char *text, size_t n) {
    while (n > 0) {
        if (out->n == CHUNK)
            flush(out);
        size_t part = n < CHUNK - out->n ? n : CHUNK - out->n;
        memcpy(out->buf + out->n, text, part);
        out->n += part;
        text += part;
        n -= part;
    }
}

static void put_text(struct out *out, const char *text) {
    put(out, text, strlen(text));
}

/* For label values and help: valid UTF-8 with \, " and line feed escaped. */
static void put_escaped(struct out *out, const char *text) {
    for (;;) {
        const char *from = text;
        uint32_t c = pnx__utf8_next(&text);
        if (c == 0)
            return;
        if (c == '\n')
            put(out, "\\n", 2);
        else if (c == '\\')
            put(out, "\\\\", 2);
        else if (c == '"')
            put(out, "\\\"", 2);
        else if (c == PNX_UTF8_REPLACEMENT)
            put(out, "\xEF\xBF\xBD", 3);
        else
            put(out, from, (size_t)(text - from));
    }
}

/* An amount in the base unit; whole numbers as such, unless a float is asked for. */
static void put_amount(struct out *out, bool negative, uint64_t amount, enum pnx_stat_unit unit) {
    char buf[ROOM];
    const char *sign = negative ? "-" : "";
    if (unit != PNX_UNIT_SECONDS) {
        snprintf(buf, sizeof(buf), "%s%" PRIu64, sign, amount);
        put_text(out, buf);
        return;
    }
    int n = snprintf(buf, sizeof(buf), "%s%" PRIu64 ".%09" PRIu64, sign, amount / (uint64_t)PNX_SEC,
            amount % (uint64_t)PNX_SEC);
    while (buf[n - 1] == '0' && buf[n - 2] != '.')
        n--;
    put(out, buf, (size_t)n);
}

static const char *unit_suffix(enum pnx_stat_unit unit) {
    return unit == PNX_UNIT_SECONDS ? "_seconds" : unit == PNX_UNIT_BYTES ? "_bytes" : "";
}

static void put_family(struct out *out, const struct pnx_stat_group *group,
        const struct pnx_stat_field *field, const char *suffix) {
    put_text(out, "patinox_");
    put_text(out, group->name);
    put_text(out, "_");
    put_text(out, field->name);
    put_text(out, unit_suffix(field->unit));
    put_text(out, suffix);
}

static void put_head(struct out *out, const struct pnx_stat_group *group,
        const struct pnx_stat_field *field, const char *type) {
    put_text(out, "# TYPE ");
    put_family(out, group, field, " ");
    put_text(out, type);
    if (field->unit != PNX_UNIT_NONE) {
        put_text(out, "\n# UNIT ");
        put_family(out, group, field, " ");
        put_text(out, field->unit == PNX_UNIT_SECONDS ? "seconds" : "bytes");
    }
    put_text(out, "\n# HELP ");
    put_family(out, group, field, " ");
    put_escaped(out, field->help);
    put_text(out, "\n");
}

/* Leaves the brace open for further labels. */
static void put_labels(struct out *out, const char *key, const struct row *row) {
    char buf[ROOM];
    put_text(out, "{");
    put_text(out, key);
    put_text(out, "=\"");
    put_escaped(out, row->name);
    snprintf(buf, sizeof(buf), "\",number=\"%" PRIu32 "\"", row->number);
    put_text(out, buf);
}

static void put_values(struct out *out, const struct row *rows, size_t n, size_t index) {
    const struct pnx_stat_group *group = rows[0].group;
    const struct pnx_stat_field *field = &group->fields[index];
    bool counter = field->kind == PNX_STAT_COUNTER;
    put_head(out, group, field, counter ? "counter" : "gauge");
    for (size_t i = 0; i < n; i++) {
        uint64_t value = rows[i].words[index];
        bool negative = !counter && (int64_t)value < 0;
        put_family(out, group, field, counter ? "_total" : "");
        put_labels(out, group->label, &rows[i]);
        put_text(out, "} ");
        put_amount(out, negative, negative ? 0 - value : value, field->unit);
        put_text(out, "\n");
    }
}

static void put_le(struct out *out, uint64_t bound, enum pnx_stat_unit unit) {
    put_text(out, ",le=\"");
    put_amount(out, false, bound, unit);
    put_text(out, unit == PNX_UNIT_SECONDS ? "\"} " : ".0\"} "); /* le is a float */
}

static void put_histogram(struct out *out, const struct row *row, size_t index) {
    const struct pnx_stat_group *group = row->group;
    const struct pnx_stat_field *field = &group->histograms[index];
    const uint64_t *words = row->words + group->n_fields + index * HISTOGRAM_WORDS;
    for (uint32_t i = 0; i <= N_BOUNDS; i++) {
        put_family(out, group, field, "_bucket");
        put_labels(out, group->label, row);
        if (i < N_BOUNDS)
            put_le(out, (UINT64_C(1) << (first_bound[field->unit] + i)) - 1, field->unit);
        else
            put_text(out, ",le=\"+Inf\"} ");
        put_amount(out, false, words[i], PNX_UNIT_NONE);
        put_text(out, "\n");
    }
    put_family(out, group, field, "_count");
    put_labels(out, group->label, row);
    put_text(out, "} ");
    put_amount(out, false, words[N_BOUNDS], PNX_UNIT_NONE);
    put_text(out, "\n");
    put_family(out, group, field, "_sum");
    put_labels(out, group->label, row);
    put_text(out, "} ");
    put_amount(out, false, words[N_BOUNDS + 1], field->unit);
    put_text(out, "\n");
}

static void put_group(struct out *out, const struct row *rows, size_t n) {
    const struct pnx_stat_group *group = rows[0].group;
    for (size_t i = 0; i < group->n_fields && out->rc == 0; i++)
        put_values(out, rows, n, i);
    for (size_t i = 0; i < group->n_histograms && out->rc == 0; i++) {
        put_head(out, group, &group->histograms[i], "histogram");
        for (size_t k = 0; k < n && out->rc == 0; k++)
            put_histogram(out, &rows[k], i);
    }
}

static void put_health(struct out *out, const struct row *rows, size_t n) {
    if (n == 0)
        return;
    put_text(out, "# TYPE patinox_component_health gauge\n"
                  "# HELP patinox_component_health 0 serves, 1 degraded, 2 cannot serve\n");
    for (size_t i = 0; i < n; i++) {
        put_text(out, "patinox_component_health");
        put_labels(out, "name", &rows[i]);
        put_text(out, ",kind=\"");
        put_escaped(out, rows[i].group->name);
        put_text(out, "\"} ");
        put_amount(out, false, rows[i].health, PNX_UNIT_NONE);
        put_text(out, "\n");
    }
}

static bool same_group(const struct row *a, const struct row *b) {
    return a->group == b->group || strcmp(a->group->name, b->group->name) == 0;
}

static int write_all(struct out *out, const struct copy *copy) {
    pnx__mutex_assert_none_held();
    size_t n = copy->used.rows;
    for (size_t i = 0; i < n && out->rc == 0;) {
        size_t end = i + 1;
        while (end < n && same_group(&copy->rows[i], &copy->rows[end]))
            end++;
        put_group(out, copy->rows + i, end - i);
        i = end;
    }
    put_health(out, copy->rows, n);
    put_text(out, "# EOF\n");
    flush(out);
    return out->rc;
}

int pnx_stats_openmetrics(struct pnx_stats *stats, pnx_write_fn *write, void *ctx) {
    if (!write)
        return -EINVAL;
    struct pnx_stats *set = pnx__stats_resolve(stats);
    /* A copy: write might release the set. */
    const struct pnx_env env = *(set ? pnx__stats_env(set) : pnx__env_system());
    struct copy copy = {0};
    int rc = set ? take(set, &env, &copy) : 0;
    if (rc)
        return rc;
    struct out out = {.write = write, .ctx = ctx, .buf = pnx__alloc(&env, CHUNK, 1)};
    rc = out.buf ? write_all(&out, &copy) : -ENOMEM;
    pnx__free(&env, out.buf, CHUNK, 1);
    copy_free(&env, &copy);
    return rc;
}
