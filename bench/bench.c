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

static double now_s(void) {
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
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
    if (!args.case_name || !args.impl || args.threads < 1 || args.threads > 1024) {
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
    run->impl->work(run->state, run->index, 10 * BATCH);
    pthread_barrier_wait(run->barrier);
    run->began = now_s();
    while (!__atomic_load_n(run->stop, __ATOMIC_RELAXED)) {
        run->impl->work(run->state, run->index, BATCH);
        run->operations += BATCH;
    }
    run->ended = now_s();
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
        runs[i] = (struct run){impl, state, &barrier, &stop, i, pin, 0, 0, 0};
        if (pthread_create(&threads[i], NULL, thread_main, &runs[i]) != 0)
            return 1;
    }
    pthread_barrier_wait(&barrier);
    struct timespec span = {0, args->quick ? 150000000 : 500000000};
    nanosleep(&span, NULL);
    __atomic_store_n(&stop, 1, __ATOMIC_RELAXED);
    double began = 0, ended = 0;
    uint64_t operations = 0;
    for (unsigned i = 0; i < n; i++) {
        pthread_join(threads[i], NULL);
        began = i == 0 || runs[i].began < began ? runs[i].began : began;
        ended = runs[i].ended > ended ? runs[i].ended : ended;
        operations += runs[i].operations;
    }
    impl->tear_down(state);
    printf("{\"version\":\"%s\",\"ns_per_op\":%.2f,\"operations\":%llu}\n", impl->version,
            (ended - began) * 1e9 * n / (double)operations, (unsigned long long)operations);
    free(runs);
    free(threads);
    return 0;
}
