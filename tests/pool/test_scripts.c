/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Scripted lives of a pool: steps, and the sequence of events that they must bring about.
 *
 * The cases are those of the MongoDB connection pool specification (its format and its wording are not used here), as far as a
 * pool of ours has a counterpart.  There, clear is our reset (and pauses, which ours does not: a script says so), ready is
 * our resume, and a pool begins paused.  Without counterpart are:
 *   - ids of connections, and their order: a pool of ours knows slots, and leases have generations, which test_pool.c shows;
 *   - the events of a pool's creation, and with which options: create has a result instead;
 *   - a check-in that is an event: returning is the short way, which tells nobody; a script sees it by its own steps;
 *   - a clear that interrupts a connect under way: ours has a deadline, and its result is thrown away, which is shown here;
 *   - service ids of load balancers: a pool of ours has one epoch.
 *
 * A step is one of (N, a digit, names a caller):
 *   out N [ERROR]     checks out on this thread, with success, or this error     start N [MS]   the same in a thread, with a timeout
 *   join N [ERROR]    that thread has ended, with success, or with this error    waiting M      waits until M callers wait
 *   in N | drop N     returns it, or returns it as broken                        id N M         N has the resource that was made as the Mth
 *   hold WHAT         connects, or closes, wait from now on                      let WHAT       no more
 *   reach M           waits until M connects are inside the manager              fail M         so many connects fail
 *   await EVENT M     waits until an event has come M times                      past MS        time passes, and a tick
 *   reset [FLAG...]   idle, interrupt, drop                                      pause, resume, close, resize M
 *   is STAT M         a number of the pool's, at once
 * A step that begins with "! " is made before the pool is.  Events of different threads have no order unless a step makes one:
 * a script watches those that have.
 */
#include "harness/harness.h"
#include "os/clock.h"
#include "pool/mock.h"

#include <patinox/pool.h>
#include <patinox/stats.h>
#include <stdarg.h>

enum { CALLERS = 10, EVENTS = 256, STEPS = 40 };

struct caller {
    pthread_t thread;
    pnx_ns timeout;
    int rc;
    struct pnx_lease lease;
};

struct script {
    struct pnx_pool_opts opts;
    const char *steps[STEPS];
    const char *watched; /* which events count */
    const char *events;  /* their sequence */
};

static struct {
    const char *watched;
    pthread_mutex_t lock;
    char log[EVENTS][40]; /* lock */
    int n;                /* lock */
    struct caller callers[CALLERS];
    struct pnx_pool *pool;
    struct mock *mock;
    struct test_env te;
    pnx_ns ahead; /* atomic: how much time has passed by "past" */
} run;

static pnx_ns script_now(void *ctx) {
    (void)ctx;
    return pnx__os_now() + __atomic_load_n(&run.ahead, __ATOMIC_RELAXED);
}

/* ---- events ---- */

static void log_event(const char *format, ...) PNX_PRINTF(1, 2);
static void log_event(const char *format, ...) {
    va_list args;
    pthread_mutex_lock(&run.lock);
    CHECK(run.n < EVENTS);
    va_start(args, format);
    vsnprintf(run.log[run.n++], sizeof(run.log[0]), format, args);
    va_end(args);
    pthread_mutex_unlock(&run.lock);
}

static void on_event(void *ctx, const struct pnx_event *event) {
    (void)ctx;
    switch (event->type) {
    case PNX_EVENT_POOL_CONNECTION_CREATED:
        log_event("created");
        break;
    case PNX_EVENT_POOL_CONNECT_FAILED:
        log_event("connect-failed");
        break;
    case PNX_EVENT_POOL_CONNECTION_CLOSED:
        log_event("closed:%s", event->cause);
        break;
    case PNX_EVENT_POOL_RESET:
        log_event("reset");
        break;
    case PNX_EVENT_POOL_PAUSED:
        log_event("paused");
        break;
    case PNX_EVENT_POOL_RESUMED:
        log_event("resumed");
        break;
    case PNX_EVENT_POOL_CLOSED:
        log_event("pool-closed");
        break;
    case PNX_EVENT_POOL_ACQUIRE_FAILED:
        log_event("failed:%s", event->cause);
        break;
    default:
        break;
    }
}

