// SPDX-License-Identifier: Apache-2.0
// share/rc-*, share/snapshot-* and share/rwdata-*: one object for all threads, a value of 8 bytes.
use crate::harness::{cycle, Args};
use arc_swap::{ArcSwap, Cache};
use crossbeam_epoch as epoch;
use std::hint::black_box;
use std::sync::atomic::Ordering;
use std::sync::Arc;

const ARC_SWAP: &str = "1.9.1";
const EPOCH: &str = "0.9.20";
const PARKING_LOT: &str = "0.12.5";
const STD: &str = env!("PEERS_RUSTC");


/// Runs the expression n times in each thread; `shared` is a reference to the common object.
macro_rules! each {
    ($args:expr, $version:expr, $object:expr, |$shared:ident| $body:expr) => {{
        let object = Arc::new($object);
        cycle($args, $version, move |_| {
            let object = object.clone();
            move |n| {
                let $shared = &*object;
                for _ in 0..n {
                    $body;
                }
            }
        })
    }};
}

pub fn run(args: &Args) -> bool {
    match (args.case.as_str(), args.name.as_str()) {
        ("share/rc-clone-drop", "std-arc") => {
            each!(args, STD, Arc::new(1u64), |arc| drop(black_box(Arc::clone(arc))))
        }
        ("share/snapshot-reader", _) => reader(args),
        ("share/snapshot-peek", _) => peek(args),
        ("share/snapshot-load", _) => load(args),
        ("share/snapshot-store", _) => store(args),
        ("share/rwdata-read", "parking_lot-rwlock") => {
            each!(args, PARKING_LOT, parking_lot::RwLock::new(1u64), |lock| black_box(*lock.read()))
        }
        ("share/rwdata-read", "std-rwlock") => {
            each!(args, STD, std::sync::RwLock::new(1u64), |lock| black_box(*lock.read().unwrap()))
        }
        ("share/rwdata-write", "parking_lot-rwlock") => {
            each!(args, PARKING_LOT, parking_lot::RwLock::new(1u64), |lock| *black_box(&mut *lock.write()) += 1)
        }
        ("share/rwdata-write", "std-rwlock") => {
            each!(args, STD, std::sync::RwLock::new(1u64), |lock| {
                *black_box(&mut *lock.write().unwrap()) += 1
            })
        }
        _ => false,
    }
}

/// A handle per thread that keeps the value it saw last.
fn reader(args: &Args) -> bool {
    if args.name != "arc-swap-cache" {
        return false;
    }
    let cell = Arc::new(ArcSwap::from_pointee(1u64));
    cycle(args, ARC_SWAP, move |_| {
        let mut cache = Cache::new(cell.clone());
        move |n| {
            for _ in 0..n {
                black_box(**cache.load());
            }
        }
    })
}

/// Reads the value without owning it.
fn peek(args: &Args) -> bool {
    match args.name.as_str() {
        "arc-swap" => each!(args, ARC_SWAP, ArcSwap::from_pointee(1u64), |cell| black_box(**cell.load())),
        "crossbeam-epoch" => each!(args, EPOCH, epoch::Atomic::new(1u64), |cell| {
            let guard = epoch::pin();
            let value = cell.load(Ordering::Acquire, &guard);
            black_box(unsafe { *value.deref() });
        }),
        _ => false,
    }
}

/// Takes a reference of its own and lets it go.
fn load(args: &Args) -> bool {
    match args.name.as_str() {
        "arc-swap" => each!(args, ARC_SWAP, ArcSwap::from_pointee(1u64), |cell| black_box(*cell.load_full())),
        "parking_lot-rwlock" => {
            each!(args, PARKING_LOT, parking_lot::RwLock::new(Arc::new(1u64)), |cell| {
                let arc = cell.read().clone();
                black_box(*arc);
            })
        }
        _ => false,
    }
}

/// Makes a new value and publishes it; the old one is let go.
fn store(args: &Args) -> bool {
    match args.name.as_str() {
        "arc-swap" => each!(args, ARC_SWAP, ArcSwap::from_pointee(1u64), |cell| {
            cell.store(Arc::new(black_box(1u64)))
        }),
        "crossbeam-epoch" => each!(args, EPOCH, epoch::Atomic::new(1u64), |cell| {
            let guard = epoch::pin();
            let old = cell.swap(epoch::Owned::new(black_box(1u64)), Ordering::AcqRel, &guard);
            unsafe { guard.defer_destroy(old) };
        }),
        "parking_lot-rwlock" => {
            each!(args, PARKING_LOT, parking_lot::RwLock::new(Arc::new(1u64)), |cell| {
                let mut next = Arc::new(black_box(1u64));
                std::mem::swap(&mut *cell.write(), &mut next);
            })
        }
        _ => false,
    }
}
