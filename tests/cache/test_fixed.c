/* SPDX-License-Identifier: Apache-2.0 */
/* test_fixed.c - caches of fixed sizes: what each call does and refuses, one thread at a time. */
#include "base/hash.h"
#include "cache/fixed_bytes.h"
#include "cache/internal.h"

#include <patinox/cache_policy.h>

#include <unistd.h>

/* ---- short forms, for u64 -> u64 ---- */

static void open_u64(struct fixture *f, struct pnx_cache_opts opts) {
    opts.key_bytes = opts.value_bytes = 8;
    fixture_open(f, &opts);
}

static int put_u64(struct fixture *f, uint64_t key, uint64_t value) {
    return pnx_cache_put(f->cache, &key, 8, &value, 8, 0);
}

static int get_u64(struct fixture *f, uint64_t key, uint64_t *ret_value) {
    return pnx_cache_get_copy(f->cache, &key, 8, ret_value, 8, NULL);
}

static int remove_u64(struct fixture *f, uint64_t key) {
    return pnx_cache_remove(f->cache, &key, 8);
}

static void check_u64(struct fixture *f, uint64_t key, uint64_t value) {
    uint64_t got = 0;
    int rc = get_u64(f, key, &got);
    CHECK_MSG(rc == 0, "get %llu: %s", (unsigned long long)key, pnx_errname(rc));
    CHECK_EQ(got, value);
}

static void check_no_u64(struct fixture *f, uint64_t key) {
    uint64_t got = 77;
    CHECK_EQ(get_u64(f, key, &got), -ENOENT);
    CHECK_EQ(got, 77);
}

/* What has come is what has gone, and what is there. */
static void check_sums(struct fixture *f) {
    struct pnx_cache_stats s = stats_of(f);
    CHECK_EQ(s.inserts, s.entries + s.removed_explicit + s.removed_replaced + s.removed_size +
                                s.removed_expired + s.removed_clear + s.removed_closed);
    CHECK_EQ(s.bytes, s.entries * f->cache->fixed_cost);
    check_invariants(f);
}

/* ---- sizes ---- */

struct walk {
    size_t key_size;
    size_t value_size;
    uint64_t add; /* to a key's number, for its value's */
    uint64_t most;
    uint64_t n;
    bool seen[256];
};

static int see(void *ctx, const void *key, const void *value) {
    struct walk *w = ctx;
    unsigned char expected[VALUE_MOST];
    uint64_t n = number_of(key, w->key_size);
    CHECK(n < w->most && !w->seen[n]);
    w->seen[n] = true;
    bytes_of(n, w->key_size, expected);
    CHECK_EQ(memcmp(key, expected, w->key_size), 0);
    bytes_of(n + w->add, w->value_size, expected);
    CHECK_EQ(memcmp(value, expected, w->value_size), 0);
    w->n++;
    return 0;
}

static void keep_whole(size_t key_size, size_t value_size) {
    enum { N = 100 };
    struct fixture f;
    unsigned char key[KEY_MOST], value[VALUE_MOST], got[VALUE_MOST + 8];
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 200, .key_bytes = (uint32_t)key_size,
                             .value_bytes = (uint32_t)value_size, .policy = "s3-fifo"));
    for (uint64_t add = 0; add < 4; add += 3) { /* stored, then replaced */
        for (uint64_t i = 0; i < N; i++) {
            bytes_of(i, key_size, key);
            bytes_of(i + add, value_size, value);
            CHECK_EQ(pnx_cache_put(f.cache, key, key_size, value, value_size, 0), 0);
        }
        for (uint64_t i = 0; i < N; i++) {
            size_t size = 0;
            bytes_of(i, key_size, key);
            bytes_of(i + add, value_size, value);
            memset(got, 0x5a, sizeof(got));
            CHECK_EQ(pnx_cache_get_copy(f.cache, key, key_size, got, sizeof(got), &size), 0);
            CHECK_EQ(size, value_size);
            CHECK_EQ(memcmp(got, value, value_size), 0);
            for (size_t k = value_size; k < sizeof(got); k++)
                CHECK_EQ(got[k], 0x5a);
            key[key_size - 1] ^= 0x80; /* every byte of a key is looked at */
            CHECK_EQ(pnx_cache_get_copy(f.cache, key, key_size, got, sizeof(got), NULL), -ENOENT);
        }
        struct walk w = {key_size, value_size, add, N, 0, {false}};
        CHECK_EQ(pnx_cache_each_copy(f.cache, see, &w), 0);
        CHECK_EQ(w.n, N);
        check_sums(&f);
    }
    CHECK_EQ(stats_of(&f).bytes, N * pnx_cache_cost_fixed(key_size, value_size));
    for (uint64_t i = 0; i < N; i += 2) {
        bytes_of(i, key_size, key);
        CHECK_EQ(pnx_cache_remove(f.cache, key, key_size), 0);
        CHECK_EQ(pnx_cache_get_copy(f.cache, key, key_size, got, sizeof(got), NULL), -ENOENT);
    }
    check_sums(&f);
    fixture_close(&f);
}

TEST(keys_and_values_of_every_size_are_kept_whole) {
    for (size_t k = 1; k <= KEY_MOST; k++)
        keep_whole(k, k * 5 % 64 + 1);
    for (size_t v = 1; v <= VALUE_MOST; v++)
        keep_whole(v * 7 % KEY_MOST + 1, v);
    keep_whole(8, 8);
    keep_whole(5, 13);
    keep_whole(1, 1);
    keep_whole(KEY_MOST, VALUE_MOST);
}

TEST(an_entry_counts_the_same_for_all_and_sizes_that_cannot_be_have_no_cost) {
    CHECK_EQ(pnx_cache_cost_fixed(0, 8), SIZE_MAX);
    CHECK_EQ(pnx_cache_cost_fixed(8, 0), SIZE_MAX);
    CHECK_EQ(pnx_cache_cost_fixed(KEY_MOST + 1, 8), SIZE_MAX);
    CHECK_EQ(pnx_cache_cost_fixed(8, VALUE_MOST + 1), SIZE_MAX);
    CHECK(pnx_cache_cost_fixed(8, 8) < pnx_cache_cost(8, 8) / 2);
    CHECK_EQ(pnx_cache_cost_fixed(1, 1), pnx_cache_cost_fixed(4, 4));
    CHECK_EQ(pnx_cache_cost_fixed(64, 256), pnx_cache_cost_fixed(1, 1) + (60 + 252) * 9 / 8);
}

/* ---- what is refused ---- */

