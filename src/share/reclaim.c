/* SPDX-License-Identifier: Apache-2.0 */
/*
 * share/reclaim.c - domains: the default one, making, ending, statistics.
 *
 * Sits on os; rc, snapshot, cmap and the cache stand on it.  Guarantees P1..P6 stand in patinox/reclaim.h, the
 * algorithm and its proof in reclaim_gp.c.
 */
#include "share/reclaim.h"
#include "base/options.h"
#include "os/thread.h"
#include "share/check.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <string.h>

#define MAGIC      UINT32_C(0x7265636c)
#define ROUNDS_MAX 1000 /* of callbacks that retire, when a domain ends or is closed at once */

static const struct pnx_opt option_rows[] = {
#define PNX_OPTION(...) PNX_OPT_ROW(struct pnx_reclaim_opts, __VA_ARGS__)
#include "share/reclaim_opts.def"
#undef PNX_OPTION
};
static const struct pnx_opt_table options = {"reclaim", sizeof(struct pnx_reclaim_opts),
        option_rows, sizeof(option_rows) / sizeof(option_rows[0])};
static_assert(sizeof(struct pnx_reclaim_opts) == 7 * sizeof(void *) + 2 * sizeof(size_t) +
                                                         3 * sizeof(uint64_t) +
                                                         2 * sizeof(uint32_t),
        "no padding");
static_assert(sizeof(struct pnx_reclaim_stall) == 64, "no padding");

static struct pnx_reclaim default_domain;
static pthread_once_t default_once = PTHREAD_ONCE_INIT;

static void check(const struct pnx_reclaim *domain) {
    (void)domain;
    PNX_DEBUG_CHECK(domain->magic == MAGIC);
}

/* What is summed up over the sections is else written only where somebody needs it. */
static void refresh(const struct pnx_stats_block *block) {
    const struct pnx_reclaim *constant = PNX_CONTAINER(block, const struct pnx_reclaim, block);
    struct pnx_reclaim *domain = (struct pnx_reclaim *)(uintptr_t)constant;
    pnx__mutex_lock(&domain->lock);
    pnx__reclaim_gauges(domain);
    pnx__mutex_unlock(&domain->lock);
}

/* Everything but name, env, options, registry and the place among all domains. */
static void init(struct pnx_reclaim *domain, bool fenced) {
    domain->magic = MAGIC;
    domain->fenced = fenced;
    pnx_store(&domain->references, 1, PNX_RELAXED, "reclaim.create"); /* nobody else knows it */
    pnx_store(&domain->values.fences, fenced, PNX_RELAXED, "reclaim.stat_fences"); /* likewise */
    pnx__mutex_init(&domain->lock, PNX_RANK_RECLAIM);
    pnx__reclaim_stats_init(&domain->block, domain->name, &domain->values, NULL);
    domain->block.refresh = refresh;
}

static void default_start(void) {
    static char name[] = "default";
    struct pnx_reclaim *domain = &default_domain;
    int rc = pnx__env_resolve(NULL, NULL, &domain->env);
    if (rc == 0)
        rc = pnx__opts_resolve(&options, NULL, &domain->opts, NULL);
    PNX_DEBUG_CHECK(rc == 0);
    domain->name = name;
    init(domain, !pnx__barrier_is_asymmetric());
    domain->head.index = 0;
    (void)pnx__reclaim_list_add(domain); /* the first */
    pnx__reclaim_threads_init();
    pnx__stats_add(NULL, &domain->block);
}

struct pnx_reclaim *pnx_reclaim_default(void) {
    pthread_once(&default_once, default_start);
    return &default_domain;
}

struct pnx_reclaim *pnx__reclaim_resolve(struct pnx_reclaim *domain) {
    if (!domain)
        return pnx_reclaim_default();
    check(domain);
    return domain;
}

/* ---- making and ending ---- */

static int cleanup(void *arg, const struct pnx_cancel *cancel) {
    return pnx_reclaim_close(arg, pnx_cancel_remaining(cancel));
}

