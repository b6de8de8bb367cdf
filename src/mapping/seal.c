/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mapping/seal.c - memory that cannot change any more, for whoever maps it.
 *
 *   P1  A mapping whose content was sealed is read-only, at the address where it was.
 *   P2  Seals that were refused leave the mapping as it was, writable if it was.
 */
#include "mapping/mapping.h"

#include "os/extent.h"

#include <inttypes.h>

#define SCOPES_PATIENCE (10 * PNX_SEC)

static int fail(
        const struct pnx_mapping *mapping, int code, const char *what, struct pnx_error *err) {
    return pnx__fail(err, code, code, "seal", "mapping: \"%.80s\": %s: %s (%d)", mapping->name,
            what, pnx_strerror(code), -code);
}

static int live_views(const struct pnx_mapping *mapping, uint64_t views, struct pnx_error *err) {
    return pnx__fail(err, -EBUSY, 0, "seal", "mapping: \"%.80s\": %" PRIu64 " live views",
            mapping->name, views);
}

static int add(struct pnx_mapping *mapping, uint32_t seals, struct pnx_error *err) {
    int rc = pnx__os_seal(mapping->fd, seals);
    if (rc == -EBUSY)
        return fail(mapping, rc, "somebody else has it mapped for writing", err);
    if (rc == -ENOTSUP)
        return fail(mapping, rc, "is no memfd", err);
    if (rc == -EPERM)
        return fail(mapping, rc, "has PNX_SEAL_SEAL already", err);
    return rc ? fail(mapping, rc, "cannot be sealed", err) : 0;
}

static int map_again(const struct pnx_mapping *mapping, enum pnx_os_access access) {
    const struct pnx_mapping_bytes *bytes = &mapping->bytes;
    void *base;
    return pnx__os_map(
            &(const struct pnx_os_map){
                    .fd = mapping->fd,
                    .access = access,
                    .offset = mapping->offset - (uint64_t)(bytes->data - bytes->base),
                    .n = bytes->base_size,
                    .at = bytes->base,
            },
            &base);
}

/*
 * The system seals content only when nobody has it mapped writable, and that includes us: for a moment there is nothing
 * at the address.
 */
static int seal_content(struct pnx_mapping *mapping, uint32_t seals, struct pnx_error *err) {
    struct pnx_mapping_bytes *bytes = &mapping->bytes;
    uint64_t views = pnx__mapping_look(mapping).views;
    void *base;
    if (views)
        return live_views(mapping, views, err);
    /* As in a resize: who is in a scope may ask for a view, so views are shut out when the scopes have ended. */
    int rc = pnx__fault_suspend(&mapping->fault, SCOPES_PATIENCE);
    if (rc)
        return fail(mapping, rc, "open access scopes", err);
    if (pnx__mapping_move(mapping, &views)) {
        (void)pnx__fault_resume(&mapping->fault, NULL);
        return live_views(mapping, views, err);
    }
    bool mapped = bytes->backing == PNX_BACKING_MMAP;
    rc = mapped ? pnx__os_reserve(bytes->base, bytes->base_size, &base) : 0;
    if (rc) {
        (void)pnx__fault_resume(&mapping->fault, NULL);
        return fail(mapping, rc, "cannot be unmapped", err);
    }
    rc = add(mapping, seals, err);
    int back = mapped ? map_again(mapping, rc ? PNX_OS_WRITE : PNX_OS_READ_OWN) : 0;
    if (back) {
        /* There is nothing at the address, and there are no views: an empty mapping is the truth. */
        pnx_mapping_close(mapping);
        rc = fail(mapping, back, "cannot be mapped again, and is closed", err);
    } else if (mapped && mapping->locked) {
        (void)pnx__os_lock_pages(bytes->base, bytes->base_size); /* they are in memory anyway */
    }
    if (rc == 0)
        pnx__mapping_sealed(mapping, seals);
    (void)pnx__os_fstat(mapping->fd, &mapping->info);
    struct pnx_fault_pages pages = pnx__bytes_pages(mapping, bytes);
    (void)pnx__fault_resume(&mapping->fault, &pages); /* it could fault before: cannot fail */
    pnx__mapping_put(mapping, &mapping->bytes, rc == 0);
    return rc;
}

static int seal_size(struct pnx_mapping *mapping, uint32_t seals, struct pnx_error *err) {
    int rc = pnx__fault_suspend(&mapping->fault, SCOPES_PATIENCE);
    if (rc)
        return fail(mapping, rc, "open access scopes", err);
    rc = add(mapping, seals, err);
    if (rc == 0)
        pnx__mapping_sealed(mapping, seals);
    (void)pnx__os_fstat(mapping->fd, &mapping->info);
    struct pnx_fault_pages pages = pnx__bytes_pages(mapping, &mapping->bytes);
    (void)pnx__fault_resume(&mapping->fault, &pages);
    return rc;
}

int pnx_mapping_seal(struct pnx_mapping *mapping, uint32_t seals, struct pnx_error *err) {
    if (!mapping || seals == 0 ||
            (seals & ~(uint32_t)(PNX_SEAL_SHRINK | PNX_SEAL_GROW | PNX_SEAL_WRITE | PNX_SEAL_SEAL)))
        return pnx__fail_field(err, -EINVAL, mapping ? "seals" : "mapping",
                "mapping: seals 0x%" PRIx32 " are none, or unknown", seals);
    if (!mapping->memory)
        return fail(mapping, -ENOTSUP, "is no memfd of its own", err);
    if (seals & PNX_SEAL_WRITE)
        seals |= PNX_SEAL_SHRINK | PNX_SEAL_GROW;
    int rc = pnx__mapping_change(mapping);
    if (rc)
        return fail(mapping, rc, "cannot be sealed from here", err);
    uint32_t more = seals & ~mapping->seals;
    if (more && (mapping->seals & PNX_SEAL_SEAL))
        rc = fail(mapping, -EPERM, "has PNX_SEAL_SEAL already", err);
    else if (more & PNX_SEAL_WRITE)
        rc = seal_content(mapping, more, err);
    else if (more)
        rc = seal_size(mapping, more, err);
    pnx__mapping_changed(mapping);
    return rc;
}
