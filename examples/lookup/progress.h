/* SPDX-License-Identifier: Apache-2.0 */
/*
 * progress.h - how far indexing is: a bar on a terminal, plain lines elsewhere.  One thread; one at a time.
 */
#ifndef LOOKUP_PROGRESS_H
#define LOOKUP_PROGRESS_H

#include "store.h"

struct progress {
    pnx_ns started; /* of the phase */
    pnx_ns printed; /* when the last plain line was */
    enum lookup_phase phase;
    unsigned tenth; /* of the work, that the last plain line told of */
    unsigned width; /* columns of the terminal */
    bool terminal;
    bool shown; /* there is a bar to clear */
};

/* Looks whether standard error is a terminal. */
void progress_init(struct progress *progress);

/* Shows what is reported. */
void progress_show(struct progress *progress, const struct lookup_progress *now);

/* Clears the bar, if there is one. */
void progress_clear(struct progress *progress);

#endif
