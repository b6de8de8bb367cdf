/* SPDX-License-Identifier: Apache-2.0 */
/*
 * monitor.c - hears what happens inside the library: here, a charge that a budget refuses.
 */
#include <patinox/budget.h>
#include <patinox/stats.h>

#include <stdio.h>

struct counts {
    int events;
    int refused;
};

/* Runs on the thread that caused the event, with no lock of the library held. */
static void on_event(void *ctx, const struct pnx_event *event) {
    struct counts *counts = ctx;
    counts->events++;
    counts->refused += event->type == PNX_EVENT_BUDGET_REFUSED;
    printf("%s: \"%s\" %s, value %lld\n", pnx_event_name(event->type), event->object,
            event->code ? pnx_errname(event->code) : "", (long long)event->value);
}

int main(void) {
    struct counts counts = {0};
    struct pnx_stats *stats = NULL;
    if (pnx_stats_create(NULL, NULL, &stats) != 0)
        return 1;

    struct pnx_monitor monitor = {.size = sizeof(monitor), .event = on_event, .ctx = &counts};
    uint32_t id = 0;
    int rc = pnx_monitor_add(stats, &monitor, &id);

    struct pnx_budget *budget = NULL;
    if (rc == 0)
        rc = pnx_budget_create(PNX_BUDGET_OPTS(.name = "small", .parent = pnx_budget_off(),
                                       .stats = stats, .hard = 4096),
                NULL, &budget);
    if (rc == 0 && pnx_budget_charge(budget, 1 << 20, 0) != -ENOMEM)
        rc = -EINVAL; /* a megabyte does not fit in a page */

    /* After this returns 0 the callback is not running and will not run: counts may go out of scope. */
    if (id != 0)
        rc = pnx_monitor_remove(stats, id) != 0 ? -EINVAL : rc;

    pnx_budget_release(&budget);
    pnx_stats_release(&stats);
    printf("%d events, %d of them refusals\n", counts.events, counts.refused);
    return rc != 0 || counts.refused != 1;
}
