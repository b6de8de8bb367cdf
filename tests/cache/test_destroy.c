/* SPDX-License-Identifier: Apache-2.0 */
/* P4 and P5: each value is destroyed exactly once, with its cause, outside all locks; callbacks may call back. */
#include "cache/common.h"

#include <patinox/reclaim.h>
#include <patinox/shutdown.h>

#include <pthread.h>
#include <signal.h>

/* A value that knows whether it is alive. */
struct thing {
    int alive; /* 1, 0 once destroyed; with __atomic */
    enum pnx_cache_cause cause;
};

static int destroyed; /* with __atomic */

static void destroy_thing(void *ctx, const struct pnx_cache_removed *removed) {
    struct thing *thing = removed->value;
    (void)ctx;
    CHECK_EQ(removed->value_size, sizeof(*thing));
    CHECK(removed->cause >= PNX_CACHE_EXPLICIT && removed->cause <= PNX_CACHE_CLOSED);
    CHECK_MSG(__atomic_exchange_n(&thing->alive, 0, __ATOMIC_ACQ_REL) == 1, "destroyed twice");
    thing->cause = removed->cause;
    __atomic_add_fetch(&destroyed, 1, __ATOMIC_RELAXED);
}

static void open_things(struct fixture *f, uint64_t entries) {
    destroyed = 0;
    fixture_open(f, PNX_CACHE_OPTS(.capacity_entries = entries, .destroy = destroy_thing));
}

static void put_thing(struct fixture *f, const char *key, struct thing *thing, pnx_ns ttl) {
    *thing = (struct thing){.alive = 1};
    CHECK_EQ(pnx_cache_put_pointer(f->cache, key, strlen(key), thing, sizeof(*thing), ttl), 0);
}

TEST(p4_each_cause_is_told) {
    struct fixture f;
    struct thing thing[9];
    open_things(&f, 2);
    put_thing(&f, "a", &thing[0], 0);
    CHECK_EQ(pnx_cache_remove(f.cache, "a", 1), 0);
    CHECK_EQ(thing[0].cause, PNX_CACHE_EXPLICIT);
    put_thing(&f, "a", &thing[1], 0);
    put_thing(&f, "a", &thing[2], 0);
    CHECK_EQ(thing[1].cause, PNX_CACHE_REPLACED);
    put_thing(&f, "b", &thing[3], PNX_SEC);
    put_thing(&f, "c", &thing[4], PNX_SEC);
    CHECK_EQ(thing[2].cause, PNX_CACHE_SIZE);
    test_env_advance(&f.te, PNX_SEC);
    check_absent(&f, "b");
    CHECK_EQ(thing[3].cause, PNX_CACHE_EXPIRED);
    CHECK_EQ(pnx_cache_tick(f.cache, f.te.now), PNX_NEVER);
    CHECK_EQ(thing[4].cause, PNX_CACHE_EXPIRED);
    put_thing(&f, "a", &thing[5], 0);
    CHECK_EQ(pnx_cache_clear(f.cache), 0);
    CHECK_EQ(thing[5].cause, PNX_CACHE_CLEAR);
    put_thing(&f, "a", &thing[6], 0);
    put_thing(&f, "b", &thing[7], 0);
    CHECK_EQ(pnx_cache_resize(f.cache, 0, 1, NULL), 0);
    CHECK_EQ(thing[6].cause, PNX_CACHE_SIZE);
    CHECK_EQ(pnx_cache_close(f.cache), 0);
    CHECK_EQ(thing[7].cause, PNX_CACHE_CLOSED);
    CHECK_EQ(destroyed, 8);
    fixture_close(&f);
    CHECK_EQ(destroyed, 8);
}

