/* SPDX-License-Identifier: Apache-2.0 */
/* snapshot: P1..P5 of patinox/snapshot.h. */
#include "share/snapshot_case.h"

/* ---- P1, P2 ---- */

TEST(p1_each_publication_has_its_own_version) {
    uint64_t version = 77;
    use_env();
    struct pnx_snapshot *snapshot = make_snapshot(10);
    PNX_AUTO_RC const struct value *first = pnx_snapshot_load(snapshot, &version);
    CHECK_EQ(version, 1);
    CHECK_EQ(number_of(first), 10);
    struct value *value = make(20);
    CHECK_EQ(pnx_snapshot_store(snapshot, value, NULL, &version), 0);
    CHECK_EQ(version, 2);
    CHECK_EQ(pnx_snapshot_store(snapshot, value, NULL, &version), 0); /* the same value again */
    CHECK_EQ(version, 3);
    value_release(&value);
    CHECK_EQ(pnx_snapshot_version(snapshot), 3);
    CHECK_EQ(load(snapshot), 20);
    CHECK_EQ(number_of(first), 10); /* what was loaded does not change */
    pnx_snapshot_release(&snapshot);
    CHECK(snapshot == NULL);
    CHECK_EQ(drops, 1);
    PNX_RC_CLEAR(first);
    CHECK_EQ(drops, 2);
    test_env_check_empty(&te);
}

TEST(p2_a_value_in_the_cell_is_never_unique) {
    use_env();
    struct value *value = make(1);
    struct pnx_snapshot *snapshot = NULL;
    CHECK_EQ(pnx_snapshot_create(value, PNX_SNAPSHOT_OPTS(.env = &te.env), NULL, &snapshot), 0);
    CHECK(!value_unique(value));
    struct value *loaded = pnx_rc_ref(pnx_snapshot_load(snapshot, NULL));
    pnx_rc_unref(loaded);
    CHECK(loaded == value);
    CHECK_EQ(value_make_mut(&loaded), 0); /* a writer gets a copy */
    CHECK(loaded != value);
    loaded->words[0] = 7;
    CHECK_EQ(load(snapshot), 1);
    struct value *other = make(2);
    CHECK_EQ(pnx_snapshot_store(snapshot, other, NULL, NULL), 0);
    CHECK(value_unique(value)); /* the cell has let go */
    CHECK(!value_unique(other));
    value_release(&other);
    value_release(&loaded);
    value_release(&value);
    pnx_snapshot_release(&snapshot);
    test_env_check_empty(&te);
}

struct torture {
    struct pnx_snapshot *snapshot;
    uint64_t rounds;
    uint64_t writers_left;
    uint64_t sum;
    uint64_t published[1]; /* of the highest version published so far */
};

/* The value's number is its version, so that a pair that does not belong together shows. */
static void torture_thread(unsigned index, void *ctx) {
    struct torture *torture = ctx;
    uint64_t last = 0;
    if (index < 2) {
        for (uint64_t i = 0; i < torture->rounds; i++) {
            uint64_t version = 0;
            CHECK_EQ(pnx_snapshot_update(torture->snapshot, set_next, NULL, NULL, &version), 0);
            CHECK(version > last);
            last = version;
            __atomic_add_fetch(&torture->sum, version, __ATOMIC_RELAXED);
        }
        __atomic_sub_fetch(&torture->writers_left, 1, __ATOMIC_RELEASE);
        return;
    }
    while (__atomic_load_n(&torture->writers_left, __ATOMIC_ACQUIRE) > 0) {
        uint64_t version, announced = pnx_snapshot_version(torture->snapshot);
        PNX_AUTO_RC const struct value *value = pnx_snapshot_load(torture->snapshot, &version);
        CHECK_EQ(number_of(value), version);
        CHECK(version >= last && version >= announced);
        last = version;
    }
}

