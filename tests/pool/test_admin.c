/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What an operator does with a pool in use: pause, warm up, adopt, detach, evict, close by halves; in a forked child,
 * and without memory.
 */
#include "pool/kit.h"
#include "pool/pool.h"

#include <unistd.h>

/* ---- pause ---- */

TEST(a_paused_pool_grants_and_connects_nothing_until_it_is_resumed) {
    set_up();
    struct pnx_stats *set = events_begin();
    struct pnx_pool *pool = mock_pool(&mock_full, OPTS(.max = 3, .stats = set));
    struct pnx_lease a = mock_acquire(pool, PNX_SEC), b = mock_acquire(pool, PNX_SEC), c = {0};
    struct pnx_error err = {0};
    struct ask asks[3];
    pnx_lease_release(&b);
    events_clear();
    CHECK_EQ(pnx_pool_pause(pool, 0), 1); /* a is out */
    CHECK_EQ(pnx_pool_pause(pool, 0), 1);
    CHECK_STR(events.all, "pool_paused 0 -|"); /* once */
    CHECK_EQ(events.value, 1);
    CHECK_STR(health_in(set, PNX_HEALTH_DEGRADED), "paused");
    CHECK_EQ(pnx_pool_acquire(pool, 0, &err, &c), -EAGAIN);
    CHECK_STR(err.phase, "paused");
    CHECK_CONTAINS(err.message, "is paused");
    for (int i = 0; i < 3; i++)
        ask_start(&asks[i], pool, PNX_PRIORITY_NORMAL, PNX_NEVER);
    struct ask tried;
    ask_start(&tried, pool, PNX_PRIORITY_NORMAL, 0);
    CHECK_EQ(tried.code, -EAGAIN);
    pnx_lease_release(&a);
    pnx_pool_tick(pool, te.now);
    CHECK_EQ(mock->connects, 2);
    CHECK_EQ(pnx_pool_pause(pool, PNX_SEC), 0); /* now all are home */
    CHECK_EQ(ask_calls(&asks[0]) + ask_calls(&asks[1]) + ask_calls(&asks[2]), 0);
    events_clear();
    CHECK_EQ(pnx_pool_resume(pool), 0);
    CHECK(ask_granted(&asks[0]) && ask_granted(&asks[1]));
    CHECK(asks[0].place < asks[1].place);
    CHECK_EQ(ask_calls(&asks[2]), 0);
    CHECK_STR(events.all, "pool_resumed 0 -|");
    CHECK_EQ(events.value, 3);
    pnx_pool_tick(pool, te.now);
    CHECK(ask_granted(&asks[2])); /* by a connect */
    health_in(set, PNX_HEALTH_OK);
    CHECK_EQ(pnx_pool_resume(pool), 0); /* nothing to do, nothing told */
    for (int i = 0; i < 3; i++)
        pnx_lease_release(&asks[i].lease);
    CHECK_EQ(mock->connects, 3);
    tear_down(pool);
    events_end();
}

static int contains(void *ctx, const char *text, size_t n) {
    const char **wanted = ctx;
    char line[512];
    snprintf(line, sizeof(line), "%.*s", (int)n, text);
    if (*wanted && strstr(line, *wanted))
        *wanted = NULL;
    return 0;
}

static bool dump_says(struct pnx_pool *pool, const char *wanted) {
    CHECK_EQ(pnx_pool_dump(pool, contains, &wanted), 0);
    return !wanted;
}

TEST(the_dump_says_that_a_pool_is_paused_or_its_breaker_open) {
    set_up();
    struct pnx_pool *pool = mock_pool(&mock_full, OPTS(.max = 1, .breaker_failures = 1));
    struct pnx_lease lease = {0};
    CHECK(dump_says(pool, "pool \"db\": 0 of 1"));
    CHECK_EQ(pnx_pool_pause(pool, 0), 0);
    CHECK(dump_says(pool, "pool \"db\" (paused): 0 of 1"));
    CHECK_EQ(pnx_pool_resume(pool), 0);
    mock->connect_errors = 1;
    CHECK_EQ(pnx_pool_acquire(pool, 0, NULL, &lease), -ETIMEDOUT);
    pnx_pool_tick(pool, te.now);
    CHECK(dump_says(pool, "pool \"db\" (breaker open): 0 of 1"));
    tear_down(pool);
}

TEST(waiters_of_a_paused_pool_run_into_their_deadlines) {
    set_up();
    struct pnx_pool *pool = mock_pool(&mock_full, OPTS(.max = 1));
    struct ask ask;
    CHECK_EQ(pnx_pool_pause(pool, PNX_NEVER), 0);
    ask_start(&ask, pool, PNX_PRIORITY_NORMAL, PNX_SEC);
    advance(pool, PNX_SEC - 1);
    CHECK_EQ(ask_calls(&ask), 0);
    advance(pool, 1);
    CHECK_EQ(ask.code, -ETIMEDOUT);
    CHECK_STR(ask.err.phase, "paused");
    CHECK_EQ(pnx_pool_resume(pool), 0);
    tear_down(pool);
}

static void *pause_for_ever(void *arg) {
    struct caller *caller = arg;
    caller->rc = pnx_pool_pause(caller->pool, PNX_NEVER);
    return NULL;
}

