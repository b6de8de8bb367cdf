/* SPDX-License-Identifier: Apache-2.0 */
/*
 * share/rc.c - reference-counted objects: making them, counts, dropping, weak references.
 *
 * Memory of an object:  [ padding | struct pnx_rc_tail | struct pnx_rc_header | the struct that the user sees | flexible part ]
 * Both counts live in one 64-bit word: strong in the high half, weak in the low half; all strong references
 * together hold one weak one.  Every access is to the whole word.
 *
 *     {1,1} --ref--> {n,1} --unref--> {1,1} --unref--> {0,1} --drop, weak--> freed
 *       |                                                ^
 *       +--weak--> {1,w} --unref--> {0,w}: dropped, upgrade gives NULL; the last weak frees
 *     {0,1} --new_cyclic, finished--> {1,w}
 *       any count out of 1..2^31-1 --> saturated: 0xC0000000 or next to it in both halves, for ever
 *
 * Guarantees P1..P8 stand in patinox/rc.h; how they are kept:
 *   P1  ref and unref test the value that they found.  The first that finds a half out of range sets it to
 *       0xC0000000, by a compare and swap that only one wins; who finds it there, or within 2^29 of there, undoes
 *       itself, so that it stays there up to the number of threads, and neither half reaches 0 or carries into
 *       the other.  An unref too many borrows from nothing, since strong is the high half; a weak reference let
 *       go too often is seen by a weak half of 1 while there are strong ones, which hold that one.
 *   P2  Exact, because a weak reference is made only from a reference or from another weak one: who sees
 *       {1,1} and holds the strong one knows that nobody else holds anything to make one from.
 *   P4, P5  See rc_cow.c.
 *   P6  A drop inside a drop is queued on the thread's record; the outermost one works the queue off.
 *   P7  See rc_on_drop.c.
 *   P8  An object under construction has no reference to upgrade to: {0,w} until its maker has returned.
 *
 * Why each order suffices.  Everything that a holder does to an object comes before its release of the reference
 * (rc.unref), or of the weak one (rc.weak_unref); all changes of the word are read-modify-writes, so each release
 * heads a release sequence that the later ones continue, and whoever reads the last value with acquire (rc.last,
 * rc.weak_last, rc.unique, rc.make_mut, rc.move) has them all behind it.  Taking a reference orders nothing:
 * its taker got the object, with all it needs to see, together with the reference that it holds already; an
 * upgrade has none, so it acquires what the finished construction (rc.finished) and former holders released.
 */
#include "share/rc.h"

#include "base/atomic.h"
#include "base/env.h"
#include "base/env_system.h"
#include "os/mutex.h"
#include "os/thread.h"
#include "stats/stats.h"

#include <assert.h>
#include <stddef.h>
#include <string.h>
#ifdef PNX_DEBUG
#include <stdio.h>
#include <stdlib.h>
#endif

#define ONE_WEAK      UINT64_C(1)
#define LIMIT         UINT32_C(0x80000000) /* a half from here on is out of range */
#define STUCK_MIN     UINT32_C(0xA0000000) /* between these it is there to stay */
#define STUCK_MAX     UINT32_C(0xE0000000)
#define SAT_WEAK      UINT64_C(0xC0000000)
#define SAT_STRONG    (SAT_WEAK << 32)
#define STRONG_MASK   (UINT64_C(0xFFFFFFFF) << 32)
#define ALIGN_MAX     4096
#define ALIGN_NATURAL 16 /* of pnx__alloc */

static_assert(
        sizeof(struct pnx_rc_header) % ALIGN_NATURAL == 0, "objects are aligned as malloc does");
static_assert(sizeof(struct pnx_rc_header) - offsetof(struct pnx_rc_header, counts) ==
                      PNX_RC_COUNTS_BEFORE_,
        "where the inline functions look for it");
static_assert(LIMIT == PNX_RC_LIMIT_, "one limit");

#ifdef PNX_DEBUG
#define MAGIC_LIVE  UINT64_C(0x72632d6c69766521) /* from new until the memory is freed */
#define MAGIC_FREED UINT64_C(0x72632d6672656564)
#endif

