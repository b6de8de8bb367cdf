/* SPDX-License-Identifier: Apache-2.0 */
/*
 * base/options.c - checks, defaults and parsing of option structs from their tables.
 *
 * Guarantees P1..P3 stand in base/options.h.
 */
#include "base/options.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

struct unit {
    const char *name;
    uint64_t factor;
};

/* Largest first: the formatter takes the first that divides. */
static const struct unit time_units[] = {
        {"h", UINT64_C(3600000000000)},
        {"min", UINT64_C(60000000000)},
        {"s", UINT64_C(1000000000)},
        {"ms", UINT64_C(1000000)},
        {"us", UINT64_C(1000)},
        {"ns", 1},
};
static const struct unit byte_units[] = {
        {"TiB", UINT64_C(1) << 40},
        {"GiB", UINT64_C(1) << 30},
        {"MiB", UINT64_C(1) << 20},
        {"KiB", UINT64_C(1) << 10},
        {"B", 1},
};

int pnx__opts_copy(
        const char *what, size_t known, const void *user, void *ret, struct pnx_error *err) {
    size_t size;
    memcpy(&size, user, sizeof(size));
    if (size < sizeof(size_t))
        return pnx__fail_field(
                err, -EINVAL, "size", "%s: size is %zu; set it with the options macro", what, size);
    const unsigned char *bytes = user;
    for (size_t i = known; i < size; i++) {
        if (bytes[i] != 0)
            return pnx__fail_field(err, -E2BIG, "size",
                    "%s: a field at offset %zu is set that this library (%zu bytes) does not know",
                    what, i, known);
    }
    memcpy(ret, user, size < known ? size : known);
    memcpy(ret, &known, sizeof(known));
    return 0;
}

static bool is_number(enum pnx_opt_kind kind) {
    return kind != PNX_OPT_STRING && kind != PNX_OPT_POINTER;
}

static uint64_t read_field(const struct pnx_opt *row, const void *opts) {
    const char *at = (const char *)opts + row->offset;
    uint32_t u32;
    uint64_t u64;
    size_t bytes;
    void *pointer;
    switch (row->kind) {
    case PNX_OPT_U32:
    case PNX_OPT_FLAGS:
        memcpy(&u32, at, sizeof(u32));
        return u32;
    case PNX_OPT_U64:
    case PNX_OPT_NS:
        memcpy(&u64, at, sizeof(u64));
        return u64;
    case PNX_OPT_BYTES:
        memcpy(&bytes, at, sizeof(bytes));
        return bytes;
    case PNX_OPT_STRING:
    case PNX_OPT_POINTER:
        break;
    }
    memcpy(&pointer, at, sizeof(pointer));
    return (uintptr_t)pointer;
}

static void write_field(const struct pnx_opt *row, void *opts, uint64_t value) {
    char *at = (char *)opts + row->offset;
    uint32_t u32 = (uint32_t)value;
    size_t bytes = (size_t)value;
    switch (row->kind) {
    case PNX_OPT_U32:
    case PNX_OPT_FLAGS:
        memcpy(at, &u32, sizeof(u32));
        break;
    case PNX_OPT_U64:
    case PNX_OPT_NS:
        memcpy(at, &value, sizeof(value));
        break;
    case PNX_OPT_BYTES:
        memcpy(at, &bytes, sizeof(bytes));
        break;
    case PNX_OPT_STRING:
    case PNX_OPT_POINTER:
        break; /* never written from a number */
    }
}

static int check_value(const struct pnx_opt_table *table, const struct pnx_opt *row, uint64_t value,
        int range_code, struct pnx_error *err) {
    if (row->kind == PNX_OPT_FLAGS) {
        uint64_t unknown = value & ~row->max;
        if (unknown)
            return pnx__fail_field(err, -EINVAL, row->name, "%s.%s: unknown bits 0x%" PRIx64,
                    table->what, row->name, unknown);
        return 0;
    }
    if (row->kind == PNX_OPT_NS && (int64_t)value < 0)
        return pnx__fail_field(err, -EINVAL, row->name, "%s.%s is negative (%" PRId64 " ns)",
                table->what, row->name, (int64_t)value);
    if (value < row->min || value > row->max) {
        char got[32], lo[32], hi[32];
        pnx__opts_format(row->kind, value, got, sizeof(got));
        pnx__opts_format(row->kind, row->min, lo, sizeof(lo));
        pnx__opts_format(row->kind, row->max, hi, sizeof(hi));
        return pnx__fail_field(err, range_code, row->name,
                "%s.%s is %s; it must be between %s and %s", table->what, row->name, got, lo, hi);
    }
    return 0;
}

int pnx__opts_resolve(const struct pnx_opt_table *table, const void *user, void *ret_opts,
        struct pnx_error *err) {
    _Alignas(16) unsigned char copy[PNX_OPTS_MAX_SIZE];
    if (table->size > sizeof(copy))
        return -EINVAL;
    memset(copy, 0, table->size);
    memcpy(copy, &table->size, sizeof(table->size));
    if (user) {
        int rc = pnx__opts_copy(table->what, table->size, user, copy, err);
        if (rc)
            return rc;
    }
    for (size_t i = 0; i < table->count; i++) {
        const struct pnx_opt *row = &table->rows[i];
        uint64_t value = read_field(row, copy);
        if (value == 0) {
            if (row->flags & PNX_OPT_REQUIRED)
                return pnx__fail_field(
                        err, -EINVAL, row->name, "%s.%s is required", table->what, row->name);
            if (is_number(row->kind))
                write_field(row, copy, row->fallback);
            continue;
        }
        if (!is_number(row->kind))
            continue;
        int rc = check_value(table, row, value, -EINVAL, err);
        if (rc)
            return rc;
    }
    memcpy(ret_opts, copy, table->size);
    return 0;
}

