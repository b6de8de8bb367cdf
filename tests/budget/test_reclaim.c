/* SPDX-License-Identifier: Apache-2.0 */
/* Reclaimers: when they are asked, in which order, for how much, and that asking ends. */
#include "budget/budget.h"
#include "harness/harness.h"
#include "os/thread.h"

#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <unistd.h>

/* A holder of charged bytes that gives up to step bytes back each time it is asked. */
struct holder {
    struct pnx_budget *budget;
    struct pnx_reclaimer_handle *handle;
    size_t held; /* atomic where threads are about */
    size_t step; /* SIZE_MAX: as much as is wanted */
    unsigned calls;
    size_t wanted;
    unsigned *order; /* a counter shared by holders, and at which count this one was called */
    unsigned turn;
    size_t claims; /* returned instead of the truth, when not 0 */
    void (*also)(struct holder *holder);
};

static size_t give_back(void *ctx, size_t want) {
    struct holder *holder = ctx;
    holder->calls++;
    holder->wanted = want;
    if (holder->order)
        holder->turn = ++*holder->order;
    size_t n = want < holder->step ? want : holder->step;
    if (n > holder->held)
        n = holder->held;
    holder->held -= n;
    pnx_budget_uncharge(holder->budget, n);
    if (holder->also)
        holder->also(holder);
    return holder->claims ? holder->claims : n;
}

static void hold(struct holder *holder, struct pnx_budget *budget, size_t held, size_t step,
        uint32_t priority) {
    holder->budget = budget;
    holder->held = held;
    holder->step = step;
    if (held)
        CHECK_EQ(pnx_budget_charge(budget, held, 0), 0);
    CHECK_EQ(pnx_budget_add_reclaimer(budget,
                     &(struct pnx_reclaimer){.size = sizeof(struct pnx_reclaimer),
                             .name = "holder",
                             .reclaim = give_back,
                             .ctx = holder,
                             .priority = priority},
                     &holder->handle),
            0);
}

static void let_go(struct holder *holder) {
    pnx_budget_remove_reclaimer(&holder->handle);
    pnx_budget_uncharge(holder->budget, holder->held);
    holder->held = 0;
}

static struct pnx_budget *make(struct pnx_budget *parent, size_t soft, size_t hard) {
    struct pnx_budget *budget = NULL;
    CHECK_EQ(pnx_budget_create(PNX_BUDGET_OPTS(.parent = parent ? parent : pnx_budget_off(),
                                       .soft = soft, .hard = hard, .registry = pnx_registry_off()),
                     NULL, &budget),
            0);
    return budget;
}

static struct pnx_budget_stats stats_of(const struct pnx_budget *budget) {
    struct pnx_budget_stats stats = {.size = sizeof(stats)};
    CHECK_EQ(pnx_budget_read_stats(budget, &stats), 0);
    return stats;
}

TEST(a_hard_limit_reclaims_what_is_missing_and_charges) {
    struct pnx_budget *budget = make(NULL, 1000, 1000);
    struct holder holder = {0};
    hold(&holder, budget, 900, SIZE_MAX, 0);
    CHECK_EQ(pnx_budget_charge(budget, 300, 0), 0);
    CHECK_EQ(holder.calls, 1);
    CHECK_EQ(holder.wanted, 200);
    CHECK_EQ(holder.held, 700);
    struct pnx_budget_stats stats = stats_of(budget);
    CHECK_EQ(stats.used, 1000);
    CHECK_EQ(stats.reclaims, 1);
    CHECK_EQ(stats.reclaimed, 200);
    CHECK_EQ(stats.futile_reclaims, 0);
    CHECK_EQ(stats.refusals, 0);
    pnx_budget_uncharge(budget, 300);
    let_go(&holder);
    CHECK_EQ(stats_of(budget).used, 0);
    pnx_budget_release(&budget);
}

