#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""guard_cost.py [-O0] ROOT LIBRARY [COMPILER...] - an untracked guard costs a direct call within two instructions.

Builds guard_cost.c with -O2 by each compiler (gcc, clang, g++, clang++), with and without exceptions, runs it under
callgrind, and compares the instructions of a function with a guard and of the same one with a direct call.  With -O0
nothing is optimised away: that shows that this notices.
"""
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

# By how much a pair may differ.  What is more than a call: a status is looked at; what may be unwound needs a frame
# (kept: there is no call to compare with); a guard in an object is stored and loaded.
LIMITS = {"known": 2, "exits": 2, "given": 2, "defer": 2, "status": 4, "kept": 8, "object": 20}
TIMES = 1000  # as in guard_cost_calls.c
BUILDS = [(compiler, flag) for compiler in ("gcc", "clang", "g++", "clang++")
          for flag in ("-fno-exceptions", "-fexceptions")]


def build(root, library, compiler, flags, program):
    language = "c++" if compiler.endswith("++") else "c"
    standard = "-std=c++11" if language == "c++" else "-std=gnu11"
    here = root / "tests/resource"
    subprocess.run([compiler, *flags, standard, f"-I{root / 'include'}", "-x", language,
                    str(here / "guard_cost.c"), str(here / "guard_cost_calls.c"), "-x", "none", str(library), "-pthread",
                    "-o", str(program)], check=True)


def count(program, scratch):
    """Instructions of each shape, by its name."""
    subprocess.run(["valgrind", "--tool=callgrind", f"--callgrind-out-file={scratch}/out", str(program)],
                   check=True, capture_output=True)
    counts = {}
    for part in scratch.glob("out.*"):
        text = part.read_text()
        name = re.search(r"^desc: Trigger: Client Request: (\w+)$", text, re.M)
        total = re.search(r"^totals: (\d+)$", text, re.M)
        if name and total:
            counts[name.group(1)] = int(total.group(1)) / TIMES
    return counts


def main(level, root, library, compilers):
    bad = 0
    print(f"{'instructions more than without a guard':40}" + "".join(f"{pair:>8}" for pair in LIMITS))
    for compiler, flag in BUILDS:
        if compilers and compiler not in compilers:
            continue
        if not shutil.which(compiler):
            print(f"{compiler} is missing: scripts/setup.sh test")
            return 1
        with tempfile.TemporaryDirectory() as folder:
            scratch = Path(folder)
            build(root, library, compiler, [level, flag], scratch / "program")
            counts = count(scratch / "program", scratch)
        more = {pair: counts[f"{pair}_guard"] - counts[f"{pair}_direct"] for pair in LIMITS}
        print(f"{compiler + ' ' + flag:40}" + "".join(f"{value:8.2f}" for value in more.values()))
        bad += sum(value > LIMITS[pair] for pair, value in more.items())
    print(f"{'at most':40}" + "".join(f"{limit:8}" for limit in LIMITS.values()) + f"\n{bad} beyond")
    return 1 if bad else 0


if __name__ == "__main__":
    words = [word for word in sys.argv[1:] if word != "-O0"]
    sys.exit(main("-O0" if "-O0" in sys.argv else "-O2", Path(words[0]).resolve(), Path(words[1]).resolve(), words[2:]))
