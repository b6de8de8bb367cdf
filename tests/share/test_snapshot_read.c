/* SPDX-License-Identifier: Apache-2.0 */
/* snapshot: the ways to read of patinox/snapshot.h (P1), when old values go (P6), the history (P7), events. */
#include "share/snapshot_case.h"

#include <patinox/watch.h>

/* ---- P6: peek, readers, and when old values go ---- */

TEST(p1_all_ways_to_read_give_the_same) {
    uint64_t version;
    use_env();
    struct pnx_snapshot *snapshot = make_snapshot(1);
    PNX_AUTO_SNAPSHOT_READER reader;
    pnx_snapshot_reader_init(&reader, snapshot);
    CHECK_EQ(pnx_snapshot_reader_version(&reader), 0);
    for (uint64_t i = 1; i < 300; i++) {
        CHECK_EQ(pnx_snapshot_version(snapshot), i);
        pnx_reclaim_enter(NULL);
        CHECK_EQ(number_of(pnx_snapshot_peek(snapshot, &version)), i);
        CHECK_EQ(version, i);
        CHECK_EQ(number_of(pnx_snapshot_peek(snapshot, NULL)), i);
        pnx_reclaim_exit(NULL);
        for (int k = 0; k < 2; k++) {
            CHECK_EQ(number_of(pnx_snapshot_reader_get(&reader)), i);
            CHECK_EQ(pnx_snapshot_reader_version(&reader), i);
        }
        store(snapshot, i + 1);
    }
    pnx_snapshot_reader_release(&reader);
    pnx_snapshot_release(&snapshot);
    test_env_check_empty(&te);
}

TEST(p6_a_reader_keeps_one_old_value_and_a_parked_one_none) {
    use_env();
    struct pnx_snapshot *snapshot = make_snapshot(1);
    struct pnx_snapshot_reader reader, none;
    pnx_snapshot_reader_init(&reader, snapshot);
    const struct value *first = pnx_snapshot_reader_get(&reader);
    CHECK(!pnx_snapshot_reader_sweep(&reader)); /* is the current one */
    for (uint64_t i = 2; i < 10; i++)
        store(snapshot, i);
    CHECK_EQ(pnx_reclaim_barrier(NULL, PNX_SEC), 0);
    CHECK_EQ(drops, 7);
    CHECK_EQ(number_of(first), 1);
    CHECK(pnx_snapshot_reader_sweep(&reader));
    CHECK_EQ(drops, 8);
    CHECK(!pnx_snapshot_reader_sweep(&reader)); /* parked */
    CHECK_EQ(number_of(pnx_snapshot_reader_get(&reader)), 9);
    store(snapshot, 10);
    pnx_snapshot_reader_park(&reader);
    pnx_snapshot_reader_park(&reader);
    CHECK_EQ(pnx_reclaim_barrier(NULL, PNX_SEC), 0);
    CHECK_EQ(drops, 9);
    CHECK_EQ(pnx_snapshot_reader_version(&reader), 0);
    pnx_snapshot_reader_init(&none, NULL);
    CHECK(pnx_snapshot_reader_get(&none) == NULL);
    pnx_snapshot_reader_release(&none);
    pnx_snapshot_release(&snapshot); /* the reader keeps the cell */
    CHECK_EQ(number_of(pnx_snapshot_reader_get(&reader)), 10);
    pnx_snapshot_reader_release(&reader);
    CHECK(pnx_snapshot_reader_get(&reader) == NULL);
    pnx_snapshot_reader_release(&reader);
    pnx_snapshot_reader_release(NULL);
    pnx_snapshot_reader_park(NULL);
    CHECK(!pnx_snapshot_reader_sweep(NULL));
    CHECK_EQ(drops, 10);
    test_env_check_empty(&te);
}

