/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ledger.h - the independent ledger of test_ledger.c: what became of each resource, told by its cleanup and by those
 * who acted on it, in numbers of its own.
 *
 * A record is one resource: a row, or an untracked guard.  At the end each must be one of these, and nothing else:
 *
 *   struck    its owner took it out, or its job was cancelled, and no cleanup of it has come to an end
 *   ended     a cleanup of it has come to an end, once, with the code that the library tells everybody
 *   gave up   its cleanups all returned -EAGAIN, and the library has said that it will not try again
 */
#ifndef PNX_TEST_LEDGER_H
#define PNX_TEST_LEDGER_H

#include "harness/harness.h"

#include <patinox/executor.h>
#include <patinox/guard.h>
#include <patinox/registry.h>
#include <patinox/shutdown.h>

#include <pthread.h>

/* How a cleanup behaves. */
enum kind {
    KIND_GOOD,
    KIND_BAD,    /* returns an error */
    KIND_SLOW,   /* takes its time */
    KIND_HANGS,  /* until it is told that its time is up, or gives up waiting for that */
    KIND_STUCK,  /* until the test says so: no token helps */
    KIND_NESTED, /* uses the registry itself, all the way */
    KIND_FORKS,  /* has a child, which may not end what is its parent's */
    KIND_AGAIN,  /* not now, some times; then it returns its code */
    KIND_PENDS,  /* ends without a thread; maybe with not now at first */
    KIND_BARE,   /* there is none */
    KINDS,
};

/* Who called the cleanup.  Threads of the library act on nobody's behalf. */
enum path {
    PATH_LIBRARY,
    PATH_CLEANUP, /* pnx_registry_cleanup() */
    PATH_GUARD,
    PATH_INLINE, /* a submit to an executor that was full */
    PATH_FORCE,
    PATH_BATCH,
    PATHS,
};

struct ledger;

struct record {
    /* By its maker, before others can see it. */
    struct ledger *ledger;
    struct record *parent;
    struct record *victim; /* KIND_NESTED: given to it, to be ended by it or not at all */
    enum kind kind;
    int code;         /* what its cleanup returns in the end */
    uint32_t n_again; /* how often it returns -EAGAIN before */
    uint64_t seed;
    uint32_t flags;   /* of its row */
    int32_t priority; /* likewise */
    bool guarded;     /* its maker holds it by a guard */
    bool untracked;   /* which has no row */
    bool silent;      /* dropped to the silent executor */
    bool given;       /* to a nested cleanup: its maker leaves it alone */
    bool mine;        /* its maker has not done with it */
    /* Atomics. */
    uint64_t id;
    struct pnx_completion completion; /* with the next: guarded by the ledger's lock */
    struct record *next_pending;
    uint32_t made;     /* there is, or was, something to end */
    uint32_t added;    /* it has, or had, a row */
    uint32_t children; /* there was a row whose parent it was to be */
    uint32_t struck;
    uint32_t running; /* or pending */
    uint32_t started;
    uint32_t again;
    uint32_t ended;
    uint32_t gave_up; /* the library tried as often as it would, and said -EAGAIN */
    uint32_t path;    /* of the last who ran it */
    uint64_t began;   /* order of the last start, and of the last end */
    uint64_t finished;
    pnx_ns dropped_at; /* to the background, by its owner */
    pnx_ns ended_at;
    pnx_job_id job;    /* one of those that were to end it */
    uint32_t jobs;     /* accepted */
    uint32_t told;     /* of them: done has been called */
    uint32_t by_a_job; /* ended by one of them */
    int told_code;     /* by the last of them */
    /* By the audit. */
    enum pnx_resource_state reported; /* 0: not in the report */
    int reported_code;
};

/* Whether it may be that a guard was dropped, could not end its row, and has left it to the registry. */
bool ledger_was_left(const struct record *record);