TEST(p4_a_failed_put_leaves_the_pointer_to_its_owner) {
    struct fixture f;
    struct thing a, b, c;
    open_things(&f, 10);
    put_thing(&f, "a", &a, 0);
    b.alive = c.alive = 1;
    CHECK_EQ(pnx_cache_put_pointer_if_absent(f.cache, "a", 1, &b, sizeof(b), 0), -EEXIST);
    CHECK_EQ(b.alive, 1);
    f.te.allocations = 0;
    f.te.fail_at = 1;
    CHECK_EQ(pnx_cache_put_pointer(f.cache, "b", 1, &b, sizeof(b), 0), -ENOMEM);
    f.te.fail_at = 0;
    CHECK_EQ(pnx_cache_resize(f.cache, 4096, 0, NULL), 0);
    CHECK_EQ(pnx_cache_put_pointer(f.cache, "c", 1, &c, 1 << 20, 0), -EFBIG);
    CHECK_EQ(pnx_cache_close(f.cache), 0);
    CHECK_EQ(pnx_cache_put_pointer(f.cache, "c", 1, &c, sizeof(c), 0), -ESHUTDOWN);
    CHECK_EQ(b.alive, 1);
    CHECK_EQ(c.alive, 1);
    CHECK_EQ(destroyed, 1);
    fixture_close(&f);
}

static struct pnx_cache_ref pin(struct fixture *f, const char *key) {
    struct pnx_cache_ref ref = {0};
    CHECK_EQ(get_text(f, key, &ref), 0);
    return ref;
}

TEST(p4_a_value_lives_until_its_last_reference_whatever_happens_to_its_entry) {
    struct fixture f;
    struct thing thing[6], newer;
    struct pnx_cache_ref ref[6];
    open_things(&f, 1);
    for (int how = 0; how < 6; how++) {
        put_thing(&f, "k", &thing[how], how == 3 ? PNX_SEC : 0);
        ref[how] = pin(&f, "k");
        struct pnx_cache_ref second = {0};
        CHECK_EQ(pnx_cache_ref_dup(&ref[how], &second), 0);
        if (how == 0)
            CHECK_EQ(pnx_cache_remove(f.cache, "k", 1), 0);
        if (how == 1)
            put_thing(&f, "k", &newer, 0);
        if (how == 2)
            CHECK_EQ(pnx_cache_resize(f.cache, 1024, 1, NULL), 0);
        if (how == 3)
            test_env_advance(&f.te, PNX_SEC);
        if (how == 4)
            CHECK_EQ(pnx_cache_clear(f.cache), 0);
        if (how == 5)
            CHECK_EQ(pnx_cache_close(f.cache), 2);
        if (how == 3)
            check_absent(&f, "k");
        CHECK_EQ(thing[how].alive, 1);
        pnx_cache_ref_release(&second);
        CHECK_EQ(thing[how].alive, 1);
        CHECK(pnx_cache_ref_data(&ref[how]) == &thing[how]);
        if (how != 2)
            CHECK(stats_of(&f).detached > 0);
        if (how == 1 || how == 2)
            CHECK_EQ(pnx_cache_remove(f.cache, "k", 1), 0);
        pnx_cache_ref_release(&ref[how]);
        CHECK_EQ(thing[how].alive, 0);
        CHECK_EQ(stats_of(&f).detached, 0);
        CHECK_EQ(stats_of(&f).pinned, 0);
    }
    CHECK_EQ(thing[1].cause, PNX_CACHE_REPLACED);
    CHECK_EQ(thing[3].cause, PNX_CACHE_EXPIRED);
    CHECK_EQ(thing[4].cause, PNX_CACHE_CLEAR);
    CHECK_EQ(thing[5].cause, PNX_CACHE_CLOSED);
    fixture_close(&f);
}

TEST(p4_the_last_reference_may_go_after_the_cache) {
    struct fixture f;
    struct thing thing;
    open_things(&f, 1);
    put_thing(&f, "k", &thing, 0);
    struct pnx_cache_ref ref = pin(&f, "k");
    pnx_cache_release(&f.cache);
    CHECK_EQ(thing.alive, 1);
    pnx_cache_ref_release(&ref);
    CHECK_EQ(thing.alive, 0);
    CHECK_EQ(thing.cause, PNX_CACHE_CLOSED);
    fixture_close(&f);
}

/* ---- threads ---- */

#define THINGS 20000

