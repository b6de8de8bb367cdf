/* SPDX-License-Identifier: Apache-2.0 */
/* ledger_audit.c - comparing what the ledger knows with what the registry says. */
#include "resource/ledger.h"

struct reading {
    struct ledger *ledger;
    int code;
    bool explained; /* some row has failed with the code */
    uint32_t executors;
    int32_t priority;             /* of the last row; none comes after one of a lower one */
    const struct record *last[8]; /* of each maker, of that priority */
    size_t n[PNX_RESOURCE_PENDING + 1];
};

/* Higher priorities first, last made first; the makers' records lie in the order of their making. */
static void check_order(struct reading *reading, const struct record *record) {
    const struct ledger *ledger = reading->ledger;
    int32_t priority = record->priority ? record->priority : PNX_PRIORITY_NORMAL;
    priority = priority == PNX_PRIORITY_LAST ? 0 : priority;
    CHECK(priority <= reading->priority);
    if (priority != reading->priority)
        memset(reading->last, 0, sizeof(reading->last));
    reading->priority = priority;
    uint32_t index = (uint32_t)(record - ledger->records);
    if (index >= ledger->n_records)
        return;
    const struct record **last = &reading->last[index / ledger->of_each];
    CHECK(!*last || record < *last);
    *last = record;
}

static int read_row(void *ctx, const struct pnx_resource_info *info) {
    struct reading *reading = ctx;
    struct record *record = (struct record *)(uintptr_t)info->tag;
    reading->n[info->state]++;
    reading->explained |= info->state == PNX_RESOURCE_FAILED && info->code == reading->code;
    if (!record) {
        CHECK_STR(info->type, "executor");
        CHECK_EQ(info->state, PNX_RESOURCE_DONE);
        reading->executors++;
        return 0;
    }
    CHECK(LEDGER_GET(record->added));
    CHECK_EQ(LEDGER_GET(record->id), info->id);
    check_order(reading, record);
    CHECK_EQ(record->reported, 0); /* nothing stands there twice */
    record->reported = info->state;
    record->reported_code = info->code;
    /* What says not now after it was abandoned has said it for the last time. */
    if (info->state == PNX_RESOURCE_ABANDONED ||
            (info->state == PNX_RESOURCE_FAILED && info->code == -EAGAIN))
        LEDGER_SET(record->gave_up, 1);
    return 0;
}

static _Noreturn void fail_for(const struct record *record, const char *what) {
    test_fail(__FILE__, __LINE__,
            "%s: kind %d, code %d, again %u of %u, %s%s%s%sstruck %u, started %u, ended %u, gave "
            "up %u, path %u, "
            "reported %d (%d), jobs %u, told %u (%d)",
            what, record->kind, record->code, record->again, record->n_again,
            record->guarded ? "guarded, " : "", record->untracked ? "untracked, " : "",
            record->silent ? "silent, " : "", record->given ? "given, " : "", record->struck,
            record->started, record->ended, record->gave_up, record->path, record->reported,
            record->reported_code, record->jobs, record->told, record->told_code);
}

/* One record that the report names. */
static void audit_reported(const struct record *record, bool strict) {
    bool ended = LEDGER_GET(record->ended), struck = LEDGER_GET(record->struck);
    switch (record->reported) {
    case PNX_RESOURCE_DONE:
        CHECK(struck || (ended && record->code == 0));
        break;
    case PNX_RESOURCE_FAILED:
        CHECK(record->reported_code < 0);
        /* One that still said not now at the deadline is live, and others may come after that. */
        if (!strict && record->reported_code == -EAGAIN)
            break;
        CHECK(!struck);
        CHECK(ended || record->reported_code == -EAGAIN);
        CHECK(!ended || record->reported_code == record->code);
        break;
    case PNX_RESOURCE_ABANDONED:
        CHECK(LEDGER_GET(record->started) && !struck);
        CHECK_MSG(!strict, "kind %d, run by %u, was abandoned", record->kind, record->path);
        break;
    case PNX_RESOURCE_LEAKED:
    case PNX_RESOURCE_SUPPRESSED:
        CHECK_EQ(record->reported == PNX_RESOURCE_SUPPRESSED,
                record->ledger->known == ledger_types[record->seed % 4]);
        /* Whoever came after that may have ended it all the same. */
        CHECK(!strict || record->kind == KIND_BARE);
        break;
    default:
        test_fail(__FILE__, __LINE__, "a report knows no state %d", record->reported);
    }
}

static bool by_the_shutdown(const struct record *record) {
    return record->reported && LEDGER_GET(record->ended) && record->path == PATH_LIBRARY &&
           record->jobs == 0 && !record->silent;
}

/* By its cleanup, on whatever path, and so after its children. */
static bool was_cleaned_up(const struct record *record) {
    return !record->untracked && LEDGER_GET(record->ended) && !LEDGER_GET(record->struck);
}

static void audit_record(const struct record *record, bool strict) {
    const struct record *parent = record->parent;
    if (!LEDGER_GET(record->added)) {
        CHECK_EQ(record->reported, 0);
        CHECK(record->untracked || LEDGER_GET(record->started) == 0);
        return;
    }
    if (record->reported)
        audit_reported(record, strict);
    else if (!LEDGER_GET(record->struck) && !LEDGER_GET(record->ended) &&
             !LEDGER_GET(record->gave_up))
        fail_for(record, "it was there and is not in the report");
    CHECK(!(record->flags & PNX_RESOURCE_OWNED) || ledger_was_left(record) ||
            !by_the_shutdown(record));
    if (parent && was_cleaned_up(parent) && was_cleaned_up(record))
        CHECK_MSG(record->finished < parent->began,
                "a parent (kind %d, by %u, %s) was cleaned up before its child (kind %d, by %u, "
                "%s)",
                parent->kind, parent->path, parent->guarded ? "guarded" : "", record->kind,
                record->path, record->guarded ? "guarded" : "");
}

