//! Flushing this pcpu's TLB, and the flush clock. [`crate::arch::irq::ipi::flush_on`] reaches the others.
//!
//! Each full flush advances the clock, then flushes, then notes the clock's value in the pcpu's record. A frame that was
//! stamped with a value below the noted one was unmapped before that flush began, so no translation of it is left.
//! Entries of guests are never global, so a load of CR3 is a full flush of them too. A pcpu without a guest's root has
//! no translation of a guest; it notes [`NO_GUEST`], so that nobody interrupts it for a flush.
#![expect(unsafe_code, reason = "reloads control registers")]

use crate::arch::cpu::regs;
use crate::percpu;
use core::sync::atomic::{AtomicU64, Ordering};

/// The flush clock. The short ways of `arch/entry` advance it with their loads of CR3.
pub(crate) static CLOCK: AtomicU64 = AtomicU64::new(1);

const CR4_PGE: u64 = 1 << 7;

/// What a pcpu notes while no guest's root is loaded: later than every stamp.
const NO_GUEST: u64 = u64::MAX;

/// Forgets all translations of guests, paging-structure caches included.
pub(crate) fn flush_local() {
    // Before the flush: what is stamped from here on is not covered by it. 64 bits do not wrap around.
    let now = CLOCK.fetch_add(1, Ordering::SeqCst) + 1;
    let noted = &percpu::this().last_flush;
    let without_guest = noted.load(Ordering::SeqCst) == NO_GUEST;
    // SAFETY: the same root.
    unsafe { regs::write_cr3(regs::read_cr3()) };
    if !without_guest {
        noted.store(now, Ordering::SeqCst);
    }
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
    let noted = &percpu::this().last_flush;
    let now = CLOCK.fetch_add(1, Ordering::SeqCst) + 1;
    if noted.load(Ordering::SeqCst) == NO_GUEST {
        // From here on there may be translations; what was unmapped before is not in the tables any more.
        noted.store(now, Ordering::SeqCst);
    }
    // SAFETY: the caller vouches for the table.
    unsafe { regs::write_cr3(at) };
    // Not before: until the load, translations of the former root are left.
    noted.store(now, Ordering::SeqCst);
}

/// Loads a root without anything of a guest in it.
///
/// # Safety
/// It must map all of the hypervisor and stay a page table while it is loaded.
pub(crate) unsafe fn load_root_without_guest(at: u64) {
    // SAFETY: the caller vouches for the table.
    unsafe { regs::write_cr3(at) };
    percpu::this().last_flush.store(NO_GUEST, Ordering::SeqCst);
}

/// The flush clock; 0 never comes, since it stands for "never mapped".
pub(crate) fn clock() -> u64 {
    CLOCK.load(Ordering::SeqCst)
}

/// The clock's value at a pcpu's last full flush.
pub(crate) fn last_flush(cpu: usize) -> u64 {
    percpu::record(cpu).last_flush.load(Ordering::SeqCst)
}
