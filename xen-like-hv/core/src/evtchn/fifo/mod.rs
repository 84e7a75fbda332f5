//! The FIFO ABI: an event word for each port, and 16 queues of ports for each vcpu, one for each priority.
//!
//! A domain starts with the two-level ABI. The first `EVTCHNOP_init_control` switches it, `EVTCHNOP_reset` switches it back.
//!
//! | move | by | what is carried over |
//! |---|---|---|
//! | two-level → FIFO | first control block | pending ports wait for their event word; every port has the default priority |
//! | array grows | `EVTCHNOP_expand_array` | ports that waited are delivered |
//! | FIFO → two-level | reset, end of the domain | nothing: all ports are closed |
//!
//! The guest's pages (control blocks, event words) are held with writable references, so they stay the domain's and are no
//! page tables. What the guest writes there is never used as an index or followed: see [`word`] and `state`.
//!
//! Locks: [`rank::FIFO`], one for the queues of a domain, taken under the event lock of whoever sends. The guest's pages are
//! touched under it alone, so that after the switch back nobody writes there. Which ABI is in use is read without a
//! lock by the sender, who looks again after he has used the two-level one.

mod state;
pub mod word;

#[cfg(test)]
mod tests;

use alloc::sync::Arc;
use core::sync::atomic::AtomicBool;
use core::sync::atomic::Ordering::SeqCst;

use hv_sync::{Guard, SpinLock, rank};
use pv_abi::errno::Errno;
use pv_abi::evtchn::{EvtchnInitControl, FIFO_LINK_BITS, FIFO_PRIORITY_MIN};
use pv_abi::ids::{EvtchnPort, Mfn, VcpuId};

use super::send::{self, EventPorts};
use super::table::Table;
use crate::domain::Domain;
use crate::frame::FrameTable;
use crate::hv::Hypervisor;
use crate::port::{Cpu, Frames, Tlb};
use crate::vcpu::Vcpu;
use state::{Chunk, Control, State};
use word::WordIo;

/// Bytes of a control block.
const CONTROL_BYTES: u32 = 8 + 4 * (FIFO_PRIORITY_MIN + 1);
/// Bytes of a frame.
const PAGE_BYTES: u32 = 4096;

/// The FIFO side of a domain's event channels.
#[derive(Debug)]
pub(super) struct Fifo {
    /// Written under the event lock and this one.
    active: AtomicBool,
    state: SpinLock<State>,
}

impl Default for Fifo {
    fn default() -> Self {
        Self { active: AtomicBool::new(false), state: SpinLock::new(rank::FIFO, State::default()) }
    }
}

impl Fifo {
    /// Whether the domain uses the FIFO ABI.
    #[inline]
    pub(super) fn is_active(&self) -> bool {
        self.active.load(SeqCst)
    }

    fn lock(&self) -> Guard<'_, State> {
        self.state.lock()
    }

    /// Whether something can be known of all ports below `ports`, or nothing has to be.
    pub(super) fn covers(&self, ports: u32) -> bool {
        !self.is_active() || self.lock().covered() >= ports
    }

    /// Makes sure that something can be known of all ports below `ports`.
    pub(super) fn cover(&self, ports: u32) -> Result<(), Errno> {
        while !self.covers(ports) {
            let chunk = Chunk::new()?;
            self.lock().cover_more(chunk);
        }
        Ok(())
    }

    /// Whether a port that is free is still in a queue: it cannot be given out before the guest has taken it off.
    pub(super) fn is_busy(&self, m: &impl Frames, port: EvtchnPort) -> bool {
        self.is_active() && self.lock().word(m, port).is_some_and(|w| w.load() & word::LINKED != 0)
    }

    /// Whether a port is pending.
    pub(super) fn is_pending(&self, m: &impl Frames, port: EvtchnPort) -> bool {
        self.lock().is_pending(m, port)
    }

    /// Takes back the event of a port that is closed.
    pub(super) fn forget(&self, m: &impl Frames, port: EvtchnPort) {
        self.lock().forget(m, port);
    }

    /// Clears the mask of a port; whether an event waits behind it.
    pub(super) fn unmask(&self, m: &impl Frames, port: EvtchnPort) -> bool {
        self.lock().word(m, port).is_some_and(|word| word::unmask(&word)) && !seeded!(UnmaskForgets)
    }

    /// What is wrong with the queues: for the audit.
    pub(super) fn faults(&self) -> alloc::vec::Vec<&'static str> {
        let state = self.lock();
        let mut wrong: alloc::vec::Vec<_> = state.faults().collect();
        if state.exists() != self.is_active() {
            wrong.push("queues without the FIFO ABI, or the other way round");
        }
        wrong
    }

    /// The state of the first ports and all queues: for the models.
    #[cfg(test)]
    pub(super) fn hash(&self, ports: u32, into: &mut impl core::hash::Hasher) {
        self.lock().hash(usize::try_from(ports).unwrap_or(0) + 1, into);
    }

    /// Frames of the guest that are held: for the audit and the debug key.
    pub(super) fn frames(&self) -> alloc::vec::Vec<Mfn> {
        self.lock().frames().collect()
    }
}

