/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The ways to read a snapshot, and the way back: borrowed in a section, by a reader that keeps what it saw, and
 * older versions of the history.
 */
#include <patinox/reclaim.h>
#include <patinox/snapshot.h>

#include <stdio.h>
#include <stdlib.h>

struct model {
    double factor;
};
static const struct pnx_rc_type model_type = PNX_RC_TYPE(struct model);

static void must(int rc, const struct pnx_error *err) {
    if (rc) {
        fprintf(stderr, "%s: %s\n", pnx_errname(rc), err->message);
        exit(1);
    }
}

static void publish(struct pnx_snapshot *models, double factor) {
    struct pnx_error err = {0};
    void *model = NULL;
    must(pnx_rc_new(&model_type, &(struct model){factor}, &model), &err);
    must(pnx_snapshot_give(models, &model, &err, NULL), &err);
}

/* Borrowed: no count is touched.  The section must be short, and nothing in it may wait. */
static double by_peek(struct pnx_snapshot *models, double x) {
    pnx_reclaim_enter(NULL);
    const struct model *model = pnx_snapshot_peek(models, NULL);
    double result = model->factor * x;
    pnx_reclaim_exit(NULL);
    return result;
}

int main(void) {
    struct pnx_error err = {0};
    struct pnx_snapshot *models = NULL;
    void *first = NULL;
    must(pnx_rc_new(&model_type, &(struct model){1.0}, &first), &err);
    must(pnx_snapshot_create(
                 first, PNX_SNAPSHOT_OPTS(.name = "models", .history_depth = 8), &err, &models),
            &err);
    PNX_RC_CLEAR(first);
    printf("peek: %g\n", by_peek(models, 10));

    /* One reader for each thread: a load and a comparison, while nothing changes. */
    PNX_AUTO_SNAPSHOT_READER reader;
    pnx_snapshot_reader_init(&reader, models);
    double sum = 0;
    for (int i = 0; i < 1000; i++) {
        const struct model *model = pnx_snapshot_reader_get(&reader);
        sum += model->factor;
    }
    printf("a thousand gets of version %d: %g\n", (int)pnx_snapshot_reader_version(&reader), sum);

    publish(models, 2.0);
    publish(models, -5.0); /* not a good one */
    printf("the reader's value is old, and let go: %d\n", pnx_snapshot_reader_sweep(&reader));
    const struct model *now = pnx_snapshot_reader_get(&reader);
    printf("now %g\n", now->factor);
    pnx_snapshot_reader_park(&reader); /* before a long wait: keeps nothing */

    /* What was before, newest first; and back to it. */
    struct pnx_snapshot_past past[8];
    size_t n = 0;
    must(pnx_snapshot_history(models, past, 8, &n), &err);
    for (size_t i = 0; i < n; i++) {
        const void *value = NULL;
        if (pnx_snapshot_load_past(models, past[i].version, &value) == 0)
            printf("version %d had %g\n", (int)past[i].version,
                    ((const struct model *)value)->factor);
        pnx_rc_unref(value);
    }
    uint64_t version = 0;
    must(pnx_snapshot_rollback(models, past[0].version, &err, &version), &err);
    printf("version %d: %g\n", (int)version, by_peek(models, 1));

    pnx_snapshot_release(&models); /* the reader has a reference of its own */
    return 0;
}
