/* SPDX-License-Identifier: Apache-2.0 */
/* trace_text.c - the formats that are lines of words: one key a line, "start count", "time key size"; see trace.h */
#include "trace_impl.h"

#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#define RANGE_MAX (UINT64_C(1) << 32) /* keys of one line "start count" */

int trace_line(struct trace *trace, char **ret_line, size_t *ret_n, struct failure *failure) {
    for (;;) {
        char *line = trace->buffer + trace->begin;
        size_t have = trace->end - trace->begin;
        char *feed = memchr(line, '\n', have);
        size_t n = feed ? (size_t)(feed - line) : have;
        if (!feed && !trace->at_end) {
            if (have == sizeof(trace->buffer))
                return fail(failure, "%s: line %llu is longer than %d bytes", trace->name,
                        (unsigned long long)trace->record + 1, TRACE_BUFFER);
            if (trace_fill(trace, failure))
                return -1;
            continue;
        }
        if (!feed && have == 0)
            return 0;
        trace->begin += feed ? n + 1 : n;
        trace->record++;
        if (n > 0 && line[n - 1] == '\r')
            n--;
        *ret_line = line;
        *ret_n = n;
        return 1;
    }
}

bool trace_number(const char *text, size_t n, uint64_t *ret_value) {
    uint64_t value = 0;
    if (n == 0)
        return false;
    for (size_t i = 0; i < n; i++) {
        uint64_t digit = (uint64_t)(unsigned char)text[i] - '0';
        if (digit > 9 || value > UINT64_MAX / 10 || value * 10 > UINT64_MAX - digit)
            return false;
        value = value * 10 + digit;
    }
    *ret_value = value;
    return true;
}

uint64_t trace_key(const char *text, size_t n) {
    uint64_t value = 0;
    if ((n == 1 || text[0] != '0') && trace_number(text, n, &value) && value <= INT64_MAX)
        return value;
    return XXH3_64bits(text, n) | UINT64_C(1) << 63;
}

struct word {
    const char *text;
    size_t n;
};

static bool blank(char c) {
    return c == ' ' || c == '\t';
}

/* Finds the words of a line, at most max; returns how many there are, max + 1 for more. */
static unsigned words(const char *line, size_t n, struct word *word, unsigned max) {
    unsigned count = 0;
    size_t at = 0;
    for (;;) {
        while (at < n && blank(line[at]))
            at++;
        if (at == n)
            return count;
        if (count == max)
            return max + 1;
        size_t from = at;
        while (at < n && !blank(line[at]))
            at++;
        word[count++] = (struct word){line + from, at - from};
    }
}

/* A decimal number with a fraction, perhaps: a time. */
static bool is_time(struct word word) {
    unsigned digits = 0, points = 0;
    for (size_t i = 0; i < word.n; i++) {
        digits += word.text[i] >= '0' && word.text[i] <= '9';
        points += word.text[i] == '.';
    }
    return digits > 0 && points <= 1 && digits + points == word.n;
}

static int wrong(const struct trace *trace, struct failure *failure, const char *what) {
    return fail(failure, "%s: line %llu: %s", trace->name, (unsigned long long)trace->record, what);
}

static int take_keys(struct trace *trace, struct word *word, unsigned n, struct trace_batch *batch,
        struct failure *failure) {
    if (n != 1)
        return wrong(trace, failure, "one key was expected, and there are several words");
    batch->key[batch->n] = trace_key(word[0].text, word[0].n);
    batch->size[batch->n++] = 1;
    return 0;
}

static int take_lis(struct trace *trace, struct word *word, unsigned n, struct failure *failure) {
    if (n < 2)
        return wrong(trace, failure, "\"start count\" was expected, and there is one word");
    if (!trace_number(word[0].text, word[0].n, &trace->range_key))
        return wrong(trace, failure, "the start is not a number");
    if (!trace_number(word[1].text, word[1].n, &trace->range_left))
        return wrong(trace, failure, "the count is not a number");
    if (trace->range_left > RANGE_MAX || trace->range_key > UINT64_MAX - trace->range_left)
        return wrong(trace, failure, "the count is too large");
    return 0;
}

static int take_sizes(struct trace *trace, struct word *word, unsigned n, struct trace_batch *batch,
        struct failure *failure) {
    uint64_t size = 0;
    if (n != 3)
        return wrong(trace, failure, "\"time key size\" was expected: three words");
    if (!is_time(word[0]))
        return wrong(trace, failure, "the time is not a number");
    if (!trace_number(word[2].text, word[2].n, &size) || size > INT64_MAX)
        return wrong(trace, failure, "the size is not a number");
    batch->key[batch->n] = trace_key(word[1].text, word[1].n);
    batch->size[batch->n++] = trace_size(size);
    return 0;
}

static int take(struct trace *trace, char *line, size_t n, struct trace_batch *batch,
        struct failure *failure) {
    struct word word[5];
    const char *skip = trace->options.skip;
    unsigned count = words(line, n, word, 5);
    if (count == 0)
        return 0;
    if (count == 1 && skip && strlen(skip) == word[0].n &&
            memcmp(skip, word[0].text, word[0].n) == 0)
        return 0;
    if (trace->format == TRACE_KEYS)
        return take_keys(trace, word, count, batch, failure);
    if (trace->format == TRACE_LIS)
        return take_lis(trace, word, count, failure);
    return take_sizes(trace, word, count, batch, failure);
}

int trace_next_text(struct trace *trace, struct trace_batch *batch, struct failure *failure) {
    while (batch->n < TRACE_BATCH) {
        if (trace->range_left > 0) {
            batch->key[batch->n] = trace->range_key++;
            batch->size[batch->n++] = 1;
            trace->range_left--;
            continue;
        }
        char *line = NULL;
        size_t n = 0;
        int rc = trace_line(trace, &line, &n, failure);
        if (rc <= 0)
            return rc;
        if (take(trace, line, n, batch, failure))
            return -1;
    }
    return 0;
}

/* By the first line that is not empty and not passed over. */
enum trace_format trace_recognise_text(const struct trace *trace) {
    const char *skip = trace->options.skip;
    const char *at = trace->buffer, *end = trace->buffer + trace->end;
    while (at < end) {
        const char *feed = memchr(at, '\n', (size_t)(end - at));
        size_t n = (size_t)((feed ? feed : end) - at);
        struct word word[5];
        uint64_t number = 0;
        size_t text = n > 0 && at[n - 1] == '\r' ? n - 1 : n;
        unsigned count = words(at, text, word, 5);
        bool passed = count == 0 || (count == 1 && skip && strlen(skip) == word[0].n &&
                                            memcmp(skip, word[0].text, word[0].n) == 0);
        if (!passed) {
            if (memchr(at, ',', text))
                return TRACE_CSV;
            if (count == 1)
                return TRACE_KEYS;
            if (count == 3 && is_time(word[0]) && trace_number(word[2].text, word[2].n, &number))
                return TRACE_SIZES;
            if (count == 4 && trace_number(word[0].text, word[0].n, &number) &&
                    trace_number(word[1].text, word[1].n, &number))
                return TRACE_LIS;
            return TRACE_ANY;
        }
        at += feed ? n + 1 : n;
    }
    return TRACE_ANY;
}
