/* SPDX-License-Identifier: Apache-2.0 */
/*
 * store.h - the texts that lookup serves: an immutable index on disk, searched through a pool and a cache.
 *
 * lookup_store_open() takes the lock of the data directory, uses the last good generation in it, or builds a
 * new one when there is none or when the list of (path, size, mtime) of the corpus differs:
 *
 *   DATA/lock             held (flock) by the one process that uses the directory
 *   DATA/gen-N/           index.db (SQLite with FTS5), texts (all texts, one after the other), manifest
 *   DATA/gen-N.tmp/       being built; removed by the next start if its maker died
 *   DATA/gen-N.bad/       found damaged and set aside; the last one is kept for inspection
 *
 *   P1  A generation is used only if it was completed: files and directories are synced, then gen-N.tmp is
 *       renamed to gen-N.  Killing the process, a full disk or a crash at any moment leaves the last good
 *       generation usable, and the next start removes what was left over.
 *   P2  A generation never changes once it has its name.  A damaged one is reported, set aside, and replaced.
 *   P3  A search never fails because of what the user typed, except that it is empty or too long.
 *   P4  Identical searches that run at the same time read the database once.
 *       One that is older than cache_refresh is answered from the cache, and read anew by one job in the background.
 *       That a search finds nothing is remembered for cache_negative_ttl, and the database is not asked meanwhile.
 *   P5  At most one process uses a data directory; a second one gets -EBUSY that names the first.
 *   P6  lookup_store_release() ends everything that open made; what is borrowed (answers, documents) keeps
 *       the memory that it shows until it is released.
 *   P7  When the file of texts is cut, changed, replaced or removed while it is served, no byte is read wrong and no
 *       signal comes: documents, and searches whose snippets need it, are -ESTALE until a new generation has been
 *       built, or the old one found whole, in the background; all else goes on.  (A small file of texts is read whole
 *       at the start, and does not care.)
 */
#ifndef LOOKUP_STORE_H
#define LOOKUP_STORE_H

#include "settings.h"

#include <patinox/base.h>
#include <patinox/budget.h>
#include <patinox/cache.h>
#include <patinox/error.h>
#include <patinox/registry.h>
#include <patinox/stats.h>

#define LOOKUP_QUERY_MAX     512u    /* bytes of a query */
#define LOOKUP_WORDS_MAX     32u     /* words of a query */
#define LOOKUP_LIMIT_DEFAULT 10u     /* results of one answer */
#define LOOKUP_LIMIT_MAX     100u    /* results of one answer */
#define LOOKUP_OFFSET_MAX    100000u /* results skipped */

struct lookup_store; /* safe to use from any thread */

/* ---- opening ---- */

enum lookup_phase {
    LOOKUP_PHASE_SCAN = 1, /* walking the corpus; files_total is not known yet */
    LOOKUP_PHASE_INDEX,    /* reading and indexing texts */
    LOOKUP_PHASE_SYNC,     /* writing it all to disk */
    LOOKUP_PHASE_READY,    /* reported once, when the store can serve */
};

struct lookup_progress {
    enum lookup_phase phase;
    uint64_t files_done;
    uint64_t files_total;
    uint64_t bytes_done; /* of the files as they lie on disk */
    uint64_t bytes_total;
    uint64_t skipped; /* files that hold no text, could not be read or are too large, so far */
};

/*
 * Called during lookup_store_open() on the thread that called it, about every 50 ms and at each change of
 * phase.  A value other than 0 ends the opening with -ECANCELED (a signal came); the next start recovers.
 */
typedef int lookup_progress_fn(void *ctx, const struct lookup_progress *progress);

struct lookup_store_opts {
    const char *corpus;                     /* directory; required */
    const char *data_dir;                   /* made if missing (one level); required */
    const struct lookup_settings *settings; /* copied; NULL: the defaults */
    lookup_progress_fn *progress;           /* may be NULL */
    void *progress_ctx;
    const struct pnx_env *env;     /* default: the system's, which logs nothing */
    struct pnx_registry *registry; /* default: the process's */
    struct pnx_stats *stats;       /* default: the process's */
    struct pnx_budget *budget;     /* parent of the store's own; default: the process's */
    uint64_t max_file_bytes;  /* larger texts are cut there, which is counted; default 16 MiB */
    uint64_t max_total_bytes; /* of all texts; default 4 GiB; more is -EFBIG */
    uint64_t max_files;       /* default 1,000,000; more is -EFBIG */
};

