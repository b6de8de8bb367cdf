/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fault_owner.c - a program that handles SIGBUS itself, and asks the library first: as a language runtime, a garbage collector
 * or a crash reporter would.
 */
#include <patinox/fault.h>
#include <patinox/mapping.h>

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static volatile sig_atomic_t theirs;

/* The program's handler for SIGBUS. */
static void on_sigbus(int signal_number, siginfo_t *info, void *context) {
    if (pnx_fault_handle(signal_number, info, context)) {
        theirs++;
        return; /* the load happens again, and reads zero; its scope ends with an error */
    }
    /* Not of a mapped file in a scope: here a crash reporter would write its report. */
    signal(signal_number, SIG_DFL);
}

static int add_up(void *ctx) {
    struct pnx_view view = pnx_view_all(ctx);
    int sum = 0;
    for (size_t i = 0; i < view.n; i += 512)
        sum += view.p[i];
    return sum;
}

int main(void) {
    const char *path = "patinox-example-owner.bin";
    static const char bytes[65536] = {1};
    struct sigaction action;
    memset(&action, 0, sizeof(action));
    action.sa_sigaction = on_sigbus;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    sigaction(SIGBUS, &action, NULL);
    int rc = pnx_fault_install(PNX_FAULT_FOREIGN); /* the library installs nothing */
    if (rc) {
        printf("this platform has no such handlers: %s\n", pnx_strerror(rc));
        return 0;
    }

    struct pnx_mapping *mapping = NULL;
    FILE *file = fopen(path, "wb");
    if (!file || fwrite(bytes, sizeof(bytes), 1, file) != 1 || fclose(file) != 0)
        return 1;
    if (pnx_mapping_open(path, NULL, NULL, &mapping) != 0 || truncate(path, 4096) != 0)
        return 1;
    rc = pnx_fault_run(mapping, add_up, mapping);
    printf("%s; the handler has handed on %d signal\n", pnx_strerror(rc), (int)theirs);
    pnx_mapping_release(&mapping);
    unlink(path);
    return rc == -ESTALE && theirs == 1 ? 0 : 1;
}
