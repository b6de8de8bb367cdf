/* SPDX-License-Identifier: Apache-2.0 */
/* Budgets without reclaimers: options, charges at every level, limits, misuse, life, events, health. */
#include "budget/budget.h"
#include "harness/forks.h"

#include <patinox/shutdown.h>

#include <signal.h>

static struct pnx_budget *root_of_its_own(size_t soft, size_t hard) {
    struct pnx_budget *budget = NULL;
    CHECK_EQ(pnx_budget_create(PNX_BUDGET_OPTS(.name = "root", .parent = pnx_budget_off(),
                                       .soft = soft, .hard = hard),
                     NULL, &budget),
            0);
    return budget;
}

static struct pnx_budget *child_of(struct pnx_budget *parent, size_t hard) {
    struct pnx_budget *budget = NULL;
    CHECK_EQ(pnx_budget_create(PNX_BUDGET_OPTS(.name = "child", .parent = parent, .hard = hard),
                     NULL, &budget),
            0);
    return budget;
}

static struct pnx_budget_stats stats_of(const struct pnx_budget *budget) {
    struct pnx_budget_stats stats = {.size = sizeof(stats)};
    CHECK_EQ(pnx_budget_read_stats(budget, &stats), 0);
    return stats;
}

static size_t used(const struct pnx_budget *budget) {
    return stats_of(budget).used;
}

TEST(p1_charges_count_at_every_level_above) {
    struct pnx_budget *root = root_of_its_own(0, 0);
    struct pnx_budget *left = child_of(root, 0), *right = child_of(root, 0);
    struct pnx_budget *leaf = child_of(left, 0);
    CHECK_EQ(pnx_budget_charge(leaf, 100, 0), 0);
    CHECK_EQ(pnx_budget_charge(right, 20, 0), 0);
    CHECK_EQ(pnx_budget_charge(root, 3, 0), 0);
    CHECK_EQ(used(leaf), 100);
    CHECK_EQ(used(left), 100);
    CHECK_EQ(used(right), 20);
    CHECK_EQ(used(root), 123);
    pnx_budget_uncharge(leaf, 60);
    CHECK_EQ(used(leaf), 40);
    CHECK_EQ(used(left), 40);
    CHECK_EQ(used(right), 20);
    CHECK_EQ(used(root), 63);
    CHECK_EQ(stats_of(root).peak, 123);
    CHECK_EQ(stats_of(left).peak, 100);
    pnx_budget_uncharge(leaf, 40);
    pnx_budget_uncharge(right, 20);
    pnx_budget_uncharge(root, 3);
    CHECK_EQ(used(root), 0);
    CHECK_EQ(stats_of(root).peak, 123);
    pnx_budget_release(&leaf);
    pnx_budget_release(&left);
    pnx_budget_release(&right);
    pnx_budget_release(&root);
    CHECK(!root);
}

TEST(p2_hard_limit_is_reached_and_not_exceeded) {
    struct pnx_budget *budget = root_of_its_own(0, 100);
    CHECK_EQ(pnx_budget_charge(budget, 60, 0), 0);
    CHECK_EQ(pnx_budget_charge(budget, 41, 0), -ENOMEM);
    CHECK_EQ(pnx_budget_charge(budget, 40, 0), 0);
    CHECK_EQ(pnx_budget_charge(budget, 1, 0), -ENOMEM);
    CHECK_EQ(pnx_budget_charge(budget, 0, 0), 0);
    CHECK_EQ(used(budget), 100);
    CHECK_EQ(stats_of(budget).refusals, 2);
    CHECK_EQ(stats_of(budget).hard_limit, 100);
    CHECK_EQ(stats_of(budget).soft_limit, 100 - 100 / 8);
    pnx_budget_uncharge(budget, 100);
    pnx_budget_release(&budget);
}

