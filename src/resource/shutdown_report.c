/* SPDX-License-Identifier: Apache-2.0 */
/*
 * resource/shutdown_report.c - reading and writing what a shutdown did.
 *
 * The report is what the registry's rows say, and each holder of a report holds a reference to the registry: reading
 * it needs no memory.  The order is that of the members, where all rows are members; else the next rows in order are
 * looked for, some at a time.  Rows are copied under their shard's lock, since they live on: an owner may still
 * remove what has leaked, a cleanup that was abandoned may end.  Their outcomes, and what they were, stay.
 *
 *   P1  Every row that was there when the shutdown began is in the report, with one outcome.
 *   P2  visit and write run with no lock held.
 */
#include "registry/out.h"
#include "registry/sort.h"
#include "resource/shutdown.h"

#include <patinox/shutdown.h>

#include <inttypes.h>
#include <string.h>

#define NAMES_SHOWN 3
#define GROUPS      32 /* that are summed up in one walk over the rows */
#define BATCH       64 /* rows that are looked for at once when not all are members */

/* ---- rows ---- */

/* Copies a row as the report has it. */
static void describe(const struct pnx_shutdown_report *report, const struct pnx_row *row,
        struct pnx_resource_info *ret_info) {
    struct pnx_registry *registry = report->registry;
    pnx_resource_id id = pnx__word_id(pnx__row_word(row)); /* it keeps its slot */
    struct pnx_shard *shard = pnx__row_lock(registry, id);
    pnx__row_copy(registry, row, id, report->began, ret_info);
    enum pnx_row_outcome outcome = pnx__row_outcome(row);
    ret_info->code = outcome == PNX_OUTCOME_FAILED  ? (int32_t)row->code
                     : outcome == PNX_OUTCOME_AGAIN ? -EAGAIN
                                                    : 0;
    pnx__unlock(&shard->lock);
    ret_info->state =
            outcome == PNX_OUTCOME_AGAIN ? PNX_RESOURCE_FAILED : (enum pnx_resource_state)outcome;
}

/* The rows in order, one by one. */
struct walk {
    const struct pnx_shutdown_report *report;
    size_t at; /* in members, or in batch */
    /* When not all rows are members: the next ones in order, the last of them at the top of a heap until sorted. */
    size_t n;
    uint64_t after; /* key of the last one of the batch before */
    bool begun;
    struct place {
        uint64_t key;
        const struct pnx_row *row;
    } batch[BATCH];
};

static void walk_begin(struct walk *walk, const struct pnx_shutdown_report *report) {
    *walk = (struct walk){.report = report};
    if (!report->registry->off)
        pnx__order_complete(report->registry);
}

static bool place_before(const void *a, const void *b) {
    return ((const struct place *)a)->key < ((const struct place *)b)->key;
}

static void look_at_row(void *ctx, struct pnx_row *row, uint64_t word) {
    struct walk *walk = ctx;
    (void)word;
    struct place spare, place = {pnx__shutdown_key_locked(row), row};
    if (!(row->order & PNX_ROW_MEMBER) || (walk->begun && place.key <= walk->after))
        return;
    if (walk->n < BATCH) {
        walk->batch[walk->n++] = place;
        if (walk->n < BATCH)
            return;
        for (size_t i = BATCH / 2; i > 0; i--)
            pnx__sort_sift(walk->batch, i - 1, BATCH, sizeof(spare), &spare, place_before);
    } else if (place.key < walk->batch[0].key) {
        walk->batch[0] = place;
        pnx__sort_sift(walk->batch, 0, BATCH, sizeof(spare), &spare, place_before);
    }
}

static const struct pnx_row *next_row(struct walk *walk) {
    const struct pnx_shutdown_state *state = walk->report->registry->shutdown;
    if (state->whole)
        return walk->at < state->n ? state->members[walk->at++].row : NULL;
    if (walk->at == walk->n) {
        struct place spare;
        walk->at = 0;
        walk->n = 0;
        pnx__shutdown_each_slot(walk->report->registry, look_at_row, walk);
        pnx__sort(walk->batch, walk->n, sizeof(spare), &spare, place_before);
        if (walk->n == 0)
            return NULL;
        walk->begun = true;
        walk->after = walk->batch[walk->n - 1].key;
    }
    return walk->batch[walk->at++].row;
}

/* ---- groups ---- */

/* What needs attention comes first. */
static int weight(enum pnx_resource_state outcome) {
    switch (outcome) {
    case PNX_RESOURCE_ABANDONED:
        return 0;
    case PNX_RESOURCE_LEAKED:
        return 1;
    case PNX_RESOURCE_FAILED:
        return 2;
    case PNX_RESOURCE_SUPPRESSED:
        return 3;
    default:
        return 4;
    }
}

/* Rows with the same outcome, type, site and code. */
struct group {
    enum pnx_resource_state outcome;
    int code;
    const char *type;
    const char *site;
    size_t count;
    uint64_t bytes;
    pnx_ns oldest;
    uint32_t n_names;
    const char *names[NAMES_SHOWN]; /* the rows', of the first that have one */
};

