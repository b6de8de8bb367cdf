/* SPDX-License-Identifier: Apache-2.0 */
/*
 * share/reclaim_thread.c - threads that come, end and fork, and those for which there is no memory.
 *
 * The section of the default domain is part of the thread's record, those of other domains are allocated.  A
 * section stays on its domain's list for as long as the domain lives; when its thread ends, another may have it.
 */
#include "os/fork.h"
#include "os/futex.h"
#include "os/thread.h"
#include "share/check.h"
#include "share/reclaim.h"

#include <assert.h>
#include <errno.h>

static_assert(sizeof(struct pnx_reclaim_section) == 128, "two cache lines");
static_assert(offsetof(struct pnx_reclaim_section, seen) == 64, "the second one is the domain's");
static_assert(sizeof(struct pnx_reclaim_thread) == PNX_THREAD_HEAD, "as os/thread.h says");
static_assert(PNX_RECLAIM_DOMAINS_MAX == PNX_THREAD_DOMAINS, "likewise");

static struct pnx_mutex all_lock = PNX_MUTEX_STATIC(PNX_RANK_RECLAIM_ALL);
static struct pnx_reclaim *all[PNX_RECLAIM_DOMAINS_MAX]; /* guarded by all_lock */
static struct pnx_a64 strangers; /* open sections of threads without a record, in whatever domain */

static struct pnx_reclaim_thread *head_of(struct pnx_thread *thread) {
    return (struct pnx_reclaim_thread *)(void *)thread->head;
}

/* ---- joining ---- */

static struct pnx_reclaim_section *free_section_locked(const struct pnx_reclaim *domain) {
    /* Relaxed: sections are added under this lock. */
    struct pnx_reclaim_section *section =
            pnx_load(&domain->sections, PNX_RELAXED, "reclaim.free_section");
    while (section && section->thread)
        section = section->next;
    return section;
}

static void link_section(struct pnx_reclaim *domain, struct pnx_reclaim_section *section) {
    section->linked = 1;
    void *first = pnx_load(&domain->sections, PNX_RELAXED, "reclaim.list_head"); /* only compared */
    do
        section->next = first;
    while (!pnx_cas(&domain->sections, &first, section, PNX_RELEASE,
            "reclaim.join")); /* pairs with reclaim.sections */
}

/* Finds or makes a section in a domain that is not the default one. */
static struct pnx_reclaim_section *borrow(
        struct pnx_reclaim *domain, struct pnx_reclaim_thread *self) {
    pnx__mutex_lock(&all_lock);
    struct pnx_reclaim_section *section = free_section_locked(domain);
    if (section)
        section->thread = self;
    pnx__mutex_unlock(&all_lock);
    if (section)
        return section;
    section = pnx__alloc_aligned(&domain->env, 1, sizeof(*section), 64);
    if (!section)
        return NULL;
    section->thread = self;
    return section;
}

struct pnx_reclaim_section *pnx__reclaim_join(struct pnx_reclaim *domain) {
    struct pnx_thread *thread = pnx__thread();
    if (!thread)
        return NULL;
    struct pnx_reclaim_thread *self = head_of(thread);
    struct pnx_aptr *slot = &self->sections[domain->head.index];
    /* Relaxed: ours, see pnx__reclaim_section(). */
    struct pnx_reclaim_section *section = pnx_load(slot, PNX_RELAXED, "reclaim.joined");
    if (section)
        return section;
    section = domain->head.index ? borrow(domain, self) : &self->section;
    if (!section)
        return NULL;
    /* Relaxed: for reports. */
    pnx_store(&section->thread_id, thread->id, PNX_RELAXED, "reclaim.thread_id");
    uint64_t word = pnx_load(&section->word, PNX_RELAXED, "reclaim.join_word"); /* ours now */
    word |= PNX_RECLAIM_READY_ | (domain->fenced ? PNX_RECLAIM_FENCE_ : 0);
    /* Release: like every store of a word. */
    pnx_store(&section->word, word, PNX_RELEASE, "reclaim.ready");
    pnx__mutex_lock(&all_lock);
    section->thread = self; /* by which a forked child knows that it is another thread's */
    if (!section->linked)
        link_section(domain, section);
    pnx__mutex_unlock(&all_lock);
    pnx_store(slot, section, PNX_RELAXED, "reclaim.join_slot"); /* read by this thread */
    thread->reclaim_joined |= UINT64_C(1) << domain->head.index;
    return section;
}

/* ---- the slow half of enter and exit ---- */

