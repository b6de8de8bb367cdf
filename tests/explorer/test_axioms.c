/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_axioms.c - holds the explorer to RC11's axioms, over random little programs.
 *
 * Each program is explored without bounds, and its outcomes (what each load and read-modify-write read, and what is left)
 * are compared with those of the execution graphs that the axioms allow: Lahav, Vafeiadis, Kang, Hur, Dreyer, "Repairing
 * sequential consistency in C/C++11" (PLDI 2017), with C++20's release sequences (P0982).
 *
 *   - No outcome is found that the axioms forbid.
 *   - None is missed that a graph gives in which po, rf, mo and psc have no cycle together: that is what the README
 *     means by no load buffering, and a modification order that is the order of execution.
 */
#include "explorer/explorer.h"

#include <assert.h>

#define THREADS 4
#define OPS     3 /* of each thread, at most */
#define WORDS   2
#define EVENTS  (WORDS + THREADS * OPS)

enum kind { NOTHING, LOAD, STORE, EXCHANGE, FENCE };
struct op {
    enum kind kind;
    int order;
    unsigned word;
};
static struct op program[THREADS][OPS];

/* ---- outcomes ---- */

#define MAX_OUTCOMES 65536
struct outcomes {
    uint64_t at[MAX_OUTCOMES];
    unsigned n;
};
static struct outcomes shown, allowed, demanded;

static bool has(const struct outcomes *set, uint64_t outcome) {
    for (unsigned i = 0; i < set->n; i++) {
        if (set->at[i] == outcome)
            return true;
    }
    return false;
}

static void add(struct outcomes *set, uint64_t outcome) {
    if (has(set, outcome))
        return;
    CHECK(set->n < MAX_OUTCOMES);
    set->at[set->n++] = outcome;
}

/* ---- a program, run by the explorer: each write has a value of its own, its event's number ---- */

struct state {
    struct pnx_a32 word[WORDS];
    uint32_t result[THREADS][OPS];
};

static unsigned event_of(unsigned thread, unsigned i) {
    return WORDS + thread * OPS + i;
}

static uint32_t load(struct pnx_a32 *word, int order) {
    return order == PNX_ACQUIRE ? pnx_load(word, PNX_ACQUIRE, "axioms.load_acquire")
                                : pnx_load(word, PNX_RELAXED, "axioms.load");
}

static void store(struct pnx_a32 *word, uint32_t value, int order) {
    if (order == PNX_RELEASE)
        pnx_store(word, value, PNX_RELEASE, "axioms.store_release");
    else
        pnx_store(word, value, PNX_RELAXED, "axioms.store");
}

static uint32_t exchange(struct pnx_a32 *word, uint32_t value, int order) {
    switch (order) {
    case PNX_ACQUIRE:
        return pnx_exchange(word, value, PNX_ACQUIRE, "axioms.exchange_acquire");
    case PNX_RELEASE:
        return pnx_exchange(word, value, PNX_RELEASE, "axioms.exchange_release");
    case PNX_ACQ_REL:
        return pnx_exchange(word, value, PNX_ACQ_REL, "axioms.exchange_acq_rel");
    case PNX_SEQ_CST:
        return pnx_exchange(word, value, PNX_SEQ_CST, "axioms.exchange_seq_cst");
    default:
        return pnx_exchange(word, value, PNX_RELAXED, "axioms.exchange");
    }
}

static void fence(int order) {
    switch (order) {
    case PNX_ACQUIRE:
        pnx_fence(PNX_ACQUIRE, "axioms.fence_acquire");
        return;
    case PNX_RELEASE:
        pnx_fence(PNX_RELEASE, "axioms.fence_release");
        return;
    case PNX_ACQ_REL:
        pnx_fence(PNX_ACQ_REL, "axioms.fence_acq_rel");
        return;
    default:
        pnx_fence(PNX_SEQ_CST, "axioms.fence_seq_cst");
    }
}

static void run(struct state *s, unsigned thread) {
    for (unsigned i = 0; i < OPS; i++) {
        const struct op *op = &program[thread][i];
        uint32_t value = event_of(thread, i);
        switch (op->kind) {
        case LOAD:
            s->result[thread][i] = load(&s->word[op->word], op->order);
            break;
        case STORE:
            store(&s->word[op->word], value, op->order);
            break;
        case EXCHANGE:
            s->result[thread][i] = exchange(&s->word[op->word], value, op->order);
            break;
        case FENCE:
            fence(op->order);
            break;
        default:
            break;
        }
    }
}
static void run_0(void *state) {
    run(state, 0);
}
static void run_1(void *state) {
    run(state, 1);
}
static void run_2(void *state) {
    run(state, 2);
}
static void run_3(void *state) {
    run(state, 3);
}