/* Groups that stand side by side in the report; sorted. */
struct groups {
    const struct pnx_shutdown_report *report;
    size_t n;
    bool begun;
    struct group last; /* of the ones before */
    struct group group[GROUPS];
};

static int compare(const struct group *a, const struct group *b) {
    int order = weight(a->outcome) - weight(b->outcome);
    if (order == 0 && a->type != b->type)
        order = strcmp(a->type, b->type);
    if (order == 0 && a->site != b->site)
        order = strcmp(a->site, b->site);
    if (order == 0)
        order = (a->code > b->code) - (a->code < b->code);
    return order;
}

/* Returns the group, which is made if it belongs among the first GROUPS; NULL when it does not. */
static struct group *find_group(struct groups *groups, const struct group *key) {
    size_t from = 0, to = groups->n;
    while (from < to) {
        size_t middle = from + (to - from) / 2;
        int order = compare(&groups->group[middle], key);
        if (order == 0)
            return &groups->group[middle];
        if (order < 0)
            from = middle + 1;
        else
            to = middle;
    }
    if (from == GROUPS)
        return NULL;
    /* One that falls out at the end is found again in the next walk, whole. */
    size_t keep = groups->n < GROUPS ? groups->n++ : GROUPS - 1;
    memmove(&groups->group[from + 1], &groups->group[from], (keep - from) * sizeof(*key));
    groups->group[from] = *key;
    return &groups->group[from];
}

static void count_row(struct groups *groups, const struct pnx_row *row) {
    struct pnx_resource_info info;
    describe(groups->report, row, &info);
    struct group key = {
            .outcome = info.state, .code = info.code, .type = info.type, .site = info.site};
    if (groups->begun && compare(&key, &groups->last) <= 0)
        return;
    struct group *group = find_group(groups, &key);
    if (!group)
        return;
    group->count++;
    group->bytes += info.bytes;
    group->oldest = info.age > group->oldest ? info.age : group->oldest;
    const struct pnx_row_label *label = pnx__row_label(groups->report->registry, info.id);
    if (label && label->name[0] && group->n_names < NAMES_SHOWN)
        group->names[group->n_names++] = label->name; /* it stays */
}

/* Sums up the groups that come next; false when there are none. */
static bool next_groups(struct groups *groups) {
    if (groups->n) {
        groups->begun = true;
        groups->last = groups->group[groups->n - 1];
    }
    if (groups->begun && groups->n < GROUPS)
        return false;
    groups->n = 0;
    struct walk walk;
    walk_begin(&walk, groups->report);
    const struct pnx_row *row;
    while ((row = next_row(&walk)))
        count_row(groups, row);
    return groups->n > 0;
}

/* ---- reading ---- */

int pnx_shutdown_report_counts(
        const struct pnx_shutdown_report *report, struct pnx_shutdown_counts *ret_counts) {
    if (!report || !ret_counts || ret_counts->size < sizeof(ret_counts->size))
        return -EINVAL;
    struct pnx_shutdown_counts counts = report->counts;
    counts.size = ret_counts->size;
    memcpy(ret_counts, &counts, counts.size < sizeof(counts) ? counts.size : sizeof(counts));
    return 0;
}

int pnx_shutdown_report_each(const struct pnx_shutdown_report *report,
        int (*visit)(void *ctx, const struct pnx_resource_info *info), void *ctx) {
    if (!report || !visit)
        return -EINVAL;
    pnx__mutex_assert_none_held();
    struct walk walk;
    walk_begin(&walk, report);
    const struct pnx_row *row;
    while ((row = next_row(&walk))) {
        struct pnx_resource_info info;
        describe(report, row, &info);
        int rc = visit(ctx, &info);
        if (rc)
            return rc;
    }
    return 0;
}

void pnx_shutdown_report_release(struct pnx_shutdown_report **report) {
    if (!report || !*report)
        return;
    struct pnx_registry *registry = (*report)->registry;
    *report = NULL;
    pnx_registry_release(&registry);
}

/* ---- writing ---- */

static const char *outcome_name(enum pnx_resource_state outcome) {
    switch (outcome) {
    case PNX_RESOURCE_ABANDONED:
        return "abandoned";
    case PNX_RESOURCE_LEAKED:
        return "leaked";
    case PNX_RESOURCE_FAILED:
        return "failed";
    case PNX_RESOURCE_SUPPRESSED:
        return "suppressed";
    default:
        return "done";
    }
}

static void write_group_text(struct pnx_out *out, const struct group *group) {
    pnx__out(out, "  %-10s %6zu x ", outcome_name(group->outcome), group->count);
    pnx__out_text(out, group->type);
    if (group->site[0]) {
        pnx__out(out, " at ");
        pnx__out_text(out, group->site);
    }
    if (group->bytes) {
        pnx__out(out, ", ");
        pnx__out_bytes(out, group->bytes);
    }
    pnx__out(out, ", oldest ");
    pnx__out_ns(out, group->oldest);
    if (group->code)
        pnx__out(out, ", %s (%d): %s", pnx_errname(group->code), group->code,
                pnx_strerror(group->code));
    for (uint32_t i = 0; i < group->n_names; i++) {
        pnx__out(out, i ? ", \"" : ": \"");
        pnx__out_text(out, group->names[i]);
        pnx__out(out, "\"");
    }
    if (group->n_names && group->count > group->n_names)
        pnx__out(out, " and %zu more", group->count - group->n_names);
    pnx__out(out, "\n");
}

