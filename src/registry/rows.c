/* SPDX-License-Identifier: Apache-2.0 */
/*
 * registry/rows.c - the ledger itself: adding, removing, looking.
 *
 *   P1  A row's state changes in pnx__row_move_locked(), under its shard's lock.
 *   P2  What a row says about its resource is written while its slot is free, and constant while the row is there;
 *       its bytes excepted.
 *   P3  A generation is never used twice for a slot: a slot that has run through all is not reused.
 *   P4  No callback, no allocation and no waiting under a shard's lock; one shard's lock at a time.
 *
 * The structures and the state diagram stand in ledger.h.
 */
#include "base/env.h"
#include "base/options.h"
#include "os/futex.h"
#include "os/thread.h"
#include "registry/ledger.h"
#include "stats/utf8.h"

#include <patinox/registry.h>

#include <limits.h>
#include <string.h>

#define GENERATION_MASK ((UINT64_C(1) << PNX_GENERATION_BITS) - 1)
#define KNOWN_FLAGS     (PNX_RESOURCE_FORCEABLE | PNX_RESOURCE_OWNED | PNX_RESOURCE_KEEP_AFTER_FORK)

static uint64_t next_generation(uint64_t generation) {
    generation = (generation + 1) & GENERATION_MASK;
    return generation ? generation : 1; /* so that no id is 0 */
}

/* Whether the generation came before the slot's present one, counted from the registry's first. */
static bool is_past(const struct pnx_registry *registry, uint64_t generation, uint64_t present) {
    return present != 0 && ((generation - registry->base) & GENERATION_MASK) <
                                   ((present - registry->base) & GENERATION_MASK);
}

static bool is_closed(const struct pnx_registry *registry) {
    /*
     * No partner: a shutdown sets it before it takes each shard's lock, and here it is read under such a lock or
     * after one.  Either the shutdown sees what was done under the lock, or the flag is seen here.
     */
    return pnx_load(&registry->closed, PNX_RELAXED, "rows.closed") != 0;
}

/* ---- slots ---- */

/* Finds the slot that the next row would get.  false when the shard is full. */
static bool next_slot_locked(const struct pnx_shard *shard, uint32_t *ret_slot) {
    if (pnx__shard_rows_locked(shard) >= shard->allowed)
        return false;
    bool unused = shard->used < shard->capacity;
    if (unused && shard->n_free < PNX_QUARANTINE)
        *ret_slot = shard->used;
    else if (shard->n_free)
        *ret_slot = shard->free_first - 1;
    else
        return false;
    return true;
}

/* Takes that slot. */
static struct pnx_row *take_slot_locked(struct pnx_shard *shard, uint32_t slot) {
    struct pnx_row *row = pnx__slot_row(shard, slot);
    if (slot == shard->used) {
        shard->used++;
        return row;
    }
    shard->free_first = (uint32_t)row->next_free;
    if (!shard->free_first)
        shard->free_last = 0;
    shard->n_free--;
    return row;
}

static void queue_slot_locked(struct pnx_registry *registry, struct pnx_shard *shard,
        struct pnx_row *row, pnx_resource_id id) {
    if (is_closed(registry))
        return; /* the report is made from what the row says */
    if (next_generation(pnx__generation(id)) == registry->base)
        return; /* all generations are used up: the slot rests for ever */
    row->next_free = 0;
    uint32_t link = pnx__slot_of(id) + 1;
    if (shard->free_last)
        pnx__slot_row(shard, shard->free_last - 1)->next_free = link;
    else
        shard->free_first = link;
    shard->free_last = link;
    shard->n_free++;
}

/* ---- adding ---- */

/* What a row gets before a shard is locked. */
struct fresh {
    uint64_t flags; /* of row->order */
    uint64_t stamp;
    const struct pnx_resource *resource;
    bool labelled;
};

static struct fresh prepare(struct pnx_registry *registry, const struct pnx_resource *resource) {
    uint32_t priority =
            resource->priority ? (uint32_t)resource->priority : (uint32_t)PNX_PRIORITY_NORMAL;
    uint64_t flags = (uint64_t)priority << PNX_ROW_PRIORITY_SHIFT;
    if (resource->flags & PNX_RESOURCE_FORCEABLE)
        flags |= PNX_ROW_FORCEABLE;
    if (resource->flags & PNX_RESOURCE_OWNED)
        flags |= PNX_ROW_OWNED;
    if (resource->flags & PNX_RESOURCE_KEEP_AFTER_FORK)
        flags |= PNX_ROW_KEEP;
    pnx_ns since = registry->env.now_coarse(registry->env.ctx) - registry->made;
    uint64_t added = (uint64_t)(since > 0 ? since : 0) >> PNX_STAMP_UNIT_LOG2;
    return (struct fresh){
            .flags = flags,
            .stamp = (uint64_t)pnx__fork_generation() << PNX_STAMP_FORK_SHIFT |
                     (added & PNX_STAMP_ADDED_MASK),
            .resource = resource,
            .labelled = resource->name || resource->parent || resource->owner || resource->tag ||
                        resource->in_child,
    };
}

