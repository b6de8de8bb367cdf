/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cache/file_write.c - a snapshot of a cache on disk: pnx_cache_save().
 *
 *     collect which slots, sort, coldest first --> for each that is still there: pin, write --> end, fsync, rename
 *
 *   P1  An entry is named by shard, slot and the number under which it was stored, which no other entry has: collecting pins
 *       nothing, and what has gone since is left out.  (One of fixed sizes is named by the hash of its key, and written as it is by then.)
 *   P2  The file has its name only when all of it is on disk; whatever fails, the file of that name before is as it was.
 *   P3  No lock is held while something is written, or a function of the user's runs.
 */
#include "cache/file.h"

#include "base/error.h"
#include "base/options.h"
#include "cache/expiry.h"
#include "cache/load.h"
#include "os/file.h"

#include <assert.h>
#include <stdio.h>

static_assert(sizeof(struct pnx_cache_file_head) == 40, "the format of version 1");
static_assert(sizeof(struct pnx_cache_file_block) == 32, "the format of version 1");
static_assert(sizeof(struct pnx_cache_file_record) == 24, "the format of version 1");

/* ---- options and reports, of loads too ---- */

static_assert(sizeof(struct pnx_cache_file_opts) == 5 * sizeof(void *), "no padding");

int pnx__cache_file_opts(const struct pnx_cache_file_opts *opts, struct pnx_error *err,
        struct pnx_cache_file_opts *ret_opts) {
    struct pnx_cache_file_opts known = {.size = sizeof(known)};
    if (opts) {
        int rc = pnx__opts_copy("cache file", sizeof(known), opts, &known, err);
        if (rc)
            return rc;
    }
    if (!known.label)
        known.label = "";
    if (strlen(known.label) > PNX_CACHE_LABEL_MAX)
        return pnx__fail_field(err, -EINVAL, "label",
                "cache: a label of %zu characters; %d are the limit", strlen(known.label),
                PNX_CACHE_LABEL_MAX);
    *ret_opts = known;
    return 0;
}

int pnx__cache_file_report(
        const struct pnx_cache_file_report *report, struct pnx_cache_file_report *ret_report) {
    if (!ret_report)
        return 0;
    size_t n = ret_report->size < sizeof(*report) ? ret_report->size : sizeof(*report);
    if (n > sizeof(report->size))
        memcpy((char *)ret_report + sizeof(report->size),
                (const char *)report + sizeof(report->size), n - sizeof(report->size));
    return 0;
}

/* ---- bytes on their way ---- */

struct pnx_cache_sink {
    const struct pnx_env *env;
    unsigned char *data;
    size_t used;
    size_t room;
};

int pnx_cache_sink_write(struct pnx_cache_sink *sink, const void *data, size_t size) {
    if (!sink || (!data && size > 0))
        return -EINVAL;
    if (size > sink->room - sink->used) {
        size_t room = sink->room ? sink->room : PNX_CACHE_FILE_TARGET;
        while (room - sink->used < size) {
            if (room > SIZE_MAX / 2)
                return -ENOMEM;
            room *= 2;
        }
        /* Not pnx__alloc: there is no point in clearing what is written at once. */
        unsigned char *more = sink->env->alloc(sink->env->ctx, room, 16);
        if (!more)
            return -ENOMEM;
        if (sink->used > 0)
            memcpy(more, sink->data, sink->used);
        pnx__free(sink->env, sink->data, sink->room, 1);
        sink->data = more;
        sink->room = room;
    }
    if (size > 0)
        memcpy(sink->data + sink->used, data, size);
    sink->used += size;
    return 0;
}

/* ---- which entries, and in what order ---- */

static int compare_picks(const void *a, const void *b) {
    const struct pnx_cache_pick *x = a, *y = b;
    if (x->heat != y->heat)
        return x->heat < y->heat ? -1 : 1;
    if (x->seq != y->seq)
        return x->seq < y->seq ? -1 : 1;
    return x->shard < y->shard ? -1 : x->shard > y->shard;
}

static bool is_worth_it(const struct pnx_cache *cache, const struct pnx_cache_entry *entry) {
    return entry && !(entry->flags & PNX_CACHE_ENTRY_NEGATIVE) &&
           entry->epoch == pnx__cache_epoch(cache);
}

