/* SPDX-License-Identifier: Apache-2.0 */
/* Levels, touches and backtraces: P1, P2 of patinox/trace.h. */
#include "harness/harness.h"
#include "os/backtrace.h"
#include "registry/ledger.h"
#include "registry/trace.h"

#include <patinox/shutdown.h>
#include <patinox/trace.h>

#include <sys/wait.h>
#include <unistd.h>

static struct test_env te;
static struct pnx_registry *registry;

static void begin(uint32_t level, uint32_t sample) {
    test_env_init(&te);
    test_env_virtual(&te, 100 * PNX_SEC);
    CHECK_EQ(
            pnx_registry_create(PNX_REGISTRY_OPTS(.env = &te.env, .level = level, .sample = sample),
                    NULL, &registry),
            0);
}

static void end(void) {
    pnx_registry_release(&registry);
    test_env_check_empty(&te);
}

static pnx_resource_id add(void) {
    pnx_resource_id id;
    CHECK_EQ(pnx_registry_add(registry, PNX_RESOURCE(.type = "thing"), NULL, &id), 0);
    return id;
}

static struct pnx_resource_trace trace_of(pnx_resource_id id) {
    struct pnx_resource_trace trace = {.size = sizeof(trace)};
    CHECK_EQ(pnx_registry_trace(registry, id, &trace), 0);
    return trace;
}

static uint64_t lost(void) {
    struct pnx_registry_stats stats = {.size = sizeof(stats)};
    CHECK_EQ(pnx_registry_read_stats(registry, &stats), 0);
    return stats.traces_lost;
}

TEST(p1_a_touch_at_simple_costs_no_memory_and_keeps_nothing) {
    begin(0, 0);
    CHECK_EQ(pnx_registry_current_level(registry), PNX_LEVEL_SIMPLE);
    pnx_resource_id id = add();
    int64_t before = te.allocations;
    for (int i = 0; i < 10; i++)
        CHECK_EQ(pnx_registry_touch(registry, id, "used"), 0);
    CHECK_EQ(te.allocations, before);
    struct pnx_resource_trace trace = trace_of(id);
    CHECK_EQ(trace.n_touches, 0);
    CHECK_EQ(trace.n_frames, 0);
    CHECK_EQ(pnx_registry_remove(registry, id), 0);
    end();
}

TEST(at_advanced_the_last_touches_are_kept_latest_first) {
    static const char *const notes[] = {"a", "b", "c", "d", "e", "f"};
    begin(PNX_LEVEL_ADVANCED, 0);
    pnx_resource_id id = add(), other = add();
    for (int i = 0; i < 6; i++) {
        CHECK_EQ(pnx_registry_touch_at(registry, id, notes[i], "site:1"), 0);
        test_env_advance(&te, PNX_SEC);
    }
    struct pnx_resource_trace trace = trace_of(id);
    CHECK_EQ(trace.n_touches, PNX_TOUCHES);
    CHECK_EQ(trace.touched, 6);
    for (int i = 0; i < PNX_TOUCHES; i++) {
        CHECK_STR(trace.touches[i].note, notes[5 - i]);
        CHECK_STR(trace.touches[i].site, "site:1");
        CHECK_EQ(trace.touches[i].age, (i + 1) * PNX_SEC);
        CHECK(trace.touches[i].thread != 0);
    }
    CHECK_EQ(trace_of(other).n_touches, 0);
    CHECK_EQ(pnx_registry_touch(registry, other, NULL), 0);
    trace = trace_of(other);
    CHECK_EQ(trace.n_touches, 1);
    CHECK(!trace.touches[0].note);
    CHECK_CONTAINS(trace.touches[0].site, "test_trace.c:");
    CHECK_EQ(pnx_registry_remove(registry, id), 0);
    CHECK_EQ(pnx_registry_touch(registry, id, "late"), -ESTALE);
    CHECK_EQ(pnx_registry_touch(registry, 0, "none"), 0);
    CHECK_EQ(pnx_registry_touch(registry, UINT64_C(5) << 40, "foreign"), -ESTALE);
    CHECK_EQ(pnx_registry_remove(registry, other), 0);
    end();
}

