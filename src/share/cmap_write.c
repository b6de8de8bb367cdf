/* SPDX-License-Identifier: Apache-2.0 */
/*
 * share/cmap_write.c - one write, from its call to its return.
 *
 * A write is attempted under its shard's lock.  An attempt that lacks something changes nothing, and says what: a
 * block for the key, a node for the old object, a table, the end of a function on the key.  That is fetched under
 * no lock, and the write attempted again, so that nothing is allocated, waited for or called under the lock.
 *
 *   P1  An attempt either changes nothing or does all of the write.
 *   P2  A removal lacks nothing but the end of a function on its key.
 */
#include "share/cmap_table.h"

#include "share/rc.h"
#include "share/reclaim.h"

#include <errno.h>

/* What an attempt lacks. */
enum lack {
    LACK_TABLE = PNX_CMAP_WANTS_TABLE,
    LACK_ENTRY,
    LACK_SPARE,
    LACK_CALL, /* the end of a function on the key */
};

/* ---- under the lock ---- */

static void take_reference(struct pnx_cmap_op *op, uint64_t value) {
    if (pnx__rc_ref_silent(pnx_cmap_object(value)))
        op->saturated = pnx_cmap_object(value); /* one is enough to be told of */
}

/* The value of a key that is there. */
static uint64_t value_at(const struct pnx_cmap *map, const struct pnx_cmap_place *place) {
    if (map->inlined)
        return pnx__cmap_unmask(place->table, place->raw);
    return pnx_load(&pnx__cmap_entry(place->raw)->value, PNX_RELAXED, "cmap.value_at"); /* lock */
}

static void note_old(const struct pnx_cmap *map, struct pnx_cmap_op *op, uint64_t value) {
    op->found = true;
    if (!op->wants_old)
        return;
    op->old = value;
    if (map->rc)
        take_reference(op, value);
}

static bool admit(struct pnx_cmap *map) {
    uint64_t n = pnx_load(&map->admitted, PNX_RELAXED, "cmap.admitted"); /* a number */
    do {
        if (n >= map->max_entries)
            return false;
    } while (!pnx_cas(&map->admitted, &n, n + 1, PNX_RELAXED, "cmap.admit")); /* a number */
    return true;
}

/* The map's own reference to a value that is about to be stored. */
static void own_value(const struct pnx_cmap *map, struct pnx_cmap_op *op) {
    if (!map->rc)
        return;
    if (!op->owned)
        take_reference(op, op->value);
    op->owned = false;
}

static int insert_locked(
        struct pnx_cmap_shard *shard, struct pnx_cmap_op *op, const struct pnx_cmap_place *place) {
    struct pnx_cmap *map = shard->map;
    if (!map->inlined && !op->entry)
        return LACK_ENTRY;
    if (map->inlined && map->rc && !op->spare)
        return LACK_SPARE;
    if (map->max_entries && !op->admitted) {
        op->admitted = admit(map);
        if (!op->admitted)
            return -ENOSPC;
    }
    uint64_t value = map->inlined ? op->value : (uint64_t)(uintptr_t)op->entry;
    bool none = place->table == &pnx__cmap_no_table;
    int rc = LACK_TABLE;
    if (!none && pnx__cmap_fits(place->table, &op->key, value)) {
        if (op->entry) /* release: the store that publishes the entry */
            pnx_store(&op->entry->value, op->value, PNX_RELAXED, "cmap.entry_first");
        rc = pnx__cmap_insert_locked(shard, place, &op->key, value, op->forced);
    }
    if (rc) {
        op->want_buckets = pnx__cmap_wanted_locked(shard);
        return rc;
    }
    own_value(map, op);
    op->admitted = false; /* the entry's now */
    if (!map->inlined) {
        op->entry = NULL;
    } else if (map->rc) {
        op->spare->u.next = shard->spares;
        shard->spares = op->spare;
        op->spare = NULL;
    }
    return 0;
}

