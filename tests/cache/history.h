/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What threads did with some keys of a cache, and the sequential object that they must have seen: a register for each key.
 *
 *     absent --put, compute, load--> value --remove, clear, retain--> absent      whatever it is: --put--> another value
 *                                      \--vanishes: evicted, expired--> absent
 *
 * A register may vanish at any moment, unless the history is strict: then nothing is evicted and nothing expires.  It never
 * comes back, and each value is put once, so that a value which is seen tells who put it.  A load is three operations: it
 * begins, at a moment at which the key is absent, before its loader is called; after that what it made is stored, unless
 * something has overtaken it since it began (P6); and it ends.  Who shares a load joins it before that happens; so does who
 * gets the value that a refresh was to replace, since it has failed (P12).
 */
#ifndef PNX_TESTS_CACHE_HISTORY_H
#define PNX_TESTS_CACHE_HISTORY_H

#include "cache/common.h"
#include "harness/linear.h"

#define KEYS     3u
#define THREADS  4u
#define CALLS    10u               /* of each thread, and three operations at most in each */
#define VALUES   (THREADS * 32)    /* value v was made by thread v / 32 */
#define ABSENT   0                 /* not a value */
#define NEGATIVE UINT32_C(0x10000) /* a remembered absence */

#define OPERATIONS(OP) \
    OP(GET) \
    OP(PUT) \
    OP(PUT_IF_ABSENT) \
    OP(REMOVE) \
    OP(RETAIN) /* refused this key */ \
    OP(COMPUTE) \
    OP(CLEAR) /* of all keys */ \
    OP(LOAD_BEGIN) \
    OP(REFRESH_BEGIN) /* a load, whatever is there */ \
    OP(LOAD_STORE) \
    OP(LOAD_END) \
    OP(LOAD_JOIN) /* had its result from another's load, or what is remembered of one */ \
    OP(LOAD_OLD)  /* had what another's refresh was to replace, for its error */ \
    OP(LOAD_BUSY) /* another's load was under way */

enum what {
#define OP(name) name,
    OPERATIONS(OP)
#undef OP
};

enum decision { KEEP, CHANGE, TAKE_AWAY };

struct op {
    uint64_t begun, ended;
    pnx_ns clock; /* before it began */
    uint32_t key;
    uint32_t value;         /* that it put; of loads the name, too */
    uint32_t got;           /* that it saw, or ABSENT */
    int code;               /* of the call; of a load, its loader's */
    enum decision decision; /* of a compute */
    enum what what;
};

struct record {
    unsigned n[THREADS];
    struct op ops[THREADS][CALLS * 3];
    pnx_ns expires[VALUES]; /* of each value, at the latest */
    uint32_t as[VALUES];    /* of each that expires when another one does, that one; or ABSENT */
    int outcome[VALUES];    /* of the load of this name */
    bool strict;
    bool remembers; /* absences */
};

struct state {
    struct reg {
        uint32_t value;   /* or ABSENT, NEGATIVE */
        uint32_t old;     /* of the load under way: the value when it began */
        uint16_t running; /* the load under way, or 0 */
        uint8_t valid;    /* 1: nothing has overtaken it */
        uint8_t stored;   /* 1: it has been, if it was valid */
    } key[KEYS];
};

static inline bool has_expired(const struct record *record, const struct op *op) {
    uint32_t value = op->got;
    while (record->as[value])
        value = record->as[value];
    return op->clock >= record->expires[value];
}

/* Whether the register can be absent at this moment, which it is then. */
static inline bool vanish(const struct record *record, struct reg *reg) {
    if (record->strict && reg->value != ABSENT)
        return false;
    reg->value = ABSENT;
    return true;
}

/* Whether a lookup can have seen what it did. */
static inline bool sees(const struct record *record, const struct op *op, struct reg *reg) {
    if (op->got == ABSENT)
        return reg->value == NEGATIVE || vanish(record, reg);
    return op->got == reg->value && !has_expired(record, op);
}

static inline bool store(struct reg *reg, uint32_t value) {
    reg->value = value;
    reg->valid = 0; /* a load under way is overtaken */
    return true;
}

static inline bool begin(const struct op *op, struct reg *reg) {
    if (reg->running)
        return false; /* one at a time */
    reg->old = reg->value;
    reg->running = (uint16_t)op->value;
    reg->valid = 1;
    return true;
}

static inline bool store_result(const struct record *record, const struct op *op, struct reg *reg) {
    if (reg->running != op->value || reg->stored)
        return false;
    if (reg->valid && op->code == 0)
        reg->value = op->value;
    else if (reg->valid && op->code == -ENOENT)
        reg->value = record->remembers ? NEGATIVE : ABSENT;
    reg->stored = 1;
    return true;
}

