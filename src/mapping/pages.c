/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mapping/pages.c - what can be asked for the pages of a mapping: advice, presence, locks, and their way to the disk.
 *
 *   P1  Ranges are rounded to whole pages here, outwards, and never reach beyond what is mapped.
 *   P2  Nothing here moves or unmaps a page; everything holds off those who would.
 */
#include "mapping/mapping.h"

#include "os/extent.h"
#include "os/lost.h"

#include <assert.h>
#include <inttypes.h>

static_assert((int)PNX_ADVICE_NORMAL == (int)PNX_OS_ADVICE_NORMAL &&
                      (int)PNX_ADVICE_SEQUENTIAL == (int)PNX_OS_ADVICE_SEQUENTIAL &&
                      (int)PNX_ADVICE_RANDOM == (int)PNX_OS_ADVICE_RANDOM &&
                      (int)PNX_ADVICE_WILLNEED == (int)PNX_OS_ADVICE_WILLNEED &&
                      (int)PNX_ADVICE_DONTNEED == (int)PNX_OS_ADVICE_DONTNEED &&
                      (int)PNX_ADVICE_COLD == (int)PNX_OS_ADVICE_COLD,
        "one enum for both");

/* The pages that hold n > 0 bytes at offset. */
static unsigned char *pages_of(
        const struct pnx_mapping_bytes *bytes, uint64_t offset, size_t n, size_t *ret_n) {
    size_t from = (size_t)(bytes->data - bytes->base) + (size_t)offset;
    size_t before = from % pnx__os_page_size();
    *ret_n = before + n;
    return bytes->base + from - before;
}

/* ---- advice ---- */

static int advise(const struct pnx_mapping *mapping, const struct pnx_mapping_bytes *bytes,
        uint64_t offset, size_t n, enum pnx_mapping_advice advice) {
    bool own = mapping->anonymous || mapping->mode == PNX_MAPPING_PRIVATE;
    if (bytes->backing != PNX_BACKING_MMAP || n == 0)
        return 1;
    if (own && advice == PNX_ADVICE_DONTNEED)
        return 1; /* the system would throw away what was stored */
    size_t length;
    unsigned char *at = pages_of(bytes, offset, n, &length);
    return pnx__os_advise(at, length, (enum pnx_os_advice)advice) ? 1 : 0;
}

int pnx_mapping_advise(
        struct pnx_mapping *mapping, uint64_t offset, size_t n, enum pnx_mapping_advice advice) {
    struct pnx_mapping_bytes bytes;
    if (!mapping || (unsigned)advice > PNX_ADVICE_COLD)
        return -EINVAL;
    int rc = pnx__mapping_hold(mapping, offset, n, &bytes);
    if (rc)
        return rc == -ERANGE ? rc : 1; /* closed, or being changed: no error, but no use either */
    rc = advise(mapping, &bytes, offset, n, advice);
    pnx__mapping_let_go(mapping);
    return rc;
}

/* ---- presence ---- */

/* Why a touch of the range would raise SIGBUS. */
static int why_not_there(const struct pnx_mapping *mapping, uint64_t offset, size_t n, bool write) {
    struct pnx_file_info now;
    if (mapping->fd < 0)
        return -EIO; /* nobody can tell */
    int rc = pnx__os_fstat(mapping->fd, &now);
    if (rc)
        return rc;
    if (now.size < mapping->offset + offset + n)
        return -ESTALE;
    if (!write || mapping->mode != PNX_MAPPING_WRITE)
        return -EIO;
    rc = pnx__os_allocate(mapping->fd, mapping->offset + offset, n);
    return rc == 0          ? -EAGAIN
           : rc == -ENOTSUP ? -EIO
                            : rc; /* -EAGAIN: there was a hole, and is not */
}

/* Reads each page of a range through the file: brings it into the page cache, and tells what a touch would meet. */
static int read_through(const struct pnx_mapping *mapping, uint64_t offset, size_t n) {
    size_t page = pnx__os_page_size();
    if (mapping->fd < 0)
        return 1;
    for (uint64_t at = 0; at < n; at += page) {
        uint64_t where = mapping->offset + offset + (at + page > n ? n - 1 : at);
        unsigned char byte;
        int64_t got = pnx__os_pread(mapping->fd, &byte, 1, where);
        if (got != 1)
            return got < 0 ? (int)got : -ESTALE;
    }
    return 1;
}

