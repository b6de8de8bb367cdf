#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""AUTO hits more than quick_cache and moka on the mean over the shared traces.  Prints mean hit ratios and regret of all three.

The command is PATINOX_BINARY.  The peers are the program replay of bench/peers, which is built by
"cargo build --release --bin replay" there; PATINOX_REPLAY names it where it is not under CARGO_TARGET_DIR or bench/peers/target.
Without it, or without the traces, the test is skipped.  With CELLS=1 a line for each trace and size is printed, too.
"""
import os
import subprocess
import sys
import tempfile
import unittest
from array import array
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "harness")]
import equality  # noqa: E402
import regret  # noqa: E402
import results  # noqa: E402

BINARY = os.environ.get("PATINOX_BINARY", "build/dev/tools/patinox/patinox")
SANITIZED = os.environ.get("PATINOX_SANITIZED") == "1"
BUILT = Path(os.environ.get("CARGO_TARGET_DIR") or HERE.parents[1] / "bench/peers/target") / "release/replay"
REPLAY = Path(os.environ.get("PATINOX_REPLAY") or BUILT)
PEERS = ("quick_cache", "moka")


def write_keys(path, file):
    """Numbers keys in the order in which they come first, 32 bits each in this machine's order."""
    ids = {}
    keys = equality.REAL[path.name][1](equality.unpack(path))
    array("I", (ids.setdefault(key, len(ids)) for key, _ in keys)).tofile(file)


def replay(path, sizes, folder):
    """{(peer, size): hit %}"""
    keys = os.path.join(folder, path.name)
    with open(keys, "wb") as file:
        write_keys(path, file)
    out = subprocess.run([str(REPLAY), ",".join(map(str, sizes)), keys], check=True, text=True, stdout=subprocess.PIPE,
                         stderr=subprocess.DEVNULL).stdout
    lines = [line.split() for line in out.splitlines()]
    return {(peer, int(size)): 100 * int(hits) / int(requests) for _, peer, size, requests, hits in lines}


@unittest.skipIf(SANITIZED, "no sanitizer: the figures do not depend on it")
@unittest.skipUnless(regret.TRACES.is_dir(), f"no traces: {regret.TRACES} is not there")
@unittest.skipUnless(REPLAY.is_file(), f"no peers: {REPLAY} was not built (cargo build --release --bin replay, in bench/peers)")
class Peers(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        known = regret.oracle()
        cls.hits = {}  # by policy or peer: a list in the order of cells
        lost = {}
        with tempfile.TemporaryDirectory() as folder:
            for trace, path in regret.trace_files().items():
                sizes = sorted(size for name, size in known if name == trace)
                rows = {**regret.simulate(BINARY, path, sizes, "auto"), **replay(path, sizes, folder)}
                for size in sizes:
                    cell = {name: rows[name, size] for name in ("auto", *PEERS)}
                    best = max(known[trace, size][name] for name in regret.TEN)
                    for name, hit in cell.items():
                        cls.hits.setdefault(name, []).append(hit)
                        lost.setdefault(name, []).append((best - hit, f"{trace}@{size}"))
                    if os.environ.get("CELLS"):
                        print(f"{trace}@{size}: best {best:.2f}: " + ", ".join(f"{n} {h:.2f}" for n, h in cell.items()))
        for name, values in lost.items():
            worst, where = max(values)
            print(f"{name:12} mean hit {sum(cls.hits[name]) / len(values):.2f} %, mean regret "
                  f"{sum(value for value, _ in values) / len(values):.2f}, worst {worst:.2f} at {where}, in {len(values)} cells",
                  flush=True)

    def test_auto_hits_more_than_each_peer_on_the_mean(self):
        for peer in PEERS:
            self.assertEqual(len(self.hits[peer]), len(self.hits["auto"]))
            self.assertGreater(sum(self.hits["auto"]), sum(self.hits[peer]), peer)


if __name__ == "__main__":
    results.main("cache_policy")
