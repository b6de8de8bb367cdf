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

/*
 * A debug build of the library aborts here, with a message, when snapshot is no cell, or the calling thread in no section
 * of its domain.  Programs built with PNX_DEBUG call it; in other builds of the library it does nothing.
 */
PNX_API void pnx_snapshot_expect_peek_(const struct pnx_snapshot *snapshot);
#if defined(PNX_DEBUG) && !defined(PNX_EXPLORE)
#define PNX_SNAPSHOT_EXPECT_PEEK_(snapshot) pnx_snapshot_expect_peek_(snapshot)
#else
#define PNX_SNAPSHOT_EXPECT_PEEK_(snapshot) ((void)0)
#endif

/*
 * The half of the readers that is not inline takes and returns them by value: so a reader that is a local variable
 * never has its address taken, and a compiler keeps its fields in registers from one get to the next.
 */
PNX_API struct pnx_snapshot_reader pnx_snapshot_reader_make_(struct pnx_snapshot *snapshot);
PNX_API __attribute__((cold)) struct pnx_snapshot_reader pnx_snapshot_reader_pin_(
        struct pnx_snapshot *snapshot);
PNX_API void pnx_snapshot_reader_unpin_(
        struct pnx_snapshot *snapshot, const struct pnx_snapshot_node_ *node);

PNX_NODISCARD static inline const void *pnx_snapshot_peek(
        const struct pnx_snapshot *snapshot, uint64_t *ret_version) {
    const struct pnx_snapshot_head_ *head =
            (const struct pnx_snapshot_head_ *)(const void *)snapshot;
    PNX_SNAPSHOT_EXPECT_PEEK_(snapshot);
    /* acquire: pairs with snapshot.publish; the node and the value are as their writer left them */
    const struct pnx_snapshot_node_ *node =
            (const struct pnx_snapshot_node_ *)pnx__load(&head->node, PNX_ACQUIRE, "snapshot.peek");
    if (ret_version)
        *ret_version = node->version;
    return node->value;
}

static inline void pnx_snapshot_reader_init(
        struct pnx_snapshot_reader *reader, struct pnx_snapshot *snapshot) {
    struct pnx_snapshot_reader made = pnx_snapshot_reader_make_(snapshot);
    *reader = made;
}

/* Unpins last, since that may call a drop, which may use the reader. */
static inline void pnx_snapshot_reader_park(struct pnx_snapshot_reader *reader) {
    if (!reader || !reader->node_)
        return;
    const struct pnx_snapshot_node_ *node = reader->node_;
    reader->node_ = NULL;
    reader->value_ = NULL;
    pnx_snapshot_reader_unpin_(reader->snapshot_, node);
}

/*
 * The pinned node cannot be used for another version meanwhile, so the same address is the same version, which this
 * reader acquired when it pinned it.  Another address is loaded again by pin, with acquire, and by the coherence of
 * one word nothing older.  So relaxed is enough.
 */
static inline const void *pnx_snapshot_reader_get(struct pnx_snapshot_reader *reader) {
    const struct pnx_snapshot_node_ *node = reader->node_;
    if (__builtin_expect(pnx__load(&reader->head_->node, PNX_RELAXED, "snapshot.reader_get") ==
                                 (const void *)node,
                1))
        return reader->value_;
    struct pnx_snapshot *snapshot = reader->snapshot_;
    const struct pnx_snapshot_reader pinned = pnx_snapshot_reader_pin_(snapshot);
    *reader = pinned;
    if (node)
        pnx_snapshot_reader_unpin_(snapshot, node); /* last, as in park */
    return pinned.value_;
}

static inline bool pnx_snapshot_reader_sweep(struct pnx_snapshot_reader *reader) {
    /* relaxed: nothing is read through it */
    if (!reader || !reader->node_ ||
            pnx__load(&reader->head_->node, PNX_RELAXED, "snapshot.sweep") ==
                    (const void *)reader->node_)
        return false;
    pnx_snapshot_reader_park(reader);
    return true;
}

static inline void pnx_snapshot_reader_release(struct pnx_snapshot_reader *reader) {
    if (!reader)
        return;
    pnx_snapshot_reader_park(reader);
    struct pnx_snapshot *snapshot = reader->snapshot_;
    pnx_snapshot_reader_init(reader, NULL);
    pnx_snapshot_release(&snapshot);
}

static inline uint64_t pnx_snapshot_reader_version(const struct pnx_snapshot_reader *reader) {
    return reader->node_ ? reader->node_->version : 0;
}

PNX_END_DECLS
#endif /* PNX_SNAPSHOT_INL_H */
