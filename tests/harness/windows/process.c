/* SPDX-License-Identifier: Apache-2.0 */
/*
 * process.c - see harness/process.h: without fork() each test is run by another process of the same program.
 *
 *     program            runs  program --run TEST            for each test,
 *     which runs               program --run TEST            for each test_apart() in it, told by the environment which
 *
 * That one runs the test from its beginning; of earlier test_apart() it gets the results from a file.
 */
#include "harness/process.h"

#include <errno.h>
#include <fcntl.h>
#include <io.h>
#include <signal.h>
#include <stdlib.h>

#define WIN32_LEAN_AND_MEAN
#include <windows.h>

#define EXIT_ABORTED 134
#define EXIT_ABORT   3 /* what the C runtime makes of abort() itself */
#define PARTS_MAX    64

/*
 * Under Wine a new process sometimes ends before it has begun, about one of some thousands, and CreateProcess() fails with
 * ERROR_INTERNAL_ERROR.  It is suspended, so nothing of the test, or of the library, has run in it.
 */
#define TRIES 3

/* What became of one test_apart(). */
struct part {
    int status;
    char said[512];
};

static const char *running; /* name of the test that this process runs; NULL: none */
static int wanted = -1;     /* the test_apart() that this process runs; -1: none */
static struct part parts[PARTS_MAX];
static int n_parts;
static char dir[160];

/* A path among temporary files, with slashes. */
static void temporary(char *buf, size_t n, const char *what, unsigned long number) {
    char base[MAX_PATH];
    if (!GetTempPathA(sizeof(base), base))
        test_fail(__FILE__, __LINE__, "no directory for temporary files");
    for (char *at = base; *at; at++)
        *at = *at == '\\' ? '/' : *at;
    snprintf(buf, n, "%spnx-%s-%lu", base, what, number);
}

/* ---- the directory of a test ---- */

const char *test_dir(void) {
    if (!dir[0]) {
        temporary(dir, sizeof(dir), "test", GetCurrentProcessId());
        if (!CreateDirectoryA(dir, NULL))
            test_fail(__FILE__, __LINE__, "mkdir(%s): %lu", dir, GetLastError());
    }
    return dir;
}

static void remove_tree(const char *path) {
    char name[MAX_PATH + 300];
    WIN32_FIND_DATAA entry;
    snprintf(name, sizeof(name), "%s/*", path);
    HANDLE search = FindFirstFileA(name, &entry);
    if (search == INVALID_HANDLE_VALUE)
        return;
    do {
        if (strcmp(entry.cFileName, ".") == 0 || strcmp(entry.cFileName, "..") == 0)
            continue;
        snprintf(name, sizeof(name), "%s/%s", path, entry.cFileName);
        if (entry.dwFileAttributes & FILE_ATTRIBUTE_DIRECTORY) {
            remove_tree(name);
        } else {
            SetFileAttributesA(name, FILE_ATTRIBUTE_NORMAL);
            DeleteFileA(name);
        }
    } while (FindNextFileA(search, &entry));
    FindClose(search);
    RemoveDirectoryA(path);
}

/* ---- processes ---- */

/* Another process of this program, in a job that ends whatever it leaves behind. */
struct other {
    HANDLE job, process;
    DWORD id;
};

static bool start(const char *test, HANDLE error, struct other *ret_other) {
    char path[MAX_PATH], line[MAX_PATH + 300];
    STARTUPINFOA startup = {.cb = sizeof(startup), .dwFlags = STARTF_USESTDHANDLES};
    PROCESS_INFORMATION process;
    JOBOBJECT_EXTENDED_LIMIT_INFORMATION limits = {0};
    startup.hStdInput = GetStdHandle(STD_INPUT_HANDLE);
    startup.hStdOutput = GetStdHandle(STD_OUTPUT_HANDLE);
    startup.hStdError = error ? error : GetStdHandle(STD_ERROR_HANDLE);
    GetModuleFileNameA(NULL, path, sizeof(path));
    snprintf(line, sizeof(line), "\"%s\" --run %s", path, test);
    fflush(NULL);
    bool made = false;
    for (int i = 0; i < TRIES && !made; i++) {
        made = CreateProcessA(
                path, line, NULL, NULL, TRUE, CREATE_SUSPENDED, NULL, NULL, &startup, &process);
        if (!made && GetLastError() != ERROR_INTERNAL_ERROR)
            return false;
    }
    if (!made)
        return false;
    limits.BasicLimitInformation.LimitFlags = JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE;
    ret_other->job = CreateJobObjectA(NULL, NULL);
    SetInformationJobObject(
            ret_other->job, JobObjectExtendedLimitInformation, &limits, sizeof(limits));
    AssignProcessToJobObject(ret_other->job, process.hProcess);
    ResumeThread(process.hThread);
    CloseHandle(process.hThread);
    ret_other->process = process.hProcess;
    ret_other->id = process.dwProcessId;
    return true;
}