static struct pnx_a64 saturated_objects;

static uint32_t strong_of(uint64_t counts) {
    return (uint32_t)(counts >> 32);
}

static uint32_t weak_of(uint64_t counts) {
    return (uint32_t)counts;
}

/* ---- debug builds: what an object is ---- */

#ifdef PNX_DEBUG
static bool same_type(const struct pnx_rc_type *a, const struct pnx_rc_type *b) {
    /* A descriptor that is static in a header exists more than once. */
    return a == b || (a->object_size == b->object_size && strcmp(a->name, b->name) == 0);
}

static void complain(const char *where, const void *object, const char *what, const char *name) {
    fprintf(stderr, "patinox: %s: %p %s%s\n", where, object, what, name);
    abort();
}

void pnx_rc_expect_(const void *object, const struct pnx_rc_type *type, const char *where) {
    if (!object)
        return;
    const struct pnx_rc_header *header = pnx__rc_header_of(object);
    if (header->magic == MAGIC_FREED)
        complain(where, object, "is a freed object", "");
    if (header->magic != MAGIC_LIVE)
        complain(where, object, "is not an object of rc", "");
    if (type && !same_type(type, pnx__rc_type_of(header))) {
        char text[160];
        snprintf(text, sizeof(text), "%s, not a %s", pnx__rc_type_of(header)->name, type->name);
        complain(where, object, "is a ", text);
    }
}

void pnx_rc_count_clone_(const void *object) {
    pnx__rc_count_for(pnx__rc_header_of(object), PNX__RC_CLONE);
}
#else
void pnx_rc_count_clone_(const void *object) {
    (void)object;
}

void pnx_rc_expect_(const void *object, const struct pnx_rc_type *type, const char *where) {
    (void)object, (void)type, (void)where;
}
#endif

static const struct pnx_env *env_of(const struct pnx_rc_type *type) {
    return type->env && type->env->alloc ? type->env : pnx__env_system();
}

/* Bytes from the start of the memory to the object. */
static size_t offset_of(const struct pnx_rc_type *type, bool has_tail) {
    size_t align = type->object_align > ALIGN_NATURAL ? type->object_align : ALIGN_NATURAL;
    size_t before = sizeof(struct pnx_rc_header) + (has_tail ? sizeof(struct pnx_rc_tail) : 0);
    return (before + align - 1) & ~(align - 1);
}

/* ---- leaving the range ---- */

static bool is_stuck(uint64_t counts, bool strong_too) {
    return weak_of(counts) - STUCK_MIN < STUCK_MAX - STUCK_MIN &&
           (!strong_too || strong_of(counts) - STUCK_MIN < STUCK_MAX - STUCK_MIN);
}

/* Brings the weak half, or both, to where they stay.  Returns whether this call is the one that made the object leak. */
static bool saturate(struct pnx_rc_header *header, bool strong_too) {
    uint64_t counts =
            pnx_load(&header->counts, PNX_RELAXED, "rc.saturate_look"); /* rc.saturate decides */
    uint64_t stuck;
    do {
        if (is_stuck(counts, strong_too))
            return false;
        stuck = SAT_WEAK | (strong_too ? SAT_STRONG : counts & STRONG_MASK);
        /* relaxed: a leaked object publishes nothing by this */
    } while (!pnx_cas(&header->counts, &counts, stuck, PNX_RELAXED, "rc.saturate"));
    if (is_stuck(counts, false))
        return false; /* its weak half was there before */
    pnx_fetch_add(&saturated_objects, 1, PNX_RELAXED, "rc.saturated"); /* a statistic */
    return true;
}

static void report(const struct pnx_rc_header *header) {
    const struct pnx_rc_type *type = pnx__rc_type_of(header);
    pnx__rc_count_for(header, PNX__RC_LEAK);
    pnx__log(env_of(type), PNX_LOG_ERROR,
            "rc: a reference count of a %s left its range; the object is leaked", type->name);
    struct pnx_stats_block block = {.set = pnx_stats_default()};
    pnx__event(&block, PNX_EVENT_RC_SATURATED, type->name, -EOVERFLOW, NULL, 0, 0);
}

