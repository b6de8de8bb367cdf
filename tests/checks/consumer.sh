#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# consumer.sh BUILD CMAKE RELEASE - installs BUILD into a scratch prefix and builds a user's program against it, by
# find_package and by pkg-config, in C and in C++, shared and static; runs each.  Then links the static library of
# the build RELEASE, if it is there (./test makes it), without LTO, as another compiler would.
set -eu
build=$1 cmake=$2 release=$3
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT INT TERM

"$cmake" --install "$build" --prefix "$scratch/prefix" >/dev/null

for kind in shared static; do
    "$cmake" -S "$here/consumer" -B "$scratch/$kind" -DCMAKE_PREFIX_PATH="$scratch/prefix" \
        -DCONSUMER_KIND=$kind >/dev/null
    "$cmake" --build "$scratch/$kind" >/dev/null
    "$scratch/$kind/consumer_c"
    "$scratch/$kind/consumer_cxx"
    "$scratch/$kind/consumer_sqlite"
done

libdir=$(dirname "$(find "$scratch/prefix" -name patinox.pc)")
PKG_CONFIG_PATH=$libdir
export PKG_CONFIG_PATH
# shellcheck disable=SC2046 # words wanted
cc -Wall -Wextra -Werror "$here/consumer/main.c" -o "$scratch/by_pkg_config" $(pkg-config --cflags --libs patinox)
said=$(LD_LIBRARY_PATH=$(pkg-config --variable=libdir patinox) "$scratch/by_pkg_config")
# shellcheck disable=SC2046 # words wanted
cc -Wall -Wextra -Werror "$here/consumer/sqlite.c" -o "$scratch/sqlite_by_pkg_config" \
    $(pkg-config --cflags --libs patinox-sqlite)
LD_LIBRARY_PATH=$(pkg-config --variable=libdir patinox) "$scratch/sqlite_by_pkg_config"
version=$(pkg-config --modversion patinox)
echo "pkg-config patinox $version; the program says: $said"
case $said in
*" $version "*) ;; # the version of the header is that of the build
*) exit 1 ;;
esac

if [ -f "$release/src/libpatinox.a" ]; then
    cc -fno-lto -fno-use-linker-plugin -Wall -Wextra -Werror -I"$here/../../include" "$here/consumer/main.c" \
        "$release/src/libpatinox.a" -pthread -o "$scratch/without_lto"
    "$scratch/without_lto"
fi
