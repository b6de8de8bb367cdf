/* SPDX-License-Identifier: Apache-2.0 */
/* share/config.h - a config from the inside; shared by config.c (life) and config_reload.c (looking, loading). */
#ifndef PNX_SRC_SHARE_CONFIG_H
#define PNX_SRC_SHARE_CONFIG_H

#include "base/env.h"
#include "os/mutex.h"
#include "os/thread.h"
#include "share/config_read.h"
#include "share/config_watch.h"
#include "share/latch.h"

#include <patinox/config.h>
#include <patinox/snapshot.h>

#define PNX_GROUP     config
#define PNX_GROUP_DEF <patinox/stats/config.def>
#include "stats/declare_group.inc"

#define PNX_CONFIG_MAGIC UINT32_C(0x636f6e66)

/* PARKED (until the creator has handed the config out) --> RUNNING --> STOPPED */
enum { PNX_CONFIG_THREAD_PARKED, PNX_CONFIG_THREAD_RUNNING, PNX_CONFIG_THREAD_STOPPED };

/* What is known about the file, to tell a change from none. */
struct pnx_config_seen {
    int32_t code; /* of the attempt to look; 0: info holds */
    struct pnx_file_info info;
    uint64_t hash; /* of the last text that was read */
    size_t bytes;  /* of the same */
    bool text;     /* hash and bytes hold */
    bool good;     /* that text was accepted */
};

/*
 * Owned by its references: the user's, its thread's, one of each call under way.  Fixed at creation but for the
 * groups that say otherwise.
 */
struct pnx_config {
    uint32_t magic;
    struct pnx_a32 references;
    struct pnx_env env;
    struct pnx_registry *registry; /* a reference of ours; NULL when off */
    pnx_resource_id id;
    char *name;
    char *path;      /* absolute */
    char prefix[72]; /* of messages: the path, its beginning cut off when long */
    pnx_config_parse_fn *parse;
    pnx_config_validate_fn *validate;
    pnx_config_change_fn *on_change;
    void *ctx;
    pnx_ns debounce_ns;
    pnx_ns poll_ns;
    size_t max_bytes;
    uint32_t flags;
    uint32_t generation; /* of fork */
    uint64_t seed;
    struct pnx_snapshot *values;
    struct pnx_stats_block block;

    /* Held while the file is looked at, read, parsed and published; its owner alone touches this group. */
    struct pnx_latch busy;
    struct pnx_watcher watcher;
    struct pnx_config_seen seen;
    bool dirty;          /* something has changed that is not loaded yet */
    bool polls;          /* inotify does not, or not wholly, do it */
    bool look_again;     /* polling: the time stamps may hide one more change */
    int32_t watch_error; /* what keeps inotify from doing it all, if something does */
    uint32_t restless;   /* times in a row that the file changed while it was read */
    pnx_ns dirty_at;
    pnx_ns due_at;
    pnx_ns poll_at;

    struct pnx_mutex lock; /* guards what follows */
    struct pnx_config_status status;
    struct pnx_config_values counts; /* read anywhere */
    bool closed;
    bool released; /* from inside a callback: whoever owns busy finishes the release after it */

    struct pnx_os_thread *thread; /* made by the creator, given up by the release */
    struct pnx_a64 thread_id; /* of the thread's record; written by the thread, for its own eyes */
    struct pnx_a32 phase;     /* PNX_CONFIG_THREAD_*: the thread's orders; a futex word */
    int stop_fd;              /* wakes the thread out of poll; -1: it waits on phase instead */
};

static inline bool pnx__config_forked(const struct pnx_config *config) {
    return config->generation != pnx__fork_generation();
}

/* Lets the first value in: reads, parses and validates.  Returns it with its reference in *ret_value. */
int pnx__config_first(struct pnx_config *config, struct pnx_error *err, void **ret_value);

/* Loads the file.  quiet: nothing happens when the text is the one of last time.  The caller owns busy. */
int pnx__config_load_owned(
        struct pnx_config *config, pnx_ns now, bool quiet, struct pnx_error *err);

/* Takes notifications, polls, loads what is due.  Returns when to come back.  The caller owns busy. */
pnx_ns pnx__config_tick_owned(struct pnx_config *config, pnx_ns now);

#endif
