/* SPDX-License-Identifier: Apache-2.0 */
/* config: a change applies to a fraction first; P8 and P9 of patinox/config.h. */
#include "config_case.h"
#include "share/config.h"

#include <poll.h>
#include <pthread.h>
#include <sched.h>

#define HOLD   (10 * PNX_SEC)
#define CHECKS PNX_SEC

static const struct pnx_config_stage stages[] = {
        {10000, 0, HOLD}, {250000, 0, 2 * HOLD}, {1000000, 0, HOLD}};

static int check_answer, checks;
static long checked_value;
static uint32_t checked_ppm;

static int check(void *ctx, const void *candidate, uint32_t ppm, struct pnx_error *err) {
    (void)ctx;
    checks++;
    checked_value = ((const struct number *)candidate)->value;
    checked_ppm = ppm;
    return check_answer && check_answer != -EAGAIN
                   ? pnx_config_fail(err, check_answer, "too many errors")
                   : check_answer;
}

static struct pnx_config_opts rollout_opts(const char *path) {
    struct pnx_config_opts opts = case_opts(path);
    opts.stages = stages;
    opts.stages_count = 3;
    return opts;
}

static struct pnx_config *create(const struct pnx_config_opts *opts) {
    struct pnx_config *config = NULL;
    struct pnx_error err = {0};
    int rc = pnx_config_create(opts, &err, &config);
    CHECK_MSG(rc == 0, "%s: %s", pnx_errname(rc), err.message);
    tells = true;
    story[0] = '\0';
    return config;
}

/* The value for one key. */
static long value_for(struct pnx_config *config, uint64_t key, uint64_t *ret_rollout) {
    PNX_AUTO_RC const struct number *number = pnx_config_load_for(config, key, NULL, ret_rollout);
    return number->value;
}

/* How many of 100,000 keys get the candidate, in a million. */
static uint32_t fraction(struct pnx_config *config, long candidate) {
    uint32_t n = 0;
    for (uint64_t key = 0; key < 100000; key++) {
        uint64_t rollout;
        long value = value_for(config, key, &rollout);
        CHECK_EQ(rollout != 0, value == candidate);
        n += rollout != 0;
    }
    return n * 10;
}

static void check_fraction(struct pnx_config *config, long candidate, uint32_t ppm) {
    uint32_t got = fraction(config, candidate);
    uint32_t off = got > ppm ? got - ppm : ppm - got;
    CHECK_MSG(off <= 2000 || off * 20 < ppm, "%u of a million, wanted %u", got, ppm);
}

static pnx_ns pass(struct pnx_config *config, pnx_ns by) {
    test_env_advance(&te, by);
    return case_tick(config);
}

/* Edits, and lets it settle: the rollout begins. */
static void edit(struct pnx_config *config, const char *path, const char *text) {
    put(path, text);
    case_settle(config);
}

/* ---- P8 ---- */

TEST(p8_a_change_goes_through_the_stages_and_then_to_all) {
    case_begin();
    const char *path = test_path("c");
    put(path, "1");
    struct pnx_config_opts opts = rollout_opts(path);
    struct pnx_config *config = create(&opts);
    CHECK_EQ(fraction(config, 2), 0);
    put(path, "2");
    case_tick(config);
    test_env_advance(&te, DEBOUNCE);
    pnx_ns next = case_tick(config);
    CHECK_EQ(next, te.now + HOLD);
    CHECK_STORY("rollout_begun 1;");
    CHECK_EQ(case_value(config), 1);
    CHECK_EQ(pnx_config_version(config), 1);
    CHECK_EQ(changes, 0);
    struct pnx_config_status status = case_status(config);
    CHECK_EQ(status.rollout, 1);
    CHECK_EQ(status.stage, 0);
    CHECK_EQ(status.ppm, 10000);
    CHECK_EQ(status.stage_at, te.now);
    CHECK_EQ(status.stage_until, next);
    CHECK_EQ(case_stats(config).rollout_ppm, 10000);
    check_fraction(config, 2, 10000);
    CHECK_EQ(pass(config, HOLD - 1), next);
    CHECK_STORY("");
    CHECK_EQ(pass(config, 1), te.now + 2 * HOLD);
    CHECK_STORY("rollout_stage 250000;");
    check_fraction(config, 2, 250000);
    pass(config, 2 * HOLD);
    CHECK_STORY("rollout_stage 1000000;");
    CHECK_EQ(fraction(config, 2), 1000000);
    CHECK_EQ(case_value(config), 1); /* load() never gives the candidate */
    CHECK_EQ(pass(config, HOLD), PNX_NEVER);
    CHECK_STORY("changed(rollout) 2;rollout_promoted 1;");
    CHECK_EQ(case_value(config), 2);
    CHECK_EQ(changes, 1);
    CHECK_EQ(fraction(config, 9), 0); /* none is under way */
    status = case_status(config);
    CHECK_EQ(status.rollout, 0);
    CHECK_EQ(status.ppm, 0);
    CHECK_EQ(status.version, 2);
    CHECK_EQ(case_stats(config).rollouts, 1);
    CHECK_EQ(case_stats(config).promotions, 1);
    struct pnx_config_entry entry;
    CHECK_EQ(pnx_config_history(config, &entry, 1, NULL), 0);
    CHECK_EQ(entry.rollout, 1);
    case_end(&config);
}

