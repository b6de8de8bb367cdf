/* SPDX-License-Identifier: Apache-2.0 */
/*
 * share/rc_tally.c - the numbers, the row and the budget of all rc objects of a type.
 *
 * An object is too small for a block and a row of its own, so those of a type, or of several, share a tally if
 * they name one.  It lives until its owner has let it go and its last object's memory is gone.  Its numbers are
 * written by all threads, a read-modify-write each; who wants none of that names no tally.
 *
 * Guarantee P9 stands in patinox/rc.h.  Conservation, at rest: references == live + (not released ? 1 : 0).
 */
#include "base/env.h"
#include "base/options.h"
#include "share/rc.h"
#include "stats/stats.h"

#include <patinox/budget.h>
#include <patinox/reclaim.h>
#include <patinox/registry.h>

#include <assert.h>
#include <string.h>

#define PNX_GROUP     rc
#define PNX_GROUP_DEF <patinox/stats/rc.def>
#include "stats/declare_group.inc"

#define SHOWN_STEP UINT64_C(4096) /* the row's bytes follow in steps of this, or of an eighth */

/* Fixed at creation but for references, shown and values, which anybody changes. */
struct pnx_rc_tally {
    struct pnx_a32 references;
    struct pnx_env env;
    struct pnx_registry *registry; /* a reference of ours; NULL when off */
    pnx_resource_id id;
    struct pnx_budget *budget; /* likewise */
    char *name;
    struct pnx_stats_block block;
    struct pnx_a64 shown; /* bytes as the row has them */
    struct pnx_rc_values values;
};

static const struct pnx_opt option_rows[] = {
#define PNX_OPTION(...) PNX_OPT_ROW(struct pnx_rc_tally_opts, __VA_ARGS__)
#include "share/rc_tally_opts.def"
#undef PNX_OPTION
};
static const struct pnx_opt_table options = {"rc tally", sizeof(struct pnx_rc_tally_opts),
        option_rows, sizeof(option_rows) / sizeof(option_rows[0])};
static_assert(
        sizeof(struct pnx_rc_tally_opts) == sizeof(size_t) + 6 * sizeof(void *), "no padding");

static void add(struct pnx_a64 *value, uint64_t n) {
    pnx_fetch_add(value, n, PNX_RELAXED, "rc_tally.add"); /* a statistic */
}

static uint64_t read_one(const struct pnx_a64 *value) {
    return pnx_load(value, PNX_RELAXED, "rc_tally.read"); /* a statistic */
}

/* ---- making and ending ---- */

static void unref_tally(struct pnx_rc_tally *tally) {
    /* acq_rel: pairs with itself; all that others did to the tally comes before the freeing */
    if (pnx_fetch_sub(&tally->references, 1, PNX_ACQ_REL, "rc_tally.unref") != 1)
        return;
    struct pnx_env env = tally->env;
    pnx__stats_remove(&tally->block);
    pnx_registry_release(&tally->registry);
    pnx_budget_release(&tally->budget);
    pnx__strfree(&env, tally->name);
    pnx__free(&env, tally, 1, sizeof(*tally));
}

/* At a shutdown, when all containers have ended: what is live now has leaked, unless it only waits for readers. */
static int cleanup(void *arg, const struct pnx_cancel *cancel) {
    const struct pnx_rc_tally *tally = arg;
    if (read_one(&tally->values.live)) {
        pnx_ns left = pnx_cancel_remaining(cancel);
        int rc = pnx_reclaim_barrier(NULL, left < PNX_SEC ? left : PNX_SEC);
        (void)rc; /* a reader that stays longer than that is reported elsewhere */
    }
    return read_one(&tally->values.live) ? -EBUSY : 0;
}

static int add_row(
        struct pnx_rc_tally *tally, const struct pnx_rc_tally_opts *opts, struct pnx_error *err) {
    if (opts->registry == pnx_registry_off())
        return 0;
    struct pnx_resource resource = {
            .size = sizeof(resource),
            .type = "rc objects",
            .name = tally->name,
            .site = opts->site,
            .cleanup = cleanup,
            .arg = tally,
            .priority = PNX_PRIORITY_LAST,
            .flags = PNX_RESOURCE_LONG_LIVED,
    };
    struct pnx_registry *registry = pnx_registry_ref(opts->registry);
    int rc = pnx_registry_add(registry, &resource, err, &tally->id);
    if (rc)
        pnx_registry_release(&registry);
    else
        tally->registry = registry;
    return rc;
}

int pnx_rc_tally_create(const struct pnx_rc_tally_opts *user, struct pnx_error *err,
        struct pnx_rc_tally **ret_tally) {
    struct pnx_rc_tally_opts opts;
    struct pnx_env env;
    int rc = pnx__opts_resolve(&options, user, &opts, err);
    if (rc == 0)
        rc = pnx__env_resolve(opts.env, err, &env);
    if (rc)
        return rc;
    if (!ret_tally)
        return pnx__fail_field(err, -EINVAL, "ret_tally", "rc tally: ret_tally is NULL");
    struct pnx_rc_tally *tally = pnx__alloc(&env, 1, sizeof(*tally));
    if (!tally)
        return pnx__fail(err, -ENOMEM, 0, "create", "rc tally: out of memory");
    tally->env = env;
    pnx_store(&tally->references, 1, PNX_RELAXED, "rc_tally.create"); /* nobody else knows it */
    tally->name = pnx__strdup(&env, opts.name ? opts.name : "rc");
    if (!tally->name) {
        rc = pnx__fail(err, -ENOMEM, 0, "create", "rc tally: out of memory");
        goto fail;
    }
    if (opts.budget != pnx_budget_off())
        tally->budget = pnx_budget_ref(opts.budget ? opts.budget : pnx_budget_default());
    pnx__rc_stats_init(&tally->block, tally->name, &tally->values, NULL);
    pnx__stats_add(opts.stats, &tally->block);
    rc = add_row(tally, &opts, err);
    if (rc)
        goto fail;
    *ret_tally = tally;
    return 0;
fail:
    unref_tally(tally);
    return rc;
}

