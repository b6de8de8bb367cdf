/* SPDX-License-Identifier: Apache-2.0 */
/*
 * os/thread.c - thread records, thread start, barriers, fork generation.
 *
 *   P1  A thread's record is found or made once, on first use, and given back at its exit, for another thread;
 *       its memory is never freed before the library is unloaded.  Getting it costs one initial-exec TLS load.
 *   P2  Threads of the library take no asynchronous signal, and leave SIGBUS deliverable.
 *   P3  pnx__fork_generation() returns in a child a larger number than any that was returned before the fork
 *       in the processes from which the child descends.
 */
#include "os/thread.h"

#include "base/atomic.h"
#include "os/fault.h"
#include "os/records.h"

#include <errno.h>
#include <linux/membarrier.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

__thread struct pnx_thread *pnx_self_ PNX_TLS_MODEL_;

static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_key_t key;
static struct pnx_a32 key_made; /* a detached thread may ask while unload() takes it back */
struct pnx_a32 pnx__asymmetric;

struct pnx_aptr pnx__fork_page;        /* set at the start; NULL when the kernel lacks the advice */
static struct pnx_a32 fork_last = {1}; /* at least the number on the page of this process */

static void drop_record(void *arg) {
    pnx__record_end(arg);
    pnx_self_ = NULL;
    pnx__record_give_back(arg);
}

static void forked_child(void) {
    pnx_fetch_add(
            &fork_last, 1, PNX_RELAXED, "thread.fork_child"); /* alone in the child: no partner */
}

/* A child has none of its parent's other threads, and none of its own gets their records. */
static void mark_others(void) {
    pnx__records_lose_others(pnx_self_);
}

static bool register_barrier(void) {
    return !PNX_OS_FAULT("membarrier") &&
           syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0) == 0;
}

static void start_up(void) {
    bool made = pthread_key_create(&key, drop_record) == 0;
    pnx_store(&key_made, made, PNX_RELAXED, "thread.key_made"); /* pthread_once publishes it */
    long page = sysconf(_SC_PAGESIZE);
    void *p = PNX_OS_FAULT("mmap") ? MAP_FAILED
                                   : mmap(NULL, (size_t)page, PROT_READ | PROT_WRITE,
                                             MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p != MAP_FAILED && !PNX_OS_FAULT("madvise") &&
            madvise(p, (size_t)page, MADV_WIPEONFORK) == 0) {
        struct pnx_a32 *word = p;
        pnx_store(word, 1, PNX_RELAXED, "thread.fork_init"); /* published by the next */
        pnx_store(
                &pnx__fork_page, p, PNX_RELEASE, "thread.fork_there"); /* with thread.fork_where */
    } else {
        if (p != MAP_FAILED)
            munmap(p, (size_t)page);
        pthread_atfork(NULL, NULL, forked_child);
    }
    pthread_atfork(NULL, NULL, mark_others);
    /* Relaxed: whoever reads 1 need not see anything else, and the kernel knows by now. */
    pnx_store(&pnx__asymmetric, register_barrier(), PNX_RELAXED, "thread.set_asymmetric");
}

static bool has_key(void) {
    return pnx_load(&key_made, PNX_RELAXED, "thread.has_key") != 0; /* see where it is written */
}

struct pnx_thread *pnx__thread(void) {
    if (pnx_self_)
        return pnx_self_;
    pthread_once(&once, start_up);
    if (!has_key())
        return NULL;
    struct pnx_thread *record = pnx__record_take();
    if (!record)
        return NULL;
    if (pthread_setspecific(key, record) != 0) {
        pnx__record_give_back(record);
        return NULL;
    }
    pnx_self_ = record;
    return record;
}

void pnx__threads_forget(void) {
    struct pnx_thread *records = pnx__records_unlist();
    pnx_self_ = NULL;
    if (has_key()) {
        /* Threads that end later still have their records under the old key, and must not find them. */
        pthread_key_delete(key);
        bool made = pthread_key_create(&key, drop_record) == 0;
        pnx_store(&key_made, made, PNX_RELAXED, "thread.key_again"); /* there are no others */
    }
    pnx__records_free(records);
}

/*
 * Runs when the library is unloaded, as part of a plugin that links it statically, or at the end of the process.
 * A key that outlived the code would have later ends of threads jump to where it was.  Records stay: at the end
 * of a process other threads may still be using theirs.
 */
__attribute__((destructor(101))) static void unload(void) {
    if (has_key())
        pthread_key_delete(key);
    pnx_store(&key_made, false, PNX_RELAXED, "thread.key_gone"); /* nothing goes with it */
}

