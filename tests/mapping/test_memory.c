/* SPDX-License-Identifier: Apache-2.0 */
/* Snapshots, and memory that processes share under seals. */
#include "mapping/help_file.h"

#include "os/fault.h"

#include <patinox/fault.h>

static struct pnx_mapping *memfd(size_t length, uint32_t flags, struct pnx_budget *budget) {
    struct pnx_mapping *mapping = NULL;
    struct pnx_error err = {0};
    int rc = pnx_mapping_open_memfd(
            PNX_MAPPING_OPTS(.length = length, .flags = flags, .budget = budget), &err, &mapping);
    CHECK_MSG(rc == 0, "%s", err.message);
    return mapping;
}

/* ---- memfd ---- */

TEST(memory_is_shared_by_its_descriptor_and_charged_once) {
    struct pnx_budget *budget = purse(0);
    struct pnx_mapping *mapping = memfd(10000, 0, budget);
    CHECK(charged(budget) >= 10000);
    CHECK_EQ(stats_of(mapping).private_memory, charged(budget));
    struct pnx_mapping *other = NULL;
    CHECK_EQ(pnx_mapping_open_fd(pnx_mapping_fd(mapping),
                     PNX_MAPPING_OPTS(.mode = PNX_MAPPING_WRITE), NULL, &other),
            0);
    *at(other, 9999, 1) = 3;
    CHECK_EQ(pnx_view_all(mapping).p[9999], 3);
    pnx_mapping_release(&mapping);
    CHECK_EQ(charged(budget), 0);
    CHECK_EQ(pnx_view_all(other).p[9999], 3);
    pnx_mapping_release(&other);
    pnx_budget_release(&budget);
}

TEST(a_memfd_grows_and_shrinks_until_its_size_is_sealed) {
    struct pnx_budget *budget = purse(0);
    struct pnx_mapping *mapping = memfd(10000, PNX_MAPPING_RESIZABLE, budget);
    resized(mapping, 100000, 0);
    CHECK(charged(budget) >= 100000);
    resized(mapping, 50000, PNX_RESIZE_TRUNCATE);
    struct pnx_error err = {0};
    struct pnx_view view = pnx_view_all(mapping);
    CHECK_EQ(
            pnx_mapping_seal(mapping, PNX_SEAL_SHRINK | PNX_SEAL_GROW, &err), 0); /* under a view */
    CHECK_EQ(info_of(mapping).seals, PNX_SEAL_SHRINK | PNX_SEAL_GROW);
    CHECK_EQ(ftruncate(pnx_mapping_fd(mapping), 10), -1);
    CHECK_EQ(pnx_mapping_resize(mapping, 10, 0, &err), -ENOTSUP);
    CHECK_CONTAINS(err.message, "sealed");
    *(unsigned char *)pnx_view_at_mut(&view, 0, 1, 1) = 1; /* the content is not */
    CHECK_EQ(pnx_mapping_seal(mapping, PNX_SEAL_WRITE, &err), -EBUSY);
    CHECK_CONTAINS(err.message, "1 live view");
    pnx_view_release(&view);
    CHECK_EQ(pnx_mapping_seal(mapping, PNX_SEAL_WRITE, &err), 0);
    CHECK_EQ(pnx_mapping_seal(mapping, PNX_SEAL_WRITE | PNX_SEAL_GROW, &err), 0); /* idempotent */
    pnx_mapping_release(&mapping);
    CHECK_EQ(charged(budget), 0);
    pnx_budget_release(&budget);
}

