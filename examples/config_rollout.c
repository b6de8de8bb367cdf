/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A change of configuration goes to a fraction of the tenants first; one that does harm is aborted, and an older one is
 * put back.  The text comes from a source of our own instead of a file.
 */
#include <patinox/config.h>

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct limits {
    int requests;
};
static const struct pnx_rc_type limits_type = PNX_RC_TYPE(struct limits);

static int parse(void *ctx, const char *text, size_t n, struct pnx_error *err, void **ret_value) {
    char *end;
    (void)ctx;
    (void)n;
    long requests = strtol(text, &end, 10);
    if (*end || requests <= 0 || requests > INT_MAX)
        return pnx_config_fail(err, PNX_E_FORMAT, "\"%.20s\" is no limit", text);
    struct limits limits = {(int)requests};
    return pnx_rc_new(&limits_type, &limits, ret_value);
}

/* ---- where the text comes from: a service that gives each revision a number ---- */

struct service {
    const char *text;
    const char *revision;
};

static int fetch(void *ctx, struct pnx_config_fetch *fetch, struct pnx_error *err) {
    const struct service *service = ctx;
    (void)err;
    if (strcmp(pnx_config_fetch_tag(fetch), service->revision) == 0)
        return PNX_CONFIG_UNCHANGED;
    pnx_config_fetch_set_tag(fetch, service->revision);
    return pnx_config_fetch_add(fetch, service->text, strlen(service->text));
}

static struct service service = {"100", "r1"};
static pnx_ns now; /* what a loop would read from the clock */

static void change(struct pnx_config *config, const char *text, const char *revision) {
    service = (struct service){text, revision};
    pnx_config_notify(config); /* a subscription would do this, on any thread */
    /* What a loop does when pnx_config_fd() is readable, or a thread of the config's by itself: */
    now = pnx_config_tick(config, now); /* when it has settled */
    pnx_config_tick(config, now);
}

/* ---- who has it ---- */

static int requests_of(struct pnx_config *config, const char *tenant) {
    uint64_t key = pnx_config_key(tenant, strlen(tenant));
    PNX_AUTO_RC const struct limits *limits = pnx_config_load_for(config, key, NULL, NULL);
    return limits->requests;
}

static void show(struct pnx_config *config, const char *when) {
    struct pnx_config_status status = {.size = sizeof(status)};
    int changed = 0, old = 0;
    pnx_config_read_status(config, &status);
    PNX_AUTO_RC const struct limits *published = pnx_config_load(config, NULL);
    for (int i = 0; i < 1000; i++) {
        char tenant[16];
        snprintf(tenant, sizeof(tenant), "tenant-%d", i);
        if (requests_of(config, tenant) == published->requests)
            old++;
        else
            changed++;
    }
    printf("%-22s published: %d, for %d of 1000 tenants: another%s\n", when, published->requests,
            changed, status.hold ? " (the text is held)" : "");
}

/* How a rollout goes, in the view of the program: asked at each stage's end, and every check_ns. */
static int is_healthy(void *ctx, const void *candidate, uint32_t ppm, struct pnx_error *err) {
    const struct limits *limits = candidate;
    (void)ctx;
    (void)ppm;
    return limits->requests >= 50 ? 0 : pnx_config_fail(err, -EIO, "half the requests are refused");
}

static const struct pnx_config_stage stages[] = {
        {10000, 0, PNX_SEC},       /* 1 % for a second, */
        {250000, 0, 60 * PNX_SEC}, /* 25 % for a minute, then all */
};

int main(void) {
    struct pnx_error err;
    struct pnx_config *config = NULL;
    int rc = pnx_config_create(
            PNX_CONFIG_OPTS(.name = "limits", .source = fetch, .parse = parse, .ctx = &service,
                    .stages = stages, .stages_count = 2, .check = is_healthy),
            &err, &config);
    if (rc) {
        fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    now = pnx_now();
    show(config, "at first:");

    change(config, "200", "r2");
    show(config, "the first stage:");
    pnx_config_advance(config, 0, &err); /* or wait for it */
    show(config, "the second stage:");
    pnx_config_promote(config, 0, &err);
    show(config, "promoted:");

    change(config, "20", "r3");
    show(config, "a bad one begins:");
    now += PNX_SEC;
    pnx_config_tick(config, now); /* time passes, and the check says no */
    show(config, "and is aborted:");

    change(config, "300", "r4");
    pnx_config_abort(config, 0, &err); /* by hand; over when it returns */
    show(config, "aborted by hand:");
    pnx_config_resume(config, &err);
    pnx_config_promote(config, 0, &err);
    show(config, "after all:");

    pnx_config_rollback(config, 0, &err);
    show(config, "rolled back:");
    struct pnx_config_entry entries[8];
    size_t n = 0;
    rc = pnx_config_history(config, entries, 8, &n);
    for (size_t i = 0; rc == 0 && i < n; i++) {
        const void *value = NULL;
        if (pnx_config_load_version(config, entries[i].version, &value) == 0)
            printf("  version %llu: %d, from %s\n", (unsigned long long)entries[i].version,
                    ((const struct limits *)value)->requests, entries[i].tag);
        pnx_rc_unref(value);
    }
    pnx_config_release(&config);
    return rc != 0;
}
