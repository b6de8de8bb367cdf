/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mapping/layout.c - whether bytes are what the user expects, and writing what a fresh file begins with.
 *
 *   P1  A layout whose own numbers make no sense is refused before anything is opened.
 *   P2  Every check looks at bytes that the mapping has; one that would not fit is PNX_E_FORMAT.
 *   P3  The user's functions run with no lock held, inside an access scope: content that is cut meanwhile is an error.
 *       Not so where faults are refused, nor when a PRIVATE mapping is resized.
 */
#include "mapping/mapping.h"

#include "base/options.h"
#include "mapping/open.h"
#include "os/mutex.h"
#include "os/thread.h"

#include <patinox/fault.h>

#include <assert.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static_assert(sizeof(struct pnx_layout) == 12 * sizeof(uint64_t) + 4 * sizeof(uint32_t) ||
                      sizeof(void *) != 8,
        "padding in pnx_layout");

static int refused(struct pnx_error *err, const char *field, const char *why) {
    return pnx__fail_field(err, -EINVAL, field, "mapping.layout.%s: %s", field, why);
}

int pnx__layout_take(
        struct pnx_mapping *mapping, const struct pnx_layout *layout, struct pnx_error *err) {
    if (!layout)
        return 0;
    struct pnx_layout *l = &mapping->layout;
    memset(l, 0, sizeof(*l));
    int rc = pnx__opts_copy("mapping.layout", sizeof(*l), layout, l, err);
    if (rc)
        return rc;
    if (l->magic_size && !l->magic)
        return refused(err, "magic", "is NULL, and magic_size is not 0");
    if (l->magic_size > PTRDIFF_MAX)
        return refused(err, "magic_size", "is too large");
    if (l->record_align & (l->record_align - 1))
        return refused(err, "record_align", "is no power of two");
    if (l->record_align > PNX_MAPPING_ALIGN)
        return refused(err, "record_align", "is more than 64, which copies do not keep");
    if (l->version_min > l->version_max)
        return refused(err, "version_min", "is more than version_max");
    if (l->flags & ~(uint32_t)PNX_LAYOUT_PARTIAL)
        return refused(err, "flags", "has unknown bits");
    mapping->has_layout = true;
    return 0;
}

static int wrong(const struct pnx_mapping *mapping, struct pnx_error *err, const char *format, ...)
        PNX_PRINTF(3, 4);

static int wrong(
        const struct pnx_mapping *mapping, struct pnx_error *err, const char *format, ...) {
    char text[120];
    va_list args;
    va_start(args, format);
    if (vsnprintf(text, sizeof(text), format, args) < 0)
        text[0] = '\0';
    va_end(args);
    return pnx__fail(err, PNX_E_FORMAT, 0, "layout", "mapping: \"%.80s\": %s", mapping->name, text);
}

/* A field of the machine's byte order.  False when it is not there. */
static bool field(const struct pnx_view *view, uint64_t offset, uint32_t *ret_value) {
    if (!pnx_view_holds(view, offset, sizeof(*ret_value)))
        return false;
    memcpy(ret_value, view->p + (size_t)offset, sizeof(*ret_value));
    return true;
}

static int check_magic(
        const struct pnx_mapping *mapping, const struct pnx_view *view, struct pnx_error *err) {
    const struct pnx_layout *l = &mapping->layout;
    if (!l->magic_size)
        return 0;
    if (!pnx_view_holds(view, l->magic_offset, l->magic_size))
        return wrong(mapping, err, "%zu bytes have no room for the magic at %" PRIu64, view->n,
                l->magic_offset);
    if (memcmp(view->p + (size_t)l->magic_offset, l->magic, l->magic_size) != 0)
        return wrong(mapping, err, "the %zu bytes at %" PRIu64 " are not the magic", l->magic_size,
                l->magic_offset);
    return 0;
}

