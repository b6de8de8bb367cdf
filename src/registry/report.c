/* SPDX-License-Identifier: Apache-2.0 */
/*
 * registry/report.c - looking at all rows: one by one, and as a report in groups.
 *
 * Both first take down which rows there are, under the shards' locks and into memory that was got before, and
 * then copy each row when its turn comes; a row that has gone meanwhile is left out.
 *
 *   P1  A row that is there during the whole call is seen exactly once.
 *   P2  visit and write run with no lock held.
 */
#include "base/env.h"
#include "os/backtrace.h"
#include "registry/ledger.h"
#include "registry/out.h"
#include "registry/sort.h"
#include "registry/suppress.h"
#include "registry/trace.h"

#include <patinox/registry.h>

#include <inttypes.h>
#include <string.h>

#define SLACK 64 /* rows that may be added while memory is being got */

struct seen {
    uint64_t serial;
    pnx_resource_id id;
};

/* The rows that were there, oldest first once sorted. */
struct list {
    struct seen *seen;
    size_t cap;
    size_t n; /* how many there were; more than cap: the list is not complete */
};

static void note_row(void *ctx, struct pnx_row *row, uint64_t word) {
    struct list *list = ctx;
    if (list->n < list->cap)
        list->seen[list->n] = (struct seen){pnx__row_serial(row), pnx__word_id(word)};
    list->n++;
}

static bool older(const void *a, const void *b) {
    return ((const struct seen *)a)->serial < ((const struct seen *)b)->serial;
}

static int list_rows(struct pnx_registry *registry, struct list *ret_list) {
    size_t cap = pnx_registry_count(registry) + SLACK;
    for (;;) {
        struct list list = {
                .seen = pnx__alloc(&registry->env, cap, sizeof(struct seen)), .cap = cap};
        if (!list.seen)
            return -ENOMEM;
        pnx__rows_each(registry, note_row, &list);
        if (list.n <= cap) {
            struct seen spare;
            pnx__sort(list.seen, list.n, sizeof(spare), &spare, older);
            *ret_list = list;
            return 0;
        }
        pnx__free(&registry->env, list.seen, cap, sizeof(struct seen));
        cap = list.n + list.n / 2 + SLACK;
    }
}

static void free_list(struct pnx_registry *registry, struct list *list) {
    pnx__free(&registry->env, list->seen, list->cap, sizeof(struct seen));
}

int pnx_registry_each(struct pnx_registry *registry,
        int (*visit)(void *ctx, const struct pnx_resource_info *info), void *ctx) {
    registry = pnx__registry_resolve(registry);
    if (!visit)
        return -EINVAL;
    if (registry->off)
        return 0;
    struct list list;
    int rc = list_rows(registry, &list);
    if (rc)
        return rc;
    pnx__mutex_assert_none_held();
    for (size_t i = 0; i < list.n && rc == 0; i++) {
        struct pnx_resource_info info;
        if (pnx_registry_info(registry, list.seen[i].id, &info) == 0)
            rc = visit(ctx, &info);
    }
    free_list(registry, &list);
    return rc;
}

/* ---- report ---- */

struct group {
    const char *type;
    const char *site;
    size_t count;
    uint64_t bytes;
    pnx_ns oldest;
    size_t order;                /* of adding */
    bool suppressed;             /* a known leak */
    uint32_t n_frames;           /* of the oldest row that has a backtrace */
    pnx_resource_id traced;      /* that row */
    char name[PNX_ROW_NAME_MAX]; /* of the oldest row that has one */
};

static bool same_place(const void *a, const void *b) {
    const struct group *x = a, *y = b;
    return strcmp(x->type, y->type) == 0 && strcmp(x->site, y->site) == 0;
}

static bool by_place(const void *a, const void *b) {
    const struct group *x = a, *y = b;
    int order = strcmp(x->type, y->type);
    if (order == 0)
        order = strcmp(x->site, y->site);
    return order ? order < 0 : x->order < y->order;
}

/* The report's order: most bytes first, then most rows, then by place. */
static bool by_size(const void *a, const void *b) {
    const struct group *x = a, *y = b;
    if (x->bytes != y->bytes)
        return x->bytes > y->bytes;
    if (x->count != y->count)
        return x->count > y->count;
    return by_place(a, b);
}

/* Fills groups with one element a row, and joins those of one place.  Returns how many are left. */
static size_t make_groups(
        struct pnx_registry *registry, const struct list *list, struct group *groups) {
    struct group spare;
    size_t n = 0, joined = 0;
    for (size_t i = 0; i < list->n; i++) {
        struct pnx_resource_info info;
        if (pnx_registry_info(registry, list->seen[i].id, &info) != 0)
            continue;
        groups[n] = (struct group){.type = info.type,
                .site = info.site,
                .count = 1,
                .bytes = info.bytes,
                .oldest = info.age,
                .order = i,
                .traced = info.id};
        memcpy(groups[n++].name, info.name, sizeof(info.name));
    }
    pnx__sort(groups, n, sizeof(spare), &spare, by_place);
    for (size_t i = 0; i < n; i++) {
        struct group *last = joined ? &groups[joined - 1] : NULL;
        void *frames[PNX_TRACE_FRAMES];
        if (!last || !same_place(last, &groups[i])) {
            last = &groups[joined++];
            *last = groups[i];
            last->n_frames = pnx__trace_frames(registry, last->traced, frames);
            last->suppressed = pnx__suppressed(registry, last->type, last->site);
            continue;
        }
        if (last->n_frames == 0) {
            last->n_frames = pnx__trace_frames(registry, groups[i].traced, frames);
            last->traced = groups[i].traced;
        }
        last->count++;
        last->bytes += groups[i].bytes;
        if (!last->name[0])
            memcpy(last->name, groups[i].name, sizeof(last->name));
    }
    pnx__sort(groups, joined, sizeof(spare), &spare, by_size);
    return joined;
}