static void write_text(const struct pnx_shutdown_report *report, struct pnx_out *out) {
    const struct pnx_shutdown_counts *counts = &report->counts;
    pnx__out(out, "shutdown of registry ");
    pnx__out_text(out, report->registry->name);
    pnx__out(out, ": %zu done, %zu failed, %zu abandoned, %zu leaked, %zu suppressed, in ",
            counts->done, counts->failed, counts->abandoned, counts->leaked, counts->suppressed);
    pnx__out_ns(out, counts->took_ns);
    if (report->code)
        pnx__out(out, "; %s (%d)", pnx_errname(report->code), report->code);
    pnx__out(out, "\n");
    struct groups groups = {.report = report};
    while (next_groups(&groups)) {
        for (size_t i = 0; i < groups.n; i++)
            write_group_text(out, &groups.group[i]);
    }
    if (counts->unreclaimed)
        pnx__out(out, "  retired, but not freed: %zu objects\n", counts->unreclaimed);
}

static void write_error_json(struct pnx_out *out, int code) {
    pnx__out(out, ",\"code\":%d,\"error\":", code);
    if (code)
        pnx__out_json(out, pnx_errname(code));
    else
        pnx__out(out, "null");
}

static void write_group_json(struct pnx_out *out, const struct group *group) {
    pnx__out(out, "{\"outcome\":\"%s\",\"type\":", outcome_name(group->outcome));
    pnx__out_json(out, group->type);
    pnx__out(out, ",\"site\":");
    pnx__out_json(out, group->site);
    pnx__out(out, ",\"count\":%zu,\"bytes\":%" PRIu64 ",\"oldest_ns\":%" PRId64, group->count,
            group->bytes, group->oldest);
    write_error_json(out, group->code);
    pnx__out(out, "}");
}

static void write_row_json(struct pnx_out *out, const struct pnx_resource_info *info) {
    pnx__out(out, "{\"id\":\"0x%" PRIx64 "\",\"parent\":", info->id);
    if (info->parent)
        pnx__out(out, "\"0x%" PRIx64 "\"", info->parent);
    else
        pnx__out(out, "null");
    pnx__out(out, ",\"outcome\":\"%s\",\"type\":", outcome_name(info->state));
    pnx__out_json(out, info->type);
    pnx__out(out, ",\"name\":");
    pnx__out_json(out, info->name);
    pnx__out(out, ",\"site\":");
    pnx__out_json(out, info->site);
    pnx__out(out,
            ",\"owner\":%" PRIu64 ",\"tag\":%" PRIu64 ",\"bytes\":%" PRIu64 ",\"age_ns\":%" PRId64,
            info->owner, info->tag, info->bytes, info->age);
    write_error_json(out, info->code);
    pnx__out(out, "}");
}

static void write_json(const struct pnx_shutdown_report *report, struct pnx_out *out) {
    const struct pnx_shutdown_counts *counts = &report->counts;
    pnx__out(out, "{\"registry\":");
    pnx__out_json(out, report->registry->name);
    write_error_json(out, report->code);
    pnx__out(out, ",\"took_ns\":%" PRId64 ",\"done\":%zu,\"failed\":%zu,\"abandoned\":%zu",
            counts->took_ns, counts->done, counts->failed, counts->abandoned);
    pnx__out(out, ",\"leaked\":%zu,\"suppressed\":%zu,\"unreclaimed\":%zu,\"groups\":[",
            counts->leaked, counts->suppressed, counts->unreclaimed);
    struct groups groups = {.report = report};
    while (next_groups(&groups)) {
        for (size_t i = 0; i < groups.n; i++) {
            pnx__out(out, i || groups.begun ? "," : "");
            write_group_json(out, &groups.group[i]);
        }
    }
    pnx__out(out, "],\"resources\":[");
    struct walk walk;
    walk_begin(&walk, report);
    const struct pnx_row *row;
    for (bool first = true; (row = next_row(&walk)); first = false) {
        struct pnx_resource_info info;
        describe(report, row, &info);
        pnx__out(out, first ? "" : ",");
        write_row_json(out, &info);
    }
    pnx__out(out, "]}\n");
}

int pnx_shutdown_report_write(const struct pnx_shutdown_report *report,
        enum pnx_report_format format, pnx_write_fn *write, void *ctx) {
    if (!report || !write || (format != PNX_REPORT_TEXT && format != PNX_REPORT_JSON))
        return -EINVAL;
    pnx__mutex_assert_none_held();
    struct pnx_out out;
    pnx__out_init(&out, write, ctx);
    if (format == PNX_REPORT_TEXT)
        write_text(report, &out);
    else
        write_json(report, &out);
    return pnx__out_end(&out);
}
