//! Hypercalls: dispatch, guest pointers, continuations, one file per family.
//!
//! The number is in RAX, the arguments in RDI RSI RDX R10 R8 R9. A call that was preempted leaves its progress in those
//! registers and RIP on the SYSCALL instruction, so that the guest issues it again; no state of it is kept here.
//! Calls from guest user mode never arrive: the entry bounces them to the guest's kernel.

mod bitmap;
pub mod callback_op;
pub mod console_io;
pub mod debugreg;
pub mod domctl;
pub mod guest_ptr;
pub mod memory;
mod memory_exchange;
mod memory_reservation;
mod memory_resource;
#[cfg(test)]
mod memory_tests;
pub mod mmu;
pub mod mmuext;
pub mod multicall;
pub mod physdev_op;
pub mod platform;
pub mod sched_op;
pub mod segment;
pub mod sysctl;
pub mod timer;
pub mod trap_table;
pub mod vcpu_op;
pub mod version;
pub mod vm_assist;

#[cfg(test)]
mod tests;

pub use guest_ptr::GuestPtr;

use pv_abi::errno::Errno;
use pv_abi::hypercall::Hypercall;

use crate::cx::Cx;
use crate::domain::lifecycle;
use crate::entry;
use crate::error::{Args, Exit, HypercallResult};
use crate::evtchn;
use crate::grant;
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
        Exit::Restart(args) => restart(cx.regs, &args),
        Exit::Crash(why) => lifecycle::crash(cx.hv, cx.m, cx.vcpu, cx.regs, why),
        Exit::RegsReplaced => {}
    }
}

/// A handler as a function of its own. Handlers that are inlined here would all pay for the largest one's stack frame,
/// and the table of them would no longer be a jump.
macro_rules! out_of_line {
    ($handler:path) => {{
        #[inline(never)]
        fn handler<M: Machine>(cx: &mut Cx<'_, M>, args: &Args) -> HypercallResult {
            $handler(cx, args)
        }
        handler
    }};
}

fn iret<M: Machine>(cx: &mut Cx<'_, M>, _none: &Args) -> HypercallResult {
    entry::iret::iret(cx)
}

/// A call from the guest itself: everything but the batch is an entry of [`one`].
#[inline(always)]
fn call<M: Machine>(cx: &mut Cx<'_, M>, number: u64, args: &Args) -> HypercallResult {
    match Hypercall::from_raw(number) {
        Some(Hypercall::Multicall) => out_of_line!(multicall::multicall)(cx, args),
        Some(other) => one(cx, other, args),
        None => Err(Exit::Err(Errno::NoSys)),
    }
}

/// Sends the guest back to its SYSCALL. Only the registers of the call's own arguments may change: a caller counts on the
/// others.
fn restart(regs: &mut crate::UserRegs, args: &Args) {
    let count = Hypercall::from_raw(regs.rax).map_or(0, Hypercall::arg_count);
    let slots = [&mut regs.rdi, &mut regs.rsi, &mut regs.rdx, &mut regs.r10, &mut regs.r8];
    for (slot, value) in slots.into_iter().zip(args.0).take(count) {
        *slot = value;
    }
    regs.rip = regs.rip.wrapping_sub(SYSCALL_LEN);
}

/// One call, alone or as an entry of a batch.
#[inline(always)]
fn one<M: Machine>(cx: &mut Cx<'_, M>, number: Hypercall, args: &Args) -> HypercallResult {
    match number {
        Hypercall::Iret => out_of_line!(iret)(cx, args),
        // A batch inside a batch is refused: its progress would have nowhere to be kept.
        Hypercall::Multicall => Err(Exit::Err(Errno::Inval)),
        Hypercall::SetTrapTable => out_of_line!(trap_table::set_trap_table)(cx, args),
        Hypercall::StackSwitch => out_of_line!(segment::stack_switch)(cx, args),
        Hypercall::SetCallbacks => out_of_line!(callback_op::set_callbacks)(cx, args),
        Hypercall::FpuTaskswitch => out_of_line!(segment::fpu_taskswitch)(cx, args),
        Hypercall::SetDebugreg => out_of_line!(debugreg::set_debugreg)(cx, args),
        Hypercall::GetDebugreg => out_of_line!(debugreg::get_debugreg)(cx, args),
        Hypercall::SetTimerOp => out_of_line!(timer::set_timer_op)(cx, args),
        Hypercall::XenVersion => out_of_line!(version::xen_version)(cx, args),
        Hypercall::ConsoleIo => out_of_line!(console_io::console_io)(cx, args),
        Hypercall::VmAssist => out_of_line!(vm_assist::vm_assist)(cx, args),
        Hypercall::VcpuOp => out_of_line!(vcpu_op::vcpu_op)(cx, args),
        Hypercall::SetSegmentBase => out_of_line!(segment::set_segment_base)(cx, args),
        Hypercall::NmiOp => out_of_line!(callback_op::nmi_op)(cx, args),
        Hypercall::SchedOp => out_of_line!(sched_op::sched_op)(cx, args),
        Hypercall::CallbackOp => out_of_line!(callback_op::callback_op)(cx, args),
        Hypercall::EventChannelOp => out_of_line!(evtchn::event_channel_op)(cx, args),
        Hypercall::GrantTableOp => out_of_line!(grant::grant_table_op)(cx, args),
        Hypercall::PhysdevOp => out_of_line!(physdev_op::physdev_op)(cx, args),
        Hypercall::MemoryOp => out_of_line!(memory::memory_op)(cx, args),
        Hypercall::MmuUpdate => out_of_line!(mmu::mmu_update)(cx, args),
        Hypercall::MmuextOp => out_of_line!(mmuext::mmuext_op)(cx, args),
        Hypercall::UpdateVaMapping => out_of_line!(mmu::update_va_mapping)(cx, args),
        Hypercall::UpdateVaMappingOtherdomain => out_of_line!(mmu::update_va_mapping_otherdomain)(cx, args),
        Hypercall::SetGdt => out_of_line!(entry::descriptors::hypercall_set_gdt)(cx, args),
        Hypercall::UpdateDescriptor => {
            out_of_line!(entry::descriptors::hypercall_update_descriptor)(cx, args)
        }
        Hypercall::Sysctl => out_of_line!(sysctl::sysctl)(cx, args),
        Hypercall::Domctl => out_of_line!(domctl::domctl)(cx, args),
        Hypercall::PlatformOp => out_of_line!(platform::platform_op)(cx, args),
    }
}
