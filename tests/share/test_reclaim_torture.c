/* SPDX-License-Identifier: Apache-2.0 */
/*
 * reclaim under torture, beside two other backends: one that is trivially right (a lock of readers and writers) and
 * liburcu's, so that a failure of ours stands out from one of the torture itself.  The idea is rcutorture's (P.
 * McKenney, in the Linux kernel): objects go down a pipe of ages, one step each grace period, and no reader may meet
 * one that is older than its section.
 *
 * What is freed is poisoned and given back to malloc, or never used again, or used again at once: bugs that hide from
 * one of these show under another.  The last test frees too early, and must be found out.
 */
#include "harness/harness.h"
#include "share/reclaim.h"

#include <patinox/reclaim.h>

#include <dlfcn.h>
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define READERS 3
#define WRITERS 2
#define CANARY  UINT64_C(0xfeedfacecafef00d)
#define POISON  UINT64_C(0xdddddddddddddddd)

struct object {
    struct pnx_reclaim_node node;
    uint64_t urcu[2]; /* struct rcu_head */
    struct object *next;
    uint64_t age; /* how often its function has been called */
    uint64_t canary;
    uint64_t version;
    uint64_t check; /* CANARY ^ version */
};

struct backend {
    const char *name;
    void (*enter)(void);
    void (*exit)(void);
    void (*retire)(struct object *object);
    void (*drive)(void);
    void (*drain)(void);
    bool plain;    /* its order is one that ThreadSanitizer understands */
    bool handlers; /* signal handlers may enter */
};

enum memory { POISONED, QUARANTINED, REUSED };

static const struct backend *backend;
static enum memory memory;
static struct object *current;
static uint64_t made, ended, reads, nested_reads;
static uint64_t met; /* how often a reader found the object replaced */
static bool stop, stop_bothering;
static pthread_mutex_t writer_lock = PTHREAD_MUTEX_INITIALIZER; /* version, current's order */
static uint64_t last_version;
static pthread_mutex_t pool_lock = PTHREAD_MUTEX_INITIALIZER;
static struct object *pool; /* free for use, or in quarantine */

static uint64_t get(const uint64_t *word) {
    return backend->plain ? *word : __atomic_load_n(word, __ATOMIC_RELAXED);
}

static void set(uint64_t *word, uint64_t value) {
    if (backend->plain)
        *word = value;
    else
        __atomic_store_n(word, value, __ATOMIC_RELAXED);
}

static struct object *make_object(uint64_t version) {
    struct object *object = NULL;
    pthread_mutex_lock(&pool_lock);
    if (memory == REUSED && pool) {
        object = pool;
        pool = object->next;
    }
    pthread_mutex_unlock(&pool_lock);
    if (!object)
        object = calloc(1, sizeof(*object));
    CHECK(object);
    set(&object->age, 0);
    set(&object->canary, CANARY);
    set(&object->version, version);
    set(&object->check, CANARY ^ version);
    __atomic_fetch_add(&made, 1, __ATOMIC_RELAXED);
    return object;
}

static void end_object(struct object *object) {
    set(&object->canary, POISON);
    set(&object->version, POISON);
    set(&object->check, POISON);
    __atomic_fetch_add(&ended, 1, __ATOMIC_RELAXED);
    if (memory == POISONED) {
        free(object);
        return;
    }
    pthread_mutex_lock(&pool_lock);
    object->next = pool;
    pool = object;
    pthread_mutex_unlock(&pool_lock);
}

/* The pipe: the first grace period only makes it older; readers that still have it would see that. */
static void one_step_older(struct object *object) {
    uint64_t age = get(&object->age) + 1;
    set(&object->age, age);
    if (age == 2)
        end_object(object);
    else
        backend->retire(object);
}

/* ---- ours ---- */

static struct pnx_reclaim *domain;

static void ours_enter(void) {
    pnx_reclaim_enter(domain);
}

static void ours_exit(void) {
    pnx_reclaim_exit(domain);
}

static void ours_run(struct pnx_reclaim_node *node) {
    one_step_older(PNX_CONTAINER(node, struct object, node));
}

static void ours_retire(struct object *object) {
    pnx_reclaim_retire(domain, &object->node, ours_run, sizeof(*object));
}

static void ours_drive(void) {
    pnx__reclaim_assist(domain);
}

static void ours_drain(void) {
    CHECK_EQ(pnx_reclaim_close(domain, PNX_NEVER), 0);
}

static void nothing(void) {}

