/* SPDX-License-Identifier: Apache-2.0 */
/*
 * engine.h - the explorer from the inside: memory.c (what loads may read, allocation), races.c, schedule.c
 * (who runs next, all schedules in turn), fibre.c, report.c (traces and schedules), hooks.c and os_*.c (what
 * the library calls).  README.md has the model and its limits.
 *
 * One process, one kernel thread: nothing in here is locked.
 */
#ifndef PNX_TESTS_EXPLORER_ENGINE_H
#define PNX_TESTS_EXPLORER_ENGINE_H

#define PNX_EXPLORER_ENGINE
#include "explorer/explorer.h"

#define X_THREADS (X_MAX_THREADS + 1) /* 0 is the one that sets up */
#define X_SC      X_THREADS           /* the component of a clock that counts seq_cst writes */

/*
 * A set of events that is closed under program order: of each thread the first so many.  Two are kept for each
 * thread.  hb is what happens before: it decides about races.  view is what loads may not go behind: hb, and
 * what seq_cst fences add to it.
 */
struct x_clock {
    uint32_t at[X_THREADS + 1];
} __attribute__((aligned(32)));

struct x_pair {
    struct x_clock hb;
    struct x_clock view;
};

/* One store, newest first.  Its message is what an acquire of it learns. */
struct x_store {
    struct x_store *older;
    uint64_t value;
    uint32_t index;     /* in modification order: 0 is the value that was there */
    uint32_t epoch;     /* of its thread */
    uint32_t sc_number; /* 0: not seq_cst */
    uint8_t thread;
    bool initial;
    struct x_pair message;
};

/* A thread read a store for the first time; newest first. */
struct x_mark {
    struct x_mark *older;
    uint32_t epoch;
    uint32_t index;
};

struct x_block {
    char *base;
    size_t size;
    uint32_t number;
    uint32_t epoch; /* of the allocation */
    uint8_t thread;
    bool freed;
};

/* Plain accesses by one thread to the same bytes; the newest of them. */
struct x_access {
    struct x_access *next;
    uint32_t epoch;
    uint8_t thread;
    uint8_t mask; /* of bytes */
    bool write;
};

/* Eight bytes of memory. */
struct x_granule {
    const void *address;
    struct x_block *block;     /* NULL: static or on a stack */
    struct x_loc *loc[2];      /* a word or lock at its start, a word in its middle */
    struct x_access *accesses; /* plain ones that a later one may race with */
};

/* A word, or a lock. */
struct x_loc {
    const void *address;
    struct x_granule *granule;
    struct x_store *last; /* NULL: not atomic so far */
    struct x_mark *marks[X_THREADS];
    uint32_t access_epoch[X_THREADS]; /* last atomic access by each thread */
    uint8_t size;
    uint8_t holder;          /* of a lock: thread + 1 */
    uint32_t changes;        /* of its holder */
    struct x_pair *released; /* by the lock's last holder */
};

enum x_kind {
    X_NOTHING, /* a thread that starts, or was woken */
    X_JOIN,    /* enabled when that thread is done */
    X_SPIN,    /* enabled when there is something new to read */
    X_LOAD,
    X_STORE,
    X_RMW,
    X_LOCK, /* enabled while nobody holds it */
    X_TRYLOCK,
    X_UNLOCK,
    X_WAIT,
    X_WAKE,
    X_FREE,
    X_FENCE, /* seq_cst */
    X_HEAVY, /* membarrier */
    X_SPAWN,
    X_POINT,
};

/* What a thread does next; whether two of these commute decides what need not be run. */
struct x_op {
    enum x_kind kind;
    bool sc;
    const void *address;
    size_t size; /* X_FREE */
};

/*
 *   UNUSED --spawn--> READY --futex wait--> SLEEPING --woken, timed out, spurious--> READY
 *                       +--returned-------> DONE
 *
 * A READY thread is enabled unless its next operation has to wait (see x_kind).
 */
enum x_state { X_UNUSED, X_READY, X_SLEEPING, X_DONE };

#define X_SPIN_READS 32

struct x_thread {
    enum x_state state;
    bool preempted; /* while it could go on, and nothing since then conflicts with op */
    bool fresh;     /* it did nothing yet since it was chosen */
    bool timed_out;
    bool made_record;
    uint32_t epoch;
    uint32_t gave_up; /* how often it went on from a spin hint because nobody could run */
    struct x_op op;
    struct x_pair now;
    struct x_pair acquired; /* messages of relaxed reads: an acquire fence takes them */
    struct x_pair released; /* at the last release fence: relaxed stores carry it */
    const void *sleeps_on;
    pnx_ns deadline;
    struct {
        struct x_loc *loc;
        uint64_t value;
        uint32_t index;
    } read[X_SPIN_READS]; /* since the last spin hint */
    uint32_t reads;
    uint32_t idle_hints; /* spin hints since it last read anything */
    uint64_t hash;       /* of all that it read */
    uint64_t random;     /* how many numbers x_env() gave it */
    int priority;
    void *stack_pointer;
    char *stack; /* its lowest byte */
    void (*run)(void *arg);
    void *arg;
    struct pnx_thread record;
};

enum x_mode { X_EXHAUSTIVE, X_RANDOM, X_REPLAY };

