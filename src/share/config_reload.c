/* SPDX-License-Identifier: Apache-2.0 */
/*
 * share/config_reload.c - noticing that the file changed, and loading it.
 *
 * Everything here runs as the owner of the config's latch, so one at a time; no mutex is held while the user's
 * functions, the events and the log run.  Time is an argument.
 *
 *     AT REST --notified, or looked and found different--> DIRTY --due--> loading --ok or refused--> AT REST
 *                  ^            each further notification --+                 |
 *                  |            puts due off, up to the cap                   |
 *                  +------------- changed while it was read: DIRTY again <----+
 *
 * Guarantees P1, P2, P4 and P5 of patinox/config.h are kept here.
 */
#include "base/hash.h"
#include "os/notify.h"
#include "share/callback.h"
#include "share/check.h"
#include "share/config.h"

#include <string.h>

#define DEBOUNCE_CAP 10 /* times debounce_ns: then it is loaded, at rest or not */
#define RESTLESS_MAX \
    10 /* times in a row that a file may change while it is read, before that is an error */

static void note_change(struct pnx_config *config, pnx_ns now) {
    if (!config->dirty) {
        config->dirty = true;
        config->dirty_at = now;
    }
    pnx_ns cap = pnx__deadline(config->dirty_at, DEBOUNCE_CAP * config->debounce_ns);
    pnx_ns due = pnx__deadline(now, config->debounce_ns);
    config->due_at = due < cap ? due : cap;
}

/* ---- watching ---- */

/* Brings the watches to where the path leads now, and says how changes are noticed. */
static void refresh_watch(struct pnx_config *config, pnx_ns now) {
    if ((config->flags & PNX_CONFIG_NO_WATCH) || pnx__config_forked(config))
        return;
    bool asked = (config->flags & PNX_CONFIG_POLL) != 0;
    int rc = config->watch_error;
    if (!asked && pnx__watcher_usable(&config->watcher))
        rc = pnx__watcher_refresh(&config->watcher);
    bool polls = asked || rc != 0;
    if (polls && !config->polls)
        config->poll_at = pnx__deadline(now, config->poll_ns);
    config->polls = polls;
    config->watch_error = rc;
    pnx__mutex_lock(&config->lock);
    bool news = rc != 0 && config->status.watch_error != rc;
    config->status.watch_error = rc;
    if (!config->closed) {
        config->status.watch = polls ? PNX_CONFIG_WATCH_POLL : PNX_CONFIG_WATCH_INOTIFY;
        pnx_store(&config->counts.polling, polls, PNX_RELAXED, "config.polling"); /* the lock */
    }
    pnx_store(&config->counts.watches, config->watcher.watches, PNX_RELAXED, "config.watches");
    pnx__mutex_unlock(&config->lock);
    if (news)
        pnx__log(&config->env, PNX_LOG_WARNING, "%s: inotify cannot watch all of %s (%s); polled",
                config->name, config->prefix, pnx_errname(rc));
}

/* Whether the file is another one, or another state of it, than was read last; by its times and size. */
static bool looks_different(struct pnx_config *config) {
    struct pnx_file_info info = {0};
    const struct pnx_config_seen *seen = &config->seen;
    int rc = pnx__os_stat(config->path, &info);
    if (rc != seen->code)
        return true;
    const struct pnx_file_info *old = &seen->info;
    return rc == 0 &&
           (info.device != old->device || info.inode != old->inode || info.size != old->size ||
                   info.mtime_ns != old->mtime_ns || info.ctime_ns != old->ctime_ns);
}

static void poll_file(struct pnx_config *config, pnx_ns now) {
    config->poll_at = pnx__deadline(now, config->poll_ns);
    if (config->watch_error)
        refresh_watch(config, now); /* what stood in the way may be gone */
    if (config->dirty)
        return;
    if (looks_different(config)) {
        config->look_again = true;
        note_change(config, now);
    } else if (config->look_again) {
        config->look_again = false; /* a second edit within one tick of the file system's clock */
        note_change(config, now);
    }
}

/* ---- loading ---- */

static void count(struct pnx_config *config, struct pnx_a64 *counter) {
    pnx__mutex_lock(&config->lock);
    pnx_owner_add(counter, 1);
    pnx__mutex_unlock(&config->lock);
}

