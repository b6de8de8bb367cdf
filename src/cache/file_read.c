/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cache/file_read.c - filling a cache from a snapshot on disk: pnx_cache_load_file().
 *
 *     first pass: head, label, every checksum, every size --> second pass: skip what there is no room for, put the rest
 *
 *   P1  What a file says is believed after its checksum only, and sizes are held against what is there: no file makes the
 *       reader look beside its memory, or take more of it than the file is long.
 *   P2  The first pass changes nothing.  The second checks again, in case the file has changed.
 *   P3  Nothing is evicted for what is loaded, but by puts of other threads, and for what turns out larger or heavier than the
 *       file says: then, as a rule, what was loaded first.
 */
#include "cache/file.h"

#include "base/error.h"
#include "os/file.h"

#include <stdarg.h>
#include <stdio.h>

struct load {
    struct pnx_cache *cache;
    const struct pnx_cache_input *source;
    const struct pnx_cache_file_opts *opts;
    struct pnx_error *err;
    struct pnx_cache_file_report *report;
    struct pnx_cache_file_head head;
    int64_t passed; /* nanoseconds since it was saved, by the wall clock */
    bool second;    /* pass */
    uint64_t at;    /* in the source */
    uint32_t index; /* of the next block */
    uint64_t chain;
    uint64_t records;
    unsigned char *block;
    size_t block_room;
    /* Of what is still to come in the second pass, and what there is room for. */
    uint64_t cost, entries, weight;
    uint64_t room_bytes, room_entries, room_weight;
    bool refused; /* by the budget: there is no room for anything more */
};

PNX_PRINTF(3, 4)
static int fail_load(struct load *load, int rc, const char *format, ...) {
    char text[160];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    return pnx__fail(load->err, rc, 0, "load", "cache \"%.64s\": %s: %s%s", load->cache->name,
            load->source->name, text,
            load->second && rc == PNX_E_FORMAT ? "; it has changed while it was read" : "");
}

/* ---- bytes ---- */

/* Reads the next n bytes of the source; what says of what. */
static int take(struct load *load, void *buf, size_t n, const char *what) {
    const struct pnx_cache_input *source = load->source;
    if (n > source->size - load->at)
        return fail_load(load, PNX_E_FORMAT,
                "cut short: %s at byte %llu wants %zu bytes, %llu are left", what,
                (unsigned long long)load->at, n, (unsigned long long)(source->size - load->at));
    if (source->memory) {
        if (n > 0)
            memcpy(buf, source->memory + load->at, n);
    } else {
        int64_t got = pnx__os_pread_full(source->fd, buf, n, load->at);
        if (got < 0)
            return fail_load(load, (int)got, "reading %s at byte %llu: %s", what,
                    (unsigned long long)load->at, pnx_strerror((int)got));
        if ((uint64_t)got < n)
            return fail_load(load, PNX_E_FORMAT, "cut short while it was read, at byte %llu",
                    (unsigned long long)load->at);
    }
    load->at += n;
    return 0;
}

static int take_block(struct load *load, uint64_t bytes) {
    if (bytes > load->source->size - load->at)
        return fail_load(load, PNX_E_FORMAT, "cut short: block %u wants %llu bytes, %llu are left",
                load->index, (unsigned long long)bytes,
                (unsigned long long)(load->source->size - load->at));
    if (bytes > load->block_room) {
        const struct pnx_env *env = &load->cache->env;
        pnx__free(env, load->block, load->block_room, 1);
        load->block_room = 0;
        load->block = bytes > PTRDIFF_MAX ? NULL : env->alloc(env->ctx, (size_t)bytes, 16);
        if (!load->block)
            return fail_load(load, -ENOMEM, "no memory for a block of %llu bytes",
                    (unsigned long long)bytes);
        load->block_room = (size_t)bytes;
    }
    return take(load, load->block, (size_t)bytes, "a block");
}

/* ---- the head ---- */

