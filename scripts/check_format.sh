#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# check_format.sh ROOT - every C and C++ file is as clang-format would write it, has an SPDX line, and
# is no longer than 1000 lines.
set -u
cd "$1" || exit 1
status=0
files=$(find include src tests examples bench fuzz tools verification -type f \
    \( -name '*.c' -o -name '*.h' -o -name '*.cc' -o -name '*.cpp' -o -name '*.inc' \) 2>/dev/null | grep -v '/target/')
# shellcheck disable=SC2086 # names without blanks
clang-format --dry-run --Werror $files || status=1
for file in $files $(find include src -name '*.def'); do
    head -1 "$file" | grep -q 'SPDX-License-Identifier: Apache-2.0' || { echo "$file: no SPDX line"; status=1; }
    lines=$(wc -l <"$file")
    [ "$lines" -le 1000 ] || { echo "$file: $lines lines; 1000 are allowed"; status=1; }
done
exit $status
