#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""regret.py PATINOX [--policies A,B] [--cells] - hit ratios and regret of policies over the shared traces.

Runs "PATINOX sim" on every trace of ../shared/traces at 0.1, 1, 5, 10, 20 and 50 % of the footprint, sizes of at
least 100 entries.  Regret is what a policy loses, in points of hit ratio, against the best of the ten policies in
oracle.md in the same cell.  --cells prints every cell, beside the same policy of oracle.md.
"""
import argparse
import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TRACES = ROOT.parent / "shared/traces"
FORMATS = {"corda-trace_vaultservice.gz": "int64", "cache2k-web07.trace.xz": "int32", "cache2k-web12.trace.xz": "int32"}
SHARES = (0.1, 1, 5, 10, 20, 50)
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


def simulate(patinox, path, sizes, policies):
    command = [patinox, "sim", "--json", "--sizes", ",".join(map(str, sizes)), "--policies", policies,
               "--format", FORMATS.get(path.name, "auto"), str(path)]
    out = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout
    return {(row["policy"], row["size"]): 100 * row["hit_ratio"] for row in json.loads(out)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("patinox")
    parser.add_argument("--policies", default="fifo,lru,lfu,clock,sieve,s3-fifo,w-tinylfu,lirs,ttl,belady")
    parser.add_argument("--cells", action="store_true")
    args = parser.parse_args()
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
