/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mapping/bytes.c - what holds a mapping's bytes: made, made longer or shorter, given back.
 *
 *   P1  Memory is charged to the budget before there is any, and given back with it.
 *   P2  A call that fails leaves bytes, budget and address space as they were.
 *   P3  Nothing but what is ours is ever mapped over: addresses are given only inside base .. base + reserved.
 */
#include "mapping/mapping.h"

#include "os/lost.h"
#include "os/thread.h"

#include <inttypes.h>
#include <string.h>

/* The longest mapping: there is room above it for whole pages, huge ones too. */
#define SIZE_MOST ((size_t)PTRDIFF_MAX - ((size_t)4 << 20))

static size_t round_up(size_t n, size_t grain) {
    return (n + grain - 1) / grain * grain;
}

static int charge(struct pnx_mapping *mapping, size_t bytes, struct pnx_error *err) {
    int rc = pnx_budget_charge(mapping->budget, bytes, 0);
    if (rc)
        return pnx__fail(err, rc, rc, "budget", "mapping: the budget refuses %zu bytes", bytes);
    return 0;
}

/* Bytes before the data, so that its alignment is that of the file: to what the system maps where pages are. */
static size_t lead(const struct pnx_mapping *mapping, size_t grain) {
    return (size_t)(mapping->offset % grain);
}

void pnx__bytes_empty(struct pnx_mapping_bytes *bytes) {
    static const _Alignas(PNX_MAPPING_ALIGN) unsigned char nothing[PNX_MAPPING_ALIGN];
    *bytes = (struct pnx_mapping_bytes){
            .backing = PNX_BACKING_EMPTY, .data = (unsigned char *)(uintptr_t)nothing};
}

/* A child that was forked with NO_FORK does not have the pages: at their address may be something else by now. */
static bool not_here(const struct pnx_mapping *mapping) {
    return (mapping->flags & PNX_MAPPING_NO_FORK) && mapping->generation != pnx__fork_generation();
}

void pnx__bytes_drop(struct pnx_mapping *mapping, struct pnx_mapping_bytes *bytes) {
    if (bytes->backing == PNX_BACKING_MMAP || bytes->paged) {
        if (!not_here(mapping))
            pnx__os_unmap(bytes->base, bytes->reserved ? bytes->reserved : bytes->base_size);
    } else {
        pnx__free(&mapping->env, bytes->base, bytes->base_size, 1);
    }
    pnx_budget_uncharge(mapping->budget, bytes->charged);
    pnx__bytes_empty(bytes);
}

/* ---- policies ---- */

static const struct {
    uint32_t flag;
    enum pnx_os_policy policy;
    const char *what;
} policies[] = {
        {PNX_MAPPING_NO_DUMP, PNX_OS_NO_DUMP, "PNX_MAPPING_NO_DUMP"},
        {PNX_MAPPING_NO_FORK, PNX_OS_NO_FORK, "PNX_MAPPING_NO_FORK"},
        {PNX_MAPPING_WIPE_ON_FORK, PNX_OS_WIPE_ON_FORK, "PNX_MAPPING_WIPE_ON_FORK"},
};
#define POLICIES ((uint32_t)(PNX_MAPPING_NO_DUMP | PNX_MAPPING_NO_FORK | PNX_MAPPING_WIPE_ON_FORK))

/* Applies what the flags ask for to new pages.  Unlike advice, a policy that does not hold is an error. */
static int apply_policies(
        const struct pnx_mapping *mapping, void *base, size_t n, struct pnx_error *err) {
    for (size_t i = 0; i < sizeof(policies) / sizeof(policies[0]); i++) {
        if (!(mapping->flags & policies[i].flag))
            continue;
        int rc = pnx__os_policy(base, n, policies[i].policy);
        if (rc)
            return pnx__fail(err, rc == -EINVAL ? -ENOTSUP : rc, rc, "policy",
                    "mapping: the system refuses %s: %s (%d)", policies[i].what, pnx_strerror(rc),
                    -rc);
    }
    return 0;
}

/* ---- copies ---- */

