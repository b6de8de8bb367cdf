/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A concurrent map from words to words: hits by page, counted by several threads.
 */
#include <patinox/cmap.h>

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

PNX_CMAP_DEFINE(hits, uint64_t, uint64_t)

static void must(int rc, const char *what) {
    if (rc < 0) {
        fprintf(stderr, "%s: %s\n", what, pnx_errname(rc));
        exit(1);
    }
}

/* Adds one: runs alone on its key, so that no count is lost. */
static int one_more(void *ctx, const uint64_t *current, uint64_t *ret_value) {
    (void)ctx;
    *ret_value = current ? *current + 1 : 1;
    return PNX_CMAP_STORE;
}

static void *visitor(void *arg) {
    struct pnx_cmap *map = arg;
    for (uint64_t i = 0; i < 1000; i++) {
        uint64_t page = i % 10;
        must(pnx_cmap_compute(map, &page, sizeof(page), one_more, NULL, NULL), "compute");
    }
    pnx_cmap_release(&map); /* the reference that main took for this thread */
    return NULL;
}

static int print(void *ctx, const void *key, size_t key_size, uint64_t value) {
    uint64_t page = 0;
    memcpy(&page, key, key_size);
    *(uint64_t *)ctx += value; /* no lock is held here: this may block, and use the map */
    return page == UINT64_MAX ? 1 : 0;
}

static bool is_popular(void *ctx, const void *key, size_t key_size, uint64_t value) {
    (void)ctx;
    (void)key;
    (void)key_size;
    return value > 100;
}

int main(void) {
    struct pnx_error err;
    struct pnx_cmap *map = NULL;
    must(hits_create(PNX_CMAP_OPTS(.name = "hits", .max_entries = 100000), &err, &map), "create");
    must(pnx_cmap_reserve(map, 1000), "reserve");

    pthread_t threads[4];
    for (int i = 0; i < 4; i++)
        if (pthread_create(&threads[i], NULL, visitor, pnx_cmap_ref(map)) != 0)
            return 1;
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);

    uint64_t count = 0;
    must(hits_get(map, 3, &count), "get");
    printf("page 3: %llu hits, %llu pages\n", (unsigned long long)count,
            (unsigned long long)pnx_cmap_len(map));

    /* Many at a time: the memory accesses of a batch overlap. */
    uint64_t pages[16], counts[16], found[1];
    for (uint64_t i = 0; i < 16; i++)
        pages[i] = i;
    int n = pnx_cmap_get_words(map, pages, 16, counts, found);
    must(n, "get_words");
    printf("%d of 16 pages were visited\n", n);

    must(hits_put(map, 77, 1), "put");
    if (hits_put_if_absent(map, 77, 5) != -EEXIST ||
            hits_replace_if(map, 77, 4, 6) != PNX_E_CONFLICT)
        return 1;
    must(hits_replace_if(map, 77, 1, 2), "replace_if");
    must(pnx_cmap_replace(map, &(uint64_t){77}, 8, 3, &count), "replace");
    if (hits_remove_if(map, 77, 9) != PNX_E_CONFLICT)
        return 1;

    uint64_t sum = 0, removed = 0;
    must(pnx_cmap_foreach(map, print, &sum), "foreach");
    must(pnx_cmap_retain(map, is_popular, NULL, &removed), "retain");
    printf("%llu hits in all; %llu unpopular page forgotten\n", (unsigned long long)sum,
            (unsigned long long)removed);

    must(hits_remove(map, 3), "remove");
    must(pnx_cmap_shrink(map), "shrink");
    struct pnx_cmap_stats stats = {.size = sizeof(stats)};
    must(pnx_cmap_read_stats(map, &stats), "read_stats");
    must(pnx_cmap_check(map, &err), "check");
    must(pnx_cmap_clear(map), "clear");
    printf("%llu came, %llu went\n", (unsigned long long)stats.inserts,
            (unsigned long long)stats.removes);
    pnx_cmap_release(&map);
    return 0;
}