TEST(p2_must_charges_pass_the_limit_and_are_counted) {
    struct pnx_budget *root = root_of_its_own(0, 100);
    struct pnx_budget *leaf = child_of(root, 50);
    CHECK_EQ(pnx_budget_charge(leaf, 45, 0), 0);
    CHECK_EQ(pnx_budget_charge(leaf, 10, PNX_CHARGE_MUST), 0);
    CHECK_EQ(stats_of(leaf).overcommit, 5);
    CHECK_EQ(stats_of(root).overcommit, 0);
    CHECK_EQ(pnx_budget_charge(leaf, 7, PNX_CHARGE_MUST | PNX_CHARGE_NO_RECLAIM), 0);
    CHECK_EQ(stats_of(leaf).overcommit, 12); /* all of it, being over already */
    CHECK_EQ(pnx_budget_charge(leaf, 50, PNX_CHARGE_MUST), 0);
    CHECK_EQ(stats_of(root).overcommit, 12);
    CHECK_EQ(used(leaf), 112);
    CHECK_EQ(stats_of(leaf).refusals, 0);
    pnx_budget_uncharge(leaf, 112);
    pnx_budget_release(&leaf);
    pnx_budget_release(&root);
}

TEST(p3_refusal_at_any_level_changes_no_level) {
    size_t hard[3][3] = {{10, 0, 0}, {0, 10, 0}, {0, 0, 10}};
    for (int refusing = 0; refusing < 3; refusing++) {
        struct pnx_budget *top = root_of_its_own(0, hard[refusing][0]);
        struct pnx_budget *middle = child_of(top, hard[refusing][1]);
        struct pnx_budget *leaf = child_of(middle, hard[refusing][2]);
        struct pnx_budget *levels[3] = {top, middle, leaf};
        CHECK_EQ(pnx_budget_charge(leaf, 8, 0), 0);
        CHECK_EQ(pnx_budget_charge(leaf, 3, 0), -ENOMEM);
        CHECK_EQ(pnx_budget_charge(leaf, 3, PNX_CHARGE_NO_RECLAIM), -ENOMEM);
        for (int i = 0; i < 3; i++) {
            CHECK_EQ(used(levels[i]), 8);
            CHECK_EQ(stats_of(levels[i]).peak, 8);
            CHECK_EQ(stats_of(levels[i]).refusals, i == refusing ? 2 : 0);
        }
        pnx_budget_uncharge(leaf, 8);
        pnx_budget_release(&leaf);
        pnx_budget_release(&middle);
        pnx_budget_release(&top);
    }
}

TEST(sums_that_overflow_are_refused) {
    struct pnx_budget *root = root_of_its_own(0, 0);
    struct pnx_budget *leaf = child_of(root, 0);
    CHECK_EQ(pnx_budget_charge(root, SIZE_MAX - 10, 0), 0);
    CHECK_EQ(pnx_budget_charge(leaf, 11, 0), -EOVERFLOW);
    CHECK_EQ(pnx_budget_charge(leaf, 11, PNX_CHARGE_MUST), -EOVERFLOW);
    CHECK_EQ(used(leaf), 0);
    CHECK_EQ(pnx_budget_charge(leaf, 10, 0), 0);
    CHECK_EQ(used(root), SIZE_MAX);
    pnx_budget_uncharge(leaf, 10);
    pnx_budget_uncharge(root, SIZE_MAX - 10);
    CHECK_EQ(used(root), 0);
    pnx_budget_release(&leaf);
    pnx_budget_release(&root);
}

TEST(bad_arguments_are_refused) {
    struct pnx_budget *budget = root_of_its_own(0, 100);
    CHECK_EQ(pnx_budget_charge(NULL, 1, 0), -EINVAL);
    CHECK_EQ(pnx_budget_charge(budget, 1, 4), -EINVAL);
    CHECK_EQ(pnx_budget_set_limits(NULL, 0, 0), -EINVAL);
    CHECK_EQ(pnx_budget_set_limits(budget, 101, 100), -EINVAL);
    CHECK_EQ(stats_of(budget).hard_limit, 100);
    struct pnx_budget_stats stats = {.size = 0};
    CHECK_EQ(pnx_budget_read_stats(budget, &stats), -EINVAL);
    CHECK_EQ(pnx_budget_read_stats(budget, NULL), -EINVAL);
    CHECK_EQ(pnx_budget_read_stats(NULL, &stats), -EINVAL);
    pnx_budget_uncharge(NULL, 1);
    pnx_budget_release(NULL);
    struct pnx_budget *none = NULL;
    pnx_budget_release(&none);
    CHECK(pnx_budget_ref(NULL) == NULL);
    CHECK_EQ(pnx_budget_create(NULL, NULL, NULL), -EINVAL);
    pnx_budget_release(&budget);
}