static int check_head(struct load *load) {
    const struct pnx_cache_file_head *head = &load->head;
    if (memcmp(head->magic, PNX_CACHE_FILE_MAGIC, sizeof(head->magic)) != 0)
        return fail_load(load, PNX_E_FORMAT, "not a snapshot of a cache");
    if (head->order == __builtin_bswap32(PNX_CACHE_FILE_ORDER))
        return fail_load(load, PNX_E_FORMAT, "written on a machine with the other byte order");
    if (head->order != PNX_CACHE_FILE_ORDER)
        return fail_load(load, PNX_E_FORMAT, "the head is damaged");
    if (head->version != PNX_CACHE_FILE_VERSION)
        return fail_load(load, PNX_E_FORMAT, "format version %u; this library reads %u",
                head->version, PNX_CACHE_FILE_VERSION);
    if (head->label_size > PNX_CACHE_LABEL_MAX)
        return fail_load(load, PNX_E_FORMAT, "the head is damaged");
    return 0;
}

static int read_head(struct load *load) {
    unsigned char bytes[sizeof(struct pnx_cache_file_head) + PNX_CACHE_LABEL_MAX];
    const size_t fixed = sizeof(load->head);
    uint64_t checksum = 0;
    load->at = 0;
    int rc = take(load, &load->head, fixed, "the head");
    if (rc == 0)
        rc = check_head(load);
    if (rc)
        return rc;
    size_t label = load->head.label_size;
    memcpy(bytes, &load->head, fixed);
    rc = take(load, bytes + fixed, label, "the label");
    if (rc == 0)
        rc = take(load, &checksum, sizeof(checksum), "the head's checksum");
    if (rc)
        return rc;
    if (checksum != pnx__hash(load->head.id, bytes, fixed + label))
        return fail_load(load, PNX_E_FORMAT, "the head is damaged");
    if (label != strlen(load->opts->label) || memcmp(bytes + fixed, load->opts->label, label) != 0)
        return fail_load(load, -ESTALE, "saved under another label, \"%.*s\"", (int)label,
                (const char *)bytes + fixed);
    return 0;
}

/* ---- records ---- */

/* A record as it was read. */
struct item {
    struct pnx_cache_file_record record;
    uint64_t weight;
    uint64_t refresh; /* of one that is REFRESHED: in how many nanoseconds */
    const unsigned char *key;
    const unsigned char *value;
};

/* What is left of its time to live; 0 and less: it has passed. */
static int64_t left_of(const struct load *load, const struct pnx_cache_file_record *record) {
    if (record->ttl == PNX_NEVER)
        return PNX_NEVER;
    int64_t left = record->ttl - load->passed;
    /* Of fixed sizes, what is left must be more than the tick that it is rounded down to. */
    return pnx__cache_is_fixed(load->cache) && left < PNX_CACHE_FIXED_TTL_MIN ? 0 : left;
}

/* When it is to be refreshed; 0: as the cache says, which may be sooner than it was when it was saved. */
static pnx_ns refresh_at(const struct load *load, const struct item *item) {
    const struct pnx_cache *cache = load->cache;
    if (!(item->record.flags & PNX_CACHE_FILE_REFRESHED) || cache->refresh_after == PNX_NEVER)
        return 0;
    int64_t left = (int64_t)item->refresh;
    left = left > load->passed ? left - load->passed : 0;
    left = left < cache->refresh_after ? left : cache->refresh_after;
    return pnx__deadline(pnx__now(&cache->env), left ? left : 1);
}

/* The pointer's size is not known before it has been made: as much as its bytes. */
static size_t cost_of_record(const struct load *load, const struct pnx_cache_file_record *record) {
    if (pnx__cache_is_fixed(load->cache))
        return load->cache->fixed_cost;
    uint8_t flags = load->cache->timed ? PNX_CACHE_ENTRY_TIMED : 0;
    if (record->flags & PNX_CACHE_FILE_SERIALIZED)
        flags |= PNX_CACHE_ENTRY_POINTER;
    return pnx__cache_entry_cost(record->key_size, (size_t)record->value_size, flags);
}

/* A sum that may be anything: the file is what it is. */
static uint64_t sum_of(uint64_t a, uint64_t b) {
    return a + b < a ? UINT64_MAX : a + b;
}

/* First pass: adds up what is there. */
static void count_record(
        struct load *load, const struct pnx_cache_file_record *record, uint64_t weight) {
    bool serialized = record->flags & PNX_CACHE_FILE_SERIALIZED;
    if (left_of(load, record) <= 0 || (serialized && !load->opts->deserialize))
        return;
    load->cost += cost_of_record(load, record);
    load->weight = sum_of(load->weight, weight);
    load->entries++;
}