TEST(p6_a_section_keeps_what_it_borrowed) {
    use_env();
    struct pnx_snapshot *snapshot = make_snapshot(1);
    pnx_reclaim_enter(NULL);
    const struct value *borrowed = pnx_snapshot_peek(snapshot, NULL);
    for (uint64_t i = 2; i < 500; i++)
        store(snapshot, i);
    CHECK_EQ(drops, 0);
    pnx_snapshot_release(&snapshot); /* even the end of the cell leaves it */
    CHECK_EQ(drops, 0);
    CHECK_EQ(number_of(borrowed), 1);
    pnx_reclaim_exit(NULL);
    CHECK_EQ(pnx_reclaim_barrier(NULL, PNX_SEC), 0);
    CHECK_EQ(drops, 499);
    test_env_check_empty(&te);
}

TEST(p6_a_write_that_comes_alone_lets_the_old_value_go_at_once) {
    use_env();
    test_env_virtual(&te, 1000 * PNX_SEC);
    struct pnx_snapshot *snapshot = make_snapshot(1);
    for (int i = 1; i < 10; i++) {
        test_env_advance(&te, PNX_SEC);
        store(snapshot, (uint64_t)i + 1);
        CHECK_EQ(drops, i);
    }
    for (int i = 10; i < 500; i++)
        store(snapshot, (uint64_t)i + 1);
    CHECK(drops >= 499 - 128 && drops < 499); /* of many in a row, some wait */
    test_env_advance(&te, PNX_SEC);
    pnx_snapshot_release(&snapshot);
    CHECK_EQ(drops, 500);
    test_env_check_empty(&te);
}

TEST(p6_a_domain_of_its_own_is_apart) {
    struct pnx_reclaim *domain = NULL;
    struct pnx_snapshot *snapshot = NULL;
    use_env();
    struct value *value = make(1);
    CHECK_EQ(
            pnx_reclaim_create(PNX_RECLAIM_OPTS(.flags = PNX_RECLAIM_NO_ASSIST), NULL, &domain), 0);
    CHECK_EQ(pnx_snapshot_create(
                     value, PNX_SNAPSHOT_OPTS(.reclaim = domain, .env = &te.env), NULL, &snapshot),
            0);
    value_release(&value);
    pnx_reclaim_enter(NULL); /* keeps nothing of this domain */
    for (uint64_t i = 2; i <= 100; i++)
        store(snapshot, i);
    pnx_reclaim_exit(NULL);
    CHECK_EQ(load(snapshot), 100);
    CHECK_EQ(drops, 0); /* writes run nothing in it */
    CHECK_EQ(pnx_reclaim_barrier(domain, PNX_SEC), 0);
    CHECK_EQ(drops, 99);
    pnx_snapshot_release(&snapshot);
    pnx_reclaim_release(&domain);
    CHECK_EQ(drops, 100);
    test_env_check_empty(&te);
}

TEST(a_write_allocates_no_node_when_old_ones_come_back) {
    use_env();
    struct pnx_snapshot *snapshot = make_snapshot(1);
    struct value *value = make(2);
    for (int i = 0; i < 1000; i++)
        CHECK_EQ(pnx_snapshot_store(snapshot, value, NULL, NULL), 0);
    int64_t before = __atomic_load_n(&te.allocations, __ATOMIC_RELAXED);
    for (int i = 0; i < 1000; i++)
        CHECK_EQ(pnx_snapshot_store(snapshot, value, NULL, NULL), 0);
    CHECK_EQ(__atomic_load_n(&te.allocations, __ATOMIC_RELAXED), before);
    value_release(&value);
    pnx_snapshot_release(&snapshot);
    test_env_check_empty(&te);
}

