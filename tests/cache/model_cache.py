# SPDX-License-Identifier: Apache-2.0
"""What a cache of policy lru with one shard must do, after include/patinox/cache.h: a reference model for test_hypothesis.py.

Entries stand in a list, least recently used first.  No two expire at the same moment: callers see to that, since which of two
goes first is open.  Whatever is destroyed is told in the order in which it must happen.  With a capacity in weight, values
weigh what weight_of() says.  An absence that is remembered is an entry without a value.
"""
import collections

EXPLICIT, REPLACED, SIZE, EXPIRED, CLEAR, CLOSED = range(1, 7)
ENOENT, EIO, EEXIST, EINVAL, EFBIG, ENODATA, ENOTSUP, ETIMEDOUT = -2, -5, -17, -22, -27, -61, -95, -110
FOUND, LOADED, SHARED = 1, 2, 3
CALL, CALL_AND_HOLD, CALL_COPY, CALL_ASYNC, CALL_ASYNC_NOW, CALL_REFRESH = range(6)  # how to load
NEVER = 2**63 - 1
TICK_MAX = 8
LOAD_TIMEOUT = 30 * 10**9
COUNTERS = {EXPLICIT: "removed_explicit", REPLACED: "removed_replaced", SIZE: "removed_size", EXPIRED: "removed_expired",
            CLEAR: "removed_clear"}


def must(condition, what):
    if not condition:
        raise AssertionError(what)


def weight_of(value):
    if value is None:
        return 2
    return 100 if value % 11 == 0 else value % 6 or 1  # 0 counts as 1


class Entry:
    def __init__(self, key, value, expires, boxed=False):
        self.key, self.value, self.expires, self.boxed = key, value, expires, boxed
        self.refs, self.cause = 1, None
        self.weight = weight_of(value)


class Kept:
    """A load that its loader keeps."""
    def __init__(self, key, deadline):
        self.key, self.deadline, self.overtaken = key, deadline, False
        self.places = []  # whose requests wait


