/* SPDX-License-Identifier: Apache-2.0 */
/* Listing a corpus: what is in the list, what is not, and in which order. */
#include "common.h"
#include "corpus.h"

#include <fcntl.h>

static struct lookup_corpus *scan(const char *path) {
    struct pnx_error err = {0};
    struct lookup_corpus *corpus = NULL;
    int rc = lookup_corpus_scan(path, NULL, 1000, NULL, NULL, &err, &corpus);
    CHECK_MSG(rc == 0, "%d: %s", rc, err.message);
    return corpus;
}

static bool has(const struct lookup_corpus *corpus, const char *path) {
    for (uint64_t i = 0; i < corpus->count; i++) {
        if (strcmp(corpus->files[i].path, path) == 0)
            return true;
    }
    return false;
}

TEST(corpus_that_is_not_there_is_named) {
    struct lookup_corpus *corpus = NULL;
    struct pnx_error err = {0};
    CHECK_EQ(lookup_corpus_scan(test_path("none"), NULL, 10, NULL, NULL, &err, &corpus), -ENOENT);
    CHECK_CONTAINS(err.message, test_path("none"));
    test_write_file(test_path("file"), "x", 1);
    CHECK_EQ(lookup_corpus_scan(test_path("file"), NULL, 10, NULL, NULL, &err, &corpus), -ENOTDIR);
    CHECK(corpus == NULL);
}

TEST(p1_links_are_not_followed) {
    put_text("real.txt", "x");
    test_write_file(test_path("outside.txt"), "secret", 6);
    CHECK_EQ(symlink(test_path("outside.txt"), test_path("corpus/link.txt")), 0);
    CHECK_EQ(symlink("/etc", test_path("corpus/etc")), 0);
    CHECK_EQ(symlink(".", test_path("corpus/loop")), 0);
    CHECK_EQ(symlink("nowhere", test_path("corpus/dangling")), 0);
    CHECK_EQ(mkfifo(test_path("corpus/pipe"), 0644), 0);
    struct lookup_corpus *corpus = scan(test_path("corpus"));
    CHECK_EQ(corpus->count, 1);
    CHECK(has(corpus, "real.txt"));
    lookup_corpus_release(&corpus);
    /* The corpus itself may be one. */
    CHECK_EQ(symlink("corpus", test_path("alias")), 0);
    corpus = scan(test_path("alias"));
    CHECK_EQ(corpus->count, 1);
    lookup_corpus_release(&corpus);
    lookup_corpus_release(&corpus);
}

TEST(p1_file_that_became_a_link_is_not_read) {
    put_text("sub/a.txt", "x");
    put_text("b.txt", "x");
    struct lookup_corpus *corpus = scan(test_path("corpus"));
    CHECK_EQ(corpus->count, 2);
    CHECK_EQ(unlink(test_path("corpus/b.txt")), 0);
    CHECK_EQ(symlink("/etc/passwd", test_path("corpus/b.txt")), 0);
    CHECK_EQ(rename(test_path("corpus/sub"), test_path("moved")), 0);
    CHECK_EQ(symlink(test_path("moved"), test_path("corpus/sub")), 0);
    for (uint64_t i = 0; i < 2; i++)
        CHECK_EQ(lookup_corpus_open(corpus, &corpus->files[i]), -ELOOP);
    /* A pipe does not hang us. */
    CHECK_EQ(unlink(test_path("corpus/b.txt")), 0);
    CHECK_EQ(mkfifo(test_path("corpus/b.txt"), 0644), 0);
    CHECK(lookup_corpus_open(corpus, &corpus->files[0]) < 0);
    CHECK_EQ(unlink(test_path("corpus/b.txt")), 0);
    CHECK_EQ(lookup_corpus_open(corpus, &corpus->files[0]), -ENOENT);
    lookup_corpus_release(&corpus);
}

