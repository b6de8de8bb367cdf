#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""check_defaults.py ROOT CC - the options that headers and guides describe are those of the .def tables.

For each module: the table and the struct in the public header have the same fields, each with a row of its own in the
guide; a default that is a number is the same in all three; "required" stands where it is true.  The numbers come
from a compiled program, so constants and expressions in the tables are followed.
"""
import re
import subprocess
import sys
import tempfile
from pathlib import Path

# table, header (None: no public struct), struct, guide page
MODULES = [
    ("src/pool/pool_opts.def", "pool.h", "pnx_pool_opts", "pool.md"),
    ("src/pool/group_opts.def", "pool_group.h", "pnx_pool_group_opts", "pool.md"),
    ("src/cache/cache_opts.def", "cache.h", "pnx_cache_opts", "cache.md"),
    ("src/registry/registry_options.def", "registry.h", "pnx_registry_opts", "resource.md"),
    ("src/resource/executor_opts.def", "executor.h", "pnx_executor_opts", "executor.md"),
    ("src/budget/budget_opts.def", "budget.h", "pnx_budget_opts", "budget.md"),
    ("src/mapping/mapping_opts.def", "mapping.h", "pnx_mapping_opts", "mapping.md"),
    ("src/mapping/windows_opts.def", "mapping_windows.h", "pnx_windows_opts", "mapping.md"),
    ("src/share/reclaim_opts.def", "reclaim.h", "pnx_reclaim_opts", "share.md"),
    ("src/share/rwdata_opts.def", "rwdata.h", "pnx_rwdata_opts", "share.md"),
    ("src/share/snapshot_opts.def", "snapshot.h", "pnx_snapshot_opts", "share.md"),
    ("src/share/watch_opts.def", "watch.h", "pnx_watch_opts", "share.md"),
    ("src/share/rc_tally_opts.def", "rc.h", "pnx_rc_tally_opts", "share.md"),
    ("src/share/cmap_opts.def", "cmap.h", "pnx_cmap_opts", "share.md"),
    ("src/share/config_opts.def", "config.h", "pnx_config_opts", "share.md"),
    ("src/adapters/sqlite/options.def", "sqlite.h", "pnx_sqlite_opts", "sqlite.md"),
    ("examples/lookup/settings.def", None, None, "lookup.md"),
]
NEVER = 2 ** 63 - 1
UNITS = {"ns": 1, "us": 10 ** 3, "ms": 10 ** 6, "s": 10 ** 9, "min": 60 * 10 ** 9, "h": 3600 * 10 ** 9,
         "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
NUMBER = re.compile(r'^[`"]*(\d[\d,]*)(?:\s?(ns|us|ms|s|min|h|KiB|MiB|GiB))?[`"]*(?=$|[\s;.:,)])')


def read_table(root, cc, table, header):
    """Returns {field: (kind, required, default)}."""
    source = f"""
