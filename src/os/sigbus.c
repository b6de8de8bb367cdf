/* SPDX-License-Identifier: Apache-2.0 */
/*
 * os/sigbus.c - see os/sigbus.h.
 *
 * Earlier handlers are kept in a stack that only grows while ours is installed, so that a handler that is running can
 * read it.  Ours passes to the newest.  When that one passes back to ours (it was installed later, and remembers ours as its
 * own earlier one), ours passes to the next older one, and so on, which is the order in which they would have been called
 * had ours never been moved to the top.  That ours is called by somebody it has called is seen from the context, in which
 * ours leaves a mark as long as it passes on: the system makes a context without one for each delivery, so what was left
 * by a handler that never returned is never taken for a mark.
 */
#include "os/sigbus.h"

#include "base/atomic.h"
#include "os/fault.h"
#include "os/lost.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

/* ---- the machine ---- */

#if defined(__x86_64__)
#define HAVE_HANDLER 1
#define WRITE_FAULT  2 /* in the page fault's error code */

static uintptr_t pc_of(const ucontext_t *context) {
    return (uintptr_t)context->uc_mcontext.gregs[REG_RIP];
}
static void set_pc(ucontext_t *context, uintptr_t pc) {
    context->uc_mcontext.gregs[REG_RIP] = (greg_t)pc;
}
static bool writes(const ucontext_t *context) {
    return (context->uc_mcontext.gregs[REG_ERR] & WRITE_FAULT) != 0;
}

#elif defined(__aarch64__)
#define HAVE_HANDLER   1
#define SYNDROME       0x45535201u        /* magic of the record that has it */
#define SYNDROME_WRITE (UINT64_C(1) << 6) /* write, not read */

static uintptr_t pc_of(const ucontext_t *context) {
    return (uintptr_t)context->uc_mcontext.pc;
}
static void set_pc(ucontext_t *context, uintptr_t pc) {
    context->uc_mcontext.pc = pc;
}
/* The syndrome is one of the records that follow the registers. */
static bool writes(const ucontext_t *context) {
    const unsigned char *record = context->uc_mcontext.__reserved;
    const unsigned char *end = record + sizeof(context->uc_mcontext.__reserved);
    while (record + 16 <= end) {
        uint32_t head[2]; /* magic, size */
        uint64_t syndrome;
        memcpy(head, record, sizeof(head));
        memcpy(&syndrome, record + sizeof(head), sizeof(syndrome));
        if (head[0] == SYNDROME)
            return (syndrome & SYNDROME_WRITE) != 0;
        if (head[0] == 0 || head[1] < sizeof(head))
            break;
        record += head[1];
    }
    return false;
}

#else
#define HAVE_HANDLER 0
#endif

#if HAVE_HANDLER

bool pnx__os_sigbus_possible(void) {
    return true;
}

bool pnx__os_sigbus_ask(pnx_os_sigbus_fn *fn, int signal, void *siginfo, void *ucontext) {
    const siginfo_t *info = siginfo;
    /* An address that faulted: not a signal that was sent, nor memory that the hardware lost. */
    if (!info || !ucontext || signal != SIGBUS || info->si_code != BUS_ADRERR)
        return false;
    int saved = errno;
    uintptr_t pc = pc_of(ucontext);
    struct pnx_os_fault fault = {
            .address = (uintptr_t)info->si_addr,
            .writes = writes(ucontext),
            .copies = pnx__os_skip(&pc),
    };
    enum pnx_os_answer answer = fn(&fault);
    if (answer == PNX_OS_SKIP && fault.copies)
        set_pc(ucontext, pc);
    errno = saved;
    return answer != PNX_OS_FOREIGN;
}

/* ---- who was there before ---- */

#define EARLIER_MAX 8

static struct pnx_aptr current;               /* pnx_os_sigbus_fn; NULL: ours is not installed */
static struct sigaction earlier[EARLIER_MAX]; /* each written before n says that it is there */
static struct pnx_a32 n_earlier;
static struct pnx_a32 reset; /* a bit for each that asked to be called once */

/* A delivery that is being passed on; on the stack of the first of ours in it. */
struct passing {
    const struct passing *self; /* tells it from whatever else the context may point to */
    uint32_t depth;             /* how often the signal has come back to ours */
};

