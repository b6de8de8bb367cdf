/* SPDX-License-Identifier: Apache-2.0 */
/* rwdata: misuse, forks, and what every long-lived object of the library does. */
#include "rwdata_case.h"

#include <string.h>
#include <unistd.h>

/* ---- misuse ---- */

static void *leaves_writing(void *arg) {
    static struct pnx_rwdata_write_guard left;
    CHECK_EQ(pnx_rwdata_write(arg, 0, NULL, &left), 0);
    return NULL;
}

static void *leaves_reading(void *arg) {
    static struct pnx_rwdata_read_guard left;
    CHECK_EQ(pnx_rwdata_read(arg, 0, NULL, &left), 0);
    return NULL;
}

TEST(misuse_a_thread_that_ends_with_a_guard_is_reported_and_nobody_hangs) {
    struct pnx_stats *stats = listen();
    struct pnx_rwdata *rwdata = make_heard(stats, PNX_RWDATA_CHECK);
    pthread_t thread;
    CHECK_EQ(pthread_create(&thread, NULL, leaves_reading, rwdata), 0);
    pthread_join(thread, NULL);
    CHECK_EQ(heard.misused, 1);
    CHECK_STR(heard.cause, "a thread ended with a guard in its hands");
    CHECK_CONTAINS(te.last_log, "rwdata \"pair\": a thread ended");
    CHECK_EQ(ask(rwdata, true, 0, NULL), 0);
    CHECK_EQ(pthread_create(&thread, NULL, leaves_writing, rwdata), 0);
    pthread_join(thread, NULL);
    CHECK_EQ(heard.misused, 2);
    CHECK_EQ(heard.poisoned, 1); /* who knows what it had half done */
    CHECK_EQ(ask(rwdata, true, PNX_NEVER, NULL), PNX_E_BROKEN);
    struct pnx_rwdata_write_guard writer = {0};
    CHECK_EQ(pnx_rwdata_repair(rwdata, 0, NULL, &writer), 0);
    pnx_rwdata_write_end(&writer);
    CHECK_EQ(stats_of(rwdata).misuses, 2);
    end(&rwdata);
    pnx_stats_release(&stats);
}

TEST(misuse_a_guard_that_ends_twice_is_reported_and_changes_nothing) {
    for (int checked = 0; checked < 2; checked++) {
        struct pnx_stats *stats = listen();
        struct pnx_rwdata *rwdata =
                make_heard(stats, checked ? PNX_RWDATA_CHECK : PNX_RWDATA_NO_CHECK);
        struct pnx_rwdata_read_guard reader = read_guard(rwdata), reader_copy = reader;
        pnx_rwdata_read_end(&reader);
        pnx_rwdata_read_end(&reader_copy);
        CHECK_EQ(heard.misused, 1);
        CHECK_CONTAINS(heard.cause, "ended twice");
        struct pnx_rwdata_write_guard writer = write_guard(rwdata), writer_copy = writer;
        struct pnx_rwdata_write_guard other = writer;
        pnx_rwdata_write_end(&writer);
        pnx_rwdata_write_end(&writer_copy);
        CHECK_EQ(heard.misused, 2);
        CHECK_STR(heard.cause, "a write guard was ended that is not in force");
        CHECK_EQ(pnx_rwdata_downgrade(&other, &reader), -EINVAL);
        CHECK_EQ(heard.misused, 3);
        CHECK_EQ(pnx_rwdata_poison(&other, -EIO), -EINVAL);
        CHECK_EQ(pnx_rwdata_clear(&other), -EINVAL);
        CHECK_EQ(heard.misused, 5);
        CHECK_EQ(pnx_rwdata_poisoned(rwdata), 0);
        CHECK_EQ(pnx__rwdata_check(rwdata) & ~PNX_RWDATA_SPECIAL_, 0);
        CHECK_EQ(ask(rwdata, true, 0, NULL), 0);
        end(&rwdata);
        pnx_stats_release(&stats);
    }
}

static void *ends_write(void *arg) {
    pnx_rwdata_write_end(arg);
    return NULL;
}

static void *ends_read(void *arg) {
    pnx_rwdata_read_end(arg);
    return NULL;
}

