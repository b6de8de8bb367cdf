/* SPDX-License-Identifier: Apache-2.0 */
/*
 * budget.c - two users of memory under one limit: a cache that can shrink, and requests that cannot.
 *
 * The budget is a tree: "service" holds the hard limit, "cache" and "requests" charge below it.  When requests
 * need what the cache holds, the cache's reclaimer is asked and gives it back.
 */
#include <patinox/budget.h>

#include <inttypes.h>
#include <stdio.h>

#define MIB ((size_t)1024 * 1024)

/* What this example's cache would be: so many bytes, dropped on request. */
struct cache {
    struct pnx_budget *budget;
    size_t bytes;
};

/* Runs in whichever thread needs the memory, with no lock of the library held. */
static size_t shrink(void *ctx, size_t want) {
    struct cache *cache = ctx;
    size_t n = want < cache->bytes ? want : cache->bytes;
    cache->bytes -= n;
    pnx_budget_uncharge(cache->budget, n);
    printf("the cache was asked for %zu MiB and dropped %zu\n", want / MIB, n / MIB);
    return n;
}

static int print_usage(struct pnx_budget *budget) {
    struct pnx_budget_stats stats = {.size = sizeof(stats)};
    int rc = pnx_budget_read_stats(budget, &stats);
    if (rc == 0)
        printf("in use: %" PRIu64 " of %" PRIu64 " MiB, at most %" PRIu64 ", refused %" PRIu64 "\n",
                stats.used / MIB, stats.hard_limit / MIB, stats.peak / MIB, stats.refusals);
    return rc;
}

int main(void) {
    struct pnx_budget *service = NULL, *requests = NULL;
    struct pnx_reclaimer_handle *handle = NULL;
    struct cache cache = {.bytes = 0};
    struct pnx_error err;

    /* A budget without a parent option hangs below the process's own, which has no limit by default. */
    printf("the process's own, ");
    print_usage(pnx_budget_default());
    int rc = pnx_budget_create(
            PNX_BUDGET_OPTS(.name = "service", .soft = 56 * MIB, .hard = 64 * MIB), &err, &service);
    if (rc == 0)
        rc = pnx_budget_create(
                PNX_BUDGET_OPTS(.name = "cache", .parent = service), &err, &cache.budget);
    if (rc == 0)
        rc = pnx_budget_create(
                PNX_BUDGET_OPTS(.name = "requests", .parent = service), &err, &requests);
    if (rc) {
        fprintf(stderr, "%s: %s\n", pnx_errname(rc), err.message);
        goto out;
    }
    rc = pnx_budget_add_reclaimer(cache.budget,
            &(struct pnx_reclaimer){
                    .size = sizeof(struct pnx_reclaimer),
                    .name = "cache",
                    .reclaim = shrink,
                    .ctx = &cache,
                    .priority = 20,
            },
            &handle);
    if (rc)
        goto out;

    /* The cache fills what is free: it would rather not cache than make others shrink. */
    while (pnx_budget_charge(cache.budget, MIB, PNX_CHARGE_NO_RECLAIM) == 0)
        cache.bytes += MIB;
    printf("the cache holds %zu MiB\n", cache.bytes / MIB);

    /* A request needs 20 MiB: the hard limit is in the way, so the cache gives way. */
    rc = pnx_budget_charge(requests, 20 * MIB, 0);
    printf("a request for 20 MiB: %s\n", pnx_strerror(rc));
    print_usage(service);

    /* More than the whole limit can never fit, and costs the cache nothing. */
    int refused = pnx_budget_charge(requests, 65 * MIB, 0);
    printf("a request for 65 MiB: %s\n", pnx_strerror(refused));

    /* What must not fail is charged all the same, and shows up as overcommit. */
    if (pnx_budget_charge(requests, 2 * MIB, PNX_CHARGE_MUST) == 0)
        pnx_budget_uncharge(requests, 2 * MIB);

    pnx_budget_uncharge(requests, 20 * MIB);
    size_t fell = pnx_budget_reclaim(service, 10 * MIB); /* by hand: say, before a nightly job */
    printf("%zu MiB given back on request\n", fell / MIB);
    rc = pnx_budget_set_limits(service, 0, 128 * MIB); /* limits may change at any time */
    print_usage(service);

out:
    pnx_budget_remove_reclaimer(&handle); /* before what it works on goes */
    pnx_budget_uncharge(cache.budget, cache.bytes);
    pnx_budget_release(&requests);
    pnx_budget_release(&cache.budget);
    struct pnx_budget *again = pnx_budget_ref(service); /* references are counted */
    pnx_budget_release(&service);
    pnx_budget_release(&again);
    return rc != 0;
}
