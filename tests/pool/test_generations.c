/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Resources that are declared old: pnx_pool_reset() and its flags, interrupts, pnx_lease_stale_all().
 */
#include "pool/kit.h"

/* ---- generations ---- */

TEST(p12_a_lazy_reset_closes_what_is_idle_when_somebody_would_have_got_it) {
    set_up();
    struct pnx_stats *set = events_begin();
    struct pnx_pool *pool = mock_pool(&mock_bare, OPTS(.max = 4, .stats = set));
    struct pnx_lease leases[3];
    for (int i = 0; i < 3; i++)
        leases[i] = mock_acquire(pool, PNX_SEC);
    for (int i = 0; i < 3; i++)
        pnx_lease_release(&leases[i]);
    events_clear();
    CHECK_EQ(pnx_pool_reset(pool, PNX_POOL_RESET_LAZY), 0);
    CHECK_STR(events.all, "pool_reset 0 -|");
    CHECK_EQ(events.value, 1);
    CHECK_EQ(mock->closes, 0);
    leases[0] = mock_acquire(pool, PNX_SEC); /* by the short way before, which is closed now */
    CHECK_EQ(mock_of(&leases[0])->id, 3);
    pnx_lease_release(&leases[0]);
    leases[0] = mock_acquire(pool, 0); /* the new one is as good as ever */
    CHECK_EQ(mock_of(&leases[0])->id, 3);
    pnx_lease_release(&leases[0]);
    pnx_pool_tick(pool, te.now); /* who has its lease leaves the closes to others */
    CHECK_EQ(mock->closes, 3);
    CHECK_EQ(mock_stats(pool).closed_stale, 3);
    CHECK_EQ(mock_stats(pool).generations, 1);
    tear_down(pool);
    events_end();
}

TEST(p12_a_reset_can_close_idle_resources_at_once) {
    set_up();
    struct pnx_pool *pool = mock_pool(&mock_full, OPTS(.max = 4));
    struct pnx_lease a = mock_acquire(pool, PNX_SEC), b = mock_acquire(pool, PNX_SEC);
    pnx_lease_release(&b);
    CHECK_EQ(pnx_pool_reset(pool, PNX_POOL_RESET_IDLE), 0);
    CHECK_EQ(mock->closes, 1);
    CHECK_EQ(mock_of(&a)->id, 0); /* the lease is good until it is given back */
    CHECK_EQ(mock->interrupts, 0);
    pnx_lease_release(&a);
    CHECK_EQ(mock->closes, 2);
    CHECK_EQ(mock_stats(pool).closed_stale, 2);
    tear_down(pool);
}

TEST(p12_what_is_in_use_goes_to_no_waiter_when_it_is_old) {
    set_up();
    struct pnx_pool *pool = mock_pool(&mock_full, OPTS(.max = 1));
    struct pnx_lease lease = mock_acquire(pool, PNX_SEC);
    struct ask ask;
    ask_start(&ask, pool, PNX_PRIORITY_NORMAL, PNX_NEVER);
    CHECK_EQ(pnx_pool_reset(pool, PNX_POOL_RESET_IDLE), 0);
    CHECK_EQ(ask_calls(&ask), 0); /* who waits, waits on */
    pnx_lease_release(&lease);
    CHECK_EQ(ask_calls(&ask), 0);
    pnx_pool_tick(pool, te.now);
    CHECK(ask_granted(&ask));
    CHECK_EQ(mock_of(&ask.lease)->id, 1);
    pnx_lease_release(&ask.lease);
    tear_down(pool);
}

TEST(p12_a_connect_that_began_before_a_reset_is_discarded) {
    set_up();
    struct pnx_pool *pool = mock_pool(&mock_full, OPTS_THREADS(.max = 1));
    mock_set(mock, &mock->hold_connect, true);
    struct caller caller = {0};
    caller_start(&caller, pool, 30 * PNX_SEC);
    mock_wait(mock, &mock->in_connect, 1);
    CHECK_EQ(pnx_pool_reset(pool, PNX_POOL_RESET_LAZY), 0);
    mock_set(mock, &mock->hold_connect, false);
    caller_join(&caller);
    CHECK_EQ(caller.rc, 0);
    CHECK_EQ(mock_of(&caller.lease)->id, 1);
    CHECK_EQ(mock_read(mock, &mock->closes), 1);
    CHECK_EQ(mock_stats(pool).closed_stale, 1);
    pnx_lease_release(&caller.lease);
    tear_down(pool);
}

