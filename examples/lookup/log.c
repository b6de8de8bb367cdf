/* SPDX-License-Identifier: Apache-2.0 */
/* log.c - see log.h. */
#include "log.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static int level_now = PNX_LOG_INFO;
static bool bar;

void log_set_level(enum pnx_log_level level) {
    __atomic_store_n(&level_now, (int)level, __ATOMIC_RELAXED);
}

bool log_wanted(enum pnx_log_level level) {
    return (int)level <= __atomic_load_n(&level_now, __ATOMIC_RELAXED);
}

void log_set_bar(bool shown) {
    __atomic_store_n(&bar, shown, __ATOMIC_RELAXED);
}

static void write_line(enum pnx_log_level level, const char *message) {
    static const char *const prefix[] = {[PNX_LOG_ERROR] = "error: ",
            [PNX_LOG_WARNING] = "warning: ",
            [PNX_LOG_DEBUG] = "debug: "};
    const char *word =
            level >= PNX_LOG_ERROR && level <= PNX_LOG_DEBUG && prefix[level] ? prefix[level] : "";
    char line[1024];
    const char *clear = __atomic_load_n(&bar, __ATOMIC_RELAXED) ? "\r\033[K" : "";
    int n = snprintf(line, sizeof(line), "%slookup: %s%s", clear, word, message);
    size_t size = n < 0 ? 0 : (size_t)n < sizeof(line) ? (size_t)n : sizeof(line) - 1;
    if (size == sizeof(line) - 1)
        size--;
    line[size++] = '\n';
    if (write(STDERR_FILENO, line, size) < 0) {
        /* Nowhere left to say so. */
    }
}

void log_line(enum pnx_log_level level, const char *format, ...) {
    if (!log_wanted(level))
        return;
    char message[900];
    va_list args;
    va_start(args, format);
    vsnprintf(message, sizeof(message), format, args);
    va_end(args);
    for (char *p = message; *p; p++) /* what clients and files say must not forge lines */
        if ((unsigned char)*p < 0x20 || *p == 0x7F)
            *p = '?';
    write_line(level, message);
}

static void env_log(void *ctx, enum pnx_log_level level, const char *message) {
    (void)ctx;
    log_line(level, "%s", message);
}

const struct pnx_env *log_env(void) {
    static const struct pnx_env env = {.size = sizeof(env), .log = env_log};
    return &env;
}
