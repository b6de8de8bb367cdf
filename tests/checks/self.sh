#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# self.sh ROOT PYTHON - the checkers themselves can fail: each is shown a tree with one fault in it.
set -eu
root=$1 python=$2
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT INT TERM
fail() {
    echo "self: $1"
    exit 1
}

# Layers: a lower module that includes a higher one, and a sibling.
mkdir -p "$scratch/src/base" "$scratch/src/pool" "$scratch/include/patinox"
echo '#include "pool/pool.h"' >"$scratch/src/base/a.c"
"$python" "$root/scripts/check_layers.py" "$scratch" >"$scratch/out" && fail "layers: upward include passed"
grep -q 'src/base/a.c:1: base may not include pool/pool.h' "$scratch/out" || fail "layers: no message"
echo '#include "cache/cache.h"' >"$scratch/src/pool/b.c"
rm "$scratch/src/base/a.c"
"$python" "$root/scripts/check_layers.py" "$scratch" >"$scratch/out" && fail "layers: sibling include passed"
echo '#include "base/list.h"' >"$scratch/src/pool/b.c"
"$python" "$root/scripts/check_layers.py" "$scratch" || fail "layers: a downward include was refused"

# Promises: a test that did not run, one that failed, and an unexpected skip.
mkdir -p "$scratch/docs/promises" "$scratch/tests" "$scratch/build/results"
: >"$scratch/tests/expected-skips"
: >"$scratch/build/CTestTestfile.cmake"
printf 'id\tpromise\ttests\nP1\ta thing\ta.b.c\n' >"$scratch/docs/promises/x.tsv"
promises() { "$python" "$root/scripts/check_promises.py" "$scratch" "$scratch/build" >"$scratch/out"; }
printf 'a.b.d\tpass\t\n' >"$scratch/build/results/a.b"
promises && fail "promises: a test that did not run passed"
printf 'a.b.c\tfail\texit\n' >"$scratch/build/results/a.b"
promises && fail "promises: a failed test passed"
printf 'a.b.c\tpass\t\na.b.e\tskip\tno network\n' >"$scratch/build/results/a.b"
promises && fail "promises: an unexpected skip passed"
echo 'a.b.e no network' >"$scratch/tests/expected-skips"
promises || fail "promises: a good state was refused"
echo "the checkers can fail"
