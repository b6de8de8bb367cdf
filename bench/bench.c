/* SPDX-License-Identifier: Apache-2.0 */
/* bench.c - timing loops of the benchmark programs. */
#include "bench.h"

#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define BATCH 256 /* operations between two looks at the stop flag */

static double now_s(clockid_t clock) {
    struct timespec ts;
    clock_gettime(clock, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

struct bench_args bench_parse(int argc, char **argv) {
    struct bench_args args = {.threads = 1};
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--quick") == 0) {
            args.quick = true;
        } else if (i + 1 < argc && strcmp(argv[i], "--case") == 0) {
            args.case_name = argv[++i];
        } else if (i + 1 < argc && strcmp(argv[i], "--impl") == 0) {
            args.impl = argv[++i];
        } else if (i + 1 < argc && strcmp(argv[i], "--threads") == 0) {
            args.threads = (unsigned)strtoul(argv[++i], NULL, 10);
        } else {
            fprintf(stderr, "%s: cannot use \"%s\"\n", argv[0], argv[i]);
            exit(2);
        }
    }
    if (!args.case_name || !args.impl || args.threads < 1 || args.threads > BENCH_MAX_THREADS) {
        fprintf(stderr, "usage: %s --case NAME --impl NAME --threads N [--quick]\n", argv[0]);
        exit(2);
    }
    return args;
}

struct run {
    const struct bench_impl *impl;
    void *state;
    pthread_barrier_t *barrier;
    volatile int *stop;
    unsigned index;
    bool pin;
    double began;
    double ended;
    double cpu;
    uint64_t operations;
};

static void *thread_main(void *arg) {
    struct run *run = arg;
    if (run->pin) {
        cpu_set_t set;
        CPU_ZERO(&set);
        CPU_SET(run->index, &set);
        sched_setaffinity(0, sizeof(set), &set); /* best effort: a container may forbid it */
    }
    if (run->impl->enter_thread)
        run->impl->enter_thread(run->state, run->index);
    run->impl->work(run->state, run->index, 10 * BATCH);
    pthread_barrier_wait(run->barrier);
    double cpu = now_s(CLOCK_THREAD_CPUTIME_ID);
    run->began = now_s(CLOCK_MONOTONIC);
    while (!__atomic_load_n(run->stop, __ATOMIC_RELAXED)) {
        run->impl->work(run->state, run->index, BATCH);
        run->operations += BATCH;
    }
    run->ended = now_s(CLOCK_MONOTONIC);
    run->cpu = now_s(CLOCK_THREAD_CPUTIME_ID) - cpu;
    if (run->impl->leave_thread)
        run->impl->leave_thread(run->state, run->index);
    return NULL;
}

int bench_cycle(const struct bench_args *args, const struct bench_impl *impl) {
    unsigned n = args->threads;
    struct run *runs = calloc(n, sizeof(*runs));
    pthread_t *threads = calloc(n, sizeof(*threads));
    void *state = impl->set_up(n);
    if (!runs || !threads || !state) {
        fprintf(stderr, "%s: set-up failed\n", impl->name);
        return 1;
    }
    pthread_barrier_t barrier;
    pthread_barrier_init(&barrier, NULL, n + 1);
    int stop = 0;
    bool pin = n <= (unsigned)sysconf(_SC_NPROCESSORS_ONLN);
    for (unsigned i = 0; i < n; i++) {
        runs[i] = (struct run){.impl = impl,
                .state = state,
                .barrier = &barrier,
                .stop = &stop,
                .index = i,
                .pin = pin};
        if (pthread_create(&threads[i], NULL, thread_main, &runs[i]) != 0)
            return 1;
    }
    pthread_barrier_wait(&barrier);
    struct timespec span = {0, args->quick ? 150000000 : 500000000};
    nanosleep(&span, NULL);
    __atomic_store_n(&stop, 1, __ATOMIC_RELAXED);
    double began = 0, ended = 0, cpu = 0;
    uint64_t operations = 0;
    for (unsigned i = 0; i < n; i++) {
        pthread_join(threads[i], NULL);
        began = i == 0 || runs[i].began < began ? runs[i].began : began;
        ended = runs[i].ended > ended ? runs[i].ended : ended;
        operations += runs[i].operations;
        cpu += runs[i].cpu;
    }
    if (impl->tear_down)
        impl->tear_down(state);
    printf("{\"version\":\"%s\",\"ns_per_op\":%.3f,\"cpu_ns_per_op\":%.3f,\"operations\":%llu}\n",
            impl->version, (ended - began) * 1e9 * n / (double)operations,
            cpu * 1e9 / (double)operations, (unsigned long long)operations);
    fflush(stdout);
    if (!impl->tear_down)
        _exit(0); /* nor destructors, nor whatever waits in them */
    free(runs);
    free(threads);
    return 0;
}

/* A field of /proc/self/smaps_rollup in bytes; exact, unlike statm, which sums up per-CPU counters late. */
static double rollup_bytes(const char *field) {
    FILE *file = fopen("/proc/self/smaps_rollup", "r");
    char line[256];
    unsigned long long kib = 0;
    while (file && fgets(line, sizeof(line), file)) {
        if (strncmp(line, field, strlen(field)) == 0)
            sscanf(line + strlen(field), "%llu", &kib);
    }
    if (file)
        fclose(file);
    return (double)kib * 1024;
}

int bench_memory(const struct bench_args *args, const struct bench_impl *impl, uint64_t entries) {
    double resident = rollup_bytes("Rss:"), huge = rollup_bytes("AnonHugePages:");
    void *state = impl->set_up(args->threads);
    if (!state) {
        fprintf(stderr, "%s: set-up failed\n", impl->name);
        return 1;
    }
    resident = rollup_bytes("Rss:") - resident;
    huge = rollup_bytes("AnonHugePages:") - huge;
    printf("{\"version\":\"%s\",\"bytes_per_entry\":%.2f,\"huge_pages_per_entry\":%.2f}\n",
            impl->version, resident / (double)entries, huge / (double)entries);
    fflush(stdout);
    _exit(0);
}
