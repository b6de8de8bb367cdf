/* SPDX-License-Identifier: Apache-2.0 */
/* rwdata: P1..P7 of patinox/rwdata.h. */
#include "rwdata_case.h"

#include <sched.h>

/* ---- making and ending ---- */

TEST(a_value_is_made_read_written_and_dropped_once) {
    struct pnx_rwdata *rwdata = make();
    {
        PNX_AUTO_RWDATA_READ guard = read_guard(rwdata);
        CHECK_EQ(((const struct pair *)guard.value)->a, 1);
    }
    struct pnx_rwdata_write_guard writer = write_guard(rwdata);
    *(struct pair *)writer.value = (struct pair){2, 2};
    pnx_rwdata_write_end(&writer);
    CHECK(writer.value == NULL);
    pnx_rwdata_write_end(&writer); /* empty: nothing */
    pnx_rwdata_write_end(NULL);
    pnx_rwdata_read_end(NULL);
    struct pnx_rwdata_read_guard reader = read_guard(rwdata);
    CHECK_EQ(((const struct pair *)reader.value)->b, 2);
    pnx_rwdata_read_end(&reader);
    CHECK(reader.value == NULL);
    pnx_rwdata_read_end(&reader);
    struct pnx_rwdata *other = pnx_rwdata_ref(rwdata);
    pnx_rwdata_release(&other);
    CHECK_EQ(drops, 0);
    CHECK_EQ(stats_of(rwdata).writes, 1);
    CHECK_EQ(stats_of(rwdata).reads, 2);
    end(&rwdata);
    CHECK_EQ(drops, 1);
    pnx_rwdata_release(&rwdata);
    pnx_rwdata_release(NULL);
    CHECK(pnx_rwdata_ref(NULL) == NULL);
}

TEST(bad_arguments_are_refused_by_name) {
    struct pnx_error err = {0};
    struct pnx_rwdata *rwdata = (void *)8, *none = NULL;
    struct pnx_rc_type type = pair_type;
    CHECK_EQ(pnx_rwdata_create(NULL, NULL, NULL, &err, &rwdata), -EINVAL);
    CHECK_STR(err.field, "type");
    CHECK_EQ(pnx_rwdata_create(&type, NULL, NULL, &err, NULL), -EINVAL);
    CHECK_STR(err.field, "ret_rwdata");
    type.object_size = 0;
    CHECK_EQ(pnx_rwdata_create(&type, NULL, NULL, &err, &rwdata), -EINVAL);
    type.object_size = SIZE_MAX - 100;
    CHECK_EQ(pnx_rwdata_create(&type, NULL, NULL, &err, &rwdata), -ENOMEM);
    type = pair_type;
    type.flags = 64;
    CHECK_EQ(pnx_rwdata_create(&type, NULL, NULL, &err, &rwdata), -EINVAL);
    CHECK_STR(err.field, "type");
    struct {
        struct pnx_rc_type type;
        uint64_t newer;
    } longer = {.type = pair_type, .newer = 1};
    longer.type.size = sizeof(longer);
    CHECK_EQ(pnx_rwdata_create(&longer.type, NULL, NULL, &err, &rwdata), -E2BIG);
    type = pair_type;
    type.object_align = 24;
    CHECK_EQ(pnx_rwdata_create(&type, NULL, NULL, &err, &rwdata), -EINVAL);
    type.object_align = 8192;
    CHECK_EQ(pnx_rwdata_create(&type, NULL, NULL, &err, &rwdata), -EINVAL);
    CHECK_STR(err.field, "type");
    CHECK_EQ(pnx_rwdata_create(&pair_type, NULL, PNX_RWDATA_OPTS(.flags = 64), &err, &rwdata),
            -EINVAL);
    CHECK_STR(err.field, "flags");
    CHECK_EQ(pnx_rwdata_create(&pair_type, NULL,
                     PNX_RWDATA_OPTS(.flags = PNX_RWDATA_CHECK | PNX_RWDATA_NO_CHECK), &err,
                     &rwdata),
            -EINVAL);
    CHECK_EQ(pnx_rwdata_create(&pair_type, NULL, PNX_RWDATA_OPTS(.reserved = 1), &err, &rwdata),
            -EINVAL);
    CHECK_STR(err.field, "reserved");
    CHECK(rwdata == (void *)8);
    rwdata = make();
    struct pnx_rwdata_read_guard reader = {0};
    struct pnx_rwdata_write_guard writer = {0};
    CHECK_EQ(pnx_rwdata_read(NULL, 0, &err, &reader), -EINVAL);
    CHECK_STR(err.field, "rwdata");
    CHECK_EQ(pnx_rwdata_write(rwdata, 0, &err, NULL), -EINVAL);
    CHECK_STR(err.field, "ret_guard");
    CHECK_EQ(pnx_rwdata_read(rwdata, -5, &err, &reader), -EINVAL);
    CHECK_EQ(pnx_rwdata_with_read(rwdata, 0, NULL, NULL, &err), -EINVAL);
    CHECK_EQ(pnx_rwdata_with_write(rwdata, 0, NULL, NULL, &err), -EINVAL);
    CHECK_STR(err.field, "fn");
    CHECK_EQ(pnx_rwdata_downgrade(&writer, &reader), -EINVAL);
    CHECK_EQ(pnx_rwdata_poison(&writer, -EIO), -EINVAL);
    CHECK_EQ(pnx_rwdata_clear(&writer), -EINVAL);
    CHECK_EQ(pnx_rwdata_poisoned(NULL), -EINVAL);
    CHECK_EQ(pnx_rwdata_read_stats(rwdata, NULL), -EINVAL);
    pnx_rwdata_arm(&writer);
    pnx_rwdata_disarm(&writer);
    pnx_rwdata_close(NULL);
    CHECK(!reader.rwdata_ && !writer.rwdata_ && !none);
    end(&rwdata);
}

