/* SPDX-License-Identifier: Apache-2.0 */
/*
 * share/rwdata_lock.c - the reader-writer lock of an rwdata.
 *
 * One word says who is in:
 *
 *      63      44 43     16   15    14      3     2        1        0
 *     | readers  | thread | writer | bypassed | special | awake | queued |
 *
 *   FREE (no readers, no writer) --read--> READ (n readers) --read--> n + 1; --last read_end--> FREE
 *   FREE --write--> WRITTEN (writer, its thread) --write_end--> FREE
 *   WRITTEN --downgrade--> READ (1 reader)
 *
 * A lock that is free is taken by one compare-and-swap (patinox/rwdata_inl.h).  Who does not get it spins for a
 * microsecond or two, since parking costs a hundred times what a short section does, and then joins the queue: a
 * list of waiters, oldest first, under a mutex.  Each waiter sleeps on a word of its own.
 *
 * The queue.  "queued" says that it is not empty.  A guard that leaves the word such that the first waiter could
 * come in calls him: sets "awake" and wakes him.  The lock is not his yet: he takes it himself when he runs, and
 * until then others may take it from under him (the lock would else lie idle for the 30 us that it takes to wake a
 * thread, and so at each later change of hands: a convoy).  But each that does raises "bypassed", and when that
 * field is full the lock is kept for the first waiter.  He fills it himself as long as he is awake and tries, and for
 * good when he was called CALLS times in vain.  A reader who takes the lock as the first lets in the readers right behind
 * him.
 *
 * Who may come in, given the word (admissible()):
 *
 *                      nobody queued          somebody queued
 *     reader           no writer              FREE and bypassed < max
 *     writer           FREE                   FREE and bypassed < max
 *     first waiter                            as if nobody were queued
 *
 * Why this is right.
 *
 *   Exclusion.  The word changes from free of writers to a writer only when it has no readers, and gets a reader only
 *   when it has no writer, each by a compare-and-swap on the whole word.  Every way in is an acquire on that
 *   read-modify-write, every way out a release on one; between them stand only read-modify-writes, which continue the
 *   release sequence.  So what happened under a guard is seen under the next one.  A waiter who is let in by
 *   another (a batch of readers) gets that from the other's acquire through the store of ADMITTED to his word.
 *
 *   No lost wake-up.  "queued" and "awake" change only under the mutex.  The invariant: if the queue is not empty and
 *   its first could come in, then "awake" is set, or a thread is between its change of the word and passed().
 *   A waiter who joins sets "queued" and then settles: either he can come in and is called, or the word has somebody
 *   in it who, as he leaves, reads the word that he replaces, and sees "queued".  The first waiter who goes back to sleep
 *   clears "awake" by a compare-and-swap from a word under which he cannot come in.  Settling sets "awake" in the same way
 *   round: from a word under which the first can come in; if somebody is faster then, that one's leaving calls passed()
 *   again.  Who leaves the queue (deadline, close) settles it, too, all under the mutex.
 *
 *   Nobody starves.  A waiter who is first is passed at most as often as "bypassed" counts, for each of CALLS calls, which
 *   is PNX_RWDATA_BYPASS; with w waiters before him, at most (w + 1) * PNX_RWDATA_BYPASS later ones come in before him.  Readers who are in delay a writer, but none comes in
 *   while he waits, for that needs FREE.
 *
 *   Deadlines.  A waiter is in the queue, or has been taken off it under the mutex by one who lets him in: then he
 *   waits for that one's store, a few instructions, whatever his deadline says.
 *
 * Bounded bypassing instead of strict hand-over is the idea of Linux's mutex and rw_semaphore (optimistic spinning and
 * the HANDOFF bit, W. Long, 2016).
 */
#include "share/rwdata.h"

#include "base/env.h"
#include "base/error.h"
#include "share/check.h"
#include "share/reclaim.h"
#include "share/wait.h"

#include <errno.h>
#include <stddef.h>

