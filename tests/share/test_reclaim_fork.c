/* SPDX-License-Identifier: Apache-2.0 */
/* reclaim: what a forked child finds. */
#include "harness/harness.h"
#include "share/reclaim.h"

#include <patinox/reclaim.h>

#include <errno.h>
#include <pthread.h>
#include <unistd.h>

struct thing {
    struct pnx_reclaim_node node;
    unsigned number;
};

static unsigned n_run;
static unsigned order[256]; /* numbers of things in the order of their functions */

static void note(struct pnx_reclaim_node *node) {
    unsigned at = __atomic_fetch_add(&n_run, 1, __ATOMIC_SEQ_CST);
    if (at < 256)
        order[at] = PNX_CONTAINER(node, struct thing, node)->number;
}

static struct pnx_reclaim *make(void) {
    struct pnx_reclaim *domain = NULL;
    CHECK_EQ(pnx_reclaim_create(NULL, NULL, &domain), 0);
    return domain;
}

static struct pnx_reclaim_stats stats(struct pnx_reclaim *domain) {
    struct pnx_reclaim_stats values = {.size = sizeof(values)};
    CHECK_EQ(pnx_reclaim_read_stats(domain, &values), 0);
    return values;
}

static void *hold(void *arg) {
    pthread_barrier_t *meet = ((void **)arg)[1];
    pnx_reclaim_enter(((void **)arg)[0]);
    pthread_barrier_wait(meet);
    pthread_barrier_wait(meet);
    return NULL;
}

static struct pnx_reclaim *forked;
static struct thing before_fork;

static void use_in_child(void *ctx) {
    (void)ctx;
    struct thing own;
    CHECK_EQ(n_run, 0);
    pnx_reclaim_retire(forked, &own.node, note, 1);
    CHECK_EQ(pnx_reclaim_barrier(forked, PNX_NEVER), 0); /* the reader is not in this process */
    CHECK_EQ(n_run, 2);
    CHECK_EQ(pnx_reclaim_barrier(NULL, PNX_NEVER), 0);
    _exit(0);
}

TEST(a_child_forgets_the_sections_of_threads_that_it_has_not) {
    forked = make();
    pthread_barrier_t meet;
    pthread_t thread;
    void *args[] = {forked, &meet};
    pthread_barrier_init(&meet, NULL, 2);
    CHECK_EQ(pthread_create(&thread, NULL, hold, args), 0);
    pthread_barrier_wait(&meet);
    pnx_reclaim_retire(forked, &before_fork.node, note, 1);
    (void)pnx_reclaim_tick(forked, 0); /* a grace period is in flight */
    CHECK_EQ(test_child(use_in_child, NULL), 0);
    CHECK_EQ(n_run, 0);
    pthread_barrier_wait(&meet);
    CHECK_EQ(pthread_join(thread, NULL), 0);
    CHECK_EQ(pnx_reclaim_barrier(forked, PNX_NEVER), 0);
    CHECK_EQ(n_run, 1);
    pnx_reclaim_release(&forked);
}

static void keep_own_section(void *ctx) {
    (void)ctx;
    CHECK(pnx_reclaim_in_section(forked));
    CHECK_EQ(pnx_reclaim_barrier(forked, PNX_NEVER), -EDEADLK);
    pnx_reclaim_exit(forked);
    CHECK_EQ(pnx_reclaim_barrier(forked, PNX_NEVER), 0);
    CHECK_EQ(n_run, 1);
    _exit(0);
}

TEST(a_child_keeps_the_section_in_which_it_was_forked) {
    forked = make();
    pnx_reclaim_enter(forked);
    pnx_reclaim_retire(forked, &before_fork.node, note, 1);
    CHECK_EQ(test_child(keep_own_section, NULL), 0);
    pnx_reclaim_exit(forked);
    pnx_reclaim_release(&forked);
    CHECK_EQ(n_run, 1);
}

static pthread_barrier_t in_callback;

static void hang(struct pnx_reclaim_node *node) {
    pthread_barrier_wait(&in_callback);
    pthread_barrier_wait(&in_callback);
    note(node);
}

static void *run_there(void *arg) {
    CHECK_EQ(pnx_reclaim_barrier(arg, PNX_NEVER), 0);
    return NULL;
}

static void run_the_rest(void *ctx) {
    (void)ctx;
    CHECK_EQ(pnx_reclaim_barrier(forked, PNX_NEVER), 0); /* not for the one that began there */
    CHECK_EQ(n_run, 2);
    CHECK_EQ(stats(forked).pending, 0);
    _exit(0);
}

TEST(a_child_runs_the_callbacks_that_its_parent_had_not_begun) {
    struct thing things[3];
    pthread_t thread;
    forked = make();
    pthread_barrier_init(&in_callback, NULL, 2);
    pnx_reclaim_retire(forked, &things[0].node, hang, 1);
    pnx_reclaim_retire(forked, &things[1].node, note, 1);
    pnx_reclaim_retire(forked, &things[2].node, note, 1);
    CHECK_EQ(pthread_create(&thread, NULL, run_there, forked), 0);
    pthread_barrier_wait(&in_callback);
    CHECK_EQ(test_child(run_the_rest, NULL), 0);
    pthread_barrier_wait(&in_callback);
    CHECK_EQ(pthread_join(thread, NULL), 0);
    CHECK_EQ(n_run, 3);
    pnx_reclaim_release(&forked);
}

enum { EACH = 64 }; /* a runner's share */

