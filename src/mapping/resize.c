/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mapping/resize.c - another length for a mapping.
 *
 *     lengthen the file --> in place, or other bytes --> layout --> lock --> [shut views out] --> put in
 *            ^                                                                   |
 *            +------------- undone in reverse, whatever fails -------------------+
 *
 *   P1  A resize that fails leaves mapping and file as they were.
 *   P2  Nothing moves, nor is given up, while a view is live, a call uses the bytes, or an access scope is open.
 *   P3  No lock is held while the file, the address space or the user's validate is at work.
 */
#include "mapping/mapping.h"

#include <inttypes.h>
#include <string.h>

#define SCOPES_PATIENCE (10 * PNX_SEC) /* how long open access scopes are waited for */

/* A resize from its beginning to its end; on the stack of who asked for it. */
struct resize {
    struct pnx_mapping *mapping;
    uint32_t flags;
    size_t n;        /* the length that is wanted */
    bool to_end;     /* ... or whatever can be read: the size of the file says nothing */
    uint64_t end;    /* where that is in the file */
    uint64_t before; /* the file's size before it was lengthened; == end: it was not */
    struct pnx_file_info file;
    struct pnx_error *err;
};

static int fail(const struct resize *resize, int code, int cause, const char *what) {
    return pnx__fail(resize->err, code, cause, "resize", "mapping: \"%.80s\": %s",
            resize->mapping->name, what);
}

static int live_views(const struct resize *resize, uint64_t views) {
    return pnx__fail(resize->err, -EBUSY, 0, "resize",
            "mapping: \"%.80s\": %" PRIu64 " live view%s: the bytes can neither move nor be cut",
            resize->mapping->name, views, views == 1 ? "" : "s");
}

/* ---- what is wanted ---- */

static int examine_file(struct resize *resize) {
    const struct pnx_mapping *mapping = resize->mapping;
    if (mapping->anonymous)
        return 0;
    int rc = pnx__os_fstat(mapping->fd, &resize->file);
    if (rc)
        return fail(resize, rc, rc, "cannot examine the file");
    return 0;
}

static int find_length(struct resize *resize, uint64_t length) {
    const struct pnx_mapping *mapping = resize->mapping;
    if (length == PNX_RESIZE_TO_FILE) {
        if (mapping->anonymous)
            return fail(resize, -EINVAL, 0, "there is no file to be as long as");
        resize->to_end = pnx__streamed(mapping, &resize->file);
        length = resize->file.size > mapping->offset ? resize->file.size - mapping->offset : 0;
    }
    if (length > PTRDIFF_MAX || length > INT64_MAX - mapping->offset)
        return fail(resize, -EFBIG, 0, "the length does not fit the address space");
    resize->n = (size_t)length;
    resize->end = resize->before = mapping->offset + length;
    if (mapping->anonymous || pnx__streamed(mapping, &resize->file) ||
            mapping->mode == PNX_MAPPING_WRITE || resize->file.size >= resize->end)
        return 0;
    return pnx__fail_field(resize->err, -ERANGE, "length",
            "mapping: %" PRIu64 " bytes from offset %" PRIu64 " end beyond the file's %" PRIu64,
            length, mapping->offset, resize->file.size);
}

static int check(struct resize *resize, uint64_t length) {
    const struct pnx_mapping *mapping = resize->mapping;
    if (resize->flags & ~(uint32_t)(PNX_RESIZE_TRUNCATE | PNX_RESIZE_SPARSE))
        return fail(resize, -EINVAL, 0, "unknown flags of a resize");
    if ((resize->flags & PNX_RESIZE_TRUNCATE) &&
            (mapping->mode != PNX_MAPPING_WRITE || mapping->fd < 0))
        return fail(resize, -EINVAL, 0, "PNX_RESIZE_TRUNCATE needs a writable file");
    if (!(mapping->flags & PNX_MAPPING_RESIZABLE))
        return fail(resize, -ENOTSUP, 0, "was not opened with PNX_MAPPING_RESIZABLE");
    if (mapping->info.kind == PNX_FILE_PIPE)
        return fail(resize, -ENOTSUP, 0, "a pipe has been read, and has no other length");
    int rc = examine_file(resize);
    return rc ? rc : find_length(resize, length);
}

