/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cache/file.h - the format of a cache's snapshot on disk, version 1.
 *
 *     head, label, checksum | block: [ head | records ] ... | end
 *
 * Numbers are in the byte order of the machine that wrote them, which the head tells.  Checksums are XXH3 seeded with the
 * file's random id and the number of the block, so that a block of another file, or place, is not taken for this one's; the
 * end's is over those of all blocks.  Nothing stands behind the end.  Records are not aligned, and come coldest first.
 */
#ifndef PNX_SRC_CACHE_FILE_H
#define PNX_SRC_CACHE_FILE_H

#include "cache/internal.h"

#include "base/hash.h"

#define PNX_CACHE_FILE_MAGIC   "PNXCACHE"
#define PNX_CACHE_FILE_ORDER   UINT32_C(0x01020304)
#define PNX_CACHE_FILE_VERSION 1u
#define PNX_CACHE_FILE_BLOCK   UINT32_C(0x4b4c4221) /* magic of a block */
#define PNX_CACHE_FILE_END     UINT32_C(0x444e4521) /* and of the end */
#define PNX_CACHE_FILE_TARGET  ((size_t)256 << 10)  /* bytes of a block that is full */
#define PNX_CACHE_FILE_HITS    15u

struct pnx_cache_file_head {
    char magic[8];
    uint32_t order;
    uint32_t version;
    int64_t saved_ns; /* wall clock */
    uint64_t id;
    uint32_t label_size; /* behind the head, and then a checksum of both */
    uint32_t zero;
};

struct pnx_cache_file_block {
    uint32_t magic;
    uint32_t count;    /* records; 0 at the end */
    uint64_t bytes;    /* of them, behind this; at the end: how many records there are in all */
    uint64_t checksum; /* of them; at the end: over those of all blocks */
    uint64_t head_checksum;
};

enum {                             /* flags of a record */
    PNX_CACHE_FILE_SERIALIZED = 1, /* its value was a pointer */
    PNX_CACHE_FILE_WEIGHED = 2,    /* its weight, a uint64_t above 0, is behind it */
    PNX_CACHE_FILE_REFRESHED =
            4, /* behind that stands in how many nanoseconds it is to be refreshed, an int64_t of 0 or more */
};

#define PNX_CACHE_FILE_FLAGS \
    (PNX_CACHE_FILE_SERIALIZED | PNX_CACHE_FILE_WEIGHED | PNX_CACHE_FILE_REFRESHED)

/* In front of a weight, a time, a key and a value. */
struct pnx_cache_file_record {
    uint64_t value_size;
    int64_t ttl; /* nanoseconds left when it was saved; PNX_NEVER: it does not expire */
    uint32_t key_size;
    uint16_t flags;
    uint16_t hits;
};

static inline uint64_t pnx__cache_file_chain(uint64_t chain, uint64_t checksum) {
    return pnx__mix64(chain + checksum);
}
static inline uint64_t pnx__cache_file_check_head(
        const struct pnx_cache_file_block *block, uint64_t id, uint32_t index) {
    return pnx__hash(id + index, block, offsetof(struct pnx_cache_file_block, head_checksum));
}

/* An entry that is to be written, if it is still there then. */
struct pnx_cache_pick {
    uint64_t heat; /* hits, then the time of the last use: sorted by it */
    uint64_t seq;
    uint32_t slot;
    uint32_t shard;
};

/* All that were picked.  It grows: what comes while others are picked takes room, too. */
struct pnx_cache_picks {
    const struct pnx_env *env;
    struct pnx_cache_pick *pick;
    size_t n;
    size_t room;
};
/* Sees that there is room for one more; no lock may be held.  -ENOMEM. */
int pnx__cache_picks_grow(struct pnx_cache_picks *picks);

/* ---- fixed_walk.c, fixed_file.c ---- */

/* Notes the entries of a shard of fixed sizes, a batch under the lock at a time.  A slot has another number in the next table: seq is
 * the hash of the key.  -ENOMEM. */
int pnx__cache_fixed_collect(
        struct pnx_cache *cache, uint32_t number, struct pnx_cache_picks *picks);
/* Copies key and value of what was picked out, one after the other, and fills *ret_record, whose ttl is 0 and less for one that
 * has expired.  False when it has gone. */
bool pnx__cache_fixed_fetch(struct pnx_cache *cache, const struct pnx_cache_pick *pick,
        struct pnx_cache_file_record *ret_record, void *bytes);
/* Stores what was read where there is nothing.  0, -EEXIST, -EFBIG, -ENOMEM, -ESHUTDOWN. */
int pnx__cache_fixed_restore(struct pnx_cache *cache, const struct pnx_cache_file_record *record,
        pnx_ns left, const void *key, const void *value);

/* ---- file_write.c ---- */

/* Checks the options of both.  -EINVAL, -E2BIG. */
int pnx__cache_file_opts(const struct pnx_cache_file_opts *opts, struct pnx_error *err,
        struct pnx_cache_file_opts *ret_opts);
/* Fills what the caller's size has room for. */
int pnx__cache_file_report(
        const struct pnx_cache_file_report *report, struct pnx_cache_file_report *ret_report);

/* Where a snapshot is read from: a descriptor, or memory. */
struct pnx_cache_input {
    const char *name; /* for messages */
    int fd;
    const unsigned char *memory; /* NULL: fd */
    uint64_t size;
};
/* pnx_cache_load_file() from where the file is open, or the bytes are in memory; opts are resolved. */
int pnx__cache_read_file(struct pnx_cache *cache, const struct pnx_cache_input *source,
        const struct pnx_cache_file_opts *opts, struct pnx_error *err,
        struct pnx_cache_file_report *report);

#endif
