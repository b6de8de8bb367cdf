/* SPDX-License-Identifier: Apache-2.0 */
/*
 * model.h - sequences of open, view, store, resize, flush, advise, lock, populate, close and release against a model: a
 * file as an array of bytes, and what each mapping must show of it.  A difference fails the test.
 */
#ifndef PNX_TEST_MAPPING_MODEL_H
#define PNX_TEST_MAPPING_MODEL_H

#include <stdbool.h>
#include <stdint.h>

/* Where all choices come from. */
struct model_draws {
    uint64_t (*draw)(void *ctx, uint64_t n); /* a number below n > 1 */
    bool (*more)(void *ctx);                 /* whether there is another step */
    void *ctx;
};

/* Runs one sequence, from a fresh file on; one at a time in a process. */
void model_run(const struct model_draws *draws);

#endif
