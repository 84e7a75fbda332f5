//! I/O ports.
#![expect(unsafe_code, reason = "IN and OUT")]

use core::arch::asm;

/// A byte-wide I/O port of a device that this hypervisor drives itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Port8(u16);

impl Port8 {
    /// # Safety
    /// The port must belong to a device whose registers cannot harm memory: no DMA engine, no chipset remapping.
    pub(crate) const unsafe fn new(port: u16) -> Self {
        Port8(port)
    }

    /// Reads the port.
    pub(crate) fn read(self) -> u8 {
        // SAFETY: `new` promised a harmless device.
        unsafe { in8(self.0) }
    }

    /// Writes the port.
    pub(crate) fn write(self, value: u8) {
        // SAFETY: `new` promised a harmless device.
        unsafe { out8(self.0, value) }
    }
}

/// # Safety
/// Reading must not have side effects that break memory safety.
pub(crate) unsafe fn in8(port: u16) -> u8 {
    let value;
    // SAFETY: the caller vouches for the device; the instruction itself touches registers only.
    unsafe { asm!("in al, dx", in("dx") port, out("al") value, options(nomem, nostack, preserves_flags)) }
    value
}

/// # Safety
/// As [`in8`].
pub(crate) unsafe fn in16(port: u16) -> u16 {
    let value;
    // SAFETY: as in `in8`.
    unsafe { asm!("in ax, dx", in("dx") port, out("ax") value, options(nomem, nostack, preserves_flags)) }
    value
}

/// # Safety
/// As [`in8`].
pub(crate) unsafe fn in32(port: u16) -> u32 {
    let value;
    // SAFETY: as in `in8`.
    unsafe { asm!("in eax, dx", in("dx") port, out("eax") value, options(nomem, nostack, preserves_flags)) }
    value
}

/// # Safety
/// Writing must not make a device break memory safety.
pub(crate) unsafe fn out8(port: u16, value: u8) {
    // SAFETY: the caller vouches for the device; the instruction itself touches registers only.
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nomem, nostack, preserves_flags)) }
}

/// # Safety
/// As [`out8`].
pub(crate) unsafe fn out16(port: u16, value: u16) {
    // SAFETY: as in `out8`.
    unsafe { asm!("out dx, ax", in("dx") port, in("ax") value, options(nomem, nostack, preserves_flags)) }
}

/// # Safety
/// As [`out8`].
pub(crate) unsafe fn out32(port: u16, value: u32) {
    // SAFETY: as in `out8`.
    unsafe { asm!("out dx, eax", in("dx") port, in("eax") value, options(nomem, nostack, preserves_flags)) }
}
