/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_cmap_linear.c - what threads saw of a map, checked for linearizability key by key.
 *
 * Threads run random operations and write down what they asked, what they got, and two times of one global counter:
 * before and after.  Since linearizability is local (Herlihy and Wing, 1990), each key's history is searched by
 * itself for an order of its operations that agrees with the times and with one register that is absent or has a
 * value (harness/linear.h).
 */
#include "harness/harness.h"
#include "harness/linear.h"
#include "share/cmap.h"

#include <errno.h>

#define THREADS 4
#define KEYS    6
#define OPS_MAX 60 /* of all threads in one round */

enum what {
    GET,
    PUT,
    PUT_IF_ABSENT,
    REPLACE,
    REPLACE_IF,
    REMOVE,
    REMOVE_IF,
    ADD,
    MAKE,
    WHATS,
    CLEAR
};

struct op {
    uint64_t begun, ended;
    uint64_t key, value, expected;
    uint64_t got; /* a value that was returned */
    int code;
    enum what what;
    bool saw; /* got is set */
};

struct round {
    struct pnx_cmap *map;
    bool bytes;
    bool rc;
    uint64_t clock; /* moves with each call and each return */
    uint64_t seed;
    unsigned per_thread;
    unsigned n[THREADS];
    struct op ops[THREADS][OPS_MAX];
};

/* ---- the search ---- */

/* A register: absent, or a value. */
struct state {
    uint64_t value;
    uint64_t there; /* 0 or 1 */
};

/* Runs an operation on the register; false when the register would have answered otherwise. */
static bool happens(const struct op *op, struct state *state) {
    bool there = state->there;
    uint64_t value = state->value;
    bool agrees = !op->saw || (there && op->got == value);
    switch (op->what) {
    case GET:
        return op->code == (there ? 0 : -ENOENT) && (!there || op->got == value);
    case PUT:
        state->there = true;
        state->value = op->value;
        return op->code == 0;
    case PUT_IF_ABSENT:
        if (there)
            return op->code == -EEXIST && agrees;
        state->there = true;
        state->value = op->value;
        return op->code == 0;
    case REPLACE:
        if (!there)
            return op->code == -ENOENT;
        state->value = op->value;
        return op->code == 0 && agrees;
    case REPLACE_IF:
        if (!there || value != op->expected)
            return op->code == (there ? PNX_E_CONFLICT : -ENOENT);
        state->value = op->value;
        return op->code == 0;
    case REMOVE:
        if (!there)
            return op->code == -ENOENT;
        state->there = false;
        return op->code == 0 && agrees;
    case REMOVE_IF:
        if (!there || value != op->expected)
            return op->code == (there ? PNX_E_CONFLICT : -ENOENT);
        state->there = false;
        return op->code == 0;
    case ADD: /* compute: adds to what is there, else stores */
        if (op->saw != there || !agrees)
            return false;
        state->value = there ? value + op->value : op->value;
        state->there = true;
        return op->code == 0;
    case MAKE:
        if (!there) {
            state->there = true;
            state->value = op->value;
        }
        return op->code == 0 && op->got == state->value;
    case CLEAR: /* of all keys, one by one */
        state->there = false;
        return op->code == 0;
    default:
        return false;
    }
}

/* The operations of one key. */
struct selection {
    const struct op *ops[OPS_MAX];
};

static bool apply(const void *ctx, unsigned i, void *state) {
    return happens(((const struct selection *)ctx)->ops[i], state);
}

static bool linearizable(const struct round *round, uint64_t key) {
    struct selection selection;
    struct linear_history history = {
            .apply = apply, .ctx = &selection, .state_size = sizeof(struct state)};
    const struct state start = {0};
    for (unsigned t = 0; t < THREADS; t++) {
        for (unsigned i = 0; i < round->n[t]; i++) {
            const struct op *op = &round->ops[t][i];
            if (op->key == key || op->what == CLEAR)
                selection.ops[linear_add(&history, op->begun, op->ended)] = op;
        }
    }
    return linear_explains(&history, &start);
}

static void print_history(const struct round *round, uint64_t key) {
    static const char *const names[] = {"get", "put", "put_if_absent", "replace", "replace_if",
            "remove", "remove_if", "add", "make", "", "clear"};
    for (unsigned t = 0; t < THREADS; t++)
        for (unsigned i = 0; i < round->n[t]; i++) {
            const struct op *op = &round->ops[t][i];
            if (op->key == key || op->what == CLEAR)
                fprintf(stderr, "thread %u: %llu..%llu %s(%llu, expected %llu) = %d, saw %d %llu\n",
                        t, (unsigned long long)op->begun, (unsigned long long)op->ended,
                        names[op->what], (unsigned long long)op->value,
                        (unsigned long long)op->expected, op->code, op->saw,
                        (unsigned long long)op->got);
        }
}

/* ---- recording ---- */

struct number {
    uint64_t value;
};
static const struct pnx_rc_type number_type = PNX_RC_TYPE(struct number);

