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
#include "registry/trace.h"
#include "stats/utf8.h"

#include <patinox/registry.h>

#include <limits.h>
#include <string.h>

#define GENERATION_MASK ((UINT64_C(1) << PNX_GENERATION_BITS) - 1)
#define SERIALS_MAX     64 /* that a shard takes at once */
#define KNOWN_FLAGS \
    (PNX_RESOURCE_FORCEABLE | PNX_RESOURCE_OWNED | PNX_RESOURCE_KEEP_AFTER_FORK | \
            PNX_RESOURCE_LONG_LIVED)

/* Whether the generation came before the slot's present one, counted from the registry's first. */
static bool is_past(const struct pnx_registry *registry, uint64_t generation, uint64_t present) {
    return present != 0 && ((generation - registry->base) & GENERATION_MASK) <
                                   ((present - registry->base) & GENERATION_MASK);
}

/* ---- slots ---- */

/* The id of a slot's next row. */
static pnx_resource_id next_id(uint64_t word) {
    pnx_resource_id id = pnx__word_id(word) + (UINT64_C(1) << PNX_GENERATION_SHIFT);
    if (pnx__generation(id) == 0) /* so that no id is 0 */
        id += UINT64_C(1) << PNX_GENERATION_SHIFT;
    return id;
}

/* Finds the slot that the next row would get, and that row's id.  NULL when the shard is full. */
static struct pnx_row *next_row_locked(struct pnx_registry *registry, const struct pnx_shard *shard,
        uint32_t number, pnx_resource_id *ret_id) {
    if (pnx__shard_rows_locked(shard) >= shard->allowed)
        return NULL;
    if (shard->n_free > shard->rest || (shard->n_free && !shard->rest)) {
        *ret_id = next_id(pnx__row_word(shard->free_first));
        return shard->free_first;
    }
    if (shard->used == shard->capacity)
        return NULL;
    *ret_id = pnx__id_of(registry->base, shard->used, number);
    return pnx__slot_row(shard, shard->used);
}

/* Takes what next_row_locked() has found. */
static void take_locked(struct pnx_shard *shard, const struct pnx_row *row) {
    if (row != shard->free_first) {
        shard->used++;
        shard->rest = shard->used < shard->capacity ? PNX_QUARANTINE : 0;
        return;
    }
    shard->free_first = row->next_free;
    if (!shard->free_first)
        shard->free_last = NULL;
    shard->n_free--;
}

/* ---- adding ---- */

/* What a row gets before a shard is locked. */
struct fresh {
    const struct pnx_resource *resource; /* all but cleanup and arg */
    pnx_cleanup_fn *cleanup;
    void *arg;
    uint64_t order; /* the flags */
    uint64_t stamp;
    bool labelled;
};

static bool needs_label(const struct pnx_resource *resource) {
    return ((uint64_t)(uintptr_t)resource->name | resource->parent | resource->owner |
                   resource->tag | (uint64_t)(uintptr_t)resource->in_child) != 0;
}

static void prepare(
        struct pnx_registry *registry, const struct pnx_resource *resource, struct fresh *fresh) {
    pnx_ns since = registry->env.now_coarse(registry->env.ctx) - registry->made;
    uint64_t added = (uint64_t)(since > 0 ? since : 0) >> PNX_STAMP_UNIT_LOG2;
    fresh->resource = resource;
    fresh->order = PNX_ROW_FLAG(resource->flags) | (uint64_t)resource->priority
                                                           << PNX_ROW_PRIORITY_SHIFT;
    fresh->stamp = (uint64_t)pnx__fork_generation() << PNX_STAMP_FORK_SHIFT |
                   (added & PNX_STAMP_ADDED_MASK);
    fresh->labelled = needs_label(resource);
}

static void copy_name(const char *name, char ret_name[PNX_ROW_NAME_MAX]) {
    size_t n = strnlen(name, PNX_ROW_NAME_MAX);
    if (n == PNX_ROW_NAME_MAX)
        n = pnx__utf8_cut(name, PNX_ROW_NAME_MAX - 1);
    memcpy(ret_name, name, n);
    ret_name[n] = '\0';
}

