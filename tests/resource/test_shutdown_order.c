/* SPDX-License-Identifier: Apache-2.0 */
/* The order in which a shutdown ends rows: P2 of patinox/shutdown.h. */
#include "resource/shutdown_case.h"

TEST(p2_last_made_first) {
    struct pnx_registry *registry = fresh();
    struct item items[100];
    memset(items, 0, sizeof(items));
    for (int i = 0; i < 100; i++) {
        items[i].number = i;
        add(registry, &items[i], 0);
    }
    CHECK_EQ(pnx_registry_shutdown(registry, PNX_NEVER, NULL), 0);
    CHECK_EQ(n_ordered(), 100);
    for (int i = 0; i < 100; i++)
        CHECK_EQ(order[i], 99 - i);
    pnx_registry_release(&registry);
}

struct maker {
    struct pnx_registry *registry;
    struct item items[8];
    pnx_resource_id ids[8];
    int n;
};

static void add_one(unsigned index, void *ctx) {
    struct maker *maker = ctx;
    (void)index;
    int i = maker->n++;
    maker->items[i].number = i;
    maker->ids[i] = add(maker->registry, &maker->items[i], i ? maker->ids[i - 1] : 0);
}

TEST(p2_children_come_before_their_parents_whichever_thread_made_them) {
    struct maker maker = {.registry = fresh()};
    for (int i = 0; i < 8; i++)
        test_threads(1, add_one, &maker); /* each row is in another shard */
    CHECK_EQ(pnx_registry_shutdown(maker.registry, PNX_NEVER, NULL), 0);
    for (int i = 0; i < 8; i++)
        CHECK_EQ(order[i], 7 - i);
    pnx_registry_release(&maker.registry);
}

static void check_order(const int *expected, int n) {
    CHECK_EQ(n_ordered(), n);
    for (int i = 0; i < n; i++)
        CHECK_MSG(order[i] == expected[i], "at %d came item %d, expected %d", i, order[i],
                expected[i]);
}

TEST(p2_higher_priority_comes_first_and_the_last_last_of_all) {
    struct pnx_registry *registry = fresh();
    static const int32_t priorities[] = {PNX_PRIORITY_LOW, PNX_PRIORITY_LAST, PNX_PRIORITY_DEFAULT,
            PNX_PRIORITY_CRITICAL, PNX_PRIORITY_HIGH, PNX_PRIORITY_NORMAL, PNX_PRIORITY_LOW,
            PNX_PRIORITY_HIGH, PNX_PRIORITY_LAST};
    struct item items[9];
    for (int i = 0; i < 9; i++) {
        items[i] = (struct item){.number = i};
        add_with(registry, &items[i], 0, 0, priorities[i]);
    }
    CHECK_EQ(pnx_registry_shutdown(registry, PNX_NEVER, NULL), 0);
    check_order((const int[]){3, 7, 4, 5, 2, 6, 0, 8, 1}, 9);
    pnx_registry_release(&registry);
}

TEST(p2_a_child_comes_before_its_parent_whatever_their_priorities) {
    struct pnx_registry *registry = fresh();
    struct item items[5];
    for (int i = 0; i < 5; i++)
        items[i] = (struct item){.number = i};
    pnx_resource_id top = add_with(registry, &items[0], 0, 0, PNX_PRIORITY_CRITICAL);
    add_with(registry, &items[1], top, 0, PNX_PRIORITY_LAST);
    pnx_resource_id other = add_with(registry, &items[2], 0, 0, PNX_PRIORITY_HIGH);
    add_with(registry, &items[3], other, 0, PNX_PRIORITY_LOW);
    add_with(registry, &items[4], 0, 0, PNX_PRIORITY_NORMAL);
    CHECK_EQ(pnx_registry_shutdown(registry, PNX_NEVER, NULL), 0);
    check_order((const int[]){4, 3, 2, 1, 0}, 5);
    pnx_registry_release(&registry);
}

TEST(p2_what_ends_through_its_owner_makes_way_for_its_parent) {
    struct pnx_registry *registry = fresh();
    struct item parent = {.number = 0}, child = {.number = 1}, other = {.number = 2};
    sem_t entered, go;
    sem_init(&entered, 0, 0);
    sem_init(&go, 0, 0);
    other.entered = &entered;
    other.go = &go;
    add(registry, &parent, 0);
    add(registry, &child, parent.id);
    add_with(registry, &other, 0, 0, PNX_PRIORITY_HIGH);
    struct shutting shutting;
    begin_shutdown(&shutting, registry, LONG);
    sem_wait(&entered); /* the other's turn: now the owner is faster than the child's */
    CHECK_EQ(pnx_registry_remove(registry, child.id), 0);
    sem_post(&go);
    CHECK_EQ(end_shutdown(&shutting), 0);
    CHECK_COUNTS(shutting.report, 3, 0, 0, 0);
    check_order((const int[]){2, 0}, 2);
    pnx_shutdown_report_release(&shutting.report);
    pnx_registry_release(&registry);
}

/* ---- against a model ---- */

enum { MODELLED = 600 };
struct modelled {
    struct item item;
    int parent; /* -1: none */
    int32_t priority;
    bool bare;
    int children; /* that have not ended */
    bool ended;
};
static struct modelled modelled[MODELLED];

static int rank_of(const struct modelled *row) {
    if (row->priority == PNX_PRIORITY_LAST)
        return 9;
    return row->priority == PNX_PRIORITY_DEFAULT ? 5 - PNX_PRIORITY_NORMAL : 5 - row->priority;
}

