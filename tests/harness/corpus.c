/* SPDX-License-Identifier: Apache-2.0 */
/* corpus.c - see harness/corpus.h. */
#include "harness/corpus.h"

#include "harness/harness.h"

#include <dirent.h>

#define LARGEST 65536
#define MOST    256

struct seed {
    uint8_t data[LARGEST];
    size_t n;
};

static struct seed *read_corpus(const char *folder, size_t *ret_n) {
    struct seed *seeds = calloc(MOST, sizeof(*seeds));
    char path[1024];
    size_t count = 0;
    CHECK(seeds);
    snprintf(path, sizeof(path), "%s/%s", test_source_dir(), folder);
    DIR *dir = opendir(path);
    CHECK_MSG(dir, "%s is not there", path);
    for (struct dirent *entry = readdir(dir); entry && count < MOST; entry = readdir(dir)) {
        if (entry->d_name[0] == '.')
            continue;
        snprintf(path, sizeof(path), "%s/%s/%s", test_source_dir(), folder, entry->d_name);
        FILE *file = fopen(path, "rb");
        CHECK(file);
        seeds[count].n = fread(seeds[count].data, 1, LARGEST, file);
        fclose(file);
        count++;
    }
    closedir(dir);
    *ret_n = count;
    return seeds;
}

void test_corpus(const char *folder, size_t least) {
    size_t n;
    struct seed *seeds = read_corpus(folder, &n);
    CHECK_MSG(n >= least, "only %zu files", n);
    for (size_t i = 0; i < n; i++)
        CHECK_EQ(LLVMFuzzerTestOneInput(seeds[i].data, seeds[i].n), 0);
    free(seeds);
}

/* Flips, cuts, doubles or overwrites a part. */
static void change(struct seed *seed, uint64_t *random) {
    size_t n = seed->n, at = n ? test_random(random) % n : 0;
    switch (test_random(random) % 5) {
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
    case 3:
        if (n > 0)
            seed->data[at] = (uint8_t)test_random(random);
        break;
    default:
        if (n > 0)
            seed->data[at] = (uint8_t)(",\"\n\r* \t0-9\377\0x"[test_random(random) % 13]);
        break;
    }
}

void test_corpus_changed(const char *folder, uint64_t rounds) {
    struct seed *changed = calloc(1, sizeof(*changed));
    uint64_t random = test_seed();
    size_t n;
    struct seed *seeds = read_corpus(folder, &n);
    CHECK(changed && n);
    for (uint64_t i = 0; i < rounds; i++) {
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
