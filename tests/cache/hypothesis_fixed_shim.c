/* SPDX-License-Identifier: Apache-2.0 */
/*
 * hypothesis_fixed_shim.c - one cache of fixed sizes on a virtual clock behind flat functions with integers, for
 * test_hypothesis_fixed.py.
 *
 * Keys and values are a number each.  One cache at a time, one thread.
 */
#include "harness/shim.h"

#include <patinox/cache.h>
#include <patinox/reclaim.h>

#include <string.h>
#include <unistd.h>

#define VISITED 64

static struct world {
    struct pnx_cache *cache;
    int64_t visited[2 * VISITED]; /* key, value */
    int32_t n_visited;
    char path[64];
    struct pnx_error err;
    struct pnx_cache_file_report report;
} w;

/* ---- what the test calls; a value, or a negative error ---- */

API int shim_create(uint64_t entries, const char *policy, int64_t now, int64_t ttl) {
    shim_now = now;
    strcpy(w.path, "/tmp/pnx-model-XXXXXX");
    int fd = mkstemp(w.path);
    if (fd < 0)
        return -1;
    close(fd);
    return pnx_cache_create(
            PNX_CACHE_OPTS(.env = &shim_env, .capacity_entries = entries, .policy = policy,
                    .key_bytes = 8, .value_bytes = 8, .ttl = ttl, .registry = pnx_registry_off(),
                    .stats = pnx_stats_off(), .budget = pnx_budget_off()),
            &w.err, &w.cache);
}

API void shim_release(void) {
    pnx_cache_release(&w.cache);
    unlink(w.path);
    (void)!pnx_reclaim_barrier(NULL, PNX_NEVER);
}

API const char *shim_check(void) {
    return pnx_cache_check(w.cache, &w.err) ? w.err.message : NULL;
}

API int64_t shim_stat(int which) {
    struct pnx_cache_stats stats = {.size = sizeof(stats)};
    if (pnx_cache_read_stats(w.cache, &stats))
        return -1;
    const uint64_t values[] = {stats.hits, stats.misses, stats.inserts, stats.removed_explicit,
            stats.removed_replaced, stats.computes, stats.compute_retries, stats.loads,
            stats.load_failures, stats.refreshes, stats.refresh_failures, stats.negative_hits,
            stats.rejected, stats.pinned, stats.loading, stats.removed_size, stats.removed_expired,
            stats.removed_clear, stats.entries};
    return (int64_t)values[which];
}

static int visit(void *ctx, const void *key, const void *value) {
    (void)ctx;
    if (w.n_visited == VISITED)
        return -EOVERFLOW;
    memcpy(&w.visited[2 * w.n_visited], key, 8);
    memcpy(&w.visited[2 * w.n_visited++ + 1], value, 8);
    return 0;
}

/* ret[0..2n): the keys and values of n entries, in no order. */
API int shim_each(int64_t *ret) {
    w.n_visited = 0;
    int rc = pnx_cache_each_copy(w.cache, visit, NULL);
    memcpy(ret, w.visited, 2 * sizeof(int64_t) * (size_t)w.n_visited);
    return rc ? rc : w.n_visited;
}

API int shim_put(int64_t key, int64_t value, int64_t ttl, int if_absent) {
    return if_absent ? pnx_cache_put_if_absent(w.cache, &key, 8, &value, 8, ttl)
                     : pnx_cache_put(w.cache, &key, 8, &value, 8, ttl);
}

API int64_t shim_get(int64_t key) {
    int64_t value = -1;
    size_t size = 0;
    int rc = pnx_cache_get_copy(w.cache, &key, 8, &value, 8, &size);
    return rc ? rc : size == 8 ? value : -EPROTO;
}

API int shim_get_many(const int64_t *keys, uint64_t n, int64_t *values, uint64_t *ret_found) {
    return pnx_cache_get_many(w.cache, keys, 8, n, values, 8, ret_found);
}

API int shim_remove(int64_t key) {
    return pnx_cache_remove(w.cache, &key, 8);
}

struct wish {
    int what; /* 0 keep, 1 remove, 2 set, 3 set and fail, 4 set and keep the time to live, 5 fill in place,
                 6 another size, 7 a pointer */
    int64_t value;
    int64_t ttl;
    int64_t saw;
};

static int decide(void *ctx, const void *now, size_t now_size, struct pnx_cache_change *change) {
    struct wish *wish = ctx;
    void *data;
    int rc = 0;
    if (now && now_size == 8)
        memcpy(&wish->saw, now, 8);
    if (wish->what == 0)
        return 0;
    if (wish->what == 1)
        return pnx_cache_change_remove(change);
    rc = wish->what == 4 ? pnx_cache_change_keep_ttl(change)
                         : pnx_cache_change_ttl(change, wish->ttl);
    if (rc)
        return rc;
    if (wish->what == 7)
        return pnx_cache_change_set_pointer(change, &wish->value, 8);
    if (wish->what == 5) {
        rc = pnx_cache_change_reserve(change, 8, &data);
        if (rc == 0)
            memcpy(data, &wish->value, 8);
        return rc;
    }
    rc = pnx_cache_change_set(change, &wish->value, wish->what == 6 ? 7 : 8);
    return wish->what == 3 ? -EIO : rc;
}

API int shim_compute(
        int64_t key, int what, int64_t value, int64_t ttl, int64_t *ret_saw, int64_t *ret_left) {
    struct wish wish = {what, value, ttl, -1};
    size_t size = PNX_CACHE_NOTHING;
    *ret_left = -1;
    int rc = pnx_cache_compute_copy(w.cache, &key, 8, decide, &wish, ret_left, 8, &size);
    *ret_saw = wish.saw;
    return rc == 0 && size != (*ret_left == -1 ? PNX_CACHE_NOTHING : 8) ? -EPROTO : rc;
}

