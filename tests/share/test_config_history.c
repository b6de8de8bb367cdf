/* SPDX-License-Identifier: Apache-2.0 */
/* config: versions that are kept, and rollback; P9 and P10 of patinox/config.h. */
#include "config_case.h"

#include <patinox/reclaim.h>

static struct pnx_config *begin(const char *path, uint32_t flags, uint32_t history) {
    struct pnx_config_opts opts = case_opts(path);
    struct pnx_config *config = NULL;
    opts.flags = flags;
    opts.history = history;
    CHECK_EQ(pnx_config_create(&opts, NULL, &config), 0);
    tells = true;
    story[0] = '\0';
    return config;
}

static void load(struct pnx_config *config, const char *path, long value) {
    char text[32];
    snprintf(text, sizeof(text), "%ld", value);
    put(path, text);
    CHECK_EQ(pnx_config_reload(config, NULL), 0);
    CHECK_EQ(case_value(config), value);
}

/* "version=value_of" of what is kept, the current one first. */
static const char *kept(struct pnx_config *config) {
    static char text[256];
    struct pnx_config_entry entries[PNX_CONFIG_HISTORY_MAX + 1];
    size_t n, at = 0;
    CHECK_EQ(pnx_config_history(config, entries, PNX_CONFIG_HISTORY_MAX + 1, &n), 0);
    text[0] = '\0';
    for (size_t i = 0; i < n; i++)
        at += (size_t)snprintf(text + at, sizeof(text) - at, "%s%llu=%llu", i ? " " : "",
                (unsigned long long)entries[i].version, (unsigned long long)entries[i].value_of);
    return text;
}

TEST(the_last_values_are_kept_with_their_origin) {
    struct pnx_config_entry entries[3];
    size_t n;
    case_begin();
    const char *path = test_path("c");
    put(path, "1");
    struct pnx_config *config = begin(path, PNX_CONFIG_NO_WATCH, 2);
    CHECK_STR(kept(config), "1=1");
    test_env_advance(&te, PNX_SEC);
    load(config, path, 2);
    load(config, path, 30);
    CHECK_STR(kept(config), "3=3 2=2 1=1");
    load(config, path, 4);
    CHECK_STR(kept(config), "4=4 3=3 2=2");
    CHECK_EQ(pnx_config_history(config, entries, 2, &n), 0);
    CHECK_EQ(n, 3);
    CHECK_EQ(entries[1].origin, PNX_CONFIG_FROM_FILE);
    CHECK_EQ(entries[1].text_bytes, 2);
    CHECK_EQ(entries[1].text_hash, pnx_config_key("30", 2));
    CHECK_EQ(entries[1].changed_at, te.now);
    CHECK(entries[1].changed_real_ns > 0);
    CHECK_EQ(entries[1].rollout, 0);
    const void *value = NULL;
    CHECK_EQ(pnx_config_load_version(config, 3, &value), 0);
    CHECK_EQ(((const struct number *)value)->value, 30);
    pnx_rc_unref(value);
    CHECK_EQ(pnx_config_load_version(config, 1, &value), -ENOENT);
    CHECK_EQ(pnx_config_load_version(config, 5, &value), -ENOENT);
    CHECK_EQ(pnx_config_load_version(config, 0, &value), -EINVAL);
    CHECK_EQ(pnx_config_load_version(config, 4, NULL), -EINVAL);
    CHECK_EQ(pnx_config_load_version(NULL, 4, &value), -EINVAL);
    CHECK_EQ(pnx_config_history(NULL, entries, 1, &n), -EINVAL);
    CHECK_EQ(pnx_config_history(config, NULL, 1, &n), -EINVAL);
    CHECK_EQ(pnx_config_history(config, NULL, 0, NULL), 0);
    case_end(&config);
}

static int drops;

static void count_drop(void *ctx, void *object) {
    (void)ctx;
    (void)object;
    drops++;
}

