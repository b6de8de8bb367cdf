/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a pool does for one caller: hooks, the order of use, presets, the short way, requests.
 */
#include "pool/kit.h"
#include "pool/pool.h"

/* ---- hooks ---- */

static struct hooked {
    int after_connect, before_acquire, after_release, before_close; /* calls so far */
    int fail_connects, fail_acquires, fail_releases;                /* how many are to fail */
    pthread_t acquirer;
    char order[64];
} hooked;

static void note(char what) {
    size_t n = strlen(hooked.order);
    if (n + 1 < sizeof(hooked.order))
        hooked.order[n] = what;
}

static int after_connect(void *arg, void *resource, pnx_ns deadline, struct pnx_error *err) {
    CHECK(arg == &hooked && resource && deadline > te.now && err);
    hooked.after_connect++;
    note('c');
    if (hooked.fail_connects == 0)
        return 0;
    hooked.fail_connects--;
    snprintf(err->message, sizeof(err->message), "no such schema");
    return -ENOENT;
}

static int before_acquire(void *arg, void *resource) {
    CHECK(arg == &hooked && resource);
    hooked.before_acquire++;
    hooked.acquirer = pthread_self();
    note('a');
    if (hooked.fail_acquires == 0)
        return 0;
    hooked.fail_acquires--;
    return -EPIPE;
}

static int after_release(void *arg, void *resource) {
    CHECK(arg == &hooked && resource);
    hooked.after_release++;
    note('r');
    if (hooked.fail_releases == 0)
        return 0;
    hooked.fail_releases--;
    return -EPIPE;
}

static void before_close(void *arg, void *resource) {
    CHECK(arg == &hooked && !((struct mock_resource *)resource)->dead);
    hooked.before_close++;
    note('x');
}

static const struct pnx_pool_hooks hooks = {
        .size = sizeof(hooks),
        .arg = &hooked,
        .after_connect = after_connect,
        .before_acquire = before_acquire,
        .after_release = after_release,
        .before_close = before_close,
};

TEST(hooks_run_in_the_order_of_a_life) {
    set_up();
    struct pnx_pool *pool = mock_pool(&mock_full, OPTS(.max = 1, .hooks = &hooks));
    struct pnx_lease lease = mock_acquire(pool, PNX_SEC);
    CHECK_STR(hooked.order, "ca");
    pnx_lease_release(&lease);
    CHECK_STR(hooked.order, "car");
    CHECK_EQ(mock->resets, 1);
    lease = mock_acquire(pool, 0); /* the short way has them, too */
    CHECK_STR(hooked.order, "cara");
    CHECK(pthread_equal(hooked.acquirer, pthread_self()));
    pnx_lease_discard(&lease);
    CHECK_STR(hooked.order, "carax"); /* a discarded one is not asked about */
    lease = mock_acquire(pool, PNX_SEC);
    stray_close(pnx_lease_detach(&lease));
    CHECK_STR(hooked.order, "caraxca"); /* a detached one is the caller's to close */
    CHECK_EQ(pnx_pool_adopt(pool, stray_new(), NULL), 0);
    CHECK_STR(hooked.order, "caraxca"); /* no connect */
    tear_down(pool);
    CHECK_EQ(hooked.before_close, 2);
}

TEST(an_after_connect_that_fails_is_a_failed_connect_and_closes_the_resource) {
    set_up();
    struct pnx_pool *pool = mock_pool(&mock_full,
            OPTS(.max = 2, .hooks = &hooks, .breaker_failures = 2, .backoff_max_ns = PNX_SEC));
    struct pnx_lease lease = {0};
    struct pnx_error err = {0};
    hooked.fail_connects = 2;
    CHECK_EQ(pnx_pool_acquire(pool, 0, NULL, &lease), -ETIMEDOUT);
    pnx_pool_tick(pool, te.now);
    CHECK_EQ(mock->closes, 1);
    CHECK_EQ(mock_stats(pool).connect_failures, 1);
    CHECK_EQ(mock_stats(pool).connects, 0);
    CHECK_EQ(mock_stats(pool).closed_hook, 1);
    advance(pool, PNX_SEC);
    CHECK_EQ(pnx_pool_acquire(pool, 0, &err, &lease), -ETIMEDOUT);
    CHECK_EQ(err.cause, -ENOENT);
    CHECK_CONTAINS(err.message, "no such schema");
    pnx_pool_tick(pool, te.now);
    CHECK_EQ(mock_stats(pool).breaker_open, 1);
    CHECK_EQ(pnx_pool_acquire(pool, PNX_SEC, &err, &lease), PNX_E_BREAKER);
    advance(pool, PNX_SEC);
    lease = mock_acquire(pool, 0);
    CHECK_EQ(mock_of(&lease)->id, 2);
    pnx_lease_release(&lease);
    tear_down(pool);
}

