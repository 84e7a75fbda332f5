//! Exceptions, the upcall and the other callbacks: registration and dispatch.
//!
//! Every gate masks events at entry, so a handler runs with events masked and decides itself whether to open them. A
//! trap taken in user mode does not run a handler: it ends the [`super::user::run`] that is under way.

use core::sync::atomic::{AtomicPtr, Ordering};

use super::stubs;
use crate::hypercall::{self, raw};

/// The registers of whatever was interrupted, as the stubs lay them on the stack.
///
/// From `rax` on this is the frame of the iret hypercall.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "registers are their own description")]
pub struct TrapFrame {
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub rbp: u64,
    pub rbx: u64,
    /// Vector of the exception, or one of the `SLOT_` numbers.
    pub vector: u64,
    pub rax: u64,
    pub r11: u64,
    pub rcx: u64,
    /// Error code; 0 where the vector has none.
    pub error: u64,
    pub rip: u64,
    /// Selector in the low half; RPL 3 means user mode. The upper half holds the event mask at the time.
    pub cs: u64,
    pub rflags: u64,
    pub rsp: u64,
    pub ss: u64,
}

/// `vector` of an event upcall.
pub const SLOT_EVENT: u64 = 256;
/// `vector` of the failsafe callback: a segment register could not be loaded on the way back.
pub const SLOT_FAILSAFE: u64 = 257;
/// `vector` of a SYSCALL from user mode.
pub const SLOT_SYSCALL: u64 = 258;

/// Exception vectors that the SDK itself looks at.
pub mod vector {
    /// #BP
    pub const BREAKPOINT: u8 = 3;
    /// #OF
    pub const OVERFLOW: u8 = 4;
    /// #UD
    pub const INVALID_OPCODE: u8 = 6;
    /// #GP
    pub const GENERAL_PROTECTION: u8 = 13;
    /// #PF
    pub const PAGE_FAULT: u8 = 14;
    /// int 0x80
    pub const INT80: u8 = 0x80;
}

impl TrapFrame {
    /// Whether the processor was in user mode.
    #[must_use]
    pub const fn from_user(&self) -> bool {
        self.cs & 3 == 3
    }

    /// The error code of a trap that has one, as pushed by the processor.
    #[must_use]
    pub const fn error_code(&self) -> u64 {
        self.error
    }
}

/// What a handler made of its exception.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handled {
    /// Resume with the registers as they now are.
    Resume,
    /// Not mine: the kernel panics with the registers.
    No,
}

/// Handler of one exception vector; it may change the registers it returns to.
pub type TrapHandler = fn(&mut TrapFrame) -> Handled;

/// Stands for the failsafe callback in [`set_handler`]: a segment register or RIP could not be loaded on the way back.
pub const FAILSAFE: u8 = 32;

const VECTORS: usize = 33;
/// Handlers as addresses, so that a trap takes no lock to find its own. Null: none.
static HANDLERS: [AtomicPtr<()>; VECTORS] = [const { AtomicPtr::new(core::ptr::null_mut()) }; VECTORS];

/// Sets the handler of `vector` (below 32, or [`FAILSAFE`]) and returns the one before.
pub fn set_handler(vector: u8, handler: Option<TrapHandler>) -> Option<TrapHandler> {
    let address = handler.map_or(core::ptr::null_mut(), |handle| handle as *mut ());
    let slot = HANDLERS.get(usize::from(vector))?;
    as_handler(slot.swap(address, Ordering::AcqRel))
}

fn as_handler(address: *mut ()) -> Option<TrapHandler> {
    if address.is_null() {
        return None;
    }
    // SAFETY: only `set_handler` stores addresses, and those of such functions.
    Some(unsafe { core::mem::transmute::<*mut (), TrapHandler>(address) })
}

