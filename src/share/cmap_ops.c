/* SPDX-License-Identifier: Apache-2.0 */
/* share/cmap_ops.c - the writes to one key, as users call them; cmap_write.c runs them. */
#include "share/cmap.h"

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

int pnx_cmap_put(struct pnx_cmap *map, const void *key, size_t key_size, uint64_t value) {
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