TEST(what_is_no_rwdata_is_refused) {
    struct pnx_rwdata_read_guard reader = {0};
    struct pnx_rwdata_write_guard writer = {0};
    _Alignas(64) static uint64_t other[64];
    memset(other, 0x77, sizeof(other));
    CHECK_EQ(pnx_rwdata_read((void *)other, 0, NULL, &reader), -EINVAL);
    CHECK_EQ(pnx_rwdata_write((void *)other, 0, NULL, &writer), -EINVAL);
    CHECK_EQ(pnx_rwdata_poisoned((void *)other), -EINVAL);
    for (size_t i = 0; i < 64; i++)
        CHECK_EQ(other[i], UINT64_C(0x7777777777777777)); /* nothing was changed */
}

TEST(values_of_any_size_and_alignment_are_kept_whole) {
    static const struct {
        size_t size, align;
    } cases[] = {{1, 1}, {8, 8}, {40, 8}, {40, 64}, {41, 1}, {48, 16}, {4096, 4096}, {100000, 0}};
    static unsigned char init[100000], expected[100000];
    test_env_init(&te);
    memset(init, 0xa5, sizeof(init));
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        const struct pnx_rc_type type = {.size = sizeof(type),
                .name = "bytes",
                .object_size = cases[i].size,
                .object_align = cases[i].align,
                .env = &te.env};
        struct pnx_rwdata *rwdata = NULL;
        for (int filled = 0; filled < 2; filled++) {
            CHECK_EQ(pnx_rwdata_create(&type, filled ? init : NULL, NULL, NULL, &rwdata), 0);
            struct pnx_rwdata_write_guard writer = write_guard(rwdata);
            CHECK_EQ((uintptr_t)writer.value % (cases[i].align ? cases[i].align : 16), 0);
            CHECK(memcmp(writer.value, filled ? init : expected, cases[i].size) == 0);
            memset(writer.value, 0x11, cases[i].size);
            pnx_rwdata_write_end(&writer);
            CHECK_EQ(ask(rwdata, true, 0, NULL), 0); /* the lock is whole */
            end(&rwdata);
        }
    }
}

TEST(the_layout_that_inline_functions_know_is_frozen) {
    CHECK_EQ(offsetof(struct pnx_rwdata_head_, word), 40);
    CHECK_EQ(offsetof(struct pnx_rwdata_head_, value), 48);
    CHECK_EQ(offsetof(struct pnx_rwdata_head_, writes), 56);
    CHECK_EQ(sizeof(struct pnx_rwdata_read_guard), 2 * sizeof(void *));
    CHECK_EQ(sizeof(struct pnx_rwdata_write_guard), 2 * sizeof(void *) + 8);
    CHECK_EQ(PNX_RWDATA_WRITER_, UINT64_C(1) << 15);
    CHECK_EQ(PNX_RWDATA_READER_, UINT64_C(1) << 44);
    CHECK_EQ(offsetof(struct pnx_thread, id), PNX_RWDATA_THREAD_ID_);
}

/* ---- P1 ---- */

