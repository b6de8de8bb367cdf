#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The command line of patinox and patinox sim, its output, and the offline optimum."""
import functools
import os
import pty
import random
import re
import struct
import subprocess
import unittest
import xml.etree.ElementTree as xml
import zlib

import simulator  # first: it knows the way to results
import results

POLICIES = ["auto", "lru", "lfu", "sieve", "clock", "fifo", "s3-fifo", "w-tinylfu", "lirs", "ttl", "belady"]


def sized_trace(seed, length=400, keys=40):
    source = random.Random(seed)
    sizes = [source.choice((1, 3, 10, 40)) for _ in range(keys)]
    return [(key, sizes[key]) for key in simulator.sequence(length, keys, seed)]


def text_of(requests):
    return "".join(f"0 {key} {size}\n" for key, size in requests).encode()


def min_hits(keys, capacity):
    """Belady's MIN: what is asked for again latest goes."""
    following, last = [], {}
    for i in range(len(keys) - 1, -1, -1):
        following.append(last.get(keys[i], len(keys)))
        last[keys[i]] = i
    following.reverse()
    held, hits = {}, 0
    for i, key in enumerate(keys):
        hits += key in held
        if key not in held and len(held) == capacity:
            del held[max(held, key=held.get)]
        held[key] = following[i]
    return hits


def best_possible(requests, capacity, in_bytes):
    """The most hits, or bytes hit, that any cache can have: all possibilities."""
    @functools.lru_cache(None)
    def best(at, held):
        if at == len(requests):
            return 0
        key, size = requests[at]
        gain = (size if in_bytes else 1) if key in held else 0
        options = [held | {key}, held] if key not in held else [held]
        return gain + max(best(at + 1, kept) for option in options for kept in subsets(option))

    def subsets(held):
        sizes = dict(requests)
        full = [frozenset(h for i, h in enumerate(sorted(held)) if mask >> i & 1) for mask in range(1 << len(held))]
        return [s for s in full if sum(sizes[k] for k in s) <= capacity]

    return best(0, frozenset())


