/* SPDX-License-Identifier: Apache-2.0 */
/* Forked children: P3 of registry/registry.c, and what a child may do with its parent's ids. */
#include "harness/forks.h"
#include "registry/ledger.h"

#include <patinox/registry.h>
#include <patinox/shutdown.h>
#include <patinox/trace.h>

#include <stdio.h>

static int count_up(void *arg, const struct pnx_cancel *cancel) {
    (void)cancel;
    ++*(int *)arg;
    return 0;
}

/* The memory of a registry that grows while there are forks: malloc() does not come into it. */
enum { GRAIN = 256 }; /* more than the library asks an alignment of */
struct arena {
    _Alignas(GRAIN) unsigned char memory[4 << 20];
    size_t used;
};

static void *arena_alloc(void *ctx, size_t size, size_t align) {
    struct arena *arena = ctx;
    size_t rounded = (size + GRAIN - 1) / GRAIN * GRAIN;
    CHECK(align <= GRAIN);
    size_t at = __atomic_fetch_add(&arena->used, rounded, __ATOMIC_RELAXED);
    return at + rounded <= sizeof(arena->memory) ? &arena->memory[at] : NULL;
}

static void arena_free(void *ctx, void *p, size_t size) {
    (void)ctx;
    (void)p;
    (void)size;
}

static int use_everything(void *ctx) {
    struct pnx_registry *registry = ctx;
    int n = 0;
    struct pnx_resource_trace trace = {.size = sizeof(trace)};
    pnx_resource_id ids[40], parent;
    if (pnx_registry_add(registry, PNX_RESOURCE(.type = "x", .name = "n"), NULL, &parent))
        return 1;
    for (int i = 0; i < 40; i++) {
        if (pnx_registry_add(registry,
                    PNX_RESOURCE(.type = "x", .cleanup = count_up, .arg = &n,
                            .parent = i % 2 ? parent : 0),
                    NULL, &ids[i]))
            return 2;
    }
    for (int i = 0; i < 40; i++) {
        if (pnx_registry_touch(registry, ids[i], "seen") ||
                pnx_registry_trace(registry, ids[i], &trace))
            return 5;
        if (i % 2 ? pnx_registry_remove(registry, ids[i]) : pnx_registry_cleanup(registry, ids[i]))
            return 3;
    }
    return n == 20 && pnx_registry_remove(registry, parent) == 0 ? 0 : 4;
}

static void fork_at_level(enum pnx_registry_level level) {
    static struct arena arenas[PNX_LEVEL_PARANOID + 1];
    const struct pnx_env env = {
            .size = sizeof(env), .ctx = &arenas[level], .alloc = arena_alloc, .free = arena_free};
    struct pnx_registry *registry;
    char what[16];
    snprintf(what, sizeof(what), "level %d", (int)level);
    CHECK_EQ(pnx_registry_create(
                     PNX_REGISTRY_OPTS(.env = &env, .level = (uint32_t)level, .sample = 2), NULL,
                     &registry),
            0);
    test_forks_beside(what, use_everything, registry);
    pnx__registry_check(registry);
    pnx_registry_release(&registry);
}

TEST(p3_a_child_finds_the_registry_usable_whatever_other_threads_were_doing) {
    fork_at_level(PNX_LEVEL_SIMPLE);
}

TEST(p3_a_child_finds_the_registry_usable_at_advanced_and_at_paranoid) {
    fork_at_level(PNX_LEVEL_ADVANCED);
    fork_at_level(PNX_LEVEL_PARANOID);
}

static int count_row(void *ctx, const struct pnx_resource_info *info) {
    *(int *)ctx += info->state == PNX_RESOURCE_DONE;
    return 0;
}

static int read_a_report(void *ctx) {
    int done = 0;
    return pnx_shutdown_report_each(ctx, count_row, &done) == 0 && done == 3 ? 0 : 1;
}

TEST(p3_a_child_may_read_a_report_that_others_are_reading) {
    struct pnx_registry *registry;
    struct pnx_shutdown_report *report;
    int n = 0;
    CHECK_EQ(pnx_registry_create(NULL, NULL, &registry), 0);
    for (int i = 0; i < 3; i++) {
        pnx_resource_id id;
        CHECK_EQ(pnx_registry_add(registry,
                         PNX_RESOURCE(.type = "x", .cleanup = count_up, .arg = &n), NULL, &id),
                0);
    }
    CHECK_EQ(pnx_registry_shutdown(registry, PNX_NEVER, &report), 0);
    test_forks_beside("a report", read_a_report, report);
    pnx_shutdown_report_release(&report);
    pnx_registry_release(&registry);
}

struct pending {
    struct pnx_registry *registry;
    pnx_resource_id id;
    struct pnx_completion completion;
};

static int pend(void *arg, const struct pnx_cancel *cancel) {
    struct pending *pending = arg;
    CHECK_EQ(pnx_cancel_pend(cancel, &pending->completion), 0);
    return -EINPROGRESS;
}

static void use_the_parents(void *ctx) {
    struct pending *pending = ctx;
    CHECK_EQ(pnx_completion_done(&pending->completion, 0), -ESTALE);
    CHECK_EQ(pnx_registry_cleanup(pending->registry, pending->id), -EALREADY);
    CHECK_EQ(pnx_registry_remove(pending->registry, pending->id), -EALREADY); /* at once */
}

TEST(what_is_pending_in_the_parent_cannot_be_completed_in_a_child) {
    struct pending pending = {0};
    CHECK_EQ(pnx_registry_create(NULL, NULL, &pending.registry), 0);
    CHECK_EQ(
            pnx_registry_add(pending.registry,
                    PNX_RESOURCE(.type = "x", .cleanup = pend, .arg = &pending), NULL, &pending.id),
            0);
    CHECK_EQ(pnx_registry_cleanup(pending.registry, pending.id), -EINPROGRESS);
    CHECK_EQ(test_child(use_the_parents, &pending), 0);
    CHECK_EQ(pnx_completion_done(&pending.completion, 0), 0);
    CHECK_EQ(pnx_registry_count(pending.registry), 0);
    pnx_registry_release(&pending.registry);
}

/* A cleanup that forks: the child is inside the parent's cleanup, and is refused nothing but the parent's rows. */
static int fork_inside(void *arg, const struct pnx_cancel *cancel) {
    struct pending *pending = arg;
    (void)cancel;
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        alarm(60);
        int own = use_everything(pending->registry);
        int again = pnx_registry_cleanup(pending->registry, pending->id);
        int removed = pnx_registry_remove(pending->registry, pending->id);
        int shutdown = pnx_registry_shutdown(pending->registry, 0, NULL);
        _exit(own == 0 && again == -EALREADY && removed == -EALREADY && shutdown == 0 ? 0 : 1);
    }
    int status;
    CHECK_EQ(waitpid(child, &status, 0), child);
    return status == 0 ? 0 : -EIO;
}

TEST(a_child_forked_inside_a_cleanup_is_told_at_once_that_it_is_the_parents) {
    struct pending pending = {0};
    CHECK_EQ(pnx_registry_create(NULL, NULL, &pending.registry), 0);
    CHECK_EQ(pnx_registry_add(pending.registry,
                     PNX_RESOURCE(.type = "x", .cleanup = fork_inside, .arg = &pending), NULL,
                     &pending.id),
            0);
    CHECK_EQ(pnx_registry_cleanup(pending.registry, pending.id), 0);
    pnx_registry_release(&pending.registry);
}
