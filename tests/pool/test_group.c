/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Groups of pools by key: keys that come and go, the shared limit, fair shares, bad input.
 *
 * What needs no threads runs on a virtual clock in groups without threads; nothing sleeps to synchronise.
 */
#include "pool/hosts.h"

/* ---- keys ---- */

TEST(each_key_has_connections_of_its_own_and_the_manager_learns_the_key) {
    set_up_virtual();
    struct pnx_pool_group *group = make(QUIET(.max_total = 8));
    struct pnx_lease a = get(group, "A"), b = get(group, "B");
    CHECK(pnx_lease_resource(&a) != pnx_lease_resource(&b));
    const void *was = pnx_lease_resource(&a);
    pnx_lease_release(&a);
    a = get(group, "A");
    CHECK(pnx_lease_resource(&a) == was);
    pnx_lease_release(&a);
    pnx_lease_release(&b);
    CHECK_EQ(server.live_of[1], 1);
    CHECK_EQ(server.live_of[2], 1);
    CHECK_EQ(stats_of(group).keys, 2);
    CHECK_EQ(stats_of(group).keys_made, 2);
    tear_down(group);
}

TEST(a_key_is_any_bytes_up_to_255_and_may_be_empty) {
    set_up_virtual();
    struct pnx_pool_group *group = make(QUIET(.max_total = 600));
    char bytes[PNX_POOL_KEY_MAX + 1];
    struct pnx_error err = {0};
    for (size_t len = 0; len <= PNX_POOL_KEY_MAX; len++) {
        for (int fill = 0; fill < 2; fill++) {
            struct pnx_lease lease = {0};
            memset(bytes, fill ? 0xff : 0, sizeof(bytes));
            CHECK_EQ(pnx_pool_group_acquire(
                             group, len ? bytes : NULL, len, PNX_SEC, NULL, &err, &lease),
                    0);
            const struct connection *connection = pnx_lease_resource(&lease);
            CHECK(connection->key->len == len && memcmp(connection->key->bytes, bytes, len) == 0);
            pnx_lease_release(&lease);
        }
    }
    CHECK_EQ(stats_of(group).keys_made, 2 * PNX_POOL_KEY_MAX + 1);
    struct pnx_lease lease = {0};
    CHECK_EQ(pnx_pool_group_acquire(group, bytes, 256, PNX_SEC, NULL, &err, &lease), -EINVAL);
    CHECK_STR(err.field, "key_len");
    tear_down(group);
}

struct makers {
    struct pnx_pool_group *group;
    char key[2];
    int begun;
};

static void ask_for_new(unsigned index, void *ctx) {
    struct makers *makers = ctx;
    (void)index;
    struct pnx_lease lease = get(makers->group, makers->key);
    pnx_lease_release(&lease);
}

TEST(g6_a_key_that_many_ask_for_at_once_is_made_once) {
    set_up();
    struct pnx_pool_group *group = make(OPTS(.max_total = 64));
    struct makers makers = {.group = group};
    for (int i = 1; i <= 12; i++) {
        makers.key[0] = (char)('@' + i);
        test_threads(6, ask_for_new, &makers);
        CHECK_EQ(stats_of(group).keys_made, i);
    }
    tear_down(group);
}

TEST(an_unused_key_is_closed_and_forgotten_and_made_again_when_asked_for) {
    set_up_virtual();
    struct pnx_pool_group *group = make(QUIET(.max_total = 4, .key_idle_ns = 60 * PNX_SEC));
    struct pnx_lease a = get(group, "A"), b = get(group, "B");
    advance(group, 50 * PNX_SEC);
    pnx_lease_release(&a);
    advance(group, 0); /* its time begins */
    advance(group, 60 * PNX_SEC - 1);
    CHECK_EQ(server.closes, 0);
    advance(group, 1);
    CHECK_EQ(server.closes, 1);
    settle(group);
    CHECK_EQ(stats_of(group).keys_forgotten, 1);
    struct wanted wanted = {0};
    CHECK_EQ(pnx_pool_group_each(group, find_key, &wanted), 0);
    CHECK_EQ(wanted.keys, 1);
    CHECK_EQ(stats_of(group).keys, 1); /* G7: b's lease is out */
    advance(group, 1000 * PNX_SEC);
    CHECK_EQ(stats_of(group).keys, 1);
    pnx_lease_release(&b);
    advance(group, 1);
    advance(group, 60 * PNX_SEC);
    settle(group);
    CHECK_EQ(stats_of(group).keys, 0);
    CHECK_EQ(stats_of(group).shares, 0);
    a = get(group, "A");
    pnx_lease_release(&a);
    CHECK_EQ(stats_of(group).keys_made, 3);
    tear_down(group);
}

