/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pool_peers.c - the peers of the pool cases in C: apr_reslist, a bare stack under a pthread mutex, and a baton, which
 * is no pool but the least that hands connections on first in, first out.
 */
#include "pool.h"

#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define STACK_MAX 64

static int connection;

/* What each thread has borrowed, away from the others'. */
static struct {
    _Alignas(128) void *resource;
    uint32_t number;
} held[BENCH_MAX_THREADS];

/* ---- pthread-stack: what somebody writes in ten minutes ---- */
struct stack {
    pthread_mutex_t mutex;
    pthread_cond_t returned;
    unsigned n;
    void *free[STACK_MAX];
};

static void *stack_set_up(uint32_t size, uint32_t idle) {
    struct stack *stack = calloc(1, sizeof(*stack));
    if (!stack || size > STACK_MAX || size != idle)
        return NULL;
    pthread_mutex_init(&stack->mutex, NULL);
    pthread_cond_init(&stack->returned, NULL);
    while (stack->n < size)
        stack->free[stack->n++] = &connection;
    return stack;
}

static inline void *stack_pop(struct stack *stack) {
    pthread_mutex_lock(&stack->mutex);
    while (stack->n == 0)
        pthread_cond_wait(&stack->returned, &stack->mutex);
    void *got = stack->free[--stack->n];
    pthread_mutex_unlock(&stack->mutex);
    return got;
}

static inline void stack_push(struct stack *stack, void *got) {
    pthread_mutex_lock(&stack->mutex);
    stack->free[stack->n++] = got;
    pthread_cond_signal(&stack->returned);
    pthread_mutex_unlock(&stack->mutex);
}

static void stack_acquire(void *pool, unsigned index) {
    held[index].resource = stack_pop(pool);
}

static void stack_release(void *pool, unsigned index) {
    stack_push(pool, held[index].resource);
}

static void stack_work(void *state, unsigned index, uint64_t n) {
    (void)index;
    for (uint64_t i = 0; i < n; i++)
        stack_push(state, stack_pop(state));
}

/* ---- futex-baton ---- */

/*
 * A queue of connections in a ring, in which who asks takes the next place for reading, and who gives back the next
 * one for writing: both first in, first out, and each grant is bound to its place.  A place says for which round of
 * the ring it is, and whether nobody has come yet, the one who asked sleeps there, or a connection lies there.
 */
#define PLACES 1024u /* a power of two, more than threads and connections */
#define NOBODY 0u
#define ASLEEP 1u
#define GIVEN  2u /* and up: the number of the connection */
#define STATES 256u
#define SPREAD 16u /* neighbours in time do not share a cache line */

struct baton {
    _Alignas(128) uint32_t asked;         /* atomic: places taken for reading */
    _Alignas(128) uint32_t back;          /* atomic: places taken for writing */
    _Alignas(128) uint32_t place[PLACES]; /* atomic: round * STATES + state; futexes */
};

static uint32_t *baton_place(struct baton *baton, uint32_t ticket, uint32_t *ret_round) {
    uint32_t i = ticket % PLACES;
    *ret_round = ticket / PLACES % (1u << 22) * STATES;
    return &baton->place[i % SPREAD * (PLACES / SPREAD) + i / SPREAD];
}