static void fill_label(
        struct pnx_row_label *label, pnx_resource_id id, const struct pnx_resource *resource) {
    label->id = id;
    label->parent = resource->parent;
    label->owner = resource->owner;
    label->tag = resource->tag;
    label->in_child = resource->in_child;
    copy_name(resource->name ? resource->name : "", label->name);
}

/*
 * Returns the next number in the order of adding.  A shard takes a block of numbers, and uses it as long as nobody has
 * taken a newer one, which is a look at a word that nobody writes then.
 *
 * Whoever adds after a row was added, in the order of happens-before, gets a larger number: the first one read or wrote
 * registry->serial, and so the second finds that value there or a newer one; if its own block does not end the newest,
 * it takes another, and else it is the newest, whose numbers are larger than those of all that came before.
 */
static uint64_t next_serial_locked(struct pnx_registry *registry, struct pnx_shard *shard) {
    if (shard->serial != shard->serial_end &&
            pnx_load(&registry->serial, PNX_RELAXED, "rows.newest") == shard->serial_end)
        return ++shard->serial;
    /* A block that was used up while nobody else added is followed by a larger one. */
    uint32_t n = shard->serial == shard->serial_end ? 2 * shard->block : 0;
    n = n == 0 ? 1 : n > SERIALS_MAX ? SERIALS_MAX : n;
    uint64_t last = pnx_fetch_add(&registry->serial, n, PNX_RELAXED, "rows.serial");
    shard->block = last == shard->serial_end ? n : 0;
    shard->serial = last + 1;
    shard->serial_end = last + n;
    return shard->serial;
}

/* All but the label, which stands there when the row becomes live. */
static inline void fill_locked(
        struct pnx_row *row, pnx_resource_id id, const struct fresh *fresh, uint64_t serial) {
    const struct pnx_resource *resource = fresh->resource;
    row->order = serial << PNX_ROW_SERIAL_SHIFT | fresh->order;
    row->stamp = fresh->stamp;
    row->type = resource->type;
    row->site = resource->site ? resource->site : "";
    row->cleanup = fresh->cleanup;
    row->arg = fresh->arg;
    row->bytes = resource->bytes;
    pnx__row_move_locked(row, id, PNX_ROW_LIVE);
}

/* The common case, in short: a slot is used again, and nothing is out of the way.  0: nothing has been done. */
static inline pnx_resource_id add_quickly(struct pnx_registry *registry, struct pnx_shard *shard,
        struct pnx_thread *self, const struct fresh *fresh) {
    pnx_resource_id id = 0;
    if (!pnx__lock_cheap(&shard->lock, self))
        return 0;
    struct pnx_row *row = shard->free_first;
    if (shard->n_free > shard->rest && shard->n_free > 1 && pnx__registry_is_open(registry) &&
            shard->held && pnx__shard_rows_locked(shard) < shard->allowed) {
        id = next_id(pnx__row_word(row));
        shard->free_first = row->next_free; /* there is another one */
        shard->n_free--;
        fill_locked(row, id, fresh, next_serial_locked(registry, shard));
        pnx_owner_add(&shard->added, 1);
    }
    pnx__unlock_cheap(&shard->lock, self);
    return id;
}

/*
 * Adds to the shard, which is locked.  -ENOBUFS when it is full, -ENODATA when the slot named by *ret_id needs a place
 * for a label first, -ESHUTDOWN.
 */
static int add_locked(struct pnx_registry *registry, struct pnx_shard *shard, uint32_t number,
        const struct fresh *fresh, pnx_resource_id *ret_id) {
    if (pnx__registry_is_closed(registry))
        return -ESHUTDOWN;
    struct pnx_row *row = next_row_locked(registry, shard, number, ret_id);
    if (!row)
        return -ENOBUFS;
    if (fresh->labelled && !pnx__side_place(registry, *ret_id, PNX_SIDE_LABEL))
        return -ENODATA;
    take_locked(shard, row);
    if (fresh->labelled)
        fill_label(pnx__side_place(registry, *ret_id, PNX_SIDE_LABEL), *ret_id, fresh->resource);
    fill_locked(row, *ret_id, fresh, next_serial_locked(registry, shard));
    pnx_owner_add(&shard->added, 1);
    if (!shard->held) {
        shard->held = true;
        pnx__registry_held(registry);
    }
    return 0;
}

