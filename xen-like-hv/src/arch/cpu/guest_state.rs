//! Registers of the CPU that belong to whichever guest runs.
#![expect(unsafe_code, reason = "control and debug registers")]

use super::features::{self, Features};
use super::{regs, setup};
use core::arch::asm;

const MSR_TSC_AUX: u32 = 0xc000_0103;
const CR0_TS: u64 = 1 << 3;

/// Bits of CR4 that a guest owns: TSD, DE, FSGSBASE, OSXSAVE.
const GUEST_CR4: u64 = 1 << 2 | 1 << 3 | 1 << 16 | 1 << 18;
const CR4_OSXSAVE: u64 = 1 << 18;

/// Whether extended state is switched by XSAVE.
pub(crate) fn has_xsave() -> bool {
    features::get().xsave
}

/// Whether loading x87 state leaves a trace of who used it before.
pub(crate) fn keeps_fpu_pointers() -> bool {
    features::get().keeps_fpu_pointers
}

/// Loads XCR0; a value the CPU does not have, or 0 for "never set", becomes all that is enabled. The register is only
/// written where it changes: below another hypervisor a write is an exit, a read is none.
pub(crate) fn load_xcr0(value: u64) {
    let Features { xsave, xcr0: all, .. } = features::get();
    if !xsave {
        return;
    }
    // x87 state is always on; a value outside of what is there would fault.
    let value = if value & 1 != 0 && value & !all == 0 { value } else { all };
    // SAFETY: OSXSAVE is set where the feature is there, and the value is a valid subset chosen by the core's policy.
    unsafe {
        if regs::xgetbv() != value {
            regs::xsetbv(value);
        }
    }
}

/// Loads `TSC_AUX`, which RDTSCP gives to whoever asks; written only where it changes.
pub(crate) fn load_tsc_aux(value: u32) {
    if features::get().rdtscp && regs::rdtscp_aux() != value {
        // SAFETY: the CPU has the register, and the hypervisor does not use it.
        unsafe { regs::wrmsr(MSR_TSC_AUX, u64::from(value)) }
    }
}

/// Sets or clears CR0.TS.
pub(crate) fn set_task_switched(on: bool) {
    let cr0 = regs::read_cr0();
    let wanted = if on { cr0 | CR0_TS } else { cr0 & !CR0_TS };
    if cr0 != wanted {
        // SAFETY: the hypervisor uses no FPU register but to save and restore, with TS clear.
        unsafe { regs::write_cr0(wanted) }
    }
}

/// Sets the bits of CR4 that a guest owns; OSXSAVE stays as the hypervisor needs it, what the CPU lacks stays clear.
pub(crate) fn set_guest_cr4(bits: u64) {
    let f = features::get();
    let base = setup::hypervisor_cr4(&f);
    let offered = if f.fsgsbase { GUEST_CR4 } else { GUEST_CR4 & !(1 << 16) };
    let wanted = base & !GUEST_CR4 | bits & offered & !CR4_OSXSAVE | base & CR4_OSXSAVE;
    if regs::read_cr4() != wanted {
        // SAFETY: the hypervisor's own bits are as always; those of the guest concern ring 3 only, and the hypervisor
        // itself uses neither RDFSBASE nor debug extensions.
        unsafe { regs::write_cr4(wanted) }
    }
}

/// Loads a debug register whose value the core has checked.
pub(crate) fn write_debug_register(index: u8, value: u64) {
    // SAFETY: breakpoints on addresses of guests only, as the core has checked; an unknown index does nothing.
    unsafe {
        match index {
            0 => asm!("mov dr0, {}", in(reg) value, options(nomem, nostack, preserves_flags)),
            1 => asm!("mov dr1, {}", in(reg) value, options(nomem, nostack, preserves_flags)),
            2 => asm!("mov dr2, {}", in(reg) value, options(nomem, nostack, preserves_flags)),
            3 => asm!("mov dr3, {}", in(reg) value, options(nomem, nostack, preserves_flags)),
            6 => asm!("mov dr6, {}", in(reg) value, options(nomem, nostack, preserves_flags)),
            7 => asm!("mov dr7, {}", in(reg) value, options(nomem, nostack, preserves_flags)),
            _ => {}
        }
    }
}
