/* SPDX-License-Identifier: Apache-2.0 */
/*
 * share/config_load.c - what becomes of a text that was read.
 *
 *                      quiet (a watch, a poll)               asked for (reload, resume)
 *   as last time       nothing new; an error may be over     a version, or a rollout
 *   held (P9)          nothing                               -ECANCELED
 *   the candidate's    nothing: it is on its way             a rollout from the start
 *   the one in force   ends a rollout, lifts a hold          a version, or a rollout
 *   any other          a version, or a rollout; or refused   the same
 *
 * A text counts together with what the environment sets over it.  Everything here runs as the owner of the config's
 * latch; no mutex is held while the user's functions, the events and the log run.
 */
#include "base/hash.h"
#include "share/check.h"
#include "share/config.h"

#include <string.h>

#define RESTLESS_MAX \
    10 /* times in a row that a file may change while it is read, before that is an error */

/* Reads the file and remembers what it was. */
static int read_file(struct pnx_config *config, struct pnx_error *err, struct pnx_text *ret_text) {
    int rc = pnx__config_read(
            &config->env, config->path, config->prefix, config->opts.max_bytes, err, ret_text);
    if (rc == 0) {
        if (!pnx__config_same_file(&config->seen.at, &ret_text->info))
            config->look_again =
                    true; /* a second edit within one tick of the file system's clock */
        config->seen.at.code = 0;
        config->seen.at.info = ret_text->info;
        return 0;
    }
    /* What a look at it would find now: so that polling tries again only when that is different. */
    struct pnx_file_info info = {0};
    config->seen.at.code = pnx__os_stat(config->path, &info);
    config->seen.at.info = info;
    return rc;
}

/* Gets the text.  1: the source says that it is the one of last time; not when fresh. */
static int get_text(
        struct pnx_config *config, bool fresh, struct pnx_error *err, struct pnx_text *ret_text) {
    int rc = config->opts.source ? pnx__config_fetch(config, fresh, err, ret_text)
                                 : read_file(config, err, ret_text);
    if (rc < 0 && !config->seen.good) {
        config->seen.print.set = false; /* the same bad text after this is told again */
        config->seen.tag[0] = '\0';
    }
    return rc;
}

static struct pnx_config_print print_of(const struct pnx_config *config,
        const struct pnx_text *text, const struct pnx_config_vars *vars) {
    return (struct pnx_config_print){.set = true,
            .bytes = text->n,
            .text = pnx__hash(config->seed, text->bytes, text->n),
            .vars = pnx__config_vars_hash(config->seed, vars)};
}

static void remember(struct pnx_config *config, const struct pnx_text *text,
        const struct pnx_config_print *print, bool good) {
    config->seen.print = *print;
    config->seen.good = good;
    memcpy(config->seen.tag, text->tag, sizeof(config->seen.tag));
}

static bool in_force(struct pnx_config *config, const struct pnx_config_print *print) {
    return pnx__config_same_print(&config->history[0]->print, print); /* only we push */
}

/* Whether there is nothing to make of a text that nobody asked for. */
static bool is_settled(struct pnx_config *config, pnx_ns now, const struct pnx_text *text,
        const struct pnx_config_print *print) {
    if (pnx__config_same_print(&config->seen.print, print)) {
        if (config->seen.good)
            pnx__config_accept(
                    config, false); /* it was missing for a while, or unreadable, perhaps */
        return true;
    }
    bool held = pnx__config_same_print(&config->held, print);
    bool current = in_force(config, print);
    if (!held && !current && !pnx__config_rollout_has(config, print))
        return false;
    remember(config, text, print, true);
    if (!held && current) {
        const struct pnx_error reverted = {.code = -ECANCELED, .phase = "reverted"};
        pnx__config_rollout_end(config, now, &reverted, false);
        pnx__config_hold(config, NULL, PNX_CONFIG_HOLD_NONE);
        config->accepted = *print;
    }
    pnx__config_accept(config, false);
    return true;
}

/* An accepted record goes to all, or to the first fraction. */
static int let_in(struct pnx_config *config, pnx_ns now, struct pnx_config_record *record,
        struct pnx_error *err) {
    const char *cause = config->opts.source ? "source" : "file";
    return config->opts.stages_count ? pnx__config_rollout_begin(config, now, record, err)
                                     : pnx__config_publish(config, now, cause, record, err);
}

