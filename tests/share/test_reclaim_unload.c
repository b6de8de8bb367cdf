/* SPDX-License-Identifier: Apache-2.0 */
/*
 * reclaim: a plugin that has the static library inside is unloaded while the program's threads are registered with it.
 * Their ends, and forks, must find nothing of it.
 */
#include "harness/harness.h"

#include <dlfcn.h>
#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

#define THREADS 3

static pthread_barrier_t loaded, used;
static int (*use)(void);
static int (*end)(void);
static bool over;

static void *run(void *arg) {
    (void)arg;
    for (;;) {
        pthread_barrier_wait(&loaded);
        if (over)
            return NULL; /* the thread ends after the plugin has gone */
        CHECK_EQ(use(), 0);
        pthread_barrier_wait(&used);
    }
}

static void *load(const char *path) {
    void *plugin = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    CHECK_MSG(plugin, "%s", dlerror());
    use = (int (*)(void))(uintptr_t)dlsym(plugin, "plugin_use");
    end = (int (*)(void))(uintptr_t)dlsym(plugin, "plugin_end");
    CHECK(use && end);
    return plugin;
}

static void unload(void *plugin, const char *path) {
    CHECK_EQ(dlclose(plugin), 0);
    CHECK(dlopen(path, RTLD_NOW | RTLD_NOLOAD) == NULL); /* it has really gone */
}

static void nothing(void *ctx) {
    (void)ctx;
    _exit(0);
}

/* More rounds than a process has keys of threads: each is given back. */
static void come_and_go(bool prepared) {
    const char *path = PNX_TEST_PLUGIN;
    pthread_t threads[THREADS];
    pthread_barrier_init(&loaded, NULL, THREADS + 1);
    pthread_barrier_init(&used, NULL, THREADS + 1);
    for (int i = 0; i < THREADS; i++)
        CHECK_EQ(pthread_create(&threads[i], NULL, run, NULL), 0);
    int rounds = test_slow() ? 40 : 1200;
    for (int i = 0; i < rounds; i++) {
        void *plugin = load(path);
        pthread_barrier_wait(&loaded);
        CHECK_EQ(use(), 0);
        pthread_barrier_wait(&used);
        if (prepared)
            CHECK_EQ(end(), 0);
        unload(plugin, path);
        if (i % 300 == 0)
            CHECK_EQ(test_child(nothing, NULL), 0);
    }
    over = true;
    pthread_barrier_wait(&loaded);
    for (int i = 0; i < THREADS; i++)
        CHECK_EQ(pthread_join(threads[i], NULL), 0);
}

TEST_LIMIT(p1_a_plugin_is_unloaded_while_threads_are_registered_with_it, 300) {
    come_and_go(true);
}

static void *use_once(void *arg) {
    CHECK_EQ(use(), 0);
    pthread_barrier_wait(&used);
    pthread_barrier_wait(&used);
    return arg;
}

TEST(a_thread_that_ends_between_the_preparation_and_the_unloading_finds_nothing) {
    const char *path = PNX_TEST_PLUGIN;
    void *plugin = load(path);
    pthread_t thread;
    pthread_barrier_init(&used, NULL, 2);
    CHECK_EQ(pthread_create(&thread, NULL, use_once, NULL), 0);
    pthread_barrier_wait(&used);
    CHECK_EQ(end(), 0);
    pthread_barrier_wait(&used);
    CHECK_EQ(pthread_join(thread, NULL), 0);
    unload(plugin, path);
}

static void without_a_word(void *ctx) {
    (void)ctx;
    come_and_go(false);
    _exit(0); /* the records are lost, which leak checkers would tell */
}

TEST_LIMIT(one_that_does_not_prepare_for_it_loses_records_only, 300) {
    CHECK_EQ(test_child(without_a_word, NULL), 0);
}