class Cache:
    def __init__(self, entries, weight, now, ttl=NEVER, negative_ttl=NEVER):
        self.capacity, self.now = entries, now
        self.ttl, self.negative_ttl = ttl, negative_ttl
        self.weighed, self.heaviest = weight > 0, weight or NEVER
        self.entries = []  # least recently used first
        self.destroyed = []
        self.saved = None
        self.kept = None
        self.n = collections.Counter()

    # ---- what happens to entries ----

    def drop(self, entry):
        entry.refs -= 1
        if entry.refs == 0 and entry.value is not None:
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

    def store(self, new):
        """There is a weight for it, at most all of it."""
        old = self.find(new.key)
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
        ttl = ttl or self.ttl
        return NEVER if ttl in (0, NEVER) else self.now + ttl

    def overtake(self, key):
        if self.kept and self.kept.key == key:
            self.kept.overtaken = True

    # ---- operations ----

    def put(self, key, value, ttl, if_absent, boxed=False):
        if self.too_heavy(value):
            old = None if if_absent else self.find(key)
            if old:
                self.take_out(old, REPLACED)
            if not if_absent:
                self.overtake(key)
            return EFBIG
        if if_absent and self.value_at(key):
            return EEXIST
        self.overtake(key)
        self.store(Entry(key, value, self.ends(ttl), boxed))
        return 0

    def value_at(self, key):
        """An absence is none."""
        entry = self.find(key)
        return entry if entry and entry.value is not None else None

    def look(self, key, counts_misses=True):
        """Returns what is found, an absence too."""
        entry = self.find(key)
        if entry:
            self.use(entry)
            self.n["hits" if entry.value is not None else "negative_hits"] += 1
        elif counts_misses:
            self.n["misses"] += 1
        return entry

    def remove(self, key):
        entry = self.find(key)
        self.overtake(key)
        if entry:
            self.take_out(entry, EXPLICIT)
        return 0 if entry else ENOENT

    def compute(self, key, what, value, ttl, copy):
        """Returns the code, what its function saw, and what is there then."""
        entry = self.look(key)
        seen = entry if entry and entry.value is not None else None
        self.n["computes"] += 1
        if copy and seen and seen.boxed:
            return ENOTSUP, -1, -1
        saw = seen.value if seen else -1
        if what == 0:
            return 0, saw, saw
        if what == 1:
            self.overtake(key)
            if entry:
                self.take_out(entry, EXPLICIT)
            return 0, saw, -1
        if what == 3:
            self.destroyed.append((value, EXPLICIT))  # what was set, and is not stored
            return EIO, saw, -1
        self.overtake(key)
        if self.too_heavy(value):
            self.destroyed.append((value, EXPLICIT))
            if entry:
                self.take_out(entry, REPLACED)
            return EFBIG, saw, -1
        expires = seen.expires if what == 4 and seen else self.ends(0 if what == 4 else ttl)
        self.store(Entry(key, value, expires, what == 5))
        return (ENOTSUP, saw, -1) if copy and what == 5 else (0, saw, value)

    def load(self, key, call, what, value, ttl, meddle, other, takes):
        """Returns the code, the value or -1, its source, how often the loader is called; and the entry that is held."""
        old = self.find(key) if call == CALL_REFRESH else self.look(key)
        if call != CALL_REFRESH and old:
            if old.value is None:
                return (ENOENT, -1, 0, 0), None
            return self.hand_out(call, old, FOUND, 0)
        if call == CALL_ASYNC_NOW:
            return (ETIMEDOUT, -1, 0, 0), None
        self.now += takes
        if meddle == 1:
            self.put(key, other, NEVER, False)
        elif meddle == 2:
            self.remove(key)
        elif meddle == 3:
            self.clear()
        code = EIO if what in (5, 6) else ENOENT if what in (4, 8) else EINVAL if what == 7 else 0
        if what == 3:
            self.destroyed.append((other, EXPLICIT))
        if what in (6, 8):
            self.destroyed.append((value, EXPLICIT))
        failed = code not in (0, ENOENT)
        self.n["loads"] += 1
        self.n["load_failures"] += failed
        if call == CALL_REFRESH:
            self.n["refreshes"] += 1
            self.n["refresh_failures"] += failed
        if code == 0:
            return self.keep_result(call, Entry(key, value, self.ends(ttl), what == 1), meddle)
        if code == ENOENT and not meddle:
            self.remember(key, ttl)
            if old and old in self.entries:
                self.find(key)
            if old and old in self.entries:
                self.take_out(old, EXPLICIT)
        return (code, -1, 0, 1), None

    def remember(self, key, ttl):
        """An absence, if it is to be, and may weigh so much.  ttl: the load's own, or 0."""
        if ttl == 0 and self.negative_ttl == NEVER or self.weighed and weight_of(None) > self.heaviest:
            return
        self.store(Entry(key, None, self.ends(ttl or self.negative_ttl)))

    def keep_result(self, call, new, overtaken):
        """One reference is whoever loads it."""
        if self.too_heavy(new.value):
            new.cause = SIZE
        elif overtaken:
            new.cause = EXPLICIT
        else:
            self.store(new)
            new.refs += 1
        answer = self.hand_out(call, new, SHARED if call == CALL_ASYNC else LOADED, 1)
        self.drop(new)
        return answer

    def hand_out(self, call, entry, source, called):
        if call == CALL_REFRESH:
            return (0, -1, 0, called), None
        if call == CALL_COPY:
            return ((ENOTSUP, -1, 0, called) if entry.boxed else (0, entry.value, 0, called)), None
        if call == CALL_AND_HOLD:
            entry.refs += 1
        return (0, entry.value, source, called), entry if call == CALL_AND_HOLD else None

    def visible(self):
        return [e for e in self.entries if e.expires > self.now and e.value is not None]

    def retain(self, rest):
        gone = [e for e in self.visible() if e.value % 3 == rest]
        for entry in gone:
            self.overtake(entry.key)
            self.take_out(entry, EXPLICIT)
        return len(gone)

    def clear(self):
        if self.kept:
            self.kept.overtaken = True
        for entry in list(self.entries):
            self.take_out(entry, CLEAR)

    def tick(self):
        for entry in self.expired()[:TICK_MAX]:
            self.take_out(entry, EXPIRED)
        due = [max(e.expires, self.now) for e in self.entries] + [self.kept.deadline if self.kept else NEVER]
        return min(due)

    def resize(self, entries=None, weight=None):
        self.capacity = entries or self.capacity
        self.heaviest = weight or self.heaviest
        while not self.fits(0, 0):
            self.evict()

    def save(self):
        """Returns how many were saved, and left out: pointers."""
        all_of_it = self.visible()
        self.saved = [(e.key, e.value, e.expires) for e in all_of_it if not e.boxed]
        return len(self.saved), len(all_of_it) - len(self.saved)

    def load_file(self):
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
            elif self.value_at(key) or self.kept and self.kept.key == key and not self.kept.overtaken:
                present += 1
            else:
                self.store(Entry(key, value, expires))
                put += 1
        return put, present, expired, no_room

    def ask(self, key, place):
        """Asks with a loader that keeps its load.  Returns 1 where the request waits, else what it is told."""
        entry = self.look(key)
        if entry:
            return FOUND * 10**6 + entry.value if entry.value is not None else ENOENT
        self.kept = self.kept or Kept(key, self.now + LOAD_TIMEOUT)
        self.kept.places.append(place)
        return 1

    def finish(self, code, value, ttl):
        """Ends the load that is kept.  Returns the places of all who are told, and what."""
        kept, self.kept = self.kept, None
        self.n["loads"] += 1
        self.n["load_failures"] += code not in (0, ENOENT)
        if code == 0:
            self.keep_result(CALL_REFRESH, Entry(kept.key, value, self.ends(ttl)), kept.overtaken)
        elif code == ENOENT and not kept.overtaken:
            self.remember(kept.key, ttl)
        return kept.places, SHARED * 10**6 + value if code == 0 else code

    def close(self):
        for entry in list(self.entries):
            self.entries.remove(entry)
            entry.cause = CLOSED
            self.drop(entry)