static uint32_t baton_get(struct baton *baton) {
    uint32_t round, ticket = __atomic_fetch_add(&baton->asked, 1, __ATOMIC_RELAXED);
    uint32_t *place = baton_place(baton, ticket, &round);
    for (;;) {
        uint32_t word = __atomic_load_n(place, __ATOMIC_ACQUIRE);
        if (word / STATES * STATES != round) {
            sched_yield(); /* the last round's has not woken up yet */
        } else if (word % STATES >= GIVEN) {
            __atomic_store_n(place, (round + STATES) % (STATES << 22) + NOBODY, __ATOMIC_RELEASE);
            return word % STATES - GIVEN;
        } else if (word % STATES == ASLEEP ||
                   __atomic_compare_exchange_n(place, &word, round + ASLEEP, false,
                           __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
            syscall(SYS_futex, place, FUTEX_WAIT_PRIVATE, round + ASLEEP, NULL, NULL, 0);
        }
    }
}

static void baton_give(struct baton *baton, uint32_t number) {
    uint32_t round, ticket = __atomic_fetch_add(&baton->back, 1, __ATOMIC_RELAXED);
    uint32_t *place = baton_place(baton, ticket, &round);
    while (__atomic_load_n(place, __ATOMIC_ACQUIRE) / STATES * STATES != round)
        sched_yield();
    if (__atomic_exchange_n(place, round + GIVEN + number, __ATOMIC_ACQ_REL) == round + ASLEEP)
        syscall(SYS_futex, place, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

static void *baton_set_up(uint32_t size, uint32_t idle) {
    static struct baton baton;
    if (size != idle || size > STATES - GIVEN)
        return NULL;
    for (uint32_t i = 0; i < size; i++)
        baton_give(&baton, i);
    return &baton;
}

static void baton_acquire(void *pool, unsigned index) {
    held[index].number = baton_get(pool);
}

static void baton_release(void *pool, unsigned index) {
    baton_give(pool, held[index].number);
}

#ifdef HAVE_APR
#include <apr_general.h>
#include <apr_reslist.h>
#include <apu_version.h>

static apr_status_t apr_make(void **resource, void *params, apr_pool_t *pool) {
    (void)params;
    (void)pool;
    pool_connect();
    *resource = &connection;
    return APR_SUCCESS;
}

static apr_status_t apr_end(void *resource, void *params, apr_pool_t *pool) {
    (void)resource;
    (void)params;
    (void)pool;
    return APR_SUCCESS;
}

static void *apr_set_up(uint32_t size, uint32_t idle) {
    apr_pool_t *pool;
    apr_reslist_t *list;
    if (apr_initialize() != APR_SUCCESS || apr_pool_create(&pool, NULL) != APR_SUCCESS)
        return NULL;
    if (apr_reslist_create(&list, (int)idle, (int)size, (int)size, 0, apr_make, apr_end, NULL,
                pool) != APR_SUCCESS)
        return NULL;
    return list;
}

static void apr_acquire(void *pool, unsigned index) {
    if (apr_reslist_acquire(pool, &held[index].resource) != APR_SUCCESS)
        abort();
}

static void apr_release(void *pool, unsigned index) {
    apr_reslist_release(pool, held[index].resource);
}

static void apr_work(void *state, unsigned index, uint64_t n) {
    (void)index;
    for (uint64_t i = 0; i < n; i++) {
        void *got;
        if (apr_reslist_acquire(state, &got) != APR_SUCCESS)
            abort();
        apr_reslist_release(state, got);
    }
}
#endif

static const struct peer {
    const char *name;
    const char *version;
    struct pool_ops ops;
    void (*work)(void *state, unsigned index, uint64_t n); /* of pool/cycle */
} peers[] = {
        {"pthread-stack", "glibc",
                {.set_up = stack_set_up, .acquire = stack_acquire, .release = stack_release},
                stack_work},
        {"futex-baton", "-",
                {.set_up = baton_set_up, .acquire = baton_acquire, .release = baton_release}, NULL},
#ifdef HAVE_APR
        {"apr_reslist", APU_VERSION_STRING,
                {.set_up = apr_set_up, .acquire = apr_acquire, .release = apr_release}, apr_work},
#endif
};
static const struct peer *peer;

static void *cycle_set_up(unsigned threads) {
    (void)threads;
    return peer->ops.set_up(POOL_CYCLE_SIZE, POOL_CYCLE_SIZE);
}

int main(int argc, char **argv) {
    struct bench_args args = bench_parse(argc, argv);
    for (size_t i = 0; i < sizeof(peers) / sizeof(peers[0]); i++) {
        peer = &peers[i];
        if (strcmp(peer->name, args.impl) != 0)
            continue;
        const struct bench_impl cycle = {.name = peer->name,
                .version = peer->version,
                .set_up = cycle_set_up,
                .work = peer->work};
        if (strcmp(args.case_name, "pool/cycle") == 0 && peer->work)
            return bench_cycle(&args, &cycle);
        return pool_run(&args, peer->version, &peer->ops);
    }
    printf("{\"missing\":\"not built: libaprutil1-dev was not found\"}\n");
    return 0;
}