TEST(sealed_content_is_read_only_for_everybody_at_the_same_address) {
    struct pnx_mapping *mapping = memfd(100000, 0, NULL);
    unsigned char *p = at(mapping, 0, 100000);
    memset(p, 5, 100000);
    uint32_t epoch = info_of(mapping).epoch;
    CHECK_EQ(pnx_mapping_seal(mapping, PNX_SEAL_WRITE | PNX_SEAL_SEAL, NULL), 0);
    CHECK(info_of(mapping).epoch > epoch);
    CHECK_EQ(info_of(mapping).seals,
            PNX_SEAL_WRITE | PNX_SEAL_GROW | PNX_SEAL_SHRINK | PNX_SEAL_SEAL);
    struct pnx_view view = pnx_view_all(mapping);
    CHECK(view.p == p);
    CHECK_EQ(view.p[99999], 5);
    CHECK(pnx_view_at_mut(&view, 0, 1, 1) == NULL);
    CHECK_EQ(pnx_view_put_u8(&view, 0, 1), -EACCES);
    CHECK_EQ(pwrite(pnx_mapping_fd(mapping), "x", 1, 0), -1);
    struct pnx_mapping *other = NULL;
    struct pnx_error err = {0};
    CHECK_EQ(pnx_mapping_open_fd(pnx_mapping_fd(mapping),
                     PNX_MAPPING_OPTS(.mode = PNX_MAPPING_WRITE), &err, &other),
            -EACCES);
    CHECK_CONTAINS(err.message, "PNX_SEAL_WRITE");
    CHECK_EQ(pnx_mapping_open_fd(pnx_mapping_fd(mapping), NULL, NULL, &other), 0);
    CHECK_EQ(pnx_mapping_backing(other), PNX_BACKING_MMAP);
    CHECK_EQ(info_of(other).seals & PNX_SEAL_SHRINK, PNX_SEAL_SHRINK);
    CHECK_EQ(pnx_view_all(other).p[99999], 5);
    CHECK_EQ(pnx_mapping_seal(other, PNX_SEAL_WRITE, &err), -ENOTSUP);
    pnx_mapping_release(&other);
    /* a private one may be written to */
    CHECK_EQ(pnx_mapping_open_fd(pnx_mapping_fd(mapping),
                     PNX_MAPPING_OPTS(.mode = PNX_MAPPING_PRIVATE), NULL, &other),
            0);
    *at(other, 0, 1) = 6;
    CHECK_EQ(view.p[0], 5);
    pnx_mapping_release(&other);
    pnx_mapping_release(&mapping);
}

TEST(scopes_on_memory_whose_size_is_sealed_need_no_handler) {
    struct pnx_mapping *mapping = memfd(100000, 0, NULL), *open = memfd(100000, 0, NULL);
    CHECK_EQ(pnx_mapping_seal(mapping, PNX_SEAL_SHRINK, NULL), 0);
    CHECK_EQ(pnx_fault_install(PNX_FAULT_REFUSED), 0);
    struct pnx_fault_scope scope = {0};
    CHECK_EQ(pnx_fault_begin(open, &scope), -ENOTSUP);
    CHECK_EQ(pnx_fault_begin(mapping, &scope), 0);
    CHECK_EQ(pnx_fault_end(&scope), 0);
    struct pnx_mapping *other = NULL; /* and whoever gets the descriptor knows, too */
    CHECK_EQ(pnx_mapping_open_fd(pnx_mapping_fd(mapping), NULL, NULL, &other), 0);
    CHECK_EQ(pnx_fault_begin(other, &scope), 0);
    CHECK_EQ(pnx_fault_end(&scope), 0);
    pnx_mapping_release(&other);
    pnx_mapping_release(&mapping);
    pnx_mapping_release(&open);
}

TEST(seals_that_are_refused_leave_the_mapping_writable) {
    struct pnx_mapping *mapping = memfd(100000, 0, NULL), *other = NULL;
    struct pnx_error err = {0};
    CHECK_EQ(pnx_mapping_open_fd(pnx_mapping_fd(mapping),
                     PNX_MAPPING_OPTS(.mode = PNX_MAPPING_WRITE), NULL, &other),
            0);
    CHECK_EQ(pnx_mapping_seal(mapping, PNX_SEAL_WRITE, &err), -EBUSY);
    CHECK_CONTAINS(err.message, "mapped for writing");
    *at(mapping, 99999, 1) = 2;
    CHECK_EQ(info_of(mapping).seals, 0);
    pnx_mapping_release(&other);
    CHECK_EQ(pnx_mapping_seal(mapping, 0, &err), -EINVAL);
    CHECK_EQ(pnx_mapping_seal(mapping, 16, &err), -EINVAL);
    CHECK_EQ(pnx_mapping_seal(NULL, 1, &err), -EINVAL);
    CHECK_EQ(pnx_mapping_seal(mapping, PNX_SEAL_SEAL, &err), 0);
    CHECK_EQ(pnx_mapping_seal(mapping, PNX_SEAL_SHRINK, &err), -EPERM);
    *at(mapping, 0, 1) = 2;
    pnx_mapping_release(&mapping);
    CHECK_EQ(pnx_mapping_open_anonymous(PNX_MAPPING_OPTS(.length = 1), NULL, &mapping), 0);
    CHECK_EQ(pnx_mapping_seal(mapping, PNX_SEAL_SHRINK, &err), -ENOTSUP);
    pnx_mapping_release(&mapping);
}