static int make_pointer(
        struct load *load, struct pnx_cache_entry *entry, const void *data, size_t size) {
    void *value = NULL;
    size_t value_size = 0;
    PNX_CACHE_CALLING(returned);
    pnx__mutex_assert_none_held();
    int rc = load->opts->deserialize(load->opts->ctx, pnx__cache_entry_key(entry), entry->key_size,
            data, size, &value, &value_size);
    returned = true;
    if (rc == 0 && !value)
        rc = -EINVAL;
    if (rc)
        return rc > 0 ? -EINVAL : rc;
    entry->value_size = value_size; /* nobody else knows it yet */
    memcpy(entry + 1, &value, sizeof(value));
    return 0;
}

/* Counts what became of a record. */
static int count_stored(struct load *load, int rc) {
    if (rc == 0)
        load->report->entries++;
    else if (rc == -EEXIST)
        load->report->present++;
    else if (rc == -EFBIG || rc == -ENOMEM)
        load->report->no_room++;
    return rc == -ESHUTDOWN ? fail_load(load, rc, "closed while it was loaded") : 0;
}

/* Stores the entry, or ends it. */
static int store_record(struct load *load, struct pnx_cache_insert *insert) {
    struct pnx_cache_entry *entry = insert->entry;
    int rc = pnx__cache_weigh(load->cache, insert);
    if (rc == PNX_CACHE_FORKED)
        return fail_load(load, -ESHUTDOWN, "made by the parent process");
    if (rc == 0)
        rc = pnx__cache_charge(load->cache, insert);
    load->refused = rc == -ENOMEM;
    if (rc == 0)
        rc = pnx__cache_insert(load->cache, insert);
    if (rc == 0) {
        pnx__cache_entry_drop(entry);
        return count_stored(load, rc);
    }
    entry->cause = rc == -EEXIST      ? PNX_CACHE_REPLACED
                   : rc == -ESHUTDOWN ? PNX_CACHE_CLOSED
                                      : PNX_CACHE_SIZE;
    if (entry->flags & PNX_CACHE_ENTRY_POINTER)
        pnx__cache_entry_drop(entry); /* the cache's since it was made */
    else
        pnx__cache_entry_discard(entry);
    return count_stored(load, rc);
}

/* Second pass. */
static int put_record(struct load *load, const struct item *item) {
    struct pnx_cache *cache = load->cache;
    const struct pnx_cache_file_record *record = &item->record;
    bool serialized = record->flags & PNX_CACHE_FILE_SERIALIZED;
    int64_t left = left_of(load, record);
    if (left <= 0) {
        load->report->expired++;
        return 0;
    }
    if (serialized && !load->opts->deserialize) {
        load->report->left_out++;
        return 0;
    }
    bool fits = !load->refused && load->cost <= load->room_bytes &&
                load->entries <= load->room_entries && load->weight <= load->room_weight;
    load->cost -= cost_of_record(load, record);
    load->weight -= load->weight == UINT64_MAX ? 0 : item->weight;
    load->entries--;
    if (!fits) {
        load->report->no_room++;
        return 0;
    }
    if (pnx__cache_is_fixed(cache)) {
        int rc = pnx__cache_fixed_restore(cache, record, left, item->key, item->value);
        load->refused = rc == -ENOMEM;
        return count_stored(load, rc);
    }
    struct pnx_cache_insert insert = {
            .hash = pnx__hash(cache->seed, item->key, record->key_size),
            .expires = pnx__deadline(left == PNX_NEVER ? 0 : pnx__now(&cache->env), left),
            .soft_at = refresh_at(load, item),
            .if_absent = true,
            .restored = true,
            .hits = record->hits,
            .no_reclaim = true,
    };
    insert.entry = pnx__cache_entry_make(pnx__cache_shard_of(cache, insert.hash), item->key,
            record->key_size, serialized ? NULL : item->value,
            serialized ? 0 : (size_t)record->value_size, serialized ? PNX_CACHE_ENTRY_POINTER : 0);
    if (!insert.entry)
        return fail_load(load, -ENOMEM, "no memory for a value of %llu bytes",
                (unsigned long long)record->value_size);
    if (serialized) {
        int rc = make_pointer(load, insert.entry, item->value, (size_t)record->value_size);
        if (rc) {
            pnx__cache_entry_discard(insert.entry);
            if (rc != -ENOENT)
                return fail_load(load, rc, "deserialize: %s", pnx_strerror(rc));
            load->report->left_out++;
            return 0;
        }
    }
    return store_record(load, &insert);
}