TEST(a_tick_says_when_a_key_is_due_to_be_forgotten) {
    set_up_virtual();
    struct pnx_pool_group *group = make(QUIET(.max_total = 4, .key_idle_ns = 60 * PNX_SEC));
    struct pnx_lease a = get(group, "A");
    pnx_lease_release(&a);
    pnx_ns born = te.now;
    for (int i = 0; i < 100 && stats_of(group).keys > 0; i++) {
        pnx_ns next = pnx_pool_group_tick(group, te.now);
        CHECK(next > te.now && next <= born + 60 * PNX_SEC);
        advance(group, next - te.now);
    }
    CHECK_EQ(te.now, born + 60 * PNX_SEC);
    CHECK_EQ(server.closes, 1);
    tear_down(group);
}

TEST(with_threads_a_key_is_forgotten_without_a_tick) {
    set_up();
    struct pnx_pool_group *group = make(OPTS(.max_total = 4, .key_idle_ns = 20 * PNX_MS));
    struct pnx_lease a = get(group, "A");
    pnx_lease_release(&a);
    await_count(&server.closes, 1);
    UNTIL(stats_of(group).keys == 0);
    tear_down(group);
}

TEST(with_max_keys_the_longest_unused_key_makes_room) {
    set_up_virtual();
    struct pnx_pool_group *group = make(QUIET(.max_total = 8, .max_keys = 2));
    struct pnx_lease a = get(group, "A"), b = get(group, "B"), c = {0};
    struct pnx_error err = {0};
    CHECK_EQ(ask(group, "C", PNX_SEC, &err, &c), -EBUSY);
    CHECK_STR(err.phase, "keys");
    CHECK_EQ(stats_of(group).keys_refused, 1);
    pnx_lease_release(&b);
    pnx_lease_release(&a);
    a = get(group, "A"); /* used later than b */
    pnx_lease_release(&a);
    c = get(group, "C");
    CHECK_EQ(server.live_of[2], 0);
    CHECK_EQ(server.live_of[1], 1);
    CHECK_EQ(stats_of(group).keys_evicted, 1);
    CHECK_EQ(stats_of(group).keys, 2);
    pnx_lease_release(&c);
    tear_down(group);
}

TEST(with_the_flag_a_further_key_is_refused) {
    set_up_virtual();
    struct pnx_pool_group *group =
            make(QUIET(.max_total = 8, .max_keys = 1, .flags = PNX_POOL_GROUP_REFUSE_KEYS));
    struct pnx_lease a = get(group, "A"), b = {0};
    pnx_lease_release(&a);
    CHECK_EQ(ask(group, "B", PNX_SEC, NULL, &b), -EBUSY);
    a = get(group, "A");
    pnx_lease_release(&a);
    tear_down(group);
}

TEST(a_key_that_is_asked_for_while_it_leaves_comes_back) {
    set_up();
    struct pnx_pool_group *group = make(OPTS(.max_total = 4, .max_keys = 1, .max_per_key = 1));
    struct pnx_lease a = get(group, "A"), b = {0};
    pnx_lease_release(&a);
    set_gate(&server.hold_close, true);
    CHECK_EQ(ask(group, "B", 0, NULL, &b),
            -ETIMEDOUT); /* a must leave, and b is asked to be made ready */
    await_count(&server.in_close, 1);
    CHECK(numbers_of(group, "A").leaving);
    UNTIL(numbers_of(group, "B").idle == 1);
    struct caller caller;
    while (ask(group, "A", 0, NULL, &a) ==
            -EBUSY) /* b is idle, but who connected it is about to leave it */
        sched_yield();
    start(&caller, group, "A"); /* b must leave, and a is the same as before */
    UNTIL(is_awaited(group, "A"));
    CHECK(!numbers_of(group, "A").leaving);
    CHECK_EQ(read_count(&server.live_of[1]),
            1); /* P1: not connected before its close has returned */
    set_gate(&server.hold_close, false);
    join(&caller);
    CHECK_EQ(server.peak_of[1], 1);
    CHECK_EQ(stats_of(group).keys_made, 2);
    pnx_lease_release(&caller.lease);
    tear_down(group);
}