int pnx__cache_picks_grow(struct pnx_cache_picks *picks) {
    size_t room = picks->room + picks->room / 2 + 64;
    if (picks->n < picks->room)
        return 0;
    struct pnx_cache_pick *more = pnx__alloc(picks->env, room, sizeof(*more));
    if (!more)
        return -ENOMEM;
    if (picks->n > 0)
        memcpy(more, picks->pick, picks->n * sizeof(*more));
    pnx__free(picks->env, picks->pick, picks->room, sizeof(*more));
    picks->pick = more;
    picks->room = room;
    return 0;
}

/* Notes the shard's entries, a batch under the lock at a time. */
static int collect_shard(struct pnx_cache *cache, uint32_t number, struct pnx_cache_picks *picks) {
    struct pnx_cache_shard *shard = &cache->shards[number];
    int rc = 0;
    for (uint32_t at = 0, end = UINT32_MAX; rc == 0 && at < end;) {
        rc = pnx__cache_picks_grow(picks);
        pnx__mutex_lock(&shard->lock);
        end = shard->used;
        for (uint32_t i = 0; i < 4 * PNX_CACHE_BATCH && at < end && picks->n < picks->room;
                i++, at++) {
            const struct pnx_cache_entry *entry = pnx__cache_entry_of(shard, at);
            if (!is_worth_it(cache, entry))
                continue;
            /* Relaxed: a number. */
            uint64_t hits = pnx_load(
                    &pnx__cache_record(shard->own_table, at)->hits, PNX_RELAXED, "cache_file.hits");
            uint32_t age = shard->uses - entry->u.in.used; /* right when the clock goes round */
            picks->pick[picks->n++] =
                    (struct pnx_cache_pick){.heat = hits << 32 | (UINT32_MAX - age),
                            .seq = entry->u.in.seq,
                            .slot = at,
                            .shard = number};
        }
        pnx__mutex_unlock(&shard->lock);
    }
    return rc;
}

/* Pins what was picked, if it is still there; *ret_weight: 0 where there is no weigher. */
static struct pnx_cache_entry *pin_picked(
        struct pnx_cache *cache, const struct pnx_cache_pick *pick, uint64_t *ret_weight) {
    struct pnx_cache_shard *shard = &cache->shards[pick->shard];
    struct pnx_cache_entry *entry = NULL;
    pnx__mutex_lock(&shard->lock);
    if (pick->slot < shard->used)
        entry = pnx__cache_entry_of(shard, pick->slot);
    if (!is_worth_it(cache, entry) || entry->u.in.seq != pick->seq)
        entry = NULL;
    if (entry)
        pnx__cache_pin(entry, 1);
    *ret_weight =
            entry && cache->weigher ? pnx__cache_record(shard->own_table, pick->slot)->weight : 0;
    pnx__mutex_unlock(&shard->lock);
    return entry;
}

/* ---- writing ---- */

struct save {
    struct pnx_cache *cache;
    const char *path;
    const struct pnx_cache_file_opts *opts;
    struct pnx_error *err;
    struct pnx_cache_file_report report;
    struct pnx_cache_sink sink;
    int fd;
    uint64_t id;
    uint64_t chain;
    uint32_t index; /* of the next block */
    uint32_t count; /* records in sink */
};

static int fail_save(struct save *save, int rc, const char *what) {
    return pnx__fail(save->err, rc, rc, "save", "cache \"%.64s\": %s: %s: %s", save->cache->name,
            save->path, what, pnx_strerror(rc));
}

static int write_out(struct save *save, const void *data, size_t n) {
    int rc = pnx__os_write_full(save->fd, data, n);
    if (rc)
        return fail_save(save, rc, "writing");
    save->report.file_bytes += n;
    return 0;
}

