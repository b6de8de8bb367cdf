/* SPDX-License-Identifier: Apache-2.0 */
/* os/environ.c - see os/environ.h. */
#include "os/environ.h"

#include <string.h>

extern char **environ; /* POSIX: declared by no header unless features of GNU are asked for */

const char *pnx__os_environ(size_t place) {
    return environ ? environ[place] : NULL; /* NULL after clearenv() */
}

const char *pnx__os_variable(const char *name) {
    size_t n = strlen(name);
    const char *entry;
    for (size_t i = 0; (entry = pnx__os_environ(i)); i++) {
        if (strncmp(entry, name, n) == 0 && entry[n] == '=')
            return entry + n + 1;
    }
    return NULL;
}
