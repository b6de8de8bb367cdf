/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sites.c - the rows of all atomic operations: weakening one, telling which were reached.
 *
 *   PNX_MUTATE=SITE:ORDER  runs with that site weakened; FAILURE_RELAXED takes the acquire from a failing
 *                          compare-and-swap only.
 *   PNX_X_REACHED=FILE     appends a line "SITE KIND" for each site that was reached.
 *   --sites                lists every row as "SITE FILE LINE ORDER", and ends.
 */
#include "explorer/engine.h"

#include <fcntl.h>
#include <unistd.h>

#define MAX_SITES 4096

extern struct pnx_atomic_site __start_pnx_sites[] __attribute__((weak));
extern struct pnx_atomic_site __stop_pnx_sites[] __attribute__((weak));

static const char *const kinds[] = {"", "load", "store", "rmw", "cas", "cas_acquire", "fence"};
static uint8_t reached[MAX_SITES]; /* a kind; with TOLD once it was written */
#define TOLD 0x80

static const struct {
    const char *name;
    int order;
} orders[] = {{"RELAXED", __ATOMIC_RELAXED}, {"ACQUIRE", __ATOMIC_ACQUIRE},
        {"RELEASE", __ATOMIC_RELEASE}, {"ACQ_REL", __ATOMIC_ACQ_REL},
        {"SEQ_CST", __ATOMIC_SEQ_CST}};
static int told = -1;            /* open from the start: a suite may forbid further files */
static const char *weak_failure; /* the site whose failing compare-and-swap is relaxed */

static size_t n_sites(void) {
    return (size_t)(__stop_pnx_sites - __start_pnx_sites);
}

static const char *order_name(int order) {
    for (size_t i = 0; i < sizeof(orders) / sizeof(orders[0]); i++) {
        if (orders[i].order == order)
            return orders[i].name;
    }
    return "?";
}

void x_reach(const struct pnx_atomic_site *site, enum x_site_kind kind) {
    size_t at = (size_t)(site - __start_pnx_sites);
    if (at < MAX_SITES && !reached[at])
        reached[at] = (uint8_t)kind;
}

bool x_weak_failure(const struct pnx_atomic_site *site) {
    return weak_failure && strcmp(site->name, weak_failure) == 0;
}

void x_tell_reached(void) {
    if (told < 0)
        return;
    for (size_t i = 0; i < n_sites() && i < MAX_SITES; i++) {
        if (!reached[i] || (reached[i] & TOLD))
            continue;
        char line[256];
        int n = snprintf(
                line, sizeof(line), "%s %s\n", __start_pnx_sites[i].name, kinds[reached[i]]);
        CHECK(write(told, line, (size_t)n) == n);
        reached[i] |= TOLD;
    }
}

static void mutate(const char *text) {
    static char name[128];
    const char *colon = strchr(text, ':');
    size_t n = colon ? (size_t)(colon - text) : 0;
    CHECK_MSG(n > 0 && n < sizeof(name), "PNX_MUTATE is SITE:ORDER, not %s", text);
    memcpy(name, text, n);
    int order = -1;
    for (size_t i = 0; i < sizeof(orders) / sizeof(orders[0]); i++) {
        if (strcmp(orders[i].name, colon + 1) == 0)
            order = orders[i].order;
    }
    if (strcmp(colon + 1, "FAILURE_RELAXED") == 0)
        weak_failure = name;
    else
        CHECK_MSG(order >= 0, "no such order: %s", colon + 1);
    bool found = false;
    for (struct pnx_atomic_site *site = __start_pnx_sites; site < __stop_pnx_sites; site++) {
        if (strcmp(site->name, name) != 0)
            continue;
        found = true;
        if (order >= 0)
            site->order = order; /* in each file that has the inline function */
    }
    CHECK_MSG(found, "no such site: %s", name);
}

__attribute__((constructor)) static void start(int argc, char **argv) {
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--sites") != 0)
            continue;
        for (const struct pnx_atomic_site *site = __start_pnx_sites; site < __stop_pnx_sites;
                site++)
            printf("%s %s %d %s\n", site->name, site->file, site->line, order_name(site->declared));
        fflush(stdout);
        _exit(0);
    }
    const char *path = getenv("PNX_X_REACHED");
    if (path)
        told = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    const char *text = getenv("PNX_MUTATE");
    if (text)
        mutate(text);
}
