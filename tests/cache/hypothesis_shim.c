/* SPDX-License-Identifier: Apache-2.0 */
/*
 * hypothesis_shim.c - one cache on a virtual clock behind flat functions with integers, for test_hypothesis.py.
 *
 * Keys are one byte, values a number each, as bytes or behind a pointer; whatever is destroyed goes into a log.  One cache at a time, one thread.
 */
#include "harness/shim.h"

#include <patinox/cache.h>
#include <patinox/reclaim.h>

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LOGGED 4096
#define HELD   8
#define BOXED  24 /* what a value behind a pointer counts as: none that is bytes has that size */
#define ABSENT 2  /* what an absence weighs */

#define ASKED 3

struct asked {
    struct pnx_cache_request request;
    int64_t value; /* or the code */
    int told;
};

static struct world {
    struct pnx_cache *cache;
    struct pnx_cache_load *kept;
    struct asked asked[ASKED];
    uint8_t kept_key;
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
    bool boxed = removed->value_size == BOXED;
    if (w.logged == LOGGED || (!boxed && removed->value_size != sizeof(int64_t)))
        abort();
    memcpy(&w.log[2 * w.logged], removed->value, sizeof(int64_t));
    w.log[2 * w.logged++ + 1] = removed->cause;
    if (boxed)
        free(removed->value);
}

static int64_t *box(int64_t value) {
    int64_t *made = malloc(sizeof(*made));
    if (!made)
        abort();
    *made = value;
    return made;
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
    if (key_size == 1 && !value && value_size == 0)
        return ABSENT;
    if (key_size != 1 || (value_size != sizeof(number) && value_size != BOXED))
        abort();
    memcpy(&number, value, sizeof(number));
    return number % 11 == 0 ? 100 : (uint64_t)number % 6;
}

/* weight: its capacity; 0: without weights. */
API int shim_create(
        uint64_t entries, uint64_t weight, int64_t now, int64_t ttl, int64_t negative_ttl) {
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
                    .weigher = weight ? weigh : NULL, .capacity_weight = weight, .ttl = ttl,
                    .negative_ttl = negative_ttl),
            &w.err, &w.cache);
}

/* A load that is kept outlives the cache. */
API void shim_release(void) {
    pnx_cache_release(&w.cache);
    if (w.kept)
        (void)pnx_cache_load_finish(w.kept, -EIO);
    w.kept = NULL;
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
            stats.rejected, stats.negative_hits, stats.loads, stats.load_failures, stats.refreshes,
            stats.refresh_failures, stats.loading, stats.requests};
    return (int64_t)values[which];
}

