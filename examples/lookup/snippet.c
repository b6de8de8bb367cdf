/* SPDX-License-Identifier: Apache-2.0 */
/*
 * snippet.c - finds the place in a text where most words of a query stand close together, and marks them there.
 *
 * Two steps: a quick scan, which knows the case of ASCII only, looks for the place; FTS5's own tokenizer then says
 * exactly which words of the few around it match.
 *
 *   P1  Never reads outside the text's view, and never more than SCAN_BYTES of it.
 *   P2  The result is UTF-8, has no control characters but the marks, and marks are balanced and not nested.
 *   P3  The text is read inside a checked access scope, which copies the words around the place; everything else works
 *       on that copy.  So a file that is cut meanwhile is an error of the function, not a signal.
 */
#include "snippet.h"

#include "text.h"

#include <patinox/fault.h>

#include <sqlite3.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define SCAN_BYTES   ((size_t)4 * 1024 * 1024)
#define WINDOW_BYTES ((size_t)240)
#define BEFORE_BYTES ((size_t)60) /* of the window, before the first match */
#define TERMS_MAX    64
#define MARKS_MAX    64

#define ELLIPSIS "\xE2\x80\xA6"

/* One per connection, freed by SQLite with the function. */
struct context {
    struct pnx_mapping *texts; /* a reference */
    struct pnx_view view;
    fts5_tokenizer api;
    Fts5Tokenizer *tokenizer;
};

/* A word of the query.  The text is the tokenizer's, copied. */
struct term {
    char text[64];
    size_t size;
    bool prefix;
};

struct terms {
    struct term term[TERMS_MAX];
    size_t count;
};

/* ---- the words of the query ---- */

static int on_term(void *ctx, int flags, const char *token, int n, int start, int end) {
    (void)start;
    (void)end;
    struct terms *terms = ctx;
    if (flags & FTS5_TOKEN_COLOCATED || terms->count == TERMS_MAX)
        return SQLITE_OK;
    struct term *term = &terms->term[terms->count];
    if (n <= 0 || (size_t)n > sizeof(term->text))
        return SQLITE_OK;
    memcpy(term->text, token, (size_t)n);
    term->size = (size_t)n;
    term->prefix = false;
    terms->count++;
    return SQLITE_OK;
}

static int parse_terms(struct context *context, const char *query, size_t n, struct terms *terms) {
    terms->count = 0;
    int result = context->api.xTokenize(
            context->tokenizer, terms, FTS5_TOKENIZE_QUERY, query, (int)n, on_term);
    if (result == SQLITE_OK && terms->count > 0 && n > 0 && query[n - 1] == '*')
        terms->term[terms->count - 1].prefix = true;
    return result;
}

static bool is_match(const struct term *term, const char *word, size_t n) {
    if (term->prefix ? n < term->size : n != term->size)
        return false;
    return memcmp(term->text, word, term->size) == 0;
}

/* ---- the place ---- */

