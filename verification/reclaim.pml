/* SPDX-License-Identifier: Apache-2.0 */
/*
 * reclaim.pml - the grace period of src/share/reclaim.c, with explicit store buffers.  verification/README.md
 * says what this is evidence for and what it is not; verification/spin.py runs it in the configurations that it
 * lists, and the known-bad variants, which Spin must refute.
 *
 * Readers register, enter sections, load the published object, use it, leave and end; one of them may nest.
 * The writer publishes new objects and retires the old ones; it, and a second thread if there is one, runs steps of
 * the grace period.  Checked:
 *   S1  Nobody uses an object that has been freed.
 *   S2  Nothing is freed twice.
 *   L1  Every run ends with everything retired freed: no process waits for ever (nothing here loops without end,
 *       so that a wait that never ends is an invalid end state, which Spin reports).  A reader that entered anew
 *       after the snapshot even stays in its section until the grace period is over, so one that waited for it
 *       would never end.
 */

#ifndef READERS
#define READERS 2
#endif
#ifndef ROUNDS /* times that each reader registers and ends */
#define ROUNDS 1
#endif
#ifndef SECTIONS /* of the first reader in each round; the others have one fewer, but at least one */
#define SECTIONS 2
#endif
#ifndef OBJECTS /* the writer publishes OBJECTS - 1 times */
#define OBJECTS 2
#endif
#ifndef OTHERS /* further threads that tick or synchronize */
#define OTHERS 0
#endif
#ifndef RECORDS
#define RECORDS 2
#endif
#ifndef BUFFER /* stores that a thread may have outstanding */
#define BUFFER 4
#endif

#define WRITER READERS
#define THREADS (READERS + 1 + OTHERS)

/* ---- memory: locations, and a store buffer for each thread ---- */
#define PUBLISHED 0 /* the object that readers load */
#define LOCK 1      /* the domain's */
#define HEAD 2      /* of the list of records: how many there are; record i was pushed as the i-th */
#define RETIRED 3   /* the writer's stack, here a set of objects, a bit each */
#define CHANGED 4   /* the domain's futex word */
#define WORD(r) (5 + (r))
#define USED(r) (5 + RECORDS + (r)) /* a thread has it */
#define AWAITED(r) (5 + 2 * RECORDS + (r))
#define LOCATIONS (5 + 3 * RECORDS)

byte mem[LOCATIONS];
byte where_[THREADS * BUFFER];
byte what_[THREADS * BUFFER];
byte length[THREADS];
byte buffered[LOCATIONS]; /* how many stores to it are in buffers; */
byte holder[LOCATIONS];   /* then the thread whose buffer has the newest, + 1 */
byte i_;                  /* scratch of d_steps; always 0 between them */

/* A thread sees its own stores at once. */
inline view(t, at, ret_value) {
    ret_value = mem[at];
    i_ = 0;
    do
    :: i_ < length[t] ->
        if
        :: where_[(t) * BUFFER + i_] == at -> ret_value = what_[(t) * BUFFER + i_]
        :: else
        fi;
        i_++
    :: else -> break
    od;
    i_ = 0
}
#define ROOM(t) (length[t] < BUFFER)
inline put(t, at, value) {
    where_[(t) * BUFFER + length[t]] = at;
    what_[(t) * BUFFER + length[t]] = value;
    length[t]++;
    buffered[at]++;
    holder[at] = t + 1
}

inline LOAD(t, at, ret_value) {
    d_step { view(t, at, ret_value) }
}

/* A release store: becomes visible after all earlier stores of its thread. */
inline STORE(t, at, value) {
    d_step { ROOM(t) -> put(t, at, value) }
}

/* Atomic read-modify-writes that keep neither earlier stores nor later loads in their place: their own store may
 * stay in the buffer, but no other thread's to the same place comes between. */
#define MINE(t, at) (buffered[at] == 0 || holder[at] == (t) + 1)

inline CAS(t, at, expected, value, ret_done) {
    d_step {
        MINE(t, at) && ROOM(t);
        view(t, at, ret_done);
        ret_done = (ret_done == expected);
        if
        :: ret_done -> put(t, at, value)
        :: else
        fi
    }
}
inline EXCHANGE(t, at, value, ret_old) {
    d_step {
        MINE(t, at) && ROOM(t);
        view(t, at, ret_old);
        put(t, at, value)
    }
}
/* Adds what is not in it; scratch ends as 0. */
inline ADD(t, at, n, scratch) {
    d_step {
        MINE(t, at) && ROOM(t);
        view(t, at, scratch);
        put(t, at, scratch + (n));
        scratch = 0
    }
}

