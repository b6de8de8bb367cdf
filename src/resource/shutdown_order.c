/* SPDX-License-Identifier: Apache-2.0 */
/*
 * resource/shutdown_order.c - whose turn it is.
 *
 * Rows become members of an array that is sorted by key: priority, then last made first.  A member has its turn when
 * all its children have ended; those that may have it wait in a heap, so that the first of them is found in a few
 * steps however many there are.
 *
 *      HELD --children ended--> READY --taken--> RUNNING --0, error--> ENDED
 *                                ^ ^                |  |
 *                                | +--due-- AGAIN <-+  +--pending, or claimed by others--> ELSEWHERE --ended--> ENDED
 *                                |            ^                                              |   ^
 *                                |            +---------------- live again ------------------+   +-- owned rows
 *                                +-- untaken
 *
 * There is such a heap for each turn (enum pnx_member_turn): rows of PNX_PRIORITY_LAST wait for all others, unless these
 * wait for them.  A row that is HELD has, somewhere below it, a child that is in another state, so when n_busy is 0 all
 * rows of other priorities that are left are HELD by such rows, and it is their turn; no circle can come of it.
 *
 *   P1  A member is READY only when all rows that name it as their parent have ended.
 *   P2  Of those that are READY and have their turn the one with the smallest key is taken.
 *   P3  Nothing is allocated once the array is there; without memory it is a window (shutdown_sweep.c).
 *   P4  Before last_at a row of PNX_PRIORITY_LAST is taken only when all rows of other priorities have ended; one below
 *       such a row, when all of these are HELD.  From then on they are taken before all others.
 *   P5  From one look at the clock to the next there is a bounded number of steps, but for the two looks at all rows that
 *       each shutdown takes: the first, which asks them, and the last, for which it sets as much time aside.
 */
#include "base/env.h"
#include "registry/sort.h"
#include "resource/shutdown.h"

#include <stddef.h>

#define PAUSE_MIN   (10 * PNX_MS) /* before the second try */
#define PAUSE_MAX   PNX_SEC
#define SERIAL_MASK (UINT64_MAX >> PNX_ROW_SERIAL_SHIFT)
#define STEPS       4096 /* rows from one look at the clock to the next */
#define LOOK_MAX_NS 100  /* set aside for the last look at a row, at most */

/* ---- heaps ---- */

/* Pairing heaps (Fredman, Sedgewick, Sleator, Tarjan, 1986): their links are in the members. */

static bool comes_first(
        const struct pnx_shutdown_member *a, const struct pnx_shutdown_member *b, bool by_due) {
    return by_due && a->due != b->due ? a->due < b->due : a->key < b->key;
}

static struct pnx_shutdown_member *meld(
        struct pnx_shutdown_member *a, struct pnx_shutdown_member *b, bool by_due) {
    if (!a || !b)
        return a ? a : b;
    if (comes_first(b, a, by_due)) {
        struct pnx_shutdown_member *first = b;
        b = a;
        a = first;
    }
    b->next = a->child;
    a->child = b;
    return a;
}

static void push(
        struct pnx_shutdown_member **heap, struct pnx_shutdown_member *member, bool by_due) {
    member->next = NULL;
    member->child = NULL;
    *heap = meld(*heap, member, by_due);
}

/* Melds the children two by two, and what comes of it from the last to the first. */
static struct pnx_shutdown_member *pop(struct pnx_shutdown_member **heap, bool by_due) {
    struct pnx_shutdown_member *root = *heap;
    if (!root)
        return NULL;
    struct pnx_shutdown_member *pairs = NULL;
    for (struct pnx_shutdown_member *a = root->child; a;) {
        struct pnx_shutdown_member *b = a->next;
        struct pnx_shutdown_member *rest = b ? b->next : NULL;
        a->next = NULL;
        if (b)
            b->next = NULL;
        a = meld(a, b, by_due);
        a->next = pairs;
        pairs = a;
        a = rest;
    }
    *heap = NULL;
    while (pairs) {
        struct pnx_shutdown_member *rest = pairs->next;
        pairs->next = NULL;
        *heap = meld(*heap, pairs, by_due);
        pairs = rest;
    }
    root->child = NULL;
    return root;
}

