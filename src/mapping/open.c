/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mapping/open.c - opening: options, the file, and what is done about it before anybody sees the mapping.
 *
 *     options -> file -> longer, allocated, cloned -> bytes -> faults -> lock -> layout -> presence -> row -> statistics
 *
 *   P1  An opening that fails leaves nothing behind: no row, no block, no charge, no descriptor, no file that it made; a
 *       file that it made longer is as it was.
 *   P2  What is no file is not even opened, since that may block, or do something.
 */
#include "mapping/mapping.h"

#include "base/options.h"
#include "mapping/open.h"
#include "os/extent.h"
#include "os/thread.h"

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
static_assert(sizeof(struct pnx_mapping_opts) == 10 * sizeof(void *) + 5 * sizeof(uint64_t),
        "padding in pnx_mapping_opts");
static_assert(sizeof(struct pnx_mapping_opts) <= PNX_OPTS_MAX_SIZE, "too large for the checker");

#define CREATE_TRIES 8 /* a file that others make and remove all the time */

/* ---- options ---- */

struct rule {
    uint32_t flags; /* one of these is set, */
    uint32_t with;  /* and one of these */
    const char *message;
};

static int bad_flags(struct pnx_error *err, const char *message) {
    return pnx__fail_field(err, -EINVAL, "flags", "mapping.flags: %s", message);
}

#define OF_FILES \
    ((uint32_t)(PNX_MAPPING_CREATE | PNX_MAPPING_EXCLUSIVE | PNX_MAPPING_EXTEND | \
                PNX_MAPPING_SPARSE | PNX_MAPPING_ALLOCATE | PNX_MAPPING_SNAPSHOT | \
                PNX_MAPPING_NO_DESCRIPTOR | PNX_MAPPING_COPY | PNX_MAPPING_NO_COPY))

static const struct rule never_together[] = {
        {PNX_MAPPING_COPY, PNX_MAPPING_NO_COPY, "COPY and NO_COPY"},
        {PNX_MAPPING_SPARSE, PNX_MAPPING_ALLOCATE, "SPARSE and ALLOCATE"},
        {PNX_MAPPING_SNAPSHOT, PNX_MAPPING_RESIZABLE, "a SNAPSHOT is not RESIZABLE"},
        {PNX_MAPPING_NO_DESCRIPTOR, PNX_MAPPING_RESIZABLE,
                "NO_DESCRIPTOR: without one nothing is RESIZABLE"},
        {PNX_MAPPING_NO_FORK, PNX_MAPPING_WIPE_ON_FORK, "NO_FORK and WIPE_ON_FORK"},
};

static int check_flags(
        const struct pnx_mapping_opts *o, enum pnx_source_kind kind, struct pnx_error *err) {
    uint32_t flags = o->flags;
    for (size_t i = 0; i < sizeof(never_together) / sizeof(never_together[0]); i++)
        if ((flags & never_together[i].flags) && (flags & never_together[i].with))
            return bad_flags(err, never_together[i].message);
    if ((flags & PNX_MAPPING_EXCLUSIVE) && !(flags & PNX_MAPPING_CREATE))
        return bad_flags(err, "EXCLUSIVE without CREATE");
    if ((flags & PNX_MAPPING_SPARSE) && !(flags & PNX_MAPPING_EXTEND))
        return bad_flags(err, "SPARSE without EXTEND");
    if ((flags & PNX_MAPPING_WIPE_ON_FORK) && kind != PNX_SOURCE_ANONYMOUS)
        return bad_flags(err, "WIPE_ON_FORK is for anonymous memory");
    if (kind == PNX_SOURCE_ANONYMOUS || kind == PNX_SOURCE_MEMFD)
        return flags & OF_FILES ? bad_flags(err, "one that concerns files") : 0;
    if ((flags & PNX_MAPPING_CREATE) && kind != PNX_SOURCE_PATH)
        return bad_flags(err, "CREATE needs a path");
    bool writes = o->mode == PNX_MAPPING_WRITE;
    if (!writes && (flags & (PNX_MAPPING_CREATE | PNX_MAPPING_EXTEND | PNX_MAPPING_ALLOCATE)))
        return bad_flags(err, "CREATE, EXTEND and ALLOCATE need mode PNX_MAPPING_WRITE");
    if (writes && (flags & (PNX_MAPPING_COPY | PNX_MAPPING_SNAPSHOT)))
        return bad_flags(err, "COPY and SNAPSHOT are not for mode PNX_MAPPING_WRITE");
    return 0;
}

