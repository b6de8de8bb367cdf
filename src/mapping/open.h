/* SPDX-License-Identifier: Apache-2.0 */
/* mapping/open.h - what a mapping is opened from: for open.c, and windows.c, which opens one after the other. */
#ifndef PNX_SRC_MAPPING_OPEN_H
#define PNX_SRC_MAPPING_OPEN_H

#include <patinox/mapping.h>

enum pnx_source_kind {
    PNX_SOURCE_PATH,
    PNX_SOURCE_FD,
    PNX_SOURCE_ANONYMOUS,
    PNX_SOURCE_MEMFD,
};

/* On the stack of an opening. */
struct pnx_source {
    enum pnx_source_kind kind;
    int fd;           /* FD */
    const char *path; /* PATH */
    const char *name; /* for messages, and where the options name none */
    struct pnx_mapping_opts opts;
    /* What was done to the file system, and is undone if the opening fails. */
    bool created;
    bool fresh;      /* the file had no bytes */
    uint64_t end;    /* the file was made to reach here ... */
    uint64_t before; /* ... from here; equal: it was not */
};

/* Opens.  source->opts is filled from opts. */
int pnx__mapping_open(struct pnx_source *source, const struct pnx_mapping_opts *opts,
        struct pnx_error *err, struct pnx_mapping **ret_mapping);

#endif
