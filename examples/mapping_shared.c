/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mapping_shared.c - a read-only dataset that processes share: built once in memory, sealed, and mapped by whoever gets the
 * descriptor.  None of them can change it, or pull it away from the others.
 */
#include <patinox/mapping.h>

#include <inttypes.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#define WORDS 100000

/* What another program does with a descriptor that it was sent, or has inherited. */
static int child(int fd) {
    struct pnx_error err;
    PNX_AUTO_MAPPING mapping = NULL;
    int rc = pnx_mapping_open_fd(fd, NULL, &err, &mapping);
    if (rc) {
        fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    struct pnx_mapping_info info = {.size = sizeof(info)};
    uint32_t wanted = PNX_SEAL_WRITE | PNX_SEAL_SHRINK;
    if (pnx_mapping_read_info(mapping, &info) || (info.seals & wanted) != wanted)
        return 2; /* somebody could change it: not to be trusted */
    struct pnx_view view = pnx_view_all(mapping);
    struct pnx_records words;
    if (PNX_RECORDS_GET(&view, uint64_t, 0, WORDS, &words))
        return 3;
    uint64_t sum = 0;
    PNX_RECORDS_EACH(&words, uint64_t, word) {
        sum += *word;
    }
    PNX_AUTO_MAPPING writable = NULL;
    if (pnx_mapping_open_fd(fd, PNX_MAPPING_OPTS(.mode = PNX_MAPPING_WRITE), &err, &writable) == 0)
        return 4;
    return sum == (uint64_t)WORDS * (WORDS - 1) / 2 ? 0 : 5;
}

int main(void) {
    struct pnx_error err;
    PNX_AUTO_MAPPING mapping = NULL;
    int rc = pnx_mapping_open_memfd(
            PNX_MAPPING_OPTS(.name = "dataset", .length = WORDS * sizeof(uint64_t)), &err,
            &mapping);
    if (rc == 0) {
        struct pnx_view view = pnx_view_all(mapping);
        uint64_t *words = pnx_view_at_mut(&view, 0, view.n, 8);
        for (uint64_t i = 0; words && i < WORDS; i++)
            words[i] = i;
        rc = pnx_mapping_seal(mapping, PNX_SEAL_WRITE | PNX_SEAL_SEAL, &err);
    }
    if (rc) {
        fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    for (int i = 0; i < 3; i++) {
        pid_t pid = fork(); /* or send pnx_mapping_fd(mapping) over a socket */
        if (pid == 0)
            _exit(child(pnx_mapping_fd(mapping)));
        int status = -1;
        if (pid < 0 || waitpid(pid, &status, 0) != pid || status != 0) {
            fprintf(stderr, "process %d: status %d\n", i, status);
            return 1;
        }
    }
    printf("3 processes read %zu bytes that nobody can change\n", pnx_mapping_size(mapping));
    return 0;
}
