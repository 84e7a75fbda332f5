//! Delivery: from a sender to the target's shared page.
//!
//! The order is the protocol. The guest clears from the top down (upcall, selector, port) and scans afterwards, the
//! hypervisor sets from the bottom up; each step that finds its bit set already relies on somebody else to do the rest.
//!
//! A domain that uses the FIFO ABI has queues instead of bitmaps and selector ([`fifo`]); the upper step is the same.
//!
//! A sender holds its own domain's event lock until the target has been told. Closing the other end takes that lock
//! too, so the target's shared pages are there for as long.

use alloc::sync::Arc;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::SeqCst;

use pv_abi::errno::Errno;
use pv_abi::evtchn::VirqKind;
use pv_abi::ids::{EvtchnPort, VcpuId, Virq};
use pv_abi::shared_info::{EVTCHN_2L_NR_CHANNELS, SHARED_INFO_EVTCHN_MASK, SHARED_INFO_EVTCHN_PENDING};

use super::table::{Port, PortState};
use super::{fifo, virq, words};
use crate::domain::Domain;
use crate::hv::Hypervisor;
use crate::port::Frames;
use crate::sched::SchedPorts;
use crate::sched::state::POLL_MANY;
use crate::vcpu::Vcpu;

/// What delivery needs of the machine.
pub trait EventPorts: Frames + SchedPorts {}
impl<T: Frames + SchedPorts> EventPorts for T {}

/// A word of a bitmap in the shared-info page, and the bit in it; a port past the bitmaps has none.
fn bit_of<'m>(
    m: &'m impl Frames,
    dom: &Domain,
    bitmap: usize,
    port: EvtchnPort,
) -> Option<(&'m AtomicU64, u64)> {
    if port.raw() >= EVTCHN_2L_NR_CHANNELS {
        return None;
    }
    let word = bitmap / 8 + usize::try_from(port.raw() / 64).ok()?;
    Some((m.words(dom.shared_info).get(word)?, 1 << (port.raw() % 64)))
}

/// Whether a port is pending.
fn is_pending(m: &impl Frames, dom: &Domain, port: EvtchnPort) -> bool {
    let fifo = &dom.events.fifo;
    if fifo.is_active() { fifo.is_pending(m, port) } else { is_pending_in_bitmap(m, dom, port) }
}

/// Whether a port is pending in the two-level ABI.
pub(super) fn is_pending_in_bitmap(m: &impl Frames, dom: &Domain, port: EvtchnPort) -> bool {
    bit_of(m, dom, SHARED_INFO_EVTCHN_PENDING, port).is_some_and(|(w, bit)| w.load(SeqCst) & bit != 0)
}

/// Takes a pending event back, when its port is closed.
pub(super) fn clear_pending(m: &impl Frames, dom: &Domain, port: EvtchnPort) {
    if dom.events.fifo.is_active() {
        dom.events.fifo.forget(m, port);
    }
    // With the FIFO ABI too: what was set before the switch would hide events from the port's next user after a reset.
    if let Some((word, bit)) = bit_of(m, dom, SHARED_INFO_EVTCHN_PENDING, port) {
        word.fetch_and(!bit, SeqCst);
    }
}

/// Sets a port of `dom` pending and notifies the vcpu `target` (vcpu 0 where the port has none yet).
pub(super) fn set_pending(
    hv: &Hypervisor,
    m: &impl EventPorts,
    dom: &Domain,
    target: Option<&Arc<Vcpu>>,
    port: EvtchnPort,
) {
    set_pending_inline(hv, m, dom, target, port);
}

