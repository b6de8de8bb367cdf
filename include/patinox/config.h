/* SPDX-License-Identifier: Apache-2.0 */
/*
 * patinox/config.h - settings from a file, or anywhere: parsed by you, reloaded when they change, the last good
 * ones kept, a fraction first if you like, and back to older ones by one call.
 *
 * A config is a snapshot that is fed from a file.  The file is watched by inotify through every directory and
 * symbolic link on its path, so that an edit in place, a rename over it, a swapped link (as orchestrators do),
 * and a directory that goes and comes back are all seen.  Who notices is up to you: a thread of the config's
 * own (PNX_CONFIG_THREAD), or your event loop (pnx_config_fd(), pnx_config_tick()).
 *
 * What becomes of a text; whatever fails on the way refuses it as a whole:
 *
 *   file or source -> parse -> schema_of, migrate step by step -> build -> override -> validate -> accepted
 *
 *   accepted --no stages--------------------------------------------------------> PUBLISHED to all
 *      +-------stages--> ROLLING OUT to a fraction of the keys --held, healthy--> larger fraction ... --^
 *                           +-- abort, check says no, newer text, rollback --> ABORTED: the text is held back
 *
 *   P1  pnx_config_load() always gives a value that parse and validate accepted; a bad, missing, too large or
 *       unreadable file changes nothing but the status, one event and one line of log per cause.
 *   P2  After a change has settled for debounce_ns, it is loaded once, however many writes made it; a file
 *       that never settles is looked at after 10 times debounce_ns.
 *   P3  Your functions run one at a time, under no lock, and never after pnx_config_release() has returned (save
 *       when released from inside one, or inside a section of reclaim).  on_change sees versions in order.  From inside
 *       any of them each call here is allowed or gives -EDEADLK.
 *   P4  What inotify cannot watch is polled instead, and pnx_config_read_status() says so and why.
 *   P5  A file that changes while it is read is not parsed but read again.
 *   P6  A text of an older schema goes through each step once, in order; a text of a newer schema, or of one
 *       older than the first step, is refused with both numbers in the message.
 *   P7  What the environment sets stands over the text in each value that is loaded; one bad variable refuses
 *       the load and is named.  Nothing reads the environment unless env_prefix or variables is set.
 *   P8  During a rollout a key has the candidate or the published value by its hash and the fraction alone: the
 *       same at each call, and in each process that rolls out the same text; a key that has the candidate keeps it in
 *       later stages.  After an abort nobody is given the candidate; before a promotion pnx_config_load() never
 *       gives it.
 *   P9  A text that was aborted or rolled back is held: neither watching nor pnx_config_reload() takes it, until
 *       another text was accepted or pnx_config_resume() was called.
 *   P10 Each version that is published, and each text that is refused, is one event.
 */
#ifndef PNX_CONFIG_H
#define PNX_CONFIG_H

#include <patinox/base.h>
#include <patinox/error.h>
#include <patinox/rc.h>
#include <patinox/registry.h>
#include <patinox/stats.h>

PNX_BEGIN_DECLS

struct pnx_config; /* safe to use from any thread */
struct pnx_watch;
struct pnx_watch_opts;

/*
 * Makes a value of a file's text: n bytes, and a NUL behind them.  Returns 0 and a new rc object in *ret_value,
 * whose reference passes to the config, or a negative error, with details in err (never NULL), best by
 * "return pnx_config_fail(err, PNX_E_FORMAT, "line %d: ...", ...)"; the path is put before the message.
 */
typedef int pnx_config_parse_fn(
        void *ctx, const char *text, size_t n, struct pnx_error *err, void **ret_value);

/* Says which schema a document that parse made has: 1, 2, ...  Returns 0 or a negative error. */
typedef int pnx_config_schema_fn(
        void *ctx, const void *document, struct pnx_error *err, uint32_t *ret_schema);

/*
 * Makes a document of one schema into one of the next: returns 0 and a new rc object in *ret_document, whose
 * reference passes to the config, or a negative error.  document is borrowed and may be of another type.
 */
typedef int pnx_config_migrate_fn(
        void *ctx, const void *document, struct pnx_error *err, void **ret_document);

/* One step of the way from old texts to the current schema. */
struct pnx_config_step {
    uint32_t from; /* the schema that it starts from; it leads to from + 1 */
    uint32_t reserved;
    pnx_config_migrate_fn *migrate;
};

/* Makes the value of a document of the current schema, as a step does. */
typedef int pnx_config_build_fn(
        void *ctx, const void *document, struct pnx_error *err, void **ret_value);

