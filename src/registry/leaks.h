/* SPDX-License-Identifier: Apache-2.0 */
/* registry/leaks.h - the look at the default registry when the process ends. */
#ifndef PNX_SRC_REGISTRY_LEAKS_H
#define PNX_SRC_REGISTRY_LEAKS_H

#include <stdbool.h>

/* Obeys a text as in PATINOX_LEAKS, unless the program has said something else.  false when it is not understood, or
 * when there is no memory for it. */
bool pnx__leaks_obey(const char *text);

#endif