struct x_engine {
    const struct x_test *test;
    struct x_result *result;
    struct x_thread threads[X_THREADS];
    unsigned n_threads;
    struct x_thread *self; /* NULL: no execution is running */
    bool alone;            /* set-up or final */
    bool unshared;         /* set-up before any thread was started, or final: nobody can race */
    bool trace;
    bool pruned;
    bool bounded; /* the bounds apply, and equivalent executions are left out */
    enum x_mode mode;
    uint64_t execution;
    uint32_t preemptions, stale, timeouts, spurious; /* left */
    uint32_t steps;
    uint32_t idle_spins; /* in a row, when nobody could run */
    uint32_t sleepers;   /* that may wake by themselves */
    pnx_ns now;
    uint64_t random;
    uint32_t sc_number;
    struct x_pair sc; /* the global view of seq_cst fences */
    uint32_t fail_allocation;
    void *state;
};
extern struct x_engine x;

/* memory.c */
void x_memory_reset(void);
void x_memory_start(void);
struct x_loc *x_loc_of(const void *address);
bool x_lock_is_free(const void *mutex);       /* asked by anybody */
void x_memory_note_held(struct x_loc *mutex); /* the running thread found it held */
uint64_t x_memory_load(
        const void *word, unsigned size, int order, const struct pnx_atomic_site *site);
void x_memory_store(void *word, unsigned size, uint64_t value, int order);
uint64_t x_memory_rmw(void *word, unsigned size, int order,
        uint64_t (*fn)(uint64_t old, uint64_t operand), uint64_t operand);
bool x_memory_cas(
        void *word, unsigned size, uint64_t *expected, uint64_t desired, int order, int failure);
void x_memory_fence(struct x_thread *thread, int order);
const char *x_place(const void *address); /* static buffers, in turn */
uint64_t x_memory_newest(const void *word, unsigned size);
bool x_memory_something_new(const struct x_thread *thread);
void x_join(struct x_pair *into, const struct x_pair *from);
void *x_memory_alloc(size_t size, size_t align);
void x_memory_free(void *p, size_t size);
uint64_t x_memory_identity(
        uint64_t value); /* an address, as who allocated it and when; others as they are */
size_t x_memory_size(const void *p); /* of the block that starts there, or 0 */
void x_memory_check_leaks(void);
void x_memory_lock(struct x_loc *mutex);
void x_memory_unlock(struct x_loc *mutex);

void *x_from_pool(size_t size);         /* not zeroed; until the execution ends */
uint32_t x_tick(struct x_thread *self); /* the number of a new event of that thread */
struct x_block *x_find_block(
        const void *address); /* NULL: not on the heap; fails where nothing was allocated */
void x_check_block(const struct x_granule *granule, const char *what);

/* races.c: plain accesses */
void x_races_start(const char *arena, size_t size);
void x_races_reset(size_t arena_used);
struct x_granule *x_granule_of(const void *address);
void x_plain(const void *p, size_t n, bool write);
void x_check_atomic(
        const struct x_granule *granule, const void *word, unsigned size, const char *what);
void x_check_free(const struct x_block *block);

/* schedule.c: who runs next */
void x_point(enum x_kind kind, const void *address, int order);
int x_sleep(const void *word, pnx_ns deadline); /* 0 or -ETIMEDOUT */
uint32_t x_wake(const void *word, uint32_t n);
unsigned x_spawn(void (*run)(void *arg), void *arg);
_Noreturn void x_thread_end(void);

void x_spin(void);

/* explore.c: all schedules in turn */
uint32_t x_decide(uint32_t n);                   /* 0 is the ordinary choice */
uint32_t x_decided(uint32_t n, uint32_t choice); /* notes a choice that was made at random */
bool x_change_point(uint32_t step); /* at random: the running thread's priority sinks here */
_Noreturn void x_fail(enum x_failure failure, const char *format, ...) PNX_PRINTF(2, 3);
_Noreturn void x_leave(void); /* ends the execution, whatever its threads are at */

/* fibre.c */
#define X_STACK_BYTES ((size_t)256 << 10)
void x_fibre_make(struct x_thread *thread);
void x_fibre_switch(void **save, void *to);

/* report.c */
extern const char *x_replay; /* the schedule to repeat, or NULL */
void x_trace(const char *format, ...) PNX_PRINTF(1, 2);
const char *x_order_name(int order);
void x_schedule_write(char *buf, size_t size, const struct x_test *test, bool bounded,
        const uint32_t *choices, size_t n);
/* Bounds are part of a schedule, and come back in *test. */
bool x_schedule_read(const char *text, struct x_test *test, bool *ret_bounded, uint32_t *choices,
        size_t max, size_t *ret_n);
bool x_schedule_is_for(const char *text, const struct x_test *test);

/* sites.c */
enum x_site_kind {
    X_SITE_LOAD = 1,
    X_SITE_STORE,
    X_SITE_RMW,
    X_SITE_CAS,
    X_SITE_CAS_ACQUIRE,
    X_SITE_FENCE
};
void x_reach(const struct pnx_atomic_site *site, enum x_site_kind kind);
bool x_weak_failure(const struct pnx_atomic_site *site);
void x_tell_reached(void);

/* os_thread.c */
void x_thread_exit_hooks(struct x_thread *thread);
void x_os_reset(void);

static inline unsigned x_index(const struct x_thread *thread) {
    return (unsigned)(thread - x.threads);
}

/* Whether an event of another thread happens before the running thread's next. */
static inline bool x_happened_before(unsigned thread, uint32_t epoch) {
    return epoch <= x.self->now.hb.at[thread];
}

#endif
