/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mapping/windows.c - a file seen through one mapping after the other.
 *
 *   P1  The windows' starts are offset + k x step, where step is the largest multiple of unit in window.
 *   P2  A window that could not be opened is the next one still; the one that was shown before has ended.
 */
#include "mapping/mapping.h"

#include "base/options.h"
#include "mapping/open.h"

#include <patinox/mapping_windows.h>

#include <assert.h>
#include <inttypes.h>

#define OPT(field, kind, flags, dflt, lo, hi, text) \
    PNX_OPT_ROW(struct pnx_windows_opts, field, kind, flags, dflt, lo, hi, text)
#define PNX_OPTION OPT
static const struct pnx_opt option_rows[] = {
#include "mapping/windows_opts.def"
};
#undef PNX_OPTION
static const struct pnx_opt_table options = {"windows", sizeof(struct pnx_windows_opts),
        option_rows, sizeof(option_rows) / sizeof(option_rows[0])};
static_assert(sizeof(struct pnx_windows_opts) == 10 * sizeof(void *) + 3 * sizeof(uint64_t),
        "padding in pnx_windows_opts");
static_assert(sizeof(struct pnx_windows_opts) <= PNX_OPTS_MAX_SIZE, "too large for the checker");

/* Belongs to one thread at a time.  The options are resolved; name, registry and budget are its own. */
struct pnx_windows {
    struct pnx_env env;
    struct pnx_windows_opts opts;
    char *name;
    int fd;
    uint64_t length;             /* of all windows together */
    size_t step;                 /* from one to the next */
    uint64_t next;               /* where the next one begins, from opts.offset on */
    uint64_t shown;              /* where the last one began */
    struct pnx_mapping *mapping; /* the window that is mapped; NULL: none */
};

void pnx_windows_release(struct pnx_windows **windows) {
    struct pnx_windows *w = windows ? *windows : NULL;
    if (!w)
        return;
    *windows = NULL;
    struct pnx_env env = w->env;
    struct pnx_budget *budget = w->opts.budget;
    struct pnx_registry *registry = w->opts.registry;
    pnx_mapping_release(&w->mapping);
    pnx__os_close(&w->fd);
    pnx_budget_release(&budget);
    pnx_registry_release(&registry);
    pnx__strfree(&env, w->name);
    pnx__free(&env, w, 1, sizeof(*w));
}

/* Finds out how much there is to show. */
static int measure(struct pnx_windows *w, struct pnx_error *err) {
    struct pnx_file_info info;
    const struct pnx_windows_opts *o = &w->opts;
    int rc = pnx__os_fstat(w->fd, &info);
    if (rc)
        return pnx__fail(err, rc, rc, "open", "windows: cannot examine \"%.160s\": %s (%d)",
                w->name, pnx_strerror(rc), -rc);
    if (info.kind == PNX_FILE_DIRECTORY)
        return pnx__fail(err, -EISDIR, 0, "open", "windows: \"%.160s\" is a directory", w->name);
    if (info.kind != PNX_FILE_REGULAR)
        return pnx__fail(
                err, -ENODEV, 0, "open", "windows: \"%.160s\" is no regular file", w->name);
    if (o->offset > info.size)
        return pnx__fail_field(err, -ERANGE, "offset",
                "windows.offset is %" PRIu64 ", beyond the end of the file at %" PRIu64, o->offset,
                info.size);
    if (o->length > info.size - o->offset)
        return pnx__fail_field(err, -ERANGE, "length",
                "windows.length is %" PRIu64 ", but from offset %" PRIu64
                " the file has only %" PRIu64 " bytes",
                o->length, o->offset, info.size - o->offset);
    w->length = o->length ? o->length : info.size - o->offset;
    return 0;
}

/* Takes over fd. */
static int make(int fd, const char *name, const struct pnx_windows_opts *o, struct pnx_error *err,
        struct pnx_windows **ret_windows) {
    struct pnx_env env;
    int rc = pnx__env_resolve(o->env, err, &env);
    struct pnx_windows *w = rc ? NULL : pnx__alloc(&env, 1, sizeof(*w));
    if (!w) {
        pnx__os_close(&fd);
        return rc ? rc : pnx__fail(err, -ENOMEM, 0, "allocate", "windows: no memory");
    }
    w->env = env;
    w->opts = *o;
    w->opts.env = &w->env;
    w->opts.budget = pnx_budget_ref(o->budget ? o->budget : pnx_budget_default());
    w->opts.registry = pnx_registry_ref(o->registry);
    w->fd = fd;
    w->step = o->window - o->window % o->unit;
    w->name = pnx__strdup(&env, o->name ? o->name : name);
    rc = w->name ? measure(w, err)
                 : pnx__fail(err, -ENOMEM, 0, "allocate", "windows: no memory for its name");
    if (rc)
        pnx_windows_release(&w);
    else
        *ret_windows = w;
    return rc;
}

