/* SPDX-License-Identifier: Apache-2.0 */
/* P19: snapshots on disk, whole or not at all; what is hottest survives; whatever the system says. */
#include "cache/common.h"

#include "cache/file.h"

#include <patinox/reclaim.h>

#include <dirent.h>
#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

/* A wall clock of the test's. */
static int64_t wall = 1000 * PNX_SEC;
static int64_t wall_clock(void *ctx) {
    (void)ctx;
    return wall;
}

static void open_with_wall(struct fixture *f, const struct pnx_cache_opts *opts) {
    fixture_worlds(f);
    f->te.env.real_ns = wall_clock;
    struct pnx_cache_opts full = fixture_opts(f, opts);
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

static bool has(struct fixture *f, uint64_t key) {
    struct pnx_cache_ref ref = {0};
    int rc = pnx_cache_probe(f->cache, &key, sizeof(key), &ref);
    CHECK(rc == 0 || rc == -ENOENT);
    if (rc == 0)
        CHECK_EQ(*(const uint64_t *)pnx_cache_ref_data(&ref), key * 3);
    pnx_cache_ref_release(&ref);
    return rc == 0;
}
static void put_number(struct fixture *f, uint64_t key) {
    uint64_t value = key * 3;
    CHECK_EQ(pnx_cache_put(f->cache, &key, sizeof(key), &value, sizeof(value), 0), 0);
}

/* How many files there are beside the snapshot. */
static int files_in(const char *dir) {
    int n = 0;
    DIR *d = opendir(dir);
    CHECK(d != NULL);
    for (struct dirent *e; (e = readdir(d));)
        n += e->d_name[0] != '.';
    closedir(d);
    return n;
}

/* ---- there and back ---- */

TEST(p19_what_was_saved_is_loaded_as_it_was) {
    struct fixture f, g;
    const char *path = test_path("cache");
    fixture_open(&f, PNX_CACHE_OPTS(.capacity = 16 << 20));
    for (uint64_t i = 0; i < 5000; i++)
        put_number(&f, i);
    put_text(&f, "", "the empty key", 0);
    CHECK_EQ(pnx_cache_put(f.cache, "empty value", 11, NULL, 0, 0), 0);
    char *big = malloc(3 << 20);
    memset(big, 'b', 3 << 20);
    CHECK_EQ(pnx_cache_put(f.cache, big, 1 << 20, big, 3 << 20, 0), 0);
    CHECK_EQ(save(&f, path), 0);
    CHECK_EQ(report.entries, 5003);
    struct stat st;
    CHECK_EQ(stat(path, &st), 0);
    CHECK_EQ(st.st_size, (int64_t)report.file_bytes);
    CHECK_EQ(st.st_mode & 0777, 0600);
    CHECK_EQ(files_in(test_dir()), 1);
    CHECK_EQ(stats_of(&f).pinned, 0);
    fixture_close(&f);

    fixture_open(&g, PNX_CACHE_OPTS(.capacity = 16 << 20, .policy = "s3-fifo", .shards = 4));
    CHECK_EQ(load(&g, path), 0);
    CHECK_EQ(report.entries, 5003);
    CHECK_EQ(report.file_bytes, (uint64_t)st.st_size);
    CHECK_EQ(report.no_room + report.expired + report.left_out + report.present, 0);
    for (uint64_t i = 0; i < 5000; i++)
        CHECK(has(&g, i));
    check_text(&g, "", "the empty key");
    struct pnx_cache_ref ref = {0};
    CHECK_EQ(pnx_cache_get(g.cache, "empty value", 11, &ref), 0);
    CHECK_EQ(pnx_cache_ref_size(&ref), 0);
    pnx_cache_ref_release(&ref);
    CHECK_EQ(pnx_cache_get(g.cache, big, 1 << 20, &ref), 0);
    CHECK_EQ(memcmp(pnx_cache_ref_data(&ref), big, 3 << 20), 0);
    pnx_cache_ref_release(&ref);
    free(big);
    fixture_close(&g);
}

TEST(p19_an_empty_cache_is_saved_and_loaded) {
    struct fixture f;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 4));
    CHECK_EQ(save(&f, test_path("cache")), 0);
    CHECK_EQ(report.entries, 0);
    CHECK_EQ(load(&f, test_path("cache")), 0);
    CHECK_EQ(report.entries, 0);
    CHECK_EQ(pnx_cache_save(f.cache, test_path("cache"), NULL, NULL, NULL), 0);
    CHECK_EQ(pnx_cache_load_file(f.cache, test_path("cache"), NULL, NULL, NULL), 0);
    fixture_close(&f);
}

