/* SPDX-License-Identifier: Apache-2.0 */
/* buffer.c - see buffer.h. */
#include "buffer.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Makes room for more bytes, or notes why not. */
static bool reserve(struct buffer *b, size_t more) {
    size_t limit = b->limit ? b->limit : BUFFER_LIMIT_DEFAULT;
    if (b->error)
        return false;
    if (more > limit - b->size) {
        b->error = -EFBIG;
        return false;
    }
    if (more <= b->capacity - b->size)
        return true;
    size_t capacity = b->capacity ? b->capacity : 512;
    while (capacity - b->size < more)
        capacity = capacity > limit / 2 ? limit : capacity * 2;
    char *text = realloc(b->text, capacity);
    if (!text) {
        b->error = -ENOMEM;
        return false;
    }
    b->text = text;
    b->capacity = capacity;
    return true;
}

void buffer_append(struct buffer *b, const char *text, size_t size) {
    if (size == 0 || !reserve(b, size))
        return;
    memcpy(b->text + b->size, text, size);
    b->size += size;
}

void buffer_printf(struct buffer *b, const char *format, ...) {
    char small[512];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(small, sizeof(small), format, args);
    va_end(args);
    if (n < 0) {
        b->error = b->error ? b->error : -EINVAL;
        return;
    }
    if ((size_t)n < sizeof(small)) {
        buffer_append(b, small, (size_t)n);
        return;
    }
    if (!reserve(b, (size_t)n + 1)) /* vsnprintf wants room for its terminator */
        return;
    va_start(args, format);
    vsnprintf(b->text + b->size, (size_t)n + 1, format, args);
    va_end(args);
    b->size += (size_t)n;
}

/* Returns the length of the valid UTF-8 sequence at s (n > 0 bytes are there), or 0. */
static size_t utf8_length(const unsigned char *s, size_t n) {
    if (s[0] < 0x80)
        return 1;
    size_t length = s[0] >= 0xF0 && s[0] <= 0xF4   ? 4
                    : s[0] >= 0xE0 && s[0] <= 0xEF ? 3
                    : s[0] >= 0xC2 && s[0] <= 0xDF ? 2
                                                   : 0;
    if (length == 0 || length > n)
        return 0;
    for (size_t i = 1; i < length; i++)
        if ((s[i] & 0xC0) != 0x80)
            return 0;
    bool overlong = (s[0] == 0xE0 && s[1] < 0xA0) || (s[0] == 0xF0 && s[1] < 0x90);
    bool outside = (s[0] == 0xED && s[1] > 0x9F) || (s[0] == 0xF4 && s[1] > 0x8F);
    return overlong || outside ? 0 : length;
}

void buffer_json(struct buffer *b, const char *text, size_t size) {
    const unsigned char *s = (const unsigned char *)text;
    buffer_append(b, "\"", 1);
    size_t length;
    for (size_t i = 0; i < size; i += length ? length : 1) {
        length = utf8_length(s + i, size - i);
        if (length == 0)
            buffer_append(b, "\xEF\xBF\xBD", 3);
        else if (s[i] == '"' || s[i] == '\\')
            buffer_append(b, (const char[]){'\\', text[i]}, 2);
        else if (s[i] < 0x20 || s[i] == 0x7F)
            buffer_printf(b, "\\u%04x", s[i]);
        else
            buffer_append(b, text + i, length);
    }
    buffer_append(b, "\"", 1);
}

int buffer_write(void *ctx, const char *text, size_t size) {
    struct buffer *b = ctx;
    buffer_append(b, text, size);
    return b->error;
}

int buffer_take(struct buffer *b, char **ret_text, size_t *ret_size) {
    reserve(b, 1); /* so that an empty text is a pointer, too */
    int error = b->error;
    if (error) {
        buffer_release(b);
        return error;
    }
    *ret_text = b->text;
    *ret_size = b->size;
    *b = (struct buffer){.limit = b->limit};
    return 0;
}

void buffer_release(struct buffer *b) {
    free(b->text);
    *b = (struct buffer){.limit = b->limit};
}
