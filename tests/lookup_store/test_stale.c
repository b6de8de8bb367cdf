/* SPDX-License-Identifier: Apache-2.0 */
/* Stores whose file of texts is cut or changed while they are open. */
#include "common.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/resource.h>

#define TEXT_BYTES \
    9000 /* of each of the documents: more together than is read instead of being mapped */

static void put_mapped_corpus(void) {
    static char text[TEXT_BYTES + 1];
    for (int file = 0; file < 3; file++) {
        int n = fill(text, sizeof(text), "Document %d\n", file);
        for (; n < TEXT_BYTES - 20;
                n += fill(text + n, sizeof(text) - (size_t)n, "w%d-%d\n", file, n))
            ;
        char name[16];
        fill(name, sizeof(name), "f%d", file);
        put_file(name, text, (size_t)n);
    }
}

static const char *texts_path(struct lookup_store *store) {
    static char path[4096];
    fill(path, sizeof(path), "%s/data/gen-%llu/texts", test_dir(),
            (unsigned long long)info_of(store).generation);
    return path;
}

static int get(struct lookup_store *store, uint64_t id, struct lookup_document *document) {
    struct pnx_error err = {0};
    int rc = lookup_store_document(store, id, 10 * PNX_SEC, &err, document);
    if (rc == -ESTALE)
        CHECK_CONTAINS(err.message, "the index is being built again");
    else
        CHECK_MSG(rc == 0, "%d: %s", rc, err.message);
    return rc;
}

/* Asks until the document is to be had again; each request may begin the next try. */
static void wait_fresh(struct lookup_store *store, uint64_t id, struct lookup_document *document) {
    while (get(store, id, document) == -ESTALE)
        sched_yield();
    /* Counted last, when the old generation has been given up. */
    while (info_of(store).rebuilds == 0)
        sched_yield();
}

static void check_text(const struct lookup_document *document, int file) {
    static char text[TEXT_BYTES];
    char begin[16];
    int n = fill(begin, sizeof(begin), "Document %d\n", file);
    CHECK(document->size > TEXT_BYTES / 2 && document->size <= TEXT_BYTES);
    CHECK_EQ(lookup_document_read(document, 0, text, document->size, NULL), 0);
    CHECK(memcmp(text, begin, (size_t)n) == 0);
    CHECK_EQ(text[document->size - 1], '\n');
}

TEST(p7_document_that_is_held_stays_lost_while_new_ones_are_served) {
    put_mapped_corpus();
    struct log_lines log;
    struct lookup_store *store = open_store(&log);
    struct lookup_document held = {0}, fresh = {0};
    CHECK_EQ(get(store, 2, &held), 0);
    check_text(&held, 1);
    CHECK_EQ(truncate(texts_path(store), 5000), 0);
    char byte = 'x';
    struct pnx_error err = {0};
    CHECK_EQ(lookup_document_read(&held, 5000, &byte, 1, &err), -ESTALE);
    CHECK_CONTAINS(err.message, "the file of texts was cut or changed");
    CHECK(!info_of(store).stale); /* the store has not been told */
    lookup_store_note_stale(store, &held);
    wait_fresh(store, 2, &fresh);
    check_text(&fresh, 1);
    CHECK_EQ(lookup_document_read(&held, 0, &byte, 1, &err), -ESTALE);
    struct lookup_store_info info = info_of(store);
    CHECK(!info.stale);
    CHECK_EQ(info.rebuilds, 1);
    CHECK_EQ(info.generation, 2);
    CHECK_EQ(info.documents, 3);
    /* What is told of a generation that is gone is counted, and begins nothing. */
    lookup_store_note_stale(store, &held);
    CHECK(!info_of(store).stale);
    CHECK_EQ(info_of(store).stale_requests, info.stale_requests + 1);
    CHECK_STR(generations(), "gen-1.bad gen-2");
    CHECK_CONTAINS(log.text, "gen-1 is damaged, set aside as .bad: ");
    lookup_document_release(&held);
    lookup_store_release(&store);
    check_text(&fresh, 1);
    lookup_document_release(&fresh);
}

TEST(p7_changed_texts_are_not_shown_in_snippets) {
    put_mapped_corpus();
    struct lookup_store *store = open_store(NULL);
    CHECK_EQ(count_of(store, "w1-7777"), 0); /* no snippet: fine in any case */
    int fd = open(texts_path(store), O_WRONLY);
    CHECK(fd >= 0);
    CHECK_EQ(pwrite(fd, "wrong words", 11, 30), 11);
    close(fd);
    struct pnx_error err = {0};
    struct lookup_answer answer = {0};
    CHECK_EQ(lookup_store_search(store, "Document", 8, 0, 0, 10 * PNX_SEC, &err, &answer), -ESTALE);
    CHECK_CONTAINS(err.message, "the index is being built again");
    int rc;
    while ((rc = lookup_store_search(store, "Document", 8, 0, 0, 10 * PNX_SEC, &err, &answer)) ==
            -ESTALE)
        sched_yield();
    CHECK_EQ(rc, 0);
    CHECK_EQ(answer.total, 3);
    CHECK(!memmem(answer.results, answer.results_size, "wrong", 5));
    lookup_answer_release(&answer);
    lookup_store_release(&store);
}