/* ---- time ---- */

static bool has_time(void *ctx) {
    const struct pnx_registry *registry = ctx;
    return pnx__now(&registry->env) < registry->shutdown->deadline;
}

bool pnx__shutdown_may_step(struct pnx_registry *registry, size_t step) {
    return step % STEPS != STEPS - 1 || has_time(registry);
}

/* ---- rows ---- */

void pnx__shutdown_each_slot(struct pnx_registry *registry,
        void (*fn)(void *ctx, struct pnx_row *row, uint64_t word), void *ctx) {
    bool enlisted = registry->shutdown->enlisted;
    for (uint32_t s = 0; s < PNX_SHARDS; s++) {
        struct pnx_shard *shard = &registry->shard[s];
        if (enlisted && shard->used == 0)
            continue;
        pnx__lock(&shard->lock);
        for (uint32_t slot = shard->used; slot > 0; slot--) {
            struct pnx_row *row = pnx__slot_row(shard, slot - 1);
            fn(ctx, row, pnx__row_word(row));
        }
        pnx__unlock(&shard->lock);
    }
}

uint64_t pnx__shutdown_key_locked(const struct pnx_row *row) {
    enum pnx_priority priority = pnx__row_priority(row);
    uint32_t rank = priority == PNX_PRIORITY_LAST ? PNX_PRIORITY_CRITICAL
                                                  : PNX_PRIORITY_CRITICAL - (uint32_t)priority;
    return (uint64_t)rank << PNX_SHUTDOWN_RANK_SHIFT | (SERIAL_MASK - pnx__row_serial(row));
}

void pnx__order_note(struct pnx_registry *registry, const struct pnx_shutdown_member *member,
        enum pnx_row_outcome outcome) {
    struct pnx_shard *shard = pnx__row_lock(registry, member->id);
    pnx__row_set_outcome_locked(member->row, outcome);
    pnx__unlock(&shard->lock);
}

/* ---- members ---- */

void pnx__member_init_locked(
        struct pnx_shutdown_member *member, struct pnx_row *row, uint64_t word, uint64_t key) {
    bool owned = (row->order & PNX_ROW_OWNED) != 0;
    *member = (struct pnx_shutdown_member){
            .row = row,
            .id = pnx__word_id(word),
            .key = key,
            .tries = pnx__row_outcome(row) == PNX_OUTCOME_AGAIN,
            .owned = owned,
            .bare = pnx__word_state(word) == PNX_ROW_LIVE && !row->cleanup && !owned,
            .turn = pnx__row_priority(row) == PNX_PRIORITY_LAST ? PNX_TURN_LAST : PNX_TURN_ANY,
    };
}

struct pnx_shutdown_member *pnx__member_find(const struct pnx_shutdown_state *state, uint64_t key) {
    size_t from = 0, to = state->n;
    while (from < to) {
        size_t middle = from + (to - from) / 2;
        if (state->members[middle].key == key)
            return &state->members[middle];
        if (state->members[middle].key < key)
            from = middle + 1;
        else
            to = middle;
    }
    return NULL;
}

/* Returns the parent, which may be the next to have its turn. */
static struct pnx_shutdown_member *end_member_locked(
        struct pnx_shutdown_state *state, struct pnx_shutdown_member *member) {
    bool plain = member->turn == PNX_TURN_ANY;
    state->n_last -= !plain;
    if (plain && state->whole) {
        state->n_plain--;
        state->n_busy -= member->state != PNX_MEMBER_HELD;
    }
    member->state = PNX_MEMBER_ENDED;
    state->left--;
    state->sweep.stirred = true;
    if (member->parent)
        member->parent->children--;
    return member->parent;
}

/* In a window all have their turn. */
static void make_ready_locked(
        struct pnx_shutdown_state *state, struct pnx_shutdown_member *member) {
    member->state = PNX_MEMBER_READY;
    push(&state->ready[state->whole ? member->turn : PNX_TURN_ANY], member, false);
}

