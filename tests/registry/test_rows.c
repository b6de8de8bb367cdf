/* SPDX-License-Identifier: Apache-2.0 */
/* Rows: P1..P3, P5 and P6 of patinox/registry.h. */
#include "harness/harness.h"
#include "registry/ledger.h"

#include <patinox/query.h>
#include <patinox/registry.h>
#include <patinox/shutdown.h>
#include <patinox/trace.h>

#include <pthread.h>
#include <semaphore.h>
#include <sys/wait.h>
#include <unistd.h>

static struct pnx_registry *fresh(void) {
    struct pnx_registry *registry;
    CHECK_EQ(pnx_registry_create(NULL, NULL, &registry), 0);
    return registry;
}

static int count_up(void *arg, const struct pnx_cancel *cancel) {
    (void)cancel;
    __atomic_add_fetch((int *)arg, 1, __ATOMIC_RELAXED);
    return 0;
}

static pnx_resource_id add(struct pnx_registry *registry, int *counter) {
    pnx_resource_id id;
    CHECK_EQ(pnx_registry_add(registry,
                     PNX_RESOURCE(.type = "thing", .cleanup = count_up, .arg = counter), NULL, &id),
            0);
    return id;
}

/* ---- events ---- */

struct seen {
    int n;
    struct pnx_event last;
    char object[64];
};

static void see(void *ctx, const struct pnx_event *event) {
    struct seen *seen = ctx;
    seen->n++;
    seen->last = *event;
    snprintf(seen->object, sizeof(seen->object), "%s", event->object);
}

static uint32_t monitor(struct pnx_stats *stats, struct seen *seen) {
    uint32_t id;
    struct pnx_monitor monitor = {.size = sizeof(monitor), .event = see, .ctx = seen};
    CHECK_EQ(pnx_monitor_add(stats, &monitor, &id), 0);
    return id;
}

/* ---- adding ---- */

TEST(a_row_says_what_it_was_told) {
    struct test_env te;
    test_env_init(&te);
    test_env_virtual(&te, 5 * PNX_SEC);
    struct pnx_registry *registry;
    CHECK_EQ(pnx_registry_create(PNX_REGISTRY_OPTS(.env = &te.env), NULL, &registry), 0);
    pnx_resource_id parent, id;
    CHECK_EQ(pnx_registry_add(registry, PNX_RESOURCE(.type = "outer"), NULL, &parent), 0);
    CHECK_EQ(pnx_registry_add(registry,
                     PNX_RESOURCE_AT("here:1", .type = "thing", .name = "n", .parent = parent,
                             .owner = 7, .tag = 8, .bytes = 9),
                     NULL, &id),
            0);
    test_env_advance(&te, 3 * PNX_SEC);
    struct pnx_resource_info info;
    CHECK_EQ(pnx_registry_info(registry, id, &info), 0);
    CHECK_EQ(info.id, id);
    CHECK_EQ(info.parent, parent);
    CHECK_EQ(info.state, PNX_RESOURCE_LIVE);
    CHECK_STR(info.type, "thing");
    CHECK_STR(info.name, "n");
    CHECK_STR(info.site, "here:1");
    CHECK_EQ(info.owner, 7);
    CHECK_EQ(info.tag, 8);
    CHECK_EQ(info.bytes, 9);
    CHECK_EQ(info.age, 3 * PNX_SEC);
    CHECK_EQ(pnx_registry_set_bytes(registry, id, 4096), 0);
    CHECK_EQ(pnx_registry_info(registry, id, &info), 0);
    CHECK_EQ(info.bytes, 4096);
    CHECK_EQ(pnx_registry_remove(registry, id), 0);
    CHECK_EQ(pnx_registry_remove(registry, parent), 0);
    pnx_registry_release(&registry);
    test_env_check_empty(&te);
}

TEST(the_macro_sets_the_site_to_where_it_stands) {
    pnx_resource_id id;
    char expected[256];
    snprintf(expected, sizeof(expected), "%s:%d", __FILE__, __LINE__ + 1);
    CHECK_EQ(pnx_registry_add(NULL, PNX_RESOURCE(.type = "thing"), NULL, &id), 0);
    struct pnx_resource_info info;
    CHECK_EQ(pnx_registry_info(NULL, id, &info), 0);
    CHECK_STR(info.site, expected);
    CHECK_EQ(pnx_registry_remove(NULL, id), 0);
}

static void check_name(const char *given, const char *kept) {
    pnx_resource_id id;
    struct pnx_resource_info info;
    CHECK_EQ(pnx_registry_add(NULL, PNX_RESOURCE(.type = "thing", .name = given), NULL, &id), 0);
    CHECK_EQ(pnx_registry_info(NULL, id, &info), 0);
    CHECK_STR(info.name, kept);
    CHECK_EQ(pnx_registry_remove(NULL, id), 0);
}

TEST(a_long_name_is_cut_between_characters) {
    check_name(NULL, "");
    check_name("", "");
    check_name("12345678901234567890123456789012345678901234567", /* 47 bytes */
            "12345678901234567890123456789012345678901234567");
    check_name("123456789012345678901234567890123456789012345678",
            "12345678901234567890123456789012345678901234567");
    check_name(
            "1234567890123456789012345678901234567890123456\xc3\xa9", /* the 48th byte is its second */
            "1234567890123456789012345678901234567890123456");
}

