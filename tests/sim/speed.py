#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""speed.py PATINOX [REPETITIONS] - requests a second of patinox sim, whole command, one policy at one size.

The trace is generated: 5 million requests of 24 bytes (oracleGeneral) for 1 million keys, of which key k is asked for in
proportion to 1 / k.  Prints the median and the best for each policy.
"""
import random
import statistics
import struct
import subprocess
import sys
import tempfile
import time

REQUESTS, KEYS, SIZE = 5_000_000, 1_000_000, 10_000


def main():
    binary, repetitions = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 5
    source = random.Random(1)
    with tempfile.NamedTemporaryFile(suffix=".oracleGeneral") as file:
        record = struct.Struct("<IQIq")
        for i in range(REQUESTS):
            key = int(KEYS ** source.random())
            file.write(record.pack(i // 1000, key * 2654435761, 100 + key % 1000, -1))
        file.flush()
        for policy in ("fifo", "s3-fifo", "lru", "sieve", "w-tinylfu"):
            rates = []
            for _ in range(repetitions):
                begin = time.monotonic()
                subprocess.run([binary, "sim", "--policies", policy, "--sizes", str(SIZE), file.name], check=True,
                               stdout=subprocess.DEVNULL)
                rates.append(REQUESTS / (time.monotonic() - begin) / 1e6)
            print(f"{policy:10} {statistics.median(rates):5.1f} million requests a second, at best {max(rates):.1f}")


if __name__ == "__main__":
    main()
