/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bench.h - what every benchmark program shares: threads that start together, pinned, and one line of JSON.
 *
 * A program is started by bench/run as  PROGRAM --case NAME --impl NAME --threads N [--quick]  and prints the
 * measured fields of one repetition as one JSON object.  With --count N it does N operations in one thread and prints
 * nothing: two such runs under an instruction counter tell what one operation takes.
 */
#ifndef PNX_BENCH_H
#define PNX_BENCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

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
    /* Prints further fields, each with a comma before it: ,"name":value.  Called before tear_down; may be NULL. */
    void (*fields)(void *state, FILE *out);
    /* For bench_rounds(): what goes before and after the work of all threads, and is not measured. */
    void (*begin_round)(void *state);
    void (*end_round)(void *state);
    uint64_t batch; /* n of each call of work; 0: 256 */
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
    uint64_t count; /* with --count: do so many operations in one thread, measure nothing */
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
 * Does the same for operations that something else must be made ready for: impl->begin_round(), then one batch
 * of work in each thread, then impl->end_round(), again and again.  Only the batches are measured, in each thread by
 * its own clock; "op_p50_ns" is the median over them.
 */
int bench_rounds(const struct bench_args *args, const struct bench_impl *impl);

/*
 * Prints {"version":..,"bytes_per_entry":..,"huge_pages_per_entry":..}: what the process holds resident after
 * impl->set_up() and did not before it, by /proc/self/smaps_rollup, over the entries that it makes; the second
 * figure is the part of it that lies in huge pages.
 */
int bench_memory(const struct bench_args *args, const struct bench_impl *impl, uint64_t entries);

/* Keeps the calling thread on a CPU, if the system lets it. */
void bench_pin(unsigned cpu);

/* Whether so many threads are pinned: where there is a CPU for each. */
bool bench_pins(unsigned threads);

/* The resident bytes of the process; exact. */
double bench_resident_bytes(void);

/* Keeps the compiler from leaving out what makes value. */
#define BENCH_USE(value) __asm__ volatile("" : : "r"(value) :)

#endif