static void check_refused(const struct pnx_cache_opts *opts, const char *field) {
    struct fixture f;
    fixture_worlds(&f);
    struct pnx_cache_opts full = fixture_opts(&f, opts);
    CHECK_EQ(pnx_cache_create(&full, &f.err, &f.cache), -EINVAL);
    CHECK_STR(f.err.field, field);
    CHECK(!f.cache);
    fixture_drop(&f);
}

static void no_destroy(void *ctx, const struct pnx_cache_removed *removed) {
    (void)ctx, (void)removed;
}

TEST(create_names_the_option_that_cannot_be_with_fixed_sizes) {
    check_refused(PNX_CACHE_OPTS(.capacity = 4096, .key_bytes = 8), "value_bytes");
    check_refused(PNX_CACHE_OPTS(.capacity = 4096, .value_bytes = 8), "key_bytes");
    check_refused(PNX_CACHE_OPTS(.capacity = 4096, .key_bytes = 65, .value_bytes = 8), "key_bytes");
    check_refused(
            PNX_CACHE_OPTS(.capacity = 4096, .key_bytes = 8, .value_bytes = 257), "value_bytes");
    check_refused(PNX_CACHE_OPTS(.capacity = 4096, .key_bytes = 8, .value_bytes = 8,
                          .destroy = no_destroy),
            "destroy");
    check_refused(PNX_CACHE_OPTS(.capacity = 4096, .key_bytes = 8, .value_bytes = 8,
                          .ttl = PNX_CACHE_FIXED_TTL_MIN - 1),
            "ttl");
    check_refused(PNX_CACHE_OPTS(.capacity = 4096, .key_bytes = 8, .value_bytes = 8,
                          .negative_ttl = PNX_SEC),
            "negative_ttl");
    check_refused(PNX_CACHE_OPTS(.key_bytes = 8, .value_bytes = 8), "capacity");
    check_refused(PNX_CACHE_OPTS(.capacity = 4096, .key_bytes = 8, .value_bytes = 8,
                          .policy = "none such"),
            "policy");
}

TEST(fixed_sizes_are_options_that_can_be_set_from_text) {
    struct pnx_cache_opts opts = *PNX_CACHE_OPTS(.capacity_entries = 10);
    struct pnx_error err = {0};
    CHECK_EQ(pnx_cache_opts_set(&opts, "key_bytes", "16", &err), 0);
    CHECK_EQ(pnx_cache_opts_set(&opts, "value_bytes", "100", &err), 0);
    CHECK_EQ(opts.key_bytes, 16);
    CHECK_EQ(opts.value_bytes, 100);
    CHECK_EQ(pnx_cache_opts_set(&opts, "key_bytes", "65", &err), -ERANGE);
    CHECK_EQ(pnx_cache_opts_set(&opts, "value_bytes", "257", &err), -ERANGE);
}

TEST(a_time_to_live_below_the_least_is_refused) {
    struct fixture f;
    uint64_t key = 1, value = 2;
    open_u64(&f, *PNX_CACHE_OPTS(.capacity_entries = 10, .ttl = PNX_CACHE_FIXED_TTL_MIN));
    CHECK_EQ(pnx_cache_put(f.cache, &key, 8, &value, 8, PNX_CACHE_FIXED_TTL_MIN - 1), -EINVAL);
    CHECK_EQ(pnx_cache_put(f.cache, &key, 8, &value, 8, 1), -EINVAL);
    CHECK_EQ(pnx_cache_put(f.cache, &key, 8, &value, 8, -1), -EINVAL);
    CHECK_EQ(pnx_cache_put_if_absent(f.cache, &key, 8, &value, 8, PNX_CACHE_FIXED_TTL_MIN - 1),
            -EINVAL);
    CHECK_EQ(pnx_cache_set_ttl(f.cache, PNX_CACHE_FIXED_TTL_MIN - 1, &f.err), -EINVAL);
    CHECK_STR(f.err.field, "ttl");
    CHECK_EQ(pnx_cache_set_ttl(f.cache, -1, &f.err), -EINVAL);
    CHECK_EQ(stats_of(&f).inserts, 0);
    CHECK_EQ(put_u64(&f, 1, 2), 0); /* the option's */
    test_env_advance(&f.te, PNX_CACHE_FIXED_TTL_MIN - TICK);
    check_u64(&f, 1, 2);
    test_env_advance(&f.te, TICK);
    check_no_u64(&f, 1);
    CHECK_EQ(pnx_cache_set_ttl(f.cache, PNX_SEC, &f.err), 0);
    CHECK_EQ(put_u64(&f, 1, 3), 0);
    test_env_advance(&f.te, PNX_SEC - TICK);
    check_u64(&f, 1, 3);
    test_env_advance(&f.te, TICK);
    check_no_u64(&f, 1);
    CHECK_EQ(pnx_cache_set_ttl(f.cache, 0, &f.err), 0);
    CHECK_EQ(put_u64(&f, 1, 4), 0);
    test_env_advance(&f.te, 1000 * PNX_SEC);
    check_u64(&f, 1, 4);
    check_sums(&f);
    fixture_close(&f);
}

TEST(a_size_that_is_another_one_is_refused_and_touches_nothing) {
    struct fixture f;
    unsigned char key[16] = {1}, value[32] = {2}, got[32];
    uint64_t found = 77;
    size_t size = 77;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 10, .key_bytes = 5, .value_bytes = 13));
    CHECK_EQ(pnx_cache_put(f.cache, key, 5, value, 13, 0), 0);
    memset(got, 0x5a, sizeof(got));
    for (size_t k = 0; k <= 16; k++) {
        if (k == 5)
            continue;
        CHECK_EQ(pnx_cache_put(f.cache, key, k, value, 13, 0), -EINVAL);
        CHECK_EQ(pnx_cache_put_if_absent(f.cache, key, k, value, 13, 0), -EINVAL);
        CHECK_EQ(pnx_cache_get_copy(f.cache, key, k, got, 13, &size), -EINVAL);
        CHECK_EQ(pnx_cache_remove(f.cache, key, k), -EINVAL);
        CHECK_EQ(pnx_cache_get_many(f.cache, key, k, 1, got, 13, &found), -EINVAL);
    }
    for (size_t v = 0; v <= 16; v++) {
        if (v == 13)
            continue;
        CHECK_EQ(pnx_cache_put(f.cache, key, 5, value, v, 0), -EINVAL);
        CHECK_EQ(pnx_cache_put_if_absent(f.cache, key, 5, value, v, 0), -EINVAL);
        CHECK_EQ(pnx_cache_get_many(f.cache, key, 5, 1, got, v, &found), -EINVAL);
    }
    CHECK_EQ(found, 77);
    CHECK_EQ(size, 77);
    CHECK_EQ(got[0], 0x5a);
    CHECK_EQ(stats_of(&f).inserts, 1);
    CHECK_EQ(stats_of(&f).hits + stats_of(&f).misses, 0);
    fixture_close(&f);
}

