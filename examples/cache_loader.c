/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cache_loader.c - a cache that fetches what it lacks: one loader a key, however many ask; absences are remembered;
 * a write to the source makes the cached value go.
 */
#include <patinox/cache.h>

#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#define THREADS 4

/* Stands for a database: a slow place that knows three things. */
struct source {
    pthread_mutex_t lock;
    char *value[3];
    int reads;
};

struct app {
    struct source source;
    struct pnx_cache *cache;
};

/* Called on a miss, by one thread for each key, with no lock of the cache held. */
static int fetch(
        void *ctx, const void *key, size_t key_size, pnx_ns deadline, struct pnx_cache_load *load) {
    struct source *source = ctx;
    int rc = -ENOENT; /* remembered for the cache's negative_ttl */
    if (deadline != PNX_NEVER && pnx_now() > deadline)
        return -ETIMEDOUT; /* what a slow source would look at now and then */
    pthread_mutex_lock(&source->lock);
    source->reads++;
    for (int i = 0; i < 3; i++) {
        size_t size = strlen(source->value[i]) + 1;
        if (key_size != 1 || *(const char *)key != 'a' + i)
            continue;
        if (i == 2) /* not copied: this text outlives the cache, which has no destroy function */
            rc = pnx_cache_load_set_pointer(load, source->value[i], size);
        else
            rc = pnx_cache_load_set(load, source->value[i], size);
    }
    pthread_mutex_unlock(&source->lock);
    if (rc == 0)
        rc = pnx_cache_load_set_ttl(
                load, 5 * 60 * PNX_SEC); /* this one's, instead of the cache's */
    return rc;
}

/* The order matters: first the source, then the cache.  A load that read the old value meanwhile is not stored. */
static void change(struct app *app, int i, char *value) {
    char key = (char)('a' + i);
    pthread_mutex_lock(&app->source.lock);
    app->source.value[i] = value;
    pthread_mutex_unlock(&app->source.lock);
    pnx_cache_remove(app->cache, &key, 1);
}

static void *ask(void *arg) {
    struct app *app = arg;
    for (int i = 0; i < 1000; i++) {
        char key = (char)('a' + i % 4); /* of which 'd' does not exist */
        PNX_AUTO_CACHE_REF ref = {0};
        struct pnx_error err;
        int rc = pnx_cache_get_or_load(
                app->cache, &key, 1, fetch, &app->source, PNX_TIMEOUT_DEFAULT, &err, &ref);
        if (rc && rc != -ENOENT)
            printf("%c: %s\n", key, err.message);
    }
    return NULL;
}

static void show(struct app *app, const char *key) {
    static const char *const where[] = {"?", "stored", "loaded", "shared"};
    PNX_AUTO_CACHE_REF ref = {0};
    struct pnx_error err;
    int rc = pnx_cache_get_or_load(
            app->cache, key, strlen(key), fetch, &app->source, PNX_SEC, &err, &ref);
    if (rc)
        printf("%s: %s\n", key, err.message);
    else
        printf("%s: %s (%s)\n", key, (const char *)pnx_cache_ref_data(&ref), where[ref.source]);
}

int main(void) {
    struct app app = {
            .source = {.lock = PTHREAD_MUTEX_INITIALIZER, .value = {"apple", "banana", "cherry"}}};
    struct pnx_error err;
    int rc = pnx_cache_create(PNX_CACHE_OPTS(.name = "fruit", .capacity = 1 << 20,
                                      .negative_ttl = 10 * PNX_SEC, .load_timeout = 5 * PNX_SEC),
            &err, &app.cache);
    if (rc) {
        fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    pthread_t thread[THREADS];
    int started = 0;
    while (started < THREADS && pthread_create(&thread[started], NULL, ask, &app) == 0)
        started++;
    for (int i = 0; i < started; i++)
        pthread_join(thread[i], NULL);
    printf("%d threads asked 1000 times each; the source was read %d times\n", started,
            app.source.reads);

    show(&app, "a");
    change(&app, 0, "apricot");
    show(&app, "a");
    show(&app, "a");
    show(&app, "d");

    struct pnx_cache_stats stats = {.size = sizeof(stats)};
    rc = pnx_cache_read_stats(app.cache, &stats);
    printf("loads %" PRIu64 ", waited for another's %" PRIu64 ", known absences %" PRIu64 "\n",
            stats.loads, stats.load_waits, stats.negative_hits);
    pnx_cache_release(&app.cache);
    return rc == 0 && started == THREADS && app.source.reads == 5 ? 0 : 1;
}
