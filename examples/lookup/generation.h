/* SPDX-License-Identifier: Apache-2.0 */
/*
 * generation.h - one complete index on disk, and the choice among those that are there.
 *
 *   (nothing) --build--> gen-N.tmp --synced, renamed--> gen-N --newer one is built--> (removed)
 *                            |                            |
 *                            +--next start--> (removed)   +--found damaged--> gen-N.bad --newer .bad--> (removed)
 *
 * What is removed is renamed to gen-N.tmp first, so that no half of it is ever taken for a generation.
 *
 *   P1  A generation that opens has the sizes and checksums that its manifest says, and a database that answers.
 *   P2  Nothing but this module renames or removes anything in the data directory, and only with its lock held.
 */
#ifndef LOOKUP_GENERATION_H
#define LOOKUP_GENERATION_H

#include "builder.h"

#include <patinox/mapping.h>
#include <patinox/sqlite.h>

/* Sizes up to which all bytes are checked at a start; above, only sizes and the database's answers are. */
#define LOOKUP_VERIFY_MAX (UINT64_C(2) << 30)

/* Owned by its store.  Nothing in it changes. */
struct lookup_generation {
    uint64_t number;
    struct lookup_manifest manifest;
    struct pnx_mapping *texts;
    struct pnx_sqlite *source; /* for the pool */
    bool built;                /* by this start */
};

struct lookup_generation_opts {
    const char *data_dir;      /* absolute; its lock is held */
    struct lookup_build build; /* corpus, limits, progress, env; dir is filled in here */
    const struct pnx_env *env;
    struct pnx_registry *registry;
    struct pnx_stats *stats;
    struct pnx_budget *budget;
};

/*
 * Gives the generation that belongs to the corpus: the newest good one with its list, else a new one.  When a new
 * one cannot be built for want of space or memory, an older good one is used, and the log says so.
 * Errors of lookup_build(), and of the disk.
 */
PNX_NODISCARD int lookup_generation_get(const struct lookup_generation_opts *opts,
        struct pnx_error *err, struct lookup_generation **ret_generation);

/* Frees the memory; the pool over source must be closed.  NULL-safe; clears. */
void lookup_generation_release(struct lookup_generation **generation);

#endif
