/* SPDX-License-Identifier: Apache-2.0 */
/*
 * disk.h - files and directories of the data directory: locking, syncing, hashing, removing.
 *
 * All errors name the path in err->message.
 */
#ifndef LOOKUP_DISK_H
#define LOOKUP_DISK_H

#include <patinox/base.h>
#include <patinox/error.h>

/* A checksum of XXH3 with 128 bits. */
struct lookup_hash {
    uint64_t high;
    uint64_t low;
};

/* Fills *err ("PATH: what: system's text") and returns -error, an errno. */
int lookup_disk_fail(struct pnx_error *err, int error, const char *path, const char *what);

/* Returns "DIR/NAME", which the caller frees; NULL on no memory. */
char *lookup_join(const char *dir, const char *name);

/*
 * Takes the lock of a directory: the file "lock" in it, held by flock() as long as the descriptor is open.
 * -EBUSY with the holder's pid in the message; -EACCES, -ENOSPC, ...
 */
PNX_NODISCARD int lookup_disk_lock(const char *dir, struct pnx_error *err, int *ret_fd);

/* Makes the directories above path that are missing, for the owner alone, as the standard for ~/.cache wants it. */
PNX_NODISCARD int lookup_disk_make_parents(const char *path, struct pnx_error *err);

/* Makes a directory; one that is there is fine when exist_ok. */
PNX_NODISCARD int lookup_disk_mkdir(const char *path, bool exist_ok, struct pnx_error *err);

/* Opens a new file for writing. */
PNX_NODISCARD int lookup_disk_create(const char *path, struct pnx_error *err, int *ret_fd);

/* Writes all n bytes. */
PNX_NODISCARD int lookup_disk_write(
        int fd, const char *path, const void *data, size_t n, struct pnx_error *err);

/* Brings a file's, or a directory's, content to the disk. */
PNX_NODISCARD int lookup_disk_sync(const char *path, struct pnx_error *err);

/* Reads a whole file of at most max bytes, NUL behind it; the caller frees it.  -EFBIG. */
PNX_NODISCARD int lookup_disk_read(
        const char *path, size_t max, struct pnx_error *err, char **ret_text, size_t *ret_size);

/* Computes a file's size and checksum. */
PNX_NODISCARD int lookup_disk_hash(
        const char *path, struct pnx_error *err, uint64_t *ret_size, struct lookup_hash *ret_hash);

/* The checksum of bytes in memory. */
struct lookup_hash lookup_hash_bytes(const void *data, size_t n);

/* Removes a directory and the files in it (not directories).  A missing one is fine. */
int lookup_disk_remove(const char *path, struct pnx_error *err);

#endif