TEST(no_reclaim_refuses_without_asking) {
    struct pnx_budget *budget = make(NULL, 0, 1000);
    struct holder holder = {0};
    hold(&holder, budget, 800, SIZE_MAX, 0);
    CHECK_EQ(pnx_budget_charge(budget, 100, PNX_CHARGE_NO_RECLAIM), 0); /* over soft as well */
    CHECK_EQ(pnx_budget_charge(budget, 300, PNX_CHARGE_NO_RECLAIM), -ENOMEM);
    CHECK_EQ(holder.calls, 0);
    pnx_budget_uncharge(budget, 100);
    let_go(&holder);
    pnx_budget_release(&budget);
}

TEST(a_charge_larger_than_the_limit_empties_no_cache) {
    struct pnx_budget *budget = make(NULL, 0, 1000);
    struct holder holder = {0};
    hold(&holder, budget, 500, SIZE_MAX, 0);
    CHECK_EQ(pnx_budget_charge(budget, 1001, 0), -ENOMEM);
    CHECK_EQ(holder.calls, 0);
    let_go(&holder);
    pnx_budget_release(&budget);
}

TEST(soft_limit_reclaims_down_to_seven_eighths_and_rests_until_crossed_again) {
    struct pnx_budget *budget = make(NULL, 800, 1000);
    struct holder holder = {0};
    hold(&holder, budget, 800, SIZE_MAX, 0);
    CHECK_EQ(holder.calls, 0); /* at the limit is not over it */
    CHECK_EQ(pnx_budget_charge(budget, 1, 0), 0);
    CHECK_EQ(holder.calls, 1);
    CHECK_EQ(stats_of(budget).used, 700);
    CHECK_EQ(pnx_budget_charge(budget, 99, 0), 0);
    CHECK_EQ(holder.calls, 1); /* hysteresis */
    CHECK_EQ(pnx_budget_charge(budget, 2, 0), 0);
    CHECK_EQ(holder.calls, 2);
    CHECK_EQ(stats_of(budget).used, 700);
    pnx_budget_uncharge(budget, 102);
    let_go(&holder);
    pnx_budget_release(&budget);
}

TEST(a_must_charge_over_the_soft_limit_reclaims_too) {
    struct pnx_budget *budget = make(NULL, 800, 1000);
    struct holder holder = {0};
    hold(&holder, budget, 700, SIZE_MAX, 0);
    CHECK_EQ(pnx_budget_charge(budget, 600, PNX_CHARGE_MUST), 0);
    CHECK_EQ(stats_of(budget).overcommit, 300);
    CHECK_EQ(stats_of(budget).used, 700);
    pnx_budget_uncharge(budget, 600);
    let_go(&holder);
    pnx_budget_release(&budget);
}

TEST(a_futile_soft_reclaim_is_not_repeated_at_each_charge) {
    struct pnx_budget *budget = make(NULL, 800, 0);
    struct holder holder = {0};
    hold(&holder, budget, 800, 0, 0);
    CHECK_EQ(pnx_budget_charge(budget, 1, 0), 0);
    CHECK_EQ(holder.calls, 2); /* two futile rounds */
    CHECK_EQ(stats_of(budget).futile_reclaims, 1);
    for (int i = 0; i < 49; i++)
        CHECK_EQ(pnx_budget_charge(budget, 1, 0), 0);
    CHECK_EQ(holder.calls, 2);
    CHECK_EQ(pnx_budget_charge(budget, 1, 0), 0); /* a sixteenth of soft later */
    CHECK_EQ(holder.calls, 4);
    pnx_budget_uncharge(budget, 51); /* back at the limit: the next crossing counts */
    CHECK_EQ(pnx_budget_charge(budget, 1, 0), 0);
    CHECK_EQ(holder.calls, 6);
    pnx_budget_uncharge(budget, 1);
    let_go(&holder);
    pnx_budget_release(&budget);
}