/* Whose guards are ended by another thread; then it ends itself, which must not end them again. */
static void *has_guards_ended(void *arg) {
    struct pnx_rwdata *rwdata = arg;
    pthread_t thread;
    struct pnx_rwdata_write_guard writer = write_guard(rwdata);
    CHECK_EQ(pthread_create(&thread, NULL, ends_write, &writer), 0);
    pthread_join(thread, NULL);
    CHECK_EQ(heard.misused, 1);
    CHECK_CONTAINS(heard.cause, "on another thread");
    struct pnx_rwdata_read_guard reader = {0};
    CHECK_EQ(pnx_rwdata_try_read(rwdata, &reader), 0); /* the lock is free */
    CHECK_EQ(pthread_create(&thread, NULL, ends_read, &reader), 0);
    pthread_join(thread, NULL);
    CHECK_EQ(heard.misused, 2);
    CHECK_CONTAINS(heard.cause, "on another thread");
    return NULL;
}

TEST(misuse_a_guard_that_ends_on_another_thread_is_reported_and_ends_once) {
    struct pnx_stats *stats = listen();
    struct pnx_rwdata *rwdata = make_heard(stats, PNX_RWDATA_CHECK);
    pthread_t thread;
    CHECK_EQ(pthread_create(&thread, NULL, has_guards_ended, rwdata), 0);
    pthread_join(thread, NULL);
    CHECK_EQ(heard.misused, 2);
    CHECK_EQ(heard.poisoned, 0);
    CHECK_EQ(pnx__rwdata_check(rwdata) & ~PNX_RWDATA_SPECIAL_, 0);
    CHECK_EQ(ask(rwdata, true, 0, NULL), 0);
    end(&rwdata);
    pnx_stats_release(&stats);
}

TEST(misuse_a_release_with_a_guard_out_keeps_the_memory) {
    struct pnx_stats *stats = listen();
    struct pnx_rwdata *rwdata = make_heard(stats, 0), *kept = rwdata;
    struct pnx_rwdata_write_guard writer = write_guard(rwdata);
    pnx_rwdata_release(&rwdata);
    CHECK_EQ(heard.misused, 1);
    CHECK_CONTAINS(heard.cause, "released while a guard was out");
    CHECK_EQ(drops, 0);
    ((struct pair *)writer.value)->a = 9; /* a use after free, were it freed */
    pnx_rwdata_write_end(&writer);
    pnx__stats_remove(&kept->block); /* what it left, so that the test leaks nothing */
    pnx_budget_uncharge(kept->budget, kept->bytes);
    pnx_budget_release(&kept->budget);
    te.env.free(te.env.ctx, kept->name, strlen(kept->name) + 1);
    te.env.free(te.env.ctx, kept, kept->bytes);
    test_env_check_empty(&te);
    pnx_stats_release(&stats);
}

TEST(misuse_more_guards_than_the_word_can_count_are_refused) {
    struct pnx_error err = {0};
    struct pnx_rwdata *rwdata = make_with(PNX_RWDATA_NO_CHECK);
    struct pnx_rwdata_read_guard reader = {0};
    uint64_t most = PNX_RWDATA_MAX_READERS - 1;
    rwdata->word.v = most * PNX_RWDATA_READER_; /* as if so many were out */
    CHECK_EQ(pnx_rwdata_read(rwdata, PNX_NEVER, NULL, &reader), 0);
    struct pnx_rwdata_read_guard more = {0};
    CHECK_EQ(pnx_rwdata_read(rwdata, PNX_NEVER, &err, &more), -EOVERFLOW);
    CHECK_STR(err.message, "pair: too many read guards");
    pnx_rwdata_read_end(&reader);
    CHECK_EQ(pnx_rwdata_try_read(rwdata, &more), 0);
    pnx_rwdata_read_end(&more);
    CHECK_EQ(stats_of(rwdata).misuses, 0);
    CHECK_EQ(rwdata->word.v, most * PNX_RWDATA_READER_);
    rwdata->word.v = 0;
    end(&rwdata);
}

/* ---- fork ---- */

static struct pnx_rwdata *forked;

/* ThreadSanitizer starts no threads in a child of a process with several. */
static bool child_has_threads(void) {
#ifdef PNX_TSAN
    return false;
#else
    return true;
#endif
}

static void ask_in_child(bool write) {
    if (child_has_threads())
        CHECK_EQ(ask(forked, write, PNX_NEVER, NULL), 0);
}

static void torture_in_child(void) {
    end(&forked);
    if (child_has_threads())
        run_torture(PNX_RWDATA_NO_CHECK);
}

