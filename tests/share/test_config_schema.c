/* SPDX-License-Identifier: Apache-2.0 */
/* config: old schemas carried to the current one, and what the environment sets; P6 and P7 of patinox/config.h. */
#include "config_case.h"

/*
 * The format: "vN " and a number.  Schema 1 counts in tens, 2 in ones under another name, 3 has a label; each is a
 * struct of its own, all beginning with the schema, so that schema_of can tell them apart.
 */
struct document {
    uint32_t schema;
    long value;
    char label[16]; /* schema 3 */
};
static struct pnx_rc_type document_type = PNX_RC_TYPE(struct document);

static char order[64]; /* what was called, in turn */
static int fail_step;
static void *kept;

static void note(char c) {
    size_t n = strlen(order);
    if (n + 1 < sizeof(order))
        order[n] = c, order[n + 1] = '\0';
}

static int parse(void *ctx, const char *text, size_t n, struct pnx_error *err, void **ret_value) {
    struct document document = {0};
    unsigned schema;
    (void)ctx;
    (void)n;
    note('p');
    if (sscanf(text, "v%u %ld %15s", &schema, &document.value, document.label) < 2)
        return pnx_config_fail(err, PNX_E_FORMAT, "line 1: expected vN and a number");
    document.schema = schema;
    return pnx_rc_new(&document_type, &document, ret_value);
}

static int schema_of(void *ctx, const void *document, struct pnx_error *err, uint32_t *ret_schema) {
    (void)ctx;
    note('s');
    *ret_schema = ((const struct document *)document)->schema;
    return *ret_schema == 99 ? pnx_config_fail(err, -EIO, "cannot tell the schema") : 0;
}

static int step(const void *old, uint32_t from, long factor, const char *label,
        struct pnx_error *err, void **ret_document) {
    struct document next = *(const struct document *)old;
    CHECK_EQ(next.schema, from);
    note((char)('0' + from));
    if (fail_step == (int)from)
        return pnx_config_fail(err, -ERANGE, "no room for %ld", next.value);
    if (fail_step == -(int)from)
        return 0; /* gives nothing */
    next.schema = from + 1;
    next.value *= factor;
    snprintf(next.label, sizeof(next.label), "%s", label);
    return pnx_rc_new(&document_type, &next, ret_document);
}

static int from_1(void *ctx, const void *old, struct pnx_error *err, void **ret_document) {
    (void)ctx;
    return step(old, 1, 10, "", err, ret_document);
}

static int from_2(void *ctx, const void *old, struct pnx_error *err, void **ret_document) {
    (void)ctx;
    return step(old, 2, 1, "none", err, ret_document);
}

static const struct pnx_config_step steps[] = {{1, 0, from_1}, {2, 0, from_2}};

static int build(void *ctx, const void *document, struct pnx_error *err, void **ret_value) {
    const struct document *from = document;
    (void)ctx;
    note('b');
    CHECK_EQ(from->schema, 3);
    if (from->value == 13)
        return pnx_config_fail(err, -EDOM, "13 cannot be built");
    return pnx_rc_new(&number_type, &(struct number){from->value, strlen(from->label)}, ret_value);
}

static int validate(void *ctx, const void *next, const void *current, struct pnx_error *err) {
    (void)ctx;
    (void)current;
    note('v');
    return ((const struct number *)next)->value <= 1000
                   ? 0
                   : pnx_config_fail(err, -ERANGE, "over 1000");
}

static int override(
        void *ctx, void *value, const char *setting, const char *text, struct pnx_error *err) {
    struct number *number = value;
    (void)ctx;
    note('o');
    CHECK(pnx_rc_unique(value));
    if (strcmp(setting, "value") == 0) {
        char *end;
        number->value = strtol(text, &end, 10);
        return *text && !*end ? 0 : pnx_config_fail(err, -EINVAL, "\"%.20s\" is no number", text);
    }
    if (strcmp(setting, "length") == 0) {
        number->length = strlen(text);
        return 0;
    }
    return -ENOENT;
}

static struct pnx_config_opts schema_opts(const char *path) {
    struct pnx_config_opts opts = case_opts(path);
    document_type.env = &te.env;
    opts.flags = PNX_CONFIG_NO_WATCH;
    opts.parse = parse;
    opts.schema_of = schema_of;
    opts.schema = 3;
    opts.steps = steps;
    opts.steps_count = 2;
    opts.build = build;
    opts.validate = validate;
    return opts;
}

