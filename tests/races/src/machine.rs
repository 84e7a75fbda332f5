//! A pcpu with a TLB of one bit: whether it can still write a certain frame.

use crate::atomic::AtomicU64;
use crate::port::{Cpu, CpuMask, FlushScope, Tlb};
use core::sync::atomic::Ordering::SeqCst;

/// The flush clock, when the pcpu was flushed, whether the entry is present, and whether a translation is cached.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) clock: AtomicU64,
    pub(crate) flushed_at: AtomicU64,
    pub(crate) entry: AtomicU64,
    pub(crate) cached: AtomicU64,
}

impl Default for Machine {
    fn default() -> Self {
        let word = AtomicU64::new;
        Self { clock: word(1), flushed_at: word(0), entry: word(0), cached: word(0) }
    }
}

impl Tlb for Machine {
    /// As the image does it: the clock, the flush, the note. What is reachable afterwards is cached again.
    fn flush(&self, _cpus: CpuMask, _scope: FlushScope) {
        let now = self.clock.fetch_add(1, SeqCst) + 1;
        self.cached.store(self.entry.load(SeqCst), SeqCst);
        self.flushed_at.store(now, SeqCst);
    }
    fn flush_clock(&self) -> u64 {
        self.clock.load(SeqCst)
    }
    fn stale_since(&self, cpus: CpuMask, stamp: u64) -> CpuMask {
        if self.flushed_at.load(SeqCst) <= stamp { cpus } else { CpuMask::EMPTY }
    }
}

impl Cpu for Machine {
    fn online(&self) -> CpuMask {
        CpuMask::from_bits(1)
    }
}
