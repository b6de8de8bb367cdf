/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mapping/fault.c - scopes: the long halves of patinox/fault_inl.h, checked ends, scopes around a function.
 */
#include "mapping/fault.h"

#include "os/thread.h"

#include <assert.h>
#include <errno.h>

static_assert(sizeof(struct pnx_fault_head) == 64, "a line of its own");
static_assert(
        offsetof(struct pnx_fault_thread, scopes) == offsetof(struct pnx_thread, fault_scopes),
        "as os/thread.h says");

struct pnx_a32 pnx__fault_gate = {1};
struct pnx_a32 pnx__fault_always;
struct pnx_a32 pnx__fault_suspended = {1};

static int refuse(struct pnx_fault_scope *scope, int code) {
    *scope = (struct pnx_fault_scope){.word = code};
    return code;
}

static void push(
        struct pnx_fault_head *head, struct pnx_fault_thread *self, struct pnx_fault_scope *scope) {
    struct pnx_reclaim_section *section = pnx__fault_section(self, head);
    *scope = (struct pnx_fault_scope){
            .head = head, .outer = self->scopes, .word = (int64_t)(uintptr_t)section};
    PNX_FAULT_SIGNAL_BARRIER_();
    self->scopes = scope;
    PNX_FAULT_SIGNAL_BARRIER_();
}

/* One try: 0, or why no scope can begin; -EAGAIN when it has yet to be decided who handles faults. */
static int try_begin(
        struct pnx_fault_head *head, struct pnx_fault_thread *self, struct pnx_fault_scope *scope) {
    pnx_reclaim_enter(head->domain);
    /* Acquire, relaxed: as fault.begin_gate, fault.begin_shut, fault.begin_poison. */
    const struct pnx_a32 *gate = pnx_load(&head->gate, PNX_ACQUIRE, "fault.slow_gate");
    uint32_t shut = pnx_load(gate, PNX_RELAXED, "fault.slow_shut");
    uint64_t poison = pnx_load(&head->poison, PNX_RELAXED, "fault.slow_poison");
    int rc = pnx__fault_code(poison);
    if (rc == 0 && shut)
        rc = gate == &pnx__fault_suspended ? -EBUSY : -EAGAIN;
    if (rc)
        pnx_reclaim_exit(head->domain);
    else
        push(head, self, scope);
    return rc;
}

int pnx_fault_begin_slow_(struct pnx_mapping *mapping, struct pnx_fault_scope *scope) {
    struct pnx_fault_head *head = (struct pnx_fault_head *)(void *)mapping;
    if (!head || !scope)
        return scope ? refuse(scope, -EINVAL) : -EINVAL;
    struct pnx_fault_thread *self = (struct pnx_fault_thread *)(void *)pnx__thread();
    if (!self)
        return refuse(scope, -ENOMEM);
    int rc = try_begin(head, self, scope);
    while (rc == -EAGAIN) {
        rc = pnx__fault_decide();
        if (rc == 0)
            rc = try_begin(head, self, scope); /* once more if it was undone at once */
    }
    return rc ? refuse(scope, rc) : 0;
}

int pnx_fault_end_slow_(struct pnx_fault_scope *scope) {
    if (!scope)
        return -EINVAL;
    if (!scope->head)
        return scope->word < 0 ? (int)scope->word : -EINVAL;
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

/* Whether the file is as it was; nothing to ask for a mapping that is none of a file. */
static int check_file(const struct pnx_fault_record *record) {
    struct pnx_file_info now;
    if (record->pages.flags & PNX_FAULT_NEVER)
        return record->pages.flags & PNX_FAULT_TORN ? -ESTALE : 0;
    if (record->pages.fd < 0)
        return -ENOTSUP;
    /* The scope's reads come before the question; what the answer rests on, the kernel has ordered. */
    pnx_fence(PNX_ACQUIRE, "fault.check_fence");
    int rc = pnx__os_fstat(record->pages.fd, &now);
    if (rc)
        return rc;
    return pnx__fault_same(record, &now) ? 0 : -ESTALE;
}

int pnx_fault_end_checked(struct pnx_fault_scope *scope) {
    if (!scope || !scope->head)
        return pnx_fault_end_slow_(scope);
    int changed = check_file((const struct pnx_fault_record *)(const void *)scope->head);
    int rc = pnx_fault_end(scope);
    return rc ? rc : changed;
}

void pnx_fault_leave(struct pnx_fault_scope *scope) {
    if (!scope || !scope->head)
        return;
    int rc = pnx_fault_end(scope);
    (void)rc; /* nobody wants to know */
}

static int run(struct pnx_mapping *mapping, pnx_fault_fn *fn, void *ctx,
        int (*end)(struct pnx_fault_scope *scope)) {
    struct pnx_fault_scope scope;
    if (!fn)
        return -EINVAL;
    int rc = pnx_fault_begin(mapping, &scope);
    if (rc)
        return rc;
    int result = fn(ctx);
    rc = end(&scope);
    return rc ? rc : result;
}

int pnx_fault_run(struct pnx_mapping *mapping, pnx_fault_fn *fn, void *ctx) {
    return run(mapping, fn, ctx, pnx_fault_end);
}

int pnx_fault_run_checked(struct pnx_mapping *mapping, pnx_fault_fn *fn, void *ctx) {
    return run(mapping, fn, ctx, pnx_fault_end_checked);
}
