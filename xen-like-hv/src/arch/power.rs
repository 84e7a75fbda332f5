//! Switching the machine off and restarting it.
#![expect(unsafe_code, reason = "device registers")]

use crate::arch::cpu::{port, regs};
use crate::arch::{acpi, time};
use hv_core::acpi::{Register, Space};

/// PM1 control: sleep type in bits 10 to 12, and the bit that makes it happen.
const SLEEP_ENABLE: u16 = 1 << 13;

/// Writes 16 bits to a PM1 control register. Those in memory are not supported: PCs have them in I/O space.
fn write_pm1(register: Option<Register>, sleep_type: u8) {
    if let Some(Register { space: Space::Io, at }) = register
        && let Ok(port) = u16::try_from(at)
    {
        // SAFETY: the firmware names this register for this purpose.
        unsafe { port::out16(port, u16::from(sleep_type & 7) << 10 | SLEEP_ENABLE) }
    }
}

/// Switches the machine off; halts where that does not work.
pub(crate) fn power_off() -> ! {
    regs::interrupts_off();
    let platform = acpi::platform();
    if let (Some(fadt), Some((a, b))) = (&platform.fadt, platform.s5) {
        write_pm1(fadt.pm1a_control, a);
        write_pm1(fadt.pm1b_control, b);
        time::delay_us(100_000);
    }
    for port in [0x604, 0xb004] {
        // SAFETY: where QEMU has its PM1 control registers (q35 and pc; older pc), sleep type 0. Elsewhere nothing
        // answers there, and the machine is done for anyway.
        unsafe { port::out16(port, SLEEP_ENABLE) }
    }
    time::delay_us(100_000);
    log::error!("the machine does not switch off: halted");
    regs::halt_forever()
}

/// Restarts the machine: the firmware's reset register, the chipset's, the keyboard controller's, a triple fault.
pub(crate) fn reboot() -> ! {
    regs::interrupts_off();
    if let Some(Some((Register { space: Space::Io, at }, value))) = acpi::platform().fadt.map(|f| f.reset)
        && let Ok(port) = u16::try_from(at)
    {
        // SAFETY: the firmware names this register for this purpose.
        unsafe { port::out8(port, value) }
        time::delay_us(100_000);
    }
    // SAFETY: the chipset's reset control (hard reset) and the keyboard controller's pulse on the reset line.
    unsafe {
        port::out8(0xcf9, 0x02);
        port::out8(0xcf9, 0x06);
        time::delay_us(50_000);
        port::out8(0x64, 0xfe);
        time::delay_us(50_000);
    }
    triple_fault()
}

/// An exception without a table of gates resets the CPU.
fn triple_fault() -> ! {
    let empty = [0u16; 5];
    // SAFETY: the machine is to restart; nothing runs on.
    unsafe { core::arch::asm!("lidt [{}]", "ud2", in(reg) &raw const empty, options(noreturn)) }
}
