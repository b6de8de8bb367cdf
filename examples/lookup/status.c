/* SPDX-License-Identifier: Apache-2.0 */
/* status.c - the answers about the service itself: /metrics, /health and /stats.json.  None of them waits. */
#include "server_internal.h"

#include <patinox/budget.h>
#include <patinox/cache.h>
#include <patinox/pool.h>

#include <string.h>

#define HEALTH_MAX 64u

/* What the store tells of texts that were lost. */
static void write_stale(struct buffer *b, const struct lookup_store_info *info) {
    const struct {
        const char *name, *type, *help;
        uint64_t value;
    } rows[] = {
            {"lookup_store_stale", "gauge",
                    "1 while the texts are lost and are being indexed again", info->stale},
            {"lookup_store_stale_requests", "counter",
                    "Documents and searches refused because the texts were lost",
                    info->stale_requests},
            {"lookup_store_rebuilds", "counter", "Indexes put in force because the texts were lost",
                    info->rebuilds},
            {"lookup_store_rebuild_failures", "counter", "Indexes that could not be built then",
                    info->rebuild_failures},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        buffer_printf(b, "# TYPE %s %s\n# HELP %s %s\n%s%s %llu\n", rows[i].name, rows[i].type,
                rows[i].name, rows[i].help, rows[i].name,
                strcmp(rows[i].type, "counter") == 0 ? "_total" : "",
                (unsigned long long)rows[i].value);
}

struct reply status_metrics(struct server *server) {
    static const char eof[] = "# EOF\n";
    struct buffer b = {0};
    int r = pnx_stats_openmetrics(server->stats, buffer_write, &b);
    if (r < 0) {
        buffer_release(&b);
        return reply_failure(r, "the numbers could not be written");
    }
    /* Ours go before the end mark. */
    size_t mark = sizeof(eof) - 1;
    if (!b.error && b.size >= mark && memcmp(b.text + b.size - mark, eof, mark) == 0)
        b.size -= mark;
    metrics_openmetrics(&server->metrics, &b);
    struct lookup_store_info info;
    lookup_store_info(server->store, &info);
    write_stale(&b, &info);
    buffer_append(&b, eof, mark);
    struct reply reply = reply_buffer(200, PNX_OPENMETRICS_CONTENT_TYPE, &b);
    reply_header(&reply, "Cache-Control", "no-store");
    return reply;
}

static const char *status_word(enum pnx_health_status status) {
    return status == PNX_HEALTH_OK ? "ok" : status == PNX_HEALTH_DEGRADED ? "degraded" : "down";
}

struct reply status_health(struct server *server) {
    struct pnx_health_entry entries[HEALTH_MAX];
    size_t count = 0;
    int worst = pnx_health(server->stats, entries, HEALTH_MAX, &count);
    if (worst < 0)
        return reply_failure(worst, "the health could not be read");
    bool draining = __atomic_load_n(&server->draining, __ATOMIC_RELAXED);
    struct lookup_store_info info;
    lookup_store_info(server->store, &info);
    if (info.stale && worst < PNX_HEALTH_DEGRADED)
        worst = PNX_HEALTH_DEGRADED;
    if (draining)
        worst = PNX_HEALTH_DOWN;
    struct buffer b = {0};
    buffer_printf(&b, "{\"status\":\"%s\",\"uptime_s\":%lld,\"components\":[",
            status_word((enum pnx_health_status)worst),
            (long long)((pnx_now() - server->started) / PNX_SEC));
    if (draining)
        buffer_printf(&b,
                "{\"kind\":\"server\",\"name\":\"lookup\",\"status\":\"down\","
                "\"reason\":\"shutting down\"}%s",
                count > 0 || info.stale ? "," : "");
    if (info.stale)
        buffer_printf(&b,
                "{\"kind\":\"store\",\"name\":\"lookup\",\"status\":\"degraded\","
                "\"reason\":\"the texts of gen-%llu are lost; the index is being built again\"}%s",
                (unsigned long long)info.generation, count > 0 ? "," : "");
    for (size_t i = 0; i < count && i < HEALTH_MAX; i++) {
        buffer_printf(&b, "%s{\"kind\":", i > 0 ? "," : "");
        buffer_json(&b, entries[i].kind, strlen(entries[i].kind));
        buffer_printf(&b, ",\"name\":");
        buffer_json(&b, entries[i].name, strlen(entries[i].name));
        buffer_printf(&b, ",\"status\":\"%s\",\"reason\":", status_word(entries[i].status));
        buffer_json(&b, entries[i].reason, strlen(entries[i].reason));
        buffer_append(&b, "}", 1);
    }
    buffer_append(&b, "]}\n", 3);
    struct reply reply = reply_buffer(worst == PNX_HEALTH_DOWN ? 503 : 200, REPLY_JSON, &b);
    reply_header(&reply, "Cache-Control", "no-store");
    if (worst == PNX_HEALTH_DOWN)
        reply_header(&reply, "Retry-After", "1");
    return reply;
}

static void write_pool(struct buffer *b, struct pnx_pool *pool) {
    struct pnx_pool_stats s = {.size = sizeof(s)};
    if (!pool || pnx_pool_read_stats(pool, &s) < 0)
        return;
    buffer_printf(b,
            ",\"pool\":{\"max\":%llu,\"in_use\":%llu,\"idle\":%llu,\"waiting\":%llu,"
            "\"connecting\":%llu,\"acquires\":%llu,\"waits\":%llu,\"timeouts\":%llu}",
            (unsigned long long)s.max, (unsigned long long)s.in_use, (unsigned long long)s.idle,
            (unsigned long long)s.waiting, (unsigned long long)s.connecting,
            (unsigned long long)s.acquires, (unsigned long long)s.waits,
            (unsigned long long)s.timeouts);
}

static void write_cache(struct buffer *b, struct pnx_cache *cache) {
    struct pnx_cache_stats s = {.size = sizeof(s)};
    if (!cache || pnx_cache_read_stats(cache, &s) < 0)
        return;
    buffer_printf(b,
            ",\"cache\":{\"hits\":%llu,\"misses\":%llu,\"negative_hits\":%llu,\"loads\":%llu,"
            "\"entries\":%llu,\"bytes\":%llu,\"capacity\":%llu,\"evictions\":%llu}",
            (unsigned long long)s.hits, (unsigned long long)s.misses,
            (unsigned long long)s.negative_hits, (unsigned long long)s.loads,
            (unsigned long long)s.entries, (unsigned long long)s.bytes,
            (unsigned long long)s.capacity, (unsigned long long)s.removed_size);
}

static void write_budget(struct buffer *b, struct pnx_budget *budget) {
    struct pnx_budget_stats s = {.size = sizeof(s)};
    if (!budget || pnx_budget_read_stats(budget, &s) < 0)
        return;
    buffer_printf(b,
            ",\"budget\":{\"used\":%llu,\"peak\":%llu,\"soft\":%llu,\"hard\":%llu,"
            "\"refusals\":%llu,\"reclaims\":%llu}",
            (unsigned long long)s.used, (unsigned long long)s.peak,
            (unsigned long long)s.soft_limit, (unsigned long long)s.hard_limit,
            (unsigned long long)s.refusals, (unsigned long long)s.reclaims);
}

/* Which settings are in force, and what stands in the way of newer ones. */
static void write_settings(struct buffer *b, struct pnx_config *config) {
    static const char *const holds[] = {"", "rolled back", "aborted"};
    struct pnx_config_status s = {.size = sizeof(s)};
    if (!config || pnx_config_read_status(config, &s) < 0)
        return;
    buffer_printf(b,
            ",\"settings\":{\"version\":%llu,\"overrides\":%u,\"ignored\":%u,\"held\":\"%s\","
            "\"error\":",
            (unsigned long long)s.version, s.overrides, s.ignored,
            s.hold < sizeof(holds) / sizeof(holds[0]) ? holds[s.hold] : "");
    buffer_json(b, s.error.message, s.error.code ? strlen(s.error.message) : 0);
    buffer_append(b, "}", 1);
}

static void write_latency(struct buffer *b, const struct metrics_totals *t) {
    buffer_printf(b, ",\"latency\":{\"bounds_us\":[");
    for (unsigned i = 0; i < METRICS_BOUNDS; i++)
        buffer_printf(b, "%s%u", i > 0 ? "," : "", metrics_bounds_us[i]);
    buffer_printf(b, "],\"search\":[");
    for (unsigned i = 0; i <= METRICS_BOUNDS; i++)
        buffer_printf(
                b, "%s%llu", i > 0 ? "," : "", (unsigned long long)t->buckets[METRICS_SEARCH][i]);
    buffer_printf(b, "]}");
}

struct reply status_stats(struct server *server) {
    struct metrics_totals t;
    struct lookup_store_info info;
    struct buffer b = {0};
    metrics_totals(&server->metrics, &t);
    lookup_store_info(server->store, &info);
    pnx_ns now = pnx_now();
    buffer_printf(&b,
            "{\"time_ms\":%lld,\"uptime_s\":%lld,\"version\":\"%s\",\"requests\":%llu,"
            "\"client_errors\":%llu,\"server_errors\":%llu,\"connections\":%llu,\"active\":%llu,"
            "\"queued\":%llu",
            (long long)(now / PNX_MS), (long long)((now - server->started) / PNX_SEC),
            pnx_version(), (unsigned long long)t.requests, (unsigned long long)t.client_errors,
            (unsigned long long)t.server_errors,
            (unsigned long long)metrics_get(server->metrics.connections),
            (unsigned long long)metrics_get(server->metrics.active),
            (unsigned long long)metrics_get(server->metrics.queued));
    buffer_printf(&b,
            ",\"store\":{\"generation\":%llu,\"documents\":%llu,\"text_bytes\":%llu,"
            "\"index_bytes\":%llu,\"searches\":%llu,\"database_reads\":%llu,"
            "\"stale\":%s,\"stale_requests\":%llu,\"rebuilds\":%llu,\"rebuild_failures\":%llu}",
            (unsigned long long)info.generation, (unsigned long long)info.documents,
            (unsigned long long)info.text_bytes, (unsigned long long)info.index_bytes,
            (unsigned long long)info.searches, (unsigned long long)info.database_reads,
            info.stale ? "true" : "false", (unsigned long long)info.stale_requests,
            (unsigned long long)info.rebuilds, (unsigned long long)info.rebuild_failures);
    write_latency(&b, &t);
    write_pool(&b, lookup_store_pool(server->store));
    write_cache(&b, lookup_store_cache(server->store));
    write_budget(&b, lookup_store_budget(server->store));
    write_settings(&b, server->config);
    buffer_append(&b, "}\n", 2);
    struct reply reply = reply_buffer(200, REPLY_JSON, &b);
    reply_header(&reply, "Cache-Control", "no-store");
    return reply;
}
