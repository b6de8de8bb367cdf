/* SPDX-License-Identifier: Apache-2.0 */
/* Starts after everything that can happen to an index: killed makers, full disks, damaged files, other processes. */
#include "common.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/wait.h>

static int try_open(struct log_lines *log, struct pnx_error *err, struct lookup_store **ret_store) {
    struct lookup_store_opts opts = default_opts();
    if (log) {
        log_clear(log);
        opts.env = &log->env;
    }
    *err = (struct pnx_error){0};
    return lookup_store_open(&opts, err, ret_store);
}

/* ---- P1, P2: generations ---- */

TEST(second_start_uses_the_generation) {
    put_small_corpus();
    struct log_lines log;
    struct lookup_store *store = open_store(&log);
    CHECK(info_of(store).built);
    CHECK_EQ(info_of(store).generation, 1);
    CHECK_EQ(info_of(store).documents, 4);
    CHECK_CONTAINS(log.text, "gen-1 built: 4 documents of 4 files");
    lookup_store_release(&store);
    CHECK_STR(generations(), "gen-1");
    store = open_store(&log);
    CHECK(!info_of(store).built);
    CHECK_EQ(info_of(store).generation, 1);
    CHECK_EQ(count_of(store, "fox "), 3);
    CHECK_CONTAINS(log.text, "gen-1 opened");
    lookup_store_release(&store);
}

TEST(changed_corpus_makes_a_new_generation) {
    put_small_corpus();
    struct lookup_store *store = open_store(NULL);
    lookup_store_release(&store);
    put_text("new.txt", "A new fox\n");
    store = open_store(NULL);
    CHECK(info_of(store).built);
    CHECK_EQ(info_of(store).generation, 2);
    CHECK_EQ(count_of(store, "fox "), 4);
    lookup_store_release(&store);
    CHECK_STR(generations(), "gen-2");
    CHECK_EQ(unlink(test_path("corpus/new.txt")), 0);
    store = open_store(NULL);
    CHECK_EQ(count_of(store, "fox "), 3);
    lookup_store_release(&store);
    CHECK_STR(generations(), "gen-3");
}

TEST(corpus_of_every_kind_of_file_is_counted) {
    put_small_corpus();
    put_text("empty", "");
    put_file("binary", "a\0b", 3);
    put_file("broken.gz", "\x1F\x8B\x08\0\0\0\0\0\0\x03garbage garbage", 25);
    put_text("latin", "gar\xE7on and words\n");
    struct log_lines log;
    struct lookup_store *store = open_store(&log);
    struct lookup_store_info info = info_of(store);
    CHECK_EQ(info.files, 8);
    CHECK_EQ(info.documents, 5);
    CHECK_EQ(info.empty, 1);
    CHECK_EQ(info.binary, 1);
    CHECK_EQ(info.unreadable, 1);
    CHECK_CONTAINS(log.text, "broken.gz: ");
    CHECK_EQ(count_of(store, "garcon "), 1);
    lookup_store_release(&store);
}

TEST(file_larger_than_the_limit_is_cut) {
    put_text("long", "begin word word word word word word word word end\n");
    struct lookup_store_opts opts = default_opts();
    opts.max_file_bytes = 20;
    struct lookup_store *store = NULL;
    struct pnx_error err = {0};
    CHECK_EQ(lookup_store_open(&opts, &err, &store), 0);
    CHECK_EQ(info_of(store).truncated, 1);
    CHECK_EQ(count_of(store, "begin "), 1);
    CHECK_EQ(count_of(store, "end "), 0);
    lookup_store_release(&store);
}

TEST(corpus_over_the_limits_is_refused_and_leaves_nothing) {
    put_small_corpus();
    struct lookup_store_opts opts = default_opts();
    struct lookup_store *store = NULL;
    struct pnx_error err = {0};
    opts.max_total_bytes = 100;
    CHECK_EQ(lookup_store_open(&opts, &err, &store), -EFBIG);
    CHECK_CONTAINS(err.message, "more than 100 bytes");
    opts.max_total_bytes = 0;
    opts.max_files = 3;
    CHECK_EQ(lookup_store_open(&opts, &err, &store), -EFBIG);
    CHECK_CONTAINS(err.message, "more than 3 files");
    CHECK_STR(generations(), "");
}

