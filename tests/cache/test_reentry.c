/* SPDX-License-Identifier: Apache-2.0 */
/* P5, P20: every callback may call the cache again, with its own key and with others: all pairs, each works or is -EDEADLK. */
#include "cache/common.h"

#include <patinox/executor.h>
#include <patinox/reclaim.h>

/* The callbacks of the cache, and how a test has each called once for the key "k". */
enum inside {
    IN_LOADER,           /* of a blocking caller */
    IN_LOADER_REQUEST,   /* of a request */
    IN_LOADER_REFRESH,   /* of a refresh in its caller's call */
    IN_LOADER_EXECUTOR,  /* of a refresh by an executor */
    IN_DESTROY_REPLACED, /* of a value that was replaced */
    IN_DESTROY_EVICTED,
    IN_DESTROY_RELEASED, /* by the last reference */
    IN_DESTROY_CLEARED,
    IN_DONE_FOUND,  /* of a request that finds its value */
    IN_DONE_LOADED, /* of one whose load ends */
    IN_DONE_TICKED, /* of one whose time is over */
    IN_VISIT,
    IN_COMPUTE,
    IN_WEIGHER_PUT,
    IN_WEIGHER_ABSENT, /* of a put_if_absent */
    IN_WEIGHER_COMMIT,
    IN_WEIGHER_COMPUTE,
    IN_WEIGHER_LOADED,   /* of what a blocking caller has loaded */
    IN_WEIGHER_ABSENCE,  /* of an absence that it found */
    IN_WEIGHER_REQUEST,  /* of what a request has loaded */
    IN_WEIGHER_REFRESH,  /* by a refresh in its caller's call */
    IN_WEIGHER_EXECUTOR, /* by an executor's */
    IN_WEIGHER_FINISHED, /* of what a kept load was ended with */
    IN_WEIGHER_FILE,     /* of what a file holds */
    N_INSIDE
};

/* What is called from inside. */
enum call {
    GET,
    GET_COPY,
    GET_MANY,
    PROBE,
    PUT,
    PUT_IF_ABSENT,
    REMOVE,
    LOAD_SAME,
    LOAD_OTHER,
    ASYNC_SAME,
    ASYNC_OTHER,
    REFRESH_SAME,
    REFRESH_OTHER,
    CANCEL,
    CLEAR,
    RESIZE,
    RESIZE_WEIGHT,
    COMMIT,
    COMPUTE_SAME,
    COMPUTE_OTHER,
    RETAIN,
    LOAD_FILE,
    SET_TTL,
    EACH,
    TICK,
    REF_RELEASE,
    STATS,
    CHECK_CACHE,
    CLOSE,
    N_CALLS
};

static const char *const inside_names[] = {"loader", "loader of a request", "loader of a refresh",
        "loader of an executor", "destroy (replaced)", "destroy (evicted)", "destroy (released)",
        "destroy (cleared)", "done (found)", "done (loaded)", "done (ticked)", "visit", "compute",
        "weigher of a put", "weigher of a put_if_absent", "weigher of a commit",
        "weigher of a compute", "weigher of a load", "weigher of an absence",
        "weigher of a request", "weigher of a refresh", "weigher of an executor",
        "weigher of a kept load", "weigher of a file"};
static const char *const call_names[] = {"get", "get_copy", "get_many", "probe", "put",
        "put_if_absent", "remove", "load the same key", "load another key", "ask for the same key",
        "ask for another key", "refresh the same key", "refresh another key", "cancel", "clear",
        "resize", "resize_weight", "commit", "compute the same key", "compute another key",
        "retain", "load a file", "set_ttl", "each", "tick", "release a reference", "stats", "check",
        "close"};

