/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the original framework designed for shared data and never built: SharedData, MutableSharedData,
 * ConcurrentMap, ConfigData and their metrics, each in one test, in the words of today.
 */
#include "harness/harness.h"

#include <patinox/cmap.h>
#include <patinox/rc.h>
#include <patinox/rwdata.h>
#include <patinox/snapshot.h>
#include <patinox/watch.h>

struct value {
    uint64_t number;
    uint64_t twice; /* twice the number, so that a torn value shows */
};

static struct pnx_rc_tally *tally;
static const struct pnx_rc_type value_type = {
        .size = sizeof(struct pnx_rc_type),
        .name = "value",
        .object_size = sizeof(struct value),
        .object_align = _Alignof(struct value),
        .tally = &tally,
};

static struct value *make(uint64_t number) {
    void *value = NULL;
    CHECK_EQ(pnx_rc_new(&value_type, &(struct value){number, 2 * number}, &value), 0);
    return value;
}

static int edits;

static int set(void *ctx, void *object) {
    const uint64_t *number = ctx;
    edits++;
    *(struct value *)object = (struct value){*number, 2 * *number};
    return 0;
}

/* ---- SharedData ---- */

TEST(original_shared_data_get_and_clone_ref) {
    struct value *value = make(7);
    CHECK_EQ(value->number, 7);
    struct value *other = pnx_rc_ref(value);
    CHECK(other == value);
    CHECK_EQ(pnx_rc_count(value), 2);
    pnx_rc_unref(value);
    CHECK_EQ(other->number, 7);
    pnx_rc_unref(other);
}

TEST(original_shared_data_make_mut_copies_what_is_shared) {
    void *mine = make(1);
    struct value *theirs = pnx_rc_ref(mine);
    CHECK_EQ(pnx_rc_make_mut(&mine), 0);
    CHECK(mine != theirs);
    ((struct value *)mine)->number = 2;
    CHECK_EQ(theirs->number, 1);
    void *before = mine;
    CHECK_EQ(pnx_rc_make_mut(&mine), 0);
    CHECK(mine == before);
    pnx_rc_unref(mine);
    pnx_rc_unref(theirs);
}

TEST(original_shared_data_update) {
    void *mine = make(1);
    struct value *theirs = pnx_rc_ref(mine);
    uint64_t number = 5;
    CHECK_EQ(pnx_rc_update(&mine, set, &number), 0);
    CHECK_EQ(((struct value *)mine)->number, 5);
    CHECK_EQ(theirs->number, 1);
    pnx_rc_unref(mine);
    pnx_rc_unref(theirs);
}

TEST(original_shared_data_try_update_fails_when_shared_and_does_not_call) {
    struct value *mine = make(1), *theirs = pnx_rc_ref(mine);
    uint64_t number = 5;
    CHECK_EQ(pnx_rc_try_update(mine, set, &number), PNX_E_SHARED);
    CHECK_EQ(edits, 0);
    CHECK_EQ(mine->number, 1);
    pnx_rc_unref(theirs);
    CHECK_EQ(pnx_rc_try_update(mine, set, &number), 0);
    CHECK_EQ(edits, 1);
    CHECK_EQ(mine->number, 5);
    pnx_rc_unref(mine);
}

/* ---- MutableSharedData ---- */

static struct pnx_rwdata *make_rwdata(void) {
    struct pnx_rwdata *rwdata = NULL;
    CHECK_EQ(pnx_rwdata_create(&value_type, &(struct value){1, 2},
                     PNX_RWDATA_OPTS(.flags = PNX_RWDATA_CHECK), NULL, &rwdata),
            0);
    return rwdata;
}

static int sum(void *ctx, const void *value) {
    *(uint64_t *)ctx += ((const struct value *)value)->number;
    return 0;
}

