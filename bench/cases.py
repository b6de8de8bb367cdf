# SPDX-License-Identifier: Apache-2.0
"""The cases of bench/run: which program runs which implementation, in how many threads, and what is wanted."""
from collections import namedtuple

# ours takes at most factor x peer + plus, "best" being the best peer, several names the best of these, and a peer of None
# being 1; plus is a number, or an implementation.  threads None stands for any number, unit None for the case's.
Target = namedtuple("Target", "ours factor peer threads unit plus", defaults=(None, None, None, 0))

STATIC, SHARED, PEERS = "bench_share_static", "bench_share_shared", "bench_share_peers"
OURS = {"patinox": STATIC, "patinox-so": SHARED}
FLOORS = ("plain-load", "futex-wake", "futex-baton", "held-connection",
          "held-connection-prepared")  # what cannot be beaten; no peer
UNITS = {  # how a table heads them, and how a sentence calls them
    "ns_per_op": ("ns/op", "ns per operation"),
    "bytes_per_entry": ("B/entry", "bytes per entry"),
    "served_ms": ("ms", "ms until all are served"),
}
# What some cases tell besides: heading, and by what it is divided.
MORE = {
    "wait_p50_ns": ("wait p50, us", 1e3), "wait_p99_ns": ("p99", 1e3), "wait_p999_ns": ("p99.9", 1e3),
    "wait_max_ns": ("max", 1e3), "inversions": ("inversions", 1), "grants_watched": ("of grants", 1),
    "inversions_traced": ("traced", 1), "grants_traced": ("of grants", 1),
    "opened": ("opened", 1), "growth": ("growth", 1),
}
# Of these a row tells the largest of all repetitions, of all others the median.
WORST = ("inversions", "inversions_traced", "grants_watched", "grants_traced", "opened", "wait_max_ns", "growth")
MAPS = {"rwlock-hashmap-foldhash": "rust", "dashmap-foldhash": "rust", "papaya-foldhash": "rust",
        "rculfhash": PEERS, "ck_ht": PEERS, "ghashtable-rwlock": PEERS}
VALUE = {"value_bytes": 8}
ENTRIES = {"entries": 1_000_000, "key": "u64", "value": "u64"}
RESOURCE = {"patinox": "bench_resource_static", "patinox-so": "bench_resource_shared"}
RESOURCE_PEERS = "bench_resource_peers"
MAPPING = {"patinox": "bench_mapping_static", "patinox-so": "bench_mapping_shared"}
MAPPING_PEERS = "bench_mapping_peers"
POOL = {"patinox": "bench_pool_static", "patinox-so": "bench_pool_shared"}
POOL_PEERS = "bench_pool_peers"
POOLS = {"r2d2": "rust", "deadpool": "rust", "bb8": "rust", "apr_reslist": POOL_PEERS}
STACKS = {"parking_lot-stack": "rust", "pthread-stack": POOL_PEERS}
RUST_POOLS = ("r2d2", "deadpool", "bb8")
POOL_BOUNDED = {**POOL, "patinox-bounded": "bench_pool_static"}
IN_ORDER = Target("patinox", 0, unit="inversions_traced")
CACHES = {"patinox": "bench_caches_static", "patinox-so": "bench_caches_shared"}
CACHE_STATIC = "bench_caches_static"
CACHES_BOTH = {**CACHES, "patinox-entries": CACHE_STATIC}  # fixed sizes, and entries of any bytes
CACHE_PEERS = {"quick_cache": "rust", "moka": "rust", "lru": "rust", "ghashtable-lru": "bench_caches_peers"}
SWEPT = ("1k", "10k", "100k", "1m", "10m")
HITS = {"entries": 100_000, "value": "u64"}
FILES = {"patinox": "bench_files_static", "patinox-so": "bench_files_shared"}
FILES_PEERS, FILE = "bench_files_peers", {"file": "1 GiB, in the page cache"}
SQLITE, SQLITE_PEERS = "bench_pool_sqlite_static", "bench_pool_sqlite_peers"


