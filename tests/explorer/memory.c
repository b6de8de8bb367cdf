/* SPDX-License-Identifier: Apache-2.0 */
/*
 * memory.c - what loads may read, and memory that is never given out twice.
 *
 *   P1  A load reads any store that is not older, in modification order, than one that its thread knows of: its
 *       own, those that happen before, those that it or somebody before it read, and those that seq_cst fences
 *       make known.  A read-modify-write reads the newest.  Modification order is the order of execution.
 *   P2  An acquire learns the message of the store that it reads: what a release store knew, or what the last
 *       release fence before it knew; a read-modify-write adds to the message of the store that it replaces (P0982).
 *   P3  An address is given out once in an execution, and the same ones in each.
 */
#include "explorer/engine.h"

#include <sys/mman.h>

#define ARENA_BYTES ((size_t)32 << 20)  /* for the code under test, in one execution */
#define POOL_BYTES  ((size_t)256 << 20) /* stores, locations; touched as needed */
#define GRANULE     16
#define MAX_BLOCKS  16384
#define GUARD       16 /* bytes between blocks that belong to none */
#define NOBODY      UINT8_MAX

static char *arena, *pool;
static size_t arena_used, pool_used;
static uint16_t *block_of; /* one a granule: number + 1 */
static struct x_block blocks[MAX_BLOCKS];
static uint32_t n_blocks;
static char *reserve(size_t size) {
    void *p = mmap(
            NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) {
        perror("explorer: mmap");
        abort();
    }
    return p;
}

void x_memory_start(void) {
    if (arena)
        return;
    arena = reserve(ARENA_BYTES);
    pool = reserve(POOL_BYTES);
    x_races_start(arena, ARENA_BYTES);
    block_of = (uint16_t *)(void *)reserve(ARENA_BYTES / GRANULE * sizeof(*block_of));
}

void x_memory_reset(void) {
    memset(block_of, 0, (arena_used / GRANULE + 1) * sizeof(*block_of));
    x_races_reset(arena_used);
    arena_used = 0;
    pool_used = 0;
    n_blocks = 0;
    memset(&x.sc, 0, sizeof(x.sc));
    x.sc_number = 0;
}

/* Not zeroed: memory of earlier executions. */
void *x_from_pool(size_t size) {
    void *p = pool + pool_used;
    pool_used += (size + 31) & ~(size_t)31;
    if (pool_used > POOL_BYTES)
        x_fail(X_MISUSE, "an execution with more than %zu MB of history", POOL_BYTES >> 20);
    return p;
}

static void join(struct x_clock *into, const struct x_clock *from) {
    for (unsigned i = 0; i <= X_THREADS; i++)
        into->at[i] = into->at[i] > from->at[i] ? into->at[i] : from->at[i];
}

void x_join(struct x_pair *into, const struct x_pair *from) {
    join(&into->hb, &from->hb);
    join(&into->view, &from->view);
}

/* The number of a new event of the calling thread. */
uint32_t x_tick(struct x_thread *self) {
    unsigned me = x_index(self);
    uint32_t epoch = ++self->epoch;
    self->now.hb.at[me] = epoch;
    self->now.view.at[me] = epoch;
    return epoch;
}

/* Locations. */

struct x_block *x_find_block(const void *address) {
    uintptr_t offset = (uintptr_t)address - (uintptr_t)arena;
    if (offset >= ARENA_BYTES)
        return NULL;
    uint16_t number = block_of[offset / GRANULE];
    struct x_block *block = number ? &blocks[number - 1] : NULL;
    if (!block || (uintptr_t)address - (uintptr_t)block->base >= block->size)
        x_fail(X_FREED, "an access to %s, which was never allocated", x_place(address));
    return block;
}

