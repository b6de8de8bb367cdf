/* SPDX-License-Identifier: Apache-2.0 */
/* share_peers.c - the peers in C of share/rc, snapshot and rwdata: one object for all threads. */
#define _LGPL_SOURCE /* liburcu's read sections inline */

#include "share_peers.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- plain-load: what no reader can beat ---- */
static uint64_t *plain_value;

static void *plain_set_up(unsigned threads) {
    (void)threads;
    plain_value = calloc(1, sizeof(*plain_value));
    return &plain_value;
}

static void plain_work(void *state, unsigned index, uint64_t n) {
    uint64_t **cell = state;
    (void)index;
    for (uint64_t i = 0; i < n; i++)
        BENCH_USE(*__atomic_load_n(cell, __ATOMIC_ACQUIRE));
}

/* ---- pthread-rwlock ---- */
static struct {
    pthread_rwlock_t lock;
    uint64_t value;
} guarded;

static void *rwlock_set_up(unsigned threads) {
    (void)threads;
    return pthread_rwlock_init(&guarded.lock, NULL) ? NULL : &guarded;
}

static void rwlock_read(void *state, unsigned index, uint64_t n) {
    (void)state;
    (void)index;
    for (uint64_t i = 0; i < n; i++) {
        pthread_rwlock_rdlock(&guarded.lock);
        BENCH_USE(guarded.value);
        pthread_rwlock_unlock(&guarded.lock);
    }
}

static void rwlock_write(void *state, unsigned index, uint64_t n) {
    (void)state;
    (void)index;
    for (uint64_t i = 0; i < n; i++) {
        pthread_rwlock_wrlock(&guarded.lock);
        guarded.value++;
        BENCH_USE(guarded.value);
        pthread_rwlock_unlock(&guarded.lock);
    }
}

#ifdef HAVE_GLIB
#include <glib.h>

static void *box_set_up(unsigned threads) {
    (void)threads;
    return g_atomic_rc_box_new0(uint64_t);
}

static void box_work(void *state, unsigned index, uint64_t n) {
    (void)index;
    for (uint64_t i = 0; i < n; i++) {
        void *mine = g_atomic_rc_box_acquire(state);
        BENCH_USE(mine);
        g_atomic_rc_box_release(mine);
    }
}
#endif

#ifdef HAVE_URCU
#include "urcu.h"

struct rcu_value {
    struct rcu_head head;
    uint64_t value;
};
static struct rcu_value *rcu_cell;

static void *rcu_set_up(unsigned threads) {
    (void)threads;
    urcu_memb_init();
    rcu_cell = calloc(1, sizeof(*rcu_cell));
    return rcu_cell ? &rcu_cell : NULL;
}

static void rcu_peek(void *state, unsigned index, uint64_t n) {
    (void)state;
    (void)index;
    for (uint64_t i = 0; i < n; i++) {
        urcu_memb_read_lock();
        BENCH_USE(rcu_dereference(rcu_cell)->value);
        urcu_memb_read_unlock();
    }
}

static void rcu_free(struct rcu_head *head) {
    free(caa_container_of(head, struct rcu_value, head));
}

static void rcu_store(void *state, unsigned index, uint64_t n) {
    (void)state;
    (void)index;
    for (uint64_t i = 0; i < n; i++) {
        struct rcu_value *next = calloc(1, sizeof(*next));
        if (!next)
            abort();
        struct rcu_value *old = rcu_xchg_pointer(&rcu_cell, next);
        urcu_memb_call_rcu(&old->head, rcu_free);
    }
}
#endif

static const struct bench_row rows[] = {
        {"share/snapshot-reader",
                {.name = "plain-load", .version = "-", .set_up = plain_set_up, .work = plain_work}},
        {"share/snapshot-peek",
                {.name = "plain-load", .version = "-", .set_up = plain_set_up, .work = plain_work}},
        {"share/rwdata-read", {.name = "pthread-rwlock",
                                      .version = "glibc",
                                      .set_up = rwlock_set_up,
                                      .work = rwlock_read}},
        {"share/rwdata-write", {.name = "pthread-rwlock",
                                       .version = "glibc",
                                       .set_up = rwlock_set_up,
                                       .work = rwlock_write}},
#ifdef HAVE_GLIB
        {"share/rc-clone-drop", {.name = "g_atomic_rc_box",
                                        .version = GLIB_VERSION,
                                        .set_up = box_set_up,
                                        .work = box_work}},
#endif
#ifdef HAVE_URCU
        {"share/snapshot-peek", {.name = "liburcu-memb",
                                        .version = URCU_VERSION,
                                        .set_up = rcu_set_up,
                                        .work = rcu_peek,
                                        .enter_thread = urcu_enter_thread,
                                        .leave_thread = urcu_leave_thread}},
        {"share/snapshot-store", {.name = "liburcu-memb",
                                         .version = URCU_VERSION,
                                         .set_up = rcu_set_up,
                                         .work = rcu_store,
                                         .enter_thread = urcu_enter_thread,
                                         .leave_thread = urcu_leave_thread}},
#endif
};

int main(int argc, char **argv) {
    struct bench_args args = bench_parse(argc, argv);
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        if (strcmp(rows[i].case_name, args.case_name) == 0 &&
                strcmp(rows[i].impl.name, args.impl) == 0)
            return bench_cycle(&args, &rows[i].impl);
    }
    size_t n;
    const struct bench_row *maps = map_peers(&n);
    for (size_t i = 0; i < n; i++) {
        if (strcmp(maps[i].case_name, args.case_name) != 0 ||
                strcmp(maps[i].impl.name, args.impl) != 0)
            continue;
        if (strcmp(args.case_name, "share/cmap-memory") == 0)
            return bench_memory(&args, &maps[i].impl, MAP_ENTRIES);
        return bench_cycle(&args, &maps[i].impl);
    }
    printf("{\"missing\":\"not built: its package was not found (scripts/packages.txt, group "
           "bench)\"}\n");
    return 0;
}
