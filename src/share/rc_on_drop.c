/* SPDX-License-Identifier: Apache-2.0 */
/*
 * share/rc_on_drop.c - callbacks that run when an rc object has been dropped.
 *
 * Nodes are the callers' memory, in a list that hangs from the object's header, last registered first.  One lock
 * guards all lists of the process: whoever removes a node need not hold the object, so the lock cannot stand in
 * it; objects without callbacks never come here.
 *
 *     FREE --on_drop--> REGISTERED --remove--> FREE
 *                           |
 *                           +--the object was dropped--> CALLED: the library has forgotten the node, which is
 *                                                        the caller's again, from before its callback runs
 *
 * Guarantee P7 stands in patinox/rc.h.  How a remove knows that a callback is running, though the node may be
 * gone already: who runs callbacks shows the node's address in a runner on its own stack, for as long as it runs.  A node
 * at that address that is registered may be another one, in memory that was used again, so then the function and its
 * argument are compared, too.
 */
#include "base/list.h"
#include "os/fork.h"
#include "os/futex.h"
#include "os/mutex.h"
#include "os/thread.h"
#include "share/callback.h"
#include "share/rc.h"

#include <errno.h>
#include <pthread.h>

/* On the stack of a thread that runs callbacks; guarded by the lock. */
struct runner {
    struct pnx_link link;
    const struct pnx_rc_drop_node *node; /* whose callback runs; an address only.  NULL: none */
    pnx_rc_on_drop_fn *fn;               /* the callback */
    void *arg;
    const struct pnx_thread *thread; /* NULL: one without a record */
    struct pnx_rc_header *header;    /* whose callbacks are left; NULL: none */
};

static struct pnx_mutex lock = PNX_MUTEX_STATIC(PNX_RANK_RC);
static struct pnx_link runners = {&runners, &runners}; /* the lock */
static uint32_t waiters;                               /* the lock: who waits for a runner */
static struct pnx_a32 ended; /* futex word of waiters, written under the lock */

/* ---- fork: the child has the list, but of its runners only the forking thread ---- */

static pthread_once_t fork_once = PTHREAD_ONCE_INIT;

static void fork_prepare(void) {
    pnx__fork_lock(&lock);
}

static void fork_parent(void) {
    pnx__fork_unlock(&lock);
}

static void fork_child(void) {
    PNX_LIST_EACH (link, after, &runners) {
        if (!PNX_SELF || PNX_CONTAINER(link, struct runner, link)->thread != PNX_SELF)
            pnx__list_remove(link); /* its stack may be another thread's before long */
    }
    waiters = 0;
    pnx__fork_unlock(&lock);
}

static void watch_forks(void) {
    pnx__at_fork(PNX_RANK_RC, fork_prepare, fork_parent, fork_child);
}

/* ---- registering ---- */

static struct pnx_rc_drop_node *first_locked(struct pnx_rc_header *header) {
    return pnx_load(&header->hooks, PNX_RELAXED, "rc_on_drop.first"); /* the lock orders it */
}

static void set_first_locked(struct pnx_rc_header *header, struct pnx_rc_drop_node *node) {
    pnx_store(&header->hooks, (void *)node, PNX_RELAXED, "rc_on_drop.set"); /* as first_locked() */
}

static void unlink_locked(struct pnx_rc_drop_node *node) {
    if (node->newer_)
        node->newer_->older_ = node->older_;
    else
        set_first_locked(node->header_, node->older_);
    if (node->older_)
        node->older_->newer_ = node->newer_;
    node->header_ = NULL;
    node->older_ = node->newer_ = NULL;
}

int pnx_rc_on_drop(
        const void *object, struct pnx_rc_drop_node *node, pnx_rc_on_drop_fn *fn, void *arg) {
    if (!object || !node || !fn)
        return -EINVAL;
    PNX_RC_EXPECT_(object, NULL, "pnx_rc_on_drop");
    pthread_once(&fork_once, watch_forks);
    struct pnx_rc_header *header = pnx__rc_header_of(object);
    int rc = 0;
    pnx__mutex_lock(&lock);
    if (node->header_)
        rc = -EBUSY;
    /* relaxed: the caller holds a reference, so it is not 0; else the caller is the drop function, or a maker */
    else if (pnx_load(&header->counts, PNX_RELAXED, "rc_on_drop.live") < PNX_RC_ONE_)
        rc = -ESTALE;
    if (rc == 0) {
        node->header_ = header;
        node->fn_ = fn;
        node->arg_ = arg;
        node->newer_ = NULL;
        node->older_ = first_locked(header);
        if (node->older_)
            node->older_->newer_ = node;
        set_first_locked(header, node);
    }
    pnx__mutex_unlock(&lock);
    return rc;
}

