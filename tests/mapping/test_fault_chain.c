/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The handler among other handlers: who gets what is not ours, what the process dies of when that is nobody, programs that
 * own SIGBUS, taking the handler away.
 */
#include "fault_case.h"

#include <elf.h>
#include <setjmp.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <ucontext.h>

/* What sanitizers have installed, or a runtime before us, is out of the way. */
static void start_from_default(void) {
    signal(SIGBUS, SIG_DFL);
}

/* A child that is killed leaves its directory in ours. */
static int end_of(void (*fn)(void *ctx)) {
    CHECK_EQ(setenv("TMPDIR", test_dir(), 1), 0);
    return test_child(fn, NULL);
}

static void use_scope(struct pnx_mapping *mapping, int expected) {
    struct pnx_fault_scope scope;
    CHECK_EQ(pnx_fault_begin(mapping, &scope), 0);
    (void)peek(mapping, PAGE);
    CHECK_EQ(pnx_fault_end(&scope), expected);
}

/* One fault of ours: everything is in place. */
static void fault_of_ours(const char *name) {
    struct pnx_mapping *mapping = map_pages(name, 2);
    use_scope(mapping, 0);
    cut(name, 0);
    use_scope(mapping, -ESTALE);
    pnx_mapping_release(&mapping);
}

/* ---- p7: nobody else is there ---- */

static void dies_of_foreign_page(void *ctx) {
    (void)ctx;
    start_from_default();
    fault_of_ours("ours");
    volatile unsigned char *page = foreign_page("theirs");
    (void)*page;
}

static void dies_inside_scope(void *ctx) {
    (void)ctx;
    start_from_default();
    struct pnx_mapping *mapping = map_pages("ours", 2);
    struct pnx_fault_scope scope;
    volatile unsigned char *page = foreign_page("theirs");
    CHECK_EQ(pnx_fault_begin(mapping, &scope), 0);
    (void)*page;
}

static void dies_outside_of_scopes(void *ctx) {
    (void)ctx;
    start_from_default();
    struct pnx_mapping *mapping = map_pages("ours", 2), *other = map_pages("other", 2);
    struct pnx_fault_scope scope;
    use_scope(mapping, 0);
    CHECK_EQ(pnx_fault_begin(other, &scope), 0); /* not on this one */
    cut("ours", 0);
    (void)peek(mapping, 0);
}

static void dies_of_sent_signal(void *ctx) {
    (void)ctx;
    start_from_default();
    fault_of_ours("ours");
    kill(getpid(), SIGBUS);
    for (;;)
        pause();
}

static void dies_though_ignored(void *ctx) {
    (void)ctx;
    signal(SIGBUS, SIG_IGN);
    fault_of_ours("ours");
    kill(getpid(), SIGBUS); /* is ignored, as before */
    fault_of_ours("again");
    (void)*foreign_page("theirs");
}

static void dies_blocked(void *ctx) {
    (void)ctx;
    sigset_t set;
    start_from_default();
    struct pnx_mapping *mapping = map_pages("ours", 2);
    struct pnx_fault_scope scope;
    sigemptyset(&set);
    sigaddset(&set, SIGBUS);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    CHECK_EQ(pnx_fault_begin(mapping, &scope), 0);
    cut("ours", 0);
    (void)peek(mapping, 0);
}

TEST(p7_what_is_not_ours_kills_with_the_right_signal) {
    CHECK_EQ(end_of(dies_of_foreign_page), -SIGBUS);
    CHECK_EQ(end_of(dies_inside_scope), -SIGBUS);
    CHECK_EQ(end_of(dies_outside_of_scopes), -SIGBUS);
    CHECK_EQ(end_of(dies_of_sent_signal), -SIGBUS);
    CHECK_EQ(end_of(dies_though_ignored), -SIGBUS);
    CHECK_EQ(end_of(dies_blocked), -SIGBUS); /* the header says so */
}

