/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_wheel.c - what expires in caches of fixed sizes, on a virtual clock: the timing wheel.
 *
 * An entry is there until a tick of 67 ms before its time at least, and never at its time or after.
 */
#include "cache/fixed_bytes.h"
#include "cache/internal.h"

/* The furthest that a wheel of five levels looks, in ticks; beyond it slots are put off. */
#define HORIZON ((uint64_t)1 << 30)

static void open_u64(struct fixture *f, uint64_t entries) {
    fixture_open(f, PNX_CACHE_OPTS(.capacity_entries = entries, .key_bytes = 8, .value_bytes = 8));
}

static void put(struct fixture *f, uint64_t key, pnx_ns ttl) {
    CHECK_EQ(pnx_cache_put(f->cache, &key, 8, &key, 8, ttl), 0);
}

static bool there(struct fixture *f, uint64_t key) {
    uint64_t value = 0;
    int rc = pnx_cache_get_copy(f->cache, &key, 8, &value, 8, NULL);
    CHECK(rc == 0 || rc == -ENOENT);
    CHECK(rc != 0 || value == key);
    return rc == 0;
}

static void set_clock(struct fixture *f, pnx_ns now) {
    test_env_virtual(&f->te, now);
}

/* Ticks until nothing is due; returns when the cache wants to be called next. */
static pnx_ns drain(struct fixture *f) {
    for (uint64_t n = 0;; n++) {
        struct pnx_cache_stats before = stats_of(f);
        pnx_ns next = pnx_cache_tick(f->cache, f->te.now);
        struct pnx_cache_stats after = stats_of(f);
        CHECK(next >= f->te.now);
        CHECK(after.removed_expired - before.removed_expired <= PNX_CACHE_TICK_MAX);
        if (next > f->te.now)
            return next;
        CHECK_MSG(n < 1000000, "ticks never come to an end");
    }
}

/* ---- one entry ---- */

/* Times to live around the borders of all levels, and beyond the last. */
static size_t ttls(uint64_t *rng, pnx_ns *ret_ttl) {
    size_t n = 0;
    ret_ttl[n++] = PNX_CACHE_FIXED_TTL_MIN;
    ret_ttl[n++] = PNX_CACHE_FIXED_TTL_MIN + TICK - 1;
    for (uint32_t level = 0; level <= 5; level++) {
        uint64_t span = UINT64_C(1) << (6 * level);
        for (uint64_t k = 1; k <= 64; k += k < 3 ? 1 : 20) {
            for (int off = -1; off <= 1; off++) {
                uint64_t ticks = k * span + (uint64_t)off;
                if (ticks >= 2 && ticks < HORIZON * 3)
                    ret_ttl[n++] = (pnx_ns)ticks * TICK + (pnx_ns)(test_random(rng) % TICK);
            }
        }
    }
    ret_ttl[n++] = (pnx_ns)(HORIZON + 1) * TICK;
    ret_ttl[n++] = (pnx_ns)(HORIZON * 2 + 12345) * TICK;
    ret_ttl[n++] = (pnx_ns)(HORIZON * 3) * TICK + 7;
    return n;
}

TEST(p3_an_entry_is_there_until_a_tick_before_its_time_and_never_after) {
    pnx_ns ttl[256];
    uint64_t rng = test_seed();
    size_t n = ttls(&rng, ttl);
    CHECK(n > 60 && n < 256);
    for (size_t i = 0; i < n; i++) {
        struct fixture f;
        open_u64(&f, 10);
        test_env_advance(&f.te, (pnx_ns)(test_random(&rng) % (100 * TICK)));
        pnx_ns gone = f.te.now + ttl[i];
        put(&f, 1, ttl[i]);
        CHECK(there(&f, 1));
        set_clock(&f, gone - TICK);
        CHECK_MSG(there(&f, 1), "a time to live of %lld ns ends too early", (long long)ttl[i]);
        set_clock(&f, gone);
        CHECK_MSG(!there(&f, 1), "a time to live of %lld ns does not end", (long long)ttl[i]);
        CHECK(drain(&f) == PNX_NEVER);
        CHECK_EQ(stats_of(&f).entries, 0);
        CHECK_EQ(stats_of(&f).removed_expired, 1);
        fixture_close(&f);
    }
}