struct race {
    struct fixture f;
    struct thing *things;
    int next; /* with __atomic */
    int stop; /* with __atomic */
    unsigned total;
};

/* Puts, removes, reads and keeps references, so that every cause meets every other. */
static void race_thread(unsigned index, void *ctx) {
    struct race *race = ctx;
    uint64_t rng = race->f.seed + index;
    struct pnx_cache_ref kept[4] = {{0}};
    for (;;) {
        uint64_t what = test_random(&rng) % 100;
        uint64_t key = test_random(&rng) % 64;
        if (what < 50) {
            int n = __atomic_fetch_add(&race->next, 1, __ATOMIC_RELAXED);
            if (n >= (int)race->total)
                break;
            struct thing *thing = &race->things[n];
            thing->alive = 1;
            pnx_ns ttl = what < 10 ? (pnx_ns)what + 1 : 0;
            int rc = what % 4 ? pnx_cache_put_pointer(
                                        race->f.cache, &key, 8, thing, sizeof(*thing), ttl)
                              : pnx_cache_put_pointer_if_absent(
                                        race->f.cache, &key, 8, thing, sizeof(*thing), ttl);
            CHECK(rc == 0 || rc == -EEXIST);
            if (rc) {
                CHECK_EQ(__atomic_exchange_n(&thing->alive, 0, __ATOMIC_ACQ_REL), 1);
                __atomic_add_fetch(&destroyed, 1, __ATOMIC_RELAXED);
            }
        } else if (what < 80) {
            struct pnx_cache_ref *ref = &kept[what % 4];
            pnx_cache_ref_release(ref);
            if (pnx_cache_get(race->f.cache, &key, 8, ref) == 0)
                CHECK_EQ(__atomic_load_n(&((struct thing *)pnx_cache_ref_data(ref))->alive,
                                 __ATOMIC_ACQUIRE),
                        1);
        } else if (what < 94) {
            int rc = pnx_cache_remove(race->f.cache, &key, 8);
            CHECK(rc == 0 || rc == -ENOENT);
        } else if (what < 97) {
            test_env_advance(&race->f.te, 1);
            pnx_cache_tick(race->f.cache, __atomic_load_n(&race->f.te.now, __ATOMIC_RELAXED));
        } else if (what < 98) {
            CHECK_EQ(pnx_cache_resize(race->f.cache, 0, 8 + key, NULL), 0);
        } else if (what < 99 && key < 8) {
            CHECK_EQ(pnx_cache_clear(race->f.cache), 0);
        } else if (key == 0) {
            check_invariants(&race->f);
        }
        for (int i = 0; i < 4; i++) {
            if (kept[i].entry)
                CHECK_EQ(__atomic_load_n(&((struct thing *)pnx_cache_ref_data(&kept[i]))->alive,
                                 __ATOMIC_ACQUIRE),
                        1);
        }
    }
    for (int i = 0; i < 4; i++)
        pnx_cache_ref_release(&kept[i]);
}

TEST_LIMIT(p4_exactly_once_among_threads_that_put_read_remove_expire_and_clear, 120) {
    static struct race race;
    race.total = test_slow() ? THINGS : 20 * THINGS;
    race.things = calloc(race.total, sizeof(*race.things));
    open_things(&race.f, 32);
    test_threads(8, race_thread, &race);
    CHECK_EQ(stats_of(&race.f).pinned, 0);
    CHECK_EQ(stats_of(&race.f).detached, 0);
    fixture_close(&race.f);
    CHECK_EQ(destroyed, race.total);
    for (unsigned i = 0; i < race.total; i++)
        CHECK_EQ(race.things[i].alive, 0);
    free(race.things);
}

