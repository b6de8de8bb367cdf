/* SPDX-License-Identifier: Apache-2.0 */
/*
 * share/config_history.c - the versions that are kept, and going back to one.
 *
 * The newest record is the one in force; history_room is fixed at creation, so that publishing allocates nothing here.
 * Conservation: 1 <= history_n <= history_room, and the versions fall from history[0] on.
 */
#include "share/config.h"

#include <string.h>

struct pnx_config_record *pnx__config_record_new(
        const struct pnx_config *config, const void *value, struct pnx_config_applied *applied) {
    struct pnx_config_record *record = pnx__alloc(&config->env, 1, sizeof(*record));
    if (!record)
        return NULL;
    record->value = pnx_rc_ref(value);
    record->applied = pnx__config_applied_ref(applied);
    return record;
}

void pnx__config_record_free(const struct pnx_config *config, struct pnx_config_record *record) {
    if (!record)
        return;
    pnx_rc_unref(record->value);
    pnx__config_applied_unref(config, record->applied);
    pnx__free(&config->env, record, 1, sizeof(*record));
}

struct pnx_config_record *pnx__config_history_push_locked(
        struct pnx_config *config, struct pnx_config_record *record) {
    struct pnx_config_record *old = NULL;
    pnx__mutex_assert_held(&config->lock);
    if (config->history_n == config->history_room)
        old = config->history[--config->history_n];
    memmove(&config->history[1], &config->history[0],
            config->history_n * sizeof(struct pnx_config_record *));
    config->history[0] = record;
    config->history_n++;
    return old;
}

/* Finds a version; 0 is the newest older than the one that brought the value in force. */
static struct pnx_config_record *find_locked(struct pnx_config *config, uint64_t version) {
    uint64_t origin = config->history[0]->entry.value_of;
    for (uint32_t i = 0; i < config->history_n; i++) {
        struct pnx_config_record *record = config->history[i];
        if (version ? record->entry.version == version : record->entry.version < origin)
            return record;
    }
    return NULL;
}

/* Makes a new record with the value of an old one. */
static int copy_record(struct pnx_config *config, uint64_t version, struct pnx_error *err,
        struct pnx_config_record **ret_record) {
    pnx__mutex_lock(&config->lock);
    struct pnx_config_record *old = find_locked(config, version); /* stays: the latch is ours */
    uint64_t in_force = config->history[0]->entry.value_of;
    pnx__mutex_unlock(&config->lock);
    if (!old)
        return pnx__fail(err, -ENOENT, 0, "rollback",
                version ? "%s: version %llu is not kept" : "%s: no version before is kept",
                config->name, (unsigned long long)version);
    if (old->entry.value_of == in_force)
        return pnx__fail(err, -ENOENT, 0, "rollback", "%s: the value of version %llu is in force",
                config->name, (unsigned long long)old->entry.version);
    struct pnx_config_record *record = pnx__config_record_new(config, old->value, old->applied);
    if (!record)
        return pnx__fail(err, -ENOMEM, 0, "rollback", "%s: out of memory", config->name);
    record->print = old->print;
    record->entry = old->entry;
    record->entry.origin = PNX_CONFIG_FROM_ROLLBACK;
    record->entry.rollout = 0;
    *ret_record = record;
    return 0;
}

static int refuse_rollback(
        struct pnx_config *config, pnx_ns now, const struct pnx_error *why, struct pnx_error *err) {
    pnx__log(&config->env, PNX_LOG_ERROR, "%s: not rolled back: %s", config->name, why->message);
    pnx__event(&config->block, PNX_EVENT_CONFIG_REFUSED, config->name, why->code, "rollback",
            (int64_t)pnx_snapshot_version(config->values), now);
    if (err)
        *err = *why;
    return why->code;
}

int pnx__config_rollback_owned(
        struct pnx_config *config, pnx_ns now, uint64_t version, struct pnx_error *err) {
    struct pnx_config_record *record = NULL;
    struct pnx_error why = {0};
    int rc = copy_record(config, version, err, &record);
    if (rc)
        return rc;
    uint64_t origin = record->entry.value_of;
    const void *current = pnx_snapshot_load(config->values, NULL);
    rc = pnx__config_validate(config, record->value, current, &why);
    pnx_rc_unref(current);
    if (rc == 0) {
        const struct pnx_error ended = {.code = -ECANCELED, .phase = "rollback"};
        /* First: nobody may be given the candidate besides what was put back. */
        pnx__config_rollout_end(config, now, &ended, true);
        rc = pnx__config_publish(config, now, "rollback", record, &why);
    }
    if (rc) {
        pnx__config_record_free(config, record);
        return refuse_rollback(
                config, now, &why, err); /* closed meanwhile is told too: it was asked for */
    }
    pnx__config_hold(config, &config->accepted, PNX_CONFIG_HOLD_ROLLBACK);
    pnx__config_count(config, &config->counts.rollbacks);
    pnx__event(&config->block, PNX_EVENT_CONFIG_ROLLED_BACK, config->name, 0, NULL, (int64_t)origin,
            now);
    return 0;
}

/* ---- asking ---- */

static struct pnx_mutex *lock_of(const struct pnx_config *config) {
    return &((struct pnx_config *)(uintptr_t)config)->lock;
}

int pnx_config_history(const struct pnx_config *config, struct pnx_config_entry *entries,
        size_t cap, size_t *ret_count) {
    if (!config || (!entries && cap))
        return -EINVAL;
    pnx__config_check(config);
    pnx__mutex_lock(lock_of(config));
    size_t n = config->history_n;
    for (size_t i = 0; i < n && i < cap; i++)
        entries[i] = config->history[i]->entry;
    pnx__mutex_unlock(lock_of(config));
    if (ret_count)
        *ret_count = n;
    return 0;
}

int pnx_config_load_version(struct pnx_config *config, uint64_t version, const void **ret_value) {
    if (!config || !ret_value || version == 0)
        return -EINVAL;
    pnx__config_check(config);
    pnx__mutex_lock(&config->lock);
    const struct pnx_config_record *record = find_locked(config, version);
    const void *value = record ? pnx_rc_ref(record->value) : NULL;
    pnx__mutex_unlock(&config->lock);
    if (!value)
        return -ENOENT;
    *ret_value = value;
    return 0;
}

int pnx_config_overrides(const struct pnx_config *config, struct pnx_config_override *entries,
        size_t cap, size_t *ret_count) {
    if (!config || (!entries && cap))
        return -EINVAL;
    pnx__config_check(config);
    pnx__mutex_lock(lock_of(config));
    const struct pnx_config_applied *applied = config->history[0]->applied;
    size_t n = applied ? applied->n : 0;
    if (n && cap)
        memcpy(entries, applied->entries, (n < cap ? n : cap) * sizeof(*entries));
    pnx__mutex_unlock(lock_of(config));
    if (ret_count)
        *ret_count = n;
    return 0;
}