TEST(a_level_that_rests_after_a_futile_reclaim_rests_while_others_reclaim) {
    struct pnx_budget *root = make(NULL, 300, 0);
    struct pnx_budget *leaf = make(root, 100, 0);
    struct holder stubborn = {0}, other = {0};
    hold(&stubborn, leaf, 100, 0, 90);
    hold(&other, root, 150, SIZE_MAX, 10);
    CHECK_EQ(pnx_budget_charge(leaf, 4, 0), 0);
    CHECK_EQ(stats_of(leaf).futile_reclaims, 1);
    CHECK_EQ(pnx_budget_charge(root, 45, 0), 0);
    CHECK_EQ(pnx_budget_charge(leaf, 3, 0),
            0); /* over the root's limit, and again over the leaf's */
    CHECK_EQ(stats_of(leaf).futile_reclaims, 1);
    CHECK_EQ(stats_of(root).used, 263);
    pnx_budget_uncharge(leaf, 7);
    pnx_budget_uncharge(root, 45);
    let_go(&stubborn);
    let_go(&other);
    pnx_budget_release(&leaf);
    pnx_budget_release(&root);
}

TEST(lower_priority_is_asked_first_and_the_older_among_equals) {
    struct pnx_budget *budget = make(NULL, 0, 0);
    struct holder holder[4] = {{0}};
    unsigned order = 0;
    uint32_t priority[4] = {90, 10, 0, 20}; /* 0 is the default, 20 */
    for (int i = 0; i < 4; i++) {
        holder[i].order = &order;
        hold(&holder[i], budget, 10, SIZE_MAX, priority[i]);
    }
    CHECK_EQ(pnx_budget_reclaim(budget, 40), 40);
    CHECK_EQ(holder[1].turn, 1);
    CHECK_EQ(holder[2].turn, 2);
    CHECK_EQ(holder[3].turn, 3);
    CHECK_EQ(holder[0].turn, 4);
    for (int i = 0; i < 4; i++)
        let_go(&holder[i]);
    pnx_budget_release(&budget);
}

TEST(asking_stops_as_soon_as_there_is_enough) {
    struct pnx_budget *budget = make(NULL, 0, 0);
    struct holder first = {0}, second = {0};
    hold(&first, budget, 100, SIZE_MAX, 10);
    hold(&second, budget, 100, SIZE_MAX, 20);
    CHECK_EQ(pnx_budget_reclaim(budget, 60), 60);
    CHECK_EQ(second.calls, 0);
    CHECK_EQ(pnx_budget_reclaim(budget, 60), 60);
    CHECK_EQ(first.held, 0);
    CHECK_EQ(second.wanted, 20);
    CHECK_EQ(second.held, 80);
    let_go(&first);
    let_go(&second);
    pnx_budget_release(&budget);
}

TEST(only_reclaimers_below_the_full_level_are_asked) {
    struct pnx_budget *root = make(NULL, 0, 0);
    struct pnx_budget *full = make(root, 100, 100), *other = make(root, 0, 0);
    struct pnx_budget *leaf = make(full, 0, 0);
    struct holder above = {0}, beside = {0}, below = {0};
    hold(&above, root, 50, SIZE_MAX, 10);
    hold(&beside, other, 50, SIZE_MAX, 10);
    hold(&below, leaf, 100, SIZE_MAX, 10);
    CHECK_EQ(pnx_budget_charge(full, 30, 0), 0);
    CHECK_EQ(above.calls, 0);
    CHECK_EQ(beside.calls, 0);
    CHECK_EQ(below.held, 70);
    CHECK_EQ(pnx_budget_set_limits(root, 0, 200), 0); /* the root's limit asks everybody's */
    CHECK_EQ(pnx_budget_charge(other, 100, 0), 0);
    CHECK_EQ(above.held, 0);
    CHECK_EQ(stats_of(root).used, 200);
    pnx_budget_uncharge(full, 30);
    pnx_budget_uncharge(other, 100);
    let_go(&above);
    let_go(&beside);
    let_go(&below);
    pnx_budget_release(&leaf);
    pnx_budget_release(&full);
    pnx_budget_release(&other);
    pnx_budget_release(&root);
}

