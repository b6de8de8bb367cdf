/* SPDX-License-Identifier: Apache-2.0 */
/* fault_case.h - mapped files that lose their pages, for the tests of faults. */
#ifndef PNX_TEST_MAPPING_FAULT_CASE_H
#define PNX_TEST_MAPPING_FAULT_CASE_H

#include "help.h"
#include "mapping/mapping.h"
#include "os/file.h"
#include "os/thread.h"

#include <errno.h>
#include <patinox/fault.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE ((size_t)sysconf(_SC_PAGESIZE))

/* Opens a file of n pages of known bytes, mapped whatever its size. */
static inline struct pnx_mapping *map_path_in(const struct pnx_env *env, const char *path) {
    struct pnx_mapping *mapping = NULL;
    CHECK_EQ(pnx_mapping_open(path, PNX_MAPPING_OPTS(.env = env, .small_max = 1), NULL, &mapping),
            0);
    CHECK_EQ(pnx_mapping_backing(mapping), PNX_BACKING_MMAP);
    return mapping;
}

static inline struct pnx_mapping *map_path(const char *path) {
    return map_path_in(NULL, path);
}

static inline struct pnx_mapping *map_pages(const char *name, size_t pages) {
    return map_path(make_file(name, pages * PAGE));
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

/* How many lines of /proc/self/maps name a path. */
static inline unsigned times_mapped(const char *path) {
    char line[1024];
    unsigned n = 0;
    FILE *maps = fopen("/proc/self/maps", "r");
    CHECK(maps);
    while (fgets(line, sizeof(line), maps))
        n += strstr(line, path) != NULL;
    fclose(maps);
    return n;
}

/* A page of a file that nobody has registered, and that the file has lost. */
static inline volatile unsigned char *foreign_page(const char *name) {
    const char *path = make_file(name, PAGE);
    int fd = open(path, O_RDWR);
    CHECK(fd >= 0);
    volatile unsigned char *page = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, 0);
    CHECK((void *)page != MAP_FAILED);
    CHECK_EQ(ftruncate(fd, 0), 0);
    close(fd);
    return page;
}

/*
 * A mapping made by hand, for what the library's own do not offer: writing, parts of a larger area, flags.  Of it
 * only the record is real, and what functions on faults look at.
 */
struct hand {
    struct pnx_mapping mapping;
    int ended; /* how often fn was called */
    bool unmaps;
};

static inline void hand_ended(struct pnx_fault_record *record) {
    struct hand *hand = (struct hand *)(void *)record;
    hand->ended++;
    if (hand->unmaps)
        munmap(hand->mapping.fault.pages.base, hand->mapping.fault.pages.base_size);
}

static inline struct pnx_fault_pages hand_pages(
        int fd, uint64_t file_offset, void *base, size_t n, uint32_t flags) {
    struct pnx_fault_pages pages = {.base = base,
            .base_size = n,
            .data = base,
            .size = n,
            .file_offset = file_offset,
            .fd = fd,
            .flags = flags};
    CHECK_EQ(pnx__os_fstat(fd, &pages.info), 0);
    return pages;
}

static inline void hand_map(struct hand *hand, int fd, size_t n, uint32_t flags) {
    *hand = (struct hand){.unmaps = true};
    int protection = PROT_READ | (flags & PNX_FAULT_WRITABLE ? PROT_WRITE : 0);
    void *base = mmap(NULL, n, protection, MAP_SHARED, fd, 0);
    CHECK(base != MAP_FAILED);
    struct pnx_fault_pages pages = hand_pages(fd, 0, base, n, flags);
    CHECK_EQ(pnx__fault_register(&hand->mapping.fault, &pages), 0);
}

static inline void hand_end(struct hand *hand) {
    pnx__fault_retire(&hand->mapping.fault, hand_ended);
    CHECK_EQ(hand->ended, 1);
}

static inline volatile unsigned char *hand_at(struct hand *hand, size_t offset) {
    return hand->mapping.fault.pages.data + offset;
}

static inline int open_rw(const char *name) {
    int fd = open(test_path(name), O_RDWR | O_CLOEXEC);
    CHECK(fd >= 0);
    return fd;
}

#endif
