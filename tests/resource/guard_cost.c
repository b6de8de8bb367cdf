/* SPDX-License-Identifier: Apache-2.0 */
/*
 * guard_cost.c - what a guard costs more than the call that it makes: pairs of functions, one that calls directly
 * and one with a guard, whose instructions guard_cost.py counts with callgrind.  C and C++.
 */
#include "guard_cost.h"

#include <valgrind/callgrind.h>

/* A cleanup that the compiler knows by name. */

static int known_direct(pnx_cleanup_fn *fn, int *counter) {
    (void)fn;
    int rc = work(counter);
    end(counter, NULL);
    return rc;
}

static int known_guard(pnx_cleanup_fn *fn, int *counter) {
    (void)fn;
    PNX_AUTO_GUARD guard = {0};
    int rc = pnx_guard_arm(&guard, end, counter);
    return rc ? rc : work(counter);
}

/* Several ways out. */

static int exits_direct(pnx_cleanup_fn *fn, int *counter) {
    (void)fn;
    int rc = work(counter);
    if (rc == 0)
        rc = work(counter);
    end(counter, NULL);
    return rc;
}

static int exits_guard(pnx_cleanup_fn *fn, int *counter) {
    (void)fn;
    PNX_AUTO_GUARD guard = {0};
    int rc = pnx_guard_arm(&guard, end, counter);
    if (rc)
        return rc;
    rc = work(counter);
    if (rc)
        return rc;
    return work(counter);
}

/* A cleanup that comes as an argument. */

static int given_direct(pnx_cleanup_fn *fn, int *counter) {
    int rc = work(counter);
    fn(counter, NULL);
    return rc;
}

static int given_guard(pnx_cleanup_fn *fn, int *counter) {
    PNX_AUTO_GUARD guard = {0};
    int rc = pnx_guard_arm(&guard, fn, counter);
    return rc ? rc : work(counter);
}

/* Run early, for its status. */

static int status_direct(pnx_cleanup_fn *fn, int *counter) {
    (void)fn;
    int rc = work(counter);
    int ended = end(counter, NULL);
    return rc ? rc : ended;
}

static int status_guard(pnx_cleanup_fn *fn, int *counter) {
    (void)fn;
    PNX_AUTO_GUARD guard = {0};
    int rc = pnx_guard_arm(&guard, end, counter);
    if (rc == 0)
        rc = work(counter);
    int ended = pnx_guard_run(&guard);
    return rc ? rc : ended;
}

/* Dismissed: no call at all. */

static int kept_direct(pnx_cleanup_fn *fn, int *counter) {
    (void)fn;
    return work(counter);
}

static int kept_guard(pnx_cleanup_fn *fn, int *counter) {
    (void)fn;
    PNX_AUTO_GUARD guard = {0};
    int rc = pnx_guard_arm(&guard, end, counter);
    if (rc == 0)
        rc = work(counter);
    return pnx_guard_dismiss(&guard) == counter ? rc : -1;
}

/* PNX_DEFER. */

static int defer_direct(pnx_cleanup_fn *fn, int *counter) {
    (void)fn;
    int rc = work(counter);
    end_plain(counter);
    return rc;
}

static int defer_guard(pnx_cleanup_fn *fn, int *counter) {
    (void)fn;
    PNX_DEFER(end_plain, counter);
    return work(counter);
}

/* A guard that lives in an object, where other functions may have armed it: not in registers. */

static struct pnx_guard object;

static int object_direct(pnx_cleanup_fn *fn, int *counter) {
    return known_direct(fn, counter);
}

static int object_guard(pnx_cleanup_fn *fn, int *counter) {
    (void)fn;
    int rc = pnx_guard_arm(&object, end, counter);
    if (rc == 0)
        rc = work(counter);
    pnx_guard_drop(&object);
    return rc;
}

/* Counts what one shape costs, under its name. */
#define COUNT(shape) \
    do { \
        CALLGRIND_ZERO_STATS; \
        repeat(shape, &counter); \
        CALLGRIND_DUMP_STATS_AT(#shape); \
    } while (0)

int main(void) {
    int counter = 0;
    COUNT(known_direct);
    COUNT(known_guard);
    COUNT(exits_direct);
    COUNT(exits_guard);
    COUNT(given_direct);
    COUNT(given_guard);
    COUNT(status_direct);
    COUNT(status_guard);
    COUNT(kept_direct);
    COUNT(kept_guard);
    COUNT(defer_direct);
    COUNT(defer_guard);
    COUNT(object_direct);
    COUNT(object_guard);
    return counter == 4000 ? 0 : 1;
}