/* Saves a cache of the policy in which the last hundred of a thousand were hit, and loads it where a hundred fit. */
static void check_hottest(const char *policy, const char *second, bool by_bytes) {
    struct fixture f;
    const char *path = test_path("hot");
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 1000, .policy = policy, .shards = 1));
    for (uint64_t i = 0; i < 1000; i++)
        put_number(&f, i);
    for (uint64_t round = 0; round < 3; round++)
        for (uint64_t i = 100; i < 200; i++)
            CHECK(has(&f, i));
    CHECK_EQ(save(&f, path), 0);
    CHECK_EQ(report.entries, 1000);
    fixture_close(&f);
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = by_bytes ? 0 : 100,
                             .capacity = by_bytes ? 100 * pnx_cache_cost(8, 8) : 0,
                             .policy = second, .shards = 1));
    CHECK_EQ(load(&f, path), 0);
    CHECK_EQ(report.entries, 100);
    CHECK_EQ(report.no_room, 900);
    CHECK_EQ(stats_of(&f).removed_size, 0);
    for (uint64_t i = 100; i < 200; i++)
        CHECK_MSG(has(&f, i), "%s, %s: %llu is gone", policy, second, (unsigned long long)i);
    fixture_close(&f);
}

TEST(p19_the_hottest_survive_in_a_smaller_cache_whatever_its_policy) {
    check_hottest("lru", "lru", false);
    check_hottest("lru", "w-tinylfu", true);
    check_hottest("s3-fifo", "lirs", false);
    check_hottest("s3-fifo", "s3-fifo", true);
    check_hottest("auto", "auto", false);
    check_hottest("clock", "lfu", false);
    check_hottest("lfu", "auto", true);
}

TEST(p19_hits_are_restored_so_that_what_was_hot_is_not_evicted_first) {
    struct fixture f;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 100, .policy = "clock"));
    for (uint64_t i = 0; i < 100; i++)
        put_number(&f, i);
    for (uint64_t i = 90; i < 100; i++)
        CHECK(has(&f, i));
    CHECK_EQ(save(&f, test_path("cache")), 0);
    CHECK_EQ(pnx_cache_clear(f.cache), 0);
    CHECK_EQ(load(&f, test_path("cache")), 0);
    for (uint64_t i = 1000; i < 1090; i++)
        put_number(&f, i);
    for (uint64_t i = 90; i < 100; i++)
        CHECK(has(&f, i));
    fixture_close(&f);
}

TEST(p19_times_to_live_go_on_by_the_wall_clock_and_never_back) {
    struct fixture f;
    const char *path = test_path("cache");
    open_with_wall(&f, PNX_CACHE_OPTS(.capacity_entries = 10));
    put_text(&f, "1s", "x", PNX_SEC);
    put_text(&f, "10s", "x", 10 * PNX_SEC);
    put_text(&f, "never", "x", PNX_NEVER);
    put_text(&f, "gone", "x", 1);
    test_env_advance(&f.te, PNX_SEC / 2);
    CHECK_EQ(save(&f, path), 0);
    CHECK_EQ(report.entries, 3);
    CHECK_EQ(report.expired, 1);
    CHECK_EQ(pnx_cache_clear(f.cache), 0);
    wall += 5 * PNX_SEC; /* the process was away */
    CHECK_EQ(load(&f, path), 0);
    CHECK_EQ(report.entries, 2);
    CHECK_EQ(report.expired, 1);
    check_absent(&f, "1s");
    test_env_advance(&f.te, 9 * PNX_SEC / 2 - 1);
    check_text(&f, "10s", "x");
    test_env_advance(&f.te, 1);
    check_absent(&f, "10s");
    check_text(&f, "never", "x");
    CHECK_EQ(pnx_cache_clear(f.cache), 0);
    wall -= 3600 * PNX_SEC; /* set back: what was left is left, and no more */
    CHECK_EQ(load(&f, path), 0);
    CHECK_EQ(report.entries, 3);
    test_env_advance(&f.te, PNX_SEC / 2);
    check_absent(&f, "1s");
    test_env_advance(&f.te, 9 * PNX_SEC);
    check_absent(&f, "10s");
    fixture_close(&f);
}

