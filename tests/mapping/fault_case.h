/* SPDX-License-Identifier: Apache-2.0 */
/* fault_case.h - mapped files that lose their pages, for the tests of faults. */
#ifndef PNX_TEST_MAPPING_FAULT_CASE_H
#define PNX_TEST_MAPPING_FAULT_CASE_H

#include "help.h"

#include <errno.h>
#include <patinox/fault.h>
#include <unistd.h>

#define PAGE ((size_t)sysconf(_SC_PAGESIZE))

/* Opens a file of n pages of known bytes, mapped whatever its size. */
static inline struct pnx_mapping *map_pages(const char *name, size_t pages) {
    struct pnx_mapping *mapping = NULL;
    const char *path = make_file(name, pages * PAGE);
    CHECK_EQ(pnx_mapping_open(path, PNX_MAPPING_OPTS(.small_max = 1), NULL, &mapping), 0);
    CHECK_EQ(pnx_mapping_backing(mapping), PNX_BACKING_MMAP);
    return mapping;
}

static inline void cut(const char *name, size_t bytes) {
    CHECK_EQ(truncate(test_path(name), (off_t)bytes), 0);
}

static inline unsigned char peek(struct pnx_mapping *mapping, uint64_t offset) {
    struct pnx_view view = pnx_view_all(mapping);
    return *(const volatile unsigned char *)(view.p + offset);
}

static inline struct pnx_fault_stats fault_stats(void) {
    struct pnx_fault_stats stats = {.size = sizeof(stats)};
    CHECK_EQ(pnx_fault_read_stats(&stats), 0);
    return stats;
}

#endif