static int resolve(const struct pnx_windows_opts *user, struct pnx_windows_opts *ret_opts,
        struct pnx_error *err) {
    int rc = pnx__opts_resolve(&options, user, ret_opts, err);
    if (rc)
        return rc;
    if (ret_opts->window < ret_opts->unit)
        return pnx__fail_field(err, -EINVAL, "window",
                "windows.window, %zu, has no room for a unit of %zu", ret_opts->window,
                ret_opts->unit);
    if ((ret_opts->flags & PNX_MAPPING_COPY) && (ret_opts->flags & PNX_MAPPING_NO_COPY))
        return pnx__fail_field(err, -EINVAL, "flags", "windows.flags: COPY and NO_COPY");
    return 0;
}

int pnx_windows_open(const char *path, const struct pnx_windows_opts *opts, struct pnx_error *err,
        struct pnx_windows **ret_windows) {
    if (!path || !ret_windows)
        return pnx__fail_field(
                err, -EINVAL, path ? "ret_windows" : "path", "windows: an argument is NULL");
    struct pnx_windows_opts resolved;
    struct pnx_file_info info;
    int rc = resolve(opts, &resolved, err);
    if (rc)
        return rc;
    rc = pnx__os_stat(path, &info); /* opening a device or a FIFO may block, or do something */
    if (rc == 0 && info.kind == PNX_FILE_DIRECTORY)
        rc = -EISDIR;
    else if (rc == 0 && info.kind != PNX_FILE_REGULAR)
        rc = -ENODEV;
    int fd = rc ? rc : pnx__os_open(path, O_RDONLY | O_NOCTTY, 0);
    if (fd < 0)
        return pnx__fail(err, fd, fd, "open", "windows: cannot open \"%.160s\": %s (%d)", path,
                pnx_strerror(fd), -fd);
    return make(fd, path, &resolved, err, ret_windows);
}

int pnx_windows_open_fd(int fd, const struct pnx_windows_opts *opts, struct pnx_error *err,
        struct pnx_windows **ret_windows) {
    if (fd < 0 || !ret_windows)
        return pnx__fail_field(err, -EINVAL, fd < 0 ? "fd" : "ret_windows",
                "windows: descriptor %d, or nowhere to put the result", fd);
    struct pnx_windows_opts resolved;
    int rc = resolve(opts, &resolved, err);
    if (rc)
        return rc;
    int own = pnx__os_dup(fd);
    if (own < 0)
        return pnx__fail(err, own, own, "open", "windows: cannot duplicate descriptor %d: %s (%d)",
                fd, pnx_strerror(own), -own);
    return make(own, "descriptor", &resolved, err, ret_windows);
}

static int map_window(struct pnx_windows *w, uint64_t n, struct pnx_error *err) {
    const struct pnx_windows_opts *o = &w->opts;
    struct pnx_mapping_opts opts = {
            .size = sizeof(opts),
            .name = w->name,
            .site = o->site,
            .env = &w->env,
            .registry = o->registry,
            .stats = o->stats,
            .budget = o->budget,
            .offset = o->offset + w->next,
            .length = n,
            .advice = o->advice,
            .flags = o->flags,
    };
    struct pnx_source source = {.kind = PNX_SOURCE_FD, .fd = w->fd, .name = w->name};
    struct pnx_error why;
    int rc = pnx__mapping_open(&source, &opts, &why, &w->mapping);
    if (rc == -ERANGE) /* it had these bytes when it was measured */
        return pnx__fail(err, -ESTALE, rc, "map",
                "windows: \"%.80s\" is too short by now for %" PRIu64 " bytes at %" PRIu64, w->name,
                n, opts.offset);
    if (rc && err)
        *err = why;
    return rc;
}

int pnx_windows_next(
        struct pnx_windows *windows, struct pnx_error *err, struct pnx_view *ret_view) {
    if (!windows || !ret_view)
        return pnx__fail_field(
                err, -EINVAL, windows ? "ret_view" : "windows", "windows: an argument is NULL");
    uint64_t left = windows->length - windows->next;
    if (left == 0)
        return 0;
    pnx_mapping_release(&windows->mapping);
    uint64_t n = (uint64_t)windows->step + windows->opts.overlap;
    int rc = map_window(windows, n < left ? n : left, err);
    if (rc)
        return rc;
    windows->shown = windows->next;
    windows->next += windows->step < left ? windows->step : left;
    *ret_view = pnx_view_all(windows->mapping);
    return 1;
}

int pnx_windows_seek(struct pnx_windows *windows, uint64_t position) {
    if (!windows)
        return -EINVAL;
    if (position > windows->length)
        return -ERANGE;
    windows->next = position == windows->length ? position : position - position % windows->step;
    return 0;
}

uint64_t pnx_windows_position(const struct pnx_windows *windows) {
    return windows ? windows->shown : 0;
}

uint64_t pnx_windows_length(const struct pnx_windows *windows) {
    return windows ? windows->length : 0;
}