TEST(p1_readers_never_see_a_torn_pair_or_an_older_version) {
    use_env();
    uint64_t rounds = test_slow() ? 1000 : 20000;
    struct torture torture = {make_snapshot(1), rounds, 2, 0, {0}};
    test_threads(5, torture_thread, &torture);
    uint64_t n = 2 * rounds + 1;
    CHECK_EQ(pnx_snapshot_version(torture.snapshot), n); /* P3: no update was lost ... */
    CHECK_EQ(load(torture.snapshot), n);
    CHECK_EQ(torture.sum, n * (n + 1) / 2 - 1); /* ... and each had a version of its own */
    CHECK_EQ(stats_of(torture.snapshot).updates, 2 * rounds);
    CHECK_EQ(stats_of(torture.snapshot).copies, 2 * rounds);
    pnx_snapshot_release(&torture.snapshot);
    test_env_check_empty(&te);
}

/* Writers that store at random among updaters: an update must never be overwritten by what it did not see. */
static void mixed_writer(unsigned index, void *ctx) {
    struct torture *torture = ctx;
    for (uint64_t i = 0; i < torture->rounds; i++) {
        if (index != 0) {
            CHECK_EQ(pnx_snapshot_update(torture->snapshot, set_next, NULL, NULL, NULL), 0);
            continue;
        }
        uint64_t version;
        PNX_AUTO_RC const struct value *value = pnx_snapshot_load(torture->snapshot, &version);
        struct value *next = make(number_of(value) + 1);
        int rc = pnx_snapshot_store_if(torture->snapshot, version, next, NULL, NULL);
        CHECK(rc == 0 || rc == PNX_E_CONFLICT);
        value_release(&next);
    }
}

TEST(p3_store_if_and_update_together_lose_nothing) {
    use_env();
    struct torture torture = {make_snapshot(1), test_slow() ? 1000 : 10000, 0, 0, {0}};
    test_threads(3, mixed_writer, &torture);
    struct pnx_snapshot_stats stats = stats_of(torture.snapshot);
    CHECK_EQ(load(torture.snapshot), stats.version);
    CHECK_EQ(stats.version, 1 + stats.stores + stats.updates);
    CHECK_EQ(stats.stores + stats.conflicts, torture.rounds);
    pnx_snapshot_release(&torture.snapshot);
    test_env_check_empty(&te);
}

/* ---- P3: writers ---- */

TEST(p3_store_if_publishes_only_on_the_expected_version) {
    struct pnx_error err = {0};
    uint64_t version = 77;
    use_env();
    struct pnx_snapshot *snapshot = make_snapshot(1);
    struct value *value = make(2);
    CHECK_EQ(pnx_snapshot_store_if(snapshot, 2, value, &err, &version), PNX_E_CONFLICT);
    CHECK_STR(err.message, "test: the version is 1, not 2 any more");
    CHECK_STR(err.phase, "publish");
    CHECK_EQ(version, 77);
    CHECK_EQ(load(snapshot), 1);
    CHECK_EQ(pnx_snapshot_store_if(snapshot, 1, value, &err, &version), 0);
    CHECK_EQ(version, 2);
    CHECK_EQ(pnx_snapshot_store_if(snapshot, 1, value, NULL, NULL), PNX_E_CONFLICT);
    CHECK_EQ(stats_of(snapshot).conflicts, 2);
    value_release(&value);
    pnx_snapshot_release(&snapshot);
    test_env_check_empty(&te);
}

static int edits;

static int failing_edit(void *ctx, void *object) {
    ((struct value *)object)->words[3] = 99;
    edits++;
    return *(int *)ctx;
}

TEST(p3_a_failing_edit_changes_nothing) {
    struct pnx_error err = {0};
    uint64_t version = 77;
    use_env();
    struct pnx_snapshot *snapshot = make_snapshot(4);
    int result = -EIO;
    CHECK_EQ(pnx_snapshot_update(snapshot, failing_edit, &result, &err, &version), -EIO);
    CHECK_EQ(err.code, -EIO);
    CHECK_STR(err.phase, "edit");
    CHECK_CONTAINS(err.message, "test: ");
    result = 3;
    CHECK_EQ(pnx_snapshot_update(snapshot, failing_edit, &result, NULL, &version), -EINVAL);
    CHECK_EQ(edits, 2);
    clone_fails = -EACCES;
    CHECK_EQ(pnx_snapshot_update(snapshot, failing_edit, &result, &err, &version), -EACCES);
    CHECK_STR(err.phase, "clone");
    CHECK_EQ(edits, 2);
    CHECK_EQ(version, 77);
    CHECK_EQ(pnx_snapshot_version(snapshot), 1);
    CHECK_EQ(load(snapshot), 4);
    CHECK_EQ(stats_of(snapshot).refusals, 3);
    pnx_snapshot_release(&snapshot);
    test_env_check_empty(&te);
}

