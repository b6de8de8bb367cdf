/* SPDX-License-Identifier: Apache-2.0 */
/*
 * os/windows/thread.c - thread records in a slot of fiber-local storage, threads of the C runtime, FlushProcessWriteBuffers.
 *
 *   P1  A thread's record is found or made once, on first use, and given back at its exit, for another thread;
 *       its memory is never freed before the library is unloaded.
 *   P2  There is no fork: pnx__fork_generation() is 1.
 *
 * A program that switches fibers has one record for each of them, as if they were threads.
 */
#include "os/thread.h"

#include "base/atomic.h"
#include "os/fault.h"
#include "os/records.h"
#include "os/windows/windows.h"

#include <process.h>
#include <pthread.h>
#include <string.h>

static pthread_once_t once = PTHREAD_ONCE_INIT;
static struct pnx_a32 slot = {FLS_OUT_OF_INDEXES}; /* in which a record belongs to no thread */
static struct pnx_a32 freeing;                     /* the slot is: records stay whose they are */
struct pnx_a32 pnx__asymmetric;

static struct pnx_a32 generation = {1};
struct pnx_aptr pnx__fork_page = {&generation};

static DWORD slot_now(void) {
    return pnx_load(&slot, PNX_RELAXED, "thread.slot"); /* pthread_once published it */
}

struct pnx_thread *pnx_self_get_(void) {
    DWORD error = GetLastError(); /* which FlsGetValue() clears */
    struct pnx_thread *self = FlsGetValue(slot_now());
    SetLastError(error);
    return self;
}

/* As long as it runs, the slot still has the record. */
static void WINAPI drop_record(void *arg) {
    struct pnx_thread *record = arg;
    if (!record ||
            pnx_load(&freeing, PNX_RELAXED, "thread.freeing")) /* the caller's own, or none */
        return;
    pnx__record_end(record);
    FlsSetValue(slot_now(), NULL);
    pnx__record_give_back(record);
}

/* Wine has the function, which does nothing there: it orders nothing. */
static bool has_heavy_barrier(void) {
    HMODULE ntdll = GetModuleHandleW(L"ntdll.dll");
    bool wine = ntdll && GetProcAddress(ntdll, "wine_get_version");
    return !PNX_OS_FAULT("membarrier") && !wine;
}

static void make_slot(void) {
    DWORD made = PNX_OS_FAULT("fls") ? FLS_OUT_OF_INDEXES : FlsAlloc(drop_record);
    pnx_store(&slot, made, PNX_RELAXED, "thread.set_slot"); /* pthread_once publishes it */
}

static void free_slot(void) {
    /* Relaxed: it is for the calls that FlsFree() makes. */
    pnx_store(&freeing, 1, PNX_RELAXED, "thread.begin_freeing");
    DWORD old = pnx_exchange(&slot, FLS_OUT_OF_INDEXES, PNX_RELAXED, "thread.free_slot");
    if (old != FLS_OUT_OF_INDEXES)
        FlsFree(old);
    pnx_store(&freeing, 0, PNX_RELAXED, "thread.end_freeing");
}

static void start_up(void) {
    make_slot();
    /* Relaxed: whoever reads 1 need not see anything else. */
    pnx_store(&pnx__asymmetric, has_heavy_barrier(), PNX_RELAXED, "thread.set_asymmetric");
}

struct pnx_thread *pnx__thread(void) {
    struct pnx_thread *record = PNX_SELF;
    if (record)
        return record;
    pthread_once(&once, start_up);
    if (slot_now() == FLS_OUT_OF_INDEXES)
        return NULL;
    record = pnx__record_take();
    if (!record)
        return NULL;
    if (!FlsSetValue(slot_now(), record)) {
        pnx__record_give_back(record);
        return NULL;
    }
    return record;
}

void pnx__threads_forget(void) {
    struct pnx_thread *records = pnx__records_unlist();
    if (slot_now() != FLS_OUT_OF_INDEXES) {
        free_slot(); /* threads that end later must not find their records */
        make_slot();
    }
    pnx__records_free(records);
}

