#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""check_windows.py ROOT [BUILD] - what the tests under Wine have shown, held against tests/windows; without BUILD only the
lists, and the table of docs/design/windows.md, whose tests must exist.

tests/windows/left-out: "program REASON" or "program.test REASON" a line: not built, or not run.  tests/windows/
expected-skips: "pattern REASON-REGEX" a line: tests that end themselves when they meet something that Windows has not.
Fails when a test failed, a skip is in neither list, a line of either list names nothing, or a program did not run.
"""
import fnmatch
import re
import sys
from pathlib import Path

MODULES = ["base", "os", "stats", "registry", "budget", "share", "resource", "pool", "mapping", "cache"]


def rows(path):
    """The lines of a list as (name, rest), without comments."""
    for line in path.read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            name, _, rest = line.partition(" ")
            yield name, rest.strip()


def read_results(folder):
    results = {}
    for file in sorted(folder.iterdir()):
        for line in file.read_text(errors="replace").splitlines():
            name, result, reason = (line.split("\t") + ["", ""])[:3]
            results[name] = (result, reason)
    return results


def programs(root):
    """Each program's file, by the program's name."""
    folders = {module: f"{module}." for module in MODULES} | {"cache_policy": "cache.policy_"}
    return {prefix + path.stem.removeprefix("test_"): path for folder, prefix in folders.items()
            for path in (root / "tests" / folder).glob("test_*.c")}


def tests_of(path):
    return set(re.findall(r"^TEST(?:_LIMIT)?\((\w+)", path.read_text(), re.M))


def list_objections(root):
    known = programs(root)
    for name, reason in rows(root / "tests/windows/left-out"):
        program, _, test = name.rpartition(".") if name.count(".") == 2 else (name, "", "")
        if not reason:
            yield f"left-out: {name} has no reason"
        if program not in known or (test and test not in tests_of(known[program])):
            yield f"left-out: {name} is nothing"
    for name, reason in rows(root / "tests/windows/expected-skips"):
        if not reason:
            yield f"expected-skips: {name} has no reason"
    page = (root / "docs/design/windows.md").read_text()
    points = [int(number) for number in re.findall(r"^\| (\d+) \|", page, re.M)]
    if points != list(range(1, 21)):
        yield f"docs/design/windows.md: the checklist has the points {points}"
    there = set(re.findall(r"^TEST\((\w+)", (root / "tests/windows/test_windows.c").read_text(), re.M))
    for name in set(re.findall(r"`(w\d+_\w+)`", page)) ^ {name for name in there if re.match(r"w\d+_", name)}:
        yield f"docs/design/windows.md and tests/windows/test_windows.c: {name} is in one of them only"


def objections(root, results):
    left_out = list(rows(root / "tests/windows/left-out"))
    expected = list(rows(root / "tests/windows/expected-skips"))
    known = {*programs(root), "os.windows"}
    used = set()
    without = {name for name, _ in left_out}
    ran = {name.rpartition(".")[0] for name in results}
    for program in sorted(known - without - ran):
        yield f"{program} did not run"
    for name, (result, reason) in sorted(results.items()):
        if result == "fail":
            yield f"{name} failed: {reason}"
        if result != "skip" or name in without:
            continue
        fits = [row for row in expected if fnmatch.fnmatchcase(name, row[0]) and re.search(row[1], reason)]
        used.update(fits)
        if not fits:
            yield f"{name}: skipped unexpectedly: {reason}"
    for row in expected:
        if row not in used:
            yield f"expected-skips: nothing was skipped as \"{row[0]} {row[1]}\""


def main(root, build=None):
    if build is None:
        bad = list(list_objections(root))
        print("\n".join(bad))
        return 1 if bad else 0
    results = read_results(build / "results")
    bad = list(list_objections(root)) + list(objections(root, results))
    print("\n".join(bad))
    count = {word: sum(result == word for result, _ in results.values()) for word in ("pass", "skip", "fail")}
    for module in MODULES:
        of = [result for name, (result, _) in results.items() if name.startswith(module + ".")]
        print(f"{module:9} {of.count('pass'):4} passed, {of.count('skip'):3} skipped, {of.count('fail')} failed")
    print(f"{len(results)} tests: {count['pass']} passed, {count['skip']} skipped, {count['fail']} failed; "
          f"{len(bad)} objections")
    return 1 if bad or not results else 0


if __name__ == "__main__":
    sys.exit(main(*(Path(arg).resolve() for arg in sys.argv[1:])))
