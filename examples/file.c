/* SPDX-License-Identifier: Apache-2.0 */
/*
 * file.c - FILE * with guards: a file that is replaced whole or stays as it was, and a log that shutdown closes.
 *
 * Closing a FILE can fail, since the last bytes are written then.  So on the way of success the guard is run for its
 * status; on the ways of failure it is dropped, and there is an error to report already.
 */
#include <patinox/patinox.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int close_file(void *arg, const struct pnx_cancel *cancel) {
    (void)cancel;
    return fclose(arg) == 0 ? 0 : -errno;
}

static int delete_file(void *path, const struct pnx_cancel *cancel) {
    (void)cancel;
    return unlink(path) == 0 ? 0 : -errno;
}

/* Writes text to a new file, which takes the place of path when everything is on the disk. */
static int replace_file(const char *path, const char *text) {
    char fresh[64];
    snprintf(fresh, sizeof(fresh), "%s.new", path);
    PNX_AUTO_SCOPE undo = {0}; /* declared first, so ended last: after the file was closed */
    PNX_AUTO_GUARD guard = {0};
    FILE *file = fopen(fresh, "wx");
    if (!file)
        return pnx_scope_fail(&undo, -errno);
    int rc = pnx_guard_arm(&guard, close_file, file);
    if (rc == 0)
        rc = pnx_scope_push(&undo, PNX_SCOPE_ON_ERROR, delete_file, fresh);
    if (rc)
        return pnx_scope_fail(&undo, rc);
    if (fputs(text, file) < 0 || fflush(file) || fsync(fileno(file)))
        return pnx_scope_fail(&undo, -errno); /* closes, deletes, and path is as it was */
    rc = pnx_guard_run(&guard);
    if (rc == 0 && rename(fresh, path))
        rc = -errno;
    return rc ? pnx_scope_fail(&undo, rc) : 0;
}

/* What could not be written shows when the file is closed. */
static int fill_the_disk(void) {
    PNX_AUTO_GUARD guard = {0};
    FILE *file = fopen("/dev/full", "w");
    if (!file)
        return -ENOSPC; /* a system without this device */
    int rc = pnx_guard_arm(&guard, close_file, file);
    if (rc == 0 && fputs("these bytes stay in the buffer for now\n", file) < 0)
        rc = -errno;
    return rc ? rc : pnx_guard_run(&guard);
}

/* A log for the life of the process: whoever comes first closes it, its guard or the shutdown. */
static int open_log(const char *path, struct pnx_guard *ret_guard) {
    PNX_AUTO_GUARD guard = {0};
    FILE *file = fopen(path, "a");
    if (!file)
        return -errno;
    int rc = pnx_guard_arm(&guard, close_file, file);
    if (rc == 0)
        rc = pnx_guard_track(&guard, NULL, PNX_RESOURCE(.type = "log", .name = path), NULL);
    if (rc)
        return rc;
    *ret_guard = pnx_guard_move(&guard);
    return 0;
}

int main(void) {
    char path[] = "/tmp/pnx-file-XXXXXX", text[16] = "";
    int fd = mkstemp(path);
    if (fd < 0)
        return 1;
    PNX_AUTO_GUARD deleted = {0};
    if (pnx_guard_arm(&deleted, delete_file, path) || close(fd))
        return 1;

    int rc = replace_file(path, "first\n");
    printf("replaced: %s\n", pnx_strerror(rc));
    if (rc)
        return 1;
    printf("on a full disk: %s\n", pnx_strerror(rc = fill_the_disk()));
    if (rc != -ENOSPC)
        return 1;

    PNX_AUTO_GUARD log = {0};
    if (open_log(path, &log) || fputs("logged\n", pnx_guard_resource(&log)) < 0)
        return 1;
    if (pnx_shutdown(PNX_SEC, NULL)) /* closes it, and so writes its last line */
        return 1;
    printf("after the shutdown: %s\n", pnx_strerror(pnx_guard_run(&log)));

    FILE *file = fopen(path, "r");
    if (!file)
        return 1;
    size_t n = fread(text, 1, sizeof(text) - 1, file);
    fclose(file);
    return n == 13 && strcmp(text, "first\nlogged\n") == 0 ? 0 : 1;
}
