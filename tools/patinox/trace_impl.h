/* SPDX-License-Identifier: Apache-2.0 */
/* trace_impl.h - a trace as its readers see it; shared by trace.c (life, binary formats) and trace_text.c. */
#ifndef PATINOX_TRACE_IMPL_H
#define PATINOX_TRACE_IMPL_H

#include "trace.h"

#define TRACE_BUFFER 262144 /* the longest line, too */
#define CSV_COLUMNS  256    /* at most, in a line */

/* buffer[begin, end) has been read and not been used; at_end: nothing follows it. */
struct trace {
    struct input *input;
    const char *name;
    struct trace_options options;
    enum trace_format format;
    bool sized;
    bool at_end;
    uint64_t record;    /* lines, or records, that have been used */
    uint64_t range_key; /* of a line "start count": the next key, and how many */
    uint64_t range_left;
    uint32_t key_column; /* of CSV: from 0 */
    uint32_t size_column;
    uint32_t time_column;
    size_t begin;
    size_t end;
    char buffer[TRACE_BUFFER];
};

/* Reads more behind what is left, which moves to the front.  -1 with a failure. */
int trace_fill(struct trace *trace, struct failure *failure);

/* Gives the next line without its end, valid until the next call: 1, 0 at the end, -1 with a failure. */
int trace_line(struct trace *trace, char **ret_line, size_t *ret_n, struct failure *failure);

int trace_next_text(struct trace *trace, struct trace_batch *batch, struct failure *failure);

/* Finds out what a text is from its first lines; TRACE_ANY: it may be several things, or none. */
enum trace_format trace_recognise_text(const struct trace *trace);

/* Finds the columns; uses the header line when there is one. */
int trace_csv_begin(struct trace *trace, struct failure *failure);
int trace_next_csv(struct trace *trace, struct trace_batch *batch, struct failure *failure);

/* An object of no bytes takes one. */
static inline uint64_t trace_size(uint64_t size) {
    return size > 0 ? size : 1;
}

/* A key's text as a number: a number below 2^63 as it is, anything else by its hash. */
uint64_t trace_key(const char *text, size_t n);
/* A number of digits only; false when it is none, or 2^64 or more. */
bool trace_number(const char *text, size_t n, uint64_t *ret_value);

#endif
