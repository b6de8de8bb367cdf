/* SPDX-License-Identifier: Apache-2.0 */
/*
 * base/error.c - the error table of patinox/error.h as functions.
 *
 *   P1  Names, texts and recovery classes come from the header's X-macros and nowhere else.
 *   P2  Every int gets an answer.
 */
#include "base/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

struct row {
    int code;
    enum pnx_recovery recovery;
    const char *name;
    const char *text;
};

#define ROW_OWN(name, value, class, text) {(value), PNX_RECOVERY_##class, #name, (text)},
#define ROW_ERRNO(name, class, text)      {-(name), PNX_RECOVERY_##class, #name, (text)},
static const struct row table[] = {PNX_ERRORS_OWN(ROW_OWN) PNX_ERRORS_ERRNO(ROW_ERRNO)};

static const struct row *find(int code) {
    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        if (table[i].code == code)
            return &table[i];
    }
    return NULL;
}

const char *pnx_strerror(int code) {
    if (code == 0)
        return "success";
    const struct row *row = find(code);
    return row ? row->text : "unknown error";
}

const char *pnx_errname(int code) {
    if (code == 0)
        return "0";
    const struct row *row = find(code);
    return row ? row->name : "unknown";
}

enum pnx_recovery pnx_recovery(int code) {
    const struct row *row = find(code);
    return row ? row->recovery : PNX_RECOVERY_FAIL;
}

static void fill(struct pnx_error *err, int code, int cause, const char *phase, const char *field,
        const char *format, va_list args) PNX_PRINTF(6, 0);

static void fill(struct pnx_error *err, int code, int cause, const char *phase, const char *field,
        const char *format, va_list args) {
    err->code = code;
    err->cause = cause;
    err->phase = phase;
    err->field = field;
    if (vsnprintf(err->message, sizeof(err->message), format, args) < 0)
        err->message[0] = '\0';
}

int(pnx__fail)(
        struct pnx_error *err, int code, int cause, const char *phase, const char *format, ...) {
    if (err) {
        va_list args;
        va_start(args, format);
        fill(err, code, cause, phase, NULL, format, args);
        va_end(args);
    }
    return code;
}

int(pnx__fail_field)(struct pnx_error *err, int code, const char *field, const char *format, ...) {
    if (err) {
        va_list args;
        va_start(args, format);
        fill(err, code, 0, "options", field, format, args);
        va_end(args);
    }
    return code;
}
