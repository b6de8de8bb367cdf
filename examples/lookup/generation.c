/* SPDX-License-Identifier: Apache-2.0 */
/*
 * generation.c - opens, checks, chooses, replaces and removes generations; see the figure in generation.h.
 */
#include "generation.h"

#include "snippet.h"

#include <patinox/fault.h>
#include <patinox/pool.h>

#include <sqlite3.h>

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SANITY_TIMEOUT (10 * PNX_SEC)

/* ---- names ---- */

enum name_kind { NAME_OTHER, NAME_GENERATION, NAME_TEMPORARY, NAME_BAD };

/* Reads "gen-N", "gen-N.tmp" or "gen-N.bad". */
static enum name_kind parse_name(const char *name, uint64_t *ret_number) {
    if (strncmp(name, "gen-", 4) != 0 || name[4] < '1' || name[4] > '9')
        return NAME_OTHER;
    char *end = NULL;
    errno = 0;
    unsigned long long number = strtoull(name + 4, &end, 10);
    if (errno || number > INT64_MAX)
        return NAME_OTHER;
    *ret_number = number;
    if (*end == '\0')
        return NAME_GENERATION;
    if (strcmp(end, ".tmp") == 0)
        return NAME_TEMPORARY;
    return strcmp(end, ".bad") == 0 ? NAME_BAD : NAME_OTHER;
}

static char *make_path(const char *data_dir, uint64_t number, const char *suffix) {
    char name[40];
    snprintf(name, sizeof(name), "gen-%" PRIu64 "%s", number, suffix);
    return lookup_join(data_dir, name);
}

/* What lies in the data directory. */
struct listing {
    uint64_t *numbers; /* of good names, newest first */
    size_t count;
    uint64_t highest; /* number of any name, so that none is used twice */
};

static int compare_down(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x < y) - (x > y);
}

static int list_name(
        const struct lookup_generation_opts *opts, const char *name, struct listing *listing) {
    uint64_t number = 0;
    enum name_kind kind = parse_name(name, &number);
    if (kind == NAME_OTHER)
        return 0;
    if (number > listing->highest)
        listing->highest = number;
    if (kind == NAME_TEMPORARY) {
        /* Its maker died, for the lock is ours. */
        struct pnx_error why = {0};
        char *path = lookup_join(opts->data_dir, name);
        int rc = path ? lookup_disk_remove(path, &why) : -ENOMEM;
        free(path);
        lookup_log(opts->env, rc ? PNX_LOG_WARNING : PNX_LOG_INFO,
                rc ? "%s is left over and cannot be removed: %s"
                   : "removed %s, left over by a start that did not end%s",
                name, why.message);
    }
    if (kind != NAME_GENERATION)
        return 0;
    uint64_t *numbers = realloc(listing->numbers, (listing->count + 1) * sizeof(*numbers));
    if (!numbers)
        return -ENOMEM;
    listing->numbers = numbers;
    listing->numbers[listing->count++] = number;
    return 0;
}

static int list(
        const struct lookup_generation_opts *opts, struct pnx_error *err, struct listing *listing) {
    DIR *dir = opendir(opts->data_dir);
    if (!dir)
        return lookup_disk_fail(err, errno, opts->data_dir, "cannot list");
    int rc = 0;
    const struct dirent *entry;
    while (!rc && (entry = readdir(dir)))
        rc = list_name(opts, entry->d_name, listing);
    closedir(dir);
    if (rc)
        return lookup_fail(err, rc, "disk", "no memory");
    if (listing->count > 1)
        qsort(listing->numbers, listing->count, sizeof(*listing->numbers), compare_down);
    return 0;
}

/* ---- opening one ---- */

static int corrupt(struct pnx_error *err, const char *dir, const char *what) {
    return lookup_fail(err, PNX_E_FORMAT, "verify", "%s/%s", dir, what);
}

