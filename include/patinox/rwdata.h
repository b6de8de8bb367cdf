/* SPDX-License-Identifier: Apache-2.0 */
/*
 * patinox/rwdata.h - a value that many threads read and some change in place: data with its reader-writer lock.
 *
 * The value lies inside the rwdata and is reached only through a guard: many read guards at a time, or one write
 * guard.  For values that are read far more often than written, or kept over a wait, patinox/snapshot.h is the
 * better choice: there readers never wait.
 *
 *   P1  While a write guard exists there is no other guard; what a writer did is seen by all who come after.
 *   P2  Nobody starves, as long as guards end: who has to wait stands in one queue in the order of arrival, with
 *       neighbouring readers let in together.  Who comes later may pass the first in the queue only while the lock
 *       is free and that one is being woken, and at most PNX_RWDATA_BYPASS times; then the lock is kept for it.
 *       While readers are in and somebody waits, no new reader comes in.
 *   P3  A wait ends at its deadline; who gave up keeps nobody else waiting.  A timeout of 0 never waits.
 *   P4  A thread that holds the write guard and asks again, in whatever form, gets -EDEADLK.  With
 *       PNX_RWDATA_CHECK, which debug builds always have, so does a thread with a read guard that asks to write,
 *       or to read again with a wait (a writer between the two would block both).  So does who would have to wait
 *       inside a section of reclaim, for whose end the one who has the lock may be waiting.
 *   P5  A downgrade leaves no gap: no writer comes between the write guard and the read guard that it becomes.
 *   P6  A value whose change was not finished is poisoned: guards are refused with PNX_E_BROKEN, until somebody
 *       repairs and clears it.
 *   P7  After the close no guard is given and nobody waits; guards that are out stay good.
 *
 * Not for event loops: reading waits while somebody writes.  Use the try forms there, or a snapshot.
 *
 * A guard is a value that belongs to the thread that took it, and ends on that thread.  It does not keep the
 * rwdata alive: who takes guards holds a reference to the rwdata (pnx_rwdata_ref()) until his guards have ended.
 *
 * In a forked child, the guards of threads that exist only in the parent never end.  Who waits for one in the child
 * gets PNX_E_BROKEN at his deadline, or after timeout_ns (10 s where that is PNX_NEVER) if that comes first; see
 * pnx_rwdata_repair().
 */
#ifndef PNX_RWDATA_H
#define PNX_RWDATA_H

#include <patinox/base.h>
#include <patinox/error.h>
#include <patinox/rc.h>
#include <patinox/registry.h>
#include <patinox/stats.h>

PNX_BEGIN_DECLS

struct pnx_rwdata; /* safe to use from any thread */
struct pnx_budget;

/* How many may at most pass the first in the queue (P2): waking a thread takes as long as thousands of short sections. */
#define PNX_RWDATA_BYPASS 16380

/* Read guards that may exist at a time; one more is -EOVERFLOW. */
#define PNX_RWDATA_MAX_READERS 524288

enum pnx_rwdata_flags {
    PNX_RWDATA_CHECK = 1,    /* who holds what is written down, for P4 and reports of misuse */
    PNX_RWDATA_NO_CHECK = 2, /* not even in debug builds */
    PNX_RWDATA_POISON_ON_ERROR = 4, /* a function of with_write that fails has poisoned the value */
};

struct pnx_rwdata_opts {
    size_t size;                   /* set by PNX_RWDATA_OPTS */
    const char *name;              /* copied; default "rwdata" */
    const char *site;              /* set by PNX_RWDATA_OPTS */
    const struct pnx_env *env;     /* default: the type's, else the system's */
    struct pnx_registry *registry; /* default: the process's; pnx_registry_off() */
    struct pnx_stats *stats;       /* default: the process's; pnx_stats_off() */
    struct pnx_budget *budget;     /* default: the process's; pnx_budget_off() */
    pnx_ns timeout_ns; /* of acquires with PNX_TIMEOUT_DEFAULT; default 10 s; PNX_NEVER */
    uint32_t flags;    /* PNX_RWDATA_*; default 0 */
    uint32_t reserved; /* must be 0 */
};
#ifndef __cplusplus
#define PNX_RWDATA_OPTS(...) \
    (&(const struct pnx_rwdata_opts){ \
            .size = sizeof(struct pnx_rwdata_opts), .site = PNX_SITE, __VA_ARGS__})
