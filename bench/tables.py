# SPDX-License-Identifier: Apache-2.0
"""The rows of a run as Markdown, for docs/performance.md: one table a case, one column a number of threads."""
from cases import CASES, UNITS, figure, more


def table(case, rows):
    unit = CASES[case]["unit"]
    counts = sorted({row["threads"] for row in rows})
    value = {(row["impl"], row["threads"]): row[unit] for row in rows if unit in row}
    version = {row["impl"]: row["version"] for row in rows if unit in row}
    heads = [f"{n} thread{'s' if n > 1 else ''}" for n in counts] if unit == "ns_per_op" else [UNITS[unit][1]]
    more_heads, more_cells = more(rows) if len(counts) == 1 else ([], lambda row: [])
    row_of = {row["impl"]: row for row in rows}
    heads += more_heads
    lines = [f"`{case}`", "", "| | " + " | ".join(heads) + " |", "|---" * (1 + len(heads)) + "|"]
    for impl in sorted(version, key=lambda name: value.get((name, counts[0]), float("inf"))):
        name = impl if version[impl] in ("-", "0.1.0") else f"{impl} {version[impl].removeprefix('rustc ')}"
        cells = [figure(value.get((impl, n))) for n in counts] + more_cells(row_of[impl])
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def markdown(rows):
    return "\n".join(table(case, [row for row in rows if row["case"] == case])
                     for case in dict.fromkeys(row["case"] for row in rows))
