/* SPDX-License-Identifier: Apache-2.0 */
/* Sets of blocks, and health: P1..P4 of src/stats/set.c; P4 of patinox/stats.h. */
#include "harness/forks.h"
#include "stats/fixture.h"

#include "stats/utf8.h"

#include <pthread.h>

struct longer {
    struct pnx_stats_opts opts;
    uint64_t newer;
};

TEST(create_checks_its_options) {
    struct pnx_stats *set = (struct pnx_stats *)0x1;
    struct pnx_error err;
    CHECK_EQ(pnx_stats_create(NULL, &err, NULL), -EINVAL);
    CHECK_STR(err.field, "ret_stats");
    struct pnx_stats_opts unset = {0};
    CHECK_EQ(pnx_stats_create(&unset, &err, &set), -EINVAL);
    CHECK_STR(err.field, "size");
    struct longer longer = {.opts.size = sizeof(longer), .newer = 1};
    CHECK_EQ(pnx_stats_create(&longer.opts, &err, &set), -E2BIG);
    struct pnx_env half = {.size = sizeof(half), .free = (void (*)(void *, void *, size_t))0x1};
    CHECK_EQ(pnx_stats_create(PNX_STATS_OPTS(.env = &half), &err, &set), -EINVAL);
    CHECK_STR(err.field, "env.alloc");
    CHECK(set == (struct pnx_stats *)0x1);
    longer.newer = 0;
    CHECK_EQ(pnx_stats_create(&longer.opts, &err, &set), 0);
    pnx_stats_release(&set);
    CHECK(set == NULL);
    pnx_stats_release(&set);
    pnx_stats_release(NULL);
}

static int use_set(struct test_env *te, void *ctx) {
    (void)ctx;
    struct pnx_stats *set = NULL;
    struct pnx_error err = {0};
    int rc = pnx_stats_create(PNX_STATS_OPTS(.env = &te->env), &err, &set);
    CHECK_EQ(err.code, rc);
    CHECK(!rc == !!set);
    static struct fixture f;
    fixture_add(&f, set ? set : pnx_stats_off(), "x");
    pnx__stats_remove(&f.stats);
    pnx_stats_release(&set);
    return rc;
}

TEST(create_survives_each_failed_allocation) {
    struct test_env te;
    test_env_init(&te);
    test_fail_each_allocation(&te, use_set, NULL);
}

TEST(the_default_set_is_there_and_cannot_be_released) {
    struct pnx_stats *set = pnx_stats_default();
    CHECK(set && set == pnx_stats_default());
    struct pnx_stats *handle = set;
    pnx_stats_release(&handle);
    CHECK(handle == NULL);
    static struct fixture f;
    fixture_add(&f, NULL, "in the default set");
    CHECK(f.stats.set == set);
    size_t n = 0;
    CHECK_EQ(pnx_health(NULL, NULL, 0, &n), 0);
    CHECK_EQ(n, 1);
    pnx__stats_remove(&f.stats);
    CHECK_EQ(pnx_health(set, NULL, 0, &n), 0);
    CHECK_EQ(n, 0);
}

TEST(the_off_value_takes_everything_and_shows_nothing) {
    static struct fixture f;
    fixture_add(&f, pnx_stats_off(), "unseen");
    pnx__health_set(&f.stats, PNX_HEALTH_DOWN, "unseen");
    pnx__event(&f.stats, PNX_EVENT_POOL_CLOSED, "unseen", 0, NULL, 0, 0);
    size_t n = 7;
    CHECK_EQ(pnx_health(pnx_stats_off(), NULL, 0, &n), PNX_HEALTH_OK);
    CHECK_EQ(n, 0);
    pnx__stats_remove(&f.stats);
    struct pnx_stats *off = pnx_stats_off();
    pnx_stats_release(&off);
    struct pnx_stats_block never = {0};
    pnx__stats_remove(&never);
    pnx__event(&never, PNX_EVENT_POOL_CLOSED, "", 0, NULL, 0, 0);
}

TEST(blocks_keep_their_set_alive) {
    struct test_env te;
    test_env_init(&te);
    struct pnx_stats *set = fixture_set(&te);
    static struct fixture a, b;
    fixture_add(&a, set, "a");
    fixture_add(&b, set, "b");
    struct pnx_stats *kept = set;
    pnx_stats_release(&set);
    CHECK_EQ(te.live_blocks, 1);
    CHECK_EQ(pnx_health(kept, NULL, 0, NULL), 0);
    pnx__stats_remove(&a.stats);
    CHECK_EQ(te.live_blocks, 1);
    pnx__stats_remove(&b.stats);
    pnx__stats_remove(&b.stats); /* again: it has left */
    test_env_check_empty(&te);
}