static int write_head(struct save *save) {
    unsigned char bytes[sizeof(struct pnx_cache_file_head) + PNX_CACHE_LABEL_MAX + 8];
    const struct pnx_env *env = &save->cache->env;
    size_t label = strlen(save->opts->label);
    struct pnx_cache_file_head head = {
            .magic = PNX_CACHE_FILE_MAGIC,
            .order = PNX_CACHE_FILE_ORDER,
            .version = PNX_CACHE_FILE_VERSION,
            .saved_ns = env->real_ns(env->ctx),
            .id = save->id,
            .label_size = (uint32_t)label,
    };
    size_t n = sizeof(head) + label;
    memcpy(bytes, &head, sizeof(head));
    memcpy(bytes + sizeof(head), save->opts->label, label);
    uint64_t checksum = pnx__hash(save->id, bytes, n);
    memcpy(bytes + n, &checksum, sizeof(checksum));
    return write_out(save, bytes, n + sizeof(checksum));
}

static int write_block(struct save *save) {
    if (save->count == 0)
        return 0;
    struct pnx_cache_file_block block = {
            .magic = PNX_CACHE_FILE_BLOCK,
            .count = save->count,
            .bytes = save->sink.used,
            .checksum = pnx__hash(save->id + save->index, save->sink.data, save->sink.used),
    };
    block.head_checksum = pnx__cache_file_check_head(&block, save->id, save->index);
    save->chain = pnx__cache_file_chain(save->chain, block.checksum);
    save->index++;
    int rc = write_out(save, &block, sizeof(block));
    if (rc == 0)
        rc = write_out(save, save->sink.data, save->sink.used);
    save->sink.used = 0;
    save->count = 0;
    return rc;
}

static int write_end(struct save *save) {
    struct pnx_cache_file_block end = {
            .magic = PNX_CACHE_FILE_END,
            .bytes = save->report.entries,
            .checksum = save->chain,
    };
    end.head_checksum = pnx__cache_file_check_head(&end, save->id, save->index);
    return write_out(save, &end, sizeof(end));
}

/* The user's function, which may leave the entry out: -ENOENT. */
static int write_pointer(struct save *save, const struct pnx_cache_entry *entry) {
    if (!save->opts->serialize)
        return -ENOENT;
    const struct pnx_cache_ref ref = {
            .entry = (struct pnx_cache_entry *)(uintptr_t)entry, .source = PNX_CACHE_FOUND};
    PNX_CACHE_CALLING(returned);
    pnx__mutex_assert_none_held();
    int rc = save->opts->serialize(save->opts->ctx, &ref, &save->sink);
    returned = true;
    return rc > 0 ? -EINVAL : rc;
}

/* In how many nanoseconds the entry is to be refreshed, 0: it is due; less: never. */
static int64_t refresh_of(const struct pnx_cache_entry *entry, pnx_ns now) {
    if (!(entry->flags & PNX_CACHE_ENTRY_TIMED))
        return -1;
    /* Relaxed: a time. */
    uint64_t word = pnx_load(&pnx__cache_entry_times(entry)->soft, PNX_RELAXED, "cache_file.soft");
    if (word == PNX_CACHE_SOFT_NEVER)
        return -1;
    pnx_ns at = (pnx_ns)(word & ~PNX_CACHE_SOFT_BITS);
    /* What somebody was refreshing, or has failed to, will be by whoever loads it. */
    return (word & PNX_CACHE_SOFT_BITS) || at <= now ? 0 : at - now;
}

