//! Flushing this pcpu's TLB, and the flush clock. [`crate::arch::irq::ipi::flush_on`] reaches the others.
//!
//! What the pcpu's record notes of a flush, and why, is told in `hv-sync` (`flush_note.rs`). Entries of guests are never
//! global, so a load of CR3 is a full flush of them too.
#![expect(unsafe_code, reason = "reloads control registers")]

use crate::arch::cpu::regs;
use crate::percpu::{self, PerCpu};
use hv_sync::FlushClock;

/// The flush clock. The short ways of `arch/entry` advance it with their loads of CR3.
pub(crate) static CLOCK: FlushClock = FlushClock::new();

const CR4_PGE: u64 = 1 << 7;

/// Forgets all translations of guests, paging-structure caches included.
#[inline(always)]
pub(crate) fn flush_local() {
    flush_as(percpu::this());
}

/// [`flush_local`] where the running pcpu's record is at hand.
#[inline(always)]
pub(crate) fn flush_as(this: &PerCpu) {
    // SAFETY: the same root.
    this.last_flush.flush(&CLOCK, || unsafe { regs::write_cr3(regs::read_cr3()) });
}

/// Forgets all translations, global ones too: for changes of the hypervisor's own (SDM volume 3, 4.10.4.1: a change of
/// CR4.PGE does that).
pub(crate) fn flush_own() {
    let cr4 = regs::read_cr4();
    // SAFETY: CR4 ends as it was, and PGE does not change what is mapped.
    unsafe {
        regs::write_cr4(cr4 ^ CR4_PGE);
        regs::write_cr4(cr4);
    }
}

/// Loads a root of a guest, which drops all translations of guests (SDM volume 3, 4.10.4.1: MOV to CR3).
///
/// # Safety
/// It must hold the hypervisor's sixteen entries and stay a page table while it is loaded.
pub(crate) unsafe fn load_guest_root(at: u64) {
    // SAFETY: the caller vouches for the table.
    percpu::this().last_flush.load_guest_root(&CLOCK, || unsafe { regs::write_cr3(at) });
}

/// Loads a root without anything of a guest in it.
///
/// # Safety
/// It must map all of the hypervisor and stay a page table while it is loaded.
pub(crate) unsafe fn load_root_without_guest(at: u64) {
    // SAFETY: the caller vouches for the table.
    percpu::this().last_flush.load_root_without_guest(|| unsafe { regs::write_cr3(at) });
}

/// The flush clock; 0 never comes, since it stands for "never mapped".
pub(crate) fn clock() -> u64 {
    CLOCK.now()
}

/// Whether a pcpu has forgotten what was stamped with `stamp`.
pub(crate) fn has_forgotten(cpu: usize, stamp: u64) -> bool {
    percpu::record(cpu).last_flush.covers(stamp)
}