TEST(p8_a_key_that_has_the_candidate_keeps_it_and_so_in_each_process) {
    static bool had[20000];
    case_begin();
    const char *path = test_path("c"), *other_path = test_path("d");
    put(path, "1");
    put(other_path, "1");
    struct pnx_config_opts opts = rollout_opts(path), other_opts = rollout_opts(other_path);
    struct pnx_config *config = create(&opts), *other = create(&other_opts);
    put(other_path, "2");
    edit(config, path, "2");
    case_settle(other);
    for (int stage = 0; stage < 3; stage++) {
        for (uint64_t key = 0; key < 20000; key++) {
            bool has = value_for(config, key, NULL) == 2;
            CHECK(has == (value_for(other, key, NULL) == 2)); /* another seed, the same text */
            CHECK(has || !had[key]);
            CHECK(has == (value_for(config, key, NULL) == 2));
            had[key] = has;
        }
        CHECK_EQ(pnx_config_advance(config, 0, NULL), 0);
        CHECK_EQ(pnx_config_advance(other, 1, NULL), 0);
    }
    CHECK_EQ(case_value(config), 2);
    /* Another text begins with other keys. */
    edit(config, path, "3");
    CHECK_EQ(pnx_config_promote(other, 0, NULL), -ENOENT);
    int same = 0, n = 0;
    memset(had, 0, sizeof(had));
    for (uint64_t key = 0; key < 20000; key++)
        had[key] = value_for(config, key, NULL) == 3;
    edit(config, path, "4");
    for (uint64_t key = 0; key < 20000; key++) {
        bool has = value_for(config, key, NULL) == 4;
        n += has;
        same += has && had[key];
    }
    CHECK(n > 100 && same < n / 2);
    pnx_config_release(&other);
    case_end(&config);
}

TEST(p8_the_key_of_a_name_is_the_same_everywhere) {
    CHECK_EQ(pnx_config_key("tenant-1", 8), 0x62011DDF6CEC20C3); /* as any XXH3 gives it */
    CHECK(pnx_config_key("tenant-1", 8) != pnx_config_key("tenant-2", 8));
    CHECK_EQ(pnx_config_key(NULL, 0), 0x2D06800538D394C2); /* XXH3 of nothing, as published */
}

TEST(p8_check_is_asked_and_aborts) {
    case_begin();
    const char *path = test_path("c");
    put(path, "1");
    struct pnx_config_opts opts = rollout_opts(path);
    opts.check = check;
    opts.check_ns = CHECKS;
    struct pnx_config *config = create(&opts);
    edit(config, path, "2");
    CHECK_STORY("rollout_begun 1;");
    CHECK_EQ(checks, 0);
    for (int i = 1; i <= 9; i++) {
        pass(config, CHECKS);
        CHECK_EQ(checks, i);
    }
    CHECK_EQ(checked_value, 2);
    CHECK_EQ(checked_ppm, 10000);
    check_answer = -EAGAIN; /* cannot say yet: the stage lasts longer */
    pass(config, CHECKS);
    CHECK_EQ(pass(config, CHECKS), te.now + CHECKS);
    CHECK_STORY("");
    check_answer = 0;
    pass(config, CHECKS);
    CHECK_STORY("rollout_stage 250000;");
    check_answer = -ERANGE;
    pass(config, CHECKS);
    CHECK_STORY("rollout_aborted(check) 1 ERANGE;");
    CHECK_EQ(fraction(config, 2), 0);
    struct pnx_config_status status = case_status(config);
    CHECK_EQ(status.aborted, 1);
    CHECK_EQ(status.aborted_error.code, -ERANGE);
    CHECK_CONTAINS(status.aborted_error.message, "/c: too many errors");
    CHECK_EQ(status.hold, PNX_CONFIG_HOLD_ABORT);
    CHECK_EQ(status.error.code, 0);
    CHECK_EQ(case_stats(config).aborts, 1);
    CHECK_EQ(case_stats(config).held, 1);
    CHECK_EQ(case_value(config), 1);
    CHECK_EQ(case_tick(config), PNX_NEVER);
    case_end(&config);
}

