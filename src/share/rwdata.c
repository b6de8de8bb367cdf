/* SPDX-License-Identifier: Apache-2.0 */
/*
 * share/rwdata.c - a value with its reader-writer lock: making it, ending it, guards, poison, misuse.
 *
 * Sits on the lock of rwdata_lock.c.  A user's function runs here under that lock only in the with-forms, which
 * are a lock by definition; drop runs when nobody knows the rwdata any more; events are told when a guard has ended.
 *
 *   OPEN --close--> CLOSED (guards that are out stay good; no new ones)
 *   WHOLE --a guard ends armed, or poison--> POISONED --clear, under a guard of repair--> WHOLE
 *
 * Guarantees P1..P7 stand in patinox/rwdata.h.
 */
#include "share/rwdata.h"

#include "base/env.h"
#include "base/options.h"
#include "share/callback.h"
#include "share/check.h"
#include "share/rc.h"

#include <assert.h>
#include <string.h>

#define MAGIC      UINT32_C(0x72776474)
#define LINE       64  /* bytes of a cache line */
#define PAUSES     128 /* of some 10 to 40 ns each: with the first ones a few microseconds */
#define WRITE_HELD 1   /* in an entry of pnx_thread.rwdata_held */

static const struct pnx_opt option_rows[] = {
#define PNX_OPTION(...) PNX_OPT_ROW(struct pnx_rwdata_opts, __VA_ARGS__)
#include "share/rwdata_opts.def"
#undef PNX_OPTION
};
static const struct pnx_opt_table options = {"rwdata", sizeof(struct pnx_rwdata_opts), option_rows,
        sizeof(option_rows) / sizeof(option_rows[0])};
static_assert(sizeof(struct pnx_rwdata_opts) ==
                      sizeof(size_t) + 6 * sizeof(void *) + sizeof(pnx_ns) + 2 * sizeof(uint32_t),
        "no padding");

/* What inline functions know. */
static_assert(
        offsetof(struct pnx_rwdata, word) == offsetof(struct pnx_rwdata_head_, word), "frozen");
static_assert(
        offsetof(struct pnx_rwdata, value) == offsetof(struct pnx_rwdata_head_, value), "frozen");
static_assert(
        offsetof(struct pnx_rwdata, values.writes) == offsetof(struct pnx_rwdata_head_, writes),
        "frozen");
static_assert(sizeof(struct pnx_rwdata_head_) <= LINE, "one line");

static bool valid(const struct pnx_rwdata *rwdata) {
    return rwdata && rwdata->magic == MAGIC;
}

/* ---- misuse ---- */

int pnx__rwdata_misused(struct pnx_rwdata *rwdata, const char *how) {
    pnx__rwdata_adopt(rwdata);
    pnx__mutex_lock(&rwdata->lock);
    pnx_owner_add(&rwdata->values.misuses, 1);
    pnx__mutex_unlock(&rwdata->lock);
    pnx__mutex_assert_none_held();
    pnx__event(&rwdata->block, PNX_EVENT_RWDATA_MISUSE, rwdata->name, -EINVAL, how, 0, 0);
    pnx__log(&rwdata->env, PNX_LOG_ERROR, "rwdata \"%s\": %s", rwdata->name, how);
    return -EINVAL;
}

/* ---- who holds what; each thread writes its own list ---- */

bool pnx__rwdata_holds(const struct pnx_rwdata *rwdata, bool writer) {
    const struct pnx_thread *self = pnx__thread();
    uintptr_t entry = (uintptr_t)rwdata + (writer ? WRITE_HELD : 0);
    for (uint32_t i = 0; self && i < self->rwdata_n; i++) {
        if (self->rwdata_held[i] == entry)
            return true;
    }
    return false;
}

static void leave_behind(struct pnx_rwdata *rwdata, bool writer);

/* A thread ends with guards in its hands: the others must not wait for it for ever. */
static void thread_ends(struct pnx_thread *thread) {
    while (thread->rwdata_n > 0) {
        uintptr_t entry = thread->rwdata_held[--thread->rwdata_n];
        leave_behind((struct pnx_rwdata *)(entry & ~(uintptr_t)WRITE_HELD), entry & WRITE_HELD);
    }
}

