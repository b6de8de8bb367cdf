/* SPDX-License-Identifier: Apache-2.0 */
/*
 * share/snapshot.c - a cell with an rc value and its version: life, reading, waiting.
 *
 * Sits on rc, reclaim and the latch.  One word of the cell, head.node, says what the current value and its version
 * are; the writer replaces it by a release store, and every way to read begins with an acquire load of it.  So
 * there is one order of versions, the modification order of that word, and by coherence no thread goes back in it,
 * whichever way it reads (P1).
 *
 * Why a load is sound without a lock.  The node that the load finds has a pin of the cell's, and its value a
 * reference of the node's.  Both are let go by a callback of reclaim only, which was retired after the word was
 * replaced, so it does not run before the section has ended in which the load found the node.  Inside it the
 * reader takes a reference, or a pin, of its own: the count cannot have reached 0 before.  That callback is the
 * only place where the cell lets go (P2): even at its end.
 *
 * Why a reader may compare addresses.  It has the node pinned, and an address is used for another version only
 * when its pins are gone: so the same address is the same version.
 *
 * Waiting.  changes is a futex word with the number of publications and marks.  A sleeper loads it (acquire), then
 * looks at the version, then marks it by a CAS against what it loaded, and sleeps while it is that.  A writer
 * publishes, then adds to it (release), and wakes if it finds the mark.  The read-modify-writes of one word are
 * in one order: either the writer's comes later and finds the mark, or the CAS fails, or the load found what the
 * writer added, and then also the version (P5).  (The number has 29 bits: to be deceived by it, a sleeper must
 * stand still between two instructions for exactly 2^29 publications; the next one would wake it.)
 *
 *     OPEN --close--> CLOSED (loads go on, writes and waits end with -ESHUTDOWN)
 *
 * Guarantees P1..P7 stand in patinox/snapshot.h.  Conservation: version == 1 + stores + updates + rollbacks.
 */
#include "share/snapshot.h"

#include "base/options.h"
#include "os/fork.h"
#include "os/thread.h"
#include "share/callback.h"
#include "share/rc.h"
#include "share/reclaim.h"
#include "share/wait.h"

#include <assert.h>
#include <pthread.h>
#include <string.h>
#ifdef PNX_DEBUG
#include <stdio.h>
#include <stdlib.h>
#endif

#define SPARE_NODES 256 /* that wait in returned; what comes back beyond that is freed */
#define WRITES_APART \
    (20 * PNX_MS) /* see pnx__snapshot_assist(); the coarse clock's steps are up to 10 ms */

static struct pnx_snapshot_node gone; /* in returned: the cell has ended */

static const struct pnx_opt option_rows[] = {
#define PNX_OPTION(...) PNX_OPT_ROW(struct pnx_snapshot_opts, __VA_ARGS__)
#include "share/snapshot_opts.def"
#undef PNX_OPTION
};
static const struct pnx_opt_table options = {"snapshot", sizeof(struct pnx_snapshot_opts),
        option_rows, sizeof(option_rows) / sizeof(option_rows[0])};
static_assert(sizeof(struct pnx_snapshot_opts) == 2 * sizeof(size_t) + 8 * sizeof(void *) + 8,
        "no padding");
static_assert(offsetof(struct pnx_snapshot, head) == 0, "peek and readers look there");

#ifdef PNX_DEBUG
static _Noreturn void complain(const char *where, const void *snapshot, const char *what) {
    fprintf(stderr, "patinox: %s: %p %s\n", where, snapshot, what);
    abort();
}

void pnx__snapshot_expect_in(const struct pnx_snapshot *snapshot, const char *where) {
    /* Relaxed: the caller has one of the references. */
    if (snapshot && (snapshot->magic != PNX_SNAPSHOT_MAGIC ||
                            pnx_load(&snapshot->references, PNX_RELAXED, "snapshot.debug") == 0))
        complain(where, snapshot, "is no snapshot, or not any more");
}
#endif

