/* SPDX-License-Identifier: Apache-2.0 */
/* config: life, threads, callbacks, errors at creation; P1 and P3 of patinox/config.h. */
#include "config_case.h"
#include "share/config.h"

#include <patinox/reclaim.h>
#include <patinox/shutdown.h>
#include <patinox/watch.h>

#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <time.h>

TEST(p1_creation_fails_with_the_precise_error) {
    struct pnx_config *config = (struct pnx_config *)(uintptr_t)0x88;
    struct pnx_error err = {0};
    case_begin();
    const char *path = test_path("c");
    struct pnx_config_opts opts = case_opts(path);
    CHECK_EQ(pnx_config_create(&opts, &err, &config), -ENOENT);
    CHECK_STR(err.phase, "open");
    CHECK_CONTAINS(err.message, "/c: there is no such thing");
    put(path, "bad");
    CHECK_EQ(pnx_config_create(&opts, &err, &config), PNX_E_FORMAT);
    CHECK_STR(err.phase, "parse");
    CHECK_CONTAINS(err.message, "/c: line 1: \"bad\" is no number");
    put(path, "1001");
    CHECK_EQ(pnx_config_create(&opts, &err, &config), -ERANGE);
    CHECK_STR(err.phase, "validate");
    CHECK_CONTAINS(err.message, "/c: 1001 is over 1000");
    opts.max_bytes = 3;
    CHECK_EQ(pnx_config_create(&opts, &err, &config), -EFBIG);
    CHECK_STR(err.phase, "read");
    opts.max_bytes = 0;
    opts.path = test_dir();
    CHECK_EQ(pnx_config_create(&opts, &err, &config), -EISDIR);
    opts.path = "";
    CHECK(pnx_config_create(&opts, &err, &config) < 0);
    CHECK(config == (struct pnx_config *)(uintptr_t)0x88);
    CHECK_EQ(events_refused, 0);
    test_env_check_empty(&te);
}

TEST(each_bad_option_is_named) {
    struct pnx_config *config = NULL;
    struct pnx_error err = {0};
    case_begin();
    const char *path = test_path("c");
    put(path, "1");
    CHECK_EQ(pnx_config_create(NULL, &err, &config), -EINVAL);
    CHECK_STR(err.field, "parse");
    struct pnx_config_opts opts = case_opts(NULL);
    CHECK_EQ(pnx_config_create(&opts, &err, &config), -EINVAL);
    CHECK_STR(err.field, "path");
    opts = case_opts(path);
    opts.parse = NULL;
    CHECK_EQ(pnx_config_create(&opts, &err, &config), -EINVAL);
    CHECK_STR(err.field, "parse");
    opts = case_opts(path);
    opts.flags = 64;
    CHECK_EQ(pnx_config_create(&opts, &err, &config), -EINVAL);
    CHECK_STR(err.field, "flags");
    opts = case_opts(path);
    opts.debounce_ns = 61 * PNX_SEC;
    CHECK_EQ(pnx_config_create(&opts, &err, &config), -EINVAL);
    CHECK_STR(err.field, "debounce_ns");
    opts = case_opts(path);
    opts.max_bytes = (size_t)2 << 30;
    CHECK_EQ(pnx_config_create(&opts, &err, &config), -EINVAL);
    CHECK_STR(err.field, "max_bytes");
    opts = case_opts(path);
    CHECK_EQ(pnx_config_create(&opts, &err, NULL), -EINVAL);
    char *longer = malloc(5000);
    memset(longer, 'a', 4999);
    longer[4999] = '\0';
    opts.path = longer;
    CHECK_EQ(pnx_config_create(&opts, &err, &config), -ENAMETOOLONG);
    free(longer);
    CHECK_EQ(pnx_config_reload(NULL, &err), -EINVAL);
    opts = case_opts(path);
    opts.debounce_ns = opts.poll_ns = 0; /* the defaults */
    opts.max_bytes = 0;
    opts.name = NULL;
    CHECK_EQ(pnx_config_create(&opts, &err, &config), 0);
    CHECK_EQ(pnx_config_read_status(config, NULL), -EINVAL);
    CHECK_EQ(pnx_config_read_status(config, &(struct pnx_config_status){.size = 0}), -EINVAL);
    CHECK_EQ(pnx_config_read_stats(config, NULL), -EINVAL);
    case_end(&config);
    pnx_config_release(&config);
    pnx_config_release(NULL);
}

