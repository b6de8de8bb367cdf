/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every allocation of the store fails once, and from some moment on for ever.  malloc and its sisters are replaced by
 * the linker in everything that is linked statically; SQLite and libarchive keep theirs.
 */
#include "common.h"

#include <errno.h>
#include <sched.h>
#include <stdatomic.h>

void *__real_malloc(size_t n);
void *__real_calloc(size_t count, size_t n);
void *__real_realloc(void *p, size_t n);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t count, size_t n);
void *__wrap_realloc(void *p, size_t n);

static atomic_long countdown;
static atomic_bool for_ever;
static atomic_long refused;

static bool refuse(void) {
    long left = atomic_fetch_sub(&countdown, 1);
    bool now = left == 1 || (left < 1 && atomic_load(&for_ever));
    if (now)
        atomic_fetch_add(&refused, 1);
    return now;
}

void *__wrap_malloc(size_t n) {
    return refuse() ? NULL : __real_malloc(n);
}
void *__wrap_calloc(size_t count, size_t n) {
    return refuse() ? NULL : __real_calloc(count, n);
}
void *__wrap_realloc(void *p, size_t n) {
    return refuse() ? NULL : __real_realloc(p, n);
}

static int use_store(void) {
    struct lookup_store_opts opts = default_opts();
    struct pnx_error err = {0};
    struct lookup_store *store = NULL;
    int rc = lookup_store_open(&opts, &err, &store);
    if (rc)
        return rc;
    struct lookup_answer answer = {0};
    rc = lookup_store_search(store, "fox dog", 7, 0, 0, 5 * PNX_SEC, &err, &answer);
    char *text = NULL;
    size_t size = 0;
    if (!rc)
        rc = lookup_answer_json(&answer, "fox dog", 7, 1, &text, &size);
    struct lookup_document document = {0};
    if (!rc)
        rc = lookup_store_document(store, 2, 5 * PNX_SEC, &err, &document);
    free(text);
    lookup_answer_release(&answer);
    lookup_document_release(&document);
    lookup_store_release(&store);
    return rc;
}

static void fail_each(bool forever, bool build) {
    int failures = 0, step = test_slow() ? 7 : 1;
    for (long n = 1;; n += step) {
        if (build) {
            char name[32];
            fill(name, sizeof(name), "extra%d", (int)(n % 2));
            put_text(name, "one more fox\n");
            fill(name, sizeof(name), "corpus/extra%d", (int)((n + 1) % 2));
            unlink(test_path(name));
        }
        atomic_store(&refused, 0);
        atomic_store(&for_ever, forever);
        atomic_store(&countdown, n);
        int rc = use_store();
        atomic_store(&for_ever, false);
        bool done = atomic_load(&countdown) > 0;
        atomic_store(&countdown, 0);
        CHECK_MSG(rc == 0 || rc == -ENOMEM || rc == -ETIMEDOUT, "allocation %ld: %d", n, rc);
        failures += rc != 0;
        if (done) {
            CHECK_EQ(rc, 0);
            break;
        }
    }
    CHECK(failures > 3);
    CHECK_EQ(use_store(), 0);
}

TEST_LIMIT(each_allocation_fails_once_while_opening, 120) {
    put_small_corpus();
    CHECK_EQ(use_store(), 0);
    fail_each(false, false);
}

TEST_LIMIT(each_allocation_fails_once_while_building, 240) {
    put_small_corpus();
    CHECK_EQ(use_store(), 0);
    fail_each(false, true);
}

/* Texts that are too many to be read instead of being mapped. */
static void put_mapped_corpus(void) {
    static char text[20000];
    memset(text, 'x', sizeof(text));
    text[sizeof(text) - 1] = '\n';
    put_small_corpus();
    put_file("long", text, sizeof(text));
}

/* Cuts the texts and has one allocation fail.  Returns whether there were fewer. */
static bool rebuild_once(long n, int *failures) {
    struct lookup_store *store = open_store(NULL);
    char name[64];
    fill(name, sizeof(name), "data/gen-%llu/texts", (unsigned long long)info_of(store).generation);
    CHECK_EQ(truncate(test_path(name), 20), 0);
    struct lookup_document document = {0};
    struct lookup_store_info info;
    atomic_store(&countdown, n);
    do {
        int rc = lookup_store_document(store, 2, 5 * PNX_SEC, NULL, &document);
        CHECK_MSG(rc == 0 || rc == -ESTALE || rc == -ENOMEM || rc == -ETIMEDOUT,
                "allocation %ld: %d", n, rc);
        lookup_document_release(&document);
        sched_yield();
        lookup_store_info(store, &info);
    } while (info.rebuilds + info.rebuild_failures == 0);
    bool done = atomic_load(&countdown) > 0;
    atomic_store(&countdown, 0);
    if (info.rebuilds > 0)
        CHECK_EQ(lookup_store_document(store, 2, 5 * PNX_SEC, NULL, &document), 0);
    lookup_document_release(&document);
    *failures += info.rebuild_failures > 0;
    lookup_store_release(&store);
    return done;
}

TEST_LIMIT(each_allocation_fails_once_while_rebuilding, 900) {
    put_mapped_corpus();
    /*
     * Each try waits for the disk, and most of the later ones change nothing, since SQLite does without what it does not
     * get: of those, others are tried each time.
     */
    int failures = 0, step = test_long() ? 1 : test_slow() ? 13 : 5;
    uint64_t state = test_seed();
    long each = 128 + (long)(test_random(&state) % (uint64_t)step);
    for (long n = 1; !rebuild_once(n, &failures); n += n < each ? 1 : step)
        continue;
    CHECK(failures > 3);
    CHECK_EQ(use_store(), 0);
}
