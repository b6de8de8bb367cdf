/* SPDX-License-Identifier: Apache-2.0 */
/* Files of every kind, and what text comes out of them. */
#include "extract.h"
#include "harness/harness.h"

#include <archive.h>
#include <archive_entry.h>
#include <fcntl.h>
#include <unistd.h>

static struct lookup_extract extract_max(const void *data, size_t n, size_t max) {
    test_write_file(test_path("file"), data, n);
    int fd = open(test_path("file"), O_RDONLY);
    CHECK(fd >= 0);
    struct lookup_extract extract;
    CHECK_EQ(lookup_extract(fd, "file.name", max, &extract), 0);
    close(fd);
    if (extract.kind == LOOKUP_TEXT) {
        CHECK_EQ(lookup_utf8_valid(extract.text.data, extract.text.size), extract.text.size);
        CHECK(!memchr(extract.text.data, 0, extract.text.size));
        CHECK(extract.title[0] != '\0');
    }
    return extract;
}

static struct lookup_extract extract(const char *text) {
    return extract_max(text, strlen(text), 1u << 20);
}

static void expect(struct lookup_extract *extract, const char *text, const char *title) {
    CHECK_EQ(extract->kind, LOOKUP_TEXT);
    CHECK_EQ(extract->text.size, strlen(text));
    CHECK(memcmp(extract->text.data, text, strlen(text)) == 0);
    CHECK_STR(extract->title, title);
    lookup_extract_release(extract);
}

TEST(plain_text_is_taken_as_it_is) {
    struct lookup_extract e = extract("\n\n  A   title\there  \nand more\n");
    expect(&e, "\n\n  A   title\there  \nand more\n", "A title here");
    e = extract("----\n====\nreal\n");
    expect(&e, "----\n====\nreal\n", "real");
    e = extract("*** !!!\n");
    expect(&e, "*** !!!\n", "file.name");
    e = extract("\xEF\xBB\xBFwith a mark");
    expect(&e, "with a mark", "with a mark");
}

TEST(html_has_its_own_title) {
    struct lookup_extract e = extract("<!DOCTYPE html>\n<html><head><TITLE>The\n page</TITLE>");
    CHECK_STR(e.title, "The page");
    lookup_extract_release(&e);
    e = extract("<html><title>");
    CHECK_STR(e.title, "<html><title>");
    lookup_extract_release(&e);
}

TEST(title_is_cut_between_characters) {
    char text[1000];
    for (size_t i = 0; i + 1 < sizeof(text); i += 2)
        memcpy(text + i, "\xC3\xA9", 2);
    text[sizeof(text) - 2] = '\n';
    text[0] = 'x';
    text[1] = 'y';
    struct lookup_extract e = extract_max(text, sizeof(text) - 1, 1u << 20);
    CHECK_EQ(strlen(e.title), LOOKUP_TITLE_MAX);
    CHECK_EQ(lookup_utf8_valid(e.title, strlen(e.title)), strlen(e.title));
    lookup_extract_release(&e);
}

TEST(empty_and_blank_files_are_empty) {
    static const char *const texts[] = {"", "\n", " \t\r\n\f"};
    for (int i = 0; i < 3; i++) {
        struct lookup_extract e = extract(texts[i]);
        CHECK_EQ(e.kind, LOOKUP_EMPTY);
        lookup_extract_release(&e);
    }
}

TEST(binary_files_are_recognised) {
    struct lookup_extract e = extract_max("text with\0a NUL", 15, 1000);
    CHECK_EQ(e.kind, LOOKUP_BINARY);
    /* A NUL far behind the first piece. */
    static char large[300000];
    memset(large, 'a', sizeof(large));
    large[250000] = 0;
    e = extract_max(large, sizeof(large), 1u << 20);
    CHECK_EQ(e.kind, LOOKUP_BINARY);
    /* Noise without NUL. */
    uint64_t state = test_seed();
    for (size_t i = 0; i < sizeof(large); i++)
        large[i] = (char)(1 + test_random(&state) % 255);
    large[0] = 'x';
    e = extract_max(large, sizeof(large), 1u << 20);
    CHECK_EQ(e.kind, LOOKUP_BINARY);
    e = extract("\x01\x02\x03\x04\x05\x06\x07\x08\x01\x02 ab");
    CHECK_EQ(e.kind, LOOKUP_BINARY);
}

TEST(latin1_is_converted) {
    struct lookup_extract e = extract("Auteur: Andr\xE9 Fran\xE7ois, qui \xE9"
                                      "crit");
    expect(&e,
            "Auteur: Andr\xC3\xA9 Fran\xC3\xA7ois, qui \xC3\xA9"
            "crit",
            "Auteur: Andr\xC3\xA9 Fran\xC3\xA7ois, qui \xC3\xA9"
            "crit");
}

TEST(large_text_is_cut_at_a_character) {
    char text[100];
    for (size_t i = 0; i < sizeof(text); i += 2)
        memcpy(text + i, "\xC3\xA9", 2);
    for (size_t max = 90; max < 98; max++) {
        struct lookup_extract e = extract_max(text, sizeof(text), max);
        CHECK_EQ(e.kind, LOOKUP_TEXT);
        CHECK(e.truncated);
        CHECK_EQ(e.text.size, max / 2 * 2);
        lookup_extract_release(&e);
    }
    struct lookup_extract e = extract_max(text, sizeof(text), sizeof(text));
    CHECK(!e.truncated);
    CHECK_EQ(e.text.size, sizeof(text));
    lookup_extract_release(&e);
}

