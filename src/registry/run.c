/* SPDX-License-Identifier: Apache-2.0 */
/*
 * registry/run.c - running a cleanup, pending ones, waiting for one, and what a cleanup may ask.
 *
 * Each thread has a stack of its runs in its record: requests, which lie on the thread's own stack or in an
 * executor's job.  A row that is RUNNING knows its request, and the request its thread; a thread that waits for a
 * cleanup says so in its record.  So whoever is about to wait can follow who waits for whom, and nobody else pays.
 *
 *   P1  A wait that could never end, since cleanups would wait for each other in a ring, is refused.
 *   P2  A cleanup that is left by an exception or by the end of its thread aborts the process: the row could
 *       never be ended, and whoever waits for it would hang.
 *   P3  A row's request is looked at under the shard's lock only, by others than its runner.
 */
#include "base/env.h"
#include "base/list.h"
#include "os/futex.h"
#include "os/thread.h"
#include "registry/calls.h"
#include "registry/ledger.h"

#include <patinox/registry.h>

#include <stdlib.h>
#include <string.h>

struct pnx_mutex pnx__waits_lock = PNX_MUTEX_STATIC(PNX_RANK_CLEANUPS);

/* What a thread waits for. */
struct pnx_cleanup_wait {
    struct pnx_registry *registry;
    pnx_resource_id id;
};

/* ---- what a cleanup may ask ---- */

pnx_ns pnx_cancel_deadline(const struct pnx_cancel *cancel) {
    if (!cancel)
        return PNX_NEVER;
    return (pnx_ns)pnx_load(
            &cancel->deadline, PNX_RELAXED, "run.deadline"); /* set before the cleanup was called */
}

pnx_ns pnx_cancel_remaining(const struct pnx_cancel *cancel) {
    pnx_ns deadline = pnx_cancel_deadline(cancel);
    if (deadline == PNX_NEVER)
        return PNX_NEVER;
    return pnx__remaining(cancel->env ? pnx__now(cancel->env) : pnx_now(), deadline);
}

bool pnx_cancel_requested(const struct pnx_cancel *cancel) {
    /* A hint without data: no partner. */
    return cancel && pnx_load(&cancel->requested, PNX_RELAXED, "run.requested") != 0;
}

int pnx_cancel_pend(const struct pnx_cancel *cancel, struct pnx_completion *ret_completion) {
    if (!ret_completion)
        return -EINVAL;
    if (!cancel || !cancel->pend)
        return -ENOTSUP;
    return cancel->pend(cancel, ret_completion);
}

int pnx_completion_done(struct pnx_completion *completion, int code) {
    if (!completion || !completion->done_)
        return -EINVAL;
    struct pnx_completion own = *completion;
    *completion = (struct pnx_completion){0};
    return own.done_(own.ctx_, own.token_, code);
}

/* ---- ending ---- */

/* What to do when the lock is given back, and the row's fate. */
struct end {
    struct pnx_row_effects effects;
    int code; /* -EAGAIN with again: the row is live */
    bool again;
    char object[PNX_ROW_NAME_MAX]; /* of an event, when the code is an error */
    const char *site;
};

/* Gives a claimed row back: it is as it was. */
static void again_locked(struct pnx_registry *registry, struct pnx_shard *shard,
        struct pnx_row *row, pnx_resource_id id, struct end *end) {
    if (pnx__row_hand(row) != PNX_HAND_NOBODY) {
        pnx_cleanup_fn *cleanup = row->request->cleanup;
        void *arg = row->request->arg;
        row->cleanup = cleanup;
        row->arg = arg;
    }
    pnx__row_set_hand_locked(row, PNX_HAND_RUNNER);
    pnx__row_move_locked(row, id, PNX_ROW_LIVE);
    pnx__row_changed_locked(registry, shard, &end->effects);
    end->again = true;
}

/* Whether -EAGAIN is a failure now.  Who gives the row up says so before it asks for the end. */
static bool is_last(const struct pnx_row_request *request) {
    /* No partner: a cleanup that has read the same word before sees no older value here. */
    return request->last && !(pnx_load(&request->cancel.requested, PNX_RELAXED, "run.given_up") &
                                    PNX_ASKED_TO_GIVE_UP);
}