API int shim_put(uint8_t key, int64_t value, int64_t ttl, int if_absent, int boxed) {
    if (boxed) {
        int64_t *made = box(value);
        int rc = if_absent ? pnx_cache_put_pointer_if_absent(w.cache, &key, 1, made, BOXED, ttl)
                           : pnx_cache_put_pointer(w.cache, &key, 1, made, BOXED, ttl);
        if (rc)
            free(made);
        return rc;
    }
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

/* found: a bit for each; values: what stood there stays where none is found. */
API int shim_get_many(const uint8_t *keys, uint64_t n, int64_t *values, uint64_t *ret_found) {
    return pnx_cache_get_many(w.cache, keys, 1, n, values, sizeof(*values), ret_found);
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
    int what; /* 0 keep, 1 remove, 2 set, 3 set and fail, 4 set and keep the time to live, 5 set a pointer,
                 6 fill in place */
    int64_t value;
    int64_t ttl;
    int64_t saw;
};

static int decide_on(struct wish *wish, struct pnx_cache_change *change) {
    void *data;
    int rc = 0;
    switch (wish->what) {
    case 0:
        return 0;
    case 1:
        return pnx_cache_change_remove(change);
    case 4:
        (void)pnx_cache_change_keep_ttl(change);
        break;
    default:
        (void)pnx_cache_change_ttl(change, wish->ttl);
        break;
    }
    if (wish->what == 5)
        return pnx_cache_change_set_pointer(change, box(wish->value), BOXED);
    if (wish->what == 6) {
        rc = pnx_cache_change_reserve(change, sizeof(wish->value), &data);
        if (rc == 0)
            memcpy(data, &wish->value, sizeof(wish->value));
        return rc;
    }
    rc = pnx_cache_change_set(change, &wish->value, sizeof(wish->value));
    return wish->what == 3 ? -EIO : rc;
}

static int decide(void *ctx, const struct pnx_cache_ref *now, struct pnx_cache_change *change) {
    struct wish *wish = ctx;
    wish->saw = value_of(now);
    return decide_on(wish, change);
}

static int decide_copy(
        void *ctx, const void *now, size_t now_size, struct pnx_cache_change *change) {
    struct wish *wish = ctx;
    if (now_size == sizeof(wish->saw))
        memcpy(&wish->saw, now, sizeof(wish->saw));
    return decide_on(wish, change);
}

/* *ret_saw, *ret_left: -1 for nothing. */
API int shim_compute(uint8_t key, int what, int64_t value, int64_t ttl, int copy, int64_t *ret_saw,
        int64_t *ret_left) {
    struct wish wish = {what, value, ttl, -1};
    struct pnx_cache_ref ref = {0};
    int rc;
    *ret_left = -1;
    if (copy) {
        rc = pnx_cache_compute_copy(
                w.cache, &key, 1, decide_copy, &wish, ret_left, sizeof(*ret_left), NULL);
    } else {
        rc = pnx_cache_compute(w.cache, &key, 1, decide, &wish, &ref);
        *ret_left = value_of(&ref);
        pnx_cache_ref_release(&ref);
    }
    *ret_saw = wish.saw;
    return rc;
}

struct order {
    int what; /* 0 bytes, 1 a pointer, 2 filled in place and cut, 3 two values, the second counts, 4 no such thing,
                 5 fail, 6 a value, and fail, 7 neither a value nor an error, 8 a value, and no such thing */
    int64_t value;
    int64_t ttl;
    int meddle; /* and meanwhile: 0 nothing, 1 put the key, 2 remove it, 3 clear */
    int64_t other;
    int64_t takes;
    int called;
};

static int load(
        void *ctx, const void *key, size_t key_size, pnx_ns deadline, struct pnx_cache_load *load) {
    struct order *order = ctx;
    void *data;
    int rc = pnx_cache_load_set_ttl(load, order->ttl);
    (void)deadline;
    order->called++;
    shim_now += order->takes;
    if (order->meddle == 1)
        (void)!pnx_cache_put(
                w.cache, key, key_size, &order->other, sizeof(order->other), PNX_NEVER);
    else if (order->meddle == 2)
        (void)pnx_cache_remove(w.cache, key, key_size);
    else if (order->meddle == 3)
        (void)pnx_cache_clear(w.cache);
    if (rc == 0 && order->what == 1)
        rc = pnx_cache_load_set_pointer(load, box(order->value), BOXED);
    if (rc == 0 && order->what == 2) {
        rc = pnx_cache_load_reserve(load, 100, &data);
        if (rc == 0)
            memcpy(data, &order->value, sizeof(order->value));
        if (rc == 0)
            rc = pnx_cache_load_shrink(load, sizeof(order->value));
    }
    if (rc == 0 && order->what == 3) /* the number is not used again */
        rc = pnx_cache_load_set(load, &order->other, sizeof(order->other));
    if (rc == 0 && (order->what == 0 || order->what == 3 || order->what == 6 || order->what == 8))
        rc = pnx_cache_load_set(load, &order->value, sizeof(order->value));
    if (rc)
        return rc;
    return order->what == 4 || order->what == 8   ? -ENOENT
           : order->what == 5 || order->what == 6 ? -EIO
                                                  : 0;
}

struct outcome {
    struct pnx_cache_request request;
    struct pnx_cache_ref ref;
    int code;
    int told;
};

static void tell(struct pnx_cache_request *request, int code, struct pnx_cache_ref ref,
        const struct pnx_error *err) {
    struct outcome *outcome = request->arg;
    (void)err;
    outcome->code = code;
    outcome->ref = ref;
    outcome->told++;
}

/* How to load. */
enum { CALL, CALL_AND_HOLD, CALL_COPY, CALL_ASYNC, CALL_ASYNC_NOW, CALL_REFRESH };

/* numbers: what, value, ttl, meddle, other, takes.  ret: the value or -1, its source, calls of the loader. */
API int shim_get_or_load(uint8_t key, int call, int place, const int64_t *numbers, int64_t *ret) {
    struct order order = {
            (int)numbers[0], numbers[1], numbers[2], (int)numbers[3], numbers[4], numbers[5], 0};
    struct outcome outcome = {.request = {.done = tell, .arg = &outcome}};
    pnx_ns timeout = PNX_TIMEOUT_DEFAULT;
    int rc;
    ret[0] = -1;
    if (call == CALL_COPY) {
        rc = pnx_cache_get_or_load_copy(
                w.cache, &key, 1, load, &order, timeout, &w.err, &ret[0], sizeof(ret[0]), NULL);
    } else if (call == CALL_REFRESH) {
        rc = pnx_cache_refresh(w.cache, &key, 1, load, &order, timeout, &w.err);
    } else if (call == CALL_ASYNC || call == CALL_ASYNC_NOW) {
        rc = pnx_cache_get_async(
                w.cache, &key, 1, load, &order, call == CALL_ASYNC ? timeout : 0, &outcome.request);
        if (rc || outcome.told != 1)
            abort();
        rc = outcome.code;
    } else {
        rc = pnx_cache_get_or_load(w.cache, &key, 1, load, &order, timeout, &w.err, &outcome.ref);
    }
    ret[1] = outcome.ref.source;
    ret[2] = order.called;
    if (outcome.ref.entry)
        ret[0] = value_of(&outcome.ref);
    if (call == CALL_AND_HOLD)
        w.refs[place] = outcome.ref;
    else
        pnx_cache_ref_release(&outcome.ref);
    return rc;
}

static int keep_load(
        void *ctx, const void *key, size_t key_size, pnx_ns deadline, struct pnx_cache_load *load) {
    (void)ctx, (void)key, (void)key_size, (void)deadline;
    if (w.kept)
        abort();
    w.kept = load;
    return -EINPROGRESS;
}

static void note(struct pnx_cache_request *request, int code, struct pnx_cache_ref ref,
        const struct pnx_error *err) {
    struct asked *asked = request->arg;
    struct pnx_cache_ref second = {0};
    (void)err;
    asked->value = code;
    asked->told++;
    if (code == 0 && pnx_cache_ref_dup(&ref, &second) == 0)
        asked->value = ref.source * INT64_C(1000000) + value_of(&second);
    pnx_cache_ref_release(&ref);
    pnx_cache_ref_release(&second);
}

/* Asks for a key with a loader that keeps its load; the key stays the same while one is kept.  Returns 1 for a request that
 * waits, else what it was told: its source times a million and the value, or an error. */
API int64_t shim_ask(uint8_t key, int place) {
    struct asked *asked = &w.asked[place];
    *asked = (struct asked){.request = {.done = note, .arg = asked}};
    if (!w.kept)
        w.kept_key = key;
    int rc = pnx_cache_get_async(
            w.cache, &w.kept_key, 1, keep_load, NULL, PNX_TIMEOUT_DEFAULT, &asked->request);
    return rc || asked->told > 1 ? -EPROTO : asked->told == 0 ? 1 : asked->value;
}

API int shim_cancel(int place) {
    int rc = pnx_cache_cancel(&w.asked[place].request);
    return w.asked[place].told ? -EPROTO : rc;
}

/* Ends the load that is kept; ret[i]: what place i was told by that, or 1. */
API int shim_finish(int code, int64_t value, int64_t ttl, int64_t *ret) {
    struct pnx_cache_load *load = w.kept;
    int before[ASKED];
    for (int i = 0; i < ASKED; i++)
        before[i] = w.asked[i].told;
    w.kept = NULL;
    int rc = pnx_cache_load_set_ttl(load, ttl);
    if (rc == 0 && code == 0)
        rc = pnx_cache_load_set(load, &value, sizeof(value));
    if (rc == 0)
        rc = pnx_cache_load_finish(load, code);
    for (int i = 0; i < ASKED; i++)
        ret[i] = w.asked[i].told == before[i] ? 1 : w.asked[i].value;
    return rc;
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

API int shim_set_ttl(int64_t ttl) {
    return pnx_cache_set_ttl(w.cache, ttl, &w.err);
}

API int64_t shim_save(int64_t *ret_left_out) {
    w.report = (struct pnx_cache_file_report){.size = sizeof(w.report)};
    int rc = pnx_cache_save(w.cache, w.path, NULL, &w.err, &w.report);
    *ret_left_out = (int64_t)w.report.left_out;
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
