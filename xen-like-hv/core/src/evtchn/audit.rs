//! Recounts event channels from first principles. For tests and the debug key.

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use alloc::{format, vec};

use pv_abi::evtchn::NR_VIRQS;
use pv_abi::ids::{EvtchnPort, VcpuId, Virq};

use super::pirq;
use super::table::{Peer, Port, PortState};
use super::virq::is_global;
use crate::domain::Domain;
use crate::hv::Hypervisor;

/// A copy of a port, so that no two locks are held; one at a time, since a guest may have very many.
fn port_of(dom: &Domain, number: EvtchnPort) -> Option<Port> {
    let table = dom.events.lock();
    let port = table.port(number).ok()?;
    Some(Port { state: port.state.clone(), vcpu: port.vcpu, target: port.target.clone() })
}

/// Checks every port of `domains`, which must stand still; returns what is wrong.
#[must_use]
pub fn audit(hv: &Hypervisor, domains: &[Arc<Domain>]) -> Vec<String> {
    let mut wrong = vec![];
    for this in domains {
        let valid = this.events.lock().valid();
        for number in (0..valid).map(EvtchnPort::new) {
            let Some(port) = port_of(this, number) else { continue };
            if let Err(what) = check(domains, this, number, &port) {
                wrong.push(format!("{} {number}: {what}", this.id));
            }
            if this.events.lock().is_marked_free(number) != matches!(port.state, PortState::Free) {
                wrong.push(format!("{} {number}: free list and state differ", this.id));
            }
        }
        wrong.extend(check_lines(hv, this));
        wrong.extend(check_fifo(hv, this));
    }
    wrong
}

fn check(
    domains: &[Arc<Domain>],
    this: &Arc<Domain>,
    number: EvtchnPort,
    port: &Port,
) -> Result<(), &'static str> {
    if (number.raw() == 0) != matches!(port.state, PortState::Reserved) {
        return Err("port 0 and no other is reserved");
    }
    if port.target.as_ref().is_some_and(|v| v.id != port.vcpu || v.dom_id != this.id) {
        return Err("target is not the vcpu of that number");
    }
    match &port.state {
        PortState::Interdomain(peer) => check_peer(domains, this, number, peer),
        PortState::Virq(line) => {
            let holder = if is_global(*line) { VcpuId::new(0) } else { port.vcpu };
            let bound = this.vcpu(holder).and_then(|v| v.events.virq_port(*line));
            if bound == Some(number) { Ok(()) } else { Err("the vcpu's line names another port") }
        }
        _ => Ok(()),
    }
}

fn check_peer(
    domains: &[Arc<Domain>],
    this: &Arc<Domain>,
    number: EvtchnPort,
    peer: &Peer,
) -> Result<(), &'static str> {
    // A peer outside the audited domains cannot be looked at.
    if !domains.iter().any(|dom| Arc::ptr_eq(dom, &peer.domain)) {
        return Ok(());
    }
    let theirs = port_of(&peer.domain, peer.port).ok_or("peer's port does not exist")?;
    let PortState::Interdomain(back) = &theirs.state else { return Err("peer is not connected") };
    if !Arc::ptr_eq(&back.domain, this) || back.port != number {
        return Err("peer is connected to somebody else");
    }
    let copied = peer.vcpu.as_ref().map(|v| v.id);
    if copied == theirs.target.as_ref().map(|v| v.id) { Ok(()) } else { Err("stale copy of the peer's vcpu") }
}

/// The queues of the FIFO ABI, and the guest's frames that they hold.
fn check_fifo(hv: &Hypervisor, this: &Domain) -> Vec<String> {
    let fifo = &this.events.fifo;
    let mut wrong: Vec<String> = fifo.faults().iter().map(|what| format!("{}: {what}", this.id)).collect();
    for mfn in this.events.held_frames() {
        if !hv.frames.is_held_writable(mfn, this.id) {
            wrong.push(format!(
                "{}: {mfn} is no writable frame of the domain's, but used for its events",
                this.id
            ));
        }
    }
    if !fifo.covers(this.events.lock().valid()) {
        wrong.push(format!("{}: ports of which the queues know nothing", this.id));
    }
    wrong
}

/// Every bound line, virtual or physical, leads to a port that says the same.
fn check_lines(hv: &Hypervisor, this: &Domain) -> Vec<String> {
    let mut wrong = vec![];
    let state = |port: EvtchnPort| port_of(this, port).map(|p| p.state);
    for v in this.each_vcpu() {
        for line in (0..NR_VIRQS).map(Virq::new) {
            let Some(port) = v.events.virq_port(line) else { continue };
            if !matches!(state(port), Some(PortState::Virq(l)) if l == line) {
                wrong.push(format!("{} {}: {line} bound to {port}, which is another", this.id, v.id));
            }
        }
    }
    for (gsi, port) in pirq::bound_lines(hv, this.id) {
        if !matches!(state(port), Some(PortState::Pirq(l)) if l == gsi) {
            wrong.push(format!("{}: gsi {gsi} bound to {port}, which is another", this.id));
        }
    }
    wrong
}
