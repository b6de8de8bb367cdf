/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cache/load.h - a load under way, and who waits for it: shared by load.c, load_end.c, refresh.c, async.c and fixed_load.c.
 *
 *     load:   (none) --miss, refresh--> RUNNING --loader returned, or finished by handle--> ended: stored, handed out
 *                |                         |  \--put, remove, clear, close--> overtaken: handed out, not stored
 *                |                         +--loader returned -EINPROGRESS--> PENDING --finished, or given up-->
 *                +--executor--> QUEUED --its job begins--> RUNNING
 *                                  \--somebody is in need of the value--> taken over: that one loads, the job does nothing
 *
 *     waiter: (none) --enlist--> waiting --end of the load, deadline, close--> answered
 *
 * A load of a blocking caller lives on its stack; one that may outlast the call in which it began, in a block of its own,
 * with the key.  A waiter lives on its thread's stack, or in its request.
 *
 *   P1  At most one load of a key is in the shard's table, from its begin to its end.  (One that was given up by its
 *       deadline has ended, though its loader may not have.)
 *   P2  No wait begins that closes a circle: the caller gets -EDEADLK.  A request is no thread and closes none.
 *   P3  A wait is over, as far as others know, before the thread that it was for can wait again.
 *   P4  An answered waiter that is to have a value owns a pin on it from the moment of the answer.
 *   P5  The loader runs with no lock held.
 */
#ifndef PNX_SRC_CACHE_LOAD_H
#define PNX_SRC_CACHE_LOAD_H

#include "cache/internal.h"

#include "base/pheap.h"

#define PNX_CACHE_RETRY 1 /* an answer: look again, and lead if there is nothing */

/* Guarded by the shard's lock, but for word, and for the answer once it is given. */
struct pnx_cache_waiter {
    struct pnx_link link;              /* in its load's waiters, then in a list of answers */
    struct pnx_cache_request *request; /* NULL: a thread waits */
    struct pnx_thread *thread;         /* the one of which others know that it waits, or NULL */
    pnx_ns deadline;
    bool answered;
    bool late; /* came after the load was overtaken: must not have its value */
    /* written with the answer, read once word is 1, or when it is delivered */
    uint32_t source;
    int code; /* 0, an error, or RETRY */
    struct pnx_cache_entry *entry;
    struct pnx_a32 word;
};

enum pnx_cache_load_state {
    PNX_CACHE_LOAD_RUNNING = 1,
    PNX_CACHE_LOAD_PENDING, /* the loader has returned, and goes on */
    PNX_CACHE_LOAD_QUEUED,  /* an executor has it */
    PNX_CACHE_LOAD_ENDED,   /* is in no table any more */
};

struct pnx_cache_load {
    /* fixed */
    struct pnx_cache *cache;
    struct pnx_cache_shard *shard; /* of the key */
    const void *key;
    size_t key_size;
    uint64_t hash;
    pnx_ns deadline;
    pnx_cache_load_fn *loader; /* of one in a block; NULL on a stack */
    void *ctx;
    bool refresh; /* of an entry that others find meanwhile */
    void *copy;   /* where sizes are fixed: gets the value that a look finds */

    /* the shard's lock */
    struct pnx_link link; /* in the shard's table */
    struct pnx_link waiters;
    struct pnx_heap_node timer; /* of one that is PENDING: when it is given up */
    struct pnx_thread *leader;  /* on which the loader runs, or NULL */
    enum pnx_cache_load_state state;
    bool overtaken;
    uint32_t epoch; /* when it began: a clear overtakes all loads at one moment */

    /* whoever makes the result, and ends the load */
    struct pnx_cache_entry
            *old; /* a reference: what is to be refreshed, or is kept for an error; or NULL */
    struct pnx_cache_entry *result;
    pnx_ns ttl;  /* 0: not set */
    pnx_ns soft; /* 0: not set */
    pnx_ns start;

    /* of one in a block */
    struct pnx_a32 finished; /* somebody ends it */
    struct pnx_a32 parts;    /* of its memory: its loader's call, its end, who gives it up */
    bool ran;                /* of one for an executor: its job has called the loader */
};

/* ---- load.c ---- */

/* Checks what a caller gave and makes the load that it would lead.  *ret_may_wait: whether it has time. */
int pnx__cache_load_prepare(struct pnx_cache *cache, const void *key, size_t key_size,
        pnx_ns timeout, struct pnx_error *err, struct pnx_cache_load *ret_load, bool *ret_may_wait);

/* Fills in a load that nobody knows yet. */
void pnx__cache_load_init(struct pnx_cache_load *load, struct pnx_cache *cache, const void *key,
        size_t key_size, pnx_ns deadline);

