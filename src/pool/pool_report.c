/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pool/pool_report.c - the pool's numbers, and its state as text.
 *
 *   R1  Reading the numbers takes no lock; writing the text calls nobody under the lock.
 */
#include "pool/pool.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* What the short way does is told by the slots: how often each was granted, and who has it. */
void pnx__pool_refresh(const struct pnx_stats_block *block) {
    struct pnx_pool *pool = PNX_CONTAINER(block, struct pnx_pool, block);
    uint64_t acquires = 0, idle = 0, in_use = 0;
    /* pairs with pool.chunks_push */
    struct pnx__pool_chunk *chunk = pnx_load(&pool->chunks, PNX_ACQUIRE, "pool_report.refresh");
    for (; chunk; chunk = chunk->next) {
        for (uint32_t i = 0; i < chunk->n; i++) {
            /* each by itself */
            uint64_t word =
                    pnx_load(&chunk->slots[i].word, PNX_RELAXED, "pool_report.refresh_word");
            acquires += word / PNX__POOL_GENERATION;
            idle += (word & PNX__POOL_STATE_MASK) == PNX__POOL_IDLE;
            in_use += (word & PNX__POOL_STATE_MASK) == PNX__POOL_IN_USE;
        }
    }
    /* numbers, which need no order */
    pnx_store(&pool->core.stats[PNX__POOL_STAT_acquires], acquires, PNX_RELAXED,
            "pool_report.acquires");
    pnx_store(&pool->core.stats[PNX__POOL_STAT_idle], idle, PNX_RELAXED, "pool_report.idle");
    pnx_store(&pool->core.stats[PNX__POOL_STAT_in_use], in_use, PNX_RELAXED, "pool_report.in_use");
}

int pnx_pool_read_stats(const struct pnx_pool *pool, struct pnx_pool_stats *ret_stats) {
    if (!pool || !ret_stats || ret_stats->size < sizeof(size_t))
        return -EINVAL;
    struct pnx_pool_stats stats;
    uint64_t *values =
            (uint64_t *)(void *)((char *)&stats + offsetof(struct pnx_pool_stats, acquires));
    size_t n = ret_stats->size < sizeof(stats) ? ret_stats->size : sizeof(stats);
    stats.size = n;
    pnx__pool_refresh(&pool->block);
    for (int i = 0; i < PNX__POOL_STATS; i++) /* each number by itself */
        values[i] = pnx_load(&pool->core.stats[i], PNX_RELAXED, "pool_report.stats");
    memcpy(ret_stats, &stats, n);
    return 0;
}

struct slot_copy {
    uint64_t word;
    void *resource;
    uint32_t index;
    bool overdue;
    pnx_ns born_at;
    pnx_ns job_since;
    pnx_ns used_at;
    const char *site;
    uint64_t tag;
};

struct copy {
    uint32_t n_slots;
    uint32_t n[PNX__POOL_STATES];
    uint32_t max, size, waiting, threads, failures, window;
    bool closing, paused, breaker;
    pnx_ns now, retry_at, next_timer;
    struct pnx__pool_failure failure;
};

static void copy_slots_locked(const struct pnx_pool *pool, struct slot_copy *slots, uint32_t room) {
    /* the lock orders writers */
    const struct pnx__pool_chunk *chunk =
            pnx_load(&pool->chunks, PNX_RELAXED, "pool_report.chunks");
    for (; chunk; chunk = chunk->next) {
        for (uint32_t i = 0; i < chunk->n; i++) {
            const struct pnx_slot *slot = &chunk->slots[i];
            if (slot->index >= room)
                continue; /* the pool grew meanwhile */
            slots[slot->index] = (struct slot_copy){
                    .word = pnx_load(&slot->word, PNX_RELAXED, "pool_report.word"),
                    .resource = pnx_load(&slot->resource, PNX_RELAXED, "pool_report.resource"),
                    .index = slot->index,
                    .overdue = slot->flags & PNX__POOL_OVERDUE,
                    .born_at = slot->born_at,
                    .job_since = slot->job_since,
                    .used_at = pnx__pool_used_at(slot),
                    .site = pnx_load(&slot->site, PNX_RELAXED, "pool_report.site"),
                    .tag = pnx_load(&slot->tag, PNX_RELAXED, "pool_report.tag"),
            };
        }
    }
}

static void copy_locked(const struct pnx_pool *pool, struct copy *ret_copy) {
    const struct pnx__pool_core *core = &pool->core;
    *ret_copy = (struct copy){
            .max = core->max,
            .size = core->size,
            .waiting = core->waiting,
            .threads = pool->threads,
            .failures = core->failures,
            .window = core->window,
            .closing = core->closing,
            .paused = core->paused,
            .breaker = core->breaker,
            .now = core->now,
            .retry_at = core->retry_at,
            .next_timer = core->next_timer,
            .failure = core->failure,
    };
    pnx__pool_core_count(core, ret_copy->n);
}

