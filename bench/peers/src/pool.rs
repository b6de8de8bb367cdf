// SPDX-License-Identifier: Apache-2.0
// The pool cases: r2d2, deadpool, bb8, and a bare stack under a parking_lot mutex and condition variable.
//
// pool/cycle is a loop of each here; the other workloads are those of ../pool.c, which calls what it is given.
use crate::harness::{cycle, Args};
use futures_executor::block_on;
use parking_lot::{Condvar, Mutex};
use std::cell::UnsafeCell;
use std::convert::Infallible;
use std::ffi::{c_char, c_int, c_uint, c_void, CString};
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;
use tokio::runtime::Runtime;

const CYCLE_SIZE: u32 = 16;
const MAX_THREADS: usize = 1024;

/// A pool as the workloads see it.  Lives as long as the process.
trait Pool: Sync + Sized + 'static {
    type Lease: 'static;
    /// At most size connections, of which idle are connected and idle, at the latest after connect_idle().
    fn new(size: u32, idle: u32) -> Self;
    fn connect_idle(&'static self, _idle: u32) {}
    /// In each thread before all else.
    fn enter_thread() {}
    fn acquire(&'static self) -> Self::Lease;
    fn release(&'static self, lease: Self::Lease) {
        drop(lease);
    }
    /// n cycles, in the fastest form that there is.
    fn cycles(&'static self, n: u64) {
        for _ in 0..n {
            self.release(self.acquire());
        }
    }
}

fn make<P: Pool>(size: u32, idle: u32) -> &'static P {
    let pool: &'static P = Box::leak(Box::new(P::new(size, idle)));
    pool.connect_idle(idle);
    pool
}

// ---- what connects ----

struct Manager;

impl r2d2::ManageConnection for Manager {
    type Connection = usize;
    type Error = std::fmt::Error;
    fn connect(&self) -> Result<usize, Self::Error> {
        unsafe { pool_connect() };
        Ok(0)
    }
    fn is_valid(&self, _: &mut usize) -> Result<(), Self::Error> {
        Ok(())
    }
    fn has_broken(&self, _: &mut usize) -> bool {
        false
    }
}

impl deadpool::managed::Manager for Manager {
    type Type = usize;
    type Error = Infallible;
    async fn create(&self) -> Result<usize, Infallible> {
        unsafe { pool_connect() }; // in the thread of the caller, who waits for it anyway
        Ok(0)
    }
    async fn recycle(&self, _: &mut usize, _: &deadpool::managed::Metrics) -> deadpool::managed::RecycleResult<Infallible> {
        Ok(())
    }
}

impl bb8::ManageConnection for Manager {
    type Connection = usize;
    type Error = Infallible;
    async fn connect(&self) -> Result<usize, Infallible> {
        let takes = Duration::from_nanos(unsafe { pool_connect_ns() });
        if !takes.is_zero() {
            tokio::time::sleep(takes).await;
        }
        Ok(0)
    }
    async fn is_valid(&self, _: &mut usize) -> Result<(), Infallible> {
        Ok(())
    }
    fn has_broken(&self, _: &mut usize) -> bool {
        false
    }
}

// ---- the pools, with their default options ----

impl Pool for r2d2::Pool<Manager> {
    type Lease = r2d2::PooledConnection<Manager>;
    fn new(size: u32, idle: u32) -> Self {
        r2d2::Pool::builder().max_size(size).min_idle(Some(idle)).build(Manager).unwrap()
    }
    fn acquire(&'static self) -> Self::Lease {
        self.get().unwrap()
    }
}

impl Pool for deadpool::managed::Pool<Manager> {
    type Lease = deadpool::managed::Object<Manager>;
    fn new(size: u32, _: u32) -> Self {
        deadpool::managed::Pool::builder(Manager).max_size(size as usize).build().unwrap()
    }
    fn connect_idle(&'static self, idle: u32) {
        let all: Vec<_> = (0..idle).map(|_| self.acquire()).collect();
        drop(all);
    }
    fn acquire(&'static self) -> Self::Lease {
        block_on(self.get()).unwrap()
    }
    fn cycles(&'static self, n: u64) {
        block_on(async {
            for _ in 0..n {
                drop(self.get().await.unwrap());
            }
        });
    }
}

/// bb8 connects and keeps its timers in tokio's tasks; its callers are threads of ours, as with the other pools.
fn tokio_runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_time().build().unwrap()
    })
}

impl Pool for bb8::Pool<Manager> {
    type Lease = bb8::PooledConnection<'static, Manager>;
    fn new(size: u32, idle: u32) -> Self {
        tokio_runtime().block_on(bb8::Pool::builder().max_size(size).min_idle(idle).build(Manager)).unwrap()
    }
    fn enter_thread() {
        std::mem::forget(tokio_runtime().enter()); // to its end
    }
    fn acquire(&'static self) -> Self::Lease {
        block_on(self.get()).unwrap()
    }
    fn cycles(&'static self, n: u64) {
        block_on(async {
            for _ in 0..n {
                drop(self.get().await.unwrap());
            }
        });
    }
}

struct Stack {
    free: Mutex<Vec<usize>>,
    returned: Condvar,
}

impl Pool for Stack {
    type Lease = usize;
    fn new(size: u32, _: u32) -> Self {
        Stack { free: Mutex::new((0..size as usize).collect()), returned: Condvar::new() }
    }
    fn acquire(&'static self) -> usize {
        let mut free = self.free.lock();
        loop {
            if let Some(connection) = free.pop() {
                return connection;
            }
            self.returned.wait(&mut free);
        }
    }
    fn release(&'static self, connection: usize) {
        self.free.lock().push(connection);
        self.returned.notify_one();
    }
}