TEST(p3_validate_decides_about_every_value_once) {
    struct pnx_error err = {0};
    struct pnx_snapshot *snapshot = NULL;
    use_env();
    struct value *odd = make(3), *even = make(8);
    CHECK_EQ(pnx_snapshot_create(odd, PNX_SNAPSHOT_OPTS(.validate = refuse_odd, .env = &te.env),
                     &err, &snapshot),
            -ERANGE);
    CHECK_STR(err.message, "snapshot: 3 is odd");
    CHECK_STR(err.phase, "validate");
    CHECK(snapshot == NULL);
    CHECK_EQ(validations, 1);
    snapshot = make_snapshot_with(2, refuse_odd, 0);
    CHECK_EQ(validations, 2);
    CHECK_EQ(pnx_snapshot_store(snapshot, odd, &err, NULL), -ERANGE);
    CHECK_STR(err.message, "test: 3 is odd");
    CHECK_EQ(err.cause, -ERANGE);
    CHECK_EQ(pnx_snapshot_store_if(snapshot, 1, odd, NULL, NULL), -ERANGE);
    CHECK_EQ(pnx_snapshot_update(snapshot, set_next, NULL, NULL, NULL), -ERANGE);
    CHECK_EQ(validations, 5);
    CHECK_EQ(load(snapshot), 2);
    CHECK_EQ(pnx_snapshot_store(snapshot, even, NULL, NULL), 0);
    CHECK_EQ(load(snapshot), 8);
    CHECK_EQ(validations, 6);
    CHECK_EQ(stats_of(snapshot).refusals, 3);
    value_release(&odd);
    value_release(&even);
    pnx_snapshot_release(&snapshot);
    test_env_check_empty(&te);
}

/* ---- P4: re-entry, circles, time limits ---- */

static struct pnx_snapshot *inner;

static int write_inside(void *ctx, void *object) {
    struct pnx_error err = {0};
    uint64_t version;
    (void)ctx;
    const void *value = pnx_snapshot_load(inner, &version); /* loading is always allowed */
    CHECK_EQ(version, 1);
    CHECK_EQ(pnx_snapshot_store(inner, value, &err, NULL), -EDEADLK);
    CHECK_STR(err.phase, "wait");
    CHECK_CONTAINS(err.message, "from inside edit or validate");
    CHECK_EQ(pnx_snapshot_store_if(inner, 1, value, NULL, NULL), -EDEADLK);
    CHECK_EQ(pnx_snapshot_update(inner, set_next, NULL, NULL, NULL), -EDEADLK);
    pnx_rc_unref(value);
    return set_next(NULL, object);
}

TEST(p4_a_write_from_inside_edit_is_refused) {
    use_env();
    inner = make_snapshot(1);
    CHECK_EQ(pnx_snapshot_update(inner, write_inside, NULL, NULL, NULL), 0);
    CHECK_EQ(load(inner), 2);
    CHECK_EQ(stats_of(inner).deadlocks, 3);
    pnx_snapshot_release(&inner);
    test_env_check_empty(&te);
}

static int write_in_validate(
        void *ctx, const void *next, const void *current, struct pnx_error *err) {
    (void)ctx;
    (void)err;
    if (current)
        CHECK_EQ(pnx_snapshot_store(inner, next, NULL, NULL), -EDEADLK);
    return 0;
}

TEST(p4_a_write_from_inside_validate_is_refused) {
    use_env();
    inner = make_snapshot_with(1, write_in_validate, 0);
    store(inner, 2);
    CHECK_EQ(load(inner), 2);
    pnx_snapshot_release(&inner);
    test_env_check_empty(&te);
}

static void drop_and_store(void *ctx, void *object) {
    (void)object;
    (void)ctx;
    if (__atomic_add_fetch(&drops, 1, __ATOMIC_RELAXED) == 1)
        store(inner, 100);
}

