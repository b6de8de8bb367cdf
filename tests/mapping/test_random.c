/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Random sequences of open, view, store, resize, flush, advise, lock, populate, close and release against a model: a file
 * as an array of bytes, and what each mapping must show of it.  And random arguments for views and records.
 *
 * SEED repeats a run; PNX_MAPPING_SEQUENCE=n begins with the nth sequence, each of which has a seed of its own.
 */
#include "mapping/help_file.h"

#define MOST  150000u /* bytes that a file may have */
#define COUNT 3       /* mappings at a time */
#define LIVE  4       /* views of each */
#define PAGE  4096u

/* What a mapping should be. */
struct expected {
    struct pnx_mapping *mapping;
    enum pnx_mapping_mode mode;
    bool anonymous;
    bool copy; /* does not see what becomes of the file */
    bool resizable;
    bool closed;
    bool locked;
    uint64_t offset;
    uint64_t reserve;
    size_t n;
    unsigned char *own; /* MOST bytes: a copy's, a private or an anonymous mapping's content */
    /* A private mapping that is no copy shows the file's pages until it stores to them; own has those that it has. */
    bool dirty[MOST / PAGE + 2];
    struct pnx_view views[LIVE];
    unsigned live;
};

static unsigned char file[MOST]; /* its content, zero beyond the end */
static size_t file_n;
static struct expected all[COUNT];
static struct pnx_budget *account;
static uint64_t state;

static uint64_t below(uint64_t n) {
    return n ? test_random(&state) % n : 0;
}

/* A length that is often near an edge. */
static size_t edgy(size_t most) {
    static const size_t edges[] = {0, 1, PAGE - 1, PAGE, PAGE + 1, 16384, 16385, 3 * PAGE};
    size_t n = below(3) ? below(most + 1) : edges[below(8)] + below(3);
    return n < most ? n : most;
}

static bool shows_file(const struct expected *e, size_t at) {
    if (!e->own)
        return true;
    return !e->anonymous && !e->copy && !e->dirty[(e->offset + at) / PAGE - e->offset / PAGE];
}

/* Compares n bytes at an offset of the mapping, page by page. */
static bool same(const struct expected *e, const unsigned char *p, size_t at, size_t n) {
    while (n) {
        size_t part = PAGE - (e->offset + at) % PAGE;
        part = part < n ? part : n;
        const unsigned char *want = shows_file(e, at) ? file + e->offset + at : e->own + at;
        if (memcmp(p, want, part) != 0)
            return false;
        p += part, at += part, n -= part;
    }
    return true;
}

/* The mapping gets pages of its own for n bytes at an offset, as they are in the file now. */
static void own_pages(struct expected *e, size_t at, size_t n) {
    if (!n || e->anonymous || e->copy)
        return;
    for (uint64_t page = (e->offset + at) / PAGE; page <= (e->offset + at + n - 1) / PAGE; page++) {
        bool *dirty = &e->dirty[page - e->offset / PAGE];
        for (uint64_t k = page * PAGE; !*dirty && k < (page + 1) * PAGE; k++)
            if (k >= e->offset && k < MOST)
                e->own[k - e->offset] = file[k];
        *dirty = true;
    }
}

static void check_mapping(struct expected *e) {
    CHECK_EQ(pnx_mapping_size(e->mapping), e->n);
    struct pnx_mapping_info info = info_of(e->mapping);
    CHECK_EQ(info.views, e->resizable ? e->live : 0);
    CHECK_EQ(info.length, e->n);
    if (e->resizable && e->n)
        CHECK(info.reserve >= e->n);
    CHECK_EQ(info.locked != 0, e->locked && e->n);
    if (e->closed)
        return;
    PNX_AUTO_VIEW view = pnx_view_all(e->mapping);
    CHECK_EQ(view.n, e->n);
    CHECK(same(e, view.p, 0, e->n));
    if (e->n) {
        unsigned char out[64];
        size_t at = below(e->n), n = below(64) < e->n - at ? below(64) % (e->n - at) : e->n - at;
        n = n < 64 ? n : 64;
        CHECK_EQ(pnx_mapping_copy_out(e->mapping, at, out, n), 0);
        CHECK(same(e, out, at, n));
    }
}

static void check_all(const char *path) {
    CHECK_EQ(size_of(path), file_n);
    for (unsigned i = 0; i < COUNT; i++)
        if (all[i].mapping)
            check_mapping(&all[i]);
}

static void drop(struct expected *e) {
    for (unsigned i = 0; i < e->live; i++)
        pnx_view_release(&e->views[i]);
    pnx_mapping_release(&e->mapping);
    free(e->own);
    *e = (struct expected){0};
}

