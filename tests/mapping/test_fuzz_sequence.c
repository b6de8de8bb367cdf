/* SPDX-License-Identifier: Apache-2.0 */
/* The corpus of fuzz_sequence.c, as it is and changed at random. */
#include "harness/corpus.h"
#include "harness/harness.h"

TEST(sequences_of_the_corpus_agree_with_the_model) {
    test_corpus("tests/mapping/corpus_sequence", 20);
}

TEST_LIMIT(sequences_of_the_corpus_changed_at_random_agree_with_the_model, 300) {
    test_corpus_changed("tests/mapping/corpus_sequence", test_long()   ? 5000
                                                         : test_slow() ? 20
                                                                       : 100);
}