static void run_the_rest_in_order(void *ctx) {
    (void)ctx;
    CHECK_EQ(pnx_reclaim_barrier(forked, PNX_NEVER), 0);
    CHECK_EQ(n_run, 2 * EACH - 2);
    for (unsigned i = 1; i < n_run; i++)
        CHECK_MSG(order[i - 1] < order[i], "%u before %u", order[i - 1], order[i]);
    _exit(0);
}

TEST(p2_a_child_runs_what_several_threads_had_taken_in_order) {
    static struct thing things[2 * EACH];
    pthread_t thread[2];
    forked = make();
    pthread_barrier_init(&in_callback, NULL, 3);
    for (unsigned i = 0; i < 2 * EACH; i++) {
        things[i].number = i;
        pnx_reclaim_retire(forked, &things[i].node, i % EACH ? note : hang, 1);
    }
    for (int i = 0; i < 2; i++)
        CHECK_EQ(pthread_create(&thread[i], NULL, run_there, forked), 0);
    pthread_barrier_wait(&in_callback);
    CHECK_EQ(test_child(run_the_rest_in_order, NULL), 0);
    pthread_barrier_wait(&in_callback);
    for (int i = 0; i < 2; i++)
        CHECK_EQ(pthread_join(thread[i], NULL), 0);
    CHECK_EQ(pnx_reclaim_barrier(forked, PNX_NEVER), 0);
    CHECK_EQ(n_run, 2 * EACH);
    pnx_reclaim_release(&forked);
}

static void stay_guest(void *ctx) {
    (void)ctx;
    CHECK(pnx_reclaim_in_section(forked));
    CHECK_EQ(pnx_reclaim_barrier(forked, PNX_NEVER), -EDEADLK);
    (void)pnx_reclaim_tick(forked, 0);
    CHECK_EQ(n_run, 0);
    pnx_reclaim_exit(forked);
    CHECK_EQ(pnx_reclaim_barrier(forked, PNX_NEVER), 0);
    CHECK_EQ(n_run, 1);
    CHECK_EQ(stats(forked).misuses, 0);
    _exit(0);
}

/* For this one there is no memory for a section. */
static void *fork_as_guest(void *arg) {
    struct test_env *te = arg;
    te->fail_at = te->allocations + 1;
    pnx_reclaim_enter(forked);
    CHECK_EQ(te->failed, 1);
    CHECK_EQ(test_child(stay_guest, NULL), 0);
    pnx_reclaim_exit(forked);
    return NULL;
}

TEST(p3_a_child_keeps_a_section_for_which_there_was_no_memory) {
    static struct test_env te;
    pthread_t thread;
    test_env_init(&te);
    CHECK_EQ(pnx_reclaim_create(PNX_RECLAIM_OPTS(.env = &te.env), NULL, &forked), 0);
    pnx_reclaim_retire(forked, &before_fork.node, note, 1);
    CHECK_EQ(pthread_create(&thread, NULL, fork_as_guest, &te), 0);
    CHECK_EQ(pthread_join(thread, NULL), 0);
    CHECK_EQ(n_run, 0);
    pnx_reclaim_release(&forked);
    CHECK_EQ(n_run, 1);
    test_env_check_empty(&te);
}

static bool stop_forking;

/*
 * No memory is allocated or freed, not even for a thread's record, while there may be forks: a sanitizer's allocator does
 * not survive them.
 */
static pthread_barrier_t joined;
static struct slot {
    struct pnx_reclaim_node node;
    int busy;
} slots[3][4096];

static void give_back(struct pnx_reclaim_node *node) {
    __atomic_store_n(&PNX_CONTAINER(node, struct slot, node)->busy, 0, __ATOMIC_RELEASE);
}

static void note_only(struct pnx_reclaim_node *node) {
    (void)node;
}

static void use_after_load(void *ctx) {
    (void)ctx;
    static struct thing things[100];
    for (int i = 0; i < 100; i++) {
        pnx_reclaim_enter(forked);
        pnx_reclaim_exit(forked);
        pnx_reclaim_retire(forked, &things[i].node, note_only, 1);
        pnx__reclaim_assist(forked);
    }
    CHECK_EQ(pnx_reclaim_close(forked, PNX_NEVER), 0);
    CHECK_EQ(stats(forked).pending, 0);
    _exit(0);
}

static void load_it(unsigned index, void *ctx) {
    struct pnx_reclaim *domain = ctx;
    pnx_reclaim_enter(domain);
    pnx_reclaim_exit(domain);
    pthread_barrier_wait(&joined);
    if (index == 0) {
        for (int i = 0; i < (test_slow() ? 10 : 60); i++) {
            forked = domain;
            CHECK_EQ(test_child(use_after_load, NULL), 0);
        }
        __atomic_store_n(&stop_forking, true, __ATOMIC_SEQ_CST);
        return;
    }
    for (unsigned i = 0; !__atomic_load_n(&stop_forking, __ATOMIC_SEQ_CST); i++) {
        struct slot *slot = &slots[index][i % 4096];
        pnx_reclaim_enter(domain);
        pnx_reclaim_exit(domain);
        if (__atomic_load_n(&slot->busy, __ATOMIC_ACQUIRE)) {
            (void)pnx_reclaim_tick(domain, 0);
            continue;
        }
        __atomic_store_n(&slot->busy, 1, __ATOMIC_RELAXED);
        pnx_reclaim_retire(domain, &slot->node, give_back, 1);
        pnx__reclaim_assist(domain);
    }
}

TEST(forks_under_load_leave_every_child_a_domain_in_order) {
    struct pnx_reclaim *domain = make();
    pthread_barrier_init(&joined, NULL, 3);
    test_threads(3, load_it, domain);
    pnx_reclaim_release(&domain);
}