static int visit_none(void *ctx, const void *key, const void *value) {
    (void)ctx, (void)key, (void)value;
    return -EIO;
}

TEST(arguments_that_are_not_there_are_refused_and_touch_nothing) {
    struct fixture f;
    uint64_t key = 1, value = 2, found = 77;
    size_t size = 77;
    open_u64(&f, *PNX_CACHE_OPTS(.capacity_entries = 10));
    CHECK_EQ(put_u64(&f, 1, 2), 0);
    CHECK_EQ(pnx_cache_put(NULL, &key, 8, &value, 8, 0), -EINVAL);
    CHECK_EQ(pnx_cache_put(f.cache, NULL, 8, &value, 8, 0), -EINVAL);
    CHECK_EQ(pnx_cache_put(f.cache, NULL, 0, &value, 8, 0), -EINVAL);
    CHECK_EQ(pnx_cache_put(f.cache, &key, 8, NULL, 8, 0), -EINVAL);
    CHECK_EQ(pnx_cache_put(f.cache, &key, 8, NULL, 0, 0), -EINVAL);
    CHECK_EQ(pnx_cache_put_if_absent(f.cache, &key, 8, NULL, 8, 0), -EINVAL);
    CHECK_EQ(pnx_cache_get_copy(NULL, &key, 8, &value, 8, &size), -EINVAL);
    CHECK_EQ(pnx_cache_get_copy(f.cache, NULL, 8, &value, 8, &size), -EINVAL);
    CHECK_EQ(pnx_cache_get_copy(f.cache, &key, 8, NULL, 8, &size), -EINVAL);
    CHECK_EQ(pnx_cache_remove(f.cache, NULL, 8), -EINVAL);
    CHECK_EQ(pnx_cache_remove(f.cache, NULL, 0), -EINVAL);
    CHECK_EQ(pnx_cache_get_many(f.cache, NULL, 8, 1, &value, 8, &found), -EINVAL);
    CHECK_EQ(pnx_cache_get_many(f.cache, &key, 8, 1, NULL, 8, &found), -EINVAL);
    CHECK_EQ(pnx_cache_get_many(f.cache, &key, 8, 1, &value, 8, NULL), -EINVAL);
    CHECK_EQ(pnx_cache_each_copy(NULL, visit_none, NULL), -EINVAL);
    CHECK_EQ(pnx_cache_each_copy(f.cache, NULL, NULL), -EINVAL);
    CHECK_EQ(found, 77);
    CHECK_EQ(size, 77);
    CHECK_EQ(value, 2);
    CHECK_EQ(stats_of(&f).inserts, 1);
    CHECK_EQ(stats_of(&f).hits + stats_of(&f).misses, 0);
    fixture_close(&f);
}

static int load_nothing(
        void *ctx, const void *key, size_t key_size, pnx_ns deadline, struct pnx_cache_load *load) {
    (void)ctx, (void)key, (void)key_size, (void)deadline, (void)load;
    return -EIO;
}

static int visit_ref(void *ctx, const struct pnx_cache_ref *ref) {
    (void)ctx, (void)ref;
    return -EIO;
}

TEST(references_and_pointers_are_not_supported) {
    struct fixture f;
    uint64_t key = 1;
    struct pnx_cache_ref ref = {0};
    open_u64(&f, *PNX_CACHE_OPTS(.capacity_entries = 10));
    CHECK_EQ(put_u64(&f, 1, 2), 0);
    CHECK_EQ(pnx_cache_get(f.cache, &key, 8, &ref), -ENOTSUP);
    CHECK_EQ(pnx_cache_probe(f.cache, &key, 8, &ref), -ENOTSUP);
    CHECK_EQ(
            pnx_cache_get_or_load(f.cache, &key, 8, load_nothing, NULL, 0, &f.err, &ref), -ENOTSUP);
    CHECK_EQ(pnx_cache_put_pointer(f.cache, &key, 8, &f, 8, 0), -ENOTSUP);
    CHECK_EQ(pnx_cache_put_pointer_if_absent(f.cache, &key, 8, &f, 8, 0), -ENOTSUP);
    CHECK_EQ(pnx_cache_each(f.cache, visit_ref, NULL), -ENOTSUP);
    CHECK(!ref.entry);
    CHECK_EQ(stats_of(&f).inserts, 1);
    check_u64(&f, 1, 2);
    fixture_close(&f);
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 10));
    CHECK_EQ(pnx_cache_each_copy(f.cache, visit_none, NULL), -ENOTSUP);
    fixture_close(&f);
}

TEST(a_buffer_that_is_too_small_is_left_alone_and_the_size_is_told) {
    struct fixture f;
    unsigned char key[5] = {1}, value[13] = {2}, got[13] = {0};
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 10, .key_bytes = 5, .value_bytes = 13));
    CHECK_EQ(pnx_cache_put(f.cache, key, 5, value, 13, 0), 0);
    for (size_t cap = 0; cap < 13; cap++) {
        size_t size = 0;
        CHECK_EQ(pnx_cache_get_copy(f.cache, key, 5, got, cap, &size), -ERANGE);
        CHECK_EQ(size, 13);
        CHECK_EQ(pnx_cache_get_copy(f.cache, key, 5, got, cap, NULL), -ERANGE);
        CHECK_EQ(got[0], 0);
    }
    size_t size = 0;
    CHECK_EQ(pnx_cache_get_copy(f.cache, key, 5, NULL, 0, &size), -ERANGE);
    CHECK_EQ(size, 13);
    CHECK_EQ(pnx_cache_get_copy(f.cache, key, 5, got, 13, NULL), 0);
    CHECK_EQ(got[0], 2);
    fixture_close(&f);
}

TEST(a_lookup_that_finds_nothing_leaves_buffer_and_size_as_they_were) {
    for (int lru = 0; lru < 2; lru++) {
        struct fixture f;
        uint64_t key = 1, got = 77;
        size_t size = 78;
        open_u64(&f, *PNX_CACHE_OPTS(.capacity_entries = 10, .policy = lru ? "lru" : "s3-fifo"));
        CHECK_EQ(pnx_cache_get_copy(f.cache, &key, 8, &got, 8, &size), -ENOENT);
        CHECK_EQ(put_u64(&f, 2, 2), 0); /* there is a policy now, which may want its lock */
        CHECK_EQ(pnx_cache_get_copy(f.cache, &key, 8, &got, 8, &size), -ENOENT);
        CHECK_EQ(got, 77);
        CHECK_EQ(size, 78);
        CHECK_EQ(stats_of(&f).misses, 2);
        fixture_close(&f);
    }
}

