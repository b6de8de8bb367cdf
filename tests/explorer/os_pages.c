/* SPDX-License-Identifier: Apache-2.0 */
/*
 * os_pages.c - os/pages.h, os/lost.h and os/sigbus.h for the explorer: pages are its memory, no signal ever comes (suites call
 * what would handle it), and what replaces pages is the suite's.
 */
#include "explorer/explorer.h"
#include "explorer/pages.h"
#include "os/lost.h"
#include "os/pages.h"
#include "os/sigbus.h"

#include <errno.h>

void *pnx__os_pages_map(size_t bytes) {
    return x_alloc(bytes);
}

void pnx__os_pages_unmap(void *pages, size_t bytes) {
    (void)bytes;
    x_free(pages);
}

x_zero_fn *x_zero;

int pnx__os_zero(uintptr_t from, size_t n, bool writable) {
    (void)writable;
    x_zero(from, n);
    return 0;
}

int pnx__os_populate(uintptr_t from, size_t n, bool for_writing) {
    (void)from;
    (void)n;
    (void)for_writing;
    return -EFAULT;
}

bool pnx__os_sigbus_possible(void) {
    return true;
}

int pnx__os_sigbus_install(pnx_os_sigbus_fn *fn) {
    (void)fn;
    return 0;
}

int pnx__os_sigbus_uninstall(void) {
    return 0;
}

int pnx__os_sigbus_check(void) {
    return 0;
}

bool pnx__os_sigbus_ask(pnx_os_sigbus_fn *fn, int signal, void *siginfo, void *ucontext) {
    (void)signal;
    (void)ucontext;
    return fn(siginfo) != PNX_OS_FOREIGN;
}
