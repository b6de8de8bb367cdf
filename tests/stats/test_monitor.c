/* SPDX-License-Identifier: Apache-2.0 */
/* Events and monitors: P3 of patinox/stats.h, P1..P4 of src/stats/monitor.c. */
#include "os/mutex.h"
#include "os/thread.h"
#include "stats/fixture.h"
#include "stats/set.h"

#include <pthread.h>
#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

static struct pnx_stats *set;
static struct fixture source;

static void start(void) {
    set = fixture_set(NULL);
    fixture_add(&source, set, "source");
}

static void stop(void) {
    pnx__stats_remove(&source.stats);
    pnx_stats_release(&set);
}

static void emit(void) {
    pnx__event(&source.stats, PNX_EVENT_POOL_CLOSED, "source", -ETIMEDOUT, "why", 42, 1000);
}

static uint32_t add(pnx_monitor_fn *event, void *ctx) {
    uint32_t id = 0;
    CHECK_EQ(pnx_monitor_add(
                     set, &(struct pnx_monitor){sizeof(struct pnx_monitor), event, ctx}, &id),
            0);
    CHECK(id != 0);
    return id;
}

struct seen {
    struct pnx_a32 calls;
    struct pnx_event last;
    char object[64];
};

static void note(void *ctx, const struct pnx_event *event) {
    struct seen *s = ctx;
    pnx__mutex_assert_none_held();
    s->last = *event;
    snprintf(s->object, sizeof(s->object), "%s", event->object);
    pnx_fetch_add(&s->calls, 1, PNX_RELAXED, "test.calls");
}

TEST(an_event_reaches_every_monitor_with_all_it_says) {
    start();
    struct seen a = {0}, b = {0};
    uint32_t id = add(note, &a);
    uint32_t other = add(note, &b);
    CHECK(id != other);
    emit();
    CHECK_EQ(a.calls.v, 1);
    CHECK_EQ(b.calls.v, 1);
    CHECK_EQ(a.last.size, sizeof(struct pnx_event));
    CHECK_EQ(a.last.type, PNX_EVENT_POOL_CLOSED);
    CHECK_EQ(a.last.code, -ETIMEDOUT);
    CHECK_EQ(a.last.now, 1000);
    CHECK_EQ(a.last.value, 42);
    CHECK_STR(a.last.cause, "why");
    CHECK_STR(a.object, "source");
    pnx_ns before = pnx_now();
    pnx__event(&source.stats, PNX_EVENT_POOL_CLOSED, NULL, 0, NULL, 0, 0);
    CHECK(a.last.now >= before && a.last.now <= pnx_now()); /* filled in when zero */
    CHECK_STR(a.object, "");
    CHECK_EQ(pnx_monitor_remove(set, id), 0);
    emit();
    CHECK_EQ(a.calls.v, 2);
    CHECK_EQ(b.calls.v, 3);
    stop();
}

TEST(the_time_of_an_event_is_the_sets_clock) {
    struct test_env te;
    test_env_init(&te);
    test_env_virtual(&te, 77 * PNX_SEC);
    set = fixture_set(&te);
    fixture_add(&source, set, "source");
    struct seen a = {0};
    int64_t allocations = te.allocations;
    add(note, &a);
    pnx__event(&source.stats, PNX_EVENT_POOL_CLOSED, "x", 0, NULL, 0, 0);
    CHECK_EQ(a.last.now, 77 * PNX_SEC);
    CHECK_EQ(te.allocations, allocations); /* neither adding nor telling allocates */
    stop();
    test_env_check_empty(&te);
}

struct longer {
    struct pnx_monitor monitor;
    uint64_t newer;
};

