/* SPDX-License-Identifier: Apache-2.0 */
/* test_structures.c - small algorithms, each right once and wrong in the ways in which it has been wrong elsewhere. */
#include "explorer/explorer.h"

#define VARIANT(name, type, number) \
    static void name(void *state) { \
        ((struct type *)state)->variant = number; \
    }

/* A Treiber stack (1986) of three nodes by index, with the ABA problem or with a tag in the word. */

struct stack {
    int variant;
    struct pnx_a64 head; /* node + 1, and a tag in the upper half */
    struct pnx_a32 next[4];
    struct x_cell owned[4]; /* written by who popped it */
};
enum { STACK_TAGGED, STACK_ABA };

static void stack_push(struct stack *s, uint32_t node) {
    uint64_t head = pnx_load(&s->head, PNX_RELAXED, "structures.push_head");
    uint64_t wanted;
    do {
        pnx_store(&s->next[node], (uint32_t)head, PNX_RELAXED, "structures.push_next");
        wanted = (s->variant == STACK_TAGGED ? (head >> 32) + 1 : 0) << 32 | (node + 1);
    } while (!pnx_cas(&s->head, &head, wanted, PNX_RELEASE, "structures.push"));
}

static uint32_t stack_pop(struct stack *s) {
    uint64_t head = pnx_load(&s->head, PNX_ACQUIRE, "structures.pop_head");
    for (;;) {
        uint32_t node = (uint32_t)head;
        if (node == 0)
            return UINT32_MAX;
        uint64_t next = pnx_load(&s->next[node - 1], PNX_RELAXED, "structures.pop_next");
        uint64_t wanted = (s->variant == STACK_TAGGED ? (head >> 32) + 1 : 0) << 32 | next;
        if (pnx_cas_acquire(&s->head, &head, wanted, PNX_ACQUIRE, "structures.pop"))
            return node - 1;
    }
}

static void stack_setup(void *state) {
    for (uint32_t i = 0; i < 3; i++)
        stack_push(state, i);
}
static void stack_setup_aba(void *state) {
    ((struct stack *)state)->variant = STACK_ABA;
    stack_setup(state);
}
static void stack_one(void *state) {
    struct stack *s = state;
    uint32_t node = stack_pop(s);
    if (node != UINT32_MAX)
        x_cell_write(&s->owned[node], 1);
}
static void stack_two(void *state) {
    struct stack *s = state;
    uint32_t a = stack_pop(s), b = stack_pop(s);
    if (a != UINT32_MAX)
        stack_push(s, a);
    if (b != UINT32_MAX)
        x_cell_write(&s->owned[b], 2);
}
/* What is left in the stack belongs to nobody yet. */
static void stack_final(void *state) {
    struct stack *s = state;
    uint32_t node;
    while ((node = stack_pop(s)) != UINT32_MAX)
        CHECK_EQ(x_cell_read(&s->owned[node]), 0);
}
#define STACK(text, set) \
    (&(struct x_test){.name = text, \
            .size = sizeof(struct stack), \
            .setup = set, \
            .thread = {stack_one, stack_two}, \
            .final = stack_final, \
            .floor = 100})

TEST(a_stack_of_reused_nodes_needs_tags) {
    x_explore(STACK("stack-tagged", stack_setup));
    x_refute(STACK("stack-aba", stack_setup_aba), X_ASSERTION);
}

struct list {
    struct pnx_aptr head;
};
struct node {
    struct pnx_aptr next;
};
static void list_setup(void *state) {
    struct list *list = state;
    for (int i = 0; i < 2; i++) {
        struct node *node = x_alloc(sizeof(*node));
        pnx_store(&node->next, pnx_load(&list->head, PNX_RELAXED, "structures.list_top"),
                PNX_RELAXED, "structures.list_next");
        pnx_store(&list->head, (void *)node, PNX_RELAXED, "structures.list_head");
    }
}
static void list_pop(void *state) {
    struct list *list = state;
    void *head = pnx_load(&list->head, PNX_ACQUIRE, "structures.list_pop");
    while (head) {
        void *next = pnx_load(&((struct node *)head)->next, PNX_RELAXED, "structures.list_look");
        if (pnx_cas_acquire(&list->head, &head, next, PNX_ACQ_REL, "structures.list_cas")) {
            x_free(head);
            return;
        }
    }
}

