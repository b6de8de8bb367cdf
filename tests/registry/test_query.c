/* SPDX-License-Identifier: Apache-2.0 */
/* Queries, forces and batches: P1..P5 of patinox/query.h. */
#include "harness/harness.h"
#include "registry/ledger.h"

#include <patinox/query.h>
#include <patinox/shutdown.h>

#include <pthread.h>

static struct test_env te;
static struct pnx_registry *registry;

static void begin(void) {
    test_env_init(&te);
    test_env_virtual(&te, 100 * PNX_SEC);
    CHECK_EQ(pnx_registry_create(PNX_REGISTRY_OPTS(.env = &te.env), NULL, &registry), 0);
}

static int remove_row(void *ctx, const struct pnx_resource_info *info) {
    (void)ctx;
    CHECK_EQ(pnx_registry_remove(registry, info->id), 0);
    return 0;
}

/* Removes what is left and checks that nothing is lost. */
static void end(void) {
    CHECK_EQ(pnx_registry_query(registry, NULL, remove_row, NULL), 0);
    CHECK_EQ(pnx_registry_count(registry), 0);
    pnx__registry_check(registry);
    pnx_registry_release(&registry);
    test_env_check_empty(&te);
}

static int count_up(void *arg, const struct pnx_cancel *cancel) {
    (void)cancel;
    __atomic_add_fetch((int *)arg, 1, __ATOMIC_RELAXED);
    return 0;
}

static pnx_resource_id add(const struct pnx_resource *resource) {
    pnx_resource_id id;
    CHECK_EQ(pnx_registry_add(registry, resource, NULL, &id), 0);
    return id;
}

#define ROW(...) add(PNX_RESOURCE(.type = "thing", __VA_ARGS__))

struct found {
    int n;
    pnx_resource_id last;
};

static int find(void *ctx, const struct pnx_resource_info *info) {
    struct found *found = ctx;
    found->n++;
    found->last = info->id;
    return 0;
}

static int count(const struct pnx_resource_filter *filter) {
    struct found found = {0};
    CHECK_EQ(pnx_registry_query(registry, filter, find, &found), 0);
    return found.n;
}

static pnx_resource_id the_one(const struct pnx_resource_filter *filter) {
    struct found found = {0};
    CHECK_EQ(pnx_registry_query(registry, filter, find, &found), 0);
    CHECK_EQ(found.n, 1);
    return found.last;
}

/* ---- filters ---- */

static bool is_odd(void *ctx, const struct pnx_resource_info *info) {
    (*(int *)ctx)++;
    return info->tag % 2 == 1;
}

TEST(each_part_of_a_filter_chooses) {
    begin();
    pnx_resource_id parent = add(PNX_RESOURCE_AT("net/a.c:1", .type = "socket", .bytes = 5));
    pnx_resource_id child =
            add(PNX_RESOURCE_AT("net/b.c:2", .type = "buffer", .parent = parent, .owner = 3));
    test_env_advance(&te, 5 * PNX_SEC);
    pnx_resource_id young = add(PNX_RESOURCE_AT("db.c:3", .type = "socket", .tag = 7, .bytes = 50));
    CHECK_EQ(count(NULL), 3);
    CHECK_EQ(count(PNX_FILTER(.type = "socket")), 2);
    CHECK_EQ(count(PNX_FILTER(.type = "sock")), 0);
    CHECK_EQ(count(PNX_FILTER(.site = "net/")), 2);
    CHECK_EQ(the_one(PNX_FILTER(.site = "net/b")), child);
    CHECK_EQ(the_one(PNX_FILTER(.owner = 3)), child);
    CHECK_EQ(the_one(PNX_FILTER(.tag = 7)), young);
    CHECK_EQ(the_one(PNX_FILTER(.parent = parent)), child);
    CHECK_EQ(count(PNX_FILTER(.min_age = 4 * PNX_SEC)), 2);
    CHECK_EQ(the_one(PNX_FILTER(.min_bytes = 6)), young);
    CHECK_EQ(the_one(PNX_FILTER(.type = "socket", .min_age = 4 * PNX_SEC)), parent);
    int asked = 0;
    CHECK_EQ(the_one(PNX_FILTER(.type = "socket", .match = is_odd, .ctx = &asked)), young);
    CHECK_EQ(asked, 2); /* only what the rest let pass */
    end();
}