void pnx__member_admit_locked(struct pnx_registry *registry, struct pnx_shutdown_member *member) {
    struct pnx_shutdown_state *state = registry->shutdown;
    while (member && member->state == PNX_MEMBER_HELD && member->children == 0) {
        if (!member->bare) {
            state->n_busy += member->turn == PNX_TURN_ANY;
            make_ready_locked(state, member);
            return;
        }
        /* Nobody needs to wait for it; whether it has leaked is seen at the end. */
        pnx__order_note(registry, member, PNX_OUTCOME_PASSED);
        member = end_member_locked(state, member);
    }
}

/* P4 */
static bool has_turn(
        const struct pnx_shutdown_state *state, enum pnx_member_turn turn, pnx_ns now) {
    if (turn == PNX_TURN_ANY || now >= state->last_at)
        return true;
    return turn == PNX_TURN_LATE ? state->n_busy == 0 : state->n_plain == 0;
}

/* Returns whose turn it is, PNX_TURNS: nobody's. */
static enum pnx_member_turn turn_now(const struct pnx_shutdown_state *state, pnx_ns now) {
    if (!state->whole && pnx__sweep_is_over_locked(state, now))
        return PNX_TURNS;
    uint32_t first = now >= state->last_at ? PNX_TURN_LATE : PNX_TURN_ANY;
    for (uint32_t i = 0; i < PNX_TURNS; i++) {
        enum pnx_member_turn turn = (enum pnx_member_turn)((first + i) % PNX_TURNS);
        if (state->ready[turn] && has_turn(state, turn, now))
            return turn;
    }
    return PNX_TURNS;
}

bool pnx__order_has_turn_locked(const struct pnx_shutdown_state *state, pnx_ns now) {
    return turn_now(state, now) != PNX_TURNS;
}

struct pnx_shutdown_member *pnx__order_take_locked(struct pnx_shutdown_state *state, pnx_ns now) {
    enum pnx_member_turn turn = turn_now(state, now);
    return turn != PNX_TURNS ? pop(&state->ready[turn], false) : NULL;
}

void pnx__order_untake_locked(
        struct pnx_shutdown_state *state, struct pnx_shutdown_member *member) {
    make_ready_locked(state, member);
}

void pnx__order_ended_locked(struct pnx_registry *registry, struct pnx_shutdown_member *member) {
    pnx__mutex_assert_held(&registry->shutdown->lock);
    pnx__member_admit_locked(registry, end_member_locked(registry->shutdown, member));
}

