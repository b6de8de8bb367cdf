/* SPDX-License-Identifier: Apache-2.0 */
/*
 * extract.c - reads one file and says what text is in it.
 *
 * Decompression is libarchive's ("raw" format, all filters that it has in-process; those for which it would start
 * another program are left out).  Never more than max_bytes are made of a file, however well it is compressed.
 *
 *   P1  A text is well-formed UTF-8 without NUL bytes and not longer than max_bytes allows (three times that when
 *       it had to be converted).
 *   P2  A damaged or strange file is a kind of result, not an error.
 */
#include "extract.h"

#include <archive.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/types.h>
#include <unistd.h>

#define READ_BYTES ((size_t)64 * 1024)

/* ---- reading ---- */

struct magic {
    const char *bytes;
    size_t size;
};
static const struct magic compressed[] = {
        {"\x1F\x8B\x08", 3}, /* gzip */
        {"BZh", 3},          /* bzip2 */
        {"\xFD"
         "7zXZ\x00",
                6},                  /* xz */
        {"\x28\xB5\x2F\xFD", 4},     /* zstd */
        {"\x04\x22\x4D\x18", 4},     /* lz4 */
        {"LZIP\x01", 5},             /* lzip */
        {"\x1F\x9D", 2},             /* compress */
        {"\x5D\x00\x00\x80\x00", 5}, /* lzma with its usual dictionary */
};

static bool is_compressed(const char *head, size_t n) {
    for (size_t i = 0; i < sizeof(compressed) / sizeof(compressed[0]); i++) {
        if (n >= compressed[i].size && memcmp(head, compressed[i].bytes, compressed[i].size) == 0)
            return true;
    }
    return false;
}

static int unreadable(struct lookup_extract *extract, const char *reason) {
    extract->kind = LOOKUP_UNREADABLE;
    snprintf(extract->reason, sizeof(extract->reason), "%s", reason ? reason : "unknown error");
    return 0;
}

/* Appends up to max_bytes of the descriptor to raw.  One byte more than fits says that there is more. */
static int read_plain(
        int fd, size_t max_bytes, struct lookup_extract *extract, struct lookup_buffer *raw) {
    char piece[READ_BYTES];
    while (raw->size <= max_bytes) {
        size_t want = max_bytes + 1 - raw->size;
        ssize_t n = pread(fd, piece, want < sizeof(piece) ? want : sizeof(piece), (off_t)raw->size);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return unreadable(extract, strerror(errno));
        if (n == 0)
            return 0;
        /* A binary file says so in its first piece, mostly: no need to read it all. */
        bool first = raw->size == 0;
        lookup_buffer_add(raw, piece, (size_t)n);
        if (raw->failed)
            return -ENOMEM;
        if (first && (is_compressed(piece, (size_t)n) || memchr(piece, 0, (size_t)n)))
            return 0;
    }
    return 0;
}

/* Turns on what libarchive does itself; ARCHIVE_WARN means that it would start a program. */
static bool open_filters(struct archive *archive) {
    return archive_read_support_format_raw(archive) == ARCHIVE_OK &&
           archive_read_support_format_empty(archive) == ARCHIVE_OK &&
           archive_read_support_filter_gzip(archive) == ARCHIVE_OK &&
           archive_read_support_filter_bzip2(archive) == ARCHIVE_OK &&
           archive_read_support_filter_xz(archive) == ARCHIVE_OK &&
           archive_read_support_filter_lzma(archive) == ARCHIVE_OK &&
           archive_read_support_filter_zstd(archive) == ARCHIVE_OK &&
           archive_read_support_filter_lz4(archive) == ARCHIVE_OK &&
           archive_read_support_filter_lzip(archive) == ARCHIVE_OK &&
           archive_read_support_filter_compress(archive) == ARCHIVE_OK;
}