TEST(each_call_of_a_seal_may_fail_and_the_mapping_is_writable_or_closed) {
    if (!test_os_faults())
        test_skip("this build cannot make system calls fail");
    static const struct {
        const char *call;
        uint32_t seals;
        int64_t nth;
    } calls[] = {{"reserve", PNX_SEAL_WRITE, 1}, {"seal", PNX_SEAL_WRITE, 1},
            {"seal", PNX_SEAL_SHRINK, 1}};
    for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++) {
        struct pnx_mapping *mapping = memfd(100000, 0, NULL);
        struct pnx_error err = {0};
        test_os_fault(calls[i].call, calls[i].nth, false, EIO);
        CHECK_EQ(pnx_mapping_seal(mapping, calls[i].seals, &err), -EIO);
        CHECK_EQ(test_os_fault_clear(), 1);
        *at(mapping, 99999, 1) = 1;
        CHECK_EQ(pnx_mapping_seal(mapping, calls[i].seals, &err), 0);
        CHECK_EQ(pnx_view_all(mapping).p[99999], 1);
        pnx_mapping_release(&mapping);
    }
    struct pnx_mapping *mapping = memfd(100000, 0, NULL);
    struct pnx_error err = {0};
    struct pnx_view view;
    test_os_fault("mmap", 1, false, ENOMEM); /* nothing comes back to the address */
    CHECK_EQ(pnx_mapping_seal(mapping, PNX_SEAL_WRITE, &err), -ENOMEM);
    test_os_fault_clear();
    CHECK_CONTAINS(err.message, "closed");
    CHECK_EQ(pnx_view_get(mapping, 0, 1, &view), -ESHUTDOWN);
    pnx_mapping_release(&mapping);
    test_os_fault("memfd", 1, true, EMFILE);
    CHECK_EQ(pnx_mapping_open_memfd(PNX_MAPPING_OPTS(.length = 1), &err, &mapping), -EMFILE);
    CHECK_STR(err.phase, "open");
    test_os_fault_clear();
}

TEST(a_seal_from_within_an_access_scope_is_a_deadlock_error) {
    static const uint32_t seals[] = {PNX_SEAL_SHRINK, PNX_SEAL_WRITE};
    struct pnx_mapping *other = opened(make_file("other", 50000), NULL);
    for (unsigned i = 0; i < 2; i++) {
        struct pnx_mapping *mapping = memfd(100000, 0, NULL);
        struct pnx_fault_scope scope;
        struct pnx_error err = {0};
        CHECK_EQ(pnx_fault_begin(other, &scope), 0); /* of whatever mapping */
        CHECK_EQ(pnx_mapping_seal(mapping, seals[i], &err), -EDEADLK);
        CHECK_CONTAINS(err.message, "open access scopes");
        CHECK_EQ(pnx_fault_end(&scope), 0);
        CHECK_EQ(info_of(mapping).seals, 0);
        *at(mapping, 99999, 1) = 1;
        CHECK_EQ(pnx_mapping_seal(mapping, seals[i], &err), 0);
        CHECK_EQ(pnx_view_all(mapping).p[99999], 1);
        pnx_mapping_release(&mapping);
    }
    pnx_mapping_release(&other);
}

/* One thread keeps a scope open while the others wait for it in vain: ten seconds, all at once. */
struct kept {
    struct pnx_mapping *scoped, *resized, *size_sealed, *content_sealed;
    uint32_t open;
    uint32_t given_up;
};

static void wait_for_scope(unsigned index, void *ctx) {
    struct kept *kept = ctx;
    struct pnx_fault_scope scope;
    struct pnx_error err = {0};
    if (index == 0) {
        CHECK_EQ(pnx_fault_begin(kept->scoped, &scope), 0);
        __atomic_store_n(&kept->open, 1, __ATOMIC_RELEASE);
        while (__atomic_load_n(&kept->given_up, __ATOMIC_ACQUIRE) < 3)
            sched_yield();
        CHECK_EQ(pnx_fault_end(&scope), 0);
        return;
    }
    while (!__atomic_load_n(&kept->open, __ATOMIC_ACQUIRE))
        sched_yield();
    int rc = index == 1   ? pnx_mapping_resize(kept->resized, 40000, 0, &err)
             : index == 2 ? pnx_mapping_seal(kept->size_sealed, PNX_SEAL_SHRINK, &err)
                          : pnx_mapping_seal(kept->content_sealed, PNX_SEAL_WRITE, &err);
    CHECK_EQ(rc, -ETIMEDOUT);
    CHECK_CONTAINS(err.message, "scope");
    __atomic_fetch_add(&kept->given_up, 1, __ATOMIC_RELEASE);
}