/* Starts n threads that pause the pool, and waits until all of them wait in it. */
static void start_pausers(struct caller *pausers, uint32_t n, struct pnx_pool *pool) {
    pnx_ns until = pnx_now() + 30 * PNX_SEC;
    for (uint32_t i = 0; i < n; i++) {
        pausers[i] = (struct caller){.pool = pool, .rc = -1};
        CHECK(pthread_create(&pausers[i].thread, NULL, pause_for_ever, &pausers[i]) == 0);
    }
    for (uint32_t waiting = 0; waiting < n; sched_yield()) {
        CHECK(pnx_now() < until);
        pnx__pool_lock(pool);
        waiting = pool->closers;
        pnx__mutex_unlock(&pool->lock);
    }
}

TEST(a_pause_waits_for_the_leases_that_are_out_and_many_may_pause_at_once) {
    set_up();
    te.virtual_time = false;
    struct pnx_pool *pool = mock_pool(&mock_bare, OPTS(.max = 2));
    struct pnx_lease lease = mock_acquire(pool, 30 * PNX_SEC);
    struct caller pausers[2];
    pnx_lease_release(&lease);
    lease = mock_acquire(pool, 0); /* by the short way, which a pause sees too */
    CHECK_EQ(pnx_pool_pause(pool, PNX_MS), 1);
    start_pausers(pausers, 2, pool);
    pnx_lease_release(&lease);
    for (int i = 0; i < 2; i++) {
        caller_join(&pausers[i]);
        CHECK_EQ(pausers[i].rc, 0);
    }
    struct caller callers[2] = {0};
    caller_start(&callers[0], pool, 30 * PNX_SEC);
    UNTIL(pool, s.waiting == 1);
    caller_start(&callers[1], pool, 30 * PNX_SEC);
    UNTIL(pool, s.waiting == 2);
    CHECK_EQ(mock_read(mock, &mock->connects), 1);
    CHECK_EQ(pnx_pool_resume(pool), 0);
    for (int i = 0; i < 2; i++) {
        caller_join(&callers[i]);
        CHECK_EQ(callers[i].rc, 0);
        pnx_lease_release(&callers[i].lease);
    }
    tear_down(pool);
}

static void pause_inside(struct mock *m) {
    m->during_rc = pnx_pool_pause(m->pool, PNX_NEVER);
}

TEST(a_pause_inside_an_operation_does_not_wait) {
    set_up();
    struct pnx_pool *pool = mock_pool(&mock_full, OPTS(.max = 3));
    struct pnx_lease lease = mock_acquire(pool, PNX_SEC), none = {0};
    mock->pool = pool;
    mock->during = pause_inside;
    CHECK_EQ(pnx_pool_acquire(pool, 0, NULL, &none), -ETIMEDOUT);
    pnx_pool_tick(pool, te.now);
    CHECK_EQ(mock->during_rc, -EDEADLK);
    mock->during = NULL;
    CHECK_EQ(pnx_pool_acquire(pool, 0, NULL, &none), -EAGAIN); /* it is paused even so */
    pnx_lease_release(&lease);
    CHECK_EQ(pnx_pool_resume(pool), 0);
    tear_down(pool);
}

TEST(closing_a_paused_pool_ends_the_pause_and_who_waits_in_it) {
    set_up();
    te.virtual_time = false;
    struct pnx_pool *pool = mock_pool(&mock_full, OPTS(.max = 1));
    struct pnx_lease lease = mock_acquire(pool, PNX_SEC);
    struct ask ask;
    struct caller pauser;
    start_pausers(&pauser, 1, pool);
    ask_start(&ask, pool, PNX_PRIORITY_NORMAL, PNX_NEVER);
    CHECK_EQ(ask_calls(&ask), 0);
    CHECK_EQ(pnx_pool_close(pool, 0), 1);
    CHECK_EQ(ask.code, -ESHUTDOWN);
    caller_join(&pauser);
    CHECK_EQ(pauser.rc, -ESHUTDOWN);
    CHECK_EQ(pnx_pool_pause(pool, 0), -ESHUTDOWN);
    CHECK_EQ(pnx_pool_resume(pool), -ESHUTDOWN);
    CHECK_EQ(pnx_pool_pause(NULL, 0), -EINVAL);
    CHECK_EQ(pnx_pool_pause(pool, -3), -EINVAL);
    CHECK_EQ(pnx_pool_resume(NULL), -EINVAL);
    pnx_lease_release(&lease);
    tear_down(pool);
}

/* ---- warming up ---- */

TEST(warm_up_connects_until_so_many_are_alive) {
    set_up();
    struct pnx_pool *pool = mock_pool(&mock_full, OPTS(.max = 5));
    struct pnx_lease lease = mock_acquire(pool, PNX_SEC);
    struct pnx_error err = {0};
    CHECK_EQ(pnx_pool_warm_up(pool, 1, 0, &err), 0);
    CHECK_EQ(pnx_pool_warm_up(pool, 3, 0, &err), -EINPROGRESS);
    CHECK_EQ(mock->connects, 1);
    pnx_pool_tick(pool, te.now);
    CHECK_EQ(mock->connects, 3); /* those in use count */
    CHECK_EQ(pnx_pool_warm_up(pool, 3, 0, &err), 0);
    CHECK_EQ(pnx_pool_warm_up(pool, 5, PNX_SEC, &err), 0); /* itself, in a pool without threads */
    CHECK_EQ(mock->connects, 5);
    pnx_pool_tick(pool, te.now);
    pnx_lease_discard(&lease);
    pnx_pool_tick(pool, te.now);
    CHECK_EQ(mock_stats(pool).idle, 4); /* and that was that */
    CHECK_EQ(pnx_pool_warm_up(pool, 6, PNX_SEC, &err), -ERANGE);
    CHECK_STR(err.phase, "warm_up");
    CHECK_EQ(pnx_pool_warm_up(NULL, 1, 0, &err), -EINVAL);
    CHECK_EQ(pnx_pool_warm_up(pool, 1, -2, &err), -EINVAL);
    CHECK_EQ(pnx_pool_close(pool, 0), 0);
    CHECK_EQ(pnx_pool_warm_up(pool, 1, PNX_SEC, &err), -ESHUTDOWN);
    CHECK_STR(err.phase, "closed");
    tear_down(pool);
}

