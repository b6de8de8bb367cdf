/* SPDX-License-Identifier: Apache-2.0 */
/*
 * registry/out.c - the text and JSON of reports.
 *
 *   P1  JSON strings are valid whatever bytes a name has.
 *   P2  Text never carries a control character of a name to the reader.
 */
#include "registry/out.h"

#include "stats/utf8.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void pnx__out_init(struct pnx_out *out, pnx_write_fn *write, void *ctx) {
    out->write = write;
    out->ctx = ctx;
    out->rc = 0;
    out->used = 0;
}

static void flush(struct pnx_out *out) {
    if (out->rc == 0 && out->used > 0) {
        int rc = out->write(out->ctx, out->buf, out->used);
        out->rc = rc < 0 ? rc : 0;
    }
    out->used = 0;
}

static void put(struct pnx_out *out, const char *bytes, size_t n) {
    if (out->used + n > sizeof(out->buf))
        flush(out);
    memcpy(out->buf + out->used, bytes, n); /* n is at most 255 */
    out->used += n;
}

void pnx__out(struct pnx_out *out, const char *format, ...) {
    char piece[256];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(piece, sizeof(piece), format, args);
    va_end(args);
    if (n > 0)
        put(out, piece, (size_t)n < sizeof(piece) ? (size_t)n : sizeof(piece) - 1);
}

void pnx__out_column(struct pnx_out *out, const char *s, int width) {
    for (const char *at = s; *at; width--) {
        const char *start = at;
        uint32_t c = pnx__utf8_next(&at);
        bool invalid = c == PNX_UTF8_REPLACEMENT && at - start == 1;
        if (c < 0x20 || (c >= 0x7f && c < 0xa0) || invalid) {
            pnx__out(out, "\\x%02x", invalid ? (unsigned char)*start : (unsigned)c);
            width -= 3;
        } else {
            put(out, start, (size_t)(at - start));
        }
    }
    for (; width > 0; width--)
        put(out, " ", 1);
}

void pnx__out_text(struct pnx_out *out, const char *s) {
    pnx__out_column(out, s, 0);
}

void pnx__out_json(struct pnx_out *out, const char *s) {
    put(out, "\"", 1);
    for (const char *at = s; *at;) {
        const char *start = at;
        uint32_t c = pnx__utf8_next(&at);
        if (c == '"' || c == '\\')
            pnx__out(out, "\\%c", (int)c);
        else if (c < 0x20 || c == 0x7f)
            pnx__out(out, "\\u%04x", (unsigned)c);
        else if (c == PNX_UTF8_REPLACEMENT)
            put(out, "\\ufffd", 6);
        else
            put(out, start, (size_t)(at - start));
    }
    put(out, "\"", 1);
}

void pnx__out_bytes(struct pnx_out *out, uint64_t bytes) {
    static const char *const units[] = {"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    if (bytes < 1024) {
        pnx__out(out, "%u B", (unsigned)bytes);
        return;
    }
    unsigned unit = 0;
    uint64_t scaled = bytes;
    for (; scaled >= 1024 * 1024; unit++)
        scaled >>= 10;
    pnx__out(out, "%.1f %s", (double)scaled / 1024.0, units[unit]);
}

void pnx__out_ns(struct pnx_out *out, pnx_ns ns) {
    double s = (double)ns / (double)PNX_SEC;
    if (s < 1)
        pnx__out(out, "%.0f ms", s * 1e3);
    else if (s < 120)
        pnx__out(out, "%.1f s", s);
    else if (s < 7200)
        pnx__out(out, "%.0f min", s / 60);
    else
        pnx__out(out, "%.1f h", s / 3600);
}

int pnx__out_end(struct pnx_out *out) {
    flush(out);
    return out->rc;
}
