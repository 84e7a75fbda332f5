//! Exceptions and system calls that arrive from a guest: who gets them, in which form.
//!
//! The image calls [`exception`] with what the hardware delivered. Each vector is either dealt with here (privileged
//! instructions, page faults that the hypervisor repairs) or handed to the guest's kernel through its trap table. A
//! guest that has no handler for its own kernel's fault cannot go on and is crashed.

use core::sync::atomic::Ordering::Relaxed;

use pv_abi::ids::GuestVa;

use super::bounce::{Extra, bounce, bounce_inline};
use super::{GuestBroken, GuestMode};
use crate::cx::Cx;
use crate::emulate::{self, Emulation};
use crate::hypercall::guest_ptr::access_ok;
use crate::mm::fault::{self, FaultOutcome};
use crate::port::{Machine, TaskSwitched};
use crate::regs::{RFLAGS_RF, RFLAGS_TF};

/// Divide error.
pub const DE: u8 = 0;
/// Debug exception.
pub const DB: u8 = 1;
/// Breakpoint.
pub const BP: u8 = 3;
/// Overflow.
pub const OF: u8 = 4;
/// Invalid opcode.
pub const UD: u8 = 6;
/// Device not available.
pub const NM: u8 = 7;
/// General protection.
pub const GP: u8 = 13;
/// Page fault.
pub const PF: u8 = 14;

/// Vectors whose frame carries an error code: #DF, #TS, #NP, #SS, #GP, #PF, #AC.
const HAS_ERROR_CODE: u32 = 1 << 8 | 1 << 10 | 1 << 11 | 1 << 12 | 1 << 13 | 1 << 14 | 1 << 17;

/// #PF error code bit: the access came from user mode.
const PF_USER: u32 = 1 << 2;
/// Selector error code bit: the index names an IDT gate.
const SELECTOR_IDT: u32 = 1 << 1;

/// What the hardware says of an exception.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exception {
    /// Its vector.
    pub vector: u8,
    /// Its error code; 0 where the vector has none.
    pub error_code: u32,
    /// CR2 for a page fault, DR6 for a debug exception.
    pub detail: u64,
}

/// Deals with an exception that a guest raised.
///
/// # Errors
/// The guest cannot go on.
#[inline(always)]
pub fn exception<M: Machine>(cx: &mut Cx<'_, M>, e: Exception) -> Result<(), GuestBroken> {
    match e.vector {
        PF => page_fault(cx, e),
        GP => general_protection(cx, e),
        UD => invalid_opcode(cx),
        NM => device_not_available(cx),
        DB => debug(cx, e.detail),
        BP | OF => software_interrupt(cx, e.vector, 0),
        vector => inject(cx, vector, e.error_code),
    }
}

/// Hands an exception to the guest's kernel.
///
/// # Errors
/// There is no handler, or the stack does not take the frame.
pub fn inject<M: Machine>(cx: &mut Cx<'_, M>, vector: u8, error_code: u32) -> Result<(), GuestBroken> {
    let gate = cx.vcpu.entry.trap(vector).and_then(super::TrapGate::get);
    let (handler, masking) = gate.ok_or(GuestBroken("exception without a handler"))?;
    let extra = if vector < 32 && HAS_ERROR_CODE >> vector & 1 != 0 {
        Extra::ErrorCode(error_code)
    } else {
        Extra::None
    };
    bounce(cx, handler, masking, extra)
}

/// Hands a page fault to the guest's kernel: CR2 in its `vcpu_info`, the user bit as the guest sees modes.
///
/// # Errors
/// As [`inject`].
#[inline(never)]
pub fn inject_page_fault<M: Machine>(
    cx: &mut Cx<'_, M>,
    cr2: u64,
    error_code: u32,
) -> Result<(), GuestBroken> {
    cx.vcpu.events.store_cr2(cx.m, cr2);
    let code = match cx.vcpu.entry.mode() {
        GuestMode::Kernel => error_code & !PF_USER,
        GuestMode::User => error_code | PF_USER,
    };
    let gate = cx.vcpu.entry.trap(PF).and_then(super::TrapGate::get);
    let (handler, masking) = gate.ok_or(GuestBroken("exception without a handler"))?;
    bounce_inline(cx, handler, masking, Extra::ErrorCode(code))
}

