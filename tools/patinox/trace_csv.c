/* SPDX-License-Identifier: Apache-2.0 */
/*
 * trace_csv.c - comma-separated values (RFC 4180, without line feeds in values); see trace.h
 *
 * Columns are found by name in the header line, or by number from 1; without either, a header line has the usual
 * names: time or timestamp; key, id, obj_id or object; size, bytes or obj_size.
 */
#include "trace_impl.h"

#include <string.h>
#include <strings.h>

#define NO_COLUMN UINT32_MAX

struct value {
    char *text;
    size_t n;
};

static int wrong(const struct trace *trace, struct failure *failure, const char *what) {
    return fail(failure, "%s: line %llu: %s", trace->name, (unsigned long long)trace->record, what);
}

/* A quoted value, from its first quote on: the quotes go, doubled ones are one.  Returns where it ends, or NULL. */
static char *unquote(char *from, char *end, struct value *value) {
    char *to = from;
    value->text = from;
    for (char *c = from + 1; c < end; c++) {
        if (*c == '"' && (c + 1 == end || c[1] != '"')) {
            value->n = (size_t)(to - from);
            return c + 1;
        }
        if (*c == '"')
            c++;
        *to++ = *c;
    }
    return NULL;
}

static void trim(struct value *value) {
    while (value->n > 0 && (value->text[0] == ' ' || value->text[0] == '\t')) {
        value->text++;
        value->n--;
    }
    while (value->n > 0 && (value->text[value->n - 1] == ' ' || value->text[value->n - 1] == '\t'))
        value->n--;
}

static char *skip_blanks(char *at, const char *end) {
    while (at < end && (*at == ' ' || *at == '\t'))
        at++;
    return at;
}

/* Takes the value that begins here.  Returns where it ends, at a comma or the end of the line; NULL: it does not. */
static char *take_value(char *at, char *end, struct value *value) {
    at = skip_blanks(at, end);
    if (at < end && *at == '"') {
        at = unquote(at, end, value);
        at = at ? skip_blanks(at, end) : NULL;
        return at && at < end && *at != ',' ? NULL : at;
    }
    char *comma = memchr(at, ',', (size_t)(end - at));
    *value = (struct value){at, (size_t)((comma ? comma : end) - at)};
    trim(value);
    return comma ? comma : end;
}

/* Splits a line in place.  Returns how many values there are, or -1 with a failure. */
static int split(const struct trace *trace, char *line, size_t n, struct value *values,
        struct failure *failure) {
    char *at = line, *end = line + n;
    for (int count = 0;; at++) {
        if (count == CSV_COLUMNS)
            return wrong(trace, failure, "more than 256 columns");
        at = take_value(at, end, &values[count++]);
        if (!at)
            return wrong(trace, failure, "a quote is not closed");
        if (at == end)
            return count;
    }
}

static bool is(const struct value *value, const char *name) {
    return strlen(name) == value->n && strncasecmp(name, value->text, value->n) == 0;
}

/* The column of this name, or of one of the usual ones where none was asked for. */
static uint32_t find(
        const struct value *values, int n, const char *name, const char *const *usual) {
    for (; name[0] == 0 && *usual; usual++) {
        for (int i = 0; i < n; i++) {
            if (is(&values[i], *usual))
                return (uint32_t)i;
        }
    }
    for (int i = 0; name[0] != 0 && i < n; i++) {
        if (is(&values[i], name))
            return (uint32_t)i;
    }
    return NO_COLUMN;
}

/* True when it is a number, from 1, or nothing was asked for. */
static bool by_number(const char *name, uint32_t *ret_column) {
    uint64_t number = 0;
    if (name[0] == 0)
        return true;
    if (!trace_number(name, strlen(name), &number) || number == 0 || number > CSV_COLUMNS)
        return false;
    *ret_column = (uint32_t)number - 1;
    return true;
}

static int by_header(struct trace *trace, struct value *values, int n, struct failure *failure) {
    static const char *const times[] = {"time", "timestamp", NULL};
    static const char *const keys[] = {"key", "id", "obj_id", "object", NULL};
    static const char *const sizes[] = {"size", "bytes", "obj_size", NULL};
    const struct trace_columns *columns = &trace->options.columns;
    trace->key_column = find(values, n, columns->key, keys);
    trace->size_column = find(values, n, columns->size, sizes);
    trace->time_column = find(values, n, columns->time, times);
    if (trace->key_column == NO_COLUMN)
        return fail(failure,
                "%s: line 1: no column is called \"%s\"; name the columns by --columns, or their "
                "numbers from 1",
                trace->name, columns->key[0] ? columns->key : "key");
    if (columns->size[0] && trace->size_column == NO_COLUMN)
        return fail(failure, "%s: line 1: no column is called \"%s\"", trace->name, columns->size);
    if (columns->time[0] && trace->time_column == NO_COLUMN)
        return fail(failure, "%s: line 1: no column is called \"%s\"", trace->name, columns->time);
    return 0;
}

int trace_csv_begin(struct trace *trace, struct failure *failure) {
    const struct trace_columns *columns = &trace->options.columns;
    trace->key_column = trace->size_column = trace->time_column = NO_COLUMN;
    if (columns->key[0] && by_number(columns->key, &trace->key_column) &&
            by_number(columns->size, &trace->size_column) &&
            by_number(columns->time, &trace->time_column)) {
        trace->sized = trace->size_column != NO_COLUMN;
        return 0;
    }
    struct value values[CSV_COLUMNS];
    char *line = NULL;
    size_t n = 0;
    int rc = trace_line(trace, &line, &n, failure);
    if (rc < 0)
        return rc;
    int count = split(trace, line, n, values, failure);
    if (count < 0 || by_header(trace, values, count, failure))
        return -1;
    trace->sized = trace->size_column != NO_COLUMN;
    return 0;
}

static int take(struct trace *trace, const struct value *values, uint32_t n,
        struct trace_batch *batch, struct failure *failure) {
    uint64_t size = 1;
    if (trace->key_column >= n || values[trace->key_column].n == 0)
        return wrong(trace, failure, "there is no key");
    if (trace->sized) {
        if (trace->size_column >= n)
            return wrong(trace, failure, "there is no size");
        const struct value *value = &values[trace->size_column];
        if (!trace_number(value->text, value->n, &size) || size > INT64_MAX)
            return wrong(trace, failure, "the size is not a number");
    }
    if (trace->time_column != NO_COLUMN && trace->time_column >= n)
        return wrong(trace, failure, "there is no time");
    const struct value *key = &values[trace->key_column];
    batch->key[batch->n] = trace_key(key->text, key->n);
    batch->size[batch->n++] = trace_size(size);
    return 0;
}

int trace_next_csv(struct trace *trace, struct trace_batch *batch, struct failure *failure) {
    struct value values[CSV_COLUMNS];
    while (batch->n < TRACE_BATCH) {
        char *line = NULL;
        size_t n = 0;
        int rc = trace_line(trace, &line, &n, failure);
        if (rc <= 0)
            return rc;
        if (n == 0)
            continue;
        int count = split(trace, line, n, values, failure);
        if (count < 0 || take(trace, values, (uint32_t)count, batch, failure))
            return -1;
    }
    return 0;
}
