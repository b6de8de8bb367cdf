/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pool_async_patinox.c - pool/async-cycle and pool/cancel for us: requests whose callback runs where the news is.
 *
 * In pool/cancel there are as many connections as threads, and each thread holds one.  In turn it asks and takes that
 * back, and asks, gives back what it holds, and goes on when it has been served: by itself, or by another thread that
 * gave back just then.
 */
#include "pool_patinox.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>

static struct caller {
    _Alignas(128) struct pnx_pool_request request;
    struct pnx_lease held;
    struct pnx_lease got;
    uint32_t served; /* atomic */
} callers[BENCH_MAX_THREADS];

static void on_served(struct pnx_pool_request *request, int code, struct pnx_lease lease,
        const struct pnx_error *err) {
    struct caller *caller = request->arg;
    (void)err;
    if (code)
        abort();
    caller->got = lease;
    __atomic_store_n(&caller->served, 1, __ATOMIC_RELEASE);
}

static void ask(struct pnx_pool *pool, struct caller *caller) {
    __atomic_store_n(&caller->served, 0, __ATOMIC_RELAXED);
    if (pnx_pool_acquire_async(pool, &caller->request))
        abort();
}

static void wait_served(struct caller *caller) {
    for (uint32_t round = 1; !__atomic_load_n(&caller->served, __ATOMIC_ACQUIRE); round++) {
        if (round % 64 == 0)
            sched_yield();
        else
            __builtin_ia32_pause();
    }
}

static void prepare(struct caller *caller) {
    caller->request = (struct pnx_pool_request){
            .done = on_served, .arg = caller, .timeout = PNX_TIMEOUT_DEFAULT};
}

/* ---- pool/async-cycle ---- */
static void *cycle_set_up(unsigned threads) {
    (void)threads;
    return pool_patinox_set_up(POOL_CYCLE_SIZE, POOL_CYCLE_SIZE);
}

static void cycle_enter_thread(void *state, unsigned index) {
    (void)state;
    prepare(&callers[index]);
}

static void cycle_work(void *state, unsigned index, uint64_t n) {
    struct caller *caller = &callers[index];
    for (uint64_t i = 0; i < n; i++) {
        ask(state, caller);
        wait_served(caller);
        pnx_lease_release(&caller->got);
    }
}

/* ---- pool/cancel ---- */
static void *cancel_set_up(unsigned threads) {
    return pool_patinox_set_up(threads, threads);
}

static void cancel_enter_thread(void *state, unsigned index) {
    struct caller *caller = &callers[index];
    prepare(caller);
    if (pnx_pool_acquire(state, PNX_TIMEOUT_DEFAULT, NULL, &caller->held))
        abort();
}

/* Asks and takes it back; who was served meanwhile gives back. */
static void ask_in_vain(struct pnx_pool *pool, struct caller *caller) {
    ask(pool, caller);
    if (pnx_pool_cancel(&caller->request) == 0)
        return;
    wait_served(caller);
    pnx_lease_release(&caller->got);
}

static void cancel_work(void *state, unsigned index, uint64_t n) {
    struct caller *caller = &callers[index];
    for (uint64_t i = 0; i < n; i += 2) {
        ask_in_vain(state, caller);
        ask(state, caller);
        pnx_lease_release(&caller->held);
        wait_served(caller);
        caller->held = caller->got;
    }
}

static void cancel_leave_thread(void *state, unsigned index) {
    (void)state;
    pnx_lease_release(&callers[index].held);
}

int pool_patinox_async(const struct bench_args *args) {
    const struct bench_impl cycle = {.name = args->impl,
            .version = pnx_version(),
            .set_up = cycle_set_up,
            .work = cycle_work,
            .enter_thread = cycle_enter_thread};
    const struct bench_impl cancel = {.name = args->impl,
            .version = pnx_version(),
            .set_up = cancel_set_up,
            .work = cancel_work,
            .enter_thread = cancel_enter_thread,
            .leave_thread = cancel_leave_thread};
    return bench_cycle(args, strcmp(args->case_name, "pool/cancel") == 0 ? &cancel : &cycle);
}