TEST(p19_entries_that_are_there_stay_and_nothing_is_evicted) {
    struct fixture f;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 10));
    put_text(&f, "a", "saved", 0);
    for (uint64_t i = 0; i < 9; i++)
        put_number(&f, i);
    CHECK_EQ(save(&f, test_path("cache")), 0);
    CHECK_EQ(pnx_cache_clear(f.cache), 0);
    put_text(&f, "a", "newer", 0);
    put_text(&f, "b", "other", 0);
    CHECK_EQ(load(&f, test_path("cache")), 0);
    CHECK_EQ(report.entries, 8);
    CHECK_EQ(report.no_room, 2); /* the coldest, "a" among them */
    check_text(&f, "a", "newer");
    check_text(&f, "b", "other");
    CHECK_EQ(stats_of(&f).removed_size, 0);
    CHECK_EQ(pnx_cache_resize(f.cache, 0, 100, &f.err), 0);
    CHECK_EQ(load(&f, test_path("cache")), 0);
    CHECK_EQ(report.entries, 1);
    CHECK_EQ(report.present, 9);
    check_text(&f, "a", "newer");
    CHECK_EQ(stats_of(&f).entries, 11);
    fixture_close(&f);
}

static int absent(
        void *ctx, const void *key, size_t key_size, pnx_ns deadline, struct pnx_cache_load *into) {
    (void)ctx, (void)key, (void)key_size, (void)deadline, (void)into;
    return -ENOENT;
}

TEST(p19_remembered_absences_are_left_out) {
    struct fixture f;
    struct pnx_cache_ref ref = {0};
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 10, .negative_ttl = PNX_SEC));
    CHECK_EQ(pnx_cache_get_or_load(f.cache, "none", 4, absent, NULL, 0, NULL, &ref), -ENOENT);
    put_text(&f, "k", "v", 0);
    CHECK_EQ(stats_of(&f).entries, 2);
    CHECK_EQ(save(&f, test_path("cache")), 0);
    CHECK_EQ(report.entries, 1);
    fixture_close(&f);
}

/* ---- labels and pointers ---- */

TEST(p19_a_file_with_another_label_is_estale) {
    struct fixture f;
    char label[PNX_CACHE_LABEL_MAX + 2];
    const char *path = test_path("cache");
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 10));
    put_text(&f, "a", "x", 0);
    CHECK_EQ(
            pnx_cache_save(f.cache, path, PNX_CACHE_FILE_OPTS(.label = "generation 7"), NULL, NULL),
            0);
    CHECK_EQ(pnx_cache_clear(f.cache), 0);
    CHECK_EQ(pnx_cache_load_file(
                     f.cache, path, PNX_CACHE_FILE_OPTS(.label = "generation 8"), &f.err, NULL),
            -ESTALE);
    CHECK_CONTAINS(f.err.message, "\"generation 7\"");
    CHECK_EQ(load(&f, path), -ESTALE);
    CHECK_EQ(stats_of(&f).entries, 0);
    CHECK_EQ(pnx_cache_load_file(
                     f.cache, path, PNX_CACHE_FILE_OPTS(.label = "generation 7"), &f.err, NULL),
            0);
    check_text(&f, "a", "x");
    memset(label, 'l', sizeof(label));
    label[sizeof(label) - 1] = 0;
    CHECK_EQ(pnx_cache_save(f.cache, path, PNX_CACHE_FILE_OPTS(.label = label), &f.err, NULL),
            -EINVAL);
    CHECK_STR(f.err.field, "label");
    label[sizeof(label) - 2] = 0;
    CHECK_EQ(pnx_cache_save(f.cache, path, PNX_CACHE_FILE_OPTS(.label = label), &f.err, NULL), 0);
    CHECK_EQ(pnx_cache_load_file(f.cache, path, PNX_CACHE_FILE_OPTS(.label = label), &f.err, NULL),
            0);
    fixture_close(&f);
}

struct point {
    int x, y;
};
static int alive;

static void destroy_point(void *ctx, const struct pnx_cache_removed *removed) {
    (void)ctx;
    if (removed->value_size == sizeof(struct point)) {
        free(removed->value);
        alive--;
    }
}
static struct point *make_point(int x, int y) {
    struct point *p = malloc(sizeof(*p));
    *p = (struct point){x, y};
    alive++;
    return p;
}

static int serialize(void *ctx, const struct pnx_cache_ref *ref, struct pnx_cache_sink *sink) {
    const struct point *p = pnx_cache_ref_data(ref);
    CHECK_EQ(pnx_cache_sink_write(sink, NULL, 1), -EINVAL);
    CHECK_EQ(pnx_cache_sink_write(sink, NULL, 0), 0);
    int rc = pnx_cache_sink_write(sink, &p->x, sizeof(p->x));
    if (rc == 0)
        rc = pnx_cache_sink_write(sink, &p->y, sizeof(p->y));
    return rc ? rc : p->x == 13 ? *(int *)ctx : 0;
}
static int deserialize(void *ctx, const void *key, size_t key_size, const void *data, size_t size,
        void **ret_value, size_t *ret_value_size) {
    int xy[2];
    (void)key;
    CHECK_EQ(key_size, 1);
    CHECK_EQ(size, sizeof(xy));
    memcpy(xy, data, sizeof(xy));
    if (xy[0] == 7)
        return *(int *)ctx;
    *ret_value = make_point(xy[0], xy[1]);
    *ret_value_size = sizeof(struct point);
    return 0;
}

