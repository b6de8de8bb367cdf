/* SPDX-License-Identifier: Apache-2.0 */
/* harness.c - tests, their results, and what they ask for; harness/process.h runs each in a process of its own. */
#include "harness/harness.h"
#include "harness/process.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <time.h>
#include <unistd.h>

static struct test_case *first;
static struct test_case **last = &first;
static char program[128];
static uint64_t seed;
static bool seed_used;
static const char *part_variable; /* NULL: the test has no parts */
static uint64_t part;
static bool fail_aborts;

void test_register(struct test_case *test) {
    *last = test;
    last = &test->next;
}

static void print_seed(void) {
    if (!__atomic_load_n(&seed_used, __ATOMIC_RELAXED))
        return;
    fprintf(stderr, "  repeat with SEED=%llu", (unsigned long long)seed);
    const char *variable = __atomic_load_n(&part_variable, __ATOMIC_ACQUIRE);
    if (variable)
        fprintf(stderr, " %s=%llu", variable,
                (unsigned long long)__atomic_load_n(&part, __ATOMIC_RELAXED));
    fputc('\n', stderr);
}

void test_fail(const char *file, int line, const char *format, ...) {
    va_list args;
    va_start(args, format);
    flockfile(stderr);
    fprintf(stderr, "%s:%d: ", file, line);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    print_seed();
    funlockfile(stderr);
    fflush(NULL);
    if (fail_aborts)
        abort();
    _exit(1); /* not exit: other threads may be anywhere */
}

void test_fail_aborts(void) {
    fail_aborts = true;
}

void test_skip(const char *format, ...) {
    char reason[256];
    va_list args;
    va_start(args, format);
    vsnprintf(reason, sizeof(reason), format, args);
    va_end(args);
    test_process_skip(reason);
}

uint64_t test_seed(void) {
    __atomic_store_n(&seed_used, true, __ATOMIC_RELAXED); /* threads of a test may ask at once */
    return seed;
}

void test_seed_part(const char *variable, uint64_t which) {
    __atomic_store_n(&part, which, __ATOMIC_RELAXED); /* threads of the test may fail at once */
    __atomic_store_n(&part_variable, variable, __ATOMIC_RELEASE);
}

uint64_t test_random(uint64_t *state) {
    uint64_t x = *state += UINT64_C(0x9E3779B97F4A7C15);
    x = (x ^ (x >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94D049BB133111EB);
    return x ^ (x >> 31);
}

bool test_long(void) {
    const char *value = getenv("PNX_TEST_LONG");
    return value && *value && strcmp(value, "0") != 0;
}

bool test_slow(void) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    return true;
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
    return true;
#endif
#endif
    return getenv("PNX_TEST_SLOW") != NULL;
}

const char *test_source_dir(void) {
    const char *source = getenv("PNX_SOURCE_DIR");
    return source ? source : PNX_TEST_SOURCE_DIR;
}

const char *test_path(const char *name) {
    static _Thread_local char paths[4][512];
    static _Thread_local unsigned turn;
    char *path = paths[turn++ % 4];
    snprintf(path, sizeof(paths[0]), "%s/%s", test_dir(), name);
    return path;
}

void test_write_file(const char *path, const void *data, size_t n) {
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    CHECK_MSG(fd >= 0, "open(%s): %s", path, strerror(errno));
    for (size_t done = 0; done < n;) {
        ssize_t k = write(fd, (const char *)data + done, n - done);
        CHECK_MSG(k > 0, "write(%s): %s", path, strerror(errno));
        done += (size_t)k;
    }
    CHECK(close(fd) == 0);
}

struct thread_start {
    pthread_barrier_t *barrier;
    unsigned index;
    void (*fn)(unsigned index, void *ctx);
    void *ctx;
};

static void *thread_main(void *arg) {
    struct thread_start *start = arg;
    pthread_barrier_wait(start->barrier);
    start->fn(start->index, start->ctx);
    return NULL;
}

void test_threads(unsigned n, void (*fn)(unsigned index, void *ctx), void *ctx) {
    pthread_t *threads = calloc(n, sizeof(*threads));
    struct thread_start *starts = calloc(n, sizeof(*starts));
    pthread_barrier_t barrier;
    CHECK(threads && starts);
    CHECK(pthread_barrier_init(&barrier, NULL, n) == 0);
    for (unsigned i = 0; i < n; i++) {
        starts[i] = (struct thread_start){&barrier, i, fn, ctx};
        int rc = pthread_create(&threads[i], NULL, thread_main, &starts[i]);
        CHECK_MSG(rc == 0, "pthread_create: %s", strerror(rc));
    }
    for (unsigned i = 0; i < n; i++)
        pthread_join(threads[i], NULL);
    pthread_barrier_destroy(&barrier);
    free(threads);
    free(starts);
}

