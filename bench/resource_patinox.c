/* SPDX-License-Identifier: Apache-2.0 */
/* resource_patinox.c - the resource cases for us, with default options and the process's registry. */
#include "resource.h"

#include <patinox/executor.h>
#include <patinox/guard.h>
#include <patinox/query.h>
#include <patinox/registry.h>

#include <stdlib.h>
#include <string.h>

static int end_resource(void *arg, const struct pnx_cancel *cancel) {
    return resource_end(arg, cancel);
}

/* ---- resource/guard-cycle ---- */
static void *guard_set_up(unsigned threads) {
    (void)threads;
    return resource_own;
}

static void guard_work(void *state, unsigned index, uint64_t n) {
    struct resource *own = (struct resource *)state + index;
    for (uint64_t i = 0; i < n; i++) {
        PNX_AUTO_GUARD guard = {0};
        if (pnx_guard_arm(&guard, end_resource, own))
            abort();
        RESOURCE_USE();
    }
}

/* ---- resource/track-cycle ---- */
static void *track_set_up(unsigned threads) {
    static pnx_resource_id live[RESOURCE_LIVE];
    (void)threads;
    for (uint32_t i = 0; i < RESOURCE_LIVE; i++) {
        if (pnx_registry_add(
                    NULL, PNX_RESOURCE(.type = "live", .cleanup = end_resource), NULL, &live[i]))
            return NULL;
    }
    return resource_own;
}

static void track_work(void *state, unsigned index, uint64_t n) {
    struct resource *own = (struct resource *)state + index;
    for (uint64_t i = 0; i < n; i++) {
        PNX_AUTO_GUARD guard = {0};
        if (pnx_guard_arm(&guard, end_resource, own) ||
                pnx_guard_track(&guard, NULL,
                        PNX_RESOURCE(.type = "resource", .bytes = RESOURCE_ROW), NULL))
            abort();
        RESOURCE_USE();
    }
}

/* The same for a resource that is memory, as what talloc tracks is. */
static int end_memory(void *arg, const struct pnx_cancel *cancel) {
    int rc = resource_end(*(void **)arg, cancel);
    free(arg);
    return rc;
}

static void track_memory(void *state, unsigned index, uint64_t n) {
    struct resource *own = (struct resource *)state + index;
    for (uint64_t i = 0; i < n; i++) {
        PNX_AUTO_GUARD guard = {0};
        void **memory = malloc(RESOURCE_ROW);
        if (!memory)
            abort();
        *memory = own;
        if (pnx_guard_arm(&guard, end_memory, memory) ||
                pnx_guard_track(
                        &guard, NULL, PNX_RESOURCE(.type = "memory", .bytes = RESOURCE_ROW), NULL))
            abort();
        RESOURCE_USE();
    }
}

/* An environment that counts what is taken through it, for one thread. */
struct counting {
    struct pnx_env env;
    uint64_t bytes;
};

static void *count_alloc(void *ctx, size_t size, size_t align) {
    struct counting *counting = ctx;
    size_t room = (size + align - 1) / align * align;
    counting->bytes += size;
    return aligned_alloc(align, room);
}

static void count_free(void *ctx, void *p, size_t size) {
    struct counting *counting = ctx;
    counting->bytes -= size;
    free(p);
}

/*
 * Prints the bytes that a row takes, over what an empty registry does: when RESOURCE_ROWS or a few more fill all the
 * memory that was taken for rows, then when memory has just been taken for one row more, and with RESOURCE_ROWS.
 */
static void track_fields(void *state, FILE *out) {
    struct counting counting = {.env = {.size = sizeof(struct pnx_env),
                                        .ctx = &counting,
                                        .alloc = count_alloc,
                                        .free = count_free}};
    struct pnx_registry *registry;
    (void)state;
    if (pnx_registry_create(PNX_REGISTRY_OPTS(.env = &counting.env), NULL, &registry))
        abort();
    uint64_t empty = counting.bytes, bytes = 0, before;
    double with_a_million = 0;
    uint32_t rows = 0;
    do {
        pnx_resource_id id;
        before = counting.bytes;
        if (pnx_registry_add(
                    registry, PNX_RESOURCE(.type = "row", .cleanup = end_resource), NULL, &id))
            abort();
        bytes = counting.bytes;
        if (++rows == RESOURCE_ROWS)
            with_a_million = (double)(bytes - empty) / rows;
    } while (rows <= RESOURCE_ROWS || bytes == before);
    fprintf(out,
            ",\"bytes_per_row\":%.3f,\"most_bytes_per_row\":%.3f,\"million_bytes_per_row\":%.3f",
            (double)(before - empty) / (rows - 1), (double)(bytes - empty) / rows, with_a_million);
}

/* ---- resource/defer ---- */
static struct {
    struct pnx_executor *executor;
    unsigned threads;
    struct resource_worker worker;
} deferring;

static int hold_worker(void *arg, const struct pnx_cancel *cancel) {
    (void)cancel;
    resource_worker_hold(arg);
    return 0;
}
static int spin_worker(void *arg, const struct pnx_cancel *cancel) {
    (void)cancel;
    resource_worker_spin(arg);
    return 0;
}
static int worker_is_done(void *arg, const struct pnx_cancel *cancel) {
    (void)cancel;
    resource_worker_done(arg);
    return 0;
}

/* Drops a guard to the background. */
static void defer(pnx_cleanup_fn *fn, void *arg) {
    struct pnx_guard guard = {0};
    if (pnx_guard_arm(&guard, fn, arg) ||
            pnx_guard_defer(&guard, deferring.executor, NULL, NULL, NULL))
        abort();
}