/* fn: only this one with this arg; NULL: any, since the node may say something else by now. */
static bool is_running_locked(
        const struct pnx_rc_drop_node *node, pnx_rc_on_drop_fn *fn, const void *arg) {
    for (struct pnx_link *link = runners.next; link != &runners; link = link->next) {
        const struct runner *runner = PNX_CONTAINER(link, struct runner, link);
        if (runner->node == node && (!fn || (runner->fn == fn && runner->arg == arg)))
            return true;
    }
    return false;
}

int pnx_rc_on_drop_remove(struct pnx_rc_drop_node *node) {
    if (!node)
        return -EINVAL;
    const struct pnx_thread *self = pnx__thread();
    pnx__mutex_lock(&lock);
    /* The callback may have registered its own node again: it is taken back, and the call that runs is waited for. */
    pnx_rc_on_drop_fn *removed = node->header_ ? node->fn_ : NULL;
    const void *arg = removed ? node->arg_ : NULL;
    if (removed)
        unlink_locked(node);
    while (is_running_locked(node, removed, arg)) { /* from here on the node may be gone */
        /* A thread without a record cannot be told from the one that runs it. */
        if (!self || pnx__inside_callback()) {
            pnx__mutex_unlock(&lock);
            return -EINPROGRESS;
        }
        waiters++;
        uint32_t seen = pnx_load(&ended, PNX_RELAXED, "rc_on_drop.wait"); /* the lock */
        pnx__mutex_unlock(&lock);
        (void)pnx__futex_wait(&ended, seen, PNX_NEVER);
        pnx__mutex_lock(&lock);
        waiters--;
    }
    pnx__mutex_unlock(&lock);
    return removed ? 0 : -EALREADY;
}

/* Says that the callback has returned; returns whether somebody waits to hear it. */
static bool end_one_locked(struct runner *runner) {
    runner->node = NULL;
    if (waiters == 0)
        return false;
    pnx_fetch_add(&ended, 1, PNX_RELAXED, "rc_on_drop.ended"); /* the lock orders it */
    return true;
}

/* A callback has ended its thread: it is not running any more, and those after it are still to run. */
static void end_early(struct runner *runner) {
    if (!runner->header)
        return;
    pnx__mutex_lock(&lock);
    bool wake = end_one_locked(runner);
    pnx__list_remove(&runner->link);
    pnx__mutex_unlock(&lock);
    if (wake)
        pnx__futex_wake(&ended, UINT32_MAX);
    pnx__rc_run_hooks(runner->header);
}

void pnx__rc_run_hooks(struct pnx_rc_header *header) {
    /*
     * relaxed: whoever registered held a reference and let it go before this, see rc.last; should the last node be
     * removed at this moment, either answer is right.
     */
    if (!pnx_load(&header->hooks, PNX_RELAXED, "rc_on_drop.look"))
        return;
    PNX_CLEANUP(end_early) struct runner runner = {.thread = pnx__thread(), .header = header};
    struct pnx_rc_drop_node *node;
    bool wake = false;
    pnx__mutex_lock(&lock);
    pnx__list_push_back(&runners, &runner.link);
    while ((node = first_locked(header)) != NULL) {
        unlink_locked(node);
        runner.node = node;
        runner.fn = node->fn_;
        runner.arg = node->arg_;
        pnx__mutex_unlock(&lock);
        if (wake)
            pnx__futex_wake(&ended, UINT32_MAX);
        pnx__mutex_assert_none_held();
        runner.fn(runner.arg); /* from here on the node may be gone */
        pnx__mutex_lock(&lock);
        wake = end_one_locked(&runner);
    }
    pnx__list_remove(&runner.link);
    runner.header = NULL;
    pnx__mutex_unlock(&lock);
    if (wake)
        pnx__futex_wake(&ended, UINT32_MAX);
}

void pnx__rc_move_hooks(struct pnx_rc_header *from, struct pnx_rc_header *to) {
    /* relaxed: as in pnx__rc_run_hooks(); the caller was the last holder */
    if (!pnx_load(&from->hooks, PNX_RELAXED, "rc_on_drop.move"))
        return;
    pnx__mutex_lock(&lock);
    struct pnx_rc_drop_node *first = first_locked(from);
    for (struct pnx_rc_drop_node *node = first; node; node = node->older_)
        node->header_ = to;
    set_first_locked(to, first);
    set_first_locked(from, NULL);
    pnx__mutex_unlock(&lock);
}