TEST(p4_the_drop_of_a_replaced_value_may_write_to_the_cell) {
    use_env();
    value_type.drop = drop_and_store;
    inner = make_snapshot(1);
    store(inner, 2);
    CHECK_EQ(load(inner), 100);
    CHECK_EQ(pnx_snapshot_version(inner), 3);
    pnx_snapshot_release(&inner);
    test_env_check_empty(&te);
}

/* Two cells, two threads, opposite order: one of the inner writes must be refused, and nothing hangs. */
struct circle {
    struct pnx_snapshot *cells[2];
    pthread_barrier_t barrier;
    int results[2];
};
struct circle_edit {
    struct circle *circle;
    unsigned index;
};

static int edit_other(void *ctx, void *object) {
    struct circle_edit *edit = ctx;
    struct circle *circle = edit->circle;
    (void)object;
    pthread_barrier_wait(&circle->barrier); /* both are writers now */
    circle->results[edit->index] =
            pnx_snapshot_update(circle->cells[1 - edit->index], set_next, NULL, NULL, NULL);
    return 0;
}

static void circle_thread(unsigned index, void *ctx) {
    struct circle_edit edit = {ctx, index};
    CHECK_EQ(pnx_snapshot_update(edit.circle->cells[index], edit_other, &edit, NULL, NULL), 0);
}

TEST(p4_a_circle_over_two_cells_is_refused) {
    struct circle circle = {0};
    use_env();
    pthread_barrier_init(&circle.barrier, NULL, 2);
    for (int i = 0; i < (test_slow() ? 100 : 1000); i++) {
        circle.cells[0] = make_snapshot(1);
        circle.cells[1] = make_snapshot(1);
        test_threads(2, circle_thread, &circle);
        int refused = (circle.results[0] == -EDEADLK) + (circle.results[1] == -EDEADLK);
        int fine = (circle.results[0] == 0) + (circle.results[1] == 0);
        CHECK_EQ(refused, 1);
        CHECK_EQ(fine, 1);
        pnx_snapshot_release(&circle.cells[0]);
        pnx_snapshot_release(&circle.cells[1]);
    }
    test_env_check_empty(&te);
}

struct slow {
    pthread_barrier_t begun, may_end;
};

static int slow_edit(void *ctx, void *object) {
    struct slow *slow = ctx;
    pthread_barrier_wait(&slow->begun);
    pthread_barrier_wait(&slow->may_end);
    return set_next(NULL, object);
}

struct slow_case {
    struct slow slow;
    struct pnx_snapshot *snapshot;
};

static void slow_thread(unsigned index, void *ctx) {
    struct slow_case *c = ctx;
    struct pnx_error err;
    if (index == 0) {
        CHECK_EQ(pnx_snapshot_update(c->snapshot, slow_edit, &c->slow, NULL, NULL), 0);
        return;
    }
    pthread_barrier_wait(&c->slow.begun);
    CHECK_EQ(load(c->snapshot), 1); /* readers do not wait for writers */
    CHECK_EQ(pnx_snapshot_update(c->snapshot, set_next, NULL, &err, NULL), -ETIMEDOUT);
    CHECK_STR(err.message, "test: an earlier writer did not end in time");
    CHECK_EQ(stats_of(c->snapshot).write_timeouts, 1);
    pthread_barrier_wait(&c->slow.may_end);
}

TEST(p4_a_writer_does_not_wait_for_ever_for_the_one_before) {
    struct slow_case c;
    use_env();
    pthread_barrier_init(&c.slow.begun, NULL, 2);
    pthread_barrier_init(&c.slow.may_end, NULL, 2);
    c.snapshot = make_snapshot_with(1, NULL, 5 * PNX_MS);
    test_threads(2, slow_thread, &c);
    CHECK_EQ(load(c.snapshot), 2);
    store(c.snapshot, 9); /* the one that gave up has left the queue */
    CHECK_EQ(load(c.snapshot), 9);
    pnx_snapshot_release(&c.snapshot);
    test_env_check_empty(&te);
}

static int long_edit(void *ctx, void *object) {
    for (int i = 0; i < 100; i++)
        number_of(object);
    return set_next(ctx, object);
}