TEST(bad_monitors_are_refused) {
    start();
    struct seen a = {0};
    uint32_t id = 99;
    struct pnx_monitor good = {sizeof(good), note, &a};
    struct pnx_monitor m = {0, note, &a};
    CHECK_EQ(pnx_monitor_add(set, &m, &id), -EINVAL);
    m = (struct pnx_monitor){sizeof(m), NULL, &a};
    CHECK_EQ(pnx_monitor_add(set, &m, &id), -EINVAL);
    CHECK_EQ(pnx_monitor_add(set, NULL, &id), -EINVAL);
    CHECK_EQ(pnx_monitor_add(set, &good, NULL), -EINVAL);
    CHECK_EQ(pnx_monitor_add(pnx_stats_off(), &good, &id), -EINVAL);
    struct longer longer = {good, 1};
    longer.monitor.size = sizeof(longer);
    CHECK_EQ(pnx_monitor_add(set, &longer.monitor, &id), -E2BIG);
    CHECK_EQ(id, 99);
    CHECK_EQ(pnx_monitor_remove(set, 0), -ENOENT);
    CHECK_EQ(pnx_monitor_remove(set, 12345), -ENOENT);
    CHECK_EQ(pnx_monitor_remove(pnx_stats_off(), 1), -ENOENT);
    id = add(note, &a);
    CHECK_EQ(pnx_monitor_remove(set, id), 0);
    CHECK_EQ(pnx_monitor_remove(set, id), -ENOENT);
    stop();
}

TEST(there_is_room_for_eight_and_ids_are_not_reused) {
    start();
    struct seen a = {0};
    uint32_t ids[PNX_MONITORS_MAX], id = 0;
    for (int i = 0; i < PNX_MONITORS_MAX; i++)
        ids[i] = add(note, &a);
    struct pnx_monitor m = {sizeof(m), note, &a};
    CHECK_EQ(pnx_monitor_add(set, &m, &id), -EBUSY);
    emit();
    CHECK_EQ(a.calls.v, PNX_MONITORS_MAX);
    CHECK_EQ(pnx_monitor_remove(set, ids[3]), 0);
    id = add(note, &a);
    for (int i = 0; i < PNX_MONITORS_MAX; i++)
        CHECK(ids[i] != id);
    set->last_id = UINT32_MAX - 1; /* ids wrap, past those in use and past 0 */
    CHECK_EQ(pnx_monitor_remove(set, id), 0);
    CHECK_EQ(add(note, &a), UINT32_MAX);
    CHECK_EQ(pnx_monitor_remove(set, UINT32_MAX), 0);
    id = add(note, &a);
    CHECK(id != 0);
    for (int i = 0; i < PNX_MONITORS_MAX; i++)
        CHECK(i == 3 || ids[i] != id);
    stop();
}

TEST(p4_without_a_monitor_nothing_happens) {
    start();
    emit(); /* with no lock taken: the monitor lock is held here by us */
    pnx__mutex_lock(&set->monitor_lock);
    emit();
    pnx__mutex_unlock(&set->monitor_lock);
    struct seen a = {0};
    CHECK_EQ(pnx_monitor_remove(set, add(note, &a)), 0);
    pnx__mutex_lock(&set->monitor_lock);
    emit();
    pnx__mutex_unlock(&set->monitor_lock);
    CHECK_EQ(a.calls.v, 0);
    stop();
}

static int ignore(void *ctx, const char *text, size_t n) {
    (void)ctx;
    (void)text;
    (void)n;
    return 0;
}

static void use_everything(void *ctx, const struct pnx_event *event) {
    struct seen *s = ctx;
    (void)event;
    if (pnx_fetch_add(&s->calls, 1, PNX_RELAXED, "test.calls2") > 0)
        return; /* the event that we cause below */
    CHECK_EQ(pnx_health(set, NULL, 0, NULL), 0);
    CHECK_EQ(pnx_stats_openmetrics(set, ignore, NULL), 0);
    struct seen inner = {0};
    uint32_t id = add(note, &inner);
    emit();
    CHECK_EQ(inner.calls.v, 1);
    CHECK_EQ(pnx_monitor_remove(set, id), 0);
    struct fixture *f = calloc(1, sizeof(*f));
    fixture_add(f, set, "made in a callback");
    pnx__stats_remove(&f->stats);
    free(f);
}

