/* SPDX-License-Identifier: Apache-2.0 */
/*
 * disk.c - the few operations on files that the index needs, each with an error that names the path.
 */
#include "disk.h"

#include "corpus.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define PIECE_BYTES ((size_t)256 * 1024)

int lookup_disk_fail(struct pnx_error *err, int error, const char *path, const char *what) {
    return lookup_fail(err, -error, "disk", "%s: %s: %s", path, what, strerror(error));
}

char *lookup_join(const char *dir, const char *name) {
    size_t n = strlen(dir) + strlen(name) + 2;
    char *path = malloc(n);
    if (path)
        snprintf(path, n, "%s/%s", dir, name);
    return path;
}

static int no_memory(struct pnx_error *err) {
    return lookup_fail(err, -ENOMEM, "disk", "no memory");
}

/* ---- the lock ---- */

/* Says who has the lock, as far as the file tells. */
static int lock_taken(int fd, const char *dir, struct pnx_error *err) {
    char pid[24] = "";
    ssize_t n = pread(fd, pid, sizeof(pid) - 1, 0);
    pid[n > 0 ? n : 0] = '\0';
    pid[strspn(pid, "0123456789")] = '\0';
    return lookup_fail(err, -EBUSY, "lock", "%s is in use by another process%s%s; one at a time",
            dir, pid[0] ? ", pid " : "", pid);
}

static int take_lock(int fd, const char *dir, const char *path, struct pnx_error *err) {
    while (flock(fd, LOCK_EX | LOCK_NB) != 0) {
        if (errno == EWOULDBLOCK)
            return lock_taken(fd, dir, err);
        if (errno != EINTR)
            return lookup_disk_fail(err, errno, path, "cannot lock");
    }
    /* The pid is for people only, so a full disk is no reason to fail. */
    char pid[24];
    int n = snprintf(pid, sizeof(pid), "%ld\n", (long)getpid());
    if (ftruncate(fd, 0) == 0 && pwrite(fd, pid, (size_t)n, 0) != n)
        return 0;
    return 0;
}

int lookup_disk_lock(const char *dir, struct pnx_error *err, int *ret_fd) {
    char *path = lookup_join(dir, "lock");
    if (!path)
        return no_memory(err);
    /* The file stays: removing it would let two processes lock two files of one name. */
    int rc = 0;
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644);
    if (fd < 0)
        rc = lookup_disk_fail(err, errno, path, "cannot open");
    if (!rc)
        rc = take_lock(fd, dir, path, err);
    free(path);
    if (rc && fd >= 0)
        close(fd);
    if (!rc)
        *ret_fd = fd;
    return rc;
}

/* ---- making and writing ---- */

static int make_dir(const char *path, mode_t mode, bool exist_ok, struct pnx_error *err) {
    if (mkdir(path, mode) == 0)
        return 0;
    int error = errno;
    struct stat st;
    if (error == EEXIST && exist_ok) {
        if (stat(path, &st) == 0 && S_ISDIR(st.st_mode))
            return 0;
        error = ENOTDIR;
    }
    return lookup_disk_fail(err, error, path, "cannot make the directory");
}

int lookup_disk_mkdir(const char *path, bool exist_ok, struct pnx_error *err) {
    return make_dir(path, 0755, exist_ok, err);
}

int lookup_disk_make_parents(const char *path, struct pnx_error *err) {
    char *parent = strdup(path);
    if (!parent)
        return no_memory(err);
    int rc = 0;
    for (char *slash = strchr(parent + 1, '/'); slash && !rc; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        rc = make_dir(parent, 0700, true, err);
        *slash = '/';
    }
    free(parent);
    return rc;
}

int lookup_disk_create(const char *path, struct pnx_error *err, int *ret_fd) {
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0644);
    if (fd < 0)
        return lookup_disk_fail(err, errno, path, "cannot create");
    *ret_fd = fd;
    return 0;
}

