/* SPDX-License-Identifier: Apache-2.0 */
/* Open mappings: files that change beneath them, advice, rows, references, threads. */
#include "mapping/help.h"

#include <patinox/shutdown.h>

#include <fcntl.h>
#include <pthread.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- files that change ---- */

TEST(p4_a_copy_survives_truncation_of_its_file) {
    const char *path = make_file("cut", 100000);
    struct pnx_mapping *mapping = NULL;
    CHECK_EQ(
            pnx_mapping_open(path, PNX_MAPPING_OPTS(.flags = PNX_MAPPING_COPY), NULL, &mapping), 0);
    CHECK(truncate(path, 10) == 0);
    check_bytes(mapping, 0, 100000);
    CHECK_EQ(pnx_mapping_changed(mapping), -ESTALE);
    char out[100];
    CHECK_EQ(pnx_mapping_copy_out(mapping, 99900, out, 100), 0);
    pnx_mapping_release(&mapping);
}

TEST(copy_out_of_a_file_cut_short_is_an_error_and_not_a_signal) {
    const char *path = make_file("cut", 100000);
    struct pnx_mapping *mapping = NULL;
    unsigned char out[100];
    CHECK_EQ(pnx_mapping_open(path, PNX_MAPPING_OPTS(.offset = 7), NULL, &mapping), 0);
    CHECK_EQ(pnx_mapping_backing(mapping), PNX_BACKING_MMAP);
    CHECK_EQ(pnx_mapping_copy_out(mapping, 60000, out, 100), 0);
    for (unsigned i = 0; i < 100; i++)
        CHECK_EQ(out[i], byte_at(60007 + i));
    CHECK_EQ(pnx_mapping_changed(mapping), 0);
    CHECK(truncate(path, 50000) == 0);
    CHECK_EQ(pnx_mapping_copy_out(mapping, 60000, out, 100), -ESTALE);
    CHECK_EQ(pnx_mapping_copy_out(mapping, 49990, out, 100), -ESTALE);
    CHECK_EQ(pnx_mapping_copy_out(mapping, 49893, out, 100), 0);
    CHECK_EQ(pnx_mapping_changed(mapping), -ESTALE);
    CHECK_EQ(stats_of(mapping).stale, 3);
    CHECK_EQ(stats_of(mapping).copy_outs, 4);
    if (test_os_faults()) {
        test_os_fault("pread", 1, false, EIO);
        CHECK_EQ(pnx_mapping_copy_out(mapping, 0, out, 100), -EIO);
        test_os_fault("fstat", 1, false, EIO);
        CHECK_EQ(pnx_mapping_changed(mapping), -EIO);
        test_os_fault("fstat", 1, false, ESTALE);
        CHECK_EQ(pnx_mapping_changed(mapping), -ESTALE);
        test_os_fault_clear();
    }
    pnx_mapping_release(&mapping);
}

TEST(changed_sees_size_and_time_and_ignores_replacement) {
    const char *path = make_file("changing", 50000);
    struct pnx_mapping *mapping = NULL;
    CHECK_EQ(pnx_mapping_open(path, NULL, NULL, &mapping), 0);
    const char *other = make_file("other", 10);
    CHECK(rename(other, path) == 0);
    CHECK_EQ(pnx_mapping_changed(mapping), 0);
    check_bytes(mapping, 0, 50000);
    pnx_mapping_release(&mapping);

    path = make_file("touched", 50000);
    CHECK_EQ(pnx_mapping_open(path, NULL, NULL, &mapping), 0);
    struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_sec = 1000, .tv_nsec = 5}};
    CHECK(utimensat(AT_FDCWD, path, times, 0) == 0);
    CHECK_EQ(pnx_mapping_changed(mapping), -ESTALE);
    pnx_mapping_release(&mapping);

    path = make_file("cut-and-dated-back", 50000);
    struct stat before;
    CHECK(stat(path, &before) == 0);
    CHECK_EQ(pnx_mapping_open(path, NULL, NULL, &mapping), 0);
    CHECK(truncate(path, 49999) == 0);
    times[1] = before.st_mtim;
    CHECK(utimensat(AT_FDCWD, path, times, 0) == 0);
    CHECK_EQ(pnx_mapping_changed(mapping), -ESTALE);
    pnx_mapping_release(&mapping);

    path = make_file("grown", 50000);
    CHECK_EQ(pnx_mapping_open(path, NULL, NULL, &mapping), 0);
    CHECK(truncate(path, 50001) == 0);
    CHECK_EQ(pnx_mapping_changed(mapping), -ESTALE);
    check_bytes(mapping, 0, 50000); /* and what was mapped is still there */
    pnx_mapping_release(&mapping);
}

