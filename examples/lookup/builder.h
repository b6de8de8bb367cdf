/* SPDX-License-Identifier: Apache-2.0 */
/*
 * builder.h - makes the files of a generation from a corpus.
 *
 *   texts      8 bytes "PNXTEXT1", then all texts, one after the other, each followed by a newline
 *   index.db   table docs (id, offset, size, path, title): where in texts; and search, a contentless FTS5 index
 *              of title, path and body with the same ids
 *   manifest   sizes and checksums of both, written last
 */
#ifndef LOOKUP_BUILDER_H
#define LOOKUP_BUILDER_H

#include "corpus.h"
#include "manifest.h"
#include "store.h"

#define LOOKUP_PROGRESS_NS (50 * PNX_MS)
#define LOOKUP_TEXTS_MAGIC "PNXTEXT1"

struct lookup_build {
    const struct lookup_corpus *corpus;
    const char *dir; /* made here; must not exist */
    uint64_t max_file_bytes;
    uint64_t max_total_bytes;
    lookup_progress_fn *progress; /* may be NULL */
    void *progress_ctx;
    const struct pnx_env *env; /* for now and log; members may be NULL */
};

/*
 * Builds and syncs the files in build->dir.  Takes one further thread while it runs.  On failure the directory
 * may be left half filled: remove it.
 * -ENODATA (no text in the whole corpus), -ENOSPC, -EFBIG, -ECANCELED, -EIO, -ENOMEM, -EAGAIN (no thread).
 */
PNX_NODISCARD int lookup_build(const struct lookup_build *build, struct pnx_error *err,
        struct lookup_manifest *ret_manifest);

/* Writes one line through the environment's log, if it has one. */
void lookup_log(const struct pnx_env *env, enum pnx_log_level level, const char *format, ...)
        PNX_PRINTF(3, 4);

/* The environment's exact clock. */
pnx_ns lookup_now(const struct pnx_env *env);

#endif
