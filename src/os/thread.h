/* SPDX-License-Identifier: Apache-2.0 */
/*
 * os/thread.h - threads, the per-thread record, the spin hint, the barriers, the fork generation.
 *
 * These are the hooks through which the explorer of the test suite takes over scheduling.
 */
#ifndef PNX_SRC_OS_THREAD_H
#define PNX_SRC_OS_THREAD_H

#include <patinox/base.h>

#include "base/atomic.h"

#define PNX_HELD_MAX        16
#define PNX_THREAD_HEAD     640
#define PNX_THREAD_DOMAINS  64
#define PNX_RWDATA_HELD_MAX 12
#define PNX_THREAD_POOLS    4
#define PNX_THREAD_SHARDS   16 /* into which registries are divided */

/*
 * One per thread, made on first use, given to another thread after its end, never freed: what stands in the head
 * is looked at by other threads, without locks.  Only its own thread touches the rest.
 */
struct pnx_thread {
    /* share: whether the thread is reading (patinox/reclaim_inl.h).  Zero at first; then kept from owner to owner. */
    _Alignas(64) unsigned char head[PNX_THREAD_HEAD];
    struct pnx_thread *next; /* in the list of all; fixed */
    struct pnx_a32
            owned; /* 0: free, 1: a thread has it, 2: its thread has gone, and nobody may have it */
    struct pnx_a32
            inside; /* os/lock.h: the lock that it is in by the bias, or about to look; 0: none.  A futex */
    uint64_t id;                 /* 1, 2, 3 ...; never reused: from here on zeroed for each owner */
    void *fault_scopes;          /* mapping: open access scopes (patinox/fault_inl.h) */
    uint32_t held;               /* debug: locks held, and their ranks in order of locking */
    uint16_t rank[PNX_HELD_MAX]; /* debug */
    uint16_t reclaim_depth;      /* inside a budget reclaimer: charges come from the reserve */
    uint16_t reclaim_calls;      /* share: inside a callback of a reclaim domain */
    uint16_t monitor_depth;      /* inside a monitor's callback: removing another must not wait */
    uint16_t rc_dropping;        /* share: a drop function of an rc object runs on this thread */
    void *rc_first;              /* share: rc objects that wait for it to return, oldest first */
    void *rc_last;
    uint64_t reclaim_joined; /* share: a bit for each domain that it has joined */
    /* share: in each domain, sections that are open without memory for them. */
    uint8_t reclaim_guest[PNX_THREAD_DOMAINS];
    struct pnx_latch *waits_for; /* share: guarded by the lock of all latches, as is the next */
    struct pnx_thread
            *awaits; /* share: whose doing this thread waits for, where that is no latch */
    /* share: how many latches it owns; the function is called at the thread's end if there are any. */
    uint32_t latches;
    void (*latches_end)(struct pnx_thread *thread);
    uint16_t watch_depth; /* share: inside a watch's callback: a cancel must not wait */
    uint16_t calls;       /* inside another function of the user's that somebody may wait for */
    uint32_t shard;       /* registry: where it added last; at first by its number */
    struct pnx_row_request *runs; /* registry: cleanups that run on this thread, innermost first */
    const struct pnx_cleanup_wait *cleanup_wait; /* registry: see run.c, whose lock guards it */
    const struct pnx_row_call *row_calls; /* registry: see registry/calls.h; innermost first */
    const void *executor_calls; /* resource: innermost function that an executor runs here */
    const void *pool_calls;     /* pool: innermost operation of a manager that runs here */
    const void *pool_groups;    /* pool: groups for which work runs here; innermost first */
    const void *cache_changes;  /* cache: computes whose function runs here; innermost first */
    void *pool_delivery;        /* pool: callbacks of requests that wait for one to return */
    void *cache_delivery;       /* cache: the same of a cache's requests */
    /* pool: the slot that this thread had last, in pools whose serial has these low bits; several: it may have another
     * one, too. */
    struct pnx_thread_slot {
        uint64_t serial;
        void *slot;
        bool several;
    } pool_last[PNX_THREAD_POOLS];
    /* share: guards of checked rwdata that this thread holds (the address, + 1 to write); the function is called at
     * the thread's end if there are any. */
    uintptr_t rwdata_held[PNX_RWDATA_HELD_MAX];
    uint32_t rwdata_n;
    uint32_t rwdata_more; /* ... that did not fit */
    void (*rwdata_end)(struct pnx_thread *thread);
    uint32_t
            number; /* of the record, 1, 2, 3 ...: kept from owner to owner; 0: none was to be had */
    uint32_t unused;
};

/* Returns the calling thread's record; NULL only when memory for it could not be had. */
struct pnx_thread *pnx__thread(void);

/* The same, for hot paths. */
static inline struct pnx_thread *pnx__self(void) {
    struct pnx_thread *self = PNX_SELF;
    return self ? self : pnx__thread();
}

/*
 * Stand around a function of the user's that other threads may be waiting for, so that it does not wait for theirs; the
 * second one also when it is left by an exception or the end of its thread:
 *     PNX_CLEANUP(pnx__call_end) struct pnx_thread *self = pnx__call_begin();
 */
