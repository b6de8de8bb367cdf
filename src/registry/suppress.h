/* SPDX-License-Identifier: Apache-2.0 */
/* registry/suppress.h - known leaks, for src/registry and src/resource. */
#ifndef PNX_SRC_REGISTRY_SUPPRESS_H
#define PNX_SRC_REGISTRY_SUPPRESS_H

#include "registry/ledger.h"

#include <patinox/leaks.h>

/* Whether a resource of that type, made at that site, is a known leak.  Takes no lock. */
bool pnx__suppressed(const struct pnx_registry *registry, const char *type, const char *site);

/* Adds what a list as in PATINOX_SUPPRESS says, up to the first error, which is returned. */
int pnx__suppress_all(struct pnx_registry *registry, const char *list);

void pnx__suppressions_free(struct pnx_registry *registry);

#endif