TEST(a_stack_that_frees_at_once_is_read_after_the_free) {
    x_refute(&(struct x_test){.name = "list-free",
                     .size = sizeof(struct list),
                     .setup = list_setup,
                     .thread = {list_pop, list_pop}},
            X_FREED);
}

/* A seqlock with relaxed data (Boehm, MSPC 2012). */

enum { SEQ_RIGHT, SEQ_NO_READER_FENCE, SEQ_NO_WRITER_FENCE, SEQ_RELAXED_LOAD, SEQ_RELAXED_STORE };
struct seqlock {
    int variant;
    struct pnx_a32 seq;
    struct pnx_a32 a, b;
};
VARIANT(seq_no_reader_fence, seqlock, SEQ_NO_READER_FENCE)
VARIANT(seq_no_writer_fence, seqlock, SEQ_NO_WRITER_FENCE)
VARIANT(seq_relaxed_load, seqlock, SEQ_RELAXED_LOAD)
VARIANT(seq_relaxed_store, seqlock, SEQ_RELAXED_STORE)

static void seq_write(void *state) {
    struct seqlock *s = state;
    for (uint32_t i = 1; i <= 2; i++) {
        pnx_store(&s->seq, 2 * i - 1, PNX_RELAXED, "structures.seq_odd");
        if (s->variant != SEQ_NO_WRITER_FENCE)
            pnx_fence(PNX_RELEASE, "structures.seq_write_fence");
        pnx_store(&s->a, i, PNX_RELAXED, "structures.seq_a");
        pnx_store(&s->b, i, PNX_RELAXED, "structures.seq_b");
        if (s->variant == SEQ_RELAXED_STORE)
            pnx_store(&s->seq, 2 * i, PNX_RELAXED, "structures.seq_even_relaxed");
        else
            pnx_store(&s->seq, 2 * i, PNX_RELEASE, "structures.seq_even");
    }
}
static void seq_read(void *state) {
    struct seqlock *s = state;
    uint32_t before = s->variant == SEQ_RELAXED_LOAD
                              ? pnx_load(&s->seq, PNX_RELAXED, "structures.seq_before_relaxed")
                              : pnx_load(&s->seq, PNX_ACQUIRE, "structures.seq_before");
    uint32_t a = pnx_load(&s->a, PNX_RELAXED, "structures.seq_read_a");
    uint32_t b = pnx_load(&s->b, PNX_RELAXED, "structures.seq_read_b");
    if (s->variant != SEQ_NO_READER_FENCE)
        pnx_fence(PNX_ACQUIRE, "structures.seq_read_fence");
    uint32_t after = pnx_load(&s->seq, PNX_RELAXED, "structures.seq_after");
    if (before == after && before % 2 == 0) {
        CHECK_EQ(a, b);
        CHECK_EQ(a, before / 2);
    }
}
#define SEQLOCK(text, set) \
    (&(struct x_test){.name = text, \
            .size = sizeof(struct seqlock), \
            .setup = set, \
            .thread = {seq_write, seq_read, seq_read}, \
            .floor = 5000})

TEST(a_seqlock_needs_each_of_its_orders) {
    x_explore(SEQLOCK("seqlock", NULL));
    x_refute(SEQLOCK("seqlock-no-reader-fence", seq_no_reader_fence), X_ASSERTION);
    x_refute(SEQLOCK("seqlock-no-writer-fence", seq_no_writer_fence), X_ASSERTION);
    x_refute(SEQLOCK("seqlock-relaxed-load", seq_relaxed_load), X_ASSERTION);
    x_refute(SEQLOCK("seqlock-relaxed-store", seq_relaxed_store), X_ASSERTION);
}

