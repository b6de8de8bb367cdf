/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Eight threads make resources and end them in every way there is, while others do the same to them and a shutdown
 * comes at any time; cleanups succeed, fail, take their time, hang, use the registry and fork.  A ledger of its own
 * (ledger.h) must agree with what the registry says, exactly.
 */
#include "harness/harness.h"
#include "registry/ledger.h"
#include "resource/ledger.h"

#include <patinox/guard.h>
#include <patinox/leaks.h>

#include <pthread.h>
#include <sched.h>
#include <unistd.h>

enum { THREADS = 8, STUCK_MAX = 3, LATENCIES = 20000 };

#define LATENCY_UNIT (100 * PNX_US)
#define P99_MAX      (100 * PNX_MS)
#define LOAD_MAX     0.1 /* CPUs that others may use while P99_MAX is checked */
#define ALLOWED      (20 * PNX_MS)

/* One registry, from its making to the audit. */
struct round {
    struct ledger ledger;
    struct pnx_guard *guards; /* for each record */
    uint64_t seed;
    uint32_t shutdown_at;      /* records made, by all threads */
    uint32_t made;             /* atomic */
    uint32_t made_by[THREADS]; /* atomic */
    uint32_t at_work;          /* atomic: threads that have not done yet */
    uint32_t stuck;            /* atomic: KIND_STUCK of this round */
    uint32_t over;             /* atomic: nothing will be pending any more */
    bool with_stuck;
    bool strict; /* all cleanups have the time that they need */
    pnx_ns timeout;
    struct pnx_shutdown_report *report;
    int code; /* that the shutdown returned */
    pnx_ns took;
    pnx_ns late;     /* after the deadline; mostly less than 0 */
    pnx_ns lateness; /* by which a thread that does nothing but sleep woke too late at most */
    pnx_ns queued;   /* for which the thread of the shutdown could have run, and got no processor */
};

/* All rounds. */
struct totals {
    struct ledger_sum sum;
    uint32_t rounds;
    uint32_t strict;
    uint32_t executor_rows;
    pnx_ns late; /* by which a shutdown came after its deadline at most */
    pnx_ns lateness;
    /* From a drop to the background to its end, of what does not hang: how many took so many LATENCY_UNITs. */
    uint64_t drops;
    uint32_t latency[LATENCIES];
};
static const char *const kind_names[KINDS] = {"good", "failing", "slow", "hanging", "stuck",
        "nested", "forking", "retried", "pending", "(none)"};
static const char *const path_names[PATHS] = {"the library", "pnx_registry_cleanup", "guards",
        "submits to full executors", "force", "batches"};

static struct pnx_guard *guard_of(struct round *round, const struct record *record) {
    return &round->guards[record - round->ledger.records];
}

/* Whether the executor is closed, without much time, before the registry is shut down. */
static bool closes_early(const struct round *round) {
    return round->seed % 4 == 0;
}

/* ---- making ---- */

static enum kind kind_of(struct round *round, uint64_t r) {
    if (r % 1024 == 0 && test_can_fork())
        return KIND_FORKS;
    if (r % 512 == 1)
        return KIND_HANGS;
    if (round->with_stuck && r % 64 == 2 && LEDGER_UP(round->stuck) <= STUCK_MAX)
        return KIND_STUCK;
    switch (r % 16) {
    case 3:
    case 4:
        return KIND_BAD;
    case 5:
        return KIND_SLOW;
    case 6:
    case 7:
        return KIND_NESTED;
    case 8:
        return KIND_BARE;
    case 9:
        return KIND_AGAIN;
    case 10:
        return KIND_PENDS;
    default:
        return KIND_GOOD;
    }
}

/* A number below n, mostly one of the greatest: what is new is where threads meet. */
static uint32_t mostly_new(uint32_t n, uint64_t *random) {
    uint64_t r = test_random(random);
    uint32_t back = (uint32_t)(r >> 8) % (r % 4 ? 4 : n);
    return back < n ? n - 1 - back : 0;
}

