/* SPDX-License-Identifier: Apache-2.0 */
/* Requests, which wait without a thread (P14), and loads that outlast their loader's call (P15). */
#include "cache/script.h"

#include <patinox/executor.h>
#include <patinox/reclaim.h>

#include <unistd.h>

/* A request and what it was told. */
struct asked {
    struct pnx_cache_request request; /* first */
    struct fixture *f;
    int told; /* with __atomic */
    int code;
    uint32_t source;
    char value[16];
    char message[256];
    char phase[16];
    pthread_t thread; /* on which it was told */
    void (*then)(struct asked *asked);
    struct asked *next;
    int asked; /* how often */
};

static __thread int inside;

static void done(struct pnx_cache_request *request, int code, struct pnx_cache_ref ref,
        const struct pnx_error *err) {
    struct asked *asked = (struct asked *)(void *)request;
    CHECK_EQ(inside, 0); /* callbacks never nest */
    inside++;
    asked->code = code;
    asked->source = ref.source;
    asked->thread = pthread_self();
    CHECK_EQ(code != 0, err != NULL);
    CHECK_EQ(code != 0, ref.entry == NULL);
    if (code == 0) {
        snprintf(asked->value, sizeof(asked->value), "%s", (const char *)pnx_cache_ref_data(&ref));
    } else {
        CHECK_EQ(err->code, code);
        snprintf(asked->message, sizeof(asked->message), "%s", err->message);
        snprintf(asked->phase, sizeof(asked->phase), "%s", err->phase);
    }
    pnx_cache_ref_release(&ref);
    if (asked->then)
        asked->then(asked);
    inside--;
    __atomic_add_fetch(&asked->told, 1, __ATOMIC_RELEASE);
}

static int told(struct asked *asked) {
    return __atomic_load_n(&asked->told, __ATOMIC_ACQUIRE);
}

static void ask_key(struct asked *asked, struct script *s, const char *key, pnx_ns timeout) {
    asked->f = s->f;
    asked->request.done = done;
    CHECK_EQ(pnx_cache_get_async(
                     s->f->cache, key, strlen(key), script_loader, s, timeout, &asked->request),
            0);
}

static void ask(struct asked *asked, struct script *s) {
    ask_key(asked, s, "k", 5 * PNX_SEC);
}

static void check_told(struct asked *asked, int code, const char *value, uint32_t source) {
    CHECK_EQ(told(asked), 1);
    CHECK_MSG(asked->code == code, "told %s: %s", pnx_errname(asked->code), asked->message);
    if (code == 0) {
        CHECK_STR(asked->value, value);
        CHECK_EQ(asked->source, source);
    }
}

static void open_async(struct fixture *f, struct script *s, const struct pnx_cache_opts *opts) {
    fixture_open(f, opts);
    script_init(s, f, "made");
}

/* ---- outcomes ---- */

TEST(p14_what_is_there_and_what_a_loader_makes_is_told_before_the_call_returns) {
    struct fixture f;
    struct script s;
    struct asked a = {0}, b = {0};
    open_async(&f, &s, PNX_CACHE_OPTS(.capacity_entries = 4));
    ask(&a, &s);
    check_told(&a, 0, "made", PNX_CACHE_SHARED);
    CHECK_EQ(s.seen_deadline, f.te.now + 5 * PNX_SEC);
    ask(&b, &s);
    check_told(&b, 0, "made", PNX_CACHE_FOUND);
    CHECK_EQ(s.calls, 1);
    struct pnx_cache_stats stats = stats_of(&f);
    CHECK_EQ(stats.misses, 1);
    CHECK_EQ(stats.hits, 1);
    CHECK_EQ(stats.pinned, 0);
    CHECK_EQ(stats.requests, 0);
    fixture_close(&f);
}

TEST(p14_failures_are_told_with_their_reason) {
    struct fixture f;
    struct script s;
    struct asked a = {0}, b = {0}, c = {0}, d = {0}, e = {0};
    open_async(&f, &s,
            PNX_CACHE_OPTS(.capacity_entries = 4, .negative_ttl = PNX_SEC, .name = "things"));
    s.code = -EIO;
    ask(&a, &s);
    check_told(&a, -EIO, NULL, 0);
    CHECK_STR(a.phase, "load");
    CHECK_CONTAINS(a.message, "things");
    s.code = -ENOENT;
    ask(&b, &s);
    check_told(&b, -ENOENT, NULL, 0);
    ask(&c, &s);
    check_told(&c, -ENOENT, NULL, 0);
    CHECK_STR(c.phase, "lookup");
    CHECK_EQ(s.calls, 2);
    s.code = 7; /* is at fault */
    ask_key(&d, &s, "other", PNX_SEC);
    check_told(&d, -EINVAL, NULL, 0);
    CHECK_EQ(pnx_cache_close(f.cache), 0);
    ask(&e, &s);
    check_told(&e, -ESHUTDOWN, NULL, 0);
    fixture_close(&f);
}

