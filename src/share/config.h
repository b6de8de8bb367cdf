/* SPDX-License-Identifier: Apache-2.0 */
/*
 * share/config.h - a config from the inside.
 *
 *   config_options.c  what its options must be
 *   config.c          making it, ending it           config_make.c     text -> value: parse, schema, build, ...
 *   config_run.c      latch, thread, tick, waking    config_env.c      what the environment sets
 *   config_use.c      what users ask for             config_accept.c   published or refused, and telling it
 *   config_reload.c   noticing changes               config_history.c  versions that are kept, rollback
 *   config_load.c     what becomes of a text         config_rollout.c  to a fraction first
 *   config_read.c     a file's text, at rest         config_source.c   a text from elsewhere
 *
 * Two things guard a config.  The latch busy is held by whoever looks, loads, rolls out or rolls back, and while the
 * user's functions run; it has an owner, so that re-entry is seen.  The mutex lock guards what is read anywhere, for
 * a few instructions at a time; nobody calls, allocates or frees under it.
 */
#ifndef PNX_SRC_SHARE_CONFIG_H
#define PNX_SRC_SHARE_CONFIG_H

#include "base/env.h"
#include "base/list.h"
#include "os/mutex.h"
#include "os/thread.h"
#include "registry/calls.h"
#include "share/config_env.h"
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

/* Tells texts apart, together with what the environment set when they were looked at. */
struct pnx_config_print {
    bool set;
    size_t bytes;
    uint64_t text; /* a hash under the config's seed */
    uint64_t vars; /* the same of the variables; 0: none */
};

/* A file as it was found at some moment. */
struct pnx_config_look {
    int32_t code; /* of the attempt to look; 0: info holds */
    struct pnx_file_info info;
};

/* What is known about the file or source, to tell a change from none. */
struct pnx_config_seen {
    struct pnx_config_look at;
    struct pnx_config_print print; /* of the last text that was looked at */
    bool good;                     /* that text was accepted, or is held */
    char tag[PNX_CONFIG_TAG_MAX];  /* a source's, of the same text */
};

/*
 * An accepted value and where it came from.  Owned by the history, by the rollout, or by whoever is making it; fixed
 * once it is in one of the first two, but for entry, which gets its version and time when it is published.
 */
struct pnx_config_record {
    struct pnx_config_entry entry;
    struct pnx_config_print print;      /* of the text that the value was made from */
    const void *value;                  /* a reference of ours */
    struct pnx_config_applied *applied; /* a reference; NULL: the environment set nothing */
};

/*
 * A rollout:
 *
 *   NONE --begin--> ROLLING --promote--> PROMOTING --published--> NONE
 *     ^               |  ^                   |
 *     |               |  +---publish failed--+
 *     +--told-- ENDING <-- detach: abort, check, superseded, reverted, rollback, close
 *
 *   NONE       candidate and number are nothing
 *   ROLLING    keys of the fraction get the candidate
 *   PROMOTING  the same; the candidate is being published, it is too late for an abort
 *   ENDING     nobody gets the candidate; whoever owns the latch has yet to tell and to free it
 *
 * move_locked() in config_rollout.c makes all transitions.  Guarded by the config's lock; only the latch's owner
 * leaves NONE, PROMOTING and ENDING, so that what it sees of the candidate stays while it works with it.
 */
enum pnx_config_rollout_state {
    PNX_CONFIG_ROLLOUT_NONE,
    PNX_CONFIG_ROLLOUT_ROLLING,
    PNX_CONFIG_ROLLOUT_PROMOTING,
    PNX_CONFIG_ROLLOUT_ENDING,
};

struct pnx_config_rollout {
    enum pnx_config_rollout_state state;
    struct pnx_config_record *candidate;
    uint64_t number;      /* of the one under way or ending */
    uint64_t last_number; /* that was given out */
    uint32_t stage;
    uint32_t ppm;
    pnx_ns stage_at;
    pnx_ns stage_until;
    /* of the ending: */
    struct pnx_error why;
    bool hold; /* its text is to be held */
    /* for the latch's owner alone: */
    pnx_ns act_at; /* when check is asked, or the stage may end */
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
    char *path;       /* absolute; NULL with a source */
    char *env_prefix; /* or NULL */
    char prefix[72];  /* of messages: the path, its beginning cut off when long, or the name */
    struct pnx_config_opts opts; /* its strings are the user's: not looked at */
    struct pnx_config_stage stages[PNX_CONFIG_STAGES_MAX];
    uint32_t generation; /* of fork */
    uint64_t seed;
    struct pnx_snapshot *values;
    struct pnx_stats_block block;

