/* SPDX-License-Identifier: Apache-2.0 */
/* test_fixed_file.c - P19 where sizes are fixed: snapshots on disk, there and back, and what is refused. */
#include "cache/fixed_bytes.h"

#include "cache/file.h"

#include <patinox/reclaim.h>

#include <pthread.h>
#include <sys/stat.h>
#include <unistd.h>

/* A wall clock of the test's. */
static int64_t wall = 1000 * PNX_SEC;
static int64_t wall_clock(void *ctx) {
    (void)ctx;
    return wall;
}

static void open_sized(struct fixture *f, uint32_t key_size, uint32_t value_size,
        const struct pnx_cache_opts *opts) {
    fixture_worlds(f);
    f->te.env.real_ns = wall_clock;
    struct pnx_cache_opts full = fixture_opts(f, opts);
    full.key_bytes = key_size;
    full.value_bytes = value_size;
    CHECK_EQ(pnx_cache_create(&full, &f->err, &f->cache), 0);
}

static struct pnx_cache_file_report report;

static int save(struct fixture *f, const char *path) {
    report = (struct pnx_cache_file_report){.size = sizeof(report)};
    return pnx_cache_save(f->cache, path, NULL, &f->err, &report);
}
static int load(struct fixture *f, const char *path) {
    report = (struct pnx_cache_file_report){.size = sizeof(report)};
    return pnx_cache_load_file(f->cache, path, NULL, &f->err, &report);
}

static void put(struct fixture *f, uint64_t n, pnx_ns ttl) {
    unsigned char key[KEY_MOST], value[VALUE_MOST];
    const struct pnx_cache_shape *shape = &f->cache->shape;
    bytes_of(n, shape->key_bytes, key);
    bytes_of(n * 3, shape->value_bytes, value);
    CHECK_EQ(pnx_cache_put(f->cache, key, shape->key_bytes, value, shape->value_bytes, ttl), 0);
}

static bool has(struct fixture *f, uint64_t n) {
    unsigned char key[KEY_MOST], value[VALUE_MOST], expected[VALUE_MOST];
    const struct pnx_cache_shape *shape = &f->cache->shape;
    bytes_of(n, shape->key_bytes, key);
    bytes_of(n * 3, shape->value_bytes, expected);
    int rc = pnx_cache_get_copy(f->cache, key, shape->key_bytes, value, shape->value_bytes, NULL);
    CHECK(rc == 0 || rc == -ENOENT);
    CHECK(rc != 0 || memcmp(value, expected, shape->value_bytes) == 0);
    return rc == 0;
}

/* ---- there and back ---- */

static void there_and_back(uint32_t key_size, uint32_t value_size, uint32_t shards) {
    enum { N = 200 };
    struct fixture f, g;
    const char *path = test_path("cache");
    struct stat st;
    open_sized(&f, key_size, value_size, PNX_CACHE_OPTS(.capacity_entries = 2 * N));
    CHECK_EQ(save(&f, path), 0);
    CHECK_EQ(report.entries, 0);
    for (uint64_t i = 0; i < N; i++)
        put(&f, i, i % 2 ? 100 * PNX_SEC : 0);
    CHECK_EQ(save(&f, path), 0);
    CHECK_EQ(report.entries, N);
    CHECK_EQ(stat(path, &st), 0);
    CHECK_EQ(st.st_size, (int64_t)report.file_bytes);
    CHECK_EQ(stats_of(&f).hits + stats_of(&f).misses, 0);
    fixture_close(&f);
    open_sized(&g, key_size, value_size,
            PNX_CACHE_OPTS(.capacity_entries = 2 * N, .policy = "s3-fifo", .shards = shards));
    CHECK_EQ(load(&g, path), 0);
    CHECK_EQ(report.entries, N);
    CHECK_EQ(report.no_room + report.expired + report.left_out + report.present, 0);
    for (uint64_t i = 0; i < N; i++)
        CHECK(has(&g, i));
    CHECK_EQ(load(&g, path), 0); /* all of it is there */
    CHECK_EQ(report.entries, 0);
    CHECK_EQ(report.present, N);
    check_invariants(&g);
    fixture_close(&g);
}

