/* SPDX-License-Identifier: Apache-2.0 */
/*
 * races.c - who races with whom.
 *
 *   P1  Two accesses to one byte, one a plain write or the free of the memory, that happens-before does not order
 *       are a race, whichever came first (Flanagan and Freund, FastTrack, 2009, with whole clocks).
 *   P2  Every access by the code under test to memory from the explorer and to the library's variables is seen: it
 *       is compiled with -fsanitize=thread, and this file stands in for the sanitizer's own functions.  What the C
 *       library does for it (memcpy) is not seen, nor is what a thread keeps on its own stack.
 */
#include "explorer/engine.h"

#include <sys/mman.h>

#define TABLE_BITS 12
#define TABLE_SIZE (1u << TABLE_BITS)

/* On the heap a granule is found by its offset, elsewhere by hashing. */
static uintptr_t heap;
static size_t heap_size;
static struct x_granule **on_heap;
static uint32_t n_elsewhere;
static struct {
    uint64_t execution; /* in which it was made: the table is not wiped between executions */
    struct x_granule *granule;
} table[TABLE_SIZE];

extern char __start_pnx_xdata[] __attribute__((weak));
extern char __stop_pnx_xdata[] __attribute__((weak));

void x_races_start(const char *arena, size_t size) {
    heap = (uintptr_t)arena;
    heap_size = size;
    on_heap = mmap(NULL, size / 8 * sizeof(struct x_granule *), PROT_READ | PROT_WRITE,
            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (on_heap == MAP_FAILED) {
        perror("explorer: mmap");
        abort();
    }
}

void x_races_reset(size_t arena_used) {
    memset(on_heap, 0, (arena_used / 8 + 1) * sizeof(*on_heap));
    n_elsewhere = 0;
}

static struct x_granule *make(uintptr_t address) {
    struct x_granule *granule = x_from_pool(sizeof(*granule));
    memset(granule, 0, sizeof(*granule));
    granule->address = (const void *)address; /* NOLINT(performance-no-int-to-ptr) */
    return granule;
}

static struct x_granule *elsewhere(uintptr_t address) {
    uint32_t at = (uint32_t)((address >> 3) * UINT64_C(0x9E3779B97F4A7C15) >> (64 - TABLE_BITS));
    while (table[at].execution == x.execution) {
        if ((uintptr_t)table[at].granule->address == address)
            return table[at].granule;
        at = (at + 1) % TABLE_SIZE;
    }
    if (++n_elsewhere > TABLE_SIZE / 2)
        x_fail(X_MISUSE, "more than %u words outside the heap", TABLE_SIZE / 2);
    table[at].execution = x.execution;
    table[at].granule = make(address);
    return table[at].granule;
}

struct x_granule *x_granule_of(const void *address) {
    uintptr_t start = (uintptr_t)address & ~(uintptr_t)7;
    uintptr_t offset = start - heap;
    if (offset >= heap_size)
        return elsewhere(start);
    struct x_granule *granule = on_heap[offset / 8];
    if (granule)
        return granule;
    struct x_block *block = x_find_block(address);
    granule = make(start);
    granule->block = block;
    on_heap[offset / 8] = granule;
    return granule;
}

static _Noreturn void race(
        const struct x_granule *granule, const char *what, const char *with, unsigned thread) {
    x_fail(X_RACE, "%s of %s races with a %s by thread %u", what, x_place(granule->address), with,
            thread);
}

/* Against the plain accesses to these bytes; reads race with writes only. */
static void check_plain(
        const struct x_granule *granule, uint8_t mask, bool write, const char *what) {
    for (const struct x_access *a = granule->accesses; a; a = a->next) {
        if ((a->mask & mask) && (write || a->write) && !x_happened_before(a->thread, a->epoch))
            race(granule, what, a->write ? "plain write" : "plain read", a->thread);
    }
}

/* Against the atomic accesses to a word; reads race with its stores only. */
static void check_word(
        const struct x_granule *granule, const struct x_loc *loc, bool write, const char *what) {
    if (!loc)
        return;
    if (!write) {
        const struct x_store *last = loc->last;
        if (last && !last->initial && !x_happened_before(last->thread, last->epoch))
            race(granule, what, "store", last->thread);
        return;
    }
    for (unsigned i = 0; i < x.n_threads; i++) {
        if (!x_happened_before(i, loc->access_epoch[i]))
            race(granule, what, "atomic access", i);
    }
}

/* Notes the access, and forgets those that it follows and covers: who races with them races with it. */
static void note(struct x_granule *granule, uint8_t mask, bool write) {
    uint8_t me = (uint8_t)x_index(x.self);
    struct x_access **at = &granule->accesses;
    struct x_access *mine = NULL;
    while (*at) {
        struct x_access *a = *at;
        bool covered = (a->mask & ~mask) == 0 && (write || (a->thread == me && !a->write));
        if (!covered) {
            at = &a->next;
            continue;
        }
        *at = a->next;
        mine = a;
    }
    if (!mine)
        mine = x_from_pool(sizeof(*mine));
    *mine = (struct x_access){granule->accesses, x.self->epoch, me, mask, write};
    granule->accesses = mine;
}

static void plain(uintptr_t start, uint8_t mask, bool write) {
    struct x_granule *granule =
            x_granule_of((const void *)start); /* NOLINT(performance-no-int-to-ptr) */
    const char *what = write ? "plain write" : "plain read";
    x_check_block(granule, what);
    struct x_access *only = granule->accesses;
    if (only && !only->next && only->mask == mask && only->write == write &&
            only->thread == x_index(x.self) && !granule->loc[0] && !granule->loc[1]) {
        only->epoch = x.self->epoch; /* once more what was noted last */
        return;
    }
    check_plain(granule, mask, write, what);
    const struct x_loc *first = granule->loc[0];
    if (first && (mask & (first->size == 8 ? 0xff : 0x0f)))
        check_word(granule, first, write, what);
    if (mask & 0xf0)
        check_word(granule, granule->loc[1], write, what);
    note(granule, mask, write);
}

void x_plain(const void *p, size_t n, bool write) {
    if (!x.self || n == 0)
        return;
    if (x.unshared) {
        /* It comes before, or after, all that others do: nothing to note. */
        const struct x_block *block = x_find_block(p);
        if (block && block->freed)
            x_fail(X_FREED, "plain %s of %s, which is freed", write ? "write" : "read", x_place(p));
        return;
    }
    x_tick(x.self);
    uintptr_t start = (uintptr_t)p, end = start + n;
    for (uintptr_t at = start & ~(uintptr_t)7; at < end; at += 8) {
        unsigned mask = 0xff;
        if (at < start)
            mask &= 0xffu << (start - at);
        if (end - at < 8)
            mask &= 0xffu >> (8 - (end - at));
        plain(at, (uint8_t)mask, write);
    }
}

void x_check_atomic(
        const struct x_granule *granule, const void *word, unsigned size, const char *what) {
    if (!granule->accesses)
        return;
    uint8_t mask = size == 8 ? 0xff : (uintptr_t)word & 4 ? 0xf0 : 0x0f;
    for (const struct x_access *a = granule->accesses; a; a = a->next) {
        if (a->write && (a->mask & mask) && !x_happened_before(a->thread, a->epoch))
            race(granule, what, "plain write", a->thread);
    }
}

void x_check_free(const struct x_block *block) {
    uintptr_t first = (uintptr_t)block->base - heap;
    for (uintptr_t offset = first & ~(uintptr_t)7; offset < first + block->size; offset += 8) {
        const struct x_granule *granule = on_heap[offset / 8];
        if (!granule)
            continue;
        check_plain(granule, 0xff, true, "free");
        check_word(granule, granule->loc[0], true, "free");
        check_word(granule, granule->loc[1], true, "free");
    }
}

/* What the compiler calls for each plain access of the code under test. */

static void seen(const void *p, size_t n, bool write) {
    if (!x.self)
        return;
    uintptr_t at = (uintptr_t)p;
    if (at - heap < heap_size ||
            at - (uintptr_t)__start_pnx_xdata < (uintptr_t)(__stop_pnx_xdata - __start_pnx_xdata))
        x_plain(p, n, write);
}

/* The names are the compiler's.  NOLINTBEGIN(bugprone-reserved-identifier) */
#define ACCESS(kind, size, is_write) \
    void __tsan_##kind##size(void *p); \
    void __tsan_##kind##size(void *p) { \
        seen(p, size, is_write); \
    }