static int check_opts(
        const struct pnx_mapping_opts *o, enum pnx_source_kind kind, struct pnx_error *err) {
    int rc = check_flags(o, kind, err);
    if (rc)
        return rc;
    bool memory = kind == PNX_SOURCE_ANONYMOUS || kind == PNX_SOURCE_MEMFD;
    if (memory && o->length == 0)
        return pnx__fail_field(err, -EINVAL, "length", "mapping.length is required without a file");
    if (memory && o->length > PTRDIFF_MAX)
        return pnx__fail_field(
                err, -EFBIG, "length", "mapping.length does not fit the address space");
    if (memory && o->offset)
        return pnx__fail_field(err, -EINVAL, "offset", "mapping.offset without a file");
    if (memory && o->mode)
        return pnx__fail_field(err, -EINVAL, "mode", "mapping.mode without a file");
    if ((o->flags & PNX_MAPPING_EXTEND) && o->length == 0)
        return pnx__fail_field(
                err, -EINVAL, "length", "mapping.length is required with PNX_MAPPING_EXTEND");
    if ((o->flags & PNX_MAPPING_EXTEND) && o->length > INT64_MAX - o->offset)
        return pnx__fail_field(err, -EFBIG, "length",
                "mapping.length: %" PRIu64 " bytes from %" PRIu64 " are beyond any file", o->length,
                o->offset);
    if (o->reserve && !(o->flags & PNX_MAPPING_RESIZABLE))
        return pnx__fail_field(
                err, -EINVAL, "reserve", "mapping.reserve needs PNX_MAPPING_RESIZABLE");
    if (o->reserve && kind != PNX_SOURCE_ANONYMOUS && !pnx__os_maps_into_reserved())
        return pnx__fail_field(err, -ENOTSUP, "reserve",
                "mapping.reserve: this system keeps address space for anonymous memory only");
    return 0;
}

/* ---- the object ---- */

/* Makes a mapping without bytes or file. */
static int make(
        struct pnx_source *source, struct pnx_error *err, struct pnx_mapping **ret_mapping) {
    const struct pnx_mapping_opts *o = &source->opts;
    struct pnx_env env;
    int rc = pnx__env_resolve(o->env, err, &env);
    if (rc)
        return rc;
    struct pnx_mapping *mapping = pnx__alloc(&env, 1, sizeof(*mapping));
    if (!mapping)
        return pnx__fail(err, -ENOMEM, 0, "allocate", "mapping: no memory for itself");
    mapping->env = env;
    mapping->fd = -1;
    mapping->refs.v = 1;
    mapping->budget = pnx_budget_ref(o->budget ? o->budget : pnx_budget_default());
    mapping->registry = pnx_registry_ref(o->registry);
    mapping->anonymous = source->kind == PNX_SOURCE_ANONYMOUS;
    mapping->memory = source->kind == PNX_SOURCE_MEMFD;
    mapping->mode = mapping->anonymous ? PNX_MAPPING_PRIVATE
                    : mapping->memory  ? PNX_MAPPING_WRITE
                                       : (enum pnx_mapping_mode)o->mode;
    mapping->flags = o->flags;
    mapping->lasting = o->flags & PNX_MAPPING_LOCK;
    mapping->generation = pnx__fork_generation();
    mapping->offset = o->offset;
    mapping->reserve = o->reserve;
    mapping->small_max = o->small_max;
    mapping->copy_max = o->copy_max;
    pnx__bytes_empty(&mapping->bytes);
    mapping->epoch = pnx__mapping_live(mapping);
    mapping->name = pnx__strdup(&env, o->name ? o->name : source->name);
    if (mapping->name)
        rc = pnx__layout_take(mapping, o->layout, err);
    else
        rc = pnx__fail(err, -ENOMEM, 0, "allocate", "mapping: no memory for its name");
    if (rc)
        pnx__mapping_dispose(mapping);
    else
        *ret_mapping = mapping;
    return rc;
}