static void take_long(struct mock *m) {
    (void)m;
    test_env_advance(&te, 2 * PNX_SEC);
}

static void warm_up_inside(struct mock *m) {
    m->during = NULL;
    m->during_rc = pnx_pool_warm_up(m->pool, 3, PNX_SEC, NULL);
}

TEST(warm_up_says_why_it_did_not_come_about) {
    set_up();
    struct pnx_pool *pool = mock_pool(
            &mock_full, OPTS(.max = 8, .breaker_failures = 2, .backoff_max_ns = 4 * PNX_SEC));
    struct pnx_error err = {0};
    mock->connect_errors = 2;
    mock->connect_error = -EACCES;
    mock->message = "no such user";
    mock->during = take_long; /* on the virtual clock */
    CHECK_EQ(pnx_pool_warm_up(pool, 2, PNX_SEC, &err), -ETIMEDOUT);
    CHECK_EQ(err.cause, -EACCES);
    CHECK_STR(err.phase, "connect");
    CHECK_CONTAINS(err.message, "no such user");
    CHECK_EQ(mock->failed, 1);
    advance(pool, 4 * PNX_SEC);
    CHECK_EQ(mock->failed, 1); /* nobody waits for it any more */
    CHECK_EQ(pnx_pool_warm_up(pool, 2, 30 * PNX_SEC, &err), PNX_E_BREAKER);
    CHECK_EQ(err.cause, -EACCES);
    mock->during = NULL;
    advance(pool, 4 * PNX_SEC);
    CHECK_EQ(pnx_pool_warm_up(pool, 2, 30 * PNX_SEC, &err), PNX_E_BREAKER);
    CHECK_EQ(pnx_pool_warm_up(pool, 2, 0, &err), -EINPROGRESS);
    pnx_pool_tick(pool, te.now);
    CHECK_EQ(mock_stats(pool).idle, 2);
    mock->pool = pool;
    mock->during = warm_up_inside;
    CHECK_EQ(pnx_pool_warm_up(pool, 3, 30 * PNX_SEC, &err), 0);
    CHECK_EQ(mock->during_rc, -EDEADLK);
    tear_down(pool);
}

struct warming {
    struct pnx_pool *pool;
    uint32_t n;
    pthread_t thread;
    int rc;
};

static void *warm_up(void *arg) {
    struct warming *warming = arg;
    warming->rc = pnx_pool_warm_up(warming->pool, warming->n, PNX_NEVER, NULL);
    return NULL;
}

TEST(warm_up_goes_on_for_those_who_wait_when_another_one_has_given_up) {
    set_up();
    te.virtual_time = false;
    struct pnx_pool *pool = mock_pool(&mock_full, OPTS_THREADS(.max = 8, .max_connecting = 1));
    mock_set(mock, &mock->hold_connect, true);
    struct warming two = {.pool = pool, .n = 2};
    CHECK_EQ(pnx_pool_warm_up(pool, 3, 0, NULL), -EINPROGRESS);
    CHECK(pthread_create(&two.thread, NULL, warm_up, &two) == 0);
    mock_wait(mock, &mock->in_connect, 1);
    for (uint32_t n = 8; n >= 1; n--)
        CHECK_EQ(pnx_pool_warm_up(pool, n, PNX_US, NULL), -ETIMEDOUT);
    mock_set(mock, &mock->hold_connect, false);
    pthread_join(two.thread, NULL);
    CHECK_EQ(two.rc, 0);
    UNTIL(pool, s.idle == 3); /* what was begun without waiting goes on, too */
    tear_down(pool);
}

TEST(warm_up_waits_for_the_pools_threads_and_ends_with_the_pool) {
    set_up();
    te.virtual_time = false;
    struct pnx_pool *pool = mock_pool(&mock_full, OPTS_THREADS(.max = 4));
    CHECK_EQ(pnx_pool_warm_up(pool, 2, 30 * PNX_SEC, NULL), 0);
    CHECK_EQ(mock_read(mock, &mock->connects), 2);
    CHECK_EQ(mock_stats(pool).idle, 2);
    mock_set(mock, &mock->hold_connect, true);
    struct warming warming = {.pool = pool, .n = 4};
    CHECK(pthread_create(&warming.thread, NULL, warm_up, &warming) == 0);
    mock_wait(mock, &mock->in_connect, 2);
    CHECK_EQ(pnx_pool_close_begin(pool), 0);
    pthread_join(warming.thread, NULL);
    CHECK_EQ(warming.rc, -ESHUTDOWN);
    mock_set(mock, &mock->hold_connect, false);
    tear_down(pool);
}

/* ---- adopt and detach ---- */