/* The location of a word or a lock. */
static struct x_loc *look_up(const void *address) {
    struct x_granule *granule = x_granule_of(address);
    struct x_loc **at = &granule->loc[(uintptr_t)address >> 2 & 1];
    if (*at)
        return *at;
    struct x_loc *loc = x_from_pool(sizeof(*loc));
    memset(loc, 0, sizeof(*loc));
    loc->address = address;
    loc->granule = granule;
    *at = loc;
    return loc;
}

void x_check_block(const struct x_granule *granule, const char *what) {
    const struct x_block *block = granule->block;
    if (!block)
        return;
    if (block->freed)
        x_fail(X_FREED, "%s of %s, which is freed", what, x_place(granule->address));
    if (!x_happened_before(block->thread, block->epoch))
        x_fail(X_RACE, "%s of %s, whose allocation by thread %u does not happen before", what,
                x_place(granule->address), block->thread);
}

struct x_loc *x_loc_of(const void *address) {
    struct x_loc *loc = look_up(address);
    x_check_block(loc->granule, "use");
    return loc;
}

bool x_lock_is_free(const void *mutex) {
    return look_up(mutex)->holder == 0;
}

static uint64_t peek(const void *word, unsigned size) {
    uint64_t value8;
    uint32_t value4;
    if (size == 1)
        return *(const unsigned char *)word;
    if (size == 8) {
        memcpy(&value8, word, 8);
        return value8;
    }
    memcpy(&value4, word, 4);
    return value4;
}

static void poke(void *word, unsigned size, uint64_t value) {
    uint32_t value4 = (uint32_t)value;
    if (size == 1)
        *(unsigned char *)word = (unsigned char)value;
    else if (size == 8)
        memcpy(word, &value, 8);
    else
        memcpy(word, &value4, 4);
}

static bool acquires(int order) {
    return order == __ATOMIC_ACQUIRE || order == __ATOMIC_ACQ_REL || order == __ATOMIC_SEQ_CST;
}

static bool releases(int order) {
    return order == __ATOMIC_RELEASE || order == __ATOMIC_ACQ_REL || order == __ATOMIC_SEQ_CST;
}

static void append(struct x_thread *self, struct x_loc *loc, void *word, uint64_t value, int order,
        const struct x_store *replaced) {
    struct x_store *store = x_from_pool(sizeof(*store));
    uint32_t epoch = x_tick(self);
    store->older = loc->last;
    store->value = loc->size == 1 ? (uint8_t)value : loc->size == 4 ? (uint32_t)value : value;
    store->index = loc->last->index + 1;
    store->epoch = epoch;
    store->thread = (uint8_t)x_index(self);
    store->initial = false;
    store->sc_number = order == __ATOMIC_SEQ_CST ? ++x.sc_number : 0;
    store->message = releases(order) ? self->now : self->released;
    if (replaced)
        x_join(&store->message, &replaced->message);
    loc->access_epoch[store->thread] = epoch;
    loc->last = store;
    poke(word, loc->size, value);
}

/*
 * Something other than the last store is there: somebody wrote it plainly, who owned it then.  If that was seen, only
 * who comes after it knows of it; else it was the C library, for somebody, and counts as known.
 */
static void take_plain_write(struct x_loc *loc, uint64_t value) {
    const struct x_access *write = loc->granule->accesses;
    uint8_t mask = loc->size == 8 ? 0xff : (uintptr_t)loc->address & 4 ? 0xf0 : 0x0f;
    while (write && !(write->write && (write->mask & mask)))
        write = write->next;
    struct x_store *store = x_from_pool(sizeof(*store));
    memset(store, 0, sizeof(*store));
    store->older = loc->last;
    store->value = value;
    store->index = loc->last->index + 1;
    store->initial = !write;
    store->thread = write ? write->thread : NOBODY;
    store->epoch = write ? write->epoch : 0;
    loc->last = store;
}

