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

use core::marker::PhantomData;

use pv_abi::errno::Errno;
use pv_abi::hypercall::Hypercall;

use crate::cx::Cx;
use crate::domain::lifecycle;
use crate::entry;
use crate::error::{Args, Exit, HypercallResult, Reply};
use crate::evtchn;
use crate::grant;
use crate::port::Machine;

/// Bytes of the SYSCALL instruction.
const SYSCALL_LEN: u64 = 2;

/// Numbers that the table has room for; a power of two, so that an index can be masked. The last one stands for no call.
pub const NUMBERS: usize = 64;
const _: () = assert!(Hypercall::from_raw(NUMBERS as u64 - 1).is_none());

/// A call as the entry stub makes it: the guest's RDI, RSI, RDX, R10 and R8, all but one of which are where a function
/// takes its arguments, and the context behind them.
pub type Handler<M> = extern "C" fn(u64, u64, u64, u64, u64, &mut Cx<'_, M>) -> Reply;

/// Carries out the hypercall that the guest's registers describe, and puts its result there: what the entry stub does,
/// in words.
pub fn dispatch<M: Machine>(cx: &mut Cx<'_, M>) {
    let r = &cx.regs;
    let (number, [a, b, c, d, e]) = (r.rax, [r.rdi, r.rsi, r.rdx, r.r10, r.r8]);
    let reply = handler_of(&Table::<M>::SINGLE, number)(a, b, c, d, e, cx);
    conclude(cx, reply);
}

/// Puts the result of a call into the guest's registers.
pub fn conclude<M: Machine>(cx: &mut Cx<'_, M>, reply: Reply) {
    if reply.parked == 0 {
        cx.regs.rax = reply.value;
    } else {
        finish(cx);
    }
}

/// Ends a call, or another entry, as [`Cx::exit`] says.
#[cold]
pub fn finish<M: Machine>(cx: &mut Cx<'_, M>) {
    match cx.exit {
        Exit::Err(e) => cx.regs.rax = e.to_ret().cast_unsigned(),
        Exit::Restart(args) => restart(cx.regs, &args),
        Exit::Crash(why) => lifecycle::crash(cx.hv, cx.m, cx.vcpu, cx.regs, why),
        Exit::RegsReplaced => {}
    }
}

/// Makes two registers of the result of handler `name`.
#[inline(always)]
fn reply<M: Machine>(cx: &mut Cx<'_, M>, result: HypercallResult, name: &'static str) -> Reply {
    match result {
        Ok(value) => Reply::value(value),
        Err(Exit::Err(Errno::NoSys)) => not_offered(cx, name),
        Err(Exit::Err(e)) => Reply::errno(e),
        Err(Exit::RegsReplaced) => {
            cx.exit = Exit::RegsReplaced;
            Reply::REPLACED
        }
        Err(other) => {
            cx.exit = other;
            Reply::PARKED
        }
    }
}

/// Says with `guest_loglvl=debug` what a guest has asked for in vain: whoever ports a kernel wants to know.
#[cold]
#[inline(never)]
fn not_offered<M: Machine>(cx: &Cx<'_, M>, name: &'static str) -> Reply {
    let (dom, vcpu, r) = (cx.dom.id, cx.vcpu.id, &cx.regs);
    // Of an entry of a batch no argument is known here: to keep one would cost every call a register.
    if r.rax == Hypercall::Multicall.raw() {
        log::debug!(target: "guest", "{dom}{vcpu}: {name}, in a batch: ENOSYS");
    } else {
        log::debug!(target: "guest", "{dom}{vcpu}: {name}, {:#x}: ENOSYS (call {})", r.rdi, r.rax);
    }
    Reply::errno(Errno::NoSys)
}

/// The table's entry for a handler.
macro_rules! entry {
    ($handler:path) => {{
        // What has a way of its own must not get this one's stack frame.
        #[inline(never)]
        extern "C" fn entry<M: Machine>(a: u64, b: u64, c: u64, d: u64, e: u64, cx: &mut Cx<'_, M>) -> Reply {
            let result = $handler(cx, &Args([a, b, c, d, e, 0]));
            reply(cx, result, stringify!($handler))
        }
        entry::<M>
    }};
    // Some commands of the call have a way of their own ahead of the others, without their copy of the arguments; the most usual
    // one first.
    ($handler:path, if $is_hot:path => $hot:path $(, $($more:tt)+)?) => {{
        extern "C" fn entry<M: Machine>(a: u64, b: u64, c: u64, d: u64, e: u64, cx: &mut Cx<'_, M>) -> Reply {
            let args = Args([a, b, c, d, e, 0]);
            if !$is_hot(&args) {
                let others: Handler<M> = entry!($handler $(, $($more)+)?);
                return others(a, b, c, d, e, cx);
            }
            let result = $hot(cx, &args);
            reply(cx, result, stringify!($handler))
        }
        entry::<M>
    }};
    // The same where each of several is long: none of them gets another one's stack frame, and the choice needs none.
    ($handler:path, if $may_be_hot:path, $(and $is_hot:path => $hot:path),+) => {{
        extern "C" fn entry<M: Machine>(a: u64, b: u64, c: u64, d: u64, e: u64, cx: &mut Cx<'_, M>) -> Reply {
            let args = Args([a, b, c, d, e, 0]);
            if $may_be_hot(&args) {
                $(if $is_hot(&args) {
                    let hot: Handler<M> = entry!($hot);
                    return hot(a, b, c, d, e, cx);
                })+
            }
            let others: Handler<M> = entry!($handler);
            others(a, b, c, d, e, cx)
        }
        entry::<M>
    }};
}

#[inline(always)]
fn iret<M: Machine>(cx: &mut Cx<'_, M>, _none: &Args) -> HypercallResult {
    entry::iret::iret(cx)
}

extern "C" fn unknown<M: Machine>(_: u64, _: u64, _: u64, _: u64, _: u64, cx: &mut Cx<'_, M>) -> Reply {
    not_offered(cx, "a number that stands for no call")
}

/// A batch inside a batch is refused: its progress would have nowhere to be kept.
extern "C" fn nested_batch<M: Machine>(_: u64, _: u64, _: u64, _: u64, _: u64, _: &mut Cx<'_, M>) -> Reply {
    Reply::errno(Errno::Inval)
}

/// Handlers by number.
#[derive(Debug)]
pub struct Table<M>(PhantomData<M>);

impl<M: Machine> Table<M> {
    /// For calls from the guest itself.
    pub const SINGLE: [Handler<M>; NUMBERS] = Self::fill(handler::<M>(Hypercall::Multicall));
    /// For the entries of a batch.
    pub const BATCHED: [Handler<M>; NUMBERS] = Self::fill(nested_batch::<M>);

    const fn fill(multicall: Handler<M>) -> [Handler<M>; NUMBERS] {
        let mut table: [Handler<M>; NUMBERS] = [unknown::<M>; NUMBERS];
        let mut n = 0;
        while n < NUMBERS {
            table[n] = match Hypercall::from_raw(n as u64) {
                Some(Hypercall::Multicall) => multicall,
                Some(other) => handler::<M>(other),
                None => unknown::<M>,
            };
            n += 1;
        }
        table
    }
}

/// The handler of a number out of one of the tables.
#[inline(always)]
fn handler_of<M: Machine>(table: &[Handler<M>; NUMBERS], number: u64) -> Handler<M> {
    usize::try_from(number).ok().and_then(|n| table.get(n)).copied().unwrap_or(unknown::<M>)
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

/// The handler of each call of the ABI's table: one that is missing does not compile.
const fn handler<M: Machine>(number: Hypercall) -> Handler<M> {
    match number {
        Hypercall::Iret => entry!(iret),
        Hypercall::Multicall => multicall::multicall::<M>,
        Hypercall::SetTrapTable => entry!(trap_table::set_trap_table),
        Hypercall::StackSwitch => entry!(segment::stack_switch),
        Hypercall::SetCallbacks => entry!(callback_op::set_callbacks),
        Hypercall::FpuTaskswitch => entry!(segment::fpu_taskswitch),
        Hypercall::SetDebugreg => entry!(debugreg::set_debugreg),
        Hypercall::GetDebugreg => entry!(debugreg::get_debugreg),
        Hypercall::SetTimerOp => entry!(timer::set_timer_op),
        Hypercall::XenVersion => entry!(version::xen_version, if version::is_plain => version::plain),
        Hypercall::ConsoleIo => entry!(console_io::console_io),
        Hypercall::VmAssist => entry!(vm_assist::vm_assist),
        Hypercall::VcpuOp => entry!(vcpu_op::vcpu_op),
        Hypercall::SetSegmentBase => entry!(segment::set_segment_base),
        Hypercall::NmiOp => entry!(callback_op::nmi_op),
        Hypercall::SchedOp => entry!(sched_op::sched_op),
        Hypercall::CallbackOp => entry!(callback_op::callback_op),
        Hypercall::EventChannelOp => {
            entry!(
                evtchn::event_channel_op,
                if evtchn::is_send => evtchn::send_op,
                if evtchn::is_unmask => evtchn::unmask_op,
                if evtchn::is_status => evtchn::status_op
            )
        }
        Hypercall::GrantTableOp => {
            entry!(
                grant::grant_table_op,
                if grant::is_one,
                and grant::is_map => grant::one_map,
                and grant::is_unmap => grant::one_unmap,
                and grant::is_copy => grant::one_copy
            )
        }
        Hypercall::PhysdevOp => entry!(physdev_op::physdev_op),
        Hypercall::MemoryOp => entry!(memory::memory_op),
        Hypercall::MmuUpdate => entry!(mmu::mmu_update, if mmu::is_single => mmu::single),
        Hypercall::MmuextOp => entry!(mmuext::mmuext_op, if mmuext::is_single => mmuext::single),
        Hypercall::UpdateVaMapping => entry!(mmu::update_va_mapping),
        Hypercall::UpdateVaMappingOtherdomain => entry!(mmu::update_va_mapping_otherdomain),
        Hypercall::SetGdt => entry!(entry::descriptors::hypercall_set_gdt),
        Hypercall::UpdateDescriptor => {
            entry!(entry::descriptors::hypercall_update_descriptor)
        }
        Hypercall::Sysctl => entry!(sysctl::sysctl),
        Hypercall::Domctl => entry!(domctl::domctl),
        Hypercall::PlatformOp => entry!(platform::platform_op),
    }
}