/* The load under way of the key; NULL when there is none.  One in a queue is taken over: it is none then. */
struct pnx_cache_load *pnx__cache_load_find_locked(struct pnx_cache_shard *shard, uint64_t hash,
        const void *key, size_t key_size, bool take_over);

/*
 * Whether another load of the key of this one, which nobody knows yet, is under way.  One that was kept past its deadline is
 * given up: see pnx__cache_give_up_locked().  now: the clock, or 0.
 */
bool pnx__cache_load_other_locked(const struct pnx_cache_load *load, pnx_ns now,
        struct pnx_link *answers, struct pnx_cache_load **ret_given_up);

/* Puts the load into the table: it has begun.  old: NULL, or what becomes load->old. */
void pnx__cache_load_begin_locked(
        struct pnx_cache_load *load, enum pnx_cache_load_state state, struct pnx_cache_entry *old);

/* What one look at the cache leads to, beside 0, -ENOENT (an absence) and -ESHUTDOWN. */
enum {
    PNX_CACHE_LOOK_LEAD = 2, /* this is the key's load now; or would be, with PNX_CACHE_LOOK_ONLY */
    PNX_CACHE_LOOK_WAIT,     /* somebody else's is under way */
    PNX_CACHE_LOOK_REFRESH,  /* as 0; and the caller has claimed to have the entry refreshed */
};
enum {
    PNX_CACHE_LOOK_COUNT = 1, /* count a miss */
    PNX_CACHE_LOOK_ONLY = 2,
};
/* Looks the key up; ret_ref: what was found, pinned.  Where sizes are fixed it has no entry, and the value is in load->copy. */
int pnx__cache_load_look(struct pnx_cache_load *load, unsigned how, struct pnx_cache_ref *ret_ref);

/* Puts the waiter behind the key's load.  0, RETRY when there is none any more. */
int pnx__cache_enlist_locked(struct pnx_cache_waiter *waiter, const struct pnx_cache_load *own,
        struct pnx_cache_load **ret_load);

/* Calls a loader for a load that has begun. */
int pnx__cache_call_loader(struct pnx_cache_load *load, pnx_cache_load_fn *loader, void *ctx);

/* Leads a load that has begun, on the caller's stack: 0 and a pinned entry, or an error. */
int pnx__cache_lead(struct pnx_cache_load *load, pnx_cache_load_fn *loader, void *ctx,
        struct pnx_error *err, struct pnx_cache_ref *ret_ref);

int pnx__cache_fail_fork(struct pnx_error *err);
/* Fills err with why a caller did not get its value. */
int pnx__cache_fail_wait(const struct pnx_cache *cache, int rc, struct pnx_error *err, bool waited);

/* ---- fixed_load.c ---- */

/* The look under the lock, where sizes are fixed: 0 with the value in load->copy, LEAD, WAIT, -ESHUTDOWN. */
int pnx__cache_fixed_look_for_load(struct pnx_cache_load *load, unsigned how);
/* Stores the result, unless the load was overtaken. */
int pnx__cache_fixed_store_result(struct pnx_cache_load *load);
/* There is no such thing: what is there of it goes, unless the load was overtaken. */
void pnx__cache_fixed_remove_old(struct pnx_cache_load *load);

/* ---- load_end.c ---- */

/* Whether a code is a failure of a load; an absence is none. */
static inline bool pnx__cache_load_failed(int code) {
    return code != 0 && code != -ENOENT;
}

/* The one way out of waiting: moves the waiter to answers. */
void pnx__cache_answer_locked(struct pnx_cache_shard *shard, struct pnx_cache_waiter *waiter,
        int code, struct pnx_cache_entry *entry, uint32_t source, struct pnx_link *answers);

/* Lets answered waiters go: no lock held. */
void pnx__cache_wake(struct pnx_link *answers);

/* Takes the load out of the table and answers all who wait. */
void pnx__cache_load_leave_locked(struct pnx_cache_load *load, int code, struct pnx_link *answers);

/*
 * Ends the load: stores what it made, takes it out of the table, answers all.  code: as pnx__cache_call_loader().  Returns
 * what the leader gets: 0 and *ret_ref, pinned, unless ret_ref is NULL; or an error; or FORKED, and nothing has ended.
 */
int pnx__cache_load_end(struct pnx_cache_load *load, int code, struct pnx_cache_ref *ret_ref);

/* Destroys what a load that was given up has made since. */
void pnx__cache_load_discard(struct pnx_cache_load *load);

/* Counts a load that has ended in the cache's health and histogram. */
void pnx__cache_count_load(struct pnx_cache *cache, int code, pnx_ns took);

/* ---- refresh.c ---- */

