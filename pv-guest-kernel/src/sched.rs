//! Giving the processor away, and ending the domain.

use pv_abi::ids::EvtchnPort;
pub use pv_abi::sched::ShutdownReason;

use crate::hypercall::{self, typed};

/// Lets other vcpus run.
pub fn yield_now() {
    let _ = typed::sched_yield();
}

/// Opens events and sleeps until one is pending; its handler has run when this returns.
///
/// Called with events masked this has no race: what arrived since the mask was set ends the sleep at once. Events are
/// open afterwards.
pub fn block() {
    let _ = typed::sched_block();
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
    typed::sched_poll(&raw[..ports.len()], deadline_ns.unwrap_or(0))
}

/// Ends the domain.
pub fn shutdown(reason: ShutdownReason) -> ! {
    loop {
        let _ = typed::sched_shutdown(reason.raw());
        yield_now();
    }
}

/// Ends the domain normally.
pub fn power_off() -> ! {
    crate::console::flush();
    shutdown(ShutdownReason::Poweroff)
}