int lookup_disk_write(int fd, const char *path, const void *data, size_t n, struct pnx_error *err) {
    const char *at = data;
    while (n > 0) {
        ssize_t written = write(fd, at, n);
        if (written < 0 && errno == EINTR)
            continue;
        if (written < 0)
            return lookup_disk_fail(err, errno, path, "cannot write");
        at += written;
        n -= (size_t)written;
    }
    return 0;
}

int lookup_disk_sync(const char *path, struct pnx_error *err) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return lookup_disk_fail(err, errno, path, "cannot open");
    int rc = 0;
    if (fsync(fd) != 0)
        rc = lookup_disk_fail(err, errno, path, "cannot sync");
    close(fd);
    return rc;
}

/* ---- reading ---- */

int lookup_disk_read(
        const char *path, size_t max, struct pnx_error *err, char **ret_text, size_t *ret_size) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return lookup_disk_fail(err, errno, path, "cannot open");
    int rc = 0;
    size_t size = 0;
    char *text = malloc(max + 2);
    if (!text) {
        close(fd);
        return no_memory(err);
    }
    while (!rc && size <= max) {
        ssize_t n = read(fd, text + size, max + 1 - size);
        if (n == 0)
            break;
        if (n > 0)
            size += (size_t)n;
        else if (errno != EINTR)
            rc = lookup_disk_fail(err, errno, path, "cannot read");
    }
    if (!rc && size > max)
        rc = lookup_fail(err, -EFBIG, "disk", "%s: longer than %zu bytes", path, max);
    close(fd);
    if (rc) {
        free(text);
        return rc;
    }
    text[size] = '\0';
    *ret_text = text;
    *ret_size = size;
    return 0;
}

static int hash_fd(int fd, const char *path, XXH3_state_t *state, char *piece,
        struct pnx_error *err, uint64_t *ret_size) {
    uint64_t size = 0;
    for (;;) {
        ssize_t n = read(fd, piece, PIECE_BYTES);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return lookup_disk_fail(err, errno, path, "cannot read");
        if (n == 0)
            break;
        XXH3_128bits_update(state, piece, (size_t)n);
        size += (uint64_t)n;
    }
    *ret_size = size;
    return 0;
}

int lookup_disk_hash(
        const char *path, struct pnx_error *err, uint64_t *ret_size, struct lookup_hash *ret_hash) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return lookup_disk_fail(err, errno, path, "cannot open");
    XXH3_state_t *state = XXH3_createState();
    char *piece = malloc(PIECE_BYTES);
    int rc = -ENOMEM;
    if (!state || !piece) {
        no_memory(err);
    } else {
        XXH3_128bits_reset(state);
        rc = hash_fd(fd, path, state, piece, err, ret_size);
    }
    if (!rc) {
        XXH128_hash_t hash = XXH3_128bits_digest(state);
        *ret_hash = (struct lookup_hash){.high = hash.high64, .low = hash.low64};
    }
    free(piece);
    XXH3_freeState(state);
    close(fd);
    return rc;
}

struct lookup_hash lookup_hash_bytes(const void *data, size_t n) {
    XXH128_hash_t hash = XXH3_128bits(data, n);
    return (struct lookup_hash){.high = hash.high64, .low = hash.low64};
}

/* ---- removing ---- */

int lookup_disk_remove(const char *path, struct pnx_error *err) {
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) {
        if (errno == ENOENT)
            return 0;
        /* Something else of that name: a file or a link is removed as such. */
        if ((errno == ENOTDIR || errno == ELOOP) && unlink(path) == 0)
            return 0;
        return lookup_disk_fail(err, errno, path, "cannot remove");
    }
    DIR *dir = fdopendir(fd);
    if (!dir) {
        close(fd);
        return no_memory(err);
    }
    const struct dirent *entry;
    while ((entry = readdir(dir))) {
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            /* What does not go makes rmdir fail, with a better reason. */
            (void)unlinkat(dirfd(dir), entry->d_name, 0);
    }
    closedir(dir);
    if (rmdir(path) != 0)
        return lookup_disk_fail(err, errno, path, "cannot remove");
    return 0;
}
