//! Making ports, describing them, moving them to another vcpu.

use alloc::sync::Arc;

use pv_abi::errno::Errno;
use pv_abi::evtchn::{EvtchnStat, EvtchnStatus};
use pv_abi::ids::{DomId, EvtchnPort, VcpuId, Virq};

use super::send::{self, EventPorts};
use super::table::{Ends, Peer, Port, PortState, with_both_ends};
use super::virq;
use crate::domain::Domain;
use crate::hv::Hypervisor;
use crate::port::Frames;

impl Port {
    fn new(dom: &Domain, state: PortState, vcpu: VcpuId) -> Self {
        Self { state, vcpu, target: dom.vcpu(vcpu) }
    }
}

/// `EVTCHNOP_alloc_unbound`: a port of `dom` to which `remote` may connect. The caller's right to act on `dom` has been
/// checked; that `remote` exists is not asked.
///
/// # Errors
/// `EINVAL` for a dying domain, `ENOSPC`, `ENOMEM`.
pub fn alloc_unbound(m: &impl Frames, dom: &Domain, remote: DomId) -> Result<EvtchnPort, Errno> {
    let (mut table, port) = dom.events.lock_with_free_port(m, dom)?;
    table.occupy(port, Port::new(dom, PortState::Unbound(remote), VcpuId::new(0)));
    Ok(port)
}

/// `EVTCHNOP_bind_interdomain`: connects a new port of `dom` to `remote_port` of `remote`.
///
/// # Errors
/// `EINVAL` for a dying domain, `ENOSPC`, `ENOMEM`; `EINVAL` where the remote port does not exist or does not wait for
/// this domain.
pub fn bind_interdomain(
    hv: &Hypervisor,
    m: &impl EventPorts,
    dom: &Arc<Domain>,
    remote: &Arc<Domain>,
    remote_port: EvtchnPort,
) -> Result<EvtchnPort, Errno> {
    loop {
        let mut ends = Ends::lock(dom, remote);
        let Some(port) = dom.events.find_free(m, dom, ends.local())? else {
            let had = ends.local().valid();
            drop(ends);
            dom.events.make_room(had)?;
            continue;
        };
        let theirs = ends.remote().port_mut(remote_port)?;
        if !matches!(theirs.state, PortState::Unbound(who) if who == dom.id) {
            return Err(Errno::Inval);
        }
        let mut ours = Port::new(dom, PortState::Free, VcpuId::new(0));
        theirs.state = PortState::Interdomain(Peer { domain: dom.clone(), port, vcpu: ours.target.clone() });
        let peer = Peer { domain: remote.clone(), port: remote_port, vcpu: theirs.target.clone() };
        let target = ours.target.clone();
        ours.state = PortState::Interdomain(peer);
        ends.local().occupy(port, ours);
        // What the other side sent before anybody was there was dropped: one notification makes up for it.
        send::set_pending(hv, m, dom, target.as_ref(), port);
        return Ok(port);
    }
}

/// `EVTCHNOP_bind_virq`.
///
/// # Errors
/// `EINVAL` for a line that does not exist, or a global one on another vcpu than 0; `ENOENT` where there is no such
/// vcpu; `EEXIST` where the line is bound; `EINVAL`, `ENOSPC`, `ENOMEM` as for every new port.
pub fn bind_virq(m: &impl Frames, dom: &Domain, line: u32, vcpu: VcpuId) -> Result<EvtchnPort, Errno> {
    let line = send::line_of(line).ok_or(Errno::Inval)?;
    if virq::is_global(line) && vcpu.raw() != 0 {
        return Err(Errno::Inval);
    }
    let v = dom.vcpu(vcpu).ok_or(Errno::NoEnt)?;
    if v.events.virq_port(line).is_some() {
        return Err(Errno::Exist);
    }
    let (mut table, port) = dom.events.lock_with_free_port(m, dom)?;
    // Again under the lock, where bindings are made.
    if v.events.virq_port(line).is_some() {
        return Err(Errno::Exist);
    }
    table.occupy(port, Port::new(dom, PortState::Virq(line), vcpu));
    v.events.set_virq_port(line, Some(port));
    Ok(port)
}

