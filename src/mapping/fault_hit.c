/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mapping/fault_hit.c - what the signal handler does about a fault.
 *
 *   P1  Async-signal-safe: no lock, no memory, no call but fstat, madvise and mmap; the one thread-local variable is the
 *       thread's record, which a thread in a scope has.
 *   P2  Poison is published before a page is replaced; why that suffices stands in patinox/fault_inl.h.
 *   P3  What is replaced lies between head.from and head.to of the mapping that has faulted, on which the interrupted
 *       thread has a scope open: so nobody unmaps it meanwhile (fault_table.h).
 *   P4  A mapping takes part in at most PNX_FAULT_PAGES_MAX x 2 + 2 areas of the process's address space.
 */
#include "mapping/fault.h"
#include "os/lost.h"
#include "os/thread.h"

#include <assert.h>
#include <errno.h>

#define STRIPES 8u

static struct { _Alignas(64) struct pnx_fault_values values; } stripes[STRIPES];

struct pnx_fault_values *pnx__fault_counts(void) {
    const struct pnx_thread *self = PNX_SELF;
    return &stripes[self ? self->shard % STRIPES : 0].values;
}

#define COUNT(name) \
    pnx_fetch_add(&pnx__fault_counts()->name, 1, PNX_RELAXED, "fault.count_" #name) /* a number */

void pnx__fault_sum(struct pnx_fault_values *ret_sum) {
    struct pnx_a64 *sum = (struct pnx_a64 *)(void *)ret_sum;
    for (size_t n = 0; n < sizeof(*ret_sum) / sizeof(*sum); n++) {
        sum[n].v = 0; /* the caller's own */
        for (uint32_t i = 0; i < STRIPES; i++) {
            const struct pnx_a64 *values = (const struct pnx_a64 *)(const void *)&stripes[i].values;
            sum[n].v += pnx_load(&values[n], PNX_RELAXED, "fault.sum"); /* numbers */
        }
    }
}

bool pnx__fault_same(const struct pnx_fault_record *record, const struct pnx_file_info *now) {
    const struct pnx_file_info *then = &record->pages.info;
    return now->size == then->size && now->mtime_ns == then->mtime_ns &&
           now->ctime_ns == then->ctime_ns && now->inode == then->inode &&
           now->device == then->device;
}

static uintptr_t page_of(const struct pnx_fault_record *record, uintptr_t address) {
    return address & ~((uintptr_t)record->page - 1);
}

int pnx__fault_reason(const struct pnx_fault_record *record, uintptr_t address, bool writes) {
    struct pnx_file_info now;
    uintptr_t page = page_of(record, address);
    int rc = pnx__os_fstat(record->pages.fd, &now);
    if (rc)
        return rc == -ESTALE ? -ESTALE : -EIO;
    if (record->pages.file_offset + (page - record->head.from) >= now.size)
        return -ESTALE;
    if (pnx__os_populate(page, record->page, writes) == -EFAULT)
        return -EIO;
    /* The page is there again, or nobody can say: a file that was cut and has grown again, or a passing error. */
    return pnx__fault_same(record, &now) ? -EIO : -ESTALE;
}

static void publish(struct pnx_fault_record *record, int reason, uintptr_t page) {
    uint64_t unit = (uint64_t)(page - record->head.from) >> PNX_FAULT_UNIT_BITS, whole = 0;
    uint64_t poison = unit << PNX_FAULT_CODE_BITS | (uint64_t)-reason;
    /* Relaxed: the fence orders it.  The first fault of a mapping is the one that is told. */
    pnx_cas(&record->head.poison, &whole, poison, PNX_RELAXED, "fault.publish");
    pnx_fence(PNX_RELEASE, "fault.hit_fence"); /* pairs with fault.end_fence */
}

/* Replaces what was lost, and as much more as keeps the number of areas small. */
static bool replace(struct pnx_fault_record *record, int reason, uintptr_t page) {
    bool writable = (record->pages.flags & PNX_FAULT_WRITABLE) != 0;
    uintptr_t whole = record->head.to - record->head.from;
    uintptr_t from = page, n = record->page;
    if (reason == -ESTALE) {
        n = record->head.to - page;
        /* Relaxed: how many single pages, give or take those of other threads at this moment. */
    } else if (pnx_fetch_add(&record->io_faults, 1, PNX_RELAXED, "fault.io_faults") -
                       record->io_before >=
               PNX_FAULT_PAGES_MAX) {
        from = record->head.from;
        n = whole;
    }
    if (pnx__os_zero(from, n, writable) == 0)
        return true;
    /* The system may have no area left for the second half of a split: all of it needs none. */
    if (pnx__os_zero(record->head.from, whole, writable) != 0)
        return false;
    COUNT(whole);
    return true;
}

static enum pnx_os_answer poison(
        struct pnx_fault_record *record, const struct pnx_os_fault *fault) {
    int reason = pnx__fault_reason(record, fault->address, fault->writes);
    uintptr_t page = page_of(record, fault->address);
    publish(record, reason, page);
    if (!replace(record, reason, page)) {
        COUNT(helpless);
        return PNX_OS_FOREIGN;
    }
    if (reason == -ESTALE)
        COUNT(truncated);
    else
        COUNT(io_errors);
    return PNX_OS_REPEAT;
}

static bool holds(const struct pnx_fault_head *head, uintptr_t address) {
    return address >= head->from && address < head->to;
}

/* The mapping at an address on which this thread has a scope open. */
static struct pnx_fault_record *expected(const struct pnx_fault_thread *self, uintptr_t address) {
    const struct pnx_fault_scope *scope = self ? self->scopes : NULL;
    for (; scope; scope = scope->outer) {
        if (holds(scope->head, address))
            return (struct pnx_fault_record *)(void *)scope->head;
    }
    return NULL;
}

enum pnx_os_answer pnx__fault_hit(const struct pnx_os_fault *fault) {
    struct pnx_fault_thread *self = pnx__fault_self();
    struct pnx_fault_record *record = expected(self, fault->address);
    bool in_scope = record != NULL;
    if (!record)
        record = pnx__range_find(fault->address);
    if (!record) {
        COUNT(foreign);
        return PNX_OS_FOREIGN;
    }
    if (!in_scope && !(record->pages.flags & PNX_FAULT_ALWAYS)) {
        COUNT(outside);
        return PNX_OS_FOREIGN;
    }
    /* Relaxed: a number. */
    pnx_fetch_add(&record->faults, 1, PNX_RELAXED, "fault.faults");
    struct pnx_fault_scope *innermost = self ? self->scopes : NULL;
    if (fault->copies && innermost && pnx__fault_copies(innermost) &&
            innermost->head == &record->head) {
        pnx__fault_note(innermost, fault->address);
        COUNT(copies);
        return PNX_OS_SKIP;
    }
    return poison(record, fault);
}