static bool is_letter(unsigned char c) {
    return c >= 0x80 || (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

static unsigned char lower(unsigned char c) {
    return c >= 'A' && c <= 'Z' ? (unsigned char)(c - 'A' + 'a') : c;
}

/* Returns the index of the term that the word at text is, as far as ASCII goes, or -1. */
static int find_term(const struct terms *terms, const unsigned char *text, size_t n) {
    for (size_t t = 0; t < terms->count; t++) {
        const struct term *term = &terms->term[t];
        if (lower(text[0]) != (unsigned char)term->text[0] ||
                (term->prefix ? n < term->size : n != term->size))
            continue;
        size_t i = 1;
        while (i < term->size && lower(text[i]) == (unsigned char)term->text[i])
            i++;
        if (i == term->size)
            return (int)t;
    }
    return -1;
}

/* The best place so far, and where each term was seen last. */
struct search {
    size_t seen[TERMS_MAX]; /* position + 1; 0: not yet */
    size_t best;            /* of the first term in the best window */
    size_t best_terms;
};

/* Counts the terms in the window that ends with the one just seen. */
static void weigh(struct search *search, size_t count, size_t at) {
    size_t first = at, distinct = 0;
    for (size_t t = 0; t < count; t++) {
        if (search->seen[t] == 0 || search->seen[t] - 1 + WINDOW_BYTES - BEFORE_BYTES < at)
            continue;
        distinct++;
        if (search->seen[t] - 1 < first)
            first = search->seen[t] - 1;
    }
    if (distinct > search->best_terms) {
        search->best_terms = distinct;
        search->best = first;
    }
}

static size_t find_place(const struct terms *terms, const unsigned char *text, size_t n) {
    struct search search = {0};
    if (n > SCAN_BYTES)
        n = SCAN_BYTES;
    for (size_t i = 0; i < n && search.best_terms < terms->count;) {
        while (i < n && !is_letter(text[i]))
            i++;
        size_t from = i;
        while (i < n && is_letter(text[i]))
            i++;
        int term = i > from ? find_term(terms, text + from, i - from) : -1;
        if (term >= 0) {
            search.seen[term] = from + 1;
            weigh(&search, terms->count, from);
        }
    }
    return search.best;
}

/* ---- the marks ---- */

struct mark {
    size_t start;
    size_t end;
};
struct marks {
    const struct terms *terms;
    struct mark mark[MARKS_MAX];
    size_t count;
};

static int on_word(void *ctx, int flags, const char *token, int n, int start, int end) {
    struct marks *marks = ctx;
    if (flags & FTS5_TOKEN_COLOCATED || marks->count == MARKS_MAX || n <= 0 || start < 0)
        return SQLITE_OK;
    for (size_t t = 0; t < marks->terms->count; t++) {
        if (!is_match(&marks->terms->term[t], token, (size_t)n))
            continue;
        marks->mark[marks->count++] = (struct mark){.start = (size_t)start, .end = (size_t)end};
        break;
    }
    return SQLITE_OK;
}

/* ---- the text around it ---- */

/* Moves a position back to the start of a character. */
static size_t to_character(const unsigned char *text, size_t at) {
    for (int i = 0; i < 3 && at > 0 && (text[at] & 0xC0) == 0x80; i++)
        at--;
    return at;
}

/* Moves the start of a window forward to the start of a word, if one begins soon. */
static size_t window_start(const unsigned char *text, size_t place) {
    if (place <= BEFORE_BYTES)
        return 0;
    size_t start = place - BEFORE_BYTES;
    for (size_t i = start; i < place; i++) {
        if (text[i] == ' ' || text[i] == '\n')
            return i + 1;
    }
    return to_character(text, start);
}

static size_t window_end(const unsigned char *text, size_t start, size_t n) {
    if (n - start <= WINDOW_BYTES)
        return n;
    size_t end = start + WINDOW_BYTES;
    for (size_t i = end; i > end - 40; i--) {
        if (text[i] == ' ' || text[i] == '\n')
            return i;
    }
    return to_character(text, end);
}

/* Appends cleaned text, runs of blanks as one. */
static void add_text(struct lookup_buffer *out, const char *text, size_t n) {
    struct lookup_buffer clean = {0};
    lookup_buffer_clean(&clean, text, n);
    out->failed |= clean.failed;
    size_t from = 0;
    for (size_t i = 0; i < clean.size; i++) {
        bool blank = clean.data[i] == ' ';
        bool after_blank =
                i > 0 ? clean.data[i - 1] == ' ' : out->size > 0 && out->data[out->size - 1] == ' ';
        if (blank && after_blank) {
            lookup_buffer_add(out, clean.data + from, i - from);
            from = i + 1;
        }
    }
    lookup_buffer_add(out, clean.data + from, clean.size - from);
    lookup_buffer_free(&clean);
}

static int write_window(struct context *context, const struct terms *terms, const char *window,
        size_t n, struct lookup_buffer *out) {
    struct marks marks = {.terms = terms};
    int result = context->api.xTokenize(
            context->tokenizer, &marks, FTS5_TOKENIZE_AUX, window, (int)n, on_word);
    if (result != SQLITE_OK)
        return result;
    size_t at = 0;
    for (size_t i = 0; i < marks.count; i++) {
        const struct mark *mark = &marks.mark[i];
        if (mark->start < at || mark->end <= mark->start || mark->end > n)
            continue;
        add_text(out, window + at, mark->start - at);
        lookup_buffer_add(out, (const char[]){LOOKUP_MARK_BEGIN}, 1);
        add_text(out, window + mark->start, mark->end - mark->start);
        lookup_buffer_add(out, (const char[]){LOOKUP_MARK_END}, 1);
        at = mark->end;
    }
    add_text(out, window + at, n - at);
    return SQLITE_OK;
}

/* The part of a text that is shown. */
struct window {
    bool before; /* there is more of the text before it */
    bool after;
    size_t size;
    char text[WINDOW_BYTES];
};

/* Finds the place and copies it.  The scan stands whatever bytes it finds: they may be zeros, or change meanwhile. */
static int copy_window(struct pnx_mapping *texts, const struct pnx_view *text,
        const struct terms *terms, struct window *window) {
    struct pnx_fault_scope scope;
    int rc = pnx_fault_begin(texts, &scope);
    if (rc)
        return rc;
    size_t place = find_place(terms, text->p, text->n);
    size_t start = window_start(text->p, place);
    size_t end = window_end(text->p, start, text->n);
    window->before = start > 0;
    window->after = end < text->n;
    window->size = end - start;
    memcpy(window->text, text->p + start, window->size);
    return pnx_fault_end_checked(&scope);
}

static int make_snippet(struct context *context, const struct pnx_view *text, const char *query,
        size_t query_size, struct lookup_buffer *out) {
    struct terms terms;
    struct window window;
    int result = parse_terms(context, query, query_size, &terms);
    if (result != SQLITE_OK)
        return result;
    if (copy_window(context->texts, text, &terms, &window) != 0)
        return LOOKUP_SNIPPET_STALE;
    if (window.before)
        lookup_buffer_text(out, ELLIPSIS " ");
    result = write_window(context, &terms, window.text, window.size, out);
    if (window.after)
        lookup_buffer_text(out, " " ELLIPSIS);
    return result != SQLITE_OK || !out->failed ? result : SQLITE_NOMEM;
}

/* ---- the function ---- */

static void snippet(sqlite3_context *call, int argc, sqlite3_value **argv) {
    (void)argc;
    struct context *context = sqlite3_user_data(call);
    sqlite3_int64 offset = sqlite3_value_int64(argv[0]);
    sqlite3_int64 size = sqlite3_value_int64(argv[1]);
    const char *query = (const char *)sqlite3_value_text(argv[2]);
    struct pnx_view text;
    if (offset < 0 || size < 0 || !query ||
            pnx_view_sub(&context->view, (uint64_t)offset, (size_t)size, &text) != 0) {
        sqlite3_result_error_code(call, SQLITE_CORRUPT);
        return;
    }
    struct lookup_buffer out = {0};
    int result = make_snippet(context, &text, query, (size_t)sqlite3_value_bytes(argv[2]), &out);
    if (result != SQLITE_OK) {
        lookup_buffer_free(&out);
        sqlite3_result_error_code(call, result);
        return;
    }
    sqlite3_result_text64(call, out.data ? out.data : "", out.size, SQLITE_TRANSIENT, SQLITE_UTF8);
    lookup_buffer_free(&out);
}

static void destroy(void *arg) {
    struct context *context = arg;
    if (context->tokenizer)
        context->api.xDelete(context->tokenizer);
    pnx_mapping_release(&context->texts);
    free(context);
}

/* SQLite's way to FTS5's functions: a statement with a pointer bound to it. */
static int find_fts5(sqlite3 *handle, fts5_api **ret_api) {
    sqlite3_stmt *stmt = NULL;
    int result = sqlite3_prepare_v2(handle, "SELECT fts5(?1)", -1, &stmt, NULL);
    if (result == SQLITE_OK) {
        sqlite3_bind_pointer(stmt, 1, ret_api, "fts5_api_ptr", NULL);
        sqlite3_step(stmt);
        result = sqlite3_finalize(stmt);
    }
    if (result != SQLITE_OK)
        return (result & 0xff) == SQLITE_NOMEM ? -ENOMEM : -ENOTSUP;
    return *ret_api && (*ret_api)->iVersion >= 2 ? 0 : -ENOTSUP;
}

static int make_tokenizer(sqlite3 *handle, struct context *context) {
    fts5_api *api = NULL;
    int rc = find_fts5(handle, &api);
    if (rc)
        return rc;
    void *user = NULL;
    const char *args[] = {"remove_diacritics", "2"};
    int result = api->xFindTokenizer(api, "unicode61", &user, &context->api);
    if (result == SQLITE_OK)
        result = context->api.xCreate(user, args, 2, &context->tokenizer);
    if (result != SQLITE_OK)
        return (result & 0xff) == SQLITE_NOMEM ? -ENOMEM : -ENOTSUP;
    return 0;
}

int lookup_snippet_register(struct sqlite3 *handle, struct pnx_mapping *texts) {
    struct context *context = calloc(1, sizeof(*context));
    if (!context)
        return -ENOMEM;
    context->texts = pnx_mapping_ref(texts);
    context->view = pnx_view_all(texts);
    int rc = make_tokenizer(handle, context);
    if (rc) {
        destroy(context);
        return rc;
    }
    /* SQLite destroys the context, also when this fails. */
    int result = sqlite3_create_function_v2(handle, "lookup_snippet", 3,
            SQLITE_UTF8 | SQLITE_DETERMINISTIC | SQLITE_DIRECTONLY, context, snippet, NULL, NULL,
            destroy);
    return result == SQLITE_OK ? 0 : -ENOMEM;
}
