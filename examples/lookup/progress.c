/* SPDX-License-Identifier: Apache-2.0 */
/* progress.c - see progress.h. */
#include "progress.h"

#include "log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define BAR_MAX  40u
#define LINE_GAP (5 * PNX_SEC) /* plain lines are at most so far apart */

void progress_init(struct progress *progress) {
    struct winsize size = {0};
    const char *term = getenv("TERM");
    *progress = (struct progress){.width = 80};
    progress->terminal = isatty(STDERR_FILENO) && (!term || strcmp(term, "dumb") != 0);
    if (progress->terminal && ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0)
        progress->width = size.ws_col;
}

static const char *size_text(char *out, size_t capacity, double bytes) {
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    unsigned unit = 0;
    for (; bytes >= 1024 && unit < 4; unit++)
        bytes /= 1024;
    snprintf(out, capacity, bytes < 10 && unit > 0 ? "%.1f %s" : "%.0f %s", bytes, units[unit]);
    return out;
}

static double share(const struct lookup_progress *now) {
    if (now->bytes_total > 0)
        return (double)now->bytes_done / (double)now->bytes_total;
    return now->files_total > 0 ? (double)now->files_done / (double)now->files_total : 0;
}

static void write_text(const char *text, size_t size) {
    if (write(STDERR_FILENO, text, size) < 0) {
        /* The terminal is gone; indexing goes on. */
    }
}

static void show_bar(struct progress *progress, const struct lookup_progress *now, pnx_ns time) {
    char line[256], rate[32] = "", bar[BAR_MAX + 1] = "";
    double done = share(now);
    double seconds = (double)(time - progress->started) / 1e9;
    int n;
    if (now->phase == LOOKUP_PHASE_SCAN) {
        n = snprintf(line, sizeof(line), "\r\033[Kscanning: %llu files",
                (unsigned long long)now->files_done);
    } else if (now->phase == LOOKUP_PHASE_SYNC) {
        n = snprintf(line, sizeof(line), "\r\033[Kwriting the index to disk");
    } else {
        unsigned width = progress->width > 70 ? progress->width - 60 : 10;
        width = width < BAR_MAX ? width : BAR_MAX;
        unsigned filled = (unsigned)(done * width);
        memset(bar, '.', width);
        memset(bar, '#', filled < width ? filled : width);
        size_text(rate, sizeof(rate), seconds > 0 ? (double)now->bytes_done / seconds : 0);
        n = snprintf(line, sizeof(line), "\r\033[Kindexing [%s] %3.0f %% %llu/%llu files, %s/s",
                bar, done * 100, (unsigned long long)now->files_done,
                (unsigned long long)now->files_total, rate);
        if (n > 0 && (size_t)n < sizeof(line) && done > 0.02)
            n += snprintf(line + n, sizeof(line) - (size_t)n, ", %.0f s left",
                    seconds / done * (1 - done));
    }
    if (n > 0) {
        size_t most = progress->width + 4; /* the escape sequence takes no column */
        size_t size = (size_t)n < sizeof(line) ? (size_t)n : sizeof(line) - 1;
        write_text(line, size < most ? size : most);
    }
    progress->shown = true;
}

static void show_line(
        struct progress *progress, const struct lookup_progress *now, pnx_ns time, bool new_phase) {
    unsigned tenth = (unsigned)(share(now) * 10);
    bool due = now->phase == LOOKUP_PHASE_INDEX
                       ? tenth > progress->tenth && time - progress->printed >= PNX_SEC
                       : time - progress->printed >= LINE_GAP;
    if (!new_phase && !due)
        return;
    progress->printed = time;
    progress->tenth = tenth;
    if (now->phase == LOOKUP_PHASE_SCAN)
        log_line(PNX_LOG_INFO, "scanning: %llu files", (unsigned long long)now->files_done);
    else if (now->phase == LOOKUP_PHASE_SYNC)
        log_line(PNX_LOG_INFO, "writing the index to disk");
    else
        log_line(PNX_LOG_INFO, "indexing: %llu of %llu files (%.0f %%)",
                (unsigned long long)now->files_done, (unsigned long long)now->files_total,
                share(now) * 100);
}

void progress_show(struct progress *progress, const struct lookup_progress *now) {
    pnx_ns time = pnx_now();
    bool new_phase = now->phase != progress->phase;
    if (new_phase) {
        progress->phase = now->phase;
        progress->started = time;
        progress->tenth = 0;
    }
    if (now->phase == LOOKUP_PHASE_READY)
        progress_clear(progress);
    else if (progress->terminal)
        show_bar(progress, now, time);
    else
        show_line(progress, now, time, new_phase);
}

void progress_clear(struct progress *progress) {
    if (progress->shown)
        write_text("\r\033[K", 4);
    progress->shown = false;
}