static int add_row(struct pnx_reclaim *domain, struct pnx_error *err) {
    if (domain->opts.registry == pnx_registry_off())
        return 0;
    struct pnx_resource resource = {
            .size = sizeof(resource),
            .type = "reclaim domain",
            .name = domain->name,
            .site = domain->opts.site,
            .cleanup = cleanup,
            .arg = domain,
            .bytes = sizeof(*domain),
            .flags = PNX_RESOURCE_LONG_LIVED,
    };
    struct pnx_registry *registry = pnx_registry_ref(domain->opts.registry);
    int rc = pnx_registry_add(registry, &resource, err, &domain->id);
    if (rc)
        pnx_registry_release(&registry);
    else
        domain->registry = registry;
    return rc;
}

static void free_domain(struct pnx_reclaim *domain) {
    struct pnx_env env = domain->env;
    pnx__stats_remove(&domain->block);
    pnx__mutex_destroy(&domain->lock);
    pnx__strfree(&env, domain->name);
    domain->magic = 0;
    pnx__free(&env, domain, 1, sizeof(*domain));
}

int pnx_reclaim_create(const struct pnx_reclaim_opts *user, struct pnx_error *err,
        struct pnx_reclaim **ret_domain) {
    struct pnx_reclaim_opts opts;
    struct pnx_env env;
    int rc = pnx__opts_resolve(&options, user, &opts, err);
    if (rc == 0)
        rc = pnx__env_resolve(opts.env, err, &env);
    if (rc)
        return rc;
    if (!ret_domain)
        return pnx__fail_field(err, -EINVAL, "ret_domain", "reclaim: ret_domain is NULL");
    pnx_reclaim_default(); /* has the index 0, and knows of threads' ends and forks */
    bool asymmetric = pnx__barrier_is_asymmetric();
    if (opts.mode == PNX_RECLAIM_MEMBARRIER && !asymmetric)
        return pnx__fail_field(err, -ENOTSUP, "mode", "reclaim: the kernel refuses membarrier");
    struct pnx_reclaim *domain = pnx__alloc(&env, 1, sizeof(*domain));
    if (!domain)
        return pnx__fail(err, -ENOMEM, 0, "create", "reclaim: out of memory");
    domain->env = env;
    domain->opts = opts;
    domain->name = pnx__strdup(&env, opts.name ? opts.name : "reclaim");
    if (!domain->name) {
        pnx__free(&env, domain, 1, sizeof(*domain));
        return pnx__fail(err, -ENOMEM, 0, "create", "reclaim: out of memory");
    }
    init(domain, opts.mode == PNX_RECLAIM_FENCES || !asymmetric);
    domain->head.index = 1;
    rc = pnx__reclaim_list_add(domain);
    if (rc) {
        pnx__fail(err, rc, 0, "create", "reclaim: there are %d domains already",
                PNX_RECLAIM_DOMAINS_MAX);
        goto fail;
    }
    pnx__stats_add(opts.stats, &domain->block);
    rc = add_row(domain, err);
    if (rc == 0) {
        *ret_domain = domain;
        return 0;
    }
    pnx__stats_remove(&domain->block); /* first: a refresh walks the sections */
    pnx__reclaim_part(domain);
fail:
    free_domain(domain);
    return rc;
}

struct pnx_reclaim *pnx_reclaim_ref(struct pnx_reclaim *handle) {
    struct pnx_reclaim *domain = pnx__reclaim_resolve(handle);
    pnx_fetch_add(&domain->references, 1, PNX_RELAXED, "reclaim.ref"); /* the caller holds one */
    return domain;
}

static uint64_t pending(struct pnx_reclaim *domain) {
    pnx__mutex_lock(&domain->lock);
    pnx__reclaim_gauges(domain);
    uint64_t n = pnx_load(&domain->values.pending, PNX_RELAXED, "reclaim.pending"); /* the lock */
    pnx__mutex_unlock(&domain->lock);
    return n;
}

