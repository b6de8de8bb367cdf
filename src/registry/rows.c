/* SPDX-License-Identifier: Apache-2.0 */
/*
 * registry/rows.c - the ledger itself: slots, ids, and every move of a row's state.
 *
 *   P1  move() is the only place that changes a row's word; whoever's compare-and-swap succeeds owns the move.
 *   P2  A row's fields are written only while its slot is free, under the shard's lock.
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

#define GENERATION_SHIFT (64 - PNX_GENERATION_BITS)
#define GENERATION_MASK  ((UINT64_C(1) << PNX_GENERATION_BITS) - 1)
#define SLOT_MASK        ((UINT32_C(1) << PNX_SLOT_BITS) - 1)
#define SHARD_MASK       ((UINT32_C(1) << PNX_SHARD_BITS) - 1)

/* ---- slots and ids ---- */

static uint64_t word_of(uint64_t generation, enum pnx_row_state state) {
    return generation << GENERATION_SHIFT | (uint64_t)state;
}

static uint64_t next_generation(uint64_t generation) {
    generation = (generation + 1) & GENERATION_MASK;
    return generation ? generation : 1; /* so that no id is 0 */
}

/* Whether the generation came before the slot's present one, counted from the registry's first. */
static bool is_past(const struct pnx_registry *registry, uint64_t generation, uint64_t present) {
    return present != 0 && ((generation - registry->base) & GENERATION_MASK) <
                                   ((present - registry->base) & GENERATION_MASK);
}

static uint32_t capacity_locked(const struct pnx_shard *shard) {
    return (PNX_CHUNK_FIRST << shard->n_chunks) - PNX_CHUNK_FIRST;
}

static struct pnx_row *slot_row(struct pnx_shard *shard, uint32_t slot) {
    uint32_t k = 31u - (uint32_t)__builtin_clz(slot / PNX_CHUNK_FIRST + 1);
    if (k >= PNX_CHUNKS)
        return NULL;
    struct pnx_row *chunk =
            pnx_load(&shard->chunk[k], PNX_ACQUIRE, "rows.chunk"); /* pairs with rows.grow */
    if (!chunk)
        return NULL;
    return &chunk[slot + PNX_CHUNK_FIRST - (PNX_CHUNK_FIRST << k)];
}

struct pnx_row *pnx__row_find(struct pnx_registry *registry, pnx_resource_id id) {
    uint32_t shard = (uint32_t)id & SHARD_MASK;
    if (shard >= PNX_SHARDS)
        return NULL;
    return slot_row(&registry->shard[shard], (uint32_t)(id >> PNX_SHARD_BITS) & SLOT_MASK);
}

pnx_resource_id pnx__row_id(const struct pnx_row *row, uint64_t word) {
    return pnx__generation(word) << GENERATION_SHIFT | row->index;
}

struct pnx_shard *pnx__row_lock(struct pnx_registry *registry, const struct pnx_row *row) {
    struct pnx_shard *shard = &registry->shard[row->index & SHARD_MASK];
    pnx__mutex_lock(&shard->lock);
    return shard;
}

uint64_t pnx__row_word(const struct pnx_row *row) {
    return pnx_load(&row->word, PNX_ACQUIRE, "rows.word"); /* pairs with rows.move */
}

/*
 * Moves a row from *word to another state, in the next generation when it becomes live.  On failure *word is
 * what was found instead.
 */
static bool move(struct pnx_row *row, uint64_t *word, uint64_t generation, enum pnx_row_state to) {
    /* Pairs with rows.word: who sees the new state sees what its maker did before. */
    return pnx_cas_acquire(&row->word, word, word_of(generation, to), PNX_ACQ_REL, "rows.move");
}

static void free_locked(struct pnx_registry *registry, struct pnx_shard *shard, struct pnx_row *row,
        uint64_t word) {
    if (next_generation(pnx__generation(word)) == registry->base)
        return; /* all generations are used up: the slot rests for ever */
    row->next_free = 0;
    uint32_t link = (row->index >> PNX_SHARD_BITS) + 1;
    if (shard->free_last)
        slot_row(shard, shard->free_last - 1)->next_free = link;
    else
        shard->free_first = link;
    shard->free_last = link;
    shard->n_free++;
}