TEST(bad_options_name_their_field) {
    struct pnx_budget *budget = (struct pnx_budget *)&budget;
    struct pnx_error err = {0};
    CHECK_EQ(pnx_budget_create(PNX_BUDGET_OPTS(.soft = 2, .hard = 1), &err, &budget), -EINVAL);
    CHECK_STR(err.field, "soft");
    CHECK_CONTAINS(err.message, "2 bytes");
    struct {
        struct pnx_budget_opts known;
        uint64_t later;
    } newer = {.known = {.size = sizeof(newer)}, .later = 1};
    CHECK_EQ(pnx_budget_create(&newer.known, &err, &budget), -E2BIG);
    CHECK_EQ(pnx_budget_create(&(struct pnx_budget_opts){0}, &err, &budget), -EINVAL);
    CHECK_STR(err.field, "size");
    CHECK(budget == (struct pnx_budget *)&budget); /* untouched on failure */
}

TEST(no_limit_means_no_limit) {
    struct pnx_budget *budget = root_of_its_own(0, 0);
    CHECK_EQ(stats_of(budget).soft_limit, 0);
    CHECK_EQ(stats_of(budget).hard_limit, 0);
    CHECK_EQ(pnx_budget_charge(budget, SIZE_MAX, 0), 0);
    CHECK_EQ(stats_of(budget).overcommit, 0);
    pnx_budget_uncharge(budget, SIZE_MAX);
    pnx_budget_release(&budget);
}

TEST(limits_can_change_while_in_use) {
    struct pnx_budget *budget = root_of_its_own(0, 100);
    CHECK_EQ(pnx_budget_charge(budget, 80, 0), 0);
    CHECK_EQ(pnx_budget_set_limits(budget, 40, 50), 0);
    CHECK_EQ(used(budget), 80); /* nothing happens until the next charge */
    CHECK_EQ(pnx_budget_charge(budget, 1, 0), -ENOMEM);
    CHECK_EQ(pnx_budget_set_limits(budget, 0, 0), 0);
    CHECK_EQ(pnx_budget_charge(budget, 1000, 0), 0);
    pnx_budget_uncharge(budget, 1080);
    pnx_budget_release(&budget);
}

TEST(default_budget_has_no_limit_and_is_parent_of_all) {
    struct pnx_budget *process = pnx_budget_default();
    CHECK(process && process == pnx_budget_default());
    CHECK_EQ(stats_of(process).hard_limit, 0);
    struct pnx_budget *child = child_of(NULL, 0);
    CHECK_EQ(pnx_budget_charge(child, 7, 0), 0);
    CHECK_EQ(used(process), 7);
    CHECK_EQ(pnx_budget_set_limits(process, 0, 10), 0);
    CHECK_EQ(pnx_budget_charge(child, 4, 0), -ENOMEM);
    CHECK_EQ(pnx_budget_set_limits(process, 0, 0), 0);
    pnx_budget_uncharge(child, 7);
    pnx_budget_release(&child);
    struct pnx_budget *copy = pnx_budget_ref(process);
    pnx_budget_release(&copy);
    pnx_budget_release(&process);
    CHECK_EQ(pnx_budget_charge(pnx_budget_default(), 1, 0), 0); /* releasing it does nothing */
    CHECK_EQ(used(pnx_budget_default()), 1);
}