TEST(p8_a_newer_text_supersedes_and_the_old_one_reverts) {
    case_begin();
    const char *path = test_path("c");
    put(path, "1");
    struct pnx_config_opts opts = rollout_opts(path);
    struct pnx_config *config = create(&opts);
    edit(config, path, "2");
    pass(config, HOLD);
    CHECK_STORY("rollout_begun 1;rollout_stage 250000;");
    edit(config, path, "3");
    CHECK_STORY("rollout_aborted(superseded) 1 ECANCELED;rollout_begun 2;");
    CHECK_EQ(case_status(config).ppm, 10000); /* from the first stage */
    check_fraction(config, 3, 10000);
    edit(config, path, "1"); /* back to what is in force */
    CHECK_STORY("rollout_aborted(reverted) 2 ECANCELED;");
    CHECK_EQ(case_status(config).hold, PNX_CONFIG_HOLD_NONE);
    CHECK_EQ(fraction(config, 3), 0);
    edit(config, path, "3"); /* it was not aborted, so it may come again */
    CHECK_STORY("rollout_begun 3;");
    put(path, "3"); /* touched */
    case_settle(config);
    CHECK_STORY("");
    CHECK_EQ(case_status(config).rollout, 3);
    case_end(&config);
}

TEST(p8_no_stage_is_left_while_the_file_is_bad) {
    case_begin();
    const char *path = test_path("c");
    put(path, "1");
    struct pnx_config_opts opts = rollout_opts(path);
    struct pnx_config *config = create(&opts);
    edit(config, path, "2");
    edit(config, path, "bad");
    CHECK_STORY("rollout_begun 1;refused(parse) 1 PNX_E_FORMAT;");
    for (int i = 0; i < 5; i++)
        pass(config, HOLD);
    CHECK_STORY("");
    CHECK_EQ(case_status(config).ppm, 10000);
    check_fraction(config, 2, 10000);
    edit(config, path, "2"); /* what is on its way already */
    CHECK_EQ(case_status(config).error.code, 0);
    pass(config, PNX_SEC);
    CHECK_STORY("rollout_stage 250000;");
    CHECK_EQ(unlink(path), 0);
    case_settle(config);
    CHECK_STORY("refused(open) 1 ENOENT;");
    CHECK_EQ(pnx_config_promote(config, 1, NULL), 0); /* by hand it goes on */
    CHECK_EQ(case_value(config), 2);
    CHECK_EQ(case_status(config).error.code, -ENOENT); /* which is still so */
    case_end(&config);
}

TEST(p8_stages_may_wait_for_orders) {
    static const struct pnx_config_stage by_hand[] = {{1, 0, PNX_NEVER}, {500000, 0, PNX_NEVER}};
    struct pnx_error err;
    case_begin();
    const char *path = test_path("c");
    put(path, "1");
    struct pnx_config_opts opts = case_opts(path);
    opts.stages = by_hand;
    opts.stages_count = 2;
    opts.flags = PNX_CONFIG_NO_WATCH;
    struct pnx_config *config = create(&opts);
    CHECK_EQ(pnx_config_advance(config, 0, &err), -ENOENT);
    CHECK_CONTAINS(err.message, "no rollout is under way");
    put(path, "2");
    CHECK_EQ(pnx_config_reload(config, NULL), 0);
    CHECK_EQ(case_tick(config), PNX_NEVER);
    CHECK_EQ(pass(config, 1000 * HOLD), PNX_NEVER);
    CHECK_EQ(pnx_config_advance(config, 7, &err), -ENOENT);
    CHECK_CONTAINS(err.message, "rollout 7 is not under way");
    CHECK_EQ(pnx_config_advance(config, 1, &err), 0);
    CHECK_EQ(case_status(config).ppm, 500000);
    CHECK_EQ(pnx_config_advance(config, 1, &err), 0);
    CHECK_EQ(case_value(config), 2);
    CHECK_STORY("rollout_begun 1;rollout_stage 500000;changed(rollout) 2;rollout_promoted 1;");
    /* A reload makes a candidate of the same text too, and begins again with one that is under way. */
    CHECK_EQ(pnx_config_reload(config, NULL), 0);
    CHECK_EQ(pnx_config_reload(config, NULL), 0);
    CHECK_STORY("rollout_begun 2;rollout_aborted(superseded) 2 ECANCELED;rollout_begun 3;");
    case_end(&config);
}