void pnx__reclaim_misused(
        struct pnx_reclaim *domain, int code, const struct pnx_reclaim_section *section) {
    uint64_t id = 0;
    /* Relaxed: a statistic. */
    pnx_fetch_add(&domain->values.misuses, 1, PNX_RELAXED, "reclaim.report");
    if (section)
        id = pnx_load(&section->thread_id, PNX_RELAXED, "reclaim.report_id"); /* ours */
    pnx__event(&domain->block, PNX_EVENT_RECLAIM_MISUSE, domain->name, code, NULL, (int64_t)id, 0);
}

/*
 * No memory for a section: such threads share a count, and a grace period waits until it is 0.  Each thread knows
 * its own part of it, unless there was no memory for a record either.
 */
static void guest_enter(struct pnx_reclaim *domain) {
    struct pnx_thread *self = PNX_SELF;
    uint8_t *open = self ? &self->reclaim_guest[domain->head.index] : NULL;
    if (open && *open == UINT8_MAX)
        return; /* for ever inside, and reported */
    if (open) {
        ++*open;
        self->reclaim_joined |= UINT64_C(1) << domain->head.index;
    } else {
        pnx_fetch_add(&strangers, 1, PNX_RELAXED, "reclaim.stranger"); /* its own is all it reads */
    }
    /* Pairs with reclaim.scan_guests by the fence. */
    pnx_fetch_add(&domain->guests, 1, PNX_RELAXED, "reclaim.guest_enter");
    pnx_fence(PNX_SEQ_CST, "reclaim.guest_light"); /* pairs with reclaim.heavy, thread.heavy */
    pnx_fetch_add(&domain->values.guests, 1, PNX_RELAXED, "reclaim.stat_guests");
    if (open && *open == UINT8_MAX)
        pnx__reclaim_misused(domain, -EOVERFLOW, NULL);
}

void pnx_reclaim_enter_slow_(struct pnx_reclaim *handle) {
    struct pnx_reclaim *domain = pnx__reclaim_resolve(handle);
    struct pnx_reclaim_section *section = pnx__reclaim_join(domain);
    if (!section) {
        guest_enter(domain);
        return;
    }
    uint64_t word = pnx_load(&section->word, PNX_RELAXED, "reclaim.slow_word"); /* ours */
    if ((word & PNX_RECLAIM_FULL_) && (word & PNX_RECLAIM_NEST_))
        return; /* for ever inside, and reported */
    /* Release, and a fence: as reclaim.enter and reclaim.light. */
    pnx_store(&section->word, word + 1, PNX_RELEASE, "reclaim.slow_enter");
    pnx_fence(PNX_SEQ_CST, "reclaim.slow_light");
    if (word & PNX_RECLAIM_FULL_)
        pnx__reclaim_misused(domain, -EOVERFLOW, section);
}

/* Takes one off, if there is one. */
static bool take_one(struct pnx_a64 *count) {
    uint64_t n = pnx_load(count, PNX_RELAXED, "reclaim.guests"); /* the CAS checks */
    while (n) {
        /* Release: pairs with reclaim.poll_guests and reclaim.scan_guests. */
        if (pnx_cas(count, &n, n - 1, PNX_RELEASE, "reclaim.guest_exit"))
            return true;
    }
    return false;
}

/* Ends a section that was entered without memory for it.  false: there is none of this thread's. */
static bool guest_exit(struct pnx_reclaim *domain) {
    struct pnx_thread *self = PNX_SELF;
    uint8_t *open = self ? &self->reclaim_guest[domain->head.index] : NULL;
    if (open && *open) {
        if (*open == UINT8_MAX)
            return true;
        --*open;
        return take_one(&domain->guests);
    }
    /* It had no record when it entered, and may have one now. */
    return take_one(&strangers) && take_one(&domain->guests);
}

void pnx_reclaim_exit_slow_(struct pnx_reclaim *handle) {
    struct pnx_reclaim *domain = pnx__reclaim_resolve(handle);
    struct pnx_reclaim_section *section = pnx__reclaim_section(domain);
    if (section) {
        uint64_t word = pnx_load(&section->word, PNX_RELAXED, "reclaim.exit_slow"); /* ours */
        if (word & PNX_RECLAIM_FULL_)
            return;
    }
    if (!guest_exit(domain))
        pnx__reclaim_misused(domain, -EINVAL, section);
}

