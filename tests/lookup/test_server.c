/* SPDX-License-Identifier: Apache-2.0 */
/* test_server.c - the HTTP side of lookup over a store that hangs on request. */
#include "harness/harness.h"

#include "server.h"
#include "server_internal.h"

#include <patinox/shutdown.h>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

/* ---- a store that answers, or hangs until the gate opens ---- */

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static bool gate_open;    /* under mutex */
static unsigned inside;   /* under mutex: callers that the gate holds */
static int store_error;   /* what searches and documents return */
static uint64_t searches; /* atomic */

static const char results[] = "[{\"id\":1,\"title\":\"t\",\"path\":\"p\",\"snippet\":\"s\"}]";
static const char text[] = "0123456789";

static void pass_gate(void) {
    pthread_mutex_lock(&mutex);
    inside++;
    pthread_cond_broadcast(&changed);
    while (!gate_open)
        pthread_cond_wait(&changed, &mutex);
    inside--;
    pthread_mutex_unlock(&mutex);
}

static void open_gate(void) {
    pthread_mutex_lock(&mutex);
    gate_open = true;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&mutex);
}

static void wait_inside(unsigned n) {
    pthread_mutex_lock(&mutex);
    while (inside < n)
        pthread_cond_wait(&changed, &mutex);
    pthread_mutex_unlock(&mutex);
}

int lookup_store_search(struct lookup_store *store, const char *query, size_t query_size,
        uint32_t limit, uint32_t offset, pnx_ns timeout, struct pnx_error *err,
        struct lookup_answer *ret_answer) {
    (void)store, (void)limit, (void)offset, (void)timeout, (void)err;
    (void)__atomic_fetch_add(&searches, 1, __ATOMIC_RELAXED);
    if (query_size >= 4 && memcmp(query, "hang", 4) == 0)
        pass_gate();
    if (store_error)
        return store_error;
    *ret_answer = (struct lookup_answer){
            .results = results, .results_size = sizeof(results) - 1, .total = 1};
    return 0;
}

int lookup_store_search_cached(struct lookup_store *store, const char *query, size_t query_size,
        uint32_t limit, uint32_t offset, struct pnx_error *err, struct lookup_answer *ret_answer) {
    (void)store, (void)limit, (void)offset, (void)err;
    if (query_size == 5 && memcmp(query, "stall", 5) == 0)
        pass_gate(); /* on the thread that serves connections */
    else if (query_size != 6 || memcmp(query, "cached", 6) != 0)
        return -ENOENT;
    *ret_answer = (struct lookup_answer){
            .results = results, .results_size = sizeof(results) - 1, .total = 1, .cached = true};
    return 0;
}

void lookup_answer_release(struct lookup_answer *answer) {
    *answer = (struct lookup_answer){0};
}

int lookup_answer_json(const struct lookup_answer *answer, const char *query, size_t query_size,
        uint64_t took_us, char **ret_text, size_t *ret_size) {
    (void)query, (void)query_size;
    int n = asprintf(ret_text, "{\"took_us\":%llu,\"cached\":%d}", (unsigned long long)took_us,
            answer->cached);
    *ret_size = (size_t)n;
    return n < 0 ? -ENOMEM : 0;
}

int lookup_store_document(struct lookup_store *store, uint64_t id, pnx_ns timeout,
        struct pnx_error *err, struct lookup_document *ret_document) {
    (void)store, (void)timeout, (void)err;
    if (store_error)
        return store_error;
    if (id != 1)
        return -ENOENT;
    *ret_document = (struct lookup_document){
            .id = 1, .mapped = text, .size = sizeof(text) - 1, .etag = "\"g1\""};
    return 0;
}

int lookup_document_read(const struct lookup_document *document, uint64_t offset, void *dst,
        size_t n, struct pnx_error *err) {
    (void)err;
    CHECK(offset <= document->size && n <= document->size - offset);
    memcpy(dst, (const char *)document->mapped + offset, n);
    return 0;
}

void lookup_store_note_stale(struct lookup_store *store, const struct lookup_document *document) {
    (void)store, (void)document;
}

void lookup_document_release(struct lookup_document *document) {
    *document = (struct lookup_document){0};
}

void lookup_store_info(struct lookup_store *store, struct lookup_store_info *ret_info) {
    (void)store;
    *ret_info = (struct lookup_store_info){.documents = 1};
}

struct pnx_pool *lookup_store_pool(struct lookup_store *store) {
    (void)store;
    return NULL;
}

struct pnx_cache *lookup_store_cache(struct lookup_store *store) {
    (void)store;
    return NULL;
}

