/* SPDX-License-Identifier: Apache-2.0 */
/* config: a text from elsewhere than a file. */
#include "config_case.h"

#include <poll.h>
#include <sched.h>

/* A server in miniature: a text with a tag, and what it does next. */
static struct {
    const char *text;
    char tag[100];
    char asked[100]; /* the tag that was asked for last */
    int answer;      /* returned instead of the text, if not 0 */
    size_t piece;    /* the text comes in pieces of so many bytes */
    int calls;
    bool ignores; /* what add returns */
} server;

static int fetch(void *ctx, struct pnx_config_fetch *fetch, struct pnx_error *err) {
    const char *text = __atomic_load_n(&server.text, __ATOMIC_ACQUIRE);
    size_t n = strlen(text), piece = server.piece ? server.piece : n;
    CHECK(ctx == &server);
    __atomic_add_fetch(&server.calls, 1, __ATOMIC_RELAXED);
    snprintf(server.asked, sizeof(server.asked), "%s", pnx_config_fetch_tag(fetch));
    if (server.answer < 0)
        return pnx_config_fail(err, server.answer, "the server is not at home");
    if (server.answer)
        return server.answer;
    if (server.tag[0] && strcmp(server.asked, server.tag) == 0)
        return PNX_CONFIG_UNCHANGED;
    for (size_t at = 0; at < n; at += piece) {
        int rc = pnx_config_fetch_add(fetch, text + at, n - at < piece ? n - at : piece);
        if (rc && !server.ignores)
            return rc;
    }
    pnx_config_fetch_set_tag(fetch, server.tag);
    return 0;
}

static struct pnx_config_opts source_opts(void) {
    struct pnx_config_opts opts = case_opts(NULL);
    opts.source = fetch;
    opts.ctx = &server;
    return opts;
}

static int any_parse(void *ctx, const char *text, size_t n, struct pnx_error *err, void **ret) {
    (void)ctx;
    return case_parse(NULL, text, n, err, ret);
}

static struct pnx_config *create(uint32_t flags) {
    struct pnx_config_opts opts = source_opts();
    struct pnx_config *config = NULL;
    struct pnx_error err = {0};
    opts.flags = flags;
    opts.parse = any_parse;
    int rc = pnx_config_create(&opts, &err, &config);
    CHECK_MSG(rc == 0, "%s: %s", pnx_errname(rc), err.message);
    tells = true;
    return config;
}

TEST(p1_a_source_is_polled_and_told_what_we_have) {
    case_begin();
    server.text = "1";
    strcpy(server.tag, "a");
    struct pnx_config *config = create(0);
    CHECK_STR(server.asked, "");
    CHECK_EQ(case_status(config).watch, PNX_CONFIG_WATCH_POLL);
    CHECK_EQ(case_status(config).watch_error, 0);
    CHECK_EQ(case_tick(config), te.now + POLL);
    CHECK_EQ(server.calls, 1);
    test_env_advance(&te, POLL);
    CHECK_EQ(case_tick(config), te.now + POLL);
    CHECK_STR(server.asked, "a");
    CHECK_EQ(case_stats(config).unchanged, 1);
    server.text = "2";
    strcpy(server.tag, "b");
    test_env_advance(&te, POLL);
    case_tick(config); /* whole as it is: no debounce */
    CHECK_EQ(case_value(config), 2);
    CHECK_STORY("changed(source) 2;");
    struct pnx_config_entry entry;
    CHECK_EQ(pnx_config_history(config, &entry, 1, NULL), 0);
    CHECK_STR(entry.tag, "b");
    CHECK_EQ(entry.origin, PNX_CONFIG_FROM_SOURCE);
    strcpy(server.tag, "c"); /* another tag, the same text */
    test_env_advance(&te, POLL);
    case_tick(config);
    CHECK_EQ(pnx_config_version(config), 2);
    CHECK_EQ(pnx_config_reload(config, NULL), 0); /* wants the text in any case */
    CHECK_STR(server.asked, "");
    CHECK_EQ(pnx_config_version(config), 3);
    case_end(&config);
}