static inline bool end(const struct op *op, struct reg *reg) {
    if (reg->running != op->value || !reg->stored)
        return false;
    reg->old = 0;
    reg->running = 0;
    reg->valid = 0;
    reg->stored = 0;
    return true;
}

static inline bool join(const struct record *record, const struct op *op, const struct reg *reg) {
    if (op->code == -ENOENT && reg->value == NEGATIVE)
        return true;
    if (!reg->running || !reg->valid || record->outcome[reg->running] != op->code)
        return false;
    return op->code != 0 || op->got == reg->running;
}

static inline bool has_old(
        const struct record *record, const struct op *op, const struct reg *reg) {
    int outcome = reg->running ? record->outcome[reg->running] : 0;
    return reg->valid && outcome != 0 && outcome != -ENOENT && op->got == reg->old &&
           !has_expired(record, op);
}

static inline bool happens(const struct record *record, const struct op *op, struct reg *reg) {
    switch (op->what) {
    case GET:
        return sees(record, op, reg);
    case PUT:
        return store(reg, op->value);
    case PUT_IF_ABSENT:
        if (op->code == -EEXIST)
            return reg->value != ABSENT && reg->value != NEGATIVE;
        return (reg->value == NEGATIVE || vanish(record, reg)) && store(reg, op->value);
    case REMOVE:
        return (op->code == 0 ? reg->value != ABSENT : vanish(record, reg)) && store(reg, ABSENT);
    case RETAIN: /* a verdict on what has changed since is void */
        return op->code == 0 || (reg->value == op->got && store(reg, ABSENT));
    case COMPUTE:
        return sees(record, op, reg) &&
               (op->decision == KEEP ||
                       store(reg, op->decision == CHANGE ? op->value : (uint32_t)ABSENT));
    case LOAD_BEGIN:
        return vanish(record, reg) && begin(op, reg);
    case REFRESH_BEGIN:
        return begin(op, reg);
    case LOAD_STORE:
        return store_result(record, op, reg);
    case LOAD_END:
        return end(op, reg);
    case LOAD_JOIN:
        return join(record, op, reg);
    case LOAD_OLD:
        return has_old(record, op, reg);
    case LOAD_BUSY:
        return reg->running != 0;
    case CLEAR:
        break;
    }
    return false;
}

/* The operations of all keys, or of one. */
struct selection {
    const struct record *record;
    const struct op *ops[LINEAR_OPS_MAX];
};

static inline bool apply(const void *ctx, unsigned i, void *arg) {
    const struct selection *selection = ctx;
    struct state *state = arg;
    const struct op *op = selection->ops[i];
    if (op->what != CLEAR)
        return happens(selection->record, op, &state->key[op->key]);
    for (unsigned key = 0; key < KEYS; key++)
        store(&state->key[key], ABSENT);
    return true;
}

static inline bool is_linearizable(const struct record *record, uint32_t key, bool all_keys) {
    struct selection selection = {.record = record};
    struct linear_history history = {
            .apply = apply, .ctx = &selection, .state_size = sizeof(struct state)};
    const struct state start = {0};
    for (unsigned t = 0; t < THREADS; t++) {
        for (unsigned i = 0; i < record->n[t]; i++) {
            const struct op *op = &record->ops[t][i];
            if (all_keys || op->key == key || op->what == CLEAR)
                selection.ops[linear_add(&history, op->begun, op->ended)] = op;
        }
    }
    return linear_explains(&history, &start);
}

static inline void print_record(const struct record *record, uint32_t key, bool all_keys) {
    static const char *const names[] = {
#define OP(name) #name,
            OPERATIONS(OP)
#undef OP
    };
    for (unsigned t = 0; t < THREADS; t++) {
        for (unsigned i = 0; i < record->n[t]; i++) {
            const struct op *op = &record->ops[t][i];
            if (all_keys || op->key == key || op->what == CLEAR)
                fprintf(stderr, "thread %u: %llu..%llu %s of key %u: %d, got %u, value %u, %s\n", t,
                        (unsigned long long)op->begun, (unsigned long long)op->ended,
                        names[op->what], op->key, op->code, op->got, op->value,
                        op->decision == KEEP     ? "keep"
                        : op->decision == CHANGE ? "change"
                                                 : "take away");
        }
    }
}

/* Fails the test, with the history of one key where that is enough to see it. */
static inline void check_record(const struct record *record) {
    for (uint32_t key = 0; key < KEYS; key++) {
        if (is_linearizable(record, key, false))
            continue;
        print_record(record, key, false);
        test_fail(__FILE__, __LINE__, "what happened to key %u has no order", key);
    }
    if (!is_linearizable(record, 0, true)) {
        print_record(record, 0, true);
        test_fail(__FILE__, __LINE__, "what happened has no order in which each clear is one");
    }
}

#endif