/// Sets a port of a domain pending that uses the FIFO ABI, and notifies the vcpu `target` (vcpu 0 where the port has none
/// yet). `None` where the domain has gone back to the two-level ABI; else whether the port was not pending before.
#[inline(never)]
pub(super) fn set_pending(
    hv: &Hypervisor,
    m: &impl EventPorts,
    dom: &Domain,
    target: Option<&Arc<Vcpu>>,
    port: EvtchnPort,
) -> Option<bool> {
    let vcpu = target.map_or(VcpuId::new(0), |v| v.id);
    let delivery = {
        let mut state = dom.events.fifo.lock();
        if !state.exists() {
            return None;
        }
        state.deliver(m, vcpu, port)
    };
    if delivery.upcall {
        let first;
        let target = match target {
            Some(target) => target,
            None => {
                first = dom.vcpu(vcpu)?;
                &first
            }
        };
        send::upcall(hv, m, target);
    }
    Some(delivery.news)
}

/// `EVTCHNOP_init_control`: the control block of a vcpu; the domain's first one switches the ABI.
///
/// # Errors
/// `ENOENT` where there is no such vcpu; `EINVAL` where the block would cross its frame or is not aligned, where the frame is
/// not a writable one of the domain's, where the vcpu has a block, or the domain dies; `ENOMEM`.
pub fn init_control(
    hv: &Hypervisor,
    m: &(impl EventPorts + Tlb + Cpu),
    dom: &Arc<Domain>,
    op: &mut EvtchnInitControl,
) -> Result<(), Errno> {
    op.link_bits = u8::try_from(FIFO_LINK_BITS).unwrap_or(0);
    let vcpu = VcpuId::new(op.vcpu);
    dom.vcpu(vcpu).ok_or(Errno::NoEnt)?;
    if op.offset > PAGE_BYTES - CONTROL_BYTES || !op.offset.is_multiple_of(8) {
        return Err(Errno::Inval);
    }
    let first = usize::try_from(op.offset / 4).map_err(|_| Errno::Inval)?;
    let page = hv.frames.get_page_writable(m, Mfn::new(op.control_gfn), dom.id).map_err(|_| Errno::Inval)?;
    let control = Control { mfn: page.mfn(), first };
    let mut room = Room::default();
    loop {
        room.prepare(dom)?;
        let table = dom.events.lock();
        if table.dying {
            return Err(Errno::Inval);
        }
        let mut state = dom.events.fifo.lock();
        if !state.exists() {
            let Some(new) = room.take(table.valid()) else { continue };
            *state = new;
            carry_over(m, dom, &table, &mut state);
            dom.events.fifo.active.store(true, SeqCst);
        }
        if !state.set_control(vcpu, control) {
            return Err(Errno::Inval);
        }
        // The queues own the reference now.
        let _held = page.into_raw();
        return Ok(());
    }
}

/// Memory for the switch, allocated before the locks are taken.
#[derive(Default)]
struct Room(Option<State>);

impl Room {
    fn prepare(&mut self, dom: &Domain) -> Result<(), Errno> {
        if dom.events.fifo.is_active() {
            return Ok(());
        }
        let vcpus = usize::try_from(dom.limits.max_vcpus).unwrap_or(0).max(dom.each_vcpu().count());
        let mut state = match self.0.take() {
            Some(state) => state,
            None => State::new(vcpus)?,
        };
        let valid = dom.events.lock().valid();
        while state.covered() < valid {
            state.cover_more(Chunk::new()?);
        }
        self.0 = Some(state);
        Ok(())
    }

