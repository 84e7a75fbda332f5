//! The end: tell what happened, stop the other pcpus, then halt or restart as told.

use crate::arch::entry::trap;
use crate::arch::mm::layout;
use crate::arch::{backtrace, cpu::regs, irq, power, time};
use crate::log::print_line;
use crate::{console, percpu};
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicUsize, Ordering};
use hv_core::UserRegs;
use hv_core::cmdline::{Options, PanicAction};

/// Vector of the double fault.
const DOUBLE_FAULT: u32 = 8;

static IN_PROGRESS: AtomicBool = AtomicBool::new(false);
static PANICKING_CPU: AtomicUsize = AtomicUsize::new(0);
static DEPTH: AtomicU8 = AtomicU8::new(0);
/// Whether to restart after a panic, and after how many seconds.
static REBOOTS: AtomicBool = AtomicBool::new(true);
static REBOOT_AFTER_S: AtomicU32 = AtomicU32::new(5);

/// Applies the command line.
pub(crate) fn configure(options: &Options) {
    let (reboots, after) = match options.panic {
        PanicAction::Halt => (false, 0),
        PanicAction::Reboot { after_s } => (!options.noreboot, after_s),
    };
    REBOOTS.store(reboots, Ordering::Relaxed);
    REBOOT_AFTER_S.store(after, Ordering::Relaxed);
}

/// Whether some pcpu has panicked.
pub(crate) fn in_progress() -> bool {
    IN_PROGRESS.load(Ordering::Acquire)
}

/// What another pcpu does when it is told to stop.
pub(crate) fn stop_this_cpu() -> ! {
    regs::halt_forever()
}

/// Takes the floor: the first pcpu goes on, another one stops, one that panics while it tells of a panic gives up.
fn enter() {
    regs::interrupts_off();
    let cpu = percpu::this_cpu();
    if IN_PROGRESS.swap(true, Ordering::AcqRel) {
        if PANICKING_CPU.load(Ordering::Acquire) != cpu {
            stop_this_cpu();
        }
        if DEPTH.fetch_add(1, Ordering::Relaxed) > 0 {
            regs::halt_forever();
        }
        print_line!("hv: panic while telling of a panic");
        finish();
    }
    PANICKING_CPU.store(cpu, Ordering::Release);
    console::enter_panic();
    irq::ipi::stop_others();
}

/// A Rust panic.
#[cfg_attr(not(target_os = "none"), expect(dead_code, reason = "the host has its own handler"))]
pub(crate) fn rust_panic(info: &core::panic::PanicInfo<'_>) -> ! {
    enter();
    print_line!("\nhv: panic on pcpu {}: {}", percpu::this_cpu(), info.message());
    if let Some(place) = info.location() {
        print_line!("hv:   at {place}");
    }
    print_trace(backtrace::frame_pointer());
    finish()
}

/// An exception in the hypervisor that nothing repairs.
pub(crate) fn exception(frame: &UserRegs, cr2: u64) -> ! {
    enter();
    let name = trap::name(frame.entry_vector);
    print_line!("\nhv: panic on pcpu {}: {name}, error code {:#06x}", percpu::this_cpu(), frame.error_code);
    print_registers(frame, cr2);
    if frame.entry_vector == DOUBLE_FAULT && layout::is_stack_guard(cr2) {
        print_line!("hv:   the stack has overflowed");
    }
    if frame.cs & 3 == 0 {
        print_address(frame.rip);
        print_trace(frame.rbp);
    }
    finish()
}

/// Prints saved registers.
pub(crate) fn print_registers(f: &UserRegs, cr2: u64) {
    print_line!("hv:   rip {:04x}:{:016x} rflags {:08x}", f.cs, f.rip, f.rflags);
    print_line!("hv:   rsp {:04x}:{:016x} cr2 {:016x}", f.ss, f.rsp, cr2);
    print_line!("hv:   rax {:016x} rbx {:016x} rcx {:016x}", f.rax, f.rbx, f.rcx);
    print_line!("hv:   rdx {:016x} rsi {:016x} rdi {:016x}", f.rdx, f.rsi, f.rdi);
    print_line!("hv:   rbp {:016x} r8  {:016x} r9  {:016x}", f.rbp, f.r8, f.r9);
    print_line!("hv:   r10 {:016x} r11 {:016x} r12 {:016x}", f.r10, f.r11, f.r12);
    print_line!("hv:   r13 {:016x} r14 {:016x} r15 {:016x}", f.r13, f.r14, f.r15);
    let (cr0, cr3, cr4) = (regs::read_cr0(), regs::read_cr3(), regs::read_cr4());
    print_line!("hv:   cr0 {cr0:08x} cr3 {cr3:016x} cr4 {cr4:08x}");
    if f.cs & 3 == 0 {
        print_stack(f.rsp);
    }
}

fn print_stack(stack: u64) {
    use core::fmt::Write;
    let mut out = crate::log::Direct;
    // The console never fails.
    let _ = write!(out, "hv:   stack:");
    for (index, word) in backtrace::stack_words(stack, 16).enumerate() {
        let _ =
            write!(out, "{}{word:016x}", if index % 4 == 0 && index > 0 { "\nhv:         " } else { " " });
    }
    let _ = writeln!(out);
}

/// Prints a call chain.
pub(crate) fn print_trace(frame_pointer: u64) {
    print_line!("hv:   call trace:");
    for address in backtrace::return_addresses(frame_pointer) {
        // The call lies before the address to which it returns.
        print_address(address.wrapping_sub(1));
    }
}

fn print_address(address: u64) {
    match backtrace::symbol(address) {
        Some((name, offset)) => print_line!("hv:     {address:016x} {name}+{offset:#x}"),
        None => print_line!("hv:     {address:016x}"),
    }
}

/// Halts or restarts.
fn finish() -> ! {
    if !REBOOTS.load(Ordering::Relaxed) {
        print_line!("hv: halted");
        regs::halt_forever();
    }
    let after = REBOOT_AFTER_S.load(Ordering::Relaxed);
    print_line!("hv: restarting in {after} seconds");
    time::delay_us(u64::from(after) * 1_000_000);
    power::reboot()
}

#[cfg(target_os = "none")]
#[panic_handler]
fn on_panic(info: &core::panic::PanicInfo<'_>) -> ! {
    rust_panic(info)
}