/* Reads the siginfo out of a core: false when there is none. */
static bool siginfo_of_core(const char *path, siginfo_t *ret_info) {
    Elf64_Ehdr head;
    Elf64_Phdr segment;
    bool found = false;
    FILE *core = fopen(path, "rb");
    if (!core)
        return false;
    CHECK_EQ(fread(&head, sizeof(head), 1, core), 1);
    for (unsigned i = 0; i < head.e_phnum && !found; i++) {
        CHECK_EQ(fseek(core, (long)(head.e_phoff + i * sizeof(segment)), SEEK_SET), 0);
        CHECK_EQ(fread(&segment, sizeof(segment), 1, core), 1);
        if (segment.p_type != PT_NOTE)
            continue;
        size_t n = segment.p_filesz;
        unsigned char *notes = malloc(n);
        CHECK(notes);
        CHECK_EQ(fseek(core, (long)segment.p_offset, SEEK_SET), 0);
        CHECK_EQ(fread(notes, 1, n, core), n);
        for (size_t at = 0; at + sizeof(Elf64_Nhdr) <= n && !found;) {
            Elf64_Nhdr note;
            memcpy(&note, notes + at, sizeof(note));
            size_t data = at + sizeof(note) + ((note.n_namesz + 3) & ~3u);
            if (note.n_type == NT_SIGINFO) {
                memcpy(ret_info, notes + data, sizeof(*ret_info));
                found = true;
            }
            at = data + ((note.n_descsz + 3) & ~3u);
        }
        free(notes);
    }
    fclose(core);
    return found;
}

TEST(p7_the_core_tells_of_the_fault_itself_and_not_of_a_signal_sent_after_it) {
    char pattern[64] = {0};
    FILE *file = fopen("/proc/sys/kernel/core_pattern", "r");
    if (file) {
        CHECK(fgets(pattern, sizeof(pattern), file));
        fclose(file);
    }
    if (strcmp(pattern, "core\n") != 0)
        test_skip("cores go elsewhere: %s", pattern);
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    test_skip("cores of sanitizers are too large");
#endif
    volatile unsigned char *page = foreign_page("theirs");
    const char *dir = test_dir();
    CHECK_EQ(setenv("TMPDIR", dir, 1), 0);
    pid_t pid = fork();
    if (pid == 0) {
        const struct rlimit all = {RLIM_INFINITY, RLIM_INFINITY};
        if (chdir(dir) || setrlimit(RLIMIT_CORE, &all))
            _exit(3);
        start_from_default();
        fault_of_ours("ours");
        (void)*page;
        _exit(4);
    }
    int status;
    CHECK_EQ(waitpid(pid, &status, 0), pid);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 3)
        test_skip("no core may be written");
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS);
    CHECK(WCOREDUMP(status));
    char path[256];
    siginfo_t info;
    bool found = siginfo_of_core(test_path("core"), &info);
    snprintf(path, sizeof(path), "%s/core.%d", test_dir(), (int)pid);
    CHECK(found || siginfo_of_core(path, &info));
    CHECK_EQ(info.si_signo, SIGBUS);
    CHECK_EQ(info.si_code, BUS_ADRERR);
    CHECK(info.si_addr == (void *)(uintptr_t)page);
}

/* ---- p7: somebody was there before ---- */

static volatile int old_calls, top_calls;
static volatile siginfo_t old_info; /* volatile: kill() is a leaf to the compiler */
static int old_context_given;
static bool old_blocked_usr1, old_blocked_bus;
static sigjmp_buf landing;
static struct sigaction saved_by_top;

static void old_handler(int sig, siginfo_t *info, void *context) {
    sigset_t now;
    CHECK_EQ(sig, SIGBUS);
    old_calls++;
    old_info = *info;
    old_context_given = context != NULL;
    pthread_sigmask(SIG_SETMASK, NULL, &now);
    old_blocked_usr1 = sigismember(&now, SIGUSR1);
    old_blocked_bus = sigismember(&now, SIGBUS);
    if (info->si_code > 0)
        siglongjmp(landing, 1);
}