TEST(p19_pointers_go_through_your_functions_or_are_left_out) {
    struct fixture f;
    const char *path = test_path("cache");
    int verdict = -ENOENT;
    const struct pnx_cache_file_opts opts = {.size = sizeof(opts),
            .serialize = serialize,
            .deserialize = deserialize,
            .ctx = &verdict};
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 100, .destroy = destroy_point));
    for (char k = 0; k < 20; k++)
        CHECK_EQ(pnx_cache_put_pointer(
                         f.cache, &k, 1, make_point(k, 2 * k), sizeof(struct point), 0),
                0);
    put_text(&f, "bytes", "bytes", 0);
    CHECK_EQ(save(&f, path), 0);
    CHECK_EQ(report.entries, 1);
    CHECK_EQ(report.left_out, 20);
    report = (struct pnx_cache_file_report){.size = sizeof(report)};
    CHECK_EQ(pnx_cache_save(f.cache, path, &opts, &f.err, &report), 0);
    CHECK_EQ(report.entries, 20);
    CHECK_EQ(report.left_out, 1);
    CHECK_EQ(pnx_cache_clear(f.cache), 0);
    CHECK_EQ(alive, 0);
    CHECK_EQ(load(&f, path), 0);
    CHECK_EQ(report.entries, 1);
    CHECK_EQ(report.left_out, 19);
    CHECK_EQ(pnx_cache_clear(f.cache), 0);
    report = (struct pnx_cache_file_report){.size = sizeof(report)};
    CHECK_EQ(pnx_cache_load_file(f.cache, path, &opts, &f.err, &report), 0);
    CHECK_EQ(report.entries, 19);
    CHECK_EQ(report.left_out, 1); /* 7; 13 was not saved */
    CHECK_EQ(alive, 18);
    char k = 19;
    struct pnx_cache_ref ref = {0};
    CHECK_EQ(pnx_cache_get(f.cache, &k, 1, &ref), 0);
    CHECK_EQ(((struct point *)pnx_cache_ref_data(&ref))->y, 38);
    CHECK_EQ(pnx_cache_ref_size(&ref), sizeof(struct point));
    pnx_cache_ref_release(&ref);
    /* Those that are there already are destroyed again. */
    CHECK_EQ(pnx_cache_load_file(f.cache, path, &opts, &f.err, &report), 0);
    CHECK_EQ(alive, 18);
    /* Errors of the functions end it. */
    verdict = -EIO;
    CHECK_EQ(pnx_cache_load_file(f.cache, path, &opts, &f.err, NULL), -EIO);
    CHECK_CONTAINS(f.err.message, "deserialize");
    verdict = 5;
    CHECK_EQ(pnx_cache_load_file(f.cache, path, &opts, &f.err, NULL), -EINVAL);
    k = 13;
    CHECK_EQ(pnx_cache_put_pointer(f.cache, &k, 1, make_point(13, 0), sizeof(struct point), 0), 0);
    verdict = -EIO;
    CHECK_EQ(pnx_cache_save(f.cache, path, &opts, &f.err, NULL), -EIO);
    CHECK_CONTAINS(f.err.message, "serialize");
    fixture_close(&f);
    CHECK_EQ(alive, 0);
}

/* ---- what is refused ---- */

static unsigned char *bytes_of(const char *path, size_t *ret_n) {
    FILE *file = fopen(path, "rb");
    CHECK(file != NULL);
    unsigned char *data = malloc(1 << 20);
    *ret_n = fread(data, 1, 1 << 20, file);
    fclose(file);
    return data;
}

static void make_small(struct fixture *f, const char *path) {
    fixture_open(f, PNX_CACHE_OPTS(.capacity_entries = 100));
    for (uint64_t i = 0; i < 5; i++)
        put_number(f, i);
    CHECK_EQ(pnx_cache_save(f->cache, path, PNX_CACHE_FILE_OPTS(.label = "label"), &f->err, NULL),
            0);
    CHECK_EQ(pnx_cache_clear(f->cache), 0);
}

