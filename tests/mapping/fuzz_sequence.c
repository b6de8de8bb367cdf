/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Runs bytes as a sequence of calls against the model of mapping/model.h: each choice takes one to four of them.  Built
 * for libFuzzer by the preset "fuzz"; test_fuzz_sequence.c replays the corpus in the ordinary run.
 */
#include "harness/corpus.h"
#include "harness/harness.h"
#include "mapping/model.h"

int LLVMFuzzerInitialize(int *argc, char ***argv);

struct bytes {
    const uint8_t *p;
    size_t n;
    unsigned steps;
};

#define STEPS 150u

static uint64_t draw(void *ctx, uint64_t n) {
    struct bytes *bytes = ctx;
    uint64_t value = 0;
    for (uint64_t reach = n - 1; reach && bytes->n; reach >>= 8) {
        value = value << 8 | *bytes->p++;
        bytes->n--;
    }
    return value % n;
}

static bool more(void *ctx) {
    struct bytes *bytes = ctx;
    return bytes->n > 0 && bytes->steps-- > 0;
}

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    (void)argc;
    (void)argv;
    test_fail_aborts();
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    struct bytes bytes = {.p = data, .n = n, .steps = STEPS};
    model_run(&(const struct model_draws){.draw = draw, .more = more, .ctx = &bytes});
    return 0;
}
