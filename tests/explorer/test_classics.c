/* SPDX-License-Identifier: Apache-2.0 */
/* test_classics.c - the explorer finds what is known to be wrong, and exhausts what is known to be right. */
#include "explorer/explorer.h"

struct mp {
    struct pnx_a32 flag;
    struct x_cell data;
};

static void mp_write(void *state) {
    struct mp *mp = state;
    x_cell_write(&mp->data, 42);
    pnx_store(
            &mp->flag, 1, PNX_RELEASE, "classics.mp_release"); /* pairs with classics.mp_acquire */
}

static void mp_read(void *state) {
    struct mp *mp = state;
    if (pnx_load(
                &mp->flag, PNX_ACQUIRE, "classics.mp_acquire")) /* pairs with classics.mp_release */
        CHECK_EQ(x_cell_read(&mp->data), 42);
}

TEST(message_passing_is_right) {
    x_explore(&(struct x_test){.name = "mp",
            .size = sizeof(struct mp),
            .thread = {mp_write, mp_read, mp_read},
            .floor = 4});
}

static void mp_write_relaxed(void *state) {
    struct mp *mp = state;
    x_cell_write(&mp->data, 42);
    pnx_store(&mp->flag, 1, PNX_RELAXED, "classics.mp_relaxed_store");
}

TEST(message_passing_with_a_relaxed_store_races) {
    x_refute(&(struct x_test){.name = "mp-relaxed",
                     .size = sizeof(struct mp),
                     .thread = {mp_write_relaxed, mp_read}},
            X_RACE);
}
