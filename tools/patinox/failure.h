/* SPDX-License-Identifier: Apache-2.0 */
/* failure.h - why something could not be done, as a sentence for the person who asked for it. */
#ifndef PATINOX_FAILURE_H
#define PATINOX_FAILURE_H

#include <patinox/base.h>

struct failure {
    char text[1024];
};

/* Sets the sentence; is -1, so that a function can return it. */
#define fail(failure, ...) (failure_set(failure, __VA_ARGS__), -1)

void failure_set(struct failure *failure, const char *format, ...) PNX_PRINTF(2, 3);

#endif