/*
 * Sets one setting of a value that nobody else sees yet, from the text of a variable of the environment.  Returns
 * 0, -ENOENT when there is no such setting (the variable is then ignored, and told), or another negative error.
 */
typedef int pnx_config_override_fn(
        void *ctx, void *value, const char *setting, const char *text, struct pnx_error *err);

/* A variable of the environment and the setting that it stands for. */
struct pnx_config_variable {
    const char *variable;
    const char *setting;
};

/* Decides about a parsed value; current is NULL for the first one.  Returns 0 or a negative error. */
typedef int pnx_config_validate_fn(
        void *ctx, const void *next, const void *current, struct pnx_error *err);

/* Hears of a new value, right after it was published; not of the first one.  value is borrowed. */
typedef void pnx_config_change_fn(void *ctx, const void *value, uint64_t version);

/* What a source fills; lives for the call. */
struct pnx_config_fetch;

#define PNX_CONFIG_UNCHANGED 1 /* a source's: the text with that tag is still current */
#define PNX_CONFIG_TAG_MAX   64

/*
 * Fetches the text from elsewhere than a file: adds it by pnx_config_fetch_add(), in one piece or many, and may
 * leave a tag (an ETag, a revision).  Returns 0, a negative error, or PNX_CONFIG_UNCHANGED if the tag that
 * pnx_config_fetch_tag() gives is still the current one.  May block, within limits of its own: others wait for it
 * at most as long as pnx_config_reload() says.
 */
typedef int pnx_config_source_fn(void *ctx, struct pnx_config_fetch *fetch, struct pnx_error *err);

/* Returns the tag of the text that was fetched last, "" when the text is wanted in any case: for "If-None-Match" and the like. */
PNX_API const char *pnx_config_fetch_tag(const struct pnx_config_fetch *fetch);

/* Leaves the tag of the text that is being fetched; cut at PNX_CONFIG_TAG_MAX - 1 bytes.  NULL is "". */
PNX_API void pnx_config_fetch_set_tag(struct pnx_config_fetch *fetch, const char *tag);

/*
 * Adds n bytes to the text.  -EFBIG over max_bytes, -ENOMEM; then the fetch fails so, whatever the source
 * returns.  -EINVAL.
 */
PNX_API PNX_NODISCARD int pnx_config_fetch_add(
        struct pnx_config_fetch *fetch, const char *text, size_t n);

/* A stage of a rollout. */
struct pnx_config_stage {
    uint32_t ppm; /* of the keys that get the candidate: 1 to 1000000, more than the stage before */
    uint32_t reserved;
    pnx_ns hold_ns; /* how long it lasts; PNX_NEVER: until pnx_config_advance() or promote */
};
#define PNX_CONFIG_STAGES_MAX 16

/*
 * Says whether a rollout goes well: 0, -EAGAIN for "cannot say yet" (the stage then lasts longer), or a negative
 * error, which aborts it.
 */
typedef int pnx_config_check_fn(
        void *ctx, const void *candidate, uint32_t ppm, struct pnx_error *err);

enum pnx_config_flags {
    PNX_CONFIG_THREAD = 1, /* a thread of the config's own watches, and drives rollouts */
    PNX_CONFIG_POLL =
            2, /* never inotify, only poll: for network file systems, which it does not see */
    PNX_CONFIG_NO_WATCH = 4,    /* only pnx_config_reload() reads again */
    PNX_CONFIG_STRICT = 8,      /* a variable that names no setting refuses the load */
    PNX_CONFIG_NO_HISTORY = 16, /* no older value is kept, and there is no rollback */
};

#define PNX_CONFIG_HISTORY_MAX   64
#define PNX_CONFIG_OVERRIDES_MAX 64 /* variables that count, ignored ones included */