static void old_plain(int sig) {
    CHECK_EQ(sig, SIGBUS);
    old_calls++;
    siglongjmp(landing, 1);
}

static void install(void (*fn)(int, siginfo_t *, void *), int flags, struct sigaction *ret_old) {
    struct sigaction action;
    memset(&action, 0, sizeof(action));
    action.sa_sigaction = fn;
    action.sa_flags = SA_SIGINFO | flags;
    sigaddset(&action.sa_mask, SIGUSR1);
    CHECK_EQ(sigaction(SIGBUS, &action, ret_old), 0);
}

/* Touches a page and expects that a handler jumps back. */
static void touch_and_jump(const volatile unsigned char *page) {
    if (sigsetjmp(landing, 1) == 0) {
        (void)*page;
        CHECK_MSG(false, "nobody has jumped");
    }
}

TEST(p7_an_earlier_handler_gets_what_is_not_ours_as_the_system_would_give_it) {
    install(old_handler, 0, NULL);
    volatile unsigned char *page = foreign_page("theirs");
    fault_of_ours("ours");
    CHECK_EQ(old_calls, 0);
    for (int i = 1; i <= 40; i++) { /* more often than there are entries for calls in progress */
        touch_and_jump(page);
        CHECK_EQ(old_calls, i);
        CHECK_EQ(old_info.si_code, BUS_ADRERR);
        CHECK(old_info.si_addr == (void *)(uintptr_t)page);
        CHECK(old_context_given && old_blocked_usr1 && old_blocked_bus);
    }
    sigset_t now;
    pthread_sigmask(SIG_SETMASK, NULL, &now);
    CHECK(!sigismember(&now, SIGUSR1) && !sigismember(&now, SIGBUS));
    CHECK_EQ(kill(getpid(), SIGBUS), 0); /* a signal that was sent: it returns */
    CHECK_EQ(old_calls, 41);
    CHECK_EQ(old_info.si_code, SI_USER);
    pthread_sigmask(SIG_SETMASK, NULL, &now);
    CHECK(!sigismember(&now, SIGUSR1) && !sigismember(&now, SIGBUS));
    fault_of_ours("again");
    CHECK_EQ(old_calls, 41);
    CHECK_EQ(fault_stats().foreign, 40); /* of faults */
    CHECK_EQ(fault_stats().truncated, 2);
}

TEST(p7_faults_in_our_pages_outside_of_scopes_are_passed_on_and_counted) {
    install(old_handler, SA_NODEFER, NULL);
    struct pnx_mapping *mapping = map_pages("ours", 2);
    use_scope(mapping, 0);
    cut("ours", 0);
    touch_and_jump(pnx_view_all(mapping).p);
    CHECK_EQ(old_calls, 1);
#ifndef __SANITIZE_THREAD__ /* whose own handler, which calls ours, blocks all signals */
    CHECK(!old_blocked_bus);
#endif
    CHECK_EQ(fault_stats().outside, 1);
    CHECK_EQ(pnx_fault_state(mapping, NULL), 0);
    use_scope(mapping, -ESTALE);
    pnx_mapping_release(&mapping);
}

TEST(p7_a_plain_handler_and_one_that_wants_one_call_only) {
    struct sigaction action;
    memset(&action, 0, sizeof(action));
    action.sa_handler = old_plain;
    action.sa_flags = SA_NODEFER;
    CHECK_EQ(sigaction(SIGBUS, &action, NULL), 0);
    fault_of_ours("ours");
    volatile unsigned char *page = foreign_page("theirs");
    touch_and_jump(page);
    touch_and_jump(page);
    CHECK_EQ(old_calls, 2);
    CHECK_EQ(pnx_fault_uninstall(PNX_NEVER), 0);
    touch_and_jump(page);
    CHECK_EQ(old_calls, 3);
}