/* The location of an atomic word, whose oldest store is what was in memory when it was first touched. */
static struct x_loc *atomic_loc(const void *word, unsigned size, const char *what) {
    /* A byte stands first of four, of which the others are nothing. */
    if (size != 4 && size != 8 && (size != 1 || (uintptr_t)word % 4 != 0))
        x_fail(X_MISUSE, "an atomic of %u bytes", size);
    struct x_loc *loc = look_up(word);
    x_check_block(loc->granule, what);
    if (!loc->last) {
        struct x_store *first = x_from_pool(sizeof(*first));
        memset(first, 0, sizeof(*first));
        first->value = peek(word, size);
        first->initial = true;
        first->thread = NOBODY;
        loc->last = first;
        loc->size = (uint8_t)size;
    }
    if (peek(word, size) != loc->last->value)
        take_plain_write(loc, peek(word, size));
    if (loc->size != size)
        x_fail(X_MISUSE, "%s is used as a word of %u and of %u bytes", x_place(word), loc->size,
                size);
    x_check_atomic(loc->granule, word, size, what);
    return loc;
}

static bool knows(const struct x_thread *thread, const struct x_store *store) {
    const struct x_clock *view = &thread->now.view;
    return store->initial || store->epoch <= view->at[store->thread] ||
           (store->sc_number && store->sc_number <= view->at[X_SC]);
}

/* The oldest store that thread may still read, as an index. */
static uint32_t floor_of(const struct x_thread *thread, const struct x_loc *loc) {
    const struct x_store *store = loc->last;
    while (!knows(thread, store))
        store = store->older;
    uint32_t lowest = store->index;
    for (unsigned i = 0; i < x.n_threads; i++) {
        const struct x_mark *mark = loc->marks[i];
        while (mark && mark->epoch > thread->now.view.at[i])
            mark = mark->older;
        if (mark && mark->index > lowest)
            lowest = mark->index;
    }
    return lowest;
}

static void note_for_spinning(
        struct x_thread *self, struct x_loc *loc, uint32_t index, uint64_t value) {
    unsigned at = self->reads++ % X_SPIN_READS;
    self->read[at].loc = loc;
    self->read[at].index = index;
    self->read[at].value = value;
}

void x_memory_note_held(struct x_loc *mutex) {
    note_for_spinning(x.self, mutex, mutex->changes, 0);
}

/* epoch: of the access.  Of a read-modify-write that is its store's, which its message carries on. */
static void note_read(
        struct x_thread *self, struct x_loc *loc, const struct x_store *store, uint32_t epoch) {
    unsigned me = x_index(self);
    loc->access_epoch[me] = epoch;
    if (!loc->marks[me] || loc->marks[me]->index != store->index) {
        struct x_mark *mark = x_from_pool(sizeof(*mark));
        mark->older = loc->marks[me];
        mark->epoch = epoch;
        mark->index = store->index;
        loc->marks[me] = mark;
    }
    note_for_spinning(self, loc, store->index, store->value);
}

static void learn(struct x_thread *self, const struct x_store *store, int order) {
    x_join(acquires(order) ? &self->now : &self->acquired, &store->message);
}

uint64_t x_memory_newest(const void *word, unsigned size) {
    return atomic_loc(word, size, "futex wait")->last->value;
}

uint64_t x_memory_load(
        const void *word, unsigned size, int order, const struct pnx_atomic_site *site) {
    struct x_thread *self = x.self;
    struct x_loc *loc = atomic_loc(word, size, "load");
    const struct x_store *store = loc->last;
    uint32_t candidates = 1;
    if (!x.alone && x.stale)
        candidates = store->index - floor_of(self, loc) + 1;
    uint32_t older = x_decide(candidates);
    if (older) {
        if (x.bounded)
            x.stale--;
        for (uint32_t i = 0; i < older; i++)
            store = store->older;
    }
    note_read(self, loc, store, x_tick(self));
    learn(self, store, order);
    if (x.trace)
        x_trace("load  %-24s %s -> 0x%llx %s%s%s", site->name, x_place(word),
                (unsigned long long)store->value, x_order_name(order),
                order != site->declared ? " (weakened)" : "", older ? " STALE" : "");
    return store->value;
}

