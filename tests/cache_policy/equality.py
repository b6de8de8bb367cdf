#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Policies hit exactly as often as the references in reference.py, on real traces and on random ones.

The command is PATINOX_BINARY.  The real traces are no part of the project; without them those tests are skipped.
With PNX_TEST_LONG each policy runs on each whole trace, else on its first SHORT requests.
"""
import gzip
import json
import lzma
import os
import random
import struct
import subprocess
import sys
import tempfile
import unittest
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "harness")]
import reference  # noqa: E402
import results  # noqa: E402

BINARY = os.environ.get("PATINOX_BINARY", "build/dev/tools/patinox/patinox")
LONG = os.environ.get("PNX_TEST_LONG", "0") not in ("", "0")
TRACES = HERE.parents[2] / "shared/traces"
SHORT = 5000 if os.environ.get("PATINOX_SANITIZED") == "1" else 25000
SHARES = (0.1, 1, 5, 10, 20, 50)  # % of the footprint
LEAST = 100  # entries


def unpack(path):
    data = path.read_bytes()
    if path.suffix == ".gz":
        return gzip.decompress(data)
    if path.suffix == ".xz":
        return lzma.decompress(data)
    return subprocess.run(["zstd", "-dc"], input=data, stdout=subprocess.PIPE, check=True).stdout


def read_lines(data):
    return [(line.strip(), 1) for line in data.decode().splitlines() if line.strip() not in ("", "*")]


def read_ranges(data):
    requests = []
    for line in data.decode().splitlines():
        start, count = map(int, line.split()[:2])
        requests += [(start + i, 1) for i in range(count)]
    return requests


def read_sizes(data):
    return [(key, int(size)) for _, key, size in (line.split() for line in data.decode().splitlines())]


def read_oracle(data):
    return [(key, size) for _, key, size, _ in struct.iter_unpack("<IQIq", data)]


# file: its format, and how it is read here
REAL = {
    "lirs-cpp.trace.gz": ("auto", read_lines),
    "lirs-multi1.trace.gz": ("auto", read_lines),
    "lirs-multi2.trace.gz": ("auto", read_lines),
    "lirs-zigzag.trace.gz": ("auto", read_lines),
    "lirs-sprite.trace.gz": ("auto", read_lines),
    "lirs-loop.trace.gz": ("auto", read_lines),
    "cache2k-web07.trace.xz": ("int32", lambda data: [(key, 1) for key, in struct.iter_unpack(">i", data)]),
    "cache2k-web12.trace.xz": ("int32", lambda data: [(key, 1) for key, in struct.iter_unpack(">i", data)]),
    "corda-trace_vaultservice.gz": ("int64", lambda data: [(key, 1) for key, in struct.iter_unpack(">q", data)]),
    "adapt_size-request.trace.xz": ("auto", read_sizes),
    "cloudPhysicsIO.oracleGeneral.bin.zst": ("auto", read_oracle),
    "arc-OLTP.lis.zst": ("auto", read_ranges),
}
# Exact LRU on OLTP, hit ratio in %: BitFaster.Caching#132
ANCHORS = {250: 16.47, 500: 23.45, 1000: 32.83, 2000: 42.47}


def simulate(path, form, sizes, policies):
    out = subprocess.run([BINARY, "sim", "--json", "--format", form, "--policies", ",".join(policies),
                          "--sizes", ",".join(sizes), str(path)],
                         check=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE).stdout
    return {(row["policy"], row["size"]): row for row in json.loads(out)}


def differences(path, form, requests, capacities, in_bytes=False):
    """One line for each policy and capacity that does not hit as often as its reference."""
    policies = list(reference.POLICIES)
    rows = simulate(path, form, [f"{n}B" if in_bytes else str(n) for n in capacities], policies)
    found = []
    for policy in policies:
        for capacity in capacities:
            hits = reference.replay(policy, capacity, requests, in_bytes)
            row = rows[policy, capacity]
            if row["requests"] != len(requests) or row["hits"] != hits:
                found.append(f"{path.name}: {policy} at {capacity}: {row['hits']} hits of {row['requests']}, "
                             f"reference {hits} of {len(requests)}")
    return found


def compare_real(name):
    form, read = REAL[name]
    requests = read(unpack(TRACES / name))
    if len(requests) > SHORT and not LONG:
        # A part of it, as it is: what is cut off says nothing about the rest.
        requests = requests[:SHORT]
    footprint = {key: size for key, size in reversed(requests)}  # a key's first size stands last
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name.rsplit(".", 1)[0]
        path.write_text("".join(f"0 {key} {size}\n" for key, size in requests))
        capacities = sorted({int(len(footprint) * share / 100) for share in SHARES})
        found = differences(path, "time-key-size", requests, [n for n in capacities if n >= LEAST])
        if any(size != 1 for _, size in requests):
            capacities = [int(sum(footprint.values()) * share / 100) for share in SHARES]
            found += differences(path, "time-key-size", requests, capacities, in_bytes=True)
    # The file as it is, in its own format, which is whole.
    whole = read(unpack(TRACES / name))
    rows = simulate(TRACES / name, form, ["10%"], ["fifo"])
    for (_, size), row in rows.items():
        hits = reference.replay("fifo", size, whole)
        if row["requests"] != len(whole) or row["hits"] != hits:
            found.append(f"{name}: fifo at {size}: {row['hits']} of {row['requests']}, reference {hits} of {len(whole)}")
    return found


def random_trace(seed):
    """Some popular keys, some loops and some that come once."""
    source = random.Random(seed)
    keys = source.choice((20, 100, 1000))
    sizes = [source.choice((1, 10, 100, 1000)) * source.randint(1, 9) for _ in range(keys * 3)]
    requests = []
    while len(requests) < 8000:
        what = source.random()
        if what < 0.6:
            key = int(keys * source.random() ** 4)
        elif what < 0.9:
            key = keys + len(requests) % keys
        else:
            key = 2 * keys + source.randrange(keys)
        requests.append((key, sizes[key]))
    return requests


class Equality(unittest.TestCase):
    def test_policies_hit_as_often_as_their_references_on_real_traces(self):
        if not TRACES.is_dir():
            self.skipTest(f"no traces: {TRACES} is not there")
        with ProcessPoolExecutor(os.cpu_count()) as pool:
            found = [line for lines in pool.map(compare_real, REAL) for line in lines]
        self.assertEqual(found, [])

    def test_lru_hits_as_often_as_published(self):
        if not TRACES.is_dir():
            self.skipTest(f"no traces: {TRACES} is not there")
        rows = simulate(TRACES / "arc-OLTP.lis.zst", "auto", map(str, ANCHORS), ["lru"])
        for size, percent in ANCHORS.items():
            self.assertAlmostEqual(100 * rows["lru", size]["hit_ratio"], percent, delta=0.005)

    def test_policies_hit_as_often_as_their_references_at_random(self):
        seed = int(os.environ.get("SEED", random.SystemRandom().randrange(1 << 32)))
        with tempfile.TemporaryDirectory() as folder:
            for part in range(20 if LONG else 5):
                requests = random_trace(seed + part)
                path = Path(folder) / "random"
                path.write_text("".join(f"0 {key} {size}\n" for key, size in requests))
                found = differences(path, "auto", requests, [1, 2, 3, 9, 10, 11, 57, 300])
                found += differences(path, "auto", requests, [1, 700, 9001, 77777, 800000], in_bytes=True)
                self.assertEqual(found, [], f"SEED={seed + part}")


if __name__ == "__main__":
    results.main("cache_policy")