#define QUEUED   PNX_RWDATA_QUEUED_
#define AWAKE    PNX_RWDATA_AWAKE_
#define SPECIAL  PNX_RWDATA_SPECIAL_
#define BYPASSED (PNX_RWDATA_WRITER_ - PNX_RWDATA_BYPASSED_) /* the field's mask */
#define WRITER   (PNX_RWDATA_READER_ - PNX_RWDATA_WRITER_)   /* mask: the bit, and its thread */

#define FIRST_PAUSES 8
#define MOST_PAUSES  16
#define CALLS        4 /* in vain; then the lock is kept for the first waiter */

_Static_assert(CALLS *BYPASSED / PNX_RWDATA_BYPASSED_ == PNX_RWDATA_BYPASS, "as promised");
_Static_assert(offsetof(struct pnx_thread, id) == PNX_RWDATA_THREAD_ID_, "pnx_rwdata_token_()");

/* What a waiter's word says. */
enum state { ASLEEP, CALLED, ADMITTED, REFUSED };

/* On the stack of who waits. */
struct waiter {
    struct pnx_link link; /* the mutex; once he is off the queue, who lets him in */
    const struct pnx_rwdata_request *request;
    struct pnx_a32 state; /* futex word; written under the mutex, ADMITTED by who lets him in */
    uint32_t calls;       /* in vain; only his thread */
    bool taken;           /* off the queue: ADMITTED will follow; the mutex */
};

/* ---- the word ---- */

static uint64_t look(const struct pnx_rwdata *rwdata) {
    return pnx_load(
            &rwdata->word, PNX_RELAXED, "rwdata.look"); /* a guess, for a cas that follows */
}

static bool admissible(uint64_t word, bool writer, bool first) {
    if (word & WRITER)
        return false;
    if ((word & QUEUED) && !first)
        return pnx__rwdata_readers(word) == 0 && (word & BYPASSED) != BYPASSED;
    return !writer || pnx__rwdata_readers(word) == 0;
}

/* Leaves the line to others for a while: those who hold it get more done in a row, so that all are faster. */
static void pause(uint32_t n) {
    while (n-- > 0)
        pnx__spin_hint();
}

/* Comes in if that is possible for one who is not in the queue. */
static bool take(const struct pnx_rwdata_request *request) {
    struct pnx_rwdata *rwdata = request->rwdata;
    uint32_t most = rwdata->pauses < MOST_PAUSES ? rwdata->pauses : MOST_PAUSES;
    __builtin_prefetch(&rwdata->word, 1);
    uint64_t word = look(rwdata);
    for (uint32_t n = FIRST_PAUSES; admissible(word, request->writer, false); n *= 2) {
        uint64_t next = word + (request->writer ? request->token : PNX_RWDATA_READER_);
        if (word & QUEUED)
            next += PNX_RWDATA_BYPASSED_;
        /* acquire: pairs with rwdata_inl.read_end, rwdata_inl.write_end, rwdata.release */
        if (pnx_cas(&rwdata->word, &word, next, PNX_ACQUIRE, "rwdata.take"))
            return true;
        pause(n < most ? n : most);
        __builtin_prefetch(&rwdata->word, 1);
        word = look(rwdata);
    }
    return false;
}

/* Tries for a while. */
static bool spin(const struct pnx_rwdata_request *request) {
    uint32_t left = request->rwdata->pauses;
    for (uint32_t n = FIRST_PAUSES; left > 0; n = n < MOST_PAUSES ? 2 * n : n) {
        if (n > left)
            n = left;
        left -= n;
        pause(n);
        if (take(request))
            return true;
    }
    return false;
}

/* ---- the queue ---- */

static struct waiter *first_locked(const struct pnx_rwdata *rwdata) {
    struct pnx_link *link = pnx__list_first(&rwdata->queue);
    return link ? PNX_CONTAINER(link, struct waiter, link) : NULL;
}

/*
 * Brings the word into line with the queue, and calls the first waiter if he can come in and was not called before.
 * changed says that the first one is another than before.  Returns whom to wake.
 */
