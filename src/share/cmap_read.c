/* SPDX-License-Identifier: Apache-2.0 */
/*
 * share/cmap_read.c - lookups: no lock, no shared write, one section.
 *
 * Why they are right stands in share/cmap_table.h.  A lookup that meets a shard between two tables helps to move it,
 * if no writer is at it: else a map that is only read after it grew would be looked up twice for ever.  The table that
 * is left waits for the next writer or tick: a lookup runs nobody's functions.
 */
#include "share/cmap_table.h"

#include "os/thread.h"
#include "share/cmap_hash.h"
#include "share/rc.h"
#include "share/reclaim.h"

#include <errno.h>

#define BATCH 64u /* keys whose cache misses overlap; one word of ret_found */

static bool misused(const struct pnx_cmap *map) {
    PNX_DEBUG_CHECK(!map || map->magic == PNX_CMAP_MAGIC); /* else: a map that was released */
    return !map;
}

/* Why a key is not there. */
static __attribute__((noinline)) int missed(const struct pnx_cmap *map) {
    /* Relaxed: see pnx_cmap_close(). */
    return pnx_load(&map->closed, PNX_RELAXED, "cmap.missed") ? -ESHUTDOWN : -ENOENT;
}

/* Helps a shard that is between two tables. */
static __attribute__((noinline, cold)) void help(struct pnx_cmap *map, uint64_t hash) {
    struct pnx_cmap_shard *shard = pnx__cmap_shard_of(map, hash);
    if (map->generation != pnx__fork_generation() || !pnx__mutex_trylock(&shard->lock))
        return;
    pnx__cmap_move_locked(shard, map->move_buckets);
    pnx_reclaim_enter(map->domain); /* in a section a retire never waits */
    pnx__cmap_unlock(shard);
    pnx_reclaim_exit(map->domain);
}

/* Looks an inlined key up, in a section.  *ret_moving: the shard has a second table. */
static inline bool look_word(const struct pnx_cmap *map, uint64_t hash, uint64_t key,
        uint64_t *ret_value, bool *ret_moving) {
    const struct pnx_cmap_table *first = pnx__cmap_first(map, hash);
    const struct pnx_cmap_slot *bucket =
            first->slots + pnx__cmap_bucket(first, hash) * PNX_CMAP_BUCKET;
    const struct pnx_cmap_table *table;
    uint64_t raw = pnx__cmap_look_word_from(first, bucket, hash, key, &table);
    *ret_moving = table != first;
    *ret_value = pnx__cmap_unmask(table, raw);
    return raw != PNX_CMAP_ABSENT;
}

/* Takes a reference for a caller, in the section that found the object; tells whether its count left its range. */
static bool found_object(uint64_t value) {
    return pnx__rc_ref_silent(pnx_cmap_object(value));
}

static __attribute__((noinline)) int get_word(
        struct pnx_cmap *map, uint64_t key, uint64_t *ret_value) {
    if (misused(map) || !ret_value || !map->inlined)
        return -EINVAL;
    uint64_t hash = pnx__cmap_hash_word(map, key);
    bool saturated = false;
    bool moving;
    uint64_t value;
    pnx_reclaim_enter(map->domain);
    bool found = look_word(map, hash, key, &value, &moving);
    if (__builtin_expect(map->rc, 0) && found)
        saturated = found_object(value);
    pnx_reclaim_exit(map->domain);
    if (__builtin_expect(moving, 0))
        help(map, hash);
    if (__builtin_expect(saturated, 0))
        pnx__rc_report(pnx_cmap_object(value));
    if (__builtin_expect(!found, 0))
        return missed(map);
    *ret_value = value;
    return 0;
}

/* Ends a section as pnx_reclaim_exit() does when somebody waits for it; then looks again. */
static __attribute__((noinline, cold)) int wake_and_get(
        struct pnx_cmap *map, uint64_t key, uint64_t *ret_value) {
    pnx_reclaim_wake_(map->domain);
    return get_word(map, key, ret_value);
}

/*
 * The short way: a plain map, a thread that is in no section, and a key that is in the first bucket, as nearly all
 * are.  Everything else takes the long way, from the start.  What counts here is the number of instructions: the
 * fewer, the more lookups' cache misses a CPU has under way at once.  So the section is begun and ended by hand, as
 * pnx_reclaim_enter() and pnx_reclaim_exit() do where readers need no fence.
 */
