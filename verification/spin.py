#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""spin.py - checks verification/reclaim.pml with Spin, exhaustively, in each of the configurations below.

The right model must hold in all of them, with at least so many states as stand there: a change that makes it hold
because less happens is found out.  Each known-bad variant must be refuted in the configuration that it names, in
which the right model is checked, too.  Where Spin is not installed it fails, and says so.
"""
import argparse
import os
import re
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

MODEL = Path(__file__).resolve().parent / "reclaim.pml"
ONE = ("READERS=1",)
MODES = {"membarrier": (), "fences": ("FENCES",)}

# what, definitions, least number of states, only with --long
RIGHT = [
    ("one reader that enters anew", {"membarrier": 15_000, "fences": 15_000}, ONE, False),
    ("a nested section, and a thread after the thread",
     {"membarrier": 150_000, "fences": 100_000}, (*ONE, "NESTED", "ROUNDS=2"), False),
    ("two batches", {"membarrier": 90_000, "fences": 80_000}, (*ONE, "OBJECTS=3"), False),
    ("two who tick or wait", {"membarrier": 300_000, "fences": 500_000}, (*ONE, "SECTIONS=1", "OTHERS=1"), False),
    ("synchronize", {"membarrier": 200_000}, (*ONE, "SECTIONS=1", "OTHERS=1", "SYNCHRONIZES"), False),
    ("two readers", {"fences": 4_000_000}, ("SECTIONS=1",), False),
    ("two readers, one enters anew", {"membarrier": 5_000_000}, ("BUFFER=3",), False),
    ("two readers, one enters anew, deeper buffers",
     {"membarrier": 6_000_000, "fences": 9_000_000}, (), True),
]

FREED, STUCK = "assertion violated", "invalid end state"
# what, definition, how it is refuted, in which modes
BAD = [
    ("no heavy barrier", "BAD_NO_HEAVY", FREED, ("membarrier", "fences")),
    ("the scan before the barrier", "BAD_SCAN_FIRST", FREED, ("membarrier", "fences")),
    ("the list's head loaded before the barrier", "BAD_HEAD_FIRST", FREED, ("membarrier", "fences")),
    ("a plain exit", "BAD_PLAIN_EXIT", FREED, ("membarrier", "fences")),
    ("a poll that looks at the nesting only", "BAD_NEST_ONLY", STUCK, ("membarrier", "fences")),
    ("no barrier before sleeping", "BAD_AWAIT_NO_HEAVY", STUCK, ("membarrier",)),
    ("no look before sleeping", "BAD_AWAIT_NO_LOOK", STUCK, ("membarrier",)),
]


def check(definitions, large):
    """Returns (how it was refuted or None, states, seconds of CPU); raises when Spin could not finish."""
    with tempfile.TemporaryDirectory(prefix="pnx-spin-") as folder:
        began = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime

        def run(*command):
            return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout
        run("spin", "-a", *(f"-D{definition}" for definition in definitions), str(MODEL))
        # The verifier is generated code: its warnings tell nothing about ours.
        run("cc", "-w", "-O1" if large else "-O0", "-DSAFETY", "-DCOLLAPSE", "-o", "pan", "pan.c")
        out = run("./pan", "-m1000000")
        seconds = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - began
    errors = re.search(r"errors: (\d+)", out)
    states = re.search(r"(\d+) states, stored", out)
    if not errors or not states or re.search(r"too small|aborted|out of memory|interrupted", out):
        raise RuntimeError("Spin did not finish:\n" + out)
    if errors[1] == "0":
        return None, int(states[1]), seconds
    cause = re.search(r"pan:\d+: (.*)", out)
    return (cause[1] if cause else "?"), int(states[1]), seconds


def rows(long_run):
    for what, floors, definitions, is_long in RIGHT:
        for mode, floor in floors.items():
            if long_run or not is_long:
                yield what, mode, definitions, floor, None
    for what, definition, how, modes in BAD:
        for mode in modes:
            yield "bad: " + what, mode, (*ONE, definition), 0, how


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--long", action="store_true", default=os.environ.get("PNX_TEST_LONG") == "1",
                        help="larger configurations, too; also by PNX_TEST_LONG=1")
    args = parser.parse_args()
    failed = 0
    for what, mode, definitions, floor, how in rows(args.long):
        try:
            cause, states, seconds = check((*definitions, *MODES[mode]), floor > 1_000_000)
        except FileNotFoundError as error:
            print(f"spin.py: {error.filename} is not installed (scripts/packages.txt, group test)")
            return 1
        except (subprocess.CalledProcessError, RuntimeError) as error:
            print(f"FAIL {what}, {mode}: {error}\n{getattr(error, 'stderr', '')}")
            failed += 1
            continue
        fine = (cause is None and states >= floor) if how is None else (cause or "").startswith(how)
        failed += not fine
        verdict = f"holds in {states} states (floor {floor})" if cause is None else f"{cause}, after {states} states"
        print(f"{'ok  ' if fine else 'FAIL'} {what}, {mode}: {verdict}, {seconds:.1f} s of CPU", flush=True)
    print(f"spin.py: {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
