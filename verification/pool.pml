/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pool.pml - how the pool's callers wait, are handed resources, give up and are refused, beside those who acquire and
 * release with one compare-and-swap and no lock.  verification/README.md says what this is evidence for and what
 * it is not; verification/spin.py runs it in the configurations that it lists, and the known-bad variants, which Spin
 * must refute.
 *
 * Clients acquire, trying only, waiting for a while, or for ever; they release, quickly or after a reset, or discard.
 * The pool's thread checks, closes and connects; there may be a tick, a close, a pause that ends, and somebody who
 * has a copy of a lease.  Checked:
 *   S1  A slot has one holder at a time, and nothing else is done with its resource until it is home.
 *   S2  Nobody is granted a resource while somebody waits who waited before its call began.
 *   S3  Each lease ends once: of two copies one is taken; a lease that is out is not refused.
 *   S4  No lease begins once a close, or a pause, has returned.
 *   S5  Nobody returns from an acquire while it is on the list of those who wait.
 *   L1  Every run ends, with everything home, and after a close everything closed: nobody waits for ever, be it for a
 *       wake-up that was lost or for a resource that is free.  (Nothing here loops without end, which is checked,
 *       too, so that a wait that never ends is an invalid end state, which Spin reports.)
 *   I1  Why S2 and L1 hold: while somebody waits no slot is open.  Known-bad variants are refuted without it, by what
 *       a caller would notice, but for one that shows that it is looked at.
 */

#ifndef CLIENTS
#define CLIENTS 3
#endif
#ifndef ROUNDS /* acquires of the first client; the others make one */
#define ROUNDS 1
#endif
#ifndef SLOTS /* 1 or 2 */
#define SLOTS 1
#endif
#ifndef DUES /* times that an idle resource is found to be due for a check */
#define DUES 0
#endif
#ifndef FAILURES /* checks, connects and resets that fail, discards */
#define FAILURES 0
#endif
#ifndef RESERVE /* whether what comes home may be kept back for min_idle */
#define RESERVE 0
#endif
#ifndef RESETS /* whether resources may be reset before they come home */
#define RESETS 0
#endif
#ifndef COPIES /* whether the first client's first lease is copied */
#define COPIES 0
#endif
#ifndef FIRST /* the state that slots begin in */
#define FIRST IDLE
#endif

/* ---- slots: src/pool/pool_core.h ---- */

#define EMPTY 0
#define CONNECTING 1
#define IDLE 2
#define IN_USE 3
#define CHECKING 4
#define CLOSING 5
#define LOCKED 8     /* changed by the holder of the lock, but for a lease that is spent */
#define RETURNING 16 /* the lease is spent */

#define WORD(generation, state) ((generation) * 32 + (state))
#define STATE(word) ((word) & 7)
#define GENERATION(word) ((word) >> 5)
#define AS(word, state) (((word) & 224) | (state))
#define OPEN(word) (((word) & LOCKED) == 0 && (STATE(word) == IDLE || STATE(word) == IN_USE))

byte words[SLOTS];
bool lock;

/* Guarded by the lock. */
bool due[SLOTS]; /* for a check, before it is used */
bool closing, paused;
chan queue = [CLIENTS] of { byte };

/* A waiter, on its caller's stack. */
#define WAITING 0
#define PARKED 1 /* waits, asleep */
#define POKED 2  /* waits, with something to do: in the code, a job to run or a timer to watch */
#define GRANTED 3
#define REFUSED 4
byte outcome[CLIENTS];
byte granted_at[CLIENTS], granted_as[CLIENTS]; /* the slot and the generation */
byte asleep;                                   /* in the kernel: a set of clients */

/* How long a client waits. */
#define NO_LONGER 0
#define A_WHILE 1
#define FOR_EVER 2

/* What only the checks know. */
byte lent[SLOTS];    /* the generation of the lease whose resource is not home, or 0 */
byte waiting;        /* those in the queue, as a set */
byte ahead[CLIENTS]; /* those of them who were there when its call began */
bool barred;         /* no lease may begin */
byte dues, failures; /* so far */
byte ended;          /* clients */
byte copied_at, copied_as;
byte i_;             /* scratch of d_steps; always 0 between them */

