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

use hv_sync::Guard;
use pv_abi::errno::Errno;
use pv_abi::evtchn::VirqKind;
use pv_abi::ids::{EvtchnPort, VcpuId, Virq};
use pv_abi::shared_info::{EVTCHN_2L_NR_CHANNELS, SHARED_INFO_EVTCHN_MASK, SHARED_INFO_EVTCHN_PENDING};

use super::table::{Port, PortState, Table};
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

/// Where an event goes: a port of `dom`, and the vcpu that it notifies (vcpu 0 where the port had none when it was made).
struct Recipient<'a> {
    dom: &'a Domain,
    target: Option<&'a Arc<Vcpu>>,
    port: EvtchnPort,
}

/// What is left to do for an event.
///
/// Most events find a vcpu that runs on this very pcpu, or a bit that is set: nothing is left then, and what does the rest
/// is apart, so that such an event is one function without a stack frame.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Left {
    /// Nothing.
    Nothing,
    /// All of it: the domain uses the FIFO ABI.
    Everything,
    /// The target must be told, and what follows.
    Telling,
    /// The domain may have changed to the FIFO ABI meanwhile, or one of its vcpus polls.
    Looking,
}

/// Sets a port of `dom` pending and notifies the vcpu `target` (vcpu 0 where the port has none yet).
pub(super) fn set_pending(
    hv: &Hypervisor,
    m: &impl EventPorts,
    dom: &Domain,
    target: Option<&Arc<Vcpu>>,
    port: EvtchnPort,
) {
    let to = Recipient { dom, target, port };
    let left = begin(m, &to);
    finish(hv, m, &to, left);
}

/// The part of every event.
#[inline(always)]
fn begin(m: &impl EventPorts, to: &Recipient<'_>) -> Left {
    if to.dom.events.fifo.is_active() { Left::Everything } else { set_bits(m, to) }
}

/// Bit, selector and upcall of the two-level ABI.
#[inline(always)]
fn set_bits(m: &impl EventPorts, to: &Recipient<'_>) -> Left {
    // The page is looked up once for both bitmaps: this is the path of every event.
    let page = m.words(to.dom.shared_info);
    let Ok(word) = usize::try_from(to.port.raw() / 64) else { return Left::Nothing };
    let bit = 1 << (to.port.raw() % 64);
    if to.port.raw() >= EVTCHN_2L_NR_CHANNELS {
        return Left::Nothing;
    }
    let bitmaps =
        (page.get(SHARED_INFO_EVTCHN_PENDING / 8 + word), page.get(SHARED_INFO_EVTCHN_MASK / 8 + word));
    let (Some(pending), Some(mask)) = bitmaps else { return Left::Nothing };
    match words::pend(pending, mask, bit) {
        words::Pended::Already => return Left::Nothing,
        words::Pended::Masked => {}
        words::Pended::Notify => {
            if !notify_here(m, to.target, to.port) {
                return Left::Telling;
            }
        }
    }
    // The domain may have looked for pending bits before this one was set, and changed to the other ABI.
    if to.dom.events.fifo.is_active() || to.dom.polling.load(SeqCst) != 0 {
        Left::Looking
    } else {
        Left::Nothing
    }
}

/// Does what is left.
fn finish(hv: &Hypervisor, m: &impl EventPorts, to: &Recipient<'_>, left: Left) {
    let mut left = left;
    if left == Left::Everything {
        if set_pending_in_queue(hv, m, to) {
            return;
        }
        left = set_bits(m, to);
    }
    if left == Left::Nothing {
        return;
    }
    if left == Left::Telling {
        tell(hv, m, to);
    }
    if to.dom.events.fifo.is_active() && set_pending_in_queue(hv, m, to) {
        return;
    }
    wake_pollers(hv, m, to.dom, to.port);
}

/// Sets a port pending in the FIFO ABI; `false` where the domain does not use it any more.
fn set_pending_in_queue(hv: &Hypervisor, m: &impl EventPorts, to: &Recipient<'_>) -> bool {
    let Some(news) = fifo::set_pending(hv, m, to.dom, to.target, to.port) else { return false };
    if news {
        wake_pollers(hv, m, to.dom, to.port);
    }
    true
}

/// The upper two steps, selector and upcall; whether nobody is left to be told.
#[inline(always)]
fn notify_here(m: &impl EventPorts, target: Option<&Arc<Vcpu>>, port: EvtchnPort) -> bool {
    let Some(v) = target else { return false };
    !v.events.raise(m, selector_of(port)) || v.sched.is_awake_on(m.pcpu())
}

/// The bit of a port in the selector.
#[inline(always)]
fn selector_of(port: EvtchnPort) -> u64 {
    if seeded!(NoSelector) { 0 } else { 1_u64.checked_shl(port.raw() / 64).unwrap_or(0) }
}

/// Tells whom [`notify_here`] did not.
fn tell(hv: &Hypervisor, m: &impl EventPorts, to: &Recipient<'_>) {
    match to.target {
        Some(target) => wake(hv, m, target),
        // The port had no vcpu when it was made.
        None => {
            let Some(first) = to.dom.vcpu(VcpuId::new(0)) else { return };
            if first.events.raise(m, selector_of(to.port)) {
                wake(hv, m, &first);
            }
        }
    }
}