TEST(p14_with_no_time_a_request_neither_loads_nor_waits) {
    struct fixture f;
    struct script s;
    struct asked a = {0}, b = {0};
    open_async(&f, &s, PNX_CACHE_OPTS(.capacity_entries = 4));
    ask_key(&a, &s, "k", 0);
    check_told(&a, -ETIMEDOUT, NULL, 0);
    CHECK_EQ(s.calls, 0);
    put_text(&f, "k", "v", 0);
    ask_key(&b, &s, "k", 0);
    check_told(&b, 0, "v", PNX_CACHE_FOUND);
    fixture_close(&f);
}

/* Somebody has handed that to the executor; who takes a queued load over loads in its place. */
TEST(p14_a_request_with_no_time_takes_no_queued_refresh_away) {
    for (int no_memory = 0; no_memory < 2; no_memory++) {
        struct fixture f;
        struct script s;
        struct asked a = {0};
        struct pnx_executor *executor =
                open_worker(&f, &s, 4, PNX_CACHE_OPTS(.capacity_entries = 4));
        CHECK_EQ(pnx_cache_remove(f.cache, "k", 1), 0);
        CHECK_EQ(pnx_cache_refresh(f.cache, "k", 1, NULL, NULL, PNX_SEC, &f.err), 0);
        f.te.allocations = 0;
        f.te.fail_at = no_memory;
        ask_key(&a, &s, "k", no_memory ? PNX_SEC : 0);
        f.te.fail_at = 0;
        check_told(&a, no_memory ? -ENOMEM : -ETIMEDOUT, NULL, 0);
        pnx_executor_tick(executor, f.te.now);
        CHECK_EQ(s.calls, 1);
        check_text(&f, "k", "new");
        close_worker(&f, executor);
    }
}

TEST(bad_requests_are_refused_and_told_nothing) {
    struct fixture f;
    struct script s;
    struct asked a = {0}, b = {0};
    open_async(&f, &s, PNX_CACHE_OPTS(.capacity_entries = 4));
    struct pnx_cache_request *r = &a.request;
    CHECK_EQ(pnx_cache_get_async(f.cache, "k", 1, script_loader, &s, PNX_SEC, r), -EINVAL);
    r->done = done;
    CHECK_EQ(pnx_cache_get_async(NULL, "k", 1, script_loader, &s, PNX_SEC, r), -EINVAL);
    CHECK_EQ(pnx_cache_get_async(f.cache, NULL, 1, script_loader, &s, PNX_SEC, r), -EINVAL);
    CHECK_EQ(pnx_cache_get_async(f.cache, "k", 1, NULL, &s, PNX_SEC, r), -EINVAL);
    CHECK_EQ(pnx_cache_get_async(f.cache, "k", 1, script_loader, &s, PNX_SEC, NULL), -EINVAL);
    CHECK_EQ(pnx_cache_get_async(f.cache, "k", 1, script_loader, &s, -7, r), -EINVAL);
    CHECK_EQ(pnx_cache_get_async(f.cache, "k", (size_t)UINT32_MAX + 1, script_loader, &s, 0, r),
            -EFBIG);
    CHECK_EQ(pnx_cache_cancel(NULL), -EINVAL);
    CHECK_EQ(pnx_cache_cancel(r), -EALREADY); /* nothing to take back */
    s.code = -EINPROGRESS;
    ask(&b, &s);
    CHECK_EQ(pnx_cache_get_async(f.cache, "k", 1, script_loader, &s, PNX_SEC, &b.request), -EBUSY);
    CHECK_EQ(told(&b), 0);
    CHECK_EQ(pnx_cache_load_finish(s.kept, -EIO), 0);
    check_told(&b, -EIO, NULL, 0);
    CHECK_EQ(told(&a), 0);
    fixture_close(&f);
}

/* ---- loads that are kept ---- */

TEST(p15_a_kept_load_is_ended_later_and_all_requests_share_it) {
    struct fixture f;
    struct script s;
    struct asked a[3] = {{.told = 0}};
    open_async(&f, &s, PNX_CACHE_OPTS(.capacity_entries = 4));
    s.code = -EINPROGRESS;
    for (int i = 0; i < 3; i++)
        ask(&a[i], &s);
    CHECK_EQ(s.calls, 1);
    CHECK_EQ(stats_of(&f).requests, 3);
    CHECK_EQ(stats_of(&f).loading, 1);
    CHECK_EQ(stats_of(&f).load_waits, 2);
    check_invariants(&f);
    check_absent(&f, "k");
    CHECK_EQ(pnx_cache_load_set(s.kept, "first", 6), 0);
    CHECK_EQ(pnx_cache_load_set(s.kept, "late", 5), 0);
    CHECK_EQ(pnx_cache_load_set_ttl(s.kept, PNX_SEC), 0);
    CHECK_EQ(pnx_cache_load_finish(s.kept, 0), 0);
    for (int i = 0; i < 3; i++)
        check_told(&a[i], 0, "late", PNX_CACHE_SHARED);
    check_text(&f, "k", "late");
    test_env_advance(&f.te, PNX_SEC);
    check_absent(&f, "k");
    CHECK_EQ(stats_of(&f).requests, 0);
    fixture_close(&f);
}

