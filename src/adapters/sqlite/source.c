/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sqlite/source.c - a source of SQLite connections: its options, its life, its numbers.
 *
 * Sits in the adapter library patinox-sqlite, above pool.  The guarantees stand in patinox/sqlite.h.  A source is
 * immutable but for reference count, counters and the word that a shutdown sets; so any thread may use it
 * without a lock.
 */
#include "adapters/sqlite/source.h"

#include "base/options.h"

#include <patinox/pool.h>

#include <stdio.h>
#include <string.h>

/* What a connection holds besides its page cache: schema, look-aside memory and some statements (measured). */
#define CONNECTION_BYTES ((size_t)128 * 1024)

#define PNX_OPTION(field, kind, flags, dflt, lo, hi, help) \
    PNX_OPT_ROW(struct pnx_sqlite_opts, field, kind, flags, dflt, lo, hi, help)
/* clang-format off */
static const struct pnx_opt rows[] = {
#include "adapters/sqlite/options.def"
};
/* clang-format on */
#undef PNX_OPTION
static const struct pnx_opt_table table = {
        .what = "sqlite",
        .size = sizeof(struct pnx_sqlite_opts),
        .rows = rows,
        .count = sizeof(rows) / sizeof(rows[0]),
};
_Static_assert(sizeof(struct pnx_sqlite_opts) <= PNX_OPTS_MAX_SIZE, "the options checker's limit");
_Static_assert(sizeof(struct pnx_sqlite_opts) == 7 * sizeof(void *) + sizeof(pnx_ns) +
                                                         3 * sizeof(size_t) + 2 * sizeof(uint32_t),
        "no padding in options");

static const struct pnx_pool_manager manager = {
        .size = sizeof(manager),
        .connect = pnx__sqlite_connect,
        .check = pnx__sqlite_check,
        .reset = pnx__sqlite_reset,
        .close = pnx__sqlite_close,
        .abandon = pnx__sqlite_abandon,
};

const struct pnx_pool_manager *pnx_sqlite_manager(void) {
    return &manager;
}

/* Tells whether a byte may stand in a file: URI as it is. */
static bool is_plain(unsigned char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           (c != '\0' && strchr("/._-~", c));
}

/*
 * Makes the URI of a path.  SQLite takes plain names for URIs in some builds, so every name is given as one, and
 * no byte of it can mean a parameter.
 */
static char *make_uri(const struct pnx_env *env, const char *path, uint32_t flags) {
    const char *tail = flags & PNX_SQLITE_IMMUTABLE ? "?immutable=1" : "";
    /* With the empty authority, a path that begins with two slashes stays one. */
    const char *head = path[0] == '/' ? "file://" : "file:";
    size_t plain = strlen(path);
    size_t n = strlen(head) + 3 * plain + strlen(tail) + 1;
    char *text = pnx__alloc(env, 1, n);
    if (!text)
        return NULL;
    char *at = text + sprintf(text, "%s", head);
    for (size_t i = 0; i < plain; i++) {
        unsigned char c = (unsigned char)path[i];
        at += sprintf(at, is_plain(c) ? "%c" : "%%%02X", c);
    }
    sprintf(at, "%s", tail);
    char *uri = pnx__strdup(env, text);
    pnx__free(env, text, 1, n);
    return uri;
}

static void destroy(struct pnx_sqlite *source) {
    const struct pnx_env env = source->env;
    pnx__strfree(&env, source->name);
    pnx__strfree(&env, source->path);
    pnx__strfree(&env, source->uri);
    pnx__free(&env, source, 1, sizeof(*source));
}

void pnx__sqlite_unref(struct pnx_sqlite *source) {
    /* acq_rel: pairs with itself; the last one sees all that the others did before theirs. */
    if (pnx_fetch_sub(&source->refs, 1, PNX_ACQ_REL, "sqlite.unref") == 1)
        destroy(source);
}

void pnx__sqlite_count(struct pnx_sqlite *source, enum pnx_sqlite_stat stat, uint64_t n) {
    /* relaxed: a number for people, it orders nothing. */
    pnx_fetch_add(&source->stats[stat], n, PNX_RELAXED, "sqlite.count");
}

/* The registry's shutdown: connections are the pool's to close; what remains is to open no new ones. */
static int on_shutdown(void *arg, const struct pnx_cancel *cancel) {
    (void)cancel;
    struct pnx_sqlite *source = arg;
    /* relaxed: a connect that began before is as good as one that began later. */
    pnx_store(&source->shut, 1, PNX_RELAXED, "sqlite.shut");
    return 0;
}

