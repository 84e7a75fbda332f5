//! Reading memory that may not be there.

use super::trap::{TrapFrame, vector};
use core::arch::global_asm;

global_asm!(
    r#"
    .pushsection .text, "ax", @progbits
    /* pv_probe_read(address: rdi, out: rsi) -> 1 if it could be read, 0 if the access faulted */
        .global pv_probe_read
    pv_probe_read:
        .global pv_probe_access
    pv_probe_access:
        mov rax, [rdi]
        mov [rsi], rax
        mov eax, 1
        ret
        .global pv_probe_failed
    pv_probe_failed:
        xor eax, eax
        ret
    .popsection
    "#
);

// SAFETY: assembly or the linker script defines these symbols, with these types.
unsafe extern "C" {
    fn pv_probe_read(address: u64, out: *mut u64) -> u64;
    static pv_probe_access: [u8; 0];
    static pv_probe_failed: [u8; 0];
}

/// Reads eight bytes at `address`, or nothing if that faults.
#[must_use]
pub fn read_u64(address: u64) -> Option<u64> {
    let mut value = 0;
    // SAFETY: a fault of the one access to `address` is caught by `fix_up`; `value` is a local.
    let found = unsafe { pv_probe_read(address, &raw mut value) };
    (found == 1).then_some(value)
}

/// Sends a faulting probe to its failure exit.
pub(super) fn fix_up(frame: &mut TrapFrame) -> bool {
    let is_fault = [vector::PAGE_FAULT, vector::GENERAL_PROTECTION].map(u64::from).contains(&frame.vector);
    // Only the addresses of the two symbols are used.
    let (access, failed) =
        ((&raw const pv_probe_access).addr() as u64, (&raw const pv_probe_failed).addr() as u64);
    let ours = is_fault && frame.rip == access;
    if ours {
        frame.rip = failed;
    }
    ours
}

/// The frame pointer of the caller.
#[inline(always)]
#[must_use]
pub fn frame_pointer() -> u64 {
    let value: u64;
    // SAFETY: copies a register.
    unsafe { core::arch::asm!("mov {}, rbp", out(reg) value, options(nomem, nostack, preserves_flags)) }
    value
}