TEST(bad_rows_are_refused_by_name) {
    struct pnx_registry *registry = fresh();
    pnx_resource_id id = 5;
    struct pnx_error err;
    CHECK_EQ(pnx_registry_add(registry, PNX_RESOURCE(.name = "x"), &err, &id), -EINVAL);
    CHECK_STR(err.field, "type");
    CHECK_EQ(
            pnx_registry_add(registry, PNX_RESOURCE(.type = "x", .parent = 1), &err, &id), -EINVAL);
    CHECK_STR(err.field, "parent");
    CHECK_CONTAINS(err.message, "is not a live row of registry registry");
    CHECK_EQ(pnx_registry_add(registry, NULL, &err, &id), -EINVAL);
    CHECK_EQ(pnx_registry_add(registry, PNX_RESOURCE(.type = "x"), &err, NULL), -EINVAL);
    struct pnx_resource unsized = {.type = "x"};
    CHECK_EQ(pnx_registry_add(registry, &unsized, &err, &id), -EINVAL);
    CHECK_STR(err.field, "size");
    struct {
        struct pnx_resource known;
        uint64_t newer;
    } longer = {.known = {.size = sizeof(longer), .type = "x"}, .newer = 1};
    CHECK_EQ(pnx_registry_add(registry, &longer.known, &err, &id), -E2BIG);
    CHECK_EQ(id, 5);
    CHECK_EQ(pnx_registry_count(registry), 0);
    pnx_registry_release(&registry);
}

/* A program that was built when priority, the last field, was not there yet. */
TEST(what_a_caller_does_not_know_of_a_resource_has_its_default) {
    struct pnx_registry *registry = fresh();
    struct pnx_resource older = *PNX_RESOURCE(.type = "thing", .bytes = 7, .flags = 0);
    older.size = offsetof(struct pnx_resource, priority);
    older.priority = 12345; /* not its own: what stands behind it */
    pnx_resource_id id;
    CHECK_EQ(pnx_registry_add(registry, &older, NULL, &id), 0);
    struct pnx_resource_info info;
    CHECK_EQ(pnx_registry_info(registry, id, &info), 0);
    CHECK_STR(info.type, "thing");
    CHECK_EQ(info.bytes, 7);
    CHECK_EQ(pnx_registry_remove(registry, id), 0);
    pnx_registry_release(&registry);
}

TEST(bad_flags_and_priorities_are_refused_by_name) {
    struct pnx_registry *registry = fresh();
    pnx_resource_id id;
    struct pnx_error err;
    CHECK_EQ(
            pnx_registry_add(registry, PNX_RESOURCE(.type = "x", .flags = 64), &err, &id), -EINVAL);
    CHECK_STR(err.field, "flags");
    CHECK_CONTAINS(err.message, "unknown bits 0x40");
    CHECK_EQ(
            pnx_registry_add(registry,
                    PNX_RESOURCE(.type = "x", .flags = PNX_RESOURCE_FORCEABLE | PNX_RESOURCE_OWNED),
                    &err, &id),
            -EINVAL);
    CHECK_STR(err.field, "flags");
    const int32_t bad[] = {-1, PNX_PRIORITY_LAST + 1, INT32_MAX, INT32_MIN};
    for (size_t i = 0; i < 4; i++) {
        CHECK_EQ(pnx_registry_add(
                         registry, PNX_RESOURCE(.type = "x", .priority = bad[i]), &err, &id),
                -EINVAL);
        CHECK_STR(err.field, "priority");
    }
    CHECK_EQ(pnx_registry_count(registry), 0);
    CHECK_EQ(pnx_registry_add(registry,
                     PNX_RESOURCE(.type = "x",
                             .flags = PNX_RESOURCE_OWNED | PNX_RESOURCE_KEEP_AFTER_FORK,
                             .priority = PNX_PRIORITY_LAST),
                     &err, &id),
            0);
    const struct pnx_row *row = pnx__row_find(registry, id);
    CHECK(row->order & PNX_ROW_OWNED && row->order & PNX_ROW_KEEP);
    CHECK(!(row->order & PNX_ROW_FORCEABLE));
    CHECK_EQ(pnx__row_priority(row), PNX_PRIORITY_LAST);
    CHECK_EQ(pnx_registry_remove(registry, id), 0);
    CHECK_EQ(pnx_registry_add(registry, PNX_RESOURCE(.type = "x"), &err, &id), 0);
    CHECK_EQ(pnx__row_priority(pnx__row_find(registry, id)), PNX_PRIORITY_NORMAL);
    CHECK_EQ(pnx_registry_remove(registry, id), 0);
    pnx_registry_release(&registry);
}

TEST(a_row_cannot_be_its_own_parent) {
    struct pnx_registry *registry;
    CHECK_EQ(pnx_registry_create(PNX_REGISTRY_OPTS(.max = 1), NULL, &registry), 0);
    int n = 0;
    pnx_resource_id id = add(registry, &n);
    CHECK_EQ(pnx_registry_remove(registry, id), 0);
    pnx_resource_id next = pnx__id_of(
            pnx__generation(id), pnx__slot_of(id) + 1, pnx__shard_of(id)); /* the next add's */
    struct pnx_error err;
    pnx_resource_id got;
    CHECK_EQ(pnx_registry_add(registry, PNX_RESOURCE(.type = "x", .parent = next), &err, &got),
            -EINVAL);
    CHECK_STR(err.field, "parent");
    CHECK_EQ(add(registry, &n), next);
    CHECK_EQ(pnx_registry_remove(registry, next), 0);
    pnx_registry_release(&registry);
}

