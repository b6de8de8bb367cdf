/* SPDX-License-Identifier: Apache-2.0 */
/* pool_peers.c - pool/cycle for the peers in C: apr_reslist, and a bare stack under a pthread mutex. */
#include "bench.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define POOL_SIZE 16

/* ---- pthread-stack: what somebody writes in ten minutes ---- */
struct stack {
    pthread_mutex_t mutex;
    pthread_cond_t returned;
    unsigned n;
    void *free[POOL_SIZE];
};
static int connection;

static void *stack_set_up(unsigned threads) {
    (void)threads;
    struct stack *stack = calloc(1, sizeof(*stack));
    if (!stack)
        return NULL;
    pthread_mutex_init(&stack->mutex, NULL);
    pthread_cond_init(&stack->returned, NULL);
    while (stack->n < POOL_SIZE)
        stack->free[stack->n++] = &connection;
    return stack;
}

static void stack_work(void *state, unsigned index, uint64_t n) {
    struct stack *stack = state;
    (void)index;
    for (uint64_t i = 0; i < n; i++) {
        pthread_mutex_lock(&stack->mutex);
        while (stack->n == 0)
            pthread_cond_wait(&stack->returned, &stack->mutex);
        void *got = stack->free[--stack->n];
        pthread_mutex_unlock(&stack->mutex);
        pthread_mutex_lock(&stack->mutex);
        stack->free[stack->n++] = got;
        pthread_cond_signal(&stack->returned);
        pthread_mutex_unlock(&stack->mutex);
    }
}

static void stack_tear_down(void *state) {
    struct stack *stack = state;
    pthread_mutex_destroy(&stack->mutex);
    pthread_cond_destroy(&stack->returned);
    free(stack);
}

#ifdef HAVE_APR
#include <apr_general.h>
#include <apr_reslist.h>
#include <apu_version.h>

struct apr {
    apr_pool_t *pool;
    apr_reslist_t *list;
};

static apr_status_t apr_make(void **resource, void *params, apr_pool_t *pool) {
    (void)params;
    (void)pool;
    *resource = &connection;
    return APR_SUCCESS;
}

static apr_status_t apr_end(void *resource, void *params, apr_pool_t *pool) {
    (void)resource;
    (void)params;
    (void)pool;
    return APR_SUCCESS;
}

static void *apr_set_up(unsigned threads) {
    (void)threads;
    static struct apr apr;
    if (apr_initialize() != APR_SUCCESS || apr_pool_create(&apr.pool, NULL) != APR_SUCCESS)
        return NULL;
    if (apr_reslist_create(&apr.list, 1, POOL_SIZE, POOL_SIZE, 0, apr_make, apr_end, NULL,
                apr.pool) != APR_SUCCESS)
        return NULL;
    return &apr;
}

static void apr_work(void *state, unsigned index, uint64_t n) {
    struct apr *apr = state;
    (void)index;
    for (uint64_t i = 0; i < n; i++) {
        void *got;
        if (apr_reslist_acquire(apr->list, &got) != APR_SUCCESS)
            abort();
        apr_reslist_release(apr->list, got);
    }
}

static void apr_tear_down(void *state) {
    struct apr *apr = state;
    apr_reslist_destroy(apr->list);
    apr_pool_destroy(apr->pool);
    apr_terminate();
}
#endif

static const struct bench_impl impls[] = {
        {.name = "pthread-stack",
                .version = "glibc",
                .set_up = stack_set_up,
                .work = stack_work,
                .tear_down = stack_tear_down},
#ifdef HAVE_APR
        {.name = "apr_reslist",
                .version = APU_VERSION_STRING,
                .set_up = apr_set_up,
                .work = apr_work,
                .tear_down = apr_tear_down},
#endif
};

int main(int argc, char **argv) {
    struct bench_args args = bench_parse(argc, argv);
    if (strcmp(args.case_name, "pool/cycle") != 0)
        return 2;
    for (size_t i = 0; i < sizeof(impls) / sizeof(impls[0]); i++) {
        if (strcmp(impls[i].name, args.impl) == 0)
            return bench_cycle(&args, &impls[i]);
    }
    printf("{\"missing\":\"not built: libaprutil1-dev was not found\"}\n");
    return 0;
}