TEST(a_relative_path_survives_a_change_of_the_directory) {
    case_begin();
    CHECK(chdir(test_dir()) == 0);
    put("c", "1");
    struct pnx_config *config = case_create("./c", 0);
    CHECK(chdir("/") == 0);
    put(test_path("c"), "2");
    case_settle(config);
    CHECK_EQ(case_value(config), 2);
    case_end(&config);
}

TEST(a_long_path_is_cut_at_its_beginning_in_messages) {
    char dir[256], path[300];
    case_begin();
    snprintf(dir, sizeof(dir), "%s/%.100s", test_dir(),
            "a-rather-long-name-of-a-directory-which-does-not-fit-into-a-message-"
            "together-with-what-went-wrong");
    CHECK(mkdir(dir, 0700) == 0);
    snprintf(path, sizeof(path), "%s/settings.json", dir);
    put(path, "bad");
    struct pnx_config_opts opts = case_opts(path);
    struct pnx_config *config = NULL;
    struct pnx_error err;
    CHECK_EQ(pnx_config_create(&opts, &err, &config), PNX_E_FORMAT);
    CHECK(strncmp(err.message, "...", 3) == 0);
    CHECK_CONTAINS(err.message, "/settings.json: line 1: \"bad\" is no number");
}

/* ---- reload by hand ---- */

TEST(reload_reads_at_once_and_publishes_even_the_same) {
    struct pnx_error err = {0};
    case_begin();
    const char *path = test_path("c");
    put(path, "1");
    struct pnx_config *config = case_create(path, PNX_CONFIG_NO_WATCH);
    CHECK_EQ(case_status(config).watch, PNX_CONFIG_WATCH_NONE);
    CHECK_EQ(pnx_config_fd(config), -ENOTSUP);
    put(path, "2");
    CHECK_EQ(case_tick(config), PNX_NEVER);
    CHECK_EQ(case_value(config), 1);
    CHECK_EQ(pnx_config_reload(config, &err), 0);
    CHECK_EQ(case_value(config), 2);
    CHECK_EQ(pnx_config_version(config), 2);
    CHECK_EQ(pnx_config_reload(config, &err), 0);
    CHECK_EQ(pnx_config_version(config), 3);
    CHECK_EQ(changes, 2);
    CHECK_EQ(events_changed, 2);
    CHECK_EQ(case_status(config).changed_at, te.now);
    CHECK_EQ(unlink(path), 0);
    CHECK_EQ(pnx_config_reload(config, &err), -ENOENT);
    CHECK_STR(err.phase, "open");
    CHECK_EQ(case_value(config), 2);
    CHECK_EQ(case_status(config).error.code, -ENOENT);
    put(path, "bad");
    CHECK_EQ(pnx_config_reload(config, NULL), PNX_E_FORMAT);
    CHECK_EQ(pnx_config_reload(config, NULL), PNX_E_FORMAT);
    CHECK_EQ(events_refused, 2); /* one a cause */
    case_end(&config);
}

/* ---- callbacks ---- */

static struct pnx_config *inside;
static int inside_calls;

static void reload_inside(void *ctx, const void *value, uint64_t version) {
    struct pnx_error err;
    (void)ctx;
    inside_calls++;
    CHECK_EQ(version, pnx_config_version(inside));
    CHECK_EQ(case_value(inside), ((const struct number *)value)->value);
    CHECK_EQ(pnx_config_reload(inside, &err), -EDEADLK);
    CHECK_CONTAINS(err.message, "from inside a callback");
    CHECK_EQ(case_tick(inside), te.now + 10 * PNX_MS); /* somebody is at it: come back */
}

static int reload_in_parse(
        void *ctx, const char *text, size_t n, struct pnx_error *err, void **ret) {
    if (inside)
        CHECK_EQ(pnx_config_reload(inside, NULL), -EDEADLK);
    return case_parse(ctx, text, n, err, ret);
}

