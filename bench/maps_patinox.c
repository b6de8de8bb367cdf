/* SPDX-License-Identifier: Apache-2.0 */
/* maps_patinox.c - the share/cmap cases for us: words to words, default options. */
#include "share_patinox.h"

#include <patinox/cmap.h>

#include <stdio.h>

_Thread_local struct map_stream map_stream;

static void *map_fill(unsigned threads) {
    struct pnx_cmap *map = NULL;
    struct pnx_error err;
    (void)threads;
    if (pnx_cmap_create(PNX_CMAP_OPTS(.key_size = sizeof(uint64_t)), &err, &map)) {
        fprintf(stderr, "%s\n", err.message);
        return NULL;
    }
    for (uint64_t i = 0; i < MAP_ENTRIES; i++) {
        uint64_t key = map_key(i);
        if (pnx_cmap_put(map, &key, sizeof(key), i))
            abort();
    }
    return map;
}

static void map_enter_thread(void *state, unsigned index) {
    (void)state;
    map_stream = map_stream_make(index);
}

static void map_tear_down(void *state) {
    struct pnx_cmap *map = state;
    pnx_cmap_release(&map);
}

static inline void get(struct pnx_cmap *map, uint64_t key) {
    uint64_t value;
    if (pnx_cmap_get_word(map, key, &value))
        abort();
    BENCH_USE(value);
}

static void map_getting(void *state, unsigned index, uint64_t n) {
    (void)index;
    for (uint64_t i = 0; i < n; i++)
        get(state, map_stream.keys[map_next()]);
}

static void map_mixing(void *state, unsigned index, uint64_t n) {
    (void)index;
    for (uint64_t i = 0; i < n; i++) {
        uint32_t at = map_next();
        if (!map_stream.update[at]) {
            get(state, map_stream.keys[at]);
            continue;
        }
        uint64_t key = map_stream.keys[at];
        if (pnx_cmap_put(state, &key, sizeof(key), at))
            abort();
    }
}

/* Stream and n are multiples of the batch. */
static void map_getting_batches(void *state, unsigned index, uint64_t n) {
    (void)index;
    for (uint64_t i = 0; i < n; i += MAP_BATCH) {
        uint64_t values[MAP_BATCH], found[MAP_BATCH / 64];
        const uint64_t *keys = &map_stream.keys[map_stream.at];
        map_stream.at = (map_stream.at + MAP_BATCH) & (MAP_STREAM - 1);
        if (pnx_cmap_get_words(state, keys, MAP_BATCH, values, found) != MAP_BATCH)
            abort();
        for (uint32_t k = 0; k < MAP_BATCH; k++)
            BENCH_USE(values[k]);
    }
}

#define MAP_ROW(case_name, impl_name, does) \
    { \
        case_name, { \
            .name = impl_name, .set_up = map_fill, .work = does, .tear_down = map_tear_down, \
            .enter_thread = map_enter_thread \
        } \
    }

static const struct bench_row rows[] = {
        MAP_ROW("share/cmap-get", NULL, map_getting),
        MAP_ROW("share/cmap-mix", NULL, map_mixing),
        MAP_ROW("share/cmap-batch-get", "patinox-single", map_getting),
        MAP_ROW("share/cmap-batch-get", NULL, map_getting_batches),
        MAP_ROW("share/cmap-memory", NULL, NULL),
};

const struct bench_row *map_rows(size_t *ret_n) {
    *ret_n = sizeof(rows) / sizeof(rows[0]);
    return rows;
}
