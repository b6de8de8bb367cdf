/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mapping/load.c - how a mapping comes by its bytes: mapped, read, or none.
 *
 *   P1  No byte beyond the end that the file had is ever part of a mapping; lengths and offsets never wrap.
 *   P2  Memory is charged to the budget before it is allocated, and given back if the load fails.
 *   P3  Short and interrupted reads make no difference.
 *   P4  A file that grows without end meets copy_max.
 */
#include "mapping/mapping.h"

#include <inttypes.h>
#include <string.h>

#define STREAM_START \
    4096 /* first buffer for what has no known size: a page holds most files of /proc */

static int out_of_memory(struct pnx_error *err, size_t bytes) {
    return pnx__fail(
            err, -ENOMEM, 0, "allocate", "mapping: no memory for a copy of %zu bytes", bytes);
}

/* Bytes before the data in a copy, so that data is aligned as it is in the file. */
static size_t lead(const struct pnx_mapping *mapping) {
    return (size_t)(mapping->offset % PNX_MAPPING_ALIGN);
}

/* Drops the copy's buffer, if there is one. */
static void drop_buffer(struct pnx_mapping *mapping) {
    if (!mapping->base)
        return;
    pnx__free(&mapping->env, mapping->base, mapping->base_size, 1);
    pnx_budget_uncharge(mapping->budget, mapping->base_size);
    mapping->base = NULL;
    mapping->base_size = 0;
}

/* Gives the copy a buffer for capacity bytes, keeping the first keep of them.  On failure all is as it was. */
static int set_buffer(
        struct pnx_mapping *mapping, size_t capacity, size_t keep, struct pnx_error *err) {
    size_t bytes = lead(mapping) + capacity;
    int rc = pnx_budget_charge(mapping->budget, bytes, 0);
    if (rc)
        return pnx__fail(
                err, rc, rc, "budget", "mapping: the budget refuses a copy of %zu bytes", capacity);
    /* Not pnx__alloc(), which would clear what is about to be overwritten. */
    unsigned char *base = mapping->env.alloc(mapping->env.ctx, bytes, PNX_MAPPING_ALIGN);
    if (!base) {
        pnx_budget_uncharge(mapping->budget, bytes);
        return out_of_memory(err, capacity);
    }
    if (keep)
        memcpy(base + lead(mapping), mapping->base + lead(mapping), keep);
    drop_buffer(mapping);
    mapping->base = base;
    mapping->base_size = bytes;
    return 0;
}

static void become_empty(struct pnx_mapping *mapping) {
    static const _Alignas(PNX_MAPPING_ALIGN) unsigned char nothing[PNX_MAPPING_ALIGN];
    drop_buffer(mapping);
    mapping->backing = PNX_BACKING_EMPTY;
    mapping->data = nothing;
    mapping->size = 0;
}

/* The buffer holds size bytes: the mapping is complete. */
static void become_copy(struct pnx_mapping *mapping, size_t size) {
    if (size == 0) {
        become_empty(mapping);
        return;
    }
    mapping->backing = PNX_BACKING_COPY;
    mapping->data = mapping->base + lead(mapping);
    mapping->size = size;
}

static int read_failed(struct pnx_error *err, int code) {
    return pnx__fail(
            err, code, code, "read", "mapping: cannot read: %s (%d)", pnx_strerror(code), -code);
}

static int too_large_to_copy(
        struct pnx_error *err, int cause, uint64_t bytes, const struct pnx_mapping_opts *opts) {
    if (cause)
        return pnx__fail(err, -EFBIG, cause, "map",
                "mapping: the system refuses to map (%s), and %" PRIu64
                " bytes are more than mapping.copy_max, %zu",
                pnx_strerror(cause), bytes, opts->copy_max);
    return pnx__fail(err, -EFBIG, 0, "read",
            "mapping: %" PRIu64 " bytes or more must be copied; mapping.copy_max is %zu", bytes,
            opts->copy_max);
}

/* Reads n bytes, which the file had when it was opened; fewer if it has been cut since. */
static int copy_range(struct pnx_mapping *mapping, size_t n, const struct pnx_mapping_opts *opts,
        struct pnx_error *err) {
    int rc = set_buffer(mapping, n, 0, err);
    if (rc)
        return rc;
    int64_t got =
            pnx__os_pread_full(mapping->fd, mapping->base + lead(mapping), n, mapping->offset);
    if (got < 0)
        return read_failed(err, (int)got);
    if ((size_t)got < n && opts->length)
        return pnx__fail_field(err, -ERANGE, "length",
                "mapping.length is %zu, but only %" PRId64 " bytes could be read", n, got);
    become_copy(mapping, (size_t)got);
    return 0;
}

static int64_t read_some(const struct pnx_mapping *mapping, size_t done, size_t n) {
    unsigned char *to = mapping->base + lead(mapping) + done;
    if (mapping->info.kind == PNX_FILE_PIPE)
        return pnx__os_read(mapping->fd, to, n);
    int64_t rc = pnx__os_pread(mapping->fd, to, n, mapping->offset + done);
    if (rc == -ESPIPE && mapping->offset == 0) /* some kernel files can only be read on */
        rc = pnx__os_read(mapping->fd, to, n);
    return rc;
}

