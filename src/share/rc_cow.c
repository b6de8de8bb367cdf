/* SPDX-License-Identifier: Apache-2.0 */
/*
 * share/rc_cow.c - writing to rc objects: copies, moves, edits.
 *
 * Sits on the counts of rc.c, where it stands why each order suffices.  Guarantees P4 and P5 stand in patinox/rc.h;
 * how they are kept: whoever finds {1,1} is alone, since nobody else holds anything from which to make a reference; who
 * is not alone works on memory that nobody else knows, and exchanges it at the end, when nothing can fail any more.
 */
#include "base/env.h"
#include "os/mutex.h"
#include "share/rc.h"

#include <string.h>

static bool is_plain(const struct pnx_rc_type *type) {
    return !type->clone && !type->drop;
}

int pnx_rc_clone(const void *object, void **ret_copy) {
    if (!object || !ret_copy)
        return -EINVAL;
    struct pnx_rc_header *header = pnx__rc_header_in(object, "pnx_rc_clone");
    const struct pnx_rc_type *type = pnx__rc_type_of(header);
    if (!type->clone && !is_plain(type))
        return -ENOTSUP;
    struct pnx_rc_header *made = NULL;
    int rc = pnx__rc_make(type, pnx__rc_bytes_of(header), PNX_RC_UNIQUE, &made);
    if (rc)
        return rc;
    void *copy = pnx__rc_object_of(made);
    if (is_plain(type)) {
        memcpy(copy, object, pnx__rc_bytes_of(header));
    } else {
        pnx__mutex_assert_none_held();
        rc = type->clone(type->ctx, object, copy);
        if (rc) {
            pnx__rc_free(made); /* nobody else has seen it; it owns nothing to drop */
            return rc < 0 ? rc : -EINVAL;
        }
    }
    pnx__rc_count_for(made, PNX__RC_COPY);
    *ret_copy = copy;
    return 0;
}

/*
 * Moves an object to which only weak references are left besides *handle.  Taking strong from 1 to 0 first shuts
 * upgrade out, so that the bytes can be taken; the memory is had before that, so that nothing can fail after it.
 * PNX_E_SHARED when somebody upgraded before.
 */
static int move_away(void **handle, struct pnx_rc_header *header, uint64_t counts) {
    struct pnx_rc_header *moved = NULL;
    int rc = pnx__rc_make(pnx__rc_type_of(header), pnx__rc_bytes_of(header), PNX_RC_UNIQUE, &moved);
    if (rc)
        return rc;
    /* acquire: pairs with rc.unref of former holders; the release that frees the bytes stands in weak_unref */
    while (!pnx_cas(&header->counts, &counts, counts - PNX_RC_ONE_, PNX_ACQUIRE, "rc.move")) {
        if ((uint32_t)(counts >> 32) != 1) {
            pnx__rc_free(moved);
            return PNX_E_SHARED;
        }
    }
    memcpy(pnx__rc_object_of(moved), pnx__rc_object_of(header), pnx__rc_bytes_of(header));
    pnx__rc_move_hooks(header, moved);
    pnx__rc_count_for(moved, PNX__RC_MOVE);
    pnx__rc_weak_unref(header);
    *handle = pnx__rc_object_of(moved);
    return 0;
}

int pnx_rc_make_mut(void **handle) {
    if (!handle || !*handle)
        return -EINVAL;
    struct pnx_rc_header *header = pnx__rc_header_in(*handle, "pnx_rc_make_mut");
    const struct pnx_rc_type *type = pnx__rc_type_of(header);
    /* acquire: pairs with rc.unref, rc.weak_unref, as rc.unique */
    uint64_t counts = pnx_load(&header->counts, PNX_ACQUIRE, "rc.make_mut");
    if (counts == PNX_RC_UNIQUE) {
        pnx__rc_count_for(header, PNX__RC_EXCLUSIVE);
        return 0;
    }
    if ((uint32_t)(counts >> 32) == 1 && (is_plain(type) || (type->flags & PNX_RC_MOVABLE))) {
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
    pnx__rc_count_for(pnx__rc_header_of(object), PNX__RC_EXCLUSIVE);
    return call_edit(edit, ctx, object);
}
