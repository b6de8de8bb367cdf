/* SPDX-License-Identifier: Apache-2.0 */
/*
 * registry/stacks.c - the different backtraces of a registry: each is kept once, and named by a number.
 *
 * A table with open addressing that never grows and from which nothing is removed: rows that are gone leave their
 * stacks to those that come by the same way.  Half as many stacks as places, so that probes stay short.
 *
 *   P1  A number, once given, means the same stack for as long as the registry lives.
 */
#include "base/env.h"
#include "base/hash.h"
#include "registry/trace.h"

#include <string.h>

#ifdef PNX_EXPLORE
#define STACKS_MAX 1 /* the explorer remembers what happened to each byte */
#else
#define STACKS_MAX PNX_TRACE_STACKS
#endif
#define PLACES (2 * STACKS_MAX)

struct stack {
    uint32_t n; /* frames; 0: a free place */
    void *frames[PNX_TRACE_FRAMES];
};

/* Guarded by the registry's stacks_lock. */
struct pnx_stacks {
    uint32_t count;
    struct stack place[PLACES];
};

static struct pnx_stacks *stacks_of(struct pnx_registry *registry) {
    return pnx_load(&registry->stacks, PNX_ACQUIRE, "stacks.found"); /* pairs with stacks.made */
}

static struct pnx_stacks *make(struct pnx_registry *registry) {
    struct pnx_stacks *made = pnx__alloc(&registry->env, 1, sizeof(*made));
    if (!made)
        return NULL;
    void *found = NULL;
    /* Release: pairs with stacks.found; acquire where it fails: the set is another thread's. */
    if (pnx_cas_acquire(&registry->stacks, &found, made, PNX_RELEASE, "stacks.made"))
        return made;
    pnx__free(&registry->env, made, 1, sizeof(*made));
    return found;
}

static bool equals(const struct stack *stack, void *const *frames, uint32_t n) {
    return stack->n == n && memcmp(stack->frames, frames, n * sizeof(*frames)) == 0;
}

uint32_t pnx__stack_keep(struct pnx_registry *registry, void *const *frames, uint32_t n) {
    struct pnx_stacks *stacks = stacks_of(registry);
    if (!stacks)
        stacks = make(registry);
    if (!stacks || n == 0)
        return 0;
    uint32_t at = (uint32_t)(pnx__hash(0, frames, n * sizeof(*frames)) % PLACES);
    uint32_t number = 0;
    pnx__mutex_lock(&registry->stacks_lock);
    for (;; at = (at + 1) % PLACES) {
        struct stack *stack = &stacks->place[at];
        if (stack->n == 0) {
            if (stacks->count == STACKS_MAX)
                break;
            stacks->count++;
            stack->n = n;
            memcpy(stack->frames, frames, n * sizeof(*frames));
        }
        if (equals(stack, frames, n)) {
            number = at + 1;
            break;
        }
    }
    pnx__mutex_unlock(&registry->stacks_lock);
    return number;
}

uint32_t pnx__stack_copy(
        struct pnx_registry *registry, uint32_t number, void *ret_frames[PNX_TRACE_FRAMES]) {
    struct pnx_stacks *stacks = stacks_of(registry);
    if (!stacks || number == 0)
        return 0;
    pnx__mutex_lock(&registry->stacks_lock);
    const struct stack *stack = &stacks->place[number - 1];
    uint32_t n = stack->n;
    memcpy(ret_frames, stack->frames, n * sizeof(*ret_frames));
    pnx__mutex_unlock(&registry->stacks_lock);
    return n;
}

void pnx__stacks_free(struct pnx_registry *registry) {
    struct pnx_stacks *stacks = registry->stacks.v;
    if (!stacks)
        return;
    pnx__free(&registry->env, stacks, 1, sizeof(*stacks));
}
