/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mapping/fault_table.h - what fault handling knows of a mapping: its record, and who may touch it when.
 *
 *     (zeroed) --register--> OPEN --suspend--> SUSPENDED --resume--> OPEN --retire--> RETIRED --last scope ended--> fn()
 *
 *     OPEN        scopes begin and end; the handler may poison, and replace pages
 *     SUSPENDED   no scope is open and none begins (-EBUSY): the pages may be moved, replaced and unmapped
 *     RETIRED     scopes that are open go on; the pages stay until fn is called, which may unmap and free everything
 *
 * The record is the first member of struct pnx_mapping.  Every mapping registers, also one that cannot fault: a scope
 * on it keeps its bytes where they are all the same.
 *
 *   P1  While a scope is open on a mapping its pages are neither unmapped nor moved, whoever lets go of it.
 *   P2  When fn is called the handler knows the pages no more, and will not touch them.
 */
#ifndef PNX_SRC_MAPPING_FAULT_TABLE_H
#define PNX_SRC_MAPPING_FAULT_TABLE_H

#include "base/atomic.h"
#include "os/file.h"
#include "os/ranges.h"

#include <patinox/error.h>
#include <patinox/fault_inl.h>
#include <patinox/reclaim.h>

/* Flags of struct pnx_fault_pages. */
enum {
    PNX_FAULT_NEVER = 1, /* no load can fault: COPY, EMPTY, anonymous memory */
    PNX_FAULT_SEALED =
            2, /* nor here: a memfd whose size is sealed, with all its pages inside that size */
    PNX_FAULT_WRITABLE = 4, /* may be stored to */
    PNX_FAULT_ALWAYS = 8,   /* faults outside of scopes are ours too: for who never asks */
    PNX_FAULT_TORN = 16,    /* with NEVER: a copy of a file that changed while it was read */
};

/* What is mapped where.  A value: copied by those who take it. */
struct pnx_fault_pages {
    unsigned char *base;  /* first byte of the first page; NULL with PNX_FAULT_NEVER */
    size_t base_size;     /* bytes mapped; rounded up to whole pages by us */
    unsigned char *data;  /* the first byte that the user sees, >= base; not NULL */
    size_t size;          /* how many he sees */
    uint64_t file_offset; /* of base in the file: page-aligned */
    int fd; /* what is mapped, open as long as the record: asked for its state after a fault; -1 with NEVER, or without descriptor */
    uint32_t flags;
    struct pnx_file_info info; /* of fd when it was mapped: what a checked scope compares with */
};

/* Owned by its mapping, and by the reclaim domain once retired. */
struct pnx_fault_record {
    struct pnx_fault_head head; /* first: what inline functions see */
    /* Fixed as long as a scope is open. */
    struct pnx_fault_pages pages;
    struct pnx_range *range; /* NULL when it can never fault */
    size_t page;             /* of the system's: bytes */
    uint64_t io_before;      /* what io_faults was when these pages were mapped */
    /* Any thread, atomically. */
    struct pnx_a64 faults; /* loads and stores that have faulted, also in copies */
    struct pnx_a64
            io_faults; /* ... of them, in scopes because a page could not be read or written */
    /* Once retired. */
    struct pnx_reclaim_node node;
    void (*fn)(struct pnx_fault_record *record);
};

/*
 * Makes a mapping known.  record is zeroed memory, and is not to be seen by another thread before this returns.
 * -ENOMEM; -EBUSY when there are too many reclaim domains for one more.  On failure nothing has happened.
 */
int pnx__fault_register(struct pnx_fault_record *record, const struct pnx_fault_pages *pages);

/*
 * Lets no scope begin any more (-EBUSY) and waits until those that are open have ended, of all mappings.  0: pages are
 * the caller's until it resumes.  -EDEADLK inside a section, or a scope, of whatever mapping; -ETIMEDOUT; PNX_E_BROKEN,
 * -ENOMEM: then all is as it was.  One thread at a time for one record.
 */
int pnx__fault_suspend(struct pnx_fault_record *record, pnx_ns timeout);

/*
 * Ends a suspension: with new pages, which are free of poison, or with NULL as it was before.  -ENOMEM, only when a mapping
 * that could never fault now can: then it is still suspended.
 */
int pnx__fault_resume(struct pnx_fault_record *record, const struct pnx_fault_pages *pages);

/*
 * Ends a mapping whose last reference has gone: calls fn(record) when no scope is open on it, on this thread and before
 * it returns where that is so already and the thread is in no section, else from a later register, retire or
 * pnx_fault_tick(), on whatever thread.  Waits for nobody.  fn is called exactly once, under no lock.
 */
void pnx__fault_retire(
        struct pnx_fault_record *record, void (*fn)(struct pnx_fault_record *record));

/*
 * Returns 0, or the error that scopes on the mapping end with; *ret_offset: the first page lost, counted from head.from.  Any
 * thread, at any time: looks at nothing that suspend() hands out.
 */
int pnx__fault_poison(const struct pnx_fault_record *record, uint64_t *ret_offset);

#endif
