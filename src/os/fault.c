/* SPDX-License-Identifier: Apache-2.0 */
/* os/fault.c - the injection point behind os/fault.h. */
#include "os/fault.h"

#ifdef PNX_FAULTS
#include "base/atomic.h"

static struct pnx_a64 current;

void pnx__os_fault_set(pnx_os_fault_fn *fault) {
    /* pairs with os_fault.load: the test's tables are ready before the function is visible */
    pnx_store(&current, (uint64_t)(uintptr_t)fault, PNX_RELEASE, "os_fault.set");
}

int pnx__os_fault(const char *call) {
    uintptr_t fault = (uintptr_t)pnx_load(
            &current, PNX_ACQUIRE, "os_fault.load"); /* pairs with os_fault.set */
    return fault ? ((pnx_os_fault_fn *)fault)(call) : 0;
}
#endif