void pnx_snapshot_expect_peek_(const struct pnx_snapshot *snapshot) {
#ifdef PNX_DEBUG
    static const char where[] = "pnx_snapshot_peek";
    if (!snapshot)
        complain(where, snapshot, "is no snapshot");
    pnx__snapshot_expect_in(snapshot, where);
    /* A thread for whose section there was no memory is in one that is not its own. */
    if (pnx__reclaim_section(snapshot->reclaim) && !pnx_reclaim_in_section(snapshot->reclaim)) {
        fprintf(stderr, "patinox: %s: outside a section of the domain of \"%s\"\n", where,
                snapshot->name);
        abort();
    }
#else
    (void)snapshot;
#endif
}

int pnx__snapshot_validate(struct pnx_snapshot *snapshot, const void *next, const void *current,
        struct pnx_error *err) {
    if (!snapshot->validate)
        return 0;
    struct pnx_error said = {0};
    PNX_CLEANUP(pnx__call_end) struct pnx_thread *self = pnx__call_begin();
    pnx__mutex_assert_none_held();
    int rc = pnx__callback_code(snapshot->validate(snapshot->ctx, next, current, &said));
    return rc ? pnx__callback_fail(err, rc, &said, "validate", snapshot->name) : 0;
}

/* ---- nodes ---- */

/* Lets the memory of the cell go for one that needed it: a node, or all references together. */
static void memory_unref(struct pnx_snapshot *snapshot) {
    /* acq_rel: pairs with itself; all that the others did comes before the freeing */
    if (pnx_fetch_sub(&snapshot->memory, 1, PNX_ACQ_REL, "snapshot.memory") != 1)
        return;
    struct pnx_env env = snapshot->env;
    pnx__free(&env, snapshot, 1, sizeof(*snapshot));
}

static void node_free(struct pnx_snapshot_node *node) {
    struct pnx_snapshot *snapshot = node->snapshot;
    pnx__free(&snapshot->env, node, 1, sizeof(*node));
    memory_unref(snapshot);
}

struct pnx_snapshot_node *pnx__snapshot_node_new(struct pnx_snapshot *snapshot) {
    struct pnx_snapshot_node *node = snapshot->spare;
    if (!node) {
        /* What others add to it meanwhile may be lost: it only bounds how much waits there, roughly. */
        pnx_store(&snapshot->returned_count, 0, PNX_RELAXED, "snapshot.recount");
        /* acquire: pairs with snapshot.return; who gave it back has ended with it */
        node = pnx_exchange(&snapshot->returned, NULL, PNX_ACQUIRE, "snapshot.take");
    }
    if (node) {
        snapshot->spare = node->next;
        return node;
    }
    node = pnx__alloc(&snapshot->env, 1, sizeof(*node));
    if (!node)
        return NULL;
    node->snapshot = snapshot;
    /* relaxed: the caller's reference keeps the memory meanwhile */
    pnx_fetch_add(&snapshot->memory, 1, PNX_RELAXED, "snapshot.memory_ref");
    return node;
}

void pnx__snapshot_node_return(struct pnx_snapshot_node *node) {
    struct pnx_snapshot *snapshot = node->snapshot;
    /* No read-modify-write, for the same reason. */
    uint32_t count = pnx_load(&snapshot->returned_count, PNX_RELAXED, "snapshot.count");
    if (count < SPARE_NODES) {
        pnx_store(&snapshot->returned_count, count + 1, PNX_RELAXED, "snapshot.counted");
        void *first = pnx_load(&snapshot->returned, PNX_RELAXED, "snapshot.first"); /* or the CAS */
        while (first != &gone) {
            node->next = first;
            /* release: pairs with snapshot.take and snapshot.end.  From here on node is the writer's. */
            if (pnx_cas(&snapshot->returned, &first, node, PNX_RELEASE, "snapshot.return"))
                return;
        }
    }
    node_free(node);
}

