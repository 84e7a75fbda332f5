//! The `syscall` instruction. Everything the kernel asks of the hypervisor goes through [`call`].

#![expect(unsafe_code, reason = "the one place that issues the syscall instruction")]

use core::arch::asm;

/// Hypercall `number` with up to five arguments; unused ones are 0. Returns RAX.
///
/// The hypervisor may clobber the argument registers, and the instruction itself clobbers rcx and r11.
///
/// # Safety
/// The call must not make the hypervisor write memory that Rust owns, other than what the caller has set aside for it,
/// nor take away memory that is in use.
#[inline]
pub unsafe fn call(number: u64, args: [u64; 5]) -> i64 {
    let result: i64;
    // SAFETY: the caller answers for the effects; all registers that may change are declared.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number => result,
            inlateout("rdi") args[0] => _,
            inlateout("rsi") args[1] => _,
            inlateout("rdx") args[2] => _,
            inlateout("r10") args[3] => _,
            inlateout("r8") args[4] => _,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack)
        );
    }
    result
}

/// A hypercall without effect (`xen_version` 0): on its way out the hypervisor delivers what is pending.
#[inline]
pub fn nothing() {
    // SAFETY: takes no memory and changes nothing.
    unsafe { call(17, [0; 5]) };
}
