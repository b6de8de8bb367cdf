/* SPDX-License-Identifier: Apache-2.0 */
/* Options: P1..P3 of base/options.h. */
#include "base/options.h"
#include "harness/harness.h"

struct demo {
    size_t size;
    const char *name;
    pnx_ns wait_ns;
    size_t bytes;
    uint32_t max;
    uint32_t flags;
};
struct demo_longer {
    struct demo demo;
    uint64_t newer;
};

static const struct pnx_opt rows[] = {
        PNX_OPT_ROW(struct demo, name, STRING, 0, 0, 0, 0, "a name") PNX_OPT_ROW(struct demo,
                wait_ns, NS, PNX_OPT_LIVE, 5 * PNX_SEC, PNX_MS, PNX_NEVER,
                "a wait") PNX_OPT_ROW(struct demo, bytes, BYTES, 0, 1 << 20, 4096, 1 << 30, "bytes")
                PNX_OPT_ROW(struct demo, max, U32, PNX_OPT_REQUIRED, 0, 1, 65535, "a maximum")
                        PNX_OPT_ROW(struct demo, flags, FLAGS, 0, 0, 0, 3, "flags")};
static const struct pnx_opt_table table = {
        "demo", sizeof(struct demo), rows, sizeof(rows) / sizeof(rows[0])};

static struct demo valid(void) {
    return (struct demo){.size = sizeof(struct demo), .max = 4};
}

TEST(p1_zero_selects_the_default) {
    struct demo in = valid(), out;
    struct pnx_error err = {0};
    CHECK_EQ(pnx__opts_resolve(&table, &in, &out, &err), 0);
    CHECK_EQ(out.wait_ns, 5 * PNX_SEC);
    CHECK_EQ(out.bytes, 1 << 20);
    CHECK_EQ(out.max, 4);
    CHECK_EQ(err.code, 0);
}

TEST(p1_a_required_field_that_is_zero_is_named) {
    struct demo in = {.size = sizeof(in)}, out;
    struct pnx_error err;
    CHECK_EQ(pnx__opts_resolve(&table, &in, &out, &err), -EINVAL);
    CHECK_STR(err.field, "max");
    CHECK_STR(err.phase, "options");
    CHECK_CONTAINS(err.message, "demo.max is required");
    CHECK_EQ(pnx__opts_resolve(&table, NULL, &out, NULL), -EINVAL);
}

TEST(p2_a_longer_struct_is_accepted_only_with_a_zero_tail) {
    struct demo_longer in = {.demo = valid()};
    struct demo out;
    struct pnx_error err;
    in.demo.size = sizeof(in);
    CHECK_EQ(pnx__opts_resolve(&table, &in, &out, &err), 0);
    CHECK_EQ(out.size, sizeof(struct demo));
    in.newer = 1;
    CHECK_EQ(pnx__opts_resolve(&table, &in, &out, &err), -E2BIG);
}

TEST(p2_a_shorter_struct_gets_defaults_for_the_rest) {
    struct demo in = valid(), out;
    in.size = offsetof(struct demo, flags);
    in.flags = 0xffff; /* beyond the size that the caller declared */
    CHECK_EQ(pnx__opts_resolve(&table, &in, &out, NULL), 0);
    CHECK_EQ(out.flags, 0);
    in.size = 0;
    CHECK_EQ(pnx__opts_resolve(&table, &in, &out, NULL), -EINVAL);
}

TEST(p3_each_bad_field_has_its_message_and_nothing_is_written) {
    struct demo out = {.max = 77};
    struct pnx_error err;
    struct demo in = valid();
    in.wait_ns = -5;
    CHECK_EQ(pnx__opts_resolve(&table, &in, &out, &err), -EINVAL);
    CHECK_STR(err.message, "demo.wait_ns is negative (-5 ns)");
    in = valid();
    in.wait_ns = 10;
    CHECK_EQ(pnx__opts_resolve(&table, &in, &out, &err), -EINVAL);
    CHECK_STR(err.message, "demo.wait_ns is 10ns; it must be between 1ms and never");
    in = valid();
    in.max = 65536;
    CHECK_EQ(pnx__opts_resolve(&table, &in, &out, &err), -EINVAL);
    CHECK_STR(err.message, "demo.max is 65536; it must be between 1 and 65535");
    in = valid();
    in.flags = 8;
    CHECK_EQ(pnx__opts_resolve(&table, &in, &out, &err), -EINVAL);
    CHECK_STR(err.message, "demo.flags: unknown bits 0x8");
    CHECK_EQ(out.max, 77);
}

