# SPDX-License-Identifier: Apache-2.0
"""What a cache of policy lru with one shard must do, after include/patinox/cache.h: a reference model for test_hypothesis.py.

Entries stand in a list, least recently used first.  No two expire at the same moment: callers see to that, since which of two
goes first is open.  Whatever is destroyed is told in the order in which it must happen.  With a capacity in weight, values
weigh what weight_of() says.
"""
import collections

EXPLICIT, REPLACED, SIZE, EXPIRED, CLEAR, CLOSED = range(1, 7)
ENOENT, EIO, EEXIST, EFBIG = -2, -5, -17, -27
NEVER = 2**63 - 1
TICK_MAX = 8
COUNTERS = {EXPLICIT: "removed_explicit", REPLACED: "removed_replaced", SIZE: "removed_size", EXPIRED: "removed_expired",
            CLEAR: "removed_clear"}


def must(condition, what):
    if not condition:
        raise AssertionError(what)


def weight_of(value):
    return 100 if value % 11 == 0 else value % 6 or 1  # 0 counts as 1


class Entry:
    def __init__(self, key, value, expires):
        self.key, self.value, self.expires = key, value, expires
        self.refs, self.cause = 1, None
        self.weight = weight_of(value)


class Cache:
    def __init__(self, entries, weight, now):
        self.capacity, self.now = entries, now
        self.weighed, self.heaviest = weight > 0, weight or NEVER
        self.entries = []  # least recently used first
        self.destroyed = []
        self.saved = None
        self.n = collections.Counter()

    # ---- what happens to entries ----

    def drop(self, entry):
        entry.refs -= 1
        if entry.refs == 0:
            self.destroyed.append((entry.value, entry.cause))

    def take_out(self, entry, cause):
        self.entries.remove(entry)
        entry.cause = cause
        self.n[COUNTERS[cause]] += 1
        self.drop(entry)

    def expired(self):
        return sorted((e for e in self.entries if e.expires <= self.now), key=lambda e: e.expires)

    def find(self, key):
        for entry in self.entries:
            if entry.key == key:
                if entry.expires <= self.now:
                    self.take_out(entry, EXPIRED)
                    return None
                return entry
        return None

    def use(self, entry):
        self.entries.remove(entry)
        self.entries.append(entry)

    def weight(self):
        return sum(e.weight for e in self.entries) if self.weighed else 0

    def fits(self, entries, weight):
        return len(self.entries) + entries <= self.capacity and self.weight() + weight <= self.heaviest

    def evict(self, old=None):
        """Returns old, or None when it was that."""
        gone = self.expired()
        victim = gone[0] if gone else self.entries[0]
        self.take_out(victim, REPLACED if victim is old else EXPIRED if gone else SIZE)
        return None if victim is old else old

    def store(self, key, value, expires):
        """There is a weight for it, at most all of it."""
        old = self.find(key)
        new = Entry(key, value, expires)
        while not self.fits(0 if old else 1, max(0, new.weight - (old.weight if old else 0))):
            old = self.evict(old)
        if old:
            self.take_out(old, REPLACED)
        self.entries.append(new)
        self.n["inserts"] += 1

    def too_heavy(self, value):
        if not self.weighed or weight_of(value) <= self.heaviest:
            return False
        self.n["rejected"] += 1
        return True

    def ends(self, ttl):
        return NEVER if ttl in (0, NEVER) else self.now + ttl

    # ---- operations ----

    def put(self, key, value, ttl, if_absent):
        if self.too_heavy(value):
            old = None if if_absent else self.find(key)
            if old:
                self.take_out(old, REPLACED)
            return EFBIG
        if if_absent and self.find(key):
            return EEXIST
        self.store(key, value, self.ends(ttl))
        return 0

    def look(self, key, counts_misses=True):
        entry = self.find(key)
        if entry:
            self.use(entry)
            self.n["hits"] += 1
        elif counts_misses:
            self.n["misses"] += 1
        return entry

    def load_made(self, key, value, ttl, code):
        """What a loader's outcome leads to: its code, or 0."""
        if code == EIO:
            self.destroyed.append((value, EXPLICIT))
        elif code == 0 and self.too_heavy(value):
            self.destroyed.append((value, SIZE))  # handed out, and not stored
        elif code == 0:
            self.store(key, value, self.ends(ttl))
        return code

    def get_or_load(self, key, value, ttl, code):
        entry = self.look(key)
        if entry:
            return entry.value
        return self.load_made(key, value, ttl, code) or value

    def refresh(self, key, value, ttl, code):
        old = self.find(key)
        if code == ENOENT and old:
            self.take_out(old, EXPLICIT)
        return self.load_made(key, value, ttl, code)

    def remove(self, key):
        entry = self.find(key)
        if entry:
            self.take_out(entry, EXPLICIT)
        return 0 if entry else ENOENT

    def compute(self, key, what, value, ttl):
        """Returns the code, what its function saw, and what is there then."""
        entry = self.look(key)
        self.n["computes"] += 1
        saw = entry.value if entry else -1
        if what == 3:
            self.destroyed.append((value, EXPLICIT))  # what was set, and is not stored
            return EIO, saw, -1
        if what == 1:
            if entry:
                self.take_out(entry, EXPLICIT)
            return 0, saw, -1
        if what in (2, 4) and self.too_heavy(value):
            self.destroyed.append((value, EXPLICIT))
            if entry:
                self.take_out(entry, REPLACED)
            return EFBIG, saw, -1
        if what in (2, 4):
            expires = entry.expires if what == 4 and entry else self.ends(ttl if what == 2 else 0)
            self.store(key, value, expires)
            return 0, saw, value
        return 0, saw, saw

    def visible(self):
        return [e for e in self.entries if e.expires > self.now]

    def retain(self, rest):
        gone = [e for e in self.visible() if e.value % 3 == rest]
        for entry in gone:
            self.take_out(entry, EXPLICIT)
        return len(gone)

    def clear(self):
        for entry in list(self.entries):
            self.take_out(entry, CLEAR)

    def tick(self):
        for entry in self.expired()[:TICK_MAX]:
            self.take_out(entry, EXPIRED)
        return min((max(e.expires, self.now) for e in self.entries), default=NEVER)

    def resize(self, entries=None, weight=None):
        self.capacity = entries or self.capacity
        self.heaviest = weight or self.heaviest
        while not self.fits(0, 0):
            self.evict()

    def save(self):
        self.saved = [(e.key, e.value, e.expires) for e in self.visible()]
        return len(self.saved)

    def load(self):
        """Returns how many were put, present, expired, and without room."""
        room = max(0, self.capacity - len(self.entries))
        weight_room = self.heaviest - self.weight()
        left = sum(expires > self.now for _, _, expires in self.saved)
        weight_left = sum(weight_of(value) for _, value, expires in self.saved if expires > self.now)
        put = present = expired = no_room = 0
        for key, value, expires in self.saved:
            if expires <= self.now:
                expired += 1
                continue
            fits = left <= room and (not self.weighed or weight_left <= weight_room)
            left -= 1
            weight_left -= weight_of(value)
            if not fits:
                no_room += 1
            elif self.find(key):
                present += 1
            else:
                self.store(key, value, expires)
                put += 1
        return put, present, expired, no_room

    def close(self):
        for entry in list(self.entries):
            self.entries.remove(entry)
            entry.cause = CLOSED
            self.drop(entry)
