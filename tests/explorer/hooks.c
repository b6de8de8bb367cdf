/* SPDX-License-Identifier: Apache-2.0 */
/*
 * hooks.c - what code under test calls: atomics (base/atomic_explore.h), payload, memory.
 *
 * Outside an execution, in the harness itself, atomics are plain.
 */
#include "explorer/engine.h"

static uint64_t plain_load(const void *word, unsigned size) {
    return size == 8 ? *(const uint64_t *)word : *(const uint32_t *)word;
}

static void plain_store(void *word, unsigned size, uint64_t value) {
    if (size == 8)
        *(uint64_t *)word = value;
    else
        *(uint32_t *)word = (uint32_t)value;
}

/* What an execution is, for counting different ones. */
static void mix(const struct pnx_atomic_site *site, uint64_t value) {
    value = x_memory_identity(value);
    x.self->hash =
            (x.self->hash ^ value ^ (uint64_t)(uintptr_t)site) * UINT64_C(0x9E3779B97F4A7C15);
    x.self->hash ^= x.self->hash >> 29;
}

uint64_t pnx_x_load(const void *word, unsigned size, const struct pnx_atomic_site *site) {
    if (!x.self)
        return plain_load(word, size);
    x_reach(site, X_SITE_LOAD);
    x_point(X_LOAD, word, site->order);
    uint64_t value = x_memory_load(word, size, site->order, site);
    mix(site, value);
    return value;
}

static const char *weakened(const struct pnx_atomic_site *site) {
    return site->order != site->declared ? " (weakened)" : "";
}

void pnx_x_store(void *word, unsigned size, uint64_t value, const struct pnx_atomic_site *site) {
    if (!x.self) {
        plain_store(word, size, value);
        return;
    }
    x_reach(site, X_SITE_STORE);
    x_point(X_STORE, word, site->order);
    x_memory_store(word, size, value, site->order);
    mix(site, value);
    if (x.trace)
        x_trace("store %-24s %s <- 0x%llx %s%s", site->name, x_place(word),
                (unsigned long long)value, x_order_name(site->order), weakened(site));
}

static uint64_t exchange(uint64_t old, uint64_t operand) {
    (void)old;
    return operand;
}
static uint64_t add(uint64_t old, uint64_t operand) {
    return old + operand;
}
static uint64_t sub(uint64_t old, uint64_t operand) {
    return old - operand;
}
static uint64_t bit_or(uint64_t old, uint64_t operand) {
    return old | operand;
}
static uint64_t bit_and(uint64_t old, uint64_t operand) {
    return old & operand;
}

uint64_t pnx_x_rmw(void *word, unsigned size, enum pnx_x_op op, uint64_t operand,
        const struct pnx_atomic_site *site) {
    static uint64_t (*const fns[])(uint64_t, uint64_t) = {[PNX_X_EXCHANGE] = exchange,
            [PNX_X_ADD] = add,
            [PNX_X_SUB] = sub,
            [PNX_X_OR] = bit_or,
            [PNX_X_AND] = bit_and};
    if (!x.self) {
        uint64_t old = plain_load(word, size);
        plain_store(word, size, fns[op](old, operand));
        return old;
    }
    x_reach(site, X_SITE_RMW);
    x_point(X_RMW, word, site->order);
    uint64_t old = x_memory_rmw(word, size, site->order, fns[op], operand);
    mix(site, old);
    if (x.trace)
        x_trace("rmw   %-24s %s 0x%llx -> 0x%llx %s%s", site->name, x_place(word),
                (unsigned long long)old, (unsigned long long)fns[op](old, operand),
                x_order_name(site->order), weakened(site));
    return old;
}

