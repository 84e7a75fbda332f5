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
use crate::hypercall::guest_ptr::access_ok;
use crate::port::Machine;
use crate::regs::{
    GUEST_CS64, GUEST_SS, RFLAGS_AC, RFLAGS_FIXED, RFLAGS_IF, RFLAGS_NT, RFLAGS_RF, RFLAGS_TF, RFLAGS_VM,
    TRAP_SYSCALL,
};

/// Words in the longest frame.
const MAX_WORDS: usize = 12;

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

/// A frame under construction: filled from its lowest word.
struct Frame {
    words: [u64; MAX_WORDS],
    len: usize,
}

impl Frame {
    const fn new() -> Self {
        Self { words: [0; MAX_WORDS], len: 0 }
    }

    fn push(&mut self, word: u64) {
        if let Some(slot) = self.words.get_mut(self.len) {
            *slot = word;
            self.len += 1;
        }
    }

    fn bytes(&self) -> &[u8] {
        zerocopy::IntoBytes::as_bytes(self.words.get(..self.len).unwrap_or(&[]))
    }
}

/// Enters the guest's kernel at `handler`, from whatever it was doing.
///
/// # Errors
/// The kernel's stack does not take the frame: nobody is left to tell, so the domain is to be crashed (as Xen does).
pub fn bounce<M: Machine>(
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
    let was_masked = cx.vcpu.events.upcall_masked(cx.m);
    let frame = build(cx, cs, frame_ss, was_masked, extra);
    let len = u64::try_from(frame.bytes().len()).unwrap_or(0);
    let new_sp = GuestVa::new((sp & !0xf).wrapping_sub(len));
    if !access_ok(new_sp, len) {
        return Err(GuestBroken("kernel stack lies in the hypervisor's area"));
    }
    if from == GuestMode::User {
        switch_mode(cx.m, cx.vcpu, GuestMode::Kernel)?;
    }
    cx.m.copy_to_guest(new_sp, frame.bytes())
        .map_err(|_| GuestBroken("kernel stack does not take a frame"))?;
    if masking == EventMasking::Mask {
        cx.vcpu.events.set_upcall_mask(cx.m);
    }
    let regs = &mut *cx.regs;
    regs.rip = handler;
    regs.rsp = new_sp.raw();
    regs.cs = GUEST_CS64;
    regs.ss = GUEST_SS;
    regs.rflags &= !(RFLAGS_TF | RFLAGS_VM | RFLAGS_RF | RFLAGS_NT | RFLAGS_AC);
    regs.rflags |= RFLAGS_IF | RFLAGS_FIXED;
    regs.entry_vector = TRAP_SYSCALL;
    Ok(())
}

/// The frame of the interrupted state. RFLAGS.IF shows the event mask, IOPL the virtual one.
fn build<M: Machine>(cx: &Cx<'_, M>, cs: u64, ss: u64, was_masked: bool, extra: Extra) -> Frame {
    let regs = &*cx.regs;
    let mut flags = regs.rflags & !(RFLAGS_IF | crate::regs::RFLAGS_IOPL);
    if !was_masked {
        flags |= RFLAGS_IF;
    }
    if cx.dom.has_assist(VmAssist::ArchitecturalIopl) {
        flags |= cx.vcpu.entry.iopl.load(Relaxed);
    }
    let mut f = Frame::new();
    f.push(regs.rcx);
    f.push(regs.r11);
    match extra {
        Extra::None => {}
        Extra::ErrorCode(code) => f.push(u64::from(code)),
        Extra::Selectors(selectors) => selectors.iter().for_each(|s| f.push(u64::from(*s))),
    }
    f.push(regs.rip);
    f.push(cs | u64::from(was_masked) << 32);
    f.push(flags);
    f.push(regs.rsp);
    f.push(ss & 0xffff);
    f
}
