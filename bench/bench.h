/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bench.h - what every benchmark program shares: threads that start together, pinned, and one line of JSON.
 *
 * A program is started by bench/run as  PROGRAM --case NAME --impl NAME --threads N [--quick]  and prints the
 * measured fields of one repetition as one JSON object.
 */
#ifndef PNX_BENCH_H
#define PNX_BENCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define BENCH_MAX_THREADS 1024

struct bench_impl {
    const char *name;
    const char *version;
    void *(*set_up)(unsigned threads);
    /* Does n operations in thread index; called many times with a small n. */
    void (*work)(void *state, unsigned index, uint64_t n);
    void (*tear_down)(void *state); /* NULL: the process ends without it */
    /* Called in each thread before its first work and after its last; may be NULL. */
    void (*enter_thread)(void *state, unsigned index);
    void (*leave_thread)(void *state, unsigned index);
};

/* One row of a program's table: an implementation, and the case that it is for. */
struct bench_row {
    const char *case_name;
    struct bench_impl impl;
};

struct bench_args {
    const char *case_name;
    const char *impl;
    unsigned threads;
    bool quick;
};

/* Parses the command line; ends the program with a message when it is wrong. */
struct bench_args bench_parse(int argc, char **argv);

/*
 * Runs impl for about 0.5 s (0.15 s when quick) after a warm-up, in args->threads threads pinned one to a CPU
 * when there are at most as many as CPUs, and prints
 * {"version":..,"ns_per_op":..,"cpu_ns_per_op":..,"operations":..}: wall time, and CPU time of the threads.
 */
int bench_cycle(const struct bench_args *args, const struct bench_impl *impl);

/*
 * Prints {"version":..,"bytes_per_entry":..,"huge_pages_per_entry":..}: what the process holds resident after
 * impl->set_up() and did not before it, by /proc/self/smaps_rollup, over the entries that it makes; the second
 * figure is the part of it that lies in huge pages.
 */
int bench_memory(const struct bench_args *args, const struct bench_impl *impl, uint64_t entries);

/* Keeps the compiler from leaving out what makes value. */
#define BENCH_USE(value) __asm__ volatile("" : : "r"(value) :)

#endif
