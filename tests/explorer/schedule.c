/* SPDX-License-Identifier: Apache-2.0 */
/*
 * schedule.c - who runs next.
 *
 * Each thread stops before each of its visible operations and says what it is.  Who goes on is a decision:
 *
 *   - to go on with the running thread costs nothing; to take another while it could go on is a preemption, of
 *     which there is a bounded number (Musuvathi and Qadeer, CHESS, 2007); when it cannot go on, any other is free.
 *   - A thread that was preempted before an operation is not resumed until another thread has done something that
 *     does not commute with that operation: an execution that differs only in when it was done costs no more, and
 *     is run anyway (sleep sets, Godefroid 1996, used only where they and the bound agree; README.md has the proof).
 *   - A sleeper with a deadline may time out though others could run: a bounded number of times.  When nobody can
 *     run, time passes, and the earliest deadline comes.
 *   - At random, threads have priorities, which change at a few points (PCT, Burckhardt et al. 2010).
 */
#include "explorer/engine.h"

#include <errno.h>

struct candidate {
    struct x_thread *thread;
    enum { RUN, TIME_OUT, SPURIOUS } how;
};

#define MAX_CANDIDATES (3 * X_THREADS)
#define MAX_IDLE_SPINS 64
#define MAX_IDLE_HINTS 100000

static bool enabled(const struct x_thread *thread) {
    if (thread->state != X_READY)
        return false;
    switch (thread->op.kind) {
    case X_LOCK:
        return x_lock_is_free(thread->op.address);
    case X_JOIN: {
        const struct x_thread *other = thread->op.address;
        if (other)
            return other->state == X_DONE;
        for (unsigned i = 1; i < x.n_threads; i++) {
            if (x.threads[i].state != X_DONE)
                return false;
        }
        return true;
    }
    case X_SPIN:
        return x_memory_something_new(thread);
    default:
        return true;
    }
}

/* Whether what a thread does next concerns only itself. */
static bool is_local(const struct x_op *op) {
    return op->kind == X_NOTHING || op->kind == X_JOIN || op->kind == X_SPIN;
}

static bool touches(const struct x_op *freeing, const struct x_op *op) {
    uintptr_t offset = (uintptr_t)op->address - (uintptr_t)freeing->address;
    return op->address && offset < freeing->size;
}

/* Whether the order of two operations of different threads can make a difference. */
static bool conflict(const struct x_op *a, const struct x_op *b) {
    if (is_local(a) || is_local(b))
        return false;
    if (a->kind >= X_HEAVY || b->kind >= X_HEAVY)
        return true;
    if (a->kind == X_FENCE || b->kind == X_FENCE)
        return a->sc && b->sc;
    if (a->kind == X_FREE || b->kind == X_FREE)
        return a->kind == X_FREE ? touches(a, b) : touches(b, a);
    return a->address == b->address && (a->kind != X_LOAD || b->kind != X_LOAD);
}

static const char *describe(const struct x_thread *thread) {
    static const char *const what[] = {
            [X_LOCK] = "waits for the lock", [X_JOIN] = "waits for a thread", [X_SPIN] = "spins"};
    if (thread->state == X_SLEEPING)
        return "sleeps on the futex";
    enum x_kind kind = thread->op.kind;
    return kind < sizeof(what) / sizeof(what[0]) && what[kind] ? what[kind] : "is ready";
}

static _Noreturn void stuck(void) {
    char text[400];
    size_t n = 0;
    bool locks = false, sleeps = false;
    text[0] = 0;
    for (unsigned i = 0; i < x.n_threads; i++) {
        const struct x_thread *thread = &x.threads[i];
        if (thread->state == X_DONE || (i == 0 && !x.alone))
            continue;
        locks = locks || (thread->state == X_READY && thread->op.kind != X_SPIN);
        sleeps = sleeps || thread->state == X_SLEEPING;
        n += (size_t)snprintf(text + n, sizeof(text) - n, "%sthread %u %s %s", n ? ", " : "", i,
                describe(thread),
                thread->state == X_SLEEPING ? x_place(thread->sleeps_on)
                : thread->op.kind == X_LOCK ? x_place(thread->op.address)
                                            : "");
        if (n >= sizeof(text))
            n = sizeof(text) - 1;
    }
    x_fail(locks ? X_DEADLOCK : sleeps ? X_LOST_WAKE : X_LIVELOCK, "nobody can run: %s", text);
}

