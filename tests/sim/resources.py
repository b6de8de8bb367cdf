#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""patinox sim keeps less than 64 bytes a key for each policy and size, however many requests there are."""
import os
import random
import resource
import struct
import subprocess
import unittest

import simulator  # first: it knows the way to results
import results

KEYS = 150000
POLICIES = ["auto", "lru", "lfu", "sieve", "clock", "fifo", "s3-fifo", "w-tinylfu", "lirs", "ttl", "belady"]
OUR_MEMORY = unittest.skipIf(simulator.SANITIZED, "a sanitizer takes memory of its own")


def peak(*arguments, stdin=None):
    """Peak resident bytes of patinox sim."""
    with subprocess.Popen([simulator.BINARY, "sim", *arguments], stdin=stdin or subprocess.DEVNULL,
                          stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        error = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise AssertionError(error.decode())
    return usage.ru_maxrss * 1024


class Memory(simulator.Case):
    def trace(self, name, keys, requests, sized):
        """Each key once, in any order, then any of them."""
        source = random.Random(1)
        order = list(range(keys))
        source.shuffle(order)
        order += [source.randrange(keys) for _ in range(requests - keys)]
        data = (b"".join(struct.pack("<IQIq", 0, key * 1000003, 1 + key % 1000, -1) for key in order) if sized else
                b"".join(struct.pack(">q", key * 1000003) for key in order))
        return self.write(name, data)

    @OUR_MEMORY
    def test_a_run_takes_less_than_64_bytes_a_key(self):
        least = {}
        for sized in (False, True):
            form = "oracleGeneral" if sized else "int64"
            few = self.trace("few", 100, 2000, sized)
            many = self.trace("many", KEYS, 2 * KEYS, sized)
            sizes = (("10%B", "50%B", "100%B") if sized else ("10%", "50%", "100%", str(KEYS // 10), str(KEYS)))
            for policy in POLICIES:
                for size in sizes:
                    more = ("--format", form, "--policies", policy, "--sizes", size)
                    base = least.setdefault((sized, policy), peak("--format", form, "--policies", policy, few))
                    bytes_a_key = (peak(*more, many) - base) / KEYS
                    with self.subTest(f"{policy} {size}"):
                        self.assertLess(bytes_a_key, 64)

    @OUR_MEMORY
    def test_standard_input_and_requests_take_no_memory(self):
        few = self.trace("few", 20000, 100000, False)
        many = self.trace("many", 20000, 3000000, False)
        for policies in ("s3-fifo", "belady"):
            more = ("--format", "int64", "--policies", policies, "--sizes", "10%")
            with open(many, "rb") as file:
                self.assertLess(peak(*more, "-", stdin=file) - peak(*more, few), 2 << 20)
            self.assertLess(peak(*more, many) - peak(*more, few), 2 << 20)

    def test_several_runs_are_a_few_passes_when_they_are_large(self):
        # All policies at six sizes: no more than so many times what one takes, and the results are the same as alone.
        path = self.trace("many", 50000, 100000, False)
        rows = self.simulate(path, "--format", "int64", "--sizes", "1%,5%,10%,20%,50%,100%")
        self.assertEqual(len(rows), 6 * len(POLICIES))
        for row in rows[3::13]:
            alone = self.simulate(path, "--format", "int64", "--sizes", str(row["size"]), "--policies", row["policy"])
            self.assertEqual(alone[0]["hits"], row["hits"], row["policy"])

    @OUR_MEMORY
    def test_no_memory_is_an_error(self):
        path = self.trace("many", KEYS, KEYS, False)
        for policy in POLICIES:
            # From so little that nothing starts to enough for all of it.
            for limit in range(24 << 20, 200 << 20, 8 << 20):
                done = simulator.run("sim", "--format", "int64", "--policies", policy, "--sizes", "50%", path,
                                     preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)))
                if done.returncode == 0:
                    break
                self.assertIn(done.returncode, (1, 127))  # 127: not even its libraries
                self.assertEqual(done.stdout, b"")
            self.assertEqual(done.returncode, 0, policy)


if __name__ == "__main__":
    results.main("sim")