TEST(ticks_that_are_made_when_they_are_wanted_remove_each_entry_in_its_time) {
    pnx_ns ttl[256];
    uint64_t rng = test_seed();
    size_t n = ttls(&rng, ttl);
    for (size_t i = 0; i < n; i++) {
        struct fixture f;
        open_u64(&f, 10);
        test_env_advance(&f.te, (pnx_ns)(test_random(&rng) % (100 * TICK)));
        CHECK_EQ(pnx_cache_tick(f.cache, f.te.now), PNX_NEVER); /* nothing expires */
        pnx_ns gone = f.te.now + ttl[i];
        put(&f, 1, ttl[i]);
        uint32_t calls = 0;
        while (stats_of(&f).entries > 0) {
            pnx_ns next = pnx_cache_tick(f.cache, f.te.now);
            CHECK_MSG(++calls < 100, "%u ticks for one entry", calls);
            if (stats_of(&f).entries == 0)
                break;
            CHECK(there(&f, 1));
            CHECK_MSG(next <= gone, "wants to be called %lld ns late", (long long)(next - gone));
            CHECK(next > f.te.now);
            set_clock(&f, next);
        }
        CHECK(f.te.now > gone - TICK && f.te.now <= gone);
        CHECK_EQ(stats_of(&f).removed_expired, 1);
        CHECK_EQ(pnx_cache_tick(f.cache, f.te.now), PNX_NEVER);
        fixture_close(&f);
    }
}

/* Ticks are numbers of 32 bits: what would live longer goes when they end, nine years after the cache was made. */
TEST(p3_times_beyond_all_ticks_are_cut) {
    struct fixture f;
    const pnx_ns ticks = ((pnx_ns)1 << 32) - 2 - PNX_CACHE_TICK_FIRST;
    pnx_ns start = PNX_SEC, end = start + ticks * TICK;
    CHECK(end >= (pnx_ns)(9 * 36525 * 864) * PNX_SEC);
    open_u64(&f, 10);
    put(&f, 1, PNX_NEVER - 1);
    put(&f, 2, PNX_NEVER);
    put(&f, 3, (pnx_ns)1 << 60);
    CHECK(pnx_cache_tick(f.cache, f.te.now) <= end);
    set_clock(&f, end - 1);
    CHECK(there(&f, 1) && there(&f, 2) && there(&f, 3));
    CHECK(drain(&f) <= end);
    CHECK_EQ(stats_of(&f).entries, 3);
    set_clock(&f, end);
    CHECK(!there(&f, 1) && there(&f, 2) && !there(&f, 3));
    set_clock(&f, end + 10 * ((pnx_ns)1 << 58));
    CHECK_EQ(drain(&f), PNX_NEVER);
    CHECK_EQ(stats_of(&f).entries, 1);
    CHECK(there(&f, 2));
    put(&f, 4, PNX_SEC); /* there are no ticks any more by which it could go later */
    CHECK(!there(&f, 4));
    put(&f, 5, PNX_NEVER);
    CHECK(there(&f, 5));
    fixture_close(&f);
}

TEST(a_tick_takes_any_time) {
    static const pnx_ns times[] = {INT64_MIN, -1, 0, 1};
    struct fixture f;
    open_u64(&f, 100);
    for (uint64_t i = 0; i < 20; i++)
        put(&f, i, PNX_SEC);
    for (size_t i = 0; i < sizeof(times) / sizeof(times[0]); i++) {
        pnx_ns next = pnx_cache_tick(f.cache, times[i]);
        CHECK(next >= times[i] && next <= 2 * PNX_SEC);
        CHECK_EQ(stats_of(&f).entries, 20);
    }
    pnx_ns far = PNX_SEC + ((pnx_ns)1 << 58) + PNX_MS; /* where a tick has 33 bits */
    CHECK_EQ(pnx_cache_tick(f.cache, far), far);
    CHECK_EQ(stats_of(&f).entries, 12);
    CHECK_EQ(pnx_cache_tick(f.cache, PNX_NEVER), PNX_NEVER);
    CHECK_EQ(stats_of(&f).entries, 4);
    CHECK_EQ(pnx_cache_tick(f.cache, PNX_NEVER), PNX_NEVER);
    CHECK_EQ(stats_of(&f).entries, 0);
    fixture_close(&f);
}