static int stop(void *ctx, const struct pnx_resource_info *info) {
    (void)info;
    return ++*(int *)ctx == 3 ? 42 : 0;
}

TEST(a_visit_ends_the_query_with_its_return) {
    begin();
    for (int i = 0; i < 10; i++)
        ROW(.tag = 1);
    int n = 0;
    CHECK_EQ(pnx_registry_query(registry, NULL, stop, &n), 42);
    CHECK_EQ(n, 3);
    end();
}

TEST(bad_queries_are_refused_and_do_nothing) {
    begin();
    int ran = 0;
    ROW(.cleanup = count_up, .arg = &ran, .flags = PNX_RESOURCE_FORCEABLE);
    struct found found = {0};
    CHECK_EQ(pnx_registry_query(registry, NULL, NULL, NULL), -EINVAL);
    CHECK_EQ(pnx_registry_query(registry, PNX_FILTER(.min_age = -1), find, &found), -EINVAL);
    struct pnx_resource_filter unsized = {0};
    CHECK_EQ(pnx_registry_query(registry, &unsized, find, &found), -EINVAL);
    struct {
        struct pnx_resource_filter filter;
        uint64_t newer;
    } larger = {.filter.size = sizeof(larger), .newer = 1};
    CHECK_EQ(pnx_registry_query(registry, &larger.filter, find, &found), -E2BIG);
    CHECK_EQ(pnx_registry_cleanup_where(registry, &larger.filter, 0, PNX_SEC, NULL), -E2BIG);
    CHECK_EQ(pnx_registry_cleanup_where(registry, NULL, 8, PNX_SEC, NULL), -EINVAL);
    CHECK_EQ(pnx_registry_cleanup_where(registry, NULL, 0, -1, NULL), -EINVAL);
    struct pnx_batch_result none = {.size = 1};
    CHECK_EQ(pnx_registry_cleanup_where(registry, NULL, 0, PNX_SEC, &none), -EINVAL);
    CHECK_EQ(found.n, 0);
    CHECK_EQ(ran, 0);
    end();
}

/* ---- P1, P2 ---- */

TEST(p1_what_is_there_all_the_time_is_visited_once) {
    begin();
    enum { N = 5000 };
    static pnx_resource_id ids[N];
    for (int i = 0; i < N; i++)
        ids[i] = ROW(.owner = i % 3 ? 1 : 0, .name = i % 5 ? NULL : "named");
    for (int i = 0; i < N; i += 2)
        CHECK_EQ(pnx_registry_remove(registry, ids[i]), 0);
    CHECK_EQ(count(NULL), N / 2);
    CHECK_EQ(count(PNX_FILTER(.owner = 1)), 1667);
    end();
}

static void add_and_remove(unsigned index, void *ctx) {
    uint32_t *stop_now = ctx;
    if (index == 0) {
        for (int i = 0; i < (test_slow() ? 20 : 200); i++)
            CHECK_EQ(count(PNX_FILTER(.tag = 99)), 1000);
        __atomic_store_n(stop_now, 1, __ATOMIC_RELEASE);
        return;
    }
    while (!__atomic_load_n(stop_now, __ATOMIC_ACQUIRE)) {
        pnx_resource_id id = ROW(.tag = index);
        CHECK_EQ(pnx_registry_remove(registry, id), 0);
    }
}

TEST(p1_though_others_come_and_go_meanwhile) {
    begin();
    uint32_t stop_now = 0;
    for (int i = 0; i < 1000; i++)
        ROW(.tag = 99);
    test_threads(4, add_and_remove, &stop_now);
    end();
}

static int add_another(void *ctx, const struct pnx_resource_info *info) {
    (void)info;
    CHECK(++*(int *)ctx <= 10);
    ROW(.tag = 2);
    return 0;
}

TEST(p1_what_is_added_from_inside_is_not_visited) {
    begin();
    for (int i = 0; i < 10; i++)
        ROW(.tag = 1);
    int n = 0;
    CHECK_EQ(pnx_registry_query(registry, NULL, add_another, &n), 0);
    CHECK_EQ(n, 10);
    CHECK_EQ(count(NULL), 20);
    end();
}