TEST(an_adopted_resource_is_as_good_as_any) {
    set_up();
    struct pnx_pool *pool = mock_pool(&mock_full, OPTS(.max = 2));
    struct pnx_error err = {0};
    struct mock_resource *one = stray_new(), *two = stray_new(), *three = stray_new();
    struct ask ask;
    CHECK_EQ(pnx_pool_adopt(pool, one, &err), 0);
    struct pnx_lease lease = mock_acquire(pool, 0);
    CHECK(mock_of(&lease) == one);
    ask_start(&ask, pool, PNX_PRIORITY_NORMAL, PNX_NEVER);
    CHECK_EQ(pnx_pool_adopt(pool, two, &err), 0);
    CHECK(ask_granted(&ask) && mock_of(&ask.lease) == two); /* who waits gets it at once */
    CHECK_EQ(pnx_pool_adopt(pool, three, &err), -EBUSY);
    CHECK_STR(err.phase, "adopt");
    CHECK_CONTAINS(err.message, "is full");
    CHECK(!three->dead); /* it is still the caller's */
    CHECK_EQ(pnx_pool_adopt(NULL, three, &err), -EINVAL);
    CHECK_STR(err.field, "pool");
    CHECK_EQ(pnx_pool_adopt(pool, NULL, &err), -EINVAL);
    CHECK_STR(err.field, "resource");
    CHECK_EQ(mock_stats(pool).adopted, 2);
    pnx_lease_release(&lease);
    pnx_lease_release(&ask.lease);
    CHECK_EQ(pnx_pool_close(pool, 0), 0);
    CHECK(one->dead && two->dead);
    CHECK_EQ(pnx_pool_adopt(pool, three, &err), -ESHUTDOWN);
    stray_close(three);
    tear_down(pool);
}

TEST(an_adopt_while_as_many_connects_run_as_may_is_no_connect) {
    set_up();
    struct pnx_pool *pool = mock_pool(&mock_full, OPTS_THREADS(.max = 4, .max_connecting = 1));
    mock_set(mock, &mock->hold_connect, true);
    struct ask ask;
    ask_start(&ask, pool, PNX_PRIORITY_NORMAL, PNX_NEVER);
    mock_wait(mock, &mock->in_connect, 1);
    CHECK_EQ(pnx_pool_adopt(pool, stray_new(), NULL), 0);
    CHECK(ask_granted(&ask));
    CHECK_EQ(mock_stats(pool).connects, 0); /* none has succeeded yet */
    mock_set(mock, &mock->hold_connect, false);
    UNTIL(pool, s.idle == 1);
    pnx_lease_release(&ask.lease);
    tear_down(pool);
}

TEST(p11_an_adopted_resource_closes_the_breaker_but_ends_no_pause) {
    set_up();
    struct pnx_pool *pool = mock_pool(
            &mock_full, OPTS(.max = 2, .breaker_failures = 1, .backoff_max_ns = 2 * PNX_SEC));
    struct pnx_lease lease = {0}, none = {0};
    mock->connect_errors = -1;
    mock->verdict = PNX_POOL_PERMANENT; /* a pause of at least one second */
    CHECK_EQ(pnx_pool_acquire(pool, 0, NULL, &lease), -ETIMEDOUT);
    pnx_pool_tick(pool, te.now);
    CHECK_EQ(mock_stats(pool).breaker_open, 1);
    CHECK_EQ(pnx_pool_adopt(pool, stray_new(), NULL), 0);
    CHECK_EQ(mock_stats(pool).breaker_open, 0);
    lease = mock_acquire(pool, 0);
    CHECK_EQ(pnx_pool_acquire(pool, 0, NULL, &none), -ETIMEDOUT);
    advance(pool, PNX_SEC - 1);
    CHECK_EQ(mock->failed, 1); /* P6: it is no sign that connects succeed again */
    advance(pool, PNX_SEC + 1);
    CHECK_EQ(mock->failed, 2);
    pnx_lease_discard(&lease);
    CHECK_EQ(mock_stats(pool).breaker_open, 1);
    tear_down(pool);
}

static uint64_t used(const struct pnx_budget *budget) {
    struct pnx_budget_stats stats = {.size = sizeof(stats)};
    CHECK_EQ(pnx_budget_read_stats(budget, &stats), 0);
    return stats.used;
}

TEST(a_detached_resource_leaves_its_slot_its_row_and_its_charge) {
    set_up();
    struct pnx_registry *registry;
    struct pnx_budget *budget;
    CHECK_EQ(pnx_registry_create(NULL, NULL, &registry), 0);
    CHECK_EQ(pnx_budget_create(PNX_BUDGET_OPTS(.parent = pnx_budget_off()), NULL, &budget), 0);
    struct pnx_pool *pool = mock_pool(&mock_full,
            OPTS(.max = 1, .registry = registry, .budget = budget, .resource_bytes = 1000));
    uint64_t own = used(budget);
    struct pnx_lease lease = mock_acquire(pool, PNX_SEC);
    struct mock_resource *resource = mock_of(&lease);
    struct ask ask;
    ask_start(&ask, pool, PNX_PRIORITY_NORMAL, PNX_NEVER);
    CHECK_EQ(pnx_registry_count(registry), 2);
    CHECK_EQ(used(budget), own + 1000);
    CHECK(pnx_lease_detach(&lease) == resource);
    CHECK(lease.slot == NULL);
    CHECK_EQ(pnx_registry_count(registry), 1);
    CHECK_EQ(used(budget), own);
    CHECK_EQ(mock_stats(pool).in_use, 0);
    CHECK_EQ(mock_stats(pool).detached, 1);
    pnx_pool_tick(pool, te.now);
    CHECK(ask_granted(&ask)); /* the slot is free though the resource lives */
    CHECK_EQ(mock->live, 2);
    CHECK_EQ(mock->resets, 0);
    pnx_lease_release(&ask.lease);
    CHECK_EQ(pnx_pool_close(pool, 0), 0);
    CHECK(!resource->dead);
    CHECK(pnx_lease_detach(NULL) == NULL && pnx_lease_detach(&lease) == NULL);
    stray_close(resource);
    tear_down(pool);
    CHECK_EQ(pnx_registry_count(registry), 0);
    pnx_registry_release(&registry);
    pnx_budget_release(&budget);
}