/* ---- the file ---- */

static int check_kind(enum pnx_file_kind kind, const char *name, enum pnx_mapping_mode mode,
        struct pnx_error *err) {
    if (kind == PNX_FILE_DIRECTORY)
        return pnx__fail(err, -EISDIR, 0, "open", "mapping: \"%.160s\" is a directory", name);
    if (kind == PNX_FILE_DEVICE)
        return pnx__fail(
                err, -ENODEV, 0, "open", "mapping: \"%.160s\" is a device, not a file", name);
    if (kind == PNX_FILE_PIPE && mode == PNX_MAPPING_WRITE)
        return pnx__fail(err, -ENODEV, 0, "open",
                "mapping: \"%.160s\" is a pipe, which cannot be written through memory", name);
    return 0;
}

static int cannot_open(struct pnx_error *err, int code, const char *path) {
    if (code == -ENXIO) /* what Linux says of sockets */
        return pnx__fail(err, -ENODEV, code, "open",
                "mapping: \"%.160s\" cannot be opened like a file", path);
    return pnx__fail(err, code, code, "open", "mapping: cannot open \"%.160s\": %s (%d)", path,
            pnx_strerror(code), -code);
}

/* Keeps the name of the directory that a new file is in. */
static int keep_directory(struct pnx_mapping *mapping, const char *path, struct pnx_error *err) {
    const char *slash = strrchr(path, '/');
    mapping->directory = pnx__strdup(&mapping->env, slash ? path : ".");
    if (!mapping->directory)
        return pnx__fail(err, -ENOMEM, 0, "allocate", "mapping: no memory for a path");
    if (slash) /* "/x" is in "/" */
        mapping->directory[slash == path ? 1 : slash - path] = '\0';
    return 0;
}

/* Looks at a path, then opens it.  -ENOENT without a word to err when there is nothing. */
static int open_existing(
        struct pnx_mapping *mapping, const char *path, int flags, struct pnx_error *err) {
    struct pnx_file_info info;
    int rc = pnx__os_stat(path, &info);
    if (rc == -ENOENT)
        return rc;
    if (rc)
        return cannot_open(err, rc, path);
    rc = check_kind(info.kind, path, mapping->mode, err);
    if (rc)
        return rc;
    int fd = pnx__os_open(path, flags, 0);
    if (fd == -ENOENT)
        return fd;
    if (fd < 0)
        return cannot_open(err, fd, path);
    mapping->fd = fd;
    return 0;
}

static int open_path(
        struct pnx_mapping *mapping, struct pnx_source *source, struct pnx_error *err) {
    const char *path = source->path;
    int flags = (mapping->mode == PNX_MAPPING_WRITE ? O_RDWR : O_RDONLY) | O_NOCTTY;
    for (unsigned i = 0; i < CREATE_TRIES; i++) {
        int rc = mapping->flags & PNX_MAPPING_EXCLUSIVE ? -ENOENT
                                                        : open_existing(mapping, path, flags, err);
        if (rc != -ENOENT)
            return rc;
        if (!(mapping->flags & PNX_MAPPING_CREATE))
            return cannot_open(err, rc, path);
        rc = mapping->directory ? 0 : keep_directory(mapping, path, err);
        if (rc)
            return rc;
        int fd = pnx__os_open(path, flags | O_CREAT | O_EXCL, source->opts.permissions);
        if (fd >= 0) {
            mapping->fd = fd;
            source->created = true;
            return 0;
        }
        if (fd != -EEXIST || (mapping->flags & PNX_MAPPING_EXCLUSIVE))
            return cannot_open(err, fd, path);
    }
    return cannot_open(err, -EAGAIN, path);
}

static int open_source(
        struct pnx_mapping *mapping, struct pnx_source *source, struct pnx_error *err) {
    switch (source->kind) {
    case PNX_SOURCE_PATH:
        return open_path(mapping, source, err);
    case PNX_SOURCE_FD:
        mapping->fd = pnx__os_dup(source->fd);
        if (mapping->fd < 0) {
            int rc = mapping->fd;
            return pnx__fail(err, rc, rc, "open",
                    "mapping: cannot duplicate descriptor %d: %s (%d)", source->fd,
                    pnx_strerror(rc), -rc);
        }
        return 0;
    case PNX_SOURCE_MEMFD:
        mapping->fd = pnx__os_memfd(mapping->name);
        if (mapping->fd < 0)
            return pnx__fail(err, mapping->fd, mapping->fd, "open",
                    "mapping: cannot make a file in memory: %s (%d)", pnx_strerror(mapping->fd),
                    -mapping->fd);
        return 0;
    case PNX_SOURCE_ANONYMOUS:
        break;
    }
    return 0;
}