/* The oldest store of the thread becomes visible to all. */
inline commit(t) {
    mem[where_[(t) * BUFFER]] = what_[(t) * BUFFER];
    buffered[where_[(t) * BUFFER]]--;
    if
    :: buffered[where_[(t) * BUFFER]] == 0 -> holder[where_[(t) * BUFFER]] = 0
    :: else
    fi;
    i_ = 0;
    do
    :: i_ + 1 < length[t] ->
        where_[(t) * BUFFER + i_] = where_[(t) * BUFFER + i_ + 1];
        what_[(t) * BUFFER + i_] = what_[(t) * BUFFER + i_ + 1];
        i_++
    :: else -> break
    od;
    where_[(t) * BUFFER + i_] = 0;
    what_[(t) * BUFFER + i_] = 0;
    i_ = 0;
    length[t]--
}
inline drain(t) {
    d_step {
        do
        :: length[t] > 0 -> commit(t)
        :: else -> break
        od
    }
}

/* Stores leave the buffers in their order, whenever they like. */
active proctype memory() {
end_memory:
    do
    :: d_step { length[0] > 0 -> commit(0) }
    :: d_step { length[1] > 0 -> commit(1) }
#if THREADS > 2
    :: d_step { length[2] > 0 -> commit(2) }
#endif
#if THREADS > 3
    :: d_step { length[3] > 0 -> commit(3) }
#endif
    od
}

/* ---- the barrier's halves ---- */

/* pnx__fence(PNX_SEQ_CST, "reclaim.light"), or nothing that the processor sees. */
inline light(t) {
#ifdef FENCES
    length[t] == 0
#else
    skip
#endif
}

/* reclaim.heavy: a fence, and in membarrier mode one in each thread, at a time of its own for each. */
inline heavy(t, scratch) {
#ifndef BAD_NO_HEAVY
    drain(t);
#ifndef FENCES
    scratch = 0;
    do
    :: scratch < THREADS -> drain(scratch); scratch++
    :: else -> break
    od;
    scratch = 0
#endif
#else
    skip
#endif
}

/* ---- readers: include/patinox/reclaim_inl.h, src/share/reclaim_thread.c ---- */

/* A section word: number * 4 + nesting. */
#define NUMBER(word) ((word) >> 2)
#define NEST(word) ((word) & 3)

bool freed[OBJECTS];

/* The domain, guarded by its lock. */
byte flight;        /* a set of objects */
byte seen[RECORDS]; /* the words that the grace period waits to see gone; 0: none */
byte begun, ended;  /* grace periods */
byte sleepers;
byte asleep;        /* in the kernel: a set of threads */

inline use(object) {
    assert(!freed[object]) /* S1 */
}

/* pnx_reclaim_enter(); the load of a word that only its own thread writes needs no step of its own. */
inline enter(t, r) {
    d_step {
        ROOM(t);
        view(t, WORD(r), word);
        put(t, WORD(r), word + 1)
    };
    light(t)
}

/* The read-modify-write of changed, and pnx__futex_wake() of all: the kernel's lock orders that after it. */
inline wake_all(t) {
    ADD(t, CHANGED, 1, word);
    d_step { length[t] == 0; asleep = 0 }
}

/* What follows the end of a section: pnx__reclaim_wake(). */
inline tell(t, r) {
    LOAD(t, AWAITED(r), word);
    if
    :: word == 1 -> word = 0; STORE(t, AWAITED(r), 0); wake_all(t)
    :: else
    fi
}

/* pnx_reclaim_exit() */
inline exit_(t, r) {
    d_step {
        ROOM(t);
        view(t, WORD(r), word);
        if
        :: NEST(word) == 1 -> put(t, WORD(r), word + 4 - 1); word = 1
        :: else -> put(t, WORD(r), word - 1); word = 0
        fi
    };
    if
    :: word == 1 -> tell(t, r)
    :: else
    fi
}

/* A section that began after the snapshot may stay until the grace period is over (L1). */
#define OLDER(r) (seen[r] != 0 && NUMBER(seen[r]) != NUMBER(word))
inline stay(r) {
    if
    :: true
    :: OLDER(r) -> !OLDER(r)
    fi
}

