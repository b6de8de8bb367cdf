/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_classics.c - the explorer finds what is known to be wrong, and exhausts what is known to be right.
 *
 * Most come in variants: the state begins with the variant's number, and an order that a variant takes away is
 * done by another operation, since a site has one order.
 */
#include "explorer/explorer.h"

/* One operation in two strengths, chosen by a variant. */
#define STORE(word, value, strong, site) \
    ((strong) ? pnx_store(word, value, PNX_RELEASE, site ".release") \
              : pnx_store(word, value, PNX_RELAXED, site ".relaxed"))
#define LOAD(word, strong, site) \
    ((strong) ? pnx_load(word, PNX_ACQUIRE, site ".acquire") \
              : pnx_load(word, PNX_RELAXED, site ".relaxed"))

/* Message passing (MP). */

enum {
    MP_RIGHT,
    MP_RELAXED_STORE,
    MP_RELAXED_LOAD,
    MP_FENCES,
    MP_NO_RELEASE_FENCE,
    MP_NO_ACQUIRE_FENCE
};
struct mp {
    int variant;
    struct pnx_a32 flag;
    struct x_cell data;
};

static void mp_write(void *state) {
    struct mp *mp = state;
    x_cell_write(&mp->data, 42);
    if (mp->variant == MP_FENCES || mp->variant == MP_NO_ACQUIRE_FENCE)
        pnx_fence(PNX_RELEASE, "classics.mp_release_fence");
    STORE(&mp->flag, 1, mp->variant == MP_RIGHT || mp->variant == MP_RELAXED_LOAD,
            "classics.mp_store");
}

static void mp_read(void *state) {
    struct mp *mp = state;
    if (!LOAD(&mp->flag, mp->variant == MP_RIGHT || mp->variant == MP_RELAXED_STORE,
                "classics.mp_load"))
        return;
    if (mp->variant == MP_FENCES || mp->variant == MP_NO_RELEASE_FENCE)
        pnx_fence(PNX_ACQUIRE, "classics.mp_acquire_fence");
    CHECK_EQ(x_cell_read(&mp->data), 42);
}

#define VARIANT(name, type, number) \
    static void name(void *state) { \
        ((struct type *)state)->variant = number; \
    }
VARIANT(mp_relaxed_store, mp, MP_RELAXED_STORE)
VARIANT(mp_relaxed_load, mp, MP_RELAXED_LOAD)
VARIANT(mp_fences, mp, MP_FENCES)
VARIANT(mp_no_release_fence, mp, MP_NO_RELEASE_FENCE)
VARIANT(mp_no_acquire_fence, mp, MP_NO_ACQUIRE_FENCE)

#define MP(text, set, least) \
    (&(struct x_test){.name = text, \
            .size = sizeof(struct mp), \
            .setup = set, \
            .thread = {mp_write, mp_read, mp_read}, \
            .floor = least})

TEST(message_passing_by_release_and_acquire_or_by_fences_is_right) {
    x_explore(MP("mp", NULL, 10));
    x_explore(MP("mp-fences", mp_fences, 10));
}

TEST(message_passing_with_any_order_taken_away_races) {
    x_refute(MP("mp-relaxed-store", mp_relaxed_store, 0), X_RACE);
    x_refute(MP("mp-relaxed-load", mp_relaxed_load, 0), X_RACE);
    x_refute(MP("mp-no-release-fence", mp_no_release_fence, 0), X_RACE);
    x_refute(MP("mp-no-acquire-fence", mp_no_acquire_fence, 0), X_RACE);
}

/* Store buffering (SB), which is also Dekker's way in, and load buffering (LB). */

enum { SB_PLAIN, SB_FENCES, SB_ACQ_REL_FENCES, SB_EXCHANGE, SB_RMW_BOTH, SB_ONE_FENCE };
struct sb {
    int variant;
    struct pnx_a32 flag[2];
    struct x_cell seen[2];
    struct x_cell inside; /* only who saw the other's flag down may touch it */
};
VARIANT(sb_fences, sb, SB_FENCES)
VARIANT(sb_acq_rel_fences, sb, SB_ACQ_REL_FENCES)
VARIANT(sb_exchange, sb, SB_EXCHANGE)
VARIANT(sb_rmw_both, sb, SB_RMW_BOTH)
VARIANT(sb_one_fence, sb, SB_ONE_FENCE)

