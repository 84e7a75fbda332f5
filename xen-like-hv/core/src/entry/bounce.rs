//! Bounce frames: how an event, an exception or a system call reaches the guest's kernel.
//!
//! The frame, from the new stack pointer upwards (public ABI, 64-bit guests): RCX, R11, for the failsafe callback DS
//! ES FS GS, the error code where the vector has one, RIP, CS with the old event mask in bits 32–39, RFLAGS, RSP, SS.
//! RCX and R11 are in the frame because the way into the guest may destroy them (SYSRET).

use core::sync::atomic::Ordering::Relaxed;

use pv_abi::ids::GuestVa;
use pv_abi::vm_assist::VmAssist;

use super::{EventMasking, GuestBroken, GuestMode, switch_mode};
use crate::cx::Cx;
use crate::hypercall::guest_ptr::Checked;
use crate::port::Machine;
use crate::regs::{
    GUEST_CS64, GUEST_SS, NOT_FOR_HANDLERS, RFLAGS_FIXED, RFLAGS_IF, RFLAGS_IOPL, TRAP_SYSCALL,
};

/// What lies between R11 and RIP in a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extra {
    /// Nothing.
    None,
    /// An error code.
    ErrorCode(u32),
    /// The data selectors, for the failsafe callback: DS, ES, FS, GS.
    Selectors([u16; 4]),
}

/// Enters the guest's kernel at `handler`, from whatever it was doing.
///
/// # Errors
/// The kernel's stack does not take the frame: nobody is left to tell, so the domain is to be crashed (as Xen does).
#[inline(never)]
pub fn bounce<M: Machine>(
    cx: &mut Cx<'_, M>,
    handler: u64,
    masking: EventMasking,
    extra: Extra,
) -> Result<(), GuestBroken> {
    bounce_inline(cx, handler, masking, extra)
}

/// [`bounce`] for hot paths, which know what they push.
#[inline(always)]
pub(super) fn bounce_inline<M: Machine>(
    cx: &mut Cx<'_, M>,
    handler: u64,
    masking: EventMasking,
    extra: Extra,
) -> Result<(), GuestBroken> {
    let entry = &cx.vcpu.entry;
    let from = entry.mode();
    let (sp, cs, frame_ss) = match from {
        GuestMode::Kernel => (cx.regs.rsp, cx.regs.cs & 0xfffc, cx.regs.ss),
        GuestMode::User => (entry.kernel_sp.load(Relaxed), cx.regs.cs & 0xffff, cx.regs.ss),
    };
    let was_masked = match masking {
        EventMasking::Mask => cx.vcpu.events.mask_upcalls(cx.m),
        EventMasking::Keep => cx.vcpu.events.upcall_masked(cx.m),
    };
    if from == GuestMode::User {
        switch_mode(cx.m, cx.vcpu, GuestMode::Kernel)?;
    }
    let [rip, cs, flags, rsp, ss] = interrupted(cx, cs, frame_ss, was_masked);
    let (rcx, r11) = (cx.regs.rcx, cx.regs.r11);
    let new_sp = match extra {
        Extra::None => push(cx.m, sp, &[rcx, r11, rip, cs, flags, rsp, ss])?,
        Extra::ErrorCode(code) => push(cx.m, sp, &[rcx, r11, u64::from(code), rip, cs, flags, rsp, ss])?,
        Extra::Selectors(s) => {
            let [ds, es, fs, gs] = s.map(u64::from);
            push(cx.m, sp, &[rcx, r11, ds, es, fs, gs, rip, cs, flags, rsp, ss])?
        }
    };
    let regs = &mut *cx.regs;
    regs.rip = handler;
    regs.rsp = new_sp;
    regs.cs = GUEST_CS64;
    regs.ss = GUEST_SS;
    regs.rflags &= !NOT_FOR_HANDLERS;
    regs.rflags |= RFLAGS_IF | RFLAGS_FIXED;
    regs.entry_vector = TRAP_SYSCALL;
    Ok(())
}

/// Writes a frame below `sp`, aligned down to 16 bytes; returns where it begins.
#[inline(always)]
fn push<M: Machine, const N: usize>(m: &M, sp: u64, words: &[u64; N]) -> Result<u64, GuestBroken> {
    let new_sp = GuestVa::new((sp & !0xf).wrapping_sub((N * 8) as u64));
    let at = Checked::new(new_sp).ok_or(GuestBroken("kernel stack lies in the hypervisor's area"))?;
    m.write_words(at, words).map_err(|_| GuestBroken("kernel stack does not take a frame"))?;
    Ok(new_sp.raw())
}

/// The interrupted state: RIP, CS with the old event mask, RFLAGS, RSP, SS. RFLAGS.IF shows the event mask, IOPL the
/// virtual one.
#[inline(always)]
fn interrupted<M: Machine>(cx: &Cx<'_, M>, cs: u64, ss: u64, was_masked: bool) -> [u64; 5] {
    let regs = &*cx.regs;
    let mut flags = regs.rflags & !(RFLAGS_IF | RFLAGS_IOPL);
    if !was_masked {
        flags |= RFLAGS_IF;
    }
    if cx.dom.has_assist(VmAssist::ArchitecturalIopl) {
        flags |= cx.vcpu.entry.iopl.load(Relaxed);
    }
    [regs.rip, cs | u64::from(was_masked) << 32, flags, regs.rsp, ss & 0xffff]
}
