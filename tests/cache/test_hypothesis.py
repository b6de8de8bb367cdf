#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Random sequences of operations on a cache with a virtual clock, and on its reference model (model_cache.py), side by side.

After each operation its result, what was destroyed with which cause, and the statistics must be the model's, and
pnx_cache_check() must find nothing.  A failure prints the shortest sequence that was found to show it, as a program.
PNX_TEST_LONG=1 runs more of them, at random.
"""
import ctypes
import os
import unittest

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

import model_cache
from model_cache import must

SHIM = os.environ.get("PNX_SHIM", "build/dev/tests/cache/libcache_hypothesis_shim.so")
LONG = os.environ.get("PNX_TEST_LONG", "0") not in ("", "0")
START = 10**9
PLACES = 8
ASKED = 3
STATS = ("hits misses inserts removed_explicit removed_replaced removed_size removed_expired removed_clear entries pinned "
         "computes compute_retries weight rejected negative_hits loads load_failures refreshes refresh_failures loading "
         "requests").split()

shim = ctypes.CDLL(SHIM)
I64, POINTER = ctypes.c_int64, ctypes.POINTER(ctypes.c_int64)
shim.shim_create.argtypes = [ctypes.c_uint64, ctypes.c_uint64, I64, I64, I64]
shim.shim_check.restype = ctypes.c_char_p
shim.shim_log.restype = POINTER
shim.shim_put.argtypes = [ctypes.c_uint8, I64, I64, ctypes.c_int, ctypes.c_int]
shim.shim_get.argtypes = [ctypes.c_uint8, ctypes.c_int, ctypes.c_int]
shim.shim_reserve.argtypes = [ctypes.c_uint8, I64, ctypes.c_int, ctypes.c_int]
shim.shim_commit.argtypes = [ctypes.c_int, I64, ctypes.c_int]
shim.shim_compute.argtypes = [ctypes.c_uint8, ctypes.c_int, I64, I64, ctypes.c_int, POINTER, POINTER]
shim.shim_get_or_load.argtypes = [ctypes.c_uint8, ctypes.c_int, ctypes.c_int, POINTER, POINTER]
shim.shim_get_many.argtypes = [ctypes.c_char_p, ctypes.c_uint64, POINTER, ctypes.POINTER(ctypes.c_uint64)]
shim.shim_set_ttl.argtypes = [I64]
shim.shim_ask.argtypes = [ctypes.c_uint8, ctypes.c_int]
shim.shim_finish.argtypes = [ctypes.c_int, I64, I64, POINTER]
shim.shim_save.argtypes = [POINTER]
shim.shim_load.argtypes = [POINTER] * 3
shim.shim_tick.argtypes = [I64]
shim.shim_pass.argtypes = [I64]
shim.shim_resize.argtypes = [ctypes.c_uint64]
shim.shim_resize_weight.argtypes = [ctypes.c_uint64]
for name in "stat get let_go retain sum tick save load ask".split():
    getattr(shim, "shim_" + name).restype = I64

seen = {}  # how often what has happened: a test in which nothing happens finds nothing

keys = st.integers(0, 9)
spans = st.sampled_from([0, 10**6, 5 * 10**6, 30 * 10**6, model_cache.NEVER])
places = st.integers(0, PLACES - 1)
loads = st.sampled_from([0, 0, 1, 2, 3, 4, 4, 5, 6, 7, 8])
meddling = st.sampled_from([0, 0, 0, 0, 0, 1, 2, 3])
takes = st.sampled_from([0, 0, 1, 4])
LOADS = ("reference", "held_reference", "copy", "request", "request_that_cannot_wait", "refresh")


class CacheMachine(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.model = None
        self.serial = 0
        self.sound = True   # nothing has failed: what does would be hidden by what fails after it
        self.refs = {}      # place: the model's entry
        self.reserved = {}  # place: (key, value)

    @initialize(entries=st.integers(1, 12), weight=st.one_of(st.just(0), st.integers(1, 30)), span=spans, negative=spans)
    def create(self, entries, weight, span, negative):
        ttl, negative_ttl = self.default_life(span), self.absence_life(negative)
        must(shim.shim_create(entries, weight, START, ttl, negative_ttl) == 0, "create failed")
        self.model = model_cache.Cache(entries, weight, START, ttl or model_cache.NEVER, negative_ttl or model_cache.NEVER)
        seen["weighed"] = seen.get("weighed", 0) + (weight > 0)
        seen["unweighed"] = seen.get("unweighed", 0) + (weight == 0)
        self.settle()

    def teardown(self):
        if not self.model:
            return
        model = self.model
        model.close()
        for entry in self.refs.values():
            model.drop(entry)
        shim.shim_release()
        if self.sound:
            self.hear()
        for what, n in model.n.items():
            seen[what] = seen.get(what, 0) + n

    def number(self):
        """A value that none had before, at a moment at which nothing was stored before."""
        self.serial += 1
        self.model.now += 1
        shim.shim_pass(1)
        return self.serial

    # Times to live that end when no other does: times are milliseconds and twice a number, or half a millisecond, thousands
    # and a number, or a quarter and a number.  There are fewer than 250 numbers.

    def life(self, span):
        return span if span in (0, model_cache.NEVER) else span + self.serial

    def default_life(self, span):
        return span if span in (0, model_cache.NEVER) else span + 500_000 + 1000 * self.serial

    def absence_life(self, span):
        return span if span in (0, model_cache.NEVER) else span + 250_000

    def hear(self):
        n = ctypes.c_int32()
        log = shim.shim_log(ctypes.byref(n))
        found = sorted((log[2 * i], log[2 * i + 1]) for i in range(n.value))
        wanted = sorted(self.model.destroyed)
        self.model.destroyed = []
        must(found == wanted, f"destroyed (value, cause): {found}, by the model {wanted}")

    def settle(self):
        self.sound = False
        self.hear()
        broken = shim.shim_check()
        must(broken is None, f"pnx_cache_check(): {broken}")
        model = self.model
        model.n["entries"] = len(model.entries)
        model.n["pinned"] = len(self.refs) + len(self.reserved)
        model.n["weight"] = model.weight()
        model.n["loading"] = 1 if model.kept else 0
        model.n["requests"] = len(model.kept.places) if model.kept else 0
        for i, name in enumerate(STATS):
            found = shim.shim_stat(i)
            must(found == model.n[name], f"{name} is {found}, by the model {model.n[name]}")
        self.sound = True

    def check(self, found, wanted):
        self.sound = found == wanted
        must(self.sound, f"the cache returned {found}, the model {wanted}")
        self.settle()

    # ---- rules ----

    @rule(key=keys, span=spans, if_absent=st.booleans(), boxed=st.booleans())
    def put(self, key, span, if_absent, boxed):
        value = self.number()
        ttl = self.life(span)
        seen["boxed"] = seen.get("boxed", 0) + boxed
        self.check(shim.shim_put(key, value, ttl, if_absent, boxed), self.model.put(key, value, ttl, if_absent, boxed))

    @rule(key=keys, how=st.integers(0, 4), place=places)
    def get(self, key, how, place):
        if how == 4 and place in self.refs:
            how = 0
        entry = self.model.look(key, counts_misses=how != 2)
        wanted = model_cache.ENOENT
        if entry and entry.value is None:
            wanted = model_cache.ENODATA if how == 2 else model_cache.ENOENT
        elif entry:
            wanted = model_cache.ENOTSUP if entry.boxed and how in (1, 3) else entry.value
        if how == 4 and wanted >= 0:
            entry.refs += 1
            self.refs[place] = entry
        self.check(shim.shim_get(key, how, place), wanted)

    @rule(many=st.lists(keys, max_size=12))
    def get_many(self, many):
        n, found, bits = len(many), (ctypes.c_int64 * 12)(*[-1] * 12), ctypes.c_uint64()
        wanted = []
        for key in many:
            entry = self.model.look(key)
            wanted.append(entry.value if entry and entry.value is not None and not entry.boxed else -1)
        count = shim.shim_get_many(bytes(many), n, found, ctypes.byref(bits))
        found_there = sum(1 << i for i in range(n) if wanted[i] >= 0)
        seen["found_of_many"] = seen.get("found_of_many", 0) + bin(found_there).count("1")
        self.check((count, bits.value, list(found)[:n]), (bin(found_there).count("1"), found_there, wanted))

    def load_by(self, call, key, what, span, meddle, takes, place=0):
        value, other = self.number(), self.number()
        order = (what, value, self.life(span), meddle, other, takes * 10**6)
        if what == 3 and meddle == 1:
            return  # its other number is for one of the two
        if self.model.kept and self.model.kept.key == key:
            return  # it would wait, and nobody would end it
        found = (ctypes.c_int64 * 3)()
        wanted, held = self.model.load(key, call, *order)
        code = shim.shim_get_or_load(key, call, place, (ctypes.c_int64 * 6)(*order), found)
        if held:
            self.refs[place] = held
        how = "loaded_by_" + LOADS[call]
        seen[how] = seen.get(how, 0) + wanted[3]
        seen["overtaken"] = seen.get("overtaken", 0) + (wanted[3] and meddle > 0)
        self.check((code, *found), wanted)

    @rule(key=keys, what=loads, span=spans, meddle=meddling, takes=takes, place=places,
          call=st.integers(model_cache.CALL, model_cache.CALL_ASYNC_NOW))
    def get_or_load(self, key, what, span, meddle, takes, place, call):
        if call == model_cache.CALL_AND_HOLD and place in self.refs:
            call = model_cache.CALL
        self.load_by(call, key, what, span, meddle, takes, place)

    @rule(key=keys, what=loads, span=spans, meddle=meddling, takes=takes)
    def refresh(self, key, what, span, meddle, takes):
        self.load_by(model_cache.CALL_REFRESH, key, what, span, meddle, takes)

    @rule(key=keys, place=st.integers(0, ASKED - 1))
    def ask(self, key, place):
        kept = self.model.kept
        if kept and (kept.overtaken or place in kept.places):
            return
        wanted = self.model.ask(kept.key if kept else key, place)
        seen["asked"] = seen.get("asked", 0) + (wanted == 1)
        self.check(shim.shim_ask(key, place), wanted)

    @precondition(lambda self: self.model and self.model.kept and self.model.kept.places)
    @rule(which=st.integers(0, ASKED - 1))
    def cancel(self, which):
        places = self.model.kept.places
        place = places.pop(which % len(places))
        seen["cancelled"] = seen.get("cancelled", 0) + 1
        self.check(shim.shim_cancel(place), 0)

    @precondition(lambda self: self.model and self.model.kept)
    @rule(code=st.sampled_from([0, 0, model_cache.ENOENT, model_cache.EIO]), span=spans)
    def finish(self, code, span):
        value, told = self.number(), (ctypes.c_int64 * ASKED)()
        ttl = self.life(span)
        seen["finished_overtaken"] = seen.get("finished_overtaken", 0) + self.model.kept.overtaken
        places, what = self.model.finish(code, value, ttl)
        found = shim.shim_finish(code, value, ttl, told)
        self.check((found, *told), (0, *(what if place in places else 1 for place in range(ASKED))))

    @rule(span=spans)
    def set_ttl(self, span):
        self.number()
        ttl = self.default_life(span)
        self.model.ttl = ttl or model_cache.NEVER
        seen["set_ttl"] = seen.get("set_ttl", 0) + 1
        self.check(shim.shim_set_ttl(ttl), 0)

    @precondition(lambda self: self.refs)
    @rule(place=places)
    def let_go(self, place):
        place = sorted(self.refs)[place % len(self.refs)]
        entry = self.refs.pop(place)
        value = entry.value
        self.model.drop(entry)
        self.check(shim.shim_let_go(place), value)

    @rule(key=keys)
    def remove(self, key):
        self.check(shim.shim_remove(key), self.model.remove(key))

    @rule(key=keys, place=places, more=st.sampled_from([0, 0, 1, 100]))
    def reserve(self, key, place, more):
        if place in self.reserved:
            return
        self.reserved[place] = (key, self.number())
        self.check(shim.shim_reserve(key, self.reserved[place][1], place, more), 0)

    @precondition(lambda self: self.reserved)
    @rule(place=places, span=spans, how=st.integers(0, 2))
    def commit(self, place, span, how):
        place = sorted(self.reserved)[place % len(self.reserved)]
        key, value = self.reserved.pop(place)
        self.number()
        ttl = self.life(span)
        wanted = 0 if how == 2 else self.model.put(key, value, ttl, how == 1)
        seen["commits"] = seen.get("commits", 0) + (how != 2)
        self.check(shim.shim_commit(place, ttl, how), wanted)

    @rule(key=keys, what=st.integers(0, 6), span=spans, copy=st.booleans())
    def compute(self, key, what, span, copy):
        value, saw, left = self.number(), I64(), I64()
        ttl = self.life(span)
        wanted = self.model.compute(key, what, value, ttl, copy)
        code = shim.shim_compute(key, what, value, ttl, copy, ctypes.byref(saw), ctypes.byref(left))
        self.check((code, saw.value, left.value), wanted)

    @rule(rest=st.integers(0, 2))
    def retain(self, rest):
        wanted = self.model.retain(rest)
        seen["retained"] = seen.get("retained", 0) + wanted
        self.check(shim.shim_retain(rest), wanted)

    @rule()
    def walk(self):
        self.check(shim.shim_sum(), sum(entry.value for entry in self.model.visible()))

    @rule(chance=st.integers(0, 9))
    def clear(self, chance):
        if chance == 3:  # else there would never be much
            self.model.clear()
            self.check(shim.shim_clear(), 0)

    @rule(ms=st.sampled_from([0, 1, 4, 20]))
    def tick(self, ms):
        self.model.now += ms * 10**6
        wanted = self.model.tick()
        self.check(shim.shim_tick(ms * 10**6), wanted)

    @rule(ms=st.sampled_from([1, 4, 20]))
    def time_passes(self, ms):
        self.model.now += ms * 10**6
        shim.shim_pass(ms * 10**6)
        self.settle()

    @rule(entries=st.integers(1, 12))
    def resize(self, entries):
        self.model.resize(entries=entries)
        self.check(shim.shim_resize(entries), 0)

    @precondition(lambda self: self.model and self.model.weighed)
    @rule(weight=st.integers(1, 30))
    def resize_weight(self, weight):
        self.model.resize(weight=weight)
        seen["resized_weight"] = seen.get("resized_weight", 0) + 1
        self.check(shim.shim_resize_weight(weight), 0)

    @rule()
    def save(self):
        left_out = I64()
        wanted = self.model.save()
        seen["left_out"] = seen.get("left_out", 0) + wanted[1]
        self.check((shim.shim_save(ctypes.byref(left_out)), left_out.value), wanted)

    @precondition(lambda self: self.model and self.model.saved is not None)
    @rule()
    def load(self):
        present, expired, no_room = I64(), I64(), I64()
        wanted = self.model.load_file()
        put = shim.shim_load(ctypes.byref(present), ctypes.byref(expired), ctypes.byref(no_room))
        for what, n in zip(("loaded", "present", "expired_on_disk", "no_room"), wanted):
            seen[what] = seen.get(what, 0) + n
        self.check((put, present.value, expired.value, no_room.value), wanted)


class Hypothesis(unittest.TestCase):
    def test_random_operations_do_what_the_reference_model_does(self):
        run_state_machine_as_test(CacheMachine, settings=settings(
            max_examples=3000 if LONG else 200, stateful_step_count=60, derandomize=not LONG, database=None, deadline=None,
            print_blob=True, suppress_health_check=list(HealthCheck)))
        print("  " + ", ".join(f"{count} {what}" for what, count in sorted(seen.items())))
        for what in ("hits misses inserts removed_explicit removed_replaced removed_size removed_expired removed_clear "
                     "computes commits retained loaded present expired_on_disk no_room rejected weighed unweighed "
                     "resized_weight boxed found_of_many set_ttl left_out overtaken negative_hits load_failures "
                     "refresh_failures loaded_by_reference loaded_by_held_reference loaded_by_copy loaded_by_request "
                     "loaded_by_refresh asked cancelled finished_overtaken").split():
            self.assertGreater(seen.get(what, 0), 9, f"{what} hardly happened")


if __name__ == "__main__":
    unittest.main()
