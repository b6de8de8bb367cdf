/* SPDX-License-Identifier: Apache-2.0 */
/* os_thread.c - os/thread.h for the explorer: fibres, their records, the barriers; a process that never forks. */
#include "explorer/engine.h"

#include "os/fork.h"

#include <errno.h>
#include <pthread.h>

struct pnx_os_thread {
    struct x_thread *thread;
    void (*run)(void *arg);
    void *arg;
};

/* Outside an execution: for the harness. */
static struct pnx_thread outside = {.id = 1000};

struct pnx_thread *pnx_x_self(void) {
    if (!x.self)
        return &outside;
    return x.self->made_record ? &x.self->record : NULL;
}

struct pnx_thread *pnx__thread(void) {
    if (!x.self)
        return &outside;
    if (!x.self->made_record) {
        x.self->made_record = true;
        x.self->record.id = x_self() + 1;
        x.self->record.number = (uint32_t)x.self->record.id;
        x.self->record.shard = x_self() % PNX_THREAD_SHARDS;
    }
    return &x.self->record;
}

/*
 * A record is used by one thread only: 2, as in os/thread.c, says that it has ended; nothing says that it has begun.
 * Relaxed, which is less than the real ones promise: under the lock of all latches it is enough.
 */
bool pnx__thread_is_here(const struct pnx_thread *thread) {
    return pnx_load(&thread->owned, PNX_RELAXED, "thread.is_here") != 2;
}

void pnx__thread_abandon(struct pnx_thread *thread) {
    pnx_store(&thread->owned, 2, PNX_RELAXED, "thread.abandon");
}

static void (*at_exit)(struct pnx_thread *thread);

void x_os_reset(void) {
    at_exit = NULL; /* each execution sets it anew */
}

void pnx__thread_at_exit(void (*fn)(struct pnx_thread *thread)) {
    at_exit = fn;
}

void x_thread_exit_hooks(struct x_thread *thread) {
    if (thread->record.held)
        x_fail(X_MISUSE, "the thread ends while holding a lock");
    if (at_exit && thread->made_record)
        at_exit(&thread->record);
    if (thread->record.latches)
        thread->record.latches_end(&thread->record);
    thread->made_record = false;
}

/* Nothing is unloaded, and nothing forks. */
void pnx__threads_forget(void) {}

uint32_t pnx__threads_forgotten(void) {
    return 0;
}

void pnx__at_fork(
        enum pnx_lock_rank rank, void (*prepare)(void), void (*parent)(void), void (*child)(void)) {
    (void)rank;
    (void)prepare;
    (void)parent;
    (void)child;
}

void pnx__fork_lock(struct pnx_mutex *mutex) {
    (void)mutex;
}

void pnx__fork_unlock(struct pnx_mutex *mutex) {
    (void)mutex;
}

void pnx__fork_take(struct pnx_lock *lock) {
    (void)lock;
}

void pnx__fork_give(struct pnx_lock *lock, bool in_child) {
    (void)lock;
    (void)in_child;
}

static void run_started(void *arg) {
    struct pnx_os_thread *thread = arg;
    thread->run(thread->arg);
}

int pnx__thread_start(
        const char *name, void (*run)(void *arg), void *arg, struct pnx_os_thread **ret_thread) {
    (void)name;
    x_point(X_SPAWN, NULL, 0);
    struct pnx_os_thread *thread = x_memory_alloc(sizeof(*thread), 16);
    if (!thread)
        return -EAGAIN;
    *thread = (struct pnx_os_thread){.run = run, .arg = arg};
    thread->thread = &x.threads[x_spawn(run_started, thread)];
    *ret_thread = thread;
    return 0;
}

void pnx__thread_join(struct pnx_os_thread **thread) {
    if (!*thread)
        return;
    x_point(X_JOIN, (*thread)->thread, 0);
    x_join(&x.self->now, &(*thread)->thread->now);
    x_memory_free(*thread, sizeof(**thread));
    *thread = NULL;
}

void pnx__thread_detach(struct pnx_os_thread **thread) {
    *thread =
            NULL; /* the handle counts as a leak if the test asks; a detached thread is not part of a suite */
}

uint32_t pnx__os_cpus(void) {
    return 2;
}

void pnx__spin_hint(void) {
    if (x.self)
        x_spin();
}

/* These have sites too, so that the mutation check can take them away. */
static void fence(struct x_thread *thread, const struct pnx_atomic_site *site) {
    x_reach(site, X_SITE_FENCE);
    x_memory_fence(thread, site->order);
}

void pnx__barrier_light(void) {
    if (!x.self || !x.test->fences)
        return; /* a compiler barrier: the heavy one of another thread does the work */
    const struct pnx_atomic_site *site = PNX_SITE_ROW_("thread.light", PNX_SEQ_CST);
    x_point(X_FENCE, NULL, site->order);
    fence(x.self, site);
    if (x.trace)
        x_trace("light");
}

/* membarrier: between two of its operations each thread runs a seq_cst fence; the caller's stand around them. */
static void membarrier(const struct pnx_atomic_site *site) {
    x_point(X_HEAVY, NULL, site->order);
    fence(x.self, site);
    for (unsigned i = 0; i < x.n_threads; i++) {
        if (&x.threads[i] != x.self) /* one that is done left its processor, which is as good */
            fence(&x.threads[i], site);
    }
    fence(x.self, site);
}

int pnx__barrier_heavy(void) {
    if (!x.self)
        return 0;
    if (x.trace)
        x_trace("heavy");
    if (!x.test->fences) {
        membarrier(PNX_SITE_ROW_("thread.membarrier", PNX_SEQ_CST));
        return 0;
    }
    const struct pnx_atomic_site *site = PNX_SITE_ROW_("thread.heavy", PNX_SEQ_CST);
    x_point(X_FENCE, NULL, site->order);
    fence(x.self, site);
    return 0;
}

bool pnx__barrier_is_asymmetric(void) {
    return !x.test || !x.test->fences;
}

uint32_t pnx__fork_generation(void) {
    return 1;
}

/* Code under test that uses these directly would block the one kernel thread (linked with --wrap). */
/* The names are the linker's. NOLINTBEGIN(bugprone-reserved-identifier) */
int __wrap_pthread_once(pthread_once_t *once, void (*run)(void));
int __real_pthread_once(pthread_once_t *once, void (*run)(void));
pthread_t __wrap_pthread_self(void);
pthread_t __real_pthread_self(void);

int __wrap_pthread_once(pthread_once_t *once, void (*run)(void)) {
    if (!x.self)
        return __real_pthread_once(once, run);
    int done = 2; /* glibc's value */
    if (memcmp(once, &done, sizeof(done)) != 0) {
        memcpy(once, &done, sizeof(done));
        run();
    }
    return 0;
}

pthread_t __wrap_pthread_self(void) {
    return x.self ? (pthread_t)(x_self() + 1) : __real_pthread_self();
}
/* NOLINTEND(bugprone-reserved-identifier) */
