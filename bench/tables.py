# SPDX-License-Identifier: Apache-2.0
"""The rows of a run as Markdown, for docs/performance.md: one table a case, one column a number of threads."""
from cases import CASES


def figure(value):
    return "" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def table(case, rows):
    unit = CASES[case]["unit"]
    counts = sorted({row["threads"] for row in rows})
    value = {(row["impl"], row["threads"]): row[unit] for row in rows if unit in row}
    version = {row["impl"]: row["version"] for row in rows if unit in row}
    heads = [f"{n} thread{'s' if n > 1 else ''}" for n in counts] if unit == "ns_per_op" else ["bytes per entry"]
    lines = [f"`{case}`", "", "| | " + " | ".join(heads) + " |", "|---" * (1 + len(counts)) + "|"]
    for impl in sorted(version, key=lambda name: value.get((name, counts[0]), float("inf"))):
        name = impl if version[impl] in ("-", "0.1.0") else f"{impl} {version[impl].removeprefix('rustc ')}"
        cells = [value.get((impl, n)) for n in counts]
        lines.append(f"| {name} | " + " | ".join(figure(cell) for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def markdown(rows):
    return "\n".join(table(case, [row for row in rows if row["case"] == case])
                     for case in dict.fromkeys(row["case"] for row in rows))
