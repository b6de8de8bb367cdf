#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# check_headers.sh ROOT CC CXX - each public header compiles alone, in C11, C++11 and C++20.
set -u
root=$1 cc=$2 cxx=$3 status=0
flags="-Wall -Wextra -Wpedantic -Wshadow -Wconversion -Werror -fsyntax-only -I$root/include"
for header in "$root"/include/patinox/*.h; do
    name=patinox/$(basename "$header")
    # Included twice: the guard works too.
    source="#include <$name>
#include <$name>"
    for mode in "$cc -x c -std=c11" "$cxx -x c++ -std=c++11" "$cxx -x c++ -std=c++20"; do
        # shellcheck disable=SC2086 # words wanted
        echo "$source" | $mode $flags - || { echo "$name: fails alone with $mode"; status=1; }
    done
done
exit $status
