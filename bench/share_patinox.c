/* SPDX-License-Identifier: Apache-2.0 */
/* share_patinox.c - the share cases for us, with default options: one object for all threads, a value of 8 bytes. */
#include "bench.h"

#include <patinox/rc.h>
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
        if (pnx_snapshot_store(state, value, NULL, NULL))
            abort();
        pnx_rc_unref(value);
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
};

int main(int argc, char **argv) {
    struct bench_args args = bench_parse(argc, argv);
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct bench_impl impl = rows[i].impl;
        if (strcmp(rows[i].case_name, args.case_name) != 0 ||
                (impl.name && strcmp(impl.name, args.impl) != 0))
            continue;
        impl.name = args.impl;
        impl.version = pnx_version();
        return bench_cycle(&args, &impl);
    }
    printf("{\"missing\":\"this program does not measure it\"}\n");
    return 0;
}
