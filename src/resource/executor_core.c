/* SPDX-License-Identifier: Apache-2.0 */
/*
 * resource/executor_core.c - lanes, delays, ageing, retries, time limits: the executor's state machine.
 *
 * Between patinox/executor.h (what callers see) and executor.c with its neighbours (lock, threads, calls of jobs).
 * The table of states, and E1..E5, stand in executor_core.h.
 */
#include "resource/executor_core.h"

#include <assert.h>
#include <errno.h>

static_assert(PNX_PRIORITY_CRITICAL - PNX_PRIORITY_LOW + 1 == PNX_LANES, "a lane a priority");
static_assert(PNX__EXECUTOR_STAT_queued_low + PNX_LANES - 1 == PNX__EXECUTOR_STAT_queued_critical,
        "a gauge a lane");

static struct pnx__job *job_of(struct pnx_link *link) {
    return PNX_CONTAINER(link, struct pnx__job, link);
}

static void see(struct pnx__executor_core *core, pnx_ns now) {
    if (now > core->now)
        core->now = now;
}

/* ---- timers: a heap, the earliest first, among equal ones the job that was submitted first ---- */

static bool earlier(const struct pnx__job *a, const struct pnx__job *b) {
    return a->at != b->at ? a->at < b->at : a->serial < b->serial;
}

static void put(struct pnx__executor_core *core, uint32_t at, struct pnx__job *job) {
    core->heap[at] = job;
    job->timer = at + 1;
}

static void sift_up(struct pnx__executor_core *core, uint32_t at, struct pnx__job *job) {
    while (at > 0 && earlier(job, core->heap[(at - 1) / 2])) {
        put(core, at, core->heap[(at - 1) / 2]);
        at = (at - 1) / 2;
    }
    put(core, at, job);
}

static void sift_down(struct pnx__executor_core *core, uint32_t at, struct pnx__job *job) {
    for (;;) {
        uint32_t child = 2 * at + 1;
        if (child >= core->timers)
            break;
        if (child + 1 < core->timers && earlier(core->heap[child + 1], core->heap[child]))
            child++;
        if (!earlier(core->heap[child], job))
            break;
        put(core, at, core->heap[child]);
        at = child;
    }
    put(core, at, job);
}

static void note_next_timer(struct pnx__executor_core *core) {
    core->next_timer = core->timers > 0 ? core->heap[0]->at : PNX_NEVER;
}

static void set_timer(struct pnx__executor_core *core, struct pnx__job *job, pnx_ns at) {
    job->at = at;
    if (at == PNX_NEVER)
        return;
    sift_up(core, core->timers++, job);
    note_next_timer(core);
}

static void clear_timer(struct pnx__executor_core *core, struct pnx__job *job) {
    job->at = PNX_NEVER;
    if (job->timer == 0)
        return;
    uint32_t at = job->timer - 1;
    struct pnx__job *last = core->heap[--core->timers];
    job->timer = 0;
    if (last != job) {
        if (at > 0 && earlier(last, core->heap[(at - 1) / 2]))
            sift_up(core, at, last);
        else
            sift_down(core, at, last);
    }
    note_next_timer(core);
}

/* ---- states ---- */

static struct pnx_link *list_of(struct pnx__executor_core *core, const struct pnx__job *job) {
    switch ((enum pnx__job_state)job->state) {
    case PNX__JOB_DELAYED:
        return &core->delayed;
    case PNX__JOB_QUEUED:
        return &core->lane[job->spec.lane];
    case PNX__JOB_RUNNING:
    case PNX__JOB_PENDING:
    case PNX__JOB_LAST:
        return &core->busy;
    case PNX__JOB_ENDING:
        return &core->ending;
    case PNX__JOB_FREE:
    case PNX__JOB_STATES:
        break;
    }
    return &core->free;
}

static struct pnx_a64 *gauge_of(struct pnx__executor_core *core, const struct pnx__job *job) {
    switch ((enum pnx__job_state)job->state) {
    case PNX__JOB_DELAYED:
        return &core->stats[PNX__EXECUTOR_STAT_delayed];
    case PNX__JOB_QUEUED:
        return &core->stats[PNX__EXECUTOR_STAT_queued_low + job->spec.lane];
    case PNX__JOB_RUNNING:
    case PNX__JOB_LAST:
        return &core->stats[PNX__EXECUTOR_STAT_running];
    case PNX__JOB_PENDING:
        return &core->stats[PNX__EXECUTOR_STAT_pending];
    case PNX__JOB_FREE:
    case PNX__JOB_ENDING:
    case PNX__JOB_STATES:
        break;
    }
    return NULL;
}

