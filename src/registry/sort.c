/* SPDX-License-Identifier: Apache-2.0 */
/*
 * registry/sort.c - sorting in place, since qsort may allocate behind the env's back.
 *
 * Quicksort, which is fast and does little when the order is nearly right; a part that it does not divide well is
 * given to heapsort, so that n elements never take more than some n log n steps (Musser's introsort, 1997).
 */
#include "registry/sort.h"

#include <string.h>

#define SMALL 12   /* so few are sorted by insertion */
#define STEPS 4096 /* comparisons from one look at go_on to the next, about */

/* What is sorted: elements of some size. */
struct sorting {
    char *base;
    size_t size;
    void *spare;
    pnx_before_fn *before;
    bool (*go_on)(void *ctx); /* NULL: to the end */
    void *ctx;
    size_t left; /* steps until the next look */
    bool over;
};

/* Whether to leave all as it is.  Whatever is under way only swaps elements: none is lost. */
static bool is_over(struct sorting *s, size_t steps) {
    if (!s->go_on || s->over)
        return s->over;
    if (s->left > steps) {
        s->left -= steps;
        return false;
    }
    s->left = STEPS;
    s->over = !s->go_on(s->ctx);
    return s->over;
}

static char *at(const struct sorting *s, size_t i) {
    return s->base + i * s->size;
}

static bool precedes(const struct sorting *s, size_t i, size_t k) {
    return s->before(at(s, i), at(s, k));
}

static void swap(const struct sorting *s, size_t i, size_t k) {
    if (i == k)
        return;
    memcpy(s->spare, at(s, i), s->size);
    memcpy(at(s, i), at(s, k), s->size);
    memcpy(at(s, k), s->spare, s->size);
}

void pnx__sort_sift(
        void *array, size_t i, size_t n, size_t size, void *spare, pnx_before_fn *before) {
    const struct sorting s = {.base = array, .size = size, .spare = spare, .before = before};
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= n)
            return;
        if (child + 1 < n && precedes(&s, child, child + 1))
            child++;
        if (!precedes(&s, i, child))
            return;
        swap(&s, i, child);
        i = child;
    }
}

static void heapsort(struct sorting *s, size_t n) {
    for (size_t i = n / 2; i > 0 && !is_over(s, 16); i--)
        pnx__sort_sift(s->base, i - 1, n, s->size, s->spare, s->before);
    for (size_t end = n; end > 1 && !is_over(s, 32); end--) {
        swap(s, 0, end - 1);
        pnx__sort_sift(s->base, 0, end - 1, s->size, s->spare, s->before);
    }
}

static void insertion_sort(const struct sorting *s, size_t n) {
    for (size_t i = 1; i < n; i++) {
        size_t to = i;
        while (to > 0 && s->before(at(s, i), at(s, to - 1)))
            to--;
        if (to == i)
            continue;
        memcpy(s->spare, at(s, i), s->size);
        memmove(at(s, to + 1), at(s, to), (i - to) * s->size);
        memcpy(at(s, to), s->spare, s->size);
    }
}

/* Parts the elements at one of them, which comes to stand where it is returned; none behind precedes it. */
static size_t part(struct sorting *s, size_t n) {
    size_t middle = n / 2, last = n - 1;
    if (precedes(s, middle, 0))
        swap(s, middle, 0);
    if (precedes(s, last, middle)) {
        swap(s, last, middle);
        if (precedes(s, middle, 0))
            swap(s, middle, 0);
    }
    /* Now the first is none too large, and the last none too small: both ends are guards for what follows. */
    swap(s, middle, 1); /* the pivot */
    size_t i = 1, k = last;
    for (;;) {
        do
            i++;
        while (i < last && precedes(s, i, 1) && !is_over(s, 1));
        do
            k--;
        while (precedes(s, 1, k) && !is_over(s, 1));
        if (i >= k || s->over)
            break;
        swap(s, i, k);
    }
    swap(s, 1, k);
    return k;
}

void pnx__sort(void *array, size_t n, size_t size, void *spare, pnx_before_fn *before) {
    (void)pnx__sort_while(array, n, size, spare, before, NULL, NULL);
}

bool pnx__sort_while(void *array, size_t n, size_t size, void *spare, pnx_before_fn *before,
        bool (*go_on)(void *ctx), void *ctx) {
    struct {
        char *base;
        size_t n;
        unsigned depth;
    } todo[sizeof(size_t) *
            8]; /* the larger parts: each time one is put aside, n is halved at least */
    unsigned n_todo = 0, depth = 0;
    for (size_t k = n; k > 1; k /= 2)
        depth += 2;
    struct sorting s = {.base = array,
            .size = size,
            .spare = spare,
            .before = before,
            .go_on = go_on,
            .ctx = ctx,
            .left = STEPS};
    for (;;) {
        while (n > SMALL && depth > 0) {
            size_t pivot = part(&s, n);
            if (s.over)
                return false;
            size_t behind = n - pivot - 1;
            char *second = at(&s, pivot + 1);
            depth--;
            /* Goes on with the smaller part. */
            todo[n_todo].depth = depth;
            if (pivot < behind) {
                todo[n_todo].base = second;
                todo[n_todo++].n = behind;
                n = pivot;
            } else {
                todo[n_todo].base = s.base;
                todo[n_todo++].n = pivot;
                s.base = second;
                n = behind;
            }
        }
        if (n > SMALL)
            heapsort(&s, n);
        else
            insertion_sort(&s, n);
        if (is_over(&s, SMALL * SMALL / 4))
            return false;
        if (n_todo == 0)
            return true;
        n_todo--;
        s.base = todo[n_todo].base;
        n = todo[n_todo].n;
        depth = todo[n_todo].depth;
    }
}