TEST(off_takes_any_charge_and_keeps_no_account) {
    struct pnx_budget *off = pnx_budget_off();
    struct pnx_budget_stats stats = {.size = sizeof(stats)};
    CHECK_EQ(pnx_budget_charge(off, SIZE_MAX, 0), 0);
    pnx_budget_uncharge(off, 3);
    CHECK_EQ(pnx_budget_reclaim(off, 3), 0);
    CHECK_EQ(pnx_budget_read_stats(off, &stats), -EINVAL);
    CHECK_EQ(pnx_budget_set_limits(off, 0, 1), -EINVAL);
    CHECK(pnx_budget_ref(off) == off);
    pnx_budget_release(&off);
    CHECK(!off);
}

static void uncharge_too_much(void *ctx) {
    struct pnx_budget *budget = root_of_its_own(0, 0);
    (void)ctx;
    CHECK_EQ(pnx_budget_charge(budget, 5, 0), 0);
    pnx_budget_uncharge(budget, 6);
    CHECK_EQ(used(budget), 0);
    CHECK_EQ(stats_of(budget).misuses, 1);
    pnx_budget_release(&budget);
}

TEST(giving_back_too_much_aborts_in_debug_and_is_counted_otherwise) {
#ifdef PNX_DEBUG
    CHECK_EQ(test_apart(uncharge_too_much, NULL), -SIGABRT);
#else
    CHECK_EQ(test_child(uncharge_too_much, NULL), 0);
#endif
}

TEST(siblings_charges_cannot_be_given_back_by_a_parent) {
#ifndef PNX_DEBUG
    struct pnx_budget *root = root_of_its_own(0, 0);
    struct pnx_budget *leaf = child_of(root, 0);
    CHECK_EQ(pnx_budget_charge(leaf, 5, 0), 0);
    pnx_budget_uncharge(root, 5);
    CHECK_EQ(used(root), 5);
    CHECK_EQ(used(leaf), 5);
    CHECK_EQ(stats_of(root).misuses, 1);
    pnx_budget_uncharge(leaf, 5);
    pnx_budget_release(&leaf);
    pnx_budget_release(&root);
#else
    struct pnx_budget *root = root_of_its_own(0, 0);
    CHECK_EQ(pnx_budget_charge(root, 5, 0), 0);
    pnx_budget_uncharge(root, 5); /* exactly all of it is no misuse */
    CHECK_EQ(stats_of(root).misuses, 0);
    pnx_budget_release(&root);
#endif
}

/* ---- life ---- */

TEST(children_and_charges_keep_a_budget_alive) {
    struct test_env te;
    test_env_init(&te);
    struct pnx_budget *root = NULL, *leaf = NULL;
    CHECK_EQ(pnx_budget_create(
                     PNX_BUDGET_OPTS(.parent = pnx_budget_off(), .env = &te.env), NULL, &root),
            0);
    CHECK_EQ(pnx_budget_create(PNX_BUDGET_OPTS(.parent = root, .env = &te.env), NULL, &leaf), 0);
    struct pnx_budget *open = leaf;
    CHECK_EQ(pnx_budget_charge(leaf, 10, 0), 0);
    pnx_budget_release(&root);
    pnx_budget_release(&leaf);
    CHECK(te.live_blocks > 0);
    CHECK_EQ(used(open), 10);
    CHECK_EQ(pnx_budget_charge(open, 5, 0), 0);
    pnx_budget_uncharge(open, 14);
    CHECK(te.live_blocks > 0);
    pnx_budget_uncharge(open, 1); /* the last byte: it goes, and its parent with it */
    test_env_check_empty(&te);
}

TEST(references_are_counted) {
    struct test_env te;
    test_env_init(&te);
    struct pnx_budget *budget = NULL;
    CHECK_EQ(pnx_budget_create(
                     PNX_BUDGET_OPTS(.parent = pnx_budget_off(), .env = &te.env), NULL, &budget),
            0);
    struct pnx_budget *second = pnx_budget_ref(budget);
    CHECK(second == budget);
    pnx_budget_release(&budget);
    CHECK_EQ(pnx_budget_charge(second, 1, 0), 0);
    pnx_budget_uncharge(second, 1);
    CHECK(te.live_blocks > 0);
    pnx_budget_release(&second);
    test_env_check_empty(&te);
}