static struct pnx_config_opts env_opts(const char *path) {
    struct pnx_config_opts opts = schema_opts(path);
    opts.env_prefix = "PNXT_";
    opts.override = override;
    return opts;
}

static struct pnx_config *create(const struct pnx_config_opts *opts) {
    struct pnx_config *config = NULL;
    struct pnx_error err = {0};
    order[0] = '\0';
    int rc = pnx_config_create(opts, &err, &config);
    CHECK_MSG(rc == 0, "%s: %s", pnx_errname(rc), err.message);
    return config;
}

static void check_refused(
        struct pnx_config *config, int code, const char *phase, const char *message) {
    struct pnx_error err = {0};
    uint64_t version = pnx_config_version(config);
    int before = events_refused;
    CHECK_EQ(pnx_config_reload(config, &err), code);
    CHECK_STR(err.phase, phase);
    CHECK_CONTAINS(err.message, message);
    CHECK_CONTAINS(err.message, "/c: ");
    CHECK_EQ(pnx_config_version(config), version);
    CHECK_EQ(events_refused, before + 1);
    CHECK_EQ(last_refusal, code);
    CHECK_STR(case_status(config).error.message, err.message);
}

/* ---- P6 ---- */

TEST(p6_an_old_text_goes_through_each_step_once_in_order) {
    case_begin();
    const char *path = test_path("c");
    put(path, "v1 7");
    struct pnx_config_opts opts = schema_opts(path);
    struct pnx_config *config = create(&opts);
    CHECK_STR(order, "ps12bv");
    CHECK_EQ(case_value(config), 70);
    CHECK_EQ(case_status(config).schema, 1);
    CHECK_EQ(case_stats(config).migrations, 2);
    order[0] = '\0';
    put(path, "v2 8");
    CHECK_EQ(pnx_config_reload(config, NULL), 0);
    CHECK_STR(order, "ps2bv");
    CHECK_EQ(case_value(config), 8);
    order[0] = '\0';
    put(path, "v3 9 label");
    CHECK_EQ(pnx_config_reload(config, NULL), 0);
    CHECK_STR(order, "psbv");
    CHECK_EQ(case_value(config), 9);
    CHECK_EQ(case_status(config).schema, 3);
    CHECK_EQ(case_stats(config).migrations, 3);
    case_end(&config);
}

TEST(p6_a_schema_that_is_not_known_is_refused_with_both_numbers) {
    case_begin();
    const char *path = test_path("c");
    put(path, "v3 1");
    struct pnx_config_opts opts = schema_opts(path);
    struct pnx_config *config = create(&opts);
    put(path, "v4 1");
    check_refused(config, -ENOTSUP, "schema", "has schema 4; this program knows none newer than 3");
    put(path, "v0 1");
    check_refused(config, -ENOTSUP, "schema", "does not say its schema; the current one is 3");
    put(path, "v99 1");
    check_refused(config, -EIO, "schema", "cannot tell the schema");
    case_end(&config);
    opts.steps = &steps[1]; /* the way from 1 has been given up */
    opts.steps_count = 1;
    put(path, "v2 5");
    config = create(&opts);
    CHECK_EQ(case_value(config), 5);
    put(path, "v1 1");
    check_refused(config, -ENOTSUP, "schema", "has schema 1; this program reads none older than 2");
    case_end(&config);
    opts.steps = NULL;
    opts.steps_count = 0;
    struct pnx_error err;
    CHECK_EQ(pnx_config_create(&opts, &err, &config), -ENOTSUP);
    CHECK_CONTAINS(err.message, "reads none older than 3");
    test_env_check_empty(&te);
}

TEST(p6_a_step_that_fails_refuses_the_text) {
    case_begin();
    const char *path = test_path("c");
    put(path, "v3 1");
    struct pnx_config_opts opts = schema_opts(path);
    struct pnx_config *config = create(&opts);
    put(path, "v1 5");
    fail_step = 2;
    check_refused(config, -ERANGE, "migrate", "from schema 2 to 3: no room for 50");
    fail_step = -1;
    check_refused(config, -EINVAL, "migrate", "from schema 1 to 2: migrate gave no value");
    fail_step = 0;
    put(path, "v3 13");
    check_refused(config, -EDOM, "build", "13 cannot be built");
    put(path, "v1 5");
    CHECK_EQ(pnx_config_reload(config, NULL), 0);
    CHECK_EQ(case_value(config), 50);
    case_end(&config);
}