struct pnx_os_thread {
    pthread_t id;
    void (*run)(void *arg);
    void *arg;
    char name[16];
    struct pnx_a32 given_up; /* by its owner, or by the thread at its end: the second one frees */
};

static void *thread_main(void *arg) {
    struct pnx_os_thread *thread = arg;
    pthread_setname_np(pthread_self(), thread->name);
    thread->run(thread->arg);
    /* Pairs with thread.detach, in both directions: the first one's uses happen before the free. */
    if (pnx_exchange(&thread->given_up, 1, PNX_ACQ_REL, "thread.end"))
        free(thread);
    return NULL;
}

int pnx__thread_start(
        const char *name, void (*run)(void *arg), void *arg, struct pnx_os_thread **ret_thread) {
    struct pnx_os_thread *thread = calloc(1, sizeof(*thread));
    if (!thread)
        return -ENOMEM;
    thread->run = run;
    thread->arg = arg;
    strncpy(thread->name, name, sizeof(thread->name) - 1);

    sigset_t blocked, before;
    sigfillset(&blocked);
    sigdelset(&blocked, SIGBUS);
    sigdelset(&blocked, SIGSEGV);
    sigdelset(&blocked, SIGFPE);
    sigdelset(&blocked, SIGILL);
    pthread_sigmask(SIG_SETMASK, &blocked, &before);
    int rc = -PNX_OS_FAULT("pthread_create");
    if (rc == 0)
        rc = pthread_create(&thread->id, NULL, thread_main, thread);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (rc) {
        free(thread);
        return -rc;
    }
    *ret_thread = thread;
    return 0;
}

void pnx__thread_join(struct pnx_os_thread **thread) {
    if (!*thread)
        return;
    pthread_join((*thread)->id, NULL);
    free(*thread);
    *thread = NULL;
}

void pnx__thread_detach(struct pnx_os_thread **thread) {
    struct pnx_os_thread *own = *thread;
    if (!own)
        return;
    *thread = NULL;
    pthread_detach(own->id);
    if (pnx_exchange(&own->given_up, 1, PNX_ACQ_REL, "thread.detach")) /* pairs with thread.end */
        free(own);
}

uint32_t pnx__os_cpus(void) {
    cpu_set_t set;
    CPU_ZERO(&set);
    long n = 0;
    if (!PNX_OS_FAULT("sched_getaffinity") && sched_getaffinity(0, sizeof(set), &set) == 0)
        n = CPU_COUNT(&set);
    if (n <= 0)
        n = sysconf(_SC_NPROCESSORS_ONLN); /* more CPUs than the set has room for */
    return n > 0 ? (uint32_t)n : 1;
}

int pnx__barrier_heavy(void) {
    if (!pnx__barrier_is_asymmetric()) {
        pnx_fence(PNX_SEQ_CST, "thread.heavy"); /* pairs with thread.light */
        return 0;
    }
    /* A child is registered as its parent was; should it not be, it is the first call's failure that says so. */
    for (int tries = 0; tries < 2; tries++) {
        int injected = PNX_OS_FAULT("membarrier_use");
        if (injected)
            return injected;
        if (syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0) == 0)
            return 0;
        int rc = -errno;
        if (!register_barrier())
            return rc;
    }
    return -EPERM;
}

bool pnx__barrier_is_asymmetric(void) {
    pthread_once(&once, start_up); /* publishes it */
    return pnx_load(&pnx__asymmetric, PNX_RELAXED, "thread.is_asymmetric") != 0;
}

uint32_t pnx__fork_generation_slow(void) {
    pthread_once(&once, start_up);
    struct pnx_a32 *page =
            pnx_load(&pnx__fork_page, PNX_RELAXED, "thread.fork_known"); /* once published it */
    if (!page)
        return pnx_load(&fork_last, PNX_RELAXED, "thread.fork_last");
    uint32_t generation =
            pnx_load(page, PNX_ACQUIRE, "thread.fork_again"); /* pairs with thread.fork_claim */
    if (generation != 0)
        return generation;
    /*
     * A child's first look.  Several threads may meet 0: each takes a number of its own, one sets the page.
     * fork_last is raised before the page is set, so that whoever read the page and then forks leaves to
     * its child a fork_last that is not below the page.
     */
    uint32_t found = 0;
    uint32_t wanted = pnx_fetch_add(&fork_last, 1, PNX_ACQ_REL, "thread.fork_number") + 1;
    /* Release: pairs with the forking thread's own load of the page, see above. */
    if (!pnx_cas(page, &found, wanted, PNX_ACQ_REL, "thread.fork_claim"))
        return found;
    return wanted;
}
