//! Flushing this pcpu's TLB, and the flush clock. [`crate::arch::irq::ipi::flush_on`] reaches the others.
//!
//! Each full flush advances the clock, then flushes, then notes the clock's value in the pcpu's record. A frame that was
//! stamped with a value below the noted one was unmapped before that flush began, so no translation of it is left.
#![expect(unsafe_code, reason = "reloads control registers")]

use crate::arch::cpu::regs;
use crate::percpu;
use core::sync::atomic::{AtomicU64, Ordering};

static CLOCK: AtomicU64 = AtomicU64::new(1);

const CR4_PGE: u64 = 1 << 7;

/// Forgets all translations, global ones and paging-structure caches included (Intel SDM volume 3, 4.10.4.1: a change
/// of CR4.PGE does that).
pub(crate) fn flush_local() {
    // Before the flush: what is stamped from here on is not covered by it. 64 bits do not wrap around.
    let now = CLOCK.fetch_add(1, Ordering::SeqCst) + 1;
    let cr4 = regs::read_cr4();
    // SAFETY: CR4 ends as it was, and PGE does not change what is mapped.
    unsafe {
        regs::write_cr4(cr4 ^ CR4_PGE);
        regs::write_cr4(cr4);
    }
    percpu::this().last_flush.store(now, Ordering::SeqCst);
}

/// The flush clock; 0 never comes, since it stands for "never mapped".
pub(crate) fn clock() -> u64 {
    CLOCK.load(Ordering::SeqCst)
}

/// The clock's value at a pcpu's last full flush.
pub(crate) fn last_flush(cpu: usize) -> u64 {
    percpu::record(cpu).last_flush.load(Ordering::SeqCst)
}