struct order {
    int what; /* 0 a value, 1 filled in place, 2 no such thing, 3 fail, 4 a value, and fail, 5 neither a value nor an
                 error, 6 another size, 7 a pointer */
    int64_t value;
    int64_t ttl;
    int meddle; /* and meanwhile: 0 nothing, 1 put the key, 2 remove it, 3 clear */
    int64_t other;
    int called;
};

static int load(
        void *ctx, const void *key, size_t key_size, pnx_ns deadline, struct pnx_cache_load *load) {
    struct order *order = ctx;
    void *data;
    int rc = pnx_cache_load_set_ttl(load, order->ttl);
    (void)deadline;
    order->called++;
    if (order->meddle == 1)
        (void)!pnx_cache_put(w.cache, key, key_size, &order->other, 8, PNX_NEVER);
    else if (order->meddle == 2)
        (void)pnx_cache_remove(w.cache, key, key_size);
    else if (order->meddle == 3)
        (void)pnx_cache_clear(w.cache);
    if (rc)
        return rc;
    switch (order->what) {
    case 1:
        rc = pnx_cache_load_reserve(load, 8, &data);
        if (rc == 0)
            memcpy(data, &order->value, 8);
        return rc;
    case 2:
        return -ENOENT;
    case 3:
        return -EIO;
    case 5:
        return 0;
    case 7:
        return pnx_cache_load_set_pointer(load, &order->value, 8);
    default:
        rc = pnx_cache_load_set(load, &order->value, order->what == 6 ? 9 : 8);
        return order->what == 4 ? -EIO : rc;
    }
}

/* numbers: what, value, ttl, meddle, other.  ret: the value or -1, calls of the loader. */
API int shim_get_or_load(int64_t key, int refresh, const int64_t *numbers, int64_t *ret) {
    struct order order = {(int)numbers[0], numbers[1], numbers[2], (int)numbers[3], numbers[4], 0};
    pnx_ns timeout = PNX_TIMEOUT_DEFAULT;
    ret[0] = -1;
    int rc = refresh ? pnx_cache_refresh(w.cache, &key, 8, load, &order, timeout, &w.err)
                     : pnx_cache_get_or_load_copy(
                               w.cache, &key, 8, load, &order, timeout, &w.err, ret, 8, NULL);
    ret[1] = order.called;
    return rc;
}

static bool keep(void *ctx, const void *key, const void *value) {
    int64_t number;
    (void)key;
    memcpy(&number, value, 8);
    return number % 3 != *(int *)ctx;
}
API int64_t shim_retain(int rest) {
    return pnx_cache_retain_copy(w.cache, keep, &rest);
}

API int shim_clear(void) {
    return pnx_cache_clear(w.cache);
}

API int64_t shim_tick(int64_t more) {
    shim_now += more;
    return pnx_cache_tick(w.cache, shim_now);
}
API void shim_pass(int64_t more) {
    shim_now += more;
}

API int shim_resize(uint64_t entries) {
    return pnx_cache_resize(w.cache, 0, entries, &w.err);
}

API int shim_set_ttl(int64_t ttl) {
    return pnx_cache_set_ttl(w.cache, ttl, &w.err);
}

API int64_t shim_save(void) {
    w.report = (struct pnx_cache_file_report){.size = sizeof(w.report)};
    int rc = pnx_cache_save(w.cache, w.path, NULL, &w.err, &w.report);
    return rc ? rc : (int64_t)w.report.entries;
}
API int64_t shim_load(int64_t *ret_present, int64_t *ret_expired, int64_t *ret_no_room) {
    w.report = (struct pnx_cache_file_report){.size = sizeof(w.report)};
    int rc = pnx_cache_load_file(w.cache, w.path, NULL, &w.err, &w.report);
    *ret_present = (int64_t)w.report.present;
    *ret_expired = (int64_t)w.report.expired;
    *ret_no_room = (int64_t)w.report.no_room;
    return rc ? rc : (int64_t)w.report.entries;
}

static int never_compute(
        void *ctx, const struct pnx_cache_ref *now, struct pnx_cache_change *change) {
    (void)ctx, (void)now, (void)change;
    abort();
}
static int never_visit(void *ctx, const struct pnx_cache_ref *ref) {
    (void)ctx, (void)ref;
    abort();
}
static bool never_keep(void *ctx, const struct pnx_cache_ref *ref) {
    (void)ctx, (void)ref;
    abort();
}

/* Returns the first of the calls that there are not where sizes are fixed which does not say so, or 0. */
API int shim_refused(int64_t key) {
    struct pnx_cache_ref ref = {0};
    struct pnx_cache_reservation reservation = {0};
    int number = 0;
    const int rcs[] = {
            pnx_cache_get(w.cache, &key, 8, &ref),
            pnx_cache_probe(w.cache, &key, 8, &ref),
            pnx_cache_put_pointer(w.cache, &key, 8, &number, 8, 0),
            pnx_cache_put_pointer_if_absent(w.cache, &key, 8, &number, 8, 0),
            pnx_cache_reserve(w.cache, &key, 8, 8, &reservation),
            pnx_cache_compute(w.cache, &key, 8, never_compute, NULL, &ref),
            pnx_cache_get_or_load(w.cache, &key, 8, load, NULL, 0, &w.err, &ref),
            pnx_cache_each(w.cache, never_visit, NULL),
            (int)pnx_cache_retain(w.cache, never_keep, NULL),
    };
    for (size_t i = 0; i < sizeof(rcs) / sizeof(*rcs); i++) {
        if (rcs[i] != -ENOTSUP)
            return (int)i + 1;
    }
    return 0;
}