/* ---- shares ---- */

TEST(g3_a_hungry_key_gets_the_idle_resource_of_the_richest) {
    set_up_virtual();
    struct pnx_pool_group *group = make(QUIET(.max_total = 6));
    struct pnx_lease a[4], b[2], c;
    for (int i = 0; i < 4; i++)
        a[i] = get(group, "A");
    for (int i = 0; i < 2; i++)
        b[i] = get(group, "B");
    for (int i = 0; i < 4; i++)
        pnx_lease_release(&a[i]);
    for (int i = 0; i < 2; i++)
        pnx_lease_release(&b[i]);
    CHECK_EQ(server.live, 6);
    c = get(group, "C");
    CHECK_EQ(server.live_of[1], 3);
    CHECK_EQ(server.live_of[2], 2);
    CHECK_EQ(server.live_of[3], 1);
    CHECK_EQ(server.peak, 6);
    CHECK_EQ(stats_of(group).taken_idle, 1);
    CHECK_EQ(numbers_of(group, "A").share, 3);
    pnx_lease_release(&c);
    tear_down(group);
}

TEST(g3_of_equally_rich_keys_the_longest_unused_gives) {
    set_up_virtual();
    struct pnx_pool_group *group = make(QUIET(.max_total = 3));
    static const char *const keys[] = {"B", "C", "A", "B"};
    for (int i = 0; i < 4; i++) {
        struct pnx_lease lease = get(group, keys[i]);
        pnx_lease_release(&lease);
        test_env_advance(&te, PNX_MS);
    }
    struct pnx_lease d = get(group, "D");
    CHECK_EQ(server.live_of[3], 0);
    CHECK_EQ(server.live, 3);
    pnx_lease_release(&d);
    tear_down(group);
}

TEST(g3_what_a_key_does_not_use_is_taken_first) {
    set_up_virtual();
    struct pnx_pool_group *group = make(QUIET(.max_total = 3));
    struct pnx_lease a[2], b = get(group, "B"), c;
    for (int i = 0; i < 2; i++)
        a[i] = get(group, "A");
    pnx_lease_discard(&b); /* its share stays */
    CHECK_EQ(numbers_of(group, "B").share, 1);
    pnx_lease_release(&a[0]);
    c = get(group, "C");
    CHECK_EQ(stats_of(group).taken_unused, 1);
    CHECK_EQ(stats_of(group).taken_idle, 0);
    CHECK_EQ(server.live_of[1], 2);
    pnx_lease_release(&c);
    pnx_lease_release(&a[1]);
    tear_down(group);
}

TEST(g1_a_share_moves_only_after_the_close_has_returned) {
    set_up();
    struct pnx_pool_group *group = make(OPTS(.max_total = 2));
    struct pnx_lease a[2];
    for (int i = 0; i < 2; i++)
        a[i] = get(group, "A");
    for (int i = 0; i < 2; i++)
        pnx_lease_release(&a[i]);
    set_gate(&server.hold_close, true);
    struct caller caller;
    start(&caller, group, "B");
    await_count(&server.in_close, 1);
    UNTIL(is_awaited(group, "B"));
    struct pnx_lease more = {0};
    struct pnx_error err = {0};
    CHECK_EQ(ask(group, "C", 5 * PNX_MS, &err, &more),
            -ETIMEDOUT); /* one more that is idle is closed for it */
    CHECK_STR(err.phase, "group");
    CHECK_EQ(read_count(&server.connects), 2);
    CHECK_EQ(read_count(&server.live), 2);
    set_gate(&server.hold_close, false);
    join(&caller);
    CHECK_EQ(server.peak, 2);
    pnx_lease_release(&caller.lease);
    tear_down(group);
}

