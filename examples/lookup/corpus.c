/* SPDX-License-Identifier: Apache-2.0 */
/*
 * corpus.c - walks a directory and lists its regular files; opens them again, safely, when they are read.
 *
 * The walk keeps one descriptor open for each level and goes from descriptor to descriptor, so that a directory
 * that is swapped for a link meanwhile is not followed.  Guarantees P1..P3 stand in corpus.h.
 */
#include "corpus.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Changes when the same files would make a different index. */
#define FORMAT "lookup index 1"

int lookup_fail(struct pnx_error *err, int code, const char *phase, const char *format, ...) {
    if (!err)
        return code;
    *err = (struct pnx_error){.code = code, .phase = phase};
    va_list args;
    va_start(args, format);
    vsnprintf(err->message, sizeof(err->message), format, args);
    va_end(args);
    return code;
}

/* ---- where the paths lie ---- */

#define ARENA_BYTES (64u * 1024u)

struct lookup_arena {
    struct lookup_arena *next;
    size_t used;
    char data[ARENA_BYTES];
};
_Static_assert(ARENA_BYTES > PATH_MAX, "a path fits in one piece");

static char *arena_copy(struct lookup_corpus *corpus, const char *text, size_t n) {
    struct lookup_arena *arena = corpus->arena;
    if (!arena || ARENA_BYTES - arena->used < n + 1) {
        arena = malloc(sizeof(*arena));
        if (!arena)
            return NULL;
        arena->next = corpus->arena;
        arena->used = 0;
        corpus->arena = arena;
    }
    char *copy = arena->data + arena->used;
    memcpy(copy, text, n);
    copy[n] = '\0';
    arena->used += n + 1;
    return copy;
}

/* ---- the walk ---- */

/* State of one scan; lives on its stack. */
struct walk {
    struct lookup_corpus *corpus;
    uint64_t cap; /* of corpus->files */
    uint64_t max_files;
    const struct stat *skip; /* a directory that is not entered, or NULL */
    lookup_scan_fn *report;
    void *ctx;
    struct pnx_error *err;
    size_t length; /* of path */
    char path[PATH_MAX];
};

static int add_file(struct walk *walk, const struct stat *st) {
    struct lookup_corpus *corpus = walk->corpus;
    if (corpus->count >= walk->max_files)
        return lookup_fail(walk->err, -EFBIG, "scan", "%s: more than %llu files", corpus->path,
                (unsigned long long)walk->max_files);
    if (corpus->count == walk->cap) {
        uint64_t cap = walk->cap ? walk->cap * 2 : 1024;
        struct lookup_file *files = realloc(corpus->files, cap * sizeof(*files));
        if (!files)
            return -ENOMEM;
        corpus->files = files;
        walk->cap = cap;
    }
    const char *path = arena_copy(corpus, walk->path, walk->length);
    if (!path)
        return -ENOMEM;
    corpus->files[corpus->count++] = (struct lookup_file){
            .path = path,
            .size = (uint64_t)st->st_size,
            .mtime_ns = (int64_t)st->st_mtim.tv_sec * 1000000000 + st->st_mtim.tv_nsec,
    };
    corpus->bytes += (uint64_t)st->st_size;
    return 0;
}

/* Appends a name to the path; false when it becomes longer than a path can be. */
static bool push_name(struct walk *walk, const char *name) {
    size_t n = strlen(name);
    if (walk->length + 1 + n >= sizeof(walk->path))
        return false;
    if (walk->length > 0)
        walk->path[walk->length++] = '/';
    memcpy(walk->path + walk->length, name, n + 1);
    walk->length += n;
    return true;
}

static int walk_dir(struct walk *walk, int fd, unsigned depth);

static int enter_dir(struct walk *walk, int parent, const char *name, unsigned depth) {
    if (depth >= LOOKUP_DEPTH_MAX) {
        walk->corpus->too_deep++;
        return 0;
    }
    int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) {
        if (errno == EMFILE || errno == ENFILE)
            return lookup_fail(walk->err, -errno, "scan", "%s: %s", walk->path, strerror(errno));
        walk->corpus->unreadable++;
        return 0;
    }
    return walk_dir(walk, fd, depth + 1);
}