/// Registers the trap table and the callbacks of this vcpu.
pub(crate) fn init_vcpu() -> Result<(), hypercall::Errno> {
    hypercall::set_trap_table(&trap_table())?;
    for entry in stubs::entries() {
        match entry.slot {
            SLOT_EVENT => hypercall::register_callback(CallbackType::Event, entry.address)?,
            SLOT_FAILSAFE => hypercall::register_callback(CallbackType::Failsafe, entry.address)?,
            SLOT_SYSCALL => hypercall::register_callback(CallbackType::Syscall, entry.address)?,
            _ => {}
        }
    }
    Ok(())
}

use pv_abi::callback::CallbackType;
use pv_abi::trap::TrapInfo;

/// The trap table as the hypervisor takes it: one entry per vector, ended by a zero entry.
pub(crate) fn trap_table() -> [TrapInfo; stubs::ENTRY_COUNT] {
    let mut table = [TrapInfo::default(); stubs::ENTRY_COUNT];
    let gates = stubs::entries().iter().filter_map(|e| Some((u8::try_from(e.slot).ok()?, e.address)));
    for (slot, (number, address)) in table.iter_mut().zip(gates) {
        *slot = TrapInfo {
            vector: number,
            flags: gate_flags(number),
            cs: super::KERNEL_CS,
            address,
            ..TrapInfo::default()
        };
    }
    table
}

/// Gate flags: lowest privilege that may raise the vector by `int n`, and "mask events" (bit 2).
const fn gate_flags(number: u8) -> u8 {
    const MASK_EVENTS: u8 = 4;
    match number {
        vector::BREAKPOINT | vector::OVERFLOW | vector::INT80 => MASK_EVENTS | 3,
        _ => MASK_EVENTS,
    }
}

/// Called by every stub. Returning resumes the frame.
pub(super) extern "C" fn dispatch(frame: &mut TrapFrame) {
    if frame.from_user() {
        super::user::trapped(frame);
    }
    if frame.vector == SLOT_EVENT {
        crate::event::upcall();
    } else if !super::probe::fix_up(frame) {
        exception(frame);
    }
}

fn exception(frame: &mut TrapFrame) {
    let vector = if frame.vector == SLOT_FAILSAFE { u64::from(FAILSAFE) } else { frame.vector };
    let slot = usize::try_from(vector).ok().and_then(|vector| HANDLERS.get(vector));
    let handler = slot.and_then(|slot| as_handler(slot.load(Ordering::Acquire)));
    match handler.map(|handle| handle(frame)) {
        Some(Handled::Resume) => {}
        Some(Handled::No) | None => crate::panic::unhandled(frame),
    }
}

/// Address that the last page fault of this vcpu was about.
#[must_use]
pub fn fault_address() -> u64 {
    crate::shared::vcpu_info().arch.cr2.load(core::sync::atomic::Ordering::Relaxed)
}

/// Asks the hypervisor for an upcall if events are pending, by the cheapest hypercall there is.
pub(crate) fn force_upcall() {
    raw::nothing();
}

#[cfg(test)]
mod tests {
    use super::{TrapFrame, gate_flags};
    use core::mem::{offset_of, size_of};
    use pv_abi::trap::IretFrame;

    #[test]
    fn the_upper_part_is_the_frame_of_the_iret_hypercall() {
        let start = offset_of!(TrapFrame, rax);
        assert_eq!(size_of::<TrapFrame>() - start, size_of::<IretFrame>());
        assert_eq!(offset_of!(TrapFrame, error) - start, offset_of!(IretFrame, flags));
        assert_eq!(offset_of!(TrapFrame, rip) - start, offset_of!(IretFrame, rip));
        assert_eq!(offset_of!(TrapFrame, ss) - start, offset_of!(IretFrame, ss));
        // The stubs push as many words; the stack must be aligned at the call.
        assert_eq!(size_of::<TrapFrame>() % 16, 0);
    }

    #[test]
    fn user_mode_may_raise_only_what_it_may_on_hardware() {
        assert_eq!(gate_flags(3) & 3, 3);
        assert_eq!(gate_flags(0x80) & 3, 3);
        assert_eq!(gate_flags(13) & 3, 0);
        assert_eq!(gate_flags(14) & 4, 4);
    }
}
