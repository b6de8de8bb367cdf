// SPDX-License-Identifier: Apache-2.0
// Gives the program the compiler's version, which is that of the peers in std, and the workloads that are in C.
use std::process::Command;

const WORKLOADS: [&str; 3] = ["../bench.c", "../pool.c", "../pool_order.c"];

fn main() {
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".into());
    let told = Command::new(rustc).arg("--version").output().map(|done| done.stdout).unwrap_or_default();
    let told = String::from_utf8_lossy(&told);
    println!("cargo:rustc-env=PEERS_RUSTC=rustc {}", told.split_whitespace().nth(1).unwrap_or("unknown"));
    println!("cargo:rerun-if-changed=build.rs");

    cc::Build::new().files(WORKLOADS).std("gnu11").define("_GNU_SOURCE", None).opt_level(3).compile("workloads");
    for file in WORKLOADS.iter().chain(&["../bench.h", "../pool.h", "../pool_order.h"]) {
        println!("cargo:rerun-if-changed={file}");
    }
}
