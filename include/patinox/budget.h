/* SPDX-License-Identifier: Apache-2.0 */
/*
 * patinox/budget.h - one account for memory: a tree of limits that caches, mappings and buffers charge.
 *
 * EXPERIMENTAL: may change until the release that finishes this part.
 *
 * A charge counts against its budget and every ancestor.  Over a soft limit the reclaimers are asked to shrink;
 * at a hard limit the caller reclaims, and if that is not enough the charge is refused.
 *
 *   P1  At every moment, a budget's usage is the sum of its own charges and its children's usages.
 *   P2  No usage exceeds its hard limit, save by charges with PNX_CHARGE_MUST, which are counted.
 *   P3  A refused charge leaves every level as it was.
 *   P4  A reclaimer runs with no lock of the library held, and never after its removal has returned, save when
 *       removed from inside itself.
 *   P5  Reclaiming ends: two rounds that free less than a sixteenth of what is wanted end it.
 *   P6  A charge made inside a reclaimer never reclaims again (no recursion).
 */
#ifndef PNX_BUDGET_H
#define PNX_BUDGET_H

#include <patinox/base.h>
#include <patinox/error.h>
#include <patinox/registry.h>
#include <patinox/stats.h>

PNX_BEGIN_DECLS

struct pnx_budget; /* safe to use from any thread */

struct pnx_budget_opts {
    size_t size;      /* set by PNX_BUDGET_OPTS */
    const char *name; /* copied; default "budget" */
    const char *site; /* set by PNX_BUDGET_OPTS */
    struct pnx_budget
            *parent; /* default: the process's budget; pnx_budget_off() for a root of its own */
    const struct pnx_env *env;     /* default: the system's */
    struct pnx_registry *registry; /* default: the process's; pnx_registry_off() */
    struct pnx_stats *stats;       /* default: the process's; pnx_stats_off() */
    size_t soft; /* bytes from which on reclaimers are asked; default 7/8 of hard */
    size_t hard; /* bytes that are not exceeded; default: no limit */
};
#ifndef __cplusplus
#define PNX_BUDGET_OPTS(...) \
    (&(const struct pnx_budget_opts){ \
            .size = sizeof(struct pnx_budget_opts), .site = PNX_SITE, __VA_ARGS__})
#else
static inline struct pnx_budget_opts pnx_budget_opts_init(void) {
    struct pnx_budget_opts opts = pnx_budget_opts();
    opts.size = sizeof(opts);
    return opts;
}
#endif

/* Returns the process-wide root, which has no limit until pnx_budget_set_limits().  Never NULL. */
PNX_API struct pnx_budget *pnx_budget_default(void);

/* Returns the value that switches charging off where an option asks for a budget. */
PNX_API struct pnx_budget *pnx_budget_off(void);

/* Creates a budget.  -EINVAL (soft over hard; err names the field), -E2BIG, -ENOMEM, -ESHUTDOWN. */
PNX_API PNX_NODISCARD int pnx_budget_create(
        const struct pnx_budget_opts *opts, struct pnx_error *err, struct pnx_budget **ret_budget);

/* Drops the caller's reference; children and open charges keep it alive.  The default is never released. */
PNX_API void pnx_budget_release(struct pnx_budget **budget);

/* Takes another reference. */
PNX_API struct pnx_budget *pnx_budget_ref(struct pnx_budget *budget);

/* Changes the limits; 0 means no limit.  Usage over a new limit is reclaimed at the next charge.  -EINVAL. */
PNX_API int pnx_budget_set_limits(struct pnx_budget *budget, size_t soft, size_t hard);

enum pnx_charge_flags {
    PNX_CHARGE_MUST = 1,       /* never refused; what is over a hard limit counts as overcommit */
    PNX_CHARGE_NO_RECLAIM = 2, /* refuse rather than call reclaimers: for callers that hold locks */
};

/*
 * Charges bytes to the budget and its ancestors.  May call reclaimers, which may block, unless told not to.
 * -ENOMEM when a hard limit stands in the way, -EINVAL for unknown flags, -EOVERFLOW.
 */
PNX_API PNX_NODISCARD int pnx_budget_charge(
        struct pnx_budget *budget, size_t bytes, uint32_t flags);

/* Gives bytes back.  More than was charged is a bug of the caller: counted, an event, an abort in debug builds. */
PNX_API void pnx_budget_uncharge(struct pnx_budget *budget, size_t bytes);

/* Something that can give memory back.  Lower priority is asked first. */
struct pnx_reclaimer {
    size_t size;      /* sizeof(struct pnx_reclaimer) */
    const char *name; /* static */
    /* Tries to free (and uncharge) want bytes; returns what it believes to have freed; must not wait for a lock
     * that may be held by a thread that charges.  It must return: one that throws, or ends its thread, aborts
     * the process. */
    size_t (*reclaim)(void *ctx, size_t want);
    void *ctx;
    uint32_t priority; /* free lists 10, caches 20 (the default for 0), allocator purges 90 */
    uint32_t flags;    /* must be 0 */
};

struct pnx_reclaimer_handle;

/* Adds a reclaimer (copied).  -EINVAL, -E2BIG, -ENOMEM. */
PNX_API PNX_NODISCARD int pnx_budget_add_reclaimer(struct pnx_budget *budget,
        const struct pnx_reclaimer *reclaimer, struct pnx_reclaimer_handle **ret_handle);

/* Removes it; waits for a call of it that runs on another thread.  NULL-safe, clears *handle. */
PNX_API void pnx_budget_remove_reclaimer(struct pnx_reclaimer_handle **handle);

/* Asks the reclaimers for want bytes; returns by how much usage fell. */
PNX_API size_t pnx_budget_reclaim(struct pnx_budget *budget, size_t want);

/* The rows of patinox/stats/budget.def. */
struct pnx_budget_stats {
    size_t size;
#define PNX_STAT(name, kind, unit, level, help) uint64_t name;
#include <patinox/stats/budget.def>
#undef PNX_STAT
};

/* Fills *ret_stats up to its size, which the caller sets.  -EINVAL. */
PNX_API int pnx_budget_read_stats(
        const struct pnx_budget *budget, struct pnx_budget_stats *ret_stats);

PNX_END_DECLS
#endif /* PNX_BUDGET_H */
