/* SPDX-License-Identifier: Apache-2.0 */
#include "config_case.h"

int parses, validations, changes, events_changed, events_refused, last_refusal;
long last_change;
char story[2048];
bool tells;
struct test_env te;
struct pnx_rc_type number_type = PNX_RC_TYPE(struct number);

int case_parse(void *ctx, const char *text, size_t n, struct pnx_error *err, void **ret_value) {
    (void)ctx;
    __atomic_add_fetch(&parses, 1, __ATOMIC_RELAXED);
    CHECK(text[n] == '\0');
    if (strncmp(text, "bad", 3) == 0)
        return pnx_config_fail(err, PNX_E_FORMAT, "line 1: \"%.10s\" is no number", text);
    if (strncmp(text, "silent", 6) == 0)
        return -EIO;
    if (strncmp(text, "positive", 8) == 0)
        return 7;
    if (strncmp(text, "nothing", 7) == 0)
        return 0;
    if (strncmp(text, "memory", 6) == 0)
        return -ENOMEM;
    return pnx_rc_new(&number_type, &(struct number){atol(text), n}, ret_value);
}

static int validate(void *ctx, const void *next, const void *current, struct pnx_error *err) {
    const struct number *number = next;
    (void)ctx;
    (void)current;
    __atomic_add_fetch(&validations, 1, __ATOMIC_RELAXED);
    return number->value <= 1000 ? 0
                                 : pnx_config_fail(err, -ERANGE, "%ld is over 1000", number->value);
}

static void on_change(void *ctx, const void *value, uint64_t version) {
    (void)ctx;
    (void)version;
    last_change = ((const struct number *)value)->value;
    __atomic_add_fetch(&changes, 1, __ATOMIC_RELEASE);
}

/* Appends "name(cause) value code;" of one event. */
static void tell(const struct pnx_event *event) {
    size_t n = strlen(story);
    const char *name = pnx_event_name(event->type);
    n += (size_t)snprintf(story + n, sizeof(story) - n, "%s", name + strlen("config_"));
    if (event->cause && n < sizeof(story))
        n += (size_t)snprintf(story + n, sizeof(story) - n, "(%s)", event->cause);
    if (n < sizeof(story))
        n += (size_t)snprintf(story + n, sizeof(story) - n, " %lld", (long long)event->value);
    if (event->code && n < sizeof(story))
        n += (size_t)snprintf(story + n, sizeof(story) - n, " %s", pnx_errname(event->code));
    if (n < sizeof(story))
        snprintf(story + n, sizeof(story) - n, ";");
}

static void hear(void *ctx, const struct pnx_event *event) {
    (void)ctx;
    if (tells)
        tell(event);
    if (event->type == PNX_EVENT_CONFIG_CHANGED)
        __atomic_add_fetch(&events_changed, 1, __ATOMIC_RELAXED);
    if (event->type == PNX_EVENT_CONFIG_REFUSED) {
        last_refusal = event->code;
        __atomic_add_fetch(&events_refused, 1, __ATOMIC_RELAXED);
    }
}

void case_begin(void) {
    uint32_t id;
    test_env_init(&te);
    test_env_virtual(&te, 1000 * PNX_SEC);
    number_type.env = &te.env;
    CHECK_EQ(pnx_monitor_add(pnx_stats_default(),
                     &(struct pnx_monitor){.size = sizeof(struct pnx_monitor), .event = hear}, &id),
            0);
}

struct pnx_config_opts case_opts(const char *path) {
    return *PNX_CONFIG_OPTS(.name = "test", .path = path, .env = &te.env, .parse = case_parse,
            .validate = validate, .on_change = on_change, .debounce_ns = DEBOUNCE, .poll_ns = POLL,
            .max_bytes = 4096);
}

struct pnx_config *case_create(const char *path, uint32_t flags) {
    struct pnx_config_opts opts = case_opts(path);
    struct pnx_config *config = NULL;
    struct pnx_error err = {0};
    opts.flags = flags;
    int rc = pnx_config_create(&opts, &err, &config);
    CHECK_MSG(rc == 0, "%s: %s", pnx_errname(rc), err.message);
    return config;
}

void case_end(struct pnx_config **config) {
    pnx_config_release(config);
    CHECK(*config == NULL);
    test_env_check_empty(&te);
}

long case_value(struct pnx_config *config) {
    PNX_AUTO_RC const struct number *number = pnx_config_load(config, NULL);
    return number->value;
}

struct pnx_config_status case_status(struct pnx_config *config) {
    struct pnx_config_status status = {.size = sizeof(status)};
    CHECK_EQ(pnx_config_read_status(config, &status), 0);
    return status;
}

struct pnx_config_stats case_stats(struct pnx_config *config) {
    struct pnx_config_stats stats = {.size = sizeof(stats)};
    CHECK_EQ(pnx_config_read_stats(config, &stats), 0);
    return stats;
}

pnx_ns case_tick(struct pnx_config *config) {
    return pnx_config_tick(config, te.now);
}

void case_settle(struct pnx_config *config) {
    case_tick(config);
    test_env_advance(&te, DEBOUNCE);
    case_tick(config);
}

void put(const char *path, const char *text) {
    test_write_file(path, text, strlen(text));
}

void put_by_rename(const char *path, const char *text) {
    char other[600];
    snprintf(other, sizeof(other), "%s.new", path);
    put(other, text);
    CHECK(rename(other, path) == 0);
}