fn page_fault<M: Machine>(cx: &mut Cx<'_, M>, e: Exception) -> Result<(), GuestBroken> {
    match fault::guest_page_fault(cx, GuestVa::new(e.detail), e.error_code) {
        FaultOutcome::Resume => Ok(()),
        FaultOutcome::Inject => inject_page_fault(cx, e.detail, e.error_code),
    }
}

/// #GP: an `int n` that the gate refused, a privileged instruction, or the guest's own mistake.
#[inline(always)]
fn general_protection<M: Machine>(cx: &mut Cx<'_, M>, e: Exception) -> Result<(), GuestBroken> {
    if e.error_code & SELECTOR_IDT != 0 {
        if let Some(vector) = software_interrupt_vector(cx, e.error_code) {
            let permitted = cx.vcpu.entry.trap(vector).is_some_and(|t| t.permits(cx.vcpu.entry.mode()));
            if permitted {
                return software_interrupt(cx, vector, 2);
            }
        }
        return inject(cx, GP, e.error_code);
    }
    if e.error_code != 0 {
        return inject(cx, GP, e.error_code);
    }
    match emulate::privileged_instruction(cx) {
        Emulation::Done => finish_instruction(cx),
        Emulation::Inject { vector: PF, error_code, cr2 } => inject_page_fault(cx, cr2, error_code),
        Emulation::Inject { vector, error_code, .. } => inject(cx, vector, error_code),
        Emulation::NotMine => inject(cx, GP, 0),
    }
}

/// The vector of an `int n` at RIP. The error code should name it; TCG of QEMU 7.2 computes it wrongly
/// (`n * 16 + 2`), so the instruction's own bytes decide where they can be read.
fn software_interrupt_vector<M: Machine>(cx: &Cx<'_, M>, error_code: u32) -> Option<u8> {
    let mut bytes = [0; 2];
    if access_ok(cx.regs.ip(), 2)
        && cx.m.copy_from_guest(&mut bytes, cx.regs.ip()).is_ok()
        && bytes[0] == 0xcd
    {
        return Some(bytes[1]);
    }
    u8::try_from(error_code >> 3).ok()
}

/// `int n`, `int3`, `into`: the guest's gate decides; `skip` bytes of the instruction are still to be passed.
fn software_interrupt<M: Machine>(cx: &mut Cx<'_, M>, vector: u8, skip: u64) -> Result<(), GuestBroken> {
    let permitted = cx.vcpu.entry.trap(vector).is_some_and(|t| t.permits(cx.vcpu.entry.mode()));
    if !permitted {
        let code = u32::from(vector) << 3 | SELECTOR_IDT;
        return inject(cx, GP, code);
    }
    cx.regs.rip = cx.regs.rip.wrapping_add(skip);
    inject(cx, vector, 0)
}

/// `int 0x80`, which has a gate of its own: RIP is already behind the instruction.
///
/// # Errors
/// As [`inject`].
pub fn int80<M: Machine>(cx: &mut Cx<'_, M>) -> Result<(), GuestBroken> {
    if cx.vcpu.entry.trap(0x80).is_some_and(|t| t.get().is_some()) {
        return software_interrupt(cx, 0x80, 0);
    }
    cx.regs.rip = cx.regs.rip.wrapping_sub(2);
    inject(cx, GP, 0x80 << 3 | SELECTOR_IDT)
}