TEST(original_mutable_shared_data_read_and_write) {
    struct pnx_rwdata *rwdata = make_rwdata();
    struct pnx_rwdata_write_guard write = {0};
    struct pnx_rwdata_read_guard read = {0};
    CHECK_EQ(pnx_rwdata_write(rwdata, PNX_SEC, NULL, &write), 0);
    *(struct value *)write.value = (struct value){3, 6};
    pnx_rwdata_write_end(&write);
    CHECK_EQ(pnx_rwdata_read(rwdata, PNX_SEC, NULL, &read), 0);
    CHECK_EQ(((const struct value *)read.value)->twice, 6);
    pnx_rwdata_read_end(&read);
    pnx_rwdata_release(&rwdata);
}

TEST(original_mutable_shared_data_with_read_and_with_write) {
    struct pnx_rwdata *rwdata = make_rwdata();
    uint64_t number = 4, total = 0;
    CHECK_EQ(pnx_rwdata_with_write(rwdata, PNX_SEC, set, &number, NULL), 0);
    CHECK_EQ(pnx_rwdata_with_read(rwdata, PNX_SEC, sum, &total, NULL), 0);
    CHECK_EQ(total, 4);
    pnx_rwdata_release(&rwdata);
}

static void try_elsewhere(unsigned index, void *ctx) {
    (void)index;
    struct pnx_rwdata_read_guard read = {0};
    struct pnx_rwdata_write_guard write = {0};
    CHECK_EQ(pnx_rwdata_try_read(ctx, &read), -EBUSY);
    CHECK_EQ(pnx_rwdata_try_write(ctx, &write), -EBUSY);
}

TEST(original_mutable_shared_data_try_read_and_try_write) {
    struct pnx_rwdata *rwdata = make_rwdata();
    struct pnx_rwdata_write_guard write = {0};
    CHECK_EQ(pnx_rwdata_try_write(rwdata, &write), 0);
    test_threads(1, try_elsewhere, rwdata);
    pnx_rwdata_write_end(&write);
    struct pnx_rwdata_read_guard read = {0};
    CHECK_EQ(pnx_rwdata_try_read(rwdata, &read), 0);
    pnx_rwdata_read_end(&read);
    pnx_rwdata_release(&rwdata);
}

/* ---- ConcurrentMap ---- */

PNX_CMAP_DEFINE(numbers, uint64_t, uint64_t)

static void fill(unsigned index, void *ctx) {
    for (uint64_t i = 0; i < 1000; i++)
        CHECK_EQ(numbers_put(ctx, 1000 * index + i, i), 0);
}

TEST(original_concurrent_map_is_filled_read_and_emptied_by_several_threads) {
    struct pnx_cmap *map = NULL;
    CHECK_EQ(numbers_create(NULL, NULL, &map), 0);
    test_threads(4, fill, map);
    CHECK_EQ(pnx_cmap_len(map), 4000);
    uint64_t value = 0;
    CHECK_EQ(numbers_get(map, 3999, &value), 0);
    CHECK_EQ(value, 999);
    CHECK_EQ(numbers_remove(map, 3999), 0);
    CHECK_EQ(numbers_get(map, 3999, &value), -ENOENT);
    CHECK_EQ(pnx_cmap_len(map), 3999);
    pnx_cmap_release(&map);
}

/* ---- ConfigData ---- */

struct heard {
    int calls;
    uint64_t version;
    uint64_t number;
};

static void hear(void *ctx, const void *value, uint64_t version) {
    struct heard *heard = ctx;
    *heard = (struct heard){heard->calls + 1, version, ((const struct value *)value)->number};
}

static struct pnx_snapshot *make_cell(void) {
    struct pnx_snapshot *cell = NULL;
    struct value *first = make(1);
    CHECK_EQ(pnx_snapshot_create(first, NULL, NULL, &cell), 0);
    pnx_rc_unref(first);
    return cell;
}