static int take_text(struct pnx_config *config, pnx_ns now, const struct pnx_text *text,
        const struct pnx_config_vars *vars, const struct pnx_config_print *print,
        struct pnx_error *err) {
    struct pnx_config_record *record = NULL;
    struct pnx_error why = {0};
    const void *current = pnx_snapshot_load(config->values, NULL);
    int rc = pnx__config_make(config, text, vars, current, &why, &record);
    pnx_rc_unref(current);
    /* Remembered before anybody is told, and by its outcome: the same bad text is not tried again and again. */
    remember(config, text, print, rc == 0);
    if (rc)
        return pnx__config_refuse(config, now, print, &why, err);
    const struct pnx_config_print before = config->accepted;
    record->print = config->accepted = *print;
    rc = let_in(config, now, record, &why);
    if (rc == 0)
        return 0;
    pnx__config_record_free(config, record);
    config->accepted = before;
    config->seen.print.set = false; /* what kept it from being published may pass */
    config->seen.tag[0] = '\0';
    if (rc == -ESHUTDOWN && err)
        *err = why; /* closed meanwhile: nothing is wrong with the text */
    return rc == -ESHUTDOWN ? rc : pnx__config_refuse(config, now, print, &why, err);
}

static int load_text(struct pnx_config *config, pnx_ns now, bool quiet, const struct pnx_text *text,
        struct pnx_error *err) {
    struct pnx_config_vars vars;
    struct pnx_error why = {0};
    int rc = pnx__config_vars_collect(config, &why, &vars);
    if (rc) {
        struct pnx_config_print bare = print_of(config, text, &vars);
        remember(config, text, &bare, false);
        return pnx__config_refuse(config, now, &bare, &why, err);
    }
    struct pnx_config_print print = print_of(config, text, &vars);
    if (quiet && is_settled(config, now, text, &print)) {
        rc = 0;
    } else if (!quiet && pnx__config_same_print(&config->held, &print)) {
        remember(config, text, &print, true);
        pnx__config_accept(config, false); /* nothing is wrong with it */
        rc = pnx__fail(err, -ECANCELED, 0, "held",
                "%s: this text was %s, and is held until it changes or pnx_config_resume()",
                config->prefix,
                config->status.hold == PNX_CONFIG_HOLD_ABORT ? "aborted" : "rolled back");
    } else {
        rc = take_text(config, now, text, &vars, &print, err);
    }
    pnx__config_vars_free(config, &vars);
    return rc;
}

int pnx__config_load_owned(
        struct pnx_config *config, pnx_ns now, bool quiet, struct pnx_error *err) {
    struct pnx_error why = {0};
    struct pnx_text text = {0};
    pnx__config_count(config, &config->counts.reloads);
    config->dirty = false;
    config->retry_at = PNX_NEVER;
    pnx__config_refresh_watch(config, now); /* first: what changes from here on is heard of */
    int rc = get_text(config, !quiet, &why, &text);
    if (rc == PNX_CONFIG_UNCHANGED) {
        if (config->seen.good)
            pnx__config_accept(config, false);
        return 0;
    }
    if (rc == -EAGAIN && !config->opts.source) {
        pnx__config_count(config, &config->counts.retries);
        pnx__config_note_change(config, now);
        if (quiet && ++config->restless < RESTLESS_MAX)
            return rc;
    }
    config->restless = 0;
    if (rc)
        return pnx__config_refuse(config, now, NULL, &why, err);
    rc = load_text(config, now, quiet, &text, err);
    pnx__config_text_free(&config->env, &text);
    return rc;
}

int pnx__config_first(
        struct pnx_config *config, struct pnx_error *err, struct pnx_config_record **ret_record) {
    struct pnx_config_vars vars = {0};
    struct pnx_text text = {0};
    pnx__config_refresh_watch(config, pnx__now(&config->env));
    int rc = get_text(config, true, err, &text);
    for (int i = 1; rc == -EAGAIN && !config->opts.source && i < RESTLESS_MAX; i++)
        rc = get_text(config, true, err, &text);
    if (rc == 0)
        rc = pnx__config_vars_collect(config, err, &vars);
    if (rc == 0)
        rc = pnx__config_make(config, &text, &vars, NULL, err, ret_record);
    if (rc == 0) {
        struct pnx_config_print print = print_of(config, &text, &vars);
        remember(config, &text, &print, true);
        (*ret_record)->print = config->accepted = print;
    }
    pnx__config_vars_free(config, &vars);
    pnx__config_text_free(&config->env, &text);
    return rc;
}
