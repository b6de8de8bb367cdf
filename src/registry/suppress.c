/* SPDX-License-Identifier: Apache-2.0 */
/*
 * registry/suppress.c - known leaks: a list of patterns that only grows, and is read without a lock.
 *
 *   P1  A pattern is published whole, and stays until the registry goes.
 */
#include "registry/suppress.h"
#include "base/env.h"

#include <string.h>

/* Fixed once published. */
struct pnx_suppression {
    struct pnx_suppression *next;
    uint32_t count;   /* this one and those behind it */
    size_t size;      /* of the block */
    const char *type; /* NULL: any */
    const char *site;
    char text[];
};

static bool matches(const char *pattern, const char *text) {
    if (!pattern)
        return true;
    size_t n = strlen(pattern);
    if (n && pattern[n - 1] == '*')
        return strncmp(pattern, text, n - 1) == 0;
    return strcmp(pattern, text) == 0;
}

bool pnx__suppressed(const struct pnx_registry *registry, const char *type, const char *site) {
    /* Acquire: pairs with suppress.add. */
    const struct pnx_suppression *one =
            pnx_load(&registry->suppressions, PNX_ACQUIRE, "suppress.list");
    for (; one; one = one->next) {
        if (matches(one->type, type) && matches(one->site, site))
            return true;
    }
    return false;
}

bool pnx__registry_suppressed(const struct pnx_registry *registry, const struct pnx_row *row) {
    return pnx__suppressed(registry, row->type, row->site);
}

/* Adds a pattern of two pieces of text; a NULL piece stands for any. */
static int add(struct pnx_registry *registry, const char *type, size_t type_size, const char *site,
        size_t site_size) {
    size_t size = sizeof(struct pnx_suppression) + type_size + 1 + site_size + 1;
    struct pnx_suppression *one = pnx__alloc(&registry->env, 1, size);
    if (!one)
        return -ENOMEM;
    one->size = size;
    if (type) {
        memcpy(one->text, type, type_size); /* the memory is zeroed */
        one->type = one->text;
    }
    if (site) {
        memcpy(one->text + type_size + 1, site, site_size);
        one->site = one->text + type_size + 1;
    }
    void *first =
            pnx_load(&registry->suppressions, PNX_ACQUIRE, "suppress.look"); /* suppress.add */
    do {
        one->next = first;
        one->count = one->next ? one->next->count + 1 : 1;
        if (one->count > PNX_SUPPRESSIONS_MAX) {
            pnx__free(&registry->env, one, 1, size);
            return -EBUSY;
        }
        /* Release: pairs with suppress.list; acquire where it fails: who is added behind another reads its count. */
    } while (!pnx_cas_acquire(&registry->suppressions, &first, one, PNX_RELEASE, "suppress.add"));
    return 0;
}

int pnx_registry_suppress(struct pnx_registry *registry, const char *type, const char *site) {
    registry = pnx__registry_resolve(registry);
    if (!type && !site)
        return -EINVAL;
    if (registry->off)
        return 0;
    return add(registry, type, type ? strlen(type) : 0, site, site ? strlen(site) : 0);
}

int pnx__suppress_all(struct pnx_registry *registry, const char *list) {
    while (*list) {
        size_t n = strcspn(list, ",");
        const char *at = memchr(list, '@', n);
        if (!at)
            return -EINVAL;
        int rc = add(registry, list, (size_t)(at - list), at + 1, n - (size_t)(at - list) - 1);
        if (rc)
            return rc;
        list += n + (list[n] == ',');
    }
    return 0;
}

void pnx__suppressions_free(struct pnx_registry *registry) {
    struct pnx_suppression *one = registry->suppressions.v;
    while (one) {
        struct pnx_suppression *next = one->next;
        pnx__free(&registry->env, one, 1, one->size);
        one = next;
    }
}