TEST(p2_a_before_acquire_that_fails_closes_the_resource_and_the_caller_gets_another) {
    set_up();
    struct pnx_pool *pool = mock_pool(
            &mock_full, OPTS(.max = 3, .hooks = &hooks, .nested = PNX_POOL_NESTED_REFUSE));
    hooked.fail_acquires = 2; /* what is refused is not held */
    struct pnx_lease lease = mock_acquire(pool, PNX_SEC);
    CHECK_EQ(mock_of(&lease)->id, 2);
    CHECK_EQ(hooked.before_acquire, 3);
    pnx_lease_release(&lease);
    hooked.fail_acquires = 1;
    lease = mock_acquire(pool, PNX_SEC); /* on the short way */
    CHECK_EQ(mock_of(&lease)->id, 3);
    pnx_lease_release(&lease);
    pnx_pool_tick(pool, te.now);
    CHECK_EQ(mock_stats(pool).closed_hook, 3);
    hooked.fail_acquires = 1;
    struct pnx_lease none = {0};
    CHECK_EQ(pnx_pool_acquire(pool, 0, NULL, &none), -ETIMEDOUT); /* a try has no other */
    CHECK(none.slot == NULL);
    tear_down(pool);
}

TEST(p6_a_hook_that_refuses_all_there_is_makes_no_storm_of_connects) {
    set_up();
    struct pnx_pool *pool = mock_pool(
            &mock_full, PNX_POOL_OPTS(.name = "db", .ctx = mock, .max = 1, .hooks = &hooks,
                                .backoff_ns = 20 * PNX_MS, .backoff_max_ns = PNX_SEC));
    hooked.fail_acquires = 1000000;
    struct pnx_error err;
    struct pnx_lease lease;
    int made = 0;
    /* Longer where threads are slow. */
    for (pnx_ns timeout = 200 * PNX_MS; made < 4; timeout *= 2) {
        CHECK_EQ(pnx_pool_acquire(pool, timeout, &err, &lease), -ETIMEDOUT);
        made = mock_read(mock, &mock->connects);
    }
    CHECK_CONTAINS(err.message, "before_acquire refused");
    CHECK_MSG(made < 500, "%d connects", made); /* without pauses: tens of thousands */
    tear_down(pool);
}

TEST(p2_a_waiter_whose_resource_a_hook_refuses_keeps_its_place) {
    set_up();
    struct pnx_pool *pool =
            mock_pool(&mock_full, OPTS(.max = 1, .hooks = &hooks, .nested = PNX_POOL_NESTED_ALLOW));
    struct pnx_lease lease = mock_acquire(pool, PNX_SEC);
    struct ask first, second;
    ask_start(&first, pool, PNX_PRIORITY_NORMAL, 60 * PNX_SEC);
    ask_start(&second, pool, PNX_PRIORITY_NORMAL, PNX_NEVER);
    hooked.fail_acquires = 1;
    pnx_lease_release(&lease);
    CHECK_EQ(ask_calls(&first) + ask_calls(&second), 0);
    pnx_pool_tick(pool, te.now); /* closes and connects */
    CHECK(ask_granted(&first));
    CHECK_EQ(ask_calls(&second), 0);
    hooked.fail_acquires = 1;
    pnx_lease_release(&first.lease);
    ask_start(&first, pool, PNX_PRIORITY_NORMAL, PNX_NEVER);
    pnx_pool_tick(pool, te.now);
    CHECK(ask_granted(&second));
    pnx_lease_release(&second.lease);
    CHECK(ask_granted(&first));
    pnx_lease_release(&first.lease);
    tear_down(pool);
}