#[inline(always)]
fn set_pending_inline(
    hv: &Hypervisor,
    m: &impl EventPorts,
    dom: &Domain,
    target: Option<&Arc<Vcpu>>,
    port: EvtchnPort,
) {
    if dom.events.fifo.is_active() && set_pending_in_queue(hv, m, dom, target, port) {
        return;
    }
    // The page is looked up once for both bitmaps: this is the path of every event.
    let page = m.words(dom.shared_info);
    let Ok(word) = usize::try_from(port.raw() / 64) else { return };
    let bit = 1 << (port.raw() % 64);
    if port.raw() >= EVTCHN_2L_NR_CHANNELS {
        return;
    }
    let bitmaps =
        (page.get(SHARED_INFO_EVTCHN_PENDING / 8 + word), page.get(SHARED_INFO_EVTCHN_MASK / 8 + word));
    let (Some(pending), Some(mask)) = bitmaps else { return };
    match words::pend(pending, mask, bit) {
        words::Pended::Already => return,
        words::Pended::Masked => {}
        words::Pended::Notify => notify(hv, m, dom, target, port),
    }
    // The domain may have looked for pending bits before this one was set, and changed to the other ABI.
    if dom.events.fifo.is_active() && set_pending_in_queue(hv, m, dom, target, port) {
        return;
    }
    wake_pollers(hv, m, dom, port);
}

/// Sets a port pending in the FIFO ABI; `false` where the domain does not use it any more.
fn set_pending_in_queue(
    hv: &Hypervisor,
    m: &impl EventPorts,
    dom: &Domain,
    target: Option<&Arc<Vcpu>>,
    port: EvtchnPort,
) -> bool {
    let Some(news) = fifo::set_pending(hv, m, dom, target, port) else { return false };
    if news {
        wake_pollers(hv, m, dom, port);
    }
    true
}

/// The upper two steps: selector, upcall.
#[inline(always)]
fn notify(hv: &Hypervisor, m: &impl EventPorts, dom: &Domain, target: Option<&Arc<Vcpu>>, port: EvtchnPort) {
    match target {
        Some(target) => notify_vcpu(hv, m, target, port),
        None => notify_first(hv, m, dom, port),
    }
}

/// For a port that had no vcpu when it was made.
#[cold]
fn notify_first(hv: &Hypervisor, m: &impl EventPorts, dom: &Domain, port: EvtchnPort) {
    if let Some(first) = dom.vcpu(VcpuId::new(0)) {
        notify_vcpu(hv, m, &first, port);
    }
}

#[inline(always)]
fn notify_vcpu(hv: &Hypervisor, m: &impl EventPorts, target: &Arc<Vcpu>, port: EvtchnPort) {
    let selector = if seeded!(NoSelector) { 0 } else { 1_u64.checked_shl(port.raw() / 64).unwrap_or(0) };
    if target.events.raise(m, selector) {
        wake(hv, m, target);
    }
}

/// The upper step alone, for the FIFO ABI.
pub(super) fn upcall(hv: &Hypervisor, m: &impl EventPorts, target: &Arc<Vcpu>) {
    if target.events.raise_upcall(m) {
        wake(hv, m, target);
    }
}

/// An upcall has become pending: the vcpu has to see it.
#[inline(always)]
fn wake(hv: &Hypervisor, m: &impl EventPorts, target: &Arc<Vcpu>) {
    hv.sched.unblock(m, target);
    // On this pcpu the way out looks at the running vcpu's upcall word by itself.
    if let Some(cpu) = target.sched.pcpu().filter(|&cpu| cpu != m.pcpu()) {
        m.kick(cpu);
    }
}

/// Wakes the vcpus that wait for this port in `SCHEDOP_poll`, masked or not.
///
/// A poller announces itself and looks at the port afterwards; this has set the port before it looks for pollers.
#[inline(always)]
fn wake_pollers(hv: &Hypervisor, m: &impl EventPorts, dom: &Domain, port: EvtchnPort) {
    if dom.polling.load(SeqCst) != 0 {
        wake_each_poller(hv, m, dom, port);
    }
}

#[inline(never)]
fn wake_each_poller(hv: &Hypervisor, m: &impl EventPorts, dom: &Domain, port: EvtchnPort) {
    let this = i64::from(port.raw()) + 1;
    for v in dom.each_vcpu() {
        let waits_for = v.sched.poll_state();
        if waits_for == POLL_MANY || waits_for == this {
            hv.sched.unblock(m, &v);
        }
    }
}

/// `EVTCHNOP_send`.
///
/// # Errors
/// `EINVAL` where the port does not exist or is of a kind that only the hypervisor raises.
pub fn send(hv: &Hypervisor, m: &impl EventPorts, dom: &Domain, port: EvtchnPort) -> Result<(), Errno> {
    send_inline(hv, m, dom, port)
}

