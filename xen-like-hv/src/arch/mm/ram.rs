//! Moving whole words of RAM: without the calls, and the looks at alignment and overlap, of the general functions.
#![expect(unsafe_code, reason = "string instructions")]

use core::arch::asm;

/// Copies `len` bytes upwards, eight at a time.
///
/// # Safety
/// Both ranges are RAM that is mapped, `to` for the hypervisor to write and nobody's as a Rust value; they are the same or lie
/// apart.
#[inline(always)]
pub(crate) unsafe fn copy_apart(from: *const u8, to: *mut u8, len: usize) {
    // SAFETY: the caller's promise; the direction flag is clear in all of the hypervisor.
    unsafe {
        asm!(
            "rep movsq",
            inout("rcx") len / 8 => _,
            inout("rsi") from => _,
            inout("rdi") to => _,
            options(nostack, preserves_flags)
        );
    }
    let rest = len % 8;
    if rest != 0 {
        let done = len - rest;
        // SAFETY: as above: what is left of the same ranges.
        unsafe {
            asm!(
                "rep movsb",
                inout("rcx") rest => _,
                inout("rsi") from.wrapping_add(done) => _,
                inout("rdi") to.wrapping_add(done) => _,
                options(nostack, preserves_flags)
            );
        }
    }
}

/// Makes a page all zeroes. A function of its own, so that who traces the hypervisor can leave out the work of a boot.
///
/// # Safety
/// The page is RAM that is mapped for the hypervisor to write, and nobody's as a Rust value.
#[inline(never)]
pub(crate) unsafe fn zero_page(page: *mut u8) {
    // SAFETY: the caller's promise; the direction flag is clear in all of the hypervisor.
    unsafe {
        asm!(
            "rep stosq",
            inout("rcx") 512_usize => _,
            inout("rdi") page => _,
            in("rax") 0_u64,
            options(nostack, preserves_flags)
        );
    }
}