/* Timeouts while the latch is handed over: a grant that comes together with the timeout must not be lost. */
static void hasty_writer(unsigned index, void *ctx) {
    struct torture *torture = ctx;
    uint64_t state = test_random(&(uint64_t){index});
    for (uint64_t i = 0; i < torture->rounds; i++) {
        int rc = pnx_snapshot_update(torture->snapshot, long_edit, NULL, NULL, NULL);
        CHECK(rc == 0 || rc == -ETIMEDOUT);
        if (rc == 0)
            __atomic_add_fetch(&torture->sum, 1, __ATOMIC_RELAXED);
        for (uint64_t k = test_random(&state) % 64; k > 0; k--)
            __atomic_load_n(&torture->rounds, __ATOMIC_RELAXED);
    }
}

TEST(p3_writers_that_give_up_never_block_the_others) {
    use_env();
    struct torture torture = {
            make_snapshot_with(1, NULL, PNX_US), test_slow() ? 500 : 5000, 0, 0, {0}};
    test_threads(4, hasty_writer, &torture);
    struct pnx_snapshot_stats stats = stats_of(torture.snapshot);
    CHECK_EQ(load(torture.snapshot), 1 + torture.sum);
    CHECK_EQ(stats.write_timeouts + stats.updates, 4 * torture.rounds);
    printf("%llu of %llu gave up\n", (unsigned long long)stats.write_timeouts,
            (unsigned long long)(4 * torture.rounds));
    pnx_snapshot_release(&torture.snapshot);
    test_env_check_empty(&te);
}

/* ---- P5: waiting ---- */

static void waiter_thread(unsigned index, void *ctx) {
    struct torture *torture = ctx;
    if (index == 0) {
        for (uint64_t i = 2; i <= torture->rounds; i++)
            store(torture->snapshot, i);
        return;
    }
    uint64_t seen = 1;
    while (seen < torture->rounds) {
        CHECK_EQ(pnx_snapshot_wait(torture->snapshot, seen, 30 * PNX_SEC), 0);
        uint64_t version;
        PNX_AUTO_RC const struct value *value = pnx_snapshot_load(torture->snapshot, &version);
        CHECK(version > seen);
        CHECK_EQ(number_of(value), version);
        seen = version;
    }
}

TEST(p5_waiters_miss_no_final_state) {
    use_env();
    struct torture torture = {make_snapshot(1), test_slow() ? 2000 : 50000, 0, 0, {0}};
    test_threads(4, waiter_thread, &torture);
    struct pnx_snapshot_stats stats = stats_of(torture.snapshot);
    CHECK_EQ(stats.waiters, 0);
    CHECK_EQ(stats.version, torture.rounds);
    pnx_snapshot_release(&torture.snapshot);
    test_env_check_empty(&te);
}

TEST(p5_wait_ends_at_its_deadline) {
    use_env();
    struct pnx_snapshot *snapshot = make_snapshot(1);
    CHECK_EQ(pnx_snapshot_wait(snapshot, 0, 0), 0); /* newer already */
    CHECK_EQ(pnx_snapshot_wait(snapshot, 1, 0), -ETIMEDOUT);
    pnx_ns before = pnx_now();
    CHECK_EQ(pnx_snapshot_wait(snapshot, 1, 20 * PNX_MS), -ETIMEDOUT);
    CHECK(pnx_now() - before >= 20 * PNX_MS);
    CHECK_EQ(pnx_snapshot_wait(snapshot, 1, -1), -EINVAL);
    struct pnx_snapshot_stats stats = stats_of(snapshot);
    CHECK_EQ(stats.waits, 1);
    CHECK_EQ(stats.waiters, 0);
    pnx_snapshot_release(&snapshot);
    test_env_check_empty(&te);
}

static void close_thread(unsigned index, void *ctx) {
    struct pnx_snapshot *snapshot = ctx;
    if (index == 0) {
        while (stats_of(snapshot).waiters < 2)
            sched_yield(); /* until both sleep */
        pnx_snapshot_close(snapshot);
    } else {
        CHECK_EQ(pnx_snapshot_wait(snapshot, 1, PNX_NEVER), -ESHUTDOWN);
    }
}