/*
 * Opens the store; may build an index, which takes seconds to minutes.  What a start recovered from (leftovers,
 * damaged generations) and what it skipped is logged through env->log, one line each.
 * -ENOENT, -ENOTDIR, -EACCES (corpus or data_dir; err->message names the path), -ENODATA (the corpus holds no
 * text at all), -EBUSY (another process uses data_dir; the message has its pid), -ENOSPC, -EFBIG, -ECANCELED,
 * -EIO, -ENOMEM, -EINVAL.  Nothing remains open after a failure.
 */
PNX_NODISCARD int lookup_store_open(const struct lookup_store_opts *opts, struct pnx_error *err,
        struct lookup_store **ret_store);

/*
 * Ends a rebuild of the index that is under way (P7), at its next document, begins no other one, and waits until that is so
 * or the timeout has passed.  For the begin of an orderly end, since a cleanup has less time.  0 or -ETIMEDOUT.
 */
int lookup_store_stop_rebuilding(struct lookup_store *store, pnx_ns timeout);

/*
 * Fills the cache with the answers that the last run saved in the data directory; for a start.  -ENOENT when there are none;
 * -ESTALE, PNX_E_FORMAT and others when they are of another index or damaged (err says which): then there are none, and
 * nothing else is wrong.
 */
PNX_NODISCARD int lookup_store_load_answers(
        struct lookup_store *store, struct pnx_error *err, uint64_t *ret_answers);

/* Saves the answers in the cache for the next start; for an orderly end.  -ENOSPC, -EIO, -ENOMEM, -ESHUTDOWN ... */
PNX_NODISCARD int lookup_store_save_answers(
        struct lookup_store *store, struct pnx_error *err, uint64_t *ret_answers);

/*
 * Refuses new searches and documents with -ESHUTDOWN, and waits up to timeout for those that run.
 * Returns 0, or how many connections (or, when there are none, calls) were still in use.  Idempotent.
 */
int lookup_store_close(struct lookup_store *store, pnx_ns timeout);

/* Closes without waiting and drops the store.  NULL-safe; clears *store. */
void lookup_store_release(struct lookup_store **store);

/*
 * Changes a running store: pool_max, cache_bytes, cache_ttl_ns, cache_refresh_ns, cache_negative_ttl_ns, budget_bytes,
 * search_timeout_ns.
 * Answers that are cached already keep the times that they were given.  Any thread; calls do not overlap.
 * -EINVAL, -ERANGE (nothing changed), -ESHUTDOWN.
 */
int lookup_store_apply(
        struct lookup_store *store, const struct lookup_settings *settings, struct pnx_error *err);

/* ---- searching ---- */

/* The answer to a search; a value, used by one thread at a time, may be handed on.  Release it. */
struct lookup_answer {
    const char *
            results; /* a JSON array, not terminated: [{"id","title","path","snippet","marks"}, ...] */
    size_t results_size;
    uint64_t total;            /* documents that match, without limit and offset */
    bool cached;               /* came from the cache, not from the database */
    struct pnx_cache_ref hold; /* private: keeps results alive */
};

/*
 * Searches for documents that hold all words of the query, best first; words in the title and the path weigh
 * more.  Words in double quotes, or joined by punctuation as in libfoo-dev, must stand together.  The last word
 * may be the beginning of one, when it has three letters or more and no blank or quote follows.  Everything else
 * that a user may type separates words.
 *
 * A snippet is plain text without control characters (those of the document are blanks); "marks" says where its
 * matches stand: [[first, behind], ...], counted in characters (code points), in order and apart.
 *
 * limit 0 means LOOKUP_LIMIT_DEFAULT.  timeout bounds all of it; PNX_TIMEOUT_DEFAULT is the setting's.
 * -EINVAL (no word in the query), -EFBIG (longer than LOOKUP_QUERY_MAX, or more than LOOKUP_WORDS_MAX words), -ERANGE
 * (limit or offset), -ESTALE (P7), -ETIMEDOUT, -EBUSY, -ESHUTDOWN, -ENOMEM, -EIO, PNX_E_FORMAT (the database is damaged), and
 * others of the pool.
 */
PNX_NODISCARD int lookup_store_search(struct lookup_store *store, const char *query,
        size_t query_size, uint32_t limit, uint32_t offset, pnx_ns timeout, struct pnx_error *err,
        struct lookup_answer *ret_answer);

/*
 * The same from the cache only: never blocks, never asks the database.  -ENOENT when the answer is not there (ask
 * lookup_store_search() then), -EINVAL, -EFBIG, -ERANGE, -ESHUTDOWN.  Counts as a search only when it finds one.
 */
