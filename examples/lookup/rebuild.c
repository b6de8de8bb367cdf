/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rebuild.c - the index of a store: made at the start, and again when somebody has cut or changed its file of texts.
 *
 *   P1  The generation in force serves until its successor does; one that cannot be built changes nothing but the time
 *       of the next try.
 *   P2  At most one is built at a time, by the executor's only worker.
 *   P3  A store that is being closed, or told to stop rebuilding, ends a build at its next document or phase.
 */
#include "store_private.h"

#include <errno.h>
#include <inttypes.h>

/* Memory that building an index takes besides the texts on their way: FTS5's words and page caches. */
#define BUILD_BYTES ((size_t)64 * 1024 * 1024)

/* How long after a failure the next try may begin: the first, and the longest of these pauses, each twice the last. */
#define PAUSE_MIN PNX_SEC
#define PAUSE_MAX (60 * PNX_SEC)

/* ---- getting one ---- */

/* The progress of a scan, as progress of the whole. */
struct scan {
    const struct pnx_env *env;
    lookup_progress_fn *progress;
    void *ctx;
    pnx_ns due;
};

static int on_scan(void *ctx, uint64_t files) {
    struct scan *scan = ctx;
    pnx_ns now = lookup_now(scan->env);
    if (!scan->progress || now < scan->due)
        return 0;
    scan->due = now + LOOKUP_PROGRESS_NS;
    struct lookup_progress progress = {.phase = LOOKUP_PHASE_SCAN, .files_done = files};
    return scan->progress(scan->ctx, &progress);
}

int lookup_index_get(struct lookup_store *store, lookup_progress_fn *progress, void *ctx,
        struct lookup_generation_opts *work, struct pnx_error *err,
        struct lookup_generation **ret_generation) {
    struct lookup_corpus *corpus = NULL;
    struct scan scan = {.env = store->env_or_null, .progress = progress, .ctx = ctx};
    /* The index is no part of what is indexed: each start would find it changed. */
    int rc = lookup_corpus_scan(
            store->corpus, store->data_dir, store->max_files, on_scan, &scan, err, &corpus);
    if (rc)
        return rc;
    work->data_dir = store->data_dir;
    work->build = (struct lookup_build){
            .corpus = corpus,
            .max_file_bytes = store->max_file_bytes,
            .max_total_bytes = store->max_total_bytes,
            .progress = progress,
            .progress_ctx = ctx,
            .env = store->env_or_null,
    };
    work->env = store->env_or_null;
    work->registry = store->registry;
    work->stats = store->stats;
    work->budget = store->budget;
    /* It cannot be refused, since without an index there is nothing; but it shows. */
    rc = pnx_budget_charge(store->budget, BUILD_BYTES, PNX_CHARGE_MUST);
    if (!rc) {
        rc = lookup_generation_get(work, err, ret_generation);
        pnx_budget_uncharge(store->budget, BUILD_BYTES);
    }
    work->build.corpus = NULL;
    lookup_corpus_release(&corpus);
    return rc;
}

/* ---- putting it in force ---- */

static struct lookup_store_info describe(const struct lookup_generation *generation) {
    const struct lookup_manifest *manifest = &generation->manifest;
    return (struct lookup_store_info){
            .generation = generation->number,
            .documents = manifest->documents,
            .text_bytes = manifest->text_bytes,
            .index_bytes = manifest->index_bytes,
            .files = manifest->files,
            .binary = manifest->binary,
            .unreadable = manifest->unreadable,
            .empty = manifest->empty,
            .truncated = manifest->truncated,
            .built = generation->built,
            .build_ns = (pnx_ns)manifest->build_ms * PNX_MS,
    };
}

static void log_in_force(const struct lookup_store *store, const struct lookup_store_info *info) {
    lookup_log(store->env_or_null, PNX_LOG_INFO,
            "gen-%" PRIu64 " %s: %" PRIu64 " documents of %" PRIu64 " files, %" PRIu64
            " MiB of text; skipped %" PRIu64 " binary, %" PRIu64 " empty, %" PRIu64
            " unreadable; cut %" PRIu64,
            info->generation, info->built ? "built" : "opened", info->documents, info->files,
            info->text_bytes >> 20, info->binary, info->empty, info->unreadable, info->truncated);
}

void lookup_index_put_in_force(struct lookup_store *store, struct lookup_generation *generation) {
    struct lookup_store_info info = describe(generation);
    generation->opening = atomic_load(&store->opening) + 1;
    pthread_mutex_lock(&store->mutex);
    struct lookup_generation *before = store->generation;
    store->generation = generation;
    store->opened = info;
    pthread_mutex_unlock(&store->mutex);
    /*
     * In this order: who asks under the new number gets a connection whose connect began after the reset, and so belongs
     * to the new generation.  Otherwise the cache might keep an old answer under the new number.
     */
    if (store->pool)
        (void)!pnx_pool_reset(store->pool, PNX_POOL_RESET_IDLE); /* a closed one grants nothing */
    atomic_store(&store->number, generation->number);
    atomic_store(&store->opening, generation->opening);
    lookup_generation_release(&before);
    log_in_force(store, &info);
}

