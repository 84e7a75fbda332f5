//! `HYPERVISOR_iret`: the guest kernel's way back from a bounce.
//!
//! Purpose: leave a handler for what it interrupted, kernel or user, with the event mask that it asks for.
//! The frame lies on the guest kernel's stack: RAX, R11, RCX, flags, RIP, CS, RFLAGS, RSP, SS. CS with RPL 3 means user
//! mode. Selectors are forced to RPL 3, IF is set and IOPL cleared, so that no frame can do more than a guest may.

use core::sync::atomic::Ordering::Relaxed;

use pv_abi::trap::{IretFlags, IretFrame};
use pv_abi::vm_assist::VmAssist;

use super::{GuestMode, switch_mode};
use crate::cx::Cx;
use crate::error::{Exit, HypercallResult};
use crate::hypercall::guest_ptr::Checked;
use crate::port::Machine;
use crate::regs::{NOT_FOR_GUESTS, RFLAGS_FIXED, RFLAGS_IF, RFLAGS_IOPL, TRAP_SYSCALL};

/// The hypercall.
///
/// # Errors
/// The frame cannot be read, or user mode is asked for without user page tables: the domain crashes, as nothing is
/// left to go back to.
#[inline(always)]
pub fn iret<M: Machine>(cx: &mut Cx<'_, M>) -> HypercallResult {
    let at = Checked::new(cx.regs.sp()).ok_or(Exit::Crash("iret frame lies in the hypervisor's area"))?;
    let words: [u64; 9] = cx.m.read_words(at).map_err(|_| Exit::Crash("iret frame cannot be read"))?;
    let [rax, r11, rcx, flags, rip, cs, rflags, rsp, ss] = words;
    let frame = IretFrame { rax, r11, rcx, flags, rip, cs, rflags, rsp, ss };
    if frame.cs & 3 == 3 {
        switch_mode(cx.m, cx.vcpu, GuestMode::User).map_err(|e| Exit::Crash(e.0))?;
    }
    if cx.dom.has_assist(VmAssist::ArchitecturalIopl) {
        cx.vcpu.entry.iopl.store(frame.rflags & RFLAGS_IOPL, Relaxed);
    }
    cx.vcpu.entry.nmi_masked.store(false, Relaxed);
    let masked = frame.rflags & RFLAGS_IF == 0;
    cx.vcpu.events.store_upcall_mask(cx.m, masked);
    restore(cx.regs, &frame);
    Err(Exit::RegsReplaced)
}

#[inline(always)]
fn restore(regs: &mut crate::UserRegs, frame: &IretFrame) {
    regs.rax = frame.rax;
    regs.rip = frame.rip;
    regs.cs = (frame.cs | 3) & 0xffff;
    regs.rflags = (frame.rflags & 0xffff_ffff & !NOT_FOR_GUESTS) | RFLAGS_IF | RFLAGS_FIXED;
    regs.rsp = frame.rsp;
    regs.ss = (frame.ss | 3) & 0xffff;
    if IretFlags::from_bits_retain(frame.flags).contains(IretFlags::IN_SYSCALL) {
        // RCX and R11 are dead: they get what SYSRET leaves in them, however the guest is left.
        regs.entry_vector = TRAP_SYSCALL;
        regs.r11 = regs.rflags;
        regs.rcx = frame.rip;
    } else {
        regs.entry_vector = 0;
        regs.r11 = frame.r11;
        regs.rcx = frame.rcx;
    }
}
