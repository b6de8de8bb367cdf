/* SPDX-License-Identifier: Apache-2.0 */
/* Faults: what patinox/fault_inl.h compiles into programs never moves while the library has this soname. */
#include "harness/harness.h"

#include <patinox/fault.h>

#include <stddef.h>

TEST(layouts_that_programs_have_compiled_in_are_what_they_were) {
    CHECK_EQ(sizeof(struct pnx_fault_head), 64);
    CHECK_EQ(offsetof(struct pnx_fault_head, poison), 0);
    CHECK_EQ(offsetof(struct pnx_fault_head, gate), 8);
    CHECK_EQ(offsetof(struct pnx_fault_head, domain), 16);
    CHECK_EQ(offsetof(struct pnx_fault_head, section), 56);
    CHECK_EQ(sizeof(struct pnx_fault_scope), 24);
    CHECK_EQ(offsetof(struct pnx_fault_scope, head), 0);
    CHECK_EQ(offsetof(struct pnx_fault_scope, outer), 8);
    CHECK_EQ(offsetof(struct pnx_fault_scope, word), 16);
    CHECK_EQ(offsetof(struct pnx_fault_thread, scopes),
            sizeof(struct pnx_reclaim_thread) + 3 * sizeof(void *));
    CHECK_EQ(PNX_FAULT_CODE_BITS, 12);
    CHECK_EQ(PNX_FAULT_UNIT_BITS, 12);
}
