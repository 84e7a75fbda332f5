//! The vcpu that a pcpu runs.
#![expect(unsafe_code, reason = "one slot per pcpu without a lock")]

use alloc::sync::Arc;
use core::cell::UnsafeCell;
use core::sync::atomic::Ordering::Relaxed;

use hv_core::domain::Domain;
use hv_core::entry::GuestMode;
use hv_core::vcpu::Vcpu;
use hv_core::{Cx, Hypervisor, UserRegs, hypercall};

use super::cpu_info::{CpuInfo, cpu_info_address};
use super::stubs::MAX_STUBS;
use crate::machine::Metal;
use crate::state;

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

/// The frame of guests' registers of this pcpu. While a vcpu runs it is reached through its context alone.
pub(super) fn frame() -> *mut UserRegs {
    let regs = core::ptr::from_ref(&cpu_info().regs).expose_provenance();
    core::ptr::with_exposed_provenance_mut(regs)
}

/// Runs `f` on the context of the vcpu that runs here; `None` where none does.
pub(super) fn with_cx<R>(f: impl FnOnce(&mut Cx<'static, Metal>) -> R) -> Option<R> {
    current()?;
    // SAFETY: it was made when the vcpu came (`replace`). Only this pcpu uses it, and never twice at a time: the callers
    // are the functions that the stubs and the exit loop call, which do not nest.
    Some(f(unsafe { (*cpu_info().cx.get()).assume_init_mut() }))
}

/// Puts another vcpu into the slot and hands the former one over. From here on SYSCALL is what it is for the new one.
pub(crate) fn replace(hv: &'static Hypervisor, next: Option<Current>) -> Option<Current> {
    let info = cpu_info();
    let mode = next.as_ref().map(|c| c.vcpu.entry.mode());
    // SAFETY: as in `current`; the exit loop, the only caller, holds no reference into the slot.
    let former = unsafe { core::mem::replace(&mut *slot().0.get(), next) };
    if let Some(c) = current() {
        // SAFETY: from now on the context is what reaches the frame, until the vcpu goes.
        let cx = Cx::new(hv, &state::MACHINE, &c.dom, &c.vcpu, unsafe { &mut *frame() });
        // SAFETY: this pcpu's, in no use now.
        unsafe { (*info.cx.get()).write(cx) };
        let entry = &c.vcpu.entry;
        info.entry.store(core::ptr::from_ref(entry).cast_mut(), Relaxed);
        info.traps.store(entry.traps.as_ptr().cast_mut(), Relaxed);
        info.mm.store(core::ptr::from_ref(&c.vcpu.mm).cast_mut(), Relaxed);
        info.assists.store(c.dom.assists_word().as_ptr(), Relaxed);
    }
    set_mode(mode);
    former
}

/// Notes which half of a guest runs here: SYSCALL is a hypercall from its kernel alone.
pub(crate) fn set_mode(mode: Option<GuestMode>) {
    let limit = if mode == Some(GuestMode::Kernel) { hypercall::NUMBERS } else { 0 };
    cpu_info().hypercall_limit.store(u64::try_from(limit).unwrap_or(0), Relaxed);
}
