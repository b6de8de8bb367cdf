/* SPDX-License-Identifier: Apache-2.0 */
/*
 * shutdown.c - ending everything under one deadline, and reading what happened.
 *
 * Of five resources one ends well, one at its second try, one fails, one hangs until it is told to hurry, and one has
 * no cleanup.
 */
#include <patinox/shutdown.h>

#include <stdio.h>

static int close_log(void *arg, const struct pnx_cancel *cancel) {
    (void)cancel;
    printf("closing %s\n", (const char *)arg);
    return 0;
}

static int sync_disk(void *arg, const struct pnx_cancel *cancel) {
    (void)cancel;
    printf("syncing %s\n", (const char *)arg);
    return -EIO;
}

/* Somebody is using it: not now.  The shutdown comes back after a short pause. */
static int close_cursor(void *arg, const struct pnx_cancel *cancel) {
    int *busy = arg;
    (void)cancel;
    puts(*busy ? "the cursor is busy" : "closing the cursor");
    return (*busy)-- ? -EAGAIN : 0;
}

/* Long work in small pieces: between two of them it asks whether its time is up. */
static int send_rest(void *arg, const struct pnx_cancel *cancel) {
    static unsigned char block[65536];
    unsigned sum = 0;
    (void)arg;
    while (!pnx_cancel_requested(cancel)) {
        for (size_t i = 0; i < sizeof(block); i++)
            sum = sum * 31 + block[i]++;
    }
    printf("told to hurry at %u\n", sum);
    return 0;
}

static int print(void *ctx, const char *text, size_t n) {
    return fwrite(text, 1, n, ctx) == n ? 0 : -EIO;
}

static int name_unfinished(void *ctx, const struct pnx_resource_info *info) {
    (void)ctx;
    if (info->state != PNX_RESOURCE_DONE)
        printf("not done: %s, made at %s\n", info->type, info->site);
    return 0;
}

static int add_rows(struct pnx_registry *registry) {
    static char log_name[] = "server.log", disk_name[] = "/var/data";
    static int busy = 1;
    pnx_resource_id disk, id;
    /* All others write to the log until they have ended. */
    int rc = pnx_registry_add(registry,
            PNX_RESOURCE(.type = "log", .name = log_name, .cleanup = close_log, .arg = log_name,
                    .priority = PNX_PRIORITY_LAST),
            NULL, &id);
    if (rc == 0)
        rc = pnx_registry_add(registry,
                PNX_RESOURCE(.type = "disk", .name = disk_name, .cleanup = sync_disk,
                        .arg = disk_name),
                NULL, &disk);
    /* The disk comes after its cursor, however long that takes. */
    if (rc == 0)
        rc = pnx_registry_add(registry,
                PNX_RESOURCE(.type = "cursor", .cleanup = close_cursor, .arg = &busy,
                        .parent = disk),
                NULL, &id);
    /* Clients first. */
    if (rc == 0)
        rc = pnx_registry_add(registry,
                PNX_RESOURCE(.type = "client", .cleanup = send_rest, .priority = PNX_PRIORITY_HIGH),
                NULL, &id);
    if (rc == 0)
        rc = pnx_registry_add(registry, PNX_RESOURCE(.type = "lease", .bytes = 64), NULL, &id);
    return rc;
}

int main(void) {
    struct pnx_registry *registry;
    if (pnx_registry_create(PNX_REGISTRY_OPTS(.name = "server"), NULL, &registry))
        return 1;
    if (add_rows(registry))
        return 1;

    struct pnx_shutdown_report *report = NULL;
    int rc = pnx_registry_shutdown(registry, 3 * PNX_SEC, &report);
    printf("shutdown: %s\n", pnx_strerror(rc)); /* the first error: the disk's */

    struct pnx_shutdown_counts counts = {.size = sizeof(counts)};
    if (pnx_shutdown_report_counts(report, &counts))
        return 1;
    printf("%zu done, %zu failed, %zu abandoned, %zu leaked, %zu of them known\n", counts.done,
            counts.failed, counts.abandoned, counts.leaked + counts.suppressed, counts.suppressed);
    if (pnx_shutdown_report_each(report, name_unfinished, NULL) ||
            pnx_shutdown_report_write(report, PNX_REPORT_TEXT, print, stdout) ||
            pnx_shutdown_report_write(report, PNX_REPORT_JSON, print, stdout))
        return 1;
    pnx_shutdown_report_release(&report);
    pnx_registry_release(&registry);

    /* The process's own registry, in the last lines of main(); this one also frees what was retired. */
    if (pnx_shutdown(PNX_SEC, NULL))
        return 1;
    return rc == -EIO && counts.leaked == 1 ? 0 : 1;
}
