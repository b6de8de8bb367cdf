/* SPDX-License-Identifier: Apache-2.0 */
/* files.c - the file of the map cases. */
#include "files.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PART (UINT64_C(1) << 20)

static void give_up(const char *path) {
    perror(path);
    exit(1);
}

static void fill(const char *path) {
    static struct file_record records[PART / sizeof(struct file_record)];
    char part[300];
    snprintf(part, sizeof(part), "%s.%ld", path, (long)getpid());
    int fd = open(part, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0)
        give_up(part);
    uint64_t id = 0;
    for (uint64_t at = 0; at < FILE_BYTES; at += PART) {
        for (size_t i = 0; i < PART / sizeof(records[0]); i++, id++)
            records[i] = (struct file_record){.id = id, .value = id & 0xff};
        if (write(fd, records, PART) != (ssize_t)PART)
            give_up(part);
    }
    if (close(fd) || rename(part, path))
        give_up(path);
}

const char *files_make(void) {
    static char path[256];
    static char buf[PART];
    const char *folder = getenv("TMPDIR");
    struct stat st;
    snprintf(path, sizeof(path), "%s/patinox-bench-map.bin", folder && *folder ? folder : "/tmp");
    if (stat(path, &st) || (uint64_t)st.st_size != FILE_BYTES)
        fill(path);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        give_up(path);
    while (read(fd, buf, sizeof(buf)) > 0) {
    }
    close(fd);
    return path;
}