static int remove_it(void *ctx, const struct pnx_resource_info *info) {
    (*(int *)ctx)++;
    return pnx_registry_remove(registry, info->id);
}

TEST(p2_a_query_allocates_nothing_and_holds_no_lock_in_visit) {
    begin();
    for (int i = 0; i < 100; i++)
        ROW(.tag = 1);
    int64_t before = te.allocations;
    int n = 0;
    CHECK_EQ(pnx_registry_query(registry, NULL, remove_it, &n), 0);
    CHECK_EQ(n, 100);
    CHECK_EQ(te.allocations, before);
    CHECK_EQ(pnx_registry_count(registry), 0);
    end();
}

/* ---- forcing ---- */

TEST(p4_a_force_ends_what_is_forceable_and_asks_the_others) {
    begin();
    int forceable = 0, plain = 0, owned = 0;
    pnx_resource_id f =
            ROW(.cleanup = count_up, .arg = &forceable, .flags = PNX_RESOURCE_FORCEABLE);
    pnx_resource_id p = ROW(.cleanup = count_up, .arg = &plain);
    pnx_resource_id o = ROW(.cleanup = count_up, .arg = &owned, .flags = PNX_RESOURCE_OWNED);
    CHECK(!pnx_registry_asked(registry, p));
    CHECK_EQ(pnx_registry_force(registry, f), 0);
    CHECK_EQ(pnx_registry_force(registry, p), -EBUSY);
    CHECK_EQ(pnx_registry_force(registry, o), -EBUSY);
    CHECK_EQ(forceable, 1);
    CHECK_EQ(plain, 0);
    CHECK_EQ(owned, 0);
    CHECK(!pnx_registry_asked(registry, f)); /* it is gone */
    CHECK(pnx_registry_asked(registry, p));
    CHECK(pnx_registry_asked(registry, o));
    CHECK_EQ(pnx_registry_force(registry, f), -EALREADY);
    CHECK_EQ(pnx_registry_remove(registry, p), 0);
    CHECK_EQ(pnx_registry_force(registry, p), -EALREADY);
    CHECK_EQ(pnx_registry_force(registry, UINT64_C(12345) << 40), -ESTALE);
    CHECK_EQ(pnx_registry_remove(registry, o), 0);
    end();
}

TEST(a_force_of_a_row_without_cleanup_says_so) {
    begin();
    pnx_resource_id id = ROW(.flags = PNX_RESOURCE_FORCEABLE);
    CHECK_EQ(pnx_registry_force(registry, id), -ENOTSUP);
    CHECK_EQ(pnx_registry_remove(registry, id), 0);
    end();
}

static int force_itself(void *arg, const struct pnx_cancel *cancel) {
    CHECK(!pnx_cancel_requested(cancel));
    CHECK_EQ(pnx_registry_force(registry, *(pnx_resource_id *)arg), -EALREADY);
    CHECK(pnx_cancel_requested(cancel)); /* who runs is asked to hurry */
    CHECK(pnx_registry_asked(registry, *(pnx_resource_id *)arg));
    return 0;
}

TEST(a_force_of_what_is_running_asks_it_to_hurry) {
    begin();
    static pnx_resource_id id;
    id = ROW(.cleanup = force_itself, .arg = &id, .flags = PNX_RESOURCE_FORCEABLE);
    CHECK_EQ(pnx_registry_cleanup(registry, id), 0);
    end();
}

/* ---- batches ---- */

static int fail(void *arg, const struct pnx_cancel *cancel) {
    (void)arg, (void)cancel;
    return -EIO;
}

static int not_now(void *arg, const struct pnx_cancel *cancel) {
    (void)cancel;
    return (*(int *)arg)++ == 0 ? -EAGAIN : 0;
}

static int slowly(void *arg, const struct pnx_cancel *cancel) {
    CHECK_EQ(pnx_cancel_deadline(cancel), *(pnx_ns *)arg);
    test_env_advance(&te, 2 * PNX_SEC);
    return 0;
}

