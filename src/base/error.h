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

#endif
