/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mapping/view.c - views, and the gate between those who use a mapping's bytes and the one who changes them.
 *
 * Only a RESIZABLE mapping and a memfd, which can be sealed, have a gate in use; the bytes of others never change.
 *
 *     (open) --change--> CHANGING --move--> MOVING --put--> CHANGING --changed--> (open)
 *
 *     CHANGING   one thread has the say about the bytes; views come and go, calls use the bytes
 *     MOVING     no view is live, no call uses the bytes, and none begins: they wait
 *
 *   P1  While a view is live the bytes are neither moved nor cut.
 *   P2  Whoever would wait for himself gets -EDEADLK; for a thread that stayed behind in a fork's parent, -ESTALE.
 *
 * One lock for all mappings, held for some instructions: a fork then needs to hold one only.
 */
#include "mapping/mapping.h"

#include "os/fork.h"
#include "os/futex.h"
#include "os/thread.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

static struct pnx_mutex lock = PNX_MUTEX_STATIC(PNX_RANK_MAPPINGS);
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void before_fork(void) {
    pnx__fork_lock(&lock);
}

static void after_fork(void) {
    pnx__fork_unlock(&lock);
}

static void register_fork(void) {
    pnx__at_fork(PNX_RANK_MAPPINGS, before_fork, after_fork, after_fork);
}

static void enter(void) {
    pthread_once(&once, register_fork);
    pnx__mutex_lock(&lock);
}

static bool is_closed(const struct pnx_mapping *mapping) {
    /* A wish, without data: no partner. */
    return pnx_load(&mapping->closed, PNX_RELAXED, "mapping.closed") != 0;
}

/* Whether somebody may change what views and calls go by: another length, or seals. */
static bool is_gated(const struct pnx_mapping *mapping) {
    return (mapping->flags & PNX_MAPPING_RESIZABLE) || mapping->memory;
}

static bool holds(const struct pnx_mapping_bytes *bytes, uint64_t offset, size_t n) {
    return offset <= bytes->size && n <= bytes->size - (size_t)offset;
}

static uint64_t self_id(void) {
    struct pnx_thread *self = pnx__thread();
    return self ? self->id : UINT64_MAX; /* without a record no thread can be told from itself */
}

/* Waits for whoever changes the mapping, outside the lock; comes back into it.  See P2. */
static int wait_locked(struct pnx_mapping *mapping) {
    if (mapping->changing_generation != pnx__fork_generation())
        return -ESTALE;
    if (mapping->changing == self_id())
        return -EDEADLK;
    /* Relaxed: the lock orders it. */
    uint32_t turn = pnx_load(&mapping->turns, PNX_RELAXED, "mapping.turn_look");
    pnx__mutex_unlock(&lock);
    (void)pnx__futex_wait(&mapping->turns, turn, PNX_NEVER);
    pnx__mutex_lock(&lock);
    return 0;
}

/* Lets those who wait look again. */
static void next_turn_locked(struct pnx_mapping *mapping) {
    /* Relaxed: who wakes takes the lock before it looks at anything. */
    pnx_fetch_add(&mapping->turns, 1, PNX_RELAXED, "mapping.turn");
    pnx__futex_wake(&mapping->turns, UINT32_MAX);
}

/* Calls that were at work in a fork's parent are not in the child, and never let go. */
static void forget_parents_locked(struct pnx_mapping *mapping) {
    uint32_t generation = pnx__fork_generation();
    if (mapping->busy_generation != generation)
        mapping->busy = 0;
    mapping->busy_generation = generation;
}

/* ---- users ---- */

int pnx__mapping_hold(struct pnx_mapping *mapping, uint64_t offset, size_t n,
        struct pnx_mapping_bytes *ret_bytes) {
    if (is_closed(mapping))
        return -ESHUTDOWN;
    if (!is_gated(mapping)) {
        if (!holds(&mapping->bytes, offset, n))
            return -ERANGE;
        *ret_bytes = mapping->bytes;
        return 0;
    }
    int rc = 0;
    enter();
    while (rc == 0 && mapping->moving)
        rc = wait_locked(mapping);
    if (rc == 0 && !holds(&mapping->bytes, offset, n))
        rc = -ERANGE;
    if (rc == 0) {
        forget_parents_locked(mapping);
        mapping->busy++;
        *ret_bytes = mapping->bytes;
    }
    pnx__mutex_unlock(&lock);
    return rc;
}

void pnx__mapping_let_go(struct pnx_mapping *mapping) {
    if (!is_gated(mapping))
        return;
    enter();
    if (--mapping->busy == 0 && mapping->moving)
        next_turn_locked(mapping);
    pnx__mutex_unlock(&lock);
}