PNX_NODISCARD int lookup_store_search_cached(struct lookup_store *store, const char *query,
        size_t query_size, uint32_t limit, uint32_t offset, struct pnx_error *err,
        struct lookup_answer *ret_answer);

/* Gives the answer back; clears it.  An empty (zeroed) one is fine. */
void lookup_answer_release(struct lookup_answer *answer);

/*
 * Makes the body of /search: {"query","total","took_us","cached","results"}, with the query as it was asked for
 * (bytes that are not UTF-8 become U+FFFD).  The text is malloc()ed: free() it.  -ENOMEM.
 */
PNX_NODISCARD int lookup_answer_json(const struct lookup_answer *answer, const char *query,
        size_t query_size, uint64_t took_us, char **ret_text, size_t *ret_size);

/* ---- documents ---- */

/*
 * One document; a value, used by one thread at a time, may be handed on.  Release it.  Its text, UTF-8, is in a mapped
 * file, which somebody may cut: it is to be had by lookup_document_read() only.
 */
struct lookup_document {
    uint64_t id;
    size_t size;   /* bytes of the text */
    char *title;   /* one line of UTF-8 */
    char *path;    /* below the corpus; bytes that are not UTF-8 are shown as U+FFFD */
    char etag[48]; /* with its quotes: "g3-b1946ac92492d234-42"; changes with the generation */
    /* private */
    const void *mapped;
    uint64_t opening; /* of the generation that it belongs to */
    void *hold;       /* keeps it mapped */
};

/*
 * Finds a document.  -ENOENT, -ESTALE (P7; err->message says so), -ETIMEDOUT, -EBUSY, -ESHUTDOWN, -ENOMEM, -EIO,
 * PNX_E_FORMAT.
 */
PNX_NODISCARD int lookup_store_document(struct lookup_store *store, uint64_t id, pnx_ns timeout,
        struct pnx_error *err, struct lookup_document *ret_document);

/*
 * Copies n bytes at offset of the text to dst.  0: dst has what was indexed, unless the file was changed within the tick
 * that patinox/fault.h names.  After an error dst is worthless.  n 0 asks whether the text can be had now.  Also when
 * the store is gone.  May wait for the disk.
 * -ESTALE when the file of texts was cut, changed or cannot be read, also elsewhere in it (tell the store:
 * lookup_store_note_stale()); -ERANGE.
 */
PNX_NODISCARD int lookup_document_read(const struct lookup_document *document, uint64_t offset,
        void *dst, size_t n, struct pnx_error *err);

/*
 * Tells the store that lookup_document_read() has returned -ESTALE: it counts it, and builds the index again if that is
 * the one in force.  Does not block.  Any thread.
 */
void lookup_store_note_stale(struct lookup_store *store, const struct lookup_document *document);

/* Gives the document back; clears it.  An empty (zeroed) one is fine. */
void lookup_document_release(struct lookup_document *document);

/* ---- looking inside ---- */

struct lookup_store_info {
    uint64_t generation;       /* N of gen-N */
    uint64_t documents;        /* that can be found */
    uint64_t text_bytes;       /* size of the file of texts */
    uint64_t index_bytes;      /* size of the database */
    uint64_t files;            /* seen in the corpus */
    uint64_t binary;           /* skipped: no text in them */
    uint64_t unreadable;       /* skipped: no permission, damaged .gz, gone while reading */
    uint64_t empty;            /* skipped: nothing in them */
    uint64_t truncated;        /* indexed up to max_file_bytes */
    bool built;                /* this start built it */
    pnx_ns build_ns;           /* how long building took when it was built */
    uint64_t searches;         /* asked for */
    uint64_t database_reads;   /* searches that went to the database */
    bool stale;                /* the texts in force are lost, and the index is to be built again */
    uint64_t stale_requests;   /* documents and searches that were refused for it */
    uint64_t rebuilds;         /* that ended well, since the start */
    uint64_t rebuild_failures; /* that did not; each is tried again */
};
void lookup_store_info(struct lookup_store *store, struct lookup_store_info *ret_info);

/* The parts, for statistics: borrowed, valid until the store is released or its registry shut down; then NULL. */
struct pnx_pool *lookup_store_pool(struct lookup_store *store);
struct pnx_cache *lookup_store_cache(struct lookup_store *store);
struct pnx_budget *lookup_store_budget(struct lookup_store *store);

#endif
