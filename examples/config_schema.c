/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A configuration file of an older schema, carried to the current one step by step, and overridden by variables of
 * the environment.
 */
#include <patinox/config.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Schema 1 was one word a line: "timeout 5" in seconds.  Schema 2 says "schema 2" first, and milliseconds. */
struct settings {
    unsigned schema;
    long timeout;
    long workers;
};
static const struct pnx_rc_type settings_type = PNX_RC_TYPE(struct settings);

static int set(
        struct settings *settings, const char *name, const char *text, struct pnx_error *err) {
    char *end;
    long number = strtol(text, &end, 10);
    bool schema = strcmp(name, "schema") == 0, timeout = strcmp(name, "timeout") == 0;
    if (!schema && !timeout && strcmp(name, "workers") != 0)
        return -ENOENT; /* of a variable: no setting of ours, to be ignored */
    if (end == text || *end || number < 0)
        return pnx_config_fail(err, -EINVAL, "%s: \"%.20s\" is no number", name, text);
    if (schema)
        settings->schema = (unsigned)number;
    else
        *(timeout ? &settings->timeout : &settings->workers) = number;
    return 0;
}

static int parse(void *ctx, const char *text, size_t n, struct pnx_error *err, void **ret_value) {
    struct settings settings = {.schema = 1, .workers = 2};
    (void)ctx;
    (void)n;
    for (const char *line = text; *line; line = strchr(line, '\n') + 1) {
        char name[16], value[16];
        if (sscanf(line, "%15s %15s", name, value) != 2 || !strchr(line, '\n'))
            return pnx_config_fail(err, PNX_E_FORMAT, "expected \"name number\": %.20s", line);
        int rc = set(&settings, name, value, err);
        if (rc)
            return rc == -ENOENT ? pnx_config_fail(err, rc, "there is no setting %s", name) : rc;
    }
    return pnx_rc_new(&settings_type, &settings, ret_value);
}

static int schema_of(void *ctx, const void *document, struct pnx_error *err, uint32_t *ret_schema) {
    (void)ctx;
    (void)err;
    *ret_schema = ((const struct settings *)document)->schema;
    return 0;
}

static int seconds_to_ms(
        void *ctx, const void *document, struct pnx_error *err, void **ret_document) {
    struct settings next = *(const struct settings *)document;
    (void)ctx;
    (void)err;
    next.schema = 2;
    next.timeout *= 1000;
    return pnx_rc_new(&settings_type, &next, ret_document);
}
static const struct pnx_config_step steps[] = {{1, 0, seconds_to_ms}};

/* DEMO_WORKERS=8 comes here as ("workers", "8"). */
static int override(
        void *ctx, void *value, const char *setting, const char *text, struct pnx_error *err) {
    (void)ctx;
    return set(value, setting, text, err);
}

static int write_file(const char *path, const char *text) {
    FILE *file = fopen(path, "w");
    return file && fputs(text, file) >= 0 && fclose(file) == 0 ? 0 : -1;
}

static void show(struct pnx_config *config) {
    struct pnx_config_status status = {.size = sizeof(status)};
    struct pnx_config_override overrides[8];
    size_t n = 0;
    PNX_AUTO_RC const struct settings *settings = pnx_config_load(config, NULL);
    pnx_config_read_status(config, &status);
    printf("schema %u: timeout %ld ms, %ld workers\n", status.schema, settings->timeout,
            settings->workers);
    if (pnx_config_overrides(config, overrides, 8, &n) == 0) {
        for (size_t i = 0; i < n; i++)
            printf("  %s %s %s\n", overrides[i].variable,
                    overrides[i].code ? "is ignored:" : "overrides", overrides[i].setting);
    }
}

int main(void) {
    char path[] = "/tmp/pnx-config-schema-XXXXXX";
    int fd = mkstemp(path);
    if (fd < 0 || close(fd) != 0 || write_file(path, "timeout 5\n") != 0) {
        perror(path);
        return 1;
    }
    struct pnx_error err;
    struct pnx_config *config = NULL;
    setenv("DEMO_WORKERS", "8", 1); /* as the one who starts us would */
    setenv("DEMO_COLOUR", "red", 1);
    int rc = pnx_config_create(
            PNX_CONFIG_OPTS(.path = path, .parse = parse, .schema = 2, .schema_of = schema_of,
                    .steps = steps, .steps_count = 1, .env_prefix = "DEMO_", .override = override),
            &err, &config);
    if (rc) {
        fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    show(config);
    if (write_file(path, "schema 2\ntimeout 250\n") == 0 && pnx_config_reload(config, &err) == 0)
        show(config);
    if (write_file(path, "schema 3\ntimeout 250\n") == 0 && pnx_config_reload(config, &err) < 0)
        printf("refused: %s\n", strstr(err.message, "has schema"));
    setenv("DEMO_WORKERS", "many", 1);
    if (write_file(path, "schema 2\ntimeout 9\n") == 0 && pnx_config_reload(config, &err) < 0)
        printf("refused: %s\n", strstr(err.message, "variable"));
    show(config); /* the last good one */
    pnx_config_release(&config);
    unlink(path);
    return 0;
}