static void note(void *state) {
    struct state *s = state;
    uint64_t outcome = 0;
    for (unsigned t = 0; t < THREADS; t++) {
        for (unsigned i = 0; i < OPS; i++)
            outcome = outcome << 4 | s->result[t][i];
    }
    for (unsigned w = 0; w < WORDS; w++)
        outcome = outcome << 4 | pnx_load(&s->word[w], PNX_RELAXED, "axioms.last");
    add(&shown, outcome);
}

/* ---- execution graphs ---- */

typedef uint16_t row; /* a set of events */
struct relation {
    row to[EVENTS];
};
static_assert(EVENTS <= 16, "a bit each");

static struct op event[EVENTS]; /* the first ones are the initial writes */
static unsigned source[EVENTS]; /* rf: of each event that reads */
static struct relation po, rf, mo, rb;

static bool reads(unsigned e) {
    return event[e].kind == LOAD || event[e].kind == EXCHANGE;
}
static bool writes(unsigned e) {
    return e < WORDS || event[e].kind == STORE || event[e].kind == EXCHANGE;
}
static bool acquires(unsigned e) {
    int order = event[e].order;
    return (reads(e) || event[e].kind == FENCE) &&
           (order == PNX_ACQUIRE || order == PNX_ACQ_REL || order == PNX_SEQ_CST);
}
static bool releases(unsigned e) {
    int order = event[e].order;
    return (writes(e) || event[e].kind == FENCE) &&
           (order == PNX_RELEASE || order == PNX_ACQ_REL || order == PNX_SEQ_CST);
}
static bool is_sc(unsigned e) {
    return event[e].order == PNX_SEQ_CST;
}

static bool related(const struct relation *r, unsigned a, unsigned b) {
    return r->to[a] >> b & 1;
}
static void relate(struct relation *r, unsigned a, unsigned b) {
    r->to[a] |= (row)(1u << b);
}
static struct relation unite(const struct relation *a, const struct relation *b) {
    struct relation r;
    for (unsigned e = 0; e < EVENTS; e++)
        r.to[e] = a->to[e] | b->to[e];
    return r;
}
static struct relation follow(const struct relation *a, const struct relation *b) {
    struct relation r = {{0}};
    for (unsigned e = 0; e < EVENTS; e++) {
        for (unsigned m = 0; m < EVENTS; m++)
            r.to[e] |= related(a, e, m) ? b->to[m] : 0;
    }
    return r;
}
static struct relation closure(struct relation r) {
    for (unsigned m = 0; m < EVENTS; m++) {
        for (unsigned e = 0; e < EVENTS; e++)
            r.to[e] |= related(&r, e, m) ? r.to[m] : 0;
    }
    return r;
}
static bool reflexive(const struct relation *r) {
    for (unsigned e = 0; e < EVENTS; e++) {
        if (related(r, e, e))
            return true;
    }
    return false;
}
static bool has_cycle(const struct relation *r) {
    struct relation all = closure(*r);
    return reflexive(&all);
}

/* What a release of e is: itself, or a fence before it in its thread. */
static bool releases_by(unsigned by, unsigned e) {
    return releases(by) && (by == e || (event[by].kind == FENCE && related(&po, by, e)));
}
static bool acquires_by(unsigned e, unsigned by) {
    return acquires(by) && (by == e || (event[by].kind == FENCE && related(&po, e, by)));
}

static struct relation synchronizes(void) {
    struct relation sw = {{0}};
    for (unsigned r = WORDS; r < EVENTS; r++) {
        if (!reads(r))
            continue;
        /* The writes whose release sequence r reads from: through read-modify-writes only. */
        for (unsigned w = source[r];; w = source[w]) {
            for (unsigned a = WORDS; a < EVENTS; a++) {
                for (unsigned b = WORDS; b < EVENTS; b++) {
                    if (releases_by(a, w) && acquires_by(r, b))
                        relate(&sw, a, b);
                }
            }
            if (w < WORDS || event[w].kind != EXCHANGE)
                break;
        }
    }
    return sw;
}

static bool same_word(unsigned a, unsigned b) {
    return event[a].kind != FENCE && event[b].kind != FENCE && event[a].word == event[b].word;
}

static struct relation only(const struct relation *r, bool on_same_word) {
    struct relation part = {{0}};
    for (unsigned a = 0; a < EVENTS; a++) {
        for (unsigned b = 0; b < EVENTS; b++) {
            if (related(r, a, b) && same_word(a, b) == on_same_word)
                relate(&part, a, b);
        }
    }
    return part;
}

