/* SPDX-License-Identifier: Apache-2.0 */
/* Errors: P1 and P2 of patinox/error.h. */
#include "base/error.h"
#include "harness/harness.h"

struct entry {
    int code;
    const char *name;
    const char *text;
    enum pnx_recovery recovery;
    bool own;
};
#define OWN(name, value, class, text) {name, #name, text, PNX_RECOVERY_##class, true},
#define ERRNO(name, class, text)      {-name, #name, text, PNX_RECOVERY_##class, false},
static const struct entry table[] = {PNX_ERRORS_OWN(OWN) PNX_ERRORS_ERRNO(ERRNO)};
#define N (sizeof(table) / sizeof(table[0]))

TEST(p1_every_code_has_a_name_a_text_and_a_class) {
    for (size_t i = 0; i < N; i++) {
        const struct entry *e = &table[i];
        CHECK_STR(pnx_errname(e->code), e->name);
        CHECK_STR(pnx_strerror(e->code), e->text);
        CHECK(strlen(e->text) > 3);
        CHECK_EQ(pnx_recovery(e->code), e->recovery);
        CHECK(e->recovery >= PNX_RECOVERY_RETRY && e->recovery <= PNX_RECOVERY_FAIL);
    }
}

TEST(p1_no_two_codes_share_a_value_or_a_name) {
    for (size_t i = 0; i < N; i++) {
        for (size_t k = 0; k < i; k++) {
            CHECK_MSG(table[i].code != table[k].code, "%s and %s are both %d", table[i].name,
                    table[k].name, table[i].code);
            CHECK(strcmp(table[i].name, table[k].name) != 0);
            CHECK_MSG(strcmp(table[i].text, table[k].text) != 0, "%s and %s have one text",
                    table[i].name, table[k].name);
        }
    }
}

TEST(p1_own_codes_live_where_no_errno_does) {
    for (size_t i = 0; i < N; i++) {
        CHECK(table[i].code < 0);
        CHECK_EQ(table[i].code <= -4096, table[i].own);
        CHECK_EQ(strncmp(table[i].name, "PNX_E_", 6) == 0, table[i].own);
    }
}

TEST(p2_every_int_gets_an_answer) {
    int known = 0;
    for (int code = -6000; code <= 6000; code++) {
        const char *name = pnx_errname(code), *text = pnx_strerror(code);
        CHECK(name && text && *name && *text);
        enum pnx_recovery recovery = pnx_recovery(code);
        CHECK(recovery >= PNX_RECOVERY_RETRY && recovery <= PNX_RECOVERY_FAIL);
        if (strcmp(name, "unknown") == 0) {
            CHECK_STR(text, "unknown error");
            CHECK_EQ(recovery, PNX_RECOVERY_FAIL);
        } else if (code != 0) {
            known++;
        }
    }
    CHECK_EQ(known, N);
    CHECK_STR(pnx_errname(0), "0");
    CHECK_STR(pnx_strerror(0), "success");
    CHECK_STR(pnx_errname(INT32_MIN), "unknown");
    CHECK_STR(pnx_strerror(INT32_MAX), "unknown error");
    CHECK_STR(pnx_errname(ETIMEDOUT), "unknown"); /* errors are negative */
}

TEST(the_classes_that_callers_build_on) {
    CHECK_EQ(pnx_recovery(-ETIMEDOUT), PNX_RECOVERY_RETRY);
    CHECK_EQ(pnx_recovery(-ENOMEM), PNX_RECOVERY_FALLBACK);
    CHECK_EQ(pnx_recovery(PNX_E_BREAKER), PNX_RECOVERY_BREAK);
    CHECK_EQ(pnx_recovery(-EINVAL), PNX_RECOVERY_FAIL);
    CHECK_EQ(pnx_recovery(-ESHUTDOWN), PNX_RECOVERY_FAIL);
}

TEST(details_are_filled_and_the_code_is_returned) {
    struct pnx_error err;
    memset(&err, 0xa5, sizeof(err));
    CHECK_EQ(pnx__fail(&err, -EIO, -ENOSPC, "write", "could not write %d bytes", 7), -EIO);
    CHECK_EQ(err.code, -EIO);
    CHECK_EQ(err.cause, -ENOSPC);
    CHECK_STR(err.phase, "write");
    CHECK(err.field == NULL);
    CHECK_STR(err.message, "could not write 7 bytes");
    memset(&err, 0xa5, sizeof(err));
    CHECK_EQ(pnx__fail_field(&err, -EINVAL, "max", "max is %u", 0u), -EINVAL);
    CHECK_EQ(err.code, -EINVAL);
    CHECK_EQ(err.cause, 0);
    CHECK_STR(err.phase, "options");
    CHECK_STR(err.field, "max");
    CHECK_STR(err.message, "max is 0");
    CHECK_EQ(pnx__fail(NULL, -EIO, 0, "write", "%s", "x"), -EIO);
    CHECK_EQ(pnx__fail_field(NULL, -EINVAL, "max", "%s", "x"), -EINVAL);
}

TEST(a_long_message_is_cut_and_terminated) {
    struct pnx_error err;
    char text[1000];
    memset(text, 'm', sizeof(text));
    text[999] = '\0';
    memset(&err, 0xa5, sizeof(err));
    pnx__fail(&err, -EIO, 0, "x", "%s", text);
    CHECK_EQ(strlen(err.message), sizeof(err.message) - 1);
}

TEST(the_version_is_that_of_the_header) {
    char expected[32];
    snprintf(expected, sizeof(expected), "%d.%d.%d", PNX_VERSION_MAJOR, PNX_VERSION_MINOR,
            PNX_VERSION_PATCH);
    CHECK_STR(pnx_version(), expected);
}