static int check_marker(
        const struct pnx_mapping *mapping, const struct pnx_view *view, struct pnx_error *err) {
    const struct pnx_layout *l = &mapping->layout;
    uint32_t value;
    if (!l->marker)
        return 0;
    if (!field(view, l->marker_offset, &value))
        return wrong(mapping, err, "%zu bytes have no room for the byte order's marker at %" PRIu64,
                view->n, l->marker_offset);
    if (value == l->marker)
        return 0;
    if (value == __builtin_bswap32(l->marker))
        return wrong(mapping, err,
                "written by a machine of the other byte order: the marker at %" PRIu64
                " is 0x%08" PRIx32 " here",
                l->marker_offset, value);
    return wrong(mapping, err,
            "the byte order's marker at %" PRIu64 " is 0x%08" PRIx32 ", not 0x%08" PRIx32,
            l->marker_offset, value, l->marker);
}

static int check_version(
        const struct pnx_mapping *mapping, const struct pnx_view *view, struct pnx_error *err) {
    const struct pnx_layout *l = &mapping->layout;
    uint32_t value;
    if (!l->version_max)
        return 0;
    if (!field(view, l->version_offset, &value))
        return wrong(mapping, err, "%zu bytes have no room for the version at %" PRIu64, view->n,
                l->version_offset);
    if (value < l->version_min || value > l->version_max)
        return wrong(mapping, err, "version %" PRIu32 ", not %" PRIu32 " to %" PRIu32, value,
                l->version_min, l->version_max);
    return 0;
}

static int check_records(
        const struct pnx_mapping *mapping, const struct pnx_view *view, struct pnx_error *err) {
    const struct pnx_layout *l = &mapping->layout;
    if (view->n < l->header_size)
        return wrong(mapping, err, "%zu bytes are less than the header of %" PRIu64, view->n,
                l->header_size);
    if (l->record_size && !(l->flags & PNX_LAYOUT_PARTIAL) &&
            (view->n - (size_t)l->header_size) % l->record_size != 0)
        return wrong(mapping, err,
                "%zu bytes behind the header are no whole number of records of %zu",
                view->n - (size_t)l->header_size, l->record_size);
    if (l->record_align && ((mapping->offset + l->header_size) & (l->record_align - 1)))
        return wrong(mapping, err, "records begin at %" PRIu64 ", which is not aligned to %zu",
                mapping->offset + l->header_size, l->record_align);
    return 0;
}

/* What a user's function returned: 0, or a failure with that as its cause. */
static int from_user(const struct pnx_mapping *mapping, int returned, int code, const char *what,
        struct pnx_error *err) {
    if (returned == 0)
        return 0;
    if (returned > 0)
        returned = -EINVAL; /* a mistake of the function's */
    return pnx__fail(err, code, returned, "layout", "mapping: \"%.80s\": %s returned %s (%d)",
            mapping->name, what, pnx_strerror(returned), returned);
}

static int call(
        int (*fn)(void *, const struct pnx_view *), void *ctx, const struct pnx_view *view) {
    pnx__mutex_assert_none_held();
    PNX_CLEANUP(pnx__call_end) struct pnx_thread *self = pnx__call_begin();
    return fn(ctx, view);
}

static int check(
        struct pnx_mapping *mapping, const struct pnx_mapping_bytes *bytes, struct pnx_error *err) {
    struct pnx_view view = pnx__view_of(mapping, bytes);
    int rc = check_magic(mapping, &view, err);
    if (rc == 0)
        rc = check_marker(mapping, &view, err);
    if (rc == 0)
        rc = check_version(mapping, &view, err);
    if (rc == 0)
        rc = check_records(mapping, &view, err);
    if (rc == 0 && mapping->layout.validate)
        rc = from_user(mapping, call(mapping->layout.validate, mapping->layout.ctx, &view),
                PNX_E_FORMAT, "validate", err);
    return rc;
}