TEST(g1_one_key_never_has_more_than_max_per_key) {
    set_up_virtual();
    struct pnx_pool_group *group = make(QUIET(.max_total = 8, .max_per_key = 2));
    struct pnx_lease a = get(group, "A"), b = get(group, "A"), c = {0};
    struct pnx_error err = {0};
    CHECK_EQ(ask(group, "A", 0, &err, &c), -ETIMEDOUT);
    CHECK_STR(err.phase, "wait");
    pnx_lease_release(&a);
    pnx_lease_release(&b);
    CHECK_EQ(server.peak, 2);
    tear_down(group);
}

TEST(g2_min_per_key_is_there_for_whoever_comes) {
    set_up_virtual();
    struct pnx_pool_group *group = make(QUIET(.max_total = 8, .min_per_key = 2, .max_keys = 3));
    struct pnx_lease a[8], b[2], c[2], more = {0};
    for (int i = 0; i < 4; i++) /* 8 less 2 for each of two others */
        a[i] = get(group, "A");
    CHECK_EQ(ask(group, "A", 0, NULL, &more), -ETIMEDOUT);
    settle(group);
    CHECK_EQ(server.live, 4);
    for (int i = 0; i < 2; i++)
        b[i] = get(group, "B"); /* at once: a's are all in use */
    CHECK_EQ(ask(group, "B", 0, NULL, &more), -ETIMEDOUT);
    for (int i = 0; i < 2; i++)
        c[i] = get(group, "C");
    CHECK_EQ(server.live, 8);
    /* B's are idle, but they are its minimum: nobody gets them. */
    pnx_lease_release(&b[0]);
    pnx_lease_release(&b[1]);
    CHECK_EQ(ask(group, "A", 0, NULL, &more), -ETIMEDOUT);
    settle(group);
    CHECK_EQ(server.live_of[1], 4);
    CHECK_EQ(server.live_of[2], 2);
    CHECK_EQ(server.closes, 0);
    for (int i = 0; i < 4; i++)
        pnx_lease_release(&a[i]);
    for (int i = 0; i < 2; i++)
        pnx_lease_release(&c[i]);
    tear_down(group);
}

TEST(g4_a_busy_key_that_is_richer_by_two_gives_up_the_next_that_comes_home) {
    set_up_virtual();
    struct pnx_pool_group *group = make(QUIET(.max_total = 3, .turn_ns = PNX_NEVER));
    struct pnx_lease a[3];
    for (int i = 0; i < 3; i++)
        a[i] = get(group, "A");
    struct wish more, other;
    want(&more, group, "A"); /* it was there first, but its key has three */
    want(&other, group, "B");
    settle(group);
    CHECK_EQ(other.told, 0);
    pnx_lease_release(&a[0]);
    settle(group);
    CHECK_EQ(other.told, 1);
    CHECK_EQ(other.code, 0);
    CHECK_EQ(more.told, 0);
    CHECK_EQ(server.live_of[1], 2);
    CHECK_EQ(stats_of(group).taken_busy, 1);
    /* From now on they differ by one, and turns never end: each key keeps what it has. */
    struct wish yet;
    want(&yet, group, "B");
    pnx_lease_release(&a[1]);
    settle(group);
    CHECK_EQ(more.told, 1);
    CHECK_EQ(yet.told, 0);
    pnx_lease_release(&a[2]); /* nobody waits for it in A: it is idle */
    settle(group);
    CHECK_EQ(yet.told, 1);
    CHECK_EQ(server.live_of[1], 1);
    CHECK_EQ(server.peak, 3);
    pnx_lease_release(&more.lease);
    pnx_lease_release(&other.lease);
    pnx_lease_release(&yet.lease);
    tear_down(group);
}