TEST(p1_joining_leaving_and_health_allocate_nothing) {
    struct test_env te;
    test_env_init(&te);
    struct pnx_stats *set = fixture_set(&te);
    int64_t before = te.allocations;
    static struct fixture f[50];
    struct pnx_health_entry entries[50];
    size_t n;
    for (int i = 0; i < 50; i++)
        fixture_add(&f[i], set, "same");
    CHECK_EQ(pnx_health(set, entries, 50, &n), 0);
    CHECK_EQ(n, 50);
    for (int i = 0; i < 50; i++)
        pnx__stats_remove(&f[i].stats);
    CHECK_EQ(te.allocations, before);
    pnx_stats_release(&set);
}

TEST(p2_numbers_start_at_zero_and_a_gap_is_filled_first) {
    struct pnx_stats *set = fixture_set(NULL);
    static struct fixture f[6];
    fixture_add(&f[0], set, "db");
    fixture_add(&f[1], set, "other");
    fixture_add(&f[2], set, "db");
    fixture_add(&f[3], set, "db");
    CHECK_EQ(f[0].stats.number, 0);
    CHECK_EQ(f[1].stats.number, 0);
    CHECK_EQ(f[2].stats.number, 1);
    CHECK_EQ(f[3].stats.number, 2);
    pnx__stats_remove(&f[0].stats);
    fixture_add(&f[4], set, "db");
    CHECK_EQ(f[4].stats.number, 0);
    pnx__stats_remove(&f[2].stats);
    fixture_add(&f[5], set, "db");
    CHECK_EQ(f[5].stats.number, 1);
    CHECK_EQ(f[3].stats.number, 2);
    for (int i = 0; i < 6; i++)
        pnx__stats_remove(&f[i].stats);
    pnx_stats_release(&set);
}

TEST(p2_names_that_are_exported_alike_get_different_numbers) {
    struct pnx_stats *set = fixture_set(NULL);
    static struct fixture f[3];
    fixture_add(&f[0], set, "\xe9");
    fixture_add(&f[1], set, "\xe8");
    fixture_add(&f[2], set, "\xef\xbf\xbd");
    CHECK_EQ(f[0].stats.number + f[1].stats.number + f[2].stats.number, 0 + 1 + 2);
    for (int i = 0; i < 3; i++)
        pnx__stats_remove(&f[i].stats);
    pnx_stats_release(&set);
}

/* A model: the lowest number that no live block of the name has. */
TEST(p2_numbers_agree_with_a_model) {
    enum { COUNT = 40, NAMES = 4 };
    static struct fixture f[COUNT];
    static const char *const names[NAMES] = {"a", "b", "", "\xff"};
    int name_of[COUNT];
    bool live[COUNT] = {false};
    struct pnx_stats *set = fixture_set(NULL);
    uint64_t state = test_seed();
    for (int step = 0; step < 5000; step++) {
        int i = (int)(test_random(&state) % COUNT);
        if (live[i]) {
            pnx__stats_remove(&f[i].stats);
            live[i] = false;
            continue;
        }
        name_of[i] = (int)(test_random(&state) % NAMES);
        bool used[COUNT + 1] = {false};
        for (int k = 0; k < COUNT; k++) {
            if (live[k] && name_of[k] == name_of[i])
                used[f[k].stats.number] = true;
        }
        uint32_t expected = 0;
        while (used[expected])
            expected++;
        fixture_add(&f[i], set, names[name_of[i]]);
        live[i] = true;
        CHECK_EQ(f[i].stats.number, expected);
    }
    for (int i = 0; i < COUNT; i++) {
        if (live[i])
            pnx__stats_remove(&f[i].stats);
    }
    pnx_stats_release(&set);
}

TEST(reading_a_block_copies_every_value_in_the_order_of_its_table) {
    static struct fixture f;
    fixture_add(&f, pnx_stats_off(), "x");
    pnx_owner_add(&f.values.hits, 1);
    pnx_owner_add(&f.values.busy, 2);
    pnx_owner_add(&f.values.sent, 3);
    pnx_owner_add(&f.values.level, (uint64_t)-4);
    pnx_owner_add(&f.values.used, 6);
    uint64_t got[6];
    pnx__stats_read(&f.stats, got);
    static const uint64_t expected[6] = {1, 2, 3, (uint64_t)-4, 0, 6};
    CHECK_EQ(memcmp(got, expected, sizeof(got)), 0);
    const struct pnx_stat_group *group = pnx__fixture_stat_group();
    CHECK_EQ(group->n_fields, 6);
    CHECK_EQ(group->n_histograms, 3);
    CHECK_STR(group->fields[3].name, "level");
    CHECK_STR(group->histograms[1].name, "size");
    CHECK_EQ(group->histograms[1].unit, PNX_UNIT_BYTES);
}

