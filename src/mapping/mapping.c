/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mapping/mapping.c - the life of a mapping, and what can be asked of it.  load.c gets the bytes.
 *
 * A mapping is immutable once it is opened, so there is no lock: references are counted, numbers are atomic.
 *
 *   P1  The bytes stay mapped until the last reference is gone.
 *   P2  A mapping that could not be opened leaves nothing behind: no row, no block, no charge, no descriptor.
 */
#include "mapping/mapping.h"

#include "base/options.h"

#include <assert.h>
#include <inttypes.h>
#include <string.h>

#define OPT(field, kind, flags, dflt, lo, hi, text) \
    PNX_OPT_ROW(struct pnx_mapping_opts, field, kind, flags, dflt, lo, hi, text)
#define PNX_OPTION OPT
static const struct pnx_opt option_rows[] = {
#include "mapping/mapping_opts.def"
};
#undef PNX_OPTION
static const struct pnx_opt_table options = {"mapping", sizeof(struct pnx_mapping_opts),
        option_rows, sizeof(option_rows) / sizeof(option_rows[0])};
static_assert(sizeof(struct pnx_mapping_opts) == 9 * sizeof(void *) + 3 * sizeof(uint64_t),
        "padding in pnx_mapping_opts");
static_assert(sizeof(struct pnx_mapping_opts) <= PNX_OPTS_MAX_SIZE, "too large for the checker");
static_assert((int)PNX_ADVICE_NORMAL == (int)PNX_OS_ADVICE_NORMAL &&
                      (int)PNX_ADVICE_SEQUENTIAL == (int)PNX_OS_ADVICE_SEQUENTIAL &&
                      (int)PNX_ADVICE_RANDOM == (int)PNX_OS_ADVICE_RANDOM &&
                      (int)PNX_ADVICE_WILLNEED == (int)PNX_OS_ADVICE_WILLNEED,
        "one enum for both");

/* What is open, and what the caller said about it: the input of open_mapping(), which takes over fd. */
struct source {
    int fd;
    const char *name;
    struct pnx_mapping_opts opts;
    struct pnx_env env;
};

static int resolve(
        const struct pnx_mapping_opts *user, struct source *source, struct pnx_error *err) {
    int rc = pnx__opts_resolve(&options, user, &source->opts, err);
    if (rc)
        return rc;
    return pnx__env_resolve(source->opts.env, err, &source->env);
}

static int check_kind(enum pnx_file_kind kind, const char *name, struct pnx_error *err) {
    if (kind == PNX_FILE_DIRECTORY)
        return pnx__fail(err, -EISDIR, 0, "open", "mapping: \"%.160s\" is a directory", name);
    if (kind == PNX_FILE_DEVICE)
        return pnx__fail(
                err, -ENODEV, 0, "open", "mapping: \"%.160s\" is a device, not a file", name);
    return 0;
}

/* Nobody can be inside the bytes any more. */
static void dispose_memory(struct pnx_fault_record *record) {
    struct pnx_mapping *mapping = (struct pnx_mapping *)record;
    struct pnx_env env = mapping->env;
    pnx__mapping_unload(mapping);
    pnx__os_close(&mapping->fd); /* only read from: nothing can be lost */
    pnx_budget_release(&mapping->budget);
    pnx_registry_release(&mapping->registry);
    pnx__strfree(&env, mapping->name);
    pnx__free(&env, mapping, 1, sizeof(*mapping));
}

/* Ends a mapping, also a half-built one. */
static void dispose(struct pnx_mapping *mapping) {
    if (mapping->row)
        pnx_registry_remove(mapping->registry, mapping->row);
    pnx__stats_remove(&mapping->block);
    if (mapping->fault.head.domain)
        pnx__fault_retire(&mapping->fault, dispose_memory);
    else
        dispose_memory(&mapping->fault);
}

