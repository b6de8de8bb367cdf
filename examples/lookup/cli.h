/* SPDX-License-Identifier: Apache-2.0 */
/* cli.h - the command line of lookup. */
#ifndef LOOKUP_CLI_H
#define LOOKUP_CLI_H

#include <patinox/base.h>
#include <patinox/error.h>

#include <stdio.h>

#define CLI_PORT_DEFAULT           8080u
#define CLI_HOST_DEFAULT           "127.0.0.1"
#define CLI_CORPUS_DEFAULT         "/usr/share/doc"
#define CLI_CLIENT_TIMEOUT_DEFAULT 15u /* seconds */
#define CLI_CLIENT_TIMEOUT_MAX     3600u
#define CLI_CONNECTIONS_DEFAULT    1024u
#define CLI_CONNECTIONS_MAX        65536u
#define CLI_DRAIN_DEFAULT          10u /* seconds */
#define CLI_DRAIN_MAX              3600u
#define CLI_BENCH_CONSTANT_MAX     (1u << 20)

/* What was asked for.  Strings point into argv, or into the buffer here. */
struct cli {
    const char *host;
    const char *corpus;
    const char *data_dir;
    const char *config; /* NULL: all settings are the defaults */
    uint32_t port;      /* 0: any free one */
    uint32_t client_timeout_s;
    uint32_t connections;
    uint32_t drain_s;
    uint32_t bench_constant; /* 0: off */
    bool help;
    bool version;
    char data_dir_buffer[4096];
};

/*
 * Reads the command line.  err->message is one line that names the option and what it wants.
 * -EINVAL (unknown option, missing or bad value), -ENOENT (no --data-dir, and neither XDG_CACHE_HOME nor
 * HOME says where one could be).
 */
PNX_NODISCARD int cli_parse(
        int argc, char *const *argv, struct pnx_error *err, struct cli *ret_cli);

void cli_print_help(FILE *out);

#endif
