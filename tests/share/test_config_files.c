/* SPDX-License-Identifier: Apache-2.0 */
/* config: what can happen to the file, its directory and the links to it; P1, P2, P4, P5 of patinox/config.h. */
#include "config_case.h"
#include "os/fault.h"

#include <sched.h>
#include <sys/mount.h>

/* A change is heard by the next tick, loaded once after it has settled, and the value is the new one. */
static void check_change(struct pnx_config *config, long value) {
    int before = changes;
    uint64_t version = pnx_config_version(config);
    pnx_ns next = case_tick(config);
    CHECK_MSG(next == te.now + DEBOUNCE, "the change to %ld was not heard", value);
    CHECK_EQ(case_value(config) == value, 0);
    test_env_advance(&te, DEBOUNCE - 1);
    CHECK_EQ(case_tick(config), next);
    CHECK_EQ(changes, before);
    test_env_advance(&te, 1);
    case_tick(config);
    CHECK_EQ(case_value(config), value);
    CHECK_EQ(changes, before + 1);
    CHECK_EQ(last_change, value);
    CHECK_EQ(pnx_config_version(config), version + 1);
    CHECK_EQ(case_status(config).error.code, 0);
    case_settle(config); /* echoes of our own reading and watching */
    CHECK_EQ(changes, before + 1);
    CHECK_EQ(case_tick(config), PNX_NEVER);
    CHECK_EQ(case_status(config).watch, PNX_CONFIG_WATCH_INOTIFY);
}

/* The file is gone or bad: the value stays, the status says why, once. */
static void check_refused(struct pnx_config *config, int code, const char *message) {
    int before = events_refused;
    long value = case_value(config);
    int64_t logs = te.logs;
    CHECK_EQ(case_tick(config), te.now + DEBOUNCE);
    case_settle(config);
    struct pnx_config_status status = case_status(config);
    CHECK_EQ(status.error.code, code);
    CHECK_CONTAINS(status.error.message, message);
    CHECK_EQ(status.failed_at, te.now);
    CHECK(status.failed_real_ns > 0);
    CHECK_EQ(case_value(config), value);
    CHECK_EQ(events_refused, before + 1);
    CHECK_EQ(last_refusal, code);
    CHECK_MSG(te.logs == logs + 1, "%d %s", case_status(config).watch_error, te.last_log);
}

TEST(p2_an_edit_in_place_is_loaded) {
    case_begin();
    const char *path = test_path("c");
    put(path, "1");
    struct pnx_config *config = case_create(path, 0);
    CHECK_EQ(case_value(config), 1);
    CHECK_EQ(case_tick(config), PNX_NEVER);
    put(path, "2");
    check_change(config, 2);
    int fd = open(path, O_WRONLY | O_APPEND | O_CLOEXEC);
    CHECK(write(fd, "0", 1) == 1); /* kept open: only the write itself tells */
    check_change(config, 20);
    close(fd);
    case_end(&config);
}

/* Who watches the directory alone hears nothing of what is written by another name. */
TEST(p2_an_edit_by_another_name_of_the_file_is_loaded) {
    case_begin();
    const char *path = test_path("c"), *beside = test_path("beside"), *away = test_path("d/c");
    put(path, "1");
    CHECK(mkdir(test_path("d"), 0700) == 0);
    CHECK(link(path, beside) == 0 && link(path, away) == 0);
    struct pnx_config *config = case_create(path, 0);
    CHECK_EQ(case_tick(config), PNX_NEVER);
    put(beside, "2");
    check_change(config, 2);
    put(away, "3");
    check_change(config, 3);
    put_by_rename(path, "4");
    check_change(config, 4);
    put(away, "5"); /* another file now */
    CHECK_EQ(case_tick(config), PNX_NEVER);
    case_end(&config);
}

/* As "docker -v file:file" mounts it: the one who edits knows the file by a path that is not in sight here. */
TEST(p2_an_edit_of_a_file_that_is_mounted_there_is_loaded) {
    case_begin();
    const char *path = test_path("c"), *outside = test_path("outside");
    put(path, "0");
    put(outside, "1");
    if (unshare(CLONE_NEWNS) != 0)
        test_skip("cannot have a name space of mounts: %s", strerror(errno));
    if (mount("none", "/", "none", MS_REC | MS_PRIVATE, NULL) != 0)
        test_skip("cannot make mounts private: %s", strerror(errno));
    if (mount(outside, path, "none", MS_BIND, NULL) != 0)
        test_skip("cannot mount: %s", strerror(errno));
    struct pnx_config *config = case_create(path, 0);
    CHECK_EQ(case_value(config), 1);
    CHECK_EQ(case_tick(config), PNX_NEVER);
    put(outside, "2");
    check_change(config, 2);
    case_end(&config);
    CHECK(umount(path) == 0);
}

