/* SPDX-License-Identifier: Apache-2.0 */
/*
 * hosts.h - a pretended server for tests of groups of pools: it counts what is alive, of each key and of all, at every moment;
 * and callers, in threads and without.
 */
#ifndef PNX_TEST_POOL_HOSTS_H
#define PNX_TEST_POOL_HOSTS_H

#include "harness/harness.h"

#include <patinox/pool_group.h>
#include <pthread.h>
#include <sched.h>
#include <time.h>

/* ---- the server ---- */

#define KEYS 27

struct connection {
    struct server *server;
    const struct pnx_pool_key *key;
    int of;    /* index of its key */
    int owner; /* atomic: whoever holds it */
    bool dead;
};

/* Guarded by lock, which no test holds while it calls the library. */
struct server {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool hold_connect, hold_close; /* gates */
    int in_connect, in_close;
    int connects, closes, abandons, refused;
    int refuse; /* the key whose connects fail, or 0 */
    int live, peak;
    int live_of[KEYS], peak_of[KEYS];
    void (*during)(struct server *server); /* called inside connect */
    int during_rc;
    struct pnx_pool_group *group;
};

static struct server server;
static struct test_env te;

/* Test keys are one letter; other keys count as key 0. */
static inline int index_of(const struct pnx_pool_key *key) {
    const char *bytes = key->bytes;
    CHECK(bytes[key->len] == '\0');
    return key->len == 1 && bytes[0] >= 'A' && bytes[0] <= 'Z' ? bytes[0] - '@' : 0;
}

static inline void gate(struct server *s, const bool *hold, int *inside) {
    (*inside)++;
    pthread_cond_broadcast(&s->changed);
    while (*hold)
        pthread_cond_wait(&s->changed, &s->lock);
    (*inside)--;
}

static inline int server_connect(
        void *ctx, pnx_ns deadline, struct pnx_error *err, void **ret_resource) {
    const struct pnx_pool_key *key = ctx;
    struct server *s = key->user;
    struct connection *connection = calloc(1, sizeof(*connection));
    int of = index_of(key);
    (void)deadline;
    CHECK(connection && s == &server);
    if (s->during)
        s->during(s);
    pthread_mutex_lock(&s->lock);
    if (++s->live > s->peak)
        s->peak = s->live;
    if (++s->live_of[of] > s->peak_of[of])
        s->peak_of[of] = s->live_of[of];
    gate(s, &s->hold_connect, &s->in_connect);
    bool refused = s->refuse && of == s->refuse;
    if (refused) {
        s->refused++;
        s->live--;
        s->live_of[of]--;
        snprintf(err->message, sizeof(err->message), "no such host");
    } else {
        s->connects++;
    }
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
    if (refused) {
        free(connection);
        return -ECONNREFUSED;
    }
    *connection = (struct connection){.server = s, .key = key, .of = of};
    *ret_resource = connection;
    return 0;
}

static inline void server_close(void *ctx, void *resource, pnx_ns deadline) {
    struct connection *connection = resource;
    struct server *s = connection->server;
    (void)deadline;
    CHECK_MSG(ctx == connection->key && index_of(ctx) == connection->of, "G8: the key is there");
    CHECK_MSG(!connection->dead, "G8: closed twice");
    CHECK_MSG(__atomic_load_n(&connection->owner, __ATOMIC_RELAXED) == 0, "closed though held");
    connection->dead = true;
    pthread_mutex_lock(&s->lock);
    gate(s, &s->hold_close, &s->in_close);
    s->closes++;
    s->live--;
    s->live_of[connection->of]--;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
    free(connection);
}

static inline void server_abandon(void *ctx, void *resource) {
    (void)ctx;
    (void)resource;
    server.abandons++; /* in a forked child: no lock, no other thread */
}

static const struct pnx_pool_manager manager = {
        .size = sizeof(manager),
        .connect = server_connect,
        .close = server_close,
        .abandon = server_abandon,
};