unsigned char *pnx__bytes_copy_at(
        const struct pnx_mapping *mapping, const struct pnx_mapping_bytes *bytes) {
    return bytes->base + lead(mapping, PNX_MAPPING_ALIGN);
}

static int no_memory(struct pnx_error *err, size_t bytes, int cause) {
    return pnx__fail(
            err, -ENOMEM, cause, "allocate", "mapping: no memory for a copy of %zu bytes", bytes);
}

/* Makes room for a copy: on the heap, or where the flags concern pages, in pages of its own. */
static int make_room(struct pnx_mapping *mapping, size_t n, struct pnx_mapping_bytes *ret_bytes,
        struct pnx_error *err) {
    struct pnx_mapping_bytes bytes = {.backing = PNX_BACKING_COPY};
    bytes.paged = (mapping->flags & POLICIES) || mapping->lasting;
    bytes.base_size = bytes.paged ? round_up(n, pnx__os_page_size()) : n;
    int rc = charge(mapping, bytes.base_size, err);
    if (rc)
        return rc;
    bytes.charged = bytes.base_size;
    if (!bytes.paged) {
        /* Not pnx__alloc(), which would clear what is about to be overwritten. */
        bytes.base = mapping->env.alloc(mapping->env.ctx, n, PNX_MAPPING_ALIGN);
        if (!bytes.base)
            rc = no_memory(err, n, 0);
    } else {
        void *base = NULL;
        rc = pnx__os_map(&(struct pnx_os_map){.fd = -1, .n = bytes.base_size}, &base);
        if (rc)
            rc = no_memory(err, n, rc);
        else
            rc = apply_policies(mapping, base, bytes.base_size, err);
        if (rc && base)
            pnx__os_unmap(base, bytes.base_size);
        bytes.base = base;
    }
    if (rc)
        pnx_budget_uncharge(mapping->budget, bytes.charged);
    else
        *ret_bytes = bytes;
    return rc;
}

int pnx__bytes_room(struct pnx_mapping *mapping, struct pnx_mapping_bytes *bytes, size_t capacity,
        size_t keep, struct pnx_error *err) {
    struct pnx_mapping_bytes room;
    int rc = make_room(mapping, lead(mapping, PNX_MAPPING_ALIGN) + capacity, &room, err);
    if (rc)
        return rc;
    if (keep)
        memcpy(pnx__bytes_copy_at(mapping, &room), pnx__bytes_copy_at(mapping, bytes), keep);
    if (bytes->base)
        pnx__bytes_drop(mapping, bytes);
    *bytes = room;
    return 0;
}

void pnx__bytes_copied(
        const struct pnx_mapping *mapping, struct pnx_mapping_bytes *bytes, size_t size) {
    bytes->data = pnx__bytes_copy_at(mapping, bytes);
    bytes->size = size;
}

/* ---- pages ---- */

static size_t grain_of(const struct pnx_mapping_bytes *bytes) {
    return bytes->huge == PNX_HUGE_PAGES ? pnx__os_huge_page_size() : pnx__os_page_size();
}

/* Whole pages for n bytes of data. */
static size_t pages_for(
        const struct pnx_mapping *mapping, const struct pnx_mapping_bytes *bytes, size_t n) {
    return round_up(lead(mapping, pnx__os_map_grain()) + n, grain_of(bytes));
}

/* Whether the pages are memory that nobody else pays for. */
static bool is_charged(const struct pnx_mapping *mapping) {
    return mapping->anonymous || mapping->memory || mapping->mode == PNX_MAPPING_PRIVATE;
}

static enum pnx_os_access access_of(const struct pnx_mapping *mapping) {
    if (mapping->mode == PNX_MAPPING_PRIVATE)
        return PNX_OS_PRIVATE;
    if (mapping->seals & PNX_SEAL_WRITE)
        return PNX_OS_READ_OWN;
    return mapping->mode == PNX_MAPPING_WRITE ? PNX_OS_WRITE : PNX_OS_READ;
}