/* What a mapping that is not shared with the file has of its own. */
static void keep_content(struct expected *e) {
    e->own = calloc(1, MOST);
    CHECK(e->own);
    if (!e->anonymous)
        memcpy(e->own, file + e->offset, e->n);
}

static void do_open(struct expected *e, const char *path) {
    struct pnx_mapping_opts opts = *PNX_MAPPING_OPTS(.budget = account);
    struct pnx_error err = {0};
    e->mode = (enum pnx_mapping_mode)below(3);
    e->anonymous = below(6) == 0;
    e->resizable = below(2);
    opts.mode = e->mode;
    opts.flags = e->resizable ? PNX_MAPPING_RESIZABLE : 0;
    if (e->resizable && below(2))
        opts.reserve = e->reserve = 1 + below(2 * MOST);
    if (below(8) == 0)
        opts.flags |= PNX_MAPPING_POPULATE;
    int rc;
    if (e->anonymous) {
        e->mode = PNX_MAPPING_PRIVATE;
        opts.mode = 0;
        opts.length = e->n = 1 + edgy(MOST - 1);
        rc = pnx_mapping_open_anonymous(&opts, &err, &e->mapping);
    } else {
        if (e->mode != PNX_MAPPING_WRITE && below(3) == 0)
            opts.flags |= PNX_MAPPING_COPY;
        if (e->mode != PNX_MAPPING_WRITE && below(4) == 0)
            opts.flags |= opts.flags & PNX_MAPPING_COPY ? 0 : PNX_MAPPING_NO_COPY;
        opts.offset = e->offset = below(2) ? edgy(file_n) : 0;
        uint64_t there = file_n - e->offset;
        opts.length = below(2) ? 1 + edgy(MOST - 1 - e->offset) : 0;
        bool extend = e->mode == PNX_MAPPING_WRITE && opts.length && below(2);
        if (extend)
            opts.flags |= PNX_MAPPING_EXTEND | (below(2) ? PNX_MAPPING_SPARSE : 0);
        rc = pnx_mapping_open(path, &opts, &err, &e->mapping);
        if (!extend && opts.length > there) {
            CHECK_EQ(rc, -ERANGE);
            *e = (struct expected){0};
            return;
        }
        e->n = opts.length ? opts.length : there;
        if (extend && e->offset + e->n > file_n)
            file_n = e->offset + e->n;
    }
    CHECK_MSG(rc == 0, "%s: %s", pnx_errname(rc), err.message);
    e->copy = pnx_mapping_backing(e->mapping) == PNX_BACKING_COPY;
    if (e->anonymous || e->mode == PNX_MAPPING_PRIVATE || e->copy)
        keep_content(e);
    if ((opts.flags & PNX_MAPPING_POPULATE) && e->mode == PNX_MAPPING_PRIVATE)
        own_pages(e, 0, e->n);
}

static void do_store(struct expected *e) {
    size_t offset = edgy(MOST), n = 1 + below(200);
    unsigned char bytes[200];
    for (size_t i = 0; i < n; i++)
        bytes[i] = (unsigned char)test_random(&state);
    struct pnx_view view;
    int rc = pnx_view_get(e->mapping, offset, n, &view);
    if (e->closed || offset + n > e->n) {
        CHECK_EQ(rc, e->closed ? -ESHUTDOWN : -ERANGE);
        return;
    }
    CHECK_EQ(rc, 0);
    void *to = pnx_view_at_mut(&view, 0, n, 1);
    CHECK_EQ(to != NULL, e->mode != PNX_MAPPING_READ);
    if (to) {
        memcpy(to, bytes, n);
        if (e->own)
            own_pages(e, offset, n);
        memcpy(e->own ? e->own + offset : file + e->offset + offset, bytes, n);
    }
    pnx_view_release(&view);
}

/* Takes a view, or ends one. */
static void do_view(struct expected *e) {
    if (e->live && below(2)) {
        unsigned i = (unsigned)below(e->live);
        pnx_view_release(&e->views[i]);
        e->views[i] = e->views[--e->live];
        return;
    }
    if (e->live == LIVE || e->closed)
        return;
    size_t offset = edgy(e->n), n = edgy(e->n - offset);
    CHECK_EQ(pnx_view_get(e->mapping, offset, n, &e->views[e->live]), 0);
    e->live++;
}

/* What others must be able to see when one of them cuts or lengthens the file: those that share it need whole bytes. */
static bool others_reach(const struct expected *but, uint64_t end) {
    for (unsigned i = 0; i < COUNT; i++)
        if (&all[i] != but && all[i].mapping && !all[i].anonymous && !all[i].copy &&
                all[i].offset + all[i].n > end)
            return true;
    return false;
}