static void check_option(
        const struct pnx_config_opts *opts, const char *field, const char *message) {
    struct pnx_config *config = NULL;
    struct pnx_error err = {0};
    CHECK_EQ(pnx_config_create(opts, &err, &config), -EINVAL);
    CHECK_STR(err.field, field);
    CHECK_CONTAINS(err.message, message);
}

TEST(each_bad_option_of_schemas_and_variables_is_named) {
    static const struct pnx_config_step gap[] = {{1, 0, from_1}, {3, 0, from_2}};
    static const struct pnx_config_step empty[] = {{2, 0, NULL}};
    static const struct pnx_config_variable nameless[] = {{"", "value"}};
    case_begin();
    const char *path = test_path("c");
    put(path, "v3 1");
    struct pnx_config_opts good = env_opts(path), opts = good;
    opts.schema_of = NULL;
    check_option(&opts, "schema_of", "needed with schema");
    opts = good;
    opts.schema = 0;
    check_option(&opts, "schema", "needed with schema_of and steps");
    opts = good;
    opts.schema = 4;
    check_option(&opts, "steps", "2 steps from schema 1 do not end at schema 4");
    opts.steps = gap;
    opts.schema = 3;
    check_option(&opts, "steps", "steps[1] must be a function from schema 2");
    opts.steps = empty;
    opts.steps_count = 1;
    check_option(&opts, "steps", "steps[0] must be a function from schema 2");
    opts.steps = NULL;
    check_option(&opts, "steps", "is NULL");
    opts = good;
    opts.steps_count = 0;
    check_option(&opts, "steps_count", "is 0");
    opts = good;
    opts.override = NULL;
    check_option(&opts, "override", "needed with env_prefix");
    opts = good;
    opts.env_prefix = NULL;
    check_option(&opts, "override", "needs env_prefix or variables");
    opts.env_prefix = "";
    check_option(&opts, "env_prefix", "is empty");
    opts = good;
    opts.variables_count = 1;
    check_option(&opts, "variables", "do not agree");
    opts.variables = nameless;
    check_option(&opts, "variables", "variables[0] lacks a name");
}

/* ---- P7 ---- */

TEST(p7_variables_stand_over_the_text_in_each_load) {
    struct pnx_config_override seen[4];
    size_t n = 0;
    case_begin();
    const char *path = test_path("c");
    put(path, "v1 5");
    setenv("PNXT_VALUE", "77", 1);
    setenv("PNXT_", "no name is left", 1);
    setenv("PNXTVALUE", "another prefix", 1);
    struct pnx_config_opts opts = env_opts(path);
    struct pnx_config *config = create(&opts);
    CHECK_STR(order, "ps12bov");
    CHECK_EQ(case_value(config), 77);
    CHECK_EQ(case_status(config).overrides, 1);
    CHECK_EQ(case_stats(config).overrides, 1);
    CHECK_EQ(pnx_config_overrides(config, seen, 4, &n), 0);
    CHECK_EQ(n, 1);
    CHECK_STR(seen[0].variable, "PNXT_VALUE");
    CHECK_STR(seen[0].setting, "value");
    CHECK_EQ(seen[0].code, 0);
    put(path, "v3 6");
    CHECK_EQ(pnx_config_reload(config, NULL), 0);
    CHECK_EQ(case_value(config), 77);
    setenv("PNXT_VALUE", "78", 1); /* taken at the next load */
    setenv("PNXT_LENGTH", "four", 1);
    CHECK_EQ(pnx_config_reload(config, NULL), 0);
    CHECK_EQ(case_value(config), 78);
    CHECK_EQ(pnx_config_overrides(config, seen, 1, &n), 0);
    CHECK_EQ(n, 2);
    CHECK_STR(seen[0].variable, "PNXT_LENGTH"); /* sorted */
    unsetenv("PNXT_VALUE");
    unsetenv("PNXT_LENGTH");
    CHECK_EQ(pnx_config_reload(config, NULL), 0);
    CHECK_EQ(case_value(config), 6);
    CHECK_EQ(pnx_config_overrides(config, seen, 4, &n), 0);
    CHECK_EQ(n, 0);
    CHECK_EQ(case_status(config).overrides, 0);
    CHECK_EQ(pnx_config_overrides(NULL, seen, 4, &n), -EINVAL);
    CHECK_EQ(pnx_config_overrides(config, NULL, 4, &n), -EINVAL);
    CHECK_EQ(pnx_config_overrides(config, NULL, 0, NULL), 0);
    clearenv();
    CHECK_EQ(pnx_config_reload(config, NULL), 0);
    case_end(&config);
}

