#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Checks the rules of src/base/atomic.h over all sources: names of sites, orders, and no other atomics."""
import pathlib
import re
import sys

CALL = re.compile(r"\bpnx_{1,2}(load|store|exchange|fetch_add|fetch_sub|fetch_or|fetch_and|cas|cas_acquire|fence)\s*\(")
RAW = re.compile(r"\b(__atomic_\w+|__sync_\w+|atomic_\w+\s*\(|_Atomic|volatile)\b")
# What may name an atomic builtin or volatile, and why.
EXEMPT = {
    "base/atomic.h": "defines the operations",
    "base/atomic_explore.h": "defines the operations",
    "base/atomic_sites.h": "defines the operations",
    "patinox/atomic_inl.h": "defines the operations",
}
# In a macro, the last part may be an argument: "file.what." #name
SITE = re.compile(r'^"[a-z][a-z0-9_]*\.[a-z0-9_]+"$|^"[a-z][a-z0-9_]*\.[a-z0-9_.]*" ?#[a-z_]+$')
STANDS_IN = re.compile(r"^os/windows/")  # os/windows/x.c for os/x.c, with sites of the same names
ORDERS = {
    "load": {"RELAXED", "ACQUIRE"},
    "store": {"RELAXED", "RELEASE"},
}
ALL = {"RELAXED", "ACQUIRE", "RELEASE", "ACQ_REL", "SEQ_CST"}


def strip_comments(text):
    return re.sub(r"/\*.*?\*/", lambda m: "\n" * m[0].count("\n"), text, flags=re.S)


def arguments(text, start):
    """Splits the arguments of the call whose parenthesis opened just before start."""
    depth, parts, part, quoted = 1, [], "", False
    for i in range(start, len(text)):
        c = text[i]
        if quoted:
            quoted = c != '"' or text[i - 1] == "\\"
        elif c == '"':
            quoted = True
        elif c in "([{":
            depth += 1
        elif c in ")]}":
            depth -= 1
            if depth == 0:
                return [" ".join(p.split()) for p in parts + [part]]
        elif c == "," and depth == 1:
            parts.append(part)
            part = ""
            continue
        part += c
    return None


def main():
    roots = [pathlib.Path(arg) for arg in sys.argv[1:]] # src, include
    seen, here, errors, count = {}, {}, [], 0
    paths = ((root, p) for root in roots for p in sorted(root.rglob("*")) if p.suffix in (".c", ".h", ".inc"))
    for root, path in paths:
        name = path.relative_to(root).as_posix()
        if name in EXEMPT:
            continue
        text = strip_comments(path.read_text(encoding="utf-8"))
        line_of = lambda at: text.count("\n", 0, at) + 1
        for match in RAW.finditer(text):
            before = text[max(0, match.start() - 12):match.start()]
            if match[0] == "volatile" and re.search(r"(__asm__ |asm )$", before):
                continue  # not an access
            errors.append(f"{name}:{line_of(match.start())}: {match[0].strip()}: use base/atomic.h")
        for match in CALL.finditer(text):
            args = arguments(text, match.end())
            where = f"{name}:{line_of(match.start())}"
            if not args or len(args) < 2:
                errors.append(f"{where}: not understood")
                continue
            count += 1
            site, order = args[-1], args[-2]
            if not SITE.match(site):
                errors.append(f"{where}: site {site} is not a \"file.what\"")
            elif seen.get(site, name + ":").partition(":")[0] not in (name, STANDS_IN.sub("os/", name)):
                errors.append(f"{where}: site {site} is also at {seen[site]}")
            elif (site, name) in here:
                errors.append(f"{where}: site {site} is also at {here[site, name]}")
            seen.setdefault(site, where)
            here[site, name] = where
            allowed = {"PNX_" + o for o in ORDERS.get(match[1], ALL)}
            if order not in allowed:
                errors.append(f"{where}: {match[1]} with {order}")
    for error in errors:
        print(error)
    print(f"{count} sites, {len(errors)} errors")
    sys.exit(1 if errors else 0)


main()
