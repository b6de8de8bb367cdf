/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mapping/extent.c - making a file longer, with room on the disk, and blocks for its holes.
 *
 *   P1  A file that could not be made longer is as long as it was.
 *   P2  What was made longer without SPARSE has blocks: by the file system's own means, or by writing zeros.
 */
#include "mapping/mapping.h"

#include "os/extent.h"

#include <inttypes.h>

#define ZEROS ((size_t)16 * 1024)

static int cannot(
        struct pnx_error *err, int code, const char *what, const char *name, uint64_t end) {
    return pnx__fail(err, code, code, "extend",
            "mapping: cannot %s \"%.100s\" to %" PRIu64 " bytes: %s (%d)", what, name, end,
            pnx_strerror(code), -code);
}

void pnx__extend_undo(int fd, uint64_t end, uint64_t before) {
    struct pnx_file_info now;
    /* Somebody may have made it longer still: then the bytes are his. */
    if (before < end && pnx__os_fstat(fd, &now) == 0 && now.size <= end && now.size > before)
        (void)pnx__os_ftruncate(fd, before);
}

/* For file systems that cannot allocate: zeros take room, too, and nobody has bytes there that could be lost. */
static int write_zeros(int fd, uint64_t from, uint64_t end) {
    static const char zeros[ZEROS];
    for (uint64_t at = from; at < end; at += ZEROS) {
        size_t n = end - at < ZEROS ? (size_t)(end - at) : ZEROS;
        int rc = pnx__os_pwrite_full(fd, zeros, n, at);
        if (rc)
            return rc;
    }
    return 0;
}

int pnx__extend(int fd, uint64_t end, bool sparse, const char *name, uint64_t *ret_before,
        struct pnx_error *err) {
    struct pnx_file_info info;
    int rc = pnx__os_fstat(fd, &info);
    if (rc)
        return cannot(err, rc, "examine", name, end);
    *ret_before = info.size;
    if (info.size >= end)
        return 0;
    if (sparse) {
        rc = pnx__os_ftruncate(fd, end);
    } else {
        rc = pnx__os_allocate(fd, info.size, end - info.size);
        if (rc == -ENOTSUP)
            rc = write_zeros(fd, info.size, end);
    }
    if (rc == 0)
        return 0;
    pnx__extend_undo(fd, end, info.size);
    return cannot(err, rc, "lengthen", name, end);
}

int pnx__allocate(int fd, uint64_t offset, uint64_t n, const char *name, struct pnx_error *err) {
    int rc = n ? pnx__os_allocate(fd, offset, n) : 0;
    if (rc)
        return pnx__fail(err, rc, rc, "extend",
                "mapping: cannot give \"%.100s\" blocks for %" PRIu64 " bytes from %" PRIu64
                ": %s (%d)",
                name, n, offset, pnx_strerror(rc), -rc);
    return 0;
}