/* ---- the end ---- */

static void check_shut(struct fixture *f) {
    uint64_t key = 1, value = 2, found = 77;
    size_t size = 77;
    struct pnx_cache_ref ref = {0};
    CHECK_EQ(put_u64(f, 1, 2), -ESHUTDOWN);
    CHECK_EQ(put_u64(f, 9, 2), -ESHUTDOWN);
    CHECK_EQ(pnx_cache_put(f->cache, &key, 8, &value, 8, PNX_SEC), -ESHUTDOWN);
    CHECK_EQ(pnx_cache_put_if_absent(f->cache, &key, 8, &value, 8, 0), -ESHUTDOWN);
    value = 77;
    CHECK_EQ(pnx_cache_get_copy(f->cache, &key, 8, &value, 8, &size), -ESHUTDOWN);
    CHECK_EQ(pnx_cache_get_copy(f->cache, &key, 8, &value, 4, &size), -ESHUTDOWN);
    CHECK_EQ(pnx_cache_get_many(f->cache, &key, 8, 1, &value, 8, &found), -ESHUTDOWN);
    CHECK_EQ(pnx_cache_remove(f->cache, &key, 8), -ESHUTDOWN);
    CHECK_EQ(pnx_cache_clear(f->cache), -ESHUTDOWN);
    CHECK_EQ(pnx_cache_each_copy(f->cache, visit_none, NULL), -ESHUTDOWN);
    CHECK_EQ(pnx_cache_resize(f->cache, 0, 5, NULL), -ESHUTDOWN);
    CHECK_EQ(pnx_cache_tick(f->cache, PNX_NEVER - 1), PNX_NEVER);
    CHECK(!ref.entry);
    CHECK_EQ(value, 77);
    CHECK_EQ(found, 77);
    CHECK_EQ(size, 77);
}

TEST(after_close_everything_is_refused) {
    for (int lru = 0; lru < 2; lru++) {
        struct fixture f;
        uint64_t key = 3;
        open_u64(&f, *PNX_CACHE_OPTS(.capacity_entries = 10, .policy = lru ? "lru" : "sieve"));
        CHECK_EQ(put_u64(&f, 1, 2), 0);
        CHECK_EQ(pnx_cache_put(f.cache, &key, 8, &key, 8, PNX_SEC), 0);
        CHECK_EQ(pnx_cache_close(f.cache), 0);
        check_shut(&f);
        CHECK_EQ(pnx_cache_close(f.cache), 0);
        check_shut(&f);
        CHECK_EQ(stats_of(&f).removed_closed, 2);
        check_sums(&f);
        fixture_close(&f);
    }
}

static void in_child(void *ctx) {
    struct fixture *f = ctx;
    struct pnx_cache_stats stats = {.size = sizeof(stats)};
    check_shut(f);
    CHECK_EQ(pnx_cache_close(f->cache), -ESHUTDOWN);
    CHECK_EQ(pnx_cache_check(f->cache, NULL), -ESHUTDOWN);
    CHECK_EQ(pnx_cache_read_stats(f->cache, &stats), -ESHUTDOWN);
    CHECK_EQ(pnx_cache_set_ttl(f->cache, PNX_SEC, NULL), -ESHUTDOWN);
    pnx_cache_release(&f->cache);
    CHECK(!f->cache);
    _exit(0);
}

TEST(a_forked_child_is_refused) {
    struct fixture f;
    open_u64(&f, *PNX_CACHE_OPTS(.capacity_entries = 10, .policy = "sieve"));
    CHECK_EQ(put_u64(&f, 1, 2), 0);
    CHECK_EQ(test_child(in_child, &f), 0);
    check_u64(&f, 1, 2);
    fixture_close(&f);
}

/* ---- what calls do ---- */

TEST(entries_are_stored_replaced_kept_and_removed) {
    struct fixture f;
    uint64_t key = 1, value = 5;
    open_u64(&f, *PNX_CACHE_OPTS(.capacity_entries = 10));
    check_no_u64(&f, 1);
    CHECK_EQ(remove_u64(&f, 1), -ENOENT);
    CHECK_EQ(put_u64(&f, 1, 3), 0);
    check_u64(&f, 1, 3);
    CHECK_EQ(put_u64(&f, 1, 4), 0);
    check_u64(&f, 1, 4);
    CHECK_EQ(pnx_cache_put_if_absent(f.cache, &key, 8, &value, 8, 0), -EEXIST);
    check_u64(&f, 1, 4);
    CHECK_EQ(remove_u64(&f, 1), 0);
    check_no_u64(&f, 1);
    CHECK_EQ(remove_u64(&f, 1), -ENOENT);
    CHECK_EQ(pnx_cache_put_if_absent(f.cache, &key, 8, &value, 8, PNX_SEC), 0);
    check_u64(&f, 1, 5);
    test_env_advance(&f.te, PNX_SEC);
    value = 6; /* one that has expired is none */
    CHECK_EQ(pnx_cache_put_if_absent(f.cache, &key, 8, &value, 8, PNX_SEC), 0);
    check_u64(&f, 1, 6);
    test_env_advance(&f.te, PNX_SEC);
    CHECK_EQ(remove_u64(&f, 1), -ENOENT);
    struct pnx_cache_stats s = stats_of(&f);
    CHECK_EQ(s.inserts, 4);
    CHECK_EQ(s.removed_replaced, 1);
    CHECK_EQ(s.removed_explicit, 1);
    CHECK_EQ(s.removed_expired, 2);
    CHECK_EQ(s.hits, 5);
    CHECK_EQ(s.misses, 2);
    CHECK_EQ(s.entries, 0);
    check_sums(&f);
    fixture_close(&f);
}

TEST(values_that_follow_one_another_are_counted_for_the_thread_that_asks) {
    struct fixture f;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 100, .key_bytes = 3, .value_bytes = 9,
                             .policy = "clock"));
    unsigned char key[3], value[9], got[9];
    for (uint64_t i = 0; i < 50; i++) {
        bytes_of(i, 3, key);
        bytes_of(i, 9, value);
        CHECK_EQ(pnx_cache_put(f.cache, key, 3, value, 9, 0), 0);
    }
    for (uint64_t i = 0; i < 80; i++) {
        bytes_of(i, 3, key);
        CHECK_EQ(pnx_cache_get_copy(f.cache, key, 3, got, 9, NULL), i < 50 ? 0 : -ENOENT);
    }
    CHECK_EQ(stats_of(&f).hits, 50);
    CHECK_EQ(stats_of(&f).misses, 30);
    fixture_close(&f);
}

