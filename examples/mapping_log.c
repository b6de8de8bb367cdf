/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mapping_log.c - a log that grows in place: a writer appends, a reader follows, and neither ever copies.
 *
 * The first 8 bytes say how much has been written; what is behind that is room for more.
 */
#include <patinox/mapping.h>

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define RESERVE (UINT64_C(64) << 20) /* address space: as large as it may become without moving */
#define STEP    65536

static int append(struct pnx_mapping *log, const void *line, size_t n, struct pnx_error *err) {
    uint64_t end;
    PNX_AUTO_VIEW view = pnx_view_all(log); /* views of what can be resized are released */
    int rc = pnx_view_u64le(&view, 0, &end);
    if (rc)
        return rc;
    if (end + n > view.n) {
        /* In place, so the view may stay; the disk's blocks come first, so no store meets a full disk. */
        rc = pnx_mapping_resize(log, view.n + STEP, 0, err);
        if (rc)
            return rc;
        pnx_view_release(&view);
        view = pnx_view_all(log);
    }
    void *to = pnx_view_at_mut(&view, end, n, 1);
    if (!to)
        return -ERANGE;
    memcpy(to, line, n);
    return pnx_view_put_u64le(&view, 0, end + n); /* the last store: a reader sees whole lines */
}

static int run(const char *path) {
    struct pnx_error err = {0};
    PNX_AUTO_MAPPING log = NULL;
    PNX_AUTO_MAPPING reader = NULL;
    int rc = pnx_mapping_open(path,
            PNX_MAPPING_OPTS(.mode = PNX_MAPPING_WRITE, .length = STEP, .reserve = RESERVE,
                    .flags = PNX_MAPPING_RESIZABLE | PNX_MAPPING_EXTEND),
            &err, &log);
    if (rc == 0)
        rc = pnx_mapping_open(path,
                PNX_MAPPING_OPTS(.reserve = RESERVE, .flags = PNX_MAPPING_RESIZABLE), &err,
                &reader);
    if (rc == 0) {
        PNX_AUTO_VIEW view = pnx_view_all(log);
        rc = pnx_view_put_u64le(&view, 0, 8);
    }
    for (int i = 0; rc == 0 && i < 10000; i++) {
        char line[64];
        int n = snprintf(
                line, sizeof(line), "line %d of a log that outgrows its first length\n", i);
        rc = append(log, line, (size_t)n, &err);
    }
    if (rc == 0)
        rc = pnx_mapping_flush(log, 0, pnx_mapping_size(log), PNX_FLUSH_DURABLE);
    if (rc == 0)
        rc = pnx_mapping_resize(reader, PNX_RESIZE_TO_FILE, 0, &err);
    if (rc) {
        fprintf(stderr, "%s: %s\n", pnx_errname(rc), err.message);
        return rc;
    }
    uint64_t end;
    PNX_AUTO_VIEW view = pnx_view_all(reader);
    struct pnx_mapping_info info = {.size = sizeof(info)};
    rc = pnx_view_u64le(&view, 0, &end);
    if (rc == 0)
        rc = pnx_mapping_read_info(log, &info);
    if (rc == 0)
        printf("%" PRIu64 " bytes written, file of %zu, room for %" PRIu64 " without a move\n",
                end - 8, view.n, info.reserve);

    /* Scratch space of the same kind, without a file. */
    PNX_AUTO_MAPPING scratch = NULL;
    if (rc == 0)
        rc = pnx_mapping_open_anonymous(PNX_MAPPING_OPTS(.length = 1 << 20), &err, &scratch);
    if (rc == 0 &&
            pnx_mapping_copy_out(reader, 8, (char *)(uintptr_t)pnx_view_all(scratch).p, 6) == 0)
        printf("begins with %.6s\n", (const char *)pnx_view_all(scratch).p);
    return rc;
}

int main(void) {
    char path[] = "/tmp/patinox-log-XXXXXX";
    int fd = mkstemp(path);
    if (fd < 0)
        return 1;
    close(fd);
    int rc = run(path);
    unlink(path);
    return rc != 0;
}