/* Lets a pin go; the last one lets the value go. */
static void unpin(struct pnx_snapshot_node *node) {
    /*
     * acq_rel, by the load or by the RMW: pairs with itself; what others did with the value comes before its drop.
     * One pin is the caller's own, and then nobody can be about to take another: the node is not to be found
     * any more, and a pin is made in a section that found it.
     */
    if (pnx_load(&node->pins, PNX_ACQUIRE, "snapshot.last_pin") != 1 &&
            pnx_fetch_sub(&node->pins, 1, PNX_ACQ_REL, "snapshot.unpin") != 1)
        return;
    const void *value = node->shown.value;
    node->shown.value = NULL;
    pnx_rc_unref(value);
    pnx__snapshot_node_return(node);
}

static void forget(struct pnx_reclaim_node *retired) {
    unpin(PNX_CONTAINER(retired, struct pnx_snapshot_node, reclaim));
}

void pnx__snapshot_node_retire(struct pnx_snapshot_node *node) {
    pnx_reclaim_retire(node->snapshot->reclaim, &node->reclaim, forget,
            sizeof(*node) + pnx_rc_size(node->shown.value));
}

/*
 * Lets go of all that was retired before, if the sections that are open end within timeout.  Not in a section, nor
 * in a callback of a domain, nor under a latch, where what comes later will do it.
 */
static void drain(struct pnx_reclaim *handle, pnx_ns timeout) {
    struct pnx_reclaim *reclaim = pnx__reclaim_resolve(handle);
    if ((reclaim->opts.flags & PNX_RECLAIM_NO_ASSIST) || !pnx__reclaim_may_run() ||
            pnx_reclaim_synchronize(reclaim, timeout) != 0)
        return;
    struct pnx_reclaim_section *section = pnx__reclaim_section(handle);
    if (section)
        section->due_objects = 0; /* as an assist does */
    pnx__reclaim_run(reclaim, UINT64_MAX, false);
}

/*
 * A write that comes alone lets the old value go before it returns, which costs about a microsecond; of many in
 * a row that is paid once for some dozens.  So that those need no clock each, it is read only when this thread has
 * retired little, or a power of two.
 */
static bool comes_alone(struct pnx_snapshot *snapshot) {
    const struct pnx_reclaim_section *section = pnx__reclaim_section(snapshot->reclaim);
    uint32_t due = section ? section->due_objects : 0;
    if (due > 4 && (due & (due - 1)))
        return false;
    pnx_ns now = snapshot->env.now_coarse(snapshot->env.ctx);
    /* relaxed, both: a hint */
    pnx_ns last = (pnx_ns)pnx_load(&snapshot->written, PNX_RELAXED, "snapshot.written");
    if (now - last < WRITES_APART)
        return false;
    pnx_store(&snapshot->written, (uint64_t)now, PNX_RELAXED, "snapshot.written_now");
    return true;
}

void pnx__snapshot_assist(struct pnx_snapshot *snapshot) {
    pnx__mutex_assert_none_held();
    if (!pnx__reclaim_may_run())
        return; /* it stays due: see pnx__snapshot_catch_up() */
    if (comes_alone(snapshot))
        drain(snapshot->reclaim, 0);
    else
        pnx__reclaim_assist(snapshot->reclaim);
}

void pnx__snapshot_catch_up(struct pnx_snapshot *snapshot) {
    const struct pnx_reclaim_section *section = pnx__reclaim_section(snapshot->reclaim);
    if (!section || section->due_objects)
        pnx__snapshot_assist(snapshot);
}

/* ---- fork: the child finds each cell in one piece ---- */

static struct pnx_mutex cells_lock = PNX_MUTEX_STATIC(PNX_RANK_SNAPSHOTS);
static struct pnx_link cells = {&cells, &cells}; /* the lock of all cells */
static pthread_once_t fork_once = PTHREAD_ONCE_INIT;

static void fork_prepare(void) {
    pnx__fork_lock(&cells_lock);
    PNX_LIST_EACH (link, after, &cells)
        pnx__fork_lock(&PNX_CONTAINER(link, struct pnx_snapshot, link)->lock);
}

static void fork_parent(void) {
    PNX_LIST_EACH (link, after, &cells)
        pnx__fork_unlock(&PNX_CONTAINER(link, struct pnx_snapshot, link)->lock);
    pnx__fork_unlock(&cells_lock);
}