/* ---- the change ---- */

static int charge_lock(
        const struct resize *resize, const struct pnx_mapping_bytes *bytes, size_t from) {
    if (!resize->mapping->lasting)
        return 0;
    return pnx__lock_bytes(resize->mapping, bytes, from, resize->err);
}

/* What was locked of pages that are no more. */
static void forget_locked(struct pnx_mapping *mapping, size_t n) {
    size_t charged = mapping->locked_charged ? n : 0;
    mapping->locked -= n;
    mapping->locked_charged -= charged;
    pnx_budget_uncharge(mapping->budget, charged);
}

/*
 * Lets nobody be inside: no view, no call, no scope.  Scopes first, and views may be had as long as one is waited for: who is
 * in a scope may ask for a view before he ends it.
 */
static int shut_out(const struct resize *resize, bool views_too) {
    struct pnx_mapping *mapping = resize->mapping;
    uint64_t views = views_too ? pnx__mapping_look(mapping).views : 0;
    if (views)
        return live_views(resize, views); /* nobody needs to be disturbed */
    int rc = pnx__fault_suspend(&mapping->fault, SCOPES_PATIENCE);
    if (rc == -EDEADLK)
        return fail(resize, rc, rc, "cannot be resized from within an access scope");
    if (rc)
        return fail(resize, rc, rc, "open access scopes do not end");
    rc = views_too ? pnx__mapping_move(mapping, &views) : 0;
    if (rc == 0)
        return 0;
    (void)pnx__fault_resume(&mapping->fault, NULL);
    return live_views(resize, views);
}

/*
 * The bytes are as they shall be: everybody may see them.  Fails only when the mapping had no pages of a file before, and
 * has now: then all is as it was.
 */
static int let_in(const struct resize *resize, const struct pnx_mapping_bytes *bytes, bool moved) {
    struct pnx_mapping *mapping = resize->mapping;
    if (!mapping->anonymous && pnx__os_fstat(mapping->fd, &mapping->info))
        mapping->info = resize->file; /* a look some moments old */
    struct pnx_fault_pages pages = pnx__bytes_pages(mapping, bytes);
    int rc = pnx__fault_resume(&mapping->fault, &pages);
    if (rc) {
        (void)pnx__fault_resume(&mapping->fault, NULL);
        return fail(resize, rc, rc, "no memory to prepare for faults");
    }
    pnx__mapping_put(mapping, bytes, moved);
    return 0;
}

static int truncate_file(const struct resize *resize) {
    if (!(resize->flags & PNX_RESIZE_TRUNCATE) || resize->file.size <= resize->end)
        return 0;
    int rc = pnx__os_ftruncate(resize->mapping->fd, resize->end);
    return rc ? fail(resize, rc, rc, "the file cannot be cut") : 0;
}

/* Cuts the file if that was asked for, while everybody is shut out; who are let in again if it fails. */
static int truncate_or_resume(const struct resize *resize) {
    int rc = truncate_file(resize);
    if (rc)
        (void)pnx__fault_resume(&resize->mapping->fault, NULL);
    return rc;
}

/* Within the address space that is there: views stay valid. */
static int grow_in_place(const struct resize *resize) {
    struct pnx_mapping *mapping = resize->mapping;
    struct pnx_mapping_bytes bytes = mapping->bytes;
    size_t old = bytes.base_size, old_n = bytes.size;
    int rc = pnx__bytes_grow(mapping, &bytes, resize->n, resize->err);
    if (rc)
        return rc;
    rc = pnx__layout_check_next(mapping, &bytes, resize->err);
    size_t locked = mapping->locked;
    if (rc == 0)
        rc = charge_lock(resize, &bytes, old);
    if (rc == 0) {
        rc = shut_out(resize, false);
        if (rc == 0)
            rc = truncate_or_resume(resize);
        if (rc)
            forget_locked(mapping, mapping->locked - locked);
    }
    if (rc) {
        pnx__bytes_shrink(mapping, &bytes, old_n);
        pnx__mapping_put(mapping, &bytes, false);
        return rc;
    }
    return let_in(resize, &bytes, false);
}