static int replace_locked(struct pnx_cmap_shard *shard, struct pnx_cmap_op *op,
        const struct pnx_cmap_place *place, uint64_t old) {
    const struct pnx_cmap *map = shard->map;
    if (map->rc && !op->spare)
        return LACK_SPARE;
    if (map->inlined && !pnx__cmap_fits(place->table, &op->key, op->value)) {
        op->want_buckets = pnx__cmap_wanted_locked(shard);
        return LACK_TABLE;
    }
    note_old(map, op, old);
    own_value(map, op);
    if (map->inlined)
        /* Release: pairs with cmap.look_value. */
        pnx_store(&place->slot->value, op->value ^ place->table->value_mask, PNX_RELEASE,
                "cmap.value_replace");
    else
        /* Release: pairs with cmap.entry_get. */
        pnx_store(
                &pnx__cmap_entry(place->raw)->value, op->value, PNX_RELEASE, "cmap.entry_replace");
    if (map->rc) {
        pnx__cmap_retire_object_locked(shard, op->spare, pnx_cmap_object(old));
        op->spare = NULL;
    }
    pnx_owner_add(&shard->counters.replaces, 1);
    return 0;
}

static int remove_locked(struct pnx_cmap_shard *shard, struct pnx_cmap_op *op,
        const struct pnx_cmap_place *place, uint64_t old) {
    struct pnx_cmap *map = shard->map;
    note_old(map, op, old);
    /* Release: pairs with cmap.look_value, cmap.entry_value: who finds it gone sees what came before. */
    pnx_store(&place->slot->value, PNX_CMAP_ABSENT, PNX_RELEASE, "cmap.value_remove");
    if (shard->target)
        shard->moving_entries--;
    pnx_owner_add(&shard->counters.entries, (uint64_t)-1);
    pnx_owner_add(&shard->counters.removes, 1);
    pnx_owner_add(&shard->counters.tombstones, 1);
    if (map->max_entries)
        pnx_fetch_sub(&map->admitted, 1, PNX_RELAXED, "cmap.dismiss"); /* a number */
    if (!map->inlined) {
        pnx__cmap_retire_entry_locked(shard, pnx__cmap_entry(place->raw));
    } else if (map->rc) {
        struct pnx_cmap_spare *spare = shard->spares; /* one for each entry */
        shard->spares = spare->u.next;
        pnx__cmap_retire_object_locked(shard, spare, pnx_cmap_object(old));
    }
    return 0;
}

static int decide_locked(
        struct pnx_cmap_shard *shard, struct pnx_cmap_op *op, const struct pnx_cmap_place *place) {
    bool there = place->raw != PNX_CMAP_ABSENT;
    uint64_t old = there ? value_at(shard->map, place) : 0;
    switch (op->kind) {
    case PNX_CMAP_OP_PUT:
        return there ? replace_locked(shard, op, place, old) : insert_locked(shard, op, place);
    case PNX_CMAP_OP_PUT_IF_ABSENT:
        if (!there)
            return insert_locked(shard, op, place);
        note_old(shard->map, op, old);
        return -EEXIST;
    case PNX_CMAP_OP_REPLACE:
    case PNX_CMAP_OP_REPLACE_IF:
        if (!there)
            return -ENOENT;
        if (op->kind == PNX_CMAP_OP_REPLACE_IF && old != op->expected)
            return PNX_E_CONFLICT;
        return replace_locked(shard, op, place, old);
    case PNX_CMAP_OP_REMOVE:
    case PNX_CMAP_OP_REMOVE_IF:
        if (!there)
            return -ENOENT;
        if (op->kind == PNX_CMAP_OP_REMOVE_IF && old != op->expected)
            return PNX_E_CONFLICT;
        return remove_locked(shard, op, place, old);
    }
    return -EINVAL;
}

/* Uses a table that was made for the shard, if it still wants one. */
static void use_table_locked(struct pnx_cmap_shard *shard, struct pnx_cmap_op *op) {
    struct pnx_cmap_table *table = op->table;
    struct pnx_cmap_table *current = shard->table;
    if (!table || shard->target || pnx__cmap_wanted_locked(shard) > table->n_buckets)
        return;
    bool fresh = current == &pnx__cmap_no_table;
    bool fits = pnx__cmap_fits(current, &op->key, shard->map->inlined ? op->value : UINT64_MAX);
    if (!fresh && fits && current->used < current->limit)
        return; /* somebody else was first */
    pnx__cmap_inherit_locked(shard, table);
    if (!pnx__cmap_fits(table, &op->key, shard->map->inlined ? op->value : UINT64_MAX))
        pnx__cmap_remask_locked(shard, table, &op->key, op->value);
    pnx__cmap_install_locked(shard, table);
    op->table = NULL;
    op->installed = true;
}