static struct pnx_batch_result batch(
        const struct pnx_resource_filter *filter, uint32_t flags, pnx_ns timeout, int expected) {
    struct pnx_batch_result r = {.size = sizeof(r)};
    CHECK_EQ(pnx_registry_cleanup_where(registry, filter, flags, timeout, &r), expected);
    CHECK_EQ(r.matched, r.done + r.failed + r.again + r.asked + r.busy + r.left); /* P3 */
    return r;
}

TEST(p3_a_batch_ends_what_it_may_and_asks_the_rest) {
    begin();
    int ran = 0, tries = 0;
    for (int i = 0; i < 5; i++)
        ROW(.cleanup = count_up, .arg = &ran, .tag = 1, .flags = PNX_RESOURCE_FORCEABLE);
    ROW(.cleanup = fail, .tag = 1, .flags = PNX_RESOURCE_FORCEABLE);
    ROW(.cleanup = not_now, .arg = &tries, .tag = 1, .flags = PNX_RESOURCE_FORCEABLE);
    ROW(.tag = 1, .flags = PNX_RESOURCE_FORCEABLE);
    pnx_resource_id plain = ROW(.cleanup = count_up, .arg = &ran, .tag = 1);
    pnx_resource_id owned =
            ROW(.cleanup = count_up, .arg = &ran, .tag = 1, .flags = PNX_RESOURCE_OWNED);
    ROW(.cleanup = count_up, .arg = &ran, .tag = 2, .flags = PNX_RESOURCE_FORCEABLE);
    struct pnx_batch_result r =
            batch(PNX_FILTER(.tag = 1), 0, PNX_SEC, -EAGAIN); /* made after the -EIO */
    CHECK_EQ(r.matched, 10);
    CHECK_EQ(r.done, 5);
    CHECK_EQ(r.failed, 1);
    CHECK_EQ(r.again, 1);
    CHECK_EQ(r.left, 1); /* it has no cleanup */
    CHECK_EQ(r.asked, 2);
    CHECK_EQ(ran, 5); /* P4 */
    CHECK(pnx_registry_asked(registry, plain));
    CHECK(pnx_registry_asked(registry, owned));
    /* When nobody uses them, all but what is owned is ended. */
    r = batch(PNX_FILTER(.tag = 1), PNX_CLEANUP_UNUSED, PNX_SEC, 0);
    CHECK_EQ(r.done, 2); /* the plain one, and the one that would not */
    CHECK_EQ(r.asked, 1);
    CHECK_EQ(r.left, 1);
    CHECK_EQ(ran, 6);
    struct pnx_registry_stats stats = {.size = sizeof(stats)};
    CHECK_EQ(pnx_registry_read_stats(registry, &stats), 0);
    CHECK_EQ(stats.asked, 3);
    CHECK_EQ(stats.forced, 9);
    CHECK_EQ(stats.cleanups_ok_ppm,
            875000); /* 7 of 8: a cleanup that is tried again has not ended */
    CHECK_EQ(pnx_registry_remove(registry, owned), 0);
    end();
}

TEST(a_batch_keeps_its_deadline_between_cleanups) {
    begin();
    static pnx_ns deadline;
    deadline = te.now + 3 * PNX_SEC;
    for (int i = 0; i < 5; i++)
        ROW(.cleanup = slowly, .arg = &deadline, .flags = PNX_RESOURCE_FORCEABLE);
    struct pnx_batch_result r = batch(NULL, 0, 3 * PNX_SEC, -ETIMEDOUT);
    CHECK_EQ(r.done, 2);
    CHECK_EQ(r.left, 3);
    r = batch(NULL, 0, 0, -ETIMEDOUT); /* a timeout of 0 starts nothing */
    CHECK_EQ(r.left, 3);
    end();
}

static int pends(void *arg, const struct pnx_cancel *cancel) {
    CHECK_EQ(pnx_cancel_pend(cancel, arg), 0);
    return -EINPROGRESS;
}