static int visit(struct walk *walk, int dir, const char *name, unsigned depth) {
    struct stat st;
    if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) != 0) {
        /* Gone since it was listed: as if it had never been there. */
        if (errno != ENOENT)
            walk->corpus->unreadable++;
        return 0;
    }
    if (!S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode))
        return 0;
    if (walk->skip && st.st_dev == walk->skip->st_dev && st.st_ino == walk->skip->st_ino)
        return 0;
    size_t length = walk->length;
    if (!push_name(walk, name)) {
        walk->corpus->unreadable++;
        return 0;
    }
    int rc = S_ISDIR(st.st_mode) ? enter_dir(walk, dir, name, depth) : add_file(walk, &st);
    walk->length = length;
    walk->path[length] = '\0';
    return rc;
}

/* Lists one directory and what is below it.  Closes fd. */
static int walk_dir(struct walk *walk, int fd, unsigned depth) {
    if (walk->report && walk->report(walk->ctx, walk->corpus->count) != 0) {
        close(fd);
        return lookup_fail(walk->err, -ECANCELED, "scan", "the scan was cancelled");
    }
    DIR *dir = fdopendir(fd);
    if (!dir) {
        close(fd);
        return -ENOMEM;
    }
    int rc = 0;
    while (!rc) {
        errno = 0;
        const struct dirent *entry = readdir(dir);
        if (!entry) {
            if (errno != 0)
                walk->corpus->unreadable++;
            break;
        }
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            rc = visit(walk, dirfd(dir), entry->d_name, depth);
    }
    closedir(dir);
    return rc;
}

/* ---- the list ---- */

static int compare(const void *a, const void *b) {
    return strcmp(((const struct lookup_file *)a)->path, ((const struct lookup_file *)b)->path);
}

static void hash_list(struct lookup_corpus *corpus, XXH3_state_t *state) {
    XXH3_128bits_reset(state);
    XXH3_128bits_update(state, FORMAT, sizeof(FORMAT));
    XXH3_128bits_update(state, corpus->path, strlen(corpus->path) + 1);
    for (uint64_t i = 0; i < corpus->count; i++) {
        const struct lookup_file *file = &corpus->files[i];
        XXH3_128bits_update(state, file->path, strlen(file->path) + 1);
        XXH3_128bits_update(state, &file->size, sizeof(file->size));
        XXH3_128bits_update(state, &file->mtime_ns, sizeof(file->mtime_ns));
    }
    XXH128_hash_t hash = XXH3_128bits_digest(state);
    corpus->hash[0] = hash.high64;
    corpus->hash[1] = hash.low64;
}