TEST(each_bad_option_of_rollouts_is_named) {
    static const struct pnx_config_stage zero[] = {{0, 0, 1}}, falling[] = {{2, 0, 1}, {2, 0, 1}},
                                         large[] = {{1000001, 0, 1}}, instant[] = {{1, 0, 0}};
    static const struct pnx_config_stage *const bad[] = {zero, falling, large, instant};
    struct pnx_config *config = NULL;
    struct pnx_error err;
    case_begin();
    const char *path = test_path("c");
    put(path, "1");
    for (uint32_t i = 0; i < 4; i++) {
        struct pnx_config_opts opts = case_opts(path);
        opts.stages = bad[i];
        opts.stages_count = 1 + (i == 1);
        CHECK_EQ(pnx_config_create(&opts, &err, &config), -EINVAL);
        CHECK_STR(err.field, "stages");
    }
    CHECK_CONTAINS(err.message, "stages[0].hold_ns is 0");
    struct pnx_config_opts opts = rollout_opts(path);
    opts.stages_count = PNX_CONFIG_STAGES_MAX + 1;
    CHECK_EQ(pnx_config_create(&opts, &err, &config), -EINVAL);
    CHECK_STR(err.field, "stages_count");
    opts.stages_count = 0;
    CHECK_EQ(pnx_config_create(&opts, &err, &config), -EINVAL);
    CHECK_STR(err.field, "stages");
    opts.stages = NULL;
    opts.check = check;
    CHECK_EQ(pnx_config_create(&opts, &err, &config), -EINVAL);
    CHECK_STR(err.field, "check");
    CHECK_EQ(pnx_config_abort(NULL, 0, &err), -EINVAL);
    CHECK_EQ(pnx_config_promote(NULL, 0, &err), -EINVAL);
    CHECK_EQ(pnx_config_advance(NULL, 0, &err), -EINVAL);
}

/* ---- P9 ---- */

TEST(p9_an_aborted_text_is_held_until_another_is_accepted) {
    struct pnx_error err;
    case_begin();
    const char *path = test_path("c");
    put(path, "1");
    struct pnx_config_opts opts = rollout_opts(path);
    struct pnx_config *config = create(&opts);
    edit(config, path, "2");
    CHECK_EQ(pnx_config_abort(config, 9, &err), -ENOENT);
    CHECK_EQ(pnx_config_abort(config, 1, &err), 0);
    CHECK_EQ(pnx_config_abort(config, 1, &err), -ENOENT);
    CHECK_STORY("rollout_begun 1;rollout_aborted(abort) 1 ECANCELED;");
    CHECK_EQ(fraction(config, 2), 0);
    edit(config, path, "2");
    edit(config, path, "bad");
    edit(config, path, "2");
    CHECK_EQ(unlink(path), 0);
    case_settle(config);
    edit(config, path, "2");
    CHECK_STORY("refused(parse) 1 PNX_E_FORMAT;refused(open) 1 ENOENT;");
    CHECK_EQ(case_status(config).error.code, 0);
    CHECK_EQ(case_status(config).hold, PNX_CONFIG_HOLD_ABORT);
    CHECK_EQ(pnx_config_reload(config, &err), -ECANCELED);
    CHECK_STR(err.phase, "held");
    CHECK_CONTAINS(err.message, "was aborted");
    CHECK_STORY("");
    edit(config, path, "3");
    CHECK_STORY("rollout_begun 2;");
    CHECK_EQ(case_status(config).hold, PNX_CONFIG_HOLD_NONE);
    edit(config, path, "2"); /* it has changed since */
    CHECK_STORY("rollout_aborted(superseded) 2 ECANCELED;rollout_begun 3;");
    case_end(&config);
}