/* A writer of the parent may have published and not counted it yet, which nobody will do now. */
static void count_for_the_gone(struct pnx_snapshot *snapshot) {
    struct pnx_snapshot_values *values = &snapshot->values;
    const struct pnx_snapshot_node_ *shown =
            pnx_load(&snapshot->head.node, PNX_RELAXED, "snapshot.fork"); /* alone, as below */
    uint64_t counted = 1 + pnx_load(&values->stores, PNX_RELAXED, "snapshot.fork_stores") +
                       pnx_load(&values->updates, PNX_RELAXED, "snapshot.fork_updates") +
                       pnx_load(&values->rollbacks, PNX_RELAXED, "snapshot.fork_rollbacks");
    pnx_owner_add(&values->stores, shown->version - counted);
    pnx_store(&values->version, shown->version, PNX_RELAXED, "snapshot.fork_version");
}

static void fork_child(void) {
    PNX_LIST_EACH (link, after, &cells)
        count_for_the_gone(PNX_CONTAINER(link, struct pnx_snapshot, link));
    fork_parent();
}

static void watch_forks(void) {
    pnx__at_fork(PNX_RANK_SNAPSHOTS, fork_prepare, fork_parent, fork_child);
}

/* ---- making and ending ---- */

static int cleanup(void *arg, const struct pnx_cancel *cancel) {
    (void)cancel;
    pnx_snapshot_close(arg);
    return 0;
}

static int add_row(struct pnx_snapshot *snapshot, const struct pnx_snapshot_opts *opts,
        const void *initial, struct pnx_error *err) {
    if (opts->registry == pnx_registry_off())
        return 0;
    struct pnx_resource resource = {
            .size = sizeof(resource),
            .type = "snapshot",
            .name = snapshot->name,
            .site = opts->site,
            .cleanup = cleanup,
            .arg = snapshot,
            .bytes = sizeof(*snapshot) + pnx_rc_size(initial),
            .flags = PNX_RESOURCE_LONG_LIVED,
    };
    struct pnx_registry *registry = pnx_registry_ref(opts->registry);
    int rc = pnx_registry_add(registry, &resource, err, &snapshot->id);
    if (rc)
        pnx_registry_release(&registry);
    else
        snapshot->registry = registry;
    return rc;
}

/* Frees the nodes of a list that nobody else knows. */
static void free_nodes(struct pnx_snapshot_node *node) {
    while (node) {
        struct pnx_snapshot_node *next = node->next;
        node_free(node);
        node = next;
    }
}

/* Ends a cell that nobody can reach any more, as far as it was made. */
static void end(struct pnx_snapshot *snapshot) {
    struct pnx_env *env = &snapshot->env;
    pnx__mutex_lock(&cells_lock);
    pnx__list_remove(&snapshot->link);
    pnx__mutex_unlock(&cells_lock);
    pnx__stats_remove(&snapshot->block);
    for (uint32_t i = 0; i < snapshot->past_count; i++)
        pnx__snapshot_node_retire(snapshot->past[i]);
    pnx__free(env, snapshot->past, snapshot->history_depth, sizeof(struct pnx_snapshot_node *));
    struct pnx_snapshot_node_ *shown =
            pnx_load(&snapshot->head.node, PNX_RELAXED, "snapshot.ended"); /* the last reference */
    if (shown)
        pnx__snapshot_node_retire(pnx__snapshot_node_of(shown));
    free_nodes(snapshot->spare);
    /* acquire: pairs with snapshot.return; who finds gone there needs nothing that was done before */
    free_nodes(pnx_exchange(&snapshot->returned, &gone, PNX_ACQUIRE, "snapshot.end"));
    pnx__mutex_destroy(&snapshot->lock);
    pnx__strfree(env, snapshot->name);
    snapshot->magic = 0;
    struct pnx_reclaim *reclaim = snapshot->reclaim;
    memory_unref(snapshot);
    /* Where no section is open for long, all is gone when this returns. */
    drain(reclaim, pnx__reclaim_resolve(reclaim)->opts.assist_ns);
    pnx_reclaim_release(&reclaim);
}

