/* SPDX-License-Identifier: Apache-2.0 */
/* mapping_patinox.c - the map cases for us, with default options. */
#include "files.h"

#include <patinox/fault.h>
#include <patinox/mapping.h>

#include <stdlib.h>
#include <string.h>

static struct pnx_mapping *mapping;
static unsigned char buffer[FILE_PAGE] __attribute__((aligned(4096)));
static uint64_t random_state = 1;

static void *set_up(unsigned threads) {
    struct pnx_error err;
    (void)threads;
    if (pnx_mapping_open(files_make(), NULL, &err, &mapping)) {
        fprintf(stderr, "%s\n", err.message);
        exit(1);
    }
    /* Every page is in the table of pages before anything is measured, as it is for the peers. */
    unsigned sum = 0;
    struct pnx_view view = pnx_view_all(mapping);
    for (size_t i = 0; i < view.n; i += FILE_PAGE)
        sum += view.p[i];
    BENCH_USE(sum);
    return mapping;
}

static void tear_down(void *state) {
    (void)state;
    pnx_mapping_release(&mapping);
}

static void copy(void *state, unsigned index, uint64_t n) {
    (void)index;
    for (uint64_t i = 0; i < n; i++) {
        if (pnx_fault_copy_out(state, files_place(&random_state), buffer, sizeof(buffer)))
            abort();
        BENCH_USE(buffer);
    }
}

static void scope(void *state, unsigned index, uint64_t n) {
    (void)index;
    for (uint64_t i = 0; i < n; i++) {
        struct pnx_fault_scope open;
        if (pnx_fault_begin(state, &open))
            abort();
        BENCH_USE(open.head);
        if (pnx_fault_end(&open))
            abort();
    }
}

int main(int argc, char **argv) {
    struct bench_args args = bench_parse(argc, argv);
    struct bench_impl impl = {
            .name = args.impl, .version = pnx_version(), .set_up = set_up, .tear_down = tear_down};
    if (strcmp(args.case_name, "map/copy-4k") == 0)
        impl.work = copy;
    else if (strcmp(args.case_name, "map/scope") == 0)
        impl.work = scope;
    if (impl.work)
        return bench_cycle(&args, &impl);
    printf("{\"missing\":\"this program does not measure it\"}\n");
    return 0;
}