struct pair {
    struct fixture f;
    enum inside inside;
    enum call call;
    int entered; /* how often the callback in question was called; the first time it calls */
    int rc;
    int inner_told;
    struct pnx_cache_ref held; /* of "held", whose last reference this is */
    struct pnx_cache_request outer;
    struct pnx_cache_request inner;
    struct pnx_cache_load *kept;
    bool ready; /* what comes before is done: weighers and destructors enter from now on */
    char path[300];
};

static int quick_loader(
        void *ctx, const void *key, size_t key_size, pnx_ns deadline, struct pnx_cache_load *load) {
    (void)ctx, (void)key, (void)key_size, (void)deadline;
    return pnx_cache_load_set(load, "quick", 6);
}

static int keep_loader(
        void *ctx, const void *key, size_t key_size, pnx_ns deadline, struct pnx_cache_load *load) {
    (void)key, (void)key_size, (void)deadline;
    *(struct pnx_cache_load **)ctx = load;
    return -EINPROGRESS;
}

static void inner_done(struct pnx_cache_request *request, int code, struct pnx_cache_ref ref,
        const struct pnx_error *err) {
    struct pair *pair = request->arg;
    (void)err;
    CHECK_MSG(code == 0 || code == -ESHUTDOWN || code == -ENOENT, "told %s", pnx_errname(code));
    pair->inner_told++;
    pnx_cache_ref_release(&ref);
}

static int set_new(void *ctx, const struct pnx_cache_ref *now, struct pnx_cache_change *change) {
    (void)ctx, (void)now;
    return pnx_cache_change_set(change, "new", 4);
}

static bool keep_all(void *ctx, const struct pnx_cache_ref *ref) {
    (void)ctx;
    return pnx_cache_ref_data(ref) != NULL;
}

static int count_visit(void *ctx, const struct pnx_cache_ref *ref) {
    (void)ctx;
    CHECK(pnx_cache_ref_data(ref));
    return 0;
}

static int ask(struct pair *pair, const char *key) {
    pair->inner = (struct pnx_cache_request){.done = inner_done, .arg = pair};
    return pnx_cache_get_async(
            pair->f.cache, key, 1, quick_loader, NULL, 60 * PNX_SEC, &pair->inner);
}

