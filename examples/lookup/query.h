/* SPDX-License-Identifier: Apache-2.0 */
/*
 * query.h - what a user typed, as an expression of FTS5 that cannot be wrong.
 *
 *   P1  Whatever bytes come in, the text is a list of quoted phrases, the last one perhaps followed by a star:
 *       no operator, no column, no quote of the user's gets through.
 *   P2  Queries that differ only in the case of ASCII letters, blanks and punctuation at the ends of words have
 *       the same text.
 */
#ifndef LOOKUP_QUERY_H
#define LOOKUP_QUERY_H

#include "store.h"

struct lookup_query {
    size_t size;
    uint32_t words;
    char text[LOOKUP_QUERY_MAX + 4 * LOOKUP_WORDS_MAX + 8]; /* terminated */
};

/* -EINVAL (no word), -EFBIG (too long, or too many words). */
PNX_NODISCARD int lookup_query_parse(
        const char *query, size_t size, struct pnx_error *err, struct lookup_query *ret_query);

#endif