TEST(p2_waiters_whose_resources_hooks_refuse_at_the_same_time_keep_their_order) {
    set_up();
    struct pnx_pool *pool = mock_pool(&mock_full, OPTS(.max = 3, .hooks = &hooks));
    struct pnx_lease leases[3];
    struct ask asks[4];
    for (int i = 0; i < 3; i++)
        leases[i] = mock_acquire(pool, PNX_SEC);
    CHECK_EQ(pnx_pool_pause(pool, 0), 3);
    for (int i = 0; i < 4; i++)
        ask_start(&asks[i], pool, PNX_PRIORITY_NORMAL, PNX_NEVER);
    for (int i = 0; i < 3; i++)
        pnx_lease_release(&leases[i]);
    hooked.fail_acquires = 3;
    CHECK_EQ(pnx_pool_resume(pool), 0); /* three are granted at once, and all are refused */
    CHECK_EQ(asks_begun, 0);
    CHECK_EQ(mock_stats(pool).waiting, 4);
    pnx_pool_tick(pool, te.now);
    for (int i = 0; i < 3; i++) {
        CHECK(ask_granted(&asks[i]));
        CHECK_EQ(asks[i].place, i);
    }
    for (int i = 0; i < 3; i++)
        pnx_lease_release(&asks[i].lease);
    CHECK(ask_granted(&asks[3]));
    pnx_lease_release(&asks[3].lease);
    tear_down(pool);
}

TEST(p2_a_caller_who_blocks_keeps_its_place_when_a_hook_refuses_its_resource) {
    set_up();
    struct pnx_pool *pool = mock_pool(&mock_full, OPTS_THREADS(.max = 1, .hooks = &hooks));
    struct caller holder = {0};
    caller_start(&holder, pool, 30 * PNX_SEC);
    caller_join(&holder);
    CHECK_EQ(holder.rc, 0);
    struct pnx_lease lease = holder.lease;
    struct caller callers[3] = {0};
    int turn = 0;
    for (int i = 0; i < 3; i++) {
        callers[i].turn = &turn;
        callers[i].release = true;
        caller_start(&callers[i], pool, 30 * PNX_SEC);
        UNTIL(pool, s.waiting == (uint64_t)i + 1);
    }
    hooked.fail_acquires = 2; /* both are the first one's */
    pnx_lease_release(&lease);
    for (int i = 0; i < 3; i++) {
        caller_join(&callers[i]);
        CHECK_EQ(callers[i].rc, 0);
        CHECK_EQ(callers[i].place, i);
    }
    CHECK_EQ(mock_stats(pool).closed_hook, 2);
    CHECK_EQ(mock_read(mock, &mock->connects), 3);
    tear_down(pool);
}

TEST(a_refused_waiter_keeps_its_deadline) {
    set_up();
    struct pnx_pool *pool = mock_pool(&mock_full, OPTS(.max = 1, .hooks = &hooks));
    struct pnx_lease lease = mock_acquire(pool, PNX_SEC);
    struct ask ask;
    ask_start(&ask, pool, PNX_PRIORITY_NORMAL, 10 * PNX_SEC);
    test_env_advance(&te, 6 * PNX_SEC);
    hooked.fail_acquires = 1;
    mock->connect_errors = -1;
    pnx_lease_release(&lease);
    advance(pool, 4 * PNX_SEC - 1);
    CHECK_EQ(ask_calls(&ask), 0);
    advance(pool, 1);
    CHECK_EQ(ask.code, -ETIMEDOUT);
    tear_down(pool);
}

TEST(an_after_release_that_fails_closes_the_resource_without_a_reset) {
    set_up();
    struct pnx_pool *pool = mock_pool(&mock_full, OPTS(.max = 2, .hooks = &hooks));
    struct pnx_lease lease = mock_acquire(pool, PNX_SEC);
    hooked.fail_releases = 1;
    pnx_lease_release(&lease);
    CHECK_EQ(mock->resets, 0);
    CHECK_EQ(mock->closes, 1);
    CHECK_EQ(mock_stats(pool).closed_hook, 1);
    CHECK_EQ(hooked.before_close, 1);
    tear_down(pool);
}