static int make_and_drop(struct test_env *te, void *ctx) {
    struct pnx_budget *budget = NULL;
    struct pnx_error err = {0};
    (void)ctx;
    int rc = pnx_budget_create(PNX_BUDGET_OPTS(.name = "made", .env = &te->env), &err, &budget);
    CHECK_EQ(rc, err.code);
    CHECK(!budget == (rc != 0));
    if (rc == 0)
        CHECK_EQ(pnx_budget_charge(budget, 1, 0), 0);
    pnx_budget_uncharge(budget, 1);
    pnx_budget_release(&budget);
    CHECK_EQ(used(pnx_budget_default()), 0);
    return rc;
}

TEST(every_failed_allocation_leaves_nothing_behind) {
    struct test_env te;
    test_env_init(&te);
    test_fail_each_allocation(&te, make_and_drop, NULL);
}

static int find_row(void *ctx, const struct pnx_resource_info *info) {
    struct pnx_resource_info *found = ctx;
    if (strcmp(info->type, "budget") != 0)
        return 0;
    *found = *info;
    return 1;
}

TEST(a_budget_has_a_row_with_its_birthplace) {
    struct pnx_registry *registry = NULL;
    CHECK_EQ(pnx_registry_create(NULL, NULL, &registry), 0);
    struct pnx_budget *budget = NULL;
    CHECK_EQ(pnx_budget_create(PNX_BUDGET_OPTS(.name = "rows", .registry = registry,
                                       .parent = pnx_budget_off()),
                     NULL, &budget),
            0);
    struct pnx_resource_info info = {0};
    CHECK_EQ(pnx_registry_each(registry, find_row, &info), 1);
    CHECK_STR(info.name, "rows");
    CHECK_CONTAINS(info.site, "test_tree.c:");
    pnx_budget_release(&budget);
    CHECK_EQ(pnx_registry_count(registry), 0);
    pnx_registry_release(&registry);
}

TEST(a_shutdown_ends_a_budget_and_leaves_it_to_its_owner) {
    struct pnx_registry *registry = NULL;
    struct pnx_budget *budget = NULL, *late = NULL;
    CHECK_EQ(pnx_registry_create(NULL, NULL, &registry), 0);
    CHECK_EQ(pnx_budget_create(PNX_BUDGET_OPTS(.registry = registry, .parent = pnx_budget_off()),
                     NULL, &budget),
            0);
    CHECK_EQ(
            pnx_budget_charge(budget, 9, 0), 0); /* by an object that is closed, not yet released */
    CHECK_EQ(pnx_registry_shutdown(registry, 10 * PNX_SEC, NULL), 0);
    CHECK_EQ(pnx_budget_create(PNX_BUDGET_OPTS(.registry = registry), NULL, &late), -ESHUTDOWN);
    CHECK(!late);
    CHECK_EQ(used(budget), 9);
    pnx_budget_uncharge(budget, 9);
    pnx_budget_release(&budget);
    pnx_registry_release(&registry);
}

/* ---- events, health ---- */

struct heard {
    enum pnx_event_type type[16];
    int64_t value[16];
    int code[16];
    unsigned n;
    struct pnx_budget *charge_from_inside;
};

static void hear(void *ctx, const struct pnx_event *event) {
    struct heard *heard = ctx;
    CHECK(heard->n < 16);
    heard->type[heard->n] = event->type;
    heard->code[heard->n] = event->code;
    heard->value[heard->n++] = event->value;
    if (heard->charge_from_inside)
        CHECK_EQ(pnx_budget_charge(heard->charge_from_inside, 1000, 0), -ENOMEM);
}

