/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Settings from a file, reloaded when it changes: a bad edit is reported and changes nothing.
 */
#include <patinox/config.h>
#include <patinox/watch.h>

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- what the program wants to know: a plain struct, shared read-only ---- */

struct settings {
    int workers;
    char greeting[32];
};
static const struct pnx_rc_type settings_type = PNX_RC_TYPE(struct settings);

/* Turns the text into settings.  It ends with a NUL, so that string functions can be used. */
static int parse(void *ctx, const char *text, size_t n, struct pnx_error *err, void **ret_value) {
    struct settings settings = {0};
    char *end;
    (void)ctx;
    (void)n;
    if (strncmp(text, "workers=", 8) != 0)
        return pnx_config_fail(err, PNX_E_FORMAT, "expected \"workers=N greeting=WORD\"");
    long workers = strtol(text + 8, &end, 10);
    if (workers < 0 || workers > 9999 || sscanf(end, " greeting=%31s", settings.greeting) != 1)
        return pnx_config_fail(err, PNX_E_FORMAT, "expected a greeting after \"%.20s\"", text);
    settings.workers = (int)workers;
    return pnx_rc_new(&settings_type, &settings, ret_value);
}

static int validate(void *ctx, const void *next, const void *current, struct pnx_error *err) {
    const struct settings *settings = next;
    (void)ctx;
    (void)current; /* NULL the first time */
    if (settings->workers < 1 || settings->workers > 64)
        return pnx_config_fail(
                err, -ERANGE, "workers is %d; it must be 1 to 64", settings->workers);
    return 0;
}

static void changed(void *ctx, const void *value, uint64_t version) {
    const struct settings *settings = value;
    (void)ctx;
    printf("  told: version %llu has %d workers\n", (unsigned long long)version, settings->workers);
}

static void write_file(const char *path, const char *text) {
    FILE *file = fopen(path, "w");
    if (!file || fputs(text, file) < 0 || fclose(file) != 0) {
        perror(path);
        exit(1);
    }
}

static void show(struct pnx_config *config) {
    uint64_t version;
    /* The value stays ours, and as it is, until we let it go, whatever happens to the file. */
    PNX_AUTO_RC const struct settings *settings = pnx_config_load(config, &version);
    printf("version %llu: %d workers say %s\n", (unsigned long long)version, settings->workers,
            settings->greeting);
}

/* An event loop in miniature: waits for the descriptor or the time that tick asked for, and ticks. */
static void loop_until(struct pnx_config *config, bool (*done)(struct pnx_config *config)) {
    pnx_ns next = pnx_config_tick(config, pnx_now());
    while (!done(config)) {
        struct pollfd polled = {.fd = pnx_config_fd(config), .events = POLLIN};
        pnx_ns left = next == PNX_NEVER ? 1000 * PNX_MS : next - pnx_now();
        poll(&polled, 1, left > 0 ? (int)(left / PNX_MS) + 1 : 0);
        next = pnx_config_tick(config, pnx_now());
    }
}

static bool has_version_2(struct pnx_config *config) {
    return pnx_config_version(config) == 2;
}

static bool has_failed(struct pnx_config *config) {
    struct pnx_config_status status = {.size = sizeof(status)};
    pnx_config_read_status(config, &status);
    return status.error.code != 0;
}

int main(void) {
    char path[] = "/tmp/pnx-config-example-XXXXXX";
    int fd = mkstemp(path);
    if (fd < 0) {
        perror(path);
        return 1;
    }
    close(fd);
    write_file(path, "workers=4 greeting=hello\n");

    struct pnx_error err;
    struct pnx_config *config = NULL;
    int rc = pnx_config_create(PNX_CONFIG_OPTS(.path = path, .parse = parse, .validate = validate,
                                       .on_change = changed, .debounce_ns = 5 * PNX_MS),
            &err, &config);
    if (rc) {
        fprintf(stderr, "%s: %s\n", pnx_errname(rc), err.message);
        return 1;
    }
    show(config);

    puts("a good edit:");
    write_file(path, "workers=8 greeting=servus\n");
    loop_until(config, has_version_2);
    show(config);

    puts("a bad edit:");
    write_file(path, "workers=800 greeting=servus\n");
    loop_until(config, has_failed);
    struct pnx_config_status status = {.size = sizeof(status)};
    pnx_config_read_status(config, &status);
    printf("  refused: %s\n", strchr(status.error.message, ':') + 2);
    show(config);

    /* Another part of the program that wants to hear of changes, here by asking. */
    struct pnx_watch *watch = NULL;
    rc = pnx_config_watch_open(config, PNX_WATCH_OPTS(.name = "greeter"), &err, &watch);
    if (rc) {
        fprintf(stderr, "%s: %s\n", pnx_errname(rc), err.message);
        return 1;
    }

    puts("read again by hand, as for SIGHUP:");
    write_file(path, "workers=2 greeting=moin\n");
    rc = pnx_config_reload(config, &err);
    show(config);
    if (pnx_config_wait(config, 2, 0) == 0) /* a thread would wait here with a time limit */
        puts("newer than version 2");
    const void *latest;
    if (pnx_watch_read(watch, &latest, NULL) == 0) {
        printf("  the watch has \"%s\"\n", ((const struct settings *)latest)->greeting);
        pnx_rc_unref(latest);
    }
    pnx_watch_release(&watch);

    struct pnx_config_stats stats = {.size = sizeof(stats)};
    pnx_config_read_stats(config, &stats);
    printf("%llu changes, %llu refused\n", (unsigned long long)stats.changes,
            (unsigned long long)stats.refusals);
    pnx_config_release(&config);
    unlink(path);
    return rc != 0;
}