/* Makes the i-th record of a thread, with a row of its own or through a guard. */
static bool make(struct round *round, struct record *first, uint32_t i, uint64_t *random) {
    struct record *record = &first[i];
    struct pnx_guard *guard = guard_of(round, record);
    uint64_t r = test_random(random);
    record->ledger = &round->ledger;
    record->kind = kind_of(round, r >> 8);
    record->seed = r;
    record->code = record->kind == KIND_BAD ? -EIO : r % 64 == 5 ? -ENOSPC : 0;
    record->flags = r % 4 == 2 ? PNX_RESOURCE_FORCEABLE : r % 16 == 1 ? PNX_RESOURCE_OWNED : 0;
    bool owned = record->flags & PNX_RESOURCE_OWNED;
    /* What is owned must be ended by its owner's first try: else nobody would be left who may. */
    if (!owned && (record->kind == KIND_AGAIN || record->kind == KIND_PENDS))
        record->n_again = (uint32_t)(r >> 32) % (record->kind == KIND_AGAIN ? 4 : 2);
    if (r >> 40 & 1)
        record->priority = 1 + (int32_t)((r >> 41) % (r >> 44 & 7 ? 4 : 5));
    record->untracked = r % 16 == 0 && record->kind != KIND_BARE && record->kind != KIND_NESTED;
    record->guarded = record->untracked || (record->kind != KIND_BARE && r % 8 < 3);
    if (i && r % 4 == 1)
        record->parent = &first[mostly_new(i, random)];
    if (i && record->kind == KIND_NESTED && first[i - 1].mine && !first[i - 1].guarded &&
            !(first[i - 1].flags & PNX_RESOURCE_OWNED)) {
        first[i - 1].given = true;
        first[i - 1].mine = false;
        record->victim = &first[i - 1];
        if (record->parent == record->victim)
            record->parent = NULL;
    }
    record->mine = record->untracked ? ledger_guard(record, guard)
                   : record->guarded ? ledger_track(record, guard)
                                     : ledger_add(record);
    return record->mine;
}

/* ---- ending ---- */

/* By its maker, who holds it by a guard.  false when the guard has kept it. */
static bool end_guard(struct round *round, struct record *record, uint64_t r) {
    struct pnx_guard *guard = guard_of(round, record);
    bool owned =
            record->flags & PNX_RESOURCE_OWNED; /* what becomes of it later, others must not say */
    if (r % 8 < 3 && !owned)
        return ledger_defer(record, guard, r >> 3);
    if (r % 8 == 3 && !record->untracked && !owned) {
        /* Nobody is told how it ends: what the executor does not end, its row shows. */
        record->silent = true;
        CHECK_EQ(pnx_guard_set_executor(guard, round->ledger.silent), 0);
        pnx_guard_drop(guard);
        return true;
    }
    ledger_end_guard(record, guard, r >> 3);
    return !pnx_guard_armed(guard);
}

/* By its maker, who has done with it then, or may try again. */
static void end_mine(struct round *round, struct record *record, uint64_t r) {
    int rc;
    if (record->guarded) {
        record->mine = !end_guard(round, record, r);
        return;
    }
    switch (record->flags & PNX_RESOURCE_OWNED ? 1 + r % 3 : r % 4) {
    case 0:
        record->mine = !ledger_submit(record, r >> 2);
        break;
    case 1:
        rc = ledger_run(record);
        record->mine = rc == -ENOTSUP || rc == -EAGAIN || rc == -EBUSY;
        break;
    default:
        ledger_remove(record);
        record->mine = false;
        break;
    }
}

/* By anybody: what is not the maker's alone. */
static void meddle(struct record *record, uint64_t r) {
    if (!LEDGER_GET(record->added))
        return;
    switch (r % 8) {
    case 0:
    case 1:
        ledger_run(record);
        break;
    case 2:
        ledger_submit(record, r >> 3);
        break;
    case 3:
        ledger_cancel(record);
        break;
    case 4:
        ledger_wait(record, (pnx_ns)(r >> 3) % (2 * PNX_MS));
        break;
    case 5:
        if (r >> 3 & 3)
            ledger_force(record);
        else
            ledger_batch(record->ledger, r >> 5);
        break;
    default:
        ledger_look(record, r >> 3);
        break;
    }
}

