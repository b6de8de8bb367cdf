/* SPDX-License-Identifier: Apache-2.0 */
/*
 * linear.h - whether what threads recorded can have happened one after the other.
 *
 * Wing and Gong's search (1993) for an order of operations that agrees with their times and with a sequential object, with
 * Lowe's memory of states (2017), which makes it short: where each of t threads did k operations there are at most (k + 1)^t
 * sets of operations that can be done.
 */
#ifndef PNX_TEST_LINEAR_H
#define PNX_TEST_LINEAR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LINEAR_OPS_MAX   128
#define LINEAR_STATE_MAX 64

/* Runs an operation on the object's state; false when the object would have answered otherwise. */
typedef bool linear_apply_fn(const void *ctx, unsigned op, void *state);

struct linear_history {
    unsigned n;
    uint64_t begun[LINEAR_OPS_MAX]; /* of one counter, as is ended: before the call, and after it */
    uint64_t ended[LINEAR_OPS_MAX];
    linear_apply_fn *apply;
    const void *ctx;
    size_t state_size; /* without padding: states are compared as bytes */
};

/* Adds an operation and returns its number; fails the test when there are too many. */
unsigned linear_add(struct linear_history *history, uint64_t begun, uint64_t ended);

/* Whether there is an order, from the state start.  Not for two threads at once. */
bool linear_explains(const struct linear_history *history, const void *start);

#endif
