/* SPDX-License-Identifier: Apache-2.0 */
/* Loading: P5..P7, deadlines, errors, absences, results that were overtaken or cannot be stored. */
#include "base/atomic.h"
#include "cache/common.h"

#include <patinox/cmap.h>

#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

/*
 * What a test's loader does.  gate makes it wait until the test opens it; started counts loaders that are inside.
 */
struct script {
    struct fixture *f;
    int calls;
    int started; /* with __atomic */
    int code;    /* returned instead of a value */
    const char *value;
    pnx_ns ttl;
    pnx_ns seen_deadline;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool closed_gate;
};

static void script_init(struct script *s, struct fixture *f, const char *value) {
    *s = (struct script){.f = f, .value = value};
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->changed, NULL);
}

static void gate(struct script *s, bool closed) {
    pthread_mutex_lock(&s->lock);
    s->closed_gate = closed;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
}

static void await_started(struct script *s, int n) {
    pthread_mutex_lock(&s->lock);
    while (s->started < n)
        pthread_cond_wait(&s->changed, &s->lock);
    pthread_mutex_unlock(&s->lock);
}

/* Until n callers wait for loads of the cache: an event that the cache counts. */
static void await_waiters(struct fixture *f, uint64_t n) {
    while (stats_of(f).load_waits < n)
        sched_yield();
}

static int loader(
        void *ctx, const void *key, size_t key_size, pnx_ns deadline, struct pnx_cache_load *load) {
    struct script *s = ctx;
    CHECK(key_size == 0 || key);
    s->seen_deadline = deadline;
    pthread_mutex_lock(&s->lock);
    s->calls++;
    s->started++;
    pthread_cond_broadcast(&s->changed);
    while (s->closed_gate)
        pthread_cond_wait(&s->changed, &s->lock);
    pthread_mutex_unlock(&s->lock);
    if (s->ttl)
        CHECK_EQ(pnx_cache_load_set_ttl(load, s->ttl), 0);
    if (s->code)
        return s->code;
    return s->value ? pnx_cache_load_set(load, s->value, strlen(s->value) + 1) : 0;
}

static int load_text(struct script *s, const char *key, pnx_ns timeout, struct pnx_cache_ref *ref) {
    return pnx_cache_get_or_load(
            s->f->cache, key, strlen(key), loader, s, timeout, &s->f->err, ref);
}

/* ---- one caller ---- */

TEST(a_miss_loads_and_the_next_call_finds) {
    struct fixture f;
    struct script s;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 4));
    script_init(&s, &f, "made");
    struct pnx_cache_ref ref = {0};
    CHECK_EQ(load_text(&s, "k", 5 * PNX_SEC, &ref), 0);
    CHECK_STR(pnx_cache_ref_data(&ref), "made");
    CHECK_EQ(ref.source, PNX_CACHE_LOADED);
    CHECK_EQ(s.seen_deadline, f.te.now + 5 * PNX_SEC);
    pnx_cache_ref_release(&ref);
    CHECK_EQ(load_text(&s, "k", 0, &ref), 0);
    CHECK_EQ(ref.source, PNX_CACHE_FOUND);
    pnx_cache_ref_release(&ref);
    CHECK_EQ(s.calls, 1);
    struct pnx_cache_stats stats = stats_of(&f);
    CHECK_EQ(stats.loads, 1);
    CHECK_EQ(stats.misses, 1);
    CHECK_EQ(stats.hits, 1);
    CHECK_EQ(stats.loading, 0);
    fixture_close(&f);
}

TEST(the_default_timeout_is_the_one_in_the_options) {
    struct fixture f;
    struct script s;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 4, .load_timeout = 7 * PNX_SEC));
    script_init(&s, &f, "made");
    struct pnx_cache_ref ref = {0};
    CHECK_EQ(load_text(&s, "k", PNX_TIMEOUT_DEFAULT, &ref), 0);
    CHECK_EQ(s.seen_deadline, f.te.now + 7 * PNX_SEC);
    pnx_cache_ref_release(&ref);
    CHECK_EQ(load_text(&s, "k2", PNX_NEVER, &ref), 0);
    CHECK_EQ(s.seen_deadline, PNX_NEVER);
    pnx_cache_ref_release(&ref);
    CHECK_EQ(load_text(&s, "k", -3, &ref), -EINVAL);
    CHECK_STR(f.err.field, "timeout");
    fixture_close(&f);
}

TEST(a_loaders_error_is_returned_and_not_remembered) {
    struct fixture f;
    struct script s;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 4, .name = "things"));
    script_init(&s, &f, NULL);
    struct pnx_cache_ref ref = {0};
    s.code = -EIO;
    CHECK_EQ(load_text(&s, "k", PNX_SEC, &ref), -EIO);
    CHECK_EQ(f.err.code, -EIO);
    CHECK_EQ(f.err.cause, -EIO);
    CHECK_STR(f.err.phase, "load");
    CHECK_CONTAINS(f.err.message, "cache \"things\": the loader failed: input or output failed");
    s.code = 0;
    s.value = "now";
    CHECK_EQ(load_text(&s, "k", PNX_SEC, &ref), 0);
    pnx_cache_ref_release(&ref);
    CHECK_EQ(stats_of(&f).load_failures, 1);
    CHECK_EQ(stats_of(&f).loads, 2);
    fixture_close(&f);
}

