/* SPDX-License-Identifier: Apache-2.0 */
/* Very many mappings; stale views; a real disk that runs full. */
#include "mapping/help_file.h"

#include <patinox/fault.h>

static uint64_t max_map_count(void) {
    FILE *file = fopen("/proc/sys/vm/max_map_count", "r");
    unsigned long long n = 0;
    CHECK(file && fscanf(file, "%llu", &n) == 1);
    fclose(file);
    return n;
}

TEST_LIMIT(sixty_thousand_mappings_and_then_a_clear_error_at_the_systems_limit, 240) {
    uint64_t most = max_map_count();
    if (most < 62000 || most > 200000)
        test_skip("vm.max_map_count is %llu", (unsigned long long)most);
    if (test_slow())
        test_skip("a sanitizer has mappings of its own for each");
    const size_t page = 4096;
    const char *path = make_file("many", 8 * page);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct pnx_mapping **all = calloc(most + 10, sizeof(*all));
    CHECK(fd >= 0 && all);
    unsigned before = open_descriptors();
    uint64_t n = 0;
    struct pnx_error err = {0};
    int rc = 0;
    while (rc == 0 && n < most + 10) {
        /* neighbours are of pages that do not follow each other, so that the system cannot make one of two */
        rc = pnx_mapping_open_fd(fd,
                PNX_MAPPING_OPTS(.offset = (n * 3 % 8) * page, .length = page,
                        .registry = pnx_registry_off(), .stats = pnx_stats_off(),
                        .flags = PNX_MAPPING_NO_COPY | PNX_MAPPING_NO_DESCRIPTOR),
                &err, &all[n]);
        n += rc == 0;
    }
    CHECK_MSG(n >= 60000, "%llu: %s", (unsigned long long)n, err.message);
    CHECK_EQ(rc, -ENOMEM);
    CHECK_STR(err.phase, "map");
    CHECK_CONTAINS(err.message, "vm.max_map_count");
    pnx_mapping_release(
            &all[--n]); /* reading a directory takes memory, and may want a mapping for it */
    CHECK_EQ(open_descriptors(), before);
    for (uint64_t i = 0; i < n; i += 997)
        CHECK_EQ(pnx_view_all(all[i]).p[5], byte_at((i * 3 % 8) * page + 5));
    /* and one fault among them is found */
    CHECK(truncate(path, 0) == 0);
    struct pnx_fault_scope scope = {0};
    pnx_mapping_release(&all[0]);
    CHECK_EQ(pnx_fault_begin(all[59999], &scope), 0);
    volatile const unsigned char *p = pnx_view_all(all[59999]).p;
    (void)*p;
    CHECK_EQ(pnx_fault_end(&scope), -EIO); /* without a descriptor nobody can say why */
    for (uint64_t i = 0; i < n; i++)
        pnx_mapping_release(&all[i]);
    free(all);
    close(fd);
}

/* ---- stale views ---- */

static void use_released(void *ctx) {
    (void)ctx;
    struct pnx_mapping *mapping = opened(make_file("gone", 50000), NULL);
    struct pnx_view view = pnx_view_all(mapping);
    pnx_mapping_release(&mapping);
    uint32_t value;
    (void)!pnx_view_u32le(&view, 0, &value);
}

static void use_moved(void *ctx) {
    (void)ctx;
    struct pnx_mapping *mapping =
            opened(make_file("moved", 50000), PNX_MAPPING_OPTS(.flags = PNX_MAPPING_RESIZABLE));
    struct pnx_view view = pnx_view_all(mapping), part;
    CHECK_EQ(pnx_view_sub(&view, 100, 100, &part), 0);
    pnx_view_release(&view);
    resized(mapping, 20000, 0);
    (void)PNX_VIEW_AT(&part, uint32_t, 0);
}

