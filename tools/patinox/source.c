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
    source->unspooled = malloc(sizeof(*source->unspooled));
    if (!source->unspooled)
        return fail(failure, "out of memory");
    return keys_init(&source->keys, failure);
}

void source_close(struct source *source) {
    reader_close(&source->reader);
    if (source->spool >= 0)
        close(source->spool);
    keys_release(&source->keys);
    free(source->unspooled);
    source->spool = -1;
    source->unspooled = NULL;
}

const char *source_name(const struct source *source) {
    return strcmp(source->path, "-") == 0 ? "standard input" : source->path;
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
    fprintf(stderr, "patinox sim: %s: using a temporary file in %s\n", source_name(source), folder);
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
    double part = source->requests ? (double)source->at / (double)source->requests : 0;
    if (source->progress.show)
        source->progress.show(
                source->progress.ctx, what, source->reader ? reader_part(source->reader) : part);
}

/* The temporary file from request from on. */
static int spool_write(
        struct source *source, const struct batch *batch, uint64_t from, struct failure *failure) {
    size_t each = spooled_bytes(source);
    char bytes[TRACE_BATCH * sizeof(struct spooled)];
    for (uint32_t i = 0; i < batch->n; i++) {
        struct spooled one = {batch->id[i], batch->distance[i], batch->size[i]};
        memcpy(bytes + i * each, &one, each);
    }
    return transfer(source, true, bytes, batch->n * each, from * each, failure);
}

static int spool_read(
        struct source *source, struct batch *batch, uint64_t from, struct failure *failure) {
    size_t each = spooled_bytes(source);
    char bytes[TRACE_BATCH * sizeof(struct spooled)];
    if (transfer(source, false, bytes, batch->n * each, from * each, failure))
        return -1;
    for (uint32_t i = 0; i < batch->n; i++) {
        struct spooled one = {.size = 1};
        memcpy(&one, bytes + i * each, each);
        batch->id[i] = one.id;
        batch->distance[i] = one.distance;
        batch->size[i] = one.size;
    }
    return 0;
}

int source_begin(struct source *source, struct failure *failure) {
    source->at = 0;
    reader_close(&source->reader);
    if (source->spool >= 0)
        return 0;
    if (reader_open(source->path, source->options, &source->keys, failure, &source->reader))
        return -1;
    source->sized = reader_sized(source->reader);
    if (source->needs_sizes && !source->sized)
        return fail(failure, "%s: has no sizes of objects, so its capacity cannot be in bytes",
                source_name(source));
    return 0;
}

int source_next(struct source *source, const struct batch **ret_batch, struct failure *failure) {
    if (source->reader) {
        if (reader_next(source->reader, ret_batch, failure))
            return -1;
    } else {
        uint64_t left = source->requests - source->at;
        source->unspooled->n = left < TRACE_BATCH ? (uint32_t)left : TRACE_BATCH;
        if (spool_read(source, source->unspooled, source->at, failure))
            return -1;
        *ret_batch = source->unspooled;
    }
    show(source, "replaying");
    source->at += (*ret_batch)->n;
    if ((*ret_batch)->n == 0)
        source->requests = source->at;
    return 0;
}

/* The bytes of keys that come first in this batch: those numbered from known on. */
static uint32_t count_footprint(struct source *source, const struct batch *batch, uint32_t known) {
    for (uint32_t i = 0; i < batch->n; i++) {
        if (batch->id[i] == known) {
            source->footprint += batch->size[i];
            known++;
        }
    }
    return known;
}

int source_scan(struct source *source, bool spool, struct failure *failure) {
    uint32_t known = 0;
    if (source_begin(source, failure) || (spool && open_spool(source, failure)))
        return -1;
    for (;;) {
        const struct batch *batch = NULL;
        if (reader_next(source->reader, &batch, failure))
            return -1;
        if (batch->n == 0)
            break;
        known = count_footprint(source, batch, known);
        if (spool && spool_write(source, batch, source->at, failure))
            return -1;
        source->at += batch->n;
        show(source, "reading");
    }
    reader_close(&source->reader);
    source->requests = source->at;
    source->key_count = source->keys.count;
    source->scanned = true;
    return 0;
}

int source_look_ahead(struct source *source, struct failure *failure) {
    struct batch *batch = malloc(sizeof(*batch));
    uint64_t *next = calloc((size_t)source->key_count + 1, sizeof(*next)); /* 0: never */
    int rc = batch && next ? 0 : fail(failure, "out of memory for %u keys", source->key_count);
    uint64_t end = source->requests;
    while (rc == 0 && end > 0) {
        batch->n = (uint32_t)(end % TRACE_BATCH ? end % TRACE_BATCH : TRACE_BATCH);
        uint64_t from = end - batch->n;
        rc = spool_read(source, batch, from, failure);
        for (uint32_t i = batch->n; rc == 0 && i-- > 0;) {
            uint64_t *mine = &next[batch->id[i]];
            uint64_t distance = *mine ? *mine - (from + i + 1) : UINT32_MAX;
            batch->distance[i] = distance < UINT32_MAX ? (uint32_t)distance : UINT32_MAX;
            *mine = from + i + 1;
        }
        if (rc == 0)
            rc = spool_write(source, batch, from, failure);
        source->at = source->requests - from;
        show(source, "looking ahead");
        end = from;
    }
    free(next);
    free(batch);
    return rc;
}
