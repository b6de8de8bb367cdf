# SPDX-License-Identifier: Apache-2.0
"""The cases of bench/run: which program runs which implementation, in how many threads, and what is wanted."""

STATIC, SHARED, PEERS = "bench_share_static", "bench_share_shared", "bench_share_peers"
OURS = {"patinox": STATIC, "patinox-so": SHARED}
FLOORS = ("plain-load",)  # what cannot be beaten; no peer
MAPS = {"rwlock-hashmap-foldhash": "rust", "dashmap-foldhash": "rust", "papaya-foldhash": "rust",
        "rculfhash": PEERS, "ck_ht": PEERS, "ghashtable-rwlock": PEERS}
VALUE = {"value_bytes": 8}
ENTRIES = {"entries": 1_000_000, "key": "u64", "value": "u64"}


def case(params, peers, targets=(), **more):
    """targets: (ours, factor, peer, threads): ours takes at most factor x peer, "best" being the best peer;
    threads None stands for any number."""
    return {"params": params, "impls": {**more.pop("ours", OURS), **peers}, "targets": targets,
            "threads": more.pop("threads", (1, 2)), "unit": more.pop("unit", "ns_per_op")}


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
}


def is_ours(impl):
    return impl.startswith("patinox")


def is_peer(impl):
    return not is_ours(impl) and impl not in FLOORS
