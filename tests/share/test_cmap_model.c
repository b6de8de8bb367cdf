/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_cmap_model.c - random operations on a map beside a trivially right model of it, in every kind of map:
 * keys as words and as bytes, values as words and as rc objects, large tables and tiny ones, with failing memory.
 */
#include "harness/harness.h"
#include "share/cmap.h"

#include <errno.h>

#define KEYS 400

/* A value as an object: counted, so that each is seen to go. */
struct number {
    uint64_t value;
};
static int64_t objects;

static void drop_number(void *ctx, void *object) {
    (void)ctx;
    (void)object;
    __atomic_fetch_sub(&objects, 1, __ATOMIC_RELAXED);
}
static const struct pnx_rc_type number_type = PNX_RC_TYPE(struct number, .drop = drop_number);

static uint64_t make_value(bool rc, uint64_t value) {
    if (!rc)
        return value;
    void *object = NULL;
    CHECK_EQ(pnx_rc_new(&number_type, &(struct number){value}, &object), 0);
    __atomic_fetch_add(&objects, 1, __ATOMIC_RELAXED);
    return pnx_cmap_value(object);
}
static uint64_t value_of(bool rc, uint64_t value) {
    return rc ? ((const struct number *)pnx_cmap_object(value))->value : value;
}
static void drop_value(bool rc, uint64_t value) {
    if (rc)
        pnx_rc_unref(pnx_cmap_object(value));
}

struct world {
    struct test_env te;
    struct pnx_cmap *map;
    struct pnx_budget *budget;
    bool rc;
    bool bytes;
    uint64_t random;
    bool there[KEYS];
    uint64_t value[KEYS];
    uint64_t held[KEYS]; /* rc: the object that is in the map */
    uint64_t n;
};

/* The key of a number: a word, with 0 and the masks of fixed_masks among them, or text of some length. */
static size_t key_of(const struct world *w, unsigned i, char *buf) {
    if (!w->bytes) {
        uint64_t word = i;
        memcpy(buf, &word, sizeof(word));
        return sizeof(word);
    }
    if (i == 0)
        return 0;
    return (size_t)snprintf(buf, 64, "key %u%s", i, i % 3 ? "" : ", a longer one than the others");
}

static void check_get(struct world *w, unsigned i) {
    char key[64];
    size_t n = key_of(w, i, key);
    uint64_t value = 0;
    int rc = pnx_cmap_get(w->map, key, n, &value);
    CHECK_EQ(rc, w->there[i] ? 0 : -ENOENT);
    if (rc == 0) {
        CHECK_EQ(value_of(w->rc, value), w->value[i]);
        drop_value(w->rc, value);
    }
    pnx_reclaim_enter(NULL);
    CHECK_EQ(pnx_cmap_peek(w->map, key, n, &value), rc);
    if (rc == 0)
        CHECK_EQ(value_of(w->rc, value), w->value[i]);
    pnx_reclaim_exit(NULL);
}

static int count_visit(void *ctx, const void *key, size_t key_size, uint64_t value) {
    (void)key;
    (void)key_size;
    (void)value;
    (*(uint64_t *)ctx)++;
    return 0;
}

struct change {
    struct world *w;
    int action;
    uint64_t fresh;
    bool saw;
    uint64_t saw_value;
    int calls;
};
static int change_fn(void *ctx, const uint64_t *current, uint64_t *ret_value) {
    struct change *change = ctx;
    change->calls++;
    change->saw = current != NULL;
    if (current)
        change->saw_value = value_of(change->w->rc, *current);
    if (change->action == PNX_CMAP_STORE)
        *ret_value = make_value(change->w->rc, change->fresh);
    return change->action;
}
static int make_fn(void *ctx, uint64_t *ret_value) {
    struct change *change = ctx;
    change->calls++;
    if (change->action < 0)
        return change->action;
    *ret_value = make_value(change->w->rc, change->fresh);
    return 0;
}

static void now_has(struct world *w, unsigned i, uint64_t value, uint64_t held) {
    w->n += !w->there[i];
    w->there[i] = true;
    w->value[i] = value;
    w->held[i] = held;
}
static void now_lacks(struct world *w, unsigned i) {
    w->n -= w->there[i];
    w->there[i] = false;
}

/* A write may fail for want of memory when memory fails on purpose; then nothing may have changed. */
static bool refused(const struct world *w, int rc) {
    return rc == -ENOMEM && w->te.fail_at != 0;
}