TEST(what_is_pending_counts_as_done_and_afterwards_as_busy) {
    begin();
    static struct pnx_completion completion;
    ROW(.cleanup = pends, .arg = &completion, .flags = PNX_RESOURCE_FORCEABLE);
    CHECK_EQ(batch(NULL, 0, PNX_SEC, 0).done, 1);
    CHECK_EQ(batch(NULL, 0, PNX_SEC, 0).busy, 1);
    CHECK_EQ(pnx_completion_done(&completion, 0), 0);
    CHECK_EQ(batch(NULL, 0, PNX_SEC, 0).matched, 0);
    end();
}

static int add_two(void *arg, const struct pnx_cancel *cancel) {
    (void)cancel;
    CHECK(++*(int *)arg <= 100);
    for (int i = 0; i < 2; i++)
        ROW(.cleanup = add_two, .arg = arg, .flags = PNX_RESOURCE_FORCEABLE);
    return 0;
}

TEST(a_batch_ends_though_its_cleanups_add_rows) {
    begin();
    int ran = 0;
    for (int i = 0; i < 10; i++)
        ROW(.cleanup = add_two, .arg = &ran, .flags = PNX_RESOURCE_FORCEABLE);
    CHECK_EQ(batch(NULL, 0, PNX_SEC, 0).done, 10);
    CHECK_EQ(ran, 10);
    CHECK_EQ(pnx_registry_count(registry), 20);
    end();
}

static void force_all(unsigned index, void *ctx) {
    (void)index, (void)ctx;
    struct pnx_batch_result r = {.size = sizeof(r)};
    CHECK_EQ(pnx_registry_cleanup_where(registry, NULL, 0, 60 * PNX_SEC, &r), 0);
}

TEST(concurrent_batches_run_each_cleanup_once) {
    begin();
    enum { N = 2000 };
    static int ran[N];
    for (int i = 0; i < N; i++)
        ROW(.cleanup = count_up, .arg = &ran[i], .flags = PNX_RESOURCE_FORCEABLE);
    test_threads(4, force_all, NULL);
    for (int i = 0; i < N; i++)
        CHECK_EQ(ran[i], 1);
    CHECK_EQ(pnx_registry_count(registry), 0);
    end();
}

TEST(switched_off_there_is_nothing_to_find_or_end) {
    struct found found = {0};
    CHECK_EQ(pnx_registry_query(pnx_registry_off(), NULL, find, &found), 0);
    CHECK_EQ(found.n, 0);
    CHECK_EQ(pnx_registry_force(pnx_registry_off(), 16), -ESTALE);
    CHECK(!pnx_registry_asked(pnx_registry_off(), 16));
    struct pnx_batch_result r = {.size = sizeof(r)};
    CHECK_EQ(pnx_registry_cleanup_where(pnx_registry_off(), NULL, 0, PNX_SEC, &r), 0);
    CHECK_EQ(r.matched, 0);
}

/* ---- children before their parents ---- */

static char order[8];
static int write_letter(void *arg, const struct pnx_cancel *cancel) {
    (void)cancel;
    strncat(order, arg, sizeof(order) - strlen(order) - 1);
    return 0;
}

/* A, its children B and C, and D, which is B's. */
struct family {
    pnx_resource_id a, b, c, d;
};

static struct family add_family(uint32_t flags) {
    struct family f;
    order[0] = '\0';
    f.a = ROW(.cleanup = write_letter, .arg = "A", .owner = 7, .flags = flags);
    f.b = ROW(.cleanup = write_letter, .arg = "B", .owner = 7, .flags = flags, .parent = f.a);
    f.c = ROW(.cleanup = write_letter, .arg = "C", .owner = 7, .flags = flags, .parent = f.a);
    f.d = ROW(.cleanup = write_letter, .arg = "D", .owner = 8, .flags = flags, .parent = f.b);
    return f;
}

TEST(p5_a_batch_ends_what_was_made_last_first_and_so_children_before_their_parents) {
    begin();
    (void)add_family(0);
    CHECK_EQ(batch(NULL, PNX_CLEANUP_UNUSED, PNX_SEC, 0).done, 4);
    CHECK_STR(order, "DCBA");
    struct family f = add_family(0);
    struct pnx_batch_result r = batch(PNX_FILTER(.owner = 7), PNX_CLEANUP_UNUSED, PNX_SEC, 0);
    CHECK_EQ(r.done, 1);
    CHECK_EQ(r.left, 2); /* D, which does not match, is B's child, and so neither B nor A may end */
    CHECK_STR(order, "C");
    CHECK_EQ(pnx_registry_remove(registry, f.d), 0);
    CHECK_EQ(batch(PNX_FILTER(.owner = 7), PNX_CLEANUP_UNUSED, PNX_SEC, 0).done, 2);
    CHECK_STR(order, "CBA");
    end();
}

