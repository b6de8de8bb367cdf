/* SPDX-License-Identifier: Apache-2.0 */
/* reader.c - see reader.h */
#include "reader.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#define SLOTS 4u

/* One batch, and what there is to say about it.  rc != 0: the failure instead. */
struct slot {
    struct batch batch;
    double part;
    int rc;
    struct failure failure;
};

/* Slots from taken to filled belong to the user, the others to the thread.  Counters and stop are guarded by lock. */
struct reader {
    struct trace *trace;
    struct keys *keys;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    uint64_t filled;
    uint64_t taken; /* the user's batch, if there is one, is this slot */
    bool started;
    bool stop;
    bool has_batch; /* the user's own */
    bool sized;
    struct trace_batch read; /* the thread's own */
    struct slot slots[SLOTS];
};

static void fill(struct reader *reader, struct slot *slot) {
    struct batch *batch = &slot->batch;
    uint64_t length = input_length(trace_input(reader->trace));
    batch->n = 0;
    slot->rc = trace_next(reader->trace, &reader->read, &slot->failure);
    if (slot->rc)
        return;
    batch->n = reader->read.n;
    memcpy(batch->size, reader->read.size, batch->n * sizeof(batch->size[0]));
    slot->rc = keys_number(reader->keys, reader->read.key, batch->n, batch->id, &slot->failure);
    slot->part = length ? (double)input_position(trace_input(reader->trace)) / (double)length : 0;
}

static void *run(void *arg) {
    struct reader *reader = arg;
    bool last = false;
    pthread_mutex_lock(&reader->lock);
    while (!reader->stop && !last) {
        if (reader->filled - reader->taken == SLOTS) {
            pthread_cond_wait(&reader->changed, &reader->lock);
            continue;
        }
        struct slot *slot = &reader->slots[reader->filled % SLOTS];
        pthread_mutex_unlock(&reader->lock);
        fill(reader, slot);
        last = slot->rc != 0 || slot->batch.n == 0;
        pthread_mutex_lock(&reader->lock);
        reader->filled++;
        pthread_cond_signal(&reader->changed);
    }
    pthread_mutex_unlock(&reader->lock);
    return NULL;
}

/* Signals are for the main thread. */
static int start(struct reader *reader) {
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int rc = pthread_create(&reader->thread, NULL, run, reader);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    reader->started = rc == 0;
    return rc;
}

int reader_open(const char *path, const struct trace_options *options, struct keys *keys,
        struct failure *failure, struct reader **ret_reader) {
    struct reader *reader = calloc(1, sizeof(*reader));
    if (!reader)
        return fail(failure, "out of memory");
    pthread_mutex_init(&reader->lock, NULL);
    pthread_cond_init(&reader->changed, NULL);
    reader->keys = keys;
    if (trace_open(path, options, failure, &reader->trace)) {
        reader_close(&reader);
        return -1;
    }
    reader->sized = trace_sized(reader->trace);
    int rc = start(reader);
    if (rc) {
        reader_close(&reader);
        return fail(failure, "cannot start a thread: %s", strerror(rc));
    }
    *ret_reader = reader;
    return 0;
}

int reader_next(struct reader *reader, const struct batch **ret_batch, struct failure *failure) {
    pthread_mutex_lock(&reader->lock);
    if (reader->has_batch) {
        reader->taken++;
        pthread_cond_signal(&reader->changed);
    }
    while (reader->filled == reader->taken)
        pthread_cond_wait(&reader->changed, &reader->lock);
    const struct slot *slot = &reader->slots[reader->taken % SLOTS];
    pthread_mutex_unlock(&reader->lock);
    /* The last batch stays: what was at the end, is at the end. */
    reader->has_batch = slot->rc == 0 && slot->batch.n > 0;
    if (slot->rc) {
        *failure = slot->failure;
        return -1;
    }
    *ret_batch = &slot->batch;
    return 0;
}

bool reader_sized(const struct reader *reader) {
    return reader->sized;
}

double reader_part(const struct reader *reader) {
    return reader->slots[reader->taken % SLOTS].part;
}

void reader_close(struct reader **reader) {
    struct reader *r = *reader;
    if (!r)
        return;
    if (r->started) {
        pthread_mutex_lock(&r->lock);
        r->stop = true;
        pthread_cond_signal(&r->changed);
        pthread_mutex_unlock(&r->lock);
        pthread_join(r->thread, NULL);
    }
    trace_close(&r->trace);
    pthread_cond_destroy(&r->changed);
    pthread_mutex_destroy(&r->lock);
    free(r);
    *reader = NULL;
}