TEST(without_history_nothing_is_kept) {
    struct pnx_error err;
    case_begin();
    const char *path = test_path("c");
    put(path, "1");
    number_type.drop = count_drop;
    struct pnx_config *config = begin(path, PNX_CONFIG_NO_WATCH | PNX_CONFIG_NO_HISTORY, 0);
    for (long i = 2; i < 9; i++)
        load(config, path, i);
    CHECK_EQ(pnx_reclaim_barrier(NULL, PNX_SEC), 0); /* what readers might have borrowed */
    CHECK_EQ(drops, 7);
    CHECK_STR(kept(config), "8=8");
    CHECK_EQ(pnx_config_rollback(config, 0, &err), -ENOENT);
    CHECK_CONTAINS(err.message, "no version before is kept");
    case_end(&config);
}

/* Nobody but the config's loop ever frees anything here; what it replaces must not pile up. */
TEST(old_values_are_let_go_without_anybody_elses_help) {
    case_begin();
    const char *path = test_path("c");
    put(path, "1");
    number_type.drop = count_drop;
    struct pnx_config *config = begin(path, 0, 2);
    char text[32];
    for (int i = 2; i <= 100; i++) {
        snprintf(text, sizeof(text), "%d", i);
        put(path, text);
        case_settle(config);
        CHECK_EQ(case_value(config), i);
        CHECK_EQ(drops, i > 3 ? i - 3 : 0); /* the one in force and two older ones are kept */
    }
    case_end(&config);
}

/* Of many in a row some dozens may wait, as with any cell. */
TEST(old_values_of_quick_reloads_do_not_pile_up) {
    case_begin();
    const char *path = test_path("c");
    put(path, "1");
    number_type.drop = count_drop;
    struct pnx_config *config = begin(path, PNX_CONFIG_NO_WATCH | PNX_CONFIG_NO_HISTORY, 0);
    for (int i = 2; i <= 500; i++) {
        load(config, path, i);
        CHECK_MSG(i - 1 - drops <= 64, "%d of %d are left", i - 1 - drops, i - 1);
    }
    case_end(&config);
}

TEST(p10_a_rollback_publishes_an_older_value_as_a_new_version) {
    struct pnx_config_entry entry;
    case_begin();
    const char *path = test_path("c");
    put(path, "1");
    struct pnx_config *config = begin(path, PNX_CONFIG_NO_WATCH, 0);
    load(config, path, 2);
    load(config, path, 3);
    story[0] = '\0';
    CHECK_EQ(pnx_config_rollback(config, 0, NULL), 0);
    CHECK_STORY("changed(rollback) 4;rolled_back 2;");
    CHECK_EQ(case_value(config), 2);
    CHECK_EQ(last_change, 2);
    CHECK_EQ(pnx_config_version(config), 4);
    CHECK_STR(kept(config), "4=2 3=3 2=2 1=1");
    CHECK_EQ(pnx_config_history(config, &entry, 1, NULL), 0);
    CHECK_EQ(entry.origin, PNX_CONFIG_FROM_ROLLBACK);
    CHECK_EQ(case_status(config).hold, PNX_CONFIG_HOLD_ROLLBACK);
    CHECK_EQ(case_stats(config).rollbacks, 1);
    CHECK_EQ(pnx_config_rollback(config, 0, NULL), 0); /* further back, not to the bad one */
    CHECK_EQ(case_value(config), 1);
    CHECK_STR(kept(config), "5=1 4=2 3=3 2=2 1=1");
    struct pnx_error err;
    CHECK_EQ(pnx_config_rollback(config, 0, &err), -ENOENT);
    CHECK_CONTAINS(err.message, "no version before is kept");
    CHECK_EQ(pnx_config_rollback(config, 1, &err), -ENOENT);
    CHECK_CONTAINS(err.message, "the value of version 1 is in force");
    CHECK_EQ(pnx_config_rollback(config, 99, &err), -ENOENT);
    CHECK_CONTAINS(err.message, "version 99 is not kept");
    CHECK_EQ(pnx_config_rollback(NULL, 0, &err), -EINVAL);
    CHECK_EQ(pnx_config_rollback(config, 3, &err), 0); /* and forth */
    CHECK_EQ(case_value(config), 3);
    load(config, path, 6);
    CHECK_EQ(
            pnx_config_rollback(config, 0, &err), 0); /* what was in force before: the value of 3 */
    CHECK_EQ(case_value(config), 3);
    case_end(&config);
}

