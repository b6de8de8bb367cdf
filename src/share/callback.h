/* SPDX-License-Identifier: Apache-2.0 */
/* share/callback.h - what a user's function returned, as an error of ours; and whether one is running. */
#ifndef PNX_SRC_SHARE_CALLBACK_H
#define PNX_SRC_SHARE_CALLBACK_H

#include "base/error.h"
#include "os/thread.h"
#include "share/reclaim.h"

#include <string.h>

/*
 * Whether the calling thread is inside a function of the user's for which other threads may be waiting, or inside a section:
 * then it must not wait for another such function.  Cleanups of a registry do not count: they end things for good, and
 * have to wait for that.
 */
static inline bool pnx__inside_callback(void) {
    const struct pnx_thread *self = PNX_SELF;
    if (!self)
        return false;
    return self->watch_depth || self->latches || self->monitor_depth || self->rc_dropping ||
           self->reclaim_depth || self->reclaim_calls || self->pool_calls || self->calls ||
           pnx__reclaim_in_any();
}

/* 0 or negative, whatever a callback returns: a positive value is its mistake. */
static inline int pnx__callback_code(int returned) {
    return returned > 0 ? -EINVAL : returned;
}

/*
 * Fills err after a callback has returned code < 0: its own message, if it left one in said, else the code's
 * text; prefix and ": " stand before it.  Returns code.
 */
static inline int pnx__callback_fail(struct pnx_error *err, int code, const struct pnx_error *said,
        const char *phase, const char *prefix) {
    const char *message = said && said->message[0] ? said->message : pnx_strerror(code);
    pnx__fail(
            err, code, said && said->cause ? said->cause : code, phase, "%s: %s", prefix, message);
    if (err && said)
        err->field = said->field;
    return code;
}

#endif
