/* SPDX-License-Identifier: Apache-2.0 */
/*
 * share/rc.c - reference-counted objects: counts, uniqueness, weak references, copy on write.
 *
 * Memory of an object:  [ padding | struct header | the struct that the user sees | flexible part ]
 * Both counts live in one 64-bit word: strong in the low half, weak in the high half; all strong references
 * together hold one weak one.  Every access is to the whole word.
 *
 *     {1,1} --ref--> {n,1} --unref--> {1,1} --unref--> {0,1} --drop, weak--> freed
 *       |                                                ^
 *       +--weak--> {1,w} --unref--> {0,w}: dropped, upgrade gives NULL; the last weak frees
 *       any count out of 1..2^31-1 --> saturated: 0xC0000000 and around in both halves, for ever
 *
 * Guarantees P1..P6 stand in patinox/rc.h; how they are kept:
 *   P1  ref and unref test the value that they found.  A saturated half stays where it is, because an
 *       operation that finds it so undoes itself; the two top bits leave 2^30 concurrent operations of room
 *       on each side, so that neither half can reach 0 or carry into the other.
 *   P2  Exact, because a weak reference is made only from a reference or from another weak one: who sees
 *       {1,1} and holds the strong one knows that nobody else holds anything to make one from.
 *   P6  A drop inside a drop is queued on the thread's record; the outermost one works the queue off.
 */
#include "share/rc.h"

#include "base/atomic.h"
#include "base/env.h"
#include "base/env_system.h"
#include "os/mutex.h"
#include "os/thread.h"
#include "share/check.h"
#include "stats/stats.h"

#include <assert.h>
#include <string.h>

#define ONE_STRONG    UINT64_C(1)
#define ONE_WEAK      (UINT64_C(1) << 32)
#define UNIQUE        (ONE_STRONG | ONE_WEAK)
#define LIMIT         UINT32_C(0x80000000) /* a half from here on is out of range */
#define SATURATED     UINT32_C(0xA0000000) /* ... and from here on it is there to stay */
#define SAT_WEAK      (UINT64_C(0xC0000000) << 32)
#define SAT_BOTH      (SAT_WEAK | UINT64_C(0xC0000000))
#define ALIGN_MAX     4096
#define ALIGN_NATURAL 16 /* of pnx__alloc */

/*
 * Stands directly before the object.  link: while the object is live a mark that debug builds check; after the
 * last reference has gone, the queue of drops, which belongs to the thread that let it go.
 */
struct header {
    struct header *link;
    struct pnx_a64 counts;
    const struct pnx_rc_type *type; /* fixed */
    size_t bytes;                   /* fixed: of the object, flexible part included */
};
static_assert(sizeof(struct header) % ALIGN_NATURAL == 0, "objects are aligned as malloc does");

static char live_mark; /* only its address counts */
#define LIVE ((struct header *)(void *)&live_mark)

static struct pnx_a64 saturated_objects;

static uint32_t strong_of(uint64_t counts) {
    return (uint32_t)counts;
}

static uint32_t weak_of(uint64_t counts) {
    return (uint32_t)(counts >> 32);
}

static void *object_of(struct header *header) {
    return header + 1;
}

static struct header *header_of(const void *object) {
    struct header *header = (struct header *)(uintptr_t)object - 1;
#ifdef PNX_DEBUG
    PNX_DEBUG_CHECK(header->type && header->type->size >= sizeof(struct pnx_rc_type));
#endif
    return header;
}

/* For handles whose object must be alive. */
static struct header *live_header_of(const void *object) {
    struct header *header = header_of(object);
#ifdef PNX_DEBUG
    /* A dead one is let through: counts tell, and the saturation path reports it. */
    PNX_DEBUG_CHECK(header->link == LIVE ||
                    strong_of(pnx_load(&header->counts, PNX_RELAXED, "rc.debug")) == 0 ||
                    strong_of(pnx_load(&header->counts, PNX_RELAXED, "rc.debug_again")) >= LIMIT);
#endif
    return header;
}

static const struct pnx_env *env_of(const struct pnx_rc_type *type) {
    return type->env && type->env->alloc ? type->env : pnx__env_system();
}

