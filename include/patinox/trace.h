/* SPDX-License-Identifier: Apache-2.0 */
/*
 * patinox/trace.h - how much a registry remembers of each resource: levels, touches, backtraces.
 *
 *   level               what is kept                                          what an add costs more
 *   PNX_LEVEL_OFF       rows of PNX_RESOURCE_LONG_LIVED; others get the id 0  less
 *   PNX_LEVEL_SIMPLE    rows, with the line that made them                    -
 *   PNX_LEVEL_ADVANCED  touches; a backtrace of one row in `sample`           some us for the sampled ones
 *   PNX_LEVEL_PARANOID  touches; a backtrace of every row                     some us
 *
 * The level stands in the registry's options, can be changed at any time, and for the process's registry comes from
 * PATINOX_REGISTRY=off|simple|advanced|paranoid, with ",sample=N" behind it if wanted.  A change concerns rows that are
 * added, and touches that are made, from then on.  A text that is not understood leaves the default, and makes the
 * registry's health DEGRADED, which says why.
 *
 * At OFF a shutdown still ends what lives long: pools, caches, executors and all other objects of the library, and rows of
 * yours with that flag.  Of rows without it, and of tracked guards, it knows nothing, and so does its report.
 *
 * A registry argument of NULL is the process's.  All functions may be called from any thread; none blocks for longer
 * than a short lock.
 *
 *   P1  At SIMPLE a touch costs a look at the level, and no memory.
 *   P2  What cannot be kept for want of memory or room is counted (traces_lost) and left out; adding succeeds.
 */
#ifndef PNX_TRACE_H
#define PNX_TRACE_H

#include <patinox/base.h>
#include <patinox/registry.h>

PNX_BEGIN_DECLS

#define PNX_TRACE_FRAMES     16   /* return addresses kept of a backtrace */
#define PNX_TRACE_STACKS     1024 /* different backtraces kept by a registry */
#define PNX_TOUCHES          4    /* last touches kept of a row */
#define PNX_TRACE_SAMPLE_MAX 1000000

/* Changes the level; PNX_LEVEL_DEFAULT is PNX_LEVEL_SIMPLE.  0, or -EINVAL for one that there is not. */
PNX_API int pnx_registry_set_level(struct pnx_registry *registry, enum pnx_registry_level level);

/* Returns the level; PNX_LEVEL_OFF for pnx_registry_off(). */
PNX_API enum pnx_registry_level pnx_registry_current_level(const struct pnx_registry *registry);

/*
 * Notes that the resource was used, by this thread, here and now.  note is static text, or NULL.  0, also below
 * PNX_LEVEL_ADVANCED, where nothing is noted, and for the id 0; -ESTALE at ADVANCED and above for an id that is not
 * there; -ENOMEM, and then nothing is noted.
 */
PNX_API int pnx_registry_touch_at(
        struct pnx_registry *registry, pnx_resource_id id, const char *note, const char *site);
#define pnx_registry_touch(registry, id, note) \
    pnx_registry_touch_at((registry), (id), (note), PNX_SITE)

struct pnx_touch {
    const char *note; /* may be NULL */
    const char *site;
    pnx_ns age;      /* how long ago */
    uint64_t thread; /* 1, 2, 3 ... in the order in which threads came to the library; 0: unknown */
};

/* What is remembered of one row. */
struct pnx_resource_trace {
    size_t size;       /* sizeof(struct pnx_resource_trace) */
    uint32_t n_frames; /* 0: no backtrace was kept */
    uint32_t n_touches;
    uint64_t touched;               /* how often, those included that are not kept */
    void *frames[PNX_TRACE_FRAMES]; /* where it was added: return addresses, innermost first */
    struct pnx_touch touches[PNX_TOUCHES]; /* the last ones, latest first */
};

/* Fills *ret_trace up to its size, which the caller sets.  -EINVAL, -ESTALE. */
PNX_API PNX_NODISCARD int pnx_registry_trace(
        struct pnx_registry *registry, pnx_resource_id id, struct pnx_resource_trace *ret_trace);

PNX_END_DECLS
#endif /* PNX_TRACE_H */
