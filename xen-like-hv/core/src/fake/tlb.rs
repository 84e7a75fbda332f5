//! The translations that the pcpus of a fake machine hold: the most that a processor may cache.
//!
//! A processor may keep any translation that was ever reachable since its last flush, and each table that led to one
//! (SDM volume 3, 4.10). Here it keeps all of them. What a walk finds in a table that is cached but no longer reachable
//! counts too: the walker goes on from the cached pointer and reads what lies there *now*.

use alloc::collections::BTreeSet;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::{Relaxed, SeqCst};

use hv_sync::{SpinLock, rank};
use pv_abi::ids::Mfn;
use pv_abi::pte::{Level, Pte, PteFlags};

use crate::mm::pte_rules::is_guest_slot;
use crate::port::{CpuMask, FrameWords};

/// pcpus of a fake machine.
pub const PCPUS: usize = 2;

/// What one pcpu holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cached {
    /// The root that is loaded.
    pub root: Option<Mfn>,
    /// Tables that a walk may start from, with the level as which it reads them.
    pub tables: BTreeSet<(Mfn, u32)>,
    /// Frames that the guest can read through this pcpu.
    pub readable: BTreeSet<Mfn>,
    /// Frames that the guest can write through this pcpu.
    pub writable: BTreeSet<Mfn>,
}

/// The flush clock and, where a test asks for them, the translations.
#[derive(Debug)]
pub struct FakeTlb {
    clock: AtomicU64,
    flushed_at: [AtomicU64; PCPUS],
    cached: SpinLock<Option<[Cached; PCPUS]>>,
}

impl Default for FakeTlb {
    fn default() -> Self {
        Self {
            clock: AtomicU64::new(1),
            flushed_at: [const { AtomicU64::new(0) }; PCPUS],
            cached: SpinLock::new(rank::CONSOLE, None),
        }
    }
}

impl FakeTlb {
    /// From now on translations are kept.
    pub fn watch(&self) {
        *self.cached.lock() = Some(<[Cached; PCPUS]>::default());
    }

    /// What the pcpus hold; nothing where no test asked for it.
    #[must_use]
    pub fn cached(&self) -> Option<[Cached; PCPUS]> {
        self.cached.lock().clone()
    }

    /// Whether a guest can write a frame through any pcpu.
    #[must_use]
    pub fn can_write(&self, mfn: Mfn) -> bool {
        self.cached.lock().iter().flatten().any(|c| c.writable.contains(&mfn))
    }

    /// The flush clock.
    pub(super) fn clock(&self) -> u64 {
        self.clock.load(SeqCst)
    }

    /// The pcpus of `cpus` that had no flush since `stamp`.
    pub(super) fn stale_since(&self, cpus: CpuMask, stamp: u64) -> CpuMask {
        let stale = |n: &usize| self.flushed_at.get(*n).is_some_and(|at| at.load(SeqCst) <= stamp);
        let bits = (0..PCPUS).filter(stale).fold(0, |bits, n| bits | 1 << n);
        cpus.intersection(CpuMask::from_bits(bits))
    }

    /// A full flush on `cpus`; what is reachable may be cached again at once.
    pub(super) fn flush(&self, cpus: CpuMask, memory: &[alloc::boxed::Box<FrameWords>]) {
        let now = self.clock.fetch_add(1, SeqCst) + 1;
        let mut cached = self.cached.lock();
        for (n, at) in (0..PCPUS).zip(&self.flushed_at) {
            if cpus.bits() >> n & 1 == 0 {
                continue;
            }
            at.store(now, SeqCst);
            if let Some(c) = cached.as_mut().and_then(|all| all.get_mut(n)) {
                let root = c.root;
                *c = Cached { root, ..Cached::default() };
                fill(c, memory);
            }
        }
    }

    /// Loads a root, which flushes that pcpu.
    pub(super) fn load_root(&self, cpu: usize, root: Option<Mfn>, memory: &[alloc::boxed::Box<FrameWords>]) {
        if let Some(c) = self.cached.lock().as_mut().and_then(|all| all.get_mut(cpu)) {
            c.root = root;
        }
        self.flush(CpuMask::from_bits(1 << cpu), memory);
    }

    /// Lets every pcpu cache all that it can reach now.
    pub(super) fn fill_all(&self, memory: &[alloc::boxed::Box<FrameWords>]) {
        if let Some(all) = self.cached.lock().as_mut() {
            all.iter_mut().for_each(|c| fill(c, memory));
        }
    }
}

/// Adds what the loaded root and the cached tables lead to.
fn fill(c: &mut Cached, memory: &[alloc::boxed::Box<FrameWords>]) {
    c.tables.extend(c.root.map(|root| (root, 4)));
    for level in [Level::L4, Level::L3, Level::L2, Level::L1] {
        let number = level.number();
        let tables: alloc::vec::Vec<_> = c.tables.iter().filter(|t| t.1 == number).copied().collect();
        for (table, _) in tables {
            let words = usize::try_from(table.raw()).ok().and_then(|n| memory.get(n));
            for (index, word) in words.iter().flat_map(|w| w.iter().enumerate()) {
                let pte = Pte::from_raw(word.load(Relaxed));
                if !pte.is_present() || !is_guest_slot(level, index) {
                    continue;
                }
                if level != Level::L1 {
                    c.tables.insert((pte.mfn(), number - 1));
                    continue;
                }
                c.readable.insert(pte.mfn());
                if pte.flags().contains(PteFlags::RW) {
                    c.writable.insert(pte.mfn());
                }
            }
        }
    }
}
