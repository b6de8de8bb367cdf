/* SPDX-License-Identifier: Apache-2.0 */
/*
 * patinox/reclaim.h - freeing what other threads may still be reading.
 *
 * Readers enter a section, follow pointers without locks or counts, and exit; a section costs a few plain
 * instructions.  A writer unlinks an object, so that no new reader finds it, and retires it: its function runs
 * when every section that was open then has ended.
 *
 *     reader                                   writer
 *     pnx_reclaim_enter(NULL);                 struct thing *old = exchange(&shared, fresh);
 *     struct thing *t = load(&shared);         pnx_reclaim_retire(NULL, &old->node, free_thing,
 *     use(t);                                          sizeof(*old));
 *     pnx_reclaim_exit(NULL);
 *
 * A section must be short, and must not block: while it is open nothing that was retired after it began is freed
 * in its domain.  What has to live longer takes a reference (patinox/rc.h).
 *
 * A domain is a set of sections and of things retired.  NULL is the default one, which all parts of the library
 * use unless told otherwise; one of your own keeps slow readers apart from it.  Threads make themselves known
 * when they first enter, and are forgotten when they end.
 *
 *   P1  A retired node's function runs exactly once, and not before all sections have ended that were open in
 *       the domain when it was retired.
 *   P2  Functions run only inside tick, barrier, close, release, and write operations of the library's containers;
 *       under no lock of the library, never inside pnx_reclaim_retire(), inside a section (but for release, when called in one
 *       of another domain), or inside an edit or the like of a container.  They are dealt out in the order in which
 *       each thread retired them, up to 64 at a time, to whoever runs some, perhaps several threads at once; each
 *       begins its own in that order.
 *   P3  enter, exit and retire never fail, not even without memory; retire waits at most assist_ns, and only
 *       over a limit.
 *   P4  A barrier that returns 0 has seen the end of every function whose node was retired, by any thread,
 *       before it was called.  synchronize that returns 0 has outlasted every section that was open when it was called.
 *   P5  A wait that could never end is refused with -EDEADLK: from inside a section, or from a callback (on_stall, too);
 *       a barrier also from inside an edit or the like of a container.
 *   P6  Nothing is freed early, whatever fails: when the kernel takes membarrier away after the start, the domain
 *       stops freeing for good, and says so.
 */
#ifndef PNX_RECLAIM_H
#define PNX_RECLAIM_H

#include <patinox/base.h>
#include <patinox/error.h>
#include <patinox/reclaim_inl.h>
#include <patinox/registry.h>
#include <patinox/stats.h>

PNX_BEGIN_DECLS

struct pnx_reclaim; /* a domain; safe to use from any thread */
struct pnx_reclaim_node;

/* Frees what node is embedded in.  May retire, enter sections and use containers; must not block for long. */
typedef void pnx_reclaim_fn(struct pnx_reclaim_node *node);

/* Embedded in what is to be retired; needs no initialisation. */
struct pnx_reclaim_node {
    struct pnx_reclaim_node *next;
    pnx_reclaim_fn *fn;
    size_t bytes;
};

/* What keeps a domain from freeing. */
struct pnx_reclaim_stall {
    size_t size;
    const char *domain; /* its name */
    uint64_t thread;  /* number of the thread that is in it; 0: one without memory for a section */
    pnx_ns age;       /* since its section was first met: it is at least this old */
    const char *site; /* where the section began; NULL: not noted, see PNX_RECLAIM_SITES */
    uint64_t pending_objects; /* that wait in the domain */
    uint64_t pending_bytes;
    uint32_t sections; /* how many keep it waiting; this is one of them */
    uint32_t unused;
};
/* Runs inside tick, barrier, synchronize or a container's write, under no lock; may not wait for a domain (P5). */
typedef void pnx_reclaim_stall_fn(void *ctx, const struct pnx_reclaim_stall *stall);

/* How readers and the one who frees see each other. */
enum pnx_reclaim_mode {
    PNX_RECLAIM_AUTO = 0, /* membarrier where the kernel grants it, else fences */
    PNX_RECLAIM_MEMBARRIER =
            1, /* readers pay nothing, each grace period a system call; -ENOTSUP without it */
    PNX_RECLAIM_FENCES = 2, /* each enter executes a full fence */
};

/* Flags of struct pnx_reclaim_opts. */
#define PNX_RECLAIM_NO_ASSIST \
    1u /* write operations of containers run no callbacks: somebody ticks */

/* Zero selects the default of every field. */
struct pnx_reclaim_opts {
    size_t size;                    /* set by PNX_RECLAIM_OPTS */
    const char *name;               /* copied; default "reclaim" */
    const char *site;               /* set by PNX_RECLAIM_OPTS */
    const struct pnx_env *env;      /* default: the system's */
    struct pnx_registry *registry;  /* default: the process's; pnx_registry_off() */
    struct pnx_stats *stats;        /* default: the process's; pnx_stats_off() */
    pnx_reclaim_stall_fn *on_stall; /* told of sections that do not end; default: none */
    void *ctx;                      /* first argument of on_stall */
    size_t max_pending_bytes;       /* over it, retire waits a little; default 256 MiB */
    uint64_t max_pending_objects;   /* likewise; default 1000000 */
    pnx_ns assist_ns;               /* how long such a retire waits at most; default 100 us */
    pnx_ns stall_warn_ns;           /* a section older than this is reported; default 1 s */
    uint32_t mode;                  /* enum pnx_reclaim_mode; default PNX_RECLAIM_AUTO */
    uint32_t flags;                 /* PNX_RECLAIM_NO_ASSIST */
};
#ifndef __cplusplus
#define PNX_RECLAIM_OPTS(...) \
    (&(const struct pnx_reclaim_opts){ \
            .size = sizeof(struct pnx_reclaim_opts), .site = PNX_SITE, __VA_ARGS__})
