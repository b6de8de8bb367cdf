/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The executor's core against a naive model: some thousand random lives of random submits, ends, cancels, pends and
 * moments, all in one thread and in virtual time.
 *
 * The model keeps every job in one array and decides by looking at all of them, as the header says it; it shares no
 * code with the core.  After every step the invariants are checked, and who is to be taken next is compared.  SEED=n
 * repeats a run.
 */
#include "harness/harness.h"
#include "resource/executor_core.h"

#define PLACES 12
#define LANES  4

enum where { GONE, DELAYED, QUEUED, RUNNING, PENDING, TOLD };

/* One job as the model sees it. */
struct model {
    enum where where;
    struct pnx__job *job;
    pnx_job_id id;
    uint64_t serial;
    int lane;
    pnx_ns queued_at, due, limit, deadline;
    pnx_ns timeout;
    uint32_t attempt, attempts;
    uint64_t turn; /* order of coming into the lane */
    bool overdue, asked;
    int code;
};

static struct {
    struct pnx__executor_core core;
    struct pnx__job jobs[PLACES];
    struct pnx__job *heap[PLACES];
    struct pnx__executor_config config;
    struct model model[PLACES];
    pnx_ns now;
    pnx_ns close_at; /* PNX_NEVER: open */
    bool closing;
    uint64_t serial, turns;
    uint64_t random;
    uint64_t life, step;
    uint64_t submitted, done, failed, canceled, retries, overdue, late;
} w;

#define HOLDS(condition, what) \
    CHECK_MSG((condition), "life %llu, step %llu: %s", (unsigned long long)w.life, \
            (unsigned long long)w.step, (what))

static uint64_t dice(uint64_t sides) {
    return test_random(&w.random) % sides;
}

static struct model *model_of(const struct pnx__job *job) {
    for (int i = 0; i < PLACES; i++) {
        if (w.model[i].where != GONE && w.model[i].job == job)
            return &w.model[i];
    }
    return NULL;
}

/* A random job in one of the states, or NULL. */
static struct model *any(unsigned states) {
    int from = (int)dice(PLACES);
    for (int i = 0; i < PLACES; i++) {
        struct model *m = &w.model[(from + i) % PLACES];
        if (states & 1u << m->where)
            return m;
    }
    return NULL;
}

static uint32_t count(enum where where) {
    uint32_t n = 0;
    for (int i = 0; i < PLACES; i++)
        n += w.model[i].where == where;
    return n;
}

static uint32_t n_late(void) {
    uint32_t n = 0;
    for (int i = 0; i < PLACES; i++)
        n += (w.model[i].where == RUNNING || w.model[i].where == TOLD) && w.model[i].overdue;
    return n;
}

/* Those that take a worker's time: the ones whose done function runs, too. */
static uint32_t n_running(void) {
    return count(RUNNING) + count(TOLD);
}

static void enqueue(struct model *m) {
    m->where = QUEUED;
    m->queued_at = w.now;
    m->turn = ++w.turns;
}

/* Whether a comes before b, by the words of P3. */
static bool before(const struct model *a, const struct model *b) {
    pnx_ns since[2];
    int lane[2];
    const struct model *both[2] = {a, b};
    for (int i = 0; i < 2; i++) {
        lane[i] = both[i]->lane;
        since[i] = both[i]->queued_at;
        while (w.config.ageing != PNX_NEVER && lane[i] < LANES - 1 &&
                since[i] + w.config.ageing <= w.now) {
            lane[i]++;
            since[i] += w.config.ageing;
        }
    }
    if (lane[0] != lane[1])
        return lane[0] > lane[1];
    if (since[0] != since[1])
        return since[0] < since[1];
    return a->lane != b->lane ? a->lane > b->lane : a->turn < b->turn;
}