TEST(p1_a_source_that_fails_changes_nothing_and_is_asked_again) {
    case_begin();
    server.text = "1";
    strcpy(server.tag, "a");
    struct pnx_config *config = create(0);
    server.answer = -ETIMEDOUT;
    for (int i = 0; i < 5; i++) {
        test_env_advance(&te, POLL);
        case_tick(config);
    }
    CHECK_EQ(case_status(config).error.code, -ETIMEDOUT);
    CHECK_STR(case_status(config).error.phase, "source");
    CHECK_CONTAINS(case_status(config).error.message, "test: the server is not at home");
    CHECK_STORY("refused(source) 1 ETIMEDOUT;"); /* once */
    CHECK_EQ(server.calls, 6);
    server.answer = 0;
    test_env_advance(&te, POLL);
    case_tick(config);
    CHECK_EQ(case_status(config).error.code, 0);
    CHECK_EQ(pnx_config_version(config), 1);
    server.text = "bad";
    strcpy(server.tag, "b");
    test_env_advance(&te, POLL);
    case_tick(config);
    CHECK_STORY("refused(parse) 1 PNX_E_FORMAT;");
    test_env_advance(&te, POLL);
    case_tick(config); /* unchanged: as bad as before */
    CHECK_STR(server.asked, "b");
    CHECK_EQ(case_status(config).error.code, PNX_E_FORMAT);
    server.answer = -EACCES;
    test_env_advance(&te, POLL);
    case_tick(config);
    server.answer = 0;
    test_env_advance(&te, POLL);
    case_tick(config); /* fetched again, and told again */
    CHECK_STORY("refused(source) 1 EACCES;refused(parse) 1 PNX_E_FORMAT;");
    server.answer = 7;
    CHECK_EQ(pnx_config_reload(config, NULL), -EINVAL);
    server.answer = PNX_CONFIG_UNCHANGED; /* but we have none that it could be */
    CHECK_EQ(pnx_config_reload(config, NULL), -EINVAL);
    CHECK_CONTAINS(case_status(config).error.message, "says unchanged, but was given no tag");
    case_end(&config);
}

TEST(a_source_may_give_its_text_in_pieces_up_to_the_limit) {
    static char text[4097];
    struct pnx_config *config = NULL;
    struct pnx_error err;
    case_begin();
    memset(text, ' ', sizeof(text) - 1);
    text[0] = '5';
    server.text = text;
    server.piece = 7;
    memset(server.tag, 'x', 90); /* cut, at both ends */
    config = create(0);
    PNX_AUTO_RC const struct number *number = pnx_config_load(config, NULL);
    CHECK_EQ(number->length, 4096);
    PNX_RC_CLEAR(number);
    struct pnx_config_entry entry;
    CHECK_EQ(pnx_config_history(config, &entry, 1, NULL), 0);
    CHECK_EQ(strlen(entry.tag), PNX_CONFIG_TAG_MAX - 1);
    case_end(&config);
    struct pnx_config_opts opts = source_opts();
    opts.parse = any_parse;
    opts.max_bytes = 4095;
    for (int ignores = 0; ignores < 2; ignores++) {
        server.ignores = ignores;
        CHECK_EQ(pnx_config_create(&opts, &err, &config), -EFBIG);
        CHECK_STR(err.phase, "source");
        CHECK_CONTAINS(err.message, "more bytes than max_bytes");
    }
    server.text = ""; /* an empty text is the parser's to judge */
    server.tag[0] = '\0';
    config = create(0);
    CHECK_EQ(case_value(config), 0);
    case_end(&config);
    CHECK_EQ(pnx_config_fetch_add(NULL, "", 0), -EINVAL);
    CHECK_STR(pnx_config_fetch_tag(NULL), "");
    pnx_config_fetch_set_tag(NULL, "x");
    opts.path = "/etc/x";
    CHECK_EQ(pnx_config_create(&opts, &err, &config), -EINVAL);
    CHECK_STR(err.field, "source");
}

TEST(a_source_that_knows_says_so) {
    case_begin();
    server.text = "1";
    struct pnx_config *config = create(0);
    struct pollfd polled = {.fd = pnx_config_fd(config), .events = POLLIN};
    CHECK(polled.fd >= 0);
    CHECK_EQ(case_tick(config), te.now + POLL);
    CHECK_EQ(poll(&polled, 1, 0), 0);
    server.text = "2";
    for (int i = 0; i < 100; i++)
        pnx_config_notify(config);
    pnx_config_notify(NULL);
    CHECK_EQ(poll(&polled, 1, 0), 1);
    CHECK_EQ(case_tick(config), te.now + DEBOUNCE); /* many may come: one fetch */
    CHECK_EQ(poll(&polled, 1, 0), 0);
    CHECK_EQ(case_value(config), 1);
    test_env_advance(&te, DEBOUNCE);
    case_tick(config);
    CHECK_EQ(case_value(config), 2);
    CHECK_EQ(server.calls, 2);
    case_end(&config);
    config = create(PNX_CONFIG_NO_WATCH); /* only by hand */
    pnx_config_notify(config);
    CHECK_EQ(case_tick(config), PNX_NEVER);
    server.text = "3";
    CHECK_EQ(pnx_config_reload(config, NULL), 0);
    CHECK_EQ(case_value(config), 3);
    case_end(&config);
}

