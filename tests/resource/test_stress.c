/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Threads add, remove, resize and clean up rows at random while a shutdown comes; an independent ledger, kept by the
 * threads and the cleanups themselves, must agree with what the registry says afterwards.
 */
#include "harness/harness.h"
#include "registry/ledger.h"

#include <patinox/guard.h>
#include <patinox/shutdown.h>

#include <sched.h>
#include <unistd.h>

enum { THREADS = 4, RECORDS = 1500 }; /* of each thread */

/* One row as the test sees it.  The thread that made it writes all but what the cleanup does. */
struct record {
    pnx_resource_id id;
    struct record *parent;
    bool added, removed, cleaned, has_cleanup, slow;
    int code; /* what its cleanup returns */
    /* By the cleanup. */
    int started, ended;
    uint64_t stamp; /* order of starting */
    /* By the check. */
    int reported;
};

struct stress {
    struct pnx_registry *registry;
    struct record records[THREADS][RECORDS];
    uint64_t clock;
    uint32_t ready; /* rows added, over all threads */
    uint32_t shutdown_at;
    pnx_ns timeout;
    uint64_t seed;
    bool with_slow;
    struct pnx_shutdown_report *report;
    int result;
};

static struct stress stress;

static int end_record(void *arg, const struct pnx_cancel *cancel) {
    struct record *record = arg;
    CHECK_EQ(__atomic_fetch_add(&record->started, 1, __ATOMIC_RELAXED), 0); /* P1 */
    record->stamp = __atomic_add_fetch(&stress.clock, 1, __ATOMIC_RELAXED);
    while (record->slow && pnx_cancel_deadline(cancel) != PNX_NEVER &&
            !pnx_cancel_requested(cancel))
        usleep(500); /* a cleanup that needs to be told */
    __atomic_store_n(&record->ended, 1, __ATOMIC_RELAXED);
    return record->code;
}

static bool add_record(struct record *record, struct record *parent, uint64_t r) {
    record->has_cleanup = r % 8 != 0;
    record->slow = stress.with_slow && r % 64 == 1;
    record->code = r % 16 == 3 ? -EIO : 0;
    record->parent = parent;
    int rc = pnx_registry_add(stress.registry,
            PNX_RESOURCE(.type = "record", .cleanup = record->has_cleanup ? end_record : NULL,
                    .arg = record, .parent = parent ? parent->id : 0,
                    .tag = (uint64_t)(uintptr_t)record, .bytes = r % 1000),
            NULL, &record->id);
    if (rc == -EINVAL && parent)
        return add_record(record, NULL, r); /* the parent has ended meanwhile */
    CHECK(rc == 0 || rc == -ESHUTDOWN);
    record->added = rc == 0;
    if (record->added)
        __atomic_add_fetch(&stress.ready, 1, __ATOMIC_RELAXED);
    return record->added;
}

static void end_some(struct record *record, uint64_t r) {
    int rc;
    switch (r % 4) {
    case 0:
        rc = pnx_registry_remove(stress.registry, record->id);
        CHECK(rc == 0 || rc == -EALREADY || rc == -ESTALE);
        record->removed = rc == 0;
        if (rc)
            CHECK_EQ(__atomic_load_n(&record->started, __ATOMIC_RELAXED), /* P2 */
                    __atomic_load_n(&record->ended, __ATOMIC_RELAXED));
        break;
    case 1:
        rc = pnx_registry_cleanup(stress.registry, record->id);
        if (!record->has_cleanup) {
            CHECK(rc == -ENOTSUP);
            break;
        }
        CHECK(rc == record->code || rc == -EALREADY || rc == -ESTALE);
        record->cleaned = rc == record->code;
        break;
    case 2:
        rc = pnx_registry_set_bytes(stress.registry, record->id, r);
        CHECK(rc == 0 || rc == -ESTALE);
        break;
    default:
        break;
    }
}