/* Waits for its end; false: it was still running. */
static bool end(struct other *other, DWORD limit_ms, DWORD *ret_code) {
    char left[160];
    bool ended = WaitForSingleObject(other->process, limit_ms) == WAIT_OBJECT_0;
    if (!ended)
        TerminateProcess(other->process, 1);
    TerminateJobObject(other->job, 1);
    WaitForSingleObject(other->process, INFINITE);
    GetExitCodeProcess(other->process, ret_code);
    CloseHandle(other->process);
    CloseHandle(other->job);
    temporary(left, sizeof(left), "test", other->id);
    remove_tree(left);
    return ended;
}

/* Not exit(): other threads may hold what its handlers need. */
static _Noreturn void leave(DWORD code) {
    fflush(NULL);
    TerminateProcess(GetCurrentProcess(), code);
    abort();
}

static void set_variable(const char *name, const char *value) {
    char line[300];
    snprintf(line, sizeof(line), "%s=%s", name, value);
    _putenv(line);
    SetEnvironmentVariableA(name, *value ? value : NULL);
}

/* ---- a test ---- */

static void on_abort(int number) {
    (void)number;
    _exit(EXIT_ABORTED);
}

static void take_parts(const char *path) {
    FILE *file = fopen(path, "rb");
    size_t n = file ? fread(parts, sizeof(parts[0]), PARTS_MAX, file) : 0;
    if (file)
        fclose(file);
    if (n < (size_t)wanted)
        test_fail(__FILE__, __LINE__, "%s does not tell of what was before", path);
}

/* Runs the test that the command line names, if it does, and never returns then. */
static void run_named(const struct test_case *first) {
    const char *part = getenv("PNX_TEST_PART"), *told = getenv("PNX_TEST_TOLD");
    if (__argc < 3 || strcmp(__argv[1], "--run") != 0)
        return;
    SetErrorMode(SEM_FAILCRITICALERRORS | SEM_NOGPFAULTERRORBOX | SEM_NOOPENFILEERRORBOX);
    signal(SIGABRT, on_abort);
    wanted = part && *part ? atoi(part) : -1;
    if (wanted >= 0)
        take_parts(told);
    for (const struct test_case *test = first; test; test = test->next) {
        if (strcmp(test->name, __argv[2]) != 0)
            continue;
        running = test->name;
        test->run();
        exit(wanted < 0 ? 0 : 1); /* 1: it has not come to that part */
    }
    test_fail(__FILE__, __LINE__, "there is no test %s", __argv[2]);
}

__attribute__((constructor)) static void files_are_bytes(void) {
    _fmode = _O_BINARY;
    _setmode(1, _O_BINARY);
    _setmode(2, _O_BINARY);
}

void test_process_start(const struct test_case *first, uint64_t seed) {
    char text[32];
    setvbuf(stdout, NULL, _IONBF, 0); /* a line at a time is not known here */
    run_named(first);
    snprintf(text, sizeof(text), "%llu", (unsigned long long)seed);
    set_variable("SEED", text); /* the same in all processes */
}

void test_process_skip(const char *reason) {
    const char *path = getenv("PNX_TEST_REASON");
    FILE *file = path ? fopen(path, "wb") : NULL;
    if (file) {
        fputs(reason, file);
        fclose(file);
    }
    leave(TEST_EXIT_SKIP);
}

bool test_can_fork(void) {
    return false;
}

/* tests/windows/left-out: "program.test REASON" a line. */
const char *test_process_left_out(const char *program, const char *test) {
    static char line[512];
    char path[MAX_PATH], name[300];
    snprintf(path, sizeof(path), "%s/tests/windows/left-out", test_source_dir());
    snprintf(name, sizeof(name), "%s.%s ", program, test);
    FILE *file = fopen(path, "rb");
    CHECK_MSG(file, "cannot read %s", path);
    bool found = false;
    while (!found && fgets(line, sizeof(line), file))
        found = strncmp(line, name, strlen(name)) == 0;
    fclose(file);
    line[strcspn(line, "\r\n")] = '\0';
    return found ? line + strlen(name) : NULL;
}

