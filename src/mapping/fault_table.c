/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mapping/fault_table.c - see mapping/fault_table.h: records, and the one reclaim domain of all scopes.
 *
 * Why suspend() may hand the pages out.  It stores gate, and synchronize executes a heavy barrier H and looks at all
 * sections.  A beginning scope stores its section's word, executes the light barrier L, and loads gate.  L after H: the
 * load meets what suspend() stored, and no scope begins.  L before H: the look finds the section open, and waits for it.
 *
 * Why retire() may call fn at once while nobody has ever joined the domain: that a scope begins on a mapping is only
 * right while something keeps the mapping alive, a reference or a section of the program's; so a begin that has gone
 * before is seen by whoever drops the last reference, and there is none.
 */
#include "mapping/fault_table.h"

#include "mapping/fault.h"
#include "os/fork.h"
#include "os/mutex.h"
#include "share/reclaim.h"

#include <errno.h>
#include <pthread.h>

static pthread_once_t once = PTHREAD_ONCE_INIT;
static struct pnx_mutex lock = PNX_MUTEX_STATIC(PNX_RANK_FAULT);
/* Guarded by the lock. */
static struct pnx_reclaim *domain;
static uint64_t records; /* registered, and not yet given to their fn */

static struct pnx_a64 waiting; /* records retired whose fn has not been called */

static void fork_prepare(void) {
    pnx__fork_lock(&lock);
}

static void fork_done(void) {
    pnx__fork_unlock(&lock);
}

static void start(void) {
    pnx__at_fork(PNX_RANK_FAULT, fork_prepare, fork_done, fork_done);
    pnx__fault_stats_start();
}

void pnx__fault_lock(void) {
    pthread_once(&once, start);
    pnx__mutex_lock(&lock);
}

void pnx__fault_unlock(void) {
    pnx__mutex_unlock(&lock);
}

/* Counts a record into the domain, if there is one. */
static struct pnx_reclaim *count_in(struct pnx_reclaim *fresh) {
    pnx__fault_lock();
    if (!domain)
        domain = fresh;
    struct pnx_reclaim *found = domain;
    if (found)
        records++;
    pnx__fault_unlock();
    return found;
}

static void count_out(void) {
    pnx__fault_lock();
    records--;
    pnx__fault_unlock();
}

static int join_domain(struct pnx_reclaim **ret_domain) {
    struct pnx_reclaim *found = count_in(NULL), *fresh = NULL;
    if (!found) {
        int rc = pnx_reclaim_create(
                PNX_RECLAIM_OPTS(.name = "access scopes", .registry = pnx_registry_off()), NULL,
                &fresh);
        if (rc)
            return rc;
        found = count_in(fresh);
        if (found != fresh)
            pnx_reclaim_release(&fresh); /* another thread was faster */
    }
    *ret_domain = found;
    return 0;
}

bool pnx__fault_leave_domain(struct pnx_reclaim **ret_domain) {
    pnx__fault_lock();
    bool idle = records == 0;
    *ret_domain = idle ? domain : NULL;
    if (idle)
        domain = NULL;
    pnx__fault_unlock();
    return idle;
}

pnx_ns pnx_fault_tick(pnx_ns now) {
    struct pnx_reclaim *of = pnx__fault_domain();
    return of ? pnx_reclaim_tick(of, now) : PNX_NEVER;
}

struct pnx_reclaim *pnx__fault_domain(void) {
    pnx__fault_lock();
    struct pnx_reclaim *found = domain;
    pnx__fault_unlock();
    return found;
}

static bool can_fault(const struct pnx_fault_pages *pages) {
    return !(pages->flags & (PNX_FAULT_NEVER | PNX_FAULT_SEALED));
}

/* Fills what depends on the pages; nobody looks. */
static void describe(struct pnx_fault_record *record, const struct pnx_fault_pages *pages) {
    uintptr_t mask = (uintptr_t)pnx__os_page_size() - 1;
    record->page = (size_t)mask + 1;
    record->pages = *pages;
    record->head.data = pages->data;
    record->head.size = pages->size;
    record->head.from = (uintptr_t)pages->base & ~mask;
    record->head.to = ((uintptr_t)pages->base + pages->base_size + mask) & ~mask;
}