TEST(corpus_without_text_is_refused) {
    put_file("binary", "\0\0\0", 3);
    struct lookup_store *store = NULL;
    struct pnx_error err;
    CHECK_EQ(try_open(NULL, &err, &store), -ENODATA);
    CHECK_CONTAINS(err.message, "holds no text: 1 files, 1 binary");
    CHECK_STR(generations(), "");
}

TEST(data_directory_inside_the_corpus_is_not_indexed) {
    put_small_corpus();
    struct lookup_store_opts opts = default_opts();
    opts.data_dir = test_path("corpus/sub/data");
    struct lookup_store *store = NULL;
    struct pnx_error err = {0};
    for (int start = 1; start <= 2; start++) {
        CHECK_EQ(lookup_store_open(&opts, &err, &store), 0);
        struct lookup_store_info info = info_of(store);
        CHECK_EQ(info.files, 4);
        CHECK_EQ(info.generation, 1);
        CHECK_EQ(info.built, start == 1);
        lookup_store_release(&store);
    }
    opts.data_dir = opts.corpus;
    CHECK_EQ(lookup_store_open(&opts, &err, &store), -EINVAL);
    CHECK_CONTAINS(err.message, "cannot be both the corpus and the data directory");
}

TEST(bad_places_are_named) {
    put_small_corpus();
    struct lookup_store_opts opts = default_opts();
    struct lookup_store *store = NULL;
    struct pnx_error err = {0};
    opts.corpus = "/nonexistent/corpus";
    CHECK_EQ(lookup_store_open(&opts, &err, &store), -ENOENT);
    CHECK_CONTAINS(err.message, "/nonexistent/corpus");
    opts = default_opts();
    opts.data_dir = "/nonexistent/a/b";
    CHECK_EQ(lookup_store_open(&opts, &err, &store), -ENOENT);
    CHECK_CONTAINS(err.message, "/nonexistent/a/b");
    test_write_file(test_path("file"), "x", 1);
    opts.data_dir = test_path("file");
    CHECK_EQ(lookup_store_open(&opts, &err, &store), -ENOTDIR);
    opts.data_dir = NULL;
    CHECK_EQ(lookup_store_open(&opts, &err, &store), -EINVAL);
    struct lookup_settings settings;
    lookup_settings_default(&settings);
    settings.pool_max = 1000;
    opts = default_opts();
    opts.data_dir = test_path("other");
    opts.settings = &settings;
    CHECK_EQ(lookup_store_open(&opts, &err, &store), -ERANGE);
    CHECK_EQ(access(opts.data_dir, F_OK), -1);
    CHECK(store == NULL);
}

/* ---- damage ---- */

static void damage(const char *name, long at, const char *bytes, long cut) {
    char path[4096];
    fill(path, sizeof(path), "%s/data/%s", test_dir(), name);
    int fd = open(path, O_WRONLY);
    CHECK_MSG(fd >= 0, "%s", path);
    struct stat st;
    fstat(fd, &st);
    if (bytes)
        CHECK_EQ(pwrite(fd, bytes, strlen(bytes), at >= 0 ? at : st.st_size + at), strlen(bytes));
    else
        CHECK_EQ(ftruncate(fd, cut >= 0 ? cut : st.st_size + cut), 0);
    close(fd);
}

TEST(p2_damaged_generation_is_named_set_aside_and_replaced) {
    static const struct {
        const char *file;
        long at;
        const char *bytes; /* NULL: cut to .cut */
        long cut;
        const char *message;
    } cases[] = {
            {"texts", 20, "X", 0, "texts: its checksum"},
            {"texts", 0, "XXXXXXXX", 0, "texts: it is of another format"},
            {"texts", 0, NULL, 30, "texts: its size"},
            {"texts", 0, NULL, 0, "texts: its size"},
            {"index.db", 0, "garbage", 0, "index.db: its checksum"},
            {"index.db", -100, "garbage", 0, "index.db: its checksum"},
            {"index.db", 0, NULL, -4096, "index.db: its size"},
            {"index.db", 0, NULL, 0, "index.db: its size"},
            {"manifest", 40, "x", 0, "manifest: "},
            {"manifest", 0, NULL, 100, "manifest: "},
            {"manifest", 0, NULL, 0, "manifest: it is of another format"},
            {"manifest", -3, "z", 0, "manifest: "},
            {"manifest", -1, "x", 0, "manifest: "},
    };
    put_small_corpus();
    struct lookup_store *store = open_store(NULL);
    lookup_store_release(&store);
    for (uint64_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char name[64];
        fill(name, sizeof(name), "gen-%llu/%s", (unsigned long long)i + 1, cases[i].file);
        damage(name, cases[i].at, cases[i].bytes, cases[i].cut);
        struct log_lines log;
        store = open_store(&log);
        CHECK(info_of(store).built);
        CHECK_EQ(info_of(store).generation, i + 2);
        CHECK_EQ(count_of(store, "fox "), 3);
        char expected[64];
        fill(expected, sizeof(expected),
                "gen-%llu is damaged, set aside as .bad: ", (unsigned long long)i + 1);
        CHECK_CONTAINS(log.text, expected);
        CHECK_CONTAINS(log.text, cases[i].message);
        lookup_store_release(&store);
        fill(expected, sizeof(expected), "gen-%llu.bad gen-%llu", (unsigned long long)i + 1,
                (unsigned long long)i + 2);
        if (i + 2 < 10)
            CHECK_STR(generations(), expected);
    }
}

