/* SPDX-License-Identifier: Apache-2.0 */
/*
 * share/config_read.h - the text of a file, whole and at rest, or the precise reason why not.
 */
#ifndef PNX_SRC_SHARE_CONFIG_READ_H
#define PNX_SRC_SHARE_CONFIG_READ_H

#include "base/error.h"
#include "os/file.h"

#include <patinox/config.h>

struct pnx_text {
    char *bytes; /* n bytes and a NUL; free with pnx__config_text_free() */
    size_t n;
    size_t room;                  /* as allocated */
    struct pnx_file_info info;    /* of the file when it was read */
    char tag[PNX_CONFIG_TAG_MAX]; /* a source's */
};

/*
 * Reads a regular file of at most max bytes.  Messages begin with prefix, a short form of the path.
 * -EAGAIN when the file changed while it was read; else as open and read, -EISDIR, -EINVAL for what is no file,
 * -EFBIG, -ENOMEM.  err->phase is "open" or "read".
 */
int pnx__config_read(const struct pnx_env *env, const char *path, const char *prefix, size_t max,
        struct pnx_error *err, struct pnx_text *ret_text);

void pnx__config_text_free(const struct pnx_env *env, struct pnx_text *text);

#endif