TEST(p19_what_was_saved_is_loaded_as_it_was) {
    there_and_back(8, 8, 1);
    there_and_back(5, 13, 4);
    there_and_back(1, 1, 1);
    there_and_back(64, 256, 2);
}

TEST(p19_a_cache_of_entries_reads_what_one_of_fixed_sizes_has_saved_and_the_other_way) {
    struct fixture f, g;
    const char *path = test_path("cache");
    open_sized(&f, 8, 24, PNX_CACHE_OPTS(.capacity_entries = 100));
    for (uint64_t i = 0; i < 50; i++)
        put(&f, i, 0);
    CHECK_EQ(save(&f, path), 0);
    fixture_open(&g, PNX_CACHE_OPTS(.capacity_entries = 100));
    CHECK_EQ(load(&g, path), 0);
    CHECK_EQ(report.entries, 50);
    CHECK_EQ(save(&g, path), 0);
    CHECK_EQ(pnx_cache_clear(f.cache), 0);
    CHECK_EQ(load(&f, path), 0);
    CHECK_EQ(report.entries, 50);
    for (uint64_t i = 0; i < 50; i++)
        CHECK(has(&f, i));
    /* One that has another size spoils it, and nothing is loaded. */
    CHECK_EQ(pnx_cache_clear(f.cache), 0);
    CHECK_EQ(pnx_cache_put(g.cache, "12345678", 8, "short", 6, 0), 0);
    CHECK_EQ(save(&g, path), 0);
    CHECK_EQ(load(&f, path), PNX_E_FORMAT);
    CHECK_CONTAINS(f.err.message, "of other sizes");
    CHECK_EQ(stats_of(&f).entries, 0);
    fixture_close(&f);
    fixture_close(&g);
}

TEST(p19_other_sizes_are_refused_and_nothing_is_loaded) {
    struct fixture f, g;
    const char *path = test_path("cache");
    open_sized(&f, 8, 24, PNX_CACHE_OPTS(.capacity_entries = 100));
    put(&f, 1, 0);
    CHECK_EQ(save(&f, path), 0);
    for (int key = 0; key < 2; key++) {
        open_sized(&g, key ? 7 : 8, key ? 24 : 23, PNX_CACHE_OPTS(.capacity_entries = 100));
        CHECK_EQ(load(&g, path), PNX_E_FORMAT);
        CHECK_CONTAINS(g.err.message, "of other sizes");
        CHECK_EQ(stats_of(&g).entries, 0);
        fixture_close(&g);
    }
    fixture_close(&f);
}

/* ---- what is hot, and time ---- */

static void survive(const char *policy) {
    struct fixture f, g;
    const char *path = test_path("cache");
    open_sized(&f, 8, 8, PNX_CACHE_OPTS(.capacity_entries = 100, .policy = "sieve"));
    for (uint64_t i = 0; i < 100; i++)
        put(&f, i, 0);
    for (uint64_t i = 30; i < 60; i++)
        CHECK(has(&f, i));
    CHECK_EQ(save(&f, path), 0);
    fixture_close(&f);
    open_sized(&g, 8, 8, PNX_CACHE_OPTS(.capacity_entries = 30, .policy = policy));
    CHECK_EQ(load(&g, path), 0);
    CHECK_EQ(report.entries, 30);
    CHECK_EQ(report.no_room, 70);
    for (uint64_t i = 0; i < 100; i++)
        CHECK_EQ(has(&g, i), i >= 30 && i < 60);
    CHECK_EQ(stats_of(&g).removed_size, 0);
    fixture_close(&g);
}

TEST(p19_the_hottest_survive_in_a_smaller_cache_whatever_its_policy) {
    static const char *const policies[] = {"auto", "lru", "s3-fifo", "w-tinylfu"};
    for (size_t i = 0; i < sizeof(policies) / sizeof(policies[0]); i++)
        survive(policies[i]);
}

