# SPDX-License-Identifier: Apache-2.0
"""One SVG a case: bars with their range, or curves over the threads where there are more than two counts."""
import html
import math

from cases import UNITS, is_ours

BLUE = "#2a78d6"
GREYS = ("#8a8a85", "#b0522d", "#5f8a3c", "#8a5fa8", "#b58900", "#3c8a8a", "#a83c6b", "#444444")
STYLE = 'font-family="sans-serif" font-size="12"'


def svg(width, height, title, lines):
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" {STYLE}>'
            f'<rect width="100%" height="100%" fill="#fff"/><text x="12" y="20" font-weight="bold">'
            f'{html.escape(title)}</text>{"".join(lines)}</svg>\n')


def bars(case, unit, rows):
    top = max(row["max"] for row in rows)
    rows = sorted(rows, key=lambda row: (row["threads"], row[unit]))
    lines = []
    for position, row in enumerate(rows):
        y = 34 + 26 * position
        x = [190 + 420 * row[key] / top for key in (unit, "min", "max")]
        colour = BLUE if is_ours(row["impl"]) else GREYS[0]
        label = html.escape(row["impl"] + (f" x{row['threads']}" if unit != "bytes_per_entry" else ""))
        lines += [f'<text x="182" y="{y + 13}" text-anchor="end">{label}</text>',
                  f'<rect x="190" y="{y}" width="{x[0] - 190:.1f}" height="18" rx="3" fill="{colour}"/>',
                  f'<path d="M{x[1]:.1f} {y + 9}H{x[2]:.1f}" stroke="#222" stroke-width="1.5"/>',
                  f'<text x="{max(x) + 8:.1f}" y="{y + 13}">{row[unit]:.1f}</text>']
    return svg(720, 40 + 26 * len(rows), f"{case}: {UNITS[unit][1]}, median and range; less is better", lines)


def spread(places, gap):
    """Moves labels apart: the places, at least gap from each other, in their order."""
    result = []
    for place in sorted(places):
        result.append(max(place, result[-1] + gap) if result else place)
    return dict(zip(sorted(places), result))


def curves(case, unit, rows, counts):
    """Both axes are logarithmic: threads double, and implementations lie a hundredfold apart."""
    low, high = min(row["min"] for row in rows), max(row["max"] for row in rows)
    span = math.log(high / low) or 1

    def x(threads):
        return 60 + 460 * math.log(threads / counts[0]) / math.log(counts[-1] / counts[0])

    def y(value):
        return 350 - 300 * math.log(value / low) / span
    lines = [f'<path d="M{x(n):.1f} 50V350" stroke="#e5e5e0"/>'
             f'<text x="{x(n):.1f}" y="366" text-anchor="middle">{n}</text>' for n in counts]
    for exponent in range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1):
        at = y(10 ** exponent)
        lines.append(f'<path d="M60 {at:.1f}H520" stroke="#e5e5e0"/>'
                     f'<text x="52" y="{at + 4:.1f}" text-anchor="end">{10 ** exponent:g}</text>')
    names = list(dict.fromkeys(row["impl"] for row in rows))
    ends = {}
    for name in names:
        points = sorted((row["threads"], row[unit]) for row in rows if row["impl"] == name)
        ends[name] = (points[-1], " ".join(f"{x(n):.1f},{y(value):.1f}" for n, value in points))
    labels = spread({y(end[1]) for end, _ in ends.values()}, 15)
    grey = iter(GREYS * 4)
    for name in names:
        end, points = ends[name]
        colour = BLUE if is_ours(name) else next(grey)
        dash = "" if name == "patinox" or not is_ours(name) else ' stroke-dasharray="5 3"'
        lines += [f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>',
                  f'<text x="528" y="{labels[y(end[1])] + 4:.1f}" fill="{colour}">{html.escape(name)} '
                  f'{end[1]:.1f}</text>']
    lines.append('<text x="290" y="386" text-anchor="middle">threads</text>')
    return svg(760, 400, f"{case}: {UNITS[unit][1]} of a thread, median; less is better", lines)


def plot(folder, case, unit, rows):
    rows = [row for row in rows if unit in row]
    if not rows:
        return
    counts = sorted({row["threads"] for row in rows})
    text = curves(case, unit, rows, counts) if len(counts) > 2 else bars(case, unit, rows)
    (folder / (case.replace("/", "-") + ".svg")).write_text(text)
