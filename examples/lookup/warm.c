/* SPDX-License-Identifier: Apache-2.0 */
/*
 * warm.c - the cache's answers in a file of the data directory, from one start to the next.
 *
 *   P1  Answers are read back only over the very index that gave them: the file's label has its number and checksums.
 *   P2  No file, one of another index, or a damaged one: the store begins without answers, and says why.
 */
#include "store.h"

#include "store_private.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FILE_NAME      "answers.cache"
#define ANSWERS_FORMAT 1 /* of keys and values; to be raised when they change (search.c) */

struct label {
    uint64_t number; /* of the generation */
    char text[160];
};

/* What answers of the generation in force are known by. */
static void make_label(struct lookup_store *store, struct label *label) {
    pthread_mutex_lock(&store->mutex);
    const struct lookup_manifest *manifest = &store->generation->manifest;
    label->number = store->generation->number;
    snprintf(label->text, sizeof(label->text),
            "lookup answers %d, index %" PRIu64 " %016" PRIx64 "%016" PRIx64 ", texts %016" PRIx64
            "%016" PRIx64,
            ANSWERS_FORMAT, label->number, manifest->index.high, manifest->index.low,
            manifest->texts.high, manifest->texts.low);
    pthread_mutex_unlock(&store->mutex);
}

/* Removes what a save that was killed has left.  The data directory's lock is held. */
static void remove_leftovers(const char *data_dir) {
    DIR *dir = opendir(data_dir);
    for (struct dirent *entry; dir && (entry = readdir(dir));) {
        size_t n = strlen(entry->d_name);
        if (strncmp(entry->d_name, FILE_NAME ".", sizeof(FILE_NAME)) != 0 || n < 4 ||
                strcmp(entry->d_name + n - 4, ".tmp") != 0)
            continue;
        char *path = lookup_join(data_dir, entry->d_name);
        if (path)
            (void)unlink(path);
        free(path);
    }
    if (dir)
        closedir(dir);
}

int lookup_store_load_answers(
        struct lookup_store *store, struct pnx_error *err, uint64_t *ret_answers) {
    struct pnx_cache_file_report report = {.size = sizeof(report)};
    struct label label;
    int rc = lookup_store_enter(store, err);
    if (rc)
        return rc;
    char *path = lookup_join(store->data_dir, FILE_NAME);
    if (path) {
        remove_leftovers(store->data_dir);
        make_label(store, &label);
        rc = pnx_cache_load_file(
                store->cache, path, PNX_CACHE_FILE_OPTS(.label = label.text), err, &report);
    } else {
        rc = lookup_fail(err, -ENOMEM, "answers", "no memory");
    }
    free(path);
    lookup_store_leave(store);
    if (rc == 0)
        *ret_answers = report.entries;
    return rc;
}

/* Answers of an index that is in force no more are asked for by nobody. */
static bool is_of_this_index(void *ctx, const struct pnx_cache_ref *ref) {
    uint64_t number = 0;
    size_t size = 0;
    const void *key = pnx_cache_ref_key(ref, &size);
    if (size >= sizeof(number))
        memcpy(&number, key, sizeof(number)); /* what a key begins with: search.c */
    return number == *(const uint64_t *)ctx;
}

int lookup_store_save_answers(
        struct lookup_store *store, struct pnx_error *err, uint64_t *ret_answers) {
    struct pnx_cache_file_report report = {.size = sizeof(report)};
    struct label label;
    int rc = lookup_store_enter(store, err);
    if (rc)
        return rc;
    char *path = lookup_join(store->data_dir, FILE_NAME);
    if (path) {
        make_label(store, &label);
        (void)pnx_cache_retain(store->cache, is_of_this_index, &label.number);
        rc = pnx_cache_save(
                store->cache, path, PNX_CACHE_FILE_OPTS(.label = label.text), err, &report);
    } else {
        rc = lookup_fail(err, -ENOMEM, "answers", "no memory");
    }
    free(path);
    lookup_store_leave(store);
    if (rc == 0)
        *ret_answers = report.entries;
    return rc;
}