struct pnx_mapping_look pnx__mapping_look(const struct pnx_mapping *mapping) {
    bool gated = is_gated(mapping);
    if (gated)
        enter();
    struct pnx_mapping_look look = {
            .bytes = mapping->bytes,
            .seen = mapping->seen,
            .views = mapping->views,
            .epoch = mapping->epoch,
            .seals = mapping->seals,
    };
    if (gated)
        pnx__mutex_unlock(&lock);
    return look;
}

/* ---- the one who changes ---- */

int pnx__mapping_change(struct pnx_mapping *mapping) {
    int rc = 0;
    enter();
    while (rc == 0 && mapping->changing)
        rc = wait_locked(mapping);
    if (rc == 0) {
        mapping->changing = self_id();
        mapping->changing_generation = pnx__fork_generation();
    }
    pnx__mutex_unlock(&lock);
    return rc;
}

void pnx__mapping_changed(struct pnx_mapping *mapping) {
    enter();
    mapping->changing = 0;
    mapping->moving = false;
    next_turn_locked(mapping);
    pnx__mutex_unlock(&lock);
}

void pnx__mapping_sealed(struct pnx_mapping *mapping, uint32_t seals) {
    enter();
    mapping->seals |= seals;
    pnx__mutex_unlock(&lock);
}

int pnx__mapping_move(struct pnx_mapping *mapping, uint64_t *ret_views) {
    int rc = 0;
    enter();
    if (mapping->views) {
        *ret_views = mapping->views;
        rc = -EBUSY;
    } else {
        mapping->moving = true;
        forget_parents_locked(mapping);
    }
    while (rc == 0 && mapping->busy) {
        uint32_t turn = pnx_load(&mapping->turns, PNX_RELAXED, "mapping.turn_busy");
        pnx__mutex_unlock(&lock);
        (void)pnx__futex_wait(&mapping->turns, turn, PNX_NEVER);
        pnx__mutex_lock(&lock);
    }
    pnx__mutex_unlock(&lock);
    return rc;
}

void pnx__mapping_put(
        struct pnx_mapping *mapping, const struct pnx_mapping_bytes *bytes, bool moved) {
    enter();
    mapping->bytes = *bytes;
    mapping->seen = mapping->info;
    if (moved && ++mapping->epoch == 0)
        mapping->epoch = 1;
    mapping->moving = false;
    next_turn_locked(mapping);
    pnx__mutex_unlock(&lock);
}

/* ---- views ---- */

struct pnx_view pnx__view_of(
        const struct pnx_mapping *mapping, const struct pnx_mapping_bytes *bytes) {
    return (struct pnx_view){
            .p = bytes->data,
            .n = bytes->size,
            .epoch = mapping->epoch,
            .flags = pnx__mapping_writable(mapping, mapping->seals) ? PNX_VIEW_WRITABLE_ : 0,
    };
}

/* A view of nothing, where no other is to be had. */
static struct pnx_view empty_view(struct pnx_mapping *mapping) {
    struct pnx_mapping_look look = pnx__mapping_look(mapping);
    pnx__bytes_empty(&look.bytes);
    return (struct pnx_view){
            .p = look.bytes.data,
            .mapping = mapping,
            .epoch = look.epoch,
            .flags = pnx__mapping_writable(mapping, look.seals) ? PNX_VIEW_WRITABLE_ : 0,
    };
}

/* Gets n bytes, or all that there are, and counts the view if it can stand in the way of a resize. */
static int gated_view(struct pnx_mapping *mapping, uint64_t offset, size_t n, bool all,
        struct pnx_view *ret_view) {
    int rc = 0;
    enter();
    while (rc == 0 && mapping->moving)
        rc = wait_locked(mapping);
    if (rc == 0 && !all && !holds(&mapping->bytes, offset, n))
        rc = -ERANGE;
    if (rc == 0) {
        *ret_view = pnx__view_of(mapping, &mapping->bytes);
        ret_view->mapping = mapping;
        if (mapping->flags & PNX_MAPPING_RESIZABLE) {
            mapping->views++;
            ret_view->flags |= PNX_VIEW_COUNTED_;
        }
        if (!all) {
            ret_view->p += (size_t)offset;
            ret_view->n = n;
        }
    }
    pnx__mutex_unlock(&lock);
    return rc;
}

