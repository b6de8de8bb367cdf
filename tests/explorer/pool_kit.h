/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pool_kit.h - what the suites of the pool share: a pool whose resources are race-checked cells, and what is done to it.
 *
 * Each holder writes the cell of its resource, and its close frees it: two holders at once, a resource that is
 * handed on without order, and one that is used after its close are races or accesses to freed memory.
 */
#ifndef PNX_TESTS_EXPLORER_POOL_KIT_H
#define PNX_TESTS_EXPLORER_POOL_KIT_H

#include "explorer/explorer.h"
#include "pool/pool.h"

#include <errno.h>

/* The ordinary run looks less far.  Where a third preemption would take the long one too far, it tries more at random. */
#define PREEMPTIONS (test_long() ? 3 : 2)
#define MANY        2
#define RANDOM      (test_long() ? 50000 : 1000)
/* Less still, where deadlines, or threads of the pool's, multiply what may happen. */
#define FEWER       (test_long() ? 2 : 1)
/* Stale loads, where those of other suites show as much in the ordinary run. */
#define STALE       (test_long() ? 1 : X_NONE)

struct thing {
    struct x_cell uses;
    struct x_cell checked; /* since it was idle, in a pool that checks always */
    uint64_t number;       /* in the order of making; fixed */
    char key;              /* in a group: of its pool; fixed */
};

struct state {
    struct pnx_pool *pool;
    uint64_t serial;           /* the pool's, which may be gone */
    struct pnx_slot *slots[2]; /* its first two */
    struct pnx_lease lease[2]; /* taken by setup */
    struct pnx_a64 made;
    struct pnx_a64 closed;
    struct pnx_a64 denied; /* acquires that failed */
    struct pnx_a32 told;   /* an operator's call has returned */
    struct x_cell since;   /* what it has told */

    struct pnx_pool_request request[2];
    struct pnx_inbox *inbox;
    struct pnx_a32 called[2]; /* callbacks */
    int cancelled;            /* what the cancel returned */
    bool refuses;             /* fixed by setup: the first resource passes no hook */
};

static inline struct thing *thing_new(struct state *s) {
    struct thing *thing = x_alloc(sizeof(*thing));
    thing->number = pnx_fetch_add(&s->made, 1, PNX_RELAXED, "pool_kit.made") + 1;
    return thing;
}

static inline int thing_connect(
        void *ctx, pnx_ns deadline, struct pnx_error *err, void **ret_resource) {
    (void)deadline;
    (void)err;
    *ret_resource = thing_new(ctx);
    return 0;
}

static inline void thing_close(void *ctx, void *resource, pnx_ns deadline) {
    struct state *s = ctx;
    (void)deadline;
    pnx_fetch_add(&s->closed, 1, PNX_RELAXED, "pool_kit.closed");
    x_free(resource);
}

/* What a holder does, also before a lease that a hook refuses: the only one who touches it. */
static inline void thing_use(void *resource) {
    struct thing *thing = resource;
    x_cell_write(&thing->uses, x_cell_read(&thing->uses) + 1);
}

static inline int thing_hook(void *arg, void *resource) {
    (void)arg;
    thing_use(resource);
    return 0;
}

static inline int thing_reset(void *ctx, void *resource, pnx_ns deadline) {
    (void)ctx;
    (void)deadline;
    thing_use(resource);
    return 0;
}

static inline int thing_refuse(void *arg, void *resource) {
    const struct state *s = arg;
    thing_use(resource);
    return s->refuses && ((struct thing *)resource)->number == 1;
}

/* Times that never come, so that nothing happens but what the threads do. */
static inline struct pnx_pool_opts base_opts(struct state *s, uint32_t max) {
    return (struct pnx_pool_opts){.size = sizeof(struct pnx_pool_opts),
            .ctx = s,
            .env = x_env(),
            .registry = pnx_registry_off(),
            .stats = pnx_stats_off(),
            .budget = pnx_budget_off(),
            .acquire_timeout_ns = PNX_NEVER,
            .close_timeout_ns = PNX_NEVER,
            .check_after_ns = PNX_NEVER,
            .idle_ns = PNX_NEVER,
            .lifetime_ns = PNX_NEVER,
            .ageing_ns = PNX_NEVER,
            .connect_timeout_ns = PNX_NEVER,
            .max = max,
            .nested = PNX_POOL_NESTED_ALLOW};
}

/* A pool in which n resources are idle. */
static inline void begin_with(struct state *s, const struct pnx_pool_manager *manager,
        const struct pnx_pool_opts *opts, uint32_t n) {
    CHECK_EQ(pnx_pool_create(manager, opts, NULL, &s->pool), 0);
    for (uint32_t i = 0; i < n; i++)
        CHECK_EQ(pnx_pool_adopt(s->pool, thing_new(s), NULL), 0);
    s->serial = s->pool->serial;
    for (uint32_t i = 0; i < 2 && i < opts->max; i++)
        s->slots[i] = pnx__pool_slot_at(s->pool, i);
}

static inline const struct pnx_pool_manager *things(void) {
    static const struct pnx_pool_manager manager = {
            .size = sizeof(manager), .connect = thing_connect, .close = thing_close};
    return &manager;
}

