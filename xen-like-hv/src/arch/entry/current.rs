//! The vcpu that a pcpu runs.
#![expect(unsafe_code, reason = "one slot per pcpu without a lock")]

use alloc::sync::Arc;
use core::cell::UnsafeCell;

use hv_core::domain::Domain;
use hv_core::vcpu::Vcpu;

use super::cpu_info::{CpuInfo, cpu_info_address};
use super::stubs::MAX_STUBS;

/// A running vcpu and its domain, which it keeps alive.
#[derive(Debug)]
pub(crate) struct Current {
    pub(crate) dom: Arc<Domain>,
    pub(crate) vcpu: Arc<Vcpu>,
}

struct Slot(UnsafeCell<Option<Current>>);

// SAFETY: each slot is touched by its own pcpu only, with interrupts disabled (see `slot`).
unsafe impl Sync for Slot {}

static SLOTS: [Slot; MAX_STUBS] = [const { Slot(UnsafeCell::new(None)) }; MAX_STUBS];

/// The record at the top of this pcpu's stack block.
pub(crate) fn cpu_info() -> &'static CpuInfo {
    let rsp: usize;
    // SAFETY: reads a register.
    unsafe { core::arch::asm!("mov {}, rsp", out(reg) rsp, options(nomem, nostack, preserves_flags)) };
    let info: *const CpuInfo = core::ptr::with_exposed_provenance(cpu_info_address(rsp));
    // SAFETY: every stack of the hypervisor lies in a block with a CpuInfo at its top, mapped for good; shared fields are
    // atomics, the rest is written before the pcpu is up, but for `regs`, which is only reached through raw pointers.
    unsafe { &*info }
}

fn slot() -> &'static Slot {
    let cpu = usize::try_from(cpu_info().cpu).unwrap_or(0);
    SLOTS.get(cpu).unwrap_or(&SLOTS[0])
}

/// The vcpu that runs here. The reference must not be held across [`replace`]: only the exit loop calls that, and
/// it holds none.
pub(crate) fn current() -> Option<&'static Current> {
    // SAFETY: only this pcpu reads or writes the slot, and it is not written while a reference is in use (above).
    unsafe { (*slot().0.get()).as_ref() }
}

/// Puts another vcpu into the slot and hands the former one over.
pub(crate) fn replace(next: Option<Current>) -> Option<Current> {
    // SAFETY: as in `current`; the exit loop, the only caller, holds no reference into the slot.
    unsafe { core::mem::replace(&mut *slot().0.get(), next) }
}
