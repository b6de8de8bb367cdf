/* SPDX-License-Identifier: Apache-2.0 */
/*
 * share/reclaim_gp.c - the grace period: from nodes retired to nodes that nobody can be reading.
 *
 * Left-right's wait and SRCU's counters, with one Dekker pair (see docs/design/2026-11-23-share.md): a snapshot
 * of the section words is taken after a heavy barrier, and each section found open is waited for.
 *
 * Why a node is not freed too early.  Writer: unlink; retire (reclaim.push, release) -> taken (reclaim.take,
 * acquire) -> heavy barrier H -> scan.  Reader: enter's store, light barrier L, loads.  H and L are totally
 * ordered (both fences, or membarrier, which puts a fence into every thread):
 *   L after H:  the section's loads see the unlink; it cannot hold the node.
 *   L before H: the scan sees the enter's store or a later one of that thread.  If it sees the section open, the node
 *               waits until the word has another number or no nesting; if it sees a later word, the section has ended.
 * Either way the load that told of the end is an acquire, and every store to the word a release, so that the
 * section's reads come before the free.  It must be every store: C++20 (P0982) has no release sequence through
 * later plain stores of the same thread, and the scan may read the word of the next enter instead of the exit's.
 * A section that begins after the scan has its L after H, or else the scan would have seen its store.
 * The list of sections is loaded after H for the same reason: a thread that is not on it yet has its L after H.
 *
 * Why a sleeper is woken.  It sets awaited, executes a heavy barrier, and looks at the word again; the reader
 * stores the word, and then looks at awaited with only a light barrier's worth of order between: one of the two
 * sees the other.  With fences the exit has none, to stay cheap; sleepers then look again every millisecond.
 */
#include "os/thread.h"
#include "share/check.h"
#include "share/reclaim.h"

static struct pnx_reclaim_section *first_section(const struct pnx_reclaim *domain) {
    /* Acquire: pairs with reclaim.join; the section is all there.  Stands after the heavy barrier in a scan. */
    return pnx_load(&domain->sections, PNX_ACQUIRE, "reclaim.sections");
}

static int heavy(const struct pnx_reclaim *domain) {
    if (!domain->fenced)
        return pnx__barrier_heavy();
    pnx_fence(PNX_SEQ_CST, "reclaim.heavy"); /* pairs with reclaim.light */
    return 0;
}

static void append(struct pnx_reclaim_queue *queue, struct pnx_reclaim_node *first,
        struct pnx_reclaim_node *last, uint64_t n) {
    if (!n)
        return;
    if (queue->last)
        queue->last->next = first;
    else
        queue->first = first;
    queue->last = last;
    queue->n += n;
}

/* Takes all nodes of a stack, and queues them in the order of retiring. */
static void take(struct pnx_reclaim *domain, struct pnx_aptr *stack) {
    if (!pnx_load(stack, PNX_RELAXED, "reclaim.any")) /* what came before our call is seen */
        return;
    /* Acquire: pairs with reclaim.push, of every node: pushes are read-modify-writes. */
    struct pnx_reclaim_node *node = pnx_exchange(stack, NULL, PNX_ACQUIRE, "reclaim.take");
    struct pnx_reclaim_node *last = node, *first = NULL;
    uint64_t n = 0;
    while (node) {
        struct pnx_reclaim_node *next = node->next;
        node->next = first;
        first = node;
        node = next;
        n++;
    }
    append(&domain->flight, first, last, n);
    domain->collected += n;
}

static bool has_ended(const struct pnx_reclaim_section *section, uint64_t word) {
    bool open = (word & (PNX_RECLAIM_NEST_ | PNX_RECLAIM_FULL_)) != 0;
    return !open || word / PNX_RECLAIM_NUMBER_ != section->seen / PNX_RECLAIM_NUMBER_;
}

static void gp_end(struct pnx_reclaim *domain, struct pnx_reclaim_effects *effects) {
    domain->ended = domain->begun;
    append(&domain->ready, domain->flight.first, domain->flight.last, domain->flight.n);
    domain->flight = (struct pnx_reclaim_queue){0};
    pnx_owner_add(&domain->values.grace_periods, 1);
    effects->wake |= domain->sleepers != 0;
}

