#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""spin.py - checks verification/reclaim.pml and verification/pool.pml with Spin, exhaustively, in each of the
configurations below.

The right model must hold in all of them, with at least so many states as stand there: a change that makes it hold
because less happens is found out.  Each known-bad variant must be refuted, in the way that stands there, in the
configuration that it names; in that one, or in a larger one, the right model is checked, too.  Each statement of
pool.pml must be reached in some configuration.  Where Spin is not installed it fails, and says so.
"""
import argparse
import os
import re
import resource
import subprocess
import sys
import tempfile
from collections import namedtuple
from pathlib import Path

HERE = Path(__file__).resolve().parent

# how: None when the model must hold, else which of CAUSES must be found; endless: whether to look for a run without
# end, and for nothing else.
Row = namedtuple("Row", "what definitions floor how endless")
Result = namedtuple("Result", "cause states seconds unreached")

# From so many states on, optimising the verifier costs less than it saves.
LARGE = 800_000
STATES = re.compile(r"(\d+(?:\.\d+e\+\d+)?) states, stored")
STUCK = "invalid end state"
CAUSES = {
    "freed": r"assertion violated",
    "stuck": STUCK,
    # the promises of pool.pml
    "S1": r"assertion violated \(+lent\[\w+\]==0",
    "S2": r"assertion violated \(+ahead\[",
    "S3": r"assertion violated \(+lent\[\w+\][!=]=\w*as",
    "S4": r"assertion violated\s+!\(barred",
    "S5": r"assertion violated \(+waiting&",
    "L1": STUCK,
    "I1": r"assertion violated\s+!\(+words\[i_\]",
}

# ---- reclaim.pml ----

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

# what, definition, how it is refuted, in which modes
BAD = [
    ("no heavy barrier", "BAD_NO_HEAVY", "freed", ("membarrier", "fences")),
    ("the scan before the barrier", "BAD_SCAN_FIRST", "freed", ("membarrier", "fences")),
    ("the list's head loaded before the barrier", "BAD_HEAD_FIRST", "freed", ("membarrier", "fences")),
    ("a plain exit", "BAD_PLAIN_EXIT", "freed", ("membarrier", "fences")),
    ("a poll that looks at the nesting only", "BAD_NEST_ONLY", "stuck", ("membarrier", "fences")),
    ("no barrier before sleeping", "BAD_AWAIT_NO_HEAVY", "stuck", ("membarrier",)),
    ("no look before sleeping", "BAD_AWAIT_NO_LOOK", "stuck", ("membarrier",)),
]


def reclaim_rows(long_run):
    for what, floors, definitions, is_long in RIGHT:
        for mode, floor in floors.items():
            if long_run or not is_long:
                yield Row(f"{what}, {mode}", (*definitions, *MODES[mode]), floor, None, False)
    for what, definition, how, modes in BAD:
        for mode in modes:
            yield Row(f"bad: {what}, {mode}", (*ONE, definition, *MODES[mode]), 0, how, False)


# ---- pool.pml ----

TWO = ("CLIENTS=2",)
AGAIN = (*TWO, "ROUNDS=2")
THREE = ("CLIENTS=3",)
JOBS = ("THREADS", "FAILURES=1")

# what, definitions, least number of states
POOL = [
    ("three clients, one of whom comes twice", (*THREE, "ROUNDS=2"), 900_000),
    ("three clients and two slots", (*THREE, "SLOTS=2"), 190_000),
    ("a reserve for min_idle", (*THREE, "RESERVE=1"), 250_000),
    ("resets, discards and a copied lease", (*AGAIN, *JOBS, "RESETS=1", "COPIES=1"), 1_300_000),
    ("checks that may fail", (*AGAIN, *JOBS, "DUES=1"), 350_000),
    ("connects that may fail", (*AGAIN, *JOBS, "FIRST=EMPTY"), 200_000),
    ("a tick", (*AGAIN, *JOBS, "TICKS"), 500_000),
    ("a waiter is poked", (*AGAIN, "POKES", "RESERVE=1"), 60_000),
    ("a close", (*THREE, "THREADS", "CLOSES"), 2_000_000),
    ("a close of two slots", (*AGAIN, "THREADS", "CLOSES", "SLOTS=2"), 80_000),
    ("a pause", (*AGAIN, "THREADS", "PAUSES", "DUES=1"), 1_100_000),
    ("a close, a pause and a copied lease", (*TWO, "THREADS", "CLOSES", "PAUSES", "COPIES=1"), 1_100_000),
]
POOL_LONG = [
    ("three clients, one of whom comes three times", (*THREE, "ROUNDS=3"), 2_000_000),
    ("three clients and two slots, one client comes twice", (*THREE, "ROUNDS=2", "SLOTS=2"), 850_000),
    ("three clients, resets and a copied lease", (*THREE, "RESETS=1", "COPIES=1"), 3_500_000),
    ("three clients, checks that may fail", (*THREE, *JOBS, "DUES=1"), 8_000_000),
    ("three clients, connects that may fail", (*THREE, *JOBS, "FIRST=EMPTY"), 6_000_000),
    ("three clients and a pause", (*THREE, "PAUSES"), 5_000_000),
    ("three clients, one of whom is poked", (*THREE, "POKES"), 2_000_000),
    ("three clients and a close of two slots", (*THREE, "THREADS", "CLOSES", "SLOTS=2"), 1_500_000),
    ("three clients and a pause of two slots", (*THREE, "PAUSES", "SLOTS=2"), 14_000_000),
    ("checks, a close and a pause", (*AGAIN, "THREADS", "CLOSES", "PAUSES", "DUES=1"), 6_000_000),
    ("a tick, a reserve, checks, discards and a copied lease",
     (*AGAIN, *JOBS, "TICKS", "RESERVE=1", "DUES=1", "COPIES=1"), 22_000_000),
    ("four clients", ("CLIENTS=4",), 30_000_000),
]
# As above, but nothing other than runs without end is looked for.
POOL_ENDS = [
    ("three clients", THREE, 500_000),
    ("checks, resets and a poke", (*TWO, "THREADS", "DUES=1", "RESETS=1", "POKES"), 800_000),
]

# what, definition, the configuration, what is refuted
POOL_BAD = [
    ("a waiter joins before the slots are locked", "BAD_ENQUEUE_FIRST", THREE, "S2"),
    ("a waiter joins without locking the slots", "BAD_NO_LOCKING", TWO, "L1"),
    ("the same, by the invariant", "BAD_NO_LOCKING", TWO, "I1"),
    ("no second look after all are locked", "BAD_NO_SECOND_LOOK", TWO, "L1"),
    ("all are locked and looked at before the pool's lock is taken", "BAD_UNLOCKED_LOOK", THREE, "L1"),
    ("a slot is locked by a plain store", "BAD_CAPTURE_STORE", THREE, "S1"),
    ("the same, by where it ends", "BAD_CAPTURE_STORE", TWO, "L1"),
    ("a slot that could not be locked is not looked at again", "BAD_CAPTURE_ONCE", TWO, "L1"),
    ("a release by exchange, mended at once", "BAD_BRING_EXCHANGE", THREE, "S2"),
    ("a release after a reset by a plain store", "BAD_SPENT_STORE", (*TWO, "RESETS=1"), "L1"),
    ("a release that looks at the queue without the lock", "BAD_PEEK_QUEUE", TWO, "L1"),
    ("a release that does not spend its lease before it locks", "BAD_NOT_SPENT", (*TWO, "COPIES=1"), "S3"),
    ("a claim by a look and a store", "BAD_CLAIM_STORE", TWO, "S1"),
    ("the same generation for each lease", "BAD_SAME_GENERATION", (*TWO, "COPIES=1"), "S3"),
    ("a lease handed over as if nobody else waited", "BAD_GRANT_OPEN", THREE, "L1"),
    ("an outcome told by a look and a store", "BAD_TELL_READ", TWO, "L1"),
    ("a waiter that parks by a plain store", "BAD_PARK_STORE", TWO, "L1"),
    ("a poked waiter that parks again without the lock", "BAD_REARM_BLIND", (*TWO, "POKES"), "L1"),
    ("a waiter granted before it is off the queue", "BAD_UNLINK_LATE", TWO, "S5"),
    ("a timeout that does not look for its outcome", "BAD_CANCEL_BLIND", TWO, "L1"),
    ("an idle slot that is due for a check stays open", "BAD_DUE_OPEN", (*THREE, "THREADS", "DUES=1"), "S2"),
    ("a new connection is idle though somebody waits", "BAD_READY_OPEN", (*TWO, "THREADS", "FIRST=EMPTY"), "L1"),
    ("a close that leaves those in use open", "BAD_CLOSE_IN_USE", (*TWO, "THREADS", "CLOSES"), "S4"),
    ("the same, by where it ends", "BAD_CLOSE_IN_USE", (*TWO, "THREADS", "CLOSES"), "L1"),
    ("a close that refuses nobody", "BAD_CLOSE_NO_REFUSE", (*TWO, "THREADS", "CLOSES"), "L1"),
    ("a resume that opens though somebody waits", "BAD_RESUME_OPEN", (*TWO, "PAUSES"), "L1"),
]


def pool_rows(long_run):
    for what, definitions, floor in POOL + (POOL_LONG if long_run else []):
        yield Row(what, definitions, floor, None, False)
    for what, definitions, floor in POOL_ENDS:
        yield Row(f"{what}, no run without end", definitions, floor, None, True)
    for what, definition, definitions, how in POOL_BAD:
        # Without the inner invariant, so that it is refuted by what a caller would notice.
        inner = () if how == "I1" else ("NO_I1",)
        yield Row(f"bad: {what}", (*definitions, definition, *inner), 0, how, False)


MODELS = {"reclaim": reclaim_rows, "pool": pool_rows}


def pan_options(row):
    if row.endless:
        return ["-l"]
    if row.how is None:
        return []
    # A small table of states; and only what must be found counts, an end or an assertion.
    return ["-w20", "-A" if CAUSES[row.how] == STUCK else "-E"]


def check(model, row):
    """Runs Spin on one row; raises when it could not finish."""
    with tempfile.TemporaryDirectory(prefix="pnx-spin-") as folder:
        began = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime

        def run(*command):
            return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout
        run("spin", "-a", *(f"-D{definition}" for definition in row.definitions), str(HERE / f"{model}.pml"))
        # The verifier is generated code: its warnings tell nothing about ours.
        run("cc", "-w", "-O1" if row.floor >= LARGE else "-O0", "-DNP" if row.endless else "-DSAFETY",
            "-DCOLLAPSE", "-o", "pan", "pan.c")
        out = run("./pan", "-m1000000", *pan_options(row))
        seconds = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - began
    errors = re.search(r"errors: (\d+)", out)
    states = STATES.search(out)
    if not errors or not states or re.search(r"too small|aborted|out of memory|interrupted", out):
        raise RuntimeError("Spin did not finish:\n" + out)
    cause = None
    if errors[1] != "0":
        cause = re.search(r"pan:\d+: (.*)", out)
        cause = cause[1] if cause else "?"
    return Result(cause, int(float(states[1])), seconds, unreached(out))


def unreached(out):
    """The statements that were not reached, as (process, line, state, text); but for the ends of endless processes."""
    process = None
    found = {}
    for line in out.splitlines():
        heading = re.match(r"unreached in proctype (\w+)", line)
        if heading or line.startswith("unreached in"):
            process = heading[1] if heading else None
        where = re.match(r"\s.*\.pml:(\d+), state (\d+), (.*)", line)
        if process and where and where[3] != '"-end-"':
            found[process, int(where[1]), int(where[2])] = where[3]
    return found


def is_fine(row, result):
    if row.how is None:
        return result.cause is None and result.states >= row.floor
    return re.match(CAUSES[row.how], result.cause or "") is not None


def check_model(model, long_run):
    failed = 0
    never = None
    for row in MODELS[model](long_run):
        try:
            result = check(model, row)
        except (subprocess.CalledProcessError, RuntimeError) as error:
            print(f"FAIL {model}: {row.what}: {error}\n{getattr(error, 'stderr', '')}")
            failed += 1
            continue
        fine = is_fine(row, result)
        failed += not fine
        if row.how is None and not row.endless:
            never = result.unreached if never is None else {
                at: text for at, text in never.items() if at in result.unreached}
        verdict = f"holds in {result.states} states (floor {row.floor})"
        if result.cause is not None:
            verdict = f"{row.how or 'not'}: {result.cause}, after {result.states} states"
        print(f"{'ok  ' if fine else 'FAIL'} {model}: {row.what}: {verdict}, {result.seconds:.1f} s of CPU",
              flush=True)
    if model == "pool":
        for (process, line, _), text in sorted((never or {}).items()):
            print(f"FAIL {model}: no configuration reaches line {line} in {process}: {text}")
            failed += 1
    return failed


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL", help="reclaim, pool; default: both")
    parser.add_argument("--long", action="store_true", default=os.environ.get("PNX_TEST_LONG") == "1",
                        help="larger configurations, too; also by PNX_TEST_LONG=1")
    args = parser.parse_args()
    models = args.models or list(MODELS)
    if not set(models) <= set(MODELS):
        parser.error("models are: " + ", ".join(MODELS))
    try:
        failed = sum(check_model(model, args.long) for model in models)
    except FileNotFoundError as error:
        print(f"spin.py: {error.filename} is not installed (scripts/packages.txt, group test)")
        return 1
    print(f"spin.py: {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
