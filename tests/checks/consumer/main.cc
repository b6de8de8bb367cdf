// SPDX-License-Identifier: Apache-2.0
// A user's program in C++.
#include <patinox/patinox.h>

#include <cstdio>

int main() {
    std::printf("patinox %s from C++: %s\n", pnx_version(), pnx_errname(PNX_E_SHARED));
    return pnx_shutdown(PNX_SEC, nullptr) == 0 ? 0 : 1;
}
