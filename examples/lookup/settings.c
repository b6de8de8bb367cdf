/* SPDX-License-Identifier: Apache-2.0 */
/*
 * settings.c - reads the configuration file; guarantees P1 and P2 stand in settings.h.
 *
 * jansson checks that the text is JSON and gives the values.  It does not say where in the text a value stands, so
 * for the message the line of a field is found by walking over the text once more, which by then is known to be
 * well-formed.
 */
#include "settings.h"

#include <patinox/cache.h>

#include <jansson.h>

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum setting_kind { COUNT, BYTES, TIME, LEVEL };

struct setting {
    const char *name;
    enum setting_kind kind;
    size_t offset;
    size_t size;
    uint64_t fallback;
    uint64_t min;
    uint64_t max;
};

/* clang-format off */
#define SETTING(name, field, kind, fallback, min, max, help) \
    {name, kind, offsetof(struct lookup_settings, field), sizeof(((struct lookup_settings *)0)->field), \
            (uint64_t)(fallback), (uint64_t)(min), (uint64_t)(max)},
static const struct setting settings[] = {
#include "settings.def"
};
#undef SETTING
/* clang-format on */
#define SETTINGS (sizeof(settings) / sizeof(settings[0]))

static const char *const levels[] = {"", "error", "warning", "info", "debug"};

const char *lookup_log_level_name(enum pnx_log_level level) {
    return level >= PNX_LOG_ERROR && level <= PNX_LOG_DEBUG ? levels[level] : "unknown";
}

static void set(struct lookup_settings *to, const struct setting *setting, uint64_t value) {
    char *at = (char *)to + setting->offset;
    uint32_t small = (uint32_t)value;
    if (setting->size == sizeof(small))
        memcpy(at, &small, sizeof(small));
    else
        memcpy(at, &value, sizeof(value));
}

void lookup_settings_default(struct lookup_settings *ret_settings) {
    memset(ret_settings, 0, sizeof(*ret_settings));
    for (size_t i = 0; i < SETTINGS; i++)
        set(ret_settings, &settings[i], settings[i].fallback);
}

static uint64_t get(const struct lookup_settings *from, const struct setting *setting) {
    const char *at = (const char *)from + setting->offset;
    uint32_t small;
    uint64_t value;
    if (setting->size == sizeof(small)) {
        memcpy(&small, at, sizeof(small));
        return small;
    }
    memcpy(&value, at, sizeof(value));
    return value;
}

static bool in_range(const struct setting *setting, uint64_t number) {
    bool may_be_never = setting->offset == offsetof(struct lookup_settings, cache_ttl_ns) ||
                        setting->offset == offsetof(struct lookup_settings, cache_refresh_ns);
    return (may_be_never && number == (uint64_t)PNX_NEVER) ||
           (number >= setting->min && number <= setting->max);
}

int lookup_settings_check(const struct lookup_settings *to_check, struct pnx_error *err) {
    for (size_t i = 0; i < SETTINGS; i++) {
        if (in_range(&settings[i], get(to_check, &settings[i])))
            continue;
        if (err) {
            *err = (struct pnx_error){
                    .code = -ERANGE, .phase = "settings", .field = settings[i].name};
            snprintf(err->message, sizeof(err->message), "%s is out of range", settings[i].name);
        }
        return -ERANGE;
    }
    return 0;
}

/* ---- messages ---- */

/* One parse; lives on its stack. */
struct parse {
    const char *text; /* NULL: a single setting, from elsewhere than a file */
    size_t size;
    struct pnx_error *err;
};

/* Returns where the string that begins at i ends: behind its closing quote. */
static size_t skip_string(const struct parse *parse, size_t i) {
    for (i++; i < parse->size && parse->text[i] != '"'; i++) {
        if (parse->text[i] == '\\')
            i++;
    }
    return i + 1;
}

static bool is_key(const struct parse *parse, size_t from, size_t to, const char *key) {
    size_t n = strlen(key);
    if (to - from != n + 2 || memcmp(parse->text + from + 1, key, n) != 0)
        return false;
    while (to < parse->size && strchr(" \t\r\n", parse->text[to]))
        to++;
    return to < parse->size && parse->text[to] == ':';
}

