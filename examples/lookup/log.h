/* SPDX-License-Identifier: Apache-2.0 */
/*
 * log.h - lines on standard error: "lookup: warning: ...", no more than the level asks for.
 *
 * One line is one write, so that lines of different threads do not mix.  Any thread.
 */
#ifndef LOOKUP_LOG_H
#define LOOKUP_LOG_H

#include <patinox/base.h>

/* Sets the most detailed level that is written; PNX_LOG_INFO at first. */
void log_set_level(enum pnx_log_level level);
bool log_wanted(enum pnx_log_level level);
void log_line(enum pnx_log_level level, const char *format, ...) PNX_PRINTF(2, 3);

/* Says whether a progress bar may stand on the terminal's last line, which each log line then clears first. */
void log_set_bar(bool shown);

/* Returns the environment that the library logs through: the system's, with log_line(). */
const struct pnx_env *log_env(void);

#endif