TEST(p5_nobody_runs_the_cleanup_of_a_row_that_has_children) {
    begin();
    struct family f = add_family(PNX_RESOURCE_FORCEABLE);
    CHECK_EQ(pnx_registry_force(registry, f.a), -EBUSY);
    CHECK(pnx_registry_asked(registry, f.a));
    CHECK_EQ(pnx_registry_cleanup(registry, f.a), -EBUSY);
    CHECK_EQ(pnx_registry_cleanup(registry, f.b), -EBUSY);
    CHECK_STR(order, "");
    CHECK_EQ(pnx_registry_count(registry), 4);
    CHECK_EQ(pnx_registry_force(registry, f.d), 0);
    CHECK_EQ(pnx_registry_cleanup(registry, f.b), 0);
    CHECK_EQ(pnx_registry_cleanup(registry, f.a), -EBUSY);
    CHECK_EQ(pnx_registry_remove(registry, f.c), 0);
    CHECK_EQ(pnx_registry_force(registry, f.a), 0);
    CHECK_STR(order, "DBA");
    end();
}

TEST(p5_children_count_in_their_own_parent_only) {
    begin();
    struct family f = add_family(0);
    /* The owner has ended A itself: its slot is used again, by rows that have nothing to do with B and C. */
    CHECK_EQ(pnx_registry_remove(registry, f.a), 0);
    for (int i = 0; i < 200; i++) {
        pnx_resource_id id = ROW(.cleanup = write_letter, .arg = "", .tag = 1);
        pnx_resource_id child = ROW(.cleanup = write_letter, .arg = "", .parent = id);
        if (i == 100) {
            CHECK_EQ(pnx_registry_cleanup(registry, f.d), 0);
            CHECK_EQ(pnx_registry_cleanup(registry, f.b), 0);
            CHECK_EQ(pnx_registry_cleanup(registry, f.c), 0);
        }
        CHECK_EQ(pnx_registry_cleanup(registry, id), -EBUSY);
        CHECK_EQ(pnx_registry_remove(registry, child), 0);
        CHECK_EQ(pnx_registry_cleanup(registry, id), 0);
    }
    CHECK_STR(order, "DBC");
    end();
}

TEST(p5_a_child_that_could_not_be_added_does_not_count) {
    begin();
    pnx_resource_id parent = ROW(.cleanup = write_letter, .arg = "", .tag = 1), id;
    pnx_resource_id more[40];
    for (int i = 0; i < 40; i++) { /* until the next one needs memory */
        te.fail_at = 1;
        int rc = pnx_registry_add(
                registry, PNX_RESOURCE(.type = "x", .parent = parent), NULL, &more[i]);
        te.fail_at = 0;
        if (rc == 0)
            continue;
        CHECK_EQ(rc, -ENOMEM);
        more[i] = 0;
    }
    for (int i = 0; i < 40; i++)
        CHECK_EQ(pnx_registry_remove(registry, more[i]), 0);
    CHECK_EQ(pnx_registry_add(registry, PNX_RESOURCE(.type = "x", .parent = 16), NULL, &id),
            -EINVAL);
    CHECK_EQ(pnx_registry_cleanup(registry, parent), 0);
    end();
}

TEST(p5_a_batch_without_memory_does_the_same) {
    begin();
    enum { N = 300 };
    static int tries;
    pnx_resource_id parent = 0;
    for (int i = 0; i < N; i++)
        parent = ROW(.cleanup = count_up, .arg = &tries, .parent = i % 2 ? parent : 0);
    te.fail_at = 1;
    te.fail_forever = true;
    struct pnx_batch_result r = batch(NULL, PNX_CLEANUP_UNUSED, PNX_SEC, 0);
    te.fail_at = 0;
    te.fail_forever = false;
    CHECK_EQ(r.matched, N);
    CHECK_EQ(r.done, N);
    CHECK_EQ(tries, N);
    end();
}

