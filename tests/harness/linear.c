/* SPDX-License-Identifier: Apache-2.0 */
#include "harness/linear.h"

#include "harness/harness.h"

#define WORDS (LINEAR_OPS_MAX / 64)

/* What is done, and the object's state then. */
struct node {
    uint64_t done[WORDS];
    unsigned char state[LINEAR_STATE_MAX];
};

static struct {
    const struct linear_history *history;
    struct node *seen;
    bool *used;
    size_t size; /* a power of two */
    size_t count;
} search;

unsigned linear_add(struct linear_history *history, uint64_t begun, uint64_t ended) {
    CHECK(history->n < LINEAR_OPS_MAX);
    history->begun[history->n] = begun;
    history->ended[history->n] = ended;
    return history->n++;
}

static bool is_done(const struct node *node, unsigned op) {
    return node->done[op / 64] >> (op % 64) & 1;
}

static uint64_t hash_of(const struct node *node) {
    uint64_t words[sizeof(*node) / 8], hash = 0;
    memcpy(words, node, sizeof(*node));
    for (size_t i = 0; i < sizeof(*node) / 8; i++) {
        hash = (hash ^ words[i]) * UINT64_C(0x9E3779B97F4A7C15);
        hash ^= hash >> 29;
    }
    return hash;
}

static void grow(size_t size) {
    struct node *seen = search.seen;
    bool *used = search.used;
    size_t old = search.size;
    search.size = size;
    search.seen = malloc(size * sizeof(*search.seen));
    search.used = calloc(size, sizeof(*search.used));
    CHECK(search.seen && search.used);
    for (size_t k = 0; k < old; k++) {
        size_t i = hash_of(&seen[k]) & (size - 1);
        if (!used[k])
            continue;
        while (search.used[i])
            i = (i + 1) & (size - 1);
        search.used[i] = true;
        search.seen[i] = seen[k];
    }
    free(seen);
    free(used);
}

/* Remembers a node; false when it was there. */
static bool first_time(const struct node *node) {
    if (2 * search.count >= search.size)
        grow(search.size ? 2 * search.size : 1024);
    for (size_t i = hash_of(node) & (search.size - 1);; i = (i + 1) & (search.size - 1)) {
        if (!search.used[i]) {
            search.count++;
            search.used[i] = true;
            search.seen[i] = *node;
            return true;
        }
        if (memcmp(&search.seen[i], node, sizeof(*node)) == 0)
            return false;
    }
}

static bool leads_to_the_end(const struct node *node) {
    const struct linear_history *history = search.history;
    uint64_t soonest = UINT64_MAX; /* the first return of those that are left: none may follow it */
    for (unsigned i = 0; i < history->n; i++)
        if (!is_done(node, i) && history->ended[i] < soonest)
            soonest = history->ended[i];
    if (soonest == UINT64_MAX)
        return true;
    if (!first_time(node))
        return false;
    for (unsigned i = 0; i < history->n; i++) {
        if (is_done(node, i) || history->begun[i] > soonest)
            continue;
        struct node next = *node;
        if (!history->apply(history->ctx, i, next.state))
            continue;
        next.done[i / 64] |= UINT64_C(1) << (i % 64);
        if (leads_to_the_end(&next))
            return true;
    }
    return false;
}

bool linear_explains(const struct linear_history *history, const void *start) {
    struct node first = {{0}, {0}};
    CHECK(history->state_size <= LINEAR_STATE_MAX);
    memcpy(first.state, start, history->state_size);
    search.history = history;
    search.count = 0;
    if (search.used)
        memset(search.used, 0, search.size * sizeof(*search.used));
    return leads_to_the_end(&first);
}