/* Makes the call; its result. */
static int make_call(struct pair *pair) {
    struct pnx_cache *cache = pair->f.cache;
    struct pnx_cache_ref ref = {0};
    struct pnx_cache_stats stats = {.size = sizeof(stats)};
    char buf[16];
    uint64_t found;
    int rc = 0;
    switch (pair->call) {
    case GET:
        rc = pnx_cache_get(cache, "k", 1, &ref);
        break;
    case GET_COPY:
        rc = pnx_cache_get_copy(cache, "k", 1, buf, sizeof(buf), NULL);
        break;
    case GET_MANY:
        rc = pnx_cache_get_many(cache, "kl", 1, 2, buf, 6, &found);
        break;
    case PROBE:
        rc = pnx_cache_probe(cache, "k", 1, &ref);
        break;
    case PUT:
        rc = pnx_cache_put(cache, "k", 1, "put", 4, 0);
        break;
    case PUT_IF_ABSENT:
        rc = pnx_cache_put_if_absent(cache, "k", 1, "put", 4, 0);
        break;
    case REMOVE:
        rc = pnx_cache_remove(cache, "k", 1);
        break;
    case LOAD_SAME:
    case LOAD_OTHER:
        rc = pnx_cache_get_or_load(cache, pair->call == LOAD_SAME ? "k" : "o", 1, quick_loader,
                NULL, PNX_NEVER, NULL, &ref);
        break;
    case ASYNC_SAME:
    case ASYNC_OTHER:
        rc = ask(pair, pair->call == ASYNC_SAME ? "k" : "o");
        break;
    case REFRESH_SAME:
    case REFRESH_OTHER:
        rc = pnx_cache_refresh(cache, pair->call == REFRESH_SAME ? "k" : "o", 1, quick_loader, NULL,
                PNX_NEVER, NULL);
        break;
    case CANCEL:
        rc = pnx_cache_cancel(&pair->outer);
        break;
    case CLEAR:
        rc = pnx_cache_clear(cache);
        break;
    case RESIZE:
        rc = pnx_cache_resize(cache, 0, 1, NULL);
        break;
    case RESIZE_WEIGHT:
        rc = pnx_cache_resize_weight(cache, 2, NULL);
        break;
    case COMMIT: {
        struct pnx_cache_reservation reservation = {0};
        rc = pnx_cache_reserve(cache, "k", 1, 4, &reservation);
        if (rc == 0)
            memcpy(reservation.data, "put", 4);
        if (rc == 0)
            rc = pnx_cache_commit(&reservation, 4, 0);
        break;
    }
    case COMPUTE_SAME:
    case COMPUTE_OTHER:
        rc = pnx_cache_compute(
                cache, pair->call == COMPUTE_SAME ? "k" : "o", 1, set_new, NULL, NULL);
        break;
    case RETAIN:
        rc = pnx_cache_retain(cache, keep_all, NULL) < 0 ? -EIO : 0;
        break;
    case LOAD_FILE:
        rc = pnx_cache_load_file(cache, pair->path, NULL, &pair->f.err, NULL);
        break;
    case SET_TTL:
        rc = pnx_cache_set_ttl(cache, 5 * PNX_SEC, NULL);
        break;
    case EACH:
        rc = pnx_cache_each(cache, count_visit, NULL);
        break;
    case TICK:
        pnx_cache_tick(cache, pair->f.te.now + 1000 * PNX_SEC);
        break;
    case REF_RELEASE:
        pnx_cache_ref_release(&pair->held);
        break;
    case STATS:
        rc = pnx_cache_read_stats(cache, &stats);
        break;
    case CHECK_CACHE:
        rc = pnx_cache_check(cache, &pair->f.err);
        break;
    default:
        rc = pnx_cache_close(cache) < 0 ? -EIO : 0;
        break;
    }
    pnx_cache_ref_release(&ref);
    return rc;
}

/* The callback in question: calls, the first time. */
static void enter(struct pair *pair) {
    if (pair->entered++ == 0)
        pair->rc = make_call(pair);
}

static int entering_loader(
        void *ctx, const void *key, size_t key_size, pnx_ns deadline, struct pnx_cache_load *load) {
    struct pair *pair = ctx;
    (void)key, (void)key_size, (void)deadline;
    if (pair->inside <= IN_LOADER_EXECUTOR)
        enter(pair);
    return pnx_cache_load_set(load, "loaded", 7);
}

static uint64_t weigh(
        void *ctx, const void *key, size_t key_size, const void *value, size_t value_size) {
    struct pair *pair = ctx;
    CHECK((value != NULL) == (value_size > 0)); /* there are no empty ones here */
    if (pair->ready && pair->inside >= IN_WEIGHER_PUT && key_size == 1 && memcmp(key, "k", 1) == 0)
        enter(pair);
    return 1;
}

static int absent_loader(
        void *ctx, const void *key, size_t key_size, pnx_ns deadline, struct pnx_cache_load *load) {
    (void)ctx, (void)key, (void)key_size, (void)deadline, (void)load;
    return -ENOENT;
}

static int entering_change(
        void *ctx, const struct pnx_cache_ref *now, struct pnx_cache_change *change) {
    struct pair *pair = ctx;
    (void)now;
    if (pair->inside == IN_COMPUTE)
        enter(pair);
    return pnx_cache_change_set(change, "change", 7);
}

static void destroy(void *ctx, const struct pnx_cache_removed *removed) {
    struct pair *pair = ctx;
    if (!pair->ready || pair->inside < IN_DESTROY_REPLACED || pair->inside > IN_DESTROY_CLEARED)
        return;
    if (removed->key_size == 1 && memcmp(removed->key, "k", 1) == 0)
        enter(pair);
}

