/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fuzz_file.c - the reader of snapshots on whatever bytes: it loads them or refuses them, and a refused one changes nothing.
 *
 * The first byte of the input says what becomes of the rest.  Even: it is the file.  Odd: its checksums are made right first,
 * as far as heads and blocks can be found, so that what stands behind them is reached.  With its second bit set the cache
 * weighs what it loads, and differently from what the file says.
 */
#include "harness/corpus.h"
#include "harness/harness.h"

#include "cache/file.h"

extern unsigned fuzz_file_loaded;
unsigned fuzz_file_loaded; /* inputs that were, with an entry at least */
static int alive;
static bool weighed;

static uint64_t weigh(
        void *ctx, const void *key, size_t key_size, const void *value, size_t value_size) {
    (void)ctx;
    CHECK(value != NULL);
    return key_size > 0 ? ((const unsigned char *)key)[0] % 40 : value_size;
}

static void destroy(void *ctx, const struct pnx_cache_removed *removed) {
    (void)ctx;
    if (removed->value == &alive)
        alive--;
}

static int deserialize(void *ctx, const void *key, size_t key_size, const void *data, size_t size,
        void **ret_value, size_t *ret_value_size) {
    unsigned sum = 0;
    (void)ctx;
    for (size_t i = 0; i < key_size; i++)
        sum += ((const unsigned char *)key)[i];
    for (size_t i = 0; i < size; i++)
        sum += ((const unsigned char *)data)[i];
    if (sum % 5 == 1)
        return -ENOENT;
    alive++;
    *ret_value = &alive;
    *ret_value_size = sum % 3000;
    return 0;
}

/* Makes the checksums of what looks like a snapshot right. */
static void seal(unsigned char *data, size_t n) {
    struct pnx_cache_file_head head;
    uint64_t chain = 0;
    size_t at = sizeof(head);
    if (n < sizeof(head))
        return;
    memcpy(&head, data, sizeof(head));
    if (head.label_size > n - at || n - at - head.label_size < 8)
        return;
    at += head.label_size;
    uint64_t checksum = pnx__hash(head.id, data, at);
    memcpy(data + at, &checksum, 8);
    at += 8;
    for (uint32_t index = 0; n - at >= sizeof(struct pnx_cache_file_block); index++) {
        struct pnx_cache_file_block block;
        memcpy(&block, data + at, sizeof(block));
        size_t body = at + sizeof(block);
        bool end = block.magic == PNX_CACHE_FILE_END;
        if (end)
            block.checksum = chain;
        else if (block.bytes <= n - body)
            block.checksum = pnx__hash(head.id + index, data + body, (size_t)block.bytes);
        chain = pnx__cache_file_chain(chain, block.checksum);
        block.head_checksum = pnx__cache_file_check_head(&block, head.id, index);
        memcpy(data + at, &block, sizeof(block));
        if (end || block.bytes > n - body)
            return;
        at = body + (size_t)block.bytes;
    }
}

static void check_outcome(struct pnx_cache *cache, int rc, const struct pnx_error *err,
        const struct pnx_cache_file_report *report) {
    struct pnx_cache_stats stats = {.size = sizeof(stats)};
    CHECK_EQ(pnx_cache_check(cache, NULL), 0);
    CHECK_EQ(pnx_cache_read_stats(cache, &stats), 0);
    CHECK_EQ(stats.inserts, report->entries + 1);
    if (!weighed)
        CHECK_EQ(stats.removed_size, 0);
    CHECK(stats.weight <= stats.capacity_weight);
    fuzz_file_loaded += rc == 0 && report->entries > 0;
    if (rc == 0)
        return;
    CHECK(rc == PNX_E_FORMAT || rc == -ESTALE || rc == -ENOMEM);
    CHECK_EQ(err->code, rc);
    CHECK(err->message[0] != '\0');
    if (rc != -ENOMEM)
        CHECK_EQ(stats.inserts, 1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    test_fail_aborts();
    if (n == 0 || n > 1 << 20)
        return 0;
    struct pnx_cache *cache = NULL;
    struct pnx_error err = {0};
    struct pnx_cache_file_report report = {.size = sizeof(report)};
    const struct pnx_cache_file_opts opts = {
            .size = sizeof(opts), .label = "fuzz", .deserialize = deserialize};
    unsigned char *file = malloc(n); /* to the byte, for AddressSanitizer */
    memcpy(file, data + 1, n - 1);
    if (data[0] & 1)
        seal(file, n - 1);
    weighed = data[0] & 2;
    CHECK_EQ(pnx_cache_create(PNX_CACHE_OPTS(.capacity = 32768, .policy = "clock",
                                      .refresh_after = PNX_SEC, .registry = pnx_registry_off(),
                                      .stats = pnx_stats_off(), .budget = pnx_budget_off(),
                                      .destroy = destroy, .weigher = weighed ? weigh : NULL,
                                      .capacity_weight = weighed ? 100 : 0),
                     &err, &cache),
            0);
    CHECK_EQ(pnx_cache_put(cache, "here", 4, "before", 6, 0), 0);
    const struct pnx_cache_input input = {.name = "input", .fd = -1, .memory = file, .size = n - 1};
    int rc = pnx__cache_read_file(cache, &input, &opts, &err, &report);
    check_outcome(cache, rc, &err, &report);
    pnx_cache_release(&cache);
    CHECK_EQ(alive, 0);
    free(file);
    return 0;
}
