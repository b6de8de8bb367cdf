/* SPDX-License-Identifier: Apache-2.0 */
/* main.c - the command patinox: finds the subcommand. */
#include "sim.h"

#include <patinox/base.h>

#include <stdio.h>
#include <string.h>

static const char usage[] =
        "usage: patinox COMMAND [ARGUMENT...]\n"
        "\n"
        "commands:\n"
        "  sim   replays traces of cache requests against policies and sizes\n"
        "\n"
        "patinox COMMAND --help says more; patinox --version prints the version.\n";

int main(int argc, char **argv) {
    if (argc < 2) {
        fputs(usage, stderr);
        return 2;
    }
    if (strcmp(argv[1], "sim") == 0)
        return sim_main(argc - 1, argv + 1);
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0) {
        fputs(usage, stdout);
        return 0;
    }
    if (strcmp(argv[1], "--version") == 0) {
        printf("patinox %s\n", pnx_version());
        return 0;
    }
    fprintf(stderr, "patinox: there is no command \"%s\"; patinox --help lists them\n", argv[1]);
    return 2;
}
