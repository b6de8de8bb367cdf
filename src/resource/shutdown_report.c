/* SPDX-License-Identifier: Apache-2.0 */
/*
 * resource/shutdown_report.c - reading and writing what a shutdown did.
 *
 * The report is part of the registry, and its rows are the registry's: reading it needs no memory, and each holder of
 * a report holds a reference to the registry.  All that is read here is fixed once the shutdown is over.
 *
 *   P1  Every row that was there when the shutdown began is in the report, with one outcome.
 */
#include "registry/out.h"
#include "resource/shutdown.h"

#include <patinox/registry.h>

#include <inttypes.h>
#include <string.h>

#define NAMES_SHOWN 3

/* ---- order ---- */

/* What needs attention comes first. */
static int weight(enum pnx_resource_state outcome) {
    switch (outcome) {
    case PNX_RESOURCE_ABANDONED:
        return 0;
    case PNX_RESOURCE_LEAKED:
        return 1;
    case PNX_RESOURCE_FAILED:
        return 2;
    default:
        return 3;
    }
}

static int compare_group(const struct pnx_shutdown_member *a, const struct pnx_shutdown_member *b) {
    int order = weight(a->outcome) - weight(b->outcome);
    if (order == 0)
        order = strcmp(a->row->type, b->row->type);
    if (order == 0)
        order = strcmp(a->row->site, b->row->site);
    if (order == 0)
        order = (a->code > b->code) - (a->code < b->code);
    return order;
}

static struct pnx_shutdown_member *merge(
        struct pnx_shutdown_member *a, struct pnx_shutdown_member *b) {
    struct pnx_shutdown_member *list = NULL;
    struct pnx_shutdown_member **at = &list;
    while (a && b) {
        struct pnx_shutdown_member **from = compare_group(b, a) < 0 ? &b : &a;
        *at = *from;
        at = &(*from)->group;
        *from = *at;
    }
    *at = a ? a : b;
    return list;
}

/* Sorts by group, stably. */
static struct pnx_shutdown_member *sort_groups(struct pnx_shutdown_member *list) {
    /* runs[i]: sorted, 2^i members; or none */
    struct pnx_shutdown_member *runs[sizeof(size_t) * 8] = {NULL};
    size_t n = 0;
    while (list) {
        struct pnx_shutdown_member *run = list;
        list = run->group;
        run->group = NULL;
        size_t i = 0;
        for (; runs[i]; i++) {
            run = merge(runs[i], run);
            runs[i] = NULL;
        }
        runs[i] = run;
        n = i > n ? i : n;
    }
    struct pnx_shutdown_member *sorted = NULL;
    for (size_t i = 0; i <= n; i++)
        sorted = merge(runs[i], sorted);
    return sorted;
}

