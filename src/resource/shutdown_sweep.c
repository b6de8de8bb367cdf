/* SPDX-License-Identifier: Apache-2.0 */
/*
 * resource/shutdown_sweep.c - whose turn it is when there is no memory for an array of all rows.
 *
 * Then the members are a window: the first rows in order that are to be ended, and when they have had their turn, the
 * first ones behind them, and so on.  A sweep is one way from the first row to the last.  What could not be ended,
 * because a child had not, or because it returned -EAGAIN, has its turn in a later sweep.  Each window costs two looks at
 * all rows, which is dear, and better than not to shut down.
 *
 *   P1  A row becomes a member only if it is live, not owned, and has a cleanup or had no turn yet.
 *   P2  A member that has a child which has not ended has no turn in this window: children outside of the window
 *       count, and never end in it.
 *   P3  A sweep begins only when a row has ended, or changed, since the last one began, or one is to be tried again, or
 *       the last part of the time has begun.
 *   P4  Rows of PNX_PRIORITY_LAST come at the end of a sweep, in windows of their own, and only when no other row is
 *       left; or, those below one, when nothing has come of the sweep, so that all others that are left wait for such
 *       as they.  In the last part of the time they come first.
 */
#include "registry/sort.h"
#include "resource/shutdown.h"

static bool is_last_locked(const struct pnx_row *row) {
    return pnx__row_priority(row) == PNX_PRIORITY_LAST;
}

/* By serial number alone, but for rows that are ended last, or at the end of the time first. */
static uint64_t key_locked(const struct pnx_shutdown_sweep *sweep, const struct pnx_row *row) {
    uint64_t key = pnx__shutdown_key_locked(row);
    uint64_t rank = UINT64_C(15) << PNX_SHUTDOWN_RANK_SHIFT;
    return is_last_locked(row) != sweep->last_first ? key | rank : key & ~rank;
}

/* Whether the shutdown has still to wait for the row. */
static bool is_open_locked(const struct pnx_row *row, uint64_t word) {
    return row->order & PNX_ROW_MEMBER && pnx__word_is_there(word) &&
           pnx__row_outcome(row) != PNX_OUTCOME_PASSED;
}

static bool by_key(const void *a, const void *b) {
    const struct pnx_shutdown_member *x = a, *y = b;
    return x->key < y->key;
}

/* Keeps the row if its key is among the smallest so far: a full window is a heap with the largest at its top. */
static void keep_locked(
        struct pnx_shutdown_state *state, struct pnx_row *row, uint64_t word, uint64_t key) {
    struct pnx_shutdown_member *members = state->members, spare;
    size_t n = state->capacity;
    if (state->n == n) {
        if (key > members[0].key)
            return;
        pnx__member_init_locked(&members[0], row, word, key);
        pnx__sort_sift(members, 0, n, sizeof(spare), &spare, by_key);
        return;
    }
    pnx__member_init_locked(&members[state->n++], row, word, key);
    if (state->n == n) {
        for (size_t i = n / 2; i > 0; i--)
            pnx__sort_sift(members, i - 1, n, sizeof(spare), &spare, by_key);
    }
}

static void gather_row(void *ctx, struct pnx_row *row, uint64_t word) {
    struct pnx_shutdown_state *state = ctx;
    struct pnx_shutdown_sweep *sweep = &state->sweep;
    if (!is_open_locked(row, word))
        return;
    bool ours = pnx__word_state(word) == PNX_ROW_LIVE && !(row->order & PNX_ROW_OWNED);
    bool again = pnx__row_outcome(row) == PNX_OUTCOME_AGAIN;
    state->left++;
    if (is_last_locked(row))
        state->n_last++;
    else if (ours && !again)
        sweep->idle++;
    else
        sweep->busy++;
    uint64_t key = key_locked(sweep, row);
    if (ours && key > sweep->after && (!again || sweep->retries))
        keep_locked(state, row, word, key);
}

/* Members that are running keep what is known about them when their places are given to others. */
static void save_running(struct pnx_shutdown_state *state) {
    for (uint32_t i = 0; i < PNX_SHUTDOWN_WORKERS; i++) {
        struct pnx_shutdown_worker *worker = &state->workers[i];
        if (!worker->member || worker->member == &worker->own)
            continue;
        worker->own = *worker->member;
        worker->own.parent = NULL; /* it is counted anew, as long as this one is there */
        worker->member = &worker->own;
    }
}

/* Reads a row's key; false when the shutdown has not to wait for it. */
static bool read_open(struct pnx_registry *registry, const struct pnx_row *row, pnx_resource_id id,
        uint64_t *ret_key) {
    struct pnx_shard *shard = pnx__row_lock(registry, id);
    uint64_t word = pnx__row_word(row);
    bool open = pnx__word_id(word) == id && is_open_locked(row, word);
    *ret_key = key_locked(&registry->shutdown->sweep, row);
    pnx__unlock(&shard->lock);
    return open;
}

/* Whether a row of another priority waits for this one. */
static bool is_below_another(struct pnx_registry *registry, pnx_resource_id id) {
    for (;;) {
        const struct pnx_row_label *label = pnx__row_label(registry, id);
        const struct pnx_row *above =
                label && label->parent ? pnx__row_find(registry, label->parent) : NULL;
        uint64_t key;
        if (!above || !read_open(registry, above, label->parent, &key))
            return false;
        if (key >> PNX_SHUTDOWN_RANK_SHIFT == 0)
            return true;
        id = label->parent;
    }
}