TEST(a_row_in_a_used_slot_has_nothing_of_the_one_before) {
    begin(PNX_LEVEL_PARANOID, 0);
    pnx_resource_id first = add();
    CHECK_EQ(pnx_registry_touch(registry, first, "before"), 0);
    CHECK_EQ(pnx_registry_remove(registry, first), 0);
    for (int i = 0; i < 200; i++) { /* through the slots of this thread's shard */
        pnx_resource_id id = add();
        CHECK_EQ(trace_of(id).n_touches, 0);
        CHECK_EQ(pnx_registry_remove(registry, id), 0);
    }
    struct pnx_resource_trace trace = {.size = sizeof(trace)};
    CHECK_EQ(pnx_registry_trace(registry, first, &trace), -ESTALE);
    end();
}

static __attribute__((noinline)) pnx_resource_id made_here(void) {
    pnx_resource_id id = add();
    __asm__ volatile("" ::: "memory"); /* no tail call: the frame is wanted */
    return id;
}

static bool has_backtraces(void) {
    void *frame;
    return pnx__backtrace(&frame, 1) > 0;
}

TEST(at_paranoid_each_row_knows_who_made_it) {
    if (!has_backtraces())
        test_skip("this system has no backtraces");
    begin(PNX_LEVEL_PARANOID, 0);
    pnx_resource_id ids[10];
    volatile int rows = 10; /* a loop that is unrolled calls from ten places */
    for (int i = 0; i < rows; i++)
        ids[i] = made_here();
    struct pnx_resource_trace first = trace_of(ids[0]);
    CHECK(first.n_frames >= 2);
    CHECK(first.n_frames <= PNX_TRACE_FRAMES);
    for (int i = 1; i < 10; i++) {
        struct pnx_resource_trace trace = trace_of(ids[i]);
        CHECK_EQ(trace.n_frames, first.n_frames);
        CHECK(memcmp(trace.frames, first.frames, first.n_frames * sizeof(void *)) == 0);
    }
    for (int i = 0; i < 10; i++)
        CHECK_EQ(pnx_registry_remove(registry, ids[i]), 0);
    end();
}

TEST(at_advanced_one_row_in_so_many_has_a_backtrace) {
    if (!has_backtraces())
        test_skip("this system has no backtraces");
    begin(PNX_LEVEL_ADVANCED, 4);
    int with = 0;
    for (int i = 0; i < 40; i++)
        with += trace_of(add()).n_frames > 0;
    CHECK_EQ(with, 10);
    CHECK_EQ(pnx_registry_set_level(registry, PNX_LEVEL_SIMPLE), 0);
    for (int i = 0; i < 40; i++)
        with += trace_of(add()).n_frames > 0;
    CHECK_EQ(with, 10);
    CHECK(pnx_registry_shutdown(registry, PNX_SEC, NULL) != 0); /* rows without cleanups leak */
    pnx_registry_release(&registry);                            /* and keep their registry */
}

TEST(at_off_new_rows_are_not_kept_and_old_ones_stay) {
    begin(0, 0);
    pnx_resource_id before = add();
    CHECK_EQ(pnx_registry_set_level(registry, PNX_LEVEL_OFF), 0);
    CHECK_EQ(pnx_registry_current_level(registry), PNX_LEVEL_OFF);
    CHECK_EQ(add(), 0);
    CHECK_EQ(pnx_registry_count(registry), 1);
    CHECK_EQ(pnx_registry_remove(registry, 0), 0);
    CHECK_EQ(pnx_registry_set_level(registry, PNX_LEVEL_DEFAULT), 0);
    CHECK_EQ(pnx_registry_current_level(registry), PNX_LEVEL_SIMPLE);
    pnx_resource_id after = add();
    CHECK(after != 0);
    CHECK_EQ(pnx_registry_set_level(registry, PNX_LEVEL_OFF), 0);
    pnx_resource_id lasting;
    CHECK_EQ(pnx_registry_add(registry, PNX_RESOURCE(.type = "x", .flags = PNX_RESOURCE_LONG_LIVED),
                     NULL, &lasting),
            0);
    CHECK(lasting != 0); /* what lives long is kept all the same */
    CHECK_EQ(pnx_registry_remove(registry, lasting), 0);
    CHECK_EQ(pnx_registry_remove(registry, before), 0);
    CHECK_EQ(pnx_registry_remove(registry, after), 0);
    end();
}

