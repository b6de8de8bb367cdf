/* SPDX-License-Identifier: Apache-2.0 */
/* lookup's configuration file: what is read from it, and what is said about a bad one. */
#include "harness/harness.h"
#include "settings.h"

static int parse(const char *text, struct pnx_error *err, struct lookup_settings *settings) {
    *err = (struct pnx_error){0};
    return lookup_settings_parse(text, strlen(text), err, settings);
}

TEST(defaults_are_what_the_header_says) {
    struct lookup_settings settings;
    lookup_settings_default(&settings);
    CHECK_EQ(settings.pool_max, 4);
    CHECK_EQ(settings.cache_bytes, 64 << 20);
    CHECK_EQ(settings.cache_ttl_ns, 300 * PNX_SEC);
    CHECK_EQ(settings.cache_refresh_ns, 240 * PNX_SEC);
    CHECK_EQ(settings.cache_negative_ttl_ns, 60 * PNX_SEC);
    CHECK_EQ(settings.budget_bytes, 512 << 20);
    CHECK_EQ(settings.search_timeout_ns, 5 * PNX_SEC);
    CHECK_EQ(settings.log_level, PNX_LOG_INFO);
    CHECK_EQ(lookup_settings_check(&settings, NULL), 0);
    struct pnx_error err;
    struct lookup_settings empty;
    CHECK_EQ(parse("{}", &err, &empty), 0);
    CHECK(memcmp(&empty, &settings, sizeof(settings)) == 0);
}

TEST(every_field_is_read) {
    struct lookup_settings settings;
    struct pnx_error err;
    CHECK_EQ(parse("{\"pool_max\": 7, \"cache_bytes\": \"2MiB\", \"cache_ttl\": \"10s\",\n"
                   " \"cache_refresh\": \"8s\", \"cache_negative_ttl\": \"3s\","
                   " \"budget_bytes\": 104857600, \"search_timeout\": \"250ms\", \"log_level\": "
                   "\"debug\"}",
                     &err, &settings),
            0);
    CHECK_EQ(settings.pool_max, 7);
    CHECK_EQ(settings.cache_bytes, 2 << 20);
    CHECK_EQ(settings.cache_ttl_ns, 10 * PNX_SEC);
    CHECK_EQ(settings.cache_refresh_ns, 8 * PNX_SEC);
    CHECK_EQ(settings.cache_negative_ttl_ns, 3 * PNX_SEC);
    CHECK_EQ(settings.budget_bytes, 100 << 20);
    CHECK_EQ(settings.search_timeout_ns, 250 * PNX_MS);
    CHECK_EQ(settings.log_level, PNX_LOG_DEBUG);
    CHECK_EQ(parse("{\"cache_ttl\": \"never\"}", &err, &settings), 0);
    CHECK_EQ(settings.cache_ttl_ns, PNX_NEVER);
    CHECK_EQ(parse("{\"cache_refresh\": \"never\"}", &err, &settings), 0);
    CHECK_EQ(settings.cache_refresh_ns, PNX_NEVER);
    CHECK_EQ(lookup_settings_check(&settings, &err), 0);
}