static void check_refused(struct fixture *f, const char *path, const char *message) {
    uint64_t inserts = stats_of(f).inserts;
    int rc = pnx_cache_load_file(
            f->cache, path, PNX_CACHE_FILE_OPTS(.label = "label"), &f->err, NULL);
    CHECK_MSG(rc == PNX_E_FORMAT, "%s: %s", pnx_errname(rc), f->err.message);
    if (message)
        CHECK_CONTAINS(f->err.message, message);
    CHECK_EQ(stats_of(f).inserts, inserts);
}

/* The same from memory, which takes a hundredth of the time. */
static void check_refused_bytes(
        struct fixture *f, const unsigned char *data, size_t n, const char *message) {
    const struct pnx_cache_file_opts opts = {.size = sizeof(opts), .label = "label"};
    const struct pnx_cache_input input = {.name = "memory", .fd = -1, .memory = data, .size = n};
    report = (struct pnx_cache_file_report){.size = sizeof(report)};
    int rc = pnx__cache_read_file(f->cache, &input, &opts, &f->err, &report);
    CHECK_MSG(rc == PNX_E_FORMAT, "%s: %s", pnx_errname(rc), f->err.message);
    if (message)
        CHECK_CONTAINS(f->err.message, message);
    CHECK_EQ(stats_of(f).inserts, 5);
}

TEST(p19_a_file_with_any_one_bit_changed_is_refused_and_changes_nothing) {
    struct fixture f;
    const char *good = test_path("good");
    make_small(&f, good);
    size_t n;
    unsigned char *data = bytes_of(good, &n);
    for (size_t i = 0; i < n; i++) {
        for (int bit = 0; bit < 8; bit++) {
            data[i] ^= (unsigned char)(1 << bit);
            check_refused_bytes(&f, data, n, NULL);
            data[i] ^= (unsigned char)(1 << bit);
        }
    }
    CHECK_EQ(stats_of(&f).inserts, 5);
    free(data);
    fixture_close(&f);
}

TEST(p19_a_file_that_is_cut_short_or_longer_is_refused) {
    struct fixture f;
    const char *good = test_path("good"), *bad = test_path("bad");
    make_small(&f, good);
    size_t n;
    unsigned char *data = bytes_of(good, &n);
    for (size_t cut = 0; cut < n; cut++) {
        check_refused_bytes(&f, data, cut, "cut short");
    }
    data[n] = 0;
    test_write_file(bad, data, n + 1);
    check_refused(&f, bad, "1 bytes behind the end");
    free(data);
    fixture_close(&f);
}

static void change_word(const char *from, const char *to, size_t at, uint32_t word) {
    size_t n;
    unsigned char *data = bytes_of(from, &n);
    memcpy(data + at, &word, sizeof(word));
    test_write_file(to, data, n);
    free(data);
}

TEST(p19_what_is_refused_is_told_precisely) {
    struct fixture f;
    const char *good = test_path("good"), *bad = test_path("bad");
    make_small(&f, good);
    change_word(good, bad, 8, __builtin_bswap32(PNX_CACHE_FILE_ORDER));
    check_refused(&f, bad, "the other byte order");
    change_word(good, bad, 12, 2);
    check_refused(&f, bad, "format version 2; this library reads 1");
    change_word(good, bad, 0, 0);
    check_refused(&f, bad, "not a snapshot of a cache");
    size_t head = sizeof(struct pnx_cache_file_head) + 5 + 8;
    change_word(good, bad, head, 0);
    check_refused(&f, bad, "the head of block 0 is damaged");
    change_word(good, bad, head + sizeof(struct pnx_cache_file_block), 0xffff);
    check_refused(&f, bad, "block 0 is damaged");
    check_refused(&f, "/dev/null", "not a regular file");
    CHECK_EQ(load(&f, test_dir()), PNX_E_FORMAT);
    CHECK_EQ(load(&f, test_path("none")), -ENOENT);
    CHECK_EQ(mkfifo(test_path("pipe"), 0600), 0);
    check_refused(&f, test_path("pipe"), "not a regular file"); /* and does not wait */
    fixture_close(&f);
}

/* ---- the system ---- */

