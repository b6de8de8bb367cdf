/* SPDX-License-Identifier: Apache-2.0 */
/*
 * main.c - see exits.h.  Prints a line for each exit, its name and what came of it:
 *
 *   runs         all guards ran, once each
 *   no           none did
 *   terminates   none did, and the process was aborted
 *   anything else is a fault, and the program ends with status 1
 */
#include "exits.h"

#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <threads.h>
#include <unistd.h>

#define STATUS 7 /* with which processes end that end on purpose */

/* ---- the end of a thread ---- */

static void in_thread(void *(*run)(void *ran), struct ran *ran, int cancel) {
    pthread_t thread;
    if (pthread_create(&thread, NULL, run, ran) || (cancel && pthread_cancel(thread)) ||
            pthread_join(thread, NULL))
        _exit(100);
}

static void leave_pthread_exit(void *arg) {
    pthread_exit(arg);
}

static void *run_pthread_exit(void *ran) {
    frame_calls(ran, leave_pthread_exit, NULL);
    return NULL;
}

static void exit_pthread(struct ran *ran) {
    in_thread(run_pthread_exit, ran, 0);
}

static void leave_wait(void *arg) {
    (void)arg;
    for (;;)
        pause(); /* the first point of the thread where it can be cancelled */
}

static void *run_wait(void *ran) {
    frame_calls(ran, leave_wait, NULL);
    return NULL;
}

static void exit_cancel(struct ran *ran) {
    in_thread(run_wait, ran, 1);
}

static void leave_thrd_exit(void *arg) {
    (void)arg;
    thrd_exit(0);
}

static int run_thrd_exit(void *ran) {
    frame_calls(ran, leave_thrd_exit, NULL);
    return 0;
}

static void exit_thrd(struct ran *ran) {
    thrd_t thread;
    if (thrd_create(&thread, run_thrd_exit, ran) != thrd_success ||
            thrd_join(thread, NULL) != thrd_success)
        _exit(100);
}

/* ---- jumps ---- */

static jmp_buf landing;
static sigjmp_buf signal_landing;

static void leave_longjmp(void *arg) {
    (void)arg;
    longjmp(landing, 1);
}

static void exit_longjmp(struct ran *ran) {
    if (setjmp(landing) == 0)
        frame_calls(ran, leave_longjmp, NULL);
}

static void leave_siglongjmp(void *arg) {
    (void)arg;
    siglongjmp(signal_landing, 1);
}

static void exit_siglongjmp(struct ran *ran) {
    if (sigsetjmp(signal_landing, 1) == 0)
        frame_calls(ran, leave_siglongjmp, NULL);
}

/* ---- the end of the process ---- */

static void leave_exit(void *arg) {
    (void)arg;
    exit(STATUS);
}

static void exit_exit(struct ran *ran) {
    frame_calls(ran, leave_exit, NULL);
}

static void leave_exit_at_once(void *arg) {
    (void)arg;
    _Exit(STATUS);
}

static void exit_exit_at_once(struct ran *ran) {
    frame_calls(ran, leave_exit_at_once, NULL);
}

static void leave_abort(void *arg) {
    (void)arg;
    abort();
}

static void exit_abort(struct ran *ran) {
    frame_calls(ran, leave_abort, NULL);
}

static void leave_signal(void *arg) {
    (void)arg;
    raise(SIGSEGV);
}

static void exit_signal(struct ran *ran) {
    frame_calls(ran, leave_signal, NULL);
}

static void leave_exec(void *arg) {
    (void)arg;
    execl("/bin/sh", "sh", "-c", "exit 7", (char *)NULL);
    _exit(100);
}

static void exit_exec(struct ran *ran) {
    frame_calls(ran, leave_exec, NULL);
}

/* ---- all of them ---- */

static const struct way {
    const char *name;
    void (*go)(struct ran *ran);
    int status; /* with which the process ends: an exit status, or -signal */
} ways[] = {
        {"fall", frame_falls_through, 0},
        {"return", frame_returns, 0},
        {"break", frame_breaks, 0},
        {"continue", frame_continues, 0},
        {"goto", frame_goes_to, 0},
#ifndef WITHOUT_CPP
        {"exception", throw_through, 0},
#endif
        {"pthread_exit", exit_pthread, 0},
        {"pthread_cancel", exit_cancel, 0},
        {"thrd_exit", exit_thrd, 0},
        {"longjmp", exit_longjmp, 0},
        {"siglongjmp", exit_siglongjmp, 0},
        {"exit", exit_exit, STATUS},
        {"_Exit", exit_exit_at_once, STATUS},
        {"abort", exit_abort, -SIGABRT},
        {"signal", exit_signal, -SIGSEGV},
        {"exec", exit_exec, STATUS},
};

static const char *verdict(const struct way *way, const struct ran *ran, int status) {
    static char fault[128];
    int all = ran->defer == 1 && ran->variable == 1 && ran->guard == 1 && ran->scope == 1;
    int none = ran->defer == 0 && ran->variable == 0 && ran->guard == 0 && ran->scope == 0;
    if (ran->after == 0 && status == way->status && (all || none))
        return all ? "runs" : "no";
    if (ran->after == 0 && status == -SIGABRT && none)
        return "terminates";
    snprintf(fault, sizeof(fault), "status %d, defer %d, auto %d, guard %d, scope %d, behind it %d",
            status, ran->defer, ran->variable, ran->guard, ran->scope, ran->after);
    return fault;
}

static int try_way(const struct way *way, struct ran *ran) {
    memset(ran, 0, sizeof(*ran));
    fflush(stdout);
    pid_t pid = fork();
    if (pid < 0)
        return 1;
    if (pid == 0) {
        alarm(60);
        way->go(ran);
        _exit(0);
    }
    int status;
    if (waitpid(pid, &status, 0) != pid)
        return 1;
    const char *what =
            verdict(way, ran, WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status));
    printf("%s\t%s\n", way->name, what);
    return strcmp(what, "runs") != 0 && strcmp(what, "no") != 0 && strcmp(what, "terminates") != 0;
}

int main(void) {
    const struct rlimit no_core = {0, 0};
    struct ran *ran =
            mmap(NULL, sizeof(*ran), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (ran == MAP_FAILED || setrlimit(RLIMIT_CORE, &no_core))
        return 1;
    int bad = 0;
    for (size_t i = 0; i < sizeof(ways) / sizeof(ways[0]); i++)
        bad += try_way(&ways[i], ran);
    return bad != 0;
}
