#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Random sequences of operations on a cache of fixed sizes with a virtual clock, and on a model of it, side by side.

After each operation its result and the statistics must be the model's, and pnx_cache_check() must find nothing.  What the
header leaves open is looked up, and held to what it allows: a time to live counts in ticks of 67 ms and is rounded down, so
that an entry may be gone up to a tick before its time, and is never there at its time; what has expired is not always known to
whoever makes room, so that who else goes is the policy's to say, in exactly its order where that is lru.  PNX_TEST_LONG=1 runs
more of them, at random.
"""
import collections
import ctypes
import os
import unittest

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

SHIM = os.environ.get("PNX_SHIM", "build/dev/tests/cache/libcache_hypothesis_fixed_shim.so")
LONG = os.environ.get("PNX_TEST_LONG", "0") not in ("", "0")
START = 10**9
TICK = 2**26
SHORTEST = 2 * TICK
NEVER = 2**63 - 1
TICK_MAX = 8
ENOENT, EIO, EEXIST, EINVAL, ENOTSUP = -2, -5, -17, -22, -95
EXACT = ("hits misses inserts removed_explicit removed_replaced computes compute_retries loads load_failures refreshes "
         "refresh_failures negative_hits rejected pinned loading").split()
STATS = EXACT + "removed_size removed_expired removed_clear entries".split()

I64, POINTER = ctypes.c_int64, ctypes.POINTER(ctypes.c_int64)
shim = ctypes.CDLL(SHIM)
shim.shim_create.argtypes = [ctypes.c_uint64, ctypes.c_char_p, I64, I64]
shim.shim_check.restype = ctypes.c_char_p
shim.shim_each.argtypes = [POINTER]
shim.shim_put.argtypes = [I64, I64, I64, ctypes.c_int]
shim.shim_get.argtypes = [I64]
shim.shim_get_many.argtypes = [POINTER, ctypes.c_uint64, POINTER, ctypes.POINTER(ctypes.c_uint64)]
shim.shim_remove.argtypes = [I64]
shim.shim_compute.argtypes = [I64, ctypes.c_int, I64, I64, POINTER, POINTER]
shim.shim_get_or_load.argtypes = [I64, ctypes.c_int, POINTER, POINTER]
shim.shim_tick.argtypes = [I64]
shim.shim_pass.argtypes = [I64]
shim.shim_resize.argtypes = [ctypes.c_uint64]
shim.shim_set_ttl.argtypes = [I64]
shim.shim_load.argtypes = [POINTER] * 3
shim.shim_refused.argtypes = [I64]
for name in "stat get retain tick save load".split():
    getattr(shim, "shim_" + name).restype = I64

seen = collections.Counter()  # how often what has happened: a test in which nothing happens finds nothing

keys = st.integers(0, 11)
spans = st.sampled_from([0, 0, NEVER, SHORTEST, SHORTEST + 1, 3 * TICK - 1, 10 * TICK, 10**9, 1, SHORTEST - 1])
spans_of_caches = st.sampled_from([0, 0, NEVER, SHORTEST, 5 * TICK])
times = st.sampled_from([1, 10**6, TICK // 2, TICK - 1, TICK, 2 * TICK, 10**9])
policies = st.sampled_from("lru lru lru lru s3-fifo sieve w-tinylfu auto".split())
Entry = collections.namedtuple("Entry", "value expires used")


def must(condition, what):
    if not condition:
        raise AssertionError(what)


def too_short(ttl):
    return 0 < ttl < SHORTEST


class FixedCacheMachine(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.made = False
        self.serial = 0   # of values
        self.used = 0     # of uses
        self.saved = None
        self.n = collections.Counter()

    @initialize(entries=st.integers(1, 14), policy=policies, ttl=spans_of_caches)
    def create(self, entries, policy, ttl):
        must(shim.shim_create(entries, policy.encode(), START, ttl) == 0, "create failed")
        self.made = True
        self.now, self.capacity, self.ttl, self.lru = START, entries, ttl or NEVER, policy == "lru"
        self.entries = {}     # key: an entry that is there, as far as is known
        self.last = dict.fromkeys(STATS, 0)
        self.settle()

    def teardown(self):
        if self.made:
            shim.shim_release()
            seen.update(self.last)

    # ---- the model ----

    def number(self):
        """A value that none had before."""
        self.serial += 1
        return self.serial

    def use(self, key):
        self.used += 1
        self.entries[key] = self.entries[key]._replace(used=self.used)

    def look(self, key):
        entry = self.entries.get(key)
        self.n["hits" if entry else "misses"] += 1
        if entry:
            self.use(key)
        return entry

    def store(self, key, value, ttl, expires=None):
        ttl = ttl or self.ttl
        if key in self.entries:
            self.n["removed_replaced"] += 1
        self.n["inserts"] += 1
        self.used += 1
        if expires is None:
            expires = NEVER if ttl == NEVER else self.now + ttl
        self.entries[key] = Entry(value, expires, self.used)

    def take_out(self, key):
        """Returns whether it was there."""
        self.n["removed_explicit"] += key in self.entries
        return self.entries.pop(key, None) is not None

    # ---- what must be ----

    def visible(self):
        found = (ctypes.c_int64 * 128)()
        n = shim.shim_each(found)
        must(n >= 0, f"each_copy returned {n}")
        all_of_it = {found[2 * i]: found[2 * i + 1] for i in range(n)}
        must(len(all_of_it) == n, "a key was visited twice")
        return all_of_it

    def settle(self, stored=None):
        """Looks what is there, which must be what the model has, but for what may have gone.  stored: a key that must be."""
        broken = shim.shim_check()
        must(broken is None, f"pnx_cache_check(): {broken}")
        now = {name: shim.shim_stat(i) for i, name in enumerate(STATS)}
        evicted = now["removed_size"] - self.last["removed_size"]
        there, live = self.visible(), []
        for key, value in there.items():
            entry = self.entries.get(key)
            must(entry and entry.value == value, f"key {key} has value {value}, by the model {entry}")
            must(self.now < entry.expires, f"key {key} is there at its time")
            live.append(entry.used)
        missed = [self.entries[key] for key in self.entries if key not in there]
        early = sum(self.now < e.expires <= self.now + TICK for e in missed)
        gone = [e for e in missed if self.now + TICK < e.expires]
        seen["early"] += early
        must(stored is None or stored in there, f"key {stored} was stored and is not there")
        must(len(gone) <= evicted, f"{len(gone)} have gone before their time, and {evicted} were evicted")
        if self.lru and gone and live:
            must(max(e.used for e in gone) <= min(live), "lru: who went was used later than somebody who stayed")
        self.entries = {key: e for key, e in self.entries.items() if key in there}
        must(now["entries"] <= self.capacity, f"{now['entries']} entries, {self.capacity} are allowed")
        must(now["entries"] >= len(there), "fewer entries than there are")
        must(not evicted or now["entries"] == self.capacity, "it evicted what there was room for")
        removed = sum(now["removed_" + cause] for cause in "explicit size expired clear".split())
        must(now["inserts"] == now["entries"] + removed + now["removed_replaced"], f"the counts do not add up: {now}")
        must(not now["removed_expired"] or self.timed, "what does not expire has expired")
        if not self.timed:
            must(now["entries"] == len(there) and len(gone) == evicted, "there are entries that are not found")
        for what in EXACT:
            must(now[what] == self.n[what], f"{what} is {now[what]}, by the model {self.n[what]}")
        self.last = now

    timed = False  # something was stored that expires

    def check(self, found, wanted, stored=None):
        must(found == wanted, f"the cache returned {found}, the model {wanted}")
        self.timed = self.timed or any(e.expires != NEVER for e in self.entries.values())
        self.settle(stored)

    # ---- rules ----

    @rule(key=keys, span=spans, if_absent=st.booleans())
    def put(self, key, span, if_absent):
        value = self.number()
        wanted = EINVAL if too_short(span) else EEXIST if if_absent and key in self.entries else 0
        if wanted == 0:
            self.store(key, value, span)
        seen[f"put_{wanted}"] += 1
        self.check(shim.shim_put(key, value, span, if_absent), wanted, key if wanted == 0 else None)

    @rule(key=keys)
    def get(self, key):
        entry = self.look(key)
        self.check(shim.shim_get(key), entry.value if entry else ENOENT)

    @rule(many=st.lists(keys, max_size=12))
    def get_many(self, many):
        n, found, bits = len(many), (ctypes.c_int64 * 12)(*[-1] * 12), ctypes.c_uint64()
        entries = [self.look(key) for key in many]
        wanted = [entry.value if entry else -1 for entry in entries]
        count = shim.shim_get_many((ctypes.c_int64 * 12)(*many), n, found, ctypes.byref(bits))
        there = sum(1 << i for i in range(n) if entries[i])
        seen["found_of_many"] += bin(there).count("1")
        self.check((count, bits.value, list(found)[:n]), (bin(there).count("1"), there, wanted))

    @rule(key=keys)
    def remove(self, key):
        self.check(shim.shim_remove(key), 0 if self.take_out(key) else ENOENT)

    @rule(key=keys, what=st.integers(0, 7), span=spans)
    def compute(self, key, what, span):
        value, saw, left = self.number(), I64(), I64()
        entry = self.look(key)
        self.n["computes"] += 1
        before = entry.value if entry else -1
        wanted, stored = (0, before, before), None
        if what == 1:
            self.take_out(key)
            wanted = (0, before, -1)
        elif what in (2, 3, 5, 6, 7) and too_short(span):
            wanted = (EINVAL, before, -1)
        elif what in (2, 4, 5):
            expires = entry.expires if what == 4 and entry else None
            self.store(key, value, 0 if what == 4 else span, expires)
            wanted, stored = (0, before, value), key
        elif what != 0:
            wanted = ({3: EIO, 6: EINVAL, 7: ENOTSUP}[what], before, -1)
        code = shim.shim_compute(key, what, value, span, ctypes.byref(saw), ctypes.byref(left))
        self.check((code, saw.value, left.value), wanted, stored)

    @rule(key=keys, what=st.sampled_from([0, 0, 0, 1, 2, 3, 4, 5, 6, 7]), span=spans, refresh=st.booleans(),
          meddle=st.sampled_from([0, 0, 0, 0, 1, 2, 3]))
    def get_or_load(self, key, what, span, refresh, meddle):
        value, other = self.number(), self.number()
        numbers = (ctypes.c_int64 * 5)(what, value, span, meddle, other)
        found = (ctypes.c_int64 * 2)()
        entry = None if refresh else self.look(key)
        if entry:
            wanted, stored = (0, entry.value, 0), None
        else:
            wanted, stored = self.load(key, what, value, span, refresh, meddle, other)
        seen["overtaken"] += meddle > 0 and not entry
        code = shim.shim_get_or_load(key, refresh, numbers, found)
        self.check((code, found[0], found[1]), wanted, stored)

    def load(self, key, what, value, span, refresh, meddle, other):
        """Returns the code, the value or -1, and how often the loader is called; and what was stored."""
        stored = None
        if meddle == 1:
            self.store(key, other, NEVER)
            stored = key
        elif meddle == 2:
            self.take_out(key)
        elif meddle == 3:
            self.entries = {}
        code = EINVAL if too_short(span) or what in (5, 6) else {2: ENOENT, 3: EIO, 4: EIO, 7: ENOTSUP}.get(what, 0)
        failed = code not in (0, ENOENT)
        self.n["loads"] += 1
        self.n["load_failures"] += failed
        self.n["refreshes"] += refresh
        self.n["refresh_failures"] += refresh and failed
        if code == 0 and not meddle:
            self.store(key, value, span)
            stored = key
        elif code == ENOENT and refresh and not meddle:
            self.take_out(key)
        return (code, value if code == 0 and not refresh else -1, 1), stored

    @rule(rest=st.integers(0, 2))
    def retain(self, rest):
        gone = [key for key, e in self.entries.items() if e.value % 3 == rest]
        for key in gone:
            self.take_out(key)
        seen["retained"] += len(gone)
        self.check(shim.shim_retain(rest), len(gone))

    @rule(chance=st.integers(0, 9))
    def clear(self, chance):
        if chance == 3:  # else there would never be much
            self.entries = {}
            self.check(shim.shim_clear(), 0)
            must(self.last["entries"] == 0, "something is left")

    @rule(more=times)
    def tick(self, more):
        self.now += more
        before = self.last["removed_expired"]
        due = shim.shim_tick(more)
        must(due >= self.now, "the next tick is to be in the past")
        self.check(0, 0)
        removed = self.last["removed_expired"] - before
        must(removed <= TICK_MAX, f"a tick removed {removed}")
        # A value that takes the place of one that was to stay longer may go as late as that: there is a next tick, at least.
        must(due != NEVER or all(e.expires == NEVER for e in self.entries.values()), "there is no next tick")

    @rule(more=times)
    def time_passes(self, more):
        self.now += more
        shim.shim_pass(more)
        self.settle()

    @rule(entries=st.integers(1, 14))
    def resize(self, entries):
        self.capacity = entries
        self.check(shim.shim_resize(entries), 0)

    @rule(span=spans)
    def set_ttl(self, span):
        if not too_short(span):
            self.ttl = span or NEVER
        self.check(shim.shim_set_ttl(span), EINVAL if too_short(span) else 0)

    @rule(key=keys)
    def what_there_is_not(self, key):
        self.check(shim.shim_refused(key), 0)

    @rule()
    def save(self):
        self.saved = dict(self.entries)
        self.check(shim.shim_save(), len(self.saved))

    @precondition(lambda self: self.saved)
    @rule()
    def load_file(self):
        present, expired, no_room = I64(), I64(), I64()
        room = self.capacity - self.last["entries"]
        put = shim.shim_load(ctypes.byref(present), ctypes.byref(expired), ctypes.byref(no_room))
        must(put >= 0, f"load_file returned {put}")
        left = [e.expires - self.now for e in self.saved.values()]
        over = sum(ns < SHORTEST for ns in left)
        perhaps = sum(SHORTEST <= ns < SHORTEST + TICK for ns in left)
        found = (present.value, expired.value, no_room.value)
        must(put + sum(found) == len(self.saved), f"{len(self.saved)} were saved; put {put}, and {found}")
        must(over <= expired.value <= over + perhaps, f"{expired.value} had expired, by the model {over} and up to {perhaps}")
        must(put <= max(0, room), f"{put} were put where there was room for {room}")
        must(no_room.value == max(0, len(self.saved) - expired.value - max(0, room)), f"{no_room.value} had no room, of {room}")
        self.used += 1  # the order among them is not known
        new = {key: e for key, e in self.saved.items() if key not in self.entries and e.expires >= self.now + SHORTEST}
        there = self.visible()
        for key in [key for key in new if key in there]:
            self.entries[key] = new[key]._replace(used=self.used)
            put -= 1
        must(put == 0, f"{put} more were put than have come")
        self.n["inserts"] = shim.shim_stat(STATS.index("inserts"))
        must(self.n["inserts"] == self.last["inserts"] + len([key for key in new if key in there]), "inserts")
        for what, n in zip("present expired_on_disk no_room".split(), found):
            seen[what] += n
        before = self.last["removed_size"]
        self.check(0, 0)
        must(self.last["removed_size"] == before, "what was loaded evicted something")


class Hypothesis(unittest.TestCase):
    def test_random_operations_on_fixed_sizes_do_what_the_model_does(self):
        run_state_machine_as_test(FixedCacheMachine, settings=settings(
            max_examples=3000 if LONG else 200, stateful_step_count=60, derandomize=not LONG, database=None, deadline=None,
            print_blob=True, suppress_health_check=list(HealthCheck)))
        print("  " + ", ".join(f"{count} {what}" for what, count in sorted(seen.items())))
        for what in ("hits misses inserts removed_explicit removed_replaced removed_size removed_expired removed_clear "
                     "computes loads load_failures refreshes refresh_failures early put_0 put_-17 put_-22 found_of_many "
                     "overtaken retained present expired_on_disk no_room").split():
            self.assertGreater(seen[what], 9, f"{what} hardly happened")


if __name__ == "__main__":
    unittest.main()