int pnx_cmap_get_word(struct pnx_cmap *map, uint64_t key, uint64_t *ret_value) {
    const uint64_t state = PNX_RECLAIM_STATE_ | PNX_RECLAIM_NEST_;
    PNX_DEBUG_CHECK(!map || map->magic == PNX_CMAP_MAGIC); /* else: a map that was released */
    if (__builtin_expect(!map || !map->plain || !ret_value, 0))
        return get_word(map, key, ret_value);
    uint64_t hash = pnx__cmap_mix(key, map->secret[0]);
    struct pnx_reclaim_section *section = pnx__reclaim_section(map->domain);
    if (__builtin_expect(!section, 0))
        return get_word(map, key, ret_value);
    uint64_t begun = pnx_load(&section->word, PNX_RELAXED, "cmap.section"); /* ours */
    if (__builtin_expect((begun & state) != PNX_RECLAIM_READY_, 0))
        return get_word(map, key, ret_value);
    pnx_store(&section->word, begun + 1, PNX_RELEASE, "cmap.enter"); /* as reclaim.enter */
    __asm__ __volatile__("" ::: "memory");
    const struct pnx_cmap_table *table = pnx__cmap_first(map, hash);
    uint64_t word = key ^ table->key_mask;
    const struct pnx_cmap_slot *slot =
            pnx__cmap_choose(table->slots + pnx__cmap_bucket(table, hash) * PNX_CMAP_BUCKET, word);
    /* Relaxed: see 3 in cmap_table.h. */
    bool found = pnx_load(&slot->key, PNX_RELAXED, "cmap.chosen") == word;
    /* Acquire: pairs with cmap.value_*; see 2 in cmap_table.h. */
    uint64_t raw = pnx_load(&slot->value, PNX_ACQUIRE, "cmap.short_value");
    uint64_t value = pnx__cmap_unmask(table, raw);
    /* Release: as reclaim.exit.  The section had no other inside it. */
    pnx_store(&section->word, begun + PNX_RECLAIM_NUMBER_, PNX_RELEASE, "cmap.exit");
    __asm__ __volatile__("" ::: "memory");
    if (__builtin_expect(pnx_load(&section->awaited, PNX_RELAXED, "cmap.exit_awaited") != 0, 0))
        return wake_and_get(map, key, ret_value);
    if (__builtin_expect(!found, 0) || __builtin_expect(raw <= PNX_CMAP_MOVED, 0))
        return get_word(map, key, ret_value);
    *ret_value = value;
    return 0;
}

int pnx_cmap_peek_word(struct pnx_cmap *map, uint64_t key, uint64_t *ret_value) {
    if (misused(map) || !ret_value || !map->inlined)
        return -EINVAL;
    PNX_DEBUG_CHECK(pnx_reclaim_in_section(map->domain)); /* else what is found may go at once */
    uint64_t value;
    bool moving;
    if (!look_word(map, pnx__cmap_hash_word(map, key), key, &value, &moving))
        return missed(map);
    *ret_value = value;
    return 0;
}

/* Looks a key up, in a section. */
static bool look_entry(
        const struct pnx_cmap *map, const struct pnx_cmap_key *key, uint64_t *ret_value) {
    const struct pnx_cmap_entry *entry = pnx__cmap_look_entry(pnx__cmap_first(map, key->hash), key);
    if (!entry)
        return false;
    /* Acquire: pairs with cmap.entry_replace. */
    *ret_value = pnx_load(&entry->value, PNX_ACQUIRE, "cmap.entry_get");
    return true;
}

static int get_entry(
        struct pnx_cmap *map, const void *bytes, size_t size, bool peek, uint64_t *ret_value) {
    struct pnx_cmap_key key;
    int rc = pnx__cmap_key(map, bytes, size, &key);
    if (rc)
        return rc;
    uint64_t value = 0;
    bool saturated = false;
    pnx_reclaim_enter(map->domain);
    const struct pnx_cmap_table *first = pnx__cmap_first(map, key.hash);
    bool found = look_entry(map, &key, &value);
    if (found && map->rc && !peek)
        saturated = found_object(value);
    /* Relaxed: only whether there is something to help with. */
    bool moved = pnx_load(&first->next, PNX_RELAXED, "cmap.entry_moved") != NULL;
    pnx_reclaim_exit(map->domain);
    if (moved && !peek)
        help(map, key.hash);
    if (saturated)
        pnx__rc_report(pnx_cmap_object(value));
    if (!found)
        return missed(map);
    *ret_value = value;
    return 0;
}

