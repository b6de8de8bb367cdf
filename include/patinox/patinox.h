/* SPDX-License-Identifier: Apache-2.0 */
/* patinox/patinox.h - every header of the core library.  Adapters have headers of their own. */
#ifndef PNX_PATINOX_H
#define PNX_PATINOX_H

#include <patinox/base.h>
#include <patinox/budget.h>
#include <patinox/cache.h>
#include <patinox/cache_policy.h>
#include <patinox/cmap.h>
#include <patinox/config.h>
#include <patinox/error.h>
#include <patinox/executor.h>
#include <patinox/fault.h>
#include <patinox/guard.h>
#include <patinox/leaks.h>
#include <patinox/mapping.h>
#include <patinox/mapping_windows.h>
#include <patinox/pool.h>
#include <patinox/pool_group.h>
#include <patinox/query.h>
#include <patinox/rc.h>
#include <patinox/reclaim.h>
#include <patinox/registry.h>
#include <patinox/rwdata.h>
#include <patinox/shutdown.h>
#include <patinox/snapshot.h>
#include <patinox/stats.h>
#include <patinox/trace.h>
#include <patinox/watch.h>

#endif /* PNX_PATINOX_H */