/* The line of a field of the outermost object; that of the whole when it is written with escapes; 0 without a text. */
static unsigned find_line(const struct parse *parse, const char *key) {
    unsigned line = 1, depth = 0;
    if (!parse->text)
        return 0;
    for (size_t i = 0; i < parse->size;) {
        char c = parse->text[i];
        line += c == '\n';
        depth += c == '{' || c == '[';
        depth -= c == '}' || c == ']';
        if (c != '"') {
            i++;
            continue;
        }
        size_t end = skip_string(parse, i);
        if (depth == 1 && is_key(parse, i, end, key))
            return line;
        i = end;
    }
    return 1;
}

static int fail(const struct parse *parse, int code, unsigned line, const char *field,
        const char *format, ...) PNX_PRINTF(5, 6);
static int fail(const struct parse *parse, int code, unsigned line, const char *field,
        const char *format, ...) {
    if (!parse->err)
        return code;
    *parse->err = (struct pnx_error){.code = code, .phase = "parse", .field = field};
    char *message = parse->err->message;
    int n = line ? snprintf(message, sizeof(parse->err->message), "line %u: ", line) : 0;
    va_list args;
    va_start(args, format);
    vsnprintf(message + n, sizeof(parse->err->message) - (size_t)n, format, args);
    va_end(args);
    return code;
}

/* ---- values ---- */

static int wrong_type(
        const struct parse *parse, const struct setting *setting, const char *wanted) {
    return fail(parse, -EINVAL, find_line(parse, setting->name), setting->name, "%s: must be %s",
            setting->name, wanted);
}

/* The library's own options have the same texts for bytes and times: "64MiB", "5min", "never". */
static bool parse_unit(const char *option, const char *text, struct pnx_cache_opts *opts) {
    *opts = (struct pnx_cache_opts){.size = sizeof(*opts)};
    return pnx_cache_opts_set(opts, option, text, NULL) == 0;
}

static int read_count(const struct parse *parse, const struct setting *setting, const json_t *value,
        uint64_t *ret_number) {
    if (!json_is_integer(value) || json_integer_value(value) < 0)
        return wrong_type(parse, setting, "a whole number");
    *ret_number = (uint64_t)json_integer_value(value);
    return 0;
}

static int read_bytes(const struct parse *parse, const struct setting *setting, const json_t *value,
        uint64_t *ret_number) {
    struct pnx_cache_opts opts;
    if (json_is_integer(value) && json_integer_value(value) >= 0) {
        *ret_number = (uint64_t)json_integer_value(value);
        return 0;
    }
    if (!json_is_string(value) || !parse_unit("capacity", json_string_value(value), &opts))
        return wrong_type(parse, setting, "a number of bytes or a text such as \"64MiB\"");
    *ret_number = opts.capacity;
    return 0;
}

static int read_time(const struct parse *parse, const struct setting *setting, const json_t *value,
        uint64_t *ret_number) {
    struct pnx_cache_opts opts;
    if (!json_is_string(value) || !parse_unit("ttl", json_string_value(value), &opts))
        return wrong_type(parse, setting, "a text such as \"5min\" or \"250ms\"");
    *ret_number = (uint64_t)opts.ttl;
    return 0;
}

static int read_level(const struct parse *parse, const struct setting *setting, const json_t *value,
        uint64_t *ret_number) {
    const char *text = json_is_string(value) ? json_string_value(value) : "";
    for (uint64_t level = PNX_LOG_ERROR; level <= PNX_LOG_DEBUG; level++) {
        if (strcmp(text, levels[level]) == 0) {
            *ret_number = level;
            return 0;
        }
    }
    return wrong_type(parse, setting, "\"error\", \"warning\", \"info\" or \"debug\"");
}

static int check_range(const struct parse *parse, const struct setting *setting, uint64_t number) {
    if (in_range(setting, number))
        return 0;
    unsigned line = find_line(parse, setting->name);
    if (setting->kind == TIME)
        return fail(parse, -ERANGE, line, setting->name,
                "%s: %" PRIu64 " ms is not within %" PRIu64 " .. %" PRIu64 " ms", setting->name,
                number / (uint64_t)PNX_MS, setting->min / (uint64_t)PNX_MS,
                setting->max / (uint64_t)PNX_MS);
    return fail(parse, -ERANGE, line, setting->name,
            "%s: %" PRIu64 " is not within %" PRIu64 " .. %" PRIu64, setting->name, number,
            setting->min, setting->max);
}