static inline void begin(struct state *s, uint32_t max, uint32_t flags) {
    struct pnx_pool_opts opts = base_opts(s, max);
    opts.flags = flags;
    begin_with(s, things(), &opts, max);
}

/* One resource, without threads, which before_acquire will refuse. */
static inline void begin_refusing(struct state *s, bool taken) {
    const struct pnx_pool_hooks hooks = {
            .size = sizeof(hooks), .arg = s, .before_acquire = thing_refuse};
    struct pnx_pool_opts opts = base_opts(s, 1);
    opts.hooks = &hooks;
    opts.flags = PNX_POOL_NO_THREADS;
    begin_with(s, things(), &opts, 1);
    if (taken)
        CHECK_EQ(pnx_pool_acquire(s->pool, PNX_NEVER, NULL, &s->lease[0]), 0);
    s->refuses = true;
}

/* The calling thread goes the short way at once, to this slot, as if it had had it before. */
static inline void remember(struct state *s, unsigned i) {
    struct pnx_thread *self = pnx__thread();
    self->pool_last[s->serial % PNX_THREAD_POOLS].serial = s->serial;
    self->pool_last[s->serial % PNX_THREAD_POOLS].slot = s->slots[i];
}

/* The resource, without the order that asking for it has. */
static inline void *resource_of(const struct pnx_lease *lease) {
    return pnx_load(&lease->slot->resource, PNX_RELAXED, "pool_kit.resource");
}

static inline void take(struct state *s, unsigned i) {
    CHECK_EQ(pnx_pool_acquire(s->pool, PNX_NEVER, NULL, &s->lease[i]), 0);
}

/* ---- set-ups ---- */

static inline void one(void *state) {
    begin(state, 1, 0);
}

static inline void two(void *state) {
    begin(state, 2, 0);
}

static inline void one_threadless(void *state) {
    begin(state, 1, PNX_POOL_NO_THREADS);
}

static inline void two_threadless(void *state) {
    begin(state, 2, PNX_POOL_NO_THREADS);
}

static inline void one_taken(void *state) {
    one(state);
    take(state, 0);
}

static inline void one_taken_threadless(void *state) {
    one_threadless(state);
    take(state, 0);
}

/* ---- threads ---- */

static inline void cycle(struct state *s) {
    struct pnx_lease lease = {0};
    CHECK_EQ(pnx_pool_acquire(s->pool, PNX_NEVER, NULL, &lease), 0);
    thing_use(resource_of(&lease));
    pnx_lease_release(&lease);
    CHECK(!lease.slot);
}

static inline void short_cycle(void *state) {
    remember(state, 0);
    cycle(state);
}

static inline void short_cycle_other(void *state) {
    remember(state, 1);
    cycle(state);
}

static inline void long_cycle(void *state) {
    cycle(state);
}

/* Gives back what setup took. */
static inline void give_first(void *state) {
    struct state *s = state;
    thing_use(pnx_lease_resource(&s->lease[0]));
    pnx_lease_release(&s->lease[0]);
}

static inline void give_second(void *state) {
    struct state *s = state;
    thing_use(resource_of(&s->lease[1]));
    pnx_lease_release(&s->lease[1]);
}

/* What an operator's call has brought about, for those who come after it. */
static inline void tell(struct state *s) {
    pnx_store(&s->told, 1, PNX_RELEASE, "pool_kit.tell"); /* with is_told() */
}

static inline bool is_told(struct state *s) {
    return pnx_load(&s->told, PNX_ACQUIRE, "pool_kit.told");
}

static inline bool keep_it(void *ctx, void *resource, pnx_ns age, pnx_ns unused_for) {
    (void)ctx;
    (void)age;
    (void)unused_for;
    thing_use(resource);
    return false;
}

static inline void look_at_all(void *state) {
    struct state *s = state;
    CHECK_EQ(pnx_pool_evict(s->pool, keep_it, NULL), 0);
}

/* ---- ends ---- */

/* Alone: all is at home, and nobody waits. */
static inline void finish(struct state *s) {
    struct pnx_pool_stats stats = {.size = sizeof(stats)};
    CHECK_EQ(pnx_pool_read_stats(s->pool, &stats), 0);
    CHECK_EQ(stats.in_use, 0);
    CHECK_EQ(stats.waiting, 0);
    CHECK_EQ(stats.idle, s->pool->core.size);
}

/* ... and n resources are idle. */
static inline void finish_with(struct state *s, uint32_t n) {
    finish(s);
    CHECK_EQ(s->pool->core.size, n);
}

static inline void clean_up(struct state *s) {
    s->pool->flags |= PNX_POOL_NO_THREADS; /* the end runs alone: it must close everything itself */
    CHECK_EQ(pnx_pool_close(s->pool, PNX_NEVER), 0);
    pnx_pool_release(&s->pool);
    CHECK_EQ(s->made.v, s->closed.v);
}

static inline void end(void *state) {
    finish(state);
    clean_up(state);
}

static inline void one_is_left(void *state) {
    finish_with(state, 1);
    clean_up(state);
}

#endif
