/* SPDX-License-Identifier: Apache-2.0 */
/*
 * share/config_rollout.c - a change applies to a fraction first.
 *
 * The states stand in share/config.h.  Who gets the candidate is decided under the config's mutex, so that an abort,
 * which takes only that, is over for everybody when it returns; while no rollout is under way one load of a word
 * says so.  A key's place in 0 .. 999999 comes from its hash and the text's: another text, other keys first; the
 * fraction grows from 0 up, so that no key loses the candidate in a later stage.
 *
 * Time is an argument; whoever owns the latch drives it.  Guarantee P8 of patinox/config.h is kept here.
 */
#include "base/hash.h"
#include "share/callback.h"
#include "share/config.h"

#include <string.h>

#define MILLION 1000000

static bool rolls_locked(const struct pnx_config *config) {
    enum pnx_config_rollout_state state = config->rollout.state;
    return state == PNX_CONFIG_ROLLOUT_ROLLING || state == PNX_CONFIG_ROLLOUT_PROMOTING;
}

/* All transitions, and what everybody may see of them. */
static void move_locked(struct pnx_config *config, enum pnx_config_rollout_state to) {
    struct pnx_config_rollout *rollout = &config->rollout;
    struct pnx_config_status *status = &config->status;
    pnx__mutex_assert_held(&config->lock);
    rollout->state = to;
    bool rolls = rolls_locked(config);
    status->rollout = rolls ? rollout->number : 0;
    status->stage = rolls ? rollout->stage : 0;
    status->ppm = rolls ? rollout->ppm : 0;
    status->stage_at = rolls ? rollout->stage_at : 0;
    status->stage_until = rolls ? rollout->stage_until : 0;
    pnx_store(&config->counts.rollout_ppm, status->ppm, PNX_RELAXED, "config.ppm"); /* the lock */
    /* release: pairs with config.pick; who sees that none is under way sees what the last one published */
    pnx_store(&config->rolling, rolls, PNX_RELEASE, "config.rolling");
}

void pnx__config_rollout_published_locked(
        struct pnx_config *config, const struct pnx_config_record *record) {
    if (config->rollout.candidate != record)
        return;
    config->rollout.candidate = NULL; /* the history has it now */
    move_locked(config, PNX_CONFIG_ROLLOUT_NONE);
    pnx_owner_add(&config->counts.promotions, 1);
}

/* Takes the candidate out when a rollout is over; who called frees it. */
static struct pnx_config_record *clear_locked(struct pnx_config *config) {
    struct pnx_config_record *candidate = config->rollout.candidate;
    config->rollout.candidate = NULL;
    move_locked(config, PNX_CONFIG_ROLLOUT_NONE);
    return candidate;
}

/* Enters a stage; the owner of the latch only. */
static void enter_stage_locked(struct pnx_config *config, uint32_t stage, pnx_ns now) {
    struct pnx_config_rollout *rollout = &config->rollout;
    rollout->stage = stage;
    rollout->ppm = config->stages[stage].ppm;
    rollout->stage_at = now;
    rollout->stage_until = pnx__deadline(now, config->stages[stage].hold_ns);
    pnx_ns check_at = pnx__deadline(now, config->opts.check_ns);
    rollout->act_at =
            config->opts.check && check_at < rollout->stage_until ? check_at : rollout->stage_until;
    move_locked(config, PNX_CONFIG_ROLLOUT_ROLLING);
}

/* ---- beginning and ending ---- */

static void tell(struct pnx_config *config, enum pnx_event_type type, int code, const char *cause,
        uint64_t value, pnx_ns now) {
    pnx__event(&config->block, type, config->name, code, cause, (int64_t)value, now);
}

int pnx__config_rollout_begin(struct pnx_config *config, pnx_ns now,
        struct pnx_config_record *record, struct pnx_error *err) {
    struct pnx_config_rollout *rollout = &config->rollout;
    const struct pnx_error newer = {.code = -ECANCELED, .phase = "superseded"};
    pnx__config_rollout_end(config, now, &newer, false);
    pnx__mutex_lock(&config->lock);
    if (config->closed) {
        pnx__mutex_unlock(&config->lock);
        return pnx__fail(err, -ESHUTDOWN, 0, "publish", "%s: closed", config->name);
    }
    uint64_t number = ++rollout->last_number;
    rollout->number = number;
    rollout->candidate = record;
    record->entry.rollout = number;
    enter_stage_locked(config, 0, now);
    uint32_t ppm = rollout->ppm;
    pnx_owner_add(&config->counts.rollouts, 1);
    pnx__mutex_unlock(&config->lock);
    pnx__config_admit(config);
    pnx__log(&config->env, PNX_LOG_INFO, "%s: rollout %llu of %s begins with %u of a million keys",
            config->name, (unsigned long long)number, config->prefix, ppm);
    tell(config, PNX_EVENT_CONFIG_ROLLOUT_BEGUN, 0, NULL, number, now);
    return 0;
}