TEST(p19_whatever_call_fails_a_save_leaves_the_old_file_and_no_other) {
    static const char *const calls[] = {"open", "write", "fsync", "close", "rename"};
    static const int codes[] = {ENOSPC, EIO, EDQUOT, ENOMEM};
    if (!test_os_faults())
        test_skip("no faults in this build");
    struct fixture f;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 100));
    put_text(&f, "k", "old", 0);
    const char *path = test_path("cache");
    CHECK_EQ(save(&f, path), 0);
    put_text(&f, "k", "new", 0);
    for (size_t c = 0; c < sizeof(calls) / sizeof(calls[0]); c++) {
        for (size_t e = 0; e < sizeof(codes) / sizeof(codes[0]); e++) {
            for (int64_t nth = 1;; nth++) {
                test_os_fault(calls[c], nth, false, codes[e]);
                int rc = save(&f, path);
                if (test_os_fault_clear() == 0) {
                    CHECK_EQ(rc, 0);
                    CHECK(nth > 1);
                    break;
                }
                /* The second open and fsync are the directory's: the new file has its name by then. */
                bool named = nth == 2 && (c == 0 || c == 2);
                CHECK_EQ(rc, c == 3 && nth == 2 ? 0 : -codes[e]);
                if (rc)
                    CHECK_CONTAINS(f.err.message, path);
                CHECK_EQ(files_in(test_dir()), 1);
                struct fixture g;
                fixture_open(&g, PNX_CACHE_OPTS(.capacity_entries = 100));
                CHECK_EQ(load(&g, path), 0);
                check_text(&g, "k", named || rc == 0 ? "new" : "old");
                fixture_close(&g);
                if (named || rc == 0) { /* back to the old one */
                    put_text(&f, "k", "old", 0);
                    CHECK_EQ(save(&f, path), 0);
                    put_text(&f, "k", "new", 0);
                }
            }
            put_text(&f, "k", "old", 0);
            CHECK_EQ(save(&f, path), 0);
            put_text(&f, "k", "new", 0);
        }
    }
    fixture_close(&f);
}

TEST(p19_signals_interrupt_neither_save_nor_load) {
    static const char *const calls[] = {"open", "write", "fsync", "pread", "fstat"};
    if (!test_os_faults())
        test_skip("no faults in this build");
    struct fixture f;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 100));
    put_text(&f, "k", "v", 0);
    for (size_t c = 0; c < sizeof(calls) / sizeof(calls[0]); c++) {
        test_os_fault(calls[c], 1, false, EINTR);
        CHECK_EQ(save(&f, test_path("cache")), 0);
        CHECK_EQ(load(&f, test_path("cache")), 0);
        CHECK_EQ(report.present, 1);
        CHECK_EQ(test_os_fault_clear(), 1);
    }
    fixture_close(&f);
}

TEST(p19_reads_that_fail_are_told_and_change_nothing_in_the_first_pass) {
    static const char *const calls[] = {"open", "fstat", "pread"};
    if (!test_os_faults())
        test_skip("no faults in this build");
    struct fixture f;
    make_small(&f, test_path("cache"));
    const struct pnx_cache_file_opts *opts = PNX_CACHE_FILE_OPTS(.label = "label");
    for (size_t c = 0; c < 3; c++) {
        for (int64_t nth = 1;; nth++) {
            test_os_fault(calls[c], nth, false, EIO);
            int rc = pnx_cache_load_file(f.cache, test_path("cache"), opts, &f.err, NULL);
            if (test_os_fault_clear() == 0) {
                CHECK_EQ(rc, 0);
                break;
            }
            CHECK_EQ(rc, -EIO);
            CHECK_CONTAINS(f.err.message, pnx_strerror(-EIO));
            /* Head, label, checksum, twice; a block's head, the block, the end. */
            if (c < 2 || nth <= 9)
                CHECK_EQ(stats_of(&f).entries, 0);
            CHECK_EQ(pnx_cache_clear(f.cache), 0);
        }
        CHECK_EQ(stats_of(&f).entries, 5);
        CHECK_EQ(pnx_cache_clear(f.cache), 0);
    }
    fixture_close(&f);
}

/* A limit on the size of files: the system writes what fits, and then nothing. */
static void save_over_the_limit(void *ctx) {
    struct fixture *f = ctx;
    struct rlimit limit = {.rlim_cur = 100000, .rlim_max = 100000};
    signal(SIGXFSZ, SIG_IGN);
    CHECK_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
    /* In a child the parent's cache is refused: one of its own. */
    struct pnx_cache *cache = NULL;
    CHECK_EQ(pnx_cache_create(PNX_CACHE_OPTS(.capacity = 4 << 20, .registry = pnx_registry_off(),
                                      .stats = pnx_stats_off(), .budget = pnx_budget_off()),
                     NULL, &cache),
            0);
    static char big[400000];
    CHECK_EQ(pnx_cache_put(cache, "big", 3, big, sizeof(big), 0), 0);
    CHECK_EQ(pnx_cache_save(cache, test_path("cache"), NULL, &f->err, NULL), -EFBIG);
    pnx_cache_release(&cache);
}

