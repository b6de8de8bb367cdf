/* SPDX-License-Identifier: Apache-2.0 */
/* files_peers.c - the map cases for peers in C: mmap itself, GMappedFile, read. */
#include "files.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#ifdef HAVE_GLIB
#include <glib.h>
#endif

struct warm {
    const struct file_record *records;
    uint64_t at;
    uint64_t random;
};

static const char *path;

static const struct file_record *map(uint64_t offset, uint64_t n, int flags) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    const void *p =
            fd < 0 ? MAP_FAILED : mmap(NULL, n, PROT_READ, MAP_SHARED | flags, fd, (off_t)offset);
    if (p == MAP_FAILED)
        abort();
    close(fd);
    return p;
}

static void *open_warm(unsigned threads) {
    static struct warm warm;
    (void)threads;
    path = files_make();
    warm.records = map(0, FILE_BYTES, 0);
    warm.random = 42;
    uint64_t sum = 0;
    for (size_t i = 0; i < FILE_BYTES; i += 4096)
        sum += ((const unsigned char *)warm.records)[i];
    BENCH_USE(sum);
    return &warm;
}

static void scan_warm(void *state, unsigned index, uint64_t n) {
    struct warm *warm = state;
    uint64_t sum = 0;
    (void)index;
    if (warm->at + n > FILE_RECORDS)
        warm->at = 0;
    const struct file_record *record = warm->records + warm->at, *const end = record + n;
    for (; record != end; record++)
        sum += record->value;
    warm->at += n;
    BENCH_USE(sum);
}

static void random_get(void *state, unsigned index, uint64_t n) {
    struct warm *warm = state;
    uint64_t sum = 0, random = warm->random;
    (void)index;
    do
        sum += warm->records[files_next(&random)].value;
    while (--n);
    warm->random = random;
    BENCH_USE(sum);
}

static void *open_fresh(unsigned threads) {
    static uint64_t at;
    (void)threads;
    path = files_make();
    return &at;
}

static void scan(const struct file_record *records, uint64_t bytes) {
    uint64_t sum = 0;
    for (uint64_t i = 0; i < bytes / sizeof(*records); i++)
        sum += records[i].value;
    BENCH_USE(sum);
}

static void advance(uint64_t *at) {
    *at = (*at + FILE_PIECE) % FILE_BYTES;
}

static void fresh_mmap(void *state, unsigned index, uint64_t n) {
    uint64_t *at = state;
    (void)index;
    for (; n; n--, advance(at)) {
        const struct file_record *records = map(*at, FILE_PIECE, 0);
        scan(records, FILE_PIECE);
        munmap((void *)(uintptr_t)records, FILE_PIECE);
    }
}

static void fresh_populate(void *state, unsigned index, uint64_t n) {
    uint64_t *at = state;
    (void)index;
    for (; n; n--, advance(at)) {
        const struct file_record *records = map(*at, FILE_PIECE, MAP_POPULATE);
        scan(records, FILE_PIECE);
        munmap((void *)(uintptr_t)records, FILE_PIECE);
    }
}

static void fresh_read(void *state, unsigned index, uint64_t n) {
    static _Alignas(64) char buf[1 << 20];
    uint64_t *at = state;
    (void)index;
    for (; n; n--, advance(at)) {
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        for (uint64_t done = 0; done < FILE_PIECE; done += sizeof(buf)) {
            if (pread(fd, buf, sizeof(buf), (off_t)(*at + done)) != (ssize_t)sizeof(buf))
                abort();
            scan((const struct file_record *)(const void *)buf, sizeof(buf));
        }
        close(fd);
    }
}

#ifdef HAVE_GLIB
/* Maps the whole file, having no other way, and scans as much of it as the others. */
static void fresh_glib(void *state, unsigned index, uint64_t n) {
    uint64_t *at = state;
    (void)index;
    for (; n; n--, advance(at)) {
        GMappedFile *file = g_mapped_file_new(path, FALSE, NULL);
        if (!file)
            abort();
        scan((const struct file_record *)(const void *)(g_mapped_file_get_contents(file) + *at),
                FILE_PIECE);
        g_mapped_file_unref(file);
    }
}
#endif

static const struct bench_row rows[] = {
        {"map/scan-warm", {.name = "c-mmap",
                                  .version = "-",
                                  .set_up = open_warm,
                                  .work = scan_warm,
                                  .batch = FILE_BATCH}},
        {"map/random-get", {.name = "c-mmap",
                                   .version = "-",
                                   .set_up = open_warm,
                                   .work = random_get,
                                   .batch = FILE_BATCH}},
        {"map/scan-fresh", {.name = "c-mmap",
                                   .version = "-",
                                   .set_up = open_fresh,
                                   .work = fresh_mmap,
                                   .batch = 1}},
        {"map/scan-fresh", {.name = "c-mmap-populate",
                                   .version = "-",
                                   .set_up = open_fresh,
                                   .work = fresh_populate,
                                   .batch = 1}},
        {"map/scan-fresh", {.name = "read-1m",
                                   .version = "-",
                                   .set_up = open_fresh,
                                   .work = fresh_read,
                                   .batch = 1}},
#ifdef HAVE_GLIB
        {"map/scan-fresh", {.name = "gmappedfile",
                                   .version = GLIB_VERSION,
                                   .set_up = open_fresh,
                                   .work = fresh_glib,
                                   .batch = 1}},
#endif
};

int main(int argc, char **argv) {
    struct bench_args args = bench_parse(argc, argv);
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        if (strcmp(rows[i].case_name, args.case_name) == 0 &&
                strcmp(rows[i].impl.name, args.impl) == 0)
            return bench_cycle(&args, &rows[i].impl);
    fprintf(stderr, "no %s in %s: was it there when this was built?\n", args.impl, args.case_name);
    return 2;
}
