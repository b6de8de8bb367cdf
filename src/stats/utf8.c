/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stats/utf8.c - strict decoding of names (RFC 3629): overlong forms, surrogates and values above
 * U+10FFFF are invalid, and each offending byte stands for one U+FFFD.
 */
#include "stats/utf8.h"

/* Returns the length of the valid character at p, or 0. */
static unsigned valid_length(const unsigned char *p) {
    if (p[0] < 0x80)
        return 1;
    unsigned n = p[0] >= 0xC2 && p[0] <= 0xDF   ? 2
                 : p[0] >= 0xE0 && p[0] <= 0xEF ? 3
                 : p[0] >= 0xF0 && p[0] <= 0xF4 ? 4
                                                : 0;
    for (unsigned i = 1; i < n; i++) {
        if ((p[i] & 0xC0) != 0x80) /* the terminating 0 ends here too */
            return 0;
    }
    if ((p[0] == 0xE0 && p[1] < 0xA0) || (p[0] == 0xED && p[1] > 0x9F) ||
            (p[0] == 0xF0 && p[1] < 0x90) || (p[0] == 0xF4 && p[1] > 0x8F))
        return 0;
    return n;
}

uint32_t pnx__utf8_next(const char **text) {
    const unsigned char *p = (const unsigned char *)*text;
    if (p[0] == 0)
        return 0;
    unsigned n = valid_length(p);
    *text += n ? n : 1;
    switch (n) {
    case 1:
        return p[0];
    case 2:
        return ((p[0] & 0x1Fu) << 6) | (p[1] & 0x3Fu);
    case 3:
        return ((p[0] & 0x0Fu) << 12) | ((p[1] & 0x3Fu) << 6) | (p[2] & 0x3Fu);
    case 4:
        return ((p[0] & 0x07u) << 18) | ((p[1] & 0x3Fu) << 12) | ((p[2] & 0x3Fu) << 6) |
               (p[3] & 0x3Fu);
    default:
        return PNX_UTF8_REPLACEMENT;
    }
}

bool pnx__utf8_same(const char *a, const char *b) {
    const char *p = a ? a : "", *q = b ? b : "";
    for (;;) {
        uint32_t x = pnx__utf8_next(&p), y = pnx__utf8_next(&q);
        if (x != y)
            return false;
        if (x == 0)
            return true;
    }
}

uint32_t pnx__utf8_hash(const char *text) {
    const char *p = text ? text : "";
    uint32_t hash = 2166136261u; /* FNV-1a; only a filter before the comparison */
    for (uint32_t c; (c = pnx__utf8_next(&p)) != 0;)
        hash = (hash ^ c) * 16777619u;
    return hash;
}

size_t pnx__utf8_cut(const char *text, size_t n) {
    size_t cut = n;
    for (unsigned back = 0; back < 3 && cut > 0 && ((unsigned char)text[cut] & 0xC0) == 0x80;
            back++)
        cut--;
    return valid_length((const unsigned char *)text + cut) > n - cut ? cut : n;
}
