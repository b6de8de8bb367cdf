/* SPDX-License-Identifier: Apache-2.0 */
/* The corpus of the trace readers' fuzzer, as it is and changed at random. */
#include "harness/harness.h"

#include <dirent.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

#define LARGEST 65536

struct seed {
    uint8_t data[LARGEST];
    size_t n;
};

/* Reads the files of the corpus, up to max; returns how many there are. */
static size_t read_corpus(struct seed *seeds, size_t max) {
    char path[1024];
    size_t count = 0;
    snprintf(path, sizeof(path), "%s/tests/sim/corpus", test_source_dir());
    DIR *folder = opendir(path);
    CHECK_MSG(folder, "%s is not there", path);
    for (struct dirent *entry = readdir(folder); entry && count < max; entry = readdir(folder)) {
        if (entry->d_name[0] == '.')
            continue;
        snprintf(path, sizeof(path), "%s/tests/sim/corpus/%s", test_source_dir(), entry->d_name);
        FILE *file = fopen(path, "rb");
        CHECK(file);
        seeds[count].n = fread(seeds[count].data, 1, LARGEST, file);
        fclose(file);
        count++;
    }
    closedir(folder);
    return count;
}

TEST(traces_of_the_corpus_are_read_or_refused) {
    struct seed *seeds = calloc(256, sizeof(*seeds));
    CHECK(seeds);
    size_t n = read_corpus(seeds, 256);
    CHECK_MSG(n >= 20, "only %zu files", n);
    for (size_t i = 0; i < n; i++)
        CHECK_EQ(LLVMFuzzerTestOneInput(seeds[i].data, seeds[i].n), 0);
    free(seeds);
}

/* Flips, cuts, doubles or overwrites a part. */
static void change(struct seed *seed, uint64_t *random) {
    size_t n = seed->n, at = n ? test_random(random) % n : 0;
    switch (test_random(random) % 4) {
    case 0:
        if (n > 0)
            seed->data[at] ^= (uint8_t)(1u << test_random(random) % 8);
        break;
    case 1:
        seed->n = at;
        break;
    case 2:
        if (n > 0 && n + n - at <= LARGEST) {
            memmove(seed->data + n, seed->data + at, n - at);
            seed->n += n - at;
        }
        break;
    default:
        if (n > 0)
            seed->data[at] = (uint8_t)(",\"\n\r* \t0-9\377\0x"[test_random(random) % 13]);
        break;
    }
}

TEST_LIMIT(traces_of_the_corpus_changed_at_random_are_read_or_refused, 300) {
    struct seed *seeds = calloc(256, sizeof(*seeds));
    struct seed *changed = calloc(1, sizeof(*changed));
    uint64_t random = test_seed();
    int rounds = test_long() ? 200000 : test_slow() ? 2000 : 10000;
    CHECK(seeds && changed);
    size_t n = read_corpus(seeds, 256);
    for (int i = 0; i < rounds; i++) {
        const struct seed *from = &seeds[test_random(&random) % n];
        memcpy(changed->data, from->data, from->n);
        changed->n = from->n;
        for (uint64_t changes = 1 + test_random(&random) % 8; changes > 0; changes--)
            change(changed, &random);
        CHECK_EQ(LLVMFuzzerTestOneInput(changed->data, changed->n), 0);
    }
    free(changed);
    free(seeds);
}
