/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stats/monitor.c - events and who hears them.
 *
 *     FREE --add--> LIVE --remove, nobody inside--> FREE
 *                     +----remove, a call runs----> REMOVED --the last call ends--> FREE
 *
 * A running callback is a struct on its thread's stack, linked to its slot: so a remover knows whether it is
 * itself inside, and nothing is allocated.
 *
 *   P1  A callback runs with no lock of the library held.
 *   P2  A REMOVED monitor is not called again; pnx_monitor_remove() that returns 0 returns after its last call.
 *   P3  A remover that is itself inside any monitor's callback never waits: two callbacks that remove each
 *       other would wait for ever.
 *   P4  With no monitor an event costs one load.
 */
#include "base/options.h"
#include "os/futex.h"
#include "os/thread.h"
#include "stats/set.h"

#include <string.h>

static const char *const names[] = {
#define PNX_EVENT(name, text, code_means, value_means) #name,
#include <patinox/stats/events.def>
#undef PNX_EVENT
};
#define N_NAMES    (sizeof(names) / sizeof(names[0]))
#define NAME_BYTES 48

/* The preprocessor cannot make lower case: done once, here. */
static char lower_names[N_NAMES][NAME_BYTES];
static pthread_once_t names_once = PTHREAD_ONCE_INIT;

static void make_names(void) {
    for (size_t i = 0; i < N_NAMES; i++) {
        for (size_t k = 0; names[i][k] && k < NAME_BYTES - 1; k++) {
            char c = names[i][k];
            lower_names[i][k] = c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
        }
    }
}

const char *pnx_event_name(enum pnx_event_type type) {
    if ((int)type <= PNX_EVENT_NONE_ || (int)type >= PNX_EVENT_END_)
        return "unknown";
    pthread_once(&names_once, make_names);
    return lower_names[(size_t)type - 1];
}

/* Takes the lock and, in a forked child, forgets the calls of threads that exist only in the parent. */
static void lock_monitors(struct pnx_stats *set) {
    uint32_t generation = pnx__fork_generation();
    pnx__mutex_lock(&set->monitor_lock);
    if (set->generation == generation)
        return;
    set->generation = generation;
    for (unsigned i = 0; i < PNX_MONITORS_MAX; i++) {
        set->monitors[i].calls = NULL;
        if (set->monitors[i].removed)
            memset(&set->monitors[i], 0, sizeof(set->monitors[i]));
    }
}

static void call_begin_locked(
        struct pnx_stats *set, struct pnx_monitor_slot *slot, struct pnx_monitor_call *call) {
    call->set = set;
    call->slot = slot;
    call->thread = pthread_self();
    call->generation = set->generation;
    call->next = slot->calls;
    slot->calls = call;
    struct pnx_thread *self = pnx__thread();
    if (self)
        self->monitor_depth++;
}

/* Also runs when the callback leaves by pthread_exit() or a C++ exception. */
static void call_end(struct pnx_monitor_call *call) {
    struct pnx_stats *set = call->set;
    if (!set)
        return;
    struct pnx_thread *self = pnx__thread();
    if (self && self->monitor_depth)
        self->monitor_depth--;
    struct pnx_monitor_slot *slot = call->slot;
    bool freed = false;
    lock_monitors(set);
    if (call->generation == set->generation) {
        struct pnx_monitor_call **at = &slot->calls;
        while (*at != call)
            at = &(*at)->next;
        *at = call->next;
        if (slot->removed && !slot->calls) {
            memset(slot, 0, sizeof(*slot));
            pnx_fetch_add(&set->ended, 1, PNX_RELAXED, "monitor.ended"); /* under the lock */
            freed = true;
        }
    }
    pnx__mutex_unlock(&set->monitor_lock);
    if (freed)
        pnx__futex_wake(&set->ended, UINT32_MAX);
}

static void tell(struct pnx_stats *set, unsigned i, const struct pnx_event *event) {
    PNX_CLEANUP(call_end) struct pnx_monitor_call call = {0};
    struct pnx_monitor monitor = {0};
    lock_monitors(set);
    struct pnx_monitor_slot *slot = &set->monitors[i];
    if (slot->id && !slot->removed) {
        monitor = slot->monitor;
        call_begin_locked(set, slot, &call);
    }
    pnx__mutex_unlock(&set->monitor_lock);
    if (monitor.event)
        monitor.event(monitor.ctx, event);
}