TEST(a_parent_must_be_live) {
    struct pnx_registry *registry = fresh();
    int n = 0;
    pnx_resource_id removed = add(registry, &n), ended = add(registry, &n), id;
    CHECK_EQ(pnx_registry_remove(registry, removed), 0);
    CHECK_EQ(pnx_registry_cleanup(registry, ended), 0);
    CHECK_EQ(pnx_registry_add(registry, PNX_RESOURCE(.type = "x", .parent = removed), NULL, &id),
            -EINVAL);
    CHECK_EQ(pnx_registry_add(registry, PNX_RESOURCE(.type = "x", .parent = ended), NULL, &id),
            -EINVAL);
    pnx_registry_release(&registry);
}

TEST(bad_options_are_refused_by_name) {
    struct pnx_registry *registry = NULL;
    struct pnx_error err;
    CHECK_EQ(pnx_registry_create(PNX_REGISTRY_OPTS(.max = 1 << 25), &err, &registry), -EINVAL);
    CHECK_STR(err.field, "max");
    CHECK_EQ(pnx_registry_create(PNX_REGISTRY_OPTS(.flags = 1), &err, &registry), -EINVAL);
    CHECK_STR(err.field, "flags");
    struct pnx_env env = {.size = 0};
    CHECK_EQ(pnx_registry_create(PNX_REGISTRY_OPTS(.env = &env), &err, &registry), -EINVAL);
    CHECK(registry == NULL);
}

TEST(at_most_max_rows_are_live) {
    struct pnx_registry *registry;
    CHECK_EQ(pnx_registry_create(PNX_REGISTRY_OPTS(.max = 3, .name = "tiny"), NULL, &registry), 0);
    int n = 0;
    pnx_resource_id ids[3], id;
    for (int i = 0; i < 3; i++)
        ids[i] = add(registry, &n);
    struct pnx_error err;
    CHECK_EQ(pnx_registry_add(registry, PNX_RESOURCE(.type = "x"), &err, &id), -EBUSY);
    CHECK_CONTAINS(err.message, "registry tiny is full: 3 rows are live");
    CHECK_EQ(pnx_registry_remove(registry, ids[1]), 0);
    add(registry, &n);
    struct pnx_registry_stats stats = {.size = sizeof(stats)};
    CHECK_EQ(pnx_registry_read_stats(registry, &stats), 0);
    CHECK_EQ(stats.live, 3);
    CHECK_EQ(stats.added, 4);
    CHECK_EQ(stats.removed, 1);
    CHECK_EQ(stats.refused, 1);
    CHECK_EQ(pnx_registry_shutdown(registry, 60 * PNX_SEC, NULL), 0);
    pnx_registry_release(&registry);
}

/* ---- ids ---- */

TEST(p3_ids_are_unique_and_lead_to_their_rows) {
    struct pnx_registry *registry = fresh();
    enum { N = 5000 };
    pnx_resource_id *ids = calloc(N, sizeof(*ids));
    CHECK(ids);
    for (uint64_t i = 0; i < N; i++) {
        CHECK_EQ(pnx_registry_add(registry, PNX_RESOURCE(.type = "x", .tag = i), NULL, &ids[i]), 0);
        CHECK(ids[i] != 0);
    }
    for (uint64_t i = 0; i < N; i++) {
        struct pnx_resource_info info;
        CHECK_EQ(pnx_registry_info(registry, ids[i], &info), 0);
        CHECK_EQ(info.tag, i);
    }
    pnx__registry_check(registry);
    for (int i = 0; i < N; i++)
        CHECK_EQ(pnx_registry_remove(registry, ids[i]), 0);
    free(ids);
    pnx__registry_check(registry);
    pnx_registry_release(&registry);
}

TEST(p3_a_stale_id_never_names_the_slots_next_row) {
    struct pnx_registry *registry;
    CHECK_EQ(pnx_registry_create(PNX_REGISTRY_OPTS(.max = 1), NULL, &registry), 0);
    int n = 0;
    pnx_resource_id stale = add(registry, &n);
    CHECK_EQ(pnx_registry_remove(registry, stale), 0);
    for (int i = 0; i < 1000; i++) {
        pnx_resource_id id = add(registry, &n);
        struct pnx_resource_info info;
        CHECK(id != stale);
        CHECK(pnx_registry_remove(registry, stale) < 0);
        CHECK_EQ(pnx_registry_info(registry, stale, &info), -ESTALE);
        CHECK_EQ(pnx_registry_set_bytes(registry, stale, 1), -ESTALE);
        int rc = pnx_registry_cleanup(registry, stale);
        CHECK(rc == -ESTALE || rc == -EALREADY);
        CHECK_EQ(pnx_registry_remove(registry, id), 0);
    }
    CHECK_EQ(n, 0);
    CHECK_EQ(pnx_registry_remove(registry, stale), -ESTALE); /* the slot was reused long ago */
    pnx_registry_release(&registry);
}

TEST(p3_ids_of_other_registries_and_invented_ones_are_refused) {
    struct pnx_registry *all[50];
    pnx_resource_id ids[50];
    int n = 0;
    for (int i = 0; i < 50; i++) {
        all[i] = fresh();
        ids[i] = add(all[i], &n);
    }
    for (int i = 0; i < 50; i++) {
        for (int k = 0; k < 50; k++) {
            if (i != k)
                CHECK_EQ(pnx_registry_remove(all[i], ids[k]), -ESTALE);
        }
    }
    uint64_t state = test_seed();
    for (int i = 0; i < 100000; i++) {
        pnx_resource_id id = test_random(&state);
        if (id != ids[0])
            CHECK(pnx_registry_cleanup(all[0], id) < 0);
    }
    CHECK_EQ(n, 0);
    for (int i = 0; i < 50; i++) {
        CHECK_EQ(pnx_registry_remove(all[i], ids[i]), 0);
        pnx_registry_release(&all[i]);
    }
}