/* The one function that changes a job's state, and all that is counted of it. */
static void to_state(
        struct pnx__executor_core *core, struct pnx__job *job, enum pnx__job_state state) {
    core->n[job->state]--;
    struct pnx_a64 *gauge = gauge_of(core, job);
    if (gauge)
        pnx_owner_add(gauge, UINT64_MAX); /* one less */
    if (job->state == PNX__JOB_RUNNING && job->overdue)
        core->late--;
    pnx__list_remove(&job->link);
    job->state = (uint8_t)state;
    core->n[state]++;
    pnx__list_push_back(list_of(core, job), &job->link);
    gauge = gauge_of(core, job);
    if (gauge)
        pnx_owner_add(gauge, 1);
}

static void enqueue(struct pnx__executor_core *core, struct pnx__job *job) {
    job->queued_at = core->now;
    to_state(core, job, PNX__JOB_QUEUED);
}

/* It is not to be tried again: what it could not end stays, be this the last attempt. */
static void give_up(struct pnx__job *job) {
    job->asked = true;
    pnx__cancel_ask(&job->request.cancel, PNX_ASKED_TO_END | PNX_ASKED_TO_GIVE_UP);
}

void pnx__executor_core_init(struct pnx__executor_core *core,
        const struct pnx__executor_config *config, struct pnx__job *jobs, struct pnx__job **heap,
        uint32_t n, uint64_t first_generation, pnx_ns now) {
    *core = (struct pnx__executor_core){
            .config = *config,
            .jobs = jobs,
            .heap = heap,
            .capacity = n,
            .now = now,
            .next_timer = PNX_NEVER,
            .close_at = PNX_NEVER,
    };
    pnx__list_init(&core->free);
    pnx__list_init(&core->delayed);
    for (int i = 0; i < PNX_LANES; i++)
        pnx__list_init(&core->lane[i]);
    pnx__list_init(&core->busy);
    pnx__list_init(&core->ending);
    for (uint32_t i = 0; i < n; i++) {
        jobs[i].index = i;
        jobs[i].generation = first_generation;
        jobs[i].at = PNX_NEVER;
        pnx__list_push_back(&core->free, &jobs[i].link);
    }
    core->n[PNX__JOB_FREE] = n;
}

/* ---- events ---- */

struct pnx__job *pnx__executor_core_submit(
        struct pnx__executor_core *core, const struct pnx__job_spec *spec, pnx_ns now) {
    struct pnx_link *link = pnx__list_first(&core->free);
    if (!link)
        return NULL;
    struct pnx__job *job = job_of(link);
    see(core, now);
    job->generation++;
    job->serial = ++core->serial;
    job->spec = *spec;
    job->submitted_at = core->now;
    job->attempt = 0;
    job->code = 0;
    job->overdue = false;
    job->asked = false;
    job->settled = false;
    if (spec->delay > 0) {
        job->due_at = spec->delay >= PNX_NEVER - core->now ? PNX_NEVER : core->now + spec->delay;
        to_state(core, job, PNX__JOB_DELAYED);
        set_timer(core, job, job->due_at);
    } else {
        job->due_at = core->now;
        enqueue(core, job);
    }
    pnx__executor_count(core, PNX__EXECUTOR_STAT_submitted);
    return job;
}

struct pnx__job *pnx__executor_core_advance(struct pnx__executor_core *core, pnx_ns now) {
    see(core, now);
    while (core->next_timer <= core->now) {
        struct pnx__job *job = core->heap[0];
        clear_timer(core, job);
        if (job->state == PNX__JOB_DELAYED) {
            enqueue(core, job);
            continue;
        }
        job->overdue = true;
        if (job->state == PNX__JOB_RUNNING)
            core->late++;
        pnx__cancel_ask(&job->request.cancel, PNX_ASKED_TO_END);
        pnx__executor_count(core, PNX__EXECUTOR_STAT_overdue);
        return job;
    }
    return NULL;
}

