/* SPDX-License-Identifier: Apache-2.0 */
/*
 * resource/shutdown.h - what the files of a shutdown share.
 *
 *   shutdown.c         who leads and who follows; what comes out
 *   shutdown_run.c     the threads that run cleanups, and the leader that watches them
 *   shutdown_order.c   whose turn it is
 *   shutdown_sweep.c   whose turn it is when there is no memory for an array of all rows
 *   shutdown_report.c  reading and writing what happened
 */
#ifndef PNX_SRC_RESOURCE_SHUTDOWN_H
#define PNX_SRC_RESOURCE_SHUTDOWN_H

#include "registry/shutdown_state.h"

/* ---- shutdown_order.c ---- */

/*
 * Calls fn for every slot that was ever used, whatever its state, under its shard's lock.  Of each shard the last slot
 * comes first: so, mostly, do rows that were made last, and what is collected is nearly in order.
 */
void pnx__shutdown_each_slot(struct pnx_registry *registry,
        void (*fn)(void *ctx, struct pnx_row *row, uint64_t word), void *ctx);

#define PNX_SHUTDOWN_RANK_SHIFT \
    60 /* of the rank of its priority in a key; below it stands the age */

/* Whether there is time for one more of many steps: asked of each, by its number, and mostly cheap. */
bool pnx__shutdown_may_step(struct pnx_registry *registry, size_t step);

/* The place of a row in the order: the row with the smaller key comes first.  Under the shard's lock. */
uint64_t pnx__shutdown_key_locked(const struct pnx_row *row);

/*
 * Closes the registry, asks all rows to end, and makes members of them, or of the first when memory is short.  When time
 * is over before they are in order, none has a turn.
 */
void pnx__order_begin(struct pnx_registry *registry);

/* Puts into order what a shutdown had no time for: for its report, which is read as it is where there is no room. */
void pnx__order_complete(struct pnx_registry *registry);

/* Makes a member of a row; children are not known yet.  Under the shard's lock. */
void pnx__member_init_locked(
        struct pnx_shutdown_member *member, struct pnx_row *row, uint64_t word, uint64_t key);

/* Returns the member with the key; members are sorted by it. */
struct pnx_shutdown_member *pnx__member_find(const struct pnx_shutdown_state *state, uint64_t key);

/* Gives a member whose children are known its place. */
void pnx__member_admit_locked(struct pnx_registry *registry, struct pnx_shutdown_member *member);

/* Takes the member whose turn it is; NULL when there is none now. */
struct pnx_shutdown_member *pnx__order_take_locked(struct pnx_shutdown_state *state, pnx_ns now);

/* Whether there is one. */
bool pnx__order_has_turn_locked(const struct pnx_shutdown_state *state, pnx_ns now);

/* Gives it back: its turn is still to come. */
void pnx__order_untake_locked(struct pnx_shutdown_state *state, struct pnx_shutdown_member *member);

/* The member's row has ended: its parent may have its turn. */
void pnx__order_ended_locked(struct pnx_registry *registry, struct pnx_shutdown_member *member);

/* The member's cleanup has returned -EAGAIN.  Returns when it is tried again. */
pnx_ns pnx__order_again_locked(
        struct pnx_registry *registry, struct pnx_shutdown_member *member, pnx_ns now);

/* Somebody else ends the member, or has just done so, or it goes on without a thread. */
void pnx__order_elsewhere_locked(
        struct pnx_registry *registry, struct pnx_shutdown_member *member, pnx_ns now);

/*
 * Looks at what may have changed since seen was read from registry->changed.  Returns when to look again by
 * oneself: now for at once, PNX_NEVER.
 */
pnx_ns pnx__order_look_locked(struct pnx_registry *registry, uint32_t seen, pnx_ns now);

/* Notes in the row what became of its last try. */
void pnx__order_note(struct pnx_registry *registry, const struct pnx_shutdown_member *member,
        enum pnx_row_outcome outcome);

/* Returns the pause after so many tries: doubling, and random from a half to all of that. */
pnx_ns pnx__shutdown_pause_locked(struct pnx_shutdown_state *state, uint32_t tries, pnx_ns now);

/* ---- shutdown_sweep.c ---- */

/* Makes members of the next rows that are to have a turn.  Returns as pnx__order_look_locked(). */
pnx_ns pnx__sweep_locked(struct pnx_registry *registry, uint32_t seen, pnx_ns now);

/* Whether the rest of the window is given up, since it is the turn of rows of PNX_PRIORITY_LAST, which the next one has. */
bool pnx__sweep_is_over_locked(const struct pnx_shutdown_state *state, pnx_ns now);

/* ---- shutdown_run.c ---- */

/* Cleanups whose time is up since the last look, for events. */
struct pnx_shutdown_overdue {
    struct {
        struct pnx_row *row;
        pnx_resource_id id;
    } rows[PNX_SHUTDOWN_WORKERS];
    uint32_t n;
};

/* Runs cleanups until all rows have ended, or the deadline has come. */
void pnx__shutdown_run(struct pnx_registry *registry);

/* Nothing starts any more; notes which cleanups run on.  Called once. */
void pnx__shutdown_stop_locked(
        struct pnx_registry *registry, struct pnx_shutdown_overdue *ret_overdue);

/* Has those who lead or follow a shutdown that is in progress look again. */
void pnx__shutdown_stir(struct pnx_registry *registry);

void pnx__shutdown_tell_overdue(
        struct pnx_registry *registry, const struct pnx_shutdown_overdue *overdue);

#endif