/* Bytes from the start of the memory to the object. */
static size_t offset_of(const struct pnx_rc_type *type) {
    size_t align = type->object_align > ALIGN_NATURAL ? type->object_align : ALIGN_NATURAL;
    return (sizeof(struct header) + align - 1) & ~(align - 1);
}

/* ---- leaving the range ---- */

/* Brings the halves of mask to where they stay.  Returns whether this call is the one that did it. */
static bool saturate(struct header *header, uint64_t mask) {
    /* relaxed: a leaked object publishes nothing by this */
    uint64_t before = pnx_fetch_or(&header->counts, mask, PNX_RELAXED, "rc.saturate");
    if ((before & mask) == mask)
        return false;
    pnx_fetch_add(&saturated_objects, 1, PNX_RELAXED, "rc.saturated"); /* a statistic */
    return true;
}

static void report(const struct pnx_rc_type *type) {
    pnx__log(env_of(type), PNX_LOG_ERROR,
            "rc: a reference count of a %s left its range; the object is leaked", type->name);
    struct pnx_stats_block block = {.set = pnx_stats_default()};
    pnx__event(&block, PNX_EVENT_RC_SATURATED, type->name, -EOVERFLOW, NULL, 0, 0);
}

void pnx__rc_report(const void *object) {
    report(header_of(object)->type);
}

/*
 * What an operation does that found old, a half out of range, after it has changed that half by delta: stay
 * saturated, or become so.  Returns whether it is to be reported.
 */
static bool out_of_range(struct header *header, uint32_t old, uint64_t delta, uint64_t mask) {
    if (old >= SATURATED || old == 0)
        pnx_fetch_sub(&header->counts, delta, PNX_RELAXED, "rc.undo"); /* as rc.saturate */
    return old < SATURATED && saturate(header, mask);
}

/* ---- making ---- */

static int check_type(const struct pnx_rc_type *type) {
    if (!type || type->size < sizeof(*type) || !type->name || type->reserved ||
            (type->flags & ~(uint32_t)PNX_RC_MOVABLE))
        return -EINVAL;
    size_t align = type->object_align;
    if (align > ALIGN_MAX || (align & (align - 1)) != 0)
        return -EINVAL;
    const struct pnx_env *env = type->env;
    if (env && (env->size < sizeof(*env) || !env->alloc != !env->free))
        return -EINVAL;
    return 0;
}

static int make(const struct pnx_rc_type *type, size_t bytes, void **ret_object) {
    size_t offset = offset_of(type);
    size_t total;
    if (__builtin_add_overflow(offset, bytes, &total) || total > PTRDIFF_MAX)
        return -EOVERFLOW;
    size_t align = type->object_align > ALIGN_NATURAL ? type->object_align : ALIGN_NATURAL;
    char *memory = pnx__alloc_aligned(env_of(type), total, 1, align);
    if (!memory)
        return -ENOMEM;
    struct header *header = (struct header *)(void *)(memory + offset) - 1;
    header->link = LIVE;
    header->counts.v = UNIQUE; /* nobody else knows the object yet */
    header->type = type;
    header->bytes = bytes;
    *ret_object = object_of(header);
    return 0;
}

static void free_memory(struct header *header) {
    const struct pnx_rc_type *type = header->type;
    size_t offset = offset_of(type);
    pnx__free(env_of(type), (char *)object_of(header) - offset, offset + header->bytes, 1);
}

int pnx_rc_new(const struct pnx_rc_type *type, const void *init, void **ret_object) {
    return pnx_rc_new_flexible(type, init, 0, ret_object);
}

int pnx_rc_new_flexible(
        const struct pnx_rc_type *type, const void *init, size_t extra, void **ret_object) {
    int rc = check_type(type);
    if (rc || !ret_object)
        return -EINVAL;
    size_t bytes;
    if (__builtin_add_overflow(type->object_size, extra, &bytes))
        return -EOVERFLOW;
    void *object = NULL;
    rc = make(type, bytes, &object);
    if (rc)
        return rc;
    if (init)
        memcpy(object, init, type->object_size);
    *ret_object = object;
    return 0;
}

/* ---- letting go ---- */

