//! The FIFO ABI: an event word for each port, and 16 queues of ports for each vcpu.
//!
//! The hypervisor marks a port's word and links it behind the last port of its queue; a vcpu takes ports off its own
//! queues, most urgent first. Used where the hypervisor offers it, unless the command line says `events=2l`.

#![expect(unsafe_code, reason = "views pages that the hypervisor writes, as atomics")]

use core::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};

use pv_abi::evtchn::{
    EventWord, EvtchnExpandArray, EvtchnInitControl, EvtchnOp, EvtchnSetPriority, FIFO_MAX_QUEUES,
    FIFO_PRIORITY_MIN,
};
use pv_abi::ids::EvtchnPort;

use super::PORTS;
use crate::arch::percpu::MAX_VCPUS;
use crate::hypercall::typed::evtchn;
use crate::hypercall::{Errno, Result, evtchn_op};
use crate::memory::SharedPages;
use crate::sync::IrqLock;

/// Event words of a page.
const WORDS: usize = 1024;
/// Pages of event words for all ports of this kernel.
const PAGES: usize = PORTS / WORDS;
const PENDING: u32 = EventWord::PENDING.bits();
const MASKED: u32 = EventWord::MASKED.bits();
const LINKED: u32 = EventWord::LINKED.bits();
const LINK: u32 = EventWord::LINK.bits();

/// A vcpu's control block, which the hypervisor writes too.
#[repr(C)]
struct ControlBlock {
    /// Bit `n`: queue `n` has something.
    ready: AtomicU32,
    _reserved: u32,
    /// The first port of each queue.
    heads: [AtomicU32; FIFO_MAX_QUEUES],
}

type Words = [AtomicU32; WORDS];

static ACTIVE: AtomicBool = AtomicBool::new(false);
/// Addresses of the pages of event words; 0 is none.
static ARRAY: [AtomicU64; PAGES] = [const { AtomicU64::new(0) }; PAGES];
/// Address of the page of control blocks; 0 is none.
static CONTROLS: AtomicU64 = AtomicU64::new(0);
/// Bytes from one vcpu's control block to the next one's.
const CONTROL_STRIDE: usize = 4096 / MAX_VCPUS;
const _: () = assert!(size_of::<ControlBlock>() <= CONTROL_STRIDE, "control blocks overlap");
/// Where each vcpu goes on in each queue; 0 is at the head that the control block names. Only the vcpu uses its own.
static NEXT: [[AtomicU32; FIFO_MAX_QUEUES]; MAX_VCPUS] =
    [const { [const { AtomicU32::new(0) }; FIFO_MAX_QUEUES] }; MAX_VCPUS];
/// Pages of the array so far.
static GROWING: IrqLock<usize> = IrqLock::new(0);

/// Whether this kernel uses the FIFO ABI.
#[inline]
pub(super) fn is_active() -> bool {
    ACTIVE.load(Acquire)
}

/// A page that stays with the hypervisor for good.
fn shared_page() -> Result<SharedPages> {
    SharedPages::new(1).ok_or(Errno::NoMem)
}

/// Changes to the FIFO ABI; a hypervisor without it leaves things as they are.
///
/// Every vcpu of the domain gets its control block now: an event for a vcpu without one would be lost.
pub(crate) fn init() -> Result {
    let page = shared_page()?;
    let gfn = page.mfn(0).ok_or(Errno::Inval)?.raw();
    for (vcpu, offset) in (0..).zip((0..).step_by(CONTROL_STRIDE)).take(MAX_VCPUS) {
        let mut argument =
            EvtchnInitControl { control_gfn: gfn, offset, vcpu, ..EvtchnInitControl::default() };
        // SAFETY: the hypervisor may write the page, which is nobody else's and is never freed after the first success.
        match unsafe { evtchn_op(EvtchnOp::InitControl, &mut argument) } {
            Ok(_) => {}
            Err(Errno::NoSys) if vcpu == 0 => return Ok(()),
            // The domain has no more vcpus.
            Err(Errno::NoEnt) if vcpu != 0 => break,
            Err(error) => return Err(error),
        }
    }
    CONTROLS.store(page.va(), Release);
    core::mem::forget(page);
    ACTIVE.store(true, Release);
    cover(EvtchnPort::new(0))
}