static int write_record(struct save *save, const struct pnx_cache_entry *entry, uint32_t hits,
        uint64_t weight, pnx_ns now) {
    bool pointer = entry->flags & PNX_CACHE_ENTRY_POINTER;
    size_t begin = save->sink.used;
    struct pnx_cache_file_record record = {
            .value_size = entry->value_size,
            .ttl = entry->expires == PNX_NEVER ? PNX_NEVER : entry->expires - now,
            .key_size = entry->key_size,
            .flags = (uint16_t)((pointer ? PNX_CACHE_FILE_SERIALIZED : 0) |
                                (weight ? PNX_CACHE_FILE_WEIGHED : 0)),
            .hits = (uint16_t)(hits < PNX_CACHE_FILE_HITS ? hits : PNX_CACHE_FILE_HITS),
    };
    int64_t refresh = refresh_of(entry, now);
    if (refresh >= 0)
        record.flags |= PNX_CACHE_FILE_REFRESHED;
    if (record.ttl <= 0 || pnx__cache_hard(save->cache, entry) <= now) {
        save->report.expired++;
        return 0;
    }
    int rc = pnx_cache_sink_write(&save->sink, &record, sizeof(record));
    if (rc == 0 && weight)
        rc = pnx_cache_sink_write(&save->sink, &weight, sizeof(weight));
    if (rc == 0 && refresh >= 0)
        rc = pnx_cache_sink_write(&save->sink, &refresh, sizeof(refresh));
    if (rc == 0)
        rc = pnx_cache_sink_write(&save->sink, pnx__cache_entry_key(entry), entry->key_size);
    size_t value = save->sink.used;
    if (rc == 0 && !pointer)
        rc = pnx_cache_sink_write(&save->sink, entry + 1, entry->value_size);
    else if (rc == 0)
        rc = write_pointer(save, entry);
    if (rc) {
        save->sink.used = begin;
        if (pointer && rc == -ENOENT) {
            save->report.left_out++;
            return 0;
        }
        return fail_save(save, rc, rc == -ENOMEM ? "a block" : "serialize");
    }
    record.value_size = save->sink.used - value;
    memcpy(save->sink.data + begin, &record, sizeof(record));
    save->report.entries++;
    save->count++;
    return save->sink.used >= PNX_CACHE_FILE_TARGET ? write_block(save) : 0;
}

static bool needs_clock(const struct pnx_cache *cache, const struct pnx_cache_entry *entry) {
    return (entry->flags & PNX_CACHE_ENTRY_TIMED) || pnx__cache_hard(cache, entry) != PNX_NEVER;
}

/* The record of fixed sizes. */
static int write_fixed(struct save *save, const struct pnx_cache_pick *pick) {
    const struct pnx_cache_shape *shape = &save->cache->shape;
    unsigned char bytes[PNX_CACHE_KEY_BYTES + PNX_CACHE_VALUE_BYTES];
    struct pnx_cache_file_record record;
    if (!pnx__cache_fixed_fetch(save->cache, pick, &record, bytes))
        return 0;
    if (record.ttl <= 0) {
        save->report.expired++;
        return 0;
    }
    size_t begin = save->sink.used;
    int rc = pnx_cache_sink_write(&save->sink, &record, sizeof(record));
    if (rc == 0)
        rc = pnx_cache_sink_write(
                &save->sink, bytes, (size_t)shape->key_bytes + shape->value_bytes);
    if (rc) {
        save->sink.used = begin;
        return fail_save(save, rc, "a block");
    }
    save->report.entries++;
    save->count++;
    return save->sink.used >= PNX_CACHE_FILE_TARGET ? write_block(save) : 0;
}

static int write_picked(struct save *save, const struct pnx_cache_pick *picks, size_t n) {
    const struct pnx_env *env = &save->cache->env;
    int rc = 0;
    bool fixed = pnx__cache_is_fixed(save->cache);
    for (size_t i = 0; rc == 0 && i < n; i++) {
        if (fixed) {
            rc = write_fixed(save, &picks[i]);
            continue;
        }
        uint64_t weight = 0;
        struct pnx_cache_ref ref = {.entry = pin_picked(save->cache, &picks[i], &weight)};
        if (ref.entry)
            rc = write_record(save, ref.entry, (uint32_t)(picks[i].heat >> 32), weight,
                    needs_clock(save->cache, ref.entry) ? pnx__now(env) : 0);
        pnx_cache_ref_release(&ref);
    }
    return rc;
}

/* ---- the file ---- */

static int sync_directory(struct save *save) {
    const char *slash = strrchr(save->path, '/');
    char *folder = pnx__strdup(&save->cache->env, slash ? save->path : ".");
    if (!folder)
        return fail_save(save, -ENOMEM, "its directory");
    if (slash)
        folder[slash == save->path ? 1 : slash - save->path] = '\0';
    int rc = pnx__os_fsync_dir(folder);
    if (slash) /* as long as it was made */
        memcpy(folder, save->path, strlen(save->path) + 1);
    pnx__strfree(&save->cache->env, folder);
    return rc ? fail_save(save, rc, "its directory") : 0;
}