    /* Held while something is looked at, read, parsed and published; its owner alone touches this group. */
    struct pnx_latch busy;
    struct pnx_row_call call; /* its owner's */
    struct pnx_watcher watcher;
    struct pnx_config_seen seen;
    struct pnx_config_look met;       /* polling: when the change was met that is not loaded yet */
    struct pnx_config_print accepted; /* the last text that was published or rolled out */
    struct pnx_config_print held;     /* P9 */
    struct pnx_config_print refused;  /* the last text that was refused, to tell each once */
    bool dirty;                       /* something has changed that is not loaded yet */
    bool polls;                       /* inotify does not, or not wholly, do it */
    bool look_again;                  /* polling: the time stamps may hide one more change */
    int32_t watch_error;              /* what keeps inotify from doing it all, if something does */
    uint32_t restless;                /* times in a row that the file changed while it was read */
    uint64_t ignored; /* a hash of the variables that were told to name no setting */
    pnx_ns dirty_at;
    pnx_ns due_at;
    pnx_ns poll_at;
    pnx_ns retry_at; /* what failed may succeed then; PNX_NEVER: nothing did */

    struct pnx_link link; /* in the list of all configs, guarded by its lock */

    struct pnx_mutex lock; /* guards what follows */
    struct pnx_config_status status;
    struct pnx_config_values counts; /* read anywhere */
    struct pnx_config_rollout rollout;
    struct pnx_config_record **history; /* the newest, which is in force, first */
    uint32_t history_n;
    uint32_t history_room;
    bool closed;
    bool released; /* inside a callback or a section: whoever owns busy finishes the release after it */

    struct pnx_a32
            rolling; /* 1 while the rollout is ROLLING or PROMOTING; written under the lock */
    struct pnx_a32 notified;      /* 1 after pnx_config_notify(), until a tick takes it */
    struct pnx_os_thread *thread; /* made by the creator, given up by the release */
    struct pnx_a64 thread_id; /* of the thread's record; written by the thread, for its own eyes */
    struct pnx_a32
            phase; /* PNX_CONFIG_THREAD_*: the thread's orders; a futex word while it is parked */
    struct pnx_a32
            pokes; /* goes up with each wake(): a futex word for a thread without a descriptor */
    int wake_fd;   /* wakes the thread out of poll, or the loop; -1: none */
    int loop_fd;   /* readable when inotify's or wake_fd is; -1: there are not both */
    bool deaf;     /* in a loop that ought to be woken, but there was no descriptor for it */
};

static inline bool pnx__config_forked(const struct pnx_config *config) {
    return config->generation != pnx__fork_generation();
}

/* Whether somebody may have to be woken who waits for more than the file: then there is a wake_fd. */
static inline bool pnx__config_wakes(const struct pnx_config_opts *opts) {
    return opts->source || opts->stages_count || (opts->flags & PNX_CONFIG_THREAD);
}

/* ---- config_options.c, config.c, config_run.c ---- */

/* Fills in the defaults and checks what goes together. */
int pnx__config_options(const struct pnx_config_opts *user, struct pnx_error *err,
        struct pnx_config_opts *ret_opts);

/* One more holder, and one less; the last one frees. */
void pnx__config_take(struct pnx_config *config);
void pnx__config_drop(struct pnx_config *config);
bool pnx__config_closed(struct pnx_config *config);
void pnx__config_check(const struct pnx_config *config);

/* The rest of a release, with the latch free and no function of the user's above us on this thread. */
void pnx__config_finish_release(struct pnx_config *config);

/* Gets the latch for a call of the user's.  -EDEADLK, -ETIMEDOUT, -ENOMEM, -ESHUTDOWN with err filled. */
int pnx__config_enter(struct pnx_config *config, struct pnx_error *err);
/* Gives it back, after telling what others left to tell.  The caller holds a reference. */
void pnx__config_leave(struct pnx_config *config);
/* Does what an abort or a release has left over, unless the owner of the latch will. */
void pnx__config_settle_soon(struct pnx_config *config);
/* Makes the thread or the loop tick. */
void pnx__config_wake(struct pnx_config *config);

int pnx__config_start_thread(struct pnx_config *config, struct pnx_error *err);
void pnx__config_run_thread(struct pnx_config *config);  /* lets the parked thread go */
void pnx__config_stop_thread(struct pnx_config *config); /* it ends by itself */
bool pnx__config_on_own_thread(const struct pnx_config *config);

/* ---- config_reload.c, config_source.c: the owner of the latch only, as in all that follow ---- */

/* A change is to be loaded once it has settled. */
void pnx__config_note_change(struct pnx_config *config, pnx_ns now);
/* Brings the watches to where the path leads now, and says how changes are noticed. */
void pnx__config_refresh_watch(struct pnx_config *config, pnx_ns now);
/* Takes notifications, polls, loads what is due, drives the rollout.  Returns when to come back. */
pnx_ns pnx__config_tick_owned(struct pnx_config *config, pnx_ns now);
/* Fetches the text from the source.  1 when it says unchanged; fresh: it is not told what we have. */
int pnx__config_fetch(
        struct pnx_config *config, bool fresh, struct pnx_error *err, struct pnx_text *ret_text);

/* ---- config_load.c, config_make.c ---- */

/* Lets the first value in, up to validate. */
int pnx__config_first(
        struct pnx_config *config, struct pnx_error *err, struct pnx_config_record **ret_record);