static int check_path(const char *path, struct pnx_error *err) {
    if (path[0] == '\0')
        return pnx__fail_field(err, -EINVAL, "path", "sqlite: path is empty");
    if (strcmp(path, ":memory:") == 0)
        return pnx__fail_field(err, -EINVAL, "path",
                "sqlite: path is \":memory:\"; each connection would have a database of its own");
    return 0;
}

/* Copies what the options say into a new source. */
static int fill(struct pnx_sqlite *source, const struct pnx_sqlite_opts *opts) {
    source->flags = opts->flags;
    if (source->flags & PNX_SQLITE_IMMUTABLE)
        source->flags |= PNX_SQLITE_READ_ONLY;
    source->registry = opts->registry ? opts->registry : pnx_registry_default();
    source->setup = opts->setup;
    source->setup_ctx = opts->setup_ctx;
    source->busy_ns = opts->busy_ns;
    source->cache_bytes = opts->cache_bytes;
    source->mmap_bytes = opts->mmap_bytes;
    source->statements = opts->statements;
    source->refs.v = 1; /* not shared yet */
    source->name = pnx__strdup(&source->env, opts->name ? opts->name : "sqlite");
    source->path = pnx__strdup(&source->env, opts->path);
    source->uri = make_uri(&source->env, opts->path, source->flags);
    return source->name && source->path && source->uri ? 0 : -ENOMEM;
}

int pnx_sqlite_create(
        const struct pnx_sqlite_opts *user, struct pnx_error *err, struct pnx_sqlite **ret_source) {
    if (!ret_source)
        return pnx__fail(err, -EINVAL, 0, "options", "sqlite: ret_source is NULL");
    struct pnx_sqlite_opts opts;
    int rc = pnx__opts_resolve(&table, user, &opts, err);
    if (!rc)
        rc = check_path(opts.path, err);
    struct pnx_env env;
    if (!rc)
        rc = pnx__env_resolve(opts.env, err, &env);
    if (rc)
        return rc;
    if (!sqlite3_threadsafe())
        return pnx__fail(err, -ENOTSUP, 0, "options", "sqlite: SQLite was built without threads");

    struct pnx_sqlite *source = pnx__alloc(&env, 1, sizeof(*source));
    if (!source)
        return pnx__fail(err, -ENOMEM, 0, "options", "sqlite: no memory for a source");
    source->env = env;
    rc = fill(source, &opts);
    if (rc) {
        pnx__fail(err, rc, 0, "options", "sqlite: no memory for a source");
        goto fail;
    }
    struct pnx_resource row = {
            .size = sizeof(row),
            .type = "sqlite source",
            .name = source->name,
            .site = opts.site,
            .cleanup = on_shutdown,
            .arg = source,
            .bytes = sizeof(*source),
            .flags = PNX_RESOURCE_LONG_LIVED,
    };
    rc = pnx_registry_add(source->registry, &row, err, &source->row);
    if (rc)
        goto fail;
    *ret_source = source;
    return 0;

fail:
    destroy(source);
    return rc;
}

void pnx_sqlite_release(struct pnx_sqlite **source) {
    if (!source || !*source)
        return;
    struct pnx_sqlite *gone = *source;
    *source = NULL;
    /* -EALREADY after a shutdown is fine: the row is gone either way. */
    (void)pnx_registry_remove(gone->registry, gone->row);
    pnx__sqlite_unref(gone);
}

size_t pnx_sqlite_connection_bytes(const struct pnx_sqlite *source) {
    return source->cache_bytes + CONNECTION_BYTES;
}

int pnx_sqlite_read_stats(struct pnx_sqlite *source, struct pnx_sqlite_stats *ret_stats) {
    if (!source || !ret_stats || ret_stats->size < sizeof(size_t))
        return -EINVAL;
    struct pnx_sqlite_stats all = {.size = ret_stats->size};
    /* relaxed: see pnx__sqlite_count(). */
#define PNX_STAT(name, kind, unit, level, help) \
    all.name = pnx_load(&source->stats[PNX_SQLITE_STAT_##name], PNX_RELAXED, "sqlite.read." #name);
#include <patinox/stats/sqlite.def>
#undef PNX_STAT
    memcpy(ret_stats, &all, ret_stats->size < sizeof(all) ? ret_stats->size : sizeof(all));
    return 0;
}
