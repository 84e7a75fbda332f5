//! Running code in user mode.
//!
//! The processor runs guest kernel and guest user at the same ring; the hypervisor tells them apart by the page tables
//! that are loaded, and switches those. [`run`] behaves like a call: it goes to user mode and returns with the reason
//! why that stopped, so a kernel is a loop around it. Page tables come from [`crate::memory::user::UserSpace`].

use core::sync::atomic::Ordering;

use super::trap::{SLOT_EVENT, SLOT_FAILSAFE, SLOT_SYSCALL, TrapFrame, fault_address};
use super::{USER_CS, USER_SS, percpu, stubs};

/// Why user mode ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UserExit {
    /// A SYSCALL instruction. By convention of the hardware rcx holds the return address and r11 the flags.
    Syscall,
    /// An exception.
    Exception {
        /// The vector.
        vector: u8,
        /// Error code, 0 for vectors without one.
        error: u64,
        /// The address that a page fault was about; meaningless for other vectors.
        address: u64,
    },
    /// An event came in and was handled.
    Event,
    /// A selector of the registers could not be loaded.
    BadSegment,
}

/// Registers for a first entry at `rip` with stack `rsp`; events open.
#[must_use]
pub fn start_registers(rip: u64, rsp: u64) -> TrapFrame {
    const INTERRUPTS_ON: u64 = 0x202;
    TrapFrame {
        rip,
        rsp,
        cs: u64::from(USER_CS),
        ss: u64::from(USER_SS),
        rflags: INTERRUPTS_ON,
        ..TrapFrame::default()
    }
}

/// Runs user mode with `registers` until something happens, and leaves in them what it had then.
///
/// The user page tables of this vcpu must have been loaded. Selectors and the interrupt flag are forced to those of
/// user mode, so no register value can start anything else.
pub fn run(registers: &mut TrapFrame) -> UserExit {
    let was_masked = crate::event::mask();
    registers.cs = u64::from(USER_CS);
    registers.ss = u64::from(USER_SS);
    registers.rflags |= 0x200;
    let area = percpu::current();
    let mut entry = *registers;
    area.user_frame.store(registers, Ordering::Relaxed);
    // SAFETY: events are masked, the frame is one of user mode, and traps from there use the vcpu's trap stack.
    unsafe { stubs::user_enter(&raw mut entry, area.user_rsp.as_ptr()) };
    if !was_masked {
        crate::event::unmask();
    }
    reason(registers)
}

fn reason(registers: &TrapFrame) -> UserExit {
    match registers.vector {
        SLOT_SYSCALL => UserExit::Syscall,
        SLOT_EVENT => UserExit::Event,
        SLOT_FAILSAFE => UserExit::BadSegment,
        other => UserExit::Exception {
            vector: u8::try_from(other).unwrap_or(u8::MAX),
            error: registers.error,
            address: fault_address(),
        },
    }
}

/// A trap from user mode: hands the registers to the [`run`] under way and goes back there.
pub(super) fn trapped(frame: &mut TrapFrame) -> ! {
    let area = percpu::current();
    let saved_rsp = area.user_rsp.swap(0, Ordering::Relaxed);
    let registers = area.user_frame.swap(core::ptr::null_mut(), Ordering::Relaxed);
    if saved_rsp == 0 || registers.is_null() {
        crate::panic::unhandled(frame);
    }
    if frame.vector == SLOT_EVENT {
        crate::event::upcall();
    }
    // SAFETY: `run` stored a pointer to its argument and has not returned; it does not touch it meanwhile.
    unsafe { registers.write(*frame) };
    // SAFETY: that `run` is under way on this vcpu, and this is the trap stack.
    unsafe { stubs::user_leave(saved_rsp) }
}

/// Sets the stack on which this vcpu takes traps from user mode.
pub(crate) fn init_trap_stack(top: u64) -> crate::hypercall::Result {
    // SAFETY: the callers pass the top of a stack that serves nothing else.
    unsafe { crate::hypercall::stack_switch(top) }
}
