/* SPDX-License-Identifier: Apache-2.0 */
/*
 * patinox/reclaim_inl.h - the inline half of patinox/reclaim.h; include that one.
 *
 * What stands here is compiled into programs, so its layout is fixed (tests/share/test_reclaim_layout.c).
 * The fields are the library's: read and write them through the functions only.
 *
 * A thread has one section word per domain, which only that thread writes:
 *
 *     63            24 | 23     | 22    | 21    | 20   | 19     0
 *     number of section| unused | READY | FENCE | FULL | nesting
 *
 * enter adds one; the exit that ends the section adds one to the number and takes one from the nesting.  The
 * word is the only state, so a signal handler may nest a section into whatever it interrupts: at worst the word
 * shows an old number again, which makes a grace period wait longer, never shorter.  A nesting that overflows
 * runs into FULL, which nobody clears before the thread ends: that section then never ends.
 */
#ifndef PNX_RECLAIM_INL_H
#define PNX_RECLAIM_INL_H

#include <patinox/atomic_inl.h>

PNX_BEGIN_DECLS

struct pnx_reclaim;

#define PNX_RECLAIM_DOMAINS_MAX 64 /* the default one included */

#define PNX_RECLAIM_NEST_   UINT64_C(0x0fffff)
#define PNX_RECLAIM_FULL_   UINT64_C(0x100000)
#define PNX_RECLAIM_FENCE_  UINT64_C(0x200000)
#define PNX_RECLAIM_READY_  UINT64_C(0x400000)
#define PNX_RECLAIM_NUMBER_ UINT64_C(0x1000000)
#define PNX_RECLAIM_STATE_  (PNX_RECLAIM_FULL_ | PNX_RECLAIM_FENCE_ | PNX_RECLAIM_READY_)

/* One thread in one domain.  Written by the thread, but where it says otherwise. */
struct pnx_reclaim_section {
    struct pnx_a64 word;
    struct pnx_a32
            awaited;      /* set by who waits for the end of the section, cleared by who ends it */
    uint32_t due_objects; /* retired here since callbacks were last tried; only the thread's */
    struct pnx_aptr retired; /* nodes, newest first: pushed by the thread, taken whole by anybody */
    struct pnx_aptr site;    /* where a section began, in programs with PNX_RECLAIM_SITES */
    uint64_t due_bytes;      /* only the thread's */
    struct pnx_a64 objects;  /* ever retired here */
    struct pnx_a64 bytes;
    struct pnx_a64 sited; /* the number of the section that site belongs to */
    /* Guarded by the domain's lock. */
    uint64_t seen;                            /* the word that a grace period waits to see gone */
    struct pnx_reclaim_section *next_awaited; /* by the grace period */
    struct pnx_a64 thread_id;                 /* written by the thread, for reports */
    /* Guarded by the lock of all domains. */
    struct pnx_reclaim_thread *thread; /* who has it; NULL: free for another thread */
    /* Fixed once it is on the domain's list. */
    struct pnx_reclaim_section *next;
    uint32_t linked;
    uint32_t unused32;
    uint64_t spare[2];
};

/* How a thread's record begins. */
struct pnx_reclaim_thread {
    struct pnx_reclaim_section section; /* in the default domain */
    struct pnx_aptr sections[PNX_RECLAIM_DOMAINS_MAX];
};

/* How a domain begins. */
struct pnx_reclaim_head {
    uint32_t index; /* into sections */
    uint32_t unused;
};

PNX_API void pnx_reclaim_enter_slow_(struct pnx_reclaim *domain);
PNX_API void pnx_reclaim_exit_slow_(struct pnx_reclaim *domain);
PNX_API void pnx_reclaim_wake_(struct pnx_reclaim *domain);

#define PNX_RECLAIM_LIKELY_(x) __builtin_expect(!!(x), 1)

/* A thread's section in a domain other than the default one, NULL when it has none yet; the calling thread's. */
static inline struct pnx_reclaim_section *pnx__reclaim_section_at(
        const struct pnx_reclaim_thread *self, uint32_t index) {
    /* Relaxed: written by this thread, or by who ends the domain, which nobody uses then. */
    return (struct pnx_reclaim_section *)pnx__load(
            &self->sections[index], PNX_RELAXED, "reclaim.own_section");
}

/* The calling thread's section in the domain, NULL when it has none yet. */
static inline struct pnx_reclaim_section *pnx__reclaim_section(struct pnx_reclaim *domain) {
    struct pnx_reclaim_thread *self = (struct pnx_reclaim_thread *)(void *)PNX_SELF;
    if (!PNX_RECLAIM_LIKELY_(self))
        return 0;
    if (!domain)
        return &self->section;
    return pnx__reclaim_section_at(
            self, ((const struct pnx_reclaim_head *)(const void *)domain)->index);
}

