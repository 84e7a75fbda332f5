//! Exceptions while the hypervisor runs.
//!
//! At a few registered instructions a fault is expected, because the guest chose the operand: copies from and to
//! guests, loads of guest selectors, IRETQ to a guest, reads of MSRs. Anywhere else it is a defect: panic.
#![expect(unsafe_code, reason = "called by the stubs; reads debug and segment registers")]

use hv_core::UserRegs;
use hv_core::mm::fault::own_access_was_stale;
use hv_core::regs::{RFLAGS_TF, TRAP_SYSCALL};
use pv_abi::ids::GuestVa;

use super::cpu_info::{CpuInfo, cpu_info_address};
use super::current::{cpu_info, current};
use super::stubs;
use crate::arch::cpu::regs;
use crate::{console, panic, state};

/// First vector that is not the CPU's own.
pub(crate) const EXCEPTIONS: u32 = 32;
const NMI: u32 = 2;
const PAGE_FAULT: u32 = 14;

// SAFETY: the linker script defines both.
unsafe extern "C" {
    static __fixup_start: [u64; 2];
    static __fixup_end: [u64; 2];
}

/// Where to go on after a fault of the instruction at `rip`: the table has pairs (instruction, continuation).
fn fixup_of(rip: u64) -> Option<u64> {
    let (start, end) = (&raw const __fixup_start, &raw const __fixup_end);
    let count = (end.addr() - start.addr()) / size_of::<[u64; 2]>();
    // SAFETY: the linker script puts the whole table between the two symbols; it is never written.
    let table = unsafe { core::slice::from_raw_parts(start, count) };
    table.iter().find(|pair| pair[0] == rip).map(|pair| pair[1])
}

/// Names an exception for people.
pub(crate) fn name(vector: u32) -> &'static str {
    const NAMES: [&str; 22] = [
        "#DE divide error",
        "#DB debug",
        "NMI",
        "#BP breakpoint",
        "#OF overflow",
        "#BR bound",
        "#UD invalid opcode",
        "#NM no math unit",
        "#DF double fault",
        "coprocessor overrun",
        "#TS invalid TSS",
        "#NP segment not present",
        "#SS stack fault",
        "#GP general protection",
        "#PF page fault",
        "reserved",
        "#MF math fault",
        "#AC alignment",
        "#MC machine check",
        "#XM SIMD fault",
        "#VE virtualisation",
        "#CP control protection",
    ];
    usize::try_from(vector).ok().and_then(|v| NAMES.get(v)).copied().unwrap_or("exception")
}

/// An exception or interrupt while the hypervisor ran. Returns 0 to go on, or the `CpuInfo` from which to leave to the
/// guest.
#[unsafe(no_mangle)]
extern "C" fn hypervisor_trap(frame: &mut UserRegs) -> usize {
    let vector = frame.entry_vector;
    if vector >= EXCEPTIONS {
        crate::arch::irq::handle(vector);
        return 0;
    }
    if let Some(to) = fixup_of(frame.rip) {
        if vector != PAGE_FAULT || !was_stale(frame.error_code) {
            frame.rip = to;
        }
        return 0;
    }
    if stubs::is_guest_iretq(frame.rip) {
        return return_failed(frame);
    }
    panic::exception(frame, regs::read_cr2())
}

/// Whether a page fault of a registered access was due to a stale translation, which is gone then.
///
/// It asks the tables of the vcpu's mode. While others are loaded (a vcpu in user mode comes or goes, and its areas are
/// written), nobody is current, and must not be: a guest could have its one tree allow for ever what the other refuses.
fn was_stale(error_code: u32) -> bool {
    let va = GuestVa::new(regs::read_cr2());
    let stale = state::hypervisor()
        .zip(current())
        .is_some_and(|(hv, c)| own_access_was_stale(hv, &state::MACHINE, (&c.dom, &c.vcpu), va, error_code));
    if stale {
        regs::invlpg(va.raw());
    }
    stale
}

/// IRETQ to the guest faulted. Its frame is still in `CpuInfo.regs`; the general registers had been loaded and are in the
/// nested frame, which overlaps it, so they are copied by value first.
fn return_failed(nested: &UserRegs) -> usize {
    let general = *nested;
    let info = cpu_info_address(core::ptr::from_ref(cpu_info()).addr());
    let target: *mut UserRegs =
        core::ptr::with_exposed_provenance_mut(info + core::mem::offset_of!(CpuInfo, regs));
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
    super::guest::failed_return(super::context::data_selectors());
    info
}

/// NMI, double fault, machine check.
#[unsafe(no_mangle)]
extern "C" fn ist_trap(regs: &UserRegs) {
    if regs.entry_vector != NMI {
        panic::exception(regs, crate::arch::cpu::regs::read_cr2());
    }
    if panic::in_progress() {
        panic::stop_this_cpu();
    }
    // The console's lock may be held right here; a message is not worth a deadlock.
    console::try_write(b"hv: warning: unexpected NMI\n");
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
