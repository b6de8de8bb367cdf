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

#define BATCH       256   /* operations between two looks at the stop flag */
#define ROUNDS_KEPT 65536 /* of each thread */

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
        } else if (i + 1 < argc && strcmp(argv[i], "--count") == 0) {
            args.count = strtoull(argv[++i], NULL, 10);
        } else {
            fprintf(stderr, "%s: cannot use \"%s\"\n", argv[0], argv[i]);
            exit(2);
        }
    }
    if (!args.case_name || !args.impl || args.threads < 1 || args.threads > BENCH_MAX_THREADS) {
        fprintf(stderr, "usage: %s --case NAME --impl NAME --threads N [--quick] [--count N]\n",
                argv[0]);
        exit(2);
    }
    return args;
}

/* What all threads of a run share. */
struct group {
    const struct bench_impl *impl;
    void *state;
    unsigned n;
    uint64_t batch;
    pthread_barrier_t barrier;
    int stop;     /* atomic; a round's is written by thread 0 between two gates */
    uint64_t out; /* atomic: passages of the gate that have begun */
    double limit_s;
};

struct run {
    struct group *group;
    unsigned index;
    bool pin;
    double began;
    double ended;
    double cpu;
    uint64_t operations;
    uint32_t n_rounds; /* that were measured; the time of each of the first ROUNDS_KEPT */
    double *round;
};

void bench_pin(unsigned cpu) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    sched_setaffinity(0, sizeof(set), &set); /* best effort: a container may forbid it */
}

bool bench_pins(unsigned threads) {
    return threads <= (unsigned)sysconf(_SC_NPROCESSORS_ONLN);
}

static void *cycle_main(void *arg) {
    struct run *run = arg;
    struct group *group = run->group;
    const struct bench_impl *impl = group->impl;
    if (run->pin)
        bench_pin(run->index);
    if (impl->enter_thread)
        impl->enter_thread(group->state, run->index);
    impl->work(group->state, run->index, impl->batch ? impl->batch : 10 * group->batch);
    pthread_barrier_wait(&group->barrier);
    double cpu = now_s(CLOCK_THREAD_CPUTIME_ID);
    run->began = now_s(CLOCK_MONOTONIC);
    while (!__atomic_load_n(&group->stop, __ATOMIC_RELAXED)) {
        impl->work(group->state, run->index, group->batch);
        run->operations += group->batch;
    }
    run->ended = now_s(CLOCK_MONOTONIC);
    run->cpu = now_s(CLOCK_THREAD_CPUTIME_ID) - cpu;
    if (impl->leave_thread)
        impl->leave_thread(group->state, run->index);
    return NULL;
}

/* Lets the threads through when all have come, without putting one to sleep that would have to be woken. */
static void gate(struct group *group) {
    uint64_t turn = __atomic_fetch_add(&group->out, 1, __ATOMIC_ACQ_REL) / group->n;
    while (__atomic_load_n(&group->out, __ATOMIC_ACQUIRE) / group->n == turn) {
        if (group->n > 2)
            sched_yield();
    }
}

static void *rounds_main(void *arg) {
    struct run *run = arg;
    struct group *group = run->group;
    const struct bench_impl *impl = group->impl;
    bool leads = run->index == 0;
    if (run->pin)
        bench_pin(run->index);
    if (impl->enter_thread)
        impl->enter_thread(group->state, run->index);
    pthread_barrier_wait(&group->barrier);
    double start = now_s(CLOCK_MONOTONIC);
    for (uint64_t round = 0; !__atomic_load_n(&group->stop, __ATOMIC_RELAXED); round++) {
        if (leads)
            impl->begin_round(group->state);
        gate(group);
        double cpu = now_s(CLOCK_THREAD_CPUTIME_ID);
        double began = now_s(CLOCK_MONOTONIC);
        impl->work(group->state, run->index, group->batch);
        double ended = now_s(CLOCK_MONOTONIC);
        cpu = now_s(CLOCK_THREAD_CPUTIME_ID) - cpu;
        if (round >= 4) { /* warm by now */
            run->ended += ended - began;
            run->cpu += cpu;
            run->operations += group->batch;
            if (run->n_rounds < ROUNDS_KEPT)
                run->round[run->n_rounds++] = ended - began;
        }
        gate(group);
        if (leads) {
            impl->end_round(group->state);
            __atomic_store_n(
                    &group->stop, round > 8 && ended - start > group->limit_s, __ATOMIC_RELAXED);
        }
        gate(group);
    }
    if (impl->leave_thread)
        impl->leave_thread(group->state, run->index);
    return NULL;
}