/* Gives up one weak reference; the last one frees the memory. */
static void weak_unref(struct header *header) {
    /* release: what this holder did comes before the freeing; pairs with rc.weak_last */
    uint64_t before = pnx_fetch_sub(&header->counts, ONE_WEAK, PNX_RELEASE, "rc.weak_unref");
    uint32_t weak = weak_of(before);
    if (weak == 1) {
        /* acquire: pairs with rc.weak_unref and rc.unref of the others, through the chain of RMWs */
        (void)pnx_load(&header->counts, PNX_ACQUIRE, "rc.weak_last");
        free_memory(header);
        return;
    }
    if (weak != 0 && weak < LIMIT)
        return;
    const struct pnx_rc_type *type = header->type;
    if (out_of_range(header, weak, (uint64_t)0 - ONE_WEAK, SAT_WEAK))
        report(type);
}

static void drop_now(struct header *header) {
    const struct pnx_rc_type *type = header->type;
    header->link = NULL;
    if (type->drop) {
        pnx__mutex_assert_none_held();
        type->drop(type->ctx, object_of(header));
    }
    weak_unref(header);
}

/*
 * Threads whose record could not be had (no memory) share one queue, so that their drops need no stack either.
 * Whoever finds no drainer becomes it; a drop inside a drop finds one, and leaves.
 */
static struct pnx_aptr orphans; /* struct header *, by link */
static struct pnx_a32 orphans_drained;

static void drop_orphans(void) {
    /* acq_rel on both exchanges of the flag: a pusher that finds a drainer is seen by that drainer's last look */
    while (pnx_exchange(&orphans_drained, 1, PNX_ACQ_REL, "rc.drain_claim") == 0) {
        struct header *header;
        /* acquire: pairs with rc.orphan_push */
        while ((header = pnx_exchange(&orphans, NULL, PNX_ACQUIRE, "rc.drain_take")) != NULL) {
            while (header) {
                struct header *after = header->link;
                drop_now(header);
                header = after;
            }
        }
        pnx_exchange(&orphans_drained, 0, PNX_ACQ_REL, "rc.drain_end"); /* pairs with drain_claim */
        if (!pnx_load(&orphans, PNX_RELAXED, "rc.drain_look"))
            return;
    }
}

static void drop_without_record(struct header *header) {
    void *first = pnx_load(&orphans, PNX_RELAXED, "rc.orphan_first");
    do {
        header->link = first;
        /* release: pairs with rc.drain_take */
    } while (!pnx_cas(&orphans, &first, header, PNX_RELEASE, "rc.orphan_push"));
    drop_orphans();
}

static void drop(struct header *header) {
    struct pnx_thread *self = pnx__thread();
    if (!self) {
        drop_without_record(header);
        return;
    }
    header->link = NULL;
    if (self->rc_dropping) {
        if (self->rc_last)
            ((struct header *)self->rc_last)->link = header;
        else
            self->rc_first = header;
        self->rc_last = header;
        return;
    }
    self->rc_dropping = 1;
    while (header) {
        drop_now(header);
        header = self->rc_first;
        if (header) {
            self->rc_first = header->link;
            if (!self->rc_first)
                self->rc_last = NULL;
        }
    }
    self->rc_dropping = 0;
}

static void unref(const void *object, void (*drop_by)(struct header *header)) {
    struct header *header = live_header_of(object);
    const struct pnx_rc_type *type = header->type;
    /* release: what this holder did comes before the drop; pairs with rc.last and rc.unique */
    uint64_t before = pnx_fetch_sub(&header->counts, ONE_STRONG, PNX_RELEASE, "rc.unref");
    uint32_t strong = strong_of(before);
    if (strong == 1) {
        /* acquire, and a load because TSan knows no fences: pairs with rc.unref of the other holders */
        (void)pnx_load(&header->counts, PNX_ACQUIRE, "rc.last");
        drop_by(header);
        return;
    }
    if (strong != 0 && strong < LIMIT)
        return;
    if (out_of_range(header, strong, (uint64_t)0 - ONE_STRONG, SAT_BOTH))
        report(type);
}

void pnx_rc_unref(const void *object) {
    if (object)
        unref(object, drop);
}

