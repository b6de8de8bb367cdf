/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mutated.c - a suite for test_mutation.py: its sites are the code under the mutation check.
 *
 * The orders of mutated.publish and mutated.look are needed, those of mutated.count are not, and mutated.never
 * is not reached.
 */
#include "explorer/explorer.h"

struct state {
    struct pnx_a32 ready;
    struct pnx_a32 count;
    struct x_cell data;
};

static uint32_t count(struct state *s) {
    return pnx_fetch_add(&s->count, 1, PNX_ACQ_REL, "mutated.count");
}

static void publish(void *state) {
    struct state *s = state;
    x_cell_write(&s->data, 1);
    count(s);
    pnx_fetch_add(&s->ready, 1, PNX_ACQ_REL, "mutated.publish");
}

static void look(void *state) {
    struct state *s = state;
    if (pnx_load(&s->ready, PNX_ACQUIRE, "mutated.look"))
        CHECK_EQ(x_cell_read(&s->data), 1);
    if (pnx_load(&s->ready, PNX_RELAXED, "mutated.again") == 7)
        (void)pnx_load(&s->count, PNX_ACQUIRE, "mutated.never");
}

TEST(what_is_published_is_seen) {
    x_explore(&(struct x_test){.name = "publish",
            .size = sizeof(struct state),
            .thread = {publish, look, look},
            .floor = 5});
}

/* A suite may show that something else is wrong: a mutant must not count as killed by that. */
static void broken(void *state) {
    CHECK_EQ(count(state), 0);
}
TEST(what_is_wrong_is_found) {
    x_refute(
            &(struct x_test){
                    .name = "broken", .size = sizeof(struct state), .thread = {broken, broken}},
            X_ASSERTION);
}