TEST(g4_among_equals_a_busy_key_gives_one_up_when_its_turn_is_over) {
    set_up_virtual();
    struct pnx_pool_group *group = make(QUIET(.max_total = 1, .turn_ns = 100 * PNX_MS));
    struct pnx_lease a = get(group, "A");
    struct wish second, third, other;
    want(&second, group, "A");
    want(&third, group, "A");
    want(&other, group, "B");
    pnx_lease_release(&a); /* it has had it for no time at all */
    settle(group);
    CHECK_EQ(second.told, 1);
    CHECK_EQ(other.told, 0);
    pnx_ns next = pnx_pool_group_tick(group, te.now);
    CHECK(next > te.now && next <= te.now + 100 * PNX_MS);
    advance(group, 100 * PNX_MS);
    CHECK_EQ(other.told, 0); /* it is in use */
    pnx_lease_release(&second.lease);
    settle(group);
    CHECK_EQ(third.told, 0);
    CHECK_EQ(other.told, 1);
    CHECK_EQ(server.peak, 1);
    /* And back, after another turn. */
    advance(group, 100 * PNX_MS);
    pnx_lease_release(&other.lease);
    settle(group);
    CHECK_EQ(third.told, 1);
    pnx_lease_release(&third.lease);
    tear_down(group);
}

TEST(g5_hungry_keys_are_served_in_turn) {
    set_up_virtual();
    struct pnx_pool_group *group = make(QUIET(.max_total = 1, .turn_ns = PNX_MS));
    struct pnx_lease a = get(group, "A");
    struct wish wishes[3][2];
    const char *keys[] = {"D", "B", "C"};
    places = 0;
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < 3; i++)
            want(&wishes[i][round], group, keys[i]);
    }
    pnx_lease_release(&a);
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < 3; i++) {
            settle(group);
            struct wish *wish = &wishes[i][round];
            CHECK_MSG(wish->told == 1 && wish->place == 3 * round + i + 1,
                    "round %d: %s was told at %d", round, keys[i], wish->place);
            advance(group, PNX_MS); /* its turn is over */
            pnx_lease_release(&wish->lease);
        }
    }
    CHECK_EQ(server.peak, 1);
    tear_down(group);
}

TEST(g5_the_poorest_hungry_key_is_first) {
    set_up_virtual();
    struct pnx_pool_group *group = make(QUIET(.max_total = 4, .turn_ns = PNX_NEVER));
    struct pnx_lease a = get(group, "A"), b = get(group, "B"), more_b = get(group, "B"),
                     c = get(group, "C");
    struct wish rich, poor;
    want(&rich, group, "B");
    want(&poor, group, "D");
    settle(group);
    CHECK_EQ(poor.told, 0);
    pnx_lease_release(&a); /* idle: it is taken */
    settle(group);
    CHECK_EQ(poor.told, 1);
    CHECK_EQ(rich.told, 0);
    pnx_lease_release(&b);
    CHECK_EQ(rich.told, 1);
    pnx_lease_release(&more_b);
    pnx_lease_release(&c);
    pnx_lease_release(&poor.lease);
    pnx_lease_release(&rich.lease);
    tear_down(group);
}

TEST(a_return_by_the_short_way_is_seen_when_a_key_is_hungry) {
    set_up();
    struct pnx_pool_group *group = make(OPTS(.max_total = 2, .turn_ns = PNX_NEVER));
    struct pnx_lease a = get(group, "A"), b = get(group, "B");
    struct caller caller;
    start(&caller, group, "B");
    UNTIL(is_awaited(group, "B"));
    pnx_lease_release(&a); /* of which nobody would hear otherwise */
    join(&caller);
    CHECK_EQ(server.live_of[2], 2);
    pnx_lease_release(&b);
    pnx_lease_release(&caller.lease);
    tear_down(group);
}

TEST(min_idle_is_kept_from_what_is_free_and_taken_from_nobody) {
    set_up_virtual();
    struct pnx_pool_group *group = make(PNX_POOL_GROUP_OPTS(.env = &te.env, .max_total = 3,
            .pool = PNX_POOL_OPTS(.ctx = &server, .min_idle = 1, .flags = PNX_POOL_NO_THREADS)));
    struct pnx_lease a = get(group, "A");
    settle(group);
    CHECK_EQ(server.live_of[1], 2);
    struct pnx_lease b = get(group, "B");
    settle(group);
    CHECK_EQ(server.live, 3);
    CHECK_EQ(server.live_of[1], 2); /* A's idle one stays, though B would keep one ready, too */
    CHECK_EQ(server.closes, 0);
    pnx_lease_release(&a);
    pnx_lease_release(&b);
    tear_down(group);
}

