/* SPDX-License-Identifier: Apache-2.0 */
/* base/error.h - filling struct pnx_error. */
#ifndef PNX_SRC_BASE_ERROR_H
#define PNX_SRC_BASE_ERROR_H

#include <patinox/error.h>

/* Fills *err if it is not NULL and returns code, so that callers write "return pnx__fail(err, ...)". */
int pnx__fail(struct pnx_error *err, int code, int cause, const char *phase, const char *format,
        ...) PNX_PRINTF(5, 6);

/* The same for an option at fault: phase "options", field named. */
int pnx__fail_field(struct pnx_error *err, int code, const char *field, const char *format, ...)
        PNX_PRINTF(4, 5);

/*
 * Static analysis looks at one file at a time: here it learns that the code comes back.  Compilers get the plain
 * calls, which take less room in their many callers.
 */
#ifdef __clang_analyzer__
#define pnx__fail(err, code, ...)       ((void)pnx__fail(err, code, __VA_ARGS__), (code))
#define pnx__fail_field(err, code, ...) ((void)pnx__fail_field(err, code, __VA_ARGS__), (code))
#endif

#endif