TEST(a_thread_is_woken_by_notify) {
    for (int deaf = 0; deaf < 2; deaf++) {
        struct pnx_config_opts opts = source_opts();
        struct pnx_config *config = NULL;
        if (deaf && !test_os_faults())
            break;
        case_begin();
        te.virtual_time = false;
        opts = source_opts();
        opts.parse = any_parse;
        opts.flags = PNX_CONFIG_THREAD;
        opts.poll_ns = PNX_NEVER;
        opts.debounce_ns = PNX_MS;
        server.text = "1";
        if (deaf)
            test_os_fault("eventfd", 1, true, EMFILE);
        CHECK_EQ(pnx_config_create(&opts, NULL, &config), 0);
        for (uint64_t i = 1; i < 20; i++) {
            static const char *const texts[] = {"7", "8"};
            __atomic_store_n(&server.text, texts[i % 2], __ATOMIC_RELEASE);
            pnx_config_notify(config);
            CHECK_EQ(pnx_config_wait(config, i, 20 * PNX_SEC), 0);
            CHECK_EQ(pnx_config_version(config), i + 1);
        }
        if (deaf)
            test_os_fault_clear();
        case_end(&config);
    }
}

TEST(a_file_may_be_poked_too) {
    case_begin();
    const char *path = test_path("c");
    put(path, "1");
    struct pnx_config_opts opts = case_opts(path);
    struct pnx_config *config = NULL;
    opts.flags = PNX_CONFIG_POLL;
    opts.poll_ns = PNX_NEVER;
    CHECK_EQ(pnx_config_create(&opts, NULL, &config), 0);
    CHECK_EQ(case_tick(config), PNX_NEVER);
    put(path, "2");
    pnx_config_notify(config);
    CHECK_EQ(case_tick(config), te.now + DEBOUNCE);
    case_settle(config);
    CHECK_EQ(case_value(config), 2);
    case_end(&config);
}

static int fetch_twice(struct test_env *env, void *ctx) {
    struct pnx_config_opts opts = source_opts();
    struct pnx_config *config = NULL;
    (void)env;
    (void)ctx;
    opts.parse = any_parse;
    opts.registry = pnx_registry_off();
    int rc = pnx_config_create(&opts, NULL, &config);
    if (rc == 0)
        rc = pnx_config_reload(config, NULL);
    pnx_config_release(&config);
    return rc;
}

TEST(each_allocation_of_a_fetch_may_fail) {
    static char text[4000];
    case_begin();
    memset(text, ' ', sizeof(text) - 1);
    text[0] = '5';
    server.text = text;
    server.piece = 1000;
    test_fail_each_allocation(&te, fetch_twice, NULL);
    server.ignores = true; /* what add returned sticks */
    test_fail_each_allocation(&te, fetch_twice, NULL);
    server.text = "";
    test_fail_each_allocation(&te, fetch_twice, NULL);
}

static void use_in_child(void *ctx) {
    struct pnx_config *config = ctx;
    server.text = "3";
    CHECK_EQ(case_tick(config), PNX_NEVER);
    pnx_config_notify(config); /* wakes nobody: the descriptor is the parent's too */
    CHECK_EQ(pnx_config_reload(config, NULL), 0);
    CHECK_EQ(case_value(config), 3);
    pnx_config_release(&config);
}

TEST(a_child_wakes_nobody_of_its_parent) {
    case_begin();
    server.text = "1";
    struct pnx_config *config = create(0);
    struct pollfd polled = {.fd = pnx_config_fd(config), .events = POLLIN};
    pnx_config_notify(config);
    pnx_config_tick(config, te.now);
    CHECK_EQ(test_child(use_in_child, config), 0);
    CHECK_EQ(poll(&polled, 1, 0), 0);
    CHECK_EQ(case_value(config), 1);
    case_end(&config);
}