TEST(a_key_whose_connects_fail_keeps_nothing_from_others) {
    set_up_virtual();
    struct pnx_pool_group *group = make(QUIET(.max_total = 1));
    server.refuse = 1;
    struct pnx_lease a = {0};
    struct pnx_error err = {0};
    struct wish wish;
    want(&wish, group, "A");
    settle(group);
    CHECK(server.refused > 0);
    struct pnx_lease b = get(group, "B");
    CHECK_EQ(wish.told, 0);
    CHECK_EQ(pnx_pool_cancel(&wish.request), 0);
    CHECK_EQ(ask(group, "A", 0, &err, &a), -ETIMEDOUT);
    pnx_lease_release(&b);
    CHECK_EQ(server.peak, 1);
    tear_down(group);
}

TEST(a_try_takes_what_is_idle_elsewhere_but_nothing_that_is_in_use) {
    set_up_virtual();
    struct pnx_pool_group *group = make(QUIET(.max_total = 3));
    struct pnx_lease a[3], b = {0};
    struct pnx_error err = {0};
    for (int i = 0; i < 3; i++)
        a[i] = get(group, "A");
    CHECK_EQ(ask(group, "B", 0, &err, &b), -ETIMEDOUT);
    CHECK_STR(err.phase, "group");
    settle(group);
    CHECK_EQ(stats_of(group).taken_busy, 0);
    pnx_lease_release(&a[0]);
    settle(group);
    CHECK_EQ(server.live_of[1], 2);
    CHECK_EQ(ask(group, "B", 0, &err, &b), 0);
    pnx_lease_release(&a[1]);
    pnx_lease_release(&a[2]);
    pnx_lease_release(&b);
    tear_down(group);
}

TEST(what_was_called_for_in_vain_stays_where_it_is) {
    set_up_virtual();
    struct pnx_pool_group *group = make(QUIET(.max_total = 2));
    struct pnx_lease a[2];
    for (int i = 0; i < 2; i++)
        a[i] = get(group, "A");
    struct wish more, other;
    want(&other, group, "B");
    CHECK_EQ(stats_of(group).taken_busy, 1);
    CHECK_EQ(pnx_pool_cancel(&other.request), 0);
    want(&more, group, "A");
    settle(group);
    pnx_lease_release(&a[0]);
    CHECK_EQ(more.told, 1);
    CHECK_EQ(server.closes, 0);
    pnx_lease_release(&a[1]);
    pnx_lease_release(&more.lease);
    tear_down(group);
}

#define MANY 600

static void *move_many(void *arg) {
    struct pnx_pool_group *group = arg;
    static struct pnx_lease leases[MANY];
    static struct wish wishes[MANY];
    for (int i = 0; i < MANY; i++)
        leases[i] = get(group, "A");
    for (int i = 0; i < MANY; i++)
        want(&wishes[i], group, "B");
    for (int i = 0; i < MANY; i++)
        pnx_lease_release(&leases[i]);
    for (int i = 0; i < 1000 && wishes[MANY - 1].told == 0; i++)
        pnx_pool_group_tick(group, te.now);
    for (int i = 0; i < MANY; i++) {
        CHECK_EQ(wishes[i].told, 1);
        pnx_lease_release(&wishes[i].lease);
    }
    return NULL;
}

TEST(hundreds_move_at_once_on_a_small_stack) {
    set_up_virtual();
    struct pnx_pool_group *group = make(QUIET(.max_total = MANY, .turn_ns = 1));
    pthread_attr_t attr;
    pthread_t thread;
    CHECK(pthread_attr_init(&attr) == 0 && pthread_attr_setstacksize(&attr, 256 * 1024) == 0);
    CHECK(pthread_create(&thread, &attr, move_many, group) == 0);
    pthread_join(thread, NULL);
    pthread_attr_destroy(&attr);
    CHECK_EQ(server.peak, MANY);
    CHECK_EQ(server.live_of[2], MANY);
    tear_down(group);
}