TEST(p1_readers_never_see_half_a_write) {
    run_torture(PNX_RWDATA_NO_CHECK);
}

TEST(p1_readers_never_see_half_a_write_where_guards_are_checked) {
    run_torture(PNX_RWDATA_CHECK);
}

/* ---- P2 ---- */

TEST(p2_a_reader_who_comes_later_waits_behind_a_writer) {
    struct pnx_rwdata *rwdata = make_with(PNX_RWDATA_NO_CHECK);
    struct pnx_rwdata_read_guard reader = read_guard(rwdata), more = {0};
    struct asker writer = {.rwdata = rwdata, .timeout = PNX_NEVER, .write = true};
    CHECK_EQ(pnx_rwdata_try_read(rwdata, &more), 0); /* nobody waits yet */
    pnx_rwdata_read_end(&more);
    start(&writer);
    until_waiters(rwdata, 1);
    int rc;
    while ((rc = pnx_rwdata_try_read(rwdata, &more)) ==
            0) { /* counted, and just about to stand there */
        pnx_rwdata_read_end(&more);
        sched_yield();
    }
    CHECK_EQ(rc, -EBUSY);
    pnx__rwdata_check(rwdata);
    pnx_rwdata_read_end(&reader);
    CHECK_EQ(finish(&writer), 0);
    CHECK_EQ(pnx_rwdata_try_read(rwdata, &more), 0);
    pnx_rwdata_read_end(&more);
    CHECK_EQ(stats_of(rwdata).write_waits, 1);
    end(&rwdata);
}

/* Threads that note the order in which they come in; readers of one batch meet inside. */
struct order {
    struct pnx_rwdata *rwdata;
    pthread_barrier_t *meet;
    bool write;
    unsigned *next, came;
    pthread_t thread;
};

static void *order_thread(void *arg) {
    struct order *order = arg;
    struct pnx_rwdata_write_guard writer = {0};
    struct pnx_rwdata_read_guard reader = {0};
    if (order->write)
        CHECK_EQ(pnx_rwdata_write(order->rwdata, PNX_NEVER, NULL, &writer), 0);
    else
        CHECK_EQ(pnx_rwdata_read(order->rwdata, PNX_NEVER, NULL, &reader), 0);
    order->came = __atomic_add_fetch(order->next, 1, __ATOMIC_RELAXED);
    if (order->meet)
        pthread_barrier_wait(order->meet); /* would hang if they were not in together */
    pnx_rwdata_write_end(&writer);
    pnx_rwdata_read_end(&reader);
    return NULL;
}

TEST(p2_the_queue_is_served_in_order_and_readers_in_batches) {
    struct pnx_rwdata *rwdata = make_with(PNX_RWDATA_NO_CHECK);
    pthread_barrier_t meet;
    unsigned next = 0;
    pthread_barrier_init(&meet, NULL, 2);
    struct order orders[] = {
            {.rwdata = rwdata, .meet = &meet},
            {.rwdata = rwdata, .meet = &meet},
            {.rwdata = rwdata, .write = true},
            {.rwdata = rwdata, .write = true},
            {.rwdata = rwdata},
            {.rwdata = rwdata, .write = true},
    };
    unsigned n = sizeof(orders) / sizeof(orders[0]);
    struct pnx_rwdata_write_guard writer = write_guard(rwdata);
    for (unsigned i = 0; i < n; i++) {
        orders[i].next = &next;
        CHECK_EQ(pthread_create(&orders[i].thread, NULL, order_thread, &orders[i]), 0);
        until_waiters(rwdata, i + 1);
        pnx__rwdata_check(rwdata);
    }
    pnx_rwdata_write_end(&writer);
    for (unsigned i = 0; i < n; i++)
        pthread_join(orders[i].thread, NULL);
    CHECK(orders[0].came <= 2 && orders[1].came <= 2);
    for (unsigned i = 2; i < n; i++)
        CHECK_EQ(orders[i].came, i + 1);
    pthread_barrier_destroy(&meet);
    end(&rwdata);
}

/* A clock at which a thread stops: in the queue, on its way to sleep. */
static sem_t stopped, may_go;
static pthread_t stops;
static int reads_before;

static pnx_ns stopping_now(void *ctx) {
    (void)ctx;
    if (pthread_equal(stops, pthread_self()) && reads_before-- == 0) {
        sem_post(&stopped);
        sem_wait(&may_go);
    }
    return pnx_now();
}

