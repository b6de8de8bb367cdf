#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Checks include/patinox/stats/*.def against the naming rules of Prometheus and OpenMetrics."""
import pathlib
import re
import sys

ROW = re.compile(r'PNX_STAT\((\w+), (\w+), (\w+), (\w+), "((?:[^"\\]|\\.)*)"\)')
HISTOGRAM = re.compile(r'PNX_STAT_HISTOGRAM\((\w+), (\w+), (\w+), "((?:[^"\\]|\\.)*)"\)')
EVENT = re.compile(r'PNX_EVENT\((\w+), "([^"]*)", "([^"]*)", "([^"]*)"\)')
SUFFIX = {"NONE": "", "SECONDS": "_seconds", "BYTES": "_bytes"}
RESERVED = ("_total", "_sum", "_count", "_bucket", "_created", "_info", "_seconds", "_bytes", "_ns", "_ms")


def main():
    directory = pathlib.Path(sys.argv[1])
    tables = sorted(directory.glob("*.def"))
    assert tables
    names = {}
    errors = []
    rows = 0
    for table in tables:
        text = re.sub(r"/\*.*?\*/", "", table.read_text(encoding="utf-8"), flags=re.S)
        text = re.sub(r"\s*\n\s+", " ", text)  # a row may be continued, indented
        for line in filter(None, (line.strip() for line in text.split("\n"))):
            if table.name == "events.def":
                match = EVENT.fullmatch(line)
                if not match:
                    errors.append(f"{table.name}: not a row: {line}")
                elif not re.fullmatch(r"[A-Z][A-Z0-9_]{2,46}", match[1]):
                    errors.append(f"{table.name}: {match[1]}: name")
                continue
            row, histogram = ROW.fullmatch(line), HISTOGRAM.fullmatch(line)
            if not row and not histogram:
                errors.append(f"{table.name}: not a row: {line}")
                continue
            rows += 1
            name = (row or histogram)[1]
            kind = row[2] if row else "HISTOGRAM"
            unit, level, text_ = (row.groups()[2:] if row else histogram.groups()[1:])
            where = f"{table.name}: {name}"
            if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name):
                errors.append(f"{where}: not snake_case")
            if name.endswith(RESERVED):
                errors.append(f"{where}: the exporter adds suffixes")
            if kind not in ("COUNTER", "GAUGE", "HISTOGRAM") or unit not in SUFFIX:
                errors.append(f"{where}: kind {kind}, unit {unit}")
            if level not in ("INFO", "DIAG", "DEBUG"):
                errors.append(f"{where}: level {level}")
            if len(text_) < 4:
                errors.append(f"{where}: help is missing")
            family = f"patinox_{table.stem}_{name}{SUFFIX.get(unit, '')}"
            taken = {family}
            taken |= {family + s for s in {"COUNTER": ("_total", "_created"),
                                           "HISTOGRAM": ("_bucket", "_count", "_sum", "_created")}.get(kind, ())}
            for one in taken:
                if one in names:
                    errors.append(f"{where}: {one} clashes with {names[one]}")
                names[one] = where
    for error in errors:
        print(error)
    print(f"{len(tables)} tables, {rows} rows, {len(errors)} errors")
    sys.exit(1 if errors else 0)


main()