int pnx_reclaim_close(struct pnx_reclaim *handle, pnx_ns timeout) {
    struct pnx_reclaim *domain = pnx__reclaim_resolve(handle);
    int rc = pnx__timeout(timeout, PNX_NEVER, NULL, &timeout);
    if (rc)
        return rc;
    pnx_ns deadline = pnx__deadline(pnx__now(&domain->env), timeout);
    pnx_ns left = timeout;
    for (int tries = 0; timeout ? left > 0 : tries < ROUNDS_MAX; tries++) {
        rc = pnx_reclaim_barrier(domain, left);
        if (rc || pending(domain) == 0)
            return rc;
        left = pnx__remaining(pnx__now(&domain->env), deadline);
    }
    return -ETIMEDOUT;
}

/* Runs what is left; 0 when nothing is. */
static int empty(struct pnx_reclaim *domain, const char **ret_cause) {
    for (int round = 0; round < ROUNDS_MAX; round++) {
        struct pnx_reclaim_effects effects = {0};
        pnx__mutex_lock(&domain->lock);
        pnx__reclaim_step(domain, PNX_BEGIN_ALWAYS, &effects);
        bool broken = domain->broken, open = domain->begun != domain->ended;
        bool runs = pnx__reclaim_runs(domain);
        pnx__mutex_unlock(&domain->lock);
        *ret_cause = broken ? "membarrier" : open ? "a section is open" : "its callbacks run";
        if (broken || open || runs)
            return broken ? PNX_E_BROKEN : -EBUSY;
        pnx__reclaim_run(domain, UINT64_MAX, true);
        if (pending(domain) == 0)
            return 0;
    }
    *ret_cause = "its callbacks retire without end";
    return -EBUSY;
}

/* The last reference is gone. */
static void end(struct pnx_reclaim *domain) {
    if (domain->registry) {
        (void)pnx_registry_remove(domain->registry, domain->id); /* waits for a running cleanup */
        pnx_registry_release(&domain->registry);
    }
    const char *cause;
    int rc = empty(domain, &cause);
    if (rc == 0) {
        pnx__stats_remove(&domain->block); /* first: a refresh walks the sections */
        pnx__reclaim_part(domain);
        free_domain(domain);
        return;
    }
    pnx__event(&domain->block, PNX_EVENT_RECLAIM_ABANDONED, domain->name, rc, cause,
            (int64_t)pending(domain), 0);
}

void pnx_reclaim_release(struct pnx_reclaim **handle) {
    if (!handle || !*handle)
        return;
    struct pnx_reclaim *domain = *handle;
    *handle = NULL;
    check(domain);
    if (domain == &default_domain)
        return; /* the process's */
    /* Acq_rel: pairs with itself; all that other holders did comes before the end. */
    if (pnx_fetch_sub(&domain->references, 1, PNX_ACQ_REL, "reclaim.release") == 1)
        end(domain);
}

int pnx_reclaim_unload(pnx_ns timeout) {
    struct pnx_reclaim *domain = pnx_reclaim_default();
    if (pnx__reclaim_others())
        return -EBUSY;
    int rc = pnx_reclaim_close(domain, timeout);
    if (rc)
        return rc;
    pnx__stats_remove(&domain->block);
    pnx__reclaim_part(domain); /* its sections are part of the records */
    pnx__threads_forget();
    return 0;
}

int pnx_reclaim_read_stats(struct pnx_reclaim *handle, struct pnx_reclaim_stats *ret_stats) {
    struct pnx_reclaim_stats stats = {0};
    if (!ret_stats || ret_stats->size < sizeof(size_t))
        return -EINVAL;
    size_t size = ret_stats->size < sizeof(stats) ? ret_stats->size : sizeof(stats);
    struct pnx_reclaim *domain = pnx__reclaim_resolve(handle);
    static_assert(sizeof(stats) == sizeof(size_t) + sizeof(domain->values), "one row, one word");
    (void)pending(domain);
    pnx__stats_read(&domain->block, &stats.retired);
    stats.size = size;
    memcpy(ret_stats, &stats, size);
    return 0;
}
