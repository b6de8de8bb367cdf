#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""patinox sim reads every format, plain, compressed and from standard input, and says precisely what is malformed."""
import bz2
import gzip
import lzma
import random
import re
import struct
import subprocess
import unittest

import simulator  # first: it knows the way to results
import results



KEYS = [random_key for random_key in simulator.sequence(3000, 400)]
SIZES = [100 + 37 * (key % 50) for key in KEYS]


def oracle(keys, sizes):
    return b"".join(struct.pack("<IQIq", i, key, size, -1) for i, (key, size) in enumerate(zip(keys, sizes)))


# Each way to write the same requests: suffix, format, sized, contents
WAYS = {
    "oracleGeneral": (True, oracle(KEYS, SIZES)),
    "csv": (True, ("time,key,size\n" + "".join(
        f"{i},{key},{size}\n" for i, (key, size) in enumerate(zip(KEYS, SIZES)))).encode()),
    "keys": (False, "".join(f"{key}\n" for key in KEYS).encode()),
    "lis": (False, "".join(f"{key} 1 0 0\n" for key in KEYS).encode()),
    "int32": (False, b"".join(struct.pack(">i", key) for key in KEYS)),
    "int64": (False, b"".join(struct.pack(">q", key) for key in KEYS)),
    "time-key-size": (True, "".join(
        f"{i}.5 {key} {size}\n" for i, (key, size) in enumerate(zip(KEYS, SIZES))).encode()),
}


def pack(name, data):
    if name == "zst":
        return subprocess.run(["zstd", "-qc"], input=data, stdout=subprocess.PIPE, check=True).stdout
    return {"gz": gzip.compress, "xz": lzma.compress, "bz2": bz2.compress, "plain": bytes}[name](data)


