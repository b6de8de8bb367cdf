/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A value that many threads read and few replace: routes of a little router.
 */
#include <patinox/snapshot.h>

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

struct routes {
    int n;
    char host[4][16];
};
static const struct pnx_rc_type routes_type =
        PNX_RC_TYPE(struct routes); /* plain: copied as bytes */

/* Decides about every value before readers can see it. */
static int validate(void *ctx, const void *next, const void *current, struct pnx_error *err) {
    const struct routes *routes = next;
    (void)ctx;
    (void)current; /* NULL for the first one */
    (void)err;     /* err->message may say more */
    return routes->n <= 4 ? 0 : -ERANGE;
}

/* Edits the copy that update made; readers keep the old value until it is published. */
static int add_host(void *ctx, void *object) {
    struct routes *routes = object;
    if (routes->n < 4)
        snprintf(routes->host[routes->n], sizeof(routes->host[0]), "%s", (const char *)ctx);
    routes->n++;
    return 0;
}

static void *reader(void *arg) {
    struct pnx_snapshot *snapshot = arg;
    uint64_t version = 1;
    for (;;) { /* until it has seen three hosts */
        PNX_AUTO_RC const struct routes *routes = pnx_snapshot_load(snapshot, &version);
        if (routes->n == 3)
            break;
        if (pnx_snapshot_wait(snapshot, version, 10 * PNX_SEC) != 0)
            break;
    }
    pnx_snapshot_release(&snapshot); /* the reference that main took for this thread */
    return NULL;
}

static void must(int rc, const struct pnx_error *err) {
    if (rc) {
        fprintf(stderr, "%s: %s\n", pnx_errname(rc), err->message);
        exit(1);
    }
}

int main(void) {
    struct pnx_error err;
    struct pnx_snapshot *snapshot = NULL;
    uint64_t version;
    void *initial = NULL;
    must(pnx_rc_new(&routes_type, &(struct routes){1, {"alpha"}}, &initial), &err);
    must(pnx_snapshot_create(initial, PNX_SNAPSHOT_OPTS(.name = "routes", .validate = validate),
                 &err, &snapshot),
            &err);

    pthread_t thread;
    if (pthread_create(&thread, NULL, reader, pnx_snapshot_ref(snapshot)) != 0)
        return 1;

    /* Read, change, publish, with no other writer between: */
    must(pnx_snapshot_update(snapshot, add_host, "beta", &err, &version), &err);
    must(pnx_snapshot_update(snapshot, add_host, "gamma", &err, &version), &err);
    pthread_join(thread, NULL);
    printf("the reader saw version %llu\n", (unsigned long long)version);

    /* A whole value; the cell takes a reference of its own. */
    must(pnx_snapshot_store(snapshot, initial, &err, &version), &err);

    /* Only if nobody was faster: */
    int rc = pnx_snapshot_store_if(snapshot, version - 1, initial, &err, NULL);
    printf("store_if with an old version: %s (%s)\n", pnx_errname(rc), err.message);

    for (int i = 0; i < 5 && rc != -ERANGE; i++)
        rc = pnx_snapshot_update(snapshot, add_host, "more", &err, NULL);
    printf("validate refused: %s\n", err.message);

    PNX_AUTO_RC const struct routes *routes = pnx_snapshot_load(snapshot, &version);
    printf("version %llu has %d hosts, the first is %s\n", (unsigned long long)version, routes->n,
            routes->host[0]);
    printf("version is still %s\n", pnx_snapshot_version(snapshot) == version ? "the same" : "?");

    struct pnx_snapshot_stats stats = {.size = sizeof(stats)};
    pnx_snapshot_read_stats(snapshot, &stats);
    printf("%llu updates, %llu refused, %llu conflicts\n", (unsigned long long)stats.updates,
            (unsigned long long)stats.refusals, (unsigned long long)stats.conflicts);

    pnx_snapshot_close(snapshot); /* what a shutdown does: no more writes */
    printf("after close: %s\n", pnx_errname(pnx_snapshot_store(snapshot, initial, &err, NULL)));
    pnx_snapshot_release(&snapshot);
    PNX_RC_CLEAR(initial);
    return 0;
}