TEST(several_full_levels_are_all_relieved) {
    struct pnx_budget *root = make(NULL, 150, 150);
    struct pnx_budget *leaf = make(root, 100, 100);
    struct holder high = {0}, low = {0};
    hold(&high, root, 50, SIZE_MAX, 30);
    hold(&low, leaf, 100, SIZE_MAX, 20);
    CHECK_EQ(pnx_budget_charge(leaf, 40, 0), 0);
    CHECK_EQ(low.held, 60);
    CHECK_EQ(high.held, 50);
    CHECK_EQ(pnx_budget_charge(root, 20, 0), 0);
    CHECK_EQ(low.held, 40); /* lower priority first */
    CHECK_EQ(pnx_budget_charge(leaf, 30, 0), 0);
    CHECK_EQ(stats_of(root).used, 150);
    CHECK_EQ(stats_of(leaf).used, low.held + 70);
    pnx_budget_uncharge(leaf, 70);
    pnx_budget_uncharge(root, 20);
    let_go(&high);
    let_go(&low);
    pnx_budget_release(&leaf);
    pnx_budget_release(&root);
}

TEST(p5_reclaimers_that_free_nothing_end_in_a_refusal) {
    struct pnx_budget *budget = make(NULL, 1000, 1000);
    struct holder liar = {.claims = 500};
    hold(&liar, budget, 1000, 0, 0);
    CHECK_EQ(pnx_budget_charge(budget, 100, 0), -ENOMEM);
    CHECK_EQ(liar.calls, 2);
    struct pnx_budget_stats stats = stats_of(budget);
    CHECK_EQ(stats.used, 1000);
    CHECK_EQ(stats.refusals, 1);
    CHECK_EQ(stats.futile_reclaims, 1);
    CHECK_EQ(stats.reclaimed, 0);
    let_go(&liar);
    pnx_budget_release(&budget);
}

TEST(p5_small_steps_reach_the_goal_if_each_is_a_sixteenth) {
    struct pnx_budget *budget = make(NULL, 0, 0);
    struct holder holder = {0};
    hold(&holder, budget, 1600, 100, 0);
    CHECK_EQ(pnx_budget_reclaim(budget, 1600), 1600);
    CHECK_EQ(holder.calls, 16);
    let_go(&holder);
    hold(&holder, budget, 1600, 99, 0);
    holder.calls = 0;
    CHECK_EQ(pnx_budget_reclaim(budget, 1600), 198);
    CHECK_EQ(holder.calls, 2);
    CHECK_EQ(stats_of(budget).futile_reclaims, 1);
    let_go(&holder);
    pnx_budget_release(&budget);
}

static void charge_again(struct holder *holder) {
    size_t back = holder->budget ? 1 : 0;
    CHECK_EQ(pnx_budget_charge(holder->budget, back, PNX_CHARGE_MUST), 0);
    holder->held += back;
}

TEST(p5_a_reclaimer_that_charges_what_it_freed_does_not_spin) {
    struct pnx_budget *budget = make(NULL, 0, 100);
    struct holder holder = {.also = charge_again};
    CHECK_EQ(pnx_budget_set_limits(budget, 0, 100), 0);
    hold(&holder, budget, 100, 1, 0);
    CHECK_EQ(pnx_budget_charge(budget, 10, 0), -ENOMEM);
    CHECK_EQ(holder.calls, 2);
    CHECK_EQ(stats_of(budget).used, 100);
    let_go(&holder);
    pnx_budget_release(&budget);
}

static void charge_and_reclaim_inside(struct holder *holder) {
    CHECK_EQ(pnx_budget_charge(holder->budget, 1000, 0), -ENOMEM);
    CHECK_EQ(pnx_budget_reclaim(holder->budget, 1000), 0);
}

TEST(p6_charges_inside_a_reclaimer_do_not_reclaim) {
    struct pnx_budget *budget = make(NULL, 1000, 1000);
    struct holder inner = {0}, outer = {.also = charge_and_reclaim_inside};
    hold(&outer, budget, 500, SIZE_MAX, 10);
    hold(&inner, budget, 500, SIZE_MAX, 20);
    CHECK_EQ(pnx_budget_charge(budget, 100, 0), 0);
    CHECK_EQ(outer.calls, 1);
    CHECK_EQ(inner.calls, 0);
    CHECK_EQ(pnx__thread()->reclaim_depth, 0);
    pnx_budget_uncharge(budget, 100);
    let_go(&outer);
    let_go(&inner);
    pnx_budget_release(&budget);
}