TEST(p3_a_reload_from_inside_a_callback_is_refused) {
    case_begin();
    const char *path = test_path("c");
    put(path, "1");
    struct pnx_config_opts opts = case_opts(path);
    opts.on_change = reload_inside;
    opts.parse = reload_in_parse;
    CHECK_EQ(pnx_config_create(&opts, NULL, &inside), 0);
    put(path, "2");
    case_settle(inside);
    CHECK_EQ(inside_calls, 1);
    CHECK_EQ(pnx_config_reload(inside, NULL), 0);
    CHECK_EQ(inside_calls, 2);
    case_end(&inside);
}

static void release_inside(void *ctx, const void *value, uint64_t version) {
    struct pnx_config **config = ctx;
    (void)version;
    inside_calls++;
    pnx_config_release(config);
    CHECK(*config == NULL);
    CHECK_EQ(((const struct number *)value)->value, 2); /* still ours for this call */
}

static void check_release_inside(bool by_tick) {
    struct pnx_config *config = NULL;
    struct pnx_registry *registry = NULL;
    case_begin();
    const char *path = test_path("c");
    put(path, "1");
    struct pnx_config_opts opts = case_opts(path);
    CHECK_EQ(pnx_registry_create(NULL, NULL, &registry), 0);
    opts.registry = registry;
    opts.on_change = release_inside;
    opts.ctx = &config;
    CHECK_EQ(pnx_config_create(&opts, NULL, &config), 0);
    struct pnx_config *handle = config;        /* the callback clears ours */
    CHECK_EQ(pnx_registry_count(registry), 2); /* its own row and that of its cell */
    put(path, "2");
    if (by_tick) {
        case_tick(handle);
        test_env_advance(&te, DEBOUNCE);
        pnx_config_tick(handle, te.now);
    } else {
        CHECK_EQ(pnx_config_reload(handle, NULL), 0);
    }
    CHECK_EQ(inside_calls, 1);
    CHECK_EQ(pnx_registry_count(registry), 0);
    pnx_registry_release(&registry);
    test_env_check_empty(&te);
}

TEST(p3_release_from_inside_a_callback_of_tick) {
    check_release_inside(true);
}

TEST(p3_release_from_inside_a_callback_of_reload) {
    check_release_inside(false);
}

/* ---- its own thread ---- */

static struct pnx_config *create_threaded(
        const char *path, pnx_config_change_fn *on_change, void *ctx) {
    struct pnx_config_opts opts = case_opts(path);
    struct pnx_config *config = NULL;
    if (te.virtual_time) /* the thread of a config that was made before may be reading it */
        te.virtual_time = false;
    opts.flags = PNX_CONFIG_THREAD;
    opts.debounce_ns = 2 * PNX_MS;
    opts.poll_ns = 5 * PNX_MS;
    if (on_change)
        opts.on_change = on_change;
    opts.ctx = ctx;
    CHECK_EQ(pnx_config_create(&opts, NULL, &config), 0);
    return config;
}

TEST(a_thread_of_its_own_loads_changes) {
    case_begin();
    const char *path = test_path("c");
    put(path, "1");
    struct pnx_config *config = create_threaded(path, NULL, NULL);
    CHECK_EQ(pnx_config_fd(config), -ENOTSUP);
    CHECK_EQ(case_tick(config), PNX_NEVER);
    for (long i = 2; i < 30; i++) {
        uint64_t seen = pnx_config_version(config);
        char text[32];
        snprintf(text, sizeof(text), "%ld", i);
        put_by_rename(path, text);
        CHECK_EQ(pnx_config_wait(config, seen, 20 * PNX_SEC), 0);
        CHECK_EQ(case_value(config), i);
    }
    put(path, "bad");
    while (__atomic_load_n(&events_refused, __ATOMIC_RELAXED) == 0)
        sched_yield();
    CHECK_EQ(case_status(config).error.code, PNX_E_FORMAT);
    CHECK_EQ(case_value(config), 29);
    CHECK_EQ(pnx_config_wait(config, pnx_config_version(config), 0), -ETIMEDOUT);
    case_end(&config);
}

