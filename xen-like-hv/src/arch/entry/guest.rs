//! Entries from guests: hypercalls, system calls, exceptions, interrupts.
//!
//! Each function is called by a stub with the guest's registers in `CpuInfo.regs`, to which [`Cx::regs`] points, and returns
//! to the exit path, which looks at pending work before it leaves.
#![expect(unsafe_code, reason = "called by the stubs")]

use core::sync::atomic::Ordering::Relaxed;

use hv_core::entry::trap::{self, Exception, SystemCall};
use hv_core::entry::{GuestBroken, GuestMode};
use hv_core::error::{Exit, Reply};
use hv_core::hypercall::multicall;
use hv_core::port::Cpu;
use hv_core::{Cx, hypercall};
use pv_abi::errno::Errno;
use pv_abi::hypercall::Hypercall;

use super::cpu_info::work;
use super::current::{cpu_info, with_cx};
use crate::machine::Metal;

/// Vector of the `int 0x80` gate.
const INT80: u32 = 0x80;
/// First vector of external interrupts.
const FIRST_INTERRUPT: u32 = 32;

/// A guest that cannot go on is crashed; its registers, all of them in the frame, are the record of why.
fn settle(cx: &mut Cx<'_, Metal>, result: Result<(), GuestBroken>) {
    if let Err(GuestBroken(why)) = result {
        hv_core::domain::lifecycle::crash(cx.hv, cx.m, cx.vcpu, cx.regs, why);
        cpu_info().work.fetch_or(work::RESCHED, Relaxed);
    }
}

/// The same where the frame may lack registers: 1 has the stub complete it and call [`guest_parked`].
fn park(cx: &mut Cx<'_, Metal>, result: Result<(), GuestBroken>) -> u32 {
    let Err(GuestBroken(why)) = result else { return 0 };
    cx.exit = Exit::Crash(why);
    1
}

/// The hypercalls, as the stub calls them.
#[unsafe(no_mangle)]
static HYPERCALLS: [hypercall::Handler<Metal>; hypercall::NUMBERS] = {
    let mut table = hypercall::Table::<Metal>::SINGLE;
    table[Hypercall::Multicall as usize] = super::stubs::multicall_in_words;
    table
};

/// The hypercalls, as the loop over a batch calls them.
#[unsafe(no_mangle)]
static BATCHED_HYPERCALLS: [hypercall::Handler<Metal>; hypercall::NUMBERS] =
    hypercall::Table::<Metal>::BATCHED;

/// Whether a batch has to make way.
#[unsafe(no_mangle)]
extern "C" fn multicall_preempt_pending() -> u32 {
    u32::from(crate::state::MACHINE.preempt_pending())
}

/// A batch that makes way.
#[unsafe(no_mangle)]
extern "C" fn multicall_preempted(at: u64, left: u64, cx: &mut Cx<'static, Metal>) -> Reply {
    multicall::preempted(at, left, cx)
}

/// An entry that did not simply return.
#[unsafe(no_mangle)]
extern "C" fn multicall_ends_early(at: u64, left: u64, cx: &mut Cx<'static, Metal>) -> Reply {
    multicall::ends_early(at, left, cx)
}

/// SYSCALL from 64-bit code that is no hypercall of the table: a system call of user mode, or a number that does not exist.
#[unsafe(no_mangle)]
extern "C" fn guest_syscall(cx: &mut Cx<'static, Metal>) -> u32 {
    if cx.vcpu.entry.mode() == GuestMode::Kernel {
        cx.regs.rax = Errno::NoSys.to_ret().cast_unsigned();
        return 0;
    }
    let result = trap::system_call(cx, SystemCall::Syscall64);
    park(cx, result)
}

/// What a call left in [`Cx::exit`]. The frame is complete.
#[unsafe(no_mangle)]
extern "C" fn guest_parked(cx: &mut Cx<'static, Metal>) {
    hypercall::finish(cx);
    if let Exit::Crash(_) = cx.exit {
        cpu_info().work.fetch_or(work::RESCHED, Relaxed);
    }
}

/// Delivers an upcall on the way out; the callee-saved registers are not in the frame.
#[unsafe(no_mangle)]
extern "C" fn guest_upcall(cx: &mut Cx<'static, Metal>) -> u32 {
    let result = hv_core::entry::exit::deliver_upcall(cx);
    park(cx, result)
}

/// A short way could not lay its frame on the kernel's stack: nobody is left to tell, so the domain ends.
#[unsafe(no_mangle)]
extern "C" fn guest_bounce_refused(cx: &mut Cx<'static, Metal>) {
    settle(cx, Err(GuestBroken("kernel stack does not take a frame")));
}

/// SYSCALL from compatibility mode.
#[unsafe(no_mangle)]
extern "C" fn guest_syscall_compat() {
    with_context(|cx| match cx.vcpu.entry.mode() {
        GuestMode::User => trap::system_call(cx, SystemCall::Syscall32),
        GuestMode::Kernel => {
            // There is no hypercall interface for 32-bit code.
            cx.regs.rip = cx.regs.rip.wrapping_sub(2);
            trap::inject(cx, trap::UD, 0)
        }
    });
}

/// SYSENTER.
#[unsafe(no_mangle)]
extern "C" fn guest_sysenter() {
    with_context(|cx| match cx.vcpu.entry.mode() {
        GuestMode::User => trap::system_call(cx, SystemCall::Sysenter),
        GuestMode::Kernel => trap::inject(cx, trap::GP, 0),
    });
}

fn with_context(f: impl FnOnce(&mut Cx<'static, Metal>) -> Result<(), GuestBroken>) {
    with_cx(|cx| {
        let result = f(cx);
        settle(cx, result);
    });
}

/// An exception, a software interrupt or an external interrupt while a guest ran. The frame is complete. Returns 0 where
/// the callee-saved registers are as they came, else they are to be taken from the frame.
#[unsafe(no_mangle)]
extern "C" fn guest_trap(cx: &mut Cx<'static, Metal>) -> u32 {
    let vector = cx.regs.entry_vector;
    // RCX and R11 are to be restored, so the way back is IRETQ.
    cx.regs.entry_vector = vector & 0xff;
    if vector >= FIRST_INTERRUPT && vector != INT80 {
        crate::arch::irq::handle(vector);
        return 0;
    }
    let number = u8::try_from(vector).unwrap_or(trap::GP);
    let result = if vector == INT80 {
        trap::int80(cx)
    } else {
        let error_code = cx.regs.error_code;
        trap::exception(cx, Exception { vector: number, error_code, detail: detail_of(vector) })
    };
    settle(cx, result);
    // Emulation writes registers.
    u32::from(EMULATED.contains(&number))
}

/// Vectors behind which an instruction may be emulated.
const EMULATED: [u8; 3] = [trap::UD, trap::GP, trap::PF];

/// CR2 of a page fault, DR6 of a debug exception.
fn detail_of(vector: u32) -> u64 {
    match vector {
        14 => x86_64::registers::control::Cr2::read_raw(),
        1 => super::trap::take_dr6(),
        _ => 0,
    }
}

/// The way back to the guest faulted: tells its failsafe callback.
pub(super) fn failed_return(selectors: [u16; 4]) {
    with_context(|cx| trap::failed_return(cx, selectors));
}

/// Delivers what waits for the vcpu that runs here.
pub(super) fn deliver_pending() {
    with_context(hv_core::entry::exit::deliver_pending);
}