static int add_to_shard(struct pnx_registry *registry, uint32_t number, bool wait,
        const struct fresh *fresh, pnx_resource_id *ret_id) {
    struct pnx_shard *shard = &registry->shard[number];
    int rc;
    do {
        if (wait)
            pnx__lock(&shard->lock);
        else if (!pnx__trylock(&shard->lock))
            return -EBUSY;
        rc = add_locked(registry, shard, number, fresh, ret_id);
        pnx__unlock(&shard->lock);
    } while (rc == -ENODATA && (rc = pnx__side_make(registry, *ret_id, PNX_SIDE_LABEL)) == 0);
    return rc;
}

/* Adds to the first shard from home on that has a slot, waiting for their locks or not; -ENOBUFS when none has. */
static int add_to_any(struct pnx_registry *registry, uint32_t home, bool wait,
        const struct fresh *fresh, pnx_resource_id *ret_id) {
    int rc = -ENOBUFS;
    for (uint32_t i = 0; i < PNX_SHARDS && (rc == -ENOBUFS || rc == -EBUSY); i++)
        rc = add_to_shard(registry, (home + i) % PNX_SHARDS, wait, fresh, ret_id);
    return rc == -EBUSY ? -ENOBUFS : rc;
}

/* Grows a shard until the row fits in. */
static int add_and_grow(struct pnx_registry *registry, uint32_t home, const struct fresh *fresh,
        pnx_resource_id *ret_id) {
    for (uint32_t full = 0; full < PNX_SHARDS;) { /* shards that cannot grow any more */
        struct pnx_shard *shard = &registry->shard[home];
        pnx__lock(&shard->lock);
        uint32_t n_chunks = shard->n_chunks;
        pnx__unlock(&shard->lock);
        int rc = add_to_shard(registry, home, true, fresh, ret_id);
        if (rc != -ENOBUFS)
            return rc;
        rc = pnx__shard_grow(registry, shard, n_chunks);
        if (rc == -ENOSPC) {
            home = (home + 1) % PNX_SHARDS;
            full++;
        } else if (rc) {
            return rc;
        }
    }
    return -EBUSY;
}

/*
 * A thread adds to the shard that it used last, at first to one by its number.  When that is full or somebody is in
 * it, the thread goes to another where there is room and nobody, and stays there.  So a shard grows only when all are
 * full or in use: the memory of threads that have gone is used again, and those that are there keep apart.  Threads that
 * have come together all the same, where there was room, part when they meet: each goes back to the shard by its number,
 * and that one grows.
 */
static __attribute__((noinline)) int add_row(
        struct pnx_registry *registry, const struct fresh *fresh, pnx_resource_id *ret_id) {
    struct pnx_thread *self = pnx__self();
    uint32_t home = self ? self->shard : 0;
    uint32_t own = self ? (uint32_t)(self->id % PNX_SHARDS) : 0;
    int rc = add_to_shard(registry, home, false, fresh, ret_id);
    if (rc != -ENOBUFS && rc != -EBUSY)
        return rc;
    bool met = rc == -EBUSY && home != own; /* somebody: threads that meet go back to their own */
    if (!met)
        rc = add_to_any(registry, home, false, fresh, ret_id);
    if (met || rc == -ENOBUFS)
        rc = add_and_grow(registry, met ? own : home, fresh, ret_id);
    if (rc == -EBUSY) /* there will be no more slots: a look at all of them */
        rc = add_to_any(registry, home, true, fresh, ret_id);
    if (rc == 0 && self)
        self->shard = pnx__shard_of(*ret_id);
    return rc;
}

static __attribute__((noinline, cold)) int refuse(
        struct pnx_registry *registry, int rc, struct pnx_error *err) {
    if (rc == -ENOMEM)
        return pnx__fail(err, rc, 0, "add", "registry %s: out of memory", registry->name);
    pnx__registry_count_up(&registry->values.refused);
    if (rc == -ESHUTDOWN)
        return pnx__fail(err, rc, 0, "add", "registry %s is shut down", registry->name);
    return pnx__fail(err, -EBUSY, 0, "add", "registry %s is full: %u rows are live", registry->name,
            registry->max);
}