TEST(a_loader_that_says_0_without_a_value_or_a_positive_number_is_at_fault) {
    struct fixture f;
    struct script s;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 4));
    script_init(&s, &f, NULL);
    struct pnx_cache_ref ref = {0};
    CHECK_EQ(load_text(&s, "k", PNX_SEC, &ref), -EINVAL);
    s.code = 5;
    CHECK_EQ(load_text(&s, "k", PNX_SEC, &ref), -EINVAL);
    CHECK(!ref.entry);
    fixture_close(&f);
}

TEST(an_absence_is_remembered_for_its_own_time) {
    struct fixture f;
    struct script s;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 4, .negative_ttl = PNX_SEC));
    script_init(&s, &f, NULL);
    struct pnx_cache_ref ref = {0};
    s.code = -ENOENT;
    CHECK_EQ(load_text(&s, "k", PNX_SEC, &ref), -ENOENT);
    CHECK_EQ(load_text(&s, "k", PNX_SEC, &ref), -ENOENT);
    CHECK_STR(f.err.phase, "lookup");
    CHECK_EQ(get_text(&f, "k", &ref), -ENOENT);
    CHECK_EQ(s.calls, 1);
    CHECK_EQ(stats_of(&f).negative_hits, 2);
    CHECK_EQ(stats_of(&f).load_failures, 0);
    test_env_advance(&f.te, PNX_SEC);
    CHECK_EQ(load_text(&s, "k", PNX_SEC, &ref), -ENOENT);
    CHECK_EQ(s.calls, 2);
    s.ttl = 10 * PNX_SEC;
    CHECK_EQ(load_text(&s, "longer", PNX_SEC, &ref), -ENOENT);
    test_env_advance(&f.te, 9 * PNX_SEC);
    CHECK_EQ(load_text(&s, "longer", PNX_SEC, &ref), -ENOENT);
    CHECK_EQ(s.calls, 3);
    put_text(&f, "longer", "found after all", 0);
    check_text(&f, "longer", "found after all");
    fixture_close(&f);
}

TEST(an_absence_is_no_entry_for_put_if_absent_and_can_be_removed) {
    struct fixture f;
    struct script s;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 4, .negative_ttl = PNX_SEC));
    script_init(&s, &f, NULL);
    struct pnx_cache_ref ref = {0};
    s.code = -ENOENT;
    CHECK_EQ(load_text(&s, "k", PNX_SEC, &ref), -ENOENT);
    CHECK_EQ(pnx_cache_put_if_absent(f.cache, "k", 1, "v", 2, 0), 0);
    check_text(&f, "k", "v");
    CHECK_EQ(load_text(&s, "l", PNX_SEC, &ref), -ENOENT);
    CHECK_EQ(pnx_cache_remove(f.cache, "l", 1), 0);
    CHECK_EQ(load_text(&s, "l", PNX_SEC, &ref), -ENOENT);
    CHECK_EQ(s.calls, 3);
    fixture_close(&f);
}

TEST(without_a_negative_ttl_an_absence_is_not_remembered) {
    struct fixture f;
    struct script s;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 4));
    script_init(&s, &f, NULL);
    struct pnx_cache_ref ref = {0};
    s.code = -ENOENT;
    CHECK_EQ(load_text(&s, "k", PNX_SEC, &ref), -ENOENT);
    CHECK_EQ(load_text(&s, "k", PNX_SEC, &ref), -ENOENT);
    CHECK_EQ(s.calls, 2);
    CHECK_EQ(stats_of(&f).entries, 0);
    fixture_close(&f);
}

TEST(a_loader_can_set_the_time_to_live) {
    struct fixture f;
    struct script s;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 4, .ttl = PNX_SEC));
    script_init(&s, &f, "v");
    s.ttl = 3 * PNX_SEC;
    struct pnx_cache_ref ref = {0};
    CHECK_EQ(load_text(&s, "k", PNX_SEC, &ref), 0);
    pnx_cache_ref_release(&ref);
    test_env_advance(&f.te, 3 * PNX_SEC - 1);
    check_text(&f, "k", "v");
    test_env_advance(&f.te, 1);
    check_absent(&f, "k");
    fixture_close(&f);
}

static int big_loader(
        void *ctx, const void *key, size_t key_size, pnx_ns deadline, struct pnx_cache_load *load) {
    static const char big[100000];
    (void)ctx, (void)key, (void)key_size, (void)deadline;
    CHECK_EQ(pnx_cache_load_set(load, "first", 6), 0);
    CHECK_EQ(pnx_cache_load_set(NULL, "x", 1), -EINVAL);
    CHECK_EQ(pnx_cache_load_set(load, NULL, 1), -EINVAL);
    CHECK_EQ(pnx_cache_load_set_pointer(load, NULL, 0), -EINVAL);
    CHECK_EQ(pnx_cache_load_set_ttl(load, -1), -EINVAL);
    CHECK_EQ(pnx_cache_load_set_ttl(NULL, 1), -EINVAL);
    return pnx_cache_load_set(load, big, sizeof(big));
}

struct causes {
    int count[PNX_CACHE_CLOSED + 1];
};