TEST(p19_hits_are_restored_so_that_what_was_hot_is_not_evicted_first) {
    struct fixture f, g;
    const char *path = test_path("cache");
    open_sized(&f, 8, 8, PNX_CACHE_OPTS(.capacity_entries = 20, .policy = "sieve"));
    for (uint64_t i = 0; i < 20; i++)
        put(&f, i, 0);
    for (uint64_t i = 0; i < 5; i++)
        CHECK(has(&f, i));
    CHECK_EQ(save(&f, path), 0);
    fixture_close(&f);
    open_sized(&g, 8, 8, PNX_CACHE_OPTS(.capacity_entries = 20, .policy = "sieve"));
    CHECK_EQ(load(&g, path), 0);
    for (uint64_t i = 100; i < 110; i++) /* ten others go */
        put(&g, i, 0);
    for (uint64_t i = 0; i < 5; i++)
        CHECK(has(&g, i));
    fixture_close(&g);
}

TEST(p19_times_to_live_go_on_by_the_wall_clock_and_never_back) {
    struct fixture f, g;
    const char *path = test_path("cache");
    open_sized(&f, 8, 8, PNX_CACHE_OPTS(.capacity_entries = 100, .policy = "sieve"));
    put(&f, 1, 10 * PNX_SEC);
    put(&f, 2, 100 * PNX_SEC);
    put(&f, 3, PNX_NEVER);
    put(&f, 4, PNX_SEC);
    test_env_advance(&f.te, 2 * PNX_SEC); /* 4 has expired */
    wall += 2 * PNX_SEC;
    CHECK_EQ(save(&f, path), 0);
    CHECK_EQ(report.entries, 3);
    CHECK_EQ(report.expired, 1);
    fixture_close(&f);
    wall += 5 * PNX_SEC;
    open_sized(&g, 8, 8, PNX_CACHE_OPTS(.capacity_entries = 100));
    CHECK_EQ(load(&g, path), 0);
    CHECK_EQ(report.entries, 3);
    test_env_advance(&g.te, 3 * PNX_SEC - 3 * TICK); /* each way rounds down */
    CHECK(has(&g, 1));
    test_env_advance(&g.te, 3 * TICK);
    CHECK(!has(&g, 1));
    CHECK(has(&g, 2));
    test_env_advance(&g.te, 90 * PNX_SEC);
    CHECK(!has(&g, 2));
    CHECK(has(&g, 3));
    fixture_close(&g);
    /* What is left is less than a time to live can be. */
    wall += 3 * PNX_SEC - TICK;
    open_sized(&g, 8, 8, PNX_CACHE_OPTS(.capacity_entries = 100));
    CHECK_EQ(load(&g, path), 0);
    CHECK_EQ(report.entries, 2);
    CHECK_EQ(report.expired, 1);
    fixture_close(&g);
    wall -= 500 * PNX_SEC; /* a clock that was set back lengthens no life */
    open_sized(&g, 8, 8, PNX_CACHE_OPTS(.capacity_entries = 100));
    CHECK_EQ(load(&g, path), 0);
    CHECK_EQ(report.entries, 3);
    test_env_advance(&g.te, 8 * PNX_SEC);
    CHECK(!has(&g, 1));
    fixture_close(&g);
}

/* ---- failures ---- */

TEST(p19_a_file_with_any_one_bit_changed_is_refused_and_changes_nothing) {
    struct fixture f;
    const char *path = test_path("cache");
    open_sized(&f, 3, 5, PNX_CACHE_OPTS(.capacity_entries = 10));
    for (uint64_t i = 0; i < 3; i++)
        put(&f, i, 0);
    CHECK_EQ(save(&f, path), 0);
    CHECK_EQ(pnx_cache_clear(f.cache), 0);
    size_t n = (size_t)report.file_bytes;
    unsigned char *bytes = malloc(n);
    FILE *file = fopen(path, "rb");
    CHECK_EQ(fread(bytes, 1, n, file), n);
    fclose(file);
    const struct pnx_cache_file_opts opts = {.size = sizeof(opts), .label = ""};
    for (size_t i = 0; i < 8 * n; i++) {
        const struct pnx_cache_input input = {
                .name = "memory", .fd = -1, .memory = bytes, .size = n};
        bytes[i / 8] ^= (unsigned char)(1 << i % 8);
        report = (struct pnx_cache_file_report){.size = sizeof(report)};
        int rc = pnx__cache_read_file(f.cache, &input, &opts, &f.err, &report);
        CHECK_MSG(rc == PNX_E_FORMAT, "bit %zu: %s", i, pnx_errname(rc));
        CHECK_EQ(stats_of(&f).entries, 0);
        bytes[i / 8] ^= (unsigned char)(1 << i % 8);
    }
    free(bytes);
    CHECK_EQ(load(&f, path), 0);
    CHECK_EQ(report.entries, 3);
    fixture_close(&f);
}