/* Reads into a growing buffer until the end, or until most bytes are there. */
static int read_to_end(
        struct pnx_mapping *mapping, size_t most, struct pnx_error *err, size_t *ret_done) {
    size_t capacity = most < STREAM_START ? most : STREAM_START, done = 0;
    int rc = set_buffer(mapping, capacity, 0, err);
    while (rc == 0 && done < most) {
        if (done == capacity) {
            capacity = capacity > most / 2 ? most : capacity * 2;
            rc = set_buffer(mapping, capacity, done, err);
            if (rc)
                break;
        }
        int64_t got = read_some(mapping, done, capacity - done);
        if (got < 0)
            return read_failed(err, (int)got);
        if (got == 0)
            break;
        done += (size_t)got;
    }
    *ret_done = done;
    return rc;
}

/* Copies what has no size that could be trusted: pipes, and files of /proc. */
static int copy_stream(
        struct pnx_mapping *mapping, const struct pnx_mapping_opts *opts, struct pnx_error *err) {
    if (mapping->info.kind == PNX_FILE_PIPE && opts->offset)
        return pnx__fail_field(
                err, -EINVAL, "offset", "mapping.offset: a pipe can be read from its start only");
    if (opts->length > opts->copy_max)
        return too_large_to_copy(err, 0, opts->length, opts);
    size_t most = opts->length ? (size_t)opts->length : opts->copy_max + 1; /* one byte too many */
    size_t done = 0;
    int rc = read_to_end(mapping, most, err, &done);
    if (rc)
        return rc;
    if (done > opts->copy_max)
        return too_large_to_copy(err, 0, done, opts);
    if (done == 0 && opts->offset)
        return pnx__fail_field(err, -ERANGE, "offset",
                "mapping.offset is %" PRIu64 ", which is beyond the end", opts->offset);
    if (done < opts->length)
        return pnx__fail_field(err, -ERANGE, "length",
                "mapping.length is %" PRIu64 ", but there are only %zu bytes", opts->length, done);
    /* Half a buffer of slack or more is given back; if memory is short, it stays. */
    if (done > 0 && done <= (mapping->base_size - lead(mapping)) / 2)
        (void)set_buffer(mapping, done, done, NULL);
    become_copy(mapping, done);
    return 0;
}

static int map_range(struct pnx_mapping *mapping, size_t n) {
    size_t page = pnx__os_page_size();
    size_t before = (size_t)(mapping->offset % page);
    void *base = NULL;
    int rc = pnx__os_map_read(mapping->fd, mapping->offset - before, before + n, &base);
    if (rc)
        return rc;
    mapping->backing = PNX_BACKING_MMAP;
    mapping->base = base;
    mapping->base_size = before + n;
    mapping->data = mapping->base + before;
    mapping->size = n;
    return 0;
}

/* Finds the length of the range, in a file of a known size. */
static int find_range(const struct pnx_mapping *mapping, const struct pnx_mapping_opts *opts,
        struct pnx_error *err, size_t *ret_n) {
    uint64_t file = mapping->info.size;
    if (opts->offset > file)
        return pnx__fail_field(err, -ERANGE, "offset",
                "mapping.offset is %" PRIu64 ", beyond the end of the file at %" PRIu64,
                opts->offset, file);
    uint64_t there = file - opts->offset;
    if (opts->length > there)
        return pnx__fail_field(err, -ERANGE, "length",
                "mapping.length is %" PRIu64 ", but from offset %" PRIu64
                " the file has only %" PRIu64 " bytes",
                opts->length, opts->offset, there);
    uint64_t n = opts->length ? opts->length : there;
    if (n > PTRDIFF_MAX)
        return pnx__fail(err, -EFBIG, 0, "map",
                "mapping: %" PRIu64 " bytes do not fit the address space", n);
    *ret_n = (size_t)n;
    return 0;
}

int pnx__mapping_load(struct pnx_mapping *mapping, const struct pnx_mapping_opts *opts,
        struct pnx_error *err, int *ret_refused) {
    size_t n = 0;
    mapping->offset = opts->offset;
    *ret_refused = 0;
    /* Size 0 says nothing: files of /proc have it and are full. */
    if (mapping->info.kind == PNX_FILE_PIPE || mapping->info.size == 0)
        return copy_stream(mapping, opts, err);
    int rc = find_range(mapping, opts, err, &n);
    if (rc)
        return rc;
    if (n == 0) {
        become_empty(mapping);
        return 0;
    }
    bool fits = n <= opts->copy_max;
    if (opts->flags & PNX_MAPPING_COPY)
        return fits ? copy_range(mapping, n, opts, err) : too_large_to_copy(err, 0, n, opts);
    if (fits && n <= opts->small_max)
        return copy_range(mapping, n, opts, err);
    int refused = map_range(mapping, n);
    if (refused == 0)
        return 0;
    if (!fits)
        return too_large_to_copy(err, refused, n, opts);
    rc = copy_range(mapping, n, opts, err);
    if (rc == 0)
        *ret_refused = refused;
    return rc;
}

void pnx__mapping_unload(struct pnx_mapping *mapping) {
    if (mapping->backing != PNX_BACKING_MMAP) {
        drop_buffer(mapping);
        return;
    }
    pnx__os_unmap(mapping->base, mapping->base_size);
    mapping->base = NULL;
}