/* ---- health ---- */

TEST(health_returns_the_worst_and_a_reason_for_each) {
    struct pnx_stats *set = fixture_set(NULL);
    static struct fixture f[3];
    fixture_add(&f[0], set, "one");
    fixture_add(&f[1], set, "two");
    fixture_add(&f[2], set, "three");
    struct pnx_health_entry entries[3];
    size_t n = 0;
    CHECK_EQ(pnx_health(set, entries, 3, &n), PNX_HEALTH_OK);
    CHECK_EQ(n, 3);
    CHECK_STR(entries[0].kind, "fixture");
    CHECK_STR(entries[0].name, "one");
    CHECK_STR(entries[0].reason, "");
    pnx__health_set(&f[1].stats, PNX_HEALTH_DEGRADED, "slow");
    CHECK_EQ(pnx_health(set, entries, 3, NULL), PNX_HEALTH_DEGRADED);
    CHECK_EQ(entries[1].status, PNX_HEALTH_DEGRADED);
    CHECK_STR(entries[1].reason, "slow");
    pnx__health_set(&f[2].stats, PNX_HEALTH_DOWN, "");
    CHECK_EQ(pnx_health(set, entries, 2, &n), PNX_HEALTH_DOWN); /* beyond cap, yet it counts */
    CHECK_EQ(n, 3);
    CHECK_EQ(pnx_health(set, entries, 3, NULL), PNX_HEALTH_DOWN);
    CHECK(entries[2].reason[0] != '\0');
    pnx__health_set(&f[2].stats, PNX_HEALTH_OK, NULL);
    pnx__health_set(&f[1].stats, PNX_HEALTH_OK, "");
    CHECK_EQ(pnx_health(set, entries, 3, NULL), PNX_HEALTH_OK);
    CHECK_STR(entries[1].reason, "");
    CHECK_EQ(pnx_health(set, NULL, 1, &n), -EINVAL);
    CHECK_EQ(pnx_health(set, NULL, 0, NULL), 0);
    for (int i = 0; i < 3; i++)
        pnx__stats_remove(&f[i].stats);
    pnx_stats_release(&set);
}

TEST(health_cuts_long_names_between_characters) {
    struct pnx_stats *set = fixture_set(NULL);
    static struct fixture f[3];
    char ascii[100], euros[100], exact[64];
    memset(ascii, 'x', sizeof(ascii));
    ascii[99] = '\0';
    for (int i = 0; i < 33; i++)
        memcpy(euros + (size_t)i * 3, "\xe2\x82\xac", 3);
    euros[99] = '\0';
    memset(exact, 'y', sizeof(exact));
    exact[63] = '\0';
    fixture_add(&f[0], set, ascii);
    fixture_add(&f[1], set, euros);
    fixture_add(&f[2], set, exact);
    struct pnx_health_entry entries[3];
    CHECK_EQ(pnx_health(set, entries, 3, NULL), 0);
    CHECK_EQ(strlen(entries[0].name), 63);
    CHECK_EQ(strlen(entries[1].name), 63);
    CHECK_EQ(memcmp(entries[1].name, euros, 63), 0);
    CHECK_STR(entries[2].name, exact);
    for (int i = 0; i < 3; i++)
        pnx__stats_remove(&f[i].stats);
    euros[0] = 'e'; /* now the 63rd byte is within a character */
    memmove(euros + 1, euros + 3, 97);
    fixture_add(&f[1], set, euros);
    CHECK_EQ(pnx_health(set, entries, 1, NULL), 0);
    CHECK_EQ(strlen(entries[0].name), 61);
    pnx__stats_remove(&f[1].stats);
    pnx_stats_release(&set);
}

struct flip {
    struct pnx_stats *set;
    struct fixture f;
    struct pnx_a32 done;
    int rounds;
};

