//! A long batch does not keep events away: one that its first call sends is delivered before the batch has ended, and so
//! is a timer that fires meanwhile; every call of the batch is still made exactly once.
#![cfg_attr(target_os = "none", no_std, no_main)]

extern crate alloc;

use alloc::boxed::Box;
use core::sync::atomic::{AtomicUsize, Ordering};
use pv_abi::evtchn::{EvtchnOp, EvtchnSend};
use pv_abi::hypercall::Hypercall as H;
use pv_abi::ids::VcpuId;
use pv_guest_kernel::event::EventChannel;
use pv_guest_kernel::{Context, event};
use test_guests::entries::Entries;
use test_guests::{Claim, call, ensure, ensure_eq, timer};

test_guests::claim!(long_batch_is_interrupted);

const CALLS: usize = 60_000;
/// System time 1 ns has long passed, so the timer fires at once.
const PAST_NS: u64 = 1;
const VERSION: i64 = (4 << 16) + 17;

fn long_batch_is_interrupted(_: &'static Context) -> Claim {
    let ipi = event::bind_ipi(VcpuId::new(0))?;
    let send: &'static EvtchnSend = Box::leak(Box::new(EvtchnSend { port: ipi.port().raw() }));
    interrupted("an event", &ipi, H::EventChannelOp, [u64::from(EvtchnOp::Send.raw()), call::address(send)])?;
    interrupted("a timer", &timer::take()?, H::SetTimerOp, [PAST_NS, 0])
}

/// Runs a batch whose first call makes an event; the event's handler has to see the batch half done.
fn interrupted(what: &str, channel: &EventChannel, first: H, args: [u64; 2]) -> Claim {
    let seen: &'static AtomicUsize = Box::leak(Box::new(AtomicUsize::new(usize::MAX)));
    let mut batch = Entries::new(CALLS + 1)?;
    batch.push(first.raw(), args);
    for _ in 0..CALLS {
        batch.push(H::XenVersion.raw(), [0, 0]);
    }
    let batch: &'static Entries = Box::leak(Box::new(batch));
    channel.set_handler(move |_| {
        if seen.load(Ordering::Relaxed) == usize::MAX {
            seen.store(batch.finished(), Ordering::Relaxed);
        }
    });
    ensure_eq!(batch.run(), 0, "the batch");
    let done = seen.load(Ordering::Relaxed);
    ensure!(done != usize::MAX, "{what} was not delivered before the batch had returned");
    ensure!(done <= CALLS, "{what} was delivered when all {done} calls had been made");
    ensure_eq!(batch.result(0), 0, "the first answer");
    for step in 1..=CALLS {
        ensure_eq!(batch.result(step), VERSION, "result {step}");
    }
    Ok(())
}