static void count_cause(void *ctx, const struct pnx_cache_removed *removed) {
    struct causes *causes = ctx;
    __atomic_add_fetch(&causes->count[removed->cause], 1, __ATOMIC_RELAXED);
}

TEST(a_loaded_value_that_is_too_large_is_returned_and_not_stored) {
    struct fixture f;
    struct causes causes = {{0}};
    fixture_open(&f, PNX_CACHE_OPTS(.capacity = 4096, .destroy = count_cause, .ctx = &causes));
    struct pnx_cache_ref ref = {0};
    CHECK_EQ(pnx_cache_get_or_load(f.cache, "k", 1, big_loader, NULL, PNX_SEC, &f.err, &ref), 0);
    CHECK_EQ(pnx_cache_ref_size(&ref), 100000);
    CHECK_EQ(causes.count[PNX_CACHE_EXPLICIT], 1); /* the first of the two */
    CHECK_EQ(stats_of(&f).entries, 0);
    CHECK_EQ(stats_of(&f).rejected, 1);
    CHECK_EQ(stats_of(&f).detached, pnx_cache_cost(1, 100000));
    pnx_cache_ref_release(&ref);
    CHECK_EQ(causes.count[PNX_CACHE_SIZE], 1);
    CHECK_EQ(stats_of(&f).detached, 0);
    fixture_close(&f);
}

static int fail_after_setting(
        void *ctx, const void *key, size_t key_size, pnx_ns deadline, struct pnx_cache_load *load) {
    (void)key, (void)key_size, (void)deadline;
    CHECK_EQ(pnx_cache_load_set_pointer(load, ctx, 10), 0);
    return -EIO;
}

TEST(p4_a_value_set_by_a_loader_that_then_fails_is_destroyed) {
    struct fixture f;
    struct causes causes = {{0}};
    fixture_open(&f, PNX_CACHE_OPTS(.capacity = 4096, .destroy = count_cause, .ctx = &causes));
    struct pnx_cache_ref ref = {0};
    CHECK_EQ(pnx_cache_get_or_load(
                     f.cache, "k", 1, fail_after_setting, &causes, PNX_SEC, NULL, &ref),
            -EIO);
    CHECK_EQ(causes.count[PNX_CACHE_EXPLICIT], 1);
    fixture_close(&f);
}

/* ---- many callers ---- */

struct crowd {
    struct script *s;
    pnx_ns timeout;
    int codes[16];
    uint32_t sources[16];
    int done;
};

static void *crowd_member(void *arg) {
    struct crowd *crowd = arg;
    struct pnx_cache_ref ref = {0};
    struct pnx_error err = {0};
    int rc = pnx_cache_get_or_load(
            crowd->s->f->cache, "k", 1, loader, crowd->s, crowd->timeout, &err, &ref);
    int n = __atomic_fetch_add(&crowd->done, 1, __ATOMIC_RELAXED);
    crowd->codes[n] = rc;
    crowd->sources[n] = ref.source;
    if (rc == 0)
        CHECK_STR(pnx_cache_ref_data(&ref), crowd->s->value);
    else
        CHECK_EQ(err.code, rc);
    pnx_cache_ref_release(&ref);
    return NULL;
}

static void crowd_start(struct crowd *crowd, pthread_t *threads, int n) {
    for (int i = 0; i < n; i++)
        CHECK_EQ(pthread_create(&threads[i], NULL, crowd_member, crowd), 0);
}

static void crowd_join(pthread_t *threads, int n) {
    for (int i = 0; i < n; i++)
        pthread_join(threads[i], NULL);
}

TEST(p6_eight_callers_run_one_loader_and_share_its_value) {
    struct fixture f;
    struct script s;
    pthread_t threads[8];
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 4));
    script_init(&s, &f, "shared");
    s.closed_gate = true;
    struct crowd crowd = {.s = &s, .timeout = PNX_NEVER};
    crowd_start(&crowd, threads, 8);
    await_waiters(&f, 7);
    CHECK_EQ(stats_of(&f).loading, 1);
    gate(&s, false);
    crowd_join(threads, 8);
    CHECK_EQ(s.calls, 1);
    int loaded = 0, shared = 0;
    for (int i = 0; i < 8; i++) {
        CHECK_EQ(crowd.codes[i], 0);
        loaded += crowd.sources[i] == PNX_CACHE_LOADED;
        shared += crowd.sources[i] == PNX_CACHE_SHARED;
    }
    CHECK_EQ(loaded, 1);
    CHECK_EQ(shared, 7);
    CHECK_EQ(stats_of(&f).pinned, 0);
    fixture_close(&f);
}

TEST(p6_eight_callers_share_an_error) {
    struct fixture f;
    struct script s;
    pthread_t threads[8];
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 4));
    script_init(&s, &f, NULL);
    s.closed_gate = true;
    s.code = -EIO;
    struct crowd crowd = {.s = &s, .timeout = PNX_NEVER};
    crowd_start(&crowd, threads, 8);
    await_waiters(&f, 7);
    gate(&s, false);
    crowd_join(threads, 8);
    CHECK_EQ(s.calls, 1);
    for (int i = 0; i < 8; i++)
        CHECK_EQ(crowd.codes[i], -EIO);
    fixture_close(&f);
}