static void fill_label(
        struct pnx_row_label *label, pnx_resource_id id, const struct pnx_resource *resource) {
    label->id = id;
    label->parent = resource->parent;
    label->owner = resource->owner;
    label->tag = resource->tag;
    label->in_child = resource->in_child;
    const char *name = resource->name ? resource->name : "";
    size_t n = strnlen(name, PNX_ROW_NAME_MAX);
    if (n == PNX_ROW_NAME_MAX)
        n = pnx__utf8_cut(name, PNX_ROW_NAME_MAX - 1);
    memcpy(label->name, name, n);
    label->name[n] = '\0';
}

static pnx_resource_id fill_locked(struct pnx_registry *registry, struct pnx_row *row,
        pnx_resource_id slot, const struct fresh *fresh) {
    const struct pnx_resource *resource = fresh->resource;
    uint64_t generation = pnx__generation(pnx__row_word(row));
    generation = generation ? next_generation(generation) : registry->base;
    pnx_resource_id id = pnx__id_of(generation, pnx__slot_of(slot), pnx__shard_of(slot));
    /* Under the shards' locks, and a parent's serial is read before: later rows have larger numbers. */
    uint64_t serial = pnx_fetch_add(&registry->serial, 1, PNX_RELAXED, "rows.serial") + 1;
    row->order = serial << PNX_ROW_SERIAL_SHIFT | fresh->flags;
    row->stamp = fresh->stamp;
    row->type = resource->type;
    row->site = resource->site ? resource->site : "";
    row->cleanup = resource->cleanup;
    row->arg = resource->arg;
    row->bytes = resource->bytes;
    if (fresh->labelled)
        fill_label(pnx__side_place(registry, id, PNX_SIDE_LABEL), id, resource);
    pnx__row_move_locked(row, id, PNX_ROW_LIVE);
    return id;
}

/*
 * Adds to the shard.  -ENOBUFS when it is full, -ENODATA when the slot named by *ret_id needs a place for a label
 * first, -ESHUTDOWN.
 */
static int add_to_shard(struct pnx_registry *registry, uint32_t number, const struct fresh *fresh,
        pnx_resource_id *ret_id, uint32_t *ret_chunks) {
    struct pnx_shard *shard = &registry->shard[number];
    uint32_t slot;
    int rc = 0;
    pnx__mutex_lock(&shard->lock);
    *ret_chunks = shard->n_chunks;
    if (is_closed(registry))
        rc = -ESHUTDOWN;
    else if (!next_slot_locked(shard, &slot))
        rc = -ENOBUFS;
    if (rc == 0) {
        pnx_resource_id id = pnx__id_of(0, slot, number);
        if (fresh->labelled && !pnx__side_place(registry, id, PNX_SIDE_LABEL)) {
            *ret_id = id;
            rc = -ENODATA;
        } else {
            *ret_id = fill_locked(registry, take_slot_locked(shard, slot), id, fresh);
            pnx_owner_add(&shard->added, 1);
            if (!shard->held) {
                shard->held = true;
                pnx__registry_held(registry);
            }
        }
    }
    pnx__mutex_unlock(&shard->lock);
    return rc;
}

/* Adds to the first shard from home on that has a slot; -ENOBUFS when none has one. */
static int add_to_a_shard(struct pnx_registry *registry, uint32_t home, const struct fresh *fresh,
        pnx_resource_id *ret_id, uint32_t *ret_chunks) {
    for (uint32_t i = 0; i < PNX_SHARDS;) {
        uint32_t n_chunks;
        int rc = add_to_shard(registry, (home + i) % PNX_SHARDS, fresh, ret_id, &n_chunks);
        if (i == 0)
            *ret_chunks = n_chunks;
        if (rc == -ENODATA)
            rc = pnx__side_make(registry, *ret_id, PNX_SIDE_LABEL);
        else if (rc == -ENOBUFS)
            i++;
        else
            return rc;
        if (rc == -ENOMEM)
            return rc;
    }
    return -ENOBUFS;
}

