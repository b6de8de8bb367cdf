/* SPDX-License-Identifier: Apache-2.0 */
/* sim_options.c - the command line of patinox sim. */
#include "sim.h"

#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char usage[] =
        "usage: patinox sim [OPTION...] TRACE...\n"
        "\n"
        "Replays traces of cache requests against eviction policies and sizes, and prints hit "
        "ratios.\n"
        "A trace is a file, also .gz, .xz or .zst, or - for standard input.\n"
        "\n"
        "  --format F        auto, oracleGeneral, csv, keys, lis, int32, int64 or time-key-size "
        "(default: auto)\n"
        "  --columns LIST    columns of a csv trace, by name or number: time=T,key=K,size=S\n"
        "  --skip TEXT       pass over lines that are just this (default: *; empty: none)\n"
        "  --policies LIST   some of %s\n"
        "                    (default: all)\n"
        "  --sizes LIST      capacities: 250 entries, 10%% of the keys, 64MiB, 10%%B of the bytes "
        "of all objects\n"
        "                    (default: 0.1%%,1%%,5%%,10%%,20%%,50%%)\n"
        "  --json            print JSON instead of a table\n"
        "  --plot FILE       draw curves of the miss ratio into a .svg or .png file\n"
        "  --help, --version\n"
        "\n"
        "In entries each key counts one, whatever its size; in bytes a key counts the size of its "
        "object.\n"
        "belady knows the future.  In entries it is the optimum; in bytes, where the optimum is "
        "out of reach, a\n"
        "bound that no policy can be above (PFOO-L).  It and standard input use a temporary file "
        "in $TMPDIR, of\n"
        "8 bytes a request, 16 with sizes; everything else keeps less than 64 bytes a key for each "
        "policy and size.\n"
        "\n"
        "Exit status: 0, 1 after a failure, 2 for a wrong command line.\n";

enum { FORMAT = 256, COLUMNS, SKIP, POLICIES, SIZES, JSON, PLOT, HELP, VERSION };

static const struct option longs[] = {
        {"format", required_argument, NULL, FORMAT},
        {"columns", required_argument, NULL, COLUMNS},
        {"skip", required_argument, NULL, SKIP},
        {"policies", required_argument, NULL, POLICIES},
        {"sizes", required_argument, NULL, SIZES},
        {"json", no_argument, NULL, JSON},
        {"plot", required_argument, NULL, PLOT},
        {"help", no_argument, NULL, HELP},
        {"version", no_argument, NULL, VERSION},
        {0},
};

/* Calls fn for each part between commas. */
static int each(const char *option, const char *list, struct sim_options *options,
        int (*fn)(struct sim_options *, const char *, struct failure *), struct failure *failure) {
    for (const char *at = list;;) {
        char part[128];
        size_t n = strcspn(at, ",");
        if (n == 0 || n >= sizeof(part))
            return fail(failure, "--%s \"%s\": %s", option, list,
                    n == 0 ? "a part of the list is empty" : "a part of the list is too long");
        memcpy(part, at, n);
        part[n] = 0;
        if (fn(options, part, failure))
            return -1;
        if (at[n] == 0)
            return 0;
        at += n + 1;
    }
}

static void all_names(char *text, size_t room) {
    size_t at = 0;
    text[0] = 0;
    for (size_t i = 0; pnx_cache_policy_at(i) && at < room; i++)
        at += (size_t)snprintf(text + at, room - at, "%s, ", pnx_cache_policy_at(i)->name);
    if (at < room)
        snprintf(text + at, room - at, "belady");
}

static int add_policy(struct sim_options *options, const char *name, struct failure *failure) {
    struct sim_policy policy = {"belady", NULL};
    if (strcmp(name, "belady") != 0) {
        char names[512];
        policy.policy = pnx_cache_policy_find(name);
        all_names(names, sizeof(names));
        if (!policy.policy)
            return fail(
                    failure, "--policies: there is no policy \"%s\"; there are %s", name, names);
        policy.name = policy.policy->name;
    }
    for (uint32_t i = 0; i < options->policy_count; i++) {
        if (options->policies[i].policy == policy.policy)
            return fail(failure, "--policies: %s stands there twice", name);
    }
    options->policies[options->policy_count++] = policy;
    return 0;
}

static int all_policies(struct sim_options *options, struct failure *failure) {
    for (size_t i = 0; pnx_cache_policy_at(i); i++) {
        if (add_policy(options, pnx_cache_policy_at(i)->name, failure))
            return -1;
    }
    return add_policy(options, "belady", failure);
}

static double unit_bytes(const char *unit) {
    static const struct {
        const char *name;
        double bytes;
    } units[] = {{"B", 1}, {"kB", 1e3}, {"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12},
            {"KiB", 1024}, {"MiB", 1048576}, {"GiB", 1073741824}, {"TiB", 1099511627776.0}};
    for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++) {
        if (strcmp(unit, units[i].name) == 0)
            return units[i].bytes;
    }
    return 0;
}

