/* SPDX-License-Identifier: Apache-2.0 */
/* See rwdata_case.h. */
#include "rwdata_case.h"

#include <sched.h>

int drops;

static void pair_drop(void *ctx, void *object) {
    (void)ctx;
    (void)object;
    __atomic_add_fetch(&drops, 1, __ATOMIC_RELAXED);
}

const struct pnx_rc_type pair_type = PNX_RC_TYPE(struct pair, .drop = pair_drop);
struct test_env te;

struct pnx_rwdata *make_with(uint32_t flags) {
    struct pnx_rwdata *rwdata = NULL;
    if (!te.env.size)
        test_env_init(&te);
    CHECK_EQ(pnx_rwdata_create(&pair_type, &(struct pair){1, 1},
                     PNX_RWDATA_OPTS(.name = "pair", .env = &te.env, .registry = pnx_registry_off(),
                             .stats = pnx_stats_off(), .flags = flags),
                     NULL, &rwdata),
            0);
    return rwdata;
}

struct pnx_rwdata *make(void) {
    return make_with(PNX_RWDATA_CHECK);
}

void end(struct pnx_rwdata **rwdata) {
    pnx_rwdata_release(rwdata);
    CHECK(*rwdata == NULL);
    test_env_check_empty(&te);
}

struct pnx_rwdata_stats stats_of(const struct pnx_rwdata *rwdata) {
    struct pnx_rwdata_stats stats = {.size = sizeof(stats)};
    CHECK_EQ(pnx_rwdata_read_stats(rwdata, &stats), 0);
    return stats;
}

void until_waiters(const struct pnx_rwdata *rwdata, uint64_t n) {
    while (stats_of(rwdata).waiters != n)
        sched_yield();
}

struct pnx_rwdata_write_guard write_guard(struct pnx_rwdata *rwdata) {
    struct pnx_rwdata_write_guard guard = {0};
    CHECK_EQ(pnx_rwdata_write(rwdata, PNX_NEVER, NULL, &guard), 0);
    return guard;
}

struct pnx_rwdata_read_guard read_guard(struct pnx_rwdata *rwdata) {
    struct pnx_rwdata_read_guard guard = {0};
    CHECK_EQ(pnx_rwdata_read(rwdata, PNX_NEVER, NULL, &guard), 0);
    return guard;
}

void *ask_thread(void *arg) {
    struct asker *asker = arg;
    struct pnx_rwdata_read_guard reader = {0};
    struct pnx_rwdata_write_guard writer = {0};
    asker->rc = asker->write ? pnx_rwdata_write(asker->rwdata, asker->timeout, &asker->err, &writer)
                             : pnx_rwdata_read(asker->rwdata, asker->timeout, &asker->err, &reader);
    pnx_rwdata_read_end(&reader);
    pnx_rwdata_write_end(&writer);
    return NULL;
}

void start(struct asker *asker) {
    CHECK_EQ(pthread_create(&asker->thread, NULL, ask_thread, asker), 0);
}

int finish(struct asker *asker) {
    pthread_join(asker->thread, NULL);
    return asker->rc;
}

int ask(struct pnx_rwdata *rwdata, bool write, pnx_ns timeout, struct pnx_error *err) {
    struct asker asker = {.rwdata = rwdata, .timeout = timeout, .write = write};
    start(&asker);
    (void)finish(&asker);
    if (err)
        *err = asker.err;
    return asker.rc;
}

struct heard heard;

static void hear(void *ctx, const struct pnx_event *event) {
    (void)ctx;
    if (event->type == PNX_EVENT_RWDATA_POISONED)
        heard.poisoned++;
    else if (event->type == PNX_EVENT_RWDATA_MISUSE)
        heard.misused++;
    heard.code = event->code;
    snprintf(heard.cause, sizeof(heard.cause), "%s", event->cause ? event->cause : "");
    CHECK_STR(event->object, "pair");
}

struct pnx_stats *listen(void) {
    struct pnx_stats *stats = NULL;
    uint32_t id;
    CHECK_EQ(pnx_stats_create(NULL, NULL, &stats), 0);
    CHECK_EQ(pnx_monitor_add(
                     stats, &(struct pnx_monitor){sizeof(struct pnx_monitor), hear, NULL}, &id),
            0);
    memset(&heard, 0, sizeof(heard));
    return stats;
}

