/* SPDX-License-Identifier: Apache-2.0 */
/*
 * config_case.h - what the tests of config share: a small format, a config under a virtual clock, files.
 *
 * The format: a decimal number, then anything.  "bad" is refused by parse, numbers above 1000 by validate.
 * Under the virtual clock nothing waits: a file system call is heard by the next tick, and debounce passes by
 * advancing the clock.
 */
#ifndef PNX_TEST_CONFIG_CASE_H
#define PNX_TEST_CONFIG_CASE_H

#include "harness/harness.h"

#include <patinox/config.h>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

struct number {
    long value;
    size_t length;
};

extern struct pnx_rc_type number_type;
extern struct test_env te;
extern int parses, validations, changes, events_changed, events_refused;
extern long last_change;
extern int last_refusal;
/* The events of a test with one thread, once tells is set: "name(cause) value code;" each. */
extern char story[2048];
extern bool tells;

/* Checks the story since the last check, and begins a new one. */
#define CHECK_STORY(expected) \
    do { \
        CHECK_STR(story, expected); \
        story[0] = '\0'; \
    } while (0)

#define DEBOUNCE (100 * PNX_MS)
#define POLL     (2 * PNX_SEC)

/* Starts the virtual clock, and listens to the default set. */
void case_begin(void);
/* Options with everything of the case; add path and flags. */
struct pnx_config_opts case_opts(const char *path);
struct pnx_config *case_create(const char *path, uint32_t flags);
/* Releases it; nothing may be left. */
void case_end(struct pnx_config **config);

int case_parse(void *ctx, const char *text, size_t n, struct pnx_error *err, void **ret_value);

long case_value(struct pnx_config *config);
struct pnx_config_status case_status(struct pnx_config *config);
struct pnx_config_stats case_stats(struct pnx_config *config);

pnx_ns case_tick(struct pnx_config *config);
/* Lets what has been heard rest, and loads it. */
void case_settle(struct pnx_config *config);

void put(const char *path, const char *text);           /* in place */
void put_by_rename(const char *path, const char *text); /* by a new file renamed over it */

#endif