/* ---- asking ---- */

TEST(a_request_can_be_taken_back) {
    set_up_virtual();
    struct pnx_pool_group *group = make(QUIET(.max_total = 1));
    struct pnx_lease a = get(group, "A");
    struct wish wish;
    want(&wish, group, "B");
    CHECK_EQ(pnx_pool_cancel(&wish.request), 0);
    pnx_lease_release(&a);
    settle(group);
    CHECK_EQ(wish.told, 0);
    a = get(group, "A");
    pnx_lease_release(&a);
    tear_down(group);
}

static void ask_inside(struct server *s) {
    struct pnx_lease lease = {0};
    s->during = NULL;
    s->during_rc = ask(s->group, "B", PNX_SEC, NULL, &lease);
    CHECK_EQ(pnx_pool_group_close(s->group, PNX_SEC), -EDEADLK);
}

TEST(waiting_for_the_group_inside_an_operation_is_refused) {
    set_up_virtual();
    struct pnx_pool_group *group = make(QUIET(.max_total = 1));
    server.during = ask_inside;
    struct pnx_lease lease = {0};
    CHECK_EQ(ask(group, "A", PNX_SEC, NULL, &lease), -ESHUTDOWN); /* it was closed meanwhile */
    CHECK_EQ(server.during_rc, -EDEADLK);
    tear_down(group);
}

static void take_inside(struct server *s) {
    struct pnx_lease lease = {0};
    s->during = NULL;
    s->during_rc = ask(s->group, "B", PNX_SEC, NULL, &lease);
    pnx_lease_release(&lease);
    if (s->during_rc == 0)
        s->during_rc = ask(s->group, "C", 0, NULL, &lease);
}

TEST(a_lease_can_be_had_inside_an_operation_without_waiting) {
    set_up_virtual();
    struct pnx_pool_group *group = make(QUIET(.max_total = 2));
    struct pnx_lease b = get(group, "B");
    pnx_lease_release(&b);
    server.during = take_inside;
    server.during_rc = 1;
    struct pnx_lease a = get(group, "A");
    CHECK_EQ(server.during_rc, -ETIMEDOUT); /* of the try */
    pnx_lease_release(&a);
    tear_down(group);
}

/* ---- input ---- */

static void refuse(const struct pnx_pool_manager *of, const struct pnx_pool_group_opts *opts,
        int code, const char *field) {
    struct pnx_pool_group *group = NULL;
    struct pnx_error err = {0};
    CHECK_EQ(pnx_pool_group_create(of, opts, &err, &group), code);
    CHECK_STR(err.field, field);
    CHECK(!group);
}

TEST(each_bad_option_is_refused_by_name) {
    set_up();
    struct pnx_pool_group_opts opts = *OPTS(.max_total = 4);
    refuse(&manager, NULL, -EINVAL, "max_total");
    refuse(&manager, OPTS(.max_total = 0), -EINVAL, "max_total");
    refuse(&manager, OPTS(.max_total = 65536), -EINVAL, "max_total");
    refuse(&manager, OPTS(.max_total = 4, .max_per_key = 5), -EINVAL, "max_per_key");
    refuse(&manager, OPTS(.max_total = 4, .max_per_key = 1, .min_per_key = 2), -EINVAL,
            "min_per_key");
    refuse(&manager, OPTS(.max_total = 4, .min_per_key = 2, .max_keys = 3), -EINVAL, "min_per_key");
    refuse(&manager, OPTS(.max_total = 4, .key_idle_ns = -1), -EINVAL, "key_idle_ns");
    refuse(&manager, OPTS(.max_total = 4, .turn_ns = -1), -EINVAL, "turn_ns");
    refuse(&manager, OPTS(.max_total = 4, .max_keys = 1000001), -EINVAL, "max_keys");
    refuse(&manager, OPTS(.max_total = 4, .flags = 2), -EINVAL, "flags");
    refuse(&manager, OPTS(.max_total = 4, .reserved = 1), -EINVAL, "reserved");
    opts.pool = PNX_POOL_OPTS(.max = 3);
    refuse(&manager, &opts, -EINVAL, "pool");
    opts.pool = PNX_POOL_OPTS(.name = "x");
    refuse(&manager, &opts, -EINVAL, "pool");
    opts.pool = PNX_POOL_OPTS(.env = &te.env);
    refuse(&manager, &opts, -EINVAL, "pool");
    opts.pool = PNX_POOL_OPTS(.registry = pnx_registry_off());
    refuse(&manager, &opts, -EINVAL, "pool");
    opts.pool = PNX_POOL_OPTS(.budget = pnx_budget_off());
    refuse(&manager, &opts, -EINVAL, "pool");
    opts.pool = PNX_POOL_OPTS(.min_idle = 5);
    refuse(&manager, &opts, -EINVAL, "min_idle");
    refuse(NULL, OPTS(.max_total = 4), -EINVAL, "manager");
    CHECK_EQ(pnx_pool_group_create(&manager, OPTS(.max_total = 4), NULL, NULL), -EINVAL);
    test_env_check_empty(&te);
}

