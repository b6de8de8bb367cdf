/* SPDX-License-Identifier: Apache-2.0 */
/* stats/utf8.h - names as exported: each byte that is not part of valid UTF-8 counts as U+FFFD. */
#ifndef PNX_SRC_STATS_UTF8_H
#define PNX_SRC_STATS_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PNX_UTF8_REPLACEMENT 0xFFFDu

/* Decodes one character of a terminated text, at most 4 bytes; 0 at its end. Advances *text. */
uint32_t pnx__utf8_next(const char **text);

/* Whether two texts are the same once exported.  NULL counts as "". */
bool pnx__utf8_same(const char *a, const char *b);

/* A hash under which texts that are the same have the same value. */
uint32_t pnx__utf8_hash(const char *text);

/* Returns at most n, less so as not to cut a character in two. */
size_t pnx__utf8_cut(const char *text, size_t n);

#endif