TEST_LIMIT(a_seal_or_a_resize_gives_up_on_a_scope_that_stays_open_and_nothing_has_changed, 90) {
    const char *path = make_file("patience", 50000);
    struct kept kept = {.scoped = opened(path, NULL),
            .resized = opened(path, PNX_MAPPING_OPTS(.flags = PNX_MAPPING_RESIZABLE)),
            .size_sealed = memfd(50000, 0, NULL),
            .content_sealed = memfd(50000, 0, NULL)};
    test_threads(4, wait_for_scope, &kept);
    CHECK_EQ(pnx_mapping_size(kept.resized), 50000);
    CHECK_EQ(info_of(kept.size_sealed).seals, 0);
    CHECK_EQ(info_of(kept.content_sealed).seals, 0);
    *at(kept.content_sealed, 49999, 1) = 1;
    resized(kept.resized, 40000, 0);
    CHECK_EQ(pnx_mapping_seal(kept.content_sealed, PNX_SEAL_WRITE, NULL), 0);
    pnx_mapping_release(&kept.scoped);
    pnx_mapping_release(&kept.resized);
    pnx_mapping_release(&kept.size_sealed);
    pnx_mapping_release(&kept.content_sealed);
}

/* One thread seals the size, the other looks until it sees that. */
static void seal_or_look(unsigned index, void *ctx) {
    struct pnx_mapping *mapping = ctx;
    const uint32_t seals = PNX_SEAL_SHRINK | PNX_SEAL_GROW;
    if (index == 0) {
        CHECK_EQ(pnx_mapping_seal(mapping, seals, NULL), 0);
        return;
    }
    do {
        PNX_AUTO_VIEW view = pnx_view_all(mapping);
        CHECK(pnx_view_at_mut(&view, 0, 1, 1) != NULL); /* the content is not sealed */
    } while (info_of(mapping).seals != seals);
}

TEST(seals_are_seen_by_who_looks_meanwhile) {
    for (int i = 0; i < 200; i++) {
        struct pnx_mapping *mapping = memfd(10000, i % 2 ? PNX_MAPPING_RESIZABLE : 0, NULL);
        test_threads(2, seal_or_look, mapping);
        pnx_mapping_release(&mapping);
    }
}

/* ---- snapshots ---- */

TEST(a_snapshot_shows_the_file_as_it_was_whatever_becomes_of_it) {
    const char *path = make_file("shot", 50000);
    for (int mode = PNX_MAPPING_READ; mode <= PNX_MAPPING_PRIVATE; mode += PNX_MAPPING_PRIVATE) {
        path = make_file("shot", 50000);
        struct pnx_mapping *mapping =
                opened(path, PNX_MAPPING_OPTS(.mode = (uint32_t)mode, .offset = 9,
                                     .flags = PNX_MAPPING_SNAPSHOT));
        CHECK(truncate(path, 100) == 0);
        test_write_file(path, "something else", 14);
        check_bytes(mapping, 9, 50000 - 9);
        if (mode == PNX_MAPPING_PRIVATE)
            *at(mapping, 0, 1) = 0;
        pnx_mapping_release(&mapping);
    }
    path = make_file("large", 100000);
    if (info_of(opened(path, PNX_MAPPING_OPTS(.flags = PNX_MAPPING_SNAPSHOT))).backing ==
            PNX_BACKING_COPY) /* no clones here */
        refuses(path, PNX_MAPPING_OPTS(.flags = PNX_MAPPING_SNAPSHOT, .copy_max = 99999), -EFBIG,
                "read", NULL);
    struct pnx_mapping *mapping = NULL;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    CHECK_EQ(pnx_mapping_open_fd(
                     fd, PNX_MAPPING_OPTS(.flags = PNX_MAPPING_SNAPSHOT), NULL, &mapping),
            0);
    CHECK_EQ(pnx_mapping_backing(mapping), PNX_BACKING_COPY);
    CHECK(truncate(path, 0) == 0);
    check_bytes(mapping, 0, 100000);
    pnx_mapping_release(&mapping);
    close(fd);
}

