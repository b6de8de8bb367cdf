#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""merge_tests.py OUT NAME=BUILD[:-LABEL]... - writes a CTestTestfile.cmake that holds the tests of several builds.

Tests of the first build keep their names; those of the others get "NAME:" in front.  So one run of ctest, with
one summary, covers all builds.  With :-LABEL, once or several times, tests that carry
such a label are left out of that build.
"""
import json
import subprocess
import sys


def quote(text):
    level = 0
    while "]" + "=" * level + "]" in text:
        level += 1
    return "[" + "=" * level + "[" + text + "]" + "=" * level + "]"


def tests_of(build):
    out = subprocess.run(["ctest", "--test-dir", build, "--show-only=json-v1"],
                         check=True, capture_output=True, text=True)
    return json.loads(out.stdout)["tests"]


def property_text(name, value, prefix):
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, list):
        if name in ("DEPENDS",) or name.startswith("FIXTURES"):
            value = [prefix + item for item in value]
        return ";".join(str(item) for item in value)
    return str(value)


def main(out, builds):
    lines = []
    for position, build in enumerate(builds):
        name, _, rest = build.partition("=")
        path, *without = rest.split(":-")
        prefix = "" if position == 0 else name + ":"
        for test in tests_of(path):
            properties = {item["name"]: item["value"] for item in test.get("properties", [])}
            if set(without) & set(properties.get("LABELS", [])):
                continue
            title = quote(prefix + test["name"])
            lines.append(f"add_test({title} {' '.join(quote(word) for word in test['command'])})")
            pairs = " ".join(f"{key} {quote(property_text(key, value, prefix))}"
                             for key, value in properties.items() if not key.startswith("_"))
            lines.append(f"set_tests_properties({title} PROPERTIES {pairs})" if pairs else "")
    with open(out, "w", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