static enum test_result judge(
        DWORD code, const char *reasons, char *ret_reason, size_t reason_size) {
    if (code == 0)
        return TEST_PASSED;
    if (code == TEST_EXIT_SKIP) {
        FILE *file = fopen(reasons, "rb");
        size_t n = file ? fread(ret_reason, 1, reason_size - 1, file) : 0;
        ret_reason[n] = '\0';
        if (file)
            fclose(file);
        return TEST_SKIPPED;
    }
    if (code == EXIT_ABORTED || code == EXIT_ABORT)
        snprintf(ret_reason, reason_size, "aborted");
    else
        snprintf(ret_reason, reason_size, code > 255 ? "exception 0x%lx" : "exit status %lu", code);
    return TEST_FAILED;
}

enum test_result test_process_run(
        const struct test_case *test, unsigned limit_s, char *ret_reason, size_t reason_size) {
    char reasons[160];
    struct other other;
    DWORD code = 0;
    enum test_result result = TEST_FAILED;
    temporary(reasons, sizeof(reasons), "reason", GetCurrentProcessId());
    set_variable("PNX_TEST_REASON", reasons);
    set_variable("PNX_TEST_PART", "");
    if (!start(test->name, NULL, &other)) {
        snprintf(ret_reason, reason_size, "no process for it: %lu", GetLastError());
        return TEST_FAILED;
    }
    if (end(&other, limit_s * 1000, &code))
        result = judge(code, reasons, ret_reason, reason_size);
    else
        snprintf(ret_reason, reason_size, "still running after %u s", limit_s);
    DeleteFileA(reasons);
    return result;
}

/* ---- apart ---- */

void test_others_asleep(void) {
    /* Nobody is going to fork. */
}

int test_child(void (*fn)(void *ctx), void *ctx) {
    (void)fn;
    (void)ctx;
    test_skip("no fork() on Windows");
}

static void tell_parts(const char *path) {
    FILE *file = fopen(path, "wb");
    CHECK(file && fwrite(parts, sizeof(parts[0]), (size_t)n_parts, file) == (size_t)n_parts);
    fclose(file);
}

/* Runs the part that is about to be told of in another process, with its standard error in a file. */
static void run_part(struct part *ret_part) {
    char told[160], said[160], number[16];
    SECURITY_ATTRIBUTES inherited = {sizeof(inherited), NULL, TRUE};
    struct other other;
    DWORD code = 0, got = 0;
    temporary(told, sizeof(told), "told", GetCurrentProcessId());
    temporary(said, sizeof(said), "said", GetCurrentProcessId());
    snprintf(number, sizeof(number), "%d", n_parts);
    tell_parts(told);
    set_variable("PNX_TEST_PART", number);
    set_variable("PNX_TEST_TOLD", told);
    HANDLE error = CreateFileA(said, GENERIC_READ | GENERIC_WRITE,
            FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE, &inherited, CREATE_ALWAYS,
            FILE_FLAG_DELETE_ON_CLOSE, NULL);
    CHECK(error != INVALID_HANDLE_VALUE);
    CHECK(start(running, error, &other));
    end(&other, INFINITE, &code); /* the whole test has a limit */
    SetFilePointer(error, 0, NULL, FILE_BEGIN);
    if (!ReadFile(error, ret_part->said, sizeof(ret_part->said) - 1, &got, NULL))
        got = 0;
    ret_part->said[got] = '\0';
    CloseHandle(error);
    DeleteFileA(told);
    set_variable("PNX_TEST_PART", "");
    if (code == TEST_EXIT_SKIP)
        leave(code); /* the reason has been told */
    ret_part->status = code == EXIT_ABORTED || code == EXIT_ABORT ? -SIGABRT : (int)code;
}

static struct part *part(void (*fn)(void *ctx), void *ctx) {
    CHECK_MSG(running, "test_apart() needs a test in a process of its own: not with --no-fork");
    CHECK(n_parts < PARTS_MAX);
    if (n_parts == wanted) {
        fn(ctx);
        exit(0);
    }
    struct part *now = &parts[n_parts];
    if (wanted < 0) /* else it has been told */
        run_part(now);
    n_parts++;
    return now;
}

int test_apart(void (*fn)(void *ctx), void *ctx) {
    const struct part *done = part(fn, ctx);
    if (done->status != -SIGABRT && done->said[0])
        fprintf(stderr, "%s", done->said);
    return done->status;
}

const char *test_abort(void (*fn)(void *ctx), void *ctx) {
    const struct part *done = part(fn, ctx);
    CHECK_MSG(done->status == -SIGABRT, "did not abort, but said: %s", done->said);
    return done->said;
}