/* What does not fit in the list, or has no record to be in, is not checked. */
static void note(const struct pnx_rwdata *rwdata, bool writer) {
    struct pnx_thread *self = rwdata->checked ? pnx__thread() : NULL;
    if (!self)
        return;
    if (self->rwdata_n == PNX_RWDATA_HELD_MAX) {
        self->rwdata_more++;
        return;
    }
    self->rwdata_end = thread_ends;
    self->rwdata_held[self->rwdata_n++] = (uintptr_t)rwdata + (writer ? WRITE_HELD : 0);
}

/* Returns whether the guard may be this thread's. */
static bool strike(const struct pnx_rwdata *rwdata, bool writer) {
    struct pnx_thread *self = rwdata->checked ? pnx__thread() : NULL;
    uintptr_t entry = (uintptr_t)rwdata + (writer ? WRITE_HELD : 0);
    if (!self)
        return true;
    for (uint32_t i = self->rwdata_n; i-- > 0;) {
        if (self->rwdata_held[i] == entry) {
            self->rwdata_held[i] = self->rwdata_held[--self->rwdata_n];
            return true;
        }
    }
    if (self->rwdata_more == 0)
        return false;
    self->rwdata_more--;
    return true;
}

/* ---- making and ending ---- */

static int check_type(
        const struct pnx_rc_type *type, struct pnx_rwdata **ret_rwdata, struct pnx_error *err) {
    if (!type || !ret_rwdata)
        return pnx__fail_field(err, -EINVAL, type ? "ret_rwdata" : "type", "rwdata: %s is NULL",
                type ? "ret_rwdata" : "type");
    int rc = type->object_size ? pnx__rc_check_type(type) : -EINVAL;
    return rc ? pnx__fail_field(err, rc, "type", "rwdata: the type's description is not valid") : 0;
}

/* Where the value lies, from the start of the allocation; *ret_bytes is the whole.  False: not representable. */
static bool lay_out(const struct pnx_rc_type *type, size_t *ret_offset, size_t *ret_bytes) {
    size_t align = type->object_align ? type->object_align : _Alignof(max_align_t);
    size_t offset = 0, end = sizeof(struct pnx_rwdata);
    if (type->object_size > sizeof(((struct pnx_rwdata *)NULL)->small) || align > LINE) {
        align = align > LINE ? align : LINE; /* no line of a large value is the lock's */
        offset = (end + align - 1) & ~(align - 1);
        if (__builtin_add_overflow(offset, type->object_size, &end))
            return false;
    }
    *ret_offset = offset;
    *ret_bytes = end;
    return end <= PTRDIFF_MAX;
}

static int cleanup(void *arg, const struct pnx_cancel *cancel) {
    (void)cancel;
    pnx_rwdata_close(arg);
    return 0;
}

static int add_row(
        struct pnx_rwdata *rwdata, const struct pnx_rwdata_opts *opts, struct pnx_error *err) {
    if (opts->registry == pnx_registry_off())
        return 0;
    struct pnx_resource resource = {
            .size = sizeof(resource),
            .type = "rwdata",
            .name = rwdata->name,
            .site = opts->site,
            .cleanup = cleanup,
            .arg = rwdata,
            .bytes = rwdata->bytes,
            .flags = PNX_RESOURCE_LONG_LIVED,
    };
    struct pnx_registry *registry = pnx_registry_ref(opts->registry);
    int rc = pnx_registry_add(registry, &resource, err, &rwdata->id);
    if (rc)
        pnx_registry_release(&registry);
    else
        rwdata->registry = registry;
    return rc;
}

static int charge(struct pnx_rwdata *rwdata, struct pnx_budget *budget, struct pnx_error *err) {
    if (budget == pnx_budget_off())
        return 0;
    struct pnx_budget *own = pnx_budget_ref(budget ? budget : pnx_budget_default());
    int rc = pnx_budget_charge(own, rwdata->bytes, 0);
    if (rc) {
        pnx_budget_release(&own);
        return pnx__fail(err, rc, rc, "create", "%s: the budget refused %zu bytes", rwdata->name,
                rwdata->bytes);
    }
    rwdata->budget = own;
    return 0;
}

