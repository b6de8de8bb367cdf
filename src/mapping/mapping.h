/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mapping/mapping.h - the inside of a mapping, shared by mapping.c (life, questions) and load.c (getting bytes).
 *
 *     opened --range empty----------> EMPTY
 *        |---small, asked, no size--> COPY
 *        +---map--ok----------------> MMAP
 *             +---refused, read-----> COPY
 *
 * The backing is chosen once, in load.c, before anybody else sees the mapping; nothing but counts changes later.
 */
#ifndef PNX_SRC_MAPPING_MAPPING_H
#define PNX_SRC_MAPPING_MAPPING_H

#include "base/atomic.h"
#include "base/env.h"
#include "mapping/fault_table.h"
#include "os/file.h"
#include "stats/stats.h"

#include <patinox/mapping.h>

#define PNX_GROUP     mapping
#define PNX_GROUP_DEF <patinox/stats/mapping.def>
#include "stats/declare_group.inc"

#define PNX_MAPPING_ALIGN \
    64 /* copies keep the alignment that the bytes have in the file, up to this */

/*
 * Owned by its references.  Fixed once opened: everything but refs, closed and values, which are atomic.
 *
 *     MMAP:   base .. base + base_size is mapped; data lies inside
 *     COPY:   base .. base + base_size is allocated, and charged; data lies inside
 *     EMPTY:  base is NULL, size is 0, data is some address
 */
struct pnx_mapping {
    struct pnx_fault_record fault; /* first: see fault_table.h */
    struct pnx_a64 refs;
    struct pnx_a32 closed; /* bool; set once */
    struct pnx_env env;
    char *name;
    struct pnx_registry *registry; /* holds a reference */
    pnx_resource_id row;
    struct pnx_budget *budget; /* holds a reference */
    struct pnx_stats_block block;
    struct pnx_mapping_values values;

    int fd;                    /* -1: a pipe, which has been read to its end */
    struct pnx_file_info info; /* as it was when opened */
    uint64_t offset;           /* in the file */
    enum pnx_mapping_backing backing;
    const unsigned char *data;
    size_t size;
    unsigned char *base;
    size_t base_size;
};

/* Gets the bytes.  On success the backing stands; *ret_refused is the error for which mmap was given up, or 0. */
int pnx__mapping_load(struct pnx_mapping *mapping, const struct pnx_mapping_opts *opts,
        struct pnx_error *err, int *ret_refused);

/* Gives back what load got; fine when it got nothing. */
void pnx__mapping_unload(struct pnx_mapping *mapping);

#endif
