/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mapping/fault.c - scopes: the long halves of patinox/fault_inl.h.
 */
#include "mapping/fault.h"

#include "os/thread.h"

#include <assert.h>
#include <errno.h>

static_assert(sizeof(struct pnx_fault_head) == 64, "a line of its own");
static_assert(
        offsetof(struct pnx_fault_thread, scopes) == offsetof(struct pnx_thread, fault_scopes),
        "as os/thread.h says");

struct pnx_a32 pnx__fault_ready;
struct pnx_a32 pnx__fault_always = {1};
struct pnx_a32 pnx__fault_suspended;

static int refuse(struct pnx_fault_scope *scope, int code) {
    *scope = (struct pnx_fault_scope){.code = code};
    return code;
}

int pnx_fault_begin_slow_(struct pnx_mapping *mapping, struct pnx_fault_scope *scope) {
    struct pnx_fault_head *head = (struct pnx_fault_head *)(void *)mapping;
    if (!head || !scope)
        return scope ? refuse(scope, -EINVAL) : -EINVAL;
    struct pnx_fault_thread *self = (struct pnx_fault_thread *)(void *)pnx__thread();
    if (!self)
        return refuse(scope, -ENOMEM);
    pnx_reclaim_enter(head->domain);
    /* Acquire: as fault.begin_ready. */
    const struct pnx_a32 *ready = pnx_load(&head->ready, PNX_ACQUIRE, "fault.slow_ready");
    uint64_t poison = pnx_load(&head->poison, PNX_RELAXED, "fault.slow_poison");
    int rc = pnx__fault_code(poison);
    if (rc == 0 && !pnx_load(ready, PNX_RELAXED, "fault.slow_may"))
        rc = ready == &pnx__fault_suspended ? -EBUSY : -ENOTSUP;
    if (rc) {
        pnx_reclaim_exit(head->domain);
        return refuse(scope, rc);
    }
    scope->head = head;
    scope->outer = self->scopes;
    PNX_FAULT_SIGNAL_BARRIER_();
    self->scopes = scope;
    PNX_FAULT_SIGNAL_BARRIER_();
    return 0;
}

int pnx_fault_end_slow_(struct pnx_fault_scope *scope) {
    if (!scope)
        return -EINVAL;
    if (!scope->head)
        return scope->code ? (int)scope->code : -EINVAL;
    struct pnx_fault_thread *self = pnx__fault_self();
    struct pnx_fault_scope **at = self ? &self->scopes : NULL;
    while (at && *at && *at != scope)
        at = &(*at)->outer;
    if (!at || !*at)
        return -EINVAL; /* another thread's */
    struct pnx_fault_head *head = scope->head;
    /* Both: as fault.end_fence, fault.end_poison. */
    pnx_fence(PNX_ACQUIRE, "fault.slow_end_fence");
    uint64_t poison = pnx_load(&head->poison, PNX_RELAXED, "fault.slow_end_poison");
    PNX_FAULT_SIGNAL_BARRIER_();
    *at = scope->outer;
    PNX_FAULT_SIGNAL_BARRIER_();
    *scope = (struct pnx_fault_scope){0};
    pnx_reclaim_exit(head->domain);
    return pnx__fault_code(poison);
}
