/* SPDX-License-Identifier: Apache-2.0 */
/*
 * error.c - what an error says, and what to do about it: names, texts, recovery classes, details.
 */
#include <patinox/error.h>
#include <patinox/registry.h>

#include <stdio.h>

/* Stands for a server that is busy at first. */
static int ask_server(int *patience) {
    return (*patience)-- > 0 ? -EAGAIN : 0;
}

/* What to do is a property of the code, so that this loop need not know who fails or why. */
static int ask(void) {
    int patience = 2;
    for (int attempt = 1;; attempt++) {
        int rc = ask_server(&patience);
        if (rc == 0)
            return attempt;
        printf("attempt %d: %s: %s\n", attempt, pnx_errname(rc), pnx_strerror(rc));
        if (pnx_recovery(rc) != PNX_RECOVERY_RETRY || attempt == 5)
            return rc; /* a real program would also pause */
    }
}

int main(void) {
    static const char *const advice[] = {
            "?", "retry", "fall back", "do not retry before the hint", "give up"};
    static const int codes[] = {
            -EAGAIN, -ETIMEDOUT, -EINVAL, PNX_E_CONFLICT, PNX_E_BREAKER, -12345};
    printf("patinox %s\n", pnx_version());
    for (size_t i = 0; i < sizeof(codes) / sizeof(codes[0]); i++)
        printf("%-16s %-40s %s\n", pnx_errname(codes[i]), pnx_strerror(codes[i]),
                advice[pnx_recovery(codes[i])]);

    int attempts = ask();
    printf("answered at attempt %d\n", attempts);

    /* Calls that take a struct pnx_error say more: which phase, which field, and one line for a person. */
    struct pnx_error err;
    struct pnx_registry *registry = NULL;
    int rc = pnx_registry_create(PNX_REGISTRY_OPTS(.flags = 1), &err, &registry);
    printf("%s in phase \"%s\", field \"%s\": %s\n", pnx_errname(rc), err.phase,
            err.field ? err.field : "", err.message);
    return attempts == 3 && rc == -EINVAL ? 0 : 1;
}