TEST(a_clone_is_mapped_where_the_file_system_can_make_one) {
    own_mounts();
    char command[900];
    const char *disk = test_path("disk");
    CHECK(mkdir(disk, 0755) == 0);
    snprintf(command, sizeof(command),
            "command -v mkfs.xfs >/dev/null && truncate -s 400M %s.img && mkfs.xfs -q %s.img && "
            "mount -o loop %s.img %s",
            disk, disk, disk, disk);
    if (system(command) != 0)
        test_skip("cannot make a file system with clones");
    char path[600];
    snprintf(path, sizeof(path), "%s/file", disk);
    const char *made = make_file("source", 300000);
    snprintf(command, sizeof(command), "cp %s %s", made, path);
    CHECK_EQ(system(command), 0);
    struct pnx_mapping *mapping =
            opened(path, PNX_MAPPING_OPTS(.flags = PNX_MAPPING_SNAPSHOT, .copy_max = 1));
    CHECK_EQ(pnx_mapping_backing(mapping), PNX_BACKING_MMAP);
    CHECK(truncate(path, 10) == 0);
    check_bytes(mapping, 0, 300000);
    CHECK_EQ(pnx_mapping_changed(mapping), 0);
    pnx_mapping_release(&mapping);
    CHECK_EQ(umount(disk), 0);
}

#ifdef PNX_FAULTS
/* Somebody who writes to the file whenever it is read, so many times. */
static unsigned writes;
static const char *written;

static int write_on_read(const char *call) {
    if (strcmp(call, "pread") != 0 || writes == 0)
        return 0;
    writes--;
    int fd = open(written, O_WRONLY | O_APPEND | O_CLOEXEC);
    CHECK(fd >= 0 && write(fd, "x", 1) == 1);
    close(fd);
    return 0;
}

/* A file that is cut while it is read may give zeros, without a word of the system. */
TEST(a_copy_of_a_file_that_changed_while_it_was_read_ends_checked_scopes_with_an_error) {
    written = make_file("changing", 5000);
    struct pnx_mapping *mapping = NULL;
    struct pnx_fault_scope scope;
    for (writes = 2; writes--;) {
        unsigned before = writes;
        pnx__os_fault_set(write_on_read);
        CHECK_EQ(pnx_mapping_open(written, PNX_MAPPING_OPTS(.length = 5000), NULL, &mapping), 0);
        pnx__os_fault_set(NULL);
        CHECK_EQ(pnx_mapping_backing(mapping), PNX_BACKING_COPY);
        CHECK_EQ(pnx_fault_begin(mapping, &scope), 0);
        CHECK_EQ(pnx_fault_end_checked(&scope), before ? -ESTALE : 0);
        CHECK_EQ(pnx_fault_begin(mapping, &scope), 0);
        CHECK_EQ(pnx_fault_end(&scope), 0); /* no load has faulted */
        CHECK_EQ(pnx_mapping_changed(mapping), before ? -ESTALE : 0);
        pnx_mapping_release(&mapping);
        writes = before;
    }
}

TEST(a_snapshot_is_copied_again_until_the_file_rests_and_gives_up_in_the_end) {
    written = make_file("restless", 100000);
    struct pnx_mapping *mapping = NULL;
    struct pnx_error err = {0};
    writes = 3;
    pnx__os_fault_set(write_on_read);
    CHECK_EQ(pnx_mapping_open_fd(open(written, O_RDONLY | O_CLOEXEC),
                     PNX_MAPPING_OPTS(.flags = PNX_MAPPING_SNAPSHOT), &err, &mapping),
            0);
    CHECK_EQ(writes, 0);
    check_bytes(mapping, 0, 100000);
    pnx_mapping_release(&mapping);
    writes = 1000;
    CHECK_EQ(pnx_mapping_open_fd(open(written, O_RDONLY | O_CLOEXEC),
                     PNX_MAPPING_OPTS(.flags = PNX_MAPPING_SNAPSHOT, .length = 50000), &err,
                     &mapping),
            -EAGAIN);
    pnx__os_fault_set(NULL);
    CHECK_STR(err.phase, "snapshot");
    CHECK_CONTAINS(err.message, "8 tries");
    CHECK(!mapping);
}
#endif
