/* SPDX-License-Identifier: Apache-2.0 */
/* A cache whose keys and values have fixed sizes: from product numbers to prices, by typed forms, many at once, and a walk. */
#include <patinox/cache.h>

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

struct price {
    int64_t cents;
    uint32_t currency; /* ISO 4217 */
    uint32_t flags;
};

PNX_CACHE_DEFINE(prices, uint64_t, struct price)

/* Key and value are copies, which need not be aligned as their types are. */
static int print_price(void *ctx, const void *key, const void *value) {
    uint64_t number;
    struct price price;
    (void)ctx;
    memcpy(&number, key, sizeof(number));
    memcpy(&price, value, sizeof(price));
    printf("  %" PRIu64 ": %" PRId64 " cents\n", number, price.cents);
    return 0; /* anything else would end the walk */
}

int main(void) {
    struct pnx_cache *cache = NULL;
    struct pnx_error err;
    int rc = prices_create(
            PNX_CACHE_OPTS(.name = "prices", .capacity_entries = 100000, .ttl = 60 * PNX_SEC), &err,
            &cache);
    if (rc) {
        fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    for (uint64_t number = 1; rc == 0 && number <= 4; number++)
        rc = prices_put(cache, number, (struct price){.cents = 100 * (int64_t)number}, 0);
    if (rc == 0 && prices_put_if_absent(cache, 4, (struct price){.cents = 1}, 0) != -EEXIST)
        rc = 1;

    const uint64_t asked[3] = {2, 4, 6};
    struct price found[3];
    uint64_t mask = 0;
    int n = prices_get_many(cache, asked, 3, found, &mask);
    printf("%d of 3 found; the second costs %" PRId64 " cents\n", n, n == 2 ? found[1].cents : 0);

    struct price price;
    if (prices_remove(cache, 4) != 0 || prices_get(cache, 4, &price) != -ENOENT)
        rc = 1;
    printf("each counts %zu bytes; there are left:\n",
            pnx_cache_cost_fixed(sizeof(uint64_t), sizeof(struct price)));
    if (rc == 0)
        rc = pnx_cache_each_copy(cache, print_price, NULL);
    pnx_cache_release(&cache);
    return rc != 0 || n != 2;
}