TEST(a_clear_takes_all_and_gives_their_memory_back) {
    for (uint32_t shards = 1; shards <= 16; shards *= 4) {
        struct fixture f;
        open_u64(&f,
                *PNX_CACHE_OPTS(.capacity_entries = 4000, .policy = "s3-fifo", .shards = shards));
        CHECK_EQ(pnx_cache_clear(f.cache), 0);
        for (uint64_t i = 0; i < 3000; i++)
            CHECK_EQ(put_u64(&f, i, i), 0);
        CHECK(stats_of(&f).index > 0);
        CHECK_EQ(pnx_cache_clear(f.cache), 0);
        CHECK_EQ(stats_of(&f).entries, 0);
        CHECK_EQ(stats_of(&f).index, 0);
        CHECK_EQ(stats_of(&f).removed_clear, 3000);
        for (uint64_t i = 0; i < 3000; i++)
            check_no_u64(&f, i);
        for (uint64_t i = 0; i < 3000; i += 2)
            CHECK_EQ(put_u64(&f, i, i + 1), 0);
        for (uint64_t i = 0; i < 3000; i += 2)
            check_u64(&f, i, i + 1);
        check_sums(&f);
        fixture_close(&f);
    }
}

static int count_visits(void *ctx, const void *key, const void *value) {
    (void)key, (void)value;
    (*(int *)ctx)++;
    return 0;
}

/* The moment of a clear is the raising of a number; no shard has been looked at yet. */
TEST(a_clear_takes_effect_for_all_shards_at_one_moment) {
    struct fixture f;
    uint64_t keys[PNX_CACHE_MANY_MAX], values[PNX_CACHE_MANY_MAX], found = 77;
    int visits = 0;
    open_u64(&f, *PNX_CACHE_OPTS(.capacity_entries = 4000, .policy = "s3-fifo", .shards = 16));
    for (uint64_t i = 0; i < 1000; i++)
        CHECK_EQ(put_u64(&f, i, i), 0);
    for (uint64_t i = 0; i < PNX_CACHE_MANY_MAX; i++)
        keys[i] = i;
    pnx_fetch_add(&f.cache->epoch, 1, PNX_RELAXED, "test_fixed.clear");
    for (uint64_t i = 0; i < 1000; i++)
        check_no_u64(&f, i);
    CHECK_EQ(pnx_cache_get_many(f.cache, keys, 8, PNX_CACHE_MANY_MAX, values, 8, &found), 0);
    CHECK_EQ(found, 0);
    uint64_t key = 500;
    CHECK_EQ(pnx_cache_remove(f.cache, &key, 8), -ENOENT);
    CHECK_EQ(pnx_cache_put_if_absent(f.cache, &key, 8, &key, 8, 0), 0);
    check_u64(&f, 500, 500);
    CHECK_EQ(put_u64(&f, 501, 502), 0);
    check_u64(&f, 501, 502);
    CHECK_EQ(pnx_cache_each_copy(f.cache, count_visits, &visits), 0);
    CHECK_EQ(visits, 2);
    CHECK_EQ(pnx_cache_tick(f.cache, f.te.now), PNX_NEVER);
    CHECK_EQ(stats_of(&f).removed_clear, 1000);
    CHECK_EQ(stats_of(&f).entries, 2);
    check_sums(&f);
    fixture_close(&f);
}

/* ---- capacity ---- */

TEST(p1_a_capacity_in_bytes_is_one_in_entries_of_their_cost) {
    struct fixture f;
    size_t cost = pnx_cache_cost_fixed(8, 8);
    open_u64(&f, *PNX_CACHE_OPTS(.capacity = 1000 * cost + cost - 1));
    for (uint64_t i = 0; i < 5000; i++) {
        CHECK_EQ(put_u64(&f, i, i), 0);
        CHECK_EQ(stats_of(&f).entries, i < 1000 ? i + 1 : 1000);
    }
    CHECK_EQ(stats_of(&f).bytes, 1000 * cost);
    CHECK_EQ(stats_of(&f).removed_size, 4000);
    check_sums(&f);
    fixture_close(&f);
}

TEST(p1_a_resize_evicts_at_once_and_gives_room_at_once) {
    for (uint32_t shards = 1; shards <= 8; shards *= 8) {
        struct fixture f;
        size_t cost = pnx_cache_cost_fixed(8, 8);
        open_u64(
                &f, *PNX_CACHE_OPTS(.capacity_entries = 1000, .policy = "sieve", .shards = shards));
        for (uint64_t i = 0; i < 2000; i++)
            CHECK_EQ(put_u64(&f, i, i), 0);
        CHECK_EQ(stats_of(&f).entries, 1000);
        CHECK_EQ(pnx_cache_resize(f.cache, 0, 100, &f.err), 0);
        CHECK_EQ(stats_of(&f).entries, 100);
        check_sums(&f);
        CHECK_EQ(pnx_cache_resize(f.cache, 50 * cost, 0, &f.err), 0);
        CHECK_EQ(stats_of(&f).entries, 50);
        check_sums(&f);
        for (uint64_t i = 0; i < 200; i++)
            CHECK_EQ(put_u64(&f, i, i), 0);
        CHECK_EQ(stats_of(&f).entries, 50);
        CHECK_EQ(pnx_cache_resize(f.cache, 0, 0, &f.err), -EINVAL);
        CHECK_EQ(pnx_cache_resize(f.cache, 3000 * cost, 2000, &f.err), 0);
        for (uint64_t i = 0; i < 5000; i++)
            CHECK_EQ(put_u64(&f, i, i), 0);
        CHECK_EQ(stats_of(&f).entries, 2000);
        check_sums(&f);
        fixture_close(&f);
    }
}

