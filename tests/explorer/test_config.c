/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_config.c - config under every interleaving: who is given the candidate of a rollout while it is promoted or
 * aborted, and that no wake of the thread or of a tick is lost.
 *
 * There is no file: the text comes from a source.  Descriptors are of no use here, since a real poll would block all
 * fibres; the limit on them is lowered while the config is made, which then does without.
 */
#include "explorer/explorer.h"
#include "share/config.h"

#include <patinox/config.h>
#include <patinox/reclaim.h>
#include <patinox/registry.h>

#include <sys/resource.h>

#define PREEMPTIONS (test_long() ? 2 : 1)
#define KEY         7 /* any: at the one stage all keys get the candidate */

struct number {
    long value;
};

struct state {
    struct pnx_config *config;
    struct x_cell text; /* what the source gives; written before notify */
    struct pnx_a32 aborted, promoted, users;
    struct pnx_a32 fetching; /* a fetch has begun, of a reload that is to be found under way */
};
static struct state *now;
static struct pnx_rc_type number_type = PNX_RC_TYPE(struct number);

static int fetch(void *ctx, struct pnx_config_fetch *fetch, struct pnx_error *err) {
    char digit = (char)('0' + x_cell_read(&now->text));
    (void)ctx;
    (void)err;
    pnx_store(&now->fetching, 1, PNX_RELEASE, "test_config.fetching");
    pnx__futex_wake(&now->fetching, UINT32_MAX);
    return pnx_config_fetch_add(fetch, &digit, 1);
}

static int parse(void *ctx, const char *text, size_t n, struct pnx_error *err, void **ret_value) {
    (void)ctx;
    (void)n;
    (void)err;
    return pnx_rc_new(&number_type, &(struct number){text[0] - '0'}, ret_value);
}

static const struct pnx_config_stage all[] = {{1000000, 0, PNX_NEVER}};

static void create(struct state *s, uint32_t flags, uint32_t stages) {
    struct rlimit limit = {0, 0};
    now = s;
    number_type.env = x_env();
    CHECK(getrlimit(RLIMIT_NOFILE, &limit) == 0);
    struct rlimit low = {3, limit.rlim_max};
    CHECK(setrlimit(RLIMIT_NOFILE, &low) == 0);
    x_cell_write(&s->text, 1);
    CHECK_EQ(pnx_config_create(PNX_CONFIG_OPTS(.env = x_env(), .registry = pnx_registry_off(),
                                       .stats = pnx_stats_off(), .source = fetch, .parse = parse,
                                       .stages = stages ? all : NULL, .stages_count = stages,
                                       .poll_ns = PNX_NEVER, .debounce_ns = PNX_MS, .flags = flags),
                     NULL, &s->config),
            0);
    CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
}

static long value_for(struct state *s, uint64_t *ret_version, uint64_t *ret_rollout) {
    PNX_AUTO_RC const struct number *number =
            pnx_config_load_for(s->config, KEY, ret_version, ret_rollout);
    return number->value;
}

/* ---- rollouts ---- */

/*
 * A write just before, so that the one to come is not the first for long: the cell then leaves its reclaim domain
 * alone, whose barrier would put in order what config itself has to.
 */
static void begin_rollout(void *state) {
    struct state *s = state;
    create(s, PNX_CONFIG_NO_WATCH, 1);
    CHECK_EQ(pnx_config_reload(s->config, NULL), 0);
    CHECK_EQ(pnx_config_promote(s->config, 0, NULL), 0);
    x_cell_write(&s->text, 2);
    CHECK_EQ(pnx_config_reload(s->config, NULL), 0);
}

static void promote(void *state) {
    struct state *s = state;
    struct pnx_error err = {0};
    int rc = pnx_config_promote(s->config, 2, &err);
    CHECK_MSG(rc == 0 || rc == -ENOENT || rc == -ETIMEDOUT, "%s: %s", pnx_errname(rc), err.message);
    pnx_store(&s->promoted, rc == 0, PNX_RELAXED, "test_config.promoted");
    CHECK_EQ(value_for(s, NULL, NULL), rc == 0 ? 2 : 1);
}

