//! Page-table hypercalls.
//!
//! All of them are unsafe: a page-table entry decides what memory an address means.

use pv_abi::ids::{DomId, MachAddr, Mfn};
use pv_abi::mmu::{MmuUpdate, MmuUpdateCmd, MmuextCmd, MmuextOp, UvmFlags};
use pv_abi::pte::Pte;

use super::{Result, address_of, table};

/// An update of the entry at machine address `entry`.
#[must_use]
pub const fn update(entry: MachAddr, value: Pte) -> MmuUpdate {
    MmuUpdate { ptr: entry.raw() | MmuUpdateCmd::NormalPtUpdate as u64, val: value.raw() }
}

/// An extended operation on a frame.
#[must_use]
pub fn on_frame(cmd: MmuextCmd, mfn: Mfn) -> MmuextOp {
    MmuextOp { cmd: cmd.raw(), arg1: mfn.raw(), ..MmuextOp::default() }
}

/// An extended operation on an address.
#[must_use]
pub fn on_address(cmd: MmuextCmd, va: u64) -> MmuextOp {
    MmuextOp { cmd: cmd.raw(), arg1: va, ..MmuextOp::default() }
}

/// Carries out `updates` in order; `owner` is the domain whose frames the new values name. On an error the ones before
/// have been done.
///
/// # Safety
/// No address that Rust code uses may change its meaning or lose a right that the code needs.
pub unsafe fn mmu_update(updates: &[MmuUpdate], owner: DomId) -> Result {
    // SAFETY: as promised by the caller; the list is only read.
    unsafe { table::mmu_update([address_of(updates), updates.len() as u64, 0, owner.raw().into()]) }.map(drop)
}

/// Carries out extended operations in order, on frames of `owner`.
///
/// # Safety
/// As for [`mmu_update`]: loading a page table must keep the kernel mapped.
pub unsafe fn mmuext_op(operations: &[MmuextOp], owner: DomId) -> Result {
    // SAFETY: as promised by the caller; the list is only read.
    unsafe { table::mmuext_op([address_of(operations), operations.len() as u64, 0, owner.raw().into()]) }
        .map(drop)
}

/// Sets the L1 entry of `va` in the page tables that are loaded, and flushes that address on all vcpus.
///
/// # Safety
/// As for [`mmu_update`].
pub unsafe fn update_va_mapping(va: u64, value: Pte) -> Result {
    // SAFETY: as promised by the caller.
    unsafe { table::update_va_mapping([va, value.raw(), UvmFlags::INVLPG | UvmFlags::ALL]) }.map(drop)
}