/* ---- compressed ---- */

static size_t compress(const char *filter, const void *data, size_t n, char *out, size_t cap) {
    size_t used = 0;
    struct archive *archive = archive_write_new();
    CHECK_EQ(archive_write_set_format_raw(archive), ARCHIVE_OK);
    CHECK_EQ(archive_write_add_filter_by_name(archive, filter), ARCHIVE_OK);
    archive_write_set_bytes_in_last_block(archive, 1);
    CHECK_EQ(archive_write_open_memory(archive, out, cap, &used), ARCHIVE_OK);
    struct archive_entry *entry = archive_entry_new();
    archive_entry_set_filetype(entry, AE_IFREG);
    archive_entry_set_pathname(entry, "x");
    CHECK_EQ(archive_write_header(archive, entry), ARCHIVE_OK);
    CHECK_EQ(archive_write_data(archive, data, n), (la_ssize_t)n);
    archive_entry_free(entry);
    CHECK_EQ(archive_write_close(archive), ARCHIVE_OK);
    archive_write_free(archive);
    return used;
}

TEST(every_compression_is_undone) {
    static const char *const filters[] = {
            "gzip", "bzip2", "xz", "lzma", "zstd", "lz4", "lzip", "compress"};
    static char text[200000], packed[400000];
    for (size_t i = 0; i < sizeof(text); i++)
        text[i] = "compressed words\n"[i % 17];
    for (size_t i = 0; i < sizeof(filters) / sizeof(filters[0]); i++) {
        size_t n = compress(filters[i], text, sizeof(text), packed, sizeof(packed));
        struct lookup_extract e = extract_max(packed, n, 1u << 20);
        CHECK_MSG(e.kind == LOOKUP_TEXT, "%s: kind %d (%s)", filters[i], (int)e.kind, e.reason);
        CHECK_EQ(e.text.size, sizeof(text));
        CHECK(memcmp(e.text.data, text, sizeof(text)) == 0);
        CHECK_STR(e.title, "compressed words");
        lookup_extract_release(&e);
    }
}

TEST(bomb_is_cut_at_the_limit) {
    static char zeros[4 << 20], packed[1 << 20];
    memset(zeros, 'z', sizeof(zeros));
    size_t n = compress("gzip", zeros, sizeof(zeros), packed, sizeof(packed));
    CHECK(n < 10000);
    struct lookup_extract e = extract_max(packed, n, 100000);
    CHECK_EQ(e.kind, LOOKUP_TEXT);
    CHECK(e.truncated);
    CHECK_EQ(e.text.size, 100000);
    lookup_extract_release(&e);
}

TEST(damaged_compressed_files_are_unreadable_with_a_reason) {
    static char text[100000], packed[200000];
    uint64_t state = test_seed();
    for (size_t i = 0; i < sizeof(text); i++)
        text[i] = (char)('a' + test_random(&state) % 26);
    size_t n = compress("gzip", text, sizeof(text), packed, sizeof(packed));
    /* Cut short. */
    struct lookup_extract e = extract_max(packed, n / 2, 1u << 20);
    CHECK_EQ(e.kind, LOOKUP_UNREADABLE);
    CHECK_CONTAINS(e.reason, "truncated");
    lookup_extract_release(&e);
    /* Changed anywhere: never a crash, never more than the limit. */
    for (int round = 0; round < (test_slow() ? 50 : 400); round++) {
        size_t at = 3 + test_random(&state) % (n - 3);
        char old = packed[at];
        packed[at] = (char)(old ^ (1 << test_random(&state) % 8));
        e = extract_max(packed, n, 150000);
        CHECK(e.kind != LOOKUP_TEXT || e.text.size <= 3 * 150000);
        lookup_extract_release(&e);
        packed[at] = old;
    }
    /* Only a head. */
    e = extract_max("\x1F\x8B\x08", 3, 1000);
    CHECK(e.kind != LOOKUP_TEXT);
    lookup_extract_release(&e);
}

TEST(empty_compressed_file_is_empty) {
    char packed[1000];
    size_t n = compress("gzip", "", 0, packed, sizeof(packed));
    struct lookup_extract e = extract_max(packed, n, 1000);
    CHECK_EQ(e.kind, LOOKUP_EMPTY);
    lookup_extract_release(&e);
}

TEST(compressed_binary_is_binary) {
    char data[5000] = {0}, packed[6000];
    size_t n = compress("xz", data, sizeof(data), packed, sizeof(packed));
    struct lookup_extract e = extract_max(packed, n, 10000);
    CHECK_EQ(e.kind, LOOKUP_BINARY);
    lookup_extract_release(&e);
}

TEST(unreadable_descriptor_is_unreadable) {
    int fd = open(test_dir(), O_RDONLY | O_DIRECTORY);
    struct lookup_extract e;
    CHECK_EQ(lookup_extract(fd, "x", 1000, &e), 0);
    CHECK_EQ(e.kind, LOOKUP_UNREADABLE);
    CHECK_CONTAINS(e.reason, "directory");
    close(fd);
}