static inline struct pnx_thread *pnx__call_begin(void) {
    struct pnx_thread *self = pnx__thread();
    if (self)
        self->calls++;
    return self;
}
static inline void pnx__call_end(struct pnx_thread **self) {
    if (*self)
        (*self)->calls--;
}

/* Returns whether the thread of a record is one of this process, and has not ended. */
bool pnx__thread_is_here(const struct pnx_thread *thread);

/* The calling thread, which ends, is not here any more, and nobody else ever gets its record. */
void pnx__thread_abandon(struct pnx_thread *thread);

/* Has fn called at the end of each thread that has a record, before another can get it.  There is one such fn. */
void pnx__thread_at_exit(void (*fn)(struct pnx_thread *thread));

/*
 * Frees the records.  No other thread may use the library any more; the calling one gets a new record if it does.
 * For code that is about to be unloaded.
 */
void pnx__threads_forget(void);

/* How often they have been freed: a record that was found before is there as long as this has not changed. */
uint32_t pnx__threads_forgotten(void);

struct pnx_os_thread;

/* Starts a joinable thread with all signals blocked but SIGBUS, SIGSEGV, SIGFPE and SIGILL.
 * -EAGAIN or -ENOMEM on failure.  name has at most 15 bytes. */
int pnx__thread_start(
        const char *name, void (*run)(void *arg), void *arg, struct pnx_os_thread **ret_thread);

/* Waits for the thread to end and frees the handle; NULLs it. */
void pnx__thread_join(struct pnx_os_thread **thread);

/* Gives the handle up: the thread runs on and its memory goes when it ends; NULLs it. */
void pnx__thread_detach(struct pnx_os_thread **thread);

/* Tells the CPU (or the explorer) that the caller is spinning. */
#ifdef PNX_EXPLORE
void pnx__spin_hint(void);
#else
static inline void pnx__spin_hint(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}
#endif

/* Number of CPUs that this process may use, at least 1. */
uint32_t pnx__os_cpus(void);

/*
 * The asymmetric barrier.  light orders the calling thread as seen by a heavy in another.  Where the
 * kernel grants membarrier, light is a compiler barrier and heavy a system call; elsewhere both fence.
 */
#ifdef PNX_EXPLORE
void pnx__barrier_light(void);
#define pnx__barrier_light_asymmetric pnx__barrier_light
#else
/* light, for who knows that the barrier is asymmetric. */
static inline void pnx__barrier_light_asymmetric(void) {
    __asm__ __volatile__("" ::: "memory");
}
extern struct pnx_a32 pnx__asymmetric; /* bool; until the library is told, light fences */
static inline void pnx__barrier_light(void) {
    /* Relaxed: once it is set, the kernel has been told; a fence in vain does no harm. */
    if (__builtin_expect(pnx_load(&pnx__asymmetric, PNX_RELAXED, "thread.asymmetric") != 0, 1))
        __asm__ __volatile__("" ::: "memory");
    else
        pnx_fence(PNX_SEQ_CST, "thread.light"); /* pairs with thread.heavy */
}
#endif
/* 0, or a negative error when the kernel has taken membarrier away: nothing has been ordered then. */
int pnx__barrier_heavy(void);
bool pnx__barrier_is_asymmetric(void);

/*
 * A number that tells a forked child from its parent: in a child it is larger than any that was returned in
 * its ancestors before the fork.  1 in the first process.  Reads one word on a page that the kernel wipes at
 * fork; no system call.  An object keeps the number that it read when it was made, and compares.
 */
#ifdef PNX_EXPLORE
uint32_t pnx__fork_generation(void);
static inline bool pnx__fork_is(uint32_t generation) {
    return pnx__fork_generation() == generation;
}
#else
extern struct pnx_aptr
        pnx__fork_page; /* struct pnx_a32; wiped to 0 in a child; NULL: not there (yet) */
uint32_t pnx__fork_generation_slow(void);
static inline uint32_t pnx__fork_generation(void) {
    const struct pnx_a32 *page = pnx_load(
            &pnx__fork_page, PNX_ACQUIRE, "thread.fork_where"); /* with thread.fork_there */
    uint32_t generation = page ? pnx_load(page, PNX_ACQUIRE, "thread.fork_page")
                               : 0; /* pairs with thread.fork_claim */
    return __builtin_expect(generation != 0, 1) ? generation : pnx__fork_generation_slow();
}
/* Whether it is that: a look without a call for short ways; false also where pnx__fork_generation() has to be asked. */
static inline bool pnx__fork_is(uint32_t generation) {
    const struct pnx_a32 *page = pnx_load(
            &pnx__fork_page, PNX_ACQUIRE, "thread.fork_is_where"); /* with thread.fork_there */
    return __builtin_expect(page != NULL, 1) &&
           __builtin_expect(pnx_load(page, PNX_ACQUIRE, "thread.fork_is") == generation,
                   1); /* pairs with thread.fork_claim */
}
#endif

#endif