/* SplitMix64 (Steele, Lea, Flood, 2014). */
static uint64_t jitter(struct pnx_shutdown_state *state) {
    uint64_t x = state->random += UINT64_C(0x9e3779b97f4a7c15);
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

pnx_ns pnx__shutdown_pause_locked(struct pnx_shutdown_state *state, uint32_t tries, pnx_ns now) {
    pnx_ns pause = tries < 7 ? PAUSE_MIN << tries : PAUSE_MAX;
    if (pause > PAUSE_MAX)
        pause = PAUSE_MAX;
    pause = pause / 2 + (pnx_ns)(jitter(state) % (uint64_t)(pause / 2 + 1));
    pnx_ns left = pnx__remaining(now, state->deadline);
    if (pause < left)
        return pause;
    return left > PAUSE_MIN ? left / 2 : left; /* a last try, or a few, before time is over */
}

pnx_ns pnx__order_again_locked(
        struct pnx_registry *registry, struct pnx_shutdown_member *member, pnx_ns now) {
    struct pnx_shutdown_state *state = registry->shutdown;
    pnx__mutex_assert_held(&state->lock);
    pnx__order_note(registry, member, PNX_OUTCOME_AGAIN);
    member->state = PNX_MEMBER_AGAIN;
    if (!state->whole) {
        if (!state->sweep.again) {
            state->sweep.again = true;
            state->sweep.retry_at =
                    now + pnx__shutdown_pause_locked(state, state->sweep.tries, now);
        }
        return state->sweep.retry_at;
    }
    member->due = now + pnx__shutdown_pause_locked(state, member->tries, now);
    if (member->tries < UINT8_MAX)
        member->tries++;
    push(&state->again, member, true);
    return member->due;
}

void pnx__order_elsewhere_locked(
        struct pnx_registry *registry, struct pnx_shutdown_member *member, pnx_ns now) {
    struct pnx_shutdown_state *state = registry->shutdown;
    /*
     * Under the shard's lock: what happens to the row after this look counts registry->changed up after it, and so
     * after the leader's last look, which this one follows under the shutdown's lock.
     */
    struct pnx_shard *shard = pnx__row_lock(registry, member->id);
    uint64_t word = pnx__row_word(member->row);
    pnx__unlock(&shard->lock);
    if (!pnx__word_is_there(word)) {
        pnx__order_ended_locked(registry, member);
    } else if (pnx__word_state(word) == PNX_ROW_LIVE && !member->owned) {
        (void)pnx__order_again_locked(registry, member, now);
    } else {
        member->state = PNX_MEMBER_ELSEWHERE;
        if (!state->whole)
            return; /* the next sweep finds what has become of it */
        member->next = state->elsewhere;
        state->elsewhere = member;
        state->n_elsewhere++;
    }
}

/* Whether the owner has left the row to the registry. */
static bool is_disowned(struct pnx_registry *registry, const struct pnx_shutdown_member *member) {
    struct pnx_shard *shard = pnx__row_lock(registry, member->id);
    bool disowned = member->owned && !(member->row->order & PNX_ROW_OWNED);
    pnx__unlock(&shard->lock);
    return disowned;
}

/* Rows that owners have left to the registry since the last look have their turn like all others: after their children. */
static void look_for_disowned_locked(struct pnx_registry *registry) {
    struct pnx_shutdown_state *state = registry->shutdown;
    uint32_t disowned = pnx_load(&registry->disowned, PNX_RELAXED, "shutdown.disowned");
    struct pnx_shutdown_member **at = &state->elsewhere;
    if (disowned == state->disowned)
        return;
    state->disowned = disowned;
    while (*at) {
        struct pnx_shutdown_member *member = *at;
        if (!is_disowned(registry, member)) {
            at = &member->next;
            continue;
        }
        *at = member->next;
        state->n_elsewhere--;
        member->owned = false;
        state->n_busy -= member->turn == PNX_TURN_ANY;
        member->state = PNX_MEMBER_HELD;
        pnx__member_admit_locked(registry, member);
    }
}

static void look_elsewhere_locked(struct pnx_registry *registry, pnx_ns now) {
    struct pnx_shutdown_state *state = registry->shutdown;
    look_for_disowned_locked(registry);
    struct pnx_shutdown_member **at = &state->elsewhere;
    for (size_t i = 0; *at && pnx__shutdown_may_step(registry, i); i++) {
        struct pnx_shutdown_member *member = *at;
        uint64_t word = pnx__row_word(member->row);
        bool there = pnx__word_is_there(word);
        if (there && (pnx__word_state(word) != PNX_ROW_LIVE || member->owned)) {
            at = &member->next;
            continue;
        }
        *at = member->next;
        state->n_elsewhere--;
        if (there) /* its cleanup has returned -EAGAIN */
            (void)pnx__order_again_locked(registry, member, now);
        else
            pnx__order_ended_locked(registry, member);
    }
}

pnx_ns pnx__order_look_locked(struct pnx_registry *registry, uint32_t seen, pnx_ns now) {
    struct pnx_shutdown_state *state = registry->shutdown;
    if (!state->whole)
        return pnx__sweep_locked(registry, seen, now);
    if (!state->lined_up)
        return PNX_NEVER; /* there was no time for it */
    look_elsewhere_locked(registry, now);
    for (size_t i = 0;
            state->again && state->again->due <= now && pnx__shutdown_may_step(registry, i); i++)
        make_ready_locked(state, pop(&state->again, true));
    pnx_ns next = state->again ? state->again->due : PNX_NEVER;
    bool waits = state->ready[PNX_TURN_LATE] || state->ready[PNX_TURN_LAST];
    return waits && now < state->last_at && state->last_at < next ? state->last_at : next;
}

/* ---- the beginning ---- */

/* Rows that are there now are the shutdown's; each is asked to end. */
static void enlist_row(void *ctx, struct pnx_row *row, uint64_t word) {
    size_t *n = ctx;
    if (!pnx__word_is_there(word) || !pnx__row_is_ours(row))
        return; /* a parent process's: not ours to end */
    row->order |= PNX_ROW_MEMBER;
    pnx__row_ask_locked(row, word);
    ++*n;
}

static bool by_key(const void *a, const void *b) {
    const struct pnx_shutdown_member *x = a, *y = b;
    return x->key < y->key;
}

/*
 * Makes members of all rows of the shutdown, the last slot of a shard first, as pnx__shutdown_each_slot().  timed: as
 * long as there is time; false when there was none.
 */
static bool collect_locked(struct pnx_registry *registry, bool timed, bool *ret_in_order) {
    struct pnx_shutdown_state *state = registry->shutdown;
    bool in_order = true;
    size_t step = 0;
    state->n = 0;
    for (uint32_t s = 0; s < PNX_SHARDS; s++) {
        struct pnx_shard *shard = &registry->shard[s];
        pnx__lock(&shard->lock);
        for (uint32_t slot = shard->used; slot > 0; slot--) {
            if (timed && !pnx__shutdown_may_step(registry, step++))
                break;
            struct pnx_row *row = pnx__slot_row(shard, slot - 1);
            if (!(row->order & PNX_ROW_MEMBER))
                continue;
            struct pnx_shutdown_member *member = &state->members[state->n++];
            pnx__member_init_locked(member, row, pnx__row_word(row), pnx__shutdown_key_locked(row));
            in_order = in_order && (state->n == 1 || member[-1].key < member->key);
        }
        pnx__unlock(&shard->lock);
        if (timed && step >= STEPS && !has_time(registry))
            return false;
    }
    *ret_in_order = in_order;
    return true;
}

/* Gets room for up to n members; NULL when there is no memory for more than stand ready in the registry. */
static struct pnx_shutdown_member *get_room(
        struct pnx_registry *registry, size_t n, size_t *ret_room) {
    for (; n > PNX_SHUTDOWN_WINDOW; n /= 2) {
        /* Not zeroed, which would take its time: who makes a member writes all of it. */
        struct pnx_shutdown_member *members =
                registry->env.alloc(registry->env.ctx, n * sizeof(*members), _Alignof(max_align_t));
        *ret_room = n;
        if (members)
            return members;
    }
    return NULL;
}

/* Returns the member that is the parent of the row with this id; NULL: none. */
static struct pnx_shutdown_member *parent_of(struct pnx_registry *registry, pnx_resource_id id) {
    const struct pnx_row_label *label = pnx__row_label(registry, id);
    const struct pnx_row *row =
            label && label->parent ? pnx__row_find(registry, label->parent) : NULL;
    if (!row)
        return NULL;
    struct pnx_shard *shard = pnx__row_lock(registry, label->parent);
    bool member = (row->order & PNX_ROW_MEMBER) && /* else it had ended before its child */
                  pnx__word_id(pnx__row_word(row)) == label->parent;
    uint64_t key = pnx__shutdown_key_locked(row);
    pnx__unlock(&shard->lock);
    return member ? pnx__member_find(registry->shutdown, key) : NULL;
}

/* Finds out for a row of PNX_PRIORITY_LAST, and for those of it above, whether one of another priority is above it. */
static void find_turn(struct pnx_shutdown_member *member) {
    struct pnx_shutdown_member *above = member;
    while (above && above->turn == PNX_TURNS)
        above = above->parent;
    uint8_t turn = above && above->turn != PNX_TURN_LAST ? PNX_TURN_LATE : PNX_TURN_LAST;
    for (; member != above; member = member->parent)
        member->turn = turn;
}

/* false: time was over before. */
static bool line_up(struct pnx_registry *registry) {
    struct pnx_shutdown_state *state = registry->shutdown;
    struct pnx_shutdown_member spare;
    bool in_order;
    if (!collect_locked(registry, true, &in_order))
        return false;
    if (!in_order && !pnx__sort_while(state->members, state->n, sizeof(spare), &spare, by_key,
                             has_time, registry))
        return false;
    for (size_t i = 0; i < state->n; i++) {
        if (!pnx__shutdown_may_step(registry, i))
            return false;
        struct pnx_shutdown_member *member = &state->members[i];
        member->parent = parent_of(registry, member->id);
        if (member->parent)
            member->parent->children++;
        bool plain = member->turn == PNX_TURN_ANY;
        state->n_plain += plain;
        state->n_last += !plain;
        if (!plain)
            member->turn = PNX_TURNS; /* not known yet */
        if (member->owned) {          /* nobody's turn; the first look sees whether it is there */
            member->state = PNX_MEMBER_ELSEWHERE;
            member->next = state->elsewhere;
            state->elsewhere = member;
            state->n_elsewhere++;
            state->n_busy += plain;
        }
    }
    for (size_t i = 0; i < state->n; i++) {
        if (!pnx__shutdown_may_step(registry, i))
            return false;
        find_turn(&state->members[i]);
    }
    /* The last first: so each is smaller than all in the heap, which makes the heap a list. */
    for (size_t i = state->n; i > 0; i--) {
        if (!pnx__shutdown_may_step(registry, state->n - i))
            return false;
        pnx__member_admit_locked(registry, &state->members[i - 1]);
    }
    return true;
}

void pnx__order_complete(struct pnx_registry *registry) {
    struct pnx_shutdown_state *state = registry->shutdown;
    struct pnx_shutdown_member spare;
    bool in_order;
    pnx__mutex_lock(&state->lock);
    if (state->whole && !state->lined_up) {
        (void)collect_locked(registry, false, &in_order);
        pnx__sort(state->members, state->n, sizeof(spare), &spare, by_key);
        state->lined_up = true;
    }
    pnx__mutex_unlock(&state->lock);
}

/* Sets aside what the last look at n rows will take, by what the first one took. */
static void set_aside(struct pnx_shutdown_state *state, pnx_ns took, size_t n) {
    if (state->deadline == PNX_NEVER)
        return;
    pnx_ns most = (pnx_ns)n * LOOK_MAX_NS;
    state->deadline -= 2 * took < most ? 2 * took : most;
}

void pnx__order_begin(struct pnx_registry *registry) {
    struct pnx_shutdown_state *state = registry->shutdown;
    size_t n = 0;
    /* No partner: see pnx__registry_is_closed(). */
    pnx_fetch_or(&registry->refs, PNX_REGISTRY_CLOSED, PNX_RELAXED, "shutdown.close");
    pnx_ns began = pnx__now(&registry->env);
    pnx__shutdown_each_slot(registry, enlist_row, &n);
    state->enlisted = true;
    set_aside(state, pnx__now(&registry->env) - began, n);
    size_t room = 0;
    struct pnx_shutdown_member *members = get_room(registry, n, &room);
    uint64_t random = registry->env.random(registry->env.ctx);
    pnx__mutex_lock(&state->lock);
    state->members = members ? members : state->window;
    state->capacity = members ? room : PNX_SHUTDOWN_WINDOW;
    state->whole = state->capacity >= n;
    state->random = random;
    state->left = n;
    state->sweep = (struct pnx_shutdown_sweep){.after = UINT64_MAX, .stirred = true};
    if (state->whole) {
        state->lined_up = line_up(registry);
        for (uint32_t i = 0; i < PNX_TURNS && !state->lined_up; i++)
            state->ready[i] = NULL; /* who is there could come before its child, or before others */
    }
    pnx__mutex_unlock(&state->lock);
}