static int read_setting(const struct parse *parse, const struct setting *setting,
        const json_t *value, struct lookup_settings *to) {
    static int (*const readers[])(
            const struct parse *, const struct setting *, const json_t *, uint64_t *) = {
            [COUNT] = read_count,
            [BYTES] = read_bytes,
            [TIME] = read_time,
            [LEVEL] = read_level,
    };
    uint64_t number = 0;
    int rc = readers[setting->kind](parse, setting, value, &number);
    if (!rc)
        rc = check_range(parse, setting, number);
    if (!rc)
        set(to, setting, number);
    return rc;
}

/* ---- one, by its name ---- */

/* As it would stand in the file: digits are a number where one may be, all else is a text. */
static json_t *value_of(const struct setting *setting, const char *text) {
    size_t n = strlen(text);
    bool number = setting->kind == COUNT || setting->kind == BYTES;
    if (number && n > 0 && n < 19 && strspn(text, "0123456789") == n)
        return json_integer(strtoll(text, NULL, 10));
    return json_string(text); /* NULL when it is not UTF-8, too */
}

int lookup_settings_set(
        struct lookup_settings *to, const char *name, const char *text, struct pnx_error *err) {
    struct parse parse = {.err = err};
    for (size_t i = 0; i < SETTINGS; i++) {
        if (strcmp(settings[i].name, name) != 0)
            continue;
        json_t *value = value_of(&settings[i], text);
        if (!value)
            return fail(&parse, -EINVAL, 0, settings[i].name, "%s: cannot be read", name);
        int rc = read_setting(&parse, &settings[i], value, to);
        json_decref(value);
        return rc;
    }
    return fail(&parse, -ENOENT, 0, NULL, "there is no setting \"%.80s\"", name);
}

/* ---- the whole ---- */

static int read_field(const struct parse *parse, const char *key, const json_t *value,
        struct lookup_settings *to) {
    for (size_t i = 0; i < SETTINGS; i++) {
        if (strcmp(settings[i].name, key) == 0)
            return read_setting(parse, &settings[i], value, to);
    }
    return fail(parse, -EINVAL, find_line(parse, key), NULL, "there is no setting \"%.80s\"", key);
}

static int read_object(const struct parse *parse, json_t *root, struct lookup_settings *to) {
    if (!json_is_object(root))
        return fail(parse, -EINVAL, 1, NULL, "the settings must be one JSON object: { ... }");
    const char *key;
    json_t *value;
    json_object_foreach(root, key, value) {
        int rc = read_field(parse, key, value, to);
        if (rc)
            return rc;
    }
    return 0;
}

static bool is_blank(const char *text, size_t size) {
    for (size_t i = 0; i < size; i++) {
        if (!strchr(" \t\r\n", text[i]) || !text[i])
            return false;
    }
    return true;
}

int lookup_settings_parse(const char *text, size_t size, struct pnx_error *err,
        struct lookup_settings *ret_settings) {
    struct parse parse = {.text = text, .size = size, .err = err};
    if (size > LOOKUP_SETTINGS_MAX_BYTES)
        return fail(&parse, -EFBIG, 1, NULL, "longer than %u bytes", LOOKUP_SETTINGS_MAX_BYTES);
    struct lookup_settings result;
    lookup_settings_default(&result);
    /* An editor or a full disk may leave a file like that: it must not undo what is in force. */
    if (is_blank(text, size))
        return fail(&parse, -EINVAL, 1, NULL, "the file is empty; {} sets all defaults");
    json_error_t error;
    json_t *root = json_loadb(text, size, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &error);
    if (!root) {
        bool memory = json_error_code(&error) == json_error_out_of_memory;
        return fail(&parse, memory ? -ENOMEM : -EINVAL, error.line > 0 ? (unsigned)error.line : 1,
                NULL, "%s", error.text);
    }
    int rc = read_object(&parse, root, &result);
    json_decref(root);
    if (!rc)
        *ret_settings = result;
    return rc;
}