static void flip(unsigned index, void *ctx) {
    struct flip *x = ctx;
    static const char *const reasons[3] = {"", "degraded", "down"};
    if (index == 0) {
        for (int i = 0; i < x->rounds; i++)
            pnx__health_set(&x->f.stats, (enum pnx_health_status)(i % 3), reasons[i % 3]);
        pnx_store(&x->done, 1, PNX_RELEASE, "test.done");
        return;
    }
    while (!pnx_load(&x->done, PNX_ACQUIRE, "test.done?")) {
        struct pnx_health_entry entry;
        size_t n;
        int worst = pnx_health(x->set, &entry, 1, &n);
        CHECK_EQ(n, 1);
        CHECK_EQ(worst, entry.status);
        CHECK((entry.reason[0] == '\0') == (entry.status == PNX_HEALTH_OK));
    }
}

TEST(p3_a_status_that_is_not_ok_never_comes_without_a_reason) {
    static struct flip x;
    x.set = fixture_set(NULL);
    x.rounds = test_slow() ? 20000 : 300000;
    fixture_add(&x.f, x.set, "flips");
    test_threads(3, flip, &x);
    pnx__stats_remove(&x.f.stats);
    pnx_stats_release(&x.set);
}

/* ---- utf8 ---- */

TEST(every_code_point_decodes_to_itself_and_nothing_else_is_valid) {
    for (uint32_t c = 1; c <= 0x110010; c++) {
        char text[6] = {0};
        if (c < 0x80) {
            text[0] = (char)c;
        } else if (c < 0x800) {
            text[0] = (char)(0xC0 | (c >> 6));
            text[1] = (char)(0x80 | (c & 0x3F));
        } else if (c < 0x10000) {
            text[0] = (char)(0xE0 | (c >> 12));
            text[1] = (char)(0x80 | ((c >> 6) & 0x3F));
            text[2] = (char)(0x80 | (c & 0x3F));
        } else {
            text[0] = (char)(0xF0 | (c >> 18));
            text[1] = (char)(0x80 | ((c >> 12) & 0x3F));
            text[2] = (char)(0x80 | ((c >> 6) & 0x3F));
            text[3] = (char)(0x80 | (c & 0x3F));
        }
        bool valid = c <= 0x10FFFF && (c < 0xD800 || c > 0xDFFF);
        const char *p = text;
        uint32_t got = pnx__utf8_next(&p);
        CHECK_EQ(got, valid ? c : PNX_UTF8_REPLACEMENT);
        CHECK_EQ(p - text, valid ? (ptrdiff_t)strlen(text) : 1);
    }
}

TEST(two_byte_overlong_forms_are_invalid) {
    for (unsigned lead = 0x80; lead <= 0xFF; lead++) {
        for (unsigned second = 0x80; second <= 0xBF; second++) {
            char text[3] = {(char)lead, (char)second, 0};
            const char *p = text;
            uint32_t got = pnx__utf8_next(&p);
            bool valid = lead >= 0xC2 && lead <= 0xDF;
            CHECK_EQ(got != PNX_UTF8_REPLACEMENT, valid);
            CHECK(!valid || got >= 0x80);
        }
    }
    CHECK(pnx__utf8_same("\xc0\xaf", "\xff\xfe"));
    CHECK(!pnx__utf8_same("a", "ab"));
    CHECK(pnx__utf8_same(NULL, ""));
    CHECK_EQ(pnx__utf8_hash("\xc0\xaf"), pnx__utf8_hash("\xff\xfe"));
}

/* ---- P4 ---- */

static void hear(void *ctx, const struct pnx_event *event) {
    (void)ctx;
    (void)event;
}

static int use_a_set(void *ctx) {
    struct pnx_stats *set = ctx;
    const struct pnx_monitor monitor = {.size = sizeof(monitor), .event = hear};
    struct fixture f;
    uint32_t id;
    size_t n = 0;
    memset(&f, 0, sizeof(f));
    fixture_add(&f, set, "x");
    if (pnx_monitor_add(set, &monitor, &id))
        return 1;
    pnx__event(&f.stats, PNX_EVENT_POOL_CLOSED, "x", 0, NULL, 0, 1);
    if (pnx_monitor_remove(set, id))
        return 2;
    if (pnx_health(set, NULL, 0, &n) || n == 0)
        return 3;
    pnx__stats_remove(&f.stats);
    return 0;
}

TEST(p4_a_child_finds_each_set_usable_whatever_other_threads_were_doing) {
    struct pnx_stats *set;
    CHECK_EQ(pnx_stats_create(NULL, NULL, &set), 0);
    test_forks_beside("a set", use_a_set, set);
    test_forks_beside("the default set", use_a_set, NULL);
    pnx_stats_release(&set);
}
