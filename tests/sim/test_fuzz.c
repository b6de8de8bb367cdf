/* SPDX-License-Identifier: Apache-2.0 */
/* The corpus of the trace readers' fuzzer, as it is and changed at random. */
#include "harness/corpus.h"
#include "harness/harness.h"

TEST(traces_of_the_corpus_are_read_or_refused) {
    test_corpus("tests/sim/corpus", 20);
}

TEST_LIMIT(traces_of_the_corpus_changed_at_random_are_read_or_refused, 300) {
    test_corpus_changed("tests/sim/corpus", test_long() ? 200000 : test_slow() ? 2000 : 10000);
}
