/* SPDX-License-Identifier: Apache-2.0 */
/* mapping_peers.c - the map cases for memcpy from a plain mmap(), and for liburcu's read sections. */
#define _LGPL_SOURCE /* liburcu's read sections inline */
#include "files.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* ---- map/copy-4k ---- */
static unsigned char buffer[FILE_PAGE] __attribute__((aligned(4096)));
static uint64_t random_state = 1;

static void *map_set_up(unsigned threads) {
    (void)threads;
    int fd = open(files_make(), O_RDONLY | O_CLOEXEC);
    const unsigned char *base = mmap(NULL, FILE_BYTES, PROT_READ, MAP_SHARED, fd, 0);
    if (fd < 0 || base == MAP_FAILED)
        abort();
    close(fd);
    unsigned sum = 0;
    for (size_t i = 0; i < FILE_BYTES; i += FILE_PAGE)
        sum += base[i];
    BENCH_USE(sum);
    return (void *)(uintptr_t)base;
}

static void copy(void *state, unsigned index, uint64_t n) {
    (void)index;
    for (uint64_t i = 0; i < n; i++) {
        memcpy(buffer, (const unsigned char *)state + files_place(&random_state), sizeof(buffer));
        BENCH_USE(buffer);
        __asm__ volatile("" ::: "memory");
    }
}

#ifdef HAVE_URCU
/* ---- map/scope ---- */
#include "urcu.h"

static void *rcu_set_up(unsigned threads) {
    static int state;
    (void)threads;
    urcu_memb_init();
    return &state;
}

static void rcu_section(void *state, unsigned index, uint64_t n) {
    (void)index;
    for (uint64_t i = 0; i < n; i++) {
        urcu_memb_read_lock();
        BENCH_USE(state);
        urcu_memb_read_unlock();
    }
}
#endif

static const struct bench_row rows[] = {
        {"map/copy-4k", {.name = "memcpy", .version = "libc", .set_up = map_set_up, .work = copy}},
#ifdef HAVE_URCU
        {"map/scope", {.name = "liburcu-memb",
                              .version = URCU_VERSION,
                              .set_up = rcu_set_up,
                              .work = rcu_section,
                              .enter_thread = urcu_enter_thread,
                              .leave_thread = urcu_leave_thread}},
#endif
};

int main(int argc, char **argv) {
    struct bench_args args = bench_parse(argc, argv);
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        if (strcmp(rows[i].case_name, args.case_name) == 0 &&
                strcmp(rows[i].impl.name, args.impl) == 0)
            return bench_cycle(&args, &rows[i].impl);
    }
    printf("{\"missing\":\"not built: its package was not found (scripts/packages.txt, group "
           "bench)\"}\n");
    return 0;
}