/* Loads the text.  quiet: nothing happens when it is the one of last time, or the one in force. */
int pnx__config_load_owned(
        struct pnx_config *config, pnx_ns now, bool quiet, struct pnx_error *err);
/* Makes the value of a text, up to validate, and the record of it. */
int pnx__config_make(struct pnx_config *config, const struct pnx_text *text,
        const struct pnx_config_vars *vars, const void *current, struct pnx_error *err,
        struct pnx_config_record **ret_record);
/* Asks the user about a value. */
int pnx__config_validate(
        struct pnx_config *config, const void *value, const void *current, struct pnx_error *err);

/* ---- config_accept.c ---- */

/* Publishes a record, which passes to the history; tells everybody.  cause is for the event. */
int pnx__config_publish(struct pnx_config *config, pnx_ns now, const char *cause,
        struct pnx_config_record *record, struct pnx_error *err);
/* The same for the first one, of which nobody is told. */
void pnx__config_publish_first(
        struct pnx_config *config, pnx_ns now, struct pnx_config_record *record);
/* The last good value stays: says why, once per cause.  text: which one was refused, if one was read.  Returns the code. */
int pnx__config_refuse(struct pnx_config *config, pnx_ns now, const struct pnx_config_print *text,
        const struct pnx_error *why, struct pnx_error *err);
/* The text that is there was published or is rolled out: no error, and nothing is held. */
void pnx__config_admit(struct pnx_config *config);
/* The last attempt was fine; changed: so was its text, and new. */
void pnx__config_accept(struct pnx_config *config, bool changed);
/* Holds a text, or none. */
void pnx__config_hold(
        struct pnx_config *config, const struct pnx_config_print *text, enum pnx_config_hold why);
/* Forgets what is held, so that it is taken when it is looked at next. */
void pnx__config_unhold(struct pnx_config *config);
/* Adds 1 to a counter. */
void pnx__config_count(struct pnx_config *config, struct pnx_a64 *counter);
/* Brings the health to what the status says. */
void pnx__config_health(struct pnx_config *config);

/* Whether info is of the file, and of its state, that was found then. */
static inline bool pnx__config_same_file(
        const struct pnx_config_look *then, const struct pnx_file_info *info) {
    const struct pnx_file_info *old = &then->info;
    return then->code == 0 && info->device == old->device && info->inode == old->inode &&
           info->size == old->size && info->mtime_ns == old->mtime_ns &&
           info->ctime_ns == old->ctime_ns;
}

static inline bool pnx__config_same_print(
        const struct pnx_config_print *a, const struct pnx_config_print *b) {
    return a->set && b->set && a->bytes == b->bytes && a->text == b->text && a->vars == b->vars;
}

/* ---- config_history.c ---- */

struct pnx_config_record *pnx__config_record_new(
        const struct pnx_config *config, const void *value, struct pnx_config_applied *applied);
void pnx__config_record_free(const struct pnx_config *config, struct pnx_config_record *record);
/* Puts a record first; returns the one that has to go, or NULL. */
struct pnx_config_record *pnx__config_history_push_locked(
        struct pnx_config *config, struct pnx_config_record *record);
int pnx__config_rollback_owned(
        struct pnx_config *config, pnx_ns now, uint64_t version, struct pnx_error *err);

/* ---- config_rollout.c ---- */

/* Begins one with a record, which passes to it. */
int pnx__config_rollout_begin(struct pnx_config *config, pnx_ns now,
        struct pnx_config_record *record, struct pnx_error *err);
/* A record was published, and is the history's: if it was the candidate, that rollout is over. */
void pnx__config_rollout_published_locked(
        struct pnx_config *config, const struct pnx_config_record *record);
/* Ends the one under way, if there is one, and tells it.  hold: its text is held. */
void pnx__config_rollout_end(
        struct pnx_config *config, pnx_ns now, const struct pnx_error *why, bool hold);
/* Takes the candidate away from everybody, at once; the number must be right, 0 is any.  Without the latch. */
bool pnx__config_rollout_detach(
        struct pnx_config *config, uint64_t number, const struct pnx_error *why, bool hold);
/* Tells what was detached, and frees it. */
void pnx__config_rollout_settle(struct pnx_config *config, pnx_ns now);
/* Asks check, goes on when it is time.  Returns when to come back. */
pnx_ns pnx__config_rollout_tick(struct pnx_config *config, pnx_ns now);
/* Goes on to the next stage, or at once to all. */
int pnx__config_rollout_go(
        struct pnx_config *config, pnx_ns now, uint64_t number, bool to_all, struct pnx_error *err);
/* Returns the candidate with a reference if the key gets it, else NULL. */
const void *pnx__config_rollout_pick(
        struct pnx_config *config, uint64_t key_hash, uint64_t *ret_version, uint64_t *ret_rollout);
/* Whether the text is that of the rollout under way. */
bool pnx__config_rollout_has(struct pnx_config *config, const struct pnx_config_print *print);

#endif
