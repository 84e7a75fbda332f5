//! Exceptions while the hypervisor runs.
//!
//! At a few registered instructions a fault is expected, because the guest chose the operand: copies from and to
//! guests, loads of guest selectors, IRETQ to a guest, reads of MSRs. Anywhere else it is a defect: panic.
#![expect(unsafe_code, reason = "called by the stubs; reads debug and segment registers")]

use hv_core::UserRegs;
use hv_core::regs::{RFLAGS_TF, TRAP_SYSCALL};

use super::cpu_info::cpu_info_address;
use super::current::cpu_info;
use super::stubs;

/// Vectors whose cause may be an operand of a guest: #NP, #SS, #GP, #PF.
const EXPECTED: [u32; 4] = [11, 12, 13, 14];

fn address(symbol: *const u8) -> u64 {
    u64::try_from(symbol.expose_provenance()).unwrap_or(0)
}

/// Instructions that may fault and where to go on then.
fn fixup(rip: u64) -> Option<u64> {
    let table = [
        (&raw const stubs::guest_copy_words, &raw const stubs::guest_copy_fault_words),
        (&raw const stubs::guest_copy_bytes, &raw const stubs::guest_copy_fault_bytes),
        (&raw const stubs::load_user_gs_at, &raw const stubs::load_user_gs_fault),
        (&raw const stubs::load_ds_at, &raw const stubs::load_data_segment_fault),
        (&raw const stubs::load_es_at, &raw const stubs::load_data_segment_fault),
        (&raw const stubs::load_fs_at, &raw const stubs::load_data_segment_fault),
        (&raw const stubs::read_msr_at, &raw const stubs::msr_fault),
    ];
    table.iter().find(|(at, _)| address(*at) == rip).map(|(_, to)| address(*to))
}

/// An exception or interrupt while the hypervisor ran. Returns 0 to go on, or the `CpuInfo` from which to leave to the
/// guest.
#[unsafe(no_mangle)]
extern "C" fn hypervisor_trap(regs: &mut UserRegs) -> usize {
    let vector = regs.entry_vector;
    if vector >= 32 {
        crate::arch::irq::handle(vector);
        return 0;
    }
    if EXPECTED.contains(&vector) {
        if let Some(to) = fixup(regs.rip) {
            regs.rip = to;
            return 0;
        }
        if regs.rip == address(&raw const stubs::guest_iretq) {
            return return_failed(regs);
        }
    }
    crate::panic::fatal_trap(regs)
}

/// IRETQ to the guest faulted. Its frame is still in `CpuInfo.regs`; the general registers had been loaded and are in the
/// nested frame, which overlaps it, so they are copied by value first.
fn return_failed(nested: &UserRegs) -> usize {
    let general = *nested;
    let info = cpu_info_address(core::ptr::from_ref(cpu_info()).addr());
    let target: *mut UserRegs =
        core::ptr::with_exposed_provenance_mut(info + core::mem::offset_of!(super::cpu_info::CpuInfo, regs));
    // SAFETY: the record at the top of this pcpu's stack; nothing else refers to its `regs` now, as the entry that filled it
    // has ended.
    let regs = unsafe { &mut *target };
    *regs = UserRegs {
        rip: regs.rip,
        cs: regs.cs,
        rflags: regs.rflags,
        rsp: regs.rsp,
        ss: regs.ss,
        error_code: 0,
        entry_vector: TRAP_SYSCALL,
        ..general
    };
    super::guest::failed_return(regs, super::context::data_selectors());
    info
}

/// NMI, double fault, machine check.
#[unsafe(no_mangle)]
extern "C" fn ist_trap(regs: &mut UserRegs) {
    match regs.entry_vector {
        2 => crate::arch::irq::nmi(regs),
        _ => crate::panic::fatal_trap(regs),
    }
}

/// #DB while the hypervisor runs: a guest's watchpoint on memory that the hypervisor reads for it, or its single step
/// over SYSENTER or SYSCALL. Neither is the hypervisor's business.
#[unsafe(no_mangle)]
extern "C" fn hypervisor_debug(regs: &mut UserRegs) {
    let _ = take_dr6();
    regs.rflags &= !RFLAGS_TF;
}

/// Reads DR6 and resets it, as the CPU does not.
pub(super) fn take_dr6() -> u64 {
    let value: u64;
    // SAFETY: DR6 holds status bits only.
    unsafe {
        core::arch::asm!("mov {}, dr6", out(reg) value, options(nomem, nostack, preserves_flags));
        core::arch::asm!("mov dr6, {}", in(reg) 0xffff_0ff0_u64, options(nomem, nostack, preserves_flags));
    }
    value
}
