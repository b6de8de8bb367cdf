/* SPDX-License-Identifier: Apache-2.0 */
/* A warm restart: a cache is saved to a file, and another is filled from it, bytes and pointers. */
#include <patinox/cache.h>

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct city {
    char *name; /* points somewhere: as bytes it would be worthless */
    uint64_t people;
};

static void free_city(struct city *city) {
    free(city->name);
    free(city);
}

static void on_destroy(void *ctx, const struct pnx_cache_removed *removed) {
    (void)ctx;
    if (removed->value_size == sizeof(struct city))
        free_city(removed->value);
}

/* How a pointer becomes bytes ... */
static int write_city(void *ctx, const struct pnx_cache_ref *ref, struct pnx_cache_sink *sink) {
    const struct city *city = pnx_cache_ref_data(ref);
    (void)ctx;
    int rc = pnx_cache_sink_write(sink, &city->people, sizeof(city->people));
    return rc ? rc : pnx_cache_sink_write(sink, city->name, strlen(city->name));
}

/* ... and is made again. */
static int read_city(void *ctx, const void *key, size_t key_size, const void *data, size_t size,
        void **ret_value, size_t *ret_value_size) {
    (void)ctx, (void)key, (void)key_size;
    if (size < sizeof(uint64_t))
        return -ENOENT; /* leave it out */
    struct city *city = calloc(1, sizeof(*city));
    if (!city)
        return -ENOMEM;
    memcpy(&city->people, data, sizeof(city->people));
    city->name = strndup((const char *)data + sizeof(uint64_t), size - sizeof(uint64_t));
    if (!city->name) {
        free(city);
        return -ENOMEM;
    }
    *ret_value = city;
    *ret_value_size = sizeof(*city);
    return 0;
}

static const struct pnx_cache_file_opts *file_opts(const char *label) {
    static struct pnx_cache_file_opts opts;
    opts = (struct pnx_cache_file_opts){.size = sizeof(opts),
            .label = label, /* what the values were made from: with another, the file is refused */
            .serialize = write_city,
            .deserialize = read_city};
    return &opts;
}

static int fill(struct pnx_cache *cache) {
    struct city *city = calloc(1, sizeof(*city));
    if (!city)
        return -ENOMEM;
    *city = (struct city){.name = strdup("Basel"), .people = 178000};
    int rc = city->name ? pnx_cache_put_pointer(cache, "BSL", 3, city, sizeof(*city), 0) : -ENOMEM;
    if (rc)
        free_city(city);
    for (uint64_t i = 0; i < 100 && rc == 0; i++)
        rc = pnx_cache_put(cache, &i, sizeof(i), "bytes", 6, 60 * PNX_SEC);
    return rc;
}

static int run(const char *path, struct pnx_error *err) {
    const struct pnx_cache_opts *opts =
            PNX_CACHE_OPTS(.name = "cities", .capacity = 1 << 20, .destroy = on_destroy);
    struct pnx_cache_file_report report = {.size = sizeof(report)};
    struct pnx_cache *cache = NULL;
    int rc = pnx_cache_create(opts, err, &cache);
    if (rc == 0)
        rc = fill(cache);
    if (rc == 0)
        rc = pnx_cache_save(cache, path, file_opts("census 2026"), err, &report);
    printf("saved %" PRIu64 " entries in %" PRIu64 " bytes\n", report.entries, report.file_bytes);
    pnx_cache_release(&cache);

    /* The next start. */
    if (rc == 0)
        rc = pnx_cache_create(opts, err, &cache);
    if (rc == 0 && pnx_cache_load_file(cache, path, file_opts("census 2027"), err, NULL))
        printf("refused: saved under another label\n"); /* the cache is as it was */
    if (rc == 0)
        rc = pnx_cache_load_file(cache, path, file_opts("census 2026"), err, &report);
    if (rc == 0) {
        PNX_AUTO_CACHE_REF ref = {0};
        rc = pnx_cache_get(cache, "BSL", 3, &ref);
        const struct city *city = pnx_cache_ref_data(&ref);
        if (rc == 0)
            printf("loaded %" PRIu64 " entries; %s has %" PRIu64 " people\n", report.entries,
                    city->name, city->people);
    }
    pnx_cache_release(&cache);
    return rc;
}

int main(void) {
    struct pnx_error err = {0};
    char folder[] = "/tmp/cache_file-XXXXXX", path[64];
    if (!mkdtemp(folder))
        return 1;
    snprintf(path, sizeof(path), "%s/cities", folder);
    int rc = run(path, &err);
    if (rc)
        fprintf(stderr, "%s\n", err.message);
    remove(path);
    remove(folder);
    return rc != 0;
}