static int populate(const struct pnx_mapping *mapping, const struct pnx_mapping_bytes *bytes,
        uint64_t offset, size_t n, bool write) {
    if (n == 0 || bytes->backing == PNX_BACKING_EMPTY)
        return 0;
    if (bytes->backing == PNX_BACKING_COPY && !bytes->paged)
        return 0; /* all of it has been written */
    size_t length;
    unsigned char *at = pages_of(bytes, offset, n, &length);
    for (int again = 0;; again++) {
        int rc = pnx__os_populate((uintptr_t)at, length, write);
        if (rc == -EINVAL || rc == -ENOSYS)
            return mapping->anonymous || bytes->paged ? 1 : read_through(mapping, offset, n);
        if (rc == -EFAULT)
            rc = why_not_there(mapping, offset, n, write);
        if (rc != -EAGAIN || again == 1)
            return rc;
    }
}

int pnx_mapping_populate(
        struct pnx_mapping *mapping, uint64_t offset, size_t n, enum pnx_populate how) {
    struct pnx_mapping_bytes bytes;
    if (!mapping || (how != PNX_POPULATE_READ && how != PNX_POPULATE_WRITE))
        return -EINVAL;
    bool write = how == PNX_POPULATE_WRITE;
    int rc = pnx__mapping_hold(mapping, offset, n, &bytes);
    if (rc)
        return rc;
    /* What is writable now stays so: content is sealed when nobody uses the bytes. */
    if (write && !pnx__mapping_writable(mapping, pnx__mapping_look(mapping).seals))
        rc = -EACCES;
    else
        rc = populate(mapping, &bytes, offset, n, write);
    pnx__mapping_let_go(mapping);
    if (rc == -ESTALE)
        pnx_fetch_add(&mapping->values.stale, 1, PNX_RELAXED, "mapping.stale_pages");
    return rc;
}

/* ---- locks ---- */

static int cannot_lock(const struct pnx_mapping_bytes *bytes, int code, struct pnx_error *err) {
    uint64_t limit = 0;
    if ((code == -ENOMEM || code == -EPERM || code == -EAGAIN) && pnx__os_lock_limit(&limit) == 0 &&
            limit != UINT64_MAX)
        return pnx__fail(err, code, code, "lock",
                "mapping: cannot lock %zu bytes in memory: %s (%d); RLIMIT_MEMLOCK is %" PRIu64
                " bytes for the whole process",
                bytes->base_size, pnx_strerror(code), -code, limit);
    return pnx__fail(err, code, code, "lock", "mapping: cannot lock %zu bytes in memory: %s (%d)",
            bytes->base_size, pnx_strerror(code), -code);
}

int pnx__lock_bytes(struct pnx_mapping *mapping, const struct pnx_mapping_bytes *bytes, size_t from,
        struct pnx_error *err) {
    if (bytes->backing == PNX_BACKING_EMPTY)
        return 0;
    if (bytes->backing == PNX_BACKING_COPY && !bytes->paged)
        return pnx__fail(err, -ENOTSUP, 0, "lock",
                "mapping: a copy on the heap cannot be locked; open it with PNX_MAPPING_LOCK");
    size_t n = bytes->base_size - from;
    if (n == 0)
        return 0;
    size_t cost = bytes->charged ? 0 : n;
    int rc = pnx_budget_charge(mapping->budget, cost, 0);
    if (rc)
        return pnx__fail(
                err, rc, rc, "budget", "mapping: the budget refuses %zu locked bytes", cost);
    rc = pnx__os_lock_pages(bytes->base + from, n);
    if (rc) {
        pnx__os_unlock_pages(bytes->base + from, n); /* some of them may be */
        pnx_budget_uncharge(mapping->budget, cost);
        if (rc == -ENOMEM && mapping->fd >= 0) {
            struct pnx_file_info now; /* pages beyond the end are -ENOMEM, too */
            if (pnx__os_fstat(mapping->fd, &now) == 0 && now.size < mapping->offset + bytes->size)
                return pnx__fail(err, -ESTALE, rc, "lock",
                        "mapping: cannot lock: the file was cut to %" PRIu64 " bytes", now.size);
        }
        return cannot_lock(bytes, rc, err);
    }
    mapping->locked += n;
    mapping->locked_charged += cost;
    return 0;
}

