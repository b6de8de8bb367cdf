/* SPDX-License-Identifier: Apache-2.0 */
/*
 * resource_peers.c - the peers of the resource cases: a direct call, registries as one writes them in an hour, talloc,
 * APR's pools, GLib's queue, memcpy.
 *
 * talloc and APR are for one thread at a time: each thread has a context of its own, as the manuals say.
 */
#include "resource.h"

#include <linux/futex.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* ---- direct-call ---- */
static void *direct_set_up(unsigned threads) {
    (void)threads;
    return resource_own;
}

static void direct_work(void *state, unsigned index, uint64_t n) {
    struct resource *own = (struct resource *)state + index;
    for (uint64_t i = 0; i < n; i++) {
        RESOURCE_USE();
        resource_end(own, NULL);
    }
}

/* ---- mutexed-list-registry, mutexed-hash-registry ---- */

/* What the registries below keep of a resource. */
struct node {
    uint64_t id;
    int (*cleanup)(void *arg, const void *unused);
    void *arg;
    const char *type;
    uint64_t bytes;
    struct node *next;
    struct node *previous;
    uint64_t unused; /* to RESOURCE_ROW bytes */
};
_Static_assert(sizeof(struct node) == RESOURCE_ROW, "a node is as large as a row");

static struct {
    pthread_mutex_t mutex;
    uint64_t last_id;
    struct node list; /* circular */
} ledger = {.mutex = PTHREAD_MUTEX_INITIALIZER};

static struct node *make_node(void *arg) {
    struct node *node = malloc(sizeof(*node));
    if (!node)
        abort();
    *node = (struct node){
            .cleanup = resource_end, .arg = arg, .type = "resource", .bytes = RESOURCE_ROW};
    return node;
}

static void end_node(struct node *node) {
    node->cleanup(node->arg, NULL);
    free(node);
}

static struct node *list_add(void *arg) {
    struct node *node = make_node(arg);
    pthread_mutex_lock(&ledger.mutex);
    node->id = ++ledger.last_id;
    node->next = &ledger.list;
    node->previous = ledger.list.previous;
    node->previous->next = node;
    ledger.list.previous = node;
    pthread_mutex_unlock(&ledger.mutex);
    return node;
}

static void list_end(struct node *node) {
    pthread_mutex_lock(&ledger.mutex);
    node->previous->next = node->next;
    node->next->previous = node->previous;
    pthread_mutex_unlock(&ledger.mutex);
    end_node(node);
}

static void *list_set_up(unsigned threads) {
    (void)threads;
    ledger.list.next = ledger.list.previous = &ledger.list;
    for (uint32_t i = 0; i < RESOURCE_LIVE; i++)
        list_add(&resource_own[0]);
    return resource_own;
}

static void list_work(void *state, unsigned index, uint64_t n) {
    struct resource *own = (struct resource *)state + index;
    for (uint64_t i = 0; i < n; i++) {
        struct node *node = list_add(own);
        RESOURCE_USE();
        list_end(node);
    }
}

#ifdef HAVE_GLIB
#include <glib.h>

static GHashTable *table;

static uint64_t hash_add(void *arg) {
    struct node *node = make_node(arg);
    pthread_mutex_lock(&ledger.mutex);
    uint64_t id = node->id = ++ledger.last_id;
    g_hash_table_insert(table, GSIZE_TO_POINTER(id), node);
    pthread_mutex_unlock(&ledger.mutex);
    return id;
}

static void hash_end(uint64_t id) {
    gpointer node = NULL;
    pthread_mutex_lock(&ledger.mutex);
    gboolean found = g_hash_table_steal_extended(table, GSIZE_TO_POINTER(id), NULL, &node);
    pthread_mutex_unlock(&ledger.mutex);
    if (!found)
        abort();
    end_node(node);
}

static void *hash_set_up(unsigned threads) {
    (void)threads;
    table = g_hash_table_new(NULL, NULL);
    for (uint32_t i = 0; i < RESOURCE_LIVE; i++)
        hash_add(&resource_own[0]);
    return resource_own;
}