static struct model *next_to_run(void) {
    if (n_running() - n_late() >= w.config.workers || n_running() >= w.config.max_workers)
        return NULL;
    struct model *best = NULL;
    for (int i = 0; i < PLACES; i++) {
        struct model *m = &w.model[i];
        if (m->where == QUEUED && (!best || before(m, best)))
            best = m;
    }
    return best;
}

/* ---- steps ---- */

static void submit_one(void) {
    static const pnx_ns timeouts[] = {5, 20, 100, PNX_NEVER};
    struct pnx__job_spec spec = {
            .delay = dice(3) ? 0 : (pnx_ns)dice(50),
            .timeout = timeouts[dice(4)],
            .attempts = 1 + (uint32_t)dice(4),
            .lane = (uint16_t)dice(LANES),
    };
    struct pnx__job *job = pnx__executor_core_submit(&w.core, &spec, w.now);
    struct model *m = any(1u << GONE);
    HOLDS(!job == !m, "room");
    if (!job)
        return;
    HOLDS(!model_of(job), "a place in use was given out");
    *m = (struct model){
            .job = job,
            .id = pnx__job_id(job),
            .serial = ++w.serial,
            .lane = (int)spec.lane,
            .timeout = spec.timeout,
            .attempts = spec.attempts,
            .due = w.now + spec.delay,
    };
    w.submitted++;
    if (spec.delay > 0)
        m->where = DELAYED;
    else
        enqueue(m);
}

/* The earliest timer of all that are due; by submission among equal ones. */
static struct model *next_due(void) {
    struct model *first = NULL;
    for (int i = 0; i < PLACES; i++) {
        struct model *m = &w.model[i];
        bool busy = (m->where == RUNNING || m->where == PENDING || m->where == TOLD) && !m->overdue;
        if (m->where != DELAYED && !(busy && m->limit != PNX_NEVER))
            continue;
        pnx_ns at = m->where == DELAYED ? m->due : m->limit;
        pnx_ns first_at = !first ? PNX_NEVER : first->where == DELAYED ? first->due : first->limit;
        if (at <= w.now &&
                (!first || at < first_at || (at == first_at && m->serial < first->serial)))
            first = m;
    }
    return first;
}

static void pass_time(pnx_ns by) {
    w.now += by;
    for (;;) {
        struct pnx__job *told = pnx__executor_core_advance(&w.core, w.now);
        struct model *m;
        while ((m = next_due()) != NULL && m->where == DELAYED)
            enqueue(m);
        HOLDS(told == (m ? m->job : NULL), "who ran out of time");
        if (!m)
            return;
        m->overdue = true;
        w.overdue++;
        HOLDS(pnx_cancel_requested(&m->job->request.cancel), "asked when out of time");
    }
}

static void take_one(void) {
    struct model *m = next_to_run();
    struct pnx__job *job = pnx__executor_core_take(&w.core, w.now);
    HOLDS(job == (m ? m->job : NULL), "who is next");
    if (!m)
        return;
    m->where = RUNNING;
    m->attempt++;
    m->overdue = false;
    m->limit = m->timeout == PNX_NEVER ? PNX_NEVER : w.now + m->timeout;
    m->deadline = w.close_at < m->limit ? w.close_at : m->limit;
    HOLDS(job->attempt == m->attempt && m->attempt <= m->attempts, "count of attempts");
    HOLDS(pnx_cancel_deadline(&job->request.cancel) == m->deadline, "deadline");
    HOLDS(!pnx_cancel_requested(&job->request.cancel), "a fresh attempt is not asked");
}

static void finish(struct model *m) {
    pnx__executor_core_free(&w.core, m->job);
    if (m->code == 0)
        w.done++;
    else if (m->code == -ECANCELED)
        w.canceled++;
    else
        w.failed++;
    m->where = GONE;
}