/* A file that has bytes and no size, as those of /proc, cannot be mapped; it is not the empty file that it seems to be. */
static int check_empty(
        const struct pnx_mapping *mapping, const struct pnx_source *source, struct pnx_error *err) {
    struct pnx_file_info again;
    unsigned char byte;
    if (mapping->mode != PNX_MAPPING_WRITE || mapping->info.size || mapping->memory)
        return 0;
    int64_t got = pnx__os_pread(mapping->fd, &byte, 1, 0);
    if (got == 0 || (got > 0 && pnx__os_fstat(mapping->fd, &again) == 0 && again.size))
        return 0; /* empty; or somebody has just begun to write to it */
    return pnx__fail(err, -ENODEV, got < 0 ? (int)got : 0, "open",
            "mapping: \"%.160s\" has no size, and cannot be written through memory", source->name);
}

static int examine(
        struct pnx_mapping *mapping, const struct pnx_source *source, struct pnx_error *err) {
    int rc = pnx__os_fstat(mapping->fd, &mapping->info);
    if (rc)
        return pnx__fail(err, rc, rc, "open", "mapping: cannot examine \"%.160s\": %s (%d)",
                source->name, pnx_strerror(rc), -rc);
    return check_kind(mapping->info.kind, source->name, mapping->mode, err);
}

/* Makes the file longer, and gives it blocks, as far as that is asked for. */
static int extend(struct pnx_mapping *mapping, struct pnx_source *source, struct pnx_error *err) {
    const struct pnx_mapping_opts *o = &source->opts;
    int rc = 0;
    if ((o->flags & PNX_MAPPING_EXTEND) || mapping->memory) {
        source->end = o->offset + o->length;
        rc = pnx__extend(mapping->fd, source->end, o->flags & PNX_MAPPING_SPARSE, mapping->name,
                &source->before, err);
        if (rc)
            source->end = source->before = 0;
        source->fresh = source->before == 0;
    }
    if (rc == 0 && (o->flags & PNX_MAPPING_ALLOCATE)) {
        uint64_t n = o->length;
        if (n == 0) {
            rc = examine(mapping, source, err);
            n = rc || mapping->info.size < o->offset ? 0 : mapping->info.size - o->offset;
        }
        if (rc == 0)
            rc = pnx__allocate(mapping->fd, o->offset, n, mapping->name, err);
    }
    if (rc == 0 && (source->end != source->before || (o->flags & PNX_MAPPING_ALLOCATE)))
        rc = examine(mapping, source, err);
    return rc;
}

/* Turns the descriptor into that of a clone, or says that a copy is needed. */
static int take_snapshot(
        struct pnx_mapping *mapping, const struct pnx_source *source, struct pnx_error *err) {
    mapping->snapshot = true;
    if (!source->path || mapping->info.kind != PNX_FILE_REGULAR || mapping->info.size == 0)
        return 0;
    int rc = mapping->directory ? 0 : keep_directory(mapping, source->path, err);
    if (rc)
        return rc;
    int clone = pnx__os_clone(mapping->fd, mapping->directory);
    pnx__strfree(&mapping->env, mapping->directory);
    mapping->directory = NULL;
    if (clone < 0)
        return 0; /* whatever the reason: there is another way */
    mapping->snapshot = false;
    pnx__os_close(&mapping->fd);
    mapping->fd = clone;
    return examine(mapping, source, err);
}

/* ---- together ---- */

static int prepare_faults(struct pnx_mapping *mapping, struct pnx_error *err) {
    struct pnx_fault_pages pages = pnx__bytes_pages(mapping, &mapping->bytes);
    int rc = pnx__fault_register(&mapping->fault, &pages);
    return rc ? pnx__fail(err, rc, 0, "allocate", "mapping: cannot prepare for faults: %s",
                        pnx_strerror(rc))
              : 0;
}