static void remove_self(struct holder *holder) {
    pnx_budget_remove_reclaimer(&holder->handle);
    CHECK(!holder->handle);
}

TEST(p4_a_reclaimer_removed_from_inside_is_not_called_again) {
    struct test_env te;
    test_env_init(&te);
    struct pnx_budget *budget = NULL;
    CHECK_EQ(pnx_budget_create(
                     PNX_BUDGET_OPTS(.parent = pnx_budget_off(), .env = &te.env), NULL, &budget),
            0);
    struct holder before = {0}, self = {.also = remove_self}, after = {0};
    hold(&before, budget, 10, 1, 10);
    hold(&self, budget, 100, 1, 20);
    hold(&after, budget, 10, 1, 30);
    CHECK_EQ(pnx_budget_reclaim(budget, 30), 21); /* all of the others', one byte of its own */
    CHECK_EQ(self.calls, 1);
    CHECK_EQ(after.calls, before.calls);
    CHECK(after.calls >= 2);
    let_go(&before);
    let_go(&after);
    pnx_budget_uncharge(budget, self.held);
    pnx_budget_release(&budget);
    test_env_check_empty(&te);
}

static struct holder *victim;

static void remove_victim(struct holder *holder) {
    (void)holder;
    pnx_budget_remove_reclaimer(&victim->handle);
}

TEST(p4_a_reclaimer_may_remove_its_neighbours) {
    for (int which = 0; which < 3; which += 2) {
        struct pnx_budget *budget = make(NULL, 0, 0);
        struct holder holder[3] = {{0}};
        for (int i = 0; i < 3; i++)
            hold(&holder[i], budget, 10, 1, (uint32_t)i + 1);
        victim = &holder[which];
        holder[1].also = remove_victim;
        CHECK(pnx_budget_reclaim(budget, 30) > 0);
        CHECK_EQ(holder[which].calls, which == 0 ? 1 : 0);
        CHECK(holder[1].calls >= 2);
        for (int i = 0; i < 3; i++)
            let_go(&holder[i]);
        pnx_budget_release(&budget);
    }
}

static void add_another(struct holder *holder) {
    static struct holder later;
    if (!later.handle)
        hold(&later, holder->budget, 0, 0, 90);
    else
        pnx_budget_remove_reclaimer(&later.handle);
}

TEST(p4_a_reclaimer_may_add_and_remove_others) {
    struct pnx_budget *budget = make(NULL, 0, 0);
    struct holder holder = {.also = add_another};
    hold(&holder, budget, 10, 5, 10);
    CHECK_EQ(pnx_budget_reclaim(budget, 10), 10);
    CHECK_EQ(holder.calls, 2);
    let_go(&holder);
    pnx_budget_release(&budget);
}

static void drop_everything(struct holder *holder) {
    pnx_budget_remove_reclaimer(&holder->handle);
    pnx_budget_uncharge(holder->budget, holder->held);
    holder->held = 0;
    struct pnx_budget *budget = holder->budget;
    pnx_budget_release(&budget);
}

TEST(a_reclaimer_may_drop_the_last_reference_to_its_budget) {
    struct test_env te;
    test_env_init(&te);
    struct pnx_budget *budget = NULL;
    CHECK_EQ(pnx_budget_create(
                     PNX_BUDGET_OPTS(.parent = pnx_budget_off(), .env = &te.env), NULL, &budget),
            0);
    struct holder holder = {.also = drop_everything};
    hold(&holder, budget, 100, 10, 0);
    CHECK_EQ(pnx_budget_reclaim(budget, 100), 100);
    test_env_check_empty(&te);
}

TEST(a_reclaimer_keeps_its_budget_until_it_is_removed) {
    struct test_env te;
    test_env_init(&te);
    struct pnx_budget *budget = NULL;
    CHECK_EQ(pnx_budget_create(
                     PNX_BUDGET_OPTS(.parent = pnx_budget_off(), .env = &te.env), NULL, &budget),
            0);
    struct holder holder = {0};
    hold(&holder, budget, 0, 0, 0);
    pnx_budget_release(&budget);
    CHECK(te.live_blocks > 0);
    pnx_budget_remove_reclaimer(&holder.handle);
    test_env_check_empty(&te);
}

