/* SPDX-License-Identifier: Apache-2.0 */
/* common.h - a small corpus on disk, a store over it, and questions to it. */
#ifndef TEST_LOOKUP_COMMON_H
#define TEST_LOOKUP_COMMON_H

#include "harness/harness.h"
#include "store.h"

#include <dirent.h>
#include <stdarg.h>
#include <sys/stat.h>
#include <unistd.h>

/* Everything logged since the last look, line by line. */
struct log_lines {
    struct pnx_env env;
    char text[16384];
    size_t size;
};

static inline void log_line(void *ctx, enum pnx_log_level level, const char *message) {
    (void)level;
    struct log_lines *log = ctx;
    int n = snprintf(log->text + log->size, sizeof(log->text) - log->size, "%s\n", message);
    if (n > 0 && (size_t)n < sizeof(log->text) - log->size)
        log->size += (size_t)n;
}

static inline void log_clear(struct log_lines *log) {
    log->size = 0;
    log->text[0] = '\0';
    log->env = (struct pnx_env){.size = sizeof(log->env), .ctx = log, .log = log_line};
}

__attribute__((unused))
PNX_PRINTF(3, 4) static int fill(char *buf, size_t n, const char *format, ...) {
    va_list args;
    va_start(args, format);
    int length = vsnprintf(buf, n, format, args);
    va_end(args);
    return length;
}

/* Writes a file of the corpus; its directory is made if missing. */
static inline void put_file(const char *name, const void *data, size_t n) {
    char path[4096];
    fill(path, sizeof(path), "%s/corpus", test_dir());
    mkdir(path, 0755);
    const char *slash = name;
    while ((slash = strchr(slash, '/'))) {
        fill(path, sizeof(path), "%s/corpus/%.*s", test_dir(), (int)(slash - name), name);
        mkdir(path, 0755);
        slash++;
    }
    fill(path, sizeof(path), "%s/corpus/%s", test_dir(), name);
    test_write_file(path, data, n);
}

static inline void put_text(const char *name, const char *text) {
    put_file(name, text, strlen(text));
}

static inline void put_small_corpus(void) {
    put_text("a.txt", "Alpha document\nThe quick brown fox jumps over the lazy dog.\n");
    put_text("b.txt", "Beta document\nThe slow white fox sleeps beside the dog house.\n");
    put_text("sub/c.txt", "Gamma paper\nNothing about animals, only libfoo-dev and C++ code.\n");
    put_text("sub/caf\xC3\xA9.md", "Caf\xC3\xA9 menu\nCr\xC3\xA8me br\xC3\xBBl\xC3\xA9"
                                   "e, na\xC3\xAFve fox.\n");
}

static inline struct lookup_store_opts default_opts(void) {
    static char corpus[4096], data[4096];
    fill(corpus, sizeof(corpus), "%s/corpus", test_dir());
    fill(data, sizeof(data), "%s/data", test_dir());
    return (struct lookup_store_opts){.corpus = corpus, .data_dir = data};
}

static inline struct lookup_store *open_store(struct log_lines *log) {
    struct lookup_store_opts opts = default_opts();
    if (log) {
        log_clear(log);
        opts.env = &log->env;
    }
    struct pnx_error err = {0};
    struct lookup_store *store = NULL;
    int rc = lookup_store_open(&opts, &err, &store);
    CHECK_MSG(rc == 0, "open: %d: %s", rc, err.message);
    return store;
}

static inline struct lookup_answer search(struct lookup_store *store, const char *query) {
    struct pnx_error err = {0};
    struct lookup_answer answer = {0};
    int rc = lookup_store_search(store, query, strlen(query), 0, 0, 30 * PNX_SEC, &err, &answer);
    CHECK_MSG(rc == 0, "search %s: %d: %s", query, rc, err.message);
    return answer;
}

static inline uint64_t count_of(struct lookup_store *store, const char *query) {
    struct lookup_answer answer = search(store, query);
    uint64_t total = answer.total;
    lookup_answer_release(&answer);
    return total;
}

/* A document's text, terminated; valid until the next call. */
static inline const char *text_of(const struct lookup_document *document) {
    static char text[4096];
    struct pnx_error err = {0};
    CHECK(document->size < sizeof(text));
    int rc = lookup_document_read(document, 0, text, document->size, &err);
    CHECK_MSG(rc == 0, "read: %d: %s", rc, err.message);
    text[document->size] = '\0';
    return text;
}

/* Names in the data directory that begin with "gen-", one after the other. */
static inline const char *generations(void) {
    static char names[1024];
    char path[4096];
    fill(path, sizeof(path), "%s/data", test_dir());
    struct dirent **entries = NULL;
    int n = scandir(path, &entries, NULL, alphasort);
    size_t size = 0;
    names[0] = '\0';
    for (int i = 0; i < n; i++) {
        if (strncmp(entries[i]->d_name, "gen-", 4) == 0)
            size += (size_t)fill(names + size, sizeof(names) - size, "%s%s", size ? " " : "",
                    entries[i]->d_name);
        free(entries[i]);
    }
    free(entries);
    return names;
}

static inline struct lookup_store_info info_of(struct lookup_store *store) {
    struct lookup_store_info info;
    lookup_store_info(store, &info);
    return info;
}

#endif
