#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Runs the unit tests with gcov and fails below 95 % of lines or 90 % of branches of src/.
# Lines that no test can reach carry "UNREACHABLE: why" and are left out.
set -euo pipefail
cd "$(dirname "$0")/.."
cmake --preset coverage >/dev/null
cmake --build --preset coverage -- --quiet
find build/coverage -name '*.gcda' -delete
ctest --test-dir build/coverage -j "$(nproc)" -LE check --output-on-failure | tail -3
gcovr --root . --filter 'src/' --exclude-lines-by-pattern '.*UNREACHABLE.*' \
    --exclude-branches-by-pattern '.*(UNREACHABLE|assert).*' --exclude-unreachable-branches \
    --sort-percentage --print-summary --fail-under-line "${PNX_COVER_LINES:-95}" \
    --fail-under-branch "${PNX_COVER_BRANCHES:-90}" build/coverage