/* Of struct pnx_cache_times.soft: a time in steps of 4 ns, and two bits. */
#define PNX_CACHE_SOFT_CLAIMED UINT64_C(1) /* somebody is having it refreshed */
#define PNX_CACHE_SOFT_FAILED  UINT64_C(2) /* that failed; the time is when it may be tried again */
#define PNX_CACHE_SOFT_BITS    UINT64_C(3)
#define PNX_CACHE_SOFT_NEVER   ((uint64_t)PNX_NEVER & ~PNX_CACHE_SOFT_BITS)

static inline uint64_t pnx__cache_soft_word(pnx_ns at) {
    return (uint64_t)at >= PNX_CACHE_SOFT_NEVER
                   ? PNX_CACHE_SOFT_NEVER
                   : ((uint64_t)at + PNX_CACHE_SOFT_BITS) & ~PNX_CACHE_SOFT_BITS;
}

/* Whether a load of an entry that has expired failed so recently that it is not tried again. */
bool pnx__cache_soft_waits(
        const struct pnx_cache *cache, const struct pnx_cache_entry *entry, pnx_ns now);

/* Whether a lookup that copies has to have the entry refreshed. */
static inline bool pnx__cache_to_be_refreshed(
        const struct pnx_cache *cache, const struct pnx_cache_entry *entry) {
    if (!cache->executor || !(entry->flags & PNX_CACHE_ENTRY_TIMED))
        return false;
    /* Relaxed: as it comes; who claims it looks again. */
    uint64_t word = pnx_load(&pnx__cache_entry_times(entry)->soft, PNX_RELAXED, "cache.soft_peek");
    return word != PNX_CACHE_SOFT_NEVER && !(word & PNX_CACHE_SOFT_CLAIMED) &&
           pnx__now(&cache->env) >= (pnx_ns)(word & ~PNX_CACHE_SOFT_BITS);
}

/* A refresh failed, or a load that was to replace the entry: it may be tried again after the back-off. */
void pnx__cache_soft_fail(const struct pnx_cache *cache, const struct pnx_cache_entry *entry);

/*
 * What a lookup that found the entry says of it: PNX_CACHE_FOUND, or STALE past the time at which it is to be refreshed.
 * *ret_claimed, which may be NULL: the caller has claimed to have it refreshed, and must.
 */
uint32_t pnx__cache_soft_look(
        const struct pnx_cache *cache, const struct pnx_cache_entry *entry, bool *ret_claimed);

/* The same for lookups that do not load: with an executor it has the entry, which is pinned, refreshed there. */
uint32_t pnx__cache_source_slow(struct pnx_cache *cache, struct pnx_cache_entry *entry);
static inline uint32_t pnx__cache_source(struct pnx_cache *cache, struct pnx_cache_entry *entry) {
    return entry->flags & PNX_CACHE_ENTRY_TIMED ? pnx__cache_source_slow(cache, entry)
                                                : (uint32_t)PNX_CACHE_FOUND;
}

/* Has an entry that the caller has claimed, and pinned, refreshed by the executor. */
void pnx__cache_refresh_submit(struct pnx_cache *cache, struct pnx_cache_entry *entry);

/* There is no memory to refresh an entry that the caller has claimed. */
void pnx__cache_refresh_refused(const struct pnx_cache *cache, struct pnx_cache_entry *entry);

/* Makes the load, which nobody knows yet, the refresh of an entry that the caller has claimed.  False when there is no need
 * any more, or somebody else's load is under way. */
bool pnx__cache_refresh_begin(struct pnx_cache_load *load, struct pnx_cache_entry *entry,
        enum pnx_cache_load_state state);

/* ---- async.c ---- */

/* Makes a load in a block of its own, with a copy of the key.  NULL when there is no memory. */
struct pnx_cache_load *pnx__cache_load_make(struct pnx_cache *cache, const void *key,
        size_t key_size, pnx_ns deadline, pnx_cache_load_fn *loader, void *ctx);
/* Adds a part. */
void pnx__cache_load_add(struct pnx_cache_load *load, uint32_t parts);
/* Drops parts of it; the last one frees it. */
void pnx__cache_load_drop(struct pnx_cache_load *load, uint32_t parts);

/* Runs the loader of a load in a block, which has begun, and ends it unless it goes on; drops the part of the call. */
void pnx__cache_load_run(struct pnx_cache_load *load);

/* Whether the load, which is PENDING, is past its deadline and nobody ends it; if so, gives it up: who waited is in answers,
 * and it is to be given to pnx__cache_given_up() once the lock is open. */
bool pnx__cache_give_up_locked(struct pnx_cache_load *load, pnx_ns now, struct pnx_link *answers);
void pnx__cache_given_up(struct pnx_cache_load *load);

/* The request's waiter is being answered. */
void pnx__cache_request_answered_locked(
        struct pnx_cache_shard *shard, struct pnx_cache_request *request);
/* Delivers requests that were answered; links of waiters. */
void pnx__cache_deliver(struct pnx_link *waiters);

#endif
