/* SPDX-License-Identifier: Apache-2.0 */
/* test_cmap_check.c - pnx_cmap_check() sees each thing that other tests rely on it to see. */
#include "harness/harness.h"
#include "share/cmap_hash.h"
#include "share/cmap_table.h"

#include <patinox/rc.h>

static const uint64_t key = 42;

/* The check says so while a word has another value, and nothing once it has its own again. */
static void check_sees(
        struct pnx_cmap *map, void *word, const void *other, size_t size, const char *said) {
    unsigned char own[sizeof(uint64_t)];
    struct pnx_error err = {0};
    memcpy(own, word, size);
    CHECK(memcmp(own, other, size) != 0);
    memcpy(word, other, size);
    CHECK_EQ(pnx_cmap_check(map, &err), PNX_E_BROKEN);
    CHECK_CONTAINS(err.message, said);
    memcpy(word, own, size);
    CHECK_MSG(pnx_cmap_check(map, &err) == 0, "%s", err.message);
}

static void check_sees_word(
        struct pnx_cmap *map, struct pnx_a64 *word, uint64_t other, const char *said) {
    check_sees(map, word, &other, sizeof(other), said);
}

static void end(struct pnx_cmap **map) {
    pnx_cmap_release(map);
    CHECK_EQ(pnx_reclaim_barrier(NULL, PNX_NEVER), 0);
}

static struct pnx_cmap *one_entry(void) {
    struct pnx_cmap *map = NULL;
    CHECK_EQ(pnx_cmap_create(PNX_CMAP_OPTS(.key_size = sizeof(key), .shards = 2), NULL, &map), 0);
    CHECK_EQ(pnx_cmap_put(map, &key, sizeof(key), 7), 0);
    return map;
}

static struct pnx_cmap_shard *shard_of(struct pnx_cmap *map) {
    return &map->shards[pnx__cmap_hash_word(map, key) & map->shard_mask];
}

/* The slot of the key, alone in its shard. */
static uint64_t slot_of(struct pnx_cmap *map) {
    return pnx__cmap_bucket(shard_of(map)->table, pnx__cmap_hash_word(map, key)) * PNX_CMAP_BUCKET;
}

TEST(a_slot_that_is_not_in_order_is_seen) {
    struct pnx_cmap *map = one_entry();
    struct pnx_cmap_table *table = shard_of(map)->table;
    uint64_t full = slot_of(map);
    uint64_t empty = (full + PNX_CMAP_BUCKET) % (table->n_buckets * PNX_CMAP_BUCKET);
    CHECK(table->n_buckets > 1);
    check_sees_word(map, &table->slots[empty].value, 7, "a value without a key");
    check_sees_word(map, &table->slots[empty + 1].key, 7, "a bucket has a gap");
    check_sees_word(map, &table->slots[full].value, PNX_CMAP_MOVED, "a slot was moved to nowhere");
    end(&map);
}

/* A secret with which the key would stand elsewhere: in another bucket, or in the same one of the other shard. */
static uint64_t other_secret(struct pnx_cmap *map, bool other_shard) {
    const struct pnx_cmap_table *table = shard_of(map)->table;
    uint64_t own = map->secret[0];
    uint64_t hash = pnx__cmap_hash_word(map, key);
    for (;;) {
        map->secret[0]++;
        uint64_t other = pnx__cmap_hash_word(map, key);
        bool moves = pnx__cmap_bucket(table, other) != pnx__cmap_bucket(table, hash);
        bool leaves = ((other ^ hash) & map->shard_mask) != 0;
        if (other_shard ? leaves && !moves : moves)
            break;
    }
    uint64_t found = map->secret[0];
    map->secret[0] = own;
    return found;
}

