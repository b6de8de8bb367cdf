/* SPDX-License-Identifier: Apache-2.0 */
/* pool/inbox.h - where callbacks of requests wait for an event loop: what pool_request.c uses of inbox.c. */
#ifndef PNX_SRC_POOL_INBOX_H
#define PNX_SRC_POOL_INBOX_H

#include "base/list.h"

struct pnx_inbox;

/* Adds one at the end, and makes the descriptor readable.  No lock held. */
void pnx__inbox_put(struct pnx_inbox *inbox, struct pnx_link *link);

#endif