/* Takes a number that stands behind a record. */
static int take_number(struct load *load, size_t bytes, size_t *at, uint64_t *ret_number) {
    if (bytes - *at < sizeof(*ret_number))
        return fail_load(load, PNX_E_FORMAT, "block %u: a record is cut short", load->index);
    memcpy(ret_number, load->block + *at, sizeof(*ret_number));
    *at += sizeof(*ret_number);
    return 0;
}

static int read_record(struct load *load, size_t bytes, size_t *at) {
    struct item item = {.weight = 1}; /* where the file says nothing of it */
    const struct pnx_cache_file_record *record = &item.record;
    if (bytes - *at < sizeof(*record))
        return fail_load(load, PNX_E_FORMAT, "block %u: a record is cut short", load->index);
    memcpy(&item.record, load->block + *at, sizeof(*record));
    *at += sizeof(*record);
    int rc = 0;
    if (record->flags & PNX_CACHE_FILE_WEIGHED)
        rc = take_number(load, bytes, at, &item.weight);
    if (rc == 0 && (record->flags & PNX_CACHE_FILE_REFRESHED))
        rc = take_number(load, bytes, at, &item.refresh);
    if (rc)
        return rc;
    if ((record->flags & ~PNX_CACHE_FILE_FLAGS) || record->ttl <= 0 || item.weight == 0 ||
            item.refresh > INT64_MAX || record->hits > PNX_CACHE_FILE_HITS)
        return fail_load(load, PNX_E_FORMAT, "block %u: a record makes no sense", load->index);
    if (record->key_size > bytes - *at || record->value_size > bytes - *at - record->key_size)
        return fail_load(
                load, PNX_E_FORMAT, "block %u: a record is longer than the block", load->index);
    const struct pnx_cache_shape *shape = &load->cache->shape;
    if (pnx__cache_is_fixed(load->cache) &&
            ((record->flags & PNX_CACHE_FILE_SERIALIZED) || record->key_size != shape->key_bytes ||
                    record->value_size != shape->value_bytes))
        return fail_load(load, PNX_E_FORMAT, "block %u: a record of other sizes than the cache's",
                load->index);
    item.key = load->block + *at;
    item.value = item.key + record->key_size;
    *at += record->key_size + (size_t)record->value_size;
    load->records++;
    if (load->second)
        return put_record(load, &item);
    count_record(load, record, item.weight);
    return 0;
}

/* ---- blocks ---- */

static int read_block(struct load *load, const struct pnx_cache_file_block *head) {
    int rc = take_block(load, head->bytes);
    if (rc)
        return rc;
    if (head->checksum != pnx__hash(load->head.id + load->index, load->block, (size_t)head->bytes))
        return fail_load(load, PNX_E_FORMAT, "block %u is damaged", load->index);
    size_t at = 0;
    for (uint32_t i = 0; rc == 0 && i < head->count; i++)
        rc = read_record(load, (size_t)head->bytes, &at);
    if (rc == 0 && at != head->bytes)
        rc = fail_load(load, PNX_E_FORMAT, "block %u: bytes behind the last record", load->index);
    load->chain = pnx__cache_file_chain(load->chain, head->checksum);
    load->index++;
    return rc;
}

static int read_end(struct load *load, const struct pnx_cache_file_block *end) {
    if (end->count != 0 || end->bytes != load->records || end->checksum != load->chain)
        return fail_load(load, PNX_E_FORMAT, "blocks are missing");
    if (load->at != load->source->size)
        return fail_load(load, PNX_E_FORMAT, "%llu bytes behind the end",
                (unsigned long long)(load->source->size - load->at));
    return 0;
}

/* Goes through all blocks once. */
static int pass(struct load *load) {
    load->index = 0;
    load->chain = load->records = 0;
    int rc = read_head(load);
    while (rc == 0) {
        struct pnx_cache_file_block head = {0};
        rc = take(load, &head, sizeof(head), "the head of a block");
        if (rc)
            break;
        if ((head.magic != PNX_CACHE_FILE_BLOCK && head.magic != PNX_CACHE_FILE_END) ||
                head.head_checksum != pnx__cache_file_check_head(&head, load->head.id, load->index))
            return fail_load(load, PNX_E_FORMAT, "the head of block %u is damaged", load->index);
        if (head.magic == PNX_CACHE_FILE_END)
            return read_end(load, &head);
        rc = read_block(load, &head);
    }
    return rc;
}