TEST(p6_callers_share_a_value_that_could_not_be_stored) {
    struct fixture f;
    struct script s;
    pthread_t threads[4];
    struct causes causes = {{0}};
    char *big = malloc(20000);
    memset(big, 'x', 19999);
    big[19999] = 0;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity = 4096, .destroy = count_cause, .ctx = &causes));
    script_init(&s, &f, big);
    s.closed_gate = true;
    struct crowd crowd = {.s = &s, .timeout = PNX_NEVER};
    crowd_start(&crowd, threads, 4);
    await_waiters(&f, 3);
    gate(&s, false);
    crowd_join(threads, 4);
    CHECK_EQ(s.calls, 1);
    for (int i = 0; i < 4; i++)
        CHECK_EQ(crowd.codes[i], 0);
    CHECK_EQ(causes.count[PNX_CACHE_SIZE], 1);
    free(big);
    fixture_close(&f);
}

static void *lead_alone(void *arg) {
    struct script *s = arg;
    struct pnx_cache_ref ref = {0};
    struct pnx_error err;
    int rc = pnx_cache_get_or_load(s->f->cache, "k", 1, loader, s, PNX_NEVER, &err, &ref);
    pnx_cache_ref_release(&ref);
    return (void *)(intptr_t)rc;
}

TEST(a_waiter_gives_up_at_its_deadline_and_the_load_goes_on) {
    struct fixture f;
    struct script s;
    pthread_t leader;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 4));
    script_init(&s, &f, "late");
    s.closed_gate = true;
    CHECK_EQ(pthread_create(&leader, NULL, lead_alone, &s), 0);
    await_started(&s, 1);
    struct pnx_cache_ref ref = {0};
    f.te.virtual_time = false; /* from here on the clock runs by itself */
    pnx_ns before = pnx_now();
    CHECK_EQ(load_text(&s, "k", 0, &ref), -ETIMEDOUT);
    CHECK_EQ(stats_of(&f).load_waits, 0);
    CHECK_EQ(load_text(&s, "k", 20 * PNX_MS, &ref), -ETIMEDOUT);
    CHECK(pnx_now() - before >= 20 * PNX_MS);
    CHECK_STR(f.err.phase, "wait");
    CHECK_CONTAINS(f.err.message, "another caller's load did not end in time");
    gate(&s, false);
    void *code;
    pthread_join(leader, &code);
    CHECK_EQ((intptr_t)code, 0);
    check_text(&f, "k", "late");
    CHECK_EQ(s.calls, 1);
    fixture_close(&f);
}

/* Its deadline passes while it loads; the second caller, who has more time, is not given that error. */
static void *lead_in_a_hurry(void *arg) {
    struct script *s = arg;
    struct pnx_cache_ref ref = {0};
    struct pnx_error err;
    int rc = pnx_cache_get_or_load(s->f->cache, "k", 1, loader, s, PNX_SEC, &err, &ref);
    return (void *)(intptr_t)rc;
}

static void *second_chance(void *arg) {
    struct script *s = arg;
    struct pnx_cache_ref ref = {0};
    struct pnx_error err;
    int rc =
            pnx_cache_get_or_load(s->f->cache, "k", 1, big_loader, NULL, 100 * PNX_SEC, &err, &ref);
    CHECK_EQ(ref.source, PNX_CACHE_LOADED);
    pnx_cache_ref_release(&ref);
    return (void *)(intptr_t)rc;
}

TEST(a_leaders_own_timeout_makes_a_waiter_with_more_time_lead) {
    struct fixture f;
    struct script s;
    pthread_t first, second;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 4));
    script_init(&s, &f, NULL);
    s.closed_gate = true;
    s.code = -ETIMEDOUT;
    CHECK_EQ(pthread_create(&first, NULL, lead_in_a_hurry, &s), 0);
    await_started(&s, 1);
    CHECK_EQ(pthread_create(&second, NULL, second_chance, &s), 0);
    await_waiters(&f, 1);
    gate(&s, false);
    void *code;
    pthread_join(first, &code);
    CHECK_EQ((intptr_t)code, -ETIMEDOUT);
    pthread_join(second, &code);
    CHECK_EQ((intptr_t)code, 0);
    fixture_close(&f);
}

/* ---- overtaken ---- */

enum overtaker { BY_PUT, BY_PUT_IF_ABSENT, BY_REMOVE, BY_CLEAR, BY_FAILED_PUT };

static void overtake(struct fixture *f, enum overtaker how) {
    char big[10000] = {0};
    switch (how) {
    case BY_PUT:
        put_text(f, "k", "newer", 0);
        break;
    case BY_PUT_IF_ABSENT:
        CHECK_EQ(pnx_cache_put_if_absent(f->cache, "k", 1, "newer", 6, 0), 0);
        break;
    case BY_REMOVE:
        CHECK_EQ(pnx_cache_remove(f->cache, "k", 1), -ENOENT);
        break;
    case BY_CLEAR:
        CHECK_EQ(pnx_cache_clear(f->cache), 0);
        break;
    case BY_FAILED_PUT:
        CHECK_EQ(pnx_cache_put(f->cache, "k", 1, big, sizeof(big), 0), -EFBIG);
        break;
    }
}