static void hash_work(void *state, unsigned index, uint64_t n) {
    struct resource *own = (struct resource *)state + index;
    for (uint64_t i = 0; i < n; i++) {
        uint64_t id = hash_add(own);
        RESOURCE_USE();
        hash_end(id);
    }
}

/* ---- g_async_queue ---- */
struct item {
    void (*run)(void *arg);
    void *arg;
};

static struct {
    GAsyncQueue *queue;
    unsigned threads;
    struct resource_worker worker;
} async;

static void *async_main(void *arg) {
    (void)arg;
    for (;;) {
        const struct item *item = g_async_queue_pop(async.queue);
        item->run(item->arg);
    }
    return NULL;
}

static void run_end(void *arg) {
    resource_end(arg, NULL);
}
static void run_hold(void *arg) {
    resource_worker_hold(arg);
}
static void run_spin(void *arg) {
    resource_worker_spin(arg);
}
static void run_done(void *arg) {
    resource_worker_done(arg);
}

static struct item held = {run_hold, &async.worker}, spinning = {run_spin, &async.worker},
                   done = {run_done, &async.worker};

static void async_wait_done(unsigned times) {
    for (unsigned i = 0; i < times; i++)
        sem_wait(&async.worker.done);
}

static void *async_set_up(unsigned threads) {
    pthread_t thread;
    async.queue = g_async_queue_new();
    async.threads = threads;
    resource_worker_init(&async.worker);
    if (pthread_create(&thread, NULL, async_main, NULL) != 0)
        return NULL;
    g_async_queue_push(async.queue, &done);
    async_wait_done(1);
    return &async;
}

static void async_begin(void *state) {
    (void)state;
    g_async_queue_push(async.queue, &held);
    sem_wait(&async.worker.held);
}

static void async_work(void *state, unsigned index, uint64_t n) {
    static struct item items[BENCH_MAX_THREADS];
    struct item *item = &items[index];
    (void)state;
    *item = (struct item){run_end, &resource_own[BENCH_MAX_THREADS - 1]};
    for (uint64_t i = 0; i < n; i++)
        g_async_queue_push(async.queue, item);
}

static void async_end(void *state) {
    (void)state;
    sem_post(&async.worker.go);
    g_async_queue_push(async.queue, &done);
    async_wait_done(1);
}

static void async_begin_flow(void *state) {
    (void)state;
    __atomic_store_n(&async.worker.flow, 0, __ATOMIC_RELAXED);
    g_async_queue_push(async.queue, &spinning);
    sem_wait(&async.worker.held);
}

static void async_work_flow(void *state, unsigned index, uint64_t n) {
    __atomic_store_n(&async.worker.flow, 1, __ATOMIC_RELEASE);
    async_work(state, index, n);
}

static void async_end_flow(void *state) {
    (void)state;
    g_async_queue_push(async.queue, &done);
    async_wait_done(1);
}

static void async_begin_asleep(void *state) {
    (void)state;
    resource_worker_wait_asleep(&async.worker);
}

static void async_work_asleep(void *state, unsigned index, uint64_t n) {
    (void)state;
    (void)index;
    for (uint64_t i = 0; i < n; i++)
        g_async_queue_push(async.queue, &done);
}

static void async_end_asleep(void *state) {
    (void)state;
    async_wait_done(async.threads);
}
#endif

#ifdef HAVE_TALLOC
#include <talloc.h>

struct allocated {
    void *resource;
    char rest[RESOURCE_ROW - sizeof(void *)];
};
static void *contexts[BENCH_MAX_THREADS];

static int end_allocated(struct allocated *allocated) {
    return resource_end(allocated->resource, NULL);
}

static struct allocated *talloc_one(unsigned index, void *resource) {
    struct allocated *allocated = talloc(contexts[index], struct allocated);
    if (!allocated)
        abort();
    allocated->resource = resource;
    talloc_set_destructor(allocated, end_allocated);
    return allocated;
}

static void *talloc_set_up(unsigned threads) {
    (void)threads;
    return resource_own;
}

