/* SPDX-License-Identifier: Apache-2.0 */
/* input.c - see input.h */
#include "input.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define BLOCK 65536

struct input {
    struct archive *archive;
    const char *name;
    uint64_t length;
    int fd; /* -1: memory */
    bool empty;
};

static int begin(struct input *input, struct failure *failure) {
    struct archive_entry *entry = NULL;
    int rc = archive_read_next_header(input->archive, &entry);
    input->empty = rc == ARCHIVE_EOF;
    if (rc < ARCHIVE_WARN)
        return fail(failure, "%s: %s", input->name, archive_error_string(input->archive));
    return 0;
}

static int make(const char *name, struct failure *failure, struct input **ret_input) {
    struct input *input = calloc(1, sizeof(*input));
    if (!input)
        return fail(failure, "%s: out of memory", name);
    input->fd = -1;
    input->name = name;
    input->archive = archive_read_new();
    if (!input->archive) {
        free(input);
        return fail(failure, "%s: out of memory", name);
    }
    /* Not all that there are: what a .lzma file begins with, so does many a binary trace. */
    archive_read_support_filter_gzip(input->archive);
    archive_read_support_filter_bzip2(input->archive);
    archive_read_support_filter_xz(input->archive);
    archive_read_support_filter_zstd(input->archive);
    archive_read_support_filter_lz4(input->archive);
    archive_read_support_filter_lzip(input->archive);
    archive_read_support_format_raw(input->archive);
    archive_read_support_format_empty(input->archive);
    *ret_input = input;
    return 0;
}

int input_open(const char *path, struct failure *failure, struct input **ret_input) {
    struct input *input = NULL;
    bool standard = strcmp(path, "-") == 0;
    if (make(standard ? "standard input" : path, failure, &input))
        return -1;
    input->fd = standard ? dup(STDIN_FILENO) : open(path, O_RDONLY | O_CLOEXEC);
    if (input->fd < 0) {
        int rc = fail(failure, "%s: %s", input->name, strerror(errno));
        input_close(&input);
        return rc;
    }
    struct stat st;
    if (fstat(input->fd, &st) == 0 && S_ISDIR(st.st_mode)) {
        int rc = fail(failure, "%s: is a directory", input->name);
        input_close(&input);
        return rc;
    }
    if (!standard && S_ISREG(st.st_mode))
        input->length = (uint64_t)st.st_size;
    if (archive_read_open_fd(input->archive, input->fd, BLOCK) != ARCHIVE_OK) {
        int rc = fail(failure, "%s: %s", input->name, archive_error_string(input->archive));
        input_close(&input);
        return rc;
    }
    if (begin(input, failure)) {
        input_close(&input);
        return -1;
    }
    *ret_input = input;
    return 0;
}

int input_open_memory(
        const void *data, size_t n, struct failure *failure, struct input **ret_input) {
    struct input *input = NULL;
    if (make("memory", failure, &input))
        return -1;
    if (archive_read_open_memory(input->archive, data, n) != ARCHIVE_OK) {
        int rc = fail(failure, "%s: %s", input->name, archive_error_string(input->archive));
        input_close(&input);
        return rc;
    }
    if (begin(input, failure)) {
        input_close(&input);
        return -1;
    }
    *ret_input = input;
    return 0;
}

ssize_t input_read(struct input *input, void *data, size_t n, struct failure *failure) {
    size_t have = 0;
    while (have < n && !input->empty) {
        la_ssize_t got = archive_read_data(input->archive, (char *)data + have, n - have);
        if (got < 0)
            return fail(failure, "%s: %s", input->name, archive_error_string(input->archive));
        if (got == 0)
            break;
        have += (size_t)got;
    }
    return (ssize_t)have;
}

uint64_t input_position(const struct input *input) {
    la_int64_t at = archive_filter_bytes(input->archive, -1);
    return at < 0 ? 0 : (uint64_t)at;
}

uint64_t input_length(const struct input *input) {
    return input->length;
}

void input_close(struct input **input) {
    if (!*input)
        return;
    archive_read_free((*input)->archive);
    if ((*input)->fd >= 0)
        close((*input)->fd);
    free(*input);
    *input = NULL;
}
