/* SPDX-License-Identifier: Apache-2.0 */
/* sim.c - see sim.h */
#include "sim.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Before hours of work: can the picture be written? */
static int check_plot(const char *file, struct failure *failure) {
    const char *slash = strrchr(file, '/');
    char folder[PATH_MAX];
    if (slash && (size_t)(slash - file) >= sizeof(folder))
        return fail(failure, "%s: %s", file, strerror(ENAMETOOLONG));
    snprintf(folder, sizeof(folder), "%.*s", slash ? (int)(slash - file + 1) : 1,
            slash ? file : ".");
    if (access(folder, W_OK | X_OK) != 0)
        return fail(failure, "%s: %s", file, strerror(errno));
    return 0;
}

static int run_all(
        const struct sim_options *options, struct sim_results *results, struct failure *failure) {
    if (options->plot && check_plot(options->plot, failure))
        return -1;
    for (uint32_t i = 0; i < options->trace_count; i++) {
        if (sim_trace(options, options->traces[i], results, failure))
            return -1;
    }
    if (options->plot && sim_plot(options, results, failure))
        return -1;
    if (options->json && sim_print_json(results, failure))
        return -1;
    if (!options->json)
        sim_print_table(options, results);
    if (fflush(stdout) != 0 || ferror(stdout))
        return fail(failure, "standard output: %s", strerror(errno));
    return 0;
}

int sim_main(int argc, char **argv) {
    struct failure failure = {""};
    struct sim_results results = {0};
    struct sim_options *options = malloc(sizeof(*options));
    if (!options)
        return 1;
    int status = 0;
    if (sim_options_read(options, argc, argv, &failure)) {
        fprintf(stderr, "patinox sim: %s; patinox sim --help says more\n", failure.text);
        status = 2;
    } else if (!options->done && run_all(options, &results, &failure)) {
        fprintf(stderr, "patinox sim: %s\n", failure.text);
        status = 1;
    }
    free(results.cells);
    free(options);
    return status;
}