TEST(p1_no_policy_lets_a_cache_grow_beyond_its_capacity_or_lose_count) {
    const struct pnx_cache_policy *policy;
    for (size_t i = 0; (policy = pnx_cache_policy_at(i)) != NULL; i++) {
        for (uint32_t shards = 1; shards <= 4; shards *= 4) {
            struct fixture f;
            uint64_t rng = test_seed() + i, hits = 0, lookups = 0;
            open_u64(&f, *PNX_CACHE_OPTS(.capacity_entries = 600,
                                 .capacity = 5000 * pnx_cache_cost_fixed(8, 8),
                                 .policy = policy->name, .shards = shards));
            for (uint64_t n = 0; n < (test_slow() ? 4000u : 20000u); n++) {
                uint64_t r = test_random(&rng), key = r % (r >> 32 & 1 ? 100 : 2000), value = 0;
                int rc = get_u64(&f, key, &value);
                CHECK(rc == 0 || rc == -ENOENT);
                CHECK(rc != 0 || value == key * 3);
                hits += rc == 0;
                lookups++;
                value = key * 3;
                pnx_ns ttl = n % 11 ? 0 : PNX_SEC;
                if (rc != 0)
                    CHECK_EQ(pnx_cache_put(f.cache, &key, 8, &value, 8, ttl), 0);
                if (n % 13 == 0)
                    CHECK_EQ(put_u64(&f, key, value), 0);
                if (n % 17 == 0)
                    remove_u64(&f, test_random(&rng) % 2000);
                if (n % 101 == 0)
                    test_env_advance(&f.te, PNX_MS * 10);
                if (n % 499 == 0)
                    check_sums(&f);
                CHECK(stats_of(&f).entries <= 600);
            }
            struct pnx_cache_stats s = stats_of(&f);
            CHECK_EQ(s.hits, hits);
            CHECK_EQ(s.hits + s.misses, lookups);
            CHECK(s.entries > 500);
            CHECK_MSG(hits > lookups / 4, "%s: %llu hits", policy->name, (unsigned long long)hits);
            CHECK_EQ(pnx_cache_resize(f.cache, 0, 50, &f.err), 0);
            CHECK_EQ(stats_of(&f).entries, 50);
            check_sums(&f);
            fixture_close(&f);
        }
    }
}

TEST(p2_under_lru_what_was_used_longest_ago_goes_first) {
    struct fixture f;
    uint64_t keys[2] = {3, 4}, values[2], found;
    open_u64(&f, *PNX_CACHE_OPTS(.capacity_entries = 5, .policy = "lru"));
    for (uint64_t i = 1; i <= 5; i++)
        CHECK_EQ(put_u64(&f, i, i), 0);
    check_u64(&f, 1, 1); /* a use, as are a replacement and a lookup of many; a walk is not */
    CHECK_EQ(put_u64(&f, 2, 20), 0);
    CHECK_EQ(pnx_cache_get_many(f.cache, keys, 8, 2, values, 8, &found), 2);
    int visits = 0;
    CHECK_EQ(pnx_cache_each_copy(f.cache, count_visits, &visits), 0);
    CHECK_EQ(visits, 5);
    static const uint64_t order[] = {5, 1, 2, 3, 4};
    for (uint64_t i = 0; i < 5; i++) {
        CHECK_EQ(put_u64(&f, 10 + i, i), 0);
        CHECK_EQ(stats_of(&f).removed_size, i + 1);
        int left = 0;
        CHECK_EQ(pnx_cache_each_copy(f.cache, count_visits, &left), 0);
        CHECK_EQ(left, 5);
        for (uint64_t k = i + 1; k < 5; k++) {
            struct pnx_cache_found_fixed there; /* without a use */
            CHECK(pnx__cache_fixed_search(f.cache->shards->own_table,
                    pnx__hash(f.cache->seed, &order[k], 8), &order[k], 8, f.cache->shape.stride,
                    false, &there));
        }
    }
    for (uint64_t k = 1; k <= 5; k++)
        check_no_u64(&f, k);
    fixture_close(&f);
}

TEST(p2_under_lfu_what_was_used_least_often_goes_first) {
    struct fixture f;
    open_u64(&f, *PNX_CACHE_OPTS(.capacity_entries = 4, .policy = "lfu"));
    for (uint64_t i = 1; i <= 4; i++) {
        CHECK_EQ(put_u64(&f, i, i), 0);
        for (uint64_t n = 0; n < 20 - 4 * i; n++)
            check_u64(&f, i, i);
    }
    CHECK_EQ(put_u64(&f, 5, 5), 0);
    check_no_u64(&f, 4);
    for (uint64_t i = 1; i <= 3; i++)
        check_u64(&f, i, i);
    check_u64(&f, 5, 5);
    check_sums(&f);
    fixture_close(&f);
}

/* AUTO shadows a sample of requests from 496 entries on: those of keys whose hash ends so lock. */
TEST(p2_auto_is_told_of_its_sample_of_requests) {
    struct fixture f;
    open_u64(&f, *PNX_CACHE_OPTS(.capacity_entries = 2000, .policy = "auto", .shards = 1));
    CHECK_EQ(put_u64(&f, 0, 0), 0);
    uint64_t wants = pnx_load(&f.cache->shards->wants, PNX_RELAXED, "test_fixed.wants");
    CHECK(wants & PNX_CACHE_WANTS_ACCESS);
    uint64_t rng = test_seed(), locking = 0, hits = 0, misses = 0;
    for (uint64_t n = 0; n < (test_slow() ? 5000u : 50000u); n++) {
        uint64_t key = test_random(&rng) % (n % 2 ? 500 : 6000), value;
        int rc = get_u64(&f, key, &value);
        wants = pnx_load(&f.cache->shards->wants, PNX_RELAXED, "test_fixed.wants_now");
        locking += pnx__cache_wants_lock(wants, pnx__hash(f.cache->seed, &key, 8));
        hits += rc == 0;
        misses += rc == -ENOENT;
        if (rc == 0)
            CHECK_EQ(value, key + 1 - (key == 0));
        else
            CHECK_EQ(put_u64(&f, key, key + 1 - (key == 0)), 0);
        if (n % 1000 == 0)
            check_sums(&f);
    }
    CHECK(locking > 0);
    CHECK_EQ(stats_of(&f).hits, hits);
    CHECK_EQ(stats_of(&f).misses, misses);
    CHECK_EQ(stats_of(&f).entries, 2000);
    fixture_close(&f);
}

TEST(a_large_index_is_in_order) {
    struct fixture f;
    uint64_t most = test_slow() ? 40000 : 300000;
    open_u64(&f, *PNX_CACHE_OPTS(.capacity_entries = most, .policy = "sieve", .shards = 1));
    for (uint64_t i = 0; i < most + most / 2; i++)
        CHECK_EQ(put_u64(&f, i, ~i), 0);
    CHECK_EQ(stats_of(&f).entries, most);
    check_sums(&f);
    uint64_t found = 0, value;
    for (uint64_t i = 0; i < most + most / 2; i++) {
        int rc = get_u64(&f, i, &value);
        found += rc == 0;
        CHECK(rc != 0 || value == ~i);
    }
    CHECK_EQ(found, most);
    fixture_close(&f);
}

/* ---- walks ---- */

struct meddler {
    struct fixture *f;
    uint64_t visits;
    uint64_t end_at;
};

