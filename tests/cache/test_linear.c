/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_linear.c - what threads saw of a cache, checked for linearizability (P10; P6 and P17 with it).
 *
 * Threads do at random what a cache can do to a few keys, and write down what they asked, what they got, and the times of one
 * counter before and after; cache/history.h says what must be true of that.  Other keys come and go, so that tables
 * move and, unless the round is strict, everything may be evicted at any moment.  The environment's functions, which are
 * called with locks held and without, give the processor away now and then.
 */
#include "cache/history.h"
#include "cache/internal.h"

#include <patinox/reclaim.h>

#include <sched.h>

#define OTHERS    24 /* keys beside those that are watched */
#define TIME_STEP ((pnx_ns)1 << 26)

static struct round {
    struct fixture f;
    struct pnx_env env; /* the fixture's, and yields */
    struct record record;
    uint64_t ticks; /* moves with each call and each return; with __atomic */
    uint64_t seed;
    bool fixed;
} r;
static _Thread_local uint64_t yields; /* a thread's random state; 0: does not yield */

static uint64_t tick(void) {
    return __atomic_add_fetch(&r.ticks, 1, __ATOMIC_SEQ_CST);
}

static void maybe_yield(unsigned one_in) {
    if (yields && test_random(&yields) % one_in == 0)
        sched_yield();
}
static void *yield_alloc(void *ctx, size_t size, size_t align) {
    maybe_yield(16);
    return r.f.te.env.alloc(ctx, size, align);
}
static pnx_ns yield_now(void *ctx) {
    maybe_yield(16);
    return r.f.te.env.now(ctx);
}

/* ---- one thread ---- */

struct thread {
    uint64_t random;
    unsigned index;
    uint32_t values; /* made so far */
};

static uint64_t some(struct thread *thread, uint64_t n) {
    return test_random(&thread->random) % n;
}

static uint32_t new_value(const struct thread *thread) {
    return thread->index * 32 + thread->values;
}

static struct op *new_op(struct thread *thread, uint32_t key, enum what what) {
    struct op *op = &r.record.ops[thread->index][r.record.n[thread->index]++];
    *op = (struct op){.key = key,
            .what = what,
            .value = new_value(thread),
            .clock = __atomic_load_n(&r.f.te.now, __ATOMIC_RELAXED)};
    op->begun = tick();
    return op;
}

static void end_op(struct op *op, int code) {
    op->ended = tick();
    op->code = code;
}

/* After the call that put it: it expires no later. */
static void note_end(uint32_t value, pnx_ns ttl) {
    pnx_ns now = __atomic_load_n(&r.f.te.now, __ATOMIC_RELAXED);
    r.record.expires[value] = ttl ? now + ttl : PNX_NEVER;
}

static pnx_ns some_ttl(struct thread *thread) {
    return r.record.strict || some(thread, 2) ? 0 : (pnx_ns)(2 + some(thread, 4)) * TIME_STEP;
}

/* Values are 8 bytes, of which the number is one half and its complement the other. */
static uint64_t bytes_of(uint32_t value) {
    return (uint64_t)~value << 32 | value;
}
static uint32_t value_of(const void *bytes, size_t size) {
    uint64_t whole;
    CHECK_EQ(size, sizeof(whole));
    memcpy(&whole, bytes, sizeof(whole));
    CHECK_EQ(whole, bytes_of((uint32_t)whole));
    return (uint32_t)whole;
}

/* ---- lookups ---- */