static struct pnx_os_map map_of(const struct pnx_mapping *mapping, size_t at, size_t n) {
    return (struct pnx_os_map){
            .fd = mapping->anonymous ? -1 : mapping->fd,
            .access = access_of(mapping),
            .offset = mapping->offset - lead(mapping, pnx__os_map_grain()) + at,
            .n = n,
    };
}

/* Memory of huge pages, which are there to be had or not. */
static int map_huge(struct pnx_mapping *mapping, struct pnx_mapping_bytes *bytes, size_t n) {
    size_t grain = pnx__os_huge_page_size();
    if (!grain || n > PTRDIFF_MAX - grain || (mapping->flags & PNX_MAPPING_RESIZABLE))
        return -ENOTSUP; /* they cannot be moved, nor grown */
    struct pnx_os_map map = map_of(mapping, 0, round_up(n, grain));
    void *base = NULL;
    map.huge = true;
    int rc = pnx__os_map(&map, &base);
    if (rc)
        return rc;
    bytes->huge = PNX_HUGE_PAGES;
    bytes->base = base;
    bytes->base_size = bytes->reserved = map.n;
    return 0;
}

/* Keeps address space for room bytes, where huge pages would fit if they are wanted. */
static int reserve(const struct pnx_mapping *mapping, size_t room, unsigned char **ret_base) {
    size_t grain = mapping->flags & PNX_MAPPING_HUGE ? pnx__os_huge_page_size() : 0;
    if (room > PTRDIFF_MAX - grain)
        return -ENOMEM;
    void *base = NULL;
    int rc = pnx__os_reserve(NULL, room + grain, &base);
    if (rc)
        return rc;
    *ret_base = base;
    if (!grain)
        return 0;
    unsigned char *aligned = *ret_base + (-(uintptr_t)base & (grain - 1));
    if (aligned != *ret_base)
        pnx__os_unmap(*ret_base, (size_t)(aligned - *ret_base));
    size_t behind = grain - (size_t)(aligned - *ret_base);
    if (behind)
        pnx__os_unmap(aligned + room, behind);
    *ret_base = aligned;
    return 0;
}

/* Maps pages bytes, in address space for room bytes if that is more, or where it has to be aligned. */
static int map_pages(const struct pnx_mapping *mapping, struct pnx_mapping_bytes *bytes,
        size_t pages, size_t room) {
    size_t huge = mapping->flags & PNX_MAPPING_HUGE ? pnx__os_huge_page_size() : 0;
    bool within = room > pages || (huge && pages >= huge);
    unsigned char *kept = NULL;
    struct pnx_os_map map = map_of(mapping, 0, pages);
    int rc = within ? reserve(mapping, room, &kept) : 0;
    if (rc)
        return rc;
    void *base = NULL;
    map.at = kept;
    rc = pnx__os_map(&map, &base);
    if (rc) {
        if (kept)
            pnx__os_unmap(kept, room);
        return rc;
    }
    bytes->base = base;
    bytes->base_size = pages;
    bytes->reserved = room;
    return 0;
}

int pnx__map_refused(struct pnx_error *err, int refused, size_t n) {
    uint64_t have = 0, most = 0;
    if (refused == -ENOMEM && pnx__os_map_counts(&have, &most) == 0 && have + 2 >= most)
        return pnx__fail(err, -ENOMEM, refused, "map",
                "mapping: the process has %" PRIu64 " mappings, and may have no more than %" PRIu64
                " (vm.max_map_count)",
                have, most);
    return pnx__fail(err, refused, refused, "map",
            "mapping: the system refuses to map %zu bytes: %s (%d)", n, pnx_strerror(refused),
            -refused);
}