static int write_nothing(void *arg, const struct pnx_cancel *cancel) {
    (void)arg, (void)cancel;
    return 0;
}

static void end_families(unsigned index, void *ctx) {
    (void)ctx;
    for (int i = 0; i < 3000; i++) {
        pnx_resource_id parent = ROW(.cleanup = write_nothing, .tag = index + 1), child[3];
        for (int k = 0; k < 3; k++)
            child[k] = ROW(.cleanup = write_nothing, .parent = parent);
        CHECK_EQ(pnx_registry_cleanup(registry, parent), -EBUSY);
        for (int k = 0; k < 3; k++) {
            if ((i + k) % 2)
                CHECK_EQ(pnx_registry_remove(registry, child[k]), 0);
            else
                CHECK_EQ(pnx_registry_cleanup(registry, child[k]), 0);
        }
        CHECK_EQ(pnx_registry_cleanup(registry, parent), 0);
    }
}

TEST(p5_whoever_knows_that_the_children_have_ended_may_end_the_parent) {
    begin();
    test_threads(4, end_families, NULL);
    CHECK_EQ(pnx_registry_count(registry), 0);
    end();
}

/* ---- forks ---- */

static int in_child(void *arg, const struct pnx_cancel *cancel) {
    CHECK(!cancel);
    ++*(int *)arg;
    return -EBADMSG;
}

struct forked {
    pnx_resource_id kept, dropped, own;
    int ran, child_ran;
};

static void child_main(void *ctx) {
    struct forked *f = ctx;
    CHECK_EQ(pnx_registry_force(registry, f->kept),
            -ESTALE); /* its parent's, until it says otherwise */
    CHECK_EQ(batch(NULL, PNX_CLEANUP_UNUSED, PNX_SEC, 0).matched, 0);
    CHECK_EQ(pnx_registry_forked(registry), -EBADMSG);
    CHECK_EQ(f->child_ran, 1);
    CHECK_EQ(f->ran, 0);
    CHECK_EQ(pnx_registry_forked(registry), 0); /* once */
    CHECK_EQ(f->child_ran, 1);
    CHECK_EQ(pnx_registry_count(registry), 1);
    CHECK_EQ(pnx_registry_remove(registry, f->dropped), -EALREADY);
    CHECK_EQ(pnx_registry_force(registry, f->kept), 0);
    CHECK_EQ(f->ran, 1);
    CHECK_EQ(pnx_registry_count(registry), 0);
}

TEST(a_forked_child_keeps_forgets_or_ends_its_copy_as_the_row_says) {
    begin();
    static struct forked f;
    f.kept = ROW(.cleanup = count_up, .arg = &f.ran,
            .flags = PNX_RESOURCE_FORCEABLE | PNX_RESOURCE_KEEP_AFTER_FORK);
    f.dropped = ROW(.cleanup = count_up, .arg = &f.child_ran, .in_child = in_child);
    CHECK_EQ(test_child(child_main, &f), 0);
    CHECK_EQ(f.ran, 0);
    CHECK_EQ(pnx_registry_forked(registry), 0); /* nobody's child: nothing happens */
    CHECK_EQ(pnx_registry_count(registry), 2);
    CHECK_EQ(pnx_registry_forked(pnx_registry_off()), 0);
    end();
}

struct kept_family {
    pnx_resource_id parent, child, childless;
    int ended;
};

static void end_the_family(void *ctx) {
    struct kept_family *f = ctx;
    CHECK_EQ(pnx_registry_cleanup(registry, f->childless), -ESTALE);
    CHECK_EQ(pnx_registry_forked(registry), 0);
    CHECK_EQ(pnx_registry_count(registry), 3);
    CHECK_EQ(pnx_registry_cleanup(registry, f->childless), 0);   /* its children are not here */
    CHECK_EQ(pnx_registry_cleanup(registry, f->parent), -EBUSY); /* one of three is */
    pnx_resource_id own = ROW(.cleanup = count_up, .arg = &f->ended, .parent = f->parent);
    CHECK_EQ(pnx_registry_forked(registry), 0); /* nothing is counted twice */
    CHECK_EQ(pnx_registry_cleanup(registry, f->child), 0);
    CHECK_EQ(pnx_registry_cleanup(registry, f->parent), -EBUSY);
    CHECK_EQ(pnx_registry_remove(registry, own), 0);
    CHECK_EQ(pnx_registry_cleanup(registry, f->parent), 0);
    CHECK_EQ(f->ended, 3);
}

