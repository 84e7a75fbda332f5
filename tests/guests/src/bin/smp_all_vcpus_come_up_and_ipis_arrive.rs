//! Every vcpu comes up once, runs at the same time as the others, and gets each IPI that is sent to it; under a storm
//! of IPIs from all to all none is lost for good.
#![cfg_attr(target_os = "none", no_std, no_main)]

extern crate alloc;

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use pv_abi::ids::VcpuId;
use pv_guest_kernel::arch::percpu::vcpu_id;
use pv_guest_kernel::event::{self, EventChannel};
use pv_guest_kernel::hypercall::Errno;
use pv_guest_kernel::{Context, sched, smp, time};
use test_guests::{Claim, Trouble, ensure, ensure_eq, format};

test_guests::claim!(smp_all_vcpus_come_up_and_ipis_arrive);

const STORM: u64 = 500;
const PATIENCE_NS: u64 = 30_000_000_000;

static RUNNING: AtomicU64 = AtomicU64::new(0);
static GO: AtomicU64 = AtomicU64::new(0);
static STORMED: AtomicU64 = AtomicU64::new(0);
/// IPIs that ran on a vcpu other than the one they were for.
static ASTRAY: AtomicU64 = AtomicU64::new(0);

/// What a vcpu is told, and what it has got.
struct Bell {
    channel: EventChannel,
    got: AtomicU64,
}

fn smp_all_vcpus_come_up_and_ipis_arrive(_: &'static Context) -> Claim {
    let count = smp::vcpu_count();
    if count < 2 {
        return Err(Trouble::Skip("there is one vcpu only".into()));
    }
    let bells: &'static [Bell] = Vec::leak(bells(count)?);
    for (number, bell) in (0..).zip(bells) {
        bell.channel.set_handler(move |_| {
            if vcpu_id() == number {
                bell.got.fetch_add(1, Ordering::Relaxed);
            } else {
                ASTRAY.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    for number in 1..count {
        smp::start(VcpuId::new(number), move || other(bells))?;
    }
    wait("vcpus to run at the same time", || RUNNING.load(Ordering::Acquire) == u64::from(count - 1))?;
    for number in 0..count {
        ensure!(smp::is_up(VcpuId::new(number))?, "vcpu {number} runs but is not up");
    }
    ensure_eq!(smp::is_up(VcpuId::new(count)), Err(Errno::NoEnt), "whether a vcpu too many is up");
    ensure!(smp::start(VcpuId::new(1), || ()).is_err(), "vcpu 1 could be started twice");
    for (number, bell) in bells.iter().enumerate().skip(1) {
        let before = bell.got.load(Ordering::Relaxed);
        bell.channel.notify()?;
        wait("an IPI", || bell.got.load(Ordering::Relaxed) == before + 1)
            .map_err(|_| Trouble::Failure(format!("vcpu {number} did not get its IPI")))?;
    }
    GO.store(1, Ordering::Release);
    storm(bells);
    wait("the storm to end", || STORMED.load(Ordering::Acquire) == u64::from(count - 1))?;
    // Events that come together count as one; the last one to each is never lost.
    for (number, bell) in bells.iter().enumerate() {
        let before = bell.got.load(Ordering::Relaxed);
        ensure!(before > 0, "vcpu {number} got nothing in the storm");
        bell.channel.notify()?;
        wait("an IPI after the storm", || bell.got.load(Ordering::Relaxed) > before)?;
    }
    ensure_eq!(ASTRAY.load(Ordering::Relaxed), 0, "IPIs on the wrong vcpu");
    Ok(())
}

fn bells(count: u32) -> Claim<Vec<Bell>> {
    let bell = |number| Ok(Bell { channel: event::bind_ipi(VcpuId::new(number))?, got: AtomicU64::new(0) });
    (0..count).map(bell).collect()
}

/// What every vcpu but the first does.
fn other(bells: &'static [Bell]) {
    RUNNING.fetch_add(1, Ordering::Release);
    while GO.load(Ordering::Acquire) == 0 {
        sched::yield_now();
    }
    storm(bells);
    STORMED.fetch_add(1, Ordering::Release);
    // A vcpu whose work is done goes down, and takes no more events.
    loop {
        sched::yield_now();
    }
}

fn storm(bells: &[Bell]) {
    for _ in 0..STORM {
        for bell in bells {
            // A port that is bound takes every event; the counts tell.
            let _ = bell.channel.notify();
        }
    }
}

fn wait(what: &str, done: impl Fn() -> bool) -> Claim {
    let end = time::now_ns() + PATIENCE_NS;
    while !done() {
        ensure!(time::now_ns() < end, "waited too long for {what}");
        sched::yield_now();
    }
    Ok(())
}