int pnx__bytes_map(struct pnx_mapping *mapping, struct pnx_mapping_bytes *bytes, size_t n,
        int *ret_refused, struct pnx_error *err) {
    struct pnx_mapping_bytes made = {.backing = PNX_BACKING_MMAP, .size = n};
    size_t before = lead(mapping, pnx__os_map_grain());
    *ret_refused = 0;
    if (n > SIZE_MOST || mapping->reserve > SIZE_MOST)
        return pnx__fail(
                err, -EFBIG, 0, "map", "mapping: %zu bytes do not fit the address space", n);
    size_t pages = pages_for(mapping, &made, n);
    size_t room =
            mapping->reserve > n ? pages_for(mapping, &made, (size_t)mapping->reserve) : pages;
    bool huge =
            (mapping->flags & PNX_MAPPING_HUGE) && mapping->anonymous && pnx__os_huge_page_size();
    size_t cost = huge ? round_up(pages, pnx__os_huge_page_size()) : pages;
    if (is_charged(mapping)) {
        int rc = charge(mapping, cost, err);
        if (rc)
            return rc;
        made.charged = cost;
    }
    int rc = huge && map_huge(mapping, &made, n) == 0 ? 0 : map_pages(mapping, &made, pages, room);
    if (rc == 0 && made.huge != PNX_HUGE_PAGES && cost > pages) {
        pnx_budget_uncharge(mapping->budget, cost - pages);
        made.charged = pages;
    }
    if (rc) {
        pnx_budget_uncharge(mapping->budget, made.charged);
        *ret_refused = rc;
        return rc;
    }
    made.data = made.base + before;
    rc = apply_policies(mapping, made.base, made.base_size, err);
    if (rc) {
        pnx__bytes_drop(mapping, &made);
        return rc;
    }
    if ((mapping->flags & PNX_MAPPING_HUGE) && made.huge == PNX_HUGE_NONE &&
            pnx__os_policy(made.base, made.base_size, PNX_OS_HUGE) == 0)
        made.huge = PNX_HUGE_ADVISED;
    *bytes = made;
    return 0;
}

/* ---- longer and shorter ---- */

bool pnx__bytes_fits(const struct pnx_mapping *mapping, size_t n) {
    const struct pnx_mapping_bytes *bytes = &mapping->bytes;
    if (bytes->backing != PNX_BACKING_MMAP || n == 0 || n > PTRDIFF_MAX / 2)
        return false;
    return pages_for(mapping, bytes, n) <= bytes->reserved;
}

int pnx__bytes_grow(struct pnx_mapping *mapping, struct pnx_mapping_bytes *bytes, size_t n,
        struct pnx_error *err) {
    size_t pages = pages_for(mapping, bytes, n), more = pages - bytes->base_size;
    if (more) {
        size_t cost = is_charged(mapping) ? more : 0;
        int rc = charge(mapping, cost, err);
        if (rc)
            return rc;
        struct pnx_os_map map = map_of(mapping, bytes->base_size, more);
        void *at = NULL;
        map.at = bytes->base + bytes->base_size;
        rc = pnx__os_map(&map, &at);
        if (rc) {
            pnx_budget_uncharge(mapping->budget, cost);
            return pnx__map_refused(err, rc, more);
        }
        rc = apply_policies(mapping, at, more, err);
        if (rc) {
            pnx_budget_uncharge(mapping->budget, cost);
            (void)pnx__os_reserve(at, more, &at);
            return rc;
        }
        if (bytes->huge == PNX_HUGE_ADVISED)
            (void)pnx__os_policy(at, more, PNX_OS_HUGE);
        bytes->charged += cost;
    }
    /* What an anonymous mapping had in its last page before it was cut must not come back. */
    if (mapping->anonymous && bytes->size < n) {
        size_t end = bytes->base_size - (size_t)(bytes->data - bytes->base);
        memset(bytes->data + bytes->size, 0, (n < end ? n : end) - bytes->size);
    }
    bytes->base_size = pages;
    bytes->size = n;
    return 0;
}

void pnx__bytes_shrink(struct pnx_mapping *mapping, struct pnx_mapping_bytes *bytes, size_t n) {
    size_t pages = pages_for(mapping, bytes, n), less = bytes->base_size - pages;
    bytes->size = n;
    if (!less)
        return;
    void *at = bytes->base + pages;
    if (bytes->reserved > bytes->base_size) {
        /* Refused only for want of memory: the pages are then kept, and mapped over when it grows again. */
        if (pnx__os_reserve(at, less, &at))
            return;
    } else {
        pnx__os_unmap(at, less);
        bytes->reserved = pages;
    }
    size_t back = bytes->charged ? less : 0;
    pnx_budget_uncharge(mapping->budget, back);
    bytes->charged -= back;
    bytes->base_size = pages;
}