TEST(p9_resume_lets_a_held_text_come_again) {
    struct pnx_health_entry entry;
    struct pnx_stats *set = NULL;
    case_begin();
    const char *path = test_path("c");
    put(path, "1");
    CHECK_EQ(pnx_stats_create(NULL, NULL, &set), 0);
    struct pnx_config_opts opts = rollout_opts(path);
    opts.stats = set;
    struct pnx_config *config = create(&opts);
    edit(config, path, "2");
    CHECK_EQ(pnx_config_abort(config, 0, NULL), 0);
    CHECK_EQ(pnx_health(set, &entry, 1, NULL), PNX_HEALTH_DEGRADED);
    CHECK_CONTAINS(entry.reason, "a rollout was aborted");
    CHECK_EQ(pnx_config_resume(config, NULL), 0);
    CHECK_EQ(pnx_health(set, &entry, 1, NULL), PNX_HEALTH_OK);
    CHECK_EQ(case_status(config).rollout, 2);
    CHECK_EQ(pnx_config_promote(config, 0, NULL), 0);
    CHECK_EQ(case_value(config), 2);
    case_end(&config);
    pnx_stats_release(&set);
}

/* ---- callbacks ---- */

static struct pnx_config *inside;
static int tried;

static int check_inside(void *ctx, const void *candidate, uint32_t ppm, struct pnx_error *err) {
    uint64_t rollout;
    (void)ctx;
    (void)candidate;
    (void)ppm;
    tried++;
    CHECK_EQ(pnx_config_reload(inside, err), -EDEADLK);
    CHECK_EQ(pnx_config_resume(inside, err), -EDEADLK);
    CHECK_EQ(pnx_config_rollback(inside, 0, err), -EDEADLK);
    CHECK_EQ(pnx_config_promote(inside, 0, err), -EDEADLK);
    CHECK_EQ(pnx_config_advance(inside, 0, err), -EDEADLK);
    pnx_config_notify(inside);
    value_for(inside, 1, &rollout);
    case_tick(inside);
    CHECK_EQ(pnx_config_abort(inside, 0, NULL), 0); /* at once */
    CHECK_EQ(fraction(inside, 2), 0);
    CHECK_EQ(case_status(inside).rollout, 0);
    return 0;
}

TEST(p3_check_may_abort_and_is_refused_what_would_wait) {
    case_begin();
    const char *path = test_path("c");
    put(path, "1");
    struct pnx_config_opts opts = rollout_opts(path);
    opts.check = check_inside;
    inside = create(&opts);
    edit(inside, path, "2");
    pass(inside, HOLD);
    CHECK_EQ(tried, 1);
    CHECK_STORY("rollout_begun 1;rollout_aborted(abort) 1 ECANCELED;");
    CHECK_EQ(case_status(inside).hold, PNX_CONFIG_HOLD_ABORT);
    case_end(&inside);
}

static int release_in_check(void *ctx, const void *candidate, uint32_t ppm, struct pnx_error *err) {
    (void)ctx;
    (void)ppm;
    (void)err;
    pnx_config_release(&inside);
    CHECK_EQ(((const struct number *)candidate)->value, 2); /* ours for this call */
    return 0;
}

TEST(p3_release_from_inside_check) {
    case_begin();
    const char *path = test_path("c");
    put(path, "1");
    struct pnx_config_opts opts = rollout_opts(path);
    opts.check = release_in_check;
    inside = create(&opts);
    struct pnx_config *handle = inside;
    edit(inside, path, "2");
    test_env_advance(&te, HOLD);
    pnx_config_tick(handle, te.now);
    CHECK(inside == NULL);
    test_env_check_empty(&te);
}

static int release_on_promotion(
        void *ctx, const void *candidate, uint32_t ppm, struct pnx_error *err) {
    (void)ctx;
    (void)candidate;
    (void)ppm;
    (void)err;
    return 0;
}

static void release_on_change(void *ctx, const void *value, uint64_t version) {
    (void)ctx;
    (void)version;
    CHECK_EQ(case_status(inside).rollout, 0); /* over, for everybody */
    CHECK_EQ(pnx_config_abort(inside, 0, NULL), -ENOENT);
    CHECK_EQ(value_for(inside, 1, NULL), ((const struct number *)value)->value);
    pnx_config_release(&inside);
}