/* Whether the row's end is one that its parent's cleanup must wait for, as in a shutdown. */
static bool counts_as_child(const struct pnx_resource *resource, pnx_cleanup_fn *cleanup) {
    return resource->parent && (cleanup || resource->flags & PNX_RESOURCE_OWNED);
}

static int join_parent(struct pnx_registry *registry, const struct pnx_resource *resource,
        bool counts, struct pnx_error *err) {
    pnx_resource_id parent = resource->parent;
    const struct pnx_row *row = pnx__row_find(registry, parent);
    int rc = row && pnx__row_word(row) == (parent | PNX_ROW_LIVE) ? 0 : -EINVAL;
    if (rc == 0 && counts)
        rc = pnx__family_join(registry, parent);
    if (rc != -EINVAL)
        return rc ? refuse(registry, rc, err) : 0;
    return pnx__fail_field(err, -EINVAL, "parent",
            "resource.parent %#llx is not a live row of registry %s", (unsigned long long)parent,
            registry->name);
}

static int check_resource(const struct pnx_resource *resource, struct pnx_error *err) {
    if (!resource->type)
        return pnx__fail_field(err, -EINVAL, "type", "resource.type is required");
    if ((resource->flags | (uint32_t)resource->priority) == 0)
        return 0;
    if (resource->flags & ~(uint32_t)KNOWN_FLAGS)
        return pnx__fail_field(err, -EINVAL, "flags", "resource.flags: unknown bits %#x",
                resource->flags & ~(uint32_t)KNOWN_FLAGS);
    if (resource->flags & PNX_RESOURCE_FORCEABLE && resource->flags & PNX_RESOURCE_OWNED)
        return pnx__fail_field(err, -EINVAL, "flags",
                "resource.flags: what only its owner ends cannot be forced by others");
    if (resource->priority < PNX_PRIORITY_DEFAULT || resource->priority > PNX_PRIORITY_LAST)
        return pnx__fail_field(
                err, -EINVAL, "priority", "resource.priority: there is no %d", resource->priority);
    return 0;
}

/* The row may have ended meanwhile, by somebody else: the caller keeps the registry. */
static __attribute__((noinline, cold)) void announce(
        struct pnx_registry *registry, const struct pnx_resource *resource, pnx_resource_id id) {
    char object[PNX_ROW_NAME_MAX];
    copy_name(resource->name && resource->name[0] ? resource->name : resource->type, object);
    pnx__mutex_assert_none_held();
    pnx__event(
            &registry->block, PNX_EVENT_RESOURCE_OPENED, object, 0, resource->type, (int64_t)id, 0);
}

int pnx__row_add(struct pnx_registry *registry, const struct pnx_resource *resource,
        pnx_cleanup_fn *cleanup, void *arg, struct pnx_error *err, pnx_resource_id *ret_id) {
    int rc = check_resource(resource, err);
    if (rc)
        return rc;
    enum pnx_registry_level level = pnx__level(registry);
    if (__builtin_expect(level == PNX_LEVEL_OFF, 0) &&
            !(resource->flags & PNX_RESOURCE_LONG_LIVED)) {
        *ret_id = 0;
        return 0;
    }
    bool counts = counts_as_child(resource, cleanup);
    if (resource->parent && (rc = join_parent(registry, resource, counts, err)))
        return rc;
    struct fresh fresh;
    fresh.cleanup = cleanup;
    fresh.arg = arg;
    prepare(registry, resource, &fresh);
    if (counts)
        fresh.order |= PNX_ROW_CHILD;
    struct pnx_thread *self = PNX_SELF;
    pnx_resource_id id = 0;
    if (self && !fresh.labelled)
        id = add_quickly(registry, &registry->shard[self->shard], self, &fresh);
    if (__builtin_expect(id == 0, 0)) {
        rc = add_row(registry, &fresh, &id);
        if (rc && counts)
            pnx__family_leave(registry, resource->parent);
        if (rc)
            return refuse(registry, rc, err);
    }
    if (__builtin_expect(level >= PNX_LEVEL_ADVANCED, 0))
        pnx__trace_added(registry, level, id);
    *ret_id = id;
    if (__builtin_expect(resource->flags & PNX_RESOURCE_LONG_LIVED, 0))
        announce(registry, resource, id);
    return 0;
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
    return pnx__row_add(registry, resource, resource->cleanup, resource->arg, err, ret_id);
}