/* Parses and validates a text. */
static int make_value(struct pnx_config *config, const struct pnx_text *text, const void *current,
        struct pnx_error *err, void **ret_value) {
    struct pnx_error said = {0};
    void *value = NULL;
    pnx__mutex_assert_none_held();
    int rc = pnx__callback_code(config->parse(config->ctx, text->bytes, text->n, &said, &value));
    if (rc)
        return pnx__callback_fail(err, rc, &said, "parse", config->prefix);
    if (!value)
        return pnx__fail(err, -EINVAL, 0, "parse", "%s: parse gave no value", config->prefix);
    if (config->validate) {
        said = (struct pnx_error){0};
        rc = pnx__callback_code(config->validate(config->ctx, value, current, &said));
        if (rc) {
            pnx_rc_unref(value);
            return pnx__callback_fail(err, rc, &said, "validate", config->prefix);
        }
    }
    *ret_value = value;
    return 0;
}

/* Reads the file and remembers what it was. */
static int read_file(struct pnx_config *config, struct pnx_error *err, struct pnx_text *ret_text) {
    int rc = pnx__config_read(
            &config->env, config->path, config->prefix, config->max_bytes, err, ret_text);
    if (rc == 0) {
        config->seen.code = 0;
        config->seen.info = ret_text->info;
        return 0;
    }
    /* What a look at it would find now: so that polling tries again only when that is different. */
    struct pnx_file_info info = {0};
    config->seen.code = pnx__os_stat(config->path, &info);
    config->seen.info = info;
    if (!config->seen.good)
        config->seen.text = false; /* the same bad text after this is told again */
    return rc;
}

static bool same_text(const struct pnx_config *config, const struct pnx_text *text, uint64_t hash) {
    return config->seen.text && config->seen.bytes == text->n && config->seen.hash == hash;
}

static void remember_text(
        struct pnx_config *config, const struct pnx_text *text, uint64_t hash, bool good) {
    config->seen.text = true;
    config->seen.hash = hash;
    config->seen.bytes = text->n;
    config->seen.good = good;
}

/* Some reasons are not the file's: no memory, no descriptor.  Nothing will notify when they have passed. */
static void try_later(struct pnx_config *config, pnx_ns now, int code) {
    enum pnx_recovery recovery = pnx_recovery(code);
    if (recovery != PNX_RECOVERY_RETRY && recovery != PNX_RECOVERY_FALLBACK)
        return;
    config->seen.text = false;
    if (config->dirty)
        return;
    config->dirty = true;
    config->dirty_at = now;
    config->due_at = pnx__deadline(now, config->poll_ns);
}

/* The last good value stays: says why, once per cause. */
static int refuse(
        struct pnx_config *config, pnx_ns now, const struct pnx_error *why, struct pnx_error *err) {
    struct pnx_config_status *status = &config->status;
    try_later(config, now, why->code);
    pnx__mutex_lock(&config->lock);
    bool news = status->error.code != why->code || strcmp(status->error.message, why->message) != 0;
    uint64_t version = status->version;
    status->error = *why;
    status->failed_at = now;
    status->failed_real_ns = config->env.real_ns(config->env.ctx);
    pnx_owner_add(&config->counts.refusals, 1);
    pnx__mutex_unlock(&config->lock);
    pnx__health_set(&config->block, PNX_HEALTH_DEGRADED,
            "the file is missing or refused; the last good settings stay");
    if (err)
        *err = *why;
    if (!news)
        return why->code;
    pnx__log(&config->env, PNX_LOG_ERROR, "%s: %s (version %llu stays)", config->name, why->message,
            (unsigned long long)version);
    pnx__event(&config->block, PNX_EVENT_CONFIG_REFUSED, config->name, why->code, why->phase,
            (int64_t)version, now);
    return why->code;
}

/* The file's last attempt is fine; the value may be new. */
static void accept(struct pnx_config *config, pnx_ns now, uint64_t version) {
    struct pnx_config_status *status = &config->status;
    int64_t real = config->env.real_ns(config->env.ctx);
    pnx__mutex_lock(&config->lock);
    status->error = (struct pnx_error){0};
    status->failed_at = 0;
    status->failed_real_ns = 0;
    if (version) {
        status->version = version;
        status->changed_at = now;
        status->changed_real_ns = real;
        pnx_store(&config->counts.version, version, PNX_RELAXED, "config.version");
        pnx_owner_add(&config->counts.changes, 1);
    } else {
        pnx_owner_add(&config->counts.unchanged, 1);
    }
    pnx__mutex_unlock(&config->lock);
    pnx__health_set(&config->block, PNX_HEALTH_OK, "");
}