const struct pnx_opt *pnx__opts_find(const struct pnx_opt_table *table, const char *name) {
    for (size_t i = 0; i < table->count; i++) {
        if (strcmp(table->rows[i].name, name) == 0)
            return &table->rows[i];
    }
    return NULL;
}

/* Parses "123" followed by an optional unit; a bare number other than 0 needs a unit where units exist. */
static size_t width_of(const struct pnx_opt *row) {
    return row->kind == PNX_OPT_U32 || row->kind == PNX_OPT_FLAGS ? sizeof(uint32_t)
                                                                  : sizeof(uint64_t);
}

int pnx__opts_fill(
        const struct pnx_opt_table *table, const void *values, void *opts, struct pnx_error *err) {
    size_t size;
    memcpy(&size, opts, sizeof(size));
    if (size < sizeof(size))
        return pnx__fail_field(err, -EINVAL, "size", "%s.size is not set", table->what);
    for (size_t i = 0; i < table->count; i++) {
        const struct pnx_opt *row = &table->rows[i];
        if (is_number(row->kind) && row->offset + width_of(row) <= size &&
                read_field(row, opts) == 0)
            write_field(row, opts, read_field(row, values));
    }
    return 0;
}

static int parse_number(
        const char *text, const struct unit *units, size_t n_units, uint64_t *ret_value) {
    const char *p = text;
    uint64_t value = 0;
    if (*p < '0' || *p > '9')
        return -EINVAL;
    for (; *p >= '0' && *p <= '9'; p++) {
        if (__builtin_mul_overflow(value, 10, &value) ||
                __builtin_add_overflow(value, (uint64_t)(*p - '0'), &value))
            return -ERANGE;
    }
    while (*p == ' ')
        p++;
    if (*p == '\0') {
        if (n_units != 0 && value != 0)
            return -EINVAL;
        *ret_value = value;
        return 0;
    }
    for (size_t i = 0; i < n_units; i++) {
        if (strcmp(p, units[i].name) != 0)
            continue;
        if (__builtin_mul_overflow(value, units[i].factor, &value))
            return -ERANGE;
        *ret_value = value;
        return 0;
    }
    return -EINVAL;
}

int pnx__opts_set(const struct pnx_opt_table *table, void *opts, const char *name, const char *text,
        struct pnx_error *err) {
    const struct pnx_opt *row = pnx__opts_find(table, name);
    if (!row)
        return pnx__fail_field(err, -ENOENT, NULL, "%s has no option \"%.64s\"", table->what, name);
    if (!is_number(row->kind))
        return pnx__fail_field(
                err, -ENOTSUP, row->name, "%s.%s cannot be set from text", table->what, row->name);
    uint64_t value = 0;
    int rc;
    if (row->kind == PNX_OPT_NS && strcmp(text, "never") == 0) {
        value = (uint64_t)PNX_NEVER;
        rc = 0;
    } else if (row->kind == PNX_OPT_NS) {
        rc = parse_number(text, time_units, sizeof(time_units) / sizeof(time_units[0]), &value);
    } else if (row->kind == PNX_OPT_BYTES) {
        rc = parse_number(text, byte_units, sizeof(byte_units) / sizeof(byte_units[0]), &value);
    } else {
        rc = parse_number(text, NULL, 0, &value);
    }
    if (rc == -EINVAL) {
        const char *form = row->kind == PNX_OPT_NS
                                   ? "a duration such as \"250ms\", \"10min\" or \"never\""
                           : row->kind == PNX_OPT_BYTES ? "a size such as \"64MiB\""
                                                        : "a whole number";
        return pnx__fail_field(err, rc, row->name, "%s.%s: \"%.64s\" is not %s", table->what,
                row->name, text, form);
    }
    if (rc)
        return pnx__fail_field(
                err, rc, row->name, "%s.%s: \"%.64s\" is too large", table->what, row->name, text);
    if (value == 0 && (row->flags & PNX_OPT_REQUIRED))
        return pnx__fail_field(err, -EINVAL, row->name, "%s.%s is required and cannot be 0",
                table->what, row->name);
    if (value != 0) {
        rc = check_value(table, row, value, -ERANGE, err);
        if (rc)
            return rc;
    }
    write_field(row, opts, value);
    return 0;
}

void pnx__opts_format(enum pnx_opt_kind kind, uint64_t value, char *buf, size_t n) {
    const struct unit *units = NULL;
    size_t n_units = 0;
    if (kind == PNX_OPT_NS) {
        if (value == (uint64_t)PNX_NEVER) {
            snprintf(buf, n, "never");
            return;
        }
        units = time_units;
        n_units = sizeof(time_units) / sizeof(time_units[0]);
    } else if (kind == PNX_OPT_BYTES) {
        units = byte_units;
        n_units = sizeof(byte_units) / sizeof(byte_units[0]);
    }
    for (size_t i = 0; value != 0 && i < n_units; i++) {
        if (value % units[i].factor == 0) {
            snprintf(buf, n, "%" PRIu64 "%s", value / units[i].factor, units[i].name);
            return;
        }
    }
    snprintf(buf, n, "%" PRIu64, value);
}
