/* SPDX-License-Identifier: Apache-2.0 */
/* share/rwdata.h - an rwdata from the inside; shared by rwdata.c (life, poison, misuse) and rwdata_lock.c (the lock). */
#ifndef PNX_SRC_SHARE_RWDATA_H
#define PNX_SRC_SHARE_RWDATA_H

#include "base/list.h"
#include "os/mutex.h"
#include "os/thread.h"

#include <patinox/budget.h>
#include <patinox/rwdata.h>

#define PNX_GROUP     rwdata
#define PNX_GROUP_DEF <patinox/stats/rwdata.def>
#include "stats/declare_group.inc"

/*
 * Owned by its references.  What no comment says otherwise about is fixed at creation.  Begins as
 * struct pnx_rwdata_head_ does.
 */
struct pnx_rwdata {
    uint64_t small[5];   /* the value, if it fits; guarded by the word */
    struct pnx_a64 word; /* the lock: see rwdata_lock.c */
    void *value;         /* small, or behind this struct */
    struct pnx_rwdata_values
            values; /* read anywhere; writes, downgrades, poisonings and poisoned are added to by
                                         the writer, the others under the lock */
    uint32_t magic;
    struct pnx_a32 references;
    struct pnx_a32 closed;     /* 0 or 1, once */
    struct pnx_a32 poison;     /* minus the cause; 0: whole.  Written by the writer */
    struct pnx_a32 generation; /* of the process that set up lock and queue; 0 while a child does */
    struct pnx_a32 inherited;  /* 0 or 1, in a child: guards of its parent may be in the word */
    struct pnx_a32 strays; /* entries in threads' lists whose guards were ended by other threads */
    struct pnx_mutex lock; /* guards queue, and "queued" and "awake" in the word */
    struct pnx_link queue; /* struct waiter, oldest first */
    bool checked;          /* who holds what is written down */
    uint32_t pauses;       /* how long to spin before sleeping; 0 where that cannot help */
    uint32_t flags;
    pnx_ns timeout_ns;
    const struct pnx_rc_type *type;
    size_t bytes; /* of the whole allocation */
    struct pnx_env env;
    struct pnx_budget *budget;     /* a reference of ours; NULL: nothing is charged */
    struct pnx_registry *registry; /* a reference of ours; NULL when off */
    pnx_resource_id id;
    char *name;
    struct pnx_stats_block block;
};

/* What somebody asks for. */
struct pnx_rwdata_request {
    struct pnx_rwdata *rwdata;
    uint64_t token; /* of the thread; 0 for a reader without a record */
    bool writer;
    bool repair; /* poison is no obstacle, nor are guards of a parent */
    const char *phase;
};

/* ---- rwdata_lock.c ---- */

/* Gets what is asked for, at most until timeout has passed; see pnx_rwdata_read(). */
int pnx__rwdata_acquire(
        const struct pnx_rwdata_request *request, pnx_ns timeout, struct pnx_error *err);

/* Ends the write guard; what is added comes into the word: nothing, or a reader. */
void pnx__rwdata_release_writer(struct pnx_rwdata *rwdata, uint64_t add);

/* After the word has changed to this one: wakes who is first in the queue, if his time has come. */
void pnx__rwdata_passed(struct pnx_rwdata *rwdata, uint64_t word);

/* Ends all waits with -ESHUTDOWN, and lets nobody wait any more. */
void pnx__rwdata_close_queue(struct pnx_rwdata *rwdata);

/* Makes the lock and the queue usable in a forked child; costs a load elsewhere. */
void pnx__rwdata_adopt(struct pnx_rwdata *rwdata);

static inline bool pnx__rwdata_is_writer(uint64_t word, uint64_t token) {
    uint64_t mask = PNX_RWDATA_READER_ - PNX_RWDATA_WRITER_;
    return (word & mask) == token && token != 0;
}

static inline uint64_t pnx__rwdata_readers(uint64_t word) {
    return word / PNX_RWDATA_READER_;
}

#ifdef PNX_DEBUG
/* For tests: checks the invariants of an rwdata, and returns the word. */
uint64_t pnx__rwdata_check(struct pnx_rwdata *rwdata);
#endif

/* ---- rwdata.c ---- */

/* Whether the thread holds a guard of this rwdata, by its list; a writer's if writer.  Checked ones only. */
bool pnx__rwdata_holds(const struct pnx_rwdata *rwdata, bool writer);

/* The writer poisons the value; cause is an error. */
void pnx__rwdata_poison(struct pnx_rwdata *rwdata, int cause);

/* Reports a misuse: counted, told to the monitors, logged.  Returns -EINVAL. */
int pnx__rwdata_misused(struct pnx_rwdata *rwdata, const char *how);

#endif