static void outer_done(struct pnx_cache_request *request, int code, struct pnx_cache_ref ref,
        const struct pnx_error *err) {
    struct pair *pair = request->arg;
    (void)code, (void)err;
    if (pair->inside >= IN_DONE_FOUND && pair->inside <= IN_DONE_TICKED)
        enter(pair);
    pnx_cache_ref_release(&ref);
}

static int visit(void *ctx, const struct pnx_cache_ref *ref) {
    CHECK(pnx_cache_ref_data(ref));
    enter(ctx);
    return 0;
}

static void ask_outer(struct pair *pair, pnx_cache_load_fn *loader, void *ctx, pnx_ns timeout) {
    pair->outer = (struct pnx_cache_request){.done = outer_done, .arg = pair};
    CHECK_EQ(pnx_cache_get_async(pair->f.cache, "k", 1, loader, ctx, timeout, &pair->outer), 0);
}

/* What may become of a call from inside which others are made. */
static void check_outer(const struct pair *pair, int rc) {
    CHECK_MSG(rc == 0 || (rc == -ESHUTDOWN && pair->call == CLOSE), "%s", pnx_errname(rc));
}

/* Has the weigher called. */
static void trigger_weigher(struct pair *pair, struct pnx_executor *executor) {
    struct fixture *f = &pair->f;
    struct pnx_cache_ref ref = {0};
    struct pnx_cache_reservation r = {0};
    int rc;
    switch (pair->inside) {
    case IN_WEIGHER_PUT:
        check_outer(pair, pnx_cache_put(f->cache, "k", 1, "first", 6, 0));
        break;
    case IN_WEIGHER_ABSENT:
        rc = pnx_cache_put_if_absent(f->cache, "k", 1, "first", 6, 0);
        if (rc != -EEXIST) /* what was called may have stored the key */
            check_outer(pair, rc);
        break;
    case IN_WEIGHER_COMMIT:
        CHECK_EQ(pnx_cache_reserve(f->cache, "k", 1, 6, &r), 0);
        memcpy(r.data, "first", 6);
        check_outer(pair, pnx_cache_commit(&r, 6, 0));
        break;
    case IN_WEIGHER_COMPUTE:
        check_outer(pair, pnx_cache_compute(f->cache, "k", 1, entering_change, pair, NULL));
        break;
    case IN_WEIGHER_REFRESH:
    case IN_WEIGHER_EXECUTOR:
    case IN_WEIGHER_LOADED:
        rc = pnx_cache_get_or_load(f->cache, "k", 1, entering_loader, pair, PNX_NEVER, NULL, &ref);
        check_outer(pair, rc);
        pnx_cache_ref_release(&ref);
        if (executor)
            pnx_executor_tick(executor, f->te.now);
        break;
    case IN_WEIGHER_ABSENCE:
        rc = pnx_cache_get_or_load(f->cache, "k", 1, absent_loader, NULL, PNX_NEVER, NULL, &ref);
        CHECK(rc == -ENOENT || (rc == -ESHUTDOWN && pair->call == CLOSE));
        break;
    case IN_WEIGHER_REQUEST:
        ask_outer(pair, entering_loader, pair, PNX_NEVER);
        break;
    case IN_WEIGHER_FINISHED:
        ask_outer(pair, keep_loader, &pair->kept, PNX_NEVER);
        CHECK_EQ(pnx_cache_load_set(pair->kept, "late", 5), 0);
        CHECK_EQ(pnx_cache_load_finish(pair->kept, 0), 0);
        break;
    default:
        check_outer(pair, pnx_cache_load_file(f->cache, pair->path, NULL, &f->err, NULL));
        break;
    }
}