static void act_at_random(struct round *round, unsigned index, uint32_t n, uint64_t *random) {
    struct record *records = round->ledger.records;
    uint64_t r = test_random(random);
    if (r % 4 == 0) {
        unsigned other = (unsigned)(test_random(random) % THREADS);
        uint32_t made = LEDGER_GET(round->made_by[other]);
        if (made)
            meddle(&records[other * round->ledger.of_each + mostly_new(made, random)], r >> 2);
        return;
    }
    struct record *record = &records[index * round->ledger.of_each + mostly_new(n, random)];
    if (record->mine)
        end_mine(round, record, r >> 2);
}

static void work(struct round *round, unsigned index) {
    struct record *first = &round->ledger.records[index * round->ledger.of_each];
    uint64_t random = round->seed + index;
    uint32_t n = 0;
    while (n < round->ledger.of_each) {
        bool added = make(round, first, n, &random);
        LEDGER_UP(round->made);
        LEDGER_SET(round->made_by[index], ++n);
        if (!added)
            break;
        act_at_random(round, index, n, &random);
    }
    for (uint32_t i = 0; i < n; i++) { /* those of guards must go; the others may stay */
        uint64_t r = test_random(&random);
        while (first[i].mine &&
                (first[i].guarded || first[i].flags & PNX_RESOURCE_OWNED || r % 4)) {
            end_mine(round, &first[i], r >> 2);
            r = test_random(&random);
        }
    }
    __atomic_sub_fetch(&round->at_work, 1, __ATOMIC_ACQ_REL);
}

/* ---- the round ---- */

/* When all are waiting for a cleanup that hangs, no more are made. */
static void wait_for_the_shutdowns_turn(struct round *round) {
    uint32_t before = 0, same = 0;
    for (;;) {
        uint32_t made = LEDGER_GET(round->made);
        same = made == before ? same + 1 : 0;
        before = made;
        if (made >= round->shutdown_at || same > 100 || LEDGER_GET(round->at_work) == 0)
            return;
        usleep(100 + same * 100);
    }
}

/* Returns for how long this thread has waited for a processor; 0 where the kernel does not say. */
static pnx_ns time_in_queue(void) {
    FILE *file = fopen("/proc/thread-self/schedstat", "r");
    long long ran = 0, queued = 0;
    if (file && fscanf(file, "%lld %lld", &ran, &queued) != 2)
        queued = 0;
    if (file)
        fclose(file);
    return queued;
}

static void shut_down(struct round *round) {
    wait_for_the_shutdowns_turn(round);
    if (closes_early(round)) {
        int rc = pnx_executor_close(
                round->ledger.executor, (pnx_ns)(round->seed >> 8) % (30 * PNX_MS), NULL);
        CHECK(rc == 0 || rc == -ETIMEDOUT);
    }
    pnx_ns queued = time_in_queue();
    pnx_ns began = pnx_now();
    round->code = pnx_registry_shutdown(round->ledger.registry, round->timeout, &round->report);
    round->took = pnx_now() - began;
    round->queued = time_in_queue() - queued;
    CHECK(round->report);
    LEDGER_SET(round->ledger.told, 1);
}

/* Completes what is pending, and is the loop of the silent executor. */
static void *complete_and_tick(void *arg) {
    struct round *round = arg;
    struct pnx_executor *silent = round->ledger.silent;
    while (ledger_complete_some(&round->ledger) || !LEDGER_GET(round->over)) {
        pnx_executor_tick(silent, pnx_now());
        usleep(300);
    }
    /*
     * All that pends has been completed, and nobody makes more: what is left are delays.  What a close calls off for want
     * of time it reports for ever; only what still goes on is worth another one.
     */
    struct pnx_executor_report report = {.size = sizeof(report)};
    while (pnx_executor_close(silent, 10 * PNX_MS, &report) == -ETIMEDOUT && report.abandoned > 0)
        ledger_complete_some(&round->ledger);
    ledger_complete_some(&round->ledger);
    return NULL;
}

static void *watch_the_machine(void *arg) {
    struct round *round = arg;
    const pnx_ns nap = 2 * PNX_MS;
    while (!LEDGER_GET(round->ledger.told)) {
        pnx_ns before = pnx_now();
        usleep((useconds_t)(nap / PNX_US));
        pnx_ns late = pnx_now() - before - nap;
        round->lateness = late > round->lateness ? late : round->lateness;
    }
    return NULL;
}