#define ACCESSES(size) ACCESS(read, size, false) ACCESS(write, size, true)
ACCESSES(1)
ACCESSES(2)
ACCESSES(4)
ACCESSES(8)
ACCESSES(16)
#define UNALIGNED(size) ACCESS(unaligned_read, size, false) ACCESS(unaligned_write, size, true)
UNALIGNED(2)
UNALIGNED(4)
UNALIGNED(8)
UNALIGNED(16)

void __tsan_read_range(void *p, size_t n);
void __tsan_read_range(void *p, size_t n) {
    seen(p, n, false);
}
void __tsan_write_range(void *p, size_t n);
void __tsan_write_range(void *p, size_t n) {
    seen(p, n, true);
}
void __tsan_init(void);
void __tsan_init(void) {}
void __tsan_func_entry(void *caller);
void __tsan_func_entry(void *caller) {
    (void)caller;
}
void __tsan_func_exit(void);
void __tsan_func_exit(void) {}

/* pnx_owner_add() and others that use the builtins: nothing is decided by them. */
#define ATOMIC(bits) \
    uint##bits##_t __tsan_atomic##bits##_load(const uint##bits##_t *p, int order); \
    uint##bits##_t __tsan_atomic##bits##_load(const uint##bits##_t *p, int order) { \
        (void)order; \
        return __atomic_load_n(p, __ATOMIC_RELAXED); \
    } \
    void __tsan_atomic##bits##_store(uint##bits##_t *p, uint##bits##_t value, int order); \
    void __tsan_atomic##bits##_store(uint##bits##_t *p, uint##bits##_t value, int order) { \
        (void)order; \
        __atomic_store_n(p, value, __ATOMIC_RELAXED); \
    } \
    uint##bits##_t __tsan_atomic##bits##_fetch_add( \
            uint##bits##_t *p, uint##bits##_t value, int order); \
    uint##bits##_t __tsan_atomic##bits##_fetch_add( \
            uint##bits##_t *p, uint##bits##_t value, int order) { \
        (void)order; \
        return __atomic_fetch_add(p, value, __ATOMIC_RELAXED); \
    }
ATOMIC(8)
ATOMIC(32)
ATOMIC(64)
/* NOLINTEND(bugprone-reserved-identifier) */
