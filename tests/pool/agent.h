/* SPDX-License-Identifier: Apache-2.0 */
/*
 * agent.h - a pretended server whose operations go on without a thread: a manager with start, poll and cancel.
 *
 * What is under way stands in a list, which tests look at and end.  All is guarded by lock, which nobody holds while
 * calling the pool.
 */
#ifndef PNX_TEST_POOL_AGENT_H
#define PNX_TEST_POOL_AGENT_H

#include "pool/mock.h"

enum agent_way {
    AGENT_NOW,   /* done when start returns */
    AGENT_FAILS, /* failed when start returns */
    AGENT_LATER, /* goes on */
    AGENT_EARLY, /* goes on, but has been ended by another thread before start returns */
    AGENT_HERE,  /* the same, by start itself */
};

struct agent_op {
    struct pnx_pool_op *op; /* NULL: this one is free */
    void *resource;         /* what to close, check, or hand out */
    enum pnx_pool_op_kind kind;
    bool ready; /* the next poll ends it ... */
    int code;   /* ... with this */
};

#define AGENT_OPS       256
#define AGENT_RESOURCES 65536
#define AGENT_SAYS      "no such database"

struct agent {
    pthread_mutex_t lock;
    enum agent_way ways[3]; /* by kind */
    struct agent_op ops[AGENT_OPS];
    struct mock_resource resources[AGENT_RESOURCES];
    int n; /* resources made */
    int cancel_rc;
    int starts, polls, cancels; /* calls */
    int under_way;
    int inside; /* starts, polls and cancels that run */
    int live, peak, made, closed;
    void (*during)(
            struct agent *agent, struct pnx_pool_op *op); /* called in start, before it returns */
    void (*during_poll)(struct agent *agent, struct pnx_pool_op *op); /* the same in poll */
};

static inline struct agent *agent_new(void) {
    struct agent *agent = calloc(1, sizeof(*agent));
    CHECK(agent && pthread_mutex_init(&agent->lock, NULL) == 0);
    return agent;
}

static inline int agent_read(struct agent *agent, const int *counter) {
    pthread_mutex_lock(&agent->lock);
    int value = *counter;
    pthread_mutex_unlock(&agent->lock);
    return value;
}

static inline void agent_count_locked(struct agent *agent, int by) {
    agent->live += by;
    if (agent->live > agent->peak)
        agent->peak = agent->live;
}

/* What the end of an operation means to the server. */
static inline void agent_account_locked(
        struct agent *agent, enum pnx_pool_op_kind kind, void *resource, int code) {
    struct mock_resource *r = resource;
    if (kind == PNX_POOL_OP_CONNECT && code)
        agent_count_locked(agent, -1);
    if (kind == PNX_POOL_OP_CONNECT && code == 0)
        agent->made++;
    if (kind == PNX_POOL_OP_CLOSE) {
        CHECK_MSG(!r->dead, "P4: closed twice");
        r->dead = true;
        agent->closed++;
        agent_count_locked(agent, -1);
    }
}

static inline struct agent_op *agent_find_locked(
        struct agent *agent, const struct pnx_pool_op *op) {
    for (int i = 0; i < AGENT_OPS; i++) {
        if (agent->ops[i].op == op)
            return &agent->ops[i];
    }
    return NULL;
}

/* Takes one that is under way off the list; false if it is not there any more. */
static inline bool agent_take(
        struct agent *agent, const struct pnx_pool_op *op, int code, struct agent_op *ret_taken) {
    pthread_mutex_lock(&agent->lock);
    struct agent_op *entry = op ? agent_find_locked(agent, op) : NULL;
    if (entry) {
        *ret_taken = *entry;
        agent_account_locked(agent, entry->kind, entry->resource, code);
        *entry = (struct agent_op){0};
        agent->under_way--;
    }
    pthread_mutex_unlock(&agent->lock);
    return entry != NULL;
}

/* Ends one by pnx_pool_op_done(); false if something else ended it first. */
static inline bool agent_end(struct agent *agent, struct pnx_pool_op *op, int code) {
    struct agent_op taken;
    struct pnx_error err = {.code = code, .message = AGENT_SAYS};
    if (!agent_take(agent, op, code, &taken))
        return false;
    bool connects = taken.kind == PNX_POOL_OP_CONNECT && code == 0;
    pnx_pool_op_done(op, code, connects ? taken.resource : NULL, code ? &err : NULL);
    return true;
}

/* The first one that is under way, or NULL. */
static inline struct pnx_pool_op *agent_first(struct agent *agent) {
    struct pnx_pool_op *op = NULL;
    pthread_mutex_lock(&agent->lock);
    for (int i = 0; i < AGENT_OPS && !op; i++)
        op = agent->ops[i].op;
    pthread_mutex_unlock(&agent->lock);
    return op;
}

/* The next poll of it ends it. */
static inline void agent_make_ready(struct agent *agent, struct pnx_pool_op *op, int code) {
    pthread_mutex_lock(&agent->lock);
    struct agent_op *entry = agent_find_locked(agent, op);
    CHECK(op && entry);
    entry->ready = true;
    entry->code = code;
    pthread_mutex_unlock(&agent->lock);
}

