/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pipeline.h - extracts the files of a corpus on a thread of its own, a little ahead of whoever indexes them.
 *
 *   P1  Results come in the order of the list, each exactly once.
 *   P2  Never more than PIPELINE_SLOTS results, and hardly more than PIPELINE_BYTES of text, lie waiting.
 */
#ifndef LOOKUP_PIPELINE_H
#define LOOKUP_PIPELINE_H

#include "corpus.h"
#include "extract.h"

#define PIPELINE_SLOTS 64u
#define PIPELINE_BYTES ((size_t)32 * 1024 * 1024)

struct lookup_pipeline;

/* Starts extracting.  -ENOMEM, -EAGAIN.  corpus must outlive the pipeline. */
PNX_NODISCARD int lookup_pipeline_start(const struct lookup_corpus *corpus, size_t max_file_bytes,
        struct lookup_pipeline **ret_pipeline);

/* Waits for the next result, which becomes the caller's.  Returns 1, 0 after the last, or -ENOMEM. */
PNX_NODISCARD int lookup_pipeline_next(
        struct lookup_pipeline *pipeline, struct lookup_extract *ret_extract);

/* Ends it, wherever it is.  NULL-safe; clears. */
void lookup_pipeline_stop(struct lookup_pipeline **pipeline);

#endif