struct grower {
    const char *path;
    int stop;
};

static void *grow(void *ctx) {
    struct grower *grower = ctx;
    int fd = open(grower->path, O_WRONLY | O_APPEND | O_CLOEXEC);
    CHECK(fd >= 0);
    unsigned char buf[512] = {0};
    for (unsigned i = 0; i < 20000 && !__atomic_load_n(&grower->stop, __ATOMIC_RELAXED); i++)
        CHECK(write(fd, buf, sizeof(buf)) == (ssize_t)sizeof(buf));
    close(fd);
    return NULL;
}

TEST(a_file_that_grows_while_it_is_read_gives_the_size_it_had) {
    const char *path = make_file("growing", 300000);
    struct grower grower = {.path = path};
    pthread_t thread;
    CHECK_EQ(pthread_create(&thread, NULL, grow, &grower), 0);
    size_t last = 0;
    for (int i = 0; i < 50; i++) {
        struct pnx_mapping *mapping = NULL;
        CHECK_EQ(pnx_mapping_open(path, PNX_MAPPING_OPTS(.flags = i % 2 ? PNX_MAPPING_COPY : 0),
                         NULL, &mapping),
                0);
        CHECK(pnx_mapping_size(mapping) >= 300000);
        CHECK(pnx_mapping_size(mapping) >= last);
        last = pnx_mapping_size(mapping);
        CHECK_EQ(pnx_view_all(mapping).p[299999], byte_at(299999));
        pnx_mapping_release(&mapping);
    }
    __atomic_store_n(&grower.stop, 1, __ATOMIC_RELAXED);
    pthread_join(thread, NULL);
}

/* ---- life ---- */

static int count_rows(void *ctx, const struct pnx_resource_info *info) {
    CHECK_STR(info->type, "mapping");
    CHECK_CONTAINS(info->site, "test_life.c:");
    CHECK_EQ(info->bytes, 50000);
    ++*(unsigned *)ctx;
    return 0;
}

TEST(a_mapping_has_a_row_with_its_birthplace_until_it_is_released) {
    struct pnx_registry *registry = NULL;
    struct pnx_mapping *mapping = NULL;
    const char *path = make_file("listed", 50000);
    unsigned rows = 0;
    CHECK_EQ(pnx_registry_create(NULL, NULL, &registry), 0);
    CHECK_EQ(pnx_mapping_open(path, PNX_MAPPING_OPTS(.registry = registry), NULL, &mapping), 0);
    CHECK_EQ(pnx_registry_each(registry, count_rows, &rows), 0);
    CHECK_EQ(rows, 1);
    struct pnx_mapping *second = pnx_mapping_ref(mapping);
    pnx_mapping_release(&mapping);
    CHECK_EQ(pnx_registry_count(registry), 1);
    check_bytes(second, 0, 50000);
    pnx_mapping_release(&second);
    CHECK_EQ(pnx_registry_count(registry), 0);
    pnx_registry_release(&registry);
}

