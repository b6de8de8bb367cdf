// SPDX-License-Identifier: Apache-2.0
// The peers in Rust, started by bench/run exactly as the C programs are (see bench/bench.h).
mod caches;
mod files;
mod harness;
mod maps;
mod pool;
mod share;

fn main() {
    let args = harness::Args::parse();
    let known = match args.case.split('/').next() {
        Some("cache") => caches::run(&args),
        Some("map") => files::run(&args),
        Some("pool") => pool::run(&args),
        Some("share") if args.case.starts_with("share/cmap") => maps::run(&args),
        Some("share") => share::run(&args),
        _ => false,
    };
    if !known {
        eprintln!("patinox-peers: no {:?} in {:?}", args.name, args.case);
        std::process::exit(2);
    }
}
