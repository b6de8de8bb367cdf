/* SPDX-License-Identifier: Apache-2.0 */
/*
 * report.c - schedules as text, and traces.
 *
 * A schedule is NAME@BOUNDS:CHOICES.  Choices are separated by commas; zN stands for N times 0, the ordinary
 * choice, and everything after the last one is 0.
 */
#include "explorer/engine.h"

#include <stdarg.h>

const char *x_replay;

/* glibc gives main's arguments to constructors; the harness takes "--replay=SCHEDULE" for an option of others. */
__attribute__((constructor)) static void find_replay(int argc, char **argv) {
    for (int i = 1; i < argc; i++) {
        if (strncmp(argv[i], "--replay=", 9) == 0)
            x_replay = argv[i] + 9;
        if (strcmp(argv[i], "--replay") == 0 && i + 1 < argc) {
            static char taken[] = "--";
            x_replay = argv[i + 1];
            argv[i + 1] = taken;
        }
    }
}

const char *x_failure_name(enum x_failure failure) {
    static const char *const names[] = {
            [X_PASSED] = "no failure",
            [X_ASSERTION] = "assertion",
            [X_RACE] = "data race",
            [X_FREED] = "use after free",
            [X_BAD_FREE] = "bad free",
            [X_DEADLOCK] = "deadlock",
            [X_LOST_WAKE] = "lost wake-up",
            [X_LIVELOCK] = "livelock",
            [X_LEAK] = "leak",
            [X_MISUSE] = "misuse",
            [X_CRASH] = "crash",
            [X_UNFINISHED] = "unfinished",
            [X_TOO_FEW] = "too few executions",
    };
    return names[failure];
}

const char *x_order_name(int order) {
    switch (order) {
    case __ATOMIC_RELAXED:
        return "relaxed";
    case __ATOMIC_ACQUIRE:
        return "acquire";
    case __ATOMIC_RELEASE:
        return "release";
    case __ATOMIC_ACQ_REL:
        return "acq_rel";
    default:
        return "seq_cst";
    }
}

void x_trace(const char *format, ...) {
    va_list args;
    va_start(args, format);
    fprintf(stderr, "%5u %u  ", x.steps, x.self ? (unsigned)(x.self - x.threads) : 0);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
}

void x_schedule_write(char *buf, size_t size, const struct x_test *test, bool bounded,
        const uint32_t *choices, size_t n) {
    while (n > 0 && choices[n - 1] == 0)
        n--;
    size_t at = (size_t)snprintf(buf, size, "%s@%c%u.%u.%u.%u:", test->name, bounded ? 'b' : 'r',
            test->preemptions, test->stale, test->timeouts, test->spurious);
    for (size_t i = 0; i < n && at < size;) {
        size_t zeros = 0;
        while (choices[i + zeros] == 0)
            zeros++;
        const char *comma = i ? "," : "";
        if (zeros > 2)
            at += (size_t)snprintf(buf + at, size - at, "%sz%zu", comma, zeros);
        else
            at += (size_t)snprintf(buf + at, size - at, "%s%u", comma, choices[i]);
        i += zeros > 2 ? zeros : 1;
    }
    if (at >= size)
        snprintf(buf, size, "(too long; repeat the run with the same SEED)");
}

bool x_schedule_is_for(const char *text, const struct x_test *test) {
    size_t n = strlen(test->name);
    return strncmp(text, test->name, n) == 0 && text[n] == '@';
}

bool x_schedule_read(const char *text, struct x_test *test, bool *ret_bounded, uint32_t *choices,
        size_t max, size_t *ret_n) {
    char kind;
    int used = 0;
    text += strlen(test->name) + 1;
    if (sscanf(text, "%c%u.%u.%u.%u:%n", &kind, &test->preemptions, &test->stale, &test->timeouts,
                &test->spurious, &used) != 5 ||
            used == 0)
        return false;
    *ret_bounded = kind == 'b';
    size_t n = 0;
    for (text += used; *text;) {
        bool zeros = *text == 'z';
        char *end;
        unsigned long value = strtoul(text + zeros, &end, 10);
        if (end == text + zeros || n + (zeros ? value : 1) > max)
            return false;
        for (unsigned long i = 0; i < (zeros ? value : 1); i++)
            choices[n++] = zeros ? 0 : (uint32_t)value;
        text = *end == ',' ? end + 1 : end;
        if (*end && *end != ',')
            return false;
    }
    *ret_n = n;
    return true;
}