TEST(p2_a_file_renamed_over_it_is_loaded) {
    case_begin();
    const char *path = test_path("c");
    put(path, "1");
    struct pnx_config *config = case_create(path, 0);
    for (long i = 2; i < 6; i++) {
        char text[32];
        snprintf(text, sizeof(text), "%ld", i);
        put_by_rename(path, text);
        check_change(config, i);
    }
    CHECK(link(path, test_path("link")) == 0); /* editors that keep a backup */
    CHECK(unlink(path) == 0);
    put(path, "7");
    check_change(config, 7);
    case_end(&config);
}

TEST(p2_a_file_deleted_and_made_again_is_loaded) {
    case_begin();
    const char *path = test_path("c");
    put(path, "1");
    struct pnx_config *config = case_create(path, 0);
    CHECK(unlink(path) == 0);
    put(path, "2"); /* within the debounce: nobody notices that it was gone */
    check_change(config, 2);
    CHECK_EQ(events_refused, 0);
    CHECK(unlink(path) == 0);
    check_refused(config, -ENOENT, "there is no such thing");
    put(path, "3");
    check_change(config, 3);
    CHECK(unlink(path) == 0);
    check_refused(config, -ENOENT, "there is no such thing");
    put(path, "3"); /* as it was: nothing new, but the error is over */
    case_settle(config);
    CHECK_EQ(case_status(config).error.code, 0);
    CHECK_EQ(case_status(config).failed_at, 0);
    CHECK_EQ(pnx_config_version(config), 3);
    case_end(&config);
}

TEST(p2_a_directory_that_vanishes_and_returns_is_followed) {
    case_begin();
    char dir[512], app[512], path[512];
    snprintf(dir, sizeof(dir), "%s", test_path("etc"));
    snprintf(app, sizeof(app), "%s", test_path("etc/app"));
    snprintf(path, sizeof(path), "%s", test_path("etc/app/c"));
    CHECK(mkdir(dir, 0700) == 0 && mkdir(app, 0700) == 0);
    put(path, "1");
    struct pnx_config *config = case_create(path, 0);
    const char *away = test_path("etc/old");
    CHECK(rename(app, away) == 0);
    check_refused(config, -ENOENT, "there is no such thing");
    CHECK(mkdir(app, 0700) == 0);
    case_settle(config); /* the directory is there, the file is not */
    CHECK_EQ(case_status(config).error.code, -ENOENT);
    put(path, "2");
    check_change(config, 2);
    /* Deleted with all that is above it. */
    CHECK(unlink(path) == 0 && rmdir(app) == 0);
    CHECK(unlink(test_path("etc/old/c")) == 0 && rmdir(test_path("etc/old")) == 0);
    CHECK(rmdir(dir) == 0);
    check_refused(config, -ENOENT, "there is no such thing");
    CHECK(mkdir(dir, 0700) == 0);
    case_settle(config);
    CHECK(mkdir(test_path("etc/app"), 0700) == 0);
    case_settle(config);
    put(test_path("etc/app/c"), "3");
    check_change(config, 3);
    case_end(&config);
}

TEST(p2_a_directory_swapped_higher_up_is_noticed) {
    case_begin();
    CHECK(mkdir(test_path("a"), 0700) == 0 && mkdir(test_path("a/b"), 0700) == 0);
    CHECK(mkdir(test_path("n"), 0700) == 0 && mkdir(test_path("n/b"), 0700) == 0);
    put(test_path("a/b/c"), "1");
    put(test_path("n/b/c"), "2");
    struct pnx_config *config = case_create(test_path("a/b/c"), 0);
    CHECK(rename(test_path("a"), test_path("old")) == 0);
    CHECK(rename(test_path("n"), test_path("a")) == 0);
    check_change(config, 2);
    put(test_path("a/b/c"), "3"); /* the new directories are the watched ones now */
    check_change(config, 3);
    put(test_path("old/b/c"), "4"); /* and the old ones are not */
    CHECK_EQ(case_tick(config), PNX_NEVER);
    case_end(&config);
}

