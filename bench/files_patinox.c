/* SPDX-License-Identifier: Apache-2.0 */
/* files_patinox.c - the map cases for us: default options. */
#include "files.h"

#include <patinox/mapping.h>

#include <stdlib.h>
#include <string.h>

struct warm {
    struct pnx_mapping *mapping;
    struct pnx_view view;
    uint64_t at;
    uint64_t random;
};

static void *open_warm(unsigned threads) {
    (void)threads;
    struct pnx_error err;
    struct warm *warm = calloc(1, sizeof(*warm));
    if (!warm || pnx_mapping_open(files_make(), NULL, &err, &warm->mapping)) {
        fprintf(stderr, "%s\n", err.message);
        return NULL;
    }
    warm->view = pnx_view_all(warm->mapping);
    warm->random = 42;
    uint64_t sum = 0;
    for (size_t i = 0; i < warm->view.n; i += 4096)
        sum += warm->view.p[i];
    BENCH_USE(sum);
    return warm;
}

static void close_warm(void *state) {
    struct warm *warm = state;
    pnx_mapping_release(&warm->mapping);
    free(warm);
}

static void scan_warm(void *state, unsigned index, uint64_t n) {
    struct warm *warm = state;
    struct pnx_records records;
    uint64_t sum = 0;
    (void)index;
    if (warm->at + n > FILE_RECORDS)
        warm->at = 0;
    if (PNX_RECORDS_GET(&warm->view, struct file_record, warm->at * sizeof(struct file_record), n,
                &records))
        abort();
    PNX_RECORDS_EACH(&records, struct file_record, record)
    sum += record->value;
    warm->at += n;
    BENCH_USE(sum);
}

static void random_get(void *state, unsigned index, uint64_t n) {
    struct warm *warm = state;
    struct pnx_records records;
    uint64_t sum = 0, random = warm->random;
    (void)index;
    if (PNX_RECORDS_GET(&warm->view, struct file_record, 0, PNX_RECORDS_ALL, &records))
        abort();
    do {
        const struct file_record *record =
                PNX_RECORD_AT(&records, struct file_record, files_next(&random));
        if (!record)
            abort();
        sum += record->value;
    } while (--n);
    warm->random = random;
    BENCH_USE(sum);
}

struct fresh {
    const char *path;
    uint64_t at;
};

static void *open_fresh(unsigned threads) {
    static struct fresh fresh;
    (void)threads;
    fresh.path = files_make();
    return &fresh;
}

static void scan_fresh(void *state, unsigned index, uint64_t n) {
    struct fresh *fresh = state;
    (void)index;
    for (uint64_t i = 0; i < n; i++) {
        struct pnx_mapping *mapping = NULL;
        struct pnx_records records;
        uint64_t sum = 0;
        if (pnx_mapping_open(fresh->path,
                    PNX_MAPPING_OPTS(.offset = fresh->at, .length = FILE_PIECE), NULL, &mapping))
            abort();
        struct pnx_view view = pnx_view_all(mapping);
        if (PNX_RECORDS_GET(&view, struct file_record, 0, PNX_RECORDS_ALL, &records))
            abort();
        PNX_RECORDS_EACH(&records, struct file_record, record)
        sum += record->value;
        BENCH_USE(sum);
        pnx_mapping_release(&mapping);
        fresh->at = (fresh->at + FILE_PIECE) % FILE_BYTES;
    }
}

static const struct bench_row rows[] = {
        {"map/scan-warm", {.set_up = open_warm,
                                  .work = scan_warm,
                                  .tear_down = close_warm,
                                  .batch = FILE_BATCH}},
        {"map/random-get", {.set_up = open_warm,
                                   .work = random_get,
                                   .tear_down = close_warm,
                                   .batch = FILE_BATCH}},
        {"map/scan-fresh", {.set_up = open_fresh, .work = scan_fresh, .batch = 1}},
};

int main(int argc, char **argv) {
    struct bench_args args = bench_parse(argc, argv);
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        if (strcmp(rows[i].case_name, args.case_name) != 0)
            continue;
        struct bench_impl impl = rows[i].impl;
        impl.name = args.impl;
        impl.version = pnx_version();
        return bench_cycle(&args, &impl);
    }
    fprintf(stderr, "no case %s\n", args.case_name);
    return 2;
}