static bool is_sc_fence(unsigned e) {
    return event[e].kind == FENCE && is_sc(e);
}

static struct relation partial_sc(const struct relation *hb, const struct relation *eco) {
    struct relation elsewhere = only(&po, false);
    struct relation between = follow(&elsewhere, hb);
    between = follow(&between, &elsewhere);
    struct relation here = only(hb, true);
    struct relation scb = unite(&po, &between);
    scb = unite(&scb, &here);
    scb = unite(&scb, &mo);
    scb = unite(&scb, &rb);
    struct relation fences = follow(hb, eco);
    fences = follow(&fences, hb);
    fences = unite(&fences, hb);
    struct relation psc = {{0}};
    for (unsigned a = WORDS; a < EVENTS; a++) {
        for (unsigned b = WORDS; is_sc(a) && b < EVENTS; b++) {
            if (!is_sc(b))
                continue;
            if (is_sc_fence(a) && is_sc_fence(b) && related(&fences, a, b))
                relate(&psc, a, b);
            for (unsigned m = 0; m < EVENTS; m++) {
                bool from = m == a || (is_sc_fence(a) && related(hb, a, m));
                for (unsigned n = 0; from && n < EVENTS; n++) {
                    bool until = n == b || (is_sc_fence(b) && related(hb, n, b));
                    if (until && related(&scb, m, n))
                        relate(&psc, a, b);
                }
            }
        }
    }
    return psc;
}

/* Checks one graph, and notes its outcome where it is allowed. */
static void judge(void) {
    for (unsigned e = WORDS; e < EVENTS; e++) {
        if (event[e].kind != EXCHANGE)
            continue;
        /* Atomicity: nothing comes between what it reads and itself. */
        if (!related(&mo, source[e], e))
            return;
        for (unsigned w = 0; w < EVENTS; w++) {
            if (related(&mo, source[e], w) && related(&mo, w, e))
                return;
        }
    }
    struct relation eco = unite(&rf, &mo);
    eco = unite(&eco, &rb);
    eco = closure(eco);
    struct relation sw = synchronizes();
    struct relation hb = unite(&po, &sw);
    hb = closure(hb);
    struct relation both = follow(&hb, &eco);
    struct relation porf = unite(&po, &rf);
    if (reflexive(&hb) || reflexive(&both) || reflexive(&eco) || has_cycle(&porf))
        return;
    struct relation psc = partial_sc(&hb, &eco);
    if (has_cycle(&psc))
        return;
    uint64_t outcome = 0;
    for (unsigned e = WORDS; e < EVENTS; e++)
        outcome = outcome << 4 | (reads(e) && source[e] >= WORDS ? source[e] : 0);
    for (unsigned w = 0; w < WORDS; w++) {
        unsigned last = w;
        for (unsigned e = WORDS; e < EVENTS; e++)
            last = related(&mo, last, e) ? e : last;
        outcome = outcome << 4 | (last >= WORDS ? last : 0);
    }
    add(&allowed, outcome);
    struct relation all = unite(&porf, &mo);
    all = unite(&all, &psc);
    if (!has_cycle(&all))
        add(&demanded, outcome);
}

static void choose_sources(unsigned e) {
    while (e < EVENTS && !reads(e))
        e++;
    if (e == EVENTS) {
        rf = rb = (struct relation){{0}};
        for (unsigned r = WORDS; r < EVENTS; r++) {
            if (!reads(r))
                continue;
            relate(&rf, source[r], r);
            rb.to[r] = mo.to[source[r]] & (row) ~(1u << r);
        }
        judge();
        return;
    }
    for (unsigned w = 0; w < EVENTS; w++) {
        if (!writes(w) || w == e || event[w].word != event[e].word)
            continue;
        source[e] = w;
        choose_sources(e + 1);
    }
}

/* Puts the writes of a word, of which those in left are not placed yet, into each order. */
static void choose_order(unsigned word, row placed, row left) {
    if (!left) {
        if (word + 1 == WORDS) {
            choose_sources(WORDS);
            return;
        }
        row next = 0;
        for (unsigned e = WORDS; e < EVENTS; e++)
            next |= (row)(writes(e) && event[e].word == word + 1 ? 1u << e : 0);
        choose_order(word + 1, (row)(1u << (word + 1)), next);
        return;
    }
    for (unsigned e = WORDS; e < EVENTS; e++) {
        if (!(left >> e & 1))
            continue;
        for (unsigned w = 0; w < EVENTS; w++) {
            if (placed >> w & 1)
                relate(&mo, w, e);
        }
        choose_order(word, (row)(placed | 1u << e), (row)(left & ~(1u << e)));
        for (unsigned w = 0; w < EVENTS; w++)
            mo.to[w] &= (row) ~(1u << e);
    }
}