static void check_overtaken(enum overtaker how) {
    struct fixture f;
    struct script s;
    pthread_t threads[2], late;
    struct causes causes = {{0}};
    fixture_open(&f, PNX_CACHE_OPTS(.capacity = 8192, .destroy = count_cause, .ctx = &causes));
    script_init(&s, &f, "older");
    s.closed_gate = true;
    struct crowd crowd = {.s = &s, .timeout = PNX_NEVER};
    crowd_start(&crowd, threads, 2);
    await_waiters(&f, 1);
    overtake(&f, how);
    bool stored = how == BY_PUT || how == BY_PUT_IF_ABSENT;
    if (stored)
        check_text(&f, "k", "newer");
    else
        check_absent(&f, "k");
    /* Comes after the change: must not be given the older value. */
    if (!stored) {
        CHECK_EQ(pthread_create(&late, NULL, lead_alone, &s), 0);
        await_waiters(&f, 2);
    }
    gate(&s, false);
    crowd_join(threads, 2);
    CHECK_EQ(crowd.codes[0], 0);
    CHECK_EQ(crowd.codes[1], 0);
    if (!stored) {
        void *code;
        pthread_join(late, &code);
        CHECK_EQ((intptr_t)code, 0);
        CHECK_EQ(s.calls, 2);
        check_text(&f, "k", "older"); /* which is what the second load made */
    } else {
        check_text(&f, "k", "newer");
        CHECK_EQ(s.calls, 1);
    }
    CHECK_EQ(causes.count[PNX_CACHE_EXPLICIT], 1);
    fixture_close(&f);
}

TEST(p6_a_result_that_a_put_overtook_is_not_stored) {
    check_overtaken(BY_PUT);
    check_overtaken(BY_PUT_IF_ABSENT);
    check_overtaken(BY_FAILED_PUT);
}

TEST(p6_a_result_that_a_remove_overtook_is_not_stored) {
    check_overtaken(BY_REMOVE);
}

TEST(p6_a_result_that_a_clear_overtook_is_not_stored) {
    check_overtaken(BY_CLEAR);
}

/* ---- closing ---- */

TEST(close_sends_waiters_away_at_once_and_the_leader_when_its_loader_returns) {
    struct fixture f;
    struct script s;
    struct causes causes = {{0}};
    pthread_t threads[4];
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 4, .destroy = count_cause, .ctx = &causes));
    script_init(&s, &f, "too late");
    s.closed_gate = true;
    struct crowd crowd = {.s = &s, .timeout = PNX_NEVER};
    crowd_start(&crowd, threads, 4);
    await_waiters(&f, 3);
    CHECK_EQ(pnx_cache_close(f.cache), 1);
    while (__atomic_load_n(&crowd.done, __ATOMIC_RELAXED) < 3)
        sched_yield();
    gate(&s, false);
    crowd_join(threads, 4);
    for (int i = 0; i < 4; i++)
        CHECK_EQ(crowd.codes[i], -ESHUTDOWN);
    CHECK_EQ(causes.count[PNX_CACHE_CLOSED], 1);
    CHECK_EQ(pnx_cache_close(f.cache), 0);
    struct pnx_cache_ref ref = {0};
    CHECK_EQ(load_text(&s, "k", PNX_SEC, &ref), -ESHUTDOWN);
    fixture_close(&f);
}

/* ---- circles ---- */

/* A chain of loads: the loader of key i loads key next(i), of the same cache or another. */
struct circle {
    struct pnx_cache *cache[2];
    pthread_barrier_t all_inside;
    int length;
    int deadlocks; /* with __atomic */
    int codes[8];
};

struct circle_key {
    struct circle *circle;
    int index;
};

static int circle_loader(
        void *ctx, const void *key, size_t key_size, pnx_ns deadline, struct pnx_cache_load *load);

static int load_circle_key(struct circle *circle, int index) {
    struct circle_key key = {circle, index};
    struct pnx_cache_ref ref = {0};
    struct pnx_cache *cache =
            circle->cache[index % 2] ? circle->cache[index % 2] : circle->cache[0];
    int rc = pnx_cache_get_or_load(
            cache, &index, sizeof(index), circle_loader, &key, PNX_NEVER, NULL, &ref);
    pnx_cache_ref_release(&ref);
    return rc;
}

static int circle_loader(
        void *ctx, const void *key, size_t key_size, pnx_ns deadline, struct pnx_cache_load *load) {
    const struct circle_key *k = ctx;
    (void)key, (void)key_size, (void)deadline;
    pthread_barrier_wait(&k->circle->all_inside);
    int rc = load_circle_key(k->circle, (k->index + 1) % k->circle->length);
    if (rc == -EDEADLK)
        __atomic_add_fetch(&k->circle->deadlocks, 1, __ATOMIC_RELAXED);
    return rc ? rc : pnx_cache_load_set(load, "ok", 3);
}

static void circle_thread(unsigned index, void *ctx) {
    struct circle *circle = ctx;
    circle->codes[index] = load_circle_key(circle, (int)index);
}