/* A lookup in one of the ways that there are: what was seen. */
static int look(uint64_t key, uint64_t way, uint32_t *ret_got) {
    struct pnx_cache *cache = r.f.cache;
    struct pnx_cache_ref ref = {0};
    struct pnx_cache_bytes view;
    uint64_t bytes;
    size_t size;
    int rc;
    switch (r.fixed ? 0 : way) {
    case 1:
        pnx_reclaim_enter(NULL);
        rc = pnx_cache_view(cache, &key, sizeof(key), &view);
        if (rc == 0)
            *ret_got = value_of(view.data, view.size);
        pnx_reclaim_exit(NULL);
        return rc;
    case 2:
    case 3:
        rc = way == 2 ? pnx_cache_get(cache, &key, sizeof(key), &ref)
                      : pnx_cache_probe(cache, &key, sizeof(key), &ref);
        maybe_yield(4);
        if (rc == 0)
            *ret_got = value_of(pnx_cache_ref_data(&ref), pnx_cache_ref_size(&ref));
        pnx_cache_ref_release(&ref);
        return rc == -ENODATA ? -ENOENT : rc; /* a probe of a remembered absence */
    default:
        rc = pnx_cache_get_copy(cache, &key, sizeof(key), &bytes, sizeof(bytes), &size);
        if (rc == 0)
            *ret_got = value_of(&bytes, size);
        return rc;
    }
}

static void get(struct thread *thread, uint32_t key) {
    struct op *op = new_op(thread, key, GET);
    uint32_t got = ABSENT;
    int rc = look(key, some(thread, 4), &got);
    end_op(op, rc);
    op->got = got;
    CHECK(rc == 0 || rc == -ENOENT);
}

/* All keys in one call, each of which is a lookup for itself. */
static void get_many(struct thread *thread) {
    uint64_t keys[KEYS], values[KEYS], found = 0;
    struct op *ops[KEYS];
    for (uint32_t key = 0; key < KEYS; key++) {
        keys[key] = key;
        ops[key] = new_op(thread, key, GET);
    }
    int rc = pnx_cache_get_many(r.f.cache, keys, 8, KEYS, values, 8, &found);
    CHECK_EQ(rc, __builtin_popcountll(found));
    for (uint32_t key = 0; key < KEYS; key++) {
        bool there = found >> key & 1;
        end_op(ops[key], there ? 0 : -ENOENT);
        ops[key]->got = there ? value_of(&values[key], 8) : ABSENT;
    }
}

/* ---- writes ---- */

static int put_or_commit(
        struct thread *thread, uint64_t key, uint64_t bytes, pnx_ns ttl, bool if_absent) {
    struct pnx_cache *cache = r.f.cache;
    struct pnx_cache_reservation reservation = {0};
    if (r.fixed || some(thread, 3))
        return (if_absent ? pnx_cache_put_if_absent : pnx_cache_put)(
                cache, &key, sizeof(key), &bytes, sizeof(bytes), ttl);
    CHECK_EQ(pnx_cache_reserve(cache, &key, sizeof(key), 2 * sizeof(bytes), &reservation), 0);
    memcpy(reservation.data, &bytes, sizeof(bytes));
    maybe_yield(4);
    return (if_absent ? pnx_cache_commit_if_absent : pnx_cache_commit)(
            &reservation, sizeof(bytes), ttl);
}

static void put(struct thread *thread, uint32_t key, bool if_absent) {
    pnx_ns ttl = some_ttl(thread);
    struct op *op = new_op(thread, key, if_absent ? PUT_IF_ABSENT : PUT);
    thread->values++;
    int rc = put_or_commit(thread, key, bytes_of(op->value), ttl, if_absent);
    end_op(op, rc);
    note_end(op->value, ttl);
    CHECK(rc == 0 || (rc == -EEXIST && if_absent));
}

static void remove_it(struct thread *thread, uint32_t key) {
    struct op *op = new_op(thread, key, REMOVE);
    uint64_t bytes = key;
    end_op(op, pnx_cache_remove(r.f.cache, &bytes, sizeof(bytes)));
    CHECK(op->code == 0 || op->code == -ENOENT);
}

static bool refuse(void *ctx, const struct pnx_cache_ref *ref) {
    struct op *op = ctx;
    uint64_t key;
    memcpy(&key, pnx_cache_ref_key(ref, NULL), sizeof(key));
    if (key != op->key)
        return true;
    op->got = value_of(pnx_cache_ref_data(ref), pnx_cache_ref_size(ref));
    maybe_yield(2);
    return false;
}