TEST(give_takes_the_callers_reference_over) {
    struct pnx_error err;
    uint64_t version;
    use_env();
    struct pnx_snapshot *snapshot = make_snapshot_with(2, refuse_odd, 0);
    void *given = make(4);
    const void *kept = given;
    CHECK_EQ(pnx_snapshot_give(snapshot, &given, NULL, &version), 0);
    CHECK(given == NULL);
    CHECK_EQ(version, 2);
    CHECK_EQ(pnx_rc_count(kept), 1);
    given = make(5);
    kept = given;
    CHECK_EQ(pnx_snapshot_give(snapshot, &given, &err, NULL), -ERANGE);
    CHECK(given == kept); /* still the caller's */
    CHECK_EQ(pnx_rc_count(given), 1);
    pnx_rc_unref(given);
    given = NULL;
    CHECK_EQ(pnx_snapshot_give(snapshot, &given, &err, NULL), -EINVAL);
    CHECK_STR(err.field, "value");
    CHECK_EQ(pnx_snapshot_give(snapshot, NULL, &err, NULL), -EINVAL);
    CHECK_EQ(pnx_snapshot_give(NULL, &given, &err, NULL), -EINVAL);
    CHECK_STR(err.field, "snapshot");
    pnx_snapshot_release(&snapshot);
    test_env_check_empty(&te);
}

struct read_race {
    struct pnx_snapshot *snapshot;
    uint64_t rounds;
    unsigned writers_left;
};

/* Mixes the three ways, and never sees a version go back. */
static void read_race_thread(unsigned index, void *ctx) {
    struct read_race *race = ctx;
    if (index < 2) {
        for (uint64_t i = 0; i < race->rounds; i++)
            CHECK_EQ(pnx_snapshot_update(race->snapshot, set_next, NULL, NULL, NULL), 0);
        __atomic_sub_fetch(&race->writers_left, 1, __ATOMIC_RELEASE);
        return;
    }
    struct pnx_snapshot_reader reader;
    uint64_t last = 0, version, state = index;
    pnx_snapshot_reader_init(&reader, race->snapshot);
    while (__atomic_load_n(&race->writers_left, __ATOMIC_ACQUIRE) > 0) {
        uint64_t dice = test_random(&state) % 8;
        if (dice == 0) {
            const void *value = pnx_snapshot_load(race->snapshot, &version);
            CHECK_EQ(number_of(value), version);
            pnx_rc_unref(value);
        } else if (dice < 3) {
            pnx_reclaim_enter(NULL);
            CHECK_EQ(number_of(pnx_snapshot_peek(race->snapshot, &version)), version);
            pnx_reclaim_exit(NULL);
        } else if (dice == 3) {
            pnx_snapshot_reader_sweep(&reader);
            version = pnx_snapshot_version(race->snapshot);
        } else {
            uint64_t number = number_of(pnx_snapshot_reader_get(&reader));
            version = pnx_snapshot_reader_version(&reader);
            CHECK_EQ(number, version);
        }
        CHECK(version >= last);
        last = version;
    }
    pnx_snapshot_reader_release(&reader);
}

TEST_LIMIT(p1_the_three_ways_to_read_mixed_beside_writers, 120) {
    use_env();
    struct read_race race = {make_snapshot(1), test_slow() ? 1000 : 20000, 2};
    test_threads(5, read_race_thread, &race);
    CHECK_EQ(load(race.snapshot), 1 + 2 * race.rounds);
    pnx_snapshot_release(&race.snapshot);
    test_env_check_empty(&te);
}

/* ---- P7: history ---- */

static struct pnx_snapshot *make_with_history(uint32_t depth, pnx_snapshot_validate_fn *validate) {
    struct pnx_snapshot *snapshot = NULL;
    struct value *value = make(0);
    CHECK_EQ(pnx_snapshot_create(value,
                     PNX_SNAPSHOT_OPTS(.name = "test", .env = &te.env,
                             .registry = pnx_registry_off(), .stats = pnx_stats_off(),
                             .validate = validate, .history_depth = depth),
                     NULL, &snapshot),
            0);
    value_release(&value);
    return snapshot;
}