static void abort_it(void *state) {
    struct state *s = state;
    uint64_t rollout;
    int rc = pnx_config_abort(s->config, 2, NULL);
    CHECK(rc == 0 || rc == -ENOENT);
    pnx_store(&s->aborted, rc == 0, PNX_RELAXED, "test_config.aborted");
    if (rc)
        return;                                /* it is being published, or was */
    CHECK_EQ(value_for(s, NULL, &rollout), 1); /* at once, for everybody */
    CHECK_EQ(rollout, 0);
}

/* Once it had the new value, a key loses it only by an abort: nothing goes back by itself. */
static void read_twice(void *state) {
    struct state *s = state;
    uint64_t version = 0, later = 0;
    long first = value_for(s, &version, NULL), second = value_for(s, &later, NULL);
    CHECK(first == 1 || first == 2);
    CHECK(later >= version);
    if (pnx_load(&s->aborted, PNX_RELAXED, "test_config.read"))
        return;
    CHECK(second >= first || version == 2);
}

static void read_while_promoted(void *state) {
    struct state *s = state;
    /* Makes the thread known to the reclaim domain, whose lock would put in order what config itself has to. */
    pnx_rc_unref(pnx_config_load(s->config, NULL));
    CHECK_EQ(value_for(s, NULL, NULL),
            2); /* the candidate, or the same published: never the old one */
}

static void end(void *state) {
    struct state *s = state;
    pnx_config_release(&s->config);
}

static void check_and_end(void *state) {
    struct state *s = state;
    uint32_t aborted = pnx_load(&s->aborted, PNX_RELAXED, "test_config.final_aborted");
    uint32_t promoted = pnx_load(&s->promoted, PNX_RELAXED, "test_config.final_promoted");
    CHECK_EQ(aborted + promoted, 1); /* one of the two, never both or none */
    struct pnx_config_status status = {.size = sizeof(status)};
    CHECK_EQ(pnx_config_read_status(s->config, &status), 0);
    CHECK_EQ(status.version, promoted ? 3 : 2);
    CHECK_EQ(status.hold, aborted ? PNX_CONFIG_HOLD_ABORT : PNX_CONFIG_HOLD_NONE); /* told, too */
    CHECK_EQ(status.rollout, 0);
    end(state);
}

TEST(p8_a_promotion_takes_the_new_value_from_nobody) {
    x_explore(&(struct x_test){.name = "promote",
            .size = sizeof(struct state),
            .setup = begin_rollout,
            .thread = {promote, read_while_promoted, read_while_promoted},
            .final = end,
            .preemptions = PREEMPTIONS,
            .timeouts = X_NONE,
            .random = 5000,
            .floor = 500});
}

TEST(p8_an_abort_or_a_promotion_but_not_both) {
    x_explore(&(struct x_test){.name = "abort",
            .size = sizeof(struct state),
            .setup = begin_rollout,
            .thread = {promote, abort_it, read_twice},
            .final = check_and_end,
            .preemptions = PREEMPTIONS,
            .timeouts = X_NONE,
            .random = 5000,
            .floor = 1000});
}

/* ---- waking ---- */

static void begin_watch(void *state) {
    create(state, 0, 0);
}

static void notify(void *state) {
    struct state *s = state;
    x_cell_write(&s->text, 2);
    pnx_config_notify(s->config);
}

/* A loop that looks now and then; what notify() told it is fetched, with all that came before. */
static void loop(void *state) {
    struct state *s = state;
    pnx_ns at = pnx__now(x_env());
    for (int i = 0; i < 3; i++)
        (void)pnx_config_tick(s->config, at + i * PNX_SEC);
}

