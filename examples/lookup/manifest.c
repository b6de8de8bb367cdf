/* SPDX-License-Identifier: Apache-2.0 */
/*
 * manifest.c - a text file of "name value" lines, in a fixed order, ended by the checksum of all before.
 */
#include "manifest.h"

#include "corpus.h"
#include "text.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define HEAD      "lookup generation, format 1\n"
#define MAX_BYTES 4096u

static void add_number(struct lookup_buffer *buffer, const char *name, uint64_t value) {
    char line[96];
    int n = snprintf(line, sizeof(line), "%s %" PRIu64 "\n", name, value);
    lookup_buffer_add(buffer, line, (size_t)n);
}

static void add_hash(struct lookup_buffer *buffer, const char *name, struct lookup_hash hash) {
    char line[96];
    int n = snprintf(
            line, sizeof(line), "%s %016" PRIx64 "%016" PRIx64 "\n", name, hash.high, hash.low);
    lookup_buffer_add(buffer, line, (size_t)n);
}

static void format(struct lookup_buffer *buffer, const struct lookup_manifest *manifest) {
    lookup_buffer_text(buffer, HEAD);
    add_hash(buffer, "list", manifest->list);
    add_hash(buffer, "texts", manifest->texts);
    add_hash(buffer, "index", manifest->index);
#define ADD(field, help) add_number(buffer, #field, manifest->field);
    LOOKUP_MANIFEST_NUMBERS(ADD)
#undef ADD
    if (!buffer->failed)
        add_hash(buffer, "end", lookup_hash_bytes(buffer->data, buffer->size));
}

int lookup_manifest_write(
        const char *dir, const struct lookup_manifest *manifest, struct pnx_error *err) {
    struct lookup_buffer buffer = {0};
    format(&buffer, manifest);
    char *path = lookup_join(dir, "manifest");
    int fd = -1;
    int rc = 0;
    if (buffer.failed || !path)
        rc = lookup_fail(err, -ENOMEM, "disk", "no memory");
    if (!rc)
        rc = lookup_disk_create(path, err, &fd);
    if (!rc)
        rc = lookup_disk_write(fd, path, buffer.data, buffer.size, err);
    if (!rc && fsync(fd) != 0)
        rc = lookup_disk_fail(err, errno, path, "cannot sync");
    if (fd >= 0)
        close(fd);
    free(path);
    lookup_buffer_free(&buffer);
    return rc;
}

/* Where the parser is in the text; NULL once a line was not as expected. */
struct reader {
    const char *at;
};

static bool take(struct reader *reader, const char *text) {
    size_t n = strlen(text);
    if (!reader->at || strncmp(reader->at, text, n) != 0) {
        reader->at = NULL;
        return false;
    }
    reader->at += n;
    return true;
}

static uint64_t take_digits(struct reader *reader, size_t digits, int base) {
    char copy[24] = "";
    const char *set = base == 16 ? "0123456789abcdef" : "0123456789";
    size_t n = reader->at ? strspn(reader->at, set) : 0;
    bool fits = base == 16 ? n >= digits : n > 0 && n < digits;
    if (!fits) {
        reader->at = NULL;
        return 0;
    }
    if (base == 16)
        n = digits;
    memcpy(copy, reader->at, n);
    reader->at += n;
    return strtoull(copy, NULL, base);
}

static uint64_t take_number(struct reader *reader, const char *name) {
    take(reader, name);
    take(reader, " ");
    uint64_t value = take_digits(reader, 20, 10);
    take(reader, "\n");
    return value;
}

static struct lookup_hash take_hash(struct reader *reader, const char *name) {
    struct lookup_hash hash;
    take(reader, name);
    take(reader, " ");
    hash.high = take_digits(reader, 16, 16);
    hash.low = take_digits(reader, 16, 16);
    take(reader, "\n");
    return hash;
}

static const char *parse(const char *text, size_t size, struct lookup_manifest *manifest) {
    struct reader reader = {.at = text};
    if (!take(&reader, HEAD))
        return "it is of another format";
    manifest->list = take_hash(&reader, "list");
    manifest->texts = take_hash(&reader, "texts");
    manifest->index = take_hash(&reader, "index");
#define TAKE(field, help) manifest->field = take_number(&reader, #field);
    LOOKUP_MANIFEST_NUMBERS(TAKE)
#undef TAKE
    if (!reader.at)
        return "a line is not as expected";
    size_t before = (size_t)(reader.at - text);
    struct lookup_hash end = take_hash(&reader, "end");
    if (!reader.at || reader.at != text + size)
        return "its end is missing";
    struct lookup_hash real = lookup_hash_bytes(text, before);
    if (end.high != real.high || end.low != real.low)
        return "its checksum does not fit";
    return NULL;
}

int lookup_manifest_read(
        const char *dir, struct pnx_error *err, struct lookup_manifest *ret_manifest) {
    char *path = lookup_join(dir, "manifest");
    if (!path)
        return lookup_fail(err, -ENOMEM, "disk", "no memory");
    char *text = NULL;
    size_t size = 0;
    struct lookup_manifest manifest = {0};
    int rc = lookup_disk_read(path, MAX_BYTES, err, &text, &size);
    if (!rc) {
        const char *wrong = parse(text, size, &manifest);
        if (wrong)
            rc = lookup_fail(err, PNX_E_FORMAT, "manifest", "%s: %s", path, wrong);
    }
    free(text);
    free(path);
    if (!rc)
        *ret_manifest = manifest;
    return rc;
}
