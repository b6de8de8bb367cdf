/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mapping/fault_mode.c - who handles faults in this process; the numbers of fault handling.
 *
 *     UNDECIDED --first scope, install(SIGNAL)--> SIGNAL ---+
 *         |-------install(FOREIGN)--------------> FOREIGN --+--uninstall--> UNDECIDED
 *         +-------install(REFUSED)--------------> REFUSED --+
 *
 * decide() and install() lead on, uninstall() leads back.  pnx__fault_gate is 0 in SIGNAL and FOREIGN, but 1 while
 * uninstall waits for the last scopes.
 */
#include "base/env.h"
#include "mapping/fault.h"

#include <errno.h>
#include <string.h>

#define UNDECIDED 0

/* Guarded by the lock. */
static int mode = UNDECIDED; /* or enum pnx_fault_mode */
static bool leaving;         /* an uninstall waits */

static struct pnx_stats_block block;
static struct pnx_fault_values values;

/* ---- the mode ---- */

static void set_gate(bool open) {
    /* Relaxed: the handler was installed by a system call before; and see fault_table.c for who takes it away. */
    pnx_store(&pnx__fault_gate, !open, PNX_RELAXED, "fault.set_gate");
}

/* Enters a mode from the undecided state, or again. */
static int enter_locked(int wanted) {
    int rc = 0;
    if (wanted == PNX_FAULT_SIGNAL)
        rc = pnx__os_sigbus_install(pnx__fault_hit);
    if (rc)
        return rc;
    mode = wanted;
    set_gate(wanted != PNX_FAULT_REFUSED);
    return 0;
}

int pnx__fault_decide(void) {
    pnx__fault_lock();
    int rc = 0;
    if (leaving)
        rc = -EBUSY;
    else if (mode == PNX_FAULT_REFUSED)
        rc = -ENOTSUP;
    else if (mode == UNDECIDED && enter_locked(PNX_FAULT_SIGNAL))
        rc = -ENOTSUP;
    pnx__fault_unlock();
    return rc;
}

int pnx_fault_install(enum pnx_fault_mode wanted) {
    if (wanted < PNX_FAULT_SIGNAL || wanted > PNX_FAULT_REFUSED)
        return -EINVAL;
    if (wanted != PNX_FAULT_REFUSED && !pnx__os_sigbus_possible())
        return -ENOTSUP;
    pnx__fault_lock();
    bool other = leaving || (mode != UNDECIDED && mode != (int)wanted);
    int rc = other ? -EBUSY : enter_locked((int)wanted);
    pnx__fault_unlock();
    return rc;
}

/* Lets no scope begin any more; false: another thread is at it. */
static bool begin_leaving(void) {
    pnx__fault_lock();
    bool first = !leaving;
    if (first) {
        leaving = true;
        set_gate(false);
    }
    pnx__fault_unlock();
    return first;
}

static int end_leaving(int rc) {
    pnx__fault_lock();
    if (rc == 0 && mode == PNX_FAULT_SIGNAL)
        rc = pnx__os_sigbus_uninstall();
    if (rc == 0)
        mode = UNDECIDED;
    leaving = false;
    set_gate(mode == PNX_FAULT_SIGNAL || mode == PNX_FAULT_FOREIGN);
    pnx__fault_unlock();
    return rc;
}

int pnx_fault_uninstall(pnx_ns timeout) {
    int rc = pnx__timeout(timeout, PNX_NEVER, NULL, &timeout);
    if (rc)
        return rc;
    if (!begin_leaving())
        return -EBUSY;
    struct pnx_reclaim *domain = pnx__fault_domain();
    if (domain) /* also runs what waits to be unmapped */
        rc = pnx_reclaim_barrier(domain, timeout);
    rc = end_leaving(rc);
    if (rc == 0 && pnx__fault_leave_domain(&domain) && domain)
        pnx_reclaim_release(&domain);
    return rc;
}

int pnx_fault_check(void) {
    pnx__fault_lock();
    int rc = mode == PNX_FAULT_SIGNAL    ? pnx__os_sigbus_check()
             : mode == PNX_FAULT_FOREIGN ? 0
             : mode == PNX_FAULT_REFUSED ? -ENOTSUP
                                         : -EAGAIN;
    pnx__fault_unlock();
    return rc;
}

bool pnx_fault_handle(int signal, void *siginfo, void *ucontext) {
    return pnx__os_sigbus_ask(pnx__fault_hit, signal, siginfo, ucontext);
}

/* ---- numbers ---- */

static void refresh(const struct pnx_stats_block *of) {
    (void)of;
    struct pnx_fault_values sum;
    pnx__fault_sum(&sum);
    sum.mappings.v = pnx__ranges();
    const struct pnx_a64 *from = (const struct pnx_a64 *)(const void *)&sum;
    struct pnx_a64 *to = (struct pnx_a64 *)(void *)&values;
    for (size_t n = 0; n < sizeof(sum) / sizeof(*from); n++)
        pnx_store(&to[n], from[n].v, PNX_RELAXED, "fault.stats"); /* numbers */
}

void pnx__fault_stats_start(void) {
    pnx__fault_stats_init(&block, "process", &values, NULL);
    block.refresh = refresh;
    pnx__stats_add(NULL, &block);
}

int pnx_fault_read_stats(struct pnx_fault_stats *ret_stats) {
    struct pnx_fault_stats stats;
    struct pnx_fault_values sum;
    if (!ret_stats || ret_stats->size < sizeof(size_t))
        return -EINVAL;
    pnx__fault_sum(&sum);
    sum.mappings.v = pnx__ranges();
    stats.size = ret_stats->size < sizeof(stats) ? ret_stats->size : sizeof(stats);
#define PNX_STAT(name, kind, unit, level, help) stats.name = sum.name.v;
#include <patinox/stats/fault.def>
#undef PNX_STAT
    memcpy(ret_stats, &stats, stats.size);
    return 0;
}