static void check_circle(int length, bool two_caches) {
    struct fixture f;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 100));
    struct circle circle = {.cache = {f.cache}, .length = length};
    struct pnx_cache_opts opts = fixture_opts(&f, PNX_CACHE_OPTS(.capacity_entries = 100));
    if (two_caches)
        CHECK_EQ(pnx_cache_create(&opts, NULL, &circle.cache[1]), 0);
    pthread_barrier_init(&circle.all_inside, NULL, (unsigned)length);
    test_threads((unsigned)length, circle_thread, &circle);
    /* The one that would have closed the circle was refused; the error came back to all. */
    CHECK(circle.deadlocks >= 1);
    for (int i = 0; i < length; i++)
        CHECK_EQ(circle.codes[i], -EDEADLK);
    uint64_t refused = stats_of(&f).load_deadlocks;
    if (two_caches) {
        struct pnx_cache_stats stats = {.size = sizeof(stats)};
        CHECK_EQ(pnx_cache_read_stats(circle.cache[1], &stats), 0);
        refused += stats.load_deadlocks;
        pnx_cache_release(&circle.cache[1]);
    }
    CHECK_EQ(refused, 1);
    pthread_barrier_destroy(&circle.all_inside);
    fixture_close(&f);
}

TEST(p7_a_loader_that_asks_for_its_own_key_gets_edeadlk) {
    check_circle(1, false);
}

TEST(p7_a_circle_over_keys_and_threads_is_edeadlk) {
    check_circle(2, false);
    check_circle(3, false);
    check_circle(8, false);
}

TEST(p7_a_circle_over_two_caches_is_edeadlk) {
    check_circle(2, true);
    check_circle(6, true);
}

/* A function on a key of a map that loads, and a loader that writes to that key: neither has a time limit. */
struct mixed {
    struct pnx_cache *cache;
    struct pnx_cmap *map;
    pthread_barrier_t both_inside;
    int load_code;  /* what the load from inside the map's function returned */
    int write_code; /* what the write from inside the loader returned */
};

static int write_in_loader(
        void *ctx, const void *key, size_t key_size, pnx_ns deadline, struct pnx_cache_load *load) {
    struct mixed *mixed = ctx;
    (void)deadline;
    pthread_barrier_wait(&mixed->both_inside);
    mixed->write_code = pnx_cmap_put(mixed->map, key, key_size, 2);
    return pnx_cache_load_set(load, "ok", 3);
}

static int load_in_function(void *ctx, const uint64_t *current, uint64_t *ret_value) {
    struct mixed *mixed = ctx;
    struct pnx_cache_ref ref = {0};
    (void)current;
    pthread_barrier_wait(&mixed->both_inside);
    mixed->load_code = pnx_cache_get_or_load(
            mixed->cache, "key", 3, write_in_loader, mixed, PNX_NEVER, NULL, &ref);
    pnx_cache_ref_release(&ref);
    *ret_value = 1;
    return PNX_CMAP_STORE;
}

static void mixed_thread(unsigned index, void *ctx) {
    struct mixed *mixed = ctx;
    struct pnx_cache_ref ref = {0};
    if (index == 0) {
        CHECK_EQ(pnx_cmap_compute(mixed->map, "key", 3, load_in_function, mixed, NULL), 0);
        return;
    }
    CHECK_EQ(pnx_cache_get_or_load(
                     mixed->cache, "key", 3, write_in_loader, mixed, PNX_NEVER, NULL, &ref),
            0);
    pnx_cache_ref_release(&ref);
}

TEST_LIMIT(p7_a_circle_over_a_cache_and_a_map_is_edeadlk, 20) {
    struct fixture f;
    for (int i = 0; i < (test_slow() ? 20 : 200); i++) {
        fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 100));
        struct mixed mixed = {.cache = f.cache};
        CHECK_EQ(pnx_cmap_create(PNX_CMAP_OPTS(.wait_timeout_ns = PNX_NEVER), NULL, &mixed.map), 0);
        pthread_barrier_init(&mixed.both_inside, NULL, 2);
        test_threads(2, mixed_thread, &mixed);
        CHECK_EQ((mixed.load_code == -EDEADLK) + (mixed.write_code == -EDEADLK), 1);
        CHECK_EQ((mixed.load_code == 0) + (mixed.write_code == 0), 1);
        pthread_barrier_destroy(&mixed.both_inside);
        pnx_cmap_release(&mixed.map);
        fixture_close(&f);
    }
}

/* A thread that leads two loads, one inside the other: whoever waits for the outer one closes a circle too. */
struct nested {
    struct fixture *f;
    int depth;
};

static int nested_loader(
        void *ctx, const void *key, size_t key_size, pnx_ns deadline, struct pnx_cache_load *load) {
    struct nested *n = ctx;
    struct pnx_cache_ref ref = {0};
    (void)key, (void)key_size, (void)deadline;
    if (n->depth < 5) {
        int next = ++n->depth;
        CHECK_EQ(pnx_cache_get_or_load(
                         n->f->cache, &next, sizeof(next), nested_loader, n, 0, NULL, &ref),
                0);
        pnx_cache_ref_release(&ref);
    } else {
        for (int outer = 0; outer <= 5; outer++) {
            CHECK_EQ(pnx_cache_get_or_load(
                             n->f->cache, &outer, sizeof(outer), nested_loader, n, 0, NULL, &ref),
                    -EDEADLK);
        }
    }
    return pnx_cache_load_set(load, "ok", 3);
}

