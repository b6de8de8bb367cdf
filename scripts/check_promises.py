#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""check_promises.py ROOT BUILD - every promise names tests that exist and ran, none failed and one passed; every
skip was expected.

docs/promises/<part>.tsv: a header line "id<TAB>promise<TAB>tests", then rows; tests are separated by commas.
A test is "program.test" (a TEST of tests/<dir>/test_<name>.c is "<dir>.<name>.<test>"), a name of the form
"check.<name>" or "example.<name>" (a CTest test of its own), or "<program>.*" for all tests of a program.
tests/expected-skips: "program.test reason-regex" a line; any other skip is an error.
"""
import fnmatch
import re
import subprocess
import sys
from pathlib import Path


def read_results(folder):
    results = {}
    for file in sorted(folder.iterdir()):
        for line in file.read_text(errors="replace").splitlines():
            name, result, reason = (line.split("\t") + ["", ""])[:3]
            results[name] = (result, reason)
    return results


def ctest_names(build):
    out = subprocess.run(["ctest", "--test-dir", str(build), "-N"], capture_output=True, text=True, check=True)
    return set(re.findall(r"Test\s+#\d+: (\S+)", out.stdout))


def is_sanitized(build):
    cache = build / "CMakeCache.txt"
    return cache.is_file() and re.search(r"^PNX_SANITIZE:\w+=\S", cache.read_text(), re.M) is not None


def check_promises(root, results, ctests, sanitized):
    bad = []
    programs = {name.rpartition(".")[0] for name in results}
    # The explorer is not there under sanitizers or coverage: what it shows is asked of the builds that have it.
    explored = any(name.startswith("explorer.") for name in ctests)
    for table in sorted((root / "docs/promises").glob("*.tsv")):
        ids = set()
        for number, line in enumerate(table.read_text().splitlines(), 1):
            where = f"{table.relative_to(root)}:{number}"
            columns = line.split("\t")
            if len(columns) != 3 or not all(columns):
                bad.append(f"{where}: not three columns")
                continue
            if number == 1:
                continue
            if columns[0] in ids:
                bad.append(f"{where}: id {columns[0]} stands there twice")
            ids.add(columns[0])
            shown = False
            for test in re.split(r"\s*,\s*", columns[2].strip()):
                if test in ctests:
                    shown = True
                    continue  # ctest itself fails the run when it fails
                if test.startswith("explorer.") and not explored:
                    shown = True
                    continue
                found = [name for name in results if fnmatch.fnmatchcase(name, test)]
                if not found and sanitized and test.rpartition(".")[0] not in programs:
                    shown = True  # a program that is left out with a sanitizer; one that fails is ctest's to tell
                    continue
                if not found:
                    bad.append(f"{where}: {test} did not run")
                for name in found:
                    if results[name][0] == "fail":
                        bad.append(f"{where}: {name} failed")
                    shown = shown or results[name][0] == "pass"
            if not shown:
                bad.append(f"{where}: no test of it passed")
    return bad


def check_guarantees(root):
    """Each P of a public header has a row: "P1" in the table of that name, or "<header>-P1" in any."""
    ids = {(table.stem, line.split("\t")[0]) for table in (root / "docs/promises").glob("*.tsv")
           for line in table.read_text().splitlines()}
    anywhere = {row for _, row in ids}
    return [f"include/patinox/{header.name}: {p} has no row in docs/promises"
            for header in sorted((root / "include/patinox").glob("*.h"))
            for p in re.findall(r"^ \*   (P\d+)  ", header.read_text(), re.M)
            if (header.stem, p) not in ids and f"{header.stem}-{p}" not in anywhere]


def check_skips(root, results):
    expected = []
    for line in (root / "tests/expected-skips").read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            pattern, _, reason = line.partition(" ")
            expected.append((pattern, reason.strip()))
    bad = []
    for name, (result, reason) in sorted(results.items()):
        if result == "skip" and not any(
                fnmatch.fnmatchcase(name, pattern) and re.search(wanted, reason) for pattern, wanted in expected):
            bad.append(f"{name}: skipped unexpectedly: {reason}")
    return bad


def main(root, build):
    results = read_results(build / "results")
    bad = (check_promises(root, results, ctest_names(build), is_sanitized(build)) + check_guarantees(root) +
           check_skips(root, results))
    print("\n".join(bad))
    print(f"{len(results)} test results, {len(bad)} objections")
    return 1 if bad or not results else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()))
