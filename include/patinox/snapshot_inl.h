/* SPDX-License-Identifier: Apache-2.0 */
/*
 * patinox/snapshot_inl.h - the inline half of patinox/snapshot.h, which includes it.  The structs are no interface.
 */
#ifndef PNX_SNAPSHOT_INL_H
#define PNX_SNAPSHOT_INL_H

#include <patinox/atomic_inl.h>
#include <patinox/snapshot.h>

PNX_BEGIN_DECLS

/* A published value.  Fixed while anybody can see it. */
struct pnx_snapshot_node_ {
    const void *value;
    uint64_t version;
};

/* How a cell begins.  node is never NULL: struct pnx_snapshot_node_ of the current value. */
struct pnx_snapshot_head_ {
    struct pnx_aptr node;
};

PNX_API __attribute__((cold)) const void *pnx_snapshot_reader_refresh_(
        struct pnx_snapshot_reader *reader);

PNX_NODISCARD static inline const void *pnx_snapshot_peek(
        const struct pnx_snapshot *snapshot, uint64_t *ret_version) {
    const struct pnx_snapshot_head_ *head =
            (const struct pnx_snapshot_head_ *)(const void *)snapshot;
    /* acquire: pairs with snapshot.publish; the node and the value are as their writer left them */
    const struct pnx_snapshot_node_ *node =
            (const struct pnx_snapshot_node_ *)pnx__load(&head->node, PNX_ACQUIRE, "snapshot.peek");
    if (ret_version)
        *ret_version = node->version;
    return node->value;
}

/*
 * The pinned node cannot be used for another version meanwhile, so the same address is the same version.  acquire,
 * although an equal address shows nothing new: an unequal one is followed by a load in refresh that must not be
 * older, and who sees a version sees what its writer did before.
 */
static inline const void *pnx_snapshot_reader_get(struct pnx_snapshot_reader *reader) {
    const void *node = pnx__load(&reader->head_->node, PNX_ACQUIRE, "snapshot.reader_get");
    if (__builtin_expect(node == (const void *)reader->node_, 1))
        return reader->value_;
    return pnx_snapshot_reader_refresh_(reader);
}

static inline uint64_t pnx_snapshot_reader_version(const struct pnx_snapshot_reader *reader) {
    return reader->node_ ? reader->node_->version : 0;
}

PNX_END_DECLS
#endif /* PNX_SNAPSHOT_INL_H */