static int open_root(struct lookup_corpus *corpus, const char *path, struct pnx_error *err) {
    corpus->path = realpath(path, NULL);
    if (!corpus->path) {
        int code = -errno;
        return lookup_fail(err, code, "scan", "corpus %s: %s", path, strerror(-code));
    }
    corpus->fd = open(corpus->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (corpus->fd < 0) {
        int code = -errno;
        return lookup_fail(err, code, "scan", "corpus %s: %s", path, strerror(-code));
    }
    return 0;
}

static int scan(struct lookup_corpus *corpus, const struct stat *skip, uint64_t max_files,
        lookup_scan_fn *report, void *ctx, struct pnx_error *err) {
    struct walk *walk = calloc(1, sizeof(*walk));
    XXH3_state_t *state = XXH3_createState();
    int rc = walk && state ? 0 : -ENOMEM;
    int fd = -1;
    if (!rc) {
        *walk = (struct walk){.corpus = corpus,
                .max_files = max_files,
                .skip = skip,
                .report = report,
                .ctx = ctx,
                .err = err};
        fd = openat(corpus->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (fd < 0) {
            rc = -errno;
            lookup_fail(err, rc, "scan", "corpus %s: %s", corpus->path, strerror(-rc));
        }
    }
    if (!rc)
        rc = walk_dir(walk, fd, 0);
    if (!rc) {
        if (corpus->count > 1)
            qsort(corpus->files, corpus->count, sizeof(*corpus->files), compare);
        hash_list(corpus, state);
    }
    XXH3_freeState(state);
    free(walk);
    return rc;
}

/* Finds out what to skip; the corpus itself cannot be that. */
static int find_skip(const struct lookup_corpus *corpus, const char *skip, struct pnx_error *err,
        struct stat *ret_skip) {
    struct stat root;
    if (stat(skip, ret_skip) != 0 || fstat(corpus->fd, &root) != 0) {
        int code = -errno;
        return lookup_fail(err, code, "scan", "%s: %s", skip, strerror(-code));
    }
    if (root.st_dev == ret_skip->st_dev && root.st_ino == ret_skip->st_ino)
        return lookup_fail(err, -EINVAL, "scan",
                "%s cannot be both the corpus and the data directory", corpus->path);
    return 0;
}

int lookup_corpus_scan(const char *path, const char *skip, uint64_t max_files,
        lookup_scan_fn *report, void *ctx, struct pnx_error *err,
        struct lookup_corpus **ret_corpus) {
    struct lookup_corpus *corpus = calloc(1, sizeof(*corpus));
    if (!corpus)
        return lookup_fail(err, -ENOMEM, "scan", "no memory for the list of files");
    corpus->fd = -1;
    struct stat skipped;
    int rc = open_root(corpus, path, err);
    if (!rc && skip)
        rc = find_skip(corpus, skip, err, &skipped);
    if (!rc)
        rc = scan(corpus, skip ? &skipped : NULL, max_files, report, ctx, err);
    if (rc) {
        if (rc == -ENOMEM)
            lookup_fail(err, rc, "scan", "no memory for the list of files");
        lookup_corpus_release(&corpus);
        return rc;
    }
    *ret_corpus = corpus;
    return 0;
}

void lookup_corpus_release(struct lookup_corpus **corpus) {
    if (!corpus || !*corpus)
        return;
    struct lookup_corpus *gone = *corpus;
    *corpus = NULL;
    if (gone->fd >= 0)
        close(gone->fd);
    while (gone->arena) {
        struct lookup_arena *next = gone->arena->next;
        free(gone->arena);
        gone->arena = next;
    }
    free(gone->files);
    free(gone->path);
    free(gone);
}

/* Opens path below dir one directory at a time and follows no link: what openat2 does at once. */
static int open_stepwise(int dir, const char *path, int flags) {
    int at = dir;
    const char *slash;
    while (at >= 0 && (slash = strchr(path, '/'))) {
        char name[NAME_MAX + 1];
        size_t n = (size_t)(slash - path);
        int next = -1;
        if (n > NAME_MAX) {
            errno = ENAMETOOLONG;
        } else {
            memcpy(name, path, n);
            name[n] = '\0';
            next = openat(at, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
            if (next < 0 && errno == ENOTDIR)
                errno = ELOOP; /* a link stands where the scan saw a directory */
        }
        int error = errno;
        if (at != dir)
            close(at);
        errno = error;
        at = next;
        path = slash + 1;
    }
    if (at < 0)
        return -1;
    int fd = openat(at, path, flags);
    int error = errno;
    if (at != dir)
        close(at);
    errno = error;
    return fd;
}

int lookup_corpus_open(const struct lookup_corpus *corpus, const struct lookup_file *file) {
    /* Not blocking: the file may have become a pipe since the scan. */
    uint64_t flags = O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK | O_NOCTTY;
    struct open_how how = {.flags = flags, .resolve = RESOLVE_NO_SYMLINKS | RESOLVE_BENEATH};
    long fd = syscall(SYS_openat2, corpus->fd, file->path, &how, sizeof(how));
    if (fd < 0 && (errno == ENOSYS || errno == EPERM))
        fd = open_stepwise(corpus->fd, file->path, (int)flags);
    if (fd < 0)
        return -errno;
    struct stat st;
    if (fstat((int)fd, &st) != 0 || !S_ISREG(st.st_mode)) {
        close((int)fd);
        return -ELOOP;
    }
    return (int)fd;
}