static int compare_texts(
        const struct lookup_generation *generation, const char *dir, struct pnx_error *err) {
    const struct lookup_manifest *manifest = &generation->manifest;
    struct pnx_view view = pnx_view_all(generation->texts);
    if (view.n != manifest->text_bytes)
        return corrupt(err, dir, "texts: its size is not the one in the manifest");
    size_t n = strlen(LOOKUP_TEXTS_MAGIC);
    if (view.n < n || memcmp(view.p, LOOKUP_TEXTS_MAGIC, n) != 0)
        return corrupt(err, dir, "texts: it is of another format");
    if (view.n > LOOKUP_VERIFY_MAX)
        return 0;
    struct lookup_hash hash = lookup_hash_bytes(view.p, view.n);
    if (hash.high != manifest->texts.high || hash.low != manifest->texts.low)
        return corrupt(err, dir, "texts: its checksum is not the one in the manifest");
    return 0;
}

/* What was compared counts only if nobody touched the file meanwhile. */
static int check_texts(
        const struct lookup_generation *generation, const char *dir, struct pnx_error *err) {
    struct pnx_fault_scope scope;
    int rc = pnx_fault_begin(generation->texts, &scope);
    if (rc)
        return lookup_fail(err, rc, "verify", "%s/texts: %s", dir, pnx_strerror(rc));
    rc = compare_texts(generation, dir, err);
    int lost = pnx_fault_end_checked(&scope);
    if (lost)
        return corrupt(err, dir, "texts: it was cut or changed while it was checked");
    return rc;
}

static int open_texts(const struct lookup_generation_opts *opts, const char *dir,
        struct lookup_generation *generation, struct pnx_error *err) {
    char *path = lookup_join(dir, "texts");
    if (!path)
        return lookup_fail(err, -ENOMEM, "disk", "no memory");
    int rc = pnx_mapping_open(path,
            PNX_MAPPING_OPTS(.name = "texts", .env = opts->env, .registry = opts->registry,
                    .stats = opts->stats, .budget = opts->budget),
            err, &generation->texts);
    free(path);
    return rc ? rc : check_texts(generation, dir, err);
}

static int check_index(const struct lookup_generation *generation, const char *dir,
        const char *path, struct pnx_error *err) {
    const struct lookup_manifest *manifest = &generation->manifest;
    if (manifest->index_bytes > LOOKUP_VERIFY_MAX)
        return 0;
    uint64_t size = 0;
    struct lookup_hash hash;
    int rc = lookup_disk_hash(path, err, &size, &hash);
    if (rc)
        return rc;
    if (size != manifest->index_bytes)
        return corrupt(err, dir, "index.db: its size is not the one in the manifest");
    if (hash.high != manifest->index.high || hash.low != manifest->index.low)
        return corrupt(err, dir, "index.db: its checksum is not the one in the manifest");
    return 0;
}

/* Called for each connection of the pool, which is closed before the generation goes. */
static int set_up(void *ctx, struct sqlite3 *handle) {
    const struct lookup_generation *generation = ctx;
    return lookup_snippet_register(handle, generation->texts);
}

/* Reads one number. */
static int ask(struct pnx_sqlite_conn *conn, const char *sql, struct pnx_error *err,
        uint64_t *ret_number) {
    struct sqlite3_stmt *stmt = NULL;
    int rc = pnx_sqlite_prepare(conn, sql, err, &stmt);
    if (rc)
        return rc;
    rc = pnx_sqlite_step(conn, stmt, err);
    if (rc == 1)
        *ret_number = (uint64_t)sqlite3_column_int64(stmt, 0);
    pnx_sqlite_finish(conn, &stmt);
    return rc < 0 ? rc : 0;
}

/* The database answers, and its answers fit the manifest. */
static int ask_index(const struct lookup_generation *generation, struct pnx_sqlite_conn *conn,
        const char *dir, struct pnx_error *err) {
    uint64_t documents = 0, end = 0, found = 0;
    int rc = ask(conn, "SELECT count(*) FROM docs", err, &documents);
    if (!rc)
        rc = ask(conn, "SELECT max(offset + size + 1) FROM docs", err, &end);
    if (!rc)
        rc = ask(conn, "SELECT count(*) FROM (SELECT 1 FROM search WHERE search MATCH 'a' LIMIT 1)",
                err, &found);
    if (rc)
        return rc;
    if (documents != generation->manifest.documents || end != generation->manifest.text_bytes)
        return corrupt(err, dir, "index.db: it does not fit the manifest");
    return 0;
}