/* References released by other threads while the cache is released: whoever is last frees it. */
static void release_late(unsigned index, void *ctx) {
    struct race *race = ctx;
    struct pnx_cache_ref refs[16] = {{0}};
    for (uint64_t k = 0; k < 16; k++)
        CHECK_EQ(pnx_cache_get(race->f.cache, &k, 8, &refs[k]), 0);
    __atomic_add_fetch(&race->next, 1, __ATOMIC_ACQ_REL);
    if (index == 0) {
        while (__atomic_load_n(&race->next, __ATOMIC_ACQUIRE) < 4)
            sched_yield();
        pnx_cache_release(&race->f.cache);
        __atomic_store_n(&race->stop, 1, __ATOMIC_RELEASE);
    }
    for (int k = 0; k < 16; k++)
        pnx_cache_ref_release(&refs[k]);
}

TEST(p4_references_and_the_cache_may_be_released_at_the_same_time) {
    for (int round = 0; round < (test_slow() ? 20 : 200); round++) {
        struct race race = {.things = calloc(16, sizeof(*race.things))};
        open_things(&race.f, 32);
        for (uint64_t k = 0; k < 16; k++) {
            race.things[k].alive = 1;
            CHECK_EQ(pnx_cache_put_pointer(
                             race.f.cache, &k, 8, &race.things[k], sizeof(*race.things), 0),
                    0);
        }
        test_threads(4, release_late, &race);
        CHECK_EQ(destroyed, 16);
        fixture_close(&race.f);
        free(race.things);
    }
}

/* ---- re-entry ---- */

/* What a callback does with the cache that calls it. */
enum act {
    ACT_GET,
    ACT_PUT,
    ACT_PUT_OWN_KEY,
    ACT_REMOVE,
    ACT_CLEAR,
    ACT_EACH,
    ACT_LOAD,
    ACT_LOAD_OWN_KEY,
    ACT_TICK,
    ACT_RESIZE,
    ACT_STATS,
    ACT_CHECK,
    ACT_RECLAIM,
    ACT_CLOSE,
    ACT_COUNT
};

struct reentry {
    struct fixture f;
    enum act act;
    int depth;
    int acted;
};

static int visit_nothing(void *ctx, const struct pnx_cache_ref *ref) {
    (void)ctx, (void)ref;
    return 0;
}

static int load_inner(
        void *ctx, const void *key, size_t key_size, pnx_ns deadline, struct pnx_cache_load *load) {
    (void)ctx, (void)key, (void)key_size, (void)deadline;
    return pnx_cache_load_set(load, "inner", 6);
}

/* own is the key that the callback is about, in_loader whether that key is being loaded by this thread. */
static void act(struct reentry *r, const void *own, size_t own_size, bool in_loader) {
    struct pnx_cache *cache = r->f.cache;
    struct pnx_cache_ref ref = {0};
    struct pnx_cache_stats stats = {.size = sizeof(stats)};
    int rc = 0;
    if (r->depth > 0 || !cache)
        return; /* one level: what the act itself calls back does not act again */
    r->depth++;
    r->acted++;
    switch (r->act) {
    case ACT_GET:
        rc = pnx_cache_get(cache, "other", 5, &ref);
        break;
    case ACT_PUT:
        rc = pnx_cache_put(cache, "another", 7, "x", 2, 0);
        break;
    case ACT_PUT_OWN_KEY:
        rc = pnx_cache_put(cache, own, own_size, "x", 2, 0);
        break;
    case ACT_REMOVE:
        rc = pnx_cache_remove(cache, "other", 5);
        break;
    case ACT_CLEAR:
        rc = pnx_cache_clear(cache);
        break;
    case ACT_EACH:
        rc = pnx_cache_each(cache, visit_nothing, NULL);
        break;
    case ACT_LOAD:
        rc = pnx_cache_get_or_load(cache, "fresh", 5, load_inner, NULL, PNX_NEVER, NULL, &ref);
        break;
    case ACT_LOAD_OWN_KEY:
        rc = pnx_cache_get_or_load(cache, own, own_size, load_inner, NULL, PNX_NEVER, NULL, &ref);
        if (in_loader)
            CHECK_EQ(rc, -EDEADLK);
        rc = rc == -EDEADLK ? 0 : rc;
        break;
    case ACT_TICK:
        pnx_cache_tick(cache, r->f.te.now);
        break;
    case ACT_RESIZE:
        rc = pnx_cache_resize(cache, 0, 2, NULL);
        break;
    case ACT_STATS:
        rc = pnx_cache_read_stats(cache, &stats);
        break;
    case ACT_CHECK:
        rc = pnx_cache_check(cache, NULL);
        break;
    case ACT_RECLAIM:
        pnx_budget_reclaim(r->f.budget, 100);
        break;
    case ACT_CLOSE:
        pnx_cache_close(cache);
        break;
    case ACT_COUNT:
        break;
    }
    CHECK_MSG(rc == 0 || rc == -ENOENT || rc == -ESHUTDOWN, "act %d: %s", r->act, pnx_errname(rc));
    pnx_cache_ref_release(&ref);
    r->depth--;
}

