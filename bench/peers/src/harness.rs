// SPDX-License-Identifier: Apache-2.0
// Threads that start together, pinned, and one line of JSON: bench/bench.c in Rust.
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

const BATCH: u64 = 256;

pub struct Args {
    pub case: String,
    pub name: String,
    pub threads: usize,
    pub quick: bool,
}

impl Args {
    pub fn parse() -> Self {
        let args: Vec<String> = std::env::args().collect();
        let value = |name: &str| args.iter().position(|arg| arg == name).and_then(|at| args.get(at + 1)).cloned();
        Args {
            case: value("--case").unwrap_or_default(),
            name: value("--impl").unwrap_or_default(),
            threads: value("--threads").and_then(|text| text.parse().ok()).unwrap_or(1),
            quick: args.iter().any(|arg| arg == "--quick"),
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

/// Seconds of CPU that the calling thread has had.
fn thread_cpu() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Runs in each thread what make(index) gives there, which does as many operations as it is told.
pub fn cycle<W: FnMut(u64)>(args: &Args, version: &str, make: impl Fn(usize) -> W + Send + Sync + 'static) -> bool {
    cycle_by(BATCH, args, version, make)
}

/// The same for operations of another length: so many between two looks at the clock.
pub fn cycle_by<W: FnMut(u64)>(
    batch: u64,
    args: &Args,
    version: &str,
    make: impl Fn(usize) -> W + Send + Sync + 'static,
) -> bool {
    run(batch, args, version, make, String::new)
}

/// The same as cycle(), with what fields tells at the end: further fields, each with a comma before it.
pub fn cycle_telling<W: FnMut(u64)>(
    args: &Args,
    version: &str,
    make: impl Fn(usize) -> W + Send + Sync + 'static,
    fields: impl FnOnce() -> String,
) -> bool {
    run(BATCH, args, version, make, fields)
}

fn run<W: FnMut(u64)>(
    batch: u64,
    args: &Args,
    version: &str,
    make: impl Fn(usize) -> W + Send + Sync + 'static,
    fields: impl FnOnce() -> String,
) -> bool {
    let threads = args.threads;
    let make = Arc::new(make);
    let barrier = Arc::new(Barrier::new(threads + 1));
    let stop = Arc::new(AtomicBool::new(false));
    let pinned = std::thread::available_parallelism().map_or(false, |n| threads <= n.get());
    let handles: Vec<_> = (0..threads)
        .map(|index| {
            let (make, barrier, stop) = (make.clone(), barrier.clone(), stop.clone());
            std::thread::spawn(move || {
                if pinned {
                    pin(index);
                }
                let mut work = make(index);
                work(10 * batch);
                barrier.wait();
                let cpu = thread_cpu();
                let began = Instant::now();
                let mut operations = 0;
                while !stop.load(Ordering::Relaxed) {
                    work(batch);
                    operations += batch;
                }
                (began, Instant::now(), operations, thread_cpu() - cpu)
            })
        })
        .collect();
    barrier.wait();
    std::thread::sleep(Duration::from_millis(if args.quick { 150 } else { 500 }));
    stop.store(true, Ordering::Relaxed);
    let results: Vec<_> = handles.into_iter().map(|handle| handle.join().unwrap()).collect();
    let began = results.iter().map(|result| result.0).min().unwrap();
    let ended = results.iter().map(|result| result.1).max().unwrap();
    let operations: u64 = results.iter().map(|result| result.2).sum();
    let ns = (ended - began).as_nanos() as f64 * threads as f64 / operations as f64;
    let cpu = results.iter().map(|result| result.3).sum::<f64>() * 1e9 / operations as f64;
    println!(
        "{{\"version\":\"{version}\",\"ns_per_op\":{ns:.3},\"cpu_ns_per_op\":{cpu:.3},\"operations\":{operations}{}}}",
        fields()
    );
    true
}

fn rollup_bytes(field: &str) -> f64 {
    let text = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with(field));
    let kib = line.and_then(|line| line.split_whitespace().nth(1)).and_then(|word| word.parse::<f64>().ok());
    kib.unwrap_or(0.0) * 1024.0
}

/// Prints what stays resident of what make() makes, per entry (see bench_memory() in bench/bench.h).
pub fn memory<T>(version: &str, entries: u64, make: impl FnOnce() -> T) -> bool {
    let (resident, huge) = (rollup_bytes("Rss:"), rollup_bytes("AnonHugePages:"));
    let made = make();
    let resident = (rollup_bytes("Rss:") - resident) / entries as f64;
    let huge = (rollup_bytes("AnonHugePages:") - huge) / entries as f64;
    println!("{{\"version\":\"{version}\",\"bytes_per_entry\":{resident:.2},\"huge_pages_per_entry\":{huge:.2}}}");
    drop(made);
    true
}