#define BIT(client) (1 << (client))
#define IS_HIS(word, as) (((word) & ~LOCKED) == WORD(as, IN_USE))

/* Every change of a word. */
inline put(at, value) {
    words[at] = value;
    assert(lent[at] == 0 || IS_HIS(words[at] & ~RETURNING, lent[at])); /* S1 */
#ifndef NO_I1
    assert(waiting == 0 || !OPEN(words[at])) /* I1 */
#endif
}

/* If it is expected, which becomes what is there. */
inline cas(at, expected, value, ret_done) {
    ret_done = (words[at] == expected);
    if
    :: ret_done -> put(at, value)
    :: else
    fi;
    expected = words[at]
}

/* Begins a lease, as what is in the word from now on. */
inline lend(at, to, state) {
    assert(lent[at] == 0);  /* S1 */
    assert(ahead[to] == 0); /* S2 */
    assert(!barred);        /* S4 */
    due[at] = false;
#ifdef BAD_SAME_GENERATION
    lent[at] = 1;
#else
    lent[at] = GENERATION(words[at]) + 1;
#endif
    assert(lent[at] < 8);
    put(at, WORD(lent[at], state))
}

/* Its resource is home, and has just been used. */
inline home(at, as) {
    assert(lent[at] == as); /* S3 */
    lent[at] = 0;
    due[at] = false
}

inline LOCK() {
    d_step { !lock -> lock = true }
}
inline UNLOCK() {
    lock = false
}

/* ---- open and locked: src/pool/pool_core.c ---- */

/* pnx__pool_capture(): an open slot becomes locked; word is a first guess, and in the end what it has become. */
inline capture(at) {
    do
    :: true ->
#ifdef BAD_CAPTURE_STORE
        d_step { put(at, word | LOCKED); done = true };
#else
        d_step { cas(at, word, word | LOCKED, done) };
#endif
        if
        :: done -> break
#ifdef BAD_CAPTURE_ONCE
        :: else -> break
#else
        :: else
#endif
        fi
    od;
    done = false
}

/* That an idle one is due is told by the clock. */
#define MAY_BE_DUE (dues < DUES)

inline lock_all() {
    at = 0;
    do
    :: at < SLOTS ->
        word = words[at];
        if
#ifdef BAD_DUE_OPEN
        :: STATE(word) == IDLE && due[at]
#endif
#ifdef BAD_CLOSE_IN_USE
        :: STATE(word) == IN_USE && closing
#endif
        :: OPEN(word) -> capture(at)
        :: else
        fi;
        word = 0;
        at++
    :: else -> break
    od;
    at = 0
}

/* ---- the queue: src/pool/pool_core_queue.c ---- */

inline enqueue(who) {
    assert((waiting & BIT(who)) == 0); /* S5 */
    outcome[who] = WAITING;
    queue!who;
    waiting = waiting | BIT(who);
#ifndef NO_I1
    i_ = 0;
    do
    :: i_ < SLOTS ->
        assert(!OPEN(words[i_])); /* I1 */
        i_++
    :: else -> break
    od;
    i_ = 0
#endif
}

inline forget(who) {
    waiting = waiting & ~BIT(who);
    i_ = 0;
    do
    :: i_ < CLIENTS -> ahead[i_] = ahead[i_] & ~BIT(who); i_++
    :: else -> break
    od;
    i_ = 0
}

inline unlink(who) {
    queue??eval(who);
    forget(who)
}

/* From here on the waiter's frame may be gone; only the address of its outcome is kept, to wake it. */
inline tell(who, what) {
#ifdef BAD_TELL_READ
    old = outcome[who];
    outcome[who] = what;
#else
    d_step { old = outcome[who]; outcome[who] = what };
#endif
    d_step {
        if
        :: old == PARKED -> wakes = wakes | BIT(who)
        :: else
        fi;
        old = 0
    }
}