static const struct pnx_a32 *settle_locked(struct pnx_rwdata *rwdata, bool changed) {
    struct waiter *first = first_locked(rwdata);
    uint64_t word = look(rwdata), next;
    bool call;
    do {
        next = changed ? word & ~(AWAKE | BYPASSED) : word;
        call = first && !(next & AWAKE) && admissible(next, first->request->writer, true);
        if (!first)
            next &= ~(QUEUED | AWAKE | BYPASSED);
        else if (call)
            next |= AWAKE;
        /* Relaxed: the mutex orders the queue; who comes in acquires. */
    } while (next != word && !pnx_cas(&rwdata->word, &word, next, PNX_RELAXED, "rwdata.settle"));
    if (!call)
        return NULL;
    /* Relaxed: it passes on nothing; he takes the lock himself. */
    pnx_store(&first->state, CALLED, PNX_RELAXED, "rwdata.call");
    return &first->state;
}

void pnx__rwdata_passed(struct pnx_rwdata *rwdata, uint64_t word) {
    if ((word & (QUEUED | AWAKE | WRITER)) != QUEUED)
        return;
    pnx__rwdata_adopt(rwdata);
    pnx__mutex_lock(&rwdata->lock);
    const struct pnx_a32 *wake = settle_locked(rwdata, false);
    pnx__mutex_unlock(&rwdata->lock);
    if (wake)
        pnx__futex_wake(wake, 1); /* the waiter may be gone by now; only its address is used */
}

/* Lets those in who were taken off the queue, with nothing locked. */
static void admit(struct pnx_link *batch) {
    struct pnx_link *link;
    while ((link = pnx__list_pop_front(batch))) {
        struct waiter *waiter = PNX_CONTAINER(link, struct waiter, link);
        /* Release: pairs with rwdata.state; passes on what the caller acquired with the lock. */
        pnx_store(&waiter->state, ADMITTED, PNX_RELEASE, "rwdata.admit");
        pnx__futex_wake(&waiter->state, 1);
    }
}

/*
 * The first waiter comes in, and with a reader those right behind him, who move to *batch; or, if he cannot, is
 * no longer awake.  Returns whether he is in.
 */
static bool take_first_locked(struct waiter *waiter, struct pnx_link *batch) {
    struct pnx_rwdata *rwdata = waiter->request->rwdata;
    bool writer = waiter->request->writer;
    struct pnx_link *after = waiter->link.next;
    uint64_t n = 1;
    while (!writer && after != &rwdata->queue &&
            !PNX_CONTAINER(after, struct waiter, link)->request->writer) {
        after = after->next;
        n++;
    }
    uint64_t add = writer ? waiter->request->token : n * PNX_RWDATA_READER_;
    uint64_t word = look(rwdata), next;
    bool in, others = waiter->calls + 1 < CALLS;
    do {
        in = admissible(word, writer, true);
        next = word & ~AWAKE;
        if (!in && others)
            next &= ~BYPASSED; /* others may have the lock while he sleeps */
        if (in)
            next = (next & ~BYPASSED & ~(after == &rwdata->queue ? QUEUED : 0)) + add;
        /* acquire: as rwdata.take */
    } while (!pnx_cas(&rwdata->word, &word, next, PNX_ACQUIRE, "rwdata.take_first"));
    if (!in) {
        waiter->calls++;
        pnx_store(&waiter->state, ASLEEP, PNX_RELAXED, "rwdata.sleep"); /* read by himself */
        return false;
    }
    for (struct pnx_link *link = waiter->link.next, *behind; link != after; link = behind) {
        behind = link->next;
        PNX_CONTAINER(link, struct waiter, link)->taken = true;
        pnx__list_remove(link);
        pnx__list_push_back(batch, link);
    }
    pnx__list_remove(&waiter->link);
    pnx_owner_add(&rwdata->values.waiters, (uint64_t)-n);
    return true;
}

