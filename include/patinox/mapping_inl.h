/* SPDX-License-Identifier: Apache-2.0 */
/*
 * patinox/mapping_inl.h - the inline part of patinox/mapping.h: access through views.  Include that one.
 *
 * What is frozen by being inlined into programs, and held by a test (mapping.layout.*): struct pnx_view and struct
 * pnx_records, and the bits of their flags.  Everything here is pure: no call, no atomic, no lock.
 *
 * Programs built with PNX_DEBUG ask the library at each checked access whether the view's mapping still exists and has
 * not moved or shrunk since; a debug build of the library aborts with a message that names the call when it has.
 */
#ifndef PNX_MAPPING_INL_H
#define PNX_MAPPING_INL_H

#include <patinox/base.h>
#include <patinox/error.h>

PNX_BEGIN_DECLS

struct pnx_mapping;

/*
 * A range of a mapping: a value.  Belongs to whoever got it; copies are fine, but only one of them is released.
 * See "views" in mapping.h.  All fields are read-only for you.
 */
struct pnx_view {
    const unsigned char *p; /* never NULL in a view that was got */
    size_t n;
    struct pnx_mapping *mapping;
    uint32_t epoch; /* of the mapping when it was got */
    uint32_t flags; /* PNX_VIEW_*_ */
};
#define PNX_VIEW_WRITABLE_ UINT32_C(1)
#define PNX_VIEW_COUNTED_  UINT32_C(2) /* the mapping counts it as live until it is released */

/* Records of one size, one after the other, in a view: see "record arrays" in mapping.h. */
struct pnx_records {
    const unsigned char *p;
    size_t n;      /* how many there are */
    size_t stride; /* bytes from one to the next */
    uint32_t flags;
    uint32_t reserved;
};

/*
 * Aborts, in a debug build of the library, when the view's mapping is gone, or its bytes have moved or were given up
 * since; in other builds it does nothing.  Called by programs that are built with PNX_DEBUG.
 */
PNX_API void pnx_view_expect_(const struct pnx_view *view, const char *where);
#ifdef PNX_DEBUG
#define PNX_VIEW_EXPECT_(view, where) pnx_view_expect_(view, where)
#else
#define PNX_VIEW_EXPECT_(view, where) ((void)0)
#endif

#ifdef __cplusplus
#define PNX_ALIGNOF_(type) alignof(type)
#else
#define PNX_ALIGNOF_(type) _Alignof(type)
#endif

/* ---- ranges and single values ---- */

/* Returns whether n bytes at offset lie in the view. */
static inline bool pnx_view_holds(const struct pnx_view *view, uint64_t offset, size_t n) {
    return offset <= view->n && n <= view->n - (size_t)offset;
}

/* Returns the address of n bytes at offset; NULL when out of range or not aligned to align, a power of two. */
static inline const void *pnx_view_at(
        const struct pnx_view *view, uint64_t offset, size_t n, size_t align) {
    PNX_VIEW_EXPECT_(view, "pnx_view_at");
    if (!pnx_view_holds(view, offset, n))
        return NULL;
    const unsigned char *at = view->p + (size_t)offset;
    return ((uintptr_t)at & (align - 1)) == 0 ? at : NULL;
}

/* The same for writing; NULL also when the view may not be written through. */
static inline void *pnx_view_at_mut(
        const struct pnx_view *view, uint64_t offset, size_t n, size_t align) {
    if (!(view->flags & PNX_VIEW_WRITABLE_))
        return NULL;
    return (void *)(uintptr_t)pnx_view_at(view, offset, n, align);
}

/* A pointer to a const type at offset of a view (by address); NULL when out of range or misaligned. */
#define PNX_VIEW_AT(view, type, offset) \
    ((const type *)pnx_view_at((view), (offset), sizeof(type), PNX_ALIGNOF_(type)))
/* A pointer to a type that may be written; NULL also when the mapping is read-only. */
#define PNX_VIEW_AT_MUT(view, type, offset) \
    ((type *)pnx_view_at_mut((view), (offset), sizeof(type), PNX_ALIGNOF_(type)))

/*
 * Says whether n bytes at offset are there, aligned to align; pnx_view_at() returns NULL for each of the reasons:
 * -EINVAL for an align that is no power of two, -ERANGE, PNX_E_FORMAT when the address is not aligned.
 */
PNX_NODISCARD static inline int pnx_view_check(
        const struct pnx_view *view, uint64_t offset, size_t n, size_t align) {
    PNX_VIEW_EXPECT_(view, "pnx_view_check");
    if (align == 0 || (align & (align - 1)) != 0)
        return -EINVAL;
    if (!pnx_view_holds(view, offset, n))
        return -ERANGE;
    return ((uintptr_t)(view->p + (size_t)offset) & (align - 1)) == 0 ? 0 : PNX_E_FORMAT;
}