/* Has the table say what the pages are, where they can fault. */
static int enter_table(struct pnx_fault_record *record, const struct pnx_fault_pages *pages) {
    uintptr_t mask = (uintptr_t)pnx__os_page_size() - 1;
    uintptr_t from = (uintptr_t)pages->base & ~mask;
    uintptr_t to = ((uintptr_t)pages->base + pages->base_size + mask) & ~mask;
    if (!can_fault(pages))
        pnx__range_remove(&record->range);
    else if (record->range)
        pnx__range_move(record->range, from, to);
    else
        return pnx__range_add(from, to, record, &record->range);
    return 0;
}

/* Lets scopes begin. */
static void open_record(struct pnx_fault_record *record) {
    struct pnx_a32 *gate = can_fault(&record->pages) ? &pnx__fault_gate : &pnx__fault_always;
    /* Release: pairs with fault.begin_gate. */
    pnx_store(&record->head.gate, gate, PNX_RELEASE, "fault.resume");
}

static void drive(struct pnx_reclaim *of) {
    if (!pnx_load(&waiting, PNX_RELAXED, "fault.waiting")) /* a hint */
        return;
    int rc = pnx_reclaim_barrier(of, 0);
    (void)rc; /* what cannot run here and now runs later */
}

int pnx__fault_register(struct pnx_fault_record *record, const struct pnx_fault_pages *pages) {
    struct pnx_reclaim *found = NULL;
    int rc = join_domain(&found);
    if (rc)
        return rc;
    drive(found);
    rc = enter_table(record, pages);
    if (rc) {
        count_out();
        return rc;
    }
    record->head.domain = found;
    uint32_t index = ((const struct pnx_reclaim_head *)(const void *)found)->index;
    record->head.section =
            offsetof(struct pnx_reclaim_thread, sections) + index * sizeof(struct pnx_aptr);
    describe(record, pages);
    open_record(record);
    return 0;
}

int pnx__fault_suspend(struct pnx_fault_record *record, pnx_ns timeout) {
    /* Relaxed: the barrier in synchronize orders it, see the top. */
    pnx_store(&record->head.gate, &pnx__fault_suspended, PNX_RELAXED, "fault.suspend");
    int rc = pnx_reclaim_synchronize(record->head.domain, timeout);
    if (rc)
        open_record(record);
    else if (record->range)
        pnx__range_move(record->range, 0, 0); /* what stands there now is not ours to handle */
    return rc;
}

int pnx__fault_resume(struct pnx_fault_record *record, const struct pnx_fault_pages *pages) {
    int rc = enter_table(record, pages ? pages : &record->pages);
    if (rc)
        return rc;
    if (pages) {
        describe(record, pages);
        /* Relaxed, both: before fault.resume. */
        pnx_store(&record->head.poison, 0, PNX_RELAXED, "fault.cleanse");
        record->io_before = pnx_load(&record->io_faults, PNX_RELAXED, "fault.forget");
    }
    open_record(record);
    return 0;
}

static void end_record(struct pnx_fault_record *record) {
    pnx__range_remove(&record->range);
    record->fn(record);
    count_out();
}

static void run_retired(struct pnx_reclaim_node *node) {
    end_record(PNX_CONTAINER(node, struct pnx_fault_record, node));
    pnx_fetch_sub(&waiting, 1, PNX_RELAXED, "fault.waited"); /* a hint */
}

void pnx__fault_retire(struct pnx_fault_record *record, void (*fn)(struct pnx_fault_record *)) {
    struct pnx_reclaim *of = record->head.domain;
    record->fn = fn;
    /* Relaxed: see the top. */
    if (!pnx_load(&of->sections, PNX_RELAXED, "fault.any_scope")) {
        end_record(record);
        return;
    }
    pnx_fetch_add(&waiting, 1, PNX_RELAXED, "fault.wait"); /* a hint */
    pnx_reclaim_retire(of, &record->node, run_retired, record->pages.base_size);
    drive(of);
}

int pnx__fault_poison(const struct pnx_fault_record *record, uint64_t *ret_offset) {
    /* Relaxed: the word is all there is to know. */
    uint64_t poison = pnx_load(&record->head.poison, PNX_RELAXED, "fault.ask");
    *ret_offset = poison >> PNX_FAULT_CODE_BITS << PNX_FAULT_UNIT_BITS;
    return pnx__fault_code(poison);
}
