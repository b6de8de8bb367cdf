/* SPDX-License-Identifier: Apache-2.0 */
/*
 * registry/query.c - walking over rows without stopping anybody.
 *
 * The walk goes through the slots of each shard in order, copies some rows at a time under the shard's lock, and shows
 * the copies when the lock has been given back.
 *
 *   P1  A row stays in its slot, so one that is there all the time is met once.  What was added after the walk
 *       began is not shown: a walk ends, though what it calls adds rows.
 *   P2  A lock is held while PNX_QUERY_ROWS rows are copied, and no longer.
 */
#include "registry/query.h"
#include "base/env.h"
#include "base/options.h"

#include <string.h>

/* Rows that were copied together. */
struct few {
    uint32_t n;
    struct pnx_row row[PNX_QUERY_ROWS];
    bool labelled[PNX_QUERY_ROWS];
    struct pnx_row_label label[PNX_QUERY_ROWS];
};

/* Copies the slot if a row is in it that was there when the walk began. */
static void copy_locked(struct few *few, const struct pnx_row *row,
        const struct pnx_row_label *label, uint64_t newest) {
    /* Plain: words are written under the lock that is held. */
    if (!pnx__word_is_there(row->word.v) || pnx__row_serial(row) > newest)
        return;
    few->row[few->n] = *row;
    few->labelled[few->n] = label && label->id == pnx__word_id(row->word.v);
    if (few->labelled[few->n]) /* all but its family, which others count in */
        memcpy(&few->label[few->n], label, offsetof(struct pnx_row_label, family));
    few->n++;
}

/* Copies from slot on, within its chunk.  Returns the slot to go on with; few->n is how many there were. */
static uint32_t copy_few(struct pnx_registry *registry, uint32_t number, uint32_t slot,
        uint64_t newest, struct few *few) {
    struct pnx_shard *shard = &registry->shard[number];
    struct pnx_slot_place place = pnx__slot_place(slot);
    few->n = 0;
    pnx__lock(&shard->lock);
    uint32_t end = slot + pnx__chunk_rows(place.chunk) - place.offset;
    if (end > shard->used)
        end = shard->used;
    if (end > slot + PNX_QUERY_ROWS)
        end = slot + PNX_QUERY_ROWS;
    if (slot >= end) {
        pnx__unlock(&shard->lock);
        return UINT32_MAX;
    }
    const struct pnx_row *row = pnx__slot_row(shard, slot);
    const struct pnx_row_label *label =
            pnx__side_place(registry, pnx__id_of(0, slot, number), PNX_SIDE_LABEL);
    for (uint32_t i = 0; i < end - slot; i++)
        copy_locked(few, row + i, label ? label + i : NULL, newest);
    pnx__unlock(&shard->lock);
    return end;
}

/* ---- filters ---- */

int pnx__filter_copy(const struct pnx_resource_filter *filter, struct pnx_resource_filter *ret) {
    *ret = (struct pnx_resource_filter){.size = sizeof(*ret)};
    int rc = filter ? pnx__opts_copy("filter", sizeof(*ret), filter, ret, NULL) : 0;
    if (rc == 0 && ret->min_age < 0)
        rc = -EINVAL;
    return rc;
}

static bool begins_with(const char *text, const char *prefix) {
    return strncmp(text, prefix, strlen(prefix)) == 0;
}

static bool passes(const struct pnx_resource_filter *filter, const struct pnx_resource_info *info) {
    if (filter->type && strcmp(info->type, filter->type) != 0)
        return false;
    if (filter->site && !begins_with(info->site, filter->site))
        return false;
    if ((filter->owner && info->owner != filter->owner) ||
            (filter->tag && info->tag != filter->tag) ||
            (filter->parent && info->parent != filter->parent))
        return false;
    if (info->age < filter->min_age || info->bytes < filter->min_bytes)
        return false;
    return !filter->match || filter->match(filter->ctx, info);
}

/* ---- walks ---- */

int pnx__rows_walk(struct pnx_registry *registry, const struct pnx_resource_filter *filter,
        pnx_row_visit_fn *visit, void *ctx) {
    /*
     * Takes a number itself, so that no shard goes on with a block of smaller ones (next_serial_locked() in rows.c):
     * what is added from now on has a larger one.  Relaxed: which rows are new is a matter of this thread's own,
     * and of those that it has heard of.
     */
    uint64_t newest = pnx_fetch_add(&registry->serial, 1, PNX_RELAXED, "query.newest");
    pnx_ns now = pnx__now(&registry->env);
    struct few few;
    struct pnx_resource_info info;
    pnx__mutex_assert_none_held();
    for (uint32_t number = 0; number < PNX_SHARDS; number++) {
        uint32_t slot = 0;
        while ((slot = copy_few(registry, number, slot, newest, &few)) != UINT32_MAX) {
            for (uint32_t i = 0; i < few.n; i++) {
                const struct pnx_row *row = &few.row[i];
                pnx__row_describe(
                        registry, row, few.labelled[i] ? &few.label[i] : NULL, now, &info);
                if (!passes(filter, &info))
                    continue;
                int rc = visit(ctx, row, &info);
                if (rc)
                    return rc;
            }
        }
    }
    return 0;
}

struct shown {
    int (*visit)(void *ctx, const struct pnx_resource_info *info);
    void *ctx;
};

static int show(void *ctx, const struct pnx_row *row, const struct pnx_resource_info *info) {
    const struct shown *shown = ctx;
    (void)row;
    return shown->visit(shown->ctx, info);
}

int pnx_registry_query(struct pnx_registry *registry, const struct pnx_resource_filter *filter,
        int (*visit)(void *ctx, const struct pnx_resource_info *info), void *ctx) {
    registry = pnx__registry_resolve(registry);
    struct pnx_resource_filter own;
    int rc = visit ? pnx__filter_copy(filter, &own) : -EINVAL;
    if (rc || registry->off)
        return rc;
    struct shown shown = {visit, ctx};
    return pnx__rows_walk(registry, &own, show, &shown);
}