TEST(p9_a_rollback_stands_until_the_file_changes) {
    struct pnx_error err;
    case_begin();
    const char *path = test_path("c");
    put(path, "1");
    struct pnx_config *config = begin(path, 0, 0);
    put(path, "2");
    case_settle(config);
    CHECK_EQ(case_value(config), 2);
    CHECK_EQ(pnx_config_rollback(config, 1, NULL), 0);
    CHECK_STORY("changed(file) 2;changed(rollback) 3;rolled_back 1;");
    put(path, "2"); /* touched */
    case_settle(config);
    put(path, "bad");
    case_settle(config);
    put_by_rename(path, "2"); /* and back */
    case_settle(config);
    CHECK_EQ(unlink(path), 0);
    case_settle(config);
    put(path, "2"); /* gone, and there again */
    case_settle(config);
    CHECK_EQ(case_value(config), 1);
    CHECK_STORY("refused(parse) 3 PNX_E_FORMAT;refused(open) 3 ENOENT;");
    CHECK_EQ(case_status(config).error.code, 0);
    CHECK_EQ(pnx_config_reload(config, &err), -ECANCELED);
    CHECK_CONTAINS(err.message, "this text was rolled back, and is held");
    put(path, "5");
    case_settle(config);
    CHECK_EQ(case_value(config), 5);
    CHECK_EQ(case_status(config).hold, PNX_CONFIG_HOLD_NONE);
    put(path, "2"); /* a change like any other now */
    case_settle(config);
    CHECK_EQ(case_value(config), 2);
    CHECK_STORY("changed(file) 4;changed(file) 5;");
    case_end(&config);
}

TEST(p9_a_text_that_is_in_force_again_lifts_the_hold) {
    case_begin();
    const char *path = test_path("c");
    put(path, "1");
    struct pnx_config *config = begin(path, 0, 0);
    put(path, "2");
    case_settle(config);
    CHECK_EQ(pnx_config_rollback(config, 0, NULL), 0);
    put(path, "1"); /* the file says now what is in force: nothing to publish */
    case_settle(config);
    CHECK_EQ(pnx_config_version(config), 3);
    CHECK_EQ(case_status(config).hold, PNX_CONFIG_HOLD_NONE);
    put(path, "2");
    case_settle(config);
    CHECK_EQ(case_value(config), 2);
    case_end(&config);
}

TEST(p9_resume_ends_a_rollback) {
    case_begin();
    const char *path = test_path("c");
    put(path, "1");
    struct pnx_config *config = begin(path, 0, 0);
    put(path, "2");
    case_settle(config);
    CHECK_EQ(pnx_config_rollback(config, 0, NULL), 0);
    CHECK_EQ(pnx_config_resume(config, NULL), 0);
    CHECK_EQ(case_value(config), 2);
    CHECK_EQ(case_status(config).hold, PNX_CONFIG_HOLD_NONE);
    case_end(&config);
}

TEST(p9_a_change_not_loaded_yet_counts_as_one_after_the_rollback) {
    case_begin();
    const char *path = test_path("c");
    put(path, "1");
    struct pnx_config *config = begin(path, 0, 0);
    put(path, "2");
    case_settle(config);
    put(path, "3");
    case_tick(config);
    CHECK_EQ(pnx_config_rollback(config, 0, NULL), 0);
    CHECK_EQ(case_value(config), 1);
    test_env_advance(&te, DEBOUNCE);
    case_tick(config);
    CHECK_EQ(case_value(config), 3);
    case_end(&config);
}

static int no_way_back(void *ctx, const void *next, const void *current, struct pnx_error *err) {
    (void)ctx;
    if (current && ((const struct number *)next)->value < ((const struct number *)current)->value)
        return pnx_config_fail(err, -EPERM, "it may only grow");
    return 0;
}