/* Functions of the user's in which a pool must not be waited for; a bit for each that has seen that. */
enum {
    IN_CONNECTED = 1,
    IN_ACQUIRE = 2,
    IN_RELEASE = 4,
    IN_CLOSE = 8,
    IN_PEEK = 16,
    IN_INTERRUPT = 32,
    IN_CLASSIFY = 64,
    IN_EVICT = 128,
    IN_CALLBACK = 256
};
static int refused_in;

/* The pool's one resource is being worked on, so that this would have to wait. */
static void wait_inside(int where) {
    struct pnx_lease lease = {0};
    struct pnx_pool *pool = mock->pool;
    if (!pool) /* the test is over */
        return;
    CHECK_EQ(pnx_pool_acquire(pool, PNX_NEVER, NULL, &lease), -EDEADLK);
    CHECK_EQ(pnx_pool_acquire(pool, 0, NULL, &lease), -ETIMEDOUT); /* a try is legal */
    refused_in |= where;
}

static int connected_and_waits(void *arg, void *resource, pnx_ns deadline, struct pnx_error *err) {
    (void)arg, (void)resource, (void)deadline, (void)err;
    wait_inside(IN_CONNECTED);
    return 0;
}
static int acquires_and_waits(void *arg, void *resource) {
    (void)arg, (void)resource;
    wait_inside(IN_ACQUIRE);
    return 0;
}
static int releases_and_waits(void *arg, void *resource) {
    (void)arg, (void)resource;
    wait_inside(IN_RELEASE);
    return 0;
}
static void closes_and_waits(void *arg, void *resource) {
    (void)arg, (void)resource;
    wait_inside(IN_CLOSE);
}
static int peeks_and_waits(void *ctx, void *resource) {
    (void)ctx, (void)resource;
    wait_inside(IN_PEEK);
    return 0;
}
static void interrupts_and_waits(void *ctx, void *resource) {
    (void)ctx, (void)resource;
    wait_inside(IN_INTERRUPT);
}
static int classifies_and_waits(void *ctx, int code, const struct pnx_error *err) {
    (void)ctx, (void)code, (void)err;
    wait_inside(IN_CLASSIFY);
    return PNX_POOL_TRANSIENT;
}
static bool evicts_and_waits(void *ctx, void *resource, pnx_ns age, pnx_ns unused_for) {
    (void)ctx, (void)resource, (void)age, (void)unused_for;
    wait_inside(IN_EVICT);
    return false;
}
static void is_told_and_waits(struct pnx_pool_request *request, int code, struct pnx_lease lease,
        const struct pnx_error *err) {
    (void)request, (void)code, (void)err;
    wait_inside(IN_CALLBACK);
    pnx_lease_release(&lease);
}

TEST(waiting_for_the_pool_is_refused_inside_each_function_of_the_users) {
    set_up();
    const struct pnx_pool_hooks waiting = {.size = sizeof(waiting),
            .after_connect = connected_and_waits,
            .before_acquire = acquires_and_waits,
            .after_release = releases_and_waits,
            .before_close = closes_and_waits};
    struct pnx_pool_manager manager = mock_full;
    manager.peek = peeks_and_waits;
    manager.interrupt = interrupts_and_waits;
    manager.classify = classifies_and_waits;
    struct pnx_pool *pool = mock_pool(&manager, OPTS(.max = 1, .hooks = &waiting));
    struct pnx_lease lease = {0};
    struct pnx_pool_request request = {.done = is_told_and_waits, .timeout = PNX_NEVER};
    mock->pool = pool;
    mock->connect_errors = 1;
    CHECK_EQ(pnx_pool_acquire(pool, 0, NULL, &lease), -ETIMEDOUT);
    pnx_pool_tick(pool, te.now); /* fails */
    test_env_advance(&te, 10 * PNX_SEC);
    lease = mock_acquire(pool, PNX_SEC);
    CHECK_EQ(pnx_pool_reset(pool, PNX_POOL_RESET_INTERRUPT), 0);
    pnx_lease_release(&lease);
    pnx_pool_tick(pool, te.now);
    CHECK_EQ(pnx_pool_acquire_async(pool, &request), 0);
    pnx_pool_tick(pool, te.now);
    CHECK_EQ(pnx_pool_evict(pool, evicts_and_waits, NULL), 0);
    test_env_advance(&te, 2 * PNX_SEC);
    lease = mock_acquire(pool, PNX_SEC); /* after a peek */
    pnx_lease_release(&lease);
    CHECK_EQ(refused_in, 2 * IN_CALLBACK - 1);
    mock->pool = NULL;
    tear_down(pool);
}

