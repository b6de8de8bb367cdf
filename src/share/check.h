/* SPDX-License-Identifier: Apache-2.0 */
/*
 * share/check.h - checks of our own invariants in debug builds.  Not assert(): that one goes with NDEBUG, which
 * optimised debug builds define.
 */
#ifndef PNX_SRC_SHARE_CHECK_H
#define PNX_SRC_SHARE_CHECK_H

#ifdef PNX_DEBUG
#include <stdio.h>
#include <stdlib.h>

/* A bug was found, here or in the caller: a debug build says where and aborts. */
#define PNX_DEBUG_CHECK(condition) \
    do { \
        if (!(condition)) { \
            fprintf(stderr, "patinox: %s:%d: %s does not hold\n", __FILE__, __LINE__, #condition); \
            abort(); \
        } \
    } while (0)
#else
#define PNX_DEBUG_CHECK(condition) \
    do { \
    } while (0)
#endif

#endif