TEST(p7_the_history_keeps_the_newest_versions) {
    struct pnx_snapshot_past past[4] = {{0}};
    size_t n = 77;
    const void *value = NULL;
    use_env();
    struct pnx_snapshot *snapshot = make_with_history(3, NULL);
    CHECK_EQ(pnx_snapshot_history(snapshot, past, 4, &n), 0);
    CHECK_EQ(n, 0);
    for (uint64_t i = 2; i <= 10; i++)
        store(snapshot, i);
    CHECK_EQ(pnx_snapshot_history(snapshot, past, 4, &n), 0);
    CHECK_EQ(n, 3);
    for (uint64_t i = 0; i < 3; i++) {
        CHECK_EQ(past[i].version, 9 - i);
        CHECK_EQ(past[i].restores, 0);
        CHECK(past[i].real_ns > 0);
        CHECK_EQ(pnx_snapshot_load_past(snapshot, 9 - i, &value), 0);
        CHECK_EQ(number_of(value), 9 - i);
        pnx_rc_unref(value);
    }
    CHECK_EQ(pnx_snapshot_load_past(snapshot, 10, &value), 0); /* the current one, too */
    CHECK_EQ(number_of(value), 10);
    PNX_RC_CLEAR(value);
    CHECK_EQ(pnx_snapshot_load_past(snapshot, 6, &value), -ENOENT);
    CHECK_EQ(pnx_snapshot_load_past(snapshot, 11, &value), -ENOENT);
    CHECK(value == NULL);
    past[1].version = 77;
    CHECK_EQ(pnx_snapshot_history(snapshot, past, 1, &n), 0);
    CHECK_EQ(n, 3);
    CHECK_EQ(past[1].version, 77);
    CHECK_EQ(pnx_snapshot_history(snapshot, NULL, 0, &n), 0);
    CHECK_EQ(pnx_snapshot_history(snapshot, NULL, 1, &n), -EINVAL);
    CHECK_EQ(pnx_snapshot_history(NULL, past, 1, &n), -EINVAL);
    CHECK_EQ(pnx_snapshot_load_past(snapshot, 9, NULL), -EINVAL);
    CHECK_EQ(pnx_reclaim_barrier(NULL, PNX_SEC), 0);
    CHECK_EQ(drops, 6);
    pnx_snapshot_release(&snapshot);
    CHECK_EQ(drops, 10);
    test_env_check_empty(&te);
}

TEST(p7_rollback_publishes_an_older_value_as_a_new_version) {
    struct pnx_snapshot_past past[4];
    struct pnx_error err;
    uint64_t version = 77;
    size_t n;
    use_env();
    struct pnx_snapshot *snapshot = make_with_history(3, NULL);
    store(snapshot, 2);
    store(snapshot, 3);
    CHECK_EQ(pnx_snapshot_rollback(snapshot, 2, &err, &version), 0);
    CHECK_EQ(version, 4);
    CHECK_EQ(load(snapshot), 2);
    CHECK_EQ(pnx_snapshot_rollback(snapshot, 4, &err, &version), -EALREADY);
    CHECK_STR(err.message, "test: version 4 is the current one");
    CHECK_EQ(pnx_snapshot_rollback(snapshot, 99, &err, &version), -ENOENT);
    CHECK_STR(err.message, "test: the history does not keep version 99");
    CHECK_EQ(version, 4);
    CHECK_EQ(pnx_snapshot_rollback(snapshot, 3, NULL, NULL), 0); /* and forth again */
    CHECK_EQ(load(snapshot), 3);
    CHECK_EQ(pnx_snapshot_history(snapshot, past, 4, &n), 0);
    CHECK_EQ(past[0].version, 4);
    CHECK_EQ(past[0].restores, 2);
    CHECK_EQ(stats_of(snapshot).rollbacks, 2);
    CHECK_EQ(stats_of(snapshot).version, 5);
    CHECK_EQ(pnx_snapshot_rollback(NULL, 1, &err, NULL), -EINVAL);
    pnx_snapshot_release(&snapshot);
    snapshot = make_snapshot(1); /* without a history */
    store(snapshot, 2);
    CHECK_EQ(pnx_snapshot_rollback(snapshot, 1, &err, NULL), -ENOENT);
    pnx_snapshot_release(&snapshot);
    test_env_check_empty(&te);
}

static bool refuse_all;