TEST(p7_loads_may_nest_and_none_may_ask_for_an_outer_one) {
    struct fixture f;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 100));
    struct nested n = {.f = &f};
    int first = 0;
    struct pnx_cache_ref ref = {0};
    CHECK_EQ(pnx_cache_get_or_load(
                     f.cache, &first, sizeof(first), nested_loader, &n, PNX_SEC, &f.err, &ref),
            0);
    pnx_cache_ref_release(&ref);
    CHECK_EQ(stats_of(&f).entries, 6);
    CHECK_EQ(stats_of(&f).load_deadlocks, 6);
    fixture_close(&f);
}

/* ---- a loader that does not return ---- */

static int vanish(
        void *ctx, const void *key, size_t key_size, pnx_ns deadline, struct pnx_cache_load *load) {
    (void)ctx, (void)key, (void)key_size, (void)deadline, (void)load;
    pthread_exit(NULL); /* unwinds through the library, as a C++ exception would */
}

static void *load_and_vanish(void *arg) {
    struct fixture *f = arg;
    struct pnx_cache_ref ref = {0};
    int rc = pnx_cache_get_or_load(f->cache, "k", 1, vanish, NULL, PNX_SEC, NULL, &ref);
    CHECK_MSG(false, "returned %s", pnx_errname(rc));
    return NULL;
}

static void lose_a_leader(void *ctx) {
    struct fixture f;
    pthread_t thread;
    (void)ctx;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 4));
    CHECK_EQ(pthread_create(&thread, NULL, load_and_vanish, &f), 0);
    pthread_join(thread, NULL);
}

TEST(p5_a_loader_that_does_not_return_aborts) {
    CHECK_EQ(test_apart(lose_a_leader, NULL), -SIGABRT);
}

/* ---- fork ---- */

#define STALE       64 /* so many that most lists of waiters have some */
#define STACK_BYTES (512 * 1024)

static void *wait_beside(void *arg) {
    struct script *s = arg;
    struct pnx_cache_ref ref = {0};
    CHECK_EQ(pnx_cache_get_or_load(s->f->cache, "k", 1, loader, s, PNX_NEVER, NULL, &ref), 0);
    pnx_cache_ref_release(&ref);
    return NULL;
}

/* Loads in a new thread and waits for that load in another. */
static void load_and_wait(struct fixture *f) {
    struct script s;
    pthread_t threads[2];
    script_init(&s, f, "child's");
    s.closed_gate = true;
    CHECK_EQ(pthread_create(&threads[0], NULL, wait_beside, &s), 0);
    await_started(&s, 1);
    uint64_t waits = stats_of(f).load_waits;
    CHECK_EQ(pthread_create(&threads[1], NULL, wait_beside, &s), 0);
    await_waiters(f, waits + 1);
    gate(&s, false);
    pthread_join(threads[0], NULL);
    pthread_join(threads[1], NULL);
    CHECK_EQ(pnx_cache_remove(f->cache, "k", 1), 0);
}

static void load_in_child(void *stacks) {
    struct fixture f;
    CHECK_EQ(munmap(stacks, (size_t)STALE * STACK_BYTES), 0); /* those threads are not here */
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 4));
    for (int i = 0; i < STALE; i++)
        load_and_wait(&f);
    fixture_close(&f);
    _exit(0);
}

TEST(a_child_that_was_forked_among_waiters_loads_and_waits) {
#ifdef PNX_TSAN
    return; /* TSan has no threads in a child of many */
#endif
    struct fixture f;
    struct script s;
    pthread_t leader, waiters[STALE];
    pthread_attr_t attr;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 4));
    script_init(&s, &f, "parent's");
    s.closed_gate = true;
    char *stacks = mmap(NULL, (size_t)STALE * STACK_BYTES, PROT_READ | PROT_WRITE,
            MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(stacks != MAP_FAILED);
    CHECK_EQ(pthread_create(&leader, NULL, wait_beside, &s), 0);
    await_started(&s, 1);
    pthread_attr_init(&attr);
    for (size_t i = 0; i < STALE; i++) {
        CHECK_EQ(pthread_attr_setstack(&attr, stacks + i * STACK_BYTES, STACK_BYTES), 0);
        CHECK_EQ(pthread_create(&waiters[i], &attr, wait_beside, &s), 0);
    }
    pthread_attr_destroy(&attr);
    await_waiters(&f, STALE);
    CHECK_EQ(test_child(load_in_child, stacks), 0);
    gate(&s, false);
    pthread_join(leader, NULL);
    for (size_t i = 0; i < STALE; i++)
        pthread_join(waiters[i], NULL);
    CHECK_EQ(munmap(stacks, (size_t)STALE * STACK_BYTES), 0);
    fixture_close(&f);
}

static int fork_and_fail(
        void *ctx, const void *key, size_t key_size, pnx_ns deadline, struct pnx_cache_load *load) {
    pid_t *child = ctx;
    (void)key, (void)key_size, (void)deadline;
    CHECK_EQ(pnx_cache_load_set(load, "unused", 7), 0);
    *child = fork();
    CHECK(*child >= 0);
    return -EIO;
}

static void must_not_destroy(void *ctx, const struct pnx_cache_removed *removed) {
    (void)removed;
    CHECK_EQ(getpid(), *(pid_t *)ctx);
}