TEST(bad_reclaimers_are_refused) {
    struct pnx_budget *budget = make(NULL, 0, 0);
    struct pnx_reclaimer_handle *handle = NULL;
    struct pnx_reclaimer good = {.size = sizeof(good), .reclaim = give_back};
    struct pnx_reclaimer bad = good;
    bad.reclaim = NULL;
    CHECK_EQ(pnx_budget_add_reclaimer(budget, &bad, &handle), -EINVAL);
    bad = good;
    bad.flags = 1;
    CHECK_EQ(pnx_budget_add_reclaimer(budget, &bad, &handle), -EINVAL);
    bad = good;
    bad.size = 0;
    CHECK_EQ(pnx_budget_add_reclaimer(budget, &bad, &handle), -EINVAL);
    struct {
        struct pnx_reclaimer known;
        uint64_t later;
    } newer = {.known = good, .later = 1};
    newer.known.size = sizeof(newer);
    CHECK_EQ(pnx_budget_add_reclaimer(budget, &newer.known, &handle), -E2BIG);
    CHECK_EQ(pnx_budget_add_reclaimer(NULL, &good, &handle), -EINVAL);
    CHECK_EQ(pnx_budget_add_reclaimer(budget, NULL, &handle), -EINVAL);
    CHECK_EQ(pnx_budget_add_reclaimer(budget, &good, NULL), -EINVAL);
    CHECK(!handle);
    CHECK_EQ(pnx_budget_add_reclaimer(pnx_budget_off(), &good, &handle), 0);
    pnx_budget_remove_reclaimer(&handle);
    pnx_budget_remove_reclaimer(NULL);
    pnx_budget_release(&budget);
}

static int add_and_remove(struct test_env *te, void *ctx) {
    struct pnx_budget *budget = NULL;
    struct pnx_reclaimer_handle *handle = NULL;
    (void)ctx;
    int rc = pnx_budget_create(
            PNX_BUDGET_OPTS(.parent = pnx_budget_off(), .env = &te->env), NULL, &budget);
    if (rc)
        return rc;
    struct pnx_reclaimer reclaimer = {.size = sizeof(reclaimer), .reclaim = give_back};
    rc = pnx_budget_add_reclaimer(budget, &reclaimer, &handle);
    CHECK(!handle == (rc != 0));
    pnx_budget_release(&budget);
    pnx_budget_remove_reclaimer(&handle);
    return rc;
}

TEST(every_failed_allocation_leaves_nothing_behind) {
    struct test_env te;
    test_env_init(&te);
    test_fail_each_allocation(&te, add_and_remove, NULL);
}

static void end_thread(struct holder *holder) {
    (void)holder;
    pthread_exit(NULL); /* unwinds through the library, as a C++ exception would */
}

static void *reclaim_and_vanish(void *ctx) {
    struct holder holder = {.also = end_thread};
    hold(&holder, ctx, 10, SIZE_MAX, 0);
    pnx_budget_reclaim(ctx, 10);
    return NULL;
}

static void vanish(void *ctx) {
    pthread_t thread;
    (void)ctx;
    struct pnx_budget *budget = make(NULL, 0, 0);
    CHECK_EQ(pthread_create(&thread, NULL, reclaim_and_vanish, budget), 0);
    pthread_join(thread, NULL);
}

TEST(a_reclaimer_that_does_not_return_aborts) {
    CHECK_EQ(test_apart(vanish, NULL), -SIGABRT);
}

/* ---- with threads ---- */

/* A reclaimer that stays inside until it is let out. */
struct gate {
    struct holder holder;
    sem_t inside;
    sem_t leave;
    int running; /* atomic */
};