static int finish_inside(
        void *ctx, const void *key, size_t key_size, pnx_ns deadline, struct pnx_cache_load *load) {
    (void)key, (void)key_size, (void)deadline;
    CHECK_EQ(pnx_cache_load_set(load, "inside", 7), 0);
    CHECK_EQ(pnx_cache_load_finish(load, 0), 0);
    return *(int *)ctx; /* the end is the one that was told first */
}

TEST(p15_a_load_may_be_ended_before_its_loader_has_returned) {
    struct fixture f;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 4));
    struct asked a = {.f = &f, .request.done = done};
    int code = -EINPROGRESS;
    CHECK_EQ(pnx_cache_get_async(f.cache, "k", 1, finish_inside, &code, PNX_SEC, &a.request), 0);
    check_told(&a, 0, "inside", PNX_CACHE_SHARED);
    check_text(&f, "k", "inside");
    fixture_close(&f);
}

TEST(p15_what_a_kept_load_is_ended_with_is_checked) {
    static const int codes[][2] = {
            {0, -EINVAL}, {3, -EINVAL}, {-EINPROGRESS, -EINVAL}, {-EIO, -EIO}};
    for (size_t i = 0; i < sizeof(codes) / sizeof(codes[0]); i++) {
        struct fixture f;
        struct script s;
        struct asked a = {0};
        open_async(&f, &s, PNX_CACHE_OPTS(.capacity_entries = 4));
        s.code = -EINPROGRESS;
        ask(&a, &s);
        CHECK_EQ(pnx_cache_load_finish(s.kept, codes[i][0]), 0);
        check_told(&a, codes[i][1], NULL, 0);
        fixture_close(&f);
    }
}

TEST(p14_threads_and_requests_share_a_load_whoever_began_it) {
    for (int thread_leads = 0; thread_leads < 2; thread_leads++) {
        struct fixture f;
        struct script s;
        struct asked a = {0}, b = {0};
        struct asker thread;
        open_async(&f, &s, PNX_CACHE_OPTS(.capacity_entries = 4));
        if (thread_leads) {
            script_gate(&s, true);
            asker_start(&thread, &s, PNX_SEC);
            script_await_started(&s, 1);
            ask(&a, &s);
            ask(&b, &s);
            CHECK_EQ(told(&a), 0);
            script_gate(&s, false);
        } else {
            s.code = -EINPROGRESS;
            ask(&a, &s);
            asker_start(&thread, &s, PNX_NEVER);
            await_waiters(&f, 1);
            ask(&b, &s);
            check_invariants(&f);
            CHECK_EQ(pnx_cache_load_set(s.kept, "made", 5), 0);
            CHECK_EQ(pnx_cache_load_finish(s.kept, 0), 0);
        }
        check_asked(&thread, "made", thread_leads ? PNX_CACHE_LOADED : PNX_CACHE_SHARED);
        check_told(&a, 0, "made", PNX_CACHE_SHARED);
        check_told(&b, 0, "made", PNX_CACHE_SHARED);
        CHECK_EQ(s.calls, 1);
        CHECK_EQ(pthread_equal(a.thread, thread.thread) != 0,
                thread_leads); /* told by whoever ended it */
        fixture_close(&f);
    }
}

/* A loader runs in this thread: to wait for it here would be for ever.  Once it goes on elsewhere it would not. */
static int deadlock_loader(
        void *ctx, const void *key, size_t key_size, pnx_ns deadline, struct pnx_cache_load *load) {
    struct script *s = ctx;
    struct pnx_cache_ref ref = {0};
    (void)deadline;
    CHECK_EQ(pnx_cache_get_or_load(
                     s->f->cache, key, key_size, script_loader, s, PNX_NEVER, NULL, &ref),
            -EDEADLK);
    s->kept = load;
    return -EINPROGRESS;
}

TEST(p7_a_thread_waits_for_a_kept_load_but_not_for_a_loader_of_its_own) {
    struct fixture f;
    struct script s;
    struct asked a = {0};
    struct pnx_cache_ref ref = {0};
    open_async(&f, &s, PNX_CACHE_OPTS(.capacity_entries = 4));
    a.request.done = done;
    CHECK_EQ(pnx_cache_get_async(f.cache, "k", 1, deadlock_loader, &s, PNX_NEVER, &a.request), 0);
    CHECK_EQ(stats_of(&f).load_deadlocks, 1);
    CHECK_EQ(pnx_cache_get_or_load(f.cache, "k", 1, script_loader, &s, 0, NULL, &ref), -ETIMEDOUT);
    CHECK_EQ(pnx_cache_load_finish(s.kept, -EIO), 0);
    check_told(&a, -EIO, NULL, 0);
    fixture_close(&f);
}

/* ---- deadlines ---- */