static void wake(struct pnx_reclaim *domain, struct pnx_reclaim_section *section) {
    pnx_store(&section->awaited, 0, PNX_RELAXED, "reclaim.awaited"); /* set again if need be */
    /* Release: pairs with reclaim.sleep; the end of the section is seen by who is woken. */
    pnx_fetch_add(&domain->changed, 1, PNX_RELEASE, "reclaim.wake");
    pnx__futex_wake(&domain->changed, UINT32_MAX);
}

void pnx_reclaim_wake_(struct pnx_reclaim *handle) {
    struct pnx_reclaim *domain = pnx__reclaim_resolve(handle);
    struct pnx_reclaim_section *section = pnx__reclaim_section(domain);
    if (section)
        wake(domain, section);
}

/* The domains that a thread has joined are a set of bits; one of a domain that has ended stays. */
static_assert(PNX_RECLAIM_DOMAINS_MAX == 64, "one bit each");
static uint32_t lowest(uint64_t bits) {
    return (uint32_t)__builtin_ctzll(bits);
}

static bool is_open(const struct pnx_reclaim_section *section) {
    uint64_t word = pnx_load(&section->word, PNX_RELAXED, "reclaim.is_open"); /* the caller's own */
    return (word & (PNX_RECLAIM_NEST_ | PNX_RECLAIM_FULL_)) != 0;
}

/* Whether a thread is in a section of the domain of that number. */
static bool is_inside(struct pnx_thread *thread, uint32_t index) {
    /* Relaxed: ours, see pnx__reclaim_section(). */
    const struct pnx_reclaim_section *section =
            pnx_load(&head_of(thread)->sections[index], PNX_RELAXED, "reclaim.is_inside");
    return thread->reclaim_guest[index] || (section && is_open(section));
}

bool pnx_reclaim_in_section(struct pnx_reclaim *handle) {
    struct pnx_reclaim *domain = pnx__reclaim_resolve(handle);
    struct pnx_thread *self = PNX_SELF;
    if (!self) /* Relaxed: its own enter and exit are what counts. */
        return pnx_load(&domain->guests, PNX_RELAXED, "reclaim.maybe_inside") != 0;
    return is_inside(self, domain->head.index);
}

bool pnx__reclaim_in_any(void) {
    struct pnx_thread *thread = pnx__thread();
    if (!thread) /* Relaxed: as above. */
        return pnx_load(&strangers, PNX_RELAXED, "reclaim.maybe_in_any") != 0;
    for (uint64_t left = thread->reclaim_joined; left; left &= left - 1) {
        if (is_inside(thread, lowest(left)))
            return true;
    }
    return false;
}

/* ---- the end of a thread ---- */

/* Makes the section as that of a thread that is not there.  Returns whether it was open. */
static bool vacate(struct pnx_reclaim_section *section) {
    uint64_t word = pnx_load(&section->word, PNX_RELAXED, "reclaim.vacate_word"); /* ours */
    /* Release: as reclaim.exit.  FULL goes too: the next thread has done nothing wrong. */
    pnx_store(&section->word, (word / PNX_RECLAIM_NUMBER_ + 1) * PNX_RECLAIM_NUMBER_, PNX_RELEASE,
            "reclaim.vacate");
    section->thread = NULL;
    return (word & (PNX_RECLAIM_NEST_ | PNX_RECLAIM_FULL_)) != 0;
}

/* Takes a reference unless the last one has gone: then the domain is ending, and was not freed because of us. */
static bool ref_if_alive(struct pnx_reclaim *domain) {
    /* Relaxed, both: the lock of all domains keeps the memory, and nothing else is read by it. */
    uint32_t references = pnx_load(&domain->references, PNX_RELAXED, "reclaim.alive");
    while (references && !pnx_cas(&domain->references, &references, references + 1, PNX_RELAXED,
                                 "reclaim.ref_alive"))
        ;
    return references != 0;
}

/* Takes the thread out of a domain; returns a reference to it when the thread ended inside a section. */
static struct pnx_reclaim *leave(struct pnx_thread *thread, uint32_t index) {
    struct pnx_reclaim_thread *self = head_of(thread);
    struct pnx_reclaim *died = NULL;
    pnx__mutex_lock(&all_lock);
    struct pnx_reclaim *domain = all[index];
    if (thread->reclaim_guest[index]) {
        /* Release: as reclaim.guest_exit. */
        pnx_fetch_sub(
                &domain->guests, thread->reclaim_guest[index], PNX_RELEASE, "reclaim.guest_leave");
        thread->reclaim_guest[index] = 0;
        if (ref_if_alive(domain))
            died = domain;
    }
    /* Relaxed: guarded by the lock where another thread may write it. */
    struct pnx_reclaim_section *section =
            pnx_load(&self->sections[index], PNX_RELAXED, "reclaim.leave");
    if (section) {
        pnx_store(&self->sections[index], NULL, PNX_RELAXED, "reclaim.left"); /* likewise */
        if (vacate(section) && !died && ref_if_alive(domain))
            died = domain;
        /* Nobody missed it: a sleeper that asks later finds the section ended, see reclaim_gp.c. */
        pnx__barrier_light();
        if (pnx_load(&section->awaited, PNX_RELAXED, "reclaim.leave_awaited")) /* light */
            wake(domain, section);
    }
    pnx__mutex_unlock(&all_lock);
    return died;
}