static void child_meets_a_writer(void *ctx) {
    struct pnx_error err = {0};
    struct pnx_rwdata_read_guard reader = {0};
    struct pnx_rwdata_write_guard writer = {0};
    (void)ctx;
    CHECK_EQ(pnx_rwdata_try_read(forked, &reader), -EBUSY);
    CHECK_EQ(pnx_rwdata_read(forked, PNX_MS, &err, &reader), PNX_E_BROKEN);
    CHECK_STR(err.message, "pair: kept by guards that may exist only in the parent process");
    CHECK_EQ(pnx_rwdata_read(forked, PNX_NEVER, NULL, &reader), PNX_E_BROKEN); /* does not hang */
    CHECK_EQ(pnx_rwdata_repair(forked, 0, NULL, &writer), 0);
    CHECK_EQ(pnx_rwdata_poisoned(forked), -ECANCELED); /* half written, perhaps */
    *(struct pair *)writer.value = (struct pair){3, 3};
    CHECK_EQ(pnx_rwdata_clear(&writer), 0);
    pnx_rwdata_write_end(&writer);
    ask_in_child(true);
    ask_in_child(false);
    torture_in_child();
}

static void child_meets_readers(void *ctx) {
    struct pnx_rwdata_read_guard reader = {0};
    struct pnx_rwdata_write_guard writer = {0};
    (void)ctx;
    CHECK_EQ(pnx_rwdata_read(forked, PNX_NEVER, NULL, &reader), 0); /* beside them */
    pnx_rwdata_read_end(&reader);
    CHECK_EQ(pnx_rwdata_write(forked, PNX_NEVER, NULL, &writer), PNX_E_BROKEN);
    CHECK_EQ(pnx_rwdata_repair(forked, 0, NULL, &writer), 0);
    CHECK_EQ(pnx_rwdata_poisoned(forked), 0); /* readers change nothing */
    pnx_rwdata_write_end(&writer);
    ask_in_child(true);
}

static pthread_barrier_t held, may_end;

static void *holds_write(void *arg) {
    struct pnx_rwdata_write_guard guard = write_guard(arg);
    pthread_barrier_wait(&held);
    pthread_barrier_wait(&may_end);
    pnx_rwdata_write_end(&guard);
    return NULL;
}

static void *holds_read(void *arg) {
    struct pnx_rwdata_read_guard guard = read_guard(arg);
    pthread_barrier_wait(&held);
    pthread_barrier_wait(&may_end);
    pnx_rwdata_read_end(&guard);
    return NULL;
}

static void fork_beside(void *(*holder)(void *), void (*child)(void *)) {
    pthread_t thread;
    test_env_init(&te);
    CHECK_EQ(pnx_rwdata_create(&pair_type, NULL,
                     PNX_RWDATA_OPTS(.name = "pair", .env = &te.env, .timeout_ns = 5 * PNX_MS,
                             .flags = PNX_RWDATA_NO_CHECK),
                     NULL, &forked),
            0);
    pthread_barrier_init(&held, NULL, 2);
    pthread_barrier_init(&may_end, NULL, 2);
    CHECK_EQ(pthread_create(&thread, NULL, holder, forked), 0);
    pthread_barrier_wait(&held);
    struct asker waits = {.rwdata = forked, .timeout = PNX_NEVER, .write = true};
    start(&waits);
    until_waiters(forked, 1); /* who does not exist in the child either */
    CHECK_EQ(test_child(child, NULL), 0);
    pthread_barrier_wait(&may_end);
    pthread_join(thread, NULL);
    CHECK_EQ(finish(&waits), 0);
    end(&forked);
}

TEST(fork_a_child_does_not_wait_for_a_writer_of_its_parent) {
    fork_beside(holds_write, child_meets_a_writer);
}

TEST(fork_a_child_does_not_wait_for_readers_of_its_parent) {
    fork_beside(holds_read, child_meets_readers);
}

static void child_of_a_writer(void *ctx) {
    struct pnx_rwdata_write_guard *writer = ctx, more = {0};
    CHECK_EQ(pnx_rwdata_try_write(forked, &more), -EDEADLK);
    struct asker waits = {.rwdata = forked, .timeout = 100 * PNX_SEC};
    if (child_has_threads()) {
        start(&waits);
        until_waiters(forked, 1);
    }
    pnx_rwdata_write_end(writer);
    if (child_has_threads())
        CHECK_EQ(finish(&waits), 0); /* waited for a guard that does exist in the child */
    torture_in_child();
}