/// Makes sure that a port has an event word.
pub(super) fn cover(port: EvtchnPort) -> Result {
    if !is_active() {
        return Ok(());
    }
    let wanted = port.raw() as usize / WORDS;
    let mut pages = GROWING.lock();
    while *pages <= wanted {
        let place = ARRAY.get(*pages).ok_or(Errno::Range)?;
        let page = shared_page()?;
        let mut argument = EvtchnExpandArray { array_gfn: page.mfn(0).ok_or(Errno::Inval)?.raw() };
        // SAFETY: the hypervisor may write the page, which is nobody else's and is never freed after this.
        unsafe { evtchn_op(EvtchnOp::ExpandArray, &mut argument) }?;
        place.store(page.va(), Release);
        core::mem::forget(page);
        *pages += 1;
    }
    Ok(())
}

fn word(port: u32) -> Option<&'static AtomicU32> {
    let port = port as usize;
    let page = ARRAY.get(port / WORDS)?.load(Acquire);
    if page == 0 {
        return None;
    }
    let words: *const Words = core::ptr::with_exposed_provenance(usize::try_from(page).ok()?);
    // SAFETY: a page of our own that is never freed, of zeros at first and seen as atomics alone.
    Some(unsafe { &(*words)[port % WORDS] })
}

fn control(vcpu: usize) -> Option<&'static ControlBlock> {
    let page = usize::try_from(CONTROLS.load(Acquire)).ok()?;
    if page == 0 || vcpu >= MAX_VCPUS {
        return None;
    }
    let block: *const ControlBlock = core::ptr::with_exposed_provenance(page + vcpu * CONTROL_STRIDE);
    // SAFETY: inside a page of our own that is never freed, of zeros at first and seen as atomics alone.
    Some(unsafe { &*block })
}

/// Takes every event off this vcpu's queues, most urgent first.
pub(super) fn take_events() {
    let vcpu = crate::arch::percpu::vcpu_index();
    let Some(block) = control(vcpu) else { return };
    let mut ready = block.ready.swap(0, AcqRel);
    while ready != 0 {
        let priority = ready.trailing_zeros();
        if !take_one(block, vcpu, priority as usize) {
            ready &= !(1 << priority);
        }
        // Something more urgent may have come meanwhile.
        ready |= block.ready.swap(0, AcqRel);
    }
}

/// Takes the first port off a queue and handles its event; whether the queue has more.
fn take_one(block: &ControlBlock, vcpu: usize, priority: usize) -> bool {
    let (Some(next), Some(head)) = (NEXT[vcpu].get(priority), block.heads.get(priority)) else {
        return false;
    };
    let port = match next.load(Relaxed) {
        0 => head.load(Acquire),
        port => port,
    };
    let Some(word) = word(port) else { return false };
    // Off the queue first: an event from here on links the port anew.
    let before = word.fetch_and(!(LINKED | LINK), AcqRel);
    let link = before & LINK;
    next.store(link, Relaxed);
    if before & (PENDING | MASKED) == PENDING {
        word.fetch_and(!PENDING, AcqRel);
        super::deliver(port as usize);
    }
    link != 0
}

/// Sets or clears the mask of a port; whether it was set.
pub(super) fn set_mask(port: EvtchnPort, masked: bool) -> bool {
    let Some(word) = word(port.raw()) else { return true };
    let before = if masked { word.fetch_or(MASKED, AcqRel) } else { word.fetch_and(!MASKED, AcqRel) };
    before & MASKED != 0
}

/// Whether an event is pending.
pub(super) fn is_pending(port: EvtchnPort) -> bool {
    word(port.raw()).is_some_and(|word| word.load(Acquire) & PENDING != 0)
}

/// Takes the event that is pending; whether there was one. A queue that the port is in is left alone: who comes to it there
/// finds nothing.
pub(super) fn clear_pending(port: EvtchnPort) -> bool {
    word(port.raw()).is_some_and(|word| word.fetch_and(!PENDING, AcqRel) & PENDING != 0)
}

/// Has a port's events come before those of a larger number; 0 to 15, 7 at first.
pub(super) fn set_priority(port: EvtchnPort, priority: u32) -> Result {
    if priority > FIFO_PRIORITY_MIN {
        return Err(Errno::Inval);
    }
    if !is_active() {
        return Err(Errno::NoSys);
    }
    evtchn(EvtchnSetPriority { port: port.raw(), priority }).map(drop)
}
