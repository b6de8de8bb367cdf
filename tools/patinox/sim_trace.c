/* SPDX-License-Identifier: Apache-2.0 */
/* sim_trace.c - one trace against all policies and sizes: how often it is read, and what runs in each pass. */
#include "belady.h"
#include "run.h"
#include "sim.h"
#include "source.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PASS_BYTES \
    (UINT64_C(1) \
            << 30)   /* runs of one pass take about so much at most, unless one alone takes more */
#define RUN_BYTES 64 /* a key, at most */

/* A run of a pass: one of the two. */
struct lane {
    struct run *run;
    struct belady *belady;
};

double sim_ratio(uint64_t part, uint64_t of) {
    return of > 0 ? (double)part / (double)of : 0;
}

static bool in_bytes(const struct sim_size *size) {
    return size->unit == SIM_BYTES || size->unit == SIM_PERCENT_BYTES;
}

static bool has_belady(const struct sim_options *options) {
    for (uint32_t i = 0; i < options->policy_count; i++) {
        if (!options->policies[i].policy)
            return true;
    }
    return false;
}

/* Whether all can be known beforehand: then one pass does. */
static bool needs_scan(const struct sim_options *options) {
    for (uint32_t i = 0; i < options->size_count; i++) {
        if (options->sizes[i].unit != SIM_ENTRIES)
            return true;
    }
    return has_belady(options);
}

static bool needs_future(const struct sim_options *options) {
    bool entries = false;
    for (uint32_t i = 0; i < options->size_count; i++)
        entries = entries || !in_bytes(&options->sizes[i]);
    return entries && has_belady(options);
}

static uint64_t capacity_of(const struct sim_size *size, const struct source *source) {
    double of = size->unit == SIM_PERCENT ? (double)source->key_count : (double)source->footprint;
    if (size->unit == SIM_ENTRIES || size->unit == SIM_BYTES)
        return size->count;
    double capacity = of * size->percent / 100;
    return capacity < 1 ? 1 : (uint64_t)capacity;
}

static struct sim_cell *add_cell(struct sim_results *results, struct failure *failure) {
    if (results->count == results->room) {
        size_t room = results->room ? results->room * 2 : 64;
        struct sim_cell *cells = realloc(results->cells, room * sizeof(*cells));
        if (!cells) {
            failure_set(failure, "out of memory");
            return NULL;
        }
        results->cells = cells;
        results->room = room;
    }
    struct sim_cell *cell = &results->cells[results->count++];
    memset(cell, 0, sizeof(*cell));
    return cell;
}

/* Adds the cells of this trace, still empty. */
static int plan(const struct sim_options *options, const struct source *source,
        struct sim_results *results, struct failure *failure) {
    for (uint32_t p = 0; p < options->policy_count; p++) {
        for (uint32_t s = 0; s < options->size_count; s++) {
            struct sim_cell *cell = add_cell(results, failure);
            if (!cell)
                return -1;
            cell->trace = source->path;
            cell->policy = options->policies[p].name;
            cell->bytes = in_bytes(&options->sizes[s]);
            cell->size = capacity_of(&options->sizes[s], source);
            cell->bound = cell->bytes && !options->policies[p].policy;
        }
    }
    return 0;
}

static int open_lane(const struct source *source, const struct sim_cell *cell, struct lane *lane,
        struct failure *failure) {
    enum pnx_cache_capacity_kind kind =
            cell->bytes ? PNX_CACHE_CAPACITY_BYTES : PNX_CACHE_CAPACITY_ENTRIES;
    uint32_t keys = source->scanned ? source->key_count : 0;
    const struct pnx_cache_policy *policy = pnx_cache_policy_find(cell->policy);
    if (!policy)
        return belady_create(cell->size, kind, keys, failure, &lane->belady);
    return run_create(policy, cell->size, kind, keys, failure, &lane->run);
}

