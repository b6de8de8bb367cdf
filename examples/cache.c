/* SPDX-License-Identifier: Apache-2.0 */
/* A cache as a bounded dictionary: put, get, pinned references, eviction, expiry, destructors, live limits. */
#include <patinox/cache.h>

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *cause_name(enum pnx_cache_cause cause) {
    static const char *const names[] = {
            "?", "removed", "replaced", "evicted", "expired", "cleared", "closed"};
    return names[cause];
}

/* Told of every value that leaves; frees those that are pointers of ours. */
static void on_destroy(void *ctx, const struct pnx_cache_removed *removed) {
    int *count = ctx;
    (*count)++;
    printf("  %.*s %s\n", (int)removed->key_size, (const char *)removed->key,
            cause_name(removed->cause));
    if (removed->key_size > 4 && memcmp(removed->key, "ptr:", 4) == 0)
        free(removed->value);
}

static int print_entry(void *ctx, const struct pnx_cache_ref *ref) {
    size_t n = 0;
    const char *key = pnx_cache_ref_key(ref, &n);
    (void)ctx;
    printf("  %.*s: %zu bytes\n", (int)n, key, pnx_cache_ref_size(ref));
    return 0; /* anything else would end the walk */
}

static int use(struct pnx_cache *cache) {
    /* Bytes are copied in; ttl 0 is the cache's own. */
    int rc = pnx_cache_put(cache, "greeting", 8, "hello", 6, 0);
    if (rc)
        return rc;

    /* A reference keeps the value readable, whatever happens to the entry. */
    PNX_AUTO_CACHE_REF ref = {0};
    rc = pnx_cache_get(cache, "greeting", 8, &ref);
    if (rc)
        return rc;
    rc = pnx_cache_remove(cache, "greeting", 8);
    printf("removed, and still %s (%zu bytes)\n", (char *)pnx_cache_ref_data(&ref),
            pnx_cache_ref_size(&ref));
    PNX_AUTO_CACHE_REF second = {0};
    if (rc == 0)
        rc = pnx_cache_ref_dup(&ref, &second);
    pnx_cache_ref_release(&ref); /* the destructor waits for the second reference */
    printf("last reference goes:\n");
    pnx_cache_ref_release(&second);

    /* A pointer of ours belongs to the cache once it is in; it counts as what we say. */
    char *page = rc == 0 ? malloc(4096) : NULL;
    if (!page)
        return rc ? rc : -ENOMEM;
    rc = pnx_cache_put_pointer_if_absent(cache, "ptr:page", 8, page, 4096, PNX_NEVER);
    if (rc) {
        free(page); /* refused: still ours */
        return rc;
    }
    page = malloc(8192); /* a newer one in its place: the destructor hears of the old one */
    rc = page ? pnx_cache_put_pointer(cache, "ptr:page", 8, page, 8192, PNX_NEVER) : -ENOMEM;
    if (rc) {
        free(page);
        return rc;
    }

    /* Only where nothing is. */
    rc = pnx_cache_put_if_absent(cache, "ptr:page", 8, "x", 1, 0);
    printf("put_if_absent over it: %s\n", pnx_errname(rc));

    /* Copy out: no reference to give back. */
    char buf[16];
    size_t size = 0;
    rc = pnx_cache_put(cache, "short", 5, "0123456789", 10, PNX_SEC);
    if (rc == 0)
        rc = pnx_cache_get_copy(cache, "short", 5, buf, sizeof(buf), &size);
    if (rc)
        return rc;
    printf("copied %zu bytes; the entry counts %zu\n", size, pnx_cache_cost(5, 10));

    /* Several keys of one size at once: their cache misses overlap. */
    char two[2][10];
    uint64_t found = 0;
    rc = pnx_cache_get_many(cache, "shortother", 5, 2, two, sizeof(two[0]), &found);
    if (rc < 0)
        return rc;
    printf("found %d of 2: %.10s\n", rc, found & 1 ? two[0] : "");
    printf("stored:\n");
    rc = pnx_cache_each(cache, print_entry, NULL);
    if (rc)
        return rc;

    /* More than fits: the least recently used go. */
    printf("filling:\n");
    for (int i = 0; i < 10 && rc == 0; i++) {
        char key[16];
        int n = snprintf(key, sizeof(key), "item %d", i);
        rc = pnx_cache_put(cache, key, (size_t)n, "value", 6, 0);
    }
    return rc;
}

int main(void) {
    int destroyed = 0;
    struct pnx_error err;
    struct pnx_cache *cache = NULL;
    struct pnx_cache_opts opts = *PNX_CACHE_OPTS(.name = "example", .capacity = 64 * 1024,
            .capacity_entries = 8, .policy = "lru", .destroy = on_destroy, .ctx = &destroyed,
            .curve_samples = 256);
    /* Options can come from a configuration as text. */
    int rc = pnx_cache_opts_set(&opts, "ttl", "10min", &err);
    if (rc == 0)
        rc = pnx_cache_create(&opts, &err, &cache);
    if (rc) {
        fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    rc = use(cache);

    /* Limits change while it lives; what is too much goes at once. */
    printf("shrinking to 2 entries:\n");
    if (rc == 0)
        rc = pnx_cache_resize(cache, 16 * 1024, 2, &err);
    if (rc == 0)
        rc = pnx_cache_set_ttl(cache, PNX_SEC, &err);

    /* An event loop calls tick when the last one said so; nothing is due here. */
    if (pnx_cache_tick(cache, pnx_now()) < pnx_now())
        rc = -EINVAL;

    struct pnx_cache_stats stats = {.size = sizeof(stats)};
    if (rc == 0)
        rc = pnx_cache_read_stats(cache, &stats);
    printf("hits %" PRIu64 ", misses %" PRIu64 ", bytes %" PRIu64 ", entries %" PRIu64 "\n",
            stats.hits, stats.misses, stats.bytes, stats.entries);

    /* Would it be worth while to be twice as large?  An estimate from the requests so far. */
    const double sizes[] = {0.5, 1, 2};
    double ratios[3];
    if (rc == 0)
        rc = pnx_cache_curve(cache, sizes, 3, ratios);
    if (rc == 0)
        printf("hit ratio at half the size %.2f, at this one %.2f, at twice %.2f\n", ratios[0],
                ratios[1], ratios[2]);

    printf("clearing:\n");
    if (rc == 0)
        rc = pnx_cache_clear(cache);
    if (rc == 0)
        rc = pnx_cache_check(cache, &err);
    printf("still referred to after close: %d\n", pnx_cache_close(cache));
    pnx_cache_release(&cache);
    printf("%d values destroyed: %s\n", destroyed, pnx_strerror(rc));
    return rc ? 1 : 0;
}
