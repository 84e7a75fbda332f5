//! Event channels: the guest's interrupts.
//!
//! There are two ABIs, [`Abi`]; which one is used shows in nothing but priorities.
//!
//! A port has one owner in this kernel, an [`EventChannel`]. When an event arrives it runs the channel's handler, if
//! there is one, and then wakes whoever waits for the channel. Handlers run with events masked, on the vcpu that the port is
//! bound to; keep them short.

mod channel;
pub(crate) mod fifo;
mod hold;
mod sink;

use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering, compiler_fence};

use pv_abi::ids::{EvtchnPort, VcpuId};
use pv_abi::shared_info::EVTCHN_2L_NR_CHANNELS;

pub use channel::{
    EventChannel, Status, adopt, alloc_unbound, alloc_unbound_for, bind_interdomain, bind_ipi, bind_pirq,
    bind_virq, status,
};

use crate::shared;
use crate::sync::IrqLock;
use crate::task::Notify;
use hold::Hold;
use sink::OnceSink;

/// Runs when an event arrives, with events masked.
pub type Handler = Arc<dyn Fn(EvtchnPort) + Send + Sync>;

const PORTS: usize = EVTCHN_2L_NR_CHANNELS as usize;

/// What happens at a port.
pub(crate) struct Sink {
    port: EvtchnPort,
    pub(crate) handler: IrqLock<Option<Handler>>,
    pub(crate) notify: Notify,
    /// Whether a channel owns the port.
    bound: AtomicBool,
    hold: Hold,
}

/// One for each port that was ever bound. They are made once and kept, so that the upcall needs no lock and no count to
/// use one.
static SINKS: [OnceSink; PORTS] = [const { OnceSink::new() }; PORTS];
/// The vcpu that looks after each port. All vcpus see all pending bits; only the owner may take one.
static OWNER: [AtomicU8; PORTS] = [const { AtomicU8::new(0) }; PORTS];
static SPURIOUS: AtomicU64 = AtomicU64::new(0);
/// Port of an IPI to vcpu 0; 0 as long as there is only that vcpu.
static BOOT_VCPU_IPI: AtomicU32 = AtomicU32::new(0);

/// Masks event delivery on this vcpu; tells whether it was masked before.
#[inline]
pub fn mask() -> bool {
    let before = shared::vcpu_info().evtchn_upcall_mask.swap(1, Ordering::Relaxed);
    compiler_fence(Ordering::SeqCst);
    before != 0
}

/// Whether event delivery is masked on this vcpu.
#[must_use]
pub fn is_masked() -> bool {
    shared::vcpu_info().evtchn_upcall_mask.load(Ordering::Relaxed) != 0
}

/// Whether an event waits for delivery on this vcpu to be opened.
#[must_use]
pub fn is_any_pending() -> bool {
    shared::vcpu_info().evtchn_upcall_pending.load(Ordering::Relaxed) != 0
}

/// Opens event delivery on this vcpu; what is pending is delivered before this returns.
#[inline]
pub fn unmask() {
    let info = shared::vcpu_info();
    compiler_fence(Ordering::SeqCst);
    info.evtchn_upcall_mask.store(0, Ordering::SeqCst);
    // The hypervisor does not notice that the mask was cleared. An event between the two lines is delivered by an
    // upcall, and then this hypercall does nothing.
    if info.evtchn_upcall_pending.load(Ordering::SeqCst) != 0 {
        crate::arch::trap::force_upcall();
    }
}

/// How events reach this kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Abi {
    /// Bitmaps in the shared page, at most 4096 ports.
    TwoLevel,
    /// Queues of event words, with priorities.
    Fifo,
}

/// How events reach this kernel: by queues where the hypervisor offers them and the command line does not say
/// `events=2l`.
#[must_use]
pub fn abi() -> Abi {
    if fifo::is_active() { Abi::Fifo } else { Abi::TwoLevel }
}

/// How many events arrived at ports without an owner.
#[must_use]
pub fn spurious_count() -> u64 {
    SPURIOUS.load(Ordering::Relaxed)
}

/// The upcall: takes every pending event of this vcpu. Runs with events masked.
pub(crate) fn upcall() {
    let info = shared::vcpu_info();
    while info.evtchn_upcall_pending.swap(0, Ordering::SeqCst) != 0 {
        if fifo::is_active() {
            fifo::take_events();
            continue;
        }
        let mut words = info.evtchn_pending_sel.swap(0, Ordering::SeqCst);
        while words != 0 {
            let word = words.trailing_zeros();
            words &= words - 1;
            scan_word(word);
        }
    }
}