bool pnx__config_rollout_detach(
        struct pnx_config *config, uint64_t number, const struct pnx_error *why, bool hold) {
    struct pnx_config_rollout *rollout = &config->rollout;
    pnx__mutex_lock(&config->lock);
    bool found = rollout->state == PNX_CONFIG_ROLLOUT_ROLLING &&
                 (number == 0 || number == rollout->number);
    if (found) {
        rollout->why = *why;
        rollout->hold = hold;
        move_locked(config, PNX_CONFIG_ROLLOUT_ENDING);
    }
    pnx__mutex_unlock(&config->lock);
    return found;
}

void pnx__config_rollout_settle(struct pnx_config *config, pnx_ns now) {
    struct pnx_config_rollout *rollout = &config->rollout;
    pnx__mutex_lock(&config->lock);
    if (rollout->state != PNX_CONFIG_ROLLOUT_ENDING) {
        pnx__mutex_unlock(&config->lock);
        return;
    }
    struct pnx_error why = rollout->why;
    uint64_t number = rollout->number;
    bool hold = rollout->hold;
    struct pnx_config_record *candidate = clear_locked(config);
    config->status.aborted = number;
    config->status.aborted_error = why;
    pnx_owner_add(&config->counts.aborts, 1);
    pnx__mutex_unlock(&config->lock);
    if (hold)
        pnx__config_hold(config, &candidate->print, PNX_CONFIG_HOLD_ABORT);
    pnx__config_record_free(config, candidate);
    pnx__log(&config->env, PNX_LOG_WARNING, "%s: rollout %llu aborted (%s)%s%s", config->name,
            (unsigned long long)number, why.phase, why.message[0] ? ": " : "", why.message);
    tell(config, PNX_EVENT_CONFIG_ROLLOUT_ABORTED, why.code, why.phase, number, now);
}

void pnx__config_rollout_end(
        struct pnx_config *config, pnx_ns now, const struct pnx_error *why, bool hold) {
    (void)pnx__config_rollout_detach(config, 0, why, hold);
    pnx__config_rollout_settle(config, now);
}

/* ---- going on ---- */

/* Publishes the candidate, which somebody may abort up to here and not after. */
static int promote(struct pnx_config *config, pnx_ns now, struct pnx_error *err) {
    struct pnx_config_rollout *rollout = &config->rollout;
    pnx__mutex_lock(&config->lock);
    bool rolls = rollout->state == PNX_CONFIG_ROLLOUT_ROLLING;
    if (rolls)
        move_locked(config, PNX_CONFIG_ROLLOUT_PROMOTING);
    struct pnx_config_record *candidate = rollout->candidate;
    uint64_t number = rollout->number;
    pnx__mutex_unlock(&config->lock);
    if (!rolls)
        return pnx__fail(err, -ENOENT, 0, "rollout", "%s: the rollout was aborted", config->name);
    int rc = pnx__config_publish(config, now, "rollout", candidate, err);
    if (rc) {
        pnx__mutex_lock(&config->lock);
        rollout->act_at = pnx__deadline(now, config->opts.check_ns);
        pnx__fail(&rollout->why, -ESHUTDOWN, 0, "closed", "%s: closed", config->name);
        move_locked(
                config, config->closed ? PNX_CONFIG_ROLLOUT_ENDING : PNX_CONFIG_ROLLOUT_ROLLING);
        pnx__mutex_unlock(&config->lock);
        return rc;
    }
    pnx__log(&config->env, PNX_LOG_INFO, "%s: rollout %llu reached all", config->name,
            (unsigned long long)number);
    tell(config, PNX_EVENT_CONFIG_ROLLOUT_PROMOTED, 0, NULL, number, now);
    return 0;
}

/* The next stage, or all. */
static int advance(struct pnx_config *config, pnx_ns now, struct pnx_error *err) {
    struct pnx_config_rollout *rollout = &config->rollout;
    pnx__mutex_lock(&config->lock);
    bool rolls = rollout->state == PNX_CONFIG_ROLLOUT_ROLLING;
    bool last = rollout->stage + 1 >= config->opts.stages_count;
    if (rolls && !last)
        enter_stage_locked(config, rollout->stage + 1, now);
    uint32_t ppm = rollout->ppm;
    uint64_t number = rollout->number;
    pnx__mutex_unlock(&config->lock);
    if (!rolls || last)
        return promote(config, now, err);
    pnx__log(&config->env, PNX_LOG_INFO, "%s: rollout %llu reached %u of a million keys",
            config->name, (unsigned long long)number, ppm);
    tell(config, PNX_EVENT_CONFIG_ROLLOUT_STAGE, 0, NULL, ppm, now);
    return 0;
}

