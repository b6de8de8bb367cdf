/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pool/inbox.c - where callbacks of requests wait for an event loop.
 *
 *   I1  The descriptor is readable while callbacks wait: whoever puts the first one sets it afterwards; a dispatch clears it
 *       before it looks what there is, and sets it if it leaves something.
 *   I2  A dispatch takes what waits at its beginning; what its callbacks bring about is for the next one.
 *   I3  A release waits for those who have put something and are about to set the descriptor.
 */
#include "pool/inbox.h"

#include "base/env.h"
#include "base/error.h"
#include "os/file.h"
#include "os/futex.h"
#include "os/mutex.h"
#include "os/notify.h"
#include "os/thread.h"
#include "pool/pool.h"

#include <errno.h>

struct pnx_inbox {
    struct pnx_env env; /* fixed */
    int fd;             /* fixed */
    struct pnx_mutex lock;
    struct pnx_link *first; /* lock: linked by next */
    struct pnx_link *last;  /* lock */
    bool busy;              /* lock: a dispatch runs */
    struct pnx_a32 users;   /* how many are inside put; RELEASING.  A futex */
};

#define RELEASING UINT32_C(0x80000000)

int pnx_inbox_create(
        const struct pnx_env *env, struct pnx_error *err, struct pnx_inbox **ret_inbox) {
    struct pnx_env resolved;
    if (!ret_inbox)
        return pnx__fail_field(err, -EINVAL, "ret_inbox", "inbox: ret_inbox is NULL");
    int rc = pnx__env_resolve(env, err, &resolved);
    if (rc)
        return rc;
    struct pnx_inbox *inbox = pnx__alloc(&resolved, 1, sizeof(*inbox));
    if (!inbox)
        return pnx__fail(err, -ENOMEM, 0, "create", "inbox: no memory");
    inbox->env = resolved;
    inbox->fd = pnx__eventfd_open();
    if (inbox->fd < 0) {
        rc = inbox->fd;
        pnx__free(&resolved, inbox, 1, sizeof(*inbox));
        return pnx__fail(err, rc, 0, "create", "inbox: no event descriptor");
    }
    pnx__mutex_init(&inbox->lock, PNX_RANK_INBOX);
    *ret_inbox = inbox;
    return 0;
}

int pnx_inbox_fd(const struct pnx_inbox *inbox) {
    return inbox ? inbox->fd : -1;
}

void pnx__inbox_put(struct pnx_inbox *inbox, struct pnx_link *link) {
    link->next = NULL;
    /* before the link can be taken, and the inbox released; the lock orders it */
    pnx_fetch_add(&inbox->users, 1, PNX_RELAXED, "inbox.enter");
    pnx__mutex_lock(&inbox->lock);
    bool was_empty = !inbox->first;
    if (was_empty)
        inbox->first = link;
    else
        inbox->last->next = link;
    inbox->last = link;
    pnx__mutex_unlock(&inbox->lock);
    if (was_empty)
        pnx__eventfd_set(inbox->fd);
    /* pairs with inbox.releasing and inbox.left; woken by address, since the inbox may be gone */
    if (pnx_fetch_sub(&inbox->users, 1, PNX_RELEASE, "inbox.leave") == (RELEASING | 1))
        pnx__futex_wake(&inbox->users, 1);
}

/* Takes the first one, unless it is past the last that is meant. */
static struct pnx_link *take(struct pnx_inbox *inbox, uint32_t *left) {
    pnx__mutex_lock(&inbox->lock);
    struct pnx_link *link = *left > 0 ? inbox->first : NULL;
    if (link) {
        inbox->first = link->next;
        link->next = NULL;
        (*left)--;
    }
    pnx__mutex_unlock(&inbox->lock);
    return link;
}

/* How many a dispatch is to take; -EDEADLK while another one runs. */
static int begin_dispatch(struct pnx_inbox *inbox, uint32_t max, uint32_t *ret_n) {
    uint32_t n = 0;
    pnx__mutex_lock(&inbox->lock);
    bool busy = inbox->busy;
    inbox->busy = true;
    for (struct pnx_link *link = inbox->first; link && (max == 0 || n < max); link = link->next)
        n++;
    pnx__mutex_unlock(&inbox->lock);
    *ret_n = n;
    return busy ? -EDEADLK : 0;
}

int pnx_inbox_dispatch(struct pnx_inbox *inbox, uint32_t max) {
    uint32_t n;
    if (!inbox)
        return -EINVAL;
    if (pnx__self() && pnx__self()->pool_delivery)
        return -EDEADLK; /* callbacks do not nest */
    pnx__eventfd_clear(inbox->fd);
    int rc = begin_dispatch(inbox, max, &n);
    if (rc)
        return rc;
    struct pnx_link *link;
    for (uint32_t left = n; (link = take(inbox, &left));)
        pnx__pool_run_link(link);
    pnx__mutex_lock(&inbox->lock);
    inbox->busy = false;
    bool more = inbox->first != NULL;
    pnx__mutex_unlock(&inbox->lock);
    if (more)
        pnx__eventfd_set(inbox->fd);
    return n < INT32_MAX ? (int)n : INT32_MAX;
}

void pnx_inbox_release(struct pnx_inbox **inbox) {
    if (!inbox || !*inbox)
        return;
    struct pnx_inbox *old = *inbox;
    struct pnx_env env = old->env;
    *inbox = NULL;
    /* pairs with inbox.leave */
    uint32_t users =
            pnx_fetch_or(&old->users, RELEASING, PNX_ACQUIRE, "inbox.releasing") | RELEASING;
    while (users != RELEASING) {
        pnx__futex_wait(&old->users, users, PNX_NEVER);
        users = pnx_load(&old->users, PNX_ACQUIRE, "inbox.left"); /* the same */
    }
    pnx__eventfd_close(&old->fd);
    pnx__mutex_destroy(&old->lock);
    pnx__free(&env, old, 1, sizeof(*old));
}