struct pnx_config_opts {
    size_t size;               /* set by PNX_CONFIG_OPTS */
    const char *name;          /* copied; default "config" */
    const char *site;          /* set by PNX_CONFIG_OPTS */
    const char *path;          /* this or source is required; copied; made absolute at creation */
    const struct pnx_env *env; /* default: the system's */
    struct pnx_registry *registry; /* default: the process's; pnx_registry_off(); gets two rows, the
                                    * config's and, its parent, the one of the cell with the values */
    struct pnx_stats *stats;       /* default: the process's; pnx_stats_off() */
    pnx_config_source_fn
            *source;            /* instead of path: where the text comes from; default: the file */
    pnx_config_parse_fn *parse; /* required */
    pnx_config_schema_fn *schema_of; /* needed with schema; default: texts have no schema */
    const struct pnx_config_step
            *steps; /* contiguous, up to schema; must outlive the config; default: none */
    pnx_config_build_fn *build; /* default: the document is the value */
    const char *env_prefix; /* of variables that override; copied; default: none are looked at */
    const struct pnx_config_variable
            *variables;               /* that override; must outlive the config; default: none */
    pnx_config_override_fn *override; /* needed with env_prefix or variables; default: none */
    pnx_config_validate_fn *validate; /* default: what parses is fine */
    pnx_config_change_fn *on_change;  /* default: nobody is told */
    const struct pnx_config_stage *stages; /* of rollouts; copied; default: all at once */
    pnx_config_check_fn *check;            /* of rollouts; default: what has been held is fine */
    void *ctx;                             /* first argument of all of them */
    pnx_ns debounce_ns; /* how long a change must rest before it is loaded; default 100 ms */
    pnx_ns poll_ns;     /* how often to look where inotify cannot, and at a source; default 2 s */
    pnx_ns check_ns;    /* how often check is asked during a rollout; default 1 s */
    size_t max_bytes;   /* a larger text is refused; default 1 MiB */
    uint32_t flags;     /* PNX_CONFIG_*; unknown bits are an error */
    uint32_t schema;    /* the current one, 1, 2, ...; default: texts have no schema */
    uint32_t steps_count;
    uint32_t variables_count;
    uint32_t stages_count;
    uint32_t history; /* older values that are kept for rollback; default 4 */
};
#ifndef __cplusplus
#define PNX_CONFIG_OPTS(...) \
    (&(const struct pnx_config_opts){ \
            .size = sizeof(struct pnx_config_opts), .site = PNX_SITE, __VA_ARGS__})
#else
static inline struct pnx_config_opts pnx_config_opts_init(void) {
    struct pnx_config_opts opts = pnx_config_opts();
    opts.size = sizeof(opts);
    return opts;
}
#endif

/*
 * Reads and parses the text, then starts to watch.  The first value is published to all, without a rollout.  Fails
 * with the precise reason in err, whose phase is "options", "open", "read", "source", "parse", "schema", "migrate",
 * "build", "override" or "validate": -EINVAL, -E2BIG, -ENOENT, -EACCES, -EISDIR, -EFBIG (over max_bytes), -EIO,
 * -ENOMEM; -ENOTSUP for a schema that is too new or too old; -EOVERFLOW for more than PNX_CONFIG_OVERRIDES_MAX
 * variables; the error of the function of yours that refused; -EAGAIN when no thread can be started, or the file
 * never stands still while it is read; -ESHUTDOWN or -EBUSY from the registry.  No inotify is not a failure (P4).
 * Blocks on the disk, or on source.
 */
PNX_API PNX_NODISCARD int pnx_config_create(
        const struct pnx_config_opts *opts, struct pnx_error *err, struct pnx_config **ret_config);

/*
 * Ends the watching, waits for callbacks that run on other threads, and lets the value go; values that were
 * loaded live on.  NULL-safe, clears.  May be called from inside a callback, or a section of reclaim; then it does not
 * wait.
 */
PNX_API void pnx_config_release(struct pnx_config **config);

/* Returns the current value with a reference for the caller (pnx_rc_unref() it), never NULL; see
 * pnx_snapshot_load(). */
PNX_API PNX_NODISCARD const void *pnx_config_load(struct pnx_config *config, uint64_t *ret_version);

/*
 * Returns the value for one key with a reference for the caller, never NULL: the candidate of the rollout under way
 * if the key falls into its fraction, else the published one (P8).  *ret_version, when given, is the version that
 * is published then; *ret_rollout, when given, the number of the rollout whose candidate this is, 0 for the
 * published value.  Costs a load more while a rollout is under way.  Any thread, inside your functions too.
 */
PNX_API PNX_NODISCARD const void *pnx_config_load_for(
        struct pnx_config *config, uint64_t key_hash, uint64_t *ret_version, uint64_t *ret_rollout);

/* Returns a hash of a key for pnx_config_load_for() that is the same in each process and on each machine. */
PNX_API uint64_t pnx_config_key(const void *key, size_t n);

/* Returns the current version: 1 after creation, one more with each value that is published. */
PNX_API uint64_t pnx_config_version(const struct pnx_config *config);

/* Waits until the version is newer than seen; see pnx_snapshot_wait().  -ETIMEDOUT, -ESHUTDOWN, -EINVAL. */
PNX_API PNX_NODISCARD int pnx_config_wait(struct pnx_config *config, uint64_t seen, pnx_ns timeout);

/*
 * Opens a watch (patinox/watch.h) on the published values: a callback, a wait or a descriptor for whoever else wants to
 * hear of them, as many as wanted.  Its callback runs on the thread that has published, and not in step with on_change; what
 * that one may call it may call, too.  Errors as pnx_watch_open()'s; -EINVAL for NULL.
 */
