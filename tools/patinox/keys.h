/* SPDX-License-Identifier: Apache-2.0 */
/*
 * keys.h - numbers for the keys of a trace: 0, 1, 2, ... in the order of their first requests.
 *
 * Some 14 bytes a key: the key itself in pages that never move, and a table of numbers with linear probing.
 */
#ifndef PATINOX_KEYS_H
#define PATINOX_KEYS_H

#include "failure.h"

#define KEYS_PAGE_LOG 16
#define KEYS_MAX      ((UINT32_C(1) << 28) - 1)

struct keys {
    uint64_t **pages;
    uint32_t *table; /* number + 1, and four bits of the key's hash above it; or 0 */
    uint32_t mask;
    uint32_t count;
    uint32_t page_count;
    uint32_t page_room;
};

int keys_init(struct keys *keys, struct failure *failure);
void keys_release(struct keys *keys);
/* Replaces n keys by their numbers; new keys get new ones.  -1 with a failure. */
int keys_number(struct keys *keys, const uint64_t *key, uint32_t n, uint32_t *ret_ids,
        struct failure *failure);

#endif
