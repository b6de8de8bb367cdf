/* SPDX-License-Identifier: Apache-2.0 */
/*
 * metrics.h - the service's own numbers: requests by route and status, how long they took, connections.
 *
 * The library's parts have their own blocks (pnx_stats_openmetrics()); these are what only lookup knows.
 *
 *   P1  Counters never go back; adding takes no lock and allocates nothing.
 *   P2  The count of a histogram is the number of requests of its group that were counted by then.
 */
#ifndef LOOKUP_METRICS_H
#define LOOKUP_METRICS_H

#include "buffer.h"
#include "request.h"

#define METRICS_SHARDS 16u

/* Status codes that lookup answers with. */
#define METRICS_CODES(X) \
    X(200) X(206) X(304) X(400) X(404) X(405) X(413) X(414) X(416) X(431) X(500) X(503)

/* Upper bounds of the latency buckets, in microseconds: some six in a decade. */
#define METRICS_BOUNDS_US \
    { \
        10, 15, 20, 30, 50, 70, 100, 150, 200, 300, 500, 700, 1000, 1500, 2000, 3000, 5000, 7000, \
                10000, 15000, 20000, 30000, 50000, 70000, 100000, 150000, 200000, 300000, 500000, \
                700000, 1000000, 1500000, 2000000, 3000000, 5000000, 7000000, 10000000 \
    }
#define METRICS_BOUNDS 37u

enum metrics_group { METRICS_SEARCH, METRICS_DOCUMENTS, METRICS_OTHER, METRICS_GROUPS };

#define METRICS_ONE_(code) METRICS_CODE_##code,
enum metrics_code { METRICS_CODES(METRICS_ONE_) METRICS_CODE_OTHER, METRICS_CODE_COUNT };
#undef METRICS_ONE_

/* One thread's numbers, usually; threads beyond METRICS_SHARDS share.  All are added to atomically. */
struct metrics_shard {
    uint64_t requests[ROUTE_COUNT][METRICS_CODE_COUNT];
    uint64_t buckets[METRICS_GROUPS][METRICS_BOUNDS + 1]; /* the last one has no bound */
    uint64_t sum_ns[METRICS_GROUPS];
    uint64_t sent_bytes;
    uint64_t aborted; /* the client went away before it had the whole answer */
} __attribute__((aligned(64)));

/* Fixed from creation on; the numbers are atomic. */
struct metrics {
    struct metrics_shard shards[METRICS_SHARDS];
    uint64_t connections_accepted;
    uint64_t connections_refused; /* over the limit */
    uint64_t documents_cut;       /* ended early because their text was lost */
    uint64_t connections_dropped; /* slower than --client-timeout allows */
    uint64_t connections;         /* open now */
    uint64_t active;              /* requests between their head and the end of their answer */
    uint64_t queued;              /* waiting for a worker */
};

/* Adds a finished request.  Any thread. */
void metrics_request(struct metrics *m, enum request_route route, unsigned status, pnx_ns took,
        uint64_t bytes, bool aborted);

#define metrics_add(counter, n) \
    ((void)__atomic_fetch_add(&(counter), (uint64_t)(n), __ATOMIC_RELAXED))
#define metrics_get(counter) __atomic_load_n(&(counter), __ATOMIC_RELAXED)

/* The sum over all shards, for a reader. */
struct metrics_totals {
    uint64_t requests;
    uint64_t client_errors; /* 4xx */
    uint64_t server_errors; /* 5xx */
    uint64_t buckets[METRICS_GROUPS][METRICS_BOUNDS + 1];
};
void metrics_totals(const struct metrics *m, struct metrics_totals *ret_totals);

/* Appends OpenMetrics families (no "# EOF"). */
void metrics_openmetrics(const struct metrics *m, struct buffer *b);

extern const uint32_t metrics_bounds_us[METRICS_BOUNDS];

#endif