/* As Kubernetes does: config -> ..data/config, ..data -> ..v1, and ..data is replaced by a rename. */
TEST(p2_a_swapped_link_to_a_directory_is_followed) {
    case_begin();
    CHECK(mkdir(test_path("..v1"), 0700) == 0);
    put(test_path("..v1/config"), "1");
    CHECK(symlink("..v1", test_path("..data")) == 0);
    CHECK(symlink("..data/config", test_path("config")) == 0);
    struct pnx_config *config = case_create(test_path("config"), 0);
    CHECK_EQ(case_value(config), 1);
    for (long i = 2; i < 5; i++) {
        char name[16], file[32], text[16];
        snprintf(name, sizeof(name), "..v%ld", i);
        snprintf(file, sizeof(file), "..v%ld/config", i);
        snprintf(text, sizeof(text), "%ld", i);
        CHECK(mkdir(test_path(name), 0700) == 0);
        put(test_path(file), text);
        CHECK_EQ(case_tick(config), PNX_NEVER); /* other names in the directory */
        CHECK(symlink(name, test_path("..data_tmp")) == 0);
        CHECK(rename(test_path("..data_tmp"), test_path("..data")) == 0);
        check_change(config, i);
        snprintf(file, sizeof(file), "..v%ld/config", i - 1);
        CHECK(unlink(test_path(file)) == 0); /* the old directory goes, as the orchestrator does */
        snprintf(name, sizeof(name), "..v%ld", i - 1);
        CHECK(rmdir(test_path(name)) == 0);
        CHECK_EQ(case_tick(config), PNX_NEVER);
    }
    put(test_path("..v4/config"), "77"); /* an edit of what the links lead to */
    check_change(config, 77);
    CHECK(case_stats(config).watches < 32);
    case_end(&config);
}

TEST(p2_a_link_in_the_middle_of_the_path_is_followed) {
    case_begin();
    CHECK(mkdir(test_path("r1"), 0700) == 0 && mkdir(test_path("r2"), 0700) == 0);
    put(test_path("r1/c"), "1");
    put(test_path("r2/c"), "2");
    CHECK(symlink(test_path("r1"), test_path("current")) == 0); /* an absolute one */
    struct pnx_config *config = case_create(test_path("current/c"), 0);
    CHECK(symlink("r2", test_path("next")) == 0);
    CHECK(rename(test_path("next"), test_path("current")) == 0);
    check_change(config, 2);
    put(test_path("r1/c"), "3");
    CHECK_EQ(case_tick(config), PNX_NEVER);
    CHECK(unlink(test_path("current")) == 0);
    check_refused(config, -ENOENT, "there is no such thing");
    CHECK(symlink("../", test_path("r1/up")) == 0);
    CHECK(symlink("./r1/up//r1", test_path("current")) == 0);
    check_change(config, 3);
    case_end(&config);
}

TEST(p1_a_circle_of_links_is_refused) {
    case_begin();
    put(test_path("real"), "1");
    CHECK(symlink("real", test_path("c")) == 0);
    struct pnx_config *config = case_create(test_path("c"), 0);
    CHECK(symlink("d", test_path("c2")) == 0 && symlink("c", test_path("d")) == 0);
    CHECK(rename(test_path("c2"), test_path("c")) == 0);
    check_refused(config, -ELOOP, "/c: too many symbolic links");
    CHECK(unlink(test_path("d")) == 0);
    put(test_path("d"), "5");
    case_settle(config);
    CHECK_EQ(case_value(config), 5);
    case_end(&config);
}

TEST(p2_a_burst_of_edits_is_loaded_once) {
    case_begin();
    const char *path = test_path("c");
    put(path, "1");
    struct pnx_config *config = case_create(path, 0);
    for (int i = 0; i < 500; i++) {
        put(path, "");
        put_by_rename(path, "bad");
        put(path, "42");
    }
    check_change(config, 42);
    CHECK_EQ(events_refused, 0);
    CHECK_EQ(parses, 2);
    case_end(&config);
}