static void end_one(void) {
    static const int codes[] = {0, 0, 0, -EAGAIN, -EAGAIN, -ETIMEDOUT, -EIO, 3, -EINPROGRESS};
    struct model *m = any(1u << RUNNING | 1u << PENDING);
    if (!m)
        return;
    int code = codes[dice(sizeof(codes) / sizeof(codes[0]))];
    bool settled = pnx__executor_core_end(&w.core, m->job, code, test_random(&w.random), w.now);
    bool retryable = code == -EAGAIN || (code == -ETIMEDOUT && m->overdue);
    bool again = retryable && !m->asked && m->attempt < m->attempts && w.now < w.close_at;
    HOLDS(settled != again, "whether it is tried again");
    if (!settled) {
        w.retries++;
        if (m->overdue)
            w.late++;
        pnx_ns bound = w.config.backoff;
        for (uint32_t i = 1; i < m->attempt && bound < w.config.backoff_max; i++)
            bound *= 2;
        bound = bound < w.config.backoff_max ? bound : w.config.backoff_max;
        HOLDS(m->job->at >= w.now && m->job->at <= w.now + bound, "pause");
        m->where = DELAYED;
        m->due = m->job->at;
        return;
    }
    m->code = code > 0 || code == -EINPROGRESS ? -EINVAL
              : code == -EAGAIN && m->asked    ? -ECANCELED
                                               : code;
    HOLDS(m->job->code == m->code, "outcome");
    if (m->where == PENDING) { /* told by who completed it, here at once */
        if (m->overdue)
            w.late++;
        finish(m);
    } else {
        m->where = TOLD;
    }
}

/* A done function returns, maybe long after. */
static void told_one(void) {
    struct model *m = any(1u << TOLD);
    if (!m)
        return;
    if (m->overdue)
        w.late++;
    finish(m);
}

static void pend_one(void) {
    struct model *m = any(1u << RUNNING);
    if (!m)
        return;
    pnx__executor_core_pend(&w.core, m->job);
    m->where = PENDING;
}

static void cancel_one(void) {
    struct model *m = any(~(1u << GONE));
    if (!m)
        return;
    HOLDS(pnx__executor_core_find(&w.core, m->id) == m->job, "an id names its job");
    int rc = pnx__executor_core_cancel(&w.core, m->job);
    switch (m->where) {
    case DELAYED:
    case QUEUED:
        HOLDS(rc == 0 && m->job->code == -ECANCELED, "called off");
        m->code = -ECANCELED;
        finish(m);
        break;
    case RUNNING:
    case PENDING:
        HOLDS(rc == -EINPROGRESS && pnx_cancel_requested(&m->job->request.cancel), "asked");
        m->asked = true;
        break;
    default:
        HOLDS(rc == -EALREADY, "already");
    }
}

static void close_it(void) {
    pnx_ns deadline = w.now + (pnx_ns)dice(100);
    pnx__executor_core_close(&w.core, deadline, w.now);
    w.closing = true;
    if (deadline < w.close_at)
        w.close_at = deadline;
    for (int i = 0; i < PLACES; i++) {
        struct model *m = &w.model[i];
        if (m->where == DELAYED)
            m->due = w.now;
        bool busy = m->where == RUNNING || m->where == PENDING || m->where == TOLD;
        if (busy && w.close_at < m->deadline)
            m->deadline = w.close_at;
        if (busy)
            HOLDS(pnx_cancel_deadline(&m->job->request.cancel) == m->deadline,
                    "deadline of a close");
    }
    pass_time(0);
}

static void compare(void) {
    const char *broken = pnx__executor_core_check(&w.core);
    HOLDS(!broken, broken ? broken : "");
    HOLDS(w.core.n[PNX__JOB_DELAYED] == count(DELAYED), "count of delayed");
    HOLDS(w.core.n[PNX__JOB_QUEUED] == count(QUEUED), "count of queued");
    HOLDS(w.core.n[PNX__JOB_PENDING] == count(PENDING), "count of pending");
    HOLDS(w.core.n[PNX__JOB_RUNNING] == n_running(), "count of running");
    HOLDS(w.core.late == n_late(), "count of late");
    HOLDS(pnx__executor_core_has_room(&w.core) == (count(GONE) > 0), "room");
}