TEST(p14_a_tick_tells_requests_whose_time_is_over) {
    struct fixture f;
    struct script s;
    struct asked a = {0}, b = {0}, c = {0};
    open_async(&f, &s, PNX_CACHE_OPTS(.capacity_entries = 4));
    pnx_ns begin = f.te.now;
    s.code = -EINPROGRESS;
    ask_key(&a, &s, "k", PNX_NEVER);
    ask_key(&b, &s, "k", 2 * PNX_SEC);
    ask_key(&c, &s, "k", PNX_SEC);
    CHECK_EQ(pnx_cache_tick(f.cache, f.te.now), begin + PNX_SEC);
    test_env_advance(&f.te, PNX_SEC);
    CHECK_EQ(told(&c), 0); /* no thread watches */
    CHECK_EQ(pnx_cache_tick(f.cache, f.te.now), begin + 2 * PNX_SEC);
    check_told(&c, -ETIMEDOUT, NULL, 0);
    test_env_advance(&f.te, PNX_SEC);
    CHECK_EQ(pnx_cache_tick(f.cache, f.te.now), PNX_NEVER);
    check_told(&b, -ETIMEDOUT, NULL, 0);
    CHECK_STR(b.phase, "wait");
    CHECK_EQ(stats_of(&f).requests, 1);
    CHECK_EQ(pnx_cache_load_set(s.kept, "v", 2), 0);
    CHECK_EQ(pnx_cache_load_finish(s.kept, 0), 0);
    check_told(&a, 0, "v", PNX_CACHE_SHARED);
    fixture_close(&f);
}

TEST(p14_a_tick_tells_a_bounded_number) {
    enum { N = 2 * PNX_CACHE_TICK_MAX + 1 };
    struct fixture f;
    struct script s;
    static struct asked asked[N];
    open_async(&f, &s, PNX_CACHE_OPTS(.capacity_entries = 4));
    s.code = -EINPROGRESS;
    for (int i = 0; i < N; i++)
        ask_key(&asked[i], &s, "k", i == 0 ? PNX_NEVER : PNX_SEC);
    test_env_advance(&f.te, PNX_SEC);
    for (int round = 1; round <= 2; round++) {
        pnx_ns next = pnx_cache_tick(f.cache, f.te.now);
        CHECK_EQ(next, round == 1 ? f.te.now : PNX_NEVER);
        CHECK_EQ(stats_of(&f).requests, N - round * PNX_CACHE_TICK_MAX);
    }
    CHECK_EQ(pnx_cache_load_finish(s.kept, -EIO), 0);
    for (int i = 0; i < N; i++)
        check_told(&asked[i], i == 0 ? -EIO : -ETIMEDOUT, NULL, 0);
    fixture_close(&f);
}

/* The one that began it had less time; whoever has more takes over, and what the first loader makes comes too late. */
TEST(p15_a_load_that_is_never_ended_is_given_up_and_the_next_request_leads) {
    for (int by_tick = 0; by_tick < 2; by_tick++) {
        struct fixture f;
        struct script s;
        struct asked a = {0}, b = {0}, c = {0};
        open_async(&f, &s, PNX_CACHE_OPTS(.capacity_entries = 4));
        s.code = -EINPROGRESS;
        ask_key(&a, &s, "k", PNX_SEC);
        struct pnx_cache_load *first = s.kept;
        ask_key(&b, &s, "k", 10 * PNX_SEC);
        CHECK_EQ(pnx_cache_load_set(first, "half", 5), 0);
        test_env_advance(&f.te, PNX_SEC);
        if (by_tick)
            pnx_cache_tick(f.cache, f.te.now);
        else
            ask_key(&c, &s, "k", 10 * PNX_SEC); /* who asks finds it, too */
        check_told(&a, -ETIMEDOUT, NULL, 0);
        CHECK_EQ(told(&b), 0);
        CHECK_EQ(s.calls, 2);
        CHECK(s.kept != first);
        CHECK_EQ(stats_of(&f).loading, 1);
        CHECK_EQ(stats_of(&f).load_failures, 1);
        check_invariants(&f);
        CHECK_EQ(pnx_cache_load_set(first, "too late", 9), 0);
        CHECK_EQ(pnx_cache_load_finish(first, 0), -EALREADY);
        check_absent(&f, "k");
        CHECK_EQ(pnx_cache_load_set(s.kept, "second", 7), 0);
        CHECK_EQ(pnx_cache_load_finish(s.kept, 0), 0);
        check_told(&b, 0, "second", PNX_CACHE_SHARED);
        if (!by_tick)
            check_told(&c, 0, "second", PNX_CACHE_SHARED);
        fixture_close(&f);
    }
}

