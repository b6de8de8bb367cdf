/* SPDX-License-Identifier: Apache-2.0 */
/* cli.c - see cli.h.  One table of options gives the parser and the help. */
#include "cli.h"

#include "request.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

enum option_kind { OPTION_TEXT, OPTION_NUMBER, OPTION_FLAG };

static const struct option {
    const char *name; /* "port": --port N or --port=N */
    const char *value;
    enum option_kind kind;
    size_t offset; /* of the field in struct cli */
    uint32_t min, max;
    const char *help;
} options[] = {
        /* clang-format off */
    {"port", "N", OPTION_NUMBER, offsetof(struct cli, port), 0, 65535,
            "port to serve on; 0 takes any free one (default " "8080" ")"},
    {"host", "ADDR", OPTION_TEXT, offsetof(struct cli, host), 0, 0,
            "address to serve on (default " CLI_HOST_DEFAULT ": this machine only)"},
    {"corpus", "DIR", OPTION_TEXT, offsetof(struct cli, corpus), 0, 0,
            "directory whose texts are indexed (default " CLI_CORPUS_DEFAULT ")"},
    {"data-dir", "DIR", OPTION_TEXT, offsetof(struct cli, data_dir), 0, 0,
            "where the index is kept (default $XDG_CACHE_HOME/patinox-lookup)"},
    {"config", "FILE", OPTION_TEXT, offsetof(struct cli, config), 0, 0,
            "settings in JSON, read again whenever the file changes"},
    {"connections", "N", OPTION_NUMBER, offsetof(struct cli, connections), 1, CLI_CONNECTIONS_MAX,
            "clients connected at once (default 1024)"},
    {"client-timeout", "SECONDS", OPTION_NUMBER, offsetof(struct cli, client_timeout_s), 1,
            CLI_CLIENT_TIMEOUT_MAX, "a client slower than this is dropped (default 15)"},
    {"drain", "SECONDS", OPTION_NUMBER, offsetof(struct cli, drain_s), 0, CLI_DRAIN_MAX,
            "how long a shutdown may take (default 10)"},
    {"bench-constant", "BYTES", OPTION_NUMBER, offsetof(struct cli, bench_constant), 1,
            CLI_BENCH_CONSTANT_MAX, "serve a constant body of so many bytes at /bench/constant"},
    {"version", NULL, OPTION_FLAG, offsetof(struct cli, version), 0, 0, "print the version"},
    {"help", NULL, OPTION_FLAG, offsetof(struct cli, help), 0, 0, "print this text"},
        /* clang-format on */
};
_Static_assert(CLI_PORT_DEFAULT == 8080u && CLI_CONNECTIONS_DEFAULT == 1024u &&
                       CLI_CLIENT_TIMEOUT_DEFAULT == 15u && CLI_DRAIN_DEFAULT == 10u,
        "the help text above names these defaults");

static int refuse(struct pnx_error *err, const char *format, ...) PNX_PRINTF(2, 3);
static int refuse(struct pnx_error *err, const char *format, ...) {
    va_list args;
    *err = (struct pnx_error){.code = -EINVAL, .phase = "options"};
    va_start(args, format);
    vsnprintf(err->message, sizeof(err->message), format, args);
    va_end(args);
    return -EINVAL;
}

static const struct option *find(const char *name, size_t size) {
    for (size_t i = 0; i < sizeof(options) / sizeof(options[0]); i++)
        if (strlen(options[i].name) == size && memcmp(options[i].name, name, size) == 0)
            return &options[i];
    return NULL;
}

static int set(
        const struct option *option, const char *value, struct cli *cli, struct pnx_error *err) {
    char *field = (char *)cli + option->offset;
    if (option->kind == OPTION_TEXT) {
        if (!*value)
            return refuse(err, "--%s: %s is empty", option->name, option->value);
        *(const char **)(void *)field = value;
        return 0;
    }
    uint64_t number;
    if (request_number(value, strlen(value), option->max, &number) != 0 || number < option->min)
        return refuse(err, "--%s: \"%.64s\" is not a whole number from %u to %u", option->name,
                value, option->min, option->max);
    *(uint32_t *)(void *)field = (uint32_t)number;
    return 0;
}

