/* SPDX-License-Identifier: Apache-2.0 */
/* registry/out.h - writing reports through a pnx_write_fn, in pieces, without memory. */
#ifndef PNX_SRC_REGISTRY_OUT_H
#define PNX_SRC_REGISTRY_OUT_H

#include <patinox/stats.h>

/* On the stack of one report.  After the first error of write nothing more is written. */
struct pnx_out {
    pnx_write_fn *write;
    void *ctx;
    int rc;
    size_t used;
    char buf[1024];
};

void pnx__out_init(struct pnx_out *out, pnx_write_fn *write, void *ctx);

/* Formats up to 255 bytes. */
void pnx__out(struct pnx_out *out, const char *format, ...) PNX_PRINTF(2, 3);

/* Writes a string of any length in which control characters, which could fool a terminal or a log, are \xNN. */
void pnx__out_text(struct pnx_out *out, const char *s);

/* The same, with blanks to fill up to width characters. */
void pnx__out_column(struct pnx_out *out, const char *s, int width);

/* Writes a JSON string with its quotes; what is not UTF-8 becomes U+FFFD. */
void pnx__out_json(struct pnx_out *out, const char *s);

/* Write "1.5 MiB", "12 min". */
void pnx__out_bytes(struct pnx_out *out, uint64_t bytes);
void pnx__out_ns(struct pnx_out *out, pnx_ns ns);

/* Writes what is left; returns the first error of write, else 0. */
int pnx__out_end(struct pnx_out *out);

#endif