/* Begins a section in section, which is the calling thread's, NULL when it has none yet.  False: the slow way must. */
static inline bool pnx__reclaim_try_enter(struct pnx_reclaim_section *section) {
    if (PNX_RECLAIM_LIKELY_(section)) {
        /* Relaxed: nobody else writes it. */
        uint64_t word = pnx__load(&section->word, PNX_RELAXED, "reclaim.enter_word");
        uint64_t state = word & PNX_RECLAIM_STATE_;
        if (PNX_RECLAIM_LIKELY_(state == PNX_RECLAIM_READY_)) {
            /* Release: a scan that meets this word knows that earlier sections have ended (reclaim.scan). */
            pnx__store(&section->word, word + 1, PNX_RELEASE, "reclaim.enter");
            /* The light half of the barrier whose heavy half is membarrier: only the compiler must not move. */
            __asm__ __volatile__("" ::: "memory");
            return true;
        }
        if (PNX_RECLAIM_LIKELY_(state == (PNX_RECLAIM_READY_ | PNX_RECLAIM_FENCE_))) {
            pnx__store(
                    &section->word, word + 1, PNX_RELEASE, "reclaim.enter_fenced"); /* the same */
            /* Pairs with reclaim.heavy.  A nested enter too: a handler may have come before the outer fence. */
            pnx__fence(PNX_SEQ_CST, "reclaim.light");
            return true;
        }
    }
    return false;
}

/* What is left to do for who ended a section. */
enum pnx__reclaim_left { PNX__RECLAIM_ENDED, PNX__RECLAIM_WAKE, PNX__RECLAIM_SLOW };

/* Ends a section in section, likewise. */
static inline enum pnx__reclaim_left pnx__reclaim_try_exit(struct pnx_reclaim_section *section) {
    if (PNX_RECLAIM_LIKELY_(section)) {
        uint64_t word = pnx__load(&section->word, PNX_RELAXED, "reclaim.exit_word"); /* ours */
        uint64_t nest = word & (PNX_RECLAIM_NEST_ | PNX_RECLAIM_FULL_);
        if (PNX_RECLAIM_LIKELY_(nest == 1)) {
            /* Release: what the section read comes before the free of it (reclaim.scan, reclaim.poll). */
            pnx__store(&section->word, word + PNX_RECLAIM_NUMBER_ - 1, PNX_RELEASE, "reclaim.exit");
            __asm__ __volatile__(
                    "" ::
                            : "memory"); /* light: who sets awaited looks at the word again */
            if (PNX_RECLAIM_LIKELY_(
                        !pnx__load(&section->awaited, PNX_RELAXED, "reclaim.exit_awaited")))
                return PNX__RECLAIM_ENDED;
            return PNX__RECLAIM_WAKE;
        }
        if (PNX_RECLAIM_LIKELY_(nest > 1 && nest < PNX_RECLAIM_FULL_)) {
            /* Release: a scan may meet this word instead of that of the enter (reclaim.enter). */
            pnx__store(&section->word, word - 1, PNX_RELEASE, "reclaim.exit_nested");
            return PNX__RECLAIM_ENDED;
        }
    }
    return PNX__RECLAIM_SLOW;
}

/* The end of that. */
static inline void pnx__reclaim_leave(enum pnx__reclaim_left left, struct pnx_reclaim *domain) {
    if (left == PNX__RECLAIM_WAKE)
        pnx_reclaim_wake_(domain);
    else
        pnx_reclaim_exit_slow_(domain);
}

/* Both, whatever it takes. */
static inline void pnx__reclaim_enter_in(
        struct pnx_reclaim_section *section, struct pnx_reclaim *domain) {
    if (!PNX_RECLAIM_LIKELY_(pnx__reclaim_try_enter(section)))
        pnx_reclaim_enter_slow_(domain);
}

static inline void pnx__reclaim_exit_in(
        struct pnx_reclaim_section *section, struct pnx_reclaim *domain) {
    enum pnx__reclaim_left left = pnx__reclaim_try_exit(section);
    if (!PNX_RECLAIM_LIKELY_(left == PNX__RECLAIM_ENDED))
        pnx__reclaim_leave(left, domain);
}

/*
 * Begins a section, or nests into the one that the thread is in: what it finds reachable stays until it exits.
 * domain may be NULL, for the default one.  Cannot fail; wait-free; some nanoseconds.
 */
static inline void pnx_reclaim_enter(struct pnx_reclaim *domain) {
    pnx__reclaim_enter_in(pnx__reclaim_section(domain), domain);
}

/* Ends what the matching enter, on the same thread, began.  Cannot fail. */
static inline void pnx_reclaim_exit(struct pnx_reclaim *domain) {
    pnx__reclaim_exit_in(pnx__reclaim_section(domain), domain);
}

/* Remembers where a section began, for reports about one that does not end; see PNX_RECLAIM_SITES. */
static inline void pnx__reclaim_enter_at(struct pnx_reclaim *domain, const char *site) {
    pnx_reclaim_enter(domain);
    struct pnx_reclaim_section *section = pnx__reclaim_section(domain);
    if (!section)
        return;
    uint64_t word = pnx__load(&section->word, PNX_RELAXED, "reclaim.site_word"); /* ours */
    if ((word & PNX_RECLAIM_NEST_) != 1)
        return;
    /* Relaxed, both: for reports of sections so old that this has long arrived. */
    pnx__store(&section->site, (void *)(uintptr_t)site, PNX_RELAXED, "reclaim.site");
    pnx__store(&section->sited, word / PNX_RECLAIM_NUMBER_, PNX_RELAXED, "reclaim.sited");
}

PNX_END_DECLS
#endif /* PNX_RECLAIM_INL_H */
