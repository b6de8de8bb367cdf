/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A cache of fixed sizes that loads what it lacks, counts in place, and survives a restart: how often each client has asked of
 * late, from the numbers of clients to their quotas.
 */
#include <patinox/cache.h>

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

struct quota {
    uint64_t used;
    uint64_t most;
};

PNX_CACHE_DEFINE(quotas, uint32_t, struct quota)

/* Stands for a query: whatever number of threads asks for a client, one of them runs it. */
static int load_quota(void *ctx, uint32_t client, pnx_ns deadline, struct quota *ret_quota) {
    (void)deadline;
    if (client >= 1000)
        return -ENOENT; /* told to all who wait, and not remembered */
    ++*(int *)ctx;
    *ret_quota = (struct quota){.most = 2 + client % 3};
    return 0;
}

/* May be called again, when another thread has changed the key meanwhile: it has no effect but its decision. */
static int use_one(void *ctx, const struct quota *now, struct pnx_cache_change *change) {
    (void)ctx;
    if (!now)
        return -ENOENT;
    if (now->used == now->most)
        return -EBUSY;
    return quotas_change_set(change, (struct quota){.used = now->used + 1, .most = now->most});
}

static int ask(struct pnx_cache *cache, uint32_t client, int *loads) {
    struct pnx_error err = {0};
    struct quota quota;
    int rc = quotas_get_or_load(cache, client, load_quota, loads, PNX_SEC, &err, &quota);
    if (rc == 0)
        rc = quotas_compute(cache, client, use_one, NULL, &quota, NULL);
    if (rc == 0)
        printf("client %" PRIu32 ": %" PRIu64 " of %" PRIu64 "\n", client, quota.used, quota.most);
    else
        printf("client %" PRIu32 ": %s\n", client, pnx_strerror(rc));
    return rc;
}

static bool has_used_some(void *ctx, uint32_t client, struct quota quota) {
    (void)ctx, (void)client;
    return quota.used > 0;
}

/* The same without types, for sizes that are known at run time only. */
static int load_bytes(
        void *ctx, const void *key, size_t key_size, pnx_ns deadline, struct pnx_cache_load *load) {
    const struct quota quota = {.most = 5};
    (void)ctx, (void)key, (void)key_size, (void)deadline;
    int rc = pnx_cache_load_set_ttl(load, PNX_SEC);
    return rc ? rc : pnx_cache_load_set(load, &quota, sizeof(quota));
}

static int double_most(
        void *ctx, const void *now, size_t now_size, struct pnx_cache_change *change) {
    struct quota quota;
    (void)ctx;
    if (!now)
        return -ENOENT;
    memcpy(&quota, now, now_size);
    quota.most *= 2;
    int rc = pnx_cache_change_keep_ttl(change);
    return rc ? rc : pnx_cache_change_set(change, &quota, sizeof(quota));
}

static bool is_small(void *ctx, const void *key, const void *value) {
    struct quota quota;
    (void)ctx, (void)key;
    memcpy(&quota, value, sizeof(quota));
    return quota.most < 10;
}

static int use_bytes(struct pnx_cache *cache) {
    struct pnx_error err = {0};
    struct quota quota = {0};
    uint32_t key = 7;
    size_t size = 0;
    int rc = pnx_cache_get_or_load_copy(
            cache, &key, sizeof(key), load_bytes, NULL, 0, &err, &quota, sizeof(quota), &size);
    if (rc == 0)
        rc = pnx_cache_compute_copy(
                cache, &key, sizeof(key), double_most, NULL, &quota, sizeof(quota), &size);
    if (rc || size != sizeof(quota) || quota.most != 10)
        return -EINVAL;
    return pnx_cache_retain_copy(cache, is_small, NULL) == 1 ? 0 : -EINVAL;
}

int main(void) {
    static const char path[] = "quotas.cache";
    const struct pnx_cache_opts *opts = PNX_CACHE_OPTS(.name = "quotas", .capacity_entries = 10000);
    struct pnx_cache *cache = NULL, *next = NULL;
    struct pnx_error err = {0};
    struct quota quota = {0};
    int loads = 0;
    int rc = quotas_create(opts, &err, &cache);
    if (rc) {
        fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    for (int i = 0; i < 2; i++)
        rc |= ask(cache, 3, &loads);
    bool refused = ask(cache, 3, &loads) == -EBUSY && ask(cache, 5000, &loads) == -ENOENT;
    rc |= quotas_get_or_load(cache, 4, load_quota, &loads, PNX_SEC, &err, &quota);
    printf("%d loads; %" PRId64 " client has used nothing\n", loads,
            quotas_retain(cache, has_used_some, NULL));
    rc |= use_bytes(cache);

    /* The next process has them again. */
    rc |= pnx_cache_save(cache, path, PNX_CACHE_FILE_OPTS(.label = "quotas 1"), &err, NULL);
    pnx_cache_release(&cache);
    rc |= quotas_create(opts, &err, &next);
    if (rc == 0)
        rc = pnx_cache_load_file(next, path, PNX_CACHE_FILE_OPTS(.label = "quotas 1"), &err, NULL);
    if (rc == 0)
        rc = quotas_get(next, 3, &quota);
    pnx_cache_release(&next);
    (void)remove(path);
    if (rc)
        fprintf(stderr, "%s\n", err.message);
    return rc != 0 || !refused || loads != 2 || quota.used != 2;
}
