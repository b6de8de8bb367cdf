/* SPDX-License-Identifier: Apache-2.0 */
/*
 * hypothesis_shim.c - one cache on a virtual clock behind flat functions with integers, for test_hypothesis.py.
 *
 * Keys are one byte, values a number each; whatever is destroyed goes into a log.  One cache at a time, one thread.
 */
#include "harness/shim.h"

#include <patinox/cache.h>
#include <patinox/reclaim.h>

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LOGGED 4096
#define HELD   8

static struct world {
    struct pnx_cache *cache;
    struct pnx_cache_ref refs[HELD];
    struct pnx_cache_reservation reservations[HELD];
    int64_t log[2 * LOGGED]; /* value, cause */
    int32_t logged;
    char path[64];
    struct pnx_error err;
    struct pnx_cache_file_report report;
} w;

static void destroy(void *ctx, const struct pnx_cache_removed *removed) {
    (void)ctx;
    if (w.logged == LOGGED || removed->value_size != sizeof(int64_t))
        abort();
    memcpy(&w.log[2 * w.logged], removed->value, sizeof(int64_t));
    w.log[2 * w.logged++ + 1] = removed->cause;
}

static int64_t value_of(const struct pnx_cache_ref *ref) {
    int64_t value = -1;
    if (pnx_cache_ref_data(ref))
        memcpy(&value, pnx_cache_ref_data(ref), sizeof(value));
    return value;
}

/* ---- what the test calls; a value, or a negative error ---- */

/* As model_cache.py has it. */
static uint64_t weigh(
        void *ctx, const void *key, size_t key_size, const void *value, size_t value_size) {
    int64_t number;
    (void)ctx, (void)key;
    if (key_size != 1 || value_size != sizeof(number))
        abort();
    memcpy(&number, value, sizeof(number));
    return number % 11 == 0 ? 100 : (uint64_t)number % 6;
}

/* weight: its capacity; 0: without weights. */
API int shim_create(uint64_t entries, uint64_t weight, int64_t now) {
    shim_now = now;
    w.logged = 0;
    strcpy(w.path, "/tmp/pnx-model-XXXXXX");
    int fd = mkstemp(w.path);
    if (fd < 0)
        return -1;
    close(fd);
    return pnx_cache_create(
            PNX_CACHE_OPTS(.env = &shim_env, .capacity_entries = entries, .policy = "lru",
                    .registry = pnx_registry_off(), .stats = pnx_stats_off(),
                    .budget = pnx_budget_off(), .destroy = destroy,
                    .weigher = weight ? weigh : NULL, .capacity_weight = weight),
            &w.err, &w.cache);
}

API void shim_release(void) {
    pnx_cache_release(&w.cache);
    for (int i = 0; i < HELD; i++) {
        pnx_cache_ref_release(&w.refs[i]);
        pnx_cache_abort(&w.reservations[i]);
    }
    unlink(w.path);
    (void)!pnx_reclaim_barrier(NULL, PNX_NEVER);
}

API const char *shim_check(void) {
    return pnx_cache_check(w.cache, &w.err) ? w.err.message : NULL;
}

API const int64_t *shim_log(int32_t *ret_n) {
    *ret_n = w.logged;
    w.logged = 0;
    return w.log;
}

API int64_t shim_stat(int which) {
    struct pnx_cache_stats stats = {.size = sizeof(stats)};
    if (pnx_cache_read_stats(w.cache, &stats))
        return -1;
    const uint64_t values[] = {stats.hits, stats.misses, stats.inserts, stats.removed_explicit,
            stats.removed_replaced, stats.removed_size, stats.removed_expired, stats.removed_clear,
            stats.entries, stats.pinned, stats.computes, stats.compute_retries, stats.weight,
            stats.rejected};
    return (int64_t)values[which];
}

API int shim_put(uint8_t key, int64_t value, int64_t ttl, int if_absent) {
    return if_absent ? pnx_cache_put_if_absent(w.cache, &key, 1, &value, sizeof(value), ttl)
                     : pnx_cache_put(w.cache, &key, 1, &value, sizeof(value), ttl);
}

/* how: 0 get, 1 copy, 2 probe, 3 view, 4 get and hold in a place that is free. */
API int64_t shim_get(uint8_t key, int how, int place) {
    struct pnx_cache_ref ref = {0};
    struct pnx_cache_bytes view;
    int64_t value = -1;
    int rc;
    if (how == 1) {
        rc = pnx_cache_get_copy(w.cache, &key, 1, &value, sizeof(value), NULL);
        return rc ? rc : value;
    }
    if (how == 3) {
        pnx_reclaim_enter(NULL);
        rc = pnx_cache_view(w.cache, &key, 1, &view);
        if (rc == 0)
            memcpy(&value, view.data, sizeof(value));
        pnx_reclaim_exit(NULL);
        return rc ? rc : value;
    }
    rc = how == 2 ? pnx_cache_probe(w.cache, &key, 1, &ref) : pnx_cache_get(w.cache, &key, 1, &ref);
    if (rc)
        return rc;
    value = value_of(&ref);
    if (how == 4)
        w.refs[place] = ref;
    else
        pnx_cache_ref_release(&ref);
    return value;
}

API int64_t shim_let_go(int place) {
    int64_t value = value_of(&w.refs[place]);
    pnx_cache_ref_release(&w.refs[place]);
    return value;
}

API int shim_remove(uint8_t key) {
    return pnx_cache_remove(w.cache, &key, 1);
}

API int shim_reserve(uint8_t key, int64_t value, int place, int more) {
    int rc = pnx_cache_reserve(
            w.cache, &key, 1, sizeof(value) + (size_t)more, &w.reservations[place]);
    if (rc == 0)
        memcpy(w.reservations[place].data, &value, sizeof(value));
    return rc;
}