/* The first waiter was called.  Returns whether he is in; else he sleeps on. */
static bool come(struct waiter *waiter) {
    struct pnx_rwdata *rwdata = waiter->request->rwdata;
    bool writer = waiter->request->writer;
    uint32_t left = rwdata->pauses;
    if (!admissible(look(rwdata), writer, true)) {
        uint64_t word = look(rwdata);
        /* Relaxed: a promise about who comes next, not about what they see.  No queue: it was closed. */
        while ((word & QUEUED) &&
                !pnx_cas(&rwdata->word, &word, word | BYPASSED, PNX_RELAXED, "rwdata.keep")) {
        }
    }
    while (left-- > 0 && !admissible(look(rwdata), writer, true))
        pnx__spin_hint();
    struct pnx_link batch;
    pnx__list_init(&batch);
    pnx__mutex_lock(&rwdata->lock);
    /* A close may have come first. */
    bool in = pnx__list_linked(&waiter->link) && take_first_locked(waiter, &batch);
    pnx__mutex_unlock(&rwdata->lock);
    admit(&batch);
    return in;
}

/* Joins the queue; -ESHUTDOWN once that is closed. */
static int join(struct waiter *waiter) {
    struct pnx_rwdata *rwdata = waiter->request->rwdata;
    bool writer = waiter->request->writer;
    struct pnx_rwdata_values *values = &rwdata->values;
    pnx__mutex_lock(&rwdata->lock);
    const struct pnx_a32 *wake = NULL;
    bool closed = pnx_load(&rwdata->closed, PNX_RELAXED, "rwdata.join_closed"); /* the mutex */
    if (!closed) {
        pnx__list_push_back(&rwdata->queue, &waiter->link);
        pnx_owner_add(&values->waiters, 1);
        pnx_owner_add(writer ? &values->write_waits : &values->read_waits, 1);
        /* Relaxed: the mutex orders the queue.  It cannot fail: who loses every race for the word ends here. */
        pnx_fetch_or(&rwdata->word, QUEUED, PNX_RELAXED, "rwdata.join");
        wake = settle_locked(rwdata, false);
    }
    pnx__mutex_unlock(&rwdata->lock);
    if (wake && wake != &waiter->state) /* one who has left in this moment would have called him */
        pnx__futex_wake(wake, 1);
    return closed ? -ESHUTDOWN : 0;
}

/*
 * The deadline has come, or the close.  0: he was let in all the same; -ETIMEDOUT, -ESHUTDOWN.  Passes the mutex in each
 * case, so that whoever touched the waiter has done so before his frame goes.
 */
static int give_up(struct waiter *waiter) {
    struct pnx_rwdata *rwdata = waiter->request->rwdata;
    const struct pnx_a32 *wake = NULL;
    int rc = -ETIMEDOUT;
    pnx__mutex_lock(&rwdata->lock);
    if (waiter->taken) {
        rc = 0; /* his link belongs to who lets him in */
    } else if (pnx__list_linked(&waiter->link)) {
        bool first = first_locked(rwdata) == waiter;
        pnx__list_remove(&waiter->link);
        pnx_owner_add(&rwdata->values.waiters, (uint64_t)-1);
        pnx_owner_add(&rwdata->values.timeouts, 1);
        wake = settle_locked(rwdata, first);
    } else {
        rc = -ESHUTDOWN;
    }
    pnx__mutex_unlock(&rwdata->lock);
    if (wake)
        pnx__futex_wake(wake, 1);
    return rc;
}

/* Returns what the waiter's word says. */
static enum state state_of(const struct waiter *waiter) {
    /* acquire: pairs with rwdata.admit */
    return (enum state)pnx_load(&waiter->state, PNX_ACQUIRE, "rwdata.state");
}

