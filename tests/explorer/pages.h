/* SPDX-License-Identifier: Apache-2.0 */
/* pages.h - what a suite says of pages that are replaced. */
#ifndef PNX_TESTS_EXPLORER_PAGES_H
#define PNX_TESTS_EXPLORER_PAGES_H

#include <stddef.h>
#include <stdint.h>

/* Called where the system would map zeros over pages; setup sets it. */
typedef void x_zero_fn(uintptr_t from, size_t n);
extern x_zero_fn *x_zero;

#endif
