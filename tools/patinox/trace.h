/* SPDX-License-Identifier: Apache-2.0 */
/*
 * trace.h - reading traces of cache requests, in the formats that are in use.
 *
 * Every malformed trace ends with a failure that says where: the line of a text, the record of a binary one.
 */
#ifndef PATINOX_TRACE_H
#define PATINOX_TRACE_H

#include "input.h"

enum trace_format {
    TRACE_ANY,            /* find out */
    TRACE_ORACLE_GENERAL, /* little-endian {u32 time, u64 key, u32 size, i64 next} */
    TRACE_CSV,            /* columns by name */
    TRACE_KEYS,           /* one key a line */
    TRACE_LIS,            /* "start count ..." */
    TRACE_INT32,          /* big-endian */
    TRACE_INT64,          /* big-endian */
    TRACE_SIZES,          /* "time key size" */
    TRACE_FORMATS,
};

/* Columns of a CSV trace: a name of the header line or a number from 1; empty: the usual names. */
struct trace_columns {
    char time[64];
    char key[64];
    char size[64];
};

struct trace_options {
    enum trace_format format;
    struct trace_columns columns;
    const char *skip; /* lines that are just this are passed over; NULL: none */
};

#define TRACE_BATCH 4096

/* Requests in their order. */
struct trace_batch {
    uint32_t n;
    uint64_t key[TRACE_BATCH];
    uint64_t size[TRACE_BATCH]; /* 1 where the trace has no sizes */
};

struct trace;

/* The names of formats, for options and messages; by name TRACE_FORMATS when there is none. */
const char *trace_format_name(enum trace_format format);
enum trace_format trace_format_find(const char *name);

/* Opens a trace and finds out its format; -1 with a failure.  path and options stay. */
int trace_open(const char *path, const struct trace_options *options, struct failure *failure,
        struct trace **ret_trace);
/* The same with bytes that have been opened; takes the input in any case. */
int trace_open_input(struct input *input, const char *name, const struct trace_options *options,
        struct failure *failure, struct trace **ret_trace);
/* Reads up to TRACE_BATCH requests; none: the end.  -1 with a failure. */
int trace_next(struct trace *trace, struct trace_batch *batch, struct failure *failure);
/* Whether requests have sizes. */
bool trace_sized(const struct trace *trace);
enum trace_format trace_format(const struct trace *trace);
const struct input *trace_input(const struct trace *trace);
void trace_close(struct trace **trace);

#endif