TEST(hooks_of_another_size_are_refused_unless_what_is_new_is_zero) {
    set_up();
    struct pnx_pool *pool = NULL;
    struct pnx_error err = {0};
    struct pnx_pool_hooks none = {0};
    CHECK_EQ(pnx_pool_create(&mock_full, OPTS(.max = 1, .hooks = &none), &err, &pool), -EINVAL);
    CHECK_STR(err.field, "size");
    CHECK_CONTAINS(err.message, "pool.hooks: size is 0");
    struct {
        struct pnx_pool_hooks hooks;
        void *newer;
    } longer = {hooks, &longer};
    longer.hooks.size = sizeof(longer);
    CHECK_EQ(pnx_pool_create(&mock_full, OPTS(.max = 1, .hooks = &longer.hooks), &err, &pool),
            -E2BIG);
    CHECK(pool == NULL);
    struct pnx_pool_hooks older = hooks;
    older.size = offsetof(struct pnx_pool_hooks, before_acquire);
    pool = mock_pool(&mock_full, OPTS(.max = 1, .hooks = &older));
    struct pnx_lease lease = mock_acquire(pool, PNX_SEC);
    pnx_lease_release(&lease);
    CHECK_STR(hooked.order, "c"); /* what an older program cannot know is off */
    tear_down(pool);
}

/* ---- order of use, presets ---- */

TEST(round_robin_uses_all_in_turn) {
    set_up();
    struct pnx_pool_opts opts = *OPTS(.max = 3);
    opts.flags |= PNX_POOL_ROUND_ROBIN;
    struct pnx_pool *pool = mock_pool(&mock_bare, &opts);
    fill(pool, 3);
    for (int i = 0; i < 9; i++) {
        struct pnx_lease lease = mock_acquire(pool, 0);
        CHECK_EQ(mock_of(&lease)->id, i % 3);
        pnx_lease_release(&lease);
    }
    CHECK_EQ(mock->connects, 3);
    tear_down(pool);
}

TEST(presets_set_what_is_still_zero) {
    struct pnx_error err = {0};
    struct pnx_pool_opts opts = *PNX_POOL_OPTS(.max = 8);
    CHECK_EQ(pnx_pool_opts_preset(&opts, "service", &err), 0);
    CHECK_EQ(opts.min_idle, 2);
    CHECK_EQ(opts.held_too_long_ns, 30 * PNX_SEC);
    CHECK_EQ(opts.keepalive_ns, 120 * PNX_SEC);
    CHECK_EQ(opts.codel_target_ns, 500 * PNX_MS);
    CHECK_EQ(opts.max, 8);
    CHECK_EQ(opts.acquire_timeout_ns, 0);
    CHECK_EQ(opts.flags, 0);
    opts = *PNX_POOL_OPTS(.max = 8, .acquire_timeout_ns = 7);
    CHECK_EQ(pnx_pool_opts_preset(&opts, "batch", &err), 0);
    CHECK_EQ(opts.acquire_timeout_ns, 7); /* not overwritten */
    CHECK_EQ(opts.breaker_failures, 20);
    CHECK_EQ(opts.max_connecting, 4);
    CHECK_EQ(opts.ageing_ns, PNX_NEVER);
    opts = *PNX_POOL_OPTS(.max = 8);
    CHECK_EQ(pnx_pool_opts_preset(&opts, "batch", &err), 0);
    CHECK_EQ(opts.acquire_timeout_ns, 60 * PNX_SEC);
    opts = *PNX_POOL_OPTS(.max = 8, .nested = PNX_POOL_NESTED_REFUSE);
    CHECK_EQ(pnx_pool_opts_preset(&opts, "event-loop", &err), 0);
    CHECK_EQ(opts.flags, PNX_POOL_NO_THREADS);
    CHECK_EQ(opts.max_waiters, 10000);
    CHECK_EQ(opts.nested, PNX_POOL_NESTED_REFUSE);
    struct pnx_pool_opts before = opts;
    CHECK_EQ(pnx_pool_opts_preset(&opts, "fast", &err), -ENOENT);
    CHECK_CONTAINS(err.message, "there is no preset \"fast\"");
    CHECK(memcmp(&before, &opts, sizeof(opts)) == 0);
    CHECK_EQ(pnx_pool_opts_preset(&opts, NULL, &err), -EINVAL);
    CHECK_EQ(pnx_pool_opts_preset(NULL, "batch", &err), -EINVAL);
}

