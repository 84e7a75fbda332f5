//! Control registers, model-specific registers, the interrupt flag.
#![expect(unsafe_code, reason = "privileged instructions")]

use core::arch::asm;
use core::arch::x86_64::{__cpuid_count, _rdtsc, CpuidResult};

/// CPUID of a leaf and sub-leaf.
pub(crate) fn cpuid(leaf: u32, subleaf: u32) -> CpuidResult {
    __cpuid_count(leaf, subleaf)
}

/// The time stamp counter, not ordered with what is around it.
pub(crate) fn rdtsc() -> u64 {
    // SAFETY: reads a counter.
    unsafe { _rdtsc() }
}

/// The time stamp counter after everything before it has been done.
#[inline]
pub(crate) fn rdtsc_ordered() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: a fence and a counter. Memory counts as touched: what comes before stays before.
    unsafe { asm!("lfence", "rdtsc", out("eax") low, out("edx") high, options(nostack, preserves_flags)) }
    u64::from(high) << 32 | u64::from(low)
}

/// # Safety
/// The register must exist; reading must have no side effect that matters.
pub(crate) unsafe fn rdmsr(msr: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: the caller vouches for the register.
    unsafe {
        asm!("rdmsr", in("ecx") msr, out("eax") low, out("edx") high, options(nomem, nostack, preserves_flags));
    }
    u64::from(high) << 32 | u64::from(low)
}

/// # Safety
/// The register must exist, and the value must keep what the running code relies on.
pub(crate) unsafe fn wrmsr(msr: u32, value: u64) {
    let (low, high) = halves(value);
    // SAFETY: the caller vouches for register and value. Memory is clobbered: the value may change translations.
    unsafe { asm!("wrmsr", in("ecx") msr, in("eax") low, in("edx") high, options(nostack, preserves_flags)) }
}

/// `TSC_AUX`, read as any program may.
pub(crate) fn rdtscp_aux() -> u32 {
    let mut aux = 0;
    // SAFETY: the caller has found the instruction in CPUID; it reads a counter and this register.
    unsafe { core::arch::x86_64::__rdtscp(&raw mut aux) };
    aux
}

/// Low and high half.
#[expect(clippy::cast_possible_truncation, reason = "taking the halves is the purpose")]
pub(crate) const fn halves(value: u64) -> (u32, u32) {
    (value as u32, (value >> 32) as u32)
}

macro_rules! control_register {
    ($read:ident, $name:literal) => {
        /// Reads the register.
        pub(crate) fn $read() -> u64 {
            let value;
            // SAFETY: reading a control register at ring 0 changes nothing.
            unsafe { asm!(concat!("mov {}, ", $name), out(reg) value, options(nomem, nostack, preserves_flags)) }
            value
        }
    };
    ($read:ident, $write:ident, $name:literal) => {
        control_register!($read, $name);

        /// # Safety
        /// The value must keep everything the running code relies on, its own mapping foremost.
        pub(crate) unsafe fn $write(value: u64) {
            // SAFETY: the caller vouches for the value. Memory is clobbered: translations may change.
            unsafe { asm!(concat!("mov ", $name, ", {}"), in(reg) value, options(nostack, preserves_flags)) }
        }
    };
}

control_register!(read_cr0, write_cr0, "cr0");
control_register!(read_cr2, "cr2");
control_register!(read_cr3, write_cr3, "cr3");
control_register!(read_cr4, write_cr4, "cr4");

/// # Safety
/// CR4.OSXSAVE must be set and the value valid for this CPU.
pub(crate) unsafe fn xsetbv(value: u64) {
    let (low, high) = halves(value);
    // SAFETY: the caller vouches for the value.
    unsafe {
        asm!("xsetbv", in("ecx") 0, in("eax") low, in("edx") high, options(nomem, nostack, preserves_flags))
    }
}

/// # Safety
/// CR4.OSXSAVE must be set.
pub(crate) unsafe fn xgetbv() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: the caller vouches for OSXSAVE; reads register 0, which is there then.
    unsafe {
        asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high, options(nomem, nostack, preserves_flags));
    }
    u64::from(high) << 32 | u64::from(low)
}

/// Turns interrupts off.
pub(crate) fn interrupts_off() {
    // SAFETY: only delays interrupts.
    unsafe { asm!("cli", options(nostack, preserves_flags)) }
}

/// Lets pending interrupts in for a moment, then turns them off again.
///
/// The caller must hold no lock that an interrupt handler takes; handlers take that of the IO-APIC only.
pub(crate) fn interrupt_window() {
    // SAFETY: the handlers save everything they use; interrupts are off again afterwards. STI takes effect after
    // the next instruction, so something must stand between it and CLI.
    unsafe { asm!("sti", "nop", "nop", "cli", options(nostack)) }
}

/// Sleeps until an interrupt was handled.
pub(crate) fn wait_for_interrupt() {
    // SAFETY: as in `interrupt_window`; STI's shadow makes the pair atomic, so no wake-up is lost.
    unsafe { asm!("sti", "hlt", "cli", options(nostack)) }
}

/// Stops this CPU for ever.
pub(crate) fn halt_forever() -> ! {
    loop {
        // SAFETY: nothing runs on this CPU any more.
        unsafe { asm!("cli", "hlt", options(nomem, nostack)) }
    }
}

/// Forgets the translation of one page.
pub(crate) fn invlpg(address: u64) {
    // SAFETY: forgetting a translation is always sound.
    unsafe { asm!("invlpg [{}]", in(reg) address, options(nostack, preserves_flags)) }
}
