/* SPDX-License-Identifier: Apache-2.0 */
/*
 * registry/family.c - how many children a row has, so that nobody runs its cleanup before theirs.
 *
 * Children without a cleanup, unless their owner is to end them, do not count: there is nothing to be first.
 *
 * The number stands in the parent's label, in one word with the low half of the parent's generation: what ends
 * after its parent has gone must not count in the row that has the slot then.
 *
 *   P1  A child is counted under its parent's shard lock while the parent is live, before it is added, and no longer
 *       once its own shard's lock has been given back after its end.  So under the parent's lock a number of 0 is true.
 *   P2  Rows that never were parents, and have none, cost a look at a bit of their own.
 */
#include "registry/ledger.h"

#include <errno.h>
#include <string.h>

#define TAG_SHIFT  32
#define COUNT_MASK UINT64_C(0x7fffffff)
#define RECOUNTED  (UINT64_C(1) << 31) /* it was kept in a forked child, and counted anew */

static uint64_t tag_of(pnx_resource_id id) {
    return pnx__generation(id) << TAG_SHIFT;
}

/* Of a row that says nothing else. */
static void begin_label(struct pnx_row_label *label, pnx_resource_id id) {
    memset(label, 0, offsetof(struct pnx_row_label, family)); /* that may be counting for another */
    label->id = id;
}

int pnx__family_join(struct pnx_registry *registry, pnx_resource_id parent) {
    struct pnx_row *row = pnx__row_find(registry, parent);
    if (!row)
        return -EINVAL;
    for (;;) {
        struct pnx_shard *shard = pnx__row_lock(registry, parent);
        struct pnx_row_label *label = pnx__side_place(registry, parent, PNX_SIDE_LABEL);
        int rc = 0;
        if (pnx__registry_is_closed(registry)) /* labels are read without the lock then */
            rc = -ESHUTDOWN;
        else if (pnx__row_word(row) != (parent | PNX_ROW_LIVE))
            rc = -EINVAL;
        if (rc == 0 && label) {
            if (label->id != parent)
                begin_label(label, parent);
            if (!(row->order & PNX_ROW_PARENT)) /* the lock orders it */
                pnx_store(&label->family, tag_of(parent), PNX_RELAXED, "family.first");
            row->order |= PNX_ROW_PARENT;
            pnx_fetch_add(&label->family, 1, PNX_RELAXED, "family.join"); /* see family.leave */
        }
        pnx__unlock(&shard->lock);
        if (rc || label)
            return rc;
        rc = pnx__side_make(registry, parent, PNX_SIDE_LABEL);
        if (rc)
            return rc;
    }
}

void pnx__family_leave(struct pnx_registry *registry, pnx_resource_id parent) {
    struct pnx_row_label *label = pnx__side_place(registry, parent, PNX_SIDE_LABEL);
    uint64_t family =
            pnx_load(&label->family, PNX_RELAXED, "family.look"); /* the compare decides */
    while (family >> TAG_SHIFT << TAG_SHIFT == tag_of(parent) && (family & COUNT_MASK) != 0) {
        /* Release: pairs with family.children; what the child's end did comes before its parent's. */
        if (pnx_cas(&label->family, &family, family - 1, PNX_RELEASE, "family.leave"))
            return;
    }
}

void pnx__family_leave_locked(struct pnx_registry *registry, pnx_resource_id child) {
    const struct pnx_row_label *label = pnx__row_label(registry, child);
    if (label && label->parent)
        pnx__family_leave(registry, label->parent);
}

bool pnx__family_has_children_locked(struct pnx_registry *registry, pnx_resource_id id) {
    const struct pnx_row_label *label = pnx__row_label(registry, id);
    return label && (pnx_load(&label->family, PNX_ACQUIRE, "family.children") & COUNT_MASK) != 0;
}

/* A child that was about to be added at the fork is not here. */
void pnx__family_reset_locked(struct pnx_registry *registry, pnx_resource_id id) {
    struct pnx_row_label *label = pnx__side_place(registry, id, PNX_SIDE_LABEL);
    pnx_store(&label->family, tag_of(id) | RECOUNTED, PNX_RELAXED,
            "family.reset"); /* the lock orders it */
}

void pnx__family_count(struct pnx_registry *registry, pnx_resource_id parent) {
    const struct pnx_row *row = pnx__row_find(registry, parent);
    struct pnx_shard *shard = pnx__row_lock(registry, parent);
    if (pnx__word_id(pnx__row_word(row)) == parent && row->order & PNX_ROW_PARENT) {
        struct pnx_row_label *label = pnx__side_place(registry, parent, PNX_SIDE_LABEL);
        /* Relaxed: the lock orders it; see family.leave. */
        if (pnx_load(&label->family, PNX_RELAXED, "family.recounted") & RECOUNTED)
            pnx_fetch_add(&label->family, 1, PNX_RELAXED, "family.count");
    }
    pnx__unlock(&shard->lock);
}