TEST(p1_a_callback_may_use_the_whole_module) {
    start();
    struct seen a = {0};
    add(use_everything, &a);
    emit();
    CHECK_EQ(a.calls.v, 2);
    stop();
}

static uint32_t own_id;

static void remove_itself(void *ctx, const struct pnx_event *event) {
    struct seen *s = ctx;
    (void)event;
    pnx_fetch_add(&s->calls, 1, PNX_RELAXED, "test.calls3");
    CHECK_EQ(pnx_monitor_remove(set, own_id), -EINPROGRESS);
    CHECK_EQ(pnx_monitor_remove(set, own_id), -ENOENT);
    emit(); /* already not called again */
}

TEST(p2_a_monitor_that_removes_itself_is_told_and_not_called_again) {
    start();
    struct seen a = {0}, other = {0};
    own_id = add(remove_itself, &a);
    uint32_t other_id = add(note, &other); /* so that somebody still listens */
    emit();
    emit();
    CHECK_EQ(a.calls.v, 1);
    CHECK_EQ(other.calls.v, 3);
    CHECK_EQ(pnx_monitor_remove(set, other_id), 0);
    for (int i = 0; i < PNX_MONITORS_MAX; i++)
        CHECK_EQ(set->monitors[i].id, 0); /* the slots are free again */
    stop();
}

/* ---- with threads ---- */

struct gate {
    struct pnx_a32 inside; /* the callback runs */
    struct pnx_a32 open;   /* it may go on */
    struct pnx_a32 left;   /* it is about to end */
    uint32_t id;
    int rc;
};

static void await(struct pnx_a32 *word) {
    while (!pnx_load(word, PNX_ACQUIRE, "test.await"))
        sched_yield();
}

static void raise_flag(struct pnx_a32 *word) {
    pnx_store(word, 1, PNX_RELEASE, "test.raise");
}

static void wait_in_gate(void *ctx, const struct pnx_event *event) {
    struct gate *g = ctx;
    (void)event;
    raise_flag(&g->inside);
    await(&g->open);
    for (int i = 0; i < 100; i++)
        sched_yield(); /* time for a remover that does not wait to be seen */
    raise_flag(&g->left);
}

static bool is_removed(uint32_t id) {
    bool removed = true;
    pnx__mutex_lock(&set->monitor_lock);
    for (int i = 0; i < PNX_MONITORS_MAX; i++) {
        if (set->monitors[i].id == id)
            removed = set->monitors[i].removed;
    }
    pnx__mutex_unlock(&set->monitor_lock);
    return removed;
}

static void remove_while_running(unsigned index, void *ctx) {
    struct gate *g = ctx;
    if (index == 0) {
        emit();
    } else if (index == 1) {
        await(&g->inside);
        CHECK_EQ(pnx_monitor_remove(set, g->id), 0);
        CHECK_EQ(pnx_load(&g->left, PNX_RELAXED, "test.left"), 1);
    } else {
        await(&g->inside);
        while (!is_removed(g->id))
            sched_yield();
        raise_flag(&g->open);
    }
}

TEST(p2_removing_waits_for_a_callback_that_runs_elsewhere) {
    start();
    struct gate g = {0};
    g.id = add(wait_in_gate, &g);
    test_threads(3, remove_while_running, &g);
    stop();
}

static void release_while_running(unsigned index, void *ctx) {
    struct gate *g = ctx;
    if (index == 0) {
        emit();
    } else if (index == 1) {
        await(&g->inside);
        struct pnx_stats *handle = set;
        pnx_stats_release(&handle);
        CHECK_EQ(pnx_load(&g->left, PNX_RELAXED, "test.left2"), 1);
    } else {
        await(&g->inside);
        while (!is_removed(g->id))
            sched_yield();
        raise_flag(&g->open);
    }
}

TEST(p2_releasing_a_set_removes_its_monitors_in_the_same_way) {
    start();
    struct gate g = {0};
    g.id = add(wait_in_gate, &g);
    test_threads(3, release_while_running, &g);
    CHECK_EQ(set->listening.v, 0); /* the block still holds the set */
    emit();
    pnx__stats_remove(&source.stats);
}