TEST(p1_bad_file_names_line_and_field) {
    static const struct {
        const char *text;
        int code;
        const char *field;
        const char *message;
    } bad[] = {
            {"", -EINVAL, NULL, "line 1: the file is empty"},
            {" \n\t", -EINVAL, NULL, "line 1: the file is empty"},
            {"{", -EINVAL, NULL, "line 1: "},
            {"{\"pool_max\": 1,\n\n}", -EINVAL, NULL, "line 3: "},
            {"[1]", -EINVAL, NULL, "line 1: the settings must be one JSON object"},
            {"7", -EINVAL, NULL, "line 1: the settings must be one JSON object"},
            {"{\"pool_max\": 1} x", -EINVAL, NULL, "line 1: "},
            {"{\n\"pool\": 1}", -EINVAL, NULL, "line 2: there is no setting \"pool\""},
            {"{\n\n \"pool_max\": \"4\"}", -EINVAL, "pool_max",
                    "line 3: pool_max: must be a whole number"},
            {"{\"pool_max\": 4.5}", -EINVAL, "pool_max", "line 1: pool_max: must be"},
            {"{\"pool_max\": -1}", -EINVAL, "pool_max", "line 1: pool_max: must be"},
            {"{\"pool_max\": 0}", -ERANGE, "pool_max", "line 1: pool_max: 0 is not within 1 .. 64"},
            {"{\"pool_max\": 65}", -ERANGE, "pool_max", "65 is not within 1 .. 64"},
            {"{\"pool_max\": 1,\n\"pool_max\": 2}", -EINVAL, NULL, "duplicate"},
            {"{\"cache_bytes\": 1000}", -ERANGE, "cache_bytes", "1000 is not within"},
            {"{\"cache_bytes\": \"64 elephants\"}", -EINVAL, "cache_bytes", "\"64MiB\""},
            {"{\"cache_bytes\": null}", -EINVAL, "cache_bytes", "\"64MiB\""},
            {"{\"cache_bytes\": 1e30}", -EINVAL, "cache_bytes", "\"64MiB\""},
            {"{\"cache_ttl\": 5}", -EINVAL, "cache_ttl", "\"5min\""},
            {"{\"cache_ttl\": \"0s\"}", -ERANGE, "cache_ttl", "0 ms is not within 1 .. "},
            {"{\"cache_negative_ttl\": \"never\"}", -ERANGE, "cache_negative_ttl", "is not within"},
            {"{\"search_timeout\": \"never\"}", -ERANGE, "search_timeout", "is not within"},
            {"{\"search_timeout\": \"11min\"}", -ERANGE, "search_timeout", "660000 ms"},
            {"{\"budget_bytes\": {}}", -EINVAL, "budget_bytes", "number of bytes"},
            /* One connection would not fit into that. */
            {"{\"budget_bytes\": \"7MiB\"}", -ERANGE, "budget_bytes",
                    "7340032 is not within 8388608 .. "},
            {"{\"log_level\":\n\"loud\"}", -EINVAL, "log_level",
                    "line 1: log_level: must be \"error\""},
            {"{\"log_level\": {\"pool_max\": 3},\n\"pool_max\": 0}", -EINVAL, "log_level",
                    "line 1"},
            {"{\"a\\u0000b\": 1}", -EINVAL, NULL, "line 1"},
            {"{\"\xFF\": 1}", -EINVAL, NULL, "line 1"},
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct lookup_settings settings, before;
        memset(&settings, 0x5A, sizeof(settings));
        before = settings;
        struct pnx_error err;
        int rc = parse(bad[i].text, &err, &settings);
        CHECK_MSG(rc == bad[i].code, "%s: %d %s", bad[i].text, rc, err.message);
        CHECK_CONTAINS(err.message, bad[i].message);
        CHECK_MSG(err.field == bad[i].field ||
                          (bad[i].field && err.field && !strcmp(err.field, bad[i].field)),
                "%s: field %s", bad[i].text, err.field ? err.field : "NULL");
        CHECK(memcmp(&settings, &before, sizeof(settings)) == 0);
        CHECK_EQ(parse(bad[i].text, &err, &settings), rc);
        CHECK_EQ(lookup_settings_parse(bad[i].text, strlen(bad[i].text), NULL, &settings), rc);
    }
}

TEST(too_long_a_file_is_refused) {
    static char text[LOOKUP_SETTINGS_MAX_BYTES + 1];
    memset(text, ' ', sizeof(text));
    memcpy(text, "{}", 2);
    struct lookup_settings settings;
    struct pnx_error err;
    CHECK_EQ(lookup_settings_parse(text, sizeof(text), &err, &settings), -EFBIG);
    CHECK_EQ(lookup_settings_parse(text, sizeof(text) - 1, &err, &settings), 0);
}