TEST(p12_a_check_that_began_before_a_reset_saves_nothing) {
    set_up();
    struct pnx_pool *pool = mock_pool(&mock_full, OPTS_THREADS(.max = 1, .check_after_ns = 1));
    struct pnx_lease lease = mock_acquire(pool, 30 * PNX_SEC);
    pnx_lease_release(&lease);
    mock_set(mock, &mock->hold_check, true);
    struct caller caller = {0};
    caller_start(&caller, pool, 30 * PNX_SEC);
    mock_wait(mock, &mock->in_check, 1);
    CHECK_EQ(pnx_pool_reset(pool, PNX_POOL_RESET_IDLE), 0);
    mock_set(mock, &mock->hold_check, false);
    caller_join(&caller);
    CHECK_EQ(mock_of(&caller.lease)->id, 1);
    pnx_lease_release(&caller.lease);
    tear_down(pool);
}

TEST(a_reset_drops_those_who_wait_if_asked_to) {
    set_up();
    enum { N = 40 }; /* more than one batch */
    static struct ask asks[N];
    struct ask late;
    struct pnx_pool *pool = mock_pool(&mock_full, OPTS_THREADS(.max = 1));
    struct pnx_lease lease = mock_acquire(pool, 30 * PNX_SEC);
    struct caller caller = {0};
    caller_start(&caller, pool, 30 * PNX_SEC);
    UNTIL(pool, s.waiting == 1);
    for (int i = 0; i < N; i++)
        ask_start(&asks[i], pool, PNX_PRIORITY_LOW, PNX_NEVER);
    CHECK_EQ(pnx_pool_reset(pool, PNX_POOL_RESET_DROP_WAITERS), 0);
    caller_join(&caller);
    CHECK_EQ(caller.rc, -ECANCELED);
    CHECK_STR(caller.err.phase, "reset");
    CHECK_CONTAINS(caller.err.message, "(reset)");
    for (int i = 0; i < N; i++) {
        CHECK_EQ(ask_calls(&asks[i]), 1);
        CHECK_EQ(asks[i].code, -ECANCELED);
    }
    ask_start(&late, pool, PNX_PRIORITY_LOW,
            PNX_NEVER); /* who comes afterwards is no older than the reset */
    CHECK_EQ(ask_calls(&late), 0);
    pnx_lease_discard(&lease);
    ask_await(&late);
    CHECK(ask_granted(&late));
    pnx_lease_release(&late.lease);
    tear_down(pool);
}

TEST(interrupt_is_called_once_for_each_old_resource_in_use) {
    set_up();
    struct pnx_pool *pool = mock_pool(&mock_full, OPTS(.max = 4));
    struct pnx_lease a = mock_acquire(pool, PNX_SEC), b = mock_acquire(pool, PNX_SEC),
                     c = mock_acquire(pool, PNX_SEC);
    pnx_lease_release(&c);
    CHECK_EQ(pnx_pool_reset(pool, PNX_POOL_RESET_INTERRUPT), 0);
    CHECK_EQ(mock->interrupts, 2);
    CHECK_EQ(mock_of(&a)->interrupted, 1);
    CHECK_EQ(mock_of(&b)->interrupted, 1);
    c = mock_acquire(pool, PNX_SEC); /* a new one, which the next reset finds in use */
    CHECK_EQ(mock_of(&c)->id, 3);
    pnx_pool_tick(pool, te.now);
    CHECK_EQ(mock->closes, 1);
    CHECK_EQ(mock_of(&c)->interrupted, 0);
    pnx_lease_release(&a);
    pnx_lease_release(&b);
    pnx_lease_release(&c);
    CHECK_EQ(mock->closes, 3);
    tear_down(pool);
}

static void *reset_interrupting(void *arg) {
    CHECK_EQ(pnx_pool_reset(arg, PNX_POOL_RESET_INTERRUPT), 0);
    return NULL;
}

TEST(no_close_begins_while_an_interrupt_runs_and_no_interrupt_begins_after_it) {
    set_up();
    struct pnx_pool *pool = mock_pool(&mock_full, OPTS(.max = 2));
    struct pnx_lease a = mock_acquire(pool, PNX_SEC), b = mock_acquire(pool, PNX_SEC);
    pthread_t thread;
    mock_set(mock, &mock->hold_interrupt, true);
    CHECK(pthread_create(&thread, NULL, reset_interrupting, pool) == 0);
    mock_wait(mock, &mock->in_interrupt, 1);
    pnx_lease_release(&a); /* both are old; one of them is being interrupted */
    pnx_lease_discard(&b);
    pnx_pool_tick(pool, te.now);
    CHECK_EQ(mock_read(mock, &mock->closes), 1);
    CHECK_EQ(mock_stats(pool).closing, 1);
    mock_set(mock, &mock->hold_interrupt, false);
    pthread_join(thread, NULL);
    CHECK_EQ(mock->interrupts, 1);
    pnx_pool_tick(pool, te.now);
    CHECK_EQ(mock->closes, 2);
    tear_down(pool);
}

struct detaching {
    struct pnx_lease lease;
    int done; /* atomic */
};

static void *detach(void *arg) {
    struct detaching *detaching = arg;
    stray_close(pnx_lease_detach(&detaching->lease));
    __atomic_store_n(&detaching->done, 1, __ATOMIC_RELEASE);
    return NULL;
}