/*
 * The context's mark: uc_link, of which neither the system nor libc takes notice in a signal's context.  The system
 * writes NULL there when it delivers a signal.
 */
static struct passing *passing_of(const ucontext_t *context) {
    struct passing *there = context ? (struct passing *)(void *)context->uc_link : NULL;
    return there && there->self == there ? there : NULL;
}

static bool is_default(const struct sigaction *action) {
    return !(action->sa_flags & SA_SIGINFO) && action->sa_handler == SIG_DFL;
}

static bool is_ignored(const struct sigaction *action) {
    return !(action->sa_flags & SA_SIGINFO) && action->sa_handler == SIG_IGN;
}

/* The signal came from an instruction that will be repeated when the handler returns. */
static bool repeats(const siginfo_t *info) {
    return info->si_code > 0 && info->si_code != SI_KERNEL && info->si_code != BUS_MCEERR_AO;
}

/* Nobody wants the signal: lets the system do what it does by default. */
static void give_up(int signal, siginfo_t *info, const struct sigaction *action) {
    if (is_ignored(action) && !repeats(info))
        return;
    struct sigaction dfl;
    memset(&dfl, 0, sizeof(dfl));
    dfl.sa_handler = SIG_DFL;
    sigaction(signal, &dfl, NULL);
    if (repeats(info))
        return;
    /* Delivered when it is let in: at once where the handler's mask allows it, else when the handler returns. */
    syscall(SYS_rt_tgsigqueueinfo, getpid(), (pid_t)syscall(SYS_gettid), signal, info);
}

