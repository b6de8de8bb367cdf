/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A clear that comes in the middle of another call: the moment at which it takes effect may lie between any two steps of a
 * call that holds a shard's lock, since it waits for none.  The clock is read there, and makes the clear.
 */
#include "cache/internal.h"
#include "cache/script.h"

static struct moment {
    struct fixture f;
    struct pnx_env env; /* the fixture's, with a clock that does what this says */
    pthread_t clearer;
    uint32_t reads; /* of the clock by this thread, until the clear is made; 0: none is */
    bool made;
    bool joined;
} m;
static struct script s;
static _Thread_local bool is_watched;

static void *clear(void *arg) {
    (void)arg;
    CHECK_EQ(pnx_cache_clear(m.f.cache), 0);
    return NULL;
}

static pnx_ns read_clock(void *ctx) {
    if (is_watched && m.reads > 0 && --m.reads == 0) {
        uint32_t epoch = pnx__cache_epoch(m.f.cache);
        CHECK_EQ(pthread_create(&m.clearer, NULL, clear, NULL), 0);
        while (pnx__cache_epoch(m.f.cache) == epoch)
            sched_yield(); /* it has taken effect; for the memory it waits for the lock */
        m.made = true;
    }
    return m.f.te.env.now(ctx);
}

static void moment_open(const struct pnx_cache_opts *opts) {
    memset(&m, 0, sizeof(m));
    fixture_worlds(&m.f);
    m.env = m.f.te.env;
    m.env.now = read_clock;
    struct pnx_cache_opts full = fixture_opts(&m.f, opts);
    full.env = &m.env;
    CHECK_EQ(pnx_cache_create(&full, &m.f.err, &m.f.cache), 0);
    is_watched = true;
}

/* Whether the clear was made.  If so, it has ended when this returns; if not, it is not made any more. */
static bool moment_passed(void) {
    if (m.made && !m.joined)
        pthread_join(m.clearer, NULL);
    m.joined = m.made;
    m.reads = 0;
    return m.made;
}

/* Calls look on the key "k", stored 10 s ago, with a clear at the nth time that it reads the clock, for each n that there is. */
static void at_each_moment(const struct pnx_cache_opts *opts, void (*look)(void)) {
    static const char *const policies[] = {"lru", "clock"}; /* lookups lock, or do not */
    for (size_t i = 0; i < 2; i++) {
        struct pnx_cache_opts full = *opts;
        uint32_t n = 0;
        bool made = true;
        full.capacity_entries = 4;
        full.policy = policies[i];
        while (made) {
            moment_open(&full);
            put_text(&m.f, "k", "old", 100 * PNX_SEC);
            test_env_advance(&m.f.te, 10 * PNX_SEC);
            script_init(&s, &m.f, "new");
            m.reads = ++n;
            look();
            made = moment_passed();
            fixture_close(&m.f);
        }
        CHECK(n > 1);
    }
}

static bool cleared_first; /* before the user's function was called last */

static int load(
        void *ctx, const void *key, size_t key_size, pnx_ns deadline, struct pnx_cache_load *load) {
    cleared_first = m.made;
    return script_loader(ctx, key, key_size, deadline, load);
}

static void check_new_if(bool there) {
    if (there)
        check_text(&m.f, "k", "new");
    else
        check_absent(&m.f, "k");
}

static void refresh_by_hand(void) {
    CHECK_EQ(pnx_cache_refresh(m.f.cache, "k", 1, load, &s, PNX_NEVER, &m.f.err), 0);
    bool cleared = moment_passed();
    if (!cleared ||
            !cleared_first) /* else it is as if the load had begun before the clear, or after it */
        check_new_if(!cleared);
}

TEST(p6_a_result_that_a_clear_overtakes_while_it_is_being_stored_is_not_stored) {
    at_each_moment(PNX_CACHE_OPTS(), refresh_by_hand);
    at_each_moment(PNX_CACHE_OPTS(.refresh_after = 50 * PNX_SEC), refresh_by_hand);
}

static int change(void *ctx, const struct pnx_cache_ref *now, struct pnx_cache_change *change) {
    bool *saw = ctx;
    *saw = pnx_cache_ref_data(now) != NULL;
    cleared_first = m.made;
    return pnx_cache_change_set(change, "new", 4);
}

static void compute(void) {
    bool saw;
    CHECK_EQ(pnx_cache_compute(m.f.cache, "k", 1, change, &saw, NULL), 0);
    CHECK(!saw || !cleared_first);
    check_new_if(!moment_passed() || !saw);
}

TEST(p17_a_clear_that_comes_between_what_a_compute_saw_and_its_effect_is_not_lost) {
    at_each_moment(PNX_CACHE_OPTS(), compute);
}

static void put_if_absent(void) {
    int rc = pnx_cache_put_if_absent(m.f.cache, "k", 1, "new", 4, 0);
    bool cleared = moment_passed();
    CHECK(rc == -EEXIST || (rc == 0 && cleared));
    if (cleared)
        check_new_if(rc == 0);
}

TEST(p10_a_put_if_absent_that_a_clear_has_let_in_is_there_after_it) {
    at_each_moment(PNX_CACHE_OPTS(), put_if_absent);
}

/* Expired, and kept for the case that the load fails. */
static void load_in_vain(void) {
    struct pnx_cache_ref ref = {0};
    test_env_advance(&m.f.te, 100 * PNX_SEC);
    s.code = -EIO;
    int rc = pnx_cache_get_or_load(m.f.cache, "k", 1, load, &s, PNX_NEVER, NULL, &ref);
    bool cleared = moment_passed();
    CHECK(rc == 0 || (rc == -EIO && cleared));
    CHECK_MSG(rc != 0 || !cleared_first, "a value that had been cleared before was returned");
    pnx_cache_ref_release(&ref);
    check_absent(&m.f, "k");
}

TEST(p13_a_value_that_was_cleared_before_its_load_began_is_not_returned_instead_of_an_error) {
    at_each_moment(PNX_CACHE_OPTS(.stale_if_error = 1000 * PNX_SEC), load_in_vain);
}
