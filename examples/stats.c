/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stats.c - a set of one's own, the numbers of an object in it as OpenMetrics text, and the health of all.
 */
#include <patinox/budget.h>
#include <patinox/stats.h>

#include <stdio.h>

/* Receives the text in pieces; a server would send them to whoever scrapes. */
static int print(void *ctx, const char *text, size_t n) {
    return fwrite(text, 1, n, ctx) == n ? 0 : -EIO;
}

int main(void) {
    /* Most programs use the default set, which needs no set-up: name no set, and pass NULL below. */
    struct pnx_error err;
    struct pnx_stats *stats = NULL;
    if (pnx_stats_create(PNX_STATS_OPTS(.env = NULL), &err, &stats) != 0) {
        fprintf(stderr, "%s\n", err.message);
        return 1;
    }

    /* Any long-lived object shows its numbers in the set that its options name. */
    struct pnx_budget *budget = NULL;
    int rc = pnx_budget_create(PNX_BUDGET_OPTS(.name = "images", .parent = pnx_budget_off(),
                                       .stats = stats, .hard = (size_t)64 << 20),
            &err, &budget);
    if (rc != 0) {
        fprintf(stderr, "%s\n", err.message);
        pnx_stats_release(&stats);
        return 1;
    }
    rc = pnx_budget_charge(budget, (size_t)1 << 20, 0);

    /* What /metrics would serve, with this Content-Type. */
    printf("Content-Type: %s\n\n", PNX_OPENMETRICS_CONTENT_TYPE);
    if (rc == 0)
        rc = pnx_stats_openmetrics(stats, print, stdout);

    /* What /health would serve: the worst status, and each component's. */
    struct pnx_health_entry entries[16];
    size_t n = 0;
    int worst = pnx_health(stats, entries, 16, &n);
    printf("\nhealth: %s\n", worst == PNX_HEALTH_OK ? "ok" : "look closer");
    for (size_t i = 0; i < n && i < 16; i++)
        printf("%s \"%s\": %s %s\n", entries[i].kind, entries[i].name,
                entries[i].status == PNX_HEALTH_OK         ? "ok"
                : entries[i].status == PNX_HEALTH_DEGRADED ? "degraded"
                                                           : "down",
                entries[i].reason);

    /* An object made with this shows nothing anywhere. */
    if (pnx_stats_off() == pnx_stats_default())
        rc = -EINVAL; /* they differ */

    pnx_budget_uncharge(budget, (size_t)1 << 20);
    pnx_budget_release(&budget);
    pnx_stats_release(&stats);
    return rc != 0 || worst != PNX_HEALTH_OK;
}
