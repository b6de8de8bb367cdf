// SPDX-License-Identifier: Apache-2.0
// The peers in Rust, started by bench/run exactly as the C programs are (see bench/bench.h).
use parking_lot::{Condvar, Mutex};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

const POOL_SIZE: usize = 16;
const BATCH: u64 = 256;

/// A bare stack under a parking_lot mutex and condition variable.
struct Stack {
    free: Mutex<Vec<usize>>,
    returned: Condvar,
}

impl Stack {
    fn new() -> Self {
        Stack { free: Mutex::new((0..POOL_SIZE).collect()), returned: Condvar::new() }
    }

    fn work(&self, n: u64) {
        for _ in 0..n {
            let got = {
                let mut free = self.free.lock();
                loop {
                    if let Some(connection) = free.pop() {
                        break connection;
                    }
                    self.returned.wait(&mut free);
                }
            };
            self.free.lock().push(got);
            self.returned.notify_one();
        }
    }
}

fn pin(index: usize) {
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(index, &mut set);
        libc::sched_setaffinity(0, std::mem::size_of_val(&set), &set);
    }
}

fn cycle(version: &str, threads: usize, quick: bool, work: impl Fn(u64) + Send + Sync + 'static) {
    let work = Arc::new(work);
    let barrier = Arc::new(Barrier::new(threads + 1));
    let stop = Arc::new(AtomicBool::new(false));
    let pinned = std::thread::available_parallelism().map_or(false, |n| threads <= n.get());
    let handles: Vec<_> = (0..threads)
        .map(|index| {
            let (work, barrier, stop) = (work.clone(), barrier.clone(), stop.clone());
            std::thread::spawn(move || {
                if pinned {
                    pin(index);
                }
                work(10 * BATCH);
                barrier.wait();
                let began = Instant::now();
                let mut operations = 0;
                while !stop.load(Ordering::Relaxed) {
                    work(BATCH);
                    operations += BATCH;
                }
                (began, Instant::now(), operations)
            })
        })
        .collect();
    barrier.wait();
    std::thread::sleep(Duration::from_millis(if quick { 150 } else { 500 }));
    stop.store(true, Ordering::Relaxed);
    let results: Vec<_> = handles.into_iter().map(|handle| handle.join().unwrap()).collect();
    let began = results.iter().map(|result| result.0).min().unwrap();
    let ended = results.iter().map(|result| result.1).max().unwrap();
    let operations: u64 = results.iter().map(|result| result.2).sum();
    let ns = (ended - began).as_nanos() as f64 * threads as f64 / operations as f64;
    println!("{{\"version\":\"{version}\",\"ns_per_op\":{ns:.2},\"operations\":{operations}}}");
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let value = |name: &str| args.iter().position(|arg| arg == name).and_then(|at| args.get(at + 1)).cloned();
    let quick = args.iter().any(|arg| arg == "--quick");
    let threads = value("--threads").and_then(|text| text.parse().ok()).unwrap_or(1);
    match (value("--case").as_deref(), value("--impl").as_deref()) {
        (Some("pool/cycle"), Some("parking_lot-stack")) => {
            let stack = Stack::new();
            cycle("0.12.5", threads, quick, move |n| stack.work(n));
        }
        (case, name) => {
            eprintln!("patinox-peers: no {name:?} in {case:?}");
            std::process::exit(2);
        }
    }
}
