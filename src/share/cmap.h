/* SPDX-License-Identifier: Apache-2.0 */
/*
 * share/cmap.h - a concurrent map from the inside, for src/share/cmap*.c.
 *
 * A map has shards; a shard has a lock for writers and one table, or two while it moves to another:
 *
 *     ONE TABLE --grow: next is set--> MOVING --the last bucket was moved--> ONE TABLE (the next one)
 *         ^                              |
 *         +------- clear, close ---------+      (to the empty table, which no map owns)
 *
 * A table is an array of buckets of one cache line: four slots {key word, value word}.  The key word is the key, for
 * keys of at most 8 bytes, or the hash of an entry, a block that holds the key.  The value word is the value, an rc
 * object, or the entry.  See cmap_table.h for the protocol and why it is right.
 *
 * Conservation, at every moment under a shard's lock:
 *     slots with a value, in both tables == entries == inserts - removes
 *     spare nodes == entries, where values are rc objects in slots; else 0
 *     pending == nodes retired and not freed yet, one more until the map is released
 */
#ifndef PNX_SRC_SHARE_CMAP_H
#define PNX_SRC_SHARE_CMAP_H

#include "base/atomic.h"
#include "base/env.h"
#include "base/list.h"
#include "os/mutex.h"
#include "share/check.h"
#include "share/latch.h"
#include "stats/stats.h"

#include <patinox/cmap.h>

#define PNX_GROUP     cmap
#define PNX_GROUP_DEF <patinox/stats/cmap.def>
#include "stats/declare_group.inc"

#define PNX_CMAP_MAGIC      UINT32_C(0x636d6170)
#define PNX_CMAP_BUCKET     4u         /* slots of a cache line */
#define PNX_CMAP_PAGES_MIN  (1u << 18) /* bytes from which on a table is mapped, not allocated */
#define PNX_CMAP_PROBE_WARN 256u       /* buckets; a good hash needs some dozens at worst */

struct pnx_cmap_slot {
    struct pnx_a64 key; /* written once: 0 until then */
    struct pnx_a64
            value; /* 0: no value; 1: look in the next table; else see struct pnx_cmap_table */
};
#define PNX_CMAP_ABSENT 0u
#define PNX_CMAP_MOVED  1u

/* Owned by its shard until it is retired.  The first line is all that lookups read. */
struct pnx_cmap_table {
    /* Fixed before it is published. */
    uint64_t
            key_mask; /* key words are keys ^ key_mask: so that zeroed memory means no key, and every key but
                            one, which then needs a table with another mask, can be told from that */
    uint64_t
            value_mask; /* likewise for values, of which two need another; 0 where values are addresses */
    uint64_t n_buckets;
    struct pnx_cmap_slot *slots;
    struct pnx_aptr next; /* the table that this one is moved to */
    struct pnx_cmap_shard *shard;
    void *memory;
    size_t bytes;

    struct pnx_reclaim_node node;  /* once it is retired */
    struct pnx_cmap_spare *spares; /* freed with it, when it was retired with its contents */
    uint64_t used;                 /* slots that have a key; the shard's lock */
    uint64_t limit;                /* from here on a larger one is wanted */
    uint64_t full; /* from here on inserting is refused; below the number of slots */
    bool mapped;   /* memory is from os/pages.h */
};

/* A key, with a value that it keeps: one reference, for rc objects.  Owned by its slot until it is retired. */
struct pnx_cmap_entry {
    struct pnx_a64 value;
    struct pnx_reclaim_node node;
    struct pnx_cmap_shard *shard;
    uint32_t key_size;
    uint32_t reserved;
    unsigned char key[];
};

/* What it takes to let an rc object go without memory. */
struct pnx_cmap_spare {
    struct pnx_reclaim_node node;
    struct pnx_cmap_shard *shard;
    union {
        void *object;                /* once it is retired: whose reference goes */
        struct pnx_cmap_spare *next; /* before */
    } u;
};

/* A function at work on a key, or who waits to be.  On the shard's list; owned by those who refer to it. */
struct pnx_cmap_call {
    struct pnx_link link; /* the shard's lock */
    uint32_t references;  /* the shard's lock */
    uint32_t key_size;
    uint64_t word; /* as in struct pnx_cmap_key */
    struct pnx_latch latch;
    unsigned char key[]; /* of entries */
};

