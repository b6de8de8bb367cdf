/* SPDX-License-Identifier: Apache-2.0 */
/*
 * os/ranges.c - see os/ranges.h.
 *
 * A slot is a sequence lock with one writer at a time, who got it by a compare-and-swap.  Writer: the word says BUSY,
 * release fence, fields, the word says LIVE (release).  find: word (acquire), fields, acquire fence, word again: if
 * it is the same, and LIVE, then the fields are those that belong to it.  For a field that a later writer has stored
 * comes after that writer's fence, and so its BUSY is what the second look meets.
 *
 * A slot is found by scanning, from where one became free last.
 */
#include "os/ranges.h"

#include "os/fault.h"
#include "os/pages.h"

#include <errno.h>

#define FREE   UINT64_C(0)
#define BUSY   UINT64_C(1)
#define LIVE   UINT64_C(2)
#define STATE  UINT64_C(3)
#define NUMBER UINT64_C(4)

#ifdef PNX_EXPLORE
#define FIRST 2u /* the explorer counts every step */
#else
#define FIRST 128u /* slots of the first chunk: a page */
#endif
#define CHUNKS 32u /* of which the last would have 2^38 slots */

/* Chunks are published once, in order, and stay. */
static struct pnx_range first[FIRST];
static struct pnx_aptr chunks[CHUNKS] = {{first}};
static struct pnx_a64 used[CHUNKS]; /* slots that are not FREE, or are about to be taken */
static struct pnx_a64 hint[CHUNKS]; /* where a free one was seen last */
static struct pnx_a64 count;

static uint64_t slots_of(uint32_t chunk) {
    return (uint64_t)FIRST << chunk;
}

static struct pnx_range *chunk_at(uint32_t chunk) {
    /* Acquire: pairs with ranges.publish; the slots are zero. */
    return pnx_load(&chunks[chunk], PNX_ACQUIRE, "ranges.chunk");
}

/* Fills a slot that is the caller's, as its word says. */
static void fill(struct pnx_range *range, uint64_t busy, uintptr_t from, uintptr_t to) {
    pnx_fence(PNX_RELEASE, "ranges.fill_fence"); /* pairs with ranges.find_fence */
    /* Relaxed: between the fence and ranges.live. */
    pnx_store(&range->from, from, PNX_RELAXED, "ranges.from");
    pnx_store(&range->to, to, PNX_RELAXED, "ranges.to");
    /* Release: pairs with ranges.find_word. */
    pnx_store(&range->word, (busy & ~STATE) + NUMBER + LIVE, PNX_RELEASE, "ranges.live");
}

static bool claim(struct pnx_range *range, uint64_t *ret_busy) {
    uint64_t word = pnx_load(&range->word, PNX_RELAXED, "ranges.look"); /* the CAS checks */
    if ((word & STATE) != FREE)
        return false;
    uint64_t busy = (word & ~STATE) + NUMBER + BUSY;
    /* Acquire: pairs with ranges.free; the owner before has ended its stores. */
    if (!pnx_cas(&range->word, &word, busy, PNX_ACQUIRE, "ranges.claim"))
        return false;
    *ret_busy = busy;
    return true;
}

/* Takes a slot of a chunk that has room; NULL: others were faster. */
static struct pnx_range *take(uint32_t chunk, uint64_t *ret_busy) {
    uint64_t n = slots_of(chunk);
    struct pnx_range *slots = chunk_at(chunk);
    /* Relaxed, all: a count and a hint; claim() decides. */
    uint64_t before = pnx_fetch_add(&used[chunk], 1, PNX_RELAXED, "ranges.reserve");
    uint64_t start = pnx_load(&hint[chunk], PNX_RELAXED, "ranges.hint");
    for (uint64_t i = 0; before < n && i < n; i++) {
        uint64_t at = (start + i) % n;
        if (!claim(&slots[at], ret_busy))
            continue;
        pnx_store(&hint[chunk], at + 1, PNX_RELAXED, "ranges.hint_next");
        return &slots[at];
    }
    pnx_fetch_sub(&used[chunk], 1, PNX_RELAXED, "ranges.no_room");
    return NULL;
}

