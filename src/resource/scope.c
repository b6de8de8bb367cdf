/* SPDX-License-Identifier: Apache-2.0 */
/*
 * resource/scope.c - an explicit stack of cleanups.
 *
 * Entries 0..PNX_SCOPE_INLINE-1 are in the scope itself, the rest in chunks, topmost first.  An empty chunk goes
 * to the list of spares, and from there to the stack again; all are freed by pnx_scope_end().
 *
 *   P1  An entry is popped before it runs, so that cleanups may push, unwind and end the scope they are in.
 *   P2  No entry is lost: a push that finds no memory changes nothing.
 */
#include "base/env.h"
#include "os/mutex.h"

#include <patinox/guard.h>

#define CHUNK_ENTRIES 32

struct pnx_scope_chunk {
    struct pnx_scope_chunk *next;
    struct pnx_env env; /* what it is freed with */
    struct pnx_scope_entry entries[CHUNK_ENTRIES];
};

void pnx_scope_begin(struct pnx_scope *scope, const struct pnx_env *env) {
    if (scope)
        *scope = (struct pnx_scope){.env = env};
}

static int add_spare(struct pnx_scope *scope) {
    struct pnx_env env;
    int rc = pnx__env_resolve(scope->env, NULL, &env);
    if (rc)
        return -EINVAL;
    struct pnx_scope_chunk *chunk = pnx__alloc(&env, 1, sizeof(*chunk));
    if (!chunk)
        return -ENOMEM;
    chunk->env = env;
    chunk->next = scope->spare;
    scope->spare = chunk;
    return 0;
}

/* The index in the topmost chunk of entry number i, which is not an inline one. */
static size_t in_chunk(size_t i) {
    return (i - PNX_SCOPE_INLINE) % CHUNK_ENTRIES;
}

int pnx_scope_push(
        struct pnx_scope *scope, enum pnx_scope_when when, pnx_cleanup_fn *fn, void *arg) {
    if (!scope || !fn || (unsigned)when > PNX_SCOPE_ON_SUCCESS)
        return -EINVAL;
    struct pnx_scope_entry *entry;
    if (scope->count < PNX_SCOPE_INLINE) {
        entry = &scope->entries[scope->count];
    } else {
        if (in_chunk(scope->count) == 0) {
            int rc = scope->spare ? 0 : add_spare(scope);
            if (rc)
                return rc;
            struct pnx_scope_chunk *chunk = scope->spare;
            scope->spare = chunk->next;
            chunk->next = scope->chunk;
            scope->chunk = chunk;
        }
        entry = &scope->chunk->entries[in_chunk(scope->count)];
    }
    *entry = (struct pnx_scope_entry){.fn = fn, .arg = arg, .when = when};
    scope->count++;
    return 0;
}

static struct pnx_scope_entry pop(struct pnx_scope *scope) {
    scope->count--;
    if (scope->count < PNX_SCOPE_INLINE)
        return scope->entries[scope->count];
    struct pnx_scope_chunk *chunk = scope->chunk;
    if (in_chunk(scope->count) == 0) {
        scope->chunk = chunk->next;
        chunk->next = scope->spare;
        scope->spare = chunk;
    }
    return chunk->entries[in_chunk(scope->count)];
}

int pnx_scope_reserve(struct pnx_scope *scope, size_t n) {
    if (!scope)
        return -EINVAL;
    size_t room = scope->count < PNX_SCOPE_INLINE ? PNX_SCOPE_INLINE - scope->count
                  : in_chunk(scope->count)        ? CHUNK_ENTRIES - in_chunk(scope->count)
                                                  : 0;
    for (const struct pnx_scope_chunk *chunk = scope->spare; chunk; chunk = chunk->next)
        room += CHUNK_ENTRIES;
    while (room < n) {
        int rc = add_spare(scope);
        if (rc)
            return rc;
        room += CHUNK_ENTRIES;
    }
    return 0;
}

int pnx_scope_fail(struct pnx_scope *scope, int code) {
    if (!scope)
        return -EINVAL;
    scope->failed = true;
    return code;
}

/* count << 1 | failed: nothing that a program can push comes near the top bit. */
pnx_scope_position pnx_scope_mark(const struct pnx_scope *scope) {
    return scope ? scope->count << 1 | (scope->failed ? 1 : 0) : 0;
}

int pnx_scope_unwind(struct pnx_scope *scope, pnx_scope_position mark) {
    if (!scope || mark >> 1 > scope->count)
        return -EINVAL;
    int first = 0;
    while (scope->count > mark >> 1) {
        struct pnx_scope_entry entry = pop(scope);
        if (entry.when == (scope->failed ? PNX_SCOPE_ON_SUCCESS : PNX_SCOPE_ON_ERROR))
            continue;
        pnx__mutex_assert_none_held();
        int rc = entry.fn(entry.arg, NULL);
        if (rc && !first)
            first = rc > 0 || rc == -EINPROGRESS ? -EINVAL : rc;
    }
    scope->failed = mark & 1;
    return first;
}

int pnx_scope_end(struct pnx_scope *scope) {
    int rc = pnx_scope_unwind(scope, 0);
    while (scope && scope->spare) {
        struct pnx_scope_chunk *chunk = scope->spare;
        scope->spare = chunk->next;
        struct pnx_env env = chunk->env;
        pnx__free(&env, chunk, 1, sizeof(*chunk));
    }
    return rc;
}

void pnx_scope_drop(struct pnx_scope *scope) {
    pnx_scope_end(scope);
}
