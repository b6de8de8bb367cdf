/* SPDX-License-Identifier: Apache-2.0 */
/* The corpus of fuzz_file.c, as it is and changed at random. */
#include "harness/corpus.h"
#include "harness/harness.h"

extern unsigned fuzz_file_loaded;

TEST(p19_files_of_the_corpus_are_loaded_or_refused) {
    test_corpus("tests/cache/corpus_file", 20);
    CHECK(fuzz_file_loaded >= 11);
}

TEST_LIMIT(p19_files_of_the_corpus_changed_at_random_are_loaded_or_refused, 300) {
    test_corpus_changed("tests/cache/corpus_file", test_long()   ? 200000
                                                   : test_slow() ? 1000
                                                                 : 10000);
}