static struct pnx_row *take_locked(struct pnx_shard *shard) {
    if (shard->used < capacity_locked(shard) && shard->n_free < PNX_QUARANTINE) {
        return slot_row(shard, shard->used++);
    }
    if (shard->n_free == 0)
        return NULL;
    struct pnx_row *row = slot_row(shard, shard->free_first - 1);
    shard->free_first = row->next_free;
    if (!shard->free_first)
        shard->free_last = 0;
    shard->n_free--;
    return row;
}

/* Adds a chunk to the shard; n_chunks is what the caller saw.  -ENOMEM, -EBUSY when it is as large as can be. */
static int grow(struct pnx_registry *registry, struct pnx_shard *shard, uint32_t n_chunks) {
    if (n_chunks >= PNX_CHUNKS)
        return -EBUSY;
    size_t count = (size_t)PNX_CHUNK_FIRST << n_chunks;
    struct pnx_row *chunk = pnx__alloc(&registry->env, count, sizeof(*chunk));
    if (!chunk)
        return -ENOMEM;
    /* Fixed before anybody can look: who comes with an id that is none reads it, too, before he has the lock. */
    uint32_t first = (PNX_CHUNK_FIRST << n_chunks) - PNX_CHUNK_FIRST;
    for (size_t i = 0; i < count; i++)
        chunk[i].index =
                (first + (uint32_t)i) << PNX_SHARD_BITS | (uint32_t)(shard - registry->shard);
    pnx__mutex_lock(&shard->lock);
    if (shard->n_chunks == n_chunks) {
        pnx_store(&shard->chunk[n_chunks], chunk, PNX_RELEASE,
                "rows.grow"); /* pairs with rows.chunk */
        shard->n_chunks++;
        chunk = NULL;
    }
    pnx__mutex_unlock(&shard->lock);
    pnx__free(&registry->env, chunk, count, sizeof(*chunk)); /* another thread was first */
    return 0;
}

/* ---- adding ---- */

static void fill_locked(struct pnx_registry *registry, struct pnx_row *row,
        const struct pnx_resource *resource, pnx_ns now, uint32_t fork, pnx_resource_id *ret_id) {
    /* Under the shards' locks, and a parent's serial is read before: later rows have larger numbers. */
    row->serial = pnx_fetch_add(&registry->serial, 1, PNX_RELAXED, "rows.serial") + 1;
    row->added = now;
    row->type = resource->type;
    row->site = resource->site ? resource->site : "";
    row->cleanup = resource->cleanup;
    row->arg = resource->arg;
    row->parent = resource->parent;
    row->owner = resource->owner;
    row->tag = resource->tag;
    row->bytes = resource->bytes;
    row->fork = fork;
    row->released_at = NULL;
    row->code = 0;
    const char *name = resource->name ? resource->name : "";
    size_t n = strnlen(name, PNX_ROW_NAME_MAX);
    if (n == PNX_ROW_NAME_MAX)
        n = pnx__utf8_cut(name, PNX_ROW_NAME_MAX - 1);
    memcpy(row->name, name, n);
    row->name[n] = '\0';

    uint64_t word = pnx__row_word(row);
    uint64_t generation = pnx__generation(word);
    generation = generation ? next_generation(generation) : registry->base;
    move(row, &word, generation, PNX_ROW_LIVE); /* cannot fail: the slot is ours */
    *ret_id = pnx__row_id(row, word_of(generation, PNX_ROW_LIVE));
}

static bool is_closed(const struct pnx_registry *registry) {
    /*
     * No partner: a shutdown sets it before it takes each shard's lock, and here it is read under such a lock or
     * after one.  Either the shutdown sees what was done under the lock, or the flag is seen here.
     */
    return pnx_load(&registry->closed, PNX_RELAXED, "rows.closed") != 0;
}

