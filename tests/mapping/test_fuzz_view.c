/* SPDX-License-Identifier: Apache-2.0 */
/* The corpus of fuzz_view.c, as it is and changed at random. */
#include "harness/corpus.h"
#include "harness/harness.h"

TEST(arguments_of_the_corpus_agree_with_exact_arithmetic) {
    test_corpus("tests/mapping/corpus_view", 20);
}

TEST_LIMIT(arguments_of_the_corpus_changed_at_random_agree_with_exact_arithmetic, 300) {
    test_corpus_changed("tests/mapping/corpus_view", test_long()   ? 100000
                                                     : test_slow() ? 500
                                                                   : 5000);
}