#[inline(always)]
fn invalid_opcode<M: Machine>(cx: &mut Cx<'_, M>) -> Result<(), GuestBroken> {
    match emulate::forced_emulation(cx) {
        Emulation::Done => finish_instruction(cx),
        Emulation::Inject { vector: PF, error_code, cr2 } => inject_page_fault(cx, cr2, error_code),
        Emulation::Inject { vector, error_code, .. } => inject(cx, vector, error_code),
        Emulation::NotMine => inject(cx, UD, 0),
    }
}

/// #NM: the guest set its own CR0.TS; as on hardware under Xen the flag is clear when its handler runs.
fn device_not_available<M: Machine>(cx: &mut Cx<'_, M>) -> Result<(), GuestBroken> {
    cx.m.set_ts(TaskSwitched::Clear);
    if cx.vcpu.entry.task_switched.swap(false, Relaxed) { inject(cx, NM, 0) } else { Ok(()) }
}

fn debug<M: Machine>(cx: &mut Cx<'_, M>, dr6: u64) -> Result<(), GuestBroken> {
    // BT, BS, BD and B0-B3 are what this exception says; the rest of DR6 is fixed.
    const SAYS: u64 = 0xe00f;
    if let Some(slot) = cx.vcpu.entry.debug.get(6) {
        slot.fetch_or(dr6 & SAYS, Relaxed);
    }
    inject(cx, DB, 0)
}

/// After an emulated instruction: RF is spent, and a single-stepping guest gets its trap.
fn finish_instruction<M: Machine>(cx: &mut Cx<'_, M>) -> Result<(), GuestBroken> {
    const SINGLE_STEP: u64 = 1 << 14;
    cx.regs.rflags &= !RFLAGS_RF;
    if cx.regs.rflags & RFLAGS_TF != 0 { debug(cx, SINGLE_STEP) } else { Ok(()) }
}

/// How user mode entered for a system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SystemCall {
    /// SYSCALL in 64-bit mode.
    Syscall64,
    /// SYSCALL in compatibility mode.
    Syscall32,
    /// SYSENTER.
    Sysenter,
}

/// A system call of guest user mode: to the kernel's callback, or the exception that a CPU without the instruction
/// would raise.
///
/// # Errors
/// As [`inject`].
#[inline(always)]
pub fn system_call<M: Machine>(cx: &mut Cx<'_, M>, how: SystemCall) -> Result<(), GuestBroken> {
    if how == SystemCall::Syscall64
        && let Some((handler, masking)) = cx.vcpu.entry.syscall.get()
    {
        return bounce_inline(cx, handler, masking, Extra::None);
    }
    system_call_otherwise(cx, how)
}

#[inline(never)]
fn system_call_otherwise<M: Machine>(cx: &mut Cx<'_, M>, how: SystemCall) -> Result<(), GuestBroken> {
    let entry = &cx.vcpu.entry;
    let gate = match how {
        SystemCall::Syscall64 => entry.syscall.get(),
        SystemCall::Syscall32 => entry.syscall32.get(),
        SystemCall::Sysenter => entry.sysenter.get(),
    };
    match (gate, how) {
        (Some((handler, masking)), _) => bounce(cx, handler, masking, Extra::None),
        (None, SystemCall::Sysenter) => inject(cx, GP, 0),
        (None, _) => {
            cx.regs.rip = cx.regs.rip.wrapping_sub(2);
            inject(cx, UD, 0)
        }
    }
}

/// The way back to the guest faulted (a selector or an address in its frame): its failsafe callback hears of it.
///
/// # Errors
/// There is none.
pub fn failed_return<M: Machine>(cx: &mut Cx<'_, M>, selectors: [u16; 4]) -> Result<(), GuestBroken> {
    let gate = cx.vcpu.entry.failsafe.get();
    let (handler, masking) =
        gate.ok_or(GuestBroken("return to the guest faulted and it has no failsafe callback"))?;
    bounce(cx, handler, masking, Extra::Selectors(selectors))
}
