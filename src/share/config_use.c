/* SPDX-License-Identifier: Apache-2.0 */
/*
 * share/config_use.c - what users ask of a config: values, loading by hand, rollouts, its state and numbers.
 *
 * Each function here checks its arguments and enters; the work is done elsewhere (share/config.h).  What changes
 * something wakes the thread or the loop at its end: the time at which it wants to tick may be another now.
 */
#include "os/notify.h"
#include "share/config.h"

#include <patinox/watch.h>

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* ---- values ---- */

const void *pnx_config_load(struct pnx_config *config, uint64_t *ret_version) {
    pnx__config_check(config);
    return pnx_snapshot_load(config->values, ret_version);
}

const void *pnx_config_load_for(struct pnx_config *config, uint64_t key_hash, uint64_t *ret_version,
        uint64_t *ret_rollout) {
    uint64_t version = 0, rollout = 0;
    pnx__config_check(config);
    const void *value = pnx__config_rollout_pick(config, key_hash, &version, &rollout);
    if (!value)
        value = pnx_snapshot_load(config->values, &version);
    if (ret_version)
        *ret_version = version;
    if (ret_rollout)
        *ret_rollout = rollout;
    return value;
}

uint64_t pnx_config_version(const struct pnx_config *config) {
    pnx__config_check(config);
    return pnx_snapshot_version(config->values);
}

int pnx_config_wait(struct pnx_config *config, uint64_t seen, pnx_ns timeout) {
    if (!config)
        return -EINVAL;
    pnx__config_check(config);
    return pnx_snapshot_wait(config->values, seen, timeout);
}

int pnx_config_watch_open(struct pnx_config *config, const struct pnx_watch_opts *opts,
        struct pnx_error *err, struct pnx_watch **ret_watch) {
    if (!config)
        return pnx__fail_field(err, -EINVAL, "config", "config.watch_open: config is NULL");
    pnx__config_check(config);
    return pnx_watch_open(config->values, opts, err, ret_watch);
}

/* ---- doing something ---- */

enum action { RELOAD, RESUME, ROLLBACK, ADVANCE, PROMOTE };

static int act_owned(
        struct pnx_config *config, enum action action, uint64_t number, struct pnx_error *err) {
    pnx_ns now = pnx__now(&config->env);
    pnx__config_rollout_settle(config, now); /* an abort came first: it is told first */
    switch (action) {
    case RESUME:
        pnx__config_unhold(config);
        return pnx__config_load_owned(config, now, false, err);
    case RELOAD:
        return pnx__config_load_owned(config, now, false, err);
    case ROLLBACK:
        return pnx__config_rollback_owned(config, now, number, err);
    case ADVANCE:
    case PROMOTE:
        return pnx__config_rollout_go(config, now, number, action == PROMOTE, err);
    }
    return -EINVAL;
}

/* Does it as the owner of the latch. */
static int act(
        struct pnx_config *config, enum action action, uint64_t number, struct pnx_error *err) {
    if (!config)
        return pnx__fail_field(err, -EINVAL, "config", "config: config is NULL");
    pnx__config_check(config);
    pnx__config_take(config); /* a callback may release it */
    int rc = pnx__config_enter(config, err);
    if (rc == 0) {
        rc = act_owned(config, action, number, err);
        pnx__config_leave(config);
        pnx__config_wake(config);
    }
    pnx__config_drop(config);
    return rc;
}

int pnx_config_reload(struct pnx_config *config, struct pnx_error *err) {
    return act(config, RELOAD, 0, err);
}

int pnx_config_resume(struct pnx_config *config, struct pnx_error *err) {
    return act(config, RESUME, 0, err);
}

int pnx_config_rollback(struct pnx_config *config, uint64_t version, struct pnx_error *err) {
    return act(config, ROLLBACK, version, err);
}

int pnx_config_advance(struct pnx_config *config, uint64_t rollout, struct pnx_error *err) {
    return act(config, ADVANCE, rollout, err);
}

int pnx_config_promote(struct pnx_config *config, uint64_t rollout, struct pnx_error *err) {
    return act(config, PROMOTE, rollout, err);
}

int pnx_config_abort(struct pnx_config *config, uint64_t rollout, struct pnx_error *err) {
    if (!config)
        return pnx__fail_field(err, -EINVAL, "config", "config: config is NULL");
    pnx__config_check(config);
    struct pnx_error why;
    pnx__fail(&why, -ECANCELED, 0, "abort", "%s: aborted by request", config->name);
    if (!pnx__config_rollout_detach(config, rollout, &why, true))
        return pnx__fail(
                err, -ENOENT, 0, "rollout", "%s: no such rollout is under way", config->name);
    pnx__config_take(config); /* telling it may release it */
    pnx__config_settle_soon(config);
    pnx__config_drop(config);
    return 0;
}

void pnx_config_notify(struct pnx_config *config) {
    if (!config)
        return;
    pnx__config_check(config);
    /* release: pairs with config.hear */
    pnx_store(&config->notified, 1, PNX_RELEASE, "config.notify");
    pnx__config_wake(config);
}

int pnx_config_fd(const struct pnx_config *config) {
    if (!config)
        return -EINVAL;
    pnx__config_check(config);
    if (config->opts.flags & PNX_CONFIG_THREAD)
        return -ENOTSUP;
    if (config->loop_fd >= 0)
        return config->loop_fd;
    if (config->watcher.fd >= 0)
        return config->watcher.fd;
    return config->wake_fd >= 0 ? config->wake_fd : -ENOTSUP;
}

/* ---- state and numbers ---- */

int pnx_config_read_status(const struct pnx_config *config, struct pnx_config_status *ret_status) {
    struct pnx_config_status status;
    if (!config || !ret_status || ret_status->size < sizeof(size_t))
        return -EINVAL;
    pnx__config_check(config);
    struct pnx_mutex *lock = &((struct pnx_config *)(uintptr_t)config)->lock;
    pnx__mutex_lock(lock);
    status = config->status;
    pnx__mutex_unlock(lock);
    status.size = ret_status->size < sizeof(status) ? ret_status->size : sizeof(status);
    memcpy(ret_status, &status, status.size);
    return 0;
}

int pnx_config_read_stats(const struct pnx_config *config, struct pnx_config_stats *ret_stats) {
    struct pnx_config_stats stats = {0};
    if (!config || !ret_stats || ret_stats->size < sizeof(size_t))
        return -EINVAL;
    pnx__config_check(config);
    static_assert(sizeof(stats) == sizeof(size_t) + sizeof(config->counts), "one row, one word");
    pnx__stats_read(&config->block, &stats.version);
    stats.size = ret_stats->size < sizeof(stats) ? ret_stats->size : sizeof(stats);
    memcpy(ret_stats, &stats, stats.size);
    return 0;
}

int pnx_config_fail(struct pnx_error *err, int code, const char *format, ...) {
    if (!err)
        return code;
    va_list args;
    va_start(args, format);
    if (vsnprintf(err->message, sizeof(err->message), format, args) < 0)
        err->message[0] = '\0';
    va_end(args);
    err->code = code;
    return code;
}