static inline void set_gate(bool *hold, bool value) {
    pthread_mutex_lock(&server.lock);
    *hold = value;
    pthread_cond_broadcast(&server.changed);
    pthread_mutex_unlock(&server.lock);
}

static inline int read_count(const int *count) {
    pthread_mutex_lock(&server.lock);
    int value = *count;
    pthread_mutex_unlock(&server.lock);
    return value;
}

/* Waits until a count of the server's has reached a value; fails after 30 s. */
static inline void await_count(const int *count, int at_least) {
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 30;
    pthread_mutex_lock(&server.lock);
    while (*count < at_least) {
        int rc = pthread_cond_timedwait(&server.changed, &server.lock, &until);
        CHECK_MSG(rc == 0, "waited 30 s for %d, but it is %d", at_least, *count);
    }
    pthread_mutex_unlock(&server.lock);
}

/* ---- groups ---- */

static inline void set_up(void) {
    test_env_init(&te);
    memset(&server, 0, sizeof(server));
    CHECK(pthread_mutex_init(&server.lock, NULL) == 0 &&
            pthread_cond_init(&server.changed, NULL) == 0);
}

static inline void set_up_virtual(void) {
    set_up();
    test_env_virtual(&te, 1000 * PNX_SEC);
}

static inline struct pnx_pool_group *make(const struct pnx_pool_group_opts *opts) {
    struct pnx_pool_group *group = NULL;
    struct pnx_error err = {0};
    int rc = pnx_pool_group_create(&manager, opts, &err, &group);
    CHECK_MSG(rc == 0, "create: %s (%s)", pnx_errname(rc), err.message);
    server.group = group;
    return group;
}

#define OPTS(...) \
    PNX_POOL_GROUP_OPTS(.name = "hosts", .env = &te.env, .pool = PNX_POOL_OPTS(.ctx = &server), \
            __VA_ARGS__)
/* Without threads. */
#define QUIET(...) \
    PNX_POOL_GROUP_OPTS(.name = "hosts", .env = &te.env, \
            .pool = PNX_POOL_OPTS(.ctx = &server, .flags = PNX_POOL_NO_THREADS), __VA_ARGS__)

static inline int ask(struct pnx_pool_group *group, const char *key, pnx_ns timeout,
        struct pnx_error *err, struct pnx_lease *ret_lease) {
    return pnx_pool_group_acquire(group, key, strlen(key), timeout, NULL, err, ret_lease);
}

static inline struct pnx_lease get(struct pnx_pool_group *group, const char *key) {
    struct pnx_lease lease = {0};
    struct pnx_error err = {0};
    int rc = ask(group, key, 30 * PNX_SEC, &err, &lease);
    CHECK_MSG(rc == 0, "acquire %s: %s (%s)", key, pnx_errname(rc), err.message);
    const struct connection *connection = pnx_lease_resource(&lease);
    CHECK(connection->key->len == strlen(key) &&
            memcmp(connection->key->bytes, key, strlen(key)) == 0);
    return lease;
}

static inline struct pnx_pool_group_stats stats_of(const struct pnx_pool_group *group) {
    struct pnx_pool_group_stats stats = {.size = sizeof(stats)};
    CHECK_EQ(pnx_pool_group_read_stats(group, &stats), 0);
    return stats;
}

static inline void advance(struct pnx_pool_group *group, pnx_ns by) {
    test_env_advance(&te, by);
    pnx_pool_group_tick(group, te.now);
}

struct wanted {
    const char *key;
    struct pnx_pool_key_numbers numbers;
    bool found;
    int keys;
};

static inline int find_key(void *ctx, const struct pnx_pool_key_numbers *numbers) {
    struct wanted *wanted = ctx;
    wanted->keys++;
    if (wanted->key && strlen(wanted->key) == numbers->key->len &&
            memcmp(wanted->key, numbers->key->bytes, numbers->key->len) == 0) {
        wanted->found = true;
        wanted->numbers = *numbers;
    }
    return 0;
}