/// The upper step alone, for the FIFO ABI.
pub(super) fn upcall(hv: &Hypervisor, m: &impl EventPorts, target: &Arc<Vcpu>) {
    if target.events.raise_upcall(m) && !target.sched.is_awake_on(m.pcpu()) {
        wake(hv, m, target);
    }
}

/// An upcall has become pending: the vcpu has to see it.
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
fn wake_pollers(hv: &Hypervisor, m: &impl EventPorts, dom: &Domain, port: EvtchnPort) {
    if dom.polling.load(SeqCst) == 0 {
        return;
    }
    let this = i64::from(port.raw()) + 1;
    for v in dom.each_vcpu() {
        let waits_for = v.sched.poll_state();
        if waits_for == POLL_MANY || waits_for == this {
            hv.sched.unblock(m, &v);
        }
    }
}

/// An event of which something is left to do, under the lock that the sender took.
pub(super) struct Unfinished<'a> {
    table: Guard<'a, Table>,
    port: EvtchnPort,
    left: Left,
}

/// `EVTCHNOP_send`.
///
/// # Errors
/// `EINVAL` where the port does not exist or is of a kind that only the hypervisor raises.
pub fn send(hv: &Hypervisor, m: &impl EventPorts, dom: &Domain, port: EvtchnPort) -> Result<(), Errno> {
    if let Some(unfinished) = begin_send(m, dom, port)? {
        finish_send(hv, m, dom, unfinished);
    }
    Ok(())
}

/// What every send does; the rest is [`finish_send`]'s.
///
/// # Errors
/// As [`send`].
#[inline(always)]
pub(super) fn begin_send<'a>(
    m: &impl EventPorts,
    dom: &'a Domain,
    port: EvtchnPort,
) -> Result<Option<Unfinished<'a>>, Errno> {
    let table = dom.events.lock();
    let Some(to) = recipient(&table, dom, port)? else { return Ok(None) };
    match begin(m, &to) {
        Left::Nothing => Ok(None),
        left => Ok(Some(Unfinished { table, port, left })),
    }
}

/// What is left of a send. The port is looked up again: so nothing of it had to be kept.
pub(super) fn finish_send(
    hv: &Hypervisor,
    m: &impl EventPorts,
    dom: &Domain,
    Unfinished { table, port, left }: Unfinished<'_>,
) {
    if let Ok(Some(to)) = recipient(&table, dom, port) {
        finish(hv, m, &to, left);
    }
}

/// Where an event goes that `dom` sends through its port: nowhere while nobody is at the other end; whoever connects gets a
/// notification anyway.
#[inline(always)]
fn recipient<'a>(
    table: &'a Table,
    dom: &'a Domain,
    port: EvtchnPort,
) -> Result<Option<Recipient<'a>>, Errno> {
    let p = table.port(port)?;
    match &p.state {
        PortState::Interdomain(peer) => {
            Ok(Some(Recipient { dom: &peer.domain, target: peer.vcpu.as_ref(), port: peer.port }))
        }
        PortState::Ipi => Ok(Some(Recipient { dom, target: p.target.as_ref(), port })),
        PortState::Unbound(_) => Ok(None),
        PortState::Free | PortState::Reserved | PortState::Virq(_) | PortState::Pirq(_) => Err(Errno::Inval),
    }
}

/// `EVTCHNOP_unmask`: clears the mask and delivers what has been waiting behind it.
///
/// # Errors
/// `EINVAL` where the port does not exist.
pub fn unmask(hv: &Hypervisor, m: &impl EventPorts, dom: &Domain, port: EvtchnPort) -> Result<(), Errno> {
    if let Some(unfinished) = begin_unmask(m, dom, port)? {
        finish_unmask(hv, m, dom, unfinished);
    }
    Ok(())
}

/// What every unmask does; the rest is [`finish_unmask`]'s.
///
/// # Errors
/// As [`unmask`].
#[inline(always)]
pub(super) fn begin_unmask<'a>(
    m: &impl EventPorts,
    dom: &'a Domain,
    port: EvtchnPort,
) -> Result<Option<Unfinished<'a>>, Errno> {
    let table = dom.events.lock();
    let p = table.port(port)?;
    if matches!(p.state, PortState::Free | PortState::Reserved) {
        return Ok(None);
    }
    if dom.events.fifo.is_active() {
        return Ok(Some(Unfinished { table, port, left: Left::Everything }));
    }
    let Some((mask, bit)) = bit_of(m, dom, SHARED_INFO_EVTCHN_MASK, port) else { return Ok(None) };
    let Some((pending, _)) = bit_of(m, dom, SHARED_INFO_EVTCHN_PENDING, port) else { return Ok(None) };
    if words::unmask(pending, mask, bit) && !notify_here(m, p.target.as_ref(), port) {
        return Ok(Some(Unfinished { table, port, left: Left::Telling }));
    }
    Ok(None)
}

/// What is left of an unmask.
pub(super) fn finish_unmask(
    hv: &Hypervisor,
    m: &impl EventPorts,
    dom: &Domain,
    Unfinished { table, port, left }: Unfinished<'_>,
) {
    let Ok(p) = table.port(port) else { return };
    let to = Recipient { dom, target: p.target.as_ref(), port };
    match left {
        Left::Everything if dom.events.fifo.unmask(m, port) => finish(hv, m, &to, left),
        Left::Telling => tell(hv, m, &to),
        _ => {}
    }
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