void pnx__rc_report(const void *object) {
    report(pnx__rc_header_of(object));
}

/*
 * What an operation does that found a half out of range, after it has changed it by delta.  If that half was where it
 * stays the operation undoes itself, else it brings it there, which swallows what it did.  Returns whether it is
 * to be reported.
 */
static bool out_of_range(
        struct pnx_rc_header *header, uint32_t old, uint64_t delta, bool strong_too) {
    if (old - STUCK_MIN < STUCK_MAX - STUCK_MIN) {
        pnx_fetch_sub(&header->counts, delta, PNX_RELAXED, "rc.undo"); /* as rc.saturate */
        return false;
    }
    return saturate(header, strong_too);
}

/* ---- making ---- */

int pnx__rc_check_type(const struct pnx_rc_type *type) {
    if (!type || ((uintptr_t)type & PNX_RC_HAS_TAIL) || type->size < sizeof(*type) || !type->name ||
            type->reserved || (type->flags & ~(uint32_t)PNX_RC_MOVABLE))
        return -EINVAL;
    for (size_t i = sizeof(*type); i < type->size; i++) {
        if (((const unsigned char *)type)[i] != 0)
            return -E2BIG; /* of a later version, which does something with it */
    }
    size_t align = type->object_align;
    if (align > ALIGN_MAX || (align & (align - 1)) != 0)
        return -EINVAL;
    const struct pnx_env *env = type->env;
    if (env && (env->size < sizeof(*env) || !env->alloc != !env->free))
        return -EINVAL;
    return 0;
}

/* Allocates an object with these counts, zeroed but for its header. */
int pnx__rc_make(const struct pnx_rc_type *type, size_t bytes, uint64_t counts,
        struct pnx_rc_header **ret_header) {
    struct pnx_rc_tally *tally = type->tally ? *type->tally : NULL;
    bool has_tail = tally || bytes != type->object_size;
    size_t offset = offset_of(type, has_tail);
    size_t total;
    if (__builtin_add_overflow(offset, bytes, &total) || total > PTRDIFF_MAX)
        return -EOVERFLOW;
    size_t align = type->object_align > ALIGN_NATURAL ? type->object_align : ALIGN_NATURAL;
    if (tally && pnx__rc_tally_reserve(tally, total))
        return -ENOMEM;
    char *memory = pnx__alloc_aligned(env_of(type), total, 1, align);
    if (!memory) {
        if (tally)
            pnx__rc_tally_unreserve(tally, total);
        return -ENOMEM;
    }
    if (tally)
        pnx__rc_tally_add(tally, total);
    struct pnx_rc_header *header = (struct pnx_rc_header *)(void *)(memory + offset) - 1;
#ifdef PNX_DEBUG
    header->magic = MAGIC_LIVE;
#endif
    /* relaxed: nobody else knows the object yet */
    pnx_store(&header->hooks, (void *)NULL, PNX_RELAXED, "rc.make_hooks");
    pnx_store(&header->counts, counts, PNX_RELAXED, "rc.make");
    header->type = (uintptr_t)type | (has_tail ? PNX_RC_HAS_TAIL : 0);
    if (has_tail)
        ((struct pnx_rc_tail *)(void *)header)[-1] = (struct pnx_rc_tail){bytes, tally};
    *ret_header = header;
    return 0;
}

void pnx__rc_free(struct pnx_rc_header *header) {
    const struct pnx_rc_type *type = pnx__rc_type_of(header);
    size_t offset = offset_of(type, (header->type & PNX_RC_HAS_TAIL) != 0);
    size_t total = offset + pnx__rc_bytes_of(header);
    struct pnx_rc_tally *tally = pnx__rc_tally_of(header);
#ifdef PNX_DEBUG
    header->magic = MAGIC_FREED;
#endif
    pnx__free(env_of(type), (char *)pnx__rc_object_of(header) - offset, total, 1);
    if (tally)
        pnx__rc_tally_remove(tally, total);
}

