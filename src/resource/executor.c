/* SPDX-License-Identifier: Apache-2.0 */
/*
 * resource/executor.c - making, ticking, releasing and freeing an executor; its options and numbers.
 *
 * The public guarantees P1..P10 stand in patinox/executor.h.
 */
#include "resource/executor.h"

#include "os/file.h"
#include "os/notify.h"
#include "resource/loops.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

static_assert(sizeof(struct pnx_executor_opts) == 13 * 8 + 6 * 4, "no padding in an option struct");
static_assert(sizeof(struct pnx_executor_opts) <= PNX_OPTS_MAX_SIZE, "fits the checker");
static_assert(sizeof(struct pnx_job) == 9 * 8 + 2 * 4, "no padding in an option struct");

/* clang-format off */
static const struct pnx_opt rows[] = {
#define PNX_OPTION(field, kind, flags, dflt, lo, hi, text) \
    PNX_OPT_ROW(struct pnx_executor_opts, field, kind, flags, dflt, lo, hi, text)
#include "resource/executor_opts.def"
#undef PNX_OPTION
};
/* clang-format on */

static const struct pnx_opt_table options = {
        "executor", sizeof(struct pnx_executor_opts), rows, sizeof(rows) / sizeof(rows[0])};

int pnx_executor_opts_set(
        struct pnx_executor_opts *opts, const char *name, const char *text, struct pnx_error *err) {
    if (!opts || !name || !text)
        return pnx__fail_field(err, -EINVAL, NULL, "executor.opts_set: an argument is NULL");
    return pnx__opts_set(&options, opts, name, text, err);
}

void pnx__executor_check(const struct pnx_executor *executor) {
#ifdef PNX_DEBUG
    if (executor->magic != PNX_EXECUTOR_MAGIC)
        abort(); /* it is no executor, or was released */
#else
    (void)executor;
#endif
}

/* ---- create ---- */

static int check_opts(const struct pnx_executor_opts *user, struct pnx_executor_opts *ret_opts,
        struct pnx_error *err) {
    int rc = pnx__opts_resolve(&options, user, ret_opts, err);
    if (rc)
        return rc;
    bool max_said = user && user->size >= offsetof(struct pnx_executor_opts, queue_max) &&
                    user->max_workers != 0;
    if (ret_opts->workers > ret_opts->max_workers) {
        if (max_said)
            return pnx__fail_field(err, -EINVAL, "workers",
                    "executor.workers is %u, more than max_workers (%u)", ret_opts->workers,
                    ret_opts->max_workers);
        ret_opts->max_workers = ret_opts->workers;
    }
    if (ret_opts->backoff_ns > ret_opts->backoff_max_ns) {
        if (user && user->size > offsetof(struct pnx_executor_opts, backoff_max_ns) &&
                user->backoff_max_ns != 0)
            return pnx__fail_field(err, -EINVAL, "backoff_ns",
                    "executor.backoff_ns is %lld ns, more than backoff_max_ns (%lld ns)",
                    (long long)ret_opts->backoff_ns, (long long)ret_opts->backoff_max_ns);
        ret_opts->backoff_max_ns = ret_opts->backoff_ns;
    }
    return 0;
}

static void configure(struct pnx_executor *executor, const struct pnx_executor_opts *opts) {
    executor->site = opts->site;
    executor->block_timeout = opts->block_ns;
    executor->job_timeout = opts->timeout_ns;
    executor->linger = opts->idle_ns;
    executor->attempts = opts->attempts;
    executor->queue_max = opts->queue_max;
    executor->on_full = opts->on_full;
    executor->tick = (opts->flags & PNX_EXECUTOR_TICK) != 0;
    executor->n_threads = executor->tick ? 0 : opts->max_workers + 1; /* one to watch the timers */
    executor->tick_until = PNX_NEVER;
    executor->driving_until = PNX_NEVER;
}

/* Fills *success_ppm from the two that it depends on; under the set's lock. */
static void refresh(const struct pnx_stats_block *block) {
    struct pnx_a64 *values = block->values;
    /* Numbers for exporters, which need no order. */
    uint64_t done =
            pnx_load(&values[PNX__EXECUTOR_STAT_done], PNX_RELAXED, "executor.refresh_done");
    uint64_t failed =
            pnx_load(&values[PNX__EXECUTOR_STAT_failed], PNX_RELAXED, "executor.refresh_failed");
    uint64_t ended = done + failed;
    pnx_store(&values[PNX__EXECUTOR_STAT_success_ppm], ended ? done * 1000000 / ended : 1000000,
            PNX_RELAXED, "executor.refresh");
}

