/* SPDX-License-Identifier: Apache-2.0 */
/*
 * manifest.h - what a generation of the index says about itself: the last file to be written.
 *
 *   P1  A manifest that was cut, changed, or made for another format does not parse.
 */
#ifndef LOOKUP_MANIFEST_H
#define LOOKUP_MANIFEST_H

#include "disk.h"

/* The rows, in the order in which they stand in the file: X(field, "name"). */
#define LOOKUP_MANIFEST_NUMBERS(X) \
    X(files, "files in the corpus") \
    X(documents, "documents in the index") \
    X(binary, "files without text") \
    X(unreadable, "files and directories that could not be read") \
    X(empty, "empty files") \
    X(truncated, "documents that were cut") \
    X(text_bytes, "size of texts") \
    X(index_bytes, "size of index.db") \
    X(build_ms, "milliseconds that building took")

struct lookup_manifest {
    struct lookup_hash list;  /* of the corpus: paths, sizes, times */
    struct lookup_hash texts; /* of the file "texts" */
    struct lookup_hash index; /* of the file "index.db" */
#define LOOKUP_MANIFEST_FIELD_(field, help) uint64_t field;
    LOOKUP_MANIFEST_NUMBERS(LOOKUP_MANIFEST_FIELD_)
#undef LOOKUP_MANIFEST_FIELD_
};

/* Writes DIR/manifest and syncs it.  -ENOSPC, -EIO, -ENOMEM ... */
PNX_NODISCARD int lookup_manifest_write(
        const char *dir, const struct lookup_manifest *manifest, struct pnx_error *err);

/* Reads DIR/manifest.  -ENOENT, PNX_E_FORMAT (err says what is wrong with it), -EIO, ... */
PNX_NODISCARD int lookup_manifest_read(
        const char *dir, struct pnx_error *err, struct lookup_manifest *ret_manifest);

#endif