static int wait(const struct pnx_rwdata_request *request, pnx_ns deadline) {
    struct waiter waiter = {.request = request};
    int rc = join(&waiter);
    bool waits = rc == 0;
    while (waits) {
        enum state state = state_of(&waiter);
        int woken = 0;
        if (state == ASLEEP) {
            woken = pnx__wait(&waiter.state, ASLEEP, &request->rwdata->env, deadline);
            state = state_of(&waiter);
        }
        if (state == ADMITTED)
            return 0;
        if (state == CALLED && come(&waiter))
            return 0;
        waits = woken != -ETIMEDOUT && state != REFUSED;
    }
    if (rc == 0)
        rc = give_up(&waiter);
    /* Let in at the deadline: the one who does it still needs the waiter's link. */
    while (waiter.taken && state_of(&waiter) != ADMITTED)
        (void)pnx__futex_wait(&waiter.state, ASLEEP, PNX_NEVER);
    return rc;
}

void pnx__rwdata_close_queue(struct pnx_rwdata *rwdata) {
    struct pnx_link *link;
    pnx__rwdata_adopt(rwdata);
    pnx__mutex_lock(&rwdata->lock);
    pnx_store(&rwdata->closed, 1, PNX_RELAXED, "rwdata.close"); /* a hint but for the mutex */
    pnx_fetch_or(&rwdata->word, SPECIAL, PNX_RELAXED, "rwdata.close_word"); /* orders nothing */
    while ((link = pnx__list_pop_front(&rwdata->queue))) {
        struct waiter *waiter = PNX_CONTAINER(link, struct waiter, link);
        /* Relaxed: he passes the mutex before he returns. */
        pnx_store(&waiter->state, REFUSED, PNX_RELAXED, "rwdata.refuse");
        pnx__futex_wake(&waiter->state, 1);
        pnx_owner_add(&rwdata->values.waiters, (uint64_t)-1);
    }
    (void)settle_locked(rwdata, true);
    pnx__mutex_unlock(&rwdata->lock);
}

/* ---- a forked child ---- */

void pnx__rwdata_adopt(struct pnx_rwdata *rwdata) {
    uint32_t now = pnx__fork_generation();
    /* acquire: pairs with rwdata.adopted */
    uint32_t then = pnx_load(&rwdata->generation, PNX_ACQUIRE, "rwdata.generation");
    if (then == now)
        return;
    /*
     * Threads of the child that come here together: one of them does it, the others wait a moment for it.  Relaxed: the
     * load above has acquired the value that is replaced here, and each value is stored once.
     */
    if (then == 0 || !pnx_cas(&rwdata->generation, &then, 0, PNX_RELAXED, "rwdata.adopt")) {
        while (pnx_load(&rwdata->generation, PNX_ACQUIRE, "rwdata.adopting") != now)
            pnx__spin_hint();
        return;
    }
    pnx__mutex_init(&rwdata->lock, PNX_RANK_RWDATA); /* its holder may exist only in the parent */
    pnx__list_init(&rwdata->queue);
    pnx_store(&rwdata->values.waiters, 0, PNX_RELAXED, "rwdata.adopt_waiters"); /* a number only */
    uint64_t word = look(rwdata);
    while (!pnx_cas(&rwdata->word, &word, word & ~(QUEUED | AWAKE | BYPASSED), PNX_RELAXED,
            "rwdata.adopt_word")) {
    }
    bool inherited = (word & WRITER) || pnx__rwdata_readers(word);
    pnx_store(&rwdata->inherited, inherited, PNX_RELAXED, "rwdata.inherited_set"); /* the next */
    /* release: pairs with rwdata.generation, rwdata.adopting */
    pnx_store(&rwdata->generation, now, PNX_RELEASE, "rwdata.adopted");
}

/* Whether guards that exist only in the parent may be in the word. */
static bool inherited(const struct pnx_rwdata *rwdata) {
    /* Relaxed: whoever sees the child's generation sees this, too; clearing it late costs a wait. */
    return pnx_load(&rwdata->inherited, PNX_RELAXED, "rwdata.inherited");
}

