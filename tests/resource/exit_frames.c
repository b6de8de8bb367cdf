/* SPDX-License-Identifier: Apache-2.0 */
/* exit_frames.c - see exit_frames.h; FRAME names the function, by the flags that this is built with. */
#include "resource/exit_frames.h"

#include <patinox/guard.h>

static void count_defer(void *arg) {
    ++*(int *)arg;
}

static int count(void *arg, const struct pnx_cancel *cancel) {
    (void)cancel;
    ++*(int *)arg;
    return 0;
}

void FRAME(struct exit_counts *counts, void (*leave)(void *arg), void *arg) {
    PNX_DEFER(count_defer, &counts->defers);
    PNX_AUTO_GUARD guard = {0};
    PNX_AUTO_SCOPE scope = {0};
    if (pnx_guard_arm(&guard, count, &counts->guards) ||
            pnx_scope_push(&scope, PNX_SCOPE_ALWAYS, count, &counts->scopes))
        return;
    leave(arg);
    counts->after++;
}