TEST(an_adopted_resource_is_a_row_and_charged_and_refused_when_the_budget_refuses) {
    set_up();
    struct pnx_registry *registry;
    struct pnx_budget *budget;
    CHECK_EQ(pnx_registry_create(NULL, NULL, &registry), 0);
    CHECK_EQ(pnx_budget_create(PNX_BUDGET_OPTS(.parent = pnx_budget_off()), NULL, &budget), 0);
    struct pnx_pool *pool = mock_pool(&mock_full,
            OPTS(.max = 2, .registry = registry, .budget = budget, .resource_bytes = 1000));
    uint64_t own = used(budget);
    struct mock_resource *one = stray_new(), *two = stray_new();
    struct pnx_error err = {0};
    CHECK_EQ(pnx_budget_set_limits(budget, own + 1500, own + 1500), 0);
    CHECK_EQ(pnx_pool_adopt(pool, one, &err), 0);
    CHECK_EQ(pnx_registry_count(registry), 2);
    CHECK_EQ(used(budget), own + 1000);
    struct pnx_lease lease = mock_acquire(pool, 0); /* or the budget would have it closed */
    CHECK_EQ(pnx_pool_adopt(pool, two, &err), -ENOMEM);
    CHECK_CONTAINS(err.message, "the memory budget refused 1000 bytes");
    CHECK(!two->dead);
    CHECK_EQ(pnx_registry_count(registry), 2);
    CHECK_EQ(mock_stats(pool).connecting, 0);
    CHECK_EQ(pnx_budget_set_limits(budget, 0, 0), 0);
    CHECK_EQ(pnx_pool_adopt(pool, two, &err), 0);
    pnx_lease_release(&lease);
    tear_down(pool);
    CHECK_EQ(used(budget), 0);
    pnx_registry_release(&registry);
    pnx_budget_release(&budget);
}

TEST(a_lease_may_be_detached_from_a_closed_and_released_pool) {
    set_up();
    struct pnx_pool *pool = mock_pool(&mock_full, OPTS(.max = 2));
    struct pnx_lease lease = mock_acquire(pool, PNX_SEC);
    CHECK_EQ(pnx_pool_close(pool, 0), 1);
    pnx_pool_release(&pool);
    stray_close(pnx_lease_detach(&lease));
    test_env_check_empty(&te);
    CHECK_EQ(mock->live, 0);
    free(mock);
}

/* ---- evict ---- */

struct evicting {
    int asked;
    int evict_id; /* -1: none */
    pnx_ns age, unused_for;
    struct pnx_pool *pool;
    struct pnx_lease other;
};

static bool evict_one(void *ctx, void *resource, pnx_ns age, pnx_ns unused_for) {
    struct evicting *evicting = ctx;
    struct mock_resource *r = resource;
    CHECK(!r->dead);
    evicting->asked++;
    if (r->id != evicting->evict_id)
        return false;
    evicting->age = age;
    evicting->unused_for = unused_for;
    return true;
}

TEST(evict_closes_the_idle_resources_that_its_predicate_names) {
    set_up();
    struct pnx_pool *pool = mock_pool(&mock_bare, OPTS(.max = 4, .min_idle = 2));
    struct pnx_lease leases[4];
    for (int i = 0; i < 4; i++)
        leases[i] = mock_acquire(pool, PNX_SEC);
    test_env_advance(&te, 5 * PNX_SEC);
    pnx_lease_release(&leases[0]);
    leases[0] = mock_acquire(pool, 0);
    for (int i = 0; i < 3; i++)
        pnx_lease_discard(&leases[i]);
    for (int i = 0; i < 3; i++)
        leases[i] = mock_acquire(pool, PNX_SEC);
    test_env_advance(&te, 5 * PNX_SEC);
    for (int i = 0; i < 3; i++)
        pnx_lease_release(&leases[i]);
    test_env_advance(&te, 2 * PNX_SEC);
    int middle = mock->n - 2;
    struct evicting evicting = {.evict_id = middle};
    int closes = mock->closes;
    CHECK_EQ(pnx_pool_evict(pool, evict_one, &evicting), 1);
    CHECK_EQ(evicting.asked, 3); /* what is in use is not asked about */
    CHECK_EQ(evicting.age, 7 * PNX_SEC);
    CHECK(evicting.unused_for >= 2 * PNX_SEC && evicting.unused_for <= 7 * PNX_SEC);
    CHECK_EQ(mock->closes, closes + 1);
    CHECK(mock->resources[middle].dead);
    CHECK_EQ(mock_stats(pool).closed_evicted, 1);
    evicting = (struct evicting){.evict_id = -1};
    CHECK_EQ(pnx_pool_evict(pool, evict_one, &evicting), 0);
    CHECK_EQ(evicting.asked, 2);
    leases[0] = mock_acquire(pool, 0); /* they serve as before */
    pnx_lease_release(&leases[0]);
    CHECK_EQ(pnx_pool_evict(pool, NULL, NULL), 2); /* all, below min_idle even */
    pnx_lease_release(&leases[3]);
    CHECK_EQ(pnx_pool_evict(NULL, NULL, NULL), -EINVAL);
    CHECK_EQ(pnx_pool_close(pool, 0), 0);
    CHECK_EQ(pnx_pool_evict(pool, NULL, NULL), -ESHUTDOWN);
    tear_down(pool);
}

