/* SPDX-License-Identifier: Apache-2.0 */
/* share_patinox.c - the share cases for us, with default options: one object for all threads, a value of 8 bytes. */
#include "share_patinox.h"

#include <patinox/rc.h>
#include <patinox/reclaim.h>
#include <patinox/rwdata.h>
#include <patinox/snapshot.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct value {
    uint64_t number;
};
static const struct pnx_rc_type value_type = PNX_RC_TYPE(struct value);

static void *make_value(void) {
    void *made = NULL;
    if (pnx_rc_new(&value_type, NULL, &made))
        abort();
    return made;
}

/* ---- share/rc-clone-drop ---- */
static void *rc_set_up(unsigned threads) {
    (void)threads;
    return make_value();
}

static void rc_work(void *state, unsigned index, uint64_t n) {
    (void)index;
    for (uint64_t i = 0; i < n; i++) {
        void *mine = pnx_rc_ref(state);
        BENCH_USE(mine);
        pnx_rc_unref(mine);
    }
}

/* ---- share/snapshot-load, share/snapshot-store ---- */
static void *snapshot_set_up(unsigned threads) {
    struct pnx_snapshot *snapshot = NULL;
    struct pnx_error err;
    (void)threads;
    void *value = make_value();
    if (pnx_snapshot_create(value, NULL, &err, &snapshot))
        fprintf(stderr, "%s\n", err.message);
    pnx_rc_unref(value);
    return snapshot;
}

static void snapshot_tear_down(void *state) {
    struct pnx_snapshot *snapshot = state;
    pnx_snapshot_release(&snapshot);
}

static void snapshot_load(void *state, unsigned index, uint64_t n) {
    (void)index;
    for (uint64_t i = 0; i < n; i++) {
        const struct value *value = pnx_snapshot_load(state, NULL);
        BENCH_USE(value->number);
        pnx_rc_unref(value);
    }
}

static void snapshot_store(void *state, unsigned index, uint64_t n) {
    (void)index;
    for (uint64_t i = 0; i < n; i++) {
        void *value = make_value();
        if (pnx_snapshot_give(
                    state, &value, NULL, NULL)) /* as peers do: the reference goes with it */
            abort();
    }
}

/* ---- share/snapshot-reader ---- */
static struct { _Alignas(128) struct pnx_snapshot_reader reader; } threads_own[BENCH_MAX_THREADS];

static void reader_enter_thread(void *state, unsigned index) {
    pnx_snapshot_reader_init(&threads_own[index].reader, state);
}

static void reader_leave_thread(void *state, unsigned index) {
    (void)state;
    pnx_snapshot_reader_release(&threads_own[index].reader);
}

static void snapshot_reader(void *state, unsigned index, uint64_t n) {
    struct pnx_snapshot_reader mine = threads_own[index].reader; /* moved into the loop's frame */
    (void)state;
    for (uint64_t i = 0; i < n; i++) {
        const struct value *value = pnx_snapshot_reader_get(&mine);
        BENCH_USE(value->number);
    }
    threads_own[index].reader = mine;
}

/* ---- share/snapshot-peek ---- */
static struct pnx_reclaim *fence_domain;

static void *fence_set_up(unsigned threads) {
    struct pnx_snapshot *snapshot = NULL;
    struct pnx_error err;
    (void)threads;
    void *value = make_value();
    if (pnx_reclaim_create(PNX_RECLAIM_OPTS(.mode = PNX_RECLAIM_FENCES), &err, &fence_domain) ||
            pnx_snapshot_create(value, PNX_SNAPSHOT_OPTS(.reclaim = fence_domain), &err, &snapshot))
        fprintf(stderr, "%s\n", err.message);
    pnx_rc_unref(value);
    return snapshot;
}

static inline void peek(struct pnx_snapshot *snapshot, struct pnx_reclaim *domain) {
    pnx_reclaim_enter(domain);
    const struct value *value = pnx_snapshot_peek(snapshot, NULL);
    BENCH_USE(value->number);
    pnx_reclaim_exit(domain);
}

static void snapshot_peek(void *state, unsigned index, uint64_t n) {
    (void)index;
    for (uint64_t i = 0; i < n; i++)
        peek(state, NULL);
}

