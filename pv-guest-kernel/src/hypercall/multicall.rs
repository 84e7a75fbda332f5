//! Many hypercalls in one.

use alloc::vec::Vec;

use pv_abi::hypercall::Hypercall;
use pv_abi::ids::DomId;
use pv_abi::mmu::{MmuUpdate, MmuextOp, MulticallEntry, UvmFlags};
use pv_abi::pte::Pte;

use super::{Result, address_of, check, table};

/// A batch under construction. Entries run in order; each has a result of its own, and an error does not stop the rest.
#[derive(Debug, Default)]
pub struct Multicall {
    entries: Vec<MulticallEntry>,
}

impl Multicall {
    /// An empty batch.
    #[must_use]
    pub const fn new() -> Self {
        Self { entries: Vec::new() }
    }

    /// An empty batch with room for `count` entries.
    #[must_use]
    pub fn with_capacity(count: usize) -> Self {
        Self { entries: Vec::with_capacity(count) }
    }

    /// Appends a call.
    ///
    /// # Safety
    /// When the batch runs, what the arguments say must hold, as for the call itself.
    pub unsafe fn push<const N: usize>(&mut self, call: Hypercall, args: [u64; N]) -> &mut Self {
        let mut all = [0; 6];
        for (slot, value) in all.iter_mut().zip(args) {
            *slot = value;
        }
        self.entries.push(MulticallEntry { op: call.raw(), result: 0, args: all });
        self
    }

    /// Appends an `update_va_mapping` that flushes that address on all vcpus.
    ///
    /// # Safety
    /// As for [`super::mmu::mmu_update`].
    pub unsafe fn update_va_mapping(&mut self, va: u64, value: Pte) -> &mut Self {
        let flags = UvmFlags::INVLPG | UvmFlags::ALL;
        // SAFETY: as promised by the caller.
        unsafe { self.push(Hypercall::UpdateVaMapping, [va, value.raw(), flags]) }
    }

    /// Appends an `mmu_update`. The list must live until the batch has run.
    ///
    /// # Safety
    /// As for [`super::mmu::mmu_update`].
    pub unsafe fn mmu_update(&mut self, updates: &'static [MmuUpdate], owner: DomId) -> &mut Self {
        let args = [address_of(updates), updates.len() as u64, 0, owner.raw().into()];
        // SAFETY: as promised by the caller.
        unsafe { self.push(Hypercall::MmuUpdate, args) }
    }

    /// Appends an `mmuext_op`. The list must live until the batch has run.
    ///
    /// # Safety
    /// As for [`super::mmu::mmuext_op`].
    pub unsafe fn mmuext_op(&mut self, operations: &'static [MmuextOp], owner: DomId) -> &mut Self {
        let args = [address_of(operations), operations.len() as u64, 0, owner.raw().into()];
        // SAFETY: as promised by the caller.
        unsafe { self.push(Hypercall::MmuextOp, args) }
    }

    /// How many calls the batch has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether the batch has no calls.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Runs the batch and gives each call's result, in order.
    pub fn run(mut self) -> Result<Vec<Result<u64>>> {
        self.issue()?;
        Ok(self.entries.iter().map(|entry| check(signed(entry.result))).collect())
    }

    /// Runs the batch; the first error of any call is the result. Calls after it have run all the same.
    pub fn run_all(mut self) -> Result {
        self.issue()?;
        self.entries.iter().try_for_each(|entry| check(signed(entry.result)).map(drop))
    }

    fn issue(&mut self) -> Result {
        if self.entries.is_empty() {
            return Ok(());
        }
        let entries: &mut [MulticallEntry] = &mut self.entries;
        // SAFETY: whoever appended a call answered for it; the entries are exclusively borrowed.
        unsafe { table::multicall([address_of(&raw const *entries), entries.len() as u64]) }.map(drop)
    }
}

/// A result as the register held it.
const fn signed(raw: u64) -> i64 {
    i64::from_ne_bytes(raw.to_ne_bytes())
}
