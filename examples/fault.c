/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fault.c - reads a file that somebody cuts short, and lives: access scopes, checked scopes, copies that fail with an error
 * code, and looking at what happened.
 */
#include <patinox/fault.h>
#include <patinox/mapping.h>

#include <inttypes.h>
#include <stdio.h>
#include <unistd.h>

#define SIZE 100000

static int make(const char *path) {
    FILE *file = fopen(path, "wb");
    if (!file)
        return -1;
    for (int i = 0; i < SIZE; i++)
        putc('a' + i % 26, file);
    return fclose(file);
}

/* Any code may stand in a scope, as long as it copes with whatever bytes it finds: zeros, after a fault. */
static int count_a(void *ctx) {
    struct pnx_view view = pnx_view_all(ctx);
    int n = 0;
    for (size_t i = 0; i < view.n; i++)
        n += view.p[i] == 'a';
    return n;
}

/* The ways out of a scope: with an answer that counts only if the end says 0, or early, when nobody wants to know. */
static int first_differs(struct pnx_mapping *mapping, unsigned char expected) {
    PNX_AUTO_FAULT_SCOPE scope = {0};
    int rc = pnx_fault_begin(mapping, &scope);
    if (rc)
        return rc;
    if (pnx_view_all(mapping).n == 0)
        return 0; /* the scope is left by itself */
    int differs = pnx_view_all(mapping).p[0] != expected;
    rc = pnx_fault_end_checked(&scope); /* also: the file is as it was when it was mapped */
    return rc ? rc : differs;
}

/* Numbers and ranges without a scope of one's own; what is only read cannot be stored to. */
static void single_accesses(struct pnx_mapping *mapping) {
    uint8_t u8 = 0;
    uint16_t u16 = 0;
    uint32_t u32 = 0;
    uint64_t u64 = 0;
    char text[16] = {0};
    int rc = pnx_fault_load_u8(mapping, 26, &u8);
    rc = rc ? rc : pnx_fault_load_u16(mapping, 26, &u16);
    rc = rc ? rc : pnx_fault_load_u32(mapping, 27, &u32);
    rc = rc ? rc : pnx_fault_load_u64(mapping, 28, &u64);
    rc = rc ? rc : pnx_fault_copy_out(mapping, 52, text, 15);
    printf("loads and a copy: %s, '%c', \"%s\"\n", pnx_strerror(rc), u8, text);
    rc = pnx_fault_copy_in(mapping, 0, "x", 1);
    if (rc == pnx_fault_store_u8(mapping, 0, 1) && rc == pnx_fault_store_u16(mapping, 0, 1) &&
            rc == pnx_fault_store_u32(mapping, 0, 1) && rc == pnx_fault_store_u64(mapping, 0, 1))
        printf("stores: %s\n", pnx_strerror(rc));
    printf("probe: %s\n", pnx_strerror(pnx_fault_probe(mapping, 0, SIZE)));
}

int main(void) {
    const char *path = "patinox-example-fault.txt";
    struct pnx_mapping *mapping = NULL;
    struct pnx_error err;
    if (make(path) != 0 || pnx_mapping_open(path, NULL, &err, &mapping) != 0)
        return 1;
    /* At the start of a program; the first scope would do the same. */
    int rc = pnx_fault_install(PNX_FAULT_SIGNAL);
    if (rc)
        printf("no handler here: %s\n", pnx_strerror(rc));
    printf("%d times an a\n", pnx_fault_run_checked(mapping, count_a, mapping));
    struct pnx_fault_scope scope;
    if (pnx_fault_begin(mapping, &scope) == 0) {
        int first = pnx_view_all(mapping).p[0];
        if (pnx_fault_end(&scope) == 0) /* no load has faulted */
            printf("it begins with %c\n", first);
    }
    printf("the first one differs: %d\n", first_differs(mapping, 'b'));
    single_accesses(mapping);

    if (truncate(path, 10) != 0)
        perror("truncate");
    rc = pnx_fault_run(mapping, count_a, mapping); /* would have ended the process */
    printf("after the cut: %s\n", pnx_strerror(rc));
    printf("and from then on: %s\n", pnx_strerror(first_differs(mapping, 'b')));
    uint64_t lost = 0;
    rc = pnx_fault_state(mapping, &lost);
    printf("lost from %" PRIu64 " on: %s\n", lost, pnx_strerror(rc));
    struct pnx_fault_stats stats = {.size = sizeof(stats)};
    if (pnx_fault_read_stats(&stats) == 0)
        printf("%" PRIu64 " fault, in %" PRIu64 " mapping\n", stats.truncated, stats.mappings);
    if (pnx_fault_check() == -EBUSY)
        printf("somebody has put a handler over ours\n");

    pnx_mapping_release(&mapping);
    unlink(path);
    /* Event loops call it now and then, for mappings that were released inside a scope. */
    bool waits = pnx_fault_tick(0) != PNX_NEVER;
    rc = pnx_fault_uninstall(PNX_SEC);
    printf("taken away: %s\n", pnx_strerror(rc));
    return rc != 0 || waits;
}