/* Writes all to the open file, and closes it. */
static int write_file(struct save *save, const struct pnx_cache_pick *picks, size_t n) {
    int rc = write_head(save);
    if (rc == 0)
        rc = write_picked(save, picks, n);
    if (rc == 0)
        rc = write_block(save);
    if (rc == 0)
        rc = write_end(save);
    if (rc == 0 && (rc = pnx__os_fsync(save->fd)) != 0)
        rc = fail_save(save, rc, "making it safe");
    int closed = pnx__os_close(&save->fd);
    return rc == 0 && closed ? fail_save(save, closed, "closing") : rc;
}

static int write_beside(
        struct save *save, char *name, size_t room, const struct pnx_cache_pick *picks, size_t n) {
    snprintf(name, room, "%s.%016llx.tmp", save->path, (unsigned long long)save->id);
    save->fd = pnx__os_open(name, O_WRONLY | O_CREAT | O_EXCL, 0600);
    if (save->fd < 0)
        return fail_save(save, save->fd, "making a file beside it");
    int rc = write_file(save, picks, n);
    if (rc == 0 && (rc = pnx__os_rename(name, save->path)) != 0)
        rc = fail_save(save, rc, "naming it");
    if (rc) {
        (void)pnx__os_unlink(name);
        return rc;
    }
    return sync_directory(save);
}

static int save_picked(struct save *save, const struct pnx_cache_pick *picks, size_t n) {
    const struct pnx_env *env = &save->cache->env;
    size_t room = strlen(save->path) + sizeof(".0123456789abcdef.tmp");
    char *name = pnx__alloc(env, room, 1);
    if (!name)
        return fail_save(save, -ENOMEM, "its name");
    int rc = write_beside(save, name, room, picks, n);
    pnx__free(env, name, room, 1);
    pnx__free(env, save->sink.data, save->sink.room, 1);
    return rc;
}

static int save_all(struct save *save) {
    struct pnx_cache *cache = save->cache;
    /* Relaxed: about as many as there will be. */
    size_t room = (size_t)pnx_load(&cache->used_entries, PNX_RELAXED, "cache_file.entries") + 1;
    struct pnx_cache_picks picks = {.env = &cache->env,
            .pick = pnx__alloc(&cache->env, room, sizeof(struct pnx_cache_pick)),
            .room = room};
    int rc = picks.pick ? 0 : -ENOMEM;
    for (uint32_t i = 0; rc == 0 && i < cache->n_shards; i++)
        rc = pnx__cache_is_fixed(cache) ? pnx__cache_fixed_collect(cache, i, &picks)
                                        : collect_shard(cache, i, &picks);
    if (rc) {
        rc = fail_save(save, rc, "the order of its entries");
    } else {
        qsort(picks.pick, picks.n, sizeof(*picks.pick), compare_picks);
        rc = save_picked(save, picks.pick, picks.n);
    }
    pnx__free(&cache->env, picks.pick, picks.room, sizeof(*picks.pick));
    return rc;
}

int pnx_cache_save(struct pnx_cache *cache, const char *path,
        const struct pnx_cache_file_opts *opts, struct pnx_error *err,
        struct pnx_cache_file_report *ret_report) {
    struct pnx_cache_file_opts known;
    if (!path || !*path || !cache)
        return pnx__fail_field(err, -EINVAL, NULL, "cache: cache and path are required");
    int rc = pnx__cache_enter(cache);
    if (rc)
        return pnx__fail(err, rc, 0, "save", "cache: made by the parent process");
    rc = pnx__cache_file_opts(opts, err, &known);
    if (rc)
        return rc;
    if (pnx__cache_is_closed(cache))
        return pnx__fail(err, -ESHUTDOWN, 0, "save", "cache \"%.64s\" is closed", cache->name);
    struct save save = {
            .cache = cache,
            .path = path,
            .opts = &known,
            .err = err,
            .sink.env = &cache->env,
            .fd = -1,
            .id = cache->env.random(cache->env.ctx),
    };
    rc = save_all(&save);
    pnx__event(&cache->block, PNX_EVENT_CACHE_SAVED, cache->name, rc, NULL,
            (int64_t)save.report.entries, pnx__now(&cache->env));
    return rc ? rc : pnx__cache_file_report(&save.report, ret_report);
}
