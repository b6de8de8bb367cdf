/* SPDX-License-Identifier: Apache-2.0 */
/* reply.h - answers: a status and a libmicrohttpd response with the headers that belong to it. */
#ifndef LOOKUP_REPLY_H
#define LOOKUP_REPLY_H

#include "buffer.h"

#include <patinox/base.h>

#include <microhttpd.h>

#define REPLY_JSON  "application/json"
#define REPLY_PLAIN "text/plain; charset=utf-8"

/* An answer; a value.  response is NULL when memory ran out: the connection is closed then. */
struct reply {
    unsigned status;
    struct MHD_Response *response;
    uint64_t size; /* of the body */
};

/* Answers with malloc()ed text, which is freed when it has been sent (or at once, on failure). */
struct reply reply_text(unsigned status, const char *type, char *text, size_t size);

/* The same with what a buffer holds; 500 when it ran out of memory.  Empties the buffer. */
struct reply reply_buffer(unsigned status, const char *type, struct buffer *b);

/* Answers with static bytes. */
struct reply reply_static(unsigned status, const char *type, const void *bytes, size_t size);

/* Answers {"error":word,"message":...}. */
struct reply reply_error(unsigned status, const char *word, const char *format, ...)
        PNX_PRINTF(3, 4);

/*
 * Answers for an error of the store: what the client did wrong is 400, no such thing 404, not now 503 with
 * Retry-After ("unavailable", or "stale" where the text was lost and is being indexed again), the rest 500, which is logged.
 */
struct reply reply_failure(int code, const char *message);

/* Adds a header; name and value are copied. */
void reply_header(struct reply *reply, const char *name, const char *value);

void reply_release(struct reply *reply);

#endif
