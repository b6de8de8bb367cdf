/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mapping_windows.c - reads a file of 64 GiB through windows of 256 MiB, in an address space of 2 GiB.
 */
#include <patinox/mapping_windows.h>

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#define GIB    (UINT64_C(1) << 30)
#define LENGTH (64 * GIB)
#define RECORD 24 /* bytes, which do not divide a window evenly: no record is cut all the same */

/* A file with a hole and some bytes in it. */
static int write_example(const char *path) {
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    int ok = ftruncate(fd, (off_t)LENGTH) == 0;
    for (uint64_t i = 0; i < 64; i++)
        ok = ok && pwrite(fd, "x", 1, (off_t)(i * GIB + 12345)) == 1;
    return close(fd) == 0 && ok ? 0 : -1;
}

/* Bytes of address space that the process has. */
static uint64_t address_space(void) {
    char text[64] = "";
    int fd = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
    if (fd < 0 || read(fd, text, sizeof(text) - 1) <= 0)
        text[0] = '\0';
    close(fd);
    return strtoull(text, NULL, 10) * (uint64_t)sysconf(_SC_PAGESIZE);
}

int main(void) {
    char path[] = "/tmp/patinox-huge-XXXXXX";
    int fd = mkstemp(path);
    if (fd < 0 || write_example(path) != 0)
        return 1;
    struct rlimit limit = {.rlim_cur = 2 * GIB, .rlim_max = 2 * GIB};
    if (address_space() < limit.rlim_cur) /* a sanitizer has more than that already */
        (void)setrlimit(RLIMIT_AS, &limit);

    struct pnx_error err = {0};
    struct pnx_windows *windows = NULL;
    int rc = pnx_windows_open(path,
            PNX_WINDOWS_OPTS(.window = 256 << 20, .unit = RECORD, .advice = PNX_ADVICE_RANDOM),
            &err, &windows);
    unsigned found = 0, shown = 0;
    struct pnx_view view = {.p = NULL};
    /* A window in eight is looked at here, each where the next GiB's byte is. */
    for (uint64_t i = 0; rc >= 0 && i < 64; i++) {
        uint64_t where = i * GIB + 12345;
        rc = pnx_windows_seek(windows, where);
        if (rc == 0)
            rc = pnx_windows_next(windows, &err, &view);
        uint8_t byte = 0;
        if (rc == 1 && pnx_view_u8(&view, where - pnx_windows_position(windows), &byte) == 0)
            found += byte == 'x';
    }
    /* And all of them in order. */
    if (rc >= 0)
        rc = pnx_windows_seek(windows, 0);
    while (rc >= 0 && (rc = pnx_windows_next(windows, &err, &view)) > 0)
        shown++;
    if (rc < 0)
        fprintf(stderr, "%s: %s\n", pnx_errname(rc), err.message);
    printf("%" PRIu64 " GiB in %u windows, %u bytes found\n", pnx_windows_length(windows) / GIB,
            shown, found);
    pnx_windows_release(&windows);

    /* By descriptor, the end of the file only. */
    if (rc == 0)
        rc = pnx_windows_open_fd(fd, PNX_WINDOWS_OPTS(.offset = LENGTH - 100), &err, &windows);
    if (rc == 0)
        rc = pnx_windows_next(windows, &err, &view);
    printf("the last %zu bytes\n", rc == 1 ? view.n : 0);
    pnx_windows_release(&windows);
    close(fd);
    unlink(path);
    return rc == 1 && found == 64 ? 0 : 1;
}
