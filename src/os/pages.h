/* SPDX-License-Identifier: Apache-2.0 */
/* os/pages.h - memory by the page, for large tables: zeroed when it is first touched, on huge pages where it can be. */
#ifndef PNX_SRC_OS_PAGES_H
#define PNX_SRC_OS_PAGES_H

#include <stddef.h>

/*
 * Returns bytes of zeroed memory, aligned to 2 MiB from that size on, else to a page; NULL on failure ("mmap").  Asks
 * for huge pages ("madvise"); a system that refuses gives small ones.  A forked child has a copy.
 */
void *pnx__os_pages_map(size_t bytes);
/* Gives them back. */
void pnx__os_pages_unmap(void *pages, size_t bytes);

#endif
