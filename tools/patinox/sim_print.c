/* SPDX-License-Identifier: Apache-2.0 */
/* sim_print.c - results as a table, and as JSON. */
#include "sim.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include <jansson.h>

static void print_header(const struct sim_cell *first, const struct sim_cell *end, bool bytes) {
    printf("%-10s", bytes ? "bytes" : "entries");
    for (const struct sim_cell *cell = first;
            cell < end && strcmp(cell->policy, first->policy) == 0; cell++)
        printf(" %14" PRIu64, cell->size);
    putchar('\n');
}

void sim_print_table(const struct sim_options *options, const struct sim_results *results) {
    const struct sim_cell *end = results->cells + results->count;
    size_t each = (size_t)options->policy_count * options->size_count;
    for (const struct sim_cell *trace = results->cells; trace < end; trace += each) {
        printf("%s%s: %" PRIu64 " requests, hit ratio in %%\n", trace == results->cells ? "" : "\n",
                trace->trace, trace->requests);
        print_header(trace, trace + each, trace->bytes);
        for (const struct sim_cell *row = trace; row < trace + each; row += options->size_count) {
            printf("%-10s", row->policy);
            for (uint32_t s = 0; s < options->size_count; s++)
                printf(" %14.2f", 100 * sim_ratio(row[s].hits, row[s].requests));
            putchar('\n');
        }
    }
}

int sim_print_json(const struct sim_results *results, struct failure *failure) {
    json_t *array = json_array();
    int rc = array ? 0 : -1;
    for (size_t i = 0; rc == 0 && i < results->count; i++) {
        const struct sim_cell *cell = &results->cells[i];
        json_t *object = json_pack("{s:s, s:s, s:I, s:I, s:I, s:f, s:f}", "trace", cell->trace,
                "policy", cell->policy, "size", (json_int_t)cell->size, "requests",
                (json_int_t)cell->requests, "hits", (json_int_t)cell->hits, "hit_ratio",
                sim_ratio(cell->hits, cell->requests), "byte_hit_ratio",
                sim_ratio(cell->bytes_hit, cell->bytes_requested));
        rc = object ? json_array_append_new(array, object) : -1;
    }
    if (rc == 0)
        rc = json_dumpf(array, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(9));
    if (rc == 0)
        putchar('\n');
    json_decref(array);
    return rc == 0 ? 0 : fail(failure, "out of memory, or the name of a trace is not UTF-8");
}