static size_t stay_inside(void *ctx, size_t want) {
    struct gate *gate = ctx;
    __atomic_store_n(&gate->running, 1, __ATOMIC_SEQ_CST);
    sem_post(&gate->inside);
    while (sem_wait(&gate->leave) != 0)
        ;
    size_t n = give_back(&gate->holder, want);
    __atomic_store_n(&gate->running, 0, __ATOMIC_SEQ_CST);
    return n;
}

static void gate_init(struct gate *gate, struct pnx_budget *budget, size_t held) {
    memset(gate, 0, sizeof(*gate));
    sem_init(&gate->inside, 0, 0);
    sem_init(&gate->leave, 0, 0);
    gate->holder = (struct holder){.budget = budget, .held = held, .step = SIZE_MAX};
    if (held)
        CHECK_EQ(pnx_budget_charge(budget, held, 0), 0);
    CHECK_EQ(pnx_budget_add_reclaimer(budget,
                     &(struct pnx_reclaimer){.size = sizeof(struct pnx_reclaimer),
                             .reclaim = stay_inside,
                             .ctx = gate,
                             .priority = 10},
                     &gate->holder.handle),
            0);
}

static void *reclaim_all(void *ctx) {
    pnx_budget_reclaim(ctx, SIZE_MAX);
    return NULL;
}

static void *remove_gate(void *ctx) {
    struct gate *gate = ctx;
    pnx_budget_remove_reclaimer(&gate->holder.handle);
    CHECK_EQ(__atomic_load_n(&gate->running, __ATOMIC_SEQ_CST), 0);
    return NULL;
}

TEST(p4_removal_waits_for_a_call_on_another_thread) {
    struct pnx_budget *budget = make(NULL, 0, 0);
    struct gate gate;
    pthread_t reclaimer, remover;
    gate_init(&gate, budget, 100);
    CHECK_EQ(pthread_create(&reclaimer, NULL, reclaim_all, budget), 0);
    sem_wait(&gate.inside);
    CHECK_EQ(pthread_create(&remover, NULL, remove_gate, &gate), 0);
    sem_post(&gate.leave);
    pthread_join(remover, NULL);
    pthread_join(reclaimer, NULL);
    CHECK_EQ(gate.holder.calls, 1);
    CHECK_EQ(stats_of(budget).used, 0);
    pnx_budget_release(&budget);
}

static void *charge_ten(void *ctx) {
    CHECK_EQ(pnx_budget_charge(ctx, 10, 0), 0);
    return NULL;
}

TEST(a_charge_waits_for_another_threads_reclaim_and_profits_by_it) {
    struct pnx_budget *budget = make(NULL, 100, 100);
    struct gate gate;
    pthread_t reclaimer, charger;
    gate_init(&gate, budget, 100);
    CHECK_EQ(pthread_create(&reclaimer, NULL, reclaim_all, budget), 0);
    sem_wait(&gate.inside);
    CHECK_EQ(pthread_create(&charger, NULL, charge_ten, budget), 0);
    CHECK_EQ(pnx_budget_charge(budget, 1, PNX_CHARGE_NO_RECLAIM), -ENOMEM); /* this one cannot */
    sem_post(&gate.leave);
    pthread_join(charger, NULL);
    pthread_join(reclaimer, NULL);
    CHECK_EQ(gate.holder.calls, 1);
    CHECK_EQ(stats_of(budget).used, 10);
    pnx_budget_uncharge(budget, 10);
    pnx_budget_remove_reclaimer(&gate.holder.handle);
    pnx_budget_release(&budget);
}

TEST(a_reclaimer_that_blocks_does_not_hold_up_charges_for_ever) {
    struct pnx_budget *budget = make(NULL, 100, 100);
    struct gate gate;
    pthread_t reclaimer;
    gate_init(&gate, budget, 100);
    CHECK_EQ(pthread_create(&reclaimer, NULL, reclaim_all, budget), 0);
    sem_wait(&gate.inside);
    CHECK_EQ(pnx_budget_charge(budget, 10, 0), -ENOMEM); /* after PNX_BUDGET_WAIT */
    sem_post(&gate.leave);
    pthread_join(reclaimer, NULL);
    CHECK_EQ(pnx_budget_charge(budget, 10, 0), 0);
    pnx_budget_uncharge(budget, 10);
    pnx_budget_remove_reclaimer(&gate.holder.handle);
    pnx_budget_release(&budget);
}

