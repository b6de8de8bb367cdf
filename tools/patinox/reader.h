/* SPDX-License-Identifier: Apache-2.0 */
/*
 * reader.h - reads a trace ahead of the one who uses its requests, on a thread of its own: decompressing, parsing and
 * numbering keys takes as long as replaying them.
 */
#ifndef PATINOX_READER_H
#define PATINOX_READER_H

#include "keys.h"
#include "trace.h"

/* Requests in their order: numbers of keys instead of keys. */
struct batch {
    uint32_t n;
    uint32_t id[TRACE_BATCH];
    uint32_t distance
            [TRACE_BATCH]; /* requests until the key's next; UINT32_MAX: never, or that many */
    uint64_t size[TRACE_BATCH];
};

struct reader;

/* Opens a trace and begins to read.  keys is the reader's until it is closed.  -1 with a failure. */
int reader_open(const char *path, const struct trace_options *options, struct keys *keys,
        struct failure *failure, struct reader **ret_reader);
/* Gives the next requests, valid until the next call; none at the end.  Waits for them.  -1 with a failure. */
int reader_next(struct reader *reader, const struct batch **ret_batch, struct failure *failure);
bool reader_sized(const struct reader *reader);
/* How much of the file had been read for the last requests given, 0 to 1. */
double reader_part(const struct reader *reader);
void reader_close(struct reader **reader);

#endif
