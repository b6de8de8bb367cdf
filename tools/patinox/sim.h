/* SPDX-License-Identifier: Apache-2.0 */
/* sim.h - patinox sim: replays traces of cache requests against policies and sizes. */
#ifndef PATINOX_SIM_H
#define PATINOX_SIM_H

#include "trace.h"

#include <patinox/cache_policy.h>

#define SIM_POLICIES_MAX 32
#define SIM_SIZES_MAX    256

enum sim_unit {
    SIM_ENTRIES,
    SIM_BYTES,
    SIM_PERCENT,       /* of the keys */
    SIM_PERCENT_BYTES, /* of their bytes */
};

struct sim_size {
    enum sim_unit unit;
    uint64_t count;
    double percent;
};

/* policy NULL: the offline optimum. */
struct sim_policy {
    const char *name;
    const struct pnx_cache_policy *policy;
};

struct sim_options {
    char **traces;
    uint32_t trace_count;
    uint32_t policy_count;
    uint32_t size_count;
    bool json;
    bool done; /* help or version has been printed */
    const char *plot;
    struct trace_options trace;
    struct sim_policy policies[SIM_POLICIES_MAX];
    struct sim_size sizes[SIM_SIZES_MAX];
};

/* One trace, one policy, one size. */
struct sim_cell {
    const char *trace;
    const char *policy;
    uint64_t size;
    bool bytes; /* size is in bytes */
    bool bound; /* a bound, not what something reaches */
    uint64_t requests;
    uint64_t hits;
    uint64_t bytes_requested;
    uint64_t bytes_hit;
};

struct sim_results {
    struct sim_cell *
            cells; /* by trace, then policy, then size, in the order in which they were asked for */
    size_t count;
    size_t room;
};

/* Reads the command line; -1 with a failure. */
int sim_options_read(struct sim_options *options, int argc, char **argv, struct failure *failure);
/* Replays one trace; adds to results.  -1 with a failure. */
int sim_trace(const struct sim_options *options, const char *path, struct sim_results *results,
        struct failure *failure);
double sim_ratio(uint64_t part, uint64_t of);
/* A number with commas between thousands; a size with its unit, when it is in bytes. */
void sim_number(uint64_t number, char *text, size_t room);
void sim_size_text(uint64_t size, bool bytes, char *text, size_t room);

void sim_print_table(const struct sim_options *options, const struct sim_results *results);
int sim_print_json(const struct sim_results *results, struct failure *failure);
int sim_plot(const struct sim_options *options, const struct sim_results *results,
        struct failure *failure);

/* The command; returns its exit status: 0, 1 after a failure, 2 for a wrong command line. */
int sim_main(int argc, char **argv);

#endif
