/* SPDX-License-Identifier: Apache-2.0 */
/* pool_order.c - counts grants out of turn by going through all of them in the order of their times. */
#include "pool_order.h"

#include <stdlib.h>

struct grant {
    int64_t asked;
    int64_t got;
    unsigned thread;
};

static int by_got(const void *a, const void *b) {
    int64_t x = ((const struct grant *)a)->got, y = ((const struct grant *)b)->got;
    return x < y ? -1 : x > y;
}

static int by_time(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return x < y ? -1 : x > y;
}

static void *array_of(size_t n, size_t size) {
    void *array = calloc(n + 1, size);
    if (!array)
        abort();
    return array;
}

/* How many that had asked well before then are in a call that has not returned; next: each thread's first such turn. */
static size_t waiting_before(
        const struct pool_log *logs, const size_t *next, unsigned threads, int64_t then) {
    size_t waiting = 0;
    for (unsigned i = 0; i < threads; i++) {
        const struct pool_turn *turn = &logs[i].turns[next[i]];
        waiting +=
                next[i] < logs[i].n && !turn->unsure && turn->asked + POOL_ORDER_MARGIN_NS < then;
    }
    return waiting;
}

uint64_t pool_order_inversions(const struct pool_log *logs, unsigned threads, unsigned size) {
    size_t all = 0;
    for (unsigned i = 0; i < threads; i++)
        all += logs[i].n;
    struct grant *grants = array_of(all, sizeof(*grants));
    int64_t *backs = array_of(all, sizeof(*backs));
    size_t *next = array_of(threads, sizeof(*next));
    all = 0;
    for (unsigned i = 0; i < threads; i++) {
        for (size_t j = 0; j < logs[i].n; j++) {
            const struct pool_turn *turn = &logs[i].turns[j];
            grants[all] = (struct grant){.asked = turn->asked, .got = turn->got, .thread = i};
            backs[all++] = turn->back;
        }
    }
    qsort(grants, all, sizeof(*grants), by_got);
    qsort(backs, all, sizeof(*backs), by_time);

    uint64_t inversions = 0;
    size_t released = 0;
    for (size_t granted = 0; granted < all; granted++) {
        const struct grant *grant = &grants[granted];
        next[grant->thread]++;
        while (released < all && backs[released] <= grant->got)
            released++;
        size_t free_ones = size + released - (granted + 1);
        inversions += waiting_before(logs, next, threads, grant->asked) > free_ones;
    }
    free(grants);
    free(backs);
    free(next);
    return inversions;
}