static int make_jobs(struct pnx_executor *executor, const struct pnx_executor_opts *opts) {
    struct pnx__executor_config config = {
            .ageing = opts->ageing_ns,
            .backoff = opts->backoff_ns,
            .backoff_max = opts->backoff_max_ns,
            .workers = executor->tick ? UINT32_MAX : opts->workers,
            .max_workers = executor->tick ? UINT32_MAX : opts->max_workers,
    };
    uint32_t n = executor->queue_max;
    struct pnx__job *jobs = pnx__alloc(&executor->env, n, sizeof(*jobs));
    struct pnx__job **heap = pnx__alloc(&executor->env, n, sizeof(struct pnx__job *));
    /* Ids of another executor are not taken for its own: generations start somewhere. */
    uint64_t first = executor->env.random(executor->env.ctx) >> (PNX_INDEX_BITS + 1);
    pnx__executor_core_init(
            &executor->core, &config, jobs, heap, jobs ? n : 0, first, pnx__now(&executor->env));
    for (uint32_t i = 0; jobs && i < n; i++)
        jobs[i].executor = executor;
    if (executor->n_threads > 0)
        executor->threads =
                pnx__alloc(&executor->env, executor->n_threads, sizeof(*executor->threads));
    if (!executor->threads)
        executor->n_threads = 0;
    for (uint32_t i = 0; i < executor->n_threads; i++)
        executor->threads[i].executor = executor;
    return jobs && heap && (executor->threads || executor->tick) ? 0 : -ENOMEM;
}

static int join_budget(struct pnx_executor *executor, struct pnx_budget *budget) {
    size_t bytes = sizeof(*executor) +
                   executor->queue_max * (sizeof(struct pnx__job) + sizeof(struct pnx__job *)) +
                   executor->n_threads * sizeof(struct pnx__executor_thread);
    executor->budget = pnx_budget_ref(budget ? budget : pnx_budget_default());
    int rc = pnx_budget_charge(executor->budget, bytes, 0);
    if (rc == 0)
        executor->bytes = bytes;
    return rc;
}

/* The row's cleanup, which runs once at most: it has the row's reference, and gives it back. */
static int end_by_registry(void *arg, const struct pnx_cancel *cancel) {
    struct pnx_executor *executor = arg;
    struct pnx__executor_effects effects;
    int rc = pnx_executor_close(executor, pnx_cancel_remaining(cancel), NULL);
    if (pnx__executor_forked(executor))
        return rc; /* a job that ran here has forked, and this is the child */
    pnx__executor_effects_init(&effects);
    pnx__mutex_lock(&executor->lock);
    executor->refs--;
    pnx__executor_unlock(executor, &effects);
    return rc;
}

static int join_registry(
        struct pnx_executor *executor, struct pnx_registry *registry, struct pnx_error *err) {
    struct pnx_resource resource = {
            .size = sizeof(resource),
            .type = "executor",
            .name = executor->name,
            .site = executor->site,
            .cleanup = end_by_registry,
            .arg = executor,
            .bytes = executor->bytes,
            .priority = PNX_PRIORITY_LAST, /* the others' cleanups may need it */
            .flags = PNX_RESOURCE_LONG_LIVED,
    };
    executor->registry = pnx_registry_ref(registry);
    int rc = pnx_registry_add(executor->registry, &resource, err, &executor->row);
    if (rc == 0 && executor->tick)
        pnx__loops_join(executor);
    return rc;
}