static void *stopping_thread(void *arg) {
    stops = pthread_self();
    return ask_thread(arg);
}

TEST(p2_the_first_in_the_queue_is_passed_only_so_often) {
    struct pnx_rwdata *rwdata = NULL;
    uint64_t passed = 0;
    test_env_init(&te);
    struct pnx_env env = te.env;
    env.now = stopping_now;
    sem_init(&stopped, 0, 0);
    sem_init(&may_go, 0, 0);
    CHECK_EQ(pnx_rwdata_create(&pair_type, NULL,
                     PNX_RWDATA_OPTS(.env = &env, .flags = PNX_RWDATA_NO_CHECK), NULL, &rwdata),
            0);
    struct pnx_rwdata_write_guard writer = write_guard(rwdata);
    struct asker first = {.rwdata = rwdata, .timeout = 1000 * PNX_SEC, .write = true};
    reads_before = 1; /* of the clock, for the deadline */
    CHECK_EQ(pthread_create(&first.thread, NULL, stopping_thread, &first), 0);
    sem_wait(&stopped);
    CHECK_EQ(stats_of(rwdata).waiters, 1);
    pnx_rwdata_write_end(&writer); /* calls him; he is somewhere else */
    while (pnx_rwdata_try_write(rwdata, &writer) == 0) {
        passed++;
        CHECK(passed <= PNX_RWDATA_BYPASS);
        pnx_rwdata_write_end(&writer);
    }
    CHECK(passed > 0 && passed * 4 == PNX_RWDATA_BYPASS); /* a fourth for each call */
    struct pnx_rwdata_read_guard reader = {0};
    CHECK_EQ(pnx_rwdata_try_read(rwdata, &reader), -EBUSY); /* free, but kept for him */
    CHECK_EQ(ask(rwdata, false, PNX_MS, NULL), -ETIMEDOUT);
    sem_post(&may_go);
    CHECK_EQ(finish(&first), 0);
    CHECK_EQ(pnx_rwdata_try_read(rwdata, &reader), 0);
    pnx_rwdata_read_end(&reader);
    end(&rwdata);
}

static uint64_t turns[4];
static bool turns_end;

static void turn_thread(unsigned index, void *ctx) {
    struct pnx_rwdata *rwdata = ctx;
    while (!__atomic_load_n(&turns_end, __ATOMIC_RELAXED)) {
        struct pnx_rwdata_write_guard writer = {0};
        struct pnx_rwdata_read_guard reader = {0};
        if (index % 2)
            CHECK_EQ(pnx_rwdata_write(rwdata, PNX_NEVER, NULL, &writer), 0);
        else
            CHECK_EQ(pnx_rwdata_read(rwdata, PNX_NEVER, NULL, &reader), 0);
        pnx_rwdata_read_end(&reader);
        pnx_rwdata_write_end(&writer);
        uint64_t least = __atomic_add_fetch(&turns[index], 1, __ATOMIC_RELAXED);
        for (int i = 0; i < 4; i++) {
            uint64_t other = __atomic_load_n(&turns[i], __ATOMIC_RELAXED);
            least = other < least ? other : least;
        }
        if (least >= (test_slow() ? 20 : 200)) /* hangs if one of them starves */
            __atomic_store_n(&turns_end, true, __ATOMIC_RELAXED);
    }
}

TEST(p2_readers_and_writers_all_come_in) {
    struct pnx_rwdata *rwdata = make_with(PNX_RWDATA_NO_CHECK);
    test_threads(4, turn_thread, rwdata);
    end(&rwdata);
}

/* ---- P3 ---- */

TEST(p3_a_timeout_of_zero_never_waits) {
    struct pnx_error err = {0};
    struct pnx_rwdata *rwdata = make();
    struct pnx_rwdata_write_guard writer = write_guard(rwdata);
    CHECK_EQ(ask(rwdata, false, 0, &err), -EBUSY);
    CHECK_STR(err.phase, "read");
    CHECK_CONTAINS(err.message, "pair: thread ");
    CHECK_CONTAINS(err.message, " is writing");
    CHECK_EQ(ask(rwdata, true, 0, NULL), -EBUSY);
    pnx_rwdata_write_end(&writer);
    struct pnx_rwdata_read_guard reader = read_guard(rwdata);
    CHECK_EQ(ask(rwdata, true, 0, &err), -EBUSY);
    CHECK_STR(err.message, "pair: 1 readers are in, others wait");
    CHECK_EQ(ask(rwdata, false, 0, NULL), 0);
    pnx_rwdata_read_end(&reader);
    CHECK_EQ(stats_of(rwdata).read_waits + stats_of(rwdata).write_waits, 0);
    end(&rwdata);
}

