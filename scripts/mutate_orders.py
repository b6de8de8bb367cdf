#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Weakens each memory order in turn and runs the explorer's suites that reach it: ./test --mutate-orders.

  mutate_orders.py [--def FILE] [--cover PREFIX]... [--told FOLDER]... [--seconds S] [--only SITE-PART] [--jobs N] SUITE...

A mutant is one site with one weaker order.  It is killed when a suite fails.  Only the strongest weaker orders are
tried at first; when one survives, those below it are tried too (what is weaker than a killed mutant allows all
that the killed one allows).  Survivors must stand in the def file with a proof; see there.
"""
import argparse
import os
import re
import resource
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COVERED = ["src/base/", "src/stats/", "src/registry/", "src/budget/", "src/share/", "src/resource/shutdown",
           "src/resource/executor", "src/pool/", "src/cache/", "src/mapping/fault", "src/os/lock.", "src/os/ranges.", "include/patinox/",
           "tests/explorer/os_thread.c"]
# Where the explorer has files of its own instead: each ordered site is told from the text, and needs a reason.
UNEXPLORED = ["src/os/"]
# For each kind of operation and order: the next weaker ones.
WEAKER = {
    "load": {"ACQUIRE": ["RELAXED"], "SEQ_CST": ["ACQUIRE"]},
    "store": {"RELEASE": ["RELAXED"], "SEQ_CST": ["RELEASE"]},
    "rmw": {"SEQ_CST": ["ACQ_REL"], "ACQ_REL": ["ACQUIRE", "RELEASE"], "ACQUIRE": ["RELAXED"],
            "RELEASE": ["RELAXED"]},
}
WEAKER["cas"] = WEAKER["cas_acquire"] = WEAKER["fence"] = WEAKER["rmw"]
ROW = re.compile(r'^(MUTANT|UNREACHED)\(\s*"([^"]+)"\s*,\s*(?:([A-Z_]+)\s*,\s*)?((?:"(?:[^"\\]|\\.)*"\s*)+)\)', re.M)


class Test:
    """One TEST of one suite."""

    def __init__(self, program, name):
        self.program, self.name, self.reached = program, name, {}
        self.suite = Path(program).name.removeprefix("test_explorer_")
        self.seconds = 0.0  # of CPU, unweakened
        self.kills = Counter()  # module -> mutants

    def run(self, seconds, **env):
        """Returns None when it passes, else what went wrong, in a line."""
        environment = dict(os.environ, SEED="1", PNX_X_SECONDS=str(seconds), PNX_TEST_SLOW="10", **env)
        environment.pop("PNX_TEST_RESULTS", None)
        with subprocess.Popen([self.program, self.name], env=environment, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, errors="replace") as child:
            said = child.stdout.read().splitlines()
            _, status, usage = os.wait4(child.pid, 0)
            child.returncode = os.waitstatus_to_exitcode(status)
        self.seconds = self.seconds or usage.ru_utime + usage.ru_stime
        if child.returncode == 0:
            return None
        for line in said:
            match = re.match(r"\S+:\d+: (.*)", line)
            if match:
                return match.group(1)[:150]
        for line in said:
            if line.startswith("FAIL"):
                return line[:150]
        return f"exit status {child.returncode}"


def tests_of(program):
    listed = subprocess.run([program, "--list"], stdout=subprocess.PIPE, text=True, check=True).stdout
    return [Test(program, line.split(".")[-1]) for line in listed.split()]


def sites_of(program):
    """name -> (file, line, order) of every row."""
    listed = subprocess.run([program, "--sites"], stdout=subprocess.PIPE, text=True, check=True).stdout
    rows = {}
    for line in listed.splitlines():
        name, file, number, order = line.rsplit(" ", 3)
        rows[name] = (re.sub(r"^(\.\./)+", "", file), int(number), order)
    return rows


def told_sites(prefixes):
    """name -> (file, line, order) of each site with an order, as written in sources that no suite contains."""
    rows = {}
    for path in sorted(path for prefix in prefixes for path in (ROOT / prefix).rglob("*.[ch]")):
        text = path.read_text(encoding="utf-8")
        for match in re.finditer(r'PNX_(ACQUIRE|RELEASE|ACQ_REL|SEQ_CST),\s*"([^"]+)"', text):
            order, name = match.groups()
            rows[name] = (str(path.relative_to(ROOT)), text.count("\n", 0, match.start()) + 1, order)
    return rows


def measure(test):
    """The unweakened run: it must pass, and tells which sites it reaches."""
    with tempfile.NamedTemporaryFile(prefix="pnx-reached-") as file:
        failure = test.run(args.seconds, PNX_X_REACHED=file.name)
        for line in Path(file.name).read_text(encoding="utf-8").splitlines():
            site, kind = line.rsplit(" ", 1)
            test.reached[site] = kind
    return f"{test.name} fails with nothing weakened: {failure}" if failure else None


def read_def(path):
    """(site, order) -> proof; site -> reason; errors."""
    text = re.sub(r"/\*.*?\*/", "", Path(path).read_text(encoding="utf-8"), flags=re.S)
    proofs, reasons, errors = {}, {}, []
    for match in ROW.finditer(text):
        what, site, order, quoted = match.groups()
        proof = "".join(re.findall(r'"((?:[^"\\]|\\.)*)"', quoted))
        if len(proof) < 40:
            errors.append(f"{path}: {site}: \"{proof}\" proves nothing")
        if (what == "MUTANT") != bool(order):
            errors.append(f"{path}: {site}: MUTANT has an order, UNREACHED has none")
        elif what == "MUTANT":
            proofs[site, order] = proof
        else:
            reasons[site] = proof
    rows = len(re.findall(r"^\s*(?:MUTANT|UNREACHED)\b", text, re.M))
    if rows != len(proofs) + len(reasons) and not errors:
        errors.append(f"{path}: {rows} rows, of which {len(proofs) + len(reasons)} are understood and different")
    return proofs, reasons, errors


def try_mutant(site, order, tests):
    """What kills it, or None.  First come the tests that have killed others of its module, and the suite of that name."""
    module = site.split(".")[0]

    def late(test):
        return -test.kills[module], not test.suite.startswith(module), test.seconds

    for test in sorted((t for t in tests if site in t.reached), key=late):
        failure = test.run(args.seconds, PNX_MUTATE=f"{site}:{order}")
        if failure:
            test.kills[module] += 1
            return f"{test.suite}: {failure}"
    return None


class Check:
    def __init__(self, sites, kinds, tests, proofs):
        self.sites, self.kinds, self.tests, self.proofs = sites, kinds, tests, proofs
        self.killed, self.survived, self.lock = {}, [], threading.Lock()

    def try_site(self, site):
        """Tries the site's mutants, the stronger ones first."""
        kind = self.kinds[site]
        declared = self.sites[site][2]
        pending = [(site, order) for order in WEAKER[kind].get(declared, [])]
        if kind == "cas_acquire" and declared != "RELAXED":
            pending.append((site, "FAILURE_RELAXED"))
        seen = set()
        while pending:
            mutant = pending.pop(0)
            if mutant in seen or (mutant[1] == "RELAXED" and any((site, o) in self.killed for o in ("ACQUIRE", "RELEASE"))):
                continue  # what is weaker than a killed one needs no run
            seen.add(mutant)
            killer = try_mutant(*mutant, self.tests)
            with self.lock:
                verdict = f"killed    {killer}" if killer else (
                    "survives  proof given" if mutant in self.proofs else "SURVIVES")
                print(f"  {mutant[0]:32} {declared:7} -> {mutant[1]:16}{verdict}", flush=True)
                if killer:
                    self.killed[mutant] = killer
                    continue
                self.survived.append(mutant)
            pending += [(site, order) for order in WEAKER[kind].get(mutant[1], [])]