TEST(p15_a_blocking_loader_that_takes_too_long_keeps_those_who_wait_until_their_own_deadlines) {
    struct fixture f;
    struct script s;
    struct asked a = {0}, b = {0};
    struct asker thread;
    open_async(&f, &s, PNX_CACHE_OPTS(.capacity_entries = 4));
    script_gate(&s, true);
    asker_start(&thread, &s, PNX_SEC);
    script_await_started(&s, 1);
    ask_key(&a, &s, "k", 2 * PNX_SEC);
    ask_key(&b, &s, "k", 9 * PNX_SEC);
    test_env_advance(&f.te, 2 * PNX_SEC);
    pnx_cache_tick(f.cache, f.te.now);
    check_told(&a, -ETIMEDOUT, NULL, 0);
    CHECK_EQ(told(&b), 0);
    s.code =
            -ETIMEDOUT; /* it notices at last: b, which has time left, loads in its place, on that thread */
    script_gate(&s, false);
    check_asked_in_vain(&thread, -ETIMEDOUT);
    CHECK_EQ(s.calls, 2);
    check_told(&b, -ETIMEDOUT, NULL, 0);
    fixture_close(&f);
}

/* ---- leaders that fail ---- */

TEST(p14_a_request_takes_over_from_a_leader_whose_time_was_up) {
    struct fixture f;
    struct script s;
    struct asked a = {0};
    struct asker thread;
    open_async(&f, &s, PNX_CACHE_OPTS(.capacity_entries = 4));
    s.code = -EINPROGRESS;
    ask_key(&a, &s, "k", PNX_SEC);
    asker_start(&thread, &s, PNX_NEVER);
    await_waiters(&f, 1);
    s.code = 0;
    CHECK_EQ(pnx_cache_load_finish(s.kept, -ETIMEDOUT), 0);
    check_told(&a, -ETIMEDOUT, NULL, 0);
    check_asked(&thread, "made", PNX_CACHE_LOADED); /* the thread led then */
    fixture_close(&f);
}

TEST(p6_a_request_that_came_after_the_load_was_overtaken_loads_afresh) {
    struct fixture f;
    struct script s;
    struct asked a = {0}, b = {0};
    open_async(&f, &s, PNX_CACHE_OPTS(.capacity_entries = 4));
    s.code = -EINPROGRESS;
    ask(&a, &s);
    CHECK_EQ(pnx_cache_remove(f.cache, "k", 1), -ENOENT);
    ask(&b, &s);
    CHECK_EQ(s.calls, 1);
    struct pnx_cache_load *first = s.kept;
    CHECK_EQ(pnx_cache_load_set(first, "old", 4), 0);
    s.code = 0;
    s.value = "new";
    CHECK_EQ(pnx_cache_load_finish(first, 0), 0);
    check_told(&a, 0, "old", PNX_CACHE_SHARED);
    check_told(&b, 0, "new", PNX_CACHE_SHARED);
    check_text(&f, "k", "new");
    fixture_close(&f);
}

/* ---- refreshing and errors ---- */

TEST(p12_a_request_is_told_the_old_value_and_then_refreshes_it) {
    struct fixture f;
    struct script s;
    struct asked a = {0}, b = {0};
    open_async(&f, &s, PNX_CACHE_OPTS(.capacity_entries = 4, .refresh_after = 10 * PNX_SEC));
    put_text(&f, "k", "old", 0);
    test_env_advance(&f.te, 10 * PNX_SEC);
    s.code = -EINPROGRESS;
    ask(&a, &s);
    check_told(&a, 0, "old", PNX_CACHE_STALE);
    CHECK_EQ(s.calls, 1); /* and it goes on */
    ask(&b, &s);
    check_told(&b, 0, "old", PNX_CACHE_STALE);
    CHECK_EQ(pnx_cache_load_set(s.kept, "new", 4), 0);
    CHECK_EQ(pnx_cache_load_finish(s.kept, 0), 0);
    check_text(&f, "k", "new");
    CHECK_EQ(stats_of(&f).refreshes, 1);
    CHECK_EQ(stats_of(&f).pinned, 0);
    fixture_close(&f);
}

TEST(p13_requests_have_what_is_kept_instead_of_an_error) {
    struct fixture f;
    struct script s;
    struct asked a = {0}, b = {0}, c = {0};
    open_async(&f, &s,
            PNX_CACHE_OPTS(.capacity_entries = 4, .ttl = PNX_SEC, .stale_if_error = 10 * PNX_SEC));
    put_text(&f, "k", "old", 0);
    test_env_advance(&f.te, PNX_SEC);
    s.code = -EINPROGRESS;
    ask(&a, &s);
    ask(&b, &s);
    CHECK_EQ(pnx_cache_load_finish(s.kept, -EIO), 0);
    check_told(&a, 0, "old", PNX_CACHE_STALE);
    check_told(&b, 0, "old", PNX_CACHE_STALE);
    ask(&c, &s); /* in the back-off */
    check_told(&c, 0, "old", PNX_CACHE_STALE);
    CHECK_EQ(s.calls, 1);
    fixture_close(&f);
}

/* ---- taking back ---- */

