# SPDX-License-Identifier: Apache-2.0
"""What the tests of patinox sim share: running it, and small traces."""
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import unittest
from collections import OrderedDict

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), os.pardir, "harness"))

BINARY = os.environ.get("PATINOX_BINARY", "build/dev/tools/patinox/patinox")
SANITIZED = os.environ.get("PATINOX_SANITIZED", "0") == "1"
# For builds with a sanitizer: whose leaks are not ours.
LEAKS = {"LSAN_OPTIONS": "print_suppressions=0:suppressions=" +
         os.path.join(os.path.dirname(os.path.abspath(__file__)), "lsan.supp")}


def sequence(length, keys, seed=1):
    """Keys, some of them popular."""
    source = random.Random(seed)
    return [int(keys * source.random() ** 2) for _ in range(length)]


def lru_hits(keys, capacity):
    cache, hits = OrderedDict(), 0
    for key in keys:
        if key in cache:
            hits += 1
            cache.move_to_end(key)
            continue
        if len(cache) == capacity:
            cache.popitem(last=False)
        cache[key] = True
    return hits


def run(*arguments, stdin=None, environment=None, **more):
    """Runs patinox with these arguments."""
    return subprocess.run([BINARY, *map(str, arguments)], input=stdin if stdin is not None else b"",
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          env={**os.environ, **LEAKS, **(environment or {})}, timeout=600, check=False, **more)


class Case(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="patinox-test-")
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)

    def path(self, name):
        return os.path.join(self.folder, name)

    def write(self, name, data):
        with open(self.path(name), "wb") as file:
            file.write(data)
        return self.path(name)

    def simulate(self, *arguments, stdin=None):
        """Runs patinox sim --json; returns its rows."""
        done = run("sim", "--json", *arguments, stdin=stdin)
        self.assertEqual(done.returncode, 0, done.stderr.decode())
        return json.loads(done.stdout)

    def fails(self, status, message, *arguments, stdin=None):
        """Runs patinox sim, which fails so, in words that contain these, and prints nothing else.  Returns the words."""
        done = run("sim", *arguments, stdin=stdin)
        error = done.stderr.decode()
        self.assertIn(message, error)
        self.assertEqual(done.returncode, status, error)
        self.assertEqual(done.stdout, b"")
        for line in error.splitlines():
            self.assertTrue(line.startswith("patinox sim: "), error)
        return error
