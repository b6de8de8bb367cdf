/* SPDX-License-Identifier: Apache-2.0 */
/*
 * share/reclaim.h - a reclaim domain, for src/share/reclaim*.c; and what containers call.
 *
 * A node's way, and who moves it:
 *
 *     retired on its thread's section --begin--> in flight --end--> ready --run--> (function called)
 *        pushed without a lock          lock           lock      lock: by a runner
 *
 * A grace period, moved by gp_begin() and gp_end() of reclaim_gp.c only, under the lock:
 *
 *     IDLE --begin: take all nodes, heavy barrier, note each open section--> IN FLIGHT --end: all seen ended--> IDLE
 *
 * Conservation, at every moment under the lock:
 *     collected == taken + ready + in flight;  taken == run + nodes of the chunks of runners;
 *     retired == collected + those on sections.
 */
#ifndef PNX_SRC_SHARE_RECLAIM_H
#define PNX_SRC_SHARE_RECLAIM_H

#include "base/atomic.h"
#include "base/env.h"
#include "base/list.h"
#include "os/mutex.h"
#include "stats/stats.h"

#include <patinox/reclaim.h>

#define PNX_GROUP     reclaim
#define PNX_GROUP_DEF <patinox/stats/reclaim.def>
#include "stats/declare_group.inc"

#define PNX_RECLAIM_RUNNERS     8   /* threads that run callbacks of one domain at once */
#define PNX_RECLAIM_DUE_OBJECTS 64u /* a thread that retired so many tries to free */
#define PNX_RECLAIM_DUE_SHARE   4u  /* or, with many threads, so great a part of their number */
#define PNX_RECLAIM_DUE_BYTES   (512u << 10) /* or so much */

/* First in, first out. */
struct pnx_reclaim_queue {
    struct pnx_reclaim_node *first;
    struct pnx_reclaim_node *last;
    uint64_t n;
};

/*
 * A thread that runs callbacks, taken off ready in chunks.  Nodes are numbered in the order of taking.  Guarded by the
 * lock: thread, n.  The thread's own: chunk (a forked child reads it too).
 */
struct pnx_reclaim_runner {
    struct pnx_a64 at;  /* number of the node whose callback runs: all before it are done */
    const void *thread; /* its record, or the domain for one without; NULL: none */
    uint64_t n;         /* nodes of its chunk */
    struct pnx_reclaim_node
            *chunk; /* those not begun yet; the next runner's, if a callback ended its thread */
};

/*
 * Owned by its references; a domain that could not be emptied stays for ever.  The default one is static.
 */
struct pnx_reclaim {
    /* Fixed at creation. */
    struct pnx_reclaim_head head;
    uint32_t magic;
    bool fenced; /* readers execute fences */
    struct pnx_env env;
    struct pnx_reclaim_opts opts;
    struct pnx_registry *registry; /* a reference of ours; NULL when off */
    pnx_resource_id id;
    char *name;
    struct pnx_stats_block block;

    struct pnx_link link; /* all domains; the lock of all domains */
    struct pnx_a32 references;
    struct pnx_aptr sections;    /* a list that only grows, newest first */
    struct pnx_a64 guests;       /* open sections of threads without a record */
    struct pnx_aptr guest_nodes; /* retired by such threads, newest first */
    struct pnx_a64 guest_objects;
    struct pnx_a64 guest_bytes;
    struct pnx_a32 batch;   /* objects that a thread retires before it frees, with many threads */
    struct pnx_a32 changed; /* futex: moves when what a sleeper waits for may have come about */
    struct pnx_a64
            run; /* nodes whose function has returned, chunk by chunk; written under the lock */
    struct pnx_a64 run_bytes;

    struct pnx_mutex lock; /* rank RECLAIM; guards what follows */
    uint64_t begun;        /* grace periods */
    uint64_t ended;        /* begun, or one less while one is in flight */
    uint64_t collected;    /* nodes ever taken off sections */
    uint64_t taken;        /* ... and off ready, by runners */
    struct pnx_reclaim_runner runner[PNX_RECLAIM_RUNNERS];
    struct pnx_reclaim_section *awaited;
    bool guests_awaited;
    bool broken;
    bool untold; /* of being broken */
    int code;    /* why it is broken */
    uint32_t sleepers;
    pnx_ns since; /* when the grace period in flight began */
    pnx_ns stall; /* when it is to be reported next */
    struct pnx_reclaim_queue flight;
    struct pnx_reclaim_queue ready;
    struct pnx_reclaim_values values; /* the counters; gauges are written when read */
};