/* pnx__pool_wake(), after the unlock: one after the other. */
inline wake() {
    do
    :: wakes != 0 ->
        d_step {
            i_ = 0;
            do
            :: (wakes & BIT(i_)) == 0 -> i_++
            :: else -> break
            od;
            wakes = wakes & ~BIT(i_);
            asleep = asleep & ~BIT(i_);
            i_ = 0
        }
    :: else -> break
    od
}

/* An idle, locked one, to the first who waits. */
inline grant(at) {
    d_step {
#ifdef BAD_UNLINK_LATE
        queue?<who>;
#else
        queue?who;
        forget(who);
#endif
#ifdef BAD_GRANT_OPEN
        lend(at, who, IN_USE);
#else
        lend(at, who, IN_USE | LOCKED);
#endif
        granted_at[who] = at;
        granted_as[who] = lent[at]
    };
    tell(who, GRANTED);
#ifdef BAD_UNLINK_LATE
    d_step { unlink(who) };
#endif
    who = 0
}

#define MAY_OPEN (!closing && !paused && len(queue) == 0)

/* What is fit to be used is idle now, or somebody's; the lock is held. */
inline supply(at) {
    d_step { put(at, AS(words[at], (closing -> CLOSING : IDLE | LOCKED))) };
    if
    :: MAY_OPEN -> d_step { put(at, AS(words[at], IDLE)) }
    :: MAY_OPEN && RESERVE
    :: !closing && !paused && len(queue) > 0 -> grant(at)
    :: closing || paused
    fi
}

/* ---- giving back: src/pool/pool_lease.c ---- */

inline come_home(at, as) {
    LOCK();
    d_step { home(at, as) };
    supply(at);
    UNLOCK();
    wake()
}

/* pnx__pool_slot_spend(); done tells whether it was not stale. */
inline spend(at, as) {
    word = words[at];
    do
    :: IS_HIS(word, as) ->
#ifdef BAD_NOT_SPENT
        done = true;
#else
        d_step { cas(at, word, word | RETURNING, done) };
#endif
        if
        :: done -> break
        :: else
        fi
    :: else ->
        assert(lent[at] != as || (words[at] & RETURNING)); /* S3 */
        break
    od;
    word = 0
}

/* pnx__pool_slot_bring(), and the way it goes when the slot is locked. */
inline release(at, as) {
#ifdef BAD_BRING_EXCHANGE
    d_step {
        word = words[at];
        if
        :: IS_HIS(word, as) -> home(at, as)
        :: else
        fi;
        put(at, WORD(as, IDLE))
    };
    if
    :: word == WORD(as, IN_USE | LOCKED) -> /* takes it back at once */
        d_step { word = WORD(as, IDLE); cas(at, word, WORD(as, IN_USE | LOCKED | RETURNING), done) };
        if
        :: done -> LOCK(); supply(at); UNLOCK(); wake()
        :: else
        fi
    :: else
    fi;
    word = 0;
#else
    d_step {
        if
        :: words[at] == WORD(as, IN_USE) ->
            home(at, as);
            put(at, WORD(as, IDLE));
            done = true
        :: else
        fi
    };
    if
    :: done
#ifdef BAD_PEEK_QUEUE
    :: !done && MAY_OPEN -> /* nobody waits, it seems */
        d_step { home(at, as); put(at, WORD(as, IDLE)) }
#endif
    :: !done ->
        spend(at, as);
        if
        :: done -> come_home(at, as)
        :: else
        fi
    fi;
#endif
    done = false
}

/* A release after a reset, or a discard; pnx__pool_slot_bring_spent(). */
inline release_spent(at, as) {
    spend(at, as);
    if
    :: done ->
        if
        :: RESETS ->
            d_step {
#ifdef BAD_SPENT_STORE
                done = true;
#else
                done = (words[at] == WORD(as, IN_USE | RETURNING));
#endif
                if
                :: done -> home(at, as); put(at, WORD(as, IDLE))
                :: else
                fi
            };
            if
            :: done
            :: else -> come_home(at, as)
            fi
        :: failures < FAILURES ->
            d_step { !lock -> failures++; home(at, as); put(at, AS(words[at], CLOSING)) }
        fi
    :: else
    fi;
    done = false
}

