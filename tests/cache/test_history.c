/* SPDX-License-Identifier: Apache-2.0 */
/* test_history.c - histories of a cache that cannot be are refused: what test_linear.c relies on. */
#include "cache/history.h"

static struct record wrong;

static struct op *add(unsigned thread, uint64_t begun, uint64_t ended, enum what what) {
    struct op *op = &wrong.ops[thread][wrong.n[thread]++];
    *op = (struct op){.begun = begun, .ended = ended, .what = what};
    return op;
}

static void add_get(unsigned thread, uint64_t begun, uint32_t got) {
    struct op *op = add(thread, begun, begun + 1, GET);
    op->got = got;
    op->code = got ? 0 : -ENOENT;
}

static void begin_history(bool strict) {
    wrong = (struct record){.strict = strict};
    for (unsigned i = 0; i < VALUES; i++)
        wrong.expires[i] = PNX_NEVER;
}

static bool has_order(void) {
    bool all = is_linearizable(&wrong, 0, true), one = is_linearizable(&wrong, 0, false);
    CHECK(one || !all); /* one key's history is a part of all keys' */
    return all;
}

TEST(p10_the_checker_refuses_a_value_that_was_replaced_before) {
    begin_history(false);
    add(0, 1, 2, PUT)->value = 1;
    add(0, 3, 6, PUT)->value = 2;
    add_get(1, 4, 1);
    CHECK(has_order()); /* the second put may come after */
    add_get(1, 7, 1);
    CHECK(!has_order());
    wrong.ops[1][1].got = 2;
    CHECK(has_order());
    add_get(2, 4, 2); /* two see the second one come and go */
    add_get(2, 6, 1);
    CHECK(!has_order());
}

TEST(p10_the_checker_refuses_a_value_that_comes_back_or_was_never_put) {
    begin_history(false);
    add(0, 1, 2, PUT)->value = 1;
    add_get(0, 3, 1);
    add(1, 5, 6, REMOVE);
    CHECK(has_order());
    add_get(0, 7, 1);
    CHECK(!has_order());
    wrong.n[1] = 0;
    CHECK(has_order());
    add_get(1, 4, ABSENT); /* it was evicted */
    CHECK(!has_order());
    wrong.ops[1][0].begun = 7;
    wrong.ops[1][0].ended = 8;
    CHECK(has_order());
    add_get(2, 1, 9);
    CHECK(!has_order());
}

TEST(p10_the_checker_refuses_a_miss_where_nothing_goes) {
    begin_history(true);
    add(0, 1, 2, PUT)->value = 1;
    add(0, 3, 4, PUT)->value = 2;
    add_get(1, 3, ABSENT);
    CHECK(!has_order());
    wrong.strict = false;
    CHECK(has_order());
    wrong.strict = true;
    add(2, 2, 3, REMOVE);
    CHECK(has_order());
}

TEST(p10_the_checker_refuses_what_was_let_in_twice) {
    begin_history(true);
    add(0, 1, 5, PUT_IF_ABSENT)->value = 1;
    add(1, 2, 6, PUT_IF_ABSENT)->value = 2;
    CHECK(!has_order());
    wrong.strict = false; /* the first may have been evicted */
    CHECK(has_order());
    wrong.strict = true;
    wrong.ops[1][0].code = -EEXIST;
    CHECK(has_order());
    add_get(2, 7, 2); /* the one that was told that there is another */
    CHECK(!has_order());
}

TEST(p17_the_checker_refuses_a_lost_change) {
    for (int i = 0; i < 2; i++) {
        begin_history(false);
        add(0, 1, 2, PUT)->value = 1;
        for (unsigned t = 0; t < 2; t++) {
            struct op *op = add(t, 3, 6, COMPUTE);
            op->got = i == 0 ? 1 : t;
            op->value = 1 + t;
            op->decision = CHANGE;
        }
        wrong.ops[0][1].got = 1;
        wrong.ops[0][1].value = 2;
        wrong.ops[1][0].got = i == 0 ? 1 : 2;
        wrong.ops[1][0].value = 3;
        CHECK_EQ(has_order(), i == 1);
    }
}

