/* SPDX-License-Identifier: Apache-2.0 */
/*
 * query.c - finding rows of a registry, and ending many: what an operator's command does to idle sessions.
 *
 * Sockets may be forced, since shutdown() is safe while others use them.  A buffer may not: its owner is asked, and
 * gives it up when it looks.
 */
#include <patinox/query.h>

#include <stdio.h>

static int hang_up(void *arg, const struct pnx_cancel *cancel) {
    (void)cancel;
    printf("hanging up %s\n", (const char *)arg);
    return 0;
}

static int print(void *ctx, const struct pnx_resource_info *info) {
    (void)ctx;
    printf("%s of tenant %llu, %llu bytes%s\n", info->type, (unsigned long long)info->owner,
            (unsigned long long)info->bytes, info->asked ? ", asked to end" : "");
    return 0;
}

int main(void) {
    static char first[] = "10.0.0.1", second[] = "10.0.0.2";
    struct pnx_registry *registry = NULL;
    pnx_resource_id one, other, buffer;
    int rc = pnx_registry_create(PNX_REGISTRY_OPTS(.name = "sessions"), NULL, &registry);
    if (rc == 0)
        rc = pnx_registry_add(registry,
                PNX_RESOURCE(.type = "socket", .cleanup = hang_up, .arg = first, .owner = 7,
                        .flags = PNX_RESOURCE_FORCEABLE),
                NULL, &one);
    if (rc == 0)
        rc = pnx_registry_add(registry,
                PNX_RESOURCE(.type = "socket", .cleanup = hang_up, .arg = second, .owner = 8,
                        .flags = PNX_RESOURCE_FORCEABLE),
                NULL, &other);
    if (rc == 0)
        rc = pnx_registry_add(
                registry, PNX_RESOURCE(.type = "buffer", .owner = 7, .bytes = 4096), NULL, &buffer);
    if (rc)
        return 1;

    /* Everything of tenant 7 has to go. */
    struct pnx_batch_result result = {.size = sizeof(result)};
    rc = pnx_registry_cleanup_where(registry, PNX_FILTER(.owner = 7), 0, PNX_SEC, &result);
    printf("%zu matched: %zu ended, %zu asked\n", result.matched, result.done, result.asked);
    if (rc == 0)
        rc = pnx_registry_query(registry, NULL, print, NULL);

    /* The buffer's owner looks now and then. */
    if (pnx_registry_asked(registry, buffer))
        (void)pnx_registry_remove(registry, buffer);
    if (rc == 0)
        rc = pnx_registry_force(registry, other);
    size_t left = pnx_registry_count(registry);
    pnx_registry_release(&registry);
    return rc || left ? 1 : 0;
}