/* Adds to the first shard from home on that has a slot; -EAGAIN when none has one. */
static int add_to_a_shard(struct pnx_registry *registry, uint32_t home,
        const struct pnx_resource *resource, pnx_resource_id *ret_id, uint32_t *ret_chunks) {
    pnx_ns now = registry->env.now_coarse(registry->env.ctx);
    uint32_t fork = pnx__fork_generation();
    for (uint32_t i = 0; i < PNX_SHARDS; i++) {
        struct pnx_shard *shard = &registry->shard[(home + i) % PNX_SHARDS];
        pnx__mutex_lock(&shard->lock);
        bool closed = is_closed(registry);
        if (i == 0)
            *ret_chunks = shard->n_chunks;
        struct pnx_row *row = closed ? NULL : take_locked(shard);
        if (row)
            fill_locked(registry, row, resource, now, fork, ret_id);
        pnx__mutex_unlock(&shard->lock);
        if (row || closed)
            return row ? 0 : -ESHUTDOWN;
    }
    return -EAGAIN;
}

static int add_row(struct pnx_registry *registry, const struct pnx_resource *resource,
        pnx_resource_id *ret_id) {
    const struct pnx_thread *self = pnx__thread();
    uint32_t home = self ? (uint32_t)(self->id % PNX_SHARDS) : 0;
    uint32_t full = 0; /* shards that cannot grow any more */
    for (;;) {
        uint32_t n_chunks = 0;
        int rc = add_to_a_shard(registry, home, resource, ret_id, &n_chunks);
        if (rc != -EAGAIN)
            return rc;
        rc = grow(registry, &registry->shard[home], n_chunks);
        if (rc == -EBUSY && ++full < PNX_SHARDS)
            home = (home + 1) % PNX_SHARDS;
        else if (rc)
            return rc;
    }
}

static int refuse(struct pnx_registry *registry, int rc, struct pnx_error *err) {
    pnx__registry_unref(registry, 1); /* the caller's own reference keeps it */
    if (rc == -ENOMEM)
        return pnx__fail(err, rc, 0, "add", "registry %s: out of memory", registry->name);
    pnx__registry_count_up(&registry->values.refused);
    if (rc == -ESHUTDOWN)
        return pnx__fail(err, rc, 0, "add", "registry %s is shut down", registry->name);
    return pnx__fail(err, rc, 0, "add", "registry %s is full: %u rows are live", registry->name,
            registry->max);
}

static int check_resource(
        struct pnx_registry *registry, const struct pnx_resource *resource, struct pnx_error *err) {
    if (!resource->type)
        return pnx__fail_field(err, -EINVAL, "type", "resource.type is required");
    if (resource->parent == 0)
        return 0;
    const struct pnx_row *parent = pnx__row_find(registry, resource->parent);
    uint64_t word = parent ? pnx__row_word(parent) : 0;
    if (pnx__generation(word) != pnx__generation(resource->parent) ||
            pnx__word_state(word) != PNX_ROW_LIVE)
        return pnx__fail_field(err, -EINVAL, "parent",
                "resource.parent %#llx is not a live row of registry %s",
                (unsigned long long)resource->parent, registry->name);
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
    struct pnx_resource copy = {.size = sizeof(copy)};
    int rc = pnx__opts_copy("resource", sizeof(copy), resource, &copy, err);
    if (rc == 0)
        rc = check_resource(registry, &copy, err);
    if (rc)
        return rc;
    uint64_t before = pnx_fetch_add(&registry->refs, 1, PNX_RELAXED,
            "rows.add"); /* the caller's own reference keeps the registry alive */
    if ((before & UINT32_MAX) >= registry->max)
        return refuse(registry, is_closed(registry) ? -ESHUTDOWN : -EBUSY, err);
    pnx_resource_id id;
    rc = add_row(registry, &copy, &id);
    if (rc)
        return refuse(registry, rc, err);
    pnx__registry_count_up(&registry->values.added);
    pnx__registry_count_up(&registry->values.live);
    *ret_id = id;
    return 0;
}

/* ---- ending ---- */

/* A row's state has changed: lets a shutdown look again. */
static void tell_shutdown(struct pnx_registry *registry) {
    if (!is_closed(registry))
        return;
    /* pairs with shutdown.changed: the shutdown's next look sees the row's new state */
    pnx_fetch_add(&registry->shutdown.changed, 1, PNX_RELEASE, "rows.changed");
    pnx__futex_wake(&registry->shutdown.changed, INT_MAX);
}