/* ---- several ---- */

TEST(a_tick_removes_a_bounded_number_and_says_that_more_are_due) {
    for (uint32_t shards = 1; shards <= 8; shards *= 8) {
        struct fixture f;
        fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 1000, .key_bytes = 8, .value_bytes = 8,
                                 .policy = "fifo", .shards = shards));
        for (uint64_t i = 0; i < 100; i++)
            put(&f, i, PNX_SEC);
        put(&f, 1000, PNX_NEVER);
        pnx_ns next = pnx_cache_tick(f.cache, f.te.now);
        CHECK(next > f.te.now && next <= f.te.now + PNX_SEC);
        test_env_advance(&f.te, PNX_SEC);
        uint32_t calls = 0;
        do {
            struct pnx_cache_stats before = stats_of(&f);
            next = pnx_cache_tick(f.cache, f.te.now);
            CHECK(before.entries - stats_of(&f).entries <= PNX_CACHE_TICK_MAX);
            CHECK(next == f.te.now || stats_of(&f).entries == 1);
            CHECK(++calls < 100);
        } while (next != PNX_NEVER);
        CHECK(calls >= 100 / PNX_CACHE_TICK_MAX);
        CHECK_EQ(stats_of(&f).entries, 1);
        CHECK_EQ(stats_of(&f).removed_expired, 100);
        CHECK(there(&f, 1000));
        fixture_close(&f);
    }
}

TEST(a_clock_that_stands_still_has_nothing_to_do_twice) {
    struct fixture f;
    open_u64(&f, 1000);
    for (uint64_t i = 0; i < 500; i++)
        put(&f, i, (pnx_ns)(i + 2) * 3 * TICK);
    pnx_ns next = drain(&f);
    for (int i = 0; i < 100; i++)
        CHECK_EQ(pnx_cache_tick(f.cache, f.te.now), next);
    CHECK_EQ(stats_of(&f).entries, 500);
    set_clock(&f, next);
    drain(&f);
    next = drain(&f);
    for (int i = 0; i < 100; i++)
        CHECK_EQ(pnx_cache_tick(f.cache, f.te.now), next);
    check_invariants(&f);
    fixture_close(&f);
}

TEST(a_clock_that_jumps_by_years_leaves_nothing_that_has_expired) {
    struct fixture f;
    uint64_t rng = test_seed();
    open_u64(&f, 2000);
    for (uint64_t i = 0; i < 1000; i++) /* up to four years */
        put(&f, i, PNX_CACHE_FIXED_TTL_MIN + (pnx_ns)(test_random(&rng) >> (7 + i % 30)));
    put(&f, 1000, PNX_NEVER);
    test_env_advance(&f.te, (pnx_ns)1 << 57);
    CHECK_EQ(drain(&f), PNX_NEVER);
    CHECK_EQ(stats_of(&f).removed_expired, 1000);
    CHECK_EQ(stats_of(&f).entries, 1);
    put(&f, 1, PNX_SEC);
    test_env_advance(&f.te, PNX_SEC - TICK);
    CHECK(there(&f, 1));
    test_env_advance(&f.te, TICK);
    CHECK(!there(&f, 1));
    CHECK_EQ(drain(&f), PNX_NEVER);
    CHECK_EQ(stats_of(&f).entries, 1);
    fixture_close(&f);
}

