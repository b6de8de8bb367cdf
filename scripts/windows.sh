#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# windows.sh [CTEST-ARGUMENT...] - builds the library and its tests for Windows, and runs the tests under Wine.
# Ends with ctest's summary; check.windows holds every skip against tests/windows (docs/design/windows.md).
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root"
scripts/setup.sh run windows

launcher=""
command -v ccache >/dev/null 2>&1 && launcher="-DCMAKE_C_COMPILER_LAUNCHER=ccache -DCMAKE_CXX_COMPILER_LAUNCHER=ccache"
echo "test: building mingw"
# shellcheck disable=SC2086 # empty when there is no ccache
cmake --preset mingw $launcher >/dev/null
cmake --build --preset mingw -- --quiet

# A Windows of our own, without what asks or tells people.  Its server stays until the tests are over, and no pipe to
# whoever reads our output may be left with it.
WINEPREFIX=$(mktemp -d "${TMPDIR:-/tmp}/pnx-wine-XXXXXX")
export WINEPREFIX WINEDEBUG="${WINEDEBUG:--all}"
export WINEDLLOVERRIDES="mscoree=d;mshtml=d;winemenubuilder.exe=d;winedbg.exe=d"
server=/usr/lib/wine/wineserver64
[ -x "$server" ] || server=wineserver
leave() {
    "$server" -k >/dev/null 2>&1 || true
    "$server" -w >/dev/null 2>&1 || true
    rm -rf "$WINEPREFIX"
}
trap leave EXIT
"$server" -p >/dev/null 2>&1 </dev/null
echo "test: preparing Wine"
wineboot -i >/dev/null 2>&1 </dev/null

export PNX_TEST_LONG=0 PNX_TEST_SLOW=1 # system calls are slower: fewer rounds, more time
rm -rf build/mingw/results
mkdir -p build/mingw/results
echo "test: running"
ctest --test-dir build/mingw --output-on-failure -j "$(nproc)" "$@"