/* At random: the enabled thread of the highest priority; sleepers wake by themselves now and then. */
static uint32_t choose_by_priority(const struct candidate *list, uint32_t n) {
    uint32_t best = UINT32_MAX;
    for (uint32_t i = 0; i < n; i++) {
        if (list[i].how != RUN)
            continue;
        if (best == UINT32_MAX || list[i].thread->priority > list[best].thread->priority)
            best = i;
    }
    if (best == UINT32_MAX || (list[n - 1].how != RUN && test_random(&x.random) % 32 == 0)) {
        uint32_t pick = n - 1 - (uint32_t)(test_random(&x.random) % n);
        if (best == UINT32_MAX || list[pick].how != RUN)
            return pick;
    }
    return best;
}

/* Those who may be chosen; the running thread stands first if it can go on. */
static uint32_t find_candidates(struct candidate *list, bool can_go_on, bool *ret_asleep) {
    unsigned me = x_index(x.self);
    /* Fresh: what was chosen just before did nothing yet, so that others would have been chosen there. */
    bool may_switch = !can_go_on || !x.bounded ||
                      (x.preemptions > 0 && (!x.self->fresh || x.sleepers || x.test->thorough));
    uint32_t n = 0;
    *ret_asleep = false;
    if (can_go_on)
        list[n++] = (struct candidate){x.self, RUN};
    if (can_go_on && !may_switch && x.sleepers == 0)
        return n;
    for (unsigned i = 1; i <= x.n_threads; i++) {
        struct x_thread *thread = &x.threads[(me + i) % x.n_threads];
        if ((thread == x.self && can_go_on) || !enabled(thread))
            continue;
        if (thread->preempted)
            *ret_asleep = true;
        else if (may_switch)
            list[n++] = (struct candidate){thread, RUN};
    }
    bool idle = n == 0 && !*ret_asleep;
    pnx_ns earliest = PNX_NEVER;
    for (unsigned i = 0; i < x.n_threads; i++) {
        if (x.threads[i].state == X_SLEEPING && x.threads[i].deadline < earliest)
            earliest = x.threads[i].deadline;
    }
    for (unsigned i = 0; i < x.n_threads; i++) {
        struct x_thread *thread = &x.threads[i];
        if (thread->state != X_SLEEPING)
            continue;
        if (idle ? thread->deadline == earliest && earliest != PNX_NEVER
                 : thread->deadline != PNX_NEVER && (!x.bounded || x.timeouts))
            list[n++] = (struct candidate){thread, TIME_OUT};
        if (!idle && x.spurious)
            list[n++] = (struct candidate){thread, SPURIOUS};
    }
    return n;
}

/* Charges the bounds for a choice. */
static void charge(const struct candidate *chosen, bool can_go_on, bool others_ran) {
    if (chosen->how == TIME_OUT && others_ran && x.bounded)
        x.timeouts--;
    if (chosen->how == SPURIOUS && x.spurious)
        x.spurious--;
    if (can_go_on && chosen->thread != x.self && x.bounded && x.self->op.kind != X_SPIN) {
        if (chosen->how == RUN)
            x.preemptions--;
        x.self->preempted = !x.test->thorough;
    }
}

/*
 * Nobody can run: if somebody spins, time passes, and he goes on as if there were news; his loop may have an end.
 * Whoever does that over and over spins for ever.
 */
static struct x_thread *most_patient_spinner(void) {
    struct x_thread *found = NULL;
    for (unsigned i = 0; i < x.n_threads; i++) {
        struct x_thread *thread = &x.threads[i];
        if (thread->state == X_READY && thread->op.kind == X_SPIN &&
                (!found || thread->gave_up < found->gave_up))
            found = thread; /* not who came first: that differs between equivalent executions */
    }
    if (!found || ++x.idle_spins > MAX_IDLE_SPINS)
        stuck();
    found->gave_up++;
    x.now += PNX_US << (x.idle_spins < 20 ? x.idle_spins : 20);
    return found;
}

/* The running thread waits: what lets it go on would have cost its preemption, had it been done before. */
static void wake_enablers(const struct x_op *op) {
    for (unsigned i = 0; i < x.n_threads; i++) {
        struct x_thread *thread = &x.threads[i];
        if (op->kind == X_JOIN || op->kind == X_SPIN || conflict(&thread->op, op))
            thread->preempted = false;
    }
}