static void act_in_destructor(void *ctx, const struct pnx_cache_removed *removed) {
    act(ctx, removed->key, removed->key_size, false);
}

static int act_in_visitor(void *ctx, const struct pnx_cache_ref *ref) {
    size_t n;
    const void *key = pnx_cache_ref_key(ref, &n);
    act(ctx, key, n, false);
    CHECK_STR(pnx_cache_ref_data(ref), "1234567"); /* the reference holds it */
    return 0;
}

static int act_in_loader(
        void *ctx, const void *key, size_t key_size, pnx_ns deadline, struct pnx_cache_load *load) {
    (void)deadline;
    act(ctx, key, key_size, true);
    return pnx_cache_load_set(load, "1234567", 8);
}

static void reentry_open(struct reentry *r, enum act what, bool destructor) {
    *r = (struct reentry){.act = what};
    fixture_open(&r->f, PNX_CACHE_OPTS(.capacity_entries = 4,
                                .destroy = destructor ? act_in_destructor : NULL, .ctx = r));
    put_text(&r->f, "other", "1234567", 0);
    put_text(&r->f, "k", "1234567", PNX_SEC);
}

static void reentry_close(struct reentry *r) {
    CHECK(r->acted > 0);
    CHECK_EQ(stats_of(&r->f).pinned, 0);
    CHECK_EQ(stats_of(&r->f).loading, 0);
    fixture_close(&r->f);
}

TEST(p5_a_destructor_may_call_everything) {
    for (int what = 0; what < ACT_COUNT; what++) {
        for (int how = 0; how < 7; how++) {
            struct reentry r;
            reentry_open(&r, (enum act)what, true);
            struct pnx_cache_ref ref = {0};
            if (how == 0)
                CHECK_EQ(pnx_cache_remove(r.f.cache, "k", 1), 0);
            if (how == 1)
                CHECK_EQ(pnx_cache_put(r.f.cache, "k", 1, "1234567", 8, 0), 0);
            if (how == 2) {
                for (uint64_t i = 0; i < 4; i++) {
                    int rc = pnx_cache_put(r.f.cache, &i, 8, "1234567", 8, 0);
                    CHECK(rc == 0 || rc == -ESHUTDOWN);
                }
            }
            if (how == 3)
                test_env_advance(&r.f.te, PNX_SEC);
            if (how == 3)
                pnx_cache_tick(r.f.cache, r.f.te.now);
            if (how == 4)
                CHECK_EQ(pnx_cache_clear(r.f.cache), 0);
            if (how == 5) {
                CHECK_EQ(get_text(&r.f, "k", &ref), 0);
                CHECK_EQ(pnx_cache_remove(r.f.cache, "k", 1), 0);
                pnx_cache_ref_release(&ref);
            }
            if (how == 6)
                pnx_cache_close(r.f.cache);
            reentry_close(&r);
        }
    }
}

TEST(p5_a_visitor_may_call_everything) {
    for (int what = 0; what < ACT_COUNT; what++) {
        struct reentry r;
        reentry_open(&r, (enum act)what, false);
        CHECK_EQ(pnx_cache_each(r.f.cache, act_in_visitor, &r), 0);
        reentry_close(&r);
    }
}