TEST(p5_in_a_forked_child_the_children_count_that_are_there) {
    static struct kept_family f;
    const uint32_t keep = PNX_RESOURCE_KEEP_AFTER_FORK;
    begin();
    f.parent = ROW(.cleanup = count_up, .arg = &f.ended, .flags = keep);
    f.childless = ROW(.cleanup = count_up, .arg = &f.ended, .flags = keep);
    f.child = ROW(.cleanup = count_up, .arg = &f.ended, .flags = keep, .parent = f.parent);
    (void)ROW(.cleanup = count_up, .arg = &f.ended, .parent = f.parent);
    (void)ROW(.cleanup = count_up, .arg = &f.ended, .parent = f.childless);
    /* Other threads are about to add one to each. */
    CHECK_EQ(pnx__family_join(registry, f.parent), 0);
    CHECK_EQ(pnx__family_join(registry, f.childless), 0);
    CHECK_EQ(test_child(end_the_family, &f), 0);
    CHECK_EQ(f.ended, 0);
    pnx__family_leave(registry, f.parent);
    pnx__family_leave(registry, f.childless);
    CHECK_EQ(pnx_registry_count(registry), 5);
    end();
}

enum { FORGOTTEN = 100 };
struct forgetting {
    pnx_resource_id ids[FORGOTTEN];
};

static uint64_t misuses(void) {
    struct pnx_registry_stats stats = {.size = sizeof(stats)};
    CHECK_EQ(pnx_registry_read_stats(registry, &stats), 0);
    return stats.misuses;
}

static void forget_and_release(void *ctx) {
    const struct forgetting *f = ctx;
    pnx_resource_id own;
    CHECK_EQ(pnx_registry_forked(registry), 0);
    CHECK_EQ(pnx_registry_count(registry), 0);
    for (int i = 0; i < 10 * FORGOTTEN; i++) { /* whatever slots come into use meanwhile */
        CHECK_EQ(pnx_registry_add(registry, PNX_RESOURCE(.type = "own"), NULL, &own), 0);
        CHECK_EQ(pnx_registry_remove(registry, own), 0);
    }
    for (int i = 0; i < FORGOTTEN; i++)
        CHECK_EQ(pnx_registry_remove(registry, f->ids[i]), -EALREADY);
    CHECK_EQ(misuses(), 0);
    CHECK_EQ(pnx_registry_remove(registry, f->ids[7]), -EALREADY);
    CHECK_EQ(misuses(), 1);             /* a second time it is one */
    for (int i = 0; i < FORGOTTEN; i++) /* max rows may be live here, too */
        CHECK_EQ(pnx_registry_add(registry, PNX_RESOURCE(.type = "own"), NULL, &own), 0);
    CHECK_EQ(pnx_registry_add(registry, PNX_RESOURCE(.type = "own"), NULL, &own), -EBUSY);
    pnx__registry_check(registry);
    CHECK_EQ(pnx_registry_shutdown(registry, 0, NULL), PNX_E_BROKEN);
}

TEST(who_releases_its_parents_objects_in_a_child_that_has_forgotten_them_has_not_done_so_twice) {
    static struct forgetting f;
    CHECK_EQ(pnx_registry_create(PNX_REGISTRY_OPTS(.max = FORGOTTEN), NULL, &registry), 0);
    for (int i = 0; i < FORGOTTEN; i++)
        f.ids[i] = ROW();
    CHECK_EQ(test_child(forget_and_release, &f), 0);
    for (int i = 0; i < FORGOTTEN; i++)
        CHECK_EQ(pnx_registry_remove(registry, f.ids[i]), 0);
    CHECK_EQ(misuses(), 0);
    pnx_registry_release(&registry);
}