int pnx_cmap_get(struct pnx_cmap *map, const void *key, size_t key_size, uint64_t *ret_value) {
    if (misused(map) || !ret_value)
        return -EINVAL;
    if (!map->inlined)
        return get_entry(map, key, key_size, false, ret_value);
    if (!key || key_size != map->key_size)
        return -EINVAL;
    uint64_t word = 0;
    memcpy(&word, key, key_size);
    return pnx_cmap_get_word(map, word, ret_value);
}

int pnx_cmap_peek(struct pnx_cmap *map, const void *key, size_t key_size, uint64_t *ret_value) {
    if (misused(map) || !ret_value)
        return -EINVAL;
    if (map->inlined) {
        if (!key || key_size != map->key_size)
            return -EINVAL;
        uint64_t word = 0;
        memcpy(&word, key, key_size);
        return pnx_cmap_peek_word(map, word, ret_value);
    }
    PNX_DEBUG_CHECK(pnx_reclaim_in_section(map->domain)); /* else what is found may go at once */
    return get_entry(map, key, key_size, true, ret_value);
}

/* ---- several at a time ---- */

/*
 * Looks for a word where it nearly always is: in its first bucket of the only table.  Returns its value word, or
 * ABSENT, which here says only that it has to be looked for.
 */
static inline uint64_t look_near(
        const struct pnx_cmap_table *table, const struct pnx_cmap_slot *bucket, uint64_t key) {
    uint64_t last;
    unsigned found = pnx__cmap_match(bucket, key ^ table->key_mask, &last);
    if (__builtin_expect(found == 0, 0))
        return PNX_CMAP_ABSENT;
    /* Acquire: pairs with cmap.value_*; see 2 in cmap_table.h. */
    uint64_t raw = pnx_load(&bucket[__builtin_ctz(found)].value, PNX_ACQUIRE, "cmap.near_value");
    return raw > PNX_CMAP_MOVED ? raw : PNX_CMAP_ABSENT;
}

/*
 * Looks up to BATCH words up; bits of what was found.  In passes, so that each is short: how many cache misses
 * are under way at once depends on how few instructions stand between them.
 */
static uint64_t get_words(
        struct pnx_cmap *map, const uint64_t *keys, size_t n, uint64_t *ret_values) {
    const struct pnx_cmap_table *tables[BATCH];
    const struct pnx_cmap_slot *buckets[BATCH];
    uint64_t saturated = 0;
    uint64_t found = UINT64_MAX >> (BATCH - n);
    uint64_t rest = 0;
    bool moving = false;
    uint64_t moving_hash = 0;
    pnx_reclaim_enter(map->domain);
    for (size_t i = 0; i < n; i++) {
        uint64_t hash = pnx__cmap_hash_word(map, keys[i]);
        const struct pnx_cmap_table *table = pnx__cmap_first(map, hash);
        tables[i] = table;
        buckets[i] = table->slots + pnx__cmap_bucket(table, hash) * PNX_CMAP_BUCKET;
        __builtin_prefetch(buckets[i]);
    }
    for (size_t i = 0; i < n; i++) {
        uint64_t raw = look_near(tables[i], buckets[i], keys[i]);
        if (__builtin_expect(raw == PNX_CMAP_ABSENT, 0))
            rest |= UINT64_C(1) << i;
        else
            ret_values[i] = pnx__cmap_unmask(tables[i], raw);
    }
    for (; rest; rest &= rest - 1) {
        unsigned i = (unsigned)__builtin_ctzll(rest);
        uint64_t hash = pnx__cmap_hash_word(map, keys[i]);
        uint64_t value;
        bool second;
        if (look_word(map, hash, keys[i], &value, &second))
            ret_values[i] = value;
        else
            found &= ~(UINT64_C(1) << i);
        if (__builtin_expect(second, 0)) {
            moving = true;
            moving_hash = hash;
        }
    }
    for (uint64_t left = map->rc ? found : 0; left; left &= left - 1) {
        unsigned i = (unsigned)__builtin_ctzll(left);
        if (found_object(ret_values[i]))
            saturated |= UINT64_C(1) << i;
    }
    pnx_reclaim_exit(map->domain);
    if (__builtin_expect(moving, 0))
        help(map, moving_hash);
    for (; saturated; saturated &= saturated - 1)
        pnx__rc_report(pnx_cmap_object(ret_values[__builtin_ctzll(saturated)]));
    return found;
}

int pnx_cmap_get_words(struct pnx_cmap *map, const uint64_t *keys, size_t n, uint64_t *ret_values,
        uint64_t *ret_found) {
    if (misused(map) || !map->inlined || (n && (!keys || !ret_values || !ret_found)) ||
            n > INT32_MAX)
        return -EINVAL;
    int total = 0;
    for (size_t i = 0; i < n; i += BATCH) {
        size_t many = n - i < BATCH ? n - i : BATCH;
        uint64_t found = get_words(map, keys + i, many, ret_values + i);
        ret_found[i / BATCH] = found;
        total += __builtin_popcountll(found);
    }
    if (total == 0 && n && missed(map) == -ESHUTDOWN)
        return -ESHUTDOWN;
    return total;
}