TEST(fork_a_child_forked_by_the_writer_ends_its_guard) {
    forked = make_with(PNX_RWDATA_NO_CHECK);
    forked->timeout_ns = 100 * PNX_SEC;
    struct pnx_rwdata_write_guard writer = write_guard(forked);
    CHECK_EQ(test_child(child_of_a_writer, &writer), 0);
    pnx_rwdata_write_end(&writer);
    end(&forked);
}

/* A thread of the parent that was just queueing, or counting, when the process forked: it holds the mutex. */
static void *holds_mutex(void *arg) {
    (void)arg;
    pnx__mutex_lock(&forked->lock);
    pthread_barrier_wait(&held);
    pthread_barrier_wait(&may_end);
    pnx__mutex_unlock(&forked->lock);
    return NULL;
}

static void child_clears(void *ctx) {
    struct pnx_rwdata_write_guard *writer = ctx;
    CHECK_EQ(pnx_rwdata_clear(writer), 0);
    _exit(7);
}

static void child_ends_twice(void *ctx) {
    struct pnx_rwdata_write_guard *writer = ctx, copy = *writer;
    pnx_rwdata_write_end(writer);
    pnx_rwdata_write_end(&copy);
    CHECK_EQ(stats_of(forked).misuses, 1);
    _exit(7);
}

TEST(fork_a_child_waits_for_no_mutex_of_its_parent) {
    void (*const children[])(void *) = {child_clears, child_ends_twice};
    pthread_t thread;
    forked = make_with(PNX_RWDATA_NO_CHECK);
    pthread_barrier_init(&held, NULL, 2);
    pthread_barrier_init(&may_end, NULL, 2);
    struct pnx_rwdata_write_guard writer = write_guard(forked);
    CHECK_EQ(pthread_create(&thread, NULL, holds_mutex, NULL), 0);
    pthread_barrier_wait(&held);
    for (size_t i = 0; i < sizeof(children) / sizeof(children[0]); i++)
        CHECK_EQ(test_child(children[i], &writer), 7);
    pthread_barrier_wait(&may_end);
    pthread_join(thread, NULL);
    pnx_rwdata_write_end(&writer);
    end(&forked);
}

/* ---- the house ---- */

static int find_row(void *ctx, const struct pnx_resource_info *info) {
    *(struct pnx_resource_info *)ctx = *info;
    return 0;
}

TEST(house_an_rwdata_has_a_row_and_shutdown_closes_it) {
    struct pnx_registry *registry = NULL;
    struct pnx_resource_info info = {0};
    struct pnx_rwdata *rwdata = NULL;
    test_env_init(&te);
    CHECK_EQ(pnx_registry_create(PNX_REGISTRY_OPTS(.env = &te.env), NULL, &registry), 0);
    CHECK_EQ(pnx_rwdata_create(&pair_type, NULL,
                     PNX_RWDATA_OPTS(.name = "prices", .registry = registry, .env = &te.env), NULL,
                     &rwdata),
            0);
    CHECK_EQ(pnx_registry_each(registry, find_row, &info), 0);
    CHECK_STR(info.type, "rwdata");
    CHECK_STR(info.name, "prices");
    CHECK_CONTAINS(info.site, "test_rwdata_life.c:");
    CHECK(info.bytes >= sizeof(struct pnx_rwdata));
    CHECK_EQ(pnx_registry_cleanup(registry, info.id), 0); /* as a shutdown would */
    CHECK_EQ(ask(rwdata, false, 0, NULL), -ESHUTDOWN);
    pnx_rwdata_release(&rwdata);
    CHECK_EQ(pnx_registry_count(registry), 0);
    pnx_registry_release(&registry);
    test_env_check_empty(&te);
}

static int find_writes(void *ctx, const char *data, size_t n) {
    if (n >= 5 && memmem(data, n, "patinox_rwdata_writes_total", 27))
        *(bool *)ctx = true;
    return 0;
}

