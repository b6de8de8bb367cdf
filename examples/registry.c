/* SPDX-License-Identifier: Apache-2.0 */
/*
 * registry.c - who made what, where, and is it still there: rows, queries, a report of leaks.
 *
 * Pools, caches and the other parts add their rows by themselves; this program adds rows of its own.
 */
#include <patinox/registry.h>

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

/* A session of this program, and how it keeps its row. */
struct session {
    struct pnx_registry
            *registry; /* a reference: the row may be ended before the session is released */
    pnx_resource_id row;
    int number;
};

/* Ends the session, but leaves its memory to its owner; a shutdown may call it, or session_release(). */
static int session_close(void *arg, const struct pnx_cancel *cancel) {
    struct session *session = arg;
    printf("closing session %d%s\n", session->number,
            pnx_cancel_remaining(cancel) == PNX_NEVER ? "" : ", in a hurry");
    return 0;
}

/* site is where the caller stands, so that the report blames the right line. */
static int session_create(
        struct pnx_registry *registry, int number, const char *site, struct session **ret_session) {
    struct session *session = calloc(1, sizeof(*session));
    if (!session)
        return -ENOMEM;
    char name[32];
    snprintf(name, sizeof(name), "user %d", number);
    session->number = number;
    struct pnx_error err;
    int rc = pnx_registry_add(registry,
            PNX_RESOURCE_AT(site, .type = "session", .name = name, .cleanup = session_close,
                    .arg = session, .bytes = sizeof(*session), .tag = (uint64_t)number),
            &err, &session->row);
    if (rc) {
        fprintf(stderr, "%s\n", err.message);
        free(session);
        return rc;
    }
    session->registry = pnx_registry_ref(registry);
    *ret_session = session;
    return 0;
}

static void session_release(struct session **session) {
    struct session *own = *session;
    if (!own)
        return;
    *session = NULL;
    /* First the row: after this the registry neither runs the cleanup nor is still running it. */
    if (pnx_registry_remove(own->registry, own->row) == 0)
        session_close(own, NULL);
    pnx_registry_release(&own->registry);
    free(own);
}

static int print(void *ctx, const char *text, size_t n) {
    return fwrite(text, 1, n, ctx) == n ? 0 : -EIO;
}

static int print_row(void *ctx, const struct pnx_resource_info *info) {
    (void)ctx;
    printf("  %s \"%s\", %" PRIu64 " bytes\n", info->type, info->name, info->bytes);
    return 0;
}

static int look(struct pnx_registry *registry, const struct session *session) {
    struct pnx_resource_info info;
    int rc = pnx_registry_set_bytes(registry, session->row, 4096);
    if (rc == 0)
        rc = pnx_registry_info(registry, session->row, &info);
    if (rc)
        return rc;
    printf("session %d has %" PRIu64 " bytes; all rows:\n", session->number, info.bytes);
    rc = pnx_registry_each(registry, print_row, NULL);
    if (rc == 0)
        rc = pnx_registry_report(registry, PNX_REPORT_TEXT, print, stdout);
    if (rc == 0)
        rc = pnx_registry_report(registry, PNX_REPORT_JSON, print, stdout);
    return rc;
}

int main(void) {
    struct pnx_registry *registry = NULL;
    struct session *sessions[3] = {NULL};
    int rc = pnx_registry_create(PNX_REGISTRY_OPTS(.name = "sessions"), NULL, &registry);
    for (int i = 0; i < 3 && rc == 0; i++)
        rc = session_create(registry, i, PNX_SITE, &sessions[i]);
    if (rc == 0)
        rc = look(registry, sessions[1]);
    if (rc)
        return 1;

    /* Force one: its cleanup runs here.  Its owner's release finds the row ended, and copes. */
    rc = pnx_registry_cleanup(registry, sessions[0]->row);
    printf("forced: %s; again: %s\n", pnx_strerror(rc),
            pnx_strerror(pnx_registry_cleanup(registry, sessions[0]->row)));
    for (int i = 0; i < 3; i++)
        session_release(&sessions[i]);

    struct pnx_registry_stats stats = {.size = sizeof(stats)};
    if (pnx_registry_read_stats(registry, &stats))
        return 1;
    printf("%zu live; %" PRIu64 " added, %" PRIu64 " removed, %" PRIu64 " cleaned up\n",
            pnx_registry_count(registry), stats.added, stats.removed, stats.cleanups);
    pnx_registry_release(&registry);

    /* Objects whose options name no registry are in the process's. */
    pnx_resource_id row;
    if (pnx_registry_add(pnx_registry_default(), PNX_RESOURCE(.type = "lock file"), NULL, &row))
        return 1;
    if (pnx_registry_remove(pnx_registry_default(), row))
        return 1;
    return pnx_registry_add(pnx_registry_off(), PNX_RESOURCE(.type = "lock file"), NULL, &row);
}