static int read_archive(struct archive *archive, int fd, size_t max_bytes,
        struct lookup_extract *extract, struct lookup_buffer *raw) {
    struct archive_entry *entry;
    if (lseek(fd, 0, SEEK_SET) < 0)
        return unreadable(extract, strerror(errno));
    if (archive_read_open_fd(archive, fd, READ_BYTES) != ARCHIVE_OK)
        return unreadable(extract, archive_error_string(archive));
    int result = archive_read_next_header(archive, &entry);
    if (result == ARCHIVE_EOF)
        return 0;
    if (result != ARCHIVE_OK)
        return unreadable(extract, archive_error_string(archive));
    char piece[READ_BYTES];
    while (raw->size <= max_bytes) {
        size_t want = max_bytes + 1 - raw->size;
        la_ssize_t n =
                archive_read_data(archive, piece, want < sizeof(piece) ? want : sizeof(piece));
        if (n < 0)
            return unreadable(extract, archive_error_string(archive));
        if (n == 0)
            return 0;
        bool first = raw->size == 0;
        lookup_buffer_add(raw, piece, (size_t)n);
        if (raw->failed)
            return -ENOMEM;
        if (first && memchr(piece, 0, (size_t)n))
            return 0;
    }
    return 0;
}

static int read_compressed(
        int fd, size_t max_bytes, struct lookup_extract *extract, struct lookup_buffer *raw) {
    raw->size = 0;
    struct archive *archive = archive_read_new();
    if (!archive)
        return -ENOMEM;
    int rc = open_filters(archive) ? read_archive(archive, fd, max_bytes, extract, raw)
                                   : unreadable(extract, "libarchive lacks a filter");
    archive_read_free(archive);
    return rc;
}

/* ---- is it text? ---- */

/* More than one byte in 32 that no text file has. */
static bool has_controls(const char *text, size_t n) {
    size_t odd = 0;
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c < 0x20 && !(c >= '\a' && c <= '\r') && c != 0x1B)
            odd++;
    }
    return odd > n / 32;
}

/* Text in one of the one-byte alphabets has at most as many high bytes as others; data has more. */
static bool is_latin1(const char *text, size_t n) {
    size_t high = 0;
    for (size_t i = 0; i < n; i++)
        high += (unsigned char)text[i] >= 0x80;
    return high <= n / 4;
}

static bool is_blank(const char *text, size_t n) {
    for (size_t i = 0; i < n; i++) {
        if (text[i] == '\0' || !strchr(" \t\r\n\f\v", text[i]))
            return false;
    }
    return true;
}

/* Cuts at max_bytes, before a character that would be split. */
static void cut(struct lookup_extract *extract, size_t max_bytes, struct lookup_buffer *raw) {
    if (raw->size <= max_bytes)
        return;
    extract->truncated = true;
    raw->size = max_bytes;
    for (size_t back = 1; back <= 3 && back <= raw->size; back++) {
        unsigned char c = (unsigned char)raw->data[raw->size - back];
        if (c < 0x80)
            return;
        if (c >= 0xC0) {
            if (!lookup_utf8_char(raw->data + raw->size - back, back))
                raw->size -= back;
            return;
        }
    }
}

/* Decides what raw is, and moves or converts it into the result. */
static int recognise(struct lookup_extract *extract, struct lookup_buffer *raw) {
    const char *text = raw->data;
    size_t n = raw->size;
    if (n >= 3 && memcmp(text, "\xEF\xBB\xBF", 3) == 0) {
        text += 3;
        n -= 3;
    }
    if (n == 0 || is_blank(text, n)) {
        extract->kind = LOOKUP_EMPTY;
        return 0;
    }
    bool utf8 = !memchr(text, 0, n) && lookup_utf8_valid(text, n) == n;
    if (memchr(text, 0, n) || has_controls(text, n) || (!utf8 && !is_latin1(text, n))) {
        extract->kind = LOOKUP_BINARY;
        return 0;
    }
    extract->kind = LOOKUP_TEXT;
    if (utf8 && text == raw->data) {
        extract->text = *raw;
        *raw = (struct lookup_buffer){0};
        return 0;
    }
    if (utf8)
        lookup_buffer_add(&extract->text, text, n);
    else
        lookup_buffer_latin1(&extract->text, text, n);
    return extract->text.failed ? -ENOMEM : 0;
}

