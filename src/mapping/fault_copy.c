/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mapping/fault_copy.c - copies that end with an error where a load would fault, and asking for pages.
 *
 * A copy is a scope whose faults are skipped instead of repeated: nothing is replaced, and so nothing poisoned.
 *
 *   P1  A copy that returns 0 has met no page that was replaced by zeros, by whatever thread: it ends like a scope.
 */
#include "base/atomic.h"
#include "mapping/fault.h"
#include "mapping/mapping.h"
#include "os/lost.h"

#include <errno.h>
#include <string.h>

/* One copy, out of a mapping or into it. */
struct copy {
    struct pnx_mapping *mapping;
    uint64_t offset;
    unsigned char *dst;       /* out of the mapping: where to */
    const unsigned char *src; /* into it: where from */
    size_t n;
    bool word; /* one access */
};

static int check_range(const struct copy *copy) {
    const struct pnx_fault_head *head = &copy->mapping->fault.head;
    if (copy->offset > head->size || copy->n > head->size - (size_t)copy->offset)
        return -ERANGE;
    if (copy->src && !(copy->mapping->fault.pages.flags & PNX_FAULT_WRITABLE))
        return -EACCES;
    return 0;
}

static bool move(const struct copy *copy, unsigned char *at) {
    void *to = copy->src ? at : copy->dst;
    const void *from = copy->src ? copy->src : at;
    return copy->word ? pnx__os_copy_word(to, from, copy->n) : pnx__os_copy(to, from, copy->n);
}

static int copy_in_scope(const struct copy *copy, struct pnx_fault_scope *scope) {
    struct pnx_fault_record *record = &copy->mapping->fault;
    int rc = check_range(copy);
    if (rc || copy->n == 0)
        return rc;
    int64_t section = scope->word;
    scope->word = PNX_FAULT_COPIES;
    PNX_FAULT_SIGNAL_BARRIER_();
    bool ok = move(copy, record->head.data + copy->offset);
    PNX_FAULT_SIGNAL_BARRIER_();
    if (!ok)
        rc = pnx__fault_reason(record, pnx__fault_noted(scope), copy->src != NULL);
    scope->word = section;
    return rc;
}

/* ---- where nobody handles faults ---- */

/* Keeps the pages where they are; -EBUSY, -ESTALE, -EIO as for a scope. */
static int enter(struct pnx_fault_record *record) {
    pnx_reclaim_enter(record->head.domain);
    /* Acquire, relaxed: as fault.begin_gate, fault.begin_poison. */
    const struct pnx_a32 *gate = pnx_load(&record->head.gate, PNX_ACQUIRE, "fault.enter_gate");
    uint64_t poison = pnx_load(&record->head.poison, PNX_RELAXED, "fault.enter_poison");
    int rc = gate == &pnx__fault_suspended ? -EBUSY : pnx__fault_code(poison);
    if (rc)
        pnx_reclaim_exit(record->head.domain);
    return rc;
}

static int system_failed(struct pnx_fault_record *record, int rc, uintptr_t address, bool writes) {
    return rc == -EFAULT ? pnx__fault_reason(record, address, writes) : rc;
}

/*
 * A shared mapping is read as a file, so that no leave to look into processes is needed; private pages are in no file, and
 * a write to a file that was cut would make it grow.
 */
static int copy_by_system(const struct copy *copy) {
    struct pnx_fault_record *record = &copy->mapping->fault;
    int rc = check_range(copy);
    if (rc || copy->n == 0)
        return rc;
    unsigned char *at = record->head.data + copy->offset;
    if (copy->src) {
        rc = pnx__os_copy_by_system(at, copy->src, copy->n, true);
        return system_failed(record, rc, (uintptr_t)at + copy->n - 1, true);
    }
    if ((record->pages.flags & PNX_FAULT_WRITABLE) || record->pages.fd < 0) {
        rc = pnx__os_copy_by_system(copy->dst, at, copy->n, false);
        return system_failed(record, rc, (uintptr_t)at + copy->n - 1, false);
    }
    uint64_t in_file = record->pages.file_offset + ((uintptr_t)at - record->head.from);
    int64_t got = pnx__os_pread_full(record->pages.fd, copy->dst, copy->n, in_file);
    if (got < 0)
        return got == -ESTALE ? -ESTALE : -EIO;
    return (size_t)got == copy->n ? 0 : -ESTALE;
}