/* Takes the lock over from guards that exist only in the parent.  Returns whether it did. */
static bool inherit(const struct pnx_rwdata_request *request) {
    struct pnx_rwdata *rwdata = request->rwdata;
    /* Relaxed: one of several threads gets it; what the parent did came before the fork. */
    if (!inherited(rwdata) || !pnx_exchange(&rwdata->inherited, 0, PNX_RELAXED, "rwdata.inherit"))
        return false;
    uint64_t word = look(rwdata);
    while (!pnx_cas(&rwdata->word, &word, (word & (QUEUED | AWAKE | SPECIAL)) | request->token,
            PNX_ACQUIRE, "rwdata.inherit_word")) {
    }
    if (word & WRITER)
        pnx__rwdata_poison(rwdata, -ECANCELED);
    return true;
}

/* ---- in and out ---- */

static int refused(const struct pnx_rwdata_request *request, int code, int cause,
        struct pnx_error *err, const char *why) {
    return pnx__fail(err, code, cause, request->phase, "%s: %s", request->rwdata->name, why);
}

static int deadlock(
        const struct pnx_rwdata_request *request, struct pnx_error *err, const char *why) {
    struct pnx_rwdata *rwdata = request->rwdata;
    pnx__mutex_lock(&rwdata->lock);
    pnx_owner_add(&rwdata->values.deadlocks, 1);
    pnx__mutex_unlock(&rwdata->lock);
    return refused(request, -EDEADLK, 0, err, why);
}

static int deadlock_by_guard(const struct pnx_rwdata_request *request, struct pnx_error *err) {
    return deadlock(request, err, "this thread has a guard of it already");
}

/* Whoever has the lock may be waiting for the section's end. */
static int deadlock_by_section(const struct pnx_rwdata_request *request, struct pnx_error *err) {
    return deadlock(request, err, "inside a section, where it must not wait");
}

static int gave_up(
        const struct pnx_rwdata_request *request, int code, uint64_t word, struct pnx_error *err) {
    if (word & WRITER)
        return pnx__fail(err, code, 0, request->phase, "%s: thread %u is writing",
                request->rwdata->name, (unsigned)((word & WRITER) >> 16));
    return pnx__fail(err, code, 0, request->phase, "%s: %llu readers are in, others wait",
            request->rwdata->name, (unsigned long long)pnx__rwdata_readers(word));
}

/* Why nobody like this may come in at all, or 0. */
static int obstacle(const struct pnx_rwdata_request *request, bool waits, struct pnx_error *err) {
    struct pnx_rwdata *rwdata = request->rwdata;
    uint64_t word = look(rwdata);
    /* Relaxed: close() and the caller are ordered by whatever tells the caller of the close. */
    if (pnx_load(&rwdata->closed, PNX_RELAXED, "rwdata.closed"))
        return refused(request, -ESHUTDOWN, 0, err, "closed");
    if (pnx__rwdata_is_writer(word, request->token))
        return deadlock_by_guard(request, err);
    if (rwdata->checked && pnx__rwdata_holds(rwdata, false) && (request->writer || waits))
        return deadlock_by_guard(request, err);
    if (rwdata->checked && waits && pnx__reclaim_in_any())
        return deadlock_by_section(request, err);
    if (!request->writer && (word & PNX_RWDATA_FULL_))
        return refused(request, -EOVERFLOW, 0, err, "too many read guards");
    return 0;
}

/* Who has come in finds out whether the value is whole; if not, he is out again. */
static int check_poison(const struct pnx_rwdata_request *request, struct pnx_error *err) {
    struct pnx_rwdata *rwdata = request->rwdata;
    /* Relaxed: the lock orders it. */
    uint32_t poison = pnx_load(&rwdata->poison, PNX_RELAXED, "rwdata.poisoned");
    if (poison == 0 || request->repair)
        return 0;
    if (request->writer) {
        pnx__rwdata_release_writer(rwdata, 0);
    } else {
        /* Relaxed: nothing of the value was read. */
        uint64_t word = pnx_fetch_sub(
                &rwdata->word, PNX_RWDATA_READER_, PNX_RELAXED, "rwdata.leave_poisoned");
        word -= PNX_RWDATA_READER_;
        if (pnx__rwdata_readers(word) == 0)
            pnx__rwdata_passed(rwdata, word);
    }
    return refused(
            request, PNX_E_BROKEN, -(int)poison, err, "a change of the value was not finished");
}