/* Fills what can fail, in an order that end() can stop at. */
static int fill(struct pnx_snapshot *snapshot, const void *initial,
        const struct pnx_snapshot_opts *opts, struct pnx_error *err) {
    snapshot->name = pnx__strdup(&snapshot->env, opts->name ? opts->name : "snapshot");
    if (!snapshot->name)
        return -ENOMEM;
    if (opts->history_depth) {
        snapshot->past =
                pnx__alloc(&snapshot->env, opts->history_depth, sizeof(struct pnx_snapshot_node *));
        if (!snapshot->past)
            return -ENOMEM;
        snapshot->history_depth = opts->history_depth;
    }
    struct pnx_snapshot_node *node = pnx__snapshot_node_new(snapshot);
    if (!node)
        return -ENOMEM;
    int rc = pnx__snapshot_validate(snapshot, initial, NULL, err);
    if (rc) {
        pnx__snapshot_node_return(node);
        return rc;
    }
    node->shown = (struct pnx_snapshot_node_){pnx_rc_ref(initial), 1};
    if (snapshot->history_depth)
        node->real_ns = snapshot->env.real_ns(snapshot->env.ctx);
    pnx_store(&node->pins, 1, PNX_RELAXED, "snapshot.first_pin");
    /* relaxed, and so on: nobody else knows the cell yet */
    pnx_store(&snapshot->head.node, &node->shown, PNX_RELAXED, "snapshot.first_node");
    pnx_owner_add(&snapshot->values.version, 1);
    return 0;
}

int pnx_snapshot_create(const void *initial, const struct pnx_snapshot_opts *user,
        struct pnx_error *err, struct pnx_snapshot **ret_snapshot) {
    struct pnx_snapshot_opts opts;
    struct pnx_env env;
    int rc = pnx__opts_resolve(&options, user, &opts, err);
    if (rc == 0)
        rc = pnx__env_resolve(opts.env, err, &env);
    if (rc)
        return rc;
    if (!initial || !ret_snapshot)
        return pnx__fail_field(err, -EINVAL, initial ? "ret_snapshot" : "initial",
                "snapshot: %s is NULL", initial ? "ret_snapshot" : "initial");
    struct pnx_snapshot *snapshot =
            pnx__alloc_aligned(&env, 1, sizeof(*snapshot), _Alignof(struct pnx_snapshot));
    if (!snapshot)
        return pnx__fail(err, -ENOMEM, 0, "create", "snapshot: out of memory");
    snapshot->magic = PNX_SNAPSHOT_MAGIC;
    snapshot->env = env;
    snapshot->validate = opts.validate;
    snapshot->ctx = opts.ctx;
    snapshot->write_timeout_ns = opts.write_timeout_ns;
    snapshot->max_watches = opts.max_watches;
    /* NULL is the default domain, also when it was named: its sections are reached by one load less */
    if (opts.reclaim != pnx_reclaim_default())
        snapshot->reclaim = opts.reclaim ? pnx_reclaim_ref(opts.reclaim) : NULL;
    pnx__mutex_init(&snapshot->lock, PNX_RANK_SNAPSHOT);
    pnx__list_init(&snapshot->watches);
    pnx_store(&snapshot->references, 1, PNX_RELAXED, "snapshot.create"); /* nobody knows it yet */
    pnx_store(&snapshot->memory, 1, PNX_RELAXED, "snapshot.create_memory"); /* likewise */
    rc = fill(snapshot, initial, &opts, err);
    if (rc == 0) {
        /* After that of reclaim, whose locks are taken under a cell's: the last one registered goes first. */
        pthread_once(&fork_once, watch_forks);
        pnx__mutex_lock(&cells_lock);
        pnx__list_push_back(&cells, &snapshot->link);
        pnx__mutex_unlock(&cells_lock);
        pnx__snapshot_stats_init(&snapshot->block, snapshot->name, &snapshot->values, NULL);
        pnx__stats_add(opts.stats, &snapshot->block);
        rc = add_row(snapshot, &opts, initial, err);
    } else if (rc == -ENOMEM) {
        (void)pnx__fail(err, rc, 0, "create", "snapshot: out of memory");
    }
    if (rc)
        end(snapshot);
    else
        *ret_snapshot = snapshot;
    return rc;
}