/* ---- ending ---- */

void pnx__row_changed_locked(
        struct pnx_registry *registry, struct pnx_shard *shard, struct pnx_row_effects *effects) {
    if (shard->waiting) {
        /* Under the lock, like the load of run.turn before the wait: only the futex needs it atomic. */
        pnx_fetch_add(&shard->turn, 1, PNX_RELAXED, "rows.turn");
        effects->wake = true;
    }
    if (pnx__registry_is_closed(registry)) {
        /* pairs with shutdown.changed: the shutdown's next look sees the row's new state */
        pnx_fetch_add(&registry->changed, 1, PNX_RELEASE, "rows.changed");
        effects->shutdown = true;
    }
}

void pnx__row_gone_locked(struct pnx_registry *registry, struct pnx_shard *shard,
        struct pnx_row *row, pnx_resource_id id, struct pnx_row_effects *effects) {
    if (row->order & PNX_ROW_CHILD)
        pnx__family_leave_locked(registry, id);
    /* Not of a registry that is closed: the report is made from what the rows say. */
    if (pnx__word_state(pnx__row_word(row)) != PNX_ROW_LATE && !pnx__registry_is_closed(registry))
        pnx__row_queue_locked(registry, shard, row, id);
    if (!pnx__registry_has_holders(registry) && pnx__shard_rows_locked(shard) == 0) {
        shard->held = false;
        effects->unheld = true;
    }
}

void pnx__row_note_closed_locked(struct pnx_registry *registry, const struct pnx_row *row,
        pnx_resource_id id, int code, struct pnx_row_effects *effects) {
    if (!(row->order & PNX_ROW_LONG_LIVED) || !pnx__row_is_ours(row))
        return;
    pnx__registry_hold(registry); /* until now the row keeps it alive */
    effects->closed = true;
    effects->code = code;
    effects->type = row->type;
    effects->id = id;
    pnx__row_object(registry, row, id, effects->object);
}

static __attribute__((noinline, cold)) void tell_closed(
        struct pnx_registry *registry, const struct pnx_row_effects *effects) {
    pnx__mutex_assert_none_held();
    pnx__event(&registry->block, PNX_EVENT_RESOURCE_CLOSED, effects->object, effects->code,
            effects->type, (int64_t)effects->id, 0);
    pnx__registry_unhold(registry);
}