static int shrink_in_place(const struct resize *resize) {
    struct pnx_mapping *mapping = resize->mapping;
    struct pnx_mapping_bytes bytes = mapping->bytes;
    size_t old = bytes.base_size;
    bytes.size = resize->n;
    int rc = pnx__layout_check_next(mapping, &bytes, resize->err);
    if (rc == 0)
        rc = shut_out(resize, true);
    if (rc)
        return rc;
    rc = truncate_or_resume(resize);
    if (rc)
        return rc;
    pnx__bytes_shrink(mapping, &bytes, resize->n);
    if (mapping->locked)
        forget_locked(mapping, old - bytes.base_size);
    return let_in(resize, &bytes, true);
}

/* Moves the pages with what is in them. */
static int move_pages(const struct resize *resize) {
    struct pnx_mapping *mapping = resize->mapping;
    struct pnx_mapping_bytes bytes = mapping->bytes;
    size_t old_n = bytes.size, old = bytes.base_size;
    int rc = shut_out(resize, true);
    if (rc)
        return rc;
    rc = pnx__bytes_move(mapping, &bytes, resize->n);
    if (rc) {
        (void)pnx__fault_resume(&mapping->fault, NULL);
        return rc == -ENOMEM ? pnx__map_refused(resize->err, rc, resize->n)
                             : fail(resize, rc, rc, "the pages cannot be moved");
    }
    mapping->locked += mapping->locked ? bytes.base_size - old : 0; /* the system has locked them */
    size_t cost = mapping->locked_charged ? bytes.base_size - old : 0;
    rc = pnx_budget_charge(mapping->budget, cost, 0);
    if (rc)
        (void)fail(resize, rc, rc, "the budget refuses more locked bytes");
    else
        rc = pnx__layout_check_next(mapping, &bytes, resize->err);
    if (rc == 0)
        mapping->locked_charged += cost;
    if (rc) {
        size_t now = bytes.base_size;
        pnx__bytes_shrink(mapping, &bytes, old_n);
        mapping->locked -= mapping->locked ? now - bytes.base_size : 0;
    }
    int in = let_in(resize, &bytes, true);
    return rc ? rc : in;
}

/* Locks the new bytes as the old ones were, and shuts everybody out of those. */
static int prepare(const struct resize *resize, const struct pnx_mapping_bytes *bytes, bool lock) {
    struct pnx_mapping *mapping = resize->mapping;
    int rc = pnx__layout_check_next(mapping, bytes, resize->err);
    if (rc == 0 && lock)
        rc = pnx__lock_bytes(mapping, bytes, 0, resize->err);
    if (rc == 0)
        rc = shut_out(resize, mapping->bytes.size > 0); /* no view of nothing can be hurt */
    return rc ? rc : truncate_or_resume(resize);
}