class Formats(simulator.Case):
    def hits(self, path, *more, stdin=None):
        rows = self.simulate(path, "--sizes", "50", "--policies", "lru", *more, stdin=stdin)
        self.assertEqual(len(rows), 1)
        return rows[0]["requests"], rows[0]["hits"]

    def setUp(self):
        super().setUp()
        self.expected = (len(KEYS), simulator.lru_hits(KEYS, 50))

    def test_each_format_is_read_by_name(self):
        for form, (_, data) in WAYS.items():
            with self.subTest(form):
                self.assertEqual(self.hits(self.write("trace.anything", data), "--format", form), self.expected)

    def test_each_format_is_recognised_where_it_is_unambiguous(self):
        for form, (_, data) in WAYS.items():
            with self.subTest(form):
                self.assertEqual(self.hits(self.write("trace", data)), self.expected)

    def test_formats_are_recognised_by_the_ends_of_names(self):
        for name, form in (("a.csv", "csv"), ("a.lis", "lis"), ("x.oracleGeneral.bin", "oracleGeneral"),
                           ("A.ORACLEGENERAL", "oracleGeneral"), ("a.csv.gz", "csv")):
            with self.subTest(name):
                data = WAYS[form][1]
                path = self.write(name, pack("gz", data) if name.endswith("gz") else data)
                self.assertEqual(self.hits(path), self.expected)

    def test_each_compression_is_undone(self):
        for name in ("plain", "gz", "xz", "zst", "bz2"):
            for form, (_, data) in WAYS.items():
                with self.subTest(f"{form} {name}"):
                    path = self.write("trace", pack(name, data))
                    self.assertEqual(self.hits(path, "--format", form), self.expected)

    def test_standard_input_is_read_like_a_file(self):
        for form, (_, data) in WAYS.items():
            for name in ("plain", "zst"):
                with self.subTest(f"{form} {name}"):
                    self.assertEqual(self.hits("-", "--format", form, stdin=pack(name, data)), self.expected)

    def test_standard_input_serves_shares_and_the_optimum_too(self):
        path = self.write("trace", WAYS["keys"][1])
        more = ("--sizes", "5%,50%,70", "--policies", "s3-fifo,belady,lirs")
        from_file = self.simulate(path, *more)
        from_input = self.simulate("-", *more, stdin=WAYS["keys"][1])
        self.assertEqual([{**row, "trace": ""} for row in from_file], [{**row, "trace": ""} for row in from_input])

    def test_sizes_count_where_there_are_some(self):
        expected = None
        for form, (sized, data) in WAYS.items():
            path = self.write("trace", data)
            with self.subTest(form):
                if sized:
                    rows = self.simulate(path, "--format", form, "--sizes", "20KiB", "--policies", "fifo,lru,s3-fifo")
                    expected = expected or rows
                    self.assertEqual([{**row, "trace": ""} for row in rows],
                                     [{**row, "trace": ""} for row in expected])
                    self.assertNotEqual(rows[0]["byte_hit_ratio"], rows[0]["hit_ratio"])
                else:
                    self.fails(1, "has no sizes of objects", path, "--format", form, "--sizes", "20KiB")
        self.fails(1, "has no sizes of objects", "-", "--sizes", "20KiB", stdin=WAYS["keys"][1])

    def test_ranges_are_expanded(self):
        path = self.write("a.lis", b"10 5 0 0\n12 3 1 1\n100 1 7 7\n5 0 0 0\n")
        rows = self.simulate(path, "--sizes", "100", "--policies", "fifo")
        self.assertEqual((rows[0]["requests"], rows[0]["hits"]), (9, 3))

    def test_lines_that_are_passed_over_and_words_as_keys(self):
        path = self.write("trace", b"*\na\nb\r\n\n*\n  a  \n-\nb\n*\n")
        self.assertEqual(self.hits(path), (5, 2))
        self.assertEqual(self.hits(path, "--skip", "-"), (7, 4))
        self.assertEqual(self.hits(path, "--skip", ""), (8, 4))

    def test_a_last_line_without_an_end_counts(self):
        self.assertEqual(self.hits(self.write("trace", b"1\n2\n1")), (3, 1))

    def test_numbers_and_words_that_look_alike_are_different_keys(self):
        self.assertEqual(self.hits(self.write("trace", b"7\n07\n+7\n7.0\n7\n18446744073709551615\n")), (6, 1))

    def test_csv_columns_by_name_by_number_and_in_quotes(self):
        rows = [(f"user,{key}", key % 9 + 1) for key in KEYS]
        header = self.write("a", ('"bytes", "who ""is"" it",when\r\n' + "".join(
            f'{size},"{key}",1\r\n' for key, size in rows)).encode())
        bare = self.write("b", "".join(f'{size},"{key}",1\n' for key, size in rows).encode())
        more = ("--format", "csv", "--sizes", "500B", "--policies", "lru")
        by_name = self.simulate(header, *more, "--columns", 'key=who "is" it,size=bytes,time=when')
        by_number = self.simulate(bare, *more, "--columns", "key=2,size=1,time=3")
        self.assertEqual(by_name[0]["hits"], by_number[0]["hits"])
        self.assertEqual(by_name[0]["requests"], len(KEYS))
        self.assertEqual(self.simulate(bare, "--format", "csv", "--sizes", "50", "--policies", "lru", "--columns",
                                       "key=2")[0]["hits"], self.expected[1])

    def test_an_object_without_bytes_takes_one(self):
        rows = self.simulate(self.write("trace", b"0 a 0\n1 b 0\n2 a 0\n"), "--sizes", "2B,1B", "--policies", "lru")
        self.assertEqual([row["hits"] for row in rows], [1, 0])

    def test_malformed_traces_are_named_with_their_line_or_record(self):
        cut = WAYS["oracleGeneral"][1][:24 * 7 + 5]
        for message, form, data in (
                ("record 8 has 5 bytes instead of 24", "oracleGeneral", cut),
                ("record 3 has 1 bytes instead of 4", "int32", b"\0" * 9),
                ("record 2 has 3 bytes instead of 8", "int64", b"\0" * 11),
                ("line 3: one key was expected", "keys", b"1\n2\n3 4\n"),
                ('line 2: "start count" was expected', "lis", b"1 2 3 4\n7\n"),
                ("line 1: the start is not a number", "lis", b"x 2 3 4\n"),
                ("line 2: the count is not a number", "lis", b"1 2 0 0\n1 -2 0 0\n"),
                ("line 1: the count is too large", "lis", b"1 99999999999 0 0\n"),
                ('line 3: "time key size" was expected', "time-key-size", b"1 2 3\n1 2 3\n1 2\n"),
                ('line 1: "time key size" was expected', "time-key-size", b"1 2 3 4\n"),
                ("line 1: the time is not a number", "time-key-size", b"now 2 3\n"),
                ("line 2: the size is not a number", "time-key-size", b"1 2 3\n1 2 3kB\n"),
                ("line 2: the size is not a number", "time-key-size", b"1 2 3\n1 2 99999999999999999999\n"),
                ("line 2: there is no size", "csv", b"key,size\n7\n"),
                ("line 3: there is no key", "csv", b"size,key\n7,1\n7\n"),
                ("line 2: there is no key", "csv", b"key,size\n,1\n"),
                ("line 2: the size is not a number", "csv", b"key,size\n1,many\n"),
                ("line 2: a quote is not closed", "csv", b'key,size\n"1,7\n'),
                ("line 2: a quote is not closed", "csv", b'key,size\n"1"x,7\n'),
                ("line 2: more than 256 columns", "csv", b"key,size\n" + b"," * 256 + b"\n"),
                ('line 1: no column is called "key"', "csv", b"a,b\n1,2\n"),
                ("is empty", "keys", b""),
                ("line 2 is longer than", "keys", b"1\n" + b"x" * 300000 + b"\n")):
            with self.subTest(f"{form}: {message}"):
                self.fails(1, message, self.write("trace", data), "--format", form)
                self.fails(1, message, "-", "--format", form, stdin=data)

    def test_missing_columns_are_named(self):
        path = self.write("a.csv", b"a,b,c\n1,2,3\n")
        for columns, name in (("key=nobody", "nobody"), ("key=a,size=nothing", "nothing"),
                              ("key=a,size=b,time=never", "never"), ("key=0", "0"), ("key=999", "999")):
            with self.subTest(columns):
                self.fails(1, f'no column is called "{name}"', path, "--columns", columns)

    def test_a_format_that_cannot_be_told_is_an_error(self):
        for data in (b"a b\nc d\n", b"a b c d e\n", bytes(range(256)) * 3, b"\0\0\0", b"\xff" * 7 * 24, b"*\n*\n",
                     struct.pack("<IQIq", 5, 1, 1, 0) * 2, b"\0" * 64):
            with self.subTest(data[:10]):
                self.fails(1, "cannot be told", self.write("trace", data))

    def test_damaged_compression_is_an_error(self):
        for name in ("gz", "xz", "zst"):
            data = pack(name, WAYS["keys"][1])
            with self.subTest(name):
                self.fails(1, "trace", self.write("trace", data[:len(data) // 2]), "--format", "keys")

    def test_damaged_compression_is_named_with_the_last_line_or_record_before_it(self):
        # More than the 256 KiB that are read at once, and what cannot be made smaller, so that much comes before the damage.
        generator = random.Random(7)
        keys = [generator.getrandbits(62) for _ in range(100_000)]
        lines, records = "".join(f"{key}\n" for key in keys).encode(), b"".join(struct.pack(">q", key) for key in keys)
        for form, data, word in (("keys", lines, "line"), ("int64", records, "record")):
            for name in ("gz", "xz", "zst"):
                with self.subTest(form=form, compression=name):
                    packed = pack(name, data)
                    path = self.write("trace", packed[:len(packed) - 1000])
                    error = self.fails(1, f", after {word} ", path, "--format", form)
                    last = int(re.search(rf", after {word} (\d+)$", error.strip())[1])
                    self.assertGreater(last, 5000)
                    self.assertLess(last, len(keys))

    def test_files_that_cannot_be_read_are_named(self):
        self.fails(1, "nowhere: No such file", self.path("nowhere"))
        self.fails(1, "is a directory", self.folder)

    def test_a_failure_in_the_last_of_several_traces_prints_no_results(self):
        good, bad = self.write("good", b"1\n2\n"), self.write("bad", b"1\n2 3\n")
        self.fails(1, "bad: line 2", good, bad, "--format", "keys")


if __name__ == "__main__":
    results.main("sim")
