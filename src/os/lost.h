/* SPDX-License-Identifier: Apache-2.0 */
/*
 * os/lost.h - pages of mapped files, which their file may have lost: copying, asking for them, replacing them.
 *
 * Where it says "in a handler", a function may be called by a signal handler, whatever that has interrupted.
 * The explorer links its own.
 */
#ifndef PNX_SRC_OS_LOST_H
#define PNX_SRC_OS_LOST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * Copies n bytes; false: an access has faulted, and the handler has called pnx__os_skip().  A width of 1, 2, 4 or 8 that
 * is aligned is one access, by pnx__os_copy_word().
 */
bool pnx__os_copy(void *dst, const void *src, size_t n);
bool pnx__os_copy_word(void *dst, const void *src, size_t width);

/*
 * In a handler: if the instruction at *pc belongs to one of the copies above, moves *pc to where that returns false,
 * and returns true.
 */
bool pnx__os_skip(uintptr_t *pc);

/* Copies by the system: 0, or -EFAULT where a load would fault, -ENOTSUP ("process_vm"). */
int pnx__os_copy_by_system(void *dst, const void *src, size_t n, bool dst_is_lossy);

/*
 * In a handler: asks for pages, for reading or for writing.  0 when they can be had; -EFAULT when touching them would
 * fault; -EINVAL where the kernel cannot be asked, before Linux 5.14 ("populate").
 */
int pnx__os_populate(uintptr_t from, size_t n, bool for_writing);

/* In a handler: replaces pages by zeros, which can be written if writable says so ("mmap_zero"). */
int pnx__os_zero(uintptr_t from, size_t n, bool writable);

#endif