TEST(p3_a_slot_that_has_used_all_its_generations_rests) {
    struct pnx_registry *registry;
    CHECK_EQ(pnx_registry_create(PNX_REGISTRY_OPTS(.max = 1), NULL, &registry), 0);
    int n = 0;
    pnx_resource_id id = add(registry, &n);
    struct pnx_row *row = pnx__row_find(registry, id);
    CHECK_EQ(pnx_registry_remove(registry, id), 0);
    struct pnx_shard *shard = &registry->shard[pnx__shard_of(id)];
    const uint64_t mask = (UINT64_C(1) << PNX_GENERATION_BITS) - 1;
    /* A few steps before the slot would begin again: the free slot is made that old by hand. */
    row->word.v = pnx__id_of((registry->base - 4) & mask, pnx__slot_of(id), pnx__shard_of(id));
    while (shard->used < PNX_QUARANTINE + 1) { /* until this slot is the next one to be taken */
        id = add(registry, &n);
        CHECK_EQ(pnx_registry_remove(registry, id), 0);
        if (pnx__row_find(registry, id) == row)
            break;
    }
    for (int i = 0; i < 200; i++) {
        id = add(registry, &n);
        CHECK_EQ(pnx_registry_remove(registry, id), 0);
    }
    uint64_t next = (pnx__generation(row->word.v) + 1) & mask;
    CHECK_EQ(next ? next : 1, registry->base); /* it has used the last one, and is not used again */
    pnx__registry_check(registry);
    pnx_registry_release(&registry);
}

/* ---- ending ---- */

TEST(v1_bug_a_forced_cleanup_runs_the_cleanup_and_does_not_only_delete_the_row) {
    struct pnx_registry *registry = fresh();
    int ran[2] = {0, 0};
    for (int i = 0; i < 2; i++) { /* by a force, and by whoever is told to clean up */
        pnx_resource_id id;
        CHECK_EQ(pnx_registry_add(registry,
                         PNX_RESOURCE(.type = "t", .cleanup = count_up, .arg = &ran[i],
                                 .flags = PNX_RESOURCE_FORCEABLE),
                         NULL, &id),
                0);
        CHECK_EQ(i ? pnx_registry_cleanup(registry, id) : pnx_registry_force(registry, id), 0);
        CHECK_EQ(ran[i], 1);
        CHECK_EQ(pnx_registry_count(registry), 0);
        CHECK_EQ(pnx_registry_force(registry, id), -EALREADY);
        CHECK_EQ(ran[i], 1);
    }
    pnx_registry_release(&registry);
}

TEST(p1_a_removed_row_is_never_cleaned_up) {
    struct pnx_registry *registry = fresh();
    int n = 0;
    pnx_resource_id id = add(registry, &n);
    CHECK_EQ(pnx_registry_remove(registry, id), 0);
    CHECK_EQ(pnx_registry_cleanup(registry, id), -EALREADY);
    CHECK_EQ(pnx_registry_shutdown(registry, 60 * PNX_SEC, NULL), 0);
    CHECK_EQ(n, 0);
    pnx_registry_release(&registry);
}

TEST(p1_a_cleanup_runs_once_however_often_it_is_asked_for) {
    struct pnx_registry *registry = fresh();
    int n = 0;
    pnx_resource_id id = add(registry, &n);
    CHECK_EQ(pnx_registry_cleanup(registry, id), 0);
    CHECK_EQ(pnx_registry_cleanup(registry, id), -EALREADY);
    CHECK_EQ(pnx_registry_remove(registry, id), -EALREADY);
    CHECK_EQ(pnx_registry_shutdown(registry, 60 * PNX_SEC, NULL), 0);
    CHECK_EQ(n, 1);
    pnx_registry_release(&registry);
}

static int fail(void *arg, const struct pnx_cancel *cancel) {
    (void)cancel;
    return *(int *)arg;
}

TEST(a_failing_cleanup_returns_its_error_and_is_an_event) {
    struct pnx_stats *stats;
    CHECK_EQ(pnx_stats_create(NULL, NULL, &stats), 0);
    struct seen seen = {0};
    uint32_t mon = monitor(stats, &seen);
    struct pnx_registry *registry;
    CHECK_EQ(pnx_registry_create(PNX_REGISTRY_OPTS(.stats = stats), NULL, &registry), 0);
    int code = -EIO;
    pnx_resource_id id;
    CHECK_EQ(pnx_registry_add(registry,
                     PNX_RESOURCE_AT(
                             "here", .type = "thing", .name = "dir", .cleanup = fail, .arg = &code),
                     NULL, &id),
            0);
    CHECK_EQ(pnx_registry_cleanup(registry, id), -EIO);
    CHECK_EQ(seen.n, 1);
    CHECK_EQ(seen.last.type, PNX_EVENT_RESOURCE_CLEANUP_FAILED);
    CHECK_EQ(seen.last.code, -EIO);
    CHECK_EQ(seen.last.value, (int64_t)id);
    CHECK_STR(seen.object, "dir");
    CHECK_STR(seen.last.cause, "here");
    code = 3;
    CHECK_EQ(pnx_registry_add(registry,
                     PNX_RESOURCE(.type = "thing", .cleanup = fail, .arg = &code), NULL, &id),
            0);
    CHECK_EQ(pnx_registry_cleanup(registry, id), -EINVAL); /* a positive value is no error code */
    CHECK_STR(seen.object, "thing");
    CHECK_EQ(pnx_monitor_remove(stats, mon), 0);
    pnx_registry_release(&registry);
    pnx_stats_release(&stats);
}

