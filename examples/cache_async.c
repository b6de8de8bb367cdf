/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cache_async.c - a cache in an event loop: nothing waits.  Queries go out, their answers come later and end the loads;
 * values are served while they are loaded anew, and instead of errors when the source is down.
 */
#include <patinox/cache.h>

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

/* Stands for a connection to a slow source: queries that were sent, and not answered yet. */
struct source {
    struct pnx_cache_load *sent[4];
    int n;
    int answers; /* so far */
    bool down;
};

/* Called once a key, however many ask: sends the query and returns; the load is kept for its answer. */
static int send_query(
        void *ctx, const void *key, size_t key_size, pnx_ns deadline, struct pnx_cache_load *load) {
    struct source *source = ctx;
    (void)key, (void)key_size, (void)deadline;
    if (source->n == 4)
        return -EBUSY;
    source->sent[source->n++] = load;
    return -EINPROGRESS;
}

/* What the loop does when answers have come. */
static void answer_all(struct source *source) {
    while (source->n > 0) {
        struct pnx_cache_load *load = source->sent[--source->n];
        char text[32];
        int rc = -EIO;
        if (!source->down) {
            snprintf(text, sizeof(text), "answer %d", ++source->answers);
            rc = pnx_cache_load_set_refresh(
                    load, 20 * PNX_MS); /* this one's, instead of the cache's */
            if (rc == 0)
                rc = pnx_cache_load_set(load, text, strlen(text) + 1);
        }
        if (pnx_cache_load_finish(load, rc) == -EALREADY)
            puts("too late: the load had been given up");
    }
}

/* A loader that makes its value at once. */
static int make_now(
        void *ctx, const void *key, size_t key_size, pnx_ns deadline, struct pnx_cache_load *load) {
    (void)ctx, (void)key, (void)key_size, (void)deadline;
    return pnx_cache_load_set(load, "made by hand", sizeof("made by hand"));
}

struct question {
    struct pnx_cache_request request;
    const char *who;
};

static void told(struct pnx_cache_request *request, int code, struct pnx_cache_ref ref,
        const struct pnx_error *err) {
    const struct question *question = (const struct question *)(const void *)request;
    if (code)
        printf("%s: %s\n", question->who, err->message);
    else
        printf("%s: %s%s\n", question->who, (const char *)pnx_cache_ref_data(&ref),
                ref.source == PNX_CACHE_STALE ? ", which is old" : "");
    pnx_cache_ref_release(&ref);
}

static int ask(struct pnx_cache *cache, struct source *source, struct question *question,
        const char *who) {
    *question = (struct question){.who = who, .request.done = told};
    return pnx_cache_get_async(cache, "key", 3, send_query, source, PNX_SEC, &question->request);
}

/* Runs the loop until so much time has passed. */
static void run_for(struct pnx_cache *cache, pnx_ns time) {
    for (pnx_ns end = pnx_now() + time; pnx_now() < end;)
        (void)pnx_cache_tick(cache,
                pnx_now()); /* keeps deadlines; a real loop polls until the time that it returns */
}

int main(void) {
    struct source source = {.n = 0};
    struct question first, second, third;
    struct pnx_cache *cache = NULL;
    struct pnx_error err;
    int rc = pnx_cache_create(
            PNX_CACHE_OPTS(.name = "answers", .capacity = 1 << 20, .ttl = 40 * PNX_MS,
                    .refresh_after = 30 * PNX_MS, .stale_if_error = 60 * PNX_SEC),
            &err, &cache);
    if (rc) {
        fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    rc = ask(cache, &source, &first, "first");
    if (rc == 0)
        rc = ask(cache, &source, &second, "second"); /* shares the query */
    if (rc == 0)
        rc = ask(cache, &source, &third, "third");
    if (rc == 0 && pnx_cache_cancel(&third.request) == 0)
        puts("third: has changed its mind");
    answer_all(&source);
    run_for(cache, 25 * PNX_MS);
    if (rc == 0)
        rc = ask(cache, &source, &first, "while it is refreshed");
    answer_all(&source);
    if (rc == 0)
        rc = ask(cache, &source, &first, "then");
    run_for(cache, 50 * PNX_MS); /* it expires */
    source.down = true;
    if (rc == 0)
        rc = ask(cache, &source, &first, "with the source down");
    answer_all(&source);
    source.down = false;
    /* By hand, in this call, whatever is there. */
    if (rc == 0)
        rc = pnx_cache_refresh(cache, "key", 3, make_now, &source, PNX_SEC, &err);
    if (rc == 0)
        rc = ask(cache, &source, &first, "after a refresh by hand");
    pnx_cache_release(&cache);
    return rc != 0;
}