static void record(const struct test_case *test, const char *result, const char *reason) {
    const char *path = getenv("PNX_TEST_RESULTS");
    if (!path)
        return;
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (fd < 0)
        return;
    char line[512];
    int n = snprintf(line, sizeof(line), "%s.%s\t%s\t%s\n", program, test->name, result, reason);
    if (n > 0 && write(fd, line, (size_t)n) != n)
        perror(path);
    close(fd);
}

static double elapsed_s(const struct timespec *since) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)(now.tv_sec - since->tv_sec) + (double)(now.tv_nsec - since->tv_nsec) / 1e9;
}

/* How long a test may take, as things are. */
static unsigned limit_of(const struct test_case *test) {
    unsigned slow = getenv("PNX_TEST_SLOW") ? (unsigned)atoi(getenv("PNX_TEST_SLOW")) : 1;
    return test->limit_s * (slow > 0 ? slow : 1) * (test_slow() ? 3 : 1) * (test_long() ? 20 : 1);
}

static bool left_out(const struct test_case *test) {
    const char *reason = test_process_left_out(program, test->name);
    if (!reason)
        return false;
    printf("skip - %s: %s\n", test->name, reason);
    record(test, "skip", reason);
    return true;
}

static bool run_apart(const struct test_case *test) {
    static const char *const words[] = {
            [TEST_PASSED] = "pass", [TEST_SKIPPED] = "skip", [TEST_FAILED] = "fail"};
    static const char *const shown[] = {
            [TEST_PASSED] = "ok", [TEST_SKIPPED] = "skip", [TEST_FAILED] = "FAIL"};
    char reason[300] = "";
    struct timespec since;
    clock_gettime(CLOCK_MONOTONIC, &since);
    fflush(NULL);
    enum test_result result = test_process_run(test, limit_of(test), reason, sizeof(reason));
    printf("%s - %s (%.2f s)%s%s\n", shown[result], test->name, elapsed_s(&since),
            reason[0] ? ": " : "", reason);
    if (result == TEST_FAILED)
        print_seed();
    record(test, words[result], reason);
    return result != TEST_FAILED;
}

static bool selected(const struct test_case *test, int argc, char **argv) {
    bool any = false;
    for (int i = 1; i < argc; i++) {
        if (argv[i][0] == '-')
            continue;
        any = true;
        if (strstr(test->name, argv[i]))
            return true;
    }
    return !any;
}

static void name_program(const char *path) {
    const char *base = path;
    for (const char *at = path; *at; at++)
        base = *at == '/' || *at == '\\' ? at + 1 : base;
    if (strncmp(base, "test_", 5) == 0)
        base += 5;
    snprintf(program, sizeof(program), "%.*s", (int)strcspn(base, "."), base); /* without ".exe" */
    char *underscore = strchr(program, '_'); /* test_pool_core -> pool.core, as CTest calls it */
    if (underscore)
        *underscore = '.';
}

int test_main(int argc, char **argv) {
    bool forked = true;
    setvbuf(stdout, NULL, _IOLBF, 0);
    name_program(argv[0]);
    const char *given = getenv("SEED");
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    seed = given ? strtoull(given, NULL, 0) : (uint64_t)now.tv_nsec ^ ((uint64_t)getpid() << 32);
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--no-fork") == 0)
            forked = false;
        if (strcmp(argv[i], "--list") == 0) {
            for (const struct test_case *test = first; test; test = test->next)
                printf("%s.%s\n", program, test->name);
            return 0;
        }
    }
    test_process_start(first, seed);
    const char *results = getenv("PNX_TEST_RESULTS");
    if (results)
        unlink(results);
    unsigned run = 0, failed = 0;
    for (const struct test_case *test = first; test; test = test->next) {
        if (!selected(test, argc, argv))
            continue;
        run++;
        if (left_out(test))
            continue;
        if (!forked) {
            printf("running %s\n", test->name);
            test->run();
        } else if (!run_apart(test)) {
            failed++;
        }
    }
    printf("%u tests, %u failed\n", run, failed);
    if (run == 0)
        fprintf(stderr, "no test matches\n");
    return failed || run == 0;
}