/* Frees the memory, not what the value owns; nobody else knows it. */
static void free_rwdata(struct pnx_rwdata *rwdata) {
    struct pnx_env env = rwdata->env;
    pnx__stats_remove(&rwdata->block);
    if (rwdata->budget) {
        pnx_budget_uncharge(rwdata->budget, rwdata->bytes);
        pnx_budget_release(&rwdata->budget);
    }
    pnx__mutex_destroy(&rwdata->lock);
    pnx__strfree(&env, rwdata->name);
    rwdata->magic = 0;
    pnx__free(&env, rwdata, rwdata->bytes, 1);
}

static void set_up(struct pnx_rwdata *rwdata, const struct pnx_rwdata_opts *opts) {
#ifdef PNX_DEBUG
    rwdata->checked = !(opts->flags & PNX_RWDATA_NO_CHECK);
#else
    rwdata->checked = opts->flags & PNX_RWDATA_CHECK;
#endif
    rwdata->flags = opts->flags;
    rwdata->timeout_ns = opts->timeout_ns;
    rwdata->pauses = pnx__os_cpus() > 1 ? PAUSES : 0;
    pnx__mutex_init(&rwdata->lock, PNX_RANK_RWDATA);
    pnx__list_init(&rwdata->queue);
    /* Nobody else knows it yet. */
    pnx_store(&rwdata->generation, pnx__fork_generation(), PNX_RELAXED, "rwdata.create_in");
    pnx_store(&rwdata->references, 1, PNX_RELAXED, "rwdata.create");
    pnx_store(&rwdata->word, rwdata->checked ? PNX_RWDATA_SPECIAL_ : 0, PNX_RELAXED,
            "rwdata.create_word");
}

int pnx_rwdata_create(const struct pnx_rc_type *type, const void *init,
        const struct pnx_rwdata_opts *user, struct pnx_error *err, struct pnx_rwdata **ret_rwdata) {
    struct pnx_rwdata_opts opts;
    struct pnx_env env;
    size_t offset, bytes;
    int rc = pnx__opts_resolve(&options, user, &opts, err);
    if (rc == 0)
        rc = check_type(type, ret_rwdata, err);
    if (rc == 0)
        rc = pnx__env_resolve(opts.env ? opts.env : type->env, err, &env);
    if (rc)
        return rc;
    if ((opts.flags & PNX_RWDATA_CHECK) && (opts.flags & PNX_RWDATA_NO_CHECK))
        return pnx__fail_field(err, -EINVAL, "flags", "rwdata: check, or no check?");
    size_t align = type->object_align > LINE ? type->object_align : LINE;
    struct pnx_rwdata *rwdata =
            lay_out(type, &offset, &bytes) ? pnx__alloc_aligned(&env, bytes, 1, align) : NULL;
    if (!rwdata)
        return pnx__fail(err, -ENOMEM, 0, "create", "rwdata: out of memory");
    rwdata->magic = MAGIC;
    rwdata->env = env;
    rwdata->type = type;
    rwdata->bytes = bytes;
    rwdata->value = (char *)rwdata + offset;
    set_up(rwdata, &opts);
    rwdata->name = pnx__strdup(&env, opts.name ? opts.name : "rwdata");
    if (!rwdata->name) {
        rc = pnx__fail(err, -ENOMEM, 0, "create", "rwdata: out of memory");
        goto fail;
    }
    rc = charge(rwdata, opts.budget, err);
    if (rc)
        goto fail;
    pnx__rwdata_stats_init(&rwdata->block, rwdata->name, &rwdata->values, NULL);
    pnx__stats_add(opts.stats, &rwdata->block);
    if (init)
        memcpy(rwdata->value, init, type->object_size);
    rc = add_row(rwdata, &opts, err);
    if (rc)
        goto fail;
    *ret_rwdata = rwdata;
    return 0;
fail:
    free_rwdata(rwdata);
    return rc;
}

struct pnx_rwdata *pnx_rwdata_ref(struct pnx_rwdata *rwdata) {
    if (rwdata) /* relaxed: the caller holds one */
        pnx_fetch_add(&rwdata->references, 1, PNX_RELAXED, "rwdata.ref");
    return rwdata;
}

void pnx_rwdata_close(struct pnx_rwdata *rwdata) {
    if (valid(rwdata))
        pnx__rwdata_close_queue(rwdata);
}