TEST(p2_each_edit_puts_the_loading_off) {
    case_begin();
    const char *path = test_path("c");
    put(path, "1");
    struct pnx_config *config = case_create(path, 0);
    for (int i = 0; i < 5; i++) {
        put(path, i % 2 ? "bad" : "");
        CHECK_EQ(case_tick(config), te.now + DEBOUNCE);
        test_env_advance(&te, DEBOUNCE - 1);
    }
    put(path, "2");
    check_change(config, 2);
    CHECK_EQ(parses, 2);
    case_end(&config);
}

TEST(p2_a_file_that_never_rests_is_loaded_at_the_cap) {
    case_begin();
    const char *path = test_path("c");
    put(path, "1");
    struct pnx_config *config = case_create(path, 0);
    pnx_ns begun = te.now;
    int rounds = 0;
    for (; changes == 0; rounds++) {
        CHECK(rounds < 100);
        put(path, "2");
        case_tick(config);
        test_env_advance(&te, DEBOUNCE / 2);
    }
    CHECK(te.now - begun >= 10 * DEBOUNCE && te.now - begun <= 11 * DEBOUNCE);
    case_end(&config);
}

TEST(p1_a_bad_edit_changes_nothing_and_is_told_once) {
    case_begin();
    const char *path = test_path("c");
    put(path, "1");
    struct pnx_config *config = case_create(path, 0);
    put(path, "bad file");
    check_refused(config, PNX_E_FORMAT, "/c: line 1: \"bad file\" is no number");
    CHECK_STR(case_status(config).error.phase, "parse");
    int before = parses;
    put(path, "bad file"); /* touched, not changed */
    case_settle(config);
    CHECK_EQ(parses, before);
    CHECK_EQ(events_refused, 1);
    put(path, "2000");
    check_refused(config, -ERANGE, "/c: 2000 is over 1000");
    CHECK_STR(case_status(config).error.phase, "validate");
    put(path, "silent");
    check_refused(config, -EIO, "/c: input or output failed");
    put(path, "positive");
    check_refused(config, -EINVAL, "/c: invalid argument");
    put(path, "nothing");
    check_refused(config, -EINVAL, "/c: parse gave no value");
    CHECK_EQ(pnx_config_version(config), 1);
    put(path, "9");
    check_change(config, 9);
    CHECK_EQ(case_stats(config).refusals, 5);
    CHECK_EQ(case_stats(config).changes, 1);
    CHECK_EQ(events_changed, 1);
    case_end(&config);
}

TEST(p1_a_bad_text_that_returns_after_another_error_is_told_again) {
    case_begin();
    const char *path = test_path("c");
    put(path, "1");
    struct pnx_config *config = case_create(path, 0);
    put(path, "bad");
    check_refused(config, PNX_E_FORMAT, "is no number");
    CHECK(unlink(path) == 0);
    check_refused(config, -ENOENT, "there is no such thing");
    put(path, "bad");
    check_refused(config, PNX_E_FORMAT, "is no number");
    put(path, "1"); /* back to what is in force: published anew, since it had been left */
    case_settle(config);
    CHECK_EQ(case_status(config).error.code, 0);
    CHECK_EQ(case_value(config), 1);
    case_end(&config);
}

TEST(p1_a_file_too_large_is_refused) {
    case_begin();
    const char *path = test_path("c");
    char text[4098];
    memset(text, ' ', sizeof(text));
    text[0] = '4';
    test_write_file(path, text, 4096);
    struct pnx_config *config = case_create(path, 0);
    CHECK_EQ(case_value(config), 4);
    test_write_file(path, text, 4097);
    check_refused(config, -EFBIG, "/c: has 4097 bytes; at most 4096 are read");
    put(path, "5");
    check_change(config, 5);
    case_end(&config);
}

TEST(p1_an_unreadable_file_is_refused) {
    if (geteuid() == 0) {
        case_begin();
        const char *path = test_path("c");
        put(path, "1");
        struct pnx_config *config = case_create(path, 0);
        test_os_fault("open", 1, true, EACCES); /* root reads everything */
        CHECK(chmod(path, 0) == 0);
        check_refused(config, -EACCES, "/c: permission denied");
        CHECK(test_os_fault_clear() > 0);
        CHECK(chmod(path, 0600) == 0);
        case_settle(config);
        CHECK_EQ(case_status(config).error.code, 0);
        case_end(&config);
        return;
    }
    case_begin();
    const char *path = test_path("c");
    put(path, "1");
    struct pnx_config *config = case_create(path, 0);
    CHECK(chmod(path, 0) == 0);
    check_refused(config, -EACCES, "/c: permission denied");
    CHECK(chmod(path, 0600) == 0);
    case_settle(config);
    CHECK_EQ(case_status(config).error.code, 0);
    case_end(&config);
}