/* Begins a scope for looking at the bytes; where faults are not handled, nothing. */
static int begin(
        struct pnx_mapping *mapping, struct pnx_fault_scope *scope, struct pnx_error *err) {
    int rc = pnx_fault_begin(mapping, scope);
    if (rc == 0 || rc == -ENOTSUP)
        return 0;
    return pnx__fail(err, rc, 0, "layout", "mapping: \"%.80s\": cannot look at the bytes: %s (%d)",
            mapping->name, pnx_strerror(rc), -rc);
}

/* Ends it: what was found in bytes that have got lost does not count. */
static int end(
        struct pnx_mapping *mapping, struct pnx_fault_scope *scope, int rc, struct pnx_error *err) {
    int lost = scope->head ? pnx_fault_end(scope) : 0;
    if (lost)
        return pnx__fail(err, lost, 0, "layout", "mapping: \"%.80s\": its bytes got lost: %s (%d)",
                mapping->name, pnx_strerror(lost), -lost);
    return rc;
}

int pnx__layout_check(struct pnx_mapping *mapping, struct pnx_error *err) {
    struct pnx_fault_scope scope = {0};
    if (!mapping->has_layout)
        return 0;
    int rc = begin(mapping, &scope, err);
    if (rc)
        return rc;
    rc = check(mapping, &mapping->bytes, err);
    return end(mapping, &scope, rc, err);
}

int pnx__layout_check_next(
        struct pnx_mapping *mapping, const struct pnx_mapping_bytes *bytes, struct pnx_error *err) {
    if (!mapping->has_layout)
        return 0;
    bool own = mapping->anonymous || mapping->mode == PNX_MAPPING_PRIVATE;
    if (own || bytes->backing != PNX_BACKING_MMAP)
        return check(mapping, bytes, err);
    /* The new bytes are in no table yet, so nobody would catch a fault there: the same ones are looked at elsewhere. */
    struct pnx_mapping_opts opts = {
            .size = sizeof(opts),
            .name = mapping->name,
            .env = &mapping->env,
            .registry = pnx_registry_off(),
            .stats = pnx_stats_off(),
            .budget = pnx_budget_off(),
            .layout = &mapping->layout,
            .offset = mapping->offset,
            .length = bytes->size,
            .flags = PNX_MAPPING_NO_COPY,
    };
    struct pnx_source source = {.kind = PNX_SOURCE_FD, .fd = mapping->fd, .name = mapping->name};
    struct pnx_mapping *look = NULL;
    int rc = pnx__mapping_open(&source, &opts, err, &look);
    pnx_mapping_release(&look);
    return rc;
}

static int write_beginning(struct pnx_mapping *mapping, struct pnx_error *err) {
    const struct pnx_layout *l = &mapping->layout;
    struct pnx_view view = pnx__view_of(mapping, &mapping->bytes);
    if (l->magic_size && pnx_view_holds(&view, l->magic_offset, l->magic_size))
        memcpy(mapping->bytes.data + l->magic_offset, l->magic, l->magic_size);
    if (l->marker && pnx_view_holds(&view, l->marker_offset, sizeof(l->marker)))
        memcpy(mapping->bytes.data + l->marker_offset, &l->marker, sizeof(l->marker));
    if (l->version_max && pnx_view_holds(&view, l->version_offset, sizeof(l->version_max)))
        memcpy(mapping->bytes.data + l->version_offset, &l->version_max, sizeof(l->version_max));
    if (!l->init)
        return 0;
    int returned = call(l->init, l->ctx, &view);
    return from_user(mapping, returned, returned < 0 ? returned : -EINVAL, "init", err);
}

int pnx__layout_init(struct pnx_mapping *mapping, struct pnx_error *err) {
    struct pnx_fault_scope scope = {0};
    if (!mapping->has_layout)
        return 0;
    int rc = begin(mapping, &scope, err);
    if (rc)
        return rc;
    rc = write_beginning(mapping, err);
    return end(mapping, &scope, rc, err);
}