static void retain(struct thread *thread, uint32_t key) {
    struct op *op = new_op(thread, key, RETAIN);
    int64_t rc = pnx_cache_retain(r.f.cache, refuse, op);
    end_op(op, (int)rc);
    CHECK(rc == 0 || (rc == 1 && op->got));
}

static void clear(struct thread *thread) {
    struct op *op = new_op(thread, 0, CLEAR);
    end_op(op, pnx_cache_clear(r.f.cache));
    CHECK_EQ(op->code, 0);
}

/* ---- computes ---- */

static int change(void *ctx, const struct pnx_cache_ref *now, struct pnx_cache_change *change) {
    struct op *op = ctx;
    bool there = pnx_cache_ref_data(now) != NULL;
    uint64_t bytes = bytes_of(op->value);
    op->got = there ? value_of(pnx_cache_ref_data(now), pnx_cache_ref_size(now)) : ABSENT;
    maybe_yield(2);
    if (op->decision == TAKE_AWAY)
        return pnx_cache_change_remove(change);
    if (op->decision == KEEP)
        return 0;
    if (op->value % 2)
        CHECK_EQ(pnx_cache_change_keep_ttl(change), 0);
    return pnx_cache_change_set(change, &bytes, sizeof(bytes));
}

static void compute(struct thread *thread, uint32_t key) {
    struct op *op = new_op(thread, key, COMPUTE);
    uint64_t bytes = key;
    struct pnx_cache_ref ref = {0};
    thread->values++;
    op->decision = (enum decision)some(thread, 3);
    int rc = pnx_cache_compute(r.f.cache, &bytes, sizeof(bytes), change, op, &ref);
    end_op(op, rc);
    CHECK_EQ(rc, 0);
    r.record.expires[op->value] = PNX_NEVER;
    r.record.as[op->value] = op->value % 2 ? op->got : ABSENT;
    uint32_t is = op->decision == KEEP ? op->got : op->decision == CHANGE ? op->value : ABSENT;
    if (is == ABSENT)
        CHECK(!ref.entry);
    else
        CHECK_EQ(value_of(pnx_cache_ref_data(&ref), pnx_cache_ref_size(&ref)), is);
    pnx_cache_ref_release(&ref);
}

/* ---- loads ---- */

struct loading {
    struct thread *thread;
    struct op *begin; /* the call; its end is the loader's beginning */
    struct op *store; /* NULL: the loader was not called */
    pnx_ns ttl;
    int outcome;
    bool keeps;                  /* the loader returns, and the load goes on */
    struct pnx_cache_load *kept; /* with __atomic, as is the next */
    bool told;
    int code; /* that was told */
    struct pnx_cache_ref ref;
};

/* Makes the value, at which the loader's time ends. */
static void make_value(struct loading *loading, struct pnx_cache_load *load) {
    uint64_t bytes = bytes_of(loading->begin->value);
    if (loading->outcome == 0 && loading->ttl)
        CHECK_EQ(pnx_cache_load_set_ttl(load, loading->ttl), 0);
    if (loading->outcome == 0)
        CHECK_EQ(pnx_cache_load_set(load, &bytes, sizeof(bytes)), 0);
    maybe_yield(2);
    loading->store = new_op(loading->thread, loading->begin->key, LOAD_STORE);
    loading->store->value = loading->begin->value;
}

static int load(
        void *ctx, const void *key, size_t key_size, pnx_ns deadline, struct pnx_cache_load *load) {
    struct loading *loading = ctx;
    (void)key, (void)key_size, (void)deadline;
    end_op(loading->begin, 0);
    r.record.outcome[loading->begin->value] = loading->outcome;
    loading->thread->values++;
    maybe_yield(2);
    if (loading->keeps) {
        __atomic_store_n(&loading->kept, load, __ATOMIC_RELEASE);
        return -EINPROGRESS;
    }
    make_value(loading, load);
    return loading->outcome;
}