TEST(an_eviction_that_spares_a_resource_does_not_make_it_younger) {
    set_up();
    struct pnx_pool *pool = mock_pool(
            &mock_full, OPTS(.max = 1, .idle_ns = 80 * PNX_SEC, .check_after_ns = 10 * PNX_SEC));
    struct pnx_lease lease = mock_acquire(pool, PNX_SEC);
    struct evicting evicting = {.evict_id = -1};
    pnx_lease_release(&lease);
    pnx_pool_tick(pool, te.now);
    for (int i = 0; i < 9; i++) {
        advance(pool, PNX_SEC);
        CHECK_EQ(pnx_pool_evict(pool, evict_one, &evicting), 0);
    }
    lease = mock_acquire(pool, 0);
    pnx_lease_release(&lease);
    for (int i = 0; i < 10; i++) {
        CHECK_EQ(pnx_pool_evict(pool, evict_one, &evicting), 0);
        advance(pool, PNX_SEC);
    }
    CHECK_EQ(mock->checks, 0);
    CHECK_EQ(pnx_pool_acquire(pool, 0, NULL, &lease), -ETIMEDOUT); /* it must be checked */
    pnx_pool_tick(pool, te.now);
    CHECK_EQ(mock->checks, 1);
    for (int i = 0; i < 92; i++) {
        CHECK_EQ(pnx_pool_evict(pool, evict_one, &evicting), 0);
        advance(pool, PNX_SEC);
    }
    CHECK_EQ(mock_stats(pool).closed_idle, 1);
    tear_down(pool);
}

static bool evict_none_but_use(void *ctx, void *resource, pnx_ns age, pnx_ns unused_for) {
    struct evicting *evicting = ctx;
    (void)age;
    (void)unused_for;
    evicting->asked++;
    if (evicting->asked > 1)
        return false;
    /* Others proceed meanwhile; this one is nobody's. */
    struct pnx_lease lease = mock_acquire(evicting->pool, 0);
    CHECK(pnx_lease_resource(&lease) != resource);
    CHECK_EQ(mock_stats(evicting->pool).checking, 1);
    struct pnx_lease none = {0};
    CHECK_EQ(pnx_pool_acquire(evicting->pool, 0, NULL, &none), -ETIMEDOUT);
    CHECK_EQ(pnx_pool_acquire(evicting->pool, PNX_SEC, NULL, &none), -EDEADLK);
    evicting->other = lease;
    return false;
}

TEST(others_proceed_while_an_eviction_asks) {
    set_up();
    struct pnx_pool *pool = mock_pool(&mock_bare, OPTS(.max = 2));
    struct pnx_lease a = mock_acquire(pool, PNX_SEC), b = mock_acquire(pool, PNX_SEC);
    pnx_lease_release(&a);
    pnx_lease_release(&b);
    struct evicting evicting = {.pool = pool};
    CHECK_EQ(pnx_pool_evict(pool, evict_none_but_use, &evicting), 0);
    CHECK_EQ(evicting.asked, 1); /* the other one was in use by then */
    pnx_lease_release(&evicting.other);
    CHECK_EQ(mock_stats(pool).idle, 2);
    tear_down(pool);
}

/* ---- closing by halves ---- */

TEST(a_close_can_be_begun_and_asked_about) {
    set_up();
    struct pnx_pool *pool = mock_pool(&mock_full, OPTS(.max = 3));
    struct pnx_lease a = mock_acquire(pool, PNX_SEC), b = mock_acquire(pool, PNX_SEC), none = {0};
    struct ask ask;
    pnx_lease_release(&b);
    CHECK_EQ(pnx_pool_pause(pool, 0), 1);
    ask_start(&ask, pool, PNX_PRIORITY_NORMAL, PNX_NEVER);
    CHECK_EQ(pnx_pool_close_poll(pool), -EAGAIN);
    CHECK_EQ(pnx_pool_close_begin(pool), 0);
    CHECK_EQ(ask.code, -ESHUTDOWN);
    CHECK_EQ(mock->closes, 1); /* in a pool without threads, here */
    CHECK_EQ(pnx_pool_close_poll(pool), 1);
    CHECK_EQ(pnx_pool_close_begin(pool), 0);
    CHECK_EQ(pnx_pool_acquire(pool, 0, NULL, &none), -ESHUTDOWN);
    CHECK_EQ(mock->interrupts, 0);
    pnx_lease_release(&a);
    CHECK_EQ(pnx_pool_close_poll(pool), 0);
    CHECK_EQ(pnx_pool_close_begin(NULL), -EINVAL);
    CHECK_EQ(pnx_pool_close_poll(NULL), -EINVAL);
    tear_down(pool);
}

static void close_begin_inside(struct mock *m) {
    m->during_rc = pnx_pool_close_begin(m->pool);
}

TEST(a_close_may_be_begun_inside_an_operation) {
    set_up();
    struct pnx_pool *pool = mock_pool(&mock_full, OPTS(.max = 3));
    struct pnx_lease lease = {0};
    mock->pool = pool;
    mock->during = close_begin_inside;
    CHECK_EQ(pnx_pool_acquire(pool, PNX_SEC, NULL, &lease), -ESHUTDOWN);
    CHECK_EQ(mock->during_rc, 0);
    CHECK_EQ(pnx_pool_close_poll(pool), 0);
    tear_down(pool);
}

/* ---- a forked child ---- */

struct forked {
    struct pnx_pool *pool;
    struct pnx_lease held;
    struct pnx_lease other;
};