TEST(a_clock_that_goes_back_returns_nothing_late_and_loses_nothing) {
    struct fixture f;
    open_u64(&f, 100);
    pnx_ns start = f.te.now;
    put(&f, 1, 100 * PNX_SEC);
    set_clock(&f, start + 50 * PNX_SEC);
    put(&f, 2, 10 * PNX_SEC);
    drain(&f);                          /* the wheel has come to the 50th second */
    set_clock(&f, start - PNX_SEC / 2); /* before the cache was made */
    CHECK(there(&f, 1) && there(&f, 2));
    drain(&f);
    put(&f, 3, 10 * PNX_SEC);
    CHECK(there(&f, 3));
    set_clock(&f, start);
    put(&f, 4, 10 * PNX_SEC);
    check_invariants(&f);
    set_clock(&f, start + 9 * PNX_SEC);
    drain(&f);
    CHECK(there(&f, 1) && there(&f, 2) && there(&f, 3) && there(&f, 4));
    set_clock(&f, start + 10 * PNX_SEC);
    CHECK(there(&f, 1) && there(&f, 2) && !there(&f, 3) && !there(&f, 4));
    set_clock(&f, start + 60 * PNX_SEC);
    CHECK(there(&f, 1) && !there(&f, 2));
    drain(&f); /* the two that came behind the wheel went with the next bucket it came to */
    CHECK_EQ(stats_of(&f).entries, 1);
    set_clock(&f, start + 100 * PNX_SEC);
    CHECK_EQ(drain(&f), PNX_NEVER);
    CHECK_EQ(stats_of(&f).entries, 0);
    fixture_close(&f);
}

/* ---- slots that are used again ---- */

TEST(a_slot_that_is_used_again_is_judged_by_what_it_holds) {
    static const pnx_ns second[] = {100 * PNX_SEC, PNX_SEC, PNX_NEVER};
    for (size_t i = 0; i < 3; i++) {
        struct fixture f;
        uint64_t key = 1;
        open_u64(&f, 10);
        pnx_ns start = f.te.now;
        put(&f, 1, 10 * PNX_SEC);
        CHECK_EQ(pnx_cache_remove(f.cache, &key, 8), 0);
        CHECK_EQ(f.cache->shards->timed, 1);
        put(&f, 1, second[i]); /* in the same slot: it is the first free one of its home */
        CHECK_EQ(f.cache->shards->timed, 1);
        check_invariants(&f);
        if (second[i] ==
                PNX_SEC) { /* its memory comes back later than its time, as the other's would have */
            set_clock(&f, start + PNX_SEC);
            CHECK(!there(&f, 1));
            drain(&f);
        } else {
            set_clock(&f, start + 10 * PNX_SEC);
            pnx_ns next = drain(&f);
            CHECK(there(&f, 1));
            CHECK(second[i] == PNX_NEVER ? next == PNX_NEVER : next <= start + 100 * PNX_SEC);
            check_invariants(&f);
        }
        set_clock(&f, start + 100 * PNX_SEC);
        CHECK_EQ(drain(&f), PNX_NEVER);
        CHECK_EQ(there(&f, 1), second[i] == PNX_NEVER);
        CHECK_EQ(stats_of(&f).entries, second[i] == PNX_NEVER);
        fixture_close(&f);
    }
}

TEST(a_slot_that_is_free_when_the_wheel_comes_is_let_go) {
    struct fixture f;
    uint64_t key = 1;
    open_u64(&f, 10);
    put(&f, 1, 10 * PNX_SEC);
    put(&f, 2, PNX_NEVER);
    CHECK_EQ(pnx_cache_remove(f.cache, &key, 8), 0);
    test_env_advance(&f.te, 20 * PNX_SEC);
    CHECK_EQ(drain(&f), PNX_NEVER);
    CHECK_EQ(stats_of(&f).removed_expired, 0);
    CHECK_EQ(f.cache->shards->timed, 0);
    put(&f, 3, PNX_SEC);
    test_env_advance(&f.te, PNX_SEC);
    CHECK_EQ(drain(&f), PNX_NEVER);
    CHECK_EQ(stats_of(&f).removed_expired, 1);
    fixture_close(&f);
}