struct pnx_snapshot *pnx_snapshot_ref(struct pnx_snapshot *snapshot) {
    if (!snapshot)
        return NULL;
    pnx__snapshot_expect(snapshot);
    pnx_fetch_add(&snapshot->references, 1, PNX_RELAXED, "snapshot.ref"); /* the caller holds one */
    return snapshot;
}

void pnx_snapshot_release(struct pnx_snapshot **handle) {
    if (!handle || !*handle)
        return;
    struct pnx_snapshot *snapshot = *handle;
    *handle = NULL;
    pnx__snapshot_expect(snapshot);
    /* acq_rel: pairs with itself; all that other holders did comes before the end */
    if (pnx_fetch_sub(&snapshot->references, 1, PNX_ACQ_REL, "snapshot.release") != 1)
        return;
    if (snapshot->registry) {
        (void)pnx_registry_remove(
                snapshot->registry, snapshot->id); /* waits for a running cleanup */
        pnx_registry_release(&snapshot->registry);
    }
    end(snapshot);
}

void pnx__snapshot_wake(struct pnx_snapshot *snapshot, uint32_t changes) {
    if (!(changes & PNX_SNAPSHOT_SLEEPERS))
        return;
    /* relaxed: before the wake, so that who marks it again is either woken now or sees the difference */
    pnx_fetch_and(
            &snapshot->changes, ~(uint32_t)PNX_SNAPSHOT_SLEEPERS, PNX_RELAXED, "snapshot.unmark");
    pnx__futex_wake(&snapshot->changes, UINT32_MAX);
}

void pnx_snapshot_close(struct pnx_snapshot *snapshot) {
    if (!snapshot)
        return;
    pnx__snapshot_expect(snapshot);
    /* release: pairs with snapshot.wait and snapshot.write; who finds it closed sees what came before */
    uint32_t changes =
            pnx_fetch_or(&snapshot->changes, PNX_SNAPSHOT_CLOSED, PNX_RELEASE, "snapshot.close");
    if (changes & PNX_SNAPSHOT_CLOSED)
        return;
    pnx__snapshot_wake(snapshot, changes);
    if (changes & PNX_SNAPSHOT_WATCHED)
        pnx__watches_notify(snapshot);
}

/* ---- reading ---- */

const void *pnx_snapshot_load(struct pnx_snapshot *snapshot, uint64_t *ret_version) {
    if (!snapshot)
        return NULL;
    pnx__snapshot_expect(snapshot);
    pnx_reclaim_enter(snapshot->reclaim);
    uint64_t version;
    const void *value = pnx_snapshot_peek(snapshot, &version);
    bool saturated = pnx__rc_ref_silent(value);
    pnx_reclaim_exit(snapshot->reclaim);
    if (saturated)
        pnx__rc_report(value);
    if (ret_version)
        *ret_version = version;
    return value;
}

uint64_t pnx_snapshot_version(const struct pnx_snapshot *snapshot) {
    if (!snapshot)
        return 0;
    pnx__snapshot_expect(snapshot);
    uint64_t version;
    pnx_reclaim_enter(snapshot->reclaim);
    (void)!pnx_snapshot_peek(snapshot, &version);
    pnx_reclaim_exit(snapshot->reclaim);
    return version;
}

/* What a reader without a cell looks at. */
static const struct pnx_snapshot_head_ no_cell;

struct pnx_snapshot_reader pnx_snapshot_reader_make_(struct pnx_snapshot *snapshot) {
    if (!snapshot)
        return (struct pnx_snapshot_reader){.head_ = &no_cell};
    return (struct pnx_snapshot_reader){
            .head_ = &snapshot->head, .snapshot_ = pnx_snapshot_ref(snapshot)};
}

