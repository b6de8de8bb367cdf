/* SPDX-License-Identifier: Apache-2.0 */
/*
 * os/windows/sigbus.c - see os/sigbus.h: a vectored exception handler, which the system calls before any other, and beside
 * those of others.
 *
 *   P1  Ours are in-page errors, and access violations where the access is allowed: what Wine makes of a page that its file
 *       has lost, or a moment in which a view is replaced.
 *
 * Programs that look for a debugger's or a runtime's exceptions are called after ours, and only for what is not ours.
 */
#include "os/sigbus.h"

#include "base/atomic.h"
#include "os/fault.h"
#include "os/lost.h"
#include "os/windows/windows.h"

static struct pnx_aptr current; /* pnx_os_sigbus_fn; NULL: ours is not installed */
static void *installed;         /* what the system gave for it; the caller's lock guards it */

bool pnx__os_sigbus_possible(void) {
    return true;
}

/* What the first of an exception's numbers says. */
#define READS  0u
#define WRITES 1u

static bool allows(DWORD protection, bool writes) {
    DWORD writable =
            PAGE_READWRITE | PAGE_WRITECOPY | PAGE_EXECUTE_READWRITE | PAGE_EXECUTE_WRITECOPY;
    DWORD readable = writable | PAGE_READONLY | PAGE_EXECUTE_READ;
    return !(protection & PAGE_GUARD) && (protection & (writes ? writable : readable));
}

/* Whether nothing but a lost page, or one that is just being replaced, explains the fault. */
static bool may_be_ours(const EXCEPTION_RECORD *record) {
    if (record->NumberParameters < 2 || record->ExceptionInformation[0] > WRITES)
        return false;
    if (record->ExceptionCode == (DWORD)EXCEPTION_IN_PAGE_ERROR)
        return true;
    if (record->ExceptionCode != (DWORD)EXCEPTION_ACCESS_VIOLATION)
        return false;
    MEMORY_BASIC_INFORMATION area;
    if (!VirtualQuery((const void *)record->ExceptionInformation[1], &area, sizeof(area)))
        return false;
    bool writes = record->ExceptionInformation[0] == WRITES;
    return area.State == MEM_FREE || (area.State == MEM_COMMIT && allows(area.Protect, writes));
}

bool pnx__os_sigbus_ask(pnx_os_sigbus_fn *fn, int signal, void *siginfo, void *ucontext) {
    const EXCEPTION_RECORD *record = siginfo;
    CONTEXT *context = ucontext;
    (void)signal; /* the record has the exception's code */
    if (!record || !context || !may_be_ours(record))
        return false;
    DWORD error = GetLastError();
    uintptr_t pc = (uintptr_t)context->Rip;
    struct pnx_os_fault fault = {
            .address = (uintptr_t)record->ExceptionInformation[1],
            .writes = record->ExceptionInformation[0] == WRITES,
            .copies = pnx__os_skip(&pc),
    };
    enum pnx_os_answer answer = fn(&fault);
    if (answer == PNX_OS_SKIP && fault.copies)
        context->Rip = pc;
    SetLastError(error);
    return answer != PNX_OS_FOREIGN;
}

static LONG CALLBACK handler(EXCEPTION_POINTERS *exception) {
    /* Acquire: pairs with sigbus.install; what the function needs is there. */
    void *fn = pnx_load(&current, PNX_ACQUIRE, "sigbus.current");
    bool ours = fn && pnx__os_sigbus_ask((pnx_os_sigbus_fn *)(uintptr_t)fn, 0,
                              exception->ExceptionRecord, exception->ContextRecord);
    return ours ? EXCEPTION_CONTINUE_EXECUTION : EXCEPTION_CONTINUE_SEARCH;
}

int pnx__os_sigbus_install(pnx_os_sigbus_fn *fn) {
    int injected = PNX_OS_FAULT("sigaction");
    if (injected)
        return injected;
    /* Release: pairs with sigbus.current. */
    pnx_store(&current, (void *)(uintptr_t)fn, PNX_RELEASE, "sigbus.install");
    void *before = installed;
    installed = AddVectoredExceptionHandler(1, handler); /* first: once more on top */
    if (before)
        RemoveVectoredExceptionHandler(before);
    if (installed)
        return 0;
    pnx_store(&current, NULL, PNX_RELAXED, "sigbus.refused"); /* nobody calls it */
    return -ENOMEM;
}

int pnx__os_sigbus_uninstall(void) {
    if (!installed)
        return 0;
    int injected = PNX_OS_FAULT("sigaction");
    if (injected)
        return injected;
    RemoveVectoredExceptionHandler(installed);
    installed = NULL;
    pnx_store(&current, NULL, PNX_RELAXED, "sigbus.uninstall"); /* no data goes with it */
    return 0;
}

/* Handlers that were added before ours do not tell; each of them passes on, or the program is theirs. */
int pnx__os_sigbus_check(void) {
    if (!installed)
        return -EAGAIN;
    return PNX_OS_FAULT("sigaction");
}