/* Gets other bytes, and gives up those that were there. */
static int replace(const struct resize *resize) {
    struct pnx_mapping *mapping = resize->mapping;
    struct pnx_mapping_bytes bytes, old = mapping->bytes;
    const struct pnx_file_info info = mapping->info;
    size_t locked = mapping->locked, charged = mapping->locked_charged;
    int refused;
    mapping->info = resize->file;
    if (mapping->mode == PNX_MAPPING_WRITE && mapping->info.size < resize->end)
        mapping->info.size = resize->end; /* it has been lengthened since */
    int rc = pnx__mapping_load(mapping, resize->n, resize->to_end, &bytes, &refused, resize->err);
    mapping->locked = mapping->locked_charged = 0;
    if (rc == 0) {
        rc = prepare(resize, &bytes, mapping->lasting);
        if (rc == 0 && mapping->mode == PNX_MAPPING_PRIVATE && old.size)
            memcpy(bytes.data, old.data, old.size < bytes.size ? old.size : bytes.size);
        if (rc == 0)
            rc = let_in(resize, &bytes, old.size > 0);
        if (rc) {
            pnx_budget_uncharge(mapping->budget, mapping->locked_charged);
            pnx__bytes_drop(mapping, &bytes);
        }
    }
    if (rc) {
        mapping->info = info;
        mapping->locked = locked;
        mapping->locked_charged = charged;
        return rc;
    }
    pnx_budget_uncharge(mapping->budget, charged);
    pnx__bytes_drop(mapping, &old);
    return 0;
}

/*
 * Where a file cannot be cut as long as it is mapped: takes the pages away, cuts it, and maps what is to be seen.  If that
 * fails in the end there is nothing to be seen, and the mapping is closed.
 */
static int cut_unmapped(const struct resize *resize, uint64_t end, size_t n) {
    struct pnx_mapping *mapping = resize->mapping;
    struct pnx_mapping_bytes old = mapping->bytes, bytes;
    int refused = 0, rc = shut_out(resize, true);
    if (rc)
        return rc;
    pnx__os_unmap(old.base, old.reserved ? old.reserved : old.base_size);
    rc = pnx__os_ftruncate(mapping->fd, end);
    if (rc) {
        rc = fail(resize, rc, rc, "the file cannot be cut");
        n = old.size;
    }
    pnx_budget_uncharge(mapping->budget, old.charged);
    pnx__bytes_empty(&bytes);
    int back = n ? pnx__bytes_map(mapping, &bytes, n, &refused, NULL) : 0;
    if (back) {
        pnx_mapping_close(mapping);
        rc = fail(resize, back, refused, "cannot be mapped again, and is closed");
    }
    if (mapping->locked) {
        size_t less = old.base_size > bytes.base_size ? old.base_size - bytes.base_size : 0;
        forget_locked(mapping, less);
        if (bytes.base_size) /* they are in memory anyway */
            (void)pnx__os_lock_pages(bytes.base, bytes.base_size);
    }
    int in = let_in(resize, &bytes, true);
    return rc ? rc : in;
}

/* A cut of the file by other means than the ways below. */
static int cut(const struct resize *resize) {
    struct pnx_mapping *mapping = resize->mapping;
    struct pnx_mapping_bytes next = mapping->bytes;
    if (resize->n)
        next.size = resize->n;
    else
        pnx__bytes_empty(&next);
    int rc = pnx__layout_check_next(mapping, &next, resize->err);
    return rc ? rc : cut_unmapped(resize, resize->end, resize->n);
}

/* Makes the file as long as it was before the resize that has failed; with live views it stays longer. */
static void undo_extension(struct resize *resize) {
    struct pnx_mapping *mapping = resize->mapping;
    struct resize undo = *resize;
    undo.err = NULL;
    if (resize->before < resize->end && mapping->bytes.backing == PNX_BACKING_MMAP &&
            !pnx__os_cuts_mapped())
        (void)cut_unmapped(&undo, resize->before, mapping->bytes.size);
    else
        pnx__extend_undo(mapping->fd, resize->end, resize->before);
}

/* The bytes stay; what is known of the file is brought up to date. */
static int stay(const struct resize *resize) {
    int rc = shut_out(resize, false);
    if (rc)
        return rc;
    rc = truncate_or_resume(resize);
    if (rc)
        return rc;
    const struct pnx_mapping_bytes bytes = resize->mapping->bytes;
    return let_in(resize, &bytes, false);
}