TEST(p1_what_is_no_regular_file_is_refused_without_blocking) {
    case_begin();
    const char *path = test_path("c");
    put(path, "1");
    struct pnx_config *config = case_create(path, 0);
    CHECK(unlink(path) == 0 && mkfifo(path, 0600) == 0);
    check_refused(config, -EINVAL, "/c: is not a regular file");
    CHECK(unlink(path) == 0 && mkdir(path, 0700) == 0);
    check_refused(config, -EISDIR, "/c: is a directory");
    CHECK(rmdir(path) == 0);
    put(path, "2");
    check_change(config, 2);
    case_end(&config);
}

TEST(p1_an_empty_file_is_the_parsers_to_judge) {
    case_begin();
    const char *path = test_path("c");
    put(path, "");
    struct pnx_config *config = case_create(path, 0);
    CHECK_EQ(case_value(config), 0);
    put(path, "3");
    check_change(config, 3);
    put(path, "");
    check_change(config, 0);
    case_end(&config);
}

TEST(p1_a_file_that_does_not_tell_its_size_is_read) {
    case_begin();
    struct pnx_config *config = case_create("/proc/sys/kernel/ostype", PNX_CONFIG_POLL);
    PNX_AUTO_RC const struct number *number = pnx_config_load(config, NULL);
    CHECK(number->length > 0);
    PNX_RC_CLEAR(number);
    case_end(&config);
}

/* ---- P5 ---- */

TEST(p5_a_half_written_file_is_loaded_when_it_is_whole) {
    case_begin();
    const char *path = test_path("c");
    put(path, "1");
    struct pnx_config *config = case_create(path, 0);
    int fd = open(path, O_WRONLY | O_TRUNC | O_CLOEXEC);
    CHECK(write(fd, "ba", 2) == 2);
    case_tick(config);
    test_env_advance(&te, DEBOUNCE / 2);
    CHECK(pwrite(fd, "25", 2, 0) == 2);
    case_tick(config);
    test_env_advance(&te, DEBOUNCE / 2);
    case_tick(config);
    CHECK_EQ(parses, 1); /* it was not at rest yet */
    close(fd);
    case_settle(config);
    CHECK_EQ(case_value(config), 25);
    CHECK_EQ(events_refused, 0);
    case_end(&config);
}

#ifdef PNX_FAULTS
static const char *edited_path;
static int edits_wanted, opened;

/* Not a fault but a writer that is faster: edits the file between our opening and our reading it. */
static int edit_at_read(const char *call) {
    if (strcmp(call, "open") == 0) {
        opened = 1;
    } else if (strcmp(call, "read") == 0 && opened && edits_wanted > 0) {
        opened = 0;
        edits_wanted--;
        put(edited_path, edits_wanted ? "bad and longer" : "33 and whole");
    }
    return 0;
}
#endif

TEST(p5_a_file_that_changes_while_it_is_read_is_read_again) {
#ifdef PNX_FAULTS
    case_begin();
    const char *path = edited_path = test_path("c");
    put(path, "1");
    struct pnx_config *config = case_create(path, 0);
    put(path, "2");
    edits_wanted = 3;
    pnx__os_fault_set(edit_at_read);
    for (int i = 0; i < 4; i++)
        case_settle(config);
    CHECK_EQ(case_value(config), 33);
    CHECK_EQ(case_stats(config).retries, 3);
    CHECK_EQ(parses, 2); /* none of the states between */
    CHECK_EQ(events_refused, 0);
    /* One that always does so is an error in the end, and still tried again. */
    put(path, "4");
    edits_wanted = 1000;
    for (int i = 0; i < 15; i++)
        case_settle(config);
    CHECK_EQ(case_status(config).error.code, -EAGAIN);
    CHECK_CONTAINS(case_status(config).error.message, "changed while it was read");
    CHECK_EQ(events_refused, 1);
    CHECK_EQ(pnx_config_reload(config, NULL), -EAGAIN);
    edits_wanted = 1;
    case_settle(config);
    case_settle(config);
    CHECK_EQ(case_status(config).error.code, 0);
    pnx__os_fault_set(NULL);
    case_end(&config);
#else
    test_skip("needs injected faults");
#endif
}

