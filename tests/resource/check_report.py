#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""check_report.py FILE - a shutdown's report as JSON: that it is valid, and that its parts agree with each other."""
import collections
import json
import sys

OUTCOMES = ("done", "failed", "abandoned", "leaked", "suppressed")
ORDER = ("abandoned", "leaked", "failed", "suppressed", "done")
GROUP = {"outcome", "type", "site", "count", "bytes", "oldest_ns", "code", "error"}
ROW = {"id", "parent", "outcome", "type", "name", "site", "owner", "tag", "bytes", "age_ns", "code", "error"}


def no_duplicates(pairs):
    names = [name for name, _ in pairs]
    assert len(names) == len(set(names)), f"twice the same name: {names}"
    return dict(pairs)


def main():
    with open(sys.argv[1], encoding="utf-8", errors="strict") as file:
        report = json.load(file, object_pairs_hook=no_duplicates)
    assert set(report) == {"registry", "code", "error", "took_ns", "unreclaimed", "groups", "resources", *OUTCOMES}
    rows, groups = report["resources"], report["groups"]
    assert sum(report[outcome] for outcome in OUTCOMES) == len(rows)
    found = collections.defaultdict(lambda: [0, 0, 0])
    for row in rows:
        assert set(row) == ROW
        assert row["id"].startswith("0x") and (row["parent"] is None or row["parent"].startswith("0x"))
        assert (row["code"] == 0) == (row["error"] is None) == (row["outcome"] != "failed")
        group = found[row["outcome"], row["type"], row["site"], row["code"]]
        group[0] += 1
        group[1] += row["bytes"]
        group[2] = max(group[2], row["age_ns"])
    for outcome in OUTCOMES:
        assert report[outcome] == sum(row["outcome"] == outcome for row in rows)
    assert len(rows) == len({row["id"] for row in rows})
    keys = []
    for group in groups:
        assert set(group) == GROUP
        key = group["outcome"], group["type"], group["site"], group["code"]
        assert found.pop(key) == [group["count"], group["bytes"], group["oldest_ns"]]
        keys.append((ORDER.index(key[0]), key[1].encode(), key[2].encode(), key[3]))
    assert not found, f"no group: {found}"
    assert keys == sorted(keys), "what needs attention comes first"


if __name__ == "__main__":
    main()