TEST(a_budget_that_refuses_ends_the_loading_and_not_the_load) {
    struct fixture f;
    const char *path = test_path("cache");
    struct pnx_budget_stats stats = {.size = sizeof(stats)};
    open_sized(&f, 8, 8, PNX_CACHE_OPTS(.capacity_entries = 5000, .policy = "sieve"));
    for (uint64_t i = 0; i < 5000; i++)
        put(&f, i, 0);
    CHECK_EQ(save(&f, path), 0);
    fixture_close(&f);
    open_sized(&f, 8, 8, PNX_CACHE_OPTS(.capacity_entries = 5000, .policy = "sieve"));
    CHECK_EQ(pnx_budget_read_stats(f.budget, &stats), 0);
    CHECK_EQ(pnx_budget_set_limits(f.budget, stats.used + 100000, stats.used + 100000), 0);
    CHECK_EQ(load(&f, path), 0);
    CHECK(report.entries > 0);
    CHECK(report.no_room > 0);
    CHECK_EQ(report.entries + report.no_room, 5000);
    CHECK_EQ(stats_of(&f).entries, report.entries); /* nothing went for what came later */
    check_invariants(&f);
    fixture_close(&f);
}

static int save_and_load(struct test_env *te, void *ctx) {
    const char *path = test_path("cache");
    struct pnx_cache *cache = NULL;
    struct pnx_error err = {0};
    struct pnx_cache_file_report done = {.size = sizeof(done)};
    (void)ctx;
    int rc = pnx_cache_create(
            PNX_CACHE_OPTS(.env = &te->env, .registry = pnx_registry_off(),
                    .stats = pnx_stats_off(), .budget = pnx_budget_off(), .capacity_entries = 400,
                    .key_bytes = 8, .value_bytes = 8, .policy = "s3-fifo"),
            &err, &cache);
    for (uint64_t i = 0; rc == 0 && i < 300; i++)
        rc = pnx_cache_put(cache, &i, 8, &i, 8, i % 2 ? 0 : 100 * PNX_SEC);
    if (rc == 0)
        rc = pnx_cache_save(cache, path, NULL, &err, NULL);
    if (rc == 0)
        rc = pnx_cache_clear(cache);
    if (rc == 0)
        rc = pnx_cache_load_file(cache, path, NULL, &err, &done);
    if (rc == 0 && done.entries < 300)
        rc = -ENOMEM; /* there was no room for all */
    if (cache)
        CHECK_EQ(pnx_cache_check(cache, NULL), 0);
    pnx_cache_release(&cache);
    CHECK_EQ(pnx_reclaim_barrier(NULL, PNX_NEVER), 0);
    return rc;
}

TEST(every_allocation_of_save_and_load_may_fail) {
    struct test_env te;
    test_env_init(&te);
    test_fail_each_allocation(&te, save_and_load, NULL);
}

TEST(a_cache_that_was_closed_is_neither_saved_nor_loaded) {
    struct fixture f;
    const char *path = test_path("cache");
    open_sized(&f, 8, 8, PNX_CACHE_OPTS(.capacity_entries = 10));
    CHECK_EQ(save(&f, path), 0);
    CHECK_EQ(pnx_cache_close(f.cache), 0);
    CHECK_EQ(save(&f, path), -ESHUTDOWN);
    CHECK_EQ(load(&f, path), -ESHUTDOWN);
    fixture_close(&f);
}

/* ---- beside writers ---- */

static struct fixture shared;

static void save_or_write(unsigned index, void *ctx) {
    uint64_t rng = shared.seed + index;
    char name[32];
    (void)ctx;
    snprintf(name, sizeof(name), "cache%u", index);
    for (int i = 0; i < (index < 2 ? 20 : 2000); i++) {
        uint64_t r = test_random(&rng);
        if (index < 2) {
            struct pnx_error err = {0};
            int rc = pnx_cache_save(shared.cache, test_path(name), NULL, &err, NULL);
            CHECK_MSG(rc == 0, "%s", err.message);
        } else if (r % 256 == 0) {
            CHECK_EQ(pnx_cache_clear(shared.cache), 0);
        } else if (r % 256 == 1) {
            (void)pnx_budget_reclaim(shared.budget, 1);
        } else {
            put(&shared, r % 400, r >> 32 & 1 ? PNX_SEC : 0);
        }
    }
}

