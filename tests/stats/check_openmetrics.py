#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Checks OpenMetrics text with the strict parser of prometheus_client, and what that parser leaves out.

check_openmetrics.py TEXT [EXPECTED]; EXPECTED has lines "SAMPLE-LINE", each of which must be in the text.
Exit status 77: prometheus_client is not installed.
"""
import re
import sys

try:
    from prometheus_client.openmetrics.parser import text_string_to_metric_families
except ImportError:
    print("python3-prometheus-client is not installed")
    sys.exit(77)

SAMPLE = re.compile(
    r'(?P<name>[a-zA-Z_][a-zA-Z0-9_]*)\{(?P<labels>(?:[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\["\\n])*",?)*)\} '
    r'(?P<value>-?[0-9]+(?:\.[0-9]+)?)')


def main():
    data = open(sys.argv[1], "rb").read()
    assert b"\r\n" not in data or b'\\' in data
    text = data.decode("utf-8", "strict")
    assert text.endswith("# EOF\n") and text.count("\n# EOF\n") <= 1
    lines = text.split("\n")[:-2]

    families = list(text_string_to_metric_families(text))
    parsed = sum(len(family.samples) for family in families)
    raw = [line for line in lines if not line.startswith("#")]
    # The parser drops a repeated series silently; so does a scraper, which is how data get lost.
    assert parsed == len(raw), f"{len(raw)} lines, {parsed} samples"
    seen = set()
    for family in families:
        assert family.name not in seen, f"{family.name} comes twice"
        seen.add(family.name)
        assert family.documentation and family.type != "unknown" and family.samples, family.name
        label_names = {tuple(sorted(k for k in s.labels if k != "le")) for s in family.samples}
        assert len(label_names) == 1, f"{family.name}: {label_names}"
        if family.type == "histogram":
            for sample in family.samples:
                assert sample.value >= 0

    order = []
    for line in lines:
        if line.startswith("# "):
            kind, name, rest = line[2:].split(" ", 2)
            order.append((kind, name))
            continue
        assert SAMPLE.fullmatch(line), line
    for i, (kind, name) in enumerate(order):  # TYPE, then UNIT if any, then HELP, for each family
        if kind == "TYPE":
            following = [k for k, n in order[i + 1:i + 3] if n == name]
            assert following in (["UNIT", "HELP"], ["HELP"]), (name, following)

    have = set(lines)
    if len(sys.argv) > 2:
        expected = open(sys.argv[2], encoding="utf-8").read().splitlines()
        assert expected
        for line in expected:
            assert line in have, f"missing: {line}"
    print(f"{len(families)} families, {parsed} samples")


main()
