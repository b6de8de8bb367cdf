/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Hearing that a value has changed: by callback, by waiting on another thread, and by a descriptor in an event loop.
 */
#include <patinox/watch.h>

#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

struct price {
    int cents;
};
static const struct pnx_rc_type price_type = PNX_RC_TYPE(struct price);

static void must(int rc, const struct pnx_error *err) {
    if (rc < 0) {
        fprintf(stderr, "%s: %s\n", pnx_errname(rc), err->message);
        exit(1);
    }
}

static void set_price(struct pnx_snapshot *prices, int cents) {
    struct pnx_error err = {0};
    void *price = NULL;
    must(pnx_rc_new(&price_type, &(struct price){cents}, &price), &err);
    must(pnx_snapshot_give(prices, &price, &err, NULL), &err); /* takes our reference over */
}

/* Runs on the thread that has published, after its write is complete. */
static void changed(void *ctx, const void *value, uint64_t version) {
    const struct price *price = value;
    printf("%s: version %d costs %d\n", (const char *)ctx, (int)version, price->cents);
}

/* Another thread that waits until the price is 300 or more. */
static void *wait_for_300(void *arg) {
    struct pnx_watch *watch = arg;
    for (;;) {
        const void *value = NULL;
        if (pnx_watch_wait(watch, 10 * PNX_SEC, &value, NULL) != 0)
            return NULL; /* -ESHUTDOWN, -ECANCELED, -ETIMEDOUT */
        PNX_AUTO_RC const struct price *price = value;
        if (price->cents >= 300)
            return NULL;
    }
}

/* What an event loop does: poll the descriptor, then take what is new, or tick. */
static void loop_once(struct pnx_watch *watch, struct pnx_watch *ticked) {
    struct pnx_error err = {0};
    struct pollfd fds[2] = {{.events = POLLIN}, {.events = POLLIN}};
    fds[0].fd = pnx_watch_fd(watch);
    fds[1].fd = pnx_watch_fd(ticked);
    must(fds[0].fd, &err);
    must(fds[1].fd, &err);
    (void)poll(fds, 2, 1000);
    const void *value = NULL;
    uint64_t version;
    if ((fds[0].revents & POLLIN) && pnx_watch_read(watch, &value, &version) == 0) {
        printf("the loop read version %d\n", (int)version);
        pnx_rc_unref(value);
    }
    if (fds[1].revents & POLLIN)
        must(pnx_watch_tick(ticked), &err); /* calls changed here */
}

int main(void) {
    struct pnx_error err = {0};
    struct pnx_snapshot *prices = NULL;
    void *first = NULL;
    must(pnx_rc_new(&price_type, &(struct price){100}, &first), &err);
    must(pnx_snapshot_create(first, PNX_SNAPSHOT_OPTS(.name = "prices"), &err, &prices), &err);
    PNX_RC_CLEAR(first);

    PNX_AUTO_WATCH *called = NULL, *waited = NULL, *polled = NULL, *ticked = NULL;
    must(pnx_watch_open(prices,
                 PNX_WATCH_OPTS(.changed = changed, .ctx = "called", .flags = PNX_WATCH_INITIAL),
                 &err, &called),
            &err);
    must(pnx_watch_open(prices, NULL, &err, &waited), &err);
    must(pnx_watch_open(prices, NULL, &err, &polled), &err);
    must(pnx_watch_open(prices,
                 PNX_WATCH_OPTS(.changed = changed, .ctx = "ticked", .flags = PNX_WATCH_TICK), &err,
                 &ticked),
            &err);

    pthread_t thread;
    if (pthread_create(&thread, NULL, wait_for_300, waited) != 0)
        return 1;
    set_price(prices, 200);
    loop_once(polled, ticked);
    set_price(prices, 300);
    pthread_join(thread, NULL);

    must(pnx_watch_cancel(called), &err); /* is not running now, and will not run again */
    set_price(prices, 400);
    loop_once(polled, ticked);
    pnx_snapshot_close(prices);
    printf("after the close: %s\n", pnx_errname(pnx_watch_wait(waited, 0, NULL, NULL) == 0
                                                        ? pnx_watch_wait(waited, 0, NULL, NULL)
                                                        : 0));
    pnx_snapshot_release(&prices); /* the watches have references of their own */
    return 0;
}
