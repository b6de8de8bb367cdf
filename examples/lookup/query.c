/* SPDX-License-Identifier: Apache-2.0 */
/*
 * query.c - reads a query as words and phrases; guarantees P1 and P2 stand in query.h.
 *
 * Outside quotes a blank ends a phrase, any other separator only a word: libfoo-dev is the phrase "libfoo dev".
 * Bytes that are not UTF-8 separate words like punctuation; those that are, and not ASCII, belong to words, and
 * FTS5's tokenizer decides about them.
 */
#include "query.h"

#include "corpus.h"
#include "text.h"

#include <string.h>

enum byte_class { WORD, PUNCTUATION, BLANK, QUOTE };

/* State of one parse.  Inside a phrase, text ends before the closing quote. */
struct parser {
    struct lookup_query *query;
    bool quoted;    /* inside the user's quotes */
    bool phrase;    /* a phrase is open */
    bool word;      /* the last byte belonged to a word */
    size_t letters; /* of the word */
};

static enum byte_class classify(unsigned char c) {
    if (c >= 0x80 || (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'))
        return WORD;
    if (c == '"')
        return QUOTE;
    return c <= ' ' || c == 0x7F ? BLANK : PUNCTUATION;
}

static void put(struct parser *parser, const char *text, size_t n) {
    memcpy(parser->query->text + parser->query->size, text, n);
    parser->query->size += n;
}

static void end_word(struct parser *parser) {
    parser->word = false;
}

static void end_phrase(struct parser *parser) {
    if (parser->phrase)
        put(parser, "\"", 1);
    parser->phrase = parser->word = false;
}

/* False when there are too many words. */
static bool put_letter(struct parser *parser, const char *text, size_t n) {
    if (!parser->word) {
        if (parser->query->words == LOOKUP_WORDS_MAX)
            return false;
        parser->query->words++;
        if (parser->query->size > 0)
            put(parser, " ", 1);
        if (!parser->phrase)
            put(parser, "\"", 1);
        parser->phrase = parser->word = true;
        parser->letters = 0;
    }
    char lower = text[0];
    if (lower >= 'A' && lower <= 'Z')
        lower = (char)(lower - 'A' + 'a');
    put(parser, &lower, 1);
    put(parser, text + 1, n - 1);
    parser->letters++;
    return true;
}

static bool parse(struct parser *parser, const char *query, size_t size) {
    for (size_t i = 0; i < size;) {
        size_t n = lookup_utf8_char(query + i, size - i);
        enum byte_class class = n ? classify((unsigned char)query[i]) : PUNCTUATION;
        if (class == WORD && !put_letter(parser, query + i, n))
            return false;
        if (class == QUOTE) {
            end_phrase(parser);
            parser->quoted = !parser->quoted;
        }
        if (class == BLANK && !parser->quoted)
            end_phrase(parser);
        if (class == PUNCTUATION || class == BLANK)
            end_word(parser);
        i += n ? n : 1;
    }
    return true;
}

int lookup_query_parse(
        const char *query, size_t size, struct pnx_error *err, struct lookup_query *ret_query) {
    if (size > LOOKUP_QUERY_MAX)
        return lookup_fail(
                err, -EFBIG, "query", "the query is longer than %u bytes", LOOKUP_QUERY_MAX);
    ret_query->size = 0;
    ret_query->words = 0;
    struct parser parser = {.query = ret_query};
    if (!parse(&parser, query, size))
        return lookup_fail(
                err, -EFBIG, "query", "the query has more than %u words", LOOKUP_WORDS_MAX);
    if (ret_query->words == 0)
        return lookup_fail(err, -EINVAL, "query", "the query has no word in it");
    /* The last word may be unfinished: a search while typing. */
    bool prefix = parser.word && !parser.quoted && parser.letters >= 3;
    end_phrase(&parser);
    if (prefix)
        put(&parser, "*", 1);
    ret_query->text[ret_query->size] = '\0';
    return 0;
}