/* ---- P4: polling ---- */

static void poll_scenarios(struct pnx_config *config, const char *path) {
    CHECK_EQ(case_status(config).watch, PNX_CONFIG_WATCH_POLL);
    CHECK_EQ(case_stats(config).polling, 1);
    CHECK_EQ(case_tick(config), te.now + POLL);
    put_by_rename(path, "2");
    test_env_advance(&te, POLL - 1);
    CHECK_EQ(case_tick(config), te.now + 1);
    test_env_advance(&te, 1);
    CHECK_EQ(case_tick(config), te.now + DEBOUNCE);
    test_env_advance(&te, DEBOUNCE);
    case_tick(config);
    CHECK_EQ(case_value(config), 2);
    /* An edit that neither size nor time stamps tell: the second look after a change finds it. */
    struct stat st;
    CHECK(stat(path, &st) == 0);
    for (int i = 0; i < 3; i++) {
        test_env_advance(&te, POLL);
        case_settle(config);
    }
    CHECK_EQ(changes, 1);
    CHECK(unlink(path) == 0);
    for (int i = 0; i < 5; i++) {
        test_env_advance(&te, POLL);
        case_settle(config);
    }
    CHECK_EQ(case_status(config).error.code, -ENOENT);
    CHECK_EQ(events_refused, 1);
    CHECK(case_stats(config).reloads <= 4); /* what does not change is not read again and again */
    put(path, "3");
    test_env_advance(&te, POLL);
    case_settle(config);
    CHECK_EQ(case_value(config), 3);
    CHECK_EQ(case_status(config).error.code, 0);
}

/* Two edits within one tick of the file system's clock look like one: each state that was read gets a second look. */
TEST(p4_what_was_read_is_looked_at_once_more) {
    case_begin();
    const char *path = test_path("c");
    put(path, "1");
    struct pnx_config *config = case_create(path, PNX_CONFIG_POLL);
    for (int i = 0; i < 3; i++) {
        test_env_advance(&te, POLL);
        case_settle(config);
    }
    CHECK_EQ(case_stats(config).reloads, 1);
    CHECK_EQ(case_stats(config).unchanged, 1);
    put_by_rename(path, "2");
    CHECK_EQ(pnx_config_reload(config, NULL), 0); /* by hand */
    for (int i = 0; i < 3; i++) {
        test_env_advance(&te, POLL);
        case_settle(config);
    }
    CHECK_EQ(case_stats(config).reloads, 3);
    CHECK_EQ(case_stats(config).unchanged, 2);
    CHECK_EQ(parses, 2);
    case_end(&config);
}

/* Nothing says that a polled file is still being written: it is looked at again before it is loaded. */
TEST(p2_a_polled_file_settles_too) {
    case_begin();
    const char *path = test_path("c");
    put(path, "1");
    struct pnx_config *config = case_create(path, PNX_CONFIG_POLL);
    for (int i = 0; i < 2; i++) {
        test_env_advance(&te, POLL);
        case_settle(config);
    }
    int before = parses;
    put(path, "20");
    test_env_advance(&te, POLL);
    CHECK_EQ(case_tick(config), te.now + DEBOUNCE);
    put(path, "bad half");
    test_env_advance(&te, DEBOUNCE);
    CHECK_EQ(case_tick(config), te.now + DEBOUNCE);
    put(path, "300");
    test_env_advance(&te, DEBOUNCE);
    CHECK_EQ(case_tick(config), te.now + DEBOUNCE);
    CHECK_EQ(parses, before);
    test_env_advance(&te, DEBOUNCE);
    case_tick(config);
    CHECK_EQ(case_value(config), 300);
    CHECK_EQ(parses, before + 1);
    CHECK_EQ(events_refused, 0);
    /* One that never rests is loaded at the cap. */
    pnx_ns begun = 0;
    for (int i = 0; changes < 2; i++) {
        char text[32];
        CHECK(i < 100);
        snprintf(text, sizeof(text), "%d and %*s", i, i, "more");
        put(path, text);
        pnx_ns next = case_tick(config);
        begun = begun || next != te.now + DEBOUNCE ? begun : te.now;
        test_env_advance(&te, begun ? DEBOUNCE : POLL);
    }
    CHECK(te.now - begun >= 10 * DEBOUNCE && te.now - begun <= 12 * DEBOUNCE);
    case_end(&config);
}