/* A ticket lock. */

struct ticket {
    int variant;
    struct pnx_a32 next, serving;
    struct x_cell inside;
};
VARIANT(ticket_relaxed_look, ticket, 1)
VARIANT(ticket_relaxed_unlock, ticket, 2)

static uint32_t ticket_look(struct ticket *s) {
    return s->variant == 1 ? pnx_load(&s->serving, PNX_RELAXED, "structures.ticket_look_relaxed")
                           : pnx_load(&s->serving, PNX_ACQUIRE, "structures.ticket_look");
}
static void ticket_run(void *state) {
    struct ticket *s = state;
    uint32_t mine = pnx_fetch_add(&s->next, 1, PNX_RELAXED, "structures.ticket_take");
    while (ticket_look(s) != mine)
        pnx__spin_hint();
    x_cell_write(&s->inside, x_cell_read(&s->inside) + 1);
    if (s->variant == 2)
        pnx_store(&s->serving, mine + 1, PNX_RELAXED, "structures.ticket_unlock_relaxed");
    else
        pnx_store(&s->serving, mine + 1, PNX_RELEASE, "structures.ticket_unlock");
}
static void ticket_final(void *state) {
    CHECK_EQ(x_cell_read(&((struct ticket *)state)->inside), 3);
}
#define TICKET(text, set) \
    (&(struct x_test){.name = text, \
            .size = sizeof(struct ticket), \
            .setup = set, \
            .thread = {ticket_run, ticket_run, ticket_run}, \
            .final = ticket_final, \
            .floor = 100})

TEST(a_ticket_lock_excludes_with_its_orders_only) {
    x_explore(TICKET("ticket", NULL));
    x_refute(TICKET("ticket-relaxed-look", ticket_relaxed_look), X_RACE);
    x_refute(TICKET("ticket-relaxed-unlock", ticket_relaxed_unlock), X_RACE);
}

/* An event: who waits sleeps on a futex, who sets it wakes only if somebody waits. */

struct event {
    int variant;
    struct pnx_a32 set;
    struct pnx_a32 waiters;
};
enum { EVENT_RIGHT, EVENT_NO_FENCE, EVENT_NO_WAKE };
VARIANT(event_no_fence, event, EVENT_NO_FENCE)
VARIANT(event_no_wake, event, EVENT_NO_WAKE)

static void event_wait(void *state) {
    struct event *s = state;
    pnx_fetch_add(&s->waiters, 1, PNX_RELAXED, "structures.event_waits");
    if (s->variant != EVENT_NO_FENCE)
        pnx_fence(PNX_SEQ_CST, "structures.event_wait_fence");
    while (!pnx_load(&s->set, PNX_ACQUIRE, "structures.event_look"))
        pnx__futex_wait(&s->set, 0, PNX_NEVER);
}
static void event_set(void *state) {
    struct event *s = state;
    pnx_store(&s->set, 1, PNX_RELEASE, "structures.event_set");
    if (s->variant != EVENT_NO_FENCE)
        pnx_fence(PNX_SEQ_CST, "structures.event_set_fence");
    if (s->variant != EVENT_NO_WAKE &&
            pnx_load(&s->waiters, PNX_RELAXED, "structures.event_waiters"))
        pnx__futex_wake(&s->set, UINT32_MAX);
}
#define EVENT(text, set_up) \
    (&(struct x_test){.name = text, \
            .size = sizeof(struct event), \
            .setup = set_up, \
            .thread = {event_wait, event_wait, event_set}, \
            .floor = 100})

TEST(a_wake_up_is_lost_without_the_fences_around_it) {
    x_explore(EVENT("event", NULL));
    x_refute(EVENT("event-no-fence", event_no_fence), X_LOST_WAKE);
    x_refute(EVENT("event-no-wake", event_no_wake), X_LOST_WAKE);
}

/* One reader's section and one grace period, over the asymmetric barrier (anchor: read-copy-update). */