/* Ends a running or pending row with the code; last: -EAGAIN is a failure. */
static void end_locked(struct pnx_registry *registry, struct pnx_shard *shard, struct pnx_row *row,
        pnx_resource_id id, int code, bool last, struct end *end) {
    bool late = pnx__word_state(pnx__row_word(row)) == PNX_ROW_ABANDONED;
    end->code = code;
    if (code == -EAGAIN && !last && !late) {
        again_locked(registry, shard, row, id, end);
        return;
    }
    pnx__row_note_closed_locked(registry, row, id, code, &end->effects);
    pnx_owner_add(&shard->ended, 1);
    if (code) {
        pnx_owner_add(&shard->failed, 1);
        pnx__row_object(registry, row, id, end->object);
        end->site = row->site;
        pnx__registry_hold(registry); /* for the event; until now the row keeps it alive */
    }
    pnx__row_set_hand_locked(row, PNX_HAND_RUNNER);
    row->released_at = NULL;
    row->code = code;
    pnx__row_move_locked(row, id, late ? PNX_ROW_LATE : code ? PNX_ROW_FAILED : PNX_ROW_DONE);
    pnx__row_changed_locked(registry, shard, &end->effects);
    pnx__row_gone_locked(registry, shard, row, id, &end->effects);
}

/* The lock has been given back.  Returns the code. */
static int finish(struct pnx_registry *registry, struct pnx_shard *shard, pnx_resource_id id,
        const struct end *end) {
    pnx__row_effects(registry, shard, &end->effects);
    if (end->code && !end->again) {
        pnx__event(&registry->block, PNX_EVENT_RESOURCE_CLEANUP_FAILED, end->object, end->code,
                end->site, (int64_t)id, 0);
        pnx__registry_unhold(registry);
    }
    return end->code;
}

/* ---- pending ---- */

static int as_code(int code) {
    return code > 0 || code == -EINPROGRESS ? -EINVAL : code;
}

static uint64_t pend_count(const struct pnx_row *row) {
    return row->stamp >> PNX_STAMP_PEND_SHIFT & PNX_STATE_MASK;
}

/*
 * The token is the row's id, with the number of the pend in the bits that are the state's in a word.  Among the
 * last sixteen pends of a row a stale completion is certain to be refused.
 */
static int complete(void *ctx, uint64_t token, int code) {
    struct pnx_registry *registry = ctx;
    pnx_resource_id id = pnx__word_id(token);
    struct pnx_row *row = pnx__row_find(registry, id);
    struct end end = {.code = 0};
    struct pnx_row_request *request = NULL; /* who is told */
    struct pnx_shard *shard = pnx__row_lock(registry, id);
    enum pnx_row_hand hand = pnx__row_hand(row);
    uint64_t word = pnx__row_word(row);
    if (pnx__word_id(word) != id || !pnx__row_is_ours(row)) {
        pnx__unlock(&shard->lock);
        return -ESTALE;
    }
    bool inside = hand == PNX_HAND_PENDED && pnx__word_is_there(word);
    if (hand == PNX_HAND_RUNNER || pend_count(row) != (token & PNX_STATE_MASK) ||
            (inside && row->request->completed)) {
        pnx__unlock(&shard->lock);
        return -EALREADY;
    }
    if (inside) { /* the runner will find it */
        row->request->completed = true;
        row->request->code = as_code(code);
        pnx__unlock(&shard->lock);
        return 0;
    }
    if (hand == PNX_HAND_REQUEST)
        request = row->request;
    end_locked(registry, shard, row, id, as_code(code), request && is_last(request), &end);
    if (request)
        request->ended = !end.again;
    pnx__unlock(&shard->lock);
    pnx__mutex_assert_none_held();
    finish(registry, shard, id, &end);
    if (request)
        request->pended(request->ctx, end.code);
    return 0;
}

static int pend(const struct pnx_cancel *cancel, struct pnx_completion *ret_completion) {
    const struct pnx_row_request *request =
            PNX_CONTAINER((struct pnx_cancel *)cancel, struct pnx_row_request, cancel);
    struct pnx_registry *registry = request->registry;
    struct pnx_row *row = request->row;
    pnx_resource_id id = request->id;
    struct pnx_shard *shard = pnx__row_lock(registry, id);
    bool first = pnx__row_hand(row) == PNX_HAND_RUNNER;
    if (first) {
        uint64_t count = (pend_count(row) + 1) & PNX_STATE_MASK;
        row->stamp &= ~(PNX_STATE_MASK << PNX_STAMP_PEND_SHIFT);
        row->stamp |= count << PNX_STAMP_PEND_SHIFT;
        pnx__row_set_hand_locked(row, PNX_HAND_PENDED);
        *ret_completion = (struct pnx_completion){complete, registry, id | count};
    }
    pnx__unlock(&shard->lock);
    return first ? 0 : -EALREADY;
}

