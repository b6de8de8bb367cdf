/* SPDX-License-Identifier: Apache-2.0 */
/* Scopes and faults in one thread: what they return, and what is left of the mapping. */
#include "fault_case.h"

#include <pthread.h>
#include <signal.h>

TEST(p1_a_load_behind_the_end_ends_the_scope_with_an_error_and_reads_zero) {
    struct pnx_mapping *mapping = map_pages("a", 8);
    struct pnx_fault_scope scope;
    CHECK_EQ(pnx_fault_begin(mapping, &scope), 0);
    CHECK_EQ(peek(mapping, 5 * PAGE + 7), byte_at(5 * PAGE + 7));
    CHECK_EQ(pnx_fault_end(&scope), 0);
    CHECK_EQ(pnx_fault_state(mapping, NULL), 0);
    CHECK_EQ(pnx_fault_begin(mapping, &scope), 0);
    cut("a", 3 * PAGE + 100);
    errno = 4711;
    CHECK_EQ(peek(mapping, 5 * PAGE + 7), 0);
    CHECK_EQ(errno, 4711);
    CHECK_EQ(peek(mapping, 7 * PAGE), 0);
    CHECK_EQ(peek(mapping, 3 * PAGE + 50), byte_at(3 * PAGE + 50));
    CHECK_EQ(pnx_fault_end(&scope), -ESTALE);
    uint64_t lost = 0;
    CHECK_EQ(pnx_fault_state(mapping, &lost), -ESTALE);
    CHECK_EQ(lost, 5 * PAGE);
    struct pnx_fault_stats stats = fault_stats();
    CHECK_EQ(stats.truncated, 1); /* one signal for all the pages behind */
    CHECK_EQ(stats.foreign + stats.outside + stats.helpless + stats.io_errors, 0);
    CHECK_EQ(stats.mappings, 1);
    pnx_mapping_release(&mapping);
    CHECK_EQ(fault_stats().mappings, 0);
}