TEST(a_row_without_cleanup_cannot_be_cleaned_up_and_stays) {
    struct pnx_registry *registry = fresh();
    pnx_resource_id id;
    CHECK_EQ(pnx_registry_add(registry, PNX_RESOURCE(.type = "x"), NULL, &id), 0);
    CHECK_EQ(pnx_registry_cleanup(registry, id), -ENOTSUP);
    CHECK_EQ(pnx_registry_remove(registry, id), 0);
    pnx_registry_release(&registry);
}

TEST(a_second_removal_names_the_site_of_the_first) {
    struct pnx_stats *stats;
    CHECK_EQ(pnx_stats_create(NULL, NULL, &stats), 0);
    struct seen seen = {0};
    uint32_t mon = monitor(stats, &seen);
    struct pnx_registry *registry;
    CHECK_EQ(pnx_registry_create(PNX_REGISTRY_OPTS(.stats = stats), NULL, &registry), 0);
    pnx_resource_id id;
    CHECK_EQ(pnx_registry_add(registry, PNX_RESOURCE(.type = "thing", .name = "n"), NULL, &id), 0);
    CHECK_EQ(pnx_registry_remove_at(registry, id, "first.c:1"), 0);
    CHECK_EQ(seen.n, 0);
    CHECK_EQ(pnx_registry_remove_at(registry, id, "second.c:2"), -EALREADY);
    CHECK_EQ(seen.n, 1);
    CHECK_EQ(seen.last.type, PNX_EVENT_RESOURCE_RELEASED_TWICE);
    CHECK_EQ(seen.last.code, -EALREADY);
    CHECK_EQ(seen.last.value, (int64_t)id);
    CHECK_STR(seen.last.cause, "first.c:1");
    CHECK_STR(seen.object, "n");
    int n = 0;
    for (int i = 0; i < 1000; i++) { /* the slot is reused */
        pnx_resource_id other = add(registry, &n);
        CHECK_EQ(pnx_registry_remove(registry, other), 0);
    }
    CHECK_EQ(pnx_registry_remove_at(registry, id, "third.c:3"), -ESTALE);
    CHECK_EQ(seen.n, 2);
    CHECK(seen.last.cause == NULL);
    CHECK_EQ(
            pnx_registry_remove(registry, id ^ (UINT64_C(1) << 62)), -ESTALE); /* never was an id */
    struct pnx_registry_stats numbers = {.size = sizeof(numbers)};
    CHECK_EQ(pnx_registry_read_stats(registry, &numbers), 0);
    CHECK(numbers.misuses >= 2);
    CHECK_EQ(pnx_monitor_remove(stats, mon), 0);
    pnx_registry_release(&registry);
    pnx_stats_release(&stats);
}

TEST(an_owner_that_comes_after_the_registrys_cleanup_did_nothing_wrong) {
    struct pnx_stats *stats;
    CHECK_EQ(pnx_stats_create(NULL, NULL, &stats), 0);
    struct seen seen = {0};
    uint32_t mon = monitor(stats, &seen);
    struct pnx_registry *registry;
    CHECK_EQ(pnx_registry_create(PNX_REGISTRY_OPTS(.stats = stats), NULL, &registry), 0);
    int n = 0;
    pnx_resource_id id = add(registry, &n);
    CHECK_EQ(pnx_registry_cleanup(registry, id), 0);
    CHECK_EQ(pnx_registry_remove_at(registry, id, "owner.c:1"), -EALREADY);
    CHECK_EQ(seen.n, 0);
    CHECK_EQ(pnx_registry_remove(registry, id), -EALREADY); /* but twice is once too often */
    CHECK_EQ(seen.n, 1);
    CHECK_STR(seen.last.cause, "owner.c:1");
    CHECK_EQ(pnx_monitor_remove(stats, mon), 0);
    pnx_registry_release(&registry);
    pnx_stats_release(&stats);
}

/* ---- long-lived rows ---- */

static pnx_resource_id long_lived(
        struct pnx_registry *registry, const char *name, pnx_cleanup_fn *cleanup, void *arg) {
    pnx_resource_id id;
    CHECK_EQ(pnx_registry_add(registry,
                     PNX_RESOURCE(.type = "thing", .name = name, .cleanup = cleanup, .arg = arg,
                             .flags = PNX_RESOURCE_LONG_LIVED),
                     NULL, &id),
            0);
    return id;
}

static void check_closed(const struct seen *seen, int n, pnx_resource_id id, int code) {
    CHECK_EQ(seen->n, n);
    CHECK_EQ(seen->last.type, PNX_EVENT_RESOURCE_CLOSED);
    CHECK_EQ(seen->last.value, (int64_t)id);
    CHECK_EQ(seen->last.code, code);
    CHECK_STR(seen->last.cause, "thing");
}