/* What is to be done once the lock is let go. */
struct pnx_reclaim_effects {
    bool wake;
    bool broke;
    bool stalled;
    struct pnx_reclaim_stall stall;
};

/* ---- reclaim_gp.c: under the lock ---- */

enum pnx_reclaim_begin { PNX_BEGIN_NONE, PNX_BEGIN_IF_RETIRED, PNX_BEGIN_ALWAYS };

/* Goes on with the grace period in flight; then begins one if there is none and begin asks for it. */
void pnx__reclaim_step(struct pnx_reclaim *domain, enum pnx_reclaim_begin begin,
        struct pnx_reclaim_effects *effects);
/* Asks those who keep the grace period waiting to tell at their exit.  false: it has ended meanwhile. */
bool pnx__reclaim_await(struct pnx_reclaim *domain, struct pnx_reclaim_effects *effects);
/* Notes a stall, if one is to be reported now. */
void pnx__reclaim_look_for_stall(
        struct pnx_reclaim *domain, pnx_ns now, struct pnx_reclaim_effects *effects);
/* Sums up what was ever retired. */
void pnx__reclaim_sum(const struct pnx_reclaim *domain, uint64_t *ret_objects, uint64_t *ret_bytes);
/* Brings the gauges up to date. */
void pnx__reclaim_gauges(struct pnx_reclaim *domain);

/* ---- reclaim_run.c ---- */

/* Without the lock: wakes sleepers, and tells of what was noted. */
void pnx__reclaim_effects(struct pnx_reclaim *domain, const struct pnx_reclaim_effects *effects);
/* Whether this thread may run callbacks where it is: see pnx__reclaim_run(). */
bool pnx__reclaim_may_run(void);
/*
 * Runs about max callbacks that are ready.  Does nothing where this thread is in a section, or in a callback, of reclaim
 * or one that holds a latch, but for anywhere: what is dropped may want to write where the latch is.
 */
void pnx__reclaim_run(struct pnx_reclaim *domain, uint64_t max, bool anywhere);
/* Returns how many callbacks could be run now.  Under the lock. */
uint64_t pnx__reclaim_ready(const struct pnx_reclaim *domain);
/* Returns whether a thread runs callbacks now.  Under the lock. */
bool pnx__reclaim_runs(const struct pnx_reclaim *domain);
void pnx__reclaim_assist_due(struct pnx_reclaim *domain);

/* ---- reclaim.c ---- */

/* Returns the domain that a public argument means. */
struct pnx_reclaim *pnx__reclaim_resolve(struct pnx_reclaim *domain);

/* ---- reclaim_thread.c ---- */

/* Counts a mistake of the program's, and tells of it; section: of the thread that made it, or NULL. */
void pnx__reclaim_misused(
        struct pnx_reclaim *domain, int code, const struct pnx_reclaim_section *section);
/* Returns the calling thread's section in the domain, made if need be; NULL for want of memory. */
struct pnx_reclaim_section *pnx__reclaim_join(struct pnx_reclaim *domain);
void pnx__reclaim_threads_init(void);
/* Takes every thread's section of a domain away and frees what was allocated; nobody uses it any more. */
void pnx__reclaim_part(struct pnx_reclaim *domain);
/* Gives the domain a number; -EBUSY when there are too many. */
int pnx__reclaim_list_add(struct pnx_reclaim *domain);
/* Returns whether there is a domain besides the default one. */
bool pnx__reclaim_others(void);
/* Returns whether the calling thread is in a section of any domain. */
bool pnx__reclaim_in_any(void);

/*
 * For containers, at the end of a write, holding no lock: runs callbacks when enough was retired by this thread.  In a
 * section or a callback, and in a domain that forbids it, it does nothing.
 */
static inline void pnx__reclaim_assist(struct pnx_reclaim *domain) {
    const struct pnx_reclaim_section *section = pnx__reclaim_section(domain);
    if (!section || section->due_objects >= PNX_RECLAIM_DUE_OBJECTS ||
            section->due_bytes >= PNX_RECLAIM_DUE_BYTES)
        pnx__reclaim_assist_due(domain);
}

#endif