TEST(p4_polling_may_be_asked_for) {
    case_begin();
    const char *path = test_path("c");
    put(path, "1");
    struct pnx_config *config = case_create(path, PNX_CONFIG_POLL);
    CHECK_EQ(case_status(config).watch_error, 0);
    CHECK_EQ(pnx_config_fd(config), -ENOTSUP);
    poll_scenarios(config, path);
    case_end(&config);
}

static void without(const char *call, int error) {
    if (!test_os_faults())
        test_skip("needs injected faults");
    case_begin();
    const char *path = test_path("c");
    put(path, "1");
    test_os_fault(call, 1, true, error);
    struct pnx_config *config = case_create(path, 0);
    CHECK_EQ(case_status(config).watch_error, -error);
    CHECK_EQ(te.logs, 1);
    CHECK_CONTAINS(te.last_log, "inotify cannot watch all of ");
    poll_scenarios(config, path);
    CHECK(test_os_fault_clear() > 0);
    case_end(&config);
}

TEST(p4_without_a_descriptor_for_inotify_it_polls) {
    without("inotify_init", EMFILE);
}

TEST(p4_without_room_for_watches_it_polls) {
    without("inotify_add_watch", ENOSPC);
}

TEST(p4_watching_resumes_when_there_is_room_again) {
    if (!test_os_faults())
        test_skip("needs injected faults");
    case_begin();
    const char *path = test_path("c");
    put(path, "1");
    test_os_fault("inotify_add_watch", 2, false, ENOSPC); /* one of several */
    struct pnx_config *config = case_create(path, 0);
    test_os_fault_clear();
    CHECK_EQ(case_status(config).watch, PNX_CONFIG_WATCH_POLL);
    CHECK(pnx_config_fd(config) >= 0);
    test_env_advance(&te, POLL);
    case_tick(config);
    CHECK_EQ(case_status(config).watch, PNX_CONFIG_WATCH_INOTIFY);
    CHECK_EQ(case_status(config).watch_error, 0);
    case_settle(config); /* the second look at what was read */
    CHECK_EQ(case_tick(config), PNX_NEVER);
    put(path, "2");
    check_change(config, 2);
    case_end(&config);
}

TEST(p4_a_broken_inotify_descriptor_ends_in_polling_not_in_spinning) {
    if (!test_os_faults())
        test_skip("needs injected faults");
    case_begin();
    const char *path = test_path("c");
    put(path, "1");
    struct pnx_config *config = case_create(path, 0);
    test_os_fault("read", 1, false, EBADF);
    put(path, "2");
    CHECK_EQ(case_tick(config), te.now + DEBOUNCE); /* anything may have happened: look */
    test_os_fault_clear();
    case_settle(config);
    CHECK_EQ(case_value(config), 2);
    CHECK_EQ(case_status(config).watch, PNX_CONFIG_WATCH_POLL);
    CHECK_EQ(case_status(config).watch_error, -EBADF);
    put(path, "3");
    test_env_advance(&te, POLL);
    case_settle(config);
    CHECK_EQ(case_value(config), 3);
    case_end(&config);
}

TEST(p4_a_lost_queue_of_notifications_loses_no_change) {
    case_begin();
    const char *path = test_path("c"), *noise = test_path("noise");
    put(path, "1");
    struct pnx_config *config = case_create(path, 0);
    long max = 0;
    FILE *file = fopen("/proc/sys/fs/inotify/max_queued_events", "r");
    CHECK(file && fscanf(file, "%ld", &max) == 1);
    fclose(file);
    if (max > 100000)
        test_skip("the queue is too long to fill: %ld", max);
    int fds[2] = {open(noise, O_WRONLY | O_CREAT | O_CLOEXEC, 0600),
            open(test_path("noise2"), O_WRONLY | O_CREAT | O_CLOEXEC, 0600)};
    for (long i = 0; i < max + 10; i++) /* two files in turn: equal events are merged */
        CHECK(write(fds[i % 2], "x", 1) == 1);
    put(path, "2"); /* its own notification is lost */
    check_change(config, 2);
    close(fds[0]);
    close(fds[1]);
    case_end(&config);
}