/* What a shard counts; written under its lock, summed up by who reads. */
struct pnx_cmap_counters {
#define PNX_STAT(stat_name, kind, unit, level, text) struct pnx_a64 stat_name;
#include <patinox/stats/cmap.def>
#undef PNX_STAT
};

/*
 * In the order of use: what a write to one key touches is in the first two lines, which come and go between the caches
 * of those who write.
 */
struct pnx_cmap_shard {
    struct pnx_cmap *map;  /* fixed */
    struct pnx_mutex lock; /* rank CMAP; guards what follows, pending aside */
    bool closed;
    struct pnx_cmap_table *table;  /* what map->tables says too */
    struct pnx_cmap_table *target; /* table->next; NULL: not moving */
    struct pnx_link calls;
    struct pnx_cmap_counters counters;
    uint64_t moved;          /* buckets of table that were moved */
    uint64_t moving_entries; /* entries that are in target */
    struct pnx_cmap_spare *spares;
    struct pnx_reclaim_node *garbage; /* to be retired at the end of the lock */
    struct pnx_a64 pending;           /* see above; who brings it to 0 lets the map go */
} __attribute__((aligned(128)));

/* Owned by its references, then by what is pending.  Fixed at creation but for what says otherwise. */
struct pnx_cmap {
    /* What lookups read. */
    uint32_t magic;
    uint32_t key_size;
    uint64_t shard_mask;
    uint64_t secret[2];
    struct pnx_reclaim *domain; /* NULL: the default one */
    pnx_cmap_hash_fn *hash_fn;
    void *hash_ctx;
    uint32_t hash; /* enum pnx_cmap_hash; 0: hash_fn */
    bool inlined;  /* key words are keys */
    bool rc;
    bool plain; /* inlined keys, hashed by XXH3, to words: what the short way of a lookup is for */
    struct pnx_a32 closed;

    struct pnx_a32 references;
    struct pnx_a32 shards_alive; /* whose pending is not 0 */
    uint32_t generation;         /* of the process that made it */
    uint32_t min_buckets;        /* of a table */
    uint32_t move_buckets;       /* moved by one write */
    uint64_t max_entries;        /* 0: no limit */
    struct pnx_a64 admitted;     /* entries and inserts under way, where there is a limit */
    pnx_ns wait_timeout_ns;
    struct pnx_env env;
    struct pnx_a64 bytes; /* charged */
    bool fixed_masks;     /* for tests */
    bool paged;           /* large tables are mapped: env's allocator is the system's */
    struct pnx_budget *budget;
    struct pnx_registry *registry; /* a reference of ours; NULL when off */
    pnx_resource_id id;
    char *name;
    struct pnx_stats_block block;
    struct pnx_cmap_values values; /* written by refresh, under the lock of the statistics */
    struct pnx_cmap_shard *shards;
    void *shards_memory;

    struct pnx_aptr tables[]; /* each shard's table, for lookups */
};

/* For tests: sizes below what options allow, so that few operations meet resizes. */
struct pnx_cmap_tuning {
    uint32_t min_buckets;
    uint32_t move_buckets;
    bool fixed_masks; /* key_mask and value_mask are 7 and 9 in first tables */
};
int pnx__cmap_create(const struct pnx_cmap_opts *opts, const struct pnx_cmap_tuning *tuning,
        struct pnx_error *err, struct pnx_cmap **ret_map);

/* A key as the operations use it. */
struct pnx_cmap_key {
    uint64_t hash;
    uint64_t word; /* the key, or its hash, not 0, where it is in an entry */
    const void *bytes;
    uint32_t size;
    uint32_t reserved;
};

/* ---- memory, cmap_memory.c ---- */

/* Allocates and charges, or returns NULL.  Under no lock. */
void *pnx__cmap_alloc(struct pnx_cmap *map, size_t bytes);
void pnx__cmap_free(struct pnx_cmap *map, void *p, size_t bytes);
struct pnx_cmap_table *pnx__cmap_table_new(struct pnx_cmap_shard *shard, uint64_t n_buckets);
void pnx__cmap_table_free(struct pnx_cmap_table *table);
struct pnx_cmap_entry *pnx__cmap_entry_new(
        struct pnx_cmap_shard *shard, const struct pnx_cmap_key *key);