TEST(a_clock_that_is_set_back_behind_the_making_of_the_cache_makes_nothing_expire_sooner) {
    struct fixture f;
    const pnx_ns made = 100 * 86400 * PNX_SEC, day = 86400 * PNX_SEC;
    fixture_worlds(&f);
    set_clock(&f, made);
    struct pnx_cache_opts opts = fixture_opts(
            &f, PNX_CACHE_OPTS(.capacity_entries = 10, .key_bytes = 8, .value_bytes = 8));
    CHECK_EQ(pnx_cache_create(&opts, &f.err, &f.cache), 0);
    put(&f, 1, 10 * PNX_SEC);
    for (int days = 1; days <= 25; days += 8) {
        pnx_ns back = made - days * day;
        set_clock(&f, back);
        CHECK(there(&f, 1));
        put(&f, 2, 10 * PNX_SEC);
        set_clock(&f, back + 10 * PNX_SEC - TICK);
        CHECK(there(&f, 2));
        set_clock(&f, back + 10 * PNX_SEC);
        CHECK(!there(&f, 2));
        CHECK(drain(&f) > f.te.now);
        check_invariants(&f);
    }
    set_clock(&f, made + 10 * PNX_SEC);
    CHECK(!there(&f, 1));
    CHECK_EQ(drain(&f), PNX_NEVER);
    CHECK_EQ(stats_of(&f).entries, 0);
    fixture_close(&f);
}

TEST(a_value_that_replaces_another_has_its_own_time) {
    static const pnx_ns to[] = {PNX_SEC, 100 * PNX_SEC, PNX_NEVER};
    for (size_t from = 0; from < 3; from++) {
        for (size_t then = 0; then < 3; then++) {
            for (int ttl_policy = 0; ttl_policy < 2; ttl_policy++) {
                struct fixture f;
                fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 10, .key_bytes = 8,
                                         .value_bytes = 8, .policy = ttl_policy ? "ttl" : "lru"));
                pnx_ns start = f.te.now;
                put(&f, 1, to[from]);
                put(&f, 1, to[then]);
                check_invariants(&f);
                set_clock(&f, start + PNX_SEC);
                CHECK_EQ(there(&f, 1), to[then] != PNX_SEC);
                drain(&f);
                set_clock(&f, start + 100 * PNX_SEC - TICK);
                CHECK_EQ(there(&f, 1), to[then] != PNX_SEC);
                drain(&f);
                set_clock(&f, start + 100 * PNX_SEC);
                CHECK_EQ(there(&f, 1), to[then] == PNX_NEVER);
                CHECK_EQ(drain(&f), PNX_NEVER);
                CHECK_EQ(stats_of(&f).entries, to[then] == PNX_NEVER);
                CHECK_EQ(stats_of(&f).removed_replaced, 1);
                fixture_close(&f);
            }
        }
    }
}

TEST(p2_what_has_expired_goes_before_what_the_policy_would_evict) {
    struct fixture f;
    open_u64(&f, 20);
    for (uint64_t i = 0; i < 10; i++)
        put(&f, i, PNX_NEVER); /* the oldest */
    for (uint64_t i = 10; i < 20; i++)
        put(&f, i, PNX_SEC);
    test_env_advance(&f.te, PNX_SEC);
    for (uint64_t i = 20; i < 30; i++)
        put(&f, i, i % 2 ? PNX_NEVER : 100 * PNX_SEC);
    CHECK_EQ(stats_of(&f).removed_expired, 10);
    CHECK_EQ(stats_of(&f).removed_size, 0);
    for (uint64_t i = 0; i < 30; i++)
        CHECK_EQ(there(&f, i), i < 10 || i >= 20);
    put(&f, 30, PNX_NEVER);
    CHECK_EQ(stats_of(&f).removed_size, 1);
    CHECK_EQ(pnx_cache_resize(f.cache, 0, 5, &f.err), 0);
    CHECK_EQ(stats_of(&f).removed_size, 16);
    fixture_close(&f);
}

/* ---- against an array ---- */

#define KEYS 512

static struct model {
    bool is[KEYS];
    pnx_ns gone[KEYS];
} model;

