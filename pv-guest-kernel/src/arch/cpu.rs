//! Single instructions: time stamp counter, port I/O, CPUID.
//!
//! Port I/O from a guest kernel faults and the hypervisor carries it out, if the domain may use that port.

use core::arch::asm;

/// The time stamp counter, not before earlier loads are done.
#[must_use]
pub fn rdtsc_ordered() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: reads a counter.
    unsafe { asm!("lfence", "rdtsc", out("eax") low, out("edx") high, options(nomem, nostack)) }
    (u64::from(high) << 32) | u64::from(low)
}

macro_rules! port_io {
    ($read:ident, $write:ident, $type:ty, $reg:tt) => {
        /// Reads the I/O port. A port that the domain may not use raises #GP.
        #[must_use]
        pub fn $read(port: u16) -> $type {
            let value: $type;
            // SAFETY: an access to a device register; memory is reached only by DMA that a driver set up.
            unsafe { asm!(concat!("in ", $reg, ", dx"), out($reg) value, in("dx") port, options(nostack)) }
            value
        }

        /// Writes the I/O port. A port that the domain may not use raises #GP.
        pub fn $write(port: u16, value: $type) {
            // SAFETY: as for reading.
            unsafe { asm!(concat!("out dx, ", $reg), in($reg) value, in("dx") port, options(nostack)) }
        }
    };
}

port_io!(in_u8, out_u8, u8, "al");
port_io!(in_u16, out_u16, u16, "ax");
port_io!(in_u32, out_u32, u32, "eax");

/// Result of CPUID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "registers are their own description")]
pub struct Cpuid {
    pub eax: u32,
    pub ebx: u32,
    pub ecx: u32,
    pub edx: u32,
}

/// CPUID as the hypervisor shows it to its guests: the instruction with the forced-emulation prefix, which the
/// hypervisor recognises in the #UD it causes.
#[must_use]
pub fn cpuid_forced(leaf: u32, subleaf: u32) -> Cpuid {
    let (eax, ebx, ecx, edx): (u32, u64, u32, u32);
    // SAFETY: `ud2` followed by "xen" is a request to the hypervisor, which skips it together with the CPUID.
    unsafe {
        asm!(
            "mov {ebx}, rbx",
            "ud2",
            ".ascii \"xen\"",
            "cpuid",
            "xchg {ebx}, rbx",
            ebx = out(reg) ebx,
            inlateout("eax") leaf => eax,
            inlateout("ecx") subleaf => ecx,
            out("edx") edx,
            options(nomem, nostack)
        );
    }
    Cpuid { eax, ebx: (ebx & 0xffff_ffff) as u32, ecx, edx }
}
