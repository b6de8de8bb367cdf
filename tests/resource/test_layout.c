/* SPDX-License-Identifier: Apache-2.0 */
/* What patinox/guard_inl.h compiles into programs, and what they lay out themselves, never moves under one soname. */
#include "harness/harness.h"

#include <patinox/guard.h>

TEST(layouts_that_programs_have_compiled_in_are_what_they_were) {
    CHECK_EQ(sizeof(struct pnx_guard), 4 * sizeof(void *) + sizeof(uint64_t));
    CHECK_EQ(offsetof(struct pnx_guard, fn), 0);
    CHECK_EQ(offsetof(struct pnx_guard, arg), sizeof(void *));
    CHECK_EQ(offsetof(struct pnx_guard, registry), 2 * sizeof(void *));
    CHECK_EQ(offsetof(struct pnx_guard, id), 3 * sizeof(void *));
    CHECK_EQ(offsetof(struct pnx_guard, executor), 3 * sizeof(void *) + sizeof(uint64_t));
    CHECK_EQ(sizeof(pnx_resource_id), 8);

    CHECK_EQ(PNX_SCOPE_INLINE, 8);
    CHECK_EQ(sizeof(struct pnx_scope_entry), 3 * sizeof(void *));
    CHECK_EQ(sizeof(struct pnx_scope), 5 * sizeof(void *) + 8 * 3 * sizeof(void *));
    CHECK_EQ(sizeof(pnx_scope_position), sizeof(size_t));
}

TEST(all_zero_is_an_empty_guard_and_an_empty_scope) {
    struct pnx_guard guard;
    struct pnx_scope scope;
    memset(&guard, 0, sizeof(guard));
    memset(&scope, 0, sizeof(scope));
    CHECK(!pnx_guard_armed(&guard));
    CHECK_EQ(pnx_guard_run(&guard), 0);
    CHECK(pnx_guard_dismiss(&guard) == NULL);
    CHECK(pnx_guard_resource(&guard) == NULL);
    CHECK_EQ(pnx_scope_end(&scope), 0);
}