TEST(p3_a_wait_ends_at_its_deadline) {
    struct pnx_error err = {0};
    struct pnx_rwdata *rwdata = make();
    struct pnx_rwdata_write_guard writer = write_guard(rwdata);
    for (int write = 0; write < 2; write++) {
        pnx_ns before = pnx_now();
        CHECK_EQ(ask(rwdata, write, 3 * PNX_MS, &err), -ETIMEDOUT);
        CHECK(pnx_now() - before >= 3 * PNX_MS);
        CHECK_STR(err.phase, write ? "write" : "read");
        pnx__rwdata_check(rwdata);
    }
    CHECK_EQ(stats_of(rwdata).timeouts, 2);
    CHECK_EQ(stats_of(rwdata).waiters, 0);
    pnx_rwdata_write_end(&writer);
    CHECK_EQ(ask(rwdata, true, 0, NULL), 0);
    end(&rwdata);
}

TEST(p3_the_default_timeout_is_the_objects) {
    struct pnx_rwdata *rwdata = NULL;
    test_env_init(&te);
    CHECK_EQ(pnx_rwdata_create(&pair_type, NULL,
                     PNX_RWDATA_OPTS(.env = &te.env, .timeout_ns = 2 * PNX_MS), NULL, &rwdata),
            0);
    struct pnx_rwdata_write_guard writer = write_guard(rwdata);
    CHECK_EQ(ask(rwdata, false, PNX_TIMEOUT_DEFAULT, NULL), -ETIMEDOUT);
    pnx_rwdata_write_end(&writer);
    end(&rwdata);
}

TEST(p3_who_gives_up_keeps_nobody_waiting) {
    struct pnx_rwdata *rwdata = make_with(PNX_RWDATA_NO_CHECK);
    struct pnx_rwdata_read_guard reader = read_guard(rwdata);
    struct asker writer = {.rwdata = rwdata, .timeout = 20 * PNX_MS, .write = true};
    struct asker behind = {.rwdata = rwdata, .timeout = PNX_NEVER};
    start(&writer);
    until_waiters(rwdata, 1);
    start(&behind);
    CHECK_EQ(finish(&writer), -ETIMEDOUT);
    CHECK_EQ(finish(&behind), 0); /* while we still read */
    pnx_rwdata_read_end(&reader);
    end(&rwdata);
}

/* ---- P4 ---- */

static int ask_inside(void *ctx, void *value) {
    struct pnx_rwdata *rwdata = ctx;
    struct pnx_rwdata_read_guard reader = {0};
    struct pnx_rwdata_write_guard writer = {0};
    struct pnx_error err = {0};
    (void)value;
    CHECK_EQ(pnx_rwdata_read(rwdata, PNX_NEVER, &err, &reader), -EDEADLK);
    CHECK_STR(err.message, "pair: this thread has a guard of it already");
    CHECK_EQ(pnx_rwdata_write(rwdata, PNX_NEVER, NULL, &writer), -EDEADLK);
    CHECK_EQ(pnx_rwdata_try_read(rwdata, &reader), -EDEADLK);
    CHECK_EQ(pnx_rwdata_try_write(rwdata, &writer), -EDEADLK);
    CHECK_EQ(pnx_rwdata_repair(rwdata, PNX_NEVER, NULL, &writer), -EDEADLK);
    CHECK_EQ(pnx_rwdata_with_write(rwdata, PNX_NEVER, ask_inside, rwdata, NULL), -EDEADLK);
    return 0;
}

TEST(p4_a_writer_who_asks_again_is_refused) {
    for (int i = 0; i < 2; i++) {
        struct pnx_rwdata *rwdata = make_with(i ? PNX_RWDATA_CHECK : PNX_RWDATA_NO_CHECK);
        CHECK_EQ(pnx_rwdata_with_write(rwdata, 0, ask_inside, rwdata, NULL), 0);
        CHECK_EQ(stats_of(rwdata).deadlocks, 6);
        end(&rwdata);
    }
}

