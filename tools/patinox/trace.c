/* SPDX-License-Identifier: Apache-2.0 */
/* trace.c - opening traces, telling formats apart, and the binary ones: see trace.h */
#include "trace_impl.h"

#include <ctype.h>
#include <endian.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define ORACLE_BYTES 24
#define LOOKED_AT    64 /* records, in order to recognise a binary format */

static const char *const names[TRACE_FORMATS] = {
        [TRACE_ANY] = "auto",
        [TRACE_ORACLE_GENERAL] = "oracleGeneral",
        [TRACE_CSV] = "csv",
        [TRACE_KEYS] = "keys",
        [TRACE_LIS] = "lis",
        [TRACE_INT32] = "int32",
        [TRACE_INT64] = "int64",
        [TRACE_SIZES] = "time-key-size",
};

const char *trace_format_name(enum trace_format format) {
    return names[format];
}

enum trace_format trace_format_find(const char *name) {
    int format = 0;
    while (format < TRACE_FORMATS && strcasecmp(names[format], name) != 0)
        format++;
    return (enum trace_format)format;
}

bool trace_sized(const struct trace *trace) {
    return trace->sized;
}

enum trace_format trace_format(const struct trace *trace) {
    return trace->format;
}

const struct input *trace_input(const struct trace *trace) {
    return trace->input;
}

/* Adds to why the input cannot be read how far it was. */
static int fail_behind(const struct trace *trace, struct failure *failure) {
    bool binary = trace->format == TRACE_ORACLE_GENERAL || trace->format == TRACE_INT32 ||
                  trace->format == TRACE_INT64;
    size_t n = strlen(failure->text);
    if (trace->record > 0)
        snprintf(failure->text + n, sizeof(failure->text) - n, ", after %s %llu",
                binary ? "record" : "line", (unsigned long long)trace->record);
    return -1;
}

int trace_fill(struct trace *trace, struct failure *failure) {
    memmove(trace->buffer, trace->buffer + trace->begin, trace->end - trace->begin);
    trace->end -= trace->begin;
    trace->begin = 0;
    size_t room = sizeof(trace->buffer) - trace->end;
    ssize_t got = input_read(trace->input, trace->buffer + trace->end, room, failure);
    if (got < 0)
        return fail_behind(trace, failure);
    trace->at_end = (size_t)got < room;
    trace->end += (size_t)got;
    return 0;
}

static uint32_t little32(const char *bytes) {
    uint32_t value;
    memcpy(&value, bytes, sizeof(value));
    return le32toh(value);
}

static uint64_t little64(const char *bytes) {
    uint64_t value;
    memcpy(&value, bytes, sizeof(value));
    return le64toh(value);
}

static uint32_t big32(const char *bytes) {
    uint32_t value;
    memcpy(&value, bytes, sizeof(value));
    return be32toh(value);
}

static uint64_t big64(const char *bytes) {
    uint64_t value;
    memcpy(&value, bytes, sizeof(value));
    return be64toh(value);
}

/* Times do not go back, sizes are those of objects, and what is asked for again is asked for later. */
static bool looks_like_oracle(const struct trace *trace) {
    size_t n = trace->end / ORACLE_BYTES;
    uint64_t time = 0;
    if (n == 0 || (trace->at_end && trace->end % ORACLE_BYTES != 0))
        return false;
    for (size_t i = 0; i < n && i < LOOKED_AT; i++) {
        const char *record = trace->buffer + i * ORACLE_BYTES;
        int64_t next = (int64_t)little64(record + 16);
        uint64_t size = little32(record + 12);
        if (little32(record) < time || size == 0 || size > INT32_MAX || next < -1 ||
                (next >= 0 && next <= (int64_t)i))
            return false;
        time = little32(record);
    }
    return true;
}

/* Small numbers have zero bytes in front, and where they do tells their width. */
static enum trace_format looks_like_int(const struct trace *trace) {
    size_t n = trace->end / 8;
    bool wide = n > 0, any = false;
    if (trace->at_end && trace->end % 4 != 0)
        return TRACE_ANY;
    for (size_t i = 0; i < n && i < LOOKED_AT; i++) {
        const char *word = trace->buffer + i * 8;
        if (word[0] != 0 || word[4] != 0)
            return TRACE_ANY;
        wide = wide && big32(word) == 0;
        any = any || big32(word + 4) != 0;
    }
    if (!any || (wide && trace->at_end && trace->end % 8 != 0))
        return TRACE_ANY;
    return wide ? TRACE_INT64 : TRACE_INT32;
}

static bool is_text(const struct trace *trace) {
    size_t n = trace->end < 4096 ? trace->end : 4096;
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)trace->buffer[i];
        if ((c < ' ' && c != '\t' && c != '\r' && c != '\n') || c == 0x7f || c > 0xf4)
            return false; /* neither ASCII nor UTF-8 */
    }
    return true;
}

