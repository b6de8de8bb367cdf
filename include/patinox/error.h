/* SPDX-License-Identifier: Apache-2.0 */
/*
 * patinox/error.h - the one table of errors, and what to do about each.
 *
 * An error is a negative int: -errno where errno has the word, else one of the PNX_E_ codes, all of
 * them at or below -4096, where no errno lives.
 *
 *   P1  Every code in the table has a name, a text and a recovery class; no two share a value.
 *   P2  pnx_strerror and pnx_errname answer for any int, never NULL.
 */
#ifndef PNX_ERROR_H
#define PNX_ERROR_H

#include <patinox/base.h>

#include <errno.h>

/* Where the system has no such word (Windows), own values for it, beyond any errno there. */
#ifndef ESHUTDOWN
#define ESHUTDOWN 4001
#endif
#ifndef ESTALE
#define ESTALE 4002
#endif
#ifndef EDQUOT
#define EDQUOT 4003
#endif

/* Own codes: X(name, value, recovery, text) */
#define PNX_ERRORS_OWN(X) \
    X(PNX_E_SHARED, -4096, FALLBACK, "the object is shared") \
    X(PNX_E_CONFLICT, -4097, RETRY, "somebody else changed it first") \
    X(PNX_E_FORMAT, -4098, FAIL, "the data has not the expected format") \
    X(PNX_E_BROKEN, -4099, RETRY, "the resource is broken and was or must be replaced") \
    X(PNX_E_BREAKER, -4100, BREAK, "the circuit breaker is open")

/* Words taken from errno: X(name, recovery, text) */
#define PNX_ERRORS_ERRNO(X) \
    X(ETIMEDOUT, RETRY, "timed out: the deadline passed") \
    X(EDEADLK, FAIL, "waiting here would never end") \
    X(ESHUTDOWN, FAIL, "the object is closed or closing") \
    X(ECANCELED, FAIL, "cancelled") \
    X(EALREADY, FAIL, "already done, or under way") \
    X(EINPROGRESS, RETRY, "still running") \
    X(EINVAL, FAIL, "invalid argument") \
    X(E2BIG, FAIL, "a field that this library does not know is set") \
    X(ENOMEM, FALLBACK, "out of memory, or over a budget's hard limit") \
    X(ESTALE, FALLBACK, "the file or handle changed since it was opened") \
    X(EIO, FALLBACK, "input or output failed") \
    X(EBUSY, RETRY, "in use, or too many are waiting") \
    X(EAGAIN, RETRY, "not now; try again") \
    X(ENOENT, FAIL, "there is no such thing") \
    X(EEXIST, FAIL, "it exists already") \
    X(ERANGE, FAIL, "outside the range") \
    X(EFBIG, FAIL, "too large") \
    X(ENAMETOOLONG, FAIL, "a name or path is too long") \
    X(ELOOP, FAIL, "too many symbolic links") \
    X(ENOSPC, FALLBACK, "no space left") \
    X(EDQUOT, FALLBACK, "over the disk quota") \
    X(EACCES, FAIL, "permission denied") \
    X(EPERM, FAIL, "not permitted") \
    X(EISDIR, FAIL, "is a directory") \
    X(ENOTDIR, FAIL, "is not a directory") \
    X(ENODEV, FAIL, "not supported by the device or file") \
    X(EMFILE, FALLBACK, "too many open files in this process") \
    X(ENFILE, FALLBACK, "too many open files in this system") \
    X(EOVERFLOW, FAIL, "a count or size overflowed") \
    X(ENOTSUP, FAIL, "not supported")

PNX_BEGIN_DECLS

#define PNX_ERROR_ENUM_(name, value, recovery, text) name = (value),
enum pnx_error_code { PNX_ERRORS_OWN(PNX_ERROR_ENUM_) PNX_ERROR_CODE_END_ = -4095 };
#undef PNX_ERROR_ENUM_

/* What a caller can sensibly do. */
enum pnx_recovery {
    PNX_RECOVERY_RETRY = 1, /* the same call may succeed soon */
    PNX_RECOVERY_FALLBACK,  /* do it another way: smaller, slower, from the source */
    PNX_RECOVERY_BREAK,     /* do not retry before the hint (breaker, back-off) */
    PNX_RECOVERY_FAIL,      /* a mistake or an end: retrying cannot help */
};

/* Details of a failure, filled without allocation when the caller passes one; untouched on success. */
struct pnx_error {
    int32_t code;      /* what the call returned */
    int32_t cause;     /* the error that caused it, as the callback or system gave it; else 0 */
    const char *phase; /* static: "options", "wait", "connect", "check", ... */
    const char *field; /* static: the option at fault, else NULL */
    char message[232]; /* one line for a person, always terminated */
};

/* Returns a static text for any code; "success" for 0, "unknown error" for codes that nobody knows. */
PNX_API const char *pnx_strerror(int code);

/* Returns the static name of a code, such as "ETIMEDOUT" or "PNX_E_BREAKER"; "0" or "unknown" otherwise. */
PNX_API const char *pnx_errname(int code);

/* Returns the recovery class of a code; PNX_RECOVERY_FAIL for one that is not in the table. */
PNX_API enum pnx_recovery pnx_recovery(int code);

PNX_END_DECLS
#endif /* PNX_ERROR_H */