/* Handles argv[*i], which begins with a dash; moves *i past a value of its own. */
static int parse_one(int argc, char *const *argv, int *i, struct cli *cli, struct pnx_error *err) {
    const char *arg = argv[*i];
    if (strcmp(arg, "-h") == 0)
        arg = "--help";
    if (strncmp(arg, "--", 2) != 0)
        return refuse(err, "%.64s: unknown option; --help lists them", arg);
    const char *equals = strchr(arg, '=');
    size_t size = equals ? (size_t)(equals - arg) - 2 : strlen(arg) - 2;
    const struct option *option = find(arg + 2, size);
    if (!option)
        return refuse(err, "%.64s: unknown option; --help lists them", arg);
    if (option->kind == OPTION_FLAG) {
        if (equals)
            return refuse(err, "--%s takes no value", option->name);
        *((bool *)((char *)cli + option->offset)) = true;
        return 0;
    }
    if (equals)
        return set(option, equals + 1, cli, err);
    if (*i + 1 >= argc)
        return refuse(err, "--%s: %s is missing", option->name, option->value);
    return set(option, argv[++*i], cli, err);
}

static int default_data_dir(struct cli *cli, struct pnx_error *err) {
    const char *base = getenv("XDG_CACHE_HOME");
    const char *home = getenv("HOME");
    int n = -1;
    if (base && *base == '/')
        n = snprintf(cli->data_dir_buffer, sizeof(cli->data_dir_buffer), "%s/patinox-lookup", base);
    else if (home && *home == '/')
        n = snprintf(cli->data_dir_buffer, sizeof(cli->data_dir_buffer), "%s/.cache/patinox-lookup",
                home);
    if (n < 0 || (size_t)n >= sizeof(cli->data_dir_buffer)) {
        refuse(err, "no place for the index: give --data-dir, or set XDG_CACHE_HOME or HOME to "
                    "an absolute path");
        err->code = -ENOENT;
        return -ENOENT;
    }
    cli->data_dir = cli->data_dir_buffer;
    return 0;
}

int cli_parse(int argc, char *const *argv, struct pnx_error *err, struct cli *ret_cli) {
    *ret_cli = (struct cli){
            .host = CLI_HOST_DEFAULT,
            .corpus = CLI_CORPUS_DEFAULT,
            .port = CLI_PORT_DEFAULT,
            .client_timeout_s = CLI_CLIENT_TIMEOUT_DEFAULT,
            .connections = CLI_CONNECTIONS_DEFAULT,
            .drain_s = CLI_DRAIN_DEFAULT,
    };
    for (int i = 1; i < argc; i++) {
        if (argv[i][0] != '-')
            return refuse(err, "\"%.64s\": lookup takes options only; --help lists them", argv[i]);
        int r = parse_one(argc, argv, &i, ret_cli, err);
        if (r < 0)
            return r;
    }
    if (ret_cli->data_dir || ret_cli->help || ret_cli->version)
        return 0;
    return default_data_dir(ret_cli, err);
}

void cli_print_help(FILE *out) {
    fprintf(out, "Usage: lookup [OPTION]...\n"
                 "Full-text search over the documents of this machine, served over HTTP.\n\n");
    for (size_t i = 0; i < sizeof(options) / sizeof(options[0]); i++) {
        char left[40];
        snprintf(left, sizeof(left), "--%s%s%s", options[i].name, options[i].value ? " " : "",
                options[i].value ? options[i].value : "");
        fprintf(out, "  %-24s %s\n", left, options[i].help);
    }
    fprintf(out, "\nA variable LOOKUP_... of the environment overrides the setting of that name.\n"
                 "SIGHUP reads the settings again, SIGUSR1 goes back to those before.\n"
                 "SIGTERM or SIGINT drains and prints a report; a second one ends at once.\n"
                 "Exit status: 0 when nothing leaked, 1 after a failure, 2 for a wrong option or\n"
                 "configuration file.\n");
}
