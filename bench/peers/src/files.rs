// SPDX-License-Identifier: Apache-2.0
// map/*: memmap2 over the file of bench/files.c, which a C program has made before.
use crate::harness::{cycle_by, Args};
use memmap2::{Mmap, MmapOptions};
use std::fs::File;
use std::hint::black_box;

const VERSION: &str = "0.9.11";
const BYTES: u64 = 1 << 30;
const PIECE: u64 = 64 << 20;
const BATCH: u64 = 4096;

#[repr(C)]
#[derive(Clone, Copy)]
struct Record {
    id: u64,
    value: u64,
    more: [u64; 2],
}

const RECORDS: u64 = BYTES / std::mem::size_of::<Record>() as u64;

fn open() -> File {
    let folder = std::env::var("TMPDIR").ok().filter(|text| !text.is_empty()).unwrap_or("/tmp".into());
    File::open(format!("{folder}/patinox-bench-map.bin")).expect("the file that a C program makes")
}

fn records(bytes: &[u8]) -> &[Record] {
    let (before, records, behind) = unsafe { bytes.align_to::<Record>() };
    assert!(before.is_empty() && behind.is_empty());
    records
}

fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E3779B97F4A7C15);
    let mut x = *state;
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58476D1CE4E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D049BB133111EB);
    (((x ^ (x >> 31)) as u128 * RECORDS as u128) >> 64) as u64
}

fn sum(records: &[Record]) -> u64 {
    records.iter().fold(0u64, |sum, record| sum.wrapping_add(record.value))
}

fn warm() -> Mmap {
    let map = unsafe { Mmap::map(&open()).expect("mmap") };
    black_box(map.iter().step_by(4096).fold(0u64, |sum, byte| sum + *byte as u64));
    map
}

pub fn run(args: &Args) -> bool {
    match (args.case.as_str(), args.name.as_str()) {
        ("map/scan-warm", "memmap2") => cycle_by(BATCH, args, VERSION, |_| {
            let map = warm();
            let mut at = 0usize;
            move |n| {
                let n = n as usize;
                if at + n > RECORDS as usize {
                    at = 0;
                }
                black_box(sum(&records(&map)[at..at + n]));
                at += n;
            }
        }),
        ("map/random-get", "memmap2") => cycle_by(BATCH, args, VERSION, |_| {
            let map = warm();
            let mut state = 42;
            move |n| {
                let all = records(&map);
                let mut sum = 0u64;
                for _ in 0..n {
                    sum = sum.wrapping_add(all[next(&mut state) as usize].value);
                }
                black_box(sum);
            }
        }),
        ("map/scan-fresh", "memmap2") => cycle_by(1, args, VERSION, |_| {
            let mut at = 0;
            move |n| {
                for _ in 0..n {
                    let map = unsafe { MmapOptions::new().offset(at).len(PIECE as usize).map(&open()).expect("mmap") };
                    black_box(sum(records(&map)));
                    at = (at + PIECE) % BYTES;
                }
            }
        }),
        _ => false,
    }
}