/* Takes a row out of the count, and drops its hold on the registry. */
static void discount(struct pnx_registry *registry) {
    pnx__registry_count_down(&registry->values.live);
    pnx__registry_unref(registry, 1);
}

/* What a removal found out about an earlier one. */
struct misuse {
    bool found;
    const char *first_site;
    char object[PNX_ROW_NAME_MAX];
};

static void note_misuse_locked(
        const struct pnx_row *row, bool same_generation, struct misuse *ret) {
    ret->found = true;
    if (!same_generation)
        return;
    ret->first_site = row->released_at;
    const char *object = row->name[0] ? row->name : row->type;
    size_t n = strnlen(object, PNX_ROW_NAME_MAX - 1);
    memcpy(ret->object, object, n);
    ret->object[n] = '\0';
}

/*
 * One try under the lock.  Returns -EINPROGRESS when the cleanup is running, and 0 when the row was live and is
 * now free.
 */
static int strike_locked(struct pnx_registry *registry, struct pnx_shard *shard,
        struct pnx_row *row, pnx_resource_id id, const char *site, uint32_t fork,
        struct misuse *ret_misuse) {
    uint64_t word = pnx__row_word(row);
    uint64_t generation = pnx__generation(word);
    if (generation != pnx__generation(id)) {
        if (is_past(registry, pnx__generation(id), generation))
            note_misuse_locked(row, false, ret_misuse);
        return -ESTALE;
    }
    switch (pnx__word_state(word)) {
    case PNX_ROW_LIVE:
        if (!move(row, &word, generation, PNX_ROW_FREE))
            return -EAGAIN;
        row->released_at = site;
        free_locked(registry, shard, row, word);
        return 0;
    case PNX_ROW_RUNNING:
    case PNX_ROW_ABANDONED:
        /* In a forked child nobody is left to end what ran in the parent: there is nothing to wait for. */
        return row->fork == fork ? -EINPROGRESS : -EALREADY;
    case PNX_ROW_DONE:
    case PNX_ROW_FAILED:
    case PNX_ROW_LATE:
        /* The registry ended it, and now the owner takes note.  The slot is in the queue already. */
        if (move(row, &word, generation, PNX_ROW_FREE))
            row->released_at = site;
        return -EALREADY;
    case PNX_ROW_FREE:
        break;
    }
    note_misuse_locked(row, true, ret_misuse);
    return -EALREADY;
}