static void in_the_child(void *ctx) {
    struct forked *forked = ctx;
    struct pnx_pool *pool = forked->pool;
    struct pnx_lease lease = {0};
    struct pnx_error err = {0};
    struct ask ask;
    CHECK_EQ(pnx_pool_acquire_with(pool, 0, PNX_ACQUIRE_OPTS(.tag = 1), &err, &lease), -ESHUTDOWN);
    CHECK_STR(err.phase, "fork");
    CHECK_EQ(pnx_pool_adopt(pool, &err, &err), -ESHUTDOWN);
    CHECK_EQ(pnx_pool_warm_up(pool, 1, PNX_NEVER, &err), -ESHUTDOWN);
    CHECK_STR(err.phase, "fork");
    CHECK_EQ(pnx_pool_reset(pool, PNX_POOL_RESET_INTERRUPT), -ESHUTDOWN);
    CHECK_EQ(pnx_pool_pause(pool, PNX_NEVER), -ESHUTDOWN);
    CHECK_EQ(pnx_pool_resume(pool), -ESHUTDOWN);
    CHECK_EQ(pnx_pool_evict(pool, NULL, NULL), -ESHUTDOWN);
    ask_start(&ask, pool, PNX_PRIORITY_NORMAL, PNX_NEVER);
    CHECK_EQ(ask_calls(&ask), 1);
    CHECK_EQ(ask.code, -ESHUTDOWN);
    CHECK_STR(ask.err.phase, "fork");
    CHECK_EQ(mock->abandons, 0);
    pnx_lease_stale_all(&forked->held); /* the child's copy, and nobody else's */
    CHECK_EQ(mock->abandons, 1);
    struct mock_resource *resource = pnx_lease_detach(&forked->other);
    CHECK(resource && !resource->dead); /* for the child to do with as it likes */
    CHECK_EQ(pnx_pool_close_begin(pool), 0);
    CHECK_EQ(mock->abandons, 2);
    CHECK_EQ(pnx_pool_close_poll(pool), 0);
    CHECK_EQ(mock->closes + mock->interrupts, 0);
    _exit(0);
}

TEST(a_forked_child_is_refused_by_each_call) {
    set_up();
    struct pnx_pool *pool = mock_pool(&mock_full, OPTS(.max = 4));
    struct pnx_lease a = mock_acquire(pool, PNX_SEC), b = mock_acquire(pool, PNX_SEC),
                     c = mock_acquire(pool, PNX_SEC);
    pnx_lease_release(&c);
    struct forked forked = {pool, a, b};
    CHECK_EQ(test_child(in_the_child, &forked), 0);
    CHECK_EQ(mock->abandons, 0);
    CHECK_EQ(mock_stats(pool).in_use, 2);
    pnx_lease_release(&a);
    pnx_lease_release(&b);
    tear_down(pool);
}

/* Nobody in the child gives back what another thread held, or was checking. */
static void in_the_child_of_others(void *ctx) {
    struct forked *forked = ctx;
    CHECK_EQ(pnx_pool_close(forked->pool, PNX_SEC), 0);
    CHECK_EQ(mock->abandons, 2);
    pnx_lease_release(&forked->other); /* late, and harmless */
    CHECK_EQ(mock->abandons, 2);
    pnx_lease_release(&forked->held); /* its own waits for it */
    CHECK_EQ(mock->abandons, 3);
    pnx_pool_release(&forked->pool);
    CHECK_EQ(mock->abandons, 3);
    CHECK_EQ(mock->closes, 0);
    _exit(0);
}

/* A lease that another thread got may still be released or detached by the child, and is nobody else's then. */
static void in_the_child_that_releases_first(void *ctx) {
    struct forked *forked = ctx;
    pnx_lease_release(&forked->other);
    CHECK_EQ(mock->abandons, 1);
    CHECK_EQ(pnx_pool_close(forked->pool, PNX_SEC), 0);
    CHECK_EQ(mock->abandons, 2); /* what was being checked, and not that one again */
    _exit(0);
}

static void in_the_child_that_detaches_first(void *ctx) {
    struct forked *forked = ctx;
    struct mock_resource *resource = pnx_lease_detach(&forked->other);
    CHECK_EQ(pnx_pool_close(forked->pool, PNX_SEC), 0);
    CHECK(resource && !resource->dead);
    CHECK_EQ(mock->abandons, 1);
    _exit(0);
}

TEST(a_fork_leaves_nothing_open_that_other_threads_held_or_checked) {
    set_up();
    struct pnx_pool *pool = mock_pool(&mock_full, OPTS_THREADS(.max = 3, .check_after_ns = 1));
    struct caller holder = {0}, waiter = {.release = true};
    struct pnx_lease held = mock_acquire(pool, PNX_SEC), idle = mock_acquire(pool, PNX_SEC);
    caller_start(&holder, pool, PNX_SEC);
    caller_join(&holder);
    CHECK_EQ(holder.rc, 0);
    pnx_lease_release(&idle);
    mock_set(mock, &mock->hold_check, true);
    caller_start(&waiter, pool, PNX_NEVER);
    UNTIL(pool, s.checking == 1);
    struct forked forked = {.pool = pool, .held = held, .other = holder.lease};
    CHECK_EQ(test_child(in_the_child_of_others, &forked), 0);
    CHECK_EQ(test_child(in_the_child_that_releases_first, &forked), 0);
    CHECK_EQ(test_child(in_the_child_that_detaches_first, &forked), 0);
    CHECK_EQ(mock->abandons, 0);
    mock_set(mock, &mock->hold_check, false);
    caller_join(&waiter);
    CHECK_EQ(waiter.rc, 0);
    pnx_lease_release(&held);
    pnx_lease_release(&holder.lease);
    tear_down(pool);
}