struct agent_early {
    struct agent *agent;
    struct pnx_pool_op *op;
};

static inline void *agent_end_early(void *arg) {
    struct agent_early *early = arg;
    (void)agent_end(early->agent, early->op, 0); /* unless somebody else was faster */
    return NULL;
}

static inline void agent_end_in_start(
        struct agent *agent, struct pnx_pool_op *op, enum agent_way way) {
    struct agent_early early = {agent, op};
    pthread_t thread;
    if (way == AGENT_HERE)
        (void)agent_end(agent, op, 0);
    if (way != AGENT_EARLY)
        return;
    CHECK(pthread_create(&thread, NULL, agent_end_early, &early) == 0);
    pthread_join(thread, NULL);
}

static inline void agent_enter(struct agent *agent, int *counter) {
    pthread_mutex_lock(&agent->lock);
    ++*counter;
    agent->inside++;
    pthread_mutex_unlock(&agent->lock);
}

static inline void agent_leave(struct agent *agent) {
    pthread_mutex_lock(&agent->lock);
    agent->inside--;
    pthread_mutex_unlock(&agent->lock);
}

static inline int agent_start(void *ctx, struct pnx_pool_op *op, struct pnx_error *err) {
    struct agent *agent = ctx;
    enum pnx_pool_op_kind kind = op->kind;
    CHECK(op->fd == -1 && !op->data && op->events == 0 && err);
    CHECK((kind == PNX_POOL_OP_CONNECT) == (op->resource == NULL));
    agent_enter(agent, &agent->starts);
    pthread_mutex_lock(&agent->lock);
    enum agent_way way = agent->ways[kind];
    void *resource = op->resource;
    if (kind == PNX_POOL_OP_CONNECT) {
        CHECK(agent->n < AGENT_RESOURCES);
        resource = &agent->resources[agent->n];
        agent->resources[agent->n].id = agent->n;
        agent->n++;
        agent_count_locked(agent, 1);
    }
    if (way <= AGENT_FAILS) {
        agent_account_locked(agent, kind, resource, way == AGENT_FAILS);
        op->resource = resource;
    } else {
        struct agent_op *entry = agent_find_locked(agent, NULL);
        CHECK(entry);
        *entry = (struct agent_op){.op = op, .kind = kind, .resource = resource};
        agent->under_way++;
    }
    void (*during)(struct agent * agent, struct pnx_pool_op * op) = agent->during;
    pthread_mutex_unlock(&agent->lock);
    agent_end_in_start(agent, op, way);
    if (during)
        during(agent, op);
    CHECK_MSG(op->kind == kind, "the operation is not this one's any more");
    op->data = agent; /* it is valid until start has returned */
    agent_leave(agent);
    if (way == AGENT_FAILS)
        snprintf(err->message, sizeof(err->message), AGENT_SAYS);
    return way == AGENT_NOW ? 0 : way == AGENT_FAILS ? -ECONNREFUSED : -EINPROGRESS;
}

static inline int agent_poll(void *ctx, struct pnx_pool_op *op, struct pnx_error *err) {
    struct agent *agent = ctx;
    struct agent_op taken = {0};
    CHECK_MSG(op->data == agent, "polled before start has returned");
    agent_enter(agent, &agent->polls);
    if (agent->during_poll)
        agent->during_poll(agent, op);
    pthread_mutex_lock(&agent->lock);
    struct agent_op *entry = agent_find_locked(agent, op);
    bool ready = entry && entry->ready;
    int code = ready ? entry->code : 0;
    pthread_mutex_unlock(&agent->lock);
    ready = ready && agent_take(agent, op, code, &taken);
    if (ready && taken.kind == PNX_POOL_OP_CONNECT && code == 0)
        op->resource = taken.resource;
    if (ready && code)
        snprintf(err->message, sizeof(err->message), AGENT_SAYS);
    agent_leave(agent);
    return ready ? code : -EINPROGRESS;
}

/* Ends it unless it has been taken by somebody who will call done, or cancel_rc says so. */
static inline int agent_cancel(void *ctx, struct pnx_pool_op *op) {
    struct agent *agent = ctx;
    struct agent_op taken;
    agent_enter(agent, &agent->cancels);
    int rc = agent_read(agent, &agent->cancel_rc);
    if (rc == 0 && !agent_take(agent, op, -ETIMEDOUT, &taken))
        rc = -EALREADY;
    agent_leave(agent);
    return rc;
}

/* Only there so that checks are asked for; with start they go there. */
static inline int agent_check(void *ctx, void *resource, pnx_ns deadline) {
    (void)ctx, (void)resource, (void)deadline;
    test_fail(__FILE__, __LINE__, "check of a manager with start is only asked for");
}

static const struct pnx_pool_manager agent_manager = {
        .size = sizeof(agent_manager),
        .check = agent_check,
        .start = agent_start,
        .poll = agent_poll,
        .cancel = agent_cancel,
};

#endif