TEST(p7_rebuild_that_fails_is_told_and_tried_again) {
    put_mapped_corpus();
    signal(SIGXFSZ, SIG_IGN);
    struct log_lines log;
    struct lookup_store *store = open_store(&log);
    struct lookup_document document = {0};
    CHECK_EQ(unlink(texts_path(store)), 0);
    struct rlimit old, small;
    CHECK_EQ(getrlimit(RLIMIT_FSIZE, &old), 0);
    small = (struct rlimit){.rlim_cur = 100, .rlim_max = old.rlim_max};
    CHECK_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
    while (info_of(store).rebuild_failures == 0) {
        CHECK_EQ(get(store, 1, &document), -ESTALE);
        sched_yield();
    }
    CHECK_EQ(setrlimit(RLIMIT_FSIZE, &old), 0);
    CHECK_EQ(info_of(store).generation, 1);
    CHECK_STR(generations(), "gen-1"); /* its database is in use */
    wait_fresh(store, 1, &document);
    check_text(&document, 0);
    CHECK_EQ(info_of(store).rebuilds, 1);
    CHECK_CONTAINS(log.text, "the index cannot be built again: ");
    lookup_document_release(&document);
    lookup_store_release(&store);
}

TEST(p7_rebuilding_can_be_stopped) {
    put_mapped_corpus();
    struct lookup_store *store = open_store(NULL);
    struct lookup_document document = {0};
    CHECK_EQ(truncate(texts_path(store), 0), 0);
    CHECK_EQ(lookup_store_stop_rebuilding(store, 10 * PNX_SEC), 0);
    for (int i = 0; i < 100; i++)
        CHECK_EQ(get(store, 1, &document), -ESTALE);
    CHECK_EQ(info_of(store).rebuilds, 0);
    CHECK_EQ(lookup_store_stop_rebuilding(store, 0), 0);
    CHECK_EQ(lookup_store_close(store, PNX_SEC), 0);
    CHECK_EQ(lookup_store_stop_rebuilding(store, 0), 0);
    lookup_store_release(&store);
    CHECK_STR(generations(), "gen-1");
}

/* ---- all at once ---- */

struct storm {
    struct lookup_store *store;
    atomic_bool end;
    atomic_uint served, refused;
};

static void ask_documents(struct storm *storm, unsigned index) {
    uint64_t state = test_seed() + index;
    while (!atomic_load(&storm->end)) {
        int file = (int)(test_random(&state) % 3);
        struct lookup_document document = {0};
        static _Thread_local char text[TEXT_BYTES];
        char begin[16];
        int n = fill(begin, sizeof(begin), "Document %d\n", file);
        int rc = get(storm->store, (uint64_t)file + 1, &document);
        if (!rc)
            rc = lookup_document_read(&document, 0, text, document.size, NULL);
        if (!rc)
            CHECK(memcmp(text, begin, (size_t)n) == 0 && text[document.size - 1] == '\n' &&
                    !memchr(text, '\0', document.size) && !memchr(text, '?', document.size));
        else
            lookup_store_note_stale(storm->store, &document);
        lookup_document_release(&document);
        atomic_fetch_add(rc ? &storm->refused : &storm->served, 1);
    }
}

static void ask_or_cut(unsigned index, void *arg) {
    struct storm *storm = arg;
    static char junk[TEXT_BYTES];
    if (index > 0) {
        ask_documents(storm, index);
        return;
    }
    memset(junk, '?', sizeof(junk));
    uint64_t state = test_seed();
    for (uint64_t round = 0; round < (test_slow() ? 5 : 15); round++) {
        int fd = open(texts_path(storm->store), O_RDWR);
        CHECK(fd >= 0);
        if (test_random(&state) % 2)
            CHECK_EQ(ftruncate(fd, (off_t)(test_random(&state) % (3 * TEXT_BYTES / 2))), 0);
        else
            CHECK(pwrite(fd, junk, sizeof(junk), (off_t)(test_random(&state) % TEXT_BYTES)) > 0);
        close(fd);
        while (info_of(storm->store).rebuilds <= round)
            sched_yield();
    }
    atomic_store(&storm->end, true);
}

TEST_LIMIT(p7_storm_of_cuts_gives_right_bytes_or_stale, 120) {
    put_mapped_corpus();
    struct storm storm = {.store = open_store(NULL)};
    test_threads(5, ask_or_cut, &storm);
    CHECK(atomic_load(&storm.served) > 0);
    CHECK(atomic_load(&storm.refused) > 0);
    CHECK_EQ(info_of(storm.store).rebuild_failures, 0);
    lookup_store_release(&storm.store);
}