static int fill(struct pnx_executor *executor, const struct pnx_executor_opts *opts,
        struct pnx_error *err) {
    executor->name = pnx__strdup(&executor->env, opts->name ? opts->name : "executor");
    if (make_jobs(executor, opts) != 0 || !executor->name)
        return pnx__fail(
                err, -ENOMEM, 0, "create", "executor: no memory for %u jobs", opts->queue_max);
    int rc = join_budget(executor, opts->budget);
    if (rc)
        return pnx__fail(err, rc, rc, "create", "executor %.40s: the memory budget refused it: %s",
                executor->name, pnx_strerror(rc));
    if (executor->tick) {
        executor->fd = pnx__eventfd_open();
        if (executor->fd < 0)
            return pnx__fail(err, executor->fd, executor->fd, "create",
                    "executor %.40s: no descriptor: %s", executor->name,
                    pnx_strerror(executor->fd));
    }
    pnx__executor_stats_init(&executor->block, executor->name,
            (struct pnx_executor_values *)executor->core.stats, &executor->histograms);
    executor->block.refresh = refresh;
    pnx__stats_add(opts->stats, &executor->block);
    rc = executor->tick ? 0 : pnx__executor_start_first(executor);
    if (rc)
        return pnx__fail(err, rc, rc, "thread", "executor %.40s: no thread can be started: %s",
                executor->name, pnx_strerror(rc));
    return join_registry(executor, opts->registry, err);
}

int pnx_executor_create(const struct pnx_executor_opts *user, struct pnx_error *err,
        struct pnx_executor **ret_executor) {
    struct pnx_executor_opts opts;
    struct pnx_env env;
    if (!ret_executor)
        return pnx__fail_field(err, -EINVAL, "ret_executor", "executor: ret_executor is NULL");
    int rc = check_opts(user, &opts, err);
    if (rc == 0)
        rc = pnx__env_resolve(opts.env, err, &env);
    if (rc)
        return rc;
    struct pnx_executor *executor = pnx__alloc(&env, 1, sizeof(*executor));
    if (!executor)
        return pnx__fail(err, -ENOMEM, 0, "create", "executor: out of memory");
    executor->magic = PNX_EXECUTOR_MAGIC;
    executor->env = env;
    executor->fork = pnx__fork_generation();
    executor->fd = -1;
    executor->refs = 2; /* the owner's, and the row's */
    pnx__mutex_init(&executor->lock, PNX_RANK_EXECUTOR);
    pnx__list_init(&executor->waiters);
    pnx__list_init(&executor->blocked);
    pnx__list_init(&executor->parked);
    configure(executor, &opts);
    rc = fill(executor, &opts, err);
    if (rc)
        pnx_executor_release(&executor);
    else
        *ret_executor = executor;
    return rc;
}

/* ---- the end ---- */

static void free_executor(struct pnx_executor *executor) {
    struct pnx_env env = executor->env;
    uint32_t n = executor->queue_max;
    pnx__stats_remove(&executor->block);
    if (executor->bytes)
        pnx_budget_uncharge(executor->budget, executor->bytes);
    if (executor->budget)
        pnx_budget_release(&executor->budget);
    if (executor->registry)
        pnx_registry_release(&executor->registry);
    if (executor->fd >= 0)
        pnx__eventfd_close(&executor->fd);
    pnx__free(&env, executor->threads, executor->n_threads, sizeof(*executor->threads));
    pnx__free(&env, executor->core.heap, n, sizeof(struct pnx__job *));
    pnx__free(&env, executor->core.jobs, n, sizeof(struct pnx__job));
    pnx__strfree(&env, executor->name);
    pnx__mutex_destroy(&executor->lock);
    executor->magic = 0;
    pnx__free(&env, executor, 1, sizeof(*executor));
}

void pnx__executor_destroy(struct pnx_executor *executor, const struct pnx__executor_thread *self) {
    pnx__executor_join(executor, self);
    if (executor->tick)
        pnx__loops_leave(executor);
    free_executor(executor);
}

/*
 * From here on no shutdown of the registry calls end_by_registry(), and the row's reference is the caller's; or it is
 * called already (not 0), and gives that reference back.  It may wait for jobs, and they for this thread, when
 * this is inside one or is the loop that is to run them: then nobody waits here.
 */
static int leave_registry(struct pnx_executor *executor, bool inside) {
    if (executor->row == 0)
        return 0;
    if (inside || executor->tick)
        return pnx__row_leave(executor->registry, executor->row, "pnx_executor_release()");
    return pnx_registry_remove(executor->registry, executor->row);
}