/* pnx__reclaim_join(): takes a record that no thread has, or puts a new one on the list. */
inline join(t) {
    LOAD(t, HEAD, word);
    record = 0;
    do
    :: record < word ->
        CAS(t, USED(record), 0, 1, done);
        if
        :: done -> break
        :: else -> record++
        fi
    :: else ->
        assert(word < RECORDS);
        CAS(t, HEAD, word, word + 1, done);
        if
        :: done ->
            record = word;
            break
        :: else -> LOAD(t, HEAD, word); record = 0
        fi
    od;
    done = 0;
    word = 0
}

proctype reader(byte t) {
    byte record, word, object, inner, round, section;
    byte done;
    round = 0;
    do
    :: round < ROUNDS ->
        join(t);
        section = (t > 0 && SECTIONS > 1 -> 1 : 0);
        do
        :: section < SECTIONS ->
            enter(t, record);
            LOAD(t, PUBLISHED, object);
            stay(record);
#ifdef NESTED
            if
            :: t == 0 ->
                enter(t, record);
                LOAD(t, PUBLISHED, inner);
                use(inner);
                inner = 0;
                exit_(t, record)
            :: else
            fi;
#endif
#ifdef BAD_PLAIN_EXIT
            /* What the section reads may then be read after its exit is seen. */
            exit_(t, record);
            use(object);
#else
            use(object);
            exit_(t, record);
#endif
            object = 0;
            section++
        :: else -> break
        od;
        section = 0;
        /* leave(): the thread ends. */
        d_step {
            ROOM(t);
            view(t, WORD(record), word);
            put(t, WORD(record), (NUMBER(word) + 1) << 2);
            word = 0
        };
        tell(t, record);
        STORE(t, USED(record), 0);
        record = 0;
        round++
    :: else -> break
    od
}

/* ---- the grace period: src/share/reclaim_gp.c ---- */

#ifdef BAD_NEST_ONLY
#define ENDED(word, was) (NEST(word) == 0)
#else
#define ENDED(word, was) (NEST(word) == 0 || NUMBER(word) != NUMBER(was))
#endif

/* Its store, too, may stay in the buffer. */
inline lock(t) {
    d_step {
        ROOM(t) && (buffered[LOCK] == 0 -> mem[LOCK] == 0 : holder[LOCK] == t + 1);
        put(t, LOCK, 1)
    }
}
inline unlock(t) {
    STORE(t, LOCK, 0)
}

inline gp_end() {
    i_ = 0;
    do
    :: i_ < OBJECTS ->
        if
        :: flight & (1 << i_) ->
            assert(!freed[i_]); /* S2 */
            freed[i_] = true
        :: else
        fi;
        i_++
    :: else -> break
    od;
    i_ = 0;
    flight = 0;
    ended = begun;
    wakes = (sleepers != 0)
}

/* Drops those whose section has ended. */
inline gp_poll(t) {
    do
    :: r < RECORDS ->
        d_step {
            if
            :: seen[r] != 0 ->
                view(t, WORD(r), word);
                if
                :: ENDED(word, seen[r]) -> seen[r] = 0
                :: else -> left = true
                fi;
                word = 0
            :: else
            fi;
            r++
        }
    :: else -> break
    od;
    r = 0;
    d_step {
        if
        :: !left -> gp_end()
        :: else -> left = false
        fi
    }
}

inline scan(t) {
    do
    :: r < head ->
        d_step {
            view(t, WORD(r), word);
            if
            :: NEST(word) != 0 -> seen[r] = word
            :: else
            fi;
            word = 0;
            r++
        }
    :: else -> break
    od;
    r = 0
}

inline gp_begin(t) {
    EXCHANGE(t, RETIRED, 0, flight);
#ifdef BAD_HEAD_FIRST
    LOAD(t, HEAD, head);
#endif
#ifdef BAD_SCAN_FIRST
    LOAD(t, HEAD, head);
    scan(t);
    heavy(t, r);
#else
    heavy(t, r);
#ifndef BAD_HEAD_FIRST
    LOAD(t, HEAD, head);
#endif
    scan(t);
#endif
    head = 0;
    begun++;
    gp_poll(t) /* in the code the scan itself tells that nobody is awaited */
}

