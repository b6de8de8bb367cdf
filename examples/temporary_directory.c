/* SPDX-License-Identifier: Apache-2.0 */
/*
 * temporary_directory.c - directories that are gone when the program is, with all that is in them.
 *
 * Each is a row of the process's registry.  Its owner's release removes it; what nobody has released, the shutdown
 * removes, and says so if it could not.
 */
#include <patinox/patinox.h>

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct directory {
    struct pnx_registry *registry; /* a reference */
    pnx_resource_id row;
    char path[32];
};

static int remove_content(int fd, const struct pnx_cancel *cancel);

/* Removes what has this name in the directory.  Symbolic links are removed, not followed. */
static int remove_entry(int fd, const char *name, const struct pnx_cancel *cancel) {
    if (pnx_cancel_requested(cancel))
        return -ETIMEDOUT; /* a tree may be large: whoever waits has waited long enough */
    if (unlinkat(fd, name, 0) == 0)
        return 0;
    if (errno != EISDIR)
        return -errno;
    int below = openat(fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    int rc = below < 0 ? -errno : remove_content(below, cancel);
    return rc == 0 && unlinkat(fd, name, AT_REMOVEDIR) ? -errno : rc;
}

/* Removes all that is in the directory, whose descriptor it takes. */
static int remove_content(int fd, const struct pnx_cancel *cancel) {
    DIR *dir = fdopendir(fd);
    if (!dir) {
        int rc = -errno;
        close(fd);
        return rc;
    }
    int rc = 0;
    for (struct dirent *entry; rc == 0 && (entry = readdir(dir));) {
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            rc = remove_entry(fd, entry->d_name, cancel);
    }
    closedir(dir);
    return rc;
}

/* The row's cleanup: the directory goes, the struct is its owner's.  One that is gone already is fine. */
static int remove_directory(void *arg, const struct pnx_cancel *cancel) {
    const struct directory *directory = arg;
    int fd = open(directory->path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return errno == ENOENT ? 0 : -errno;
    int rc = remove_content(fd, cancel);
    if (rc == 0 && rmdir(directory->path))
        rc = -errno;
    return rc;
}

static void directory_release(struct directory **directory) {
    struct directory *own = *directory;
    if (!own)
        return;
    *directory = NULL;
    if (own->row == 0 || pnx_registry_remove(own->registry, own->row) == 0)
        remove_directory(own, NULL);
    pnx_registry_release(&own->registry);
    free(own);
}

/* site is the caller's line: it stands in reports. */
static int directory_create_at(const char *site, struct directory **ret_directory) {
    struct directory *directory = calloc(1, sizeof(*directory));
    if (!directory)
        return -ENOMEM;
    strcpy(directory->path, "/tmp/pnx-example-XXXXXX");
    int rc = mkdtemp(directory->path) ? 0 : -errno;
    if (rc) {
        free(directory);
        return rc;
    }
    directory->registry = pnx_registry_ref(NULL);
    rc = pnx_registry_add(directory->registry,
            PNX_RESOURCE_AT(site, .type = "temporary directory", .name = directory->path,
                    .cleanup = remove_directory, .arg = directory),
            NULL, &directory->row);
    if (rc) {
        directory_release(&directory);
        return rc;
    }
    *ret_directory = directory;
    return 0;
}
#define directory_create(ret_directory) directory_create_at(PNX_SITE, (ret_directory))

/* Puts files, a directory with a file, and a link to elsewhere into it. */
static int fill(const struct directory *directory) {
    int fd = open(directory->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    int rc = 0;
    if (mkdirat(fd, "deep", 0700) || mkdirat(fd, "deep/deeper", 0700) ||
            symlinkat("/etc", fd, "deep/link"))
        rc = -errno;
    static const char *const names[] = {"a", "deep/b", "deep/deeper/c"};
    for (size_t i = 0; rc == 0 && i < sizeof(names) / sizeof(names[0]); i++) {
        int file = openat(fd, names[i], O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
        if (file < 0 || write(file, "x", 1) != 1)
            rc = -errno;
        if (file >= 0)
            close(file);
    }
    close(fd);
    return rc;
}

static int print(void *ctx, const char *text, size_t n) {
    return fwrite(text, 1, n, ctx) == n ? 0 : -EIO;
}

static bool gone(const char *path) {
    struct stat st;
    return lstat(path, &st) && errno == ENOENT;
}

int main(void) {
    struct directory *left = NULL;
    char path[sizeof(left->path)];
    {
        PNX_AUTO(struct directory *, directory, directory_release, NULL);
        if (directory_create(&directory) || fill(directory) || directory_create(&left) ||
                fill(left))
            return 1;
        memcpy(path, directory->path, sizeof(path));
        if (pnx_registry_report(NULL, PNX_REPORT_TEXT, print, stdout)) /* two of them, and where */
            return 1;
    }
    printf("%s: %s\n", path, gone(path) ? "gone with its scope" : "left behind");
    if (!gone(path))
        return 1;

    struct pnx_shutdown_report *report = NULL;
    int rc = pnx_shutdown(5 * PNX_SEC, &report);
    if (pnx_shutdown_report_write(report, PNX_REPORT_TEXT, print, stdout))
        return 1;
    pnx_shutdown_report_release(&report);
    printf("%s: %s\n", left->path, gone(left->path) ? "gone with the process" : "left behind");
    rc = rc == 0 && gone(left->path) ? 0 : 1;
    directory_release(&left); /* finds it removed, and frees the struct */
    return rc;
}