struct ledger {
    struct pnx_stats *stats; /* the registry's */
    struct pnx_registry *registry;
    struct pnx_registry *side; /* never shut down while cleanups may use it */
    struct pnx_executor *executor;
    struct pnx_executor *silent; /* driven by ticks, for what guards drop without a done function */
    const char *known;           /* type of rows whose leaks are suppressed; NULL: none */
    uint32_t executor_rows;      /* of them, in the registry */
    struct record *records;
    uint32_t of_each;   /* records of each of its makers, which make them in this order */
    uint32_t n_records; /* of all of them */
    uint32_t n_nested;  /* records after those, for what cleanups make */
    uint64_t clock;     /* atomic: order of starts and ends */
    uint32_t nested;    /* atomic: how many of them are used */
    uint32_t told;      /* atomic: KIND_STUCK may end */
    /* Atomics: jobs of executor, by what done was told. */
    uint64_t jobs_done;
    uint64_t jobs_failed;
    uint64_t jobs_canceled;
    uint64_t asked;        /* by a force or a batch, at least */
    uint64_t may_be_asked; /* calls that do not say whether */
    uint64_t forced;
    /* Pending cleanups, for ledger_complete_some(); guarded by lock. */
    pthread_mutex_t lock;
    struct record *pending;
};

#define LEDGER_GET(field)        __atomic_load_n(&(field), __ATOMIC_ACQUIRE)
#define LEDGER_SET(field, value) __atomic_store_n(&(field), (value), __ATOMIC_RELEASE)
#define LEDGER_UP(field)         __atomic_add_fetch(&(field), 1, __ATOMIC_ACQ_REL)

/*
 * What one call into the library did on this thread, told by the cleanups that it ran: to be compared with what the
 * call returns.  Calls nest.
 */
struct act {
    struct act *outer;
    enum path path;
    bool unused;  /* PATH_BATCH: the caller has vouched that nobody uses what it ends */
    uint32_t ran; /* cleanups that it ran itself, not those that these ran */
    uint32_t failed;
    uint32_t again;
    uint32_t pended; /* it may have been completed before the call looked */
    struct record *last;
    int code; /* of the last, or of its completion if that came first */
};
void act_begin(struct act *act, enum path path);
void act_end(struct act *act);

/* Completes the pending cleanups.  Returns whether there were any. */
bool ledger_complete_some(struct ledger *ledger);

/* The cleanup of every record, which is its argument. */
int ledger_cleanup(void *arg, const struct pnx_cancel *cancel);

/* The types of rows; which one follows from a record's seed. */
extern const char *const ledger_types[4];

/* Adds the record's row, or tracks an empty guard.  false when the registry is shut down. */
bool ledger_add(struct record *record);
bool ledger_track(struct record *record, struct pnx_guard *guard);
/* Arms a guard, and no more. */
bool ledger_guard(struct record *record, struct pnx_guard *guard);

/* Looks at a row in some way, as r says. */
void ledger_look(struct record *record, uint64_t r);

/* Calls of the library, with all that can be said about what they return. */
int ledger_remove(struct record *record);
int ledger_run(struct record *record);
/* Runs, drops or dismisses the guard, as r says; an armed one is as it was, and so is its row. */
void ledger_end_guard(struct record *record, struct pnx_guard *guard, uint64_t r);

/* Forces the record's row, or all that a filter lets pass, as r says. */
void ledger_force(struct record *record);
void ledger_batch(struct ledger *ledger, uint64_t r);

/* ---- ledger_jobs.c ---- */

/* Hands the end of a record's row, or what a guard holds, to the executor, as r says.  false when it was refused. */
bool ledger_submit(struct record *record, uint64_t r);
bool ledger_defer(struct record *record, struct pnx_guard *guard, uint64_t r);

/* Cancels a job of the record, or waits for it. */
void ledger_cancel(struct record *record);
void ledger_wait(struct record *record, pnx_ns timeout);

/* Returns how many jobs have not been told yet how they ended. */
uint32_t ledger_jobs_left(const struct ledger *ledger);

/* Compares with the executor's numbers, once there are none. */
void ledger_audit_jobs(const struct ledger *ledger);

/* ---- ledger_audit.c ---- */

/* Reads the report of a shutdown that returned code into the records, and compares; strict: every cleanup had its time. */
void ledger_audit_report(
        struct ledger *ledger, const struct pnx_shutdown_report *report, int code, bool strict);

/* Compares with the registry's numbers, once nothing moves any more. */
void ledger_audit_stats(struct ledger *ledger);

/* What all records together say. */
struct ledger_sum {
    uint64_t untracked;
    uint64_t added; /* rows, like all below */
    uint64_t struck;
    uint64_t ended;
    uint64_t failed;
    uint64_t gave_up;
    uint64_t again;
    uint64_t by[PATHS]; /* ended by whom */
    uint64_t by_jobs;
    uint64_t of[KINDS]; /* ended of which kind */
};
void ledger_sum_up(const struct ledger *ledger, struct ledger_sum *ret_sum);

#endif