void pnx_rc_cleanup_(void *variable) {
    void *object;
    void *none = NULL;
    memcpy(&object, variable, sizeof(object)); /* the variable has the user's pointer type */
    memcpy(variable, &none, sizeof(none));
    pnx_rc_unref(object);
}

/* ---- sharing ---- */

bool pnx__rc_ref_silent(const void *object) {
    struct header *header = live_header_of(object);
    /* relaxed: the caller holds a reference already; the new one needs nothing that the old one had not */
    uint64_t before = pnx_fetch_add(&header->counts, ONE_STRONG, PNX_RELAXED, "rc.ref");
    uint32_t strong = strong_of(before);
    if (strong != 0 && strong < LIMIT)
        return false;
    return out_of_range(header, strong, ONE_STRONG, SAT_BOTH);
}

void *pnx_rc_ref(const void *object) {
    if (object && pnx__rc_ref_silent(object))
        pnx__rc_report(object);
    return (void *)(uintptr_t)object;
}

bool pnx_rc_unique(const void *object) {
    /* acquire: pairs with rc.unref, rc.weak_unref; everything that former holders did is visible (P2) */
    return pnx_load(&live_header_of(object)->counts, PNX_ACQUIRE, "rc.unique") == UNIQUE;
}

uint32_t pnx_rc_count(const void *object) {
    return strong_of(pnx_load(&header_of(object)->counts, PNX_RELAXED, "rc.count"));
}

uint32_t pnx_rc_weak_count(const void *object) {
    uint64_t counts = pnx_load(&header_of(object)->counts, PNX_RELAXED, "rc.weak_count");
    return weak_of(counts) - (strong_of(counts) ? 1 : 0);
}

const struct pnx_rc_type *pnx_rc_type_of(const void *object) {
    return header_of(object)->type;
}

size_t pnx_rc_size(const void *object) {
    return header_of(object)->bytes;
}

uint64_t pnx_rc_saturated(void) {
    return pnx_load(&saturated_objects, PNX_RELAXED, "rc.saturated_read");
}

/* ---- copy on write ---- */

static bool is_plain(const struct pnx_rc_type *type) {
    return !type->clone && !type->drop;
}

int pnx_rc_clone(const void *object, void **ret_copy) {
    if (!object || !ret_copy)
        return -EINVAL;
    struct header *header = live_header_of(object);
    const struct pnx_rc_type *type = header->type;
    if (!type->clone && !is_plain(type))
        return -ENOTSUP;
    void *copy = NULL;
    int rc = make(type, header->bytes, &copy);
    if (rc)
        return rc;
    if (is_plain(type)) {
        memcpy(copy, object, header->bytes);
    } else {
        pnx__mutex_assert_none_held();
        rc = type->clone(type->ctx, object, copy);
        if (rc) {
            free_memory(header_of(copy)); /* nobody else has seen it; it owns nothing to drop */
            return rc < 0 ? rc : -EINVAL;
        }
    }
    *ret_copy = copy;
    return 0;
}

/*
 * Moves an object to which only weak references are left besides *handle.  Taking strong from 1 to 0 first shuts
 * upgrade out, so that the bytes can be taken; the memory is had before that, so that nothing can fail after it.
 * PNX_E_SHARED when somebody upgraded before.
 */
static int move_away(void **handle, struct header *header, uint64_t counts) {
    void *moved = NULL;
    int rc = make(header->type, header->bytes, &moved);
    if (rc)
        return rc;
    /* acquire: pairs with rc.unref of former holders; the release that frees the bytes stands in weak_unref */
    while (!pnx_cas(&header->counts, &counts, counts - ONE_STRONG, PNX_ACQUIRE, "rc.move")) {
        if (strong_of(counts) != 1) {
            free_memory(header_of(moved));
            return PNX_E_SHARED;
        }
    }
    memcpy(moved, object_of(header), header->bytes);
    header->link = NULL;
    weak_unref(header);
    *handle = moved;
    return 0;
}

