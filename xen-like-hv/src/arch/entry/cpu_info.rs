//! The per-CPU stack block and the record at its top.
//!
//! A pcpu's stacks lie in one block of [`STACK_SIZE`] bytes, aligned to its size, so that `rsp | (STACK_SIZE - 1)`
//! finds the record from any of them. FS and GS bases belong to guests at all times: the way in neither swaps nor
//! reads them.
//!
//! [`crate::arch::mm::layout::stack_pages`] tells which pages of the block are for what. What is not named there is not
//! mapped and guards its neighbours.
#![expect(unsafe_code, reason = "reads a word of vcpu_info by its address")]

use core::cell::UnsafeCell;
use core::mem::MaybeUninit;
use core::ptr::null_mut;
use core::sync::atomic::Ordering::Relaxed;
use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64};

use hv_core::entry::{TrapGate, VcpuEntry};
use hv_core::mm::VcpuMm;
use hv_core::{Cx, UserRegs};
use pv_abi::shared_info::VCPU_INFO_SIZE;

use crate::arch::mm::layout;
use crate::machine::Metal;
use crate::percpu::PerCpu;

/// Bytes of a pcpu's stack block; its alignment too.
pub(crate) const STACK_SIZE: usize = 128 << 10;
const _: () = assert!(STACK_SIZE as u64 == layout::STACK_SIZE);

/// What an exit to a guest has to look at, as bits of [`CpuInfo::work`].
pub(crate) mod work {
    /// Go through the scheduler.
    pub(crate) const RESCHED: u32 = 1 << 0;
    /// The timer interrupt came.
    pub(crate) const TIMER: u32 = 1 << 1;
    /// A device interrupt for dom0 waits in the pending bitmap.
    pub(crate) const PIRQ: u32 = 1 << 2;
    /// Bytes were received on the console.
    pub(crate) const CONSOLE: u32 = 1 << 3;
    /// Look at the vcpu's pending events.
    pub(crate) const EVENTS: u32 = 1 << 4;
}

/// The record at the top of a pcpu's stack block. Only its own pcpu touches it, but for `work`.
///
/// TSS.RSP0 and the stack of the SYSCALL stubs are the address just behind `regs`, so that what the CPU and the stubs
/// push *is* `regs`.
#[repr(C, align(64))]
pub(crate) struct CpuInfo {
    /// Keeps the end of `regs` 16-byte aligned, as the CPU aligns RSP before it pushes.
    _align: u64,
    /// The guest's registers at the entry that is being dealt with.
    pub(crate) regs: UserRegs,
    /// [`work`] bits; other pcpus set bits.
    pub(crate) work: AtomicU32,
    /// Number of the pcpu.
    pub(crate) cpu: u32,
    /// First word of the current vcpu's `vcpu_info` (bytes pending and mask), or of a word that is always 0.
    pub(crate) upcall_word: AtomicPtr<u64>,
    /// The pcpu's record.
    pub(crate) record: &'static PerCpu,
    /// SYSCALL with a smaller number in RAX is a hypercall of the table: 0 while a guest's user mode runs, or nobody.
    pub(crate) hypercall_limit: AtomicU64,
    /// Gates, mode and kernel stack of the vcpu that runs here. This and the next three are for the short ways; they are
    /// set where the vcpu changes, and valid while one runs.
    pub(crate) entry: AtomicPtr<VcpuEntry>,
    /// Its trap table.
    pub(crate) traps: AtomicPtr<TrapGate>,
    /// Its base pointers.
    pub(crate) mm: AtomicPtr<VcpuMm>,
    /// The behaviours that its domain has switched on.
    pub(crate) assists: AtomicPtr<u64>,
    /// What handlers are given; prepared where the vcpu changes, valid while one runs.
    pub(crate) cx: UnsafeCell<MaybeUninit<Cx<'static, Metal>>>,
}

/// Words of a `vcpu_info`.
const INFO_WORDS: usize = VCPU_INFO_SIZE / 8;

/// What `upcall_word` points to where there is no `vcpu_info`. As large as one: the short ways write the mask and CR2 there,
/// which nobody reads. (A vcpu without `vcpu_info` does not come up; one that loses it is about to end.)
pub(crate) static NO_UPCALL: [AtomicU64; INFO_WORDS] = [const { AtomicU64::new(0) }; INFO_WORDS];

impl CpuInfo {
    /// The value for a pcpu that starts.
    pub(crate) fn new(cpu: usize) -> Self {
        Self {
            _align: 0,
            regs: UserRegs::default(),
            work: AtomicU32::new(0),
            cpu: u32::try_from(cpu).unwrap_or(0),
            upcall_word: AtomicPtr::new(NO_UPCALL[0].as_ptr()),
            record: crate::percpu::record(cpu),
            hypercall_limit: AtomicU64::new(0),
            entry: AtomicPtr::new(null_mut()),
            traps: AtomicPtr::new(null_mut()),
            mm: AtomicPtr::new(null_mut()),
            assists: AtomicPtr::new(null_mut()),
            cx: UnsafeCell::new(MaybeUninit::uninit()),
        }
    }

    /// Where the record lies in the block that starts at `block`.
    pub(crate) const fn address(block: u64) -> u64 {
        block + layout::STACK_SIZE - size_of::<Self>() as u64
    }

    /// Whether the current vcpu has an upcall pending that it does not mask: what the exit path looks at too.
    pub(crate) fn upcall_wanted(&self) -> bool {
        let word = self.upcall_word.load(Relaxed);
        // SAFETY: the word of the current vcpu's `vcpu_info`, in a frame that stays mapped, or a static; always aligned.
        let word = unsafe { AtomicU64::from_ptr(word) };
        word.load(Relaxed) & 0xffff == 1
    }

    /// The stack for entries from ring 3: the address behind `regs`.
    pub(crate) const fn entry_stack(block: u64) -> u64 {
        block + layout::STACK_SIZE - REGS_END_FROM_TOP as u64
    }
}

/// Offset of `regs` in [`CpuInfo`].
pub(crate) const REGS_OFFSET: usize = core::mem::offset_of!(CpuInfo, regs);
/// Offset, from the top of the block, of the address behind `regs`.
pub(crate) const REGS_END_FROM_TOP: usize = size_of::<CpuInfo>() - REGS_OFFSET - size_of::<UserRegs>();

const _: () = assert!(size_of::<CpuInfo>() == 384);
const _: () = assert!((REGS_OFFSET + size_of::<UserRegs>()).is_multiple_of(16));
const _: () = assert!(size_of::<UserRegs>() == 168);

/// Address of the [`CpuInfo`] in the block that `address` lies in.
#[must_use]
pub(crate) const fn cpu_info_address(address: usize) -> usize {
    (address | (STACK_SIZE - 1)) + 1 - size_of::<CpuInfo>()
}