    /// The state, if it has room for that many ports.
    fn take(&mut self, valid: u32) -> Option<State> {
        if self.0.as_ref()?.covered() < valid { None } else { self.0.take() }
    }
}

/// Ports that are pending in the two-level bitmap wait for their event words.
///
/// A sender who sets a bit there after this has looked sees the new ABI afterwards, and sends again.
fn carry_over(m: &impl Frames, dom: &Domain, table: &Table, state: &mut State) {
    for port in (1..table.valid()).map(EvtchnPort::new) {
        if send::is_pending_in_bitmap(m, dom, port) {
            state.set_waiting(port);
        }
    }
}

/// `EVTCHNOP_expand_array`: the next page of event words.
///
/// # Errors
/// `EOPNOTSUPP` without the FIFO ABI; `ENOSPC` after the last page; `EINVAL` where the frame is not a writable one of the
/// domain's; `ENOMEM`.
pub fn expand_array(
    hv: &Hypervisor,
    m: &(impl EventPorts + Tlb + Cpu),
    dom: &Arc<Domain>,
    gfn: u64,
) -> Result<(), Errno> {
    let fifo = &dom.events.fifo;
    if !fifo.is_active() {
        return Err(Errno::OpNotSupp);
    }
    let mut page = hv.frames.get_page_writable(m, Mfn::new(gfn), dom.id).ok();
    loop {
        let after = fifo.lock().words().saturating_add(WORDS);
        fifo.cover(after.min(pv_abi::evtchn::FIFO_NR_CHANNELS))?;
        let table = dom.events.lock();
        let mut state = fifo.lock();
        if !state.exists() {
            return Err(Errno::OpNotSupp);
        }
        if state.is_full() {
            return Err(Errno::NoSpc);
        }
        if state.covered() < state.words().saturating_add(WORDS) {
            continue;
        }
        let ports = state.add_page(page.take().ok_or(Errno::Inval)?.into_raw());
        drop(state);
        deliver_waiting(hv, m, dom, &table, ports);
        return Ok(());
    }
}

/// Event words of a page.
const WORDS: u32 = 1024;
const _: () = assert!(WORDS as usize == state::WORDS_PER_PAGE, "two words for one number");

/// Delivers what came in for ports that had no event word.
fn deliver_waiting(
    hv: &Hypervisor,
    m: &impl EventPorts,
    dom: &Domain,
    table: &Table,
    ports: core::ops::Range<u32>,
) {
    for port in ports.map(EvtchnPort::new) {
        let Ok(p) = table.port(port) else { break };
        if dom.events.fifo.lock().take_waiting(port) {
            send::set_pending(hv, m, dom, p.target.as_ref(), port);
        }
    }
}

/// `EVTCHNOP_set_priority`: the queue that the port's next event goes into.
///
/// # Errors
/// `EINVAL` where the port does not exist; `ENOSYS` without the FIFO ABI; `EINVAL` for a priority that does not exist.
pub fn set_priority(dom: &Domain, port: EvtchnPort, priority: u32) -> Result<(), Errno> {
    let table = dom.events.lock();
    table.port(port)?;
    if !dom.events.fifo.is_active() {
        return Err(Errno::NoSys);
    }
    if priority > FIFO_PRIORITY_MIN {
        return Err(Errno::Inval);
    }
    let priority = u8::try_from(priority).map_err(|_| Errno::Inval)?;
    dom.events.fifo.lock().set_priority(port, priority);
    Ok(())
}

/// Back to the two-level ABI, with all ports closed: the guest's frames are given back.
pub(super) fn stop(frames: &FrameTable, dom: &Domain) {
    let old = {
        let _no_port_changes = dom.events.lock();
        let mut state = dom.events.fifo.lock();
        dom.events.fifo.active.store(false, SeqCst);
        core::mem::take(&mut *state)
    };
    // Outside the locks: nobody finds them any more, and the memory goes back to the heap.
    for mfn in old.frames().filter(|_| !seeded!(QueuesKeepFrames)) {
        drop(frames.adopt_writable(mfn));
    }
}