/* Has the callback called. */
static void trigger(struct pair *pair, struct pnx_executor *executor) {
    struct fixture *f = &pair->f;
    struct pnx_cache_ref ref = {0};
    int rc = 0;
    if (pair->inside == IN_WEIGHER_REFRESH || pair->inside == IN_WEIGHER_EXECUTOR) {
        CHECK_EQ(pnx_cache_put(f->cache, "k", 1, "old", 4, 0), 0);
        test_env_advance(&f->te, 10 * PNX_SEC);
    }
    pair->ready = true;
    if (pair->inside >= IN_WEIGHER_PUT) {
        trigger_weigher(pair, executor);
        return;
    }
    switch (pair->inside) {
    case IN_LOADER_REFRESH:
    case IN_LOADER_EXECUTOR:
        CHECK_EQ(pnx_cache_put(f->cache, "k", 1, "old", 4, 0), 0);
        test_env_advance(&f->te, 10 * PNX_SEC);
        __attribute__((fallthrough));
    case IN_LOADER:
        rc = pnx_cache_get_or_load(f->cache, "k", 1, entering_loader, pair, PNX_NEVER, NULL, &ref);
        CHECK(rc == 0 || (rc == -ESHUTDOWN && pair->call == CLOSE));
        pnx_cache_ref_release(&ref);
        if (executor)
            pnx_executor_tick(executor, f->te.now);
        break;
    case IN_LOADER_REQUEST:
        ask_outer(pair, entering_loader, pair, PNX_NEVER);
        break;
    case IN_DESTROY_REPLACED:
        CHECK_EQ(pnx_cache_put(f->cache, "k", 1, "first", 6, 0), 0);
        CHECK_EQ(pnx_cache_put(f->cache, "k", 1, "second", 7, 0), 0);
        break;
    case IN_DESTROY_EVICTED:
        CHECK_EQ(pnx_cache_put(f->cache, "k", 1, "first", 6, 0), 0);
        for (char key = '0'; key < '9' && pair->entered == 0; key++) {
            rc = pnx_cache_put(f->cache, &key, 1, "second", 7, 0);
            CHECK(rc == 0 || (rc == -ESHUTDOWN && pair->call == CLOSE));
        }
        break;
    case IN_DESTROY_RELEASED:
        CHECK_EQ(pnx_cache_put(f->cache, "k", 1, "first", 6, 0), 0);
        CHECK_EQ(pnx_cache_get(f->cache, "k", 1, &ref), 0);
        CHECK_EQ(pnx_cache_remove(f->cache, "k", 1), 0);
        pnx_cache_ref_release(&ref);
        break;
    case IN_DESTROY_CLEARED:
        CHECK_EQ(pnx_cache_put(f->cache, "k", 1, "first", 6, 0), 0);
        CHECK_EQ(pnx_cache_clear(f->cache), 0);
        break;
    case IN_DONE_FOUND:
        CHECK_EQ(pnx_cache_put(f->cache, "k", 1, "first", 6, 0), 0);
        ask_outer(pair, quick_loader, NULL, PNX_NEVER);
        break;
    case IN_DONE_LOADED:
        ask_outer(pair, keep_loader, &pair->kept, PNX_NEVER);
        CHECK_EQ(pnx_cache_load_set(pair->kept, "late", 5), 0);
        CHECK_EQ(pnx_cache_load_finish(pair->kept, 0), 0);
        break;
    case IN_DONE_TICKED:
        ask_outer(pair, keep_loader, &pair->kept, PNX_SEC);
        test_env_advance(&f->te, PNX_SEC);
        while (pair->entered == 0)
            pnx_cache_tick(f->cache, f->te.now);
        pnx_cache_tick(f->cache, f->te.now); /* gives the load up, unless that was done */
        (void)pnx_cache_load_finish(pair->kept, -EIO);
        break;
    case IN_COMPUTE:
        /* One that changes the key itself is called again, and once is enough here. */
        check_outer(pair, pnx_cache_compute(f->cache, "k", 1, entering_change, pair, NULL));
        break;
    default:
        CHECK_EQ(pnx_cache_put(f->cache, "k", 1, "first", 6, 0), 0);
        CHECK_EQ(pnx_cache_each(f->cache, visit, pair), 0);
        break;
    }
}