TEST(p14_a_request_is_taken_back_or_told_never_both) {
    struct fixture f;
    struct script s;
    struct asked a = {0}, b = {0};
    open_async(&f, &s, PNX_CACHE_OPTS(.capacity_entries = 4));
    s.code = -EINPROGRESS;
    ask(&a, &s);
    ask(&b, &s);
    CHECK_EQ(pnx_cache_cancel(&a.request), 0);
    CHECK_EQ(stats_of(&f).requests, 1);
    CHECK_EQ(pnx_cache_tick(f.cache, f.te.now), f.te.now + 5 * PNX_SEC);
    CHECK_EQ(pnx_cache_load_set(s.kept, "v", 2), 0); /* its load goes on */
    CHECK_EQ(pnx_cache_load_finish(s.kept, 0), 0);
    CHECK_EQ(told(&a), 0);
    check_told(&b, 0, "v", PNX_CACHE_SHARED);
    CHECK_EQ(pnx_cache_cancel(&b.request), -EALREADY);
    ask(&a, &s); /* may be used again */
    check_told(&a, 0, "v", PNX_CACHE_FOUND);
    fixture_close(&f);
}

/* ---- a loop's post ---- */

struct loop {
    void (*run[64])(void *arg);
    void *arg[64];
    int n;
};

static void post(void *post_ctx, void (*run)(void *arg), void *arg) {
    struct loop *loop = post_ctx;
    CHECK(loop->n < 64);
    loop->run[loop->n] = run;
    loop->arg[loop->n++] = arg;
}

static void run_loop(struct loop *loop) {
    for (int i = 0; i < loop->n; i++)
        loop->run[i](loop->arg[i]);
    loop->n = 0;
}

TEST(p14_outcomes_come_through_the_caches_post) {
    struct fixture f;
    struct script s;
    struct loop loop = {.n = 0};
    struct asked a = {0}, b = {0}, c = {0};
    open_async(&f, &s, PNX_CACHE_OPTS(.capacity_entries = 4, .post = post, .post_ctx = &loop));
    ask(&a, &s);
    CHECK_EQ(told(&a), 0);
    CHECK_EQ(
            pnx_cache_cancel(&a.request), -EALREADY); /* has its outcome; is told it all the same */
    run_loop(&loop);
    check_told(&a, 0, "made", PNX_CACHE_SHARED);
    /* One that has to look again does so in the loop, and not if it was taken back meanwhile. */
    s.code = -EINPROGRESS;
    ask_key(&b, &s, "l", PNX_SEC);
    ask_key(&c, &s, "l", PNX_NEVER);
    CHECK_EQ(pnx_cache_load_finish(s.kept, -ETIMEDOUT), 0);
    CHECK_EQ(s.calls, 2);
    CHECK_EQ(pnx_cache_cancel(&c.request), -EALREADY);
    run_loop(&loop);
    check_told(&b, -ETIMEDOUT, NULL, 0);
    check_told(&c, -ECANCELED, NULL, 0);
    CHECK_EQ(s.calls, 2);
    fixture_close(&f);
}

TEST(p14_a_posted_outcome_outlives_its_cache) {
    struct fixture f;
    struct script s;
    struct loop loop = {.n = 0};
    struct asked a = {0}, b = {0};
    open_async(&f, &s, PNX_CACHE_OPTS(.capacity_entries = 4, .post = post, .post_ctx = &loop));
    ask(&a, &s);
    s.code = -EINPROGRESS;
    ask_key(&b, &s, "l", PNX_SEC);
    CHECK_EQ(pnx_cache_load_finish(s.kept, -EIO), 0);
    pnx_cache_release(&f.cache);
    run_loop(&loop);
    check_told(&a, 0, "made", PNX_CACHE_SHARED);
    check_told(&b, -EIO, NULL, 0);
    fixture_drop(&f);
}

/* ---- inside each other ---- */

static void ask_next(struct asked *asked) {
    struct script *s = asked->request.arg;
    if (asked->next) {
        ask_key(asked->next, s, "k", PNX_SEC);
        CHECK_EQ(told(asked->next), 0); /* when this one has returned */
    }
}

TEST(p14_callbacks_that_ask_again_do_not_nest) {
    enum { N = 1000 };
    struct fixture f;
    struct script s;
    static struct asked asked[N];
    open_async(&f, &s, PNX_CACHE_OPTS(.capacity_entries = 4));
    for (int i = 0; i < N; i++)
        asked[i] = (struct asked){
                .then = ask_next, .next = i + 1 < N ? &asked[i + 1] : NULL, .request.arg = &s};
    ask(&asked[0], &s);
    for (int i = 0; i < N; i++)
        check_told(&asked[i], 0, "made", i == 0 ? PNX_CACHE_SHARED : PNX_CACHE_FOUND);
    fixture_close(&f);
}

static void free_self(struct pnx_cache_request *request, int code, struct pnx_cache_ref ref,
        const struct pnx_error *err) {
    (void)code, (void)err;
    ++*(int *)request->arg;
    pnx_cache_ref_release(&ref);
    memset(request, 0xa5, sizeof(*request));
    free(request);
}

