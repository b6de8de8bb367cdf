/* SPDX-License-Identifier: Apache-2.0 */
/*
 * resource/executor_inbox.h - submitting without the lock.
 *
 * Places for jobs wait in a ring.  A submitter takes the first one by a compare-and-swap, fills its mail and posts it;
 * who next takes the executor's lock accepts what was posted, and with the end of a job its place goes back to the
 * end of the ring.  So places rest as long as possible, and an ended job stays known for long.
 *
 *     ring:  ... taken, not yet looked at ...  |  free places  |
 *                ^ looked                      ^ head          ^ tail
 *
 * A ring of twice the places never writes over a cell that has not been looked at: tail - head <= places that are free,
 * and head - looked <= places that are not.
 *
 * Whether anybody is to be told that a job was posted, a submitter learns from attention:
 *
 *   NULL      nobody: some thread will take the lock before it sleeps, or none may run a job now
 *   a thread  it is the one to wake; who takes it away (a compare-and-swap to NULL) wakes it
 *   the inbox take the lock
 *
 * Holders of the lock write attention, when they give it back.  A submitter posts, and then looks at attention; a holder
 * that has set it, from NULL, executes a heavy barrier and accepts once more: one of the two sees the other.
 *
 *   I1  A posted job is accepted by whoever is told of it, or by who will take the lock before it sleeps.
 *   I2  A place is with one submitter, or with the core, or in the ring once.
 *   I3  Once the inbox is shut no place is taken.
 */
#ifndef PNX_SRC_RESOURCE_EXECUTOR_INBOX_H
#define PNX_SRC_RESOURCE_EXECUTOR_INBOX_H

#include "os/thread.h"
#include "resource/executor_core.h"

struct pnx__inbox {
    struct pnx__job *jobs;            /* fixed, like the next three */
    struct pnx_a32 *cell;             /* indices of jobs */
    uint64_t mask;                    /* cells, a power of two, less one */
    bool fences;                      /* the light barrier is a fence, too */
    _Alignas(64) struct pnx_a64 head; /* places taken << 1, and whether it is shut */
    /* Written under the lock, save that a submitter takes a thread out of attention. */
    _Alignas(64) struct pnx_a64 tail; /* places given */
    struct pnx_aptr attention;
    /* Guarded by the lock. */
    _Alignas(64) uint64_t looked; /* all that were taken before are accepted */
    struct pnx_a64 accepted;      /* how many are; anybody may look */
};

#define PNX_INBOX_NONE UINT32_MAX

/* How many cells a ring for so many places has. */
static inline uint64_t pnx__inbox_cells(uint32_t places) {
    uint64_t cells = 2;
    while (cells < 2 * (uint64_t)places)
        cells *= 2;
    return cells;
}

/* All places of jobs are free.  cell has room for pnx__inbox_cells(places). */
void pnx__inbox_init(struct pnx__inbox *inbox, struct pnx__job *jobs, struct pnx_a32 *cell,
        uint32_t places, uint64_t first_generation);

/* ---- submitters ---- */

/* Takes a free place: its job, which is the caller's until it has posted it; NULL when there is none, or it is shut. */
static inline struct pnx__job *pnx__inbox_take(struct pnx__inbox *inbox) {
    /* relaxed: only compared; see executor_inbox.take */
    uint64_t head = pnx_load(&inbox->head, PNX_RELAXED, "executor_inbox.head");
    for (;;) {
        /* acquire: pairs with executor_inbox.give; the cell, and all that was done with the place before */
        uint64_t tail = pnx_load(&inbox->tail, PNX_ACQUIRE, "executor_inbox.tail");
        if ((head & 1) || head >> 1 >= tail)
            return NULL;
        /* relaxed: see executor_inbox.tail; when somebody else is faster, what it holds does not matter */
        uint32_t index =
                pnx_load(&inbox->cell[head >> 1 & inbox->mask], PNX_RELAXED, "executor_inbox.cell");
        /* relaxed: it says whose the place is, and tells nobody of anything */
        if (pnx_cas(&inbox->head, &head, head + 2, PNX_RELAXED, "executor_inbox.take"))
            return &inbox->jobs[index];
    }
}

/* Posts a taken job whose mail is filled.  Returns its id; *ret_attention is what the caller must attend to. */
static inline pnx_job_id pnx__inbox_post(
        struct pnx__inbox *inbox, struct pnx__job *job, void **ret_attention) {
    /* relaxed: only who has the place writes it */
    uint64_t ticket = pnx_load(&job->mail.ticket, PNX_RELAXED, "executor_inbox.ticket") + 1;
    pnx_job_id id = pnx__job_id_of(ticket, job->index);
    /* release: pairs with executor_inbox.look; the mail */
    pnx_store(&job->mail.ticket, ticket, PNX_RELEASE, "executor_inbox.post");
    if (inbox->fences)
        pnx_fence(
                PNX_SEQ_CST, "executor_inbox.light"); /* pairs with the heavy barrier, see above */
    else
        __asm__ __volatile__("" ::: "memory");
    *ret_attention = pnx_load(&inbox->attention, PNX_RELAXED, "executor_inbox.attention");
    return id;
}

/*
 * Attends to a thread.  Returns NULL when it was taken, and is to be woken by the caller, or was taken by somebody else
 * (*ret_called is false then); the inbox when the lock is to be taken instead.
 */
void *pnx__inbox_call(struct pnx__inbox *inbox, void *attention, void **ret_called);

/* ---- under the lock ---- */

/*
 * Returns a posted job that has not been accepted yet, with its new generation, or NULL: call it until then, with
 * *at = inbox->looked first.
 */
struct pnx__job *pnx__inbox_next(struct pnx__inbox *inbox, uint64_t *at);

/* A job's place is free. */
void pnx__inbox_give(struct pnx__inbox *inbox, const struct pnx__job *job);

/* No place is taken after this. */
void pnx__inbox_shut(struct pnx__inbox *inbox);

/* How many places were taken whose jobs have not been accepted: no more than so many submits are under way. */
static inline uint64_t pnx__inbox_under_way(const struct pnx__inbox *inbox) {
    /* relaxed: exact once it is shut, else of the moment */
    uint64_t head = pnx_load(&inbox->head, PNX_RELAXED, "executor_inbox.under_way");
    return (head >> 1) - pnx_load(&inbox->accepted, PNX_RELAXED, "executor_inbox.accepted");
}

#endif