/* Everything that comes back is a key with its value. */
TEST_LIMIT(p19_saves_beside_writers_hold_whole_entries, 120) {
    for (uint32_t shards = 1; shards <= 4; shards *= 4) {
        struct fixture g;
        char name[32];
        open_sized(&shared, 8, 24,
                PNX_CACHE_OPTS(.capacity_entries = 300, .policy = "clock", .shards = shards));
        (void)test_dir(); /* before there are threads */
        test_threads(6, save_or_write, NULL);
        for (int i = 0; i < 2; i++) {
            snprintf(name, sizeof(name), "cache%d", i);
            open_sized(&g, 8, 24, PNX_CACHE_OPTS(.capacity_entries = 1000, .policy = "clock"));
            int rc = load(&g, test_path(name));
            CHECK_MSG(rc == 0, "%s", g.err.message);
            uint64_t found = 0;
            for (uint64_t n = 0; n < 400; n++)
                found += has(&g, n);
            CHECK_EQ(found, report.entries);
            fixture_close(&g);
        }
        fixture_close(&shared);
    }
}

/* ---- beside growth ---- */

#define STAYING 64

static void save_or_grow(unsigned index, void *ctx) {
    (void)ctx;
    if (index == 0) {
        struct pnx_error err = {0};
        int rc = pnx_cache_save(shared.cache, test_path("grown"), NULL, &err, NULL);
        CHECK_MSG(rc == 0, "%s", err.message);
        return;
    }
    for (uint64_t n = 0; n < 3000; n++)
        put(&shared, 1000 * index + 3 * n, 0);
}

/* Slots have other numbers in each table, and what is there all the time is saved all the same. */
TEST_LIMIT(p19_what_is_there_all_the_time_is_saved_while_tables_are_replaced, 120) {
    for (int round = 0; round < (test_slow() ? 5 : 30); round++) {
        struct fixture g;
        fixture_worlds(&shared);
        struct pnx_cache_opts opts = fixture_opts(
                &shared, PNX_CACHE_OPTS(.capacity_entries = 100000, .key_bytes = 8,
                                 .value_bytes = 8, .policy = "clock", .shards = round % 2 ? 4 : 1));
        CHECK_EQ(pnx__cache_create(&opts, 4, &shared.err, &shared.cache), 0);
        for (uint64_t n = 0; n < STAYING; n++)
            put(&shared, n, 0);
        (void)test_dir();
        test_threads(3, save_or_grow, NULL);
        open_sized(&g, 8, 8, PNX_CACHE_OPTS(.capacity_entries = 100000, .policy = "clock"));
        CHECK_EQ(load(&g, test_path("grown")), 0);
        for (uint64_t n = 0; n < STAYING; n++)
            CHECK(has(&g, n));
        fixture_close(&g);
        fixture_close(&shared);
    }
}

TEST(what_was_picked_grows_and_stays_as_it_was_without_memory) {
    struct fixture f;
    open_sized(&f, 8, 8, PNX_CACHE_OPTS(.capacity_entries = 10));
    struct pnx_cache_picks picks = {.env = &f.te.env};
    for (uint32_t i = 0; i < 1000; i++) {
        if (picks.n == picks.room) {
            f.te.allocations = 0;
            f.te.fail_at = 1;
            CHECK_EQ(pnx__cache_picks_grow(&picks), -ENOMEM);
            CHECK_EQ(picks.n, picks.room);
            f.te.fail_at = 0;
        }
        CHECK_EQ(pnx__cache_picks_grow(&picks), 0);
        CHECK(picks.n < picks.room);
        picks.pick[picks.n++] = (struct pnx_cache_pick){.slot = i};
    }
    for (uint32_t i = 0; i < 1000; i++)
        CHECK_EQ(picks.pick[i].slot, i);
    pnx__free(&f.te.env, picks.pick, picks.room, sizeof(*picks.pick));
    fixture_close(&f);
}
