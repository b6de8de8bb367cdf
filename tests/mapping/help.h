/* SPDX-License-Identifier: Apache-2.0 */
/* help.h - files of known bytes, and what the tests of mappings ask again and again. */
#ifndef PNX_TEST_MAPPING_HELP_H
#define PNX_TEST_MAPPING_HELP_H

#include "harness/harness.h"

#include <dirent.h>
#include <patinox/mapping.h>

static inline unsigned char byte_at(uint64_t i) {
    return (unsigned char)(i * 131 + (i >> 8) * 7);
}

/* Makes a file of n known bytes and returns its path. */
static inline const char *make_file(const char *name, size_t n) {
    const char *path = test_path(name);
    unsigned char *data = malloc(n ? n : 1);
    CHECK(data);
    for (size_t i = 0; i < n; i++)
        data[i] = byte_at(i);
    test_write_file(path, data, n);
    free(data);
    return path;
}

static inline void check_bytes(struct pnx_mapping *mapping, uint64_t file_offset, size_t n) {
    CHECK_EQ(pnx_mapping_size(mapping), n);
    struct pnx_view view = pnx_view_all(mapping);
    CHECK_EQ(view.n, n);
    CHECK(view.p != NULL);
    for (size_t i = 0; i < n; i++)
        CHECK_EQ(view.p[i], byte_at(file_offset + i));
}

static inline struct pnx_mapping_stats stats_of(const struct pnx_mapping *mapping) {
    struct pnx_mapping_stats stats = {.size = sizeof(stats)};
    CHECK_EQ(pnx_mapping_read_stats(mapping, &stats), 0);
    return stats;
}

/* A budget of its own, so that what is charged can be seen. */
static inline struct pnx_budget *purse(size_t hard) {
    struct pnx_budget *budget = NULL;
    CHECK_EQ(pnx_budget_create(PNX_BUDGET_OPTS(.parent = pnx_budget_off(), .hard = hard,
                                       .registry = pnx_registry_off()),
                     NULL, &budget),
            0);
    return budget;
}

static inline size_t charged(const struct pnx_budget *budget) {
    struct pnx_budget_stats stats = {.size = sizeof(stats)};
    CHECK_EQ(pnx_budget_read_stats(budget, &stats), 0);
    return stats.used;
}

static inline unsigned open_descriptors(void) {
#ifdef _WIN32
    return posix_open_handles();
#else
    unsigned n = 0;
    DIR *dir = opendir("/proc/self/fd");
    CHECK(dir);
    while (readdir(dir))
        n++;
    closedir(dir);
    return n;
#endif
}

/* Opens and expects a failure that says in which phase, and leaves nothing behind. */
static inline void refuses(const char *path, const struct pnx_mapping_opts *opts, int code,
        const char *phase, const char *field) {
    struct pnx_mapping *untouched = (struct pnx_mapping *)&untouched;
    struct pnx_mapping *mapping = untouched;
    struct pnx_error err = {0};
    unsigned before = open_descriptors();
    int rc = pnx_mapping_open(path, opts, &err, &mapping);
    CHECK_MSG(rc == code, "%s: %s (%s), expected %s", path ? path : "NULL", pnx_errname(rc),
            err.message, pnx_errname(code));
    CHECK_EQ(err.code, code);
    CHECK_STR(err.phase, phase);
    if (field)
        CHECK_STR(err.field, field);
    CHECK(err.message[0]);
    CHECK(mapping == untouched);
    CHECK_EQ(open_descriptors(), before);
}

#endif