static void talloc_enter_thread(void *state, unsigned index) {
    struct resource *own = (struct resource *)state + index;
    contexts[index] = talloc_new(NULL);
    for (uint32_t i = 0; i < RESOURCE_LIVE; i++)
        talloc_one(index, own);
}

static void talloc_work(void *state, unsigned index, uint64_t n) {
    struct resource *own = (struct resource *)state + index;
    for (uint64_t i = 0; i < n; i++) {
        struct allocated *allocated = talloc_one(index, own);
        RESOURCE_USE();
        talloc_free(allocated);
    }
}
#endif

#ifdef HAVE_APR
#include <apr_general.h>
#include <apr_pools.h>
#include <apr_version.h>

static apr_pool_t *pools[BENCH_MAX_THREADS];

static apr_status_t apr_end(void *arg) {
    return resource_end(arg, NULL);
}

static void *apr_set_up(unsigned threads) {
    (void)threads;
    return apr_initialize() == APR_SUCCESS ? resource_own : NULL;
}

static void apr_enter_thread(void *state, unsigned index) {
    struct resource *resources = state;
    if (apr_pool_create(&pools[index], NULL) != APR_SUCCESS)
        abort();
    for (uint32_t i = 0; i < RESOURCE_LIVE; i++)
        apr_pool_cleanup_register(
                pools[index], &resources[BENCH_MAX_THREADS - 1], apr_end, apr_pool_cleanup_null);
}

/* The faster of its two forms; the other one is a pool for each resource. */
static void apr_work(void *state, unsigned index, uint64_t n) {
    struct resource *own = (struct resource *)state + index;
    for (uint64_t i = 0; i < n; i++) {
        apr_pool_cleanup_register(pools[index], own, apr_end, apr_pool_cleanup_null);
        RESOURCE_USE();
        apr_pool_cleanup_run(pools[index], own, apr_end);
    }
}
#endif

/* ---- memcpy ---- */
static struct {
    char *from;
    char *to[BENCH_MAX_THREADS];
    struct resource_registrar registrar;
} copied;

static void register_one(void *ctx) {
    list_end(list_add(ctx));
}

static void *copy_set_up(unsigned threads) {
    size_t size = (size_t)RESOURCE_ROWS * RESOURCE_ROW;
    copied.from = malloc(size);
    if (!copied.from || !list_set_up(threads))
        return NULL;
    memset(copied.from, 1, size);
    copied.registrar = (struct resource_registrar){
            .cycle = register_one, .ctx = &resource_own[BENCH_MAX_THREADS - 1]};
    resource_registrar_start(&copied.registrar);
    return &copied;
}

static void copy_enter_thread(void *state, unsigned index) {
    size_t size = (size_t)RESOURCE_ROWS * RESOURCE_ROW;
    (void)state;
    copied.to[index] = malloc(size);
    if (!copied.to[index])
        abort();
    memset(copied.to[index], 1, size); /* no page faults later */
    if (index == 0)
        resource_registrar_mark(&copied.registrar);
}

static void copy_work(void *state, unsigned index, uint64_t n) {
    (void)state;
    memcpy(copied.to[index], copied.from, n * RESOURCE_ROW);
    BENCH_USE(copied.to[index]);
    RESOURCE_USE();
}

static void copy_fields(void *state, FILE *out) {
    (void)state;
    resource_registrar_fields(&copied.registrar, out);
}

/* ---- futex-wake: what it costs to wake somebody who sleeps, and nothing else ---- */
static struct {
    uint32_t word; /* atomic */
    unsigned threads;
    struct resource_worker worker;
} sleeper;