TEST(p7_a_bad_variable_refuses_the_load_and_is_named) {
    struct pnx_config *config = NULL;
    struct pnx_error err;
    case_begin();
    const char *path = test_path("c");
    put(path, "v3 5");
    setenv("PNXT_VALUE", "many", 1);
    struct pnx_config_opts opts = env_opts(path);
    CHECK_EQ(pnx_config_create(&opts, &err, &config), -EINVAL);
    CHECK_STR(err.phase, "override");
    CHECK_CONTAINS(err.message, "/c: variable PNXT_VALUE: \"many\" is no number");
    setenv("PNXT_VALUE", "4", 1);
    config = create(&opts);
    setenv("PNXT_VALUE", "", 1); /* empty is a text like any other */
    check_refused(config, -EINVAL, "override", "variable PNXT_VALUE: \"\" is no number");
    CHECK_EQ(case_value(config), 4);
    setenv("PNXT_VALUE", "2000", 1); /* what it gives is validated */
    check_refused(config, -ERANGE, "validate", "over 1000");
    case_end(&config);
}

TEST(p7_a_variable_without_a_setting_is_told_once_or_refused) {
    struct pnx_config_override seen[4];
    size_t n;
    case_begin();
    const char *path = test_path("c");
    put(path, "v3 5");
    setenv("PNXT_SERVICE_HOST", "10.0.0.1",
            1); /* as orchestrators set for a service of that name */
    struct pnx_config_opts opts = env_opts(path);
    struct pnx_config *config = create(&opts);
    CHECK_EQ(te.logs, 1);
    CHECK_CONTAINS(te.last_log, "1 variables name no setting and are ignored: PNXT_SERVICE_HOST");
    CHECK_EQ(case_status(config).ignored, 1);
    CHECK_EQ(case_status(config).overrides, 0);
    CHECK_EQ(pnx_config_overrides(config, seen, 4, &n), 0);
    CHECK_EQ(n, 1);
    CHECK_EQ(seen[0].code, -ENOENT);
    CHECK_EQ(pnx_config_reload(config, NULL), 0);
    CHECK_EQ(te.logs, 2); /* that a version was loaded */
    case_end(&config);
    opts.flags |= PNX_CONFIG_STRICT;
    struct pnx_error err;
    CHECK_EQ(pnx_config_create(&opts, &err, &config), -ENOENT);
    CHECK_CONTAINS(err.message, "variable PNXT_SERVICE_HOST: there is no setting \"service_host\"");
    unsetenv("PNXT_SERVICE_HOST");
    opts.flags = PNX_CONFIG_NO_WATCH;
    opts.variables = (const struct pnx_config_variable[]){{"PNXT_X", "nothing"}};
    opts.variables_count = 1; /* the table's settings must be there */
    setenv("PNXT_X", "1", 1);
    CHECK_EQ(pnx_config_create(&opts, &err, &config), -ENOENT);
    CHECK_CONTAINS(err.message, "variable PNXT_X: there is no setting \"nothing\"");
}

TEST(p7_a_table_names_variables_one_by_one) {
    static const struct pnx_config_variable table[] = {{"NUMBER", "value"}, {"PNXT_ODD", "length"}};
    struct pnx_config_override seen[4];
    size_t n;
    case_begin();
    const char *path = test_path("c");
    put(path, "v3 5");
    setenv("NUMBER", "6", 1);
    setenv("NUMBERS", "7", 1);
    setenv("PNXT_ODD", "xyz", 1);
    struct pnx_config_opts opts = env_opts(path);
    opts.variables = table;
    opts.variables_count = 2;
    struct pnx_config *config = create(&opts);
    CHECK_EQ(case_value(config), 6);
    CHECK_EQ(pnx_config_overrides(config, seen, 4, &n), 0);
    CHECK_EQ(n, 2);
    CHECK_STR(seen[1].variable, "PNXT_ODD");
    CHECK_STR(seen[1].setting, "length"); /* the table stands before the prefix */
    case_end(&config);
    opts.env_prefix = NULL;
    config = create(&opts);
    CHECK_EQ(case_status(config).overrides, 2);
    case_end(&config);
}

