/* SPDX-License-Identifier: Apache-2.0 */
/*
 * share/config_make.c - from a text to a value that may be published: all that the user's functions do about it.
 *
 *     text --parse--> document --schema_of--> old? --step--> document of the next schema --...--> current
 *          --build--> value --override, one variable after the other--> validate --> record
 *
 * Everything here runs as the owner of the config's latch, under no mutex.  Each document and value on the way is
 * let go when the next one is there.  Guarantee P6 of patinox/config.h is kept here.
 */
#include "base/hash.h"
#include "share/callback.h"
#include "share/config.h"

#include <stdio.h>
#include <string.h>

/* Puts a new object in the place of *object, unless a function of the user's failed to make one. */
static int replace(int rc, const struct pnx_error *said, void *made, const char *phase,
        const char *prefix, struct pnx_error *err, void **object) {
    if (rc)
        return pnx__callback_fail(err, rc, said, phase, prefix);
    if (!made)
        return pnx__fail(err, -EINVAL, 0, phase, "%s: %s gave no value", prefix, phase);
    pnx_rc_unref(*object);
    *object = made;
    return 0;
}

static int parse(struct pnx_config *config, const struct pnx_text *text, struct pnx_error *err,
        void **ret_document) {
    struct pnx_error said = {0};
    void *made = NULL;
    pnx__mutex_assert_none_held();
    int rc = pnx__callback_code(
            config->opts.parse(config->opts.ctx, text->bytes, text->n, &said, &made));
    return replace(rc, &said, made, "parse", config->prefix, err, ret_document);
}

static int find_schema(struct pnx_config *config, const void *document, struct pnx_error *err,
        uint32_t *ret_schema) {
    const struct pnx_config_opts *opts = &config->opts;
    struct pnx_error said = {0};
    uint32_t schema = 0, oldest = opts->steps_count ? opts->steps[0].from : opts->schema;
    pnx__mutex_assert_none_held();
    int rc = pnx__callback_code(opts->schema_of(opts->ctx, document, &said, &schema));
    if (rc)
        return pnx__callback_fail(err, rc, &said, "schema", config->prefix);
    if (schema == 0)
        return pnx__fail(err, -ENOTSUP, 0, "schema",
                "%s: does not say its schema; the current one is %u", config->prefix, opts->schema);
    if (schema > opts->schema)
        return pnx__fail(err, -ENOTSUP, 0, "schema",
                "%s: has schema %u; this program knows none newer than %u", config->prefix, schema,
                opts->schema);
    if (schema < oldest)
        return pnx__fail(err, -ENOTSUP, 0, "schema",
                "%s: has schema %u; this program reads none older than %u", config->prefix, schema,
                oldest);
    *ret_schema = schema;
    return 0;
}

/* Carries a document from its schema to the current one. */
static int migrate(
        struct pnx_config *config, uint32_t schema, struct pnx_error *err, void **document) {
    const struct pnx_config_opts *opts = &config->opts;
    int rc = 0;
    for (uint32_t from = schema; rc == 0 && from < opts->schema; from++) {
        const struct pnx_config_step *step = &opts->steps[from - opts->steps[0].from];
        struct pnx_error said = {0};
        char prefix[sizeof(config->prefix) + 48];
        void *made = NULL;
        snprintf(
                prefix, sizeof(prefix), "%s: from schema %u to %u", config->prefix, from, from + 1);
        pnx__mutex_assert_none_held();
        rc = pnx__callback_code(step->migrate(opts->ctx, *document, &said, &made));
        rc = replace(rc, &said, made, "migrate", prefix, err, document);
        if (rc == 0)
            pnx__config_count(config, &config->counts.migrations);
    }
    return rc;
}

static int build(struct pnx_config *config, struct pnx_error *err, void **document) {
    struct pnx_error said = {0};
    void *made = NULL;
    if (!config->opts.build)
        return 0;
    pnx__mutex_assert_none_held();
    int rc = pnx__callback_code(config->opts.build(config->opts.ctx, *document, &said, &made));
    return replace(rc, &said, made, "build", config->prefix, err, document);
}

int pnx__config_validate(
        struct pnx_config *config, const void *value, const void *current, struct pnx_error *err) {
    struct pnx_error said = {0};
    if (!config->opts.validate)
        return 0;
    pnx__mutex_assert_none_held();
    int rc = pnx__callback_code(config->opts.validate(config->opts.ctx, value, current, &said));
    return rc ? pnx__callback_fail(err, rc, &said, "validate", config->prefix) : 0;
}

/* A variable that does nothing may be a typing error, or an orchestrator's: said once, not at each load. */
static void tell_ignored(struct pnx_config *config, const struct pnx_config_applied *applied) {
    uint64_t hash = 0;
    uint32_t n = applied ? applied->n : 0;
    const char *first = NULL;
    for (uint32_t i = 0; i < n; i++) {
        const struct pnx_config_override *entry = &applied->entries[i];
        if (entry->code == 0)
            continue;
        first = first ? first : entry->variable;
        hash = pnx__hash(hash, entry->variable, strlen(entry->variable));
    }
    if (hash && hash != config->ignored)
        pnx__log(&config->env, PNX_LOG_WARNING,
                "%s: %u variables name no setting and are ignored: %s%s", config->name,
                n - applied->in_force, first, n - applied->in_force > 1 ? ", ..." : "");
    config->ignored = hash;
}

static int make_value(struct pnx_config *config, const struct pnx_text *text,
        const struct pnx_config_vars *vars, uint32_t *ret_schema, struct pnx_error *err,
        void **value, struct pnx_config_applied **ret_applied) {
    uint32_t schema = 0;
    int rc = parse(config, text, err, value);
    if (rc == 0 && config->opts.schema)
        rc = find_schema(config, *value, err, &schema);
    if (rc == 0 && config->opts.schema)
        rc = migrate(config, schema, err, value);
    if (rc == 0)
        rc = build(config, err, value);
    if (rc == 0)
        rc = pnx__config_vars_apply(config, vars, err, value, ret_applied);
    *ret_schema = schema;
    return rc;
}

int pnx__config_make(struct pnx_config *config, const struct pnx_text *text,
        const struct pnx_config_vars *vars, const void *current, struct pnx_error *err,
        struct pnx_config_record **ret_record) {
    struct pnx_config_applied *applied = NULL;
    void *value = NULL;
    uint32_t schema;
    int rc = make_value(config, text, vars, &schema, err, &value, &applied);
    if (rc == 0) {
        tell_ignored(config, applied);
        rc = pnx__config_validate(config, value, current, err);
    }
    struct pnx_config_record *record = NULL;
    if (rc == 0)
        record = pnx__config_record_new(config, value, applied);
    if (rc == 0 && !record)
        rc = pnx__fail(err, -ENOMEM, 0, "publish", "%s: out of memory", config->prefix);
    pnx_rc_unref(value);
    pnx__config_applied_unref(config, applied);
    if (rc)
        return rc;
    record->entry.schema = schema;
    record->entry.origin = config->opts.source ? PNX_CONFIG_FROM_SOURCE : PNX_CONFIG_FROM_FILE;
    record->entry.text_bytes = text->n;
    record->entry.text_hash = pnx__hash(0, text->bytes, text->n);
    memcpy(record->entry.tag, text->tag, sizeof(record->entry.tag));
    *ret_record = record;
    return 0;
}