static void do_resize(struct expected *e) {
    uint64_t length = edgy(MOST - e->offset);
    uint32_t flags = 0;
    bool to_file = !e->anonymous && below(5) == 0;
    if (e->mode == PNX_MAPPING_WRITE && !others_reach(e, e->offset + (to_file ? 0 : length)) &&
            below(2))
        flags |= PNX_RESIZE_TRUNCATE;
    if (below(2))
        flags |= PNX_RESIZE_SPARSE;
    if (to_file)
        length = file_n > e->offset ? file_n - e->offset : 0;
    struct pnx_error err = {0};
    uint32_t epoch = info_of(e->mapping).epoch;
    uint64_t reserve = info_of(e->mapping).reserve;
    int rc = pnx_mapping_resize(e->mapping, to_file ? PNX_RESIZE_TO_FILE : length, flags, &err);
    if (e->closed) {
        CHECK_EQ(rc, -ESHUTDOWN);
    } else if (!e->resizable) {
        CHECK_EQ(rc, -ENOTSUP);
    } else if (!e->anonymous && e->mode != PNX_MAPPING_WRITE && e->offset + length > file_n &&
               file_n > 0) {
        CHECK_EQ(rc, -ERANGE);
    } else if (rc == -EBUSY) {
        CHECK(e->live > 0 && e->n > 0);
        CHECK_CONTAINS(err.message, "live view");
        CHECK(length < e->n || length > reserve || e->copy || length == 0);
    } else if (rc == -ERANGE) {
        CHECK(!e->anonymous && e->mode != PNX_MAPPING_WRITE && file_n == 0); /* nothing to read */
    } else {
        CHECK_MSG(rc == 0, "%s: %s", pnx_errname(rc), err.message);
        bool copy = pnx_mapping_backing(e->mapping) == PNX_BACKING_COPY;
        bool kept = e->own && (e->anonymous || e->mode == PNX_MAPPING_PRIVATE);
        if (kept && length > e->n) {
            if (e->anonymous)
                memset(e->own + e->n, 0, length - e->n);
            else if (copy) /* pages have the rest already, be it the file's or their own */
                memcpy(e->own + e->n, file + e->offset + e->n, length - e->n);
        }
        if (info_of(e->mapping).epoch != epoch)
            CHECK(e->live == 0 || e->n == 0);
        if (e->mode == PNX_MAPPING_WRITE && e->offset + length > file_n)
            file_n = e->offset + length;
        if ((flags & PNX_RESIZE_TRUNCATE) && e->offset + length < file_n) {
            memset(file + e->offset + length, 0, file_n - e->offset - length);
            file_n = e->offset + length;
        }
        bool emptied = e->n == 0 || length == 0;
        e->n = length;
        for (size_t page = emptied ? 0 : (e->offset % PAGE + length + PAGE - 1) / PAGE;
                page < MOST / PAGE + 2; page++)
            e->dirty[page] = false; /* given up with what was in it */
        if (!kept) {
            free(e->own);
            e->own = NULL;
            if (copy)
                keep_content(e);
        }
        e->copy = copy;
        if (e->locked && kept)
            own_pages(e, 0, e->n);
    }
}

static void do_else(struct expected *e) {
    size_t offset = edgy(MOST), n = edgy(MOST);
    bool inside = offset <= e->n && n <= e->n - offset;
    int rc;
    switch (below(6)) {
    case 0:
        rc = pnx_mapping_flush(e->mapping, offset, n, (enum pnx_flush)(1 + below(2)));
        CHECK_EQ(rc, e->mode != PNX_MAPPING_WRITE ? -ENOTSUP
                     : e->closed                  ? -ESHUTDOWN
                     : inside                     ? 0
                                                  : -ERANGE);
        break;
    case 1:
        rc = pnx_mapping_advise(e->mapping, offset, n, (enum pnx_mapping_advice)below(6));
        CHECK(e->closed ? rc == -ESHUTDOWN : inside ? rc == 0 || rc == 1 : rc == -ERANGE);
        break;
    case 2:
        rc = pnx_mapping_populate(e->mapping, offset, n, PNX_POPULATE_READ);
        CHECK_EQ(rc, e->closed ? -ESHUTDOWN : inside ? 0 : -ERANGE);
        break;
    case 3:
        if (test_slow() && e->own)
            break; /* a sanitizer answers mlock(), and the pages do not become the mapping's own */
        if (e->locked) {
            pnx_mapping_unlock(e->mapping);
            e->locked = false;
        } else if (e->n && pnx_mapping_lock(e->mapping, NULL) == 0) {
            e->locked = true;
            if (e->own)
                own_pages(e, 0, e->n); /* locking a private page makes it the mapping's own */
        }
        break;
    case 4:
        if (below(10) == 0) {
            pnx_mapping_close(e->mapping);
            e->closed = true;
        }
        break;
    default:
        rc = pnx_mapping_changed(e->mapping);
        CHECK(rc == 0 || rc == -ESTALE || rc == -ENOTSUP);
    }
}