/* ---- borrowing: src/pool/pool_acquire.c ---- */

/* An open slot that is idle, by one compare-and-swap; word is what the look at it has seen. */
inline claim(at) {
    d_step {
#ifdef BAD_CLAIM_STORE
        done = true;
#else
        done = (words[at] == word);
#endif
        if
        :: done ->
            lend(at, me, IN_USE);
            as = lent[at]
        :: else
        fi
    };
    done = false
}

/* take_this(): an open slot is claimed or locked; a locked one is taken if it is idle and not due. */
inline take_open(at) {
    if
    :: word == AS(word, IDLE) -> claim(at)
    :: word == AS(word, IDLE) && MAY_BE_DUE -> d_step { due[at] = true; dues++ }
    :: else
    fi;
    if
#ifdef BAD_DUE_OPEN
    :: as == 0 && OPEN(word) && due[at]
#endif
    :: as == 0 && word == AS(word, IDLE) -> capture(at)
    :: else
    fi
}
inline take_locked(at) {
    if
    :: as == 0 && word == AS(word, IDLE | LOCKED) && !due[at] ->
        d_step { lend(at, me, IN_USE); as = lent[at] }
    :: as == 0 && word == AS(word, IDLE | LOCKED) && !due[at] && MAY_BE_DUE ->
        d_step { due[at] = true; dues++ }
    :: else
    fi;
    word = 0
}

/* take_any(): the lock is held, and nobody waits. */
inline take_any() {
    at = 0;
    do
    :: at < SLOTS && as == 0 ->
        word = words[at];
        take_open(at);
        take_locked(at);
        at++
    :: else -> break
    od;
    at = (as == 0 -> 0 : at - 1)
}

/* The same when all are locked. */
inline take_any_locked() {
    at = 0;
    do
    :: at < SLOTS && as == 0 -> word = words[at]; take_locked(at); at++
    :: else -> break
    od;
    at = (as == 0 -> 0 : at - 1)
}

/* Takes itself off the queue, unless its outcome came first; done tells. */
inline give_up() {
    LOCK();
    d_step {
        done = (waiting & BIT(me)) != 0;
        if
        :: done -> unlink(me)
        :: else
        fi
    };
    UNLOCK()
#ifdef BAD_CANCEL_BLIND
    ;
    done = true
#endif
}

/* Sleeps, having said so. */
inline park() {
#ifdef BAD_PARK_STORE
    outcome[me] = PARKED;
#else
    d_step {
        if
        :: outcome[me] == WAITING -> outcome[me] = PARKED
        :: else
        fi
    };
#endif
    /* pnx__futex_wait() */
    d_step {
        if
        :: outcome[me] == PARKED -> asleep = asleep | BIT(me)
        :: else
        fi
    };
    if
    :: (asleep & BIT(me)) == 0
    :: patience == A_WHILE ->
        d_step { asleep = asleep & ~BIT(me); patience = NO_LONGER }
    fi
}

/* drive_as_waiter(): has done what it was poked for, and may sleep again. */
inline rearm() {
#ifdef BAD_REARM_BLIND
    outcome[me] = WAITING
#else
    LOCK();
    d_step {
        if
        :: waiting & BIT(me) -> outcome[me] = WAITING
        :: else
        fi
    };
    UNLOCK()
#endif
}

inline await_outcome() {
    do
    :: outcome[me] == GRANTED ->
        d_step {
            at = granted_at[me];
            as = granted_as[me];
            granted_at[me] = 0;
            granted_as[me] = 0
        };
        break
    :: outcome[me] == REFUSED -> break
    :: outcome[me] == POKED -> rearm()
    :: outcome[me] < POKED && patience != NO_LONGER -> park()
    :: outcome[me] < GRANTED && patience != FOR_EVER ->
        give_up();
        if
        :: done -> break
        :: else
        fi
    od;
    assert((waiting & BIT(me)) == 0); /* S5 */
    outcome[me] = WAITING;
    patience = NO_LONGER;
    done = false
}

