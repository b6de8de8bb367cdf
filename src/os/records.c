/* SPDX-License-Identifier: Apache-2.0 */
/*
 * os/records.c - see os/records.h.
 *
 *   P1  A record is never freed before pnx__threads_forget(): whoever has found one may look at it.
 *   P2  It has one owner at a time, and the next one sees all that the last one did.
 *   P3  Its number is its own for ever; all that the last owner left behind the head is zeroed for the next.
 */
#include "os/records.h"

#include "base/atomic.h"
#include "base/env_system.h"
#include "os/fault.h"

#include <stddef.h>
#include <string.h>

/* All records: a list that only grows, newest first. */
static struct pnx_aptr records;
static struct pnx_a32 forgotten; /* how often all have been freed */
static struct pnx_aptr at_exit;  /* void (*)(struct pnx_thread *) */

void pnx__thread_at_exit(void (*fn)(struct pnx_thread *thread)) {
    /* pairs with thread.exit_hook */
    pnx_store(&at_exit, (void *)(uintptr_t)fn, PNX_RELEASE, "thread.at_exit");
}

void pnx__record_end(struct pnx_thread *record) {
    if (record->rwdata_n)
        record->rwdata_end(record);
    /* acquire: pairs with thread.at_exit; the function's tables are ready */
    void (*fn)(struct pnx_thread *) = (void (*)(struct pnx_thread *))(uintptr_t)pnx_load(
            &at_exit, PNX_ACQUIRE, "thread.exit_hook");
    if (fn)
        fn(record);
    if (record->latches)
        record->latches_end(record); /* last: what runs before may still be their owner */
}

void pnx__record_give_back(struct pnx_thread *record) {
    /* One that ends inside an edit or a compute owns a latch, which knows it by its record for ever. */
    pnx_store(&record->owned, record->latches ? 2 : 0, PNX_RELEASE,
            "thread.give_back"); /* pairs with thread.claim */
}

void pnx__thread_abandon(struct pnx_thread *thread) {
    pnx_store(&thread->owned, 2, PNX_RELEASE, "thread.abandon"); /* pairs with thread.is_here */
}

bool pnx__thread_is_here(const struct pnx_thread *thread) {
    /* acquire: pairs with thread.abandon, thread.give_back; what a thread that has ended did is visible */
    return pnx_load(&thread->owned, PNX_ACQUIRE, "thread.is_here") == 1;
}

/*
 * Takes a record that was given back.  In a child the records of the parent's other threads never are: what they
 * own, latches for instance, must not look like anybody's in the child.
 */
static struct pnx_thread *claim(void) {
    /* acquire: pairs with thread.push; the record is all there */
    struct pnx_thread *record = pnx_load(&records, PNX_ACQUIRE, "thread.list");
    for (; record; record = record->next) {
        uint32_t found = pnx_load(&record->owned, PNX_RELAXED, "thread.look"); /* a hint */
        /* acquire: pairs with thread.give_back; the thread before has ended its use */
        if (!found && pnx_cas(&record->owned, &found, 1, PNX_ACQUIRE, "thread.claim")) {
            size_t own = offsetof(struct pnx_thread, id);
            memset((unsigned char *)record + own, 0, offsetof(struct pnx_thread, number) - own);
            return record;
        }
    }
    return NULL;
}

static struct pnx_thread *make(void) {
    static struct pnx_a32 last_number;
    const struct pnx_env *env = pnx__env_system();
    void *memory = PNX_OS_FAULT("thread_record") ? NULL
                                                 : env->alloc(env->ctx, sizeof(struct pnx_thread),
                                                           _Alignof(struct pnx_thread));
    if (!memory)
        return NULL;
    struct pnx_thread *record = memset(memory, 0, sizeof(*record));
    pnx_store(&record->owned, 1, PNX_RELAXED, "thread.first_owner"); /* thread.push publishes */
    record->number = pnx_fetch_add(&last_number, 1, PNX_RELAXED, "thread.number") +
                     1;                                          /* only uniqueness matters */
    void *head = pnx_load(&records, PNX_RELAXED, "thread.head"); /* only compared, and stored */
    do
        record->next = head;
    while (!pnx_cas(&records, &head, record, PNX_RELEASE, "thread.push")); /* thread.list */
    return record;
}

struct pnx_thread *pnx__record_take(void) {
    static struct pnx_a64 last_id;
    struct pnx_thread *record = claim();
    if (!record)
        record = make();
    if (!record)
        return NULL;
    record->id =
            pnx_fetch_add(&last_id, 1, PNX_RELAXED, "thread.id") + 1; /* only uniqueness matters */
    record->shard = (uint32_t)(record->id % PNX_THREAD_SHARDS);
    return record;
}

void pnx__records_lose_others(const struct pnx_thread *self) {
    struct pnx_thread *record = pnx_load(&records, PNX_RELAXED, "thread.fork_list"); /* alone */
    for (; record; record = record->next) {
        uint32_t owned = pnx_load(&record->owned, PNX_RELAXED, "thread.fork_owned");
        if (record != self && owned)
            pnx_store(&record->owned, 2, PNX_RELAXED, "thread.fork_mark");
    }
}

struct pnx_thread *pnx__records_unlist(void) {
    /* Relaxed, as is the load: no other thread uses the library while this runs. */
    pnx_fetch_add(&forgotten, 1, PNX_RELAXED, "thread.forgotten");
    /* acquire: as thread.list */
    return pnx_exchange(&records, NULL, PNX_ACQUIRE, "thread.forget");
}

void pnx__records_free(struct pnx_thread *first) {
    const struct pnx_env *env = pnx__env_system();
    while (first) {
        struct pnx_thread *next = first->next;
        env->free(env->ctx, first, sizeof(*first));
        first = next;
    }
}

uint32_t pnx__threads_forgotten(void) {
    return pnx_load(&forgotten, PNX_RELAXED, "thread.how_often");
}
