/* SPDX-License-Identifier: Apache-2.0 */
/* source.c - see source.h */
#include "source.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A request in the temporary file; size is there only where the trace has sizes. */
struct spooled {
    uint32_t id;
    uint32_t distance;
    uint64_t size;
};

static size_t spooled_bytes(const struct source *source) {
    return source->sized ? sizeof(struct spooled) : offsetof(struct spooled, size);
}

int source_open(struct source *source, const char *path, const struct trace_options *options,
        struct failure *failure) {
    *source = (struct source){.path = path, .options = options, .spool = -1};
    source->read = malloc(sizeof(*source->read));
    if (!source->read)
        return fail(failure, "out of memory");
    return keys_init(&source->keys, failure);
}

void source_close(struct source *source) {
    trace_close(&source->trace);
    if (source->spool >= 0)
        close(source->spool);
    keys_release(&source->keys);
    free(source->read);
    source->spool = -1;
    source->read = NULL;
}

static const char *temporary_folder(void) {
    const char *folder = getenv("TMPDIR");
    return folder && folder[0] ? folder : "/tmp";
}

static int open_spool(struct source *source, struct failure *failure) {
    const char *folder = temporary_folder();
    source->spool = open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (source->spool < 0) {
        char path[512]; /* a file system that has no files without a name */
        snprintf(path, sizeof(path), "%s/patinox-XXXXXX", folder);
        source->spool = mkostemp(path, O_CLOEXEC);
        if (source->spool >= 0)
            unlink(path);
    }
    if (source->spool < 0)
        return fail(failure, "temporary file in %s: %s", folder, strerror(errno));
    fprintf(stderr, "patinox sim: %s: using a temporary file in %s\n",
            strcmp(source->path, "-") == 0 ? "standard input" : source->path, folder);
    return 0;
}

static int transfer(struct source *source, bool out, void *data, size_t n, uint64_t at,
        struct failure *failure) {
    char *bytes = data;
    while (n > 0) {
        ssize_t done = out ? pwrite(source->spool, bytes, n, (off_t)at)
                           : pread(source->spool, bytes, n, (off_t)at);
        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0)
            return fail(failure, "temporary file in %s: %s", temporary_folder(),
                    done < 0 ? strerror(errno) : "is shorter than it was");
        bytes += done;
        n -= (size_t)done;
        at += (uint64_t)done;
    }
    return 0;
}

static void show(const struct source *source, const char *what) {
    double part = 0;
    if (!source->progress.show)
        return;
    if (source->trace) {
        uint64_t length = input_length(trace_input(source->trace));
        part = length ? (double)input_position(trace_input(source->trace)) / (double)length : 0;
    } else if (source->requests) {
        part = (double)source->at / (double)source->requests;
    }
    source->progress.show(source->progress.ctx, what, part);
}

/* Requests from..from + n of the temporary file. */
static int spool_move(struct source *source, bool out, struct source_batch *batch, uint64_t from,
        struct failure *failure) {
    size_t each = spooled_bytes(source);
    char bytes[TRACE_BATCH * sizeof(struct spooled)];
    for (uint32_t i = 0; out && i < batch->n; i++) {
        struct spooled one = {batch->id[i], batch->distance[i], batch->size[i]};
        memcpy(bytes + i * each, &one, each);
    }
    if (transfer(source, out, bytes, batch->n * each, from * each, failure))
        return -1;
    for (uint32_t i = 0; !out && i < batch->n; i++) {
        struct spooled one = {.size = 1};
        memcpy(&one, bytes + i * each, each);
        batch->id[i] = one.id;
        batch->distance[i] = one.distance;
        batch->size[i] = one.size;
    }
    return 0;
}

static int next_read(struct source *source, struct source_batch *batch, struct failure *failure) {
    if (trace_next(source->trace, source->read, failure))
        return -1;
    batch->n = source->read->n;
    memcpy(batch->size, source->read->size, batch->n * sizeof(batch->size[0]));
    return keys_number(&source->keys, source->read->key, batch->n, batch->id, failure);
}

int source_begin(struct source *source, struct failure *failure) {
    source->at = 0;
    trace_close(&source->trace);
    if (source->spool >= 0)
        return 0;
    if (trace_open(source->path, source->options, failure, &source->trace))
        return -1;
    source->sized = trace_sized(source->trace);
    return 0;
}

int source_next(struct source *source, struct source_batch *batch, struct failure *failure) {
    show(source, "replaying");
    if (source->trace) {
        if (next_read(source, batch, failure))
            return -1;
    } else {
        uint64_t left = source->requests - source->at;
        batch->n = left < TRACE_BATCH ? (uint32_t)left : TRACE_BATCH;
        if (spool_move(source, false, batch, source->at, failure))
            return -1;
    }
    source->at += batch->n;
    if (batch->n == 0) {
        trace_close(&source->trace);
        source->requests = source->at;
    }
    return 0;
}

/* The bytes of keys that come first in this batch: those numbered from known on. */
static void count_footprint(
        struct source *source, const struct source_batch *batch, uint32_t known) {
    for (uint32_t i = 0; i < batch->n; i++) {
        if (batch->id[i] == known) {
            source->footprint += batch->size[i];
            known++;
        }
    }
}

int source_scan(struct source *source, bool spool, struct failure *failure) {
    struct source_batch *batch = malloc(sizeof(*batch));
    int rc = batch ? source_begin(source, failure) : fail(failure, "out of memory");
    if (rc == 0 && spool)
        rc = open_spool(source, failure);
    while (rc == 0) {
        uint32_t known = source->keys.count;
        show(source, "reading");
        rc = next_read(source, batch, failure);
        if (rc || batch->n == 0)
            break;
        count_footprint(source, batch, known);
        memset(batch->distance, 0, sizeof(batch->distance));
        if (spool)
            rc = spool_move(source, true, batch, source->at, failure);
        source->at += batch->n;
    }
    source->requests = source->at;
    source->scanned = true;
    trace_close(&source->trace);
    free(batch);
    return rc;
}

int source_look_ahead(struct source *source, struct failure *failure) {
    struct source_batch *batch = malloc(sizeof(*batch));
    uint64_t *next = calloc((size_t)source->keys.count + 1, sizeof(*next)); /* 0: never */
    int rc = batch && next ? 0 : fail(failure, "out of memory for %u keys", source->keys.count);
    uint64_t end = source->requests;
    while (rc == 0 && end > 0) {
        batch->n = (uint32_t)(end % TRACE_BATCH ? end % TRACE_BATCH : TRACE_BATCH);
        uint64_t from = end - batch->n;
        rc = spool_move(source, false, batch, from, failure);
        for (uint32_t i = batch->n; rc == 0 && i-- > 0;) {
            uint64_t *mine = &next[batch->id[i]];
            uint64_t distance = *mine ? *mine - (from + i + 1) : UINT32_MAX;
            batch->distance[i] = distance < UINT32_MAX ? (uint32_t)distance : UINT32_MAX;
            *mine = from + i + 1;
        }
        if (rc == 0)
            rc = spool_move(source, true, batch, from, failure);
        source->at = source->requests - from;
        show(source, "looking ahead");
        end = from;
    }
    free(next);
    free(batch);
    return rc;
}