static void sb_run(struct sb *sb, unsigned me) {
    if (sb->variant == SB_EXCHANGE || sb->variant == SB_RMW_BOTH)
        pnx_exchange(&sb->flag[me], 1, PNX_SEQ_CST, "classics.sb_exchange");
    else
        pnx_store(&sb->flag[me], 1, PNX_RELEASE, "classics.sb_store");
    if (sb->variant == SB_FENCES || (sb->variant == SB_ONE_FENCE && me == 0))
        pnx_fence(PNX_SEQ_CST, "classics.sb_fence");
    if (sb->variant == SB_ACQ_REL_FENCES)
        pnx_fence(PNX_ACQ_REL, "classics.sb_weak_fence");
    uint32_t other = sb->variant == SB_RMW_BOTH
                             ? pnx_fetch_add(&sb->flag[1 - me], 0, PNX_SEQ_CST, "classics.sb_add")
                             : pnx_load(&sb->flag[1 - me], PNX_ACQUIRE, "classics.sb_load");
    x_cell_write(&sb->seen[me], other);
}
static void sb_0(void *state) {
    sb_run(state, 0);
}
static void sb_1(void *state) {
    sb_run(state, 1);
}
static void sb_final(void *state) {
    struct sb *sb = state;
    CHECK(x_cell_read(&sb->seen[0]) || x_cell_read(&sb->seen[1]));
}
#define SB(text, set) \
    (&(struct x_test){.name = text, \
            .size = sizeof(struct sb), \
            .setup = set, \
            .thread = {sb_0, sb_1}, \
            .final = sb_final, \
            .floor = 4})

TEST(stores_are_buffered_unless_seq_cst_fences_stand_on_both_sides) {
    x_explore(SB("sb-fences", sb_fences));
    x_explore(SB("sb-rmw-both", sb_rmw_both));
    x_refute(SB("sb", NULL), X_ASSERTION);
    x_refute(SB("sb-acq-rel-fences", sb_acq_rel_fences), X_ASSERTION);
    x_refute(SB("sb-one-fence", sb_one_fence), X_ASSERTION);
}

/* Not what x86 does, but what RC11 allows and AArch64 does: README.md, "seq_cst". */
TEST(a_seq_cst_exchange_is_no_fence_for_the_load_after_it) {
    x_refute(SB("sb-exchange", sb_exchange), X_ASSERTION);
}

static void lb_0(void *state) {
    struct sb *sb = state;
    x_cell_write(&sb->seen[0], pnx_load(&sb->flag[0], PNX_RELAXED, "classics.lb_load0"));
    pnx_store(&sb->flag[1], 1, PNX_RELAXED, "classics.lb_store1");
}
static void lb_1(void *state) {
    struct sb *sb = state;
    x_cell_write(&sb->seen[1], pnx_load(&sb->flag[1], PNX_RELAXED, "classics.lb_load1"));
    pnx_store(&sb->flag[0], 1, PNX_RELAXED, "classics.lb_store0");
}
static void lb_final(void *state) {
    struct sb *sb = state;
    CHECK(!x_cell_read(&sb->seen[0]) || !x_cell_read(&sb->seen[1]));
}

/* The standard allows it with relaxed operations: a limit of the explorer, stated in README.md. */
TEST(load_buffering_is_not_shown) {
    x_explore(&(struct x_test){.name = "lb",
            .size = sizeof(struct sb),
            .thread = {lb_0, lb_1},
            .final = lb_final,
            .floor = 5});
}

/* Peterson's lock (1981). */

enum {
    PETERSON_FENCES,
    PETERSON_EXCHANGE,
    PETERSON_ONE_FENCE,
    PETERSON_NO_FENCE,
    PETERSON_RELAXED_UNLOCK
};
struct peterson {
    int variant;
    struct pnx_a32 flag[2];
    struct pnx_a32 turn;
    struct x_cell inside;
};
VARIANT(peterson_exchange, peterson, PETERSON_EXCHANGE)
VARIANT(peterson_one_fence, peterson, PETERSON_ONE_FENCE)
VARIANT(peterson_no_fence, peterson, PETERSON_NO_FENCE)
VARIANT(peterson_relaxed_unlock, peterson, PETERSON_RELAXED_UNLOCK)