static void called_once(void *ctx) {
    (void)ctx;
    install(old_handler, (int)SA_RESETHAND, NULL);
    fault_of_ours("ours");
    volatile unsigned char *page = foreign_page("theirs");
    touch_and_jump(page);
    fault_of_ours("again");
    (void)*page;
}

TEST(p7_a_handler_that_wants_one_call_only_gets_one) {
    CHECK_EQ(end_of(called_once), -SIGBUS);
}

/* What Rust's runtime does for a fault that is not its own: back to the default, and let it happen again. */
static void like_rust(int sig, siginfo_t *info, void *context) {
    (void)info;
    (void)context;
    signal(sig, SIG_DFL);
}

static void dies_like_rust(void *ctx) {
    (void)ctx;
    install(like_rust, SA_ONSTACK, NULL);
    fault_of_ours("ours");
    (void)*foreign_page("theirs");
}

TEST(p7_an_earlier_handler_that_restores_the_default_and_returns_ends_the_process) {
    CHECK_EQ(end_of(dies_like_rust), -SIGBUS);
}

/* ---- somebody comes after us ---- */

/* As libjsig and the Go runtime do: what is not theirs goes to whom they found, by the flags they found. */
static void passes_on(int sig, siginfo_t *info, void *context) {
    top_calls++;
    if (saved_by_top.sa_flags & SA_SIGINFO)
        saved_by_top.sa_sigaction(sig, info, context);
    else if (saved_by_top.sa_handler != SIG_DFL && saved_by_top.sa_handler != SIG_IGN)
        saved_by_top.sa_handler(sig);
    else
        signal(sig, SIG_DFL);
}

TEST(a_handler_that_comes_later_and_passes_on_gives_us_ours) {
    install(old_handler, 0, NULL);
    struct pnx_mapping *mapping = map_pages("ours", 2);
    CHECK_EQ(pnx_fault_check(), -EAGAIN);
    use_scope(mapping, 0);
    CHECK_EQ(pnx_fault_check(), 0);
    install(passes_on, SA_ONSTACK, &saved_by_top);
    CHECK_EQ(pnx_fault_check(), -EBUSY);
    CHECK_EQ(pnx_fault_uninstall(PNX_NEVER), -EBUSY);
    cut("ours", 0);
    use_scope(mapping, -ESTALE);
    CHECK_EQ(top_calls, 1);
    CHECK_EQ(old_calls, 0);
    volatile unsigned char *page = foreign_page("theirs");
    touch_and_jump(page);
    CHECK_EQ(top_calls, 2);
    CHECK_EQ(old_calls, 1);
    pnx_mapping_release(&mapping);
    /* Back on top: a fault of ours does not reach the other, a foreign one goes round once, to the oldest. */
    CHECK_EQ(pnx_fault_install(PNX_FAULT_SIGNAL), 0);
    CHECK_EQ(pnx_fault_check(), 0);
    fault_of_ours("again");
    CHECK_EQ(top_calls, 2);
    for (int i = 1; i <= 20; i++) {
        touch_and_jump(page);
        CHECK_EQ(top_calls, 2 + i);
        CHECK_EQ(old_calls, 1 + i);
    }
    fault_of_ours("more");
    CHECK_EQ(pnx_fault_uninstall(PNX_NEVER), -EBUSY); /* the other one may call us */
    fault_of_ours("still");
}

/* As passes_on(), with a frame of its own. */
static void passes_on_and_returns(int sig, siginfo_t *info, void *context) {
    volatile int before = top_calls;
    passes_on(sig, info, context);
    CHECK_EQ(top_calls, before + 1); /* so that the call above is no jump */
}

