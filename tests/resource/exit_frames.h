/* SPDX-License-Identifier: Apache-2.0 */
/*
 * exit_frames.h - a C function with guards in it, built once plainly and once with -fexceptions, and the C++
 * helper that throws through it.
 */
#ifndef PNX_TEST_EXIT_FRAMES_H
#define PNX_TEST_EXIT_FRAMES_H

#ifdef __cplusplus
extern "C" {
#endif

/* Each lives in shared memory, so that a process that ends can still be asked. */
struct exit_counts {
    int defers;
    int guards;
    int scopes;
    int after; /* code behind the exit that was reached nevertheless */
};

/* Calls leave(arg) with a PNX_DEFER, a PNX_AUTO_GUARD and a PNX_AUTO_SCOPE in the frame. */
void frame_plain(struct exit_counts *counts, void (*leave)(void *arg), void *arg);
void frame_with_exceptions(struct exit_counts *counts, void (*leave)(void *arg), void *arg);

/* Calls frame with a function that throws, and catches what comes.  Returns 1 when the exception came. */
int throw_through(void (*frame)(struct exit_counts *counts, void (*leave)(void *arg), void *arg),
        struct exit_counts *counts);

#ifdef __cplusplus
}
#endif
#endif
