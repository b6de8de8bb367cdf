/* SPDX-License-Identifier: Apache-2.0 */
/*
 * patinox/leaks.h - making a leak fail a run: a look at the process's registry when the process ends.
 *
 *     PATINOX_LEAKS=fail PATINOX_SUPPRESS='pool@vendor.c:12,cache@*' ./tests
 *
 * A leak is a row of the process's registry that is live when the process ends; or, when the
 * program has called pnx_shutdown(), one that its report calls leaked or abandoned.  Rows that a forked child has from
 * its parent are not the child's.
 *
 *   P1  Nothing is printed, and no exit status changed, unless the program or PATINOX_LEAKS asks for it.
 *   P2  A suppressed row is still listed and counted, as such: it only does not make the process fail.
 */
#ifndef PNX_LEAKS_H
#define PNX_LEAKS_H

#include <patinox/base.h>
#include <patinox/registry.h>

PNX_BEGIN_DECLS

enum pnx_leaks_mode {
    PNX_LEAKS_OFF = 0, /* nothing; takes an earlier wish back */
    PNX_LEAKS_REPORT,  /* writes the leaks, in groups, to the standard error */
    PNX_LEAKS_FAIL, /* the same, and ends the process with the status PNX_LEAKS_STATUS if there are any */
};

#define PNX_LEAKS_STATUS 86 /* exit status of a process that leaked */

/*
 * Says what shall happen when the process ends by exit() or by returning from main().  Handlers of atexit() that were
 * registered before the first such call (or the first use of the process's registry, with PATINOX_LEAKS) run after
 * the look, and not at all when it fails the process; standard output is flushed before.  PATINOX_LEAKS=report|fail|off
 * says so when the process's registry is used first; a later call overrides it.  Any thread.
 * 0, -EINVAL for another mode, -ENOMEM when the handler could not be registered.
 */
PNX_API PNX_NODISCARD int pnx_leaks_at_exit(enum pnx_leaks_mode mode);

#define PNX_SUPPRESSIONS_MAX 64 /* for each registry */

/*
 * Declares rows to be known leaks: those of that type (NULL: any) that were made at that site (NULL: any).  A '*'
 * at the end stands for any rest.  Both are copied.  Suppressed rows have the outcome PNX_RESOURCE_SUPPRESSED in
 * reports of a shutdown, and are marked in reports of what is live.  PATINOX_SUPPRESS, a list of TYPE@SITE with commas
 * between, does so for the process's registry.  Any thread.
 * -EINVAL when both are NULL, -EBUSY when PNX_SUPPRESSIONS_MAX are there, -ENOMEM.
 */
PNX_API PNX_NODISCARD int pnx_registry_suppress(
        struct pnx_registry *registry, const char *type, const char *site);

PNX_END_DECLS
#endif /* PNX_LEAKS_H */
