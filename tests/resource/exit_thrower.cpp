// SPDX-License-Identifier: Apache-2.0
// exit_thrower.cpp - a C++ exception through a C frame; see exit_frames.h.
#include "resource/exit_frames.h"

#include <patinox/guard.h>

static void throw_it(void *) {
    throw 42;
}

int throw_through(void (*frame)(struct exit_counts *counts, void (*leave)(void *arg), void *arg),
        struct exit_counts *counts) {
    try {
        frame(counts, throw_it, nullptr);
    } catch (int value) {
        return value == 42;
    }
    return 0;
}

// The inline helpers of the header work in C++ too.
static void count_up(void *arg) {
    ++*static_cast<int *>(arg);
}

extern "C" int defer_in_cpp();

int defer_in_cpp() {
    int n = 0;
    char letter = 'x', *text = &letter;
    {
        PNX_DEFER(count_up, &n);
        char *taken = PNX_TAKE(text);
        if (taken != &letter || text != nullptr)
            return -1;
    }
    pnx_resource resource = pnx_resource_init();
    pnx_registry_opts opts = pnx_registry_opts_init();
    return resource.size == sizeof(resource) && opts.size == sizeof(opts) ? n : -2;
}