struct pnx_rwdata *make_heard(struct pnx_stats *stats, uint32_t flags) {
    struct pnx_rwdata *rwdata = NULL;
    test_env_init(&te);
    CHECK_EQ(
            pnx_rwdata_create(&pair_type, NULL,
                    PNX_RWDATA_OPTS(.name = "pair", .env = &te.env, .stats = stats, .flags = flags),
                    NULL, &rwdata),
            0);
    return rwdata;
}

static void one_read(struct torture *torture, uint64_t *random) {
    struct pnx_rwdata_read_guard guard = {0};
    pnx_ns timeout = test_random(random) % 4   ? PNX_NEVER
                     : test_random(random) % 2 ? 0
                                               : 20 * PNX_US;
    int rc = pnx_rwdata_read(torture->rwdata, timeout, NULL, &guard);
    CHECK(rc == 0 || (timeout == 0 && rc == -EBUSY) ||
            (timeout == 20 * PNX_US && rc == -ETIMEDOUT));
    if (rc)
        return;
    const struct pair *pair = guard.value;
    uint64_t a = pair->a;
    CHECK_EQ(__atomic_load_n(&torture->writers, __ATOMIC_RELAXED), 0);
    CHECK_EQ(pair->b, a);
    if (test_random(random) % 64 == 0)
        sched_yield();
    CHECK_EQ(pair->a, a);
    pnx_rwdata_read_end(&guard);
}

static void one_write(struct torture *torture, uint64_t *random) {
    struct pnx_rwdata_write_guard guard = {0};
    pnx_ns timeout = test_random(random) % 4   ? PNX_NEVER
                     : test_random(random) % 2 ? 0
                                               : 20 * PNX_US;
    int rc = pnx_rwdata_write(torture->rwdata, timeout, NULL, &guard);
    CHECK(rc == 0 || (timeout == 0 && rc == -EBUSY) ||
            (timeout == 20 * PNX_US && rc == -ETIMEDOUT));
    if (rc)
        return;
    struct pair *pair = guard.value;
    CHECK_EQ(__atomic_add_fetch(&torture->writers, 1, __ATOMIC_RELAXED), 1);
    uint64_t a = ++pair->a;
    if (test_random(random) % 64 == 0)
        sched_yield();
    pair->b++;
    CHECK_EQ(pair->b, a);
    __atomic_sub_fetch(&torture->writers, 1, __ATOMIC_RELAXED);
    __atomic_add_fetch(&torture->written, 1, __ATOMIC_RELAXED);
    if (test_random(random) % 4) {
        pnx_rwdata_write_end(&guard);
        return;
    }
    struct pnx_rwdata_read_guard reader = {0};
    CHECK_EQ(pnx_rwdata_downgrade(&guard, &reader), 0);
    CHECK(!guard.rwdata_);
    CHECK_EQ(((const struct pair *)reader.value)->a, a); /* P5: nobody came between */
    pnx_rwdata_read_end(&reader);
}

void torture_thread(unsigned index, void *ctx) {
    struct torture *torture = ctx;
    uint64_t random = test_seed() + index;
    for (uint64_t i = 0; i < torture->rounds; i++) {
        if (test_random(&random) % 3 == 0)
            one_write(torture, &random);
        else
            one_read(torture, &random);
    }
}

void run_torture(uint32_t flags) {
    struct torture torture = {make_with(flags), test_slow() ? 3000 : 60000, 0, 0};
    if (test_long())
        torture.rounds *= 20;
    test_threads(5, torture_thread, &torture);
    struct pnx_rwdata_read_guard guard = read_guard(torture.rwdata);
    CHECK_EQ(((const struct pair *)guard.value)->a, torture.written + 1); /* no write was lost */
    pnx_rwdata_read_end(&guard);
    CHECK_EQ(stats_of(torture.rwdata).writes, torture.written);
    CHECK_EQ(stats_of(torture.rwdata).waiters, 0);
    CHECK_EQ(stats_of(torture.rwdata).misuses, 0);
    CHECK_EQ(pnx__rwdata_check(torture.rwdata) & ~PNX_RWDATA_SPECIAL_, 0);
    end(&torture.rwdata);
}