void pnx_executor_release(struct pnx_executor **handle) {
    if (!handle || !*handle)
        return;
    struct pnx_executor *executor = *handle;
    *handle = NULL;
    pnx__executor_check(executor);
    if (pnx__executor_forked(executor)) {
        /* The lock may have been held, threads are the parent's: all else is freed. */
        if (executor->registry)
            (void)pnx_registry_remove(executor->registry, executor->row);
        free_executor(executor);
        return;
    }
    bool inside = pnx__executor_inside(executor);
    int rc = leave_registry(executor, inside);
    struct pnx__executor_effects effects;
    pnx__executor_effects_init(&effects);
    pnx__mutex_lock(&executor->lock);
    if (!pnx__executor_give_up(executor))
        return; /* a function that ran here has forked, and this is the child */
    if (!inside)
        pnx__executor_wait_threads(executor, PNX_NEVER); /* unless jobs run, they end at once */
    executor->released = true;
    executor->refs -= rc == 0 ? 2 : 1;
    pnx__executor_unlock(executor, &effects);
}

/* ---- without threads ---- */

/* Runs what is due at its begin, until until.  Lock held before and after.  false: forked. */
static bool run_due(struct pnx_executor *executor, pnx_ns now, pnx_ns until,
        struct pnx__executor_effects *effects) {
    pnx__executor_advance_locked(executor, now, effects);
    uint32_t due = executor->core.n[PNX__JOB_QUEUED];
    bool ran = true;
    while (ran && due-- > 0 && (until == PNX_NEVER || pnx__now(&executor->env) < until)) {
        if (!pnx__executor_drive(executor, effects, &ran))
            return false;
        pnx__executor_unlock(executor, effects);
        pnx__mutex_lock(&executor->lock);
        pnx__executor_effects_init(effects);
    }
    return true;
}

pnx_ns pnx__executor_tick_until(struct pnx_executor *executor, pnx_ns now, pnx_ns until) {
    if (!executor || pnx__executor_forked(executor) || !executor->tick)
        return PNX_NEVER;
    pnx__executor_check(executor);
    if (pnx__executor_inside(executor))
        return PNX_NEVER; /* the tick that runs this will say */
    const struct pnx_thread *self = pnx__thread();
    struct pnx__executor_effects effects;
    pnx__executor_effects_init(&effects);
    /* First the descriptor, then the flag, then the jobs: what comes in between sets it once too often at worst. */
    pnx__eventfd_clear(executor->fd);
    pnx__mutex_lock(&executor->lock);
    uint64_t driver = self ? self->id : 0;
    executor->several = executor->several || (executor->driver != 0 && executor->driver != driver);
    executor->driver = driver;
    executor->signalled =
            !executor->several; /* one loop needs no signal for what it is about to do */
    executor->refs++;           /* a job may release it */
    if (!run_due(executor, now, until, &effects))
        return PNX_NEVER;
    pnx_ns next = executor->core.next_timer;
    if (pnx__executor_core_may_start(&executor->core) && executor->core.now < next)
        next = executor->core.now;
    executor->tick_until = next;
    executor->signalled = false;
    executor->refs--;
    pnx__executor_unlock(executor, &effects);
    return next;
}

pnx_ns pnx_executor_tick(struct pnx_executor *executor, pnx_ns now) {
    return pnx__executor_tick_until(executor, now, PNX_NEVER);
}

int pnx_executor_fd(const struct pnx_executor *executor) {
    if (!executor)
        return -EINVAL;
    pnx__executor_check(executor);
    return executor->tick && !pnx__executor_forked(executor) ? executor->fd : -ENOTSUP;
}

/* ---- numbers ---- */

int pnx_executor_read_stats(
        const struct pnx_executor *executor, struct pnx_executor_stats *ret_stats) {
    if (!executor || !ret_stats || ret_stats->size < sizeof(size_t))
        return -EINVAL;
    pnx__executor_check(executor);
    refresh(&executor->block);
    struct pnx_executor_stats stats;
    size_t n = ret_stats->size < sizeof(stats) ? ret_stats->size : sizeof(stats);
    pnx__stats_read(&executor->block,
            (uint64_t *)(void *)((char *)&stats + offsetof(struct pnx_executor_stats, submitted)));
    stats.size = n;
    memcpy(ret_stats, &stats, n);
    return 0;
}