TEST(a_soft_limit_does_not_wait_for_another_threads_reclaim) {
    struct pnx_budget *budget = make(NULL, 100, 0);
    struct gate gate;
    pthread_t reclaimer;
    gate_init(&gate, budget, 100);
    CHECK_EQ(pthread_create(&reclaimer, NULL, reclaim_all, budget), 0);
    sem_wait(&gate.inside);
    pnx_ns before = pnx_now();
    CHECK_EQ(pnx_budget_charge(budget, 10, 0), 0);
    CHECK(pnx_now() - before < PNX_BUDGET_WAIT);
    sem_post(&gate.leave);
    sem_post(&gate.leave); /* it asks twice: what was charged meanwhile is not the gate's */
    sem_post(&gate.leave);
    pthread_join(reclaimer, NULL);
    pnx_budget_uncharge(budget, 10);
    pnx_budget_remove_reclaimer(&gate.holder.handle);
    pnx_budget_release(&budget);
}

TEST(a_soft_reclaim_that_found_the_tree_busy_is_made_up_for) {
    struct pnx_budget *root = make(NULL, 0, 0);
    struct pnx_budget *soft = make(root, 100, 0), *other = make(root, 0, 0);
    struct gate gate;
    struct holder holder = {0};
    pthread_t reclaimer;
    gate_init(&gate, other, 50);
    hold(&holder, soft, 100, SIZE_MAX, 20);
    CHECK_EQ(pthread_create(&reclaimer, NULL, reclaim_all, other), 0);
    sem_wait(&gate.inside);
    CHECK_EQ(pnx_budget_charge(soft, 1, 0), 0);
    CHECK_EQ(holder.calls, 0); /* somebody else was at it */
    sem_post(&gate.leave);
    pthread_join(reclaimer, NULL);
    CHECK_EQ(pnx_budget_charge(soft, 1, 0), 0);
    CHECK_EQ(holder.calls, 1); /* not only when usage has risen by a sixteenth */
    CHECK_EQ(stats_of(soft).used, 88);
    pnx_budget_uncharge(soft, 2);
    let_go(&holder);
    pnx_budget_remove_reclaimer(&gate.holder.handle);
    pnx_budget_release(&soft);
    pnx_budget_release(&other);
    pnx_budget_release(&root);
}

struct forked {
    struct pnx_budget *budget;
    struct gate *gate;
    bool charges;
};

static void child_of_a_busy_parent(void *ctx) {
    struct forked *forked = ctx;
    pnx_ns before = pnx_now();
    sem_post(&forked->gate->leave); /* the child's own copy: its reclaimer does not stay inside */
    if (forked->charges)
        CHECK_EQ(pnx_budget_charge(forked->budget, 10, 0), 0);
    pnx_budget_remove_reclaimer(&forked->gate->holder.handle);
    CHECK(pnx_now() - before < PNX_BUDGET_WAIT);
    _exit(0); /* the parent's other thread, and what it holds, is not here: no leak check */
}

TEST(a_forked_child_does_not_wait_for_a_reclaim_of_its_parent) {
    struct pnx_budget *budget = make(NULL, 100, 100);
    struct gate gate;
    pthread_t reclaimer;
    gate_init(&gate, budget, 100);
    pnx__fork_generation();
    CHECK_EQ(pthread_create(&reclaimer, NULL, reclaim_all, budget), 0);
    sem_wait(&gate.inside);
    struct forked forked = {budget, &gate, false};
    CHECK_EQ(test_child(child_of_a_busy_parent, &forked), 0);
    forked.charges = true;
    CHECK_EQ(test_child(child_of_a_busy_parent, &forked), 0);
    sem_post(&gate.leave);
    pthread_join(reclaimer, NULL);
    pnx_budget_remove_reclaimer(&gate.holder.handle);
    pnx_budget_release(&budget);
}
