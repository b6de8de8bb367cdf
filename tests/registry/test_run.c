/* SPDX-License-Identifier: Apache-2.0 */
/* Running cleanups: P1, P2 and P5 of patinox/registry.h, P1 and P2 of registry/run.c. */
#include "harness/harness.h"
#include "registry/ledger.h"

#include <patinox/registry.h>
#include <patinox/shutdown.h>

#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <unistd.h>

static struct pnx_registry *fresh(void) {
    struct pnx_registry *registry;
    CHECK_EQ(pnx_registry_create(NULL, NULL, &registry), 0);
    return registry;
}

static pnx_resource_id add(struct pnx_registry *registry, pnx_cleanup_fn *cleanup, void *arg) {
    pnx_resource_id id;
    CHECK_EQ(pnx_registry_add(registry,
                     PNX_RESOURCE(.type = "thing", .cleanup = cleanup, .arg = arg), NULL, &id),
            0);
    return id;
}

TEST(what_a_cleanup_may_ask_has_answers_without_one) {
    CHECK_EQ(pnx_cancel_deadline(NULL), PNX_NEVER);
    CHECK(!pnx_cancel_requested(NULL));
}

static int ask(void *arg, const struct pnx_cancel *cancel) {
    *(bool *)arg =
            cancel && pnx_cancel_deadline(cancel) == PNX_NEVER && !pnx_cancel_requested(cancel);
    return 0;
}

TEST(a_forced_cleanup_has_no_deadline) {
    bool right = false;
    CHECK_EQ(pnx_registry_cleanup(NULL, add(NULL, ask, &right)), 0);
    CHECK(right);
}

struct meeting {
    struct pnx_registry *registry;
    pnx_resource_id id;
    sem_t entered, go;
    bool ended;
    int result;
};

static void meeting_init(struct meeting *meeting) {
    memset(meeting, 0, sizeof(*meeting));
    meeting->registry = fresh();
    sem_init(&meeting->entered, 0, 0);
    sem_init(&meeting->go, 0, 0);
}

static int enter_and_wait(void *arg, const struct pnx_cancel *cancel) {
    struct meeting *meeting = arg;
    (void)cancel;
    sem_post(&meeting->entered);
    sem_wait(&meeting->go);
    meeting->ended = true;
    return 0;
}

static uint64_t waits_of(struct pnx_registry *registry) {
    struct pnx_registry_stats stats = {.size = sizeof(stats)};
    CHECK_EQ(pnx_registry_read_stats(registry, &stats), 0);
    return stats.cleanup_waits;
}

static void clean_remove_release(unsigned index, void *ctx) {
    struct meeting *meeting = ctx;
    if (index == 0) {
        CHECK_EQ(pnx_registry_cleanup(meeting->registry, meeting->id), 0);
    } else if (index == 1) {
        sem_wait(&meeting->entered);
        meeting->result = pnx_registry_remove(meeting->registry, meeting->id);
        CHECK(meeting->ended); /* TSan sees here that the cleanup happens before the return */
    } else {
        while (waits_of(meeting->registry) == 0)
            sched_yield(); /* until the removal is waiting */
        CHECK(!meeting->ended);
        CHECK_EQ(pnx_registry_cleanup(meeting->registry, meeting->id), -EALREADY); /* at once */
        sem_post(&meeting->go);
    }
}

TEST(p2_a_removal_returns_only_after_the_running_cleanup_has_ended) {
    struct meeting meeting;
    meeting_init(&meeting);
    meeting.id = add(meeting.registry, enter_and_wait, &meeting);
    test_threads(3, clean_remove_release, &meeting);
    CHECK_EQ(meeting.result, -EALREADY);
    pnx__registry_check(meeting.registry);
    pnx_registry_release(&meeting.registry);
}

static int remove_self(void *arg, const struct pnx_cancel *cancel) {
    struct meeting *meeting = arg;
    (void)cancel;
    meeting->result = pnx_registry_remove(meeting->registry, meeting->id);
    return 0;
}

