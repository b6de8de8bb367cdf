/* SPDX-License-Identifier: Apache-2.0 */
/*
 * os/fault.h - making system calls fail on purpose, in test builds (PNX_FAULTS).
 *
 * Each wrapper of a fallible call in src/os begins with
 *     int injected = PNX_OS_FAULT("mmap");
 *     if (injected) return injected;
 * In release builds the macro is the constant 0.
 */
#ifndef PNX_SRC_OS_FAULT_H
#define PNX_SRC_OS_FAULT_H

#ifdef PNX_FAULTS
/* Decides whether this call fails: 0, or the negative errno to return.  Set by tests; any thread. */
typedef int pnx_os_fault_fn(const char *call);
void pnx__os_fault_set(pnx_os_fault_fn *fault);
int pnx__os_fault(const char *call);
#define PNX_OS_FAULT(call) pnx__os_fault(call)
#else
#define PNX_OS_FAULT(call) 0
#endif

#endif