/* What decides who is next: see E3. */
struct rank {
    uint32_t lane;
    pnx_ns since; /* when it came to that lane, by ageing or at once */
};

static struct rank rank_of(const struct pnx__executor_core *core, const struct pnx__job *job) {
    struct rank rank = {job->spec.lane, job->queued_at};
    if (core->config.ageing == PNX_NEVER)
        return rank;
    int64_t rises = (core->now - job->queued_at) / core->config.ageing;
    int64_t room = PNX_LANES - 1 - (int64_t)rank.lane;
    if (rises > room)
        rises = room;
    rank.lane += (uint32_t)rises;
    rank.since += rises * core->config.ageing;
    return rank;
}

static struct pnx__job *best(const struct pnx__executor_core *core) {
    struct pnx__job *found = NULL;
    struct rank found_rank = {0, 0};
    for (uint32_t lane = PNX_LANES; lane-- > 0;) {
        struct pnx_link *link = pnx__list_first(&core->lane[lane]);
        if (!link)
            continue;
        struct pnx__job *job = job_of(link);
        struct rank rank = rank_of(core, job);
        if (!found || rank.lane > found_rank.lane ||
                (rank.lane == found_rank.lane && rank.since < found_rank.since)) {
            found = job;
            found_rank = rank;
        }
    }
    return found;
}

/* When an attempt that begins now runs out of time; PNX_NEVER: not by its own limit. */
static pnx_ns limit_of(const struct pnx__executor_core *core, const struct pnx__job *job) {
    pnx_ns timeout = job->spec.timeout;
    return timeout >= PNX_NEVER - core->now ? PNX_NEVER : core->now + timeout;
}

static void set_deadline(struct pnx__job *job, pnx_ns deadline) {
    /* The job's own thread is given it under the lock; what comes later is a hint, see run.deadline. */
    pnx_store(&job->request.cancel.deadline, (uint64_t)deadline, PNX_RELAXED,
            "executor_core.deadline");
}

static void begin(struct pnx__executor_core *core, struct pnx__job *job, enum pnx__job_state state,
        pnx_ns limit, pnx_ns deadline) {
    job->attempt++;
    job->overdue = false;
    set_deadline(job, deadline);
    /* nobody else looks at it yet */
    pnx_store(&job->request.cancel.requested, 0, PNX_RELAXED, "executor_core.not_asked");
    to_state(core, job, state);
    set_timer(core, job, limit);
}

struct pnx__job *pnx__executor_core_take(struct pnx__executor_core *core, pnx_ns now) {
    see(core, now);
    if (!pnx__executor_core_may_start(core))
        return NULL;
    struct pnx__job *job = best(core);
    pnx_ns limit = limit_of(core, job);
    begin(core, job, PNX__JOB_RUNNING, limit,
            core->closing && core->close_at < limit ? core->close_at : limit);
    return job;
}

void pnx__executor_core_pend(struct pnx__executor_core *core, struct pnx__job *job) {
    to_state(core, job, PNX__JOB_PENDING);
}

pnx_ns pnx__executor_core_pause(
        const struct pnx__executor_config *config, uint32_t attempt, uint64_t random) {
    pnx_ns most = config->backoff;
    for (uint32_t i = 1; i < attempt && most < config->backoff_max; i++)
        most = most > PNX_NEVER / 2 ? PNX_NEVER : 2 * most;
    if (most > config->backoff_max)
        most = config->backoff_max;
    return (pnx_ns)(random % ((uint64_t)most + 1));
}

bool pnx__executor_core_end(struct pnx__executor_core *core, struct pnx__job *job, int code,
        uint64_t random, pnx_ns now) {
    see(core, now);
    if (code > 0 || code == -EINPROGRESS)
        code = -EINVAL; /* -EINPROGRESS without having pended, or in a completion */
    bool of_row = job->spec.registry != NULL;
    /* A row whose cleanup has returned anything but -EAGAIN is gone, and with that, too, it may have failed for good. */
    bool not_now = code == -EAGAIN && !(of_row && job->request.ended);
    bool timed_out = job->overdue && code == -ETIMEDOUT && !of_row;
    bool over = core->closing && core->now >= core->close_at;
    bool again =
            (not_now || timed_out) && !job->asked && !over && job->attempt < job->spec.attempts;
    /* A row that has not ended is told of as canceled, whatever keeps it from being tried again. */
    if (not_now && (job->asked || (of_row && !again)))
        code = -ECANCELED;
    job->code = code;
    job->settled = !again;
    if (!again)
        return true;
    if (job->overdue)
        pnx__executor_count(core, PNX__EXECUTOR_STAT_late);
    clear_timer(core, job);
    pnx_ns pause = pnx__executor_core_pause(&core->config, job->attempt, random);
    to_state(core, job, PNX__JOB_DELAYED);
    set_timer(core, job, core->now + pause);
    pnx__executor_count(core, PNX__EXECUTOR_STAT_retries);
    return false;
}

