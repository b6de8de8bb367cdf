/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Random operations on a tree of budgets against a model that adds numbers up, P1..P3 looked at after each
 * step; then the same guarantees with threads about.
 */
#include "budget/budget.h"
#include "harness/harness.h"

#include <sched.h>

#define NODES_MAX 12

struct node {
    struct pnx_budget *budget; /* NULL: this place in the model is free */
    struct pnx_reclaimer_handle *handle;
    int parent; /* -1: the root */
    size_t own;
    size_t soft;
    size_t hard;
    bool over_allowed; /* MUST, or a lowered limit, has put it over */
    bool stubborn;     /* its reclaimer gives nothing back */
    uint64_t refusals;
};

struct model {
    struct node node[NODES_MAX];
    uint64_t state;
    unsigned reclaimer_calls;
};

struct place {
    struct model *model;
    int index;
};

static size_t model_used(const struct model *model, int index) {
    size_t used = model->node[index].own;
    for (int i = 0; i < NODES_MAX; i++) {
        if (model->node[i].budget && model->node[i].parent == index)
            used += model_used(model, i);
    }
    return used;
}

static struct pnx_budget_stats stats_of(const struct pnx_budget *budget) {
    struct pnx_budget_stats stats = {.size = sizeof(stats)};
    CHECK_EQ(pnx_budget_read_stats(budget, &stats), 0);
    return stats;
}

/* P1 and P2, for every node; over_allowed ends when usage is back at the limit. */
static void check_model(struct model *model) {
    for (int i = 0; i < NODES_MAX; i++) {
        struct node *node = &model->node[i];
        if (!node->budget)
            continue;
        struct pnx_budget_stats stats = stats_of(node->budget);
        CHECK_EQ(stats.used, model_used(model, i));
        CHECK_EQ(stats.refusals, node->refusals);
        CHECK(stats.peak >= stats.used);
        CHECK_EQ(stats.soft_limit, node->soft);
        CHECK_EQ(stats.hard_limit, node->hard);
        if (!node->hard || stats.used <= node->hard)
            node->over_allowed = false;
        CHECK_MSG(node->over_allowed || !node->hard || stats.used <= node->hard,
                "node %d: %llu used, limit %zu", i, (unsigned long long)stats.used, node->hard);
    }
}

static size_t model_reclaim(void *ctx, size_t want) {
    struct place *place = ctx;
    struct model *model = place->model;
    struct node *node = &model->node[place->index];
    model->reclaimer_calls++;
    CHECK(want > 0);
    if (node->stubborn)
        return want; /* a lie */
    size_t n = want < node->own ? want : node->own;
    if (n > 1 && test_random(&model->state) % 2)
        n /= 2;
    node->own -= n;
    pnx_budget_uncharge(node->budget, n);
    return n;
}

static int pick(struct model *model) {
    for (;;) {
        int i = (int)(test_random(&model->state) % NODES_MAX);
        if (model->node[i].budget)
            return i;
    }
}

static void op_create(struct model *model, struct place *places) {
    int parent = pick(model), at = 0;
    while (at < NODES_MAX && model->node[at].budget)
        at++;
    if (at == NODES_MAX)
        return;
    struct node *node = &model->node[at];
    *node = (struct node){.parent = parent};
    if (test_random(&model->state) % 2)
        node->hard = 100 + test_random(&model->state) % 1000;
    node->soft = node->hard - node->hard / 8;
    CHECK_EQ(pnx_budget_create(
                     PNX_BUDGET_OPTS(.parent = model->node[parent].budget, .hard = node->hard,
                             .registry = pnx_registry_off(), .stats = pnx_stats_off()),
                     NULL, &node->budget),
            0);
    places[at] = (struct place){model, at};
    if (test_random(&model->state) % 3 == 0)
        return;
    node->stubborn = test_random(&model->state) % 4 == 0;
    CHECK_EQ(pnx_budget_add_reclaimer(node->budget,
                     &(struct pnx_reclaimer){.size = sizeof(struct pnx_reclaimer),
                             .reclaim = model_reclaim,
                             .ctx = &places[at],
                             .priority = (uint32_t)(test_random(&model->state) % 4) * 10},
                     &node->handle),
            0);
}

static void op_release(struct model *model) {
    int i = pick(model);
    struct node *node = &model->node[i];
    if (node->parent < 0)
        return;
    for (int k = 0; k < NODES_MAX; k++) {
        if (model->node[k].budget && model->node[k].parent == i)
            return; /* a leaf only, so that the model's parents stay */
    }
    pnx_budget_remove_reclaimer(&node->handle);
    pnx_budget_uncharge(node->budget, node->own);
    pnx_budget_release(&node->budget);
}