static void note_told(struct pnx_cache_request *request, int code, struct pnx_cache_ref ref,
        const struct pnx_error *err) {
    struct loading *loading = request->arg;
    (void)err;
    loading->code = code;
    loading->ref = ref;
    __atomic_store_n(&loading->told, true, __ATOMIC_RELEASE);
}

/* A request, for which the thread waits; its loader may be called by another one, while this one does nothing. */
static int load_by_request(uint64_t key, struct loading *loading) {
    struct pnx_cache_request request = {.done = note_told, .arg = loading};
    CHECK_EQ(pnx_cache_get_async(r.f.cache, &key, sizeof(key), load, loading, PNX_NEVER, &request),
            0);
    while (!__atomic_load_n(&loading->told, __ATOMIC_ACQUIRE)) {
        struct pnx_cache_load *kept = __atomic_exchange_n(&loading->kept, NULL, __ATOMIC_ACQ_REL);
        sched_yield();
        if (!kept)
            continue;
        make_value(loading, kept);
        CHECK_EQ(pnx_cache_load_finish(kept, loading->outcome), 0);
    }
    return loading->code;
}

enum load_by { BY_CALL, BY_REQUEST, BY_REFRESH };

static int load_by(uint64_t key, enum load_by how, struct loading *loading) {
    struct pnx_cache *cache = r.f.cache;
    if (how == BY_REQUEST)
        return load_by_request(key, loading);
    if (how == BY_REFRESH)
        return pnx_cache_refresh(cache, &key, sizeof(key), load, loading, PNX_NEVER, NULL);
    return pnx_cache_get_or_load(
            cache, &key, sizeof(key), load, loading, PNX_NEVER, NULL, &loading->ref);
}

/* What a call was that has not called its loader. */
static enum what kind_of(enum load_by how, const struct pnx_cache_ref *ref) {
    if (how == BY_REFRESH)
        return LOAD_BUSY;
    return ref->source == PNX_CACHE_FOUND   ? GET
           : ref->source == PNX_CACHE_STALE ? LOAD_OLD
                                            : LOAD_JOIN;
}

static void load_it(struct thread *thread, uint32_t key, enum load_by how) {
    static const int outcomes[] = {0, 0, 0, -EIO, -ENOENT};
    struct op *op = new_op(thread, key, how == BY_REFRESH ? REFRESH_BEGIN : LOAD_BEGIN);
    struct loading loading = {.thread = thread,
            .begin = op,
            .ttl = some_ttl(thread),
            .outcome = outcomes[some(thread, 5)],
            .keeps = how == BY_REQUEST && some(thread, 2)};
    int rc = load_by(key, how, &loading);
    const struct pnx_cache_ref *ref = &loading.ref;
    uint32_t got = ref->entry ? value_of(pnx_cache_ref_data(ref), pnx_cache_ref_size(ref)) : ABSENT;
    if (loading.store) {
        struct op *last = &r.record.ops[thread->index][r.record.n[thread->index]++];
        end_op(loading.store, loading.outcome);
        *last = *loading.store;
        last->what = LOAD_END;
        note_end(op->value, loading.ttl);
        CHECK_EQ(rc, loading.outcome);
        CHECK(how == BY_REFRESH || rc != 0 || got == op->value);
    } else {
        end_op(op, rc);
        op->got = got;
        op->what = kind_of(how, ref);
        CHECK(how == BY_REFRESH ? rc == -EALREADY : rc == 0 || rc == -EIO || rc == -ENOENT);
    }
    pnx_cache_ref_release(&loading.ref);
}

/* ---- what goes on beside ---- */

static void put_others(struct thread *thread) {
    uint64_t key = 100 + some(thread, OTHERS), bytes = bytes_of(1);
    if (some(thread, 3))
        CHECK_EQ(pnx_cache_put(r.f.cache, &key, sizeof(key), &bytes, sizeof(bytes), 0), 0);
    else
        (void)pnx_cache_remove(r.f.cache, &key, sizeof(key));
}