/* Of a window of rows of PNX_PRIORITY_LAST keeps those that may start (P4). */
static void keep_those_who_may(struct pnx_registry *registry, bool calm) {
    struct pnx_shutdown_state *state = registry->shutdown;
    const struct pnx_shutdown_sweep *sweep = &state->sweep;
    if (sweep->busy == 0 && sweep->idle == 0)
        return;
    size_t n = 0;
    for (size_t i = 0; sweep->busy == 0 && calm && i < state->n; i++) {
        if (is_below_another(registry, state->members[i].id))
            state->members[n++] = state->members[i];
    }
    state->n = n;
}

/* calm: nothing has changed since the sweep began. */
static void gather_locked(struct pnx_registry *registry, bool calm) {
    struct pnx_shutdown_state *state = registry->shutdown;
    struct pnx_shutdown_sweep *sweep = &state->sweep;
    struct pnx_shutdown_member spare;
    save_running(state);
    state->n = state->left = state->n_last = 0;
    sweep->idle = sweep->busy = 0;
    pnx__shutdown_each_slot(registry, gather_row, state);
    pnx__sort(state->members, state->n, sizeof(spare), &spare, by_key);
    bool more = state->n == state->capacity;
    if (!sweep->last_first) {
        size_t plain = 0;
        while (plain < state->n && state->members[plain].turn == PNX_TURN_ANY)
            plain++;
        if (plain) { /* the others come when it has been seen what becomes of these */
            more |= plain < state->n;
            state->n = plain;
        }
    }
    sweep->after = more ? state->members[state->n - 1].key : UINT64_MAX;
    if (!sweep->last_first && state->n && state->members[0].turn != PNX_TURN_ANY)
        keep_those_who_may(registry, calm);
}

/* Has the row's parent wait for it. */
static void link_row_locked(struct pnx_registry *registry, const struct pnx_row *row) {
    struct pnx_shutdown_state *state = registry->shutdown;
    uint64_t word = pnx__row_word(row);
    /* What a row says is fixed once the registry is closed. */
    const struct pnx_row_label *label =
            pnx__word_is_there(word) ? pnx__row_label(registry, pnx__word_id(word)) : NULL;
    if (!label || !label->parent)
        return;
    const struct pnx_row *above = pnx__row_find(registry, label->parent);
    uint64_t key, above_key;
    if (!above || !read_open(registry, row, pnx__word_id(word), &key) ||
            !read_open(registry, above, label->parent, &above_key))
        return;
    struct pnx_shutdown_member *parent = pnx__member_find(state, above_key);
    struct pnx_shutdown_member *member = pnx__member_find(state, key);
    if (!parent)
        return;
    parent->children++;
    if (member)
        member->parent = parent;
}

static void link_locked(struct pnx_registry *registry) {
    for (uint32_t s = 0; s < PNX_SHARDS; s++) {
        const struct pnx_shard *shard = &registry->shard[s];
        /* used is fixed since the registry was closed and the shard's lock was taken after it. */
        for (uint32_t slot = 0; slot < shard->used; slot++)
            link_row_locked(registry, pnx__slot_row(shard, slot));
    }
}

/* Begins another sweep if that may lead to anything. */
static bool begin_sweep(struct pnx_shutdown_sweep *sweep, uint32_t seen, pnx_ns now) {
    bool due = sweep->again && now >= sweep->retry_at;
    if (!sweep->stirred && sweep->changed == seen && !due)
        return false;
    sweep->after = 0;
    sweep->changed = seen;
    sweep->stirred = false;
    sweep->retries = due;
    if (due) {
        sweep->again = false;
        if (sweep->tries < UINT8_MAX)
            sweep->tries++;
    }
    return true;
}

bool pnx__sweep_is_over_locked(const struct pnx_shutdown_state *state, pnx_ns now) {
    return now >= state->last_at && state->n_last > 0 && !state->sweep.last_first;
}

/* When to look by oneself, if not because of rows of PNX_PRIORITY_LAST before. */
static pnx_ns or_last(const struct pnx_shutdown_state *state, pnx_ns now, pnx_ns next) {
    bool first = state->n_last > 0 && now < state->last_at && state->last_at < next;
    return first ? state->last_at : next;
}

pnx_ns pnx__sweep_locked(struct pnx_registry *registry, uint32_t seen, pnx_ns now) {
    struct pnx_shutdown_state *state = registry->shutdown;
    struct pnx_shutdown_sweep *sweep = &state->sweep;
    pnx__mutex_assert_held(&state->lock);
    if (!state->active && pnx__sweep_is_over_locked(state, now)) {
        state->ready[PNX_TURN_ANY] = NULL;
        sweep->last_first = true;
        sweep->stirred = true;
        sweep->after = UINT64_MAX;
    }
    if (state->ready[PNX_TURN_ANY] || state->active)
        return or_last(state, now, PNX_NEVER); /* the window is not through: the worker tells */
    if (sweep->after == UINT64_MAX && !begin_sweep(sweep, seen, now))
        return or_last(state, now, sweep->again ? sweep->retry_at : PNX_NEVER);
    gather_locked(registry, !sweep->stirred && sweep->changed == seen);
    link_locked(registry);
    for (size_t i = state->n; i > 0; i--)
        pnx__member_admit_locked(registry, &state->members[i - 1]);
    return state->ready[PNX_TURN_ANY] ? or_last(state, now, PNX_NEVER) : now;
}