TEST(p19_a_short_write_is_gone_on_with_and_its_error_leaves_the_old_file) {
    struct fixture f;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 100));
    put_text(&f, "k", "old", 0);
    CHECK_EQ(save(&f, test_path("cache")), 0);
    CHECK_EQ(test_child(save_over_the_limit, &f), 0);
    CHECK_EQ(files_in(test_dir()), 1);
    CHECK_EQ(pnx_cache_clear(f.cache), 0);
    CHECK_EQ(load(&f, test_path("cache")), 0);
    check_text(&f, "k", "old");
    fixture_close(&f);
}

static int filing_life(struct test_env *te, void *ctx) {
    struct pnx_cache *cache = NULL;
    const char *path = test_path("cache");
    int verdict = 0;
    (void)ctx;
    const struct pnx_cache_file_opts opts = {.size = sizeof(opts),
            .serialize = serialize,
            .deserialize = deserialize,
            .ctx = &verdict};
    int rc = pnx_cache_create(PNX_CACHE_OPTS(.env = &te->env, .registry = pnx_registry_off(),
                                      .stats = pnx_stats_off(), .budget = pnx_budget_off(),
                                      .capacity_entries = 60, .destroy = destroy_point),
            NULL, &cache);
    static char big[600000];
    if (rc == 0)
        rc = pnx_cache_put(cache, "k", 1, big, sizeof(big), 0);
    struct point *p = rc == 0 ? make_point(1, 2) : NULL;
    if (p && (rc = pnx_cache_put_pointer(cache, "p", 1, p, sizeof(*p), 0)) != 0) {
        free(p);
        alive--;
    }
    if (rc == 0)
        rc = pnx_cache_save(cache, path, &opts, NULL, NULL);
    CHECK(rc == 0 || files_in(test_dir()) <= 1);
    if (rc == 0)
        rc = pnx_cache_clear(cache);
    if (rc == 0)
        rc = pnx_cache_load_file(cache, path, &opts, NULL, NULL);
    pnx_cache_release(&cache);
    CHECK_EQ(pnx_reclaim_barrier(NULL, PNX_NEVER), 0);
    CHECK_EQ(alive, 0);
    return rc;
}

TEST(every_allocation_of_save_and_load_may_fail) {
    struct test_env te;
    test_env_init(&te);
    test_fail_each_allocation(&te, filing_life, NULL);
}

TEST(a_budget_that_refuses_ends_the_loading_and_not_the_load) {
    struct fixture f;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 1000));
    for (uint64_t i = 0; i < 1000; i++)
        put_number(&f, i);
    CHECK_EQ(save(&f, test_path("cache")), 0);
    CHECK_EQ(pnx_cache_clear(f.cache), 0);
    struct pnx_budget_stats stats = {.size = sizeof(stats)};
    CHECK_EQ(pnx_budget_read_stats(f.budget, &stats), 0);
    CHECK_EQ(pnx_budget_set_limits(f.budget, 0, stats.used + 50), 0); /* not one */
    CHECK_EQ(load(&f, test_path("cache")), 0);
    CHECK_EQ(report.entries, 0);
    CHECK_EQ(report.no_room, 1000);
    CHECK_EQ(pnx_budget_read_stats(f.budget, &stats), 0);
    CHECK_EQ(pnx_budget_set_limits(f.budget, 0, stats.used + 20000), 0);
    CHECK_EQ(load(&f, test_path("cache")), 0);
    CHECK(report.entries > 0 && report.entries < 1000);
    CHECK_EQ(stats_of(&f).entries, report.entries); /* nothing went for what came later */
    fixture_close(&f);
}

/* ---- beside others ---- */

struct writers {
    struct fixture f;
    int stop; /* with __atomic */
};

static void write_or_save(unsigned index, void *ctx) {
    struct writers *w = ctx;
    char path[300];
    snprintf(path, sizeof(path), "%s/by%u", test_dir(), index);
    if (index < 2) {
        for (int round = 0; round < (test_slow() ? 5 : 30); round++) {
            CHECK_EQ(pnx_cache_save(w->f.cache, path, NULL, NULL, NULL), 0);
            struct pnx_cache *other = NULL;
            struct pnx_error err;
            CHECK_EQ(pnx_cache_create(PNX_CACHE_OPTS(.capacity_entries = 100000,
                                              .registry = pnx_registry_off(),
                                              .stats = pnx_stats_off(), .budget = pnx_budget_off()),
                             NULL, &other),
                    0);
            int rc = pnx_cache_load_file(other, path, NULL, &err, NULL);
            CHECK_MSG(rc == 0, "%s", err.message);
            pnx_cache_release(&other);
        }
        __atomic_add_fetch(&w->stop, 1, __ATOMIC_RELEASE);
        return;
    }
    uint64_t rng = index;
    while (__atomic_load_n(&w->stop, __ATOMIC_ACQUIRE) < 2) {
        uint64_t r = test_random(&rng);
        if (r % 1000 == 0)
            CHECK_EQ(pnx_cache_clear(w->f.cache), 0);
        else if (r % 3 == 0)
            (void)pnx_cache_remove(w->f.cache, &(uint64_t){r % 5000}, 8);
        else
            put_number(&w->f, r % 5000);
    }
}