PNX_API PNX_NODISCARD int pnx_config_watch_open(struct pnx_config *config,
        const struct pnx_watch_opts *opts, struct pnx_error *err, struct pnx_watch **ret_watch);

/* ---- loading ---- */

/*
 * Reads the text now and publishes what it says, changed or not: for SIGHUP, and for what parse takes from
 * elsewhere.  With stages it begins a rollout instead, in place of one that is under way.  Waits for a reload that is
 * under way, at most 10 s.  Errors as pnx_config_create()'s, the last good value stays; -ECANCELED when the text is
 * held (P9); -EDEADLK from inside a function of yours, and inside a section of reclaim when another reload is under way;
 * -ETIMEDOUT; -EAGAIN when the file changed while it was read; -ESHUTDOWN once closed.
 */
PNX_API int pnx_config_reload(struct pnx_config *config, struct pnx_error *err);

/*
 * Says that the text may have changed: for sources that know, and for files where inotify does not see it.  Wakes the
 * config's thread, or makes the descriptor of pnx_config_fd() readable if there are a source or stages; else the
 * next tick takes it.  Loaded after debounce_ns.  Any thread, inside your functions too; never blocks on them.
 */
PNX_API void pnx_config_notify(struct pnx_config *config);

/*
 * Returns a descriptor that becomes readable when pnx_config_tick() should be called; it stays the config's.
 * -ENOTSUP when there is none (polling, not watching, or its own thread does it): then only the time that tick
 * returns counts.  -EINVAL.  On Windows, where no file is watched, there is never one.
 */
PNX_API int pnx_config_fd(const struct pnx_config *config);

/*
 * Looks for changes and loads them when they are due, and drives a rollout; returns the absolute time at which it
 * wants to be called again at the latest, PNX_NEVER for only when the descriptor is readable.  now is from the
 * env's clock.  Does not wait; reads the file, or calls source, when it is due.  Does nothing when a thread of the
 * config's own does it.
 */
PNX_API pnx_ns pnx_config_tick(struct pnx_config *config, pnx_ns now);

/* ---- rollouts ---- */

/*
 * Publishes the candidate of a rollout to all, now.  rollout is its number, 0 for whichever is under way.  Does not
 * ask check.  -ENOENT when no such rollout is under way; else as pnx_config_reload().
 */
PNX_API int pnx_config_promote(struct pnx_config *config, uint64_t rollout, struct pnx_error *err);

/* Goes on to the next stage now, after the last one to all.  Otherwise as pnx_config_promote(). */
PNX_API int pnx_config_advance(struct pnx_config *config, uint64_t rollout, struct pnx_error *err);

/*
 * Ends a rollout at once: when this returns 0, pnx_config_load_for() gives the candidate to nobody any more, and its
 * text is held (P9).  Never waits, and is allowed inside your functions and under locks of yours: what is left to
 * tell is told by whoever loads just then.  -ENOENT when no such rollout is under way, -EINVAL.
 */
PNX_API int pnx_config_abort(struct pnx_config *config, uint64_t rollout, struct pnx_error *err);

/* ---- history ---- */

/* Where a version came from. */
enum pnx_config_origin {
    PNX_CONFIG_FROM_FILE = 1,
    PNX_CONFIG_FROM_SOURCE = 2,
    PNX_CONFIG_FROM_ROLLBACK = 3,
};

/* A version that is kept. */
struct pnx_config_entry {
    uint64_t version;
    uint64_t value_of; /* the version that brought this value first; differs after a rollback */
    enum pnx_config_origin origin;
    uint32_t schema;    /* of the text, before steps; 0: texts have none */
    uint32_t overrides; /* variables that stand over it */
    uint32_t reserved;
    uint64_t rollout; /* that it came through; 0: none */
    uint64_t text_bytes;
    uint64_t text_hash;           /* of the text; the same in each process */
    pnx_ns changed_at;            /* when it was published; monotonic */
    int64_t changed_real_ns;      /* the same, since 1970-01-01 UTC */
    char tag[PNX_CONFIG_TAG_MAX]; /* the source's */
};

/*
 * Copies the versions that are kept, the current one first, at most cap; *ret_count, unless NULL, is how many there
 * are.  Any thread, inside your functions too.  -EINVAL.
 */
PNX_API PNX_NODISCARD int pnx_config_history(const struct pnx_config *config,
        struct pnx_config_entry *entries, size_t cap, size_t *ret_count);