TEST(a_thread_without_descriptors_polls) {
    if (!test_os_faults())
        test_skip("needs injected faults");
    case_begin();
    const char *path = test_path("c");
    put(path, "1");
    test_os_fault("eventfd", 1, true, EMFILE);
    struct pnx_config *config = create_threaded(path, NULL, NULL);
    CHECK_EQ(case_status(config).watch, PNX_CONFIG_WATCH_POLL);
    CHECK_EQ(case_status(config).watch_error, -EMFILE);
    put_by_rename(path, "2");
    CHECK_EQ(pnx_config_wait(config, 1, 20 * PNX_SEC), 0);
    CHECK_EQ(case_value(config), 2);
    test_os_fault_clear();
    case_end(&config);
}

TEST(a_thread_survives_a_failing_poll) {
    if (!test_os_faults())
        test_skip("needs injected faults");
    case_begin();
    const char *path = test_path("c");
    put(path, "1");
    struct pnx_config_opts opts = case_opts(path);
    struct pnx_config *config = NULL;
    te.virtual_time = false;
    opts.flags = PNX_CONFIG_THREAD | PNX_CONFIG_POLL;
    opts.debounce_ns = opts.poll_ns = 2 * PNX_MS;
    test_os_fault("poll", 1, true, ENOMEM);
    CHECK_EQ(pnx_config_create(&opts, NULL, &config), 0);
    put_by_rename(path, "2");
    CHECK_EQ(pnx_config_wait(config, 1, 20 * PNX_SEC), 0);
    pnx_config_release(&config);
    CHECK(test_os_fault_clear() > 0);
    test_env_check_empty(&te);
}

TEST(no_thread_is_an_error_at_creation) {
    if (!test_os_faults())
        test_skip("needs injected faults");
    struct pnx_config *config = NULL;
    struct pnx_error err;
    case_begin();
    const char *path = test_path("c");
    put(path, "1");
    struct pnx_config_opts opts = case_opts(path);
    opts.flags = PNX_CONFIG_THREAD;
    test_os_fault("pthread_create", 1, false, EAGAIN);
    CHECK_EQ(pnx_config_create(&opts, &err, &config), -EAGAIN);
    CHECK_STR(err.phase, "thread");
    test_os_fault_clear();
    test_env_check_empty(&te);
}

static void release_in_thread(void *ctx, const void *value, uint64_t version) {
    struct pnx_config **config = ctx;
    (void)value;
    (void)version;
    pnx_config_release(config);
    __atomic_store_n(&inside_calls, 1, __ATOMIC_RELEASE);
}

TEST(p3_release_from_inside_the_threads_own_callback) {
    struct pnx_config *config = NULL;
    case_begin();
    const char *path = test_path("c");
    put(path, "1");
    config = create_threaded(path, release_in_thread, &config);
    put(path, "2");
    while (!__atomic_load_n(&inside_calls, __ATOMIC_ACQUIRE))
        sched_yield();
    while (__atomic_load_n(&te.live_blocks, __ATOMIC_ACQUIRE) != 0)
        sched_yield(); /* the thread frees it after the callback */
}

/* on_change that takes its time while another thread releases: the release waits. */
struct slow_change {
    pthread_barrier_t begun;
    int ended;
};

static void slow_change(void *ctx, const void *value, uint64_t version) {
    struct slow_change *slow = ctx;
    (void)version;
    pthread_barrier_wait(&slow->begun);
    for (int i = 0; i < 1000; i++) {
        CHECK_EQ(((const struct number *)value)->value, 2);
        sched_yield();
    }
    __atomic_store_n(&slow->ended, 1, __ATOMIC_RELAXED);
}

TEST(p3_release_waits_for_a_callback_on_the_thread) {
    struct slow_change slow = {.ended = 0};
    case_begin();
    const char *path = test_path("c");
    put(path, "1");
    pthread_barrier_init(&slow.begun, NULL, 2);
    struct pnx_config *config = create_threaded(path, slow_change, &slow);
    put(path, "2");
    pthread_barrier_wait(&slow.begun);
    pnx_config_release(&config);
    CHECK_EQ(__atomic_load_n(&slow.ended, __ATOMIC_RELAXED), 1);
    test_env_check_empty(&te);
}

/* Two configs, each of whose callbacks releases the other one while that one's callback runs. */
struct crossed {
    struct pnx_config *configs[2];
    pthread_barrier_t begun;
};

