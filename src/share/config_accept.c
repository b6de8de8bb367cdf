/* SPDX-License-Identifier: Apache-2.0 */
/*
 * share/config_accept.c - what is done about a text in the end: published or refused, and everybody told.
 *
 * Runs as the owner of the config's latch.  The state changes under the mutex, then, without it, the health, the log,
 * the event and on_change follow.  Guarantees P1 and P10 of patinox/config.h are kept here.
 */
#include "share/config.h"

#include <string.h>

void pnx__config_count(struct pnx_config *config, struct pnx_a64 *counter) {
    pnx__mutex_lock(&config->lock);
    pnx_owner_add(counter, 1);
    pnx__mutex_unlock(&config->lock);
}

void pnx__config_health(struct pnx_config *config) {
    pnx__mutex_lock(&config->lock);
    bool refused = config->status.error.code != 0;
    enum pnx_config_hold hold = config->status.hold;
    pnx__mutex_unlock(&config->lock);
    const char *reason = "";
    if (refused)
        reason = "the text is missing or refused; the last good settings stay";
    else if (hold == PNX_CONFIG_HOLD_ROLLBACK)
        reason = "rolled back; the text that is there is held until it changes";
    else if (hold == PNX_CONFIG_HOLD_ABORT)
        reason = "a rollout was aborted; the text that is there is held until it changes";
    pnx__health_set(&config->block, *reason ? PNX_HEALTH_DEGRADED : PNX_HEALTH_OK, reason);
}

void pnx__config_hold(
        struct pnx_config *config, const struct pnx_config_print *text, enum pnx_config_hold why) {
    config->held = why ? *text : (struct pnx_config_print){0};
    if (!config->held.set)
        why = PNX_CONFIG_HOLD_NONE;
    pnx__mutex_lock(&config->lock);
    config->status.hold = why;
    pnx_store(&config->counts.held, why != 0, PNX_RELAXED, "config.held"); /* the lock */
    pnx__mutex_unlock(&config->lock);
    pnx__config_health(config);
}

void pnx__config_unhold(struct pnx_config *config) {
    if (config->held.set)
        config->seen.print.set =
                false; /* seen, but not taken: if it cannot be read now, then later */
    pnx__config_hold(config, NULL, PNX_CONFIG_HOLD_NONE);
}

/* Some reasons are not the text's: no memory, no descriptor.  Nothing will notify when they have passed. */
static void try_later(struct pnx_config *config, pnx_ns now, int code) {
    enum pnx_recovery recovery = pnx_recovery(code);
    if (recovery != PNX_RECOVERY_RETRY && recovery != PNX_RECOVERY_FALLBACK)
        return;
    config->seen.print.set = false;
    config->seen.tag[0] = '\0';
    config->retry_at = pnx__deadline(now, config->opts.poll_ns);
}

/* The same text again, or the same reason without a text, is no news. */
static bool is_news(struct pnx_config *config, const struct pnx_config_print *text,
        const struct pnx_error *why, const struct pnx_error *before) {
    bool same_text = text ? pnx__config_same_print(text, &config->refused) : !config->refused.set;
    config->refused = text ? *text : (struct pnx_config_print){0};
    return !same_text || before->code != why->code || strcmp(before->message, why->message) != 0;
}

int pnx__config_refuse(struct pnx_config *config, pnx_ns now, const struct pnx_config_print *text,
        const struct pnx_error *why, struct pnx_error *err) {
    struct pnx_config_status *status = &config->status;
    int64_t real = config->env.real_ns(config->env.ctx);
    bool news = is_news(config, text, why, &status->error); /* written by the latch's owner only */
    try_later(config, now, why->code);
    pnx__mutex_lock(&config->lock);
    uint64_t version = status->version;
    status->error = *why;
    status->failed_at = now;
    status->failed_real_ns = real;
    pnx_owner_add(&config->counts.refusals, 1);
    pnx__mutex_unlock(&config->lock);
    pnx__config_health(config);
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

void pnx__config_accept(struct pnx_config *config, bool changed) {
    struct pnx_config_status *status = &config->status;
    config->refused.set = false;
    pnx__mutex_lock(&config->lock);
    status->error = (struct pnx_error){0};
    status->failed_at = 0;
    status->failed_real_ns = 0;
    if (!changed)
        pnx_owner_add(&config->counts.unchanged, 1);
    pnx__mutex_unlock(&config->lock);
    pnx__config_health(config);
}

void pnx__config_admit(struct pnx_config *config) {
    pnx__config_hold(config, NULL, PNX_CONFIG_HOLD_NONE);
    pnx__config_accept(config, true);
}

/* A version is there: takes it into the history and the status.  Returns the record that has to go. */
static struct pnx_config_record *enter_version(
        struct pnx_config *config, pnx_ns now, uint64_t version, struct pnx_config_record *record) {
    struct pnx_config_status *status = &config->status;
    const struct pnx_config_applied *applied = record->applied;
    struct pnx_config_entry *entry = &record->entry;
    entry->version = version;
    entry->value_of = entry->value_of ? entry->value_of : version;
    entry->overrides = applied ? applied->in_force : 0;
    entry->changed_at = now;
    entry->changed_real_ns = config->env.real_ns(config->env.ctx);
    pnx__mutex_lock(&config->lock);
    status->version = version;
    status->changed_at = now;
    status->changed_real_ns = entry->changed_real_ns;
    status->schema = entry->schema;
    status->overrides = entry->overrides;
    status->ignored = applied ? applied->n - applied->in_force : 0;
    pnx_store(&config->counts.version, version, PNX_RELAXED, "config.version"); /* the lock */
    pnx_store(&config->counts.overrides, entry->overrides, PNX_RELAXED, "config.overrides");
    if (version > 1)
        pnx_owner_add(&config->counts.changes, 1);
    struct pnx_config_record *old = pnx__config_history_push_locked(config, record);
    pnx__config_rollout_published_locked(config, record);
    pnx__mutex_unlock(&config->lock);
    return old;
}

void pnx__config_publish_first(
        struct pnx_config *config, pnx_ns now, struct pnx_config_record *record) {
    (void)enter_version(config, now, 1, record);
}

int pnx__config_publish(struct pnx_config *config, pnx_ns now, const char *cause,
        struct pnx_config_record *record, struct pnx_error *err) {
    uint64_t version = 0;
    int rc = pnx_snapshot_store(config->values, record->value, err, &version);
    if (rc) {
        if (err)
            err->phase = "publish";
        return rc;
    }
    pnx__config_record_free(config, enter_version(config, now, version, record));
    /* Of a rollback's or a rollout's record, the text that is there now may be another, and bad. */
    if (record->entry.origin != PNX_CONFIG_FROM_ROLLBACK && !record->entry.rollout)
        pnx__config_admit(config);
    pnx__log(&config->env, PNX_LOG_INFO, "%s: version %llu loaded from %s%s", config->name,
            (unsigned long long)version, config->prefix,
            record->entry.value_of != version ? ", rolled back" : "");
    pnx__event(&config->block, PNX_EVENT_CONFIG_CHANGED, config->name, 0, cause, (int64_t)version,
            now);
    if (config->opts.on_change) {
        pnx__mutex_assert_none_held();
        config->opts.on_change(config->opts.ctx, record->value, version);
    }
    return 0;
}