void x_memory_store(void *word, unsigned size, uint64_t value, int order) {
    append(x.self, atomic_loc(word, size, "store"), word, value, order, NULL);
}

uint64_t x_memory_rmw(void *word, unsigned size, int order,
        uint64_t (*fn)(uint64_t old, uint64_t operand), uint64_t operand) {
    struct x_loc *loc = atomic_loc(word, size, "read-modify-write");
    const struct x_store *store = loc->last;
    learn(x.self, store, order);
    append(x.self, loc, word, fn(store->value, operand), order, store);
    note_read(x.self, loc, loc->last,
            loc->last->epoch); /* it is its own newest: a spinner waits for another */
    return store->value;
}

/* How many older stores a failing compare-and-swap may read. */
static uint32_t failing(const struct x_thread *self, const struct x_loc *loc, uint64_t expected) {
    uint32_t lowest = floor_of(self, loc);
    uint32_t n = 0;
    for (const struct x_store *store = loc->last->older; store && store->index >= lowest;
            store = store->older)
        n += store->value != expected;
    return n;
}

/* The nth of them, the newest first: 1, 2, ... */
static const struct x_store *nth_failing(const struct x_loc *loc, uint64_t expected, uint32_t n) {
    const struct x_store *store = loc->last->older;
    while ((n -= store->value != expected) != 0)
        store = store->older;
    return store;
}

bool x_memory_cas(
        void *word, unsigned size, uint64_t *expected, uint64_t desired, int order, int failure) {
    struct x_thread *self = x.self;
    struct x_loc *loc = atomic_loc(word, size, "compare-and-swap");
    const struct x_store *store = loc->last;
    uint32_t n = !x.alone && x.stale ? failing(self, loc, *expected) : 0;
    uint32_t choice = x_decide(n + 1);
    if (choice) {
        store = nth_failing(loc, *expected, choice);
        if (x.bounded)
            x.stale--;
    } else if (store->value == *expected) {
        learn(self, store, order);
        append(self, loc, word, desired, order, store);
        note_read(self, loc, loc->last, loc->last->epoch);
        return true;
    }
    note_read(self, loc, store, x_tick(self));
    learn(self, store, order == __ATOMIC_RELAXED ? order : failure);
    *expected = store->value;
    return false;
}

void x_memory_fence(struct x_thread *thread, int order) {
    if (acquires(order))
        x_join(&thread->now, &thread->acquired);
    if (order == __ATOMIC_SEQ_CST) {
        /* Both ways: what earlier fences knew, and to later ones what this one knows. */
        join(&thread->now.view, &x.sc.view);
        thread->now.view.at[X_SC] = x.sc_number;
        join(&x.sc.view, &thread->now.view);
    }
    if (releases(order))
        thread->released = thread->now;
}

bool x_memory_something_new(const struct x_thread *thread) {
    uint32_t n = thread->reads < X_SPIN_READS ? thread->reads : X_SPIN_READS;
    for (uint32_t i = 0; i < n; i++) {
        const struct x_loc *loc = thread->read[i].loc;
        const struct x_store *last = loc->last;
        if (!last && loc->changes != thread->read[i].index)
            return true;
        if (last && last->index > thread->read[i].index && last->value != thread->read[i].value)
            return true;
    }
    return false;
}

void x_memory_lock(struct x_loc *mutex) {
    mutex->holder = (uint8_t)(x_index(x.self) + 1);
    mutex->access_epoch[x_index(x.self)] = x_tick(x.self);
    if (mutex->released)
        x_join(&x.self->now, mutex->released);
}

void x_memory_unlock(struct x_loc *mutex) {
    mutex->holder = 0;
    mutex->changes++;
    mutex->access_epoch[x_index(x.self)] = x_tick(x.self);
    if (!mutex->released)
        mutex->released = x_from_pool(sizeof(*mutex->released));
    *mutex->released = x.self->now;
}

