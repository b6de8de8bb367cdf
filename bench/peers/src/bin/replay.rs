// SPDX-License-Identifier: Apache-2.0
// replay CAPACITY,CAPACITY... FILE... - hit ratios of quick_cache and moka over traces: files of numbers of keys, 32 bits each
// in this machine's order (tests/cache_policy/peers.py writes them).  Prints "file peer capacity requests hits" lines.
use std::time::Instant;

/// Replays a trace by get, then insert where that misses; returns hits.
fn replay(keys: &[u32], get: impl Fn(u32) -> bool, insert: impl Fn(u32)) -> u64 {
    let mut hits = 0;
    for &key in keys {
        if get(key) {
            hits += 1;
        } else {
            insert(key);
        }
    }
    hits
}

fn quick_cache(keys: &[u32], capacity: usize) -> u64 {
    let cache = quick_cache::sync::Cache::<u32, u32>::new(capacity);
    replay(keys, |key| cache.get(&key).is_some(), |key| cache.insert(key, key))
}

fn moka(keys: &[u32], capacity: usize) -> u64 {
    let cache = moka::sync::Cache::<u32, u32>::new(capacity as u64);
    // What moka leaves for later is done after each insert, as nothing else of it depends on time.
    replay(keys, |key| cache.get(&key).is_some(), |key| {
        cache.insert(key, key);
        cache.run_pending_tasks();
    })
}

fn read(path: &str) -> Vec<u32> {
    let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{path}: {error}"));
    bytes.chunks_exact(4).map(|four| u32::from_ne_bytes(four.try_into().unwrap())).collect()
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.len() < 2 {
        eprintln!("replay CAPACITY,CAPACITY... FILE...");
        std::process::exit(2);
    }
    for path in &args[1..] {
        let keys = read(path);
        for capacity in args[0].split(',').map(|text| text.parse().expect("a capacity in entries")) {
            let peers: [(&str, fn(&[u32], usize) -> u64); 2] = [("quick_cache", quick_cache), ("moka", moka)];
            for (name, peer) in peers {
                let start = Instant::now();
                let hits = peer(&keys, capacity);
                println!("{path} {name} {capacity} {} {hits}", keys.len());
                eprintln!("{name}: {:.0} ns a request", start.elapsed().as_nanos() as f64 / keys.len() as f64);
            }
        }
    }
}