static int run(const struct copy *copy) {
    struct pnx_fault_scope scope;
    if (!copy->mapping || (copy->n && !copy->dst && !copy->src))
        return -EINVAL;
    if (pnx_load(&copy->mapping->closed, PNX_RELAXED, "mapping.closed_copy")) /* a wish */
        return -ESHUTDOWN;
    int rc = pnx_fault_begin(copy->mapping, &scope);
    if (rc == 0) {
        rc = copy_in_scope(copy, &scope);
        int poisoned = pnx_fault_end(&scope);
        return poisoned ? poisoned : rc;
    }
    if (rc != -ENOTSUP)
        return rc;
    rc = enter(&copy->mapping->fault);
    if (rc)
        return rc;
    rc = copy_by_system(copy);
    pnx_reclaim_exit(copy->mapping->fault.head.domain);
    return rc;
}

int pnx_fault_copy_out(struct pnx_mapping *mapping, uint64_t offset, void *dst, size_t n) {
    return run(&(const struct copy){.mapping = mapping, .offset = offset, .dst = dst, .n = n});
}

int pnx_fault_copy_in(struct pnx_mapping *mapping, uint64_t offset, const void *src, size_t n) {
    return run(&(const struct copy){.mapping = mapping, .offset = offset, .src = src, .n = n});
}

#define WORDS(bits) \
    int pnx_fault_load_u##bits( \
            struct pnx_mapping *mapping, uint64_t offset, uint##bits##_t *ret_value) { \
        uint##bits##_t value = 0; \
        if (!ret_value) \
            return -EINVAL; \
        int rc = run(&(const struct copy){.mapping = mapping, \
                .offset = offset, \
                .dst = (unsigned char *)&value, \
                .n = sizeof(value), \
                .word = true}); \
        if (rc == 0) \
            *ret_value = value; \
        return rc; \
    } \
    int pnx_fault_store_u##bits( \
            struct pnx_mapping *mapping, uint64_t offset, uint##bits##_t value) { \
        return run(&(const struct copy){.mapping = mapping, \
                .offset = offset, \
                .src = (const unsigned char *)&value, \
                .n = sizeof(value), \
                .word = true}); \
    }
WORDS(8)
WORDS(16)
WORDS(32)
WORDS(64)

/* ---- asking ---- */

/* One byte of each page, by reading the file. */
static int probe_by_reading(const struct pnx_fault_record *record, uintptr_t from, uintptr_t to) {
    for (uintptr_t at = from; at < to; at += record->page) {
        unsigned char byte;
        uint64_t in_file = record->pages.file_offset + (at - record->head.from);
        int64_t got = pnx__os_pread(record->pages.fd, &byte, 1, in_file);
        if (got <= 0)
            return got == 0 || got == -ESTALE ? -ESTALE : -EIO;
    }
    return 0;
}

static int probe(struct pnx_fault_record *record, uint64_t offset, size_t n) {
    uintptr_t mask = (uintptr_t)record->page - 1;
    uintptr_t first = (uintptr_t)record->head.data + (uintptr_t)offset;
    uintptr_t from = first & ~mask, to = (first + n + mask) & ~mask;
    if (offset > record->head.size || n > record->head.size - (size_t)offset)
        return -ERANGE;
    if (n == 0 || !record->range)
        return 0; /* nothing, or nothing that can be lost */
    struct pnx_file_info now;
    int rc = pnx__os_populate(from, to - from, false);
    if (rc == -EINVAL && record->pages.fd < 0)
        return -ENOTSUP; /* nobody can be asked */
    if (rc == -EINVAL)
        rc = probe_by_reading(record, from, to);
    if (rc == 0 || rc == -ENOMEM)
        return rc;
    /* Which page it was is not told: the file's end, or one that cannot be read. */
    int asked = pnx__os_fstat(record->pages.fd, &now);
    bool cut = rc == -ESTALE || asked == -ESTALE ||
               (asked == 0 && record->pages.file_offset + (to - record->head.from) - record->page >=
                                      now.size);
    return cut ? -ESTALE : -EIO;
}

int pnx_fault_probe(struct pnx_mapping *mapping, uint64_t offset, size_t n) {
    if (!mapping)
        return -EINVAL;
    struct pnx_fault_record *record = &mapping->fault;
    int rc = enter(record);
    if (rc)
        return rc;
    rc = probe(record, offset, n);
    pnx_reclaim_exit(record->head.domain);
    return rc;
}

int pnx_fault_state(const struct pnx_mapping *mapping, uint64_t *ret_offset) {
    uint64_t offset = 0;
    if (!mapping)
        return -EINVAL;
    int rc = pnx__fault_poison(&mapping->fault, &offset);
    /* What stands before the data never changes, unlike where both are: see lead() in bytes.c. */
    uint64_t before = mapping->offset % pnx__os_map_grain();
    if (rc && ret_offset)
        *ret_offset = offset > before ? offset - before : 0;
    return rc;
}