static struct pnx_budget *heard_budget(struct pnx_stats *stats, size_t soft, size_t hard) {
    struct pnx_budget *budget = NULL;
    CHECK_EQ(pnx_budget_create(PNX_BUDGET_OPTS(.parent = pnx_budget_off(), .stats = stats,
                                       .soft = soft, .hard = hard),
                     NULL, &budget),
            0);
    return budget;
}

TEST(events_tell_of_pressure_once_and_of_each_refusal) {
    struct pnx_stats *stats = NULL;
    struct heard heard = {.n = 0};
    uint32_t id;
    CHECK_EQ(pnx_stats_create(NULL, NULL, &stats), 0);
    CHECK_EQ(pnx_monitor_add(
                     stats, &(struct pnx_monitor){sizeof(struct pnx_monitor), hear, &heard}, &id),
            0);
    struct pnx_budget *budget = heard_budget(stats, 80, 100);
    CHECK_EQ(pnx_budget_charge(budget, 80, 0), 0);
    CHECK_EQ(heard.n, 0);
    CHECK_EQ(pnx_budget_charge(budget, 10, 0), 0);
    CHECK_EQ(heard.n, 1);
    CHECK_EQ(heard.type[0], PNX_EVENT_BUDGET_PRESSURE);
    CHECK_EQ(heard.value[0], 90);
    pnx_budget_uncharge(budget, 15); /* 75: below soft, not yet below 7/8 of it */
    CHECK_EQ(pnx_budget_charge(budget, 15, 0), 0);
    CHECK_EQ(heard.n, 1);
    pnx_budget_uncharge(budget, 20); /* 70 */
    CHECK_EQ(pnx_budget_charge(budget, 15, 0), 0);
    CHECK_EQ(heard.n, 2);
    CHECK_EQ(pnx_budget_charge(budget, 16, 0), -ENOMEM);
    CHECK_EQ(heard.n, 3);
    CHECK_EQ(heard.type[2], PNX_EVENT_BUDGET_REFUSED);
    CHECK_EQ(heard.code[2], -ENOMEM);
    CHECK_EQ(heard.value[2], 16);
    pnx_budget_uncharge(budget, 85);
    pnx_budget_release(&budget);
    pnx_stats_release(&stats);
}

TEST(p4_charges_that_must_not_call_out_leave_their_events_to_the_next_that_may) {
    struct pnx_stats *stats = NULL;
    struct heard heard = {.n = 0};
    uint32_t id;
    CHECK_EQ(pnx_stats_create(NULL, NULL, &stats), 0);
    CHECK_EQ(pnx_monitor_add(
                     stats, &(struct pnx_monitor){sizeof(struct pnx_monitor), hear, &heard}, &id),
            0);
    struct pnx_budget *budget = heard_budget(stats, 80, 100);
    CHECK_EQ(pnx_budget_charge(budget, 101, PNX_CHARGE_NO_RECLAIM), -ENOMEM);
    CHECK_EQ(pnx_budget_charge(budget, 95, PNX_CHARGE_NO_RECLAIM), 0);
    pnx_budget_uncharge(budget, 95);
    CHECK_EQ(heard.n, 0);
    CHECK_EQ(pnx_budget_charge(budget, 1, 0), 0);
    CHECK_EQ(heard.n, 2);
    CHECK_EQ(pnx_budget_charge(budget, 101, PNX_CHARGE_NO_RECLAIM), -ENOMEM);
    pnx_budget_uncharge(budget, 1);
    CHECK_EQ(heard.n, 2);
    pnx_budget_release(&budget); /* and the last chance is the release */
    CHECK_EQ(heard.n, 3);
    CHECK_EQ(heard.type[2], PNX_EVENT_BUDGET_REFUSED);
    pnx_stats_release(&stats);
}

