/* SPDX-License-Identifier: Apache-2.0 */
/*
 * registry/trace.c - levels, touches and backtraces: what is remembered of a row beside what it says.
 *
 * A trace stands beside its row (PNX_SIDE_TRACE) and bears the row's id; an entry with another id is a former row's,
 * and is taken over.  Its memory is got for a chunk of rows when the first of them has something to remember.
 *
 *   P1  Nothing here is on the way of adding and removing at SIMPLE but one look at the level.
 *   P2  A row that was added is never lost because its trace could not be kept.
 */
#include "registry/trace.h"
#include "base/env.h"
#include "os/backtrace.h"
#include "os/thread.h"

#include <stdlib.h>
#include <string.h>

/* ---- levels ---- */

void pnx__trace_set(struct pnx_registry *registry, enum pnx_registry_level level, uint32_t sample) {
    if (level == PNX_LEVEL_DEFAULT)
        level = PNX_LEVEL_SIMPLE;
    if (level >= PNX_LEVEL_ADVANCED)
        pnx__backtrace_prepare();
    /* Wishes, without data: no partner. */
    if (sample)
        pnx_store(&registry->sample, sample, PNX_RELAXED, "trace.set_sample");
    pnx_store(&registry->level, (uint32_t)level, PNX_RELAXED, "trace.set_level");
}

int pnx_registry_set_level(struct pnx_registry *registry, enum pnx_registry_level level) {
    registry = pnx__registry_resolve(registry);
    if ((int)level < PNX_LEVEL_DEFAULT || level > PNX_LEVEL_PARANOID || registry->off)
        return -EINVAL;
    pnx__trace_set(registry, level, 0);
    return 0;
}

enum pnx_registry_level pnx_registry_current_level(const struct pnx_registry *registry) {
    if (!registry)
        registry = pnx_registry_default();
    return registry->off ? PNX_LEVEL_OFF : pnx__level(registry);
}

bool pnx__trace_obey(struct pnx_registry *registry, const char *text) {
    static const char *const names[] = {[PNX_LEVEL_OFF] = "off",
            [PNX_LEVEL_SIMPLE] = "simple",
            [PNX_LEVEL_ADVANCED] = "advanced",
            [PNX_LEVEL_PARANOID] = "paranoid"};
    static const char key[] = "sample=";
    const char *comma = strchr(text, ',');
    size_t n = comma ? (size_t)(comma - text) : strlen(text);
    uint32_t sample = 0;
    if (comma) {
        const char *digits = comma + sizeof(key);
        char *end;
        if (strncmp(comma + 1, key, sizeof(key) - 1) != 0 || *digits < '1' || *digits > '9')
            return false;
        unsigned long value = strtoul(digits, &end, 10);
        if (*end || value > PNX_TRACE_SAMPLE_MAX)
            return false;
        sample = (uint32_t)value;
    }
    for (int level = PNX_LEVEL_OFF; level <= PNX_LEVEL_PARANOID; level++) {
        if (strlen(names[level]) == n && memcmp(names[level], text, n) == 0) {
            pnx__trace_set(registry, (enum pnx_registry_level)level, sample);
            return true;
        }
    }
    return false;
}

/* ---- entries ---- */

/* Takes the row's trace over, if it has not one yet. */
static struct pnx_row_trace *entry_locked(
        struct pnx_registry *registry, const struct pnx_row *row, pnx_resource_id id) {
    uint64_t word = row->word.v; /* under the lock */
    struct pnx_row_trace *trace = pnx__side_place(registry, id, PNX_SIDE_TRACE);
    if (!trace || pnx__word_id(word) != id || !pnx__word_is_there(word))
        return NULL;
    if (trace->id != id)
        *trace = (struct pnx_row_trace){.id = id};
    return trace;
}

/* Gets memory for the row's trace, if there is none yet.  -ESTALE, -ENOMEM. */
static int prepare(struct pnx_registry *registry, pnx_resource_id id) {
    if (!pnx__row_find(registry, id))
        return -ESTALE;
    return pnx__side_place(registry, id, PNX_SIDE_TRACE)
                   ? 0
                   : pnx__side_make(registry, id, PNX_SIDE_TRACE);
}

static bool is_due(struct pnx_registry *registry, enum pnx_registry_level level) {
    if (level >= PNX_LEVEL_PARANOID)
        return true;
    /* Numbers, without data: no partner. */
    uint32_t sample = pnx_load(&registry->sample, PNX_RELAXED, "trace.sample");
    return pnx_fetch_add(&registry->sampled, 1, PNX_RELAXED, "trace.sampled") % sample == 0;
}

