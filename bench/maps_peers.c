/* SPDX-License-Identifier: Apache-2.0 */
/*
 * maps_peers.c - the peers in C of the share/cmap cases: rculfhash, ck_ht with writers under a mutex, and GLib's hash
 * table under a pthread rwlock.  All hash by the same finaliser.  None is torn down: cds_lfht_destroy() of
 * liburcu 0.13.2 can hang.
 */
#define _LGPL_SOURCE

#include "share_peers.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

_Thread_local struct map_stream map_stream;

/* A loop over the thread's stream; get and put are the map's, inlined. */
#define MAP_GET_LOOP(name, get) \
    static void name(void *state, unsigned index, uint64_t n) { \
        (void)index; \
        for (uint64_t i = 0; i < n; i++) \
            BENCH_USE(get(state, map_stream.keys[map_next()])); \
    }
#define MAP_MIX_LOOP(name, get, put) \
    static void name(void *state, unsigned index, uint64_t n) { \
        (void)index; \
        for (uint64_t i = 0; i < n; i++) { \
            uint32_t at = map_next(); \
            if (map_stream.update[at]) \
                put(state, map_stream.keys[at], at); \
            else \
                BENCH_USE(get(state, map_stream.keys[at])); \
        } \
    }
#define MAP_ROWS(impl_name, impl_version, fill, getting, mixing, enter, leave) \
    {"share/cmap-get", {.name = impl_name, \
                               .version = impl_version, \
                               .set_up = fill, \
                               .work = getting, \
                               .enter_thread = enter, \
                               .leave_thread = leave}}, \
            {"share/cmap-mix", {.name = impl_name, \
                                       .version = impl_version, \
                                       .set_up = fill, \
                                       .work = mixing, \
                                       .enter_thread = enter, \
                                       .leave_thread = leave}}, \
    { \
        "share/cmap-memory", { \
            .name = impl_name, .version = impl_version, .set_up = fill \
        } \
    }

static void enter_thread(void *state, unsigned index) {
    (void)state;
    map_stream = map_stream_make(index);
}

#ifdef HAVE_GLIB
#include <glib.h>

/* 64-bit keys and values fit GLib's pointers, so nothing is allocated for an entry. */
struct locked_table {
    pthread_rwlock_t lock;
    GHashTable *table;
};

static guint glib_hash(gconstpointer key) {
    return (guint)map_mix((uint64_t)(uintptr_t)key);
}

static inline uint64_t glib_get(void *state, uint64_t key) {
    struct locked_table *map = state;
    pthread_rwlock_rdlock(&map->lock);
    uint64_t value = (uint64_t)(uintptr_t)g_hash_table_lookup(map->table, (void *)(uintptr_t)key);
    pthread_rwlock_unlock(&map->lock);
    return value;
}

static inline void glib_put(void *state, uint64_t key, uint64_t value) {
    struct locked_table *map = state;
    pthread_rwlock_wrlock(&map->lock);
    g_hash_table_insert(map->table, (void *)(uintptr_t)key, (void *)(uintptr_t)value);
    pthread_rwlock_unlock(&map->lock);
}

static void *glib_fill(unsigned threads) {
    static struct locked_table map;
    (void)threads;
    pthread_rwlock_init(&map.lock, NULL);
    map.table = g_hash_table_new(glib_hash, g_direct_equal);
    for (uint64_t i = 0; i < MAP_ENTRIES; i++)
        glib_put(&map, map_key(i), i);
    return &map;
}
MAP_GET_LOOP(glib_getting, glib_get)
MAP_MIX_LOOP(glib_mixing, glib_get, glib_put)
#endif

#ifdef HAVE_CK
#include <ck_ht.h>

/* ck_ht allows one writer at a time; here tables only grow while there is one thread, so the old ones are freed
 * at once. */
struct ck_map {
    ck_ht_t table;
    pthread_mutex_t writers;
};

static void ck_hash(struct ck_ht_hash *ret_hash, const void *key, size_t length, uint64_t seed) {
    uint64_t value;
    (void)length;
    memcpy(&value, key, sizeof(value));
    ret_hash->value = map_mix(value ^ seed);
}

static void *ck_alloc(size_t size) {
    return malloc(size);
}

static void ck_free(void *block, size_t size, bool defer) {
    (void)size;
    (void)defer;
    free(block);
}

static inline uint64_t ck_get(void *state, uint64_t key) {
    struct ck_map *map = state;
    ck_ht_hash_t hash;
    ck_ht_entry_t entry;
    ck_ht_hash_direct(&hash, &map->table, key);
    ck_ht_entry_key_set_direct(&entry, key);
    if (!ck_ht_get_spmc(&map->table, hash, &entry))
        abort();
    return ck_ht_entry_value_direct(&entry);
}

