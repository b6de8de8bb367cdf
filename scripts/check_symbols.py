#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""check_symbols.py [--update] LIBRARY LIST - holds the exported symbols of a shared library against a list.

Also: every function that a public header declares with PNX_API is exported, and nothing else is.
"""
import re
import subprocess
import sys
from pathlib import Path


def exported(library):
    out = subprocess.run(["nm", "-D", "--defined-only", library], check=True, capture_output=True, text=True)
    names = [line.split()[-1].split("@")[0] for line in out.stdout.splitlines()]
    return sorted({name for name in names if not name.startswith("PATINOX")})


def declared(root, adapters):
    names = set()
    for header in (root / "include/patinox").glob("*.h"):
        if (header.stem in ("sqlite",)) != adapters:
            continue
        text = re.sub(r"/\*.*?\*/", "", header.read_text(), flags=re.S)
        text = re.sub(r"\\\n", "", text)
        text = re.sub(r"#el(if|se)?\s*defined\(\s*_WIN32\).*?(?=#else)", "", text, flags=re.S)  # of another library
        for match in re.finditer(r"PNX_API\b([^;{]*?)\b(pnx_\w+)\s*\(", text):
            names.add(match.group(2))
        for match in re.finditer(r"PNX_API extern [^;(]*?(pnx_\w+)(?: PNX_TLS_MODEL_)?;", text):
            names.add(match.group(1))  # a variable that inline functions read
    return sorted(names)


def main(argv):
    update = "--update" in argv
    library, listing = [arg for arg in argv[1:] if arg != "--update"]
    root = Path(__file__).resolve().parent.parent
    now = exported(library)
    if update:
        Path(listing).write_text("".join(name + "\n" for name in now))
        return 0
    listed = Path(listing).read_text().split()
    wanted = declared(root, "sqlite" in Path(listing).name)
    bad = 0
    for title, names in (
            ("exported, but not in the list", set(now) - set(listed)),
            ("in the list, but not exported (an ABI break)", set(listed) - set(now)),
            ("declared in a header, but not exported", set(wanted) - set(now)),
            ("exported, but declared in no public header", set(now) - set(wanted))):
        for name in sorted(names):
            print(f"{name}: {title}")
            bad = 1
    if bad:
        print(f"if this is meant: scripts/check_symbols.py --update {library} {listing}")
    return bad


if __name__ == "__main__":
    sys.exit(main(sys.argv))