static bool is_watched(const char *event) {
    char kind[40];
    snprintf(kind, sizeof(kind), "%s", event);
    kind[strcspn(kind, ": ")] = '\0';
    return strstr(run.watched, kind) != NULL;
}

static int count_event(const char *event) {
    int n = 0;
    pthread_mutex_lock(&run.lock);
    for (int i = 0; i < run.n; i++)
        n += strcmp(run.log[i], event) == 0;
    pthread_mutex_unlock(&run.lock);
    return n;
}

/* ---- steps ---- */

static void acquire(struct caller *caller) {
    int n = (int)(caller - run.callers);
    caller->rc = pnx_pool_acquire(run.pool, caller->timeout, NULL, &caller->lease);
    if (caller->rc == 0)
        log_event("got %d", n);
}

static void *acquire_in_thread(void *arg) {
    acquire(arg);
    return NULL;
}

static struct caller *caller_of(const char *word) {
    CHECK_MSG(word[0] >= '0' && word[0] <= '9' && !word[1], "no caller \"%s\"", word);
    return &run.callers[word[0] - '0'];
}

static void check_outcome(const struct caller *caller, const char *error) {
    const char *name = caller->rc ? pnx_errname(caller->rc) : "";
    CHECK_MSG(strcmp(name, error) == 0, "caller %d: \"%s\", expected \"%s\"",
            (int)(caller - run.callers), name, error);
}