static void snapshot_peek_fence(void *state, unsigned index, uint64_t n) {
    struct pnx_reclaim *domain = fence_domain;
    (void)index;
    for (uint64_t i = 0; i < n; i++)
        peek(state, domain);
}

/* ---- share/rwdata-read, share/rwdata-write ---- */
static void *rwdata_set_up(unsigned threads) {
    struct pnx_rwdata *rwdata = NULL;
    struct pnx_error err;
    (void)threads;
    if (pnx_rwdata_create(&value_type, NULL, NULL, &err, &rwdata))
        fprintf(stderr, "%s\n", err.message);
    return rwdata;
}

static void rwdata_tear_down(void *state) {
    struct pnx_rwdata *rwdata = state;
    pnx_rwdata_release(&rwdata);
}

static void rwdata_read(void *state, unsigned index, uint64_t n) {
    (void)index;
    for (uint64_t i = 0; i < n; i++) {
        struct pnx_rwdata_read_guard guard = {0};
        if (pnx_rwdata_read(state, PNX_TIMEOUT_DEFAULT, NULL, &guard))
            abort();
        BENCH_USE(((const struct value *)guard.value)->number);
        pnx_rwdata_read_end(&guard);
    }
}

static void rwdata_write(void *state, unsigned index, uint64_t n) {
    (void)index;
    for (uint64_t i = 0; i < n; i++) {
        struct pnx_rwdata_write_guard guard = {0};
        if (pnx_rwdata_write(state, PNX_TIMEOUT_DEFAULT, NULL, &guard))
            abort();
        struct value *value = guard.value;
        value->number++;
        BENCH_USE(value->number);
        pnx_rwdata_write_end(&guard);
    }
}

/* Rows without a name are for patinox and patinox-so alike. */
static const struct bench_row rows[] = {
        {"share/rc-clone-drop", {.set_up = rc_set_up, .work = rc_work}},
        {"share/snapshot-load", {.set_up = snapshot_set_up,
                                        .work = snapshot_load,
                                        .tear_down = snapshot_tear_down}},
        {"share/snapshot-store", {.set_up = snapshot_set_up,
                                         .work = snapshot_store,
                                         .tear_down = snapshot_tear_down}},
        {"share/snapshot-reader", {.set_up = snapshot_set_up,
                                          .work = snapshot_reader,
                                          .enter_thread = reader_enter_thread,
                                          .leave_thread = reader_leave_thread}},
        {"share/snapshot-peek",
                {.name = "patinox-fence", .set_up = fence_set_up, .work = snapshot_peek_fence}},
        {"share/snapshot-peek", {.set_up = snapshot_set_up, .work = snapshot_peek}},
        {"share/rwdata-read",
                {.set_up = rwdata_set_up, .work = rwdata_read, .tear_down = rwdata_tear_down}},
        {"share/rwdata-write",
                {.set_up = rwdata_set_up, .work = rwdata_write, .tear_down = rwdata_tear_down}},
};

/* Finds the row of a case; one that names the implementation stands before one that does not. */
static const struct bench_row *find(
        const struct bench_args *args, const struct bench_row *table, size_t n) {
    for (size_t i = 0; i < n; i++) {
        const char *name = table[i].impl.name;
        if (strcmp(table[i].case_name, args->case_name) == 0 &&
                (!name || strcmp(name, args->impl) == 0))
            return &table[i];
    }
    return NULL;
}

int main(int argc, char **argv) {
    struct bench_args args = bench_parse(argc, argv);
    const struct bench_row *row = find(&args, rows, sizeof(rows) / sizeof(rows[0]));
    size_t n;
    const struct bench_row *maps = map_rows(&n);
    row = row ? row : find(&args, maps, n);
    if (!row) {
        printf("{\"missing\":\"this program does not measure it\"}\n");
        return 0;
    }
    struct bench_impl impl = row->impl;
    impl.name = args.impl;
    impl.version = pnx_version();
    if (strcmp(args.case_name, "share/cmap-memory") == 0)
        return bench_memory(&args, &impl, MAP_ENTRIES);
    return bench_cycle(&args, &impl);
}
