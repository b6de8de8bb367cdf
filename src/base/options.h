/* SPDX-License-Identifier: Apache-2.0 */
/*
 * base/options.h - the one checker of option structs.
 *
 * A module describes its options once, in a .def table, and gets from it: defaults, range checks with a
 * message per field, parsing from text, which fields may change live, and the rows of its guide page.
 *
 *   P1  Zero means the default; a required field that is zero is -EINVAL naming the field.
 *   P2  A larger struct than this library knows is accepted if its tail is zero, else -E2BIG.
 *   P3  On failure nothing was written.
 */
#ifndef PNX_SRC_BASE_OPTIONS_H
#define PNX_SRC_BASE_OPTIONS_H

#include "base/error.h"

#include <stddef.h>
#include <stdint.h>

#define PNX_OPTS_MAX_SIZE 512 /* of any option struct; assert it where a table is defined */

enum pnx_opt_kind {
    PNX_OPT_U32,    /* uint32_t; plain number */
    PNX_OPT_U64,    /* uint64_t; plain number */
    PNX_OPT_BYTES,  /* size_t; text such as "64MiB" */
    PNX_OPT_NS,     /* pnx_ns; text such as "250ms", "10min" or "never" */
    PNX_OPT_FLAGS,  /* uint32_t; max is the mask of known bits */
    PNX_OPT_STRING, /* const char *; cannot be parsed from text (who would own it?) */
    PNX_OPT_POINTER /* any pointer; cannot be parsed from text */
};

enum {
    PNX_OPT_REQUIRED = 1, /* zero is an error */
    PNX_OPT_LIVE = 2,     /* may change while the object lives */
};

struct pnx_opt {
    const char *name;
    enum pnx_opt_kind kind;
    uint32_t flags;
    size_t offset;
    uint64_t fallback; /* used when the field is zero */
    uint64_t min;      /* of a field that is not zero */
    uint64_t max;
    const char *help;
};

struct pnx_opt_table {
    const char *what; /* "pool": starts each message */
    size_t size;      /* of the struct that this library knows */
    const struct pnx_opt *rows;
    size_t count;
};

/*
 * One row.  A module's .def file holds PNX_OPTION(field, KIND, flags, default, min, max, "help") rows;
 * the module defines PNX_OPTION as PNX_OPT_ROW with its own struct type and includes the file.
 */
#define PNX_OPT_ROW(type, field, k, fl, dflt, lo, hi, text) \
    {.name = #field, \
            .kind = PNX_OPT_##k, \
            .flags = (fl), \
            .offset = offsetof(type, field), \
            .fallback = (uint64_t)(dflt), \
            .min = (uint64_t)(lo), \
            .max = (uint64_t)(hi), \
            .help = (text)},

/*
 * Copies a user's struct over *ret, whose first known bytes are replaced as far as user->size goes.
 * -EINVAL when size is not set, -E2BIG when the unknown tail is not zero.
 */
int pnx__opts_copy(
        const char *what, size_t known, const void *user, void *ret, struct pnx_error *err);

/* Copies, fills defaults and checks each field.  user may be NULL when no field is required. */
int pnx__opts_resolve(
        const struct pnx_opt_table *table, const void *user, void *ret_opts, struct pnx_error *err);

/* Sets the numbers of a user's struct that are zero to those of values, as far as its size goes.  -EINVAL. */
int pnx__opts_fill(
        const struct pnx_opt_table *table, const void *values, void *opts, struct pnx_error *err);

/*
 * Sets one field of an option struct from text.  -ENOENT for a name that is not in the table, -EINVAL
 * for text that does not parse, -ERANGE outside min..max, -ENOTSUP for strings and pointers.
 */
int pnx__opts_set(const struct pnx_opt_table *table, void *opts, const char *name, const char *text,
        struct pnx_error *err);

/* Returns the row of that name, or NULL. */
const struct pnx_opt *pnx__opts_find(const struct pnx_opt_table *table, const char *name);

/* Writes a value as text in the form that pnx__opts_set reads: "10min", "64MiB", "16", "never". */
void pnx__opts_format(enum pnx_opt_kind kind, uint64_t value, char *buf, size_t n);

#endif