TEST(a_pool_of_each_preset_works) {
    static const char *const names[] = {"service", "batch", "event-loop"};
    for (int i = 0; i < 3; i++) {
        set_up();
        te.virtual_time = false;
        struct pnx_pool_opts opts = *OPTS_THREADS(.max = 4);
        CHECK_EQ(pnx_pool_opts_preset(&opts, names[i], NULL), 0);
        struct pnx_pool *pool = mock_pool(&mock_full, &opts);
        struct pnx_lease lease = mock_acquire(pool, 30 * PNX_SEC);
        pnx_lease_release(&lease);
        tear_down(pool);
    }
}

/* ---- the short way ---- */

/* Counts what a pool asks of its environment. */
static struct { int64_t now, coarse; /* atomic */ } asked;

static pnx_ns counted_now(void *ctx) {
    __atomic_add_fetch(&asked.now, 1, __ATOMIC_RELAXED);
    return ((struct test_env *)ctx)->now;
}

static pnx_ns counted_coarse(void *ctx) {
    __atomic_add_fetch(&asked.coarse, 1, __ATOMIC_RELAXED);
    return ((struct test_env *)ctx)->now;
}

/* So many cycles follow a pool's first before one has its time measured. */
#define SHORT_CYCLES (PNX__POOL_SAMPLE - 2)

static pnx_ns lagging_coarse(void *ctx) {
    return ((struct test_env *)ctx)->now - 8 * PNX_MS;
}

static pnx_ns reset_until;

static int note_deadline(void *ctx, void *resource, pnx_ns deadline) {
    reset_until = deadline;
    return mock_reset(ctx, resource, deadline);
}

TEST(a_reset_has_its_time_though_the_coarse_clock_is_behind) {
    struct pnx_pool_manager manager = mock_manager;
    manager.reset = note_deadline;
    const pnx_ns spans[] = {1, PNX_MS, PNX_SEC - 1, PNX_SEC, 5 * PNX_SEC};
    for (size_t i = 0; i < sizeof(spans) / sizeof(spans[0]); i++) {
        set_up();
        te.env.now_coarse = lagging_coarse;
        struct pnx_pool *pool = mock_pool(&manager, OPTS(.max = 1, .reset_timeout_ns = spans[i]));
        for (int cycle = 0; cycle < 3; cycle++) { /* the first goes the long way */
            struct pnx_lease lease = mock_acquire(pool, PNX_SEC);
            pnx_lease_release(&lease);
            pnx_ns given = reset_until - te.now;
            CHECK(given <= spans[i] &&
                    given >= spans[i] - (spans[i] < PNX_SEC ? 0 : spans[i] / 100));
        }
        tear_down(pool);
    }
}

struct short_way {
    struct pnx_pool *pool;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    bool locked, done;
};

/* Holds the pool's lock until told otherwise: who needs it meanwhile hangs, and the test fails. */
static void *hold_lock(void *arg) {
    struct short_way *way = arg;
    pnx__pool_lock(way->pool);
    pthread_mutex_lock(&way->mutex);
    way->locked = true;
    pthread_cond_broadcast(&way->changed);
    while (!way->done)
        pthread_cond_wait(&way->changed, &way->mutex);
    pthread_mutex_unlock(&way->mutex);
    pnx__mutex_unlock(&way->pool->lock);
    return NULL;
}