TEST(p2_from_inside_its_own_cleanup_a_removal_returns_at_once) {
    struct meeting meeting;
    meeting_init(&meeting);
    meeting.id = add(meeting.registry, remove_self, &meeting);
    CHECK_EQ(pnx_registry_cleanup(meeting.registry, meeting.id), 0);
    CHECK_EQ(meeting.result, -EALREADY);
    pnx_registry_release(&meeting.registry);
}

static int remove_outer(void *arg, const struct pnx_cancel *cancel) {
    return remove_self(arg, cancel);
}

struct nest {
    struct meeting *outer;
    pnx_resource_id inner;
};

static int run_inner(void *arg, const struct pnx_cancel *cancel) {
    struct nest *nest = arg;
    (void)cancel;
    return pnx_registry_cleanup(nest->outer->registry, nest->inner);
}

TEST(p2_from_a_cleanup_nested_in_it_too) {
    struct meeting meeting;
    meeting_init(&meeting);
    struct nest nest = {.outer = &meeting};
    nest.inner = add(meeting.registry, remove_outer, &meeting);
    meeting.id = add(meeting.registry, run_inner, &nest);
    CHECK_EQ(pnx_registry_cleanup(meeting.registry, meeting.id), 0);
    CHECK_EQ(meeting.result, -EALREADY);
    pnx_registry_release(&meeting.registry);
}

/* Cleanups that each remove the next one's row, in a ring. */
enum { RING = 4 };
struct ring {
    struct pnx_registry *registry[RING];
    pnx_resource_id ids[RING];
    pthread_barrier_t all_inside;
    int results[RING];
};
struct ring_member {
    struct ring *ring;
    unsigned i;
};

static int remove_next(void *arg, const struct pnx_cancel *cancel) {
    struct ring_member *member = arg;
    struct ring *ring = member->ring;
    unsigned next = (member->i + 1) % RING;
    (void)cancel;
    pthread_barrier_wait(&ring->all_inside);
    ring->results[member->i] = pnx_registry_remove(ring->registry[next], ring->ids[next]);
    return 0;
}

static void clean_own(unsigned index, void *ctx) {
    struct ring *ring = ctx;
    CHECK_EQ(pnx_registry_cleanup(ring->registry[index], ring->ids[index]), 0);
}

TEST(p1_cleanups_that_would_wait_for_each_other_in_a_ring_are_refused) {
    for (int round = 0; round < (test_slow() ? 20 : 200); round++) {
        struct ring ring;
        struct ring_member members[RING];
        struct pnx_registry *one = fresh(), *other = fresh();
        pthread_barrier_init(&ring.all_inside, NULL, RING);
        for (unsigned i = 0; i < RING; i++) {
            members[i] = (struct ring_member){&ring, i};
            ring.registry[i] = i % 2 ? one : other;
            ring.ids[i] = add(ring.registry[i], remove_next, &members[i]);
        }
        test_threads(RING, clean_own, &ring);
        int refused = 0;
        for (int i = 0; i < RING; i++) {
            CHECK(ring.results[i] == -EALREADY || ring.results[i] == -EDEADLK);
            refused += ring.results[i] == -EDEADLK;
        }
        CHECK_EQ(refused, 1); /* the last to wait; the others then come free one by one */
        pthread_barrier_destroy(&ring.all_inside);
        pnx_registry_release(&one);
        pnx_registry_release(&other);
    }
}

static int use_the_registry(void *arg, const struct pnx_cancel *cancel) {
    struct meeting *meeting = arg;
    struct pnx_resource_info info;
    (void)cancel;
    pnx_resource_id id = add(meeting->registry, ask, &meeting->ended);
    CHECK_EQ(pnx_registry_set_bytes(meeting->registry, id, 5), 0);
    CHECK_EQ(pnx_registry_cleanup(meeting->registry, id), 0);
    CHECK_EQ(pnx_registry_info(meeting->registry, meeting->id, &info), 0);
    CHECK_EQ(info.state, PNX_RESOURCE_RUNNING);
    CHECK_EQ(pnx_registry_count(meeting->registry), 1);
    return 0;
}

TEST(p5_a_cleanup_may_use_the_registry) {
    struct meeting meeting;
    meeting_init(&meeting);
    meeting.id = add(meeting.registry, use_the_registry, &meeting);
    CHECK_EQ(pnx_registry_cleanup(meeting.registry, meeting.id), 0);
    CHECK(meeting.ended);
    pnx_registry_release(&meeting.registry);
}