static void step(void) {
    uint64_t kind = dice(100);
    if (kind < 30 && !w.closing)
        submit_one();
    else if (kind < 50)
        take_one();
    else if (kind < 68)
        end_one();
    else if (kind < 78)
        told_one();
    else if (kind < 83)
        pend_one();
    else if (kind < 88)
        cancel_one();
    else
        pass_time((pnx_ns)dice(15));
    compare();
}

static void check_numbers(void) {
    const struct pnx_a64 *stats = w.core.stats;
    HOLDS(stats[PNX__EXECUTOR_STAT_submitted].v == w.submitted, "submitted");
    HOLDS(stats[PNX__EXECUTOR_STAT_done].v == w.done, "done");
    HOLDS(stats[PNX__EXECUTOR_STAT_failed].v == w.failed, "failed");
    HOLDS(stats[PNX__EXECUTOR_STAT_canceled].v == w.canceled, "canceled");
    HOLDS(stats[PNX__EXECUTOR_STAT_retries].v == w.retries, "retries");
    HOLDS(stats[PNX__EXECUTOR_STAT_overdue].v == w.overdue, "overdue");
    HOLDS(stats[PNX__EXECUTOR_STAT_late].v == w.late, "late");
    HOLDS(w.submitted == w.done + w.failed + w.canceled, "each job ended once");
    for (int gauge = PNX__EXECUTOR_STAT_delayed; gauge <= PNX__EXECUTOR_STAT_pending; gauge++)
        HOLDS(stats[gauge].v == 0, "gauges of an empty executor");
}

static void live(uint64_t steps) {
    memset(w.jobs, 0, sizeof(w.jobs));
    memset(w.model, 0, sizeof(w.model));
    w.config = (struct pnx__executor_config){
            .ageing = dice(4) ? 1 + (pnx_ns)dice(40) : PNX_NEVER,
            .backoff = 1 + (pnx_ns)dice(5),
            .backoff_max = 5 + (pnx_ns)dice(20),
            .workers = 1 + (uint32_t)dice(3),
    };
    w.config.max_workers = w.config.workers + (uint32_t)dice(3);
    w.now = (pnx_ns)dice(1000);
    w.close_at = PNX_NEVER;
    w.closing = false;
    w.submitted = w.done = w.failed = w.canceled = w.retries = w.overdue = w.late = 0;
    pnx__executor_core_init(&w.core, &w.config, w.jobs, w.heap, PLACES, dice(1000), w.now);
    for (w.step = 0; w.step < steps; w.step++)
        step();
    close_it();
    for (; w.step < 2 * steps; w.step++)
        step();
    /* The deadline: what has not begun is called off, what runs is asked. */
    if (w.now < w.close_at)
        pass_time(w.close_at - w.now);
    pnx__executor_core_ask_all(&w.core);
    for (int i = 0; i < PLACES; i++)
        w.model[i].asked |= w.model[i].where == RUNNING || w.model[i].where == PENDING;
    struct pnx__job *job;
    while ((job = pnx__executor_core_drop(&w.core)) != NULL) {
        struct model *m = model_of(job);
        HOLDS(m && (m->where == QUEUED || m->where == DELAYED), "what is dropped has not begun");
        m->code = -ECANCELED;
        finish(m);
        compare();
    }
    HOLDS(count(QUEUED) == 0 && count(DELAYED) == 0, "all that has not begun is dropped");
    while (any(1u << RUNNING | 1u << PENDING)) {
        end_one();
        HOLDS(count(DELAYED) == 0, "nothing is tried again after the end");
        compare();
    }
    while (any(1u << TOLD))
        told_one();
    compare();
    check_numbers();
}

TEST_LIMIT(the_core_does_as_a_naive_model, 120) {
    w.random = test_seed();
    uint64_t lives = test_long() ? 20000 : test_slow() ? 300 : 2000;
    for (w.life = 0; w.life < lives; w.life++)
        live(50 + dice(400));
}