static void peterson_run(struct peterson *p, uint32_t me) {
    uint32_t other = 1 - me;
    pnx_store(&p->flag[me], 1, PNX_RELAXED, "classics.peterson_flag");
    if (p->variant == PETERSON_FENCES || p->variant == PETERSON_RELAXED_UNLOCK)
        pnx_fence(PNX_SEQ_CST, "classics.peterson_fence1");
    if (p->variant == PETERSON_EXCHANGE)
        pnx_exchange(&p->turn, other, PNX_ACQ_REL, "classics.peterson_exchange");
    else
        pnx_store(&p->turn, other, PNX_RELAXED, "classics.peterson_turn");
    if (p->variant != PETERSON_EXCHANGE && p->variant != PETERSON_NO_FENCE)
        pnx_fence(PNX_SEQ_CST, "classics.peterson_fence2");
    while (pnx_load(&p->flag[other], PNX_ACQUIRE, "classics.peterson_look") &&
            pnx_load(&p->turn, PNX_RELAXED, "classics.peterson_mine") == other)
        pnx__spin_hint();
    x_cell_write(&p->inside, x_cell_read(&p->inside) + 1);
    STORE(&p->flag[me], 0, p->variant != PETERSON_RELAXED_UNLOCK, "classics.peterson_unlock");
}
static void peterson_0(void *state) {
    peterson_run(state, 0);
}
static void peterson_1(void *state) {
    peterson_run(state, 1);
}
static void peterson_final(void *state) {
    CHECK_EQ(x_cell_read(&((struct peterson *)state)->inside), 2);
}
#define PETERSON(text, set, least) \
    (&(struct x_test){.name = text, \
            .size = sizeof(struct peterson), \
            .setup = set, \
            .thread = {peterson_0, peterson_1}, \
            .final = peterson_final, \
            .floor = least})

TEST(petersons_lock_excludes_with_fences_or_an_exchange) {
    x_explore(PETERSON("peterson-fences", NULL, 50));
    x_explore(PETERSON("peterson-exchange", peterson_exchange, 50));
}

TEST(petersons_lock_lets_both_in_without_its_orders) {
    x_refute(PETERSON("peterson-one-fence", peterson_one_fence, 0), X_RACE);
    x_refute(PETERSON("peterson-no-fence", peterson_no_fence, 0), X_RACE);
    x_refute(PETERSON("peterson-relaxed-unlock", peterson_relaxed_unlock, 0), X_RACE);
}

/* Dekker's lock: the store-buffering test with something at stake. */

static void dekker_run(struct sb *sb, unsigned me) {
    pnx_store(&sb->flag[me], 1, PNX_RELAXED, "classics.dekker_up");
    if (sb->variant == SB_FENCES)
        pnx_fence(PNX_SEQ_CST, "classics.dekker_fence");
    if (pnx_load(&sb->flag[1 - me], PNX_ACQUIRE, "classics.dekker_look") == 0)
        x_cell_write(&sb->inside, x_cell_read(&sb->inside) + 1);
    pnx_store(&sb->flag[me], 0, PNX_RELEASE, "classics.dekker_down");
}
static void dekker_0(void *state) {
    dekker_run(state, 0);
}
static void dekker_1(void *state) {
    dekker_run(state, 1);
}
#define DEKKER(text, set) \
    (&(struct x_test){.name = text, \
            .size = sizeof(struct sb), \
            .setup = set, \
            .thread = {dekker_0, dekker_1}, \
            .floor = 20})

TEST(dekkers_lock_excludes_only_with_fences) {
    x_explore(DEKKER("dekker-fences", sb_fences));
    x_refute(DEKKER("dekker", NULL), X_RACE);
}

/* Independent reads of independent writes (IRIW). */

struct iriw {
    int variant;
    struct pnx_a32 x, y;
    struct x_cell first[2], second[2];
};
VARIANT(iriw_fences, iriw, 1)

static void iriw_write_x(void *state) {
    pnx_store(&((struct iriw *)state)->x, 1, PNX_RELEASE, "classics.iriw_x");
}
static void iriw_write_y(void *state) {
    pnx_store(&((struct iriw *)state)->y, 1, PNX_RELEASE, "classics.iriw_y");
}
static void iriw_read(struct iriw *s, unsigned me) {
    x_cell_write(&s->first[me], pnx_load(me ? &s->y : &s->x, PNX_ACQUIRE, "classics.iriw_first"));
    if (s->variant)
        pnx_fence(PNX_SEQ_CST, "classics.iriw_fence");
    x_cell_write(&s->second[me], pnx_load(me ? &s->x : &s->y, PNX_ACQUIRE, "classics.iriw_second"));
}
static void iriw_read_xy(void *state) {
    iriw_read(state, 0);
}
static void iriw_read_yx(void *state) {
    iriw_read(state, 1);
}
static void iriw_final(void *state) {
    struct iriw *s = state;
    CHECK(!(x_cell_read(&s->first[0]) && !x_cell_read(&s->second[0]) && x_cell_read(&s->first[1]) &&
            !x_cell_read(&s->second[1])));
}
#define IRIW(text, set) \
    (&(struct x_test){.name = text, \
            .size = sizeof(struct iriw), \
            .setup = set, \
            .thread = {iriw_write_x, iriw_write_y, iriw_read_xy, iriw_read_yx}, \
            .final = iriw_final, \
            .floor = 100})

