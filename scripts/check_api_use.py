#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""check_api_use.py BUILD LIST... - every public function is called in a compiled example and in a test.

LIST is a file with the exported symbols of a library.  What counts is the object file, not the text: a function
called through a macro is used, one that is only named in a comment is not.
"""
import subprocess
import sys
from pathlib import Path


# Not functions: variables that inline functions of the headers read.
VARIABLES = {"pnx_self_"}


def used(folder):
    objects = [str(path) for path in folder.rglob("*.o")]
    if not objects:
        sys.exit(f"{folder}: no object files")
    out = subprocess.run(["nm", "-u", *objects], check=True, capture_output=True, text=True).stdout
    return {line.split()[-1] for line in out.splitlines() if line.startswith(" ")}


def main(build, lists):
    names = [name for file in lists for name in Path(file).read_text().split()
             if name not in VARIABLES]
    bad = 0
    for folder, what in (("examples", "called by no example"), ("tests", "called by no test")):
        missing = sorted(set(names) - used(Path(build) / folder))
        bad += len(missing)
        for name in missing:
            print(f"{name}: {what}")
    print(f"{len(names)} functions, {bad} objections")
    return 1 if bad or not names else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