struct pnx_snapshot_reader pnx_snapshot_reader_pin_(struct pnx_snapshot *snapshot) {
    pnx__snapshot_expect(snapshot);
    pnx_reclaim_enter(snapshot->reclaim);
    /* acquire: pairs with snapshot.publish */
    const struct pnx_snapshot_node_ *shown =
            pnx_load(&snapshot->head.node, PNX_ACQUIRE, "snapshot.refresh");
    /* relaxed: the section keeps the cell's pin; what the value holds came with the load */
    pnx_fetch_add(&pnx__snapshot_node_of(shown)->pins, 1, PNX_RELAXED, "snapshot.pin");
    pnx_reclaim_exit(snapshot->reclaim);
    return (struct pnx_snapshot_reader){.head_ = &snapshot->head,
            .node_ = shown,
            .value_ = shown->value,
            .snapshot_ = snapshot};
}

void pnx_snapshot_reader_unpin_(
        struct pnx_snapshot *snapshot, const struct pnx_snapshot_node_ *node) {
    pnx__snapshot_expect(snapshot);
    unpin(pnx__snapshot_node_of(node));
}

/* ---- waiting, numbers ---- */

int pnx__snapshot_sleep(struct pnx_snapshot *snapshot, uint32_t changes, pnx_ns deadline) {
    if (pnx__reclaim_in_any())
        return -EDEADLK; /* the writer may be waiting for the section's end */
    /* relaxed: see at the top of the file */
    if (!(changes & PNX_SNAPSHOT_SLEEPERS) &&
            !pnx_cas(&snapshot->changes, &changes, changes | PNX_SNAPSHOT_SLEEPERS, PNX_RELAXED,
                    "snapshot.mark"))
        return 0;
    struct pnx_snapshot_values *values = &snapshot->values;
    pnx_fetch_add(&values->waiters, 1, PNX_RELAXED, "snapshot.waiters_more"); /* statistics */
    pnx_fetch_add(&values->waits, 1, PNX_RELAXED, "snapshot.waits");
    int rc = pnx__wait(
            &snapshot->changes, changes | PNX_SNAPSHOT_SLEEPERS, &snapshot->env, deadline);
    pnx_fetch_sub(&values->waiters, 1, PNX_RELAXED, "snapshot.waiters_less");
    return rc;
}

int pnx_snapshot_wait(struct pnx_snapshot *snapshot, uint64_t seen, pnx_ns timeout) {
    if (!snapshot)
        return -EINVAL;
    pnx__snapshot_expect(snapshot);
    int slept = pnx__timeout(timeout, PNX_NEVER, NULL, &timeout);
    if (slept)
        return slept;
    pnx_ns deadline = timeout ? pnx__deadline(pnx__now(&snapshot->env), timeout) : 0;
    for (;;) {
        /* acquire: pairs with snapshot.changes and snapshot.close; the version that was told of is there */
        uint32_t changes = pnx_load(&snapshot->changes, PNX_ACQUIRE, "snapshot.wait");
        if (pnx_snapshot_version(snapshot) > seen)
            return 0;
        if (changes & PNX_SNAPSHOT_CLOSED)
            return -ESHUTDOWN;
        if (timeout == 0)
            return -ETIMEDOUT;
        if (slept)
            return slept;
        slept = pnx__snapshot_sleep(snapshot, changes, deadline);
    }
}

int pnx_snapshot_read_stats(
        const struct pnx_snapshot *snapshot, struct pnx_snapshot_stats *ret_stats) {
    struct pnx_snapshot_stats stats = {0};
    if (!snapshot || !ret_stats || ret_stats->size < sizeof(size_t))
        return -EINVAL;
    size_t size = ret_stats->size < sizeof(stats) ? ret_stats->size : sizeof(stats);
    pnx__snapshot_expect(snapshot);
    static_assert(sizeof(stats) == sizeof(size_t) + sizeof(snapshot->values), "one row, one word");
    pnx__stats_read(&snapshot->block, &stats.version);
    stats.size = size;
    memcpy(ret_stats, &stats, size);
    return 0;
}
