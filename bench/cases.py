# SPDX-License-Identifier: Apache-2.0
"""The cases of bench/run: which program runs which implementation, in how many threads, and what is wanted."""
from collections import namedtuple

# ours takes at most factor x peer + plus, "best" being the best peer and a peer of None being 1; plus is a number, or an
# implementation.  threads None stands for any number, unit None for the case's.
Target = namedtuple("Target", "ours factor peer threads unit plus", defaults=(None, None, 0))

STATIC, SHARED, PEERS = "bench_share_static", "bench_share_shared", "bench_share_peers"
OURS = {"patinox": STATIC, "patinox-so": SHARED}
FLOORS = ("plain-load", "futex-wake")  # what cannot be beaten; no peer
MAPS = {"rwlock-hashmap-foldhash": "rust", "dashmap-foldhash": "rust", "papaya-foldhash": "rust",
        "rculfhash": PEERS, "ck_ht": PEERS, "ghashtable-rwlock": PEERS}
VALUE = {"value_bytes": 8}
ENTRIES = {"entries": 1_000_000, "key": "u64", "value": "u64"}
RESOURCE = {"patinox": "bench_resource_static", "patinox-so": "bench_resource_shared"}
RESOURCE_PEERS = "bench_resource_peers"


def case(params, peers, targets=(), **more):
    """instructions: the number of instructions of an operation is counted, too, in one thread."""
    return {"params": params, "impls": {**more.pop("ours", OURS), **peers},
            "targets": [Target(*target) for target in targets], "threads": more.pop("threads", (1, 2)),
            "unit": more.pop("unit", "ns_per_op"), "instructions": more.pop("instructions", False)}


CASES = {
    "pool/cycle": case(
        {"size": 16},
        {"apr_reslist": "bench_pool_peers", "parking_lot-stack": "rust", "pthread-stack": "bench_pool_peers"},
        ours={"patinox": "bench_pool_static", "patinox-so": "bench_pool_shared"}),
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
}


def is_ours(impl):
    return impl.startswith("patinox")


def is_peer(impl):
    return not is_ours(impl) and impl not in FLOORS