void pnx__executor_core_call_off(struct pnx__executor_core *core, struct pnx__job *job) {
    clear_timer(core, job);
    job->code = -ECANCELED;
    job->settled = true;
    to_state(core, job, PNX__JOB_ENDING);
}

int pnx__executor_core_cancel(struct pnx__executor_core *core, struct pnx__job *job) {
    switch ((enum pnx__job_state)job->state) {
    case PNX__JOB_DELAYED:
    case PNX__JOB_QUEUED:
        pnx__executor_core_call_off(core, job);
        return 0;
    case PNX__JOB_RUNNING:
    case PNX__JOB_PENDING:
    case PNX__JOB_LAST:
        if (job->settled)
            break;
        give_up(job);
        return -EINPROGRESS;
    case PNX__JOB_FREE:
    case PNX__JOB_ENDING:
    case PNX__JOB_STATES:
        break;
    }
    return -EALREADY;
}

void pnx__executor_core_free(struct pnx__executor_core *core, struct pnx__job *job) {
    if (job->overdue && job->state != PNX__JOB_ENDING)
        pnx__executor_count(core, PNX__EXECUTOR_STAT_late);
    clear_timer(core, job);
    pnx__executor_count(core, pnx__job_fate_stat(&job->spec, job->code));
    to_state(core, job, PNX__JOB_FREE);
}

/* ---- the end ---- */

void pnx__executor_core_close(struct pnx__executor_core *core, pnx_ns deadline, pnx_ns now) {
    see(core, now);
    core->closing = true;
    if (deadline < core->close_at)
        core->close_at = deadline;
    PNX_LIST_EACH (link, after, &core->delayed) {
        struct pnx__job *job = job_of(link);
        clear_timer(core, job);
        if (core->now < job->due_at)
            job->due_at = core->now;
        set_timer(core, job, core->now); /* advance() queues them, in order of submission */
    }
    PNX_LIST_EACH (link, after, &core->busy) {
        struct pnx__job *job = job_of(link);
        /* written under the lock only */
        pnx_ns before = (pnx_ns)pnx_load(
                &job->request.cancel.deadline, PNX_RELAXED, "executor_core.deadline_was");
        if (core->close_at < before)
            set_deadline(job, core->close_at);
    }
}

struct pnx__job *pnx__executor_core_first(const struct pnx__executor_core *core) {
    struct pnx__job *job = best(core);
    struct pnx_link *link = pnx__list_first(&core->delayed);
    return job || !link ? job : job_of(link);
}

void pnx__executor_core_start_last(
        struct pnx__executor_core *core, struct pnx__job *job, pnx_ns now) {
    see(core, now);
    clear_timer(core, job);
    pnx_ns limit = limit_of(core, job);
    begin(core, job, PNX__JOB_LAST, limit, limit);
}

struct pnx__job *pnx__executor_core_drop(struct pnx__executor_core *core) {
    struct pnx__job *job = pnx__executor_core_first(core);
    if (job)
        pnx__executor_core_call_off(core, job);
    return job;
}

void pnx__executor_core_ask_all(struct pnx__executor_core *core) {
    PNX_LIST_EACH (link, after, &core->busy)
        give_up(job_of(link));
}

struct pnx__job *pnx__executor_core_find(const struct pnx__executor_core *core, pnx_job_id id) {
    uint64_t index = id & ((UINT64_C(1) << PNX_INDEX_BITS) - 1);
    if (index >= core->capacity)
        return NULL;
    struct pnx__job *job = &core->jobs[index];
    /* A place that was never used has the generation before its first. */
    return pnx__job_id(job) == id && job->serial != 0 ? job : NULL;
}