/* What the shutdown returned fits what it reports. */
static void audit_code(const struct reading *reading, bool strict) {
    size_t failed = reading->n[PNX_RESOURCE_FAILED], abandoned = reading->n[PNX_RESOURCE_ABANDONED];
    size_t leaked = reading->n[PNX_RESOURCE_LEAKED];
    switch (reading->code) {
    case 0:
        CHECK_EQ(failed + abandoned + leaked, 0);
        break;
    case -ETIMEDOUT:
        CHECK(!strict);
        break;
    case PNX_E_BROKEN:
        CHECK(leaked && failed + abandoned == 0);
        break;
    default:
        CHECK_MSG(reading->explained, "the shutdown returned %s, and no row did",
                pnx_errname(reading->code));
    }
}

void ledger_audit_report(
        struct ledger *ledger, const struct pnx_shutdown_report *report, int code, bool strict) {
    struct reading reading = {.ledger = ledger, .code = code, .priority = PNX_PRIORITY_LAST};
    struct pnx_shutdown_counts counts = {.size = sizeof(counts)};
    CHECK_EQ(pnx_shutdown_report_each(report, read_row, &reading), 0);
    CHECK_EQ(pnx_shutdown_report_counts(report, &counts), 0);
    CHECK_EQ(counts.done, reading.n[PNX_RESOURCE_DONE]);
    CHECK_EQ(counts.failed, reading.n[PNX_RESOURCE_FAILED]);
    CHECK_EQ(counts.abandoned, reading.n[PNX_RESOURCE_ABANDONED]);
    CHECK_EQ(counts.leaked, reading.n[PNX_RESOURCE_LEAKED]);
    CHECK_EQ(counts.suppressed, reading.n[PNX_RESOURCE_SUPPRESSED]);
    CHECK_EQ(reading.executors, ledger->executor_rows);
    audit_code(&reading, strict);
    for (uint32_t i = 0; i < ledger->n_records + ledger->n_nested; i++)
        audit_record(&ledger->records[i], strict);
}

void ledger_sum_up(const struct ledger *ledger, struct ledger_sum *ret_sum) {
    struct ledger_sum sum = {0};
    for (uint32_t i = 0; i < ledger->n_records + ledger->n_nested; i++) {
        const struct record *record = &ledger->records[i];
        uint32_t ended = LEDGER_GET(record->ended), struck = LEDGER_GET(record->struck);
        /* A row that had been given up may have been ended, or taken out, by others after all. */
        uint32_t gave_up = LEDGER_GET(record->gave_up) && !ended && !struck;
        uint32_t again = LEDGER_GET(record->again);
        CHECK(LEDGER_GET(record->running) == 0);
        if (LEDGER_GET(record->made) != ended + struck + gave_up ||
                record->started != ended + again)
            fail_for(record, "not one end"); /* P1 */
        sum.untracked += record->untracked;
        if (record->untracked)
            continue;
        sum.added += LEDGER_GET(record->added);
        sum.struck += struck;
        sum.ended += ended;
        sum.failed += ended && record->code;
        sum.gave_up += gave_up;
        sum.again += again;
        sum.by[LEDGER_GET(record->path)] += ended;
        sum.by_jobs += LEDGER_GET(record->by_a_job);
        sum.of[record->kind] += ended;
    }
    *ret_sum = sum;
}

struct text {
    char bytes[32768];
    size_t n;
};

static int append(void *ctx, const char *bytes, size_t n) {
    struct text *text = ctx;
    CHECK(text->n + n < sizeof(text->bytes));
    memcpy(text->bytes + text->n, bytes, n);
    text->n += n;
    return 0;
}

/* The success ratio, as whoever scrapes the numbers sees it. */
static void audit_export(const struct ledger *ledger, uint64_t ppm) {
    static struct text text;
    char line[128];
    memset(&text, 0, sizeof(text));
    CHECK_EQ(pnx_stats_openmetrics(ledger->stats, append, &text), 0);
    snprintf(line, sizeof(line),
            "patinox_registry_cleanups_ok_ppm{registry=\"ledger\",number=\"0\"} %llu\n",
            (unsigned long long)ppm);
    CHECK_CONTAINS(text.bytes, line);
}

void ledger_audit_stats(struct ledger *ledger) {
    struct pnx_registry_stats stats = {.size = sizeof(stats)};
    struct ledger_sum sum;
    ledger_sum_up(ledger, &sum);
    CHECK_EQ(pnx_registry_read_stats(ledger->registry, &stats), 0);
    CHECK_EQ(stats.added, sum.added + ledger->executor_rows);
    CHECK_EQ(stats.removed, sum.struck);
    CHECK_EQ(stats.cleanups, sum.ended + sum.gave_up + ledger->executor_rows);
    CHECK_EQ(stats.cleanups_failed, sum.failed + sum.gave_up);
    uint64_t ended = sum.ended + sum.gave_up + ledger->executor_rows;
    uint64_t failed = sum.failed + sum.gave_up;
    uint64_t ppm = ended ? (ended - failed) * 1000000 / ended : 1000000;
    CHECK_EQ(stats.cleanups_ok_ppm, ppm);
    audit_export(ledger, ppm);
    CHECK_EQ(stats.forced, ledger->forced);
    CHECK(stats.asked >= ledger->asked && stats.asked <= ledger->asked + ledger->may_be_asked);
    CHECK_EQ(stats.live, 0);
    CHECK_EQ(pnx_registry_count(ledger->registry), 0);
}