void pnx_rwdata_release(struct pnx_rwdata **handle) {
    if (!handle || !*handle)
        return;
    struct pnx_rwdata *rwdata = *handle;
    *handle = NULL;
    PNX_DEBUG_CHECK(valid(rwdata));
    /* acq_rel: pairs with itself; all that other holders did comes before the freeing */
    if (pnx_fetch_sub(&rwdata->references, 1, PNX_ACQ_REL, "rwdata.unref") != 1)
        return;
    if (rwdata->registry) {
        (void)pnx_registry_remove(rwdata->registry, rwdata->id); /* waits for a running cleanup */
        pnx_registry_release(&rwdata->registry);
    }
    pnx__rwdata_adopt(rwdata);
    uint64_t word = pnx_load(&rwdata->word, PNX_RELAXED, "rwdata.last");
    uint32_t strays = pnx_load(&rwdata->strays, PNX_RELAXED, "rwdata.last_strays");
    if ((word & ~PNX_RWDATA_SPECIAL_) || strays) {
        if (pnx_load(&rwdata->inherited, PNX_RELAXED, "rwdata.last_inherited") == 0)
            (void)pnx__rwdata_misused(
                    rwdata, "released while a guard was out, which keeps its memory");
        return;
    }
    pnx__mutex_assert_none_held();
    if (rwdata->type->drop)
        rwdata->type->drop(rwdata->type->ctx, rwdata->value);
    free_rwdata(rwdata);
}

/* ---- taking guards ---- */

static int check_call(const struct pnx_rwdata *rwdata, const void *ret_guard, pnx_ns *timeout,
        struct pnx_error *err) {
    if (!rwdata || !ret_guard)
        return pnx__fail_field(err, -EINVAL, rwdata ? "ret_guard" : "rwdata", "rwdata: %s is NULL",
                rwdata ? "ret_guard" : "rwdata");
    if (!valid(rwdata))
        return pnx__fail_field(err, -EINVAL, "rwdata", "rwdata: this is none, or not any more");
    return pnx__timeout(*timeout, rwdata->timeout_ns, err, timeout);
}

int pnx_rwdata_read_slow_(struct pnx_rwdata *rwdata, pnx_ns timeout, struct pnx_error *err,
        struct pnx_rwdata_read_guard *ret_guard) {
    int rc = check_call(rwdata, ret_guard, &timeout, err);
    if (rc)
        return rc;
    const struct pnx_thread *self = PNX_SELF;
    const struct pnx_rwdata_request request = {
            .rwdata = rwdata, .token = self ? pnx_rwdata_token_(self) : 0, .phase = "read"};
    rc = pnx__rwdata_acquire(&request, timeout, err);
    if (rc)
        return rc;
    if (rwdata->checked) {
        note(rwdata, false);
        /* relaxed: a number only */
        pnx_fetch_add(&rwdata->values.reads, 1, PNX_RELAXED, "rwdata.reads");
    }
    ret_guard->value = rwdata->value;
    ret_guard->rwdata_ = rwdata;
    return 0;
}

static int take_write_guard(struct pnx_rwdata *rwdata, pnx_ns timeout, bool repair,
        struct pnx_error *err, struct pnx_rwdata_write_guard *ret_guard) {
    int rc = check_call(rwdata, ret_guard, &timeout, err);
    if (rc)
        return rc;
    const struct pnx_thread *self = pnx__thread();
    if (!self) /* a writer without a name could not be told from others */
        return pnx__fail(err, -ENOMEM, 0, "write", "%s: out of memory", rwdata->name);
    const struct pnx_rwdata_request request = {.rwdata = rwdata,
            .token = pnx_rwdata_token_(self),
            .writer = true,
            .repair = repair,
            .phase = repair ? "repair" : "write"};
    rc = pnx__rwdata_acquire(&request, timeout, err);
    if (rc)
        return rc;
    note(rwdata, true);
    ret_guard->value = rwdata->value;
    ret_guard->rwdata_ = rwdata;
    ret_guard->state_ = request.token;
    return 0;
}

int pnx_rwdata_write_slow_(struct pnx_rwdata *rwdata, pnx_ns timeout, struct pnx_error *err,
        struct pnx_rwdata_write_guard *ret_guard) {
    return take_write_guard(rwdata, timeout, false, err, ret_guard);
}