static int meddle(void *ctx, const void *key, const void *value) {
    struct meddler *m = ctx;
    uint64_t k, v;
    memcpy(&k, key, 8);
    memcpy(&v, value, 8);
    CHECK_EQ(v, k + 1);
    if (k < 1000) {
        CHECK_EQ(remove_u64(m->f, k), 0);
        CHECK_EQ(put_u64(m->f, k + 1000000, k + 1000001), 0);
        CHECK_EQ(pnx_cache_tick(m->f->cache, m->f->te.now), PNX_NEVER);
    }
    return ++m->visits == m->end_at ? 42 : 0;
}

TEST(p5_a_visitor_may_call_the_cache_and_end_the_walk) {
    for (uint32_t shards = 1; shards <= 4; shards *= 4) {
        struct fixture f;
        open_u64(&f, *PNX_CACHE_OPTS(.capacity_entries = 5000, .policy = "fifo", .shards = shards));
        for (uint64_t i = 0; i < 1000; i++)
            CHECK_EQ(put_u64(&f, i, i + 1), 0);
        struct meddler m = {&f, 0, 300};
        CHECK_EQ(pnx_cache_each_copy(f.cache, meddle, &m), 42);
        CHECK_EQ(m.visits, 300);
        m = (struct meddler){&f, 0, 0};
        CHECK_EQ(pnx_cache_each_copy(f.cache, meddle, &m), 0);
        for (uint64_t i = 0; i < 1000; i++) { /* each of the old ones was visited */
            check_no_u64(&f, i);
            check_u64(&f, i + 1000000, i + 1000001);
        }
        CHECK_EQ(stats_of(&f).entries, 1000);
        check_sums(&f);
        fixture_close(&f);
    }
}

static int clear_it(void *ctx, const void *key, const void *value) {
    struct meddler *m = ctx;
    (void)key, (void)value;
    m->visits++;
    if (m->visits == 1 && m->end_at == 1)
        CHECK_EQ(pnx_cache_clear(m->f->cache), 0);
    if (m->visits == 1 && m->end_at == 2)
        CHECK_EQ(pnx_cache_close(m->f->cache), 0);
    return 0;
}

TEST(a_walk_ends_when_its_visitor_clears_or_closes) {
    for (uint64_t how = 1; how <= 2; how++) {
        struct fixture f;
        open_u64(&f, *PNX_CACHE_OPTS(.capacity_entries = 5000, .policy = "fifo", .shards = 4));
        for (uint64_t i = 0; i < 4000; i++)
            CHECK_EQ(put_u64(&f, i, i), 0);
        struct meddler m = {&f, 0, how};
        CHECK_EQ(pnx_cache_each_copy(f.cache, clear_it, &m), 0);
        CHECK(m.visits < 1000); /* what was copied already */
        CHECK_EQ(stats_of(&f).entries, 0);
        fixture_close(&f);
    }
}

TEST(a_walk_leaves_out_what_has_expired) {
    struct fixture f;
    open_u64(&f, *PNX_CACHE_OPTS(.capacity_entries = 100));
    for (uint64_t i = 0; i < 20; i++)
        CHECK_EQ(pnx_cache_put(f.cache, &i, 8, &i, 8, i % 2 ? PNX_SEC : PNX_NEVER), 0);
    test_env_advance(&f.te, PNX_SEC);
    int visits = 0;
    CHECK_EQ(pnx_cache_each_copy(f.cache, count_visits, &visits), 0);
    CHECK_EQ(visits, 10);
    fixture_close(&f);
}

/* ---- many at once ---- */

static void look_up_many(size_t key_size, size_t value_size, const char *policy, uint32_t shards) {
    struct fixture f;
    static unsigned char keys[(PNX_CACHE_MANY_MAX + 1) * KEY_MOST];
    static unsigned char values[(PNX_CACHE_MANY_MAX + 1) * VALUE_MOST];
    unsigned char expected[VALUE_MOST];
    uint64_t rng = test_seed();
    fixture_open(
            &f, PNX_CACHE_OPTS(.capacity_entries = 1000, .key_bytes = (uint32_t)key_size,
                        .value_bytes = (uint32_t)value_size, .policy = policy, .shards = shards));
    for (uint64_t i = 0; i < 200; i += 2) {
        bytes_of(i, key_size, keys);
        bytes_of(i + 7, value_size, values);
        pnx_ns ttl = i % 10 == 4 ? PNX_SEC : PNX_NEVER;
        CHECK_EQ(pnx_cache_put(f.cache, keys, key_size, values, value_size, ttl), 0);
    }
    test_env_advance(&f.te, PNX_SEC);
    for (size_t n = 0; n <= PNX_CACHE_MANY_MAX + 1; n++) {
        uint64_t number[PNX_CACHE_MANY_MAX + 1], found = 77;
        struct pnx_cache_stats before = stats_of(&f);
        int there = 0;
        for (size_t k = 0; k < n; k++) {
            number[k] = test_random(&rng) % 200;
            bytes_of(number[k], key_size, keys + k * key_size);
        }
        memset(values, 0x5a, sizeof(values));
        int rc = pnx_cache_get_many(f.cache, keys, key_size, n, values, value_size, &found);
        if (n > PNX_CACHE_MANY_MAX) {
            CHECK_EQ(rc, -E2BIG);
            CHECK_EQ(found, 77);
            break;
        }
        for (size_t k = 0; k < n; k++) {
            bool is = number[k] % 2 == 0 && number[k] % 10 != 4;
            there += is;
            CHECK_EQ(found >> k & 1, is);
            if (is)
                bytes_of(number[k] + 7, value_size, expected);
            else
                memset(expected, 0x5a, value_size);
            CHECK_EQ(memcmp(values + k * value_size, expected, value_size), 0);
        }
        CHECK(n == 64 || found >> n == 0);
        CHECK_EQ(values[n * value_size], 0x5a);
        CHECK_EQ(rc, there);
        struct pnx_cache_stats after = stats_of(&f);
        CHECK_EQ(after.hits - before.hits, there);
        CHECK_EQ(after.misses - before.misses, n - (size_t)there);
    }
    check_sums(&f);
    fixture_close(&f);
}

TEST(many_keys_are_found_at_once) {
    look_up_many(8, 8, "s3-fifo", 1);
    look_up_many(8, 8, "lru", 1); /* which asks for each under its lock */
    look_up_many(5, 13, "sieve", 4);
    look_up_many(64, 256, "auto", 2);
    look_up_many(1, 1, "clock", 1);
}

/* ---- lookups without the lock ---- */