/* ---- making it again ---- */

/* One rebuild; lives on the stack of the job. */
struct rebuild {
    struct lookup_store *store;
    const struct pnx_cancel *cancel;
};

static int on_progress(void *ctx, const struct lookup_progress *progress) {
    const struct rebuild *rebuild = ctx;
    (void)progress;
    return atomic_load(&rebuild->store->rebuild_no_more) ||
           (atomic_load(&rebuild->store->callers) & LOOKUP_CLOSED) != 0 ||
           pnx_cancel_requested(rebuild->cancel);
}

static void note_failure(struct lookup_store *store, const struct pnx_error *err) {
    pnx_ns pause = PAUSE_MIN;
    for (uint64_t i = 0; i < store->failures && pause < PAUSE_MAX; i++)
        pause *= 2;
    pause = pause < PAUSE_MAX ? pause : PAUSE_MAX;
    store->failures++;
    atomic_fetch_add(&store->rebuild_failures, 1);
    atomic_store(&store->rebuild_due, pnx_now() + pause);
    lookup_log(store->env_or_null, PNX_LOG_ERROR,
            "the index cannot be built again: %s; next try in %" PRId64 " s, or later",
            err->message, (int64_t)(pause / PNX_SEC));
}

static int rebuild_index(struct rebuild *rebuild) {
    struct lookup_store *store = rebuild->store;
    struct lookup_generation *next = NULL;
    struct pnx_error err = {0}, damage = {0};
    struct lookup_generation_opts work = {.in_use = atomic_load(&store->number), .damage = &damage};
    int rc = lookup_index_get(store, on_progress, rebuild, &work, &err, &next);
    if (rc == -ECANCELED)
        return rc;
    if (rc) {
        note_failure(store, &err);
        return rc;
    }
    bool reopened = next->number == work.in_use; /* only its times had changed */
    lookup_index_put_in_force(store, next);
    if (!reopened)
        lookup_generation_retire(&work);
    store->failures = 0;
    atomic_fetch_add(&store->rebuilds, 1);
    return 0;
}

/* The executor's job. */
static int run_rebuild(void *arg, const struct pnx_cancel *cancel) {
    struct lookup_store *store = arg;
    struct rebuild rebuild = {.store = store, .cancel = cancel};
    int rc = lookup_store_enter(store, NULL);
    if (rc)
        return rc;
    /* Another one may have ended between the request and now. */
    if (atomic_load(&store->stale_opening) == atomic_load(&store->opening))
        rc = rebuild_index(&rebuild);
    lookup_store_leave(store);
    return rc;
}

static void request_rebuild(struct lookup_store *store) {
    struct pnx_error err = {0};
    if (pnx_now() < atomic_load(&store->rebuild_due))
        return;
    int rc = pnx_executor_submit(store->executor,
            PNX_JOB(.run = run_rebuild, .arg = store, .name = "rebuild", .attempts = 1,
                    .timeout_ns = PNX_NEVER),
            &err, NULL);
    if (rc < 0 && rc != -EBUSY && rc != -ESHUTDOWN) /* one is at it; the end has begun */
        lookup_log(store->env_or_null, PNX_LOG_ERROR, "the index cannot be built again: %s",
                err.message);
}

void lookup_index_note_stale(struct lookup_store *store, uint64_t opening) {
    atomic_fetch_add_explicit(&store->stale_requests, 1, memory_order_relaxed);
    if (opening != atomic_load(&store->opening))
        return; /* it is not in force any more */
    uint64_t seen = atomic_load(&store->stale_opening);
    while (seen < opening && !atomic_compare_exchange_weak(&store->stale_opening, &seen, opening))
        continue;
    if (seen < opening)
        lookup_log(store->env_or_null, PNX_LOG_WARNING,
                "the texts of gen-%" PRIu64
                " were cut or changed, or cannot be read: indexing again",
                atomic_load(&store->number));
    request_rebuild(store);
}

int lookup_store_stop_rebuilding(struct lookup_store *store, pnx_ns timeout) {
    int rc = lookup_store_enter(store, NULL);
    if (rc)
        return 0; /* closed, which has ended it */
    atomic_store(&store->rebuild_no_more, true);
    rc = pnx_executor_close(store->executor, timeout > 0 ? timeout : 0, NULL);
    lookup_store_leave(store);
    return rc;
}