static uint64_t room_of(const struct pnx_a64 *limit, const struct pnx_a64 *used) {
    /* Relaxed, both: others may put meanwhile. */
    uint64_t most = pnx_load(limit, PNX_RELAXED, "cache_file.limit");
    uint64_t now = pnx_load(used, PNX_RELAXED, "cache_file.used");
    return most > now ? most - now : 0;
}

int pnx__cache_read_file(struct pnx_cache *cache, const struct pnx_cache_input *source,
        const struct pnx_cache_file_opts *opts, struct pnx_error *err,
        struct pnx_cache_file_report *report) {
    struct load load = {
            .cache = cache, .source = source, .opts = opts, .err = err, .report = report};
    report->file_bytes = source->size;
    int rc = read_head(&load);
    if (rc == 0) {
        int64_t real = cache->env.real_ns(cache->env.ctx);
        /* A clock that was set back must not lengthen lives. */
        if (__builtin_sub_overflow(real, load.head.saved_ns, &load.passed) || load.passed < 0)
            load.passed = real > load.head.saved_ns ? INT64_MAX : 0;
        rc = pass(&load);
    }
    if (rc == 0) {
        load.second = true;
        load.room_bytes = room_of(&cache->capacity, &cache->used_bytes);
        load.room_entries = room_of(&cache->capacity_entries, &cache->used_entries);
        load.room_weight =
                cache->weigher ? room_of(&cache->capacity_weight, &cache->used_weight) : UINT64_MAX;
        rc = pass(&load);
        if (pnx__cache_enter(cache) == 0) /* else a weigher has forked: see PNX_CACHE_FORKED */
            pnx__cache_update_row(cache);
    }
    pnx__free(&cache->env, load.block, load.block_room, 1);
    return rc;
}

static int open_file(struct pnx_cache *cache, const char *path, struct pnx_error *err,
        struct pnx_cache_input *ret_source) {
    struct pnx_file_info info;
    int fd = pnx__os_open(path, O_RDONLY | O_NONBLOCK, 0); /* a pipe would wait for a writer */
    if (fd < 0)
        return pnx__fail(err, fd, fd, "load", "cache \"%.64s\": %s: %s", cache->name, path,
                pnx_strerror(fd));
    int rc = pnx__os_fstat(fd, &info);
    if (rc)
        pnx__fail(err, rc, rc, "load", "cache \"%.64s\": %s: %s", cache->name, path,
                pnx_strerror(rc));
    else if (info.kind != PNX_FILE_REGULAR)
        rc = pnx__fail(err, PNX_E_FORMAT, 0, "load", "cache \"%.64s\": %s: not a regular file",
                cache->name, path);
    if (rc) {
        pnx__os_close(&fd);
        return rc;
    }
    *ret_source = (struct pnx_cache_input){.name = path, .fd = fd, .size = info.size};
    return 0;
}

int pnx_cache_load_file(struct pnx_cache *cache, const char *path,
        const struct pnx_cache_file_opts *opts, struct pnx_error *err,
        struct pnx_cache_file_report *ret_report) {
    struct pnx_cache_file_opts known;
    struct pnx_cache_input source;
    struct pnx_cache_file_report report = {.size = sizeof(report)};
    if (!path || !*path || !cache)
        return pnx__fail_field(err, -EINVAL, NULL, "cache: cache and path are required");
    int rc = pnx__cache_enter(cache);
    if (rc)
        return pnx__fail(err, rc, 0, "load", "cache: made by the parent process");
    rc = pnx__cache_file_opts(opts, err, &known);
    if (rc)
        return rc;
    if (pnx__cache_is_closed(cache))
        return pnx__fail(err, -ESHUTDOWN, 0, "load", "cache \"%.64s\" is closed", cache->name);
    rc = open_file(cache, path, err, &source);
    if (rc == 0) {
        rc = pnx__cache_read_file(cache, &source, &known, err, &report);
        pnx__os_close(&source.fd);
    }
    if (pnx__cache_enter(cache) != 0)
        return rc;
    pnx__event(&cache->block, PNX_EVENT_CACHE_RESTORED, cache->name, rc, NULL,
            (int64_t)report.entries, pnx__now(&cache->env));
    return rc ? rc : pnx__cache_file_report(&report, ret_report);
}