static void check_short_way(
        const struct pnx_pool_manager *manager, const struct pnx_pool_hooks *own, pnx_ns timeout) {
    struct short_way way = {
            .mutex = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};
    pthread_t thread;
    set_up();
    te.env.now = counted_now;
    te.env.now_coarse = counted_coarse;
    way.pool = mock_pool(manager, OPTS(.max = 16, .hooks = own));
    struct pnx_lease lease = mock_acquire(way.pool, PNX_SEC);
    pnx_lease_release(&lease);
    CHECK(pthread_create(&thread, NULL, hold_lock, &way) == 0);
    pthread_mutex_lock(&way.mutex);
    while (!way.locked)
        pthread_cond_wait(&way.changed, &way.mutex);
    pthread_mutex_unlock(&way.mutex);
    int64_t allocations = te.allocations;
    asked.now = asked.coarse = 0;
    for (int i = 0; i < SHORT_CYCLES; i++) {
        lease = mock_acquire(way.pool, timeout);
        CHECK(pnx_lease_resource(&lease) == &mock->resources[0]);
        pnx_lease_release(&lease);
    }
    CHECK_EQ(te.allocations, allocations);
    CHECK_EQ(asked.coarse, (manager->reset ? 2 : 1) * SHORT_CYCLES); /* a reset has a deadline */
    CHECK_EQ(asked.now, 0);
    pthread_mutex_lock(&way.mutex);
    way.done = true;
    pthread_cond_broadcast(&way.changed);
    pthread_mutex_unlock(&way.mutex);
    pthread_join(thread, NULL);
    CHECK_EQ(mock_stats(way.pool).acquires, SHORT_CYCLES + 1);
    tear_down(way.pool);
}

TEST(p10_a_cycle_takes_no_lock_allocates_nothing_and_looks_once_at_the_coarse_clock) {
    check_short_way(&mock_bare, NULL, 0);
    check_short_way(&mock_bare, NULL, PNX_SEC);
}

TEST(p10_a_cycle_with_reset_and_hooks_takes_no_lock_either) {
    check_short_way(&mock_full, NULL, PNX_SEC);
    check_short_way(&mock_full, &hooks, PNX_SEC);
    CHECK(hooked.before_acquire > SHORT_CYCLES && hooked.after_release > SHORT_CYCLES);
}

TEST(the_numbers_are_exact_though_the_short_way_counts_nothing) {
    set_up();
    struct pnx_pool *pool = mock_pool(&mock_bare, OPTS(.max = 4, .nested = PNX_POOL_NESTED_ALLOW));
    struct pnx_lease a = mock_acquire(pool, PNX_SEC), b;
    pnx_lease_release(&a);
    for (uint64_t i = 1; i <= 200; i++) {
        struct pnx_pool_stats stats = mock_stats(pool);
        CHECK_EQ(stats.acquires, i);
        CHECK_EQ(stats.idle, 1);
        CHECK_EQ(stats.in_use, 0);
        a = mock_acquire(pool, 0);
        stats = mock_stats(pool);
        CHECK_EQ(stats.acquires, i + 1);
        CHECK_EQ(stats.idle, 0);
        CHECK_EQ(stats.in_use, 1);
        pnx_lease_release(&a);
    }
    a = mock_acquire(pool, 0);
    b = mock_acquire(pool, PNX_SEC);
    pnx_lease_release(&a);
    CHECK_EQ(mock_stats(pool).idle, 1);
    CHECK_EQ(mock_stats(pool).in_use, 1);
    CHECK_EQ(mock_stats(pool).acquires, 203);
    CHECK_EQ(mock_stats(pool).waits, 2);
    pnx_lease_release(&b);
    tear_down(pool);
}

#ifdef PNX_DEBUG
extern struct pnx_a32 pnx__pool_tolerate_misuse;
static void tolerate(void) {
    pnx__pool_tolerate_misuse.v = 1;
}
#else
static void tolerate(void) {}
#endif

