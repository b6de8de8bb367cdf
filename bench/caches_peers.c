/* SPDX-License-Identifier: Apache-2.0 */
/*
 * caches_peers.c - the peer in C of the cache cases: what one writes by hand with GLib, a hash table over a list in order of use,
 * under a mutex.  Hashes are those of the other peers' quality: the finaliser of splitmix64.
 */
#include "bench.h"
#include "caches.h"

#ifdef HAVE_GLIB
#include <glib.h>
#include <pthread.h>

struct node {
    struct node *newer;
    struct node *older;
    uint64_t value;
    char key[CACHE_TEXT]; /* the first 8 bytes, where keys are numbers */
};

struct lru {
    pthread_mutex_t lock;
    GHashTable *table; /* of nodes, each its own key */
    struct node ring;  /* newer: the oldest; older: the newest */
    uint64_t held;
    uint64_t most;
    size_t key_size;
    uint64_t next; /* of cache/insert-evict */
};

static guint hash_number(gconstpointer node) {
    uint64_t key;
    memcpy(&key, ((const struct node *)node)->key, sizeof(key));
    return (guint)(cache_mix(key) >> 32);
}
static gboolean same_number(gconstpointer a, gconstpointer b) {
    return memcmp(((const struct node *)a)->key, ((const struct node *)b)->key, 8) == 0;
}
static guint hash_text(gconstpointer node) {
    uint64_t words[CACHE_TEXT / 8];
    memcpy(words, ((const struct node *)node)->key, CACHE_TEXT);
    return (guint)(cache_mix(words[0] ^ cache_mix(words[1] ^ cache_mix(words[2]))) >> 32);
}
static gboolean same_text(gconstpointer a, gconstpointer b) {
    return memcmp(((const struct node *)a)->key, ((const struct node *)b)->key, CACHE_TEXT) == 0;
}

static void unlink_node(struct node *node) {
    node->newer->older = node->older;
    node->older->newer = node->newer;
}
static void link_newest(struct lru *lru, struct node *node) {
    node->older = lru->ring.older;
    node->newer = &lru->ring;
    node->older->newer = node;
    lru->ring.older = node;
}

static bool get(struct lru *lru, const void *key, uint64_t *ret_value) {
    struct node probe;
    memcpy(probe.key, key, lru->key_size);
    pthread_mutex_lock(&lru->lock);
    struct node *node = g_hash_table_lookup(lru->table, &probe);
    if (node) {
        unlink_node(node);
        link_newest(lru, node);
        *ret_value = node->value;
    }
    pthread_mutex_unlock(&lru->lock);
    return node != NULL;
}

static void put(struct lru *lru, const void *key, uint64_t value) {
    struct node *node = malloc(sizeof(*node)), *gone = NULL;
    if (!node)
        abort();
    memcpy(node->key, key, lru->key_size);
    node->value = value;
    pthread_mutex_lock(&lru->lock);
    gone = g_hash_table_lookup(lru->table, node);
    if (!gone && lru->held == lru->most)
        gone = lru->ring.newer;
    if (gone) {
        g_hash_table_remove(lru->table, gone);
        unlink_node(gone);
        lru->held--;
    }
    g_hash_table_add(lru->table, node);
    link_newest(lru, node);
    lru->held++;
    pthread_mutex_unlock(&lru->lock);
    free(gone);
}

static struct lru *make(uint64_t most, bool texts) {
    static struct lru lru;
    pthread_mutex_init(&lru.lock, NULL);
    lru.ring.newer = lru.ring.older = &lru.ring;
    lru.table = texts ? g_hash_table_new(hash_text, same_text)
                      : g_hash_table_new(hash_number, same_number);
    lru.key_size = texts ? CACHE_TEXT : 8;
    lru.most = most;
    return &lru;
}

static void put_number(struct lru *lru, uint64_t i) {
    uint64_t key = cache_key(i);
    put(lru, &key, i);
}

static void *fill(unsigned threads) {
    struct lru *lru = make(2 * CACHE_ENTRIES, false);
    (void)threads;
    for (uint64_t i = 0; i < CACHE_ENTRIES; i++)
        put_number(lru, i);
    return lru;
}
static void *fill_texts(unsigned threads) {
    struct lru *lru = make(2 * CACHE_ENTRIES, true);
    (void)threads;
    for (uint64_t i = 0; i < CACHE_ENTRIES; i++) {
        char text[CACHE_TEXT];
        cache_text(i, text);
        put(lru, text, i);
    }
    return lru;
}
static void *fill_for_memory(unsigned threads) {
    struct lru *lru = make(CACHE_MEMORY, false);
    (void)threads;
    for (uint64_t i = 0; i < CACHE_MEMORY; i++)
        put_number(lru, i);
    return lru;
}
static void *begin_mixed(unsigned threads) {
    (void)threads;
    return make(CACHE_MIXED_ENTRIES, false);
}
static void *begin_inserts(unsigned threads) {
    struct lru *lru = make(CACHE_ENTRIES, false);
    (void)threads;
    for (; lru->next < 2 * CACHE_ENTRIES; lru->next++)
        put_number(lru, lru->next);
    return lru;
}