TEST(p7_nothing_is_looked_at_unless_asked_for) {
    case_begin();
    const char *path = test_path("c");
    put(path, "v3 5");
    setenv("PNXT_VALUE", "6", 1);
    struct pnx_config_opts opts = schema_opts(path);
    struct pnx_config *config = create(&opts);
    CHECK_EQ(case_value(config), 5);
    CHECK(!strchr(order, 'o'));
    case_end(&config);
}

TEST(p7_more_variables_than_there_may_be_are_an_error) {
    struct pnx_config *config = NULL;
    struct pnx_error err;
    char name[32];
    case_begin();
    const char *path = test_path("c");
    put(path, "v3 5");
    struct pnx_config_opts opts = env_opts(path);
    for (int i = 0; i < PNX_CONFIG_OVERRIDES_MAX; i++) {
        snprintf(name, sizeof(name), "PNXT_X%d", i);
        setenv(name, "1", 1);
    }
    config = create(&opts);
    CHECK_EQ(case_status(config).ignored, PNX_CONFIG_OVERRIDES_MAX);
    setenv("PNXT_VALUE", "1", 1);
    CHECK_EQ(pnx_config_reload(config, &err), -EOVERFLOW);
    CHECK_CONTAINS(err.message, "65 variables override; at most 64 may");
    CHECK_STR(err.phase, "override");
    case_end(&config);
}

TEST(p7_of_a_name_that_occurs_twice_the_first_counts) {
    static char first[] = "PNXT_VALUE=1", second[] = "PNXT_VALUE=2", odd[] = "without",
                empty[] = "=x";
    static char *list[] = {odd, empty, first, second, NULL};
    extern char **environ;
    case_begin();
    const char *path = test_path("c");
    put(path, "v3 5");
    char **before = environ;
    environ = list;
    struct pnx_config_opts opts = env_opts(path);
    struct pnx_config *config = create(&opts);
    environ = before;
    CHECK_EQ(case_value(config), 1);
    CHECK_EQ(case_status(config).overrides, 1);
    case_end(&config);
}

static int fixed_parse(void *ctx, const char *text, size_t n, struct pnx_error *err, void **ret) {
    (void)ctx;
    (void)text;
    (void)n;
    (void)err;
    *ret = pnx_rc_ref(kept);
    return 0;
}

TEST(p7_an_object_that_parse_shares_is_not_changed) {
    case_begin();
    const char *path = test_path("c");
    put(path, "5");
    setenv("PNXT_VALUE", "6", 1);
    CHECK_EQ(pnx_rc_new(&number_type, &(struct number){3, 1}, &kept), 0);
    struct pnx_config_opts opts = case_opts(path);
    opts.parse = fixed_parse;
    opts.env_prefix = "PNXT_";
    opts.override = override;
    struct pnx_config *config = NULL;
    CHECK_EQ(pnx_config_create(&opts, NULL, &config), 0);
    CHECK_EQ(case_value(config), 6);
    CHECK_EQ(((struct number *)kept)->value, 3);
    pnx_rc_unref(kept);
    case_end(&config);
}

TEST(p7_a_change_of_the_environment_alone_is_a_change_of_the_text) {
    case_begin();
    const char *path = test_path("c");
    put(path, "v3 5");
    struct pnx_config_opts opts = env_opts(path);
    opts.flags = 0;
    struct pnx_config *config = create(&opts);
    setenv("PNXT_VALUE", "8", 1);
    put(path, "v3 5"); /* touched: the same text under another environment */
    case_settle(config);
    CHECK_EQ(case_value(config), 8);
    put(path, "v3 5");
    case_settle(config);
    CHECK_EQ(pnx_config_version(config), 2);
    case_end(&config);
}

/* ---- failures ---- */

static int create_and_reload(struct test_env *env, void *ctx) {
    struct pnx_config_opts opts = env_opts(ctx);
    struct pnx_config *config = NULL;
    (void)env;
    opts.registry = pnx_registry_off();
    int rc = pnx_config_create(&opts, NULL, &config);
    if (rc == 0)
        rc = pnx_config_reload(config, NULL);
    pnx_config_release(&config);
    return rc;
}

TEST(each_allocation_of_migration_and_overrides_may_fail) {
    case_begin();
    const char *path = test_path("c");
    put(path, "v1 5");
    setenv("PNXT_VALUE", "6", 1);
    setenv("PNXT_NONE", "6", 1);
    test_fail_each_allocation(&te, create_and_reload, (void *)(uintptr_t)path);
}
