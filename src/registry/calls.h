/* SPDX-License-Identifier: Apache-2.0 */
/*
 * registry/calls.h - functions of the user's for whose return the end of a row waits.
 *
 * An object whose cleanup waits until the functions have returned that it runs, an executor say for its jobs, has a call on
 * the stack of the thread that runs one, or in itself.  So a shutdown that would wait for its own thread can be
 * refused before it has changed anything.
 */
#ifndef PNX_SRC_REGISTRY_CALLS_H
#define PNX_SRC_REGISTRY_CALLS_H

#include "os/thread.h"

#include <patinox/registry.h>

/* Linked from the innermost, in the thread's record.  Only that thread looks at it. */
struct pnx_row_call {
    const struct pnx_registry *registry; /* NULL: the object is no row */
    pnx_resource_id id;                  /* the object's row, or pnx__shutdown_call_id() */
    const struct pnx_row_call *outer;
};

/* Of the threads of a shutdown, which waits for them whatever they run.  Never the id of a row. */
static inline pnx_resource_id pnx__shutdown_call_id(void) {
    return (pnx_resource_id)pnx__fork_generation() << 1 | 1;
}

/* Stand around such a function.  Without a record for the thread nothing is known. */
static inline void pnx__row_call_enter_on(struct pnx_thread *self, struct pnx_row_call *call,
        const struct pnx_registry *registry, pnx_resource_id id) {
    call->registry = registry;
    call->id = id;
    call->outer = NULL;
    if (!self)
        return;
    call->outer = self->row_calls;
    self->row_calls = call;
}
static inline void pnx__row_call_enter(
        struct pnx_row_call *call, const struct pnx_registry *registry, pnx_resource_id id) {
    pnx__row_call_enter_on(pnx__self(), call, registry, id);
}
static inline void pnx__row_call_leave_on(
        struct pnx_thread *self, const struct pnx_row_call *call) {
    if (self && self->row_calls == call) /* else there was no memory for the record, and now is */
        self->row_calls = call->outer;
}
static inline void pnx__row_call_leave(const struct pnx_row_call *call) {
    pnx__row_call_leave_on(pnx__self(), call);
}

/*
 * Returns whether this thread is inside a function for which a shutdown of the registry would have to wait: a cleanup of
 * it, one that an object runs whose row is there and this process's, or one that a shutdown of it runs.
 */
bool pnx__registry_waits_for_us(struct pnx_registry *registry);

#endif