static void *sleeper_main(void *arg) {
    (void)arg;
    for (uint32_t seen = 0;;) {
        uint32_t now = __atomic_load_n(&sleeper.word, __ATOMIC_ACQUIRE);
        if (now == seen) {
            syscall(SYS_futex, &sleeper.word, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
            continue;
        }
        for (; seen != now; seen++)
            resource_worker_done(&sleeper.worker);
    }
    return NULL;
}

static void wake_work(void *state, unsigned index, uint64_t n) {
    (void)state;
    (void)index;
    for (uint64_t i = 0; i < n; i++) {
        __atomic_fetch_add(&sleeper.word, 1, __ATOMIC_RELEASE);
        syscall(SYS_futex, &sleeper.word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
    }
}

static void wake_begin(void *state) {
    (void)state;
    resource_worker_wait_asleep(&sleeper.worker);
}

static void wake_end(void *state) {
    (void)state;
    for (unsigned i = 0; i < sleeper.threads; i++)
        sem_wait(&sleeper.worker.done);
}

static void *wake_set_up(unsigned threads) {
    pthread_t thread;
    resource_worker_init(&sleeper.worker);
    sleeper.threads = threads;
    if (pthread_create(&thread, NULL, sleeper_main, NULL) != 0)
        return NULL;
    wake_work(NULL, 0, 1);
    sem_wait(&sleeper.worker.done);
    return &sleeper;
}

static const struct bench_row rows[] = {
        {"resource/guard-cycle", {.name = "direct-call",
                                         .version = "-",
                                         .set_up = direct_set_up,
                                         .work = direct_work}},
        {"resource/track-cycle", {.name = "mutexed-list-registry",
                                         .version = "-",
                                         .set_up = list_set_up,
                                         .work = list_work}},
        {"resource/enumerate", {.name = "memcpy",
                                       .version = "-",
                                       .set_up = copy_set_up,
                                       .work = copy_work,
                                       .enter_thread = copy_enter_thread,
                                       .fields = copy_fields,
                                       .batch = RESOURCE_ROWS}},
        {"resource/defer", {.name = "futex-wake",
                                   .version = "-",
                                   .set_up = wake_set_up,
                                   .work = wake_work,
                                   .begin_round = wake_begin,
                                   .end_round = wake_end,
                                   .batch = 1}},
#ifdef HAVE_GLIB
        {"resource/track-cycle", {.name = "mutexed-hash-registry",
                                         .version = GLIB_VERSION,
                                         .set_up = hash_set_up,
                                         .work = hash_work}},
        {"resource/defer", {.name = "g_async_queue",
                                   .version = GLIB_VERSION,
                                   .set_up = async_set_up,
                                   .work = async_work,
                                   .begin_round = async_begin,
                                   .end_round = async_end,
                                   .batch = RESOURCE_BATCH}},
        {"resource/defer", {.name = "g_async_queue-flow",
                                   .version = GLIB_VERSION,
                                   .set_up = async_set_up,
                                   .work = async_work_flow,
                                   .begin_round = async_begin_flow,
                                   .end_round = async_end_flow,
                                   .batch = RESOURCE_BATCH}},
        {"resource/defer", {.name = "g_async_queue-asleep",
                                   .version = GLIB_VERSION,
                                   .set_up = async_set_up,
                                   .work = async_work_asleep,
                                   .begin_round = async_begin_asleep,
                                   .end_round = async_end_asleep,
                                   .batch = 1}},
#endif
#ifdef HAVE_TALLOC
        {"resource/track-cycle", {.name = "talloc",
                                         .version = TALLOC_VERSION,
                                         .set_up = talloc_set_up,
                                         .work = talloc_work,
                                         .enter_thread = talloc_enter_thread}},
#endif
#ifdef HAVE_APR
        {"resource/track-cycle", {.name = "apr_pool",
                                         .version = APR_VERSION_STRING,
                                         .set_up = apr_set_up,
                                         .work = apr_work,
                                         .enter_thread = apr_enter_thread}},
#endif
};

int main(int argc, char **argv) {
    struct bench_args args = bench_parse(argc, argv);
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        const struct bench_impl *impl = &rows[i].impl;
        if (strcmp(rows[i].case_name, args.case_name) == 0 && strcmp(impl->name, args.impl) == 0)
            return impl->begin_round ? bench_rounds(&args, impl) : bench_cycle(&args, impl);
    }
    printf("{\"missing\":\"not built: its package was not found (scripts/packages.txt, group "
           "bench)\"}\n");
    return 0;
}
