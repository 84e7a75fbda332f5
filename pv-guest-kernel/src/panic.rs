//! The end: what the kernel prints when it cannot go on.

use core::sync::atomic::{AtomicU32, Ordering};

use crate::arch::trap::TrapFrame;
use crate::sched::ShutdownReason;
use crate::{arch, println};

/// How many panics are under way: the second prints less, the third nothing.
static DEPTH: AtomicU32 = AtomicU32::new(0);

/// Most frames of a backtrace.
const MOST_FRAMES: usize = 32;

#[cfg(target_os = "none")]
#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    crate::event::mask();
    let depth = DEPTH.fetch_add(1, Ordering::Relaxed);
    crate::console::enter_panic();
    if depth < 2 {
        println!("panic on v{}: {info}", arch::percpu::vcpu_id());
    }
    if depth == 0 {
        backtrace(arch::probe::frame_pointer());
    }
    crate::console::flush();
    crate::sched::shutdown(ShutdownReason::Crash)
}

/// An exception that nobody handles: prints the registers and ends the domain.
pub(crate) fn unhandled(frame: &TrapFrame) -> ! {
    crate::event::mask();
    if DEPTH.fetch_add(1, Ordering::Relaxed) == 0 {
        crate::console::enter_panic();
        report(frame);
        backtrace(frame.rbp);
    }
    crate::console::flush();
    crate::sched::shutdown(ShutdownReason::Crash)
}

fn report(frame: &TrapFrame) {
    println!(
        "unhandled trap {} on v{}, error {:#x}, address {:#x}, {} mode",
        frame.vector,
        arch::percpu::vcpu_id(),
        frame.error,
        arch::trap::fault_address(),
        if frame.from_user() { "user" } else { "kernel" },
    );
    println!(
        "rip {:016x} cs {:04x} rflags {:08x} rsp {:016x} ss {:04x}",
        frame.rip,
        frame.cs & 0xffff,
        frame.rflags,
        frame.rsp,
        frame.ss & 0xffff
    );
    println!("rax {:016x} rbx {:016x} rcx {:016x} rdx {:016x}", frame.rax, frame.rbx, frame.rcx, frame.rdx);
    println!("rsi {:016x} rdi {:016x} rbp {:016x} r8  {:016x}", frame.rsi, frame.rdi, frame.rbp, frame.r8);
    println!("r9  {:016x} r10 {:016x} r11 {:016x} r12 {:016x}", frame.r9, frame.r10, frame.r11, frame.r12);
    println!("r13 {:016x} r14 {:016x} r15 {:016x}", frame.r13, frame.r14, frame.r15);
}

/// Prints the return addresses found along the frame pointers. They are addresses of the ELF file, so
/// `addr2line -e <kernel>` names them.
fn backtrace(mut frame_pointer: u64) {
    println!("backtrace:");
    for _ in 0..MOST_FRAMES {
        let Some(return_address) = frame_pointer.checked_add(8).and_then(arch::probe::read_u64) else {
            break;
        };
        let Some(next) = arch::probe::read_u64(frame_pointer) else { break };
        if return_address == 0 {
            break;
        }
        println!("  {return_address:016x}");
        // Stacks grow down: a caller's frame lies higher. Anything else is not a chain.
        if next <= frame_pointer {
            break;
        }
        frame_pointer = next;
    }
}
