/* SPDX-License-Identifier: Apache-2.0 */
/*
 * patinox/config.h - settings from a file: parsed by you, reloaded when the file changes, the last good ones kept.
 *
 * EXPERIMENTAL: may change until the release that finishes this part.
 *
 * A config is a snapshot that is fed from a file.  The file is watched by inotify through every directory and
 * symbolic link on its path, so that an edit in place, a rename over it, a swapped link (as orchestrators do),
 * and a directory that goes and comes back are all seen.  Who notices is up to you: a thread of the config's
 * own (PNX_CONFIG_THREAD), or your event loop (pnx_config_fd(), pnx_config_tick()).
 *
 *   P1  pnx_config_load() always gives a value that parse and validate accepted; a bad, missing, too large or
 *       unreadable file changes nothing but the status, one event and one line of log per cause.
 *   P2  After a change has settled for debounce_ns, it is loaded once, however many writes made it; a file
 *       that never settles is looked at after 10 times debounce_ns.
 *   P3  parse, validate and on_change run one at a time, under no lock, and never after pnx_config_release()
 *       has returned (save when released from inside one).  on_change sees versions in order.
 *   P4  What inotify cannot watch is polled instead, and pnx_config_read_status() says so and why.
 *   P5  A file that changes while it is read is not parsed but read again.
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

/*
 * Makes a value of a file's text: n bytes, and a NUL behind them.  Returns 0 and a new rc object in *ret_value,
 * whose reference passes to the config, or a negative error, with details in err (never NULL), best by
 * "return pnx_config_fail(err, PNX_E_FORMAT, "line %d: ...", ...)"; the path is put before the message.
 */
typedef int pnx_config_parse_fn(
        void *ctx, const char *text, size_t n, struct pnx_error *err, void **ret_value);

/* Decides about a parsed value; current is NULL for the first one.  Returns 0 or a negative error. */
typedef int pnx_config_validate_fn(
        void *ctx, const void *next, const void *current, struct pnx_error *err);

/* Hears of a new value, right after it was published; not of the first one.  value is borrowed. */
typedef void pnx_config_change_fn(void *ctx, const void *value, uint64_t version);

enum pnx_config_flags {
    PNX_CONFIG_THREAD = 1, /* a thread of the config's own watches the file */
    PNX_CONFIG_POLL =
            2, /* never inotify, only poll: for network file systems, which it does not see */
    PNX_CONFIG_NO_WATCH = 4, /* only pnx_config_reload() reads the file again */
};

struct pnx_config_opts {
    size_t size;                      /* set by PNX_CONFIG_OPTS */
    const char *name;                 /* copied; default "config" */
    const char *site;                 /* set by PNX_CONFIG_OPTS */
    const char *path;                 /* required; copied; made absolute at creation */
    const struct pnx_env *env;        /* default: the system's */
    struct pnx_registry *registry;    /* default: the process's; pnx_registry_off() */
    struct pnx_stats *stats;          /* default: the process's; pnx_stats_off() */
    pnx_config_parse_fn *parse;       /* required */
    pnx_config_validate_fn *validate; /* default: what parses is fine */
    pnx_config_change_fn *on_change;  /* default: nobody is told */
    void *ctx;                        /* first argument of the three */
    pnx_ns debounce_ns; /* how long a change must rest before it is loaded; default 100 ms */
    pnx_ns poll_ns;     /* how often to look where inotify cannot; default 2 s */
    size_t max_bytes;   /* a larger file is refused; default 1 MiB */
    uint32_t flags;     /* PNX_CONFIG_*; unknown bits are an error */
    uint32_t reserved;  /* must be 0 */
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
 * Reads and parses the file, then starts to watch it.  Fails with the precise reason in err, whose phase is
 * "options", "open", "read", "parse" or "validate": -EINVAL, -E2BIG, -ENOENT, -EACCES, -EISDIR, -EFBIG (over
 * max_bytes), -EIO, -ENOMEM, parse's or validate's error; -EAGAIN when no thread can be started; -ESHUTDOWN or
 * -EBUSY from the registry.  No inotify is not a failure (P4).  Blocks on the disk.
 */
PNX_API PNX_NODISCARD int pnx_config_create(
        const struct pnx_config_opts *opts, struct pnx_error *err, struct pnx_config **ret_config);

/*
 * Ends the watching, waits for callbacks that run on other threads, and lets the value go; values that were
 * loaded live on.  NULL-safe, clears.  May be called from inside a callback; then it does not wait.
 */
PNX_API void pnx_config_release(struct pnx_config **config);

/* Returns the current value with a reference for the caller (pnx_rc_unref() it), never NULL; see
 * pnx_snapshot_load(). */
PNX_API PNX_NODISCARD const void *pnx_config_load(struct pnx_config *config, uint64_t *ret_version);

/* Returns the current version: 1 after creation, one more with each change. */
PNX_API uint64_t pnx_config_version(const struct pnx_config *config);

/* Waits until the version is newer than seen; see pnx_snapshot_wait().  -ETIMEDOUT, -ESHUTDOWN, -EINVAL. */
PNX_API PNX_NODISCARD int pnx_config_wait(struct pnx_config *config, uint64_t seen, pnx_ns timeout);

/*
 * Reads the file now and publishes what it says, changed or not: for SIGHUP, and for what parse takes from
 * elsewhere.  Waits for a reload that is under way, at most 10 s.  Errors as pnx_config_create()'s, the last
 * good value stays; -EDEADLK from inside parse, validate or on_change; -ETIMEDOUT; -EAGAIN when the file changed
 * while it was read; -ESHUTDOWN once closed.
 */
PNX_API int pnx_config_reload(struct pnx_config *config, struct pnx_error *err);

/*
 * Returns a descriptor that becomes readable when pnx_config_tick() should be called; it stays the config's.
 * -ENOTSUP when there is none (polling, not watching, or its own thread does it): then only the time that tick
 * returns counts.
 */
PNX_API int pnx_config_fd(const struct pnx_config *config);

/*
 * Looks for changes and loads them when they are due; returns the absolute time at which it wants to be called
 * again at the latest, PNX_NEVER for only when the descriptor is readable.  now is from the env's clock.  Does
 * not wait; reads the file when a change is due.  Does nothing when a thread of the config's own does it.
 */
PNX_API pnx_ns pnx_config_tick(struct pnx_config *config, pnx_ns now);

/* How changes are noticed. */
enum pnx_config_watch {
    PNX_CONFIG_WATCH_NONE = 0,    /* PNX_CONFIG_NO_WATCH, or closed */
    PNX_CONFIG_WATCH_INOTIFY = 1, /* told by the kernel */
    PNX_CONFIG_WATCH_POLL = 2, /* looked at every poll_ns, because watch_error, or as flags asked */
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

/* Fills err, if it is not NULL, and returns code: for parse and validate functions. */
PNX_API int pnx_config_fail(struct pnx_error *err, int code, const char *format, ...)
        PNX_PRINTF(3, 4);

PNX_END_DECLS
#endif /* PNX_CONFIG_H */
