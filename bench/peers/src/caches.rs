// SPDX-License-Identifier: Apache-2.0
// cache/*: the workload of bench/caches.h over the caches in Rust.
use crate::harness::{cycle_telling, memory, Args};
use std::hash::Hash;
use std::hint::black_box;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

const ENTRIES: u64 = 100_000;
const MIXED_KEYS: u64 = 1_000_000;
const MEMORY: u64 = 1_000_000;
const STREAM: usize = 1 << 20;
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;
type Text = [u8; 24];

fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

fn key(i: u64) -> u64 {
    mix((i + 1).wrapping_mul(GOLDEN))
}

fn text(i: u64) -> Text {
    let mut text = *b"user:id:0000000000000000";
    let mut key = key(i);
    for digit in &mut text[8..] {
        *digit = b"0123456789abcdef"[(key & 15) as usize];
        key >>= 4;
    }
    text
}

/// A thread's numbers below n; theta 0: uniform.
fn stream(index: usize, n: u64, theta: f64) -> Vec<u64> {
    let mut state = (index as u64 + 1) << 32;
    let zeta: f64 = if theta > 0.0 { (1..=n).map(|i| 1.0 / (i as f64).powf(theta)).sum() } else { 0.0 };
    let half = 0.5f64.powf(theta);
    let eta = (1.0 - (2.0 / n as f64).powf(1.0 - theta)) / (1.0 - (1.0 + half) / zeta);
    (0..STREAM)
        .map(|_| {
            state = state.wrapping_add(GOLDEN);
            let x = mix(state);
            let u = (x >> 11) as f64 / 9007199254740992.0;
            if theta <= 0.0 {
                ((x as u128 * n as u128) >> 64) as u64
            } else if u * zeta < 1.0 {
                0
            } else if u * zeta < 1.0 + half {
                1
            } else {
                ((n - 1) as f64 * (eta * u - eta + 1.0).powf(1.0 / (1.0 - theta))) as u64
            }
        })
        .collect()
}

trait Cache<K>: Send + Sync + 'static {
    fn get(&self, key: &K) -> Option<u64>;
    fn put(&self, key: K, value: u64);
}

impl<K: Hash + Eq + Clone + Send + Sync + 'static> Cache<K> for quick_cache::sync::Cache<K, u64> {
    fn get(&self, key: &K) -> Option<u64> {
        self.get(key)
    }
    fn put(&self, key: K, value: u64) {
        self.insert(key, value);
    }
}

impl<K: Hash + Eq + Send + Sync + 'static> Cache<K> for moka::sync::Cache<K, u64> {
    fn get(&self, key: &K) -> Option<u64> {
        self.get(key)
    }
    fn put(&self, key: K, value: u64) {
        self.insert(key, value);
    }
}

impl<K: Hash + Eq + Send + 'static> Cache<K> for Mutex<lru::LruCache<K, u64>> {
    fn get(&self, key: &K) -> Option<u64> {
        self.lock().unwrap().get(key).copied()
    }
    fn put(&self, key: K, value: u64) {
        self.lock().unwrap().put(key, value);
    }
}

impl<K: Hash + Eq + Send + Sync + 'static> Cache<K> for dashmap::DashMap<K, u64> {
    fn get(&self, key: &K) -> Option<u64> {
        self.get(key).map(|value| *value)
    }
    fn put(&self, key: K, value: u64) {
        self.insert(key, value);
    }
}

fn measure<K: Clone + Send + Sync + 'static, C: Cache<K>>(
    args: &Args,
    version: &str,
    name: fn(u64) -> K,
    make: impl Fn(u64) -> C,
) -> bool {
    let filled = |capacity, entries| {
        let cache = make(capacity);
        (0..entries).for_each(|i| cache.put(name(i), i));
        cache
    };
    let (mixed, inserts) = (args.case == "cache/mixed", args.case == "cache/insert-evict");
    let (keys, theta) = match args.case.as_str() {
        "cache/memory" => return memory(version, MEMORY, || filled(MEMORY, MEMORY)),
        "cache/hit-int-uniform" | "cache/hit-str" | "cache/insert-evict" => (ENTRIES, 0.0),
        "cache/hit-int-zipf" => (ENTRIES, 0.99),
        "cache/mixed" => (MIXED_KEYS, 0.99),
        _ => return false,
    };
    let cache = Arc::new(match () {
        _ if mixed => filled(ENTRIES, 0),
        _ if inserts => filled(ENTRIES, 2 * ENTRIES),
        _ => filled(2 * ENTRIES, ENTRIES),
    });
    let (asked, found) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let (all_asked, all_found) = (asked.clone(), found.clone());
    cycle_telling(
        args,
        version,
        move |index| {
            let (cache, asked, found) = (cache.clone(), asked.clone(), found.clone());
            let keys: Vec<K> = stream(index, keys, theta).into_iter().map(name).collect();
            let (mut at, mut fresh) = (0, 2 * ENTRIES);
            move |n| {
                let mut hits = 0;
                for _ in 0..n {
                    if inserts {
                        cache.put(name(fresh), fresh);
                        fresh += 1;
                        continue;
                    }
                    match black_box(cache.get(&keys[at])) {
                        Some(_) => hits += 1,
                        None if mixed => cache.put(keys[at].clone(), at as u64),
                        None => std::process::abort(),
                    }
                    at = (at + 1) & (STREAM - 1);
                }
                if mixed {
                    asked.fetch_add(n, Ordering::Relaxed);
                    found.fetch_add(hits, Ordering::Relaxed);
                }
            }
        },
        move || {
            let asked = all_asked.load(Ordering::Relaxed);
            match asked {
                0 => String::new(),
                _ => format!(",\"hit_ratio\":{:.4}", all_found.load(Ordering::Relaxed) as f64 / asked as f64),
            }
        },
    )
}

fn choose<K: Hash + Eq + Clone + Send + Sync + 'static>(args: &Args, name: fn(u64) -> K) -> bool {
    match args.name.as_str() {
        "quick_cache" => measure(args, "0.7.0", name, |n| quick_cache::sync::Cache::new(n as usize)),
        "moka" => measure(args, "0.12.14", name, moka::sync::Cache::new),
        "lru" => measure(args, "0.18.1", name, |n| {
            Mutex::new(lru::LruCache::new(NonZeroUsize::new(n as usize).unwrap()))
        }),
        "dashmap" => measure(args, "6.1.0", name, |_| dashmap::DashMap::new()),
        _ => false,
    }
}

pub fn run(args: &Args) -> bool {
    match args.case.as_str() {
        "cache/hit-str" => choose(args, text),
        _ => choose(args, key),
    }
}
