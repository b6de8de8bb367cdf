/* SPDX-License-Identifier: Apache-2.0 */
/* ledger_jobs.c - what the ledger knows of jobs: each one that was accepted is told once how it ended. */
#include "resource/ledger.h"

/* The three fates of struct pnx_executor_stats, by what a job was told. */
static void count_fate(struct ledger *ledger, bool of_a_row, int code) {
    if (code == 0 || (of_a_row && code == -EINPROGRESS))
        LEDGER_UP(ledger->jobs_done);
    else if (code == -ECANCELED || (of_a_row && (code == -EALREADY || code == -ESTALE)))
        LEDGER_UP(ledger->jobs_canceled);
    else
        LEDGER_UP(ledger->jobs_failed);
}

/* The done function of a job that ends a record; id is 0 when it ran inline, where its row outlives -EAGAIN. */
static void told(void *ctx, pnx_job_id id, int code) {
    struct record *record = ctx;
    struct ledger *ledger = record->ledger;
    bool of_a_row = !record->untracked;
    LEDGER_SET(record->told_code, code);
    LEDGER_UP(record->told);
    count_fate(ledger, of_a_row, code);
    switch (code) {
    case -ECANCELED:
    case -EALREADY:
    case -ESTALE:
        if (record->untracked) {
            CHECK_EQ(code, -ECANCELED);
            CHECK_EQ(LEDGER_UP(record->struck), 1); /* nobody else has it */
        }
        break;
    case -EAGAIN:
        if (id || record->untracked)
            LEDGER_SET(record->gave_up, 1);
        break;
    case -ENOTSUP:
        CHECK_EQ(record->kind, KIND_BARE);
        break;
    case -EINPROGRESS:
        CHECK(of_a_row && id == 0 && record->kind == KIND_PENDS);
        break;
    default:
        CHECK_EQ(LEDGER_GET(record->ended), 1);
        CHECK_EQ(code, record->code);
        CHECK_EQ(LEDGER_UP(record->by_a_job), 1); /* not two jobs have ended it */
        break;
    }
}

static struct pnx_job job_of(struct record *record, uint64_t r) {
    struct pnx_job job = *PNX_JOB(.done = told, .ctx = record);
    job.priority = (int32_t)(r % (PNX_PRIORITY_CRITICAL + 1));
    job.attempts = (uint32_t)(r >> 8) % 4;
    job.delay_ns = (r >> 16) % 8 ? 0 : (pnx_ns)((r >> 24) % 3) * PNX_MS;
    job.timeout_ns = (r >> 32) % 4 ? 0 : (pnx_ns)(1 + (r >> 40) % 20) * PNX_MS;
    return job;
}

/* Accepted or refused; a refused job is as if nothing had happened. */
static bool note_submitted(
        struct record *record, const struct act *act, int rc, pnx_job_id id, uint32_t told_before) {
    CHECK_MSG(rc == 0 || rc == -ESHUTDOWN || rc == -EBUSY || rc == -ETIMEDOUT || rc == -EDEADLK ||
                      rc == -ESTALE,
            "submit: %s", pnx_errname(rc));
    if (rc) {
        CHECK_EQ(act->ran, 0);
        return false;
    }
    if (id)
        LEDGER_SET(record->job, id);
    else
        CHECK(LEDGER_GET(record->told) != told_before); /* it ran here, and has been told */
    CHECK(act->ran <= 1 && (!act->ran || act->last == record));
    LEDGER_UP(record->jobs);
    return true;
}

bool ledger_submit(struct record *record, uint64_t r) {
    struct ledger *ledger = record->ledger;
    struct pnx_job job = job_of(record, r);
    uint32_t told_before = LEDGER_GET(record->told);
    pnx_job_id id = 0;
    struct act act;
    act_begin(&act, PATH_INLINE);
    int rc = pnx_executor_cleanup(
            ledger->executor, ledger->registry, LEDGER_GET(record->id), &job, NULL, &id);
    act_end(&act);
    return note_submitted(record, &act, rc, id, told_before);
}

bool ledger_defer(struct record *record, struct pnx_guard *guard, uint64_t r) {
    struct pnx_job job = job_of(record, r);
    uint32_t told_before = LEDGER_GET(record->told);
    pnx_job_id id = 0;
    struct act act;
    LEDGER_SET(record->dropped_at, pnx_now());
    act_begin(&act, PATH_INLINE);
    int rc = pnx_guard_defer(guard, record->ledger->executor, &job, NULL, &id);
    act_end(&act);
    bool accepted = note_submitted(record, &act, rc, id, told_before);
    CHECK_EQ(pnx_guard_armed(guard), !accepted);
    return accepted;
}

void ledger_cancel(struct record *record) {
    pnx_job_id id = LEDGER_GET(record->job);
    if (id == 0)
        return;
    int rc = pnx_executor_cancel(record->ledger->executor, id);
    CHECK(rc == 0 || rc == -EINPROGRESS || rc == -EALREADY || rc == -ESTALE);
}

void ledger_wait(struct record *record, pnx_ns timeout) {
    pnx_job_id id = LEDGER_GET(record->job);
    int code = 0;
    if (id == 0)
        return;
    int rc = pnx_executor_wait(record->ledger->executor, id, timeout, &code);
    CHECK(rc == 0 || rc == -ETIMEDOUT || rc == -ESTALE || rc == -EDEADLK);
    if (rc == 0)
        CHECK(LEDGER_GET(record->told) > 0);
}

uint32_t ledger_jobs_left(const struct ledger *ledger) {
    uint32_t left = 0;
    for (uint32_t i = 0; i < ledger->n_records + ledger->n_nested; i++)
        left += LEDGER_GET(ledger->records[i].jobs) - LEDGER_GET(ledger->records[i].told);
    return left;
}

void ledger_audit_jobs(const struct ledger *ledger) {
    struct pnx_executor_stats stats = {.size = sizeof(stats)};
    uint64_t jobs = 0;
    for (uint32_t i = 0; i < ledger->n_records + ledger->n_nested; i++) {
        CHECK_EQ(ledger->records[i].jobs, ledger->records[i].told);
        jobs += ledger->records[i].jobs;
    }
    CHECK_EQ(pnx_executor_read_stats(ledger->executor, &stats), 0);
    CHECK_EQ(stats.submitted, jobs);
    CHECK_EQ(stats.done, ledger->jobs_done);
    CHECK_EQ(stats.failed, ledger->jobs_failed);
    CHECK_EQ(stats.canceled, ledger->jobs_canceled);
    CHECK_EQ(stats.submitted, stats.done + stats.failed + stats.canceled);
    CHECK_EQ(stats.late, stats.overdue); /* each one that was late has ended by now */
    CHECK_EQ(stats.running + stats.pending + stats.delayed, 0);
    uint64_t counted = ledger->jobs_done + ledger->jobs_failed;
    CHECK_EQ(stats.success_ppm, counted ? ledger->jobs_done * 1000000 / counted : 1000000);
}