/* Strikes those from the list whose section has ended. */
static void gp_poll(struct pnx_reclaim *domain, struct pnx_reclaim_effects *effects) {
    struct pnx_reclaim_section **at = &domain->awaited;
    while (*at) {
        struct pnx_reclaim_section *section = *at;
        /* Acquire: see the top. */
        if (has_ended(section, pnx_load(&section->word, PNX_ACQUIRE, "reclaim.poll")))
            *at = section->next_awaited;
        else
            at = &section->next_awaited;
    }
    /* Acquire: pairs with reclaim.guest_exit. */
    if (domain->guests_awaited &&
            pnx_load(&domain->guests, PNX_ACQUIRE, "reclaim.poll_guests") == 0)
        domain->guests_awaited = false;
    if (!domain->awaited && !domain->guests_awaited)
        gp_end(domain, effects);
}

static void break_down(struct pnx_reclaim *domain, int code, struct pnx_reclaim_effects *effects) {
    domain->broken = true;
    domain->untold = true;
    domain->code = code;
    effects->wake |= domain->sleepers != 0;
    pnx_store(&domain->values.broken, 1, PNX_RELAXED, "reclaim.broken"); /* a gauge */
}

static void gp_begin(struct pnx_reclaim *domain, struct pnx_reclaim_effects *effects) {
    struct pnx_reclaim_section *section;
    uint32_t sections = 0;
    for (section = first_section(domain); section; section = section->next, sections++)
        take(domain, &section->retired);
    take(domain, &domain->guest_nodes);
    /* Relaxed: so that what a look at all sections costs is spread over enough objects. */
    pnx_store(&domain->batch, sections / PNX_RECLAIM_DUE_SHARE, PNX_RELAXED, "reclaim.set_batch");
    int rc = heavy(domain);
    if (rc) {
        break_down(domain, rc, effects);
        return;
    }
    domain->begun++;
    for (section = first_section(domain); section; section = section->next) {
        /* Acquire, as in gp_poll(): a word without nesting tells that earlier sections have ended. */
        section->seen = pnx_load(&section->word, PNX_ACQUIRE, "reclaim.scan");
        if (has_ended(section, section->seen))
            continue;
        section->next_awaited = domain->awaited;
        domain->awaited = section;
    }
    /* Acquire: pairs with reclaim.guest_exit. */
    domain->guests_awaited = pnx_load(&domain->guests, PNX_ACQUIRE, "reclaim.scan_guests") != 0;
    if (!domain->awaited && !domain->guests_awaited) {
        gp_end(domain, effects);
        return;
    }
    domain->since = pnx__now(&domain->env);
    domain->stall = pnx__deadline(domain->since, domain->opts.stall_warn_ns);
}

static bool any_retired(const struct pnx_reclaim *domain) {
    const struct pnx_reclaim_section *section = first_section(domain);
    for (; section; section = section->next) {
        if (pnx_load(&section->retired, PNX_RELAXED, "reclaim.any_retired")) /* a hint */
            return true;
    }
    return pnx_load(&domain->guest_nodes, PNX_RELAXED, "reclaim.any_guest") != NULL; /* likewise */
}

void pnx__reclaim_step(struct pnx_reclaim *domain, enum pnx_reclaim_begin begin,
        struct pnx_reclaim_effects *effects) {
    pnx__mutex_assert_held(&domain->lock);
    if (domain->broken)
        return;
    if (domain->begun != domain->ended)
        gp_poll(domain, effects);
    if (domain->begun != domain->ended || begin == PNX_BEGIN_NONE)
        return;
    if (begin == PNX_BEGIN_ALWAYS || any_retired(domain))
        gp_begin(domain, effects);
}