/* Handlers that do not return leave nothing behind by which a later signal could be taken for one that they were given. */
TEST(a_handler_that_comes_after_one_that_has_jumped_gives_us_ours_and_him_his) {
    install(old_handler, 0, NULL);
    volatile unsigned char *page = foreign_page("theirs");
    fault_of_ours("ours");
    for (int i = 1; i <= 20; i++) /* all entries for calls in progress are left behind */
        touch_and_jump(page);
    install(passes_on_and_returns, SA_ONSTACK, &saved_by_top);
    for (int i = 1; i <= 40; i++) {
        touch_and_jump(page);
        CHECK_EQ(top_calls, i);
        CHECK_EQ(old_calls, 20 + i);
    }
}

/* As the Java virtual machine and the Go runtime do: the thread goes on elsewhere. */
static volatile int fixed;

#if defined(__x86_64__) || defined(__aarch64__)
static void fixes_up(int sig, siginfo_t *info, void *context) {
    (void)info;
    CHECK_EQ(sig, SIGBUS);
    ucontext_t *interrupted = context;
#if defined(__x86_64__)
    greg_t *pc = &interrupted->uc_mcontext.gregs[REG_RIP];
    *pc += 3; /* the load below */
#else
    interrupted->uc_mcontext.pc += 4;
#endif
    fixed++;
}

static void touch_and_go_on(const volatile unsigned char *page) {
#if defined(__x86_64__)
    __asm__ __volatile__("movzbl (%%rax), %%eax" : "+a"(page) : : "memory");
#else
    register const volatile unsigned char *at __asm__("x0") = page;
    __asm__ __volatile__("ldrb w0, [x0]" : "+r"(at) : : "memory");
#endif
}

TEST(p7_an_earlier_handler_that_moves_the_program_counter_is_obeyed) {
    install(fixes_up, SA_ONSTACK, NULL);
    volatile unsigned char *page = foreign_page("theirs");
    struct pnx_mapping *mapping = map_pages("inside", 2);
    struct pnx_fault_scope scope;
    fault_of_ours("ours");
    CHECK_EQ(pnx_fault_begin(mapping, &scope), 0);
    for (int i = 1; i <= 40; i++) {
        touch_and_go_on(page);
        CHECK_EQ(fixed, i);
    }
    CHECK_EQ(pnx_fault_end(&scope), 0);
    install(passes_on, SA_ONSTACK, &saved_by_top);
    touch_and_go_on(page);
    CHECK_EQ(fixed, 41);
    CHECK_EQ(top_calls, 1);
    pnx_mapping_release(&mapping);
    fault_of_ours("again");
    CHECK_EQ(fixed, 41);
}
#endif

static void dies_in_circle(void *ctx) {
    (void)ctx;
    /* It was there first, is found by us, and comes again over us, now remembering us: each calls the other. */
    start_from_default();
    install(passes_on, SA_ONSTACK | SA_NODEFER, NULL);
    fault_of_ours("ours");
    install(passes_on, SA_ONSTACK | SA_NODEFER, &saved_by_top);
    fault_of_ours("again");
    CHECK_EQ(top_calls, 1);
    (void)*foreign_page("theirs");
}

TEST(handlers_that_remember_each_other_do_not_call_each_other_for_ever) {
    CHECK_EQ(end_of(dies_in_circle), -SIGBUS);
}

TEST(too_many_different_handlers_are_refused) {
    static void (*const fns[])(int, siginfo_t *, void *) = {old_handler, passes_on, like_rust};
    int rc = 0, n = 0;
    for (; n < 30 && rc == 0; n++) {
        install(fns[n % 3], 0, n % 3 == 1 ? &saved_by_top : NULL);
        rc = pnx_fault_install(PNX_FAULT_SIGNAL);
    }
    CHECK_EQ(rc, -ENOSPC);
    CHECK(n > 4);
}

/* ---- alternate stacks ---- */

static char *altstack;
static size_t altstack_size;
static bool ran_there;