static int try_index(
        const struct lookup_generation *generation, const char *dir, struct pnx_error *err) {
    const struct pnx_pool_manager *manager = pnx_sqlite_manager();
    void *conn = NULL;
    struct pnx_error why = {0};
    pnx_ns deadline = pnx_now() + SANITY_TIMEOUT;
    int rc = manager->connect(generation->source, deadline, &why, &conn);
    if (!rc) {
        rc = ask_index(generation, conn, dir, &why);
        manager->close(generation->source, conn, PNX_NEVER);
    }
    if (rc)
        lookup_fail(err, rc, "verify", "%s/index.db: %s", dir, why.message);
    return rc;
}

static int open_index(const struct lookup_generation_opts *opts, const char *dir,
        struct lookup_generation *generation, struct pnx_error *err) {
    char *path = lookup_join(dir, "index.db");
    if (!path)
        return lookup_fail(err, -ENOMEM, "disk", "no memory");
    int rc = check_index(generation, dir, path, err);
    if (!rc)
        rc = pnx_sqlite_create(
                PNX_SQLITE_OPTS(.name = "lookup", .path = path, .env = opts->env,
                        .registry = opts->registry, .setup = set_up, .setup_ctx = generation,
                        .cache_bytes = 4u << 20, .flags = PNX_SQLITE_IMMUTABLE),
                err, &generation->source);
    free(path);
    return rc ? rc : try_index(generation, dir, err);
}

/* Opens and checks gen-N whose manifest was read already. */
static int open_generation(const struct lookup_generation_opts *opts, uint64_t number,
        const struct lookup_manifest *manifest, struct pnx_error *err,
        struct lookup_generation **ret_generation) {
    struct lookup_generation *generation = calloc(1, sizeof(*generation));
    char *dir = make_path(opts->data_dir, number, "");
    int rc = 0;
    if (generation)
        atomic_init(&generation->refs, 1); /* released below, whatever fails */
    if (!generation || !dir)
        rc = lookup_fail(err, -ENOMEM, "disk", "no memory");
    if (!rc && generation) {
        generation->number = number;
        generation->manifest = *manifest;
        rc = open_texts(opts, dir, generation, err);
    }
    if (!rc)
        rc = open_index(opts, dir, generation, err);
    free(dir);
    if (rc) {
        lookup_generation_release(&generation);
        return rc;
    }
    *ret_generation = generation;
    return 0;
}

struct lookup_generation *lookup_generation_ref(struct lookup_generation *generation) {
    atomic_fetch_add_explicit(&generation->refs, 1, memory_order_relaxed);
    return generation;
}

void lookup_generation_release(struct lookup_generation **generation) {
    if (!generation || !*generation)
        return;
    struct lookup_generation *gone = *generation;
    *generation = NULL;
    /* The last one sees all that the others did before theirs. */
    if (atomic_fetch_sub_explicit(&gone->refs, 1, memory_order_acq_rel) != 1)
        return;
    pnx_sqlite_release(&gone->source);
    pnx_mapping_release(&gone->texts);
    free(gone);
}

/* ---- reading texts that others may cut ---- */

int lookup_texts_stale(int cause, struct pnx_error *err) {
    lookup_fail(err, -ESTALE, "texts",
            "the file of texts was cut or changed, or cannot be read (%s); the index is being "
            "built "
            "again",
            pnx_strerror(cause));
    if (err)
        err->cause = cause;
    return -ESTALE;
}

int lookup_texts_read(
        struct pnx_mapping *texts, const void *src, void *dst, size_t n, struct pnx_error *err) {
    struct pnx_fault_scope scope;
    int rc = pnx_fault_begin(texts, &scope);
    if (rc)
        return lookup_texts_stale(rc, err);
    if (n > 0)
        memcpy(dst, src, n);
    rc = pnx_fault_end_checked(&scope);
    return rc ? lookup_texts_stale(rc, err) : 0;
}

/* ---- setting aside and removing ---- */

/* Whether an error says that the files are not as they were written, rather than that we lack something. */
static bool is_damage(int code) {
    return code == PNX_E_FORMAT || code == -ENOENT || code == -ERANGE || code == -EFBIG ||
           code == -EISDIR || code == -ENOTDIR || code == -EINVAL || code == -EIO || code == -ELOOP;
}

