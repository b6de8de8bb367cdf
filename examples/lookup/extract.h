/* SPDX-License-Identifier: Apache-2.0 */
/*
 * extract.h - a file into text: decompressed, recognised as text or not, made UTF-8, given a title.
 */
#ifndef LOOKUP_EXTRACT_H
#define LOOKUP_EXTRACT_H

#include "text.h"

#include <patinox/base.h>

#define LOOKUP_TITLE_MAX 160u /* bytes of a title */

enum lookup_kind {
    LOOKUP_TEXT = 1,
    LOOKUP_EMPTY,      /* no byte, or only blanks */
    LOOKUP_BINARY,     /* has NUL bytes, or is otherwise no text */
    LOOKUP_UNREADABLE, /* reading failed, or a compressed file is damaged */
};

/* What was made of one file.  Owned by whoever called extract; release it. */
struct lookup_extract {
    enum lookup_kind kind;
    bool truncated;            /* the text went on after max_bytes */
    struct lookup_buffer text; /* UTF-8 without NUL; empty unless kind is LOOKUP_TEXT */
    char title[LOOKUP_TITLE_MAX + 4];
    char reason[96]; /* why it is LOOKUP_UNREADABLE */
};

/*
 * Reads fd from its start, at most max_bytes of (decompressed) text.  name is the file's, for a title when the
 * text offers none.  Files compressed by gzip, bzip2, xz, lzma, zstd, lz4, lzip or compress are recognised by
 * their first bytes, not by their name.  -ENOMEM.  Blocks on the disk.
 */
PNX_NODISCARD int lookup_extract(
        int fd, const char *name, size_t max_bytes, struct lookup_extract *ret_extract);

void lookup_extract_release(struct lookup_extract *extract);

#endif