#else
static inline struct pnx_rwdata_opts pnx_rwdata_opts_init(void) {
    struct pnx_rwdata_opts opts = pnx_rwdata_opts();
    opts.size = sizeof(opts);
    return opts;
}
#endif

/* A guard for reading.  {0} is empty. */
struct pnx_rwdata_read_guard {
    const void *value; /* good until the guard ends */
    struct pnx_rwdata *rwdata_;
};

/* A guard for writing.  {0} is empty. */
struct pnx_rwdata_write_guard {
    void *value; /* good until the guard ends */
    struct pnx_rwdata *rwdata_;
    uint64_t state_;
};

/*
 * Creates an rwdata with a value of the type, which must outlive it.  The value's bytes are those of init, or zero
 * when that is NULL; with init, what it owns passes to the rwdata, which ends it by the type's drop.  opts may be
 * NULL.  -EINVAL (err names the field), -E2BIG, -ENOMEM, -ESHUTDOWN or -EBUSY from the registry.
 */
PNX_API PNX_NODISCARD int pnx_rwdata_create(const struct pnx_rc_type *type, const void *init,
        const struct pnx_rwdata_opts *opts, struct pnx_error *err, struct pnx_rwdata **ret_rwdata);

/* Takes another reference, for a thread that outlives the creator's.  NULL gives NULL. */
PNX_API struct pnx_rwdata *pnx_rwdata_ref(struct pnx_rwdata *rwdata);

/*
 * Lets a reference go; with the last one the value is dropped, on this thread and under no lock.  All guards must
 * have ended: one that has not is reported, and the memory is left to it.  NULL-safe, clears.
 */
PNX_API void pnx_rwdata_release(struct pnx_rwdata **rwdata);

/*
 * Refuses further guards with -ESHUTDOWN and wakes those who wait, with the same.  Guards that are out stay good.
 * Idempotent; any thread, also one with a guard; what pnx_registry_shutdown() calls.
 */
PNX_API void pnx_rwdata_close(struct pnx_rwdata *rwdata);

/*
 * Takes a read guard, waiting for writers at most timeout: 0 tries once.  err may be NULL.
 * -EBUSY (timeout 0 only), -ETIMEDOUT, -EDEADLK (P4), PNX_E_BROKEN (P6, or after a fork), -ESHUTDOWN (P7),
 * -EOVERFLOW, -EINVAL.
 */
static inline PNX_NODISCARD int pnx_rwdata_read(struct pnx_rwdata *rwdata, pnx_ns timeout,
        struct pnx_error *err, struct pnx_rwdata_read_guard *ret_guard);

/* Takes the write guard, waiting for everybody at most timeout: 0 tries once.  As read; -ENOMEM for a thread's first use. */
static inline PNX_NODISCARD int pnx_rwdata_write(struct pnx_rwdata *rwdata, pnx_ns timeout,
        struct pnx_error *err, struct pnx_rwdata_write_guard *ret_guard);

/* Ends a guard and empties it.  Does not block; an empty one is fine, as is NULL. */
static inline void pnx_rwdata_read_end(struct pnx_rwdata_read_guard *guard);
static inline void pnx_rwdata_write_end(struct pnx_rwdata_write_guard *guard);

/* End their guard when the scope is left:  PNX_AUTO_RWDATA_READ guard = {0}; */
#define PNX_AUTO_RWDATA_READ  PNX_CLEANUP(pnx_rwdata_read_end) struct pnx_rwdata_read_guard
#define PNX_AUTO_RWDATA_WRITE PNX_CLEANUP(pnx_rwdata_write_end) struct pnx_rwdata_write_guard