/* Whether the result is one that the call may have from there. */
static bool is_right(const struct pair *pair) {
    /* A load is under way, and nothing is there. */
    bool loads = pair->inside == IN_LOADER || pair->inside == IN_LOADER_REQUEST ||
                 pair->inside == IN_WEIGHER_LOADED || pair->inside == IN_WEIGHER_ABSENCE ||
                 pair->inside == IN_WEIGHER_REQUEST || pair->inside == IN_WEIGHER_FINISHED;
    bool refreshes = pair->inside <= IN_LOADER_EXECUTOR ||
                     (pair->inside >= IN_WEIGHER_LOADED && pair->inside <= IN_WEIGHER_FINISHED);
    bool computes = pair->inside == IN_COMPUTE || pair->inside == IN_WEIGHER_COMPUTE;
    int rc = pair->rc;
    switch (pair->call) {
    case LOAD_SAME:
        /* A request whose time is over: the load that it waited for goes on, and nobody else can end it here. */
        return rc == (loads ? -EDEADLK : 0);
    case REFRESH_SAME:
        return rc == (refreshes ? -EALREADY : 0);
    case COMPUTE_SAME:
        return rc == (computes ? -EDEADLK : 0);
    case CANCEL:
        return rc == -EALREADY || rc == 0;
    case GET:
    case GET_COPY:
    case PROBE:
    case REMOVE:
        return rc == 0 || rc == -ENOENT;
    case GET_MANY:
        return rc >= 0;
    case PUT_IF_ABSENT:
        return rc == 0 || rc == -EEXIST;
    default:
        return rc == 0;
    }
}

static void try_pair(enum inside inside, enum call call, const char *policy) {
    struct pair pair = {.inside = inside, .call = call};
    struct fixture *f = &pair.f;
    struct pnx_executor *executor = NULL;
    fixture_worlds(f);
    struct pnx_cache_opts opts = *PNX_CACHE_OPTS(.capacity_entries = 3, .policy = policy,
            .destroy = destroy, .ctx = &pair, .ttl = 100 * PNX_SEC, .weigher = weigh,
            .weigher_ctx = &pair, .capacity_weight = 4);
    bool by_executor = inside == IN_LOADER_EXECUTOR || inside == IN_WEIGHER_EXECUTOR;
    if (by_executor || inside == IN_LOADER_REFRESH || inside == IN_WEIGHER_REFRESH)
        opts.refresh_after = 10 * PNX_SEC;
    if (inside == IN_WEIGHER_ABSENCE)
        opts.negative_ttl = 100 * PNX_SEC;
    if (by_executor) {
        CHECK_EQ(pnx_executor_create(
                         PNX_EXECUTOR_OPTS(.env = &f->te.env, .registry = pnx_registry_off(),
                                 .stats = pnx_stats_off(), .budget = pnx_budget_off(),
                                 .flags = PNX_EXECUTOR_TICK),
                         &f->err, &executor),
                0);
        opts.executor = executor;
        opts.refresh_loader = entering_loader;
        opts.refresh_ctx = &pair;
    }
    opts = fixture_opts(f, &opts);
    CHECK_EQ(pnx_cache_create(&opts, &f->err, &f->cache), 0);
    snprintf(pair.path, sizeof(pair.path), "%s", test_path("cache"));
    if (call == LOAD_FILE || inside == IN_WEIGHER_FILE) {
        CHECK_EQ(pnx_cache_put(f->cache, "k", 1, "saved", 6, 0), 0);
        CHECK_EQ(pnx_cache_save(f->cache, pair.path, NULL, &f->err, NULL), 0);
        CHECK_EQ(pnx_cache_remove(f->cache, "k", 1), 0);
    }
    CHECK_EQ(pnx_cache_put(f->cache, "held", 4, "held", 5, 0), 0);
    CHECK_EQ(pnx_cache_get(f->cache, "held", 4, &pair.held), 0);
    CHECK_EQ(pnx_cache_remove(f->cache, "held", 4), 0);
    trigger(&pair, executor);
    CHECK_MSG(pair.entered > 0, "%s was not called", inside_names[inside]);
    CHECK_MSG(is_right(&pair), "%s from inside %s: %s", call_names[call], inside_names[inside],
            pnx_errname(pair.rc));
    pnx_cache_ref_release(&pair.held);
    check_invariants(f);
    CHECK_EQ(stats_of(f).loading, 0);
    pnx_cache_close(f->cache);
    if (call == ASYNC_SAME || call == ASYNC_OTHER)
        CHECK_EQ(pair.inner_told, 1);
    CHECK_EQ(stats_of(f).requests, 0);
    CHECK_EQ(stats_of(f).pinned, 0);
    pnx_executor_release(&executor);
    pnx_cache_release(&f->cache);
    fixture_drop(f);
}

