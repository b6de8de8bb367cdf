/* SPDX-License-Identifier: Apache-2.0 */
/* Scopes: P3..P5 of patinox/guard.h. */
#include "harness/harness.h"

#include <patinox/guard.h>

static int order[4096];
static int n_order;

struct entry {
    int number;
    int code;
};

static int note(void *arg, const struct pnx_cancel *cancel) {
    const struct entry *entry = arg;
    CHECK(cancel == NULL);
    order[n_order++] = entry->number;
    return entry->code;
}

static struct entry entries[1000];

static void push(struct pnx_scope *scope, int i) {
    entries[i].number = i;
    CHECK_EQ(pnx_scope_push(scope, PNX_SCOPE_ALWAYS, note, &entries[i]), 0);
}

TEST(p3_the_last_pushed_runs_first_at_any_depth) {
    struct test_env te;
    test_env_init(&te);
    struct pnx_scope scope;
    pnx_scope_begin(&scope, &te.env);
    for (int n = 0; n <= 1000; n = n * 3 + 1) {
        n_order = 0;
        for (int i = 0; i < n; i++)
            push(&scope, i);
        CHECK_EQ(pnx_scope_end(&scope), 0);
        CHECK_EQ(n_order, n);
        for (int i = 0; i < n; i++)
            CHECK_EQ(order[i], n - 1 - i);
        test_env_check_empty(&te);
    }
}

TEST(p3_all_run_even_if_some_fail_and_the_first_failure_is_returned) {
    struct pnx_scope scope = {0};
    for (int i = 0; i < 20; i++)
        push(&scope, i);
    entries[15].code = -EPERM;
    entries[3].code = -EIO;
    CHECK_EQ(pnx_scope_end(&scope), -EPERM);
    CHECK_EQ(n_order, 20);
    CHECK_EQ(pnx_scope_end(&scope), 0);
    entries[1].code = 5;
    push(&scope, 1);
    CHECK_EQ(pnx_scope_end(&scope), -EINVAL); /* a positive value is no error code */
}

TEST(p3_a_scope_neither_tries_again_nor_waits) {
    struct pnx_scope scope = {0};
    entries[1].code = -EAGAIN;
    push(&scope, 1);
    CHECK_EQ(pnx_scope_end(&scope), -EAGAIN);
    CHECK_EQ(n_order, 1);
    entries[1].code = -EINPROGRESS; /* it has no cancel that could pend */
    push(&scope, 1);
    CHECK_EQ(pnx_scope_end(&scope), -EINVAL);
    CHECK_EQ(n_order, 2);
}

static void push_three(struct pnx_scope *scope) {
    for (int i = 0; i < 3; i++) {
        entries[i].number = i;
        CHECK_EQ(pnx_scope_push(scope, (enum pnx_scope_when)i, note, &entries[i]), 0);
    }
}

TEST(entries_run_always_on_error_or_on_success) {
    struct pnx_scope scope = {0};
    push_three(&scope);
    CHECK_EQ(pnx_scope_end(&scope), 0);
    CHECK_EQ(n_order, 2);
    CHECK_EQ(order[0], PNX_SCOPE_ON_SUCCESS);
    CHECK_EQ(order[1], PNX_SCOPE_ALWAYS);
    n_order = 0;
    push_three(&scope);
    CHECK_EQ(pnx_scope_fail(&scope, -EIO), -EIO);
    CHECK_EQ(pnx_scope_end(&scope), 0);
    CHECK_EQ(n_order, 2);
    CHECK_EQ(order[0], PNX_SCOPE_ON_ERROR);
    CHECK_EQ(order[1], PNX_SCOPE_ALWAYS);
    n_order = 0;
    push_three(&scope); /* an ended scope begins anew */
    CHECK_EQ(pnx_scope_end(&scope), 0);
    CHECK_EQ(order[0], PNX_SCOPE_ON_SUCCESS);
}