bool pnx_x_cas(void *word, unsigned size, void *expected, uint64_t desired,
        const struct pnx_atomic_site *site, int failure) {
    uint64_t wanted = plain_load(expected, size);
    uint64_t found = wanted;
    bool done;
    if (!x.self) {
        found = plain_load(word, size);
        done = found == wanted;
        if (done)
            plain_store(word, size, desired);
        else
            plain_store(expected, size, found);
        return done;
    }
    x_reach(site, failure == __ATOMIC_ACQUIRE ? X_SITE_CAS_ACQUIRE : X_SITE_CAS);
    if (x_weak_failure(site))
        failure = __ATOMIC_RELAXED;
    x_point(X_RMW, word, site->order);
    done = x_memory_cas(word, size, &found, desired, site->order, failure);
    if (!done)
        plain_store(expected, size, found);
    mix(site, found);
    if (x.trace && done)
        x_trace("cas   %-24s %s 0x%llx -> 0x%llx %s%s", site->name, x_place(word),
                (unsigned long long)wanted, (unsigned long long)desired, x_order_name(site->order),
                weakened(site));
    else if (x.trace)
        x_trace("cas   %-24s %s is 0x%llx, not 0x%llx %s%s", site->name, x_place(word),
                (unsigned long long)found, (unsigned long long)wanted, x_order_name(site->order),
                weakened(site));
    return done;
}

void pnx_x_fence(const struct pnx_atomic_site *site) {
    if (!x.self)
        return;
    x_reach(site, X_SITE_FENCE);
    if (site->order == __ATOMIC_SEQ_CST)
        x_point(X_FENCE, NULL, site->order); /* other fences concern nobody else */
    x_memory_fence(x.self, site->order);
    if (x.trace)
        x_trace("fence %-24s %s%s", site->name, x_order_name(site->order), weakened(site));
}

/* Payload. */

uint64_t x_cell_read(const struct x_cell *cell) {
    x_plain(cell, sizeof(*cell), false);
    return cell->v;
}

void x_cell_write(struct x_cell *cell, uint64_t value) {
    x_plain(cell, sizeof(*cell), true);
    cell->v = value;
}

void x_read(const void *p, size_t n) {
    x_plain(p, n, false);
}

void x_write(const void *p, size_t n) {
    x_plain(p, n, true);
}

/* Memory. */

static void *env_alloc(void *ctx, size_t size, size_t align) {
    (void)ctx;
    return x_memory_alloc(size, align);
}

static void env_free(void *ctx, void *p, size_t size) {
    (void)ctx;
    if (!p)
        return;
    x_point(X_FREE, p, 0);
    x_memory_free(p, size);
}

static pnx_ns env_now(void *ctx) {
    (void)ctx;
    return x.now;
}

static int64_t env_real_ns(void *ctx) {
    (void)ctx;
    return x.now;
}

/* Of each thread its own, so that the same schedule, and every equivalent one, gets the same numbers. */
static uint64_t env_random(void *ctx) {
    (void)ctx;
    if (!x.self)
        return 0x5eed;
    uint64_t state = 0x5eed + ((uint64_t)x_self() << 32) + x.self->random++;
    return test_random(&state);
}

const struct pnx_env *x_env(void) {
    static const struct pnx_env env = {.size = sizeof(env),
            .alloc = env_alloc,
            .free = env_free,
            .now = env_now,
            .now_coarse = env_now,
            .real_ns = env_real_ns,
            .random = env_random};
    return &env;
}

void *x_alloc(size_t size) {
    void *p = x_memory_alloc(size, 16);
    if (p)
        memset(p, 0, size);
    return p;
}

void x_free(void *p) {
    if (!p)
        return;
    x_point(X_FREE, p, 0);
    x_memory_free(p, SIZE_MAX);
}

unsigned x_self(void) {
    return (unsigned)(x.self - x.threads);
}

unsigned x_choose(unsigned n) {
    if (x.mode == X_RANDOM)
        return x_decided(n, (uint32_t)(test_random(&x.random) % n));
    return x_decide(n);
}

void x_yield(void) {
    x_point(X_POINT, NULL, 0);
}

void x_fail_allocation(uint32_t n) {
    x.fail_allocation = n;
}
