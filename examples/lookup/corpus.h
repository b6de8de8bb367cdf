/* SPDX-License-Identifier: Apache-2.0 */
/*
 * corpus.h - the list of files of a corpus.
 *
 *   P1  Only regular files below the directory are listed; no symbolic link is followed, the corpus itself
 *       aside, so that nothing outside is read and there are no loops.
 *   P2  The list is sorted by path (bytes), so that it is the same whatever order the directory has.
 *   P3  What cannot be read or is too deep is counted, and the walk goes on.
 */
#ifndef LOOKUP_CORPUS_H
#define LOOKUP_CORPUS_H

#include <patinox/base.h>
#include <patinox/error.h>

#define LOOKUP_DEPTH_MAX 64 /* directories below each other */

struct lookup_file {
    const char *path; /* below the corpus; bytes as the file system has them */
    uint64_t size;
    int64_t mtime_ns;
};

/* Owned by whoever scanned it; nothing in it changes. */
struct lookup_corpus {
    int fd;     /* the directory */
    char *path; /* its real path */
    struct lookup_file *files;
    uint64_t count;
    uint64_t bytes;      /* of all files */
    uint64_t unreadable; /* directories and files that could not be looked at */
    uint64_t too_deep;   /* directories not entered because of LOOKUP_DEPTH_MAX */
    uint64_t hash[2];    /* of real path, and of path, size and mtime of each file */
    struct lookup_arena *arena;
};

/* Called for each directory with the files found so far; nonzero ends the scan with -ECANCELED. */
typedef int lookup_scan_fn(void *ctx, uint64_t files);

/*
 * Lists the files below path, without the directory skip and what is below it; NULL skips nothing.  -ENOENT, -ENOTDIR, -EACCES (the corpus itself), -EFBIG (more than max_files),
 * -EINVAL (skip is path itself), -ECANCELED, -ENOMEM; err names the path.  Blocks on the disk.
 */
PNX_NODISCARD int lookup_corpus_scan(const char *path, const char *skip, uint64_t max_files,
        lookup_scan_fn *report, void *ctx, struct pnx_error *err,
        struct lookup_corpus **ret_corpus);

void lookup_corpus_release(struct lookup_corpus **corpus);

/*
 * Opens a file of the list for reading, without following any link.  Returns the descriptor, or -ENOENT, -EACCES,
 * -ELOOP, ... when it is no longer what it was.
 */
int lookup_corpus_open(const struct lookup_corpus *corpus, const struct lookup_file *file);

/* Fills *err, if it is not NULL, and returns code. */
int lookup_fail(struct pnx_error *err, int code, const char *phase, const char *format, ...)
        PNX_PRINTF(4, 5);

#endif
