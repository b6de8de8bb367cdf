/* SPDX-License-Identifier: Apache-2.0 */
/* share/rc.h - rc for containers that take references while they hold a lock. */
#ifndef PNX_SRC_SHARE_RC_H
#define PNX_SRC_SHARE_RC_H

#include <patinox/rc.h>

/*
 * Takes a reference without ever calling out.  Returns whether this one drove the count out of its range: then
 * the caller calls pnx__rc_report() once it holds no lock.
 */
bool pnx__rc_ref_silent(const void *object);
void pnx__rc_report(const void *object);

#ifdef PNX_DEBUG
/* For tests: sets both counts of an object, to bring it near its limits. */
void pnx__rc_set_counts(const void *object, uint32_t strong, uint32_t weak);
/* For tests: pnx_rc_unref() as it works on a thread whose record could not be had. */
void pnx__rc_unref_without_record(const void *object);
#endif

#endif