void pnx__event(const struct pnx_stats_block *block, enum pnx_event_type type, const char *object,
        int code, const char *cause, int64_t value, pnx_ns now) {
    struct pnx_stats *set = block->set;
    if (!set)
        return;
    /* Relaxed: who must hear an event added its monitor in an order that reaches the event's thread. */
    if (pnx_load(&set->listening, PNX_RELAXED, "monitor.listening") == 0)
        return;
    pnx__mutex_assert_none_held();
    struct pnx_event event = {
            .size = sizeof(event),
            .type = type,
            .code = code,
            .now = now ? now : pnx__now(pnx__stats_env(set)),
            .object = object ? object : "",
            .cause = cause,
            .value = value,
    };
    for (unsigned i = 0; i < PNX_MONITORS_MAX; i++)
        tell(set, i, &event);
}

static struct pnx_monitor_slot *find_locked(struct pnx_stats *set, uint32_t id) {
    for (unsigned i = 0; i < PNX_MONITORS_MAX; i++) {
        if (set->monitors[i].id == id)
            return &set->monitors[i];
    }
    return NULL;
}

int pnx_monitor_add(struct pnx_stats *stats, const struct pnx_monitor *monitor, uint32_t *ret_id) {
    struct pnx_stats *set = pnx__stats_resolve(stats);
    struct pnx_monitor copy = {.size = sizeof(copy)};
    if (!set || !monitor || !ret_id)
        return -EINVAL;
    int rc = pnx__opts_copy("monitor", sizeof(copy), monitor, &copy, NULL);
    if (rc)
        return rc;
    if (!copy.event)
        return -EINVAL;
    lock_monitors(set);
    struct pnx_monitor_slot *slot = find_locked(set, 0);
    uint32_t id = 0;
    if (slot) {
        do
            id = ++set->last_id;
        while (id == 0 || find_locked(set, id));
        *slot = (struct pnx_monitor_slot){.id = id, .monitor = copy};
        pnx_fetch_add(&set->listening, 1, PNX_RELAXED, "monitor.add"); /* see pnx__event() */
    }
    pnx__mutex_unlock(&set->monitor_lock);
    if (!slot)
        return -EBUSY;
    *ret_id = id;
    return 0;
}

/* Whether the calling thread is inside a monitor's callback: of any set, as far as its record knows. */
static bool inside_locked(const struct pnx_stats *set) {
    const struct pnx_thread *self = pnx__thread();
    if (self)
        return self->monitor_depth != 0;
    for (unsigned i = 0; i < PNX_MONITORS_MAX; i++) {
        for (const struct pnx_monitor_call *call = set->monitors[i].calls; call;
                call = call->next) {
            if (pthread_equal(call->thread, pthread_self()))
                return true;
        }
    }
    return false;
}

int pnx_monitor_remove(struct pnx_stats *stats, uint32_t id) {
    struct pnx_stats *set = pnx__stats_resolve(stats);
    if (!set || id == 0)
        return -ENOENT;
    pnx__mutex_assert_none_held(); /* it may wait for a callback, which may want any lock */
    lock_monitors(set);
    struct pnx_monitor_slot *slot = find_locked(set, id);
    int rc = slot && !slot->removed ? 0 : -ENOENT;
    if (rc == 0) {
        slot->removed = true;
        pnx_fetch_sub(&set->listening, 1, PNX_RELAXED, "monitor.remove"); /* see pnx__event() */
        if (!slot->calls)
            memset(slot, 0, sizeof(*slot));
        else if (inside_locked(set))
            rc = -EINPROGRESS;
        while (rc == 0 && slot->id == id) {
            uint32_t seen = pnx_load(&set->ended, PNX_RELAXED, "monitor.wait"); /* under the lock */
            pnx__mutex_unlock(&set->monitor_lock);
            (void)pnx__futex_wait(&set->ended, seen, PNX_NEVER);
            lock_monitors(set);
        }
    }
    pnx__mutex_unlock(&set->monitor_lock);
    return rc;
}

void pnx__monitors_clear(struct pnx_stats *set) {
    for (unsigned i = 0; i < PNX_MONITORS_MAX; i++) {
        lock_monitors(set);
        uint32_t id = set->monitors[i].id;
        pnx__mutex_unlock(&set->monitor_lock);
        if (id)
            (void)pnx_monitor_remove(set, id);
    }
}