static const struct backend ours = {
        "ours", ours_enter, ours_exit, ours_retire, ours_drive, ours_drain, true, true};

/* The same, in a process that is forbidden to use membarrier half-way. */
static void ours_drain_denied(void) {
    CHECK_EQ(pnx_reclaim_close(domain, PNX_NEVER), PNX_E_BROKEN);
}

static const struct backend denied = {
        "denied", ours_enter, ours_exit, ours_retire, ours_drive, ours_drain_denied, true, true};

static void deny_membarrier(unsigned flags) {
    struct sock_filter code[] = {
            BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
            BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_membarrier, 0, 1),
            BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
            BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof(code) / sizeof(code[0]), code};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
            syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program) != 0)
        test_skip("the kernel has no seccomp filters");
}

/* ---- a lock ---- */

static pthread_rwlock_t big_lock = PTHREAD_RWLOCK_WRITER_NONRECURSIVE_INITIALIZER_NP;
static __thread unsigned nesting; /* the lock is not for readers that nest */
static struct object *queue;
static pthread_mutex_t queue_lock = PTHREAD_MUTEX_INITIALIZER;

static void lock_enter(void) {
    if (nesting++ == 0)
        pthread_rwlock_rdlock(&big_lock);
}

static void lock_exit(void) {
    if (--nesting == 0)
        pthread_rwlock_unlock(&big_lock);
}

static void lock_retire(struct object *object) {
    pthread_mutex_lock(&queue_lock);
    object->next = queue;
    queue = object;
    pthread_mutex_unlock(&queue_lock);
}

static void lock_drive(void) {
    pthread_mutex_lock(&queue_lock);
    struct object *object = queue;
    queue = NULL;
    pthread_mutex_unlock(&queue_lock);
    if (!object)
        return;
    pthread_rwlock_wrlock(&big_lock);
    pthread_rwlock_unlock(&big_lock);
    while (object) {
        struct object *next = object->next;
        one_step_older(object);
        object = next;
    }
}

static void lock_drain(void) {
    while (queue)
        lock_drive();
}

static const struct backend locked = {
        "rwlock", lock_enter, lock_exit, lock_retire, lock_drive, lock_drain, true, false};

/* ---- liburcu-bp ---- */

static void (*urcu_read_lock)(void);
static void (*urcu_read_unlock)(void);
static void (*urcu_call)(void *head, void (*fn)(void *head));
static void (*urcu_barrier)(void);

static void urcu_run(void *head) {
    one_step_older((struct object *)(void *)((char *)head - offsetof(struct object, urcu)));
}

static void urcu_enter(void) {
    urcu_read_lock();
}

static void urcu_exit(void) {
    urcu_read_unlock();
}

static void urcu_retire(struct object *object) {
    urcu_call(object->urcu, urcu_run);
}

static void urcu_drain(void) {
    urcu_barrier();
    urcu_barrier(); /* what callbacks retired */
}

static const struct backend urcu = {
        "liburcu-bp", urcu_enter, urcu_exit, urcu_retire, nothing, urcu_drain, false, false};

static void load_urcu(void) {
#ifdef PNX_TSAN
    test_skip("liburcu was not compiled for ThreadSanitizer");
#endif
    void *library = dlopen("liburcu-bp.so.8", RTLD_NOW);
    if (!library)
        test_skip("liburcu-bp is not installed");
    urcu_read_lock = (void (*)(void))(uintptr_t)dlsym(library, "urcu_bp_read_lock");
    urcu_read_unlock = (void (*)(void))(uintptr_t)dlsym(library, "urcu_bp_read_unlock");
    urcu_call = (void (*)(void *, void (*)(void *)))(uintptr_t)dlsym(library, "urcu_bp_call_rcu");
    urcu_barrier = (void (*)(void))(uintptr_t)dlsym(library, "urcu_bp_barrier");
    CHECK(urcu_read_lock && urcu_read_unlock && urcu_call && urcu_barrier);
}

/* ---- one that is wrong ---- */

static void wrong_retire(struct object *object) {
    one_step_older(object);
}

static const struct backend wrong = {
        "wrong", nothing, nothing, wrong_retire, nothing, nothing, false, false};

/* ---- readers ---- */