int pnx_rc_new(const struct pnx_rc_type *type, const void *init, void **ret_object) {
    return pnx_rc_new_flexible(type, init, 0, ret_object);
}

/* Checks, and allocates an object with these counts and the bytes of init. */
static int make_with(const struct pnx_rc_type *type, const void *init, size_t extra,
        uint64_t counts, struct pnx_rc_header **ret_header) {
    size_t bytes;
    int rc = pnx__rc_check_type(type);
    if (rc)
        return rc;
    if (__builtin_add_overflow(type->object_size, extra, &bytes))
        return -EOVERFLOW;
    rc = pnx__rc_make(type, bytes, counts, ret_header);
    if (rc == 0 && init)
        memcpy(pnx__rc_object_of(*ret_header), init, type->object_size);
    return rc;
}

int pnx_rc_new_flexible(
        const struct pnx_rc_type *type, const void *init, size_t extra, void **ret_object) {
    struct pnx_rc_header *header = NULL;
    int rc = ret_object ? make_with(type, init, extra, PNX_RC_UNIQUE, &header) : -EINVAL;
    if (rc == 0)
        *ret_object = pnx__rc_object_of(header);
    return rc;
}

int pnx_rc_new_cyclic(const struct pnx_rc_type *type, const void *init, size_t extra,
        pnx_rc_make_fn *fn, void *ctx, void **ret_object) {
    struct pnx_rc_header *header = NULL;
    int rc = ret_object && fn ? make_with(type, init, extra, ONE_WEAK, &header) : -EINVAL;
    if (rc)
        return rc;
    void *object = pnx__rc_object_of(header);
    struct pnx_weak self = {object};
    pnx__mutex_assert_none_held();
    rc = fn(ctx, object, &self);
    if (rc) {
        pnx__rc_weak_unref(header); /* nobody ever had a reference: there is nothing to drop */
        return rc < 0 ? rc : -EINVAL;
    }
    /* release: who upgrades what fn gave away sees the finished object; pairs with rc.upgrade */
    pnx_fetch_add(&header->counts, PNX_RC_ONE_, PNX_RELEASE, "rc.finished");
    *ret_object = object;
    return 0;
}

/* ---- letting go ---- */

/* Gives up one weak reference; the last one frees the memory. */
void pnx__rc_weak_unref(struct pnx_rc_header *header) {
    /* release: what this holder did comes before the freeing; pairs with rc.weak_last */
    uint64_t before = pnx_fetch_sub(&header->counts, ONE_WEAK, PNX_RELEASE, "rc.weak_unref");
    uint32_t weak = weak_of(before);
    if (weak == 1 && strong_of(before) != 0) {
        if (saturate(header, true)) /* this one was the strong references' own */
            report(header);
        return;
    }
    if (weak == 1) {
        /* acquire: pairs with rc.weak_unref and rc.unref of the others, through the chain of RMWs */
        (void)pnx_load(&header->counts, PNX_ACQUIRE, "rc.weak_last");
        pnx__rc_free(header);
        return;
    }
    if (weak != 0 && weak < LIMIT)
        return;
    if (out_of_range(header, weak, (uint64_t)0 - ONE_WEAK, false))
        report(header);
}

static void tell(struct pnx_rc_header **header) {
    pnx__rc_run_hooks(*header);
}

static void let_memory_go(struct pnx_rc_header **header) {
    pnx__rc_weak_unref(*header);
}

static void drop_now(struct pnx_rc_header *header) {
    const struct pnx_rc_type *type = pnx__rc_type_of(header);
    /* Last first; also when drop, or a callback, ends its thread. */
    PNX_CLEANUP(let_memory_go) struct pnx_rc_header *memory = header;
    PNX_CLEANUP(tell) struct pnx_rc_header *dropped = header;
    header->link = NULL;
    if (type->drop) {
        pnx__mutex_assert_none_held();
        type->drop(type->ctx, pnx__rc_object_of(header));
    }
}

/*
 * Threads whose record could not be had (no memory) share one queue, so that their drops need no stack either.
 * Whoever finds no drainer becomes it; a drop inside a drop finds one, and leaves.
 */
