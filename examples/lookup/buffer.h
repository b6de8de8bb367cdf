/* SPDX-License-Identifier: Apache-2.0 */
/*
 * buffer.h - a growing text that remembers whether it ran out of memory.
 *
 * Writers append without checking; buffer_take() tells at the end.
 *
 *   P1  After a failed allocation every append does nothing, and buffer_take() returns -ENOMEM.
 *   P2  A buffer never grows beyond its limit; more is -EFBIG, told the same way.
 */
#ifndef LOOKUP_BUFFER_H
#define LOOKUP_BUFFER_H

#include <patinox/base.h>

#include <stdarg.h>

/* Owned by one thread at a time.  { .limit = n } or zero is an empty buffer. */
struct buffer {
    char *text;  /* malloc()ed, not terminated */
    size_t size; /* bytes in use */
    size_t capacity;
    size_t limit; /* most bytes; 0: BUFFER_LIMIT_DEFAULT */
    int error;    /* the first failure */
};

#define BUFFER_LIMIT_DEFAULT ((size_t)64 << 20)

void buffer_append(struct buffer *b, const char *text, size_t size);
void buffer_printf(struct buffer *b, const char *format, ...) PNX_PRINTF(2, 3);

/* Appends a JSON string with its quotes; bytes that are not UTF-8 become U+FFFD. */
void buffer_json(struct buffer *b, const char *text, size_t size);

/* A pnx_write_fn whose ctx is the buffer. */
int buffer_write(void *ctx, const char *text, size_t size);

/*
 * Moves the text out: *ret_text is malloc()ed (never NULL) and the caller's.  On failure, the buffer's first
 * error, everything is freed.  The buffer is empty afterwards.
 */
PNX_NODISCARD int buffer_take(struct buffer *b, char **ret_text, size_t *ret_size);

void buffer_release(struct buffer *b);

#endif
