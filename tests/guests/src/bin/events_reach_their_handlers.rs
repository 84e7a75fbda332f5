//! An event sent to a port of this domain arrives once, at that port; a masked port and a masked vcpu hold it back
//! until they are opened; a port that is held tells once for each wait, and more slowly if that is
//! for nothing; a poll ends when it is pending.
#![cfg_attr(target_os = "none", no_std, no_main)]

extern crate alloc;

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU32, Ordering};
use pv_abi::ids::{DomId, VcpuId};
use pv_guest_kernel::event::EventChannel;
use pv_guest_kernel::{Context, event, hypercall, sched, task, time};
use test_guests::{Claim, ensure, ensure_eq};

test_guests::claim!(events_reach_their_handlers);

const MILLISECOND_NS: u64 = 1_000_000;

fn events_reach_their_handlers(_: &'static Context) -> Claim {
    two_ends_of_one_channel()?;
    masked_port_holds_back()?;
    held_port_tells_once_for_each_wait()?;
    events_without_work_have_to_wait()?;
    masked_vcpu_holds_back()?;
    poll_ends()
}

fn counted(channel: &EventChannel) -> Arc<AtomicU32> {
    let count = Arc::new(AtomicU32::new(0));
    let handlers = Arc::clone(&count);
    channel.set_handler(move |_| {
        handlers.fetch_add(1, Ordering::Relaxed);
    });
    count
}

fn two_ends_of_one_channel() -> Claim {
    let here = event::alloc_unbound(DomId::SELF)?;
    let there = event::bind_interdomain(DomId::SELF, here.port())?;
    let (at_here, at_there) = (counted(&here), counted(&there));
    // Connecting may itself be told to the side that waited.
    hypercall::raw::nothing();
    let before = at_here.load(Ordering::Relaxed);
    for round in 1..=100 {
        here.notify()?;
        ensure_eq!(at_there.load(Ordering::Relaxed), round, "events at the far end");
        there.notify()?;
        ensure_eq!(at_here.load(Ordering::Relaxed), before + round, "events at the near end");
    }
    let status = here.status()?;
    ensure_eq!(status.status, 2, "the status of a connected port");
    Ok(())
}

fn masked_port_holds_back() -> Claim {
    let channel = event::bind_ipi(VcpuId::new(0))?;
    let count = counted(&channel);
    channel.mask();
    channel.notify()?;
    channel.notify()?;
    hypercall::raw::nothing();
    ensure_eq!(count.load(Ordering::Relaxed), 0, "events while the port is masked");
    ensure!(channel.is_pending(), "nothing is pending at the masked port");
    channel.unmask();
    ensure_eq!(count.load(Ordering::Relaxed), 1, "events after unmasking the port");
    channel.unmask();
    ensure_eq!(count.load(Ordering::Relaxed), 1, "events after unmasking it again");
    Ok(())
}

fn held_port_tells_once_for_each_wait() -> Claim {
    let channel = event::bind_ipi(VcpuId::new(0))?;
    channel.hold_until_waited();
    channel.notify()?;
    ensure!(!channel.is_pending(), "the first event is not delivered");
    for _ in 0..3 {
        channel.notify()?;
        ensure!(channel.is_pending(), "an event came although nobody has waited");
    }
    task::block_on(channel.wait());
    ensure!(channel.is_pending(), "the end of a wait opened the port");
    task::block_on(channel.wait());
    ensure!(!channel.is_pending(), "what came meanwhile is not delivered");
    ensure!(!channel.try_take(), "what came meanwhile counts twice");
    channel.notify()?;
    ensure!(channel.is_pending(), "the port was open after a delivery");
    Ok(())
}

fn events_without_work_have_to_wait() -> Claim {
    let channel = event::bind_ipi(VcpuId::new(0))?;
    channel.hold_until_waited();
    let start = time::now_ns();
    // 16 turns are free; what follows takes 1, 2, 4, 8 and 16 ms.
    for _ in 0..22 {
        channel.notify()?;
        task::block_on(channel.wait_after(false));
    }
    let passed = time::now_ns() - start;
    ensure!(passed >= 31 * MILLISECOND_NS, "21 turns without work took {passed} ns");
    let held = event::held().find(|held| held.port == channel.port());
    let counts = held.map(|held| (held.taken, held.idle));
    ensure_eq!(counts, Some((22, 21)), "events taken, turns without work");
    channel.notify()?;
    task::block_on(channel.wait_after(true));
    let idle = event::held().find(|held| held.port == channel.port()).map(|held| held.idle);
    ensure_eq!(idle, Some(0), "turns without work, after work");
    Ok(())
}

fn masked_vcpu_holds_back() -> Claim {
    let channel = event::bind_ipi(VcpuId::new(0))?;
    let count = counted(&channel);
    event::mask();
    channel.notify()?;
    hypercall::raw::nothing();
    ensure_eq!(count.load(Ordering::Relaxed), 0, "events while the vcpu is masked");
    event::unmask();
    ensure_eq!(count.load(Ordering::Relaxed), 1, "events after opening the vcpu");
    Ok(())
}

fn poll_ends() -> Claim {
    let channel = event::bind_ipi(VcpuId::new(0))?;
    let count = counted(&channel);
    event::mask();
    let start = time::now_ns();
    sched::poll(&[channel.port()], Some(start + 20 * MILLISECOND_NS))?;
    let waited = time::now_ns() - start;
    ensure!(waited >= 20 * MILLISECOND_NS, "a poll for 20 ms ended after {waited} ns");
    channel.notify()?;
    let start = time::now_ns();
    sched::poll(&[channel.port()], Some(start + 5_000 * MILLISECOND_NS))?;
    let waited = time::now_ns() - start;
    ensure!(waited < 4_000 * MILLISECOND_NS, "a poll for a pending port took {waited} ns");
    event::unmask();
    ensure_eq!(count.load(Ordering::Relaxed), 1, "events after both polls");
    Ok(())
}