TEST(a_monitor_that_charges_does_not_hear_itself_for_ever) {
    struct pnx_stats *stats = NULL;
    struct heard heard = {.n = 0};
    uint32_t id;
    CHECK_EQ(pnx_stats_create(NULL, NULL, &stats), 0);
    CHECK_EQ(pnx_monitor_add(
                     stats, &(struct pnx_monitor){sizeof(struct pnx_monitor), hear, &heard}, &id),
            0);
    struct pnx_budget *budget = heard_budget(stats, 0, 100);
    heard.charge_from_inside = budget;
    CHECK_EQ(pnx_budget_charge(budget, 101, 0), -ENOMEM);
    CHECK_EQ(heard.n, 1);
    heard.charge_from_inside = NULL;
    CHECK_EQ(pnx_budget_charge(budget, 1, 0), 0); /* tells of the monitor's own refusal */
    CHECK_EQ(heard.n, 2);
    CHECK_EQ(heard.value[1], 1000);
    pnx_budget_uncharge(budget, 1);
    pnx_budget_release(&budget);
    pnx_stats_release(&stats);
}

static enum pnx_health_status health_of(struct pnx_stats *stats, const char **ret_reason) {
    struct pnx_health_entry entry;
    size_t n;
    int status = pnx_health(stats, &entry, 1, &n);
    CHECK_EQ(n, 1);
    CHECK_STR(entry.kind, "budget");
    *ret_reason = entry.reason;
    return (enum pnx_health_status)status;
}

TEST(health_is_degraded_under_pressure_and_recovers) {
    struct pnx_stats *stats = NULL;
    const char *reason;
    CHECK_EQ(pnx_stats_create(NULL, NULL, &stats), 0);
    struct pnx_budget *budget = heard_budget(stats, 80, 100);
    CHECK_EQ(health_of(stats, &reason), PNX_HEALTH_OK);
    CHECK_EQ(pnx_budget_charge(budget, 90, 0), 0);
    CHECK_EQ(health_of(stats, &reason), PNX_HEALTH_DEGRADED);
    CHECK_STR(reason, "over the soft limit");
    CHECK_EQ(pnx_budget_charge(budget, 90, 0), -ENOMEM);
    CHECK_EQ(health_of(stats, &reason), PNX_HEALTH_DEGRADED);
    CHECK_STR(reason, "charges were refused at the hard limit");
    pnx_budget_uncharge(budget, 20);
    CHECK_EQ(health_of(stats, &reason), PNX_HEALTH_OK);
    CHECK_STR(reason, "");
    pnx_budget_uncharge(budget, 70);
    pnx_budget_release(&budget);
    pnx_stats_release(&stats);
}

TEST(a_larger_or_smaller_stats_struct_is_filled_up_to_its_size) {
    struct pnx_budget *budget = root_of_its_own(0, 100);
    CHECK_EQ(pnx_budget_charge(budget, 5, 0), 0);
    struct {
        struct pnx_budget_stats known;
        uint64_t later;
    } newer = {.known = {.size = sizeof(newer)}, .later = 77};
    CHECK_EQ(pnx_budget_read_stats(budget, &newer.known), 0);
    CHECK_EQ(newer.known.used, 5);
    CHECK_EQ(newer.later, 77);
    struct pnx_budget_stats older = {.size = 2 * sizeof(uint64_t), .peak = 99};
    CHECK_EQ(pnx_budget_read_stats(budget, &older), 0);
    CHECK_EQ(older.used, 5);
    CHECK_EQ(older.peak, 99);
    pnx_budget_uncharge(budget, 5);
    pnx_budget_release(&budget);
}

/* ---- P5 of budget.c ---- */

static int charge_and_give_back(void *ctx) {
    struct pnx_budget *budget = ctx;
    for (int i = 0; i < 20; i++) {
        if (pnx_budget_charge(budget, 10, 0))
            return 1;
        pnx_budget_uncharge(budget, 10);
    }
    return 0;
}

TEST(p5_a_child_finds_each_budget_usable_whatever_other_threads_were_doing) {
    struct pnx_budget *root = root_of_its_own(0, 0), *leaf = child_of(root, 0);
    test_forks_beside("a tree", charge_and_give_back, leaf);
    test_forks_beside("the default budget", charge_and_give_back, pnx_budget_default());
    pnx_budget_release(&leaf);
    pnx_budget_release(&root);
}