static void show_locked(struct pnx_mapping *mapping) {
    /* A statistic. */
    pnx_store(&mapping->values.locked, mapping->locked, PNX_RELAXED, "mapping.locked");
}

int pnx_mapping_lock(struct pnx_mapping *mapping, struct pnx_error *err) {
    if (!mapping)
        return pnx__fail_field(err, -EINVAL, "mapping", "mapping: lock of NULL");
    int rc = pnx__mapping_change(mapping);
    if (rc)
        return pnx__fail(
                err, rc, 0, "lock", "mapping: cannot lock from here: %s", pnx_strerror(rc));
    if (!mapping->locked)
        rc = pnx__lock_bytes(mapping, &mapping->bytes, 0, err);
    if (rc == 0)
        mapping->lasting = true;
    show_locked(mapping);
    pnx__mapping_changed(mapping);
    return rc;
}

void pnx_mapping_unlock(struct pnx_mapping *mapping) {
    if (!mapping || pnx__mapping_change(mapping))
        return;
    if (mapping->locked)
        pnx__os_unlock_pages(mapping->bytes.base, mapping->bytes.base_size);
    size_t charged = mapping->locked_charged;
    mapping->lasting = false;
    mapping->locked = mapping->locked_charged = 0;
    show_locked(mapping);
    pnx__mapping_changed(mapping);
    pnx_budget_uncharge(mapping->budget, charged);
}

/* ---- to the disk ---- */

static int sync_range(const struct pnx_mapping *mapping, const struct pnx_mapping_bytes *bytes,
        uint64_t offset, size_t n) {
    if (bytes->backing != PNX_BACKING_MMAP || n == 0)
        return 0;
    size_t length;
    unsigned char *at = pages_of(bytes, offset, n, &length);
    int rc = pnx__os_sync_pages(at, length);
    if (rc == -ENOMEM) { /* what msync says of pages that are not there */
        struct pnx_file_info now;
        if (mapping->fd >= 0 && pnx__os_fstat(mapping->fd, &now) == 0 &&
                now.size < mapping->offset + offset + n)
            return -ESTALE;
    }
    return rc;
}

/* The names of files are in their directories, which have to be written, too, once. */
static int sync_name(struct pnx_mapping *mapping) {
    /* Relaxed: written twice is no harm. */
    if (!mapping->directory || pnx_load(&mapping->named, PNX_RELAXED, "mapping.named"))
        return 0;
    int rc = pnx__os_fsync_dir(mapping->directory);
    if (rc == 0)
        pnx_store(&mapping->named, 1, PNX_RELAXED, "mapping.name");
    return rc;
}

static int flush(struct pnx_mapping *mapping, const struct pnx_mapping_bytes *bytes,
        uint64_t offset, size_t n, enum pnx_flush how) {
    if (how == PNX_FLUSH_START) {
        if (n == 0 || mapping->fd < 0)
            return 0;
        int rc = pnx__os_sync_start(mapping->fd, mapping->offset + offset, n);
        return rc == -ENOTSUP ? 0 : rc; /* nothing was promised */
    }
    int rc = sync_range(mapping, bytes, offset, n);
    if (rc == 0 && (how == PNX_FLUSH_DURABLE || (!pnx__os_sync_waits() && mapping->fd >= 0)))
        rc = pnx__os_fdatasync(mapping->fd);
    if (rc == 0 && how == PNX_FLUSH_DURABLE)
        rc = sync_name(mapping);
    return rc;
}

int pnx_mapping_flush(struct pnx_mapping *mapping, uint64_t offset, size_t n, enum pnx_flush how) {
    struct pnx_mapping_bytes bytes;
    if (!mapping || how < PNX_FLUSH_START || how > PNX_FLUSH_DURABLE)
        return -EINVAL;
    if (mapping->mode != PNX_MAPPING_WRITE || (how == PNX_FLUSH_DURABLE && mapping->fd < 0))
        return -ENOTSUP;
    int rc = pnx__mapping_hold(mapping, offset, n, &bytes);
    if (rc)
        return rc;
    rc = flush(mapping, &bytes, offset, n, how);
    pnx__mapping_let_go(mapping);
    pnx_fetch_add(&mapping->values.flushes, 1, PNX_RELAXED, "mapping.flushes"); /* statistics */
    if (rc)
        pnx_fetch_add(&mapping->values.flush_errors, 1, PNX_RELAXED, "mapping.flush_errors");
    return rc;
}