TEST(p4_a_reader_who_asks_to_write_is_refused_where_guards_are_checked) {
    struct pnx_rwdata *rwdata = make(), *other = make();
    struct pnx_rwdata_read_guard reader = read_guard(rwdata), more = {0};
    struct pnx_rwdata_write_guard writer = {0};
    CHECK_EQ(pnx_rwdata_write(rwdata, PNX_NEVER, NULL, &writer), -EDEADLK);
    CHECK_EQ(pnx_rwdata_try_write(rwdata, &writer), -EDEADLK); /* trying again would not help */
    CHECK_EQ(pnx_rwdata_read(rwdata, PNX_NEVER, NULL, &more), -EDEADLK);
    CHECK_EQ(pnx_rwdata_try_read(rwdata, &more), 0); /* waits for nobody */
    pnx_rwdata_read_end(&more);
    writer = write_guard(other); /* another one is another matter */
    CHECK_EQ(pnx_rwdata_try_read(other, &more), -EDEADLK);
    pnx_rwdata_write_end(&writer);
    pnx_rwdata_read_end(&reader);
    writer = write_guard(rwdata);
    struct pnx_rwdata_read_guard down = {0};
    CHECK_EQ(pnx_rwdata_downgrade(&writer, &down), 0);
    CHECK_EQ(pnx_rwdata_write(rwdata, PNX_NEVER, NULL, &writer), -EDEADLK);
    pnx_rwdata_read_end(&down);
    writer = write_guard(rwdata);
    pnx_rwdata_write_end(&writer);
    pnx_rwdata_release(&other);
    end(&rwdata);
}

TEST(p4_more_guards_than_a_thread_can_note_are_fine) {
    enum { N = PNX_RWDATA_HELD_MAX + 5 };
    struct pnx_rwdata *rwdatas[N];
    struct pnx_rwdata_read_guard guards[N] = {0};
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < N; i++) {
            rwdatas[i] = make();
            guards[i] = read_guard(rwdatas[i]);
        }
        for (int i = 0; i < N; i++)
            pnx_rwdata_read_end(&guards[round ? N - 1 - i : i]);
        for (int i = 0; i < N; i++) {
            CHECK_EQ(stats_of(rwdatas[i]).misuses, 0);
            pnx_rwdata_release(&rwdatas[i]);
        }
    }
    test_env_check_empty(&te);
}

/* ---- P5 ---- */

TEST(p5_a_downgrade_lets_no_writer_between_and_readers_in) {
    struct pnx_rwdata *rwdata = make();
    struct pnx_rwdata_write_guard writer = write_guard(rwdata);
    struct pnx_rwdata_read_guard reader = {0};
    struct asker first = {.rwdata = rwdata, .timeout = PNX_NEVER};
    struct asker second = {.rwdata = rwdata, .timeout = PNX_NEVER, .write = true};
    start(&first);
    until_waiters(rwdata, 1);
    start(&second);
    until_waiters(rwdata, 2);
    ((struct pair *)writer.value)->a = 7;
    pnx_rwdata_arm(&writer);
    CHECK_EQ(pnx_rwdata_downgrade(&writer, &reader), -EINVAL); /* half done */
    ((struct pair *)writer.value)->b = 7;
    pnx_rwdata_disarm(&writer);
    CHECK_EQ(pnx_rwdata_downgrade(&writer, &reader), 0);
    CHECK(!writer.rwdata_);
    CHECK_EQ(finish(&first), 0); /* came in beside us */
    CHECK_EQ(stats_of(rwdata).waiters, 1);
    CHECK_EQ(((const struct pair *)reader.value)->a, 7);
    pnx_rwdata_read_end(&reader);
    CHECK_EQ(finish(&second), 0);
    CHECK_EQ(stats_of(rwdata).downgrades, 1);
    end(&rwdata);
}

/* ---- P6 ---- */

static void leave_half_done(struct pnx_rwdata *rwdata) {
    PNX_AUTO_RWDATA_WRITE guard = write_guard(rwdata);
    pnx_rwdata_arm(&guard);
    ((struct pair *)guard.value)->a++;
    /* An early return: the guard ends armed. */
}

