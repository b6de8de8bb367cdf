# SPDX-License-Identifier: Apache-2.0
# Installation: headers, libraries, find_package(Patinox) and pkg-config patinox.
