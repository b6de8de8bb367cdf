/* SPDX-License-Identifier: Apache-2.0 */
/*
 * patinox/stats.h - live numbers of every pool, cache, map, budget and registry; events; health.
 *
 * EXPERIMENTAL: may change until the release that finishes this part.
 *
 * Each module declares its numbers once, in patinox/stats/<module>.def; that table makes the struct that
 * pnx_<module>_read_stats() fills, the OpenMetrics families, and the table in the guide.  An object's block
 * joins a set when the object is made and leaves it when it is released.  Today the blocks live on the
 * heap; reading costs the hot path nothing, writers never wait for readers.
 *
 *   P1  A counter that a reader sees never goes back while its object lives.
 *   P2  pnx_stats_openmetrics() writes text that a strict OpenMetrics 1.0 parser accepts, whatever names
 *       the objects have.
 *   P3  A monitor's callback runs with no lock of the library held, and never after
 *       pnx_monitor_remove() has returned, save when removed from inside itself.
 *   P4  pnx_health() runs no callback, waits for nobody's I/O, and allocates nothing.
 */
#ifndef PNX_STATS_H
#define PNX_STATS_H

#include <patinox/base.h>
#include <patinox/error.h>

PNX_BEGIN_DECLS

struct pnx_stats; /* a set of blocks; safe to use from any thread */

struct pnx_stats_opts {
    size_t size;               /* set by PNX_STATS_OPTS */
    const struct pnx_env *env; /* default: the system's */
};
#ifndef __cplusplus
#define PNX_STATS_OPTS(...) \
    (&(const struct pnx_stats_opts){.size = sizeof(struct pnx_stats_opts), __VA_ARGS__})
#else
static inline struct pnx_stats_opts pnx_stats_opts_init(void) {
    struct pnx_stats_opts opts = pnx_stats_opts();
    opts.size = sizeof(opts);
    return opts;
}
#endif

/*
 * Returns the process-wide set, where objects go whose options name none.  Never NULL.  Where a function
 * below takes a set, NULL means this one.
 */
PNX_API struct pnx_stats *pnx_stats_default(void);

/*
 * Returns the value that switches statistics and events off where an option asks for a set.  As an argument
 * of the functions below it is a set without components, to which no monitor can be added.
 */
PNX_API struct pnx_stats *pnx_stats_off(void);

/* Creates a set of its own; opts may be NULL.  -EINVAL (err names the field), -E2BIG, -ENOMEM. */
PNX_API PNX_NODISCARD int pnx_stats_create(
        const struct pnx_stats_opts *opts, struct pnx_error *err, struct pnx_stats **ret_stats);

/*
 * Releases a set and removes its monitors, waiting for them as pnx_monitor_remove() does.  Objects still in it
 * keep its memory alive.  The default set is never released.
 */
PNX_API void pnx_stats_release(struct pnx_stats **stats);

/* Receives a piece of text; n > 0.  A negative return ends the writing and is passed on. */
typedef int pnx_write_fn(void *ctx, const char *text, size_t n);

/* The Content-Type that belongs to pnx_stats_openmetrics(). */
#define PNX_OPENMETRICS_CONTENT_TYPE "application/openmetrics-text; version=1.0.0; charset=utf-8"

/*
 * Writes all numbers of the set as OpenMetrics text, "# EOF" included.  Each number is patinox_<kind>_<name>
 * with the labels <kind>="<the object's name>" and number="0", or 1, 2, ... where live objects of one kind have
 * one name.  Bytes of a name that are not UTF-8 appear as U+FFFD.
 * The numbers are copied at one moment, then written in pieces with no lock held; write may use the library.
 * Allocates memory for the copy from the set's env.  Any thread.
 * -EINVAL when write is NULL, -ENOMEM (nothing has been written then), or what write returned.
 */
PNX_API PNX_NODISCARD int pnx_stats_openmetrics(
        struct pnx_stats *stats, pnx_write_fn *write, void *ctx);

/* ---- health ---- */

enum pnx_health_status {
    PNX_HEALTH_OK = 0,
    PNX_HEALTH_DEGRADED = 1, /* serves, but something wants attention */
    PNX_HEALTH_DOWN = 2,     /* cannot serve */
};

struct pnx_health_entry {
    char kind[16]; /* "pool", "cache", ...; cut if longer */
    char name[64]; /* the object's name; cut if longer */
    enum pnx_health_status status;
    const char *reason; /* static text; "" when OK */
};

/*
 * Copies the state of up to cap components into entries and returns the worst status among all of the
 * set (enum pnx_health_status); *ret_count, unless NULL, is how many components there are.  Each keeps its own
 * state word up to date, so this never waits for one.  -EINVAL when entries is NULL and cap is not 0.
 */
PNX_API PNX_NODISCARD int pnx_health(
        struct pnx_stats *stats, struct pnx_health_entry *entries, size_t cap, size_t *ret_count);

/* ---- events ---- */

/* What can happen: the rows of patinox/stats/events.def. */
enum pnx_event_type {
    PNX_EVENT_NONE_ = 0,
#define PNX_EVENT(name, text, code_means, value_means) PNX_EVENT_##name,
#include <patinox/stats/events.def>
#undef PNX_EVENT
    PNX_EVENT_END_
};

struct pnx_event {
    size_t size;
    enum pnx_event_type type;
    int32_t code;       /* an error, where the table says so; else 0 */
    pnx_ns now;         /* monotonic */
    const char *object; /* the object's name; valid during the callback */
    const char *cause;  /* static text or NULL */
    int64_t value;      /* what the table says */
};

/* Returns the static name of an event type, such as "pool_connection_closed"; "unknown" for others. */
PNX_API const char *pnx_event_name(enum pnx_event_type type);

/*
 * Receives events.  Runs on whichever thread caused the event, on several at once when several cause events;
 * must not block for long.  It may use the library, but an event that it causes reaches it too.
 */
typedef void pnx_monitor_fn(void *ctx, const struct pnx_event *event);

struct pnx_monitor {
    size_t size; /* sizeof(struct pnx_monitor) */
    pnx_monitor_fn *event;
    void *ctx;
};

#define PNX_MONITORS_MAX 8 /* per set */

/* Adds a monitor to a set (copied).  -EINVAL, -E2BIG, -EBUSY when PNX_MONITORS_MAX are there. */
PNX_API PNX_NODISCARD int pnx_monitor_add(
        struct pnx_stats *stats, const struct pnx_monitor *monitor, uint32_t *ret_id);

/*
 * Removes a monitor; waits for calls of it that are running on other threads.
 * -ENOENT for an id that is not there.  -EINPROGRESS when it is running and this is called from inside a
 * monitor, be it the same or another: it is removed and not called again, but a thread may still be inside it.
 */
PNX_API int pnx_monitor_remove(struct pnx_stats *stats, uint32_t id);

PNX_END_DECLS
#endif /* PNX_STATS_H */