struct pnx_budget *lookup_store_budget(struct lookup_store *store) {
    (void)store;
    return NULL;
}

/* ---- a server and its clients ---- */

static struct pnx_registry *registry;
static char url[SERVER_URL_SIZE];
static uint16_t port;

static struct server *start(pnx_ns search_timeout) {
    struct pnx_error err = {0};
    struct server *server;
    int fd = server_bind("127.0.0.1", 0, &err, url);
    CHECK_MSG(fd >= 0, "%s", err.message);
    CHECK(sscanf(url, "http://127.0.0.1:%hu/", &port) == 1);
    CHECK_EQ(pnx_registry_create(NULL, NULL, &registry), 0);
    const struct server_opts opts = {.listen_fd = fd,
            .registry = registry,
            .search_timeout = search_timeout,
            .connections = 256,
            .client_timeout_s = 30};
    int r = server_start(&opts, &err, &server);
    CHECK_MSG(r == 0, "%s", err.message);
    return server;
}

static int dial(void) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    CHECK(fd >= 0);
    CHECK(connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0);
    return fd;
}

static int ask(const char *path) {
    char request[256];
    int fd = dial();
    int n = snprintf(request, sizeof(request),
            "GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", path);
    CHECK(write(fd, request, (size_t)n) == n);
    return fd;
}

/* Reads all of an answer; returns its status, 0 when there is none. */
static int answer_of(int fd, char *body, size_t capacity) {
    size_t size = 0;
    ssize_t n;
    int status = 0;
    while (size + 1 < capacity && (n = read(fd, body + size, capacity - 1 - size)) > 0)
        size += (size_t)n;
    body[size] = '\0';
    close(fd);
    if (sscanf(body, "HTTP/1.1 %d", &status) != 1)
        return 0;
    return status;
}

static int get(const char *path, char *body, size_t capacity) {
    return answer_of(ask(path), body, capacity);
}

#define STUCK (SERVER_WORKERS + 4u) /* requests: more than there are workers */

static void stick_all_workers(int *fds) {
    char path[32];
    for (unsigned i = 0; i < STUCK; i++) {
        snprintf(path, sizeof(path), "/search?q=hang%u", i);
        fds[i] = ask(path);
    }
    wait_inside(SERVER_WORKERS);
}

TEST(health_answers_within_100_ms_while_all_workers_hang) {
    static char body[65536];
    int fds[STUCK];
    struct server *server = start(60 * PNX_SEC);
    stick_all_workers(fds);
    static const char *const paths[] = {
            "/health", "/metrics", "/stats.json", "/", "/search?q=cached", "/nothing"};
    for (size_t i = 0; i < sizeof(paths) / sizeof(paths[0]); i++) {
        pnx_ns begin = pnx_now();
        CHECK_EQ(get(paths[i], body, sizeof(body)), i == 5 ? 404 : 200);
        pnx_ns took = pnx_now() - begin;
        CHECK_MSG(took < 100 * PNX_MS * (test_slow() ? 10 : 1), "%s took %lld us", paths[i],
                (long long)(took / PNX_US));
    }
    open_gate();
    for (unsigned i = 0; i < STUCK; i++)
        CHECK_EQ(answer_of(fds[i], body, sizeof(body)), 200);
    CHECK_EQ(server_stop(server, pnx_now() + 10 * PNX_SEC), 0);
    server_release(&server);
    pnx_registry_release(&registry);
}

TEST(request_is_answered_when_the_database_never_does) {
    static char body[65536];
    int fds[STUCK];
    struct server *server = start(50 * PNX_MS - SERVER_JOB_GRACE);
    stick_all_workers(fds);
    for (unsigned i = 0; i < STUCK; i++) {
        CHECK_EQ(answer_of(fds[i], body, sizeof(body)), 503);
        CHECK_CONTAINS(body, "Retry-After: 1");
        CHECK_CONTAINS(body, "did not answer in time");
    }
    open_gate();
    CHECK_EQ(server_stop(server, pnx_now() + 10 * PNX_SEC), 0);
    server_release(&server);
    pnx_registry_release(&registry);
}