def main():
    tests = [test for suite in args.suites for test in tests_of(suite)]
    sites = {}
    for suite in args.suites:
        sites.update(sites_of(suite))
    covered = tuple(args.cover or COVERED)
    explored = {name: row[2] for name, row in sites.items()}
    sites = {name: row for name, row in sites.items() if row[0].startswith(covered) and args.only in name}
    told = told_sites(args.told or ([] if args.cover else UNEXPLORED))
    told = {name: row for name, row in told.items() if explored.get(name) != row[2] and args.only in name}
    proofs, reasons, errors = read_def(args.def_file)
    with ThreadPoolExecutor(args.jobs) as pool:
        errors += [failure for failure in pool.map(measure, tests) if failure]
        kinds = {site: kind for test in tests for site, kind in test.reached.items() if site in sites}
        print(f"mutate-orders: {len(sites)} sites in covered files, {len(kinds)} reached, by {len(tests)} tests")
        check = Check(sites, kinds, tests, proofs)
        if not errors:
            list(pool.map(check.try_site, sorted(kinds, key=lambda s: sites[s][:2])))
    if not errors:
        for mutant in check.survived:
            if mutant not in proofs:
                file, line, _ = sites[mutant[0]]
                errors.append(f"{file}:{line}: {mutant[0]} as {mutant[1]} survives, without a proof")
        for mutant in proofs:
            if args.only in mutant[0] and mutant not in check.survived:
                why = f"it is killed by {check.killed[mutant]}" if mutant in check.killed else "there is no such mutant"
                errors.append(f"{args.def_file}: {mutant[0]} {mutant[1]}: {why}")
        unreached = sorted(((set(sites) - set(kinds)) | set(told)) - set(reasons))
        for site in unreached:
            file, line, order = told.get(site) or sites[site]
            if order == "RELAXED":
                continue  # nothing to weaken
            errors.append(f"{file}:{line}: no suite reaches {site}")
        for site in reasons:
            if args.only in site and site not in told and (site in kinds or site not in sites):
                errors.append(f"{args.def_file}: {site}: {'it is reached' if site in kinds else 'no such site'}")
        relaxed = sum(site not in told and sites[site][2] == "RELAXED" for site in unreached)
        print(f"mutate-orders: {len(unreached)} further sites not reached, {relaxed} of them relaxed, which cannot be weakened; "
              f"{len(told)} ordered ones where the explorer has code of its own")
        spent = resource.getrusage(resource.RUSAGE_CHILDREN)
        print(f"mutate-orders: {spent.ru_utime + spent.ru_stime:.0f} s of CPU")
        print(f"mutate-orders: {len(check.killed)} mutants killed, {len(check.survived)} survive, "
              f"{sum(m in proofs for m in check.survived)} of them with a proof")
    for error in errors:
        print(f"mutate-orders: {error}")
    return 1 if errors else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--def", dest="def_file", default=str(ROOT / "verification/mutants.def"))
    parser.add_argument("--cover", action="append", help="prefix of files whose sites count")
    parser.add_argument("--told", action="append", help="folder of files that no suite contains, whose sites need reasons")
    parser.add_argument("--seconds", type=float, default=10.0, help="for each exploration of a mutant")
    parser.add_argument("--only", default="", help="only sites whose name contains this")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("suites", nargs="+")
    args = parser.parse_args()
    sys.exit(main())