static struct pnx_aptr orphans; /* struct pnx_rc_header *, by link */
static struct pnx_a32
        orphans_drained; /* 0, or the generation of the process whose thread is at it */

static void drop_orphans(void) {
    uint32_t mine = pnx__fork_generation(); /* a drainer of the parent does not exist in a child */
    /*
     * release: a pusher that finds a drainer here is seen by that drainer's last look, since rc.drain_end comes after
     * it and acquires.  Nothing the other way: what a drainer works on it got by rc.drain_take.
     */
    while (pnx_exchange(&orphans_drained, mine, PNX_RELEASE, "rc.drain_claim") != mine) {
        struct pnx_rc_header *header;
        /* acquire: pairs with rc.orphan_push */
        while ((header = pnx_exchange(&orphans, NULL, PNX_ACQUIRE, "rc.drain_take")) != NULL) {
            while (header) {
                struct pnx_rc_header *after = header->link;
                drop_now(header);
                header = after;
            }
        }
        /* acquire: pairs with rc.drain_claim of a pusher that left its work to us */
        pnx_exchange(&orphans_drained, 0, PNX_ACQUIRE, "rc.drain_end");
        if (!pnx_load(&orphans, PNX_RELAXED, "rc.drain_look"))
            return;
    }
}

static void drop_without_record(struct pnx_rc_header *header) {
    void *first = pnx_load(&orphans, PNX_RELAXED, "rc.orphan_first");
    do {
        header->link = first;
        /* release: pairs with rc.drain_take */
    } while (!pnx_cas(&orphans, &first, header, PNX_RELEASE, "rc.orphan_push"));
    drop_orphans();
}

static void work_off(struct pnx_thread *self);

static void go_on(struct pnx_thread **self) {
    if (*self)
        work_off(*self);
}

/* Drops what waits on the thread's record, until nothing does. */
static void work_off(struct pnx_thread *self) {
    PNX_CLEANUP(go_on) struct pnx_thread *ends = self; /* a drop that ends its thread ends here */
    struct pnx_rc_header *header;
    while ((header = self->rc_first) != NULL) {
        self->rc_first = header->link;
        if (!self->rc_first)
            self->rc_last = NULL;
        drop_now(header);
    }
    self->rc_dropping = 0;
    ends = NULL;
}

static void drop(struct pnx_rc_header *header) {
    struct pnx_thread *self = pnx__thread();
    if (!self) {
        drop_without_record(header);
        return;
    }
    header->link = NULL;
    if (self->rc_last)
        ((struct pnx_rc_header *)self->rc_last)->link = header;
    else
        self->rc_first = header;
    self->rc_last = header;
    if (self->rc_dropping)
        return;
    self->rc_dropping = 1;
    work_off(self);
}

static void unref_slow(
        struct pnx_rc_header *header, uint64_t before, void (*drop_by)(struct pnx_rc_header *)) {
    uint32_t strong = strong_of(before);
    if (strong == 1) {
        /* acquire, and a load because TSan knows no fences: pairs with rc.unref of the other holders */
        (void)pnx_load(&header->counts, PNX_ACQUIRE, "rc.last");
        drop_by(header);
        return;
    }
    if (out_of_range(header, strong, (uint64_t)0 - PNX_RC_ONE_, true))
        report(header);
}

void pnx_rc_unref_slow_(const void *object, uint64_t before) {
    unref_slow(pnx__rc_header_of(object), before, drop);
}

void pnx_rc_cleanup_(void *variable) {
    void *object;
    void *none = NULL;
    memcpy(&object, variable, sizeof(object)); /* the variable has the user's pointer type */
    memcpy(variable, &none, sizeof(none));
    pnx_rc_unref(object);
}

/* ---- sharing ---- */

bool pnx__rc_saturates(const void *object, uint64_t before) {
    return out_of_range(pnx__rc_header_of(object), strong_of(before), PNX_RC_ONE_, true);
}

void pnx_rc_ref_slow_(const void *object, uint64_t before) {
    if (pnx__rc_saturates(object, before))
        pnx__rc_report(object);
}