TEST(p4_stop_keeps_its_deadline_with_a_stuck_worker_and_answers_everybody) {
    static char body[65536];
    int fds[STUCK];
    struct server *server = start(60 * PNX_SEC);
    stick_all_workers(fds);
    pnx_ns begin = pnx_now();
    CHECK_EQ(server_stop(server, begin + 300 * PNX_MS), -ETIMEDOUT);
    CHECK(pnx_now() - begin < 5 * PNX_SEC);
    CHECK_EQ(server_stop(server, PNX_NEVER), -ETIMEDOUT); /* the first result stays */
    for (unsigned i = 0; i < STUCK; i++) {
        int status = answer_of(fds[i], body, sizeof(body));
        CHECK_MSG(status == 503 || status == 0, "status %d", status);
    }
    open_gate();
    /* The server's memory is left to the workers, as promised; now that they come back, it can go. */
    CHECK_EQ(jobs_stop(server->jobs, PNX_NEVER), 0);
    jobs_release(&server->jobs);
    server->stop_result = 0;
    server_release(&server);
    pnx_registry_release(&registry);
}

struct late {
    struct server *server;
    size_t left;
};

static void *drain_thread(void *arg) {
    struct late *late = arg;
    late->left = server_drain(late->server, pnx_now() + 20 * PNX_SEC);
    return NULL;
}

TEST(p3_drain_finishes_requests_and_accepts_none) {
    static char body[65536];
    struct server *server = start(60 * PNX_SEC);
    int fd = ask("/search?q=hang"), keep = dial();
    wait_inside(1);
    static const char request[] = "GET /search?q=hang2 HTTP/1.1\r\nHost: x\r\n\r\n";
    CHECK(write(keep, request, sizeof(request) - 1) == (ssize_t)sizeof(request) - 1);
    wait_inside(2);
    struct late late = {.server = server, .left = 99};
    pthread_t thread;
    CHECK_EQ(pthread_create(&thread, NULL, drain_thread, &late), 0);
    /* Refused connections tell that the drain has begun. */
    for (;;) {
        int probe = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        int r = connect(probe, (struct sockaddr *)&address, sizeof(address));
        close(probe);
        if (r != 0)
            break;
    }
    CHECK(!__atomic_load_n(&server->metrics.connections_refused, __ATOMIC_RELAXED));
    while (!__atomic_load_n(&server->draining, __ATOMIC_ACQUIRE))
        continue;
    open_gate();
    CHECK_EQ(pthread_join(thread, NULL), 0);
    CHECK_EQ(late.left, 0);
    CHECK_EQ(answer_of(fd, body, sizeof(body)), 200);
    CHECK_EQ(answer_of(keep, body, sizeof(body)), 200);
    CHECK_CONTAINS(body, "Connection: close");
    CHECK_EQ(server_stop(server, pnx_now() + 10 * PNX_SEC), 0);
    server_release(&server);
    pnx_registry_release(&registry);
}

TEST(drain_gives_up_at_its_deadline_and_counts_what_is_left) {
    static char body[65536];
    struct server *server = start(60 * PNX_SEC);
    int first = ask("/search?q=hang1"), second = ask("/search?q=hang2");
    wait_inside(2);
    CHECK_EQ(server_drain(server, pnx_now() + 50 * PNX_MS), 2);
    open_gate();
    CHECK_EQ(answer_of(first, body, sizeof(body)), 200);
    CHECK_EQ(answer_of(second, body, sizeof(body)), 200);
    CHECK_EQ(server_stop(server, pnx_now() + 10 * PNX_SEC), 0);
    server_release(&server);
    pnx_registry_release(&registry);
}

TEST(shutdown_of_the_registry_stops_the_server) {
    static char body[65536];
    struct server *server = start(60 * PNX_SEC);
    CHECK_EQ(get("/health", body, sizeof(body)), 200);
    CHECK_EQ(pnx_registry_count(registry), 1);
    CHECK_EQ(pnx_registry_shutdown(registry, 10 * PNX_SEC, NULL), 0);
    CHECK(!server->daemon && server->stopped);
    server_release(&server);
    pnx_registry_release(&registry);
}

TEST(errors_of_the_store_have_their_status) {
    static char body[65536];
    static const struct {
        int code, status;
    } cases[] = {{-EINVAL, 400}, {-EFBIG, 400}, {-ERANGE, 400}, {-ENOENT, 404}, {-ETIMEDOUT, 503},
            {-ESTALE, 503}, {-EBUSY, 503}, {-ENOMEM, 503}, {-ESHUTDOWN, 503}, {PNX_E_BREAKER, 503},
            {-EIO, 500}, {PNX_E_FORMAT, 500}, {-12345, 500}};
    struct server *server = start(60 * PNX_SEC);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        store_error = cases[i].code;
        CHECK_EQ(get("/search?q=x", body, sizeof(body)), cases[i].status);
        CHECK_CONTAINS(body, "\"message\":\"");
        CHECK_EQ(get("/documents/1", body, sizeof(body)), cases[i].status);
        CHECK((strstr(body, "Retry-After: 1") != NULL) == (cases[i].status == 503));
    }
    CHECK_EQ(server_stop(server, pnx_now() + 10 * PNX_SEC), 0);
    server_release(&server);
    pnx_registry_release(&registry);
}