static void one_thread(unsigned index, void *ctx) {
    struct round *round = ctx;
    if (index < THREADS)
        work(round, index);
    else
        shut_down(round);
}

/*
 * Whatever the shutdown left: also what it reports as failed with -EAGAIN, for which it had no more time, and which is
 * live; where that was the end of the row (an executor's last attempt), the removal is refused.
 */
static void end_the_rest(struct ledger *ledger) {
    for (uint32_t i = 0; i < ledger->n_records + ledger->n_nested; i++) {
        struct record *record = &ledger->records[i];
        if (LEDGER_GET(record->added) && !LEDGER_GET(record->struck) && !LEDGER_GET(record->ended))
            ledger_remove(record); /* waits for what was abandoned */
    }
    while (pnx_registry_count(ledger->registry)) /* what has ended tells its row next */
        sched_yield();
}

/*
 * Within a tenth of the deadline, or ALLOWED where that is less, by the library's clock and by ours.  How late a thread
 * that only sleeps woke up meanwhile is added, and for how long the shutdown's thread waited for a processor: so long the
 * machine was away.
 */
static void check_the_deadline(struct round *round) {
    struct pnx_shutdown_counts counts = {.size = sizeof(counts)};
    CHECK_EQ(pnx_shutdown_report_counts(round->report, &counts), 0);
    pnx_ns tenth = round->timeout / 10 > ALLOWED ? round->timeout / 10 : ALLOWED;
    pnx_ns took = counts.took_ns > round->took ? counts.took_ns : round->took;
    round->late = took - round->timeout;
    CHECK_MSG(round->late <= tenth + round->lateness + round->queued,
            "a shutdown with %lld ms took %lld ms (%lld by our clock; threads were up to %lld ms "
            "late, its own waited %lld ms for a processor)",
            (long long)(round->timeout / PNX_MS), (long long)(counts.took_ns / PNX_MS),
            (long long)(round->took / PNX_MS), (long long)(round->lateness / PNX_MS),
            (long long)(round->queued / PNX_MS));
}

static void add_up(struct totals *totals, const struct round *round) {
    struct ledger_sum sum;
    ledger_sum_up(&round->ledger, &sum);
    totals->rounds++;
    totals->strict += round->strict;
    totals->executor_rows += round->ledger.executor_rows;
    totals->sum.added += sum.added;
    totals->sum.struck += sum.struck;
    totals->sum.ended += sum.ended;
    totals->sum.failed += sum.failed;
    totals->sum.gave_up += sum.gave_up;
    totals->sum.again += sum.again;
    totals->sum.untracked += sum.untracked;
    totals->sum.by_jobs += sum.by_jobs;
    for (int i = 0; i < PATHS; i++)
        totals->sum.by[i] += sum.by[i];
    for (int i = 0; i < KINDS; i++)
        totals->sum.of[i] += sum.of[i];
    totals->late = round->late > totals->late ? round->late : totals->late;
    totals->lateness = round->lateness > totals->lateness ? round->lateness : totals->lateness;
}

static void add_latencies(struct totals *totals, const struct ledger *ledger) {
    for (uint32_t i = 0; i < ledger->n_records; i++) {
        const struct record *record = &ledger->records[i];
        if (!record->dropped_at || !record->by_a_job || record->kind == KIND_HANGS ||
                record->kind == KIND_STUCK)
            continue;
        pnx_ns units = (record->ended_at - record->dropped_at) / LATENCY_UNIT;
        totals->latency[units < 0 ? 0 : units < LATENCIES ? units : LATENCIES - 1]++;
        totals->drops++;
    }
}

/* The time that so many in a thousand drops did not exceed. */
static pnx_ns latency(const struct totals *totals, uint64_t in_a_thousand) {
    uint64_t below = 0;
    for (int i = 0; i < LATENCIES; i++) {
        below += totals->latency[i];
        if (below * 1000 >= totals->drops * in_a_thousand)
            return (i + 1) * LATENCY_UNIT;
    }
    return PNX_NEVER;
}