/* What its threads held or waited for at that moment is the parent's. */
static void in_the_child_of_waiters(void *ctx) {
    struct forked *forked = ctx;
    struct pnx_lease lease = {0};
    CHECK_EQ(pnx_pool_acquire(forked->pool, PNX_NEVER, NULL, &lease), -ESHUTDOWN);
    pnx_lease_release(&forked->held);
    CHECK_EQ(mock->abandons, 1);
    CHECK_EQ(pnx_pool_close(forked->pool, PNX_NEVER), 0);
    pnx_pool_release(&forked->pool);
    CHECK_EQ(mock->abandons, 1);
    CHECK_EQ(mock->closes, 0);
    _exit(0);
}

TEST(a_fork_while_callers_and_a_request_wait_hangs_nobody_on_either_side) {
    set_up();
    struct pnx_pool *pool = mock_pool(&mock_full, OPTS_THREADS(.max = 1));
    struct pnx_lease held = mock_acquire(pool, PNX_SEC);
    struct caller callers[2] = {{.release = true}, {.release = true}};
    struct ask ask;
    caller_start(&callers[0], pool, PNX_NEVER);
    UNTIL(pool, s.waiting == 1);
    ask_start(&ask, pool, PNX_PRIORITY_NORMAL, PNX_NEVER);
    caller_start(&callers[1], pool, PNX_NEVER);
    UNTIL(pool, s.waiting == 3);
    struct forked forked = {.pool = pool, .held = held};
    for (int i = 0; i < 3; i++)
        CHECK_EQ(test_child(in_the_child_of_waiters, &forked), 0);
    CHECK_EQ(mock_stats(pool).waiting, 3);
    CHECK_EQ(mock->abandons, 0);
    pnx_lease_release(&held);
    ask_await(&ask);
    CHECK(ask_granted(&ask));
    pnx_lease_release(&ask.lease);
    for (int i = 0; i < 2; i++) {
        caller_join(&callers[i]);
        CHECK_EQ(callers[i].rc, 0);
    }
    tear_down(pool);
}

/* ---- no memory ---- */

/* Every call but create; none may fail, since all of this is done without memory. */
static int one_life(struct test_env *env, void *ctx) {
    struct pnx_pool *pool = NULL;
    struct pnx_error err = {0};
    struct ask ask;
    (void)ctx;
    struct pnx_pool_opts opts = *PNX_POOL_OPTS(.max = 3, .ctx = mock, .resource_bytes = 100);
    opts.env = &env->env;
    opts.flags = PNX_POOL_NO_THREADS;
    opts.registry = pnx_registry_off();
    int rc = pnx_pool_create(&mock_full, &opts, &err, &pool);
    if (rc)
        return rc;
    CHECK_EQ(pnx_pool_warm_up(pool, 2, PNX_SEC, &err), 0);
    CHECK_EQ(pnx_pool_adopt(pool, stray_new(), &err), 0);
    struct pnx_lease a = {0}, b = mock_acquire(pool, PNX_SEC), c = mock_acquire(pool, PNX_SEC);
    CHECK_EQ(pnx_pool_acquire_with(pool, PNX_SEC, PNX_ACQUIRE_OPTS(.tag = 1), &err, &a), 0);
    ask_start(&ask, pool, PNX_PRIORITY_HIGH, PNX_NEVER);
    CHECK_EQ(pnx_pool_pause(pool, 0), 3);
    pnx_lease_release(&a);
    CHECK_EQ(pnx_pool_resume(pool), 0);
    CHECK(ask_granted(&ask));
    stray_close(pnx_lease_detach(&b));
    CHECK_EQ(pnx_pool_reset(pool, PNX_POOL_RESET_INTERRUPT | PNX_POOL_RESET_IDLE), 0);
    pnx_lease_release(&ask.lease);
    pnx_lease_stale_all(&c);
    CHECK_EQ(pnx_pool_warm_up(pool, 1, PNX_SEC, &err), 0);
    CHECK_EQ(pnx_pool_evict(pool, NULL, NULL), 1);
    CHECK_EQ(pnx_pool_close_begin(pool), 0);
    CHECK_EQ(pnx_pool_close_poll(pool), 0);
    MOCK_END(pool);
    return 0;
}

TEST(no_call_but_create_needs_memory) {
    set_up();
    test_fail_each_allocation(&te, one_life, NULL);
    CHECK_EQ(mock->live, 0);
    free(mock);
}

static int one_life_with_threads(struct test_env *env, void *ctx) {
    struct pnx_pool *pool = NULL;
    struct pnx_error err = {0};
    (void)ctx;
    struct pnx_pool_opts opts = *PNX_POOL_OPTS(.max = 3, .ctx = mock);
    opts.env = &env->env;
    int rc = pnx_pool_create(&mock_full, &opts, &err, &pool);
    if (rc)
        return rc;
    CHECK_EQ(pnx_pool_warm_up(pool, 2, 30 * PNX_SEC, &err), 0); /* a thread that cannot be had */
    CHECK_EQ(pnx_pool_reset(pool, PNX_POOL_RESET_IDLE), 0);
    struct pnx_lease lease = mock_acquire(pool, 30 * PNX_SEC);
    stray_close(pnx_lease_detach(&lease));
    CHECK_EQ(pnx_pool_adopt(pool, stray_new(), &err), 0);
    CHECK_EQ(pnx_pool_evict(pool, NULL, NULL) >= 1, true);
    MOCK_END(pool);
    return 0;
}

TEST(threads_that_cannot_be_had_for_want_of_memory_are_done_without) {
    set_up();
    te.virtual_time = false;
    test_fail_each_allocation(&te, one_life_with_threads, NULL);
    CHECK_EQ(mock->live, 0);
    free(mock);
}
