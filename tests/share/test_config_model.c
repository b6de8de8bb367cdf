/* SPDX-License-Identifier: Apache-2.0 */
/*
 * config: random sequences of edits, variables, reloads, rollouts, rollbacks and time, against a small model.
 *
 * The model knows a text by a number and says what the header says, without files, watches, threads or memory.
 */
#include "config_case.h"

#define HISTORY 3
#define HOLD    (10 * PNX_SEC)
#define CHECKS  (3 * PNX_SEC)
#define MISSING 0
#define BAD     -1
#define LARGE   2000 /* refused by validate */
#define STAGES  3
#define KEYS    64

static const struct pnx_config_stage stages[STAGES] = {
        {200000, 0, HOLD}, {600000, 0, PNX_SEC}, {1000000, 0, HOLD}};

/* A text under an environment. */
struct print {
    long text;
    long env;
};

struct version {
    uint64_t version, value_of;
    long value;
    struct print print;
};

static struct {
    bool rolls_out;
    pnx_ns now;
    struct print there; /* in the file, and in the environment */
    bool touched;
    struct print seen;
    bool seen_good, seen_set;
    struct print accepted;
    int hold;
    struct print held;
    int error;
    struct version history[HISTORY + 1];
    int history_n;
    uint64_t changes, rollbacks;
    /* the rollout */
    bool rolling;
    uint64_t number, aborted, promotions, aborts;
    struct print candidate;
    long candidate_value;
    uint32_t stage;
    pnx_ns stage_until, act_at;
    bool has[KEYS]; /* which keys were given the candidate when last asked */
    int answer;     /* of check */
} m;

static bool same(struct print a, struct print b) {
    return a.text == b.text && a.env == b.env;
}

static void publish(long value, struct print print, uint64_t value_of) {
    struct version new = {m.history_n ? m.history[0].version + 1 : 1, value_of, value, print};
    new.value_of = value_of ? value_of : new.version;
    memmove(&m.history[1], &m.history[0], HISTORY * sizeof(new));
    m.history[0] = new;
    if (m.history_n <= HISTORY)
        m.history_n++;
    m.changes += new.version > 1;
}

static void end_rollout(bool hold) {
    if (!m.rolling)
        return;
    m.rolling = false;
    m.aborted = m.number;
    m.aborts++;
    if (hold) {
        m.hold = PNX_CONFIG_HOLD_ABORT;
        m.held = m.candidate;
    }
}

static void enter_stage(uint32_t stage) {
    m.stage = stage;
    m.stage_until = m.now + stages[stage].hold_ns;
    m.act_at = stages[stage].hold_ns < CHECKS ? m.stage_until : m.now + CHECKS;
}

static void promote(void) {
    m.rolling = false;
    m.promotions++;
    publish(m.candidate_value, m.candidate, 0);
}

static void advance(void) {
    if (m.stage + 1 < STAGES)
        enter_stage(m.stage + 1);
    else
        promote();
}

static void see(bool good) {
    m.seen = m.there;
    m.seen_set = true;
    m.seen_good = good;
}

static bool settled(void) {
    if (m.seen_set && same(m.seen, m.there)) {
        m.error = m.seen_good ? 0 : m.error;
        return true;
    }
    bool held = m.hold && same(m.held, m.there), current = same(m.history[0].print, m.there);
    if (!held && !current && !(m.rolling && same(m.candidate, m.there)))
        return false;
    see(true);
    m.error = 0;
    if (held || !current)
        return true;
    end_rollout(false);
    m.hold = 0;
    m.accepted = m.there;
    return true;
}

