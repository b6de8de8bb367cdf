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
    struct pnx_aptr gate; /* struct pnx_a32, 0 where scopes may begin; see src/mapping/fault.h */
    struct pnx_reclaim *domain; /* fixed, as long as there is the mapping */
    /* Fixed as long as a scope is open. */
    unsigned char *data; /* the mapping's first byte */
    size_t size;         /* bytes from data on */
    uintptr_t from;      /* the pages that may be replaced: from <= address < to */
    uintptr_t to;
    size_t section; /* where in a thread's record the pointer to its section in the domain lies: bytes */
};

/*
 * An access scope: lives on your stack, or wherever you like, and belongs to one thread.  {0} is one that is not
 * open.  Must stay where it is while it is open.
 */
struct pnx_fault_scope {
    struct pnx_fault_head *head; /* NULL: not open */
    struct pnx_fault_scope *outer;
    /*
     * Open: the thread's section, NULL when it could have none; an odd number in the library's own copies, see
     * src/mapping/fault.h.  Not open: why it could not begin, negative; else anything that is not.
     */
    int64_t word;
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

/* The calling thread's section in the domain, NULL when it has none yet. */
static inline struct pnx_reclaim_section *pnx__fault_section(
        const struct pnx_fault_thread *self, const struct pnx_fault_head *head) {
    /* Relaxed: as reclaim.own_section. */
    const struct pnx_aptr *section =
            (const struct pnx_aptr *)(const void *)((const char *)self + head->section);
    return (struct pnx_reclaim_section *)pnx__load(section, PNX_RELAXED, "fault.own_section");
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
    struct pnx_reclaim_section *section = pnx__fault_section(self, head);
    if (!PNX_RECLAIM_LIKELY_(pnx__reclaim_try_enter(section))) {
        pnx_reclaim_enter_slow_(head->domain);
        section = pnx__fault_section(self, head); /* it may have made one */
    }
    /*
     * Behind the section's barrier: whoever changes one of these two, and then waits for all sections, has waited for
     * this one or is seen by it.  Acquire: pairs with fault.resume; data and size are those of the pages.
     */
    const struct pnx_a32 *gate =
            (const struct pnx_a32 *)pnx__load(&head->gate, PNX_ACQUIRE, "fault.begin_gate");
    uint32_t shut = pnx__load(gate, PNX_RELAXED, "fault.begin_shut");
    /* Relaxed: what is set later is found at the end. */
    uint64_t poison = pnx__load(&head->poison, PNX_RELAXED, "fault.begin_poison");
    if (!PNX_RECLAIM_LIKELY_((shut | poison) == 0)) {
        pnx_reclaim_exit(head->domain);
        return pnx_fault_begin_slow_(mapping, scope);
    }
    scope->outer = self->scopes;
    /* Also keeps compilers from storing two fields at once, which makes the loads of each at the end wait. */
    PNX_FAULT_SIGNAL_BARRIER_();
    scope->head = head;
    scope->word = (int64_t)(uintptr_t)section; /* so that the end need not look for it */
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
    struct pnx_reclaim_section *section =
            (struct pnx_reclaim_section *)(void *)(uintptr_t)scope->word;
    /* Both: pair with fault.hit_fence, see the top. */
    pnx__fence(PNX_ACQUIRE, "fault.end_fence");
    uint64_t poison = pnx__load(&head->poison, PNX_RELAXED, "fault.end_poison");
    PNX_FAULT_SIGNAL_BARRIER_();
    self->scopes = scope->outer;
    PNX_FAULT_SIGNAL_BARRIER_();
    scope->head = 0;
    enum pnx__reclaim_left left = pnx__reclaim_try_exit(section);
    if (!PNX_RECLAIM_LIKELY_(left == PNX__RECLAIM_ENDED))
        pnx__reclaim_leave(left, head->domain);
    return PNX_RECLAIM_LIKELY_(poison == 0) ? 0 : pnx__fault_code(poison);
}

PNX_END_DECLS
#endif /* PNX_FAULT_INL_H */
