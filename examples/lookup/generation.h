/* SPDX-License-Identifier: Apache-2.0 */
/*
 * generation.h - one complete index on disk, and the choice among those that are there.
 *
 *   (nothing) --build--> gen-N.tmp --synced, renamed--> gen-N --newer one is in force--> (removed)
 *                            |                            |
 *                            +--next start--> (removed)   +--found damaged--> gen-N.bad --newer .bad--> (removed)
 *
 * What is removed is renamed to gen-N.tmp first, so that no half of it is ever taken for a generation.
 *
 *   P1  A generation that opens has the sizes and checksums that its manifest says, and a database that answers.
 *   P2  Nothing but this module renames or removes anything in the data directory, and only with its lock held.
 *   P3  The generation that is in use keeps its name until lookup_generation_retire(), whatever is wrong with it:
 *       connections to its database can be made as long as it is in force.
 */
#ifndef LOOKUP_GENERATION_H
#define LOOKUP_GENERATION_H

#include "builder.h"

#include <patinox/mapping.h>
#include <patinox/sqlite.h>

#include <stdatomic.h>

/* Sizes up to which all bytes are checked at a start; above, only sizes and the database's answers are. */
#define LOOKUP_VERIFY_MAX (UINT64_C(2) << 30)

/* Reference-counted: the store has one of the generation in force, each connection one of its own.  Nothing in it changes. */
struct lookup_generation {
    atomic_uint refs;
    uint64_t number;
    uint64_t
            opening; /* set by the store: rises with each one that it puts in force, reopened ones too */
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
    uint64_t in_use;          /* N of the one that is served meanwhile; 0: none */
    struct pnx_error *damage; /* with in_use: filled with what is wrong with it, if something is */
};

/*
 * Gives the generation that belongs to the corpus: the newest good one with its list, else a new one.  When a new
 * one cannot be built for want of space or memory, an older good one is used, and the log says so.
 * Errors of lookup_build(), and of the disk.
 */
PNX_NODISCARD int lookup_generation_get(const struct lookup_generation_opts *opts,
        struct pnx_error *err, struct lookup_generation **ret_generation);

/* Gives opts->in_use up, once another one is in force: sets it aside if it was found damaged, else removes it. */
void lookup_generation_retire(const struct lookup_generation_opts *opts);

/* Takes another reference. */
struct lookup_generation *lookup_generation_ref(struct lookup_generation *generation);

/* Drops a reference; the last one closes the texts.  NULL-safe; clears. */
void lookup_generation_release(struct lookup_generation **generation);

/*
 * Copies n bytes from a view of a file of texts, inside a checked scope; n 0 only asks whether the file is as it was.
 * -ESTALE: it was cut, changed, or could not be read, and dst is worthless; err->cause says which.
 */
PNX_NODISCARD int lookup_texts_read(
        struct pnx_mapping *texts, const void *src, void *dst, size_t n, struct pnx_error *err);

/* Fills *err with what is said of texts that are lost, for a cause; returns -ESTALE. */
int lookup_texts_stale(int cause, struct pnx_error *err);

#endif
