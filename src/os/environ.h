/* SPDX-License-Identifier: Apache-2.0 */
/*
 * os/environ.h - the environment of the process: the one place of the library that looks at it.
 *
 * Nothing is read unless an option of the caller's asks for it, but for the variables PATINOX_..., which the default
 * objects obey.  As with getenv(), a thread that changes the
 * environment meanwhile (setenv, putenv) is a race that nobody but the program can prevent.
 */
#ifndef PNX_SRC_OS_ENVIRON_H
#define PNX_SRC_OS_ENVIRON_H

#include <stddef.h>

/* Returns the variable at a place, as "NAME=text", or NULL behind the last one.  It stays the environment's. */
const char *pnx__os_environ(size_t place);

/* Returns what the variable is set to, or NULL.  It stays the environment's. */
const char *pnx__os_variable(const char *name);

#endif
