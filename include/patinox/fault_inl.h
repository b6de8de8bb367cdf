/* SPDX-License-Identifier: Apache-2.0 */
/*
 * patinox/fault_inl.h - the inline half of patinox/fault.h; include that one.
 *
 * What stands here is compiled into programs, so its layout is fixed (tests/mapping/test_fault_layout.c).
 * The fields are the library's: read and write them through the functions only.
 *
 * A scope is a section of the reclaim domain of all mappings, which keeps the pages where they are, and a link in the
 * list of its thread's open scopes, by which the signal handler knows that a fault is expected.  The handler runs on
 * the thread whose list it reads, so compiler barriers are all the order that the list needs.
 *
 * Poison is the one word by which threads tell each other of a fault:
 *
 *     63          12 | 11   0
 *     offset in 4 KiB| errno       0: no load has faulted since the file was mapped
 *
 * Why no scope ends well that has read replaced pages.  Handler: poison (relaxed), release fence F, pages replaced.
 * Scope: reads, acquire fence G (fault.end_fence), poison.  A read that returns bytes of a page that the handler
 * has put there comes after F in the order of the machine (the system call that puts it there begins after F, and every
 * access to the page through the new entry of the page table after that), so G, which stands behind that read, is ordered
 * behind F, and the load of the poison behind G meets it.
 */
#ifndef PNX_FAULT_INL_H
#define PNX_FAULT_INL_H

#include <patinox/atomic_inl.h>
#include <patinox/reclaim_inl.h>

PNX_BEGIN_DECLS

struct pnx_mapping;

#define PNX_FAULT_CODE_BITS 12
#define PNX_FAULT_UNIT_BITS 12 /* offsets in poison count from the first page, in 4 KiB */

/* How a mapping begins: what readers look at, and hardly anybody writes. */
struct pnx_fault_head {
    struct pnx_a64 poison;
    struct pnx_aptr
            ready; /* struct pnx_a32: whether scopes may begin; see src/mapping/fault_table.h */
    struct pnx_reclaim *domain; /* fixed, as long as there is the mapping */
    /* Fixed as long as a scope is open. */
    unsigned char *data; /* the mapping's first byte */
    size_t size;         /* bytes from data on */
    uintptr_t from;      /* the pages that may be replaced: from <= address < to */
    uintptr_t to;
    uint32_t index; /* the domain's, never the default one's; fixed like it */
    uint32_t spare;
};

/*
 * An access scope: lives on your stack, or wherever you like, and belongs to one thread.  {0} is one that is not
 * open.  Must stay where it is while it is open.
 */
struct pnx_fault_scope {
    struct pnx_fault_head *head; /* NULL: not open */
    struct pnx_fault_scope *outer;
    int64_t code; /* 0, or why it could not begin; in the library's own copies, see src/mapping/fault.h */
};

/* How a thread's record begins. */
struct pnx_fault_thread {
    struct pnx_reclaim_thread reclaim;
    void *unused[3];
    struct pnx_fault_scope *scopes; /* open, innermost first; only the thread touches it */
};

PNX_API int pnx_fault_begin_slow_(struct pnx_mapping *mapping, struct pnx_fault_scope *scope);
PNX_API int pnx_fault_end_slow_(struct pnx_fault_scope *scope);

static inline struct pnx_fault_thread *pnx__fault_self(void) {
    return (struct pnx_fault_thread *)(void *)PNX_SELF;
}

/* What a poison word says, as an error code. */
static inline int pnx__fault_code(uint64_t poison) {
    return -(int)(poison & ((1u << PNX_FAULT_CODE_BITS) - 1));
}

/* The order in which the thread itself, interrupted by a signal, sees its stores. */
#define PNX_FAULT_SIGNAL_BARRIER_() __asm__ __volatile__("" ::: "memory")

/*
 * Begins a scope: see patinox/fault.h.  Some nanoseconds; no lock, no system call, no allocation, but for the first one
 * of a thread.
 */
PNX_NODISCARD static inline int pnx_fault_begin(
        struct pnx_mapping *mapping, struct pnx_fault_scope *scope) {
    struct pnx_fault_head *head = (struct pnx_fault_head *)(void *)mapping;
    struct pnx_fault_thread *self = pnx__fault_self();
    if (!PNX_RECLAIM_LIKELY_(self && head))
        return pnx_fault_begin_slow_(mapping, scope);
    pnx__reclaim_enter_in(pnx__reclaim_section_at(&self->reclaim, head->index), head->domain);
    /*
     * Behind the section's barrier: whoever changes one of these two, and then waits for all sections, has waited for
     * this one or is seen by it.  Acquire: pairs with fault.resume; data and size are those of the pages.
     */
    const struct pnx_a32 *ready =
            (const struct pnx_a32 *)pnx__load(&head->ready, PNX_ACQUIRE, "fault.begin_ready");
    uint32_t may = pnx__load(ready, PNX_RELAXED, "fault.begin_may");
    /* Relaxed: what is set later is found at the end. */
    uint64_t poison = pnx__load(&head->poison, PNX_RELAXED, "fault.begin_poison");
    if (!PNX_RECLAIM_LIKELY_(may == 1 && poison == 0)) {
        pnx_reclaim_exit(head->domain);
        return pnx_fault_begin_slow_(mapping, scope);
    }
    scope->outer = self->scopes;
    /* Also keeps compilers from storing two fields at once, which makes the loads of each at the end wait. */
    PNX_FAULT_SIGNAL_BARRIER_();
    scope->head = head;
    scope->code = 0;
    PNX_FAULT_SIGNAL_BARRIER_();
    self->scopes = scope;
    PNX_FAULT_SIGNAL_BARRIER_();
    return 0;
}

/* Ends a scope: see patinox/fault.h. */
PNX_NODISCARD static inline int pnx_fault_end(struct pnx_fault_scope *scope) {
    struct pnx_fault_thread *self = pnx__fault_self();
    if (!PNX_RECLAIM_LIKELY_(self && scope && self->scopes == scope))
        return pnx_fault_end_slow_(scope);
    struct pnx_fault_head *head = scope->head;
    /* Both: pair with fault.hit_fence, see the top. */
    pnx__fence(PNX_ACQUIRE, "fault.end_fence");
    uint64_t poison = pnx__load(&head->poison, PNX_RELAXED, "fault.end_poison");
    PNX_FAULT_SIGNAL_BARRIER_();
    self->scopes = scope->outer;
    PNX_FAULT_SIGNAL_BARRIER_();
    scope->head = 0;
    pnx__reclaim_exit_in(pnx__reclaim_section_at(&self->reclaim, head->index), head->domain);
    return pnx__fault_code(poison);
}

PNX_END_DECLS
#endif /* PNX_FAULT_INL_H */
