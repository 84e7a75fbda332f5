//! Instructions of a kernel that the hypervisor carries out for it.

#![expect(unsafe_code, reason = "privileged instructions")]

use core::arch::asm;
use pv_guest_kernel::arch::cpu;
use test_guests::Claim;
use test_guests::meter::Meter;

/// A port without a device, for the pause that old hardware needs.
const PORT: u16 = 0x80;
const MSR_EFER: u32 = 0xc000_0080;
const MSR_FS_BASE: u32 = 0xc000_0100;

pub(crate) fn measure(meter: &Meter) -> Claim {
    meter.row("rdmsr", 1, || {
        // SAFETY: reads a register.
        unsafe { asm!("rdmsr", in("ecx") MSR_EFER, out("eax") _, out("edx") _, options(nostack)) };
        Ok(())
    })?;
    meter.row("wrmsr", 1, || {
        // SAFETY: nothing here uses the FS segment.
        unsafe { asm!("wrmsr", in("ecx") MSR_FS_BASE, in("eax") 0x1000, in("edx") 0, options(nostack)) };
        Ok(())
    })?;
    meter.row("cpuid", 1, || {
        let _ = core::hint::black_box(cpu::cpuid_forced(0, 0));
        Ok(())
    })?;
    if pv_guest_kernel::Context::get().is_some_and(pv_guest_kernel::Context::is_dom0) {
        ports(meter)?;
    }
    meter.row("read_cr0", 1, || {
        // SAFETY: reads a register.
        unsafe { asm!("mov {}, cr0", out(reg) _, options(nostack)) };
        Ok(())
    })?;
    meter.row("clts", 1, || {
        // SAFETY: nothing here uses the FPU.
        unsafe { asm!("clts", options(nostack)) };
        Ok(())
    })
}

fn ports(meter: &Meter) -> Claim {
    meter.row("in", 1, || {
        let _ = cpu::in_u8(PORT);
        Ok(())
    })?;
    meter.row("out", 1, || {
        cpu::out_u8(PORT, 0);
        Ok(())
    })
}