static void use_reborn(void *ctx) {
    (void)ctx;
    const char *path = make_file("reborn", 50000);
    struct pnx_mapping *mapping = opened(path, NULL);
    struct pnx_view view = pnx_view_all(mapping);
    struct pnx_mapping *before = mapping;
    for (int i = 0; i < 100; i++) { /* until another one has the same address */
        pnx_mapping_release(&mapping);
        mapping = opened(path, NULL);
        if (mapping == before)
            break;
    }
    struct pnx_records records;
    (void)!PNX_RECORDS_GET(&view, uint32_t, 0, 1, &records);
}

static void release_twice(void *ctx) {
    (void)ctx;
    struct pnx_mapping *mapping =
            opened(make_file("twice", 50000), PNX_MAPPING_OPTS(.flags = PNX_MAPPING_RESIZABLE));
    struct pnx_view view = pnx_view_all(mapping), copy = view;
    pnx_view_release(&view);
    pnx_view_release(&copy);
}

TEST(a_debug_build_catches_views_whose_bytes_are_gone) {
#ifdef PNX_DEBUG
    const char *said = test_abort(use_released, NULL);
    CHECK_CONTAINS(said, "pnx_view_u32le");
    CHECK_CONTAINS(said, "not there any more");
    said = test_abort(use_moved, NULL);
    CHECK_CONTAINS(said, "pnx_view_at");
    CHECK_CONTAINS(said, "from before its bytes moved");
    said = test_abort(use_reborn, NULL);
    CHECK_CONTAINS(said, "pnx_records_get");
    said = test_abort(release_twice, NULL);
    CHECK_CONTAINS(said, "released twice");
#else
    (void)use_released;
    (void)use_moved;
    (void)use_reborn;
    (void)release_twice;
    test_skip("this build does not check views");
#endif
}

/* ---- disks ---- */

TEST_LIMIT(a_full_ext4_refuses_what_it_has_no_blocks_for_and_a_hole_is_an_error_in_a_scope, 120) {
    own_mounts();
    char command[900], path[600];
    const char *disk = test_path("ext4");
    CHECK(mkdir(disk, 0755) == 0);
    snprintf(command, sizeof(command),
            "truncate -s 8M %s.img && mkfs.ext4 -q -O ^has_journal %s.img && mount -o loop %s.img "
            "%s "
            "2>/dev/null",
            disk, disk, disk, disk);
    if (system(command) != 0)
        test_skip("cannot make a small ext4");
    snprintf(path, sizeof(path), "%s/file", disk);
    refuses(path,
            PNX_MAPPING_OPTS(.mode = PNX_MAPPING_WRITE, .length = 64 << 20,
                    .flags = PNX_MAPPING_CREATE | PNX_MAPPING_EXTEND),
            -ENOSPC, "extend", NULL);
    CHECK(access(path, F_OK) != 0);
    struct pnx_mapping *mapping = opened(
            path, PNX_MAPPING_OPTS(.mode = PNX_MAPPING_WRITE, .length = 64 << 20,
                          .flags = PNX_MAPPING_CREATE | PNX_MAPPING_EXTEND | PNX_MAPPING_SPARSE));
    CHECK_EQ(pnx_mapping_populate(mapping, 0, 64 << 20, PNX_POPULATE_WRITE), -ENOSPC);
    struct pnx_fault_scope scope = {0};
    struct pnx_view view = pnx_view_all(mapping);
    volatile unsigned char *p = pnx_view_at_mut(&view, 0, view.n, 1);
    CHECK_EQ(pnx_fault_begin(mapping, &scope), 0);
    for (size_t i = 0; i < 64 << 20; i += 4096)
        p[i] = 1;
    int rc = pnx_fault_end(&scope);
    CHECK_MSG(
            rc == -EIO || rc == -ENOSPC, "%s", pnx_errname(rc)); /* and the process is still here */
    pnx_mapping_release(&mapping);
    CHECK_EQ(umount(disk), 0);
}
