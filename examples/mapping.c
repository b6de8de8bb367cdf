/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mapping.c - reads a small binary file through a mapping: a header, records, and text behind them.
 *
 * Nothing here can read beyond the file, whatever its header claims: each access says -ERANGE or NULL instead.
 */
#include <patinox/mapping.h>

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* The file: magic "PNXE", number of records (little-endian), then the records, then text. */
struct record {
    uint32_t offset; /* of the record's text, from the start of the file */
    uint32_t length;
};

static int write_example(const char *path) {
    static const char text[] = "the first text"
                               "and the second";
    const struct record records[3] = {{32, 14}, {46, 14}, {1000, 14}}; /* the last one lies */
    uint32_t count = 3;
    FILE *file = fopen(path, "wb");
    if (!file)
        return -1;
    unsigned char header[8] = {'P', 'N', 'X', 'E', (unsigned char)count, 0, 0, 0};
    size_t ok = fwrite(header, sizeof(header), 1, file);
    ok += fwrite(records, sizeof(records), 1, file);
    ok += fwrite(text, sizeof(text) - 1, 1, file);
    return fclose(file) == 0 && ok == 3 ? 0 : -1;
}

static const char *backing_name(enum pnx_mapping_backing backing) {
    switch (backing) {
    case PNX_BACKING_MMAP:
        return "mapped";
    case PNX_BACKING_COPY:
        return "copied";
    case PNX_BACKING_EMPTY:
        break;
    }
    return "empty";
}

static int print_records(struct pnx_mapping *mapping) {
    struct pnx_view all = pnx_view_all(mapping), text;
    uint32_t count;
    uint8_t first;
    int rc = pnx_view_u32le(&all, 4, &count); /* byte order and range in one call */
    if (rc || pnx_view_u8(&all, 0, &first) || first != 'P' || memcmp(all.p, "PNXE", 4) != 0)
        return PNX_E_FORMAT;
    for (uint32_t i = 0; i < count; i++) {
        /* A typed pointer into the file, or NULL when it would not fit or is not aligned. */
        const struct record *record =
                PNX_VIEW_AT(&all, struct record, 8 + (uint64_t)i * sizeof(struct record));
        if (!record)
            return PNX_E_FORMAT;
        rc = pnx_view_sub(&all, record->offset, record->length, &text);
        if (rc)
            printf("record %" PRIu32 ": damaged (%s)\n", i, pnx_strerror(rc));
        else
            printf("record %" PRIu32 ": %.*s\n", i, (int)text.n, (const char *)text.p);
    }
    return 0;
}

int main(void) {
    const char *path = "patinox-example-mapping.bin";
    struct pnx_mapping *mapping = NULL;
    struct pnx_error err;
    char copy[14];
    if (write_example(path) != 0) {
        perror(path);
        return 1;
    }

    /* small_max = 1 has even this small file mapped; by default it would be read. */
    int rc = pnx_mapping_open(path, PNX_MAPPING_OPTS(.small_max = 1), &err, &mapping);
    if (rc) {
        fprintf(stderr, "%s\n", err.message); /* says what, and why */
        goto out;
    }
    printf("%zu bytes, %s\n", pnx_mapping_size(mapping),
            backing_name(pnx_mapping_backing(mapping)));
    rc = print_records(mapping);
    if (rc)
        goto out;

    /* Hints cost nothing and never fail. */
    (void)pnx_mapping_advise(mapping, 0, pnx_mapping_size(mapping), PNX_ADVICE_SEQUENTIAL);

    /* A range by itself, and a copy that fails with an error code where a load would raise SIGBUS. */
    struct pnx_view view;
    rc = pnx_view_get(mapping, 32, 14, &view);
    if (rc == 0)
        rc = pnx_mapping_copy_out(mapping, 32, copy, sizeof(copy));
    if (rc == 0)
        printf("copied out: %.14s (%s)\n", copy,
                memcmp(copy, view.p, view.n) == 0 ? "the same" : "changed");

    /* Somebody cuts the file short: the question is answered, and the safe copy says so. */
    if (truncate(path, 40) != 0)
        perror("truncate");
    printf("changed: %s\n", pnx_strerror(pnx_mapping_changed(mapping)));
    printf("copy out: %s\n", pnx_strerror(pnx_mapping_copy_out(mapping, 32, copy, sizeof(copy))));
    pnx_mapping_release(&mapping);

    /* A descriptor works too, and a range need not begin at a page. */
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    rc = pnx_mapping_open_fd(
            fd, PNX_MAPPING_OPTS(.offset = 32, .flags = PNX_MAPPING_COPY), &err, &mapping);
    close(fd);
    if (rc)
        goto out;
    struct pnx_mapping *shared = pnx_mapping_ref(mapping); /* for another thread, say */
    struct pnx_mapping_stats stats = {.size = sizeof(stats)};
    rc = pnx_mapping_read_stats(shared, &stats);
    printf("%zu bytes left, %" PRIu64 " of private memory\n", pnx_mapping_size(shared),
            stats.copied);
    pnx_mapping_release(&shared);

out:
    pnx_mapping_close(mapping); /* no new views; the pages go with the last reference */
    pnx_mapping_release(&mapping);
    unlink(path);
    return rc != 0;
}