static int refuse_if_told(void *ctx, const void *next, const void *current, struct pnx_error *err) {
    (void)ctx, (void)next, (void)current, (void)err;
    return refuse_all ? -EPERM : 0;
}

TEST(p7_validate_decides_about_a_rollback_too) {
    struct pnx_error err;
    use_env();
    struct pnx_snapshot *snapshot = make_with_history(1, refuse_if_told);
    store(snapshot, 2);
    refuse_all = true;
    CHECK_EQ(pnx_snapshot_rollback(snapshot, 1, &err, NULL), -EPERM);
    CHECK_STR(err.phase, "validate");
    CHECK_EQ(load(snapshot), 2);
    pnx_snapshot_close(snapshot);
    CHECK_EQ(pnx_snapshot_rollback(snapshot, 1, &err, NULL), -ESHUTDOWN);
    pnx_snapshot_release(&snapshot);
    test_env_check_empty(&te);
}

/* ---- events ---- */

static struct pnx_event heard[8];
static unsigned n_heard;

static void hear(void *ctx, const struct pnx_event *event) {
    (void)ctx;
    if (n_heard < 8)
        heard[n_heard++] = *event;
}

TEST(what_is_refused_and_what_goes_back_is_told) {
    struct pnx_stats *set = NULL;
    struct pnx_snapshot *snapshot = NULL;
    uint32_t id;
    use_env();
    struct value *value = make(2), *odd = make(3);
    CHECK_EQ(pnx_stats_create(NULL, NULL, &set), 0);
    CHECK_EQ(pnx_monitor_add(set,
                     &(struct pnx_monitor){.size = sizeof(struct pnx_monitor), .event = hear}, &id),
            0);
    CHECK_EQ(pnx_snapshot_create(value,
                     PNX_SNAPSHOT_OPTS(.name = "told", .stats = set, .env = &te.env,
                             .registry = pnx_registry_off(), .validate = refuse_odd,
                             .history_depth = 1),
                     NULL, &snapshot),
            0);
    CHECK_EQ(pnx_snapshot_store(snapshot, odd, NULL, NULL), -ERANGE);
    CHECK_EQ(pnx_snapshot_store(snapshot, value, NULL, NULL), 0);
    CHECK_EQ(pnx_snapshot_rollback(snapshot, 1, NULL, NULL), 0);
    CHECK_EQ(n_heard, 2);
    CHECK_EQ(heard[0].type, PNX_EVENT_SNAPSHOT_REFUSED);
    CHECK_EQ(heard[0].code, -ERANGE);
    CHECK_EQ(heard[0].value, 1);
    CHECK_EQ(heard[1].type, PNX_EVENT_SNAPSHOT_ROLLED_BACK);
    CHECK_EQ(heard[1].value, 1);
    CHECK_EQ(pnx_monitor_remove(set, id), 0);
    pnx_snapshot_release(&snapshot);
    pnx_stats_release(&set);
    value_release(&value);
    value_release(&odd);
    test_env_check_empty(&te);
}

/* What programs are compiled with; changing it breaks them. */
TEST(layout_of_what_is_inlined) {
    CHECK_EQ(sizeof(struct pnx_snapshot_reader), 4 * sizeof(void *));
    CHECK_EQ(sizeof(struct pnx_snapshot_head_), sizeof(void *));
    CHECK_EQ(offsetof(struct pnx_snapshot_node_, value), 0);
    CHECK_EQ(offsetof(struct pnx_snapshot_node_, version), 8);
    CHECK_EQ(sizeof(struct pnx_snapshot_past), 24);
}

/* ---- a thread that ends as the writer ---- */

static int exit_in_edit(void *ctx, void *object) {
    (void)ctx;
    (void)object;
    pthread_exit(NULL);
}

static void *exit_thread(void *arg) {
    (void)!pnx_snapshot_update(arg, exit_in_edit, NULL, NULL, NULL);
    return NULL;
}

