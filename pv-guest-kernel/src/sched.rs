//! Giving the processor away, and ending the domain.

#![expect(unsafe_code, reason = "hypercalls with addresses of local structures")]

use pv_abi::ids::EvtchnPort;
pub use pv_abi::sched::ShutdownReason;
use pv_abi::sched::{SchedOp, SchedPoll, SchedShutdown};

use crate::hypercall::{self, address_of, table};

/// Lets other vcpus run.
pub fn yield_now() {
    // SAFETY: takes no memory.
    let _ = unsafe { table::sched_op([SchedOp::Yield.raw().into(), 0]) };
}

/// Opens events and sleeps until one is pending; its handler has run when this returns.
///
/// Called with events masked this has no race: what arrived since the mask was set ends the sleep at once. Events are
/// open afterwards.
pub fn block() {
    // SAFETY: takes no memory.
    let _ = unsafe { table::sched_op([SchedOp::Block.raw().into(), 0]) };
}

/// Sleeps until one of `ports` is pending (masked ones count) or system time reaches `deadline_ns`. Returns at once if
/// one is pending already. For code that runs with events masked.
pub fn poll(ports: &[EvtchnPort], deadline_ns: Option<u64>) -> hypercall::Result {
    const MOST: usize = 128;
    if ports.len() > MOST {
        return Err(hypercall::Errno::Inval);
    }
    let mut raw = [0_u32; MOST];
    for (slot, port) in raw.iter_mut().zip(ports) {
        *slot = port.raw();
    }
    let mut argument = SchedPoll {
        ports: address_of(raw.as_ptr()),
        nr_ports: u32::try_from(ports.len()).unwrap_or(0),
        timeout: deadline_ns.unwrap_or(0),
        ..SchedPoll::default()
    };
    // SAFETY: the list of ports outlives the call and is only read.
    unsafe { hypercall::sched_op(SchedOp::Poll, &mut argument) }.map(drop)
}

/// Ends the domain.
pub fn shutdown(reason: ShutdownReason) -> ! {
    let mut argument = SchedShutdown { reason: reason.raw() };
    loop {
        // SAFETY: takes a small structure that is only read. The domain stops here.
        let _ = unsafe { hypercall::sched_op(SchedOp::Shutdown, &mut argument) };
        yield_now();
    }
}

/// Ends the domain normally.
pub fn power_off() -> ! {
    crate::console::flush();
    shutdown(ShutdownReason::Poweroff)
}