TEST(p2_missing_files_are_damage) {
    static const char *const files[] = {"texts", "index.db", "manifest"};
    put_small_corpus();
    struct lookup_store *store = open_store(NULL);
    lookup_store_release(&store);
    for (int i = 0; i < 3; i++) {
        char name[64];
        fill(name, sizeof(name), "data/gen-%d/%s", i + 1, files[i]);
        CHECK_EQ(unlink(test_path(name)), 0);
        struct log_lines log;
        store = open_store(&log);
        CHECK(info_of(store).built);
        CHECK_CONTAINS(log.text, files[i]);
        lookup_store_release(&store);
    }
    CHECK_STR(generations(), "gen-3.bad gen-4");
}

TEST(older_good_generation_of_the_same_corpus_is_used) {
    put_small_corpus();
    struct lookup_store *store = open_store(NULL);
    lookup_store_release(&store);
    /* As if the process had died between giving gen-2 its name and removing gen-1. */
    char command[8192];
    fill(command, sizeof(command), "cp -r %s/data/gen-1 %s/data/gen-2", test_dir(), test_dir());
    CHECK_EQ(system(command), 0);
    damage("gen-2/texts", 20, "X", 0);
    struct log_lines log;
    store = open_store(&log);
    CHECK(!info_of(store).built);
    CHECK_EQ(info_of(store).generation, 1);
    CHECK_CONTAINS(log.text, "gen-2 is damaged");
    lookup_store_release(&store);
    CHECK_STR(generations(), "gen-1 gen-2.bad");
    /* And with both good, the newer one stays. */
    fill(command, sizeof(command), "cp -r %s/data/gen-1 %s/data/gen-3", test_dir(), test_dir());
    CHECK_EQ(system(command), 0);
    store = open_store(&log);
    CHECK_EQ(info_of(store).generation, 3);
    CHECK(!info_of(store).built);
    lookup_store_release(&store);
    CHECK_STR(generations(), "gen-2.bad gen-3");
}

TEST(foreign_things_in_the_data_directory_stay) {
    put_small_corpus();
    struct lookup_store *store = open_store(NULL);
    lookup_store_release(&store);
    static const char *const names[] = {"gen-x", "gen-", "gen-01", "gen-1.old", "notes"};
    for (int i = 0; i < 5; i++) {
        char name[64];
        fill(name, sizeof(name), "data/%s", names[i]);
        CHECK_EQ(mkdir(test_path(name), 0755), 0);
    }
    CHECK_EQ(mkdir(test_path("data/gen-9.tmp"), 0755), 0);
    test_write_file(test_path("data/gen-9.tmp/texts"), "x", 1);
    put_text("new", "more text\n");
    struct log_lines log;
    store = open_store(&log);
    CHECK_EQ(info_of(store).generation, 10);
    CHECK_CONTAINS(log.text, "removed gen-9.tmp");
    lookup_store_release(&store);
    for (int i = 0; i < 5; i++) {
        char name[64];
        fill(name, sizeof(name), "data/%s", names[i]);
        CHECK_EQ(access(test_path(name), F_OK), 0);
    }
    CHECK(access(test_path("data/gen-9.tmp"), F_OK) != 0);
}

/* ---- P1: killed while building ---- */

static void put_larger_corpus(void) {
    static char text[40000];
    uint64_t state = 7;
    for (int file = 0; file < 120; file++) {
        size_t n = (size_t)fill(text, sizeof(text), "File %d with a fox\n", file);
        while (n < sizeof(text) - 20)
            n += (size_t)fill(text + n, sizeof(text) - n, "w%llu ",
                    (unsigned long long)(test_random(&state) % 5000));
        char name[32];
        fill(name, sizeof(name), "d%d/f%d", file % 7, file);
        put_file(name, text, n);
    }
}