struct crossed_side {
    struct crossed *crossed;
    int other;
};

static void release_other(void *ctx, const void *value, uint64_t version) {
    struct crossed_side *side = ctx;
    (void)value;
    (void)version;
    pthread_barrier_wait(&side->crossed->begun);
    pnx_config_release(&side->crossed->configs[side->other]);
}

TEST(p3_two_callbacks_that_release_each_others_config_do_not_hang) {
    struct crossed crossed;
    struct crossed_side sides[2] = {{&crossed, 1}, {&crossed, 0}};
    case_begin();
    const char *path = test_path("c");
    put(path, "1");
    pthread_barrier_init(&crossed.begun, NULL, 2);
    for (int i = 0; i < 2; i++)
        crossed.configs[i] = create_threaded(path, release_other, &sides[i]);
    put(path, "2");
    while (__atomic_load_n(&te.live_blocks, __ATOMIC_ACQUIRE) != 0)
        sched_yield(); /* the threads free them */
}

/* ---- inside a section of reclaim nobody waits: who is waited for may wait for its end ---- */

static pthread_barrier_t parsing;

static int parse_and_wait_for_sections(
        void *ctx, const char *text, size_t n, struct pnx_error *err, void **ret) {
    (void)ctx;
    if (strncmp(text, "2", 1) == 0) {
        pthread_barrier_wait(&parsing);
        CHECK_EQ(pnx_reclaim_synchronize(NULL, PNX_NEVER), 0);
    }
    return case_parse(NULL, text, n, err, ret);
}

static int reload_code;

static void *reload_it(void *config) {
    reload_code = pnx_config_reload(config, NULL);
    return NULL;
}

/* A config whose reload is under way on another thread, and does not end before this thread's section. */
static pthread_t begin_reload(struct pnx_config **ret_config) {
    const char *path = test_path("c");
    pthread_t thread;
    put(path, "1");
    struct pnx_config_opts opts = case_opts(path);
    opts.parse = parse_and_wait_for_sections;
    CHECK_EQ(pnx_config_create(&opts, NULL, ret_config), 0);
    put(path, "2");
    pthread_barrier_init(&parsing, NULL, 2);
    pnx_reclaim_enter(NULL);
    CHECK_EQ(pthread_create(&thread, NULL, reload_it, *ret_config), 0);
    pthread_barrier_wait(&parsing);
    return thread;
}

TEST(p3_a_reload_inside_a_section_does_not_wait_for_another) {
    struct pnx_config *config = NULL;
    struct pnx_error err = {0};
    case_begin();
    pthread_t thread = begin_reload(&config);
    CHECK_EQ(pnx_config_reload(config, &err), -EDEADLK);
    CHECK_CONTAINS(err.message, "inside a section");
    CHECK_EQ(pnx_config_rollback(config, 0, NULL), -EDEADLK);
    CHECK_EQ(case_value(config), 1);
    pnx_reclaim_exit(NULL);
    pthread_join(thread, NULL);
    CHECK_EQ(reload_code, 0);
    CHECK_EQ(case_value(config), 2);
    put(test_path("c"), "3");
    pnx_reclaim_enter(NULL);
    CHECK_EQ(pnx_config_reload(config, &err), 0); /* nobody to wait for: fine */
    pnx_reclaim_exit(NULL);
    case_end(&config);
}

/* Whoever is still at work in a config that has been released frees the last of it. */
static void await_empty(void) {
    while (__atomic_load_n(&te.live_blocks, __ATOMIC_ACQUIRE) != 0)
        sched_yield();
}

TEST(p3_a_release_inside_a_section_waits_for_no_callback) {
    struct pnx_config *config = NULL;
    case_begin();
    pthread_t thread = begin_reload(&config);
    pnx_config_release(&config);
    CHECK(config == NULL);
    pnx_reclaim_exit(NULL);
    pthread_join(thread, NULL);
    CHECK_EQ(reload_code, -ESHUTDOWN);
    CHECK_EQ(pnx_reclaim_barrier(NULL, PNX_NEVER), 0);
    await_empty();
    /* And without anybody at work it is over soon. */
    config = case_create(test_path("c"), PNX_CONFIG_THREAD);
    pnx_reclaim_enter(NULL);
    pnx_config_release(&config);
    pnx_reclaim_exit(NULL);
    CHECK_EQ(pnx_reclaim_barrier(NULL, PNX_NEVER), 0);
    await_empty(); /* its own thread may have been about to look at the file */
}