TEST(p5_a_loader_may_call_everything_but_its_own_load) {
    for (int what = 0; what < ACT_COUNT; what++) {
        struct reentry r;
        reentry_open(&r, (enum act)what, false);
        struct pnx_cache_ref ref = {0};
        int rc = pnx_cache_get_or_load(
                r.f.cache, "own", 3, act_in_loader, &r, PNX_NEVER, &r.f.err, &ref);
        CHECK_EQ(rc, what == ACT_CLOSE ? -ESHUTDOWN : 0);
        if (rc == 0)
            CHECK_STR(pnx_cache_ref_data(&ref), "1234567");
        pnx_cache_ref_release(&ref);
        if (what == ACT_PUT_OWN_KEY) /* the newer one stays */
            check_text(&r.f, "own", "x");
        reentry_close(&r);
    }
}

/* A destructor that puts its value back, for a while: the cache comes to rest as soon as it stops. */
static void put_back(void *ctx, const struct pnx_cache_removed *removed) {
    struct reentry *r = ctx;
    if (removed->cause == PNX_CACHE_CLOSED || r->acted >= 50)
        return;
    r->acted++;
    CHECK_EQ(pnx_cache_put(r->f.cache, removed->key, removed->key_size, removed->value,
                     removed->value_size, 0),
            0);
}

static void vanish_in_destroy(void *ctx, const struct pnx_cache_removed *removed) {
    (void)ctx, (void)removed;
    pthread_exit(NULL); /* unwinds through the library, as a C++ exception would */
}

static int vanish_in_visit(void *ctx, const struct pnx_cache_ref *ref) {
    (void)ctx, (void)ref;
    pthread_exit(NULL);
}

static void *clear_all(void *cache) {
    (void)pnx_cache_clear(cache);
    return NULL;
}

static void *visit_all(void *cache) {
    (void)pnx_cache_each(cache, vanish_in_visit, NULL);
    return NULL;
}

static void lose_a_callback(void *run) {
    struct fixture f;
    pthread_t thread;
    bool visit = *(const bool *)run;
    fixture_open(
            &f, PNX_CACHE_OPTS(.capacity_entries = 4, .destroy = visit ? NULL : vanish_in_destroy));
    put_text(&f, "k", "v", 0);
    CHECK_EQ(pthread_create(&thread, NULL, visit ? visit_all : clear_all, f.cache), 0);
    pthread_join(thread, NULL);
}

TEST(p5_a_destructor_or_visitor_that_does_not_return_aborts) {
    CHECK_EQ(test_apart(lose_a_callback, &(bool){false}), -SIGABRT);
    CHECK_EQ(test_apart(lose_a_callback, &(bool){true}), -SIGABRT);
}

TEST(p5_a_destructor_may_put_its_value_back) {
    struct reentry r = {.act = ACT_COUNT};
    fixture_open(&r.f, PNX_CACHE_OPTS(.capacity_entries = 2, .destroy = put_back, .ctx = &r));
    put_text(&r.f, "a", "1", 0);
    put_text(&r.f, "b", "2", 0);
    put_text(&r.f, "c", "3", 0);
    CHECK_EQ(r.acted, 50);
    CHECK_EQ(stats_of(&r.f).entries, 2);
    fixture_close(&r.f);
}

TEST(a_cache_may_be_released_after_its_registry_was_shut_down_and_released) {
    struct test_env te;
    test_env_init(&te);
    struct pnx_registry *registry = NULL;
    struct pnx_cache *cache = NULL;
    CHECK_EQ(pnx_registry_create(PNX_REGISTRY_OPTS(.env = &te.env), NULL, &registry), 0);
    CHECK_EQ(pnx_cache_create(
                     PNX_CACHE_OPTS(.env = &te.env, .registry = registry, .capacity_entries = 4),
                     NULL, &cache),
            0);
    CHECK_EQ(pnx_registry_shutdown(registry, PNX_SEC, NULL), 0);
    pnx_registry_release(&registry);
    pnx_cache_release(&cache);
    CHECK_EQ(pnx_reclaim_barrier(NULL, PNX_NEVER), 0);
    test_env_check_empty(&te);
}