/* Calls an earlier handler as the system would have. */
static void call(const struct sigaction *action, uint32_t number, int signal, siginfo_t *info,
        void *context) {
    sigset_t blocked = action->sa_mask, before;
    if (!(action->sa_flags & SA_NODEFER))
        sigaddset(&blocked, signal);
    if ((unsigned)action->sa_flags & SA_RESETHAND) /* relaxed: the bit is all there is */
        pnx_fetch_or(&reset, 1u << number, PNX_RELAXED, "sigbus.reset");
    pthread_sigmask(SIG_BLOCK, &blocked, &before);
    if (action->sa_flags & SA_SIGINFO)
        action->sa_sigaction(signal, info, context);
    else
        action->sa_handler(signal);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

/* Passes the signal to the depth-th newest of the earlier handlers. */
static void pass_on(uint32_t depth, int signal, siginfo_t *info, void *context) {
    static const struct sigaction none; /* SIG_DFL */
    /* Acquire: pairs with sigbus.remember; the actions are there. */
    uint32_t n = pnx_load(&n_earlier, PNX_ACQUIRE, "sigbus.n");
    uint32_t number = depth < n ? n - 1 - depth : 0;
    const struct sigaction *action = depth < n ? &earlier[number] : &none;
    /* Relaxed: see call(). */
    if (pnx_load(&reset, PNX_RELAXED, "sigbus.was_reset") & 1u << number)
        action = &none;
    if (is_default(action) || is_ignored(action))
        give_up(signal, info, action);
    else
        call(action, number, signal, info, context);
}

static void handler(int signal, siginfo_t *info, void *context) {
    int saved = errno;
    /* Acquire: pairs with sigbus.install; what the function needs is there. */
    void *fn = pnx_load(&current, PNX_ACQUIRE, "sigbus.current");
    if (fn && pnx__os_sigbus_ask((pnx_os_sigbus_fn *)(uintptr_t)fn, signal, info, context))
        return;
    ucontext_t *delivery = context;
    struct passing *passing = passing_of(delivery), first = {.self = &first};
    if (passing) {
        pass_on(++passing->depth, signal, info, context);
        passing->depth--;
    } else if (delivery) {
        struct ucontext_t *before = delivery->uc_link;
        delivery->uc_link = (struct ucontext_t *)(void *)&first;
        pass_on(0, signal, info, context);
        delivery->uc_link = before;
    } else {
        pass_on(0, signal, info, context);
    }
    errno = saved;
}

static bool is_ours(const struct sigaction *action) {
    return (action->sa_flags & SA_SIGINFO) && action->sa_sigaction == handler;
}

static bool same(const struct sigaction *a, const struct sigaction *b) {
    return a->sa_flags == b->sa_flags && a->sa_sigaction == b->sa_sigaction;
}

/* Has what is found there called after ours from now on. */
static int remember(const struct sigaction *found) {
    uint32_t n = pnx_load(&n_earlier, PNX_RELAXED, "sigbus.n_before"); /* one at a time */
    if (n && same(&earlier[n - 1], found))
        return 0;
    if (n == EARLIER_MAX)
        return -ENOSPC;
    earlier[n] = *found;
    /* Release: pairs with sigbus.n. */
    pnx_store(&n_earlier, n + 1, PNX_RELEASE, "sigbus.remember");
    return 0;
}

static int action_now(struct sigaction *ret_action) {
    int injected = PNX_OS_FAULT("sigaction");
    if (injected)
        return injected;
    return sigaction(SIGBUS, NULL, ret_action) ? -errno : 0;
}

int pnx__os_sigbus_install(pnx_os_sigbus_fn *fn) {
    struct sigaction found, ours;
    int rc = action_now(&found);
    if (rc)
        return rc;
    bool there = is_ours(&found);
    if (!there)
        rc = remember(&found); /* before ours can be called */
    if (rc)
        return rc;
    /* Release: pairs with sigbus.current. */
    pnx_store(&current, (void *)(uintptr_t)fn, PNX_RELEASE, "sigbus.install");
    if (there)
        return 0;
    memset(&ours, 0, sizeof(ours));
    ours.sa_sigaction = handler;
    ours.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    sigemptyset(&ours.sa_mask);
    struct sigaction was;
    sigaction(SIGBUS, &ours, &was);            /* cannot fail: the first one did not */
    return is_ours(&was) ? 0 : remember(&was); /* somebody came between the two */
}

int pnx__os_sigbus_uninstall(void) {
    struct sigaction found;
    if (!pnx_load(&current, PNX_RELAXED, "sigbus.installed")) /* one at a time */
        return 0;
    int rc = action_now(&found);
    if (rc)
        return rc;
    /* Another one that has stood over ours, now or once, may still call it. */
    bool over = pnx_load(&n_earlier, PNX_RELAXED, "sigbus.n_over") > 1; /* one at a time */
    if (over || (!is_ours(&found) && !is_default(&found)))
        return -EBUSY;
    /* One that asked to be called once, and was, is not put back; and giving up may have removed ours already. */
    bool gone = (pnx_load(&reset, PNX_RELAXED, "sigbus.undo_reset") & 1u) != 0;
    if (is_ours(&found) && !gone) {
        sigaction(SIGBUS, &earlier[0], NULL);
    } else if (is_ours(&found)) {
        memset(&found, 0, sizeof(found));
        found.sa_handler = SIG_DFL;
        sigaction(SIGBUS, &found, NULL);
    }
    /* A handler of ours that still runs on another thread passes on to the default. Relaxed: no data goes with them. */
    pnx_store(&current, NULL, PNX_RELAXED, "sigbus.uninstall");
    pnx_store(&n_earlier, 0, PNX_RELAXED, "sigbus.forget");
    pnx_store(&reset, 0, PNX_RELAXED, "sigbus.forget_reset");
    return 0;
}

int pnx__os_sigbus_check(void) {
    struct sigaction found;
    if (!pnx_load(&current, PNX_RELAXED, "sigbus.is_installed")) /* one at a time */
        return -EAGAIN;
    int rc = action_now(&found);
    if (rc)
        return rc;
    return is_ours(&found) ? 0 : -EBUSY;
}

#else /* no handler on this machine */

bool pnx__os_sigbus_possible(void) {
    return false;
}

bool pnx__os_sigbus_ask(pnx_os_sigbus_fn *fn, int signal, void *siginfo, void *ucontext) {
    (void)fn;
    (void)signal;
    (void)siginfo;
    (void)ucontext;
    return false;
}

int pnx__os_sigbus_install(pnx_os_sigbus_fn *fn) {
    (void)fn;
    return -ENOTSUP;
}

int pnx__os_sigbus_uninstall(void) {
    return 0;
}

int pnx__os_sigbus_check(void) {
    return -EAGAIN;
}

#endif