/* Makes scopes possible. */
static int register_pages(struct pnx_mapping *mapping, struct pnx_error *err) {
    bool mapped = mapping->backing == PNX_BACKING_MMAP;
    struct pnx_fault_pages pages = {
            .base = mapped ? mapping->base : NULL,
            .base_size = mapped ? mapping->base_size : 0,
            .data = (unsigned char *)(uintptr_t)mapping->data,
            .size = mapping->size,
            .file_offset =
                    mapping->offset - (mapped ? (uint64_t)(mapping->data - mapping->base) : 0),
            .fd = mapped ? mapping->fd : -1,
            .flags = mapped ? 0 : PNX_FAULT_NEVER,
            .info = mapping->info,
    };
    int rc = pnx__fault_register(&mapping->fault, &pages);
    return rc ? pnx__fail(err, rc, 0, "allocate", "mapping: cannot prepare for faults: %s",
                        pnx_strerror(rc))
              : 0;
}

static bool is_closed(const struct pnx_mapping *mapping) {
    /* A wish, without data: no partner. */
    return pnx_load(&mapping->closed, PNX_RELAXED, "mapping.closed") != 0;
}

void pnx_mapping_close(struct pnx_mapping *mapping) {
    if (mapping)
        pnx_store(&mapping->closed, 1, PNX_RELAXED, "mapping.close"); /* see is_closed() */
}

/* What a shutdown does: it must not unmap under somebody's view. */
static int cleanup(void *arg, const struct pnx_cancel *cancel) {
    (void)cancel;
    pnx_mapping_close(arg);
    return 0;
}

static int register_row(struct pnx_mapping *mapping, const char *site, struct pnx_error *err) {
    return pnx_registry_add(mapping->registry,
            &(const struct pnx_resource){
                    .size = sizeof(struct pnx_resource),
                    .type = "mapping",
                    .name = mapping->name,
                    .site = site,
                    .cleanup = cleanup,
                    .arg = mapping,
                    .bytes = mapping->size,
                    .flags = PNX_RESOURCE_LONG_LIVED,
            },
            err, &mapping->row);
}

static void join_stats(struct pnx_mapping *mapping, struct pnx_stats *stats, int refused) {
    bool mapped = mapping->backing == PNX_BACKING_MMAP;
    mapping->values.mapped.v = mapped ? mapping->size : 0; /* nobody looks before the block joins */
    mapping->values.copied.v = mapped ? 0 : mapping->base_size;
    mapping->values.fallbacks.v = refused != 0;
    pnx__mapping_stats_init(&mapping->block, mapping->name, &mapping->values, NULL);
    pnx__stats_add(stats, &mapping->block);
}

static int open_mapping(
        struct source *source, struct pnx_error *err, struct pnx_mapping **ret_mapping) {
    struct pnx_mapping_opts *o = &source->opts;
    struct pnx_file_info info;
    int rc = pnx__os_fstat(source->fd, &info);
    if (rc)
        rc = pnx__fail(err, rc, rc, "open", "mapping: cannot examine \"%.160s\": %s (%d)",
                source->name, pnx_strerror(rc), -rc);
    else
        rc = check_kind(info.kind, source->name, err);
    struct pnx_mapping *mapping = rc ? NULL : pnx__alloc(&source->env, 1, sizeof(*mapping));
    if (!mapping) {
        pnx__os_close(&source->fd);
        return rc ? rc : pnx__fail(err, -ENOMEM, 0, "allocate", "mapping: no memory for itself");
    }
    mapping->env = source->env;
    mapping->fd = source->fd;
    mapping->info = info;
    mapping->refs.v = 1;
    mapping->budget = pnx_budget_ref(o->budget ? o->budget : pnx_budget_default());
    mapping->registry = pnx_registry_ref(o->registry);
    int refused = 0;
    mapping->name = pnx__strdup(&mapping->env, o->name ? o->name : source->name);
    if (mapping->name)
        rc = pnx__mapping_load(mapping, o, err, &refused);
    else
        rc = pnx__fail(err, -ENOMEM, 0, "allocate", "mapping: no memory for its name");
    if (!rc)
        rc = register_pages(mapping, err);
    if (!rc)
        rc = register_row(mapping, o->site, err);
    if (rc) {
        dispose(mapping);
        return rc;
    }
    if (info.kind == PNX_FILE_PIPE)
        pnx__os_close(&mapping->fd);
    join_stats(mapping, o->stats, refused);
    if (o->advice != PNX_ADVICE_NORMAL)
        (void)pnx_mapping_advise(mapping, 0, mapping->size, (enum pnx_mapping_advice)o->advice);
    if (refused)
        pnx__event(&mapping->block, PNX_EVENT_MAPPING_FELL_BACK, mapping->name, refused, NULL,
                (int64_t)mapping->size, 0);
    *ret_mapping = mapping;
    return 0;
}