TEST(p5_close_wakes_the_waiters_and_refuses_writers) {
    struct pnx_error err = {0};
    use_env();
    struct pnx_snapshot *snapshot = make_snapshot(1);
    test_threads(3, close_thread, snapshot);
    struct value *value = make(2);
    CHECK_EQ(pnx_snapshot_store(snapshot, value, &err, NULL), -ESHUTDOWN);
    CHECK_STR(err.message, "test: closed");
    CHECK_EQ(pnx_snapshot_update(snapshot, set_next, NULL, NULL, NULL), -ESHUTDOWN);
    CHECK_EQ(pnx_snapshot_wait(snapshot, 0, 0), 0); /* a version not seen yet is still told */
    CHECK_EQ(load(snapshot), 1);
    pnx_snapshot_close(snapshot);
    pnx_snapshot_close(NULL);
    value_release(&value);
    pnx_snapshot_release(&snapshot);
    test_env_check_empty(&te);
}

/* ---- life ---- */

TEST(each_bad_argument_is_refused_by_name) {
    struct pnx_error err;
    struct pnx_snapshot *snapshot = NULL;
    use_env();
    struct value *value = make(1);
    CHECK_EQ(pnx_snapshot_create(NULL, NULL, &err, &snapshot), -EINVAL);
    CHECK_STR(err.field, "initial");
    CHECK_EQ(pnx_snapshot_create(value, NULL, &err, NULL), -EINVAL);
    CHECK_EQ(pnx_snapshot_create(value, &(struct pnx_snapshot_opts){0}, &err, &snapshot), -EINVAL);
    CHECK_STR(err.field, "size");
    CHECK_EQ(pnx_snapshot_create(value, PNX_SNAPSHOT_OPTS(.write_timeout_ns = -4), &err, &snapshot),
            -EINVAL);
    CHECK_STR(err.field, "write_timeout_ns");
    struct pnx_env half = te.env;
    half.free = NULL;
    CHECK_EQ(pnx_snapshot_create(value, PNX_SNAPSHOT_OPTS(.env = &half), &err, &snapshot), -EINVAL);
    snapshot = make_snapshot(1);
    CHECK_EQ(pnx_snapshot_store(NULL, value, &err, NULL), -EINVAL);
    CHECK_STR(err.field, "snapshot");
    CHECK_EQ(pnx_snapshot_store(snapshot, NULL, &err, NULL), -EINVAL);
    CHECK_STR(err.field, "value");
    CHECK_EQ(pnx_snapshot_store_if(snapshot, 1, NULL, &err, NULL), -EINVAL);
    CHECK_EQ(pnx_snapshot_update(snapshot, NULL, NULL, &err, NULL), -EINVAL);
    CHECK_STR(err.field, "edit");
    uint64_t version = 77;
    CHECK(pnx_snapshot_load(NULL, &version) == NULL);
    CHECK_EQ(version, 77);
    CHECK_EQ(pnx_snapshot_version(NULL), 0);
    CHECK_EQ(pnx_snapshot_wait(NULL, 0, 0), -EINVAL);
    CHECK_EQ(pnx_snapshot_read_stats(NULL, NULL), -EINVAL);
    CHECK_EQ(pnx_snapshot_read_stats(snapshot, NULL), -EINVAL);
    CHECK_EQ(pnx_snapshot_read_stats(snapshot, &(struct pnx_snapshot_stats){.size = 4}), -EINVAL);
    CHECK_EQ(pnx_snapshot_version(snapshot), 1);
    pnx_snapshot_release(&snapshot);
    pnx_snapshot_release(&snapshot);
    pnx_snapshot_release(NULL);
    CHECK(pnx_snapshot_ref(NULL) == NULL);
    value_release(&value);
    test_env_check_empty(&te);
}

TEST(a_longer_option_struct_is_refused_only_for_its_tail) {
    struct {
        struct pnx_snapshot_opts opts;
        uint64_t newer;
    } longer = {.opts = {.size = sizeof(longer)}};
    struct pnx_snapshot *snapshot = NULL;
    use_env();
    struct value *value = make(1);
    longer.newer = 1;
    CHECK_EQ(pnx_snapshot_create(value, &longer.opts, NULL, &snapshot), -E2BIG);
    longer.newer = 0;
    CHECK_EQ(pnx_snapshot_create(value, &longer.opts, NULL, &snapshot), 0);
    pnx_snapshot_release(&snapshot);
    value_release(&value);
    test_env_check_empty(&te);
}