TEST(p3_release_from_inside_on_change_of_a_promotion) {
    case_begin();
    const char *path = test_path("c");
    put(path, "1");
    struct pnx_config_opts opts = rollout_opts(path);
    opts.check = release_on_promotion;
    opts.on_change = release_on_change;
    inside = create(&opts);
    struct pnx_config *handle = inside;
    edit(inside, path, "2");
    CHECK_EQ(pnx_config_promote(handle, 0, NULL), 0);
    CHECK(inside == NULL);
    test_env_check_empty(&te);
}

TEST(a_closed_config_gives_the_candidate_to_nobody) {
    struct pnx_registry *registry = NULL;
    struct pnx_error err;
    case_begin();
    const char *path = test_path("c");
    put(path, "1");
    CHECK_EQ(pnx_registry_create(NULL, NULL, &registry), 0);
    struct pnx_config_opts opts = rollout_opts(path);
    opts.registry = registry;
    struct pnx_config *config = create(&opts);
    edit(config, path, "2");
    CHECK_EQ(pnx_registry_cleanup(registry, config->id), 0);
    CHECK_EQ(fraction(config, 2), 0);
    CHECK_EQ(pnx_config_promote(config, 0, &err), -ESHUTDOWN);
    CHECK_EQ(pnx_config_abort(config, 0, &err), -ENOENT);
    case_end(&config);
    pnx_registry_release(&registry);
}

/* ---- who drives it ---- */

TEST(an_event_loop_is_woken_by_what_others_do) {
    for (int poll_only = 0; poll_only < 2; poll_only++) {
        char name[8];
        case_begin();
        snprintf(name, sizeof(name), "c%d", poll_only);
        const char *path = test_path(name);
        put(path, "1");
        struct pnx_config_opts opts = rollout_opts(path);
        opts.flags = poll_only ? PNX_CONFIG_POLL : 0;
        struct pnx_config *config = create(&opts);
        struct pollfd polled = {.fd = pnx_config_fd(config), .events = POLLIN};
        CHECK(polled.fd >= 0);
        case_tick(config);
        CHECK_EQ(poll(&polled, 1, 0), 0);
        put(path, "2");
        CHECK_EQ(poll(&polled, 1, 0), !poll_only); /* by inotify */
        CHECK_EQ(pnx_config_reload(config, NULL), 0);
        CHECK_EQ(poll(&polled, 1, 0), 1);
        pass(config, DEBOUNCE);
        case_settle(config);
        CHECK_EQ(poll(&polled, 1, 0), 0);
        pnx_config_notify(config);
        CHECK_EQ(poll(&polled, 1, 0), 1);
        CHECK(case_tick(config) <= te.now + DEBOUNCE);
        CHECK_EQ(poll(&polled, 1, 0), 0);
        case_end(&config);
    }
}

TEST(a_loop_that_cannot_be_woken_comes_back_by_itself) {
    static const char *const calls[] = {"eventfd", "epoll_create", "epoll_ctl"};
    if (!test_os_faults())
        test_skip("needs injected faults");
    case_begin();
    const char *path = test_path("c");
    put(path, "1");
    for (size_t i = 0; i < 3; i++) {
        struct pnx_config_opts opts = rollout_opts(path);
        test_os_fault(calls[i], 1, true, EMFILE);
        struct pnx_config *config = create(&opts);
        CHECK_EQ(test_os_fault_clear(), 1);
        CHECK_EQ(case_tick(config), te.now + POLL);
        CHECK(pnx_config_fd(config) >= 0); /* inotify's */
        pnx_config_release(&config);
        test_env_check_empty(&te);
    }
}

static struct pnx_config *threaded;

static void load_for_while(unsigned index, void *ctx) {
    struct number last = {0, 0};
    const long *end = ctx;
    while (__atomic_load_n(end, __ATOMIC_ACQUIRE) == 0) {
        for (uint64_t key = index; key < 64; key += 4) {
            uint64_t rollout, version;
            PNX_AUTO_RC const struct number *number =
                    pnx_config_load_for(threaded, key, &version, &rollout);
            CHECK(number->value >= 1 && number->length >= 1);
            last = *number;
        }
    }
    (void)last;
}

struct storm {
    pthread_t thread;
    long end;
};

static void *run_readers(void *arg) {
    test_threads(3, load_for_while, &((struct storm *)arg)->end);
    return NULL;
}