/*
 * For pages that cannot be moved as they are: where the system has no such call, or keeps them as several mappings.  The
 * content is copied by the system, since pages of a file may be lost.
 */
static int move_by_copying(struct pnx_mapping *mapping, struct pnx_mapping_bytes *bytes, size_t n) {
    struct pnx_mapping_bytes moved;
    size_t keep = bytes->size < n ? bytes->size : n;
    int refused;
    int rc = pnx__bytes_map(mapping, &moved, n, &refused, NULL);
    if (rc)
        return rc;
    if (mapping->anonymous)
        memcpy(moved.data, bytes->data, keep);
    else
        rc = pnx__os_copy_by_system(moved.data, bytes->data, keep, false);
    if (rc == 0 && mapping->locked)
        rc = pnx__os_lock_pages(moved.base, moved.base_size);
    if (rc) {
        pnx__bytes_drop(mapping, &moved);
        return rc;
    }
    pnx__bytes_drop(mapping, bytes);
    *bytes = moved;
    return 0;
}

int pnx__bytes_move(struct pnx_mapping *mapping, struct pnx_mapping_bytes *bytes, size_t n) {
    if (n > SIZE_MOST)
        return -EFBIG;
    size_t pages = pages_for(mapping, bytes, n), more = pages - bytes->base_size;
    size_t cost = bytes->charged ? more : 0;
    int rc = pnx_budget_charge(mapping->budget, cost, 0);
    if (rc)
        return rc;
    void *base = NULL;
    rc = pnx__os_remap(bytes->base, bytes->base_size, pages, &base);
    if (rc == -EFAULT) {
        /* Advice for a part has made several mappings of one. */
        (void)pnx__os_advise(bytes->base, bytes->base_size, PNX_OS_ADVICE_NORMAL);
        rc = pnx__os_remap(bytes->base, bytes->base_size, pages, &base);
    }
    if (rc) {
        pnx_budget_uncharge(mapping->budget, cost);
        return rc == -EFAULT || rc == -ENOTSUP ? move_by_copying(mapping, bytes, n) : rc;
    }
    /* The rest of the address space that was kept stays behind. */
    if (bytes->reserved > bytes->base_size)
        pnx__os_unmap(bytes->base + bytes->base_size, bytes->reserved - bytes->base_size);
    size_t before = (size_t)(bytes->data - bytes->base);
    bytes->base = base;
    bytes->data = bytes->base + before;
    if (mapping->anonymous) {
        size_t end = bytes->base_size - before;
        memset(bytes->data + bytes->size, 0, (n < end ? n : end) - bytes->size);
    }
    bytes->base_size = bytes->reserved = pages;
    bytes->charged += cost;
    bytes->size = n;
    return 0;
}

/* ---- faults ---- */

struct pnx_fault_pages pnx__bytes_pages(
        const struct pnx_mapping *mapping, const struct pnx_mapping_bytes *bytes) {
    struct pnx_fault_pages pages = {
            .data = bytes->data, .size = bytes->size, .fd = mapping->fd, .info = mapping->info};
    if (pnx__view_of(mapping, bytes).flags & PNX_VIEW_WRITABLE_)
        pages.flags = PNX_FAULT_WRITABLE;
    if (bytes->backing != PNX_BACKING_MMAP || mapping->anonymous) {
        pages.flags |= PNX_FAULT_NEVER | (bytes->torn ? PNX_FAULT_TORN : 0);
        return pages;
    }
    pages.base = bytes->base;
    pages.base_size = bytes->base_size;
    pages.file_offset = mapping->offset - (uint64_t)(bytes->data - bytes->base);
    uint64_t end = pages.file_offset + bytes->base_size, page = pnx__os_page_size();
    if ((mapping->seals & PNX_SEAL_SHRINK) && (mapping->info.size + page - 1) / page * page >= end)
        pages.flags |= PNX_FAULT_SEALED;
    return pages;
}