static int attempt(struct pnx_cmap_shard *shard, struct pnx_cmap_op *op) {
    pnx__mutex_lock(&shard->lock);
    int rc = -ESHUTDOWN;
    if (!shard->closed) {
        struct pnx_cmap_call *call = op->mine ? NULL : pnx__cmap_call_find_locked(shard, &op->key);
        if (call) {
            call->references++;
            op->call = call;
            pnx_owner_add(&shard->counters.waits, 1);
            rc = LACK_CALL;
        } else {
            use_table_locked(shard, op);
            struct pnx_cmap_place place;
            pnx__cmap_settle_locked(shard, &op->key, &place);
            rc = decide_locked(shard, op, &place);
        }
    }
    if (rc == -ENOSPC)
        pnx_owner_add(&shard->counters.refusals, 1);
    pnx__cmap_unlock(shard);
    return rc;
}

/* ---- without the lock ---- */

static int fetch_table(struct pnx_cmap_shard *shard, struct pnx_cmap_op *op) {
    if (op->table && op->table->n_buckets < op->want_buckets) {
        pnx__cmap_table_free(op->table);
        op->table = NULL;
    }
    pnx__cmap_finish_move(shard); /* if it is moving, the next table does not do */
    if (!op->table)
        op->table = pnx__cmap_table_new(shard, op->want_buckets);
    if (op->table)
        return 0;
    if (op->forced)
        return -ENOMEM;
    op->forced = true; /* slower, while there is a free slot */
    return 0;
}

/* Fetches what an attempt lacked. */
static int fetch(struct pnx_cmap_shard *shard, struct pnx_cmap_op *op, int lack) {
    switch (lack) {
    case LACK_TABLE:
        return fetch_table(shard, op);
    case LACK_ENTRY:
        op->entry = pnx__cmap_entry_new(shard, &op->key);
        return op->entry ? 0 : -ENOMEM;
    case LACK_SPARE:
        op->spare = pnx__cmap_spare_new(shard);
        return op->spare ? 0 : -ENOMEM;
    default: {
        int rc = pnx__cmap_call_wait(shard, op->call);
        if (rc)
            op->call = NULL;
        op->mine = rc == 0;
        return rc;
    }
    }
}

/* Gives back what was not needed. */
static void leave(struct pnx_cmap_shard *shard, struct pnx_cmap_op *op, int rc) {
    struct pnx_cmap *map = shard->map;
    if (op->admitted)
        pnx_fetch_sub(&map->admitted, 1, PNX_RELAXED, "cmap.admit_undo"); /* a number */
    if (rc == -ENOMEM) {
        pnx__mutex_lock(&shard->lock);
        pnx_owner_add(&shard->counters.refusals, 1);
        pnx__cmap_unlock(shard);
    }
    pnx__cmap_table_free(op->table);
    pnx__cmap_entry_free(op->entry);
    pnx__cmap_spare_free(op->spare);
    if (op->call)
        pnx__cmap_call_leave(shard, op->call);
    if (op->installed)
        pnx__cmap_tell_resized(shard);
    if (op->saturated)
        pnx__rc_report(op->saturated);
    if (op->owned && map->rc)
        pnx_rc_unref(pnx_cmap_object(op->value));
    pnx__reclaim_assist(map->domain);
}

int pnx__cmap_write(struct pnx_cmap *map, struct pnx_cmap_op *op) {
    struct pnx_cmap_shard *shard = pnx__cmap_shard_of(map, op->key.hash);
    int rc;
    while ((rc = attempt(shard, op)) > 0) {
        rc = fetch(shard, op, rc);
        if (rc)
            break;
    }
    leave(shard, op, rc);
    return rc;
}