#define MAY_TAKE (as == 0 && !closing && !paused && len(queue) == 0)

/* pnx__pool_core_join(): locks all slots, looks again, and only then waits. */
inline join() {
#ifdef BAD_ENQUEUE_FIRST
    d_step { enqueue(me) };
#endif
#ifndef BAD_NO_LOCKING
    lock_all();
#endif
#ifdef BAD_ENQUEUE_FIRST
    atomic { unlink(me) };
#endif
#ifndef BAD_NO_SECOND_LOOK
    if
    :: MAY_TAKE -> take_any_locked()
    :: else
    fi;
#endif
    if
    :: as == 0 -> d_step { enqueue(me) }
    :: else
    fi
}

inline acquire_slowly() {
#ifdef BAD_UNLOCKED_LOOK
    lock_all();
    if
    :: MAY_TAKE -> take_any()
    :: else
    fi;
#endif
    LOCK();
    if
    :: MAY_TAKE -> take_any()
    :: else
    fi;
    if
    :: as != 0 || closing
    :: as == 0 && !closing /* a try ends here */
    :: as == 0 && !closing ->
        if
        :: patience = A_WHILE
        :: patience = FOR_EVER
        fi;
#ifdef BAD_UNLOCKED_LOOK
        d_step { enqueue(me) }
#else
        join()
#endif
    fi;
    UNLOCK();
    if
    :: as == 0 && patience != NO_LONGER -> await_outcome()
    :: else -> patience = NO_LONGER
    fi
}

/* Looks at one slot, the one that it had last.  Who sees nothing there, or something old, takes the lock. */
inline acquire() {
    ahead[me] = waiting;
    at = 0;
    if
    :: true
    :: at + 1 < SLOTS -> at++
    fi;
    word = words[at];
    if
    :: word == AS(word, IDLE) -> claim(at)
    :: true
    fi;
    word = 0;
    if
    :: as == 0 -> acquire_slowly()
    :: else
    fi;
    ahead[me] = 0
}

proctype client(byte me) {
    byte at, as, word, patience, round, who, old, wakes;
    bool done;
    do
    :: round < (me == 0 -> ROUNDS : 1) ->
        acquire();
        if
        :: as != 0 ->
            d_step {
                if
                :: COPIES && me == 0 && copied_as == 0 -> copied_at = at; copied_as = as
                :: else
                fi
            };
            if
            :: release(at, as)
            :: RESETS || failures < FAILURES -> release_spent(at, as)
            fi
        :: else
        fi;
        at = 0;
        as = 0;
        round++
    :: else -> break
    od;
    ended++
}

/* Who has a copy of a lease, and releases it. */
proctype copier() {
    byte word, who, old, wakes;
    bool done;
end_none:
    copied_as != 0;
    release(copied_at, copied_as)
}

/* ---- the pool's thread: src/pool/pool_core_jobs.c ---- */

#define WANTED (!lock && !closing && !paused && len(queue) > 0)
#ifdef BAD_DUE_OPEN
#define CHECKABLE(word) (STATE(word) == IDLE)
#else
#define CHECKABLE(word) (word == AS(word, IDLE | LOCKED))
#endif

inline ready(at) {
    LOCK();
    supply(at);
    UNLOCK();
    wake()
}

proctype thread(byte at) {
    byte who, old, wakes;
end_no_work:
    do
    :: d_step { !lock && STATE(words[at]) == CLOSING -> put(at, AS(words[at], EMPTY)) }
    :: d_step { WANTED && CHECKABLE(words[at]) && due[at] -> due[at] = false; put(at, AS(words[at], CHECKING)) };
        if
        :: ready(at)
        :: d_step { !lock && failures < FAILURES -> failures++; put(at, AS(words[at], CLOSING)) }
        fi
    :: d_step { WANTED && STATE(words[at]) == EMPTY -> put(at, AS(words[at], CONNECTING)) };
        if
#ifdef BAD_READY_OPEN
        :: d_step { !lock -> put(at, AS(words[at], IDLE)) }
#else
        :: ready(at)
#endif
        :: d_step { !lock && failures < FAILURES -> failures++; put(at, AS(words[at], EMPTY)) }
        fi
    od
}