static void build_and_exit(const struct lookup_store_opts *opts) {
    struct pnx_error err = {0};
    struct lookup_store *store = NULL;
    int rc = lookup_store_open(opts, &err, &store);
    if (rc)
        fprintf(stderr, "child: %d: %s\n", rc, err.message);
    _exit(rc == 0 ? 0 : 1);
}

TEST_LIMIT(p1_start_recovers_from_a_kill_at_any_moment, 180) {
    put_larger_corpus();
    pnx_ns from = pnx_now();
    struct log_lines log;
    struct lookup_store *store = open_store(&log);
    pnx_ns whole = pnx_now() - from;
    lookup_store_release(&store);
    const struct lookup_store_opts opts = default_opts();
    uint64_t state = test_seed();
    int killed = 0, leftovers = 0, rounds = test_long() ? 100 : test_slow() ? 8 : 25;
    for (int round = 0; round < rounds; round++) {
        /* Another file: the next start has to build. */
        char name[32];
        fill(name, sizeof(name), "extra%d", round);
        put_text(name, "an extra fox\n");
        pid_t pid = fork();
        CHECK(pid >= 0);
        if (pid == 0)
            build_and_exit(&opts);
        /* Any moment will do, from before the first file to after the last. */
        usleep((useconds_t)(test_random(&state) % (uint64_t)(whole / 1000 * 5 / 4 + 1)));
        kill(pid, SIGKILL);
        int status = 0;
        CHECK_EQ(waitpid(pid, &status, 0), pid);
        CHECK(WIFSIGNALED(status) || WEXITSTATUS(status) == 0);
        killed += WIFSIGNALED(status);
        leftovers += strstr(generations(), ".tmp") != NULL;
        if (round % 2)
            continue; /* leave it for the next one, too */
        store = open_store(&log);
        CHECK_EQ(count_of(store, "fox "), 120 + round + 1);
        CHECK(!strstr(log.text, "damaged"));
        uint64_t number = info_of(store).generation;
        lookup_store_release(&store);
        char expected[32];
        fill(expected, sizeof(expected), "gen-%llu", (unsigned long long)number);
        CHECK_STR(generations(), expected);
    }
    CHECK_MSG(killed > 0, "no child was killed while it built");
    CHECK_MSG(leftovers > 0, "no kill left anything over");
}

static int cancel_later(void *ctx, const struct lookup_progress *progress) {
    int *left = ctx;
    CHECK(progress->files_done <= progress->files_total || progress->phase == LOOKUP_PHASE_SCAN);
    return --*left < 0;
}

TEST(cancelled_build_leaves_nothing_and_keeps_the_old) {
    put_small_corpus();
    struct lookup_store *store = open_store(NULL);
    lookup_store_release(&store);
    put_text("new", "new text\n");
    struct lookup_store_opts opts = default_opts();
    opts.progress = cancel_later;
    bool opened = false;
    for (int n = 0; n < 20 && !opened; n++) {
        int left = n;
        opts.progress_ctx = &left;
        struct pnx_error err = {0};
        int rc = lookup_store_open(&opts, &err, &store);
        CHECK_MSG(rc == 0 || rc == -ECANCELED, "%d: %s", rc, err.message);
        if (rc)
            CHECK_STR(generations(), "gen-1");
        opened = rc == 0;
    }
    CHECK(opened);
    CHECK_EQ(count_of(store, "new "), 1);
    lookup_store_release(&store);
    CHECK_STR(generations(), "gen-2");
}

/* ---- full disks ---- */

TEST(p1_file_size_limit_is_reported_and_recovered_from) {
    put_larger_corpus();
    signal(SIGXFSZ, SIG_IGN);
    struct rlimit old, small = {0};
    CHECK_EQ(getrlimit(RLIMIT_FSIZE, &old), 0);
    struct pnx_error err;
    struct lookup_store *store = NULL;
    for (rlim_t size = 0; size < 2000000; size = size * 2 + 1000) {
        small = (struct rlimit){.rlim_cur = size, .rlim_max = old.rlim_max};
        CHECK_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
        int rc = try_open(NULL, &err, &store);
        CHECK_EQ(setrlimit(RLIMIT_FSIZE, &old), 0);
        CHECK_MSG(rc == -EFBIG || rc == -EIO || rc == -ENOSPC, "%llu: %d: %s",
                (unsigned long long)size, rc, err.message);
        CHECK_CONTAINS(err.message, "gen-1.tmp");
        CHECK_STR(generations(), "");
    }
    store = open_store(NULL);
    CHECK_EQ(count_of(store, "fox "), 120);
    lookup_store_release(&store);
}

