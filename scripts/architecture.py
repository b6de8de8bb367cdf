#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""architecture.py [--update] ROOT - keeps two lists of ARCHITECTURE.md equal to the source.

The list of files comes from the first comment of each file ("module/file.c - what it is"), the lock order from
src/base/lock_ranks.def.  Without --update a difference is an error.
"""
import re
import sys
from pathlib import Path

MODULES = ["base", "os", "stats", "registry", "budget", "share", "resource", "pool", "mapping", "cache",
           "adapters/sqlite"]


def first_sentence(path, name):
    text = path.read_text()
    match = re.search(re.escape(name) + r"\s+-\s+(.*?)(?:\*/|\n \*\s*\n|\n \*/)", text, re.S)
    if not match:
        return None
    words = " ".join(re.sub(r"^\s*\*\s?", "", line).strip() for line in match.group(1).splitlines())
    words = re.split(r"(?<=[a-z0-9)])\.\s", words.strip())[0].rstrip(". ")
    return words


def file_list(root):
    lines, bad = [], []
    for module in MODULES:
        folder = root / "src" / module
        files = sorted(p for p in folder.rglob("*") if p.suffix in (".c", ".h") and p.is_file())
        if not files:
            continue
        lines.append(f"\n**src/{module}**\n")
        for path in files:
            name = str(path.relative_to(root / "src")).removeprefix("adapters/")
            what = first_sentence(path, name) or first_sentence(path, "adapters/" + name)
            if what is None:
                bad.append(f"{path.relative_to(root)}: its first comment does not say \"{name} - what it is\"")
                continue
            lines.append(f"- `{path.relative_to(folder)}`: {what}")
    return "\n".join(lines) + "\n", bad


def lock_list(root):
    rows = re.findall(r'^LOCK\((\w+), "([^"]+)"\)', (root / "src/base/lock_ranks.def").read_text(), re.M)
    return "\n" + "\n".join(f"{number}. `{name}`: {what}" for number, (name, what) in enumerate(rows, 1)) + "\n"


def replace(text, mark, content):
    pattern = re.compile(rf"(<!-- {mark}: .*? -->\n).*?(<!-- end {mark} -->)", re.S)
    if not pattern.search(text):
        raise SystemExit(f"ARCHITECTURE.md: no place for {mark}")
    return pattern.sub(lambda match: match.group(1) + content + match.group(2), text)


def main(argv):
    root = Path([arg for arg in argv[1:] if arg != "--update"][0])
    page = root / "ARCHITECTURE.md"
    files, bad = file_list(root)
    text = page.read_text()
    wanted = replace(replace(text, "files", files), "locks", lock_list(root))
    if bad:
        print("\n".join(bad))
        return 1
    if wanted == text:
        return 0
    if "--update" in argv:
        page.write_text(wanted)
        return 0
    print("ARCHITECTURE.md is out of date: run scripts/architecture.py --update .")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv))
