/* SPDX-License-Identifier: Apache-2.0 */
/*
 * registry/shutdown_state.h - what a registry keeps for its shutdown (src/resource/shutdown*.c).
 *
 * It is part of the registry, so that a shutdown can neither fail for want of memory nor be in progress twice.
 */
#ifndef PNX_SRC_REGISTRY_SHUTDOWN_STATE_H
#define PNX_SRC_REGISTRY_SHUTDOWN_STATE_H

#include "base/atomic.h"
#include "os/mutex.h"
#include "registry/ledger.h"

#include <patinox/shutdown.h>

/* Rows that are looked at together when there is no memory for more. */
#define PNX_SHUTDOWN_WINDOW 64

enum pnx_member_state {
    PNX_MEMBER_HELD = 0,  /* it has a child that has not ended */
    PNX_MEMBER_READY,     /* in ready, or, in a window, given up with its rest */
    PNX_MEMBER_RUNNING,   /* a worker runs its cleanup */
    PNX_MEMBER_ELSEWHERE, /* on elsewhere: run by others, pending, or its owner's to end */
    PNX_MEMBER_AGAIN,     /* in again: its cleanup has returned -EAGAIN */
    PNX_MEMBER_ENDED,     /* nobody waits for it any more */
};

/* What a member waits for, beside its children. */
enum pnx_member_turn {
    PNX_TURN_ANY = 0, /* nothing */
    PNX_TURN_LATE, /* PNX_PRIORITY_LAST, below a row of another priority: all that does not wait for such as it */
    PNX_TURN_LAST, /* PNX_PRIORITY_LAST: all rows of other priorities */
    PNX_TURNS,
};

/* A row that the shutdown is looking at.  Guarded by the shutdown's lock, but for what is fixed. */
struct pnx_shutdown_member {
    struct pnx_row *row; /* fixed, like the next three */
    pnx_resource_id id;
    uint64_t key;                       /* the smaller, the earlier its turn */
    struct pnx_shutdown_member *parent; /* waits for its end; NULL: none, or not at hand */
    struct pnx_shutdown_member *next;   /* on a list; in a heap: its next sibling */
    struct pnx_shutdown_member *child;  /* in a heap: its first child */
    pnx_ns due;                         /* AGAIN: when it is tried again */
    uint32_t children;                  /* rows for whose end it waits */
    uint8_t state;                      /* enum pnx_member_state */
    uint8_t tries;                      /* that returned -EAGAIN; no more than 255 */
    uint8_t turn;                       /* enum pnx_member_turn; fixed before any is admitted */
    bool owned : 1; /* only its owner ends it; he may leave it to the registry */
    bool bare : 1;  /* fixed: it has no cleanup */
};

/* What a shutdown did: part of the registry, which the report's holders keep alive. */
struct pnx_shutdown_report {
    struct pnx_registry *registry;
    struct pnx_shutdown_counts counts;
    pnx_ns began;
    int code;
};

/* A thread of the shutdown.  Guarded by the shutdown's lock; thread: the leader's. */
struct pnx_shutdown_worker {
    struct pnx_registry *registry;
    struct pnx_os_thread *thread;
    struct pnx_shutdown_member *member; /* whose cleanup it runs; NULL: none */
    struct pnx_shutdown_member own;     /* member, when its place has been given to another row */
    struct pnx_row_request request;
    pnx_ns overdue_at;
    bool used;    /* the thread has not said yet that it ends */
    bool overdue; /* it has been asked to hurry, and is not waited for */
    bool in_barrier;
};

/* What is done when all rows of the process's registry have ended. */
enum pnx_shutdown_barrier {
    PNX_BARRIER_NOT_WANTED = 0,
    PNX_BARRIER_WANTED,
    PNX_BARRIER_RUNS,
    PNX_BARRIER_OVER,
};

/*
 * Without memory for all rows the members are a window that moves over them, from the first in order to the last,
 * again and again: a sweep is one such way.
 */
struct pnx_shutdown_sweep {
    uint64_t after;   /* key up to which this sweep has come; UINT64_MAX: it is over */
    uint32_t changed; /* registry->changed before it began */
    bool stirred;     /* a row has ended since */
    bool retries;     /* rows that returned -EAGAIN have a turn */
    bool again;       /* there are such rows */
    bool last_first; /* the last part of the time: rows of PNX_PRIORITY_LAST come before all others */
    size_t busy; /* rows of other priorities, at the last look, that others end, or a thread, or a retry */
    size_t idle; /* ... and the others of these: had no turn yet, or have a child that has not ended */
    uint8_t tries;   /* sweeps that have retried, for the pause between two */
    pnx_ns retry_at; /* when the next one may */
};

/*
 * Conservation: left = rows of the shutdown that are there, but for bare ones that have had their turn.
 * When whole: left = n_last + n_plain; n_busy = members of n_plain that are not HELD.
 */
struct pnx_shutdown_state {
    struct pnx_mutex lock;
    struct pnx_a32 phase; /* enum pnx_shutdown_phase, and who leads; a futex */
    /* Written by the leader before there are workers, then fixed. */
    pnx_ns deadline; /* with the time taken off that the last look at all rows will take */
    pnx_ns last_at;  /* from then on rows of PNX_PRIORITY_LAST wait for their children only */
    bool enlisted; /* the registry is closed: no shard gets further slots, and empty ones are left out */
    struct pnx_shutdown_member *members; /* allocated, or window */
    size_t capacity;                     /* of members */
    bool whole;                          /* there is room for all rows */
    bool lined_up; /* whole, and all are members, in order; guarded by lock until the phase is DONE */
    uint64_t random; /* for the pauses between tries; guarded by lock */
    /* Guarded by lock; n is fixed when whole. */
    size_t n;
    struct pnx_shutdown_member *ready[PNX_TURNS]; /* heaps, by key; in a window only the first */
    struct pnx_shutdown_member *again;     /* a heap, by due; only when whole, like elsewhere */
    struct pnx_shutdown_member *elsewhere; /* a list */
    size_t n_elsewhere;
    uint32_t disowned; /* registry->disowned at the last look */
    size_t left;
    size_t n_last; /* rows of PNX_PRIORITY_LAST that have not ended */
    size_t n_plain; /* rows of other priorities that have not ended; only when whole, like the next */
    size_t n_busy;
    struct pnx_shutdown_sweep sweep; /* only when not whole */
    enum pnx_shutdown_barrier barrier;
    int barrier_code;
    pnx_ns until;    /* when the leader will look again by itself */
    uint32_t seen;   /* registry->changed before the leader's last look; tests wait for it */
    bool recordless; /* a worker could not work for want of a thread's record */
    bool over;       /* no cleanup may be started any more */
    struct pnx_shutdown_worker *active; /* the one that may start cleanups; NULL: none */
    struct pnx_shutdown_worker workers[PNX_SHUTDOWN_WORKERS];
    struct pnx_shutdown_member window[PNX_SHUTDOWN_WINDOW];
    struct pnx_shutdown_report report; /* fixed, and read without the lock, in phase DONE */
};

#endif