/* The numbers of a key that is there. */
static inline struct pnx_pool_key_numbers numbers_of(
        struct pnx_pool_group *group, const char *key) {
    struct wanted wanted = {.key = key};
    CHECK_EQ(pnx_pool_group_each(group, find_key, &wanted), 0);
    CHECK_MSG(wanted.found, "there is no key %s", key);
    return wanted.numbers;
}

/* Whether a key is there, and somebody waits for it. */
static inline bool is_awaited(struct pnx_pool_group *group, const char *key) {
    struct wanted wanted = {.key = key};
    CHECK_EQ(pnx_pool_group_each(group, find_key, &wanted), 0);
    return wanted.found && wanted.numbers.waiting > 0;
}

/* Polls until the expression holds; fails after 30 s. */
#define UNTIL(expression) \
    do { \
        pnx_ns until_ = pnx_now() + 30 * PNX_SEC; \
        while (!(expression)) { \
            CHECK_MSG(pnx_now() < until_, "waited 30 s for %s", #expression); \
            sched_yield(); \
        } \
    } while (0)

static inline void tear_down(struct pnx_pool_group *group) {
    CHECK_EQ(pnx_pool_group_close(group, 20 * PNX_SEC), 0);
    CHECK_EQ(server.live, 0);
    CHECK_EQ(server.closes, server.connects);
    CHECK_EQ(stats_of(group).shares, 0);
    pnx_pool_group_release(&group);
    CHECK(!group);
    test_env_check_empty(&te);
}

/* ---- one caller in a thread of its own ---- */

struct caller {
    struct pnx_pool_group *group;
    const char *key;
    pnx_ns timeout;
    pthread_t thread;
    int rc;
    struct pnx_error err;
    struct pnx_lease lease;
    bool passes; /* gives it back at once */
};

static inline void *call(void *arg) {
    struct caller *caller = arg;
    caller->rc = ask(caller->group, caller->key, caller->timeout, &caller->err, &caller->lease);
    if (caller->passes)
        pnx_lease_release(&caller->lease);
    return NULL;
}

static inline void start_call(
        struct caller *caller, struct pnx_pool_group *group, const char *key, bool passes) {
    *caller =
            (struct caller){.group = group, .key = key, .timeout = 30 * PNX_SEC, .passes = passes};
    CHECK(pthread_create(&caller->thread, NULL, call, caller) == 0);
}

static inline void start(struct caller *caller, struct pnx_pool_group *group, const char *key) {
    start_call(caller, group, key, false);
}

static inline void join(struct caller *caller) {
    pthread_join(caller->thread, NULL);
    CHECK_MSG(caller->rc == 0, "%s: %s (%s)", caller->key, pnx_errname(caller->rc),
            caller->err.message);
}

/* ---- one request ---- */

struct wish {
    struct pnx_pool_request request;
    struct pnx_lease lease;
    int code;
    int told;
    int place; /* in the order of being told */
};
__attribute__((unused)) static int places;

static inline void told(struct pnx_pool_request *request, int code, struct pnx_lease lease,
        const struct pnx_error *err) {
    struct wish *wish = request->arg;
    (void)err;
    wish->code = code;
    wish->lease = lease;
    wish->told++;
    wish->place = __atomic_add_fetch(&places, 1, __ATOMIC_RELAXED);
}

static inline void want(struct wish *wish, struct pnx_pool_group *group, const char *key) {
    *wish = (struct wish){.request = {.done = told, .timeout = PNX_NEVER}};
    wish->request.arg = wish;
    CHECK_EQ(pnx_pool_group_acquire_async(group, key, strlen(key), &wish->request), 0);
}

/* Runs what is due until nothing more is. */
static inline void settle(struct pnx_pool_group *group) {
    for (int i = 0; i < 8; i++)
        pnx_pool_group_tick(group, te.now);
}

#endif