TEST(a_long_lived_row_tells_of_its_adding_and_of_its_end_once_each) {
    struct pnx_stats *stats;
    CHECK_EQ(pnx_stats_create(NULL, NULL, &stats), 0);
    struct seen seen = {0};
    uint32_t mon = monitor(stats, &seen);
    struct pnx_registry *registry;
    CHECK_EQ(pnx_registry_create(PNX_REGISTRY_OPTS(.stats = stats), NULL, &registry), 0);
    int n = 0, code = -EAGAIN;
    pnx_resource_id plain = add(registry, &n);
    CHECK_EQ(seen.n, 0);

    pnx_resource_id id = long_lived(registry, "removed", count_up, &n);
    CHECK_EQ(seen.n, 1);
    CHECK_EQ(seen.last.type, PNX_EVENT_RESOURCE_OPENED);
    CHECK_EQ(seen.last.value, (int64_t)id);
    CHECK_EQ(seen.last.code, 0);
    CHECK_STR(seen.last.cause, "thing");
    CHECK_STR(seen.object, "removed");
    CHECK_EQ(pnx_registry_remove(registry, plain), 0);
    CHECK_EQ(seen.n, 1);
    CHECK_EQ(pnx_registry_remove(registry, id), 0);
    check_closed(&seen, 2, id, 0);
    CHECK_STR(seen.object, "removed");

    id = long_lived(registry, NULL, count_up, &n); /* without a name: its type */
    CHECK_STR(seen.object, "thing");
    CHECK_EQ(pnx_registry_cleanup(registry, id), 0);
    check_closed(&seen, 4, id, 0);
    CHECK_STR(seen.object, "thing");
    CHECK_EQ(pnx_registry_remove(registry, id), -EALREADY); /* the owner takes note */
    CHECK_EQ(seen.n, 4);

    id = long_lived(registry, "fails", fail, &code);
    CHECK_EQ(pnx_registry_cleanup(registry, id), -EAGAIN); /* it is as it was */
    CHECK_EQ(seen.n, 5);
    code = -EIO;
    seen.n = 0;
    CHECK_EQ(pnx_registry_cleanup(registry, id), -EIO);
    CHECK_EQ(seen.n, 2); /* and RESOURCE_CLEANUP_FAILED */
    CHECK_EQ(seen.last.code, -EIO);

    /* The event of the last row is told though nothing else keeps the registry. */
    struct pnx_registry *gone = registry;
    id = long_lived(registry, "last", count_up, &n);
    pnx_registry_release(&registry);
    seen.n = 0;
    CHECK_EQ(pnx_registry_remove(gone, id), 0);
    check_closed(&seen, 1, id, 0);
    CHECK_EQ(pnx_monitor_remove(stats, mon), 0);
    pnx_stats_release(&stats);
}

static int pend(void *arg, const struct pnx_cancel *cancel) {
    CHECK_EQ(pnx_cancel_pend(cancel, arg), 0);
    return -EINPROGRESS;
}

TEST(a_long_lived_row_that_ends_later_tells_of_it_then) {
    struct pnx_stats *stats;
    CHECK_EQ(pnx_stats_create(NULL, NULL, &stats), 0);
    struct seen seen = {0};
    uint32_t mon = monitor(stats, &seen);
    struct pnx_registry *registry;
    CHECK_EQ(pnx_registry_create(PNX_REGISTRY_OPTS(.stats = stats), NULL, &registry), 0);
    struct pnx_completion completion;
    pnx_resource_id id = long_lived(registry, "later", pend, &completion);
    CHECK_EQ(pnx_registry_cleanup(registry, id), -EINPROGRESS);
    CHECK_EQ(seen.n, 1);
    CHECK_EQ(pnx_registry_shutdown(registry, PNX_MS, NULL), -ETIMEDOUT); /* it is abandoned */
    CHECK(seen.last.type == PNX_EVENT_REGISTRY_SHUTDOWN);
    seen.n = 0;
    CHECK_EQ(pnx_completion_done(&completion, 0), 0);
    check_closed(&seen, 1, id, 0);
    CHECK_EQ(pnx_registry_remove(registry, id), -EALREADY);
    CHECK_EQ(seen.n, 1);
    CHECK_EQ(pnx_monitor_remove(stats, mon), 0);
    pnx_registry_release(&registry);
    pnx_stats_release(&stats);
}

TEST(a_forked_child_does_not_tell_that_its_parents_row_has_ended) {
    struct pnx_stats *stats;
    CHECK_EQ(pnx_stats_create(NULL, NULL, &stats), 0);
    struct seen seen = {0};
    uint32_t mon = monitor(stats, &seen);
    struct pnx_registry *registry;
    CHECK_EQ(pnx_registry_create(PNX_REGISTRY_OPTS(.stats = stats), NULL, &registry), 0);
    int n = 0;
    pnx_resource_id id = long_lived(registry, "parent's", count_up, &n);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        (void)pnx_registry_remove(registry, id);
        _exit(seen.n == 1 ? 0 : 1);
    }
    int status;
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK_EQ(status, 0);
    CHECK_EQ(pnx_registry_remove(registry, id), 0);
    check_closed(&seen, 2, id, 0);
    CHECK_EQ(pnx_monitor_remove(stats, mon), 0);
    pnx_registry_release(&registry);
    pnx_stats_release(&stats);
}

static void end_both(unsigned index, void *ctx) {
    struct pnx_registry **registry = ctx;
    static pnx_resource_id ids[2];
    static int n;
    (void)index;
    if (!ids[0]) {
        ids[0] = add(*registry, &n);
        ids[1] = add(*registry, &n);
        return;
    }
    CHECK_EQ(pnx_registry_remove(*registry, ids[0]), 0);
    CHECK_EQ(pnx_registry_cleanup(*registry, ids[1]), 0);
    CHECK_EQ(n, 1);
}

TEST(any_thread_may_end_a_row) {
    struct pnx_registry *registry = fresh();
    test_threads(1, end_both, &registry);
    test_threads(1, end_both, &registry);
    CHECK_EQ(pnx_registry_count(registry), 0);
    pnx__registry_check(registry);
    pnx_registry_release(&registry);
}

/* ---- lifetimes ---- */