static void check_poison(uint32_t flags) {
    struct pnx_error err = {0};
    struct pnx_stats *stats = listen();
    struct pnx_rwdata *rwdata = make_heard(stats, flags);
    struct pnx_rwdata_read_guard reader = {0};
    struct pnx_rwdata_write_guard writer = {0};
    CHECK_EQ(pnx_rwdata_poisoned(rwdata), 0);
    leave_half_done(rwdata);
    CHECK_EQ(pnx_rwdata_poisoned(rwdata), -ECANCELED);
    CHECK_EQ(heard.poisoned, 1);
    CHECK_EQ(heard.code, -ECANCELED);
    CHECK_CONTAINS(te.last_log, "rwdata \"pair\": a change was not finished");
    CHECK_EQ(pnx_rwdata_read(rwdata, PNX_NEVER, &err, &reader), PNX_E_BROKEN);
    CHECK_EQ(err.cause, -ECANCELED);
    CHECK_STR(err.message, "pair: a change of the value was not finished");
    CHECK_EQ(pnx_rwdata_write(rwdata, PNX_NEVER, NULL, &writer), PNX_E_BROKEN);
    CHECK_EQ(pnx_rwdata_try_read(rwdata, &reader), PNX_E_BROKEN);
    CHECK(!reader.rwdata_ && !writer.rwdata_);
    CHECK_EQ(stats_of(rwdata).poisoned, 1);
    /* Looking, and giving up: still poisoned, and nobody is told again. */
    CHECK_EQ(pnx_rwdata_repair(rwdata, PNX_NEVER, NULL, &writer), 0);
    pnx_rwdata_write_end(&writer);
    CHECK_EQ(ask(rwdata, false, PNX_NEVER, NULL), PNX_E_BROKEN);
    CHECK_EQ(heard.poisoned, 1);
    CHECK_EQ(pnx_rwdata_repair(rwdata, PNX_NEVER, NULL, &writer), 0);
    ((struct pair *)writer.value)->b = ((struct pair *)writer.value)->a;
    CHECK_EQ(pnx_rwdata_clear(&writer), 0);
    CHECK_EQ(pnx_rwdata_clear(&writer), 0);
    pnx_rwdata_write_end(&writer);
    CHECK_EQ(pnx_rwdata_poisoned(rwdata), 0);
    CHECK_EQ(ask(rwdata, false, 0, NULL), 0);
    CHECK_EQ(ask(rwdata, true, 0, NULL), 0);
    CHECK_EQ(stats_of(rwdata).poisoned, 0);
    CHECK_EQ(stats_of(rwdata).poisonings, 1);
    CHECK_EQ(heard.poisoned, 1);
    CHECK_EQ(heard.misused, 0);
    end(&rwdata);
    pnx_stats_release(&stats);
}

TEST(p6_a_guard_that_ends_armed_poisons_until_cleared) {
    check_poison(PNX_RWDATA_CHECK);
}

TEST(p6_a_guard_that_ends_armed_poisons_where_guards_are_not_checked) {
    check_poison(PNX_RWDATA_NO_CHECK);
}

TEST(p6_a_guard_poisons_with_its_reason) {
    struct pnx_stats *stats = listen();
    struct pnx_rwdata *rwdata = make_heard(stats, PNX_RWDATA_NO_CHECK);
    struct pnx_rwdata_read_guard reader = {0};
    struct pnx_rwdata_write_guard writer = write_guard(rwdata);
    CHECK_EQ(pnx_rwdata_poison(&writer, 0), -EINVAL);
    CHECK_EQ(pnx_rwdata_poison(&writer, 5), -EINVAL);
    struct asker waits = {.rwdata = rwdata, .timeout = PNX_NEVER};
    start(&waits);
    until_waiters(rwdata, 1);
    pnx_rwdata_arm(&writer);
    CHECK_EQ(pnx_rwdata_poison(&writer, -EIO), 0);
    pnx_rwdata_disarm(&writer);
    CHECK_EQ(heard.poisoned, 0); /* not under the guard */
    pnx_rwdata_write_end(&writer);
    CHECK_EQ(heard.poisoned, 1);
    CHECK_EQ(heard.code, -EIO);
    CHECK_EQ(finish(&waits), PNX_E_BROKEN);
    CHECK_EQ(waits.err.cause, -EIO);
    /* By a downgrade, too. */
    CHECK_EQ(pnx_rwdata_repair(rwdata, 0, NULL, &writer), 0);
    CHECK_EQ(pnx_rwdata_poison(&writer, -EFBIG), 0);
    CHECK_EQ(pnx_rwdata_downgrade(&writer, &reader), 0);
    CHECK_EQ(heard.poisoned, 2);
    CHECK_EQ(heard.code, -EFBIG);
    CHECK_EQ(ask(rwdata, false, 0, NULL), PNX_E_BROKEN);
    pnx_rwdata_read_end(&reader);
    end(&rwdata);
    pnx_stats_release(&stats);
}

static int fails(void *ctx, void *value) {
    ((struct pair *)value)->a++;
    return *(int *)ctx;
}