/* ---- running ---- */

static inline void take_claim_locked(struct pnx_registry *registry, struct pnx_row *row,
        pnx_resource_id id, struct pnx_thread *self, struct pnx_row_request *request) {
    request->cancel.pend = pend;
    request->ended = false;
    request->completed = false;
    request->registry = registry;
    request->row = row;
    request->id = id;
    request->cleanup = row->cleanup;
    request->arg = row->arg;
    request->thread = self;
    row->request = request;
    pnx__row_move_locked(row, id, PNX_ROW_RUNNING);
}

static __attribute__((noinline)) int claim_slowly(
        struct pnx_registry *registry, pnx_resource_id id, struct pnx_row_request *request) {
    struct pnx_row *row = pnx__row_find(registry, id);
    struct pnx_thread *self = pnx__self();
    if (!row)
        return -ESTALE;
    if (!self)
        return -ENOMEM;
    struct pnx_shard *shard = pnx__row_lock(registry, id);
    uint64_t word = pnx__row_word(row);
    int rc = 0;
    if (pnx__word_id(word) != id ||
            (pnx__word_state(word) == PNX_ROW_LIVE && !pnx__row_is_ours(row)))
        rc = -ESTALE;
    else if (pnx__word_state(word) != PNX_ROW_LIVE)
        rc = -EALREADY;
    else if (!row->cleanup)
        rc = -ENOTSUP;
    else if (row->order & PNX_ROW_PARENT && !request->in_order &&
             pnx__family_has_children_locked(registry, id))
        rc = -EBUSY;
    if (rc == 0)
        take_claim_locked(registry, row, id, self, request);
    pnx__unlock(&shard->lock);
    return rc;
}

int pnx__row_claim(
        struct pnx_registry *registry, pnx_resource_id id, struct pnx_row_request *request) {
    struct pnx_row *row = pnx__row_find(registry, id);
    struct pnx_shard *shard = &registry->shard[pnx__shard_of(id)];
    struct pnx_thread *self = PNX_SELF;
    bool claimed = false;
    if (row && pnx__lock_cheap(&shard->lock, self)) { /* the common case, in short */
        claimed = pnx__row_word(row) == (id | PNX_ROW_LIVE) && pnx__row_is_ours(row) &&
                  row->cleanup && !(row->order & PNX_ROW_PARENT);
        if (claimed)
            take_claim_locked(registry, row, id, self, request);
        pnx__unlock_cheap(&shard->lock, self);
    }
    return claimed ? 0 : claim_slowly(registry, id, request);
}

struct visit {
    bool returned; /* only its own thread looks */
};

static void check_returned(struct visit *visit) {
    if (!visit->returned)
        abort(); /* P2 */
}

static int call(struct pnx_row_request *request) {
    struct visit visit __attribute__((cleanup(check_returned))) = {false};
    struct pnx_thread *self = request->thread;
    pnx__mutex_assert_none_held();
    request->outer = self->runs;
    self->runs = request;
    int code = request->cleanup(request->arg, &request->cancel);
    self->runs = request->outer;
    visit.returned = true;
    return code;
}

/* Leaves a row whose cleanup ends later, without the lock's holder. */
static void leave_locked(struct pnx_registry *registry, struct pnx_shard *shard,
        struct pnx_row_request *request, struct end *end) {
    struct pnx_row *row = request->row;
    if (request->pended) {
        pnx__row_set_hand_locked(row, PNX_HAND_REQUEST);
    } else {
        row->cleanup = request->cleanup;
        row->arg = request->arg;
        pnx__row_set_hand_locked(row, PNX_HAND_NOBODY);
    }
    if (pnx__word_state(pnx__row_word(row)) == PNX_ROW_RUNNING)
        pnx__row_move_locked(row, request->id, PNX_ROW_PENDING);
    pnx__row_changed_locked(registry, shard, &end->effects);
    end->code = -EINPROGRESS;
    end->again = true; /* no event */
}