static inline void ck_put(void *state, uint64_t key, uint64_t value) {
    struct ck_map *map = state;
    ck_ht_hash_t hash;
    ck_ht_entry_t entry;
    ck_ht_hash_direct(&hash, &map->table, key);
    ck_ht_entry_set_direct(&entry, hash, key, value);
    pthread_mutex_lock(&map->writers);
    if (!ck_ht_set_spmc(&map->table, hash, &entry))
        abort();
    pthread_mutex_unlock(&map->writers);
}

static void *ck_fill(unsigned threads) {
    static struct ck_map map;
    static struct ck_malloc allocator = {.malloc = ck_alloc, .free = ck_free};
    (void)threads;
    pthread_mutex_init(&map.writers, NULL);
    if (!ck_ht_init(&map.table, CK_HT_MODE_DIRECT, ck_hash, &allocator, 64, 42))
        return NULL;
    for (uint64_t i = 0; i < MAP_ENTRIES; i++)
        ck_put(&map, map_key(i), i);
    return &map;
}
MAP_GET_LOOP(ck_getting, ck_get)
MAP_MIX_LOOP(ck_mixing, ck_get, ck_put)
#endif

#ifdef HAVE_URCU
#include <urcu/urcu-memb.h>

#include <urcu/rculfhash.h>

/* The faster of two forms: buckets made beforehand, without the resizing worker; and since the value is one
 * word, an update stores it in place (the other form replaces the node and retires the old one). */
struct lfht_entry {
    struct cds_lfht_node node;
    uint64_t key;
    uint64_t value;
};

static int lfht_match(struct cds_lfht_node *node, const void *key) {
    return caa_container_of(node, struct lfht_entry, node)->key == *(const uint64_t *)key;
}

static inline struct lfht_entry *lfht_find(struct cds_lfht *table, uint64_t key) {
    struct cds_lfht_iter iter;
    cds_lfht_lookup(table, map_mix(key), lfht_match, &key, &iter);
    struct cds_lfht_node *node = cds_lfht_iter_get_node(&iter);
    if (!node)
        abort();
    return caa_container_of(node, struct lfht_entry, node);
}

static inline uint64_t lfht_get(void *state, uint64_t key) {
    urcu_memb_read_lock();
    uint64_t value = CMM_LOAD_SHARED(lfht_find(state, key)->value);
    urcu_memb_read_unlock();
    return value;
}

static inline void lfht_put(void *state, uint64_t key, uint64_t value) {
    urcu_memb_read_lock();
    uatomic_set(&lfht_find(state, key)->value, value);
    urcu_memb_read_unlock();
}

static void *lfht_fill(unsigned threads) {
    (void)threads;
    urcu_memb_register_thread();
    struct cds_lfht *table = cds_lfht_new_flavor(1u << 20, 1u << 20, 0, 0, &urcu_memb_flavor, NULL);
    for (uint64_t i = 0; table && i < MAP_ENTRIES; i++) {
        struct lfht_entry *entry = malloc(sizeof(*entry));
        if (!entry)
            return NULL;
        cds_lfht_node_init(&entry->node);
        entry->key = map_key(i);
        entry->value = i;
        urcu_memb_read_lock();
        cds_lfht_add(table, map_mix(entry->key), &entry->node);
        urcu_memb_read_unlock();
    }
    return table;
}

static void lfht_enter_thread(void *state, unsigned index) {
    urcu_memb_register_thread();
    enter_thread(state, index);
}

static void lfht_leave_thread(void *state, unsigned index) {
    (void)state;
    (void)index;
    urcu_memb_unregister_thread();
}
MAP_GET_LOOP(lfht_getting, lfht_get)
MAP_MIX_LOOP(lfht_mixing, lfht_get, lfht_put)
#endif

/* clang-format off */
static const struct bench_row rows[] = {
#ifdef HAVE_GLIB
    MAP_ROWS("ghashtable-rwlock", GLIB_VERSION, glib_fill, glib_getting, glib_mixing, enter_thread, NULL),
#endif
#ifdef HAVE_CK
    MAP_ROWS("ck_ht", CK_VERSION, ck_fill, ck_getting, ck_mixing, enter_thread, NULL),
#endif
#ifdef HAVE_URCU
    MAP_ROWS("rculfhash", URCU_VERSION, lfht_fill, lfht_getting, lfht_mixing, lfht_enter_thread, lfht_leave_thread),
#endif
};
/* clang-format on */

const struct bench_row *map_peers(size_t *ret_n) {
    (void)enter_thread; /* without any package there is no row that names it */
    *ret_n = sizeof(rows) / sizeof(rows[0]);
    return rows;
}