void pnx_rc_tally_release(struct pnx_rc_tally **handle) {
    if (!handle || !*handle)
        return;
    struct pnx_rc_tally *tally = *handle;
    *handle = NULL;
    if (tally->registry)
        (void)pnx_registry_remove(tally->registry, tally->id); /* waits for a running cleanup */
    unref_tally(tally);
}

/* ---- counting ---- */

/* Puts into the row what shown says; whoever comes last looks again after it, so that the row has the last word. */
static void put(struct pnx_rc_tally *tally) {
    uint64_t bytes;
    do {
        /* Relaxed, twice: the registry's lock orders the puts; one before ours has its change of shown before it. */
        bytes = pnx_load(&tally->shown, PNX_RELAXED, "rc_tally.put");
        (void)pnx_registry_set_bytes(tally->registry, tally->id, bytes);
    } while (pnx_load(&tally->shown, PNX_RELAXED, "rc_tally.put_again") != bytes);
}

/*
 * Keeps the row's bytes near the truth without a lock of the registry for each object.  bytes were there a moment
 * ago; who changes them meanwhile either sees our shown, or its change is seen when we look again: both are
 * read-modify-writes of the bytes.  A change that comes after our look acquires what the look releases.
 */
static void show(struct pnx_rc_tally *tally, uint64_t bytes) {
    while (tally->registry) {
        uint64_t shown = pnx_load(&tally->shown, PNX_RELAXED, "rc_tally.shown"); /* see above */
        uint64_t apart = shown > bytes ? shown - bytes : bytes - shown;
        uint64_t step = shown / 8 > SHOWN_STEP ? shown / 8 : SHOWN_STEP;
        if (apart == 0 || (apart < step && bytes != 0))
            return;
        /* Relaxed: see above. */
        if (pnx_cas(&tally->shown, &shown, bytes, PNX_RELAXED, "rc_tally.show"))
            put(tally);
        /* Release: pairs with rc_tally.grow and rc_tally.shrink; our shown comes before. */
        bytes = pnx_fetch_add(&tally->values.bytes, 0, PNX_RELEASE, "rc_tally.look");
    }
}

int pnx__rc_tally_reserve(struct pnx_rc_tally *tally, size_t bytes) {
    if (!tally->budget || pnx_budget_charge(tally->budget, bytes, 0) == 0)
        return 0;
    add(&tally->values.refusals, 1);
    return -ENOMEM;
}

void pnx__rc_tally_unreserve(struct pnx_rc_tally *tally, size_t bytes) {
    if (tally->budget)
        pnx_budget_uncharge(tally->budget, bytes);
}

void pnx__rc_tally_add(struct pnx_rc_tally *tally, size_t bytes) {
    struct pnx_rc_values *values = &tally->values;
    /* relaxed: the maker holds the tally, or an object of it */
    pnx_fetch_add(&tally->references, 1, PNX_RELAXED, "rc_tally.ref");
    add(&values->live, 1);
    add(&values->made, 1);
    /* acquire: pairs with rc_tally.look */
    show(tally, bytes + pnx_fetch_add(&values->bytes, bytes, PNX_ACQUIRE, "rc_tally.grow"));
}

void pnx__rc_tally_remove(struct pnx_rc_tally *tally, size_t bytes) {
    struct pnx_rc_values *values = &tally->values;
    add(&values->live, (uint64_t)-1);
    /* acquire: pairs with rc_tally.look */
    show(tally, pnx_fetch_sub(&values->bytes, bytes, PNX_ACQUIRE, "rc_tally.shrink") - bytes);
    pnx__rc_tally_unreserve(tally, bytes);
    unref_tally(tally);
}

void pnx__rc_tally_count(struct pnx_rc_tally *tally, enum pnx__rc_count what) {
    struct pnx_a64 *const values[] = {
            [PNX__RC_COPY] = &tally->values.copies,
            [PNX__RC_MOVE] = &tally->values.moves,
            [PNX__RC_EXCLUSIVE] = &tally->values.exclusive_writes,
            [PNX__RC_LEAK] = &tally->values.leaked,
            [PNX__RC_CLONE] = &tally->values.clones,
    };
    add(values[what], 1);
}

int pnx_rc_tally_read_stats(
        const struct pnx_rc_tally *tally, struct pnx_rc_tally_stats *ret_stats) {
    struct pnx_rc_tally_stats stats = {0};
    if (!tally || !ret_stats || ret_stats->size < sizeof(size_t))
        return -EINVAL;
    size_t size = ret_stats->size < sizeof(stats) ? ret_stats->size : sizeof(stats);
    static_assert(sizeof(stats) == sizeof(size_t) + sizeof(tally->values), "one row, one word");
    pnx__stats_read(&tally->block, &stats.live);
    stats.size = size;
    memcpy(ret_stats, &stats, size);
    return 0;
}
