/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pipeline.c - a ring of extracts between one thread that fills it and one that empties it.
 *
 * Reading and decompressing takes a third of the time that indexing takes: beside it, on another CPU, it costs
 * nothing.
 */
#include "pipeline.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Owned by the caller of start.  The mutex guards all below it; waiting is for either to change them. */
struct lookup_pipeline {
    const struct lookup_corpus *corpus;
    size_t max_file_bytes;
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    struct lookup_extract ring[PIPELINE_SLOTS];
    uint64_t made;  /* results put into the ring, ever */
    uint64_t taken; /* results taken out; made - taken <= PIPELINE_SLOTS */
    size_t bytes;   /* of text in the ring */
    int error;      /* what ended the thread early */
    bool stop;
};

static int extract_file(const struct lookup_corpus *corpus, const struct lookup_file *file,
        size_t max_bytes, struct lookup_extract *ret_extract) {
    int fd = lookup_corpus_open(corpus, file);
    if (fd < 0) {
        *ret_extract = (struct lookup_extract){.kind = LOOKUP_UNREADABLE};
        strncpy(ret_extract->reason, strerror(-fd), sizeof(ret_extract->reason) - 1);
        return 0;
    }
    const char *slash = strrchr(file->path, '/');
    int rc = lookup_extract(fd, slash ? slash + 1 : file->path, max_bytes, ret_extract);
    close(fd);
    return rc;
}

/* Puts one result into the ring once there is room.  False when it should end. */
static bool put(struct lookup_pipeline *pipeline, struct lookup_extract *extract) {
    pthread_mutex_lock(&pipeline->mutex);
    while (!pipeline->stop &&
            (pipeline->made - pipeline->taken == PIPELINE_SLOTS ||
                    (pipeline->made > pipeline->taken && pipeline->bytes > PIPELINE_BYTES)))
        pthread_cond_wait(&pipeline->changed, &pipeline->mutex);
    bool stop = pipeline->stop;
    if (!stop) {
        pipeline->ring[pipeline->made++ % PIPELINE_SLOTS] = *extract;
        pipeline->bytes += extract->text.size;
        pthread_cond_broadcast(&pipeline->changed);
    }
    pthread_mutex_unlock(&pipeline->mutex);
    return !stop;
}

static void *run(void *arg) {
    struct lookup_pipeline *pipeline = arg;
    const struct lookup_corpus *corpus = pipeline->corpus;
    int rc = 0;
    for (uint64_t i = 0; i < corpus->count && !rc; i++) {
        struct lookup_extract extract;
        rc = extract_file(corpus, &corpus->files[i], pipeline->max_file_bytes, &extract);
        if (!rc && !put(pipeline, &extract)) {
            lookup_extract_release(&extract);
            break;
        }
    }
    pthread_mutex_lock(&pipeline->mutex);
    pipeline->error = rc;
    pthread_cond_broadcast(&pipeline->changed);
    pthread_mutex_unlock(&pipeline->mutex);
    return NULL;
}

/* Signals are for the threads that expect them. */
static int start_thread(struct lookup_pipeline *pipeline) {
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int error = pthread_create(&pipeline->thread, NULL, run, pipeline);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return -error;
}

int lookup_pipeline_start(const struct lookup_corpus *corpus, size_t max_file_bytes,
        struct lookup_pipeline **ret_pipeline) {
    struct lookup_pipeline *pipeline = calloc(1, sizeof(*pipeline));
    if (!pipeline)
        return -ENOMEM;
    pipeline->corpus = corpus;
    pipeline->max_file_bytes = max_file_bytes;
    pthread_mutex_init(&pipeline->mutex, NULL);
    pthread_cond_init(&pipeline->changed, NULL);
    int rc = start_thread(pipeline);
    if (rc) {
        pthread_cond_destroy(&pipeline->changed);
        pthread_mutex_destroy(&pipeline->mutex);
        free(pipeline);
        return rc;
    }
    *ret_pipeline = pipeline;
    return 0;
}

int lookup_pipeline_next(struct lookup_pipeline *pipeline, struct lookup_extract *ret_extract) {
    int rc = 1;
    pthread_mutex_lock(&pipeline->mutex);
    if (pipeline->taken == pipeline->corpus->count)
        rc = 0;
    while (rc == 1 && pipeline->made == pipeline->taken && !pipeline->error)
        pthread_cond_wait(&pipeline->changed, &pipeline->mutex);
    if (rc == 1 && pipeline->made == pipeline->taken)
        rc = pipeline->error;
    if (rc == 1) {
        *ret_extract = pipeline->ring[pipeline->taken++ % PIPELINE_SLOTS];
        pipeline->bytes -= ret_extract->text.size;
        pthread_cond_broadcast(&pipeline->changed);
    }
    pthread_mutex_unlock(&pipeline->mutex);
    return rc;
}

void lookup_pipeline_stop(struct lookup_pipeline **pipeline) {
    if (!pipeline || !*pipeline)
        return;
    struct lookup_pipeline *gone = *pipeline;
    *pipeline = NULL;
    pthread_mutex_lock(&gone->mutex);
    gone->stop = true;
    pthread_cond_broadcast(&gone->changed);
    pthread_mutex_unlock(&gone->mutex);
    pthread_join(gone->thread, NULL);
    for (; gone->taken < gone->made; gone->taken++)
        lookup_extract_release(&gone->ring[gone->taken % PIPELINE_SLOTS]);
    pthread_cond_destroy(&gone->changed);
    pthread_mutex_destroy(&gone->mutex);
    free(gone);
}
