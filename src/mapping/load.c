/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mapping/load.c - how a mapping comes by its bytes: mapped, read, or none.
 *
 *   P1  No byte beyond the end that the file had is ever part of a mapping; lengths and offsets never wrap.
 *   P2  Short and interrupted reads make no difference.
 *   P3  A file that grows without end meets copy_max.
 *   P4  A copy that stands for a snapshot was read while nobody was seen to write.
 */
#include "mapping/mapping.h"

#include <inttypes.h>

#define STREAM_START \
    4096 /* first buffer for what has no known size: a page holds most files of /proc */
#define SNAPSHOT_TRIES 8 /* a file that is written to without a pause is not going to hold still */

static int read_failed(struct pnx_error *err, int code) {
    return pnx__fail(
            err, code, code, "read", "mapping: cannot read: %s (%d)", pnx_strerror(code), -code);
}

static int too_large_to_copy(
        const struct pnx_mapping *mapping, struct pnx_error *err, int cause, uint64_t bytes) {
    if (cause)
        return pnx__fail(err, -EFBIG, cause, "map",
                "mapping: the system refuses to map (%s), and %" PRIu64
                " bytes are more than mapping.copy_max, %zu",
                pnx_strerror(cause), bytes, mapping->copy_max);
    return pnx__fail(err, -EFBIG, 0, "read",
            "mapping: %" PRIu64 " bytes or more must be copied; mapping.copy_max is %zu", bytes,
            mapping->copy_max);
}

/* The room holds size bytes, or there are none after all. */
static void complete(struct pnx_mapping *mapping, struct pnx_mapping_bytes *bytes, size_t size) {
    if (size)
        pnx__bytes_copied(mapping, bytes, size);
    else
        pnx__bytes_drop(mapping, bytes);
}

/* Reads n bytes, which the file had when it was looked at; fewer if it has been cut since. */
static int copy_range(struct pnx_mapping *mapping, size_t n, bool whole,
        struct pnx_mapping_bytes *bytes, struct pnx_error *err) {
    int rc = pnx__bytes_room(mapping, bytes, n, 0, err);
    if (rc)
        return rc;
    int64_t got =
            pnx__os_pread_full(mapping->fd, pnx__bytes_copy_at(mapping, bytes), n, mapping->offset);
    if (got < 0)
        return read_failed(err, (int)got);
    if ((size_t)got < n && whole)
        return pnx__fail_field(err, -ERANGE, "length",
                "mapping.length is %zu, but only %" PRId64 " bytes could be read", n, got);
    complete(mapping, bytes, (size_t)got);
    return 0;
}

static int64_t read_some(
        const struct pnx_mapping *mapping, unsigned char *to, size_t done, size_t n) {
    if (mapping->info.kind == PNX_FILE_PIPE)
        return pnx__os_read(mapping->fd, to, n);
    int64_t rc = pnx__os_pread(mapping->fd, to, n, mapping->offset + done);
    if (rc == -ESPIPE && mapping->offset == 0) /* some kernel files can only be read on */
        rc = pnx__os_read(mapping->fd, to, n);
    return rc;
}

/* Reads into growing room until the end, or until most bytes are there. */
static int read_to_end(struct pnx_mapping *mapping, struct pnx_mapping_bytes *bytes, size_t most,
        struct pnx_error *err, size_t *ret_done) {
    size_t capacity = most < STREAM_START ? most : STREAM_START, done = 0;
    int rc = pnx__bytes_room(mapping, bytes, capacity, 0, err);
    while (rc == 0 && done < most) {
        if (done == capacity) {
            capacity = capacity > most / 2 ? most : capacity * 2;
            rc = pnx__bytes_room(mapping, bytes, capacity, done, err);
            if (rc)
                break;
        }
        int64_t got = read_some(
                mapping, pnx__bytes_copy_at(mapping, bytes) + done, done, capacity - done);
        if (got < 0)
            return read_failed(err, (int)got);
        if (got == 0)
            break;
        done += (size_t)got;
    }
    *ret_done = done;
    return rc;
}

/* Copies what has no size that could be trusted: pipes, and files of /proc.  length 0: to the end. */
static int copy_stream(struct pnx_mapping *mapping, uint64_t length,
        struct pnx_mapping_bytes *bytes, struct pnx_error *err) {
    if (mapping->info.kind == PNX_FILE_PIPE && mapping->offset)
        return pnx__fail_field(
                err, -EINVAL, "offset", "mapping.offset: a pipe can be read from its start only");
    if (length > mapping->copy_max)
        return too_large_to_copy(mapping, err, 0, length);
    size_t most = length ? (size_t)length : mapping->copy_max + 1; /* one byte too many */
    size_t done = 0;
    int rc = read_to_end(mapping, bytes, most, err, &done);
    if (rc)
        return rc;
    if (done > mapping->copy_max)
        return too_large_to_copy(mapping, err, 0, done);
    if (done == 0 && mapping->offset)
        return pnx__fail_field(err, -ERANGE, "offset",
                "mapping.offset is %" PRIu64 ", which is beyond the end", mapping->offset);
    if (done < length)
        return pnx__fail_field(err, -ERANGE, "length",
                "mapping.length is %" PRIu64 ", but there are only %zu bytes", length, done);
    /* Half a buffer of slack or more is given back; if memory is short, it stays. */
    if (done > 0 && done <= bytes->base_size / 2)
        (void)pnx__bytes_room(mapping, bytes, done, done, NULL);
    complete(mapping, bytes, done);
    return 0;
}