TEST(p14_a_callback_may_free_its_request) {
    struct fixture f;
    struct script s;
    int n = 0;
    open_async(&f, &s, PNX_CACHE_OPTS(.capacity_entries = 4, .refresh_after = PNX_SEC));
    for (int i = 0; i < 3; i++) {
        struct pnx_cache_request *request = calloc(1, sizeof(*request));
        CHECK(request);
        request->done = free_self;
        request->arg = &n;
        CHECK_EQ(pnx_cache_get_async(f.cache, "k", 1, script_loader, &s, PNX_SEC, request), 0);
        CHECK_EQ(n, i + 1);
        test_env_advance(&f.te, PNX_SEC);
    }
    CHECK_EQ(s.calls, 3); /* a load, and two refreshes */
    fixture_close(&f);
}

/* ---- the end ---- */

TEST(close_sends_requests_away_and_a_kept_load_may_end_after_the_release) {
    struct fixture f;
    struct script s;
    struct asked a = {0}, b = {0};
    open_async(&f, &s, PNX_CACHE_OPTS(.capacity_entries = 4));
    s.code = -EINPROGRESS;
    ask(&a, &s);
    ask(&b, &s);
    CHECK_EQ(pnx_cache_close(f.cache), 1); /* the load */
    check_told(&a, -ESHUTDOWN, NULL, 0);
    check_told(&b, -ESHUTDOWN, NULL, 0);
    CHECK_EQ(pnx_cache_tick(f.cache, f.te.now), PNX_NEVER);
    pnx_cache_release(&f.cache);
    CHECK_EQ(pnx_cache_load_set(s.kept, "v", 2), 0);
    CHECK_EQ(pnx_cache_load_finish(s.kept, 0), 0);
    fixture_drop(&f);
}

static void in_child(void *arg) {
    struct script *s = arg;
    struct asked c = {.request.done = done};
    CHECK_EQ(pnx_cache_get_async(s->f->cache, "k", 1, script_loader, s, PNX_SEC, &c.request),
            -ESHUTDOWN);
    CHECK_EQ(pnx_cache_load_finish(s->kept, 0), -ESHUTDOWN);
    CHECK_EQ(pnx_cache_tick(s->f->cache, PNX_NEVER - 1), PNX_NEVER);
    CHECK_EQ(pnx_cache_refresh(s->f->cache, "k", 1, script_loader, s, 0, NULL), -ESHUTDOWN);
    CHECK_EQ(told(&c), 0);
    _exit(0);
}

TEST(a_forked_child_has_no_requests_and_no_loads) {
    struct fixture f;
    struct script s;
    struct asked a = {0};
    open_async(&f, &s, PNX_CACHE_OPTS(.capacity_entries = 4));
    s.code = -EINPROGRESS;
    ask(&a, &s);
    CHECK_EQ(test_child(in_child, &s), 0);
    CHECK_EQ(pnx_cache_load_finish(s.kept, -EIO), 0);
    check_told(&a, -EIO, NULL, 0);
    fixture_close(&f);
}

/* ---- memory ---- */

static int ask_with_failures(struct test_env *te, void *ctx) {
    struct fixture f = {0};
    struct script s;
    struct asked a = {0}, b = {0}, c = {0};
    (void)ctx;
    script_init(&s, &f, "made");
    int rc = pnx_cache_create(
            PNX_CACHE_OPTS(.capacity_entries = 4, .env = &te->env, .registry = pnx_registry_off(),
                    .stats = pnx_stats_off(), .budget = pnx_budget_off(), .refresh_after = PNX_SEC),
            &f.err, &f.cache);
    if (rc)
        return rc;
    ask(&a, &s);
    CHECK_EQ(told(&a), 1);
    s.code = -EINPROGRESS;
    s.kept = NULL;
    ask_key(&b, &s, "l", PNX_SEC);
    if (s.kept) {
        rc = pnx_cache_load_set(s.kept, "v", 2);
        CHECK(rc == 0 || rc == -ENOMEM);
        CHECK_EQ(pnx_cache_load_finish(s.kept, rc), 0);
    }
    CHECK_EQ(told(&b), 1);
    test_env_advance(te, PNX_SEC);
    s.code = 0;
    ask(&c, &s); /* a refresh, perhaps */
    CHECK_EQ(told(&c), 1);
    check_invariants(&f);
    pnx_cache_release(&f.cache);
    CHECK_EQ(pnx_reclaim_barrier(NULL, PNX_NEVER), 0);
    return a.code ? a.code : b.code ? b.code : c.code;
}

TEST(p14_without_memory_requests_are_told_enomem) {
    struct test_env te;
    (void)pnx_reclaim_default();
    test_env_init(&te);
    test_env_virtual(&te, PNX_SEC);
    test_fail_each_allocation(&te, ask_with_failures, NULL);
}

/* ---- threads ---- */

#define ASKERS 4
struct crowd {
    struct script s;
    struct asked asked[ASKERS][16];
    pthread_mutex_t lock;
    struct pnx_cache_load *kept[64];
    int n_kept;
    int finished; /* with __atomic */
};