/* Hashes up to BATCH keys, and has the first cache line of each lookup fetched. */
static void prepare(const struct pnx_cmap *map, struct pnx_cmap_item *items, size_t n,
        struct pnx_cmap_key *ret_keys, const struct pnx_cmap_slot **ret_buckets) {
    for (size_t i = 0; i < n; i++) {
        items[i].code = pnx__cmap_key(map, items[i].key, items[i].key_size, &ret_keys[i]);
        if (items[i].code)
            continue;
        const struct pnx_cmap_table *table = pnx__cmap_first(map, ret_keys[i].hash);
        ret_buckets[i] = table->slots + pnx__cmap_bucket(table, ret_keys[i].hash) * PNX_CMAP_BUCKET;
        __builtin_prefetch(ret_buckets[i]);
    }
}

/* Has the entries fetched that the first matching slots name. */
static void prefetch_entries(const struct pnx_cmap_item *items, size_t n,
        const struct pnx_cmap_key *keys, const struct pnx_cmap_slot *const *buckets) {
    for (size_t i = 0; i < n; i++) {
        uint64_t last;
        if (items[i].code)
            continue;
        unsigned found = pnx__cmap_match(buckets[i], keys[i].word, &last);
        if (found)
            /* Relaxed: an address to prefetch, not to read from. */
            __builtin_prefetch(pnx__cmap_entry(pnx_load(
                    &buckets[i][__builtin_ctz(found)].value, PNX_RELAXED, "cmap.prefetch")));
    }
}

/* Looks one of several keys up, in a section.  *ret_moving: its shard has a second table. */
static inline bool look_item(const struct pnx_cmap *map, const struct pnx_cmap_key *key,
        uint64_t *ret_value, bool *ret_moving) {
    if (map->inlined)
        return look_word(map, key->hash, key->word, ret_value, ret_moving);
    /* Relaxed: only whether there is something to help with. */
    *ret_moving = pnx_load(&pnx__cmap_first(map, key->hash)->next, PNX_RELAXED,
                          "cmap.batch_moved") != NULL;
    return look_entry(map, key, ret_value);
}

static int get_items(struct pnx_cmap *map, struct pnx_cmap_item *items, size_t n) {
    struct pnx_cmap_key keys[BATCH];
    const struct pnx_cmap_slot *buckets[BATCH];
    uint64_t saturated = 0;
    const struct pnx_cmap_key *in_motion = NULL;
    int total = 0;
    pnx_reclaim_enter(map->domain);
    prepare(map, items, n, keys, buckets);
    if (!map->inlined)
        prefetch_entries(items, n, keys, buckets);
    for (size_t i = 0; i < n; i++) {
        uint64_t value = 0;
        bool moving;
        if (items[i].code)
            continue;
        bool found = look_item(map, &keys[i], &value, &moving);
        if (moving)
            in_motion = &keys[i];
        items[i].code = found ? 0 : missed(map);
        if (!found)
            continue;
        if (map->rc && found_object(value))
            saturated |= UINT64_C(1) << i;
        items[i].value = value;
        total++;
    }
    pnx_reclaim_exit(map->domain);
    if (in_motion)
        help(map, in_motion->hash);
    for (; saturated; saturated &= saturated - 1)
        pnx__rc_report(pnx_cmap_object(items[__builtin_ctzll(saturated)].value));
    return total;
}

int pnx_cmap_get_batch(struct pnx_cmap *map, struct pnx_cmap_item *items, size_t n) {
    if (misused(map) || (n && !items) || n > INT32_MAX)
        return -EINVAL;
    int total = 0;
    for (size_t i = 0; i < n; i += BATCH)
        total += get_items(map, items + i, n - i < BATCH ? n - i : BATCH);
    return total;
}

/* ---- numbers ---- */

uint64_t pnx_cmap_len(const struct pnx_cmap *map) {
    if (misused(map))
        return 0;
    uint64_t entries = 0;
    for (uint64_t i = 0; i <= map->shard_mask; i++)
        /* Relaxed: what the calling thread has written itself it counts; the rest is of about now. */
        entries += pnx_load(&map->shards[i].counters.entries, PNX_RELAXED, "cmap.len");
    return entries;
}
