#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""snippets.py ROOT CC LIBRARY - compiles and runs the C programs that stand in the docs, and follows their links.

A block that opens with ```c is a whole program: it must compile without a warning and exit with 0.  A block
that opens with ```c fragment is shown for its shape only; fragments are compiled as the body of a function
after the includes of <patinox/patinox.h>, when they open with ```c body.
"""
import re
import subprocess
import sys
import tempfile
from pathlib import Path

LINK = re.compile(r"\]\(([^)\s#]+)[^)]*\)")
FENCE = re.compile(r"^```c( body| fragment)?\n(.*?)^```$", re.M | re.S)


def build(cc, root, library, source, out):
    return subprocess.run(
        [cc, "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-Wno-unused-variable", f"-I{root}/include", "-x", "c",
         "-", "-x", "none", library, "-lpthread", "-o", out], input=source, text=True, capture_output=True)


def main(root, cc, library):
    bad = count = 0
    pages = [*sorted(root.glob("*.md")), *sorted((root / "docs").rglob("*.md"))]
    for page in pages:
        text = page.read_text()
        for link in LINK.findall(text):
            if not re.match(r"\w+:", link) and not (page.parent / link).exists():
                print(f"{page.relative_to(root)}: links to {link}, which does not exist")
                bad += 1
        for match in FENCE.finditer(text):
            where = f"{page.relative_to(root)}:{text.count(chr(10), 0, match.start()) + 1}"
            kind, code = (match.group(1) or "").strip(), match.group(2)
            if kind == "fragment":
                continue
            count += 1
            source = code
            if kind == "body":
                source = "#include <patinox/patinox.h>\n#include <stdio.h>\nint main(void) {\n" + code + "return 0;\n}\n"
            with tempfile.TemporaryDirectory() as folder:
                built = build(cc, root, library, source, f"{folder}/snippet")
                if built.returncode:
                    print(f"{where}: does not compile\n{built.stderr}")
                    bad += 1
                    continue
                ran = subprocess.run([f"{folder}/snippet"], cwd=folder, capture_output=True, text=True, timeout=60)
                if ran.returncode:
                    print(f"{where}: exit status {ran.returncode}\n{ran.stdout}{ran.stderr}")
                    bad += 1
    print(f"{count} snippets, {bad} bad")
    return 1 if bad or not count else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve(), sys.argv[2], sys.argv[3]))
