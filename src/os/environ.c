/* SPDX-License-Identifier: Apache-2.0 */
/* os/environ.c - see os/environ.h. */
#include "os/environ.h"

extern char **environ; /* POSIX: declared by no header unless features of GNU are asked for */

const char *pnx__os_environ(size_t place) {
    return environ ? environ[place] : NULL; /* NULL after clearenv() */
}