TEST(text_sets_a_field_in_its_unit) {
    struct demo opts = valid();
    CHECK_EQ(pnx__opts_set(&table, &opts, "wait_ns", "250ms", NULL), 0);
    CHECK_EQ(opts.wait_ns, 250 * PNX_MS);
    CHECK_EQ(pnx__opts_set(&table, &opts, "wait_ns", "never", NULL), 0);
    CHECK_EQ(opts.wait_ns, PNX_NEVER);
    CHECK_EQ(pnx__opts_set(&table, &opts, "bytes", "2 MiB", NULL), 0);
    CHECK_EQ(opts.bytes, 2 << 20);
    CHECK_EQ(pnx__opts_set(&table, &opts, "bytes", "0", NULL), 0);
    CHECK_EQ(opts.bytes, 0);
    CHECK_EQ(pnx__opts_set(&table, &opts, "max", "9", NULL), 0);
    CHECK_EQ(opts.max, 9);
    CHECK_EQ(pnx__opts_set(&table, &opts, "flags", "3", NULL), 0);
    CHECK_EQ(opts.flags, 3);
}

TEST(text_that_does_not_fit_is_refused_and_changes_nothing) {
    struct demo opts = valid();
    struct pnx_error err;
    CHECK_EQ(pnx__opts_set(&table, &opts, "wait_ns", "250", &err), -EINVAL);
    CHECK_CONTAINS(err.message, "not a duration such as \"250ms\"");
    CHECK_EQ(pnx__opts_set(&table, &opts, "bytes", "12 parsec", &err), -EINVAL);
    CHECK_CONTAINS(err.message, "not a size such as");
    CHECK_EQ(pnx__opts_set(&table, &opts, "max", "9s", &err), -EINVAL);
    CHECK_CONTAINS(err.message, "not a whole number");
    CHECK_EQ(pnx__opts_set(&table, &opts, "max", "-1", &err), -EINVAL);
    CHECK_EQ(pnx__opts_set(&table, &opts, "max", "0", &err), -EINVAL);
    CHECK_EQ(pnx__opts_set(&table, &opts, "max", "70000", &err), -ERANGE);
    CHECK_EQ(pnx__opts_set(&table, &opts, "max", "99999999999999999999999", &err), -ERANGE);
    CHECK_EQ(pnx__opts_set(&table, &opts, "wait_ns", "9999999999h", &err), -ERANGE);
    CHECK_EQ(pnx__opts_set(&table, &opts, "nonsense", "1", &err), -ENOENT);
    CHECK_CONTAINS(err.message, "demo has no option \"nonsense\"");
    CHECK_EQ(pnx__opts_set(&table, &opts, "name", "x", &err), -ENOTSUP);
    CHECK_EQ(memcmp(&opts, &(struct demo){.size = sizeof(opts), .max = 4}, sizeof(opts)), 0);
}

TEST(values_are_written_as_they_are_read) {
    char buf[32];
    pnx__opts_format(PNX_OPT_NS, (uint64_t)(10 * 60 * PNX_SEC), buf, sizeof(buf));
    CHECK_STR(buf, "10min");
    pnx__opts_format(PNX_OPT_NS, 1500, buf, sizeof(buf));
    CHECK_STR(buf, "1500ns");
    pnx__opts_format(PNX_OPT_BYTES, 64 << 20, buf, sizeof(buf));
    CHECK_STR(buf, "64MiB");
    pnx__opts_format(PNX_OPT_U32, 0, buf, sizeof(buf));
    CHECK_STR(buf, "0");
}