static void thread_ends(struct pnx_thread *thread) {
    /* A monitor that hears of it may enter sections, and so join again; at last it is its own fault. */
    for (int rounds = 4 * PNX_RECLAIM_DOMAINS_MAX; thread->reclaim_joined && rounds; rounds--) {
        uint32_t index = lowest(thread->reclaim_joined);
        thread->reclaim_joined &= thread->reclaim_joined - 1;
        struct pnx_reclaim *died = leave(thread, index);
        if (!died)
            continue;
        pnx_fetch_add(&died->values.deaths, 1, PNX_RELAXED, "reclaim.deaths"); /* a statistic */
        pnx__event(
                &died->block, PNX_EVENT_RECLAIM_DIED, died->name, 0, NULL, (int64_t)thread->id, 0);
        pnx_reclaim_release(&died);
    }
}

/* ---- all domains ---- */

int pnx__reclaim_list_add(struct pnx_reclaim *domain) {
    int rc = -EBUSY;
    pnx__mutex_lock(&all_lock);
    for (uint32_t i = domain->head.index; i < PNX_RECLAIM_DOMAINS_MAX && rc; i++) {
        if (all[i])
            continue;
        all[i] = domain;
        domain->head.index = i;
        rc = 0;
    }
    pnx__mutex_unlock(&all_lock);
    return rc;
}

bool pnx__reclaim_others(void) {
    bool others = false;
    pnx__mutex_lock(&all_lock);
    for (uint32_t i = 1; i < PNX_RECLAIM_DOMAINS_MAX; i++)
        others |= all[i] != NULL;
    pnx__mutex_unlock(&all_lock);
    return others;
}

void pnx__reclaim_part(struct pnx_reclaim *domain) {
    uint32_t index = domain->head.index;
    pnx__mutex_lock(&all_lock);
    if (all[index] == domain)
        all[index] = NULL;
    /* Relaxed: sections are added under this lock. */
    struct pnx_reclaim_section *first = pnx_load(&domain->sections, PNX_RELAXED, "reclaim.part");
    for (struct pnx_reclaim_section *section = first; section; section = section->next) {
        if (section->thread) /* relaxed: that thread uses it no more, see pnx_reclaim_release() */
            pnx_store(&section->thread->sections[index], NULL, PNX_RELAXED, "reclaim.parted");
    }
    if (index == 0) /* the records' owner frees them */
        first = NULL;
    pnx_store(&domain->sections, NULL, PNX_RELAXED, "reclaim.emptied"); /* nobody looks any more */
    pnx__mutex_unlock(&all_lock);
    while (first) {
        struct pnx_reclaim_section *next = first->next;
        pnx__free(&domain->env, first, 1, sizeof(*first));
        first = next;
    }
}

/* ---- fork ---- */

static void fork_prepare(void) {
    pnx__fork_lock(&all_lock);
    for (uint32_t i = 0; i < PNX_RECLAIM_DOMAINS_MAX; i++) {
        if (all[i])
            pnx__fork_lock(&all[i]->lock);
    }
}

static void fork_parent(void) {
    for (uint32_t i = 0; i < PNX_RECLAIM_DOMAINS_MAX; i++) {
        if (all[i])
            pnx__fork_unlock(&all[i]->lock);
    }
    pnx__fork_unlock(&all_lock);
}

static void add_up(const struct pnx_reclaim_node *node, uint64_t *n, uint64_t *bytes) {
    for (; node; node = node->next) {
        ++*n;
        *bytes += node->bytes;
    }
}

