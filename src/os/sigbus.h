/* SPDX-License-Identifier: Apache-2.0 */
/*
 * os/sigbus.h - the process's handler for SIGBUS: installed, chained, taken away.  What is ours is decided by a function
 * that the caller gives.
 *
 *   P1  The handler takes no lock, allocates nothing, touches no thread-local variable of its own, keeps errno.
 *   P2  What is not ours goes to the handler that was there when ours was installed, as the system would have called
 *       it.  Where there was none, the default is restored and the handler returns, so that the fault happens again; a
 *       signal that nothing would repeat is sent to the thread once more, with its siginfo.
 *   P3  When the handlers pass a signal round in a circle, it gets to the oldest one in the end.
 *
 * On a platform without such a handler install says -ENOTSUP.  The explorer links its own.
 */
#ifndef PNX_SRC_OS_SIGBUS_H
#define PNX_SRC_OS_SIGBUS_H

#include <stdbool.h>
#include <stdint.h>

/* A fault, as the machine tells of it. */
struct pnx_os_fault {
    uintptr_t address;
    bool writes; /* a store; false also where that is not known */
    bool copies; /* by an instruction that pnx__os_skip() knows */
};

enum pnx_os_answer {
    PNX_OS_FOREIGN, /* not ours */
    PNX_OS_REPEAT,  /* the access can be repeated now */
    PNX_OS_SKIP,    /* ... is to be skipped; only where it copies */
};
typedef enum pnx_os_answer pnx_os_sigbus_fn(const struct pnx_os_fault *fault);

/* Whether there is a handler for this platform. */
bool pnx__os_sigbus_possible(void);

/* Called by nobody else at the same time: install, uninstall, check. */

/*
 * Puts the handler on top; which one was there is remembered, where it is not ours.  -ENOTSUP; -ENOSPC when there have
 * been too many different ones; what sigaction says ("sigaction").
 */
int pnx__os_sigbus_install(pnx_os_sigbus_fn *fn);
/* Puts back what was there first.  -EBUSY when ours is not on top; 0 also when it is not installed. */
int pnx__os_sigbus_uninstall(void);
/* 0: ours is on top; -EBUSY: another one is; -EAGAIN: ours is not installed. */
int pnx__os_sigbus_check(void);

/* Asks fn about a signal, and does what it answers; false: not ours.  Async-signal-safe. */
bool pnx__os_sigbus_ask(pnx_os_sigbus_fn *fn, int signal, void *siginfo, void *ucontext);

#endif