TEST(bad_levels_and_sizes_are_refused) {
    begin(0, 0);
    CHECK_EQ(pnx_registry_set_level(registry, (enum pnx_registry_level)5), -EINVAL);
    CHECK_EQ(pnx_registry_set_level(registry, (enum pnx_registry_level)(-1)), -EINVAL);
    CHECK_EQ(pnx_registry_set_level(pnx_registry_off(), PNX_LEVEL_SIMPLE), -EINVAL);
    CHECK_EQ(pnx_registry_current_level(pnx_registry_off()), PNX_LEVEL_OFF);
    pnx_resource_id id = add();
    struct pnx_resource_trace trace = {.size = 0};
    CHECK_EQ(pnx_registry_trace(registry, id, &trace), -EINVAL);
    CHECK_EQ(pnx_registry_trace(registry, id, NULL), -EINVAL);
    struct pnx_error err;
    struct pnx_registry *none = NULL;
    CHECK_EQ(pnx_registry_create(PNX_REGISTRY_OPTS(.level = 5), &err, &none), -EINVAL);
    CHECK_STR(err.field, "level");
    CHECK_EQ(pnx_registry_create(PNX_REGISTRY_OPTS(.sample = 1000001), &err, &none), -EINVAL);
    CHECK_STR(err.field, "sample");
    CHECK(!none);
    CHECK_EQ(pnx_registry_remove(registry, id), 0);
    end();
}

/* ---- P2 ---- */

TEST(p2_without_memory_a_row_is_added_without_its_trace) {
    if (!has_backtraces())
        test_skip("this system has no backtraces");
    begin(PNX_LEVEL_PARANOID, 0);
    pnx_resource_id first = add();
    CHECK(trace_of(first).n_frames > 0);
    CHECK_EQ(pnx_registry_remove(registry, first), 0);
    end();

    begin(PNX_LEVEL_SIMPLE, 0);
    CHECK_EQ(pnx_registry_remove(registry, add()), 0); /* the rows' own memory is there */
    CHECK_EQ(pnx_registry_set_level(registry, PNX_LEVEL_PARANOID), 0);
    te.fail_at = te.allocations + 1;
    te.fail_forever = true;
    pnx_resource_id id = add();
    CHECK_EQ(lost(), 1);
    CHECK_EQ(pnx_registry_touch(registry, id, "x"), -ENOMEM);
    CHECK_EQ(lost(), 2);
    te.fail_at = 0;
    te.fail_forever = false;
    CHECK_EQ(trace_of(id).n_frames, 0);
    CHECK_EQ(pnx_registry_touch(registry, id, "x"), 0);
    CHECK_EQ(trace_of(id).n_touches, 1);
    CHECK_EQ(pnx_registry_remove(registry, id), 0);
    end();
}

TEST(p2_where_no_backtrace_can_be_had_rows_are_added_all_the_same) {
    begin(PNX_LEVEL_PARANOID, 0);
    if (!test_os_faults())
        test_skip("built without PNX_FAULTS");
    test_os_fault("backtrace", 1, true, ENOMEM);
    pnx_resource_id id = add();
    (void)test_os_fault_clear();
    CHECK_EQ(trace_of(id).n_frames, 0);
    CHECK_EQ(lost(), 1);
    CHECK_EQ(pnx_registry_remove(registry, id), 0);
    end();
}

TEST(p2_different_stacks_are_kept_up_to_a_bound_and_alike_ones_once) {
    begin(PNX_LEVEL_SIMPLE, 0);
    void *frames[2];
    uint32_t numbers[PNX_TRACE_STACKS];
    for (uintptr_t i = 0; i < PNX_TRACE_STACKS; i++) {
        frames[0] = (void *)(i + 1);
        frames[1] = (void *)UINTPTR_MAX;
        numbers[i] = pnx__stack_keep(registry, frames, 2);
        CHECK(numbers[i] != 0);
    }
    for (uintptr_t i = 0; i < PNX_TRACE_STACKS; i++) {
        void *found[PNX_TRACE_FRAMES];
        frames[0] = (void *)(i + 1);
        CHECK_EQ(pnx__stack_keep(registry, frames, 2), numbers[i]);
        CHECK_EQ(pnx__stack_copy(registry, numbers[i], found), 2);
        CHECK(found[0] == frames[0] && found[1] == frames[1]);
    }
    frames[0] = (void *)(uintptr_t)(PNX_TRACE_STACKS + 1);
    CHECK_EQ(pnx__stack_keep(registry, frames, 2), 0);
    CHECK_EQ(pnx__stack_keep(registry, frames, 0), 0);
    end();
}

static void touch_and_look(unsigned index, void *ctx) {
    pnx_resource_id *ids = ctx;
    for (int i = 0; i < (test_slow() ? 300 : 3000); i++) {
        pnx_resource_id id = ids[i % 8];
        if (index == 0) {
            struct pnx_resource_trace trace = trace_of(id);
            for (uint32_t k = 0; k < trace.n_touches; k++)
                CHECK_STR(trace.touches[k].note, "t");
            continue;
        }
        CHECK_EQ(pnx_registry_touch(registry, id, "t"), 0);
        pnx_resource_id own = add();
        CHECK_EQ(pnx_registry_touch(registry, own, "t"), 0);
        CHECK_EQ(pnx_registry_remove(registry, own), 0);
    }
}