static int reads(void *ctx, const void *value) {
    *(uint64_t *)ctx = ((const struct pair *)value)->a;
    return 0;
}

static int fails_reading(void *ctx, const void *value) {
    (void)value;
    return *(int *)ctx;
}

TEST(p6_a_failing_function_poisons_if_asked_to) {
    for (int asked = 0; asked < 2; asked++) {
        struct pnx_error err = {0};
        struct pnx_rwdata *rwdata = make_with(asked ? PNX_RWDATA_POISON_ON_ERROR : 0);
        int code = 0;
        uint64_t a = 0;
        CHECK_EQ(pnx_rwdata_with_write(rwdata, 0, fails, &code, &err), 0);
        CHECK_EQ(pnx_rwdata_with_read(rwdata, 0, reads, &a, &err), 0);
        CHECK_EQ(a, 2);
        code = -ERANGE;
        CHECK_EQ(pnx_rwdata_with_read(rwdata, 0, fails_reading, &code, &err), -ERANGE);
        CHECK_STR(err.phase, "read");
        CHECK_EQ(pnx_rwdata_poisoned(rwdata), 0);
        CHECK_EQ(pnx_rwdata_with_write(rwdata, 0, fails, &code, &err), -ERANGE);
        CHECK_STR(err.phase, "write");
        CHECK_CONTAINS(err.message, "pair: ");
        CHECK_EQ(pnx_rwdata_poisoned(rwdata), asked ? -ERANGE : 0);
        code = 3; /* a function's mistake */
        CHECK_EQ(pnx_rwdata_with_write(rwdata, 0, fails, &code, NULL),
                asked ? PNX_E_BROKEN : -EINVAL);
        end(&rwdata);
    }
}

static int ends_thread(void *ctx, void *value) {
    (void)ctx;
    ((struct pair *)value)->a++;
    pthread_exit(NULL);
}

static void *with_thread(void *arg) {
    CHECK_EQ(pnx_rwdata_with_write(arg, 0, ends_thread, NULL, NULL), 0); /* does not come back */
    return NULL;
}

TEST(p6_a_function_that_does_not_return_leaves_the_lock_free) {
    for (int asked = 0; asked < 2; asked++) {
        struct pnx_rwdata *rwdata = make_with(asked ? PNX_RWDATA_POISON_ON_ERROR : 0);
        pthread_t thread;
        CHECK_EQ(pthread_create(&thread, NULL, with_thread, rwdata), 0);
        pthread_join(thread, NULL);
        CHECK_EQ(pnx_rwdata_poisoned(rwdata), asked ? -ECANCELED : 0);
        CHECK_EQ(ask(rwdata, true, 0, NULL), asked ? PNX_E_BROKEN : 0);
        end(&rwdata);
    }
}

/* ---- P7 ---- */

TEST(p7_a_close_ends_all_waits_and_leaves_guards) {
    struct pnx_error err = {0};
    struct pnx_rwdata *rwdata = make_with(PNX_RWDATA_NO_CHECK);
    struct pnx_rwdata_write_guard writer = write_guard(rwdata);
    struct asker waits[3] = {{.rwdata = rwdata, .timeout = PNX_NEVER},
            {.rwdata = rwdata, .timeout = PNX_NEVER, .write = true},
            {.rwdata = rwdata, .timeout = 1000 * PNX_SEC}};
    for (unsigned i = 0; i < 3; i++) {
        start(&waits[i]);
        until_waiters(rwdata, i + 1);
    }
    pnx_rwdata_close(rwdata);
    for (int i = 0; i < 3; i++)
        CHECK_EQ(finish(&waits[i]), -ESHUTDOWN);
    pnx__rwdata_check(rwdata);
    ((struct pair *)writer.value)->a = 5; /* still ours */
    struct pnx_rwdata_read_guard reader = {0};
    CHECK_EQ(pnx_rwdata_downgrade(&writer, &reader), 0);
    CHECK_EQ(ask(rwdata, false, PNX_NEVER, &err), -ESHUTDOWN);
    CHECK_STR(err.message, "pair: closed");
    pnx_rwdata_read_end(&reader);
    CHECK_EQ(ask(rwdata, true, 0, NULL), -ESHUTDOWN);
    CHECK_EQ(pnx_rwdata_repair(rwdata, 0, NULL, &writer), -ESHUTDOWN);
    pnx_rwdata_close(rwdata);
    CHECK_EQ(stats_of(rwdata).waiters, 0);
    end(&rwdata);
}
