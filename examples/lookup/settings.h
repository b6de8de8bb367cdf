/* SPDX-License-Identifier: Apache-2.0 */
/*
 * settings.h - what may be set in lookup's configuration file, and what it says when a setting is wrong.
 *
 * The file holds one JSON object.  Every field may be left out; a field that is unknown, of the wrong type or
 * out of range refuses the whole file, with the line and the field in the message:
 *
 *   {
 *     "pool_max": 4,             connections to the database, 1 .. 64
 *     "cache_bytes": "64MiB",    bytes of cached answers, 64 KiB .. 64 GiB; a number or a text with a unit
 *     "cache_ttl": "5min",       how long an answer is kept, "1ms" .. "1000h", or "never" (does not end)
 *     "cache_refresh": "4min",   how old it is when it is asked for anew, while it is served; the same, or "never"
 *     "cache_negative_ttl": "1min",  how long it is remembered that a search finds nothing, "1ms" .. "1000h"
 *     "budget_bytes": "512MiB",  memory of cache and connections together, 8 MiB .. 1 TiB
 *     "search_timeout": "5s",    for one search, waiting included, "1ms" .. "10min"
 *     "log_level": "info"        "error", "warning", "info" or "debug"
 *   }
 *
 *   P1  A file that is refused changes nothing; the error names the line and, if there is one, the field.
 *   P2  All limits and defaults stand in settings.def.
 */
#ifndef LOOKUP_SETTINGS_H
#define LOOKUP_SETTINGS_H

#include <patinox/base.h>
#include <patinox/error.h>

/* Plain values: copy freely. */
struct lookup_settings {
    uint64_t cache_bytes;
    uint64_t budget_bytes;
    pnx_ns cache_ttl_ns;     /* PNX_NEVER: answers stay until they are evicted */
    pnx_ns cache_refresh_ns; /* PNX_NEVER: they are not asked for anew while they are served */
    pnx_ns cache_negative_ttl_ns;
    pnx_ns search_timeout_ns;
    uint32_t pool_max;
    enum pnx_log_level log_level;
};

/* The most bytes that a configuration file may have. */
#define LOOKUP_SETTINGS_MAX_BYTES (64u * 1024u)

/* Fills *ret_settings with the defaults. */
void lookup_settings_default(struct lookup_settings *ret_settings);

/*
 * Reads settings from the text of a file; what it does not name is the default: {} is all defaults, but an empty
 * text is refused.  Any thread.  err->field is the field at fault (static text) or NULL, err->message begins
 * with "line N: ".
 * -EINVAL (not JSON, not an object, unknown or repeated field, wrong type), -ERANGE (outside the limits),
 * -EFBIG (longer than LOOKUP_SETTINGS_MAX_BYTES), -ENOMEM.
 */
int lookup_settings_parse(
        const char *text, size_t size, struct pnx_error *err, struct lookup_settings *ret_settings);

/*
 * Sets one setting, by its name in the file, from a text as it stands there, without quotes: "8", "64MiB", "debug".
 * On failure nothing is changed and err->message names the setting.  -ENOENT (no such setting), -EINVAL, -ERANGE.
 */
int lookup_settings_set(struct lookup_settings *settings, const char *name, const char *text,
        struct pnx_error *err);

/* Checks settings that were not read from a file against the same limits.  -ERANGE; err->field names the field. */
int lookup_settings_check(const struct lookup_settings *settings, struct pnx_error *err);

/* Returns "error", "warning", "info" or "debug". */
const char *lookup_log_level_name(enum pnx_log_level level);

#endif
