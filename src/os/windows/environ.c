/* SPDX-License-Identifier: Apache-2.0 */
/* os/windows/environ.c - see os/environ.h; the C runtime's, in the process's code page. */
#include "os/environ.h"

#include <stdlib.h>
#include <string.h>

const char *pnx__os_environ(size_t place) {
    return _environ ? _environ[place] : NULL; /* NULL in a program that begins with wmain() */
}

/* Names of variables are the same in upper and lower case. */
const char *pnx__os_variable(const char *name) {
    size_t n = strlen(name);
    const char *entry;
    for (size_t i = 0; (entry = pnx__os_environ(i)); i++) {
        if (_strnicmp(entry, name, n) == 0 && entry[n] == '=')
            return entry + n + 1;
    }
    return NULL;
}
