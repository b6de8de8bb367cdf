/* SPDX-License-Identifier: Apache-2.0 */
/*
 * text.c - UTF-8 checking and making, JSON strings, a growing buffer.
 *
 *   P1  What the json and clean functions append is well-formed UTF-8, whatever bytes come in.
 */
#include "text.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char replacement[] = "\xEF\xBF\xBD";

void lookup_buffer_add(struct lookup_buffer *buffer, const void *data, size_t n) {
    if (buffer->failed || n == 0)
        return;
    if (n > SIZE_MAX / 4 - buffer->size) {
        buffer->failed = true;
        return;
    }
    if (n > buffer->cap - buffer->size) {
        size_t cap = buffer->cap ? buffer->cap : 256;
        while (cap - buffer->size < n)
            cap *= 2;
        char *data_new = realloc(buffer->data, cap);
        if (!data_new) {
            buffer->failed = true;
            return;
        }
        buffer->data = data_new;
        buffer->cap = cap;
    }
    memcpy(buffer->data + buffer->size, data, n);
    buffer->size += n;
}

void lookup_buffer_text(struct lookup_buffer *buffer, const char *text) {
    lookup_buffer_add(buffer, text, strlen(text));
}

void lookup_buffer_number(struct lookup_buffer *buffer, uint64_t number) {
    char digits[24];
    int n = snprintf(digits, sizeof(digits), "%" PRIu64, number);
    lookup_buffer_add(buffer, digits, (size_t)n);
}

void lookup_buffer_free(struct lookup_buffer *buffer) {
    free(buffer->data);
    *buffer = (struct lookup_buffer){0};
}

static bool is_continuation(unsigned char c) {
    return (c & 0xC0) == 0x80;
}

/* The table of Unicode 15, 3.9: lead byte, and the range of the second byte. */
size_t lookup_utf8_char(const char *text, size_t n) {
    const unsigned char *s = (const unsigned char *)text;
    if (n == 0)
        return 0;
    if (s[0] < 0x80)
        return 1;
    if (s[0] < 0xC2 || s[0] > 0xF4)
        return 0;
    if (s[0] < 0xE0)
        return n >= 2 && is_continuation(s[1]) ? 2 : 0;
    unsigned char low = 0x80, high = 0xBF;
    if (s[0] == 0xE0)
        low = 0xA0;
    if (s[0] == 0xED)
        high = 0x9F;
    if (s[0] == 0xF0)
        low = 0x90;
    if (s[0] == 0xF4)
        high = 0x8F;
    size_t length = s[0] < 0xF0 ? 3 : 4;
    if (n < length || s[1] < low || s[1] > high || !is_continuation(s[2]))
        return 0;
    return length == 3 || is_continuation(s[3]) ? length : 0;
}

size_t lookup_utf8_valid(const char *text, size_t n) {
    size_t i = 0;
    while (i < n) {
        uint64_t word;
        /* Almost all text is ASCII: eight bytes at a time. */
        while (n - i >= sizeof(word)) {
            memcpy(&word, text + i, sizeof(word));
            if (word & UINT64_C(0x8080808080808080))
                break;
            i += sizeof(word);
        }
        if (i == n)
            break;
        size_t length = lookup_utf8_char(text + i, n - i);
        if (length == 0)
            return i;
        i += length;
    }
    return n;
}

static bool is_control(const char *text, size_t length) {
    unsigned char c = (unsigned char)text[0];
    if (length == 1)
        return c < 0x20 || c == 0x7F;
    /* U+0080 .. U+009F */
    return length == 2 && c == 0xC2 && (unsigned char)text[1] < 0xA0;
}

void lookup_buffer_clean(struct lookup_buffer *buffer, const char *text, size_t n) {
    size_t i = 0, from = 0;
    while (i < n) {
        size_t length = lookup_utf8_char(text + i, n - i);
        if (length > 0 && !is_control(text + i, length)) {
            i += length;
            continue;
        }
        lookup_buffer_add(buffer, text + from, i - from);
        lookup_buffer_text(buffer, length ? " " : replacement);
        i += length ? length : 1;
        from = i;
    }
    lookup_buffer_add(buffer, text + from, n - from);
}

/* What JSON wants for a byte that it does not take as it is; NULL when it takes it. */
static const char *json_escape(unsigned char c, char *room) {
    switch (c) {
    case '"':
        return "\\\"";
    case '\\':
        return "\\\\";
    case '\n':
        return "\\n";
    case '\t':
        return "\\t";
    default:
        if (c >= 0x20 && c != 0x7F)
            return NULL;
        snprintf(room, 8, "\\u%04x", c);
        return room;
    }
}

void lookup_buffer_json(struct lookup_buffer *buffer, const char *text, size_t n) {
    lookup_buffer_text(buffer, "\"");
    size_t i = 0, from = 0;
    while (i < n) {
        size_t length = lookup_utf8_char(text + i, n - i);
        char room[8];
        const char *escape = length == 0   ? replacement
                             : length == 1 ? json_escape((unsigned char)text[i], room)
                                           : NULL;
        if (!escape) {
            i += length;
            continue;
        }
        lookup_buffer_add(buffer, text + from, i - from);
        lookup_buffer_text(buffer, escape);
        i += length ? length : 1;
        from = i;
    }
    lookup_buffer_add(buffer, text + from, n - from);
    lookup_buffer_text(buffer, "\"");
}

/* Windows-1252, 0x80 .. 0x9F; 0 where it has no character. */
static const uint16_t cp1252[32] = {0x20AC, 0, 0x201A, 0x0192, 0x201E, 0x2026, 0x2020, 0x2021,
        0x02C6, 0x2030, 0x0160, 0x2039, 0x0152, 0, 0x017D, 0, 0, 0x2018, 0x2019, 0x201C, 0x201D,
        0x2022, 0x2013, 0x2014, 0x02DC, 0x2122, 0x0161, 0x203A, 0x0153, 0, 0x017E, 0x0178};

static size_t encode(uint32_t code, char *out) {
    if (code < 0x800) {
        out[0] = (char)(0xC0 | code >> 6);
        out[1] = (char)(0x80 | (code & 0x3F));
        return 2;
    }
    out[0] = (char)(0xE0 | code >> 12);
    out[1] = (char)(0x80 | (code >> 6 & 0x3F));
    out[2] = (char)(0x80 | (code & 0x3F));
    return 3;
}

void lookup_buffer_latin1(struct lookup_buffer *buffer, const char *text, size_t n) {
    size_t from = 0;
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c < 0x80)
            continue;
        uint32_t code = c;
        if (c < 0xA0)
            code = cp1252[c - 0x80] ? cp1252[c - 0x80] : 0xFFFD;
        char out[4];
        lookup_buffer_add(buffer, text + from, i - from);
        lookup_buffer_add(buffer, out, encode(code, out));
        from = i + 1;
    }
    lookup_buffer_add(buffer, text + from, n - from);
}
