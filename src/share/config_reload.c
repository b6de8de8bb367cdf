/* SPDX-License-Identifier: Apache-2.0 */
/*
 * share/config_reload.c - noticing that the text changed, and when it is to be loaded.
 *
 * Everything here runs as the owner of the config's latch, so one at a time; no mutex is held while the user's
 * functions, the events and the log run.  Time is an argument.
 *
 *     AT REST --notified, or looked and found different--> DIRTY --due--> loading --ok or refused--> AT REST
 *                  ^            each further notification --+                 |
 *                  |            puts due off, up to the cap                   |
 *                  +------------- changed while it was read: DIRTY again <----+
 *
 * What was refused for a reason that may pass is loaded again after poll_ns, unless a change comes first.
 *
 * A source is not looked at but asked: each poll fetches, and what it gives is whole, so it is loaded at once.
 *
 * Guarantees P2 and P4 of patinox/config.h are kept here.
 */
#include "os/notify.h"
#include "share/config.h"

#define DEBOUNCE_CAP 10 /* times debounce_ns: then it is loaded, at rest or not */

/* Whether changes of a file have to be looked for. */
static bool looks(const struct pnx_config *config) {
    return config->polls && !config->opts.source;
}

void pnx__config_note_change(struct pnx_config *config, pnx_ns now) {
    if (looks(config))
        config->met.code = pnx__os_stat(config->path, &config->met.info);
    if (!config->dirty) {
        config->dirty = true;
        config->dirty_at = now;
    }
    pnx_ns cap = pnx__deadline(config->dirty_at, DEBOUNCE_CAP * config->opts.debounce_ns);
    pnx_ns due = pnx__deadline(now, config->opts.debounce_ns);
    config->due_at = due < cap ? due : cap;
}

/* ---- watching ---- */

void pnx__config_refresh_watch(struct pnx_config *config, pnx_ns now) {
    if ((config->opts.flags & PNX_CONFIG_NO_WATCH) || pnx__config_forked(config))
        return;
    bool asked = (config->opts.flags & PNX_CONFIG_POLL) || config->opts.source;
    int rc = config->watch_error;
    if (!asked && pnx__watcher_usable(&config->watcher))
        rc = pnx__watcher_refresh(&config->watcher);
    bool polls = asked || rc != 0;
    if (polls && !config->polls)
        config->poll_at = pnx__deadline(now, config->opts.poll_ns);
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
    int rc = pnx__os_stat(config->path, &info);
    return rc ? rc != config->seen.at.code : !pnx__config_same_file(&config->seen.at, &info);
}

static void poll(struct pnx_config *config, pnx_ns now) {
    config->poll_at = pnx__deadline(now, config->opts.poll_ns);
    if (config->watch_error)
        pnx__config_refresh_watch(config, now); /* what stood in the way may be gone */
    if (config->dirty)
        return;
    if (config->opts.source) {
        (void)pnx__config_load_owned(config, now, true, NULL);
        return;
    }
    bool again = config->look_again;
    config->look_again = false;
    if (looks_different(config) || again)
        pnx__config_note_change(config, now);
}

/*
 * Whether what is due rests.  Where nothing notifies, a file that has changed since it was met is still being written:
 * that puts its loading off as a notification would.
 */
static bool rests(struct pnx_config *config, pnx_ns now) {
    struct pnx_file_info info = {0};
    if (!looks(config))
        return true;
    int rc = pnx__os_stat(config->path, &info);
    if (rc ? rc == config->met.code : pnx__config_same_file(&config->met, &info))
        return true;
    pnx__config_note_change(config, now);
    return now >= config->due_at; /* the cap */
}

/* ---- ticking ---- */

/* Takes what inotify and pnx_config_notify() have to say. */
static void hear(struct pnx_config *config, pnx_ns now) {
    uint64_t before = config->watcher.events;
    int rc = pnx__watcher_read(&config->watcher);
    if (rc < 0) {
        config->watch_error = rc; /* the descriptor is of no use any more */
        pnx__config_refresh_watch(config, now);
    }
    if (config->watcher.events != before) {
        pnx__mutex_lock(&config->lock);
        pnx_owner_add(&config->counts.watch_events, config->watcher.events - before);
        pnx__mutex_unlock(&config->lock);
    }
    /* acquire: pairs with config.notify; what the caller did before it comes before our looking */
    bool notified = pnx_exchange(&config->notified, 0, PNX_ACQUIRE, "config.hear") != 0;
    if (rc != 0 || notified)
        pnx__config_note_change(config, now); /* an error, too, may hide one */
}

/* Looks, and loads what is due.  Returns when to look again. */
static pnx_ns look(struct pnx_config *config, pnx_ns now) {
    if (config->opts.flags & PNX_CONFIG_NO_WATCH)
        return PNX_NEVER;
    hear(config, now);
    if (config->polls && now >= config->poll_at)
        poll(config, now);
    if (config->dirty ? now >= config->due_at && rests(config, now) : now >= config->retry_at)
        (void)pnx__config_load_owned(config, now, true, NULL);
    pnx_ns next = config->dirty ? config->due_at : config->retry_at;
    return config->polls && config->poll_at < next ? config->poll_at : next;
}

pnx_ns pnx__config_tick_owned(struct pnx_config *config, pnx_ns now) {
    if (pnx__config_forked(config))
        return PNX_NEVER;
    pnx_ns next = look(config, now);
    pnx_ns rollout = pnx__config_rollout_tick(config, now);
    next = rollout < next ? rollout : next;
    pnx_ns deaf = pnx__deadline(now, config->opts.poll_ns); /* nobody can wake the loop */
    return config->deaf && deaf < next ? deaf : next;
}