static struct gate pair[2];

static void remove_the_other(void *ctx, const struct pnx_event *event) {
    struct gate *self = ctx, *other = self == &pair[0] ? &pair[1] : &pair[0];
    (void)event;
    raise_flag(&self->inside);
    await(&other->inside);
    self->rc = pnx_monitor_remove(set, other->id);
    raise_flag(&self->left);
    await(&other->left); /* so that neither is over when the other asks */
}

static struct fixture sources[2];

static void cross(unsigned index, void *ctx) {
    (void)ctx;
    pnx__event(&sources[index].stats, PNX_EVENT_POOL_CLOSED, "", 0, NULL, 0, 0);
}

static void only_own(void *ctx, const struct pnx_event *event) {
    struct gate *self = ctx;
    if ((event->value == 0) == (self == &pair[0]))
        remove_the_other(ctx, event);
}

static void cross_one_set(unsigned index, void *ctx) {
    (void)ctx;
    pnx__event(&source.stats, PNX_EVENT_POOL_CLOSED, "", 0, NULL, index, 0);
}

TEST(p3_two_callbacks_that_remove_each_other_do_not_wait) {
    start();
    memset(pair, 0, sizeof(pair));
    pair[0].id = add(only_own, &pair[0]);
    pair[1].id = add(only_own, &pair[1]);
    test_threads(2, cross_one_set, NULL);
    CHECK_EQ(pair[0].rc, -EINPROGRESS);
    CHECK_EQ(pair[1].rc, -EINPROGRESS);
    CHECK_EQ(set->listening.v, 0);
    stop();
}

static struct pnx_stats *two_sets[2];

static void remove_across_sets(void *ctx, const struct pnx_event *event) {
    struct gate *self = ctx;
    int other = self == &pair[0] ? 1 : 0;
    (void)event;
    raise_flag(&self->inside);
    await(&pair[other].inside);
    self->rc = pnx_monitor_remove(two_sets[other], pair[other].id);
    raise_flag(&self->left);
    await(&pair[other].left);
}

TEST(p3_also_across_sets) {
    memset(pair, 0, sizeof(pair));
    for (int i = 0; i < 2; i++) {
        two_sets[i] = fixture_set(NULL);
        fixture_add(&sources[i], two_sets[i], "x");
        struct pnx_monitor m = {sizeof(m), remove_across_sets, &pair[i]};
        CHECK_EQ(pnx_monitor_add(two_sets[i], &m, &pair[i].id), 0);
    }
    test_threads(2, cross, NULL);
    CHECK_EQ(pair[0].rc, -EINPROGRESS);
    CHECK_EQ(pair[1].rc, -EINPROGRESS);
    for (int i = 0; i < 2; i++) {
        pnx__stats_remove(&sources[i].stats);
        pnx_stats_release(&two_sets[i]);
    }
}

static void leave_by_pthread_exit(void *ctx, const struct pnx_event *event) {
    (void)ctx;
    (void)event;
    pthread_exit(NULL);
}

static void *emit_thread(void *arg) {
    (void)arg;
    emit();
    return (void *)1; /* not reached */
}

TEST(p2_a_callback_that_ends_its_thread_has_ended) {
    start();
    uint32_t id = add(leave_by_pthread_exit, NULL);
    pthread_t thread;
    void *result = (void *)2;
    CHECK(pthread_create(&thread, NULL, emit_thread, NULL) == 0);
    CHECK(pthread_join(thread, &result) == 0);
    CHECK(result == NULL);
    CHECK_EQ(pnx_monitor_remove(set, id), 0); /* would wait for ever */
    stop();
}

/* ---- fork ---- */

static struct gate fork_gate;

static void in_child(void *ctx) {
    (void)ctx;
    CHECK_EQ(pnx_monitor_remove(set, fork_gate.id), 0); /* its caller exists only in the parent */
    struct seen a = {0};
    uint32_t id = add(note, &a);
    emit();
    CHECK_EQ(a.calls.v, 1);
    CHECK_EQ(pnx_monitor_remove(set, id), 0);
    _exit(0); /* no leak check here: it cannot see the stacks of threads that were not forked */
}