static int fill(
        struct pnx_mapping *mapping, const struct pnx_source *source, struct pnx_error *err) {
    int rc = 0;
    uint32_t flags = mapping->flags;
    if (mapping->lasting)
        rc = pnx__lock_bytes(mapping, &mapping->bytes, 0, err);
    if (rc == 0 && (source->fresh || mapping->anonymous))
        rc = pnx__layout_init(mapping, err);
    if (rc == 0)
        rc = pnx__layout_check(mapping, err);
    if (rc == 0 && (flags & PNX_MAPPING_POPULATE)) {
        rc = pnx_mapping_populate(mapping, 0, mapping->bytes.size,
                mapping->mode == PNX_MAPPING_READ ? PNX_POPULATE_READ : PNX_POPULATE_WRITE);
        if (rc < 0)
            return pnx__fail(err, rc, rc, "populate",
                    "mapping: \"%.80s\": cannot have its pages: %s (%d)", mapping->name,
                    pnx_strerror(rc), -rc);
        rc = 0;
    }
    return rc;
}

/* Everything from the file to the bytes.  *ret_refused as in pnx__mapping_load(). */
static int build(struct pnx_mapping *mapping, struct pnx_source *source, int *ret_refused,
        struct pnx_error *err) {
    const struct pnx_mapping_opts *o = &source->opts;
    int rc = open_source(mapping, source, err);
    if (rc == 0 && !mapping->anonymous)
        rc = examine(mapping, source, err);
    if (rc == 0 && !mapping->anonymous)
        rc = check_empty(mapping, source, err);
    if (rc == 0 && !mapping->anonymous)
        rc = extend(mapping, source, err);
    if (rc == 0 && (o->flags & PNX_MAPPING_SNAPSHOT))
        rc = take_snapshot(mapping, source, err);
    if (rc)
        return rc;
    if (mapping->info.links == 0 && mapping->info.kind == PNX_FILE_REGULAR) {
        int seals = pnx__os_seals(mapping->fd);
        mapping->seals = seals > 0 ? (uint32_t)seals : 0;
        if ((mapping->seals & PNX_SEAL_WRITE) && mapping->mode == PNX_MAPPING_WRITE)
            return pnx__fail(err, -EACCES, 0, "open",
                    "mapping: \"%.160s\" has PNX_SEAL_WRITE: nobody can write to it", source->name);
    }
    struct pnx_mapping_bytes bytes;
    rc = pnx__mapping_load(mapping, o->length, o->length == 0, &bytes, ret_refused, err);
    if (rc)
        return rc;
    mapping->bytes = bytes;
    mapping->seen = mapping->info;
    if ((o->flags & PNX_MAPPING_NO_DESCRIPTOR) || mapping->info.kind == PNX_FILE_PIPE)
        pnx__os_close(&mapping->fd);
    rc = prepare_faults(mapping, err);
    return rc ? rc : fill(mapping, source, err);
}

/* Where a file cannot be cut as long as it is mapped, its pages go first. */
static void give_up_pages(struct pnx_mapping *mapping) {
    struct pnx_mapping_bytes empty, bytes = mapping->bytes;
    pnx__bytes_empty(&empty);
    struct pnx_fault_pages none = pnx__bytes_pages(mapping, &empty);
    if (bytes.backing != PNX_BACKING_MMAP || pnx__os_cuts_mapped())
        return;
    if (mapping->fault.head.domain) { /* nobody has seen it: there are no scopes */
        if (pnx__fault_suspend(&mapping->fault, PNX_SEC) ||
                pnx__fault_resume(&mapping->fault, &none))
            return;
    }
    mapping->bytes = empty;
    pnx__bytes_drop(mapping, &bytes);
}

/* Takes back what was done to the file system. */
static void undo(struct pnx_mapping *mapping, const struct pnx_source *source) {
    struct pnx_file_info there;
    if (source->end != source->before || source->created)
        give_up_pages(mapping);
    if (mapping->fd >= 0)
        pnx__extend_undo(mapping->fd, source->end, source->before);
    if (source->created && pnx__os_stat(source->path, &there) == 0 &&
            there.inode == mapping->info.inode && there.device == mapping->info.device)
        (void)pnx__os_unlink(source->path);
}