static void look(uint64_t *last_seen, bool lingers) {
    const struct object *object = __atomic_load_n(&current, __ATOMIC_ACQUIRE);
    uint64_t version = get(&object->version);
    CHECK_MSG(version >= *last_seen, "version %llx after %llx", (unsigned long long)version,
            (unsigned long long)*last_seen);
    CHECK_EQ(get(&object->canary), CANARY);
    if (lingers)
        sched_yield();
    CHECK_EQ(get(&object->age), 0);
    CHECK_EQ(get(&object->canary), CANARY);
    CHECK_EQ(get(&object->version), version);
    CHECK_EQ(get(&object->check), CANARY ^ version);
    *last_seen = version;
}

static void read_some(uint64_t *random, uint64_t *last_seen, unsigned n) {
    for (unsigned i = 0; i < n; i++) {
        uint64_t dice = test_random(random);
        backend->enter();
        look(last_seen, dice % 64 == 0);
        if (dice % 8 == 1) {
            backend->enter();
            look(last_seen, dice % 128 == 1);
            backend->exit();
            look(last_seen, false);
            __atomic_fetch_add(&nested_reads, 1, __ATOMIC_RELAXED);
        }
        backend->exit();
        __atomic_fetch_add(&reads, 1, __ATOMIC_RELAXED);
    }
}

/* A handler nests a section into whatever it interrupts, enter and exit themselves included. */
static __thread uint64_t handler_seen __attribute__((tls_model("initial-exec")));
static uint64_t handled;

static void on_signal(int number) {
    (void)number;
    backend->enter();
    look(&handler_seen, false);
    backend->exit();
    __atomic_fetch_add(&handled, 1, __ATOMIC_RELAXED);
}

static pthread_t steady;
static bool steady_there;

static void *reader(void *arg) {
    uint64_t random = (uint64_t)(uintptr_t)arg, last_seen = 0;
    backend->enter(); /* registered, before a handler may enter */
    backend->exit();
    if (random == 0)
        __atomic_store_n(&steady_there, true, __ATOMIC_RELEASE);
    while (!__atomic_load_n(&stop, __ATOMIC_RELAXED)) {
        uint64_t before = last_seen;
        read_some(&random, &last_seen, 64);
        __atomic_fetch_add(&met, last_seen != before, __ATOMIC_RELAXED);
    }
    /* A thread that is ending is no longer registered: no handler may enter there. */
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGUSR1);
    CHECK_EQ(pthread_sigmask(SIG_BLOCK, &signals, NULL), 0);
    return NULL;
}

static void *brief_reader(void *arg) {
    uint64_t random = (uint64_t)(uintptr_t)arg, last_seen = 0;
    read_some(&random, &last_seen, 16);
    return NULL;
}

/* ---- writers ---- */

static unsigned updates(void) {
    return test_long() ? 10000000 : test_slow() ? 3000 : 300000;
}

/* Whether readers came to see something of what the writers do; how soon they do is up to the scheduler. */
static bool were_together(void) {
    return __atomic_load_n(&met, __ATOMIC_RELAXED) >= 100 &&
           __atomic_load_n(&nested_reads, __ATOMIC_RELAXED) >= 10 &&
           (!backend->handlers || __atomic_load_n(&handled, __ATOMIC_RELAXED) >= 10);
}

static void *writer(void *arg) {
    uint64_t random = (uint64_t)(uintptr_t)arg, last_seen = 0;
    unsigned n = updates();
    for (unsigned i = 0; i < n || !were_together() || backend == &wrong; i++) {
        if (i == n / 2 && backend == &denied)
            deny_membarrier(SECCOMP_FILTER_FLAG_TSYNC);
        pthread_mutex_lock(&writer_lock);
        struct object *old =
                __atomic_exchange_n(&current, make_object(++last_version), __ATOMIC_ACQ_REL);
        pthread_mutex_unlock(&writer_lock);
        backend->retire(old);
        if (test_random(&random) % 4 == 0)
            backend->drive();
        if (test_random(&random) % 64 == 0)
            read_some(&random, &last_seen, 4);
        if (i >= n || backend == &wrong)
            sched_yield(); /* it is the readers that are wanting */
    }
    return NULL;
}

static void *bother(void *arg) {
    while (!__atomic_load_n(&steady_there, __ATOMIC_ACQUIRE))
        sched_yield();
    while (!__atomic_load_n(&stop_bothering, __ATOMIC_RELAXED)) {
        if (backend->handlers)
            pthread_kill(steady, SIGUSR1);
        pthread_t brief;
        CHECK_EQ(pthread_create(&brief, NULL, brief_reader, arg), 0);
        CHECK_EQ(pthread_join(brief, NULL), 0);
    }
    return NULL;
}

