/* SPDX-License-Identifier: Apache-2.0 */
/* process.c - see harness/process.h: tests in forked children. */
#include "harness/process.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static char dir[128];
static pid_t dir_owner;
static int reason_fd = -1; /* where a child tells its parent why it skipped */

void test_process_start(const struct test_case *first, uint64_t seed) {
    sigset_t set;
    (void)first;
    (void)seed;
    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    sigprocmask(SIG_BLOCK, &set, NULL); /* wait_limited() takes it */
}

bool test_can_fork(void) {
    return true;
}

const char *test_process_left_out(const char *program, const char *test) {
    (void)program;
    (void)test;
    return NULL;
}

void test_process_skip(const char *reason) {
    if (reason_fd >= 0 && write(reason_fd, reason, strlen(reason)) < 0)
        perror("skip reason");
    exit(TEST_EXIT_SKIP);
}

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw) {
    (void)st;
    (void)type;
    (void)ftw;
    return remove(path);
}

static void remove_dir(void) {
    if (dir[0] && dir_owner == getpid())
        nftw(dir, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

const char *test_dir(void) {
    if (!dir[0] || dir_owner != getpid()) {
        const char *base = getenv("TMPDIR");
        snprintf(dir, sizeof(dir), "%s/pnx-test-XXXXXX", base && strlen(base) < 90 ? base : "/tmp");
        if (!mkdtemp(dir))
            test_fail(__FILE__, __LINE__, "mkdtemp(%s): %s", dir, strerror(errno));
        dir_owner = getpid();
        atexit(remove_dir);
    }
    return dir;
}

int test_child(void (*fn)(void *ctx), void *ctx) {
    fflush(NULL);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        fn(ctx);
        exit(0);
    }
    int status = 0;
    while (waitpid(pid, &status, 0) < 0)
        CHECK(errno == EINTR);
    return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
}

/* How a thread of this process is, as in /proc/self/task/ID/stat; 0: it has ended. */
static char thread_state(const char *id) {
    char text[512];
    snprintf(text, sizeof(text), "/proc/self/task/%s/stat", id);
    FILE *file = fopen(text, "r");
    size_t n = file ? fread(text, 1, sizeof(text) - 1, file) : 0;
    if (file)
        fclose(file);
    text[n] = 0;
    const char *name_end = strrchr(text, ')'); /* "ID (NAME) STATE ..." */
    return n && name_end ? name_end[2] : 0;
}

void test_others_asleep(void) {
    bool busy = true;
    while (busy) {
        busy = false;
        sched_yield();
        DIR *tasks = opendir("/proc/self/task");
        CHECK(tasks);
        for (const struct dirent *task; (task = readdir(tasks));) {
            long id = strtol(task->d_name, NULL, 10);
            char state = id && id != (long)gettid() ? thread_state(task->d_name) : 0;
            busy = busy || (state && state != 'S');
        }
        closedir(tasks);
    }
}

int test_apart(void (*fn)(void *ctx), void *ctx) {
    return test_child(fn, ctx);
}

const char *test_abort(void (*fn)(void *ctx), void *ctx) {
    static char said[512];
    int ends[2], status = 0;
    CHECK_EQ(pipe(ends), 0);
    fflush(NULL);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        dup2(ends[1], 2);
        fn(ctx);
        _exit(0);
    }
    close(ends[1]);
    memset(said, 0, sizeof(said));
    size_t n = 0;
    for (ssize_t got; (got = read(ends[0], said + n, sizeof(said) - 1 - n)) > 0;)
        n += (size_t)got;
    close(ends[0]);
    while (waitpid(pid, &status, 0) < 0)
        CHECK(errno == EINTR);
    CHECK_MSG(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT, "did not abort, but said: %s",
            said);
    return said;
}

static double elapsed_s(const struct timespec *since) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)(now.tv_sec - since->tv_sec) + (double)(now.tv_nsec - since->tv_nsec) / 1e9;
}

/* Waits for the child up to the limit; SIGCHLD is blocked, so that sigtimedwait receives it. */
static bool wait_limited(
        pid_t pid, unsigned limit_s, const struct timespec *since, int *ret_status) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    for (;;) {
        pid_t done = waitpid(pid, ret_status, WNOHANG);
        if (done == pid)
            return true;
        double left = limit_s - elapsed_s(since);
        if (left <= 0)
            return false;
        struct timespec ts = {(time_t)left, (long)((left - (double)(time_t)left) * 1e9)};
        sigtimedwait(&set, NULL, &ts);
    }
}

/* Runs in the child. */
static _Noreturn void run(const struct test_case *test) {
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* when the program is killed, nothing of it runs on */
    test->run();
    exit(0);
}

/* What a child's end says.  It has ended by itself. */
static enum test_result judge(int status, int reasons, char *ret_reason, size_t reason_size) {
    char buf[256] = "";
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return TEST_PASSED;
    if (WIFEXITED(status) && WEXITSTATUS(status) == TEST_EXIT_SKIP) {
        ssize_t n = read(reasons, buf, sizeof(buf) - 1);
        snprintf(ret_reason, reason_size, "%.*s", (int)(n > 0 ? n : 0), buf);
        return TEST_SKIPPED;
    }
    if (WIFSIGNALED(status))
        snprintf(ret_reason, reason_size, "killed by signal %d (%s)", WTERMSIG(status),
                strsignal(WTERMSIG(status)));
    else
        snprintf(ret_reason, reason_size, "exit status %d", WEXITSTATUS(status));
    return TEST_FAILED;
}

enum test_result test_process_run(
        const struct test_case *test, unsigned limit_s, char *ret_reason, size_t reason_size) {
    int fds[2], status = 0;
    struct timespec since;
    enum test_result result = TEST_FAILED;
    clock_gettime(CLOCK_MONOTONIC, &since);
    pid_t pid = pipe2(fds, O_CLOEXEC) == 0 ? fork() : -1;
    if (pid < 0) {
        snprintf(ret_reason, reason_size, "no process for it: %s", strerror(errno));
        return TEST_FAILED;
    }
    if (pid == 0) {
        close(fds[0]);
        reason_fd = fds[1];
        run(test);
    }
    close(fds[1]);
    if (wait_limited(pid, limit_s, &since, &status)) {
        result = judge(status, fds[0], ret_reason, reason_size);
    } else {
        kill(-pid, SIGABRT); /* a core or a sanitizer's stacks may tell where it hung */
        kill(-pid, SIGKILL);
        waitpid(pid, &status, 0);
        snprintf(ret_reason, reason_size, "still running after %u s", limit_s);
    }
    kill(-pid, SIGKILL); /* whatever the test left behind */
    close(fds[0]);
    return result;
}