/// `EVTCHNOP_bind_ipi`.
///
/// # Errors
/// `ENOENT` where there is no such vcpu; `EINVAL`, `ENOSPC`, `ENOMEM` as for every new port.
pub fn bind_ipi(m: &impl Frames, dom: &Domain, vcpu: VcpuId) -> Result<EvtchnPort, Errno> {
    dom.vcpu(vcpu).ok_or(Errno::NoEnt)?;
    let (mut table, port) = dom.events.lock_with_free_port(m, dom)?;
    table.occupy(port, Port::new(dom, PortState::Ipi, vcpu));
    Ok(port)
}

/// A port for a physical line, on vcpu 0. That the line may be bound has been checked ([`super::pirq`]).
///
/// # Errors
/// `EINVAL`, `ENOSPC`, `ENOMEM` as for every new port.
pub(super) fn bind_pirq_port(m: &impl Frames, dom: &Domain, pirq: u32) -> Result<EvtchnPort, Errno> {
    let (mut table, port) = dom.events.lock_with_free_port(m, dom)?;
    table.occupy(port, Port::new(dom, PortState::Pirq(pirq), VcpuId::new(0)));
    Ok(port)
}

/// `EVTCHNOP_bind_vcpu`: which vcpu a port notifies from now on.
///
/// # Errors
/// `ENOENT` where there is no such vcpu; `EINVAL` where the port does not exist or is bound to its vcpu for good.
pub fn bind_vcpu(dom: &Arc<Domain>, port: EvtchnPort, vcpu: VcpuId) -> Result<(), Errno> {
    let v = dom.vcpu(vcpu).ok_or(Errno::NoEnt)?;
    with_both_ends(dom, port, |ends| {
        let ours = ends.local().port_mut(port)?;
        let peer = match &ours.state {
            PortState::Virq(line) if virq::is_global(*line) => None,
            PortState::Unbound(_) | PortState::Pirq(_) => None,
            PortState::Interdomain(peer) => Some(peer.port),
            PortState::Virq(_) | PortState::Ipi | PortState::Free | PortState::Reserved => {
                return Err(Errno::Inval);
            }
        };
        ours.vcpu = vcpu;
        ours.target = Some(v.clone());
        if let Some(peer_port) = peer {
            // The other end keeps a copy of whom it notifies.
            if let PortState::Interdomain(back) = &mut ends.remote().port_mut(peer_port)?.state {
                back.vcpu = Some(v);
            }
        }
        Ok(())
    })?
}

/// `EVTCHNOP_status`: what a port of `dom` is. `query` is repeated in the answer.
///
/// # Errors
/// `EINVAL` where the port does not exist.
pub fn status(dom: &Domain, query: &EvtchnStatus) -> Result<EvtchnStatus, Errno> {
    let table = dom.events.lock();
    let p = table.port(EvtchnPort::new(query.port))?;
    let (status, u0, u1) = match &p.state {
        PortState::Free | PortState::Reserved => (EvtchnStat::Closed, query.u0, query.u1),
        PortState::Unbound(who) => (EvtchnStat::Unbound, u32::from(who.raw()), query.u1),
        PortState::Interdomain(peer) => {
            (EvtchnStat::Interdomain, u32::from(peer.domain.id.raw()), peer.port.raw())
        }
        PortState::Pirq(line) => (EvtchnStat::Pirq, *line, query.u1),
        PortState::Virq(line) => (EvtchnStat::Virq, line.raw(), query.u1),
        PortState::Ipi => (EvtchnStat::Ipi, query.u0, query.u1),
    };
    Ok(EvtchnStatus { status: status.raw(), vcpu: p.vcpu.raw(), u0, u1, ..*query })
}

/// Whether a line of a vcpu is bound; for tests and dumps.
#[must_use]
pub fn virq_is_bound(dom: &Domain, vcpu: VcpuId, line: Virq) -> bool {
    dom.vcpu(vcpu).is_some_and(|v| v.events.virq_port(line).is_some())
}