static int add_row(struct pnx_registry *registry, const struct pnx_resource *resource,
        pnx_resource_id *ret_id) {
    const struct pnx_thread *self = pnx__thread();
    uint32_t home = self ? (uint32_t)(self->id % PNX_SHARDS) : 0;
    struct fresh fresh = prepare(registry, resource);
    uint32_t full = 0; /* shards that cannot grow any more */
    for (;;) {
        uint32_t n_chunks = 0;
        int rc = add_to_a_shard(registry, home, &fresh, ret_id, &n_chunks);
        if (rc != -ENOBUFS)
            return rc;
        rc = pnx__shard_grow(registry, &registry->shard[home], n_chunks);
        if (rc == -ENOSPC && ++full < PNX_SHARDS)
            home = (home + 1) % PNX_SHARDS;
        else if (rc)
            return rc;
    }
}

static int refuse(struct pnx_registry *registry, int rc, struct pnx_error *err) {
    if (rc == -ENOMEM)
        return pnx__fail(err, rc, 0, "add", "registry %s: out of memory", registry->name);
    pnx__registry_count_up(&registry->values.refused);
    if (rc == -ESHUTDOWN)
        return pnx__fail(err, rc, 0, "add", "registry %s is shut down", registry->name);
    return pnx__fail(err, -EBUSY, 0, "add", "registry %s is full: %u rows are live", registry->name,
            registry->max);
}

static int check_parent(
        struct pnx_registry *registry, pnx_resource_id parent, struct pnx_error *err) {
    const struct pnx_row *row = pnx__row_find(registry, parent);
    if (row && pnx__row_word(row) == (parent | PNX_ROW_LIVE))
        return 0;
    return pnx__fail_field(err, -EINVAL, "parent",
            "resource.parent %#llx is not a live row of registry %s", (unsigned long long)parent,
            registry->name);
}

static int check_resource(
        struct pnx_registry *registry, const struct pnx_resource *resource, struct pnx_error *err) {
    if (!resource->type)
        return pnx__fail_field(err, -EINVAL, "type", "resource.type is required");
    if (resource->flags & ~(uint32_t)KNOWN_FLAGS)
        return pnx__fail_field(err, -EINVAL, "flags", "resource.flags: unknown bits %#x",
                resource->flags & ~(uint32_t)KNOWN_FLAGS);
    if (resource->flags & PNX_RESOURCE_FORCEABLE && resource->flags & PNX_RESOURCE_OWNED)
        return pnx__fail_field(err, -EINVAL, "flags",
                "resource.flags: what only its owner ends cannot be forced by others");
    if (resource->priority < PNX_PRIORITY_DEFAULT || resource->priority > PNX_PRIORITY_LAST)
        return pnx__fail_field(
                err, -EINVAL, "priority", "resource.priority: there is no %d", resource->priority);
    return resource->parent ? check_parent(registry, resource->parent, err) : 0;
}

int pnx_registry_add(struct pnx_registry *registry, const struct pnx_resource *resource,
        struct pnx_error *err, pnx_resource_id *ret_id) {
    registry = pnx__registry_resolve(registry);
    if (!resource || !ret_id)
        return pnx__fail(err, -EINVAL, 0, "add", "registry: resource or ret_id is NULL");
    if (registry->off) {
        *ret_id = 0;
        return 0;
    }
    struct pnx_resource copy;
    if (resource->size != sizeof(copy)) {
        copy = (struct pnx_resource){.size = sizeof(copy)};
        int rc = pnx__opts_copy("resource", sizeof(copy), resource, &copy, err);
        if (rc)
            return rc;
        resource = &copy;
    }
    int rc = check_resource(registry, resource, err);
    if (rc)
        return rc;
    pnx_resource_id id;
    rc = add_row(registry, resource, &id);
    if (rc)
        return refuse(registry, rc, err);
    *ret_id = id;
    return 0;
}

/* ---- ending ---- */

void pnx__row_changed_locked(
        struct pnx_registry *registry, struct pnx_shard *shard, struct pnx_row_effects *effects) {
    if (shard->waiting) {
        /* Under the lock, like the load of run.turn before the wait: only the futex needs it atomic. */
        pnx_fetch_add(&shard->turn, 1, PNX_RELAXED, "rows.turn");
        effects->wake = true;
    }
    if (is_closed(registry)) {
        /* pairs with shutdown.changed: the shutdown's next look sees the row's new state */
        pnx_fetch_add(&registry->shutdown.changed, 1, PNX_RELEASE, "rows.changed");
        effects->shutdown = true;
    }
}