TEST(p4_a_thread_that_ends_inside_edit_does_not_stay_the_writer) {
    pthread_t thread;
    use_env();
    struct pnx_snapshot *snapshot = make_snapshot_with(1, NULL, 50 * PNX_MS);
    CHECK_EQ(pthread_create(&thread, NULL, exit_thread, snapshot), 0);
    pthread_join(thread, NULL);
    store(snapshot, 2);
    CHECK_EQ(load(snapshot), 2);
    pnx_snapshot_release(&snapshot);
    test_env_check_empty(&te);
}

static bool validate_ends_thread;

static int exit_in_validate(
        void *ctx, const void *next, const void *current, struct pnx_error *err) {
    (void)ctx, (void)next, (void)current, (void)err;
    if (validate_ends_thread)
        pthread_exit(NULL);
    return 0;
}

static struct value *offered;

static void *exit_in_store(void *arg) {
    (void)pnx_snapshot_store(arg, offered, NULL, NULL);
    return NULL;
}

static void *exit_in_update(void *arg) {
    (void)!pnx_snapshot_update(arg, set_next, NULL, NULL, NULL);
    return NULL;
}

TEST(p4_a_thread_that_ends_inside_validate_leaves_nothing_behind) {
    void *(*const threads[])(void *) = {exit_in_store, exit_in_update};
    use_env();
    struct pnx_snapshot *snapshot = make_snapshot_with(1, exit_in_validate, 50 * PNX_MS);
    offered = make(3);
    validate_ends_thread = true;
    for (int i = 0; i < 2; i++) {
        pthread_t thread;
        CHECK_EQ(pthread_create(&thread, NULL, threads[i], snapshot), 0);
        pthread_join(thread, NULL);
    }
    validate_ends_thread = false;
    CHECK_EQ(pnx_rc_count(offered), 1);
    value_release(&offered);
    store(snapshot, 2);
    CHECK_EQ(pnx_snapshot_version(snapshot), 2);
    pnx_snapshot_release(&snapshot);
    test_env_check_empty(&te);
}

/* ---- debug builds ---- */

#ifdef PNX_DEBUG
static void load_anything(void *ctx) {
    pnx_rc_unref(pnx_snapshot_load(ctx, NULL));
}
static void store_anywhere(void *ctx) {
    (void)pnx_snapshot_store(ctx, ctx, NULL, NULL);
}
static void wait_anywhere(void *ctx) {
    (void)!pnx_snapshot_wait(ctx, 0, 0);
}
static void watch_anything(void *ctx) {
    struct pnx_watch *watch = NULL;
    (void)!pnx_watch_open(ctx, NULL, NULL, &watch);
}
static void peek(void *ctx) {
    (void)!pnx_snapshot_peek(ctx, NULL);
}
#endif

TEST(debug_builds_name_what_is_no_cell_and_a_peek_outside_a_section) {
#ifdef PNX_DEBUG
    static const struct {
        void (*fn)(void *);
        const char *says;
    } cases[] = {
            {load_anything, "patinox: pnx_snapshot_load: "},
            {store_anywhere, "patinox: pnx_snapshot_store: "},
            {wait_anywhere, "patinox: pnx_snapshot_wait: "},
            {watch_anything, "patinox: pnx_watch_open: "},
            {peek, "patinox: pnx_snapshot_peek: "},
    };
    static _Alignas(64) unsigned char none[2048];
    use_env();
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        const char *said = test_abort(cases[i].fn, none);
        CHECK_CONTAINS(said, cases[i].says);
        CHECK_CONTAINS(said, "is no snapshot, or not any more\n");
    }
    char line[100];
    snprintf(line, sizeof(line), "patinox: pnx_snapshot_peek: %p is no snapshot", (void *)NULL);
    CHECK_CONTAINS(test_abort(peek, NULL), line);
    struct pnx_snapshot *snapshot = make_snapshot(1);
    CHECK_CONTAINS(test_abort(peek, snapshot),
            "patinox: pnx_snapshot_peek: outside a section of the domain of \"test\"\n");
    pnx_snapshot_release(&snapshot);
#else
    test_skip("only debug builds look");
#endif
}