/* The same for writing; -EACCES when they are there, and may not be written. */
PNX_NODISCARD static inline int pnx_view_check_mut(
        const struct pnx_view *view, uint64_t offset, size_t n, size_t align) {
    int rc = pnx_view_check(view, offset, n, align);
    return rc || (view->flags & PNX_VIEW_WRITABLE_) ? rc : -EACCES;
}

/* Says why PNX_VIEW_AT() and PNX_VIEW_AT_MUT() return NULL: 0 (they do not), -ERANGE, PNX_E_FORMAT; -EACCES. */
#define PNX_VIEW_CHECK(view, type, offset) \
    pnx_view_check((view), (offset), sizeof(type), PNX_ALIGNOF_(type))
#define PNX_VIEW_CHECK_MUT(view, type, offset) \
    pnx_view_check_mut((view), (offset), sizeof(type), PNX_ALIGNOF_(type))

/* ---- numbers in a named byte order, at any alignment ---- */

/*
 * From and to memory that you know to be there, such as a field of a record:
 *     pnx_u16le_load(p), pnx_u16be_load(p), pnx_u32le_load(p), ... pnx_u64be_load(p)
 *     pnx_u16le_store(p, value), ... pnx_u64be_store(p, value)
 * In a view, checked; each (view, offset, ret_value) or (view, offset, value):
 *     pnx_view_u8, pnx_view_u16le, pnx_view_u16be, ... pnx_view_u64be              -ERANGE
 *     pnx_view_put_u8, pnx_view_put_u16le, pnx_view_put_u16be, ... put_u64be       -ERANGE, -EACCES when read-only
 */
PNX_NODISCARD static inline int pnx_view_u8(
        const struct pnx_view *view, uint64_t offset, uint8_t *ret_value) {
    PNX_VIEW_EXPECT_(view, "pnx_view_u8");
    if (!pnx_view_holds(view, offset, 1))
        return -ERANGE;
    *ret_value = view->p[(size_t)offset];
    return 0;
}

/* Returns where n bytes may be stored: *ret_code is 0, or why not. */
static inline unsigned char *pnx_view_to_store_(
        const struct pnx_view *view, uint64_t offset, size_t n, int *ret_code) {
    PNX_VIEW_EXPECT_(view, "pnx_view_put");
    *ret_code = !pnx_view_holds(view, offset, n)      ? -ERANGE
                : !(view->flags & PNX_VIEW_WRITABLE_) ? -EACCES
                                                      : 0;
    return *ret_code ? NULL : (unsigned char *)(uintptr_t)(view->p + (size_t)offset);
}

PNX_NODISCARD static inline int pnx_view_put_u8(
        const struct pnx_view *view, uint64_t offset, uint8_t value) {
    int rc;
    unsigned char *to = pnx_view_to_store_(view, offset, 1, &rc);
    if (to)
        *to = value;
    return rc;
}

/* Compilers make one load or store of each loop, and a swap of bytes where the order is not the machine's. */
#define PNX_NUMBER_(bits, order, shift_of_byte_i) \
    static inline uint##bits##_t pnx_u##bits##order##_load(const void *p) { \
        const unsigned char *from = (const unsigned char *)p; \
        uint64_t value = 0; \
        for (unsigned i = 0; i < (bits) / 8; i++) \
            value |= (uint64_t)from[i] << (shift_of_byte_i); \
        return (uint##bits##_t)value; \
    } \
    static inline void pnx_u##bits##order##_store(void *p, uint##bits##_t value) { \
        unsigned char *to = (unsigned char *)p; \
        for (unsigned i = 0; i < (bits) / 8; i++) \
            to[i] = (unsigned char)((uint64_t)value >> (shift_of_byte_i)); \
    } \
    PNX_NODISCARD static inline int pnx_view_u##bits##order( \
            const struct pnx_view *view, uint64_t offset, uint##bits##_t *ret_value) { \
        PNX_VIEW_EXPECT_(view, "pnx_view_u" #bits #order); \
        if (!pnx_view_holds(view, offset, (bits) / 8)) \
            return -ERANGE; \
        *ret_value = pnx_u##bits##order##_load(view->p + (size_t)offset); \
        return 0; \
    } \
    PNX_NODISCARD static inline int pnx_view_put_u##bits##order( \
            const struct pnx_view *view, uint64_t offset, uint##bits##_t value) { \
        int rc; \
        unsigned char *to = pnx_view_to_store_(view, offset, (bits) / 8, &rc); \
        if (to) \
            pnx_u##bits##order##_store(to, value); \
        return rc; \
    }
