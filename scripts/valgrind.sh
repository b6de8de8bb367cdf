#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Runs each unit test program of build/dev under valgrind's memcheck.  Part of ./test --long.
# Leaks are LeakSanitizer's and the tests' own business: to valgrind, what the threads of a parent owned is lost in
# each forked child.
set -euo pipefail
cd "$(dirname "$0")/.."
status=0
for program in build/dev/tests/test_* build/dev/tests/*/test_*; do
    if [ -f "$program" ] && [ -x "$program" ]; then
        echo "valgrind: $program"
        PNX_TEST_SLOW=20 PNX_TEST_RESULTS='' PNX_SOURCE_DIR="$PWD" PNX_BINARY_DIR="$PWD/build/dev" \
            valgrind -q --error-exitcode=9 --leak-check=no --suppressions=scripts/valgrind.supp \
            --trace-children=yes --trace-children-skip='/bin/*,/usr/bin/*' --fair-sched=yes \
            "$program" >build/dev/valgrind.log 2>&1 || {
            status=1
            grep -E '^(FAIL|==|[^ok])' build/dev/valgrind.log | sed -n '1,60p'
        }
    fi
done
exit $status
