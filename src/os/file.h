/* SPDX-License-Identifier: Apache-2.0 */
/*
 * os/file.h - files: the system calls that can fail, each with an injection point, none with a surprise.
 *
 * Each returns 0 (or a count, or a descriptor) or -errno, and starts again by itself when a signal interrupts it.
 * Descriptors are close-on-exec.  The name of a call for test_os_fault() is the name after pnx__os_.
 */
#ifndef PNX_SRC_OS_FILE_H
#define PNX_SRC_OS_FILE_H

#include <patinox/base.h>

#ifdef _WIN32 /* where the header declares a function of a name that ours have, too */
#define tell pnx_crt_tell_
#endif
#include <fcntl.h> /* O_ flags of pnx__os_open() */

#ifdef _WIN32 /* descriptors are those of the C runtime; what it has no flags for */
#undef tell
#define O_CLOEXEC   O_NOINHERIT
#define O_DIRECTORY 0x01000000
#define O_NONBLOCK  0 /* no file blocks when it is opened */
#define O_NOCTTY    0
#define AT_FDCWD    (-100)
#endif

enum pnx_file_kind {
    PNX_FILE_REGULAR = 1,
    PNX_FILE_DIRECTORY,
    PNX_FILE_LINK, /* only from pnx__os_lstat() */
    PNX_FILE_PIPE, /* FIFO or socket: read once, no offset */
    PNX_FILE_DEVICE,
};

/* What is known of a file.  Two files are the same one when device and inode agree. */
struct pnx_file_info {
    uint64_t device;
    uint64_t inode;
    uint64_t size;
    int64_t mtime_ns; /* since 1970 */
    int64_t ctime_ns;
    uint64_t links; /* names that it has */
    uint32_t mode;  /* permission bits */
    enum pnx_file_kind kind;
};

/* Opens; flags are O_ flags.  Returns the descriptor. */
int pnx__os_open(const char *path, int flags, unsigned mode);
int pnx__os_openat(int dir, const char *path, int flags, unsigned mode);
/* Returns another descriptor of the same open file ("dup"). */
int pnx__os_dup(int fd);
/* Closes *fd and sets it to -1; one below 0 is fine.  The error matters only to who has written. */
int pnx__os_close(int *fd);

int pnx__os_fstat(int fd, struct pnx_file_info *ret_info);
int pnx__os_stat(const char *path, struct pnx_file_info *ret_info);
int pnx__os_lstat(const char *path, struct pnx_file_info *ret_info);

/* Each makes one system call and returns how many bytes it moved: fewer than n is normal, 0 is the end. */
int64_t pnx__os_read(int fd, void *buf, size_t n);
int64_t pnx__os_pread(int fd, void *buf, size_t n, uint64_t offset);
int64_t pnx__os_write(int fd, const void *data, size_t n);
/* Reads until n bytes are there or the file ends.  Returns how many there are. */
int64_t pnx__os_read_full(int fd, void *buf, size_t n);
int64_t pnx__os_pread_full(int fd, void *buf, size_t n, uint64_t offset);
/* Writes all or fails; what was written before the failure stays written. */
int pnx__os_write_full(int fd, const void *data, size_t n);

int pnx__os_fsync(int fd);
/* Makes renames and creations in a directory last ("open", "fsync"). */
int pnx__os_fsync_dir(const char *path);
int pnx__os_ftruncate(int fd, uint64_t size);
/* Gives the file real blocks up to size, so that writing there cannot fail for lack of room ("fallocate"). */
int pnx__os_fallocate(int fd, uint64_t size);

int pnx__os_rename(const char *from, const char *to);
int pnx__os_unlink(const char *path);
int pnx__os_mkdir(const char *path, unsigned mode);
int pnx__os_rmdir(const char *path);

/* Unmaps exactly what was mapped (os/map.h); cannot fail then. */
void pnx__os_unmap(void *base, size_t n);

enum pnx_os_advice {
    PNX_OS_ADVICE_NORMAL = 0,
    PNX_OS_ADVICE_SEQUENTIAL,
    PNX_OS_ADVICE_RANDOM,
    PNX_OS_ADVICE_WILLNEED,
    PNX_OS_ADVICE_DONTNEED, /* the pages of a file may go; never given for memory whose content would go with them */
    PNX_OS_ADVICE_COLD,
};
/* Tells the system how a page-aligned mapped range will be used ("madvise"). */
int pnx__os_advise(void *base, size_t n, enum pnx_os_advice advice);

/* Bytes in a page; a power of two. */
size_t pnx__os_page_size(void);
/* Of what the offset in the file of a mapping is a multiple, a power of two: a page, but 64 KiB on Windows. */
size_t pnx__os_map_grain(void);

#endif
