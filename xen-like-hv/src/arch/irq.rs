//! Interrupts: vectors, controllers, and the handlers, which only take note.
//!
//! A handler sets bits in the pcpu's record and acknowledges; the work is done in the exit loop. The one lock a handler
//! takes is that of an IO-APIC; it is safe because the hypervisor runs with interrupts off wherever it holds locks.

pub(crate) mod apic;
pub(crate) mod ioapic;
pub(crate) mod ipi;
pub(crate) mod message;
pub(crate) mod pic;

use crate::console;
use crate::machine::Metal;
use crate::percpu::{self, softirq};
use core::sync::atomic::Ordering;
use hv_core::Hypervisor;
use hv_core::port::{GsiConfig, GsiUnavailable};

/// Interrupt vectors.
pub(crate) mod vectors {
    /// First vector for devices.
    pub(crate) const FIRST_DEVICE: u32 = 0x30;
    /// Last vector for devices.
    pub(crate) const LAST_DEVICE: u32 = 0xdf;
    /// Asks a pcpu to call something; only halting so far.
    pub(crate) const CALL: u32 = 0xfa;
    /// Asks for a TLB flush.
    pub(crate) const FLUSH: u32 = 0xfb;
    /// Asks for a look at the runqueue.
    pub(crate) const RESCHEDULE: u32 = 0xfc;
    /// The APIC timer.
    pub(crate) const TIMER: u32 = 0xfd;
    /// The local APIC found an error.
    pub(crate) const ERROR: u32 = 0xfe;
    /// Nothing after all; needs no acknowledgement.
    pub(crate) const SPURIOUS: u32 = 0xff;
}

/// Handles an interrupt of this pcpu.
pub(crate) fn handle(vector: u32) {
    let this = percpu::this();
    this.interrupts.fetch_add(1, Ordering::Relaxed);
    match vector {
        vectors::TIMER => {
            percpu::raise(softirq::TIMER);
            apic::acknowledge();
        }
        vectors::RESCHEDULE => {
            percpu::raise(softirq::RESCHED);
            apic::acknowledge();
        }
        vectors::FLUSH => {
            ipi::serve_flush();
            apic::acknowledge();
        }
        vectors::CALL => {
            apic::acknowledge();
            if crate::panic::in_progress() {
                crate::panic::stop_this_cpu();
            }
        }
        vectors::ERROR => {
            let status = apic::error_status();
            apic::acknowledge();
            log::warn!("pcpu {}: local APIC error {status:#x}", percpu::this_cpu());
        }
        vectors::SPURIOUS => {}
        vectors::FIRST_DEVICE..=vectors::LAST_DEVICE => device(vector, this),
        _ => {
            apic::acknowledge();
            log::warn!("pcpu {}: interrupt at unused vector {vector:#x}", percpu::this_cpu());
        }
    }
}

/// A device's interrupt: the console's own, or noted for the domain that bound it.
fn device(vector: u32, this: &percpu::PerCpu) {
    let Some(gsi) = ioapic::gsi_of(vector) else {
        apic::acknowledge();
        return;
    };
    if ioapic::is_console(gsi) {
        console::receive();
        percpu::raise(softirq::CONSOLE);
    } else {
        // A level stays high until the guest's driver has served the device: keep the pin quiet until then.
        if ioapic::is_level(gsi) {
            ioapic::mask(gsi);
        }
        if let Some(word) = this.pirq_pending.get(usize::try_from(gsi / 64).unwrap_or(usize::MAX)) {
            word.fetch_or(1 << (gsi % 64), Ordering::Release);
            percpu::raise(softirq::PIRQ);
        }
    }
    apic::acknowledge();
}

/// Hands the device interrupts noted on this pcpu to the domain that bound them.
pub(crate) fn deliver_pirqs(hv: &Hypervisor, m: &Metal) {
    let this = percpu::this();
    for (index, word) in (0u32..).zip(&this.pirq_pending) {
        let mut pending = word.swap(0, Ordering::AcqRel);
        while pending != 0 {
            let gsi = index * 64 + pending.trailing_zeros();
            pending &= pending - 1;
            hv_core::evtchn::pirq::fired(hv, m, gsi);
        }
    }
}

/// Routes an interrupt to the boot processor for a guest, masked. What the caller leaves open stays as it is.
pub(crate) fn route_for_guest(gsi: u32, config: GsiConfig) -> Result<(), GsiUnavailable> {
    if ioapic::is_console(gsi) {
        return Err(GsiUnavailable);
    }
    let now = ioapic::signal_of(gsi).ok_or(GsiUnavailable)?;
    let signal = ioapic::Signal {
        level: config.level.unwrap_or(now.level),
        active_low: config.active_low.unwrap_or(now.active_low),
    };
    let target = percpu::record(0).apic_id.load(Ordering::Relaxed);
    ioapic::route(gsi, target, signal).map(|_| ()).map_err(|_| GsiUnavailable)
}