/* ---- the title ---- */

static bool is_word(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c < 0;
}

/* Copies text into the title: runs of blanks as one, cut between characters. */
static void set_title(struct lookup_extract *extract, const char *text, size_t n) {
    struct lookup_buffer clean = {0};
    lookup_buffer_clean(&clean, text, n < 4 * LOOKUP_TITLE_MAX ? n : 4 * LOOKUP_TITLE_MAX);
    size_t out = 0;
    for (size_t i = 0; i < clean.size;) {
        size_t length = lookup_utf8_char(clean.data + i, clean.size - i);
        if (length == 0 || out + length > LOOKUP_TITLE_MAX)
            break;
        bool skip = clean.data[i] == ' ' && (out == 0 || extract->title[out - 1] == ' ');
        if (!skip) {
            memcpy(extract->title + out, clean.data + i, length);
            out += length;
        }
        i += length;
    }
    while (out > 0 && extract->title[out - 1] == ' ')
        out--;
    extract->title[out] = '\0';
    lookup_buffer_free(&clean);
}

/* The content of <title> in what looks like HTML. */
static bool html_title(struct lookup_extract *extract) {
    const char *text = extract->text.data;
    size_t n = extract->text.size < 8192 ? extract->text.size : 8192;
    if (n < 7 || text[strspn(text, " \t\r\n")] != '<')
        return false;
    for (size_t i = 0; i + 7 < n; i++) {
        if (strncasecmp(text + i, "<title>", 7) != 0)
            continue;
        const char *from = text + i + 7;
        const char *end = memchr(from, '<', n - i - 7);
        if (end)
            set_title(extract, from, (size_t)(end - from));
        return extract->title[0] != '\0';
    }
    return false;
}

/* The first line with a word in it. */
static bool line_title(struct lookup_extract *extract) {
    const char *text = extract->text.data;
    size_t n = extract->text.size;
    for (size_t from = 0; from < n;) {
        const char *newline = memchr(text + from, '\n', n - from);
        size_t to = newline ? (size_t)(newline - text) : n;
        for (size_t i = from; i < to; i++) {
            if (is_word(text[i])) {
                set_title(extract, text + from, to - from);
                return extract->title[0] != '\0';
            }
        }
        from = to + 1;
    }
    return false;
}

static int finish(struct lookup_extract *extract, const char *name) {
    if (extract->kind != LOOKUP_TEXT)
        return 0;
    /* A NUL behind the text lets the functions above use those of the C library. */
    lookup_buffer_add(&extract->text, "", 1);
    if (extract->text.failed)
        return -ENOMEM;
    extract->text.size--;
    if (!html_title(extract) && !line_title(extract))
        set_title(extract, name, strlen(name));
    return 0;
}

int lookup_extract(int fd, const char *name, size_t max_bytes, struct lookup_extract *ret_extract) {
    struct lookup_extract extract = {0};
    struct lookup_buffer raw = {0};
    int rc = read_plain(fd, max_bytes, &extract, &raw);
    if (!rc && !extract.kind && !raw.data)
        extract.kind = LOOKUP_EMPTY; /* nothing was read: there is nothing to look at */
    if (!rc && !extract.kind && is_compressed(raw.data, raw.size))
        rc = read_compressed(fd, max_bytes, &extract, &raw);
    if (!rc && !extract.kind) {
        cut(&extract, max_bytes, &raw);
        rc = recognise(&extract, &raw);
    }
    if (!rc)
        rc = finish(&extract, name);
    lookup_buffer_free(&raw);
    if (rc) {
        lookup_extract_release(&extract);
        return rc;
    }
    *ret_extract = extract;
    return 0;
}

void lookup_extract_release(struct lookup_extract *extract) {
    lookup_buffer_free(&extract->text);
    *extract = (struct lookup_extract){0};
}