static void load_and_end(void *state) {
    struct state *s = state;
    pnx_ns at = pnx__now(x_env()) + 10 * PNX_SEC;
    (void)pnx_config_tick(s->config, at);
    (void)pnx_config_tick(s->config, at + PNX_SEC);
    CHECK_EQ(value_for(s, NULL, NULL), 2); /* not lost, whenever it came */
    CHECK_EQ(pnx_config_version(s->config), 2);
    end(state);
}

static void read_once(void *state) {
    long value = value_for(state, NULL, NULL);
    CHECK(value == 1 || value == 2);
}

TEST(a_notification_is_taken_once_with_what_came_before) {
    x_explore(&(struct x_test){.name = "notify",
            .size = sizeof(struct state),
            .setup = begin_watch,
            .thread = {notify, loop, read_once},
            .final = load_and_end,
            .preemptions = PREEMPTIONS,
            .timeouts = X_NONE,
            .random = 5000,
            .floor = 500});
}

static void begin_thread(void *state) {
    struct state *s = state;
    create(s, PNX_CONFIG_THREAD, 0);
    pnx_store(&s->users, 2, PNX_RELAXED, "test_config.users");
}

/* The last one ends the config, and with it the thread: at any moment of its life. */
static void leave(struct state *s) {
    if (pnx_fetch_sub(&s->users, 1, PNX_ACQ_REL, "test_config.leave") == 1)
        pnx_config_release(&s->config);
}

static void notify_and_wait(void *state) {
    struct state *s = state;
    notify(state);
    CHECK_EQ(pnx_config_wait(s->config, 1, PNX_NEVER), 0);
    CHECK_EQ(value_for(s, NULL, NULL), 2);
    leave(s);
}

static void read_and_leave(void *state) {
    read_once(state);
    leave(state);
}

TEST(a_thread_is_woken_and_stopped) {
    x_explore(&(struct x_test){.name = "thread",
            .size = sizeof(struct state),
            .setup = begin_thread,
            .thread = {notify_and_wait, read_and_leave},
            .timeouts = X_NONE,
            .preemptions = PREEMPTIONS,
            .random = 5000,
            .floor = 100});
}

static void only_leave(void *state) {
    leave(state);
}

TEST(a_thread_is_stopped_before_it_has_begun_too) {
    x_explore(&(struct x_test){.name = "stop",
            .size = sizeof(struct state),
            .setup = begin_thread,
            .thread = {read_and_leave, only_leave},
            .preemptions = PREEMPTIONS,
            .random = 5000,
            .floor = 100});
}

/* ---- a release inside a section ---- */

static void begin_plain(void *state) {
    struct state *s = state;
    create(s, PNX_CONFIG_NO_WATCH, 0);
    pnx_store(&s->fetching, 0, PNX_RELAXED, "test_config.no_fetch");
}

static void reload(void *state) {
    struct state *s = state;
    int rc = pnx_config_reload(s->config, NULL);
    CHECK(rc == 0 || rc == -ESHUTDOWN);
}

/* Waits for nobody; whoever reloads then ends the config, or this one does. */
static void release_in_section(void *state) {
    struct state *s = state;
    struct pnx_config *mine = s->config;
    while (pnx_load(&s->fetching, PNX_ACQUIRE, "test_config.await") == 0)
        (void)pnx__futex_wait(&s->fetching, 0, PNX_NEVER);
    pnx_reclaim_enter(NULL);
    pnx_config_release(&mine);
    pnx_reclaim_exit(NULL);
}

static void nothing(void *state) {
    (void)state;
    CHECK_EQ(pnx_reclaim_close(NULL, PNX_NEVER), 0);
}

TEST(p3_a_release_inside_a_section_is_left_to_who_reloads_or_done) {
    x_explore(&(struct x_test){.name = "left",
            .size = sizeof(struct state),
            .setup = begin_plain,
            .thread = {reload, release_in_section},
            .final = nothing,
            .preemptions = test_long() ? 3 : 2,
            .timeouts = X_NONE,
            .random = 5000,
            .floor = 200});
}