/* Would bytes more at node i pass every hard limit now? */
static int obstacle(const struct model *model, int i, size_t bytes) {
    for (; i >= 0; i = model->node[i].parent) {
        size_t hard = model->node[i].hard;
        if (hard && model_used(model, i) + bytes > hard)
            return i;
    }
    return -1;
}

static void op_charge(struct model *model) {
    static const uint32_t flags[] = {0, 0, 0, PNX_CHARGE_NO_RECLAIM, PNX_CHARGE_MUST,
            PNX_CHARGE_MUST | PNX_CHARGE_NO_RECLAIM};
    int i = pick(model);
    size_t bytes = test_random(&model->state) % 400;
    uint32_t how = flags[test_random(&model->state) % 6];
    bool fits = bytes == 0 || obstacle(model, i, bytes) < 0;
    /* own is added first: reclaimers that run after the charge, for a soft limit, may give it back at once */
    model->node[i].own += bytes;
    if (how & PNX_CHARGE_MUST) {
        for (int k = i; k >= 0; k = model->node[k].parent)
            model->node[k].over_allowed = true;
        CHECK_EQ(pnx_budget_charge(model->node[i].budget, bytes, how), 0);
        return;
    }
    model->node[i].own -= bytes;
    struct model before = *model;
    unsigned calls = model->reclaimer_calls;
    if (fits) {
        /* It goes through at once, and soft limits come after. */
        model->node[i].own += bytes;
        CHECK_EQ(pnx_budget_charge(model->node[i].budget, bytes, how), 0);
        return;
    }
    if (how & PNX_CHARGE_NO_RECLAIM) {
        CHECK_EQ(pnx_budget_charge(model->node[i].budget, bytes, how), -ENOMEM);
        CHECK_EQ(model->reclaimer_calls, calls);
        model->node[obstacle(&before, i, bytes)].refusals++;
        return; /* P3: check_model() sees any level that has changed */
    }
    int rc = pnx_budget_charge(model->node[i].budget, bytes, how);
    if (rc == 0) {
        model->node[i].own += bytes;
        return;
    }
    CHECK_EQ(rc, -ENOMEM);
    int at = obstacle(model, i, bytes);
    CHECK(at >= 0); /* no refusal when there is room, after all that reclaimers did */
    model->node[at].refusals++;
}

static void op_uncharge(struct model *model) {
    struct node *node = &model->node[pick(model)];
    size_t bytes = node->own ? test_random(&model->state) % (node->own + 1) : 0;
    node->own -= bytes;
    pnx_budget_uncharge(node->budget, bytes);
}

static void op_limits(struct model *model) {
    int i = pick(model);
    struct node *node = &model->node[i];
    node->hard = test_random(&model->state) % 3 ? 50 + test_random(&model->state) % 2000 : 0;
    node->soft = node->hard && test_random(&model->state) % 2
                         ? node->hard / 2 + test_random(&model->state) % (node->hard / 2)
                         : 0;
    node->over_allowed = true;
    CHECK_EQ(pnx_budget_set_limits(node->budget, node->soft, node->hard), 0);
}

static void op_reclaim(struct model *model) {
    int i = pick(model);
    size_t before = model_used(model, i);
    size_t fell = pnx_budget_reclaim(model->node[i].budget, test_random(&model->state) % 300);
    CHECK_EQ(before - model_used(model, i), fell);
}

TEST(p1_p2_p3_hold_after_each_of_many_random_operations) {
    unsigned trees = test_slow() ? 30 : 200;
    uint64_t state = test_seed();
    for (unsigned t = 0; t < trees; t++) {
        struct model model = {.state = test_random(&state)};
        struct place places[NODES_MAX];
        struct test_env te;
        test_env_init(&te);
        model.node[0] = (struct node){.parent = -1};
        CHECK_EQ(pnx_budget_create(PNX_BUDGET_OPTS(.parent = pnx_budget_off(), .env = &te.env),
                         NULL, &model.node[0].budget),
                0);
        for (unsigned step = 0; step < 1000; step++) {
            switch (test_random(&model.state) % 16) {
            case 0:
                op_create(&model, places);
                break;
            case 1:
                op_release(&model);
                break;
            case 2:
                op_limits(&model);
                break;
            case 3:
                op_reclaim(&model);
                break;
            case 4:
            case 5:
            case 6:
            case 7:
                op_uncharge(&model);
                break;
            default:
                op_charge(&model);
            }
            check_model(&model);
        }
        for (int n = NODES_MAX; n > 0; n--) { /* children before parents: a few passes do it */
            for (int i = 1; i < NODES_MAX; i++) {
                bool leaf = model.node[i].budget != NULL;
                for (int k = 0; leaf && k < NODES_MAX; k++)
                    leaf = !model.node[k].budget || model.node[k].parent != i;
                if (!leaf)
                    continue;
                pnx_budget_remove_reclaimer(&model.node[i].handle);
                pnx_budget_uncharge(model.node[i].budget, model.node[i].own);
                pnx_budget_release(&model.node[i].budget);
            }
        }
        CHECK_EQ(stats_of(model.node[0].budget).used, model.node[0].own);
        pnx_budget_uncharge(model.node[0].budget, model.node[0].own);
        pnx_budget_release(&model.node[0].budget);
        test_env_check_empty(&te);
    }
}

