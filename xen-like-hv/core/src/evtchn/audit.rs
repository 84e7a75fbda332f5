//! Recounts event channels from first principles. For tests and the debug key.

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use alloc::{format, vec};

use pv_abi::evtchn::NR_VIRQS;
use pv_abi::ids::{EvtchnPort, VcpuId, Virq};

use super::pirq;
use super::table::{Peer, Port, PortState, Table};
use super::virq::is_global;
use crate::domain::Domain;
use crate::hv::Hypervisor;

/// What one domain's table says, copied so that no two locks are held.
struct View {
    dom: Arc<Domain>,
    ports: Vec<Port>,
    free: Vec<bool>,
}

fn copy(port: &Port) -> Port {
    Port { state: port.state.clone(), vcpu: port.vcpu, target: port.target.clone() }
}

fn view(dom: &Arc<Domain>) -> View {
    let table: &Table = &dom.events.lock();
    let all = (0..table.valid()).map(EvtchnPort::new);
    let ports = all.clone().filter_map(|n| table.port(n).ok().map(copy)).collect();
    View { dom: dom.clone(), ports, free: all.map(|n| table.is_marked_free(n)).collect() }
}

/// Checks every port of `domains`, which must stand still; returns what is wrong.
#[must_use]
pub fn audit(hv: &Hypervisor, domains: &[Arc<Domain>]) -> Vec<String> {
    let views: Vec<View> = domains.iter().map(view).collect();
    let mut wrong = vec![];
    for this in &views {
        for (n, port) in (0_u32..).zip(&this.ports) {
            let number = EvtchnPort::new(n);
            if let Err(what) = check(&views, this, number, port) {
                wrong.push(format!("{} {number}: {what}", this.dom.id));
            }
            let free = matches!(port.state, PortState::Free);
            if this.free.get(n as usize) != Some(&free) {
                wrong.push(format!("{} {number}: free list and state differ", this.dom.id));
            }
        }
        wrong.extend(check_lines(hv, this));
        wrong.extend(check_fifo(hv, this));
    }
    wrong
}

fn check(views: &[View], this: &View, number: EvtchnPort, port: &Port) -> Result<(), &'static str> {
    if (number.raw() == 0) != matches!(port.state, PortState::Reserved) {
        return Err("port 0 and no other is reserved");
    }
    if port.target.as_ref().is_some_and(|v| v.id != port.vcpu || v.dom_id != this.dom.id) {
        return Err("target is not the vcpu of that number");
    }
    match &port.state {
        PortState::Interdomain(peer) => check_peer(views, this, number, peer),
        PortState::Virq(line) => {
            let holder = if is_global(*line) { VcpuId::new(0) } else { port.vcpu };
            let bound = this.dom.vcpu(holder).and_then(|v| v.events.virq_port(*line));
            if bound == Some(number) { Ok(()) } else { Err("the vcpu's line names another port") }
        }
        _ => Ok(()),
    }
}

fn check_peer(views: &[View], this: &View, number: EvtchnPort, peer: &Peer) -> Result<(), &'static str> {
    // A peer outside the audited domains cannot be looked at.
    let Some(other) = views.iter().find(|v| Arc::ptr_eq(&v.dom, &peer.domain)) else { return Ok(()) };
    let index = usize::try_from(peer.port.raw()).map_err(|_| "peer's port is no index")?;
    let theirs = other.ports.get(index).ok_or("peer's port does not exist")?;
    let PortState::Interdomain(back) = &theirs.state else { return Err("peer is not connected") };
    if !Arc::ptr_eq(&back.domain, &this.dom) || back.port != number {
        return Err("peer is connected to somebody else");
    }
    let copied = peer.vcpu.as_ref().map(|v| v.id);
    if copied == theirs.target.as_ref().map(|v| v.id) { Ok(()) } else { Err("stale copy of the peer's vcpu") }
}

/// The queues of the FIFO ABI, and the guest's frames that they hold.
fn check_fifo(hv: &Hypervisor, this: &View) -> Vec<String> {
    let fifo = &this.dom.events.fifo;
    let mut wrong: Vec<String> =
        fifo.faults().iter().map(|what| format!("{}: {what}", this.dom.id)).collect();
    for mfn in fifo.frames() {
        if !hv.frames.is_held_writable(mfn, this.dom.id) {
            wrong.push(format!(
                "{}: {mfn} is no writable frame of the domain's, but used for its queues",
                this.dom.id
            ));
        }
    }
    if !fifo.covers(this.dom.events.lock().valid()) {
        wrong.push(format!("{}: ports of which the queues know nothing", this.dom.id));
    }
    wrong
}

/// Every bound line, virtual or physical, leads to a port that says the same.
fn check_lines(hv: &Hypervisor, this: &View) -> Vec<String> {
    let mut wrong = vec![];
    let state =
        |port: EvtchnPort| usize::try_from(port.raw()).ok().and_then(|n| this.ports.get(n)).map(|p| &p.state);
    for v in this.dom.each_vcpu() {
        for line in (0..NR_VIRQS).map(Virq::new) {
            let Some(port) = v.events.virq_port(line) else { continue };
            if !matches!(state(port), Some(PortState::Virq(l)) if *l == line) {
                wrong.push(format!("{} {}: {line} bound to {port}, which is another", this.dom.id, v.id));
            }
        }
    }
    for (gsi, port) in pirq::bound_lines(hv, this.dom.id) {
        if !matches!(state(port), Some(PortState::Pirq(l)) if *l == gsi) {
            wrong.push(format!("{}: gsi {gsi} bound to {port}, which is another", this.dom.id));
        }
    }
    wrong
}