static void print_totals(const struct totals *totals) {
    const struct ledger_sum *sum = &totals->sum;
    printf("ledger: seed %llu, %u registries, %d threads, %llu resources: %llu taken out, %llu "
           "cleaned up, %llu "
           "of these with an error\n",
            (unsigned long long)test_seed(), totals->rounds, THREADS,
            (unsigned long long)sum->added, (unsigned long long)sum->struck,
            (unsigned long long)sum->ended, (unsigned long long)sum->failed);
    printf("ledger: cleaned up by:");
    for (int i = 0; i < PATHS; i++)
        printf(" %s %llu", path_names[i], (unsigned long long)sum->by[i]);
    printf("\nledger: of these:");
    for (int i = 0; i < KINDS; i++)
        printf(" %s %llu", kind_names[i], (unsigned long long)sum->of[i]);
    printf("\nledger: shutdowns came at most %.1f ms after their deadline, a sleeping thread %.1f "
           "ms late\n",
            (double)totals->late / PNX_MS, (double)totals->lateness / PNX_MS);
    printf("ledger: %llu drops to the background ended after %.1f ms (p50), %.1f ms (p99), %.1f ms "
           "(p99.9)\n",
            (unsigned long long)totals->drops, (double)latency(totals, 500) / PNX_MS,
            (double)latency(totals, 990) / PNX_MS, (double)latency(totals, 999) / PNX_MS);
}

static void start(struct round *round) {
    struct ledger *ledger = &round->ledger;
    uint64_t r = round->seed;
    ledger->n_records = round->ledger.of_each * THREADS;
    ledger->n_nested = ledger->n_records / 8;
    ledger->records = calloc(ledger->n_records + ledger->n_nested, sizeof(*ledger->records));
    round->guards = calloc(ledger->n_records, sizeof(*round->guards));
    CHECK(ledger->records && round->guards);
    round->at_work = THREADS;
    pthread_mutex_init(&ledger->lock, NULL);
    CHECK_EQ(pnx_stats_create(NULL, NULL, &ledger->stats), 0);
    CHECK_EQ(
            pnx_registry_create(PNX_REGISTRY_OPTS(.name = "ledger", .stats = ledger->stats,
                                        .level = PNX_LEVEL_SIMPLE + (uint32_t)(test_random(&r) % 3),
                                        .sample = 16),
                    NULL, &ledger->registry),
            0);
    CHECK_EQ(pnx_registry_create(NULL, NULL, &ledger->side), 0);
    /* It gets its first memory now: a child may have a row there, and a sanitizer's malloc() may not work in one. */
    pnx_resource_id first;
    CHECK_EQ(pnx_registry_add(ledger->side, PNX_RESOURCE(.type = "first"), NULL, &first), 0);
    CHECK_EQ(pnx_registry_remove(ledger->side, first), 0);
    if (test_random(&r) % 2) {
        ledger->known = ledger_types[test_random(&r) % 4];
        CHECK_EQ(pnx_registry_suppress(ledger->registry, ledger->known, NULL), 0);
    }
    /* When it cannot end in time, its row would not be as the audit expects it. */
    bool in_registry = round->strict && !closes_early(round) && test_random(&r) % 2;
    ledger->executor_rows = in_registry;
    CHECK_EQ(pnx_executor_create(
                     PNX_EXECUTOR_OPTS(.registry =
                                               in_registry ? ledger->registry : pnx_registry_off(),
                             .workers = 1 + (uint32_t)(test_random(&r) % 4),
                             .queue_max = 16u << test_random(&r) % 7,
                             .on_full = (uint32_t)(test_random(&r) % 4), .block_ns = 5 * PNX_MS,
                             .timeout_ns = 20 * PNX_MS, .ageing_ns = 5 * PNX_MS,
                             .backoff_ns = PNX_MS / 2, .backoff_max_ns = 4 * PNX_MS, .attempts = 4),
                     NULL, &ledger->executor),
            0);
    CHECK_EQ(pnx_executor_create(PNX_EXECUTOR_OPTS(.registry = pnx_registry_off(),
                                         .on_full = PNX_EXECUTOR_REJECT, .backoff_ns = PNX_MS,
                                         .backoff_max_ns = 4 * PNX_MS,
                                         .attempts = 1000, /* children may take some of them */
                                         .timeout_ns = 20 * PNX_MS, .flags = PNX_EXECUTOR_TICK),
                     NULL, &ledger->silent),
            0);
}

