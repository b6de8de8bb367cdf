#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""regret.py PATINOX [--policies A,B] [--cells] [--others] - hit ratios and regret of policies over the shared traces.

Runs "PATINOX sim" on every trace of ../shared/traces at 0.1, 1, 5, 10, 20 and 50 % of the footprint, sizes of at
least 100 entries.  Regret is what a policy loses, in points of hit ratio, against the best of the ten policies in
oracle.md in the same cell.  --cells prints every cell, beside the same policy of oracle.md.

--others takes the traces of workloads.py in place of them, and regret is against the best policy of ours; it prints how
often AUTO misses each of the limits of auto_regret.py, too.
"""
import argparse
import functools
import json
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TRACES = ROOT.parent / "shared/traces"
FORMATS = {"corda-trace_vaultservice.gz": "int64", "cache2k-web07.trace.xz": "int32", "cache2k-web12.trace.xz": "int32"}
SHARES = (0.1, 1, 5, 10, 20, 50)
LEAST = 100  # entries
OURS = ("auto", "lru", "lfu", "sieve", "clock", "fifo", "s3-fifo", "w-tinylfu", "lirs")
ORACLE_NAMES = {"w-tinylfu": "wtinyLFU"}
TEN = ("fifo", "lru", "lfu", "clock", "sieve", "s3-fifo", "wtinyLFU", "arc", "lirs", "2q")


def oracle():
    """{(trace, size): {policy: hit %}}"""
    rows = [[cell.strip() for cell in line.strip("|\n ").split("|")]
            for line in (TRACES / "oracle.md").read_text().splitlines() if line.startswith("|")]
    start = next(i for i, row in enumerate(rows) if row[:2] == ["trace", "size"])
    names = rows[start][2:]
    return {(row[0], int(row[1])): dict(zip(names, map(float, row[2:]))) for row in rows[start + 2:]}


def trace_files():
    """{name in oracle.md: file}"""
    files = {}
    for path in sorted(TRACES.iterdir()):
        name = path.name
        if name.endswith((".gz", ".xz", ".zst")) and not name.startswith(("adapt", "cloud")):
            short = re.sub(r"(\.trace|\.lis|-trace_vaultservice)?\.(gz|xz|zst)$", "", name)
            files[short] = path
    return files


def simulate(patinox, path, sizes, policies, form=None):
    command = [patinox, "sim", "--json", "--sizes", ",".join(map(str, sizes)), "--policies", policies,
               "--format", form or FORMATS.get(path.name, "auto"), str(path)]
    out = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout
    return {(row["policy"], row["size"]): 100 * row["hit_ratio"] for row in json.loads(out)}


def loader():
    """A function that returns a shared trace by its name in oracle.md, "cloud" or "adapt"; keys are numbered from 0."""
    sys.path[:0] = [str(Path(__file__).resolve().parent), str(ROOT / "tests/harness")]
    import equality
    sized = {"cloud": "cloudPhysicsIO.oracleGeneral.bin.zst", "adapt": "adapt_size-request.trace.xz"}

    @functools.cache
    def load(name):
        ids = {}
        path = TRACES / sized[name] if name in sized else trace_files()[name]
        return [ids.setdefault(key, len(ids)) for key, _ in equality.REAL[path.name][1](equality.unpack(path))]

    return load


def others(patinox):
    """{trace@size: {policy: hit %}} over the traces of workloads.py; without the shared traces, those that need none."""
    import workloads
    load = loader()
    names = [*workloads.WORKLOADS, *(workloads.DERIVED if TRACES.is_dir() else ())]

    def cells(name):
        keys = workloads.make(name, load)
        sizes = sorted({int(len(set(keys)) * share / 100) for share in SHARES} - set(range(LEAST)))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            workloads.write(keys, path)
            return name, simulate(patinox, path, sizes, ",".join(OURS), "int32")

    found = {}
    with ThreadPoolExecutor(2) as pool:
        for name, rows in pool.map(cells, names):
            for (policy, size), hit in rows.items():
                found.setdefault((name, size), {})[policy] = hit
    return found


def print_others(found, every):
    lost = {cell: max(hits.values()) - hits["auto"] for cell, hits in found.items()}
    behind = {cell: hits["fifo"] - hits["auto"] for cell, hits in found.items()}
    for cell, hits in found.items():
        if every or lost[cell] > 6 or behind[cell] > 0.3 or (cell[1] >= 8192 and lost[cell] > 1.5):
            best = max(hits, key=hits.get)
            print(f"{cell[0]}@{cell[1]}: auto {hits['auto']:.2f}, {best} {hits[best]:.2f}, fifo {hits['fifo']:.2f}")
    for policy in OURS:
        values = [max(hits.values()) - hits[policy] for hits in found.values()]
        print(f"{policy:10} mean hit {sum(hits[policy] for hits in found.values()) / len(found):.2f} %, mean regret "
              f"{sum(values) / len(values):.2f}, worst {max(values):.2f}")
    many = [value for (_, size), value in lost.items() if size >= 8192]
    print(f"auto, of {len(lost)} cells: {sum(value > 6 for value in lost.values())} more than 6 points behind; "
          f"{sum(value > 0.3 for value in behind.values())} more than 0.3 behind FIFO, at most {max(behind.values()):.2f}; of "
          f"{len(many)} with 8192 entries and more {sum(value > 1.5 for value in many)} more than 1.5 behind, at most "
          f"{max(many):.2f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("patinox")
    parser.add_argument("--policies", default="fifo,lru,lfu,clock,sieve,s3-fifo,w-tinylfu,lirs,ttl,belady")
    parser.add_argument("--cells", action="store_true")
    parser.add_argument("--others", action="store_true")
    args = parser.parse_args()
    if args.others:
        print_others(others(args.patinox), args.cells)
        return
    known = oracle()
    policies = args.policies.split(",")
    regret = {policy: [] for policy in policies}
    ours = {policy: [] for policy in policies}
    for trace, path in trace_files().items():
        sizes = sorted(size for name, size in known if name == trace)
        results = simulate(args.patinox, path, sizes, args.policies)
        for size in sizes:
            cell = known[trace, size]
            best = max(cell[name] for name in TEN)
            line = []
            for policy in policies:
                hit = results[policy, size]
                regret[policy].append((best - hit, f"{trace}@{size}"))
                ours[policy].append(hit)
                theirs = cell.get(ORACLE_NAMES.get(policy, "optimum" if policy == "belady" else policy))
                line.append(f"{policy} {hit:.2f}" + (f" ({theirs:.2f})" if theirs is not None else ""))
            if args.cells:
                print(f"{trace}@{size}: best {best:.2f}: " + ", ".join(line))
    print(f"{'policy':10} {'mean hit %':>10} {'mean regret':>12} {'worst regret':>13}  in {len(ours[policies[0]])} cells")
    for policy in policies:
        worst, where = max(regret[policy])
        mean = sum(value for value, _ in regret[policy]) / len(regret[policy])
        print(f"{policy:10} {sum(ours[policy]) / len(ours[policy]):10.2f} {mean:12.2f} {worst:13.2f}  at {where}")


if __name__ == "__main__":
    sys.exit(main())
