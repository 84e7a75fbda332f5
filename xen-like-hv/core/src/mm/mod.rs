//! Page tables of guests: checked updates, pinning, base pointers, page faults.
//!
//! A guest's tables are the ones that the hardware walks. The guest can read but not write them; every change comes
//! through here and is checked, so that no entry ever leads where the guest may not go.
//!
//! | file | holds |
//! |---|---|
//! | [`pte_rules`] | what an entry may be (pure) |
//! | `leaf` | references of L1 entries |
//! | `work` | validation and devalidation, preemptible |
//! | [`tables`] | references to tables, pins, unfinished work |
//! | [`update`] | changes of single entries |
//! | [`roots`] | base pointers |
//! | [`walk`] | finding the L1 entry of an address |
//! | [`fault`], [`ptwr`] | page faults; writes of guests to their own tables, carried out for them |
//! | [`grant_map`] | entries of granted frames |
//! | [`teardown`] | a dying domain's frames |
//! | [`audit`] | recounting everything |
//!
//! Neighbours: [`crate::frame`] below; the handlers in [`crate::hypercall`] above. Invariants: I1–I6, I9, I10, I12, I14.

use alloc::vec::Vec;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::Relaxed;

use hv_sync::{SpinLock, rank};
use pv_abi::ids::Mfn;
use pv_abi::memory::E820Entry;

pub mod audit;
pub mod fault;
pub mod grant_map;
pub(crate) mod leaf;
pub mod pte_rules;
pub mod ptwr;
pub mod roots;
pub mod tables;
pub mod teardown;
pub mod update;
pub mod walk;
pub(crate) mod work;

#[cfg(test)]
mod random_walk;
#[cfg(test)]
mod stress;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub use leaf::Rights;
pub use tables::{PendingSlot, Pt, TableError};
pub use work::PtMachine;

/// Page-table state of a domain as a whole.
#[derive(Debug)]
pub struct DomainMm {
    /// Work of its teardown.
    pub(crate) teardown: PendingSlot,
    /// The memory map that the toolstack gave it.
    memory_map: SpinLock<Vec<E820Entry>>,
}

impl Default for DomainMm {
    fn default() -> Self {
        Self { teardown: PendingSlot::default(), memory_map: SpinLock::new(rank::DOMAIN, Vec::new()) }
    }
}

impl DomainMm {
    /// A copy of its memory map; empty where it has none.
    #[must_use]
    pub fn memory_map(&self) -> Vec<E820Entry> {
        self.memory_map.lock().clone()
    }

    /// Gives it a memory map.
    pub fn set_memory_map(&self, entries: Vec<E820Entry>) {
        let old = core::mem::replace(&mut *self.memory_map.lock(), entries);
        drop(old);
    }
}

/// Base pointers of a vcpu; 0 is none. Each owns a general and an L4 reference.
#[derive(Debug, Default)]
pub struct VcpuMm {
    kernel_root: AtomicU64,
    user_root: AtomicU64,
    /// What a preempted call left.
    pub(crate) pending: PendingSlot,
}

fn root_of(word: &AtomicU64) -> Option<Mfn> {
    match word.load(Relaxed) {
        0 => None,
        mfn => Some(Mfn::new(mfn)),
    }
}

impl VcpuMm {
    /// Offset of the kernel root's frame number, for the image's entry code.
    pub const KERNEL_ROOT: usize = core::mem::offset_of!(Self, kernel_root);
    /// The same of the user root.
    pub const USER_ROOT: usize = core::mem::offset_of!(Self, user_root);

    /// Root of the page tables on which the guest's kernel runs.
    #[must_use]
    pub fn kernel_root(&self) -> Option<Mfn> {
        root_of(&self.kernel_root)
    }

    /// Root of the page tables on which its user mode runs.
    #[must_use]
    pub fn user_root(&self) -> Option<Mfn> {
        root_of(&self.user_root)
    }

    /// Sets both roots without references.
    #[cfg(test)]
    pub(crate) fn set_roots_for_test(&self, kernel: Mfn, user: Mfn) {
        self.kernel_root.store(kernel.raw(), Relaxed);
        self.user_root.store(user.raw(), Relaxed);
    }
}
