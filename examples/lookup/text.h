/* SPDX-License-Identifier: Apache-2.0 */
/*
 * text.h - bytes into UTF-8, UTF-8 into JSON, and a buffer that grows.
 */
#ifndef LOOKUP_TEXT_H
#define LOOKUP_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * Bytes that grow.  Owned by whoever declares it ({0} is empty); free data, or hand it on.  Once memory has run
 * out failed is set and stays, and appending does nothing: check once at the end.
 */
struct lookup_buffer {
    char *data;
    size_t size;
    size_t cap;
    bool failed;
};

void lookup_buffer_add(struct lookup_buffer *buffer, const void *data, size_t n);
void lookup_buffer_text(struct lookup_buffer *buffer, const char *text);
void lookup_buffer_number(struct lookup_buffer *buffer, uint64_t number);
void lookup_buffer_free(struct lookup_buffer *buffer);

/* Appends a JSON string with its quotes.  Bytes that are not UTF-8 become U+FFFD. */
void lookup_buffer_json(struct lookup_buffer *buffer, const char *text, size_t n);

/* Returns the length of the well-formed UTF-8 character at text (1 .. 4), or 0 if there is none. */
size_t lookup_utf8_char(const char *text, size_t n);

/* Returns how many bytes from the start are well-formed UTF-8: n when all are. */
size_t lookup_utf8_valid(const char *text, size_t n);

/* Appends text in which each byte that is not UTF-8 is U+FFFD, and each control character a blank. */
void lookup_buffer_clean(struct lookup_buffer *buffer, const char *text, size_t n);

/* Appends Windows-1252 (which includes Latin-1) as UTF-8. */
void lookup_buffer_latin1(struct lookup_buffer *buffer, const char *text, size_t n);

#endif