static int load(bool quiet) {
    m.touched &= !quiet;
    if (m.there.text == MISSING) {
        m.seen_set &= m.seen_good;
        return m.error = -ENOENT;
    }
    if (quiet && settled())
        return 0;
    if (!quiet && m.hold && same(m.held, m.there)) {
        see(true);
        m.error = 0;
        return -ECANCELED;
    }
    long value = m.there.env && m.there.text != BAD ? 100 + m.there.env : m.there.text;
    m.error = m.there.text == BAD ? PNX_E_FORMAT
              : m.there.env == 9  ? -EINVAL
              : value > 1000      ? -ERANGE
                                  : 0;
    see(m.error == 0);
    if (m.error)
        return m.error;
    m.hold = 0;
    m.accepted = m.there;
    if (!m.rolls_out) {
        publish(value, m.there, 0);
        return 0;
    }
    end_rollout(false);
    m.rolling = true;
    m.number++;
    m.candidate = m.there;
    m.candidate_value = value;
    memset(m.has, 0, sizeof(m.has));
    enter_stage(0);
    return 0;
}

static int rollback(uint64_t version) {
    for (int i = 0; i < m.history_n; i++) {
        struct version *old = &m.history[i];
        if (version ? old->version != version : old->version >= m.history[0].value_of)
            continue;
        if (old->value_of == m.history[0].value_of)
            return -ENOENT;
        struct version copy = *old;
        end_rollout(true);
        publish(copy.value, copy.print, copy.value_of);
        m.hold = PNX_CONFIG_HOLD_ROLLBACK;
        m.held = m.accepted;
        m.rollbacks++;
        return 0;
    }
    return -ENOENT;
}

static void model_tick(void) {
    if (!m.rolling || m.now < m.act_at)
        return;
    bool held = m.now >= m.stage_until;
    m.act_at = !held && m.stage_until < m.now + CHECKS ? m.stage_until : m.now + CHECKS;
    if (m.answer && m.answer != -EAGAIN)
        end_rollout(true);
    else if (!m.answer && held && !m.error)
        advance();
}

/* ---- the real one ---- */

static int parse(void *ctx, const char *text, size_t n, struct pnx_error *err, void **ret_value) {
    return case_parse(ctx, text, n, err, ret_value);
}

static int override(
        void *ctx, void *value, const char *setting, const char *text, struct pnx_error *err) {
    (void)ctx;
    CHECK_STR(setting, "number");
    ((struct number *)value)->value = 100 + atol(text);
    return strcmp(text, "9") == 0 ? pnx_config_fail(err, -EINVAL, "9 is not for us") : 0;
}

static long asked_value; /* what check is to see, before the model has gone on */
static uint32_t asked_ppm;

static int check(void *ctx, const void *candidate, uint32_t ppm, struct pnx_error *err) {
    (void)ctx;
    (void)err;
    CHECK_EQ(((const struct number *)candidate)->value, asked_value);
    CHECK_EQ(ppm, asked_ppm);
    return m.answer;
}

static void write_there(const char *path) {
    char text[32];
    if (m.there.text == MISSING) {
        (void)unlink(path);
    } else if (m.there.text == BAD) {
        put(path, "bad");
    } else {
        snprintf(text, sizeof(text), "%ld", m.there.text);
        put(path, text);
    }
    if (m.there.env) {
        snprintf(text, sizeof(text), "%ld", m.there.env);
        setenv("PNXM_NUMBER", text, 1);
    } else {
        unsetenv("PNXM_NUMBER");
    }
    m.touched = true;
}

static void tick_both(struct pnx_config *config) {
    asked_value = m.candidate_value;
    asked_ppm = stages[m.stage].ppm;
    model_tick();
    case_tick(config);
}

static void settle(struct pnx_config *config) {
    tick_both(config);
    m.now += DEBOUNCE;
    test_env_advance(&te, DEBOUNCE);
    if (m.touched)
        (void)load(true);
    tick_both(config);
}

/* ---- comparing ---- */