/* Returns the value of a version that is kept, with a reference for the caller.  -ENOENT, -EINVAL. */
PNX_API PNX_NODISCARD int pnx_config_load_version(
        struct pnx_config *config, uint64_t version, const void **ret_value);

/*
 * Publishes the value of an older version as a new one, to all at once, after validate has seen it again; ends a
 * rollout; and holds the text that was accepted last (P9).  0 is the version that was in force before the current
 * value, so that repeated calls go further back.  A change of the file that is not loaded yet counts as one after the
 * rollback.  -ENOENT when the version is not kept, or is the current value; else as pnx_config_reload().
 */
PNX_API int pnx_config_rollback(struct pnx_config *config, uint64_t version, struct pnx_error *err);

/* Forgets which text is held (P9), and loads as pnx_config_reload() does. */
PNX_API int pnx_config_resume(struct pnx_config *config, struct pnx_error *err);

/* ---- overrides ---- */

/* A variable of the environment that was met when the current value was loaded.  Its text is not kept: it may be a secret. */
struct pnx_config_override {
    char variable[96]; /* cut if longer */
    char setting[64];  /* cut if longer */
    int32_t code;      /* 0: in force; -ENOENT: it names no setting */
    uint32_t reserved;
};

/*
 * Copies which variables stand over the current value, at most cap, sorted by name; *ret_count, unless NULL, is how
 * many there are.  Any thread, inside your functions too.  -EINVAL.
 */
PNX_API PNX_NODISCARD int pnx_config_overrides(const struct pnx_config *config,
        struct pnx_config_override *entries, size_t cap, size_t *ret_count);

/* ---- what is going on ---- */

/* How changes are noticed. */
enum pnx_config_watch {
    PNX_CONFIG_WATCH_NONE = 0,    /* PNX_CONFIG_NO_WATCH, or closed */
    PNX_CONFIG_WATCH_INOTIFY = 1, /* told by the kernel */
    PNX_CONFIG_WATCH_POLL =
            2, /* looked at every poll_ns: a source, or because watch_error, or as flags asked */
};

/* Whether a text is held (P9), and why. */
enum pnx_config_hold {
    PNX_CONFIG_HOLD_NONE = 0,
    PNX_CONFIG_HOLD_ROLLBACK = 1,
    PNX_CONFIG_HOLD_ABORT = 2,
};

struct pnx_config_status {
    size_t size; /* sizeof(struct pnx_config_status), set by the caller */
    uint64_t version;
    enum pnx_config_watch watch;
    int32_t watch_error; /* why inotify does not do it all: -EMFILE, -ENOSPC, -EACCES ...; else 0 */
    pnx_ns changed_at;   /* when the current value was published; monotonic */
    int64_t changed_real_ns; /* the same, since 1970-01-01 UTC */
    pnx_ns failed_at;        /* when the last attempt failed, if it did; else 0 */
    int64_t failed_real_ns;  /* the same, since 1970-01-01 UTC */
    struct pnx_error error;  /* of the last attempt; code 0 when it succeeded */
    uint32_t schema;         /* of the current value's text, before steps; 0: texts have none */
    uint32_t overrides; /* variables in force over the current value; see pnx_config_overrides() */
    uint32_t ignored;   /* variables that name no setting */
    enum pnx_config_hold hold;
    uint64_t rollout;   /* number of the one under way; 0: none.  What follows is about it */
    uint32_t stage;     /* 0, 1, ... */
    uint32_t ppm;       /* of the keys that get its candidate */
    pnx_ns stage_at;    /* when the stage began */
    pnx_ns stage_until; /* when it has been held long enough; PNX_NEVER: not by itself */
    uint64_t aborted;   /* number of the last rollout that was aborted; 0: none */
    struct pnx_error aborted_error; /* why it was */
};

/* Fills *ret_status up to its size, which the caller sets.  -EINVAL. */
PNX_API int pnx_config_read_status(
        const struct pnx_config *config, struct pnx_config_status *ret_status);

/* The rows of patinox/stats/config.def. */
struct pnx_config_stats {
    size_t size;
#define PNX_STAT(name, kind, unit, level, help) uint64_t name;
#include <patinox/stats/config.def>
#undef PNX_STAT
};

/* Fills *ret_stats up to its size, which the caller sets.  -EINVAL. */
PNX_API int pnx_config_read_stats(
        const struct pnx_config *config, struct pnx_config_stats *ret_stats);

/* Fills err, if it is not NULL, and returns code: for parse, validate and the other functions of yours. */
PNX_API int pnx_config_fail(struct pnx_error *err, int code, const char *format, ...)
        PNX_PRINTF(3, 4);

PNX_END_DECLS
#endif /* PNX_CONFIG_H */