/* Allocation. */

void *x_memory_alloc(size_t size, size_t align) {
    if (align < GRANULE)
        align = GRANULE;
    if (x.fail_allocation != UINT32_MAX && x.fail_allocation-- == 0) {
        x.fail_allocation = UINT32_MAX;
        return NULL;
    }
    size_t start = (arena_used + align - 1) & ~(align - 1);
    size_t end = (start + size + GUARD + GRANULE - 1) & ~(size_t)(GRANULE - 1);
    if (end < start || end > ARENA_BYTES || n_blocks == MAX_BLOCKS)
        x_fail(X_MISUSE, "an execution that allocates more than %zu MB or %d blocks",
                ARENA_BYTES >> 20, MAX_BLOCKS);
    arena_used = end;
    struct x_block *block = &blocks[n_blocks];
    *block = (struct x_block){.base = arena + start,
            .size = size,
            .number = n_blocks++,
            .epoch = x_tick(x.self),
            .thread = (uint8_t)x_index(x.self)};
    for (size_t at = start; at < start + size; at += GRANULE)
        block_of[at / GRANULE] = (uint16_t)(block->number + 1);
    if (x.trace)
        x_trace("alloc %zu bytes: block %u", size, block->number);
    return block->base;
}

void x_memory_free(void *p, size_t size) {
    struct x_block *block = x_find_block(p);
    if (!block || block->base != p)
        x_fail(X_BAD_FREE, "free of %s, which is not the start of a block", x_place(p));
    if (block->freed)
        x_fail(X_BAD_FREE, "%s is freed twice", x_place(p));
    if (size != SIZE_MAX && size != block->size)
        x_fail(X_BAD_FREE, "%s has %zu bytes, and is freed as %zu", x_place(p), block->size, size);
    x_tick(x.self);
    if (!x_happened_before(block->thread, block->epoch))
        x_fail(X_RACE, "free of %s, whose allocation does not happen before", x_place(p));
    x_check_free(block);
    block->freed = true;
    memset(block->base, 0xdf, block->size);
    if (x.trace)
        x_trace("free  block %u", block->number);
}

uint64_t x_memory_identity(uint64_t value) {
    uint64_t offset = value - (uintptr_t)arena;
    if (offset >= ARENA_BYTES || !block_of[offset / GRANULE])
        return value;
    const struct x_block *block = &blocks[block_of[offset / GRANULE] - 1];
    return ((uint64_t)block->thread << 60 | (uint64_t)block->epoch << 32) + value -
           (uintptr_t)block->base;
}

size_t x_memory_size(const void *p) {
    const struct x_block *block = x_find_block(p);
    return block ? block->size : 0;
}

void x_memory_check_leaks(void) {
    if (x.test->leaks)
        return;
    uint32_t live = 0;
    const struct x_block *first = NULL;
    for (uint32_t i = 0; i < n_blocks; i++) {
        if (blocks[i].freed)
            continue;
        live++;
        first = first ? first : &blocks[i];
    }
    if (first)
        x_fail(X_LEAK,
                "%u blocks are left, the first of %zu bytes: the allocation number %u, by thread "
                "%u",
                live, first->size, first->number, first->thread);
}

const char *x_place(const void *address) {
    static char buffers[4][64];
    static unsigned turn;
    char *buf = buffers[turn++ % 4];
    uintptr_t offset = (uintptr_t)address - (uintptr_t)arena;
    if (offset < ARENA_BYTES && block_of[offset / GRANULE]) {
        const struct x_block *block = &blocks[block_of[offset / GRANULE] - 1];
        snprintf(buf, sizeof(buffers[0]), "block %u+%zu", block->number,
                (size_t)((const char *)address - block->base));
    } else {
        snprintf(buf, sizeof(buffers[0]), "%p", address);
    }
    return buf;
}