#else
static inline struct pnx_reclaim_opts pnx_reclaim_opts_init(void) {
    struct pnx_reclaim_opts opts = pnx_reclaim_opts();
    opts.size = sizeof(opts);
    return opts;
}
#endif

/*
 * Creates a domain.  opts may be NULL.  -EINVAL (err names the field), -E2BIG, -ENOMEM, -ENOTSUP for
 * PNX_RECLAIM_MEMBARRIER where there is none, -EBUSY when there are PNX_RECLAIM_DOMAINS_MAX, or the registry's
 * -ESHUTDOWN or -EBUSY.
 */
PNX_API PNX_NODISCARD int pnx_reclaim_create(const struct pnx_reclaim_opts *opts,
        struct pnx_error *err, struct pnx_reclaim **ret_domain);

/* Returns the process's domain, which NULL means too.  Its options are the defaults. */
PNX_API struct pnx_reclaim *pnx_reclaim_default(void);

/* Takes another reference, for an object that uses the domain.  NULL gives the default one. */
PNX_API struct pnx_reclaim *pnx_reclaim_ref(struct pnx_reclaim *domain);

/*
 * Runs callbacks until nothing is pending, also what callbacks retire; what pnx_registry_shutdown() calls.  The
 * domain can still be used.  Errors as pnx_reclaim_barrier(); -ETIMEDOUT, too, where callbacks retire without end.
 */
PNX_API PNX_NODISCARD int pnx_reclaim_close(struct pnx_reclaim *domain, pnx_ns timeout);

/*
 * Lets a reference go; NULL-safe, clears; the default domain stays.  Waits for nothing but a shutdown that is closing the
 * domain at that moment.  The last one runs what is pending and frees the domain, which no other thread may be using,
 * not even to leave a section.  Where a section is open, or the domain is broken (P6), it stays allocated with what it
 * holds, and an event says so.
 */
PNX_API void pnx_reclaim_release(struct pnx_reclaim **domain);

#if defined(PNX_RECLAIM_SITES) && !defined(PNX_EXPLORE)
/* Programs compiled with PNX_RECLAIM_SITES note where each section began, for some instructions more. */
#define pnx_reclaim_enter(domain) pnx__reclaim_enter_at(domain, PNX_SITE)
#endif

/*
 * Has fn(node) called when all sections have ended that are open now.  The object must be unreachable for new
 * readers already.  bytes is what it will free, for limits and statistics.  Never fails and calls nothing of
 * yours.  Over the domain's limits, and outside a section, it waits for readers for at most assist_ns.  NULL for node or
 * fn is misuse: counted and told of, and a debug build aborts.
 */
PNX_API void pnx_reclaim_retire(struct pnx_reclaim *domain, struct pnx_reclaim_node *node,
        pnx_reclaim_fn *fn, size_t bytes);

/*
 * Waits until all sections have ended that were open when it was called; runs no callbacks.  -EDEADLK (P5),
 * -ETIMEDOUT, -EINVAL for a negative timeout, PNX_E_BROKEN (P6), -ENOMEM when the thread has no record for want
 * of memory.
 */
PNX_API PNX_NODISCARD int pnx_reclaim_synchronize(struct pnx_reclaim *domain, pnx_ns timeout);

/*
 * Runs what was retired before the call, by whatever thread, and waits for callbacks that run on other threads.  It begins
 * no callback after its deadline; with a timeout of 0 it runs once what is ready.  Errors as synchronize; after one,
 * what was not run stays pending.
 */
PNX_API PNX_NODISCARD int pnx_reclaim_barrier(struct pnx_reclaim *domain, pnx_ns timeout);

/*
 * Does what is due without waiting: begins and ends grace periods, runs callbacks, reports stalls.  now is the time on
 * the domain's clock.  Returns when to call again, PNX_NEVER when nothing is pending.  From a callback: does
 * nothing.
 */
PNX_API pnx_ns pnx_reclaim_tick(struct pnx_reclaim *domain, pnx_ns now);

/* Returns whether the calling thread is in a section of the domain. */
PNX_API bool pnx_reclaim_in_section(struct pnx_reclaim *domain);

/*
 * Prepares the unloading of a plugin that has this library linked in statically: runs what is pending in the default
 * domain and frees the threads' records.  The caller sees to it that no other thread uses the library any more, nor is
 * ending just now, and that all objects made with it are released; threads that it was used in may end later.
 * Afterwards nothing of it may be used until it is loaded again.  A
 * plugin that is unloaded without this call leaks those records and no more.  -EBUSY while other domains exist;
 * errors as pnx_reclaim_close().
 */
PNX_API PNX_NODISCARD int pnx_reclaim_unload(pnx_ns timeout);

/* The rows of patinox/stats/reclaim.def. */
struct pnx_reclaim_stats {
    size_t size;
#define PNX_STAT(name, kind, unit, level, help) uint64_t name;
#include <patinox/stats/reclaim.def>
#undef PNX_STAT
};

/* Fills *ret_stats up to its size, which the caller sets.  -EINVAL. */
PNX_API int pnx_reclaim_read_stats(struct pnx_reclaim *domain, struct pnx_reclaim_stats *ret_stats);

PNX_END_DECLS
#endif /* PNX_RECLAIM_H */