TEST(p3_the_checker_refuses_what_has_expired) {
    begin_history(false);
    add(0, 1, 2, PUT)->value = 1;
    add_get(0, 3, 1);
    wrong.expires[1] = 100;
    wrong.ops[0][1].clock = 99;
    CHECK(has_order());
    wrong.ops[0][1].clock = 100;
    CHECK(!has_order());
}

TEST(p10_the_checker_refuses_a_clear_that_is_two) {
    begin_history(false);
    add(0, 1, 2, PUT)->value = 1;
    add(0, 3, 4, PUT)->value = 2;
    wrong.ops[0][1].key = 1;
    add(1, 5, 12, CLEAR);
    add_get(2, 6, ABSENT);
    CHECK(has_order());
    add_get(2, 8, 2); /* after it has taken the other key */
    wrong.ops[2][1].key = 1;
    CHECK(has_order()); /* the other one may have been evicted */
    wrong.strict = true;
    CHECK(!has_order());
    CHECK(is_linearizable(&wrong, 0, false) && is_linearizable(&wrong, 1, false));
}

/* A load from 30 to 60, whose loader runs from 40 to 50. */
static void add_load(unsigned thread, enum what what, uint32_t value, int code) {
    static const enum what ends[] = {LOAD_STORE, LOAD_END};
    add(thread, 30, 40, what)->value = value;
    for (size_t i = 0; i < 2; i++) {
        struct op *end = add(thread, 50, 60, ends[i]);
        end->value = value;
        end->code = code;
    }
    wrong.outcome[value] = code;
}

TEST(p6_the_checker_refuses_a_result_that_was_overtaken) {
    static const enum what overtakers[] = {PUT, REMOVE, CLEAR};
    for (size_t i = 0; i < 3; i++) {
        begin_history(true);
        add_load(0, LOAD_BEGIN, 1, 0);
        add_get(0, 70, 1);
        CHECK(has_order());
        struct op *op = add(1, 41, 49, overtakers[i]);
        op->value = 2;
        op->code = overtakers[i] == REMOVE ? -ENOENT : 0;
        CHECK(!has_order());
        op->begun = 20;                              /* before the load has begun? */
        CHECK_EQ(has_order(), overtakers[i] != PUT); /* after that there is something */
        wrong.ops[0][0].what = REFRESH_BEGIN;
        CHECK(has_order());
    }
}

TEST(p6_the_checker_refuses_two_loads_at_a_time_and_who_shares_one_too_late) {
    begin_history(true);
    add_load(0, LOAD_BEGIN, 1, 0);
    struct op *join = add(1, 41, 49, LOAD_JOIN);
    join->got = 1;
    CHECK(has_order());
    join->begun = 61;
    join->ended = 62;
    CHECK(!has_order());
    join->begun = 41;
    join->code = -EIO; /* of what? */
    CHECK(!has_order());
    wrong.n[1] = 0;
    add_load(1, REFRESH_BEGIN, 2, 0);
    CHECK(!has_order());
    wrong.ops[1][0].ended = 70;
    wrong.ops[1][1].begun = wrong.ops[1][2].begun = 71;
    wrong.ops[1][1].ended = wrong.ops[1][2].ended = 80;
    CHECK(has_order());
    wrong.ops[1][0].what = LOAD_BEGIN; /* though it is there */
    CHECK(!has_order());
    wrong.strict = false;
    CHECK(has_order());
    struct op *busy = add(2, 10, 20, LOAD_BUSY);
    CHECK(!has_order());
    busy->ended = 35;
    CHECK(has_order());
}

TEST(p12_the_checker_refuses_an_old_value_that_no_failed_refresh_was_to_replace) {
    begin_history(false);
    add(0, 10, 20, PUT)->value = 7;
    add_load(0, REFRESH_BEGIN, 1, -EIO);
    add_get(1, 42, ABSENT); /* evicted meanwhile */
    struct op *old = add(2, 44, 49, LOAD_OLD);
    old->got = 7;
    CHECK(has_order());
    old->got = 6;
    CHECK(!has_order());
    old->got = 7;
    wrong.outcome[1] = wrong.ops[0][2].code = 0;
    CHECK(!has_order());
    wrong.outcome[1] = wrong.ops[0][2].code = -EIO;
    add(3, 42, 60, PUT)->value = 8;
    CHECK(has_order());
    wrong.ops[3][0].ended = 43; /* the refresh is overtaken before it is asked for */
    CHECK(!has_order());
}
