/* SPDX-License-Identifier: Apache-2.0 */
/* os/windows/futex.c - WaitOnAddress, whose time limit is in milliseconds and relative: it is rounded up. */
#include "os/futex.h"

#include "os/clock.h"
#include "os/fault.h"
#include "os/windows/windows.h"

#define MS_MAX (INFINITE - 1)

int pnx__futex_wait(const struct pnx_a32 *word, uint32_t expected, pnx_ns deadline) {
    DWORD ms = INFINITE;
    if (deadline != PNX_NEVER) {
        pnx_ns now = pnx__os_now(), left = deadline > now ? deadline - now : 0;
        pnx_ns whole = left / PNX_MS + (left % PNX_MS != 0);
        ms = whole < (pnx_ns)MS_MAX ? (DWORD)whole : MS_MAX;
    }
    int injected = PNX_OS_FAULT("futex_wait"); /* -EINTR: a spurious wake-up; -ETIMEDOUT */
    if (injected)
        return injected == -ETIMEDOUT ? injected : 0;
    if (WaitOnAddress((void *)(uintptr_t)&word->v, &expected, sizeof(expected), ms))
        return 0;
    /* The limit may be over a little early, by the system's clock. */
    return deadline != PNX_NEVER && pnx__os_now() >= deadline ? -ETIMEDOUT : 0;
}

#define ONE_BY_ONE 16u

void pnx__futex_wake(const struct pnx_a32 *word, uint32_t n) {
    void *address = (void *)(uintptr_t)&word->v;
    if (n > ONE_BY_ONE) { /* whoever need not be awake goes to sleep again */
        WakeByAddressAll(address);
        return;
    }
    for (uint32_t i = 0; i < n; i++)
        WakeByAddressSingle(address);
}
