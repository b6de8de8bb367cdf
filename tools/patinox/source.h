/* SPDX-License-Identifier: Apache-2.0 */
/*
 * source.h - the requests of one trace as numbers of keys, as often as they are needed.
 *
 * Files are read again for each pass.  Standard input cannot be, and who knows the future has to look ahead: then
 * the first pass writes the requests into a temporary file, which has no name and goes with the process.
 */
#ifndef PATINOX_SOURCE_H
#define PATINOX_SOURCE_H

#include "keys.h"
#include "trace.h"

/* Requests in their order: numbers of keys instead of keys. */
struct source_batch {
    uint32_t n;
    uint32_t id[TRACE_BATCH];
    uint32_t distance
            [TRACE_BATCH]; /* requests until the key's next; UINT32_MAX: never, or that many */
    uint64_t size[TRACE_BATCH];
};

struct source_progress {
    void (*show)(void *ctx, const char *what, double part);
    void *ctx;
};

struct source {
    const char *path;
    const struct trace_options *options;
    struct source_progress progress;
    struct keys keys;
    struct trace_batch *read;
    struct trace *trace; /* of the pass, where it reads the file */
    int spool;           /* -1: none */
    bool scanned;
    bool sized;
    uint64_t requests;  /* known after a scan, as are the next ones */
    uint64_t footprint; /* bytes of all keys, each as large as when it was first asked for */
    uint64_t at;        /* requests of this pass */
};

int source_open(struct source *source, const char *path, const struct trace_options *options,
        struct failure *failure);
/* Reads all requests once.  spool: into a temporary file. */
int source_scan(struct source *source, bool spool, struct failure *failure);
/* Writes distances into the temporary file. */
int source_look_ahead(struct source *source, struct failure *failure);
/* Begins a pass from the first request. */
int source_begin(struct source *source, struct failure *failure);
/* Gives the next requests; none at the end.  -1 with a failure. */
int source_next(struct source *source, struct source_batch *batch, struct failure *failure);
void source_close(struct source *source);

#endif