def case(params, peers, targets=(), **more):
    """instructions: the number of instructions of an operation is counted, too, in one thread."""
    return {"params": params, "impls": {**more.pop("ours", OURS), **peers},
            "targets": [Target(*target) for target in targets], "threads": more.pop("threads", (1, 2)),
            "unit": more.pop("unit", "ns_per_op"), "instructions": more.pop("instructions", False)}


CASES = {
    "pool/cycle": case(
        {"size": 16}, {**POOLS, **STACKS},
        [("patinox", 1 / 8, RUST_POOLS, 1), ("patinox", 0.6, "apr_reslist", 1), ("patinox", 1.8, "parking_lot-stack", 1),
         ("patinox", 1 / 15, RUST_POOLS, 2), ("patinox", 0.6, "parking_lot-stack", 2)],
        ours=POOL),
    "pool/one": case(
        {"size": 1}, {**POOLS, **STACKS, "futex-baton": POOL_PEERS}, [IN_ORDER, ("patinox", 0.5, "r2d2"), ("patinox", 0.5, "deadpool")],
        ours=POOL, threads=(2,)),
    "pool/storm": case(
        {"size": 8}, {**POOLS, **STACKS, "futex-baton": POOL_PEERS}, [IN_ORDER, ("patinox", 1.1, "futex-baton")],
        ours=POOL_BOUNDED, threads=(64,)),
    "pool/spin": case(
        {"size": 8, "hold": "1 us of spinning"}, {**POOLS, **STACKS, "futex-baton": POOL_PEERS}, [IN_ORDER],
        ours=POOL_BOUNDED, threads=(64,)),
    "pool/fair": case(
        {"size": 8, "hold": "sleep of 100 us"}, {**POOLS, **STACKS, "futex-baton": POOL_PEERS},
        [IN_ORDER, Target("patinox", 1.5, unit="wait_p99_by_p50"), Target("patinox", 2.0, unit="wait_p999_by_p50"),
         ("patinox", 1.0, "deadpool"), ("patinox", 1 / 0.85, "best")],
        ours=POOL, threads=(64,)),
    "pool/spike": case(
        {"size": 50, "idle": 5, "connect_ms": 150, "use_ms": 2}, POOLS,
        [("patinox", 30), Target("patinox", 5 + 2, unit="opened")], ours=POOL, threads=(50,), unit="served_ms"),
    "pool/cancel": case(
        {"size": "threads", "cancelled_percent": 50}, {"deadpool": "rust"}, [("patinox", 1 / 8, "deadpool")], ours=POOL),
    "pool/async-cycle": case(
        {"size": 16}, {"deadpool": "rust"}, [("patinox", 1 / 8, "deadpool")], ours=POOL),
    "pool/sqlite": case(
        {"size": 4, "sql": "SELECT 1"},
        dict.fromkeys(("held-connection", "libzdb", "held-connection-prepared"), SQLITE_PEERS),
        [("patinox", 1.05, "held-connection"), ("patinox", 1.0, "libzdb")],
        ours={"patinox": SQLITE, "patinox-so": "bench_pool_sqlite_shared", "patinox-prepared": SQLITE}, threads=(1,)),
    "pool/slot-memory": case(
        {"slots": 60_000}, POOLS,
        [("patinox", 192), ("patinox-unlisted", 192), Target("patinox", 1.1, unit="growth")],
        ours={**POOL, "patinox-unlisted": "bench_pool_static"}, threads=(1,), unit="bytes_per_entry"),
    "share/rc-clone-drop": case(
        VALUE, {"std-arc": "rust", "g_atomic_rc_box": PEERS}, [("patinox", 1.1, "std-arc", None)]),
    "share/snapshot-reader": case(
        VALUE, {"arc-swap-cache": "rust", "plain-load": PEERS}, [("patinox", 1.1, "arc-swap-cache", None)]),
    "share/snapshot-peek": case(
        VALUE, {"arc-swap": "rust", "crossbeam-epoch": "rust", "liburcu-memb": PEERS, "plain-load": PEERS},
        [("patinox", 1 / 3, "arc-swap", None), ("patinox", 1.1, "liburcu-memb", None),
         ("patinox-fence", 1.0, "arc-swap", None)],
        ours={**OURS, "patinox-fence": STATIC}),
    "share/snapshot-load": case(
        VALUE, {"arc-swap": "rust", "parking_lot-rwlock": "rust"}, [("patinox", 0.85, "arc-swap", None)]),
    "share/snapshot-store": case(
        VALUE, {"arc-swap": "rust", "crossbeam-epoch": "rust", "parking_lot-rwlock": "rust", "liburcu-memb": PEERS},
        [("patinox", 1.0, "arc-swap", None)]),
    "share/rwdata-read": case(
        VALUE, {"parking_lot-rwlock": "rust", "std-rwlock": "rust", "pthread-rwlock": PEERS},
        [("patinox", 1.0, "parking_lot-rwlock", None)]),
    "share/rwdata-write": case(
        VALUE, {"parking_lot-rwlock": "rust", "std-rwlock": "rust", "pthread-rwlock": PEERS},
        [("patinox", 1.0, "parking_lot-rwlock", None)]),
    "share/cmap-get": case(
        ENTRIES, {**MAPS, "dashmap": "rust"}, [("patinox", 1.0, "best", 1), ("patinox", 0.6, "best", 2)]),
    "share/cmap-mix": case(
        {**ENTRIES, "updates_percent": 10}, {**MAPS, "dashmap": "rust"},
        [("patinox", 1.0, "best", 1), ("patinox", 0.6, "best", 2)]),
    "share/cmap-batch-get": case(
        {**ENTRIES, "batch": 64}, {}, [("patinox", 1 / 1.8, "patinox-single", None)],
        ours={**OURS, "patinox-single": STATIC}),
    "share/cmap-memory": case(
        ENTRIES, MAPS, [("patinox", 1.0, "dashmap-foldhash", None)], threads=(1,), unit="bytes_per_entry"),
    "cache/hit-int-uniform": case(
        {**HITS, "key": "u64"}, {**CACHE_PEERS, "dashmap": "rust"},
        [("patinox", 0.6, "quick_cache", 1), ("patinox", 0.35, "quick_cache", 2)], ours=CACHES_BOTH),
    "cache/hit-int-zipf": case(
        {**HITS, "key": "u64", "zipf": 0.99}, {**CACHE_PEERS, "dashmap": "rust"},
        [("patinox", 0.6, "quick_cache", 1), ("patinox", 0.5, "quick_cache", 2)], ours=CACHES_BOTH),
    "cache/hit-str": case(
        {**HITS, "key": "24 bytes"}, {**CACHE_PEERS, "dashmap": "rust"},
        [("patinox", 0.4, "quick_cache", None)], ours=CACHES_BOTH),
    "cache/mixed": case(
        {"keys": 1_000_000, "entries": 100_000, "zipf": 0.99}, CACHE_PEERS,
        # The peer's hit ratio is at most ours.
        [("patinox", 0.6, "quick_cache", None), Target("quick_cache", 1.0, "patinox", unit="hit_ratio")], ours=CACHES_BOTH),
    "cache/insert-evict": case(
        {"entries": 100_000}, CACHE_PEERS, [("patinox", 1.0, "quick_cache", None)], ours=CACHES_BOTH, threads=(1,)),
    "cache/expire": case(
        {"entries": 1_000_000, "ttl_ms": "200 to 1200", "still": "ttl of an hour"}, {},
        [Target("patinox", 1.5, "patinox-still", unit="op_p9999_ns"), Target("patinox", 8, unit="expired_at_once")],
        ours={"patinox": CACHE_STATIC, "patinox-still": CACHE_STATIC}, threads=(1,)),
    "cache/size-sweep": case(
        {"entries": ", ".join(SWEPT)}, {}, ours={f"patinox-{size}": CACHE_STATIC for size in SWEPT}, threads=(1,)),
    "cache/get-10m": case(
        {"entries": 10_000_000}, {}, ours={"patinox": "bench_caches_static", "patinox-dependent": "bench_caches_static"},
        threads=(1,)),
    "cache/batch-get": case(
        {"entries": 10_000_000, "batch": 64}, {},
        [("patinox", 1 / 1.8, "patinox-single", None), ("patinox", 1 / 4, "patinox-dependent", None)],
        ours={"patinox": "bench_caches_static", "patinox-single": "bench_caches_static",
              "patinox-dependent": "bench_caches_static"}, threads=(1,)),
    "cache/memory": case(
        {"entries": 1_000_000, "key": "u64", "value": "u64"}, CACHE_PEERS,
        [("patinox", 1.0, "quick_cache", None), ("patinox", 40)],
        ours=CACHES_BOTH, threads=(1,), unit="bytes_per_entry"),
    "resource/guard-cycle": case(
        {}, {"direct-call": RESOURCE_PEERS},
        [Target("patinox", 1.0, "direct-call", 1, unit="instructions_per_op", plus=2)],
        ours=RESOURCE, instructions=True),
    "resource/track-cycle": case(
        {"live": 1000},
        dict.fromkeys(("mutexed-hash-registry", "mutexed-list-registry", "talloc", "apr_pool"), RESOURCE_PEERS),
        [("patinox", 0.6, "mutexed-hash-registry", 1), ("patinox", 1.0, "talloc", 1),
         ("patinox", 0.15, "mutexed-hash-registry", 2), Target("patinox", 64, None, 1, unit="bytes_per_row")],
        ours={**RESOURCE, "patinox-memory": "bench_resource_static"}),
    "resource/defer": case(
        {"queue_max": 1024, "workers": 1},
        dict.fromkeys(("g_async_queue", "g_async_queue-flow", "g_async_queue-asleep", "futex-wake"), RESOURCE_PEERS),
        [("patinox", 1.0, "g_async_queue", None), ("patinox-flow", 1.0, "g_async_queue-flow", None),
         Target("patinox-asleep", 1.0, "patinox", 1, unit="op_p50_ns", plus="futex-wake")],
        ours={**RESOURCE, "patinox-flow": "bench_resource_static", "patinox-asleep": "bench_resource_static"}),
    "resource/enumerate": case(
        {"rows": 1_000_000}, {"memcpy": RESOURCE_PEERS}, [("patinox", 3.0, "memcpy", None)], ours=RESOURCE),
    # The C programs make the file, so they stand before Rust's.
    "map/scan-warm": case(
        {**FILE, "record_bytes": 32}, {"c-mmap": FILES_PEERS, "memmap2": "rust"}, [("patinox", 1.02, "c-mmap")],
        ours=FILES, threads=(1,)),
    "map/random-get": case(
        {**FILE, "record_bytes": 32}, {"c-mmap": FILES_PEERS, "memmap2": "rust"}, [("patinox", 1.05, "c-mmap")],
        ours=FILES, threads=(1,)),
    "map/scan-fresh": case(
        {**FILE, "piece_mib": 64},
        {**dict.fromkeys(("c-mmap", "c-mmap-populate", "gmappedfile", "read-1m"), FILES_PEERS), "memmap2": "rust"},
        [("patinox", 1.0, "best")], ours=FILES, threads=(1,)),
    "map/copy-4k": case(
        {"file_bytes": 1 << 30, "bytes": 4096}, {"memcpy": MAPPING_PEERS}, [("patinox", 1.1, "memcpy", None)],
        ours=MAPPING, threads=(1,)),
    "map/scope": case(
        {}, {"liburcu-memb": MAPPING_PEERS}, [("patinox", 2.0, "liburcu-memb", None)], ours=MAPPING, threads=(1,)),
}


def figure(value):
    return "" if value is None else f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"


def more(rows):
    """The headings of what rows tell besides, and a function that gives a row's cells under them."""
    fields = [field for field in MORE if any(field in row for row in rows)]
    return ([MORE[field][0] for field in fields],
            lambda row: [figure(row[field] / MORE[field][1] if field in row else None) for field in fields])


def is_ours(impl):
    return impl.startswith("patinox")


def is_peer(impl):
    return not is_ours(impl) and impl not in FLOORS
