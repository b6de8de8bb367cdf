/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cache/policies/auto_engine.h - one structure that behaves as FIFO, CLOCK, S3-FIFO or lazy TinyLFU, and changes between them.
 *
 * All keep entries in the same two queues, so a change of mode moves no entry:
 *
 *              where new ones go   what becomes of small's oldest            main's oldest goes unless
 *   FIFO       main                                                          -
 *   CLOCK      main                                                          hit: goes round, hits forgotten
 *   S3         small (10 %)        hit twice: to main, else gone             hit: goes round, with a hit less
 *   TINYLFU    small (1 %)         asked for more often than main's oldest:  hit: goes round, hits forgotten
 *                                  takes its place, else gone
 *
 * A FIFO that has lost the keys that are about to be asked for again takes those in a second time, and for them loses the ones that it still
 * has: it can stay so for ever.  While renew is not 0 it remembers what has gone from main, and puts what comes again into small.
 *
 * What is left in small after a change to FIFO or CLOCK goes first.  S3 sends what it has seen go from small, and is asked
 * for again, to main at once.  As long as nothing had to go, all modes put new entries into main: it fills as a
 * cache that starts cold should, and a loop that is larger than the cache then keeps what came first.
 *
 * Hits are read from slots' hit bytes when their turn comes; a sketch counts them, and inserts, for TINYLFU.
 *
 *   P1  weight[SMALL] + weight[MAIN] = the weight of all held slots.
 */
#ifndef PNX_SRC_CACHE_POLICIES_AUTO_ENGINE_H
#define PNX_SRC_CACHE_POLICIES_AUTO_ENGINE_H

#include "cache/policies/ghost_table.h"
#include "cache/policies/ring.h"
#include "cache/policies/sketch.h"

enum pnx__auto_mode { PNX__AUTO_FIFO, PNX__AUTO_CLOCK, PNX__AUTO_S3, PNX__AUTO_TINYLFU };
#define PNX__AUTO_MODES   4
#define PNX__AUTO_HIT_MAX 15u

enum { PNX__AUTO_SMALL, PNX__AUTO_MAIN };

struct pnx__auto_engine {
    const struct pnx_cache_slots *view;
    uint64_t capacity;
    uint64_t small_most;
    uint64_t weight[2];
    uint64_t random;
    uint32_t mode; /* enum pnx__auto_mode */
    uint32_t
            let_in; /* of so many that TINYLFU turns away one stays; 0: none but often asked ones */
    uint64_t renew; /* inserts, for which FIFO lets those go first that come again */
    bool full;      /* something had to go since the capacity last rose */
    bool has_ghost;
    bool has_sketch;
    struct pnx__rings rings;
    struct pnx__ghost_table ghost;
    struct pnx__sketch sketch;
};

/* Measures or places the tables; has_ghost and has_sketch say which there are (a mode that needs neither does without). */
void pnx__auto_engine_layout(struct pnx__auto_engine *engine, struct pnx__layout *layout,
        uint32_t slots, bool has_ghost, bool has_sketch);
/* Makes an empty one in tables that have been placed. */
void pnx__auto_engine_init(struct pnx__auto_engine *engine, const struct pnx_cache_slots *view,
        uint64_t capacity, uint64_t seed, uint32_t mode);
/* Makes the same in larger tables that have been placed, all but the view; map: see grow in patinox/cache_policy.h. */
void pnx__auto_engine_copy(
        struct pnx__auto_engine *engine, struct pnx__auto_engine *from, const uint32_t *map);

void pnx__auto_engine_set_mode(struct pnx__auto_engine *engine, uint32_t mode);
void pnx__auto_engine_resize(struct pnx__auto_engine *engine, uint64_t capacity);
void pnx__auto_engine_insert(struct pnx__auto_engine *engine, uint32_t slot);
void pnx__auto_engine_remove(struct pnx__auto_engine *engine, uint32_t slot);
void pnx__auto_engine_reweigh(struct pnx__auto_engine *engine, uint32_t slot, uint64_t from);
/* Chooses a slot for an entry of that weight, and forgets it; NO_SLOT when it holds none. */
uint32_t pnx__auto_engine_victim(struct pnx__auto_engine *engine, uint64_t weight);
uint32_t pnx__auto_engine_held(const struct pnx__auto_engine *engine);

/* Fetches what an insert with this hash will look at. */
void pnx__auto_engine_expect(const struct pnx__auto_engine *engine, uint32_t hash);

/* Returns what is broken, or NULL. */
const char *pnx__auto_engine_check(const struct pnx__auto_engine *engine, uint32_t held);

#endif