static int end_thread(void *arg, const struct pnx_cancel *cancel) {
    (void)arg;
    (void)cancel;
    pthread_exit(NULL);
}

static void clean_by_ending_the_thread(void *ctx) {
    (void)ctx;
    struct pnx_registry *registry = fresh();
    pnx_registry_cleanup(registry, add(registry, end_thread, NULL));
}

TEST(p2_a_cleanup_that_ends_its_thread_aborts_the_process) {
    CHECK_EQ(test_apart(clean_by_ending_the_thread, NULL), -SIGABRT);
}

/* ---- fork ---- */

static void look_at_parents_rows(void *ctx) {
    struct meeting *meeting = ctx;
    CHECK_EQ(pnx_registry_cleanup(meeting->registry, meeting->id), -ESTALE);
    CHECK_EQ(pnx_registry_remove(meeting->registry, meeting->id),
            0); /* its copy of the object goes */
    CHECK_EQ(pnx_registry_count(meeting->registry), 0);
}

TEST(a_forked_child_does_not_clean_up_what_is_its_parents) {
    struct meeting meeting;
    meeting_init(&meeting);
    meeting.id = add(meeting.registry, enter_and_wait, &meeting);
    CHECK_EQ(test_child(look_at_parents_rows, &meeting), 0);
    CHECK_EQ(pnx_registry_count(meeting.registry), 1);
    CHECK_EQ(pnx_registry_remove(meeting.registry, meeting.id), 0);
    pnx_registry_release(&meeting.registry);
}

static void remove_what_runs_in_the_parent(void *ctx) {
    struct meeting *meeting = ctx;
    /* Nobody ends it here. */
    CHECK_EQ(pnx_registry_remove(meeting->registry, meeting->id), -EALREADY);
    kill(getpid(),
            SIGKILL); /* any other exit runs a leak checker, which misses the parent's threads */
}

static void clean_and_fork(unsigned index, void *ctx) {
    struct meeting *meeting = ctx;
    if (index == 0) {
        CHECK_EQ(pnx_registry_cleanup(meeting->registry, meeting->id), 0);
        return;
    }
    sem_wait(&meeting->entered);
    meeting->result = test_child(remove_what_runs_in_the_parent, meeting);
    sem_post(&meeting->go);
}

TEST(a_forked_child_does_not_wait_for_a_cleanup_that_only_its_parent_has) {
    struct meeting meeting;
    meeting_init(&meeting);
    meeting.id = add(meeting.registry, enter_and_wait, &meeting);
    test_threads(2, clean_and_fork, &meeting);
    CHECK_EQ(meeting.result, -SIGKILL);
    pnx_registry_release(&meeting.registry);
}

/* The child's threads get the stacks of the parent's, and with them the numbers of threads. */
static void shut_down_in_the_child(unsigned index, void *ctx) {
    struct meeting *meeting = ctx;
    (void)index;
    CHECK_EQ(pnx_registry_shutdown(meeting->registry, 60 * PNX_SEC, NULL), 0);
}

static void start_threads_in_the_child(void *ctx) {
    test_threads(4, shut_down_in_the_child, ctx);
    kill(getpid(), SIGKILL); /* as above */
}

static void clean_and_fork_threads(unsigned index, void *ctx) {
    struct meeting *meeting = ctx;
    if (index == 0) {
        CHECK_EQ(pnx_registry_cleanup(meeting->registry, meeting->id), 0);
        return;
    }
    sem_wait(&meeting->entered);
    meeting->result = test_child(start_threads_in_the_child, meeting);
    sem_post(&meeting->go);
}

TEST(a_forked_childs_threads_are_in_no_cleanup_of_its_parents) {
#ifdef PNX_TSAN
    return; /* TSan has no threads in a child of many; dev and ASan show it */
#endif
    struct meeting meeting;
    meeting_init(&meeting);
    meeting.id = add(meeting.registry, enter_and_wait, &meeting);
    test_threads(2, clean_and_fork_threads, &meeting);
    CHECK_EQ(meeting.result, -SIGKILL);
    pnx_registry_release(&meeting.registry);
}