static int cannot_open(struct pnx_error *err, int code, const char *path) {
    if (code == -ENXIO) /* what Linux says of sockets */
        return pnx__fail(err, -ENODEV, code, "open",
                "mapping: \"%.160s\" cannot be opened like a file", path);
    return pnx__fail(err, code, code, "open", "mapping: cannot open \"%.160s\": %s (%d)", path,
            pnx_strerror(code), -code);
}

int pnx_mapping_open(const char *path, const struct pnx_mapping_opts *opts, struct pnx_error *err,
        struct pnx_mapping **ret_mapping) {
    if (!path || !ret_mapping)
        return pnx__fail_field(
                err, -EINVAL, path ? "ret_mapping" : "path", "mapping: an argument is NULL");
    struct source source = {.name = path};
    int rc = resolve(opts, &source, err);
    if (rc)
        return rc;
    /* Looked at before it is opened, since opening a device may block, or do something. */
    struct pnx_file_info info;
    rc = pnx__os_stat(path, &info);
    if (rc)
        return cannot_open(err, rc, path);
    rc = check_kind(info.kind, path, err);
    if (rc)
        return rc;
    source.fd = pnx__os_open(path, O_RDONLY | O_NOCTTY, 0);
    if (source.fd < 0)
        return cannot_open(err, source.fd, path);
    return open_mapping(&source, err, ret_mapping);
}

int pnx_mapping_open_fd(int fd, const struct pnx_mapping_opts *opts, struct pnx_error *err,
        struct pnx_mapping **ret_mapping) {
    if (fd < 0 || !ret_mapping)
        return pnx__fail_field(err, -EINVAL, fd < 0 ? "fd" : "ret_mapping",
                "mapping: descriptor %d, or nowhere to put the result", fd);
    struct source source = {.name = "descriptor"};
    int rc = resolve(opts, &source, err);
    if (rc)
        return rc;
    source.fd = pnx__os_dup(fd);
    if (source.fd < 0)
        return pnx__fail(err, source.fd, source.fd, "open",
                "mapping: cannot duplicate descriptor %d: %s (%d)", fd, pnx_strerror(source.fd),
                -source.fd);
    return open_mapping(&source, err, ret_mapping);
}

struct pnx_mapping *pnx_mapping_ref(struct pnx_mapping *mapping) {
    if (mapping) /* relaxed: who has a reference can hand one on */
        pnx_fetch_add(&mapping->refs, 1, PNX_RELAXED, "mapping.ref");
    return mapping;
}

void pnx_mapping_release(struct pnx_mapping **mapping) {
    struct pnx_mapping *m = mapping ? *mapping : NULL;
    if (!m)
        return;
    *mapping = NULL;
    /* Pairs with itself: the last one sees all that others did with the mapping before they let go. */
    if (pnx_fetch_sub(&m->refs, 1, PNX_ACQ_REL, "mapping.release") == 1)
        dispose(m);
}

enum pnx_mapping_backing pnx_mapping_backing(const struct pnx_mapping *mapping) {
    return mapping ? mapping->backing : PNX_BACKING_EMPTY;
}

size_t pnx_mapping_size(const struct pnx_mapping *mapping) {
    return mapping ? mapping->size : 0;
}

static int stale(struct pnx_mapping *mapping) {
    pnx_fetch_add(&mapping->values.stale, 1, PNX_RELAXED, "mapping.stale"); /* a statistic */
    return -ESTALE;
}