void pnx__row_gone_locked(struct pnx_registry *registry, struct pnx_shard *shard,
        struct pnx_row *row, pnx_resource_id id, struct pnx_row_effects *effects) {
    if (pnx__word_state(pnx__row_word(row)) != PNX_ROW_LATE)
        queue_slot_locked(registry, shard, row, id);
    if (pnx__shard_rows_locked(shard) == 0 && !pnx__registry_has_holders(registry)) {
        shard->held = false;
        effects->unheld = true;
    }
}

void pnx__row_effects(struct pnx_registry *registry, struct pnx_shard *shard,
        const struct pnx_row_effects *effects) {
    /* Of a registry that is gone only addresses are used. */
    if (effects->wake)
        pnx__futex_wake(&shard->turn, INT_MAX);
    if (effects->shutdown)
        pnx__futex_wake(&registry->shutdown.changed, INT_MAX);
    if (effects->unheld)
        pnx__registry_unheld(registry);
}

void pnx__row_object(struct pnx_registry *registry, const struct pnx_row *row, pnx_resource_id id,
        char ret_object[PNX_ROW_NAME_MAX]) {
    const struct pnx_row_label *label = pnx__row_label(registry, id);
    const char *object = label && label->name[0] ? label->name : row->type;
    size_t n = strnlen(object, PNX_ROW_NAME_MAX - 1);
    memcpy(ret_object, object, n);
    ret_object[n] = '\0';
}

/* What a removal found out about an earlier one. */
struct misuse {
    bool found;
    const char *first_site;
    char object[PNX_ROW_NAME_MAX];
};

#define WAIT 1 /* no error: the cleanup is running */

/* One try under the lock.  Returns 0 when the row was live and is now free, WAIT, or the removal's error. */
static int strike_locked(struct pnx_registry *registry, struct pnx_shard *shard,
        struct pnx_row *row, pnx_resource_id id, const char *site, struct misuse *ret_misuse,
        struct pnx_row_effects *effects) {
    uint64_t word = pnx__row_word(row);
    if (pnx__word_id(word) != id) {
        ret_misuse->found = is_past(registry, pnx__generation(id), pnx__generation(word));
        return -ESTALE;
    }
    switch (pnx__word_state(word)) {
    case PNX_ROW_LIVE:
        row->released_at = site;
        row->code = 0;
        pnx_owner_add(&shard->removed, 1);
        pnx__row_move_locked(row, id, PNX_ROW_FREE);
        pnx__row_changed_locked(registry, shard, effects);
        pnx__row_gone_locked(registry, shard, row, id, effects);
        return 0;
    case PNX_ROW_RUNNING:
    case PNX_ROW_PENDING:
    case PNX_ROW_ABANDONED:
        /* In a forked child nobody is left to end what ran in the parent: there is nothing to wait for. */
        if (!pnx__row_is_ours(row))
            return -EALREADY;
        return pnx__row_hand(row) < PNX_HAND_REQUEST ? WAIT : -EINPROGRESS;
    case PNX_ROW_DONE:
    case PNX_ROW_FAILED:
    case PNX_ROW_LATE:
        /* The registry ended it, and now the owner takes note.  The slot is in the queue already. */
        row->released_at = site;
        pnx__row_move_locked(row, id, PNX_ROW_FREE);
        return -EALREADY;
    case PNX_ROW_FREE:
        break;
    }
    ret_misuse->found = true;
    ret_misuse->first_site = row->released_at;
    pnx__row_object(registry, row, id, ret_misuse->object);
    return -EALREADY;
}

static int strike(struct pnx_registry *registry, pnx_resource_id id, const char *site,
        struct misuse *ret_misuse) {
    struct pnx_row *row = pnx__row_find(registry, id);
    if (!row) {
        pnx__registry_count_up(&registry->values.misuses);
        return -ESTALE;
    }
    bool waited = false;
    for (;;) {
        struct pnx_row_effects effects = {0};
        struct misuse misuse = {0};
        struct pnx_shard *shard = pnx__row_lock(registry, id);
        int rc = strike_locked(registry, shard, row, id, site, &misuse, &effects);
        pnx__mutex_unlock(&shard->lock);
        pnx__row_effects(registry, shard, &effects);
        if (rc == WAIT) {
            rc = pnx__row_wait(registry, id);
            if (rc)
                return rc;
            waited = true;
            continue;
        }
        if (rc == 0 || rc == -EINPROGRESS)
            return rc;
        if (waited)
            return -EALREADY; /* whatever happened to the slot since: our cleanup had run */
        *ret_misuse = misuse;
        return rc;
    }
}

