# SPDX-License-Identifier: Apache-2.0
"""What a pool without threads must do, after include/patinox/pool.h: a reference model for test_hypothesis.py.

Each operation is told to the model first, which returns the code that the pool must return; then, one by one, what the
pool did meanwhile (connected, failed, closed, done, interrupted), which must be allowed; then settled() says whether all
that had to happen has happened.  The model leaves open what the pool may choose: which idle resource it takes, when within
its bound a connect is tried again, when a resource that a reset made old goes, and whether it connects for a try that was
served by other means meanwhile.  Priorities do not age; there are no checks and no lifetime.
"""
import collections
import errno

BREAKER = -4100
NEVER = 2**63 - 1
TRANSIENT, OVERLOAD, PERMANENT, STALE_ALL = range(4)
RESET_IDLE, RESET_INTERRUPT, RESET_DROP_WAITERS = 1, 2, 4

Waiter = collections.namedtuple("Waiter", "request lane deadline")
Due = collections.namedtuple("Due", "group request code")  # callbacks of one group may come in any order


class Resource:
    def __init__(self, epoch):
        self.epoch, self.seen_at = epoch, None  # the first tick that saw it idle since it was used


def must(condition, what):
    if not condition:
        raise AssertionError(what)


class Pool:
    def __init__(self, maximum, min_idle, max_waiters, breaker_failures, idle_ns, backoff_ns, backoff_max_ns, now):
        self.max, self.min_idle, self.max_waiters = maximum, min_idle, max_waiters
        self.breaker_failures, self.idle_ns = breaker_failures, idle_ns
        self.backoff_ns, self.backoff_max_ns, self.now = backoff_ns, backoff_max_ns, now
        self.idle, self.in_use = {}, {}  # number: Resource
        self.to_close = {}               # number: reason
        self.excess = self.unused = 0    # so many idle ones must go after a resize, or since they are unused for long
        self.waiters, self.due, self.interrupts = [], [], set()
        self.paused = self.closing = self.breaker = self.permanent = self.in_tick = False
        self.failures = self.serious = self.epoch = self.groups = self.resources = self.promised = 0
        self.retry_may = self.retry_must = 0  # no connect before the one, one at the latest at the other
        self.wish_may = self.wish_must = False  # a try has asked for a resource
        self.n = collections.Counter()

    # ---- who gets what ----

    def size(self):
        return len(self.idle) + len(self.in_use) + len(self.to_close)

    def fit(self):
        return sum(r.epoch == self.epoch for r in self.idle.values()) - self.promised

    def tell(self, request, code, group=None):
        self.groups += 1
        self.due.append(Due(group or self.groups, request, code))
        self.promised += code == 0

    def serve(self):
        """The first of the best priority gets the first resource."""
        while self.waiters and not self.paused and not self.closing and self.fit() > 0:
            first = min(self.waiters, key=lambda waiter: waiter.lane)  # the first of several equals
            self.waiters.remove(first)
            self.tell(first.request, 0)
        if self.waiters and not self.paused and not self.closing:
            self.drop_old()

    def refuse_all(self, code):
        for waiter in sorted(self.waiters, key=lambda waiter: waiter.lane):
            self.tell(waiter.request, code)
        self.waiters = []

    def take(self, number):
        must(number in self.idle, f"resource {number} was granted, which is not idle")
        must(self.idle[number].epoch == self.epoch, f"P12: resource {number} was granted, which is old")
        self.in_use[number] = self.idle.pop(number)
        self.n["acquires"] += 1

    def supply(self, number, resource):
        self.wish_must = False
        resource.seen_at = None
        if self.closing:
            self.to_close[number] = "shutdown"
        elif resource.epoch != self.epoch:
            self.to_close[number] = "stale"
        elif len(self.idle) + len(self.in_use) >= self.max:
            self.to_close[number] = "resize"
        else:
            self.idle[number] = resource
            self.serve()

    def maybe_open(self):
        if self.closing or self.breaker or self.in_use or len(self.idle) > self.excess + self.unused:
            return
        if self.permanent or self.serious >= self.breaker_failures:
            self.breaker = True
            self.n["breaker_opened"] += 1
            self.wish_may = self.wish_may or bool(self.waiters)
            self.refuse_all(BREAKER)

    # ---- operations ----

    def at_once(self):
        """0, or why there is nothing without waiting; None: one may wait."""
        if not self.closing and not self.paused and not self.waiters:
            if self.fit() > 0:
                return 0
            self.drop_old()
        if self.closing:
            return -errno.ESHUTDOWN
        if self.breaker:
            self.n["refused"] += 1
            self.wish_may = self.wish_must = True
            return BREAKER
        return None

    def tries(self):
        code = self.at_once()
        if code is not None:
            return code
        self.n["tries_failed"] += 1
        if self.paused:
            return -errno.EAGAIN
        self.wish_may = True
        self.wish_must = not self.waiters
        return -errno.ETIMEDOUT

    def ask(self, request, timeout, lane):
        if any(waiter.request == request for waiter in self.waiters):
            return -errno.EBUSY
        code = self.tries() if timeout == 0 else self.at_once()
        if code is None and len(self.waiters) >= self.max_waiters:
            self.n["rejected"] += 1
            code = -errno.EBUSY
        if code is None:
            self.n["waits"] += 1
            self.waiters.append(Waiter(request, lane, min(self.now + timeout, NEVER)))
        else:
            self.tell(request, code)
        return 0

    def cancel(self, request):
        before = len(self.waiters)
        self.waiters = [waiter for waiter in self.waiters if waiter.request != request]
        return 0 if len(self.waiters) < before else -errno.EALREADY

    def release(self, number):
        self.supply(number, self.in_use.pop(number))

    def discard(self, number, reason="discarded"):
        del self.in_use[number]
        self.to_close[number] = reason

    def stale_all(self, number):
        if self.in_use[number].epoch == self.epoch:
            self.make_old(RESET_IDLE)
        self.discard(number, "stale")

    def detach(self, number):
        del self.in_use[number]
        self.n["detached"] += 1
        self.maybe_open()

    def adopt(self):
        if self.closing or self.size() >= self.max:
            return -errno.ESHUTDOWN if self.closing else -errno.EBUSY
        self.n["adopted"] += 1
        self.breaker = False
        self.resources += 1
        self.supply(self.resources - 1, Resource(self.epoch))
        return 0

    def pause(self):
        self.paused = not self.closing
        return -errno.ESHUTDOWN if self.closing else len(self.in_use)

    def resume(self):
        self.paused = False
        self.serve()
        return -errno.ESHUTDOWN if self.closing else 0

    def drop_old(self):
        self.to_close.update((number, "stale") for number, r in self.idle.items() if r.epoch != self.epoch)
        self.idle = {number: r for number, r in self.idle.items() if r.epoch == self.epoch}

    def make_old(self, flags):
        self.epoch += 1
        self.n["generations"] += 1
        if flags & RESET_IDLE:
            self.drop_old()
        if flags & RESET_DROP_WAITERS:
            self.refuse_all(-errno.ECANCELED)
        if flags & RESET_INTERRUPT:
            self.interrupts = set(self.in_use)

    def reset(self, flags):
        if self.closing:
            return -errno.ESHUTDOWN
        self.make_old(flags)
        return 0

    def resize(self, maximum):
        if maximum < max(1, self.min_idle):
            return -errno.EINVAL
        if self.closing:
            return -errno.ESHUTDOWN
        self.max = maximum
        self.excess = min(len(self.idle), max(0, self.size() - maximum))
        return 0

    def evict(self, odd_only):
        if self.closing:
            return -errno.ESHUTDOWN
        unwanted = [number for number in self.idle if number % 2 or not odd_only]
        for number in unwanted:
            del self.idle[number]
            self.to_close[number] = "evicted"
        return len(unwanted)

    def close_begin(self):
        if not self.closing:
            self.closing = True
            self.paused = self.breaker = False
            self.to_close.update((number, "shutdown") for number in self.idle)
            self.idle = {}
            self.refuse_all(-errno.ESHUTDOWN)
        return 0

    def close_poll(self):
        return self.size() if self.closing else -errno.EAGAIN

    def tick(self, now):
        self.now, self.in_tick = now, True
        for waiter in sorted(self.waiters, key=lambda waiter: waiter.deadline):
            if waiter.deadline <= now:
                self.n["timeouts"] += 1
                self.waiters.remove(waiter)
                self.tell(waiter.request, -errno.ETIMEDOUT, f"until {waiter.deadline}")
        self.drop_old()
        for resource in self.idle.values():
            resource.seen_at = resource.seen_at or now
        self.unused = max(0, min(len(self.idle) - self.min_idle, sum(map(self.is_unused, self.idle.values()))))

    # ---- what the pool did ----

    def check_connect(self):
        must(self.in_tick, "a connect outside of a tick")
        must(not self.paused and not self.closing, "a connect though the pool is paused or closed")
        must(self.size() < self.max, "P1: a connect beyond max")
        must(self.now >= self.retry_may, "P6: a connect in the pause after a failed one")
        must(self.waiters or self.wish_may or len(self.idle) < self.min_idle, "a connect that nobody needs")
        self.wish_may = self.wish_must = False

    def connected(self, number):
        self.check_connect()
        must(number == self.resources, "the resources' numbers differ")
        self.resources += 1
        self.n["connects"] += 1
        self.failures = self.serious = self.retry_may = self.retry_must = 0
        self.breaker = self.permanent = False
        self.supply(number, Resource(self.epoch))

    def failed(self, verdict):
        self.check_connect()
        self.n["connect_failures"] += 1
        long = verdict in (OVERLOAD, PERMANENT)
        bound = self.backoff_max_ns if long else min(self.backoff_ns << self.failures, self.backoff_max_ns)
        self.retry_may = self.now + (self.backoff_max_ns // 2 if long else 1)  # a draw of 0 is too rare to be met
        self.retry_must = self.now + bound
        self.failures += 1
        self.serious += verdict != OVERLOAD
        self.permanent = self.permanent or verdict == PERMANENT
        if verdict == STALE_ALL:
            self.make_old(RESET_IDLE)
        self.maybe_open()

    def is_unused(self, resource):
        return resource.seen_at is not None and self.now - resource.seen_at >= self.idle_ns

    def closed(self, number):
        resource = self.idle.get(number)
        must(number in self.to_close or resource, f"P4: resource {number} was closed, which is in use or gone")
        if number in self.to_close:
            reason = self.to_close.pop(number)
        elif self.excess > 0:
            self.excess -= 1
            reason = "resize"
        elif resource.epoch != self.epoch:
            reason = "stale"
        else:
            must(self.unused > 0 and self.is_unused(resource), f"resource {number} was closed for nothing")
            self.unused -= 1
            reason = "idle"
        self.idle.pop(number, None)
        self.n["closed_" + reason] += 1
        self.maybe_open()

    def done(self, request, code, number):
        must(self.due, f"P13: a callback for request {request}, which nobody expects")
        now = [due for due in self.due if due.group == self.due[0].group]
        match = [due for due in now if due.request == request]
        must(match, f"P2: request {request} was told its outcome ({code}), but it is the turn of {now}")
        must(match[0].code == code, f"request {request} was told {code}, not {match[0].code}")
        self.due.remove(match[0])
        if code == 0:
            self.promised -= 1
            self.take(number)

    def interrupted(self, number):
        must(number in self.interrupts, f"resource {number} was interrupted")
        self.interrupts.remove(number)

    def settled(self):
        must(not self.due, f"P13: without their callbacks: {self.due}")
        must(not self.to_close and not self.excess and not self.unused,
             f"not closed: {self.to_close}, {self.excess} too many, {self.unused} unused")
        must(not self.interrupts, f"not interrupted: {self.interrupts}")
        free = not self.paused and not self.closing
        must(not (free and self.waiters and self.fit() > 0), "P8: somebody waits, and a resource is idle")
        if self.in_tick and free and self.size() < self.max and self.now >= self.retry_must:
            must(not self.waiters, "P8: somebody waits, there is room, and no connect was tried")
            must(not self.wish_must, "a try has asked for a resource, and no connect was tried")
            must(len(self.idle) >= self.min_idle, "fewer than min_idle are idle, and no connect was tried")
        self.in_tick = False

    def next_tick(self, at):
        """When a tick has asked to be called again."""
        must(at > self.now, "a tick that asks to be called at once")
        must(all(at <= waiter.deadline for waiter in self.waiters), "somebody's deadline is before the next tick")
        must(self.closing or not self.idle or at <= self.now + self.idle_ns // 8 + 1, "idle times go unseen until the next tick")
        if self.waiters and not self.paused and self.size() < self.max:
            must(at <= self.retry_must, "P8: somebody waits, and the next connect is due before the next tick")

    def stats(self):
        """What must stand in the pool's statistics."""
        names = ("acquires waits timeouts tries_failed rejected refused connects connect_failures detached adopted generations "
                 "breaker_opened misuses closed_idle closed_lifetime closed_discarded closed_check closed_reset closed_resize "
                 "closed_pressure closed_stale closed_evicted closed_hook closed_shutdown shed overdue checks").split()
        gauges = {"max": self.max, "idle": len(self.idle), "in_use": len(self.in_use), "waiting": len(self.waiters),
                  "connecting": 0, "checking": 0, "closing": 0, "breaker_open": int(self.breaker)}
        return {**{name: self.n[name] for name in names}, **gauges}
