//! The per-CPU stack block and the record at its top.
//!
//! A pcpu's stacks lie in one block of [`STACK_SIZE`] bytes, aligned to its size, so that `rsp | (STACK_SIZE - 1)`
//! finds the record from any of them. FS and GS bases belong to guests at all times: the way in neither swaps nor
//! reads them.
//!
//! | pages of the block | use |
//! |---|---|
//! | 0 | not mapped: guard |
//! | 1 | NMI stack |
//! | 2 | double-fault stack |
//! | 3 | machine-check stack |
//! | 4 | debug-exception stack (a guest can make #DB arrive on the first instruction of the SYSCALL stub) |
//! | 5 | not mapped: guard of the primary stack |
//! | 6–15 | primary stack, [`CpuInfo`] at its top |

use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64};

use hv_core::UserRegs;

/// Bytes of a pcpu's stack block; its alignment too.
pub const STACK_SIZE: usize = 16 * 4096;

/// Page of the block with the NMI stack.
pub const NMI_STACK_PAGE: usize = 1;
/// Page of the block with the double-fault stack.
pub const DOUBLE_FAULT_STACK_PAGE: usize = 2;
/// Page of the block with the machine-check stack.
pub const MACHINE_CHECK_STACK_PAGE: usize = 3;
/// Page of the block with the debug-exception stack.
pub const DEBUG_STACK_PAGE: usize = 4;
/// Pages of the block that are not mapped.
pub const GUARD_PAGES: [usize; 2] = [0, 5];

/// Interrupt-stack-table slots of the TSS, counted from 1 as in IDT gates.
pub mod ist {
    /// NMI.
    pub const NMI: u8 = 1;
    /// Double fault.
    pub const DOUBLE_FAULT: u8 = 2;
    /// Machine check.
    pub const MACHINE_CHECK: u8 = 3;
    /// Debug exception.
    pub const DEBUG: u8 = 4;
}

/// What an exit to a guest has to look at, as bits of [`CpuInfo::work`].
pub mod work {
    /// Go through the scheduler.
    pub const RESCHED: u32 = 1 << 0;
    /// The timer interrupt came.
    pub const TIMER: u32 = 1 << 1;
    /// A device interrupt for dom0 waits in the pending bitmap.
    pub const PIRQ: u32 = 1 << 2;
    /// Bytes were received on the console.
    pub const CONSOLE: u32 = 1 << 3;
    /// Look at the vcpu's pending events.
    pub const EVENTS: u32 = 1 << 4;
}

/// The record at the top of a pcpu's stack block. Only its own pcpu touches it, but for `work`.
///
/// TSS.RSP0 and the stack of the SYSCALL stubs are the address just behind `regs`, so that what the CPU and the stubs
/// push *is* `regs`.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct CpuInfo {
    /// Keeps the end of `regs` 16-byte aligned, as the CPU aligns RSP before it pushes.
    _align: u64,
    /// The guest's registers at the entry that is being dealt with.
    pub regs: UserRegs,
    /// [`work`] bits; other pcpus set bits.
    pub work: AtomicU32,
    /// Number of the pcpu.
    pub cpu: u32,
    /// First word of the current vcpu's `vcpu_info` (bytes pending and mask), or of a word that is always 0.
    pub upcall_word: AtomicPtr<u64>,
    /// The pcpu's other data.
    pub percpu: AtomicPtr<core::ffi::c_void>,
    /// Where the SYSCALL stub keeps the guest's RSP for a moment.
    pub scratch: AtomicU64,
}

/// Offset of `regs` in [`CpuInfo`].
pub const REGS_OFFSET: usize = core::mem::offset_of!(CpuInfo, regs);
/// Offset, from the top of the block, of the address behind `regs`.
pub const REGS_END_FROM_TOP: usize = size_of::<CpuInfo>() - REGS_OFFSET - size_of::<UserRegs>();

const _: () = assert!(size_of::<CpuInfo>() == 256);
const _: () = assert!((REGS_OFFSET + size_of::<UserRegs>()) % 16 == 0);
const _: () = assert!(size_of::<UserRegs>() == 168);

/// Address of the [`CpuInfo`] in the block that `address` lies in.
#[must_use]
pub const fn cpu_info_address(address: usize) -> usize {
    (address | (STACK_SIZE - 1)) + 1 - size_of::<CpuInfo>()
}