TEST(original_config_data_get_update_subscribe_and_version) {
    struct pnx_snapshot *cell = make_cell();
    struct heard heard = {0};
    struct pnx_watch *watch = NULL;
    CHECK_EQ(pnx_watch_open(cell, PNX_WATCH_OPTS(.changed = hear, .ctx = &heard), NULL, &watch), 0);
    uint64_t number = 9, version = 0;
    CHECK_EQ(pnx_snapshot_update(cell, set, &number, NULL, &version), 0);
    CHECK_EQ(version, 2);
    CHECK_EQ(pnx_snapshot_version(cell), 2);
    CHECK_EQ(heard.calls, 1);
    CHECK_EQ(heard.version, 2);
    CHECK_EQ(heard.number, 9);
    const struct value *value = pnx_snapshot_load(cell, &version);
    CHECK_EQ(value->number, 9);
    CHECK_EQ(version, 2);
    pnx_rc_unref(value);
    pnx_watch_release(&watch);
    pnx_snapshot_release(&cell);
}

struct race {
    struct pnx_snapshot *cell;
    uint64_t rounds;
};

static void write_or_read(unsigned index, void *ctx) {
    const struct race *race = ctx;
    for (uint64_t i = 2; i <= race->rounds; i++) {
        uint64_t version = 0;
        if (index == 0) {
            CHECK_EQ(pnx_snapshot_update(race->cell, set, &i, NULL, &version), 0);
            continue;
        }
        const struct value *value = pnx_snapshot_load(race->cell, &version);
        CHECK_EQ(value->number, version); /* as written together */
        CHECK_EQ(value->twice, 2 * value->number);
        pnx_rc_unref(value);
    }
}

/* ConfigData of the original read its version and its value one after the other. */
TEST(v1_bug_config_value_and_version_were_read_torn) {
    struct race race = {make_cell(), test_slow() ? 2000 : 50000};
    test_threads(3, write_or_read, &race);
    CHECK_EQ(pnx_snapshot_version(race.cell), race.rounds);
    pnx_snapshot_release(&race.cell);
}

/* ---- metrics ---- */

TEST(original_metrics_of_reads_writes_clones_exclusive_writes_and_notifications) {
    CHECK_EQ(pnx_rc_tally_create(PNX_RC_TALLY_OPTS(.name = "values"), NULL, &tally), 0);
    uint64_t number = 2, total = 0;
    void *value = make(1);
    CHECK_EQ(pnx_rc_try_update(value, set, &number), 0);
    pnx_rc_unref(pnx_rc_ref(value));
    struct pnx_rc_tally_stats shared = {.size = sizeof(shared)};
    CHECK_EQ(pnx_rc_tally_read_stats(tally, &shared), 0);
    CHECK_EQ(shared.exclusive_writes, 1);
#ifdef PNX_DEBUG
    CHECK_EQ(shared.clones, 1);
#endif
    pnx_rc_unref(value);

    struct pnx_rwdata *rwdata = make_rwdata();
    CHECK_EQ(pnx_rwdata_with_write(rwdata, PNX_SEC, set, &number, NULL), 0);
    CHECK_EQ(pnx_rwdata_with_read(rwdata, PNX_SEC, sum, &total, NULL), 0);
    struct pnx_rwdata_stats data = {.size = sizeof(data)};
    CHECK_EQ(pnx_rwdata_read_stats(rwdata, &data), 0);
    CHECK_EQ(data.reads, 1);
    CHECK_EQ(data.writes, 1);
    pnx_rwdata_release(&rwdata);

    struct pnx_snapshot *cell = make_cell();
    struct heard heard = {0};
    struct pnx_watch *watch = NULL;
    CHECK_EQ(pnx_watch_open(cell, PNX_WATCH_OPTS(.changed = hear, .ctx = &heard), NULL, &watch), 0);
    CHECK_EQ(pnx_snapshot_update(cell, set, &number, NULL, NULL), 0);
    struct pnx_snapshot_stats cells = {.size = sizeof(cells)};
    CHECK_EQ(pnx_snapshot_read_stats(cell, &cells), 0);
    CHECK_EQ(cells.updates, 1);
    CHECK_EQ(cells.notifications, 1);
    pnx_watch_release(&watch);
    pnx_snapshot_release(&cell);
    pnx_rc_tally_release(&tally);
}
