/* SPDX-License-Identifier: Apache-2.0 */
/*
 * exits.h - functions with guards in them, each left in one way; what scripts/exits.py builds by each compiler.
 *
 *   frame.c    the functions, by the compiler and the flags in question, as C or as C++
 *   caller.cc  throws a C++ exception through one of them
 *   main.c     goes every way, each in a process of its own, and prints which ran the guards
 *   alone.c    what the library is there for, where it cannot be linked (musl)
 */
#ifndef PNX_TEST_EXITS_H
#define PNX_TEST_EXITS_H

#include <patinox/guard.h>

PNX_BEGIN_DECLS

/* How often each tool has run; in shared memory, so that a process that ended can still be asked. */
struct ran {
    int defer;
    int variable;
    int guard;
    int scope;
    int after; /* code that the exit should have skipped */
};

typedef void leave_fn(void *arg);

void frame_falls_through(struct ran *ran);
void frame_returns(struct ran *ran);
void frame_breaks(struct ran *ran);
void frame_continues(struct ran *ran);
void frame_goes_to(struct ran *ran);
void frame_calls(struct ran *ran, leave_fn *leave, void *arg); /* leave ends it */

/* Has frame_calls() left by an exception, and catches it. */
void throw_through(struct ran *ran);

PNX_END_DECLS
#endif