TEST(threads_may_touch_and_look_at_the_same_rows) {
    begin(PNX_LEVEL_ADVANCED, 7);
    pnx_resource_id ids[8];
    for (int i = 0; i < 8; i++)
        ids[i] = add();
    test_threads(4, touch_and_look, ids);
    uint64_t turns = test_slow() ? 300 : 3000;
    CHECK_EQ(trace_of(ids[0]).touched, 3 * ((turns + 7) / 8));
    for (int i = 0; i < 8; i++)
        CHECK_EQ(pnx_registry_remove(registry, ids[i]), 0);
    end();
}

/* ---- the environment ---- */

TEST(the_default_registry_obeys_the_environment) {
    setenv("PATINOX_REGISTRY", "advanced,sample=3", 1);
    struct pnx_registry *standard = pnx_registry_default();
    CHECK_EQ(pnx_registry_current_level(NULL), PNX_LEVEL_ADVANCED);
    CHECK_EQ(standard->sample.v, 3);
    struct pnx_health_entry entries[8];
    size_t n;
    CHECK_EQ(pnx_health(NULL, entries, 8, &n), PNX_HEALTH_OK);
}

TEST(a_text_that_is_not_understood_is_said_by_health) {
    setenv("PATINOX_REGISTRY", "loud", 1);
    CHECK_EQ(pnx_registry_current_level(NULL), PNX_LEVEL_SIMPLE);
    struct pnx_health_entry entries[8];
    size_t n;
    CHECK_EQ(pnx_health(NULL, entries, 8, &n), PNX_HEALTH_DEGRADED);
    bool said = false;
    for (size_t i = 0; i < n; i++)
        said = said || strstr(entries[i].reason, "PATINOX_REGISTRY");
    CHECK(said);
}

static void set_or_unset(const char *name, bool wrong) {
    if (wrong)
        setenv(name, "*", 1);
    else
        unsetenv(name);
}

/* The default registry looks once in a process: one child for each set of wrong variables. */
TEST(each_variable_that_is_wrong_is_named_by_health) {
    static const char *const names[] = {"PATINOX_REGISTRY", "PATINOX_LEAKS", "PATINOX_SUPPRESS"};
    for (unsigned wrong = 0; wrong < 8; wrong++) {
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            for (unsigned i = 0; i < 3; i++)
                set_or_unset(names[i], wrong & 1U << i);
            (void)pnx_registry_default();
            struct pnx_health_entry entries[8];
            size_t n, at = 0;
            CHECK_EQ(pnx_health(NULL, entries, 8, &n), wrong ? PNX_HEALTH_DEGRADED : PNX_HEALTH_OK);
            while (at < n && strcmp(entries[at].kind, "registry") != 0)
                at++;
            CHECK(at < n);
            for (unsigned i = 0; i < 3; i++)
                CHECK_MSG(
                        (strstr(entries[at].reason, names[i]) != NULL) == ((wrong & 1U << i) != 0),
                        "%u: %s", wrong, entries[at].reason);
            _exit(0);
        }
        int status;
        CHECK_EQ(waitpid(child, &status, 0), child);
        CHECK_EQ(status, 0);
    }
}

TEST(texts_of_levels) {
    begin(0, 0);
    static const char *const bad[] = {"", "OFF", "simple,", "simple,sample=", "simple,sample=0",
            "simple,sample=-1", "simple,sample=1x", "simple,sample=1000001", "simple,simple",
            "advancedd", "advanced;sample=2", "advanced,sample=99999999999999999999"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        CHECK_MSG(!pnx__trace_obey(registry, bad[i]), "\"%s\"", bad[i]);
    CHECK_EQ(pnx_registry_current_level(registry), PNX_LEVEL_SIMPLE);
    CHECK(pnx__trace_obey(registry, "off"));
    CHECK_EQ(pnx_registry_current_level(registry), PNX_LEVEL_OFF);
    CHECK(pnx__trace_obey(registry, "paranoid"));
    CHECK_EQ(pnx_registry_current_level(registry), PNX_LEVEL_PARANOID);
    CHECK(pnx__trace_obey(registry, "advanced,sample=1000000"));
    CHECK_EQ(registry->sample.v, 1000000);
    end();
}