struct two_reloads {
    struct pnx_config *config;
    pthread_barrier_t begun;
    int under_way;
};

static int exclusive_parse(
        void *ctx, const char *text, size_t n, struct pnx_error *err, void **ret) {
    struct two_reloads *two = ctx;
    CHECK_EQ(__atomic_add_fetch(&two->under_way, 1, __ATOMIC_RELAXED), 1);
    sched_yield();
    int rc = case_parse(NULL, text, n, err, ret);
    CHECK_EQ(__atomic_sub_fetch(&two->under_way, 1, __ATOMIC_RELAXED), 0);
    return rc;
}

static void reload_often(unsigned index, void *ctx) {
    struct two_reloads *two = ctx;
    (void)index;
    for (int i = 0; i < 200; i++)
        CHECK_EQ(pnx_config_reload(two->config, NULL), 0);
}

TEST(p3_reloads_from_several_threads_are_one_after_the_other) {
    struct two_reloads two = {.under_way = 0};
    case_begin();
    te.virtual_time = false;
    const char *path = test_path("c");
    put(path, "2");
    struct pnx_config_opts opts = case_opts(path);
    opts.ctx = &two;
    opts.parse = exclusive_parse;
    CHECK_EQ(pnx_config_create(&opts, NULL, &two.config), 0);
    test_threads(3, reload_often, &two);
    CHECK_EQ(pnx_config_version(two.config), 601);
    CHECK_EQ(changes, 600);
    case_end(&two.config);
}

struct hammer {
    struct pnx_config *config;
    const char *path;
    uint64_t seed;
    int rounds;
    int writers;
};

static void order_check(void *ctx, const void *value, uint64_t version) {
    static uint64_t last; /* one call at a time, so no atomic: TSan would tell */
    (void)ctx;
    (void)value;
    CHECK_EQ(version, last ? last + 1 : 2);
    last = version;
}

static void hammer(unsigned index, void *ctx) {
    struct hammer *h = ctx;
    uint64_t state = h->seed + index, last = 0;
    if (index == 0) {
        for (int i = 0; i < h->rounds; i++) {
            char text[32];
            uint64_t r = test_random(&state);
            snprintf(text, sizeof(text), r % 4 == 0 ? "bad %d" : "%d", (int)(r % 1000));
            if (r % 7 == 0)
                unlink(h->path);
            else if (r % 2)
                put_by_rename(h->path, text);
            else
                put(h->path, text);
        }
        put_by_rename(h->path, "777");
        CHECK_EQ(pnx_config_reload(h->config, NULL), 0);
        __atomic_store_n(&h->writers, 0, __ATOMIC_RELEASE);
        return;
    }
    while (__atomic_load_n(&h->writers, __ATOMIC_ACQUIRE)) {
        uint64_t version;
        PNX_AUTO_RC const struct number *number = pnx_config_load(h->config, &version);
        CHECK(version >= last && number->value >= 0 && number->value <= 1000);
        last = version;
        if (index == 1)
            (void)pnx_config_reload(h->config, NULL);
        struct pnx_config_status status = case_status(h->config);
        CHECK(status.version >= version || status.version + 1 == version);
    }
}

TEST(p3_edits_reloads_loads_and_the_thread_together) {
    struct hammer h = {.seed = test_seed(), .rounds = test_slow() ? 200 : 1000, .writers = 1};
    case_begin();
    h.path = test_path("c");
    put(h.path, "1");
    h.config = create_threaded(h.path, order_check, NULL);
    test_threads(4, hammer, &h);
    CHECK_EQ(case_value(h.config), 777);
    struct pnx_config_stats stats = case_stats(h.config);
    CHECK_EQ(stats.version, 1 + stats.changes);
    case_end(&h.config);
}

static int64_t cpu_ns(void) {
    struct timespec ts;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
    return (int64_t)ts.tv_sec * PNX_SEC + ts.tv_nsec;
}