TEST_LIMIT(p19_saves_beside_writers_and_each_other_are_well_formed, 120) {
    static struct writers w;
    (void)test_dir(); /* made by one thread */
    fixture_open(&w.f, PNX_CACHE_OPTS(.capacity_entries = 2000, .policy = "s3-fifo", .shards = 4));
    test_threads(4, write_or_save, &w);
    CHECK_EQ(stats_of(&w.f).pinned, 0);
    fixture_close(&w.f);
}

#define STAYING 64

static void save_or_grow(unsigned index, void *ctx) {
    struct fixture *f = ctx;
    if (index == 0) {
        struct pnx_error err = {0};
        int rc = pnx_cache_save(f->cache, test_path("grown"), NULL, &err, NULL);
        CHECK_MSG(rc == 0, "%s", err.message);
        return;
    }
    for (uint64_t n = 0; n < 3000; n++)
        put_number(f, 1000 * index + 3 * n);
}

TEST_LIMIT(p19_what_is_there_all_the_time_is_saved_whatever_comes_meanwhile, 120) {
    for (int round = 0; round < (test_slow() ? 5 : 30); round++) {
        struct fixture f, g;
        fixture_open(
                &f, PNX_CACHE_OPTS(.capacity_entries = 100000, .policy = "clock", .shards = 4));
        for (uint64_t n = 0; n < STAYING; n++)
            put_number(&f, n);
        (void)test_dir(); /* before there are threads */
        test_threads(3, save_or_grow, &f);
        fixture_open(&g, PNX_CACHE_OPTS(.capacity_entries = 100000));
        CHECK_EQ(load(&g, test_path("grown")), 0);
        for (uint64_t n = 0; n < STAYING; n++)
            CHECK(has(&g, n));
        fixture_close(&g);
        fixture_close(&f);
    }
}

TEST(bad_arguments_of_save_and_load_are_refused_and_touch_nothing) {
    struct fixture f;
    const char *path = test_path("cache");
    struct {
        struct pnx_cache_file_opts opts;
        char tail[8];
    } larger = {.opts.size = sizeof(larger), .tail = "x"};
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 4));
    CHECK_EQ(pnx_cache_save(NULL, path, NULL, &f.err, NULL), -EINVAL);
    CHECK_EQ(pnx_cache_save(f.cache, NULL, NULL, &f.err, NULL), -EINVAL);
    CHECK_EQ(pnx_cache_save(f.cache, "", NULL, &f.err, NULL), -EINVAL);
    CHECK_EQ(pnx_cache_load_file(NULL, path, NULL, &f.err, NULL), -EINVAL);
    CHECK_EQ(pnx_cache_load_file(f.cache, NULL, NULL, &f.err, NULL), -EINVAL);
    CHECK_EQ(pnx_cache_save(f.cache, path, &larger.opts, &f.err, NULL), -E2BIG);
    CHECK_EQ(pnx_cache_load_file(f.cache, path, &larger.opts, &f.err, NULL), -E2BIG);
    larger.opts.size = 0;
    CHECK_EQ(pnx_cache_save(f.cache, path, &larger.opts, &f.err, NULL), -EINVAL);
    CHECK_EQ(pnx_cache_sink_write(NULL, "x", 1), -EINVAL);
    CHECK_EQ(files_in(test_dir()), 0);
    CHECK_EQ(save(&f, test_path("no/such/directory")), -ENOENT);
    CHECK_CONTAINS(f.err.message, "no/such/directory");
    put_text(&f, "k", "v", 0);
    CHECK_EQ(save(&f, path), 0);
    struct pnx_cache_file_report shorter = {
            .size = offsetof(struct pnx_cache_file_report, left_out), .left_out = 77};
    CHECK_EQ(pnx_cache_load_file(f.cache, path, NULL, NULL, &shorter), 0);
    CHECK(shorter.file_bytes > 0);
    CHECK_EQ(shorter.left_out, 77);
    CHECK_EQ(pnx_cache_close(f.cache), 0);
    CHECK_EQ(save(&f, path), -ESHUTDOWN);
    CHECK_EQ(load(&f, path), -ESHUTDOWN);
    fixture_close(&f);
}
