#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# check_tidy.sh ROOT BUILD - clang-tidy over the library and the programs, with the checks of .clang-tidy.
set -eu
cd "$1"
files=$(find src examples tools -name '*.c' 2>/dev/null | sort)
# shellcheck disable=SC2086 # names without blanks
printf '%s\n' $files | xargs -P "$(nproc)" -n 4 clang-tidy --quiet -p "$2" >"$2/tidy.log" 2>/dev/null || {
    grep -E '(warning|error):' -A3 "$2/tidy.log" | head -200
    exit 1
}
echo "clang-tidy: $(printf '%s\n' $files | wc -l) files are clean"