static bool parse_slowly;

static int slow_parse(void *ctx, const char *text, size_t n, struct pnx_error *err, void **ret) {
    if (parse_slowly) {
        int64_t before = cpu_ns();
        put(test_path("c"),
                "3");       /* a notification that the thread cannot take, since we are loading */
        poll(NULL, 0, 300); /* what is measured is this time, not waited for */
        CHECK_MSG(cpu_ns() - before < 150 * PNX_MS, "%lld ns of processor time",
                (long long)(cpu_ns() - before));
    }
    parse_slowly = false;
    return case_parse(ctx, text, n, err, ret);
}

TEST(the_thread_does_not_spin_while_somebody_else_loads) {
    struct pnx_config *config = NULL;
    case_begin();
    te.virtual_time = false;
    char path[512];
    snprintf(path, sizeof(path), "%s", test_path("c"));
    put(path, "1");
    struct pnx_config_opts opts = case_opts(path);
    opts.flags = PNX_CONFIG_THREAD;
    opts.debounce_ns = PNX_MS;
    opts.parse = slow_parse;
    CHECK_EQ(pnx_config_create(&opts, NULL, &config), 0);
    parse_slowly = true;
    CHECK_EQ(pnx_config_reload(config, NULL), 0);
    CHECK_EQ(pnx_config_wait(config, 2, 20 * PNX_SEC), 0);
    CHECK_EQ(case_value(config), 3);
    case_end(&config);
}

static struct pnx_config *closing;

static int parse_and_close(
        void *ctx, const char *text, size_t n, struct pnx_error *err, void **ret) {
    if (closing)
        pnx_config_release(&closing);
    return case_parse(ctx, text, n, err, ret);
}

TEST(p3_release_from_inside_parse_is_not_the_files_fault) {
    struct pnx_error err;
    case_begin();
    const char *path = test_path("c");
    put(path, "1");
    struct pnx_config_opts opts = case_opts(path);
    struct pnx_config *config = NULL;
    opts.parse = parse_and_close;
    CHECK_EQ(pnx_config_create(&opts, NULL, &config), 0);
    closing = config;
    put(path, "2");
    CHECK_EQ(pnx_config_reload(config, &err), -ESHUTDOWN);
    CHECK_STR(err.phase, "publish");
    CHECK_EQ(events_refused + changes, 0);
    CHECK_EQ(te.logs, 0);
    test_env_check_empty(&te);
}

/* ---- an event loop ---- */

TEST(an_event_loop_is_told_by_the_descriptor) {
    case_begin();
    const char *path = test_path("c");
    put(path, "1");
    struct pnx_config *config = case_create(path, 0);
    struct pollfd polled = {.fd = pnx_config_fd(config), .events = POLLIN};
    CHECK(polled.fd >= 0);
    CHECK(fcntl(polled.fd, F_GETFD) & FD_CLOEXEC);
    CHECK_EQ(poll(&polled, 1, 0), 0);
    put(path, "2");
    CHECK_EQ(poll(&polled, 1, 0), 1);
    case_settle(config);
    CHECK_EQ(case_value(config), 2);
    case_tick(config);
    CHECK_EQ(poll(&polled, 1, 0), 0);
    put(test_path("other"), "2"); /* wakes the loop, and no more */
    CHECK_EQ(case_tick(config), PNX_NEVER);
    case_end(&config);
}

/* ---- registry, statistics, health ---- */

TEST(a_refused_file_degrades_the_health) {
    struct pnx_stats *set = NULL;
    struct pnx_config *config = NULL;
    struct pnx_health_entry entry;
    size_t n = 0;
    case_begin();
    const char *path = test_path("c");
    put(path, "1");
    struct pnx_config_opts opts = case_opts(path);
    CHECK_EQ(pnx_stats_create(NULL, NULL, &set), 0);
    opts.stats = set;
    CHECK_EQ(pnx_config_create(&opts, NULL, &config), 0);
    CHECK_EQ(pnx_health(set, &entry, 1, &n), PNX_HEALTH_OK);
    CHECK_EQ(n, 1);
    CHECK_STR(entry.kind, "config");
    put(path, "bad");
    CHECK(pnx_config_reload(config, NULL) < 0);
    CHECK_EQ(pnx_health(set, &entry, 1, &n), PNX_HEALTH_DEGRADED);
    CHECK_CONTAINS(entry.reason, "last good settings");
    put(path, "1");
    CHECK_EQ(pnx_config_reload(config, NULL), 0);
    CHECK_EQ(pnx_health(set, &entry, 1, &n), PNX_HEALTH_OK);
    case_end(&config);
    pnx_stats_release(&set);
}