static void join(struct pnx_mapping *mapping, const struct pnx_source *source, int refused) {
    const struct pnx_mapping_bytes *bytes = &mapping->bytes;
    bool mapped = bytes->backing == PNX_BACKING_MMAP;
    mapping->values.mapped.v = mapped ? bytes->size : 0; /* nobody looks before the block joins */
    mapping->values.copied.v = mapped ? 0 : bytes->base_size;
    mapping->values.private_memory.v = mapped ? bytes->charged : 0;
    mapping->values.locked.v = mapping->locked;
    mapping->values.fallbacks.v = refused != 0;
    pnx__mapping_stats_init(&mapping->block, mapping->name, &mapping->values, NULL);
    mapping->block.refresh = pnx__mapping_refresh;
    pnx__stats_add(source->opts.stats, &mapping->block);
    if (source->opts.advice != PNX_ADVICE_NORMAL)
        (void)pnx_mapping_advise(
                mapping, 0, bytes->size, (enum pnx_mapping_advice)source->opts.advice);
    if (refused)
        pnx__event(&mapping->block, PNX_EVENT_MAPPING_FELL_BACK, mapping->name, refused, NULL,
                (int64_t)bytes->size, 0);
}

int pnx__mapping_open(struct pnx_source *source, const struct pnx_mapping_opts *opts,
        struct pnx_error *err, struct pnx_mapping **ret_mapping) {
    struct pnx_mapping *mapping = NULL;
    int refused = 0;
    int rc = pnx__opts_resolve(&options, opts, &source->opts, err);
    if (rc == 0)
        rc = check_opts(&source->opts, source->kind, err);
    if (rc == 0)
        rc = make(source, err, &mapping);
    if (rc)
        return rc;
    rc = build(mapping, source, &refused, err);
    if (rc == 0)
        rc = pnx__mapping_register(mapping, source->opts.site, err);
    if (rc) {
        undo(mapping, source);
        pnx__mapping_dispose(mapping);
        return rc;
    }
    join(mapping, source, refused);
    *ret_mapping = mapping;
    return 0;
}

int pnx_mapping_open(const char *path, const struct pnx_mapping_opts *opts, struct pnx_error *err,
        struct pnx_mapping **ret_mapping) {
    if (!path || !ret_mapping)
        return pnx__fail_field(
                err, -EINVAL, path ? "ret_mapping" : "path", "mapping: an argument is NULL");
    struct pnx_source source = {.kind = PNX_SOURCE_PATH, .path = path, .name = path};
    return pnx__mapping_open(&source, opts, err, ret_mapping);
}

int pnx_mapping_open_fd(int fd, const struct pnx_mapping_opts *opts, struct pnx_error *err,
        struct pnx_mapping **ret_mapping) {
    if (fd < 0 || !ret_mapping)
        return pnx__fail_field(err, -EINVAL, fd < 0 ? "fd" : "ret_mapping",
                "mapping: descriptor %d, or nowhere to put the result", fd);
    struct pnx_source source = {.kind = PNX_SOURCE_FD, .fd = fd, .name = "descriptor"};
    return pnx__mapping_open(&source, opts, err, ret_mapping);
}

int pnx_mapping_open_anonymous(const struct pnx_mapping_opts *opts, struct pnx_error *err,
        struct pnx_mapping **ret_mapping) {
    if (!ret_mapping)
        return pnx__fail_field(err, -EINVAL, "ret_mapping", "mapping: nowhere to put the result");
    struct pnx_source source = {.kind = PNX_SOURCE_ANONYMOUS, .name = "anonymous"};
    return pnx__mapping_open(&source, opts, err, ret_mapping);
}

int pnx_mapping_open_memfd(const struct pnx_mapping_opts *opts, struct pnx_error *err,
        struct pnx_mapping **ret_mapping) {
    if (!ret_mapping)
        return pnx__fail_field(err, -EINVAL, "ret_mapping", "mapping: nowhere to put the result");
    struct pnx_source source = {.kind = PNX_SOURCE_MEMFD, .name = "memfd"};
    return pnx__mapping_open(&source, opts, err, ret_mapping);
}