void pnx__trace_added(
        struct pnx_registry *registry, enum pnx_registry_level level, pnx_resource_id id) {
    void *frames[PNX_TRACE_FRAMES];
    if (!is_due(registry, level))
        return;
    uint32_t n = pnx__backtrace(frames, PNX_TRACE_FRAMES);
    uint32_t stack = pnx__stack_keep(registry, frames, n);
    if (stack == 0 || prepare(registry, id)) {
        pnx__registry_count_up(&registry->values.traces_lost);
        return;
    }
    struct pnx_shard *shard = pnx__row_lock(registry, id);
    struct pnx_row_trace *trace = entry_locked(registry, pnx__row_find(registry, id), id);
    if (trace)
        trace->stack = stack;
    pnx__unlock(&shard->lock);
}

int pnx_registry_touch_at(
        struct pnx_registry *registry, pnx_resource_id id, const char *note, const char *site) {
    registry = pnx__registry_resolve(registry);
    if (registry->off || id == 0 || pnx__level(registry) < PNX_LEVEL_ADVANCED)
        return 0;
    int rc = prepare(registry, id);
    if (rc) {
        pnx__registry_count_up(&registry->values.traces_lost);
        return rc;
    }
    const struct pnx_thread *self = pnx__thread();
    const struct pnx_row_touch touch = {.note = note,
            .site = site ? site : "",
            .when = registry->env.now_coarse(registry->env.ctx),
            .thread = self ? self->id : 0};
    struct pnx_shard *shard = pnx__row_lock(registry, id);
    struct pnx_row_trace *trace = entry_locked(registry, pnx__row_find(registry, id), id);
    if (trace)
        trace->touches[trace->n_touches++ % PNX_TOUCHES] = touch;
    pnx__unlock(&shard->lock);
    return trace ? 0 : -ESTALE;
}

/* ---- looking ---- */

/* Copies a row's trace; all zero when it has none.  -ESTALE. */
static int copy(
        struct pnx_registry *registry, pnx_resource_id id, struct pnx_row_trace *ret_trace) {
    const struct pnx_row *row = registry->off ? NULL : pnx__row_find(registry, id);
    if (!row)
        return -ESTALE;
    *ret_trace = (struct pnx_row_trace){.id = id};
    struct pnx_shard *shard = pnx__row_lock(registry, id);
    uint64_t word = row->word.v;
    bool there = pnx__word_id(word) == id && pnx__word_is_there(word);
    const struct pnx_row_trace *trace = pnx__row_side(registry, id, PNX_SIDE_TRACE);
    if (there && trace)
        *ret_trace = *trace;
    pnx__unlock(&shard->lock);
    return there ? 0 : -ESTALE;
}

uint32_t pnx__trace_frames(
        struct pnx_registry *registry, pnx_resource_id id, void *ret_frames[PNX_TRACE_FRAMES]) {
    struct pnx_row_trace trace;
    return copy(registry, id, &trace) ? 0 : pnx__stack_copy(registry, trace.stack, ret_frames);
}

int pnx_registry_trace(
        struct pnx_registry *registry, pnx_resource_id id, struct pnx_resource_trace *ret_trace) {
    registry = pnx__registry_resolve(registry);
    if (!ret_trace || ret_trace->size < sizeof(ret_trace->size))
        return -EINVAL;
    struct pnx_row_trace own;
    int rc = copy(registry, id, &own);
    if (rc)
        return rc;
    struct pnx_resource_trace trace = {.size = ret_trace->size, .touched = own.n_touches};
    trace.n_frames = pnx__stack_copy(registry, own.stack, trace.frames);
    trace.n_touches = own.n_touches < PNX_TOUCHES ? (uint32_t)own.n_touches : PNX_TOUCHES;
    pnx_ns now = pnx__now(&registry->env);
    for (uint32_t i = 0; i < trace.n_touches; i++) {
        const struct pnx_row_touch *touch = &own.touches[(own.n_touches - 1 - i) % PNX_TOUCHES];
        pnx_ns age = now > touch->when ? now - touch->when : 0;
        trace.touches[i] = (struct pnx_touch){touch->note, touch->site, age, touch->thread};
    }
    memcpy(ret_trace, &trace, trace.size < sizeof(trace) ? trace.size : sizeof(trace));
    return 0;
}
