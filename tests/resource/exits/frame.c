/* SPDX-License-Identifier: Apache-2.0 */
/* frame.c - see exits.h.  C and C++. */
#include "exits.h"

static void count_defer(void *arg) {
    ((struct ran *)arg)->defer++;
}

static void count_variable(struct ran **ran) {
    (*ran)->variable++;
}

static int count_guard(void *arg, const struct pnx_cancel *cancel) {
    (void)cancel;
    ((struct ran *)arg)->guard++;
    return 0;
}

static int count_scope(void *arg, const struct pnx_cancel *cancel) {
    (void)cancel;
    ((struct ran *)arg)->scope++;
    return 0;
}

static int set_up(struct pnx_guard *guard, struct pnx_scope *scope, struct ran *ran) {
    return pnx_guard_arm(guard, count_guard, ran) ||
           pnx_scope_push(scope, PNX_SCOPE_ALWAYS, count_scope, ran);
}

#ifndef BROKEN /* shows that exits.py notices a tool that did not run */
#define DEFER(ran) PNX_DEFER(count_defer, ran)
#else
#define DEFER(ran) (void)count_defer
#endif
#define GUARDED(ran) \
    DEFER(ran); \
    PNX_AUTO(struct ran *, variable, count_variable, ran); \
    PNX_AUTO_GUARD guard = {0}; \
    PNX_AUTO_SCOPE scope = {0}; \
    int failed = set_up(&guard, &scope, ran)

void frame_falls_through(struct ran *ran) {
    GUARDED(ran);
    (void)failed; /* then the guards have not run, and the counts say so */
}

void frame_returns(struct ran *ran) {
    GUARDED(ran);
    if (!failed)
        return;
    ran->after++;
}

void frame_breaks(struct ran *ran) {
    for (int i = 0; i < 2; i++) {
        GUARDED(ran);
        if (!failed)
            break;
        ran->after++;
    }
}

void frame_continues(struct ran *ran) {
    for (int i = 0; i < 1; i++) {
        GUARDED(ran);
        if (!failed)
            continue;
        ran->after++;
    }
}

void frame_goes_to(struct ran *ran) {
    {
        GUARDED(ran);
        if (!failed)
            goto out;
        ran->after++;
    }
    ran->after++;
out:
    return;
}

void frame_calls(struct ran *ran, leave_fn *leave, void *arg) {
    GUARDED(ran);
    if (!failed)
        leave(arg);
    ran->after++;
}