void pnx__shutdown_group(struct pnx_shutdown_report *report) {
    for (size_t i = 0; i + 1 < report->n; i++)
        report->members[i].group = &report->members[i + 1];
    report->groups = sort_groups(report->n ? report->members : NULL);
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

static void describe(const struct pnx_shutdown_report *report,
        const struct pnx_shutdown_member *member, struct pnx_resource_info *ret_info) {
    pnx__row_copy(report->registry, member->row, member->id, report->began, ret_info);
    ret_info->state = member->outcome;
    ret_info->code = member->code;
    ret_info->bytes = member->bytes;
}

int pnx_shutdown_report_each(const struct pnx_shutdown_report *report,
        int (*visit)(void *ctx, const struct pnx_resource_info *info), void *ctx) {
    if (!report || !visit)
        return -EINVAL;
    pnx__mutex_assert_none_held();
    for (size_t i = 0; i < report->n; i++) {
        struct pnx_resource_info info;
        describe(report, &report->members[i], &info);
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
    default:
        return "done";
    }
}

/* The rows of one group, from first on. */
struct group {
    const struct pnx_shutdown_member *first;
    const struct pnx_shutdown_member *end; /* the next group's first; NULL after the last */
    size_t count;
    uint64_t bytes;
    pnx_ns oldest;
};

static struct group group_from(
        const struct pnx_shutdown_report *report, const struct pnx_shutdown_member *first) {
    struct group group = {.first = first};
    const struct pnx_shutdown_member *member = first;
    for (; member && compare_group(member, first) == 0; member = member->group) {
        struct pnx_resource_info info;
        describe(report, member, &info);
        group.count++;
        group.bytes += info.bytes;
        group.oldest = info.age > group.oldest ? info.age : group.oldest;
    }
    group.end = member;
    return group;
}

static void write_names(
        const struct pnx_shutdown_report *report, struct pnx_out *out, const struct group *group) {
    size_t shown = 0;
    for (const struct pnx_shutdown_member *member = group->first;
            member != group->end && shown < NAMES_SHOWN; member = member->group) {
        const struct pnx_row_label *label = pnx__row_label(report->registry, member->id);
        if (!label || !label->name[0])
            continue;
        pnx__out(out, shown ? ", \"" : ": \"");
        pnx__out_text(out, label->name);
        pnx__out(out, "\"");
        shown++;
    }
    if (shown && group->count > shown)
        pnx__out(out, " and %zu more", group->count - shown);
}

static void write_group_text(
        const struct pnx_shutdown_report *report, struct pnx_out *out, const struct group *group) {
    const struct pnx_shutdown_member *end = group->first;
    pnx__out(out, "  %-9s %6zu x ", outcome_name(end->outcome), group->count);
    pnx__out_text(out, group->first->row->type);
    if (group->first->row->site[0]) {
        pnx__out(out, " at ");
        pnx__out_text(out, group->first->row->site);
    }
    if (group->bytes) {
        pnx__out(out, ", ");
        pnx__out_bytes(out, group->bytes);
    }
    pnx__out(out, ", oldest ");
    pnx__out_ns(out, group->oldest);
    if (end->code)
        pnx__out(out, ", %s (%d): %s", pnx_errname(end->code), end->code, pnx_strerror(end->code));
    write_names(report, out, group);
    pnx__out(out, "\n");
}

static void write_text(const struct pnx_shutdown_report *report, struct pnx_out *out) {
    const struct pnx_shutdown_counts *counts = &report->counts;
    pnx__out(out, "shutdown of registry ");
    pnx__out_text(out, report->registry->name);
    pnx__out(out, ": %zu done, %zu failed, %zu abandoned, %zu leaked, in ", counts->done,
            counts->failed, counts->abandoned, counts->leaked);
    pnx__out_ns(out, counts->took_ns);
    if (report->code)
        pnx__out(out, "; %s (%d)", pnx_errname(report->code), report->code);
    pnx__out(out, "\n");
    for (const struct pnx_shutdown_member *member = report->groups; member;) {
        struct group group = group_from(report, member);
        write_group_text(report, out, &group);
        member = group.end;
    }
}

static void write_error_json(struct pnx_out *out, int code) {
    pnx__out(out, ",\"code\":%d,\"error\":", code);
    if (code)
        pnx__out_json(out, pnx_errname(code));
    else
        pnx__out(out, "null");
}

static void write_group_json(struct pnx_out *out, const struct group *group) {
    const struct pnx_shutdown_member *member = group->first;
    pnx__out(out, "{\"outcome\":\"%s\",\"type\":", outcome_name(member->outcome));
    pnx__out_json(out, member->row->type);
    pnx__out(out, ",\"site\":");
    pnx__out_json(out, member->row->site);
    pnx__out(out, ",\"count\":%zu,\"bytes\":%" PRIu64 ",\"oldest_ns\":%" PRId64, group->count,
            group->bytes, group->oldest);
    write_error_json(out, member->code);
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
    pnx__out(out,
            ",\"took_ns\":%" PRId64
            ",\"done\":%zu,\"failed\":%zu,\"abandoned\":%zu,\"leaked\":%zu,\"groups\":[",
            counts->took_ns, counts->done, counts->failed, counts->abandoned, counts->leaked);
    for (const struct pnx_shutdown_member *member = report->groups; member;) {
        struct group group = group_from(report, member);
        write_group_json(out, &group);
        member = group.end;
        pnx__out(out, member ? "," : "");
    }
    pnx__out(out, "],\"resources\":[");
    for (size_t i = 0; i < report->n; i++) {
        struct pnx_resource_info info;
        describe(report, &report->members[i], &info);
        pnx__out(out, i ? "," : "");
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