uint32_t pnx_rc_count(const void *object) {
    if (!object)
        return 0;
    struct pnx_rc_header *header = pnx__rc_header_in(object, "pnx_rc_count");
    return strong_of(pnx_load(&header->counts, PNX_RELAXED, "rc.count")); /* for people */
}

uint32_t pnx_rc_weak_count(const void *object) {
    if (!object)
        return 0;
    struct pnx_rc_header *header = pnx__rc_header_in(object, "pnx_rc_weak_count");
    uint64_t counts = pnx_load(&header->counts, PNX_RELAXED, "rc.weak_count"); /* for people */
    return weak_of(counts) - (strong_of(counts) ? 1 : 0);
}

const struct pnx_rc_type *pnx_rc_type_of(const void *object) {
    return object ? pnx__rc_type_of(pnx__rc_header_in(object, "pnx_rc_type_of")) : NULL;
}

size_t pnx_rc_size(const void *object) {
    return object ? pnx__rc_bytes_of(pnx__rc_header_in(object, "pnx_rc_size")) : 0;
}

uint64_t pnx_rc_saturated(void) {
    return pnx_load(&saturated_objects, PNX_RELAXED, "rc.saturated_read");
}

/* ---- weak references ---- */

struct pnx_weak pnx_weak_make(const void *object) {
    struct pnx_weak weak = {(void *)(uintptr_t)object};
    if (!object)
        return weak;
    struct pnx_rc_header *header = pnx__rc_header_in(object, "pnx_weak_make");
    /* relaxed: as rc.ref */
    uint64_t before = pnx_fetch_add(&header->counts, ONE_WEAK, PNX_RELAXED, "rc.weak_ref");
    uint32_t count = weak_of(before);
    if (count != 0 && count < LIMIT)
        return weak;
    if (out_of_range(header, count, ONE_WEAK, false))
        report(header);
    return weak;
}

struct pnx_weak pnx_weak_ref(const struct pnx_weak *weak) {
    return pnx_weak_make(weak ? weak->object_ : NULL);
}

void *pnx_weak_upgrade(const struct pnx_weak *weak) {
    if (!weak || !weak->object_)
        return NULL;
    struct pnx_rc_header *header = pnx__rc_header_in(weak->object_, "pnx_weak_upgrade");
    uint64_t counts =
            pnx_load(&header->counts, PNX_RELAXED, "rc.upgrade_look"); /* rc.upgrade decides */
    while (strong_of(counts) != 0 && strong_of(counts) < LIMIT) {
        /* acquire: pairs with rc.unref; what holders did before they let go is visible to the new one */
        if (pnx_cas(&header->counts, &counts, counts + PNX_RC_ONE_, PNX_ACQUIRE, "rc.upgrade"))
            return weak->object_;
    }
    if (strong_of(counts) == 0)
        return NULL;
    /* Out of range: a reference that is not counted is as good, since the object stays for ever. */
    if (saturate(header, true))
        report(header);
    return weak->object_;
}

void pnx_weak_release(struct pnx_weak *weak) {
    if (!weak || !weak->object_)
        return;
    struct pnx_rc_header *header = pnx__rc_header_in(weak->object_, "pnx_weak_release");
    weak->object_ = NULL;
    pnx__rc_weak_unref(header);
}

#ifdef PNX_DEBUG
void pnx__rc_set_counts(const void *object, uint32_t strong, uint32_t weak) {
    struct pnx_rc_header *header = pnx__rc_header_of(object);
    pnx_store(&header->counts, (uint64_t)strong << 32 | weak, PNX_RELAXED, "rc.test");
}

void pnx__rc_unref_without_record(const void *object) {
    struct pnx_rc_header *header = pnx__rc_header_of(object);
    /* release: as rc.unref */
    uint64_t before =
            pnx_fetch_sub(&header->counts, PNX_RC_ONE_, PNX_RELEASE, "rc.unref_without_record");
    if (strong_of(before) <= 1 || strong_of(before) >= LIMIT)
        unref_slow(header, before, drop_without_record);
}
#endif