static void disturb(struct thread *thread) {
    uint64_t what = some(thread, 8);
    put_others(thread);
    if (what == 0)
        CHECK_EQ(pnx_cache_resize(r.f.cache, 0,
                         r.record.strict ? 40 + some(thread, 40) : 2 + some(thread, 8), NULL),
                0);
    if (what == 1 && !r.record.strict)
        test_env_advance(&r.f.te, (pnx_ns)some(thread, 2 * TIME_STEP));
    if (what == 2)
        pnx_cache_tick(r.f.cache, __atomic_load_n(&r.f.te.now, __ATOMIC_RELAXED));
    if (what == 3 && !r.record.strict)
        pnx_budget_reclaim(r.f.budget, 100);
}

static void call(struct thread *thread, uint32_t key) {
    uint64_t what = some(thread, 40);
    if (what < 10)
        get(thread, key);
    else if (what < 12)
        get_many(thread);
    else if (what < 18)
        put(thread, key, what % 2);
    else if (what < 22)
        remove_it(thread, key);
    else if (what == 22)
        clear(thread);
    else if (r.fixed)
        put(thread, key, what % 2);
    else if (what == 23)
        retain(thread, key);
    else if (what < 30)
        compute(thread, key);
    else
        load_it(thread, key, what < 35 ? BY_CALL : what < 38 ? BY_REQUEST : BY_REFRESH);
}

static void run_thread(unsigned index, void *ctx) {
    struct thread thread = {.random = r.seed + index * 1000003, .index = index, .values = 1};
    (void)ctx;
    yields = r.seed * 31 + index + 1;
    for (unsigned i = 0; i < CALLS; i++) {
        call(&thread, (uint32_t)some(&thread, KEYS));
        disturb(&thread);
    }
    yields = 0;
}

/* ---- rounds ---- */

static void run_round(uint64_t *random, bool fixed, bool strict) {
    static const char *const policies[] = {"lru", "clock", "s3-fifo", "auto"};
    fixture_worlds(&r.f);
    memset(&r.record, 0, sizeof(r.record));
    r.ticks = 0;
    r.fixed = fixed;
    r.record.strict = strict;
    r.seed = test_random(random);
    r.record.remembers = r.seed % 2;
    r.env = r.f.te.env;
    r.env.alloc = yield_alloc;
    r.env.now = yield_now;
    struct pnx_cache_opts opts = fixture_opts(
            &r.f, PNX_CACHE_OPTS(.env = &r.env, .policy = policies[r.seed / 2 % 4],
                          .shards = r.seed / 8 % 2 ? 2 : 0, .key_bytes = fixed ? 8 : 0,
                          .value_bytes = fixed ? 8 : 0, .capacity_entries = strict ? 64 : 4,
                          .negative_ttl = r.record.remembers && !fixed ? 1000 * PNX_SEC : 0));
    CHECK_EQ(pnx__cache_create(&opts, 1, &r.f.err, &r.f.cache), 0);
    test_threads(THREADS, run_thread, NULL);
    check_invariants(&r.f);
    check_record(&r.record);
    fixture_close(&r.f);
}

static void run_rounds(bool fixed, bool strict) {
    uint64_t random = test_seed();
    /* By time, since a thread that gives the processor away has it back at once, or after the slices of all who want it. */
    pnx_ns end = pnx_now() + (test_long() ? 60 : 2) * PNX_SEC;
    for (unsigned i = 0; i < 50 || pnx_now() < end; i++)
        run_round(&random, fixed, strict);
}

TEST_LIMIT(p10_histories_of_entries_are_linearizable, 300) {
    run_rounds(false, false);
}
TEST_LIMIT(p10_so_are_those_in_which_nothing_is_evicted_and_nothing_may_be_missed, 300) {
    run_rounds(false, true);
}
TEST_LIMIT(p10_histories_of_fixed_sizes_are_linearizable, 300) {
    run_rounds(true, false);
}
TEST_LIMIT(p10_so_are_those_of_fixed_sizes_in_which_nothing_may_be_missed, 300) {
    run_rounds(true, true);
}