/* A length between from and 2^bits, each order of magnitude as likely as another. */
static pnx_ns length(uint64_t *rng, pnx_ns from, uint32_t bits) {
    return from + (pnx_ns)(test_random(rng) >> (64 - bits) >> test_random(rng) % (bits - 20));
}

/* What is to be found now; *ret_first: the first time at which one of it goes. */
static uint64_t compare(struct fixture *f, pnx_ns *ret_first) {
    uint64_t n = 0;
    *ret_first = PNX_NEVER;
    for (uint64_t k = 0; k < KEYS; k++) {
        bool must =
                model.is[k] && (model.gone[k] == PNX_NEVER || f->te.now <= model.gone[k] - TICK);
        bool may = model.is[k] && (model.gone[k] == PNX_NEVER || f->te.now < model.gone[k]);
        bool is = there(f, k);
        CHECK_MSG(is ? may : !must, "key %llu is %sthere at %lld, its time is %lld",
                (unsigned long long)k, is ? "" : "not ", (long long)f->te.now,
                (long long)model.gone[k]);
        n += is;
        if (is && model.gone[k] < *ret_first)
            *ret_first = model.gone[k];
    }
    return n;
}

/*
 * The life of a cache, as far as its ticks reach.  early: entries go and are replaced before their time, so that slots wait in
 * buckets of others.
 */
static void one_life(bool early, uint64_t puts, uint64_t *rng) {
    struct fixture f;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 2 * KEYS, .key_bytes = 8, .value_bytes = 8,
                             .policy = "sieve", .shards = 1));
    memset(&model, 0, sizeof(model));
    for (uint64_t n = 0, compared = 0; n < puts && f.te.now < (pnx_ns)1 << 56;) {
        uint64_t r = test_random(rng), key = r % KEYS;
        if ((early && r >> 32 & 1) || !there(&f, key)) {
            pnx_ns ttl = length(rng, PNX_CACHE_FIXED_TTL_MIN, r >> 40 & 15 ? 36 : 57);
            if ((r >> 44 & 15) == 0)
                ttl = PNX_NEVER;
            model.is[key] = true;
            model.gone[key] = ttl == PNX_NEVER ? PNX_NEVER : f.te.now + ttl;
            put(&f, key, ttl);
            n++;
        }
        if (early && (r >> 48) % 4 == 0) {
            key = test_random(rng) % KEYS;
            int rc = pnx_cache_remove(f.cache, &key, 8);
            CHECK(rc == 0 || rc == -ENOENT);
            model.is[key] = false;
        }
        if ((r >> 50) % 4 == 0)
            test_env_advance(&f.te, length(rng, 1, (r >> 52) % 64 ? 34 : 55));
        if ((r >> 60) % 4 == 0)
            pnx_cache_tick(f.cache, f.te.now);
        if (n >= compared + 128) {
            pnx_ns first, next = drain(&f);
            uint64_t visible = compare(&f, &first);
            /* A slot that waits for the bucket of another gives its memory back with that one. */
            CHECK(early ? stats_of(&f).entries >= visible : stats_of(&f).entries == visible);
            CHECK(early || next <= first);
            check_invariants(&f);
            compared = n;
        }
    }
    uint64_t forever = 0;
    for (uint64_t k = 0; k < KEYS; k++)
        forever += model.is[k] && model.gone[k] == PNX_NEVER;
    set_clock(&f, ((pnx_ns)1 << 58) + 2 * PNX_SEC);
    CHECK_EQ(drain(&f), PNX_NEVER);
    CHECK_EQ(stats_of(&f).entries, forever);
    CHECK_EQ(f.cache->shards->timed, 0);
    fixture_close(&f);
}

static void random_times(bool early) {
    uint64_t rng = test_seed();
    for (uint64_t lives = 0; lives < (test_slow() ? 10 : 70); lives++)
        one_life(early, 1500, &rng);
}

TEST_LIMIT(p3_random_times_end_as_in_an_array_of_them, 120) {
    random_times(false);
}

TEST_LIMIT(p3_also_where_slots_are_used_again_before_their_time, 120) {
    random_times(true);
}
