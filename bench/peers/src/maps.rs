// SPDX-License-Identifier: Apache-2.0
// share/cmap-*: the workload of bench/maps.h over the maps in Rust.
use crate::harness::{cycle, memory, Args};
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::hint::black_box;
use std::sync::Arc;

const ENTRIES: u64 = 1_000_000;
const STREAM: usize = 1 << 19;
const MIX_UPDATES: u64 = 10;
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

fn key(i: u64) -> u64 {
    mix((i + 1).wrapping_mul(GOLDEN))
}

fn below(x: u64, n: u64) -> u64 {
    ((x as u128 * n as u128) >> 64) as u64
}

/// A thread's operations: keys, and which of them are updates.
fn stream(index: usize) -> (Vec<u64>, Vec<bool>) {
    let mut state = (index as u64 + 1) << 32;
    let mut next = || {
        state = state.wrapping_add(GOLDEN);
        mix(state)
    };
    let (mut keys, mut update) = (Vec::with_capacity(STREAM), Vec::with_capacity(STREAM));
    for _ in 0..STREAM {
        keys.push(key(below(next(), ENTRIES)));
        update.push(below(next(), 100) < MIX_UPDATES);
    }
    (keys, update)
}

trait Map: Send + Sync + 'static {
    fn get(&self, key: u64) -> u64;
    fn put(&self, key: u64, value: u64);
}

impl<S: BuildHasher + Send + Sync + 'static> Map for parking_lot::RwLock<HashMap<u64, u64, S>> {
    fn get(&self, key: u64) -> u64 {
        self.read()[&key]
    }
    fn put(&self, key: u64, value: u64) {
        self.write().insert(key, value);
    }
}

impl<S: BuildHasher + Clone + Send + Sync + 'static> Map for dashmap::DashMap<u64, u64, S> {
    fn get(&self, key: u64) -> u64 {
        *self.get(&key).unwrap()
    }
    fn put(&self, key: u64, value: u64) {
        self.insert(key, value);
    }
}

impl<S: BuildHasher + Send + Sync + 'static> Map for papaya::HashMap<u64, u64, S> {
    fn get(&self, key: u64) -> u64 {
        *self.pin().get(&key).unwrap()
    }
    fn put(&self, key: u64, value: u64) {
        self.pin().insert(key, value);
    }
}

fn filled<M: Map>(map: M) -> M {
    for i in 0..ENTRIES {
        map.put(key(i), i);
    }
    map
}

fn measure<M: Map>(args: &Args, version: &str, make: impl FnOnce() -> M) -> bool {
    if args.case == "share/cmap-memory" {
        return memory(version, ENTRIES, || filled(make()));
    }
    let map = Arc::new(filled(make()));
    let mixed = args.case == "share/cmap-mix";
    if !mixed && args.case != "share/cmap-get" {
        return false;
    }
    cycle(args, version, move |index| {
        let (map, (keys, update)) = (map.clone(), stream(index));
        let mut at = 0;
        move |n| {
            for _ in 0..n {
                let key = keys[at];
                if mixed && update[at] {
                    map.put(key, at as u64);
                } else {
                    black_box(map.get(key));
                }
                at = (at + 1) & (STREAM - 1);
            }
        }
    })
}

pub fn run(args: &Args) -> bool {
    let fold = foldhash::fast::RandomState::default();
    match args.name.as_str() {
        "rwlock-hashmap-foldhash" => {
            measure(args, "0.12.5", || parking_lot::RwLock::new(HashMap::with_hasher(fold)))
        }
        "dashmap" => measure(args, "6.1.0", || dashmap::DashMap::with_hasher(RandomState::new())),
        "dashmap-foldhash" => measure(args, "6.1.0", || dashmap::DashMap::with_hasher(fold)),
        "papaya-foldhash" => measure(args, "0.2.5", || papaya::HashMap::with_hasher(fold)),
        _ => false,
    }
}