TEST(unwinding_to_a_mark_undoes_what_came_after_it_the_failure_included) {
    struct pnx_scope scope = {0};
    for (int i = 0; i < 10; i++)
        push(&scope, i);
    pnx_scope_position mark = pnx_scope_mark(&scope);
    for (int i = 10; i < 60; i++)
        push(&scope, i);
    pnx_scope_fail(&scope, -EIO);
    CHECK_EQ(pnx_scope_unwind(&scope, mark), 0);
    CHECK_EQ(n_order, 50);
    CHECK_EQ(order[0], 59);
    CHECK_EQ(order[49], 10);
    n_order = 0;
    CHECK_EQ(pnx_scope_unwind(&scope, mark), 0);
    CHECK_EQ(n_order, 0);
    CHECK_EQ(pnx_scope_push(&scope, PNX_SCOPE_ON_SUCCESS, note, &entries[70]), 0);
    CHECK_EQ(pnx_scope_end(&scope), 0);
    CHECK_EQ(n_order, 11); /* it counts as a success again */
}

TEST(a_mark_taken_after_a_failure_remembers_it) {
    struct pnx_scope scope = {0};
    push_three(&scope);
    pnx_scope_fail(&scope, -EIO);
    pnx_scope_position mark = pnx_scope_mark(&scope);
    CHECK_EQ(pnx_scope_unwind(&scope, mark), 0);
    CHECK_EQ(pnx_scope_end(&scope), 0);
    CHECK_EQ(order[0], PNX_SCOPE_ON_ERROR);
}

TEST(a_mark_above_the_top_is_refused_and_nothing_runs) {
    struct pnx_scope scope = {0};
    push(&scope, 0);
    pnx_scope_position mark = pnx_scope_mark(&scope);
    CHECK_EQ(pnx_scope_end(&scope), 0);
    n_order = 0;
    CHECK_EQ(pnx_scope_unwind(&scope, mark), -EINVAL);
    CHECK_EQ(n_order, 0);
}

TEST(bad_pushes_are_refused) {
    struct pnx_scope scope = {0};
    CHECK_EQ(pnx_scope_push(&scope, PNX_SCOPE_ALWAYS, NULL, NULL), -EINVAL);
    CHECK_EQ(pnx_scope_push(&scope, (enum pnx_scope_when)3, note, NULL), -EINVAL);
    CHECK_EQ(pnx_scope_push(NULL, PNX_SCOPE_ALWAYS, note, NULL), -EINVAL);
    CHECK_EQ(pnx_scope_end(&scope), 0);
    struct pnx_env bad = {.size = 0};
    pnx_scope_begin(&scope, &bad);
    for (int i = 0; i < PNX_SCOPE_INLINE; i++)
        push(&scope, i); /* needs no memory, and so no env */
    CHECK_EQ(pnx_scope_push(&scope, PNX_SCOPE_ALWAYS, note, &entries[0]), -EINVAL);
    CHECK_EQ(pnx_scope_reserve(&scope, 1), -EINVAL);
    CHECK_EQ(pnx_scope_end(&scope), 0);
    CHECK_EQ(n_order, PNX_SCOPE_INLINE);
    pnx_scope_drop(NULL);
}

TEST(p5_the_first_entries_allocate_nothing) {
    struct test_env te;
    test_env_init(&te);
    struct pnx_scope scope;
    pnx_scope_begin(&scope, &te.env);
    for (int i = 0; i < PNX_SCOPE_INLINE; i++)
        push(&scope, i);
    CHECK_EQ(pnx_scope_end(&scope), 0);
    CHECK_EQ(te.allocations, 0);
}

static int push_many(struct test_env *te, void *ctx) {
    (void)ctx;
    struct pnx_scope scope;
    pnx_scope_begin(&scope, &te->env);
    int rc = 0, pushed = 0;
    n_order = 0;
    for (int i = 0; i < 200; i++) {
        entries[i].number = i;
        int one = pnx_scope_push(&scope, PNX_SCOPE_ALWAYS, note, &entries[i]);
        CHECK(one == 0 || one == -ENOMEM);
        pushed += one == 0;
        rc = one ? one : rc;
        CHECK_EQ(n_order, 0); /* a push runs nothing */
    }
    CHECK_EQ(pnx_scope_end(&scope), 0);
    CHECK_EQ(n_order, pushed);
    return rc;
}

