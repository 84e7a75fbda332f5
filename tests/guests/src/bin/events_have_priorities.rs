//! With FIFO events, what is more urgent is handled first, what is equally urgent in the order in which it came; a port
//! can change its priority, and is masked, closed and used again like any other.
#![cfg_attr(target_os = "none", no_std, no_main)]

extern crate alloc;

use alloc::sync::Arc;
use alloc::vec::Vec;
use pv_abi::ids::VcpuId;
use pv_guest_kernel::event::{Abi, EventChannel};
use pv_guest_kernel::hypercall::Errno;
use pv_guest_kernel::sync::IrqLock;
use pv_guest_kernel::{Context, event};
use test_guests::{Claim, Trouble, ensure, ensure_eq};

test_guests::claim!(events_have_priorities);

/// The order in which events were handled: places in the list of channels.
type Log = Arc<IrqLock<Vec<usize>>>;

fn events_have_priorities(_: &'static Context) -> Claim {
    if event::abi() != Abi::Fifo {
        return Err(Trouble::Skip("there are two-level events only".into()));
    }
    let log: Log = Arc::new(IrqLock::new(Vec::new()));
    let channels = logged(&log, 6)?;
    for (channel, priority) in channels.iter().zip([7, 15, 7, 0, 3, 15]) {
        channel.set_priority(priority)?;
    }
    ensure_eq!(order(&log, &channels)?, [3, 4, 0, 2, 1, 5], "order of handling");
    channels[3].set_priority(15)?;
    channels[5].set_priority(0)?;
    ensure_eq!(order(&log, &channels)?, [5, 4, 0, 2, 1, 3], "order after a change of priorities");
    ensure_eq!(channels[0].set_priority(16), Err(Errno::Inval), "a priority too many");
    many_ports(&log)?;
    masked_ports_keep_their_place(&log, &channels)
}

/// IPIs to oneself that note when they are handled.
fn logged(log: &Log, count: usize) -> Claim<Vec<EventChannel>> {
    let mut channels = Vec::new();
    for place in 0..count {
        let channel = event::bind_ipi(VcpuId::new(0))?;
        let log = Arc::clone(log);
        channel.set_handler(move |_| log.lock().push(place));
        channels.push(channel);
    }
    Ok(channels)
}

/// Signals all of them at once and tells in which order they came.
fn order(log: &Log, channels: &[EventChannel]) -> Claim<Vec<usize>> {
    event::mask();
    for channel in channels {
        channel.notify()?;
        channel.notify()?;
    }
    event::unmask();
    Ok(core::mem::take(&mut *log.lock()))
}

/// More ports than one page has event words: each event arrives, in its order.
fn many_ports(log: &Log) -> Claim {
    let channels = logged(log, 1500)?;
    let expected: Vec<usize> = (0..channels.len()).collect();
    for _ in 0..3 {
        ensure!(order(log, &channels)? == expected, "events of 1500 ports came in another order");
    }
    drop(channels);
    let again = logged(log, 10)?;
    ensure_eq!(order(log, &again)?, (0..10).collect::<Vec<_>>(), "order at ports that were used before");
    Ok(())
}

fn masked_ports_keep_their_place(log: &Log, channels: &[EventChannel]) -> Claim {
    channels[4].mask();
    ensure_eq!(order(log, channels)?, [5, 0, 2, 1, 3], "events with one port masked");
    channels[4].unmask();
    ensure_eq!(core::mem::take(&mut *log.lock()), [4], "events after unmasking");
    ensure!(!channels[4].is_pending(), "the port is pending after its event");
    Ok(())
}
