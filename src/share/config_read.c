/* SPDX-License-Identifier: Apache-2.0 */
/*
 * share/config_read.c - reading a file whose writer may be at work.
 *
 *   P1  What is returned is what the file held at one moment, as far as its size and times can tell: they were
 *       the same before and after, and its bytes were as many as its size said.
 *   P2  Nothing but a regular file is read, and opening never blocks on a FIFO.
 */
#include "share/config_read.h"

#include "base/env.h"

#include <errno.h>

#define SIZELESS ((size_t)1 << 16) /* room for files that do not tell their size, as in /proc */

static bool same_file_state(const struct pnx_file_info *a, const struct pnx_file_info *b) {
    return a->size == b->size && a->mtime_ns == b->mtime_ns && a->ctime_ns == b->ctime_ns;
}

static int check_kind(
        const struct pnx_file_info *info, size_t max, const char *prefix, struct pnx_error *err) {
    if (info->kind == PNX_FILE_DIRECTORY)
        return pnx__fail(err, -EISDIR, -EISDIR, "open", "%s: is a directory", prefix);
    if (info->kind != PNX_FILE_REGULAR)
        return pnx__fail(err, -EINVAL, 0, "open", "%s: is not a regular file", prefix);
    if (info->size > max)
        return pnx__fail(err, -EFBIG, 0, "read", "%s: has %llu bytes; at most %zu are read", prefix,
                (unsigned long long)info->size, max);
    return 0;
}

/* Reads one byte more than there should be, so that growth is seen. */
static int read_open_file(const struct pnx_env *env, int fd, const char *prefix, size_t max,
        struct pnx_error *err, struct pnx_text *text) {
    struct pnx_file_info after;
    int rc = pnx__os_fstat(fd, &text->info);
    if (rc)
        return pnx__fail(err, rc, rc, "open", "%s: %s", prefix, pnx_strerror(rc));
    rc = check_kind(&text->info, max, prefix, err);
    if (rc)
        return rc;
    size_t size = (size_t)text->info.size;
    size_t want = size ? size : (max < SIZELESS ? max : SIZELESS);
    text->room = want + 1;
    text->bytes = pnx__alloc(env, text->room, 1);
    if (!text->bytes)
        return pnx__fail(err, -ENOMEM, 0, "read", "%s: no memory for %zu bytes", prefix, want);
    int64_t got = pnx__os_read_full(fd, text->bytes, text->room);
    rc = got < 0 ? (int)got : pnx__os_fstat(fd, &after);
    if (rc)
        return pnx__fail(err, rc, rc, "read", "%s: %s", prefix, pnx_strerror(rc));
    text->n = (size_t)got;
    if (!same_file_state(&text->info, &after) || (size && text->n != size))
        return pnx__fail(err, -EAGAIN, 0, "read", "%s: changed while it was read", prefix);
    if (text->n > want)
        return pnx__fail(err, -EFBIG, 0, "read", "%s: has more than %zu bytes", prefix, want);
    text->bytes[text->n] = '\0';
    return 0;
}

int pnx__config_read(const struct pnx_env *env, const char *path, const char *prefix, size_t max,
        struct pnx_error *err, struct pnx_text *ret_text) {
    struct pnx_text text = {0};
    int fd = pnx__os_open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY, 0);
    if (fd < 0)
        return pnx__fail(err, fd, fd, "open", "%s: %s", prefix, pnx_strerror(fd));
    int rc = read_open_file(env, fd, prefix, max, err, &text);
    (void)pnx__os_close(&fd);
    if (rc)
        pnx__config_text_free(env, &text);
    else
        *ret_text = text;
    return rc;
}

void pnx__config_text_free(const struct pnx_env *env, struct pnx_text *text) {
    pnx__free(env, text->bytes, text->room, 1);
    text->bytes = NULL;
}