int pnx_rwdata_repair(struct pnx_rwdata *rwdata, pnx_ns timeout, struct pnx_error *err,
        struct pnx_rwdata_write_guard *ret_guard) {
    return take_write_guard(rwdata, timeout, true, err, ret_guard);
}

/* ---- ending guards ---- */

/* Whether the entry of a list is of a guard that was ended by another thread; then it is settled now. */
static bool is_stray(struct pnx_rwdata *rwdata, bool writer) {
    if (writer && PNX_SELF) {
        uint64_t word = pnx_load(&rwdata->word, PNX_RELAXED, "rwdata.stray_look"); /* our own */
        if (pnx__rwdata_is_writer(word, pnx_rwdata_token_(PNX_SELF)))
            return false;
    }
    uint32_t strays = pnx_load(&rwdata->strays, PNX_RELAXED, "rwdata.strays"); /* a number only */
    while (strays && !pnx_cas(&rwdata->strays, &strays, strays - 1, PNX_RELAXED, "rwdata.stray")) {
    }
    return strays || writer;
}

static void stray(struct pnx_rwdata *rwdata, const char *how) {
    pnx_fetch_add(&rwdata->strays, 1, PNX_RELAXED, "rwdata.strayed"); /* a number only */
    (void)pnx__rwdata_misused(rwdata, how);
}

void pnx_rwdata_read_ended_(struct pnx_rwdata *rwdata, uint64_t word) {
    /* One that was never taken: the count went below zero, or a checked thread has none. */
    bool under = pnx__rwdata_readers(word) > PNX_RWDATA_MAX_READERS + PNX_RWDATA_MAX_READERS / 2;
    bool mine = under || strike(rwdata, false);
    if (under) {
        /* relaxed: nothing was read */
        pnx_fetch_add(&rwdata->word, PNX_RWDATA_READER_, PNX_RELAXED, "rwdata.put_back");
        (void)pnx__rwdata_misused(rwdata, "a read guard was ended twice");
        return;
    }
    if (pnx__rwdata_readers(word) == 0)
        pnx__rwdata_passed(rwdata, word);
    if (!mine)
        stray(rwdata, "a read guard was ended twice, or on another thread");
}

void pnx__rwdata_poison(struct pnx_rwdata *rwdata, int cause) {
    /* Relaxed: the lock orders them; who sees the mark but not yet the cause waits for the lock. */
    if (pnx_load(&rwdata->poison, PNX_RELAXED, "rwdata.poison_before") == 0) {
        pnx_owner_add(&rwdata->values.poisoned, 1);
        pnx_owner_add(&rwdata->values.poisonings, 1);
    }
    pnx_store(&rwdata->poison, (uint32_t)-cause, PNX_RELAXED, "rwdata.poison");
    pnx_fetch_or(&rwdata->word, PNX_RWDATA_SPECIAL_, PNX_RELAXED, "rwdata.poison_word");
}

static void tell_poisoned(struct pnx_rwdata *rwdata, int cause) {
    pnx__mutex_assert_none_held();
    pnx__event(&rwdata->block, PNX_EVENT_RWDATA_POISONED, rwdata->name, cause, NULL, 0, 0);
    pnx__log(&rwdata->env, PNX_LOG_ERROR,
            "rwdata \"%s\": a change was not finished; refused until it is repaired: %s",
            rwdata->name, pnx_strerror(cause));
}

/* The guard's bits beyond the word of a lone writer. */
#define FLAGS (PNX_RWDATA_ARMED_ | PNX_RWDATA_TELL_)

/* Whether the state is that of the guard that the lock knows, and not of a copy of one that has ended. */
static bool is_in_force(const struct pnx_rwdata *rwdata, uint64_t state) {
    uint64_t word = pnx_load(&rwdata->word, PNX_RELAXED, "rwdata.in_force"); /* our own, if so */
    return pnx__rwdata_is_writer(word, state & ~FLAGS);
}

