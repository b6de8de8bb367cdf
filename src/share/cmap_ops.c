/* SPDX-License-Identifier: Apache-2.0 */
/* share/cmap_ops.c - the writes to one key, as users call them; cmap_write.c runs them. */
#include "share/cmap_table.h"

#include "os/thread.h"
#include "share/cmap_hash.h"

#include <errno.h>

/* Begins an operation on a key. */
static int begin(struct pnx_cmap *map, enum pnx_cmap_kind kind, const void *key, size_t key_size,
        uint64_t value, struct pnx_cmap_op *ret_op) {
    int rc = pnx__cmap_enter(map);
    if (rc)
        return rc;
    bool stores = kind != PNX_CMAP_OP_REMOVE && kind != PNX_CMAP_OP_REMOVE_IF;
    if (map->rc && stores && value == 0)
        return -EINVAL;
    *ret_op = (struct pnx_cmap_op){.kind = kind, .value = value};
    return pnx__cmap_key(map, key, key_size, &ret_op->key);
}

/* Runs it, and hands out the value that was there. */
static int run(struct pnx_cmap *map, struct pnx_cmap_op *op, uint64_t *ret_old) {
    op->wants_old = ret_old != NULL;
    int rc = pnx__cmap_write(map, op);
    if (ret_old && op->found)
        *ret_old = op->old;
    return rc;
}

/*
 * The short way of a put: a plain map whose shard neither moves nor has functions at work, and a key that is there.
 * The cache line is asked for before the lock is taken, in a section: only the lock keeps a table otherwise.
 */
static bool replace_plain(struct pnx_cmap *map, const void *bytes, uint64_t value) {
    struct pnx_cmap_key key = {.bytes = bytes, .size = map->key_size};
    memcpy(&key.word, bytes, map->key_size);
    key.hash = pnx__cmap_mix(key.word, map->secret[0]);
    struct pnx_cmap_shard *shard = pnx__cmap_shard_of(map, key.hash);
    pnx_reclaim_enter(map->domain);
    const struct pnx_cmap_table *table = pnx__cmap_first(map, key.hash);
    __builtin_prefetch(table->slots + pnx__cmap_bucket(table, key.hash) * PNX_CMAP_BUCKET, 1);
    pnx_reclaim_exit(map->domain);
    pnx__mutex_lock(&shard->lock);
    bool replaced = !shard->closed && !shard->target && pnx__list_empty(&shard->calls) &&
                    pnx__cmap_replace_word_locked(shard, &key, value);
    pnx__mutex_unlock(&shard->lock);
    return replaced;
}

int pnx_cmap_put(struct pnx_cmap *map, const void *key, size_t key_size, uint64_t value) {
    PNX_DEBUG_CHECK(!map || map->magic == PNX_CMAP_MAGIC); /* else: a map that was released */
    if (map && map->plain && key && key_size == map->key_size &&
            map->generation == pnx__fork_generation() && replace_plain(map, key, value))
        return 0;
    struct pnx_cmap_op op;
    int rc = begin(map, PNX_CMAP_OP_PUT, key, key_size, value, &op);
    return rc ? rc : run(map, &op, NULL);
}

int pnx_cmap_put_if_absent(struct pnx_cmap *map, const void *key, size_t key_size, uint64_t value,
        uint64_t *ret_current) {
    struct pnx_cmap_op op;
    int rc = begin(map, PNX_CMAP_OP_PUT_IF_ABSENT, key, key_size, value, &op);
    return rc ? rc : run(map, &op, ret_current);
}

int pnx_cmap_replace(
        struct pnx_cmap *map, const void *key, size_t key_size, uint64_t value, uint64_t *ret_old) {
    struct pnx_cmap_op op;
    int rc = begin(map, PNX_CMAP_OP_REPLACE, key, key_size, value, &op);
    return rc ? rc : run(map, &op, ret_old);
}

int pnx_cmap_replace_if(
        struct pnx_cmap *map, const void *key, size_t key_size, uint64_t expected, uint64_t value) {
    struct pnx_cmap_op op;
    int rc = begin(map, PNX_CMAP_OP_REPLACE_IF, key, key_size, value, &op);
    if (rc)
        return rc;
    op.expected = expected;
    return run(map, &op, NULL);
}

int pnx_cmap_remove(struct pnx_cmap *map, const void *key, size_t key_size, uint64_t *ret_old) {
    struct pnx_cmap_op op;
    int rc = begin(map, PNX_CMAP_OP_REMOVE, key, key_size, 0, &op);
    return rc ? rc : run(map, &op, ret_old);
}

int pnx_cmap_remove_if(struct pnx_cmap *map, const void *key, size_t key_size, uint64_t expected) {
    struct pnx_cmap_op op;
    int rc = begin(map, PNX_CMAP_OP_REMOVE_IF, key, key_size, 0, &op);
    if (rc)
        return rc;
    op.expected = expected;
    return run(map, &op, NULL);
}