static double seconds(pnx_ns ns) {
    return (double)ns / (double)PNX_SEC;
}

static int write_text(pnx_write_fn *write, void *ctx, const char *text, int n, size_t room) {
    if (n < 0)
        return -EINVAL;
    size_t length = (size_t)n < room ? (size_t)n : room - 1;
    int rc = write(ctx, text, length);
    return rc < 0 ? rc : 0;
}

static const char *state_of(const struct copy *copy) {
    if (copy->closing)
        return " (closed)";
    if (copy->breaker)
        return " (breaker open)";
    return copy->paused ? " (paused)" : "";
}

static int write_head(
        const struct pnx_pool *pool, const struct copy *copy, pnx_write_fn *write, void *ctx) {
    char text[640];
    const uint32_t *n = copy->n;
    int length = snprintf(text, sizeof(text),
            "pool \"%.64s\"%s: %" PRIu32 " of %" PRIu32 ": %" PRIu32 " in use, %" PRIu32
            " idle, %" PRIu32 " connecting, %" PRIu32 " checking, %" PRIu32 " closing; %" PRIu32
            " waiting, %" PRIu32 " threads\n",
            pool->name, state_of(copy), copy->size, copy->max, n[PNX__POOL_IN_USE],
            n[PNX__POOL_IDLE], n[PNX__POOL_CONNECTING], n[PNX__POOL_CHECKING], n[PNX__POOL_CLOSING],
            copy->waiting, copy->threads);
    int rc = write_text(write, ctx, text, length, sizeof(text));
    if (rc || !copy->failure.code)
        return rc;
    char next[32] = "when it is needed";
    if (copy->retry_at > copy->now)
        snprintf(next, sizeof(next), "in %.3f s", seconds(copy->retry_at - copy->now));
    length = snprintf(text, sizeof(text),
            "  last connect error %.3f s ago: %s; %" PRIu32 " failed in a row, next connect %s\n",
            seconds(copy->now - copy->failure.at), copy->failure.message, copy->failures, next);
    return write_text(write, ctx, text, length, sizeof(text));
}

static int write_slot(const struct slot_copy *slot, pnx_ns now, pnx_write_fn *write, void *ctx) {
    static const char *const names[PNX__POOL_STATES] = {
            "empty", "connecting", "idle", "in use", "checking", "closing"};
    unsigned state = (unsigned)(slot->word & PNX__POOL_STATE_MASK);
    bool working = state == PNX__POOL_CONNECTING || state == PNX__POOL_CHECKING;
    char text[512], who[192] = "";
    if (state == PNX__POOL_EMPTY || state >= PNX__POOL_STATES)
        return 0;
    if (state == PNX__POOL_IN_USE && slot->site)
        snprintf(who, sizeof(who), ", taken at %.120s (tag %" PRIu64 ")", slot->site, slot->tag);
    pnx_ns since = working ? slot->job_since : slot->used_at;
    int length = snprintf(text, sizeof(text),
            "  slot %" PRIu32 ": %s%s%s for %.3f s, grant %" PRIu64 ", resource %p, age %.3f s%s\n",
            slot->index, names[state], slot->word & PNX__POOL_RETURNING ? " (returning)" : "",
            working && slot->overdue ? " (overdue)" : "", seconds(now > since ? now - since : 0),
            slot->word / PNX__POOL_GENERATION, slot->resource,
            state == PNX__POOL_CONNECTING ? 0.0 : seconds(now - slot->born_at), who);
    return write_text(write, ctx, text, length, sizeof(text));
}

int pnx_pool_dump(struct pnx_pool *pool, pnx_write_fn *write, void *ctx) {
    if (!pool || !write)
        return -EINVAL;
    if (pnx__pool_forked(pool))
        return -ESHUTDOWN;
    pnx__pool_lock(pool);
    uint32_t room = pool->core.capacity;
    pnx__mutex_unlock(&pool->lock);
    struct slot_copy *slots = pnx__alloc(&pool->env, room, sizeof(*slots));
    if (!slots)
        return -ENOMEM;
    struct copy copy;
    pnx_ns now = pnx__now(&pool->env);
    pnx__pool_lock(pool);
    pnx__pool_see(&pool->core, now);
    copy_locked(pool, &copy);
    copy_slots_locked(pool, slots, room);
    pnx__mutex_unlock(&pool->lock);
    int rc = write_head(pool, &copy, write, ctx);
    for (uint32_t i = 0; rc == 0 && i < room; i++)
        rc = write_slot(&slots[i], copy.now, write, ctx);
    pnx__free(&pool->env, slots, room, sizeof(*slots));
    return rc;
}