/*
 * Removes gen-N.  It loses its name first: one that is only half removed when the process dies must not look like a
 * damaged generation to the next start.
 */
static void remove_generation(
        const struct lookup_generation_opts *opts, uint64_t number, const char *suffix) {
    struct pnx_error why = {0};
    char *path = make_path(opts->data_dir, number, suffix);
    char *doomed = make_path(opts->data_dir, number, ".tmp");
    int rc = path && doomed ? 0 : -ENOMEM;
    if (!rc && rename(path, doomed) != 0)
        rc = lookup_disk_fail(&why, errno, path, "cannot be renamed");
    if (!rc)
        rc = lookup_disk_remove(doomed, &why);
    if (rc)
        lookup_log(opts->env, PNX_LOG_WARNING, "gen-%" PRIu64 "%s cannot be removed: %s", number,
                suffix, why.message);
    free(doomed);
    free(path);
}

/* Removes all generations that were set aside, save one. */
static void remove_bad(const struct lookup_generation_opts *opts, uint64_t keep) {
    DIR *dir = opendir(opts->data_dir);
    if (!dir)
        return;
    const struct dirent *entry;
    uint64_t number = 0;
    while ((entry = readdir(dir))) {
        if (parse_name(entry->d_name, &number) == NAME_BAD && number != keep)
            remove_generation(opts, number, ".bad");
    }
    closedir(dir);
}

static void set_aside(
        const struct lookup_generation_opts *opts, uint64_t number, const struct pnx_error *why) {
    char *from = make_path(opts->data_dir, number, "");
    char *to = make_path(opts->data_dir, number, ".bad");
    bool moved = from && to && rename(from, to) == 0;
    lookup_log(opts->env, PNX_LOG_WARNING, "gen-%" PRIu64 " is damaged, %s: %s", number,
            moved ? "set aside as .bad" : "and cannot be set aside", why->message);
    free(from);
    free(to);
    if (moved)
        remove_bad(opts, number);
    else
        remove_generation(opts, number, "");
}

/* ---- choosing ---- */

/* What the search among the existing ones found. */
struct choice {
    struct lookup_generation *fit;    /* good, and of this corpus */
    struct lookup_generation *oldish; /* good, and of an older state of the corpus */
};

static void found_damaged(
        const struct lookup_generation_opts *opts, uint64_t *number, const struct pnx_error *why) {
    if (*number == opts->in_use)
        *opts->damage = *why;
    else
        set_aside(opts, *number, why);
    *number = 0;
}

static bool has_list(const struct lookup_manifest *manifest, const struct lookup_corpus *corpus) {
    return manifest->list.high == corpus->hash[0] && manifest->list.low == corpus->hash[1];
}

static int read_manifest(const struct lookup_generation_opts *opts, uint64_t number,
        struct pnx_error *err, struct lookup_manifest *ret_manifest) {
    char *dir = make_path(opts->data_dir, number, "");
    int rc = dir ? lookup_manifest_read(dir, err, ret_manifest)
                 : lookup_fail(err, -ENOMEM, "disk", "no memory");
    free(dir);
    return rc;
}

/* Looks at one existing generation.  Damage is dealt with here, and takes its number away; other errors end the start. */
static int consider(const struct lookup_generation_opts *opts, uint64_t *number,
        struct pnx_error *err, struct choice *choice) {
    struct lookup_manifest manifest = {0};
    struct lookup_generation *generation = NULL;
    struct pnx_error why = {0};
    int rc = read_manifest(opts, *number, &why, &manifest);
    if (!rc)
        rc = open_generation(opts, *number, &manifest, &why, &generation);
    if (rc && is_damage(rc)) {
        found_damaged(opts, number, &why);
        return 0;
    }
    if (rc) {
        if (err)
            *err = why;
        return rc;
    }
    if (has_list(&manifest, opts->build.corpus))
        choice->fit = generation;
    else
        choice->oldish = generation;
    return 0;
}