int pnx__row_remove(struct pnx_registry *registry, pnx_resource_id id, const char *site) {
    struct misuse misuse = {0};
    return strike(registry, id, site, &misuse);
}

int pnx_registry_remove_at(struct pnx_registry *registry, pnx_resource_id id, const char *site) {
    registry = pnx__registry_resolve(registry);
    if (registry->off || id == 0)
        return 0;
    struct misuse misuse = {0};
    int rc = strike(registry, id, site, &misuse);
    if (misuse.found) {
        pnx__registry_count_up(&registry->values.misuses);
        pnx__event(&registry->block, PNX_EVENT_RESOURCE_RELEASED_TWICE,
                misuse.object[0] ? misuse.object : registry->name, rc, misuse.first_site,
                (int64_t)id, 0);
    }
    return rc;
}

/* ---- looking ---- */

static enum pnx_resource_state public_state(uint64_t word) {
    switch (pnx__word_state(word)) {
    case PNX_ROW_RUNNING:
        return PNX_RESOURCE_RUNNING;
    case PNX_ROW_PENDING:
        return PNX_RESOURCE_PENDING;
    case PNX_ROW_ABANDONED:
        return PNX_RESOURCE_ABANDONED;
    default:
        return PNX_RESOURCE_LIVE;
    }
}

void pnx__row_copy(struct pnx_registry *registry, const struct pnx_row *row, uint64_t word,
        pnx_ns now, struct pnx_resource_info *ret_info) {
    memset(ret_info, 0, sizeof(*ret_info));
    ret_info->id = pnx__word_id(word);
    ret_info->state = public_state(word);
    ret_info->type = row->type;
    ret_info->site = row->site;
    ret_info->bytes = row->bytes;
    pnx_ns added =
            registry->made + (pnx_ns)((row->stamp & PNX_STAMP_ADDED_MASK) << PNX_STAMP_UNIT_LOG2);
    ret_info->age = now > added ? now - added : 0;
    const struct pnx_row_label *label = pnx__row_label(registry, ret_info->id);
    if (!label)
        return;
    ret_info->parent = label->parent;
    ret_info->owner = label->owner;
    ret_info->tag = label->tag;
    memcpy(ret_info->name, label->name, sizeof(ret_info->name));
}

/* Locks the shard of a row that is there under the id; NULL, and nothing is locked, when there is none. */
static struct pnx_row *find_locked(
        struct pnx_registry *registry, pnx_resource_id id, struct pnx_shard **ret_shard) {
    struct pnx_row *row = pnx__row_find(registry, id);
    if (!row)
        return NULL;
    struct pnx_shard *shard = pnx__row_lock(registry, id);
    uint64_t word = pnx__row_word(row);
    if (pnx__word_id(word) == id && pnx__word_is_there(word)) {
        *ret_shard = shard;
        return row;
    }
    pnx__mutex_unlock(&shard->lock);
    return NULL;
}

int pnx_registry_set_bytes(struct pnx_registry *registry, pnx_resource_id id, uint64_t bytes) {
    registry = pnx__registry_resolve(registry);
    if (registry->off || id == 0)
        return 0;
    struct pnx_shard *shard;
    struct pnx_row *row = find_locked(registry, id, &shard);
    if (!row)
        return -ESTALE;
    row->bytes = bytes;
    pnx__mutex_unlock(&shard->lock);
    return 0;
}

int pnx_registry_info(
        struct pnx_registry *registry, pnx_resource_id id, struct pnx_resource_info *ret_info) {
    registry = pnx__registry_resolve(registry);
    if (!ret_info)
        return -EINVAL;
    if (registry->off)
        return -ESTALE;
    pnx_ns now = pnx__now(&registry->env);
    struct pnx_shard *shard;
    struct pnx_row *row = find_locked(registry, id, &shard);
    if (!row)
        return -ESTALE;
    pnx__row_copy(registry, row, pnx__row_word(row), now, ret_info);
    pnx__mutex_unlock(&shard->lock);
    return 0;
}

void pnx__rows_each(struct pnx_registry *registry,
        void (*fn)(void *ctx, struct pnx_row *row, uint64_t word), void *ctx) {
    for (uint32_t s = 0; s < PNX_SHARDS; s++) {
        struct pnx_shard *shard = &registry->shard[s];
        pnx__mutex_lock(&shard->lock);
        for (uint32_t slot = 0; slot < shard->used; slot++) {
            struct pnx_row *row = pnx__slot_row(shard, slot);
            uint64_t word = pnx__row_word(row);
            if (pnx__word_is_there(word))
                fn(ctx, row, word);
        }
        pnx__mutex_unlock(&shard->lock);
    }
}