int pnx_mapping_changed(struct pnx_mapping *mapping) {
    struct pnx_file_info now;
    if (!mapping)
        return -EINVAL;
    /* Files of /proc have bytes and no size, and times that say nothing. */
    if (mapping->fd < 0 || (mapping->info.size == 0 && mapping->size > 0))
        return -ENOTSUP;
    int rc = pnx__os_fstat(mapping->fd, &now);
    if (rc)
        return rc == -ESTALE ? stale(mapping) : rc; /* what NFS says of a file that is gone */
    const struct pnx_file_info *then = &mapping->info;
    bool same = now.size == then->size && now.mtime_ns == then->mtime_ns &&
                now.inode == then->inode && now.device == then->device;
    return same ? 0 : stale(mapping);
}

static bool holds(const struct pnx_mapping *mapping, uint64_t offset, size_t n) {
    return offset <= mapping->size && n <= mapping->size - (size_t)offset;
}

int pnx_mapping_copy_out(struct pnx_mapping *mapping, uint64_t offset, void *dst, size_t n) {
    if (!mapping || (!dst && n))
        return -EINVAL;
    if (is_closed(mapping))
        return -ESHUTDOWN;
    if (!holds(mapping, offset, n))
        return -ERANGE;
    pnx_fetch_add(&mapping->values.copy_outs, 1, PNX_RELAXED, "mapping.copy_out"); /* a statistic */
    if (n == 0)
        return 0;
    if (mapping->backing != PNX_BACKING_MMAP) {
        memcpy(dst, mapping->data + offset, n);
        return 0;
    }
    int64_t got = pnx__os_pread_full(mapping->fd, dst, n, mapping->offset + offset);
    if (got < 0)
        return (int)got;
    return (size_t)got == n ? 0 : stale(mapping);
}

int pnx_mapping_advise(
        struct pnx_mapping *mapping, uint64_t offset, size_t n, enum pnx_mapping_advice advice) {
    if (!mapping || (unsigned)advice > PNX_ADVICE_WILLNEED)
        return -EINVAL;
    if (!holds(mapping, offset, n))
        return -ERANGE;
    if (mapping->backing != PNX_BACKING_MMAP || n == 0)
        return 1;
    size_t from = (size_t)(mapping->data - mapping->base) + (size_t)offset;
    size_t before = from % pnx__os_page_size();
    int rc = pnx__os_advise(mapping->base + from - before, before + n, (enum pnx_os_advice)advice);
    return rc ? 1 : 0;
}

int pnx_mapping_read_stats(const struct pnx_mapping *mapping, struct pnx_mapping_stats *ret_stats) {
    if (!mapping || !ret_stats || ret_stats->size < sizeof(size_t))
        return -EINVAL;
    struct pnx_mapping_stats all = {.size = ret_stats->size};
#define PNX_STAT(name, kind, unit, level, help) \
    all.name = pnx_load(&mapping->values.name, PNX_RELAXED, "mapping.stats." #name);
#include <patinox/stats/mapping.def>
#undef PNX_STAT
    memcpy(ret_stats, &all, ret_stats->size < sizeof(all) ? ret_stats->size : sizeof(all));
    return 0;
}

/* ---- views ---- */

struct pnx_view pnx_view_all(struct pnx_mapping *mapping) {
    if (!mapping)
        return (struct pnx_view){.p = NULL};
    return (struct pnx_view){mapping->data, is_closed(mapping) ? 0 : mapping->size, mapping};
}

int pnx_view_get(
        struct pnx_mapping *mapping, uint64_t offset, size_t n, struct pnx_view *ret_view) {
    if (!mapping || !ret_view)
        return -EINVAL;
    if (is_closed(mapping))
        return -ESHUTDOWN;
    if (!holds(mapping, offset, n))
        return -ERANGE;
    *ret_view = (struct pnx_view){mapping->data + offset, n, mapping};
    return 0;
}

int pnx_view_sub(
        const struct pnx_view *view, uint64_t offset, size_t n, struct pnx_view *ret_view) {
    if (!view || !ret_view)
        return -EINVAL;
    if (!pnx_view_holds(view, offset, n))
        return -ERANGE;
    *ret_view = (struct pnx_view){view->p + (size_t)offset, n, view->mapping};
    return 0;
}
