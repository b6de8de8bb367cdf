/* SPDX-License-Identifier: Apache-2.0 */
/* The cache through its public functions, one property at a time: P1..P5, P8, P9, limits, options, bad input. */
#include "cache/common.h"

#include <patinox/budget.h>

#include <unistd.h>

/* ---- finding ---- */

TEST(a_value_is_found_by_its_whole_key) {
    struct fixture f;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 100));
    put_text(&f, "key", "value", 0);
    put_text(&f, "key2", "other", 0);
    check_text(&f, "key", "value");
    check_text(&f, "key2", "other");
    check_absent(&f, "ke");
    check_absent(&f, "");
    fixture_close(&f);
}