TEST(house_an_rwdata_shows_in_the_statistics) {
    struct pnx_stats *stats = listen();
    struct pnx_rwdata *rwdata = make_heard(stats, 0);
    bool found = false;
    CHECK_EQ(ask(rwdata, true, 0, NULL), 0);
    CHECK_EQ(pnx_stats_openmetrics(stats, find_writes, &found), 0);
    CHECK(found);
    struct pnx_rwdata_stats less = {.size = 2 * sizeof(uint64_t)};
    CHECK_EQ(pnx_rwdata_read_stats(rwdata, &less), 0);
    CHECK_EQ(less.size, 2 * sizeof(uint64_t));
    CHECK_EQ(less.writes, 1);
    end(&rwdata);
    pnx_stats_release(&stats);
}

static uint64_t used(struct pnx_budget *budget) {
    struct pnx_budget_stats stats = {.size = sizeof(stats)};
    CHECK_EQ(pnx_budget_read_stats(budget, &stats), 0);
    return stats.used;
}

TEST(house_its_memory_is_charged_and_a_refusal_is_an_error) {
    struct pnx_budget *budget = NULL;
    struct pnx_rwdata *rwdata = NULL;
    struct pnx_error err = {0};
    const struct pnx_rc_type big = {
            .size = sizeof(big), .name = "big", .object_size = 100000, .object_align = 8};
    test_env_init(&te);
    CHECK_EQ(pnx_budget_create(PNX_BUDGET_OPTS(.name = "b", .parent = pnx_budget_off(),
                                       .hard = 150000, .env = &te.env),
                     NULL, &budget),
            0);
    CHECK_EQ(pnx_rwdata_create(
                     &big, NULL, PNX_RWDATA_OPTS(.env = &te.env, .budget = budget), NULL, &rwdata),
            0);
    CHECK(used(budget) >= 100000);
    struct pnx_rwdata *second = NULL;
    CHECK_EQ(pnx_rwdata_create(
                     &big, NULL, PNX_RWDATA_OPTS(.env = &te.env, .budget = budget), &err, &second),
            -ENOMEM);
    CHECK_CONTAINS(err.message, "rwdata: the budget refused ");
    CHECK(second == NULL);
    pnx_rwdata_release(&rwdata);
    CHECK_EQ(used(budget), 0);
    pnx_budget_release(&budget);
    test_env_check_empty(&te);
}

static int everything(struct test_env *env, void *ctx) {
    struct pnx_rwdata *rwdata = NULL;
    struct pnx_registry *registry = NULL;
    (void)ctx;
    int rc = pnx_registry_create(PNX_REGISTRY_OPTS(.env = &env->env), NULL, &registry);
    if (rc)
        return rc;
    rc = pnx_rwdata_create(&pair_type, NULL,
            PNX_RWDATA_OPTS(.env = &env->env, .registry = registry), NULL, &rwdata);
    if (rc == 0) {
        struct pnx_rwdata_write_guard writer = write_guard(rwdata);
        pnx_rwdata_write_end(&writer);
    }
    pnx_rwdata_release(&rwdata);
    pnx_registry_release(&registry);
    return rc;
}

TEST(house_each_allocation_may_fail) {
    test_env_init(&te);
    test_fail_each_allocation(&te, everything, NULL);
}

TEST(house_guards_allocate_nothing) {
    for (int checked = 0; checked < 2; checked++) {
        struct pnx_rwdata *rwdata = make_with(checked ? PNX_RWDATA_CHECK : PNX_RWDATA_NO_CHECK);
        int64_t before = __atomic_load_n(&te.allocations, __ATOMIC_RELAXED);
        for (int i = 0; i < 1000; i++) {
            struct pnx_rwdata_write_guard writer = write_guard(rwdata);
            struct pnx_rwdata_read_guard reader = {0};
            CHECK_EQ(pnx_rwdata_downgrade(&writer, &reader), 0);
            pnx_rwdata_read_end(&reader);
        }
        CHECK_EQ(__atomic_load_n(&te.allocations, __ATOMIC_RELAXED), before);
        end(&rwdata);
    }
}

TEST(house_a_futex_that_wakes_for_nothing_does_no_harm) {
    if (!test_os_faults())
        test_skip("needs PNX_FAULTS");
    test_os_fault("futex_wait", 1, true, -EINTR); /* each wait returns at once */
    struct torture torture = {make_with(PNX_RWDATA_NO_CHECK), 2000, 0, 0};
    test_threads(4, torture_thread, &torture);
    test_os_fault_clear();
    end(&torture.rwdata);
}
