#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""peers.py REPLAY - hit ratios and regret of quick_cache and moka over the shared traces, to stand beside those of regret.py.

REPLAY is the program replay of bench/peers (cargo build --release --bin replay).
"""
import os
import subprocess
import sys
import tempfile
from array import array
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(1, str(Path(__file__).resolve().parents[1] / "harness"))
import equality  # noqa: E402
import regret  # noqa: E402


def write_keys(path, file):
    """Numbers keys in the order in which they come first, 32 bits each in this machine's order."""
    ids = {}
    keys = equality.REAL[path.name][1](equality.unpack(path))
    array("I", (ids.setdefault(key, len(ids)) for key, _ in keys)).tofile(file)


def main():
    known = regret.oracle()
    lost, ratios = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for trace, path in regret.trace_files().items():
            sizes = sorted(size for name, size in known if name == trace)
            keys = os.path.join(folder, trace)
            with open(keys, "wb") as file:
                write_keys(path, file)
            out = subprocess.run([sys.argv[1], ",".join(map(str, sizes)), keys], check=True, text=True,
                                 stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout
            for line in out.splitlines():
                _, peer, size, requests, hits = line.split()
                ratio = 100 * int(hits) / int(requests)
                best = max(known[trace, int(size)][name] for name in regret.TEN)
                ratios.setdefault(peer, []).append(ratio)
                lost.setdefault(peer, []).append((best - ratio, f"{trace}@{size}"))
    for peer, values in lost.items():
        worst, where = max(values)
        print(f"{peer:12} mean hit {sum(ratios[peer]) / len(values):.2f} %, mean regret "
              f"{sum(value for value, _ in values) / len(values):.2f}, worst {worst:.2f} at {where}, in {len(values)} cells")


if __name__ == "__main__":
    sys.exit(main())
