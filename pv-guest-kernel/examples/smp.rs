//! Starts every vcpu. Each adds to a shared sum, handles interrupts from the others, and wakes a task on vcpu 0.
#![cfg_attr(target_os = "none", no_std, no_main)]

extern crate alloc;

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;

use pv_guest_kernel::arch::percpu::vcpu_id;
use pv_guest_kernel::event::{self, EventChannel};
use pv_guest_kernel::hypercall::Result;
use pv_guest_kernel::pv_abi::ids::VcpuId;
use pv_guest_kernel::sync::IrqLock;
use pv_guest_kernel::task::{self, Notify};
use pv_guest_kernel::{Context, println, sched, smp, time};

pv_guest_kernel::entry!(kernel);

const ROUNDS: u64 = 10_000;

static SUM: IrqLock<u64> = IrqLock::new(0);
static STRUCK: AtomicU64 = AtomicU64::new(0);
static FINISHED: AtomicU64 = AtomicU64::new(0);

fn kernel(_context: &'static Context) {
    if let Err(error) = start_all() {
        println!("smp failed: {error}");
    }
}

fn start_all() -> Result {
    let count = smp::vcpu_count();
    println!("{count} vcpus");
    let done = Arc::new(Notify::new());
    let mut bells: Vec<EventChannel> = Vec::new();
    for number in 1..count {
        let vcpu = VcpuId::new(number);
        let bell = event::bind_ipi(vcpu)?;
        bell.set_handler(move |_| {
            // Handlers run on the vcpu that the port is bound to.
            if vcpu_id() == number {
                STRUCK.fetch_add(1, Ordering::Relaxed);
            }
        });
        bells.push(bell);
        let done = Arc::clone(&done);
        smp::start(vcpu, move || work(&done))?;
    }
    let others = u64::from(count - 1);
    task::block_on(async {
        while FINISHED.load(Ordering::Acquire) < others {
            done.wait().await;
        }
    });
    println!("sum {} of {}", *SUM.lock(), others * ROUNDS);
    for bell in &bells {
        bell.notify()?;
    }
    task::block_on(async {
        while STRUCK.load(Ordering::Acquire) < others {
            time::sleep(Duration::from_millis(1)).await;
        }
    });
    println!("{} interrupts arrived where they should", STRUCK.load(Ordering::Relaxed));
    Ok(())
}

fn work(done: &Notify) {
    println!("v{} runs", vcpu_id());
    for _ in 0..ROUNDS {
        *SUM.lock() += 1;
    }
    FINISHED.fetch_add(1, Ordering::Release);
    done.notify();
    // Stay for the interrupt: each return of `block` means that one has been handled.
    let before = STRUCK.load(Ordering::Relaxed);
    while STRUCK.load(Ordering::Relaxed) == before {
        sched::block();
    }
    time::delay(Duration::from_millis(5));
}