TEST(bad_arguments_are_refused) {
    set_up_virtual();
    struct pnx_pool_group *group = make(QUIET(.max_total = 1)), *none = NULL;
    struct pnx_lease lease = {0};
    struct pnx_error err = {0};
    struct wish wish = {.request = {.timeout = PNX_SEC}};
    CHECK_EQ(ask(NULL, "A", 0, &err, &lease), -EINVAL);
    CHECK_EQ(ask(group, "A", 0, &err, NULL), -EINVAL);
    CHECK_EQ(ask(group, "A", -1, &err, &lease), -EINVAL);
    CHECK_EQ(pnx_pool_group_acquire(group, NULL, 1, 0, NULL, &err, &lease), -EINVAL);
    CHECK_EQ(pnx_pool_group_acquire(
                     group, "A", 1, 0, PNX_ACQUIRE_OPTS(.priority = 99), &err, &lease),
            -EINVAL);
    CHECK_EQ(stats_of(group).keys_made, 0);
    CHECK_EQ(pnx_pool_group_acquire_async(group, "A", 1, NULL), -EINVAL);
    CHECK_EQ(pnx_pool_group_acquire_async(NULL, "A", 1, &wish.request), -EINVAL);
    CHECK_EQ(pnx_pool_group_acquire_async(group, "A", 256, &wish.request), -EINVAL);
    CHECK_EQ(pnx_pool_group_acquire_async(group, "A", 1, &wish.request), -EINVAL); /* no done */
    CHECK_EQ(pnx_pool_group_tick(NULL, 0), PNX_NEVER);
    CHECK_EQ(pnx_pool_group_close(NULL, 0), -EINVAL);
    CHECK_EQ(pnx_pool_group_close(group, -1), -EINVAL);
    CHECK_EQ(pnx_pool_group_each(group, NULL, NULL), -EINVAL);
    CHECK_EQ(pnx_pool_group_each(NULL, find_key, NULL), -EINVAL);
    CHECK_EQ(pnx_pool_group_dump(group, NULL, NULL), -EINVAL);
    CHECK_EQ(pnx_pool_group_read_stats(group, NULL), -EINVAL);
    pnx_pool_group_release(NULL);
    pnx_pool_group_release(&none);
    tear_down(group);
}

TEST(options_are_read_from_text) {
    struct pnx_pool_group_opts opts = *PNX_POOL_GROUP_OPTS(.name = "x");
    struct pnx_error err = {0};
    CHECK_EQ(pnx_pool_group_opts_set(&opts, "max_total", "12", &err), 0);
    CHECK_EQ(pnx_pool_group_opts_set(&opts, "key_idle_ns", "5min", &err), 0);
    CHECK_EQ(opts.max_total, 12);
    CHECK_EQ(opts.key_idle_ns, 300 * PNX_SEC);
    CHECK_EQ(pnx_pool_group_opts_set(&opts, "max_total", "many", &err), -EINVAL);
    CHECK_EQ(pnx_pool_group_opts_set(&opts, "nothing", "1", &err), -ENOENT);
    CHECK_EQ(pnx_pool_group_opts_set(NULL, "max_total", "1", &err), -EINVAL);
}
