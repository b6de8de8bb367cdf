#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Random sequences of operations on a pool without threads, and on its reference model (model_pool.py), side by side.

After each operation its code, what the pool called back in which order, and its statistics must be the model's.  A failure
prints the shortest sequence that was found to show it, as a program.  PNX_TEST_LONG=1 runs more of them, at random.
"""
import ctypes
import errno
import itertools
import os
import sys
import tempfile
import unittest

from hypothesis import HealthCheck, Verbosity, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

import model_pool

SHIM = os.environ.get("PNX_SHIM", "build/dev/tests/pool/libhypothesis_shim.so")
LONG = os.environ.get("PNX_TEST_LONG", "0") not in ("", "0")
MS = 1_000_000
START = 1000 * MS  # what the shim's clock shows first
REQUESTS = 8
EVENTS = ("connected", "failed", "closed", "done", "interrupted")  # enum event of the shim

shim = ctypes.CDLL(SHIM)
shim.shim_stat_name.restype = ctypes.c_char_p
shim.shim_stats.restype = ctypes.POINTER(ctypes.c_uint64)
shim.shim_log.restype = ctypes.POINTER(ctypes.c_int32)
shim.shim_tick.argtypes = [ctypes.c_int64]
shim.shim_tick.restype = ctypes.c_int64
shim.shim_ask.argtypes = [ctypes.c_int32, ctypes.c_int64, ctypes.c_int32]
shim.shim_create.argtypes = [ctypes.c_uint32] * 4 + [ctypes.c_int64] * 3

STATS = [name.decode() for name in iter(map(shim.shim_stat_name, itertools.count()).__next__, None)]

seen = {}  # how often what has happened: a test in which nothing happens finds nothing

indices = st.integers(0, 7)
requests = st.integers(0, REQUESTS - 1)
priorities = st.integers(1, 4)  # enum pnx_priority, low to critical


class PoolMachine(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.model = None
        self.is_well = False
        self.gone = []  # resources whose leases were given back

    def teardown(self):
        """The end of each pool: all comes home, and is closed."""
        if not self.model:
            return
        left = list(self.model.in_use)
        if self.is_well:
            self.model.close_begin()
            for number in left:
                self.model.release(number)
        shim.shim_release_pool()
        for number in left:
            shim.shim_release(number)
        if self.is_well:
            self.hear()
            model_pool.must(self.model.size() == 0, "P4: not all was closed")
            for name, count in self.model.n.items():
                seen[name] = seen.get(name, 0) + count

    # ---- side by side ----

    def events(self):
        n = ctypes.c_int32()
        log = shim.shim_log(ctypes.byref(n))
        return [tuple(log[4 * i:4 * i + 4]) for i in range(n.value)]

    def hear(self):
        """Tells the model what has happened."""
        self.is_well = False
        for event, who, code, resource in self.events():
            name = EVENTS[event]
            if name == "done":
                seen[code] = seen.get(code, 0) + 1
                self.model.done(who, code, resource)
            else:
                seen[name] = seen.get(name, 0) + 1
                getattr(self.model, name)(who)
        self.model.settled()
        self.is_well = True

    def settle(self):
        self.hear()
        self.is_well = False
        found, wanted = dict(zip(STATS, shim.shim_stats())), self.model.stats()
        wrong = {name: (found[name], wanted[name]) for name in wanted if found[name] != wanted[name]}
        model_pool.must(not wrong, f"statistics (pool's, model's): {wrong}")
        self.is_well = True

    def check(self, code, wanted):
        self.is_well = False
        model_pool.must(code == wanted, f"the pool returned {code}, the model {wanted}")
        self.settle()

    def held(self, index):
        numbers = sorted(self.model.in_use)
        return numbers[index % len(numbers)]

    def gives_back(self, index):
        number = self.held(index)
        self.gone = [*self.gone[-6:], number]
        return number

    # ---- rules ----

    @initialize(maximum=st.integers(1, 4), min_idle=st.integers(0, 1), max_waiters=st.integers(1, 6),
                breaker_failures=st.integers(1, 4), adopts=st.integers(0, 3))
    def create(self, maximum, min_idle, max_waiters, breaker_failures, adopts):
        options = (maximum, min_idle, max_waiters, breaker_failures, 400 * MS, 10 * MS, 80 * MS)
        model_pool.must(shim.shim_create(*options) == 0, "create failed")
        self.model = model_pool.Pool(*options, START)
        self.settle()
        for _ in range(adopts):
            self.adopt()

    @rule(priority=priorities)
    def try_once(self, priority):
        wanted = self.model.tries()
        code = shim.shim_try(priority)
        if code >= 0:
            model_pool.must(wanted == 0, f"a try had a resource, the model {wanted}")
            self.model.take(code)
        self.check(min(code, 0), wanted)

    @rule(request=requests, timeout=st.sampled_from([0, 5 * MS, 30 * MS, 200 * MS, model_pool.NEVER]), priority=priorities,
          ms=st.sampled_from([None, 0, 1, 10]))
    def ask(self, request, timeout, priority, ms):
        wanted = self.model.ask(request, timeout, 4 - priority)
        self.check(shim.shim_ask(request, timeout, priority), wanted)
        if ms is not None:
            self.tick(ms)

    @rule(asked=st.lists(st.tuples(requests, priorities), min_size=2, max_size=6), ms=st.sampled_from([None, 0, 10]))
    def many_ask(self, asked, ms):
        for request, priority in asked:
            self.ask(request, 200 * MS, priority, None)
        if ms is not None:
            self.tick(ms)

    @rule(request=requests)
    def cancel(self, request):
        wanted = self.model.cancel(request)
        self.check(shim.shim_cancel(request), wanted)

    @precondition(lambda self: self.model and self.model.in_use)
    @rule(index=indices)
    def release(self, index):
        number = self.gives_back(index)
        self.model.release(number)
        shim.shim_release(number)
        self.settle()

    @precondition(lambda self: self.model and self.model.in_use)
    @rule(index=indices)
    def discard(self, index):
        number = self.gives_back(index)
        self.model.discard(number)
        shim.shim_discard(number)
        self.settle()

    @precondition(lambda self: self.model and self.model.in_use)
    @rule(index=indices)
    def stale_all(self, index):
        number = self.gives_back(index)
        self.model.stale_all(number)
        shim.shim_stale_all(number)
        self.settle()

    @precondition(lambda self: self.model and self.model.in_use)
    @rule(index=indices)
    def detach(self, index):
        number = self.gives_back(index)
        self.model.detach(number)
        self.check(shim.shim_detach(number), number)

    @precondition(lambda self: self.gone)
    @rule(index=indices, how=st.integers(0, 3))
    def give_back_again(self, index, how):
        self.model.n["misuses"] += 1
        shim.shim_give_back_copy(self.gone[index % len(self.gone)], how)
        self.settle()

    @rule()
    def adopt(self):
        wanted = self.model.adopt()
        self.check(shim.shim_adopt(), wanted)

    @rule()
    def pause(self):
        wanted = self.model.pause()
        self.check(shim.shim_pause(), wanted)

    @rule()
    def resume(self):
        wanted = self.model.resume()
        self.check(shim.shim_resume(), wanted)

    @rule(flags=st.integers(0, 7), chance=st.integers(0, 3))
    def reset(self, flags, chance):
        if chance != 2:  # else all is always old
            return
        wanted = self.model.reset(flags)
        self.check(shim.shim_reset(flags), wanted)

    @rule(maximum=st.integers(0, 5))
    def resize(self, maximum):
        wanted = self.model.resize(maximum)
        self.check(shim.shim_resize(maximum), wanted)

    @rule(odd_only=st.booleans())
    def evict(self, odd_only):
        wanted = self.model.evict(odd_only)
        self.check(shim.shim_evict(odd_only), wanted)

    @rule(verdicts=st.lists(st.sampled_from([0, 0, 0, 1, 2, 3, -1]), min_size=1, max_size=4))
    def connects_will(self, verdicts):
        for verdict in verdicts:
            shim.shim_verdict(verdict)

    @rule(ms=st.sampled_from([0, 1, 10, 50, 100, 450]))
    def tick(self, ms):
        self.model.tick(self.model.now + ms * MS)
        at = shim.shim_tick(ms * MS)
        self.settle()
        self.model.next_tick(at)

    @rule(chance=st.integers(0, 30))
    def close_begin(self, chance):
        if chance != 13:  # else no pool would live for long
            return
        wanted = self.model.close_begin()
        self.check(shim.shim_close_begin(), wanted)

    @rule()
    def close_poll(self):
        self.check(shim.shim_close_poll(), self.model.close_poll())


class Hypothesis(unittest.TestCase):
    def test_random_operations_do_what_the_reference_model_does(self):
        run_state_machine_as_test(PoolMachine, settings=settings(
            max_examples=2000 if LONG else 300, stateful_step_count=50, derandomize=not LONG, database=None, deadline=None,
            verbosity=Verbosity.normal, print_blob=True, suppress_health_check=list(HealthCheck)))
        print("  " + ", ".join(f"{count} {what}" for what, count in sorted(seen.items(), key=str)))
        for what in ("connected failed closed interrupted acquires waits timeouts rejected refused tries_failed detached adopted "
                     "generations breaker_opened misuses closed_idle closed_discarded closed_resize closed_stale closed_evicted "
                     "closed_shutdown").split() + [-errno.ETIMEDOUT, -errno.EBUSY, -errno.ESHUTDOWN, -errno.ECANCELED,
                                                   -errno.EAGAIN, model_pool.BREAKER, 0]:
            self.assertGreater(seen.get(what, 0), 9, f"{what} hardly happened")


class Recorder:
    """The shim, each of whose calls is written to a file before it is made."""

    def __init__(self, library, file):
        self.library, self.file = library, file

    def __getattr__(self, name):
        function = getattr(self.library, name)
        if name in ("shim_log", "shim_stats"):
            return function

        def call(*arguments):
            if name == "shim_create":
                os.ftruncate(self.file, 0)
            os.write(self.file, f"{name}({', '.join(map(str, arguments))})\n".encode())
            return function(*arguments)
        setattr(self, name, call)
        return call


def main():
    """Runs the test in a child, so that what ends it (the library's checks abort) leaves a trail."""
    global shim
    with tempfile.TemporaryFile("a+b", buffering=0) as trail:
        child = os.fork()
        if child == 0:
            shim = Recorder(shim, trail.fileno())
            unittest.main()
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status < 0:
            trail.seek(0)
            print(f"signal {-status} ended it, after these calls:\n{trail.read().decode()}", file=sys.stderr)
        return 1 if status else 0


if __name__ == "__main__":
    sys.exit(main())