int pnx_rc_make_mut(void **handle) {
    if (!handle || !*handle)
        return -EINVAL;
    struct header *header = live_header_of(*handle);
    const struct pnx_rc_type *type = header->type;
    /* acquire: pairs with rc.unref, rc.weak_unref, as rc.unique */
    uint64_t counts = pnx_load(&header->counts, PNX_ACQUIRE, "rc.make_mut");
    if (counts == UNIQUE)
        return 0;
    if (strong_of(counts) == 1 && (is_plain(type) || (type->flags & PNX_RC_MOVABLE))) {
        int rc = move_away(handle, header, counts);
        if (rc != PNX_E_SHARED)
            return rc;
    }
    /*
     * Copy, then let go as any holder would.  Should the others have let go meanwhile, the copy was not needed
     * but is right; should a weak reference be upgraded meanwhile, its holder keeps the old object.
     */
    void *copy = NULL;
    int rc = pnx_rc_clone(*handle, &copy);
    if (rc)
        return rc;
    const void *old = *handle;
    *handle = copy;
    pnx_rc_unref(old);
    return 0;
}

static int call_edit(pnx_rc_edit_fn *edit, void *ctx, void *object) {
    pnx__mutex_assert_none_held();
    int rc = edit(ctx, object);
    return rc > 0 ? -EINVAL : rc;
}

int pnx_rc_update(void **handle, pnx_rc_edit_fn *edit, void *ctx) {
    if (!handle || !*handle || !edit)
        return -EINVAL;
    void *copy = NULL;
    int rc = pnx_rc_clone(*handle, &copy);
    if (rc)
        return rc;
    rc = call_edit(edit, ctx, copy);
    if (rc) {
        pnx_rc_unref(copy);
        return rc;
    }
    const void *old = *handle;
    *handle = copy;
    pnx_rc_unref(old);
    return 0;
}

int pnx_rc_try_update(void *object, pnx_rc_edit_fn *edit, void *ctx) {
    if (!object || !edit)
        return -EINVAL;
    if (!pnx_rc_unique(object))
        return PNX_E_SHARED;
    return call_edit(edit, ctx, object);
}

/* ---- weak references ---- */

struct pnx_weak pnx_weak_make(const void *object) {
    struct pnx_weak weak = {(void *)(uintptr_t)object};
    if (!object)
        return weak;
    struct header *header = header_of(object);
    /* relaxed: as rc.ref */
    uint64_t before = pnx_fetch_add(&header->counts, ONE_WEAK, PNX_RELAXED, "rc.weak_ref");
    uint32_t count = weak_of(before);
    if (count != 0 && count < LIMIT)
        return weak;
    if (out_of_range(header, count, ONE_WEAK, SAT_WEAK))
        report(header->type);
    return weak;
}

struct pnx_weak pnx_weak_ref(const struct pnx_weak *weak) {
    return pnx_weak_make(weak ? weak->object_ : NULL);
}

void *pnx_weak_upgrade(const struct pnx_weak *weak) {
    if (!weak || !weak->object_)
        return NULL;
    struct header *header = header_of(weak->object_);
    uint64_t counts =
            pnx_load(&header->counts, PNX_RELAXED, "rc.upgrade_look"); /* rc.upgrade decides */
    while (strong_of(counts) != 0 && strong_of(counts) < LIMIT) {
        /* acquire: pairs with rc.unref; what holders did before they let go is visible to the new one */
        if (pnx_cas(&header->counts, &counts, counts + ONE_STRONG, PNX_ACQUIRE, "rc.upgrade"))
            return weak->object_;
    }
    if (strong_of(counts) == 0)
        return NULL;
    /* Out of range: a reference that is not counted is as good, since the object stays for ever. */
    if (saturate(header, SAT_BOTH))
        report(header->type);
    return weak->object_;
}

void pnx_weak_release(struct pnx_weak *weak) {
    if (!weak || !weak->object_)
        return;
    struct header *header = header_of(weak->object_);
    weak->object_ = NULL;
    weak_unref(header);
}

#ifdef PNX_DEBUG
void pnx__rc_set_counts(const void *object, uint32_t strong, uint32_t weak) {
    pnx_store(&header_of(object)->counts, (uint64_t)weak << 32 | strong, PNX_RELAXED, "rc.test");
}

void pnx__rc_unref_without_record(const void *object) {
    unref(object, drop_without_record);
}
#endif
