#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Runs the unit tests with gcov and fails below 95 % of lines or 90 % of branches of src/.
# Left out, with the reason:
#   lines marked "UNREACHABLE: why"       no test can reach them
#   src/pool/pool_core_check.c, src/registry/check.c   each branch is a broken invariant, which must never be; that
#       they fire is shown by breaking the code by hand
#   the shared SQLite adapter's objects   tests link the static one; of code that never ran gcov does not tell which
#       branches are exceptions, so that a second copy of base/options.c and others would bring them back
set -euo pipefail
cd "$(dirname "$0")/.."
cmake --preset coverage >/dev/null
cmake --build --preset coverage -- --quiet
find build/coverage -name '*.gcda' -delete
# Tests that measure memory, drop privileges or time a browser say nothing about coverage.
ctest --test-dir build/coverage -j "$(nproc)" -LE 'check|results' -E '^lookup\.(bad_input|soak|page)$' --output-on-failure |
    tail -3
# ignore-parse-errors: a child that ends, or a test that aborts, leaves calls of other threads open, of which gcov
# makes counts below zero; such lines are left out.
gcovr --root . --filter 'src/' --gcov-ignore-parse-errors \
    --exclude 'src/(pool/pool_core_check|registry/check)\.c' --exclude-directories '.*/patinox_sqlite_shared\.dir' \
    --exclude-lines-by-pattern '.*UNREACHABLE.*' \
    --exclude-throw-branches --exclude-branches-by-pattern '.*(UNREACHABLE|assert).*' --exclude-unreachable-branches \
    --sort-percentage --print-summary --fail-under-line "${PNX_COVER_LINES:-95}" \
    --fail-under-branch "${PNX_COVER_BRANCHES:-90}" build/coverage
