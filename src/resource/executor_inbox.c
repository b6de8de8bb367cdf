/* SPDX-License-Identifier: Apache-2.0 */
/*
 * resource/executor_inbox.c - see resource/executor_inbox.h, where I1..I3 stand.
 */
#include "resource/executor_inbox.h"

void pnx__inbox_init(struct pnx__inbox *inbox, struct pnx__job *jobs, struct pnx_a32 *cell,
        uint32_t places, uint64_t first_generation) {
    *inbox = (struct pnx__inbox){
            .jobs = jobs,
            .cell = cell,
            .mask = pnx__inbox_cells(places) - 1,
            .fences = !pnx__barrier_is_asymmetric(),
    };
    for (uint32_t i = 0; i < places; i++) {
        /* nobody else knows it yet */
        pnx_store(&jobs[i].mail.ticket, first_generation, PNX_RELAXED, "executor_inbox.first");
        jobs[i].index = i;
        jobs[i].generation = first_generation;
        pnx__inbox_give(inbox, &jobs[i]);
    }
}

void *pnx__inbox_call(struct pnx__inbox *inbox, void *attention, void **ret_called) {
    *ret_called = NULL;
    while (attention && attention != inbox) {
        void *thread = attention;
        /* release: pairs with executor_threads.called; whoever finds it taken finds what was posted */
        if (pnx_cas(&inbox->attention, &attention, NULL, PNX_RELEASE, "executor_inbox.call")) {
            *ret_called = thread;
            return NULL;
        }
    }
    return attention;
}

/* The job at a position of the ring if it has just been posted there, else NULL; *ret_open: nothing was yet. */
static struct pnx__job *look_at(struct pnx__inbox *inbox, uint64_t at, bool *ret_open) {
    struct pnx_a32 *cell = &inbox->cell[at & inbox->mask];
    /* relaxed: written under the lock */
    uint32_t index = pnx_load(cell, PNX_RELAXED, "executor_inbox.next_cell");
    *ret_open = false;
    if (index == PNX_INBOX_NONE)
        return NULL;
    struct pnx__job *job = &inbox->jobs[index];
    /* acquire: pairs with executor_inbox.post */
    uint64_t ticket = pnx_load(&job->mail.ticket, PNX_ACQUIRE, "executor_inbox.look");
    *ret_open = ticket == job->generation;
    if (*ret_open)
        return NULL;
    job->generation = ticket;
    pnx_store(cell, PNX_INBOX_NONE, PNX_RELAXED, "executor_inbox.taken"); /* under the lock */
    pnx_owner_add(&inbox->accepted, 1);
    return job;
}

struct pnx__job *pnx__inbox_next(struct pnx__inbox *inbox, uint64_t *at) {
    /* relaxed: what it misses, its submitter will tell of, or the next holder of the lock sees (I1) */
    uint64_t head = pnx_load(&inbox->head, PNX_RELAXED, "executor_inbox.next") >> 1;
    while (*at < head) {
        bool open; /* its submitter is about to post; those behind him need not wait for it */
        struct pnx__job *job = look_at(inbox, *at, &open);
        if (*at == inbox->looked && !open)
            inbox->looked++;
        ++*at;
        if (job)
            return job;
    }
    return NULL;
}

void pnx__inbox_give(struct pnx__inbox *inbox, const struct pnx__job *job) {
    /* relaxed, both: written under the lock */
    uint64_t tail = pnx_load(&inbox->tail, PNX_RELAXED, "executor_inbox.give_tail");
    pnx_store(
            &inbox->cell[tail & inbox->mask], job->index, PNX_RELAXED, "executor_inbox.give_cell");
    /* release: pairs with executor_inbox.tail */
    pnx_store(&inbox->tail, tail + 1, PNX_RELEASE, "executor_inbox.give");
}

void pnx__inbox_shut(struct pnx__inbox *inbox) {
    /* relaxed: who took a place before is counted by it; see pnx__inbox_under_way() */
    pnx_fetch_or(&inbox->head, 1, PNX_RELAXED, "executor_inbox.shut");
}
