/* SPDX-License-Identifier: Apache-2.0 */
/*
 * resource/executor_core_check.c - the invariants E1..E5 of executor_core.h as code.
 *
 * Part of the pure core.  The model test runs it after every step, debug builds at every unlock of a small executor.
 */
#include "resource/executor_core.h"

/* Walks a list; false when a link is broken, it is longer than limit, or a job has neither of the states. */
static bool walk(const struct pnx__executor_core *core, const struct pnx_link *list,
        uint32_t states, uint32_t *n) {
    uint32_t found = 0;
    for (const struct pnx_link *link = list->next; link != list; link = link->next) {
        const struct pnx__job *job = PNX_CONTAINER(link, struct pnx__job, link);
        if (link->next->prev != link || ++found > core->capacity)
            return false;
        if (!(states & (1u << job->state)))
            return false;
        n[job->state]++;
    }
    return true;
}

static const char *check_lists(const struct pnx__executor_core *core) {
    uint32_t n[PNX__JOB_STATES] = {0};
    uint32_t busy = 1u << PNX__JOB_RUNNING | 1u << PNX__JOB_PENDING | 1u << PNX__JOB_LAST;
    bool whole = walk(core, &core->free, 1u << PNX__JOB_FREE, n) &&
                 walk(core, &core->delayed, 1u << PNX__JOB_DELAYED, n) &&
                 walk(core, &core->busy, busy, n) &&
                 walk(core, &core->ending, 1u << PNX__JOB_ENDING, n);
    for (int lane = 0; whole && lane < PNX_LANES; lane++)
        whole = walk(core, &core->lane[lane], 1u << PNX__JOB_QUEUED, n);
    uint32_t sum = 0;
    for (int state = 0; whole && state < PNX__JOB_STATES; state++) {
        whole = n[state] == core->n[state];
        sum += n[state];
    }
    return whole && sum == core->capacity ? NULL : "E1: a job is not on the list of its state";
}

static const char *check_lanes(const struct pnx__executor_core *core) {
    for (uint32_t lane = 0; lane < PNX_LANES; lane++) {
        pnx_ns last = INT64_MIN;
        for (const struct pnx_link *link = core->lane[lane].next; link != &core->lane[lane];
                link = link->next) {
            const struct pnx__job *job = PNX_CONTAINER(link, struct pnx__job, link);
            if (job->spec.lane != lane || job->queued_at < last || job->queued_at > core->now)
                return "E3: a lane is out of order";
            last = job->queued_at;
        }
    }
    return NULL;
}

static bool wants_timer(const struct pnx__job *job) {
    bool busy = pnx__job_runs(job) || job->state == PNX__JOB_PENDING;
    return job->at != PNX_NEVER && (job->state == PNX__JOB_DELAYED || (busy && !job->overdue));
}

static const char *check_timers(const struct pnx__executor_core *core) {
    uint32_t timers = 0;
    for (uint32_t i = 0; i < core->capacity; i++) {
        const struct pnx__job *job = &core->jobs[i];
        if (wants_timer(job) != (job->timer != 0))
            return "E2: a timer is missing, or has been left";
        if (job->timer == 0)
            continue;
        timers++;
        if (job->timer > core->timers || core->heap[job->timer - 1] != job)
            return "E2: a timer is not where its job says";
        if (job->timer > 1 && core->heap[job->timer / 2 - 1]->at > job->at)
            return "E2: the heap is out of order";
    }
    if (timers != core->timers)
        return "E2: count of timers";
    return core->next_timer == (timers ? core->heap[0]->at : PNX_NEVER) ? NULL : "E2: next_timer";
}

static const char *check_jobs(const struct pnx__executor_core *core) {
    uint32_t late = 0;
    for (uint32_t i = 0; i < core->capacity; i++) {
        const struct pnx__job *job = &core->jobs[i];
        if (job->state == PNX__JOB_RUNNING && job->overdue)
            late++;
        if (job->attempt > job->spec.attempts)
            return "E5: more attempts than allowed";
        bool told = job->state == PNX__JOB_ENDING || job->state == PNX__JOB_FREE;
        bool waits = job->state == PNX__JOB_DELAYED || job->state == PNX__JOB_QUEUED;
        if (job->serial != 0 && ((told && !job->settled) || (waits && job->settled)))
            return "a job is settled too early, or too late";
        if (job->asked && waits)
            return "E5: a job that was asked to end is to run again";
    }
    if (late != core->late)
        return "E4: count of late ones";
    if (core->n[PNX__JOB_RUNNING] - late > core->config.workers ||
            core->n[PNX__JOB_RUNNING] > core->config.max_workers)
        return "E4: more jobs run than may";
    return NULL;
}

const char *pnx__executor_core_check(const struct pnx__executor_core *core) {
    const char *broken = check_lists(core);
    if (!broken)
        broken = check_lanes(core);
    if (!broken)
        broken = check_timers(core);
    return broken ? broken : check_jobs(core);
}