TEST(a_loader_that_forks_ends_the_load_in_the_parent_only) {
    struct fixture f;
    pid_t self = getpid(), child = -1;
    int status = -1;
    struct pnx_cache_ref ref = {0};
    fixture_open(
            &f, PNX_CACHE_OPTS(.capacity_entries = 4, .destroy = must_not_destroy, .ctx = &self));
    int rc = pnx_cache_get_or_load(f.cache, "k", 1, fork_and_fail, &child, PNX_SEC, &f.err, &ref);
    if (child == 0)
        _exit(rc == -ESHUTDOWN ? 0 : 1);
    CHECK_EQ(rc, -EIO);
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK_EQ(status, 0);
    fixture_close(&f);
}

/* ---- health, events ---- */

struct heard {
    int failed, rejected, closed;
    int64_t last_value;
};

static void hear(void *ctx, const struct pnx_event *event) {
    struct heard *heard = ctx;
    heard->failed += event->type == PNX_EVENT_CACHE_LOAD_FAILED;
    heard->rejected += event->type == PNX_EVENT_CACHE_REJECTED;
    heard->closed += event->type == PNX_EVENT_CACHE_CLOSED;
    heard->last_value = event->value;
}

TEST(health_and_events_tell_of_failing_loads_refusals_and_the_end) {
    struct fixture f;
    struct script s;
    struct heard heard = {0};
    fixture_open(&f, PNX_CACHE_OPTS(.capacity = 4096, .name = "pages"));
    script_init(&s, &f, NULL);
    uint32_t id;
    CHECK_EQ(pnx_monitor_add(f.stats,
                     &(const struct pnx_monitor){
                             .size = sizeof(struct pnx_monitor), .event = hear, .ctx = &heard},
                     &id),
            0);
    struct pnx_health_entry entry;
    size_t n;
    struct pnx_cache_ref ref = {0};
    s.code = -EIO;
    for (int i = 0; i < 7; i++)
        CHECK_EQ(load_text(&s, "k", PNX_SEC, &ref), -EIO);
    CHECK_EQ(pnx_health(f.stats, &entry, 1, &n), PNX_HEALTH_OK);
    CHECK_EQ(load_text(&s, "k", PNX_SEC, &ref), -EIO);
    CHECK_EQ(pnx_health(f.stats, &entry, 1, &n), PNX_HEALTH_DEGRADED);
    CHECK_STR(entry.kind, "cache");
    CHECK_STR(entry.name, "pages");
    CHECK_STR(entry.reason, "loads keep failing");
    CHECK_EQ(heard.failed, 8);
    s.code = 0;
    s.value = "v";
    CHECK_EQ(load_text(&s, "k", PNX_SEC, &ref), 0);
    CHECK_EQ(pnx_health(f.stats, &entry, 1, &n), PNX_HEALTH_OK);
    char big[8192] = {0};
    CHECK_EQ(pnx_cache_put(f.cache, "big", 3, big, sizeof(big), 0), -EFBIG);
    CHECK_EQ(heard.rejected, 1);
    CHECK_EQ(heard.last_value, pnx_cache_cost(3, sizeof(big)));
    CHECK_EQ(pnx_cache_close(f.cache), 1);
    CHECK_EQ(heard.closed, 1);
    CHECK_EQ(heard.last_value, 1);
    CHECK_EQ(pnx_health(f.stats, &entry, 1, &n), PNX_HEALTH_DOWN);
    CHECK_STR(entry.reason, "closed");
    pnx_cache_ref_release(&ref);
    fixture_close(&f);
}

/* ---- system calls ---- */

TEST(spurious_wakes_and_early_timeouts_of_the_futex_do_no_harm) {
    if (!test_os_faults())
        return;
    static const int errors[] = {EINTR, ETIMEDOUT};
    for (int e = 0; e < 2; e++) {
        struct fixture f;
        struct script s;
        pthread_t threads[4];
        fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 4));
        script_init(&s, &f, "v");
        s.closed_gate = true;
        test_os_fault("futex_wait", 1, errors[e] == EINTR, errors[e]);
        struct crowd crowd = {.s = &s, .timeout = PNX_NEVER};
        crowd_start(&crowd, threads, 4);
        await_waiters(&f, 3);
        gate(&s, false);
        crowd_join(threads, 4);
        test_os_fault_clear();
        for (int i = 0; i < 4; i++)
            CHECK_EQ(crowd.codes[i], 0);
        fixture_close(&f);
    }
}

TEST(bad_arguments_of_get_or_load) {
    struct fixture f;
    struct script s;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 4));
    script_init(&s, &f, "v");
    struct pnx_cache_ref ref = {0};
    CHECK_EQ(pnx_cache_get_or_load(NULL, "k", 1, loader, &s, 0, &f.err, &ref), -EINVAL);
    CHECK_EQ(pnx_cache_get_or_load(f.cache, NULL, 1, loader, &s, 0, &f.err, &ref), -EINVAL);
    CHECK_EQ(pnx_cache_get_or_load(f.cache, "k", 1, NULL, &s, 0, &f.err, &ref), -EINVAL);
    CHECK_EQ(pnx_cache_get_or_load(f.cache, "k", 1, loader, &s, 0, &f.err, NULL), -EINVAL);
    CHECK_EQ(pnx_cache_get_or_load(f.cache, NULL, 0, loader, &s, 0, &f.err, &ref), 0);
    pnx_cache_ref_release(&ref);
    fixture_close(&f);
}