static void wait_done(unsigned times) {
    for (unsigned i = 0; i < times; i++)
        sem_wait(&deferring.worker.done);
}

static void *defer_set_up(unsigned threads) {
    deferring.threads = threads;
    resource_worker_init(&deferring.worker);
    if (pnx_executor_create(NULL, NULL, &deferring.executor))
        return NULL;
    defer(worker_is_done, &deferring.worker);
    wait_done(1);
    return &deferring;
}

static void defer_begin(void *state) {
    (void)state;
    defer(hold_worker, &deferring.worker);
    sem_wait(&deferring.worker.held);
}

static void defer_work(void *state, unsigned index, uint64_t n) {
    (void)state;
    (void)index;
    for (uint64_t i = 0; i < n; i++)
        defer(end_resource, &resource_own[BENCH_MAX_THREADS - 1]);
}

static void defer_end(void *state) {
    (void)state;
    sem_post(&deferring.worker.go);
    defer(worker_is_done, &deferring.worker);
    wait_done(1);
}

static void defer_begin_flow(void *state) {
    (void)state;
    __atomic_store_n(&deferring.worker.flow, 0, __ATOMIC_RELAXED);
    defer(spin_worker, &deferring.worker);
    sem_wait(&deferring.worker.held);
}

static void defer_work_flow(void *state, unsigned index, uint64_t n) {
    __atomic_store_n(&deferring.worker.flow, 1, __ATOMIC_RELEASE);
    defer_work(state, index, n);
}

static void defer_end_flow(void *state) {
    (void)state;
    defer(worker_is_done, &deferring.worker);
    wait_done(1);
}

static void defer_begin_asleep(void *state) {
    (void)state;
    resource_worker_wait_asleep(&deferring.worker);
}

static void defer_work_asleep(void *state, unsigned index, uint64_t n) {
    (void)state;
    (void)index;
    for (uint64_t i = 0; i < n; i++)
        defer(worker_is_done, &deferring.worker);
}

static void defer_end_asleep(void *state) {
    (void)state;
    wait_done(deferring.threads);
}

/* ---- resource/enumerate ---- */
static struct resource_registrar registrar;

static void register_one(void *ctx) {
    pnx_resource_id id;
    if (pnx_registry_add(ctx, PNX_RESOURCE(.type = "other", .cleanup = end_resource), NULL, &id) ||
            pnx_registry_remove(ctx, id))
        abort();
}

static void *enumerate_set_up(unsigned threads) {
    struct pnx_registry *registry = pnx_registry_default();
    (void)threads;
    for (uint32_t i = 0; i < RESOURCE_ROWS; i++) {
        pnx_resource_id id;
        if (pnx_registry_add(registry,
                    PNX_RESOURCE(.type = "row", .cleanup = end_resource, .bytes = 1), NULL, &id))
            return NULL;
    }
    registrar = (struct resource_registrar){.cycle = register_one, .ctx = registry};
    resource_registrar_start(&registrar);
    return registry;
}

static void enumerate_enter_thread(void *state, unsigned index) {
    (void)state;
    if (index == 0)
        resource_registrar_mark(&registrar);
}

static int sum_up(void *ctx, const struct pnx_resource_info *info) {
    uint64_t *bytes = ctx;
    *bytes += info->bytes;
    return 0;
}

static void enumerate_work(void *state, unsigned index, uint64_t n) {
    uint64_t bytes = 0;
    (void)index;
    if (pnx_registry_query(state, NULL, sum_up, &bytes) || bytes != n)
        abort();
}

static void enumerate_fields(void *state, FILE *out) {
    (void)state;
    resource_registrar_fields(&registrar, out);
}

/* Rows without a name are for patinox and patinox-so alike. */
static const struct bench_row rows[] = {
        {"resource/guard-cycle", {.set_up = guard_set_up, .work = guard_work}},
        {"resource/track-cycle",
                {.name = "patinox-memory", .set_up = track_set_up, .work = track_memory}},
        {"resource/track-cycle",
                {.set_up = track_set_up, .work = track_work, .fields = track_fields}},
        {"resource/defer", {.name = "patinox-flow",
                                   .set_up = defer_set_up,
                                   .work = defer_work_flow,
                                   .begin_round = defer_begin_flow,
                                   .end_round = defer_end_flow,
                                   .batch = RESOURCE_BATCH}},
        {"resource/defer", {.name = "patinox-asleep",
                                   .set_up = defer_set_up,
                                   .work = defer_work_asleep,
                                   .begin_round = defer_begin_asleep,
                                   .end_round = defer_end_asleep,
                                   .batch = 1}},
        {"resource/defer", {.set_up = defer_set_up,
                                   .work = defer_work,
                                   .begin_round = defer_begin,
                                   .end_round = defer_end,
                                   .batch = RESOURCE_BATCH}},
        {"resource/enumerate", {.set_up = enumerate_set_up,
                                       .work = enumerate_work,
                                       .enter_thread = enumerate_enter_thread,
                                       .fields = enumerate_fields,
                                       .batch = RESOURCE_ROWS}},
};

int main(int argc, char **argv) {
    struct bench_args args = bench_parse(argc, argv);
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        const char *name = rows[i].impl.name;
        if (strcmp(rows[i].case_name, args.case_name) != 0 ||
                (name && strcmp(name, args.impl) != 0))
            continue;
        struct bench_impl impl = rows[i].impl;
        impl.name = args.impl;
        impl.version = pnx_version();
        return impl.begin_round ? bench_rounds(&args, &impl) : bench_cycle(&args, &impl);
    }
    printf("{\"missing\":\"this program does not measure it\"}\n");
    return 0;
}
