#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Reads the #includes of every file and holds them against the layers of the library.

A module may include itself and what stands below it; siblings never include each other.  Public headers
count as their module.  Prints each violation as FILE:LINE and exits with 1 if there is one.
"""
import os
import re
import sys

LAYERS = [["base"], ["os"], ["stats"], ["registry"], ["budget"], ["share"], ["resource"],
          ["pool", "mapping", "cache"], ["adapters"], ["examples", "tools", "bench"]]
# Public headers and the module that each belongs to.
PUBLIC = {"base": "base", "atomic_inl": "base", "reclaim": "share", "reclaim_inl": "share", "rc_inl": "share",
          "rwdata": "share", "rwdata_inl": "share", "snapshot_inl": "share", "cmap": "share", "cmap_inl": "share",
          "watch": "share", "error": "base", "stats": "stats", "registry": "registry", "query": "registry",
          "trace": "registry", "leaks": "registry", "shutdown": "registry", "budget": "budget",
          "rc": "share", "snapshot": "share", "config": "share", "guard": "resource", "executor": "resource",
          "guard_inl": "resource", "pool": "pool", "pool_group": "pool",
          "mapping": "mapping", "mapping_inl": "mapping", "mapping_windows": "mapping", "fault": "mapping",
          "fault_inl": "mapping", "cache": "cache", "cache_policy": "cache", "sqlite": "adapters", "patinox": "adapters"}
RANK = {module: rank for rank, modules in enumerate(LAYERS) for module in modules}
INCLUDE = re.compile(r'^\s*#\s*include\s+(["<])([^">]+)[">]')


def module_of(path):
    parts = path.split("/")
    if parts[0] == "src":
        return parts[1]
    if parts[:2] == ["include", "patinox"]:
        if parts[2] == "stats" and len(parts) == 4:
            return "base"  # .def tables: data
        return PUBLIC.get(parts[2].rsplit(".", 1)[0])
    return parts[0]


def target_of(quote, name):
    parts = name.split("/")
    if parts[0] == "patinox":
        if len(parts) == 3 and parts[1] == "stats":
            return "base"
        return PUBLIC.get(parts[1].rsplit(".", 1)[0], "unknown")
    if ".." in parts:
        return "unknown"  # a way around the layers
    if len(parts) > 1 and parts[0] in RANK:
        return parts[0]  # with quotes or with <>: src is on the path of both
    return None


def name_is_public(name):
    return name.startswith("patinox/")


def allowed(module, target):
    return module == target or RANK[target] < RANK[module]


def main(root):
    bad = 0
    for top in ("src", "include", "examples", "tools"):
        for folder, _, files in sorted(os.walk(os.path.join(root, top))):
            for file in sorted(files):
                if not file.endswith((".c", ".cc", ".h", ".inc", ".def")):
                    continue
                path = os.path.relpath(os.path.join(folder, file), root)
                module = module_of(path)
                if module not in RANK:
                    print(f"{path}: belongs to no layer; add it to scripts/check_layers.py")
                    bad += 1
                    continue
                with open(os.path.join(root, path), encoding="utf-8") as lines:
                    for number, line in enumerate(lines, 1):
                        match = INCLUDE.match(line)
                        target = match and target_of(*match.groups())
                        if target is None:
                            continue
                        if target not in RANK or not allowed(module, target):
                            print(f"{path}:{number}: {module} may not include {match.group(2)} ({target})")
                            bad += 1
                        elif module == "examples" and not name_is_public(match.group(2)) and target != "examples":
                            print(f"{path}:{number}: examples use public headers only")
                            bad += 1
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else "."))