/* pnx_pool_tick(): an idle resource may be too old, or be locked because it is due. */
proctype ticker() {
    byte at, word;
    bool done;
    LOCK();
    do
    :: at < SLOTS ->
        word = words[at];
        if
        :: OPEN(word) && STATE(word) == IDLE ->
            capture(at);
            if
            :: STATE(word) == IDLE -> d_step { put(at, AS(word, CLOSING)) }
            :: STATE(word) == IDLE -> due[at] = true
            :: STATE(word) == IN_USE
            fi
        :: true
        fi;
        word = 0;
        at++
    :: else -> break
    od;
    UNLOCK()
}

/* pnx__pool_core_poke() */
proctype poker() {
    byte who, old, wakes;
    LOCK();
    if
    :: len(queue) > 0 -> d_step { queue?<who> }; tell(who, POKED); who = 0
    :: len(queue) == 0
    fi;
    UNLOCK();
    wake()
}

/* ---- close, pause and resume: src/pool/pool_core.c ---- */

#define ALL(condition) (condition(0) && condition(SLOTS - 1))
#define IS_EMPTY(at) (STATE(words[at]) == EMPTY)
#define IS_HOME(at) (IS_EMPTY(at) || STATE(words[at]) == IDLE)

proctype closer() {
    byte at, word, who, old, wakes;
    bool done;
    LOCK();
    closing = true;
    paused = false;
    lock_all();
    do
    :: at < SLOTS ->
        if
        :: STATE(words[at]) == IDLE -> d_step { put(at, AS(words[at], CLOSING)) }
        :: else
        fi;
        at++
    :: else -> break
    od;
    at = 0;
#ifndef BAD_CLOSE_NO_REFUSE
    do
    :: len(queue) > 0 ->
        d_step { queue?who; forget(who) };
        tell(who, REFUSED);
        who = 0
    :: else -> break
    od;
#endif
    barred = true;
    UNLOCK();
    wake();
    ALL(IS_EMPTY) /* L1 */
}

/* What is idle, and not due, goes to those who wait, and then to anybody. */
inline resume() {
    do
    :: at < SLOTS ->
        if
        :: STATE(words[at]) == IDLE && !due[at] ->
#ifdef BAD_RESUME_OPEN
            d_step { put(at, AS(words[at], IDLE)) }
#else
            if
            :: len(queue) > 0 -> grant(at)
            :: else -> d_step { put(at, AS(words[at], IDLE)) }
            fi
#endif
        :: else
        fi;
        at++
    :: else -> break
    od
}

proctype pauser() {
    byte at, word, who, old, wakes;
    bool done;
    LOCK();
    if
    :: !closing ->
        paused = true;
        lock_all();
        barred = true;
        UNLOCK();
        LOCK();
        if
        :: !closing -> paused = false; barred = false; resume()
        :: else
        fi
    :: else
    fi;
    UNLOCK();
    wake()
}

init {
    atomic {
        i_ = 0;
        do
        :: i_ < SLOTS -> words[i_] = WORD(0, FIRST); i_++
        :: else -> break
        od;
        i_ = 0;
        do
        :: i_ < CLIENTS -> run client(i_); i_++
        :: else -> break
        od;
        i_ = 0;
#ifdef THREADS
        do
        :: i_ < SLOTS -> run thread(i_); i_++
        :: else -> break
        od;
        i_ = 0;
#endif
#ifdef TICKS
        run ticker();
#endif
#ifdef POKES
        run poker();
#endif
#ifdef CLOSES
        run closer();
#endif
#ifdef PAUSES
        run pauser();
#endif
        if
        :: COPIES -> run copier()
        :: else
        fi
    };
    ended == CLIENTS && ALL(IS_HOME); /* L1 */
    assert(waiting == 0)
}