#include <patinox/patinox.h>
#include <patinox/sqlite.h>
#include <inttypes.h>
#include <stdio.h>
enum {{ PNX_OPT_REQUIRED = 1, PNX_OPT_LIVE = 2 }};
#define PNX_OPTION(field, kind, flags, fallback, min, max, help) \\
    printf("%s\\t%s\\t%d\\t%" PRIu64 "\\n", #field, #kind, (flags) & PNX_OPT_REQUIRED, (uint64_t)(fallback));
#define SETTING(name, field, kind, fallback, min, max, help) \\
    printf("%s\\t%s\\t0\\t%" PRIu64 "\\n", name, #kind, (uint64_t)(fallback));
int main(void) {{
#include "{root / table}"
    return 0;
}}
"""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([cc, "-std=gnu11", "-w", f"-I{root}/include", "-x", "c", "-", "-o", f"{folder}/table"],
                       input=source, text=True, check=True)
        out = subprocess.run([f"{folder}/table"], capture_output=True, text=True, check=True).stdout
    return {field: (kind, required == "1", int(value))
            for field, kind, required, value in (line.split("\t") for line in out.splitlines())}


def read_header(root, header, struct):
    """Returns {field: what its comment says}."""
    text = (root / "include/patinox" / header).read_text()
    body = re.search(rf"^struct {struct} \{{\n(.*?)^\}};", text, re.M | re.S)[1]
    body = re.sub(r"\(\*(\w+)\)\([^;]*\)(?=;)", r"\1", body)  # int (*setup)(...) is a field called setup
    return {name: " ".join(comment.split()) for name, comment in
            re.findall(r"\b(\w+);[ \t]*(?:/\*(.*?)\*/)?", re.sub(r"(?m)^    /\*.*?\*/\n", "", body, flags=re.S), re.S)}


def read_guide(root, page):
    """Returns {field: what the column "default" of its row says}, of all tables that have such a column."""
    rows, column = {}, None
    for line in (root / "docs/guide" / page).read_text().splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")] if line.startswith("|") else None
        if cells is None:
            column = None
        elif column is None:
            column = cells.index("default") if "default" in cells and cells[0] in ("option", "field") else -1
        elif column > 0 and not set(cells[0]) <= set("-: "):
            for name in re.findall(r"`([\w]+)`", cells[0]):
                rows.setdefault(name, []).append(cells[column])
    return rows


def value_of(text):
    """The number with which the text begins, or None."""
    text = text.strip().strip("`")
    if re.match(r"(PNX_NEVER|never)\b", text):
        return NEVER
    match = NUMBER.match(text)
    return int(match[1].replace(",", "")) * UNITS.get(match[2], 1) if match else None


def differs(option, text):
    """Says what is wrong with a text about a default, or returns None."""
    kind, required, default = option
    said = value_of(text)
    if text.startswith("required") != required and not text.startswith("required, or"):
        return "is required" if required else "is not required"
    if kind in ("STRING", "POINTER", "LEVEL") or required:
        return None
    if text.startswith("no limit") and default in (0, 2 ** 32 - 1, 2 ** 64 - 1):
        return None
    if default and said is None and not (kind == "U32" and re.search(r"[A-Z]{3}", text)):  # the name of an enum
        return f"default is {default}"
    if said is not None and said != default:
        return f"default is {default}"
    return None


def check(root, cc, table, header, struct, page):
    options = read_table(root, cc, table, header)
    guide = read_guide(root, page)
    for name, option in options.items():
        if name in ("site", "reserved"):
            continue
        if name not in guide:
            yield f"docs/guide/{page}: {name} of {table} has no row"
        else:
            wrongs = [differs(option, text) for text in guide[name]]
            if all(wrongs):  # a page may have two tables with a field of that name
                yield f"docs/guide/{page}: {name}: {guide[name][0]!r}: {wrongs[0]}"
    if header is None:
        return
    fields = read_header(root, header, struct)
    for name in set(fields) - set(options) - {"size"}:
        yield f"{table}: has no row for {struct}.{name}"
    for name, option in options.items():
        if name not in fields:
            yield f"include/patinox/{header}: {struct} has no field {name} of {table}"
            continue
        comment = fields[name]
        match = re.search(r"\bdefault:? (.*)", comment)
        required = bool(re.search(r"(^|; )required(;|$|\.)", comment))
        text = "required" if required else match[1] if match else "0" if option[2] == 0 else ""
        wrong = differs(option, text)
        if wrong:
            yield f"include/patinox/{header}: {struct}.{name}: {comment!r}: {wrong}"


def main(root, cc):
    bad = [objection for module in MODULES for objection in check(root, cc, *module)]
    known = {str(root / module[0]) for module in MODULES}
    bad += [f"{path}: is not held against its header and guide: add it to scripts/check_defaults.py"
            for path in sorted((root / "src").rglob("*opt*.def")) if str(path) not in known]
    print("\n".join(bad + [f"{len(MODULES)} tables, {len(bad)} objections"]))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve(), sys.argv[2]))
