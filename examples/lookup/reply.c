/* SPDX-License-Identifier: Apache-2.0 */
/* reply.c - see reply.h. */
#include "reply.h"

#include "log.h"

#include <patinox/error.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct reply finish(
        unsigned status, const char *type, struct MHD_Response *response, size_t size) {
    struct reply reply = {.status = status, .response = response, .size = size};
    reply_header(&reply, "Content-Type", type);
    reply_header(&reply, "X-Content-Type-Options", "nosniff");
    return reply;
}

struct reply reply_text(unsigned status, const char *type, char *text, size_t size) {
    struct MHD_Response *response =
            MHD_create_response_from_buffer(size, text, MHD_RESPMEM_MUST_FREE);
    if (!response)
        free(text);
    return finish(status, type, response, size);
}

struct reply reply_buffer(unsigned status, const char *type, struct buffer *b) {
    char *text;
    size_t size;
    int r = buffer_take(b, &text, &size);
    if (r < 0)
        return reply_failure(r, "no memory for the answer");
    return reply_text(status, type, text, size);
}

struct reply reply_static(unsigned status, const char *type, const void *bytes, size_t size) {
    /* The library takes a plain pointer but does not write through it. */
    union {
        const void *constant;
        void *plain;
    } body = {.constant = bytes};
    return finish(status, type,
            MHD_create_response_from_buffer(size, body.plain, MHD_RESPMEM_PERSISTENT), size);
}

static struct reply error_message(unsigned status, const char *word, const char *message) {
    struct buffer b = {0};
    buffer_printf(&b, "{\"error\":\"%s\",\"message\":", word);
    buffer_json(&b, message, strlen(message));
    buffer_append(&b, "}\n", 2);
    char *text;
    size_t size;
    if (buffer_take(&b, &text, &size) < 0)
        return (struct reply){.status = status};
    struct reply reply = reply_text(status, REPLY_JSON, text, size);
    reply_header(&reply, "Cache-Control", "no-store");
    return reply;
}

struct reply reply_error(unsigned status, const char *word, const char *format, ...) {
    char message[512];
    va_list args;
    va_start(args, format);
    vsnprintf(message, sizeof(message), format, args);
    va_end(args);
    return error_message(status, word, message);
}

struct reply reply_failure(int code, const char *message) {
    const char *text = message && *message ? message : pnx_strerror(code);
    switch (code) {
    case -EINVAL:
    case -EFBIG:
    case -ERANGE:
        return error_message(400, "bad_request", text);
    case -ENOENT:
        return error_message(404, "not_found", text);
    case -ESTALE: {
        struct reply reply = error_message(503, "stale", text);
        reply_header(&reply, "Retry-After", "1");
        return reply;
    }
    case -ETIMEDOUT:
    case -EBUSY:
    case -EAGAIN:
    case -ENOMEM:
    case -ESHUTDOWN:
    case PNX_E_BREAKER: {
        struct reply reply = error_message(503, "unavailable", text);
        reply_header(&reply, "Retry-After", "1");
        return reply;
    }
    default:
        log_line(PNX_LOG_ERROR, "a request failed: %s (%s)", text, pnx_errname(code));
        return error_message(500, "internal", text);
    }
}

void reply_header(struct reply *reply, const char *name, const char *value) {
    if (reply->response && MHD_add_response_header(reply->response, name, value) != MHD_YES) {
        /* Out of memory.  An answer that lacks its headers is none. */
        MHD_destroy_response(reply->response);
        reply->response = NULL;
    }
}

void reply_release(struct reply *reply) {
    if (reply->response)
        MHD_destroy_response(reply->response);
    *reply = (struct reply){0};
}