TEST(p8_a_hit_allocates_nothing_and_takes_no_lock_and_counts_up_to_the_policys_maximum) {
    struct fixture f;
    uint64_t keys[2] = {1, 2}, values[2], found;
    open_u64(&f, *PNX_CACHE_OPTS(.capacity_entries = 10, .policy = "s3-fifo"));
    CHECK_EQ(put_u64(&f, 1, 2), 0);
    struct pnx_cache_shard *shard = f.cache->shards;
    int64_t allocations = f.te.allocations;
    uint64_t key = 1;
    struct pnx_cache_found_fixed its;
    CHECK(pnx__cache_fixed_search(shard->own_table, pnx__hash(f.cache->seed, &key, 8), &key, 8,
            f.cache->shape.stride, true, &its));
    CHECK_EQ(pnx_cache_slot_hits(&shard->view, its.slot), 0);
    pnx__mutex_lock(&shard->lock); /* a hit that wanted it would never return */
    for (uint32_t i = 1; i < 10; i++) {
        check_u64(&f, 1, 2);
        CHECK_EQ(pnx_cache_slot_hits(&shard->view, its.slot), i < 3 ? i : 3);
    }
    check_no_u64(&f, 2);
    CHECK_EQ(pnx_cache_get_many(f.cache, keys, 8, 2, values, 8, &found), 1);
    pnx__mutex_unlock(&shard->lock);
    CHECK_EQ(f.te.allocations, allocations);
    fixture_close(&f);
}

/* Tags are compared so that a free position may be taken for one with a tag: a search comes to a record in which nothing stands.
 * What is left of a key there may be this key's words. */
TEST(a_record_in_which_nothing_stands_is_no_keys_whatever_its_words_are) {
    struct fixture f;
    uint64_t key = 100, value = 77, one = 1, found = 0;
    open_u64(&f, *PNX_CACHE_OPTS(.capacity_entries = 10, .policy = "s3-fifo"));
    CHECK_EQ(put_u64(&f, 1, 10), 0);
    uint64_t hash = pnx__hash(f.cache->seed, &key, 8);
    struct pnx_cache_table *table = f.cache->shards->own_table;
    uint32_t slot = pnx__cache_fixed_free_slot(table, hash);
    struct pnx_cache_fixed *record = pnx__cache_fixed_at(table, slot);
    CHECK(record->seq.v & 1);
    memcpy((void *)record->word, &key, 8);
    pnx__cache_fixed_table_put(table, hash, slot);
    CHECK_EQ(get_u64(&f, key, &value), -ENOENT);
    CHECK_EQ(pnx_cache_get_many(f.cache, &key, 8, 1, &value, 8, &found), 0);
    CHECK_EQ(value, 77);
    CHECK_EQ(remove_u64(&f, key), -ENOENT);
    pnx__cache_fixed_table_take(table, hash, slot);
    CHECK_EQ(get_u64(&f, one, &value), 0);
    CHECK_EQ(stats_of(&f).hits, 1);
    CHECK_EQ(stats_of(&f).misses, 2);
    check_sums(&f);
    fixture_close(&f);
}

/* Every tag, in every position, beside every other. */
TEST(a_group_is_searched_for_a_tag) {
    uint64_t rng = test_seed();
    for (uint32_t n = 0; n < (test_slow() ? 20000u : 200000u); n++) {
        uint8_t bytes[16];
        uint64_t low, high;
        for (uint32_t i = 0; i < 16; i++)
            bytes[i] = (uint8_t)(test_random(&rng) % 3 ? test_random(&rng) : n % 4);
        uint32_t tag = bytes[n % 16];
        memcpy(&low, bytes, 8);
        memcpy(&high, bytes + 8, 8);
        uint64_t match = pnx__cache_group_match(low, high, tag), all = 0;
        for (uint64_t m = match; m; m &= m - 1)
            all |= UINT64_C(1) << pnx__bytes16_position(m);
        CHECK(all < UINT64_C(1) << PNX_CACHE_GROUP_SLOTS);
        for (uint32_t i = 0; i < PNX_CACHE_GROUP_SLOTS; i++) {
            uint64_t word = i < 8 ? low : high;
            if ((word >> i % 8 * 8 & 0xff) == tag)
                CHECK(all >> i & 1);
        }
        if (match) {
            uint32_t at = pnx__bytes16_position(match);
            CHECK_EQ((at < 8 ? low : high) >> at % 8 * 8 & 0xff, tag);
        }
    }
}

/* ---- typed ---- */

struct price {
    uint64_t amount;
    uint32_t currency;
    uint32_t digits;
};
PNX_CACHE_DEFINE(prices, uint32_t, struct price)

TEST(typed_forms_make_a_cache_of_fixed_sizes) {
    struct fixture f;
    struct price price = {0}, many[3] = {{0}};
    uint32_t keys[3] = {1, 2, 3};
    uint64_t found = 0;
    fixture_worlds(&f);
    struct pnx_cache_opts opts = fixture_opts(&f, PNX_CACHE_OPTS(.capacity_entries = 10));
    CHECK_EQ(prices_create(NULL, &f.err, &f.cache), -EINVAL);
    CHECK_EQ(prices_create(&opts, &f.err, NULL), -EINVAL);
    opts.size = 0;
    CHECK_EQ(prices_create(&opts, &f.err, &f.cache), -EINVAL);
    opts.size = sizeof(opts);
    CHECK_EQ(prices_create(&opts, &f.err, &f.cache), 0);
    CHECK_EQ(opts.key_bytes, 0); /* the caller's are as they were */
    CHECK_EQ(f.cache->shape.key_bytes, sizeof(uint32_t));
    CHECK_EQ(f.cache->shape.value_bytes, sizeof(struct price));
    CHECK_EQ(prices_get(f.cache, 1, &price), -ENOENT);
    CHECK_EQ(prices_put(f.cache, 1, (struct price){15, 978, 1}, 0), 0);
    CHECK_EQ(prices_put_if_absent(f.cache, 1, (struct price){16, 978, 1}, 0), -EEXIST);
    CHECK_EQ(prices_put_if_absent(f.cache, 3, (struct price){35, 978, 1}, PNX_SEC), 0);
    CHECK_EQ(prices_get(f.cache, 1, &price), 0);
    CHECK(price.amount == 15 && price.currency == 978);
    CHECK_EQ(prices_get_many(f.cache, keys, 3, many, &found), 2);
    CHECK_EQ(found, 5);
    CHECK(many[0].amount == 15 && many[1].amount == 0 && many[2].amount == 35);
    CHECK_EQ(prices_remove(f.cache, 1), 0);
    CHECK_EQ(prices_remove(f.cache, 1), -ENOENT);
    CHECK_EQ(prices_get(f.cache, 1, &price), -ENOENT);
    CHECK_EQ(price.amount, 15);
    fixture_close(&f);
}