/* Which of the ways it goes. */
static int change(struct resize *resize) {
    struct pnx_mapping *mapping = resize->mapping;
    const struct pnx_mapping_bytes *bytes = &mapping->bytes;
    uint64_t lost;
    bool whole = pnx__fault_poison(&mapping->fault, &lost) == 0;
    bool mapped = bytes->backing == PNX_BACKING_MMAP;
    bool own = mapping->anonymous || mapping->mode == PNX_MAPPING_PRIVATE;
    if (!whole && own)
        return fail(resize, -ESTALE, 0, "has lost bytes of its own, which no resize brings back");
    if (mapped && (resize->flags & PNX_RESIZE_TRUNCATE) && resize->file.size > resize->end &&
            !pnx__os_cuts_mapped())
        return cut(resize);
    if (mapped && whole && resize->n == bytes->size)
        return stay(resize);
    if (mapped && whole && resize->n < bytes->size && resize->n > 0)
        return shrink_in_place(resize);
    if (mapped && whole && pnx__bytes_fits(mapping, resize->n))
        return grow_in_place(resize);
    if (mapped && whole && own && resize->n > 0)
        return move_pages(resize);
    return replace(resize);
}

static void tell(struct pnx_mapping *mapping, uint32_t epoch) {
    const struct pnx_mapping_bytes *bytes = &mapping->bytes;
    bool mapped = bytes->backing == PNX_BACKING_MMAP;
    (void)pnx_registry_set_bytes(mapping->registry, mapping->row, bytes->size);
    /* Statistics, all. */
    pnx_store(&mapping->values.mapped, mapped ? bytes->size : 0, PNX_RELAXED, "mapping.mapped");
    pnx_store(
            &mapping->values.copied, mapped ? 0 : bytes->base_size, PNX_RELAXED, "mapping.copied");
    pnx_store(&mapping->values.private_memory, mapped ? bytes->charged : 0, PNX_RELAXED,
            "mapping.private_memory");
    pnx_store(&mapping->values.locked, mapping->locked, PNX_RELAXED, "mapping.locked_now");
    pnx_fetch_add(&mapping->values.resizes, 1, PNX_RELAXED, "mapping.resizes");
    if (mapping->epoch != epoch)
        pnx_fetch_add(&mapping->values.moves, 1, PNX_RELAXED, "mapping.moves");
    pnx__event(&mapping->block, PNX_EVENT_MAPPING_RESIZED, mapping->name, 0, NULL,
            (int64_t)bytes->size, 0);
}

static int run(struct resize *resize, uint64_t length) {
    struct pnx_mapping *mapping = resize->mapping;
    /* A wish, without data: no partner. */
    if (pnx_load(&mapping->closed, PNX_RELAXED, "mapping.closed_resize"))
        return fail(resize, -ESHUTDOWN, 0, "is closed");
    if (mapping->seals & (PNX_SEAL_GROW | PNX_SEAL_SHRINK))
        return fail(resize, -ENOTSUP, 0, "its size is sealed");
    int rc = check(resize, length);
    if (rc == 0 && mapping->mode == PNX_MAPPING_WRITE && resize->file.size < resize->end)
        rc = pnx__extend(mapping->fd, resize->end, resize->flags & PNX_RESIZE_SPARSE, mapping->name,
                &resize->before, resize->err);
    if (rc)
        return rc;
    rc = change(resize);
    if (rc)
        undo_extension(resize);
    return rc;
}

int pnx_mapping_resize(
        struct pnx_mapping *mapping, uint64_t length, uint32_t flags, struct pnx_error *err) {
    if (!mapping)
        return pnx__fail_field(err, -EINVAL, "mapping", "mapping: resize of NULL");
    struct resize resize = {.mapping = mapping, .flags = flags, .err = err};
    int rc = pnx__mapping_change(mapping);
    if (rc)
        return fail(&resize, rc, 0,
                rc == -EDEADLK ? "cannot be resized from within its own resize"
                               : "was being resized when this process was forked");
    uint32_t epoch = mapping->epoch;
    rc = run(&resize, length);
    if (rc == 0)
        tell(mapping, epoch);
    pnx__mapping_changed(mapping);
    return rc;
}
