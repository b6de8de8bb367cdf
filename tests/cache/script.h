/* SPDX-License-Identifier: Apache-2.0 */
/* A loader that does what a test tells it to, for the tests of refreshing and of requests. */
#ifndef PNX_TESTS_CACHE_SCRIPT_H
#define PNX_TESTS_CACHE_SCRIPT_H

#include "cache/common.h"

#include <patinox/executor.h>

#include <pthread.h>
#include <sched.h>

struct script {
    struct fixture *f;
    int calls; /* with the lock, as is what follows */
    int started;
    int code;          /* returned instead of a value */
    const char *value; /* NULL: none is set */
    pnx_ns ttl;
    pnx_ns refresh;
    pnx_ns seen_deadline;
    struct pnx_cache_load *kept; /* of a loader that returned -EINPROGRESS */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool closed_gate; /* loaders wait until the test opens it */
};

static inline void script_init(struct script *s, struct fixture *f, const char *value) {
    *s = (struct script){.f = f, .value = value};
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->changed, NULL);
}

static inline void script_gate(struct script *s, bool closed) {
    pthread_mutex_lock(&s->lock);
    s->closed_gate = closed;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
}

static inline void script_await_started(struct script *s, int n) {
    pthread_mutex_lock(&s->lock);
    while (s->started < n)
        pthread_cond_wait(&s->changed, &s->lock);
    pthread_mutex_unlock(&s->lock);
}

/* Until n callers have waited for loads of the cache: an event that the cache counts. */
static inline void await_waiters(struct fixture *f, uint64_t n) {
    while (stats_of(f).load_waits < n)
        sched_yield();
}

static inline int script_loader(
        void *ctx, const void *key, size_t key_size, pnx_ns deadline, struct pnx_cache_load *load) {
    struct script *s = ctx;
    CHECK(key_size == 0 || key);
    pthread_mutex_lock(&s->lock);
    s->seen_deadline = deadline;
    s->calls++;
    s->started++;
    pthread_cond_broadcast(&s->changed);
    while (s->closed_gate)
        pthread_cond_wait(&s->changed, &s->lock);
    int code = s->code;
    const char *value = s->value;
    if (s->ttl)
        CHECK_EQ(pnx_cache_load_set_ttl(load, s->ttl), 0);
    if (s->refresh)
        CHECK_EQ(pnx_cache_load_set_refresh(load, s->refresh), 0);
    if (code == -EINPROGRESS)
        s->kept = load;
    pthread_mutex_unlock(&s->lock);
    if (code)
        return code;
    return value ? pnx_cache_load_set(load, value, strlen(value) + 1) : 0;
}

/* Loads the key "k" and checks what comes. */
static inline int script_load(struct script *s, struct pnx_cache_ref *ref) {
    return pnx_cache_get_or_load(
            s->f->cache, "k", 1, script_loader, s, 5 * PNX_SEC, &s->f->err, ref);
}

static inline void check_loads(struct script *s, const char *value, uint32_t source) {
    struct pnx_cache_ref ref = {0};
    int rc = script_load(s, &ref);
    CHECK_MSG(rc == 0, "%s: %s", pnx_errname(rc), s->f->err.message);
    CHECK_STR(pnx_cache_ref_data(&ref), value);
    CHECK_EQ(ref.source, source);
    pnx_cache_ref_release(&ref);
}

/* ---- a thread that loads the key "k" ---- */

struct asker {
    struct script *s;
    pnx_ns timeout;
    struct pnx_cache_ref ref;
    int rc;
    pthread_t thread;
};

static inline void *asker_run(void *arg) {
    struct asker *asker = arg;
    asker->rc = pnx_cache_get_or_load(
            asker->s->f->cache, "k", 1, script_loader, asker->s, asker->timeout, NULL, &asker->ref);
    return NULL;
}

static inline void asker_start(struct asker *asker, struct script *s, pnx_ns timeout) {
    *asker = (struct asker){.s = s, .timeout = timeout};
    CHECK_EQ(pthread_create(&asker->thread, NULL, asker_run, asker), 0);
}

static inline void check_asked(struct asker *asker, const char *value, uint32_t source) {
    pthread_join(asker->thread, NULL);
    CHECK_MSG(asker->rc == 0, "%s", pnx_errname(asker->rc));
    CHECK_STR(pnx_cache_ref_data(&asker->ref), value);
    CHECK_EQ(asker->ref.source, source);
    pnx_cache_ref_release(&asker->ref);
}

static inline void check_asked_in_vain(struct asker *asker, int code) {
    pthread_join(asker->thread, NULL);
    CHECK_EQ(asker->rc, code);
    CHECK(!asker->ref.entry);
}

/* ---- caches that have what is old ---- */

/* Opens a cache whose refreshes run on an executor that the test ticks, with an old value for "k" past its time. */
static inline struct pnx_executor *open_worker(struct fixture *f, struct script *s,
        uint32_t queue_max, const struct pnx_cache_opts *opts) {
    fixture_worlds(f);
    script_init(s, f, "new");
    struct pnx_executor *executor = NULL;
    CHECK_EQ(
            pnx_executor_create(PNX_EXECUTOR_OPTS(.env = &f->te.env, .registry = pnx_registry_off(),
                                        .stats = pnx_stats_off(), .budget = pnx_budget_off(),
                                        .queue_max = queue_max, .on_full = PNX_EXECUTOR_REJECT,
                                        .flags = PNX_EXECUTOR_TICK),
                    &f->err, &executor),
            0);
    struct pnx_cache_opts full = fixture_opts(f, opts);
    full.executor = executor;
    full.refresh_loader = script_loader;
    full.refresh_ctx = s;
    full.refresh_after = 10 * PNX_SEC;
    int rc = pnx_cache_create(&full, &f->err, &f->cache);
    CHECK_MSG(rc == 0, "create: %s: %s", pnx_errname(rc), f->err.message);
    put_text(f, "k", "old", 0);
    test_env_advance(&f->te, 10 * PNX_SEC);
    return executor;
}

static inline void close_worker(struct fixture *f, struct pnx_executor *executor) {
    check_invariants(f);
    pnx_cache_close(f->cache);
    pnx_executor_release(&executor);
    pnx_cache_release(&f->cache);
    fixture_drop(f);
}

/* Opens a cache that keeps an old value for "k", which has just expired, for the case of an error: for 20 s. */
static inline void open_keeping(
        struct fixture *f, struct script *s, const struct pnx_cache_opts *more) {
    struct pnx_cache_opts opts = *more;
    opts.ttl = 10 * PNX_SEC;
    opts.stale_if_error = 20 * PNX_SEC;
    fixture_open(f, &opts);
    script_init(s, f, "new");
    put_text(f, "k", "old", 0);
    test_env_advance(&f->te, 10 * PNX_SEC);
}

#endif