TEST(a_detach_waits_for_the_interrupt_that_runs) {
    set_up();
    struct pnx_pool *pool = mock_pool(&mock_full, OPTS(.max = 1));
    struct detaching detaching = {.lease = mock_acquire(pool, PNX_SEC)};
    pthread_t resetter, detacher;
    mock_set(mock, &mock->hold_interrupt, true);
    CHECK(pthread_create(&resetter, NULL, reset_interrupting, pool) == 0);
    mock_wait(mock, &mock->in_interrupt, 1);
    CHECK(pthread_create(&detacher, NULL, detach, &detaching) == 0);
    for (int i = 0; i < 200; i++) /* time enough to be wrong; mock_interrupt looks, too */
        sched_yield();
    CHECK_EQ(__atomic_load_n(&detaching.done, __ATOMIC_ACQUIRE), 0);
    CHECK_EQ(mock_stats(pool).detached, 0);
    mock_set(mock, &mock->hold_interrupt, false);
    pthread_join(resetter, NULL);
    pthread_join(detacher, NULL);
    CHECK_EQ(mock_stats(pool).detached, 1);
    tear_down(pool);
}

static struct pnx_lease mine;

static void detach_mine(void *ctx, void *resource) {
    (void)ctx;
    CHECK(pnx_lease_detach(&mine) == resource);
}

TEST(a_detach_inside_the_interrupt_of_its_own_resource_does_not_wait_for_it) {
    set_up();
    struct pnx_pool_manager manager = mock_full;
    manager.interrupt = detach_mine;
    struct pnx_pool *pool = mock_pool(&manager, OPTS(.max = 1));
    mine = mock_acquire(pool, PNX_SEC);
    struct mock_resource *resource = mock_of(&mine);
    CHECK_EQ(pnx_pool_reset(pool, PNX_POOL_RESET_INTERRUPT), 0);
    CHECK_EQ(mock_stats(pool).detached, 1);
    stray_close(resource);
    struct pnx_lease lease = mock_acquire(pool, PNX_SEC); /* the slot is as good as before */
    pnx_lease_discard(&lease);
    CHECK_EQ(mock->closes, 2);
    tear_down(pool);
}

TEST(a_close_that_runs_out_of_time_interrupts_what_is_still_in_use) {
    set_up();
    te.virtual_time = false;
    struct pnx_pool *pool = mock_pool(&mock_full, OPTS(.max = 2));
    struct pnx_lease lease = mock_acquire(pool, PNX_SEC);
    CHECK_EQ(pnx_pool_close(pool, PNX_MS), 1);
    CHECK_EQ(mock->interrupts, 1);
    pnx_lease_release(&lease);
    tear_down(pool);
    CHECK_EQ(pnx_pool_reset(NULL, 0), -EINVAL);
}

TEST(p12_a_lease_that_shows_that_all_are_old_makes_them_so_once) {
    set_up();
    struct pnx_pool *pool = mock_pool(&mock_full, OPTS(.max = 4));
    struct pnx_lease a = mock_acquire(pool, PNX_SEC), b = mock_acquire(pool, PNX_SEC),
                     c = mock_acquire(pool, PNX_SEC), d = mock_acquire(pool, PNX_SEC);
    pnx_lease_release(&c);
    pnx_lease_stale_all(&a);
    CHECK(a.slot == NULL);
    CHECK_EQ(mock->closes, 2); /* itself, and what was idle */
    CHECK_EQ(mock->resets, 1); /* neither of these is reset */
    CHECK_EQ(mock_stats(pool).generations, 1);
    a = mock_acquire(pool, PNX_SEC);
    CHECK_EQ(mock_of(&a)->id, 4);
    pnx_lease_stale_all(&b); /* found out as well, later: what has been made meanwhile is new */
    CHECK_EQ(mock_stats(pool).generations, 1);
    pnx_lease_release(&a);
    a = mock_acquire(pool, 0);
    CHECK_EQ(mock_of(&a)->id, 4);
    pnx_lease_release(&d);
    CHECK_EQ(mock_stats(pool).closed_stale, 4);
    pnx_lease_stale_all(&a);
    CHECK_EQ(mock_stats(pool).generations, 2);
    pnx_lease_stale_all(&a);
    pnx_lease_stale_all(NULL);
    tear_down(pool);
}

TEST(a_bad_reset_is_refused) {
    set_up();
    struct pnx_pool *pool = mock_pool(&mock_full, OPTS(.max = 1));
    CHECK_EQ(pnx_pool_reset(pool, 8), -EINVAL);
    CHECK_EQ(pnx_pool_reset(NULL, 0), -EINVAL);
    CHECK_EQ(mock_stats(pool).generations, 0);
    CHECK_EQ(pnx_pool_close(pool, 0), 0);
    CHECK_EQ(pnx_pool_reset(pool, 0), -ESHUTDOWN);
    tear_down(pool);
}
