/* SPDX-License-Identifier: Apache-2.0 */
/* base/version.c - the version as a string. */
#include <patinox/base.h>

const char *pnx_version(void) {
    return PNX_STRINGIFY(PNX_VERSION_MAJOR) "." PNX_STRINGIFY(PNX_VERSION_MINOR) "." PNX_STRINGIFY(
            PNX_VERSION_PATCH);
}