/// Handles the pending, unmasked ports of one word that belong to this vcpu.
fn scan_word(word: u32) {
    let page = shared::info();
    let index = word as usize;
    let (pending, masked) = (&page.evtchn_pending[index], &page.evtchn_mask[index]);
    let mut bits = pending.load(Ordering::Acquire) & !masked.load(Ordering::Acquire);
    let vcpu = crate::arch::percpu::vcpu_id();
    while bits != 0 {
        let bit = bits.trailing_zeros();
        bits &= bits - 1;
        let port = index * 64 + bit as usize;
        if u32::from(OWNER[port].load(Ordering::Relaxed)) == vcpu {
            pending.fetch_and(!(1 << bit), Ordering::AcqRel);
            deliver(port);
        }
    }
}

fn deliver(port: usize) {
    let Some(sink) = SINKS[port].get().filter(|sink| sink.bound.load(Ordering::Acquire)) else {
        SPURIOUS.fetch_add(1, Ordering::Relaxed);
        return;
    };
    let handler = sink.handler.lock_in_upcall().clone();
    if let Some(handler) = handler {
        let _inside = crate::local::Handling::begin();
        handler(sink.port);
    }
    if sink.hold.is_on() {
        set_port_mask(sink.port, true);
        sink.hold.count();
    }
    sink.notify.notify();
}

/// Takes possession of the sink of `port`, without a handler and with no event noted.
fn register(port: EvtchnPort, vcpu: VcpuId) -> Option<&'static Sink> {
    let sink = SINKS.get(port.raw() as usize)?.get_or_make(port);
    fifo::cover(port).ok()?;
    set_owner(port, vcpu);
    let old = sink.handler.lock().take();
    drop(old);
    sink.notify.try_take();
    sink.hold.reset();
    sink.bound.store(true, Ordering::Release);
    Some(sink)
}

/// Nobody receives events of `port` any more.
fn unregister(sink: &Sink) {
    sink.bound.store(false, Ordering::Release);
    let old = sink.handler.lock().take();
    drop(old);
}

fn set_owner(port: EvtchnPort, vcpu: VcpuId) {
    if let Some(owner) = OWNER.get(port.raw() as usize) {
        owner.store(u8::try_from(vcpu.raw()).unwrap_or(0), Ordering::Relaxed);
    }
}

/// Sets or clears the mask bit of a port; tells whether it was set.
fn set_port_mask(port: EvtchnPort, masked: bool) -> bool {
    if fifo::is_active() {
        return fifo::set_mask(port, masked);
    }
    let (word, bit) = (port.raw() as usize / 64, 1_u64 << (port.raw() % 64));
    let Some(word) = shared::info().evtchn_mask.get(word) else { return true };
    let before =
        if masked { word.fetch_or(bit, Ordering::AcqRel) } else { word.fetch_and(!bit, Ordering::AcqRel) };
    before & bit != 0
}

fn is_port_pending(port: EvtchnPort) -> bool {
    if fifo::is_active() {
        return fifo::is_pending(port);
    }
    let word = shared::info().evtchn_pending.get(port.raw() as usize / 64);
    word.is_some_and(|word| word.load(Ordering::Acquire) & (1 << (port.raw() % 64)) != 0)
}

/// Takes the event that is pending at a port, without an upcall; whether there was one.
fn clear_pending(port: EvtchnPort) -> bool {
    if fifo::is_active() {
        return fifo::clear_pending(port);
    }
    let bit = 1 << (port.raw() % 64);
    let word = shared::info().evtchn_pending.get(port.raw() as usize / 64);
    word.is_some_and(|word| word.fetch_and(!bit, Ordering::AcqRel) & bit != 0)
}

/// A port that is [held](EventChannel::hold_until_waited).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// The port's number.
    pub port: EvtchnPort,
    /// Events that were taken off it since it was bound.
    pub taken: u64,
    /// Turns on end that an event began and that found nothing to do.
    pub idle: u32,
}

/// The ports that are held, with what their peers have sent.
pub fn held() -> impl Iterator<Item = Held> {
    let sinks = SINKS.iter().filter_map(OnceSink::get);
    let bound = sinks.filter(|sink| sink.bound.load(Ordering::Acquire) && sink.hold.is_on());
    bound.map(|sink| Held { port: sink.port, taken: sink.hold.taken(), idle: sink.hold.idle() })
}

/// Binds the IPI by which other vcpus end the sleep of vcpu 0.
pub(crate) fn init_boot_vcpu_ipi() -> crate::hypercall::Result {
    if BOOT_VCPU_IPI.load(Ordering::Relaxed) == 0 {
        let channel = bind_ipi(VcpuId::new(0))?;
        BOOT_VCPU_IPI.store(channel.leak().raw(), Ordering::Release);
    }
    Ok(())
}

/// Ends the sleep of vcpu 0, from another vcpu.
pub(crate) fn kick_boot_vcpu() {
    let port = BOOT_VCPU_IPI.load(Ordering::Acquire);
    if port != 0 {
        let _ = channel::send(EvtchnPort::new(port));
    }
}

/// Notifies the other end of a port that has no [`EventChannel`].
pub(crate) fn notify_port(port: EvtchnPort) -> crate::hypercall::Result {
    channel::send(port)
}