TEST(p2_list_is_sorted_by_bytes) {
    put_text("b", "x");
    put_text("a/z", "x");
    put_text("a.txt", "x");
    put_text("\xFF\xFE", "x"); /* not UTF-8 */
    put_text("B", "x");
    struct lookup_corpus *corpus = scan(test_path("corpus"));
    CHECK_EQ(corpus->count, 5);
    for (uint64_t i = 1; i < corpus->count; i++)
        CHECK(strcmp(corpus->files[i - 1].path, corpus->files[i].path) < 0);
    CHECK(has(corpus, "\xFF\xFE"));
    lookup_corpus_release(&corpus);
}

TEST(p3_too_deep_and_forbidden_places_are_counted) {
    char path[4096] = "";
    size_t n = 0;
    for (int i = 0; i < LOOKUP_DEPTH_MAX + 10; i++)
        n += (size_t)fill(path + n, sizeof(path) - n, "d/");
    fill(path + n, sizeof(path) - n, "deep.txt");
    put_text(path, "x");
    put_text("shallow.txt", "x");
    struct lookup_corpus *corpus = scan(test_path("corpus"));
    CHECK_EQ(corpus->count, 1);
    CHECK_EQ(corpus->too_deep, 1);
    lookup_corpus_release(&corpus);
}

TEST(p3_names_that_make_too_long_a_path_are_counted) {
    put_text("a.txt", "x");
    int at = open(test_path("corpus"), O_RDONLY | O_DIRECTORY);
    char name[251];
    memset(name, 'n', 250);
    name[250] = '\0';
    for (int i = 0; i < 20; i++) {
        CHECK_EQ(mkdirat(at, name, 0755), 0);
        int next = openat(at, name, O_RDONLY | O_DIRECTORY);
        close(at);
        at = next;
    }
    close(at);
    struct lookup_corpus *corpus = scan(test_path("corpus"));
    CHECK_EQ(corpus->count, 1);
    CHECK_EQ(corpus->unreadable, 1);
    lookup_corpus_release(&corpus);
}

TEST(hash_changes_with_path_size_and_time) {
    put_text("a.txt", "one");
    struct lookup_corpus *first = scan(test_path("corpus")), *second = scan(test_path("corpus"));
    CHECK(memcmp(first->hash, second->hash, sizeof(first->hash)) == 0);
    CHECK_EQ(first->bytes, 3);
    lookup_corpus_release(&second);
    /* The same bytes at another time. */
    struct timespec times[2] = {{1000, 0}, {1000, 1}};
    CHECK_EQ(utimensat(AT_FDCWD, test_path("corpus/a.txt"), times, 0), 0);
    second = scan(test_path("corpus"));
    CHECK(memcmp(first->hash, second->hash, sizeof(first->hash)) != 0);
    lookup_corpus_release(&first);
    /* Another name at that time. */
    CHECK_EQ(rename(test_path("corpus/a.txt"), test_path("corpus/b.txt")), 0);
    first = scan(test_path("corpus"));
    CHECK(memcmp(first->hash, second->hash, sizeof(first->hash)) != 0);
    lookup_corpus_release(&second);
    lookup_corpus_release(&first);
}

static int stop_at_once(void *ctx, uint64_t files) {
    (void)files;
    ++*(int *)ctx;
    return 1;
}

TEST(scan_can_be_cancelled_and_limited) {
    put_text("a/1", "x");
    put_text("a/2", "x");
    put_text("b/3", "x");
    struct lookup_corpus *corpus = NULL;
    struct pnx_error err = {0};
    int calls = 0;
    CHECK_EQ(lookup_corpus_scan(test_path("corpus"), NULL, 10, stop_at_once, &calls, &err, &corpus),
            -ECANCELED);
    CHECK_EQ(calls, 1);
    CHECK_EQ(lookup_corpus_scan(test_path("corpus"), NULL, 2, NULL, NULL, &err, &corpus), -EFBIG);
    CHECK_CONTAINS(err.message, "more than 2 files");
    CHECK_EQ(lookup_corpus_scan(test_path("corpus"), NULL, 3, NULL, NULL, &err, &corpus), 0);
    lookup_corpus_release(&corpus);
}
