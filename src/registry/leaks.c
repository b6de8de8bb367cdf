/* SPDX-License-Identifier: Apache-2.0 */
/*
 * registry/leaks.c - what is left in the default registry when the process ends.
 *
 * After a shutdown what is there is what it calls leaked (still live) and abandoned (its cleanup still runs), so
 * one look serves both.
 *
 *   P1  The handler is registered once, and does what was wished last.
 */
#include "registry/leaks.h"
#include "os/leave.h"
#include "registry/query.h"
#include "registry/suppress.h"

#include <patinox/leaks.h>

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define UNSAID UINT32_MAX /* nobody has wished anything yet */

static struct pnx_a32 wished = {UNSAID}; /* enum pnx_leaks_mode */
static struct pnx_a32 installed;         /* bool */

struct sum {
    const struct pnx_registry *registry;
    uint64_t leaked;
    uint64_t suppressed;
};

static int count(void *ctx, const struct pnx_row *row, const struct pnx_resource_info *info) {
    struct sum *sum = ctx;
    if (!pnx__row_is_ours(row))
        return 0;
    if (pnx__suppressed(sum->registry, info->type, info->site))
        sum->suppressed++;
    else
        sum->leaked++;
    return 0;
}

static int write_out(void *ctx, const char *text, size_t n) {
    (void)ctx;
    pnx__complain(text, n);
    return 0;
}

static void look(void) {
    /* A wish, without data: no partner. */
    uint32_t mode = pnx_load(&wished, PNX_RELAXED, "leaks.mode");
    if (mode != PNX_LEAKS_REPORT && mode != PNX_LEAKS_FAIL)
        return;
    struct pnx_registry *registry = pnx_registry_default();
    struct sum sum = {.registry = registry};
    static const struct pnx_resource_filter all = {.size = sizeof(all)};
    (void)pnx__rows_walk(registry, &all, count, &sum);
    if (sum.leaked == 0)
        return;
    char line[128];
    int n = snprintf(line, sizeof(line),
            "patinox: %" PRIu64 " leaked when the process ended, %" PRIu64 " known before\n",
            sum.leaked, sum.suppressed);
    pnx__complain(line, (size_t)n);
    if (pnx_registry_report(registry, PNX_REPORT_TEXT, write_out, NULL) == -ENOMEM) {
        static const char none[] = "patinox: no memory for the report\n";
        pnx__complain(none, sizeof(none) - 1);
    }
    if (mode == PNX_LEAKS_FAIL)
        pnx__leave(PNX_LEAKS_STATUS);
}

static int install(void) {
    uint32_t none = 0;
    /* Decides who registers the handler; it carries nothing. */
    if (!pnx_cas(&installed, &none, 1, PNX_RELAXED, "leaks.install"))
        return 0;
    int rc = pnx__at_exit(look);
    if (rc)
        pnx_store(&installed, 0, PNX_RELAXED, "leaks.not_installed"); /* as above */
    return rc;
}

int pnx_leaks_at_exit(enum pnx_leaks_mode mode) {
    if ((int)mode < PNX_LEAKS_OFF || mode > PNX_LEAKS_FAIL)
        return -EINVAL;
    (void)pnx_registry_default(); /* the environment comes first */
    int rc = mode == PNX_LEAKS_OFF ? 0 : install();
    if (rc == 0)
        pnx_store(&wished, (uint32_t)mode, PNX_RELAXED, "leaks.wish"); /* see look() */
    return rc;
}

bool pnx__leaks_obey(const char *text) {
    uint32_t mode;
    if (strcmp(text, "off") == 0)
        return true;
    if (strcmp(text, "report") == 0)
        mode = PNX_LEAKS_REPORT;
    else if (strcmp(text, "fail") == 0)
        mode = PNX_LEAKS_FAIL;
    else
        return false;
    uint32_t unsaid = UNSAID;
    /* See look(). */
    return install() == 0 && (pnx_cas(&wished, &unsaid, mode, PNX_RELAXED, "leaks.obey"), true);
}
