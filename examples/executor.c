/* SPDX-License-Identifier: Apache-2.0 */
/*
 * executor.c - cleanups in the background: priorities, a retry, a wait, a guard, the end of a row; and the close that
 * counts them.
 */
#include <patinox/executor.h>
#include <patinox/guard.h>

#include <stdio.h>

struct file {
    const char *name;
    int busy; /* how often its end says "not now" first */
};

static int close_file(void *arg, const struct pnx_cancel *cancel) {
    struct file *file = arg;
    if (pnx_cancel_requested(cancel))
        return -ECANCELED; /* in the middle of something long it would look now and then */
    if (file->busy > 0) {
        file->busy--;
        return -EAGAIN; /* it is as it was; the executor tries again after a pause */
    }
    printf("closing %s\n", file->name);
    return 0;
}

static void closed(void *ctx, pnx_job_id id, int code) {
    const struct file *file = ctx;
    (void)id;
    printf("%s: %s\n", file->name, pnx_strerror(code));
}

static int use_guards(struct pnx_executor *executor, struct file *files) {
    PNX_AUTO_GUARD guard = {0}, later = {0};
    int rc = pnx_guard_arm(&guard, close_file, &files[0]);
    if (rc == 0)
        rc = pnx_guard_arm(&later, close_file, &files[1]);
    if (rc == 0)
        rc = pnx_guard_set_executor(&guard, executor); /* its drop, below, goes to the background */
    if (rc == 0)
        rc = pnx_guard_defer(&later, executor,
                PNX_JOB(.priority = PNX_PRIORITY_LOW, .done = closed, .ctx = &files[1]), NULL,
                NULL);
    return rc;
}

int main(void) {
    struct pnx_executor_opts opts = *PNX_EXECUTOR_OPTS(.name = "closer", .backoff_ns = PNX_MS);
    struct pnx_error err;
    if (pnx_executor_opts_set(&opts, "workers", "2", &err)) {
        fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    PNX_AUTO_EXECUTOR executor = NULL;
    if (pnx_executor_create(&opts, &err, &executor)) {
        fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    static struct file files[] = {
            {"guarded", 0}, {"deferred", 0}, {"busy", 2}, {"unwanted", 0}, {"registered", 1}};
    if (use_guards(executor, files))
        return 1;

    /* One that is tried three times, and waited for. */
    pnx_job_id id;
    int code;
    if (pnx_executor_submit(executor,
                PNX_JOB(.run = close_file, .arg = &files[2], .name = "busy file"), &err, &id) ||
            pnx_executor_wait(executor, id, 5 * PNX_SEC, &code))
        return 1;
    struct pnx_job_info info = {.size = sizeof(info)};
    if (pnx_executor_job(executor, id, &info) == 0)
        printf("%s: %s after %u attempts\n", info.name, pnx_strerror(code), info.attempt);

    /* One that is taken back before its time has come. */
    if (pnx_executor_submit(executor,
                PNX_JOB(.run = close_file, .arg = &files[3], .delay_ns = 3600 * PNX_SEC,
                        .done = closed, .ctx = &files[3]),
                &err, &id) ||
            pnx_executor_cancel(executor, id))
        return 1;

    /* The end of a row: whoever is first, this job or a shutdown, ends it. */
    pnx_resource_id row;
    if (pnx_registry_add(NULL,
                PNX_RESOURCE(.type = "file", .cleanup = close_file, .arg = &files[4]), &err,
                &row) ||
            pnx_executor_cleanup(executor, NULL, row, NULL, &err, NULL) ||
            pnx_executor_drain(executor, 5 * PNX_SEC))
        return 1;

    struct pnx_executor_report report = {.size = sizeof(report)};
    int rc = pnx_executor_close(executor, 5 * PNX_SEC, &report);
    struct pnx_executor_stats stats = {.size = sizeof(stats)};
    if (rc || pnx_executor_read_stats(executor, &stats))
        return 1;
    printf("%llu done, %llu tried again, %llu taken back; %zu abandoned\n",
            (unsigned long long)stats.done, (unsigned long long)stats.retries,
            (unsigned long long)stats.canceled, report.abandoned);
    return stats.done == 4 && stats.retries == 3 ? 0 : 1;
}