static void sees_stack(int sig, siginfo_t *info, void *context) {
    uintptr_t at = (uintptr_t)__builtin_frame_address(
            0); /* a local may lie elsewhere under AddressSanitizer */
    ran_there = at >= (uintptr_t)altstack && at < (uintptr_t)altstack + altstack_size;
    (void)context;
    CHECK_EQ(sig, SIGBUS);
    if (info->si_code > 0)
        siglongjmp(landing, 1);
}

static void on_altstack(unsigned index, void *ctx) {
    (void)index;
    (void)ctx;
    altstack_size = (size_t)sysconf(_SC_SIGSTKSZ) + 16384;
    altstack = malloc(altstack_size);
    CHECK(altstack);
    const stack_t stack = {.ss_sp = altstack, .ss_size = altstack_size};
    CHECK_EQ(sigaltstack(&stack, NULL), 0);
    fault_of_ours("ours");
    volatile unsigned char *page = foreign_page("theirs");
    for (int i = 0; i < 5; i++) {
        ran_there = false;
        touch_and_jump(page);
        CHECK(ran_there);
    }
    fault_of_ours("again");
    const stack_t none = {.ss_flags = SS_DISABLE};
    CHECK_EQ(sigaltstack(&none, NULL), 0);
    free(altstack);
}

TEST(the_handler_runs_on_the_alternate_stack_where_there_is_one) {
    install(sees_stack, SA_ONSTACK, NULL);
    test_threads(1, on_altstack, NULL);
}

/* ---- programs that own SIGBUS ---- */

static volatile int asked, not_ours;

static void application(int sig, siginfo_t *info, void *context) {
    asked++;
    if (pnx_fault_handle(sig, info, context))
        return;
    not_ours++;
    siglongjmp(landing, 1);
}

TEST(a_program_that_owns_sigbus_asks_us) {
    CHECK_EQ(pnx_fault_install(PNX_FAULT_FOREIGN), 0);
    install(application, SA_ONSTACK, NULL);
    CHECK_EQ(pnx_fault_check(), 0);
    CHECK_EQ(pnx_fault_install(PNX_FAULT_REFUSED), -EBUSY);
    fault_of_ours("ours");
    CHECK_EQ(asked, 1);
    struct pnx_mapping *mapping = map_pages("copied", 2);
    unsigned char byte;
    cut("copied", 0);
    CHECK_EQ(pnx_fault_copy_out(mapping, 0, &byte, 1), -ESTALE);
    CHECK_EQ(asked, 2);
    CHECK_EQ(not_ours, 0);
    touch_and_jump(foreign_page("theirs"));
    CHECK_EQ(not_ours, 1);
    CHECK(!pnx_fault_handle(SIGBUS, NULL, NULL));
    CHECK(!pnx_fault_handle(SIGUSR1, &(siginfo_t){.si_code = BUS_ADRERR}, &(ucontext_t){0}));
    pnx_mapping_release(&mapping);
    struct sigaction found;
    CHECK_EQ(pnx_fault_uninstall(PNX_NEVER), 0);
    CHECK_EQ(sigaction(SIGBUS, NULL, &found), 0);
    CHECK(found.sa_sigaction == application);
}

/* ---- installing and taking away ---- */

