#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""AUTO over the shared traces: near the best of ten known policies in the mean and at worst, and never behind FIFO.

The command is PATINOX_BINARY.  The traces are no part of the project; without them the tests are skipped.
"""
import os
import sys
import unittest
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "harness")]
import regret  # noqa: E402
import results  # noqa: E402

BINARY = os.environ.get("PATINOX_BINARY", "build/dev/tools/patinox/patinox")
SANITIZED = os.environ.get("PATINOX_SANITIZED") == "1"
OURS = regret.OURS
MEAN_REGRET, WORST_REGRET = 1.5, 6.0  # points of hit ratio
BEHIND_FIFO = 0.3
BEHIND_OURS, MANY_ENTRIES = 1.5, 8192


@unittest.skipUnless(regret.TRACES.is_dir(), f"no traces: {regret.TRACES} is not there")
@unittest.skipIf(SANITIZED, "no sanitizer: the figures do not depend on it")
class Auto(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        known = regret.oracle()

        def cells(item):
            trace, path = item
            sizes = sorted(size for name, size in known if name == trace)
            return trace, regret.simulate(BINARY, path, sizes, ",".join(OURS))

        cls.best, cls.hits = {}, {}  # by (trace, size)
        with ThreadPoolExecutor(2) as pool:
            for trace, rows in pool.map(cells, regret.trace_files().items()):
                for (policy, size), hit in rows.items():
                    cls.hits.setdefault((trace, size), {})[policy] = hit
        for cell in cls.hits:
            cls.best[cell] = max(known[cell][name] for name in regret.TEN)

    def test_mean_and_worst_regret(self):
        lost = {cell: self.best[cell] - hits["auto"] for cell, hits in self.hits.items()}
        self.assertEqual(len(lost), 43)
        self.assertLessEqual(sum(lost.values()) / len(lost), MEAN_REGRET)
        worst = max(lost, key=lost.get)
        self.assertLessEqual(lost[worst], WORST_REGRET, f"{worst}")

    def test_mean_hit_ratio_is_above_every_other_policy(self):
        mean = {policy: sum(hits[policy] for hits in self.hits.values()) / len(self.hits) for policy in OURS}
        for policy in OURS[1:]:
            self.assertGreater(mean["auto"], mean[policy], policy)

    def test_never_behind_fifo(self):
        for cell, hits in self.hits.items():
            self.assertGreaterEqual(hits["auto"], hits["fifo"] - BEHIND_FIFO, f"{cell}")

    def test_near_the_best_of_ours_with_many_entries(self):
        for (trace, size), hits in self.hits.items():
            if size >= MANY_ENTRIES:
                best = max(hits, key=hits.get)
                self.assertGreaterEqual(hits["auto"], hits[best] - BEHIND_OURS, f"{trace}@{size}: {best}")


if __name__ == "__main__":
    results.main("cache_policy")