/* Finds the length of the range, in a file of a known size. */
static int find_range(const struct pnx_mapping *mapping, uint64_t length, bool to_end,
        struct pnx_error *err, size_t *ret_n) {
    uint64_t file = mapping->info.size;
    if (mapping->offset > file)
        return pnx__fail_field(err, -ERANGE, "offset",
                "mapping.offset is %" PRIu64 ", beyond the end of the file at %" PRIu64,
                mapping->offset, file);
    uint64_t there = file - mapping->offset;
    if (!to_end && length > there)
        return pnx__fail_field(err, -ERANGE, "length",
                "mapping.length is %" PRIu64 ", but from offset %" PRIu64
                " the file has only %" PRIu64 " bytes",
                length, mapping->offset, there);
    uint64_t n = to_end ? there : length;
    if (n > PTRDIFF_MAX)
        return pnx__fail(err, -EFBIG, 0, "map",
                "mapping: %" PRIu64 " bytes do not fit the address space", n);
    *ret_n = (size_t)n;
    return 0;
}

/* Reads a range again and again until nobody wrote to the file meanwhile. */
static int copy_still(struct pnx_mapping *mapping, size_t n, struct pnx_mapping_bytes *bytes,
        struct pnx_error *err) {
    for (unsigned i = 0; i < SNAPSHOT_TRIES; i++) {
        struct pnx_file_info now;
        int rc = copy_range(mapping, n, false, bytes, err);
        if (rc)
            return rc;
        rc = pnx__os_fstat(mapping->fd, &now);
        if (rc)
            return read_failed(err, rc);
        if (bytes->size == n && pnx__file_same(&mapping->info, &now, PNX_MAPPING_READ))
            return 0;
        mapping->info = now;
        pnx__bytes_drop(mapping, bytes);
        if (now.size < mapping->offset || now.size - mapping->offset < n)
            return pnx__fail(err, -ESTALE, 0, "snapshot",
                    "mapping: the file was cut to %" PRIu64 " bytes while it was copied", now.size);
    }
    return pnx__fail(err, -EAGAIN, 0, "snapshot",
            "mapping: the file was written to during each of %d tries to copy it", SNAPSHOT_TRIES);
}

static int copy(struct pnx_mapping *mapping, size_t n, bool whole, struct pnx_mapping_bytes *bytes,
        struct pnx_error *err) {
    return mapping->snapshot ? copy_still(mapping, n, bytes, err)
                             : copy_range(mapping, n, whole, bytes, err);
}

/* Chooses between mapping and reading n bytes. */
static int choose(struct pnx_mapping *mapping, size_t n, bool whole,
        struct pnx_mapping_bytes *bytes, int *ret_refused, struct pnx_error *err) {
    bool may_copy = mapping->mode != PNX_MAPPING_WRITE && !mapping->anonymous &&
                    !(mapping->flags & PNX_MAPPING_NO_COPY);
    bool fits = n <= mapping->copy_max, small = fits && n <= mapping->small_max;
    /* What was stored in a private copy can be carried over to a copy only: pages of the file may fault. */
    bool stored =
            mapping->mode == PNX_MAPPING_PRIVATE && mapping->bytes.backing == PNX_BACKING_COPY;
    if ((mapping->flags & PNX_MAPPING_COPY) || mapping->snapshot || stored)
        return fits ? copy(mapping, n, whole, bytes, err) : too_large_to_copy(mapping, err, 0, n);
    if (may_copy && small)
        return copy(mapping, n, whole, bytes, err);
    int refused = 0;
    int rc = pnx__bytes_map(mapping, bytes, n, &refused, err);
    if (refused == 0)
        return rc;
    if (!may_copy)
        return pnx__map_refused(err, refused, n);
    if (!fits)
        return refused == -ENOMEM ? pnx__map_refused(err, refused, n)
                                  : too_large_to_copy(mapping, err, refused, n);
    rc = copy(mapping, n, whole, bytes, err);
    if (rc == 0)
        *ret_refused = refused;
    return rc;
}

/* Whether somebody wrote to the file, or cut it, while it was copied: the copy may be of no state that it ever had. */
static bool is_torn(const struct pnx_mapping *mapping, const struct pnx_mapping_bytes *bytes) {
    struct pnx_file_info now;
    if (bytes->backing != PNX_BACKING_COPY || mapping->info.kind != PNX_FILE_REGULAR ||
            pnx__os_fstat(mapping->fd, &now))
        return false;
    if (mapping->info.size == 0 && now.size == 0)
        return false; /* files of /proc, whose times say nothing */
    return !pnx__file_same(&mapping->info, &now, PNX_MAPPING_READ);
}

int pnx__mapping_load(struct pnx_mapping *mapping, uint64_t length, bool to_end,
        struct pnx_mapping_bytes *ret_bytes, int *ret_refused, struct pnx_error *err) {
    struct pnx_mapping_bytes bytes;
    size_t n = (size_t)length;
    int rc = 0;
    pnx__bytes_empty(&bytes);
    *ret_refused = 0;
    if (pnx__streamed(mapping, &mapping->info)) {
        rc = copy_stream(mapping, to_end ? 0 : length, &bytes, err);
    } else {
        if (!mapping->anonymous)
            rc = find_range(mapping, length, to_end, err, &n);
        if (rc == 0 && n)
            rc = choose(mapping, n, !to_end, &bytes, ret_refused, err);
    }
    if (rc) {
        pnx__bytes_drop(mapping, &bytes);
        return rc;
    }
    bytes.torn = is_torn(mapping, &bytes);
    *ret_bytes = bytes;
    return 0;
}