TEST(the_handler_is_installed_by_the_first_scope_and_can_be_taken_away) {
    struct pnx_mapping *mapping = map_pages("ours", 2);
    struct pnx_fault_scope scope;
    struct sigaction found, before;
    CHECK_EQ(sigaction(SIGBUS, NULL, &before), 0);
    CHECK_EQ(pnx_fault_check(), -EAGAIN);
    for (int i = 0; i < 3; i++) {
        CHECK_EQ(pnx_fault_begin(mapping, &scope), 0);
        CHECK_EQ(sigaction(SIGBUS, NULL, &found), 0);
        CHECK(found.sa_sigaction != before.sa_sigaction);
        CHECK_EQ(found.sa_flags & (SA_SIGINFO | SA_ONSTACK | SA_NODEFER),
                SA_SIGINFO | SA_ONSTACK | SA_NODEFER);
        CHECK_EQ(pnx_fault_check(), 0);
        CHECK_EQ(pnx_fault_uninstall(PNX_NEVER), -EDEADLK);
        CHECK_EQ(pnx_fault_check(), 0);
        CHECK_EQ(pnx_fault_end(&scope), 0);
        CHECK_EQ(pnx_fault_uninstall(PNX_NEVER), 0);
        CHECK_EQ(sigaction(SIGBUS, NULL, &found), 0);
        CHECK(found.sa_sigaction == before.sa_sigaction);
        CHECK_EQ(pnx_fault_check(), -EAGAIN);
        CHECK_EQ(pnx_fault_uninstall(0), 0);
    }
    pnx_mapping_release(&mapping);
    CHECK_EQ(pnx_fault_uninstall(-5), -EINVAL);
    CHECK_EQ(pnx_fault_install((enum pnx_fault_mode)0), -EINVAL);
    CHECK_EQ(pnx_fault_install((enum pnx_fault_mode)4), -EINVAL);
    /* Nothing is left that would keep a plugin from being unloaded. */
    CHECK_EQ(pnx_fault_uninstall(PNX_NEVER), 0);
    CHECK_EQ(pnx_reclaim_unload(PNX_NEVER), 0);
}

struct held {
    struct pnx_mapping *mapping;
    pthread_barrier_t open, let_go;
};

static void *holds_scope(void *ctx) {
    struct held *held = ctx;
    struct pnx_fault_scope scope;
    CHECK_EQ(pnx_fault_begin(held->mapping, &scope), 0);
    pthread_barrier_wait(&held->open);
    pthread_barrier_wait(&held->let_go);
    CHECK_EQ(pnx_fault_end(&scope), 0);
    return NULL;
}

TEST(taking_the_handler_away_waits_for_open_scopes_and_lets_none_begin) {
    struct held held = {.mapping = map_pages("ours", 2)};
    pthread_t thread;
    pthread_barrier_init(&held.open, NULL, 2);
    pthread_barrier_init(&held.let_go, NULL, 2);
    CHECK_EQ(pthread_create(&thread, NULL, holds_scope, &held), 0);
    pthread_barrier_wait(&held.open);
    CHECK_EQ(pnx_fault_uninstall(20 * PNX_MS), -ETIMEDOUT);
    CHECK_EQ(pnx_fault_uninstall(0), -ETIMEDOUT);
    CHECK_EQ(pnx_fault_check(), 0);
    use_scope(held.mapping, 0);
    pthread_barrier_wait(&held.let_go);
    CHECK_EQ(pnx_fault_uninstall(PNX_NEVER), 0);
    CHECK_EQ(pthread_join(thread, NULL), 0);
    pnx_mapping_release(&held.mapping);
    pthread_barrier_destroy(&held.open);
    pthread_barrier_destroy(&held.let_go);
}

TEST(a_refused_sigaction_refuses_scopes) {
    if (!test_os_faults())
        test_skip("the system's calls cannot be made to fail");
    struct pnx_mapping *mapping = map_pages("ours", 2);
    struct pnx_fault_scope scope;
    test_os_fault("sigaction", 1, true, EPERM);
    CHECK_EQ(pnx_fault_install(PNX_FAULT_SIGNAL), -EPERM);
    CHECK_EQ(pnx_fault_begin(mapping, &scope), -ENOTSUP);
    test_os_fault_clear();
    use_scope(mapping, 0);
    test_os_fault("sigaction", 1, true, EPERM);
    CHECK_EQ(pnx_fault_check(), -EPERM);
    CHECK_EQ(pnx_fault_uninstall(PNX_NEVER), -EPERM);
    test_os_fault_clear();
    use_scope(mapping, 0);
    pnx_mapping_release(&mapping);
}