bool pnx__reclaim_await(struct pnx_reclaim *domain, struct pnx_reclaim_effects *effects) {
    struct pnx_reclaim_section *section = domain->awaited;
    for (; section; section = section->next_awaited)
        pnx_store(&section->awaited, 1, PNX_RELAXED, "reclaim.await"); /* the barrier orders it */
    int rc = heavy(domain);
    if (rc)
        break_down(domain, rc, effects);
    else
        gp_poll(domain, effects);
    return !domain->broken && domain->begun != domain->ended;
}

void pnx__reclaim_sum(
        const struct pnx_reclaim *domain, uint64_t *ret_objects, uint64_t *ret_bytes) {
    /* Relaxed: statistics, and limits that are no promise to the object. */
    uint64_t objects = pnx_load(&domain->guest_objects, PNX_RELAXED, "reclaim.sum_guests");
    uint64_t bytes = pnx_load(&domain->guest_bytes, PNX_RELAXED, "reclaim.sum_guest_bytes");
    const struct pnx_reclaim_section *section = first_section(domain);
    for (; section; section = section->next) {
        objects += pnx_load(&section->objects, PNX_RELAXED, "reclaim.sum_objects");
        bytes += pnx_load(&section->bytes, PNX_RELAXED, "reclaim.sum_bytes");
    }
    *ret_objects = objects;
    *ret_bytes = bytes;
}

void pnx__reclaim_gauges(struct pnx_reclaim *domain) {
    struct pnx_reclaim_values *values = &domain->values;
    uint64_t objects, bytes, threads = 0;
    /* Relaxed: the lock, under which it is written. */
    uint64_t run = pnx_load(&domain->run, PNX_RELAXED, "reclaim.sum_run");
    uint64_t run_bytes = pnx_load(&domain->run_bytes, PNX_RELAXED, "reclaim.sum_run_bytes");
    pnx__reclaim_sum(domain, &objects, &bytes);
    const struct pnx_reclaim_section *section = first_section(domain);
    for (; section; section = section->next)
        threads++;
    /* Relaxed: numbers for people. */
    pnx_store(&values->retired, objects, PNX_RELAXED, "reclaim.stat_retired");
    pnx_store(&values->reclaimed, run, PNX_RELAXED, "reclaim.stat_reclaimed");
    pnx_store(&values->pending, objects > run ? objects - run : 0, PNX_RELAXED, "reclaim.stat_n");
    pnx_store(&values->pending_memory, bytes > run_bytes ? bytes - run_bytes : 0, PNX_RELAXED,
            "reclaim.stat_bytes");
    pnx_store(&values->threads, threads, PNX_RELAXED, "reclaim.stat_threads");
}

void pnx__reclaim_look_for_stall(
        struct pnx_reclaim *domain, pnx_ns now, struct pnx_reclaim_effects *effects) {
    if (domain->begun == domain->ended || now < domain->stall)
        return;
    const struct pnx_reclaim_section *section = domain->awaited;
    pnx__reclaim_gauges(domain);
    effects->stalled = true;
    effects->stall = (struct pnx_reclaim_stall){
            .size = sizeof(effects->stall),
            .domain = domain->name,
            .age = now - domain->since,
            /* Relaxed: written under this lock. */
            .pending_objects =
                    pnx_load(&domain->values.pending, PNX_RELAXED, "reclaim.stall_objects"),
            .pending_bytes =
                    pnx_load(&domain->values.pending_memory, PNX_RELAXED, "reclaim.stall_bytes"),
            .sections = domain->guests_awaited,
    };
    if (section) {
        /* Relaxed: a number that its thread wrote before it ever entered. */
        effects->stall.thread = pnx_load(&section->thread_id, PNX_RELAXED, "reclaim.stall_thread");
        /* Relaxed, both: written when the section began; another's is not told. */
        uint64_t sited = pnx_load(&section->sited, PNX_RELAXED, "reclaim.report_sited");
        if (sited == section->seen / PNX_RECLAIM_NUMBER_)
            effects->stall.site = pnx_load(&section->site, PNX_RELAXED, "reclaim.report_site");
    }
    for (; section; section = section->next_awaited)
        effects->stall.sections++;
    domain->stall = pnx__deadline(now, domain->opts.stall_warn_ns);
    pnx_owner_add(&domain->values.stalls, 1);
}
