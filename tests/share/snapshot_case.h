/* SPDX-License-Identifier: Apache-2.0 */
/* snapshot_case.h - values that show when they are torn, and cells of them; for the tests of snapshot. */
#ifndef PNX_TESTS_SHARE_SNAPSHOT_CASE_H
#define PNX_TESTS_SHARE_SNAPSHOT_CASE_H

#include "harness/harness.h"

#include <patinox/reclaim.h>
#include <patinox/snapshot.h>

#include <pthread.h>
#include <sched.h>
#include <signal.h>

/* All words say the same number: a reader that finds two of them has seen a torn or an edited value. */
#define WORDS 64
struct value {
    uint64_t words[WORDS];
};

static int drops;

__attribute__((unused)) static void value_drop(void *ctx, void *object) {
    (void)ctx;
    memset(object, 0x5a, sizeof(struct value));
    __atomic_add_fetch(&drops, 1, __ATOMIC_RELAXED);
}

static int clone_fails;

__attribute__((unused)) static int value_clone(void *ctx, const void *object, void *ret_copy) {
    (void)ctx;
    memcpy(ret_copy, object, sizeof(struct value));
    return clone_fails;
}

static struct pnx_rc_type value_type =
        PNX_RC_TYPE(struct value, .clone = value_clone, .drop = value_drop);
PNX_RC_DEFINE(value, struct value, value_type)

static struct test_env te;

__attribute__((unused)) static void use_env(void) {
    test_env_init(&te);
    value_type.env = &te.env;
}

__attribute__((unused)) static struct value *make(uint64_t number) {
    struct value init, *value = NULL;
    for (int i = 0; i < WORDS; i++)
        init.words[i] = number;
    CHECK_EQ(value_new(&init, &value), 0);
    return value;
}

__attribute__((unused)) static uint64_t number_of(const struct value *value) {
    for (int i = 1; i < WORDS; i++)
        CHECK_EQ(value->words[i], value->words[0]);
    return value->words[0];
}

__attribute__((unused)) static struct pnx_snapshot *make_snapshot_with(
        uint64_t number, pnx_snapshot_validate_fn *validate, pnx_ns write_timeout_ns) {
    struct pnx_snapshot *snapshot = NULL;
    struct value *value = make(number);
    CHECK_EQ(pnx_snapshot_create(value,
                     PNX_SNAPSHOT_OPTS(.name = "test", .env = &te.env,
                             .registry = pnx_registry_off(), .stats = pnx_stats_off(),
                             .validate = validate, .write_timeout_ns = write_timeout_ns),
                     NULL, &snapshot),
            0);
    value_release(&value);
    return snapshot;
}

__attribute__((unused)) static struct pnx_snapshot *make_snapshot(uint64_t number) {
    return make_snapshot_with(number, NULL, 0);
}

__attribute__((unused)) static void store(struct pnx_snapshot *snapshot, uint64_t number) {
    struct value *value = make(number);
    CHECK_EQ(pnx_snapshot_store(snapshot, value, NULL, NULL), 0);
    value_release(&value);
}

__attribute__((unused)) static uint64_t load(struct pnx_snapshot *snapshot) {
    PNX_AUTO_RC const struct value *value = pnx_snapshot_load(snapshot, NULL);
    return number_of(value);
}

__attribute__((unused)) static struct pnx_snapshot_stats stats_of(struct pnx_snapshot *snapshot) {
    struct pnx_snapshot_stats stats = {.size = sizeof(stats)};
    CHECK_EQ(pnx_snapshot_read_stats(snapshot, &stats), 0);
    return stats;
}

__attribute__((unused)) static int set_next(void *ctx, void *object) {
    struct value *value = object;
    uint64_t next = number_of(value) + 1;
    (void)ctx;
    for (int i = 0; i < WORDS; i++)
        value->words[i] = next;
    return 0;
}

static int validations;

__attribute__((unused)) static int refuse_odd(
        void *ctx, const void *next, const void *current, struct pnx_error *err) {
    (void)ctx;
    validations++;
    if (current)
        CHECK(number_of(current) % 2 == 0);
    if (number_of(next) % 2 == 0)
        return 0;
    snprintf(
            err->message, sizeof(err->message), "%llu is odd", (unsigned long long)number_of(next));
    return -ERANGE;
}

#endif
