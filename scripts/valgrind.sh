#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# valgrind.sh [PROGRAM...] - runs each unit test program of build/dev, or those named, under valgrind's memcheck.
# Part of ./test --long.
# Leaks are LeakSanitizer's and the tests' own business: to valgrind, what the threads of a parent owned is lost in
# each forked child.
# Of the explorer's programs only the quick ones are run: all would take two hours, in which memory that was freed and
# plain accesses are the explorer's own to judge, and test_explorer_engine crashes on purpose.  Their stacks lie so close
# together that going from one to the next looks like a large frame (--max-stackframe).
# Where a load faults and is repeated once its page was replaced, all registers have to be as the program left them, and
# a load whose value nobody uses has to be done: by default valgrind keeps few registers up to date, and drops such loads.
set -euo pipefail
cd "$(dirname "$0")/.."
status=0
if [ $# -eq 0 ]; then
    set -- build/dev/tests/test_* build/dev/tests/*/test_*
fi
for program in "$@"; do
    frame=2000000
    registers=unwindregs-at-mem-access # the default
    case "$program" in
    */test_explorer_classics | */test_explorer_stats | */test_explorer_structures | */test_explorer_traces) frame=16384 ;;
    */test_explorer_*) continue ;;
    */test_mapping_*) registers=allregs-at-each-insn ;;
    esac
    if [ -f "$program" ] && [ -x "$program" ]; then
        echo "valgrind: $program"
        PNX_TEST_SLOW=20 PNX_TEST_RESULTS='' PNX_SOURCE_DIR="$PWD" PNX_BINARY_DIR="$PWD/build/dev" \
            valgrind -q --error-exitcode=9 --leak-check=no --suppressions=scripts/valgrind.supp \
            --max-stackframe="$frame" --vex-iropt-register-updates="$registers" \
            --trace-children=yes --trace-children-skip='/bin/*,/usr/bin/*' --fair-sched=yes \
            "$program" >build/dev/valgrind.log 2>&1 || {
            status=1
            grep -E '^(FAIL|==|[^ok])' build/dev/valgrind.log | sed -n '1,60p'
        }
    fi
done
exit $status