static _Thread_local unsigned char *keys; /* in the order of the stream */
static _Thread_local uint32_t at;
static _Thread_local uint64_t asked, found;

static void make_keys(unsigned index, uint32_t n, double theta, bool texts) {
    uint32_t *stream = cache_stream_make(index, n, theta);
    size_t size = texts ? CACHE_TEXT : 8;
    keys = malloc(CACHE_STREAM * size);
    if (!keys)
        abort();
    for (size_t i = 0; i < CACHE_STREAM; i++) {
        uint64_t key = cache_key(stream[i]);
        if (texts)
            cache_text(stream[i], (char *)keys + i * size);
        else
            memcpy(keys + i * size, &key, size);
    }
    free(stream);
}
static void enter_uniform(void *state, unsigned index) {
    (void)state;
    make_keys(index, CACHE_ENTRIES, 0, false);
}
static void enter_zipf(void *state, unsigned index) {
    (void)state;
    make_keys(index, CACHE_ENTRIES, 0.99, false);
}
static void enter_mixed(void *state, unsigned index) {
    (void)state;
    make_keys(index, CACHE_MIXED_KEYS, 0.99, false);
}
static void enter_texts(void *state, unsigned index) {
    (void)state;
    make_keys(index, CACHE_ENTRIES, 0, true);
}

static const void *next_key(const struct lru *lru) {
    const void *key = keys + at * lru->key_size;
    at = (at + 1) & (CACHE_STREAM - 1);
    return key;
}

static void hit(void *state, unsigned index, uint64_t n) {
    (void)index;
    for (uint64_t i = 0; i < n; i++) {
        uint64_t value;
        if (!get(state, next_key(state), &value))
            abort();
        BENCH_USE(value);
    }
}
static void mixed(void *state, unsigned index, uint64_t n) {
    (void)index;
    for (uint64_t i = 0; i < n; i++) {
        const void *key = next_key(state);
        uint64_t value = 0;
        asked++;
        if (get(state, key, &value))
            found++;
        else
            put(state, key, i);
        BENCH_USE(value);
    }
}
static void insert(void *state, unsigned index, uint64_t n) {
    struct lru *lru = state;
    (void)index;
    for (uint64_t i = 0; i < n; i++)
        put_number(lru, lru->next++);
}

static uint64_t all_asked, all_found; /* with __atomic */
static void leave_mixed(void *state, unsigned index) {
    (void)state, (void)index;
    __atomic_add_fetch(&all_asked, asked, __ATOMIC_RELAXED);
    __atomic_add_fetch(&all_found, found, __ATOMIC_RELAXED);
}
static void tell_hits(void *state, FILE *out) {
    (void)state;
    fprintf(out, ",\"hit_ratio\":%.4f", (double)all_found / (double)all_asked);
}

#define ROW(case_name, fills, enters, does) \
    { \
        case_name, { \
            .set_up = fills, .work = does, .enter_thread = enters \
        } \
    }
static const struct bench_row rows[] = {
        ROW("cache/hit-int-uniform", fill, enter_uniform, hit),
        ROW("cache/hit-int-zipf", fill, enter_zipf, hit),
        ROW("cache/hit-str", fill_texts, enter_texts, hit),
        ROW("cache/insert-evict", begin_inserts, NULL, insert),
        ROW("cache/memory", fill_for_memory, NULL, NULL),
        {"cache/mixed", {.set_up = begin_mixed,
                                .work = mixed,
                                .enter_thread = enter_mixed,
                                .leave_thread = leave_mixed,
                                .fields = tell_hits}},
};
#endif

int main(int argc, char **argv) {
    struct bench_args args = bench_parse(argc, argv);
#ifdef HAVE_GLIB
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct bench_impl impl = rows[i].impl;
        if (strcmp(rows[i].case_name, args.case_name) != 0)
            continue;
        impl.name = "ghashtable-lru";
        impl.version = GLIB_VERSION;
        if (strcmp(args.case_name, "cache/memory") == 0)
            return bench_memory(&args, &impl, CACHE_MEMORY);
        return bench_cycle(&args, &impl);
    }
    printf("{\"missing\":\"this program does not measure it\"}\n");
#else
    (void)args;
    printf("{\"missing\":\"GLib was not found\"}\n");
#endif
    return 0;
}