static void fork_beside(unsigned index, void *ctx) {
    (void)ctx;
    if (index == 0) {
        emit();
        return;
    }
    await(&fork_gate.inside);
    CHECK_EQ(test_child(in_child, NULL), 0);
    raise_flag(&fork_gate.open);
}

TEST(a_forked_child_does_not_wait_for_threads_it_does_not_have) {
    start();
    memset(&fork_gate, 0, sizeof(fork_gate));
    fork_gate.id = add(wait_in_gate, &fork_gate);
    test_threads(2, fork_beside, NULL);
    CHECK_EQ(pnx_monitor_remove(set, fork_gate.id), 0);
    stop();
}

static pid_t forked_pid = -1;

static void fork_inside(void *ctx, const struct pnx_event *event) {
    (void)ctx;
    (void)event;
    fflush(NULL);
    forked_pid = fork();
}

TEST(a_child_forked_inside_a_callback_can_leave_it) {
    start();
    uint32_t id = add(fork_inside, NULL);
    emit();
    CHECK(forked_pid >= 0);
    if (forked_pid == 0) {
        CHECK_EQ(pnx_monitor_remove(set, id), 0);
        struct seen a = {0};
        id = add(note, &a);
        emit();
        CHECK_EQ(a.calls.v, 1);
        stop();
        _exit(0);
    }
    int status = -1;
    CHECK(waitpid(forked_pid, &status, 0) == forked_pid);
    CHECK_EQ(status, 0);
    stop();
}

/* ---- stress ---- */

struct listener {
    struct pnx_a32 alive;
};

static void must_be_alive(void *ctx, const struct pnx_event *event) {
    struct listener *l = ctx;
    (void)event;
    CHECK_EQ(pnx_load(&l->alive, PNX_RELAXED, "test.alive"), 1);
}

struct churn {
    int rounds;
    struct pnx_a32 adders;
};

static void churn(unsigned index, void *ctx) {
    struct churn *c = ctx;
    if (index < 2) {
        do
            emit();
        while (pnx_load(&c->adders, PNX_ACQUIRE, "test.adders?"));
        return;
    }
    for (int i = 0; i < c->rounds; i++) {
        struct listener *l = malloc(sizeof(*l));
        CHECK(l);
        l->alive.v = 1;
        uint32_t id = add(must_be_alive, l);
        if (i % 3 == 0)
            sched_yield();
        CHECK_EQ(pnx_monitor_remove(set, id), 0);
        l->alive.v = 0; /* plain: a callback that still ran would be a data race */
        free(l);
    }
    pnx_fetch_sub(&c->adders, 1, PNX_RELEASE, "test.adders");
}

TEST(p2_a_removed_monitors_memory_is_never_touched_again) {
    start();
    struct churn c = {.rounds = test_slow() ? 1000 : 10000, .adders.v = 3};
    test_threads(5, churn, &c);
    CHECK_EQ(set->listening.v, 0);
    stop();
}

TEST(event_names_are_lower_case_and_differ) {
    CHECK_STR(pnx_event_name(PNX_EVENT_POOL_CONNECTION_CLOSED), "pool_connection_closed");
    CHECK_STR(pnx_event_name(PNX_EVENT_NONE_), "unknown");
    CHECK_STR(pnx_event_name(PNX_EVENT_END_), "unknown");
    CHECK_STR(pnx_event_name((enum pnx_event_type)12345), "unknown");
    CHECK_STR(pnx_event_name((enum pnx_event_type) - 1), "unknown");
    for (int i = 1; i < PNX_EVENT_END_; i++) {
        const char *name = pnx_event_name((enum pnx_event_type)i);
        CHECK_EQ(strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789_"), strlen(name));
        CHECK(strlen(name) < 47); /* not cut */
        for (int k = 1; k < i; k++)
            CHECK(strcmp(name, pnx_event_name((enum pnx_event_type)k)) != 0);
    }
}