/* how: 0 commit, 1 if absent, 2 abort. */
API int shim_commit(int place, int64_t ttl, int how) {
    if (how == 0)
        return pnx_cache_commit(&w.reservations[place], sizeof(int64_t), ttl);
    if (how == 1)
        return pnx_cache_commit_if_absent(&w.reservations[place], sizeof(int64_t), ttl);
    pnx_cache_abort(&w.reservations[place]);
    return 0;
}

struct wish {
    int what; /* 0 keep, 1 remove, 2 set, 3 fail, 4 set and keep the time to live */
    int64_t value;
    int64_t ttl;
    int64_t saw;
};

static int decide(void *ctx, const struct pnx_cache_ref *now, struct pnx_cache_change *change) {
    struct wish *wish = ctx;
    wish->saw = value_of(now);
    if (wish->what == 1)
        return pnx_cache_change_remove(change);
    if (wish->what == 2)
        (void)pnx_cache_change_ttl(change, wish->ttl);
    if (wish->what == 4)
        (void)pnx_cache_change_keep_ttl(change);
    if (wish->what >= 2) {
        int rc = pnx_cache_change_set(change, &wish->value, sizeof(wish->value));
        return wish->what == 3 ? -5 : rc;
    }
    return 0;
}

API int shim_compute(
        uint8_t key, int what, int64_t value, int64_t ttl, int64_t *ret_saw, int64_t *ret_left) {
    struct wish wish = {what, value, ttl, -1};
    struct pnx_cache_ref ref = {0};
    int rc = pnx_cache_compute(w.cache, &key, 1, decide, &wish, &ref);
    *ret_saw = wish.saw;
    *ret_left = value_of(&ref);
    pnx_cache_ref_release(&ref);
    return rc;
}

struct made {
    int64_t value;
    int64_t ttl;
    int code; /* of the loader, which sets its value unless that is -ENOENT */
};

static int make(
        void *ctx, const void *key, size_t key_size, pnx_ns deadline, struct pnx_cache_load *load) {
    const struct made *made = ctx;
    (void)key, (void)key_size, (void)deadline;
    if (made->code == -ENOENT)
        return made->code;
    int rc = pnx_cache_load_set_ttl(load, made->ttl);
    if (rc == 0)
        rc = pnx_cache_load_set(load, &made->value, sizeof(made->value));
    return rc ? rc : made->code;
}

struct told {
    int times;
    int code;
    int64_t value;
};

static void tell(struct pnx_cache_request *request, int code, struct pnx_cache_ref ref,
        const struct pnx_error *err) {
    struct told *told = request->arg;
    (void)err;
    told->times++;
    told->code = code;
    told->value = value_of(&ref);
    pnx_cache_ref_release(&ref);
}

/* how: 0 get_or_load, 1 with a copy, 2 by a request, 3 refresh: 0 or an error. */
API int64_t shim_get_or_load(uint8_t key, int how, int64_t value, int64_t ttl, int code) {
    struct made made = {value, ttl, code};
    struct pnx_cache_ref ref = {0};
    int64_t got = -1;
    int rc;
    if (how == 0) {
        rc = pnx_cache_get_or_load(w.cache, &key, 1, make, &made, PNX_SEC, &w.err, &ref);
        got = value_of(&ref);
        pnx_cache_ref_release(&ref);
    } else if (how == 1) {
        rc = pnx_cache_get_or_load_copy(
                w.cache, &key, 1, make, &made, PNX_SEC, &w.err, &got, sizeof(got), NULL);
    } else if (how == 2) {
        struct told told = {0};
        struct pnx_cache_request request = {.done = tell, .arg = &told};
        rc = pnx_cache_get_async(w.cache, &key, 1, make, &made, PNX_SEC, &request);
        if (rc || told.times != 1)
            abort();
        rc = told.code;
        got = told.value;
    } else {
        rc = pnx_cache_refresh(w.cache, &key, 1, make, &made, PNX_SEC, &w.err);
        got = 0;
    }
    return rc ? rc : got;
}

/* Fills found, as many as there are keys, with values; -1 where there is none. */
API int shim_get_many(const uint8_t *keys, int n, int64_t *found) {
    uint64_t bits = 0;
    int64_t values[PNX_CACHE_MANY_MAX];
    int rc = pnx_cache_get_many(w.cache, keys, 1, (size_t)n, values, sizeof(int64_t), &bits);
    for (int i = 0; i < n; i++)
        found[i] = rc >= 0 && (bits >> i & 1) ? values[i] : -1;
    return rc;
}

/* Stores with a time to live that is the cache's for this call. */
API int shim_put_by_default(uint8_t key, int64_t value, int64_t ttl) {
    int rc = pnx_cache_set_ttl(w.cache, ttl, &w.err);
    if (rc == 0)
        rc = pnx_cache_put(w.cache, &key, 1, &value, sizeof(value), 0);
    int reset = pnx_cache_set_ttl(w.cache, PNX_NEVER, &w.err);
    return rc ? rc : reset;
}

static bool keep(void *ctx, const struct pnx_cache_ref *ref) {
    return value_of(ref) % 3 != *(int *)ctx;
}
API int64_t shim_retain(int rest) {
    return pnx_cache_retain(w.cache, keep, &rest);
}

static int count(void *ctx, const struct pnx_cache_ref *ref) {
    *(int64_t *)ctx += value_of(ref);
    return 0;
}
API int64_t shim_sum(void) {
    int64_t sum = 0;
    int rc = pnx_cache_each(w.cache, count, &sum);
    return rc ? rc : sum;
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

API int shim_resize_weight(uint64_t weight) {
    return pnx_cache_resize_weight(w.cache, weight, &w.err);
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