static void work(unsigned index) {
    struct record *records = stress.records[index];
    uint64_t state = stress.seed + index;
    bool removed_or_cleaned[RECORDS] = {false};
    for (int i = 0; i < RECORDS; i++) {
        uint64_t r = test_random(&state);
        int k = i ? (int)(test_random(&state) % (uint64_t)i) : 0;
        struct record *parent = i && r % 3 == 0 && !removed_or_cleaned[k] ? &records[k] : NULL;
        if (!add_record(&records[i], parent, test_random(&state)))
            return; /* shut down */
        k = (int)(test_random(&state) % (uint64_t)(i + 1));
        if (removed_or_cleaned[k])
            continue;
        end_some(&records[k], r >> 8);
        removed_or_cleaned[k] = (r >> 8) % 4 < 2 && records[k].has_cleanup;
        removed_or_cleaned[k] |= records[k].removed;
    }
}

static void work_or_shut_down(unsigned index, void *ctx) {
    (void)ctx;
    if (index < THREADS) {
        work(index);
        return;
    }
    while (__atomic_load_n(&stress.ready, __ATOMIC_RELAXED) < stress.shutdown_at)
        sched_yield();
    stress.result = pnx_registry_shutdown(stress.registry, stress.timeout, &stress.report);
}

struct audit {
    size_t n[PNX_RESOURCE_LEAKED + 1];
};

static int audit_row(void *ctx, const struct pnx_resource_info *info) {
    struct audit *audit = ctx;
    struct record *record = (struct record *)(uintptr_t)info->tag;
    CHECK(record->added);
    CHECK_EQ(record->id, info->id);
    CHECK_EQ(record->reported, 0);
    record->reported = 1;
    audit->n[info->state]++;
    int started = __atomic_load_n(&record->started, __ATOMIC_RELAXED);
    int ended = __atomic_load_n(&record->ended, __ATOMIC_RELAXED);
    switch (info->state) {
    case PNX_RESOURCE_DONE:
        CHECK(record->removed ? !started : (ended && record->code == 0));
        break;
    case PNX_RESOURCE_FAILED:
        CHECK(ended && !record->removed);
        CHECK_EQ(info->code, record->code);
        CHECK(info->code < 0);
        break;
    case PNX_RESOURCE_ABANDONED:
        CHECK(started && stress.timeout != PNX_NEVER);
        break;
    case PNX_RESOURCE_LEAKED:
        CHECK(!started);
        CHECK(!record->has_cleanup || stress.timeout != PNX_NEVER);
        break;
    default:
        test_fail(__FILE__, __LINE__, "a report knows no state %d", info->state);
    }
    return 0;
}

static void audit_record(const struct record *record) {
    if (!record->added) {
        CHECK_EQ(record->reported, 0);
        CHECK_EQ(record->started, 0);
        return;
    }
    CHECK(!(record->removed && record->started)); /* P1 */
    if (!record->removed && !record->cleaned)
        CHECK_EQ(record->reported, 1); /* nothing is struck from the report */
    if (record->cleaned)
        CHECK(record->ended);
    const struct record *parent = record->parent;
    if (parent && parent->reported && record->reported && parent->started && record->started &&
            !parent->cleaned && !record->cleaned)
        CHECK_MSG(
                record->stamp < parent->stamp, "a parent was cleaned up before its child"); /* P4 */
}

static void run(uint64_t seed, uint32_t shutdown_at, pnx_ns timeout, bool with_slow) {
    memset(&stress, 0, sizeof(stress));
    stress.seed = seed;
    stress.shutdown_at = shutdown_at;
    stress.timeout = timeout;
    stress.with_slow = with_slow;
    CHECK_EQ(pnx_registry_create(NULL, NULL, &stress.registry), 0);
    test_threads(THREADS + 1, work_or_shut_down, NULL);

    struct audit audit = {{0}};
    CHECK_EQ(pnx_shutdown_report_each(stress.report, audit_row, &audit), 0);
    struct pnx_shutdown_counts counts = {.size = sizeof(counts)};
    CHECK_EQ(pnx_shutdown_report_counts(stress.report, &counts), 0);
    CHECK_EQ(counts.done, audit.n[PNX_RESOURCE_DONE]);
    CHECK_EQ(counts.failed, audit.n[PNX_RESOURCE_FAILED]);
    CHECK_EQ(counts.abandoned, audit.n[PNX_RESOURCE_ABANDONED]);
    CHECK_EQ(counts.leaked, audit.n[PNX_RESOURCE_LEAKED]);
    /* Whatever is left belongs to its owners; after this no cleanup runs any more. */
    for (int t = 0; t < THREADS; t++) {
        for (int i = 0; i < RECORDS; i++) {
            struct record *record = &stress.records[t][i];
            if (record->added && !record->removed)
                pnx_registry_remove(stress.registry, record->id); /* waits for the abandoned ones */
        }
    }
    for (int t = 0; t < THREADS; t++) {
        for (int i = 0; i < RECORDS; i++)
            audit_record(&stress.records[t][i]);
    }
    if (timeout == PNX_NEVER)
        CHECK_EQ(counts.abandoned, 0);
    CHECK_EQ(pnx_registry_count(stress.registry), 0);
    pnx__registry_check(stress.registry);
    pnx_shutdown_report_release(&stress.report);
    pnx_registry_release(&stress.registry);
}

