/* SPDX-License-Identifier: Apache-2.0 */
/* share/config_options.c - whether the options of a config go together; each message names the one at fault. */
#include "base/options.h"
#include "share/config.h"

#include <assert.h>

static const struct pnx_opt option_rows[] = {
#define PNX_OPTION(...) PNX_OPT_ROW(struct pnx_config_opts, __VA_ARGS__)
#include "share/config_opts.def"
#undef PNX_OPTION
};
static const struct pnx_opt_table options = {"config", sizeof(struct pnx_config_opts), option_rows,
        sizeof(option_rows) / sizeof(option_rows[0])};
static_assert(sizeof(struct pnx_config_opts) == 2 * sizeof(size_t) + 19 * sizeof(void *) +
                                                        3 * sizeof(pnx_ns) + 6 * sizeof(uint32_t),
        "no padding");
static_assert(sizeof(struct pnx_config_opts) <= PNX_OPTS_MAX_SIZE, "the checker's limit");

static int check_text(const struct pnx_config_opts *opts, struct pnx_error *err) {
    if (!opts->path && !opts->source)
        return pnx__fail_field(
                err, -EINVAL, "path", "config.path is required, unless there is a source");
    if (opts->path && opts->source)
        return pnx__fail_field(
                err, -EINVAL, "source", "config.source and config.path are both set");
    return 0;
}

static int check_steps(const struct pnx_config_opts *opts, struct pnx_error *err) {
    uint32_t n = opts->steps_count;
    if (n && !opts->steps)
        return pnx__fail_field(err, -EINVAL, "steps", "config.steps is NULL, steps_count is %u", n);
    if (opts->steps && !n)
        return pnx__fail_field(err, -EINVAL, "steps_count", "config.steps_count is 0");
    if (n && (n >= opts->schema || opts->steps[0].from != opts->schema - n))
        return pnx__fail_field(err, -EINVAL, "steps",
                "config.steps: %u steps from schema %u do not end at schema %u", n,
                opts->steps[0].from, opts->schema);
    for (uint32_t i = 0; i < n; i++) {
        if (!opts->steps[i].migrate || opts->steps[i].from != opts->steps[0].from + i)
            return pnx__fail_field(err, -EINVAL, "steps",
                    "config.steps[%u] must be a function from schema %u", i,
                    opts->steps[0].from + i);
    }
    return 0;
}

static int check_schema(const struct pnx_config_opts *opts, struct pnx_error *err) {
    if (opts->schema && !opts->schema_of)
        return pnx__fail_field(err, -EINVAL, "schema_of", "config.schema_of is needed with schema");
    if (!opts->schema && (opts->schema_of || opts->steps || opts->steps_count))
        return pnx__fail_field(
                err, -EINVAL, "schema", "config.schema is needed with schema_of and steps");
    return check_steps(opts, err);
}

static int check_variables(const struct pnx_config_opts *opts, struct pnx_error *err) {
    uint32_t n = opts->variables_count;
    if (opts->env_prefix && !*opts->env_prefix)
        return pnx__fail_field(err, -EINVAL, "env_prefix", "config.env_prefix is empty");
    if (!opts->variables != !n)
        return pnx__fail_field(err, -EINVAL, "variables",
                "config.variables and variables_count do not agree: %u", n);
    for (uint32_t i = 0; i < n; i++) {
        const struct pnx_config_variable *row = &opts->variables[i];
        if (!row->variable || !*row->variable || !row->setting)
            return pnx__fail_field(
                    err, -EINVAL, "variables", "config.variables[%u] lacks a name", i);
    }
    bool overrides = opts->env_prefix || n;
    if (overrides != (opts->override != NULL))
        return pnx__fail_field(err, -EINVAL, "override",
                overrides ? "config.override is needed with env_prefix and variables"
                          : "config.override needs env_prefix or variables");
    return 0;
}

static int check_stages(const struct pnx_config_opts *opts, struct pnx_error *err) {
    uint32_t n = opts->stages_count, before = 0;
    if (!opts->stages != !n)
        return pnx__fail_field(
                err, -EINVAL, "stages", "config.stages and stages_count do not agree: %u", n);
    if (opts->check && !n)
        return pnx__fail_field(err, -EINVAL, "check", "config.check needs stages");
    for (uint32_t i = 0; i < n; i++) {
        const struct pnx_config_stage *stage = &opts->stages[i];
        if (stage->ppm <= before || stage->ppm > 1000000)
            return pnx__fail_field(err, -EINVAL, "stages",
                    "config.stages[%u].ppm is %u; it must be from %u to 1000000", i, stage->ppm,
                    before + 1);
        if (stage->hold_ns <= 0)
            return pnx__fail_field(err, -EINVAL, "stages",
                    "config.stages[%u].hold_ns is %lld; it must be more than 0", i,
                    (long long)stage->hold_ns);
        before = stage->ppm;
    }
    return 0;
}

int pnx__config_options(const struct pnx_config_opts *user, struct pnx_error *err,
        struct pnx_config_opts *ret_opts) {
    struct pnx_config_opts opts;
    int rc = pnx__opts_resolve(&options, user, &opts, err);
    if (rc == 0)
        rc = check_text(&opts, err);
    if (rc == 0)
        rc = check_schema(&opts, err);
    if (rc == 0)
        rc = check_variables(&opts, err);
    if (rc == 0)
        rc = check_stages(&opts, err);
    if (rc == 0)
        *ret_opts = opts;
    return rc;
}