void pnx__cmap_entry_free(struct pnx_cmap_entry *entry); /* not its value */
struct pnx_cmap_spare *pnx__cmap_spare_new(struct pnx_cmap_shard *shard);
void pnx__cmap_spare_free(struct pnx_cmap_spare *spare);

/* Retire what a shard has unlinked; under its lock. */
void pnx__cmap_retire_entry_locked(struct pnx_cmap_shard *shard, struct pnx_cmap_entry *entry);
void pnx__cmap_retire_object_locked(
        struct pnx_cmap_shard *shard, struct pnx_cmap_spare *spare, void *object);
void pnx__cmap_retire_table_locked(struct pnx_cmap_shard *shard, struct pnx_cmap_table *table);
/* Lets the shard's lock go, then retires what was unlinked under it. */
void pnx__cmap_unlock(struct pnx_cmap_shard *shard);
/* One pending thing is gone; the last one of all frees the map. */
void pnx__cmap_settled(struct pnx_cmap_shard *shard);

/* ---- life, cmap.c ---- */

/* Brings the row in the registry up to date; under no lock. */
void pnx__cmap_show_bytes(const struct pnx_cmap *map);
/* Tells the registry and monitors that a shard has got another table, and of a bad hash; under no lock. */
void pnx__cmap_tell_resized(struct pnx_cmap_shard *shard);
/* The errors that end every write before it begins: 0, -EINVAL, -ESHUTDOWN in a forked child. */
int pnx__cmap_enter(const struct pnx_cmap *map);
/* Fills *ret_key.  -EINVAL, -E2BIG. */
int pnx__cmap_key(
        const struct pnx_cmap *map, const void *bytes, size_t size, struct pnx_cmap_key *ret_key);
void pnx__cmap_free_map(struct pnx_cmap *map);

static inline struct pnx_cmap_shard *pnx__cmap_shard_of(const struct pnx_cmap *map, uint64_t hash) {
    return &map->shards[hash & map->shard_mask];
}

/* ---- writing, cmap_write.c ---- */

enum pnx_cmap_kind {
    PNX_CMAP_OP_PUT,
    PNX_CMAP_OP_PUT_IF_ABSENT,
    PNX_CMAP_OP_REPLACE,
    PNX_CMAP_OP_REPLACE_IF,
    PNX_CMAP_OP_REMOVE,
    PNX_CMAP_OP_REMOVE_IF,
};

/* A write under way.  What it has allocated and not used is freed at its end. */
struct pnx_cmap_op {
    enum pnx_cmap_kind kind;
    bool owned;     /* value is a reference that passes to the map */
    bool wants_old; /* in old; of an rc object a reference */
    bool found;     /* the key was there; old is set if wanted */
    bool admitted;  /* counted in map->admitted for a key that is not there yet */
    bool mine;      /* the latch of call is ours */
    bool forced;    /* no memory for a table: use this one to its last free slot */
    bool installed; /* a table */
    struct pnx_cmap_key key;
    uint64_t value;
    uint64_t expected;
    uint64_t old;
    uint64_t want_buckets; /* of the table that is needed */
    const void *saturated; /* objects whose count left its range, to be reported */
    struct pnx_cmap_call *call;
    struct pnx_cmap_entry *entry;
    struct pnx_cmap_spare *spare;
    struct pnx_cmap_table *table;
};

/* Runs the write to its end, waits included.  Under no lock. */
int pnx__cmap_write(struct pnx_cmap *map, struct pnx_cmap_op *op);

/* ---- functions on keys, cmap_compute.c ---- */

/* Finds the call on a key, or NULL. */
struct pnx_cmap_call *pnx__cmap_call_find_locked(
        const struct pnx_cmap_shard *shard, const struct pnx_cmap_key *key);
/* Waits until the latch of a call that the caller refers to is its own; on failure drops the reference. */
int pnx__cmap_call_wait(struct pnx_cmap_shard *shard, struct pnx_cmap_call *call);
/* Ends what a successful wait began. */
void pnx__cmap_call_leave(struct pnx_cmap_shard *shard, struct pnx_cmap_call *call);

#endif
