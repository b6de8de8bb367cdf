/* SPDX-License-Identifier: Apache-2.0 */
/*
 * share/config_env.c - collecting the variables that override, and applying them.
 *
 * They are copied before the first one is applied: what override does to the environment changes nothing that it is
 * still to see.  A variable counts when the table names it, or when it begins with the prefix and goes on; the
 * setting is then the rest of its name in lower case.
 *
 * Guarantee P7 of patinox/config.h is kept here.
 */
#include "share/config_env.h"

#include "base/hash.h"
#include "os/environ.h"
#include "share/callback.h"
#include "share/config.h"

#include <stdio.h>
#include <string.h>

/* Where the name of a setting comes from. */
struct match {
    const char *setting; /* of the table; NULL: the rest of the variable's name */
    size_t name;         /* bytes of the variable's name */
    size_t skip;         /* of it that are the prefix */
};

static bool in_table(
        const struct pnx_config *config, const char *assignment, struct match *ret_match) {
    for (uint32_t i = 0; i < config->opts.variables_count; i++) {
        const struct pnx_config_variable *row = &config->opts.variables[i];
        if (strlen(row->variable) != ret_match->name ||
                memcmp(row->variable, assignment, ret_match->name) != 0)
            continue;
        ret_match->setting = row->setting;
        return true;
    }
    return false;
}

/* Whether a "NAME=text" counts. */
static bool counts(
        const struct pnx_config *config, const char *assignment, struct match *ret_match) {
    const char *equals = strchr(assignment, '=');
    if (!equals || equals == assignment)
        return false;
    *ret_match = (struct match){.name = (size_t)(equals - assignment)};
    if (in_table(config, assignment, ret_match))
        return true;
    ret_match->skip = config->env_prefix ? strlen(config->env_prefix) : 0;
    return ret_match->skip && ret_match->name > ret_match->skip &&
           memcmp(assignment, config->env_prefix, ret_match->skip) == 0;
}

static size_t room_of(const struct match *match, const char *assignment) {
    size_t setting = match->setting ? strlen(match->setting) : match->name - match->skip;
    return strlen(assignment) + 1 + setting + 1;
}

static char lower(char c) {
    return c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
}

/* Copies one variable behind the others. */
static void add(struct pnx_config_vars *vars, const struct match *match, const char *assignment) {
    struct pnx_config_var *row = &vars->rows[vars->n++];
    char *at = vars->bytes + vars->used;
    size_t n = strlen(assignment) + 1;
    memcpy(at, assignment, n);
    at[match->name] = '\0';
    row->variable = at;
    row->text = at + match->name + 1;
    at += n;
    row->setting = at;
    const char *from = match->setting ? match->setting : row->variable + match->skip;
    size_t length = strlen(from);
    for (size_t i = 0; i <= length; i++)
        at[i] = match->setting ? from[i] : lower(from[i]);
    vars->used += n + length + 1;
}

/* Sorts by name; of one name that occurs twice the first one counts, as it does for getenv(). */
static void sort(struct pnx_config_vars *vars) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < vars->n; i++) {
        struct pnx_config_var row = vars->rows[i];
        uint32_t at = n;
        int order = 1;
        while (at > 0 && (order = strcmp(vars->rows[at - 1].variable, row.variable)) > 0)
            at--;
        if (at > 0 && order == 0)
            continue;
        memmove(&vars->rows[at + 1], &vars->rows[at], (n - at) * sizeof(row));
        vars->rows[at] = row;
        n++;
    }
    vars->n = n;
}

int pnx__config_vars_collect(
        const struct pnx_config *config, struct pnx_error *err, struct pnx_config_vars *ret_vars) {
    struct match match;
    const char *assignment;
    uint32_t n = 0;
    *ret_vars = (struct pnx_config_vars){0};
    if (!config->opts.override)
        return 0;
    for (size_t i = 0; (assignment = pnx__os_environ(i)); i++) {
        if (!counts(config, assignment, &match))
            continue;
        n++;
        ret_vars->room += room_of(&match, assignment);
    }
    if (n == 0)
        return 0;
    if (n > PNX_CONFIG_OVERRIDES_MAX)
        return pnx__fail(err, -EOVERFLOW, 0, "override",
                "%s: %u variables override; at most %d may", config->prefix, n,
                PNX_CONFIG_OVERRIDES_MAX);
    ret_vars->bytes = pnx__alloc(&config->env, ret_vars->room, 1);
    if (!ret_vars->bytes)
        return pnx__fail(err, -ENOMEM, 0, "override", "%s: out of memory", config->prefix);
    for (size_t i = 0; ret_vars->n < n && (assignment = pnx__os_environ(i)); i++) {
        if (counts(config, assignment, &match) &&
                room_of(&match, assignment) <= ret_vars->room - ret_vars->used)
            add(ret_vars, &match, assignment);
    }
    sort(ret_vars);
    return 0;
}

