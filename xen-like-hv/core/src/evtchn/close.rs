//! Closing one port, and all of them.

use alloc::sync::Arc;

use pv_abi::errno::Errno;
use pv_abi::ids::EvtchnPort;

use super::send::{self, EventPorts};
use super::table::{Ends, Port, PortState, with_both_ends};
use super::{eoi_map, fifo, pirq};
use crate::domain::Domain;
use crate::hv::Hypervisor;
use crate::port::{Cpu, Interrupts};

/// Ports that are closed before somebody more urgent is let in.
const BATCH: u32 = 32;

/// Closing is not finished: call again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preempted;

/// `EVTCHNOP_close`.
///
/// # Errors
/// `EINVAL` where the port does not exist, is free or is not the guest's to close.
pub fn close(
    hv: &Hypervisor,
    m: &(impl EventPorts + Interrupts),
    dom: &Arc<Domain>,
    port: EvtchnPort,
) -> Result<(), Errno> {
    let old = with_both_ends(dom, port, |ends| {
        let state = &ends.local().port(port)?.state;
        if matches!(state, PortState::Free | PortState::Reserved) {
            return Err(Errno::Inval);
        }
        Ok(disconnect(m, dom, ends, port))
    })??;
    // Outside the lock: the line's own lock comes later in the order, and the controller is slow.
    if let PortState::Pirq(line) = old.state {
        pirq::unbound(hv, m, dom, line);
    }
    Ok(())
}

/// Frees a port under the locks of both ends and leaves the other end waiting.
fn disconnect(m: &impl EventPorts, dom: &Arc<Domain>, ends: &mut Ends<'_>, port: EvtchnPort) -> Port {
    let old = ends.local().release(port);
    match &old.state {
        PortState::Interdomain(peer) => {
            if let Ok(theirs) = ends.remote().port_mut(peer.port)
                && !seeded!(CloseLeavesPeer)
            {
                theirs.state = PortState::Unbound(dom.id);
            }
        }
        PortState::Virq(line) => {
            if let Some(v) = bound_vcpu(dom, &old, *line) {
                v.events.set_virq_port(*line, None);
            }
        }
        _ => {}
    }
    if !seeded!(CloseKeepsPending) {
        send::clear_pending(m, dom, port);
    }
    old
}

/// The vcpu that holds a line's binding: a global line's is vcpu 0, wherever it was moved.
fn bound_vcpu(dom: &Domain, port: &Port, line: pv_abi::ids::Virq) -> Option<Arc<crate::vcpu::Vcpu>> {
    if super::virq::is_global(line) { dom.vcpu(pv_abi::ids::VcpuId::new(0)) } else { port.target.clone() }
}

/// Closes all ports, from where an earlier call stopped.
fn close_all(
    hv: &Hypervisor,
    m: &(impl EventPorts + Interrupts + Cpu),
    dom: &Arc<Domain>,
) -> Result<(), Preempted> {
    loop {
        let (first, valid) = {
            let table = dom.events.lock();
            (table.next_to_close, table.valid())
        };
        if first >= valid {
            break;
        }
        let end = first.saturating_add(BATCH).min(valid);
        for raw in first..end {
            // Free ports answer EINVAL: nothing to close.
            let _free = close(hv, m, dom, EvtchnPort::new(raw));
        }
        dom.events.lock().next_to_close = end;
        if end < valid && m.preempt_pending() {
            return Err(Preempted);
        }
    }
    dom.events.lock().next_to_close = 0;
    Ok(())
}

/// `EVTCHNOP_reset`: closes all ports of a domain, which may make new ones afterwards, and goes back to the two-level ABI.
///
/// # Errors
/// [`Preempted`]: progress is kept, call again.
pub fn reset(
    hv: &Hypervisor,
    m: &(impl EventPorts + Interrupts + Cpu),
    dom: &Arc<Domain>,
) -> Result<(), Preempted> {
    close_all(hv, m, dom)?;
    fifo::stop(&hv.frames, dom);
    Ok(())
}

/// Closes all ports of a domain that dies, for good: nothing can be bound any more.
///
/// # Errors
/// [`Preempted`]: progress is kept, call again.
pub fn destroy(
    hv: &Hypervisor,
    m: &(impl EventPorts + Interrupts + Cpu),
    dom: &Arc<Domain>,
) -> Result<(), Preempted> {
    {
        let mut table = dom.events.lock();
        if !core::mem::replace(&mut table.dying, true) {
            // A reset that the domain had begun may have left a cursor in the middle.
            table.next_to_close = 0;
        }
    }
    close_all(hv, m, dom)?;
    fifo::stop(&hv.frames, dom);
    eoi_map::release(&hv.frames, dom);
    pirq::release_all(hv, m, dom);
    hv.virqs.forget(dom.id);
    forget_ports(m, dom)
}

/// Gives back the memory of ports that are closed for good, a little at a time: a domain may have had 131072 of them.
fn forget_ports(m: &impl Cpu, dom: &Domain) -> Result<(), Preempted> {
    loop {
        let Some(group) = dom.events.lock().take_last_group() else { return Ok(()) };
        drop(group);
        if m.preempt_pending() {
            return Err(Preempted);
        }
    }
}