static int feed(struct lane *lanes, size_t n, const struct source *source,
        const struct batch *batch, struct failure *failure) {
    for (size_t i = 0; i < n; i++) {
        if (lanes[i].belady)
            belady_requests(lanes[i].belady, batch->id, batch->distance, batch->size, batch->n);
        else if (run_requests(lanes[i].run, batch->id, source->sized ? batch->size : NULL, batch->n,
                         failure))
            return -1;
    }
    return 0;
}

static void take_results(struct lane *lane, struct sim_cell *cell) {
    struct run_results r = lane->belady ? belady_results(lane->belady) : run_results(lane->run);
    cell->requests = r.requests;
    cell->hits = r.hits;
    cell->bytes_requested = r.bytes;
    cell->bytes_hit = r.hit_bytes;
}

/* Replays the trace once, for n cells. */
static int pass(struct source *source, struct sim_cell *cells, size_t n, struct failure *failure) {
    if (n == 0)
        return 0;
    struct lane *lanes = calloc(n, sizeof(*lanes));
    const struct batch *batch = NULL;
    int rc = lanes ? source_begin(source, failure) : fail(failure, "out of memory");
    for (size_t i = 0; rc == 0 && i < n; i++)
        rc = open_lane(source, &cells[i], &lanes[i], failure);
    while (rc == 0) {
        rc = source_next(source, &batch, failure);
        if (rc || batch->n == 0)
            break;
        rc = feed(lanes, n, source, batch, failure);
    }
    for (size_t i = 0; lanes && i < n; i++) {
        if (rc == 0)
            take_results(&lanes[i], &cells[i]);
        run_release(&lanes[i].run);
        belady_release(&lanes[i].belady);
    }
    free(lanes);
    return rc;
}

/* How many cells, from the first on, one pass takes. */
static size_t pass_length(const struct source *source, const struct sim_cell *cells, size_t n) {
    uint64_t bytes = 0;
    for (size_t i = 0; i < n; i++) {
        uint64_t keys = source->scanned ? source->key_count : cells[i].size;
        bytes += keys > PASS_BYTES / RUN_BYTES ? PASS_BYTES : keys * RUN_BYTES;
        if (bytes > PASS_BYTES && i > 0)
            return i;
    }
    return n;
}

static void show_progress(void *ctx, const char *what, double part) {
    struct source *source = ctx;
    int percent = (int)(part * 100);
    static int shown = -1;
    if (percent == shown)
        return;
    shown = percent;
    fprintf(stderr, "\r%-14s [%-40.*s] %3d %% %.40s\033[K", what, percent * 40 / 100,
            "########################################", percent, source_name(source));
}

static int replay(const struct sim_options *options, struct source *source,
        struct sim_results *results, struct failure *failure) {
    bool standard = strcmp(source->path, "-") == 0;
    bool future = needs_future(options);
    if ((standard || needs_scan(options)) && source_scan(source, standard || future, failure))
        return -1;
    if (future && source_look_ahead(source, failure))
        return -1;
    size_t first = results->count;
    if (plan(options, source, results, failure))
        return -1;
    while (first < results->count) {
        size_t n = pass_length(source, &results->cells[first], results->count - first);
        if (pass(source, &results->cells[first], n, failure))
            return -1;
        first += n;
    }
    return 0;
}

int sim_trace(const struct sim_options *options, const char *path, struct sim_results *results,
        struct failure *failure) {
    struct source source;
    int rc = source_open(&source, path, &options->trace, failure);
    if (isatty(STDERR_FILENO))
        source.progress = (struct source_progress){show_progress, &source};
    for (uint32_t i = 0; i < options->size_count; i++)
        source.needs_sizes = source.needs_sizes || in_bytes(&options->sizes[i]);
    if (rc == 0)
        rc = replay(options, &source, results, failure);
    if (isatty(STDERR_FILENO))
        fputs("\r\033[K", stderr);
    source_close(&source);
    return rc;
}
