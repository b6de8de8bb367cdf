#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# ./test --mutate-orders: builds the explorer's suites, and weakens each memory order under them (mutate_orders.py).
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh run test
launcher=()
command -v ccache >/dev/null 2>&1 && launcher=(-DCMAKE_C_COMPILER_LAUNCHER=ccache)
cmake --preset dev "${launcher[@]}" >/dev/null
cmake --build --preset dev -- --quiet explorer_suites
suites=()
for suite in build/dev/tests/explorer/test_explorer_*; do
    case "${suite##*_explorer_}" in
    engine | classics | structures | axioms) ;; # they test the explorer
    *) [ -f "$suite" ] && suites+=("$suite") ;;
    esac
done
exec scripts/mutate_orders.py "$@" "${suites[@]}"