static void check_keys(struct pnx_config *config) {
    for (uint64_t key = 0; key < KEYS; key++) {
        uint64_t version, rollout;
        PNX_AUTO_RC const struct number *number =
                pnx_config_load_for(config, key, &version, &rollout);
        CHECK_EQ(version, m.history[0].version);
        CHECK(rollout == 0 || (m.rolling && rollout == m.number));
        CHECK_EQ(number->value, rollout ? m.candidate_value : m.history[0].value);
        CHECK(!(m.rolling && m.stage == STAGES - 1) || rollout);
        CHECK(!(m.rolling && m.has[key]) || rollout); /* kept */
        m.has[key] = rollout != 0;
    }
}

static void check_same(struct pnx_config *config) {
    struct pnx_config_status status = case_status(config);
    struct pnx_config_stats stats = case_stats(config);
    struct pnx_config_entry entries[HISTORY + 1];
    size_t n;
    CHECK_EQ(case_value(config), m.history[0].value);
    CHECK_EQ(status.version, m.history[0].version);
    CHECK_EQ(status.error.code, m.error);
    CHECK_EQ(status.hold, m.hold);
    CHECK_EQ(stats.held, m.hold != 0);
    CHECK_EQ(status.rollout, m.rolling ? m.number : 0);
    CHECK_EQ(status.ppm, m.rolling ? stages[m.stage].ppm : 0);
    CHECK_EQ(status.aborted, m.aborted);
    CHECK_EQ(stats.rollouts, m.number);
    CHECK_EQ(stats.promotions, m.promotions);
    CHECK_EQ(stats.aborts, m.aborts);
    CHECK_EQ(stats.rollouts, stats.promotions + stats.aborts + m.rolling);
    CHECK_EQ(stats.rollbacks, m.rollbacks);
    CHECK_EQ(stats.changes, m.changes);
    CHECK_EQ(changes, (int)m.changes);
    CHECK_EQ(events_changed, (int)m.changes);
    CHECK_EQ(pnx_config_history(config, entries, HISTORY + 1, &n), 0);
    CHECK_EQ(n, m.history_n);
    for (size_t i = 0; i < n; i++) {
        const void *value = NULL;
        CHECK_EQ(entries[i].version, m.history[i].version);
        CHECK_EQ(entries[i].value_of, m.history[i].value_of);
        CHECK_EQ(entries[i].overrides, m.history[i].print.env != 0);
        CHECK_EQ(pnx_config_load_version(config, entries[i].version, &value), 0);
        CHECK_EQ(((const struct number *)value)->value, m.history[i].value);
        pnx_rc_unref(value);
    }
    check_keys(config);
}

/* ---- the sequences ---- */

static void edit(const char *path, uint64_t *seed) {
    static const long texts[] = {1, 2, 3, 4, 5, 6, BAD, LARGE, MISSING};
    static const long envs[] = {0, 0, 0, 0, 1, 2, 9};
    if (test_random(seed) % 3)
        m.there.text = texts[test_random(seed) % 9];
    if (test_random(seed) % 3 == 0)
        m.there.env = envs[test_random(seed) % 7];
    write_there(path);
}

static void pass_time(struct pnx_config *config, uint64_t *seed) {
    static const pnx_ns times[] = {PNX_SEC, CHECKS, HOLD, 3 * HOLD};
    settle(config);
    pnx_ns by = times[test_random(seed) % 4];
    m.now += by;
    test_env_advance(&te, by);
    tick_both(config);
}

static int go_on(bool to_all) {
    if (!m.rolling)
        return -ENOENT;
    if (to_all)
        promote();
    else
        advance();
    return 0;
}

static int model_abort(void) {
    if (!m.rolling)
        return -ENOENT;
    end_rollout(true);
    return 0;
}

static int model_resume(void) {
    m.seen_set &= !m.hold;
    m.hold = 0;
    return load(false);
}

