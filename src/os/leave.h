/* SPDX-License-Identifier: Apache-2.0 */
/*
 * os/leave.h - the end of the process, and a word on its standard error: for the check of leaks, which a program or
 * its environment has to ask for, and for nothing else in the library.
 */
#ifndef PNX_SRC_OS_LEAVE_H
#define PNX_SRC_OS_LEAVE_H

#include <stddef.h>

/* Has fn called when the process ends by exit() or by leaving main ("atexit").  -ENOMEM. */
int pnx__at_exit(void (*fn)(void));

/* Ends the process now: flushes the streams of stdio, runs no further handlers. */
_Noreturn void pnx__leave(int status);

/* Writes to the standard error, as far as it goes. */
void pnx__complain(const char *text, size_t n);

#endif