static void try_all(const char *policy) {
    for (int inside = 0; inside < N_INSIDE; inside++) {
        for (int call = 0; call < N_CALLS; call++)
            try_pair((enum inside)inside, (enum call)call, policy);
    }
}

TEST(p5_every_call_from_inside_every_callback_works_or_is_edeadlk) {
    try_all("lru");
}

TEST(p5_also_where_lookups_take_no_lock) {
    try_all("clock");
}

/* A destructor that asks for the key of the load that makes room by it. */
struct asking {
    struct fixture f;
    int calls;
    int rc;
};

static void ask_for_k(void *ctx, const struct pnx_cache_removed *removed) {
    struct asking *a = ctx;
    struct pnx_cache_ref ref = {0};
    if (removed->key_size != 1 || memcmp(removed->key, "x", 1) != 0)
        return;
    a->calls++;
    a->rc = pnx_cache_get_or_load(a->f.cache, "k", 1, quick_loader, NULL, PNX_NEVER, NULL, &ref);
    pnx_cache_ref_release(&ref);
}

static void done_told(struct pnx_cache_request *request, int code, struct pnx_cache_ref ref,
        const struct pnx_error *err) {
    (void)err;
    *(int *)request->arg = code ? code : 1;
    pnx_cache_ref_release(&ref);
}

TEST(p5_what_the_end_of_a_kept_load_makes_room_by_may_ask_for_its_key) {
    struct asking a = {0};
    struct pnx_cache_load *kept = NULL;
    int told = 0;
    struct pnx_cache_request request = {.done = done_told, .arg = &told};
    fixture_open(&a.f, PNX_CACHE_OPTS(.capacity_entries = 1, .destroy = ask_for_k, .ctx = &a));
    CHECK_EQ(pnx_cache_put(a.f.cache, "x", 1, "x", 2, 0), 0);
    CHECK_EQ(pnx_cache_get_async(a.f.cache, "k", 1, keep_loader, &kept, PNX_NEVER, &request), 0);
    CHECK_EQ(pnx_cache_load_set(kept, "late", 5), 0);
    CHECK_EQ(pnx_cache_load_finish(kept, 0),
            0); /* on this thread, for which the destructor would wait */
    CHECK_EQ(a.calls, 1);
    CHECK_EQ(a.rc, -EDEADLK);
    CHECK_EQ(told, 1);
    struct pnx_cache_ref ref = {0};
    CHECK_EQ(pnx_cache_get(a.f.cache, "k", 1, &ref), 0);
    CHECK_EQ(memcmp(pnx_cache_ref_data(&ref), "late", 5), 0);
    pnx_cache_ref_release(&ref);
    CHECK_EQ(stats_of(&a.f).loading, 0);
    fixture_close(&a.f);
}