TEST(readers_agree_on_the_order_of_writes_only_with_fences) {
    x_explore(IRIW("iriw-fences", iriw_fences));
    x_refute(IRIW("iriw", NULL), X_ASSERTION);
}

/* Coherence: of one location every thread sees the same order. */

struct coherence {
    struct pnx_a32 x;
    struct x_cell seen[4];
};

static void co_write_1(void *state) {
    pnx_store(&((struct coherence *)state)->x, 1, PNX_RELAXED, "classics.co_1");
}
static void co_write_2(void *state) {
    pnx_store(&((struct coherence *)state)->x, 2, PNX_RELAXED, "classics.co_2");
}
static void co_read(struct coherence *s, unsigned at) {
    x_cell_write(&s->seen[at], pnx_load(&s->x, PNX_RELAXED, "classics.co_first"));
    x_cell_write(&s->seen[at + 1], pnx_load(&s->x, PNX_RELAXED, "classics.co_second"));
}
static void co_read_0(void *state) {
    co_read(state, 0);
}
static void co_read_2(void *state) {
    co_read(state, 2);
}
static void co_rr(void *state) {
    struct coherence *s = state;
    uint64_t a = x_cell_read(&s->seen[0]), b = x_cell_read(&s->seen[1]);
    uint64_t c = x_cell_read(&s->seen[2]), d = x_cell_read(&s->seen[3]);
    CHECK(!(a && !b) && !(c && !d));                /* nobody goes back to the beginning */
    CHECK(!(a && b && a != b && c == b && d == a)); /* nor sees another order */
}
static void co_write_read(void *state) {
    struct coherence *s = state;
    pnx_store(&s->x, 3, PNX_RELAXED, "classics.co_3");
    x_cell_write(&s->seen[0], pnx_load(&s->x, PNX_RELAXED, "classics.co_wr"));
}
static void co_wr(void *state) {
    CHECK(x_cell_read(&((struct coherence *)state)->seen[0]) !=
            0); /* its own store hides what was before */
}
static void co_read_write(void *state) {
    struct coherence *s = state;
    x_cell_write(&s->seen[0], pnx_load(&s->x, PNX_RELAXED, "classics.co_rw"));
    pnx_store(&s->x, 3, PNX_RELAXED, "classics.co_rw3");
    pnx_store(&s->x, 4, PNX_RELAXED, "classics.co_ww4");
}
static void co_rw(void *state) {
    struct coherence *s = state;
    CHECK(x_cell_read(&s->seen[0]) < 3); /* never what it writes later */
    CHECK(pnx_load(&s->x, PNX_RELAXED, "classics.co_end") !=
            3); /* its second store comes after its first */
}

TEST(each_location_is_coherent) {
    x_explore(&(struct x_test){.name = "corr",
            .size = sizeof(struct coherence),
            .thread = {co_write_1, co_write_2, co_read_0, co_read_2},
            .final = co_rr,
            .floor = 1000});
    x_explore(&(struct x_test){.name = "cowr",
            .size = sizeof(struct coherence),
            .thread = {co_write_1, co_write_2, co_write_read},
            .final = co_wr,
            .floor = 20});
    x_explore(&(struct x_test){.name = "corw-coww",
            .size = sizeof(struct coherence),
            .thread = {co_write_1, co_write_2, co_read_write},
            .final = co_rw,
            .floor = 30});
}

/* Release sequences: read-modify-writes continue one, plain stores of the same thread no more (P0982). */

static void rs_write(void *state) {
    struct mp *mp = state;
    x_cell_write(&mp->data, 42);
    pnx_store(&mp->flag, 1, PNX_RELEASE, "classics.rs_release");
    if (mp->variant)
        pnx_store(&mp->flag, 2, PNX_RELAXED, "classics.rs_again");
}
static void rs_add(void *state) {
    struct mp *mp = state;
    uint32_t one = 1;
    pnx_cas(&mp->flag, &one, 2, PNX_RELAXED, "classics.rs_cas");
}
static void rs_read(void *state) {
    struct mp *mp = state;
    if (pnx_load(&mp->flag, PNX_ACQUIRE, "classics.rs_acquire") == 2)
        CHECK_EQ(x_cell_read(&mp->data), 42);
}
VARIANT(rs_store, mp, 1)

TEST(a_release_sequence_goes_on_through_read_modify_writes_only) {
    x_explore(&(struct x_test){.name = "release-sequence",
            .size = sizeof(struct mp),
            .thread = {rs_write, rs_add, rs_read},
            .floor = 15});
    x_refute(&(struct x_test){.name = "release-sequence-store",
                     .size = sizeof(struct mp),
                     .setup = rs_store,
                     .thread = {rs_write, rs_read}},
            X_RACE);
}