/* The thread's own stages pass while readers load, and others abort, promote and edit. */
TEST(p8_readers_the_thread_and_orders_together) {
    static const struct pnx_config_stage quick[] = {{300000, 0, PNX_MS}, {600000, 0, PNX_MS}};
    struct storm storm = {0};
    case_begin();
    te.virtual_time = false;
    char path[512];
    snprintf(path, sizeof(path), "%s", test_path("c"));
    put(path, "1");
    struct pnx_config_opts opts = case_opts(path);
    opts.stages = quick;
    opts.stages_count = 2;
    opts.check = check;
    opts.check_ns = PNX_MS;
    opts.flags = PNX_CONFIG_THREAD;
    opts.debounce_ns = PNX_MS;
    CHECK_EQ(pnx_config_create(&opts, NULL, &threaded), 0);
    pthread_create(&storm.thread, NULL, run_readers, &storm);
    uint64_t seed = test_seed();
    int rounds = test_slow() ? 60 : 300;
    for (int i = 0; i < rounds; i++) {
        char text[32];
        snprintf(text, sizeof(text), "%d", 2 + i % 900);
        put_by_rename(path, text);
        switch (test_random(&seed) % 6) {
        case 0:
            (void)pnx_config_reload(threaded, NULL);
            break;
        case 1:
            (void)pnx_config_abort(threaded, 0, NULL);
            break;
        case 2:
            (void)pnx_config_promote(threaded, 0, NULL);
            break;
        case 3:
            (void)pnx_config_rollback(threaded, 0, NULL);
            break;
        case 4:
            (void)pnx_config_resume(threaded, NULL);
            break;
        default:
            CHECK(pnx_config_wait(threaded, pnx_config_version(threaded), 5 * PNX_MS) <= 0);
        }
    }
    /* By itself, in the end: the thread drives it to all. */
    uint64_t seen = pnx_config_version(threaded);
    put_by_rename(path, "999");
    while (case_value(threaded) != 999) {
        CHECK_EQ(pnx_config_wait(threaded, seen, 20 * PNX_SEC), 0);
        seen = pnx_config_version(threaded);
    }
    __atomic_store_n(&storm.end, 1, __ATOMIC_RELEASE);
    pthread_join(storm.thread, NULL);
    case_end(&threaded);
}

TEST(a_thread_drives_a_rollout_that_a_reload_began) {
    for (int deaf = 0; deaf < 2; deaf++) {
        static const struct pnx_config_stage quick[] = {{1, 0, PNX_MS}};
        struct pnx_config *config = NULL;
        char name[8];
        case_begin();
        te.virtual_time = false;
        snprintf(name, sizeof(name), "c%d", deaf);
        const char *path = test_path(name);
        put(path, "1");
        struct pnx_config_opts opts = case_opts(path);
        opts.stages = quick;
        opts.stages_count = 1;
        opts.flags = PNX_CONFIG_THREAD | PNX_CONFIG_NO_WATCH;
        if (deaf && !test_os_faults())
            break;
        if (deaf)
            test_os_fault("eventfd", 1, true, EMFILE);
        CHECK_EQ(pnx_config_create(&opts, NULL, &config), 0);
        put(path, "2");
        CHECK_EQ(pnx_config_reload(config, NULL), 0);
        CHECK_EQ(pnx_config_wait(config, 1, 20 * PNX_SEC), 0);
        CHECK_EQ(case_value(config), 2);
        if (deaf)
            test_os_fault_clear();
        case_end(&config);
    }
}

/* ---- failures ---- */

static int roll_out_all(struct test_env *env, void *ctx) {
    struct pnx_config_opts opts = rollout_opts(ctx);
    struct pnx_config *config = NULL;
    (void)env;
    opts.registry = pnx_registry_off();
    opts.flags = PNX_CONFIG_NO_WATCH;
    int rc = pnx_config_create(&opts, NULL, &config);
    if (rc)
        return rc;
    rc = pnx_config_reload(config, NULL);
    if (rc == 0)
        rc = pnx_config_advance(config, 0, NULL);
    if (rc == 0)
        rc = pnx_config_promote(config, 0, NULL);
    if (rc == 0)
        rc = pnx_config_reload(config, NULL);
    if (rc == 0)
        rc = pnx_config_abort(config, 0, NULL);
    if (rc == 0)
        CHECK_EQ(case_status(config).rollout, 0);
    pnx_config_release(&config);
    return rc;
}

TEST(each_allocation_of_a_rollout_may_fail) {
    case_begin();
    const char *path = test_path("c");
    put(path, "1");
    test_fail_each_allocation(&te, roll_out_all, (void *)(uintptr_t)path);
}
