#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# exits.sh ROOT PYTHON LIBRARY - the table of exits in patinox/guard.h is what came of trying; and the check of it
# can fail.
set -eu
root=$1 python=$2 library=$3
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT INT TERM
fail() {
    echo "exits: $1"
    exit 1
}
exits() { "$python" "$root/scripts/exits.py" "$@" "$root" "$library"; }

exits --save "$scratch/found"
sed -n '/-- the table/,/-- end/p' "$root/include/patinox/guard.h"

# A cell that claims more.
again() { exits --load "$scratch/$1" --header "$scratch/guard.h" >"$scratch/out"; }
sed 's/^\( \*   longjmp past it *\)no  /\1runs/' "$root/include/patinox/guard.h" >"$scratch/guard.h"
again found && fail "a header that says something else passed"
grep -q 'longjmp past it' "$scratch/out" || fail "no message names the row"
# A compiler that has changed.
cp "$root/include/patinox/guard.h" "$scratch"
again found || fail "a good state was refused"
sed '0,/"pthread_exit": "no"/s//"pthread_exit": "runs"/' "$scratch/found" >"$scratch/changed"
again changed && fail "a compiler that does something else passed"
# No table at all.
sed -i '/-- the table/d' "$scratch/guard.h"
again found && fail "a header without the table passed"
# A tool that does not run.
exits --only gcc -D BROKEN >"$scratch/out" && fail "a PNX_DEFER that is not there passed"
grep -q 'defer 0' "$scratch/out" || fail "no message names the tool that did not run"
exit 0