/* ---- threads ---- */

#define THREADS 4

/* Each thread charges a leaf of its own and one that all share; a cache on each side gives bytes back. */
struct crowd {
    struct pnx_budget *root;
    struct pnx_budget *shared;
    struct pnx_budget *leaf[THREADS];
    uint64_t cached; /* atomic: bytes that the shared reclaimer can give back */
    uint64_t granted;
    uint64_t refused;
    uint64_t seed;
    unsigned rounds;
    int done; /* atomic: threads that have ended */
};

static size_t crowd_reclaim(void *ctx, size_t want) {
    struct crowd *crowd = ctx;
    uint64_t have = __atomic_load_n(&crowd->cached, __ATOMIC_RELAXED), take;
    do {
        take = have < want ? have : want;
    } while (!__atomic_compare_exchange_n(
            &crowd->cached, &have, have - take, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
    pnx_budget_uncharge(crowd->shared, (size_t)take);
    return (size_t)take;
}

/* P1 at one moment: the tree's lock is held, so that all levels are seen together. */
static void check_crowd(struct crowd *crowd) {
    struct pnx_budget *root = crowd->root;
    pnx__mutex_lock(&root->tree->lock);
    size_t sum = root->own + crowd->shared->used;
    for (unsigned i = 0; i < THREADS; i++)
        sum += crowd->leaf[i]->used;
    bool p1 = sum == root->used && crowd->shared->own == crowd->shared->used;
    bool p2 = root->used <= root->hard && crowd->shared->used <= crowd->shared->hard;
    pnx__mutex_unlock(&root->tree->lock);
    CHECK(p1);
    CHECK(p2);
}

static void jostle(unsigned index, void *ctx) {
    struct crowd *crowd = ctx;
    uint64_t state = crowd->seed + index;
    size_t mine = 0;
    for (unsigned i = 0; i < crowd->rounds; i++) {
        size_t bytes = 1 + test_random(&state) % 2000;
        uint32_t flags = test_random(&state) % 3 ? 0 : PNX_CHARGE_NO_RECLAIM;
        if (test_random(&state) % 2) {
            if (pnx_budget_charge(crowd->shared, bytes, flags) == 0)
                __atomic_add_fetch(&crowd->cached, bytes, __ATOMIC_RELAXED);
        } else if (pnx_budget_charge(crowd->leaf[index], bytes, flags) == 0) {
            mine += bytes;
            __atomic_add_fetch(&crowd->granted, 1, __ATOMIC_RELAXED);
        } else {
            __atomic_add_fetch(&crowd->refused, 1, __ATOMIC_RELAXED);
        }
        if (mine > 10000 || test_random(&state) % 4 == 0) {
            size_t back = mine ? test_random(&state) % mine + 1 : 0;
            pnx_budget_uncharge(crowd->leaf[index], back);
            mine -= back;
        }
        if (i % 16 == 0)
            check_crowd(crowd);
        if (i % 64 == 0) {
            struct pnx_budget *child = NULL;
            CHECK_EQ(pnx_budget_create(PNX_BUDGET_OPTS(.parent = crowd->leaf[index],
                                               .registry = pnx_registry_off()),
                             NULL, &child),
                    0);
            struct pnx_budget *open = child;
            int rc = pnx_budget_charge(child, 10, PNX_CHARGE_NO_RECLAIM);
            pnx_budget_release(&child);
            if (rc == 0)
                pnx_budget_uncharge(open, 10);
        }
    }
    pnx_budget_uncharge(crowd->leaf[index], mine);
}

TEST_LIMIT(p1_p2_hold_at_every_moment_with_threads, 120) {
    struct crowd crowd = {.seed = test_seed(), .rounds = test_slow() ? 3000 : 40000};
    struct pnx_reclaimer_handle *handle = NULL;
    CHECK_EQ(pnx_budget_create(
                     PNX_BUDGET_OPTS(.parent = pnx_budget_off(), .hard = 40000), NULL, &crowd.root),
            0);
    CHECK_EQ(pnx_budget_create(
                     PNX_BUDGET_OPTS(.parent = crowd.root, .hard = 30000), NULL, &crowd.shared),
            0);
    for (unsigned i = 0; i < THREADS; i++)
        CHECK_EQ(pnx_budget_create(PNX_BUDGET_OPTS(.parent = crowd.root, .hard = 20000), NULL,
                         &crowd.leaf[i]),
                0);
    CHECK_EQ(pnx_budget_add_reclaimer(crowd.shared,
                     &(struct pnx_reclaimer){.size = sizeof(struct pnx_reclaimer),
                             .reclaim = crowd_reclaim,
                             .ctx = &crowd},
                     &handle),
            0);
    test_threads(THREADS, jostle, &crowd);
    pnx_budget_uncharge(crowd.shared, (size_t)crowd.cached);
    CHECK_EQ(stats_of(crowd.root).used, 0);
    CHECK_EQ(stats_of(crowd.root).misuses + stats_of(crowd.shared).misuses, 0);
    CHECK(crowd.granted > 0);
    CHECK(stats_of(crowd.root).reclaims + stats_of(crowd.shared).reclaims > 0);
    pnx_budget_remove_reclaimer(&handle);
    for (unsigned i = 0; i < THREADS; i++)
        pnx_budget_release(&crowd.leaf[i]);
    pnx_budget_release(&crowd.shared);
    pnx_budget_release(&crowd.root);
}

/* A reclaimer that must not run once its removal has returned: alive says whether it may. */
struct mortal {
    struct crowd *crowd;
    struct pnx_reclaimer_handle *handle;
    int alive;  /* atomic */
    int inside; /* atomic */
};

static size_t mortal_reclaim(void *ctx, size_t want) {
    struct mortal *mortal = ctx;
    CHECK_EQ(__atomic_add_fetch(&mortal->inside, 1, __ATOMIC_SEQ_CST), 1);
    CHECK(__atomic_load_n(&mortal->alive, __ATOMIC_SEQ_CST));
    sched_yield();
    __atomic_sub_fetch(&mortal->inside, 1, __ATOMIC_SEQ_CST);
    return want;
}

static void come_and_go(unsigned index, void *ctx) {
    struct crowd *crowd = ctx;
    if (index % 2 == 0) {
        while (__atomic_load_n(&crowd->done, __ATOMIC_RELAXED) < THREADS / 2)
            pnx_budget_reclaim(crowd->root, 100);
        return;
    }
    for (unsigned i = 0; i < crowd->rounds; i++) {
        struct mortal *mortal = calloc(1, sizeof(*mortal));
        CHECK(mortal);
        mortal->alive = 1;
        CHECK_EQ(pnx_budget_add_reclaimer(crowd->shared,
                         &(struct pnx_reclaimer){.size = sizeof(struct pnx_reclaimer),
                                 .reclaim = mortal_reclaim,
                                 .ctx = mortal},
                         &mortal->handle),
                0);
        if (i % 3 == 0)
            pnx_budget_reclaim(crowd->shared, 10);
        pnx_budget_remove_reclaimer(&mortal->handle);
        __atomic_store_n(&mortal->alive, 0, __ATOMIC_SEQ_CST);
        CHECK_EQ(__atomic_load_n(&mortal->inside, __ATOMIC_SEQ_CST), 0);
        free(mortal);
    }
    __atomic_add_fetch(&crowd->done, 1, __ATOMIC_RELAXED);
}

TEST_LIMIT(p4_no_reclaimer_runs_after_its_removal_with_threads, 120) {
    struct crowd crowd = {.rounds = test_slow() ? 500 : 5000};
    CHECK_EQ(pnx_budget_create(PNX_BUDGET_OPTS(.parent = pnx_budget_off()), NULL, &crowd.root), 0);
    CHECK_EQ(pnx_budget_create(PNX_BUDGET_OPTS(.parent = crowd.root), NULL, &crowd.shared), 0);
    CHECK_EQ(pnx_budget_charge(crowd.shared, 1000, 0), 0);
    test_threads(THREADS, come_and_go, &crowd);
    CHECK_EQ(stats_of(crowd.root).used, 1000);
    pnx_budget_uncharge(crowd.shared, 1000);
    pnx_budget_release(&crowd.shared);
    pnx_budget_release(&crowd.root);
}
