/* SPDX-License-Identifier: Apache-2.0 */
/*
 * os/extent.h - what a file has on disk: room for it, writing it back, clones, and files that live in memory only.
 *
 * Conventions as in os/file.h.
 */
#ifndef PNX_SRC_OS_EXTENT_H
#define PNX_SRC_OS_EXTENT_H

#include <patinox/base.h>

/*
 * Gives real blocks to n > 0 bytes from offset, and lengthens the file when they reach beyond its end ("allocate").
 * -ENOTSUP when the file system cannot; -ENOSPC and the like, when the file may have become longer all the same.
 */
int pnx__os_allocate(int fd, uint64_t offset, uint64_t n);

/* Writes at an offset, all or an error ("pwrite"). */
int pnx__os_pwrite_full(int fd, const void *data, size_t n, uint64_t offset);

/* Begins to write n bytes at offset back, and does not wait ("sync_start").  -ENOTSUP where there is no such call. */
int pnx__os_sync_start(int fd, uint64_t offset, uint64_t n);
/* Writes back the file's data, and what of its metadata is needed to read it ("fdatasync"). */
int pnx__os_fdatasync(int fd);

/*
 * Makes a file without a name in directory dir that shares the blocks of fd, as they are at this moment ("clone").
 * Returns its descriptor.  -ENOTSUP or -EXDEV or -EINVAL, or whatever else it is, where file system or system cannot.
 */
int pnx__os_clone(int fd, const char *dir);

/* Makes a file without a name, in memory, which can be sealed ("memfd").  Returns its descriptor. */
int pnx__os_memfd(const char *name);
/* Seals are 1: cannot shrink, 2: grow, 4: be written, 8: be sealed any further.  -ENOTSUP for what is no such file. */
int pnx__os_seal(int fd, unsigned seals); /* "seal" */
int pnx__os_seals(int fd);                /* "seals"; returns those that it has */

#endif