TEST(rows_and_holders_keep_the_registry) {
    struct test_env te;
    test_env_init(&te);
    struct pnx_registry *registry;
    CHECK_EQ(pnx_registry_create(PNX_REGISTRY_OPTS(.env = &te.env), NULL, &registry), 0);
    int n = 0;
    pnx_resource_id one = add(registry, &n), two = add(registry, &n);
    struct pnx_registry *keep = registry, *second = pnx_registry_ref(registry);
    CHECK(second == registry);
    pnx_registry_release(&registry);
    CHECK(registry == NULL);
    pnx_registry_release(&second);
    CHECK_EQ(pnx_registry_count(keep), 2); /* only the rows hold it now */
    CHECK_EQ(pnx_registry_remove(keep, one), 0);
    CHECK_EQ(pnx_registry_cleanup(keep, two), 0);
    CHECK_EQ(n, 1);
    test_env_check_empty(&te);
    pnx_registry_release(&registry);
    pnx_registry_release(NULL);
}

TEST(the_default_registry_is_there_without_set_up_and_stays) {
    struct pnx_registry *registry = pnx_registry_default();
    CHECK(registry == pnx_registry_default());
    int n = 0;
    pnx_resource_id id = add(NULL, &n);
    CHECK_EQ(pnx_registry_count(registry), 1);
    CHECK_EQ(pnx_registry_count(NULL), 1);
    struct pnx_registry *copy = pnx_registry_ref(NULL);
    CHECK(copy == registry);
    pnx_registry_release(&copy);
    copy = registry;
    pnx_registry_release(&copy);
    CHECK_EQ(pnx_registry_remove(registry, id), 0);
}

TEST(switched_off_nothing_is_kept) {
    struct pnx_registry *off = pnx_registry_off();
    pnx_resource_id id = 1;
    CHECK_EQ(pnx_registry_add(off, PNX_RESOURCE(.type = "x"), NULL, &id), 0);
    CHECK_EQ(id, 0);
    CHECK_EQ(pnx_registry_remove(off, id), 0);
    CHECK_EQ(pnx_registry_remove(NULL, 0), 0);
    CHECK_EQ(pnx_registry_set_bytes(off, id, 1), 0);
    CHECK_EQ(pnx_registry_cleanup(off, id), -ESTALE);
    struct pnx_resource_info info;
    CHECK_EQ(pnx_registry_info(off, id, &info), -ESTALE);
    CHECK_EQ(pnx_registry_count(off), 0);
    struct pnx_registry_stats stats = {.size = sizeof(stats)};
    CHECK_EQ(pnx_registry_read_stats(off, &stats), 0);
    CHECK_EQ(stats.added, 0);
    CHECK(pnx_registry_ref(off) == off);
    pnx_registry_release(&off);
}

TEST(numbers_are_filled_up_to_the_size_that_the_caller_knows) {
    struct pnx_registry *registry = fresh();
    struct pnx_registry_stats stats = {.size = 0};
    CHECK_EQ(pnx_registry_read_stats(registry, &stats), -EINVAL);
    CHECK_EQ(pnx_registry_read_stats(registry, NULL), -EINVAL);
    stats.size = offsetof(struct pnx_registry_stats, added);
    stats.added = 4711;
    CHECK_EQ(pnx_registry_read_stats(registry, &stats), 0);
    CHECK_EQ(stats.added, 4711);
    pnx_registry_release(&registry);
}

/* ---- memory ---- */

TEST(p6_no_allocation_once_as_many_rows_have_been_live) {
    struct test_env te;
    test_env_init(&te);
    struct pnx_registry *registry;
    CHECK_EQ(pnx_registry_create(PNX_REGISTRY_OPTS(.env = &te.env), NULL, &registry), 0);
    enum { N = 300 };
    pnx_resource_id ids[N];
    int n = 0;
    for (int i = 0; i < N; i++)
        ids[i] = add(registry, &n);
    int64_t before = te.allocations;
    uint64_t state = test_seed();
    for (int i = 0; i < 20000; i++) {
        size_t k = test_random(&state) % N;
        CHECK_EQ(pnx_registry_remove(registry, ids[k]), 0);
        ids[k] = add(registry, &n);
    }
    CHECK_EQ(te.allocations, before);
    pnx__registry_check(registry);
    for (int i = 0; i < N; i++)
        CHECK_EQ(pnx_registry_remove(registry, ids[i]), 0);
    pnx_registry_release(&registry);
    test_env_check_empty(&te);
}

struct warm {
    struct pnx_registry *registry;
    struct test_env *te;
    pnx_resource_id ids[100];
    int n;
};

static void fill(unsigned index, void *ctx) {
    struct warm *warm = ctx;
    (void)index;
    for (int i = 0; i < 100; i++)
        warm->ids[i] = add(warm->registry, &warm->n);
}

static void empty(unsigned index, void *ctx) {
    struct warm *warm = ctx;
    (void)index;
    for (int i = 0; i < 100; i++)
        CHECK_EQ(pnx_registry_remove(warm->registry, warm->ids[i]), 0);
}

TEST(p6_whichever_thread_adds) {
    struct test_env te;
    test_env_init(&te);
    struct warm warm = {.te = &te};
    CHECK_EQ(pnx_registry_create(PNX_REGISTRY_OPTS(.env = &te.env), NULL, &warm.registry), 0);
    fill(0, &warm);
    empty(0, &warm);
    int64_t before = te.allocations;
    for (int i = 0; i < 10; i++) { /* new threads, and so other shards */
        test_threads(1, fill, &warm);
        test_threads(1, empty, &warm);
    }
    CHECK_EQ(te.allocations, before);
    pnx_registry_release(&warm.registry);
    test_env_check_empty(&te);
}