/* The common case, in short: all is well, and the row's end has no effects.  false: nothing has been done. */
static inline bool end_quickly(struct pnx_registry *registry, struct pnx_row *row,
        pnx_resource_id id, struct pnx_thread *self) {
    struct pnx_shard *shard = &registry->shard[pnx__shard_of(id)];
    if (!pnx__lock_cheap(&shard->lock, self))
        return false;
    bool plain = pnx__row_word(row) == (id | PNX_ROW_RUNNING) &&
                 pnx__row_hand(row) == PNX_HAND_RUNNER &&
                 !(row->order & (PNX_ROW_LONG_LIVED | PNX_ROW_CHILD)) &&
                 !pnx__row_end_matters_locked(registry, shard);
    if (plain) {
        pnx_owner_add(&shard->ended, 1);
        row->released_at = NULL;
        row->code = 0;
        pnx__row_move_locked(row, id, PNX_ROW_DONE);
        pnx__row_queue_locked(registry, shard, row, id);
    }
    pnx__unlock_cheap(&shard->lock, self);
    return plain;
}

static __attribute__((noinline)) int end_slowly(struct pnx_row_request *request, int code) {
    struct pnx_registry *registry = request->registry;
    pnx_resource_id id = request->id;
    bool quiet = request->quiet;
    struct pnx_shard *shard = pnx__row_lock(registry, id);
    struct end end = {.code = 0};
    bool pends = code == -EINPROGRESS && pnx__row_hand(request->row) == PNX_HAND_PENDED;
    if (pends && request->completed) {
        code = request->code;
        pends = false;
    }
    if (pends)
        leave_locked(registry, shard, request, &end);
    else
        end_locked(registry, shard, request->row, id, as_code(code), is_last(request), &end);
    if (!pends)
        request->ended = !end.again;
    pnx__unlock(&shard->lock);
    if (quiet)
        end.effects.shutdown = false;
    return finish(registry, shard, id, &end); /* a request that is pending may be gone */
}

int pnx__row_run(struct pnx_row_request *request) {
    int code = call(request);
    if (code == 0 && end_quickly(request->registry, request->row, request->id, request->thread))
        return 0;
    return end_slowly(request, code);
}

int pnx__registry_run(struct pnx_registry *registry, pnx_resource_id id,
        struct pnx_row_request *request, bool *ret_claimed) {
    int rc = pnx__row_claim(registry, id, request);
    *ret_claimed = rc == 0;
    return rc ? rc : pnx__row_run(request);
}

int pnx_registry_cleanup(struct pnx_registry *registry, pnx_resource_id id) {
    registry = pnx__registry_resolve(registry);
    if (registry->off)
        return -ESTALE;
    struct pnx_row_request request;
    pnx__request_init(&request, NULL, PNX_NEVER);
    bool claimed;
    return pnx__registry_run(registry, id, &request, &claimed);
}

static void request_locked(struct pnx_row *row, uint64_t word) {
    if (pnx__word_state(word) == PNX_ROW_LIVE || pnx__row_hand(row) == PNX_HAND_NOBODY)
        return;
    pnx__cancel_ask(&row->request->cancel, PNX_ASKED_TO_END);
}

void pnx__row_ask_locked(struct pnx_row *row, uint64_t word) {
    row->order |= PNX_ROW_ASKED;
    request_locked(row, word);
}

int pnx__row_ask(struct pnx_registry *registry, pnx_resource_id id) {
    struct pnx_row *row = pnx__row_find(registry, id);
    if (!row)
        return -ESTALE;
    struct pnx_shard *shard = pnx__row_lock(registry, id);
    uint64_t word = pnx__row_word(row);
    bool there = pnx__word_id(word) == id && pnx__word_is_there(word);
    if (there)
        pnx__row_ask_locked(row, word);
    pnx__unlock(&shard->lock);
    return there ? 0 : -ESTALE;
}

/* ---- waiting ---- */

/* Returns whether a thread is inside the row's cleanup.  Under the shard's lock. */
static bool is_inside_locked(const struct pnx_row *row, pnx_resource_id id) {
    uint64_t word = pnx__row_word(row);
    enum pnx_row_state state = pnx__word_state(word);
    return pnx__word_id(word) == id && (state == PNX_ROW_RUNNING || state == PNX_ROW_ABANDONED) &&
           pnx__row_hand(row) < PNX_HAND_REQUEST;
}