/* Mounts a file system of that size over the data directory, in a name space of our own. */
static void mount_small(unsigned kib) {
    char options[32];
    fill(options, sizeof(options), "size=%uk", kib);
    mkdir(test_path("data"), 0755);
    if (mount("tmpfs", test_path("data"), "tmpfs", 0, options) != 0)
        test_skip("cannot mount a small file system: %s", strerror(errno));
}

static void new_name_space(void) {
    if (unshare(CLONE_NEWNS) != 0 && unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0)
        test_skip("cannot have a name space for mounts: %s", strerror(errno));
    if (mount("none", "/", "none", MS_REC | MS_PRIVATE, NULL) != 0)
        test_skip("cannot make mounts private: %s", strerror(errno));
}

TEST_LIMIT(p1_full_disk_is_reported_and_leaves_nothing, 120) {
    put_larger_corpus();
    new_name_space();
    int full = 0, fits = 0;
    for (unsigned kib = 16; kib <= 32768; kib *= 2) {
        mount_small(kib);
        struct pnx_error err;
        struct lookup_store *store = NULL;
        int rc = try_open(NULL, &err, &store);
        if (rc == 0) {
            fits++;
            CHECK_EQ(count_of(store, "fox "), 120);
            lookup_store_release(&store);
        } else {
            full++;
            CHECK_MSG(rc == -ENOSPC, "%u KiB: %d: %s", kib, rc, err.message);
            CHECK_CONTAINS(err.message, "o space left");
            CHECK_STR(generations(), "");
        }
        CHECK_EQ(umount(test_path("data")), 0);
    }
    CHECK(full >= 3);
    CHECK(fits >= 1);
}

TEST_LIMIT(full_disk_while_the_corpus_changed_serves_the_older_index, 120) {
    put_larger_corpus();
    new_name_space();
    /* As small as one index fits into: a second one does not. */
    struct log_lines log;
    struct lookup_store *store = NULL;
    struct pnx_error err;
    unsigned kib = 1024;
    for (;; kib += 512) {
        mount_small(kib);
        if (try_open(&log, &err, &store) == 0)
            break;
        CHECK_EQ(umount(test_path("data")), 0);
    }
    lookup_store_release(&store);
    put_text("new", "a new fox\n");
    store = open_store(&log);
    CHECK_EQ(count_of(store, "fox "), 120);
    CHECK(!info_of(store).built);
    CHECK_CONTAINS(log.text, "serving the older gen-1");
    lookup_store_release(&store);
    CHECK_STR(generations(), "gen-1");
    CHECK_EQ(umount(test_path("data")), 0);
}

/* ---- P5: one process at a time ---- */

TEST(p5_second_process_is_told_who_has_the_directory) {
    put_small_corpus();
    struct lookup_store *store = open_store(NULL);
    struct lookup_store *second = NULL;
    struct pnx_error err;
    CHECK_EQ(try_open(NULL, &err, &second), -EBUSY);
    char pid[32];
    fill(pid, sizeof(pid), "pid %ld", (long)getpid());
    CHECK_CONTAINS(err.message, pid);
    CHECK_CONTAINS(err.message, test_path("data"));
    CHECK_EQ(count_of(store, "fox "), 3);
    lookup_store_release(&store);
    /* Freed with its owner. */
    store = open_store(NULL);
    lookup_store_release(&store);
}

TEST(unwritable_data_directory_is_named) {
    put_small_corpus();
    CHECK_EQ(mkdir(test_path("data"), 0555), 0);
    if (geteuid() == 0) {
        /* Root may write everywhere but on a read-only mount. */
        new_name_space();
        if (mount("tmpfs", test_path("data"), "tmpfs", MS_RDONLY, NULL) != 0)
            test_skip("cannot mount: %s", strerror(errno));
    }
    struct pnx_error err;
    struct lookup_store *store = NULL;
    int rc = try_open(NULL, &err, &store);
    CHECK_MSG(rc == -EACCES || rc == -EROFS, "%d: %s", rc, err.message);
    CHECK_CONTAINS(err.message, test_path("data"));
    if (geteuid() == 0)
        umount(test_path("data"));
}