void pnx_rwdata_write_end_slow_(struct pnx_rwdata *rwdata, uint64_t state) {
    if (!is_in_force(rwdata, state)) {
        (void)pnx__rwdata_misused(rwdata, "a write guard was ended that is not in force");
        return;
    }
    bool armed = (state & PNX_RWDATA_ARMED_) == PNX_RWDATA_ARMED_;
    bool foreign = !PNX_SELF || pnx_rwdata_token_(PNX_SELF) != (state & ~FLAGS);
    if (armed)
        pnx__rwdata_poison(rwdata, -ECANCELED);
    int cause = -(int)pnx_load(&rwdata->poison, PNX_RELAXED, "rwdata.end_cause"); /* the lock */
    bool tell = cause && (armed || (state & PNX_RWDATA_TELL_) == PNX_RWDATA_TELL_);
    (void)strike(rwdata, true);
    pnx__rwdata_release_writer(rwdata, 0);
    if (tell)
        tell_poisoned(rwdata, cause);
    if (foreign && rwdata->checked)
        stray(rwdata, "a write guard was ended on another thread");
    else if (foreign)
        (void)pnx__rwdata_misused(rwdata, "a write guard was ended on another thread");
}

static void leave_behind(struct pnx_rwdata *rwdata, bool writer) {
    if (is_stray(rwdata, writer))
        return; /* reported when it was ended */
    if (writer) {
        pnx__rwdata_poison(rwdata, -ECANCELED);
        pnx__rwdata_release_writer(rwdata, 0);
        tell_poisoned(rwdata, -ECANCELED);
    } else {
        /* release: as rwdata_inl.read_end */
        uint64_t word = pnx_fetch_sub(&rwdata->word, PNX_RWDATA_READER_, PNX_RELEASE,
                                "rwdata.left_behind") -
                        PNX_RWDATA_READER_;
        if (pnx__rwdata_readers(word) == 0)
            pnx__rwdata_passed(rwdata, word);
    }
    (void)pnx__rwdata_misused(rwdata, "a thread ended with a guard in its hands");
}

int pnx_rwdata_downgrade(
        struct pnx_rwdata_write_guard *guard, struct pnx_rwdata_read_guard *ret_guard) {
    if (!guard || !guard->rwdata_ || !ret_guard ||
            (guard->state_ & PNX_RWDATA_ARMED_) == PNX_RWDATA_ARMED_)
        return -EINVAL;
    struct pnx_rwdata *rwdata = guard->rwdata_;
    uint64_t state = guard->state_;
    if (!is_in_force(rwdata, state))
        return pnx__rwdata_misused(rwdata, "a write guard was downgraded that is not in force");
    int cause = -(int)pnx_load(&rwdata->poison, PNX_RELAXED, "rwdata.downgrade_cause");
    pnx_owner_add(&rwdata->values.downgrades, 1);
    (void)strike(rwdata, true);
    note(rwdata, false);
    *guard = (struct pnx_rwdata_write_guard){0};
    ret_guard->value = rwdata->value;
    ret_guard->rwdata_ = rwdata;
    pnx__rwdata_release_writer(rwdata, PNX_RWDATA_READER_);
    if (cause && (state & PNX_RWDATA_TELL_) == PNX_RWDATA_TELL_)
        tell_poisoned(rwdata, cause);
    return 0;
}

/* ---- with ---- */

static int call_read(pnx_rwdata_read_fn *fn, void *ctx, const void *value) {
    PNX_CLEANUP(pnx__call_end) struct pnx_thread *self = pnx__call_begin();
    return fn(ctx, value);
}

static int call_write(pnx_rwdata_write_fn *fn, void *ctx, void *value) {
    PNX_CLEANUP(pnx__call_end) struct pnx_thread *self = pnx__call_begin();
    return fn(ctx, value);
}

int pnx_rwdata_with_read(struct pnx_rwdata *rwdata, pnx_ns timeout, pnx_rwdata_read_fn *fn,
        void *ctx, struct pnx_error *err) {
    if (!fn)
        return pnx__fail_field(err, -EINVAL, "fn", "rwdata: fn is NULL");
    PNX_AUTO_RWDATA_READ guard = {0};
    int rc = pnx_rwdata_read(rwdata, timeout, err, &guard);
    if (rc)
        return rc;
    rc = pnx__callback_code(call_read(fn, ctx, guard.value));
    return rc ? pnx__callback_fail(err, rc, NULL, "read", rwdata->name) : 0;
}