struct rcu {
    int variant;
    struct pnx_a32 inside[2];
    struct pnx_aptr value;
};
enum { RCU_RIGHT, RCU_NO_HEAVY, RCU_NO_LIGHT, RCU_RELAXED_EXIT, RCU_RELAXED_SCAN };

static void rcu_set_up(struct rcu *s, int variant) {
    s->variant = variant;
    struct x_cell *first = x_alloc(sizeof(*first));
    x_cell_write(first, 1);
    pnx_store(&s->value, (void *)first, PNX_RELAXED, "structures.rcu_first");
}
#define RCU_SETUP(name, number) \
    static void name(void *state) { \
        rcu_set_up(state, number); \
    }
RCU_SETUP(rcu_right, RCU_RIGHT)
RCU_SETUP(rcu_no_heavy, RCU_NO_HEAVY)
RCU_SETUP(rcu_no_light_barrier, RCU_NO_LIGHT)
RCU_SETUP(rcu_relaxed_exit, RCU_RELAXED_EXIT)
RCU_SETUP(rcu_relaxed_scan, RCU_RELAXED_SCAN)

static void rcu_read(struct rcu *s, unsigned me) {
    pnx_store(&s->inside[me], 1, PNX_RELEASE, "structures.rcu_enter");
    if (s->variant != RCU_NO_LIGHT)
        pnx__barrier_light();
    const struct x_cell *value = pnx_load(&s->value, PNX_ACQUIRE, "structures.rcu_load");
    CHECK(x_cell_read(value) >= 1);
    if (s->variant == RCU_RELAXED_EXIT)
        pnx_store(&s->inside[me], 0, PNX_RELAXED, "structures.rcu_exit_relaxed");
    else
        pnx_store(&s->inside[me], 0, PNX_RELEASE, "structures.rcu_exit");
}
static void rcu_read_0(void *state) {
    rcu_read(state, 0);
}
static void rcu_read_1(void *state) {
    rcu_read(state, 1);
}
static void rcu_write(void *state) {
    struct rcu *s = state;
    struct x_cell *next = x_alloc(sizeof(*next));
    x_cell_write(next, 2);
    void *old = pnx_exchange(&s->value, (void *)next, PNX_ACQ_REL, "structures.rcu_replace");
    if (s->variant != RCU_NO_HEAVY)
        pnx__barrier_heavy();
    for (unsigned i = 0; i < 2; i++) {
        while (s->variant == RCU_RELAXED_SCAN
                        ? pnx_load(&s->inside[i], PNX_RELAXED, "structures.rcu_scan_relaxed")
                        : pnx_load(&s->inside[i], PNX_ACQUIRE, "structures.rcu_scan"))
            pnx__spin_hint();
    }
    x_free(old);
}
static void rcu_final(void *state) {
    x_free(pnx_load(&((struct rcu *)state)->value, PNX_RELAXED, "structures.rcu_last"));
}
#define RCU(text, set_up, mode) \
    (&(struct x_test){.name = text, \
            .size = sizeof(struct rcu), \
            .setup = set_up, \
            .thread = {rcu_read_0, rcu_read_1, rcu_write}, \
            .final = rcu_final, \
            .fences = mode, \
            .floor = 1000})

TEST(a_grace_period_needs_both_barriers) {
    x_explore(RCU("rcu-membarrier", rcu_right, false));
    x_explore(RCU("rcu-fences", rcu_right, true));
    x_refute(RCU("rcu-membarrier-no-heavy", rcu_no_heavy, false), X_RACE);
    x_refute(RCU("rcu-fences-no-heavy", rcu_no_heavy, true), X_RACE);
    x_refute(RCU("rcu-fences-no-light", rcu_no_light_barrier, true), X_RACE);
}

TEST(a_grace_period_needs_the_orders_of_exit_and_scan) {
    x_refute(RCU("rcu-relaxed-exit", rcu_relaxed_exit, false), X_RACE);
    x_refute(RCU("rcu-relaxed-scan", rcu_relaxed_scan, false), X_RACE);
}