/* Goes from the newest to the oldest until a fitting one is found; keeps the newest of the others. */
static int choose(const struct lookup_generation_opts *opts, const struct listing *listing,
        struct pnx_error *err, struct choice *choice) {
    for (size_t i = 0; i < listing->count && !choice->fit; i++) {
        struct lookup_manifest manifest = {0};
        /* One that neither fits nor would be fallen back to need not be read whole. */
        if (choice->oldish && read_manifest(opts, listing->numbers[i], NULL, &manifest) == 0 &&
                !has_list(&manifest, opts->build.corpus))
            continue;
        struct lookup_generation *before = choice->oldish;
        int rc = consider(opts, &listing->numbers[i], err, choice);
        if (rc)
            return rc;
        if (choice->oldish != before)
            lookup_generation_release(&before);
    }
    return 0;
}

/* Removes what is older than the one to be used, but for the one that still is. */
static void remove_old(
        const struct lookup_generation_opts *opts, const struct listing *listing, uint64_t keep) {
    for (size_t i = 0; i < listing->count; i++) {
        uint64_t number = listing->numbers[i];
        if (number != 0 && number != keep && number != opts->in_use)
            remove_generation(opts, number, "");
    }
}

/* ---- building a new one ---- */

static int give_name(const struct lookup_generation_opts *opts, const char *from, uint64_t number,
        struct pnx_error *err) {
    char *to = make_path(opts->data_dir, number, "");
    int rc = 0;
    if (!to)
        rc = lookup_fail(err, -ENOMEM, "disk", "no memory");
    else if (rename(from, to) != 0)
        rc = lookup_disk_fail(err, errno, to, "cannot give the new index its name");
    free(to);
    return rc ? rc : lookup_disk_sync(opts->data_dir, err);
}

static int build(const struct lookup_generation_opts *opts, uint64_t number, struct pnx_error *err,
        struct lookup_generation **ret_generation) {
    char *dir = make_path(opts->data_dir, number, ".tmp");
    if (!dir)
        return lookup_fail(err, -ENOMEM, "disk", "no memory");
    struct lookup_build work = opts->build;
    work.dir = dir;
    struct lookup_manifest manifest;
    int rc = lookup_build(&work, err, &manifest);
    if (!rc)
        rc = give_name(opts, dir, number, err);
    if (rc)
        (void)lookup_disk_remove(dir, NULL);
    free(dir);
    if (!rc)
        rc = open_generation(opts, number, &manifest, err, ret_generation);
    if (!rc)
        (*ret_generation)->built = true;
    return rc;
}

/* What a want of space or memory means: an older index is better than none. */
static bool is_want(int code) {
    return code == -ENOSPC || code == -EDQUOT || code == -ENOMEM || code == -EFBIG ||
           code == -EIO || code == -EROFS;
}

static int build_or_fall_back(const struct lookup_generation_opts *opts, uint64_t number,
        struct choice *choice, struct pnx_error *err) {
    struct pnx_error why = {0};
    int rc = build(opts, number, &why, &choice->fit);
    if (rc && is_want(rc) && choice->oldish) {
        lookup_log(opts->env, PNX_LOG_WARNING,
                "the corpus changed but cannot be indexed (%s); serving the older gen-%" PRIu64,
                why.message, choice->oldish->number);
        choice->fit = choice->oldish;
        choice->oldish = NULL;
        return 0;
    }
    if (rc && err)
        *err = why;
    return rc;
}

int lookup_generation_get(const struct lookup_generation_opts *opts, struct pnx_error *err,
        struct lookup_generation **ret_generation) {
    struct listing listing = {0};
    struct choice choice = {0};
    int rc = list(opts, err, &listing);
    if (!rc)
        rc = choose(opts, &listing, err, &choice);
    if (!rc && !choice.fit)
        rc = build_or_fall_back(opts, listing.highest + 1, &choice, err);
    if (!rc && choice.fit)
        remove_old(opts, &listing, choice.fit->number);
    free(listing.numbers);
    lookup_generation_release(&choice.oldish);
    if (rc) {
        lookup_generation_release(&choice.fit);
        return rc;
    }
    *ret_generation = choice.fit;
    return 0;
}

void lookup_generation_retire(const struct lookup_generation_opts *opts) {
    if (opts->damage->code)
        set_aside(opts, opts->in_use, opts->damage);
    else
        remove_generation(opts, opts->in_use, "");
}