static void end_modelled(int i) {
    modelled[i].ended = true;
    if (modelled[i].parent >= 0)
        modelled[modelled[i].parent].children--;
}

static bool is_last(int i) {
    return modelled[i].priority == PNX_PRIORITY_LAST;
}

/* Whether a row of the last that has not ended stands below this one. */
static bool waits_for_last(int i) {
    for (int j = i + 1; j < MODELLED; j++) {
        int above = modelled[j].ended || !is_last(j) ? -1 : modelled[j].parent;
        while (above > i)
            above = modelled[above].parent;
        if (above == i)
            return true;
    }
    return false;
}

/* Whether the turn of a row of the last has come, if it waits for no child. */
static bool may_be_last(int i) {
    bool helps = false; /* a row of another priority to its end */
    for (int above = modelled[i].parent; above >= 0; above = modelled[above].parent)
        helps |= !is_last(above);
    for (int j = 0; j < MODELLED; j++) {
        if (!modelled[j].ended && !is_last(j) && !(helps && waits_for_last(j)))
            return false;
    }
    return true;
}

/* What the header says, word by word: looks at all rows for each step. */
static int next_modelled(void) {
    int best = -1;
    for (int i = MODELLED - 1; i >= 0; i--) {
        if (modelled[i].bare && !modelled[i].ended && modelled[i].children == 0)
            end_modelled(i); /* its parent is older */
    }
    for (int i = MODELLED - 1; i >= 0; i--) {
        if (modelled[i].ended || modelled[i].children)
            continue;
        if (is_last(i) && !may_be_last(i))
            continue;
        if (best < 0 || rank_of(&modelled[i]) < rank_of(&modelled[best]))
            best = i;
    }
    return best;
}

TEST(p2_the_order_is_that_of_a_plain_model) {
    uint64_t state = test_seed();
    for (int round = 0; round < (test_slow() ? 5 : 30); round++) {
        struct pnx_registry *registry = fresh();
        n_order = 0;
        for (int i = 0; i < MODELLED; i++) {
            uint64_t r = test_random(&state);
            modelled[i] = (struct modelled){
                    .item.number = i,
                    .parent = i && r % 4 ? (int)((r >> 8) % (uint64_t)i) : -1,
                    .priority = (int32_t)((r >> 40) % 6),
                    .bare = (r >> 48) % 8 == 0,
            };
            if (r % 4 == 3 && i > 3)
                modelled[i].parent = i - 1 - (int)((r >> 8) % 3); /* deep */
            pnx_resource_id parent = 0;
            if (modelled[i].parent >= 0) {
                parent = modelled[modelled[i].parent].item.id;
                modelled[modelled[i].parent].children++;
            }
            if (modelled[i].bare)
                CHECK_EQ(pnx_registry_add(registry,
                                 PNX_RESOURCE(.type = "bare", .parent = parent,
                                         .priority = modelled[i].priority),
                                 NULL, &modelled[i].item.id),
                        0);
            else
                add_with(registry, &modelled[i].item, parent, 0, modelled[i].priority);
        }
        struct pnx_shutdown_report *report;
        (void)pnx_registry_shutdown(registry, PNX_NEVER, &report);
        int n = 0;
        for (int i; (i = next_modelled()) >= 0; n++) {
            CHECK_MSG(n < n_ordered() && order[n] == i, "at %d came item %d, expected %d", n,
                    order[n], i);
            end_modelled(i);
        }
        CHECK_EQ(n_ordered(), n);
        CHECK_EQ(counts_of(report).done, n);
        CHECK_EQ(counts_of(report).leaked, MODELLED - n);
        pnx_shutdown_report_release(&report);
        for (int i = 0; i < MODELLED; i++) {
            if (modelled[i].bare)
                CHECK_EQ(pnx_registry_remove(registry, modelled[i].item.id), 0);
        }
        pnx_registry_release(&registry);
    }
}

/* ---- many rows ---- */

static int count_up(void *arg, const struct pnx_cancel *cancel) {
    (void)cancel;
    ++*(int *)arg;
    return 0;
}

/* Each pick finds its row in a few steps: else this takes hours. */
TEST_LIMIT(p2_a_hundred_thousand_rows_that_wait_for_each_other_end_in_good_time, 300) {
    const int n = test_slow() ? 20000 : 200000;
    struct pnx_registry *registry = fresh();
    pnx_resource_id *parents = calloc((size_t)n / 2, sizeof(*parents)), id;
    int ended = 0;
    CHECK(parents);
    for (int i = 0; i < n;
            i++) { /* all parents want to go first, and have to wait for their children */
        pnx_resource_id *parent = &parents[i % (n / 2)];
        CHECK_EQ(pnx_registry_add(registry,
                         PNX_RESOURCE(.type = "row", .cleanup = count_up, .arg = &ended,
                                 .parent = *parent,
                                 .priority = *parent ? PNX_PRIORITY_LOW : PNX_PRIORITY_HIGH),
                         NULL, &id),
                0);
        *parent = id;
    }
    struct pnx_shutdown_report *report;
    CHECK_EQ(pnx_registry_shutdown(registry, PNX_NEVER, &report), 0);
    CHECK_EQ(ended, n);
    CHECK_COUNTS(report, (size_t)n, 0, 0, 0);
    pnx_shutdown_report_release(&report);
    pnx_registry_release(&registry);
    free(parents);
}