static int by_size(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* The median of an operation over the rounds of all threads. */
static double median_round_s(const struct run *runs, unsigned n, uint64_t batch) {
    size_t all = 0;
    for (unsigned i = 0; i < n; i++)
        all += runs[i].n_rounds;
    double *merged = malloc((all + 1) * sizeof(*merged));
    if (!merged || all == 0)
        return 0;
    all = 0;
    for (unsigned i = 0; i < n; i++) {
        memcpy(merged + all, runs[i].round, runs[i].n_rounds * sizeof(*merged));
        all += runs[i].n_rounds;
    }
    qsort(merged, all, sizeof(*merged), by_size);
    double median = merged[all / 2] / (double)batch;
    free(merged);
    return median;
}

static int count_only(const struct bench_args *args, const struct bench_impl *impl) {
    void *state = impl->set_up(1);
    if (!state)
        return 1;
    if (impl->enter_thread)
        impl->enter_thread(state, 0);
    impl->work(state, 0, args->count);
    _exit(0);
}

/* Starts the threads, gathers what they did, and prints it. */
static int run_threads(const struct bench_args *args, const struct bench_impl *impl,
        void *(*thread_main)(void *arg), bool rounds) {
    if (args->count)
        return count_only(args, impl);
    unsigned n = args->threads;
    struct run *runs = calloc(n, sizeof(*runs));
    pthread_t *threads = calloc(n, sizeof(*threads));
    double limit_s = args->quick ? 0.15 : 0.5;
    struct group group = {.impl = impl,
            .state = impl->set_up(n),
            .n = n,
            .batch = impl->batch ? impl->batch : BATCH,
            .limit_s = limit_s};
    if (!runs || !threads || !group.state) {
        fprintf(stderr, "%s: set-up failed\n", impl->name);
        return 1;
    }
    pthread_barrier_init(&group.barrier, NULL, n + 1);
    bool pin = bench_pins(n);
    for (unsigned i = 0; i < n; i++) {
        runs[i] = (struct run){.group = &group, .index = i, .pin = pin};
        if (rounds && !(runs[i].round = malloc(ROUNDS_KEPT * sizeof(double))))
            return 1;
        if (pthread_create(&threads[i], NULL, thread_main, &runs[i]) != 0)
            return 1;
    }
    pthread_barrier_wait(&group.barrier);
    if (!rounds) {
        struct timespec span = {0, (long)(limit_s * 1e9)};
        nanosleep(&span, NULL);
        __atomic_store_n(&group.stop, 1, __ATOMIC_RELAXED);
    }
    double began = 0, ended = 0, cpu = 0, sum = 0;
    uint64_t operations = 0;
    for (unsigned i = 0; i < n; i++) {
        pthread_join(threads[i], NULL);
        began = i == 0 || runs[i].began < began ? runs[i].began : began;
        ended = runs[i].ended > ended ? runs[i].ended : ended;
        sum += runs[i].ended;
        operations += runs[i].operations;
        cpu += runs[i].cpu;
    }
    double busy = rounds ? sum : (ended - began) * n; /* time of all threads together */
    printf("{\"version\":\"%s\",\"ns_per_op\":%.3f,\"cpu_ns_per_op\":%.3f,\"operations\":%llu",
            impl->version, busy * 1e9 / (double)operations, cpu * 1e9 / (double)operations,
            (unsigned long long)operations);
    if (rounds)
        printf(",\"op_p50_ns\":%.3f", median_round_s(runs, n, group.batch) * 1e9);
    if (impl->fields)
        impl->fields(group.state, stdout);
    printf("}\n");
    fflush(stdout);
    if (!impl->tear_down)
        _exit(0); /* nor destructors, nor whatever waits in them */
    impl->tear_down(group.state);
    for (unsigned i = 0; i < n; i++)
        free(runs[i].round);
    free(runs);
    free(threads);
    return 0;
}

int bench_cycle(const struct bench_args *args, const struct bench_impl *impl) {
    return run_threads(args, impl, cycle_main, false);
}

int bench_rounds(const struct bench_args *args, const struct bench_impl *impl) {
    return run_threads(args, impl, rounds_main, true);
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

double bench_resident_bytes(void) {
    return rollup_bytes("Rss:");
}

int bench_memory(const struct bench_args *args, const struct bench_impl *impl, uint64_t entries) {
    double resident = bench_resident_bytes(), huge = rollup_bytes("AnonHugePages:");
    void *state = impl->set_up(args->threads);
    if (!state) {
        fprintf(stderr, "%s: set-up failed\n", impl->name);
        return 1;
    }
    resident = bench_resident_bytes() - resident;
    huge = rollup_bytes("AnonHugePages:") - huge;
    printf("{\"version\":\"%s\",\"bytes_per_entry\":%.2f,\"huge_pages_per_entry\":%.2f}\n",
            impl->version, resident / (double)entries, huge / (double)entries);
    fflush(stdout);
    _exit(0);
}