static int add_size(struct sim_options *options, const char *text, struct failure *failure) {
    char *unit = NULL;
    double value = strtod(text, &unit);
    bool digit = text[0] >= '0' && text[0] <= '9'; /* neither a sign nor a word of strtod's */
    struct sim_size size = {.percent = value};
    if (!digit || unit == text || text[1] == 'x' || text[1] == 'X' || !isfinite(value))
        return fail(
                failure, "--sizes: \"%s\" is not a size such as 250, 10%%, 64MiB or 10%%B", text);
    if (strcmp(unit, "%") == 0 || strcmp(unit, "%B") == 0) {
        size.unit = unit[1] ? SIM_PERCENT_BYTES : SIM_PERCENT;
        if (value <= 0 || value > 100)
            return fail(failure, "--sizes: \"%s\" is not above 0 %% and up to 100 %%", text);
    } else if (unit[0] == 0) {
        size.unit = SIM_ENTRIES;
        if (value != floor(value))
            return fail(failure, "--sizes: \"%s\" is not a whole number of entries", text);
    } else if (unit_bytes(unit) > 0) {
        size.unit = SIM_BYTES;
        value *= unit_bytes(unit);
    } else {
        return fail(failure,
                "--sizes: \"%s\" has an unknown unit: B, kB, MB, GB, TB, KiB, MiB, GiB or TiB",
                text);
    }
    if (size.unit == SIM_ENTRIES || size.unit == SIM_BYTES) {
        if (value < 1 || value >= 0x1p62)
            return fail(
                    failure, "--sizes: \"%s\" is %s", text, value < 1 ? "too small" : "too large");
        size.count = (uint64_t)value;
    }
    if (options->size_count == SIM_SIZES_MAX)
        return fail(failure, "--sizes: more than %d sizes", SIM_SIZES_MAX);
    options->sizes[options->size_count++] = size;
    return 0;
}

static int add_column(struct sim_options *options, const char *text, struct failure *failure) {
    struct trace_columns *columns = &options->trace.columns;
    const char *value = strchr(text, '=');
    size_t n = value ? (size_t)(value - text) : 0;
    char *to = n == 4 && memcmp(text, "time", 4) == 0   ? columns->time
               : n == 3 && memcmp(text, "key", 3) == 0  ? columns->key
               : n == 4 && memcmp(text, "size", 4) == 0 ? columns->size
                                                        : NULL;
    if (!to || value[1] == 0)
        return fail(failure, "--columns: \"%s\" is not time=, key= or size= with a name or number",
                text);
    if (strlen(value + 1) >= sizeof(columns->key))
        return fail(failure, "--columns: \"%s\" is too long", text);
    memcpy(to, value + 1, strlen(value + 1) + 1);
    return 0;
}

static int set_plot(struct sim_options *options, const char *file, struct failure *failure) {
    size_t n = strlen(file);
    if (n < 5 || (strcmp(file + n - 4, ".svg") != 0 && strcmp(file + n - 4, ".png") != 0))
        return fail(failure, "--plot: \"%s\" ends neither in .svg nor in .png", file);
    options->plot = file;
    return 0;
}

static int set(struct sim_options *options, int option, char *value, struct failure *failure) {
    char names[512];
    switch (option) {
    case FORMAT:
        options->trace.format = trace_format_find(value);
        if (options->trace.format == TRACE_FORMATS)
            return fail(failure,
                    "--format: there is no format \"%s\"; there are auto, oracleGeneral, csv, "
                    "keys, lis, "
                    "int32, int64 and time-key-size",
                    value);
        return 0;
    case COLUMNS:
        return each("columns", value, options, add_column, failure);
    case SKIP:
        options->trace.skip = value[0] ? value : NULL;
        return 0;
    case POLICIES:
        return each("policies", value, options, add_policy, failure);
    case SIZES:
        return each("sizes", value, options, add_size, failure);
    case JSON:
        options->json = true;
        return 0;
    case PLOT:
        return set_plot(options, value, failure);
    case HELP:
        all_names(names, sizeof(names));
        printf(usage, names);
        options->done = true;
        return 0;
    case VERSION:
        printf("patinox %s\n", pnx_version());
        options->done = true;
        return 0;
    default:
        return fail(failure, "%s", "unreachable");
    }
}

static int check(struct sim_options *options, struct failure *failure) {
    uint32_t inputs = 0;
    if (options->trace_count == 0)
        return fail(failure, "no trace is given");
    for (uint32_t i = 0; i < options->trace_count; i++)
        inputs += strcmp(options->traces[i], "-") == 0;
    if (inputs > 1)
        return fail(failure, "standard input can be read once only");
    if (options->policy_count == 0 && all_policies(options, failure))
        return -1;
    if (options->size_count == 0)
        return each("sizes", "0.1%,1%,5%,10%,20%,50%", options, add_size, failure);
    return 0;
}

int sim_options_read(struct sim_options *options, int argc, char **argv, struct failure *failure) {
    memset(options, 0, sizeof(*options));
    options->trace.skip = "*";
    opterr = 0;
    optind = 1;
    for (;;) {
        int option = getopt_long(argc, argv, ":", longs, NULL);
        if (option == -1)
            break;
        if (option == '?' && optopt > 0 && optopt < FORMAT)
            return fail(failure, "there is no option \"-%c\"", optopt);
        if (option == '?')
            return fail(failure, "there is no option \"%s\"", argv[optind - 1]);
        if (option == ':')
            return fail(failure, "%s needs a value", argv[optind - 1]);
        if (set(options, option, optarg, failure))
            return -1;
        if (options->done)
            return 0;
    }
    options->traces = argv + optind;
    options->trace_count = (uint32_t)(argc - optind);
    return check(options, failure);
}