static int use(struct test_env *te, void *ctx) {
    (void)ctx;
    struct pnx_registry *registry;
    int rc = pnx_registry_create(PNX_REGISTRY_OPTS(.env = &te->env, .name = "n"), NULL, &registry);
    if (rc)
        return rc;
    pnx_resource_id ids[200];
    int n = 0, added = 0;
    while (added < 200 && rc == 0) {
        rc = pnx_registry_add(registry, PNX_RESOURCE(.type = "x", .cleanup = count_up, .arg = &n),
                NULL, &ids[added]);
        added += rc == 0;
    }
    CHECK_EQ(pnx_registry_count(registry), added);
    pnx__registry_check(registry);
    for (int i = 0; i < added; i++)
        CHECK_EQ(pnx_registry_cleanup(registry, ids[i]), 0);
    CHECK_EQ(n, added);
    pnx_registry_release(&registry);
    return rc;
}

TEST(each_allocation_may_fail_and_nothing_is_lost) {
    struct test_env te;
    test_env_init(&te);
    test_fail_each_allocation(&te, use, NULL);
}

/* ---- threads ---- */

struct claims {
    struct pnx_registry *registry;
    pnx_resource_id ids[200];
    int ran[200];
    int removed[200];
    int won[200];
};

static void claim_all(unsigned index, void *ctx) {
    struct claims *claims = ctx;
    for (int i = 0; i < 200; i++) {
        int rc = index % 2 ? pnx_registry_cleanup(claims->registry, claims->ids[i])
                           : pnx_registry_remove(claims->registry, claims->ids[i]);
        CHECK(rc == 0 || rc == -EALREADY);
        if (rc == 0)
            __atomic_add_fetch(&claims->won[i], 1, __ATOMIC_RELAXED);
        if (rc == 0 && index % 2 == 0)
            claims->removed[i] = 1;
    }
}

TEST(p1_one_of_many_threads_wins_each_row) {
    for (int round = 0; round < (test_slow() ? 10 : 100); round++) {
        struct claims claims = {.registry = fresh()};
        for (int i = 0; i < 200; i++)
            claims.ids[i] = add(claims.registry, &claims.ran[i]);
        test_threads(4, claim_all, &claims);
        for (int i = 0; i < 200; i++) {
            CHECK_EQ(claims.won[i], 1);
            CHECK_EQ(claims.ran[i], !claims.removed[i]);
        }
        pnx__registry_check(claims.registry);
        pnx_registry_release(&claims.registry);
    }
}

/* ---- ids of nobody ---- */

static uint64_t misuses_of(const struct pnx_registry *registry) {
    struct pnx_registry_stats stats = {.size = sizeof(stats)};
    CHECK_EQ(pnx_registry_read_stats(registry, &stats), 0);
    return stats.misuses;
}

static void check_zero(struct pnx_registry *registry) {
    struct pnx_resource_info info;
    struct pnx_resource_trace trace = {.size = sizeof(trace)};
    CHECK_EQ(pnx_registry_cleanup(registry, 0), -ESTALE);
    CHECK_EQ(pnx_registry_force(registry, 0), -ESTALE);
    CHECK_EQ(pnx_registry_info(registry, 0, &info), -ESTALE);
    CHECK_EQ(pnx_registry_trace(registry, 0, &trace), -ESTALE);
    CHECK(!pnx_registry_asked(registry, 0));
    CHECK_EQ(pnx_registry_remove(registry, 0), 0);
    CHECK_EQ(pnx_registry_set_bytes(registry, 0, 1), 0);
    CHECK_EQ(pnx_registry_touch(registry, 0, "x"), 0);
}

TEST(the_id_0_names_nothing_whatever_the_registry_holds) {
    struct pnx_registry *registry = fresh();
    int ran = 0;
    check_zero(registry); /* no slots at all */
    pnx_resource_id id = add(registry, &ran);
    check_zero(registry); /* slots that were never used */
    CHECK_EQ(pnx_registry_remove(registry, id), 0);
    check_zero(registry);
    check_zero(pnx_registry_off());
    CHECK_EQ(misuses_of(registry), 0);
    pnx_registry_release(&registry);
}

TEST(removals_of_unknown_ids_are_counted_whatever_slot_they_name) {
    struct pnx_registry *registry = fresh(), *other = fresh();
    int ran = 0;
    pnx_resource_id own = add(registry, &ran), foreign = add(other, &ran);
    CHECK_EQ(pnx_registry_remove(registry, foreign), -ESTALE); /* a slot that both have */
    CHECK_EQ(misuses_of(registry), 1);
    pnx_resource_id far = foreign | (UINT64_C(0xfffff) << 8);
    CHECK_EQ(pnx_registry_remove(registry, far), -ESTALE); /* a slot that it has not */
    CHECK_EQ(misuses_of(registry), 2);
    CHECK_EQ(pnx_registry_remove(registry, own), 0);
    CHECK_EQ(pnx_registry_remove(registry, own), -EALREADY);
    CHECK_EQ(misuses_of(registry), 3); /* each once */
    CHECK_EQ(pnx_registry_remove(other, foreign), 0);
    CHECK_EQ(misuses_of(other), 0);
    pnx_registry_release(&registry);
    pnx_registry_release(&other);
}

TEST(a_registry_needs_a_place_for_its_result) {
    struct pnx_error err = {0};
    CHECK_EQ(pnx_registry_create(NULL, &err, NULL), -EINVAL);
    CHECK_STR(err.field, "ret_registry");
}