/* Counts what is there: a node that another thread was retiring or running is lost in the child. */
static void fork_child_sum(struct pnx_reclaim *domain, uint64_t n) {
    uint64_t bytes = 0, objects, all_bytes;
    add_up(domain->flight.first, &n, &bytes);
    add_up(domain->ready.first, &n, &bytes);
    add_up(pnx_load(&domain->guest_nodes, PNX_RELAXED, "reclaim.fork_guest"), &n, &bytes);
    const struct pnx_reclaim_section *section =
            pnx_load(&domain->sections, PNX_RELAXED, "reclaim.fork_list");
    for (; section; section = section->next)
        add_up(pnx_load(&section->retired, PNX_RELAXED, "reclaim.fork_nodes"), &n, &bytes);
    pnx__reclaim_sum(domain, &objects, &all_bytes);
    pnx_store(&domain->run, objects - n, PNX_RELAXED, "reclaim.fork_run");
    pnx_store(&domain->run_bytes, all_bytes - bytes, PNX_RELAXED, "reclaim.fork_bytes");
}

static bool runs_for(const struct pnx_reclaim_runner *runner, const struct pnx_thread *self) {
    return runner->thread && runner->thread == self;
}

/* Of the runners of other threads the one whose nodes come last, so that they get back in order. */
static struct pnx_reclaim_runner *last_of_others(
        struct pnx_reclaim *domain, const struct pnx_thread *self) {
    struct pnx_reclaim_runner *last = NULL;
    uint64_t last_at = 0;
    for (int i = 0; i < PNX_RECLAIM_RUNNERS; i++) {
        struct pnx_reclaim_runner *runner = &domain->runner[i];
        uint64_t at = pnx_load(&runner->at, PNX_RELAXED, "reclaim.fork_at"); /* alone */
        bool used = runner->thread || runner->n;
        if (!used || runs_for(runner, self) || (last && at < last_at))
            continue;
        last = runner;
        last_at = at;
    }
    return last;
}

/* What another thread had taken and not begun is ready again. */
static void fork_child_runner(struct pnx_reclaim *domain, struct pnx_reclaim_runner *runner) {
    struct pnx_reclaim_node *first = runner->chunk, *last = first;
    uint64_t n = first ? 1 : 0;
    for (; last && last->next; n++)
        last = last->next;
    if (first) {
        last->next = domain->ready.first;
        domain->ready.first = first;
        domain->ready.last = domain->ready.last ? domain->ready.last : last;
        domain->ready.n += n;
        domain->taken -= n;
    }
    *runner = (struct pnx_reclaim_runner){0};
}

/*
 * The child has only this thread.  Another's sections count as ended; its nodes stay; of callbacks that it was
 * running, the one begun is lost, and the rest are ready again.
 */
static void fork_child_domain(struct pnx_reclaim *domain, const struct pnx_thread *self) {
    /* Relaxed throughout: alone. */
    struct pnx_reclaim_section *section =
            pnx_load(&domain->sections, PNX_RELAXED, "reclaim.fork_sections");
    for (; section; section = section->next) {
        struct pnx_reclaim_thread *thread = section->thread;
        pnx_store(&section->awaited, 0, PNX_RELAXED, "reclaim.fork_awaited");
        if (!thread || (self && (void *)thread == (const void *)self->head))
            continue;
        vacate(section);
        pnx_store(&thread->sections[domain->head.index], NULL, PNX_RELAXED, "reclaim.fork_slot");
    }
    /* Without a record this thread may be any of the guests: better too late than too early. */
    if (self)
        pnx_store(&domain->guests, self->reclaim_guest[domain->head.index], PNX_RELAXED,
                "reclaim.fork_guests");
    domain->sleepers = 0;
    uint64_t own = 0;
    for (int i = 0; i < PNX_RECLAIM_RUNNERS; i++)
        own += runs_for(&domain->runner[i], self) ? domain->runner[i].n : 0;
    for (struct pnx_reclaim_runner *runner; (runner = last_of_others(domain, self)) != NULL;)
        fork_child_runner(domain, runner);
    fork_child_sum(domain, own);
}

static void fork_child(void) {
    const struct pnx_thread *self = PNX_SELF;
    if (self)
        pnx_store(&strangers, 0, PNX_RELAXED, "reclaim.fork_strangers");
    for (uint32_t i = 0; i < PNX_RECLAIM_DOMAINS_MAX; i++) {
        if (!all[i])
            continue;
        fork_child_domain(all[i], self);
        pnx__fork_unlock(&all[i]->lock);
    }
    pnx__fork_unlock(&all_lock);
}

void pnx__reclaim_threads_init(void) {
    pnx__thread_at_exit(thread_ends);
    pnx__at_fork(PNX_RANK_RECLAIM_ALL, fork_prepare, fork_parent, fork_child);
}
