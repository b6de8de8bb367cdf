/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads bytes as a trace.  The first byte says in which format, and whether the CSV columns are named; the rest is the
 * file.  Built for libFuzzer by the preset "fuzz"; test_fuzz.c replays the corpus, and changes it, in the ordinary run.
 */
#include "trace.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

/* A range of a .lis trace may be four thousand million keys. */
#define BATCHES 16

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    static struct trace_batch batch;
    struct failure failure = {""};
    struct trace_options options = {.skip = "*"};
    struct input *input = NULL;
    struct trace *trace = NULL;
    if (n == 0)
        return 0;
    options.format = (enum trace_format)(data[0] % TRACE_FORMATS);
    if (data[0] & 0x40) {
        strcpy(options.columns.key, "2");
        strcpy(options.columns.size, "1");
    } else if (data[0] & 0x80) {
        strcpy(options.columns.key, "k");
        strcpy(options.columns.time, "t");
    }
    if (input_open_memory(data + 1, n - 1, &failure, &input) ||
            trace_open_input(input, "fuzz", &options, &failure, &trace)) {
        if (failure.text[0] == 0)
            abort(); /* each failure has words */
        return 0;
    }
    for (int i = 0; i < BATCHES; i++) {
        int rc = trace_next(trace, &batch, &failure);
        if (rc != 0 && failure.text[0] == 0)
            abort();
        if (batch.n > TRACE_BATCH)
            abort();
        for (uint32_t r = 0; rc == 0 && r < batch.n; r++) {
            if (batch.size[r] == 0 || (!trace_sized(trace) && batch.size[r] != 1))
                abort();
        }
        if (rc != 0 || batch.n == 0)
            break;
    }
    trace_close(&trace);
    return 0;
}