/* ---- errors that are ours, not the file's ---- */

TEST(p1_what_is_not_the_files_fault_is_tried_again) {
    if (!test_os_faults())
        test_skip("needs injected faults");
    case_begin();
    const char *path = test_path("c");
    put(path, "1");
    struct pnx_config *config = case_create(path, 0);
    put(path, "2");
    case_tick(config);
    test_os_fault("open", 1, true, EMFILE);
    test_env_advance(&te, DEBOUNCE);
    CHECK_EQ(case_tick(config), te.now + POLL);
    CHECK_EQ(case_status(config).error.code, -EMFILE);
    test_env_advance(&te, POLL);
    case_tick(config);
    CHECK_EQ(events_refused, 1);
    test_os_fault_clear();
    test_env_advance(&te, POLL);
    case_tick(config);
    CHECK_EQ(case_value(config), 2);
    CHECK_EQ(case_status(config).error.code, 0);
    put(path, "memory"); /* parse had no memory */
    case_settle(config);
    CHECK_EQ(case_status(config).error.code, -ENOMEM);
    int before = parses;
    test_env_advance(&te, POLL);
    case_tick(config);
    CHECK_EQ(parses, before + 1);
    case_end(&config);
}

/* While it waits to try again, a change is one like any other: loaded when it has settled, not when half of it is there. */
TEST(p2_a_change_after_a_failure_settles_first) {
    if (!test_os_faults())
        test_skip("needs injected faults");
    case_begin();
    const char *path = test_path("c");
    put(path, "1");
    struct pnx_config *config = case_create(path, 0);
    put(path, "2");
    case_tick(config);
    test_os_fault("open", 1, true, EMFILE);
    test_env_advance(&te, DEBOUNCE);
    CHECK_EQ(case_tick(config), te.now + POLL);
    CHECK(test_os_fault_clear() > 0);
    test_env_advance(&te, POLL - PNX_MS); /* longer than changes may put a loading off */
    int before = parses;
    put(path, "bad begin");
    CHECK_EQ(case_tick(config), te.now + DEBOUNCE);
    CHECK_EQ(parses, before);
    put(path, "3");
    CHECK_EQ(case_tick(config), te.now + DEBOUNCE);
    test_env_advance(&te, DEBOUNCE);
    CHECK_EQ(case_tick(config), PNX_NEVER);
    CHECK_EQ(case_value(config), 3);
    CHECK_EQ(parses, before + 1);
    CHECK_EQ(events_refused, 1);
    case_end(&config);
}

/* Each system call of a reload fails, once and for ever: no change of the value, no crash, and it recovers. */
TEST(p1_each_system_call_of_a_reload_may_fail) {
    static const char *const calls[] = {"open", "fstat", "read", "stat", "lstat", "readlink",
            "close", "inotify_add_watch", "inotify_rm_watch"};
    if (!test_os_faults())
        test_skip("needs injected faults");
    case_begin();
    CHECK(mkdir(test_path("d"), 0700) == 0);
    put(test_path("d/c"), "1");
    CHECK(symlink("d/c", test_path("c")) == 0);
    struct pnx_config *config = case_create(test_path("c"), 0);
    long value = 1;
    for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++) {
        for (int forever = 0; forever < 2; forever++) {
            for (int nth = 1; nth < 4; nth++) {
                char text[32];
                snprintf(text, sizeof(text), "%ld", value + 1);
                put_by_rename(test_path("d/c"), text);
                test_os_fault(calls[i], nth, forever, EIO);
                case_settle(config);
                CHECK(case_value(config) == value || case_value(config) == value + 1);
                test_os_fault_clear();
                for (int k = 0; k < 3; k++) {
                    test_env_advance(&te, POLL);
                    case_settle(config);
                }
                CHECK_MSG(case_value(config) == value + 1, "%s, %d. call, %s: not recovered",
                        calls[i], nth, forever ? "for ever" : "once");
                CHECK_EQ(case_status(config).error.code, 0);
                value++;
            }
        }
    }
    case_end(&config);
}