int pnx__config_rollout_go(struct pnx_config *config, pnx_ns now, uint64_t number, bool to_all,
        struct pnx_error *err) {
    pnx__mutex_lock(&config->lock);
    bool found = config->rollout.state == PNX_CONFIG_ROLLOUT_ROLLING &&
                 (number == 0 || number == config->rollout.number);
    pnx__mutex_unlock(&config->lock);
    if (!found && number)
        return pnx__fail(err, -ENOENT, 0, "rollout", "%s: rollout %llu is not under way",
                config->name, (unsigned long long)number);
    if (!found)
        return pnx__fail(err, -ENOENT, 0, "rollout", "%s: no rollout is under way", config->name);
    return to_all ? promote(config, now, err) : advance(config, now, err);
}

/* Asks the user's check.  0, -EAGAIN for "not yet", or another error: then the rollout has ended. */
static int ask(struct pnx_config *config, pnx_ns now) {
    struct pnx_config_rollout *rollout = &config->rollout;
    struct pnx_error said = {0}, why = {0};
    if (!config->opts.check)
        return 0;
    pnx__mutex_assert_none_held();
    /* The candidate stays ours even if it is aborted meanwhile: only the latch's owner frees it. */
    int rc = pnx__callback_code(
            config->opts.check(config->opts.ctx, rollout->candidate->value, rollout->ppm, &said));
    if (rc == 0 || rc == -EAGAIN)
        return rc;
    pnx__callback_fail(&why, rc, &said, "check", config->prefix);
    pnx__config_rollout_end(config, now, &why, true);
    return rc;
}

/* One look at a rollout whose time has come. */
static void act(struct pnx_config *config, pnx_ns now) {
    struct pnx_config_rollout *rollout = &config->rollout;
    bool held = now >= rollout->stage_until;
    bool paused = config->status.error.code != 0; /* written by the latch's owner only */
    pnx_ns again = pnx__deadline(now, config->opts.check_ns);
    bool sooner = !held && (!config->opts.check || rollout->stage_until < again);
    rollout->act_at = sooner ? rollout->stage_until : again;
    if (ask(config, now) == 0 && held && !paused)
        (void)advance(config, now, NULL); /* what kept it from being published may pass: act_at */
}

pnx_ns pnx__config_rollout_tick(struct pnx_config *config, pnx_ns now) {
    struct pnx_config_rollout *rollout = &config->rollout;
    pnx__config_rollout_settle(config, now);
    pnx__mutex_lock(&config->lock);
    bool rolls = rollout->state == PNX_CONFIG_ROLLOUT_ROLLING;
    pnx__mutex_unlock(&config->lock);
    if (!rolls)
        return PNX_NEVER;
    if (now >= rollout->act_at)
        act(config, now);
    pnx__mutex_lock(&config->lock);
    pnx_ns next = rollout->state == PNX_CONFIG_ROLLOUT_ROLLING ? rollout->act_at : PNX_NEVER;
    pnx__mutex_unlock(&config->lock);
    return next;
}

bool pnx__config_rollout_has(struct pnx_config *config, const struct pnx_config_print *print) {
    pnx__mutex_lock(&config->lock);
    bool same = rolls_locked(config) &&
                pnx__config_same_print(&config->rollout.candidate->print, print);
    pnx__mutex_unlock(&config->lock);
    return same;
}

/* ---- who gets it ---- */

uint64_t pnx_config_key(const void *key, size_t n) {
    return pnx__hash(0, n ? key : "", n);
}

static uint32_t place_of(uint64_t key_hash, uint64_t text_hash) {
    return (uint32_t)(((pnx__mix64(key_hash ^ text_hash) >> 32) * MILLION) >> 32);
}

const void *pnx__config_rollout_pick(struct pnx_config *config, uint64_t key_hash,
        uint64_t *ret_version, uint64_t *ret_rollout) {
    const void *value = NULL;
    /* acquire: pairs with config.rolling */
    if (!pnx_load(&config->rolling, PNX_ACQUIRE, "config.pick"))
        return NULL;
    pnx__mutex_lock(&config->lock);
    if (rolls_locked(config)) {
        const struct pnx_config_record *candidate = config->rollout.candidate;
        if (place_of(key_hash, candidate->entry.text_hash) < config->rollout.ppm) {
            value = pnx_rc_ref(candidate->value);
            *ret_version = config->status.version;
            *ret_rollout = config->rollout.number;
        }
    }
    pnx__mutex_unlock(&config->lock);
    return value;
}