static void enumerate(void) {
    po = mo = (struct relation){{0}};
    for (unsigned w = 0; w < WORDS; w++)
        event[w] = (struct op){STORE, PNX_RELAXED, w};
    for (unsigned e = WORDS; e < EVENTS; e++) {
        event[e] = program[(e - WORDS) / OPS][(e - WORDS) % OPS];
        for (unsigned w = 0; w < WORDS; w++)
            relate(&po, w, e);
        for (unsigned later = e + 1; later < EVENTS; later++) {
            if ((e - WORDS) / OPS == (later - WORDS) / OPS)
                relate(&po, e, later);
        }
    }
    row first = 0;
    for (unsigned e = WORDS; e < EVENTS; e++)
        first |= (row)(writes(e) && event[e].word == 0 ? 1u << e : 0);
    choose_order(0, 1, first);
}

/* ---- programs ---- */

static struct op random_op(uint64_t *random) {
    static const int load_orders[] = {PNX_RELAXED, PNX_ACQUIRE};
    static const int store_orders[] = {PNX_RELAXED, PNX_RELEASE};
    static const int exchange_orders[] = {
            PNX_RELAXED, PNX_ACQUIRE, PNX_RELEASE, PNX_ACQ_REL, PNX_SEQ_CST};
    static const int fence_orders[] = {
            PNX_SEQ_CST, PNX_SEQ_CST, PNX_ACQUIRE, PNX_RELEASE, PNX_ACQ_REL};
    uint64_t dice = test_random(random);
    unsigned word = dice >> 8 & 1, pick = (unsigned)(dice >> 16 & 0xffff);
    switch (dice % 8) {
    case 0:
    case 1:
    case 2:
        return (struct op){LOAD, load_orders[pick % 2], word};
    case 3:
    case 4:
        return (struct op){STORE, store_orders[pick % 2], word};
    case 5:
        return (struct op){EXCHANGE, exchange_orders[pick % 5], word};
    default:
        return (struct op){FENCE, fence_orders[pick % 5], 0};
    }
}

static const char *text(void) {
    static const char *const kinds[] = {"-", "load", "store", "exchange", "fence"};
    static char buf[512];
    size_t n = 0;
    for (unsigned t = 0; t < THREADS; t++) {
        for (unsigned i = 0; i < OPS; i++) {
            const struct op *op = &program[t][i];
            n += (size_t)snprintf(buf + n, sizeof(buf) - n, "%s%s(%u, %d)",
                    i   ? "; "
                    : t ? " || "
                        : "",
                    kinds[op->kind], op->word, op->order);
        }
    }
    return buf;
}

TEST_LIMIT(the_outcomes_of_random_programs_are_those_of_the_axioms, 600) {
    uint64_t random = test_seed();
    uint64_t outcomes = 0, unseen = 0;
    unsigned programs = test_long() ? 5000 : 500;
    for (unsigned i = 0; i < programs; i++) {
        struct x_result r;
        memset(program, 0, sizeof(program));
        unsigned threads = i % 4 ? 3 : 4;
        for (unsigned t = 0; t < threads; t++) {
            unsigned ops = threads == 4 ? 2 : 2 + (unsigned)(test_random(&random) % 2);
            for (unsigned k = 0; k < ops; k++)
                program[t][k] = random_op(&random);
        }
        shown.n = allowed.n = demanded.n = 0;
        CHECK_EQ(x_run(&(struct x_test){.name = "axioms",
                               .size = sizeof(struct state),
                               .thread = {run_0, run_1, run_2, run_3},
                               .final = note,
                               .preemptions = X_UNBOUNDED,
                               .stale = X_UNBOUNDED,
                               .random = X_NONE},
                         &r),
                X_PASSED);
        CHECK(r.exhausted);
        enumerate();
        for (unsigned k = 0; k < shown.n; k++)
            CHECK_MSG(has(&allowed, shown.at[k]), "%s: %llx is forbidden", text(),
                    (unsigned long long)shown.at[k]);
        for (unsigned k = 0; k < demanded.n; k++)
            CHECK_MSG(has(&shown, demanded.at[k]), "%s: %llx is missed", text(),
                    (unsigned long long)demanded.at[k]);
        outcomes += shown.n;
        unseen += allowed.n - shown.n;
    }
    printf("  %u programs, %llu outcomes, %llu more that need another modification order\n",
            programs, (unsigned long long)outcomes, (unsigned long long)unseen);
    CHECK(outcomes > programs);
}