/* pnx__reclaim_step(); begins when a condition holds. */
inline step(t, begins) {
    if
    :: begun != ended -> gp_poll(t)
    :: else
    fi;
    if
    :: begun == ended && begins -> gp_begin(t)
    :: else
    fi
}

/* pnx__reclaim_effects() */
inline effects(t) {
    if
    :: wakes -> wakes = false; wake_all(t)
    :: else
    fi
}

/* pnx__reclaim_await() */
inline await(t) {
    do
    :: r < RECORDS ->
        d_step {
            if
            :: seen[r] != 0 && ROOM(t) -> put(t, AWAITED(r), 1)
            :: seen[r] == 0
            fi;
            r++
        }
    :: else -> break
    od;
    r = 0;
#ifndef BAD_AWAIT_NO_HEAVY
    heavy(t, r);
#endif
#ifndef BAD_AWAIT_NO_LOOK
    gp_poll(t)
#endif
}

/* pnx_reclaim_tick(), which never waits. */
inline tick(t) {
    lock(t);
    LOAD(t, RETIRED, need);
    step(t, need != 0);
    need = 0;
    unlock(t);
    effects(t)
}

#define MAY_DROP(r) (seen[r] != 0 && ENDED(mem[WORD(r)], seen[r]))
#if RECORDS == 2
#define ANY_MAY_DROP (MAY_DROP(0) || MAY_DROP(1))
#elif RECORDS == 3
#define ANY_MAY_DROP (MAY_DROP(0) || MAY_DROP(1) || MAY_DROP(2))
#endif

/* wait_for() of src/share/reclaim_run.c: pnx_reclaim_synchronize(), and barrier, since here callbacks are run as
 * soon as their grace period has ended. */
inline wait_for(t) {
    lock(t);
    need = begun + 1;
    do
    :: true ->
        LOAD(t, CHANGED, changed);
        step(t, begun < need);
        /* advance(): one that was in flight has ended, and the next may begin. */
        if
        :: begun == ended && begun < need -> step(t, true)
        :: else
        fi;
        if
        :: ended >= need -> break
        :: else
        fi;
        if
        :: begun != ended -> await(t)
        :: else
        fi;
        if
        :: begun != ended && !wakes ->
            sleepers++;
            unlock(t);
            /* pnx__futex_wait() */
            d_step {
                if
                :: mem[CHANGED] == changed -> asleep = asleep | (1 << t)
                :: else
                fi
            };
#ifdef FENCES
            /* Looks again every millisecond, for an exit has no fence: only looks that find something count. */
            (asleep & (1 << t)) == 0 || ANY_MAY_DROP;
            asleep = asleep & ~(1 << t);
#else
            (asleep & (1 << t)) == 0;
#endif
            lock(t);
            sleepers--
        :: else ->
            if
            :: wakes -> unlock(t); effects(t); lock(t)
            :: else
            fi
        fi
    od;
    unlock(t);
    effects(t);
    need = 0;
    changed = 0
}

proctype writer(byte t) {
    byte r, word, head, object, need, changed;
    bool left, wakes;
    object = 0;
    do
    :: object + 1 < OBJECTS ->
        STORE(t, PUBLISHED, object + 1); /* unlinks object */
#ifdef SYNCHRONIZES
        wait_for(t);
        freed[object] = true;
#else
        ADD(t, RETIRED, 1 << object, word); /* pnx_reclaim_retire() */
        if
        :: object + 2 < OBJECTS -> tick(t)
        :: true
        fi;
#endif
        object++
    :: else -> break
    od;
    object = 0;
#ifndef SYNCHRONIZES
    wait_for(t);
    assert(freed[OBJECTS - 2]) /* L1: all that was retired before */
#endif
}

/* Another thread, that retires nothing: it ticks and synchronizes. */
proctype other(byte t) {
    byte r, word, head, need, changed;
    bool left, wakes;
    if
    :: tick(t)
    :: wait_for(t)
    fi
}

init {
    atomic {
        i_ = 0;
        do
        :: i_ < RECORDS -> mem[USED(i_)] = 1; i_++ /* as their makers will push them */
        :: else -> break
        od;
        i_ = 0;
        do
        :: i_ < READERS -> run reader(i_); i_++
        :: else -> break
        od;
        run writer(WRITER);
        i_ = 0;
        do
        :: i_ < OTHERS -> run other(WRITER + 1 + i_); i_++
        :: else -> break
        od;
        i_ = 0
    }
}