/// [`send`] for the hypercall, in one piece with it.
#[inline(always)]
pub(super) fn send_inline(
    hv: &Hypervisor,
    m: &impl EventPorts,
    dom: &Domain,
    port: EvtchnPort,
) -> Result<(), Errno> {
    let table = dom.events.lock();
    let p = table.port(port)?;
    let (dom, target, port) = match &p.state {
        PortState::Interdomain(peer) => (&*peer.domain, peer.vcpu.as_ref(), peer.port),
        PortState::Ipi => (dom, p.target.as_ref(), port),
        // Nobody is there yet; whoever connects gets a notification anyway.
        PortState::Unbound(_) => return Ok(()),
        PortState::Free | PortState::Reserved | PortState::Virq(_) | PortState::Pirq(_) => {
            return Err(Errno::Inval);
        }
    };
    set_pending_inline(hv, m, dom, target, port);
    Ok(())
}

/// `EVTCHNOP_unmask`: clears the mask and delivers what has been waiting behind it.
///
/// # Errors
/// `EINVAL` where the port does not exist.
pub fn unmask(hv: &Hypervisor, m: &impl EventPorts, dom: &Domain, port: EvtchnPort) -> Result<(), Errno> {
    let table = dom.events.lock();
    let p = table.port(port)?;
    if matches!(p.state, PortState::Free | PortState::Reserved) {
        return Ok(());
    }
    if dom.events.fifo.is_active() {
        if dom.events.fifo.unmask(m, port) {
            set_pending(hv, m, dom, p.target.as_ref(), port);
        }
        return Ok(());
    }
    let Some((mask, bit)) = bit_of(m, dom, SHARED_INFO_EVTCHN_MASK, port) else { return Ok(()) };
    let Some((pending, _)) = bit_of(m, dom, SHARED_INFO_EVTCHN_PENDING, port) else { return Ok(()) };
    if words::unmask(pending, mask, bit) {
        notify(hv, m, dom, p.target.as_ref(), port);
    }
    Ok(())
}

/// Raises a virtual interrupt line of a vcpu; nothing happens where the guest has not bound it.
pub fn send_virq(hv: &Hypervisor, m: &impl EventPorts, v: &Arc<Vcpu>, line: VirqKind) {
    if v.events.virq_port(line.virq()).is_none() {
        return;
    }
    let Some(dom) = v.domain() else { return };
    let table = dom.events.lock();
    // Again under the lock: the guest may have closed the port meanwhile.
    let Some(port) = v.events.virq_port(line.virq()) else { return };
    if let Ok(Port { state: PortState::Virq(_), target, .. }) = table.port(port) {
        set_pending(hv, m, &dom, target.as_ref(), port);
    }
}

/// Raises a line of the domain that is responsible for it (dom0, unless the toolstack has named another).
pub fn send_global_virq(hv: &Hypervisor, m: &impl EventPorts, line: VirqKind) {
    if !virq::is_global(line.virq()) {
        return;
    }
    let handler = hv.virqs.handler(line.virq());
    // A global line is bound to vcpu 0 and may be moved; the binding is kept with vcpu 0.
    if let Some(v) = hv.domains.get(handler).and_then(|dom| dom.vcpu(VcpuId::new(0))) {
        send_virq(hv, m, &v, line);
    }
}

/// Raises a line of one domain, for lines that concern it alone.
pub fn send_domain_virq(hv: &Hypervisor, m: &impl EventPorts, dom: &Domain, line: VirqKind) {
    if let Some(v) = dom.vcpu(VcpuId::new(0)) {
        send_virq(hv, m, &v, line);
    }
}

/// Whether a port of `dom` is pending, for `SCHEDOP_poll`.
///
/// # Errors
/// `EINVAL` where the port does not exist.
pub fn poll_port(m: &impl Frames, dom: &Domain, port: EvtchnPort) -> Result<bool, Errno> {
    dom.events.lock().port(port)?;
    Ok(is_pending(m, dom, port))
}

/// The number of a line as an identifier.
#[must_use]
pub(super) fn line_of(raw: u32) -> Option<Virq> {
    if raw < pv_abi::evtchn::NR_VIRQS { Some(Virq::new(raw)) } else { None }
}