static void put_step(struct world *w, unsigned i, unsigned kind, uint64_t fresh) {
    char key[64];
    size_t n = key_of(w, i, key);
    uint64_t value = make_value(w->rc, fresh);
    uint64_t old = 0;
    int rc;
    switch (kind) {
    case 0:
        rc = pnx_cmap_put(w->map, key, n, value);
        if (!refused(w, rc)) {
            CHECK_EQ(rc, 0);
            now_has(w, i, fresh, value);
        }
        break;
    case 1:
        rc = pnx_cmap_put_if_absent(w->map, key, n, value, &old);
        if (w->there[i]) {
            CHECK_EQ(rc, -EEXIST);
            CHECK_EQ(value_of(w->rc, old), w->value[i]);
            drop_value(w->rc, old);
        } else if (!refused(w, rc)) {
            CHECK_EQ(rc, 0);
            now_has(w, i, fresh, value);
        }
        break;
    case 2:
        rc = pnx_cmap_replace(w->map, key, n, value, &old);
        if (refused(w, rc))
            break;
        CHECK_EQ(rc, w->there[i] ? 0 : -ENOENT);
        if (rc == 0) {
            CHECK_EQ(value_of(w->rc, old), w->value[i]);
            drop_value(w->rc, old);
            now_has(w, i, fresh, value);
        }
        break;
    default: {
        bool right = test_random(&w->random) % 2;
        uint64_t expected = w->rc ? w->held[i] : w->value[i];
        rc = pnx_cmap_replace_if(w->map, key, n, right ? expected : expected + 1, value);
        if (refused(w, rc))
            break;
        CHECK_EQ(rc, !w->there[i] ? -ENOENT : right ? 0 : PNX_E_CONFLICT);
        if (rc == 0)
            now_has(w, i, fresh, value);
    }
    }
    drop_value(w->rc, value);
}

static void remove_step(struct world *w, unsigned i, unsigned kind) {
    char key[64];
    size_t n = key_of(w, i, key);
    uint64_t old = 0;
    if (kind == 0) {
        int rc = pnx_cmap_remove(w->map, key, n, &old);
        CHECK_EQ(rc, w->there[i] ? 0 : -ENOENT);
        if (rc == 0) {
            CHECK_EQ(value_of(w->rc, old), w->value[i]);
            drop_value(w->rc, old);
            now_lacks(w, i);
        }
        return;
    }
    bool right = test_random(&w->random) % 2;
    uint64_t expected = w->rc ? w->held[i] : w->value[i];
    int rc = pnx_cmap_remove_if(w->map, key, n, right ? expected : expected + 1);
    CHECK_EQ(rc, !w->there[i] ? -ENOENT : right ? 0 : PNX_E_CONFLICT);
    if (rc == 0)
        now_lacks(w, i);
}

static void compute_step(struct world *w, unsigned i, uint64_t fresh) {
    static const int actions[] = {PNX_CMAP_KEEP, PNX_CMAP_STORE, PNX_CMAP_DROP, -EIO};
    char key[64];
    size_t n = key_of(w, i, key);
    struct change change = {.w = w, .action = actions[test_random(&w->random) % 4], .fresh = fresh};
    int rc = pnx_cmap_compute(w->map, key, n, change_fn, &change, NULL);
    if (refused(w, rc))
        return;
    CHECK_EQ(change.calls, 1);
    CHECK_EQ(change.saw, w->there[i]);
    if (change.saw)
        CHECK_EQ(change.saw_value, w->value[i]);
    CHECK_EQ(rc, change.action < 0 ? change.action : 0);
    if (change.action == PNX_CMAP_STORE) {
        uint64_t held = 0;
        CHECK_EQ(pnx_cmap_get(w->map, key, n, &held), 0);
        now_has(w, i, fresh, held);
        drop_value(w->rc, held);
    } else if (change.action == PNX_CMAP_DROP) {
        now_lacks(w, i);
    }
}

static void make_step(struct world *w, unsigned i, uint64_t fresh) {
    char key[64];
    size_t n = key_of(w, i, key);
    struct change change = {
            .w = w, .action = test_random(&w->random) % 4 ? 0 : -EIO, .fresh = fresh};
    uint64_t value = 0;
    int rc = pnx_cmap_get_or_insert_with(w->map, key, n, make_fn, &change, NULL, &value);
    if (refused(w, rc))
        return;
    CHECK_EQ(change.calls, w->there[i] ? 0 : 1);
    if (!w->there[i] && change.action < 0) {
        CHECK_EQ(rc, change.action);
        return;
    }
    CHECK_EQ(rc, 0);
    CHECK_EQ(value_of(w->rc, value), w->there[i] ? w->value[i] : fresh);
    now_has(w, i, w->there[i] ? w->value[i] : fresh, value);
    drop_value(w->rc, value);
}

static bool keep_odd(void *ctx, const void *key, size_t key_size, uint64_t value) {
    (void)key;
    (void)key_size;
    return value_of(((struct world *)ctx)->rc, value) % 4 != 0;
}

static void whole_step(struct world *w) {
    unsigned kind = (unsigned)(test_random(&w->random) % 6);
    int rc = 0;
    if (kind == 0) {
        uint64_t removed = 0;
        uint64_t before = w->n;
        rc = pnx_cmap_retain(w->map, keep_odd, w, &removed);
        for (unsigned i = 0; i < KEYS; i++) {
            char key[64];
            uint64_t value;
            if (!w->there[i] || w->value[i] % 4 != 0)
                continue;
            if (rc != 0 && pnx_cmap_get(w->map, key, key_of(w, i, key), &value) == 0)
                drop_value(w->rc, value); /* it did not get that far */
            else
                now_lacks(w, i);
        }
        CHECK_EQ(removed, before - w->n);
    } else if (kind == 1 && test_random(&w->random) % 8 == 0) {
        rc = pnx_cmap_clear(w->map);
        for (unsigned i = 0; i < KEYS; i++)
            now_lacks(w, i);
    } else if (kind == 2) {
        rc = pnx_cmap_reserve(w->map, test_random(&w->random) % 1000);
    } else if (kind == 3) {
        rc = pnx_cmap_shrink(w->map);
    } else {
        uint64_t seen = 0;
        rc = pnx_cmap_foreach(w->map, count_visit, &seen);
        if (rc == 0)
            CHECK_EQ(seen, w->n);
    }
    if (!refused(w, rc))
        CHECK_EQ(rc, 0);
}