TEST(p4_a_push_without_memory_runs_nothing_and_loses_nothing) {
    struct test_env te;
    test_env_init(&te);
    test_fail_each_allocation(&te, push_many, NULL);
}

TEST(reserved_pushes_need_no_memory) {
    struct test_env te;
    test_env_init(&te);
    struct pnx_scope scope;
    pnx_scope_begin(&scope, &te.env);
    push(&scope, 0);
    CHECK_EQ(pnx_scope_reserve(&scope, 500), 0);
    int64_t before = te.allocations;
    CHECK(before > 0);
    CHECK_EQ(pnx_scope_reserve(&scope, 500), 0);
    for (int i = 1; i <= 500; i++)
        push(&scope, i);
    CHECK_EQ(te.allocations, before);
    te.fail_at = te.allocations + 1;
    te.fail_forever = true;
    CHECK_EQ(pnx_scope_reserve(&scope, 5000), -ENOMEM);
    CHECK_EQ(pnx_scope_end(&scope), 0);
    CHECK_EQ(n_order, 501);
    test_env_check_empty(&te);
}

/* ---- re-entry ---- */

static struct pnx_scope *current;

static int push_one_more(void *arg, const struct pnx_cancel *cancel) {
    (void)arg;
    (void)cancel;
    push(current, 7);
    return 0;
}

static int end_it(void *arg, const struct pnx_cancel *cancel) {
    (void)arg;
    (void)cancel;
    return pnx_scope_end(current);
}

TEST(p1_a_cleanup_may_push_or_end_the_scope_it_is_in) {
    struct pnx_scope scope = {0};
    current = &scope;
    push(&scope, 1);
    CHECK_EQ(pnx_scope_push(&scope, PNX_SCOPE_ALWAYS, push_one_more, NULL), 0);
    CHECK_EQ(pnx_scope_end(&scope), 0);
    CHECK_EQ(n_order, 2);
    CHECK_EQ(order[0], 7);
    CHECK_EQ(order[1], 1);
    n_order = 0;
    for (int i = 0; i < 50; i++)
        push(&scope, i);
    CHECK_EQ(pnx_scope_push(&scope, PNX_SCOPE_ALWAYS, end_it, NULL), 0);
    CHECK_EQ(pnx_scope_end(&scope), 0);
    CHECK_EQ(n_order, 50); /* each once */
}

/* ---- against a model ---- */

TEST(p3_random_operations_agree_with_a_model) {
    uint64_t state = test_seed();
    for (int round = 0; round < (test_slow() ? 50 : 500); round++) {
        struct pnx_scope scope = {0};
        int model[600], n = 0, next = 0;
        pnx_scope_position marks[600];
        for (int step = 0; step < 300; step++) {
            uint64_t r = test_random(&state);
            if (r % 4) {
                marks[n] = pnx_scope_mark(&scope);
                model[n++] = next;
                push(&scope, next++);
                continue;
            }
            int to = n ? (int)(test_random(&state) % (uint64_t)n) : 0;
            if (n - to > 40)
                to = n - 3;
            n_order = 0;
            if (n)
                CHECK_EQ(pnx_scope_unwind(&scope, marks[to]), 0);
            CHECK_EQ(n_order, n - to);
            for (int i = 0; i < n_order; i++)
                CHECK_EQ(order[i], model[n - 1 - i]);
            n = to;
        }
        n_order = 0;
        CHECK_EQ(pnx_scope_end(&scope), 0);
        CHECK_EQ(n_order, n);
    }
}

TEST(a_scope_that_is_not_there_is_refused) {
    static struct entry entry;
    pnx_scope_begin(NULL, NULL);
    pnx_scope_drop(NULL);
    CHECK_EQ(pnx_scope_push(NULL, PNX_SCOPE_ALWAYS, note, &entry), -EINVAL);
    CHECK_EQ(pnx_scope_reserve(NULL, 1), -EINVAL);
    CHECK_EQ(pnx_scope_fail(NULL, -EIO), -EINVAL);
    CHECK_EQ(pnx_scope_unwind(NULL, pnx_scope_mark(NULL)), -EINVAL);
    CHECK_EQ(pnx_scope_end(NULL), -EINVAL);
    CHECK_EQ(n_order, 0);
}