TEST(the_report_agrees_with_an_independent_ledger) {
    uint64_t state = test_seed();
    for (int round = 0; round < (test_slow() ? 10 : 100); round++)
        run(test_random(&state), (uint32_t)(test_random(&state) % (THREADS * RECORDS / 2)),
                PNX_NEVER, false);
}

TEST(the_report_agrees_when_time_is_short_and_cleanups_are_slow) {
    uint64_t state = test_seed();
    for (int round = 0; round < (test_slow() ? 5 : 15); round++)
        run(test_random(&state), (uint32_t)(test_random(&state) % (THREADS * RECORDS / 4)),
                (pnx_ns)(test_random(&state) % 600) * PNX_MS, true);
}

/* ---- without a shutdown ---- */

struct churn {
    struct pnx_registry *registry;
    uint64_t seed;
    int ran;
};

static int count_up(void *arg, const struct pnx_cancel *cancel) {
    (void)cancel;
    __atomic_add_fetch((int *)arg, 1, __ATOMIC_RELAXED);
    return 0;
}

static int look(void *ctx, const struct pnx_resource_info *info) {
    size_t *n = ctx;
    CHECK_STR(info->type, info->tag ? "tagged" : "plain");
    CHECK_EQ(info->owner, info->tag * 2);
    ++*n;
    return 0;
}

static int ignore(void *ctx, const char *text, size_t n) {
    (void)ctx;
    (void)text;
    (void)n;
    return 0;
}

static void churn_rows(unsigned index, void *ctx) {
    struct churn *churn = ctx;
    pnx_resource_id mine[64] = {0};
    uint64_t state = churn->seed + index;
    for (int i = 0; i < (test_slow() ? 3000 : 30000); i++) {
        size_t k = test_random(&state) % 64;
        uint64_t tag = test_random(&state) % 2;
        if (mine[k] && i % 3 == 0)
            CHECK_EQ(pnx_registry_cleanup(churn->registry, mine[k]), 0);
        else if (mine[k])
            CHECK_EQ(pnx_registry_remove(churn->registry, mine[k]), 0);
        CHECK_EQ(pnx_registry_add(churn->registry,
                         PNX_RESOURCE(.type = tag ? "tagged" : "plain", .tag = tag,
                                 .owner = tag * 2, .cleanup = count_up, .arg = &churn->ran),
                         NULL, &mine[k]),
                0);
        size_t n = 0;
        if (index == 0 && i % 500 == 0) {
            CHECK_EQ(pnx_registry_each(churn->registry, look, &n), 0);
            CHECK_EQ(pnx_registry_report(churn->registry, PNX_REPORT_TEXT, ignore, NULL), 0);
        }
    }
    for (size_t k = 0; k < 64; k++) {
        if (mine[k])
            CHECK_EQ(pnx_registry_remove(churn->registry, mine[k]), 0);
    }
}

TEST(rows_come_and_go_while_others_look) {
    struct churn churn = {.seed = test_seed()};
    CHECK_EQ(pnx_registry_create(NULL, NULL, &churn.registry), 0);
    test_threads(4, churn_rows, &churn);
    CHECK_EQ(pnx_registry_count(churn.registry), 0);
    struct pnx_registry_stats stats = {.size = sizeof(stats)};
    CHECK_EQ(pnx_registry_read_stats(churn.registry, &stats), 0);
    CHECK_EQ(stats.added, stats.removed + stats.cleanups);
    CHECK_EQ(stats.cleanups, churn.ran);
    CHECK_EQ(stats.misuses, 0);
    pnx__registry_check(churn.registry);
    pnx_registry_release(&churn.registry);
}
