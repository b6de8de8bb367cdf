# SPDX-License-Identifier: Apache-2.0
"""Traces that stand for those that are not in ../shared/traces: made, or derived from those that are; the same each time.

WORKLOADS has functions that make a list of keys out of a source of random numbers: what programs ask of their caches, one
trait at a time and mixed.  DERIVED has functions that make one out of shared traces: backwards, a part, in larger
blocks, two mixed, some one after the other.  write() writes keys as big-endian int32, which "patinox sim --format
int32" reads.
"""
import itertools
import random
import sys
from array import array


def zipf_weights(keys, theta):
    return list(itertools.accumulate((i + 1) ** -theta for i in range(keys)))


def zipf(source, keys, theta, count):
    """Independent requests by Zipf's law, the most popular key is 0."""
    return source.choices(range(keys), cum_weights=zipf_weights(keys, theta), k=count)


def drift(source, keys, theta, count, every):
    """Zipf whose ranks move on by one in so many requests: the most popular keys lose their place, slowly."""
    return [(key + i // every) % keys for i, key in enumerate(zipf(source, keys, theta, count))]


def newcomers(source, keys, theta, count, every):
    """Zipf; each so many requests a key that was never asked for takes the place of one, of any rank."""
    names, fresh = list(range(keys)), keys
    requests = []
    for i, rank in enumerate(zipf(source, keys, theta, count)):
        if i % every == 0:
            names[int(keys * source.random() ** 2)] = fresh
            fresh += 1
        requests.append(names[rank])
    return requests


def shuffled(source, keys, theta, count, every):
    """Zipf; each so many requests all ranks are dealt again."""
    names = list(range(keys))
    requests = []
    for i, rank in enumerate(zipf(source, keys, theta, count)):
        if i % every == 0:
            source.shuffle(names)
        requests.append(names[rank])
    return requests


def loop(keys, count, start=0):
    return [start + i % keys for i in range(count)]


def loops(source, lengths, count):
    """Loops of several lengths; each goes round a few times, then another has its turn."""
    requests = []
    starts = [0, *itertools.accumulate(lengths)]
    while len(requests) < count:
        which = source.randrange(len(lengths))
        requests += loop(lengths[which], lengths[which] * source.randint(1, 4), starts[which])
    return requests[:count]


def mix(source, parts, count):
    """Requests of several streams [(share, keys)], each in its order, with key spaces of their own."""
    streams = [iter(keys) for _, keys in parts]
    picks = source.choices(range(len(parts)), [share for share, _ in parts], k=count)
    requests = []
    for pick in picks:
        key = next(streams[pick], None)
        if key is None:
            break
        requests.append(pick << 24 | key)
    return requests


def hot_and_scans(source, hot, scan, count, repeats):
    """Zipf over a hot set, and now and then a scan of keys, the same ones again or (repeats 0) new ones."""
    requests, at = [], 0
    popular = iter(zipf(source, hot, 0.8, count))
    while len(requests) < count:
        requests += itertools.islice(popular, source.randint(hot, 4 * hot))
        start = (1 << 24) + (at % repeats if repeats else at) * scan
        requests += range(start, start + scan)
        at += 1
    return requests[:count]


def stack(source, keys, count, reach):
    """LRU stack distances by a power law: pure recency."""
    order = list(range(keys))
    fresh, requests = keys, []
    for _ in range(count):
        depth = int(source.paretovariate(reach)) - 1
        if depth >= len(order):
            requests.append(fresh)
            order.append(fresh)
            fresh += 1
            continue
        key = order.pop(len(order) - 1 - depth)
        order.append(key)
        requests.append(key)
    return requests


def twice(source, keys, least, most):
    """Each key exactly twice, so many keys apart (uniform between two limits)."""
    events = []
    for key in range(keys):
        events += [(key, key), (key + source.uniform(least, most), key)]
    return [key for _, key in sorted(events)]


def to_and_fro(keys, count):
    period = 2 * keys - 2
    return [min(i % period, period - i % period) for i in range(count)]


def pools(source, small, large, count):
    """An index page and a data page in turns (the LRU-K paper's)."""
    return [source.randrange(small) if i % 2 == 0 else (1 << 24) + source.randrange(large) for i in range(count)]


def bursts(source, keys, theta, count):
    """Zipf over objects that are asked for a few times in close succession, and many only in one burst."""
    events, now = [], 0.0
    popular = iter(zipf(source, keys, theta, count))
    fresh = keys
    while len(events) < count:
        now += 1
        if source.random() < 0.5:
            key, fresh = fresh, fresh + 1
        else:
            key = next(popular)
        events += [(now + source.expovariate(0.02) * n, key) for n in range(source.choice((1, 1, 2, 3, 5)))]
    return [key for _, key in sorted(events)][:count]


def lives(source, count, scale):
    """Objects that are born all the time, each asked for at a rate of its own (Pareto) for a life of its own (exponential)."""
    events = []
    born = 0
    while len(events) < count:
        now = born * 2.0
        for _ in range(min(int(source.paretovariate(0.9)), 2000)):
            events.append((now, born))
            now += source.expovariate(1 / scale)
        born += 1
    return [key for _, key in sorted(events)][:count]


def blocks(source, count):
    """A disk: runs of blocks from popular places, hot metadata, and a backup that reads all once in a while."""
    places = zipf(source, 3000, 0.9, count)
    requests, n = [], 0
    while len(requests) < count:
        what = source.random()
        if what < 0.55:
            requests += [(1 << 24) + key for key in zipf(source, 600, 0.9, 4)]
        elif what < 0.9997:
            start = places[n] * 8 % 24000
            n += 1
            requests += range(start, start + source.choice((1, 2, 8, 8, 16)))
        else:
            requests += range(24000)
    return requests[:count]


def b_tree(source, keys, fanout, count):
    """Look-ups from the root to a leaf; leaves by Zipf, scattered."""
    names = list(range(keys))
    source.shuffle(names)
    requests = []
    for leaf in zipf(source, keys, 0.7, count // 3):
        leaf = names[leaf]
        requests += [(2 << 24) + leaf // fanout // fanout, (1 << 24) + leaf // fanout, leaf]
    return requests


def phases(source, parts):
    """One workload after the other."""
    return [key + (n << 24) for n, part in enumerate(parts) for key in part]


def noisy(source, requests, share):
    """A part of the requests is for keys that come once."""
    fresh = itertools.count(1 << 29)
    return [next(fresh) if source.random() < share else key for key in requests]


WORKLOADS = {
    "zipf-0.6": lambda s: zipf(s, 20000, 0.6, 200000),
    "zipf-0.8": lambda s: zipf(s, 20000, 0.8, 200000),
    "zipf-1.0": lambda s: zipf(s, 50000, 1.0, 300000),
    "zipf-1.2": lambda s: zipf(s, 50000, 1.2, 300000),
    "drift-40": lambda s: drift(s, 20000, 0.9, 300000, 40),
    "drift-400": lambda s: drift(s, 20000, 0.9, 300000, 400),
    "newcomers": lambda s: newcomers(s, 5000, 0.9, 300000, 15),
    "shuffled": lambda s: shuffled(s, 10000, 0.9, 300000, 60000),
    "loop": lambda s: loop(3000, 100000),
    "loops": lambda s: loops(s, (300, 900, 2500, 6000), 200000),
    "loop-in-zipf": lambda s: mix(s, [(0.5, loop(4000, 300000)), (0.5, zipf(s, 10000, 0.9, 300000))], 300000),
    "scans-new": lambda s: hot_and_scans(s, 2000, 3000, 200000, 0),
    "scans-again": lambda s: hot_and_scans(s, 2000, 3000, 200000, 2),
    "uniform": lambda s: [s.randrange(8000) for _ in range(150000)],
    "stack-0.3": lambda s: stack(s, 3000, 150000, 0.3),
    "stack-0.6": lambda s: stack(s, 3000, 150000, 0.6),
    "twice-near": lambda s: twice(s, 80000, 100, 3000),
    "twice-far": lambda s: twice(s, 80000, 8000, 8800),
    "twice-even": lambda s: twice(s, 12000, 400, 410),
    "twice-even-far": lambda s: twice(s, 40000, 1500, 1800),
    "twice-wide": lambda s: twice(s, 80000, 0, 20000),
    "to-and-fro": lambda s: to_and_fro(4000, 100000),
    "to-and-fro-noisy": lambda s: noisy(s, to_and_fro(4000, 100000), 0.1),
    "loop-noisy": lambda s: noisy(s, loop(3000, 100000), 0.1),
    "pools": lambda s: pools(s, 200, 20000, 200000),
    "bursts": lambda s: bursts(s, 20000, 0.9, 300000),
    "lives-300": lambda s: lives(s, 300000, 300),
    "lives-3000": lambda s: lives(s, 300000, 3000),
    "blocks": lambda s: blocks(s, 300000),
    "b-tree": lambda s: b_tree(s, 60000, 40, 300000),
    "phases-short": lambda s: phases(s, [part for _ in range(4) for part in (
        zipf(s, 5000, 0.9, 15000), loop(2000, 15000), twice(s, 7500, 100, 900))]),
    "phases-long": lambda s: phases(s, [zipf(s, 10000, 0.9, 80000), loop(5000, 80000), stack(s, 3000, 80000, 0.5),
                                        twice(s, 40000, 100, 3000)]),
    "large": lambda s: mix(s, [(0.6, zipf(s, 200000, 0.9, 800000)), (0.2, twice(s, 100000, 5000, 40000)),
                               (0.2, loop(30000, 200000))], 800000),
    "large-stack": lambda s: stack(s, 60000, 400000, 0.25),
}




def backwards(load, name):
    return load(name)[::-1]


def interleaved(load, source, one, other, skip=0):
    """Requests of two traces, each in its order, with equal chances, until one has ended."""
    return mix(source, [(0.5, load(one)[skip:]), (0.5, load(other))], 2 * len(load(other)) + 2 * len(load(one)))


def chained(load, *names):
    return phases(None, [load(name) for name in names])


# load(name) returns a shared trace as a list of keys that are numbered from 0 in the order in which they come.
DERIVED = {
    "cloud": lambda load, s: load("cloud"),
    "adapt": lambda load, s: load("adapt"),
    **{f"{name}-backwards": lambda load, s, name=name: backwards(load, name)
       for name in ("arc-OLTP", "cache2k-web07", "cache2k-web12", "lirs-multi1", "lirs-multi2", "lirs-sprite",
                    "lirs-cpp", "cloud", "adapt")},
    "arc-OLTP-begin": lambda load, s: load("arc-OLTP")[:250000],
    "arc-OLTP-end": lambda load, s: load("arc-OLTP")[600000:],
    "arc-OLTP-blocks": lambda load, s: [key // 4 for key in load("arc-OLTP")],
    "arc-OLTP-sample": lambda load, s: [key for key in load("arc-OLTP") if key * 2654435761 >> 7 & 3 == 0],
    "cloud-blocks": lambda load, s: [key // 8 for key in load("cloud")],
    "web-and-oltp": lambda load, s: interleaved(load, s, "arc-OLTP", "cache2k-web12", 100000),
    "corda-and-web": lambda load, s: interleaved(load, s, "corda", "cache2k-web07"),
    "cloud-and-web": lambda load, s: interleaved(load, s, "cloud", "cache2k-web07"),
    "sprite-and-cloud": lambda load, s: interleaved(load, s, "lirs-sprite", "cloud"),
    "web-multi-sprite-adapt": lambda load, s: chained(load, "cache2k-web07", "lirs-multi2", "lirs-sprite", "adapt"),
    "cloud-corda-web": lambda load, s: chained(load, "cloud", "corda", "cache2k-web12"),
    "lirs-and-web": lambda load, s: chained(load, "lirs-multi1", "lirs-cpp", "lirs-multi2", "lirs-zigzag", "cache2k-web12"),
    "corda-cloud": lambda load, s: chained(load, "corda", "cloud"),
}


def source_of(name):
    return random.Random("patinox " + name)


def make(name, load):
    """A list of keys, numbered from 0 in the order in which they come."""
    made = WORKLOADS[name](source_of(name)) if name in WORKLOADS else DERIVED[name](load, source_of(name))
    ids = {}
    return [ids.setdefault(key, len(ids)) for key in made]


def write(keys, path):
    numbers = array("i", keys)
    if sys.byteorder == "little":
        numbers.byteswap()
    with open(path, "wb") as file:
        numbers.tofile(file)
