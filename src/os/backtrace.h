/* SPDX-License-Identifier: Apache-2.0 */
/*
 * os/backtrace.h - who called: return addresses of the calling thread, and where they lie.
 *
 * By the unwind tables of the code, so frame pointers are not needed.  Where the system has no unwinder (musl) there
 * are no frames.
 */
#ifndef PNX_SRC_OS_BACKTRACE_H
#define PNX_SRC_OS_BACKTRACE_H

#include <stddef.h>

/* Loads what the first backtrace would load (glibc opens libgcc_s then, which allocates).  No lock may be held. */
void pnx__backtrace_prepare(void);

/*
 * Fills up to max return addresses, innermost first, the callers of the function that calls this; returns how
 * many.  Some 100 ns a frame.  "backtrace" makes it find none.
 */
unsigned pnx__backtrace(void **ret_frames, unsigned max);

/* Writes "module+0x1a2b", or "0x7f..." for code that belongs to no module; cut to n bytes.  For addr2line -e module. */
void pnx__frame_text(const void *frame, char *buf, size_t n);

#endif