static int get(const struct pnx_rwdata_request *request, pnx_ns timeout, struct pnx_error *err) {
    struct pnx_rwdata *rwdata = request->rwdata;
    if (take(request))
        return 0;
    if (request->repair && inherit(request))
        return 0;
    if (timeout == 0)
        return gave_up(request, -EBUSY, look(rwdata), err);
    if (pnx__reclaim_in_any())
        return deadlock_by_section(request, err);
    if (spin(request))
        return 0;
    pnx_ns now = pnx__now(&rwdata->env), deadline = pnx__deadline(now, timeout);
    pnx_ns patience = rwdata->timeout_ns == PNX_NEVER ? 10 * PNX_SEC : rwdata->timeout_ns;
    bool patient = inherited(rwdata) && patience < timeout;
    int rc = wait(request, patient ? pnx__deadline(now, patience) : deadline);
    bool ghosts = rc == -ETIMEDOUT && inherited(rwdata);
    if (rc == -ETIMEDOUT && patient && !ghosts)
        rc = wait(request, deadline); /* those were no guards of the parent */
    if (ghosts)
        return refused(request, PNX_E_BROKEN, rc, err,
                "kept by guards that may exist only in the parent process");
    if (rc == -ESHUTDOWN)
        return refused(request, rc, 0, err, "closed");
    return rc ? gave_up(request, rc, look(rwdata), err) : 0;
}

int pnx__rwdata_acquire(
        const struct pnx_rwdata_request *request, pnx_ns timeout, struct pnx_error *err) {
    struct pnx_rwdata *rwdata = request->rwdata;
    if (timeout !=
            0) /* has just lost a race, as a rule: who won it may do more before we look again */
        pause(rwdata->pauses < 4 * FIRST_PAUSES ? rwdata->pauses : 4 * FIRST_PAUSES);
    pnx__rwdata_adopt(rwdata);
    int rc = obstacle(request, timeout != 0, err);
    if (rc == 0)
        rc = get(request, timeout, err);
    if (rc == 0)
        rc = check_poison(request, err);
    if (rc == 0 && request->writer) {
        pnx_owner_add(&rwdata->values.writes, 1);
        if (inherited(rwdata)) /* not any more: nobody else is in */
            pnx_store(&rwdata->inherited, 0, PNX_RELAXED, "rwdata.inherited_clear");
    }
    return rc;
}

void pnx__rwdata_release_writer(struct pnx_rwdata *rwdata, uint64_t add) {
    uint64_t word = look(rwdata), next;
    do {
        next = (word & ~WRITER) + add;
        /* release: as rwdata_inl.write_end */
    } while (!pnx_cas(&rwdata->word, &word, next, PNX_RELEASE, "rwdata.release"));
    pnx__rwdata_passed(rwdata, next);
}

#ifdef PNX_DEBUG
uint64_t pnx__rwdata_check(struct pnx_rwdata *rwdata) {
    pnx__mutex_lock(&rwdata->lock);
    uint64_t word = look(rwdata), waiters = 0;
    PNX_LIST_EACH (link, after, &rwdata->queue)
        waiters++;
    PNX_DEBUG_CHECK(!!(word & QUEUED) == (waiters != 0));
    PNX_DEBUG_CHECK((word & QUEUED) || !(word & (AWAKE | BYPASSED)));
    PNX_DEBUG_CHECK(!(word & WRITER) || pnx__rwdata_readers(word) == 0);
    PNX_DEBUG_CHECK(
            waiters == pnx_load(&rwdata->values.waiters, PNX_RELAXED, "rwdata.debug_waiters"));
    pnx__mutex_unlock(&rwdata->lock);
    return word;
}
#endif
