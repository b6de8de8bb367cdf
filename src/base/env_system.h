/* SPDX-License-Identifier: Apache-2.0 */
/* base/env_system.h - the system's environment; os implements it (os/env_system.c). */
#ifndef PNX_SRC_BASE_ENV_SYSTEM_H
#define PNX_SRC_BASE_ENV_SYSTEM_H

#include <patinox/base.h>

/* Returns the environment in which every member but log is set; static. */
const struct pnx_env *pnx__env_system(void);

#endif
