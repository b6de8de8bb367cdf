// SPDX-License-Identifier: Apache-2.0
// pool/cycle: a bare stack under a parking_lot mutex and condition variable.
use crate::harness::{cycle, Args};
use parking_lot::{Condvar, Mutex};
use std::sync::Arc;

const POOL_SIZE: usize = 16;

struct Stack {
    free: Mutex<Vec<usize>>,
    returned: Condvar,
}

impl Stack {
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

pub fn run(args: &Args) -> bool {
    if (args.case.as_str(), args.name.as_str()) != ("pool/cycle", "parking_lot-stack") {
        return false;
    }
    let stack = Arc::new(Stack { free: Mutex::new((0..POOL_SIZE).collect()), returned: Condvar::new() });
    cycle(args, "0.12.5", move |_| {
        let stack = stack.clone();
        move |n| stack.work(n)
    })
}