/* ---- memory and system calls at creation ---- */

static int create_and_reload(struct test_env *env, void *ctx) {
    struct pnx_config_opts opts = case_opts(ctx);
    struct pnx_config *config = NULL;
    (void)env;
    opts.registry = pnx_registry_off();
    int rc = pnx_config_create(&opts, NULL, &config);
    if (rc == 0)
        rc = pnx_config_reload(config, NULL);
    pnx_config_release(&config);
    return rc;
}

TEST(each_allocation_may_fail) {
    case_begin();
    const char *path = test_path("c");
    put(path, "1");
    test_fail_each_allocation(&te, create_and_reload, (void *)(uintptr_t)path);
}

TEST(each_system_call_of_creation_may_fail) {
    if (!test_os_faults())
        test_skip("needs injected faults");
    case_begin();
    const char *path = test_path("c");
    put(path, "1");
    for (int flags = 0; flags < 2; flags++) {
        for (int nth = 1;; nth++) {
            struct pnx_config_opts opts = case_opts(path);
            struct pnx_config *config = NULL;
            struct pnx_error err = {0};
            opts.flags = (uint32_t)flags; /* without and with a thread */
            test_os_fault(NULL, nth, false, EIO);
            int rc = pnx_config_create(&opts, &err, &config);
            bool refused = test_os_fault_clear() > 0;
            CHECK_MSG(rc == 0 || rc == -EIO, "call %d: %s", nth, pnx_errname(rc));
            if (rc) {
                CHECK(config == NULL && err.message[0]);
            } else {
                CHECK_EQ(case_value(config), 1);
                CHECK_EQ(pnx_config_reload(config, NULL), 0);
                pnx_config_release(&config);
            }
            test_env_check_empty(&te);
            if (!refused)
                break;
        }
    }
}

/* ---- fork ---- */

static void use_in_child(void *ctx) {
    struct pnx_config *config = ctx;
    put(test_path("c"),
            "2"); /* a directory of the child's own: what counts is that nothing is taken */
    CHECK_EQ(case_tick(config), PNX_NEVER);
    CHECK_EQ(pnx_config_reload(config, NULL), 0);
    CHECK_EQ(case_value(config), 5);
    pnx_config_release(&config); /* no thread to join here */
    raise(SIGKILL); /* not exit: leak checkers do not know what the parent's threads held */
}

static void check_fork(uint32_t flags) {
    case_begin();
    const char *path = test_path("c");
    put(path, "1");
    struct pnx_config_opts opts = case_opts(path);
    struct pnx_config *config = NULL;
    opts.flags = flags;
    opts.debounce_ns = 60 * PNX_SEC; /* the thread stays out of it */
    CHECK_EQ(pnx_config_create(&opts, NULL, &config), 0);
    put(path, "5");
    test_others_asleep(); /* its thread has begun */
    CHECK_EQ(test_child(use_in_child, config), -SIGKILL);
    if (flags & PNX_CONFIG_THREAD) {
        /* The descriptor is shared: a signal of the child's would keep the parent's thread awake for ever. */
        struct pollfd stop = {.fd = config->wake_fd, .events = POLLIN};
        CHECK_EQ(poll(&stop, 1, 0), 0);
    }
    if (!flags)
        CHECK_EQ(
                case_tick(config), te.now + 60 * PNX_SEC); /* the child took no notification away */
    CHECK_EQ(pnx_config_reload(config, NULL), 0);
    CHECK_EQ(case_value(config), 5);
    pnx_config_release(&config);
}

TEST(a_child_takes_no_notification_from_its_parent) {
    check_fork(0);
}

TEST(a_child_does_not_join_its_parents_thread) {
    check_fork(PNX_CONFIG_THREAD);
}