static void check_closed(struct pnx_mapping *mapping, const struct pnx_view *before) {
    struct pnx_view view = {.n = 7};
    char out[10];
    CHECK_EQ(pnx_view_get(mapping, 0, 10, &view), -ESHUTDOWN);
    CHECK_EQ(view.n, 7);
    CHECK_EQ(pnx_mapping_copy_out(mapping, 0, out, 10), -ESHUTDOWN);
    CHECK_EQ(pnx_view_all(mapping).n, 0);
    for (size_t i = 0; i < before->n; i += 1000) /* what is out stays */
        CHECK_EQ(before->p[i], byte_at(i));
}

TEST(a_closed_mapping_gives_no_more_views_and_keeps_those_that_are_out) {
    struct pnx_mapping *mapping = NULL;
    CHECK_EQ(pnx_mapping_open(make_file("closed", 50000), NULL, NULL, &mapping), 0);
    struct pnx_view view = pnx_view_all(mapping);
    pnx_mapping_close(NULL);
    pnx_mapping_close(mapping);
    pnx_mapping_close(mapping);
    check_closed(mapping, &view);
    pnx_mapping_release(&mapping);
}

TEST(a_shutdown_closes_a_mapping_and_does_not_unmap_it) {
    struct pnx_registry *registry = NULL;
    struct pnx_mapping *mapping = NULL;
    const char *path = make_file("held", 50000);
    CHECK_EQ(pnx_registry_create(NULL, NULL, &registry), 0);
    CHECK_EQ(pnx_mapping_open(path, PNX_MAPPING_OPTS(.registry = registry), NULL, &mapping), 0);
    struct pnx_view view = pnx_view_all(mapping);
    CHECK_EQ(pnx_registry_shutdown(registry, 10 * PNX_SEC, NULL), 0);
    check_closed(mapping, &view);
    refuses(path, PNX_MAPPING_OPTS(.registry = registry), -ESHUTDOWN, "add", NULL);
    pnx_mapping_release(&mapping);
    pnx_registry_release(&registry);
}

TEST(advice_is_never_an_error) {
    const char *path = make_file("advised", 100000);
    struct pnx_mapping *mapping = NULL;
    for (uint32_t advice = 0; advice <= PNX_ADVICE_COLD; advice++) {
        CHECK_EQ(pnx_mapping_open(
                         path, PNX_MAPPING_OPTS(.offset = 4097, .advice = advice), NULL, &mapping),
                0);
        CHECK_EQ(pnx_mapping_advise(mapping, 5000, 10, (enum pnx_mapping_advice)advice), 0);
        CHECK_EQ(pnx_mapping_advise(mapping, 95904, 0, (enum pnx_mapping_advice)advice) >= 0,
                pnx_mapping_size(mapping) >= 95904);
        if (test_os_faults()) {
            test_os_fault("madvise", 1, true, ENOSYS);
            CHECK_EQ(pnx_mapping_advise(mapping, 0, 10, (enum pnx_mapping_advice)advice), 1);
            test_os_fault_clear();
        }
        pnx_mapping_release(&mapping);
    }
    CHECK_EQ(pnx_mapping_open(path,
                     PNX_MAPPING_OPTS(.flags = PNX_MAPPING_COPY, .advice = PNX_ADVICE_WILLNEED),
                     NULL, &mapping),
            0);
    CHECK_EQ(pnx_mapping_advise(mapping, 0, 10, PNX_ADVICE_RANDOM), 1);
    CHECK_EQ(pnx_mapping_advise(mapping, 99999, 2, PNX_ADVICE_RANDOM), -ERANGE);
    CHECK_EQ(pnx_mapping_advise(mapping, 0, 1, (enum pnx_mapping_advice)6), -EINVAL);
    CHECK_EQ(pnx_mapping_advise(NULL, 0, 1, PNX_ADVICE_RANDOM), -EINVAL);
    pnx_mapping_release(&mapping);
}