static int publish(
        struct pnx_config *config, pnx_ns now, const void *value, struct pnx_error *err) {
    uint64_t version = 0;
    int rc = pnx_snapshot_store(config->values, value, err, &version);
    if (rc) {
        if (err)
            err->phase = "publish";
        return rc;
    }
    accept(config, now, version);
    pnx__log(&config->env, PNX_LOG_INFO, "%s: version %llu loaded from %s", config->name,
            (unsigned long long)version, config->prefix);
    pnx__event(
            &config->block, PNX_EVENT_CONFIG_CHANGED, config->name, 0, NULL, (int64_t)version, now);
    if (config->on_change) {
        pnx__mutex_assert_none_held();
        config->on_change(config->ctx, value, version);
    }
    return 0;
}

static int load_text(struct pnx_config *config, pnx_ns now, bool quiet, struct pnx_text *text,
        struct pnx_error *err) {
    uint64_t hash = pnx__hash(config->seed, text->bytes, text->n);
    if (quiet && same_text(config, text, hash)) {
        if (config->seen.good)
            accept(config, now, 0); /* it was missing for a while, or unreadable, perhaps */
        return 0;
    }
    void *value = NULL;
    struct pnx_error why = {0};
    const void *current = pnx_snapshot_load(config->values, NULL);
    int rc = make_value(config, text, current, &why, &value);
    pnx_rc_unref(current);
    /* Remembered before anybody is told, and by its outcome: the same bad text is not tried again and again. */
    remember_text(config, text, hash, rc == 0);
    if (rc)
        return refuse(config, now, &why, err);
    rc = publish(config, now, value, &why);
    config->seen.text = rc == 0; /* what kept it from being published may pass */
    pnx_rc_unref(value);
    if (rc == -ESHUTDOWN && err)
        *err = why; /* closed meanwhile: nothing is wrong with the file */
    return rc && rc != -ESHUTDOWN ? refuse(config, now, &why, err) : rc;
}

int pnx__config_load_owned(
        struct pnx_config *config, pnx_ns now, bool quiet, struct pnx_error *err) {
    struct pnx_error why = {0};
    struct pnx_text text = {0};
    count(config, &config->counts.reloads);
    config->dirty = false;
    refresh_watch(config, now); /* first: what changes from here on is heard of */
    int rc = read_file(config, &why, &text);
    if (rc == -EAGAIN) {
        count(config, &config->counts.retries);
        note_change(config, now);
        if (quiet && ++config->restless < RESTLESS_MAX)
            return rc;
    }
    config->restless = 0;
    if (rc)
        return refuse(config, now, &why, err);
    rc = load_text(config, now, quiet, &text, err);
    pnx__config_text_free(&config->env, &text);
    return rc;
}

pnx_ns pnx__config_tick_owned(struct pnx_config *config, pnx_ns now) {
    if ((config->flags & PNX_CONFIG_NO_WATCH) || pnx__config_forked(config))
        return PNX_NEVER;
    uint64_t before = config->watcher.events;
    int rc = pnx__watcher_read(&config->watcher);
    if (rc < 0) {
        config->watch_error = rc; /* the descriptor is of no use any more */
        refresh_watch(config, now);
    }
    if (config->watcher.events != before) {
        pnx__mutex_lock(&config->lock);
        pnx_owner_add(&config->counts.watch_events, config->watcher.events - before);
        pnx__mutex_unlock(&config->lock);
    }
    if (rc != 0)
        note_change(config, now); /* an error, too, may hide one */
    if (config->polls && now >= config->poll_at)
        poll_file(config, now);
    if (config->dirty && now >= config->due_at)
        (void)pnx__config_load_owned(config, now, true, NULL);
    pnx_ns next = config->dirty ? config->due_at : PNX_NEVER;
    return config->polls && config->poll_at < next ? config->poll_at : next;
}

int pnx__config_first(struct pnx_config *config, struct pnx_error *err, void **ret_value) {
    struct pnx_text text = {0};
    pnx_ns now = pnx__now(&config->env);
    int rc = 0;
    refresh_watch(config, now);
    for (int i = 0; i < RESTLESS_MAX; i++) {
        rc = read_file(config, err, &text);
        if (rc != -EAGAIN)
            break;
    }
    if (rc)
        return rc;
    rc = make_value(config, &text, NULL, err, ret_value);
    if (rc == 0) {
        remember_text(config, &text, pnx__hash(config->seed, text.bytes, text.n), true);
        config->status.version = 1;
        config->status.changed_at = now;
        config->status.changed_real_ns = config->env.real_ns(config->env.ctx);
        pnx_store(
                &config->counts.version, 1, PNX_RELAXED, "config.first"); /* nobody else knows it */
    }
    pnx__config_text_free(&config->env, &text);
    return rc;
}