TEST(p9_a_stale_lease_is_refused_and_counted_on_the_short_way_too) {
    set_up();
    tolerate();
    struct pnx_pool *pool = mock_pool(&mock_bare, OPTS(.max = 1));
    struct pnx_lease lease = mock_acquire(pool, PNX_SEC);
    pnx_lease_release(&lease);
    for (int i = 0; i < 10; i++) {
        uint64_t before = mock_stats(pool).misuses;
        struct pnx_lease first = mock_acquire(pool, 0), copy = first, old = first;
        pnx_lease_release(&first);
        pnx_lease_release(&copy); /* twice */
        CHECK_EQ(mock_stats(pool).misuses, before + 1);
        CHECK_EQ(mock_stats(pool).idle, 1);
        struct pnx_lease second = mock_acquire(pool, 0);
        copy = old;
        pnx_lease_release(&copy); /* while somebody else has it */
        CHECK(pnx_lease_resource(&old) == NULL);
        copy = old;
        pnx_lease_stale_all(&copy);
        copy = old;
        CHECK(pnx_lease_detach(&copy) == NULL);
        CHECK_EQ(mock_stats(pool).misuses, before + 5);
        CHECK_EQ(mock_stats(pool).in_use, 1);
        CHECK_EQ(mock_of(&second)->id, 0);
        pnx_lease_release(&second);
    }
    CHECK_EQ(mock_stats(pool).generations, 0);
    CHECK_EQ(mock->connects, 1);
    CHECK_EQ(mock->closes, 0);
    tear_down(pool);
}

struct keeping {
    struct pnx_pool *pool;
    pthread_barrier_t both;
    int cycles;
    int own[2];
};

static void keep_own(unsigned index, void *ctx) {
    struct keeping *keeping = ctx;
    struct pnx_lease lease = mock_acquire(keeping->pool, 30 * PNX_SEC);
    keeping->own[index] = mock_of(&lease)->id;
    pthread_barrier_wait(&keeping->both); /* each has one */
    for (int i = 0; i < keeping->cycles; i++) {
        pnx_lease_release(&lease);
        lease = mock_acquire(keeping->pool, 30 * PNX_SEC);
        CHECK_EQ(mock_of(&lease)->id, keeping->own[index]);
    }
    pnx_lease_release(&lease);
}

TEST(two_threads_keep_their_own_resources) {
    set_up();
    struct pnx_pool *pool = mock_pool(&mock_bare, OPTS_THREADS(.max = 16));
    struct keeping keeping = {.pool = pool, .cycles = test_slow() ? 20000 : 200000};
    CHECK(pthread_barrier_init(&keeping.both, NULL, 2) == 0);
    test_threads(2, keep_own, &keeping);
    CHECK(keeping.own[0] != keeping.own[1]);
    CHECK_EQ(mock_stats(pool).acquires, 2 + 2 * (uint64_t)keeping.cycles);
    CHECK_EQ(mock_read(mock, &mock->connects), 2);
    pthread_barrier_destroy(&keeping.both);
    tear_down(pool);
}

/* ---- requests: once, and never inside one another ---- */

static int inside, deepest;
static struct pnx_lease chained;

static void chain_done(struct pnx_pool_request *request, int code, struct pnx_lease lease,
        const struct pnx_error *err) {
    (void)err;
    CHECK_EQ(code, 0);
    deepest = ++inside > deepest ? inside : deepest;
    ((struct ask *)request->arg)->calls++;
    pnx_lease_release(&lease); /* which grants the next one */
    inside--;
}

TEST(p13_each_request_is_told_once_and_never_inside_another_callback) {
    set_up();
    enum { N = 100 };
    static struct ask asks[N];
    struct pnx_pool *pool = mock_pool(&mock_bare, OPTS(.max = 1));
    struct pnx_lease lease = mock_acquire(pool, PNX_SEC);
    for (int i = 0; i < N; i++) {
        asks[i].request = (struct pnx_pool_request){
                .done = chain_done, .arg = &asks[i], .timeout = PNX_NEVER};
        CHECK_EQ(pnx_pool_acquire_async(pool, &asks[i].request), 0);
        CHECK_EQ(pnx_pool_acquire_async(pool, &asks[i].request), -EBUSY);
    }
    CHECK_EQ(pnx_pool_cancel(&asks[7].request), 0);
    CHECK_EQ(pnx_pool_cancel(&asks[7].request), -EALREADY);
    pnx_lease_release(&lease);
    for (int i = 0; i < N; i++) {
        CHECK_EQ(ask_calls(&asks[i]), i != 7);
        CHECK_EQ(pnx_pool_cancel(&asks[i].request), -EALREADY);
    }
    CHECK_EQ(deepest, 1);
    CHECK_EQ(pnx_pool_cancel(NULL), -EINVAL);
    CHECK(chained.slot == NULL);
    tear_down(pool);
}