TEST(a_refused_advice_does_not_fail_the_opening) {
    if (!test_os_faults())
        test_skip("this build cannot make system calls fail");
    const char *path = make_file("stubborn", 100000);
    struct pnx_mapping *mapping = NULL;
    test_os_fault("madvise", 1, true, EINVAL);
    CHECK_EQ(pnx_mapping_open(path, PNX_MAPPING_OPTS(.advice = PNX_ADVICE_RANDOM), NULL, &mapping),
            0);
    CHECK(test_os_fault_clear() > 0);
    CHECK_EQ(pnx_mapping_backing(mapping), PNX_BACKING_MMAP);
    pnx_mapping_release(&mapping);
}

TEST(null_is_answered) {
    struct pnx_mapping *mapping = NULL;
    struct pnx_mapping_stats stats = {.size = sizeof(stats)};
    pnx_mapping_release(NULL);
    pnx_mapping_release(&mapping);
    CHECK(pnx_mapping_ref(NULL) == NULL);
    CHECK_EQ(pnx_mapping_size(NULL), 0);
    CHECK_EQ(pnx_mapping_backing(NULL), PNX_BACKING_EMPTY);
    CHECK_EQ(pnx_mapping_changed(NULL), -EINVAL);
    CHECK_EQ(pnx_mapping_copy_out(NULL, 0, &stats, 1), -EINVAL);
    CHECK_EQ(pnx_mapping_read_stats(NULL, &stats), -EINVAL);
    CHECK_EQ(pnx_view_all(NULL).n, 0);
    const char *path = make_file("stats", 10);
    CHECK_EQ(pnx_mapping_open(path, NULL, NULL, &mapping), 0);
    CHECK_EQ(pnx_mapping_copy_out(mapping, 0, NULL, 1), -EINVAL);
    CHECK_EQ(pnx_mapping_read_stats(mapping, NULL), -EINVAL);
    stats.size = 0;
    CHECK_EQ(pnx_mapping_read_stats(mapping, &stats), -EINVAL);
    pnx_mapping_release(&mapping);
}

struct shared {
    struct pnx_mapping *mapping;
    const char *path;
    unsigned rounds;
};

static void use(unsigned index, void *ctx) {
    struct shared *shared = ctx;
    unsigned char out[64];
    for (unsigned i = 0; i < shared->rounds; i++) {
        struct pnx_mapping *mine = pnx_mapping_ref(shared->mapping);
        uint64_t offset = ((uint64_t)i * 7919 + index * 104729) % (200000 - 64);
        struct pnx_view view;
        uint32_t value;
        CHECK_EQ(pnx_view_get(mine, offset, 64, &view), 0);
        CHECK_EQ(pnx_view_u32le(&view, 1, &value), 0);
        CHECK_EQ(value & 0xff, byte_at(offset + 1));
        CHECK_EQ(pnx_mapping_copy_out(mine, offset, out, 64), 0);
        CHECK(memcmp(out, view.p, 64) == 0);
        CHECK_EQ(pnx_mapping_changed(mine), 0);
        pnx_mapping_release(&mine);
        struct pnx_mapping *own = NULL;
        if (i % 16 == 0) {
            CHECK_EQ(pnx_mapping_open(shared->path,
                             PNX_MAPPING_OPTS(.offset = offset,
                                     .flags = i % 32 ? PNX_MAPPING_COPY : 0),
                             NULL, &own),
                    0);
            CHECK_EQ(pnx_view_all(own).p[0], byte_at(offset));
        }
        pnx_mapping_release(&own);
    }
}

TEST(threads_share_a_mapping_and_open_their_own) {
    const char *path = make_file("shared", 200000);
    struct shared shared = {.path = path, .rounds = test_slow() ? 300 : 3000};
    CHECK_EQ(pnx_mapping_open(path, NULL, NULL, &shared.mapping), 0);
    test_threads(4, use, &shared);
    CHECK_EQ(stats_of(shared.mapping).copy_outs, 4 * shared.rounds);
    pnx_mapping_release(&shared.mapping);
}