/* Lets all that is under way come to its end. */
static void settle(struct round *round) {
    struct ledger *ledger = &round->ledger;
    int rc = pnx_executor_close(ledger->executor, 60 * PNX_SEC, NULL);
    CHECK(rc == 0 || (rc == -ETIMEDOUT && closes_early(round)));
    while (ledger_jobs_left(ledger)) /* abandoned by a close before that, with less time */
        usleep(200);
}

static void finish(struct round *round) {
    struct ledger *ledger = &round->ledger;
    pnx__registry_check(ledger->registry);
    pnx_shutdown_report_release(&round->report);
    pnx_registry_release(&ledger->registry);
    pnx_registry_release(&ledger->side);
    pnx_stats_release(&ledger->stats);
    free(ledger->records);
    free(round->guards);
}

static void run_round(struct round *round, struct totals *totals) {
    struct ledger *ledger = &round->ledger;
    pthread_t watcher, completer;
    start(round);
    CHECK_EQ(pthread_create(&watcher, NULL, watch_the_machine, round), 0);
    CHECK_EQ(pthread_create(&completer, NULL, complete_and_tick, round), 0);
    test_threads(THREADS + 1, one_thread, round);
    pthread_join(watcher, NULL);
    settle(round);
    LEDGER_SET(round->over, 1);
    pthread_join(completer, NULL);

    ledger_audit_report(ledger, round->report, round->code, round->strict);
    check_the_deadline(round);
    ledger_audit_jobs(ledger);
    pnx_executor_release(&ledger->executor);
    pnx_executor_release(&ledger->silent);
    end_the_rest(ledger);
    ledger_audit_stats(ledger);
    add_up(totals, round);
    add_latencies(totals, ledger);
    CHECK_EQ(pnx_registry_count(ledger->side), 0);
    finish(round);
}

/* A promise about a machine that has nothing else to do.  Whether it was looked at is said in any case. */
static void check_the_latency(const struct totals *totals, double load) {
    const char *why = !test_long()      ? "only --long does"
                      : test_slow()     ? "a sanitizer takes its time"
                      : load < LOAD_MAX ? NULL
                                        : "others had work for the machine";
    printf("ledger: p99 <= %lld ms was %s%s%s (others used %.2f CPUs)\n",
            (long long)(P99_MAX / PNX_MS), why ? "NOT checked" : "checked", why ? ": " : "",
            why ? why : "", load);
    CHECK_MSG(why || latency(totals, 990) <= P99_MAX, "p99 from drop to end is above %lld ms",
            (long long)(P99_MAX / PNX_MS));
}

/* Goes on until so many resources have been made: a shutdown may come before a round has made all of its. */
static void run_rounds(uint64_t resources, uint32_t of_each) {
    static struct totals totals;
    uint64_t random = test_seed();
    double others = test_others_s();
    pnx_ns began = pnx_now();
    while (totals.sum.added < resources) {
        struct round round = {.ledger.of_each = of_each, .seed = test_random(&random)};
        round.with_stuck = totals.rounds % 4 == 3;
        round.strict = !round.with_stuck;
        round.timeout = round.with_stuck ? (pnx_ns)(300 + test_random(&random) % 400) * PNX_MS
                                         : 60 * PNX_SEC;
        round.shutdown_at = (uint32_t)(test_random(&random) % (of_each * THREADS * 3 / 2));
        run_round(&round, &totals);
    }
    print_totals(&totals);
    CHECK(totals.strict > 0 && totals.strict + totals.rounds / 4 >= totals.rounds);
    CHECK(!test_long() || totals.executor_rows > 0);
    double load = (test_others_s() - others) / ((double)(pnx_now() - began) / PNX_SEC);
    check_the_latency(&totals, load);
}

TEST_LIMIT(an_independent_ledger_agrees_with_the_registry, 1200) {
    if (test_long() && !test_slow())
        run_rounds(1000000, 2500);
    else
        run_rounds(test_slow() ? 5000 : 50000, test_slow() ? 64 : 250);
}