PNX_NUMBER_(16, le, 8 * i)
PNX_NUMBER_(32, le, 8 * i)
PNX_NUMBER_(64, le, 8 * i)
PNX_NUMBER_(16, be, 8 * (1 - i))
PNX_NUMBER_(32, be, 8 * (3 - i))
PNX_NUMBER_(64, be, 8 * (7 - i))
#undef PNX_NUMBER_

/* ---- record arrays ---- */

/*
 * Gets count records of size bytes each, from offset of a view on; PNX_RECORDS_ALL: as many as fit.  Checked here once,
 * so that access costs what a pointer costs.
 * -EINVAL for a size of 0 or an align that is no power of two or does not divide size, -ERANGE when they do not all lie
 * in the view, also when count times size overflows, PNX_E_FORMAT when the first would not be aligned.
 */
#define PNX_RECORDS_ALL SIZE_MAX
PNX_NODISCARD static inline int pnx_records_get(const struct pnx_view *view, uint64_t offset,
        size_t count, size_t size, size_t align, struct pnx_records *ret_records) {
    PNX_VIEW_EXPECT_(view, "pnx_records_get");
    if (size == 0 || align == 0 || (align & (align - 1)) != 0 || (size & (align - 1)) != 0)
        return -EINVAL;
    if (offset > view->n)
        return -ERANGE;
    size_t there = (view->n - (size_t)offset) / size; /* division: nothing can overflow */
    if (count != PNX_RECORDS_ALL && count > there)
        return -ERANGE;
    const unsigned char *at = view->p + (size_t)offset;
    if (((uintptr_t)at & (align - 1)) != 0)
        return PNX_E_FORMAT;
    ret_records->p = at;
    ret_records->n = count == PNX_RECORDS_ALL ? there : count;
    ret_records->stride = size;
    ret_records->flags = view->flags;
    ret_records->reserved = 0;
    return 0;
}

/* pnx_records_get() for records of a type. */
#define PNX_RECORDS_GET(view, type, offset, count, ret_records) \
    pnx_records_get((view), (offset), (count), sizeof(type), PNX_ALIGNOF_(type), (ret_records))

/* No record stands at address 0, so whoever asks for NULL asks for the bound only: one comparison. */
static inline const void *pnx_records_there_(const unsigned char *at) {
#if defined(__GNUC__)
    if (!at)
        __builtin_unreachable();
#endif
    return at;
}

/* Returns the address of record index, whatever their size; NULL beyond the last. */
static inline const void *pnx_records_at(const struct pnx_records *records, size_t index) {
    return index < records->n ? pnx_records_there_(records->p + index * records->stride) : NULL;
}

/* The same for a size that the compiler knows; NULL also when that is not the size that the records have. */
static inline const void *pnx_records_at_(
        const struct pnx_records *records, size_t index, size_t size) {
    return index < records->n && records->stride == size
                   ? pnx_records_there_(records->p + index * size)
                   : NULL;
}

static inline void *pnx_records_at_mut_(
        const struct pnx_records *records, size_t index, size_t size) {
    return (records->flags & PNX_VIEW_WRITABLE_)
                   ? (void *)(uintptr_t)pnx_records_at_(records, index, size)
                   : NULL;
}

/* Record index as a pointer to a const type; NULL beyond the last, or when the records are of another size. */
#define PNX_RECORD_AT(records, type, index) \
    ((const type *)pnx_records_at_((records), (index), sizeof(type)))
/* The same, to be written; NULL also when the mapping is read-only. */
#define PNX_RECORD_AT_MUT(records, type, index) \
    ((type *)pnx_records_at_mut_((records), (index), sizeof(type)))

/* The first record, and the one after the last, as pointers to const type; equal when the size is another. */
#define PNX_RECORDS_BEGIN(records, type) ((const type *)(const void *)(records)->p)
#define PNX_RECORDS_END(records, type) \
    (PNX_RECORDS_BEGIN(records, type) + ((records)->stride == sizeof(type) ? (records)->n : 0))

/* A loop over all records, as fast as one over a raw pointer: PNX_RECORDS_EACH(&trades, struct trade, t) sum += t->n; */
#define PNX_RECORDS_EACH(records, type, record) \
    for (const type *record = PNX_RECORDS_BEGIN(records, type), *const record##_end_ = \
                                                                        PNX_RECORDS_END( \
                                                                                records, type); \
            (record) != record##_end_; (record)++)

PNX_END_DECLS
#endif /* PNX_MAPPING_INL_H */