// ---- the workloads of ../pool.c ----

#[repr(C)]
struct BenchArgs {
    case_name: *const c_char,
    name: *const c_char,
    threads: c_uint,
    count: u64,
    quick: bool,
}

#[repr(C)]
struct PoolOps {
    set_up: unsafe extern "C" fn(u32, u32) -> *mut c_void,
    enter_thread: unsafe extern "C" fn(*mut c_void),
    acquire: unsafe extern "C" fn(*mut c_void, c_uint),
    release: unsafe extern "C" fn(*mut c_void, c_uint),
    trace: Option<unsafe extern "C" fn(*mut c_void)>,
    end_trace: Option<unsafe extern "C" fn(*mut c_void) -> u64>,
}

extern "C" {
    fn pool_run(args: *const BenchArgs, version: *const c_char, ops: *const PoolOps) -> c_int;
    fn pool_connect();
    fn pool_connect_ns() -> u64;
}

/// What a thread has borrowed, away from the others'.
#[repr(align(128))]
struct Held<L>(UnsafeCell<Option<L>>);

struct Shown<P: Pool> {
    pool: &'static P,
    held: *const Held<P::Lease>,
}

unsafe extern "C" fn set_up<P: Pool>(size: u32, idle: u32) -> *mut c_void {
    static HELD: OnceLock<usize> = OnceLock::new(); // of the one kind of pool that a process has
    let held = *HELD.get_or_init(|| {
        let all: Vec<_> = (0..MAX_THREADS).map(|_| Held::<P::Lease>(UnsafeCell::new(None))).collect();
        all.leak().as_ptr() as usize
    });
    Box::into_raw(Box::new(Shown { pool: make::<P>(size, idle), held: held as *const _ })).cast()
}

unsafe extern "C" fn enter_thread<P: Pool>(_: *mut c_void) {
    P::enter_thread();
}

unsafe extern "C" fn acquire<P: Pool>(shown: *mut c_void, index: c_uint) {
    let shown = &*shown.cast::<Shown<P>>();
    *(*shown.held.add(index as usize)).0.get() = Some(shown.pool.acquire());
}

unsafe extern "C" fn release<P: Pool>(shown: *mut c_void, index: c_uint) {
    let shown = &*shown.cast::<Shown<P>>();
    shown.pool.release((*(*shown.held.add(index as usize)).0.get()).take().unwrap());
}

// ---- pool/cancel and pool/async-cycle ----

/// Wakes by a flag, as a loop that looks at it would want it.
#[derive(Default)]
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Release);
    }
}

/// Acquires of which every second one is cancelled while it waits: all connections are held, by a thread each.
fn cancel(args: &Args, version: &str) -> bool {
    type Deadpool = deadpool::managed::Pool<Manager>;
    let pool = make::<Deadpool>(args.threads as u32, args.threads as u32);
    cycle(args, version, move |_| {
        let flag = Arc::new(Flag::default());
        let waker = Waker::from(flag.clone());
        let mut held = Some(pool.acquire());
        move |n| {
            let mut context = Context::from_waker(&waker);
            for _ in 0..n / 2 {
                {
                    let mut taken_back = pin!(pool.get());
                    drop(taken_back.as_mut().poll(&mut context));
                }
                let mut wanted = pin!(pool.get());
                flag.0.store(false, Ordering::Relaxed);
                let mut got = wanted.as_mut().poll(&mut context);
                drop(held.take());
                held = loop {
                    match got {
                        Poll::Ready(lease) => break lease.ok(),
                        Poll::Pending => wait_for(&flag.0),
                    }
                    got = wanted.as_mut().poll(&mut context);
                }
            }
        }
    })
}

/// Until the flag is set, which it is not any more then.
fn wait_for(flag: &AtomicBool) {
    for round in 1u32.. {
        if flag.load(Ordering::Relaxed) && flag.swap(false, Ordering::Acquire) {
            return;
        }
        if round % 64 == 0 {
            std::thread::yield_now();
        } else {
            std::hint::spin_loop();
        }
    }
}

fn measure<P: Pool>(args: &Args, version: &str) -> bool {
    if args.case == "pool/cycle" || args.case == "pool/async-cycle" {
        P::enter_thread();
        let pool = make::<P>(CYCLE_SIZE, CYCLE_SIZE);
        return cycle(args, version, move |_| {
            P::enter_thread();
            move |n| pool.cycles(n)
        });
    }
    let text = |text: &str| CString::new(text).unwrap();
    let (case, name, version) = (text(&args.case), text(&args.name), text(version));
    let ops = PoolOps {
        set_up: set_up::<P>,
        enter_thread: enter_thread::<P>,
        acquire: acquire::<P>,
        release: release::<P>,
        trace: None,
        end_trace: None,
    };
    let args = BenchArgs {
        case_name: case.as_ptr(),
        name: name.as_ptr(),
        threads: args.threads as c_uint,
        count: 0,
        quick: args.quick,
    };
    unsafe { pool_run(&args, version.as_ptr(), &ops) == 0 }
}

pub fn run(args: &Args) -> bool {
    match args.name.as_str() {
        "deadpool" if args.case == "pool/cancel" => cancel(args, "0.13.1"),
        "r2d2" => measure::<r2d2::Pool<Manager>>(args, "0.8.10"),
        "deadpool" => measure::<deadpool::managed::Pool<Manager>>(args, "0.13.1"),
        "bb8" => measure::<bb8::Pool<Manager>>(args, "0.9.1"),
        "parking_lot-stack" => measure::<Stack>(args, "0.12.5"),
        _ => false,
    }
}