static void check_all(struct world *w) {
    struct pnx_error err = {0};
    CHECK_MSG(pnx_cmap_check(w->map, &err) == 0, "%s", err.message);
    CHECK_EQ(pnx_cmap_len(w->map), w->n);
    struct pnx_cmap_stats stats = {.size = sizeof(stats)};
    CHECK_EQ(pnx_cmap_read_stats(w->map, &stats), 0);
    CHECK_EQ(stats.entries, w->n);
    CHECK_EQ(stats.inserts - stats.removes, w->n);
    for (unsigned i = 0; i < KEYS; i++)
        check_get(w, i);
}

struct kind {
    bool rc, bytes, tiny, masks;
};

static void begin(struct world *w, const struct kind *kind) {
    struct pnx_cmap_tuning tuning = {.min_buckets = kind->tiny ? 1 : 4,
            .move_buckets = kind->tiny ? 1 : 0,
            .fixed_masks = kind->masks};
    w->rc = kind->rc;
    w->bytes = kind->bytes;
    CHECK_EQ(pnx_budget_create(PNX_BUDGET_OPTS(.parent = pnx_budget_off()), NULL, &w->budget), 0);
    CHECK_EQ(pnx__cmap_create(
                     PNX_CMAP_OPTS(.env = &w->te.env, .budget = w->budget, .shards = 2,
                             .key_size = kind->bytes ? 0 : 8, .flags = kind->rc ? PNX_CMAP_RC : 0),
                     &tuning, NULL, &w->map),
            0);
}

static void end(struct world *w) {
    w->te.fail_at = 0;
    w->te.fail_forever = false;
    pnx_cmap_release(&w->map);
    CHECK_EQ(pnx_reclaim_barrier(NULL, PNX_NEVER), 0);
    test_env_check_empty(&w->te);
    CHECK_EQ(objects, 0);
    struct pnx_budget_stats stats = {.size = sizeof(stats)};
    CHECK_EQ(pnx_budget_read_stats(w->budget, &stats), 0);
    CHECK_EQ(stats.used, 0);
    pnx_budget_release(&w->budget);
}

static void run_model(const struct kind *kind, bool failing) {
    static struct world world;
    struct world *w = &world;
    memset(w, 0, sizeof(*w));
    test_env_init(&w->te);
    w->random = test_seed();
    begin(w, kind);
    unsigned steps = test_long() ? 400000 : test_slow() ? 6000 : 40000;
    unsigned keys = KEYS;
    for (unsigned step = 0; step < steps; step++) {
        if (step % 500 == 0) /* phases: few keys, many */
            keys = 1 + (unsigned)(test_random(&w->random) % KEYS);
        if (failing && step % 3 == 0)
            w->te.fail_at = w->te.allocations + 1 + (int64_t)(test_random(&w->random) % 3);
        unsigned i = (unsigned)(test_random(&w->random) % keys);
        uint64_t fresh = test_random(&w->random) % 20; /* the masked values among them */
        unsigned what = (unsigned)(test_random(&w->random) % 1000);
        if (what < 450)
            put_step(w, i, what % 4, fresh);
        else if (what < 700)
            remove_step(w, i, what % 2);
        else if (what < 800)
            compute_step(w, i, fresh);
        else if (what < 900)
            make_step(w, i, fresh);
        else if (what < 990)
            check_get(w, i);
        else
            whole_step(w);
        if (step % 1000 == 999) {
            w->te.fail_at = 0;
            check_all(w);
        }
    }
    w->te.fail_at = 0;
    check_all(w);
    end(w);
}

TEST(p1_model_words) {
    run_model(&(struct kind){.tiny = true, .masks = true}, false);
    run_model(&(struct kind){.masks = true}, false);
}
TEST(p1_model_words_to_objects) {
    run_model(&(struct kind){.rc = true, .tiny = true, .masks = true}, false);
    run_model(&(struct kind){.rc = true}, false);
}
TEST(p1_model_bytes) {
    run_model(&(struct kind){.bytes = true, .tiny = true}, false);
    run_model(&(struct kind){.bytes = true}, false);
}
TEST(p1_model_bytes_to_objects) {
    run_model(&(struct kind){.bytes = true, .rc = true, .tiny = true}, false);
    run_model(&(struct kind){.bytes = true, .rc = true}, false);
}
TEST(p7_model_without_memory) {
    for (int k = 0; k < 4; k++)
        run_model(&(struct kind){.bytes = k & 1, .rc = k & 2, .tiny = true, .masks = true}, true);
}