TEST(p1_random_edits_never_crash) {
    uint64_t state = test_seed();
    const char *good = "{\"pool_max\": 7, \"cache_bytes\": \"2MiB\",\n\"cache_ttl\": \"10s\"}";
    for (int round = 0; round < (test_slow() ? 2000 : 20000); round++) {
        char text[128];
        size_t n = strlen(good);
        memcpy(text, good, n);
        for (uint64_t edits = 1 + test_random(&state) % 4; edits > 0; edits--)
            text[test_random(&state) % n] = (char)test_random(&state);
        struct pnx_error err = {0};
        struct lookup_settings settings;
        int rc = lookup_settings_parse(text, n, &err, &settings);
        if (rc == 0)
            CHECK_EQ(lookup_settings_check(&settings, &err), 0);
        else
            CHECK_CONTAINS(err.message, "line ");
    }
}

TEST(check_finds_what_was_not_parsed) {
    struct lookup_settings settings;
    struct pnx_error err = {0};
    lookup_settings_default(&settings);
    settings.pool_max = 0;
    CHECK_EQ(lookup_settings_check(&settings, &err), -ERANGE);
    CHECK_STR(err.field, "pool_max");
    lookup_settings_default(&settings);
    settings.cache_ttl_ns = -1;
    CHECK_EQ(lookup_settings_check(&settings, &err), -ERANGE);
    CHECK_STR(err.field, "cache_ttl");
    CHECK_STR(lookup_log_level_name(PNX_LOG_WARNING), "warning");
    CHECK_STR(lookup_log_level_name((enum pnx_log_level)9), "unknown");
}

TEST(one_setting_is_set_by_its_name) {
    struct lookup_settings settings, before;
    struct pnx_error err;
    lookup_settings_default(&settings);
    CHECK_EQ(lookup_settings_set(&settings, "pool_max", "9", &err), 0);
    CHECK_EQ(lookup_settings_set(&settings, "cache_bytes", "2MiB", &err), 0);
    CHECK_EQ(lookup_settings_set(&settings, "budget_bytes", "104857600", &err), 0);
    CHECK_EQ(lookup_settings_set(&settings, "cache_ttl", "never", &err), 0);
    CHECK_EQ(lookup_settings_set(&settings, "search_timeout", "250ms", &err), 0);
    CHECK_EQ(lookup_settings_set(&settings, "log_level", "debug", &err), 0);
    CHECK_EQ(settings.pool_max, 9);
    CHECK_EQ(settings.cache_bytes, 2 << 20);
    CHECK_EQ(settings.budget_bytes, 100 << 20);
    CHECK_EQ(settings.cache_ttl_ns, PNX_NEVER);
    CHECK_EQ(settings.search_timeout_ns, 250 * PNX_MS);
    CHECK_EQ(settings.log_level, PNX_LOG_DEBUG);
    before = settings;
    static const struct {
        const char *name, *text, *message;
        int code;
    } bad[] = {
            {"poolmax", "1", "there is no setting \"poolmax\"", -ENOENT},
            {"pool_max", "", "pool_max: must be a whole number", -EINVAL},
            {"pool_max", "-1", "pool_max: must be a whole number", -EINVAL},
            {"pool_max", "4 ", "pool_max: must be a whole number", -EINVAL},
            {"pool_max", "99999999999999999999", "pool_max: must be a whole number", -EINVAL},
            {"pool_max", "65", "pool_max: 65 is not within 1 .. 64", -ERANGE},
            {"cache_bytes", "lots", "cache_bytes: must be a number of bytes", -EINVAL},
            {"cache_ttl", "5", "cache_ttl: must be a text such as", -EINVAL},
            {"search_timeout", "1h", "search_timeout: 3600000 ms is not within", -ERANGE},
            {"log_level", "DEBUG", "log_level: must be \"error\"", -EINVAL},
            {"log_level", "\xff", "log_level: cannot be read", -EINVAL},
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        err = (struct pnx_error){0};
        int rc = lookup_settings_set(&settings, bad[i].name, bad[i].text, &err);
        CHECK_MSG(rc == bad[i].code, "%s=%s: %d", bad[i].name, bad[i].text, rc);
        CHECK(strncmp(err.message, bad[i].message, strlen(bad[i].message)) == 0);
        CHECK(memcmp(&settings, &before, sizeof(settings)) == 0);
        CHECK_EQ(lookup_settings_set(&settings, bad[i].name, bad[i].text, NULL), rc);
    }
}
