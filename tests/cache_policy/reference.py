# SPDX-License-Identifier: Apache-2.0
"""Small references of eviction policies, written from their papers' descriptions, for tests of equality.

Each class has get(key), True for a hit, and put(key, weight) after a miss; weight <= capacity.  Nothing here is fast
or clever: queues are dicts, which keep the order of insertion (first: oldest).
"""
from collections import OrderedDict


def oldest(queue):
    return next(iter(queue))


class Fifo:
    """First in, first out."""

    def __init__(self, capacity, in_bytes=False):
        self.capacity, self.used = capacity, 0
        self.queue = OrderedDict()  # key: weight

    def get(self, key):
        return key in self.queue

    def put(self, key, weight):
        while self.used + weight > self.capacity:
            self.used -= self.queue.pop(oldest(self.queue))
        self.queue[key] = weight
        self.used += weight


class Lru(Fifo):
    """Least recently used (Mattson et al., 1970)."""

    def get(self, key):
        if key not in self.queue:
            return False
        self.queue.move_to_end(key)
        return True


class Clock(Fifo):
    """Second chance (Corbato, 1968): an entry with its bit set goes to the young end, without the bit."""

    def __init__(self, capacity, in_bytes=False):
        super().__init__(capacity, in_bytes)
        self.bit = set()

    def get(self, key):
        if key not in self.queue:
            return False
        self.bit.add(key)
        return True

    def put(self, key, weight):
        while self.used + weight > self.capacity:
            last = oldest(self.queue)
            if last in self.bit:
                self.bit.remove(last)
                self.queue.move_to_end(last)
            else:
                self.used -= self.queue.pop(last)
        self.queue[key] = weight
        self.used += weight


class Sieve:
    """SIEVE (NSDI 2024): the hand goes from the tail to the head and evicts the first entry that was not visited;
    visited ones stay in place.  A list with links of its own, as the paper's is."""

    class Node:
        __slots__ = ("key", "weight", "visited", "prev", "next")

    def __init__(self, capacity, in_bytes=False):
        self.capacity, self.used = capacity, 0
        self.nodes = {}
        self.head = self.tail = self.hand = None  # prev leads to the head

    def get(self, key):
        node = self.nodes.get(key)
        if node is None:
            return False
        node.visited = True
        return True

    def put(self, key, weight):
        while self.used + weight > self.capacity:
            self.evict()
        node = self.nodes[key] = self.Node()
        node.key, node.weight, node.visited, node.prev, node.next = key, weight, False, None, self.head
        if self.head:
            self.head.prev = node
        else:
            self.tail = node
        self.head = node
        self.used += weight

    def evict(self):
        node = self.hand or self.tail
        while node.visited:
            node.visited = False
            node = node.prev or self.tail
        self.hand = node.prev
        if node.prev:
            node.prev.next = node.next
        else:
            self.head = node.next
        if node.next:
            node.next.prev = node.prev
        else:
            self.tail = node.prev
        del self.nodes[node.key]
        self.used -= node.weight


class S3Fifo:
    """S3-FIFO (SOSP 2023): small queue of 10 %, promoted to main at 2 hits or more, counters up to 3, a ghost with as many
    entries as main, in which a key is looked for before room is made for it.  The tail of main goes when main has more than
    its share or small is empty.  Where entries have weights the ghost has as many as main's share is of all entries."""

    def __init__(self, capacity, in_bytes=False):
        self.capacity, self.in_bytes = capacity, in_bytes
        self.main_share = capacity - max(capacity // 10, 1)
        self.small, self.main, self.ghost = OrderedDict(), OrderedDict(), OrderedDict()
        self.small_used = self.main_used = 0
        self.hits = {}

    def get(self, key):
        if key not in self.hits:
            return False
        self.hits[key] = min(self.hits[key] + 1, 3)
        return True

    def put(self, key, weight):
        known = self.ghost.pop(key, False)
        while self.small_used + self.main_used + weight > self.capacity:
            if self.main_used > self.main_share or not self.small:
                self.evict_main()
            else:
                self.evict_small()
        self.hits[key] = 0
        if known:
            self.main[key] = weight
            self.main_used += weight
        else:
            self.small[key] = weight
            self.small_used += weight

    def evict_small(self):
        """May end without having evicted anything, when all of small was promoted."""
        while self.small:
            key, weight = self.small.popitem(last=False)
            self.small_used -= weight
            if self.hits[key] < 2:
                limit = self.main_share
                if self.in_bytes:
                    limit = int((len(self.small) + len(self.main)) * (self.main_share / self.capacity))
                self.remember(key, limit)
                del self.hits[key]
                return
            self.hits[key] = 0
            self.main[key] = weight
            self.main_used += weight

    def evict_main(self):
        while True:
            key, weight = self.main.popitem(last=False)
            if self.hits[key] == 0:
                del self.hits[key]
                self.main_used -= weight
                return
            self.hits[key] -= 1
            self.main[key] = weight

    def remember(self, key, limit):
        self.ghost[key] = True
        while len(self.ghost) > limit:
            self.ghost.popitem(last=False)


class Lfu:
    """LFU with dynamic ageing (Arlitt et al., 1999): priority = frequency + age at the last use; the lowest goes, of equal ones
    the one that has had it longest; its priority becomes the age.  Frequencies end at 255."""

    def __init__(self, capacity, in_bytes=False):
        self.capacity, self.used, self.age = capacity, 0, 0
        self.entry = {}  # key: (weight, frequency, priority)
        self.levels = {}  # priority: keys, in the order in which they got it

    def get(self, key):
        if key not in self.entry:
            return False
        weight, frequency, priority = self.entry[key]
        self.drop(key, priority)
        self.place(key, weight, min(frequency + 1, 255))
        return True

    def put(self, key, weight):
        while self.used + weight > self.capacity:
            while self.age not in self.levels:  # priorities are never below the age
                self.age += 1
            victim = oldest(self.levels[self.age])
            self.used -= self.entry[victim][0]
            self.drop(victim, self.age)
            del self.entry[victim]
        self.place(key, weight, 1)
        self.used += weight

    def place(self, key, weight, frequency):
        priority = self.age + frequency
        self.entry[key] = (weight, frequency, priority)
        self.levels.setdefault(priority, OrderedDict())[key] = True

    def drop(self, key, priority):
        del self.levels[priority][key]
        if not self.levels[priority]:
            del self.levels[priority]


POLICIES = {"fifo": Fifo, "lru": Lru, "clock": Clock, "sieve": Sieve, "s3-fifo": S3Fifo, "lfu": Lfu}


def replay(policy, capacity, requests, in_bytes=False):
    """Returns the number of hits.  requests: (key, size) pairs."""
    cache = POLICIES[policy](capacity, in_bytes)
    hits = 0
    for key, size in requests:
        if cache.get(key):
            hits += 1
        elif not in_bytes:
            cache.put(key, 1)
        elif size <= capacity:
            cache.put(key, size)
    return hits
