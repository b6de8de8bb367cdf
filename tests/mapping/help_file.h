/* SPDX-License-Identifier: Apache-2.0 */
/* help_file.h - looking at files behind a mapping's back, and disks that run full. */
#ifndef PNX_TEST_MAPPING_HELP_FILE_H
#define PNX_TEST_MAPPING_HELP_FILE_H

#include "mapping/help.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

static inline uint64_t size_of(const char *path) {
    struct stat st;
    CHECK_MSG(stat(path, &st) == 0, "%s: %s", path, strerror(errno));
    return (uint64_t)st.st_size;
}

/* Bytes that the file really has on the disk. */
static inline uint64_t blocks_of(const char *path) {
    struct stat st;
    CHECK(stat(path, &st) == 0);
    return (uint64_t)st.st_blocks * 512;
}

static inline unsigned char byte_in(const char *path, uint64_t offset) {
    unsigned char byte = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    CHECK(fd >= 0);
    CHECK(pread(fd, &byte, 1, (off_t)offset) == 1);
    close(fd);
    return byte;
}

static inline struct pnx_mapping_info info_of(struct pnx_mapping *mapping) {
    struct pnx_mapping_info info = {.size = sizeof(info)};
    CHECK_EQ(pnx_mapping_read_info(mapping, &info), 0);
    return info;
}

/* Opens, and says why if it cannot. */
static inline struct pnx_mapping *opened(const char *path, const struct pnx_mapping_opts *opts) {
    struct pnx_mapping *mapping = NULL;
    struct pnx_error err = {0};
    int rc = pnx_mapping_open(path, opts, &err, &mapping);
    if (rc == -ENOTSUP && err.field && strcmp(err.field, "reserve") == 0)
        test_skip("the system keeps no address space for files");
    CHECK_MSG(rc == 0, "%s: %s", pnx_errname(rc), err.message);
    return mapping;
}

static inline void resized(struct pnx_mapping *mapping, uint64_t length, uint32_t flags) {
    struct pnx_error err = {0};
    int rc = pnx_mapping_resize(mapping, length, flags, &err);
    CHECK_MSG(rc == 0, "resize to %llu: %s: %s", (unsigned long long)length, pnx_errname(rc),
            err.message);
}

/* The address at offset, to write to. */
static inline unsigned char *at(struct pnx_mapping *mapping, uint64_t offset, size_t n) {
    struct pnx_view view;
    CHECK_EQ(pnx_view_get(mapping, offset, n, &view), 0);
    unsigned char *p = pnx_view_at_mut(&view, 0, n, 1);
    CHECK(p);
    pnx_view_release(&view);
    return p;
}

/* Mounts of its own for this process; skips where that is forbidden. */
static inline void own_mounts(void) {
    if (unshare(CLONE_NEWNS) != 0 && unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0)
        test_skip("cannot have a name space for mounts: %s", strerror(errno));
    if (mount("none", "/", "none", MS_REC | MS_PRIVATE, NULL) != 0)
        test_skip("cannot make mounts private: %s", strerror(errno));
}

/* A file system of so many KiB in memory, at test_path(name). */
static inline const char *small_disk(const char *name, unsigned kib) {
    char options[64];
    const char *path = test_path(name);
    own_mounts();
    snprintf(options, sizeof(options), "size=%uk", kib);
    CHECK(mkdir(path, 0755) == 0);
    if (mount("tmpfs", path, "tmpfs", 0, options) != 0)
        test_skip("cannot mount a small file system: %s", strerror(errno));
    return path;
}

#endif