static int grow(uint32_t chunk) {
    size_t bytes = slots_of(chunk) * sizeof(struct pnx_range);
    void *fresh = PNX_OS_FAULT("ranges") ? NULL : pnx__os_pages_map(bytes), *found = NULL;
    if (!fresh)
        return -ENOMEM;
    /* Release: pairs with ranges.chunk. */
    if (!pnx_cas(&chunks[chunk], &found, fresh, PNX_RELEASE, "ranges.publish"))
        pnx__os_pages_unmap(fresh, bytes); /* another thread was faster */
    return 0;
}

int pnx__range_add(uintptr_t from, uintptr_t to, void *owner, struct pnx_range **ret_range) {
    for (uint32_t chunk = 0; chunk < CHUNKS; chunk++) {
        int rc = chunk_at(chunk) ? 0 : grow(chunk);
        if (rc)
            return rc;
        uint64_t busy = 0;
        struct pnx_range *range = take(chunk, &busy);
        if (!range)
            continue;
        pnx_fence(PNX_RELEASE, "ranges.add_fence"); /* pairs with ranges.find_fence, as in fill() */
        pnx_store(&range->owner, owner, PNX_RELAXED, "ranges.owner"); /* likewise */
        fill(range, busy, from, to);
        pnx_fetch_add(&count, 1, PNX_RELAXED, "ranges.count_up"); /* a number for people */
        *ret_range = range;
        return 0;
    }
    return -ENOMEM;
}

void pnx__range_move(struct pnx_range *range, uintptr_t from, uintptr_t to) {
    uint64_t word = pnx_load(&range->word, PNX_RELAXED, "ranges.move_word"); /* ours */
    uint64_t busy = (word & ~STATE) + NUMBER + BUSY;
    pnx_store(
            &range->word, busy, PNX_RELAXED, "ranges.move"); /* the fence of fill() is behind it */
    fill(range, busy, from, to);
}

static uint32_t chunk_of(const struct pnx_range *range) {
    uint32_t chunk = 0;
    for (;; chunk++) {
        const struct pnx_range *slots = chunk_at(chunk);
        if (range >= slots && range < slots + slots_of(chunk))
            return chunk;
    }
}

void pnx__range_remove(struct pnx_range **handle) {
    struct pnx_range *range = *handle;
    if (!range)
        return;
    *handle = NULL;
    uint32_t chunk = chunk_of(range);
    uint64_t word = pnx_load(&range->word, PNX_RELAXED, "ranges.last_word"); /* ours */
    /* Release: pairs with ranges.claim. */
    pnx_store(&range->word, (word & ~STATE) + NUMBER + FREE, PNX_RELEASE, "ranges.free");
    /* Relaxed, both: see take(). */
    uint64_t at = (uint64_t)(range - chunk_at(chunk));
    pnx_store(&hint[chunk], at, PNX_RELAXED, "ranges.hint_free");
    pnx_fetch_sub(&used[chunk], 1, PNX_RELAXED, "ranges.leave");
    pnx_fetch_sub(&count, 1, PNX_RELAXED, "ranges.count_down");
}

void *pnx__range_find(uintptr_t address) {
    for (uint32_t chunk = 0; chunk < CHUNKS; chunk++) {
        struct pnx_range *slots = chunk_at(chunk);
        if (!slots)
            return NULL;
        for (uint64_t i = 0; i < slots_of(chunk); i++) {
            struct pnx_range *range = &slots[i];
            /* Acquire: pairs with ranges.live. */
            uint64_t word = pnx_load(&range->word, PNX_ACQUIRE, "ranges.find_word");
            if ((word & STATE) != LIVE)
                continue;
            /* Relaxed, all: see the top. */
            uint64_t from = pnx_load(&range->from, PNX_RELAXED, "ranges.find_from");
            uint64_t to = pnx_load(&range->to, PNX_RELAXED, "ranges.find_to");
            if (address < from || address >= to)
                continue;
            void *owner = pnx_load(&range->owner, PNX_RELAXED, "ranges.find_owner");
            pnx_fence(PNX_ACQUIRE, "ranges.find_fence"); /* pairs with fill(), pnx__range_add() */
            if (pnx_load(&range->word, PNX_RELAXED, "ranges.find_again") == word)
                return owner;
        }
    }
    return NULL;
}

uint64_t pnx__ranges(void) {
    return pnx_load(&count, PNX_RELAXED, "ranges.count");
}
