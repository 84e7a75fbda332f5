//! A pcpu with a TLB of one bit: whether it can still write a certain frame.

use crate::atomic::AtomicU64;
use crate::port::{Cpu, CpuMask, FlushScope, Tlb};
use crate::sync::flush_note::{FlushClock, FlushNote};
use core::sync::atomic::Ordering::SeqCst;

/// The flush clock, when the pcpu was flushed, whether the entry is present, and whether a translation is cached.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) clock: FlushClock,
    pub(crate) note: FlushNote,
    pub(crate) entry: AtomicU64,
    pub(crate) cached: AtomicU64,
}

impl Default for Machine {
    fn default() -> Self {
        let word = AtomicU64::new;
        Self { clock: FlushClock::new(), note: FlushNote::default(), entry: word(0), cached: word(0) }
    }
}

impl Machine {
    /// The pcpu's TLB forgets; what is reachable afterwards is cached again.
    fn forget(&self) {
        self.cached.store(self.entry.load(SeqCst), SeqCst);
    }

    /// The pcpu loads the root below which the entry is.
    pub(crate) fn load_guest_root(&self) {
        self.note.load_guest_root(&self.clock, || self.forget());
    }

    /// The pcpu loads a root without guests.
    pub(crate) fn leave_guest(&self) {
        self.note.load_root_without_guest(|| self.cached.store(0, SeqCst));
    }
}

impl Tlb for Machine {
    fn flush(&self, _cpus: CpuMask, _scope: FlushScope) {
        self.note.flush(&self.clock, || self.forget());
    }
    fn flush_clock(&self) -> u64 {
        self.clock.now()
    }
    fn stale_since(&self, cpus: CpuMask, stamp: u64) -> CpuMask {
        if self.note.covers(stamp) { CpuMask::EMPTY } else { cpus }
    }
}

impl Cpu for Machine {}