/* Returns the thread that runs what is waited for, or NULL. */
static const struct pnx_thread *runner_of(const struct pnx_cleanup_wait *wait) {
    const struct pnx_row *row = pnx__row_find(wait->registry, wait->id);
    struct pnx_shard *shard = pnx__row_lock(wait->registry, wait->id);
    const struct pnx_thread *thread = is_inside_locked(row, wait->id) ? row->request->thread : NULL;
    pnx__unlock(&shard->lock);
    return thread;
}

/*
 * Follows who waits for whom.  A thread waits for at most one row, so this is a path.  What it finds holds: a
 * thread that is waiting cannot end what it runs before it has been here.  A ring that does not meet this thread
 * cannot exist, since its last wait would have been refused.
 */
static int may_wait_locked(const struct pnx_cleanup_wait *wait, const struct pnx_thread *self) {
    pnx__mutex_assert_held(&pnx__waits_lock);
    for (bool first = true; wait; first = false) {
        const struct pnx_thread *runner = runner_of(wait);
        if (!runner)
            return 0; /* it has just ended */
        if (runner == self)
            return first ? -EALREADY : -EDEADLK;
        wait = runner->cleanup_wait;
    }
    return 0;
}

/* Sleeps until something ends in the shard; false when the cleanup is not running any more. */
static bool sleep_once(const struct pnx_cleanup_wait *wait) {
    const struct pnx_row *row = pnx__row_find(wait->registry, wait->id);
    struct pnx_shard *shard = pnx__row_lock(wait->registry, wait->id);
    bool inside = is_inside_locked(row, wait->id);
    shard->waiting += inside;
    uint32_t turn = pnx_load(&shard->turn, PNX_RELAXED, "run.turn"); /* see rows.turn */
    pnx__unlock(&shard->lock);
    if (!inside)
        return false;
    pnx__futex_wait(&shard->turn, turn, PNX_NEVER);
    pnx__lock(&shard->lock);
    shard->waiting--;
    pnx__unlock(&shard->lock);
    return true;
}

int pnx__row_wait(struct pnx_registry *registry, pnx_resource_id id) {
    const struct pnx_cleanup_wait wait = {registry, id};
    /* A thread without a record runs no cleanup: nobody can wait for it. */
    struct pnx_thread *self = pnx__self();
    pnx__mutex_lock(&pnx__waits_lock);
    int rc = may_wait_locked(&wait, self);
    if (rc == 0 && self)
        self->cleanup_wait = &wait;
    pnx__mutex_unlock(&pnx__waits_lock);
    if (rc)
        return rc;
    pnx__registry_count_up(&registry->values.cleanup_waits);
    while (sleep_once(&wait)) {
    }
    if (self) {
        pnx__mutex_lock(&pnx__waits_lock);
        self->cleanup_wait = NULL;
        pnx__mutex_unlock(&pnx__waits_lock);
    }
    return 0;
}

static bool runs_cleanup_of(const struct pnx_thread *self, const struct pnx_registry *registry) {
    const struct pnx_row_request *run = self->runs;
    while (run && (run->registry != registry || !pnx__row_is_ours(run->row)))
        run = run->outer;
    return run != NULL;
}

/* Whether the row has not ended yet, and will before a shutdown has. */
static bool is_waited_for(struct pnx_registry *registry, pnx_resource_id id) {
    const struct pnx_row *row = pnx__row_find(registry, id);
    if (!row)
        return false;
    struct pnx_shard *shard = pnx__row_lock(registry, id);
    uint64_t word = pnx__row_word(row);
    bool waited = pnx__word_id(word) == id && pnx__word_is_there(word) && pnx__row_is_ours(row) &&
                  pnx__word_state(word) != PNX_ROW_ABANDONED;
    pnx__unlock(&shard->lock);
    return waited;
}

bool pnx__registry_waits_for_us(struct pnx_registry *registry) {
    const struct pnx_thread *self = pnx__self();
    if (!self)
        return false;
    if (runs_cleanup_of(self, registry))
        return true;
    for (const struct pnx_row_call *call = self->row_calls; call; call = call->outer) {
        if (call->registry == registry &&
                (call->id == pnx__shutdown_call_id() || is_waited_for(registry, call->id)))
            return true;
    }
    return false;
}
