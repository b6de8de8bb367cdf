/* SPDX-License-Identifier: Apache-2.0 */
/* metrics.c - see metrics.h. */
#include "metrics.h"

#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

const uint32_t metrics_bounds_us[METRICS_BOUNDS] = METRICS_BOUNDS_US;

#define CODE_(code) code,
static const unsigned codes[] = {METRICS_CODES(CODE_) 0};
#undef CODE_

static const char *const groups[METRICS_GROUPS] = {"search", "documents", "other"};

static struct metrics_shard *shard_of_thread(struct metrics *m) {
    static unsigned threads;
    static _Thread_local unsigned mine; /* 0: not yet given */
    if (mine == 0)
        mine = 1 + __atomic_fetch_add(&threads, 1, __ATOMIC_RELAXED) % METRICS_SHARDS;
    return &m->shards[mine - 1];
}

static unsigned code_index(unsigned status) {
    for (unsigned i = 0; i < METRICS_CODE_OTHER; i++)
        if (codes[i] == status)
            return i;
    return METRICS_CODE_OTHER;
}

static unsigned bucket_of(pnx_ns took) {
    unsigned low = 0, high = METRICS_BOUNDS; /* the first bound that is not below took */
    while (low < high) {
        unsigned middle = (low + high) / 2;
        if ((pnx_ns)metrics_bounds_us[middle] * PNX_US < took)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static enum metrics_group group_of(enum request_route route) {
    return route == ROUTE_SEARCH     ? METRICS_SEARCH
           : route == ROUTE_DOCUMENT ? METRICS_DOCUMENTS
                                     : METRICS_OTHER;
}

void metrics_request(struct metrics *m, enum request_route route, unsigned status, pnx_ns took,
        uint64_t bytes, bool aborted) {
    struct metrics_shard *shard = shard_of_thread(m);
    enum metrics_group group = group_of(route);
    metrics_add(shard->requests[route][code_index(status)], 1);
    metrics_add(shard->buckets[group][bucket_of(took)], 1);
    metrics_add(shard->sum_ns[group], took > 0 ? took : 0);
    metrics_add(shard->sent_bytes, bytes);
    if (aborted)
        metrics_add(shard->aborted, 1);
}

/* Sums one number, given by where it is in the first shard. */
static uint64_t sum(const struct metrics *m, const uint64_t *in_first) {
    size_t offset = (size_t)((const char *)in_first - (const char *)&m->shards[0]);
    uint64_t total = 0;
    for (unsigned i = 0; i < METRICS_SHARDS; i++)
        total += metrics_get(
                *(const uint64_t *)(const void *)((const char *)&m->shards[i] + offset));
    return total;
}

void metrics_totals(const struct metrics *m, struct metrics_totals *ret_totals) {
    struct metrics_totals t = {0};
    const struct metrics_shard *first = &m->shards[0];
    for (unsigned route = 0; route < ROUTE_COUNT; route++)
        for (unsigned code = 0; code < METRICS_CODE_COUNT; code++) {
            uint64_t n = sum(m, &first->requests[route][code]);
            t.requests += n;
            t.client_errors += codes[code] >= 400 && codes[code] < 500 ? n : 0;
            t.server_errors += codes[code] >= 500 ? n : 0;
        }
    for (unsigned group = 0; group < METRICS_GROUPS; group++)
        for (unsigned i = 0; i <= METRICS_BOUNDS; i++)
            t.buckets[group][i] = sum(m, &first->buckets[group][i]);
    *ret_totals = t;
}

static void family(
        struct buffer *b, const char *name, const char *type, const char *unit, const char *help) {
    buffer_printf(b, "# TYPE %s %s\n", name, type);
    if (unit)
        buffer_printf(b, "# UNIT %s %s\n", name, unit);
    buffer_printf(b, "# HELP %s %s\n", name, help);
}

static void write_histogram(
        const struct metrics *m, struct buffer *b, const struct metrics_totals *t, unsigned group) {
    static const char name[] = "lookup_http_request_seconds";
    uint64_t below = 0;
    for (unsigned i = 0; i <= METRICS_BOUNDS; i++) {
        below += t->buckets[group][i];
        if (i < METRICS_BOUNDS)
            buffer_printf(b, "%s_bucket{group=\"%s\",le=\"%g\"} %llu\n", name, groups[group],
                    metrics_bounds_us[i] / 1e6, (unsigned long long)below);
        else
            buffer_printf(b, "%s_bucket{group=\"%s\",le=\"+Inf\"} %llu\n", name, groups[group],
                    (unsigned long long)below);
    }
    buffer_printf(b, "%s_count{group=\"%s\"} %llu\n%s_sum{group=\"%s\"} %.9f\n", name,
            groups[group], (unsigned long long)below, name, groups[group],
            (double)sum(m, &m->shards[0].sum_ns[group]) / 1e9);
}

static void write_requests(const struct metrics *m, struct buffer *b) {
    family(b, "lookup_http_requests", "counter", NULL, "Requests answered, by route and status");
    for (unsigned route = 0; route < ROUTE_COUNT; route++)
        for (unsigned code = 0; code < METRICS_CODE_COUNT; code++) {
            uint64_t n = sum(m, &m->shards[0].requests[route][code]);
            if (n == 0)
                continue;
            buffer_printf(b, "lookup_http_requests_total{route=\"%s\",code=\"%u\"} %llu\n",
                    request_route_name((enum request_route)route), codes[code],
                    (unsigned long long)n);
        }
}

/*
 * What malloc has from the system, and how much of that is handed out: apart from resident memory, which also tells how
 * the free blocks lie between those in use.
 */
static void write_heap(struct buffer *b) {
#if defined(__GLIBC__) && __GLIBC_PREREQ(2, 33)
    struct mallinfo2 info = mallinfo2();
    family(b, "process_heap_bytes", "gauge", "bytes", "Memory that malloc has from the system");
    buffer_printf(b, "process_heap_bytes %zu\n", info.arena + info.hblkhd);
    family(b, "process_heap_used_bytes", "gauge", "bytes", "Memory handed out by malloc");
    buffer_printf(b, "process_heap_used_bytes %zu\n", info.uordblks + info.hblkhd);
#else
    (void)b;
#endif
}

/* Memory and processor time of this process, by the names that all exporters use. */
static void write_process(struct buffer *b) {
    unsigned long long pages = 0;
    FILE *file = fopen("/proc/self/statm", "re");
    if (file) {
        char line[128] = "";
        const char *second = fgets(line, sizeof(line), file) ? strchr(line, ' ') : NULL;
        if (second)
            pages = strtoull(second, NULL, 10);
        fclose(file);
    }
    if (pages > 0) {
        family(b, "process_resident_memory_bytes", "gauge", "bytes", "Resident memory");
        buffer_printf(b, "process_resident_memory_bytes %llu\n",
                pages * (unsigned long long)sysconf(_SC_PAGESIZE));
    }
    write_heap(b);
    struct rusage usage;
    if (getrusage(RUSAGE_SELF, &usage) == 0) {
        family(b, "process_cpu_seconds", "counter", "seconds", "User and system time");
        buffer_printf(b, "process_cpu_seconds_total %.6f\n",
                (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
                        (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6);
    }
}

void metrics_openmetrics(const struct metrics *m, struct buffer *b) {
    struct metrics_totals t;
    metrics_totals(m, &t);
    write_requests(m, b);
    family(b, "lookup_http_request_seconds", "histogram", "seconds",
            "From the request's head to the last byte of its answer");
    for (unsigned group = 0; group < METRICS_GROUPS; group++)
        write_histogram(m, b, &t, group);
    const struct {
        const char *name, *type, *unit, *help;
        uint64_t value;
    } rows[] = {
            {"lookup_http_sent_bytes", "counter", "bytes", "Bytes of bodies handed to the clients",
                    sum(m, &m->shards[0].sent_bytes)},
            {"lookup_http_aborted", "counter", NULL,
                    "Answers that were not sent whole: the client left, or the text was lost",
                    sum(m, &m->shards[0].aborted)},
            {"lookup_http_documents_cut", "counter", NULL,
                    "Documents that ended early because their text was lost",
                    metrics_get(m->documents_cut)},
            {"lookup_http_connections_accepted", "counter", NULL, "Connections accepted",
                    metrics_get(m->connections_accepted)},
            {"lookup_http_connections_refused", "counter", NULL, "Connections over the limit",
                    metrics_get(m->connections_refused)},
            {"lookup_http_connections_dropped", "counter", NULL, "Connections that were too slow",
                    metrics_get(m->connections_dropped)},
            {"lookup_http_connections", "gauge", NULL, "Connections open now",
                    metrics_get(m->connections)},
            {"lookup_http_active", "gauge", NULL, "Requests being answered now",
                    metrics_get(m->active)},
            {"lookup_http_queued", "gauge", NULL, "Requests waiting for a worker",
                    metrics_get(m->queued)},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        family(b, rows[i].name, rows[i].type, rows[i].unit, rows[i].help);
        buffer_printf(b, "%s%s %llu\n", rows[i].name,
                strcmp(rows[i].type, "counter") == 0 ? "_total" : "",
                (unsigned long long)rows[i].value);
    }
    write_process(b);
}
