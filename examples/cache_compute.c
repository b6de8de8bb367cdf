/* SPDX-License-Identifier: Apache-2.0 */
/* A cache whose values are changed where they are: counters per key, values filled in place, retain, views. */
#include <patinox/cache.h>
#include <patinox/reclaim.h>

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* Counts up: may be called again when another thread did meanwhile, and so only decides. */
static int count(void *ctx, const struct pnx_cache_ref *now, struct pnx_cache_change *change) {
    const uint64_t *step = ctx;
    uint64_t n = 0;
    if (pnx_cache_ref_size(now) == sizeof(n))
        memcpy(&n, pnx_cache_ref_data(now), sizeof(n));
    n += *step;
    (void)pnx_cache_change_keep_ttl(change); /* the window began with the first one */
    return pnx_cache_change_set(change, &n, sizeof(n));
}

/* An atomic counter for each key: 10 a minute and client, say. */
static int count_requests(struct pnx_cache *cache, const char *client, uint64_t *ret_n) {
    uint64_t one = 1;
    PNX_AUTO_CACHE_REF ref = {0};
    int rc = pnx_cache_compute(cache, client, strlen(client), count, &one, &ref);
    if (rc == 0)
        memcpy(ret_n, pnx_cache_ref_data(&ref), sizeof(*ret_n));
    return rc;
}

/* Other decisions: a value made in place, a pointer, none. */
static int append(void *ctx, const struct pnx_cache_ref *now, struct pnx_cache_change *change) {
    void *data;
    size_t had = pnx_cache_ref_size(now);
    if (had > 12)
        return pnx_cache_change_remove(change);
    int rc = pnx_cache_change_reserve(change, had + 4, &data);
    if (rc)
        return rc;
    if (had > 0)
        memcpy(data, pnx_cache_ref_data(now), had);
    memcpy((char *)data + had, ctx, 4);
    return pnx_cache_change_ttl(change, 60 * PNX_SEC);
}

static int name_it(void *ctx, const struct pnx_cache_ref *now, struct pnx_cache_change *change) {
    if (pnx_cache_ref_data(now))
        return 0; /* stays as it is */
    return pnx_cache_change_set_pointer(change, ctx, 16);
}

static bool is_short(void *ctx, const struct pnx_cache_ref *ref) {
    (void)ctx;
    return pnx_cache_ref_size(ref) <= 8;
}

/* What read() would do: fills the entry itself, and may give less than was asked for. */
static int store_in_place(struct pnx_cache *cache) {
    PNX_AUTO_CACHE_RESERVATION r = {0}; /* aborted where it is not committed */
    int rc = pnx_cache_reserve(cache, "page", 4, 4096, &r);
    if (rc)
        return rc;
    int n = snprintf(r.data, r.size, "a page that was written where it is read");
    rc = pnx_cache_commit(&r, (size_t)n + 1, 0);
    if (rc)
        return rc;
    rc = pnx_cache_reserve(cache, "page", 4, 16, &r);
    if (rc == 0)
        rc = pnx_cache_commit_if_absent(&r, 16, 0);
    printf("commit_if_absent over it: %s\n", pnx_errname(rc));
    rc = pnx_cache_reserve(cache, "other", 5, 16, &r);
    pnx_cache_abort(&r); /* thought better of it */
    return rc;
}

static int load_page(
        void *ctx, const void *key, size_t key_size, pnx_ns deadline, struct pnx_cache_load *load) {
    void *data;
    (void)ctx;
    (void)deadline;
    int rc = pnx_cache_load_reserve(load, 256, &data);
    if (rc)
        return rc;
    int n = snprintf(data, 256, "loaded %.*s", (int)key_size, (const char *)key);
    return pnx_cache_load_shrink(load, (size_t)n + 1);
}

static int use(struct pnx_cache *cache) {
    uint64_t n = 0;
    int rc = 0;
    for (int i = 0; i < 3 && rc == 0; i++)
        rc = count_requests(cache, "10.0.0.1", &n);
    printf("10.0.0.1 has asked %" PRIu64 " times\n", n);
    for (int i = 0; i < 3 && rc == 0; i++)
        rc = pnx_cache_compute(cache, "log", 3, append, (void *)(uintptr_t) "tick", NULL);
    static char name[16] = "the owner's";
    if (rc == 0)
        rc = pnx_cache_compute(cache, "name", 4, name_it, name, NULL);
    if (rc == 0)
        rc = store_in_place(cache);
    PNX_AUTO_CACHE_REF ref = {0};
    if (rc == 0)
        rc = pnx_cache_get_or_load(
                cache, "index", 5, load_page, NULL, PNX_TIMEOUT_DEFAULT, NULL, &ref);
    if (rc)
        return rc;
    printf("%s\n", (char *)pnx_cache_ref_data(&ref));

    /* Reading in place: no copy, no count; the section must be short. */
    struct pnx_cache_bytes view;
    pnx_reclaim_enter(NULL);
    rc = pnx_cache_view(cache, "page", 4, &view);
    if (rc == 0)
        printf("%s (%zu bytes)\n", (const char *)view.data, view.size);
    pnx_reclaim_exit(NULL);
    if (rc)
        return rc;
    int64_t removed = pnx_cache_retain(cache, is_short, NULL);
    printf("%" PRId64 " that were longer than 8 bytes are gone\n", removed);
    return removed < 0 ? (int)removed : 0;
}

int main(void) {
    struct pnx_error err;
    struct pnx_cache *cache = NULL;
    int rc = pnx_cache_create(
            PNX_CACHE_OPTS(.name = "changes", .capacity = 1 << 20, .ttl = 60 * PNX_SEC), &err,
            &cache);
    if (rc) {
        fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    rc = use(cache);
    pnx_cache_release(&cache);
    printf("%s\n", pnx_strerror(rc));
    return rc != 0;
}