/* The name without directories and endings of compression, in small letters. */
static void short_name(const char *path, char *name, size_t room) {
    static const char *const endings[] = {".gz", ".xz", ".zst", ".bz2", ".lz4", ".lz"};
    const char *slash = strrchr(path, '/');
    snprintf(name, room, "%s", slash ? slash + 1 : path);
    for (char *c = name; *c; c++)
        *c = (char)tolower((unsigned char)*c);
    for (size_t i = 0; i < sizeof(endings) / sizeof(endings[0]); i++) {
        size_t n = strlen(name), e = strlen(endings[i]);
        if (n > e && strcmp(name + n - e, endings[i]) == 0)
            name[n - e] = 0;
    }
}

static bool ends_with(const char *name, const char *ending) {
    size_t n = strlen(name), e = strlen(ending);
    return n >= e && strcmp(name + n - e, ending) == 0;
}

static enum trace_format recognise(const struct trace *trace) {
    char name[256];
    short_name(trace->name, name, sizeof(name));
    if (strstr(name, "oraclegeneral"))
        return TRACE_ORACLE_GENERAL;
    if (ends_with(name, ".csv"))
        return TRACE_CSV;
    if (ends_with(name, ".lis"))
        return TRACE_LIS;
    if (is_text(trace))
        return trace_recognise_text(trace);
    return looks_like_oracle(trace) ? TRACE_ORACLE_GENERAL : looks_like_int(trace);
}

static int begin(struct trace *trace, struct failure *failure) {
    if (trace_fill(trace, failure))
        return -1;
    if (trace->end == 0)
        return fail(failure, "%s: is empty", trace->name);
    if (trace->format == TRACE_ANY)
        trace->format = recognise(trace);
    if (trace->format == TRACE_ANY)
        return fail(failure,
                "%s: its format cannot be told from its name or its beginning, which is %s; name "
                "it "
                "by --format: oracleGeneral, csv, keys, lis, int32, int64 or time-key-size",
                trace->name, is_text(trace) ? "text" : "binary");
    trace->sized = trace->format == TRACE_ORACLE_GENERAL || trace->format == TRACE_SIZES;
    return trace->format == TRACE_CSV ? trace_csv_begin(trace, failure) : 0;
}

int trace_open_input(struct input *input, const char *name, const struct trace_options *options,
        struct failure *failure, struct trace **ret_trace) {
    struct trace *trace = malloc(sizeof(*trace));
    if (!trace) {
        input_close(&input);
        return fail(failure, "%s: out of memory", name);
    }
    memset(trace, 0, offsetof(struct trace, buffer));
    trace->input = input;
    trace->name = name;
    trace->options = *options;
    trace->format = options->format;
    if (begin(trace, failure)) {
        trace_close(&trace);
        return -1;
    }
    *ret_trace = trace;
    return 0;
}

int trace_open(const char *path, const struct trace_options *options, struct failure *failure,
        struct trace **ret_trace) {
    struct input *input = NULL;
    if (input_open(path, failure, &input))
        return -1;
    return trace_open_input(
            input, strcmp(path, "-") == 0 ? "standard input" : path, options, failure, ret_trace);
}

void trace_close(struct trace **trace) {
    if (!*trace)
        return;
    input_close(&(*trace)->input);
    free(*trace);
    *trace = NULL;
}

static int next_binary(struct trace *trace, struct trace_batch *batch, struct failure *failure) {
    unsigned width = trace->format == TRACE_ORACLE_GENERAL ? ORACLE_BYTES
                     : trace->format == TRACE_INT32        ? 4
                                                           : 8;
    while (batch->n < TRACE_BATCH) {
        if (trace->end - trace->begin < width) {
            if (!trace->at_end && trace_fill(trace, failure))
                return -1;
            size_t left = trace->end - trace->begin;
            if (left == 0)
                return 0;
            if (left < width)
                return fail(failure, "%s: record %llu has %zu bytes instead of %u", trace->name,
                        (unsigned long long)trace->record + 1, left, width);
        }
        const char *record = trace->buffer + trace->begin;
        trace->begin += width;
        trace->record++;
        if (trace->format == TRACE_ORACLE_GENERAL) {
            batch->key[batch->n] = little64(record + 4);
            batch->size[batch->n++] = trace_size(little32(record + 12));
            continue;
        }
        batch->key[batch->n] = width == 4 ? big32(record) : big64(record);
        batch->size[batch->n++] = 1;
    }
    return 0;
}

int trace_next(struct trace *trace, struct trace_batch *batch, struct failure *failure) {
    batch->n = 0;
    switch (trace->format) {
    case TRACE_CSV:
        return trace_next_csv(trace, batch, failure);
    case TRACE_KEYS:
    case TRACE_LIS:
    case TRACE_SIZES:
        return trace_next_text(trace, batch, failure);
    default:
        return next_binary(trace, batch, failure);
    }
}