static const char *step(struct pnx_config *config, const char *path, uint64_t *seed) {
    uint64_t version = test_random(seed) % (m.history[0].version + 2);
    switch (test_random(seed) % 16) {
    case 0:
        CHECK_EQ(pnx_config_reload(config, NULL), load(false));
        return "reload";
    case 1:
        CHECK_EQ(pnx_config_resume(config, NULL), model_resume());
        return "resume";
    case 2:
        CHECK_EQ(pnx_config_rollback(config, version, NULL), rollback(version));
        return "rollback to a version";
    case 3:
        CHECK_EQ(pnx_config_rollback(config, 0, NULL), rollback(0));
        return "rollback";
    case 4:
        CHECK_EQ(pnx_config_advance(config, 0, NULL), go_on(false));
        return "advance";
    case 5:
        CHECK_EQ(pnx_config_promote(config, 0, NULL), go_on(true));
        return "promote";
    case 6:
        CHECK_EQ(pnx_config_abort(config, 0, NULL), model_abort());
        return "abort";
    case 7:
        m.answer = test_random(seed) % 3 ? 0 : test_random(seed) % 2 ? -EAGAIN : -EIO;
        return "check's answer";
    case 8:
    case 9:
    case 10:
        pass_time(config, seed);
        return "time";
    default:
        edit(path, seed);
        return "edit";
    }
}

static struct pnx_config *begin_sequence(const char *path, bool rolls_out) {
    struct pnx_config *config = NULL;
    memset(&m, 0, sizeof(m));
    changes = events_changed = 0;
    m.rolls_out = rolls_out;
    m.now = te.now;
    m.there.text = 1;
    write_there(path);
    struct pnx_config_opts opts = case_opts(path);
    opts.parse = parse;
    opts.env_prefix = "PNXM_";
    opts.override = override;
    opts.history = HISTORY;
    if (m.rolls_out) {
        opts.stages = stages;
        opts.stages_count = STAGES;
        opts.check = check;
        opts.check_ns = CHECKS;
    }
    CHECK_EQ(pnx_config_create(&opts, NULL, &config), 0);
    publish(1, m.there, 0);
    m.accepted = m.there;
    see(true);
    m.touched = false;
    return config;
}

static void run_sequence(uint64_t sequence, int steps) {
    const char *path = test_path("c");
    /* Mixed twice, so that no sequence's random numbers are another's, some later. */
    uint64_t mix = test_seed();
    mix = test_random(&mix) + sequence;
    uint64_t seed = test_random(&mix);
    test_seed_part("PNX_CONFIG_SEQUENCE", sequence);
    struct pnx_config *config = begin_sequence(path, test_random(&seed) % 4 != 0);
    for (int i = 0; i < steps; i++) {
        (void)step(config, path, &seed);
        if (test_random(&seed) % 2)
            settle(config);
        check_same(config);
    }
    case_end(&config);
}

/* PNX_CONFIG_SEQUENCE=n begins with the nth: each has a seed of its own. */
TEST(p1_p9_random_sequences_agree_with_a_model) {
    const char *from = getenv("PNX_CONFIG_SEQUENCE");
    uint64_t first = from ? strtoull(from, NULL, 0) : 0;
    uint64_t sequences = test_long() ? 8000 : test_slow() ? 30 : 150;
    case_begin();
    for (uint64_t i = 0; i < sequences; i++)
        run_sequence(first + i, 80);
}

/* A config whose first rollout is of this text, and is under way at its end. */
static void run_first_rollout(long text) {
    const char *path = test_path("c");
    struct pnx_config *config = begin_sequence(path, true);
    m.there.text = text;
    write_there(path);
    settle(config);
    check_same(config);
    CHECK(m.rolling && m.number == 1);
    case_end(&config);
}

TEST(p8_keys_that_had_the_candidate_of_another_config_are_owed_nothing_by_this_one) {
    bool had[KEYS];
    int lost = 0;
    case_begin();
    run_first_rollout(2);
    memcpy(had, m.has, sizeof(had));
    run_first_rollout(3);
    for (int key = 0; key < KEYS; key++)
        lost += had[key] && !m.has[key];
    CHECK(lost > 0); /* else the two texts do not show it */
}