typedef void frame_fn(struct pnx_out *out, bool first, const char *text);

/* The frames of a row that had some when the groups were made. */
static void each_frame(struct pnx_registry *registry, struct pnx_out *out,
        const struct group *group, frame_fn *show) {
    void *frames[PNX_TRACE_FRAMES];
    uint32_t n = group->n_frames ? pnx__trace_frames(registry, group->traced, frames) : 0;
    for (uint32_t i = 0; i < n; i++) {
        char text[128];
        pnx__frame_text(frames[i], text, sizeof(text));
        show(out, i == 0, text);
    }
}

static void show_line(struct pnx_out *out, bool first, const char *text) {
    (void)first;
    pnx__out(out, "             ");
    pnx__out_text(out, text);
    pnx__out(out, "\n");
}

static void show_json(struct pnx_out *out, bool first, const char *text) {
    pnx__out(out, first ? "" : ",");
    pnx__out_json(out, text);
}

static void write_text(struct pnx_registry *registry, struct pnx_out *out,
        const struct group *groups, size_t n, const struct group *sum) {
    pnx__out(out, "registry ");
    pnx__out_text(out, registry->name);
    pnx__out(out, ": %zu live, ", sum->count);
    pnx__out_bytes(out, sum->bytes);
    pnx__out(out, "\n");
    for (size_t i = 0; i < n; i++) {
        const struct group *group = &groups[i];
        pnx__out(out, "  %6zu x ", group->count);
        pnx__out_column(out, group->type, 16);
        pnx__out(out, "  ");
        pnx__out_column(out, group->site, 32);
        pnx__out(out, "  ");
        pnx__out_bytes(out, group->bytes);
        pnx__out(out, ", oldest ");
        pnx__out_ns(out, group->oldest);
        if (group->name[0]) {
            pnx__out(out, ": \"");
            pnx__out_text(out, group->name);
            pnx__out(out, group->count > 1 ? "\" and others" : "\"");
        }
        pnx__out(out, group->suppressed ? " (known)\n" : "\n");
        each_frame(registry, out, group, show_line);
    }
}

static void write_json(struct pnx_registry *registry, struct pnx_out *out,
        const struct group *groups, size_t n, const struct group *sum) {
    pnx__out(out, "{\"registry\":");
    pnx__out_json(out, registry->name);
    pnx__out(out, ",\"live\":%zu,\"bytes\":%" PRIu64 ",\"groups\":[", sum->count, sum->bytes);
    for (size_t i = 0; i < n; i++) {
        const struct group *group = &groups[i];
        pnx__out(out, "%s{\"type\":", i ? "," : "");
        pnx__out_json(out, group->type);
        pnx__out(out, ",\"site\":");
        pnx__out_json(out, group->site);
        pnx__out(out, ",\"count\":%zu,\"bytes\":%" PRIu64 ",\"oldest_ns\":%" PRId64 ",\"name\":",
                group->count, group->bytes, group->oldest);
        pnx__out_json(out, group->name);
        pnx__out(out, ",\"known\":%s,\"stack\":[", group->suppressed ? "true" : "false");
        each_frame(registry, out, group, show_json);
        pnx__out(out, "]}");
    }
    pnx__out(out, "]}\n");
}

int pnx_registry_report(struct pnx_registry *registry, enum pnx_report_format format,
        pnx_write_fn *write, void *ctx) {
    registry = pnx__registry_resolve(registry);
    if (!write || (format != PNX_REPORT_TEXT && format != PNX_REPORT_JSON))
        return -EINVAL;
    struct list list = {0};
    struct group *groups = NULL;
    size_t n = 0;
    if (!registry->off) {
        int rc = list_rows(registry, &list);
        if (rc)
            return rc;
        groups = pnx__alloc(&registry->env, list.n, sizeof(*groups));
        if (!groups) {
            free_list(registry, &list);
            return -ENOMEM;
        }
        n = make_groups(registry, &list, groups);
    }
    struct group sum = {0};
    for (size_t i = 0; i < n; i++) {
        sum.count += groups[i].count;
        sum.bytes += groups[i].bytes;
    }
    pnx__mutex_assert_none_held();
    struct pnx_out out;
    pnx__out_init(&out, write, ctx);
    if (format == PNX_REPORT_TEXT)
        write_text(registry, &out, groups, n, &sum);
    else
        write_json(registry, &out, groups, n, &sum);
    int rc = pnx__out_end(&out);
    if (!registry->off) {
        pnx__free(&registry->env, groups, list.n, sizeof(*groups));
        free_list(registry, &list);
    }
    return rc;
}