TEST(references_keep_the_cell) {
    use_env();
    struct pnx_snapshot *snapshot = make_snapshot(5);
    struct pnx_snapshot *other = pnx_snapshot_ref(snapshot);
    pnx_snapshot_release(&snapshot);
    store(other, 6);
    CHECK_EQ(load(other), 6);
    pnx_snapshot_release(&other);
    test_env_check_empty(&te);
}

static int find_row(void *ctx, const struct pnx_resource_info *info) {
    struct pnx_resource_info *found = ctx;
    *found = *info;
    return 0;
}

TEST(a_cell_has_a_row_and_shutdown_closes_it) {
    struct pnx_registry *registry = NULL;
    struct pnx_resource_info info = {0};
    struct pnx_snapshot *snapshot = NULL;
    use_env();
    struct value *value = make(1);
    CHECK_EQ(pnx_registry_create(PNX_REGISTRY_OPTS(.env = &te.env), NULL, &registry), 0);
    CHECK_EQ(pnx_snapshot_create(value,
                     PNX_SNAPSHOT_OPTS(.name = "prices", .registry = registry, .env = &te.env),
                     NULL, &snapshot),
            0);
    CHECK_EQ(pnx_registry_each(registry, find_row, &info), 0);
    CHECK_STR(info.type, "snapshot");
    CHECK_STR(info.name, "prices");
    CHECK_CONTAINS(info.site, "test_snapshot.c:");
    CHECK(info.bytes > sizeof(struct value));
    CHECK_EQ(pnx_registry_cleanup(registry, info.id), 0); /* as a shutdown would */
    CHECK_EQ(pnx_snapshot_store(snapshot, value, NULL, NULL), -ESHUTDOWN);
    CHECK_EQ(load(snapshot), 1);
    pnx_snapshot_release(&snapshot);
    CHECK_EQ(pnx_registry_count(registry), 0);
    pnx_registry_release(&registry);
    value_release(&value);
    test_env_check_empty(&te);
}

TEST(release_strikes_the_row) {
    struct pnx_registry *registry = NULL;
    struct pnx_snapshot *snapshot = NULL;
    use_env();
    struct value *value = make(1);
    CHECK_EQ(pnx_registry_create(NULL, NULL, &registry), 0);
    CHECK_EQ(pnx_snapshot_create(value, PNX_SNAPSHOT_OPTS(.registry = registry, .env = &te.env),
                     NULL, &snapshot),
            0);
    value_release(&value);
    CHECK_EQ(pnx_registry_count(registry), 1);
    pnx_snapshot_release(&snapshot);
    CHECK_EQ(pnx_registry_count(registry), 0);
    pnx_registry_release(&registry);
    test_env_check_empty(&te);
}

static int find_text(void *ctx, const char *text, size_t n) {
    char *all = ctx;
    strncat(all, text, n);
    return 0;
}

TEST(a_cell_shows_in_the_statistics) {
    static char text[1 << 20];
    struct pnx_stats *set = NULL;
    struct pnx_snapshot *snapshot = NULL;
    use_env();
    struct value *value = make(1);
    CHECK_EQ(pnx_stats_create(NULL, NULL, &set), 0);
    CHECK_EQ(pnx_snapshot_create(value,
                     PNX_SNAPSHOT_OPTS(.name = "prices", .stats = set,
                             .registry = pnx_registry_off(), .env = &te.env),
                     NULL, &snapshot),
            0);
    CHECK_EQ(pnx_snapshot_store(snapshot, value, NULL, NULL), 0);
    CHECK_EQ(pnx_stats_openmetrics(set, find_text, text), 0);
    CHECK_CONTAINS(text, "patinox_snapshot_version{snapshot=\"prices\",number=\"0\"} 2");
    CHECK_CONTAINS(text, "patinox_snapshot_stores_total{snapshot=\"prices\",number=\"0\"} 1");
    pnx_snapshot_release(&snapshot);
    value_release(&value);
    pnx_stats_release(&set);
    test_env_check_empty(&te);
}

