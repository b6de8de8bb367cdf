/* SPDX-License-Identifier: Apache-2.0 */
/* registry/trace.h - levels and traces, for src/registry and src/resource. */
#ifndef PNX_SRC_REGISTRY_TRACE_H
#define PNX_SRC_REGISTRY_TRACE_H

#include "registry/ledger.h"

#include <patinox/trace.h>

/* Sets a level and a rate of sampling; what they need is loaded here, where no lock is held. */
void pnx__trace_set(struct pnx_registry *registry, enum pnx_registry_level level, uint32_t sample);

/* Obeys a text as in PATINOX_REGISTRY.  false when it is not understood; nothing has changed then. */
bool pnx__trace_obey(struct pnx_registry *registry, const char *text);

/* Takes a backtrace for the row that was just added, if its turn has come.  level is the registry's, >= ADVANCED. */
void pnx__trace_added(
        struct pnx_registry *registry, enum pnx_registry_level level, pnx_resource_id id);

/* Copies the backtrace of a row; returns the number of frames. */
uint32_t pnx__trace_frames(
        struct pnx_registry *registry, pnx_resource_id id, void *ret_frames[PNX_TRACE_FRAMES]);

static inline enum pnx_registry_level pnx__level(const struct pnx_registry *registry) {
    /* A wish, without data: no partner. */
    return (enum pnx_registry_level)pnx_load(&registry->level, PNX_RELAXED, "trace.level");
}

/* ---- stacks.c ---- */

struct pnx_stacks; /* a bounded set of different backtraces */

/* Returns the number of the stack in the registry's set, which it joins if it is new; 0 when it cannot be kept. */
uint32_t pnx__stack_keep(struct pnx_registry *registry, void *const *frames, uint32_t n);

/* Copies a stack by its number; returns the number of frames. */
uint32_t pnx__stack_copy(
        struct pnx_registry *registry, uint32_t number, void *ret_frames[PNX_TRACE_FRAMES]);

void pnx__stacks_free(struct pnx_registry *registry);

#endif
