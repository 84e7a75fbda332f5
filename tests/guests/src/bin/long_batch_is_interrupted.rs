//! A long batch does not keep events away: a timer that fires meanwhile is delivered before the batch has ended, and
//! every call of the batch is still made exactly once.
#![cfg_attr(target_os = "none", no_std, no_main)]

extern crate alloc;

use alloc::boxed::Box;
use core::sync::atomic::{AtomicUsize, Ordering};
use pv_abi::evtchn::VirqKind;
use pv_abi::hypercall::Hypercall as H;
use pv_abi::ids::VcpuId;
use pv_guest_kernel::{Context, event};
use test_guests::entries::Entries;
use test_guests::{Claim, ensure, ensure_eq};

test_guests::claim!(long_batch_is_interrupted);

const CALLS: usize = 60_000;
/// System time 1 ns has long passed, so the timer fires at once.
const PAST_NS: u64 = 1;

fn long_batch_is_interrupted(_: &'static Context) -> Claim {
    static SEEN: AtomicUsize = AtomicUsize::new(usize::MAX);
    let mut batch = Entries::new(CALLS + 1)?;
    batch.push(H::SetTimerOp.raw(), [PAST_NS]);
    for _ in 0..CALLS {
        batch.push(H::XenVersion.raw(), [0, 0]);
    }
    let batch: &'static Entries = Box::leak(Box::new(batch));
    let timer = event::bind_virq(VirqKind::Timer, VcpuId::new(0))?;
    timer.set_handler(move |_| {
        if SEEN.load(Ordering::Relaxed) == usize::MAX {
            SEEN.store(batch.finished(), Ordering::Relaxed);
        }
    });
    ensure_eq!(batch.run(), 0, "the batch");
    let seen = SEEN.load(Ordering::Relaxed);
    ensure!(seen != usize::MAX, "the timer was not delivered before the batch had returned");
    ensure!(seen <= CALLS, "the timer was delivered when all {seen} calls had been made");
    ensure_eq!(batch.result(0), 0, "the answer of set_timer_op");
    for step in 1..=CALLS {
        ensure_eq!(batch.result(step), (4 << 16) + 17, "result {step}");
    }
    Ok(())
}
