//! Entries from guests: hypercalls, system calls, exceptions, interrupts.
//!
//! Each function is called by a stub with the guest's registers in `CpuInfo.regs` and returns to the exit path, which
//! looks at pending work before it leaves.
#![expect(unsafe_code, reason = "called by the stubs")]

use core::sync::atomic::Ordering::Relaxed;

use hv_core::entry::trap::{self, Exception, SystemCall};
use hv_core::entry::{GuestBroken, GuestMode};
use hv_core::{Cx, UserRegs};

use super::cpu_info::work;
use super::current::{Current, cpu_info, current};
use crate::machine::Metal;
use crate::state;

/// Vector of the `int 0x80` gate.
const INT80: u32 = 0x80;
/// First vector of external interrupts.
const FIRST_INTERRUPT: u32 = 32;

/// The context of an entry; `None` where no guest runs, which no stub for guests can meet.
fn context<'a>(regs: &'a mut UserRegs, current: &'a Current) -> Option<Cx<'a, Metal>> {
    Some(Cx { hv: state::hypervisor()?, m: &state::MACHINE, dom: &current.dom, vcpu: &current.vcpu, regs })
}

/// A guest that cannot go on is crashed; its registers are the record of why.
fn settle(cx: &mut Cx<'_, Metal>, result: Result<(), GuestBroken>) {
    if let Err(GuestBroken(why)) = result {
        hv_core::domain::lifecycle::crash(cx.hv, cx.m, cx.vcpu, cx.regs, why);
        cpu_info().work.fetch_or(work::RESCHED, Relaxed);
    }
}

/// SYSCALL from 64-bit code: a hypercall of the guest's kernel, or a system call of its user mode.
#[unsafe(no_mangle)]
extern "C" fn guest_syscall(regs: &mut UserRegs) {
    let Some(current) = current() else { return };
    let Some(mut cx) = context(regs, current) else { return };
    if cx.vcpu.entry.mode() == GuestMode::Kernel {
        hv_core::hypercall::dispatch(&mut cx);
    } else {
        let result = trap::system_call(&mut cx, SystemCall::Syscall64);
        settle(&mut cx, result);
    }
}

/// SYSCALL from compatibility mode.
#[unsafe(no_mangle)]
extern "C" fn guest_syscall_compat(regs: &mut UserRegs) {
    with_context(regs, |cx| match cx.vcpu.entry.mode() {
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
extern "C" fn guest_sysenter(regs: &mut UserRegs) {
    with_context(regs, |cx| match cx.vcpu.entry.mode() {
        GuestMode::User => trap::system_call(cx, SystemCall::Sysenter),
        GuestMode::Kernel => trap::inject(cx, trap::GP, 0),
    });
}

fn with_context(regs: &mut UserRegs, f: impl FnOnce(&mut Cx<'_, Metal>) -> Result<(), GuestBroken>) {
    let Some(current) = current() else { return };
    let Some(mut cx) = context(regs, current) else { return };
    let result = f(&mut cx);
    settle(&mut cx, result);
}

/// An exception, a software interrupt or an external interrupt while a guest ran.
#[unsafe(no_mangle)]
extern "C" fn guest_trap(regs: &mut UserRegs) {
    let vector = regs.entry_vector;
    // The frame is complete: RCX and R11 are to be restored, so the way back is IRETQ.
    regs.entry_vector = vector & 0xff;
    match vector {
        INT80 => with_context(regs, trap::int80),
        v if v >= FIRST_INTERRUPT => crate::arch::irq::handle(v),
        v => {
            let exception = Exception {
                vector: u8::try_from(v).unwrap_or(trap::GP),
                error_code: regs.error_code,
                detail: detail_of(v),
            };
            with_context(regs, |cx| trap::exception(cx, exception));
        }
    }
}

/// CR2 of a page fault, DR6 of a debug exception.
fn detail_of(vector: u32) -> u64 {
    match vector {
        14 => x86_64::registers::control::Cr2::read_raw(),
        1 => super::trap::take_dr6(),
        _ => 0,
    }
}

/// The way back to the guest faulted: tells its failsafe callback.
pub(super) fn failed_return(regs: &mut UserRegs, selectors: [u16; 4]) {
    with_context(regs, |cx| trap::failed_return(cx, selectors));
}

/// Delivers what waits for the vcpu that runs here.
pub(super) fn deliver_pending(regs: &mut UserRegs) {
    with_context(regs, hv_core::entry::exit::deliver_pending);
}