static int keep_some(
        void *ctx, const void *key, size_t key_size, pnx_ns deadline, struct pnx_cache_load *load) {
    struct crowd *crowd = ctx;
    (void)key, (void)key_size, (void)deadline;
    pthread_mutex_lock(&crowd->lock);
    int n = crowd->n_kept;
    if (n < 64)
        crowd->kept[crowd->n_kept++] = load;
    pthread_mutex_unlock(&crowd->lock);
    return n < 64 ? -EINPROGRESS : pnx_cache_load_set(load, "now", 4);
}

static void end_one(struct crowd *crowd, int how) {
    pthread_mutex_lock(&crowd->lock);
    struct pnx_cache_load *load = crowd->n_kept > 0 ? crowd->kept[--crowd->n_kept] : NULL;
    pthread_mutex_unlock(&crowd->lock);
    if (!load)
        return;
    int code = how % 3 == 0 ? pnx_cache_load_set(load, "end", 4) : how % 3 == 1 ? -EIO : -ETIMEDOUT;
    int rc = pnx_cache_load_finish(load, code);
    CHECK(rc == 0 || rc == -EALREADY);
}

static void count_done(struct pnx_cache_request *request, int code, struct pnx_cache_ref ref,
        const struct pnx_error *err) {
    struct asked *asked = (struct asked *)(void *)request;
    CHECK_EQ(code != 0, err != NULL);
    CHECK(code == 0 || code == -EIO || code == -ETIMEDOUT || code == -ECANCELED);
    if (code == 0)
        CHECK(strlen(pnx_cache_ref_data(&ref)) == 3);
    pnx_cache_ref_release(&ref);
    __atomic_add_fetch(&asked->told, 1, __ATOMIC_RELEASE);
}

static void crowd_member(unsigned index, void *ctx) {
    struct crowd *crowd = ctx;
    struct pnx_cache *cache = crowd->s.f->cache;
    uint64_t random = crowd->s.f->seed + index;
    static const char *const keys[] = {"a", "b", "c"};
    int rounds = test_slow() ? 400 : 4000;
    /* The first goes on until the others are done: somebody has to move the clock while they wait. */
    for (int i = 0; index == 0 ? __atomic_load_n(&crowd->finished, __ATOMIC_ACQUIRE) < ASKERS - 1
                               : i < rounds;
            i++) {
        struct asked *asked = &crowd->asked[index][i % 16];
        const char *key = keys[test_random(&random) % 3];
        if (__atomic_load_n(&asked->asked, __ATOMIC_RELAXED) == told(asked)) {
            asked->request.done = count_done;
            asked->asked++;
            CHECK_EQ(pnx_cache_get_async(cache, key, 1, keep_some, crowd,
                             (pnx_ns)(test_random(&random) % 5) * PNX_MS, &asked->request),
                    0);
        }
        switch (test_random(&random) % 6) {
        case 0:
            end_one(crowd, i);
            break;
        case 1:
            pnx_cache_tick(
                    cache, __atomic_add_fetch(&crowd->s.f->te.now, PNX_MS, __ATOMIC_RELAXED));
            break;
        case 2:
            pnx_cache_remove(cache, key, 1);
            break;
        case 3: {
            struct pnx_cache_ref ref = {0};
            if (index == 0)
                break;
            int rc = pnx_cache_get_or_load(
                    cache, key, 1, script_loader, &crowd->s, PNX_MS / 4, NULL, &ref);
            CHECK(rc == 0 || rc == -ETIMEDOUT || rc == -EIO);
            pnx_cache_ref_release(&ref);
            break;
        }
        default:
            break;
        }
    }
    __atomic_add_fetch(&crowd->finished, 1, __ATOMIC_RELEASE);
}

TEST(p14_requests_ends_ticks_and_threads_may_meet) {
    struct fixture f;
    static struct crowd crowd;
    memset(&crowd, 0, sizeof(crowd));
    pthread_mutex_init(&crowd.lock, NULL);
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 2, .policy = "clock", .ttl = 3 * PNX_MS,
                             .refresh_after = 2 * PNX_MS, .stale_if_error = 3 * PNX_MS));
    script_init(&crowd.s, &f, "mad");
    test_threads(ASKERS, crowd_member, &crowd);
    while (crowd.n_kept > 0)
        end_one(&crowd, 1);
    test_env_advance(&f.te, PNX_SEC);
    for (int i = 0; i < 1000; i++)
        pnx_cache_tick(f.cache, f.te.now);
    while (crowd.n_kept > 0)
        end_one(&crowd, 1);
    for (int i = 0; i < ASKERS; i++) {
        for (int j = 0; j < 16; j++)
            CHECK_EQ(told(&crowd.asked[i][j]), crowd.asked[i][j].asked); /* each once */
    }
    CHECK_EQ(stats_of(&f).requests, 0);
    CHECK_EQ(stats_of(&f).loading, 0);
    CHECK_EQ(stats_of(&f).pinned, 0);
    fixture_close(&f);
}
