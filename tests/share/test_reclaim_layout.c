/* SPDX-License-Identifier: Apache-2.0 */
/* reclaim: what patinox/reclaim_inl.h compiles into programs never moves while the library has this soname. */
#define PNX_RECLAIM_SITES /* as a program would */
#include "harness/harness.h"

#include <patinox/reclaim.h>

#include <stddef.h>
#include <string.h>

TEST(layouts_that_programs_have_compiled_in_are_what_they_were) {
    CHECK_EQ(sizeof(struct pnx_reclaim_section), 128);
    CHECK_EQ(offsetof(struct pnx_reclaim_section, word), 0);
    CHECK_EQ(offsetof(struct pnx_reclaim_section, awaited), 8);
    CHECK_EQ(offsetof(struct pnx_reclaim_section, site), 24);
    CHECK_EQ(offsetof(struct pnx_reclaim_thread, section), 0);
    CHECK_EQ(offsetof(struct pnx_reclaim_thread, sections), 128);
    CHECK_EQ(sizeof(struct pnx_reclaim_thread), 640);
    CHECK_EQ(offsetof(struct pnx_reclaim_head, index), 0);
    CHECK_EQ(PNX_RECLAIM_DOMAINS_MAX, 64);
    CHECK_EQ(PNX_RECLAIM_NEST_, 0x0fffff);
    CHECK_EQ(PNX_RECLAIM_FULL_, 0x100000);
    CHECK_EQ(PNX_RECLAIM_FENCE_, 0x200000);
    CHECK_EQ(PNX_RECLAIM_READY_, 0x400000);
    CHECK_EQ(PNX_RECLAIM_NUMBER_, 0x1000000);
    CHECK_EQ(sizeof(struct pnx_reclaim_node), 3 * sizeof(void *));
    CHECK_EQ(offsetof(struct pnx_reclaim_node, fn), sizeof(void *));
    CHECK_EQ(offsetof(struct pnx_reclaim_node, bytes), 2 * sizeof(void *));
}

TEST(a_program_that_asks_for_sites_notes_them) {
    pnx_reclaim_enter(NULL);
    const char *site = pnx__reclaim_section(NULL)->site.v;
    CHECK_CONTAINS(site, "test_reclaim_layout.c:");
    pnx_reclaim_enter(NULL);
    CHECK(pnx__reclaim_section(NULL)->site.v == site); /* where the outermost one began */
    pnx_reclaim_exit(NULL);
    pnx_reclaim_exit(NULL);
}