static uint64_t stat_of(const char *name) {
    struct pnx_pool_stats stats = mock_stats(run.pool);
#define PNX_STAT(row, kind, unit, level, help) \
    if (strcmp(name, #row) == 0) \
        return stats.row;
#define PNX_STAT_HISTOGRAM(row, unit, level, help)
#include <patinox/stats/pool.def>
#undef PNX_STAT
#undef PNX_STAT_HISTOGRAM
    test_fail(__FILE__, __LINE__, "no number \"%s\"", name);
}

static void await_number(const char *what, uint64_t n, bool is_event) {
    pnx_ns until = pnx_now() + 30 * PNX_SEC;
    while ((is_event ? (uint64_t)count_event(what) : stat_of(what)) < n) {
        CHECK_MSG(pnx_now() < until, "waited 30 s for %s to be %d", what, (int)n);
        sched_yield();
    }
}

static uint32_t reset_flags(const char *words) {
    return (strstr(words, "idle") ? (uint32_t)PNX_POOL_RESET_IDLE : 0) |
           (strstr(words, "interrupt") ? (uint32_t)PNX_POOL_RESET_INTERRUPT : 0) |
           (strstr(words, "drop") ? (uint32_t)PNX_POOL_RESET_DROP_WAITERS : 0);
}

static bool caller_step(const char *verb, const char *a, const char *b) {
    struct caller *caller;
    if (strcmp(verb, "out") == 0) {
        caller = caller_of(a);
        caller->timeout = strcmp(b, "EAGAIN") == 0 ? 0 : 30 * PNX_SEC;
        acquire(caller);
        check_outcome(caller, b);
    } else if (strcmp(verb, "start") == 0) {
        caller = caller_of(a);
        caller->timeout = b[0] ? atoi(b) * PNX_MS : 30 * PNX_SEC;
        CHECK(pthread_create(&caller->thread, NULL, acquire_in_thread, caller) == 0);
    } else if (strcmp(verb, "join") == 0) {
        caller = caller_of(a);
        pthread_join(caller->thread, NULL);
        check_outcome(caller, b);
    } else if (strcmp(verb, "in") == 0) {
        pnx_lease_release(&caller_of(a)->lease);
    } else if (strcmp(verb, "drop") == 0) {
        pnx_lease_discard(&caller_of(a)->lease);
    } else if (strcmp(verb, "id") == 0) {
        CHECK_EQ(mock_of(&caller_of(a)->lease)->id, atoi(b));
    } else {
        return false;
    }
    return true;
}

static bool server_step(const char *verb, const char *a, const char *b) {
    if (strcmp(verb, "hold") == 0 || strcmp(verb, "let") == 0) {
        bool connect = strcmp(a, "connect") == 0;
        mock_set(run.mock, connect ? &run.mock->hold_connect : &run.mock->hold_close,
                verb[0] == 'h');
    } else if (strcmp(verb, "reach") == 0) {
        mock_wait(run.mock, &run.mock->in_connect, atoi(a));
    } else if (strcmp(verb, "fail") == 0) {
        pthread_mutex_lock(&run.mock->lock);
        run.mock->connect_errors = atoi(a);
        pthread_mutex_unlock(&run.mock->lock);
    } else if (strcmp(verb, "await") == 0) {
        await_number(a, (uint64_t)atoi(b), true);
    } else if (strcmp(verb, "waiting") == 0) {
        await_number("waiting", (uint64_t)atoi(a), false);
    } else if (strcmp(verb, "is") == 0) {
        CHECK_EQ(stat_of(a), atoi(b));
    } else {
        return false;
    }
    return true;
}

static bool pool_step(const char *verb, const char *a, const char *step) {
    if (strcmp(verb, "past") == 0) {
        __atomic_add_fetch(&run.ahead, atoi(a) * PNX_MS, __ATOMIC_RELAXED);
        pnx_pool_tick(run.pool, script_now(NULL));
    } else if (strcmp(verb, "reset") == 0) {
        CHECK_EQ(pnx_pool_reset(run.pool, reset_flags(step)), 0);
    } else if (strcmp(verb, "pause") == 0) {
        CHECK(pnx_pool_pause(run.pool, 0) >= 0);
    } else if (strcmp(verb, "resume") == 0) {
        CHECK_EQ(pnx_pool_resume(run.pool), 0);
    } else if (strcmp(verb, "close") == 0) {
        CHECK_EQ(pnx_pool_close_begin(run.pool), 0);
    } else if (strcmp(verb, "resize") == 0) {
        CHECK_EQ(pnx_pool_resize(run.pool, (uint32_t)atoi(a), NULL), 0);
    } else {
        return false;
    }
    return true;
}

static void do_step(const char *step) {
    char verb[16] = "", a[24] = "", b[24] = "";
    CHECK(sscanf(step, "%15s %23s %23s", verb, a, b) >= 1);
    CHECK_MSG(caller_step(verb, a, b) || server_step(verb, a, b) || pool_step(verb, a, step),
            "no such step: \"%s\"", step);
}

static void interrupt(void *ctx, void *resource) {
    (void)ctx;
    log_event("interrupted %d", ((struct mock_resource *)resource)->id);
}

/* ---- scripts ---- */

static void check_events(const char *expected) {
    char got[2048] = "";
    size_t used = 0;
    for (int i = 0; i < run.n; i++) {
        if (is_watched(run.log[i]))
            used += (size_t)snprintf(
                    got + used, sizeof(got) - used, "%s%s", used ? ", " : "", run.log[i]);
    }
    CHECK_STR(got, expected);
}

static void play(const struct script *script) {
    struct pnx_stats *set;
    uint32_t id;
    memset(&run, 0, sizeof(run));
    CHECK(pthread_mutex_init(&run.lock, NULL) == 0);
    run.watched = script->watched;
    test_env_init(&run.te);
    run.te.env.now = run.te.env.now_coarse = script_now;
    run.mock = mock_new();
    CHECK_EQ(pnx_stats_create(PNX_STATS_OPTS(), NULL, &set), 0);
    struct pnx_monitor monitor = {.size = sizeof(monitor), .event = on_event};
    CHECK_EQ(pnx_monitor_add(set, &monitor, &id), 0);
    struct pnx_pool_manager manager = mock_manager;
    manager.interrupt = interrupt;
    struct pnx_pool_opts opts = script->opts;
    opts.size = sizeof(opts);
    opts.ctx = run.mock;
    opts.env = &run.te.env;
    opts.stats = set;
    int step = 0;
    for (; strncmp(script->steps[step], "! ", 2) == 0; step++)
        do_step(script->steps[step] + 2);
    run.pool = mock_pool(&manager, &opts);
    for (; step < STEPS && script->steps[step]; step++)
        do_step(script->steps[step]);
    for (int i = 0; i < CALLERS; i++)
        pnx_lease_release(&run.callers[i].lease);
    MOCK_END(run.pool);
    CHECK_EQ(run.mock->live, 0);
    CHECK_EQ(pnx_monitor_remove(set, id), 0);
    pnx_stats_release(&set);
    check_events(script->events);
    test_env_check_empty(&run.te);
    free(run.mock);
}

#define SCRIPT(name, options, seen, sequence, ...) \
    TEST(name) { \
        static const struct script script = {.opts = {.site = PNX_SITE, PNX_OPEN options}, \
                .steps = {__VA_ARGS__}, \
                .watched = (seen), \
                .events = (sequence)}; \
        play(&script); \
    }
#define PNX_OPEN(...) __VA_ARGS__

/* clang-format off */

/* ---- who waits ---- */

SCRIPT(script_who_asks_first_is_served_first, (.max = 1), "got", "got 1, got 2, got 3, got 4",
        "out 1", "start 2", "waiting 1", "start 3", "waiting 2", "start 4", "waiting 3",
        "in 1", "join 2", "in 2", "join 3", "in 3", "join 4")

SCRIPT(script_who_waits_too_long_fails_and_the_next_one_is_served, (.max = 1), "got failed", "got 1, failed:wait, got 3",
        "out 1", "start 2 20", "join 2 ETIMEDOUT", "is waiting 0", "start 3", "waiting 1", "in 1", "join 3")

/* ---- out and in ---- */

SCRIPT(script_the_first_out_connects, (.max = 3), "got created closed", "created, got 1, closed:shutdown",
        "out 1", "is in_use 1")

SCRIPT(script_each_out_connects_while_all_are_out, (.max = 3), "got created", "created, got 1, created, got 2, created, got 3",
        "out 1", "out 2", "out 3", "is in_use 3")

SCRIPT(script_what_came_in_goes_out_again, (.max = 3), "got created", "created, got 1, got 2",
        "out 1", "in 1", "is idle 1", "out 2", "id 2 0")

SCRIPT(script_what_came_in_of_an_old_generation_is_closed, (.max = 3), "reset closed got", "got 1, reset, closed:stale, got 2, closed:shutdown",
        "out 1", "reset", "in 1", "await closed:stale 1", "out 2", "id 2 1", "is idle 0")

SCRIPT(script_what_comes_in_after_the_close_is_closed, (.max = 3), "pool-closed closed:", "pool-closed, closed:shutdown",
        "out 1", "close", "is in_use 1", "in 1", "await closed:shutdown 1")

SCRIPT(script_an_out_of_a_closed_pool_fails, (.max = 3), "pool-closed failed got", "pool-closed, failed:closed",
        "close", "out 1 ESHUTDOWN")

SCRIPT(script_what_was_unused_for_too_long_does_not_go_out, (.max = 3, .idle_ns = 50 * PNX_MS, .check_after_ns = PNX_NEVER),
        "created closed got", "created, got 1, closed:idle, created, got 2, closed:shutdown",
        "out 1", "in 1", "past 1", "past 60", "await closed:idle 1", "out 2", "id 2 1")

SCRIPT(script_what_is_of_an_old_generation_does_not_go_out, (.max = 1), "created closed got reset",
        "created, got 1, reset, closed:stale, created, got 2, closed:shutdown",
        "out 1", "in 1", "reset", "out 2", "id 2 1")

SCRIPT(script_never_more_than_max_are_out, (.max = 3), "created got", "created, got 1, created, got 2, created, got 3, got 4",
        "out 1", "out 2", "out 3", "start 4", "waiting 1", "is in_use 3", "in 2", "join 4", "id 4 1")

/* ---- connects at once ---- */

SCRIPT(script_no_more_connects_at_once_than_max_connecting, (.max = 10), "created", "created, created, created",
        "hold connect", "start 1", "start 2", "start 3", "waiting 3", "reach 2", "is connecting 2",
        "let connect", "join 1", "join 2", "join 3")

SCRIPT(script_who_waits_for_its_turn_to_connect_times_out, (.max = 10), "failed", "failed:connect",
        "hold connect", "start 1", "waiting 1", "start 2", "reach 2", "start 3 20", "join 3 ETIMEDOUT", "is connecting 2",
        "let connect", "join 1", "join 2")

SCRIPT(script_who_waits_for_a_connect_takes_what_comes_in, (.max = 10), "got", "got 1, got 2, got 3",
        "out 1", "hold connect", "start 2", "waiting 1", "start 3", "waiting 2", "reach 2", "in 1", "join 2", "id 2 0",
        "is connecting 2", "let connect", "await created 3", "join 3")

SCRIPT(script_connects_ahead_of_need_count_as_connects, (.max = 10, .min_idle = 2), "created", "created, created, created, created",
        "! hold connect", "reach 2", "start 1", "start 2", "waiting 2", "is connecting 2", "let connect", "join 1", "join 2",
        "await created 4")

/* ---- min_idle ---- */

SCRIPT(script_min_idle_connects_unasked, (.max = 5, .min_idle = 3), "created", "created, created, created, created",
        "await created 3", "out 1", "await created 4", "is in_use 1")

SCRIPT(script_min_idle_goes_on_after_an_error, (.max = 5, .min_idle = 1, .backoff_ns = PNX_MS),
        "created connect-failed", "connect-failed, created, created",
        "! fail 1", "await connect-failed 1", "out 1", "await created 2")

/* ---- clear, that is reset ---- */

SCRIPT(script_a_reset_sends_away_who_waits_if_asked_to, (.max = 1), "failed got", "got 1, failed:reset, failed:reset, failed:reset",
        "out 1", "start 2", "start 3", "start 4", "waiting 3", "reset drop", "join 2 ECANCELED", "join 3 ECANCELED",
        "join 4 ECANCELED", "is waiting 0")

SCRIPT(script_a_reset_leaves_who_waits_if_not_asked_to, (.max = 1), "reset closed got", "got 1, reset, closed:stale, got 2, closed:shutdown",
        "out 1", "start 2", "waiting 1", "reset", "in 1", "join 2", "id 2 1")

SCRIPT(script_a_connect_from_before_a_reset_goes_to_nobody, (.max = 2), "created closed failed got",
        "failed:reset, created, closed:stale, created, got 2, closed:shutdown",
        "hold connect", "start 1", "reach 1", "reset drop interrupt", "join 1 ECANCELED", "let connect", "await closed:stale 1",
        "out 2", "id 2 1")

SCRIPT(script_a_reset_interrupts_what_is_in_use_if_asked_to, (.max = 3), "reset interrupted closed",
        "reset, interrupted 0, interrupted 1, closed:stale, closed:stale",
        "out 1", "out 2", "reset interrupt", "in 1", "await closed:stale 1", "in 2")

SCRIPT(script_a_reset_does_not_interrupt_what_is_in_use_if_not_asked_to, (.max = 3), "interrupted closed", "closed:stale, closed:stale",
        "out 1", "out 2", "in 2", "reset idle", "await closed:stale 1", "await reset 1", "is in_use 1", "in 1")

SCRIPT(script_after_a_reset_min_idle_is_filled_anew, (.max = 3, .min_idle = 1), "created", "created, created",
        "await created 1", "reset idle", "await closed:stale 1", "await created 2")

SCRIPT(script_a_reset_of_a_paused_pool_leaves_it_paused, (.max = 1), "reset paused resumed got",
        "got 1, paused, reset, resumed, got 3",
        "out 1", "in 1", "pause", "reset", "out 2 EAGAIN", "resume", "out 3", "id 3 1")

/* ---- ready, that is resume ---- */

SCRIPT(script_a_paused_pool_serves_nobody_until_it_is_resumed, (.max = 2), "paused resumed failed", "paused, failed:paused, resumed",
        "pause", "out 1 EAGAIN", "start 2", "waiting 1", "is connecting 0", "resume", "join 2")

SCRIPT(script_a_pool_that_runs_is_not_resumed_again, (.max = 1), "resumed paused", "paused, resumed",
        "resume", "pause", "pause", "resume", "resume")

/* ---- close ---- */

SCRIPT(script_a_pool_is_closed_once, (.max = 1), "pool-closed", "pool-closed", "close", "close", "close")

SCRIPT(script_a_close_closes_what_is_idle_and_what_is_out_when_it_comes, (.max = 3), "pool-closed closed:",
        "pool-closed, closed:shutdown, closed:shutdown",
        "out 1", "out 2", "in 1", "hold close", "close", "is in_use 1", "let close", "await closed:shutdown 1", "in 2")

SCRIPT(script_a_close_sends_away_who_waits, (.max = 1), "failed got", "got 1, failed:closed",
        "out 1", "start 2", "waiting 1", "close", "await pool-closed 1", "join 2 ESHUTDOWN")
/* clang-format on */
