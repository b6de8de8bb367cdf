/* SPDX-License-Identifier: Apache-2.0 */
/*
 * P2 on real traces: the hit ratio of exact LRU is a fact about a trace, so ours must agree with the published ones.
 * The traces are not part of the project; without them the test is skipped.
 */
#include "cache/common.h"

#include <inttypes.h>
#include <unistd.h>

struct anchor {
    const char *file;
    const char *unpack;
    enum { LINES, WORDS32, WORDS64, RANGES } format;
    uint64_t entries;
    double percent; /* to two digits */
};

/* OLTP: BitFaster.Caching#132; the rest: libCacheSim on the same files. */
static const struct anchor anchors[] = {
        {"arc-OLTP.lis.zst", "zstd -dc", RANGES, 250, 16.47},
        {"arc-OLTP.lis.zst", "zstd -dc", RANGES, 500, 23.45},
        {"arc-OLTP.lis.zst", "zstd -dc", RANGES, 1000, 32.83},
        {"arc-OLTP.lis.zst", "zstd -dc", RANGES, 2000, 42.47},
        {"corda-trace_vaultservice.gz", "gzip -dc", WORDS64, 904, 33.33},
        {"cache2k-web07.trace.xz", "xz -dc", WORDS32, 1024, 50.56},
        {"cache2k-web12.trace.xz", "xz -dc", WORDS32, 2751, 75.67},
        {"lirs-loop.trace.gz", "gzip -dc", LINES, 505, 0.00},
        {"lirs-multi1.trace.gz", "gzip -dc", LINES, 260, 43.42},
        {"lirs-multi2.trace.gz", "gzip -dc", LINES, 1136, 48.02},
        {"lirs-zigzag.trace.gz", "gzip -dc", LINES, 400, 19.18},
        {"lirs-sprite.trace.gz", "gzip -dc", LINES, 707, 86.48},
        {"lirs-cpp.trace.gz", "gzip -dc", LINES, 244, 82.88},
};

struct replay {
    struct fixture *f;
    uint64_t requests;
    uint64_t hits;
};

static void request(struct replay *r, uint64_t key) {
    struct pnx_cache_ref ref = {0};
    r->requests++;
    if (pnx_cache_get(r->f->cache, &key, sizeof(key), &ref) == 0) {
        r->hits++;
        pnx_cache_ref_release(&ref);
        return;
    }
    CHECK_EQ(pnx_cache_put(r->f->cache, &key, sizeof(key), NULL, 0, 0), 0);
}

static void replay_lines(struct replay *r, FILE *in, bool ranges) {
    char line[256];
    while (fgets(line, sizeof(line), in)) {
        uint64_t start, count = 1;
        int n = ranges ? sscanf(line, "%" SCNu64 " %" SCNu64, &start, &count)
                       : sscanf(line, "%" SCNu64, &start);
        if (n != (ranges ? 2 : 1))
            continue; /* "*" in the LIRS traces */
        for (uint64_t i = 0; i < count; i++)
            request(r, start + i);
    }
}

static void replay_words(struct replay *r, FILE *in, size_t width) {
    unsigned char word[8];
    while (fread(word, width, 1, in) == 1) {
        uint64_t key = 0;
        for (size_t i = 0; i < width; i++)
            key = key << 8 | word[i];
        request(r, key);
    }
}

static void replay(const struct anchor *anchor, const char *folder) {
    char command[1024];
    struct fixture f;
    struct replay r = {.f = &f};
    snprintf(command, sizeof(command), "%s '%s/%s'", anchor->unpack, folder, anchor->file);
    FILE *in = popen(command, "r");
    CHECK(in);
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = anchor->entries));
    if (anchor->format == WORDS32 || anchor->format == WORDS64)
        replay_words(&r, in, anchor->format == WORDS32 ? 4 : 8);
    else
        replay_lines(&r, in, anchor->format == RANGES);
    CHECK_EQ(pclose(in), 0);
    CHECK(r.requests > 0);
    double percent = 100.0 * (double)r.hits / (double)r.requests;
    CHECK_MSG(percent - anchor->percent < 0.0051 && anchor->percent - percent < 0.0051,
            "%s at %llu: %.3f %% of %llu, expected %.2f", anchor->file,
            (unsigned long long)anchor->entries, percent, (unsigned long long)r.requests,
            anchor->percent);
    CHECK_EQ(stats_of(&f).hits, r.hits);
    fixture_close(&f);
}

TEST_LIMIT(p2_lru_hits_real_traces_as_published, 120) {
    char folder[512];
    snprintf(folder, sizeof(folder), "%s/../shared/traces", test_source_dir());
    if (access(folder, R_OK) != 0)
        test_skip("no traces: %s is not there", folder);
    size_t n = sizeof(anchors) / sizeof(anchors[0]);
    for (size_t i = 0; i < n; i++) {
        if (!test_slow() || i % 3 == 0)
            replay(&anchors[i], folder);
    }
}