void pnx__config_vars_free(const struct pnx_config *config, struct pnx_config_vars *vars) {
    pnx__free(&config->env, vars->bytes, vars->room, 1);
    *vars = (struct pnx_config_vars){0};
}

uint64_t pnx__config_vars_hash(uint64_t seed, const struct pnx_config_vars *vars) {
    uint64_t hash = 0;
    for (uint32_t i = 0; i < vars->n; i++) {
        const struct pnx_config_var *row = &vars->rows[i];
        hash = pnx__hash(seed ^ hash, row->variable, strlen(row->variable) + 1);
        hash = pnx__hash(seed ^ hash, row->text, strlen(row->text) + 1) | 1;
    }
    return hash;
}

/* ---- applying ---- */

static size_t applied_bytes(uint32_t n) {
    return sizeof(struct pnx_config_applied) + n * sizeof(struct pnx_config_override);
}

struct pnx_config_applied *pnx__config_applied_ref(struct pnx_config_applied *applied) {
    if (applied)
        applied->references++;
    return applied;
}

void pnx__config_applied_unref(
        const struct pnx_config *config, struct pnx_config_applied *applied) {
    if (applied && --applied->references == 0)
        pnx__free(&config->env, applied, 1, applied_bytes(applied->n));
}

/* Applies one.  A variable of the table stands for a setting that there must be. */
static int apply_one(const struct pnx_config *config, const struct pnx_config_var *row, void *value,
        struct pnx_error *err, int32_t *ret_code) {
    struct pnx_error said = {0};
    char prefix[sizeof(config->prefix) + 80];
    struct match match = {.name = strlen(row->variable)};
    bool strict =
            (config->opts.flags & PNX_CONFIG_STRICT) || in_table(config, row->variable, &match);
    pnx__mutex_assert_none_held();
    int rc = pnx__callback_code(
            config->opts.override(config->opts.ctx, value, row->setting, row->text, &said));
    *ret_code = rc;
    if (rc == 0 || (rc == -ENOENT && !strict))
        return 0;
    snprintf(prefix, sizeof(prefix), "%s: variable %.64s", config->prefix, row->variable);
    if (rc == -ENOENT && !said.message[0])
        snprintf(said.message, sizeof(said.message), "there is no setting \"%.64s\"", row->setting);
    return pnx__callback_fail(err, rc, &said, "override", prefix);
}

int pnx__config_vars_apply(const struct pnx_config *config, const struct pnx_config_vars *vars,
        struct pnx_error *err, void **value, struct pnx_config_applied **ret_applied) {
    *ret_applied = NULL;
    if (vars->n == 0)
        return 0;
    struct pnx_config_applied *applied = pnx__alloc(&config->env, 1, applied_bytes(vars->n));
    int rc = applied ? pnx_rc_make_mut(value)
                     : -ENOMEM; /* parse may have given one that is in use */
    if (rc)
        pnx__fail(err, rc, 0, "override", "%s: no copy to override: %s", config->prefix,
                pnx_strerror(rc));
    for (uint32_t i = 0; rc == 0 && i < vars->n; i++) {
        struct pnx_config_override *entry = &applied->entries[i];
        snprintf(entry->variable, sizeof(entry->variable), "%s", vars->rows[i].variable);
        snprintf(entry->setting, sizeof(entry->setting), "%s", vars->rows[i].setting);
        rc = apply_one(config, &vars->rows[i], *value, err, &entry->code);
        applied->in_force += entry->code == 0;
    }
    if (rc) {
        pnx__free(&config->env, applied, 1, applied_bytes(vars->n));
        return rc;
    }
    applied->references = 1;
    applied->n = vars->n;
    *ret_applied = applied;
    return 0;
}