/* Take a guard if that is possible without waiting, else -EBUSY.  Short for a timeout of 0; for event loops. */
static inline PNX_NODISCARD int pnx_rwdata_try_read(
        struct pnx_rwdata *rwdata, struct pnx_rwdata_read_guard *ret_guard);
static inline PNX_NODISCARD int pnx_rwdata_try_write(
        struct pnx_rwdata *rwdata, struct pnx_rwdata_write_guard *ret_guard);

/*
 * Makes the write guard a read guard, without a gap (P5), and lets waiting readers in that are next.  Empties *guard.
 * Does not block.  -EINVAL for a guard that is empty, armed or not in force any more; then nothing has changed.
 */
PNX_API PNX_NODISCARD int pnx_rwdata_downgrade(
        struct pnx_rwdata_write_guard *guard, struct pnx_rwdata_read_guard *ret_guard);

typedef int pnx_rwdata_read_fn(void *ctx, const void *value); /* 0 or a negative error */
typedef int pnx_rwdata_write_fn(void *ctx, void *value);      /* 0 or a negative error */

/*
 * Calls fn with the value under a guard, and returns what it returned; errors as read and write.  fn runs under
 * this lock, by definition: it must be short, and what it waits for must not wait for this rwdata.
 */
PNX_API PNX_NODISCARD int pnx_rwdata_with_read(struct pnx_rwdata *rwdata, pnx_ns timeout,
        pnx_rwdata_read_fn *fn, void *ctx, struct pnx_error *err);
PNX_API PNX_NODISCARD int pnx_rwdata_with_write(struct pnx_rwdata *rwdata, pnx_ns timeout,
        pnx_rwdata_write_fn *fn, void *ctx, struct pnx_error *err);

/* ---- poisoning ---- */

/*
 * Arms a write guard before a change of several steps: a guard that ends armed has left the change half done, and
 * poisons the value.  So an early return, or a C++ exception through a PNX_AUTO_RWDATA_WRITE guard, is caught.
 * Disarms it when the value is whole again.  Do nothing to an empty guard.
 */
PNX_API void pnx_rwdata_arm(struct pnx_rwdata_write_guard *guard);
PNX_API void pnx_rwdata_disarm(struct pnx_rwdata_write_guard *guard);

/*
 * Poisons the value at once, with the reason (a negative error); the guard goes on.  Those who wait and those who
 * come get PNX_E_BROKEN, with the reason as cause; the monitors hear of it when the guard ends.  -EINVAL for a guard that
 * is empty or not in force any more, or a cause that is no error.
 */
PNX_API int pnx_rwdata_poison(struct pnx_rwdata_write_guard *guard, int cause);

/* Returns why the value is poisoned, a negative error, or 0.  -ECANCELED: a guard ended armed. */
PNX_API int pnx_rwdata_poisoned(const struct pnx_rwdata *rwdata);

/*
 * Takes the write guard even if the value is poisoned; else as write.  Look, repair, then pnx_rwdata_clear().
 *
 * In a forked child, called before other threads of the child use the rwdata, it takes the lock from whoever held
 * it in the parent, and poisons the value if a writer was among them.
 */
PNX_API PNX_NODISCARD int pnx_rwdata_repair(struct pnx_rwdata *rwdata, pnx_ns timeout,
        struct pnx_error *err, struct pnx_rwdata_write_guard *ret_guard);

/* Declares the value whole again.  0 also if it was not poisoned; -EINVAL for a guard that is empty or not in force. */
PNX_API int pnx_rwdata_clear(struct pnx_rwdata_write_guard *guard);

/* The rows of patinox/stats/rwdata.def. */
struct pnx_rwdata_stats {
    size_t size;
#define PNX_STAT(name, kind, unit, level, help) uint64_t name;
#include <patinox/stats/rwdata.def>
#undef PNX_STAT
};

/* Fills *ret_stats up to its size, which the caller sets.  -EINVAL. */
PNX_API int pnx_rwdata_read_stats(
        const struct pnx_rwdata *rwdata, struct pnx_rwdata_stats *ret_stats);

PNX_END_DECLS

#include <patinox/rwdata_inl.h>

#endif /* PNX_RWDATA_H */