static int strike(struct pnx_registry *registry, pnx_resource_id id, const char *site,
        struct misuse *ret_misuse) {
    struct pnx_row *row = pnx__row_find(registry, id);
    if (!row) {
        pnx__registry_count_up(&registry->values.misuses);
        return -ESTALE;
    }
    uint32_t fork = pnx__fork_generation();
    bool waited = false;
    for (;;) {
        struct pnx_shard *shard = pnx__row_lock(registry, row);
        struct misuse misuse = {0};
        int rc = strike_locked(registry, shard, row, id, site, fork, &misuse);
        pnx__mutex_unlock(&shard->lock);
        if (rc == 0) {
            pnx__registry_count_up(&registry->values.removed);
            tell_shutdown(registry);
            discount(registry);
            return 0;
        }
        if (rc == -EINPROGRESS) {
            rc = pnx__row_wait(registry, row, id);
            if (rc)
                return rc;
            waited = true;
            continue;
        }
        if (rc == -EAGAIN)
            continue;
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

int pnx__row_claim(
        struct pnx_registry *registry, struct pnx_row *row, pnx_resource_id id, pnx_ns deadline) {
    uint32_t fork = pnx__fork_generation();
    struct pnx_shard *shard = pnx__row_lock(registry, row);
    uint64_t word = pnx__row_word(row);
    int rc = 0;
    if (pnx__generation(word) != pnx__generation(id) ||
            (pnx__word_state(word) == PNX_ROW_LIVE && row->fork != fork))
        rc = -ESTALE;
    else if (pnx__word_state(word) != PNX_ROW_LIVE)
        rc = -EALREADY;
    else if (!row->cleanup)
        rc = -ENOTSUP;
    if (rc == 0) {
        /* Both are published by the move. */
        pnx_store(&row->cancel.deadline, (uint64_t)deadline, PNX_RELAXED, "rows.deadline");
        pnx_store(&row->cancel.requested, 0, PNX_RELAXED, "rows.not_requested");
        if (!move(row, &word, pnx__generation(word), PNX_ROW_RUNNING))
            rc = -EALREADY;
    }
    pnx__mutex_unlock(&shard->lock);
    return rc;
}

bool pnx__row_abandon(struct pnx_registry *registry, struct pnx_row *row) {
    struct pnx_shard *shard = pnx__row_lock(registry, row);
    uint64_t word = pnx__row_word(row);
    bool moved = pnx__word_state(word) == PNX_ROW_RUNNING &&
                 move(row, &word, pnx__generation(word), PNX_ROW_ABANDONED);
    pnx__mutex_unlock(&shard->lock);
    return moved;
}

void pnx__row_end(struct pnx_registry *registry, struct pnx_row *row, int code) {
    struct pnx_shard *shard = pnx__row_lock(registry, row);
    uint64_t word = pnx__row_word(row);
    bool late = pnx__word_state(word) == PNX_ROW_ABANDONED;
    row->code = code;
    /* Before the move: who waits for the end finds the row gone from the count, too. */
    discount(registry);
    move(row, &word, pnx__generation(word),
            late   ? PNX_ROW_LATE
            : code ? PNX_ROW_FAILED
                   : PNX_ROW_DONE);
    if (!late)
        free_locked(registry, shard, row, word);
    pnx_fetch_add(&row->turn, 1, PNX_RELEASE, "rows.turn"); /* pairs with run.turn */
    pnx__mutex_unlock(&shard->lock);
    pnx__futex_wake(&row->turn, INT_MAX);
    tell_shutdown(registry);
}

/* ---- looking ---- */

static bool is_there(uint64_t word) {
    enum pnx_row_state state = pnx__word_state(word);
    return state == PNX_ROW_LIVE || state == PNX_ROW_RUNNING || state == PNX_ROW_ABANDONED;
}

void pnx__row_copy(
        const struct pnx_row *row, uint64_t word, pnx_ns now, struct pnx_resource_info *ret_info) {
    enum pnx_row_state state = pnx__word_state(word);
    memset(ret_info, 0, sizeof(*ret_info));
    ret_info->id = pnx__row_id(row, word);
    ret_info->parent = row->parent;
    ret_info->state = state == PNX_ROW_RUNNING     ? PNX_RESOURCE_RUNNING
                      : state == PNX_ROW_ABANDONED ? PNX_RESOURCE_ABANDONED
                                                   : PNX_RESOURCE_LIVE;
    ret_info->type = row->type;
    ret_info->site = row->site;
    memcpy(ret_info->name, row->name, sizeof(ret_info->name));
    ret_info->owner = row->owner;
    ret_info->tag = row->tag;
    ret_info->age = now > row->added ? now - row->added : 0;
}

/* Locks the shard of a row that is there under the id; NULL, and nothing is locked, when there is none. */
static struct pnx_row *find_locked(
        struct pnx_registry *registry, pnx_resource_id id, struct pnx_shard **ret_shard) {
    struct pnx_row *row = pnx__row_find(registry, id);
    if (!row)
        return NULL;
    struct pnx_shard *shard = pnx__row_lock(registry, row);
    uint64_t word = pnx__row_word(row);
    if (pnx__generation(word) == pnx__generation(id) && is_there(word)) {
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
    pnx__row_copy(row, pnx__row_word(row), now, ret_info);
    ret_info->bytes = row->bytes;
    pnx__mutex_unlock(&shard->lock);
    return 0;
}

void pnx__rows_each(struct pnx_registry *registry,
        void (*fn)(void *ctx, struct pnx_row *row, uint64_t word), void *ctx) {
    for (uint32_t s = 0; s < PNX_SHARDS; s++) {
        struct pnx_shard *shard = &registry->shard[s];
        pnx__mutex_lock(&shard->lock);
        for (uint32_t slot = 0; slot < shard->used; slot++) {
            struct pnx_row *row = slot_row(shard, slot);
            uint64_t word = pnx__row_word(row);
            if (is_there(word))
                fn(ctx, row, word);
        }
        pnx__mutex_unlock(&shard->lock);
    }
}
