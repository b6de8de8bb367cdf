#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# setup.sh GROUP... - installs the missing Debian packages of the groups (scripts/packages.txt).
set -eu
root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)

command -v dpkg-query >/dev/null 2>&1 || {
    echo "setup: this is not Debian: install yourself what scripts/packages.txt names ($*)" >&2
    exit 0
}

missing=""
for group in "$@"; do
    # shellcheck disable=SC2013 # one word a package
    for package in $(awk -v g="$group" '!/^#/ && $2 == g {print $1}' "$root/scripts/packages.txt"); do
        status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
        [ "$status" = installed ] || missing="$missing $package"
    done
done
[ -n "$missing" ] || exit 0

echo "setup: installing$missing"
sudo=""
if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null 2>&1 || {
        echo "setup: these packages are missing, and there is neither root nor sudo to install them:$missing" >&2
        exit 1
    }
    sudo=sudo
fi
$sudo apt-get update -qq
# env, since sudo does not hand on the environment.
# shellcheck disable=SC2086 # one word per package
$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