TEST(p10_a_rollback_that_validate_refuses_changes_nothing) {
    struct pnx_config *config = NULL;
    struct pnx_error err;
    case_begin();
    const char *path = test_path("c");
    put(path, "1");
    struct pnx_config_opts opts = case_opts(path);
    opts.validate = no_way_back;
    CHECK_EQ(pnx_config_create(&opts, NULL, &config), 0);
    put(path, "2");
    case_settle(config);
    tells = true;
    CHECK_EQ(pnx_config_rollback(config, 0, &err), -EPERM);
    CHECK_STR(err.phase, "validate");
    CHECK_CONTAINS(err.message, "it may only grow");
    CHECK_STORY("refused(rollback) 2 EPERM;");
    CHECK_EQ(case_value(config), 2);
    CHECK_EQ(case_status(config).error.code, 0); /* that is about the file */
    CHECK_EQ(case_status(config).hold, PNX_CONFIG_HOLD_NONE);
    case_end(&config);
}

TEST(p10_a_rollback_ends_a_rollout) {
    static const struct pnx_config_stage half[] = {{500000, 0, PNX_SEC}};
    struct pnx_config *config = NULL;
    case_begin();
    const char *path = test_path("c");
    put(path, "1");
    struct pnx_config_opts opts = case_opts(path);
    opts.stages = half;
    opts.stages_count = 1;
    CHECK_EQ(pnx_config_create(&opts, NULL, &config), 0);
    put(path, "2");
    case_settle(config);
    CHECK_EQ(pnx_config_promote(config, 0, NULL), 0);
    put(path, "3");
    case_settle(config);
    tells = true;
    CHECK_EQ(pnx_config_rollback(config, 0, NULL), 0);
    CHECK_STORY("rollout_aborted(rollback) 2 ECANCELED;changed(rollback) 3;rolled_back 1;");
    CHECK_EQ(case_value(config), 1);
    CHECK_EQ(case_status(config).hold, PNX_CONFIG_HOLD_ROLLBACK);
    put(path, "3"); /* it was the last that was accepted: held */
    case_settle(config);
    CHECK_EQ(case_status(config).rollout, 0);
    case_end(&config);
}

static struct pnx_config *inside;

static void ask_inside(void *ctx, const void *value, uint64_t version) {
    struct pnx_config_entry entry;
    const void *same = NULL;
    (void)ctx;
    CHECK_EQ(pnx_config_history(inside, &entry, 1, NULL), 0);
    CHECK_EQ(entry.version, version);
    CHECK_EQ(pnx_config_load_version(inside, version, &same), 0);
    CHECK(same == value);
    pnx_rc_unref(same);
    CHECK_EQ(pnx_config_rollback(inside, 0, NULL), -EDEADLK);
    CHECK_EQ(pnx_config_overrides(inside, NULL, 0, NULL), 0);
}

TEST(p3_history_may_be_asked_from_inside_a_callback) {
    case_begin();
    const char *path = test_path("c");
    put(path, "1");
    struct pnx_config_opts opts = case_opts(path);
    opts.on_change = ask_inside;
    CHECK_EQ(pnx_config_create(&opts, NULL, &inside), 0);
    put(path, "2");
    CHECK_EQ(pnx_config_reload(inside, NULL), 0);
    CHECK_EQ(pnx_config_rollback(inside, 0, NULL), 0);
    case_end(&inside);
}

static int roll_back(struct test_env *env, void *ctx) {
    struct pnx_config_opts opts = case_opts(ctx);
    struct pnx_config *config = NULL;
    (void)env;
    opts.registry = pnx_registry_off();
    opts.flags = PNX_CONFIG_NO_WATCH;
    int rc = pnx_config_create(&opts, NULL, &config);
    if (rc == 0)
        rc = pnx_config_reload(config, NULL);
    if (rc == 0) {
        rc = pnx_config_rollback(config, 1, NULL);
        CHECK_EQ(pnx_config_version(config), rc ? 2 : 3);
        CHECK_EQ(case_status(config).hold, rc ? PNX_CONFIG_HOLD_NONE : PNX_CONFIG_HOLD_ROLLBACK);
    }
    pnx_config_release(&config);
    return rc;
}

TEST(each_allocation_of_a_rollback_may_fail) {
    case_begin();
    const char *path = test_path("c");
    put(path, "1");
    test_fail_each_allocation(&te, roll_back, (void *)(uintptr_t)path);
}
