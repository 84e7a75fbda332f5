//! What each pcpu has for itself: a record in a table, and `CpuInfo` at the end of its stack block.
//!
//! The hypervisor never uses GS or FS for itself; they belong to the guest. `CpuInfo` is found from the stack pointer:
//! a block is aligned to its size. Records are found by number too, since other pcpus leave requests in them.
#![expect(unsafe_code, reason = "finds the per-CPU area from the stack pointer")]

use crate::arch::entry::cpu_info::{self, CpuInfo};
use core::arch::asm;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use hv_sync::{FlushNote, Tickets};

/// Most pcpus that are used. Masks of pcpus are `u64`.
pub(crate) const MAX_PCPUS: usize = 64;

/// Work that an interrupt left for the exit loop of its pcpu.
pub(crate) use crate::arch::entry::cpu_info::work as softirq;

/// A pcpu's record. Each field says who writes it.
#[repr(C, align(128))]
#[derive(Debug)]
pub(crate) struct PerCpu {
    /// Local APIC id; written once, before the pcpu starts.
    pub(crate) apic_id: AtomicU32,
    /// The firmware's number.
    pub(crate) acpi_id: AtomicU32,
    /// Set by the pcpu itself once it can take interrupts.
    pub(crate) online: AtomicBool,
    /// Machine address of the page with the hypervisor's own descriptors; written once, before the pcpu starts.
    pub(crate) descriptors: AtomicU64,
    /// Flush clock at the start of the last full flush, written by this pcpu.
    pub(crate) last_flush: FlushNote,
    /// Requests for a TLB flush of this pcpu.
    pub(crate) flushes: Tickets,
    /// Device interrupts, by global system interrupt, that arrived here and were not handed on.
    pub(crate) pirq_pending: [AtomicU64; 4],
    /// When the APIC timer is to fire, in the clock's nanoseconds; 0 for never. Written by this pcpu.
    pub(crate) deadline_ns: AtomicU64,
    /// The page-table entries of the pcpu's GDT and LDT windows: 32 entries of an L1 table.
    pub(crate) window_entries: AtomicPtr<AtomicU64>,
    /// How many pages of the GDT's and the LDT's window may hold something, written by this pcpu.
    pub(crate) windows_used: [AtomicUsize; 2],
    /// Interrupts taken, for the debug keys.
    pub(crate) interrupts: AtomicU64,
}

impl PerCpu {
    const fn new() -> Self {
        PerCpu {
            apic_id: AtomicU32::new(0),
            acpi_id: AtomicU32::new(0),
            online: AtomicBool::new(false),
            descriptors: AtomicU64::new(0),
            last_flush: FlushNote::new(),
            flushes: Tickets::new(),
            pirq_pending: [const { AtomicU64::new(0) }; 4],
            deadline_ns: AtomicU64::new(0),
            window_entries: AtomicPtr::new(core::ptr::null_mut()),
            windows_used: [const { AtomicUsize::new(usize::MAX) }; 2],
            interrupts: AtomicU64::new(0),
        }
    }
}

static RECORDS: [PerCpu; MAX_PCPUS] = [const { PerCpu::new() }; MAX_PCPUS];

/// How many pcpus are in use; they are numbered from 0 without gaps.
static COUNT: AtomicUsize = AtomicUsize::new(1);

/// How many pcpus are in use.
pub(crate) fn count() -> usize {
    COUNT.load(Ordering::Acquire)
}

/// Says how many pcpus are in use; called by the boot processor as others come up.
pub(crate) fn set_count(count: usize) {
    COUNT.store(count.min(MAX_PCPUS), Ordering::Release);
}

/// The mask of all pcpus in use.
pub(crate) fn all_mask() -> u64 {
    u64::MAX >> (64 - count().clamp(1, MAX_PCPUS))
}

/// The record of a pcpu; a number out of range is a defect of the caller.
pub(crate) fn record(cpu: usize) -> &'static PerCpu {
    &RECORDS[cpu]
}

/// Set once the boot processor runs on its stack block; before that there is no `CpuInfo`.
static READY: AtomicBool = AtomicBool::new(false);

/// From now on every pcpu runs on a stack block.
pub(crate) fn set_ready() {
    READY.store(true, Ordering::Release);
}

/// The running pcpu's `CpuInfo`, once it runs on its stack block.
#[inline]
fn info() -> Option<&'static CpuInfo> {
    if !READY.load(Ordering::Relaxed) {
        return None;
    }
    let stack: usize;
    // SAFETY: reads the stack pointer.
    unsafe { asm!("mov {}, rsp", out(reg) stack, options(nomem, nostack, preserves_flags)) }
    let at: *const CpuInfo = core::ptr::with_exposed_provenance(cpu_info::cpu_info_address(stack));
    // SAFETY: every pcpu runs on a stack block, whose end holds a CpuInfo, mapped for good. Its shared fields are atomics;
    // the rest is written before the pcpu starts, but for `regs`, which is only reached through raw pointers.
    Some(unsafe { &*at })
}

/// Notes work for this pcpu's exit loop.
pub(crate) fn raise(bits: u32) {
    if let Some(info) = info() {
        info.work.fetch_or(bits, Ordering::Relaxed);
    }
}

/// Takes all work noted for this pcpu.
pub(crate) fn take_work() -> u32 {
    info().map_or(0, |info| info.work.swap(0, Ordering::Relaxed))
}

/// The running pcpu's record.
#[inline]
pub(crate) fn this() -> &'static PerCpu {
    info().map_or(record(0), |info| info.record)
}

/// The running pcpu's number.
#[inline]
pub(crate) fn this_cpu() -> usize {
    info().and_then(|info| usize::try_from(info.cpu).ok()).unwrap_or(0)
}