TEST(port_that_somebody_listens_on_is_refused) {
    struct pnx_error err = {0};
    struct server *server = start(60 * PNX_SEC);
    int fd = server_bind("127.0.0.1", port, &err, url);
    CHECK_EQ(fd, -EADDRINUSE);
    CHECK_CONTAINS(err.message, "in use by another program");
    CHECK_EQ(server_stop(server, pnx_now() + 10 * PNX_SEC), 0);
    server_release(&server);
    pnx_registry_release(&registry);
}

TEST(port_that_two_have_bound_goes_to_the_first_that_listens) {
    struct pnx_error err = {0};
    char other_url[SERVER_URL_SIZE];
    int first = server_bind("127.0.0.1", 0, &err, url);
    CHECK(sscanf(url, "http://127.0.0.1:%hu/", &port) == 1);
    int second = server_bind("127.0.0.1", port, &err, other_url);
    CHECK_MSG(second >= 0, "%s", err.message);
    CHECK_EQ(listen(first, 1), 0);
    CHECK_EQ(pnx_registry_create(NULL, NULL, &registry), 0);
    const struct server_opts opts = {.listen_fd = second,
            .registry = registry,
            .search_timeout = PNX_SEC,
            .connections = 8,
            .client_timeout_s = 30};
    struct server *server = NULL;
    CHECK_EQ(server_start(&opts, &err, &server), -EADDRINUSE);
    CHECK_CONTAINS(err.message, url);
    CHECK_CONTAINS(err.message, "another program was first; --port N");
    CHECK(!server);
    close(first);
    pnx_registry_release(&registry);
}

/*
 * Connections that libmicrohttpd has been given but has not looked at yet are in nobody's count.  When they are more
 * than it allows, it leaves a lock of its own held for good (0.9.75): so it is told to allow them all.
 */
TEST(more_connections_than_are_allowed_may_arrive_while_their_thread_is_busy) {
    enum { MANY = 400 }; /* twice as many descriptors, within the usual limit of 1024 */
    static char body[65536];
    static int fds[MANY];
    struct server *server = start(60 * PNX_SEC);
    int stalled = ask("/search?q=stall");
    wait_inside(1);
    for (int i = 0; i < MANY; i++)
        fds[i] = dial();
    while (metrics_get(server->metrics.connections_accepted) < MANY &&
            metrics_get(server->metrics.connections_refused) == 0)
        usleep(100);
    open_gate();
    CHECK_EQ(answer_of(stalled, body, sizeof(body)), 200);
    for (int i = 0; i < MANY; i++)
        close(fds[i]);
    while (metrics_get(server->metrics.connections) > 0)
        usleep(100);
    CHECK_EQ(get("/health", body, sizeof(body)), 200);
    CHECK_EQ(server_stop(server, pnx_now() + 10 * PNX_SEC), 0);
    server_release(&server);
    pnx_registry_release(&registry);
}

static void hammer(unsigned index, void *ctx) {
    static const char *const paths[] = {"/search?q=a", "/documents/1", "/health",
            "/search?q=cached", "/metrics", "/stats.json", "/nothing", "/"};
    static _Thread_local char body[65536];
    uint64_t random = *(const uint64_t *)ctx + index;
    for (unsigned i = 0; i < (test_slow() ? 100u : 400u); i++) {
        const char *path = paths[test_random(&random) % 8];
        if (test_random(&random) % 5 == 0) {
            close(ask(path)); /* a client that does not wait */
            continue;
        }
        int status = get(path, body, sizeof(body));
        CHECK_MSG(status == (path[1] == 'n' ? 404 : 200), "%s: %d", path, status);
    }
}

TEST(p2_storm_of_clients_is_counted_and_leaves_nothing_open) {
    struct server *server = start(60 * PNX_SEC);
    uint64_t seed = test_seed();
    test_threads(8, hammer, &seed);
    CHECK_EQ(server_drain(server, pnx_now() + 20 * PNX_SEC), 0);
    CHECK_EQ(server_stop(server, pnx_now() + 10 * PNX_SEC), 0);
    CHECK_EQ(metrics_get(server->metrics.connections), 0);
    CHECK_EQ(metrics_get(server->metrics.active), 0);
    CHECK_EQ(metrics_get(server->metrics.queued), 0);
    struct metrics_totals totals;
    metrics_totals(&server->metrics, &totals);
    CHECK_EQ(totals.server_errors, 0);
    server_release(&server);
    pnx_registry_release(&registry);
}