class Command(simulator.Case):
    def test_patinox_names_its_commands(self):
        done = simulator.run("--help")
        self.assertEqual((done.returncode, done.stderr), (0, b""))
        self.assertIn(b"sim", done.stdout)
        self.assertRegex(simulator.run("--version").stdout, rb"^patinox \d+\.\d+\.\d+\n$")
        for arguments, message in (((), "usage"), (("top",), 'no command "top"'), (("--sim",), 'no command "--sim"')):
            done = simulator.run(*arguments)
            self.assertEqual((done.returncode, done.stdout), (2, b""))
            self.assertIn(message, done.stderr.decode())

    def test_help_says_what_there_is(self):
        done = simulator.run("sim", "--help")
        self.assertEqual((done.returncode, done.stderr), (0, b""))
        for word in (*POLICIES, "--format", "--columns", "--skip", "--policies", "--sizes", "--json", "--plot",
                     "oracleGeneral", "temporary file", "PFOO-L"):
            self.assertIn(word, done.stdout.decode())
        self.assertRegex(simulator.run("sim", "--version").stdout, rb"^patinox \d+\.\d+\.\d+\n$")

    def test_wrong_command_lines_are_named_and_end_with_2(self):
        path = self.write("trace", b"1\n")
        for message, arguments in (
                ("no trace is given", ()),
                ("no trace is given", ("--json",)),
                ('no option "--nonsense"', ("--nonsense", path)),
                ('no option "-x"', ("-x", path)),
                ("--sizes needs a value", (path, "--sizes")),
                ('no option "--json=1"', ("--json=1", path)),
                ('no format "mp3"', ("--format", "mp3", path)),
                ('no policy "mru"', ("--policies", "lru,mru", path)),
                ("lru stands there twice", ("--policies", "lru,fifo,lru", path)),
                ("a part of the list is empty", ("--policies", "lru,,fifo", path)),
                ("a part of the list is empty", ("--sizes", "", path)),
                ("a part of the list is too long", ("--sizes", "1" * 200, path)),
                ('"-5" is not a size', ("--sizes", "-5", path)),
                ('"nan" is not a size', ("--sizes", "nan", path)),
                ('"0x10" is not a size', ("--sizes", "0x10", path)),
                ('" 5" is not a size', ("--sizes", " 5", path)),
                ('"0" is too small', ("--sizes", "0", path)),
                ('"0.5B" is too small', ("--sizes", "0.5B", path)),
                ('"1e30" is too large', ("--sizes", "1e30", path)),
                ('"9999999TiB" is too large', ("--sizes", "9999999TiB", path)),
                ('"2.5" is not a whole number', ("--sizes", "2.5", path)),
                ('"5 MB" has an unknown unit', ("--sizes", "5 MB", path)),
                ('"5k" has an unknown unit', ("--sizes", "5k", path)),
                ('"0%" is not above 0 %', ("--sizes", "0%", path)),
                ('"101%" is not above 0 %', ("--sizes", "101%", path)),
                ("more than 256 sizes", ("--sizes", ",".join("7" for _ in range(257)), path)),
                ('"value=1" is not', ("--columns", "value=1", path)),
                ('"key=" is not', ("--columns", "key=", path)),
                ('"key" is not', ("--columns", "key", path)),
                ("is too long", ("--columns", "key=" + "k" * 100, path)),
                ('"a.pdf" ends neither in', ("--plot", "a.pdf", path)),
                ('".svg" ends neither in', ("--plot", ".svg", path)),
                ("standard input can be read once only", ("-", "-"))):
            with self.subTest(arguments):
                self.fails(2, message, *arguments)

    def test_json_has_a_row_for_each_trace_policy_and_size(self):
        traces = [self.write(name, "".join(f"{key}\n" for key in simulator.sequence(500, 60, seed)).encode())
                  for seed, name in enumerate(("one", "two"))]
        rows = self.simulate(*traces, "--sizes", "10,50%,7", "--policies", "fifo,belady")
        self.assertEqual([(row["trace"], row["policy"]) for row in rows],
                         [(trace, policy) for trace in traces for policy in ("fifo", "belady") for _ in range(3)])
        for row in rows:
            self.assertEqual(list(row),
                             ["trace", "policy", "size", "requests", "hits", "hit_ratio", "byte_hit_ratio"])
            for name, kind in (("size", int), ("requests", int), ("hits", int), ("hit_ratio", float),
                               ("byte_hit_ratio", float)):
                self.assertIs(type(row[name]), kind)
            self.assertEqual(row["requests"], 500)
            self.assertAlmostEqual(row["hit_ratio"], row["hits"] / 500, delta=1e-8)
            self.assertEqual(row["byte_hit_ratio"], row["hit_ratio"])
        for first in (0, 3, 6, 9):
            keys = len(set(simulator.sequence(500, 60, first // 6)))
            self.assertEqual([row["size"] for row in rows[first:first + 3]], [10, keys // 2, 7])

    def test_sizes_are_entries_bytes_and_shares_of_both(self):
        requests = sized_trace(1)
        sizes = {key: size for key, size in requests}
        rows = self.simulate(self.write("trace", text_of(requests)), "--policies", "lru",
                             "--sizes", "3,100B,1.5kB,1KiB,2MB,3MiB,1GB,1GiB,50%,50%B,0.001%,0.001%B,100%")
        total = sum(sizes.values())
        self.assertEqual([row["size"] for row in rows],
                         [3, 100, 1500, 1024, 2000000, 3145728, 10**9, 2**30, len(sizes) // 2, total // 2, 1, 1,
                          len(sizes)])
        self.assertEqual(rows[-1]["hits"], len(requests) - len(sizes))
        self.assertEqual(rows[4]["hits"], len(requests) - len(sizes))

    def test_all_policies_and_six_sizes_are_the_default(self):
        rows = self.simulate(self.write("trace", "".join(f"{n}\n" for n in list(range(1000)) * 2).encode()))
        self.assertEqual([row["policy"] for row in rows[::6]], POLICIES)
        self.assertEqual([row["size"] for row in rows[:6]], [1, 10, 50, 100, 200, 500])

    def test_the_table_has_the_figures_of_the_json(self):
        path = self.write("trace", text_of(sized_trace(2)))
        arguments = (path, "--sizes", "5,20%,60B", "--policies", "lru,belady,s3-fifo")
        rows = self.simulate(*arguments)
        done = simulator.run("sim", *arguments)
        self.assertEqual(done.returncode, 0)
        lines = done.stdout.decode().splitlines()
        self.assertEqual(lines[0], f"{path}: 400 requests")
        self.assertRegex(lines[1], r"^hit ratio % +5 +8 +60 B$")
        for block, name in ((2, "hit_ratio"), (6, "byte_hit_ratio")):
            for line, policy in enumerate(("lru", "belady", "s3-fifo")):
                words = lines[block + line].replace("*", "").split()
                figures = [f"{100 * row[name]:.2f}" for row in rows if row["policy"] == policy]
                self.assertEqual(words, [policy, *figures])
        self.assertIn("*", lines[3])
        self.assertEqual(lines[3].count("*"), 1)
        self.assertIn("a bound that nothing can be above (PFOO-L)", lines[-1])

    def test_belady_is_the_optimum_in_entries(self):
        for seed in range(5):
            keys = simulator.sequence(3000, 200, seed)
            path = self.write("trace", "".join(f"{key}\n" for key in keys).encode())
            rows = self.simulate(path, "--sizes", "1,2,10,50,150")
            for size in (1, 2, 10, 50, 150):
                hits = {row["policy"]: row["hits"] for row in rows if row["size"] == size}
                self.assertEqual(hits["belady"], min_hits(keys, size))
                self.assertEqual(max(hits.values()), hits["belady"])

    def test_belady_is_a_bound_in_bytes(self):
        for seed in range(20):
            requests = sized_trace(seed, length=12, keys=5)
            capacity = random.Random(seed).randint(1, 60)
            rows = self.simulate(self.write("trace", text_of(requests)), "--sizes", f"{capacity}B")
            bound = rows[-1]
            self.assertGreaterEqual(bound["hits"], best_possible(requests, capacity, False))
            self.assertGreaterEqual(bound["byte_hit_ratio"] * sum(size for _, size in requests) + 1e-6,
                                    best_possible(requests, capacity, True))
        for seed in range(5):
            rows = self.simulate(self.write("trace", text_of(sized_trace(seed))), "--sizes", "10B,50B,200B,9999B")
            for size in (10, 50, 200, 9999):
                cells = [row for row in rows if row["size"] == size]
                for ratio in ("hit_ratio", "byte_hit_ratio"):
                    self.assertEqual(max(row[ratio] for row in cells), cells[-1][ratio])
            keys = {key for key, _ in sized_trace(seed)}
            self.assertEqual(rows[-1]["hits"], 400 - len(keys))  # not more than what comes again

    def test_objects_larger_than_the_capacity_are_misses_only(self):
        path = self.write("trace", b"0 big 1000\n0 a 1\n" * 10)
        for row in self.simulate(path, "--sizes", "999B"):
            self.assertEqual(row["hits"], 9, row["policy"])

    def test_temporary_files_are_told_of_and_leave_nothing(self):
        path = self.write("trace", b"1\n2\n1\n")
        there = self.path("there")
        os.mkdir(there)
        for arguments, uses in (((path, "--policies", "belady"), True), (("-",), True),
                                ((path, "--policies", "lru", "--sizes", "1,50%"), False)):
            done = simulator.run("sim", "--sizes", "1", *arguments, stdin=b"1\n2\n1\n", environment={"TMPDIR": there})
            self.assertEqual(done.returncode, 0)
            self.assertEqual(b"using a temporary file in " + there.encode() in done.stderr, uses)
            self.assertEqual(os.listdir(there), [])
        done = simulator.run("sim", path, environment={"TMPDIR": self.path("nowhere")})
        self.assertEqual((done.returncode, done.stdout), (1, b""))
        self.assertIn("nowhere: No such file", done.stderr.decode())

    def test_output_that_cannot_be_written_is_an_error(self):
        path = self.write("trace", b"1\n2\n1\n")
        for more in ((), ("--json",)):
            with open("/dev/full", "wb") as full:
                done = subprocess.run([simulator.BINARY, "sim", path, *more], stdout=full, stderr=subprocess.PIPE,
                                      check=False)
            self.assertEqual(done.returncode, 1)
            self.assertIn(b"standard output: No space left", done.stderr)

    def test_a_terminal_is_shown_how_far_it_is_and_a_file_is_not(self):
        path = self.write("trace", "".join(f"{key}\n" for key in simulator.sequence(200000, 5000)).encode())
        main, terminal = pty.openpty()
        with subprocess.Popen([simulator.BINARY, "sim", path, "--policies", "lru,belady"], stdout=subprocess.DEVNULL,
                              stderr=terminal) as process:
            os.close(terminal)
            shown = b""
            try:
                while chunk := os.read(main, 65536):
                    shown += chunk
            except OSError:
                pass  # the end of a terminal
            self.assertEqual(process.wait(), 0)
        os.close(main)
        for what in (b"reading", b"looking ahead", b"replaying"):
            self.assertRegex(shown, what + rb" *\[#* *\] +\d+ %")
        self.assertTrue(shown.endswith(b"\r\x1b[K"))
        percents = [int(n) for n in re.findall(rb"replaying .*?(\d+) %", shown)]
        self.assertEqual(percents, sorted(percents))
        self.assertNotIn(b"%", simulator.run("sim", path, "--policies", "lru").stderr)


class Plot(simulator.Case):
    def draw(self, name, *arguments):
        done = simulator.run("sim", "--plot", self.path(name), *arguments)
        self.assertEqual(done.returncode, 0, done.stderr.decode())
        self.assertTrue(done.stdout)
        with open(self.path(name), "rb") as file:
            return file.read()

    def test_svg_is_valid_and_has_a_curve_for_each_policy(self):
        path = self.write("trace", text_of(sized_trace(3)))
        root = xml.fromstring(self.draw("a.svg", path, "--sizes", "1,5,20,30", "--policies", "lru,s3-fifo,belady"))
        self.assertEqual(root.tag, "{http://www.w3.org/2000/svg}svg")
        strokes = {style["stroke"] for element in root.iter("{http://www.w3.org/2000/svg}path")
                   if (style := dict(part.split(":", 1) for part in element.get("style", "").split(";") if part))
                   .get("stroke", "none") != "none"}
        strokes |= {element.get("stroke") for element in root.iter("{http://www.w3.org/2000/svg}path")
                    if element.get("stroke")}
        self.assertGreaterEqual(len(strokes), 4)  # three curves, and the grid

    def test_png_is_valid_and_not_empty(self):
        path = self.write("trace", text_of(sized_trace(3)))
        data = self.draw("a.png", path, path, path, "--sizes", "10%,50%,60B,5%B")
        self.assertEqual(data[:8], b"\x89PNG\r\n\x1a\n")
        at, pixels = 8, b""
        while at < len(data):
            length, kind = struct.unpack(">I4s", data[at:at + 8])
            body = data[at + 8:at + 8 + length]
            self.assertEqual(zlib.crc32(kind + body), struct.unpack(">I", data[at + 8 + length:at + 12 + length])[0])
            pixels += body if kind == b"IDAT" else b""
            at += 12 + length
        self.assertEqual(kind, b"IEND")
        width, height = struct.unpack(">II", data[16:24])
        self.assertEqual((width, height), (2560, 2520))  # six panels, two beside each other, at twice the size
        self.assertGreater(len(set(zlib.decompress(pixels))), 50)

    def test_one_size_and_equal_results_can_be_drawn(self):
        path = self.write("trace", b"1\n2\n3\n")
        for arguments in (("--sizes", "2"), ("--sizes", "1,2,3"), ("--sizes", "5,1,5"), ("--policies", "fifo")):
            xml.fromstring(self.draw("a.svg", path, *arguments))

    def test_a_picture_that_cannot_be_written_is_an_error(self):
        path = self.write("trace", b"1\n2\n3\n")
        self.fails(1, "nowhere/a.svg: No such file", path, "--plot", self.path("nowhere/a.svg"))
        os.mkdir(self.path("b.png"))
        self.fails(1, "b.png: ", path, "--plot", self.path("b.png"), "--sizes", "1", "--policies", "lru")


if __name__ == "__main__":
    results.main("sim")