int pnx_rwdata_with_write(struct pnx_rwdata *rwdata, pnx_ns timeout, pnx_rwdata_write_fn *fn,
        void *ctx, struct pnx_error *err) {
    if (!fn)
        return pnx__fail_field(err, -EINVAL, "fn", "rwdata: fn is NULL");
    PNX_AUTO_RWDATA_WRITE guard = {0};
    int rc = pnx_rwdata_write(rwdata, timeout, err, &guard);
    if (rc)
        return rc;
    bool poisons = rwdata->flags & PNX_RWDATA_POISON_ON_ERROR;
    if (poisons)
        pnx_rwdata_arm(&guard); /* for a function that does not return, too */
    rc = pnx__callback_code(call_write(fn, ctx, guard.value));
    if (poisons)
        pnx_rwdata_disarm(&guard);
    if (rc && poisons)
        (void)pnx_rwdata_poison(&guard, rc);
    return rc ? pnx__callback_fail(err, rc, NULL, "write", rwdata->name) : 0;
}

/* ---- poison ---- */

void pnx_rwdata_arm(struct pnx_rwdata_write_guard *guard) {
    if (guard && guard->rwdata_)
        guard->state_ |= PNX_RWDATA_ARMED_;
}

void pnx_rwdata_disarm(struct pnx_rwdata_write_guard *guard) {
    if (!guard || !guard->rwdata_)
        return;
    bool tell = (guard->state_ & PNX_RWDATA_TELL_) == PNX_RWDATA_TELL_;
    guard->state_ &= ~PNX_RWDATA_ARMED_;
    if (tell)
        guard->state_ |= PNX_RWDATA_TELL_;
}

int pnx_rwdata_poison(struct pnx_rwdata_write_guard *guard, int cause) {
    if (!guard || !guard->rwdata_ || cause >= 0)
        return -EINVAL;
    if (!is_in_force(guard->rwdata_, guard->state_))
        return pnx__rwdata_misused(
                guard->rwdata_, "a value was poisoned by a write guard that is not in force");
    pnx__rwdata_poison(guard->rwdata_, cause);
    guard->state_ |= PNX_RWDATA_TELL_;
    return 0;
}

int pnx_rwdata_poisoned(const struct pnx_rwdata *rwdata) {
    if (!valid(rwdata))
        return -EINVAL;
    /* Relaxed: news without a guard are a moment old anyway. */
    return -(int)pnx_load(&rwdata->poison, PNX_RELAXED, "rwdata.ask_poison");
}

int pnx_rwdata_clear(struct pnx_rwdata_write_guard *guard) {
    if (!guard || !guard->rwdata_)
        return -EINVAL;
    struct pnx_rwdata *rwdata = guard->rwdata_;
    if (!is_in_force(rwdata, guard->state_))
        return pnx__rwdata_misused(
                rwdata, "a value was cleared by a write guard that is not in force");
    pnx_store(&rwdata->poison, 0, PNX_RELAXED, "rwdata.clear"); /* the lock orders it */
    pnx__rwdata_adopt(rwdata);
    pnx__mutex_lock(&rwdata->lock); /* against a close */
    if (!rwdata->checked && !pnx_load(&rwdata->closed, PNX_RELAXED, "rwdata.clear_closed"))
        pnx_fetch_and(&rwdata->word, ~PNX_RWDATA_SPECIAL_, PNX_RELAXED, "rwdata.clear_word");
    pnx__mutex_unlock(&rwdata->lock);
    pnx_store(&rwdata->values.poisoned, 0, PNX_RELAXED, "rwdata.clear_gauge");
    return 0;
}

int pnx_rwdata_read_stats(const struct pnx_rwdata *rwdata, struct pnx_rwdata_stats *ret_stats) {
    struct pnx_rwdata_stats stats = {0};
    if (!valid(rwdata) || !ret_stats || ret_stats->size < sizeof(size_t))
        return -EINVAL;
    size_t size = ret_stats->size < sizeof(stats) ? ret_stats->size : sizeof(stats);
    static_assert(sizeof(stats) == sizeof(size_t) + sizeof(rwdata->values), "one row, one word");
    pnx__stats_read(&rwdata->block, &stats.writes);
    stats.size = size;
    memcpy(ret_stats, &stats, size);
    return 0;
}