static int everything(struct test_env *env, void *ctx) {
    struct pnx_snapshot *snapshot = NULL;
    struct value *value = NULL;
    (void)ctx;
    value_type.env = &env->env;
    int rc = value_new(&(struct value){{0}}, &value);
    if (rc)
        return rc;
    rc = pnx_snapshot_create(value,
            PNX_SNAPSHOT_OPTS(.name = "oom", .env = &env->env, .registry = pnx_registry_off()),
            NULL, &snapshot);
    if (rc == 0)
        rc = pnx_snapshot_store(snapshot, value, NULL, NULL);
    if (rc == 0)
        rc = pnx_snapshot_update(snapshot, set_next, NULL, NULL, NULL);
    pnx_snapshot_release(&snapshot);
    value_release(&value);
    return rc;
}

TEST(each_allocation_may_fail) {
    use_env();
    test_fail_each_allocation(&te, everything, NULL);
}

/* ---- fork ---- */

static int fork_inside(void *ctx, void *object);

/* Not by exit: leak checkers do not know what the threads held that exist only in the parent. */
static void end_child(void) {
    raise(SIGKILL);
}

static void write_in_child(void *ctx) {
    (void)ctx;
    store(inner, 50); /* the writer exists only in the parent: nobody to wait for */
    CHECK_EQ(load(inner), 50);
    end_child();
}

static struct slow fork_case;

static void fork_thread(unsigned index, void *ctx) {
    (void)ctx;
    if (index == 0) {
        CHECK_EQ(pnx_snapshot_update(inner, slow_edit, &fork_case, NULL, NULL), 0);
        return;
    }
    pthread_barrier_wait(&fork_case.begun);
    CHECK_EQ(test_child(write_in_child, NULL), -SIGKILL);
    pthread_barrier_wait(&fork_case.may_end);
}

TEST(a_child_does_not_wait_for_a_writer_of_its_parent) {
    use_env();
    pthread_barrier_init(&fork_case.begun, NULL, 2);
    pthread_barrier_init(&fork_case.may_end, NULL, 2);
    inner = make_snapshot(1);
    test_threads(2, fork_thread, NULL);
    CHECK_EQ(load(inner), 2);
    pnx_snapshot_release(&inner);
}

static void still_writer(void *ctx) {
    (void)ctx;
    struct value *value = make(3);
    CHECK_EQ(pnx_snapshot_store(inner, value, NULL, NULL), -EDEADLK);
    end_child();
}

static int fork_inside(void *ctx, void *object) {
    (void)ctx;
    CHECK_EQ(test_child(still_writer, NULL), -SIGKILL);
    return set_next(NULL, object);
}

TEST(a_child_forked_inside_edit_is_still_the_writer) {
    use_env();
    inner = make_snapshot(1);
    CHECK_EQ(pnx_snapshot_update(inner, fork_inside, NULL, NULL, NULL), 0);
    CHECK_EQ(load(inner), 2);
    pnx_snapshot_release(&inner);
}

/* ---- a clock of its own ---- */

static void virtual_waiter(unsigned index, void *ctx) {
    struct pnx_snapshot *snapshot = ctx;
    if (index == 0) {
        CHECK_EQ(pnx_snapshot_wait(snapshot, 1, PNX_MS), -ETIMEDOUT);
        return;
    }
    while (stats_of(snapshot).waiters < 1)
        sched_yield();
    test_env_advance(
            &te, PNX_MS); /* only now is it over, however long the system's clock says it took */
}

TEST(p5_the_deadline_is_on_the_envs_clock) {
    use_env();
    test_env_virtual(&te, 1000 * PNX_SEC);
    struct pnx_snapshot *snapshot = make_snapshot(1);
    test_threads(2, virtual_waiter, snapshot);
    pnx_snapshot_release(&snapshot);
}

TEST(a_load_and_its_release_allocate_nothing) {
    use_env();
    struct pnx_snapshot *snapshot = make_snapshot(1);
    int64_t before = __atomic_load_n(&te.allocations, __ATOMIC_RELAXED);
    for (int i = 0; i < 1000; i++) {
        const struct value *value = pnx_snapshot_load(snapshot, NULL);
        CHECK_EQ(number_of(value), 1);
        pnx_rc_unref(value);
    }
    CHECK_EQ(__atomic_load_n(&te.allocations, __ATOMIC_RELAXED), before);
    pnx_snapshot_release(&snapshot);
    test_env_check_empty(&te);
}