/*
 * Runs when the library is unloaded, or at the end of the process.  A slot that outlived the code would have later ends of
 * threads jump to where it was.  Records stay: at the end of a process other threads may still be using theirs.
 */
__attribute__((destructor(101))) static void unload(void) {
    free_slot();
}

struct pnx_os_thread {
    HANDLE handle;
    void (*run)(void *arg);
    void *arg;
    wchar_t name[16];
    struct pnx_a32 given_up; /* by its owner, or by the thread at its end: the second one frees */
};

/* Debuggers show it; the function came with Windows 10 1607. */
static void set_name(const wchar_t *name) {
    typedef HRESULT(WINAPI describe_fn)(HANDLE thread, const wchar_t *name);
    HMODULE kernel = GetModuleHandleW(L"kernel32.dll");
    FARPROC found = kernel ? GetProcAddress(kernel, "SetThreadDescription") : NULL;
    if (found)
        ((describe_fn *)(void (*)(void))found)(GetCurrentThread(), name);
}

static unsigned __stdcall thread_main(void *arg) {
    struct pnx_os_thread *thread = arg;
    set_name(thread->name);
    thread->run(thread->arg);
    /* Pairs with thread.detach, in both directions: the first one's uses happen before the free. */
    if (pnx_exchange(&thread->given_up, 1, PNX_ACQ_REL, "thread.end"))
        free(thread);
    return 0;
}

int pnx__thread_start(
        const char *name, void (*run)(void *arg), void *arg, struct pnx_os_thread **ret_thread) {
    struct pnx_os_thread *thread = calloc(1, sizeof(*thread));
    if (!thread)
        return -ENOMEM;
    thread->run = run;
    thread->arg = arg;
    for (size_t i = 0; i < sizeof(thread->name) / sizeof(thread->name[0]) - 1 && name[i]; i++)
        thread->name[i] = (unsigned char)name[i];
    int rc = PNX_OS_FAULT("pthread_create");
    if (rc == 0) {
        thread->handle = (HANDLE)_beginthreadex(NULL, 0, thread_main, thread, 0, NULL);
        rc = thread->handle ? 0 : -EAGAIN;
    }
    if (rc) {
        free(thread);
        return rc;
    }
    *ret_thread = thread;
    return 0;
}

void pnx__thread_join(struct pnx_os_thread **thread) {
    if (!*thread)
        return;
    WaitForSingleObject((*thread)->handle, INFINITE);
    CloseHandle((*thread)->handle);
    free(*thread);
    *thread = NULL;
}

void pnx__thread_detach(struct pnx_os_thread **thread) {
    struct pnx_os_thread *own = *thread;
    if (!own)
        return;
    *thread = NULL;
    CloseHandle(own->handle);
    if (pnx_exchange(&own->given_up, 1, PNX_ACQ_REL, "thread.detach")) /* pairs with thread.end */
        free(own);
}

uint32_t pnx__os_cpus(void) {
    DWORD_PTR process = 0, system = 0;
    uint32_t n = 0;
    if (!PNX_OS_FAULT("sched_getaffinity") &&
            GetProcessAffinityMask(GetCurrentProcess(), &process, &system))
        n = (uint32_t)__builtin_popcountll(process);
    if (n == 0)
        n = GetActiveProcessorCount(ALL_PROCESSOR_GROUPS); /* threads in several groups */
    return n > 0 ? n : 1;
}

int pnx__barrier_heavy(void) {
    if (!pnx__barrier_is_asymmetric()) {
        pnx_fence(PNX_SEQ_CST, "thread.heavy"); /* pairs with thread.light */
        return 0;
    }
    int injected = PNX_OS_FAULT("membarrier_use");
    if (injected)
        return injected;
    FlushProcessWriteBuffers();
    return 0;
}

bool pnx__barrier_is_asymmetric(void) {
    pthread_once(&once, start_up); /* publishes it */
    return pnx_load(&pnx__asymmetric, PNX_RELAXED, "thread.is_asymmetric") != 0;
}

uint32_t pnx__fork_generation_slow(void) {
    return pnx_load(&generation, PNX_RELAXED, "thread.generation"); /* it never changes */
}