void pnx__row_effects(struct pnx_registry *registry, struct pnx_shard *shard,
        const struct pnx_row_effects *effects) {
    /* Of a registry that is gone only addresses are used. */
    if (effects->wake)
        pnx__futex_wake(&shard->turn, INT_MAX);
    if (effects->shutdown)
        pnx__futex_wake(&registry->changed, INT_MAX);
    if (effects->unheld)
        pnx__registry_unheld(registry);
    if (effects->closed)
        tell_closed(registry, effects);
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

/* What a removal does with a row that it cannot strike at once. */
enum strike_how {
    STRIKE_WAITS = 0, /* waits for the end of a running cleanup */
    STRIKE_KEEPS,     /* the same, and a live row stays */
    STRIKE_LEAVES,    /* waits for nobody */
};

static void free_live_locked(
        struct pnx_shard *shard, struct pnx_row *row, pnx_resource_id id, const char *site) {
    row->released_at = site;
    row->code = 0;
    pnx_owner_add(&shard->removed, 1);
    pnx__row_move_locked(row, id, PNX_ROW_FREE);
}

/* The common case, in short: the row is live, and its end has no effects.  false: nothing has been done. */
static inline bool strike_quickly(
        struct pnx_registry *registry, pnx_resource_id id, const char *site) {
    struct pnx_row *row = pnx__row_find(registry, id);
    struct pnx_shard *shard = &registry->shard[pnx__shard_of(id)];
    struct pnx_thread *self = PNX_SELF;
    if (!row || !pnx__lock_cheap(&shard->lock, self))
        return false;
    bool plain = pnx__row_word(row) == (id | PNX_ROW_LIVE) &&
                 !(row->order & (PNX_ROW_LONG_LIVED | PNX_ROW_CHILD)) &&
                 !pnx__row_end_matters_locked(registry, shard);
    if (plain) {
        free_live_locked(shard, row, id, site);
        pnx__row_queue_locked(registry, shard, row, id);
    }
    pnx__unlock_cheap(&shard->lock, self);
    return plain;
}

/*
 * One try under the lock.  Returns 0 when the row was live and is now free, WAIT, or the removal's error; -EAGAIN when
 * it is live and to be kept.
 */
static int strike_locked(struct pnx_registry *registry, struct pnx_shard *shard,
        struct pnx_row *row, pnx_resource_id id, const char *site, bool keep,
        struct misuse *ret_misuse, struct pnx_row_effects *effects) {
    uint64_t word = pnx__row_word(row);
    if (pnx__word_id(word) != id) {
        ret_misuse->found = is_past(registry, pnx__generation(id), pnx__generation(word));
        ret_misuse->first_site = NULL;
        ret_misuse->object[0] = '\0';
        return -ESTALE;
    }
    switch (pnx__word_state(word)) {
    case PNX_ROW_LIVE:
        if (keep && pnx__row_is_ours(row))
            return -EAGAIN;
        pnx__row_note_closed_locked(registry, row, id, 0, effects);
        free_live_locked(shard, row, id, site);
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

static __attribute__((noinline)) int strike(struct pnx_registry *registry, pnx_resource_id id,
        const char *site, enum strike_how how, struct misuse *ret_misuse) {
    struct pnx_row *row = pnx__row_find(registry, id);
    if (!row) {
        pnx__registry_count_up(&registry->values.misuses);
        return -ESTALE;
    }
    bool waited = false;
    for (;;) {
        struct pnx_row_effects effects = {0};
        struct misuse misuse;
        misuse.found = false;
        struct pnx_shard *shard = pnx__row_lock(registry, id);
        int rc = strike_locked(
                registry, shard, row, id, site, how == STRIKE_KEEPS, &misuse, &effects);
        pnx__unlock(&shard->lock);
        pnx__row_effects(registry, shard, &effects);
        if (rc == WAIT && how == STRIKE_LEAVES)
            return -EINPROGRESS;
        if (rc == WAIT) {
            rc = pnx__row_wait(registry, id);
            if (rc)
                return rc;
            waited = true;
            continue;
        }
        if (rc == 0 || rc == -EINPROGRESS || rc == -EAGAIN)
            return rc;
        if (waited)
            return -EALREADY; /* whatever happened to the slot since: our cleanup had run */
        if (misuse.found)
            *ret_misuse = misuse;
        else if (rc == -ESTALE) /* not of this registry, whose slot it happens to name */
            pnx__registry_count_up(&registry->values.misuses);
        return rc;
    }
}

int pnx__row_remove(struct pnx_registry *registry, pnx_resource_id id, const char *site) {
    struct misuse misuse;
    return strike_quickly(registry, id, site) ? 0
                                              : strike(registry, id, site, STRIKE_WAITS, &misuse);
}

int pnx__row_leave(struct pnx_registry *registry, pnx_resource_id id, const char *site) {
    struct misuse misuse;
    return strike_quickly(registry, id, site) ? 0
                                              : strike(registry, id, site, STRIKE_LEAVES, &misuse);
}

int pnx__row_meet(struct pnx_registry *registry, pnx_resource_id id, const char *site) {
    struct misuse misuse;
    return strike(registry, id, site, STRIKE_KEEPS, &misuse);
}

void pnx__row_disown(struct pnx_registry *registry, pnx_resource_id id) {
    struct pnx_row *row = pnx__row_find(registry, id);
    struct pnx_row_effects effects = {0};
    struct pnx_shard *shard = pnx__row_lock(registry, id);
    uint64_t word = pnx__row_word(row);
    if (pnx__word_id(word) == id && pnx__word_is_there(word) && row->order & PNX_ROW_OWNED) {
        row->order &= ~PNX_ROW_OWNED;
        /* Relaxed: who has seen rows.changed, which follows, sees it. */
        pnx_fetch_add(&registry->disowned, 1, PNX_RELAXED, "rows.disown");
        pnx__row_changed_locked(registry, shard, &effects);
    }
    pnx__unlock(&shard->lock);
    pnx__row_effects(registry, shard, &effects);
}

static __attribute__((noinline)) int remove_slowly(
        struct pnx_registry *registry, pnx_resource_id id, const char *site) {
    struct misuse misuse;
    misuse.found = false;
    int rc = strike(registry, id, site, STRIKE_WAITS, &misuse);
    if (misuse.found) {
        pnx__registry_count_up(&registry->values.misuses);
        pnx__event(&registry->block, PNX_EVENT_RESOURCE_RELEASED_TWICE,
                misuse.object[0] ? misuse.object : registry->name, rc, misuse.first_site,
                (int64_t)id, 0);
    }
    return rc;
}

int pnx_registry_remove_at(struct pnx_registry *registry, pnx_resource_id id, const char *site) {
    registry = pnx__registry_resolve(registry);
    if (registry->off || id == 0)
        return 0;
    return strike_quickly(registry, id, site) ? 0 : remove_slowly(registry, id, site);
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

static uint32_t public_flags(const struct pnx_row *row) {
    return (uint32_t)(row->order & (PNX_ROW_FORCEABLE | PNX_ROW_OWNED | PNX_ROW_KEEP));
}

void pnx__row_describe(const struct pnx_registry *registry, const struct pnx_row *row,
        const struct pnx_row_label *label, pnx_ns now, struct pnx_resource_info *ret_info) {
    uint64_t word = row->word.v; /* a copy's, or under the shard's lock */
    pnx_ns added =
            registry->made + (pnx_ns)((row->stamp & PNX_STAMP_ADDED_MASK) << PNX_STAMP_UNIT_LOG2);
    ret_info->id = pnx__word_id(word);
    ret_info->parent = label ? label->parent : 0;
    ret_info->state = public_state(word);
    ret_info->code = 0;
    ret_info->type = row->type;
    ret_info->site = row->site;
    ret_info->owner = label ? label->owner : 0;
    ret_info->tag = label ? label->tag : 0;
    ret_info->bytes = row->bytes;
    ret_info->age = now > added ? now - added : 0;
    ret_info->flags = public_flags(row);
    ret_info->priority = (int32_t)pnx__row_priority(row);
    ret_info->asked = (row->order & PNX_ROW_ASKED) != 0;
    if (label)
        memcpy(ret_info->name, label->name, sizeof(ret_info->name));
    else
        ret_info->name[0] = '\0';
}

void pnx__row_copy(struct pnx_registry *registry, const struct pnx_row *row, uint64_t word,
        pnx_ns now, struct pnx_resource_info *ret_info) {
    struct pnx_row copy = *row;
    copy.word.v = word;
    pnx__row_describe(registry, &copy, pnx__row_label(registry, pnx__word_id(word)), now, ret_info);
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
    pnx__unlock(&shard->lock);
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
    if (!(row->order & PNX_ROW_MEMBER)) /* a report shows what there was when the shutdown began */
        row->bytes = bytes;
    pnx__unlock(&shard->lock);
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
    pnx__unlock(&shard->lock);
    return 0;
}

void pnx__rows_each(struct pnx_registry *registry,
        void (*fn)(void *ctx, struct pnx_row *row, uint64_t word), void *ctx) {
    for (uint32_t s = 0; s < PNX_SHARDS; s++) {
        struct pnx_shard *shard = &registry->shard[s];
        pnx__lock(&shard->lock);
        for (uint32_t slot = 0; slot < shard->used; slot++) {
            struct pnx_row *row = pnx__slot_row(shard, slot);
            uint64_t word = pnx__row_word(row);
            if (pnx__word_is_there(word))
                fn(ctx, row, word);
        }
        pnx__unlock(&shard->lock);
    }
}
