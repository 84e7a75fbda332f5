//! Hypercalls: dispatch, guest pointers, continuations, one file per family.
//!
//! The number is in RAX, the arguments in RDI RSI RDX R10 R8 R9. A call that was preempted leaves its progress in those
//! registers and RIP on the SYSCALL instruction, so that the guest issues it again; no state of it is kept here.
//! Calls from guest user mode never arrive: the entry bounces them to the guest's kernel.

pub mod guest_ptr;
pub mod multicall;

pub use guest_ptr::GuestPtr;

use pv_abi::errno::Errno;
use pv_abi::hypercall::Hypercall;

use crate::cx::Cx;
use crate::domain::lifecycle;
use crate::entry;
use crate::error::{Args, Exit, HypercallResult};
use crate::port::Machine;

/// Bytes of the SYSCALL instruction.
const SYSCALL_LEN: u64 = 2;

/// Carries out the hypercall that the guest's registers describe, and puts its result there.
pub fn dispatch<M: Machine>(cx: &mut Cx<'_, M>) {
    let args = Args([cx.regs.rdi, cx.regs.rsi, cx.regs.rdx, cx.regs.r10, cx.regs.r8, cx.regs.r9]);
    match call(cx, cx.regs.rax, &args) {
        Ok(value) => cx.regs.rax = value,
        Err(exit) => finish(cx, exit),
    }
}

#[cold]
fn finish<M: Machine>(cx: &mut Cx<'_, M>, exit: Exit) {
    match exit {
        Exit::Err(e) => cx.regs.rax = e.to_ret().cast_unsigned(),
        Exit::Restart(Args([rdi, rsi, rdx, r10, r8, r9])) => {
            let r = &mut *cx.regs;
            (r.rdi, r.rsi, r.rdx, r.r10, r.r8, r.r9) = (rdi, rsi, rdx, r10, r8, r9);
            r.rip = r.rip.wrapping_sub(SYSCALL_LEN);
        }
        Exit::Crash(why) => lifecycle::crash(cx.hv, cx.m, cx.vcpu, cx.regs, why),
        Exit::RegsReplaced => {}
    }
}

/// A call from the guest itself: everything but the batch is an entry of [`one`].
#[inline]
fn call<M: Machine>(cx: &mut Cx<'_, M>, number: u64, args: &Args) -> HypercallResult {
    match Hypercall::from_raw(number) {
        Some(Hypercall::Multicall) => multicall::multicall(cx, args),
        Some(other) => one(cx, other, args),
        None => Err(Exit::Err(Errno::NoSys)),
    }
}

/// One call, alone or as an entry of a batch.
#[inline]
fn one<M: Machine>(cx: &mut Cx<'_, M>, number: Hypercall, args: &Args) -> HypercallResult {
    match number {
        Hypercall::Iret => entry::iret::iret(cx),
        // A batch inside a batch is refused: its progress would have nowhere to be kept.
        Hypercall::Multicall => Err(Exit::Err(Errno::Inval)),
        _ => {
            let _ = args;
            Err(Exit::Err(Errno::NoSys))
        }
    }
}
