/* SPDX-License-Identifier: Apache-2.0 */
/* sim_print.c - results as a table, and as JSON. */
#include "sim.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

void sim_number(uint64_t number, char *text, size_t room) {
    char digits[24];
    int n = snprintf(digits, sizeof(digits), "%" PRIu64, number);
    size_t at = 0;
    for (int i = 0; i < n && at + 2 < room; i++) {
        if (i > 0 && (n - i) % 3 == 0)
            text[at++] = ',';
        text[at++] = digits[i];
    }
    text[at] = 0;
}

void sim_size_text(uint64_t size, bool bytes, char *text, size_t room) {
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    double value = (double)size;
    size_t unit = 0;
    if (!bytes) {
        sim_number(size, text, room);
        return;
    }
    for (; value >= 1024 && unit + 1 < sizeof(units) / sizeof(units[0]); unit++)
        value /= 1024;
    snprintf(text, room, "%.*f %s", value < 100 && value != (double)(uint64_t)value ? 1 : 0, value,
            units[unit]);
}

/* The cells of one trace: hit ratios, or those of bytes.  pad stands where a bound has its star. */
static void print_block(const struct sim_options *options, const struct sim_cell *cells, bool bytes,
        const char *pad) {
    printf("%-16s", bytes ? "byte hit ratio %" : "hit ratio %");
    for (uint32_t s = 0; s < options->size_count; s++) {
        char text[32];
        sim_size_text(cells[s].size, cells[s].bytes, text, sizeof(text));
        printf("%s %12s", s > 0 ? pad : "", text);
    }
    putchar('\n');
    for (uint32_t p = 0; p < options->policy_count; p++) {
        const struct sim_cell *row = cells + (size_t)p * options->size_count;
        printf("%-16s", row->policy);
        for (uint32_t s = 0; s < options->size_count; s++)
            printf(" %12.2f%s",
                    100 * (bytes ? sim_ratio(row[s].bytes_hit, row[s].bytes_requested)
                                 : sim_ratio(row[s].hits, row[s].requests)),
                    row[s].bound                  ? "*"
                    : s + 1 < options->size_count ? pad
                                                  : "");
        putchar('\n');
    }
}

void sim_print_table(const struct sim_options *options, const struct sim_results *results) {
    size_t each = (size_t)options->policy_count * options->size_count;
    bool bound = false;
    for (size_t at = 0; at < results->count; at += each) {
        const struct sim_cell *cells = results->cells + at;
        char requests[32];
        bool sized = false;
        for (size_t i = 0; i < each; i++) {
            sized = sized || cells[i].bytes_requested != cells[i].requests;
            bound = bound || cells[i].bound;
        }
        sim_number(cells->requests, requests, sizeof(requests));
        printf("%s%s: %s requests\n", at > 0 ? "\n" : "",
                strcmp(cells->trace, "-") == 0 ? "standard input" : cells->trace, requests);
        print_block(options, cells, false, bound ? " " : "");
        if (sized)
            print_block(options, cells, true, bound ? " " : "");
    }
    if (bound)
        puts("\n* not what something reaches, but a bound that nothing can be above (PFOO-L)");
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
    char *text = rc == 0 ? json_dumps(array, JSON_INDENT(2) | JSON_REAL_PRECISION(9)) : NULL;
    json_decref(array);
    if (!text)
        return fail(failure, "out of memory, or the name of a trace is not UTF-8");
    puts(text);
    free(text);
    return 0;
}
