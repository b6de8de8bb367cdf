/* SPDX-License-Identifier: Apache-2.0 */
/* corpus.h - what a fuzzer has found worth keeping, replayed in the ordinary run. */
#ifndef PNX_TEST_CORPUS_H
#define PNX_TEST_CORPUS_H

#include <stddef.h>
#include <stdint.h>

/* What each fuzzer defines. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

/* Runs the fuzzer's function on each file of a folder of the source tree, of which there must be least. */
void test_corpus(const char *folder, size_t least);

/* Runs it on files of the folder that were changed at random, so many times.  A random test: SEED repeats it. */
void test_corpus_changed(const char *folder, uint64_t rounds);

#endif
