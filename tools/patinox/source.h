/* SPDX-License-Identifier: Apache-2.0 */
/*
 * source.h - the requests of one trace as numbers of keys, as often as they are needed.
 *
 * Files are read again for each pass.  Standard input cannot be, and who knows the future has to look ahead: then
 * the first pass writes the requests into a temporary file, which has no name and goes with the process.
 */
#ifndef PATINOX_SOURCE_H
#define PATINOX_SOURCE_H

#include "reader.h"

struct source_progress {
    void (*show)(void *ctx, const char *what, double part);
    void *ctx;
};

struct source {
    const char *path;
    const struct trace_options *options;
    struct source_progress progress;
    struct keys keys;
    struct reader *reader;   /* of the pass, where it reads the file */
    struct batch *unspooled; /* where it reads the temporary file */
    int spool;               /* -1: none */
    bool needs_sizes;        /* a trace without sizes of objects is a failure */
    bool scanned;
    bool sized;
    uint32_t key_count; /* known after a scan, as are the next ones */
    uint64_t requests;
    uint64_t footprint; /* bytes of all keys, each as large as when it was first asked for */
    uint64_t at;        /* requests of this pass */
};

int source_open(struct source *source, const char *path, const struct trace_options *options,
        struct failure *failure);
/* The path, or "standard input". */
const char *source_name(const struct source *source);
/* Reads all requests once.  spool: into a temporary file. */
int source_scan(struct source *source, bool spool, struct failure *failure);
/* Writes distances into the temporary file. */
int source_look_ahead(struct source *source, struct failure *failure);
/* Begins a pass from the first request. */
int source_begin(struct source *source, struct failure *failure);
/* Gives the next requests, valid until the next call; none at the end.  -1 with a failure. */
int source_next(struct source *source, const struct batch **ret_batch, struct failure *failure);
void source_close(struct source *source);

#endif