struct pnx_view pnx_view_all(struct pnx_mapping *mapping) {
    struct pnx_view view = {.p = NULL};
    if (!mapping)
        return view;
    if (is_closed(mapping))
        return empty_view(mapping);
    if (is_gated(mapping))
        return gated_view(mapping, 0, 0, true, &view) ? empty_view(mapping) : view;
    view = pnx__view_of(mapping, &mapping->bytes);
    view.mapping = mapping;
    return view;
}

int pnx_view_get(
        struct pnx_mapping *mapping, uint64_t offset, size_t n, struct pnx_view *ret_view) {
    if (!mapping || !ret_view)
        return -EINVAL;
    if (is_closed(mapping))
        return -ESHUTDOWN;
    if (is_gated(mapping))
        return gated_view(mapping, offset, n, false, ret_view);
    if (!holds(&mapping->bytes, offset, n))
        return -ERANGE;
    *ret_view = pnx__view_of(mapping, &mapping->bytes);
    ret_view->mapping = mapping;
    ret_view->p += (size_t)offset;
    ret_view->n = n;
    return 0;
}

int pnx_view_sub(
        const struct pnx_view *view, uint64_t offset, size_t n, struct pnx_view *ret_view) {
    if (!view || !ret_view)
        return -EINVAL;
    PNX_VIEW_EXPECT_(view, "pnx_view_sub");
    if (!pnx_view_holds(view, offset, n))
        return -ERANGE;
    struct pnx_view sub = *view;
    sub.p += (size_t)offset;
    sub.n = n;
    sub.flags &= ~PNX_VIEW_COUNTED_;
    *ret_view = sub;
    return 0;
}

#ifdef PNX_DEBUG
static _Noreturn void complain(const char *where, const void *mapping, const char *what) {
    fprintf(stderr, "patinox: %s: a view of mapping %p %s\n", where, mapping, what);
    abort();
}
#endif

void pnx_view_release(struct pnx_view *view) {
    if (!view)
        return;
    struct pnx_view gone = *view;
    *view = (struct pnx_view){.p = NULL};
    if (!(gone.flags & PNX_VIEW_COUNTED_))
        return;
    PNX_VIEW_EXPECT_(&gone, "pnx_view_release");
    enter();
    bool counted = gone.mapping->views > 0;
    if (counted)
        gone.mapping->views--;
    pnx__mutex_unlock(&lock);
#ifdef PNX_DEBUG
    if (!counted)
        complain("pnx_view_release", gone.mapping, "was released twice");
#endif
}

/* ---- stale views ---- */

#ifdef PNX_DEBUG
/*
 * All mappings that are open, by address: a view's mapping can be looked for without touching memory that may be gone.
 * Under the lock: the table, and the next pointers.  Epochs come from one counter, so that a mapping at the address of a
 * former one has others.
 */
#define BUCKETS 4096
static struct pnx_mapping *live[BUCKETS];
static uint32_t epochs;

static struct pnx_mapping **bucket_of(const struct pnx_mapping *mapping) {
    return &live[((uintptr_t)mapping >> 6) * UINT64_C(0x9E3779B97F4A7C15) >> 52];
}

uint32_t pnx__mapping_live(struct pnx_mapping *mapping) {
    enter();
    struct pnx_mapping **bucket = bucket_of(mapping);
    mapping->next_live = *bucket;
    *bucket = mapping;
    epochs += UINT32_C(1) << 10; /* room for resizes in between */
    uint32_t epoch = epochs ? epochs : 1;
    pnx__mutex_unlock(&lock);
    return epoch;
}

void pnx__mapping_dead(struct pnx_mapping *mapping) {
    enter();
    struct pnx_mapping **at = bucket_of(mapping);
    while (*at && *at != mapping)
        at = &(*at)->next_live;
    if (*at)
        *at = mapping->next_live;
    pnx__mutex_unlock(&lock);
}
#else
uint32_t pnx__mapping_live(struct pnx_mapping *mapping) {
    (void)mapping;
    return 1;
}

void pnx__mapping_dead(struct pnx_mapping *mapping) {
    (void)mapping;
}
#endif

void pnx_view_expect_(const struct pnx_view *view, const char *where) {
#ifdef PNX_DEBUG
    if (!view || !view->mapping) /* bytes of a mapping that is being made, or no view at all */
        return;
    const char *what = NULL;
    enter();
    const struct pnx_mapping *at = *bucket_of(view->mapping);
    while (at && at != view->mapping)
        at = at->next_live;
    if (!at)
        what = "which is not there any more";
    else if (at->epoch != view->epoch)
        what = "from before its bytes moved or were given up";
    pnx__mutex_unlock(&lock);
    if (what)
        complain(where, view->mapping, what);
#else
    (void)view;
    (void)where;
#endif
}