/* Chooses who goes on, and returns when the calling thread is chosen. */
static void dispatch(bool can_go_on) {
    struct x_thread *from = x.self;
    if (++x.steps > x.test->steps)
        x_fail(X_LIVELOCK, "still running after %u operations", x.test->steps);
    if (!can_go_on)
        wake_enablers(&from->op);
    struct candidate list[MAX_CANDIDATES];
    bool asleep;
    uint32_t n = find_candidates(list, can_go_on, &asleep);
    if (n == 0 && asleep) {
        x.pruned = true;
        x_leave();
    }
    if (n == 0)
        list[n++] = (struct candidate){most_patient_spinner(), RUN};
    bool others = asleep || list[0].how == RUN;
    if (x.mode == X_RANDOM && x_change_point(x.steps))
        from->priority = -(int)x.steps;
    uint32_t choice = x.mode == X_RANDOM ? x_decided(n, choose_by_priority(list, n)) : x_decide(n);
    struct candidate *chosen = &list[choice];
    charge(chosen, can_go_on, others);
    struct x_thread *next = chosen->thread;
    if (chosen->how != RUN) {
        next->state = X_READY;
        next->op = (struct x_op){.kind = X_NOTHING};
        next->timed_out = chosen->how == TIME_OUT;
        if (next->timed_out && next->deadline > x.now)
            x.now = next->deadline;
    }
    if (next->op.kind >= X_STORE)
        x.idle_spins = 0;
    next->preempted = false;
    next->fresh = chosen->how == RUN && is_local(&next->op);
    for (unsigned i = 0; i < x.n_threads; i++) {
        /* Time is read between operations: when it moves, everything conflicts. */
        if (chosen->how == TIME_OUT || conflict(&x.threads[i].op, &next->op))
            x.threads[i].preempted = false;
    }
    if (next == from)
        return;
    if (x.trace)
        x_trace("-- thread %u%s", x_index(next), from->preempted ? " (preempts)" : "");
    x.self = next;
    x_fibre_switch(&from->stack_pointer, next->stack_pointer);
}

void x_point(enum x_kind kind, const void *address, int order) {
    struct x_thread *self = x.self;
    self->op = (struct x_op){.kind = kind, .sc = order == __ATOMIC_SEQ_CST, .address = address};
    if (kind == X_FREE)
        self->op.size = x_memory_size(address);
    if (x.alone) {
        if (++x.steps > x.test->steps)
            x_fail(X_LIVELOCK, "still running after %u operations", x.test->steps);
        if (!enabled(self))
            stuck();
        return;
    }
    dispatch(enabled(self));
}

void x_spin(void) {
    struct x_thread *self = x.self;
    if (self->reads == 0) {
        /* Hints in a row: the first one waited. */
        if (++self->idle_hints > MAX_IDLE_HINTS)
            x_fail(X_LIVELOCK, "spins without looking at anything");
        return;
    }
    self->op = (struct x_op){.kind = X_SPIN};
    if (x.alone)
        x.now += PNX_US << (++x.idle_spins < 20 ? x.idle_spins : 20);
    else
        dispatch(enabled(self));
    if (x.alone && x.idle_spins > MAX_IDLE_SPINS)
        stuck();
    self->reads = 0;
    self->idle_hints = 0;
}

int x_sleep(const void *word, pnx_ns deadline) {
    struct x_thread *self = x.self;
    self->state = X_SLEEPING;
    bool may_wake = deadline != PNX_NEVER || x.spurious; /* though nobody wakes it */
    x.sleepers += may_wake;
    self->sleeps_on = word;
    self->deadline = deadline;
    self->timed_out = false;
    self->op = (struct x_op){.kind = X_NOTHING};
    if (x.alone && deadline == PNX_NEVER)
        stuck();
    dispatch(false);
    x.sleepers -= may_wake;
    return self->timed_out ? -ETIMEDOUT : 0;
}

uint32_t x_wake(const void *word, uint32_t n) {
    uint32_t woken = 0;
    struct x_thread *sleepers[X_THREADS];
    uint32_t left = 0;
    for (unsigned i = 0; i < x.n_threads; i++) {
        if (x.threads[i].state == X_SLEEPING && x.threads[i].sleeps_on == word)
            sleepers[left++] = &x.threads[i];
    }
    for (; woken < n && left > 0; woken++) {
        /* The kernel wakes who came first, mostly; nobody promises it. */
        uint32_t at = n - woken >= left ? 0 : x_decide(left);
        sleepers[at]->state = X_READY;
        sleepers[at] = sleepers[--left];
    }
    return woken;
}

unsigned x_spawn(void (*run)(void *arg), void *arg) {
    if (x.n_threads == X_THREADS)
        x_fail(X_MISUSE, "more than %d threads", X_MAX_THREADS);
    unsigned number = x.n_threads++;
    x.unshared = false;
    struct x_thread *thread = &x.threads[number];
    char *stack = thread->stack;
    memset(thread, 0, sizeof(*thread));
    thread->stack = stack;
    thread->state = X_READY;
    thread->run = run;
    thread->arg = arg;
    thread->now = x.self->now;
    thread->priority = 1 + (int)(test_random(&x.random) % 1000);
    x_fibre_make(thread);
    return number;
}

void x_thread_end(void) {
    x_thread_exit_hooks(x.self);
    if (x.trace)
        x_trace("ends");
    x.self->state = X_DONE;
    dispatch(false);
    abort(); /* nobody chooses a thread that is done */
}
