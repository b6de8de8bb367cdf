/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A value that many threads read and some change in place: the stock of a little shop.
 */
#include <patinox/rwdata.h>

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

struct stock {
    int apples, pears;
    int pieces; /* always apples + pears */
};
static const struct pnx_rc_type stock_type = PNX_RC_TYPE(struct stock);

static void must(int rc, const struct pnx_error *err) {
    if (rc) {
        fprintf(stderr, "%s: %s\n", pnx_errname(rc), err->message);
        exit(1);
    }
}

/* A guard: the value is ours until the scope ends. */
static int pieces(struct pnx_rwdata *stock) {
    struct pnx_error err;
    PNX_AUTO_RWDATA_READ guard = {0};
    must(pnx_rwdata_read(stock, PNX_TIMEOUT_DEFAULT, &err, &guard), &err);
    return ((const struct stock *)guard.value)->pieces;
}

/* A change of several steps: whoever leaves in between poisons the value. */
static int deliver(struct pnx_rwdata *stock, int apples, int pears) {
    struct pnx_error err;
    PNX_AUTO_RWDATA_WRITE guard = {0};
    must(pnx_rwdata_write(stock, PNX_SEC, &err, &guard), &err);
    struct stock *value = guard.value;
    pnx_rwdata_arm(&guard);
    value->apples += apples;
    if (pears < 0)
        return -EINVAL; /* a mistake: pieces is wrong now */
    value->pears += pears;
    value->pieces += apples + pears;
    pnx_rwdata_disarm(&guard);
    return 0;
}

/* The same as functions that are called with the value. */
static int sell_apple(void *ctx, void *value) {
    struct stock *stock = value;
    (void)ctx;
    stock->apples--;
    stock->pieces--;
    return 0;
}

static int print_pears(void *ctx, const void *value) {
    (void)ctx;
    printf("%d pears\n", ((const struct stock *)value)->pears);
    return 0;
}

static void *customer(void *arg) {
    struct pnx_rwdata *stock = arg;
    struct pnx_error err;
    for (int i = 0; i < 10; i++)
        must(pnx_rwdata_with_write(stock, PNX_NEVER, sell_apple, NULL, &err), &err);
    pnx_rwdata_release(&stock); /* the reference that main took for this thread */
    return NULL;
}

int main(void) {
    struct pnx_error err = {0};
    struct pnx_rwdata *stock = NULL;
    const struct stock first = {100, 10, 110};
    must(pnx_rwdata_create(&stock_type, &first, PNX_RWDATA_OPTS(.name = "stock"), &err, &stock),
            &err);

    pthread_t thread;
    if (pthread_create(&thread, NULL, customer, pnx_rwdata_ref(stock)) != 0)
        return 1;
    must(deliver(stock, 5, 5), &err);
    must(pnx_rwdata_with_read(stock, PNX_TIMEOUT_DEFAULT, print_pears, NULL, &err), &err);
    pthread_join(thread, NULL);
    printf("%d pieces\n", pieces(stock));

    /* In an event loop: only try. */
    struct pnx_rwdata_read_guard reader = {0};
    struct pnx_rwdata_write_guard writer = {0};
    if (pnx_rwdata_try_write(stock, &writer) == 0) {
        ((struct stock *)writer.value)->pears++;
        ((struct stock *)writer.value)->pieces++;
        /* Goes on as a reader: no other writer comes between. */
        must(pnx_rwdata_downgrade(&writer, &reader), &err);
        printf("%d pears now\n", ((const struct stock *)reader.value)->pears);
        pnx_rwdata_read_end(&reader);
    }
    if (pnx_rwdata_try_read(stock, &reader) == 0)
        pnx_rwdata_read_end(&reader);

    /* Half a change, and what becomes of it. */
    printf("deliver: %s\n", pnx_errname(deliver(stock, 3, -1)));
    int rc = pnx_rwdata_read(stock, 0, &err, &reader);
    printf("read: %s (%s)\n", pnx_errname(rc), err.message);
    must(pnx_rwdata_repair(stock, PNX_SEC, &err, &writer), &err);
    struct stock *value = writer.value;
    printf("poisoned: %s\n", pnx_errname(pnx_rwdata_poisoned(stock)));
    value->pieces = value->apples + value->pears;
    must(pnx_rwdata_clear(&writer), &err);
    pnx_rwdata_write_end(&writer);
    printf("%d pieces\n", pieces(stock));

    /* A writer may also say himself that something is wrong. */
    must(pnx_rwdata_write(stock, PNX_SEC, &err, &writer), &err);
    must(pnx_rwdata_poison(&writer, -EIO), &err);
    must(pnx_rwdata_clear(&writer), &err); /* no, it was not */
    pnx_rwdata_write_end(&writer);

    struct pnx_rwdata_stats stats = {.size = sizeof(stats)};
    pnx_rwdata_read_stats(stock, &stats);
    printf("%llu writes, %llu unfinished\n", (unsigned long long)stats.writes,
            (unsigned long long)stats.poisonings);
    pnx_rwdata_close(stock); /* what a shutdown does: no more guards */
    printf("after close: %s\n", pnx_errname(pnx_rwdata_try_read(stock, &reader)));
    pnx_rwdata_release(&stock);
    return 0;
}