static uint64_t make_value(const struct round *round, uint64_t value) {
    void *object = NULL;
    if (!round->rc)
        return value;
    CHECK_EQ(pnx_rc_new(&number_type, &(struct number){value}, &object), 0);
    return pnx_cmap_value(object);
}
static uint64_t value_of(const struct round *round, uint64_t value) {
    return round->rc ? ((const struct number *)pnx_cmap_object(value))->value : value;
}
static void drop_value(const struct round *round, uint64_t value) {
    if (round->rc)
        pnx_rc_unref(pnx_cmap_object(value));
}

struct call {
    struct round *round;
    struct op *op;
};

static int add(void *ctx, const uint64_t *current, uint64_t *ret_value) {
    struct call *call = ctx;
    call->op->saw = current != NULL;
    call->op->got = current ? value_of(call->round, *current) : 0;
    *ret_value = make_value(call->round, call->op->got + call->op->value);
    return PNX_CMAP_STORE;
}
static int make(void *ctx, uint64_t *ret_value) {
    struct call *call = ctx;
    *ret_value = make_value(call->round, call->op->value);
    return 0;
}

static uint64_t tick(struct round *round) {
    return __atomic_add_fetch(&round->clock, 1, __ATOMIC_SEQ_CST);
}

/* A lookup in one of the ways that there are; how is any number. */
static int get(struct round *round, const void *key, size_t size, uint64_t how, uint64_t *ret_got) {
    struct pnx_cmap *map = round->map;
    struct pnx_cmap_item item = {.key = key, .key_size = size};
    uint64_t word, found = 0;
    int rc;
    switch (how % 4) {
    case 0: /* borrowed, and a reference taken while it may be */
        pnx_reclaim_enter(NULL);
        rc = pnx_cmap_peek(map, key, size, ret_got);
        if (rc == 0 && round->rc)
            (void)pnx_rc_ref(pnx_cmap_object(*ret_got));
        pnx_reclaim_exit(NULL);
        return rc;
    case 1:
        if (pnx_cmap_get_batch(map, &item, 1) == 1)
            *ret_got = item.value;
        return item.code;
    case 2:
        if (round->bytes)
            return pnx_cmap_get(map, key, size, ret_got);
        memcpy(&word, key, 8);
        rc = pnx_cmap_get_words(map, &word, 1, ret_got, &found);
        CHECK_EQ(rc, found);
        return rc == 1 ? 0 : -ENOENT;
    default:
        return pnx_cmap_get(map, key, size, ret_got);
    }
}

static void run_op(struct round *round, struct op *op) {
    struct pnx_cmap *map = round->map;
    char text[16];
    const void *key = &op->key;
    size_t size = 8;
    if (round->bytes) {
        size = (size_t)snprintf(text, sizeof(text), "k%llu", (unsigned long long)op->key);
        key = text;
    }
    struct call call = {round, op};
    uint64_t value = op->what == ADD || op->what == MAKE ? 0 : make_value(round, op->value);
    uint64_t got = 0;
    op->begun = tick(round);
    switch (op->what) {
    case GET:
        op->code = get(round, key, size, op->value, &got);
        op->saw = op->code == 0;
        break;
    case CLEAR:
        op->code = pnx_cmap_clear(map);
        break;
    case PUT:
        op->code = pnx_cmap_put(map, key, size, value);
        break;
    case PUT_IF_ABSENT:
        op->code = pnx_cmap_put_if_absent(map, key, size, value, &got);
        op->saw = op->code == -EEXIST;
        break;
    case REPLACE:
        op->code = pnx_cmap_replace(map, key, size, value, &got);
        op->saw = op->code == 0;
        break;
    case REPLACE_IF:
        op->code = pnx_cmap_replace_if(map, key, size, op->expected, value);
        break;
    case REMOVE:
        op->code = pnx_cmap_remove(map, key, size, &got);
        op->saw = op->code == 0;
        break;
    case REMOVE_IF:
        op->code = pnx_cmap_remove_if(map, key, size, op->expected);
        break;
    case ADD:
        op->code = pnx_cmap_compute(map, key, size, add, &call, NULL);
        break;
    default:
        op->code = pnx_cmap_get_or_insert_with(map, key, size, make, &call, NULL, &got);
        op->saw = op->code == 0;
        break;
    }
    op->ended = tick(round);
    if (op->saw && op->what != ADD) {
        op->got = value_of(round, got);
        drop_value(round, got);
    }
    if (op->what != ADD && op->what != MAKE)
        drop_value(round, value);
}