static void torture(const struct backend *which, enum memory how) {
    pthread_t readers[READERS], writers[WRITERS], other;
    backend = which;
    memory = how;
    uint64_t seed = test_seed() | 1;
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    CHECK_EQ(sigaction(SIGUSR1, &action, NULL), 0);
    current = make_object(++last_version);
    for (uintptr_t i = 0; i < READERS; i++)
        CHECK_EQ(pthread_create(&readers[i], NULL, reader, (void *)i), 0);
    steady = readers[0];
    CHECK_EQ(pthread_create(&other, NULL, bother, (void *)(uintptr_t)seed), 0);
    for (uintptr_t i = 0; i < WRITERS; i++)
        CHECK_EQ(pthread_create(&writers[i], NULL, writer, (void *)(uintptr_t)(seed + i)), 0);
    for (int i = 0; i < WRITERS; i++)
        CHECK_EQ(pthread_join(writers[i], NULL), 0);
    __atomic_store_n(&stop_bothering, true, __ATOMIC_RELAXED);
    CHECK_EQ(pthread_join(other, NULL), 0);
    __atomic_store_n(&stop, true, __ATOMIC_RELAXED);
    for (int i = 0; i < READERS; i++)
        CHECK_EQ(pthread_join(readers[i], NULL), 0);
    backend->retire(current);
    backend->drain();
    CHECK(made > WRITERS * updates());
    if (backend == &denied)
        CHECK(ended < made); /* what was retired when it was taken away is there for ever */
    else
        CHECK_EQ(ended, made);
    CHECK(reads > nested_reads && were_together());
    while (pool) {
        struct object *next = pool->next;
        free(pool);
        pool = next;
    }
}

static void torture_ours(uint32_t mode, enum memory how) {
    CHECK_EQ(pnx_reclaim_create(PNX_RECLAIM_OPTS(.mode = mode), NULL, &domain), 0);
    torture(&ours, how);
    pnx_reclaim_release(&domain);
}

static void urcu_child(void *how) {
    torture(&urcu, *(enum memory *)how);
    _exit(0); /* its thread stays, on which a leak checker that stops all threads may crash */
}

static void torture_urcu(enum memory how) {
    load_urcu();
    CHECK_EQ(test_child(urcu_child, &how), 0);
}

static void torture_denied_before(void) {
    deny_membarrier(0);
    torture_ours(PNX_RECLAIM_AUTO, REUSED);
}

static void torture_denied_after(void) {
    CHECK_EQ(
            pnx_reclaim_create(PNX_RECLAIM_OPTS(.mode = PNX_RECLAIM_MEMBARRIER), NULL, &domain), 0);
    torture(&denied, POISONED);
    pnx_reclaim_release(&domain); /* stays, with what it holds */
}

#define TORTURE(test_name, call) \
    TEST_LIMIT(test_name, 900) { \
        call; \
    }
TORTURE(p1_membarrier_poisoned, torture_ours(PNX_RECLAIM_MEMBARRIER, POISONED))
TORTURE(p1_membarrier_quarantined, torture_ours(PNX_RECLAIM_MEMBARRIER, QUARANTINED))
TORTURE(p1_membarrier_reused, torture_ours(PNX_RECLAIM_MEMBARRIER, REUSED))
TORTURE(p1_fences_poisoned, torture_ours(PNX_RECLAIM_FENCES, POISONED))
TORTURE(p1_fences_quarantined, torture_ours(PNX_RECLAIM_FENCES, QUARANTINED))
TORTURE(p1_fences_reused, torture_ours(PNX_RECLAIM_FENCES, REUSED))
TORTURE(p1_default_domain_reused, torture(&ours, REUSED))
TORTURE(p6_membarrier_denied_before, torture_denied_before())
TORTURE(p6_membarrier_denied_after, torture_denied_after())
TORTURE(rwlock_poisoned, torture(&locked, POISONED))
TORTURE(rwlock_quarantined, torture(&locked, QUARANTINED))
TORTURE(rwlock_reused, torture(&locked, REUSED))
TORTURE(liburcu_poisoned, torture_urcu(POISONED))
TORTURE(liburcu_quarantined, torture_urcu(QUARANTINED))
TORTURE(liburcu_reused, torture_urcu(REUSED))

static void torture_wrong(void *how) {
    torture(&wrong, *(enum memory *)how);
}

TEST_LIMIT(what_is_freed_too_early_is_found_out, 300) {
    for (enum memory how = QUARANTINED; how <= REUSED; how++)
        CHECK_MSG(test_child(torture_wrong, &how) != 0, "memory %d hides it", how);
}
