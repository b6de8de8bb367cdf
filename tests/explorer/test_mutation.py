#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Holds the mutation check to what it promises, on a suite whose answers are known (mutated.c)."""
import subprocess
import sys
import tempfile
from pathlib import Path

PROOF = "nobody reads the counter to decide anything, so nothing depends on what its order publishes"
KEPT = [f'MUTANT("mutated.count", {order}, "{PROOF}")' for order in ("ACQUIRE", "RELEASE", "RELAXED")]
KEPT.append(f'MUTANT("mutated.publish", RELEASE, "{PROOF}")')
KEPT.append(f'UNREACHED("mutated.never", "{PROOF}")')
KILLED = 'MUTANT("mutated.look", RELAXED, "%s")' % PROOF
TOLD = ["--told", "tests/explorer/told"]
TOLD_ROW = f'UNREACHED("told.site", "{PROOF}")'
WRONG = [  # rows, the exit status, what must be said, further arguments
    (KEPT, 0, "2 mutants killed, 4 survive, 4 of them with a proof"),
    (KEPT[1:], 1, "mutated.count as ACQUIRE survives, without a proof"),
    (KEPT[:-1], 1, "no suite reaches mutated.never"),
    (KEPT + [KILLED], 1, "mutated.look RELAXED: it is killed by"),
    (KEPT + [KILLED.replace("look", "gone")], 1, "mutated.gone RELAXED: there is no such mutant"),
    (KEPT + [f'UNREACHED("mutated.look", "{PROOF}")'], 1, "mutated.look: it is reached"),
    (KEPT[:-1] + ['UNREACHED("mutated.never", "because")'], 1, "proves nothing"),
    (KEPT + [KEPT[0].replace("ACQUIRE,", "ACQUIRE")], 1, "rows, of which"),
    (KEPT, 1, "told.c:6: no suite reaches told.site", TOLD),
    (KEPT + [TOLD_ROW], 0, "1 ordered ones where the explorer has code of its own", TOLD),
    (KEPT + [TOLD_ROW], 1, "told.site: no such site"),
]


def main(root, suite):
    bad = 0
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "mutants.def"
        for rows, status, said, *more in WRONG:
            file.write_text("\n".join(rows) + "\n", encoding="utf-8")
            done = subprocess.run([f"{root}/scripts/mutate_orders.py", "--def", str(file), "--seconds", "2",
                                   "--cover", "tests/explorer/mutated.c", "--jobs", "1", *(more[0] if more else []),
                                   suite],
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
            if done.returncode != status or said not in done.stdout:
                print(f"expected status {status} and \"{said}\", got {done.returncode} and:\n{done.stdout}")
                bad += 1
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