static void record(unsigned index, void *ctx) {
    struct round *round = ctx;
    uint64_t random = round->seed + index * 1000003;
    for (unsigned i = 0; i < round->per_thread; i++) {
        struct op *op = &round->ops[index][i];
        memset(op, 0, sizeof(*op));
        op->key = test_random(&random) % KEYS;
        op->what = (enum what)(test_random(&random) % WHATS);
        if (test_random(&random) % 3 == 0)
            op->what = GET;
        else if (test_random(&random) % 40 == 0)
            op->what = CLEAR;
        if (round->rc && (op->what == REPLACE_IF || op->what == REMOVE_IF))
            op->what = PUT;                       /* they compare addresses */
        op->value = 1 + test_random(&random) % 4; /* few: so that expectations come true */
        op->expected = 1 + test_random(&random) % 4;
        run_op(round, op);
        if (test_random(&random) % 16 == 0)
            CHECK_EQ(pnx_cmap_shrink(round->map), 0);
        if (test_random(&random) % 32 == 0)
            CHECK_EQ(pnx_cmap_reserve(round->map, 60), 0);
        /* Other keys come and go, so that tables move. */
        uint64_t other = 100 + test_random(&random) % 24;
        uint64_t value = make_value(round, 1);
        if (test_random(&random) % 2)
            CHECK_EQ(pnx_cmap_put(round->map, &other, 8, value), 0);
        else
            (void)pnx_cmap_remove(round->map, &other, 8, NULL);
        drop_value(round, value);
        round->n[index] = i + 1;
    }
}

static void run_rounds(bool bytes, bool rc) {
    static struct round round;
    uint64_t random = test_seed();
    unsigned rounds = test_long() ? 100000 : test_slow() ? 150 : 1500;
    struct pnx_cmap_tuning tuning = {.min_buckets = 1, .move_buckets = 1, .fixed_masks = true};
    for (unsigned r = 0; r < rounds; r++) {
        memset(round.n, 0, sizeof(round.n));
        round.bytes = bytes;
        round.rc = rc;
        round.clock = 0;
        round.seed = test_random(&random);
        round.per_thread = OPS_MAX / THREADS;
        CHECK_EQ(pnx__cmap_create(
                         PNX_CMAP_OPTS(.shards = 1, .key_size = bytes ? 0 : 8,
                                 .flags = rc ? PNX_CMAP_RC : 0, .registry = pnx_registry_off(),
                                 .stats = pnx_stats_off(), .budget = pnx_budget_off()),
                         &tuning, NULL, &round.map),
                0);
        test_threads(THREADS, record, &round);
        struct pnx_error err = {0};
        CHECK_MSG(pnx_cmap_check(round.map, &err) == 0, "%s", err.message);
        pnx_cmap_release(&round.map);
        for (uint64_t key = 0; key < KEYS; key++)
            if (!linearizable(&round, key)) {
                print_history(&round, key);
                test_fail(__FILE__, __LINE__, "round %u: key %llu has no order", r,
                        (unsigned long long)key);
            }
    }
}

TEST(p1_histories_of_words_are_linearizable) {
    run_rounds(false, false);
}
TEST(p1_histories_of_bytes_are_linearizable) {
    run_rounds(true, false);
}
TEST(p1_histories_of_objects_are_linearizable) {
    run_rounds(false, true);
    run_rounds(true, true);
}

/* The checker itself: histories that are not linearizable are refused. */
TEST(p1_the_checker_refuses_wrong_histories) {
    static struct round round;
    /* a put that has returned, then a get that does not see it */
    round.n[0] = 1;
    round.n[1] = 1;
    round.ops[0][0] = (struct op){.begun = 1, .ended = 2, .what = PUT, .value = 5};
    round.ops[1][0] = (struct op){.begun = 3, .ended = 4, .what = GET, .code = -ENOENT};
    CHECK(!linearizable(&round, 0));
    round.ops[1][0].begun = 1; /* at the same time: fine */
    CHECK(linearizable(&round, 0));
    /* two gets, one after the other, see a put come and go */
    round.ops[0][0].ended = 10;
    round.n[1] = 2;
    round.ops[1][0] = (struct op){.begun = 2, .ended = 3, .what = GET, .got = 5, .saw = true};
    round.ops[1][1] = (struct op){.begun = 4, .ended = 5, .what = GET, .code = -ENOENT};
    CHECK(!linearizable(&round, 0));
    /* two computes that both saw nothing: a lost update */
    round.n[1] = 1;
    round.ops[0][0] = (struct op){.begun = 1, .ended = 9, .what = ADD, .value = 1};
    round.ops[1][0] = (struct op){.begun = 2, .ended = 8, .what = ADD, .value = 1};
    CHECK(!linearizable(&round, 0));
    /* a clear of all keys, and one that is found as it was */
    round.ops[0][0] = (struct op){.begun = 1, .ended = 2, .what = PUT, .value = 5};
    round.ops[1][0] = (struct op){.begun = 3, .ended = 4, .what = CLEAR, .key = 3};
    round.n[2] = 1;
    round.ops[2][0] = (struct op){.begun = 5, .ended = 6, .what = GET, .got = 5, .saw = true};
    CHECK(!linearizable(&round, 0));
    round.ops[2][0].begun = 3;
    CHECK(linearizable(&round, 0));
}