static void step(const char *path) {
    struct expected *e = &all[below(COUNT)];
    if (!e->mapping) {
        do_open(e, path);
        return;
    }
    switch (below(12)) {
    case 0:
        drop(e);
        break;
    case 1:
    case 2:
    case 3:
        do_resize(e);
        break;
    case 4:
    case 5:
        do_view(e);
        break;
    case 6:
    case 7:
    case 8:
        do_store(e);
        break;
    default:
        do_else(e);
    }
}

/* A locked mapping that cannot lock what a resize adds refuses it; a model has no such limit. */
static void run_sequence(uint64_t sequence, unsigned steps) {
    uint64_t mix = test_seed();
    mix = test_random(&mix) + sequence;
    state = test_random(&mix);
    test_seed_part("PNX_MAPPING_SEQUENCE", sequence);
    const char *path = test_path("modelled");
    file_n = 1 + below(MOST - 1);
    memset(file, 0, sizeof(file));
    for (size_t i = 0; i < file_n; i++)
        file[i] = (unsigned char)test_random(&state);
    test_write_file(path, file, file_n);
    account = purse(0);
    for (unsigned i = 0; i < steps; i++) {
        step(path);
        check_all(path);
    }
    for (unsigned i = 0; i < COUNT; i++)
        drop(&all[i]);
    CHECK_EQ(charged(account), 0);
    pnx_budget_release(&account);
    unsigned char *whole = malloc(MOST);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    CHECK(read(fd, whole, MOST) == (ssize_t)file_n);
    CHECK(memcmp(whole, file, file_n) == 0);
    close(fd);
    free(whole);
}

TEST_LIMIT(random_sequences_agree_with_a_model, 120) {
    const char *from = getenv("PNX_MAPPING_SEQUENCE");
    uint64_t first = from ? strtoull(from, NULL, 0) : 0;
    uint64_t sequences = test_long() ? 5000 : test_slow() ? 20 : 100;
    for (uint64_t i = 0; i < sequences; i++)
        run_sequence(first + i, 120);
}

/* ---- arguments ---- */

static uint64_t near_something(uint64_t size) {
    uint64_t near = below(5) - 2;
    switch (below(5)) {
    case 0:
        return near;
    case 1:
        return size + near;
    case 2:
        return ((uint64_t)1 << below(64)) + near;
    case 3:
        return test_random(&state);
    default:
        return below(size + 1);
    }
}

TEST(p1_random_record_arrays_agree_with_exact_arithmetic) {
    state = test_seed();
    _Alignas(64) unsigned char bytes[4096];
    uint64_t rounds = test_long() ? 20000000 : test_slow() ? 30000 : 300000;
    for (uint64_t i = 0; i < rounds; i++) {
        size_t begin = below(64), n = below(4096 - 64);
        struct pnx_view view = {.p = bytes + begin, .n = n};
        uint64_t offset = near_something(n);
        size_t count = (size_t)near_something(n / 8), size = (size_t)near_something(64);
        size_t align = (size_t)(below(4) ? 1u << below(7) : near_something(8));
        struct pnx_records records = {.n = 99};
        int rc = pnx_records_get(&view, offset, count, size, align, &records);
        bool sane = size && align && (align & (align - 1)) == 0 && size % align == 0;
        bool everything = count == PNX_RECORDS_ALL;
        unsigned __int128 end =
                (unsigned __int128)offset + (everything ? 0 : (unsigned __int128)count * size);
        bool inside = end <= n;
        bool aligned = ((uintptr_t)bytes + begin + offset) % (align ? align : 1) == 0;
        CHECK_EQ(rc, !sane ? -EINVAL : !inside ? -ERANGE : !aligned ? PNX_E_FORMAT : 0);
        if (rc) {
            CHECK_EQ(records.n, 99);
            continue;
        }
        CHECK_EQ(records.n, everything ? (n - offset) / size : count);
        uint64_t index = near_something(records.n);
        const unsigned char *at_ = pnx_records_at(&records, (size_t)index);
        CHECK_EQ(at_ != NULL, index < records.n);
        if (at_)
            CHECK(at_ == view.p + offset + index * size && at_ + size <= view.p + n);
    }
}