TEST(a_key_where_lookups_do_not_come_by_is_seen) {
    struct pnx_cmap *map = one_entry();
    uint64_t secret = other_secret(map, false);
    check_sees(map, &map->secret[0], &secret, sizeof(secret), "a key cannot be found");
    secret = other_secret(map, true);
    check_sees(map, &map->secret[0], &secret, sizeof(secret), "a key is in the wrong shard");
    struct pnx_cmap_shard *shard = shard_of(map);
    struct pnx_cmap_table *none = &pnx__cmap_no_table;
    check_sees(map, &map->tables[shard - map->shards], &none, sizeof(none),
            "lookups see another table");
    end(&map);
}

TEST(counts_that_do_not_add_up_are_seen) {
    struct pnx_cmap *map = one_entry();
    struct pnx_cmap_shard *shard = shard_of(map);
    uint64_t many = 1000;
    uint64_t zero = 0;
    check_sees(map, &shard->table->used, &many, sizeof(many), "used slots were miscounted");
    check_sees(map, &shard->table->full, &zero, sizeof(zero), "a table has no free slot");
    check_sees(map, &shard->moving_entries, &many, sizeof(many), "moved entries were miscounted");
    check_sees_word(map, &shard->counters.entries, many, "the entries do not add up");
    check_sees_word(map, &shard->counters.removes, many, "the entries do not add up");
    check_sees_word(map, &shard->counters.tombstones, many, "the tombstones do not add up");
    end(&map);
}

TEST(a_slot_left_behind_by_a_move_is_seen) {
    struct pnx_cmap *map = NULL;
    const struct pnx_cmap_tuning tuning = {.min_buckets = 8, .move_buckets = 1};
    CHECK_EQ(pnx__cmap_create(
                     PNX_CMAP_OPTS(.key_size = sizeof(key), .shards = 1), &tuning, NULL, &map),
            0);
    struct pnx_cmap_shard *shard = &map->shards[0];
    uint64_t slot = 0;
    for (uint64_t i = 0; i < 100000; i++) {
        CHECK_EQ(pnx_cmap_put(map, &i, sizeof(i), i), 0);
        uint64_t moved = shard->target ? shard->moved * PNX_CMAP_BUCKET : 0;
        for (slot = 0; slot < moved; slot++) {
            if (pnx_load(&shard->table->slots[slot].key, PNX_RELAXED, "test.alone") != 0)
                break;
        }
        if (slot < moved)
            break;
    }
    CHECK(shard->target);
    check_sees_word(
            map, &shard->table->slots[slot].value, PNX_CMAP_ABSENT, "a slot was left behind");
    end(&map);
}

TEST(an_entry_of_another_shard_is_seen) {
    struct pnx_cmap *map = NULL;
    CHECK_EQ(pnx_cmap_create(PNX_CMAP_OPTS(.shards = 2), NULL, &map), 0);
    CHECK_EQ(pnx_cmap_put(map, "a", 1, 7), 0);
    struct pnx_cmap_key made;
    CHECK_EQ(pnx__cmap_key(map, "a", 1, &made), 0);
    uint64_t index = made.hash & map->shard_mask;
    struct pnx_cmap_entry *entry = pnx__cmap_look_entry(map->shards[index].table, &made);
    CHECK(entry);
    struct pnx_cmap_shard *other = &map->shards[1 - index];
    check_sees(map, &entry->shard, &other, sizeof(other), "an entry belongs to another shard");
    end(&map);
}

TEST(a_spare_node_that_is_missing_is_seen) {
    static const struct pnx_rc_type type = PNX_RC_TYPE(uint64_t);
    struct pnx_cmap *map = NULL;
    CHECK_EQ(pnx_cmap_create(
                     PNX_CMAP_OPTS(.key_size = sizeof(key), .shards = 1, .flags = PNX_CMAP_RC),
                     NULL, &map),
            0);
    void *object = NULL;
    CHECK_EQ(pnx_rc_new(&type, NULL, &object), 0);
    CHECK_EQ(pnx_cmap_put(map, &key, sizeof(key), pnx_cmap_value(object)), 0);
    pnx_rc_unref(object);
    struct pnx_cmap_spare *none = NULL;
    check_sees(map, &map->shards[0].spares, &none, sizeof(none),
            "there is not one spare node for each entry");
    end(&map);
}
