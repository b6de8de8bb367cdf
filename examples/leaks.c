/* SPDX-License-Identifier: Apache-2.0 */
/*
 * leaks.c - a program that would end with status 86, and a report on its standard error, if it leaked.
 *
 * One row is left on purpose, and known.  A forked child has its parent's rows until it says that it goes its own way.
 */
#include <patinox/leaks.h>

#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

/* What a child does with its copy of a listening socket: it closes it. */
static int close_copy(void *arg, const struct pnx_cancel *cancel) {
    (void)arg, (void)cancel;
    return 0;
}

static int child_main(void) {
    if (pnx_registry_forked(NULL))
        return 1;
    return pnx_registry_count(NULL) == 0 ? 0 : 1; /* nothing of its parent's is left */
}

int main(void) {
    pnx_resource_id socket, plugin;
    if (pnx_leaks_at_exit(PNX_LEAKS_FAIL) || pnx_registry_suppress(NULL, "plugin", "examples/*") ||
            pnx_registry_add(NULL, PNX_RESOURCE(.type = "plugin"), NULL, &plugin) ||
            pnx_registry_add(
                    NULL, PNX_RESOURCE(.type = "socket", .in_child = close_copy), NULL, &socket))
        return 1;
    pid_t child = fork();
    if (child == 0)
        _exit(child_main());
    int status = 1;
    if (child < 0 || waitpid(child, &status, 0) != child || status != 0)
        return 1;
    return pnx_registry_remove(NULL, socket) == 0 ? 0 : 1;
}
